"""Strictly re-packed JPEG and PNG files: the same picture, and no byte that decoding it does not need.

EXIF, XMP, comments, colour profiles, previews, unused tables and whatever lies between or behind the parts of a file
can carry names, dates and devices (DICOM exporters put whole headers there). What is kept is written here as a list;
everything else is gone:

JPEG (ITU-T T.81, annex B): SOI, JFIF's APP0 and Adobe's APP14 with fixed contents where the file has them (they tell
YCbCr from RGB), tables that a scan uses, the frame, restart intervals that occur, the scans, EOI. Coefficients are
never coded again: a scan's bytes end with the last code it needs. That is known in one of two ways. `_decoded` lets
libjpeg-turbo count what it has left: for the commonest files, whose tables are the published ones, and it costs
nothing, as its pixels are the ones a fingerprint needs. `jpeg_walk.lua` walks the codes of all others; it also finds
codes and quantisers that no coefficient uses, which are overwritten, and sets padding bits to one. (The first way does
not see padding: up to seven bits in a whole file, the last of them one.)

PNG (W3C PNG, third edition): IHDR, a palette without unused entries, tRNS of legal length, IDAT, IEND. The image data
stay as they are where they inflate to exactly the rows and nothing follows; else the rows are deflated again, into one
chunk. So what a deflate stream could say by how it codes the same rows (choice of matches, borders of blocks) is not
touched: no byte of it goes unread, and deflating every picture anew would cost many times its decode.
"""

from __future__ import annotations

import functools
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medgpt.errors import UserError
from medgpt.formats import format_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_PIXELS = 89_478_485
"""Pillow's own decompression-bomb warning level (`Image.MAX_IMAGE_PIXELS`), here a limit."""

MAX_SCANS = 100
"""Encoders write about ten; a scan of a few bytes costs as much time as the picture has blocks."""


