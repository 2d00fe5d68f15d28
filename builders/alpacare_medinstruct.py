"""AlpaCare's MedInstruct: 52,002 medical tasks written by GPT-4 and answered by GPT-3.5, and a test set by clinicians.

An `input` that is empty or holds `<noinput>` means none: the publisher's own code (utils.py of XZhang97666/AlpaCare)
asks for the answer with the instruction alone then, and so does the prompt here. `MedInstruct-test.jsonl` is a test
file beside the train file: 216 questions with four models' answers and no gold answer, built as questions alone.
"""

from collections.abc import Iterator
from pathlib import Path

from builders.kit import (
    CHATDOCTOR_INSTRUCTION,
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Row,
    Sample,
    Unit,
    any_row_has,
    first_existing,
    number_of,
    question_answer,
    require_one,
    run,
    table_source,
    table_units,
    text_of,
    user,
    with_fields,
)

_COLUMNS = ("instruction", "input", "output")
_TEST_COLUMNS = ("id", "instruction", "difficulty")
_TRAIN_FILES = ("data/train-*.parquet", "data/MedInstruct-52k.json", "MedInstruct-52k.json")
_TEST_FILES = ("data/MedInstruct-test.jsonl", "MedInstruct-test.jsonl")
_DIFFICULTIES = frozenset("12345")
"""The clinicians' scale, as the README of XZhang97666/AlpaCare gives it; only the test file has it."""


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    """The splits have different fields."""
    train = [require_one(raw, "MedInstruct-52k file", *_TRAIN_FILES)]
    units = with_fields(raw, table_units(raw, train, "train", "train", columns=_COLUMNS), _COLUMNS)
    for number, unit in enumerate(units):
        if number == 0 and any_row_has(raw, unit, "instruction", CHATDOCTOR_INSTRUCTION):
            raise NotThisSource(
                f"{unit.payload['file']}: holds ChatDoctor's instruction; is it HealthCareMagic's file?"
            )
        yield unit
    if first_existing(raw, *_TEST_FILES) is not None:
        test = [require_one(raw, "MedInstruct-test file", *_TEST_FILES)]
        yield from with_fields(raw, table_units(raw, test, "test", "eval"), _TEST_COLUMNS)


def _sample(row: Row, instruction: str) -> Sample:
    if row.split == "test":
        return _test_sample(row, instruction)
    given, output = text_of(row.values, "input", row.file), text_of(row.values, "output", row.file)
    if not instruction.strip():
        raise InputError("empty_question", row.file)
    alone = not given.strip() or "<noinput>" in given
    return question_answer(row, instruction if alone else f"{instruction}\n\n{given}", output)


def _test_sample(row: Row, question: str) -> Sample:
    number, difficulty = number_of(row.values, "id", row.file), text_of(row.values, "difficulty", row.file)
    if difficulty not in _DIFFICULTIES:
        raise InputError("bad_field", row.file, "difficulty is not 1 to 5")
    if not question.strip():
        raise InputError("empty_question", row.file)
    return Sample(
        key=str(number),
        messages=[user(question)],
        file=row.file,
        row=row.number,
        question=question,
        group={"question_id": f"medinstruct-test/{number}"},
        subset=f"difficulty-{difficulty}",
    )


SOURCE = table_source(
    name="alpacare_medinstruct",
    title="AlpaCare MedInstruct-52k: medical instructions and answers by language models",
    homepage="https://github.com/XZhang97666/AlpaCare",
    revision="XZhang97666/AlpaCare@b469c41bcd7d; lavita/AlpaCare-MedInstruct-52k@fad8593",
    license="CC-BY-NC-4.0",
    task="instruction",
    splits={"train": "train", "test": "eval"},
    obtain="""
  git clone https://github.com/XZhang97666/AlpaCare
(with git-lfs), or clone the dataset lavita/AlpaCare-MedInstruct-52k from https://huggingface.co (without the test,
which is left out then). Its DATA_LICENSE forbids commercial use. Train rows have input and output as well, test rows id
and difficulty.""",
    files={"train": _TRAIN_FILES, "test": _TEST_FILES},
    fields=("instruction",),
    plan=_plan,
    sample=_sample,
    published={"train": 52_002, "test": 216},
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
    run(SOURCE)
