"""AlpaCare's MedInstruct: 52,002 medical tasks written by GPT-4 and answered by GPT-3.5, and a test set by clinicians.

An `input` that is empty or holds `<noinput>` means none: the publisher's own code (utils.py of XZhang97666/AlpaCare)
asks for the answer with the instruction alone then, and so does the prompt here. `MedInstruct-test.jsonl` is a test
file beside the train file: 216 questions with four models' answers and no gold answer, built as questions alone.
"""

from collections.abc import Iterator
from pathlib import Path

from builders import kit

_COLUMNS = ("instruction", "input", "output")
_TEST_COLUMNS = ("id", "instruction", "difficulty")
_TRAIN_FILES = ("data/train-*.parquet", "data/MedInstruct-52k.json", "MedInstruct-52k.json")
_TEST_FILES = ("data/MedInstruct-test.jsonl", "MedInstruct-test.jsonl")
_DIFFICULTIES = frozenset("12345")
"""The clinicians' scale, as the README of XZhang97666/AlpaCare gives it; only the test file has it."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    """The splits have different fields."""
    train = [kit.require_one(raw, "MedInstruct-52k file", *_TRAIN_FILES)]
    units = kit.with_fields(raw, kit.table_units(raw, train, "train", "train", columns=_COLUMNS), _COLUMNS)
    for number, unit in enumerate(units):
        if number == 0 and kit.any_row_has(raw, unit, "instruction", kit.CHATDOCTOR_INSTRUCTION):
            raise kit.NotThisSource(
                f"{unit.payload['file']}: holds ChatDoctor's instruction; is it HealthCareMagic's file?"
            )
        yield unit
    if kit.first_existing(raw, *_TEST_FILES) is not None:
        test = [kit.require_one(raw, "MedInstruct-test file", *_TEST_FILES)]
        yield from kit.with_fields(raw, kit.table_units(raw, test, "test", "eval"), _TEST_COLUMNS)


def _sample(row: kit.Row, instruction: str) -> kit.Sample:
    if row.split == "test":
        return _test_sample(row, instruction)
    given, output = kit.text_of(row.values, "input", row.file), kit.text_of(row.values, "output", row.file)
    kit.check_filled(row.file, question=instruction)
    alone = not given.strip() or "<noinput>" in given
    return kit.question_answer(row, instruction if alone else f"{instruction}\n\n{given}", output)


def _test_sample(row: kit.Row, question: str) -> kit.Sample:
    number, difficulty = kit.number_of(row.values, "id", row.file), kit.text_of(row.values, "difficulty", row.file)
    kit.demand(difficulty in _DIFFICULTIES, "bad_field", row.file, "difficulty is not 1 to 5")
    kit.check_filled(row.file, question=question)
    group, subset = {"question_id": f"medinstruct-test/{number}"}, f"difficulty-{difficulty}"
    return kit.sample_of(row, [kit.user(question)], key=str(number), question=question, group=group, subset=subset)


SOURCE = kit.table_source(
    name="alpacare_medinstruct",
    title="AlpaCare MedInstruct-52k: medical instructions and answers by language models",
    homepage="https://github.com/XZhang97666/AlpaCare",
    revision="XZhang97666/AlpaCare@b469c41bcd7d; lavita/AlpaCare-MedInstruct-52k@fad8593",
    layouts=(
        kit.Layout("the 52k file", "card", "lavita/AlpaCare-MedInstruct-52k@fad8593"),
        kit.Layout("MedInstruct-test.jsonl", "rows", "XZhang97666/AlpaCare@b469c41", files="*MedInstruct-test.jsonl"),
    ),
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
    paper_rows=kit.paper_row("AlpaCare-MedInstruct-52k", "IT", 52_002),
    hub_id="lavita/AlpaCare-MedInstruct-52k",
    hub_revision="fad8593f748de481046e54f39400d5282f695280",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    kit.run(SOURCE)
