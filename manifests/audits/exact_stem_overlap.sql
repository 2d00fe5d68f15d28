-- No train item without pictures has the question of an eval item without pictures, be the options others or missing.
--
-- Weaker than exact_text_overlap, which has the items whose options are the same as well: "Which of the following is
-- true?" stands over many different items. A row is one build's train rows and one split of another or the same build's
-- eval rows that share at least one question in this way. Columns:
--   eval_stems_hit   different questions of such eval rows, of eval_stems_total different questions without pictures
--   eval_rows_hit    eval rows for which a train row has the question with other options, of eval_rows_total in the
--                    split, with or without pictures
--   train_rows_hit   train rows for which an eval row has the question with other options, of train_rows_total
WITH
questions AS NOT MATERIALIZED (
    SELECT role, build, split, sample_id, stem_sha256 AS stem, stem_options_sha256 AS item
    FROM samples
    WHERE n_images = 0 AND stem_sha256 IS NOT NULL
),
eval_questions AS MATERIALIZED (
    SELECT build, split, sample_id, stem, item FROM questions WHERE role = 'eval'
),
-- The train side may be a thousand times larger: only what meets an eval question goes on.
train_questions AS MATERIALIZED (
    SELECT build, sample_id, stem, item
    FROM questions SEMI JOIN eval_questions USING (stem)
    WHERE role = 'train'
),
-- Whether some row of the other side differs in its options takes no comparison of every pair: it does unless all of
-- them are one item, and that the own one. A row without the second digest counts as having other options.
eval_stems AS MATERIALIZED (
    SELECT build, split, stem, min(item) AS low, max(item) AS high, count(*) > count(item) AS some_missing
    FROM eval_questions
    GROUP BY ALL
),
train_stems AS (
    SELECT build, stem, min(item) AS low, max(item) AS high, count(*) > count(item) AS some_missing
    FROM train_questions
    GROUP BY ALL
),
eval_hits AS (
    SELECT t.build AS train_build, e.build AS eval_build, split,
           count(DISTINCT stem) AS eval_stems_hit, count(DISTINCT sample_id) AS eval_rows_hit
    FROM eval_questions e
    JOIN train_stems t USING (stem)
    WHERE some_missing OR item IS NULL OR low <> item OR high <> item
    GROUP BY ALL
),
train_hits AS (
    SELECT t.build AS train_build, e.build AS eval_build, split, count(DISTINCT sample_id) AS train_rows_hit
    FROM train_questions t
    JOIN eval_stems e USING (stem)
    WHERE some_missing OR item IS NULL OR low <> item OR high <> item
    GROUP BY ALL
),
eval_stems_of AS (
    SELECT build AS eval_build, split, count(*) AS eval_stems_total FROM eval_stems GROUP BY ALL
),
eval_rows_of AS (
    SELECT build AS eval_build, split, count(*) AS eval_rows_total FROM samples WHERE role = 'eval' GROUP BY ALL
),
train_rows_of AS (
    SELECT build AS train_build, count(*) AS train_rows_total FROM samples WHERE role = 'train' GROUP BY ALL
)
SELECT train_build, eval_build, split AS eval_split,
       eval_stems_hit, eval_stems_total, eval_rows_hit, eval_rows_total, train_rows_hit, train_rows_total
FROM eval_hits
JOIN train_hits USING (train_build, eval_build, split)
JOIN eval_stems_of USING (eval_build, split)
JOIN eval_rows_of USING (eval_build, split)
JOIN train_rows_of USING (train_build)
ORDER BY train_build, eval_build, eval_split
