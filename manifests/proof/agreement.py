"""Do two pictures agree in their pixels? The verdict on a candidate pair, from thumbnails or from whole pictures.

Radiographs of different people correlate above 0.9, since all chests are alike in the large. What tells people (and
days) apart is fine structure, so pictures are **normalised locally** first: minus the mean of a window, over its
deviation. That also takes out brightness, contrast, gamma and equalisation. Two stages:

1. `coarse_scores`: 32 x 32 cells of the varied test picture and of the training picture, as small whole numbers; one
   dot product a pair refutes the many candidates that only look alike.
   `coarse_trimmed` is the same over the best half of the blocks, for copies that something is drawn over.
2. `agreement`: the test picture is laid over the training picture by the variant's frame; six affine parameters are
   improved by Gauss-Newton steps at 48 x 48, and the score is the correlation of the normalised pictures at full
   thumbnail size over the area that both show, the better of with and without the worst blocks (a burnt-in label is no
   reason to call a copy new).

**Overlays** (watermarks, labels, arrows, burnt-in text) leave parts of a picture as they were, and under thin strokes
most edges. So two more measures are taken: the correlation over the **better half** of small blocks, which must be far
higher than that of the whole, and how far **edges** point the same way (orientation correlation, Fitch et al. 2002),
which strokes disturb only where they are. What they say is put on the scale of the correlation. Thumbnails are too
small to tell people apart by either: there they reach `UNSURE` at most, which sends the pair to whole pictures.

Pictures without structure (blank, one grey) have no verdict from pixels: exact digests are for those.

Reproducible: window sums and dot products are of whole numbers that float32 or float64 hold exactly, so no order of
summation changes them; the Gauss-Newton result is rounded to 2**-12 of a side before it is used, scores to four places.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifests.fingerprints import THUMBNAIL_PIXELS
from manifests.proof.variants import (
    ACROSS,
    DOWN,
    IDENTITY,
    INVERTED,
    TRANSPOSED,
    TURN_MATRICES,
    PictureError,
    Variant,
    inner_picture,
)
from medgpt.containers import DamagedImage
from medgpt.pictures import open_picture

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

CELLS = 32
FLAT = 2.0
"""Grey levels: a picture that deviates by less has no structure (JPEG noise alone reaches about 1)."""
STEPS, LIMIT = 24, 3
"""Whole-number steps a deviation, and the deviations at which values are cut: 1024 * 72**2 < 2**24, so that dot
products of cells are exact in float32."""
NOISE = 4.0
"""Grey levels added to the deviation at thumbnail size, so that JPEG noise is not blown up to structure; half of it
where 2 x 2 or 3 x 3 pixels are averaged."""
CELL_WINDOW, ALIGN_WINDOW, SCORE_WINDOW = 7, 9, 13
ALIGN_PIXELS = 48
ALIGN_STEPS = 4
FULL_PIXELS = 240
"""Whole pictures are reduced to squares of this side."""
BLOCKS = 6
"""The picture is cut into 6 x 6 blocks; at most `WORST` of them, with at most `WORST_SHARE` of the structure, are left
out. A label of 40 % of the width covers up to four; leaving out more makes windows of one program alike."""
WORST, WORST_SHARE = 6, 0.1
FINE_BLOCKS, KEPT = 12, 0.5
"""Of 12 x 12 blocks the best are kept that hold half of the test picture's structure."""
SPREAD = 0.2
"""Share of the blocks that must be needed to hold half of the structure: of a nearly blank window the title bar does,
and that of another is the same. Radiographs need 0.23 and more."""
TRIMMED_POWER = 2
"""0.92 over the better half counts as 0.85. On whole pictures of 240 pixels different people reached 0.73 (200 pairs
that look alike), windows of one program 0.84; copies with labels, arrows, lines of text or text bars 0.91 and more."""
EDGES_KEPT = 0.7
EDGE_SCALE, EDGE_SCALE_SMALL = 1.65, 1.2
"""Edges agree at 0.52 where this counts as 0.85; people reached 0.42, copies under dense watermarks and grids 0.46 to
0.6. Thumbnails: people reached 0.66."""
EDGE_NOISE = 1.0
"""Grey levels a pixel: a slope from here on is an edge."""
UNSURE = 0.74
"""What thumbnails say at most by these two measures: below every threshold of the policy."""
COARSE_LEAST = 0.2
"""Cells that agree less as a whole are of no picture that is the same in its better half."""
EARLY = 0.2
"""How far below the least score that matters a pair at 48 x 48 is given up: strokes weigh more there."""
DOUBT = 0.85
"""A match that thumbnails score less is looked at again on whole pictures, where they can be read, and refuted if those
score below the borderline: neighbouring slices of a CT are alike when small. Copies that were blurred stay above it."""
MARGIN, MIDDLE_LEAST, MIDDLE_SHARE = 6, 0.36, 0.05
"""A sixth of a whole picture's sides is margin. What is left must correlate so much if it has this share of the
structure in both (a line of text over a blank middle is no other picture): windows of one program have frame, bars and
blank parts in common. Among 180 real pictures seven of twelve wrong pairs reached 0.35 and less, copies that whole
pictures decide 0.45 (38) and one picture in other colours 0.37."""
DENIED, DENIED_BELOW, CROSSED, CROSSED_BELOW = 0.17, 0.3, 0.16, 0.15
"""What is drawn over a copy hides a little, or leaves the edges between its strokes. A whole picture is another one
where 17 % of the structure that both have correlates below 0.3, block by block, and 16 % of the edges that both have
point anywhere. Of 832 copies of real pictures, under some 60 kinds of change, none reached more than 0.09 in both;
windows of one program with other contents, slices of a CT and reports on other tiles reached 0.19 and 0.17."""
DRIFT = 0.12
"""Alignment may change the variant's frame by this (share of a side, or of a scale) and no more."""
_PAIRS = 8
"""Pairs at a time: their arrays stay in the second-level cache (measured: 16 are slower, and so are 4)."""
_COARSE_PAIRS = 4096
_SOME = 64
"""Pictures at a time, for the same reason."""


