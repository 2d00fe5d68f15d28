"""ReasonMed: reasoning to some 195,000 exam questions, in three renderings of about 370,000 rows each.

`CoTMed.json` holds the chain of thought with the answer at its end, `ResponseMed.json` a summary, `ReasonMed.json`
both; the recipe's 1,111,555 are the three together. Question and options stand in `instruction`, and no column has the
gold answer: `answer` is the one letter that `output` states, null where it states none or several. The files are named
one by one, never globbed: `eval_data/eval_data_all.json` of the same project is a test file.

The questions are MedQA train and dev, MedMCQA train, half of PubMedQA-L, MMLU dev and validation: our splits `dev` and
`validation` of those sets, and 500 of PubMedQA's, are questions of this set by design.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builders.engine.rawfiles import inline_options, require, split_thinking, text_of, write_demo_file
from builders.engine.source import (
    InputError,
    Option,
    PaperRow,
    Params,
    Reject,
    Sample,
    Source,
    Unit,
    assistant,
    choice_answer,
    user,
)
from builders.engine.tables import Row, convert_rows, table_units, with_fields

_RENDERINGS = ("CoTMed", "ResponseMed", "ReasonMed")
_COLUMNS = ("instruction", "input", "output")
_PREAMBLE = re.compile(r"\s*please answer the following multiple-choice question\s*:?\s*", re.IGNORECASE)
_STATED = re.compile(r"nswer(?: [Ii][Ss]|:)[\s:*_(\[]*(?:[Oo]ption )?([A-J])(?=[.):*\]_,;]|\s*(?:$|\n)|\s+[-–(])")
"""A reply's statement of its answer, "the correct answer is **B. Gout**", but not "the answer is a combination".

It begins with letters of one case, which `re` looks for many times faster than for either case.
"""


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    chosen = _RENDERINGS if params["rendering"] == "all" else (params["rendering"],)
    number = 0
    for rendering in chosen:
        path = require(raw, f"{rendering} file", f"{rendering}.json")
        units = table_units(raw, [path], "train", "train", first_unit=number)
        for unit in with_fields(raw, units, _COLUMNS):
            yield unit
            number += 1


def _stated(output: str, labels: set[str]) -> str | None:
    """The one label that a reply states as its answer."""
    stated = set(_STATED.findall(output.replace("ANSWER", "Answer")))
    return stated.pop() if len(stated) == 1 and stated <= labels else None


def _sample(rendering: str, row: Row) -> Sample:
    instruction, given, output = (text_of(row.values, name, row.file) for name in _COLUMNS)
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    question, options = inline_options(_PREAMBLE.sub("", prompt, count=1))
    if not question:
        raise InputError("empty_question", row.file)
    reasoning, text = split_thinking(output, row.file)
    label = _stated(output, {label for label, _ in options or ()})
    if reasoning is None and label is not None and options is not None and rendering != "ResponseMed":
        reasoning, text = text, choice_answer(options, label)
    return Sample(
        key=f"{rendering}/{row.number}",
        messages=[user(prompt), assistant(text, reasoning)],
        file=row.file,
        row=row.number,
        question=question,
        options=options,
        answer=label,
        subset=rendering,
    )


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, partial(_sample, Path(unit.payload["file"]).stem))


# (question, options, the right one); the first is an item of the demo of medqa, dev split: MedQA dev is a source.
_CASES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "A 39-year-old man has epigastric pain that wakes him and melena. What is the most likely diagnosis?",
        ("Aortic dissection", "Peptic ulcer disease", "Asthma", "Erythema multiforme"),
        "B",
    ),
    ("Heberden's ahritis affects", ("Lumbar spine", "Wrist", "Distal interphalangeal joints", "Knee"), "C"),
    ("Does oral zinc shorten the common cold?", ("yes", "no", "maybe"), "A"),
    ("Which nerve supplies the deltoid?", ("Radial", "Axillary", "Median", "Ulnar"), "B"),
    ("The most sensitive test for iron deficiency is", ("Ferritin", "Serum iron", "MCV", "TIBC", "Reticulocytes"), "A"),
)
_PROMPT = "Please answer the following multiple-choice question:"

PLANTED: dict[str, str] = {
    "by_design": "row 0 of each rendering is medqa/dev/5 of its demo tree: MedQA dev is among the sources",
}
"""What overlaps with the demo trees of other sources."""


def demo_rows(rendering: str) -> list[dict[str, str]]:
    """The demo's rows of a rendering: letters stated once, never or twice; options of three, five or no lines."""
    rows = []
    for number, (question, options, label) in enumerate(_CASES):
        listed = "\n".join(f"{mark}. {text}" for mark, text in zip("ABCDE", options, strict=False))
        right = dict(zip("ABCDE", options, strict=False))[label]
        thought = f"1. The question asks: {question}\n2. Option A is weighed first, then the rest.\n"
        said = (f"The correct answer is **{label}. {right}**.", f"Final answer: {label}", f"So {right} it is.")[
            number % 3
        ]
        output = {
            "CoTMed": thought + said,
            "ResponseMed": f"{right} fits best. {said}",
            "ReasonMed": f"<think>{thought}</think>\n{said}" if number % 2 else f"{thought}\n{said}",
        }[rendering]
        given = "Context: 300 adults, two arms." if options[0] == "yes" else ""
        rows.append({"instruction": f"{_PROMPT} {question}\n{listed}", "input": given, "output": output})
    unsure = "The answer is A. On reflection, the answer is B."
    rows.append(rows[3] | {"instruction": f"{_PROMPT} Which muscle abducts?\nA. Deltoid\nB. Teres", "output": unsure})
    rows.append(
        rows[3] | {"instruction": "Explain why aspirin is stopped before surgery.", "output": "It thins blood."}
    )
    rows.append(rows[3] | {"output": ""})
    return rows