class DamagedImage(UserError):
    """The file's structure is broken; `reason` is `truncated_image`, `corrupt_image` or `image_too_large`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class UnusualCoding(UserError):
    """Decoders may read the picture, but its bytes cannot be explained here: store the decoded pixels instead."""


@dataclass(frozen=True)
class Container:
    """A picture file of which every byte is needed to decode it."""

    data: bytes
    """The very object that was given, where nothing had to change."""
    format: Literal["jpg", "png"]
    orientation: int
    """EXIF orientation 1..8 of the given file; 1 is upright. It is not in `data`."""
    width: int
    height: int
    bit_depth: int
    channels: int
    """Of the coded picture: 1 grey or palette, 2 grey and alpha, 3 colour, 4 CMYK, YCCK or colour and alpha."""
    transparent: bool
    frames: int
    grey: NDArray[np.uint8] | None = field(default=None, compare=False)
    """Grey pixels at the smallest DCT scale that keeps `GREY_AT_LEAST`, not turned, where checking made them."""


GREY_AT_LEAST = 128
"""Pixels of a side that fingerprints are made of."""
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


def repack(data: bytes) -> Container:
    """The file with nothing left in it but its picture.

    Raises `DamagedImage`, `UnusualCoding` (arithmetic, lossless and 12-bit JPEG, scans that overlap), and `ValueError`
    if the file is neither JPEG nor PNG.
    """
    kind = format_of(data)
    if kind == "JPEG":
        return _Jpeg(data).repack()
    if kind == "PNG":
        return _repack_png(data)
    raise ValueError("neither JPEG nor PNG")


def check_pixels(width: int, height: int) -> None:
    """Refuse a picture without pixels, or with more than are decoded. Raises: `DamagedImage`."""
    if not width or not height:
        raise DamagedImage("corrupt_image", f"{width} x {height} pixels")
    if width * height > MAX_PIXELS:
        raise DamagedImage("image_too_large", f"{width} x {height} pixels, limit {MAX_PIXELS}")


# JPEG

_SOF2, _DHT, _SOI, _EOI, _SOS, _DQT, _DRI = 0xC2, 0xC4, 0xD8, 0xD9, 0xDA, 0xDB, 0xDD
_APP0, _APP1, _APP14, _COM = 0xE0, 0xE1, 0xEE, 0xFE
_WALKED_FRAMES = (0xC0, 0xC1, _SOF2)
_OTHER_FRAMES = frozenset(range(0xC3, 0xD0)) - {_DHT, 0xC8, 0xCC}
_ARITHMETIC_TABLES, _LINES = 0xCC, 0xDC
# In entropy-coded data FF 00 is a stuffed byte, FF D0..D7 a restart marker and FF FF fill: none ends the scan.
_SCAN_END_OR_FILL = re.compile(rb"\xff[^\x00\xd0-\xd7]")
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff+([\xd0-\xd7])")
_NEXT_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])")
_JFIF = b"JFIF\0\1\1\0\0\1\0\1\0\0"
_ADOBE = b"Adobe\0\x64\0\0\0\0"
_PADDING = bytes(512)  # jpeg_walk.lua may read a block too far

# T.81, annex K.3: the tables of nearly every JPEG whose tables were not made for it.
_STANDARD_DC = tuple(
    bytes.fromhex(counts) + bytes(range(12))
    for counts in ("00010501010101010100000000000000", "00030101010101010101010000000000")
)
_STANDARD_AC = tuple(
    bytes.fromhex(text)
    for text in (
        "0002010303020403050504040000017d0102030004110512213141061351610722711432"
        "8191a1082342b1c11552d1f02433627282090a161718191a25262728292a343536373839"
        "3a434445464748494a535455565758595a636465666768696a737475767778797a838485"
        "868788898a92939495969798999aa2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5"
        "c6c7c8c9cad2d3d4d5d6d7d8d9dae1e2e3e4e5e6e7e8e9eaf1f2f3f4f5f6f7f8f9fa",
        "00020102040403040705040400010277000102031104052131061241510761711322328108144291a1b1c109233352f0156272d10a162434e125f11718191a26"
        "2728292a35363738393a434445464748494a535455565758595a636465666768696a737475767778797a82838485868788898a92939495969798999a"
        "a2a3a4a5a6a7a8a9aab2b3b4b5b6b7b8b9bac2c3c4c5c6c7c8c9cad2d3d4d5d6d7d8d9dae2e3e4e5e6e7e8e9eaf2f3f4f5f6f7f8f9fa",
    )
)
_STANDARD_HUFFMAN = frozenset(_STANDARD_DC + _STANDARD_AC)


@functools.cache
def _scaled_quantisers() -> frozenset[bytes]:
    """The IJG library's tables of quality 1 to 100, made from T.81's annex K.1, in zigzag order."""
    bases = (
        "100b0c0e0c0a100e0d0e1211101318281a181616183123251d283a333d3c3933383740485c4e404457453738506d51575f626768673e4d7179706478"
        "5c656763",
        "1112121815182f1a1a2f634238426363636363636363636363636363636363636363636363636363636363636363636363636363636363636363"
        "636363636363",
    )
    scales = [5000 // quality if quality < 50 else 200 - 2 * quality for quality in range(1, 101)]
    return frozenset(
        bytes(min(255, max(1, (value * scale + 50) // 100)) for value in bytes.fromhex(base))
        for base in bases
        for scale in scales
    )


@dataclass(eq=False)
class _Table:
    """A Huffman or quantisation table of a DQT or DHT segment. `head` is its class or precision, and its number."""

    head: int
    body: bytes
    huffman: bool
    wanted: bool = False
    uses: bytearray = field(default_factory=lambda: bytearray(256))
    """Nonzero at the places of codes, or of coefficients in zigzag order, that the scans use."""

    @property
    def plain(self) -> bool:
        """Whether it is one of the published tables, which say nothing, however little of them is used."""
        return self.body in (_STANDARD_HUFFMAN if self.huffman else _scaled_quantisers())

    def packed(self) -> bytes:
        """The table without what no code uses: codes behind the last used one go, others become a fixed value."""
        if self.plain:
            return bytes((self.head,)) + self.body
        if self.huffman:
            symbols = [symbol if used else None for symbol, used in zip(self.body[16:], self.uses, strict=False)]
            while symbols and symbols[-1] is None:
                symbols.pop()
            counts, left = [], len(symbols)
            for count in self.body[:16]:
                counts.append(min(count, left))
                left -= counts[-1]
            return bytes((self.head, *counts, *(symbol or 0 for symbol in symbols)))
        size = 2 if self.head >> 4 else 1
        values = [self.body[at : at + size] for at in range(0, len(self.body), size)]
        for place in range(1, 64):  # the mean brightness (place 0) is always used
            if not self.uses[place]:
                values[place] = values[place - 1]
        return bytes((self.head,)) + b"".join(values)


@dataclass(eq=False)
class _Component:
    number: int
    across: int
    down: int
    quantiser_number: int
    quantiser: _Table | None = None
    columns: int = 0
    rows: int = 0
    """Its blocks, without those that only fill up the last MCU."""
    precision: list[int] = field(default_factory=lambda: [-1] * 64)
    """Bits of each coefficient that are still to come; -1 before its first scan (T.81, G.1.1.1)."""


@dataclass
class _Scan:
    """A scan's header and data."""

    parts: list[tuple[_Component, int, int]]
    """Component, number of its DC table, of its AC table."""
    first: int
    last: int
    high: int
    low: int
    raw: bytes | memoryview


