"""PMC-OA: panels cut out of figures of PubMed Central's open-access articles, each with its part of the caption.

A panel is named `PMC<article>_<figure>_<panel>.jpg`. Its figure has two public names, and the sets made from PMC use
one or the other: the figure's id in the article's XML (`Fig3`: PMC-VQA) and the file of its picture (`url_name`,
`1471-2121-4-13-3.jpg`: BIOMEDICA). Both are kept, as study ids, a study being to its images what a figure is to its
panels: the image's `study_id` is `pmc/<PMCID>/<XML id>`, the sample's group has `pmc/<PMCID>/<file stem>`. `image_id`
is `pmc/<PMCID>/<XML id>_<panel>`, the name under which PMC-VQA's second version shows the very same panel.

Every row has `image` and `caption`; `pmcid` and `url_name` are absent from some copies of the files, and the article is
in the image's name anyway. The panels are cut by a detector, imperfectly: the single-panel filter still applies.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from builders.engine.archives import PictureStore
from builders.engine.rawfiles import checked_text, relative, require, text_of, write_demo_file, write_demo_zip
from builders.engine.source import (
    CAPTION_PROMPT,
    Image,
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
from builders.engine.tables import Row, convert_rows, table_units

_SPLITS: dict[str, Role] = {"train": "train", "valid": "eval", "test": "eval"}
_FOLDER = "caption_T060_filtered_top4_sep_v0_subfigures"
"""What images.zip unpacks to, by several public loaders."""
_PLACES = ("images.zip", "images", _FOLDER)
_NAME = re.compile(r"(PMC[0-9]+)_(.+)\.(?:jpe?g|png)", re.IGNORECASE)
_PANEL = re.compile(r"(.+)_[0-9]+")


class FigureName(NamedTuple):
    """What the name of a picture of PMC-OA or PMC-VQA says."""

    pmcid: str
    image_id: str
    figure_id: str
    """The image id of the figure that a panel was cut from; its own for a whole figure."""


def figure_name(name: str, file: str, panel: bool = True) -> FigureName:
    """`PMC212319_Fig3_4.jpg` is panel 4 of Fig3; with `panel` false, `PMC123_fig_1.jpg` is a figure named `fig_1`."""
    match = _NAME.fullmatch(PurePosixPath(name).name)
    if match is None:
        raise InputError("bad_id", file, "the picture is not named PMC<number>_<figure>")
    pmcid, stem = match[1].upper(), match[2]
    cut = _PANEL.fullmatch(stem) if panel else None
    return FigureName(pmcid, f"pmc/{pmcid}/{stem}", f"pmc/{pmcid}/{cut[1] if cut else stem}")


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    pictures: tuple[str, ...] = ()
    if not params["no_images"]:
        pictures = (relative(require(raw, "images.zip (--no-images builds without)", *_PLACES), raw),)
    for split, role in _SPLITS.items():
        path = require(raw, f"{split} file", f"{split}.jsonl")
        yield from table_units(raw, [path], split, role, inputs=pictures)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    store = PictureStore(raw, unit.inputs[1:])  # after the table itself come the pictures
    return convert_rows(raw, unit, partial(_sample, store))


def _sample(store: PictureStore, row: Row) -> Sample:
    file, values = row.file, row.values
    picture, caption = text_of(values, "image", file), text_of(values, "caption", file).strip()
    name = figure_name(picture, file)
    if values.get("pmcid") not in (None, name.pmcid):
        raise InputError("bad_field", file, f"pmcid is not the {name.pmcid} of the image's name")
    group = {"pmcid": f"pmc/{name.pmcid}"}
    if (whole := values.get("url_name")) is not None:
        group["study_id"] = f"pmc/{name.pmcid}/{PurePosixPath(checked_text(whole, 'url_name', file)).stem}"
    if not caption:
        raise InputError("empty_caption", file)
    place, read = store.reader(picture)
    return Sample(
        key=row.number,
        messages=[user(0, CAPTION_PROMPT), assistant(caption)],
        file=file,
        row=row.number,
        answer=caption,
        images=[Image(name.image_id, place, read, study_id=name.figure_id)],
        group=group,
    )


def demo_figure(number: int, panels: int = 1) -> bytes:
    """A made-up figure as JPEG: `panels` squares side by side, each with a shape that depends on `number`."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    side = 64
    picture = Pillow.new("RGB", (side * panels, side), (18, 20, 26))
    draw = ImageDraw.Draw(picture)
    for panel in range(panels):
        draw_panel = 7 * number + 3 * panel
        left, top = side * panel + 6 + draw_panel % 17, 6 + draw_panel % 13
        tint = tuple(60 + (draw_panel * step) % 190 for step in (37, 61, 89))
        draw.ellipse((left, top, left + 26 + number % 9, top + 30), fill=tint)
        draw.rectangle((left + 4, top + 12, left + 12 + panel, top + 40), outline=(230, 230, 220))
        draw.line((side * panel, side - 8, side * panel + side - 1, side - 4 - number % 5), fill=(200, 200, 90))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