def _write_demo(raw: Path) -> None:
    for rendering in _RENDERINGS:
        rows = demo_rows(rendering)[: 7 if rendering == "ResponseMed" else None]  # summaries that failed were left out
        write_demo_file(raw / f"{rendering}.json", json.dumps(rows, ensure_ascii=False, indent=2).encode())
    test = [{"instruction": f"{_PROMPT} A test question?\nA. Yes\nB. No", "input": "", "output": "The answer is A."}]
    write_demo_file(raw / "eval_data/eval_data_all.json", json.dumps(test).encode())


SOURCE = Source(
    name="reasonmed",
    title="ReasonMed: chains of thought and summaries for medical exam questions",
    homepage="https://huggingface.co/datasets/lingshu-medical-mllm/ReasonMed",
    revision="lingshu-medical-mllm/ReasonMed@34eb514; YuSun-Work/ReasonMed@9995fab840cb",
    license="Apache-2.0",
    access="open",
    stage="instruct",
    task="mcq",
    modality="text",
    splits={"train": "train"},
    obtain="""
Clone the dataset lingshu-medical-mllm/ReasonMed (once YuSun-AI/ReasonMed) from https://huggingface.co. --raw is the
folder with the renderings asked for:
  CoTMed.json  ResponseMed.json  ReasonMed.json
Nothing else is read, eval_data/ of the project's GitHub repository least of all.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 1_111_555} if params["rendering"] == "all" else {},
    paper=(
        "train 1,111,555: the three renderings together, of some 370,500 rows each (the title's 370K) and at most "
        "194,925 questions, by design of no test split. --rendering reads one of them."
    ),
    options=(
        Option(
            "--rendering", "which of the three files: chain of thought, summary, both", "all", ("all", *_RENDERINGS)
        ),
    ),
    variant=lambda params: "" if params["rendering"] == "all" else str(params["rendering"]).lower(),
    paper_rows=(PaperRow("ReasonMed", "IT", 1_111_555),),
    hub_id="lingshu-medical-mllm/ReasonMed",
    hub_files=tuple(f"{rendering}.json" for rendering in _RENDERINGS),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
