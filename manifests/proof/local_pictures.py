"""Local pictures: a test picture inside a training picture, or a large part of one in the other.

What hashes of whole pictures cannot see: montages, screenshots, viewer windows, slides, figures, one-sided crops, other
colours. The test pictures' features (`local_features`) are an index; every training picture's features are looked up,
all pairs within the radius; where enough of them agree on one placement and lie apart from each other, **pixels
decide**: the part that both show is laid over each other, aligned and correlated as near pictures are (`agreement`).
Chests of different people have features in common, but never their pixels.

Pictures are read from the shards in full size. It costs far more than hashes, so the policy names the sources
(`local_pictures.train`); the certificate names what was compared and what was not.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifests.proof.agreement import agreement, flat
from manifests.proof.hamming import HammingIndex
from manifests.proof.local_features import (
    NEAR,
    TEST_SIDE,
    TRAIN_SIDE,
    Features,
    Floats,
    Placement,
    features,
    place,
    reduced,
)
from manifests.proof.policy import LocalSettings

VERSION = 2
"""Raised by hand when other pictures are found than before (here, in `local_features` or in `agreement`)."""

COMMON = 256
"""A training picture's feature that meets those of more test pictures says nothing: a letter, a corner of a window."""
BLOCK = 64
"""Training pictures whose features are looked up at once."""
TRAIN_PIXELS, TEST_PIXELS = 2048, 1024
"""Longest sides at which pixels are compared, before the shown part is cut out."""
SIDE, SMALLEST, STEP = 240, 96, 48
"""The shown part is compared as a square of at most 240 pixels, as many as both have; of less than 96 there is no
verdict, since small chests are alike. `agreement` takes multiples of 48."""
WHOLE, FEWEST = 0.85, 4
"""Agreement of a whole picture on a whole one that a copy descriptor proposed: that of radiographs in the default
policy; and the inliers with which a placement by features is tried for such a pair."""
COLOURED = 6.0
"""Mean difference of the largest and the smallest channel from which a picture has colours that can be a map."""
_KEPT = 64

Read = Callable[[int], bytes | None]


@dataclass(frozen=True)
class Verdict:
    """What pixels say of a placement."""

    score: float
    """Agreement, -1..1, four places."""
    test_share: float
    train_share: float
    """Of each picture, the share that the other shows."""
    tones: bool
    """Whether the training picture's colours had to be brought to grey values first."""


@dataclass(frozen=True)
class LocalMatch:
    """A training picture that shows a test picture, or a part of it."""

    train: int
    test: int
    placement: Placement
    verdict: Verdict
    kind: str = "features"
    """Or `descriptor`: who proposed the pair."""

    @property
    def columns(self) -> dict[str, Any]:
        """The columns of evidence that measure it."""
        parts = f"{self.verdict.test_share:.2f} of the test picture, {self.verdict.train_share:.2f} of the other"
        return {
            "kind": self.kind, "value": parts, "variant": self.variant, "score": self.verdict.score,
            "decided_on": "full_image",
        }  # fmt: skip

    @property
    def variant(self) -> str:
        """How the test picture is shown: size, turn, mirrored, inverted, in other colours."""
        (a, b), (c, d) = self.placement.frame[:, :2].tolist()
        # What was mirrored was so before it was turned.
        degrees = round(float(np.degrees(np.arctan2(c, a) if not self.placement.mirrored else np.arctan2(-c, -a))))
        words = [f"x{np.sqrt(abs(a * d - b * c)):.2f}"]
        words += [f"turned {degrees}"] if degrees else []
        words += [name for name in ("mirrored", "inverted") if getattr(self.placement, name)]
        return " ".join(words + (["colours"] if self.verdict.tones else []))


