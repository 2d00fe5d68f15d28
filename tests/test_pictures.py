"""The picture door: every readable format gives the pixels a viewer shows, to every user of pictures alike."""

import ast
import io
import json
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_module
from numpy.typing import NDArray
from PIL import Image, ImageCms, PngImagePlugin
from test_limited import BASE_MB, child

from eval.report_page import THUMBNAIL, thumbnail
from filters.base import Picture
from manifests.fingerprints import fingerprint
from manifests.proof.agreement import Whole, full_agreement
from manifests.proof.variants import VARIANTS
from medgpt.arguments import FRAMES
from medgpt.containers import DamagedImage, repack
from medgpt.formats import format_of
from medgpt.pictures import open_picture, opened, picture_size, to_store
from shards.reader import Build
from shards.stream import StreamedSample, pictures
from train.tiling import Tiling

Pixels = NDArray[np.uint8]

WIDTH, HEIGHT = 180, 140
random = np.random.default_rng(3)
BASE = Image.fromarray(random.integers(0, 255, (9, 12, 3), dtype=np.uint8)).resize(
    (WIDTH, HEIGHT), Image.Resampling.BICUBIC
)
GREY = BASE.convert("L")
RGB, L = np.asarray(BASE), np.asarray(GREY)
RAMP = np.tile(np.linspace(0, 255, WIDTH).astype(np.uint8), (HEIGHT, 1))
TURNS: dict[int, Callable[[Pixels], Pixels]] = {  # how the stored pixels become upright ones: EXIF 2.32, 4.6.4
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.swapaxes(a, 0, 1), 2),
    8: np.rot90,
}


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def of(array: NDArray[np.generic]) -> Image.Image:
    return Image.fromarray(array)


def over_white(colours: Pixels, alpha: Pixels) -> Pixels:
    a = alpha.astype(float)[..., None] / 255
    return np.rint(colours * a + 255 * (1 - a)).astype(np.uint8)


def grey(values: NDArray[np.generic]) -> Pixels:
    return np.repeat(np.asarray(values).astype(np.uint8)[..., None], 3, 2)