class _Jpeg:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.position, self.orientation = 2, 1
        self.jfif, self.adobe, self.seen_adobe = False, 0, False
        self.frame = -1
        self.width = self.height = 0
        self.components: list[_Component] = []
        self.quantisers: dict[int, _Table] = {}
        self.codes: dict[int, _Table] = {}
        self.interval = self.written_interval = 0
        self.body: list[bytes | range | tuple[int, list[_Table]]] = []
        """What is written behind the application segments: bytes, a range of the data, or tables still to be packed."""
        self.scans = 0
        self.grey: NDArray[np.uint8] | None = None

    def repack(self) -> Container:
        try:
            return self._repack()
        finally:
            if self.frame == _SOF2 and self.scans:
                _walker()[b"start_picture"]()

    def _repack(self) -> Container:
        ended = False
        for marker, content, end in self._segments():
            if marker == _SOS:
                self._scan(content, end)
            elif marker == _EOI:
                ended = True
            else:
                self._segment(marker, content)
        self._check_complete(ended)
        pieces: list[bytes | range] = [b"\xff\xd8"]
        if self.jfif:
            pieces.append(_marked(_APP0, _JFIF))
        if self.seen_adobe and len(self.components) > 1:
            legal = (0, 1) if len(self.components) == 3 else (0, 2)
            pieces.append(_marked(_APP14, _ADOBE + bytes((self.adobe if self.adobe in legal else legal[1],))))
        for piece in self.body:
            if not isinstance(piece, tuple):
                pieces.append(piece)
            elif kept := b"".join(table.packed() for table in piece[1] if table.wanted):
                pieces.append(_marked(piece[0], kept))
        packed = self._joined([*pieces, b"\xff\xd9"])
        shape = self.width, self.height, 8, len(self.components)
        return Container(packed, "jpg", self.orientation, *shape, transparent=False, frames=1, grey=self.grey)

    def _joined(self, pieces: list[bytes | range]) -> bytes:
        """All pieces; the very data that were given, without a copy, where they are the same."""
        position = 0
        for piece in pieces:
            same = piece.start == position if isinstance(piece, range) else self.data.startswith(piece, position)
            if not same:
                view = memoryview(self.data)
                return b"".join(view[p.start : p.stop] if isinstance(p, range) else p for p in pieces)
            position += len(piece)
        return self.data if position == len(self.data) else self.data[:position]

    def _segments(self) -> Iterator[tuple[int, bytes, int]]:
        """Marker, content and end of each segment. Decoders skip what is between segments; so do we."""
        while found := _NEXT_MARKER.search(self.data, self.position):
            marker, position = found[1][0], found.end()
            self.position = position
            if marker in (_SOI, 0x01):
                continue
            if marker == _EOI:
                yield marker, b"", position
                return
            length = int.from_bytes(self.data[position : position + 2], "big")
            end = position + length
            if end > len(self.data) or position + 2 > len(self.data):
                if self.scans:
                    return
                raise DamagedImage("truncated_image", f"segment {marker:02X} at byte {position - 2} is cut off")
            if length < 2:
                raise DamagedImage("corrupt_image", f"segment {marker:02X} at byte {position - 2} has no length")
            self.position = end  # of a scan's header, that is: `_scan` goes on to the end of its data
            yield marker, self.data[position + 2 : end], end

    def _segment(self, marker: int, content: bytes) -> None:
        if marker == _DQT:
            self._quantiser_tables(content)
        elif marker == _DHT:
            self._huffman_tables(content)
        elif marker == _DRI:
            if len(content) != 2:
                raise DamagedImage("corrupt_image", "a restart interval of no legal length")
            self.interval = int.from_bytes(content, "big")
        elif marker in _WALKED_FRAMES:
            self._frame(marker, content)
        elif marker in _OTHER_FRAMES or marker == _ARITHMETIC_TABLES:
            raise UnusualCoding(f"JPEG process {marker:02X}")
        elif not self.scans:  # what follows the first scan no longer decides how colours are read
            self._application(marker, content)
        if not (_APP0 <= marker <= 0xEF or marker in (_DQT, _DHT, _DRI, _COM, _LINES, *_WALKED_FRAMES)):
            raise DamagedImage("corrupt_image", f"marker {marker:02X}, which no decoder knows")

    def _application(self, marker: int, content: bytes) -> None:
        if marker == _APP0 and content.startswith(b"JFIF\0") and len(content) >= len(_JFIF):
            self.jfif = True
        elif marker == _APP1 and content.startswith(b"Exif\0\0"):
            self.orientation = _exif_orientation(content[6:])
        elif marker == _APP14 and content.startswith(b"Adobe"):
            if len(content) < 12:
                raise UnusualCoding("an Adobe segment that is cut short, which decoders read in two ways")
            self.adobe, self.seen_adobe = content[11], True

    def _quantiser_tables(self, content: bytes) -> None:
        tables = [_Table(head, body, huffman=False) for head, body in _quantiser_parts(content)]
        self.quantisers.update((table.head & 15, table) for table in tables)
        self.body.append((_DQT, tables))

    def _huffman_tables(self, content: bytes) -> None:
        tables = [_Table(head, body, huffman=True) for head, body in _huffman_parts(content)]
        self.codes.update((table.head, table) for table in tables)
        self.body.append((_DHT, tables))

    def _frame(self, marker: int, content: bytes) -> None:
        if self.frame >= 0:
            raise DamagedImage("corrupt_image", "two frames")
        if len(content) < 6 or len(content) != 6 + 3 * content[5] or content[5] not in (1, 2, 3, 4):
            raise DamagedImage("corrupt_image", "a frame header of no legal length")
        precision, self.height, self.width, _ = struct.unpack(">BHHB", content[:6])
        check_pixels(self.width, self.height)
        if precision != 8:
            raise UnusualCoding(f"{precision} bits a channel")
        self.frame = marker
        for at in range(6, len(content), 3):
            number, sampling, quantiser = content[at : at + 3]
            across, down = sampling >> 4, sampling & 15
            if not (1 <= across <= 4 and 1 <= down <= 4 and quantiser <= 3):
                raise DamagedImage("corrupt_image", "a frame header with values that are not legal")
            self.components.append(_Component(number, across, down, quantiser))
        if len({component.number for component in self.components}) < len(self.components):
            raise DamagedImage("corrupt_image", "two components of one number")
        self.across = max(component.across for component in self.components)
        self.down = max(component.down for component in self.components)
        for component in self.components:
            component.columns = _divided(_divided(self.width * component.across, self.across), 8)
            component.rows = _divided(_divided(self.height * component.down, self.down), 8)
        self.body.append(b"")  # the frame's place; it is written when its component numbers are known
        self.frame_at = len(self.body) - 1

    def _numbers(self) -> list[int]:
        """Component numbers as written: 1, 2, 3, ... but for the two sets of letters by which encoders name colours.

        Decoders read RGB off these where neither JFIF nor Adobe speaks; every other number means YCbCr to them.
        """
        given = [component.number for component in self.components]
        return given if bytes(given) in (b"RGB", b"CMYK") else list(range(1, len(given) + 1))

    def _frame_header(self, height: int) -> bytes:
        parts = [
            (number, component.across << 4 | component.down, component.quantiser_number)
            for number, component in zip(self._numbers(), self.components, strict=True)
        ]
        packed = struct.pack(">BHHB", 8, height, self.width, len(parts))
        return _marked(self.frame, packed + b"".join(map(bytes, parts)))

    def _scan(self, content: bytes, end: int) -> None:
        if self.frame < 0:
            raise DamagedImage("corrupt_image", "a scan before its frame")
        scan = self._scan_header(content)
        found = _SCAN_END_OR_FILL.search(self.data, end)
        filled = found is not None and self.data[found.start() + 1] == 0xFF
        if found and filled:
            found = _SCAN_END.search(self.data, found.start())
        self.position = found.start() if found else len(self.data)
        scan.raw = memoryview(self.data)[end : self.position]
        if not self.scans:
            self.body[self.frame_at] = self._frame_header(self.height)
        self.scans += 1
        if self.scans > MAX_SCANS:
            raise DamagedImage("image_too_large", f"more than {MAX_SCANS} scans")
        mcus, plan = self._layout(scan)
        header = self._written_header(scan)
        last = found is not None and self.data[found.start() + 1] == _EOI
        if last and not filled and self._decoded(scan, header, mcus, plan):
            self.body += [header, range(end, self.position)]
            return
        interval = self.interval if 0 < self.interval < mcus else 0
        if interval != self.written_interval:
            self.body.append(_marked(_DRI, interval.to_bytes(2, "big")))
            self.written_interval = interval
        self.body += [header, self._walked(scan, interval or mcus, mcus, plan)]

    def _scan_header(self, content: bytes) -> _Scan:
        count = content[0] if content else 0
        if count not in (1, 2, 3, 4) or len(content) != 4 + 2 * count:
            raise DamagedImage("corrupt_image", "a scan header of no legal length")
        by_number = {component.number: component for component in self.components}
        parts = []
        for at in range(1, 1 + 2 * count, 2):
            component = by_number.pop(content[at], None)
            if component is None:
                raise DamagedImage("corrupt_image", "a scan of a component that the frame does not have")
            parts.append((component, content[at + 1] >> 4, content[at + 1] & 15))
        first, last, high, low = content[-3], content[-2], content[-1] >> 4, content[-1] & 15
        if self.frame != _SOF2:  # decoders look at none of these in a sequential scan
            first, last, high, low = 0, 63, 0, 0
        elif (first == 0) != (last == 0) or not first <= last <= 63 or (first and count > 1) or low > 13:
            raise DamagedImage("corrupt_image", "a progressive scan with values that are not legal")
        for component, _, _ in parts:
            if component.quantiser is None:
                component.quantiser = self.quantisers.get(component.quantiser_number)
                if component.quantiser is None:
                    raise DamagedImage("corrupt_image", "a quantisation table is missing")
                component.quantiser.wanted = True
            wanted = high if high else -1  # -1: not coded yet
            if set(component.precision[first : last + 1]) != {wanted} or (high and low != high - 1):
                raise UnusualCoding("scans that code a part of the picture twice")
            if first and component.precision[0] < 0:
                raise UnusualCoding("a scan of details before that of the mean brightness")
            component.precision[first : last + 1] = [low] * (last + 1 - first)
        if sum(c.across * c.down for c, _, _ in parts) > 10 and count > 1:
            raise DamagedImage("corrupt_image", "more than ten blocks in an MCU")
        return _Scan(parts, first, last, high, low, b"")

    def _layout(self, scan: _Scan) -> tuple[int, bytes]:
        """MCUs of the scan and, of each block of an MCU, component and slots of its tables for `jpeg_walk.lua`."""
        if len(scan.parts) == 1:
            component, dc, ac = scan.parts[0]
            return component.columns * component.rows, bytes((self.components.index(component) + 1, dc, 4 + ac))
        mcus = _divided(self.width, 8 * self.across) * _divided(self.height, 8 * self.down)
        blocks = (
            bytes((self.components.index(component) + 1, dc, 4 + ac)) * (component.across * component.down)
            for component, dc, ac in scan.parts
        )
        return mcus, b"".join(blocks)

    def _tables(self, scan: _Scan) -> dict[int, _Table]:
        """The scan's Huffman tables by their slots."""
        heads = set()
        for _, dc, ac in scan.parts:
            if scan.first == 0 and not scan.high:
                heads.add(dc)
            if scan.last > 0:
                heads.add(0x10 + ac)
        try:
            found = {(head & 15) + 4 * (head >> 4): self.codes[head] for head in heads}
        except KeyError as error:
            raise UnusualCoding("a Huffman table is missing") from error
        for slot, table in found.items():
            if slot < 4 and max(table.body[16:], default=0) > 15:
                raise DamagedImage("corrupt_image", "a Huffman table with symbols that are not legal")
            table.wanted = True
        return found

    def _written_header(self, scan: _Scan) -> bytes:
        tables = self._tables(scan)
        numbers = dict(zip(map(id, self.components), self._numbers(), strict=True))
        content = bytearray((len(scan.parts),))
        for component, dc, ac in scan.parts:
            slots = (dc << 4 if dc in tables else 0) | (ac if 4 + ac in tables else 0)
            content += bytes((numbers[id(component)], slots))
        return _marked(_SOS, bytes((*content, scan.first, scan.last, scan.high << 4 | scan.low)))

    def _walked(self, scan: _Scan, interval: int, mcus: int, plan: bytes) -> bytes:
        """The scan's data as they must be: each interval ends with its last code and padding of ones (F.1.2.3)."""
        raws, pieces = self._intervals(bytes(scan.raw), _divided(mcus, interval)), []
        starts, stops, position = [], [], 0
        for raw in raws:
            whole = raw.rstrip(b"\xff")  # fill bytes before a marker; a byte FF of the data has a 00 behind it
            filled = b"\xff\xff" in whole
            pieces.append(re.sub(rb"\xff+\0", b"\xff", whole) if filled else whole.replace(b"\xff\0", b"\xff"))
            starts.append(8 * position)
            position += len(pieces[-1])
            stops.append(8 * position)
        if position > 1 << 27:
            raise DamagedImage("image_too_large", f"a scan of {position} bytes")
        ends = self._walk(scan, b"".join((*pieces, _PADDING)), (starts, stops), interval, mcus, plan)
        kept = []
        for raw, piece, start, end in zip(raws, pieces, starts, ends, strict=True):
            bits = end - start
            cut = bytearray(piece[: _divided(bits, 8)])
            if bits % 8:
                cut[-1] |= 0xFF >> bits % 8
            same = cut == piece and len(piece) + piece.count(255) == len(raw)
            kept.append(raw if same else cut.replace(b"\xff", b"\xff\0"))
        restarts = [b"", *(bytes((0xFF, 0xD0 + number % 8)) for number in range(len(kept) - 1))]
        return b"".join(piece for pair in zip(restarts, kept, strict=True) for piece in pair)

    @staticmethod
    def _intervals(raw: bytes, count: int) -> list[bytes]:
        """The data between restart markers; those behind the last interval that the picture has are left out."""
        pieces = _RESTART.split(raw)
        if len(pieces) < 2 * count - 1:
            raise DamagedImage("truncated_image", "a scan ends before its last restart interval")
        if any(pieces[2 * number + 1][0] != 0xD0 + number % 8 for number in range(count - 1)):
            raise DamagedImage("corrupt_image", "restart markers out of order")
        return pieces[: 2 * count : 2]

    def _walk(
        self, scan: _Scan, text: bytes, bounds: tuple[list[int], list[int]], interval: int, mcus: int, plan: bytes
    ) -> list[int]:
        """Bits at which the intervals' codes end. Notes in the tables which symbols and quantisers were used."""
        walk, tables = _walker(), self._tables(scan)
        if self.frame == _SOF2 and scan.first == 0 and 8 * len(text) < mcus:
            raise DamagedImage("truncated_image", "a scan ends before its last block")  # before memory is asked for
        if self.scans == 1:
            held = [c.columns * c.rows if self.frame == _SOF2 else 0 for c in self.components]
            walk[b"start_picture"](*held)
        for slot, table in tables.items():
            walk[b"load_table"](slot, table.body, self.frame != _SOF2)
        starts, stops = (np.array(values, dtype="<i4").tobytes() for values in bounds)
        given, blocks = (text, starts, stops, len(bounds[0]), interval), len(plan) // 3
        marking = not all(component.quantiser and component.quantiser.plain for component in self.components)
        if self.frame != _SOF2:
            status, ends = walk[b"sequential"](*given, mcus, plan, blocks, marking)
        elif scan.first == 0:
            status, ends = walk[b"progressive_dc"](*given, mcus, plan, blocks, scan.high > 0)
        else:
            band = scan.first, scan.last, scan.high > 0
            status, ends = walk[b"progressive_ac"](*given, plan[0], mcus, plan[2], *band)
        if status == 1:
            raise DamagedImage("truncated_image", "a scan ends before its last block")
        if status == 2:
            raise DamagedImage("corrupt_image", "a scan holds bits that are no code")
        if status == 3:
            raise UnusualCoding("codes that the standard does not allow, though decoders read them")
        for slot, table in tables.items():
            if not table.plain:
                _note(table.uses, walk[b"used_codes"](slot))
        if self.frame == _SOF2 or marking:
            for component, _, _ in scan.parts:
                assert component.quantiser is not None
                _note(component.quantiser.uses, walk[b"used_quantisers"](self.components.index(component) + 1))
        return [int(end) for end in np.frombuffer(ends, dtype="<i4")]

    def _decoded(self, scan: _Scan, header: bytes, mcus: int, plan: bytes) -> bool:
        """Whether libjpeg-turbo decodes the scan without a byte too many or too few; keeps its grey pixels.

        It may have read up to seven bytes ahead when it has decoded the last MCU, and says nothing of them. So the
        picture is made one row of MCUs taller, with a restart before that row: there libjpeg counts the bytes that are
        left over, and warns at the next marker it has to look for (`process_restart` and `next_marker`). The row holds
        zeros and is cut off. Only for files where there is nothing else to find: one scan, published tables, the last
        bit a one as padding is, and no more MCUs than an interval can have.
        """
        tables = list(self._tables(scan).values())
        rows = self.height + 8 * self.down
        if (
            self.frame == _SOF2
            or len(self.components) not in (1, 3)
            or len(scan.parts) < len(self.components)
            or (len(self.components) == 1 and self.down > 1)
            or self.interval
            or mcus > 65535
            or rows > 65535
            or not scan.raw
            or not scan.raw[-1] & 1
            or self._numbers() == [*b"RGB"]
            or (self.seen_adobe and not self.jfif and self.adobe == 0)
            or not all(table.plain for table in tables)
            or not all(component.quantiser and component.quantiser.plain for component in self.components)
        ):
            return False
        across = self.components[0].columns if len(self.components) == 1 else _divided(self.width, 8 * self.across)
        wanted = {id(component.quantiser): component.quantiser for component in self.components}
        quantisers = _marked(_DQT, b"".join(table.packed() for table in wanted.values() if table))
        codes = _marked(_DHT, b"".join(table.packed() for table in tables))
        restart = _marked(_DRI, mcus.to_bytes(2, "big"))
        before = b"\xff\xd8", quantisers, codes, restart, self._frame_header(rows), header
        more = b"\xff\xd0", self._row_of_zeros(plan, across), _marked(_COM, b""), b"\xff\xd9"
        data = b"".join((*before, scan.raw, *more))
        scale = _dct_scale(self.width, self.height, GREY_AT_LEAST)
        height, width = _divided(rows, scale), _divided(self.width, scale)
        import simplejpeg  # loaded where a JPEG is read

        try:
            pixels = simplejpeg.decode_jpeg(data, "GRAY", min_height=height, min_width=width, strict=True)
        except ValueError:  # any warning of libjpeg's; the walk finds out what it is
            return False
        if pixels.shape != (height, width, 1):
            return False
        self.grey = pixels[: _divided(self.height, scale), :, 0]
        return True

    def _row_of_zeros(self, plan: bytes, mcus: int) -> bytes:
        """Entropy-coded data of so many MCUs in which every coefficient is zero."""
        tables = zip(plan[1::3], plan[2::3], strict=True)
        return _zeros(tuple((self.codes[dc].body, self.codes[0x10 + ac - 4].body) for dc, ac in tables), mcus)

    def _check_complete(self, ended: bool) -> None:
        if not self.scans:
            raise DamagedImage("truncated_image", "no picture data")
        if any(component.precision[0] < 0 for component in self.components):
            raise DamagedImage("truncated_image", "a component has no scan")
        if not ended and any(any(component.precision) for component in self.components):
            raise DamagedImage("truncated_image", "no end-of-image marker, and scans are missing")


