"""Drawn marks: arrows, circles and outlines that an author put on a picture.

Three signs. What `filters.picture_kinds` learnt of marked films and tissue: leader lines and black arrows, above all.
Lines in a pure colour (red, yellow, green, cyan, blue, magenta) that nothing in the picture around them has: stains and
endoscopes have reds and purples, too, but not thin, not that pure, not of one shade. And arrows in pure white: solid,
several times longer than wide, wider at one end, with a sharp edge all around. Flat pictures (windows, plots, masks)
are full of coloured lines, and filters of their own find them: these two fall with the share of flat ground.
"""

from typing import Any, ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from filters.base import Record, Score
from filters.compound import grey_levels
from filters.picture_kinds import VERSION, KindFilter, kinds

SIDE = 512
CHROMA = 110
"""Largest minus smallest of red, green, blue (0..255) from which on a colour can be a pen's."""
PURE = 0.3
"""How far, as a share of the chroma, the middle channel may lie from the nearer of the two others: pens are near 0,
eosin, haematoxylin and mucosa about a half."""
THICKEST = 7
"""Pixels: what survives an erosion of this width is a patch, not a line."""
LONG, LONG_ON_GREY = 0.12, 0.06
"""Extent of a coloured line, as a share of the longest side, that counts in full; radiographs have no colours."""
SHORT = 0.02
"""Extent below which it is a speck."""
APART = 60
"""Grey levels in at least one channel between a line's colour and what lies three to four pixels beside it."""
ARROW = (0.05, 0.4)
"""Shortest and longest extent of an arrow, as shares of the longest side."""
FLAT = (0.55, 0.75)
"""Share of pixels equal to their right neighbour from which on the score falls, and at which nothing is left of it."""
EDGE = 60
"""Grey levels between an arrow and what lies around it."""


