"""Screens: desktops, dialogs, browsers, terminals and viewers of slides, told by how their pictures are made.

Programs outline bars, fields and tables with faint straight lines, the ground exactly even on both sides, and write on
even grey; figures, slides and photographs hardly do. These signs, the coloured buttons of a window and what the text
filter found make one score by a logistic regression, whose weights `python -m bench.filters_pictures --fit` finds on
the half of the pictures that is tuned on. How much of the picture is tissue tells a viewer from a desktop.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from filters.base import Filter, FilterError, Picture, Record, Score
from filters.burned_in import TextBox, read_boxes
from filters.text_regions import CELL, SIDE, ink, shares, steps

RUN = 32
"""Pixels that an outline goes on for at least: a button's."""
FAINT = (6, 60)
"""Steps of green across an outline, of 255: axes and frames of figures are black on white."""
EVEN = 3
"""Steps between neighbours along an outline, of 255, that JPEG leaves on even ground."""
GREY = (24, 250)
"""Levels of a ground that is neither black nor white."""
NEUTRAL = 24
"""Levels between the strongest and the weakest channel below which a colour is a grey."""
MARGIN = 3
"""Pixels around a box of writing that are looked at with it."""
AROUND = 0.4
"""Share of even grey in and around a box from which on its writing stands on even grey."""
FEW, MANY = 3, 12
"""Lines that begin one below the other: in figures, and in menus, lists and terminals."""
DOT_DISTANCE = (5, 40)
"""Pixels between the red, the yellow and the green button of a window."""
DOT_HEIGHT = 0.2
"""Share of the height at the top where they lie."""
VIEWED = 0.05
"""Share of tissue from which on a screen is a viewer: dialogs lie over much of the tissue, and a small picture of some
(an icon, a row of thumbnails) makes none."""

WEIGHTS: Mapping[str, float] = {
    "outlines": 5.64,
    "grey": 2.9,
    "labels": 2.65,
    "buttons": 4.32,
    "lines": 3.01,
    "regions": 2.89,
    "column": 2.47,
}
"""Of each of the `signs`."""
BIAS = -7.33


def signs(picture: Picture, found: Mapping[str, Score], number: int = 0) -> dict[str, float]:
    """The signs of a screen, each 0..1: those of `WEIGHTS`, and `tissue`.

    The picture is looked at with the longest side at most `SIDE`. Of the scores `found` before, those of
    `overlaid_text` are used; `number` is the picture's among its record's.
    Raises: `FilterError` where a score of `overlaid_text` is missing.
    """
    rgb = picture.rgb(SIDE)
    lines, regions, places = (found.get(f"overlaid_text.{name}") for name in ("boxes", "regions", "places"))
    if not isinstance(lines, (int, float)) or not isinstance(regions, (int, float)) or not isinstance(places, str):
        raise FilterError("the screens filter needs the scores of overlaid_text: give it `after: [overlaid_text]`")
    here = [place for place in read_boxes(places) if place.picture == number]
    height, width = rgb.shape[:2]
    planes = cv2.split(rgb)
    green = planes[1]
    across, down = steps(green)
    spread = np.maximum.reduce(planes) - np.minimum.reduce(planes)
    even = across <= EVEN
    beside = even[1:] & even[:-1]  # along the outline on both of its sides
    grey = (across == 0) & (down == 0) & (green > GREY[0]) & (green < GREY[1]) & (spread < NEUTRAL)
    coloured = textured = np.zeros((1, 1), np.bool_)
    if min(height, width) >= CELL:
        rows, columns = height // CELL * CELL, width // CELL * CELL
        hard, _ = ink(rgb)
        textured = (shares(np.maximum(across, down)[:rows, :columns] > EVEN) > 0.4) & ~hard
        coloured = shares(spread[:rows, :columns] >= NEUTRAL) > 0.4
    return {
        "outlines": _often(_runs(beside & (down[1:] >= FAINT[0]) & (down[1:] <= FAINT[1])), 30),
        "grey": float(grey.mean()),
        "labels": _often(_on_grey(grey, here, max(height, width) / max(picture.width, picture.height)), 10),
        "buttons": float(_buttons(planes)),
        "lines": min(float(lines), 3.0) / 3,
        "regions": _often(float(regions), 30),
        "column": min(1.0, max(0, _column(here) - FEW) / (MANY - FEW)),
        "tissue": float((textured & coloured).mean()),
    }