@dataclass(frozen=True)
class Cells:
    """Locally normalised 32 x 32 cells of n pictures."""

    values: NDArray[np.int8]
    """(n, 1024)"""
    energy: NDArray[np.float32]
    """(n,): sum of squares, whole."""


def flat(pictures: NDArray[np.uint8]) -> Flags:
    """Which of n pictures, (n, side, side), have no structure."""
    found = np.empty(len(pictures), bool)
    for start in range(0, len(pictures), _SOME):
        some = pictures[start : start + _SOME].reshape(-1, pictures.shape[1] * pictures.shape[2]).astype(np.float64)
        pixels = some.shape[1]
        variance = np.einsum("ij,ij->i", some, some) / pixels - (some.sum(1) / pixels) ** 2
        found[start : start + _SOME] = variance < FLAT**2
    return found


def cells(pictures: NDArray[np.uint8]) -> Cells:
    """Cells of n pictures of 96 x 96 grey values."""
    values = np.empty((len(pictures), CELLS * CELLS), np.int8)
    energy = np.empty(len(pictures), np.float32)
    for start in range(0, len(pictures), _SOME):
        some = _normalised(_reduced(pictures[start : start + _SOME], CELLS), CELL_WINDOW, NOISE / 2)
        part = some.reshape(len(some), -1).astype(np.float32)
        values[start : start + _SOME] = part
        energy[start : start + _SOME] = np.einsum("ij,ij->i", part, part)
    return Cells(values, energy)


def coarse_enough(borderline: Floats) -> Floats:
    """From where on the better half of the cells makes a pair worth aligning: 0.18 above the borderline.

    Where different pictures look alike the policy's borderline is higher, and so is this. Radiographs of different
    people whose hashes are near: 0.79 in the median, 0.86 in one of ten; copies that something is drawn over: 0.94 and
    more where the frame fits. At 0.65 instead of 0.78 half of all other pictures' candidates would be aligned.
    """
    return np.minimum(borderline + 0.18, 0.95)


