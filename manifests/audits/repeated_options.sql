-- No multiple-choice item lists one option twice.
--
-- A row is such an item of a build whose source looks for them (MedMCQA: medmcqa/medmcqa issue 5). Where `gold` is true
-- the right option is the one that repeats: the strict score asks for its label, the lenient one takes either.
WITH listed AS (
    SELECT build, json_extract(parameters, '$.repeated_options') AS items FROM builds
),
items AS (
    SELECT build, unnest(from_json(items, '[{"sample_id": "VARCHAR", "gold": "BOOLEAN"}]')) AS item
    FROM listed
    WHERE items IS NOT NULL
)
SELECT build, item.sample_id AS sample_id, item.gold AS gold
FROM items
ORDER BY build, sample_id