def _often(count: float, many: int) -> float:
    """0 for none, 1 for `many` and more."""
    return min(1.0, math.log1p(count) / math.log1p(many))


def _runs(edges: NDArray[np.bool_]) -> float:
    """Straight pieces of `RUN` pixels along the rows in a thousand that there is room for."""
    columns = edges.shape[1] // RUN
    if not columns or not len(edges):
        return 0.0
    whole = np.asarray(edges[:, : columns * RUN].reshape(len(edges), columns, RUN).all(axis=2))
    whole[1:] &= ~whole[:-1]  # an outline two pixels thick is one outline
    return float(np.count_nonzero(whole)) * 1000 / whole.size


def _on_grey(grey: NDArray[np.bool_], places: Sequence[TextBox], scale: float) -> int:
    """How many pieces of writing, read or not, stand on even grey. `scale`: pixels of `grey` for one of the places."""
    count = 0
    for place in places:
        corners = (place.top - MARGIN, place.bottom + MARGIN, place.left - MARGIN, place.right + MARGIN)
        top, bottom, left, right = (max(0, round(corner * scale)) for corner in corners)
        around = grey[top:bottom, left:right]
        count += place.kind in "tu" and around.size > 0 and bool(around.mean() > AROUND)
    return count


def _column(places: Sequence[TextBox]) -> int:
    """The most pieces of writing that begin at one distance from the left, within half a line's height."""
    lines = [(place.left, place.bottom - place.top) for place in places if place.kind in "tu"]
    return max((sum(2 * abs(other - left) <= high for other, _ in lines) for left, high in lines), default=0)


def _buttons(planes: Sequence[NDArray[Any]]) -> bool:
    """Whether a red, a yellow and a green dot follow each other in a row at equal distances near the top."""
    rows = max(1, round(planes[0].shape[0] * DOT_HEIGHT))
    red, green, blue = (plane[:rows].astype(np.int16) for plane in planes)
    stop = (red > 190) & (red - green > 70) & (red - blue > 70)
    less = (red > 190) & (green > 140) & (green - blue > 60) & (red - green < 90)
    more = (green > 140) & (green - red > 50) & (green - blue > 40)
    able = stop.any(axis=1) & less.any(axis=1) & more.any(axis=1)
    if not able.any():
        return False
    stop, less, more = stop[able], less[able], more[able]
    width = stop.shape[1]
    return any(
        (stop[:, : width - 2 * distance] & less[:, distance : width - distance] & more[:, 2 * distance :]).any()
        for distance in range(DOT_DISTANCE[0], min(DOT_DISTANCE[1], (width - 1) // 2))
    )


def screen(values: Mapping[str, float]) -> float:
    """0..1 of signs: the regression."""
    total = BIAS + sum(weight * values[name] for name, weight in WEIGHTS.items())
    return 1.0 / (1.0 + math.exp(-total))


class Screens(Filter):
    """Says whether a picture shows a program's window. `overlaid_text` must run before."""

    name: ClassVar[str] = "screens"
    version: ClassVar[str] = f"1/{SIDE}-{RUN}-{FAINT}-{EVEN}-{GREY}-{VIEWED}/{BIAS}/{dict(WEIGHTS)}"
    scores: ClassVar[dict[str, str]] = {
        "desktop": "0..1; a dialog, a browser, a terminal or a window with little tissue or none",
        "viewer": "0..1; a program that shows tissue",
        "tissue": "share of the picture that is coloured and textured",
    }
    cost: ClassVar[float] = 8.0

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; see `Filter.score`. Raises: `FilterError` without scores of `overlaid_text`."""
        every = [signs(picture, record.found, number) for number, picture in enumerate(record.pictures)]
        most = max(every, key=screen)
        value, tissue = screen(most), most["tissue"]
        # The larger of the two is the score of a screen of either kind.
        return {
            "desktop": round(value * min(1.0, max(0.0, 2.0 - tissue / VIEWED)), 4),
            "viewer": round(value * min(1.0, tissue / VIEWED), 4),
            "tissue": round(tissue, 4),
        }
