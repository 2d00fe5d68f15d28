"""Local features of a picture, and where one picture lies in another: the definitions of the level `local_pictures`.

A *feature* is a SIFT keypoint (Lowe 2004) with its descriptor as 128 bits: signs of fixed sums of +-1 times the
descriptor, about their medians. Descriptors are brought to one of four equal forms first (as they are, mirrored, with
light and dark exchanged, both), so that a mirrored or inverted copy has the same bits; which form it was is kept.
Two features *meet* where the halves of their bits differ in at most `NEAR` places each: a plain rule about two
numbers, so that a complete join finds the same pairs as a loop over all of them.

A *placement* lays one picture into another. Each pair of features that meet proposes one by its two places, sizes and
directions; the one that most other pairs agree with is refined by least squares. No random draw is involved, so the
result is the same in every process.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from medgpt.containers import DamagedImage
from medgpt.errors import UserError
from medgpt.pictures import opened

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]

TRAIN_SIDE, TEST_SIDE = (800, 1200), (640, 500)
"""Pixels of the longest side, and how many features at most: a training picture may be a figure of many panels."""
CONTRAST = 0.01
"""A quarter of OpenCV's default: radiographs have faint structure."""
FOUND, CELLS = 3000, 8
"""Keypoints that are looked at, the strongest; the picture is cut into 8 x 8 cells that take turns in being asked for
their strongest, so that a page's letters leave room for its pictures."""
NEAR = 6, 8
"""Bits in which the halves of two codes may differ (of 64 each): 85 % of the keypoints that a JPEG at 60 % of the size
shows again are within the first."""
MATCHES = 600
"""Pairs of two pictures that are looked at, those with the fewest differing bits."""
LOOSE, TIGHT = 0.06, 0.015
"""How far a pair may lie from where a placement puts it, as a share of the placed picture's diagonal: at first, since
one keypoint's direction is only good to some degrees; and after least squares."""
SCALES, TURNS = 0.7, 25.0
"""Factors of two and degrees in which pairs of one placement may differ."""

_BITS, _NUMBERS = 128, 128


@dataclass(frozen=True)
class Features:
    """n features of a picture."""

    points: Floats
    """(n, 4): x, y and size in pixels of the whole picture, direction in degrees (from x towards y)."""
    codes: NDArray[np.uint64]
    """(n, 2)"""
    forms: NDArray[np.int64]
    """(n,): 1 where light and dark were exchanged, + 2 where it was mirrored."""

    def take(self, at: NDArray[Any]) -> Features:
        """Some of them."""
        return Features(self.points[at], self.codes[at], self.forms[at])


@dataclass(frozen=True)
class Placement:
    """How the test picture lies in the training picture."""

    frame: Floats
    """(2, 3): pixels of the test picture to pixels of the training picture."""
    mirrored: bool
    inverted: bool
    """Whether most pairs say that light and dark are exchanged."""
    inliers: int
    """Pairs at different places that agree with it."""
    spread: float
    """Share of the shown part of the test picture that a box around the middle 90 % of the inliers covers."""


def opencv() -> Any:
    """OpenCV with one thread. Raises: `UserError` where it is not installed."""
    try:
        import cv2
    except ModuleNotFoundError as error:
        raise UserError("local_pictures needs OpenCV: pip install 'medgpt-oss[filters]'") from error
    cv2.setNumThreads(1)
    return cv2


