"""Medical-R1-Distill-Data: DeepSeek-R1's reasoning and response to HuatuoGPT-o1's verifiable problems.

Two columns are literally named `reasoning (reasoning_content)` and `response (content)`. The questions are a subset of
the `huatuo_o1` source's, which the exact text audit sees; the file has no ids and no gold answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from builders.engine.rawfiles import require, text_of, write_demo_file
from builders.engine.source import InputError, PaperRow, Params, Reject, Sample, Source, Unit, assistant, user
from builders.engine.tables import Row, convert_rows, table_units, with_fields

FILE = "medical_r1_distill_sft.json"
_QUESTION, _REASONING, _RESPONSE = "question", "reasoning (reasoning_content)", "response (content)"


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path = require(raw, "distilled answers", FILE)
    yield from with_fields(raw, table_units(raw, [path], "train", "train"), (_QUESTION, _REASONING, _RESPONSE))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


def _sample(row: Row) -> Sample:
    question, reasoning, response = (text_of(row.values, name, row.file) for name in (_QUESTION, _REASONING, _RESPONSE))
    for text, reason in ((question, "empty_question"), (reasoning, "empty_reasoning"), (response, "empty_answer")):
        if not text.strip():
            raise InputError(reason, row.file)
    return Sample(
        key=row.number,
        messages=[user(question), assistant(response, reasoning=reasoning)],
        file=row.file,
        row=row.number,
        question=question,
        answer=response,
    )


PLANTED: dict[str, str] = {
    "subset": "the questions of medical_r1_distill/train/0 to 5 are those of huatuo_o1/train/4 to 9",
}
"""What overlaps between this demo tree and others."""


def _write_demo(raw: Path) -> None:
    from builders.huatuo_o1 import DEMO_PROBLEMS

    rows = [
        {
            _QUESTION: question,
            _REASONING: f"Okay, let's see. The question is about this: {question.split('.')[0]}.\n\n"
            f"Several causes fit at first; on reflection {answer} is the one that explains everything.",
            _RESPONSE: f"The answer is **{answer}**.\n\nIt accounts for the findings, and the alternatives do not.",
        }
        for question, answer in DEMO_PROBLEMS[4:]
    ]
    asked = {_QUESTION: "What is the first-line treatment of scabies in a nursing home outbreak?"}
    rows += [
        asked | {_REASONING: "", _RESPONSE: "Permethrin 5 % cream for all residents and staff."},
        asked | {_REASONING: "Okay, the user asks about an outbreak.", _RESPONSE: " "},
    ]
    write_demo_file(raw / FILE, json.dumps(rows, ensure_ascii=False, indent=2).encode())


SOURCE = Source(
    name="medical_r1_distill",
    title="Medical-R1-Distill-Data: DeepSeek-R1's answers to medical-o1 verifiable problems",
    homepage="https://huggingface.co/datasets/FreedomIntelligence/Medical-R1-Distill-Data",
    revision="FreedomIntelligence/Medical-R1-Distill-Data (hub cards 928de1b to 17b09da)",
    license="Apache-2.0",
    access="open",
    stage="instruct",
    task="qa",
    modality="text",
    splits={"train": "train"},
    obtain=f"""
  hf download FreedomIntelligence/Medical-R1-Distill-Data --repo-type dataset --local-dir DIR
--raw is the folder with
  {FILE}   a JSON array; fields "{_QUESTION}", "{_REASONING}", "{_RESPONSE}"
(An early revision also had a Chinese file; it is not read.)""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 22_000},
    paper="train 22,000: the publisher's file. Its questions repeat huatuo_o1's, with other answers.",
    paper_rows=(PaperRow("Medical-R1-Distill-Data", "IT", 22_000),),
    hub_id="FreedomIntelligence/Medical-R1-Distill-Data",
    hub_files=(FILE,),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
