"""The names of the ids that tie samples together: of one patient, study, article, video or question."""

GROUP_KEYS = ("subject_id", "study_id", "prior_study_id", "pmcid", "pmid", "video_id", "question_id")
"""The fields of a sample's `group`, in the order of the schema; apart from it, as naming them needs no Arrow."""
