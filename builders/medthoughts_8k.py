"""MedThoughts-8K: DeepSeek-R1's reasoning on 7,716 MedQA US training questions, with five options.

Stems and options are verbatim MedQA; the publisher left out the rows in which R1 chose wrongly. As in its own converter
(hwei-hw/MedR1, utils/build_sft.py) the target is the gold option; `ds_answer`, R1's wording of it, is not used.
`question_id` is not known to be a line number of MedQA's file, so it has a namespace of its own: the overlap with
`medqa` is found by text, not by id.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from builders.kit import (
    InputError,
    PaperRow,
    Params,
    Reject,
    Row,
    Sample,
    Source,
    Unit,
    assistant,
    checked_text,
    choice_answer,
    choice_prompt,
    convert_rows,
    field_of,
    require,
    run,
    table_units,
    text_of,
    user,
    with_fields,
)

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
    published=lambda params: {"train": 7_716},
    paper="train 7,716: the publisher's file (GPL-3.0). Its questions repeat MedQA's training questions word for word.",
    paper_rows=(PaperRow("MedThoughts-8K", "IT", 7_716),),
    hub_id="hw-hwei/MedThoughts-8K",
    hub_files=(FILE,),
)

if __name__ == "__main__":
    run(SOURCE)