def reduced(data: bytes, pixels: int, mode: Any = "L") -> tuple[Image.Image, int, int]:
    """A stored picture with a longest side of at most `pixels`, and the whole picture's width and height.

    Raises: `UserError`.
    """
    try:
        found = opened(data, mode, at_least=pixels)
    except DamagedImage as error:
        raise UserError(f"a stored picture of {len(data)} bytes cannot be decoded ({error}): build it again") from error
    picture, longest = found.image, max(found.image.size)
    if longest > pixels:
        width, height = (max(1, round(side * pixels / longest)) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
    return picture, found.width, found.height


def features_of_none() -> Features:
    """What a picture has that is not stored."""
    return Features(np.zeros((0, 4)), np.zeros((0, 2), np.uint64), np.zeros(0, np.int64))


def features(data: bytes, side: tuple[int, int]) -> Features:
    """The features of a stored picture (JPEG or PNG); `side` is `TRAIN_SIDE` or `TEST_SIDE`. Raises: `UserError`."""
    pixels, count = side
    picture, width, height = reduced(data, pixels)
    points, descriptors = _keypoints(np.asarray(picture), count)
    codes, forms = encode(descriptors)
    scale = np.array([width / picture.width, height / picture.height])
    # Of the middle of a pixel, in both pictures.
    points[:, :2] = (points[:, :2] + 0.5) * scale - 0.5
    points[:, 2] *= np.sqrt(scale.prod())
    return Features(points, codes, forms)


def _keypoints(grey: NDArray[np.uint8], count: int) -> tuple[Floats, NDArray[np.float32]]:
    """Points, (n, 4), and descriptors, (n, 128), sorted by place."""
    found, described = _sift().detectAndCompute(grey, None)
    if described is None:
        return np.zeros((0, 4)), np.zeros((0, _NUMBERS), np.float32)
    points = np.array([(*one.pt, one.size, one.angle) for one in found], np.float64)
    strength = np.array([one.response for one in found])
    height, width = grey.shape
    columns, rows = (
        np.minimum((points[:, axis] * CELLS / side).astype(np.int64), CELLS - 1)
        for axis, side in enumerate((width, height))
    )
    cell = rows * CELLS + columns
    order = np.lexsort((points[:, 3], points[:, 2], points[:, 1], points[:, 0], -strength, cell))
    rank = np.arange(len(order)) - np.searchsorted(cell[order], cell[order])
    chosen = order[np.lexsort((-strength[order], rank))[:count]]
    chosen = chosen[np.lexsort(points[chosen].T)]
    return points[chosen], described[chosen]


@cache
def _sift() -> Any:
    return opencv().SIFT_create(FOUND, contrastThreshold=CONTRAST)


def _layout() -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Orders of a descriptor's 4 x 4 x 8 numbers under exchanged light and dark and mirrored, and the sums that choose.

    With light and dark exchanged a keypoint's direction turns round, and with it the grid of cells; mirrored, the rows
    of the grid and the sense of the directions turn round.
    """
    row, column, direction = np.meshgrid(np.arange(4), np.arange(4), np.arange(8), indexing="ij")

    def order(rows: Numbers, columns: Numbers, directions: Numbers) -> Numbers:
        return ((rows * 4 + columns) * 8 + directions).ravel()

    exchanged = order(3 - row, 3 - column, direction)
    mirrored = order(3 - row, column, (8 - direction) % 8)
    return exchanged, mirrored, (2 * column - 3).ravel(), np.array([0, 1, 1, 1, 0, -1, -1, -1])[direction].ravel()


_EXCHANGED, _MIRRORED, _ALONG, _SENSE = _layout()
_SUMS = np.where(
    np.unpackbits(np.frombuffer(hashlib.shake_128(b"local pictures").digest(_BITS * _NUMBERS // 8), np.uint8)).reshape(
        _NUMBERS, _BITS
    ),
    1,
    -1,
).astype(np.float32)
_MEDIANS = 0.5 + np.array(
    [
        565, 225, -544, -565, -363, 290, 370, 84, -22, 662, 131, 31, -380, 71, -44, 119, 334, -353, -276, 761, -173,
        127, -235, -77, 330, 231, -38, -986, -346, 697, -58, -94, 13, -540, -1110, 452, 761, 11, -170, -50, -325,
        -142, 276, 110, -218, -294, -77, 143, -278, 22, 330, 29, -320, -24, -218, -268, -326, -243, -103, 172, 459,
        390, -204, 453, 83, 39, 23, 297, -458, -252, 40, 164, 517, -113, 293, 1059, 447, -66, 329, -130, -234, -294,
        231, 263, -486, 416, 78, 35, -299, 48, -34, 250, -151, 102, 286, -106, 208, 525, -477, -284, -773, -727,
        -200, -339, -150, -327, 17, 217, 421, -297, -807, -92, -57, -205, 425, -167, 99, -29, -619, 37, -706, -506,
        708, -640, 341, 293, 365, -279,
    ],
    np.float32,
)  # fmt: skip
"""Of 18,000 descriptors of 66 pictures (radiographs, screens, histology, and those that scikit-image ships)."""


def encode(descriptors: NDArray[np.float32]) -> tuple[NDArray[np.uint64], Numbers]:
    """Codes, (n, 2), and forms, (n,), of n SIFT descriptors of 128 whole numbers 0..255: exact in float32."""
    one = descriptors.copy()
    exchanged = one @ _ALONG < 0
    one[exchanged] = one[exchanged][:, _EXCHANGED]
    mirrored = one @ _SENSE < 0
    one[mirrored] = one[mirrored][:, _MIRRORED]
    bits = np.packbits(one @ _SUMS > _MEDIANS, axis=1)
    return bits.view(">u8").astype(np.uint64).reshape(-1, 2), exchanged + 2 * mirrored.astype(np.int64)


def place(train: Features, test: Features, bits: NDArray[Any], shape: tuple[int, int]) -> Placement | None:
    """The placement that most of n pairs agree with; None where no two do.

    `train`, `test`: the n features of each side, pair by pair; `bits` (n,): differing bits; `shape`: width and height
    of the test picture.
    """
    if len(bits) > MATCHES:
        some = np.sort(np.argsort(bits, kind="stable")[:MATCHES])
        train, test = train.take(some), test.take(some)
    forms = train.forms ^ test.forms
    mirrored, inverted = forms >> 1 == 1, forms & 1 == 1
    # The plane as complex numbers: a placement is z -> turn * z + shift, of the mirrored test picture or of itself.
    to = train.points[:, 0] + 1j * train.points[:, 1]
    of = np.where(mirrored, -test.points[:, 0], test.points[:, 0]) + 1j * test.points[:, 1]
    direction = np.where(mirrored, 180 - test.points[:, 3], test.points[:, 3])
    angle = train.points[:, 3] - direction - 180 * inverted
    scale = train.points[:, 2] / test.points[:, 2]
    turn = scale * np.exp(1j * np.deg2rad(angle))
    shift = to - turn * of
    reach = float(np.hypot(*shape))
    apart = np.abs(turn[:, None] * of[None] + shift[:, None] - to[None])
    # Where a colour map turns the brightness round in places, directions turn by half a circle.
    turned = np.abs((angle[:, None] - angle[None] + 90) % 180 - 90)
    sized = np.abs(np.log2(scale)[:, None] - np.log2(scale)[None])
    alike = (mirrored[:, None] == mirrored[None]) & (sized < SCALES) & (turned < TURNS)
    agree = alike & (apart < LOOSE * reach * scale[:, None])
    first = int(agree.sum(1).argmax())
    inliers, alike = agree[first], alike[first]
    points = np.column_stack([of.real, of.imag, np.ones(len(of))])
    frame = np.array([[turn[first].real, -turn[first].imag, shift[first].real],
                      [turn[first].imag, turn[first].real, shift[first].imag]])  # fmt: skip
    for share in (LOOSE / 2, TIGHT, TIGHT):
        if inliers.sum() < 2:
            return None
        refined = _fitted(of[inliers], to[inliers], points[inliers], affine=_spread(of[inliers]) >= 6)
        size = np.sqrt(abs(np.linalg.det(refined[:, :2])))
        missed = np.hypot(*(points @ refined.T - np.column_stack([to.real, to.imag])).T)
        inliers, frame = alike & (missed < share * reach * size), refined
    if inliers.sum() < 2:
        return None
    if mirrored[first]:
        frame = frame * np.array([-1.0, 1.0, 1.0])
    ends = test.points[inliers, :2]
    middle = np.percentile(ends, [5, 95], axis=0)
    count = min(_spread(of[inliers]), _spread(to[inliers] / max(size, 1e-6)))
    spread = float(np.prod((middle[1] - middle[0]) / np.array(shape)))
    most = bool(inverted[inliers].mean() > 0.5)
    return Placement(np.round(frame, 4), bool(mirrored[first]), most, count, round(spread, 4))


def _spread(places: NDArray[np.complex128]) -> int:
    """Places that differ: SIFT gives one several directions, and a strong one at several sizes."""
    return len(np.unique(np.round(places / 4)))


def _fitted(of: NDArray[np.complex128], to: NDArray[np.complex128], points: Floats, affine: bool) -> Floats:
    """Least squares: a similarity, or an affine map where there are pairs enough."""
    if affine:
        solved, _, rank, _ = np.linalg.lstsq(points, np.column_stack([to.real, to.imag]), rcond=None)
        size = np.linalg.svd(solved[:2], compute_uv=False)
        # Pairs along a line, or chance ones: no picture is shown so distorted.
        if rank == 3 and size[1] * 2 > size[0]:
            return np.asarray(solved.T, np.float64)
    centre, target = of.mean(), to.mean()
    turn = (np.conj(of - centre) * (to - target)).sum() / max(float((np.abs(of - centre) ** 2).sum()), 1e-9)
    shift = target - turn * centre
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])
