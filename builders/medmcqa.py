"""MedMCQA: questions of Indian medical entrance exams, four options, most with an expert's explanation.

The correct option `cop` counts from 0 in the hub's Parquet files and from 1 in the JSON files of the GitHub page (its
dataset.py takes `cop - 1`). The files tell which it is, the values never: `data/<split>-*.parquet` is the hub,
`train.json`, `dev.json`, `test.json` are GitHub's. A tree that holds both is refused.

The publisher withholds the answers of the 6,150 test questions (`cop` is -1 or absent): they are rejected as `no_gold`.
Its README swaps the sizes of the two held-out splits; the 4,183 that benchmarks use are the validation split. Text is
kept as it is, OCR damage ("ahritis") included: the same damage is on both sides of a leak. GitHub's licence is MIT, the
hub's tag Apache-2.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders.kit import (
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Reject,
    Role,
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
    run,
    table_units,
    text_of,
    user,
)

_SPLITS: dict[str, Role] = {"train": "train", "validation": "eval", "test": "eval"}
_JSON_NAMES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
_JSON_FOLDERS = (".", "data", "medmcqa_data")
_OPTIONS = {"A": "opa", "B": "opb", "C": "opc", "D": "opd"}
_COLUMNS = ("id", "question", *_OPTIONS.values(), "cop", "choice_type", "exp")
_CHOICE_TYPES = frozenset({"single", "multi"})
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _files(raw: Path) -> dict[str, list[Path]]:
    """Split to its files, all of one layout; a split without a file is absent."""
    hub = {split: sorted(raw.glob(f"data/{split}-*.parquet")) for split in _SPLITS}
    github = {
        split: [path for folder in _JSON_FOLDERS if (path := raw / folder / name).is_file()][:1]
        for split, name in _JSON_NAMES.items()
    }
    found = [{split: files for split, files in layout.items() if files} for layout in (hub, github)]
    if all(found):
        raise NotThisSource(f"{raw}: holds the hub's Parquet and GitHub's JSON, whose `cop` differ; keep one of them")
    if not any(found):
        raise NotThisSource(
            f"{raw}: no data/<split>-*.parquet and no {', '.join(_JSON_NAMES.values())} found; "
            "is --raw the right folder?"
        )
    return found[0] or found[1]


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, files in _files(raw).items():
        hub = files[0].suffix == ".parquet"
        yield from table_units(
            raw,
            files,
            split,
            _SPLITS[split],
            columns=_COLUMNS if hub else (),
            # GitHub's .json files hold one object a line; a copy may hold an array of them.
            layout="jsonl" if not hub and _starts_with_object(files[0]) else "",
        )


def _starts_with_object(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(64).lstrip().startswith(b"{")


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    first = 0 if unit.payload["file"].endswith(".parquet") else 1
    return convert_rows(raw, unit, partial(_sample, split=unit.split, first=first))


def _sample(row: Row, split: str, first: int) -> Sample:
    file, values = row.file, row.values
    key, question = text_of(values, "id", file), text_of(values, "question", file)
    if not _ID.fullmatch(key):
        raise InputError("bad_id", file, "id is not a UUID")
    options = [(label, text_of(values, column, file)) for label, column in _OPTIONS.items()]
    kind, explanation = values.get("choice_type"), values.get("exp")
    if kind is not None and kind not in _CHOICE_TYPES:
        raise InputError("bad_field", file, "choice_type is neither single nor multi")
    if explanation is not None:
        checked_text(explanation, "exp", file)
    label, text = options[_correct(values, split, first, file)]
    if not question.strip():
        raise InputError("empty_question", file)
    if not text.strip():
        raise InputError("empty_answer", file)
    return Sample(
        key=key,
        messages=[user(choice_prompt(question, options)), assistant(choice_answer(options, label, explanation))],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=label,
        group={"question_id": f"medmcqa/{key}"},
        subset=kind,
    )


def _correct(values: dict[str, Any], split: str, first: int, file: str) -> int:
    """Index of the correct option, whose number counts from `first`."""
    if split == "test" and values.get("cop") in (None, -1):
        raise InputError("no_gold", file)
    correct = field_of(values, "cop", file)
    if not isinstance(correct, int) or isinstance(correct, bool) or not first <= correct < first + len(_OPTIONS):
        raise InputError("bad_field", file, f"cop is not {first} to {first + len(_OPTIONS) - 1}")
    return correct - first


SOURCE = Source(
    name="medmcqa",
    title="MedMCQA: questions of the AIIMS and NEET PG entrance exams",
    homepage="https://huggingface.co/datasets/openlifescienceai/medmcqa",
    revision="openlifescienceai/medmcqa@91c6572, medmcqa/medmcqa@c59ef14ca199",
    license="MIT",
    access="open",
    stage="instruct",
    task="mcq",
    modality="text",
    splits=_SPLITS,
    obtain="""
--download --revision SHA, or clone the dataset openlifescienceai/medmcqa from https://huggingface.co: --raw is then
the folder with
  data/{train,validation,test}-*.parquet                      (cop counts from 0)
Or unpack the zip linked from the README of https://github.com/medmcqa/medmcqa: --raw is the folder with
  train.json  dev.json  test.json, or with data/ or medmcqa_data/ that hold them   (cop counts from 1)
Missing splits are left out. The test split has no answers: its rows are counted and rejected as no_gold.""",
    reasons={
        "no_gold": "the publisher keeps the answer of this row to itself; nothing to do",
    },
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 182_822, "validation": 4_183, "test": 6_150},
    paper=(
        "train 182,822, the publisher's train split; benchmark 4,183, its validation split (the 6,150 test questions "
        "have no public answers)."
    ),
    paper_rows=(
        PaperRow("MedMCQA", "IT", 182_822),
        PaperRow("MedMCQA", "EVAL", 4_183, "the publisher's validation split; its test answers are not public"),
    ),
    hub_id="openlifescienceai/medmcqa",
    hub_files=("data/*.parquet",),
)

if __name__ == "__main__":
    run(SOURCE)
