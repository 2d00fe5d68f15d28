"""Tiles: counts are the manifest's, pixels are those of the published rule written out a second time."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medgpt.errors import UserError
from medgpt.tiles import tile_count, tile_grid
from train.tiling import CLIP_MEAN, CLIP_STD, Tiling

SIZES = st.integers(1, 1400)


def encoded(picture: Image.Image, form: str = "PNG") -> bytes:
    stream = io.BytesIO()
    picture.save(stream, form)
    return stream.getvalue()


def noise(width: int, height: int, mode: str = "RGB", seed: int = 0) -> Image.Image:
    shape = (height, width) if mode == "L" else (height, width, 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8), mode)


def published_rule(picture: Image.Image, n_images: int, side: int) -> list[Image.Image]:
    """InternVL's `dynamic_preprocess`, step by step: resize, crop each box, thumbnail."""
    columns, rows = tile_grid(picture.width, picture.height, n_images)
    wide = picture.resize((side * columns, side * rows))
    crops = [
        wide.crop(((i % columns) * side, (i // columns) * side, (i % columns + 1) * side, (i // columns + 1) * side))
        for i in range(columns * rows)
    ]
    return crops if len(crops) == 1 else [*crops, picture.resize((side, side))]


@settings(max_examples=25)
@given(SIZES, SIZES, st.integers(1, 14))
def test_counts_are_the_manifests(width: int, height: int, n_images: int) -> None:
    tiling = Tiling(size=8)  # the count does not depend on a tile's pixels
    tiles = tiling.cut(encoded(Image.new("L", (width, height))), "x", n_images)
    assert tiles.shape == (tile_count(width, height, n_images), 8, 8, 3)


@pytest.mark.parametrize(("width", "height"), [(640, 480), (512, 512), (336, 336), (300, 900), (1000, 334)])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("n_images", [1, 3])
def test_pixels_are_those_of_the_published_rule(width: int, height: int, mode: str, n_images: int) -> None:
    picture = noise(width, height, mode)
    tiles = Tiling().cut(encoded(picture), "x", n_images)
    expected = published_rule(picture.convert("RGB"), n_images, 336)
    assert len(tiles) == len(expected)
    for tile, crop in zip(tiles, expected, strict=True):
        assert np.array_equal(tile, np.asarray(crop))


def test_pictures_of_a_sample_share_the_tiles() -> None:
    pictures = [encoded(noise(640, 480, seed=i)) for i in range(3)]
    together = Tiling().cut_all(pictures, "x")
    assert len(Tiling().cut(pictures[0], "x")) == 13
    assert [len(tiles) for tiles in together] == [tile_count(640, 480, 3)] * 3
    assert max(len(tiles) for tiles in together) <= 5


def test_an_upright_picture_is_cut_as_the_manifest_measured_it() -> None:
    """A stored JPEG may keep an orientation; width and height in the manifest are those of the upright picture."""
    picture = noise(400, 1200)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    stream = io.BytesIO()
    picture.transpose(Image.Transpose.ROTATE_90).save(stream, "PNG", exif=exif)
    assert np.array_equal(Tiling().cut(stream.getvalue(), "x"), Tiling().cut(encoded(picture), "x"))


@settings(max_examples=200)
@given(SIZES, SIZES, st.integers(1, 6), st.floats(0.1, 4))
def test_the_cap_only_takes_tiles_away(width: int, height: int, n_images: int, enlargement: float) -> None:
    capped = Tiling(max_enlargement=enlargement)
    columns, rows = capped.grid(width, height, n_images)
    assert columns * rows <= max(1, enlargement * width * height / 336**2)
    assert columns * rows <= max(1, 12 // n_images)
    plain = tile_grid(width, height, n_images)
    assert Tiling(max_enlargement=1e9).grid(width, height, n_images) == plain
    assert Tiling().grid(width, height, n_images) == plain


def test_the_cap_on_a_small_picture_of_an_odd_shape() -> None:
    assert (Tiling().grid(640, 480), Tiling(max_enlargement=1.0).grid(640, 480)) == ((4, 3), (1, 1))


@pytest.mark.parametrize("mode", ["1", "P", "LA", "RGBA"])
def test_other_modes_are_read_as_rgb(mode: str) -> None:
    picture = noise(336, 336).convert(mode)
    assert np.array_equal(Tiling().cut(encoded(picture), "x")[0], np.asarray(picture.convert("RGB")))


def test_what_is_no_picture_is_named() -> None:
    for data in (b"", b"not a picture", encoded(noise(50, 50), "JPEG")[:-200]):
        with pytest.raises(UserError, match="s/1, picture 0: cannot be decoded"):
            Tiling().cut_all([data], "s/1")


def test_normalisation_is_clips() -> None:
    torch = pytest.importorskip("torch")
    pixels = noise(336, 336)
    tiles = torch.from_numpy(Tiling().cut(encoded(pixels), "x"))
    values = Tiling().normalise(tiles, torch.float32)
    assert values.shape == (1, 3, 336, 336)
    expected = (np.asarray(pixels, np.float64) / 255 - CLIP_MEAN) / CLIP_STD
    assert np.allclose(values[0].permute(1, 2, 0).numpy(), expected, atol=1e-5)
    open_clip = pytest.importorskip("open_clip")
    assert open_clip.OPENAI_DATASET_MEAN == CLIP_MEAN
    assert open_clip.OPENAI_DATASET_STD == CLIP_STD


def test_the_stock_processor_cuts_alike() -> None:
    """The exported model carries it: same tiles in the same order, pixels apart by resampling only."""
    pytest.importorskip("transformers")
    tiling = Tiling()
    processor = tiling.processor()
    smooth = Image.fromarray(np.add.outer(np.arange(480) // 3, np.arange(640) // 8).astype(np.uint8)).convert("RGB")
    import torch

    theirs = processor([smooth], return_tensors="pt")
    ours = tiling.normalise(torch.from_numpy(tiling.cut(encoded(smooth), "x")), torch.float32)
    assert theirs["pixel_values"].shape == ours.shape == (13, 3, 336, 336)
    assert (theirs["pixel_values"] - ours).abs().max() < 0.05  # three of 255 grey values
    sizes = np.random.default_rng(0).integers(60, 3000, (200, 2)).tolist()
    cut = [columns * rows for columns, rows in (tiling.grid(*size) for size in sizes)]
    assert [processor.get_number_of_image_patches(h, w) for w, h in sizes] == [tiles + (tiles > 1) for tiles in cut]


def test_real_pictures(real_data: Path) -> None:
    paths = sorted(p for p in real_data.rglob("*") if p.suffix.lower() in (".jpg", ".png"))[:20]
    if not paths:
        pytest.skip("no real pictures")
    for path in paths:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as opened:
            width, height = opened.size
        assert len(Tiling().cut(data, path.name)) == tile_count(width, height)
