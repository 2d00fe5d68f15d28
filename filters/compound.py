"""Compound figures: gutters and steps between panels, panel letters, cues in the caption.

The picture is cut along straight full-length lines, then its pieces are (a recursive XY cut): along bands of one
colour, and steps where two panels meet without a gutter. A piece counts as a panel only if it looks like a picture
(many grey levels, not ink on paper) **and** its sides are straight: tissue fragments on a white slide or organs on a
black field are parted by uniform bands as well, but touch the rectangle around them at a few points only. A thin line
over which the picture goes on is a drawn line, not a gutter.

On white paper, `filters.ink_panels` looks for panels that are no pictures, too, and has the last word.

Letters and captions only add to that. A caption alone is no proof: sources that cut figures into panels keep the
whole figure's caption with every panel.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import cv2
import numpy as np
from numpy.typing import NDArray

from filters.base import Filter, Record, Score
from filters.ink_panels import BIAS, several, signs

SIDE = 512
"""Pixels of the longest side the gutters are looked for at: a gutter of 2 pixels in 1,000 is still seen as a ridge."""
MIN_PANEL = 16
"""Pixels: a piece with a shorter side is a label, not a panel."""
MIN_AREA = 0.006
"""Share of the picture a panel covers at least."""
LONE_AREA = 0.04
"""The same of a panel that has no others of its size."""
COVERED = 0.15
"""Share of the picture all panels cover together at least."""
SAMPLED = 128
"""Lines of pixels looked at along a possible gutter; all of them would not find more, only take longer."""
FLAT = 16
"""Grey levels (of 256) between the 5th and 95th percentile of a line of one colour: JPEG rings next to edges."""
EDGE = 12
"""Grey levels by which a panel's first pixels differ from what lies outside it."""
STRAIGHT = 0.5
"""Share of a side along which that must hold. Tissue fragments measured 0.0 to 0.35, panels mostly above 0.7."""
SEAM = 1.6
"""How many times the steps nearby the mean step over a seam is."""
BOLD_SEAM = 2.5
SEAM_SHARE, FAINT_SEAM_SHARE = 0.65, 0.85
"""Share of the stretches of a seam in which it must be seen: of one above `BOLD_SEAM`, of one below."""
STRETCHES = 16
RULING = 0.55
"""Share of the three commonest of 64 grey levels from which on a piece is ink on paper; radiographs stay below 0.45."""
GRAIN = 0.3
"""Share of pixels equal to their right neighbour below which a piece is a picture whatever its levels are."""
FLATTEST = 0.55
"""The same share from which on a piece is none; a brain on black has 0.35, a window's controls have 0.4 to 0.8."""
SHAPES = (0.6, 1.7)
"""Least and largest width by height of pictures set side by side without a gutter."""
ALIKE, RISE, GOES_ON = 0.4, 1.4, 0.15
"""Of such pictures: their correlation with each other; how many times the steps nearby the step over their joint is;
over it, the correlation of what stands out from its surroundings. Where halves of single films were that alike, their
middle had at most 1.0 and at least 0.4, a slide of tissue 1.2 and 0.14; nine of ten joints above 1.6 and below 0."""
MAX_PIECES = 40
"""Pieces looked at in one picture; a contact sheet of more is compound long before."""


@dataclass(frozen=True)
class Panel:
    """A piece of a picture, in pixels of the reduced picture, and how straight the cuts around it are (0..1)."""

    top: int
    bottom: int
    left: int
    right: int
    cuts: tuple[float | None, ...] = (None, None, None, None)
    """Top, bottom, left, right; None at the picture's border."""

    @property
    def straight(self) -> float:
        """0..1: how much of the sides that do not lie on the picture's border is a straight edge."""
        known = [cut for cut in self.cuts if cut is not None]
        return float(np.mean(known)) if known else 0.0

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def area(self) -> int:
        """Pixels."""
        return self.size[0] * self.size[1]


