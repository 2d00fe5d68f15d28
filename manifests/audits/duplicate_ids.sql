-- No sample id occurs twice in one build.
--
-- A row is a sample id with the number of its rows and the units they are in.
WITH suspects AS (
    -- Numbers instead of texts keep the large grouping small. Equal ids have equal numbers, so nothing is missed; that
    -- the ids are equal, and not only their numbers, is seen to below.
    SELECT hash(build, sample_id) AS number FROM samples GROUP BY number HAVING count(*) > 1
)
SELECT build, sample_id, count(*) AS "rows", string_agg(DISTINCT unit, ', ' ORDER BY unit) AS units
FROM samples
WHERE hash(build, sample_id) IN (FROM suspects)
GROUP BY build, sample_id
HAVING count(*) > 1
ORDER BY build, sample_id