class DrawnMarks(KindFilter):
    """Says whether somebody has drawn on the picture."""

    name: ClassVar[str] = "drawn_marks"
    version: ClassVar[str] = f"2/{VERSION}"
    scores: ClassVar[dict[str, str]] = {
        "coloured": "0..1: extent of lines in pure colours",
        "arrows": "white arrows",
        "marks": "0..1; the largest of the signs, those two less on flat ground",
    }
    cost: ClassVar[float] = 24.0

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; see `Filter.score`."""
        found = [(*marks(picture.rgb(SIDE)), kinds(picture)["marks"]) for picture in record.pictures]
        coloured, arrows, *values = max(found, key=lambda one: max(one[2:]))
        return {"coloured": round(coloured, 4), "arrows": arrows, "marks": round(max(values), 4)}


def marks(rgb: NDArray[np.uint8]) -> tuple[float, int, float]:
    """(extent of coloured lines 0..1, arrows, score 0..1) of a picture of at most `SIDE` pixels a side."""
    pixels = rgb.astype(np.int16)
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    grey = grey_levels(rgb)
    still = float((grey[:, 1:] == grey[:, :-1]).mean()) if rgb.shape[1] > 1 else 1.0
    natural = min(1.0, max(0.0, (FLAT[1] - still) / (FLAT[1] - FLAT[0])))
    coloured = _coloured(pixels, high, low)
    arrows = _arrows(low >= 240, grey)
    return coloured, arrows, natural * max(coloured, 0.75 if arrows == 1 else 0.0, 0.9 if arrows > 1 else 0.0)


def _coloured(pixels: NDArray[np.int16], high: NDArray[np.int16], low: NDArray[np.int16]) -> float:
    chroma = high - low
    middle = pixels[:, :, 0] + pixels[:, :, 1] + pixels[:, :, 2] - high - low
    near = np.minimum(high - middle, middle - low)
    pure = (chroma >= CHROMA) & (near <= PURE * chroma) & (high >= 150)
    longest = max(high.shape)
    if np.count_nonzero(pure) < SHORT * longest:
        return 0.0
    patches = cv2.erode(pure.view(np.uint8), np.ones((THICKEST, THICKEST)))
    lines = pure & ~cv2.dilate(patches, np.ones((THICKEST + 4, THICKEST + 4))).view(bool)
    best = 0.0
    full = (LONG_ON_GREY if np.median(chroma) <= 12 else LONG) * longest
    # Which of red, green and blue are on: 1 red, 2 green, 3 yellow, 4 blue, 5 magenta, 6 cyan.
    on = pixels * 2 > (high + low)[:, :, None]
    shades = on[:, :, 0] + on[:, :, 1] * np.uint8(2) + on[:, :, 2] * np.uint8(4)
    for shade in range(1, 7):
        mask = lines & (shades == shade)
        _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask.view(np.uint8), connectivity=8)
        for index, (left, top, width, height, size) in enumerate(boxes.tolist()):
            extent = max(width, height)
            thin = min(size, extent) >= SHORT * longest and size <= 4 * THICKEST * extent
            if index and thin and best * full < extent:
                around = np.s_[max(0, top - 4) : top + height + 4, max(0, left - 4) : left + width + 4]
                if _stands_out(labels[around] == index, pixels[around]):
                    best = max(best, extent / full)
    return float(min(1.0, best))


def _stands_out(line: NDArray[np.bool_], colours: NDArray[np.int16]) -> bool:
    """Whether the colour ends on both sides of the line; the rim of something red goes on at one."""
    ink = np.median(colours[line], axis=0)
    return float((np.abs(colours[_ring(line, 2, 4)] - ink).max(axis=1) < APART).mean()) < 0.2


def _ring(shape: NDArray[np.bool_], inner: int, outer: int) -> NDArray[Any]:
    """What lies more than `inner` and at most `outer` steps from a shape."""
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    near, far = (cv2.dilate(shape.view(np.uint8), cross, iterations=steps) for steps in (inner, outer))
    return np.asarray(far > near)


def _arrows(solid: NDArray[np.bool_], grey: NDArray[np.integer]) -> int:
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(solid.view(np.uint8), connectivity=4)
    height, width = solid.shape
    longest = max(solid.shape)
    found = 0
    for index, (left, top, wide, high, size) in enumerate(boxes.tolist()):
        inside = 3 <= left <= width - 3 - wide and 3 <= top <= height - 3 - high
        long = ARROW[0] * longest <= max(wide, high) <= ARROW[1] * longest
        if index and size >= 3 * ARROW[0] * longest and long and inside:
            around = np.s_[top - 3 : top + high + 3, left - 3 : left + wide + 3]
            found += _arrow(labels[around] == index, grey[around])
    return found


def _arrow(shape: NDArray[np.bool_], grey: NDArray[np.integer]) -> bool:
    rows, columns = np.nonzero(shape)
    points = np.stack((rows, columns)).astype(np.float64)
    points -= points.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(points @ points.T)
    along, across = axes[:, 1] @ points, axes[:, 0] @ points
    length = float(np.ptp(along)) + 1
    # Width in ten sections along the arrow: a thin even shaft, one wide end.
    section = np.minimum(9, ((along - along.min()) / length * 10).astype(int))
    widths = np.array([np.ptp(across[section == part]) + 1 if (section == part).any() else 0.0 for part in range(10)])
    if widths.min() == 0:
        return False
    if widths[:4].max() > widths[6:].max():
        widths = widths[::-1]
    shaft, head = float(np.median(widths[:5])), float(widths[5:].max())
    # Solid: a bent or forked shape leaves gaps within its sections.
    if head < 5 or shape.sum() < 0.65 * widths.sum() * length / 10:
        return False
    if length < 2.2 * head or head < 1.5 * shaft or widths[:5].max() > 1.6 * shaft + 1.5:
        return False
    return float((grey[_ring(shape, 2, 3)] < 255 - EDGE).mean()) > 0.9
