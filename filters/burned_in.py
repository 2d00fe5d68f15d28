"""Burned-in text on radiographs: who is to be looked at by a person, and where, before anybody trains on it.

Scanners write names, dates and exposures into the pixels, where no stripping of metadata reaches them. A recipe for
radiographs (`filters/recipes/radiographs.yaml`) names this filter after `overlaid_text`; `filters.decide` then writes
the boxes of every picture that it takes out:

    DATA/filtered/<build>/quarantine.parquet    sample_id, image, score, boxes (left, top, right, bottom, read, score)

Markers of sides and positions (L, AP, PORTABLE) and lone letters say nothing of a person and are no burned-in text.
What was read is nowhere: the recogniser's text never leaves `filters.overlaid_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Filter, FilterError, Record, Score
from filters.places import Place, places_text, read_places

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


class BurnedIn(Filter):
    """Says whether there is burned-in text, and where. `overlaid_text` must run before."""

    name: ClassVar[str] = NAME
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {
        "score": "0..1; text other than markers of sides and lone letters, of the picture with most",
        "boxes": "boxes of such text in all pictures, read or not, count",
        "places": "the boxes, in pixels; see filters/places.py",
    }
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.1

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record; see `Filter.score`. Raises: `FilterError` without scores of `overlaid_text`."""
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> dict[str, Score]:
        for score in ("text", "places"):
            if f"overlaid_text.{score}" not in record.found:
                raise FilterError(
                    f"the {NAME} filter needs the scores of overlaid_text: give it after: [overlaid_text]"
                )
        text, places = record.found["overlaid_text.text"], record.found["overlaid_text.places"]
        if text is None or places is None:
            return dict.fromkeys(self.scores)
        found = [place for place in read_places(str(places)) if place.kind in "tu"]
        return {"score": text, "boxes": len(found), "places": places_text(found)}


def quarantine(table: pa.Table, threshold: bool) -> pa.Table:
    """The table of `QUARANTINE` for a decided build: one row a picture with boxes, in the order of the samples.

    table: of `filters.selection.Decision`. threshold: whether the recipe gives this filter one; then only what it takes
    out is set aside, else all that has boxes.
    """
    if threshold:
        table = table.filter(pc.equal(table[f"#{NAME}"], "drop"))
    made = []
    for sample, text in zip(table["sample_id"].to_pylist(), table[f"{NAME}.places"].to_pylist(), strict=True):
        boxes: dict[int, list[Place]] = {}
        for place in read_places(text or ""):
            boxes.setdefault(place.picture, []).append(place)
        made += [
            {
                "sample_id": sample,
                "image": number,
                "score": max((place.score for place in places if place.kind == "t"), default=0.0),
                "boxes": [
                    {"left": place.left, "top": place.top, "right": place.right, "bottom": place.bottom,
                     "read": place.kind == "t", "score": place.score}
                    for place in places
                ],
            }
            for number, places in boxes.items()
        ]  # fmt: skip
    return pa.Table.from_pylist(made, schema=QUARANTINE)
