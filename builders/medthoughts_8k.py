"""MedThoughts-8K: DeepSeek-R1's reasoning on 7,716 MedQA US training questions, with five options.

Stems and options are verbatim MedQA; the publisher left out the rows in which R1 chose wrongly. As in its own converter
(hwei-hw/MedR1, utils/build_sft.py) the target is the gold option; `ds_answer`, R1's wording of it, is not used.
`question_id` is not known to be a line number of MedQA's file, so it has a namespace of its own: the overlap with
`medqa` is found by text, not by id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from builders.engine.rawfiles import checked_text, field_of, require, text_of, write_demo_file
from builders.engine.source import (
    InputError,
    PaperRow,
    Params,
    Reject,
    Sample,
    Source,
    Unit,
    assistant,
    choice_answer,
    choice_prompt,
    user,
)
from builders.engine.tables import Row, convert_rows, table_units, with_fields

FILE = "MedThoughts-8K.jsonl"
_FIELDS = ("question_id", "question", "options", "answer_idx", "ds_think", "source")
_LABELS = "ABCDE"
_SPLIT = "MedQA/US/train"
_ID = re.compile(r"[A-Za-z0-9_\-]+")


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path = require(raw, "distilled answers", FILE)
    yield from with_fields(raw, table_units(raw, [path], "train", "train"), _FIELDS)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


def _sample(row: Row) -> Sample:
    values, file = row.values, row.file
    number = field_of(values, "question_id", file)
    if not isinstance(number, int | str) or isinstance(number, bool) or not _ID.fullmatch(str(number)):
        raise InputError("bad_id", file, "question_id")
    if text_of(values, "source", file) != _SPLIT:
        # Rows of another split of MedQA would be test questions.
        raise InputError("bad_field", file, f"source is not {_SPLIT}")
    question, reasoning = text_of(values, "question", file), text_of(values, "ds_think", file)
    listed = field_of(values, "options", file)
    if not isinstance(listed, dict) or sorted(listed) != list(_LABELS):
        raise InputError("bad_field", file, f"options are not {', '.join(_LABELS)}")
    options = [(label, checked_text(listed[label], f"option {label}", file)) for label in _LABELS]
    answer = text_of(values, "answer_idx", file)
    if answer not in listed:
        raise InputError("bad_field", file, "answer_idx names no option")
    if not question.strip():
        raise InputError("empty_question", file)
    if not reasoning.strip():
        raise InputError("empty_reasoning", file)
    return Sample(
        key=str(number),
        messages=[
            user(choice_prompt(question, options)),
            assistant(choice_answer(options, answer), reasoning=reasoning),
        ],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=answer,
        group={"question_id": f"medthoughts-8k/{number}"},
    )


PLANTED: dict[str, str] = {
    "verbatim": "medthoughts_8k/train/0 to 3 have the stems of medqa/train/1 to 4, with a fifth option",
}
"""What overlaps between this demo tree and others."""


def _write_demo(raw: Path) -> None:
    endocarditis, ketoacidosis = (
        "A 19-year-old man has fever, a harsh holosystolic murmur and splinter haemorrhages.",
        "A 56-year-old woman has polyuria, polydipsia and a serum glucose of 412 mg/dL.",
    )
    diagnosis, treatment = "What is the most likely diagnosis?", "Which treatment is best now?"
    rows: list[dict[str, Any]] = []
    for stem, answer, *others in (
        (f"{endocarditis} {diagnosis}", "Infective endocarditis", "Rheumatic fever", "Lyme disease", "Myocarditis"),
        (f"{endocarditis} {treatment}", "Vancomycin", "Aspirin", "Colchicine", "Fluconazole"),
        (f"{ketoacidosis} {diagnosis}", "Diabetic ketoacidosis", "Psychogenic polydipsia", "Gout", "Migraine"),
        (f"{ketoacidosis} {treatment}", "Intravenous insulin", "Metformin", "Desmopressin", "Furosemide"),
        ("Which tendon is torn in mallet finger?", "Terminal extensor", "Palmaris longus", "Supraspinatus", "Psoas"),
    ):
        place = len(rows)
        texts = [*others, "Watchful waiting"]
        texts.insert(place % len(_LABELS), answer)
        label = _LABELS[texts.index(answer)]
        rows.append(
            {
                "question_id": place,
                "question": stem,
                "options": dict(zip(_LABELS, texts, strict=True)),
                "answer_idx": label,
                "ds_answer": f"The correct answer is **{label}: {answer}**.",
                "ds_think": f"Okay, so I need to pick one option. {answer} fits best; the others explain less.\n",
                "source": _SPLIT,
            }
        )
    rows.append(rows[4] | {"question_id": 11, "ds_think": "", "question": "Which nerve is cut if the wrist drops?"})
    write_demo_file(raw / FILE, "".join(json.dumps(row) + "\n" for row in rows).encode())


SOURCE = Source(
    name="medthoughts_8k",
    title="MedThoughts-8K: DeepSeek-R1's reasoning on MedQA US training questions",
    homepage="https://huggingface.co/datasets/hw-hwei/MedThoughts-8K",
    revision="hw-hwei/MedThoughts-8K (hub tree 423360b), hwei-hw/MedR1 build_sft.py",
    license="GPL-3.0",
    access="open",
    stage="instruct",
    task="mcq",
    modality="text",
    splits={"train": "train"},
    obtain=f"""
  hf download hw-hwei/MedThoughts-8K --repo-type dataset --local-dir DIR
--raw is the folder with
  {FILE}   JSON Lines; fields {", ".join(_FIELDS)}
Its licence, GPL-3.0, is unusual for data: --licenses leaves it out where that is unwelcome.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 7_716},
    paper="train 7,716: the publisher's file (GPL-3.0). Its questions repeat MedQA's training questions word for word.",
    paper_rows=(PaperRow("MedThoughts-8K", "IT", 7_716),),
    hub_id="hw-hwei/MedThoughts-8K",
    hub_files=(FILE,),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
