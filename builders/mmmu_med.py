"""MMMU-Med: the five Health & Medicine subjects of MMMU, dev and validation, 25 + 150 questions.

The paper's "MMMU-Med (dev), 175" is this sum (reference `sources.md`, section 3, 16). Five validation questions are
open: they stay, as task `vqa`, so that whoever scores multiple choice alone says over how many. `<image i>` in a
question or an option stands for column `image_i`, whatever the order of the tokens. `question_sample` serves
`mmmu_pro_med` too.
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
    require,
    run,
    table_units,
    text_of,
)

_SPLITS: dict[str, Role] = {"dev": "eval", "validation": "eval"}
_COLUMNS = ("id", "question", "options", "answer", "question_type", *IMAGE_COLUMNS)
_OPEN = {"multiple-choice": False, "open": True}


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, role in _SPLITS.items():
        files = []
        for subject in SUBJECTS:
            require(raw, f"{split} file of {subject}", f"{subject}/{split}-*.parquet")
            files += sorted(raw.glob(f"{subject}/{split}-*.parquet"))
        yield from table_units(raw, files, split, role, columns=_COLUMNS)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


def _sample(row: Row) -> Sample:
    kind = text_of(row.values, "question_type", row.file)
    if kind not in _OPEN:
        raise InputError("bad_field", row.file, "question_type is neither multiple-choice nor open")
    return question_sample(row, "mmmu", row.file.split("/")[-2], open_ended=_OPEN[kind])


SOURCE = Source(
    name="mmmu_med",
    title="MMMU-Med: Health & Medicine of MMMU, dev and validation",
    homepage="https://huggingface.co/datasets/MMMU/MMMU",
    revision="MMMU/MMMU, main; ids and question types as in MMMU-Benchmark/MMMU@bb0b95a",
    license="Apache-2.0",
    access="open",
    stage="eval",
    task="mcq",
    modality="image-text",
    splits=_SPLITS,
    obtain=f"""
Fetch the folders of the five subjects from https://huggingface.co/datasets/MMMU/MMMU (--download does it). --raw is the
folder with {{subject}}/{{dev,validation}}-00000-of-00001.parquet for the subjects
  {", ".join(SUBJECTS)}""",
    plan=_plan,
    read=_read,
    published=lambda params: {"dev": 25, "validation": 150},
    paper="175 = dev 25 + validation 150; five of the validation questions are open (task vqa).",
    paper_rows=(
        PaperRow("MMMU-Med (dev)", "EVAL", 175, "dev 25 + validation 150, of which 5 are open questions (task vqa)"),
    ),
    hub_id="MMMU/MMMU",
    hub_files=tuple(f"{subject}/{split}-*.parquet" for subject in SUBJECTS for split in _SPLITS),
)

if __name__ == "__main__":
    run(SOURCE)
