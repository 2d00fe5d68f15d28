"""MedExpQA: Spanish MIR exam questions with doctors' explanations, in four languages.

The 434 training cases of the paper are the train split of one language; it does not say which, so `--language` does,
English by default. The same cases with the same ids exist in all four: two languages together teach each case twice.

Options are numbered 1 to 5 and keep their numbers as labels, because the explanations speak of "option 3". The fifth is
null in exams with four options, or a bare `NaN`, which is no JSON (files from before the publisher's nan_fix).
`full_answer` is the doctor's commentary; `full_answer_no_ref` is a language model's rewrite of it and `rag` holds
retrieved PubMed and StatPearls passages: neither becomes text.

CasiMedicos-Arg, the same exams cut into labelled tokens, has no ids and other splits, and is not read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders.kit import (
    InputError,
    NotThisSource,
    Option,
    PaperRow,
    Params,
    Reject,
    Role,
    Sample,
    Source,
    Unit,
    assistant,
    checked_text,
    choice_answer,
    choice_prompt,
    decode_utf8,
    field_of,
    first_existing,
    number_of,
    outcome,
    relative,
    run,
    text_of,
    user,
)

_LANGUAGES = ("en", "es", "fr", "it")
_SPLITS: dict[str, Role] = {"train": "train", "validation": "eval", "test": "eval"}
_NAMES = {"train": "train", "validation": "dev", "test": "test"}
_LABELS = "12345"


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    language = params["language"]
    folders = (f"data/{language}", language, "data/casimedicos", ".")
    found = False
    for split, role in _SPLITS.items():
        name = f"{_NAMES[split]}.{language}.casimedicos.rag.jsonl"
        path = first_existing(raw, *(f"{folder}/{name}" for folder in folders))
        if path is not None:
            found = True
            rows = sum(1 for _ in _lines(path))
            if not rows:
                raise NotThisSource(f"{relative(path, raw)}: no rows; fetch the file again")
            file = relative(path, raw)
            yield Unit(f"{split}-00000", split, role, rows, {"file": file}, (file,))
    if not found:
        raise NotThisSource(
            f"{raw}: no train|dev|test.{language}.casimedicos.rag.jsonl found (looked in {', '.join(folders)}); "
            "is --raw the right folder?"
        )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that hold something. Not `tables`: its JSON parser refuses NaN, as it should."""
    with path.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            if line.strip():
                yield number, line


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    file = unit.payload["file"]
    for number, line in _lines(raw / file):
        yield outcome(partial(_sample, line, str(number), file, params["language"]), file, str(number))


def _sample(line: bytes, number: str, file: str, language: str) -> Sample:
    try:
        row = json.loads(decode_utf8(line, file))
    except (ValueError, RecursionError):
        raise InputError("bad_row", file, "not JSON") from None
    key, question = str(number_of(row, "id", file)), text_of(row, "full_question", file)
    if text_of(row, "lang", file) != language:
        raise InputError("bad_field", file, f"lang is not {language}")
    options = _options(field_of(row, "options", file), file)
    correct, explanation = field_of(row, "correct_option", file), row.get("full_answer")
    if not isinstance(correct, int) or isinstance(correct, bool) or str(correct) not in dict(options):
        raise InputError("bad_field", file, "correct_option names no option")
    if explanation is not None:
        checked_text(explanation, "full_answer", file)
    if not question.strip():
        raise InputError("empty_question", file)
    answer = choice_answer(options, str(correct), explanation)
    return Sample(
        key=key,
        messages=[user(choice_prompt(question, options)), assistant(answer)],
        file=file,
        row=number,
        question=question,
        options=options,
        answer=str(correct),
        group={"question_id": f"medexpqa/{key}"},
    )


def _options(given: Any, file: str) -> list[tuple[str, str]]:
    """(number, text) of the options there are: four or five."""
    if not isinstance(given, dict) or not set(_LABELS[:4]) <= given.keys() <= set(_LABELS):
        raise InputError("bad_field", file, f"options are not {', '.join(_LABELS)}")
    fifth = given.get("5")
    labels = _LABELS[:4] if fifth is None or fifth != fifth else _LABELS  # NaN alone differs from itself
    return [(label, text_of(given, label, file)) for label in labels]


SOURCE = Source(
    name="medexpqa",
    title="MedExpQA: Spanish medical residency exams with explanations",
    homepage="https://huggingface.co/datasets/HiTZ/MedExpQA",
    revision="HiTZ/MedExpQA (card), hitz-zentroa/MedExpQA@fa92fb621fda",
    license="CC-BY-4.0",
    access="open",
    stage="instruct",
    task="mcq",
    modality="text",
    splits=_SPLITS,
    obtain="""
--download --revision SHA, or clone the dataset HiTZ/MedExpQA from https://huggingface.co. --raw is the folder with
  data/<language>/{train,dev,test}.<language>.casimedicos.rag.jsonl     (language: en, es, fr, it)
Missing splits are left out.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 434, "validation": 63, "test": 125},
    paper="train 434: the train split of one language, which the paper does not name; English here, see --language.",
    paper_rows=(PaperRow("MedExpQA", "IT", 434, "one language of four; the paper does not say which"),),
    options=(Option("--language", "language of the questions (the cases are the same in each)", "en", _LANGUAGES),),
    variant=lambda params: "" if params["language"] == "en" else str(params["language"]),
    hub_id="HiTZ/MedExpQA",
    hub_files=("data/*/*.casimedicos.rag.jsonl",),
)

if __name__ == "__main__":
    run(SOURCE)
