"""Nothing hides in a stored picture: an independent parser explains every byte of it, and its pixels are as before.

The parser below shares no code with `medgpt.containers`: it turns scans into strings of ones and zeros and reads code
by code, in plain Python. It is slow and meant for small pictures.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from medgpt.containers import DamagedImage, UnusualCoding, repack
from medgpt.formats import format_of

MARK = b"CANARY-PATIENT^XY"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
DATA = Path(__file__).parents[2] / "shared" / "data"


# Pictures and their parts


def encoded(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(width: int = 96, height: int = 80, seed: int = 0) -> Image.Image:
    small = np.random.default_rng(seed).integers(0, 255, (height // 3 + 1, width // 3 + 1, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height))


def pixels(data: bytes) -> tuple[str, tuple[int, int], bytes]:
    with Image.open(io.BytesIO(data)) as opened:
        mode = "RGBA" if opened.mode in ("P", "PA", "LA", "RGBA") or "transparency" in opened.info else opened.mode
        return mode, opened.size, opened.convert(mode).tobytes()


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def split(data: bytes) -> list[tuple[int, bytes, bytes]]:
    """A clean JPEG as (marker, content, entropy-coded data behind it)."""
    found, position = [], 0
    while position < len(data):
        assert data[position] == 0xFF, "something between two segments"
        marker, position = data[position + 1], position + 2
        content = raw = b""
        if marker not in (0xD8, 0xD9):
            length = int.from_bytes(data[position : position + 2], "big")
            content, position = data[position + 2 : position + length], position + length
        if marker == 0xDA:
            end = position
            while data[end] != 0xFF or data[end + 1] == 0 or 0xD0 <= data[end + 1] <= 0xD7:
                end += 1
            raw, position = data[position:end], end
        found.append((marker, content, raw))
    return found


def joined(parts: list[tuple[int, bytes, bytes]]) -> bytes:
    return b"".join(bytes((0xFF, m)) if m in (0xD8, 0xD9) else segment(m, content) + raw for m, content, raw in parts)


def edited(data: bytes, marker: int, edit: Callable[[bytes, bytes], tuple[bytes, bytes]], which: int = 0) -> bytes:
    """The JPEG with content and data of its nth segment of a kind changed."""
    parts = split(data)
    place = [index for index, part in enumerate(parts) if part[0] == marker][which]
    parts[place] = (marker, *edit(*parts[place][1:]))
    return joined(parts)


def chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, position = [], len(PNG_MAGIC)
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
        assert chunk(*found[-1]) == data[position - 12 - length : position], "a checksum or a length"
    return found


def png(parts: list[tuple[bytes, bytes]]) -> bytes:
    return PNG_MAGIC + b"".join(chunk(*part) for part in parts)


def rewritten(data: bytes, edit: Callable[[bytes], bytes]) -> bytes:
    """The PNG with its rows changed."""
    parts = chunks(data)
    rows = zlib.decompress(b"".join(content for kind, content in parts if kind == b"IDAT"))
    head = [part for part in parts if part[0] not in (b"IDAT", b"IEND")]
    return png([*head, (b"IDAT", zlib.compress(edit(rows))), (b"IEND", b"")])


# The independent parser


def rounded(value: int, by: int) -> int:
    return (value + by - 1) // by


def codes_of(table: bytes) -> dict[str, int]:
    found, code, place = {}, 0, 16
    for length, count in enumerate(table[:16], 1):
        for _ in range(count):
            found[f"{code:0{length}b}"] = table[place]
            code, place = code + 1, place + 1
        code <<= 1
    return found


class Bits:
    """A restart interval as ones and zeros."""

    def __init__(self, data: bytes) -> None:
        assert b"\xff" not in data.replace(b"\xff\0", b""), "a marker or fill inside a scan"
        self.text = "".join(f"{byte:08b}" for byte in data.replace(b"\xff\0", b"\xff"))
        self.at = 0

    def symbol(self, table: tuple[dict[str, int], set[str]]) -> int:
        codes, used = table
        for length in range(1, 17):
            code = self.text[self.at : self.at + length]
            if code in codes:
                assert self.at + length <= len(self.text)
                self.at += length
                used.add(code)
                return codes[code]
        raise AssertionError("bits that are no code")

    def number(self, count: int) -> int:
        self.at += count
        assert self.at <= len(self.text), "a scan that is cut off"
        return int(self.text[self.at - count : self.at] or "0", 2)

    def explained(self) -> None:
        """All was read but padding, whose last bit is a one."""
        assert len(self.text) - self.at < 8, "bytes behind the last code"
        assert self.text[self.at :] == "" or self.text[-1] == "1"


def explain_jpeg(data: bytes) -> None:
    """Walks the whole file; fails at the first byte that decoding would not miss."""
    parts = split(data)
    markers = [marker for marker, _, _ in parts]
    assert markers[0] == 0xD8
    assert markers[-1] == 0xD9
    assert markers.count(0xD8) == markers.count(0xD9) == 1
    kinds: dict[int, dict] = {}  # of quantisers
    tables: dict[int, dict] = {}
    every: list[dict] = []
    frame: dict[int, dict] = {}
    interval = used_interval = 0
    for marker, content, raw in parts[1:-1]:
        if marker == 0xE0:
            assert content == b"JFIF\0\1\1\0\0\1\0\1\0\0"
        elif marker == 0xEE:
            assert content[:11] == b"Adobe\0\x64\0\0\0\0"
            assert len(content) == 12
            assert content[11] in (0, 1, 2)
        elif marker == 0xDB:
            while content:
                size = 65 if content[0] < 16 else 129
                assert len(content) >= size
                kinds[content[0] & 15] = {"body": content[1:size], "used": set()}
                every.append(kinds[content[0] & 15])
                content = content[size:]
        elif marker == 0xC4:
            while content:
                size = 17 + sum(content[1:17])
                assert len(content) >= size
                tables[content[0]] = {"body": content[1:size], "codes": codes_of(content[1:size]), "used": set()}
                every.append(tables[content[0]])
                content = content[size:]
        elif marker == 0xDD:
            interval, used_interval = int.from_bytes(content, "big"), 0
            assert len(content) == 2
        elif marker in (0xC0, 0xC1, 0xC2):
            assert not frame
            assert content[0] == 8
            assert len(content) == 6 + 3 * content[5]
            height, width = struct.unpack(">HH", content[1:5])
            for at in range(6, len(content), 3):
                number, sampling, quantiser = content[at : at + 3]
                frame[number] = {"h": sampling >> 4, "v": sampling & 15, "tq": quantiser, "blocks": {}, "q": None}
            assert list(frame) in ([*range(1, len(frame) + 1)], [*b"RGB"], [*b"CMYK"])
            progressive = marker == 0xC2
            most_h, most_v = max(c["h"] for c in frame.values()), max(c["v"] for c in frame.values())
        else:
            assert marker == 0xDA, f"segment {marker:02X}"
            assert len(content) == 4 + 2 * content[0]
            scanned = [(frame[content[at]], content[at + 1]) for at in range(1, 1 + 2 * content[0], 2)]
            for component, _ in scanned:
                component["q"] = component["q"] or kinds[component["tq"]]
            used_interval += explain_scan(
                scanned, content[-3:], raw, tables, interval, progressive, (width, height, most_h, most_v)
            )
    assert all(component["blocks"] for component in frame.values())
    assert not interval or used_interval, "a restart interval that nothing uses"
    for component in frame.values():
        for block in component["blocks"].values():
            component["q"]["used"] |= block
    for table in every:
        explain_table(table)


def explain_scan(
    scanned: list, settings_: bytes, raw: bytes, tables: dict, interval: int, progressive: bool, size: tuple
) -> int:
    first, last, high, low = settings_[0], settings_[1], settings_[2] >> 4, settings_[2] & 15
    assert progressive or (first, last, high, low) == (0, 63, 0, 0)
    width, height, most_h, most_v = size
    order: list[list[tuple]] = []
    if len(scanned) == 1:
        component, selected = scanned[0]
        columns = rounded(rounded(width * component["h"], most_h), 8)
        rows = rounded(rounded(height * component["v"], most_v), 8)
        order = [[(component, selected, (x, y))] for y in range(rows) for x in range(columns)]
    else:
        for y in range(rounded(height, 8 * most_v)):
            for x in range(rounded(width, 8 * most_h)):
                order.append(
                    [
                        (c, selected, (x * c["h"] + i, y * c["v"] + j))
                        for c, selected in scanned
                        for j in range(c["v"])
                        for i in range(c["h"])
                    ]
                )
    step = interval or len(order)
    pieces, position = [], 0
    for number in range(rounded(len(order), step) - 1):
        end = raw.index(bytes((0xFF, 0xD0 + number % 8)), position)
        pieces.append(raw[position:end])
        position = end + 2
    pieces.append(raw[position:])
    for number, piece in enumerate(pieces):
        bits, run = Bits(piece), 0
        for unit in order[number * step : (number + 1) * step]:
            for component, selected, place in unit:
                held = component["blocks"].setdefault(place, set())
                dc, ac = tables.get(selected >> 4), tables.get(0x10 + (selected & 15))
                if first == 0:
                    if high:
                        bits.number(1)
                    else:
                        bits.number(bits.symbol((dc["codes"], dc["used"])))
                        held.add(0)
                if last:
                    run = explain_block(
                        bits, (ac["codes"], ac["used"]), held, max(first, 1), last, high > 0, progressive, run
                    )
        assert run == 0
        bits.explained()
    return len(pieces) > 1


def explain_block(
    bits: Bits, table: tuple, held: set, k: int, last: int, later: bool, progressive: bool, run: int
) -> int:
    """Reads a block's details; returns the blocks that an end-of-band run still spans."""
    old = set(held) if later else set()
    if run:
        bits.number(sum(place in old for place in range(k, last + 1)))
        return run - 1
    while k <= last:
        symbol = bits.symbol(table)
        zeros, size = symbol >> 4, symbol & 15
        if size == 0 and zeros < 15:
            assert progressive or zeros == 0
            run = (1 << zeros) - 1 + bits.number(zeros)
            bits.number(sum(place in old for place in range(k, last + 1)))
            return run
        bits.number(size)
        while True:
            assert k <= last
            if k in old:
                bits.number(1)
            elif zeros == 0:
                break
            else:
                zeros -= 1
            k += 1
        if size:
            held.add(k)
        k += 1
    return 0


