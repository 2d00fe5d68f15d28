"""HealthCareMagic-100k: patients' messages and doctors' replies, scraped from HealthCareMagic.com for ChatDoctor.

Every row has one and the same `instruction`, so that nothing can be told from it: `question` is `input` alone. The name
says 100k, the file has 112,165 rows. Replies keep the publisher's scrubbing ("Chat Doctor" where a name was).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from builders.engine.rawfiles import require_one, text_of, write_demo_parquet
from builders.engine.source import (
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Reject,
    Sample,
    Source,
    Unit,
    assistant,
    user,
)
from builders.engine.tables import Row, convert_rows, table_rows, table_units, with_fields

INSTRUCTION = "If you are a doctor, please answer the medical questions based on the patient's description."
"""The constant instruction of the ChatDoctor sets; AlpaCare's file has the same columns and other instructions."""

_COLUMNS = ("instruction", "input", "output")
_FILES = ("data/train-*.parquet", "HealthCareMagic-100k.json")


def has_instruction(raw: Path, unit: Unit) -> bool:
    """Whether the first rows of a unit hold ChatDoctor's instruction: only that tells its files from AlpaCare's."""
    rows = (row for row in islice(table_rows(raw, unit), 20) if isinstance(row, Row))
    return any(row.values.get("instruction") == INSTRUCTION for row in rows)


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    files = [require_one(raw, "HealthCareMagic file", *_FILES)]
    for number, unit in enumerate(
        with_fields(raw, table_units(raw, files, "train", "train", columns=_COLUMNS), _COLUMNS)
    ):
        if number == 0 and not has_instruction(raw, unit):
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


# (complaint, since when, reply); the demo's patients and doctors.
_CASES = (
    (
        "the room spins when I turn over in bed",
        "yesterday",
        "This sounds like positional vertigo. Try the Epley manoeuvre.",
    ),
    ("my knee clicks and swells after running", "two months ago", "A meniscal tear is possible. An MRI would show it."),
    (
        "my son has a barking cough at night",
        "Tuesday",
        "That is croup as a rule. Cool night air and one dose of steroid help.",
    ),
    ("I see floaters and flashes in my left eye", "this morning", "Please have your retina looked at today."),
    (
        "my fingers turn white and then blue in the cold",
        "last winter",
        "Raynaud phenomenon. Keep warm; nifedipine may help.",
    ),
    ("I have heartburn after every meal", "a year ago", "Raise the head of your bed and take a PPI before breakfast."),
    ("my periods are heavy and I am always tired", "six months ago", "Please check your haemoglobin and ferritin."),
    ("my father’s ankles are swollen – more so at night", "a week ago", "His heart and kidneys should be checked."),
)

PLANTED: dict[str, str] = {
    "repeated_question": "rows 1 and 9 ask the same and are answered differently: a pair of train rows, no leak",
}
"""What repeats in the demo tree."""


def demo_rows() -> list[dict[str, str]]:
    """The demo's rows: every trap that the reference names, none of them damaged."""
    rows = [
        {
            "instruction": INSTRUCTION,
            "input": f"Hello doctor, {complaint}. It began {since}. What should I do?",
            "output": f"Hi, thanks for writing to Chat Doctor. {reply} Regards, Chat Doctor.",
        }
        for complaint, since, reply in _CASES
    ]
    rows.append(rows[0] | {"input": "  "})
    rows.append(rows[1] | {"output": "Hi. Rest it for two weeks and use ice."})
    rows.append(rows[2] | {"input": "Is honey safe for a baby of six months?", "output": ""})
    return rows


def _write_demo(raw: Path) -> None:
    write_demo_parquet(raw / "data/train-00000-of-00001-5e7cb295b9cff0bf.parquet", list(demo_rows()))


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
    write_demo=_write_demo,
    published=lambda params: {"train": 112_165},
    paper="train 112,165: the whole file (100k is its nickname). No licence is stated for the data.",
    paper_rows=(PaperRow("HealthCareMagic-100k", "IT", 112_165),),
    hub_id="lavita/ChatDoctor-HealthCareMagic-100k",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
