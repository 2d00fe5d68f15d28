"""MMMU-Pro-Med: the Health & Medicine questions of MMMU-Pro, 286 each with up to four and up to ten options.

"10 options" is a name: 82 of the 286 have fewer (counted), so labels come from the row. MMMU-Pro keeps the ids of MMMU,
and 92 of the 286 are validation questions, which `mmmu_med` has as well: `mmmu/<id>` is the question id in both. The
`<image i>` in shuffled options is no position but names column `image_i` (MMMU-Benchmark/MMMU, issue 70).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builders.engine.mmmu import IMAGE_COLUMNS, SUBJECTS, question_sample
from builders.kit import (
    InputError,
    PaperRow,
    Params,
    Reject,
    Role,
    Row,
    Sample,
    Source,
    Unit,
    convert_rows,
    first_existing,
    require,
    run,
    table_units,
    text_of,
)

_SPLITS: dict[str, Role] = {"test_4": "eval", "test_10": "eval"}
_FOLDERS = {"test_4": "standard (4 options)", "test_10": "standard (10 options)"}
_COLUMNS = ("id", "question", "options", "answer", "subject", *IMAGE_COLUMNS)


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    require(raw, "rows", *(f"{folder}/test*.{kind}" for folder in _FOLDERS.values() for kind in ("parquet", "jsonl")))
    for split, role in _SPLITS.items():
        # Row files without pixels serve where the publisher's own are absent.
        pattern = f"{_FOLDERS[split]}/test-*.parquet"
        if first_existing(raw, pattern) is None:
            pattern = f"{_FOLDERS[split]}/test*.jsonl"
        yield from table_units(raw, sorted(raw.glob(pattern)), split, role, columns=_COLUMNS)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


def _sample(row: Row) -> Sample:
    subject = text_of(row.values, "subject", row.file)
    if subject not in SUBJECTS:
        raise InputError("other_subject", row.file, subject)
    return question_sample(row, "mmmu-pro", subject)


SOURCE = Source(
    name="mmmu_pro_med",
    title="MMMU-Pro-Med: Health & Medicine of MMMU-Pro, up to 4 and up to 10 options",
    homepage="https://huggingface.co/datasets/MMMU/MMMU_Pro",
    revision="MMMU/MMMU_Pro, main; ids and counts as in MMMU-Benchmark/MMMU@bb0b95a",
    license="Apache-2.0",
    access="open",
    stage="eval",
    task="mcq",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
Fetch both folders from https://huggingface.co/datasets/MMMU/MMMU_Pro (--download does it). --raw is the folder with
  standard (4 options)/test-*.parquet
  standard (10 options)/test-*.parquet
One of them is enough. JSON Lines with the same columns but no pixels, test*.jsonl, are read in their stead
(--no-images).""",
    reasons={
        "other_subject": "a subject outside medicine, no part of this benchmark; nothing to do",
    },
    plan=_plan,
    read=_read,
    # All 30 subjects are in one file; those outside medicine are rejected by rule, which leaves 286 of each.
    published=lambda params: {"test_4": 1_730, "test_10": 1_730},
    paper="286 with 4 and 286 with 10 options: the five Health & Medicine subjects of the 1,730 rows of each file.",
    paper_rows=(
        PaperRow("MMMU-Med-Pro (4 options)", "EVAL", 286, "split test_4; the 1,730 rows read are of all subjects"),
        PaperRow("MMMU-Med-Pro (10 options)", "EVAL", 286, "split test_10; 204 of the 286 have ten options"),
    ),
    hub_id="MMMU/MMMU_Pro",
    hub_files=tuple(f"{folder}/test-*.parquet" for folder in _FOLDERS.values()),
)

if __name__ == "__main__":
    run(SOURCE)
