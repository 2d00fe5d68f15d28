"""Picture fingerprints, against Pillow, imagehash and hand-made files."""

from __future__ import annotations

import io
import struct
import zlib

import imagehash
import numpy as np
import pytest
from conftest import REAL_DATA
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from manifests.fingerprints import fingerprint
from medgpt.containers import DamagedImage
from medgpt.formats import format_of
from medgpt.pictures import to_store
from medgpt.tiles import tile_count, tile_grid

SECRET = b"DOE^JANE 19400101"


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    raw = np.random.PCG64(seed).random_raw(width * height * 3 // 8 + 1).view(np.uint8)[: width * height * 3]
    picture = Image.fromarray(raw.reshape(height, width, 3)).resize((width, height))
    return picture.convert(mode)


def smooth(width: int, height: int, seed: int = 0) -> Image.Image:
    return noise(12, 9, "L", seed).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> bytes:
    return Image.open(io.BytesIO(data)).convert("RGB").tobytes()


def jpeg_with_metadata(image: Image.Image, orientation: int = 1, **options: object) -> bytes:
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x0112] = orientation
    data = encoded(image, "JPEG", exif=exif, comment=SECRET, icc_profile=b"\x00" * 200 + SECRET, **options)
    app13 = b"\xff\xed" + struct.pack(">H", len(SECRET) + 2) + SECRET
    return data[:2] + app13 + data[2:] + b"trailing " + SECRET


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_stored_upright(orientation: int) -> None:
    data = jpeg_with_metadata(smooth(200, 140), orientation)
    stored = to_store(data)
    assert SECRET not in stored.data
    assert stored.converted == (None if orientation == 1 else "turned")
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert pixels(stored.data) == upright.convert("RGB").tobytes()
    found = fingerprint(stored.data)
    assert (found.width, found.height) == upright.size
    assert bin(found.phash ^ int(str(imagehash.phash(upright)), 16)).count("1") <= 4


@settings(max_examples=150, deadline=None)
@given(cut=st.floats(0, 0.98), kind=st.sampled_from(["JPEG", "PNG"]))
def test_a_file_cut_anywhere_in_its_picture_is_none(cut: float, kind: str) -> None:
    data = encoded(noise(64, 48), kind)
    piece = data[: int(cut * len(data))]
    with pytest.raises(DamagedImage) as caught:
        to_store(piece)
    assert caught.value.reason == ("truncated_image" if format_of(piece) else "corrupt_image")


@settings(max_examples=200, deadline=None)
@given(place=st.integers(3, 10**6), value=st.integers(0, 255), kind=st.sampled_from(["JPEG", "PNG"]))
def test_damage_never_escapes_as_another_error(place: int, value: int, kind: str) -> None:
    data = bytearray(encoded(noise(64, 48), kind))
    data[8 + place % (len(data) - 8)] = value
    try:
        fingerprint(to_store(bytes(data)).data)
    except DamagedImage as error:
        assert error.reason in {"truncated_image", "corrupt_image", "image_too_large", "several_frames"}


def test_hash_is_that_of_imagehash() -> None:
    for seed in range(40):
        picture = smooth(150 + 7 * seed, 130 + 3 * seed, seed)
        found = fingerprint(to_store(encoded(picture, "PNG")).data)
        assert f"{found.phash:016x}" == str(imagehash.phash(picture))
        assert found.phash.bit_count() == 32


def test_hash_of_a_flat_picture_is_defined() -> None:
    for grey in (0, 90, 255):
        assert fingerprint(to_store(encoded(Image.new("L", (64, 64), grey), "PNG")).data).phash in (0, 1 << 63)


def test_hash_of_real_pictures_is_that_of_imagehash() -> None:
    files = sorted(REAL_DATA.glob("cxr_mimic_layout/**/*.jpg")) + sorted(REAL_DATA.glob("artifacts/images/*"))
    if not files:
        pytest.skip(f"no real pictures at {REAL_DATA}")
    for file in files:
        stored = to_store(file.read_bytes())
        if stored.converted is None:
            assert pixels(stored.data) == pixels(file.read_bytes()), file
        opened = Image.open(io.BytesIO(stored.data))
        opened.draft("L", (128, 128))
        assert f"{fingerprint(stored.data).phash:016x}" == str(imagehash.phash(opened)), file


def test_equal_coded_pictures_have_equal_pixel_digests() -> None:
    picture = smooth(400, 300)
    plain = fingerprint(to_store(encoded(picture, "JPEG", quality=90)).data)
    same = fingerprint(to_store(jpeg_with_metadata(picture, quality=90, progressive=True)).data)
    other = fingerprint(to_store(encoded(picture, "JPEG", quality=60)).data)
    assert plain.pixel_sha256 == same.pixel_sha256
    assert plain.pixel_sha256 != other.pixel_sha256
    packed = [encoded(picture, "PNG", compress_level=level) for level in (0, 9)]
    assert packed[0] != packed[1]
    first, second = (fingerprint(to_store(data).data) for data in packed)
    assert first == second
    # A JPEG and a PNG made from it meet at the near-image level.
    remade = fingerprint(to_store(encoded(Image.open(io.BytesIO(encoded(picture, "JPEG", quality=90))), "PNG")).data)
    assert (remade.phash ^ plain.phash).bit_count() <= 4


def test_thumbnail_is_a_small_grey_jpeg() -> None:
    found = fingerprint(to_store(encoded(smooth(400, 300), "JPEG")).data)
    opened = Image.open(io.BytesIO(found.thumbnail))
    assert (opened.size, opened.mode, opened.format) == ((96, 96), "L", "JPEG")
    assert len(found.thumbnail) < 4000


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def bomb() -> bytes:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )


def animated() -> bytes:
    return encoded(noise(20, 20), "PNG", save_all=True, append_images=[noise(20, 20, seed=2)])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bomb(), "image_too_large"),
        (animated(), "several_frames"),
        (b"<html><body>404 Not Found</body></html>", "corrupt_image"),
        (encoded(noise(50, 40), "PNG").replace(b"IDAT", b"IDAX"), "truncated_image"),
    ],
)
def test_unusable_pictures_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DamagedImage) as caught:
        fingerprint(to_store(data).data)
    assert caught.value.reason == reason


def reference_tiles(width: int, height: int, limit: int) -> int:
    """Brute force over all grids, written from the rule's description."""

    def key(grid: tuple[int, int]) -> float:
        return abs(width / height - grid[0] / grid[1])

    grids = [(i, j) for i in range(1, limit + 1) for j in range(1, limit + 1) if i * j <= limit]
    closest = [grid for grid in grids if key(grid) == min(map(key, grids))]
    closest.sort(key=lambda grid: grid[0] * grid[1])
    chosen = closest[0]
    for grid in closest[1:]:
        if width * height > 0.5 * 336 * 336 * grid[0] * grid[1]:
            chosen = grid
    tiles = chosen[0] * chosen[1]
    return tiles + (tiles > 1)


@given(width=st.integers(1, 6000), height=st.integers(1, 6000), n_images=st.integers(1, 14))
def test_tile_count_follows_the_rule(width: int, height: int, n_images: int) -> None:
    assert tile_count(width, height, n_images) == reference_tiles(width, height, max(1, 12 // n_images))


def test_tile_counts_known_from_the_reference() -> None:
    sizes = {(640, 480): 13, (512, 512): 5, (1024, 1024): 10, (1376, 960): 7, (336, 336): 1}
    assert {size: tile_count(*size) for size in sizes} == sizes
    assert tile_grid(640, 480) == (4, 3)
