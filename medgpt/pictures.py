"""The one door through which pictures come: bytes to upright 8-bit pixels, and to what a shard stores.

A format is told by a file's bytes, never by its name. `open_picture` gives pixels as a viewer shows them: upright
(EXIF), transparency on white, palettes and CMYK as RGB (colour profiles are not applied), one rule for more than 8 bits
(`_eight_bits`), one frame by a named choice. `to_store` gives the bytes for a shard: an 8-bit JPEG or PNG keeps its
coded pixels in a container that is packed again (`medgpt.containers`); everything else becomes an 8-bit PNG and says
from what (`converted`).
"""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFile, ImageOps, UnidentifiedImageError

from medgpt.arguments import Frame
from medgpt.containers import MAX_PIXELS, Container, DamagedImage, UnusualCoding, check_pixels, repack
from medgpt.dicom import DicomPicture
from medgpt.errors import UserError
from medgpt.formats import format_of, is_dicom

PICTURE_RULES = 1
"""Raised where other pixels come out of the same bytes; part of the fingerprint recipe."""

_ORIENTATION = 0x0112
_MOST_FRAMES = 10_000

Mode = Literal["L", "RGB"]


@dataclass(frozen=True)
class Opened:
    """A decoded picture."""

    image: Image.Image
    width: int
    height: int
    """Of the whole picture, upright; `image` may be a half, a quarter or an eighth of it."""


@dataclass(frozen=True)
class Stored:
    """A picture as a shard holds it."""

    data: bytes
    format: Literal["jpg", "png"]
    converted: str | None
    """Why the publisher's coded pixels were not kept: `CMYK`, `16 bits`, `WEBP`, `turned` ...; None where they were."""
    grey: Opened | None = None
    """The picture in grey with sides of at least `GREY_AT_LEAST`, where checking it has made that anyway."""


def open_picture(
    data: bytes, mode: Mode | None = None, at_least: int | None = None, frame: Frame | None = None
) -> Image.Image:
    """The picture, upright, 8 bits, as `mode`; without one grey stays grey and the rest is RGB.

    `at_least`: a JPEG may be decoded at a half, a quarter or an eighth of its size, as long as both sides keep so many
    pixels. `frame`: which one of a file with several. Raises: `DamagedImage` with a reject's reason.
    """
    return opened(data, mode, at_least, frame).image


def opened(data: bytes, mode: Mode | None = None, at_least: int | None = None, frame: Frame | None = None) -> Opened:
    """`open_picture`, with the whole picture's size."""
    with _named_faults():
        if is_dicom(data):
            found = DicomPicture(data)
            check_pixels(found.width, found.height)
            image = Image.fromarray(found.pixels(_frame_number(found.frames, frame)))
            return Opened(_as_mode(image, mode), found.width, found.height)
        with _header(data) as file:
            width, height = file.size
            if file.format == "JPEG":
                if at_least is not None and file.mode in ("L", "RGB"):
                    file.draft(mode or file.mode, (at_least, at_least))
            elif (frames := getattr(file, "n_frames", 1)) > 1:
                file.seek(_frame_number(frames, frame))
                width, height = file.size  # of a TIFF each frame has its own
                check_pixels(width, height)
            if file.format == "TIFF":
                boxes = [tile[1] or (0, 0, width, height) for tile in file.tile]
                held = sum((right - left) * (end - top) for left, top, right, end in boxes)
                if held < width * height:  # Pillow leaves the rest black
                    raise DamagedImage("truncated_image", f"TIFF: strips or tiles of {held:,} pixels")
            file.load()
            image, turn = _eight_bits(file), _orientation(file)
            if turn != 1:
                image.getexif()[_ORIENTATION] = turn
                image = ImageOps.exif_transpose(image)
                width, height = (height, width) if turn >= 5 else (width, height)
            image = _as_mode(image, mode)
            image.info.clear()  # Pillow writes comments and profiles of what it read into what it saves
            return Opened(image, width, height)


