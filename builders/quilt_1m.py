"""Quilt-1M: histopathology pictures from YouTube, Twitter, PubMed and LAION with captions.

One table holds both splits. Its list columns (`roi_text`, `med_umls_ids`, ...) are stringified, `single_wsi` is about
slides, not panels, and `magnification` is empty outside the YouTube subset: none of them is read. Rows that the
publisher marks `not_histology` are dropped; outside the subset that he marked the column is empty, and rows are kept.
QuiltCleaner's `predictions_quiltcleaner.csv`, by which the recipe very likely filtered (reference `sources.md`,
section 3, 12), may lie beside the table: it shapes no sample, the filters read it where it is there.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from builders.engine.archives import PictureStore
from builders.engine.rawfiles import (
    outcome,
    read_bytes,
    relative,
    require,
    text_of,
    write_demo_file,
    write_demo_zip,
)
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
from builders.engine.tables import Row, table_rows, table_units

FILE = "quilt_1M_lookup.csv"
LABELS_FILE = "predictions_quiltcleaner.csv"
_SPLITS: dict[str, Role] = {"train": "train", "val": "eval"}
_COLUMNS = ("caption", "image_path", "subset", "split", "not_histology")
_SUBSETS = frozenset({"quilt", "openpath", "pubmed", "laion"})
_ZIPS, _FOLDER = "images_part_*.zip", "quilt_1m"
_NAME = re.compile(r"[^/\\]+\.(?:jpe?g|png)", re.IGNORECASE)
_MARKS = {"": False, "nan": False, "0": False, "0.0": False, "1": True, "1.0": True}
"""Values of `not_histology`: pandas writes a column with gaps as floats."""

VIDEO_FRAME = re.compile(r"([A-Za-z0-9_-]{11})_(?:image|roi)_.+")
"""A picture of the Quilt sets, named after its YouTube video: `<id>_image_<uuid>.jpg`, in Quilt-Instruct `_roi_`."""


def video_id(name: str, file: str) -> str:
    """`youtube/<id>` of a picture, as `medframeqa` has it too."""
    match = VIDEO_FRAME.fullmatch(name)
    if match is None:
        raise InputError("bad_id", file, "the picture is not named <YouTube id>_image_... or <YouTube id>_roi_...")
    return f"youtube/{match[1]}"


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path = require(raw, "table", FILE)
    pictures: list[str] = []
    if not params["no_images"]:
        require(raw, "images_part_*.zip (--no-images builds without)", _ZIPS, _FOLDER)
        pictures = [relative(path, raw) for path in sorted(raw.glob(_ZIPS))]
    for piece in table_units(raw, [path], "train", "train", columns=_COLUMNS, inputs=pictures):
        counts = Counter(_split(row) for row in table_rows(raw, piece))
        for split, role in _SPLITS.items():
            if counts[split]:
                name = piece.name.replace("train", split)
                yield replace(piece, name=name, split=split, role=role, rows=counts[split])


def _split(row: Row | Reject) -> str:
    """The split that accounts for a row; damaged ones are train's."""
    return "val" if isinstance(row, Row) and row.values["split"] == "val" else "train"


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    zips = PictureStore(raw, unit.inputs[1:])  # after the table itself come the pictures
    for row in table_rows(raw, unit):
        if _split(row) == unit.split:
            yield row if isinstance(row, Reject) else outcome(partial(_sample, raw, zips, row), row.file, row.number)


def _sample(raw: Path, zips: PictureStore, row: Row) -> Sample:
    file, values = row.file, row.values
    name, subset, caption = (text_of(values, column, file).strip() for column in ("image_path", "subset", "caption"))
    if values["split"] not in _SPLITS:
        raise InputError("bad_field", file, "split is neither train nor val")
    if subset not in _SUBSETS:
        raise InputError("bad_field", file, "subset is none of quilt, openpath, pubmed, laion")
    marked = _MARKS.get(values["not_histology"].strip().lower())
    if marked is None:
        raise InputError("bad_field", file, "not_histology is neither 0 nor 1")
    if not _NAME.fullmatch(name):
        raise InputError("bad_field", file, "image_path is not the name of a picture file")
    group = {"video_id": video_id(name, file)} if subset == "quilt" else {}
    if marked:
        raise InputError("not_histology", file)
    if not caption:
        raise InputError("empty_caption", file)
    place = f"{_FOLDER}/{name}"
    found = (place, partial(read_bytes, raw / place, raw)) if (raw / place).is_file() else zips.reader(name)
    return Sample(
        key=row.number,  # a picture has several rows; `Unnamed: 0` is not known to be unique
        messages=[user(0, CAPTION_PROMPT), assistant(caption)],
        file=file,
        row=row.number,
        answer=caption,
        images=[Image(f"quilt_1m/{name}", *found)],
        group=group,
        subset=subset,
    )


DEMO_VIDEOS = ("demoVideo03", "demo_qlt-01", "-demoQuilt2", "demoQuilt_3")
"""The first is a video of the medframeqa demo tree, the first two are quilt_instruct's too. An id may begin oddly."""

PLANTED: dict[str, str] = {
    "video, benchmark": "quilt_1m/train/2 and 4 are frames of youtube/demoVideo03, a video of medframeqa's demo",
    "video, instruct": "frames of youtube/demo_qlt-01 are in the demo trees of quilt_1m and quilt_instruct",
    "video, splits": "quilt_1m's train and val splits both have frames of youtube/demoQuilt_3",
}
"""What overlaps in the demo tree and with others."""

