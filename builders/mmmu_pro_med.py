"""MMMU-Pro-Med: the Health & Medicine questions of MMMU-Pro, 286 each with up to four and up to ten options.

"10 options" is a name: 82 of the 286 have fewer (counted), so labels come from the row. MMMU-Pro keeps the ids of MMMU,
and 92 of the 286 are validation questions, which `mmmu_med` has as well: `mmmu/<id>` is the question id in both. The
`<image i>` in shuffled options is no position but names column `image_i` (MMMU-Benchmark/MMMU, issue 70). By the
difference to the paper's mean of 1.14 pictures three pictures have no token: such are shown first, and counted.
"""

from builders import kit
from builders.engine.mmmu import IMAGE_COLUMNS, SUBJECTS, question_sample

FOLDERS = {"test_4": "standard (4 options)", "test_10": "standard (10 options)"}


def _sample(row: kit.Row, key: str, question: str, answer: str, subject: str) -> kit.Sample:
    kit.demand(subject in SUBJECTS, "other_subject", row.file, subject)
    return question_sample(row, "mmmu-pro", subject, unnamed_too=True)


SOURCE = kit.table_source(
    name="mmmu_pro_med",
    title="MMMU-Pro-Med: Health & Medicine of MMMU-Pro, up to 4 and up to 10 options",
    revision="MMMU/MMMU_Pro, main; ids and counts as in MMMU-Benchmark/MMMU@bb0b95a",
    layouts=(kit.Layout("two standard sets", "rows", "MMMU-Benchmark/MMMU@bb0b95a (without pictures)"),),
    license="Apache-2.0",
    stage="eval",
    task="mcq",
    modality="image-text",
    splits={"test_4": "eval", "test_10": "eval"},
    # Row files without pixels serve where the publisher's own are absent; one of the splits is enough.
    files={split: (f"{folder}/test-*.parquet", f"{folder}/test*.jsonl") for split, folder in FOLDERS.items()},
    several=True,
    optional=tuple(FOLDERS),
    fields=("id", "question", "answer", "subject"),
    values=("options",),
    columns=IMAGE_COLUMNS,
    sample=_sample,
    version=2,
    conclude=kit.noticed(
        shown_unnamed="{rows} questions have a picture that no <image i> names; it is shown before the text"
    ),
    obtain="""
Fetch both folders from https://huggingface.co/datasets/MMMU/MMMU_Pro (--download does it); one of them is enough. JSON
Lines with the same columns but no pixels are read in their stead (--no-images).""",
    reasons={"other_subject": "a subject outside medicine, no part of this benchmark; nothing to do"},
    # All 30 subjects are in one file; those outside medicine are rejected by rule, which leaves 286 of each.
    published={"test_4": 1_730, "test_10": 1_730},
    paper="286 with 4 and 286 with 10 options: the five Health & Medicine subjects of the 1,730 rows of each file.",
    paper_rows=(
        kit.PaperRow("MMMU-Med-Pro (4 options)", "EVAL", 286, "split test_4; the 1,730 rows read are of all subjects"),
        kit.PaperRow("MMMU-Med-Pro (10 options)", "EVAL", 286, "split test_10; 204 of the 286 have ten options"),
    ),
    hub_id="MMMU/MMMU_Pro",
    hub_revision="563f3e84bb3b90893083a1f039cfa13077f2302b",
)

if __name__ == "__main__":
    kit.run(SOURCE)