def panels(rgb: NDArray[np.uint8]) -> tuple[list[Panel], float]:
    """Panels of a picture, and how sure the gutters between them are (0..1).

    `rgb`: (height, width, 3), the longest side at most `SIDE`. At least one panel is returned: the whole picture where
    nothing parts it. The strength is the straightness of the second-best panel, below `STRAIGHT` / 2 for one panel.
    """
    grey = grey_levels(rgb)
    height, width = grey.shape
    whole = [Panel(0, height, 0, width)]
    if min(height, width) < 2 * MIN_PANEL:
        return whole, 0.0
    area = grey.size
    tree = _Look(grey, rgb)
    found = tree.panels(whole[0])
    # A mask or a map of few colours beside the picture it belongs to has exactly that picture's size.
    found += [
        panel for panel in tree.others if panel.straight >= STRAIGHT and any(_alike(panel, other) for other in found)
    ]
    # Small ones count where several are of one size and no columns of text; else they are buttons, icons or logos.
    found = [
        panel
        for panel in found
        if panel.area >= LONE_AREA * area
        or (max(panel.size) <= 3 * min(panel.size) and sum(_alike(panel, other) for other in found) > 2)
    ]
    if len(found) >= 2 and sum(panel.area for panel in found) >= COVERED * area:
        return found, sorted(panel.straight for panel in found)[-2]
    # Three of one size in line are panels even with labels up to their sides; fragments of tissue hardly ever are.
    large = [panel for panel in tree.ragged if panel.area >= LONE_AREA * area]
    lined = [panel for panel in large if sum(_in_line(panel, other) for other in large) > 2]
    if lined or (lined := _joined(grey)):
        return lined, STRAIGHT
    return whole, max((panel.straight for panel in large if len(large) > 1), default=0.0) * 0.5


def grey_levels(rgb: NDArray[np.uint8]) -> NDArray[np.int16]:
    """(height, width), 0..255: luma of ITU-R BT.601 in integers, so that it is the same on every machine."""
    red, green, blue = (rgb[:, :, channel].astype(np.uint16) for channel in range(3))
    return ((77 * red + 150 * green + 29 * blue) >> 8).astype(np.int16)


def caption_panels(caption: str) -> int:
    """Panels that a caption speaks of: "(A) ... (B)", "a, ... b, ...", "left panel", "upper row"; 0 where of none."""
    letters = 0
    for pattern in _LETTERS:
        seen = {letter for match in pattern.finditer(caption) for letter in _listed(match.group(1))}
        for start in "Aa":
            run = 0
            while chr(ord(start) + run) in seen:
                run += 1
            letters = max(letters, run)
    sides = {_SIDES[(match.group(1) or match.group(2)).lower()] for match in _SIDE_WORDS.finditer(caption)}
    halves = sum(pair <= sides for pair in ({"left", "right"}, {"top", "bottom"}))
    placed = 2**halves if halves else (2 if sides else 0)
    return max(letters if letters > 1 else 0, placed)


def _listed(text: str) -> set[str]:
    """Letters of a list such as "A", "A-C", "a, c and d"."""
    letters: set[str] = set()
    for first, last in _ENTRY.findall(text):
        letters |= {chr(code) for code in range(ord(first), ord(last or first) + 1)}
    return letters


_ENTRY = re.compile(r"\b([A-La-l])(?:\s*[-–]\s*([A-La-l]))?\b")
_LIST = r"([A-La-l](?:\s*(?:[-–,&/]|and|to)\s*[A-La-l]\b)*)"
_LETTERS = tuple(
    re.compile(pattern)
    for pattern in (
        # (A), (A-C), (A, B), (a: before).
        rf"(?<!\w)\(\s*{_LIST}\s*[):,;]",
        # "A, lateral view. B, frontal view": at a sentence's start, before a comma, colon, full stop or bracket.
        rf"(?:^|[.;:]\s+){_LIST}\s*[,:.)](?=\s)",
        rf"[Pp]anels?\s+\(?{_LIST}\b",
    )
)
_SIDES = {
    "left": "left", "right": "right", "top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom",
}  # fmt: skip
_SIDE_WORDS = re.compile(
    r"\b(left|right|top|upper|bottom|lower)(?:[- ]?(?:hand|most))?(?:\s+side)?"
    r"\s+(?:panel|row|image|picture|figure|column|plot)s?\b"
    r"|(?<=\()(left|right|top|upper|bottom|lower)(?=[);:,])",
    re.IGNORECASE,
)


