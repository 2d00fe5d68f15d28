"""II-Medical-Reasoning-SFT: 2.2 million replies of reasoning models to medical questions.

`question` is the source's question, `problem` the prompt as sent to the teacher `model`, `messages` the conversation,
in whose replies the reasoning stands in `<think>` tags; it is kept apart from the answer. No column names the source of
a row, and 873,497 rows are 6 to 10 replies to one prompt of MedMCQA, MedQA or PubMedQA: only text can tell which. So
options that stand in the text are taken out of `question` (out of the prompt, if it has none), in order that items
compare as wholes with those sets. Only replies found correct are in the set, but no gold answer is.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
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
    assistant,
    checked_text,
    convert_rows,
    dialogue,
    field_of,
    inline_options,
    run,
    split_thinking,
    table_units,
)

_COLUMNS = ("model", "question", "problem", "messages")
_ROLES = frozenset({"user", "assistant", "system"})


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    files = sorted(raw.glob("data/train-*.parquet"))
    if not files:
        raise NotThisSource(f"{raw}: no data/train-*.parquet found; is --raw the right folder?")
    return table_units(raw, files, "train", "train", columns=_COLUMNS)


def _reply(file: str, text: str) -> dict[str, Any]:
    reasoning, answer = split_thinking(text, file)
    return assistant(answer, reasoning)


def _turn(turn: Any, file: str) -> tuple[str, str]:
    role = field_of(turn, "role", file)
    if role not in _ROLES:
        raise InputError("bad_field", file, "a message is by neither user, assistant nor system")
    return role, checked_text(field_of(turn, "content", file), "content", file)


def _optional(row: Row, name: str) -> str:
    """A text column that may be null or blank."""
    value = row.values.get(name)
    return "" if value is None else checked_text(value, name, row.file).strip()


def _sample(row: Row) -> Sample:
    turns = field_of(row.values, "messages", row.file)
    if not isinstance(turns, list):
        raise InputError("bad_field", row.file, "messages is not a list")
    said = [_turn(turn, row.file) for turn in turns]
    messages = dialogue(said, row.file, partial(_reply, row.file))
    question, options = inline_options(_optional(row, "question") or _optional(row, "problem"))
    if not question:
        raise InputError("empty_question", row.file)
    if options is None:
        prompt = [text for role, text in said if role == "user"][-1]
        options = inline_options(prompt)[1]
    return Sample(
        key=f"{PurePosixPath(row.file).stem}/{row.number}",
        messages=messages,
        file=row.file,
        row=row.number,
        question=question,
        options=options,
        subset=_optional(row, "model") or None,
    )


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


SOURCE = Source(
    name="ii_medical_reasoning",
    title="II-Medical-Reasoning-SFT: medical questions with the reasoning of language models",
    homepage="https://huggingface.co/datasets/Intelligent-Internet/II-Medical-Reasoning-SFT",
    revision="Intelligent-Internet/II-Medical-Reasoning-SFT@1478165",
    license="unstated",
    access="open",
    stage="instruct",
    task="reasoning",
    modality="text",
    splits={"train": "train"},
    obtain="""
Clone the dataset Intelligent-Internet/II-Medical-Reasoning-SFT from https://huggingface.co (9.1 GB). --raw is the
folder with
  data/train-*.parquet""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 2_197_741},
    paper=(
        "train 2,197,741: the whole set. It resamples prompts of MedQA, MedMCQA, PubMedQA; it has Medical-R1-Distill. "
        "Its authors' own test for overlap covers neither MMLU nor PubMedQA. No licence is stated."
    ),
    paper_rows=(PaperRow("II-Medical-Reasoning", "IT", 2_197_741),),
    hub_id="Intelligent-Internet/II-Medical-Reasoning-SFT",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    run(SOURCE)