class LocalIndex:
    """The features of all test pictures. Memory: about 80 bytes a feature, 40 kB a test picture."""

    def __init__(self, found: Sequence[Features], shapes: Sequence[tuple[int, int]]) -> None:
        """Index the features of n test pictures, whose width and height are `shapes`."""
        self.found, self.shapes = list(found), list(shapes)
        self.starts = np.concatenate([[0], np.cumsum([len(one.codes) for one in found])]).astype(np.int64)
        codes = np.concatenate([np.zeros((0, 2), np.uint64), *(one.codes for one in found)])
        self._owner = np.repeat(np.arange(len(found)), np.diff(self.starts))
        self._second = np.ascontiguousarray(codes[:, 1])
        self._first = HammingIndex(np.ascontiguousarray(codes[:, 0]), NEAR[0]) if len(codes) else None

    def prepare(self, train: Features, expected: int) -> None:
        """Build the lists now, for `expected` training features like these (see `HammingIndex.prepare`)."""
        if self._first is not None and len(train.codes):
            self._first.prepare(np.ascontiguousarray(train.codes[:, 0]), expected)

    def placements(self, train: Sequence[Features], settings: LocalSettings) -> Iterator[tuple[int, int, Placement]]:
        """(training picture, test picture, placement) of all that have inliers enough, in order."""
        if self._first is None:
            return
        codes = np.concatenate([np.zeros((0, 2), np.uint64), *(one.codes for one in train)])
        starts = np.concatenate([[0], np.cumsum([len(one.codes) for one in train])]).astype(np.int64)
        owner = np.repeat(np.arange(len(train)), np.diff(starts))
        found = self._first.search(np.ascontiguousarray(codes[:, 0]))
        rows, ids = found.rows.astype(np.int64), found.ids.astype(np.int64)
        second = np.bitwise_count(codes[rows, 1] ^ self._second[ids])
        near = second <= NEAR[1]
        rows, ids, bits = rows[near], ids[near], found.distance[near].astype(np.int64) + second[near]
        tests = self._owner[ids]
        # How many test pictures a feature meets; rows are sorted by feature, then by test feature.
        new = np.ones(len(rows), bool)
        new[1:] = (rows[1:] != rows[:-1]) | (tests[1:] != tests[:-1])
        few = np.bincount(rows[new], minlength=len(codes))[rows] <= COMMON
        rows, ids, bits, tests = rows[few], ids[few], bits[few], tests[few]
        order = np.lexsort((ids, rows, tests, owner[rows]))
        rows, ids, bits, tests = rows[order], ids[order], bits[order], tests[order]
        pair = owner[rows] * len(self.found) + tests
        cuts = [*np.flatnonzero(np.diff(pair, prepend=-1)).tolist(), len(pair)]
        for start, end in itertools.pairwise(cuts):
            if end - start >= settings.inliers:
                one, test = int(owner[rows[start]]), int(tests[start])
                placement = place(
                    train[one].take(rows[start:end] - starts[one]),
                    self.found[test].take(ids[start:end] - self.starts[test]),
                    bits[start:end],
                    self.shapes[test],
                )
                if placement is not None and enough(placement, settings):
                    yield one, test, placement

    def scan(
        self,
        pictures: int,
        read_train: Read,
        read_test: Read,
        settings: LocalSettings,
        proposed: Sequence[tuple[int, int]] = (),
    ) -> tuple[list[LocalMatch], Counter[str]]:
        """Compare training pictures 0..`pictures` with all test pictures; `read_` give their stored bytes, or None.

        `proposed`: pairs that a copy descriptor adds. Counts: train_pictures_unread (no stored bytes), candidates =
        confirmed + refuted, confirmed_by_descriptor. Raises: `UserError`.
        """
        matches: list[LocalMatch] = []
        counts: Counter[str] = Counter()
        test_picture = lru_cache(_KEPT)(lambda number: reduced(read_test(number) or b"", TEST_PIXELS))
        for start in range(0, pictures, BLOCK):
            numbers, found = [], []
            for number in range(start, min(start + BLOCK, pictures)):
                data = read_train(number)
                if data is None:
                    counts["train_pictures_unread"] += 1
                    continue
                numbers.append(number)
                found.append(features(data, TRAIN_SIDE))
            opened: tuple[int, Any] = -1, None
            for one, test, placement in self.placements(found, settings):
                counts["candidates"] += 1
                if opened[0] != one:
                    opened = one, reduced(read_train(numbers[one]) or b"", TRAIN_PIXELS, None)
                verdict = compare(opened[1], test_picture(test), placement, settings.threshold)
                if confirmed(verdict, settings):
                    matches.append(LocalMatch(numbers[one], test, placement, verdict))
        counts["confirmed"] = len(matches)
        counts["refuted"] = counts["candidates"] - len(matches)
        seen = {(match.train, match.test) for match in matches}
        for one, test in proposed:
            data, other = read_train(one), read_test(test)
            if (one, test) not in seen and data is not None and other is not None:
                match = proposed_match(one, test, data, other, settings)
                if match is not None:
                    matches.append(match)
                    counts["confirmed_by_descriptor"] += 1
        return matches, counts


