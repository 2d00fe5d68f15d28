-- No multiple-choice item lists one option twice.
--
-- A row is such an item of a build whose source looks for them (MedMCQA: medmcqa/medmcqa issue 5). Where `gold` is true
-- the right option is the one that repeats: scoring takes either label, other harnesses take one of them for wrong.
SELECT build, item.sample_id AS sample_id, item.gold AS gold
FROM (
    SELECT build, unnest(from_json(json_extract(parameters, '$.repeated_options'), '[{"sample_id": "VARCHAR", "gold": "BOOLEAN"}]'))
        AS item
    FROM builds
    WHERE json_extract(parameters, '$.repeated_options') IS NOT NULL
)
ORDER BY build, sample_id
