"""Lossless metadata removal and picture fingerprints, against Pillow, imagehash and hand-made files."""

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
from PIL import Image, ImageOps, PngImagePlugin

from manifests.fingerprints import fingerprint
from medgpt.strip import DamagedImage, sniff, strip_metadata
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


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_keeps_its_pixels_and_loses_its_metadata(mode: str, options: dict[str, object]) -> None:
    data = jpeg_with_metadata(noise(90, 70, mode), **options)
    assert data.count(SECRET) == 5
    stripped = strip_metadata(data)
    assert SECRET not in stripped.data
    assert pixels(stripped.data) == pixels(data)
    assert strip_metadata(stripped.data).data is stripped.data


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_survives(orientation: int) -> None:
    picture = smooth(200, 140)
    data = jpeg_with_metadata(picture, orientation)
    stripped = strip_metadata(data)
    assert SECRET not in stripped.data
    assert stripped.orientation == orientation
    assert Image.open(io.BytesIO(stripped.data)).getexif().get(0x0112, 1) == orientation
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    found = fingerprint(stripped)
    assert (found.width, found.height) == upright.size
    assert bin(found.phash ^ int(str(imagehash.phash(upright)), 16)).count("1") <= 4


def test_png_keeps_its_pixels_and_loses_its_metadata() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Patient", SECRET.decode())
    text.add_itxt("Comment", SECRET.decode())
    text.add_text("Compressed", SECRET.decode() * 9, zip=True)
    exif = Image.Exif()
    exif[0x010E] = SECRET.decode()
    exif[0x0112] = 6
    palette = noise(60, 40).quantize(16)
    palette.info["transparency"] = 3
    for picture in (noise(60, 40), noise(60, 40, "L"), noise(60, 40, "RGBA"), palette, noise(60, 40, "1")):
        data = encoded(picture, "PNG", pnginfo=text, exif=exif) + SECRET
        stripped = strip_metadata(data)
        assert SECRET not in stripped.data
        assert b"Patient" not in stripped.data
        assert Image.open(io.BytesIO(stripped.data)).convert("RGBA").tobytes() == picture.convert("RGBA").tobytes()
        assert Image.open(io.BytesIO(stripped.data)).getexif()[0x0112] == 6
        assert strip_metadata(stripped.data).data == stripped.data


@settings(max_examples=150, deadline=None)
@given(cut=st.floats(0, 1, exclude_max=True), kind=st.sampled_from(["JPEG", "PNG"]))
def test_a_file_cut_anywhere_is_truncated(cut: float, kind: str) -> None:
    data = encoded(noise(64, 48), kind)
    piece = data[: int(cut * len(data))]
    if sniff(piece) is None:
        with pytest.raises(ValueError, match="neither"):
            strip_metadata(piece)
    else:
        with pytest.raises(DamagedImage) as caught:
            strip_metadata(piece)
        assert caught.value.reason == "truncated_image"


@settings(max_examples=200, deadline=None)
@given(place=st.integers(3, 10**6), value=st.integers(0, 255), kind=st.sampled_from(["JPEG", "PNG"]))
def test_damage_never_escapes_as_another_error(place: int, value: int, kind: str) -> None:
    data = bytearray(encoded(noise(64, 48), kind))
    data[8 + place % (len(data) - 8)] = value
    try:
        fingerprint(strip_metadata(bytes(data)))
    except DamagedImage as error:
        assert error.reason in {
            "truncated_image",
            "corrupt_image",
            "image_too_large",
            "sixteen_bit_image",
            "cmyk_image",
        }


def test_hash_is_that_of_imagehash() -> None:
    for seed in range(40):
        picture = smooth(150 + 7 * seed, 130 + 3 * seed, seed)
        found = fingerprint(strip_metadata(encoded(picture, "PNG")))
        assert f"{found.phash:016x}" == str(imagehash.phash(picture))
        assert found.phash.bit_count() == 32


def test_hash_of_a_flat_picture_is_defined() -> None:
    for grey in (0, 90, 255):
        assert fingerprint(strip_metadata(encoded(Image.new("L", (64, 64), grey), "PNG"))).phash in (0, 1 << 63)


def test_hash_of_real_pictures_is_that_of_imagehash() -> None:
    files = sorted(REAL_DATA.glob("cxr_mimic_layout/**/*.jpg")) + sorted(REAL_DATA.glob("artifacts/images/*"))
    if not files:
        pytest.skip(f"no real pictures at {REAL_DATA}")
    for file in files:
        stripped = strip_metadata(file.read_bytes())
        assert pixels(stripped.data) == pixels(file.read_bytes()), file
        opened = Image.open(io.BytesIO(stripped.data))
        opened.draft("L", (128, 128))
        assert f"{fingerprint(stripped).phash:016x}" == str(imagehash.phash(opened)), file


def test_equal_coded_pictures_have_equal_pixel_digests() -> None:
    picture = smooth(400, 300)
    plain = fingerprint(strip_metadata(encoded(picture, "JPEG", quality=90)))
    same = fingerprint(strip_metadata(jpeg_with_metadata(picture, quality=90, progressive=True)))
    other = fingerprint(strip_metadata(encoded(picture, "JPEG", quality=60)))
    assert plain.pixel_sha256 == same.pixel_sha256
    assert plain.pixel_sha256 != other.pixel_sha256
    packed = [encoded(picture, "PNG", compress_level=level) for level in (0, 9)]
    assert packed[0] != packed[1]
    first, second = (fingerprint(strip_metadata(data)) for data in packed)
    assert first == second
    # A JPEG and a PNG made from it meet at the near-image level.
    remade = fingerprint(strip_metadata(encoded(Image.open(io.BytesIO(encoded(picture, "JPEG", quality=90))), "PNG")))
    assert (remade.phash ^ plain.phash).bit_count() <= 4


def test_thumbnail_is_a_small_grey_jpeg() -> None:
    found = fingerprint(strip_metadata(encoded(smooth(400, 300), "JPEG")))
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
        (encoded(noise(50, 40).convert("CMYK"), "JPEG"), "cmyk_image"),
        (encoded(noise(50, 40, "L").convert("I;16"), "PNG"), "sixteen_bit_image"),
        (bomb(), "image_too_large"),
        (animated(), "animated_image"),
        (encoded(noise(50, 40), "PNG").replace(b"IDAT", b"IDAX"), "corrupt_image"),
    ],
)
def test_unusable_pictures_have_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(DamagedImage) as caught:
        fingerprint(strip_metadata(data))
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
