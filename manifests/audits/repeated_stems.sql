-- No two multiple-choice items of one split share their question.
--
-- A row is one split of one build. Such items are distinct where their options or pictures differ, so they are reported
-- and never dropped; a benchmark score should be read with them in mind. Columns:
--   rows            multiple-choice rows of the split
--   stems           different questions among them, after normalisation
--   items           different questions with their options
--   repeated_rows   rows beyond the first of their question
SELECT build, split, count(*) AS "rows",
       count(DISTINCT stem_sha256) AS stems,
       count(DISTINCT stem_options_sha256) AS items,
       count(*) - count(DISTINCT stem_sha256) AS repeated_rows
FROM samples
WHERE stem_sha256 <> stem_options_sha256  -- without options the two are equal
GROUP BY build, split
HAVING stems < count(*)
ORDER BY build, split
