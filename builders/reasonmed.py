"""ReasonMed: reasoning to some 195,000 exam questions, in three renderings of about 370,000 rows each.

`CoTMed.json` holds the chain of thought with the answer at its end, `ResponseMed.json` a summary, `ReasonMed.json`
both; the recipe's 1,111,555 are the three together. Question and options stand in `instruction`, and no column has the
gold answer: `answer` is the one letter that `output` states, null where it states none or several. The files are named
one by one, never globbed: `eval_data/eval_data_all.json` of the same project is a test file.

The questions are MedQA train and dev, MedMCQA train, half of PubMedQA-L, MMLU dev and validation: our splits `dev` and
`validation` of those sets, and 500 of PubMedQA's, are questions of this set by design.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from builders import kit

RENDERINGS = ("CoTMed", "ResponseMed", "ReasonMed")
_COLUMNS = ("instruction", "input", "output")
_PREAMBLE = re.compile(r"\s*please answer the following multiple-choice question\s*:?\s*", re.IGNORECASE)
_STATED = re.compile(r"nswer(?: [Ii][Ss]|:)[\s:*_(\[]*(?:[Oo]ption )?([A-J])(?=[.):*\]_,;]|\s*(?:$|\n)|\s+[-–(])")
"""A reply's statement of its answer, "the correct answer is **B. Gout**", but not "the answer is a combination".

It begins with letters of one case, which `re` looks for many times faster than for either case.
"""


def _chosen(params: kit.Params) -> tuple[str, ...]:
    return RENDERINGS if params["rendering"] == "all" else (params["rendering"],)


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    number = 0
    for rendering in _chosen(params):
        path = kit.require(raw, f"{rendering} file", f"{rendering}.json")
        units = kit.table_units(raw, [path], "train", "train", first_unit=number)
        for unit in kit.with_fields(raw, units, _COLUMNS):
            yield unit
            number += 1


def _stated(output: str, labels: set[str]) -> str | None:
    """The one label that a reply states as its answer."""
    stated = set(_STATED.findall(output.replace("ANSWER", "Answer")))
    return stated.pop() if len(stated) == 1 and stated <= labels else None


def _sample(row: kit.Row, instruction: str, given: str, output: str) -> kit.Sample:
    rendering = PurePosixPath(row.file).stem
    prompt = f"{instruction}\n\n{given}" if given.strip() else instruction
    question, options = kit.inline_options(_PREAMBLE.sub("", prompt, count=1))
    kit.check_filled(row.file, question=question)
    reasoning, text = kit.split_thinking(output, row.file)
    label = _stated(output, {label for label, _ in options or ()})
    if reasoning is None and label is not None and options is not None and rendering != "ResponseMed":
        reasoning, text = text, kit.choice_answer(options, label)
    key, messages = f"{rendering}/{row.number}", [kit.user(prompt), kit.assistant(text, reasoning)]
    fields = {"question": question, "options": options, "answer": label, "subset": rendering}
    return kit.sample_of(row, messages, key=key, **fields)


SOURCE = kit.table_source(
    name="reasonmed",
    title="ReasonMed: chains of thought and summaries for medical exam questions",
    hub_id="lingshu-medical-mllm/ReasonMed",
    hub_moved=("YuSun-AI/ReasonMed",),
    revision="lingshu-medical-mllm/ReasonMed@34eb514; YuSun-Work/ReasonMed@9995fab840cb",
    layouts=(kit.Layout("three JSON arrays", "code", "YuSun-Work/ReasonMed@9995fab"),),
    license="Apache-2.0",
    task="mcq",
    obtain="""
Clone the dataset lingshu-medical-mllm/ReasonMed (once YuSun-AI/ReasonMed) from https://huggingface.co. The renderings
asked for are read, all of those below by default. Nothing else is, eval_data/ of the project's GitHub repository least
of all.""",
    files={"train": tuple(f"{rendering}.json" for rendering in RENDERINGS)},
    fields=_COLUMNS,
    plan=_plan,
    sample=_sample,
    published=lambda params: {"train": 1_111_555} if params["rendering"] == "all" else {},
    paper=(
        "train 1,111,555: the three renderings together, of some 370,500 rows each (the title's 370K) and at most "
        "194,925 questions, by design of no test split. --rendering reads one of them."
    ),
    options=(
        kit.Option(
            "--rendering", "which of the three files: chain of thought, summary, both", "all", ("all", *RENDERINGS)
        ),
    ),
    variant=lambda params: "" if params["rendering"] == "all" else str(params["rendering"]).lower(),
    paper_rows=kit.paper_row("ReasonMed", "IT", 1_111_555),
    hub_files=tuple(f"{rendering}.json" for rendering in RENDERINGS),
)

if __name__ == "__main__":
    kit.run(SOURCE)
