-- Every prior picture is of the sample's own subject and of the prior study that the sample names.
--
-- A row is a picture shown as prior (`index` is its place in the sample) whose subject is not the sample's subject, or
-- whose study is not the sample's prior_study_id; one known and the other unknown is a violation too.
WITH
priors AS MATERIALIZED (
    SELECT build, sample_id, "index", image_id, subject_id, study_id FROM images WHERE relation = 'prior'
),
-- Few samples have priors: the others must not take part in the join below.
owners AS MATERIALIZED (
    SELECT build, sample_id, subject_id, prior_study_id FROM samples SEMI JOIN priors USING (build, sample_id)
)
SELECT build, sample_id, "index", image_id, p.subject_id AS image_subject_id, o.subject_id AS sample_subject_id,
       p.study_id AS image_study_id, o.prior_study_id
FROM priors p
LEFT JOIN owners o USING (build, sample_id)
WHERE p.subject_id IS DISTINCT FROM o.subject_id OR p.study_id IS DISTINCT FROM o.prior_study_id
ORDER BY build, sample_id, "index"
