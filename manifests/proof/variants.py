"""Variants of a test picture: what its copies may look like, so that the training side is hashed only once.

Every variant is a **frame** (an affine map: where each point of the varied picture lies in the test picture), a
**fill** for what lies outside, and a **tone** (how grey values change). All are applied to the 96 x 96 thumbnail of the
manifest; width and height undo its squeeze where geometry needs it (rotations, squares). The perceptual hashes of all
variants make the index in which the plain hashes of training pictures are looked up.

**Region hashes** are for marks that change a part of a picture (a burnt-in label, an arrow): perceptual hashes of five
fixed, overlapping squares of the thumbnail, made for both sides; a mark leaves some of them as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from manifests.fingerprints import _DCT, HASH_PIXELS, HASH_SIZE, THUMBNAIL_PIXELS
from medgpt.containers import DamagedImage
from medgpt.errors import UserError
from medgpt.pictures import open_picture

Picture = NDArray[np.uint8]
Matrix = NDArray[np.float64]
"""2 x 3: (u, v) of the varied picture, 0..1 from left and top edge, to (u, v) of the test picture."""

Frame = Callable[[Picture, int, int], "Matrix | None"]
Tone = Callable[[Picture], Picture]

REGIONS = ("top_left", "top_right", "centre", "bottom_left", "bottom_right")
REGION_PIXELS = 60
"""Side of a region on the thumbnail: five eighths of it, so that all of them overlap in the middle."""
REGION_CONTRAST = 4
"""A region whose 63 varying coefficients together deviate by less grey levels than this has no hash: blank corners
would all be alike, and their bits come from noise."""

CROPS = (2, 4, 6, 8, 10, 12, 14, 16)
PADS = (2.5, 5, 7.5, 10, 12.5, 15)
ROTATIONS = (-3.0, -1.5, 1.5, 3.0)
SHAVE = 6
BORDER_RANGE = 12
"""A border row or column is uniform if its grey values span at most this: a JPEG of quality 80 rings a little."""


class PictureError(UserError):
    """A thumbnail that is no 96 x 96 grey picture, or a stored picture that cannot be decoded."""


def decode(thumbnail: bytes) -> Picture:
    """A thumbnail of the manifest as 96 x 96 grey values. `PictureError` for anything else."""
    try:
        picture = np.array(open_picture(thumbnail))
    except DamagedImage as error:
        raise PictureError(f"a thumbnail of {len(thumbnail)} bytes cannot be decoded: build its part again") from error
    if picture.shape != (THUMBNAIL_PIXELS, THUMBNAIL_PIXELS) or picture.dtype != np.uint8:
        raise PictureError(f"a thumbnail is {picture.shape}, not 96 x 96 grey: build its part again")
    return picture


def perceptual_hashes(pictures: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """`fingerprints.perceptual_hash` of each of n pictures: (n, height, width) grey to (n,)."""
    small = np.empty((len(pictures), HASH_PIXELS, HASH_PIXELS), np.int64)
    for i, picture in enumerate(pictures):
        small[i] = np.asarray(Image.fromarray(picture).resize((HASH_PIXELS, HASH_PIXELS), Image.Resampling.LANCZOS))
    return _above_median((_DCT @ small @ _DCT.T).reshape(len(pictures), HASH_SIZE**2))


def _above_median(low: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Which of the coefficients in each row exceed the row's median, as 64 bits (the rule of `perceptual_hash`)."""
    half = HASH_SIZE**2 // 2
    ordered = np.partition(low, (half - 1, half), axis=-1)
    middle = ordered[..., half - 1] + ordered[..., half]
    bits = np.packbits(2 * low > middle[..., None], axis=-1)
    return bits.view(">u8")[..., 0].astype(np.uint64)


def _region_operator() -> NDArray[np.float64]:
    """24 x 96: the 8 lowest cosines over the first, middle and last 60 of 96 samples, Lanczos-reduced to 32 first.

    Whole numbers: 255 * 96 * 2**14 * 96 * 2**14 < 2**53, so that products in float64 are exact in any order.
    """
    scale = REGION_PIXELS / HASH_PIXELS
    centre = (np.arange(HASH_PIXELS) + 0.5) * scale
    distance = (np.arange(REGION_PIXELS) + 0.5 - centre[:, None]) / scale
    kernel = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    kernel /= kernel.sum(1, keepdims=True)
    cosines = np.rint(2**12 * (_DCT / 2**20 @ kernel))
    operator = np.zeros((3 * HASH_SIZE, THUMBNAIL_PIXELS))
    margin = THUMBNAIL_PIXELS - REGION_PIXELS
    for i, start in enumerate((0, margin // 2, margin)):
        operator[i * HASH_SIZE : (i + 1) * HASH_SIZE, start : start + REGION_PIXELS] = cosines
    return operator


_REGION_OPERATOR = _region_operator()
_REGION_AT = ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2))


