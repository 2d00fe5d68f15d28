"""Bounded reading: what is huge, inflates without end or lies about its size ends as a named reject, in little memory.

Bombs are read by a process of their own, which says at its end how much it held at most (`VmHWM`; what the system
tells its parent counts the parent's own memory, too).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from outcomes import kept, read_all

from builders.engine.archives import PictureStore, stream_tar, webdataset_keys, webdataset_samples
from builders.engine.rawfiles import load_json, read_bytes
from builders.engine.source import InputError, NotThisSource, Reject
from builders.engine.tables import Row, table_rows, table_units
from medgpt import limited

MEGABYTE = 1 << 20
BASE_MB = 200
"""What a reading process holds before it reads: Python, pyarrow, NumPy; twice what is seen."""


def zeros(size: int, level: int = 9) -> bytes:
    """A raw deflate stream of so many megabytes of zeros, made in no time: one piece, over and over."""
    stream = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS)
    first = stream.compress(bytes(MEGABYTE)) + stream.flush(zlib.Z_FULL_FLUSH)
    piece = stream.compress(bytes(MEGABYTE)) + stream.flush(zlib.Z_FULL_FLUSH)
    return first + piece * (size - 1) + stream.flush()


def deflated(data: bytes) -> bytes:
    stream = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return stream.compress(data) + stream.flush()


def zip_bytes(members: list[tuple[str, bytes, int, int]], longer: int = 0) -> bytes:
    """A zip of (name, packed bytes, declared size, CRC), all deflated, each `longer` by its directory than it is."""
    body, directory = b"", b""
    for name, packed, size, crc in members:
        common = struct.pack("<HHHHHIIIHH", 20, 0, 8, 0, 33, crc, len(packed) + longer, size, len(name), 0)
        directory += b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<HHHII", 0, 0, 0, 0, len(body))
        directory += name.encode()
        body += b"PK\x03\x04" + common + name.encode() + packed
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + end


def child(code: str, *arguments: str, seconds: int = 300) -> tuple[str, int]:
    """(what a process prints, its peak in MB)."""
    code += "\nprint(*(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=seconds, check=False,
    )  # fmt: skip
    said, _, peak = done.stdout.rpartition("VmHWM:")
    assert done.returncode == 0, said + peak
    return said, int(peak.split()[0]) // 1024


TABLE = """
import sys
from pathlib import Path
from builders.engine.source import NotThisSource, Reject
from builders.engine.tables import table_rows, table_units
path = Path(sys.argv[1])
try:
    for unit in table_units(path.parent, [path], "train", "train"):
        for row in table_rows(path.parent, unit):
            print(row.reason if isinstance(row, Reject) else "row")
except NotThisSource as error:
    print("refused", error)