@functools.lru_cache(256)
def _quantiser_parts(content: bytes) -> list[tuple[int, bytes]]:
    """Precision and number, and values, of the tables in a DQT segment."""
    parts = []
    while content:
        size = 65 if content[0] < 16 else 129
        if content[0] & 15 > 3 or content[0] > 0x13 or len(content) < size:
            raise DamagedImage("corrupt_image", "a quantisation table of no legal length or number")
        parts.append((content[0], content[1:size]))
        content = content[size:]
    return parts


@functools.lru_cache(256)
def _huffman_parts(content: bytes) -> list[tuple[int, bytes]]:
    """Class and number, and counts with symbols, of the tables in a DHT segment."""
    parts = []
    while content:
        size = 17 + sum(content[1:17])
        space = sum(count << (15 - place) for place, count in enumerate(content[1:17]))
        if content[0] & 15 > 3 or content[0] > 0x13 or size > 273 or len(content) < size or space > 1 << 16:
            raise DamagedImage("corrupt_image", "a Huffman table of no legal length or number")
        parts.append((content[0], content[1:size]))
        content = content[size:]
    return parts


@functools.lru_cache(64)
def _zeros(blocks: tuple[tuple[bytes, bytes], ...], mcus: int) -> bytes:
    bits = "".join(_code_of_zero(table) for pair in blocks for table in pair) * mcus
    bits += "1" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")