def picture_size(data: bytes) -> tuple[int, int]:
    """(width, height) of the upright picture, from its header. Raises: `DamagedImage`."""
    with _named_faults():
        if is_dicom(data):
            found = DicomPicture(data)
            return found.width, found.height
        with _header(data) as file:
            return (file.height, file.width) if _orientation(file) >= 5 else file.size


def to_store(data: bytes, frame: Frame | None = None) -> Stored:
    """The bytes for a shard. Raises: `DamagedImage` with a reject's reason for what nobody can read."""
    why: str | None = format_of(data)
    if why in ("JPEG", "PNG"):
        try:
            container = repack(data)
            why = _unlike_stored(container)
        except UnusualCoding as error:
            why = str(error)
        if why is None:
            grey = container.grey
            opened = None if grey is None else Opened(Image.fromarray(grey), container.width, container.height)
            return Stored(container.data, container.format, None, opened)
    buffer = io.BytesIO()
    open_picture(data, frame=frame).save(buffer, "PNG")
    return Stored(repack(buffer.getvalue()).data, "png", why)


def without_alpha(data: bytes) -> bytes | None:
    """A picture as PNG, as loaders see it that leave its transparency out (`convert("RGB")`, `cv2.imread`).

    None where nothing is transparent, where it looks as on white, or where there is next to nothing to see: drawings
    often have one colour and all their lines in the transparency. Of several frames none is taken.
    """
    if is_dicom(data) or format_of(data) in (None, "JPEG"):
        return None
    try:
        with _named_faults(), _header(data) as file:
            if getattr(file, "n_frames", 1) > 1 or not file.has_transparency_data:
                return None
            file.load()
            bare = file.convert("RGBA").convert("RGB")
            seen, shown = (np.asarray(one.convert("L"), np.int16) for one in (bare, _eight_bits(file)))
            if np.ptp(seen) < _SEEN or np.abs(seen - shown).mean() < _ALIKE:
                return None
            buffer = io.BytesIO()
            bare.save(buffer, "PNG")
            return buffer.getvalue()
    except DamagedImage:
        return None  # as its fingerprint says


_SEEN, _ALIKE = 32, 4
"""Levels of grey, of 256: between the darkest and the lightest pixel, and by which two pictures differ on average."""


def _unlike_stored(found: Container) -> str | None:
    """Why a JPEG or PNG cannot be stored as it is coded."""
    if found.frames > 1:
        return "several frames"
    if found.bit_depth > 8:
        return f"{found.bit_depth} bits"
    if found.format == "jpg" and found.channels == 4:
        return "CMYK"
    if found.transparent:
        return "transparent"
    return None if found.orientation == 1 else "turned"


