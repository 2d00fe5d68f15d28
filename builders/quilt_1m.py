"""Quilt-1M: histopathology pictures from YouTube, Twitter, PubMed and LAION with captions.

One table holds both splits. Its list columns (`roi_text`, `med_umls_ids`, ...) are stringified, `single_wsi` is about
slides, not panels, and `magnification` is empty outside the YouTube subset: none of them is read. Rows that the
publisher marks `not_histology` (in tables since 2023-10-26) are dropped; outside the subset that he marked the column
is empty, and rows are kept.
QuiltCleaner's `predictions_quiltcleaner.csv`, by which the recipe very likely filtered (reference `sources.md`,
section 3, 12), may lie beside the table: it shapes no sample, the filters read it where it is there.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from builders import kit

FILE = "quilt_1M_lookup.csv"
LABELS_FILE = "predictions_quiltcleaner.csv"
_SPLITS: dict[str, kit.Role] = {"train": "train", "val": "eval"}
_COLUMNS = ("caption", "image_path", "subset", "split")
_MARKED, _CAME_WITH = "not_histology", "single_wsi"
"""Both came on 2023-10-26 (wisdomikezogwo/quilt1m's README); the table before has 13 columns."""
_SUBSETS = frozenset({"quilt", "openpath", "pubmed", "laion"})
_ZIPS, _FOLDER = "images_part_*.zip", "quilt_1m"
_NAME = re.compile(r"[^/\\]+\.(?:jpe?g|png)", re.IGNORECASE)
_MARKS = dict.fromkeys(("", "nan", "0", "0.0", "false"), False) | dict.fromkeys(("1", "1.0", "true"), True)
"""Values of `not_histology`: pandas writes a column with gaps as floats."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    path = kit.require(raw, "table", FILE)
    pictures: list[str] = []
    if not params["no_images"]:
        kit.require(raw, "images_part_*.zip (--no-images builds without)", _ZIPS, _FOLDER)
        pictures = [kit.relative(path, raw) for path in sorted(raw.glob(_ZIPS))]
    # The two columns came together: a table with one of them has the other, under whatever name.
    header = next(kit.text_lines(path), "")
    columns = (*_COLUMNS, _MARKED) if _CAME_WITH in header else _COLUMNS
    for piece in kit.table_units(raw, [path], "train", "train", columns=columns, inputs=pictures):
        counts = Counter(_split(row) for row in kit.table_rows(raw, piece))
        for split, role in _SPLITS.items():
            if counts[split]:
                name = piece.name.replace("train", split)
                yield replace(piece, name=name, split=split, role=role, rows=counts[split], notes={})


def _split(row: kit.Row | kit.Reject) -> str:
    """The split that accounts for a row; damaged ones are train's."""
    return "val" if isinstance(row, kit.Row) and row.values["split"] == "val" else "train"


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    pictures = kit.PictureStore(raw, () if params["no_images"] else (_FOLDER, *unit.inputs[1:]))
    rows = (row for row in kit.table_rows(raw, unit) if _split(row) == unit.split)
    return kit.outcomes(rows, partial(_sample, pictures, unit))


def _sample(pictures: kit.PictureStore, unit: kit.Unit, row: kit.Row) -> kit.Sample:
    file, values = row.file, row.values
    name, subset, caption = (
        kit.text_of(values, column, file).strip() for column in ("image_path", "subset", "caption")
    )
    kit.demand(values["split"] in _SPLITS, "bad_field", file, "split is neither train nor val")
    kit.demand(subset in _SUBSETS, "bad_field", file, "subset is none of quilt, openpath, pubmed, laion")
    if _MARKED not in values:
        kit.note(unit.notes, "unmarked")
    marked = _MARKS.get(values.get(_MARKED, "").strip().lower())
    if marked is None:
        raise kit.InputError("bad_field", file, "not_histology is neither 0 nor 1")
    name = name.rpartition("/")[2]  # some copies write the folder, too
    kit.demand(_NAME.fullmatch(name), "bad_field", file, "image_path is not the name of a picture file")
    group = {"video_id": kit.video_id(name, file)} if subset == "quilt" else {}
    found = pictures.reader(name)  # before any rule: what a row that is left out names is no picture without a row
    kit.demand(not marked, "not_histology", file)
    # A picture has several rows, and `Unnamed: 0` is not known to be unique: the line is the key.
    return kit.caption_sample(row, caption, kit.Image(f"quilt_1m/{name}", *found), group=group, subset=subset)


SOURCE = kit.Source(
    name="quilt_1m",
    title="Quilt-1M: histopathology pictures with captions from videos and the web",
    homepage="https://github.com/wisdomikezogwo/quilt1m",
    revision="wisdomikezogwo/quilt1m@20a5824, Zenodo 8239942",
    layouts=(
        kit.Layout(
            "table of 13 columns, before 2023-10-26", "code", "wisdomikezogwo/quilt1m@20a5824", lacks=("not_histology",)
        ),
        kit.Layout(
            "table with single_wsi and not_histology",
            "code",
            "wisdomikezogwo/quilt1m@20a5824",
            columns=("single_wsi", "not_histology"),
        ),
    ),
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
    reasons={"not_histology": "the publisher says that it shows no histology; nothing to do"},
    plan=_plan,
    read=_read,
    conclude=kit.noticed(
        unmarked="{rows} rows are of a table without the column not_histology, which came on 2023-10-26 and marks some "
        "5,000 of a million rows; those stay in"
    ),
    published=lambda params: {"train": 1_004_153, "val": 13_559},
    paper=(
        "359,725 after a filter that the paper does not publish, very likely QuiltCleaner with some of its labels. We "
        "keep all but the about 5,000 rows marked not_histology; the filters and their policy do the rest. The licence "
        "is by a third-party audit: research only."
    ),
    paper_rows=kit.paper_row(
        "Quilt-1M (filtered)",
        "PT",
        359_725,
        "the published set before the filter, less not_histology; the paper's filter is unpublished",
    ),
    filters="medgpt_oss",
    filter_files={"quilt_cleaner.table": LABELS_FILE},
)

if __name__ == "__main__":
    kit.run(SOURCE)
