"""MedQA, the US (USMLE-style) questions, with 4 or 5 options.

The publisher's folder also holds `US_qbank.jsonl` with all splits in one file, so files are found by their exact names,
never by a pattern. Questions have no ids: `medqa/<split>-<line>` is the question id in both the 4- and the 5-option
build, on the understanding that the publisher made the 4-option files line by line from the others (not verified).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

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
    decode_utf8,
    field_of,
    outcome,
    run,
    text_of,
    user,
)

_SPLITS: dict[str, Role] = {"train": "train", "dev": "eval", "test": "eval"}
_FOLDERS = {
    "4": ("data_clean/questions/US/4_options", "questions/US/4_options", "."),
    "5": ("data_clean/questions/US", "questions/US"),
}
_NAMES = {"4": "phrases_no_exclude_{}.jsonl", "5": "{}.jsonl"}
_LABELS = "ABCDE"


def _files(raw: Path, params: Params) -> dict[str, str]:
    """Split to file, all of one folder; a split without a file is absent (GBaker's hub copy has no dev)."""
    name = _NAMES[params["options"]]
    for folder in _FOLDERS[params["options"]]:
        paths = {split: (Path(folder) / name.format(split)).as_posix() for split in _SPLITS}
        if found := {split: path for split, path in paths.items() if (raw / path).is_file()}:
            return found
    raise NotThisSource(
        f"{raw}: no {name.format('train|dev|test')} found (looked in {', '.join(_FOLDERS[params['options']])}); "
        "is --raw the right folder?"
    )


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that hold something, as bytes: only a line feed ends a row of JSON Lines."""
    data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield number, line


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, file in _files(raw, params).items():
        rows = sum(1 for _ in _lines(raw / file))
        if not rows:
            raise NotThisSource(f"{file}: no rows; fetch the file again")
        yield Unit(f"{split}-00000", split, _SPLITS[split], rows, {"file": file}, (file,))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    file, labels = unit.payload["file"], _LABELS[: int(params["options"])]
    for number, line in _lines(raw / file):
        yield outcome(partial(_sample, line, number, unit.split, labels, file), file, str(number))


def _sample(line: bytes, number: int, split: str, labels: str, file: str) -> Sample:
    try:
        row = json.loads(decode_utf8(line, file))
    except (ValueError, RecursionError):
        raise InputError("bad_row", file, "not JSON") from None
    question, options = text_of(row, "question", file), field_of(row, "options", file)
    if not isinstance(options, dict) or sorted(options) != list(labels):
        raise InputError("bad_field", file, f"options are not {', '.join(labels)}")
    choices = [(label, checked_text(options[label], f"option {label}", file)) for label in labels]
    answer = text_of(row, "answer_idx", file)
    if answer not in options:
        raise InputError("bad_field", file, "answer_idx names no option")
    if text_of(row, "answer", file) != options[answer]:
        raise InputError("bad_field", file, "answer is not the text of answer_idx")
    if not question.strip():
        raise InputError("empty_question", file)
    listed = "\n".join(f"{label}. {text}" for label, text in choices)
    return Sample(
        key=str(number),
        messages=[user(f"{question}\n\n{listed}"), assistant(f"Answer: {answer}. {options[answer]}")],
        file=file,
        row=str(number),
        question=question,
        options=choices,
        answer=answer,
        group={"question_id": f"medqa/{split}-{number}"},
    )


SOURCE = Source(
    name="medqa",
    title="MedQA (US): USMLE-style multiple-choice questions",
    homepage="https://github.com/jind11/MedQA",
    revision="jind11/MedQA@27b02f66aac2",
    license="MIT",
    access="open",
    stage="instruct",
    task="mcq",
    modality="text",
    splits=_SPLITS,
    obtain="""
Download data_clean.zip (Google Drive, linked from the README of https://github.com/jind11/MedQA) and unpack it; or the
two files of https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options (no dev split). --raw is a folder with one of
  data_clean/questions/US/4_options/phrases_no_exclude_{train,dev,test}.jsonl
  questions/US/4_options/phrases_no_exclude_{train,dev,test}.jsonl
  phrases_no_exclude_{train,dev,test}.jsonl
and for --options 5 [data_clean/]questions/US/{train,dev,test}.jsonl. Missing splits are left out.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 10_178, "dev": 1_272, "test": 1_273},
    paper=(
        "train 10,178, benchmark 1,273: the publisher's US train and test. The paper does not say 4 or 5 options; "
        "4 is the default here, as in MedEvalKit and lm-eval."
    ),
    options=(Option("--options", "options a question: the 4-option or the 5-option files", "4", ("4", "5")),),
    variant=lambda params: "5opt" if params["options"] == "5" else "",
    paper_rows=(
        PaperRow("MedQA", "IT", 10_178),
        PaperRow("MedQA", "EVAL", 1_273, "4 options by default (--options 5); the paper does not say"),
    ),
    hub_id="GBaker/MedQA-USMLE-4-options",
    hub_files=("phrases_no_exclude_train.jsonl", "phrases_no_exclude_test.jsonl"),
)

if __name__ == "__main__":
    run(SOURCE)
