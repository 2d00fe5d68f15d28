"""HealthCareMagic-100k: patients' messages and doctors' replies, scraped from HealthCareMagic.com for ChatDoctor.

Every row has one and the same `instruction`, so that nothing can be told from it: `question` is `input` alone. The name
says 100k, the file has 112,165 rows. Replies keep the publisher's scrubbing ("Chat Doctor" where a name was).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builders.kit import (
    CHATDOCTOR_INSTRUCTION,
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Reject,
    Row,
    Sample,
    Source,
    Unit,
    any_row_has,
    assistant,
    convert_rows,
    require_one,
    run,
    table_units,
    text_of,
    user,
    with_fields,
)

_COLUMNS = ("instruction", "input", "output")
_FILES = ("data/train-*.parquet", "HealthCareMagic-100k.json")


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    files = [require_one(raw, "HealthCareMagic file", *_FILES)]
    for number, unit in enumerate(
        with_fields(raw, table_units(raw, files, "train", "train", columns=_COLUMNS), _COLUMNS)
    ):
        if number == 0 and not any_row_has(raw, unit, "instruction", CHATDOCTOR_INSTRUCTION):
            raise NotThisSource(f"{unit.payload['file']}: not ChatDoctor's instruction; is it another set's file?")
        yield unit


def _sample(row: Row) -> Sample:
    instruction, question, answer = (text_of(row.values, name, row.file) for name in _COLUMNS)
    if not question.strip():
        raise InputError("empty_question", row.file)
    if not answer.strip():
        raise InputError("empty_answer", row.file)
    return Sample(
        key=row.number,
        messages=[user(f"{instruction}\n\n{question}"), assistant(answer)],
        file=row.file,
        row=row.number,
        question=question,
        answer=answer,
    )


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


SOURCE = Source(
    name="healthcaremagic",
    title="HealthCareMagic-100k: patients' questions answered by doctors",
    homepage="https://huggingface.co/datasets/lavita/ChatDoctor-HealthCareMagic-100k",
    revision="lavita/ChatDoctor-HealthCareMagic-100k@880de71; fields: Kent0n-Li/ChatDoctor@e77bd7ebafbf",
    license="unstated",
    access="open",
    stage="instruct",
    task="qa",
    modality="text",
    splits={"train": "train"},
    obtain="""
Clone the dataset lavita/ChatDoctor-HealthCareMagic-100k from https://huggingface.co, or download
HealthCareMagic-100k.json (Google Drive, linked from the README of https://github.com/Kent0n-Li/ChatDoctor). --raw is
the folder with one of
  data/train-00000-of-00001-5e7cb295b9cff0bf.parquet
  HealthCareMagic-100k.json""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 112_165},
    paper="train 112,165: the whole file (100k is its nickname). No licence is stated for the data.",
    paper_rows=(PaperRow("HealthCareMagic-100k", "IT", 112_165),),
    hub_id="lavita/ChatDoctor-HealthCareMagic-100k",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    run(SOURCE)