def kinds() -> dict[str, tuple[bytes, Pixels, int]]:
    """Kind -> (file, the pixels a viewer shows, tolerance in grey levels)."""
    palette, bits = BASE.convert("P"), GREY.convert("1")
    colours = np.asarray(palette.convert("RGB"))
    rgba, la = BASE.copy(), GREY.copy()
    rgba.putalpha(of(RAMP))
    la.putalpha(of(RAMP))
    hole = np.where((np.asarray(palette) == palette.getpixel((3, 3)))[..., None], np.uint8(255), colours)
    deep = L.astype(np.uint16) * 257
    signed = L.astype(np.int32) * 7 - 900
    spread = grey(np.rint((signed - signed.min()) * (255 / (int(signed.max()) - int(signed.min())))))
    quantised = BASE.quantize(16)
    through = bytes(range(256))
    found: dict[str, tuple[bytes, Pixels, int]] = {
        "jpeg": (encoded(BASE, "JPEG", quality=95), RGB, 12),
        "jpeg progressive": (encoded(BASE, "JPEG", quality=95, progressive=True), RGB, 12),
        "jpeg 4:4:4": (encoded(BASE, "JPEG", quality=98, subsampling=0), RGB, 6),
        "jpeg grey": (encoded(GREY, "JPEG", quality=95), grey(L), 6),
        "jpeg cmyk": (encoded(BASE.convert("CMYK"), "JPEG", quality=98, subsampling=0), RGB, 8),
        "jpeg restarts": (encoded(BASE, "JPEG", quality=95, restart_marker_rows=1), RGB, 12),
        "png": (encoded(BASE, "PNG"), RGB, 0),
        "png grey": (encoded(GREY, "PNG"), grey(L), 0),
        "png 1 bit": (encoded(bits, "PNG"), grey(np.asarray(bits) * 255), 0),
        "png palette": (encoded(palette, "PNG"), colours, 0),
        "png 4-bit palette": (encoded(quantised, "PNG", bits=4), np.asarray(quantised.convert("RGB")), 0),
        "png alpha": (encoded(rgba, "PNG"), over_white(RGB, RAMP), 1),
        "png grey alpha": (encoded(la, "PNG"), over_white(grey(L), RAMP), 1),
        "png palette, one colour clear": (encoded(palette, "PNG", transparency=palette.getpixel((3, 3))), hole, 0),
        "png palette, alpha a colour": (
            encoded(palette, "PNG", transparency=through),
            over_white(colours, np.asarray(palette)),
            1,
        ),
        "png grey, one value clear": (
            encoded(GREY, "PNG", transparency=int(L[5, 5])),
            grey(np.where(L[5, 5] == L, 255, L)),
            0,
        ),
        "png colour, one clear": (
            encoded(BASE, "PNG", transparency=tuple(int(v) for v in RGB[5, 5])),
            np.where((RGB[5, 5] == RGB).all(-1, keepdims=True), np.uint8(255), RGB),
            0,
        ),
        "png 16 bits": (encoded(of(deep), "PNG"), grey(L), 0),
        "png 12 bits in 16": (encoded(of(deep >> 4), "PNG"), grey(L), 1),
        "png 10 bits in 16": (encoded(of(deep >> 6), "PNG"), grey(L), 1),
        "gif": (encoded(palette, "GIF"), colours, 0),
        "gif clear": (encoded(palette, "GIF", transparency=palette.getpixel((3, 3))), hole, 0),
        "webp": (encoded(BASE, "WEBP", quality=95), RGB, 30),
        "webp lossless": (encoded(BASE, "WEBP", lossless=True), RGB, 0),
        "webp alpha": (encoded(rgba, "WEBP", lossless=True, exact=True), over_white(RGB, RAMP), 1),
        "tiff cmyk": (encoded(BASE.convert("CMYK"), "TIFF"), RGB, 1),
        "tiff alpha": (encoded(rgba, "TIFF"), over_white(RGB, RAMP), 1),
        "tiff 16 bits": (encoded(of(deep), "TIFF"), grey(L), 0),
        "tiff 16 bits, white is 0": (encoded(of(deep), "TIFF", tiffinfo={262: 0}), grey(255 - L), 0),
        "tiff 12 bits in 16": (encoded(of(deep >> 4), "TIFF"), grey(L), 1),
        "tiff float 0..1": (encoded(of(L.astype(np.float32) / 255), "TIFF"), grey(L), 0),
        "tiff float": (encoded(of(signed.astype(np.float32)), "TIFF"), spread, 0),
        "tiff signed": (encoded(of(signed), "TIFF"), spread, 0),
        "tiff fax": (encoded(bits, "TIFF", compression="group4"), grey(np.asarray(bits) * 255), 0),
        "tiff palette": (encoded(palette, "TIFF"), colours, 0),
        "tiff grey": (encoded(GREY, "TIFF"), grey(L), 0),
        "bmp": (encoded(BASE, "BMP"), RGB, 0),
        "bmp grey": (encoded(GREY, "BMP"), grey(L), 0),
        "bmp 1 bit": (encoded(bits, "BMP"), grey(np.asarray(bits) * 255), 0),
        "bmp palette": (encoded(palette, "BMP"), colours, 0),
        "jpeg 2000": (encoded(BASE, "JPEG2000"), RGB, 0),
        "jpeg 2000 stream": (encoded(BASE, "JPEG2000", no_jp2=True), RGB, 0),
        "avif": (encoded(BASE, "AVIF", quality=100), RGB, 30),
        "ppm": (encoded(BASE, "PPM"), RGB, 0),
        "ppm in words": (b"P3\n%d %d\n255\n" % (WIDTH, HEIGHT) + b" ".join(b"%d" % v for v in RGB.ravel()), RGB, 0),
        "pgm in words": (b"P2\n%d %d\n255\n" % (WIDTH, HEIGHT) + b" ".join(b"%d" % v for v in L.ravel()), grey(L), 0),
        "pgm": (encoded(GREY, "PPM"), grey(L), 0),
        "pgm 16 bits": (encoded(of(deep), "PPM"), grey(L), 0),
        "pbm": (encoded(bits, "PPM"), grey(np.asarray(bits) * 255), 0),
    }
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits"):
        found[f"tiff {compression}"] = (encoded(BASE, "TIFF", compression=compression), RGB, 0)
    for turn, upright in TURNS.items():
        exif = Image.Exif()
        exif[0x0112] = turn
        for kind, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
            found[f"{kind} turned {turn}"] = (encoded(BASE, kind, exif=exif, **options), upright(RGB), 0)
        jpeg = encoded(BASE, "JPEG", quality=98, subsampling=0, exif=exif)
        found[f"JPEG turned {turn}"] = (jpeg, upright(RGB), 6)
    return found


