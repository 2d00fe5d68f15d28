-- Every sample has a licence and a known class of access: open, gated or credentialed.
--
-- A row is a licence and access of one source in one build, with the number of samples that have it and what is wrong.
-- One item may have a licence of its own, but access is a property of the source: what build.json declares must be on
-- every sample.
WITH used AS (
    SELECT build, source, license, access, count(*) AS samples FROM samples GROUP BY ALL
),
judged AS (
    SELECT u.build, u.source, u.license, u.access, u.samples,
           CASE
               WHEN coalesce(trim(u.license), '') = '' THEN 'no licence'
               WHEN u.access IS NULL OR u.access NOT IN ('open', 'gated', 'credentialed') THEN 'unknown access'
               WHEN u.access IS DISTINCT FROM b.access THEN 'access differs from what the source declares'
           END AS problem
    FROM used u
    LEFT JOIN builds b USING (build)
)
SELECT build, source, license, access, problem, samples
FROM judged
WHERE problem IS NOT NULL
ORDER BY ALL
