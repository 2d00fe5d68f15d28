-- Pairs of a train and an eval picture that are equal, by the publisher's bytes or by the canonical grey pixels.
--
-- Equal files have equal pixels and are listed under both kinds. The worked example of a few-shot prompt is a training
-- picture by intention and does not count. Pictures without a digest (metadata-only builds) match nothing.
WITH
digests AS NOT MATERIALIZED (
    SELECT 'bytes' AS kind, role, build, split, subset, sample_id, "index", sha256 AS digest
    FROM images WHERE sha256 IS NOT NULL AND relation IS DISTINCT FROM 'exemplar'
    UNION ALL
    SELECT 'pixels', role, build, split, subset, sample_id, "index", pixel_sha256
    FROM images WHERE pixel_sha256 IS NOT NULL AND relation IS DISTINCT FROM 'exemplar'
),
eval_images AS MATERIALIZED (
    SELECT * FROM digests WHERE role = 'eval'
),
train_images AS MATERIALIZED (
    SELECT * FROM digests SEMI JOIN eval_images USING (kind, digest) WHERE role = 'train'
)
SELECT 'exact_image' AS level, kind,
       t.build AS train_build, t.split AS train_split, t.sample_id AS train_sample, t."index" AS train_index,
       e.build AS eval_build, e.split AS eval_split, e.subset AS eval_subset, e.sample_id AS eval_sample,
       e."index" AS eval_index, lower(hex(digest)) AS value
FROM train_images t
JOIN eval_images e USING (kind, digest)