KINDS = kinds()


HIDDEN = b"Quetzalcoatlus-8812"


def with_metadata() -> dict[str, bytes]:
    exif, turned, said = Image.Exif(), Image.Exif(), PngImagePlugin.PngInfo()
    exif[0x010E], turned[0x0112], turned[0x010E] = HIDDEN.decode(), 6, HIDDEN.decode()
    for name in "ab":
        said.add_text(name, HIDDEN.decode(), zip=name == "b")
    said.add_itxt("c", HIDDEN.decode())
    profile = {"icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + HIDDEN}
    told = profile | {"exif": exif.tobytes(), "xmp": HIDDEN}
    deep = of(np.asarray(GREY).astype(np.uint16) * 200)
    return {
        "JPEG": encoded(BASE, "JPEG", comment=HIDDEN, **told),
        "JPEG, turned": encoded(BASE, "JPEG", comment=HIDDEN, **profile, exif=turned),
        "JPEG, CMYK": encoded(BASE.convert("CMYK"), "JPEG", comment=HIDDEN, **told),
        "JPEG2000": encoded(BASE, "JPEG2000", comment=HIDDEN.decode()),
        "PNG, 16 bits": encoded(deep, "PNG", pnginfo=said, **profile, exif=exif),
        "PNG, alpha": encoded(BASE.convert("RGBA"), "PNG", pnginfo=said, **profile),
        "GIF": encoded(BASE.convert("P"), "GIF", comment=HIDDEN),
        "TIFF": encoded(BASE, "TIFF", tiffinfo={270: HIDDEN.decode()}, icc_profile=profile["icc_profile"]),
        "WEBP": encoded(BASE, "WEBP", **told),
        "PPM": b"P6\n# %b\n%d %d\n255\n" % (HIDDEN, WIDTH, HEIGHT) + RGB.tobytes() + HIDDEN,
        "BMP": encoded(BASE, "BMP") + HIDDEN,
    }


@pytest.mark.parametrize("kind", with_metadata())
def test_what_is_made_of_a_picture_holds_none_of_its_metadata(kind: str) -> None:
    """What a shard, a manifest and a page hold, and what anybody makes of the pixels that come through the door."""
    data = with_metadata()[kind]
    seen = open_picture(data)
    made = [to_store(data).data, thumbnail(data), fingerprint(data).thumbnail]
    made += [encoded(seen, "PNG"), encoded(seen, "JPEG")]
    for one in made:
        assert HIDDEN not in one and not {b"iCCP", b"zTXt", b"eXIf"} & {one[at : at + 4] for at in range(len(one))}


def test_there_are_sixty_kinds() -> None:
    assert len(KINDS) >= 60


@pytest.mark.parametrize("kind", KINDS)
def test_every_user_sees_the_pixels_a_viewer_shows(kind: str) -> None:
    data, truth, tolerance = KINDS[kind]
    shown = np.asarray(open_picture(data, "RGB"))
    assert shown.shape == truth.shape
    assert np.abs(shown.astype(int) - truth).max() <= tolerance
    assert picture_size(data) == (truth.shape[1], truth.shape[0])

    stored = to_store(data)
    plain = kind.startswith(("jpeg", "png")) and not any(
        word in kind for word in ("cmyk", "alpha", "clear", "bits", "2000")
    )
    assert (stored.converted is None) == plain
    assert stored.format == ("jpg" if plain and kind.startswith("jpeg") else "png")
    assert repack(stored.data).data is stored.data

    # The picture itself and what a shard holds of it look alike to all who decode.
    for seen in (data, stored.data):
        assert np.array_equal(np.asarray(open_picture(seen, "RGB")), shown)
        assert np.array_equal(Picture(seen).rgb(4096), shown)
        [streamed] = pictures(StreamedSample("b", "s", 0, 0, [seen], b"{}"))
        assert np.array_equal(np.asarray(streamed), shown)
        assert full_agreement(Whole(seen), Whole(stored.data), VARIANTS[0]) > 0.99
        small = np.asarray(Image.open(io.BytesIO(thumbnail(seen))))
        assert max(small.shape) <= THUMBNAIL
        assert np.array_equal(small, np.asarray(Image.open(io.BytesIO(thumbnail(stored.data)))))
    tiles = Tiling().cut(stored.data, "one")
    assert np.array_equal(tiles, Tiling().cut(encoded(of(shown), "PNG"), "two")) or np.array_equal(
        tiles, Tiling().cut(encoded(of(shown[..., 0]), "PNG"), "two")
    )
    assert fingerprint(data).phash == fingerprint(stored.data).phash
    assert (fingerprint(data).phash ^ fingerprint(encoded(of(shown), "PNG")).phash).bit_count() <= 4


@pytest.mark.parametrize("kind", KINDS)
def test_an_independent_decoder_shows_the_same(kind: str) -> None:
    vips = pytest.importorskip("pyvips", exc_type=ImportError)
    data, _, tolerance = KINDS[kind]
    if kind.startswith(("avif", "bmp", "jpeg 2000", "p")) and not kind.startswith("png"):
        pytest.skip("pyvips' wheel does not read it")
    if any(word in kind for word in ("cmyk", "12 bits", "10 bits", "float", "signed", "white is 0")):
        pytest.skip("pyvips applies a profile of its own, or shows raw values")
    image = vips.Image.new_from_buffer(data, "").autorot()
    if image.format == "ushort":
        image = (image / 257).rint().cast("uchar")
    elif image.interpretation not in ("srgb", "b-w"):
        image = image.colourspace("srgb")
    if image.hasalpha():
        image = image.flatten(background=255)
    raw = np.ndarray(
        buffer=image.cast("uchar").write_to_memory(), dtype=np.uint8, shape=(image.height, image.width, image.bands)
    )
    shown = np.asarray(open_picture(data, "RGB")).astype(int)
    assert np.abs(shown - raw).max() <= max(1, tolerance // 6)


def test_a_build_stores_every_kind_and_a_corpus_finds_all_copies(tmp_path: Path) -> None:
    names = {f"p{number:02d}.jpg": kind for number, kind in enumerate(KINDS)}  # no name says what is inside
    rows = [
        {
            "image": [f"images/{name}"],
            "conversations": [
                {"from": "human", "value": "What is shown?"},
                {"from": "gpt", "value": f"Picture {name} of the collection."},
            ],
            "id": f"Alignment_VQA_{number}",
            "body_part": "Chest",
            "modality": "X",
        }
        for number, name in enumerate(names)
    ]
    raw = tmp_path / "raw"
    raw.mkdir()
    (raw / "PubMedVision_Alignment_VQA.json").write_text(json.dumps(rows))
    with zipfile.ZipFile(raw / "images_0.zip", "w") as archive:
        for name, kind in names.items():
            archive.writestr(f"images/{name}", KINDS[kind][0])
    built = run_module("builders.pubmedvision", "--raw", str(raw), "--out", str(tmp_path / "built"), "--quiet")
    assert built.returncode == 0, built.stdout + built.stderr
    [build] = (tmp_path / "built").glob("*/build.json")
    kept = list(Build(build.parent))
    assert len(kept) == len(KINDS)
    for sample, kind in zip(kept, names.values(), strict=True):
        [data] = sample.images
        assert np.array_equal(np.asarray(open_picture(data)), np.asarray(open_picture(KINDS[kind][0]))), kind


def dicom(**attributes: object) -> bytes:
    pydicom = pytest.importorskip("pydicom")
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    values = (L.astype(np.uint16) << 4) + 3
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["one"])
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    one.PatientName = "DOE^JANE"
    one.Rows, one.Columns, one.SamplesPerPixel = HEIGHT, WIDTH, 1
    one.PhotometricInterpretation, one.BitsAllocated, one.BitsStored, one.HighBit = "MONOCHROME2", 16, 12, 11
    one.PixelRepresentation = 0
    one.PixelData = values.tobytes()
    for name, value in attributes.items():
        setattr(one, name, value)
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, one, enforce_file_format=True)
    return buffer.getvalue()