class Compound(Filter):
    """Says whether the picture is made of several panels."""

    name: ClassVar[str] = "compound"
    version: ClassVar[str] = f"3/{BIAS}"
    scores: ClassVar[dict[str, str]] = {
        "panels": "panels found in the picture; 1 where nothing parts it",
        "gutter": "how straight the lines between them are, or how sure panels on paper are, 0..1",
        "caption_panels": "panels the caption speaks of; 0 where of none",
        "compound": "0..1; from 0.5 on the picture itself shows several panels",
    }
    cost: ClassVar[float] = 8.0

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record; see `Filter.score`."""
        return [self.one(record) for record in records]

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; see `Filter.score`. The caption's panels are counted without a picture, too."""
        cues = caption_panels(record.caption)
        if not record.pictures:
            return dict.fromkeys(self.scores) | {"caption_panels": cues}
        count, strength = max((looked(picture.rgb(SIDE)) for picture in record.pictures), key=lambda pair: pair[::-1])
        letters = record.found.get("overlaid_text.panel_letters")
        # Stored scores come back as floats.
        if letters is not None and (isinstance(letters, str) or letters != int(letters)):
            raise ValueError(f"overlaid_text.panel_letters is {letters!r}; a whole number is needed")
        return {
            "panels": count,
            "gutter": round(strength, 4),
            "caption_panels": cues,
            "compound": round(combined(strength, cues, int(letters or 0)), 4),
        }


def looked(rgb: NDArray[np.uint8]) -> tuple[int, float]:
    """(panels that gutters part, how sure several panels are, 0..1) of a picture of at most `SIDE` pixels a side."""
    found, strength = panels(rgb)
    ink = signs(rgb, grey_levels(rgb))
    return len(found), strength if ink is None else several(ink, strength, len(found))


def combined(gutter: float, cues: int, letters: int) -> float:
    """0..1 of the three signs. Gutters alone may reach 1, two letters 0.8, a caption alone 0.3; together they add up.

    The signs are taken as independent: what remains of doubt is multiplied.
    """
    doubt = 1 - gutter
    doubt *= 0.2 if letters >= 2 else 1.0
    doubt *= 0.7 if cues >= 2 else 1.0
    return 1 - doubt


@dataclass(frozen=True)
class _Cut:
    start: int
    stop: int
    strength: float
    """Share of the cut along which what lies before it, or what lies after it, ends in an edge.

    One straight side is enough: what lies beyond a panel's edge is not that panel.
    """


class _Look:
    """One look at one picture: pieces cut into pieces, and what was met on the way."""

    def __init__(self, grey: NDArray[np.int16], rgb: NDArray[np.uint8]) -> None:
        self._grey, self._rgb = grey, rgb
        self._looked = 0
        self.others: list[Panel] = []
        """Undivided pieces that are no pictures: masks, plots, text."""
        self.ragged: list[Panel] = []
        """Undivided pieces that are pictures without straight sides: organs on black, fragments of tissue."""

    def panels(self, piece: Panel) -> list[Panel]:
        """The panels in a piece: those of its parts where there are several, else the piece itself."""
        self._looked += 1
        panel = _trimmed(self._grey, piece)
        if panel is None:
            return []
        divisible = self._looked < MAX_PIECES and panel.area >= 2 * MIN_AREA * self._grey.size
        parts, strength = self._parts(panel) if divisible else ([], 0.0)
        ragged = len(self.ragged)
        inner = [panel for part in parts for panel in self.panels(part)]
        # A weak cut through a panel makes no panels of its parts: each still has the panel's own straight sides.
        if len(inner) > 1 and (strength >= STRAIGHT or panel.straight < STRAIGHT):
            return inner
        if panel.area < MIN_AREA * self._grey.size:
            return inner
        pictorial = _pictorial(self._grey[panel.top : panel.bottom, panel.left : panel.right])
        if pictorial and not parts and panel.straight < STRAIGHT:
            self.ragged.append(panel)
        # A slide with little tissue is mostly paper; what it shows makes it a picture.
        shows = any(other.area >= LONE_AREA * self._grey.size for other in (*inner, *self.ragged[ragged:]))
        if panel.straight >= STRAIGHT and (pictorial or shows):
            return [panel]
        if not pictorial and not shows:
            self.others.append(replace(piece, cuts=panel.cuts))
        return inner

    def _parts(self, piece: Panel) -> tuple[list[Panel], float]:
        """What the best cuts of a piece leave, and their strength."""
        inside = np.s_[piece.top : piece.bottom, piece.left : piece.right]
        grey, rgb = self._grey[inside], self._rgb[inside]
        across, down = _lines(grey), _lines(grey.T)
        (columns, drawn_across), (rows, drawn_down) = _bands(across, rgb), _bands(down, rgb.transpose(1, 0, 2))
        if max(_weight(columns), _weight(rows)) < STRAIGHT:
            columns, rows = columns or _seams(across, drawn_across), rows or _seams(down, drawn_down)
        parts = []
        if columns and _weight(columns) >= _weight(rows):
            for start, stop, before, after in _between(columns, piece.right - piece.left, piece.cuts[2:]):
                cuts = (*piece.cuts[:2], before, after)
                parts.append(replace(piece, left=piece.left + start, right=piece.left + stop, cuts=cuts))
        elif rows:
            for start, stop, before, after in _between(rows, piece.bottom - piece.top, piece.cuts[:2]):
                cuts = (before, after, *piece.cuts[2:])
                parts.append(replace(piece, top=piece.top + start, bottom=piece.top + stop, cuts=cuts))
        return parts, max(_weight(columns), _weight(rows))