STANDARD = {  # what Pillow writes where nobody asks for better tables; of scaled quantisers all qualities
    table
    for quality in range(1, 101)
    for marker, content, _ in split(encoded(noise(16, 16), "JPEG", quality=quality))
    if marker in (0xDB, 0xC4)
    for table in ([content[1:]] if marker == 0xC4 else [content[at + 1 : at + 65] for at in range(0, len(content), 65)])
}


def explain_table(table: dict) -> None:
    assert table["used"], "a table that nothing uses"
    body = table["body"]
    if body in STANDARD:
        return
    if "codes" in table:
        codes = list(table["codes"])
        assert codes[-1] in table["used"], "codes behind the last used one"
        assert all(code in table["used"] or symbol == 0 for code, symbol in table["codes"].items())
    else:
        size = len(body) // 64
        values = [body[at : at + size] for at in range(0, len(body), size)]
        assert all(k in table["used"] or values[k] == values[k - 1] for k in range(1, 64)), "quantisers nothing uses"


ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def explain_png(data: bytes) -> None:
    assert data.startswith(PNG_MAGIC)
    parts = chunks(data)
    kinds = [kind for kind, _ in parts]
    assert kinds == sorted(kinds, key=[b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"].index)
    assert all(kinds.count(kind) <= 1 for kind in set(kinds) - {b"IDAT"})
    contents = dict(parts)
    assert contents[b"IEND"] == b""
    width, height, depth, colour, compression, filtering, interlaced = struct.unpack(">IIBBBBB", contents[b"IHDR"])
    assert compression == filtering == 0
    sizes = [len(content) for kind, content in parts if kind == b"IDAT"]
    assert all(one == other for one, other in pairwise(sizes[:-1]))
    assert 0 < sizes[-1] <= sizes[0]
    inflater = zlib.decompressobj()
    rows = inflater.decompress(b"".join(content for kind, content in parts if kind == b"IDAT"))
    assert inflater.eof
    assert not inflater.unused_data
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    wanted = 0
    for x, y, dx, dy in ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, lines = len(range(x, width, dx)), len(range(y, height, dy))
        stride = rounded(columns * depth * channels, 8)
        for _ in range(lines if columns else 0):
            assert rows[wanted] <= 4
            if rows[wanted] == 0 and columns * depth * channels % 8:
                assert rows[wanted + stride] & ((1 << (8 - columns * depth % 8)) - 1) == 0, "bits behind a row"
            wanted += 1 + stride
    assert wanted == len(rows)
    assert (b"PLTE" in contents) == (colour == 3)
    with Image.open(io.BytesIO(data)) as opened:
        if colour == 3:
            used = set(np.unique(np.asarray(opened)).tolist())
            entries = [contents[b"PLTE"][at : at + 3] for at in range(0, len(contents[b"PLTE"]), 3)]
            assert len(entries) == max(used) + 1
            assert all(entry in used or value == b"\0\0\0" for entry, value in enumerate(entries))
            alphas = contents.get(b"tRNS", b"")
            assert len(alphas) <= len(entries)
            assert all(entry in used or alpha == 255 for entry, alpha in enumerate(alphas))
        elif b"tRNS" in contents:
            assert len(contents[b"tRNS"]) == {0: 2, 2: 6}[colour]
            assert all(value < 1 << depth for (value,) in struct.iter_unpack(">H", contents[b"tRNS"]))


def explain(data: bytes) -> None:
    {"JPEG": explain_jpeg, "PNG": explain_png}[format_of(data)](data)


# Hiding places

PICTURE = noise()
JPEG, PNG = encoded(PICTURE, "JPEG"), encoded(PICTURE, "PNG")
PALETTE = encoded(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=40), "PNG")
PROGRESSIVE = encoded(PICTURE, "JPEG", progressive=True)
OPTIMISED = encoded(PICTURE, "JPEG", optimize=True)
RESTARTS = encoded(PICTURE, "JPEG", restart_marker_blocks=2)
THUMBNAIL = encoded(PICTURE.resize((16, 16)), "JPEG", comment=MARK)
TABLE = b"\x13" + bytes([0] * 7 + [17] + [0] * 8) + MARK


def inserted(piece: bytes, at: int = 2) -> bytes:
    return JPEG[:at] + piece + JPEG[at:]


def reported_jpegs() -> dict[str, bytes]:
    scan = JPEG.find(b"\xff\xda")
    tiff = b"Exif\0\0II*\0\x08\0\0\0\0\0"
    made = {
        "EXIF": inserted(segment(0xE1, tiff + MARK)),
        "EXIF thumbnail": inserted(segment(0xE1, tiff + THUMBNAIL)),
        "XMP": inserted(segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x>" + MARK)),
        "ICC": inserted(segment(0xE2, b"ICC_PROFILE\0\1\1" + MARK)),
        "IPTC": inserted(segment(0xED, b"Photoshop 3.0\0" + MARK)),
        "COM": inserted(segment(0xFE, MARK)),
    }
    made |= {f"APP{m - 0xE0}": inserted(segment(m, MARK + b"x" * 20)) for m in range(0xE3, 0xF0)}
    made |= {
        "APP14 with a tail": inserted(segment(0xEE, b"Adobe\0\x64\0\0\0\0\1" + MARK)),
        "APP0 of any content": inserted(segment(0xE0, MARK)),
        "APP0 JFIF thumbnail": inserted(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\x02\x03" + (MARK + b"\0" * 18)[:18])),
        "APP0 JFIF with a tail": inserted(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0" + MARK)),
        "APP0 JFXX thumbnail": inserted(segment(0xE0, b"JFXX\0\x10" + THUMBNAIL)),
    }
    markers = (0x01, 0x02, 0x10, 0xBF, 0xC8, 0xDC, 0xDE, 0xDF, 0xF0, 0xF7, 0xFD)
    made |= {f"marker {m:02X}": inserted(segment(m, MARK)) for m in markers}
    header = b"\xff\xda" + struct.pack(">H", 12 + len(MARK)) + JPEG[scan + 4 : scan + 14] + MARK
    return made | {
        "after the end": JPEG + MARK,
        "a second JPEG after the end": JPEG + THUMBNAIL,
        "COM between scan and end": JPEG[:-2] + segment(0xFE, MARK) + JPEG[-2:],
        "behind the entropy-coded data": JPEG[:-2] + MARK + JPEG[-2:],
        "an unused quantisation table": inserted(segment(0xDB, b"\x03" + (MARK * 4)[:64]), scan),
        "an unused Huffman table": inserted(segment(0xC4, TABLE), scan),
        "an over-long scan header": JPEG.replace(JPEG[scan : scan + 14], header),
        "fill bytes": inserted(b"\xff" * 5),
    }


def reported_pngs() -> dict[str, bytes]:
    contents = {
        b"tEXt": b"C\0" + MARK,
        b"zTXt": b"C\0\0" + MARK,
        b"iTXt": b"C\0\0\0\0\0" + MARK,
        b"eXIf": b"II*\0\x08\0\0\0\0\0" + MARK,
        b"iCCP": b"C\0\0" + MARK,
        b"tIME": MARK[:7],
        b"pHYs": MARK[:9],
        b"dSIG": MARK,
        b"caNv": MARK,
        b"vpAg": MARK,
        b"sPLT": MARK,
        b"hIST": MARK,
        b"bKGD": MARK[:6],
        b"gAMA": b"\0\0\xb1\x8f" + MARK,
        b"cHRM": b"\0" * 32 + MARK,
        b"sRGB": b"\0" + MARK,
        b"sBIT": b"\x08\x08\x08" + MARK,
        b"tRNS": MARK,
        b"PLTE": (MARK + b"\0\0\0")[:18],
        b"oFFs": MARK[:9],
        b"sCAL": MARK,
        b"iDOT": MARK,
        b"CgBI": MARK,
    }
    made = {f"PNG {kind.decode()}": PNG[:33] + chunk(kind, data) + PNG[33:] for kind, data in contents.items()}
    parts = chunks(PNG)
    head, stream = parts[:1], b"".join(content for kind, content in parts if kind == b"IDAT")
    end = (b"IEND", b"")
    web = chunks(encoded(PICTURE.convert("P"), "PNG"))  # its first ten entries are colours of nobody
    entries = [(kind, MARK + c[len(MARK) :] if kind == b"PLTE" else c) for kind, c in web]
    return made | {
        "PNG after IEND": PNG + MARK,
        "PNG IEND with content": PNG[:-12] + chunk(b"IEND", MARK),
        "PNG behind the zlib stream": png([*head, (b"IDAT", stream + MARK), end]),
        "PNG one more IDAT": png([*head, (b"IDAT", stream), (b"IDAT", MARK), end]),
        "PNG more rows (compressed)": png([*head, (b"IDAT", zlib.compress(zlib.decompress(stream) + MARK, 0)), end]),
        "PNG palette": png(entries),
        "PNG animation frame": PNG[:33] + chunk(b"fdAT", MARK) + PNG[33:],
    }


def tail(piece: bytes) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    return lambda content, raw: (content, raw + piece)


def before_restart(content: bytes, raw: bytes) -> tuple[bytes, bytes]:
    at = raw.index(b"\xff\xd1")
    return content, raw[:at] + MARK + raw[at:]


def padded(which: bytes) -> Callable[[bytes, bytes], tuple[bytes, bytes]]:
    """Zeros for the ones before a marker, where more than one is there."""

    def edit(content: bytes, raw: bytes) -> tuple[bytes, bytes]:
        at = len(raw) if which == b"" else raw.index(which)
        bits = Bits(raw[:at].split(b"\xff\xd0")[-1]) if which else None
        assert bits is None or bits.text
        return content, raw[: at - 1] + bytes((raw[at - 1] & 0xFE,)) + raw[at:]

    return edit


def other_jpegs() -> dict[str, bytes]:
    quantisers = {part[1][0]: part[1] for part in split(JPEG) if part[0] == 0xDB}
    joint = [part for part in split(JPEG) if part[0] != 0xDB]
    joint.insert(2, (0xDB, b"".join(quantisers.values()) + b"\x02" + (MARK * 4)[:64], b""))
    wide = [
        (0xDB, bytes((c[0] | 16,)) + b"".join(bytes((0, v)) for v in c[1:]) + b"\x13" + (MARK * 8)[:128], r)
        if m == 0xDB
        else (m, c, r)
        for m, c, r in split(JPEG)
    ]
    smooth = encoded(Image.new("L", (64, 64), 77), "JPEG", qtables=[[3] * 64])
    unseen = edited(smooth, 0xDB, lambda c, r: (c[:20] + MARK + c[20 + len(MARK) :], r))

    def longer_table(content: bytes, raw: bytes) -> tuple[bytes, bytes]:
        counts = bytearray(content[1:17])
        free = (1 << 16) - sum(count << (15 - n) for n, count in enumerate(counts))
        counts[15] += min(17, free - 1)
        return content[:1] + counts + content[17:] + MARK[: min(17, free - 1)], raw

    return {
        "seven bytes behind the data": edited(JPEG, 0xDA, tail(MARK[:7])),
        "one byte behind the data": edited(JPEG, 0xDA, tail(b"\x43")),
        "one byte of padding behind the data": edited(JPEG, 0xDA, tail(b"\x7f")),
        "many ones behind the data": edited(JPEG, 0xDA, tail(b"\xff\0" * 9)),
        "a restart marker and data behind the data": edited(JPEG, 0xDA, tail(b"\xff\xd0" + MARK)),
        "fill and data behind the data": edited(JPEG, 0xDA, tail(b"\xff\xff\0" + MARK)),
        "fill before the end": edited(JPEG, 0xDA, tail(b"\xff\xff\xff")),
        "TEM and data behind the data": edited(JPEG, 0xDA, tail(b"\xff\x01" + MARK)),
        "first scan of a progressive file": edited(PROGRESSIVE, 0xDA, tail(MARK)),
        "third scan of a progressive file": edited(PROGRESSIVE, 0xDA, tail(MARK[:7]), 2),
        "last scan of a progressive file": edited(PROGRESSIVE, 0xDA, tail(MARK[:7]), -1),
        "one byte in a middle scan": edited(PROGRESSIVE, 0xDA, tail(b"C"), 5),
        "optimised tables, tail": edited(OPTIMISED, 0xDA, tail(MARK[:7])),
        "before a restart marker": edited(RESTARTS, 0xDA, before_restart),
        "behind the last restart interval": edited(RESTARTS, 0xDA, tail(MARK)),
        "more restart intervals than the picture has": edited(RESTARTS, 0xDA, tail(b"\xff\xd6" + MARK)),
        "an unused table among progressive ones": PROGRESSIVE.replace(
            b"\xff\xc4", segment(0xC4, TABLE) + b"\xff\xc4", 1
        ),
        "a table before the last scan that it does not use": PROGRESSIVE[: PROGRESSIVE.rindex(b"\xff\xda")]
        + segment(0xC4, TABLE)
        + PROGRESSIVE[PROGRESSIVE.rindex(b"\xff\xda") :],
        "a table that another replaces": JPEG.replace(b"\xff\xc4", segment(0xC4, b"\0" + TABLE[1:]) + b"\xff\xc4", 1),
        "codes that no scan uses": edited(OPTIMISED, 0xC4, longer_table, 1),
        "a quantiser that another replaces": JPEG.replace(
            b"\xff\xdb", segment(0xDB, b"\0" + (MARK * 4)[:64]) + b"\xff\xdb", 1
        ),
        "several quantisers in a segment": joined(joint),
        "quantisers of 16 bits": joined(wide),
        "quantisers of coefficients that are all zero": unseen,
        "a quantiser behind the scan": JPEG[:-2] + segment(0xDB, b"\0" + (MARK * 4)[:64]) + JPEG[-2:],
        "a Huffman table behind the scan": JPEG[:-2] + segment(0xC4, TABLE) + JPEG[-2:],
        "APP14 behind the scan": JPEG[:-2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\0" + MARK) + JPEG[-2:],
        "JFIF version and density": JPEG.replace(b"JFIF\0\1\1\0\0\1\0\1", b"JFIF\0" + MARK[:7]),
        "Adobe version and flags": inserted(segment(0xEE, b"Adobe" + MARK[:6] + b"\1")),
        "a restart interval longer than the picture": inserted(segment(0xDD, b"CA"), JPEG.find(b"\xff\xda")),
        "restart intervals one after another": inserted(segment(0xDD, b"CA") * 9 + segment(0xDD, b"\0\0")),
        "numbers of components": edited(
            edited(JPEG, 0xC0, lambda c, r: (c[:6] + b"C" + c[7:9] + b"A" + c[10:12] + b"N" + c[13:], r)),
            0xDA,
            lambda c, r: (c[:1] + b"C" + c[2:3] + b"A" + c[4:5] + b"N" + c[6:], r),
        ),
        "band of a sequential scan": edited(JPEG, 0xDA, lambda c, r: (c[:-3] + b"CAN", r)),
        "bytes between segments": inserted(MARK, JPEG.find(b"\xff\xdb")),
        "stuffed bytes between segments": inserted(b"\xff\0" + MARK, JPEG.find(b"\xff\xdb")),
        "restart markers between segments": inserted(b"\xff\xd3\xff\xd1" + MARK, JPEG.find(b"\xff\xdb")),
        "DNL behind the scan": JPEG[:-2] + segment(0xDC, MARK) + JPEG[-2:],
        "no end": JPEG[:-2] + b"",
        "padding before a restart marker": edited(RESTARTS, 0xDA, padded(b"\xff\xd1")),
    }


def other_pngs() -> dict[str, bytes]:
    def interlaced(picture: Image.Image, depth: int, colour: int, edit: Callable[[list], None] | None = None) -> bytes:
        values = np.asarray(picture)
        rows = []
        for x, y, dx, dy in ADAM7:
            for line in values[y::dy, x::dx]:
                if line.size:
                    bits = np.unpackbits(line.reshape(-1, 1), axis=1)[:, 8 - depth :].ravel()
                    rows.append(bytearray(b"\0" + np.packbits(bits).tobytes()))
        if edit:
            edit(rows)
        header = struct.pack(">IIBBBBB", *picture.size, depth, colour, 0, 0, 1)
        return png([(b"IHDR", header), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")])

    def spare(rows: list) -> None:
        for row in rows:
            row[-1] |= 1

    grey = PICTURE.convert("L")
    ones = Image.fromarray((np.asarray(grey)[:, :91] > 128).astype(np.uint8))
    binary = encoded(grey.convert("1").crop((0, 0, 91, 40)), "PNG")
    parts, end = chunks(PNG), (b"IEND", b"")
    head, stream = parts[:1], b"".join(content for kind, content in parts if kind == b"IDAT")
    rows = zlib.decompress(stream)
    cut = encoded(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=4), "PNG")
    spread = [(k, c + MARK[:15] if k == b"PLTE" and len(c) < 700 else c) for k, c in chunks(PALETTE)]
    colours = encoded(PICTURE.convert("P", palette=Image.Palette.ADAPTIVE, colors=40), "PNG", transparency=b"\x80" * 40)
    behind = [(k, c + MARK if k == b"tRNS" else c) for k, c in chunks(colours)]
    packer = zlib.compressobj(6)
    flushed = b"".join(
        packer.compress(rows[at : at + 500]) + packer.flush(zlib.Z_FULL_FLUSH) for at in range(0, len(rows), 500)
    )
    return {
        "one byte more than the rows": rewritten(PNG, lambda r: r + b"C"),
        "Adam7, more rows": rewritten(interlaced(grey, 8, 0), lambda r: r + MARK),
        "Adam7, bits behind rows": interlaced(ones, 1, 0, spare),
        "Adam7 colour, behind the stream": png(
            [(k, c + MARK if k == b"IDAT" else c) for k, c in chunks(interlaced(grey, 8, 0))]
        ),
        "bits behind rows": rewritten(
            binary, lambda r: b"".join(r[a : a + 12] + bytes((r[a + 12] | 0x1F,)) for a in range(0, len(r), 13))
        ),
        "palette of 2 bits with more entries": png([(k, c[:12] if k == b"PLTE" else c) for k, c in chunks(cut)]),
        "unused palette entries": png(spread),
        "alpha of entries that are not there": png(behind),
        "tRNS of grey with a tail": encoded(grey, "PNG")[:33]
        + chunk(b"tRNS", b"\0\1" + MARK)
        + encoded(grey, "PNG")[33:],
        "tRNS high bits": encoded(grey, "PNG")[:33] + chunk(b"tRNS", b"C\1") + encoded(grey, "PNG")[33:],
        "tRNS beside alpha": encoded(PICTURE.convert("RGBA"), "PNG")[:33]
        + chunk(b"tRNS", MARK[:6])
        + encoded(PICTURE.convert("RGBA"), "PNG")[33:],
        "PLTE of true colour": PNG[:33] + chunk(b"PLTE", (MARK * 3)[:48]) + PNG[33:],
        "lengths of IDAT chunks": png(
            [*head, *((b"IDAT", stream[a:b]) for a, b in pairwise([0, 67, 132, 210, len(stream)])), end]
        ),
        "empty IDAT chunks": png([*head, (b"IDAT", b""), (b"IDAT", stream), (b"IDAT", b""), end]),
        "a chunk between IDAT chunks": png(
            [*head, (b"IDAT", stream[:99]), (b"teXt", MARK), (b"IDAT", stream[99:]), end]
        ),
        "a text chunk with a false checksum": PNG[:33] + chunk(b"tEXt", MARK)[:-1] + b"C" + PNG[33:],
        "a second stream": png([*head, (b"IDAT", stream + zlib.compress(MARK)), end]),
        "an IDAT behind the end": PNG + chunk(b"IDAT", MARK),
        "no IEND": PNG[:-12],
        "bytes in the last chunk's place": PNG[:-12] + MARK,
        "flushed stream": png([*head, (b"IDAT", flushed + packer.flush()), end]),
        "gAMA behind the picture": PNG[:-12] + chunk(b"gAMA", MARK) + PNG[-12:],
    }


PLACES = reported_jpegs() | reported_pngs() | other_jpegs() | other_pngs()
UNREADABLE = {
    *(f"marker {m:02X}" for m in (0x02, 0x10, 0xBF, 0xC8, 0xDE, 0xDF, 0xF0, 0xF7, 0xFD)),
    "an over-long scan header",
}
"""Refused, as by every decoder."""
STRICTER = {
    "no end",
    "marker 01",
    "no IEND",
    "bytes in the last chunk's place",
    "PNG animation frame",
    "a chunk between IDAT chunks",
    "a text chunk with a false checksum",
}
"""Whole pictures, though Pillow does not read these files."""


@pytest.mark.parametrize("name", PLACES)
def test_a_hiding_place_is_gone(name: str) -> None:
    data = PLACES[name]
    if name in UNREADABLE:
        with pytest.raises(DamagedImage):
            repack(data)
        return
    packed = repack(data).data
    explain(packed)
    assert MARK[:5] not in packed
    before = JPEG if name in STRICTER and format_of(data) == "JPEG" else PNG if name in STRICTER else data
    if name in ("PNG tRNS", "tRNS of grey with a tail"):  # of no legal length: Pillow applies it, libpng does not
        assert pixels(packed)[2] == Image.open(io.BytesIO(data)).tobytes()
    else:
        assert pixels(packed) == pixels(before)
    assert repack(packed).data is packed


def test_places_are_as_many_as_reported() -> None:
    assert len(reported_jpegs()) + len(reported_pngs()) >= 73
    assert len(other_jpegs()) + len(other_pngs()) >= 25


def pictures() -> dict[str, bytes]:
    made = {}
    for width, height in ((1, 1), (7, 9), (16, 16), (17, 33), (129, 140), (300, 270)):
        colour = noise(width, height, width)
        made |= {
            f"grey {width}": encoded(colour.convert("L"), "JPEG"),
            f"CMYK {width}": encoded(colour.convert("CMYK"), "JPEG"),
        }
        made[f"RGB {width}"] = encoded(colour, "JPEG", keep_rgb=True)
        for sampling in ("4:4:4", "4:2:2", "4:2:0"):
            for options in ({}, {"progressive": True}, {"optimize": True}, {"restart_marker_rows": 1}):
                made[f"{sampling} {width} {options}"] = encoded(colour, "JPEG", subsampling=sampling, **options)
        for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
            picture = colour.convert("L").convert("I").convert("I;16") if mode == "I;16" else colour.convert(mode)
            made[f"PNG {mode} {width}"] = encoded(picture, "PNG")
    return made


@pytest.mark.parametrize("name", pictures())
def test_ordinary_pictures(name: str) -> None:
    data = pictures()[name]
    container = repack(data)
    unused = name.startswith("PNG P") or ("restart" in name and container.height <= 16)  # colours; an interval
    assert container.data is data or unused
    explain(container.data)
    with Image.open(io.BytesIO(data)) as opened:
        assert (container.width, container.height) == opened.size
        assert pixels(container.data) == pixels(data)
        if container.grey is not None:
            opened.draft("L", (128, 128))
            assert np.array_equal(container.grey, np.asarray(opened.convert("L")))


@pytest.mark.parametrize(("width", "height"), [(255, 300), (257, 256), (515, 700), (1030, 1100), (1396, 1021)])
@pytest.mark.parametrize("sampling", ["4:4:4", "4:2:2", "4:2:0", None])
def test_grey_is_what_pillow_decodes(
    width: int, height: int, sampling: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = noise(width, height, width)
    data = encoded(picture, "JPEG", subsampling=sampling) if sampling else encoded(picture.convert("L"), "JPEG")
    for at_least in (128, 32):
        monkeypatch.setattr("medgpt.containers.GREY_AT_LEAST", at_least)
        container = repack(data)
        assert (container.grey is not None) == bool(data[-3] & 1)  # else the codes are walked
        with Image.open(io.BytesIO(data)) as opened:
            opened.draft("L", (at_least, at_least))
            assert container.grey is None or np.array_equal(container.grey, np.asarray(opened.convert("L")))
    longer = repack(data[:-2] + MARK + data[-2:])
    assert (longer.data, longer.grey) == (data, None)


# Damage


def cut_inside(data: bytes, which: int = -1) -> bytes:
    return edited(data, 0xDA, lambda content, raw: (content, raw[: len(raw) // 2].rstrip(b"\xff")), which)


@pytest.mark.parametrize("data", [JPEG, PROGRESSIVE, OPTIMISED], ids=["plain", "progressive", "optimised"])
def test_a_picture_cut_inside_but_closed(data: bytes) -> None:
    with pytest.raises(DamagedImage) as caught:
        repack(cut_inside(data))
    assert caught.value.reason == "truncated_image"


def test_a_header_that_claims_another_size() -> None:
    data = edited(JPEG, 0xC0, lambda content, raw: (content[:1] + struct.pack(">HH", 9000, 9000) + content[5:], raw))
    with pytest.raises(DamagedImage) as caught:
        repack(data)
    assert caught.value.reason == "truncated_image"
    with pytest.raises(DamagedImage) as caught:
        repack(
            edited(JPEG, 0xC0, lambda content, raw: (content[:1] + struct.pack(">HH", 65000, 65000) + content[5:], raw))
        )
    assert caught.value.reason == "image_too_large"


def test_what_cannot_be_explained_is_named() -> None:
    with pytest.raises(UnusualCoding):
        repack(JPEG.replace(b"\xff\xc0", b"\xff\xc9", 1))
    twice = split(JPEG)
    with pytest.raises(UnusualCoding):  # the picture is the last scan; the first one would hide in it
        repack(joined([*twice[:-1], twice[-2], twice[-1]]))
    with pytest.raises(DamagedImage, match="no palette"):
        repack(png([(kind, content) for kind, content in chunks(PALETTE) if kind != b"PLTE"]))


@pytest.mark.parametrize(
    "data", [JPEG, PROGRESSIVE, RESTARTS, PNG, PALETTE], ids=["jpg", "progressive", "restarts", "png", "palette"]
)
def test_every_cut_is_named_or_whole(data: bytes) -> None:
    for length in range(8, len(data), 97):
        try:
            container = repack(data[:length])
        except DamagedImage as error:
            assert error.reason in ("truncated_image", "corrupt_image")
        else:
            assert pixels(container.data) == pixels(data)


def test_a_false_checksum_and_a_preset_dictionary() -> None:
    at = PNG.index(b"IDAT")
    with pytest.raises(DamagedImage, match="checksum"):
        repack(PNG[: at + 40] + bytes((PNG[at + 40] ^ 1,)) + PNG[at + 41 :])
    parts = chunks(PNG)
    packer = zlib.compressobj(zdict=MARK)
    rows = zlib.decompress(b"".join(content for kind, content in parts if kind == b"IDAT"))
    with pytest.raises(DamagedImage):
        repack(png([parts[0], (b"IDAT", packer.compress(rows) + packer.flush()), (b"IEND", b"")]))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_told_and_not_kept(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind, clean in (("JPEG", JPEG), ("PNG", PNG)):
        container = repack(encoded(PICTURE, kind, exif=exif))
        assert (container.orientation, container.data) == (orientation, clean)


def test_what_a_container_says() -> None:
    alpha = repack(encoded(PICTURE.convert("LA"), "PNG"))
    assert (alpha.format, alpha.channels, alpha.bit_depth, alpha.transparent, alpha.frames) == ("png", 2, 8, True, 1)
    assert not repack(PNG).transparent
    assert repack(PLACES["tRNS high bits"]).transparent
    frames = [PICTURE.resize((20, 20)), PICTURE.resize((20, 20)).rotate(90)]
    assert repack(encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])).frames == 2
    assert repack(encoded(PICTURE.convert("CMYK"), "JPEG")).channels == 4
    with pytest.raises(ValueError, match="neither"):
        repack(b"GIF89a")


# Random containers


@st.composite
def crowded_jpegs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    options = draw(
        st.sampled_from(
            [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 3}, {"qtables": "web_low"}]
        )
    )
    picture = noise(draw(st.integers(8, 50)), draw(st.integers(8, 50)), draw(st.integers(0, 9)))
    clean = encoded(picture.convert(draw(st.sampled_from(["L", "RGB", "CMYK"]))), "JPEG", **options)
    text = st.binary(max_size=40).map(lambda data: MARK + data)
    extras = st.one_of(
        st.builds(segment, st.sampled_from([0xFE, *range(0xE1, 0xEE), 0xEF]), text),
        st.builds(lambda data: segment(0xE0, b"JFXX\0\x10" + data), text),
        st.builds(lambda number, data: segment(0xDB, bytes((number,)) + (data * 4)[:64]), st.just(3), text),
        st.builds(lambda data: segment(0xC4, b"\x13" + bytes([0] * 7 + [17] + [0] * 8) + data[:17]), text),
        st.builds(lambda data: data.replace(b"\xff", b"\xfe"), text),
    )
    tails = st.binary(min_size=1, max_size=12).map(lambda data: data.replace(b"\xff", b"\xff\0"))
    pieces = []
    for marker, content, raw in split(clean):
        if len(pieces) > 1:  # the very start of a JPEG is FF D8 FF
            pieces += draw(st.lists(extras, max_size=2))
            pieces.append(b"\xff" * draw(st.integers(0, 3)))
        raw += draw(st.one_of(st.just(b""), tails)) if raw else b""
        pieces.append(bytes((0xFF, marker)) if marker in (0xD8, 0xD9) else segment(marker, content) + raw)
    return clean, b"".join(pieces) + draw(st.binary(max_size=9))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(crowded_jpegs())
def test_random_jpegs(made: tuple[bytes, bytes]) -> None:
    clean, crowded = made
    packed = repack(crowded).data
    explain(packed)
    assert pixels(packed) == pixels(clean)
    assert packed == repack(clean).data
    assert repack(packed).data is packed


@st.composite
def crowded_pngs(draw: st.DrawFn) -> tuple[bytes, bytes]:
    picture = noise(draw(st.integers(1, 40)), draw(st.integers(1, 40)), draw(st.integers(0, 9)))
    clean = encoded(picture.convert(draw(st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA"]))), "PNG")
    parts = chunks(clean)
    stream = b"".join(content for kind, content in parts if kind == b"IDAT") + draw(st.binary(max_size=9))
    cuts = sorted(draw(st.lists(st.integers(0, len(stream)), max_size=4)))
    image = [(b"IDAT", stream[a:b]) for a, b in pairwise([0, *cuts, len(stream)])]
    kinds = st.sampled_from([b"tEXt", b"gAMA", b"sBIT", b"iCCP", b"zzZz", b"eXIf", b"sRGB"])
    made: list[tuple[bytes, bytes]] = []
    for part in [*(p for p in parts if p[0] not in (b"IDAT", b"IEND")), *image, (b"IEND", draw(st.binary(max_size=5)))]:
        made += draw(st.lists(st.tuples(kinds, st.binary(max_size=30)), max_size=2)) if made else []
        made.append(part)
    return clean, png(made) + draw(st.binary(max_size=9))


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(crowded_pngs())
def test_random_pngs(made: tuple[bytes, bytes]) -> None:
    clean, crowded = made
    packed = repack(crowded).data
    explain(packed)
    assert pixels(packed) == pixels(clean)
    assert repack(packed).data is packed


# Real pictures


def real_pictures() -> Iterator[Path]:
    for suffix in ("jpg", "jpeg", "png"):
        yield from sorted(DATA.rglob(f"*.{suffix}"))[:150]


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data here")
def test_real_pictures_keep_their_pixels() -> None:
    seen = 0
    for path in real_pictures():
        data = path.read_bytes()
        if format_of(data) not in ("JPEG", "PNG"):
            continue
        packed = repack(data).data
        assert pixels(packed) == pixels(data), path.name
        assert repack(packed).data is packed, path.name
        seen += 1
    assert seen
