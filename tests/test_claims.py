"""Files that say of themselves what is not so: lengths, counts, offsets, levels, precisions, shapes.

Their libraries end the process, loop or take all memory over such files, so what reads them here is a process of its
own, with a limit of time; it says at its end how much memory it held.
"""

from __future__ import annotations

import io
import itertools
import json
import sqlite3
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import REAL_DATA, zipped
from pyarrow import orc
from test_limited import BASE_MB, MEGABYTE, TABLE, child

from builders.engine.corpus_files import database_rows
from builders.engine.corpus_values import picture_of
from builders.engine.pages import read_footer
from medgpt.limited import OverLimit

# Parquet


def footer_of(data: bytes) -> tuple[bytes, bytes]:
    """(what stands before the footer, the footer)."""
    at = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    return data[:at], data[at:-8]


def with_footer(body: bytes, footer: bytes) -> bytes:
    return body + footer + struct.pack("<I", len(footer)) + b"PAR1"


def varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out, value = out + bytes([value & 127 | 128]), value >> 7
    return out + bytes([value])


class Long(int):
    """A whole number of 64 bits."""


def struct_of(fields: dict[int, Any]) -> bytes:
    """A struct in Thrift's compact protocol: whole numbers, texts, structs, and lists of structs or texts."""
    out, last = b"", 0
    for number, value in sorted(fields.items()):
        kind, data = encoded(value)
        out, last = out + bytes([number - last << 4 | kind]) + data, number
    return out + b"\0"


def encoded(value: Any) -> tuple[int, bytes]:
    if isinstance(value, int):
        return 6 if isinstance(value, Long) else 5, varint(value << 1)
    if isinstance(value, bytes):
        return 8, varint(len(value)) + value
    if isinstance(value, dict):
        return 12, struct_of(value)
    kind = encoded(value[0])[0] if value else 12
    return 9, bytes([0xF0 | kind]) + varint(len(value)) + b"".join(encoded(one)[1] for one in value)


def written(table: pa.Table, **options: Any) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


LISTS = written(pa.table({"a": [["x"], [], None]}))


def fewer_levels() -> bytes:
    """The histogram of definition levels (of 1 empty, 1 null and 1 full list) with one number less than levels."""
    body, footer = footer_of(LISTS)
    assert footer.count(b"\x46\x02\x02\x00\x02") == 1
    return with_footer(body, footer.replace(b"\x46\x02\x02\x00\x02", b"\x36\x02\x02\x00"))


def nested(depth: int) -> bytes:
    groups = [{3: 1, 4: b"g", 5: 1} for _ in range(depth)]
    footer = {1: 2, 2: [{4: b"schema", 5: 1}, *groups, {1: 1, 3: 0, 4: b"a"}], 3: 0, 4: []}
    return with_footer(b"PAR1", struct_of(footer))


def many_columns() -> bytes:
    column = {2: 0, 3: {1: 1, 2: [], 3: [b"a"], 4: 0, 5: 0, 6: 0, 7: 0, 9: 4}}
    group = struct_of({1: [column], 2: 0, 3: 0})
    head = struct_of({1: 2, 2: [{4: b"schema", 5: 1}, {1: 1, 3: 0, 4: b"a"}], 3: 0})[:-1]
    return with_footer(b"PAR1", head + b"\x19\xfc" + varint(100_000) + group * 100_000 + b"\0")


def deep_field() -> bytes:
    return with_footer(b"PAR1", b"\x1c" * 100_000 + b"\0" * 100_001)


def many_rows() -> bytes:
    rows, none = Long(1 << 50), Long(0)
    column = {2: none, 3: {1: 1, 2: [0], 3: [b"a"], 4: 0, 5: rows, 6: none, 7: none, 9: none}}
    schema = [{4: b"schema", 5: 1}, {1: 1, 3: 0, 4: b"a"}]
    footer = {1: 2, 2: schema, 3: Long(1), 4: [{1: [column], 2: none, 3: rows}]}
    return with_footer(b"PAR1", struct_of(footer))


