"""From a stored sample to what filters see, and the reasons why a sample cannot be shown to them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

from PIL import Image, UnidentifiedImageError

from filters.base import Picture, Record, UnreadablePicture
from manifests.fingerprints import MAX_PIXELS
from shards.reader import StoredSample

MIN_SIDE, MAX_SIDE = 16, 16_384
"""Pixels. Below, there is nothing to see; above, it is a scan of a whole slide, not a figure: decoding a side of 20,000
pixels takes gigabytes and seconds."""
INTAKE = f"1/{MIN_SIDE}-{MAX_SIDE}-{MAX_PIXELS}"
"""Version of these rules; part of what makes scores out of date."""

CAPTION_REASONS = ("empty_caption",)
PICTURE_REASONS = ("image_too_small", "image_too_large", "truncated_image", "corrupt_image")
"""Why a sample has no scores. A recipe says what becomes of it: `unreadable`."""


def caption_reason(record: Record) -> str | None:
    """`empty_caption` where there is no text to judge."""
    return None if record.caption.strip() else "empty_caption"


def decode(sample: StoredSample) -> Sequence[Picture]:
    """The pictures of a sample. Raises: `UnreadablePicture` for the first that is too small, too large or damaged."""
    return [_picture(data) for data in sample.images]


def _picture(data: bytes) -> Picture:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is stricter
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as opened:
                width, height = opened.size
    except Image.DecompressionBombError as error:
        raise UnreadablePicture("image_too_large", str(error)) from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise UnreadablePicture("corrupt_image", str(error)) from error
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UnreadablePicture("image_too_large", f"{width} x {height} pixels")
    if min(width, height) < MIN_SIDE:
        raise UnreadablePicture("image_too_small", f"{width} x {height} pixels")
    return Picture(data)
