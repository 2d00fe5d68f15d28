"""Burned-in text on radiographs: who is to be looked at by a person, and where, before anybody trains on it.

Scanners write names, dates and exposures into the pixels, where no stripping of metadata reaches them. A recipe for
radiographs (`filters/recipes/radiographs.yaml`) names this filter after `overlaid_text`; `filters.decide` then writes
the boxes of every picture that it takes out:

    DATA/filtered/<build>/quarantine.parquet    sample_id, image, score, boxes (left, top, right, bottom, read, score)

Markers of sides and positions (L, AP, PORTABLE) and lone letters say nothing of a person and are no burned-in text.
What was read is nowhere: the recogniser's text never leaves `filters.overlaid_text`.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter, FilterError, Record, Score

NAME = "burned_in"
QUARANTINE_FILE = "quarantine.parquet"
BOX = pa.struct(
    [
        ("left", pa.int32()),  # pixels of the picture as it is shown; right and bottom lie outside
        ("top", pa.int32()),
        ("right", pa.int32()),
        ("bottom", pa.int32()),
        ("read", pa.bool_()),  # whether it was read; else it looks like writing only
        ("score", pa.float64()),  # 0..1
    ]
)
QUARANTINE = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image", pa.int32(), nullable=False),  # number in the sample
        pa.field("score", pa.float64(), nullable=False),  # of the surest box that was read; 0 where none was
        pa.field("boxes", pa.list_(BOX), nullable=False),
    ]
)


BOX_KINDS = {"t": "text", "m": "marker", "p": "panel letter", "u": "unread"}
"""Unread: looks like writing and was left unread, since what was read before it settled the picture."""


@dataclass(frozen=True, order=True)
class TextBox:
    """A box of writing, in pixels of the picture as it is shown (its EXIF orientation followed)."""

    picture: int
    """Number among the record's pictures."""
    top: int
    left: int
    bottom: int
    right: int
    kind: str
    """One of `BOX_KINDS`."""
    score: float
    """0..1, two digits: how sure it is that this is text; of an unread one, the detector's probability."""


def boxes_text(boxes: Iterable[TextBox]) -> str:
    """`<picture> <kind> <left> <top> <right> <bottom> <score in hundredths>;` of each box, in order."""
    return "".join(
        f"{one.picture} {one.kind} {one.left} {one.top} {one.right} {one.bottom} {round(100 * one.score)};"
        for one in sorted(boxes)
    )


def read_boxes(text: str) -> list[TextBox]:
    """The boxes of `boxes_text`. Raises: `ValueError` for any other text."""
    found = []
    for entry in text.split(";")[:-1]:
        picture, kind, *numbers = entry.split(" ")
        left, top, right, bottom, score = map(int, numbers)
        if kind not in BOX_KINDS or not (0 <= left < right and 0 <= top < bottom and 0 <= score <= 100):
            raise ValueError(f"{entry!r} is no box of text")
        found.append(TextBox(int(picture), top, left, bottom, right, kind, score / 100))
    if boxes_text(found) != text:
        raise ValueError("no boxes of text in order")
    return found


class BurnedIn(Filter):
    """Says whether there is burned-in text, and where. `overlaid_text` must run before."""

    name: ClassVar[str] = NAME
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {
        "score": "0..1; text other than markers of sides and lone letters, of the picture with most",
        "boxes": "boxes of such text in all pictures, read or not, count",
        "places": "the boxes, in pixels; see `TextBox`",
    }
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.1

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; see `Filter.score`. Raises: `FilterError` without scores of `overlaid_text`."""
        if not {"overlaid_text.text", "overlaid_text.places"} <= record.found.keys():
            raise FilterError(f"the {NAME} filter needs the scores of overlaid_text: give it after: [overlaid_text]")
        text, places = record.found["overlaid_text.text"], record.found["overlaid_text.places"]
        if text is None or places is None:
            return dict.fromkeys(self.scores)
        found = [box for box in read_boxes(str(places)) if box.kind in "tu"]
        return {"score": text, "boxes": len(found), "places": boxes_text(found)}


def quarantine(table: pa.Table, threshold: bool) -> pa.Table:
    """The table of `QUARANTINE` for a decided build: one row a picture with boxes, in the order of the samples.

    table: of `filters.selection.Decision`. threshold: whether the recipe gives this filter one; then only what it takes
    out is set aside, else all that has boxes.
    """
    if threshold:
        table = table.filter(pc.equal(table[f"#{NAME}"], "drop"))
    made = []
    for sample, text in zip(table["sample_id"].to_pylist(), table[f"{NAME}.places"].to_pylist(), strict=True):
        # The boxes are in the order of their pictures.
        for number, boxes in groupby(read_boxes(text or ""), key=lambda box: box.picture):
            found = [vars(box) | {"read": box.kind == "t"} for box in boxes]
            surest = max((box["score"] for box in found if box["read"]), default=0.0)
            made.append({"sample_id": sample, "image": number, "score": surest, "boxes": found})
    return pa.Table.from_pylist(made, schema=QUARANTINE)