def endless_number() -> bytes:
    """A page whose header is one number of a million digits to the base of 128."""
    plain = pa.table({"a": pa.array([b"\xff" * MEGABYTE] * 2, pa.binary())})
    body, footer = footer_of(written(plain, use_dictionary=False, compression="none", write_statistics=False))
    return with_footer(b"PAR1\x15" + b"\xff" * (len(body) - 5), footer)


def many_values() -> bytes:
    cell = pa.ListArray.from_arrays(pa.array([0, 20 * MEGABYTE], pa.int32()), pa.nulls(20 * MEGABYTE, pa.int8()))
    return written(pa.table({"a": cell}))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (fewer_levels, ["bad_row"] * 3),
        (lambda: nested(100_000), ["refused x.parquet: not readable as Parquet (a schema of more than 32 groups"]),
        (many_columns, ["refused x.parquet: not readable as Parquet (a footer or page header of more structs"]),
        (
            deep_field,
            ["refused x.parquet: not readable as Parquet (a footer or page header of more structs, or deeper"],
        ),
        (many_rows, ["refused x.parquet: says that it has 1 rows, and 1,125,899,906,842,624 in its row groups"]),
        (endless_number, ["bad_row"] * 2),
        (many_values, ["too_large"]),
    ],
)
def test_a_parquet_file_that_is_not_as_it_says(make: Callable[[], bytes], said: list[str], tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(make())
    lines, peak = child(TABLE, str(tmp_path / "x.parquet"), seconds=20)
    found = lines.splitlines()
    assert len(found) == len(said) and all(map(str.startswith, found, said)), lines[:500]
    assert peak <= BASE_MB + 512, f"{peak} MB"


def test_a_footer_is_read_as_arrow_reads_it(tmp_path: Path) -> None:
    """Sound files, made and real: dictionaries, lists, structs, row groups, both versions of pages, every codec."""
    rows = 40
    table = pa.table({
        "text": [f"text {number % 7}" for number in range(rows)], "number": range(rows), "none": pa.nulls(rows),
        "list": [["a", None, "b"][: number % 4] for number in range(rows)],
        "picture": [{"bytes": b"x" * number, "path": None} for number in range(rows)],
        "deep": [[[{"a": number}], []] for number in range(rows)],
        "map": pa.array([[("k", "v")]] * rows, pa.map_(pa.string(), pa.string())), "a.b": [1.5] * rows,
    })  # fmt: skip
    files = sorted(REAL_DATA.rglob("*.parquet"))[:50]
    for codec, page, names in itertools.product(
        ("none", "snappy", "gzip", "brotli", "lz4", "zstd"), ("1.0", "2.0"), (True, False)
    ):
        files.append(tmp_path / f"{codec}-{page}-{names}.parquet")
        chosen = {"compression": codec, "data_page_version": page, "use_dictionary": names, "row_group_size": 17}
        pq.write_table(table, files[-1], write_page_index=names, **chosen)
    files.append(tmp_path / "empty.parquet")
    pq.write_table(table.slice(0, 0), files[-1])
    columns = 0
    for path in files:
        with path.open("rb") as file:
            found, about = read_footer(file), pq.read_metadata(path)
        assert [len(group) for group in found] == [about.num_columns] * about.num_row_groups
        for number, group in enumerate(found):
            for place, chunk in enumerate(group):
                said = about.row_group(number).column(place)
                start = min(said.data_page_offset, said.dictionary_page_offset or said.data_page_offset)
                codec = said.compression.lower().replace("uncompressed", "none")
                assert chunk == (said.path_in_schema, said.num_values, codec, start, said.total_compressed_size)
                columns += 1
    assert columns > 24 * 3 * 10


# Corpora in other forms


def arrow(change: Callable[[bytes], bytes], **options: Any) -> bytes:
    table, sink = pa.table({"text": ["alpha", "gamma", "delta" * 200]}), io.BytesIO()
    with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as file:
        file.write_table(table)
    return change(sink.getvalue())


def batch(values: pa.Array, **options: Any) -> bytes:
    made, sink = pa.record_batch([values], ["text"]), io.BytesIO()
    with pa.ipc.new_stream(sink, made.schema, options=pa.ipc.IpcWriteOptions(**options)) as stream:
        stream.write_batch(made)
    return sink.getvalue()


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        assert data.count(old) >= 1
        return data.replace(old, new)

    return change


def decimal() -> bytes:
    sink = io.BytesIO()
    orc.write_table(pa.table({"a": pa.array([1, 2], pa.decimal128(10, 2))}), sink, compression="uncompressed")
    return replaced(b"\x28\x0a\x30\x02", b"\x28\x60\x30\x02")(sink.getvalue())  # of 96 digits


def database(path: Path, *statements: str) -> bytes:
    with sqlite3.connect(path) as connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()
    data = path.read_bytes()
    path.unlink()
    return data


def duck(path: Path) -> bytes:
    import duckdb

    with duckdb.connect(str(path)) as connection:
        connection.execute("CREATE TABLE t(a INT, b AS (repeat('0123456789', 1000000)))")
        connection.execute("INSERT INTO t SELECT 1 FROM range(200)")
    data = path.read_bytes()
    path.unlink()
    return data


def array(shape: str, kind: str, size: int = 0) -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(size)


NODE = struct.pack("<2q", 3, 0)
OFFSETS, LENGTH = struct.pack("<3i", 0, 5, 10), struct.pack("<q", 1010)
COMPUTED = ("CREATE TABLE t(a, b AS (hex(zeroblob(499000000))))", "INSERT INTO t VALUES (1)")


def test_a_corpus_of_files_that_are_not_as_they_say(tmp_path: Path) -> None:
    """One build in little memory: each is a reject, the row of the sound file is kept."""
    wrong: dict[str, tuple[bytes, str]] = {
        "offsets.arrow": (arrow(replaced(OFFSETS, struct.pack("<3i", 0, 1 << 30, 10))), "bad_archive"),
        "length.arrow": (arrow(replaced(LENGTH, struct.pack("<q", 1 << 50)), compression="zstd"), "too_large"),
        "node.arrow": (arrow(replaced(NODE, struct.pack("<2q", 1 << 40, 0))), "too_large"),
        "schema.arrow": (arrow(lambda data: data[:16] + b"\xff" * 8 + data[24:]), "bad_archive"),
        "nulls.arrow": (batch(pa.nulls(1 << 24)), "too_large"),
        "zeros.arrow": (batch(pa.array(np.zeros(20_000_000, np.int64)), compression="zstd"), "too_large"),
        "names.arrow": (batch(pa.array(["x" * 40_000_000]).dictionary_encode(), compression="zstd"), "too_large"),
        "decimal.orc": (decimal(), "bad_archive"),
        "computed.db": (database(tmp_path / "x", *COMPUTED), "bad_archive"),
        "computed.duckdb": (duck(tmp_path / "x"), "bad_archive"),
        "rows.npy": (array("(1000000000000, 0)", "|u1"), "too_large"),
        "numbers.npy": (array("(1, 20000000)", "|u1", 20_000_000), "too_large"),
        "size.npy": (array("(100000000000,)", "<f8"), "too_large"),
        "inflated.npz": (zipped({"a.npy": array("(2000, 100000)", "|u1", 200_000_000)}), "too_large"),
        "values.json": (b"[" + b"[]," * 9_000_000 + b"[]]", "too_large"),
        "values.zip": (zipped({"a.jsonl": b'{"a":[' + b"[],{}," * 2_000_000 + b"[]]}"}), "too_large"),
        "quote.csv": (b'a,b\n1,"' + b"line,x\n" * 20_000, "too_large"),
        "cells.csv": (b"a,b\n" + b"ab," * 5_000_000 + b"\n1,2\n", "too_large"),
        "member.zip": (zipped({"a.parquet": fewer_levels()}), "bad_row"),
    }  # fmt: skip
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, (data, _) in wrong.items():
        (folder / name).write_bytes(data)
    (folder / "sound.jsonl").write_text(json.dumps({"text": "A sound row with words in it."}))
    code = "import sys; from builders.corpus import main\nprint('code', main(sys.argv[1:]))"
    out = str(tmp_path / "out")
    more = ["--role", "train", "--max-damaged", "999", "--workers", "1", "--quiet"]
    said, peak = child(code, "--raw", str(folder), "--out", out, *more, seconds=120)
    [ended] = [line for line in said.splitlines() if line.startswith("code ")]
    assert ended == "code 4", said
    rows = [row for path in tmp_path.glob("out/*/rejects/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert {row["file"].partition("!")[0]: row["reason"] for row in rows} == {
        name: reason for name, (_, reason) in wrong.items()
    }
    [kept] = [row for path in tmp_path.glob("out/*/manifest/*.parquet") for row in pq.read_table(path).to_pylist()]
    assert kept["file"] == "sound.jsonl"
    assert peak <= 2 * BASE_MB + 512, f"{peak} MB"


def page(kind: int, cells: list[bytes], more: bytes = b"", before: bytes = b"") -> bytes:
    """A page of 512 bytes of an SQLite file, as its file format page says; `before` stands on the first."""
    places = list(itertools.accumulate((-len(cell) for cell in cells), initial=512))[1:]
    head = bytes([kind, 0, 0]) + struct.pack(">HHB", len(cells), places[-1], 0) + more
    return (before + head + struct.pack(f">{len(places)}H", *places)).ljust(places[-1], b"\0") + b"".join(cells[::-1])


def circular(inner: int, cells: int) -> bytes:
    """A database of one table, every inner page of whose tree leads `cells` times to the next, the last to a leaf."""
    head = struct.pack(
        ">16sH6B12I20xII", b"SQLite format 3", 512, 1, 1, 0, 64, 32, 32,
        1, inner + 2, 0, 0, 1, 4, 0, 0, 1, 0, 0, 0, 1, 3_040_001,
    )  # fmt: skip
    row = b"\x06\x17\x0f\x0f\x01\x2f" + b"table" + b"t" + b"t" + b"\x02" + b"CREATE TABLE t(a)"
    data = page(0x0D, [varint(len(row)) + b"\x01" + row], before=head)
    for number in range(3, inner + 3):
        to = struct.pack(">I", number)
        data += page(0x05, [to + varint(key) for key in range(1, cells)], to)
    return data + page(0x0D, [b"\x03\x01\x02\x01\x07"])


def test_a_database_whose_pages_lead_to_each_other_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.db").write_bytes(circular(3, 30))
    monkeypatch.setattr("builders.engine.corpus_files.RATIO", 1)
    with pytest.raises(OverLimit, match="more rows than it can hold"):
        list(database_rows(tmp_path / "x.db", "x.db"))


VALUES = """
import sys
from builders.engine.corpus_values import leaves, picture_of
for text in ("{'path': [" + "0," * 10_000_000 + "0]}", "[" + "[]," * 15_000_000 + "[]]"):
    [(_, value)] = leaves({"a": text})
    print(picture_of(value), value is text)
print(picture_of({"mode": "RGB", "size": [30_000, 30_000], "data": b"x"}))
"""


def test_values_that_would_become_many_objects_stay_text() -> None:
    said, peak = child(VALUES, seconds=60)
    assert said.split() == ["None", "True", "None", "True", "None"]
    assert peak <= BASE_MB + 512, f"{peak} MB"


@pytest.mark.parametrize("path", [None, "a 'b'.png", 'x"y.png'])
def test_pictures_as_python_prints_them(path: str | None) -> None:
    data = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) + b"'\"\\"
    for value in (data, {"bytes": data, "path": path}, {"path": path, "bytes": data}, {"bytes": data}):
        assert picture_of(repr(value)) == data
    assert picture_of(repr({"bytes": data, "more": data})) is None  # the second would be lost
