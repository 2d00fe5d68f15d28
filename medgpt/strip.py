"""Remove everything from a JPEG or PNG file that is not the picture, without touching the coded pixels.

EXIF, XMP, comments, colour profiles, embedded previews and whatever follows the end of the picture can carry names,
dates and devices (DICOM exporters put whole headers there). The one thing kept is an EXIF orientation other than
"upright", rewritten as a minimal block, since dropping it would turn the picture.

JPEG segments: ITU-T T.81, annex B; Adobe's APP14 is kept because it tells YCbCr from RGB. PNG chunks: W3C PNG (third
edition), section 11; kept are those that decide the pixel values.
"""

import re
import struct
import zlib
from dataclasses import dataclass
from typing import Literal

from medgpt.errors import UserError


class DamagedImage(UserError):
    """The file's structure is broken; `reason` is `truncated_image` or `corrupt_image`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class StrippedImage:
    """A picture file without metadata."""

    data: bytes
    format: Literal["jpg", "png"]
    orientation: int
    """EXIF orientation 1..8; 1 is upright."""
    bit_depth: int
    frames: int


JPEG_MAGIC = b"\xff\xd8\xff"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_APP0, _APP1, _APP14, _APP15, _COM = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE
_SOS, _EOI = 0xDA, 0xD9
# In entropy-coded data FF 00 is a stuffed byte, FF D0..D7 a restart marker and FF FF fill: none ends the scan.
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_FRAME_HEADERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}

_PNG_KEPT = frozenset((b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"sBIT"))


def sniff(data: bytes) -> Literal["jpg", "png"] | None:
    """Format by the file's first bytes, whatever its name says; None for anything but JPEG and PNG."""
    if data.startswith(JPEG_MAGIC):
        return "jpg"
    if data.startswith(PNG_MAGIC):
        return "png"
    return None


def strip_metadata(data: bytes) -> StrippedImage:
    """The file with only its picture left. Raises `DamagedImage`; `ValueError` if it is neither JPEG nor PNG."""
    kind = sniff(data)
    if kind == "jpg":
        return _strip_jpeg(data)
    if kind == "png":
        return _strip_png(data)
    raise ValueError("neither JPEG nor PNG")


def _strip_jpeg(data: bytes) -> StrippedImage:
    kept: list[tuple[int, int]] = [(0, 2)]
    position, orientation, bit_depth = 2, 1, 8
    while True:
        # Markers may be preceded by any number of FF fill bytes.
        while data[position : position + 2] == b"\xff\xff":
            position += 1
        if position + 2 > len(data):
            raise DamagedImage("truncated_image", "no end-of-image marker")
        if data[position] != 0xFF:
            raise DamagedImage("corrupt_image", f"no JPEG marker at byte {position}")
        marker = data[position + 1]
        if marker == _EOI:
            kept.append((position, position + 2))
            break
        if position + 4 > len(data):
            raise DamagedImage("truncated_image", "no end-of-image marker")
        end = position + 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if end > len(data):
            raise DamagedImage("truncated_image", f"segment {marker:02X} at byte {position} is cut off")
        if marker == _SOS:
            found = _SCAN_END.search(data, end)
            if found is None:
                raise DamagedImage("truncated_image", "no end-of-image marker")
            end = found.start()
        if marker in _FRAME_HEADERS:
            bit_depth = data[position + 4]
        if marker == _APP1 and data[position + 4 : position + 10] == b"Exif\x00\x00":
            orientation = _exif_orientation(data[position + 10 : end])
        if not (_APP0 < marker <= _APP15 and marker != _APP14) and marker != _COM:
            kept.append((position, end))
        position = end
    pieces = _joined(data, kept)
    if orientation != 1:
        exif = b"Exif\x00\x00" + _minimal_tiff(orientation)
        # EXIF goes first or right behind JFIF's APP0 (CIPA DC-008, 4.5.4); behind SOI is what decoders expect.
        pieces = pieces[:2] + bytes((0xFF, _APP1)) + struct.pack(">H", len(exif) + 2) + exif + pieces[2:]
    return StrippedImage(pieces, "jpg", orientation, bit_depth, frames=1)


def _strip_png(data: bytes) -> StrippedImage:
    kept: list[tuple[int, int]] = [(0, len(PNG_MAGIC))]
    position, orientation, bit_depth, frames = len(PNG_MAGIC), 1, 8, 1
    while True:
        if position + 12 > len(data):
            raise DamagedImage("truncated_image", "no IEND chunk")
        length = int.from_bytes(data[position : position + 4], "big")
        kind, end = data[position + 4 : position + 8], position + 12 + length
        if end > len(data):
            raise DamagedImage("truncated_image", f"chunk {kind!r} at byte {position} is cut off")
        if kind == b"IHDR":
            bit_depth = data[position + 16]
        elif kind == b"acTL":
            frames = int.from_bytes(data[position + 8 : position + 12], "big")
        elif kind == b"eXIf":
            orientation = _exif_orientation(data[position + 8 : end - 4])
        if kind in _PNG_KEPT:
            kept.append((position, end))
        position = end
        if kind == b"IEND":
            break
    if orientation == 1:
        return StrippedImage(_joined(data, kept), "png", orientation, bit_depth, frames)
    # An eXIf chunk may follow the picture data; ours is written before IEND in every case.
    head, tail = _joined(data, kept[:-1]), _joined(data, kept[-1:])
    body = b"eXIf" + _minimal_tiff(orientation)
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return StrippedImage(head + chunk + tail, "png", orientation, bit_depth, frames)


def _joined(data: bytes, ranges: list[tuple[int, int]]) -> bytes:
    """The kept ranges as one piece; the very same object where nothing was dropped."""
    if sum(end - start for start, end in ranges) == len(data):
        return data
    return b"".join(data[start:end] for start, end in ranges)


def _exif_orientation(tiff: bytes) -> int:
    """Orientation in a TIFF block: tag 0x0112 of its first directory (TIFF 6.0); 1 where there is none."""
    order = {b"II*\x00": "<", b"MM\x00*": ">"}.get(tiff[:4])
    if order is None or len(tiff) < 10:
        return 1
    start = struct.unpack_from(order + "I", tiff, 4)[0]
    if start + 2 > len(tiff):
        return 1
    for index in range(struct.unpack_from(order + "H", tiff, start)[0]):
        entry = start + 2 + 12 * index
        if entry + 12 > len(tiff):
            return 1
        tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
        if (tag, kind, count) == (0x0112, 3, 1):
            value = int(struct.unpack_from(order + "H", tiff, entry + 8)[0])
            return value if 1 <= value <= 8 else 1
    return 1


def _minimal_tiff(orientation: int) -> bytes:
    """A big-endian TIFF block that holds the orientation and nothing else."""
    return struct.pack(">2sHIHHHIHHI", b"MM", 42, 8, 1, 0x0112, 3, 1, orientation, 0, 0)
