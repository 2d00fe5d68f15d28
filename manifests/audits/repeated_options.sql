-- No item of MedMCQA lists one option twice; builds of other sources do not look for it.
--
-- A row is such an item (medmcqa/medmcqa issue 5). Where `gold` is true the right option is the one that repeats, and
-- both labels count as right.
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