def _code_of_zero(table: bytes) -> str:
    """The code of symbol 0 as ones and zeros (T.81, annex C)."""
    code, place = 0, table.index(0, 16) - 16
    for length, count in enumerate(table[:16], 1):
        if place < count:
            return f"{code + place:0{length}b}"
        place -= count
        code = (code + count) << 1
    raise AssertionError


@functools.cache
def _walker() -> Any:
    """The functions of `jpeg_walk.lua`, compiled once a process."""
    try:
        from lupa.luajit21 import LuaRuntime  # loaded where a JPEG is walked
    except ImportError as error:
        raise UserError("this JPEG cannot be checked: lupa has LuaJIT on Linux and Windows only") from error
    runtime = LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
    return runtime.execute(Path(__file__).with_name("jpeg_walk.lua").read_bytes())


def _note(uses: bytearray, found: bytes) -> None:
    for place, used in enumerate(found):
        uses[place] |= used


def _dct_scale(width: int, height: int, at_least: int) -> int:
    """The largest of libjpeg's scales 8, 4, 2, 1 at which both sides keep so many pixels (as `Image.draft` has it)."""
    fitting = min(width // at_least, height // at_least)
    return next((scale for scale in (8, 4, 2) if fitting >= scale), 1)


def _marked(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _divided(value: int, by: int) -> int:
    return -(-value // by)


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


# PNG

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_GREY, _COLOUR, _PALETTE = 0, 2, 3
# First column and row, and the steps between columns and rows, of Adam7's passes (section 8.2).
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


@dataclass(frozen=True)
class _Header:
    """IHDR (section 11.2.1)."""

    width: int
    height: int
    depth: int
    colour: int
    interlaced: int

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Pixels a row, and rows, of each pass that has any."""
        if not self.interlaced:
            return [(self.width, self.height)]
        sizes = [(_divided(self.width - x, dx), _divided(self.height - y, dy)) for x, y, dx, dy in _ADAM7]
        return [(columns, rows) for columns, rows in sizes if columns > 0 and rows > 0]

    def stride(self, columns: int) -> int:
        """Bytes of a row without its filter byte."""
        return _divided(columns * self.depth * _CHANNELS[self.colour], 8)

    @property
    def bytes(self) -> int:
        """Of all rows with their filter bytes."""
        return sum(rows * (1 + self.stride(columns)) for columns, rows in self.passes)


def _repack_png(data: bytes) -> Container:
    header: _Header | None = None
    orientation, frames = 1, 1
    image: list[bytes] = []
    palette, transparency, ihdr = b"", None, b""
    for kind, content in _chunks(data):
        if kind == b"IHDR":
            if header is not None:
                raise DamagedImage("corrupt_image", "two headers")
            header, ihdr = _header(content), content
        elif header is None:
            raise DamagedImage("corrupt_image", f"{kind!r} before the header")
        elif kind == b"PLTE" and header.colour == _PALETTE and not palette:
            if not content or len(content) % 3 or len(content) > 3 << header.depth:
                raise DamagedImage("corrupt_image", "a palette of no legal length")
            palette = content
        elif kind == b"tRNS" and not image:
            transparency = content
        elif kind == b"IDAT":
            image.append(content)
        elif kind == b"acTL" and len(content) == 8:
            frames = max(1, int.from_bytes(content[:4], "big"))
        elif kind == b"eXIf":
            orientation = _exif_orientation(content)
    if header is None or not image:
        raise DamagedImage("truncated_image", "no picture data")
    if header.colour == _PALETTE and not palette:
        raise DamagedImage("corrupt_image", "no palette")
    image, uses = _image_data(header, image)
    transparency = _legal_transparency(header, transparency, uses)
    if header.colour == _PALETTE:
        palette = b"".join(palette[3 * n : 3 * n + 3] if n in uses else b"\0\0\0" for n in range(max(uses) + 1))
    chunks = [(b"IHDR", ihdr)]
    chunks += [(b"PLTE", palette)] if palette else []
    chunks += [(b"tRNS", transparency)] if transparency else []
    chunks += [(b"IDAT", content) for content in image]
    packed = _PNG_MAGIC + b"".join(_chunk(kind, content) for kind, content in (*chunks, (b"IEND", b"")))
    shape = header.width, header.height, header.depth, _CHANNELS[header.colour]
    transparent = bool(transparency) or header.colour in (4, 6)
    return Container(data if packed == data else packed, "png", orientation, *shape, transparent, frames)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk up to IEND. A file that is cut off ends where it does: its rows are counted."""
    position = len(_PNG_MAGIC)
    while position + 8 <= len(data):
        length, kind = int.from_bytes(data[position : position + 4], "big"), data[position + 4 : position + 8]
        content, end = data[position + 8 : position + 8 + length], position + 12 + length
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"IDAT") and end <= len(data):
            if zlib.crc32(content, zlib.crc32(kind)) != int.from_bytes(data[end - 4 : end], "big"):
                raise DamagedImage("corrupt_image", f"chunk {kind.decode()} has another checksum than it says")
        elif end > len(data) and kind != b"IDAT":
            return
        if kind == b"IEND":
            return
        yield kind, content
        position = end


def _header(content: bytes) -> _Header:
    if len(content) != 13:
        raise DamagedImage("corrupt_image", "a header of no legal length")
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", content)
    if depth not in _DEPTHS.get(colour, ()) or compression or filtering or interlaced > 1:
        raise DamagedImage("corrupt_image", "a header with values that are not legal")
    check_pixels(width, height)
    return _Header(width, height, depth, colour, interlaced)


def _image_data(header: _Header, parts: list[bytes]) -> tuple[list[bytes], set[int]]:
    """What the IDAT chunks hold, and the palette entries that pixels use.

    The chunks stay where all but the last have one length, as encoders write them, and the stream is explained: zlib
    (RFC 1950) without a dictionary, exactly the rows, a checksum that fits, nothing behind.
    """
    stream = b"".join(parts)
    inflater = zlib.decompressobj()
    try:
        rows = inflater.decompress(stream, header.bytes)
        more = inflater.decompress(inflater.unconsumed_tail, 1)  # reads the checksum where no row follows
    except zlib.error as error:
        raise DamagedImage("corrupt_image", "the compressed picture data are damaged") from error
    if len(rows) < header.bytes:
        raise DamagedImage("truncated_image", f"{len(rows)} of {header.bytes} bytes of rows")
    cleaned, uses = _rows(header, rows)
    even = len({len(part) for part in parts[:-1]}) <= 1 and 0 < len(parts[-1]) <= len(parts[0])
    if cleaned is rows and inflater.eof and not more and not inflater.unused_data:
        return (parts if even else [stream]), uses
    return [zlib.compress(cleaned, 6)], uses


def _rows(header: _Header, rows: bytes) -> tuple[bytes, set[int]]:
    """Rows whose padding bits are zero (the same object where they were), and the values of palette pixels."""
    values = np.frombuffer(rows, dtype=np.uint8)
    uses: set[int] = set()
    padded, cleaned, position = False, [], 0
    for columns, count in header.passes:
        stride = header.stride(columns)
        part = values[position : position + count * (1 + stride)].reshape(count, 1 + stride)
        position += part.size
        if part[:, 0].max() > 4:
            raise DamagedImage("corrupt_image", "a row with a filter that is not legal")
        if header.depth >= 8 and header.colour != _PALETTE:
            continue
        plain = _unfiltered(part)
        spare = -columns * header.depth % 8
        if spare and (plain[:, -1] & ((1 << spare) - 1)).any():
            padded = True
            plain[:, -1] &= 0xFF << spare & 0xFF
        cleaned.append(np.pad(plain, ((0, 0), (1, 0))).tobytes())  # filter 0: what is kept is written unfiltered
        if header.colour == _PALETTE:
            bits = np.unpackbits(plain, axis=1)[:, : columns * header.depth].reshape(-1, header.depth)
            uses |= set(np.unique(np.packbits(bits, axis=1) >> (8 - header.depth)).tolist())
    return (b"".join(cleaned) if padded else rows), uses


def _unfiltered(part: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Rows of pixels of at most a byte, their filters undone (section 9.2)."""
    plain = np.zeros((len(part) + 1, part.shape[1]), dtype=np.uint8)  # a row above, a byte to the left
    for number, (method, coded) in enumerate(zip(part[:, 0].tolist(), part[:, 1:], strict=True), 1):
        above, row = plain[number - 1], plain[number]
        if method == 0:
            row[1:] = coded
        elif method == 1:
            row[1:] = np.cumsum(coded, dtype=np.uint8)
        elif method == 2:
            row[1:] = coded + above[1:]
        else:
            row[1:] = list(_from_neighbours(method, coded.tolist(), above.tolist()))
    return plain[1:, 1:]


def _from_neighbours(method: int, coded: list[int], above: list[int]) -> Iterator[int]:
    left = 0
    for value, up, corner in zip(coded, above[1:], above, strict=False):
        if method == 3:
            guess = (left + up) // 2
        else:
            distances = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            guess = (left, up, corner)[distances.index(min(distances))]
        left = (value + guess) & 255
        yield left


def _legal_transparency(header: _Header, content: bytes | None, uses: set[int]) -> bytes | None:
    """A tRNS chunk's content: for palettes alpha values of used entries, else one colour (section 11.3.1.1)."""
    if content is None:
        return None
    if header.colour == _PALETTE:
        alphas = [alpha if entry in uses else 255 for entry, alpha in enumerate(content[: max(uses) + 1])]
        return bytes(alphas) if min(alphas, default=255) < 255 else None
    if len(content) != {_GREY: 2, _COLOUR: 6}.get(header.colour):
        return None
    mask = (1 << header.depth) - 1
    return b"".join((value & mask).to_bytes(2, "big") for (value,) in struct.iter_unpack(">H", content))


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))
