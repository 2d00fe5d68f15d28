-- No train picture equals an eval picture, by the publisher's bytes or by the decoded pixels.
--
-- A row is a level, one build's train pictures and one split of another or the same build's eval pictures that share at
-- least one. 'bytes' are equal files. 'pixels' are equal canonical grey pixels however they were stored; equal files
-- have equal pixels and are counted there too, so the second number shows what comparing files alone would miss.
-- Pictures without a digest (metadata-only builds) match nothing. Columns:
--   eval_images_hit  different pictures of the eval split that a train row shows as well, of eval_images_total
--   eval_rows_hit    eval rows that show one, of eval_rows_total in the split
--   train_rows_hit   train rows that show one, of train_rows_total
WITH
shown AS NOT MATERIALIZED (
    -- The worked example of a few-shot prompt is a training picture by intention.
    SELECT * FROM images WHERE relation IS DISTINCT FROM 'exemplar'
),
digests AS NOT MATERIALIZED (
    SELECT 'bytes' AS level, role, build, split, sample_id, sha256 AS digest FROM shown WHERE sha256 IS NOT NULL
    UNION ALL
    SELECT 'pixels', role, build, split, sample_id, pixel_sha256 FROM shown WHERE pixel_sha256 IS NOT NULL
),
eval_images AS MATERIALIZED (
    SELECT level, build, split, sample_id, digest FROM digests WHERE role = 'eval'
),
eval_digests AS MATERIALIZED (
    SELECT DISTINCT level, build, split, digest FROM eval_images
),
-- The train side may be a thousand times larger: only what meets an eval picture goes on.
train_images AS MATERIALIZED (
    SELECT level, build, sample_id, digest
    FROM digests SEMI JOIN eval_digests USING (level, digest)
    WHERE role = 'train'
),
-- Joined by distinct digests on one side each, so that a picture with many rows on both sides stays cheap.
eval_hits AS (
    SELECT level, t.build AS train_build, e.build AS eval_build, split,
           count(DISTINCT digest) AS eval_images_hit, count(DISTINCT sample_id) AS eval_rows_hit
    FROM eval_images e
    JOIN (SELECT DISTINCT level, build, digest FROM train_images) t USING (level, digest)
    GROUP BY ALL
),
train_hits AS (
    SELECT level, t.build AS train_build, e.build AS eval_build, split, count(DISTINCT sample_id) AS train_rows_hit
    FROM train_images t
    JOIN eval_digests e USING (level, digest)
    GROUP BY ALL
),
eval_images_of AS (
    SELECT level, build AS eval_build, split, count(*) AS eval_images_total FROM eval_digests GROUP BY ALL
),
eval_rows_of AS (
    SELECT build AS eval_build, split, count(*) AS eval_rows_total FROM samples WHERE role = 'eval' GROUP BY ALL
),
train_rows_of AS (
    SELECT build AS train_build, count(*) AS train_rows_total FROM samples WHERE role = 'train' GROUP BY ALL
)
SELECT train_build, eval_build, split AS eval_split, level,
       eval_images_hit, eval_images_total, eval_rows_hit, eval_rows_total, train_rows_hit, train_rows_total
FROM eval_hits
JOIN train_hits USING (level, train_build, eval_build, split)
JOIN eval_images_of USING (level, eval_build, split)
JOIN eval_rows_of USING (eval_build, split)
JOIN train_rows_of USING (train_build)
ORDER BY train_build, eval_build, eval_split, level
