-- No train row shares a subject, study, article, video, question or image id with an eval row.
--
-- A row is one kind of id, one build's train rows and one stratum of another or the same build's eval rows that share
-- at least one id; subset 'all' is the whole split, and the strata within it follow. Studies shown as a prior count as
-- studies. Columns:
--   eval_ids_hit     different ids of this kind in the eval rows that a train row has as well, of eval_ids_total
--   eval_rows_hit    eval rows with such an id, of eval_rows_total in the stratum, with or without an id of this kind
--   train_rows_hit   train rows with such an id, of train_rows_total
WITH
eval_ids AS MATERIALIZED (
    SELECT DISTINCT build, split, unnest(list_distinct(['all', subset])) AS subset, sample_id, kind, value
    FROM id_rows
    WHERE role = 'eval'
),
eval_values AS MATERIALIZED (
    SELECT DISTINCT build, split, subset, kind, value FROM eval_ids
),
-- The train side may be a thousand times larger: only what meets an eval id goes on.
train_ids AS MATERIALIZED (
    SELECT build, sample_id, kind, value
    FROM id_rows SEMI JOIN eval_values USING (kind, value)
    WHERE role = 'train'
),
-- Joined by distinct values on one side each, so that an id with many rows on both sides stays cheap.
eval_hits AS (
    SELECT kind, t.build AS train_build, e.build AS eval_build, split, subset,
           count(DISTINCT value) AS eval_ids_hit, count(DISTINCT sample_id) AS eval_rows_hit
    FROM eval_ids e
    JOIN (SELECT DISTINCT build, kind, value FROM train_ids) t USING (kind, value)
    GROUP BY ALL
),
train_hits AS (
    SELECT kind, t.build AS train_build, e.build AS eval_build, split, subset,
           count(DISTINCT sample_id) AS train_rows_hit
    FROM train_ids t
    JOIN eval_values e USING (kind, value)
    GROUP BY ALL
),
eval_ids_of AS (
    SELECT build AS eval_build, split, subset, kind, count(*) AS eval_ids_total FROM eval_values GROUP BY ALL
),
eval_rows_of AS (
    SELECT build AS eval_build, split, subset, count(*) AS eval_rows_total
    FROM (SELECT build, split, unnest(list_distinct(['all', subset])) AS subset FROM samples WHERE role = 'eval')
    GROUP BY ALL
),
train_rows_of AS (
    SELECT build AS train_build, count(*) AS train_rows_total FROM samples WHERE role = 'train' GROUP BY ALL
)
SELECT kind, train_build, eval_build, split AS eval_split, subset AS eval_subset,
       eval_ids_hit, eval_ids_total, eval_rows_hit, eval_rows_total, train_rows_hit, train_rows_total
FROM eval_hits
JOIN train_hits USING (kind, train_build, eval_build, split, subset)
JOIN eval_ids_of USING (eval_build, split, subset, kind)
JOIN eval_rows_of USING (eval_build, split, subset)
JOIN train_rows_of USING (train_build)
ORDER BY kind, train_build, eval_build, eval_split, eval_subset <> 'all', eval_subset