# (article, figure's XML id, file of the whole figure, captions of its panels); made up.
_DEMO: dict[str, tuple[tuple[str, str, str | None, tuple[str, ...]], ...]] = {
    "train": (
        ("PMC9000001", "Fig3", "1471-9000-4-13-3.jpg", (
            "A. Real time image of the labelled protein at the plasma membrane.",
            "B. The same cells five minutes after stimulation, with fewer vesicles.",
        )),
        ("PMC9000002", "F1", "bmc-9000-2-f1.jpg", ("Axial CT: nodule in the right upper lobe (arrow).",)),
        ("PMC9000003", "fig_2", "gr2.jpg", ("H&E, x200: nests of pale cells\nin a fibrous stroma.",)),
        ("PMC9000004", "pone.9000004.g001", "pone.9000004.g001.jpg", ("T2-weighted image of the knee.", "   ")),
        # As in the copies that have two columns only.
        ("PMC9000005", "F4", None, ("Dermoscopy of a pigmented lesion: asymmetric network, blue-white veil.",)),
    ),
    "valid": (("PMC9000011", "F2", "cases-11-2.jpg", ("Coronal CT, dilated small bowel loops.",)),),
    "test": (
        ("PMC9000012", "F1", "cases-12-1.jpg", ("Ultrasound of the thyroid: hypoechoic nodule of 9 mm.",)),
        ("PMC9000001", "Fig3", "1471-9000-4-13-3.jpg", ("", "", "C. Negative control, no signal.")),
    ),
}  # fmt: skip
_DEMO_PANELS = {"PMC9000001_Fig3": 10, "PMC9000005_F4": 15}
"""Numbers of `demo_figure` that other demo trees draw as well."""

PLANTED: dict[str, str] = {
    "same_figure": "pmc_oa/test/2 is panel 2 of a figure whose panels 0 and 1 are training rows",
}
"""What overlaps between the splits of the demo tree."""


def demo_panel(article: str, figure: str, panel: int) -> bytes:
    """The demo picture of a panel; PMC-VQA's demo tree draws its copies with it."""
    number = _DEMO_PANELS.get(f"{article}_{figure}", 20 + sum(map(ord, article + figure)) % 60)
    return demo_figure(number + panel)


def _write_demo(raw: Path) -> None:
    members = {}
    for split, figures in _DEMO.items():
        rows = []
        for article, figure, whole, captions in figures:
            for panel, caption in enumerate(captions):
                if not caption:
                    continue
                name = f"{article}_{figure}_{panel}.jpg"
                members[f"{_FOLDER}/{name}"] = demo_panel(article, figure, panel)
                row = {"image": name, "caption": caption}
                rows.append(row if whole is None else row | {"pmcid": article, "url_name": whole})
        write_demo_file(raw / f"{split}.jsonl", "".join(json.dumps(row) + "\n" for row in rows).encode())
    write_demo_zip(raw / "images.zip", members)


SOURCE = Source(
    name="pmc_oa",
    title="PMC-OA: figure panels of open-access articles with their captions",
    homepage="https://huggingface.co/datasets/axiong/pmc_oa",
    revision="record layout as in WeixiongLin/Build-PMC-OA@eaf8115; hub commit not known",
    license="openrail",
    access="open",
    stage="pretrain",
    task="caption",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
Clone https://huggingface.co/datasets/axiong/pmc_oa (git lfs), or --download --revision SHA. --raw is the folder with
  train.jsonl  valid.jsonl  test.jsonl
  images.zip, read in place (or unpacked: images/ or caption_T060_filtered_top4_sep_v0_subfigures/); not needed with
  --no-images""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {},
    paper=(
        "477,078 of about 1.65 M panels (sizes of the splits are not published); the rule is unpublished, so all are "
        "built here and filters choose"
    ),
    paper_rows=(
        PaperRow(
            "PMC-OA (filtered)", "PT", 477_078, "a subset of about 1.65 M by an unpublished rule; all rows are built"
        ),
    ),
    hub_id="axiong/pmc_oa",
    hub_files=("train.jsonl", "valid.jsonl", "test.jsonl", "images.zip"),
    filters="medgpt_oss",
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