def turned_back(made: Cells, rows: NDArray[np.int64], turn: int) -> Cells:
    """Cells of some pictures that show something turned, as they are without the turn."""
    values = made.values[rows].reshape(-1, CELLS, CELLS)
    values = values[:, ::-1] if turn & DOWN else values
    values = values[:, :, ::-1] if turn & ACROSS else values
    values = values.transpose(0, 2, 1) if turn & TRANSPOSED else values
    values = -values if turn & INVERTED else values
    return Cells(values.reshape(-1, CELLS * CELLS), made.energy[rows])


def coarse_scores(train: Cells, rows: NDArray[np.int64], evals: Cells, ids: NDArray[np.int64]) -> Floats:
    """Correlation of the cells of pair k, (train row `rows[k]`, eval row `ids[k]`), to (k,). 0 without structure."""
    scores = np.empty(len(rows))
    for start in range(0, len(rows), _COARSE_PAIRS):
        row, one = rows[start : start + _COARSE_PAIRS], ids[start : start + _COARSE_PAIRS]
        dots = np.einsum("ij,ij->i", train.values[row].astype(np.float32), evals.values[one].astype(np.float32))
        lengths = train.energy[row].astype(np.float64) * evals.energy[one]
        scores[start : start + _COARSE_PAIRS] = dots / np.sqrt(np.maximum(lengths, 1))
    return scores


