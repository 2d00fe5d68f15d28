"""OpenMM-Medical: multiple-choice questions about pictures of 42 public classification sets; a benchmark.

By all signs it is OmniMedVQA's open-access part (reference `sources.md`, section 3, 14). Its authors publish it as an
evaluation set, and the recipe trains on it: so it is a benchmark here, split `test`, and `--paper-variant` builds it as
the split `train` instead (benchmark_as_train): no score on it, or on OmniMedVQA, can be reported after that. The
modality of the publisher's card is wrong for Adam Challenge, BreakHis and CRC100k, so no modality is read; the subset
is the component's name, the second part of `image_path`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from builders.kit import (
    PAPER_VARIANT,
    Image,
    InputError,
    PaperRow,
    Params,
    PictureStore,
    Reject,
    Role,
    Row,
    Sample,
    Source,
    Unit,
    assistant,
    choice_answer,
    choice_prompt,
    convert_rows,
    relative,
    require,
    run,
    table_units,
    text_of,
    user,
)

FILE = "OpenMMMedical.tsv"
_SPLITS: dict[str, Role] = {"test": "eval", "train": "train"}
_COLUMNS = ("index", "image_path", "question", "A", "B", "answer")
"""Of VLMEvalKit's layout; `C` and `D` may be empty, and what else the header has is not read."""
_LABELS = "ABCD"
_FOLDER = "Images"
_INDEX = re.compile(r"[0-9]+")


def _split(params: Params) -> str:
    return "train" if params["paper_variant"] else "test"


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path, split = require(raw, "questions", FILE), _split(params)
    pictures: tuple[str, ...] = ()
    if not params["no_images"]:
        place = require(raw, "Images.zip (--no-images builds without)", f"{_FOLDER}.zip", _FOLDER)
        pictures = (relative(place, raw),)
    yield from table_units(raw, [path], split, _SPLITS[split], columns=_COLUMNS, inputs=pictures)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    # Components repeat names like `1.png`: one picture must never stand in for another's.
    store = PictureStore(raw, unit.inputs[1:], flat=False)
    return convert_rows(raw, unit, partial(_sample, store))


def _sample(store: PictureStore, row: Row) -> Sample:
    file, values = row.file, row.values
    index, path, question = (text_of(values, name, file).strip() for name in ("index", "image_path", "question"))
    answer = text_of(values, "answer", file).strip()
    if not _INDEX.fullmatch(index):
        raise InputError("bad_id", file, "index is not a whole number")
    parts = PurePosixPath(path).parts
    name = "/".join(parts[1:] if parts[:1] == (_FOLDER,) else parts)
    if "/" not in name or ".." in parts or path.startswith("/"):
        raise InputError("bad_field", file, "image_path is not Images/<component>/<file>")
    options = _options(values, file)
    if not question:
        raise InputError("empty_question", file)
    if not answer:
        raise InputError("empty_answer", file)
    if answer not in dict(options):
        raise InputError("bad_field", file, f"answer names none of the {len(options)} options")
    return Sample(
        key=index,
        messages=[user(0, choice_prompt(question, options)), assistant(choice_answer(options, answer))],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=answer,
        images=[Image(f"openmm_medical/{name}", *store.reader(name))],
        group={"question_id": f"openmm_medical/{index}"},
        subset=name.partition("/")[0],
    )


def _options(values: dict[str, Any], file: str) -> list[tuple[str, str]]:
    """The options; the last ones may be empty, as a question has two to four."""
    given = [(label, (values.get(label) or "").strip()) for label in _LABELS]
    while given and not given[-1][1]:
        given.pop()
    if len(given) < 2 or not all(text for _, text in given):
        raise InputError("empty_option", file, f"{sum(bool(text) for _, text in given)} options")
    return given


SOURCE = Source(
    name="openmm_medical",
    title="OpenMM-Medical: multiple-choice questions about pictures of 42 classification sets",
    homepage="https://huggingface.co/datasets/baichuan-inc/OpenMM_Medical",
    revision="baichuan-inc/OpenMM_Medical@fd768b2 (card and tree; the header of the table is unverified)",
    license="unstated",
    access="open",
    stage="instruct",
    task="mcq",
    modality="image-text",
    splits=_SPLITS,
    obtain=f"""
Fetch the two files of https://huggingface.co/datasets/baichuan-inc/OpenMM_Medical (--download does it). --raw is the
folder with
  {FILE}
  Images.zip (10.7 GB, read in place), or Images/<component>/... with the same; not needed with --no-images""",
    plan=_plan,
    read=_read,
    published=lambda params: {_split(params): 88_996},
    paper=(
        "88,996 as instruction data (benchmark_as_train), though published as an evaluation set; the default builds it "
        "as a benchmark, --paper-variant as training data. Licences are those of the 42 components."
    ),
    paper_rows=(
        PaperRow(
            "OpenMM-Medical",
            "IT",
            88_996,
            "benchmark_as_train: a benchmark by default, trained on with --paper-variant",
        ),
    ),
    options=(PAPER_VARIANT,),
    hub_id="baichuan-inc/OpenMM_Medical",
    hub_files=(FILE, "Images.zip"),
)

if __name__ == "__main__":
    run(SOURCE)