def proposed_match(train: int, test: int, data: bytes, other: bytes, settings: LocalSettings) -> LocalMatch | None:
    """The verdict on a pair that a copy descriptor proposed, by the bytes of both pictures; None if pixels refute it.

    The placements: that of the features nearest to each other, however few, and the whole of one on the whole of the
    other, upright or mirrored, inverted or not. The latter must agree as whole radiographs must.
    """
    first, second = reduced(data, TRAIN_PIXELS, None), reduced(other, TEST_PIXELS)
    tries = [(placement, WHOLE) for placement in _wholes(first[1:], second[1:])]
    ours, theirs = features(data, TRAIN_SIDE), features(other, TEST_SIDE)
    if len(ours.codes) and len(theirs.codes):
        bits = np.bitwise_count(ours.codes[:, None] ^ theirs.codes[None]).sum(2, dtype=np.int64)
        nearest, back = bits.argmin(1), bits.argmin(0)
        mutual = np.flatnonzero(back[nearest] == np.arange(len(nearest)))
        nearest = nearest[mutual]
        placement = place(ours.take(mutual), theirs.take(nearest), bits[mutual, nearest], second[1:])
        if placement is not None and placement.inliers >= FEWEST:
            tries.insert(0, (placement, settings.threshold))
    for placement, threshold in tries:
        verdict = compare(first, second, placement, max(threshold, settings.threshold))
        if confirmed(verdict, settings) and verdict.score >= threshold:
            return LocalMatch(train, test, placement, verdict, "descriptor")
    return None


def _wholes(train: tuple[int, int], test: tuple[int, int]) -> Iterator[Placement]:
    """One picture stretched over the other, by their widths and heights."""
    x, y = (ours / theirs for ours, theirs in zip(train, test, strict=True))
    for mirrored in False, True:
        frame = np.array([[-x if mirrored else x, 0.0, 0.0], [0.0, y, (y - 1) / 2]])
        frame[0, 2] = train[0] - 0.5 - x / 2 if mirrored else (x - 1) / 2
        for inverted in False, True:
            yield Placement(frame, mirrored, inverted, 0, 1.0)


def enough(placement: Placement, settings: LocalSettings) -> bool:
    """Whether a placement is worth a look at the pixels."""
    return placement.inliers >= settings.inliers and placement.spread >= settings.spread


def confirmed(verdict: Verdict, settings: LocalSettings) -> bool:
    """Whether the pixels agree, over enough of either picture."""
    return verdict.score >= settings.threshold and max(verdict.test_share, verdict.train_share) >= settings.share