_UUID = "0b0f4c1e-5d1c-4f7e-9a57-{:012x}"
# (picture, subset, split, caption, not_histology); a picture may have several rows.
_DEMO: tuple[tuple[str, str, str, str, str], ...] = (
    ("0", "quilt", "train", "Nests of atypical melanocytes at the tips of the rete ridges.", "0.0"),
    ("0", "quilt", "train", "The same nests at high power,\nwith ascent into the granular layer.", "0.0"),
    ("1", "quilt", "train", 'A "ground glass" nucleus with a groove, as in papillary carcinoma.', "0.0"),
    ("2", "quilt", "val", "Crypt abscess and branching of crypts in a colonic biopsy.", "0.0"),
    ("2", "quilt", "train", "The lecturer shows a plot of survival.", "1.0"),
    ("3", "quilt", "train", "Keratin pearls in a well differentiated squamous cell carcinoma.", "0.0"),
    ("3", "quilt", "val", "Intercellular bridges between keratinocytes.", "0.0"),
    ("1180000000000000001_0.jpg", "openpath", "train", "Lymph node, 54F. Reed-Sternberg cells? #hemepath", ""),
    ("1180000000000000002_1.jpg", "openpath", "val", "Gastric biopsy with curved rods on the surface.", ""),
    (f"{_UUID.format(77)}_2.jpg", "pubmed", "train", "(B) Haematoxylin and eosin stain of the resected nodule.", ""),
    ("4711.jpg", "laion", "train", "Stock photo: section of a human kidney, light micrograph", ""),
    ("4712.jpg", "laion", "train", "", ""),
)


def demo_slide(number: int) -> bytes:
    """A made-up stained section as JPEG, 64 pixels wide; `number` places the nuclei."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    picture = Pillow.new("RGB", (64, 64), (226 - number % 7, 170, 200))
    draw = ImageDraw.Draw(picture)
    for cell in range(14):
        x, y = (17 * cell + 29 * number) % 60, (41 * cell + 13 * number + cell * cell) % 60
        draw.ellipse((x, y, x + 4 + (cell + number) % 5, y + 5), fill=(96 - 4 * cell, 48, 120 + number % 60))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _write_demo(raw: Path) -> None:
    table, pictures = io.StringIO(), dict[str, bytes]()
    lists = ("pathology", "roi_text", "noisy_text", "corrected_text", "med_umls_ids")
    writer = csv.writer(table, lineterminator="\n")
    head = ("Unnamed: 0", "caption", "image_path", "subset", "split")
    tail = ("magnification", "height", "width", "single_wsi", "not_histology")
    writer.writerow((*head, *lists, *tail))
    for number, (picture, subset, split, caption, marked) in enumerate(_DEMO):
        youtube = subset == "quilt"
        name = f"{DEMO_VIDEOS[int(picture)]}_image_{_UUID.format(int(picture))}.jpg" if youtube else picture
        texts = ("['Dermatopathology']", "['nests']", '["it\'s nests"]', "['Nests.']", "[[{'entity': 'Nests'}]]")
        shown = (number % 3 / 1, 1080, 1920, 1.0, marked) if youtube else ("", 512, 512, "", marked)
        writer.writerow((number, caption, name, subset, split, *(texts if youtube else ("",) * len(lists)), *shown))
        pictures.setdefault(f"quilt_1m/{name}", demo_slide(len(pictures)))
    write_demo_file(raw / FILE, table.getvalue().encode())
    names = list(pictures)
    write_demo_zip(raw / "images_part_0.zip", {name: pictures[name] for name in names[::2]})
    write_demo_zip(raw / "images_part_1.zip", {name: pictures[name] for name in names[1::2]})
    scores = "Unnamed: 0,Persons/Photos,Any impairment,Filename\n"
    scores += "".join(f"{index},0.{index},0.{index},{Path(name).name}\n" for index, name in enumerate(names))
    write_demo_file(raw / LABELS_FILE, scores.encode())


SOURCE = Source(
    name="quilt_1m",
    title="Quilt-1M: histopathology pictures with captions from videos and the web",
    homepage="https://github.com/wisdomikezogwo/quilt1m",
    revision="wisdomikezogwo/quilt1m@20a5824, Zenodo 8239942",
    license="CC-BY-NC-SA-4.0",
    access="gated",
    stage="pretrain",
    task="caption",
    modality="image-text",
    splits=_SPLITS,
    obtain=f"""
Ask for access at https://zenodo.org/records/8239942 (512 pixels), or by the form linked from
https://github.com/wisdomikezogwo/quilt1m (full size). --raw is the folder with
  {FILE}
  images_part_*.zip (read in place), or quilt_1m/ with the same pictures; not needed with --no-images
  {LABELS_FILE}, from https://github.com/DeepMicroscopy/QuiltCleaner: optional, for the filters""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 1_004_153, "val": 13_559},
    paper=(
        "359,725 after a filter that the paper does not publish, very likely QuiltCleaner with some of its labels. We "
        "keep all but the about 5,000 rows marked not_histology; the filters and their policy do the rest. The licence "
        "is by a third-party audit: research only."
    ),
    paper_rows=(
        PaperRow(
            "Quilt-1M (filtered)",
            "PT",
            359_725,
            "the published set before the filter, less not_histology; the paper's filter is unpublished",
        ),
    ),
    filters="medgpt_oss",
    filter_files={"quilt_cleaner.table": LABELS_FILE},
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
