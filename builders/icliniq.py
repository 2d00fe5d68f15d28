"""iCliniq-10K: patients' questions with three answers, of which only `answer_icliniq` is a doctor's.

The other two (`answer_chatgpt`, `answer_chatdoctor`) are model output and are not read. The name says 10K, the file has
7,321 rows. The set is one and the same in three places. Its copy in lavita/medical-qa-datasets calls it a *test* split,
because ChatDoctor was evaluated on it; the recipe trains on it, so every copy is the split `train` here. 1,000 of the
rows are AlpaCare's iCliniq test, which is no benchmark of the recipe.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from builders.engine.rawfiles import require_one, text_of, write_demo_parquet
from builders.engine.source import PaperRow, Params, Reject, Sample, Source, Unit
from builders.engine.tables import Row, convert_rows, question_answer, table_units, with_fields

_COLUMNS = ("input", "answer_icliniq")
_FILES = ("data/train-*.parquet", "iCliniq.json", "chatdoctor-icliniq/test-*.parquet")


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    files = [require_one(raw, "iCliniq file", *_FILES)]
    return with_fields(raw, table_units(raw, files, "train", "train", columns=_COLUMNS), _COLUMNS)


def _sample(row: Row) -> Sample:
    question, answer = (text_of(row.values, name, row.file) for name in _COLUMNS)
    return question_answer(row, question, answer)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


# (question, the doctor's answer)
_CASES = (
    ("I passed a kidney stone last week and my side still aches.", "An ultrasound will show whether a piece is left."),
    (
        "My daughter, 4, has had a fever of 39 C for two days.",
        "Give fluids and paracetamol; see a doctor on day three.",
    ),
    ("Which tablets for blood pressure are safe in pregnancy?", "Labetalol and methyldopa are used as a rule."),
    ("My wisdom tooth was drawn and the socket hurts more today.", "This may be a dry socket; please return to him."),
    ("I cannot sleep since I began prednisolone.", "Take it in the morning. Do not stop it at once."),
    ("Can I drink coffee before a thyroid test?", "Yes, but not with your tablet."),
)

PLANTED: dict[str, str] = {
    "other_set": "row 6 asks the question of healthcaremagic/train/3, word for word",
}
"""What overlaps with the demo trees of other sources."""


def demo_rows() -> list[dict[str, str | None]]:
    """The demo's rows: model answers that differ from the doctor's or are missing, and a question without an answer."""
    rows: list[dict[str, str | None]] = [
        {
            "input": f"Hello doctor, {question}",
            "answer_icliniq": f"Hello, Welcome to iCliniq.com. {answer}",
            "answer_chatgpt": "I am sorry to hear that. It would be best to consult a healthcare professional.",
            "answer_chatdoctor": "Hi, as a model I would suggest rest.",
        }
        for question, answer in _CASES
    ]
    rows[1]["answer_chatgpt"] = None
    rows[2]["answer_chatdoctor"] = ""
    rows.append(
        rows[0]
        | {
            "input": "Hello doctor, I see floaters and flashes in my left eye. It began this morning. "
            "What should I do?",
            "answer_icliniq": "Hello. Please see an eye doctor at once.",
        }
    )
    rows.append(rows[3] | {"input": "Hello doctor, is a dry socket an infection?", "answer_icliniq": " "})
    return rows


def _write_demo(raw: Path) -> None:
    write_demo_parquet(raw / "data/train-00000-of-00001.parquet", list(demo_rows()))


SOURCE = Source(
    name="icliniq",
    title="iCliniq-10K: patients' questions with a doctor's answer",
    homepage="https://huggingface.co/datasets/lavita/ChatDoctor-iCliniq",
    revision="lavita/medical-qa-datasets (viewer: 7.32k rows); Kent0n-Li/ChatDoctor@e77bd7ebafbf",
    license="unstated",
    access="open",
    stage="instruct",
    task="qa",
    modality="text",
    splits={"train": "train"},
    obtain="""
Clone the dataset lavita/ChatDoctor-iCliniq from https://huggingface.co, or download iCliniq.json (Google Drive, linked
from the README of https://github.com/Kent0n-Li/ChatDoctor). --raw is the folder with one of
  data/train-*.parquet
  iCliniq.json
  chatdoctor-icliniq/test-*.parquet     (the same rows, in lavita/medical-qa-datasets)""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 7_321},
    paper=(
        "train 7,321: the whole file (10K is its nickname). It is ChatDoctor's evaluation set, and 1,000 rows of it "
        "are AlpaCare's iCliniq test; neither is a benchmark of the recipe. No licence is stated."
    ),
    paper_rows=(PaperRow("iCliniq-10K", "IT", 7_321),),
    hub_id="lavita/ChatDoctor-iCliniq",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