@contextmanager
def _header(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """A file that Pillow has opened but not decoded, of a size within the limit."""
    kind = format_of(data)
    if kind is None:
        raise DamagedImage("corrupt_image", f"no picture format that is read; starts with {data[:4].hex()}")
    if kind == "TIFF":
        _check_directories(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what cannot be read ends below; the rest does not matter to a reader
        with Image.open(io.BytesIO(data), formats=[kind]) as file:
            check_pixels(*file.size)
            yield file


def _orientation(file: Image.Image) -> int:
    """EXIF orientation 1..8. Pillow turns TIFF itself, and would also believe XMP, which no viewer does."""
    if file.format == "TIFF":
        return 1
    for name in ("xmp", "XML:com.adobe.xmp"):
        file.info.pop(name, None)
    found = file.getexif().get(_ORIENTATION, 1)
    return found if found in range(1, 9) else 1


def _check_directories(data: bytes) -> None:
    """Refuse a TIFF of more frames than are counted: Pillow takes the square of their number for that."""
    order, large = "<" if data[:1] == b"I" else ">", data[2:4] in (b"+\0", b"\0+")
    count, place, entry = struct.Struct(order + "HQ"[large]), struct.Struct(order + "IQ"[large]), 20 if large else 12
    at, seen = 8 if large else 4, set[int]()
    while at + place.size <= len(data):  # TIFF 6.0, section 2: a place, there a count, entries and the next place
        (at,) = place.unpack_from(data, at)
        if not at or at in seen or at + count.size > len(data):
            return
        seen.add(at)
        if len(seen) > _MOST_FRAMES:
            raise DamagedImage("image_too_large", f"more than {_MOST_FRAMES:,} frames")
        at += count.size + count.unpack_from(data, at)[0] * entry


def _frame_number(frames: int, frame: Frame | None) -> int:
    if frames == 1:
        return 0
    if frame is None:
        raise DamagedImage("several_frames", f"{frames} frames")
    return {"first": 0, "middle": (frames - 1) // 2, "last": frames - 1}[frame]


@contextmanager
def _named_faults() -> Iterator[None]:
    """Whatever a decoder raises over broken data, as `DamagedImage`: there is no closed list of it."""
    try:
        yield
    except (UserError, ImportError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise DamagedImage("corrupt_image", "no decoder accepts it") from error
    except Image.DecompressionBombError as error:
        raise DamagedImage("image_too_large", f"limit {MAX_PIXELS} pixels") from error
    except Exception as error:
        reason = "truncated_image" if "truncated" in str(error) else "corrupt_image"
        raise DamagedImage(reason, f"{type(error).__name__}: {error}") from error


def _as_mode(picture: Image.Image, mode: Mode | None) -> Image.Image:
    return picture if mode is None or picture.mode == mode else picture.convert(mode)


def _eight_bits(file: Image.Image) -> Image.Image:
    """A decoded picture as L or RGB.

    More than 8 bits of grey: values are divided by the largest number of the bits that are in use (a radiograph of 12
    bits in 16 is not black), at least 8; negative values, and floats outside 0..1, are spread from the lowest to the
    highest. Colours of 16 bits keep their highest 8 (Pillow).
    """
    mode = file.mode
    if mode.startswith("I") or mode == "F":
        return _grey(file)
    if mode in ("L", "RGB") and "transparency" not in file.info:
        return file
    if mode == "1":
        file = file.convert("L") if "transparency" not in file.info else file
    if "transparency" in file.info or mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        colours = file.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        flat = Image.alpha_composite(white, colours).convert("RGB")
        return flat.convert("L") if mode in ("1", "L", "LA", "La") else flat
    if mode == "LAB":
        from PIL import ImageCms

        transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
        converted = ImageCms.applyTransform(file, transform)
        assert converted is not None
        return converted
    if mode == "P" and _is_grey(file):
        return file.convert("L")
    return file if file.mode == "L" else file.convert("RGB")


def _is_grey(palette: Image.Image) -> bool:
    red, green, blue = palette.convert("RGB").split()
    return ImageChops.difference(red, green).getbbox() is None and ImageChops.difference(red, blue).getbbox() is None


def _grey(file: Image.Image) -> Image.Image:
    values: NDArray[Any] = np.asarray(file)
    if values.dtype.kind == "f":
        finite = np.isfinite(values)
        low, high = (
            float(of(where=finite, initial=worst)) for of, worst in ((values.min, np.inf), (values.max, -np.inf))
        )
        if low > high or (low >= 0 and high <= 1):
            low, high = 0.0, 1.0
    else:
        low, high = float(values.min()), float(values.max())
        if low >= 0:
            low, high = 0.0, float((1 << max(8, int(high).bit_length())) - 1)
    scaled = np.empty(values.shape, np.uint8)
    step = 1 + (1 << 20) // values.shape[1]  # rows: as floats the whole picture would take a gigabyte
    for rows in (slice(first, first + step) for first in range(0, len(values), step)):
        part = np.nan_to_num(values[rows].astype(np.float64), nan=low, posinf=high, neginf=low)
        scaled[rows] = np.rint((part - low) * (255 / (high - low) if high > low else 0))
    if file.format == "TIFF" and getattr(file, "tag_v2", {}).get(262) == 0:  # WhiteIsZero (TIFF 6.0)
        scaled = 255 - scaled
    key = file.info.get("transparency")
    if isinstance(key, int):
        scaled = np.where(np.asarray(file) == key, np.uint8(255), scaled)
    return Image.fromarray(scaled)