"""


def sparse(path: Path, size: int, start: bytes = b"", end: bytes = b"") -> None:
    """A file of zeros that takes no disk."""
    with path.open("wb") as file:
        file.write(start)
        file.truncate(size)
        file.seek(0, io.SEEK_END)
        file.write(end)


def json_line(path: Path) -> None:
    sparse(path, 1 << 30, b'{"a": 1}\n', b'\n{"a": 2}\n')


def packed_line(path: Path) -> None:
    with path.open("wb") as file:
        file.write(gzip.compress(b"a,b\n1,2\n"))
        file.write(gzip.compress(bytes(8 * MEGABYTE)) * 256)
        file.write(gzip.compress(b"\n3,4\n"))


def deep(path: Path) -> None:
    path.write_bytes(b'{"a": 1}\n' + b"[" * (60 * MEGABYTE) + b'\n{"a": 2}\n')


def wide(path: Path) -> None:
    path.write_bytes(b'{"a": 1}\n{"a": [' + b"[]," * (20 * MEGABYTE) + b"[]]}\n" + b'{"a": 2}\n')


def cells(path: Path) -> None:
    path.write_bytes(b"a,b\n1,2\n" + b"ab," * (20 * MEGABYTE) + b"\n3,4\n")


def open_quote(path: Path) -> None:
    path.write_bytes(b'a,b\n1,"' + (b"line" * 99_999 + b"\n") * 400)


def deep_array(path: Path) -> None:
    path.write_bytes(b'[{"a": 1}, ' + b"[" * (60 * MEGABYTE) + b"]")


def long_item(path: Path) -> None:
    sparse(path, 1 << 30, b'[{"a": 1}, "')


def large_page(path: Path) -> None:
    table = pa.table({"a": pa.array([bytes(300 * MEGABYTE), b"x"], pa.binary())})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_statistics=False)


def dictionary(path: Path) -> None:
    values = pa.DictionaryArray.from_arrays(pa.array([0] * 12, pa.int32()), pa.array([bytes(100 * MEGABYTE)]))
    pq.write_table(
        pa.table({"a": values}), path, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False
    )


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("x.jsonl", json_line, ["row", "too_large", "row"]),
        ("x.csv.gz", packed_line, ["refused x.csv.gz: "]),
        ("x.jsonl", deep, ["row", "too_large", "row"]),
        ("x.jsonl", wide, ["row", "too_large", "row"]),
        ("x.csv", cells, ["row", "too_large", "row"]),
        ("x.csv", open_quote, ["too_large"]),
        ("x.json", deep_array, ["refused x.json: nested too deeply after byte 9"]),
        ("x.json", long_item, ["refused x.json: an item of more than 16,777,216 characters after byte 9"]),
        ("x.parquet", large_page, ["too_large", "too_large"]),
        ("x.parquet", dictionary, ["row"] * 12),
    ],
)
def test_tables_in_bounded_memory(name: str, write: Callable[[Path], None], said: list[str], tmp_path: Path) -> None:
    write(tmp_path / name)
    lines, peak = child(TABLE, str(tmp_path / name))
    found = lines.splitlines()
    assert len(found) >= len(said) and all(a.startswith(b) for a, b in zip(found, said, strict=False)), lines[:500]
    assert write is open_quote or len(found) == len(said)
    assert peak <= BASE_MB + 512, f"{peak} MB"


def test_a_bomb_among_the_pictures_of_a_zip(tree: Callable[[str], Path]) -> None:
    """1.5 MB that inflate to 3 GB, and whatever a zip can say that is not so: one reject a row, the others are kept."""
    raw = tree("pubmedvision")
    rows = json.loads((raw / "PubMedVision_Alignment_VQA.json").read_bytes())
    good = next(row for row in rows if isinstance(row["image"], list))
    text = bytes(range(256)) * 40
    members = {
        "huge": (zeros(3072), 3 << 30, 0),
        "ratio": (zeros(200), 200 * MEGABYTE, 0),
        "hidden": (zeros(3072), 5000, 0),
        "short": (deflated(text[:5000]), len(text), zlib.crc32(text)),
        "long": (deflated(text), 5000, zlib.crc32(text)),
        "crc": (deflated(text), len(text), 1),
    }
    (raw / "images_99.zip").write_bytes(
        zip_bytes([(f"images/{name}.jpg", *member) for name, member in members.items()])
    )
    shared = [(f"images/{name}.jpg", deflated(text), len(text), zlib.crc32(text)) for name in ("one", "two")]
    (raw / "images_98.zip").write_bytes(zip_bytes(shared, longer=100))
    names = [*members, "one"]
    more = [good | {"id": name, "image": [f"images/{name}.jpg"]} for name in names]
    (raw / "PubMedVision_Alignment_VQA.json").write_text(json.dumps([*rows, *more]))
    arguments = [
        "--raw",
        str(raw),
        "--out",
        str(raw.parent / "built"),
        "--workers",
        "1",
        "--max-damaged",
        "99",
        "--json",
    ]
    code = (
        "import sys; from builders.engine.command import main; from builders.engine.registry import load\n"
        "main(load('pubmedvision'), sys.argv[1:])"
    )
    _, peak = child(code, *arguments)
    assert peak <= 2 * BASE_MB + 512, f"{peak} MB"  # a build has more to load
    table = pa.concat_tables(pq.read_table(path) for path in (raw.parent / "built").glob("*/rejects/*.parquet"))
    found = {row["row"]: row for row in table.to_pylist() if int(row["row"]) >= len(rows)}
    assert [found[str(number)]["reason"] for number in range(len(rows), len(rows) + len(names))] == [
        "too_large", "too_large", "bad_archive", "bad_archive", "bad_archive", "bad_archive", "bad_archive",
    ]  # fmt: skip
    assert "3,221,225,472 bytes" in found[str(len(rows))]["detail"]
    assert "declares" in found[str(len(rows) + 2)]["detail"]
    assert "another member" in found[str(len(rows) + len(names) - 1)]["detail"]


def tar_header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def member(name: str, data: bytes) -> bytes:
    return tar_header(name, len(data)) + data + bytes(-len(data) % 512)


def packed_tar(path: Path, *parts: bytes | int) -> Path:
    """A `.tar.zst` of these bytes; a number stands for so many megabytes of zeros."""
    with pa.CompressedOutputStream(str(path), "zstd") as file:
        for part in parts:
            if isinstance(part, bytes):
                file.write(part)
            else:
                for _ in range(part):
                    file.write(bytes(MEGABYTE))
    return path


TAR = """
import sys
from pathlib import Path
from builders.engine.archives import stream_tar
from builders.engine.source import InputError
path = Path(sys.argv[1])
try:
    for name, data in stream_tar(path, path.parent):
        print(name, data.reason if isinstance(data, InputError) else len(data))
