"""GEMeX-ThinkVG: questions about MIMIC-CXR radiographs, answered with grounded reasoning by DeepSeek-R1.

The hub's Parquet file has the text; `image_path` (with a leading slash) names the picture in MIMIC-CXR-JPG. The text
was made from reports, so it is credentialed here like the pictures. No filter by the official split is known
(reference `sources.md`, section 3, 11): rows on subjects with official test or validate images are dropped, but for
`--paper-variant`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders.engine.rawfiles import require, split_thinking, text_of, write_demo_parquet
from builders.engine.source import (
    PAPER_VARIANT,
    InputError,
    PaperRow,
    Params,
    Reject,
    Role,
    Sample,
    Source,
    Unit,
    assistant,
    user,
)
from builders.engine.tables import Row, convert_rows
from builders.mimic_cxr_vqa import (
    Radiograph,
    demo_radiograph,
    mimic_units,
    radiograph_of,
    subject_rule,
    write_demo_radiographs,
)

_SPLITS: dict[str, Role] = {"train": "train"}
_COLUMNS = ("question_type", "image_path", "question", "response")
_KINDS = {"open": "open", "closed": "closed", "single": "single_choice", "multi": "multi_choice"}
"""First word of `question_type`; what follows it is verified for the open-ended questions only."""
_ANSWER = re.compile(r"\s*<answer>(.*?)</answer>(.*)", re.DOTALL)
_TAG = re.compile(r"</?[A-Za-z]+>")
_BOX = re.compile(r"\[\s*" + r"\s*,\s*".join([r"(\d+(?:\.\d+)?)"] * 4) + r"\s*\]")
_BOX_SCALE = 224
"""Side of the grid that boxes are given in, as in Chest ImaGenome (unverified for this set, hence checked)."""


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    require(raw, "Parquet file", "data/train-*.parquet")
    files = sorted(raw.glob("data/train-*.parquet"))
    return mimic_units(raw, files, "train", "train", params, _COLUMNS)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, partial(_sample, raw, unit, subject_rule(raw, unit, params)))


def _sample(raw: Path, unit: Unit, check: Callable[[Radiograph, str], None], row: Row) -> Sample:
    file, question = row.file, text_of(row.values, "question", row.file)
    kind = _KINDS.get(re.split(r"[_\s-]", text_of(row.values, "question_type", file).lower())[0])
    if kind is None:
        raise InputError("bad_field", file, "question_type begins with none of open, closed, single, multi")
    picture, response = radiograph_of(row), text_of(row.values, "response", file)
    check(picture, file)
    if not question.strip():
        raise InputError("empty_question", file)
    reasoning, answer, said = _parts(response, file)
    return Sample(
        key=f"{Path(file).stem}/{row.number}",
        messages=[user(0, question), assistant(said, reasoning=reasoning)],
        file=file,
        row=row.number,
        question=question,
        answer=answer,
        images=[picture.image(raw, unit.payload["jpg_root"])],
        group=picture.group,
        subset=kind,
    )


def _parts(response: str, file: str) -> tuple[str, str, str]:
    """(reasoning, answer, what is said in the end: the answer and the regions after it)."""
    reasoning, rest = split_thinking(response, file)
    match = _ANSWER.fullmatch(rest)
    if reasoning is None or match is None:
        raise InputError("bad_field", file, "response is not <think>...</think><answer>...</answer>")
    if any(float(number) > _BOX_SCALE for box in _BOX.findall(response) for number in box):
        raise InputError("bad_field", file, f"a box reaches beyond {_BOX_SCALE}")
    answer, regions = (_TAG.sub("", part).strip() for part in match.groups())
    if not answer:
        raise InputError("empty_answer", file)
    return reasoning, answer, f"{answer}\n{regions}" if regions else answer


PLANTED: dict[str, str] = {
    "subject": "rows on subjects 10000003 (official test) and 10000005 (official validate) are dropped; "
    "--paper-variant trains on them",
    "other source": "a row shows the picture of mimic_cxr_vqa's test question on subject 10000007",
}
"""What overlaps in the demo tree and with that of `mimic_cxr_vqa`."""

_DEMO_ROWS = (
    (0, "open_ended_questions", "What does the left costophrenic angle show?", "It is blunted [150, 160, 210, 204]"),
    (1, "closed_ended_questions", "Is there any pneumothorax?", "No"),
    (2, "single_choice_questions", "Which side is hyperinflated?\nA. Left\nB. Right\nC. Both\nD. Neither", "D"),
    (6, "multi_choice_questions", "Which devices are seen?\nA. Line\nB. Tube\nC. Wires\nD. None", "A, C"),
    (7, "open_ended_questions", "How wide is the heart?", "Wider than half of the thorax [60,90,170.5,200]"),
    (3, "open_ended_questions", "Where is the opacity?", "In the right lower zone [20, 140, 90, 210]"),
    (5, "closed_ended_questions", "Are the lungs clear?", "Yes"),
)


def _write_demo(raw: Path) -> None:
    write_demo_radiographs(raw)
    rows: list[dict[str, Any]] = []
    for index, (number, kind, question, answer) in enumerate(_DEMO_ROWS):
        regions = "<location>right lung [10, 20, 100, 200]</location>" if index == 1 else ""
        thought = f"The question is about one region.\nLooking at [12, 20, {100 + index}, 190] settles it."
        response = f"<think>{thought}</think>{chr(10) * (index % 2)}<answer>{answer}</answer>{regions}"
        path = f"/{demo_radiograph(number).path}"
        rows.append({"question_type": kind, "image_path": path, "question": question, "response": response})
    write_demo_parquet(raw / "data/train-00000-of-00001.parquet", rows)


SOURCE = Source(
    name="gemex_thinkvg",
    title="GEMeX-ThinkVG: grounded reasoning about radiographs of MIMIC-CXR",
    homepage="https://huggingface.co/datasets/BoKelvin/GEMeX-ThinkVG",
    revision="BoKelvin/GEMeX-ThinkVG, main (from its card and viewer)",
    license="PhysioNet-Credentialed-Health-Data-1.5.0",
    access="credentialed",
    stage="instruct",
    task="vqa",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
1. Fetch data/train-00000-of-00001.parquet (84 MB) of https://huggingface.co/datasets/BoKelvin/GEMeX-ThinkVG
2. Get MIMIC-CXR-JPG (PhysioNet account, CITI training, signed data use agreement):
   wget -r -N -c -np --user NAME --ask-password https://physionet.org/files/mimic-cxr-jpg/2.1.0/
Layout under --raw: data/train-00000-of-00001.parquet and mimic-cxr-jpg/{mimic-cxr-2.0.0-split.csv.gz, files/p10/...}
(a link to the tree of mimic_cxr will do). The split file is needed with --no-images as well. Nothing leaves the
machine.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 202_384},
    paper=(
        "202,383, one less than the hub's file. We drop rows on subjects with official test or validate images; "
        "--paper-variant keeps all 202,384. The licence is that of the pictures: the text's own is unverified."
    ),
    paper_rows=(
        PaperRow(
            "GEMeX-ThinkVG",
            "IT",
            202_383,
            "the hub's file has 202,384; ours is less subjects with official test or validate images, which "
            "--paper-variant keeps",
        ),
    ),
    options=(PAPER_VARIANT,),
    hub_id="BoKelvin/GEMeX-ThinkVG",
    hub_files=("data/train-*.parquet",),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
