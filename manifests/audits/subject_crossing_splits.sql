-- No subject is in more than one split of a build.
--
-- A row is a subject id with the splits it is in, as the subject of a sample or of one of its pictures.
WITH subjects AS (
    SELECT DISTINCT build, subject_id, split FROM samples WHERE subject_id IS NOT NULL
    UNION
    SELECT DISTINCT build, subject_id, split FROM images WHERE subject_id IS NOT NULL
)
SELECT build, subject_id, string_agg(split, ', ' ORDER BY split) AS splits
FROM subjects
GROUP BY build, subject_id
HAVING count(*) > 1
ORDER BY build, subject_id