except InputError as error:
    print(error.reason)
"""
SOME = [member(f"{number}.png", b"\x89PNG" + bytes([number])) for number in range(10)]
EXTENDED = tarfile.TarInfo("PaxHeader")
EXTENDED.type, EXTENDED.size = tarfile.XHDTYPE, 3 << 30


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        # 48 kB that inflate to 3 GB: the member is named, then the stream is left.
        ((SOME[0], tar_header("huge.png", 3 << 30), 3072, SOME[1]), ["0.png 5", "huge.png too_large", "too_large"]),
        ((SOME[0], EXTENDED.tobuf(tarfile.PAX_FORMAT), 3072, SOME[1]), ["0.png 5", "bad_archive"]),
        ((SOME[0], 3072), ["0.png 5", "too_large"]),
    ],
)
def test_a_tar_that_inflates_without_end(parts: tuple[bytes | int, ...], said: list[str], tmp_path: Path) -> None:
    path = packed_tar(tmp_path / "x.tar.zst", *parts)
    assert path.stat().st_size < 500_000
    lines, peak = child(TAR, str(path))
    assert lines.splitlines() == said
    assert peak <= BASE_MB + 512, f"{peak} MB"


def members_of(path: Path) -> tuple[list[str], str]:
    """(names read, reason of the end)."""
    names: list[str] = []
    try:
        names.extend(name for name, _ in stream_tar(path, path.parent))
    except InputError as error:
        return names, error.reason
    return names, ""


def holes(name: str) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 512
    return info.tobuf(tarfile.GNU_FORMAT) + bytes(512)


def many_headers() -> bytes:
    info = tarfile.TarInfo("PaxHeader")
    info.type, record = tarfile.XHDTYPE, b"12 a=bcdefg\n"
    info.size = len(record)
    return (info.tobuf(tarfile.PAX_FORMAT) + record + bytes(512 - len(record))) * 3000


@pytest.mark.parametrize(
    "odd",
    [
        tar_header("below.png", -1024) + bytes(1024),
        tar_header("below.png", -512) + bytes(1024),  # read as it says, its header comes again without end
        holes("holes.png"),
        many_headers(),
        SOME[8][:300] + b"\x07" * 212,
    ],
)
def test_odd_headers_are_damage(odd: bytes, tmp_path: Path) -> None:
    tar = b"".join(SOME[:7]) + odd + b"".join(SOME[7:]) + bytes(1024)
    for name, data in (("x.tar", tar), ("x.tar.gz", gzip.compress(tar))):
        (tmp_path / name).write_bytes(data)
        assert members_of(tmp_path / name) == ([f"{number}.png" for number in range(7)], "bad_archive")
    with pytest.raises(NotThisSource, match="not a readable tar"):
        list(webdataset_keys(tmp_path / "x.tar", tmp_path))


def test_a_tar_member_that_says_more_than_there_is(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(SOME[0] + tar_header("1.png", 200 * MEGABYTE) + bytes(2000))
    assert members_of(tmp_path / "x.tar") == (["0.png"], "bad_archive")


def test_a_cut_tar_is_a_gap_with_a_name(tree: Callable[[str], Path]) -> None:
    """Seven of ten pictures are read, and the archive is named for the rest."""
    raw = tree("medtrinity")
    [tar] = list((raw / "25M_accessible").glob("*_10.tar.zst")) or sorted(raw.glob("25M_accessible/*.tar.zst"))[:1]
    noise = [member(f"x/{number}.png", os.urandom(256_000)) for number in range(10)]
    packed = packed_tar(tar, *noise, bytes(1024)).read_bytes()
    tar.write_bytes(packed[: len(packed) * 3 // 4])
    found = [one for one in read_all("medtrinity", raw)["train"] if one.file.endswith(tar.name)]
    assert len(found) == 8 and not kept(found)
    assert isinstance(found[-1], Reject)
    assert (found[-1].reason, found[-1].detail[:55]) == (
        "bad_archive", "ends after 7 pictures, what follows was not read: Truncat"[:55]
    )  # fmt: skip


def test_a_sample_too_large_for_its_tar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "FILE_BYTES", 3000)
    monkeypatch.setattr("builders.engine.archives.SAMPLE_BYTES", 5000)
    parts = [("a.jpg", 2000), ("a.png", 2000), ("a.txt", 2000), ("b.jpg", 4000), ("b.txt", 10)]
    (tmp_path / "x.tar").write_bytes(b"".join(member(name, b"x" * size) for name, size in parts) + bytes(1024))
    samples = dict(webdataset_samples(tmp_path / "x.tar", tmp_path))
    found = {
        key: {n: d.reason if isinstance(d, InputError) else len(d) for n, d in p.items()} for key, p in samples.items()
    }
    assert found == {"a": {"jpg": 2000, "png": 2000, "txt": "too_large"}, "b": {"jpg": "too_large", "txt": 10}}


def rows_of(path: Path) -> list[Any]:
    """Values of rows, reasons of rejects."""
    units = table_units(path.parent, [path], "train", "train")
    rows = [row for unit in units for row in table_rows(path.parent, unit)]
    return [row.values if isinstance(row, Row) else row.reason for row in rows]


@pytest.mark.parametrize(("name", "form"), [("x.json", b"[%s]"), ("x.jsonl", b"%s")])
def test_a_number_of_five_thousand_digits_costs_its_row(name: str, form: bytes, tmp_path: Path) -> None:
    rows = [b'{"a": 1}', b'{"a": %s}' % (b"9" * 5000), b'{"a": %s}' % (b"9" * 300 if name == "x.json" else b"2")]
    (tmp_path / name).write_bytes(form % (b",\n" if name == "x.json" else b"\n").join(rows))
    first, second, third = rows_of(tmp_path / name)
    assert (first, third["a"] > 1) == ({"a": 1}, True)
    assert second == ("too_large" if name == "x.json" else "bad_row")


def test_a_gzip_of_several_members_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n1,2\n") + gzip.compress(b"3,4\n5") + gzip.compress(b",6\n"))
    assert rows_of(path) == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}, {"a": "5", "b": "6"}]


def test_a_line_of_a_table_that_is_too_long_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it stands in a unit, and whatever else the record holds; numbers of lines stay right."""
    monkeypatch.setattr(limited, "LINE_BYTES", 100)
    path = tmp_path / "x.csv"
    path.write_bytes(b'a,b\n1,"x\ny"\n' + b"z" * 200 + b",2\n5,\r6\n7,8\n")
    for rows_per_unit in (1, 2, 9):
        units = list(table_units(tmp_path, [path], "train", "train", rows_per_unit=rows_per_unit))
        rows = [row for unit in units for row in table_rows(tmp_path, unit)]
        assert [row.values if isinstance(row, Row) else (row.row, row.reason) for row in rows] == [
            {"a": "1", "b": "x\ny"}, ("4", "too_large"), ("5", "bad_row"), {"a": "7", "b": "8"},
        ]  # fmt: skip


