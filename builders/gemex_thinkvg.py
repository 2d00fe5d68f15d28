"""GEMeX-ThinkVG: questions about MIMIC-CXR radiographs, answered with grounded reasoning by DeepSeek-R1.

The hub's Parquet file has the text; `image_path` (with a leading slash) names the picture in MIMIC-CXR-JPG. The text
was made from reports, so it is credentialed here like the pictures. No filter by the official split is known
(reference `sources.md`, section 3, 11): rows on subjects with official test or validate images are dropped, but for
`--paper-variant`.

Public sources disagree on the text. By the card `response` is `<think>..</think><answer>..</answer>` and the regions,
with boxes on a grid of 224. liamchalcroft/gaze@1275f48 (`examples/gemex_thinkvg/src/dataset.py`, `schemas.py`) takes
the reasoning from a column `thinkVG`, and `response` is `<response><answer>..</answer><location><ref>..</ref>
<box>[..]</box></location></response>` on a grid of 336. Both are read; boxes beyond the grids are counted, no damage.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders import kit
from builders.engine.mimic_pictures import Radiograph, mimic_units, radiograph_of, subject_rule

_COLUMNS = ("question_type", "image_path", "question", "response")
_KINDS = {"open": "open", "closed": "closed", "single": "single_choice", "multi": "multi_choice"}
"""First word of `question_type`; what follows it is verified for the open-ended questions only."""
_THOUGHT = "thinkVG"
_ANSWER = re.compile(r"<answer>(.*?)</answer>(.*)", re.DOTALL | re.IGNORECASE)
_TAG = re.compile(r"</?[A-Za-z]+>")
_BOX = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(\d+(?:\.\d+)?)"] * 4) + r"\s*\]")
_GRIDS = (224, 336)
"""Sides of the grids that boxes are said to be given in: Chest ImaGenome's, and the other reader's."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    kit.require(raw, "Parquet file", "data/train-*.parquet")
    files = kit.check_parts(sorted(raw.glob("data/train-*.parquet")), raw)
    return mimic_units(raw, files, "train", "train", params, _COLUMNS, optional=(_THOUGHT,))


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    return kit.convert_rows(raw, unit, partial(_sample, raw, unit, subject_rule(raw, unit, params)))


def _sample(raw: Path, unit: kit.Unit, check: Callable[[Radiograph, str], None], row: kit.Row) -> kit.Sample:
    file, question = row.file, kit.text_of(row.values, "question", row.file)
    kind = _KINDS.get(re.split(r"[_\s-]", kit.text_of(row.values, "question_type", file).lower())[0])
    if kind is None:
        raise kit.InputError("bad_field", file, "question_type begins with none of open, closed, single, multi")
    picture, response = radiograph_of(row), kit.text_of(row.values, "response", file)
    check(picture, file)
    kit.check_filled(file, question=question)
    reasoning, answer, said = _parts(row.values.get(_THOUGHT), response, file)
    corners = [float(number) for box in _BOX.findall(f"{reasoning} {response}") for number in box]
    for side in _GRIDS:
        if max(corners, default=0) > side:
            kit.note(unit.notes, f"beyond_{side}")
    images, key = [picture.image(raw, unit.payload["jpg_root"])], f"{Path(file).stem}/{row.number}"
    fields = {"reasoning": reasoning, "key": key, "group": picture.group, "subset": kind}
    return kit.question_answer(row, question, answer, images, said=said, **fields)


def _parts(thought: Any, response: str, file: str) -> tuple[str, str, str]:
    """(reasoning, answer, what is said in the end: the answer and the regions after it)."""
    reasoning, rest = kit.split_thinking(response, file)
    if isinstance(thought, str) and thought.strip():
        reasoning = _TAG.sub("", kit.checked_text(thought, _THOUGHT, file)).strip()
    if (match := _ANSWER.search(rest)) is None:
        raise kit.InputError("bad_field", file, "response has no <answer>...</answer>")
    if not reasoning:
        raise kit.InputError("bad_field", file, f"neither <think> in response nor text in {_THOUGHT}")
    answer = _TAG.sub("", match[1]).strip()
    kit.check_filled(file, answer=answer)
    places = [" ".join(_TAG.sub(" ", place).split()) for place in match[2].split("</location>")]
    return reasoning, answer, "\n".join([answer, *filter(None, places)])


SOURCE = kit.Source(
    name="gemex_thinkvg",
    title="GEMeX-ThinkVG: grounded reasoning about radiographs of MIMIC-CXR",
    revision="BoKelvin/GEMeX-ThinkVG, main (from its card and viewer)",
    layouts=(
        kit.Layout("response alone, <think> and <answer> in it", "card", "BoKelvin/GEMeX-ThinkVG"),
        kit.Layout("the thought in thinkVG", "code", "liamchalcroft/gaze@1275f48", columns=("thinkVG",)),
    ),
    license="PhysioNet-Credentialed-Health-Data-1.5.0",
    access="credentialed",
    task="vqa",
    modality="image-text",
    splits={"train": "train"},
    obtain="""
1. Fetch data/train-00000-of-00001.parquet (84 MB) of https://huggingface.co/datasets/BoKelvin/GEMeX-ThinkVG
2. Get MIMIC-CXR-JPG (PhysioNet account, CITI training, signed data use agreement):
   wget -r -N -c -np --user NAME --ask-password https://physionet.org/files/mimic-cxr-jpg/2.1.0/
Layout under --raw: data/train-00000-of-00001.parquet and mimic-cxr-jpg/{mimic-cxr-2.0.0-split.csv.gz, files/p10/...}
(a link to the tree of mimic_cxr will do). The split file is needed with --no-images as well. Nothing leaves the
machine.""",
    plan=_plan,
    version=2,
    read=_read,
    conclude=kit.noticed(
        beyond_224="{rows} rows have a box beyond a grid of 224, the card's",
        beyond_336="{rows} rows have a box beyond a grid of 336, which no source names",
    ),
    published=lambda params: {"train": 202_384},
    paper=(
        "202,383, one less than the hub's file. We drop rows on subjects with official test or validate images; "
        "--paper-variant keeps all 202,384. The licence is that of the pictures: the text's own is unverified."
    ),
    paper_rows=kit.paper_row(
        "GEMeX-ThinkVG",
        "IT",
        202_383,
        "the hub's file has 202,384; ours is less subjects with official test or validate images, which "
        "--paper-variant keeps",
    ),
    options=(kit.PAPER_VARIANT,),
    hub_id="BoKelvin/GEMeX-ThinkVG",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    kit.run(SOURCE)
