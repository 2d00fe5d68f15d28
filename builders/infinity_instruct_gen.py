"""Infinity-Instruct, subset Gen: general conversations between `human` and `gpt`, in several turns.

Only `Gen/*.parquet` is read: the repository holds five other subsets in folders beside it. General data, about 3 % of
it Chinese; every language is kept. Its card names no test for overlap with MMLU or any medical set. The first question
of a conversation is `question`; the replies are model output, so there is no gold answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from builders.kit import (
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Reject,
    Row,
    Sample,
    Source,
    Unit,
    checked_text,
    convert_rows,
    dialogue,
    field_of,
    run,
    table_units,
)

_COLUMNS = ("id", "conversations", "source")
_ROLES = {"human": "user", "gpt": "assistant", "system": "system"}


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    files = sorted(raw.glob("Gen/*.parquet"))
    if not files:
        raise NotThisSource(f"{raw}: no Gen/*.parquet found; is --raw the right folder?")
    return table_units(raw, files, "train", "train", columns=_COLUMNS)


def _turn(turn: Any, file: str) -> tuple[str, str]:
    role = field_of(turn, "from", file)
    if role not in _ROLES:
        raise InputError("bad_field", file, "a turn is from neither human, gpt nor system")
    return _ROLES[role], checked_text(field_of(turn, "value", file), "value", file)


def _sample(row: Row) -> Sample:
    number = field_of(row.values, "id", row.file)
    if not isinstance(number, str | int) or number == "":
        raise InputError("bad_id", row.file, "id is neither text nor a number")
    turns = field_of(row.values, "conversations", row.file)
    if not isinstance(turns, list):
        raise InputError("bad_field", row.file, "conversations is not a list")
    said = [_turn(turn, row.file) for turn in turns]
    source = row.values["source"]
    return Sample(
        key=f"{PurePosixPath(row.file).stem}/{row.number}",
        messages=dialogue(said, row.file),
        file=row.file,
        row=row.number,
        question=next(text for role, text in said if role == "user"),
        group={"question_id": f"infinity-instruct/{number}"},
        subset=None if source is None else checked_text(source, "source", row.file) or None,
    )


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


SOURCE = Source(
    name="infinity_instruct_gen",
    title="Infinity-Instruct (Gen): general instructions in several turns",
    homepage="https://huggingface.co/datasets/BAAI/Infinity-Instruct",
    revision="BAAI/Infinity-Instruct, Gen (0729), by its card; file tree of manifoldlabs/Infinity-Instruct",
    license="CC-BY-SA-4.0",
    access="gated",
    stage="instruct",
    task="instruction",
    modality="text",
    splits={"train": "train"},
    obtain="""
Log in at https://huggingface.co, accept the terms of the dataset BAAI/Infinity-Instruct (approved at once), then clone
it or fetch its folder Gen. --raw is the folder with
  Gen/train-000NN-of-00015.parquet
The other subsets (0625, 3M, 7M, 7M_core, 7M_domains) are not needed and never read.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 1_456_927},
    paper=(
        "train 1,483,097, which is 26,170 above the card's 1,456,927 for Gen (0729); no public text has the paper's "
        "number. What the files hold is counted, neither number is asserted."
    ),
    paper_rows=(
        PaperRow("Infinity-Instruct-Gen", "IT", 1_483_097, "the card says 1,456,927; the 26,170 more are unexplained"),
    ),
    hub_id="BAAI/Infinity-Instruct",
    hub_files=("Gen/*.parquet",),
)

if __name__ == "__main__":
    run(SOURCE)