def _weight(cuts: list[_Cut]) -> float:
    return max((cut.strength for cut in cuts), default=0.0)


def _between(
    cuts: list[_Cut], length: int, ends: tuple[float | None, ...]
) -> list[tuple[int, int, float | None, float | None]]:
    """(start, stop, straightness of the cut before, of the cut after) of what the cuts leave, where large enough."""
    starts = [(0, ends[0]), *((cut.stop, cut.strength) for cut in cuts)]
    stops = [*((cut.start, cut.strength) for cut in cuts), (length, ends[1])]
    return [
        (start, stop, before, after)
        for (start, before), (stop, after) in zip(starts, stops, strict=True)
        if stop - start >= MIN_PANEL
    ]


def _lines(grey: NDArray[np.int16]) -> NDArray[np.int16]:
    """(lines, samples): columns of `grey` as rows, at most `SAMPLED` pixels of each."""
    return np.ascontiguousarray(grey[:: max(1, grey.shape[0] // SAMPLED)].T)


def _flat(lines: NDArray[np.int16]) -> NDArray[np.bool_]:
    ordered = np.sort(lines, axis=1)
    low, high = round(0.05 * (lines.shape[1] - 1)), round(0.95 * (lines.shape[1] - 1))
    return np.asarray(ordered[:, high] - ordered[:, low] <= FLAT)


def _trimmed(grey: NDArray[np.int16], piece: Panel) -> Panel | None:
    """The piece without uniform margins; None where nothing of a panel's size is left."""
    ends = {"rows": (piece.top, piece.bottom), "columns": (piece.left, piece.right)}
    for _ in range(2):
        before = dict(ends)
        for axis in ("columns", "rows"):
            inside = grey[slice(*ends["rows"]), slice(*ends["columns"])]
            content = np.flatnonzero(~_flat(_lines(inside if axis == "columns" else inside.T)))
            if len(content) < MIN_PANEL:
                return None
            start = ends[axis][0]
            ends[axis] = start + int(content[0]), start + int(content[-1]) + 1
        if ends == before:
            break
    (top, bottom), (left, right) = ends["rows"], ends["columns"]
    if (top, bottom, left, right) == (piece.top, piece.bottom, piece.left, piece.right):
        return piece
    # What is left of a margin may itself end in a straight edge: a panel within its labels.
    height, width = grey.shape
    columns, rows = grey[top:bottom].T, grey[:, left:right]
    cuts = list(piece.cuts)
    for side, lines, inner, outer, moved in (
        (0, rows, top + 1, slice(top - 3, top), top - 3 >= 0 and top > piece.top),
        (1, rows, bottom - 2, slice(bottom, bottom + 3), bottom + 3 <= height and bottom < piece.bottom),
        (2, columns, left + 1, slice(left - 3, left), left - 3 >= 0 and left > piece.left),
        (3, columns, right - 2, slice(right, right + 3), right + 3 <= width and right < piece.right),
    ):
        known = cuts[side]
        if moved and known is not None:
            cuts[side] = max(known, _edge(lines[inner], lines[outer]))
    return Panel(top, bottom, left, right, tuple(cuts))


def _edge(inner: NDArray[np.int16], outer: NDArray[np.int16]) -> float:
    return int(np.count_nonzero(np.abs(outer - inner).max(axis=0) > EDGE)) / len(inner)


def _bands(lines: NDArray[np.int16], rgb: NDArray[np.uint8]) -> tuple[list[_Cut], NDArray[np.bool_]]:
    """Cuts along uniform bands, each with something of a panel's size on both sides, and where lines are drawn."""
    count = len(lines)
    flat = _flat(lines)
    cuts: list[_Cut] = []
    drawn = np.zeros(count, bool)
    for start, stop in _runs(flat | _ridges(lines)):
        if start < MIN_PANEL or stop > count - MIN_PANEL:
            continue  # A margin, not a cut: too little lies beyond it.
        if stop - start <= 8 and _drawn_line(lines, rgb, start, stop):
            drawn[start - 4 : stop + 4] = True
            continue
        before = _edge(lines[start - 2], lines[start : start + 3])
        after = _edge(lines[stop + 1], lines[stop - 3 : stop])
        strength = max(before, after) if stop - start > 2 else min(before, after)
        cuts.append(_step(lines, start, stop) or _Cut(start, stop, strength))
    # Straight cuts first: a panel's own margins are for the next look, at the panel alone.
    best = _weight(cuts)
    if best >= STRAIGHT:
        cuts = [cut for cut in cuts if cut.strength >= max(STRAIGHT, 0.6 * best)]
    return cuts, drawn


def _step(lines: NDArray[np.int16], start: int, stop: int) -> _Cut | None:
    """Where a uniform band changes its colour at once, two panels with uniform margins meet (or a gutter between)."""
    levels = np.median(lines[start:stop], axis=1)
    changes = np.flatnonzero(np.abs(levels[3:] - levels[:-3]) > 2 * EDGE)
    if not len(changes):
        return None
    return _Cut(start + int(changes[0]) + 2, start + int(changes[-1]) + 2, 1.0)


def _runs(flags: NDArray[np.bool_]) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate(([False], flags, [False])).astype(np.int8))).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))


