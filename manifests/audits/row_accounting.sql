-- Every source row became exactly one sample or one reject: kept + rejected = read, in every unit.
--
-- A row is a unit whose books do not balance. `read`, `kept`, `rejected` and `damaged` are what the build counted
-- (build.json); `samples`, `reject_rows` and `damaged_rows` are the rows found in its Parquet parts. A unit that occurs
-- in the parts alone has NULL in the former.
WITH
found_samples AS (
    SELECT build, unit, count(*) AS samples FROM samples GROUP BY ALL
),
found_rejects AS (
    SELECT build, unit, count(*) AS reject_rows, count(*) FILTER (damaged) AS damaged_rows FROM rejects GROUP BY ALL
),
books AS (
    SELECT build, unit, u."read", u.kept, u.rejected, u.damaged, coalesce(s.samples, 0) AS samples,
           coalesce(r.reject_rows, 0) AS reject_rows, coalesce(r.damaged_rows, 0) AS damaged_rows
    FROM units u
    FULL JOIN found_samples s USING (build, unit)
    FULL JOIN found_rejects r USING (build, unit)
)
SELECT build, unit, "read", kept, rejected, damaged, samples, reject_rows, damaged_rows
FROM books
WHERE samples + reject_rows IS DISTINCT FROM "read"
   OR samples IS DISTINCT FROM kept
   OR reject_rows IS DISTINCT FROM rejected
   OR damaged_rows IS DISTINCT FROM damaged
ORDER BY build, unit