def compare(
    train: tuple[Image.Image, int, int], test: tuple[Image.Image, int, int], placement: Placement, enough: float
) -> Verdict:
    """What the pixels of two pictures (`reduced`: with their whole sizes) say of a placement.

    The test picture is grey. Where a coloured training picture scores less than `enough`, its colours are brought to
    the test picture's grey values by the polynomial that fits best (a colour map), and compared once more.
    """
    # From edges to edges of pixels.
    frame = placement.frame.copy()
    frame[:, 2] += 0.5 - frame[:, :2].sum(1) / 2
    back = np.linalg.inv(np.vstack([frame, [0, 0, 1]]))[:2]
    part = _box(back, (0, 0, train[1], train[2]), (test[1], test[2]))
    shown = _box(frame, part, (train[1], train[2]))
    shares = [_area(box) / (one[1] * one[2]) for box, one in ((part, test), (shown, train))]
    pixels = [
        min((box[2] - box[0]) * one[0].width / one[1], (box[3] - box[1]) * one[0].height / one[2])
        for box, one in ((part, test), (shown, train))
    ]
    side = min(SIDE, int(min(pixels) + 0.5) // STEP * STEP)
    none = Verdict(0.0, round(shares[0], 4), round(shares[1], 4), tones=False)
    if side < SMALLEST:
        return none
    target, laid = _cut(train, shown, side), _cut(test, part, side)
    # Of the unit square over the shown part to that over the test picture's part.
    units = back @ np.array(
        [[shown[2] - shown[0], 0, shown[0]], [0, shown[3] - shown[1], shown[1]], [0, 0, 1]], np.float64
    )
    units[:, 2] -= part[:2]
    units /= np.array([[part[2] - part[0]], [part[3] - part[1]]])
    grey, over = np.asarray(target.convert("L"))[None], np.asarray(laid)[None]
    if flat(over)[0]:
        return none
    score = float(agreement(grey, over, units[None], np.array([placement.inverted]))[0]) if not flat(grey)[0] else 0.0
    tones = False
    if score < enough and target.mode == "RGB":
        mapped = _mapped(np.asarray(target), laid, units)
        if mapped is not None and not flat(mapped[None])[0]:
            other = float(agreement(mapped[None], over, units[None], np.array([False]))[0])
            score, tones = (other, True) if other > score else (score, False)
    return Verdict(score, none.test_share, none.train_share, tones)


def _box(
    frame: Floats, box: tuple[float, float, float, float], within: tuple[int, int]
) -> tuple[float, float, float, float]:
    """The box around a box's four corners under a map, cut off at the picture."""
    corners = np.array([(x, y, 1.0) for x in box[::2] for y in box[1::2]]) @ frame.T
    low = np.clip(corners.min(0), 0, within)
    high = np.clip(corners.max(0), 0, within)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def _area(box: tuple[float, float, float, float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _cut(picture: tuple[Image.Image, int, int], box: tuple[float, float, float, float], side: int) -> Image.Image:
    """A part of a picture, given in pixels of the whole one, as a square."""
    image, width, height = picture
    x, y = image.width / width, image.height / height
    scaled = (box[0] * x, box[1] * y, min(box[2] * x, image.width), min(box[3] * y, image.height))
    return image.resize((side, side), Image.Resampling.BILINEAR, box=scaled)


def _mapped(colours: NDArray[np.uint8], grey: Image.Image, units: Floats) -> NDArray[np.uint8] | None:
    """Grey values for a picture's colours, (side, side, 3): the polynomial of degree three that best gives `grey`."""
    side = colours.shape[0]
    if float(np.mean(colours.max(2).astype(np.int64) - colours.min(2))) < COLOURED:
        return None
    values = colours.reshape(-1, 3) / 255
    r, g, b = values.T
    terms = np.stack([np.ones_like(r), r, g, b, r * r, g * g, b * b, r * g, r * b, g * b, r**3, g**3, b**3], 1)
    scaled = units * np.array([1.0, 1.0, side])
    laid = grey.transform((side, side), Image.Transform.AFFINE, scaled.ravel().tolist(), Image.Resampling.BILINEAR)
    at = (np.arange(side) + 0.5) / side
    u, v = (one.ravel() for one in np.meshgrid(at, at))
    x, y = units[:, :2] @ np.stack([u, v]) + units[:, 2:]
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    if inside.sum() < len(inside) / 4:
        return None
    solved, *_ = np.linalg.lstsq(terms[inside], np.asarray(laid).ravel()[inside].astype(np.float64), rcond=None)
    mapped: NDArray[np.uint8] = np.clip(np.rint(terms @ solved), 0, 255).astype(np.uint8)
    return mapped.reshape(side, side)
