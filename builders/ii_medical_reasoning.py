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

from builders.engine.rawfiles import (
    checked_text,
    dialogue,
    field_of,
    inline_options,
    split_thinking,
    write_demo_parquet,
)
from builders.engine.source import InputError, NotThisSource, PaperRow, Params, Reject, Sample, Source, Unit, assistant
from builders.engine.tables import Row, convert_rows, table_units

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


# (question, its options, reasoning, answer); the first is an item of the demo of medqa, test split.
_CASES: tuple[tuple[str, tuple[str, ...], str, str], ...] = (
    (
        "A 72-year-old woman has watery diarrhoea after two weeks of clindamycin. What is the most likely diagnosis?",
        ("Clostridioides difficile colitis", "Addison disease", "Hepatic encephalopathy", "Malaria"),
        "Antibiotics came first, so the colon's flora is disturbed.",
        "The answer is \\boxed{A}.",
    ),
    (
        "Which vitamin does warfarin act against?",
        ("Vitamin A", "Vitamin C", "Vitamin K", "Vitamin E"),
        "Warfarin blocks the recycling of vitamin K.",
        "\\boxed{C}",
    ),
    ("Why does a chest tube bubble?", (), "Air leaves the pleural space.", "Because air still leaks from the lung."),
    ("急性阑尾炎的典型体征是什么？", (), "首先考虑麦氏点。", "麦氏点压痛和反跳痛。"),
    ("How is lactate cleared?", (), "", "Mostly by the liver."),
)
_BOXED = "Please reason step by step, and put your final answer within \\boxed{}."

PLANTED: dict[str, str] = {
    "exact_text": "both rows of the first file ask medqa/test/11 of its demo tree, options and all",
    "resampled": "so do rows 0 and 1 of the second file ask one question: two replies to one prompt",
}
"""What overlaps with the demo trees of other sources, and what repeats."""


def _demo_row(model: str, question: str, problem: str, *turns: str) -> dict[str, Any]:
    messages = [{"content": text, "role": ("user", "assistant")[index % 2]} for index, text in enumerate(turns)]
    return {"model": model, "question": question, "problem": problem, "messages": messages}


def demo_rows() -> list[dict[str, Any]]:
    """The demo's rows: every shape of reasoning, several turns, Chinese, options in the prompt or in the question."""
    rows = []
    for question, options, reasoning, answer in _CASES:
        listed = "".join(f"\n{label}. {text}" for label, text in zip("ABCD", options, strict=False))
        problem = f"{question}\n{listed}\n\n{_BOXED}" if listed else question
        reply = f"<think>\n{reasoning}\n</think>\n\n{answer}"
        rows.append(_demo_row("deepseek-ai/DeepSeek-R1", question, problem, problem, reply))
        if listed:  # the second reply to the same prompt; its question has the options inline, its tag is in the prompt
            again = f"{reasoning} The rest do not fit.\n</think>\n{answer}"
            rows.append(_demo_row("Qwen/QwQ-32B", f"{question}{listed}", problem, problem, again))
    first, second = "What is an aneurysm?", "And when is it repaired?"
    replies = "<think>A wall that bulges.</think>A bulge of a vessel.", "<think>Size matters.</think>Above 5.5 cm."
    rows.append(_demo_row("deepseek-ai/DeepSeek-R1", second, second, first, replies[0], second, replies[1]))
    rows.append(_demo_row("Qwen/QwQ-32B", "", "Define anuria.", "Define anuria.", "<think>Urine.</think>No urine."))
    rows.append(_demo_row("", "What is a bruit?", "What is a bruit?", "What is a bruit?", "A sound over a vessel."))
    rows.append(_demo_row("Qwen/QwQ-32B", "Define shock.", "Define shock.", "Define shock.", "<think>Low flow, so"))
    rows.append(_demo_row("Qwen/QwQ-32B", "Define sepsis.", "Define sepsis.", "Define sepsis.", "<think>Hm</think>\n"))
    return rows


def _write_demo(raw: Path) -> None:
    rows = demo_rows()
    write_demo_parquet(raw / "data/train-00000-of-00002.parquet", rows[:2])
    write_demo_parquet(raw / "data/train-00001-of-00002.parquet", rows[2:])


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
    write_demo=_write_demo,
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
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
