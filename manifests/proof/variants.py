"""Variants of a test picture: what its copies may look like, so that the training side is hashed as it is.

Only training pictures with wide uniform borders are hashed twice, the second time without them (`without_borders`).

**Turns** (quarter turns, mirrors, inversion of grey values: sixteen in all) need no variants, nor do turns of variants:
hashes are made of the picture **as it is oriented** by itself. The cosine coefficients of a picture and of its mirror
image differ in signs alone, those of its transpose in places; so the signs of three sums over them and one comparison
say how to turn any picture of the sixteen into the same one. On the test side, where a sum is too near zero to be sure,
both ways are listed.

Every variant is a **frame** (an affine map: where each point of the varied picture lies in the test picture), a
**fill** for what lies outside, and a **tone** (how grey values change). All are applied to the 96 x 96 thumbnail of the
manifest; width and height undo its squeeze where geometry needs it (rotations, squares). The perceptual hashes of all
variants make the index in which the plain hashes of training pictures are looked up.

**Region hashes** are for marks that change a part of a picture (a burnt-in label, an arrow): perceptual hashes of five
fixed squares of the thumbnail (its quarters and its middle), each oriented by itself, made for both sides (of a test
picture also cropped and padded); a mark leaves some of them as they were.
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
REGION_PIXELS = 48
"""Side of a region on the thumbnail: half of it, so that a box across the middle leaves two corners as they were. At 60
all five overlap there; of 167 pictures with a label box 146 were candidates, now 164, for 18 % more candidates."""
REGION_CONTRAST = 4
"""A region whose 63 varying coefficients together deviate by less grey levels than this has no hash: blank corners
would all be alike, and their bits come from noise."""

CROPS = (4, 6, 8, 10, 12, 14, 16)
PADS = (5, 7.5, 10, 15)
SHAVES = (10, 20)
_PLAIN = {
    "identity", "trimmed", "equalised", "adaptive", "contrast_1.6", "gamma_0.6", "gamma_1.6", "crop_12", "crop_14",
    "crop_16",
}  # fmt: skip
REGION_VARIANTS = ("identity", "crop_6", "crop_10", "pad_black_7.5")
UNSURE, UNSURE_PLAIN = 0.02, 0.1
"""A decision whose sum is less than this share of all energy is listed both ways; the second for the picture itself,
with or without its borders, for tones and for large crops. On real pictures with two changes, 0.05 and 0.1 for all
variants found 0.4 and 1.4 % more, and listed a third and two thirds more."""
WIDE_BORDERS = 0.05
"""Share of a training picture's width or height that its borders must take to be looked at without them, too."""
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


def _operator(pixels: int) -> NDArray[np.float64]:
    """8 x `pixels`: the 8 lowest cosines over so many samples, Lanczos-reduced to 32 first.

    Whole numbers: 255 * 96 * 2**14 * 96 * 2**14 < 2**53, so that products in float64 are exact in any order.
    """
    scale = pixels / HASH_PIXELS
    centre = (np.arange(HASH_PIXELS) + 0.5) * scale
    distance = (np.arange(pixels) + 0.5 - centre[:, None]) / scale
    kernel = np.where(np.abs(distance) < 3, np.sinc(distance) * np.sinc(distance / 3), 0)
    kernel /= kernel.sum(1, keepdims=True)
    cosines: NDArray[np.float64] = np.rint(2**12 * (_DCT / 2**20 @ kernel))
    return cosines


