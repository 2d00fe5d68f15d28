-- No train item without pictures has the question and the options of an eval item without pictures.
--
-- A row is one build's train rows and one split of another or the same build's eval rows that share at least one item:
-- the same normalised question with the same set of normalised options (or with none on both sides). Rows with pictures
-- are left out, because "What modality is shown?" over another picture is another item. Captions and report texts are
-- left out too: a normal chest is described in the same words again and again. Columns:
--   eval_items_hit   different items of the eval split that a train row has as well, of eval_items_total
--   eval_rows_hit    eval rows with such an item, of eval_rows_total in the split, with or without pictures
--   train_rows_hit   train rows with such an item, of train_rows_total
WITH
items AS NOT MATERIALIZED (
    SELECT role, build, split, sample_id, stem_options_sha256 AS item
    FROM samples
    WHERE n_images = 0 AND stem_options_sha256 IS NOT NULL
),
eval_items AS MATERIALIZED (
    SELECT build, split, sample_id, item FROM items WHERE role = 'eval'
),
eval_values AS MATERIALIZED (
    SELECT DISTINCT build, split, item FROM eval_items
),
-- The train side may be a thousand times larger: only what meets an eval item goes on.
train_items AS MATERIALIZED (
    SELECT build, sample_id, item FROM items SEMI JOIN eval_values USING (item) WHERE role = 'train'
),
-- Joined by distinct items on one side each, so that an item with many rows on both sides stays cheap.
eval_hits AS (
    SELECT t.build AS train_build, e.build AS eval_build, split,
           count(DISTINCT item) AS eval_items_hit, count(DISTINCT sample_id) AS eval_rows_hit
    FROM eval_items e
    JOIN (SELECT DISTINCT build, item FROM train_items) t USING (item)
    GROUP BY ALL
),
train_hits AS (
    SELECT t.build AS train_build, e.build AS eval_build, split, count(DISTINCT sample_id) AS train_rows_hit
    FROM train_items t
    JOIN eval_values e USING (item)
    GROUP BY ALL
),
eval_items_of AS (
    SELECT build AS eval_build, split, count(*) AS eval_items_total FROM eval_values GROUP BY ALL
),
eval_rows_of AS (
    SELECT build AS eval_build, split, count(*) AS eval_rows_total FROM samples WHERE role = 'eval' GROUP BY ALL
),
train_rows_of AS (
    SELECT build AS train_build, count(*) AS train_rows_total FROM samples WHERE role = 'train' GROUP BY ALL
)
SELECT train_build, eval_build, split AS eval_split,
       eval_items_hit, eval_items_total, eval_rows_hit, eval_rows_total, train_rows_hit, train_rows_total
FROM eval_hits
JOIN train_hits USING (train_build, eval_build, split)
JOIN eval_items_of USING (eval_build, split)
JOIN eval_rows_of USING (eval_build, split)
JOIN train_rows_of USING (train_build)
ORDER BY train_build, eval_build, eval_split
