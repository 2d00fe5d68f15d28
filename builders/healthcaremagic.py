"""HealthCareMagic-100k: patients' messages and doctors' replies, scraped from HealthCareMagic.com for ChatDoctor.

Every row has one and the same `instruction`, so that nothing can be told from it: `question` is `input` alone. The name
says 100k, the file has 112,165 rows. Replies keep the publisher's scrubbing ("Chat Doctor" where a name was).
"""

from dataclasses import replace
from pathlib import Path

from builders import kit


def _check(raw: Path, unit: kit.Unit, params: kit.Params) -> None:
    if not kit.any_row_has(raw, unit, "instruction", kit.CHATDOCTOR_INSTRUCTION):
        raise kit.NotThisSource(f"{unit.payload['file']}: not ChatDoctor's instruction; is it another set's file?")


def _sample(row: kit.Row, instruction: str, question: str, answer: str) -> kit.Sample:
    messages = [kit.user(f"{instruction}\n\n{question}"), kit.assistant(answer)]
    return replace(kit.question_answer(row, question, answer), messages=messages)


SOURCE = kit.table_source(
    name="healthcaremagic",
    title="HealthCareMagic-100k: patients' questions answered by doctors",
    hub_id="lavita/ChatDoctor-HealthCareMagic-100k",
    revision="lavita/ChatDoctor-HealthCareMagic-100k@880de71; fields: Kent0n-Li/ChatDoctor@e77bd7ebafbf",
    layouts=(kit.Layout("instruction, input, output", "code", "Kent0n-Li/ChatDoctor@e77bd7e"),),
    license="unstated",
    obtain="""
Clone the dataset lavita/ChatDoctor-HealthCareMagic-100k from https://huggingface.co, or download
HealthCareMagic-100k.json (Google Drive, linked from the README of https://github.com/Kent0n-Li/ChatDoctor).""",
    files={"train": ("data/train-*.parquet", "*[Hh]ealth[Cc]are[Mm]agic*.json*")},
    fields=("instruction", "input", "output"),
    check=_check,
    sample=_sample,
    published={"train": 112_165},
    paper="train 112,165: the whole file (100k is its nickname). No licence is stated for the data.",
    paper_rows=kit.paper_row("HealthCareMagic-100k", "IT", 112_165),
)

if __name__ == "__main__":
    kit.run(SOURCE)
