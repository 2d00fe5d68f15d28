-- Pairs of a train and an eval sample that share a subject, study, article, video, question or image id.
--
-- Ids carry their namespace (`mimic-cxr/10000032`, `pubmed/21645374`), so equal values mean the same thing in all
-- sources. A study shown as a prior counts as a study. The worked example of a few-shot prompt does not count.
WITH
eval_ids AS MATERIALIZED (
    SELECT DISTINCT build, split, subset, sample_id, kind, value FROM id_rows WHERE role = 'eval'
),
-- The train side may be a thousand times larger: only what meets an eval id goes on.
train_ids AS MATERIALIZED (
    SELECT DISTINCT build, split, sample_id, kind, value
    FROM id_rows SEMI JOIN eval_ids USING (kind, value)
    WHERE role = 'train'
)
SELECT 'id' AS level, kind,
       t.build AS train_build, t.split AS train_split, t.sample_id AS train_sample, NULL::INTEGER AS train_index,
       e.build AS eval_build, e.split AS eval_split, e.subset AS eval_subset, e.sample_id AS eval_sample,
       NULL::INTEGER AS eval_index, value
FROM train_ids t
JOIN eval_ids e USING (kind, value)