def test_loose_files_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse(tmp_path / "a.jpg", 300 * MEGABYTE)
    with pytest.raises(InputError) as raised:
        read_bytes(tmp_path / "a.jpg", tmp_path)
    assert (raised.value.reason, raised.value.detail) == (
        "too_large", "314,572,800 bytes, more than the limit of 268,435,456"
    )  # fmt: skip
    monkeypatch.setattr(limited, "VALUES", 100)
    (tmp_path / "b.json").write_text(json.dumps(list(range(200))))
    with pytest.raises(NotThisSource, match=r"b\.json: 200 commas and brackets, more than the limit of 100 values"):
        load_json(tmp_path / "b.json", tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_hangs_no_reader(kind: str, tmp_path: Path) -> None:
    """A picture or report: one reject; a table, a zip or a JSON that all rests on: one clear line."""
    for name in ("a.jpg", "a.zip", "a.json", "a.csv", "a.tar"):
        path = tmp_path / name
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "folder":
            path.mkdir()
        else:
            path.symlink_to("/dev/zero")
    with pytest.raises(InputError) as raised:
        read_bytes(tmp_path / "a.jpg", tmp_path)
    assert (raised.value.reason, raised.value.detail) == ("unreadable_file", "not a file")
    with pytest.raises(NotThisSource, match=r"a\.zip: not a readable zip"):
        PictureStore(tmp_path, ["a.zip"]).reader("x.jpg")
    with pytest.raises(NotThisSource, match=r"a\.csv: not a file"):
        list(table_units(tmp_path, [tmp_path / "a.csv"], "train", "train"))
    with pytest.raises(OSError, match="not a file"):
        load_json(tmp_path / "a.json", tmp_path)
    assert members_of(tmp_path / "a.tar") == ([], "unreadable_file")
    with pytest.raises(NotThisSource, match=r"a\.tar: not a readable tar"):
        list(webdataset_keys(tmp_path / "a.tar", tmp_path))