def test_dicom_is_shown_as_viewers_show_it() -> None:
    values = (L.astype(float) * 16) + 3
    spread = np.rint((values - values.min()) * 255 / (values.max() - values.min()))
    cases = {
        "no window": (dicom(), spread),
        "inverted": (dicom(PhotometricInterpretation="MONOCHROME1"), 255 - spread),
        "window": (
            dicom(WindowCenter=[2000, 1], WindowWidth=[1000, 1]),
            np.rint(np.clip(((values - 1999.5) / 999 + 0.5) * 255, 0, 255)),
        ),
        "rescaled": (
            dicom(
                RescaleSlope=2, RescaleIntercept=-1000, WindowCenter=3000, WindowWidth=2000, VOILUTFunction="SIGMOID"
            ),
            np.rint(255 / (1 + np.exp(-4 * (values * 2 - 1000 - 3000) / 2000))),
        ),
        "exact": (
            dicom(WindowCenter=2000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT"),
            np.rint(np.clip((values - 1500) / 1000 * 255, 0, 255)),
        ),
    }
    for name, (data, truth) in cases.items():
        assert format_of(data) == "DICOM"
        assert np.abs(np.asarray(open_picture(data)).astype(int) - truth).max() <= 1, name
        stored = to_store(data)
        assert (stored.format, stored.converted) == ("png", "DICOM")
        assert b"DOE" not in stored.data


def test_dicom_with_several_frames_needs_a_choice_and_other_syntaxes_are_named() -> None:
    values = (L.astype(np.uint16) << 4) + 3
    three = np.stack([values, values // 2, values // 4])
    data = dicom(NumberOfFrames=3, PixelData=three.tobytes(), WindowCenter=2048, WindowWidth=4096)
    with pytest.raises(DamagedImage) as caught:
        open_picture(data)
    assert caught.value.reason == "several_frames"
    means = [np.asarray(open_picture(data, frame=frame)).mean() for frame in FRAMES]
    assert means[0] > 1.5 * means[1] > 2 * means[2]
    video = dicom().replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.4.100"[:20])
    with pytest.raises(DamagedImage):
        open_picture(video)


def test_a_deflated_dicom_file_is_inflated_within_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    data = Path(str(get_testdata_file("image_dfl.dcm"))).read_bytes()
    assert np.asarray(open_picture(data)).std() > 10
    monkeypatch.setattr("medgpt.dicom.MAX_INFLATED", 100_000)
    with pytest.raises(DamagedImage) as caught:
        open_picture(data)
    assert caught.value.reason == "image_too_large"


def test_real_dicom_files_are_read_or_named() -> None:
    pytest.importorskip("pylibjpeg")
    from pydicom.data import get_testdata_file

    for name, mode in (
        ("CT_small.dcm", "L"),
        ("MR_small_RLE.dcm", "L"),
        ("JPEG2000.dcm", "L"),
        ("SC_rgb_rle.dcm", "RGB"),
    ):
        picture = open_picture(Path(str(get_testdata_file(name))).read_bytes())
        assert picture.mode == mode
        assert np.asarray(picture).std() > 10, name
    for name in ("rtplan.dcm", "badVR.dcm", "MR_truncated.dcm"):
        with pytest.raises(DamagedImage):
            open_picture(Path(str(get_testdata_file(name))).read_bytes())


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "PNG"])
def test_several_frames_need_a_choice(kind: str) -> None:
    frames = [of(np.full((40, 50, 3), level, np.uint8)) for level in (10, 100, 200)]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    with pytest.raises(DamagedImage) as caught:
        to_store(data)
    assert caught.value.reason == "several_frames"
    shown = [
        int(np.asarray(open_picture(to_store(data, frame).data))[0, 0].max()) for frame in ("first", "middle", "last")
    ]
    assert shown == [10, 100, 200]


def directories(count: int) -> bytes:
    """A TIFF of so many frames of one pixel, as Pillow writes the first."""
    entry = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, 1), (257, 1), (273, 8), (279, 1)))
    size = 2 + len(entry) + 4
    links = [12 + size * number for number in range(1, count)] + [0]
    frames = [struct.pack("<H", 4) + entry + struct.pack("<I", link) for link in links]
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + b"".join(frames)