def region_hashes(pictures: NDArray[np.uint8]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Hashes of the five `REGIONS` of n thumbnails, (n, 5), and which of them have enough contrast to count."""
    n = len(pictures)
    right = pictures.reshape(-1, THUMBNAIL_PIXELS).astype(np.float64) @ _REGION_OPERATOR.T
    both = np.matmul(_REGION_OPERATOR, right.reshape(n, THUMBNAIL_PIXELS, len(_REGION_OPERATOR)))
    grid = both.reshape(n, 3, HASH_SIZE, 3, HASH_SIZE)
    low = np.stack([grid[:, i, :, j] for i, j in _REGION_AT], 1).reshape(n, len(REGIONS), HASH_SIZE**2)
    # In grey levels: a coefficient of the cosine transform is its amplitude times 32 * 32 / 4 * 2**24.
    varying = low[..., 1:] / (2.0**24 * HASH_PIXELS**2 / 4)
    contrast = np.sqrt((varying**2).sum(-1) / 4)
    return _above_median(low.astype(np.int64)), contrast >= REGION_CONTRAST


@dataclass(frozen=True)
class Variant:
    """One way in which a copy may differ from the test picture."""

    name: str
    frame: Frame
    """(thumbnail, width, height) to the matrix, or None where the variant does not apply to the picture."""
    tone: Tone | None = None
    fill: int = 0
    inverted: bool = False

    def picture(self, thumbnail: Picture, width: int, height: int) -> Picture | None:
        """The varied 96 x 96 picture, or None where the variant does not apply."""
        matrix = self.frame(thumbnail, width, height)
        if matrix is None:
            return None
        toned = thumbnail if self.tone is None else self.tone(thumbnail)
        if matrix is IDENTITY:
            return toned
        # Pillow's units are pixels of the source for a pixel of the result, from edge to edge.
        (a, b, c), (d, e, f) = matrix.tolist()
        side = THUMBNAIL_PIXELS
        coefficients = (a, b, c * side, d, e, f * side)
        image = Image.fromarray(toned).transform(
            (side, side), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=self.fill
        )
        return np.asarray(image)

    def hash(self, thumbnail: Picture, width: int, height: int) -> int | None:
        """Perceptual hash of the varied picture, or None where the variant does not apply."""
        varied = self.picture(thumbnail, width, height)
        return None if varied is None else int(perceptual_hashes(varied[None])[0])


IDENTITY: Matrix = np.array([[1.0, 0, 0], [0, 1.0, 0]])
"""The frame of the picture itself."""


def _constant(matrix: Matrix) -> Frame:
    return lambda thumbnail, width, height: matrix


def _about_centre(linear: Sequence[Sequence[float]]) -> Matrix:
    """The map that keeps the centre and has this linear part."""
    part = np.array(linear, np.float64)
    return np.column_stack([part, 0.5 - part @ [0.5, 0.5]])


def _window(left: float, top: float, right: float, bottom: float) -> Matrix:
    """What is left of the picture after cutting these shares off its sides (negative: after adding them)."""
    return np.array([[1 - left - right, 0, left], [0, 1 - top - bottom, top]])


def _square(inside: bool) -> Frame:
    def frame(thumbnail: Picture, width: int, height: int) -> Matrix | None:
        if max(width, height) < 1.02 * min(width, height):
            return None
        side = min(width, height) if inside else max(width, height)
        return _about_centre([[side / width, 0], [0, side / height]])

    return frame


def _rotation(degrees: float, cropped: bool) -> Frame:
    cosine, sine = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))

    def frame(thumbnail: Picture, width: int, height: int) -> Matrix:
        # The largest rectangle of the same shape that holds none of the corners that turn in.
        shape = max(width, height) / min(width, height)
        scale = 1 / (cosine + shape * abs(sine)) if cropped else 1.0
        return _about_centre(
            [[scale * cosine, -scale * sine * height / width], [scale * sine * width / height, scale * cosine]]
        )

    return frame


def _trimmed(thumbnail: Picture, width: int, height: int) -> Matrix | None:
    """Without its uniform border rows and columns; None where there are none, or where little would be left."""
    cuts = []
    for lines in (thumbnail.T, thumbnail):
        spans = lines.max(1).astype(int) - lines.min(1)
        inner = np.flatnonzero(spans > BORDER_RANGE)
        if not len(inner):
            return None
        cuts += [inner[0] / len(spans), 1 - (inner[-1] + 1) / len(spans)]
    left, right, top, bottom = cuts
    if max(cuts) == 0 or min(1 - left - right, 1 - top - bottom) < 0.25:
        return None
    return _window(left, top, right, bottom)


def _equalised(picture: Picture) -> Picture:
    counts = np.bincount(picture.ravel(), minlength=256).cumsum()
    table: Picture = (255 * counts // counts[-1]).astype(np.uint8)
    return table[picture]


def _adaptive(picture: Picture) -> Picture:
    """Contrast-limited equalisation in 8 x 8 tiles (clip 2), grey values between tile centres interpolated."""
    tiles, side = 8, THUMBNAIL_PIXELS // 8
    blocks = picture.reshape(tiles, side, tiles, side).swapaxes(1, 2).reshape(tiles * tiles, side * side)
    counts = np.zeros((tiles * tiles, 256))
    np.add.at(counts, (np.arange(tiles * tiles)[:, None], blocks), 1)
    limit = 2 * side * side / 256
    cut = np.minimum(counts, limit)
    cut += (counts - cut).sum(1, keepdims=True) / 256
    tables = (255 * cut.cumsum(1) / (side * side)).reshape(tiles, tiles, 256)
    position = np.clip((np.arange(THUMBNAIL_PIXELS) + 0.5) / side - 0.5, 0, tiles - 1)
    first = np.minimum(position.astype(np.int64), tiles - 2)
    share = position - first
    y, x = first[:, None], first[None]
    upper = tables[y, x, picture] * (1 - share) + tables[y, x + 1, picture] * share
    lower = tables[y + 1, x, picture] * (1 - share) + tables[y + 1, x + 1, picture] * share
    values: Picture = np.rint(upper * (1 - share[:, None]) + lower * share[:, None]).astype(np.uint8)
    return values


def _curve(values: NDArray[np.float64]) -> Tone:
    table = np.clip(np.rint(values), 0, 255).astype(np.uint8)
    return lambda picture: table[picture]


_GREY = np.arange(256, dtype=np.float64)
_INVERSE = _curve(255 - _GREY)
_MIRROR, _HALF = [[-1, 0], [0, 1]], [[-1, 0], [0, -1]]


def _all_variants() -> tuple[Variant, ...]:
    same = _constant(IDENTITY)
    found = [Variant("identity", same), Variant("mirror", _constant(_about_centre(_MIRROR)))]
    turns = {
        "turn_90": [[0, -1], [1, 0]], "turn_180": _HALF, "turn_270": [[0, 1], [-1, 0]],
        "mirror_turn_90": [[0, 1], [1, 0]], "mirror_turn_180": [[1, 0], [0, -1]], "mirror_turn_270": [[0, -1], [-1, 0]],
    }  # fmt: skip
    found += [Variant(name, _constant(_about_centre(linear))) for name, linear in turns.items()]
    found += [
        Variant("inverted", same, _INVERSE, inverted=True),
        Variant("inverted_mirror", _constant(_about_centre(_MIRROR)), _INVERSE, inverted=True),
    ]
    found += [Variant(f"crop_{p}", _constant(_window(*[p / 100] * 4))) for p in CROPS]
    for colour, fill in (("black", 0), ("white", 255)):
        found += [Variant(f"pad_{colour}_{p:g}", _constant(_window(*[-p / 100] * 4)), fill=fill) for p in PADS]
        found.append(Variant(f"square_{colour}", _square(inside=False), fill=fill))
    found += [Variant("square_crop", _square(inside=True)), Variant("trimmed", _trimmed)]
    for i, side in enumerate(("left", "top", "right", "bottom")):
        found.append(Variant(f"shaved_{side}", _constant(_window(*[SHAVE / 100 * (i == j) for j in range(4)]))))
    for degrees in ROTATIONS:
        found.append(Variant(f"rotated_{degrees:+g}", _rotation(degrees, cropped=False)))
        found.append(Variant(f"rotated_{degrees:+g}_cropped", _rotation(degrees, cropped=True)))
    tones = {
        "equalised": _equalised, "adaptive": _adaptive, "contrast_1.6": _curve(128 + 1.6 * (_GREY - 128)),
        "gamma_0.6": _curve(255 * (_GREY / 255) ** 0.6), "gamma_1.6": _curve(255 * (_GREY / 255) ** 1.6),
    }  # fmt: skip
    found += [Variant(name, same, tone) for name, tone in tones.items()]
    return tuple(found)


VARIANTS = _all_variants()
"""All variants; the first is the picture itself. Rotations are counter-clockwise, in degrees; the other numbers are
shares of a side in per cent."""
