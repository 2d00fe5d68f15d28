-- Pairs of a train and an eval sample with equal normalised text.
--
-- stem_options: the question with its set of options (or without any on both sides). stem: the question alone, a weaker
-- sign: 1,010 stems serve 1,089 items of MMLU. Both only between samples without pictures, because "What modality is
-- shown?" over another picture is another item. caption: the target text of captions and reports.
WITH
digests AS NOT MATERIALIZED (
    SELECT 'stem_options' AS kind, role, build, split, subset, sample_id, stem_options_sha256 AS digest
    FROM samples WHERE n_images = 0 AND stem_options_sha256 IS NOT NULL
    UNION ALL
    SELECT 'stem', role, build, split, subset, sample_id, stem_sha256
    FROM samples WHERE n_images = 0 AND stem_sha256 IS NOT NULL
    UNION ALL
    SELECT 'caption', role, build, split, subset, sample_id, caption_sha256
    FROM samples WHERE caption_sha256 IS NOT NULL
),
eval_texts AS MATERIALIZED (
    SELECT * FROM digests WHERE role = 'eval'
),
train_texts AS MATERIALIZED (
    SELECT * FROM digests SEMI JOIN eval_texts USING (kind, digest) WHERE role = 'train'
)
SELECT 'exact_text' AS level, kind,
       t.build AS train_build, t.split AS train_split, t.sample_id AS train_sample, NULL::INTEGER AS train_index,
       e.build AS eval_build, e.split AS eval_split, e.subset AS eval_subset, e.sample_id AS eval_sample,
       NULL::INTEGER AS eval_index, lower(hex(digest)) AS value
FROM train_texts t
JOIN eval_texts e USING (kind, digest)