def longer(height: int) -> bytes:
    """A TIFF whose strips are of fewer rows than its height."""
    data = encoded(GREY, "TIFF")
    [old] = [
        entry for kind in (3, 4) if (entry := struct.pack("<HHII", 257, kind, 1, HEIGHT)) in data
    ]  # fmt: skip
    return data.replace(old, struct.pack("<HHII", 257, 4, 1, height))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: directories(10_001), "image_too_large"),
        (lambda: longer(HEIGHT + 1), "truncated_image"),
        (lambda: second((10_000, 10_000)), "image_too_large"),
    ],
)
def test_a_tiff_that_is_not_as_it_says(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(DamagedImage) as caught:
        to_store(make(), "last")
    assert caught.value.reason == reason


def second(size: tuple[int, int]) -> bytes:
    frames = [Image.new("1", size, 1) for size in ((50, 40), size)]
    return encoded(frames[0], "TIFF", save_all=True, append_images=frames[1:], compression="group4")


def test_a_frame_of_a_tiff_has_its_own_size() -> None:
    found = opened(second((70, 90)), frame="last")
    assert (found.width, found.height) == found.image.size == (70, 90)


@pytest.mark.parametrize("kind", ["TIFF", "DICOM"])
def test_a_large_radiograph_of_16_bits_takes_little_memory(kind: str, tmp_path: Path) -> None:
    side = 5_000
    values = np.add.outer(np.arange(side, dtype=np.uint16), np.arange(side, dtype=np.uint16)) // 4  # of 12 bits
    path = tmp_path / "picture"
    if kind == "TIFF":
        path.write_bytes(encoded(of(values), "TIFF"))
    else:
        path.write_bytes(
            dicom(Rows=side, Columns=side, PixelData=values.tobytes(), WindowCenter=1250, WindowWidth=2500)
        )
    code = """
import sys
from pathlib import Path
import numpy as np
from medgpt.pictures import open_picture
print(*np.asarray(open_picture(Path(sys.argv[1]).read_bytes()))[[0, 2500, 4999], [0, 2500, 4999]])
"""
    said, peak = child(code, str(path))
    ends = [0, 127, 255] if kind == "DICOM" else [0, 78, 156]
    assert np.abs(np.array(said.split(), int) - ends).max() <= 1
    assert peak <= BASE_MB + 300, f"{peak} MB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "TIFF", "BMP", "JPEG2000", "PNG", "JPEG"])
def test_a_cut_file_is_named(kind: str) -> None:
    data = encoded(BASE, kind)
    for share in (0.3, 0.6, 0.9):
        with pytest.raises(DamagedImage) as caught:
            to_store(data[: int(len(data) * share)])
        assert caught.value.reason in {"truncated_image", "corrupt_image"}


def test_nobody_else_decodes() -> None:
    """`Image.open`, `imdecode` and `exif_transpose` occur in `medgpt/pictures.py` alone; demos draw pictures."""
    rooms = ("medgpt", "manifests", "shards", "filters", "builders", "train", "eval", "browse")
    found = set()
    for path in (path for room in rooms for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and (
                node.attr in ("imdecode", "exif_transpose")
                or (node.attr == "open" and isinstance(node.value, ast.Name) and node.value.id == "Image")
            ):
                found.add(path.relative_to(ROOT).as_posix())
    assert {name for name in found if not name.startswith("builders/demos/")} == {"medgpt/pictures.py"}
