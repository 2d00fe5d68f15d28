"""Evidence: what one overlap between a training sample and a test sample looks like, at every level.

| level | kind | what the measures hold |
|---|---|---|
| id | one a kind of id | `value`: the shared id |
| exact_image | bytes, pixels | `value`: the shared digest, hexadecimal |
| exact_text | stem_options, stem, caption | `value`: the shared digest, hexadecimal |
| near_image | whole, region | `distance`: Hamming; `variant` of the test picture; `score`: agreement of pixels |
| local_pictures | features, descriptor | `variant`: how it is shown; `value`: how much of it; `score`: agreement |
| near_text | stem, stem_answer, sibling | `score`: share of the stem's letters; `words`: of it, in shared pairs |
| near_text | passage | `words`: longest shared run; `score`: share of the passage's words in shared runs |
| rewrite | rewrite, question, sibling, translation | `variant`: model; `score`: cosine; `words`: shared |

`eval_df` says how many test items have the stem, or the rarest n-gram of the run; the first `text_pairs.NAMED` of them
have a row each.

`span` is NULL where either side is credentialed: evidence files travel, report text must not.
"""

from __future__ import annotations

import pyarrow as pa

LEVELS: dict[str, tuple[str, ...]] = {
    "id": ("subject_id", "study_id", "image_id", "pmcid", "pmid", "video_id", "question_id"),
    "exact_image": ("bytes", "pixels"),
    "exact_text": ("stem_options", "stem", "caption"),
    "near_image": ("whole", "region"),
    "local_pictures": ("features", "descriptor"),
    "near_text": ("stem", "stem_answer", "sibling", "passage"),
    "rewrite": ("rewrite", "question", "sibling", "translation"),
}
"""Every level with its kinds, in the order in which tables show them."""

EVIDENCE = pa.schema(
    [
        pa.field("level", pa.string(), nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field(
            "action", pa.string(), nullable=False
        ),  # what the policy says, exclude | report | forbid, or wrong (`verdicts`)
        pa.field("train_build", pa.string(), nullable=False),
        pa.field("train_split", pa.string(), nullable=False),
        pa.field("train_sample", pa.string(), nullable=False),
        ("train_index", pa.int32()),  # which image of the sample; NULL where the sample as a whole is meant
        pa.field("eval_build", pa.string(), nullable=False),
        pa.field("eval_split", pa.string(), nullable=False),
        ("eval_subset", pa.string()),
        pa.field("eval_sample", pa.string(), nullable=False),
        ("eval_index", pa.int32()),
        ("value", pa.string()),
        ("distance", pa.int32()),
        ("variant", pa.string()),
        ("score", pa.float64()),  # rounded to four places
        ("decided_on", pa.string()),  # near_image: thumbnail | full_image
        ("words", pa.int32()),
        ("span", pa.string()),
        ("eval_df", pa.int32()),  # test items that have the stem, or the rarest n-gram of the shared run
    ]
)
"""One row a pair and kind, sorted by `ORDER`."""

EXCLUSION_SUMS = """list_sort(list_distinct(list(level || '/' || kind))) AS reasons, count(*) AS evidence,
       count(DISTINCT (eval_build, eval_sample)) AS eval_samples"""
"""SQL: what an exclusion says of the evidence against its training sample."""

ORDER = (
    "level",
    "kind",
    "train_build",
    "train_sample",
    "train_index",
    "eval_build",
    "eval_sample",
    "eval_index",
    "value",
)
"""Columns that tell two rows of evidence apart, in the order in which the file is sorted."""

EXCLUSIONS = pa.schema(
    [
        pa.field("train_build", pa.string(), nullable=False),
        pa.field("train_sample", pa.string(), nullable=False),
        pa.field("unit", pa.string(), nullable=False),
        pa.field("reasons", pa.list_(pa.string()), nullable=False),  # `level/kind`, sorted
        pa.field("evidence", pa.int64(), nullable=False),  # rows of evidence that exclude it
        pa.field("eval_samples", pa.int64(), nullable=False),  # different test samples among them
    ]
)
"""One row a training sample that the policy takes out, sorted by build and sample."""

COMMON = pa.schema([("ngram", pa.string()), ("eval_df", pa.int64()), ("train_samples", pa.int64())])
"""One row an n-gram that is boilerplate of the train side: test items and train samples that have it, sorted by it."""