def _ridges(lines: NDArray[np.int16]) -> NDArray[np.bool_]:
    """Lines that are brighter, or darker, than both neighbours two pixels on, nearly all along: a gutter of a pixel."""
    found = np.zeros(len(lines), bool)
    before, here, after = lines[:-4], lines[2:-2], lines[4:]
    brighter = np.count_nonzero(here - np.maximum(before, after) > EDGE, axis=1)
    darker = np.count_nonzero(np.minimum(before, after) - here > EDGE, axis=1)
    found[2:-2] = np.maximum(brighter, darker) > 0.85 * lines.shape[1]
    return found


def _drawn_line(lines: NDArray[np.int16], rgb: NDArray[np.uint8], start: int, stop: int) -> bool:
    """Does the picture go on behind a thin band, or is the band coloured? Then it is a line drawn over one picture."""
    colour = rgb[:, start:stop].reshape(-1, 3)[:: max(1, len(rgb) // SAMPLED)].astype(np.int16)
    if float(np.median(colour.max(axis=1) - colour.min(axis=1))) > 60:
        return True
    levels = np.median(lines[start:stop], axis=1)
    if levels.min() < 30 or levels.max() > 200:
        return False  # Paper or film between panels; drawn lines are rarely as white or black.
    left, right = lines[max(0, start - 4) : start - 1].mean(axis=0), lines[stop + 1 : stop + 4].mean(axis=0)
    if min(left.std(), right.std()) < 6 or float(np.corrcoef(left, right)[0, 1]) < 0.6:
        return False
    gap = stop - start + 5
    inside = [
        np.abs(one - lines[at : at + 3].mean(axis=0)).mean()
        for one, at in ((left, start - 4 - gap), (right, stop + 1 + gap))
        if 0 <= at <= len(lines) - 3
    ]
    return bool(np.abs(left - right).mean() < 1.5 * max(inside, default=0.0) + 2)


def _seams(lines: NDArray[np.int16], drawn: NDArray[np.bool_]) -> list[_Cut]:
    """Places where two panels touch, from left to right; not next to lines that are `drawn`.

    A step over three pixels is held against steps just as long to both sides of it, in stretches of the line: it must
    stand out, and at the very same place, in nearly all of them. A bone, a wall or a shadow ends or bends somewhere.
    """
    lag, reach, bend = 3, 12, 5
    steps = np.abs(lines[lag:] - lines[:-lag])
    profile = steps.mean(axis=1)
    if len(profile) <= 2 * (reach + MIN_PANEL):
        return []
    # Strips along the border that end in a step are curtains, door frames and tables more often than panels.
    least = max(MIN_PANEL, len(lines) // 8)
    inside = np.arange(least, len(profile) - least)
    middles = np.median(np.lib.stride_tricks.sliding_window_view(profile, reach - lag), axis=1)
    around = np.maximum(middles[inside - reach], middles[np.minimum(inside + lag + 1, len(middles) - 1)])
    excess = profile[inside] / (around + 3)
    excess[drawn[inside + 2]] = 0
    found: list[_Cut] = []
    for index in np.argsort(-excess, kind="stable")[:12].tolist():
        place = int(inside[index])
        if excess[index] < SEAM or any(abs(place - other.start) < MIN_PANEL for other in found):
            continue
        near = steps[place - reach : place + reach + 1]
        stretches = near[:, : near.shape[1] // STRETCHES * STRETCHES].reshape(len(near), STRETCHES, -1).mean(axis=2)
        here = stretches[reach]
        ground = np.median(np.concatenate((stretches[: reach - lag], stretches[reach + lag + 1 :])), axis=0)
        at = np.abs(stretches[reach - bend : reach + bend + 1].argmax(axis=0) - bend)
        clear = float(((here > 1.5 * ground + 4) & (at <= 2)).mean())
        if clear >= (SEAM_SHARE if excess[index] >= BOLD_SEAM else FAINT_SEAM_SHARE):
            found.append(_Cut(place + 2, place + 2, clear))
    return sorted(found, key=lambda cut: cut.start)


def _joined(grey: NDArray[np.int16]) -> list[Panel]:
    """Two to four pictures of one kind and size in line that touch, dark to dark so that no seam is seen; or none."""
    for lines in (grey, grey.T):
        height, width = lines.shape
        for count in (2, 3, 4):
            if width < 24 * count or not SHAPES[0] <= width / count / height <= SHAPES[1]:
                continue
            ends = [width * number // count for number in range(count + 1)]
            small = [
                np.asarray(cv2.resize(part.astype(np.float32), (24, 24), interpolation=cv2.INTER_AREA), np.float32)
                for part in (lines[:, start:stop] for start, stop in pairwise(ends))
            ]
            if all(_correlation(one, other) >= ALIKE for one, other in pairwise(small)) and all(
                _breaks(lines, joint) for joint in ends[1:-1]
            ):
                sides = [(0, height, start, stop) for start, stop in pairwise(ends)]
                return [Panel(*(side if lines is grey else side[2:] + side[:2])) for side in sides]
    return []


def _breaks(lines: NDArray[np.int16], joint: int) -> bool:
    """Whether a picture ends at a column (two pixels less or more) and another begins: a step, and nothing goes on."""
    near = lines[:, joint - 24 : joint + 24].astype(np.float32)
    steps = np.abs(near[:, 3:] - near[:, :-3]).mean(axis=0)
    if steps[20:27].max() < RISE * (max(np.median(steps[2:17]), np.median(steps[30:45])) + 3):
        return False
    out = near - cv2.blur(near, (1, 9))
    return min(_correlation(out[:, place - 3], out[:, place + 3]) for place in range(21, 28)) <= GOES_ON


def _correlation(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    one, other = one - one.mean(), other - other.mean()
    size = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum()) / size if size else 0.0


def _pictorial(grey: NDArray[np.int16]) -> bool:
    """Many grey levels, none of them ruling, and noise: a photograph or a radiograph, not ink on paper or a mask."""
    step = max(1, min(grey.shape) // 128)
    sampled = grey[::step, :: max(1, grey.shape[1] // 128)]
    levels = np.bincount(sampled.ravel() >> 2, minlength=64)
    ruling = np.sort(levels)[-3:].sum() / levels.sum()
    rows = grey[::step]
    still = (rows[:, 1:] == rows[:, :-1]).mean()
    return bool(still < GRAIN or (ruling < RULING and still < FLATTEST))


def _alike(one: Panel, other: Panel) -> bool:
    return all(abs(a - b) <= max(3, 0.06 * max(a, b)) for a, b in zip(one.size, other.size, strict=True))


def _in_line(one: Panel, other: Panel) -> bool:
    slack = 0.03 * max(one.size + other.size)
    side_by_side = abs(one.top - other.top) <= slack and abs(one.bottom - other.bottom) <= slack
    stacked = abs(one.left - other.left) <= slack and abs(one.right - other.right) <= slack
    return _alike(one, other) and (side_by_side or stacked)