def _operators() -> NDArray[np.float64]:
    """32 x 96: over the first, middle and last 48 of 96 samples, and over all of them."""
    operator = np.zeros((4 * HASH_SIZE, THUMBNAIL_PIXELS))
    margin = THUMBNAIL_PIXELS - REGION_PIXELS
    for i, start in enumerate((0, margin // 2, margin)):
        operator[i * HASH_SIZE : (i + 1) * HASH_SIZE, start : start + REGION_PIXELS] = _operator(REGION_PIXELS)
    operator[3 * HASH_SIZE :] = _operator(THUMBNAIL_PIXELS)
    return operator


_OPERATORS = _operators()
_PARTS_AT = ((0, 0), (0, 2), (1, 1), (2, 0), (2, 2), (3, 3))


@dataclass(frozen=True)
class Coefficients:
    """Cosine coefficients of the five regions of n thumbnails and, last, of the whole."""

    low: NDArray[np.float64]
    """(n, 6, 8, 8): down, across; whole numbers."""

    @property
    def contrast(self) -> NDArray[np.bool_]:
        """(n, 5): which regions have enough contrast to count."""
        varying = self.low[:, :-1].reshape(len(self.low), len(REGIONS), -1)[..., 1:] / _GREY_LEVEL
        enough: NDArray[np.bool_] = np.sqrt((varying**2).sum(-1) / 4) >= REGION_CONTRAST
        return enough


_GREY_LEVEL = 2.0**24 * HASH_PIXELS**2 / 4
"""A coefficient of the cosine transform is its amplitude in grey levels times this."""


def coefficients(pictures: NDArray[np.uint8]) -> Coefficients:
    """Of n thumbnails, (n, 96, 96)."""
    n = len(pictures)
    right = pictures.reshape(-1, THUMBNAIL_PIXELS).astype(np.float64) @ _OPERATORS.T
    both = np.matmul(_OPERATORS, right.reshape(n, THUMBNAIL_PIXELS, len(_OPERATORS)))
    grid = both.reshape(n, 4, HASH_SIZE, 4, HASH_SIZE)
    return Coefficients(np.stack([grid[:, i, :, j] for i, j in _PARTS_AT], 1))


INVERTED, ACROSS, DOWN, TRANSPOSED = 1, 2, 4, 8
"""Bits of a turn: the picture is transposed, then its rows and its columns are reversed, then its grey values."""
TURNS = 16
_ODD = np.arange(HASH_SIZE) % 2


def _signs(turn: int) -> NDArray[np.float64]:
    """What a turn multiplies the coefficients by, once they are transposed."""
    signs = np.ones((HASH_SIZE, HASH_SIZE))
    if turn & ACROSS:
        signs *= 1.0 - 2 * _ODD
    if turn & DOWN:
        signs *= 1.0 - 2 * _ODD[:, None]
    if turn & INVERTED:
        signs[1:] *= -1
        signs[0, 1:] *= -1
    return signs


_SIGNS = np.stack([_signs(turn) for turn in range(TURNS)])


def orientations(low: NDArray[np.float64], unsure: NDArray[np.float64] | float = 0.0) -> NDArray[np.bool_]:
    """(n, 8, 8) coefficients to (n, 16): which turns bring a picture into its own orientation.

    One of them, or with `unsure` (for all, or each) all that a sum nearer to zero than this share of energy leaves
    open. Squares of whole 64ths of a grey level are summed: exact.
    """
    levels = np.rint(low * (64 / _GREY_LEVEL))
    levels[:, 0, 0] = 0
    energy = levels * levels
    signed = energy * np.sign(levels)
    total = np.maximum(energy.sum((1, 2)), 1)
    wide = np.triu(energy, 1).sum((1, 2)) - np.tril(energy, -1).sum((1, 2))
    even = signed[:, ::2, ::2].sum((1, 2))
    across, down = signed[:, ::2, 1::2].sum((1, 2)), signed[:, 1::2, ::2].sum((1, 2))
    fits = np.ones((len(low), TURNS), bool)
    for turn in range(TURNS):
        transposed, inverted = bool(turn & TRANSPOSED), bool(turn & INVERTED)
        first, second = (down, across) if transposed else (across, down)
        for sums, reversed_ in (
            (wide, transposed),
            (even, inverted),
            (first, bool(turn & ACROSS) != inverted),
            (second, bool(turn & DOWN) != inverted),
        ):
            fits[:, turn] &= ((sums < 0) == reversed_) | (np.abs(sums) < unsure * total)
    return fits


def oriented_hashes(
    low: NDArray[np.float64], unsure: NDArray[np.float64] | float = 0.0
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]:
    """Picture, turn and hash of each orientation of n pictures, (n, 8, 8) coefficients; ordered by picture and turn."""
    picture, turn = np.nonzero(orientations(low, unsure))
    turned = low[picture]
    across = np.flatnonzero(turn & TRANSPOSED)
    turned[across] = turned[across].transpose(0, 2, 1)
    turned *= _SIGNS[turn]
    return picture, turn, _above_median(turned.reshape(-1, HASH_SIZE**2).astype(np.int64))


@dataclass(frozen=True)
class Variant:
    """One way in which a copy may differ from the test picture."""

    name: str
    frame: Frame
    """(thumbnail, width, height) to the matrix, or None where the variant does not apply to the picture."""
    tone: Tone | None = None
    fill: int = 0
    compared_toned: bool = False
    """Whether the tone loses structure, so that pixels are compared only after it."""

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

    @property
    def unsure(self) -> float:
        """For `orientations`."""
        return UNSURE_PLAIN if self.name in _PLAIN else UNSURE

    def compared(self, picture: Picture) -> Picture:
        """The test picture as its pixels are compared, of any size."""
        return self.tone(picture) if self.tone is not None and self.compared_toned else picture


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


def _square(inside: bool, at: float = 0.5, cut: float = 0.0) -> Frame:
    """`at`: where the picture lies on the longer side, from 0 (its bars are right of it or below) to 1.

    `cut`: share of the square that is then cut off each side.
    """

    def frame(thumbnail: Picture, width: int, height: int) -> Matrix | None:
        if max(width, height) < 1.02 * min(width, height):
            return None
        side = min(width, height) if inside else max(width, height)
        across, down = side / width, side / height
        return _after(np.array([[across, 0, (1 - across) * at], [0, down, (1 - down) * at]]), _window(*[cut] * 4))

    return frame


def _after(outer: Matrix, inner: Matrix) -> Matrix:
    """First `inner`, then `outer`."""
    return np.column_stack([outer[:, :2] @ inner[:, :2], outer[:, :2] @ inner[:, 2] + outer[:, 2]])


def _rotation(degrees: float, cropped: bool, cut: float = 0.0) -> Frame:
    """Rotated; then `cut` per cent are cut off each side (negative: added)."""
    cosine, sine = float(np.cos(np.deg2rad(degrees))), float(np.sin(np.deg2rad(degrees)))

    def frame(thumbnail: Picture, width: int, height: int) -> Matrix:
        # The largest rectangle of the same shape that holds none of the corners that turn in.
        shape = max(width, height) / min(width, height)
        scale = 1 / (cosine + shape * abs(sine)) if cropped else 1.0
        turned = _about_centre(
            [[scale * cosine, -scale * sine * height / width], [scale * sine * width / height, scale * cosine]]
        )
        return _after(turned, _window(*[cut / 100] * 4))

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


def inner_picture(picture: Picture, thumbnail: Picture) -> Picture | None:
    """A square picture without the uniform borders of its thumbnail, as large as before; None where they are narrow."""
    matrix = _trimmed(thumbnail, 1, 1)
    if matrix is None or min(matrix[0, 0], matrix[1, 1]) > 1 - WIDE_BORDERS:
        return None
    (across, _, left), (_, down, top) = (matrix * len(picture)).tolist()
    inner = Image.fromarray(picture).resize(
        picture.shape, Image.Resampling.BILINEAR, (left, top, left + across, top + down)
    )
    return np.asarray(inner)


def without_borders(thumbnails: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Which of n training thumbnails have wide borders, and these without them: no list of pads has every width."""
    kept = np.full(len(thumbnails), THUMBNAIL_PIXELS)
    for axis in (1, 2):  # all at once: most have none
        inner = thumbnails.max(axis) - thumbnails.min(axis) > BORDER_RANGE
        kept = np.minimum(kept, THUMBNAIL_PIXELS - inner.argmax(1) - inner[:, ::-1].argmax(1))
    wide = np.flatnonzero(kept <= (1 - WIDE_BORDERS) * THUMBNAIL_PIXELS).tolist()
    inners = ((at, inner_picture(thumbnails[at], thumbnails[at])) for at in wide)
    found = {at: inner for at, inner in inners if inner is not None}
    pictures = np.array(list(found.values()), np.uint8).reshape(-1, *thumbnails.shape[1:])
    return np.array(list(found), np.int64), pictures


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


def _rainbow() -> NDArray[np.float64]:
    """Grey levels (BT.601) of the colours that the map `jet` gives to 256 grey levels."""
    red, green, blue = (np.clip(1.5 - np.abs(4 * _GREY / 255 - peak), 0, 1) for peak in (3, 2, 1))
    return np.asarray(255 * (0.299 * red + 0.587 * green + 0.114 * blue))


def _turn_matrix(turn: int) -> Matrix:
    """Where each point of the turned picture lies in the picture."""
    across, down = (-1 if turn & ACROSS else 1), (-1 if turn & DOWN else 1)
    return _about_centre([[0, down], [across, 0]] if turn & TRANSPOSED else [[across, 0], [0, down]])


TURN_MATRICES = np.stack([_turn_matrix(turn) for turn in range(TURNS)])
_TURN_NAMES = {
    (1, 0, 0, 1): "", (-1, 0, 0, 1): "mirror", (0, -1, 1, 0): "turn_90", (-1, 0, 0, -1): "turn_180",
    (0, 1, -1, 0): "turn_270", (0, 1, 1, 0): "mirror_turn_90", (1, 0, 0, -1): "mirror_turn_180",
    (0, -1, -1, 0): "mirror_turn_270",
}  # fmt: skip


def _between(first: int, second: int) -> int:
    """The turn that brings a picture oriented by `second` onto one oriented by `first`: that one's undone after it."""
    linear = TURN_MATRICES[second][:, :2] @ np.linalg.inv(TURN_MATRICES[first][:, :2])
    geometric = [turn for turn in range(0, TURNS, 2) if np.allclose(TURN_MATRICES[turn][:, :2], linear)]
    return geometric[0] | ((first ^ second) & INVERTED)


TURN_BETWEEN = np.array([[_between(first, second) for second in range(TURNS)] for first in range(TURNS)])
"""By the turns that orient a training picture and a variant: the turn in which the picture shows the variant."""


def _region_shown(turn: int, region: int) -> int:
    """The region of a picture that lies at a region of the turned picture."""
    places = [np.array([j - 1, i - 1]) / 4 for i, j in _PARTS_AT[:-1]]
    there = TURN_MATRICES[turn][:, :2] @ places[region]
    return next(other for other, place in enumerate(places) if np.allclose(place, there))


REGION_SHOWN = np.array([[_region_shown(turn, region) for region in range(len(REGIONS))] for turn in range(TURNS)])


def turn_name(variant: Variant, turn: int, bared: bool = False) -> str:
    """A variant and the turn after it, in words: `identity`, `inverted_mirror`, `crop_8+turn_90`.

    `bared`: the training picture shows it without its wide borders (`without_borders+crop_8`).
    """
    geometric = _TURN_NAMES[tuple(TURN_MATRICES[turn][:, :2].astype(int).ravel().tolist())]
    words = "_".join(filter(None, ("inverted" if turn & INVERTED else "", geometric)))
    plain = "" if variant.name == "identity" else variant.name
    return "+".join(filter(None, ("without_borders" if bared else "", plain, words))) or variant.name


def turned(picture: Picture, turn: int) -> Picture:
    """A square picture turned; values of any signed type are reversed in sign, grey values in place."""
    result = picture.T if turn & TRANSPOSED else picture
    if turn & ACROSS:
        result = result[:, ::-1]
    if turn & DOWN:
        result = result[::-1]
    return 255 - result if turn & INVERTED else result


def _all_variants() -> tuple[Variant, ...]:
    same = _constant(IDENTITY)
    tones = {
        "equalised": _equalised, "adaptive": _adaptive, "contrast_1.6": _curve(128 + 1.6 * (_GREY - 128)),
        "gamma_0.6": _curve(255 * (_GREY / 255) ** 0.6), "gamma_1.6": _curve(255 * (_GREY / 255) ** 1.6),
    }  # fmt: skip
    found = [Variant("identity", same)]
    found += [Variant(f"crop_{p}", _constant(_window(*[p / 100] * 4))) for p in CROPS]
    found += [
        Variant(f"crop_{p}_{tone}", _constant(_window(*[p / 100] * 4)), tones[tone])
        for p in (8, 12)
        for tone in ("equalised", "adaptive")
    ]
    for i, side in enumerate(("left", "top", "right", "bottom")):
        found += [
            Variant(f"shaved_{side}_{p}", _constant(_window(*[p / 100 * (i == j) for j in range(4)]))) for p in SHAVES
        ]
    for degrees in (-3.0, 3.0):
        found.append(Variant(f"rotated_{degrees:+g}_cropped", _rotation(degrees, cropped=True)))
        found.append(Variant(f"rotated_{degrees:+g}_cropped_8", _rotation(degrees, cropped=True, cut=8)))
    for colour, fill in (("black", 0), ("white", 255)):
        found += [Variant(f"pad_{colour}_{p:g}", _constant(_window(*[-p / 100] * 4)), fill=fill) for p in PADS]
        found += [
            Variant(f"square_{colour}{name}", _square(inside=False, at=at), fill=fill)
            for name, at in (("", 0.5), ("_first", 0.0), ("_last", 1.0))
        ]
        for degrees in (-3.0, 3.0):
            frame = _rotation(degrees, cropped=False, cut=-10)
            found.append(Variant(f"rotated_{degrees:+g}_pad_{colour}_10", frame, fill=fill))
    for degrees in (-3.0, -1.5, 1.5, 3.0):
        found.append(Variant(f"rotated_{degrees:+g}", _rotation(degrees, cropped=False)))
    # 256 pixels on the shorter side, and the middle 224: how networks are fed.
    found += [Variant("square_crop", _square(inside=True)), Variant("square_crop_6", _square(inside=True, cut=1 / 16))]
    found.append(Variant("trimmed", _trimmed))
    found += [Variant(name, same, tone) for name, tone in tones.items()]
    found += [
        Variant("bright_2", same, _curve(2 * _GREY), compared_toned=True),
        Variant("rainbow", same, _curve(_rainbow()), compared_toned=True),
    ]
    return tuple(found)


VARIANTS = _all_variants()
"""All variants; the first is the picture itself. Rotations are counter-clockwise, in degrees; the other numbers are
shares of a side in per cent. Each is found in all sixteen turns."""


def plain_hashes(thumbnail: Picture, width: int, height: int) -> set[int]:
    """Perceptual hashes of all variants as they are and of all turns of the picture, for lists of stored hashes."""
    varied = [variant.picture(thumbnail, width, height) for variant in VARIANTS]
    pictures = [picture for picture in varied if picture is not None]
    pictures += [np.ascontiguousarray(turned(thumbnail, turn)) for turn in range(1, TURNS)]
    return set(perceptual_hashes(np.stack(pictures)).tolist())
