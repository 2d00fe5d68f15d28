"""Fingerprints of a picture from one decode: canonical pixels, perceptual hash, thumbnail, size.

Canonical pixels are grey (mode L) and upright, as `medgpt.pictures` opens them. A JPEG is decoded straight to the
smallest of the scales 1, 1/2, 1/4, 1/8 at which both sides keep at least 128 pixels: libjpeg then skips most of the
inverse DCT, which makes radiographs 2 to 5 times faster and moves the hash by at most 4 bits (measured:
reference/near_duplicates.md). Other formats are decoded whole. Hence `pixel_sha256` is equal for files that hold the
same coded picture: JPEGs that differ in metadata, Huffman tables or progressive order, PNGs that differ in compression.
A PNG made from a JPEG differs here and is found as a near image.

The perceptual hash is that of `imagehash.phash` (hash size 8, high-frequency factor 4) in exact integer arithmetic, so
that no CPU's rounding can flip a bit; the tests compare the two.
"""

import hashlib
import io
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, features

from medgpt.containers import GREY_AT_LEAST
from medgpt.pictures import PICTURE_RULES, Opened, opened

HASH_PIXELS = 32
HASH_SIZE = 8
THUMBNAIL_PIXELS = 96
THUMBNAIL_QUALITY = 80
IMAGE_RECIPE = (
    f"pictures{PICTURE_RULES}/draft{GREY_AT_LEAST}-L/phash{HASH_SIZE}x{HASH_SIZE}-lanczos{HASH_PIXELS}/thumb{THUMBNAIL_PIXELS}-q{THUMBNAIL_QUALITY}"
    f"/pillow-{PIL.__version__}/libjpeg-{features.version('libjpeg_turbo') or features.version('jpg')}"
)
"""Hashes are comparable only under the same recipe; it stands in every manifest part."""

# Rows of the 32-point DCT-II (scipy.fftpack's unnormalised convention up to a common factor), scaled to integers:
# 255 * 32 * 2^20 * 32 * 2^20 < 2^59, so two passes fit 64 bits exactly.
_n = np.arange(HASH_PIXELS)
_DCT = np.rint(2**20 * np.cos(np.pi * (2 * _n + 1) * np.arange(HASH_SIZE)[:, None] / (2 * HASH_PIXELS))).astype(
    np.int64
)
_BIT_VALUES = np.left_shift(np.uint64(1), np.arange(HASH_SIZE**2 - 1, -1, -1, dtype=np.uint64))


@dataclass(frozen=True)
class ImageFingerprint:
    """What the manifest keeps of a picture."""

    width: int
    height: int
    pixel_sha256: bytes
    phash: int
    """64 bits; the first DCT coefficient is the highest bit, as in `str(imagehash.phash(...))`."""
    thumbnail: bytes
    """Grey JPEG, 96 x 96, aspect ratio not kept (as for the hash)."""


def fingerprint(data: bytes, found: Opened | None = None) -> ImageFingerprint:
    """Decode a picture once and fingerprint it; JPEG and PNG as stored, other formats as `to_store` makes them.

    `found` is the picture in grey where `to_store` has decoded it. Raises: `medgpt.containers.DamagedImage` with a
    reject's reason.
    """
    found = found or opened(data, "L", at_least=GREY_AT_LEAST)
    width, height, grey = found.width, found.height, found.image
    pixels = hashlib.sha256(f"{width}x{height}/{grey.width}x{grey.height}:".encode())
    pixels.update(grey.tobytes())
    return ImageFingerprint(width, height, pixels.digest(), perceptual_hash(grey), _thumbnail(grey))


def perceptual_hash(grey: Image.Image) -> int:
    """64-bit pHash of a mode-L image: which of the 8 x 8 lowest DCT coefficients exceed their median.

    Half of the bits are ones unless coefficients tie, so that distances between two hashes are even.
    """
    small = np.asarray(grey.resize((HASH_PIXELS, HASH_PIXELS), Image.Resampling.LANCZOS), dtype=np.int64)
    low = (_DCT @ small @ _DCT.T).ravel()
    ordered = np.sort(low)
    middle = ordered[HASH_SIZE**2 // 2 - 1], ordered[HASH_SIZE**2 // 2]
    # x > (a + b) / 2 without a division; the sums stay within 64 bits.
    return int(_BIT_VALUES[2 * low > middle[0] + middle[1]].sum(dtype=np.uint64))


def _thumbnail(grey: Image.Image) -> bytes:
    buffer = io.BytesIO()
    small = grey.resize((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Image.Resampling.BILINEAR, reducing_gap=2.0)
    small.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()
