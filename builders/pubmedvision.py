"""PubMedVision, its alignment part: a question and an answer that GPT-4V wrote about the pictures of an article.

A row shows one picture or several, `images/pmc_<n>_<k>.jpg`; its text has no place for them, so they stand before the
first question. The pictures are in twenty zips, which the publisher unpacks without their folders (`unzip -j`).
`pmc_<n>` is a running number and no PMCID: what comes from the same article in PMC-OA and its kin is found by pixels
and captions only. Row and caption of `PubMedVision_Original_Caption.json` share their number (a public loader relies on
it): `Alignment_VQA_7` is made from `Original_Caption_7`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from builders.kit import (
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
    checked_text,
    convert_rows,
    dialogue,
    field_of,
    relative,
    require,
    run,
    table_units,
    text_of,
    user,
)

_SPLITS: dict[str, Role] = {"train": "train"}
_ROWS = "PubMedVision_Alignment_VQA.json"
_PLACES = ("images_*.zip", "images")
_ROLES = {"human": "user", "gpt": "assistant"}


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path = require(raw, "alignment rows", _ROWS)
    pictures: list[str] = []
    if not params["no_images"]:
        require(raw, "images_<n>.zip (--no-images builds without)", *_PLACES)
        zips, folder = sorted(raw.glob(_PLACES[0])), raw / _PLACES[1]
        pictures = [relative(place, raw) for place in (*zips, *([folder] if folder.is_dir() else []))]
    yield from table_units(raw, [path], "train", "train", inputs=pictures)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    store = PictureStore(raw, unit.inputs[1:])  # after the rows' own file come the pictures
    return convert_rows(raw, unit, partial(_sample, store))


def _sample(store: PictureStore, row: Row) -> Sample:
    file, values = row.file, row.values
    key, names = text_of(values, "id", file), _names(values, file)
    modality = values.get("modality")
    if modality is not None:
        checked_text(modality, "modality", file)
    turns = field_of(values, "conversations", file)
    if not isinstance(turns, list):
        raise InputError("bad_field", file, "conversations is not a list")
    pairs = [_turn(turn, file) for turn in turns]
    messages = dialogue(pairs, file)
    messages[0] = user(*range(len(names)), pairs[0][1])
    images = [Image(f"pubmedvision/{PurePosixPath(name).stem}", *store.reader(name)) for name in names]
    return Sample(
        key=key,
        messages=messages,
        file=file,
        row=row.number,
        question=pairs[0][1],
        answer=pairs[1][1] if len(pairs) == 2 else None,
        images=images,
        group={"question_id": f"pubmedvision/{key}"},
        subset=modality or None,
    )


def _names(values: dict[str, Any], file: str) -> list[str]:
    """The pictures of a row; some copies have one as plain text."""
    names = field_of(values, "image", file)
    if isinstance(names, str):
        names = [names]
    if not isinstance(names, list) or not names or not all(isinstance(name, str) and name for name in names):
        raise InputError("bad_field", file, "image is not a list of names")
    return names


def _turn(turn: Any, file: str) -> tuple[str, str]:
    speaker, text = text_of(turn, "from", file), text_of(turn, "value", file)
    if speaker not in _ROLES:
        raise InputError("bad_field", file, "a turn is neither human's nor gpt's")
    return _ROLES[speaker], text


SOURCE = Source(
    name="pubmedvision",
    title="PubMedVision (alignment): questions about figures of PubMed, written by GPT-4V",
    homepage="https://huggingface.co/datasets/FreedomIntelligence/PubMedVision",
    revision="FreedomIntelligence/HuatuoGPT-Vision@a6476ac; hub commit not known",
    license="Apache-2.0",
    access="open",
    stage="midtrain",
    task="vqa",
    modality="image-text",
    splits=_SPLITS,
    obtain=f"""
Clone https://huggingface.co/datasets/FreedomIntelligence/PubMedVision (git lfs), or --download --revision SHA. --raw is
the folder with
  {_ROWS}
  images_0.zip .. images_19.zip, read in place (or images/ with their files); not needed with --no-images""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 647_031},
    paper=(
        "646,759, which is 272 below the card's 647,031 (914,960 pictures); likely rows whose pictures could not be "
        "read. Here each such row is a reject with its reason"
    ),
    paper_rows=(
        PaperRow(
            "PubMedVision (alignment)", "MT", 646_759, "the card has 647,031; 272 more, likely with unreadable images"
        ),
    ),
    hub_id="FreedomIntelligence/PubMedVision",
    hub_files=(_ROWS, "images_*.zip"),
)

if __name__ == "__main__":
    run(SOURCE)
