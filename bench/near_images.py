"""Near-duplicate pictures: recall a transformation, precision, and speed, on real pictures (see `measure`)."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

LONGEST = 1024
"""Longest side of a picture before it is changed, in pixels (as in the survey the transformations come from)."""


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    opened.load()
    return opened


def _blur(picture: Image.Image) -> Image.Image:
    return _scaled(picture, 1 / 6).resize(picture.size, Image.Resampling.BICUBIC)


def _tone(picture: Image.Image, curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Image.Image:
    table = np.clip(np.rint(curve(np.arange(256, dtype=np.float64))), 0, 255).astype(int)
    return picture.point(table.tolist())


def clahe(picture: Image.Image, clip: float = 2.0, tiles: int = 8) -> Image.Image:
    """Contrast-limited adaptive histogram equalisation: `tiles` x `tiles` histograms cut at `clip` times their mean."""
    grey = np.asarray(picture)
    height, width = grey.shape
    rows, columns = (np.linspace(0, n, tiles + 1).astype(int) for n in (height, width))
    tables = np.zeros((tiles, tiles, 256))
    for i in range(tiles):
        for j in range(tiles):
            tile = grey[rows[i] : max(rows[i + 1], rows[i] + 1), columns[j] : max(columns[j + 1], columns[j] + 1)]
            counts = np.bincount(tile.ravel(), minlength=256).astype(float)
            limit = clip * tile.size / 256
            counts = np.minimum(counts, limit) + np.maximum(counts - limit, 0).sum() / 256
            tables[i, j] = 255 * counts.cumsum() / counts.sum()

    def between(length: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        position = np.clip((np.arange(length) + 0.5) * tiles / length - 0.5, 0, tiles - 1)
        first = np.minimum(position.astype(np.int64), tiles - 2)
        return first, first + 1, position - first

    (y0, y1, fy), (x0, x1, fx) = between(height), between(width)
    top = tables[y0[:, None], x0, grey] * (1 - fx) + tables[y0[:, None], x1, grey] * fx
    bottom = tables[y1[:, None], x0, grey] * (1 - fx) + tables[y1[:, None], x1, grey] * fx
    return Image.fromarray(np.rint(top * (1 - fy[:, None]) + bottom * fy[:, None]).astype(np.uint8))


def _label(picture: Image.Image) -> Image.Image:
    changed = picture.copy()
    height = max(6, round(0.06 * picture.height))
    box = (0, 0, max(8, round(0.4 * picture.width)), height)
    draw = ImageDraw.Draw(changed)
    draw.rectangle(box, fill=0)
    font = ImageFont.load_default(size=max(5, round(0.75 * height)))
    words = "AP PORTABLE 1234567"
    while font.getlength(words) > box[2] * 0.96 and len(words) > 2:
        words = words[:-1]
    draw.text((box[2] // 2, height // 2), words, fill=255, font=font, anchor="mm")
    return changed


def _crop(picture: Image.Image, share: float) -> Image.Image:
    x, y = round(share * picture.width), round(share * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def _pad(picture: Image.Image, share: float) -> Image.Image:
    x, y = round(share * picture.width), round(share * picture.height)
    changed = Image.new("L", (picture.width + 2 * x, picture.height + 2 * y), 0)
    changed.paste(picture, (x, y))
    return changed


def _square(picture: Image.Image, fill: int) -> Image.Image:
    side = max(picture.size)
    changed = Image.new("L", (side, side), fill)
    changed.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return changed


def _rotated(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, Image.Resampling.BICUBIC)


TRANSFORMATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 30": lambda p: _jpeg(p, 30),
    "half size": lambda p: _scaled(p, 0.5),
    "squeezed to 256x256": lambda p: p.resize((256, 256), Image.Resampling.LANCZOS),
    "down 6x and up again": _blur,
    "gamma 0.6": lambda p: _tone(p, lambda x: 255 * (x / 255) ** 0.6),
    "contrast x1.6": lambda p: _tone(p, lambda x: 128 + 1.6 * (x - 128)),
    "CLAHE": clahe,
    "text label": _label,
    "rotated 3 degrees": lambda p: _rotated(p, 3),
    "cropped 3 % a side": lambda p: _crop(p, 0.03),
    "cropped 8 % a side": lambda p: _crop(p, 0.08),
    "cropped 15 % a side": lambda p: _crop(p, 0.15),
    "padded 10 % black": lambda p: _pad(p, 0.10),
    "inverted": lambda p: _tone(p, lambda x: 255 - x),
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "quarter turn": lambda p: p.transpose(Image.Transpose.ROTATE_90),
}
"""The transformations of the promise: each is found at >= 0.99 recall."""

BETWEEN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped 5 % a side": lambda p: _crop(p, 0.05),
    "cropped 11 % a side": lambda p: _crop(p, 0.11),
    "padded 5 % black": lambda p: _pad(p, 0.05),
    "rotated 1.5 degrees": lambda p: _rotated(p, 1.5),
    "rotated -2 degrees": lambda p: _rotated(p, -2),
    "square, black bars": lambda p: _square(p, 0),
    "square, white bars": lambda p: _square(p, 255),
}
"""Values between those that the variants are made for, as information."""
