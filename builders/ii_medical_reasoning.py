"""II-Medical-Reasoning-SFT: 2.2 million replies of reasoning models to medical questions.

`question` is the source's question, `problem` the prompt as sent to the teacher `model`, `messages` the conversation,
in whose replies the reasoning stands in `<think>` tags; it is kept apart from the answer. No column names the source of
a row, and 873,497 rows are 6 to 10 replies to one prompt of MedMCQA, MedQA or PubMedQA: only text can tell which. So
options that stand in the text are taken out of `question` (out of the prompt, if it has none), in order that items
compare as wholes with those sets. Only replies found correct are in the set, but no gold answer is.
"""

from functools import partial
from pathlib import PurePosixPath
from typing import Any

from builders import kit


def _reply(file: str, text: str) -> dict[str, Any]:
    reasoning, answer = kit.split_thinking(text, file)
    return kit.assistant(answer, reasoning)


def _optional(row: kit.Row, name: str) -> str:
    """A text column that may be null or blank."""
    value = row.values.get(name)
    return "" if value is None else kit.checked_text(value, name, row.file).strip()


def _sample(row: kit.Row) -> kit.Sample:
    said = kit.turns_of(kit.field_of(row.values, "messages", row.file), row.file, pictures=False)
    messages = kit.dialogue(said, row.file, partial(_reply, row.file))
    question, options = kit.inline_options(_optional(row, "question") or _optional(row, "problem"))
    kit.check_filled(row.file, question=question)
    if options is None:
        options = kit.inline_options([text for role, text in said if role == "user"][-1])[1]
    key, subset = f"{PurePosixPath(row.file).stem}/{row.number}", _optional(row, "model") or None
    return kit.sample_of(row, messages, key=key, question=question, options=options, subset=subset)


SOURCE = kit.table_source(
    name="ii_medical_reasoning",
    title="II-Medical-Reasoning-SFT: medical questions with the reasoning of language models",
    hub_id="Intelligent-Internet/II-Medical-Reasoning-SFT",
    revision="Intelligent-Internet/II-Medical-Reasoning-SFT@1478165",
    languages=("en", "zh"),
    layouts=(
        kit.Layout(
            "model, question, problem, messages", "card", "Intelligent-Internet/II-Medical-Reasoning-SFT@1478165"
        ),
    ),
    license="unstated",
    task="reasoning",
    obtain="Clone the dataset Intelligent-Internet/II-Medical-Reasoning-SFT from https://huggingface.co (9.1 GB).",
    files={"train": "data/train-*.parquet"},
    several=True,
    fields=(),
    columns=("model", "question", "problem", "messages"),
    sample=_sample,
    published={"train": 2_197_741},
    paper=(
        "train 2,197,741: the whole set. It resamples prompts of MedQA, MedMCQA, PubMedQA; it has Medical-R1-Distill. "
        "Its authors' own test for overlap covers neither MMLU nor PubMedQA. No licence is stated."
    ),
    paper_rows=kit.paper_row("II-Medical-Reasoning", "IT", 2_197_741),
)

if __name__ == "__main__":
    kit.run(SOURCE)