def coarse_trimmed(train: Cells, rows: NDArray[np.int64], evals: Cells, ids: NDArray[np.int64]) -> Floats:
    """`coarse_scores` over the blocks of 4 x 4 cells that agree best and hold half of the test picture's structure."""
    scores = np.empty(len(rows))
    blocks = (-1, CELLS // 4, 4, CELLS // 4, 4)
    for start in range(0, len(rows), _COARSE_PAIRS):
        row, one = rows[start : start + _COARSE_PAIRS], ids[start : start + _COARSE_PAIRS]
        a, b = (values.astype(np.float32).reshape(blocks) for values in (train.values[row], evals.values[one]))
        sums = [np.einsum("nibjc,nibjc->nij", x, y).reshape(len(row), -1) for x, y in ((a, b), (a, a), (b, b))]
        scores[start : start + _COARSE_PAIRS] = _better_part(*(each.astype(np.float64) for each in sums))
    return scores


def agreement(
    train: NDArray[np.uint8], evals: NDArray[np.uint8], frames: Floats, inverted: Flags, enough: float = -1.0
) -> Floats:
    """Scores of n pairs of square pictures, (n, side, side) each, side a multiple of 48.

    `frames` (n, 2, 3) lay the test picture over the training picture, as `Variant.frame` gives them; `inverted` (n,)
    says whose grey values are reversed. A pair whose score at 48 x 48 stays below `enough` is given that score and is
    not looked at in full size; from 192 pixels a side on it is 0 where a part shows something else (`DENIED`). -1..1,
    rounded to four places.
    """
    scores = np.empty(len(train))
    for start in range(0, len(train), _PAIRS):
        part = slice(start, start + _PAIRS)
        scores[part] = _agreement(_Targets(train[part]), evals[part], frames[part], inverted[part], enough)
    return np.round(scores, 4)


class _Targets:
    """n training pictures, (n, side, side), and what every comparison with them needs, made when it is asked for."""

    def __init__(self, pictures: NDArray[np.uint8]) -> None:
        self.pictures = pictures
        self.scale = max(1, pictures.shape[-1] // THUMBNAIL_PIXELS)

    def some(self, at: NDArray[np.int64]) -> _Targets:
        """Those of these rows."""
        return self if len(at) == len(self.pictures) else _Targets(self.pictures[at])

    @functools.cached_property
    def small(self) -> Floats:
        """Normalised, as pictures are aligned."""
        return _normalised(_reduced(self.pictures, ALIGN_PIXELS), ALIGN_WINDOW, NOISE / 2)

    @functools.cached_property
    def normalised(self) -> Floats:
        """In full size."""
        return _normalised(self.pictures.astype(np.float64), SCORE_WINDOW * self.scale, NOISE)

    @functools.cached_property
    def slopes(self) -> tuple[Floats, Floats, Floats]:
        """`_slopes` in full size."""
        return _slopes(self.pictures.astype(np.float64))


class Whole:
    """A stored picture, decoded and reduced to a square."""

    def __init__(self, data: bytes) -> None:
        """Of JPEG or PNG bytes, upright as stored. Raises: `PictureError`."""
        self.pixels, self.width, self.height = _opened(data)
        self.digest = hashlib.blake2b(data, digest_size=16).digest()
        """Of the stored bytes."""

    def inner(self, thumbnail: NDArray[np.uint8]) -> Whole:
        """Without the wide borders that its thumbnail has, as a training picture is looked at a second time."""
        pixels = inner_picture(self.pixels, thumbnail)
        assert pixels is not None  # else it is not looked at a second time
        found = copy.copy(self)
        found.pixels, found.digest = pixels, b"inner" + self.digest
        return found

    @functools.cached_property
    def targets(self) -> _Targets:
        """As the training picture of a pair."""
        return _Targets(self.pixels[None])


def full_agreement(train: Whole, evaluated: Whole, variant: Variant, turn: int = 0) -> float:
    """Score of two whole pictures under a turn of a variant of the test picture; 0 where the variant does not apply."""
    frame = variant.frame(evaluated.pixels, evaluated.width, evaluated.height)
    if frame is None:
        return 0.0
    frames = after(frame[None], TURN_MATRICES[[turn]])
    inverted = np.array([turn & INVERTED == INVERTED])
    shown = variant.compared(evaluated.pixels)[None]
    return float(np.round(_agreement(train.targets, shown, frames, inverted, middle=True)[0], 4))


def _opened(data: bytes) -> tuple[NDArray[np.uint8], int, int]:
    try:
        upright = open_picture(data, "L", at_least=2 * FULL_PIXELS)
    except DamagedImage as error:
        raise PictureError(
            f"a stored picture of {len(data)} bytes cannot be decoded ({error}): build it again"
        ) from error
    width, height = upright.size
    small = upright.resize((FULL_PIXELS, FULL_PIXELS), Image.Resampling.BOX)
    return np.asarray(small), width, height


def _agreement(
    train: _Targets,
    evals: NDArray[np.uint8],
    frames: Floats,
    inverted: Flags,
    enough: float = -1.0,
    middle: bool = False,
) -> Floats:
    """`agreement`; `middle`: no more than that of the middle where it is too little."""
    sign = np.where(inverted, -1.0, 1.0)[:, None, None]
    best, moves = _aligned(train.small, _reduced(evals, ALIGN_PIXELS), frames, sign)
    near = np.flatnonzero(best >= enough)
    if len(near):
        train, window = train.some(near), SCORE_WINDOW * train.scale
        laid, shown = _laid_over(evals[near].astype(np.float64), after(frames[near], moves[near]))
        target, current = train.normalised, _normalised(laid, window, NOISE)
        current *= sign[near]
        seen = _shrunk(shown, window)
        blocks = _block_products(target, current, seen)
        trimmed = _better_part(*blocks) ** TRIMMED_POWER
        edges, crossed = _edges(train.slopes, _slopes(laid * sign[near]), shown)
        if train.scale > 1:
            parts = np.maximum(trimmed, np.minimum(edges * EDGE_SCALE, 1))
        else:
            parts = np.minimum(np.maximum(trimmed, edges * EDGE_SCALE_SMALL), UNSURE)
        best[near] = np.maximum(_correlation(target, current, seen), parts)
        if middle:
            best[near] = np.minimum(best[near], _in_the_middle(target, current, seen))
        if train.scale > 1:
            best[near[(_denied(*blocks) >= DENIED) & (crossed >= CROSSED)]] = 0
    return best


def _in_the_middle(first: Floats, second: Floats, seen: Flags) -> Floats:
    """Correlation without the margin where that is too little, else 1. (n, side, side) to (n,)."""
    cut = first.shape[-1] // MARGIN
    a, b = first * seen, second * seen
    products, of_first, of_second = (each[:, cut:-cut, cut:-cut].sum((1, 2)) for each in (a * b, a * a, b * b))
    found = products / np.sqrt(np.maximum(of_first * of_second, 1))
    held = np.minimum(of_first / np.maximum((a * a).sum((1, 2)), 1), of_second / np.maximum((b * b).sum((1, 2)), 1))
    return np.where((found < MIDDLE_LEAST) & (held >= MIDDLE_SHARE), found, 1)


def _block_products(first: Floats, second: Floats, seen: Flags) -> tuple[Floats, Floats, Floats]:
    """Sums over small blocks: of both, of the first alone, of the second alone. (n, blocks) each."""
    a, b = first * seen, second * seen
    return _block_sums(a * b, FINE_BLOCKS), _block_sums(a * a, FINE_BLOCKS), _block_sums(b * b, FINE_BLOCKS)


def _denied(products: Floats, of_first: Floats, of_second: Floats) -> Floats:
    """Share of what both have that lies in blocks where they hardly correlate. To (n,)."""
    both = np.minimum(of_first, of_second)
    other = products < DENIED_BELOW * np.sqrt(of_first * of_second)
    share: Floats = (both * other).sum(1) / np.maximum(both.sum(1), 1)
    return share


def _edges(
    first: tuple[Floats, Floats, Floats], second: tuple[Floats, Floats, Floats], shown: Flags
) -> tuple[Floats, Floats]:
    """How far slopes point the same way, over the blocks where they do most, and `CROSSED`'s share of both's edges.

    Whole 4096ths are summed: exact.
    """
    (ax, ay, of_first), (bx, by, of_second) = first, second
    seen = _shrunk(shown, 3)
    scale = (of_first + EDGE_NOISE) * (of_second + EDGE_NOISE)
    same, both = (ax * bx + ay * by) / scale * seen, of_first * of_second / scale * seen
    weight = of_second / (of_second + EDGE_NOISE) * seen
    products, total, common = (_block_sums(np.rint(each * 4096), FINE_BLOCKS) for each in (same, weight, both))
    crossed = (common * (products < CROSSED_BELOW * common)).sum(1) / np.maximum(common.sum(1), 1)
    order = np.argsort(-products / np.maximum(total, 1), axis=1, kind="stable")
    held, agreed = (np.cumsum(np.take_along_axis(each, order, 1), 1) for each in (total, products))
    last = _last_kept(held, EDGES_KEPT)
    edges = np.take_along_axis(agreed, last, 1)[:, 0] / np.maximum(np.take_along_axis(held, last, 1)[:, 0], 1)
    return np.where(_spread(total), edges, 0), crossed


def _slopes(pictures: Floats) -> tuple[Floats, Floats, Floats]:
    """Grey levels a pixel to the right, down (Sobel's operator; 0 along the border) and at their steepest."""
    across, down = np.zeros_like(pictures), np.zeros_like(pictures)
    right, lower = pictures[:, :, 2:] - pictures[:, :, :-2], pictures[:, 2:] - pictures[:, :-2]
    across[:, 1:-1, 1:-1] = (right[:, :-2] + 2 * right[:, 1:-1] + right[:, 2:]) / 8
    down[:, 1:-1, 1:-1] = (lower[:, :, :-2] + 2 * lower[:, :, 1:-1] + lower[:, :, 2:]) / 8
    return across, down, np.sqrt(across * across + down * down)


def _block_sums(values: Floats, blocks: int) -> Floats:
    """(n, side, side) to (n, blocks * blocks)."""
    n, side, _ = values.shape
    step = side // blocks
    summed: Floats = values.reshape(n, blocks, step, blocks, step).sum((2, 4)).reshape(n, -1)
    return summed


def _last_kept(held: Floats, share: float) -> NDArray[np.int64]:
    """(n, 1): the block at which running sums reach a share of their end."""
    last: NDArray[np.int64] = np.minimum((held < share * held[:, -1:]).sum(1), held.shape[1] - 1)[:, None]
    return last


def _better_part(products: Floats, of_first: Floats, of_second: Floats) -> Floats:
    """Correlation over the blocks that correlate best and hold half of the second's structure. To (n,)."""
    each = products / np.sqrt(np.maximum(of_first * of_second, 1))
    order = np.argsort(-each, axis=1, kind="stable")
    sums = [np.cumsum(np.take_along_axis(some, order, 1), 1) for some in (products, of_first, of_second)]
    last = _last_kept(sums[2], KEPT)
    product, first, second = (np.take_along_axis(some, last, 1)[:, 0] for some in sums)
    correlation = product / np.sqrt(np.maximum(first * second, 1))
    return np.where(_spread(of_second), np.maximum(correlation, 0), 0)


def _spread(held: Floats) -> Flags:
    """Whether half of the structure takes a good part of the blocks. (n, blocks) to (n,)."""
    sums = np.cumsum(-np.sort(-held, axis=1), 1)
    spread: Flags = _last_kept(sums, 0.5)[:, 0] + 1 >= SPREAD * held.shape[1]
    return spread


def _aligned(target: Floats, evals: Floats, frames: Floats, sign: Floats) -> tuple[Floats, Floats]:
    """Best score at this size and the affine move, (n, 2, 3), that reached it, over Gauss-Newton steps.

    Each step asks which small affine move of the laid-over picture would explain its difference from the target (Lucas
    and Kanade 1981), with far-off pixels counted less.
    """
    n, side, _ = evals.shape
    u, v = (grid - 0.5 for grid in _grids(side))
    moves = np.tile(IDENTITY, (n, 1, 1))
    best, best_moves = np.full(n, -np.inf), moves.copy()
    for step in range(ALIGN_STEPS + 1):
        laid, shown = _laid_over(evals, after(frames, moves))
        mask = _shrunk(shown, ALIGN_WINDOW)
        current = _normalised(laid, ALIGN_WINDOW, NOISE / 2) * sign
        scores = _correlation(target, current, mask)
        better = scores > best
        best, best_moves[better] = np.where(better, scores, best), moves[better]
        if step == ALIGN_STEPS:
            break
        across, down = np.zeros_like(current), np.zeros_like(current)
        across[:, :, 1:-1] = (current[:, :, 2:] - current[:, :, :-2]) * (side / 2)
        down[:, 1:-1] = (current[:, 2:] - current[:, :-2]) * (side / 2)
        across, down = across * mask, down * mask
        difference = target - current
        weight = (1 / (1 + (difference / STEPS) ** 2)).reshape(n, 1, -1)
        slopes = np.stack([across * u, across * v, across, down * u, down * v, down], 1).reshape(n, 6, -1)
        weighted = slopes * weight
        normal = weighted @ slopes.transpose(0, 2, 1)
        # A little damping keeps pictures with structure along one axis solvable.
        normal += np.eye(6) * (1e-3 * np.trace(normal, axis1=1, axis2=2) / 6 + 1)[:, None, None]
        found = np.linalg.solve(normal, weighted @ difference.reshape(n, -1, 1))[:, :, 0]
        change = np.clip(found, -0.05, 0.05).reshape(n, 2, 3)
        change[:, :, 2] -= change[:, :, :2].sum(2) / 2  # the slopes are about the centre
        moves = np.rint(after(moves, IDENTITY + change) * 4096) / 4096
        far = np.abs(moves - IDENTITY).max((1, 2)) > DRIFT
        moves[far] = best_moves[far]
    return best, best_moves


def after(outer: Floats, inner: Floats) -> Floats:
    """Affine maps, (n, 2, 3): first `inner`, then `outer`."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    return np.concatenate([linear, outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]], 2)


def _grids(side: int) -> tuple[Floats, Floats]:
    """(u, v) of the pixel centres of a square picture."""
    centres = (np.arange(side) + 0.5) / side
    u, v = np.meshgrid(centres, centres)
    return u, v


def _reduced(pictures: NDArray[np.uint8], side: int) -> Floats:
    """Means of square blocks; exact, since counts and grey values are small."""
    n, of, _ = pictures.shape
    step = of // side
    sums = pictures.reshape(n, side, step, side, step).sum((2, 4), dtype=np.uint32)
    means: Floats = sums / np.float64(step * step)
    return means


def _laid_over(pictures: Floats, frames: Floats) -> tuple[Floats, Flags]:
    """Pictures sampled by their frames (bilinear, border values continued), and where they have pixels."""
    n, side, _ = pictures.shape
    u, v = _grids(side)
    coefficients = frames[:, :, :, None, None]
    x = (coefficients[:, 0, 0] * u + coefficients[:, 0, 1] * v + coefficients[:, 0, 2]) * side - 0.5
    y = (coefficients[:, 1, 0] * u + coefficients[:, 1, 1] * v + coefficients[:, 1, 2]) * side - 0.5
    shown = (x >= -0.5) & (x <= side - 0.5) & (y >= -0.5) & (y <= side - 0.5)
    np.clip(x, 0, side - 1, out=x)
    np.clip(y, 0, side - 1, out=y)
    left, top = (np.minimum(at.astype(np.int64), side - 2) for at in (x, y))
    x -= left
    y -= top
    flat = pictures.reshape(-1)
    corner = np.arange(n)[:, None, None] * (side * side) + top * side + left
    first = flat.take(corner)
    upper = first + (flat.take(corner + 1) - first) * x
    corner += side
    first = flat.take(corner)
    return upper + (first + (flat.take(corner + 1) - first) * x - upper) * y, shown


def _window_sums(values: NDArray[np.float64], window: int) -> tuple[Floats, Floats]:
    """Sums over a window about each pixel, cut off at the border, and the pixels in it. Values must be whole."""
    n, side, _ = values.shape
    half = window // 2
    padded = np.zeros((n, side + 2 * half + 1, side + 2 * half + 1))
    inner = padded[:, half + 1 : half + 1 + side, half + 1 : half + 1 + side]
    inner[:] = values
    np.cumsum(padded, axis=1, out=padded)
    np.cumsum(padded, axis=2, out=padded)
    rows = padded[:, 2 * half + 1 :] - padded[:, :side]
    return rows[:, :, 2 * half + 1 :] - rows[:, :, :side], _in_window(side, half)


@functools.cache
def _in_window(side: int, half: int) -> Floats:
    at = np.arange(side)
    length = np.minimum(at + half + 1, side) - np.maximum(at - half, 0)
    return np.outer(length, length).astype(np.float64)


def _normalised(pictures: Floats, window: int, noise: float) -> Floats:
    """Each value minus the mean of its window, over its deviation and `noise` grey levels; whole steps, cut."""
    values = np.rint(pictures * 16)
    sums, count = _window_sums(values, window)
    squares, _ = _window_sums(values * values, window)
    mean = sums / count
    variance = np.maximum(squares / count - mean * mean, 0)
    scaled = (values - mean) / np.sqrt(variance + (16 * noise) ** 2)
    return np.rint(np.clip(scaled, -LIMIT, LIMIT) * STEPS)


def _shrunk(shown: Flags, window: int) -> Flags:
    """Where the whole window (as far as the frame reaches) has pixels: a pad's edge is no structure of the picture."""
    if shown.all():
        return shown
    sums, count = _window_sums(shown.astype(np.float64), window)
    full: Flags = sums == count
    return full


def _correlation(first: Floats, second: Floats, mask: Flags) -> Floats:
    """Correlation over the mask, with or without the worst blocks, whichever is higher. (n, side, side) to (n,)."""
    a, b = first * mask, second * mask
    products, of_first, of_second = (_block_sums(each, BLOCKS) for each in (a * b, a * a, b * b))
    whole = products.sum(1) / np.sqrt(np.maximum(of_first.sum(1) * of_second.sum(1), 1))
    both = of_first + of_second
    worst = np.argsort(2 * products - both, axis=1, kind="stable")[:, :WORST]
    # Only as long as little of the structure goes.
    out = np.cumsum(np.take_along_axis(both, worst, 1), 1) <= WORST_SHARE * both.sum(1, keepdims=True)
    kept = np.ones_like(products)
    np.put_along_axis(kept, worst, (~out).astype(np.float64), 1)
    rest = (products * kept).sum(1) / np.sqrt(np.maximum((of_first * kept).sum(1) * (of_second * kept).sum(1), 1))
    better: Floats = np.maximum(whole, rest)
    return better
