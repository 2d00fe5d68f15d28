"""AlpaCare's MedInstruct: 52,002 medical tasks written by GPT-4 and answered by GPT-3.5, and a test set by clinicians.

An `input` that is empty or holds `<noinput>` means none: the publisher's own code (utils.py of XZhang97666/AlpaCare)
asks for the answer with the instruction alone then, and so does the prompt here. `MedInstruct-test.jsonl` is a test
file beside the train file: 216 questions with four models' answers and no gold answer, built as questions alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from builders.engine.rawfiles import first_existing, number_of, require_one, text_of, write_demo_file
from builders.engine.source import (
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Reject,
    Role,
    Sample,
    Source,
    Unit,
    user,
)
from builders.engine.tables import Row, convert_rows, question_answer, table_units, with_fields
from builders.healthcaremagic import has_instruction

_SPLITS: dict[str, Role] = {"train": "train", "test": "eval"}
_COLUMNS = ("instruction", "input", "output")
_TEST_COLUMNS = ("id", "instruction", "difficulty")
_TRAIN_FILES = ("data/train-*.parquet", "data/MedInstruct-52k.json", "MedInstruct-52k.json")
_TEST_FILES = ("data/MedInstruct-test.jsonl", "MedInstruct-test.jsonl")
_NO_INPUT = "<noinput>"
_DIFFICULTIES = frozenset("12345")
"""The clinicians' scale, as the README of XZhang97666/AlpaCare gives it; only the test file has it."""


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    train = [require_one(raw, "MedInstruct-52k file", *_TRAIN_FILES)]
    for number, unit in enumerate(
        with_fields(raw, table_units(raw, train, "train", "train", columns=_COLUMNS), _COLUMNS)
    ):
        if number == 0 and has_instruction(raw, unit):
            raise NotThisSource(
                f"{unit.payload['file']}: holds ChatDoctor's instruction; is it HealthCareMagic's file?"
            )
        yield unit
    if first_existing(raw, *_TEST_FILES) is not None:
        test = [require_one(raw, "MedInstruct-test file", *_TEST_FILES)]
        yield from with_fields(raw, table_units(raw, test, "test", "eval"), _TEST_COLUMNS)


def _task(row: Row) -> str:
    """Instruction and input as one text; the test file has no inputs."""
    instruction = text_of(row.values, "instruction", row.file)
    given = text_of(row.values, "input", row.file) if "input" in row.values else ""
    if not instruction.strip():
        raise InputError("empty_question", row.file)
    return instruction if not given.strip() or _NO_INPUT in given else f"{instruction}\n\n{given}"


def _train_sample(row: Row) -> Sample:
    text_of(row.values, "input", row.file)
    return question_answer(row, _task(row), text_of(row.values, "output", row.file))


def _test_sample(row: Row) -> Sample:
    number, difficulty = number_of(row.values, "id", row.file), text_of(row.values, "difficulty", row.file)
    if difficulty not in _DIFFICULTIES:
        raise InputError("bad_field", row.file, "difficulty is not 1 to 5")
    question = _task(row)
    return Sample(
        key=str(number),
        messages=[user(question)],
        file=row.file,
        row=row.number,
        question=question,
        group={"question_id": f"medinstruct-test/{number}"},
        subset=f"difficulty-{difficulty}",
    )


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _train_sample if unit.split == "train" else _test_sample)


# (instruction, input, output)
_TASKS = (
    ("Explain why a mass in the lung could cause shortness of breath.", "<noinput>", "It can narrow an airway."),
    ("Rewrite this note for the patient.", "Pt c/o SOB on exertion, NYHA II.", "You get short of breath when active."),
    ("List three side effects of prednisone.", "", "Weight gain, poor sleep, thin skin."),
    ("Summarise the dialogue.", "Doctor: How long?\nPatient: Two weeks.", "Symptoms for two weeks."),
    ("Which vaccines does a pregnant woman need?", "<noinput>", "Influenza and pertussis."),
    ("Classify the finding as normal or not.", "DNA ploidy: aneuploid.", "Not normal."),
    ("Write a quiz question about the spleen.", '"<noinput>" 2. Type: Open Q&A Topic: Spleen', "What does it filter?"),
    ("Name the bones of the wrist.", "<noinput>", ""),
)
_TEST_TASKS = (
    "Discuss how beta blockers lower blood pressure.",
    "My nephew swallowed a coin an hour ago. What should we do?",
    "Outline a plan for a first seizure in an adult.",
    "What does a raised anion gap mean?",
)

PLANTED: dict[str, str] = {
    "exact_text": "alpacare_medinstruct/train/8 is alpacare_medinstruct/test/2 in capitals",
}
"""What overlaps between the train and test splits of the demo tree."""


def demo_rows() -> list[dict[str, str]]:
    """The demo's train rows: every spelling of no input, and one answer that is empty."""
    rows = [{"instruction": task, "input": given, "output": output} for task, given, output in _TASKS]
    return [*rows, {"instruction": _TEST_TASKS[2].upper(), "input": "<noinput>", "output": "History, EEG, MRI."}]


def _write_demo(raw: Path) -> None:
    write_demo_file(raw / "data/MedInstruct-52k.json", json.dumps(demo_rows(), indent=4).encode())
    models = ("gpt-4-answer", "claude-2", "gpt-3.5-turbo-answer", "text-davinci-003-answer")
    lines = [
        {"id": number, "instruction": task, "difficulty": str(1 + number % 5)}
        | {model: f"It depends. ({model})" for model in models}
        for number, task in enumerate(_TEST_TASKS)
    ]
    write_demo_file(raw / "data/MedInstruct-test.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())


SOURCE = Source(
    name="alpacare_medinstruct",
    title="AlpaCare MedInstruct-52k: medical instructions and answers by language models",
    homepage="https://github.com/XZhang97666/AlpaCare",
    revision="XZhang97666/AlpaCare@b469c41bcd7d; lavita/AlpaCare-MedInstruct-52k@fad8593",
    license="CC-BY-NC-4.0",
    access="open",
    stage="instruct",
    task="instruction",
    modality="text",
    splits=_SPLITS,
    obtain="""
  git clone https://github.com/XZhang97666/AlpaCare
(with git-lfs), or clone the dataset lavita/AlpaCare-MedInstruct-52k from https://huggingface.co (without the test).
--raw is the folder with one of
  data/MedInstruct-52k.json   MedInstruct-52k.json   data/train-*.parquet
and perhaps [data/]MedInstruct-test.jsonl. Its DATA_LICENSE forbids commercial use.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 52_002, "test": 216},
    paper=(
        "train 52,002: the whole file. The test file has 216 questions (the README says 217; an id is left out). "
        "AlpaCare's other test, 1,000 iCliniq questions, is not read."
    ),
    paper_rows=(PaperRow("AlpaCare-MedInstruct-52k", "IT", 52_002),),
    hub_id="lavita/AlpaCare-MedInstruct-52k",
    hub_revision="fad8593f748de481046e54f39400d5282f695280",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
