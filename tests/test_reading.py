"""Every form of a table, and of a picture in a cell, that people keep data in is read, or named as not compared."""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import hashlib
import io
import json
import lzma
import sqlite3
import tarfile
import textwrap
import zipfile
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.orc as orc
import pyarrow.parquet as pq
import pytest
from conftest import call_module, run_module, zipped
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from builders.corpus import main
from builders.engine.corpus_source import build_corpus
from manifests.catalog import connect
from shards.reader import Build

Row = dict[str, Any]
ROWS: list[Row] = [
    {
        "question": f"Which of the {number} nerves supplies the deltoid muscle of the shoulder?",
        "answer": f"no. {number}",
    }
    for number in range(3)
]
TABLE = pa.Table.from_pylist(ROWS)
FRAME = pd.DataFrame(ROWS)


def packed(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, "zstd") as stream:
            stream.write(data)
        return sink.getvalue().to_pybytes()
    return {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](data)


def as_csv(sign: str, encoding: str = "utf-8") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["question", "answer"], delimiter=sign)
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode(encoding)


def as_arrow(write: Callable[[Any], Any]) -> bytes:
    sink = pa.BufferOutputStream()
    write(sink)
    return sink.getvalue().to_pybytes()


def as_stream(sink: Any) -> None:
    with pa.ipc.new_stream(sink, TABLE.schema) as writer:
        writer.write_table(TABLE, max_chunksize=2)


def as_file(sink: Any) -> None:
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)


def as_tar(members: dict[str, bytes] | None = None) -> bytes:
    buffer = io.BytesIO()
    members = members or {f"{number}.json": json.dumps(row).encode() for number, row in enumerate(ROWS)}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def dumped(value: Any, **how: Any) -> bytes:
    return json.dumps(value, **how).encode()


LINES = b"".join(dumped(row) + b"\n" for row in ROWS)
SQUAD = {
    "version": "2.0",
    "data": [
        {"title": "T", "paragraphs": [{"context": "A passage about the shoulder and its nerves.",
                                       "qas": [row | {"id": number} for number, row in enumerate(ROWS)]}]}
    ],
}  # fmt: skip
FORMS: dict[str, bytes] = {
    "a.csv": as_csv(","),
    "semicolons.csv": as_csv(";"),
    "bom.csv": as_csv(",", "utf-8-sig"),
    "wide.csv": as_csv(",", "utf-16"),
    "a.tsv": as_csv("\t"),
    "UPPER.CSV": as_csv(","),
    "a.jsonl": LINES,
    "a.ndjson": LINES,
    "lines.json": LINES,
    "array.json": dumped(ROWS, indent=1),
    "printed.json": b"\n".join(dumped(row, indent=1) for row in ROWS),
    "columns_of_lists.json": dumped({name: [row[name] for row in ROWS] for name in ROWS[0]}),
    "keyed.json": dumped({f"item-{number}": row for number, row in enumerate(ROWS)}),
    "splits.json": dumped({"train": ROWS[:2], "test": ROWS[2:], "version": 1}),
    "squad.json": dumped(SQUAD),
    "deep.json": dumped({"meta": {"by": "us"}, "body": {"items": {"list": ROWS}}}),
    **{f"pandas_{orient}.json": FRAME.to_json(orient=orient).encode()
       for orient in ("records", "columns", "index", "split", "table")},
    "a.parquet": as_arrow(lambda sink: pq.write_table(TABLE, sink)),
    "stream.arrow": as_arrow(as_stream),
    "file.arrow": as_arrow(as_file),
    "a.feather": as_arrow(lambda sink: feather.write_feather(TABLE, sink)),
    "a.orc": as_arrow(lambda sink: orc.write_table(TABLE, sink)),
    "a.tar": as_tar(),
    "a.tbz2": packed(as_tar(), ".bz2"),
    "a.tar.xz": packed(as_tar(), ".xz"),
    "a.tar.zst": packed(as_tar(), ".zst"),
    "tables.tar.gz": packed(as_tar({"d/a.jsonl": LINES}), ".gz"),
    **{f"p.{kind}{suffix}": packed(data, suffix)
       for kind, data in (("csv", as_csv(",")), ("tsv", as_csv("\t")), ("json", dumped(ROWS)), ("jsonl", LINES))
       for suffix in (".gz", ".bz2", ".xz", ".zst")},
    "parquet.zip": zipped({"d/a.parquet": as_arrow(lambda sink: pq.write_table(TABLE, sink))}),
    "csv.zip": zipped({"a.csv": as_csv(",")}),
    "packed.zip": zipped({"a.json.gz": gzip.compress(dumped(ROWS))}),
}  # fmt: skip


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def ingest(raw: Path, mapping: Any = None, role: Any = "train") -> tuple[Path, Row]:
    """The build of a corpus and what its `build.json` says."""
    document, _ = build_corpus(raw, role, mapping, raw.parent / "out")
    return raw.parent / "out" / str(document["build"]), document


def entries(document: Row, *kinds: str) -> dict[tuple[str, str, str], int]:
    books = document["parameters"]["accounting"]
    return {(kind, state, name): count for kind, state, name, _, count in books if not kinds or kind in kinds}


def not_compared(document: Row) -> set[tuple[str, str]]:
    return {(kind, name) for kind, state, name in entries(document) if state == "not compared"}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_of_a_table_is_read(tmp_path: Path, name: str) -> None:
    write(tmp_path / "c" / name, FORMS[name])
    build, document = ingest(tmp_path / "c")
    found = [(sample.record["question"], sample.record["answer"]) for sample in Build(build)]
    assert sorted(found) == [(row["question"], row["answer"]) for row in ROWS]
    assert document["counts"]["rejected"] == 0
    assert not_compared(document) == set()
    assert entries(document, "file") == {("file", "compared", ""): 2 if name.endswith(".zip") else 1}


def test_what_is_said_around_rows_is_said_by_each(tmp_path: Path) -> None:
    write(tmp_path / "c" / "squad.json", FORMS["squad.json"])
    build, _ = ingest(tmp_path / "c")
    for sample in Build(build):
        texts = [part["text"] for message in sample.record["messages"] for part in message["content"]]
        assert texts[0] == "A passage about the shoulder and its nerves."
    assert [s.record["provenance"]["row"] for s in Build(build)] == [f"data.0.paragraphs.0.qas.{i}" for i in range(3)]
    assert [s.record["id"] for s in Build(build)] == [f"c/train/squad.json/{number}" for number in range(3)]


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_databases(tmp_path: Path, kind: str) -> None:
    (tmp_path / "c").mkdir()
    path = tmp_path / "c" / f"a.{kind}"
    connect_to: Any = sqlite3.connect if kind == "sqlite" else duckdb.connect
    with closing(connect_to(str(path))) as database:
        for table in ("one", 'a "b"'):
            quoted = table.replace('"', '""')
            database.execute(f'CREATE TABLE "{quoted}" (question VARCHAR, answer VARCHAR)')
            for row in ROWS:
                database.execute(f'INSERT INTO "{quoted}" VALUES (?, ?)', list(row.values()))
        database.commit()
    before = path.read_bytes()
    build, document = ingest(tmp_path / "c")
    assert sorted(s.record["question"] for s in Build(build)) == sorted(2 * [row["question"] for row in ROWS])
    assert (not_compared(document), path.read_bytes()) == (set(), before)


def test_a_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "c")
    _, document = ingest(tmp_path / "c")
    assert (document["counts"]["kept"], document["counts"]["rejected"], not_compared(document)) == (3, 0, set())
    assert ("file", "declared", "state.json") in entries(document)


def test_documents_and_pictures_without_a_table_are_a_row_each(tmp_path: Path) -> None:
    write(tmp_path / "c" / "a.txt", b"The film shows no acute finding.")
    write(tmp_path / "c" / "a.png", PNG)
    write(tmp_path / "c" / "sub" / "b.png", OTHER)
    write(tmp_path / "c" / "p.zip", zipped({"x/c.png": THIRD}))
    build, document = ingest(tmp_path / "c")
    found = {sample.record["provenance"]["file"]: len(sample.record["images"]) for sample in Build(build)}
    assert found == {"a.txt": 1, "sub/b.png": 1, "p.zip!x/c.png": 1}
    assert (not_compared(document), pictures_of(tmp_path)) == (set(), 3)


@pytest.mark.parametrize("header", [True, False])
def test_a_table_without_names_loses_no_row(tmp_path: Path, header: bool) -> None:
    text = io.StringIO()
    csv.writer(text).writerows([["question", "answer"]] * header + [list(row.values()) for row in ROWS])
    write(tmp_path / "c" / "a.csv", text.getvalue().encode())
    mapping = None if header else {"question": "column_1", "answer": "column_2"}
    _, document = ingest(tmp_path / "c", mapping)
    assert (document["counts"]["kept"], document["counts"]["read"]) == (3, 3)


@pytest.mark.parametrize(
    ("name", "data"),
    [("a.csv", b"question,answer\nfine?,1\n\xff,2\nwith,too,many\n"), ("a.json", b'[{"question": "fine?"}, {"que'),
     ("a.jsonl.xz", packed(LINES, ".xz")[:-20]), ("a.orc", b"ORC no more"), ("a.zip", b"PK no zip"),
     ("a.arrow", as_arrow(as_stream)[:-90]), ("a.db", b"neither of them"), ("a.npz", b"PK"), ("a.txt", b"\xff\xfe\xff"),
     ("a.json.bz2", b"BZh no more"), ("a.csv.gz", b"")],
)  # fmt: skip
def test_what_is_damaged_is_named(tmp_path: Path, name: str, data: bytes) -> None:
    write(tmp_path / "c" / name, data)
    write(tmp_path / "c" / "good.jsonl", LINES)
    build, document = ingest(tmp_path / "c")
    counts = document["counts"]
    assert counts["rejected"] >= 1
    assert counts["kept"] + counts["rejected"] == counts["read"]
    with connect(build) as connection:
        [[files]] = connection.execute("SELECT list_distinct(list(file)) FROM rejects").fetchall()
    assert files == [name]


# --- pictures in cells -------------------------------------------------------------------------------------------


def png(seed: int, size: tuple[int, int] = (24, 20)) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


PNG, OTHER, THIRD = (png(seed) for seed in range(3))
PIXELS = np.asarray(Image.open(io.BytesIO(PNG)))
TEXT64 = base64.b64encode(PNG).decode()


def pictures_of(folder: Path) -> int:
    with connect(folder / "out") as connection:
        [[count]] = connection.execute("SELECT count(DISTINCT pixel_sha256) FROM images").fetchall()
    return int(count)


CELLS: dict[str, Any] = {
    "base64": TEXT64,
    "data address": f"data:image/png;base64,{TEXT64}",
    "base64 for addresses": base64.urlsafe_b64encode(PNG).decode().rstrip("="),
    "base64 in lines": base64.encodebytes(PNG).decode(),
    "hexadecimal": PNG.hex(),
    "hexadecimal of a database": "\\x" + PNG.hex(),
    "as Python prints it": str(PNG),
    "as pandas writes it": str({"bytes": PNG, "path": None}),
    "numbers": list(PNG),
    "rows of numbers": PIXELS.tolist(),
    "three channels": np.stack([PIXELS] * 3, axis=2).tolist(),
    "channels first": np.stack([PIXELS] * 3).tolist(),
    "bytes and path": {"bytes": TEXT64, "path": "x.png"},
    "of Pillow": {"mode": "L", "size": [20, 24], "data": base64.b64encode(PIXELS.tobytes()).decode()},
    "a list": [TEXT64],
    "in a list of objects": [{"bytes": TEXT64, "path": None}],
    "of an API": {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{TEXT64}"}},
    "of another API": {"type": "image", "source": {"type": "base64", "data": TEXT64}},
    "by name": "pictures/a.png",
    "by names": ["pictures/a.png"],
    "names as text": '["pictures/a.png"]',
    "in a zip": "zipped/a.png",
}


@pytest.mark.parametrize("field", ["image", "scan"])
@pytest.mark.parametrize("form", CELLS)
def test_a_picture_in_a_cell_is_compared_in_every_encoding(tmp_path: Path, form: str, field: str) -> None:
    for name in ("train", "test"):
        value = CELLS[form] if name == "train" else TEXT64
        write(tmp_path / name / "a.jsonl", dumped({field: value, "text": "A film of the chest."}))
    if form in ("by name", "by names", "names as text"):
        write(tmp_path / "train" / "pictures" / "a.png", PNG)
    if form == "in a zip":
        write(tmp_path / "train" / "all.zip", zipped({"zipped/a.png": PNG, "zipped/b.png": OTHER}))
    if form.startswith("of a") and field == "image":
        pytest.skip("a field of pictures holds pictures")
    _, document = ingest(tmp_path / "train")
    ingest(tmp_path / "test", role="eval")
    assert pictures_of(tmp_path) == 1
    with connect(tmp_path / "out") as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchall() == [(2,)]
    rest = {("file", "all.zip!zipped/b.png")} if form == "in a zip" else set()
    assert not_compared(document) == rest


def test_pictures_in_cells_of_tables(tmp_path: Path) -> None:
    table = pa.table(
        {"film": [PNG], "spelt": [TEXT64], "bytes": pa.array([list(PNG)], pa.list_(pa.uint8())), "text": ["x"]}
    )
    (tmp_path / "c").mkdir()
    pq.write_table(table, tmp_path / "c" / "a.parquet")
    _, document = ingest(tmp_path / "c")
    assert (document["counts"]["by_split"]["train"]["images"], not_compared(document)) == (3, set())


def test_arrays_of_pictures(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    np.savez(tmp_path / "c" / "a.npz", train_images=np.stack([PIXELS] * 2), train_labels=np.array([[0], [1]]))
    _, document = ingest(tmp_path / "c")
    assert (document["counts"]["kept"], pictures_of(tmp_path)) == (2, 1)
    assert document["counts"]["rejects"] == {"missing_field": 2}  # a label alone is nothing to compare


# --- what was once lost without a word --------------------------------------------------------------------------

LEAKED = {"question": "Which tendon is torn in most ruptures of the rotator cuff?", "answer": "supraspinatus"}
FIRST, SECOND = dumped(ROWS[0]).decode(), dumped(LEAKED).decode()


def in_schemas(path: Path) -> None:
    with closing(duckdb.connect(str(path))) as database:
        database.execute("CREATE SCHEMA more")
        for place, row in ("items", ROWS[0]), ("more.items", LEAKED):
            database.execute(f"CREATE TABLE {place} (question VARCHAR, answer VARCHAR)")
            database.execute(f"INSERT INTO {place} VALUES (?, ?)", list(row.values()))


def called_like_sqlites_own(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE sqlite3items (question, answer)")
        database.execute("INSERT INTO sqlite3items VALUES (?, ?)", list(LEAKED.values()))
        database.commit()


LOST: dict[str, bytes | Callable[[Path], None]] = {
    "keys.json": f'{{"7": {FIRST}, "8": {FIRST}, "7": {SECOND}}}'.encode(),
    "NOTICE.jsonl": SECOND.encode(),
    "authors.csv": f"question, answer\n{LEAKED['question']},x\n".encode(),
    "schemas.duckdb": in_schemas,
    "own.sqlite": called_like_sqlites_own,
    "nan.jsonl": SECOND.replace("}", ', "weight": NaN}').encode(),
}


@pytest.mark.parametrize("name", LOST)
def test_no_row_is_lost_to_a_name_that_others_have(tmp_path: Path, name: str) -> None:
    made = LOST[name]
    path = write(tmp_path / "c" / name, made if isinstance(made, bytes) else b"")
    if not isinstance(made, bytes):
        path.unlink()
        made(path)
    write(tmp_path / "c" / "good.jsonl", LINES)
    build, document = ingest(tmp_path / "c", role="eval")
    assert LEAKED["question"] in {sample.record["question"] for sample in Build(build)}
    assert not_compared(document) == set()


def test_a_key_that_comes_again_in_a_row_is_a_field_of_its_own(tmp_path: Path) -> None:
    line = f'{{"question": "Fine?", "note": "{LEAKED["question"]}", "note": "short"}}'.encode()
    for name, data in ("a.jsonl", line), ("b.ndjson", line), ("c.tar", as_tar({"1.json": line})):
        write(tmp_path / name / name, data)
        assert ("text", "note") in not_compared(ingest(tmp_path / name)[1])


def test_what_stands_beside_a_zips_own_members_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a" / "two.zip", zipped({"a.jsonl": SECOND.encode()}) + zipped({"b.jsonl": LINES}))
    assert [gap["file"] for gap in ingest(tmp_path / "a")[1]["gaps"]] == ["two.zip"]
    write(tmp_path / "b" / "out.zip", zipped({"../a.jsonl": SECOND.encode(), "b.jsonl": LINES}))
    assert [gap["file"] for gap in ingest(tmp_path / "b")[1]["gaps"]] == ["out.zip"]
    words = ["--raw", str(tmp_path / "b"), "--role", "train", "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 4


@pytest.mark.parametrize("name", [".thumbs/a.png", ".a.png", "d/.b.DCM"])
def test_a_hidden_picture_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "c" / name, PNG)
    write(tmp_path / "c" / "._a.png", b"what macOS writes beside a file")
    write(tmp_path / "c" / "a.jsonl", LINES)
    assert not_compared(ingest(tmp_path / "c")[1]) == {("file", name)}


@pytest.mark.parametrize(
    ("table", "rejected"),
    [
        ('patient,text\n11,"The heart is large.\n12,The lungs are clear.\n13,No effusion.\n', 1),  # to the end
        ('text,patient\n"The heart is large,11\nThe lungs are clear,12\n"No effusion, none.",13\n', 1),  # to the next
        ('patient,text\n11,"The heart is large.\n12,The lungs are clear.\n13,No effusion."\n', 1),  # to a stray one
        ('patient;text\r\n11;"The heart\r\nis large; ""really""."\r\n12;Clear lungs.\r\n', 0),
        ('patient,text\n11,The 5" tube is in place.\n12,Clear lungs.\n', 0),
    ],
)
def test_rows_that_a_stray_quote_swallows_cost_their_record(tmp_path: Path, table: str, rejected: int) -> None:
    """Their patients' ids stand in no column: such a record may not count as one row."""
    write(tmp_path / "c" / "a.csv", table.encode())
    write(tmp_path / "c" / "good.jsonl", dumped({"patient": 1, "text": "A film of the chest."}))
    _, document = ingest(tmp_path / "c", {"groups": {"subject_id": "patient"}})
    assert document["counts"]["rejects"] == ({"bad_row": 1} if rejected else {})


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("00012", 12, True), ("12.0", "12", True), (" PT-0012a", "pt_12A", True), ("p10000032", 10000032, True),
        ("patient00001", "1", True), ("sub-01", "1", True), ("M\u00fcller", "Mu\u0308ller", True),
        ("\ufeff12\u200b", "12", True), ("12\u201334", "12-34", True), ("h/12", "12", True), ("1-12", "11-2", False),
        ("A12", "B12", False), ("12.5", "125", False), ("0", "00", True), ("#", "?", False),
    ],
)  # fmt: skip
def test_a_patient_is_one_however_the_id_is_written(tmp_path: Path, one: Any, other: Any, same: bool) -> None:
    mapping = {"groups": {"subject_id": {"field": "patient", "prefix": "h"}}}
    for name, value in ("one", one), ("other", other):
        write(tmp_path / name / "a.jsonl", dumped({"patient": value, "text": "A film of the chest."}))
        ingest(tmp_path / name, mapping)
    with connect(tmp_path / "out") as connection:
        [[ids]] = connection.execute("SELECT list(DISTINCT subject_id) FROM samples").fetchall()
    assert (len(ids) == 1) == same
    assert all(value.startswith("h/") and len(value) > 2 for value in ids)


@pytest.mark.parametrize("numbers", ["float", "uint16", "signed"])
@pytest.mark.parametrize("form", ["json", "parquet", "npy"])
def test_rows_of_other_numbers_are_a_picture_by_their_own_range(tmp_path: Path, numbers: str, form: str) -> None:
    stretched = (PIXELS.astype(float) - PIXELS.min()) / (int(PIXELS.max()) - int(PIXELS.min()))
    values = {
        "float": stretched,
        "uint16": (stretched * 65535).astype(int),
        "signed": (stretched * 4000).astype(int) - 1024,
    }
    cells = values[numbers].tolist()
    (tmp_path / "c").mkdir()
    if form == "json":
        write(tmp_path / "c" / "a.jsonl", dumped({"film": cells, "text": "A film of the chest."}))
    elif form == "parquet":
        pq.write_table(pa.table({"film": [cells], "text": ["A film of the chest."]}), tmp_path / "c" / "a.parquet")
    else:
        np.save(tmp_path / "c" / "a.npy", values[numbers][None])
    build, document = ingest(tmp_path / "c")
    [sample] = Build(build)
    assert (len(sample.record["images"]), not_compared(document)) == (1, set())
    write(tmp_path / "d" / "a.jsonl", dumped({"film": np.rint(stretched * 255).astype(int).tolist(), "text": "x"}))
    ingest(tmp_path / "d")
    with connect(tmp_path / "out") as connection:
        [[hashes]] = connection.execute("SELECT count(DISTINCT phash) FROM images").fetchall()
    assert hashes == 1


def test_numbers_that_make_no_picture_are_named(tmp_path: Path) -> None:
    volume = np.zeros((9, 12, 12)).tolist()
    write(tmp_path / "c" / "a.jsonl", dumped({"volume": volume, "vector": [0.5] * 768, "text": "A film of the chest."}))
    assert not_compared(ingest(tmp_path / "c")[1]) == {("field", "volume"), ("picture", "volume")}


def test_a_picture_within_a_text_is_compared(tmp_path: Path) -> None:
    page = f"<p>The film of today shows this:</p> <img src='data:image/png;base64,{TEXT64}'> and no more"
    write(tmp_path / "c" / "a.jsonl", dumped({"text": page}))
    _, document = ingest(tmp_path / "c")
    assert (document["counts"]["by_split"]["train"]["images"], not_compared(document)) == (1, set())


# --- the books ---------------------------------------------------------------------------------------------------


def test_what_nothing_is_taken_from_is_named_and_can_be_declared(tmp_path: Path) -> None:
    row = {
        "question": "Which nerve?", "answer": "axillary", "note": "A long remark that nobody mapped to anything.",
        "thumb": "https://example.org/a.png", "gone": "pictures/gone.png", "code": "X-17",
        "messages": [{"role": "user", "content": "Hello.", "tool": "what the tool said was this and that"}],
    }  # fmt: skip
    write(tmp_path / "c" / "a.jsonl", dumped(row) + b"\n" + b"no JSON\n")
    write(tmp_path / "c" / "paper.pdf", b"%PDF")
    write(tmp_path / "c" / "orphan.png", PNG)
    _, document = ingest(tmp_path / "c")
    assert not_compared(document) == {
        ("field", "note"), ("text", "note"), ("field", "thumb"), ("picture", "thumb"), ("field", "gone"),
        ("picture", "gone"), ("field", "messages.tool"), ("text", "messages.tool"), ("file", "paper.pdf"),
        ("file", "orphan.png"),
    }  # fmt: skip
    assert ("field", "declared", "code") in entries(document)
    words = ["--raw", str(tmp_path / "c"), "--role", "train", "--out", str(tmp_path / "out"), "--quiet"]
    assert main(words) == 4
    names = ["note", "thumb", "gone", "messages.*", "*.pdf", "orphan.png"]
    mapping = {"leave_out": dict.fromkeys(names, "seen, and of no matter")}
    _, document = ingest(tmp_path / "c", mapping)
    assert not_compared(document) == set()
    (tmp_path / "m.json").write_bytes(dumped(mapping))
    assert main([*words, "--mapping", str(tmp_path / "m.json")]) == 4  # the line that is no JSON
    mapping["leave_out"]["bad_row"] = "one line was cut"
    (tmp_path / "m.json").write_bytes(dumped(mapping))
    assert main([*words, "--mapping", str(tmp_path / "m.json")]) == 3


def test_a_picture_that_came_with_its_row_may_have_its_name_and_address_beside_it(tmp_path: Path) -> None:
    row = {"film": TEXT64, "url": "https://example.org/1.jpg", "caption": "A film."}
    write(tmp_path / "c" / "a.jsonl", dumped(row))
    assert not_compared(ingest(tmp_path / "c")[1]) == set()
    write(tmp_path / "c" / "a.jsonl", dumped(row | {"next": "https://example.org/2.jpg"}))
    assert ("picture", "next") in not_compared(ingest(tmp_path / "c")[1])


def test_a_second_picture_of_a_row_that_is_gone_is_named(tmp_path: Path) -> None:
    rows = [
        {"frontal": "1.png", "lateral": "2.png", "was": "scan_7.tif", "text": "Two films of the chest."},
        {"frontal": "1.png", "lateral": "3.png", "was": "scan_8.tif", "text": "Two other films of the chest."},
    ]
    write(tmp_path / "c" / "a.jsonl", b"\n".join(map(dumped, rows)))
    for name in ("1.png", "2.png"):
        write(tmp_path / "c" / name, PNG)
    assert not_compared(ingest(tmp_path / "c")[1]) == {("field", "lateral"), ("picture", "lateral")}


@pytest.mark.parametrize(
    "text",
    ["患者男，54岁，胸痛1天，向左臂放射，ST抬高，最可能？", "The film of the patient that is shown in figure_3.png"],
)
def test_a_text_is_known_in_every_script_and_with_a_files_name_in_it(tmp_path: Path, text: str) -> None:
    write(tmp_path / "c" / "a.jsonl", dumped({"film": TEXT64, "text": "A film.", "stem": text, "code": "膝 5"}))
    assert not_compared(ingest(tmp_path / "c")[1]) == {("field", "stem"), ("text", "stem")}


def test_many_files_make_one_entry(tmp_path: Path) -> None:
    write(tmp_path / "c" / "a.jsonl", LINES)
    for number in range(30):
        write(tmp_path / "c" / "slides" / f"{number}.pptx", b"PK")
        write(tmp_path / "c" / ".git" / "objects" / f"{number:02}" / "x", b"x")
    found = entries(ingest(tmp_path / "c")[1], "file")
    assert found == {("file", "compared", ""): 1, ("file", "not compared", "slides/*.pptx"): 30,
                     ("file", "declared", ".git/*"): 30}  # fmt: skip


def test_a_build_without_pixels_is_not_compared_at_the_levels_that_need_them(tmp_path: Path) -> None:
    folders = ("--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "built"), "--quiet")
    done = run_module("builders.vqa_rad", "--demo", "--no-images", *folders)
    assert done.returncode in (0, 3), done.stderr
    done = run_module("manifests.prove", str(tmp_path / "built"), "--quiet", "--workers", "1")
    assert done.returncode == 4, done.stdout + done.stderr
    for side in ("train", "eval"):
        assert f"{side} vqa_rad: picture (all)" in done.stdout


def test_texts_alone_are_compared_where_the_mapping_says_so(tmp_path: Path) -> None:
    write(tmp_path / "c" / "a.jsonl", dumped({"image": TEXT64, "text": "A film of the chest."}))
    _, document = ingest(tmp_path / "c", {"images": []})
    assert not_compared(document) == set()
    assert entries(document, "picture", "field")["picture", "declared", "image"] == 1


def test_a_proof_says_what_was_not_compared_everywhere(tmp_path: Path) -> None:
    for name, rows in ("train", ROWS[:2]), ("test", ROWS[2:]):
        write(tmp_path / name / "a.jsonl", b"\n".join(map(dumped, rows)))
    prove = [
        "manifests.prove", "--train", str(tmp_path / "train"), "--eval", str(tmp_path / "test"),
        "--out", str(tmp_path / "p"), "--quiet", "--workers", "1",
    ]  # fmt: skip
    done = run_module(*prove)
    assert (done.returncode, "NOT proved" in done.stdout) == (0, False), done.stdout + done.stderr
    write(tmp_path / "train" / "slides.pptx", b"PK")
    write(tmp_path / "train" / "b.jsonl", b"cut")
    done = run_module(*prove)
    assert done.returncode == 4, done.stdout + done.stderr
    certificate = json.loads((tmp_path / "p" / "proof" / "certificate.json").read_bytes())
    report = (tmp_path / "p" / "proof" / "report.html").read_text()
    for text in (done.stdout, json.dumps(certificate), report):
        assert "slides.pptx" in text
        assert "bad_row" in text
    assert "NOT proved: not all was compared" in done.stdout
    assert report.index("slides.pptx") < report.index('id="matrix"')
    done = run_module("manifests.verify", str(tmp_path / "p" / "corpus"), "--proof", str(tmp_path / "p" / "proof"))
    assert done.returncode == 0, done.stdout
    policy = (Path(__file__).parent.parent / "manifests/proof/policies/default.yaml").read_text()
    declared = '{"train.train/slides.pptx": "slides", "train.train/bad_row": "seen"}'
    (tmp_path / "policy.yaml").write_text(policy.replace("leave_out: {}", f"leave_out: {declared}"))
    done = run_module(*prove, "--policy", str(tmp_path / "policy.yaml"), "--benchmarks", "present")
    assert done.returncode == 0, done.stdout + done.stderr


FILES = st.dictionaries(
    st.sampled_from([*FORMS, "x.pdf", "x.bin", ".hidden.csv", "a.png", "b.png", "y.md", "z.db"]),
    st.sampled_from(["whole", "cut", "empty", "other"]),
    min_size=1,
    max_size=6,
)


@settings(max_examples=25)
@given(FILES, st.sampled_from(["train", "eval"]))
def test_the_books_add_up_for_any_folder(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, str], role: str
) -> None:
    folder = tmp_path_factory.mktemp("books") / "c"
    write(folder / "good.jsonl", LINES)
    for name, state in files.items():
        data = FORMS.get(name, PNG if name.endswith("png") else b"Some words that stand in a file of its own.")
        data = {"whole": data, "cut": data[: len(data) // 2], "empty": b"", "other": b"\x00\xff" * 40}[state]
        write(folder / name, data)
    if any(name.endswith(".parquet") and state != "whole" for name, state in files.items()):
        return  # refused as a whole: its rows cannot be counted
    build, document = ingest(folder, role=role)
    counts, books = document["counts"], document["parameters"]["accounting"]
    assert counts["kept"] + counts["rejected"] == counts["read"]
    with connect(build) as connection:
        [[kept, rejected]] = connection.execute(
            "SELECT (SELECT count(*) FROM samples), (SELECT count(*) FROM rejects)"
        ).fetchall()
    assert (kept, rejected) == (counts["kept"], counts["rejected"])
    members = 0
    for path in folder.glob("*.zip"):
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                members += len(archive.namelist())
    assert sum(count for kind, *_, count in books if kind == "file") == len(list(folder.iterdir())) + members
    named = {name for kind, state, name, *_ in books if kind == "file" and state != "compared"}
    for name, state in files.items():
        assert (name in named) == (name in ("x.pdf", "x.bin", ".hidden.csv", "a.png", "b.png"))
        if state == "whole" and name in FORMS:
            with connect(build) as connection:
                found = connection.execute("SELECT count(*) FROM samples WHERE split_part(file, '!', 1) = ?", [name])
                assert found.fetchall() == [(len(ROWS),)]


# --- items as benchmarks have them -------------------------------------------------------------------------------


STEM, LABELS = "Site of action of vasopressin:", "ABCD"
OPTIONS = ["Proximal tubule", "Loop of Henle", "Collecting duct", "Glomerulus"]
PROMPT = "\n".join([STEM, *(f"{label}. {text}" for label, text in zip(LABELS, OPTIONS, strict=True))])
ONE_LINE = " ".join([STEM, *(f"({label}) {text}" for label, text in zip(LABELS.lower(), OPTIONS, strict=True))])
ITEMS: dict[str, Row] = {
    "listed": {"question": STEM, "options": OPTIONS, "answer": "C"},
    "prompt": {"question": PROMPT, "answer": "C"},
    "prompt, told how to answer": {"question": f"{PROMPT}\nAnswer with the option's letter.", "answer": "(C)"},
    "prompt, one line": {"question": ONE_LINE, "answer": "c) collecting duct."},
    "numbered": {
        "question": "\n".join([STEM, *(f"{at}) {text}" for at, text in enumerate(OPTIONS, 1))]),
        "answer": "3",
    },
    "chat": {"conversations": [{"from": "human", "value": PROMPT}, {"from": "gpt", "value": "C. Collecting duct"}]},
    "chat without a reply": {"messages": [{"role": "user", "content": PROMPT}], "answer": "C"},
    "chat, how it is found": {
        "messages": [{"role": "user", "content": PROMPT}, {"role": "assistant", "content": "Here water is taken up."}],
        "answer": "C",
    },
    "evals": {"input": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": PROMPT}], "ideal": "C"},
    "alpaca": {"instruction": "Please answer with one of the options.", "input": PROMPT, "output": "C"},
    "braces": {
        "instruction": "Please answer with one of the options in the brackets.",
        "input": f"{STEM} {dict(zip(LABELS, OPTIONS, strict=True))},",
        "output": "C: Collecting duct",
    },
    "printed by Python": {"question": STEM, "options": str(OPTIONS), "answer": "C"},
    "a column each": {"question": STEM, **dict(zip(LABELS, OPTIONS, strict=True)), "answer": "C"},
    "named columns": {
        "question": STEM,
        **{f"option_{label}": text for label, text in zip(LABELS, OPTIONS, strict=True)},
        "gt_answer": "Collecting duct",
    },
    "answer_idx": {"question": STEM, "options": dict(zip(LABELS, OPTIONS, strict=True)), "answer_idx": "C"},
}
"""One item as benchmarks and prompts have it."""


@pytest.mark.parametrize("form", ITEMS)
def test_an_item_is_its_stem_options_and_answer_however_it_is_written(tmp_path: Path, form: str) -> None:
    write(tmp_path / "c" / "t.jsonl", dumped(ITEMS[form]))
    build, document = ingest(tmp_path / "c", role="eval")
    [sample] = Build(build)
    record = sample.record
    options = {option["label"]: option["text"] for option in record["options"]}
    assert " ".join(record["question"].split()).rstrip(" {") == STEM
    assert list(options.values()) == OPTIONS
    assert options[record["answer"]] == "Collecting duct"
    assert not_compared(document) == set()


LEAD = "You are sitting for an examination of medical knowledge; answer with the letter of the best option.\n\n"
WORKED = [
    {"role": "user", "content": "Which vitamin heals scurvy?\nA. Retinol\nB. Ascorbic acid"},
    {"role": "assistant", "content": "B"},
]


@pytest.mark.parametrize("form", ["told what to do", "worked examples", "chat with worked examples"])
def test_what_most_test_questions_begin_with_is_none_of_theirs(tmp_path: Path, form: str) -> None:
    places = "in a rat", "in man", "at night", "in age", "in shock", "in fever", "in water", "in vitro", "now", "abroad"
    stems = [f"{STEM[:-1]} {place}:" for place in places]
    shown = f"{LEAD}Question: {WORKED[0]['content']}\nAnswer: B\n\n" if form == "worked examples" else LEAD
    prompts = [PROMPT.replace(STEM, stem) for stem in stems]
    rows: list[Row] = [{"prompt": shown + prompt, "completion": " C"} for prompt in prompts]
    if form.startswith("chat"):
        rows = [{"messages": [*WORKED, {"role": "user", "content": prompt}], "answer": "C"} for prompt in prompts]
    write(tmp_path / "c" / "t.jsonl", b"\n".join(map(dumped, rows)))
    build, document = ingest(tmp_path / "c", role="eval")
    assert [sample.record["question"] for sample in Build(build)] == stems
    assert not_compared(document) == set()
    texts = [message["content"][-1]["text"] for message in next(iter(Build(build))).record["messages"]]
    assert texts[0] == (WORKED[0]["content"] if form.startswith("chat") else shown + prompts[0])
    ingest(tmp_path / "c")  # of a train side every word is looked at, so nothing is told apart


def test_questions_that_begin_alike_keep_their_beginning(tmp_path: Path) -> None:
    """Few words, or those of a few rows."""
    rows = [{"question": f"Which of the following is true of {name}?", "answer": "yes"} for name in "abcdefghijklmn"]
    write(tmp_path / "c" / "t.jsonl", b"\n".join(map(dumped, rows)))
    write(
        tmp_path / "d" / "t.jsonl", b"\n".join(dumped({"question": f"{LEAD}{at}?", "answer": "yes"}) for at in range(3))
    )
    for name in "cd":
        build, _ = ingest(tmp_path / name, role="eval")
        assert all(sample.record["question"].startswith(("Which of the", "You are")) for sample in Build(build))


@pytest.mark.parametrize(
    "row",
    [
        {"question": "There were groups: A. treated B. untreated C. lost. Which did better?", "answer": "none"},
        {"question": "Is vitamin A. needed\nB. harmful", "answer": "It depends on the dose."},
        {"question": "1. Wash the hands\n2. Put on gloves\nWhat comes next?", "answer": "The gown."},
    ],
)  # fmt: skip
def test_lists_within_a_question_are_options_only_where_the_answer_is_one(tmp_path: Path, row: Row) -> None:
    write(tmp_path / "c" / "t.jsonl", dumped(row))
    build, _ = ingest(tmp_path / "c", role="eval")
    [sample] = Build(build)
    assert (sample.record["question"], sample.record["options"]) == (row["question"], None)


def test_a_test_item_is_found_by_its_answer_whose_options_stand_in_the_prompt(tmp_path: Path) -> None:
    write(tmp_path / "test" / "t.jsonl", b"\n".join(dumped(ITEMS[form]) for form in ("prompt", "braces", "evals")))
    leak = {"text": f"Question: {STEM}\nThe answer is collecting duct."}
    write(tmp_path / "train" / "t.jsonl", b"\n".join(map(dumped, [leak, *ROWS])))
    done = proof_of(tmp_path, "--no-rewrites")
    assert (done.returncode, "After 1 exclusions" in done.stdout) == (0, True), done.stdout + done.stderr


def test_test_texts_too_short_to_be_found_are_told_with_the_verdict(tmp_path: Path) -> None:
    """They have no question and no picture, so nothing but a copy of all their words is seen."""
    write(tmp_path / "test" / "t.jsonl", dumped({"text": f"{STEM} {OPTIONS[2]}"}))
    write(tmp_path / "train" / "t.jsonl", b"\n".join(map(dumped, [{"text": f"Of {STEM} {OPTIONS[2]}"}, *ROWS])))
    done = proof_of(tmp_path, "--no-rewrites")
    told = "But for 1 test item that near text leaves out: After 0 exclusions"
    assert (done.returncode, told in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"question": STEM, "options": OPTIONS}], True),
        ([{"question": STEM}], True),
        ([{"question": STEM, "answer": "C"}], True),
        ([{"question": STEM, "answer": "C"}, *({"question": f"{STEM} {n}", "answer": "it"} for n in range(20))], False),
        ([{"question": STEM, "answer": "the collecting duct"}], False),
        ([{"question": STEM, "options": OPTIONS, "answer": "the whole nephron"}], False),
        ([{"question": STEM, "options": OPTIONS, "answer": "B, C"}], True),
    ],
)  # fmt: skip
def test_a_test_item_whose_answer_is_not_known_is_named(tmp_path: Path, rows: list[Row], named: bool) -> None:
    write(tmp_path / "c" / "t.jsonl", b"\n".join(map(dumped, rows)))
    _, document = ingest(tmp_path / "c", role="eval")
    assert (("text", "answer") in not_compared(document)) == named
    _, document = ingest(tmp_path / "c", {"leave_out": {"answer": "kept secret by its makers"}}, "eval")
    assert not_compared(document) == set()
    _, document = ingest(tmp_path / "c")
    assert not_compared(document) == set()


# --- texts in pieces ---------------------------------------------------------------------------------------------


PROSE = (
    "A woman of middle age comes to the clinic because of swelling in both legs, a dry cough at night, and breath that "
    "fails her on the stairs; her doctor hears fine rattling over either lung."
)
IN_PIECES: dict[str, Any] = {
    "words": PROSE.split(),
    "tokens": list(range(300, 330)),
    "boxes": [{"word": word, "box": [1, 2, 3, 4]} for word in PROSE.split()],
    "lines": [" ".join(PROSE.split()[at : at + 3]) for at in range(0, 36, 3)] * 2,
    "asked": {"Which heart disease is the most likely here?": "Yes"},
}


@pytest.mark.parametrize("name", IN_PIECES)
def test_a_text_in_pieces_that_nothing_is_taken_from_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "c" / "a.jsonl", dumped({"caption": "A film of the chest in one view.", name: IN_PIECES[name]}))
    _, document = ingest(tmp_path / "c")
    found = {kind for kind, _ in not_compared(document)}
    assert found == (set() if name == "lines" else {"field", "text"})  # of eleven different lines


def test_labels_numbers_and_names_are_no_text_in_pieces(tmp_path: Path) -> None:
    row = {
        "conversations": [{"from": ("human", "gpt")[at % 2], "value": f"Turn {at}."} for at in range(40)],
        "tags": ["pneumonia", "effusion", "edema"] * 10, "mask": [0, 1] * 30, "box": [300, 20, 411, 90],
        "codes": [f"C{at}" for at in range(40)], "weights": [0.5 * at for at in range(600)],
    }  # fmt: skip
    write(tmp_path / "c" / "a.jsonl", dumped(row))
    _, document = ingest(tmp_path / "c")
    assert not_compared(document) == set()


def test_a_text_in_pieces_is_compared_as_one(tmp_path: Path) -> None:
    """With the words that come again: without them no run of words would be left."""
    write(tmp_path / "c" / "a.jsonl", dumped({"text": PROSE.split()}))
    build, document = ingest(tmp_path / "c")
    [sample] = Build(build)
    assert sample.record["messages"][0]["content"][0]["text"] == PROSE
    assert not_compared(document) == set()


def halved(marks: str) -> str:
    return " ".join(marks.format(word[:3], word[3:]) if len(word) > 5 else word for word in PROSE.split())


DISGUISED = {
    "base64": base64.b64encode(PROSE.encode()).decode(),
    "base64 in lines": base64.encodebytes(PROSE.encode()).decode(),
    "hexadecimal": PROSE.encode().hex(),
    "address": quote(PROSE),
    "subword-nmt": halved("{}@@ {}"),
    "WordPiece": halved("{} ##{}"),
    "SentencePiece": "\u2581" + PROSE.replace(" ", " \u2581"),
    "pieces in a list": ["\u0120" + word for word in PROSE.split()],
    "CoNLL": "\n".join(f"{word}\tNN\tO" for word in PROSE.split()),
}


@pytest.mark.parametrize("name", DISGUISED)
def test_a_text_whose_words_cannot_be_seen_is_named(tmp_path: Path, name: str) -> None:
    write(tmp_path / "c" / "a.jsonl", dumped({"text": DISGUISED[name]}))
    _, document = ingest(tmp_path / "c")
    assert not_compared(document) == {("field", "text"), ("text", "text")}


@pytest.mark.parametrize(
    "value",
    [
        hashlib.sha512(b"a").hexdigest(),
        base64.b64encode(hashlib.sha512(b"a").digest()).decode(),
        "https://example.org/" + quote(PROSE),
        f"papers/{quote(PROSE)}pdf",
        "## Findings\n\n## Impression\n\n## Plan\n\nNone of them @ work, all of them at home.",
        "\n".join(f"{code}\tfound {code} times" for code in range(30)),
        "A_long_name_of_" + "a_scan" * 20,
    ],
)  # fmt: skip
def test_digests_addresses_and_headings_are_no_disguise(tmp_path: Path, value: str) -> None:
    write(tmp_path / "c" / "a.jsonl", dumped({"text": "A film of the chest in one view.", "more": value}))
    _, document = ingest(tmp_path / "c", {"text": ["text", "more"]})
    assert not_compared(document) == set()


def test_documents_cut_up_into_rows_are_named(tmp_path: Path, real_data: Path) -> None:
    """By lines, by characters, by words; what is whole is not, nor are sentences beside catchwords."""
    with (real_data / "medqa_usmle_4_options/phrases_no_exclude_train.jsonl").open() as file:
        texts = [json.loads(line)["question"] for line in islice(file, 60)]
    short = [f"effusion of {number} ml" for number in range(60)]
    whole = "\n".join(texts)
    forms = {
        "lines": [line for text in texts for line in textwrap.wrap(text, 60)],
        "characters": [whole[at : at + 256] for at in range(0, len(whole), 256)],
        "words": whole.split(),
        "whole": texts,
        "sentences": [part for text in texts for part in text.split(". ")],
        "sorted": texts + short,
        "by turns": [text for pair in zip(texts, short, strict=True) for text in pair],
        "small letters": [text.lower() for text in texts],
    }
    for name, rows in forms.items():
        write(tmp_path / name / "c" / "a.jsonl", b"\n".join(dumped({"text": row}) for row in rows))
        _, document = ingest(tmp_path / name / "c")
        cut = {("field", "text"), ("text", "text")} if name in ("lines", "characters", "words") else set()
        assert not_compared(document) == cut, name


def test_names_that_are_texts_are_compared_or_named(tmp_path: Path) -> None:
    name = "Which nerve is most at risk here"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(f"notes/{name}.txt", "axillary")
    write(tmp_path / "c" / "a.zip", buffer.getvalue())
    write(tmp_path / "c" / f"{name.replace(' ', '_')}.txt", b"axillary")
    write(tmp_path / "c" / "2020-01-02_report_12_final.txt", b"axillary")
    build, document = ingest(tmp_path / "c")
    said = [sample.record["messages"][0]["content"] for sample in Build(build)]
    found = sorted([part["text"] for part in content] for content in said)
    assert found == [[name, "axillary"]] * 2 + [["axillary"]]
    assert not_compared(document) == set()
    (tmp_path / "d").mkdir()
    with closing(sqlite3.connect(tmp_path / "d" / "a.sqlite")) as base:
        base.execute(f'CREATE TABLE "{name}" (answer TEXT)')
        base.execute(f"INSERT INTO \"{name}\" VALUES ('axillary')")
        base.commit()
    write(tmp_path / "e" / "a.json", dumped({name: [{"text": "axillary"}, {"text": "radial"}], "n": 1}))
    for folder in ("d", "e"):
        _, document = ingest(tmp_path / folder)
        assert not_compared(document) == {("field", "__key__"), ("text", "__key__")}


def test_a_row_of_several_texts_is_verified(tmp_path: Path) -> None:
    rows = [{"text": "Tear of the cruciate ligament", "caption": "(sagittal), 5 mm"}, {"text": ["Effusion", "None."]}]
    write(tmp_path / "train" / "a.jsonl", b"\n".join(map(dumped, rows)))
    write(tmp_path / "test" / "a.jsonl", LINES)
    assert proof_of(tmp_path, "--no-rewrites").returncode == 0
    done = call_module("manifests.verify", str(tmp_path / "p/corpus"), "--proof", str(tmp_path / "p/proof"))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("side", ["train", "test"])
def test_a_picture_whose_transparency_a_loader_left_out_is_found(tmp_path: Path, side: str) -> None:
    """Colours below transparency are what `convert("RGB")` shows, and a viewer does not."""
    for number in range(2):
        level = np.random.default_rng(number).integers(0, 256, (6, 8), np.uint8)
        grey = Image.fromarray(level).resize((240, 180), Image.Resampling.BICUBIC)
        clear = Image.fromarray(np.tile(np.linspace(0, 255, 240).astype(np.uint8) ** 2, (180, 1)))
        seen = Image.merge("RGBA", (grey, grey, grey, clear.rotate(90 * number)))
        for place in ("train", "test") if number == 0 else ("train",):
            buffer = io.BytesIO()
            (seen if place == side else seen.convert("RGB")).save(buffer, "PNG")
            write(tmp_path / place / f"{number}.png", buffer.getvalue())
    done = proof_of(tmp_path, "--no-rewrites")
    assert (done.returncode, "After 1 exclusions" in done.stdout) == (0, True), done.stdout + done.stderr


def test_drawings_all_of_whose_lines_are_transparency_stay_apart(tmp_path: Path) -> None:
    for number, place in enumerate(("train", "test")):
        lines = np.random.default_rng(number).integers(0, 2, (6, 8), np.uint8) * 255
        drawn = Image.new("RGBA", (240, 180), "black")
        drawn.putalpha(Image.fromarray(lines).resize((240, 180), Image.Resampling.NEAREST))
        buffer = io.BytesIO()
        drawn.save(buffer, "PNG")
        write(tmp_path / place / "a.png", buffer.getvalue())
    done = proof_of(tmp_path, "--no-rewrites")
    assert "After 0 exclusions" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.csv", "a.json"])
def test_pointers_are_no_texts(tmp_path: Path, name: str) -> None:
    write(tmp_path / "c" / "good.jsonl", LINES)
    write(tmp_path / "c" / name, b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a21461\nsize 12345\n")
    _, document = ingest(tmp_path / "c")
    assert [unit["reasons"] for unit in document["units"] if unit["reasons"]] == [{"unreadable_file": 1}]
    assert document["counts"]["kept"] == len(ROWS)


@pytest.mark.parametrize("first", ["seen.png,normal", "Any effusion?,normal", f"x1,{'QUJD' * 60}"])
def test_a_first_line_that_is_a_row_is_no_header(tmp_path: Path, first: str) -> None:
    write(tmp_path / "c" / "a.csv", f"{first}\nsecond line,normal\n".encode())
    write(tmp_path / "c" / "seen.png", PNG)
    _, document = ingest(tmp_path / "c", {"text": ["column_1", "column_2"]})
    assert document["counts"]["kept"] + document["counts"]["rejected"] == 2
    write(tmp_path / "d" / "a.csv", b"text,Effusion?\nsecond line,normal\n")
    _, document = ingest(tmp_path / "d")
    assert document["counts"]["kept"] == 1


def test_ids_of_patients_that_nobody_mapped_are_named(tmp_path: Path) -> None:
    row = {"PatientID": "17", "study_id": 4, "subject": "anatomy", "caption": "A film of the chest in one view."}
    write(tmp_path / "c" / "a.jsonl", dumped(row))
    _, document = ingest(tmp_path / "c")
    assert not_compared(document) == {("field", "PatientID"), ("field", "study_id")}
    mapping = {"groups": {"subject_id": "PatientID"}, "leave_out": {"study_id": "numbered from one in each hospital"}}
    _, document = ingest(tmp_path / "c", mapping)
    assert not_compared(document) == set()


def test_an_address_in_a_field_of_pictures_is_named_whatever_it_looks_like(tmp_path: Path) -> None:
    row = {"caption": "A film of the chest in one view.", "image_url": "https://pacs.example.org/wado?id=17"}
    write(tmp_path / "c" / "a.jsonl", dumped(row | {"source_url": "https://example.org/article/17"}))
    _, document = ingest(tmp_path / "c")
    assert not_compared(document) == {("field", "image_url"), ("picture", "image_url")}


# --- what is taken out -------------------------------------------------------------------------------------------


CLEAN = [{"id": f"row.{number} ü", **row} for number, row in enumerate(ROWS)]
LEAK = {"id": "leak/1", "question": "Which test confirms a tear of the anterior cruciate ligament most surely?",
        "answer": "magnetic resonance imaging"}  # fmt: skip


def proof_of(folder: Path, *more: str) -> Any:
    sides = ("--train", str(folder / "train"), "--eval", str(folder / "test"), "--out", str(folder / "p"))
    return run_module("manifests.prove", *sides, "--quiet", "--workers", "1", *more)


def rows_with_leak() -> list[Row]:
    return [CLEAN[0], LEAK, *CLEAN[1:]]


def test_exclusions_have_the_ids_of_the_corpus_and_a_copy_is_without_them(tmp_path: Path) -> None:
    rows, train = rows_with_leak(), tmp_path / "train"
    lines = [dumped(row, ensure_ascii=False) + b"  \n" for row in rows]
    records = io.StringIO()
    writer = csv.DictWriter(records, list(LEAK), lineterminator="\r\n", quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows([row | {"answer": f"{row['answer']}\nand more"} for row in rows])
    table = pa.Table.from_pylist(rows).replace_schema_metadata({"huggingface": "{}"})
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, row in enumerate(rows):
            info = tarfile.TarInfo(f"{'k' * 110}{number}.json")
            info.size = len(dumped(row))
            tar.addfile(info, io.BytesIO(dumped(row)))
    write(train / "a.jsonl", b"\n" + b"".join(lines))
    write(train / "d" / "a.jsonl.gz", gzip.compress(b"".join(lines)))
    write(train / "a.jsonl.zst", packed(b"".join(lines), ".zst"))
    write(train / "a.csv", records.getvalue().encode("utf-8-sig"))
    write(train / "wide.csv", records.getvalue().encode("utf-16"))
    write(train / "a.json", dumped(rows, indent=2))
    write(train / "a.parquet", as_arrow(lambda sink: pq.write_table(table, sink, row_group_size=2)))
    write(train / "a.feather", as_arrow(lambda sink: feather.write_feather(table, sink)))
    write(train / "a.orc", as_arrow(lambda sink: orc.write_table(table, sink)))
    write(train / "a.tar.xz", packed(buffer.getvalue(), ".xz"))
    write(train / "leak.txt", f"{LEAK['question']} {LEAK['answer']}".encode())
    write(train / "clean.jsonl", dumped(CLEAN[2]))
    write(tmp_path / "test" / "t.jsonl", dumped({name: LEAK[name] for name in ("question", "answer")}))
    done = proof_of(tmp_path, "--filtered-copy", str(tmp_path / "copy"), "--conda", str(tmp_path / "conda.csv"))
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "p" / "proof" / "excluded_rows.csv").open(newline="") as handle:
        excluded = {(row["file"], row["row"]): row["id"] for row in csv.DictReader(handle)}
    tabular = {"a.jsonl": "3", "d/a.jsonl.gz": "2", "a.jsonl.zst": "2", "a.csv": "5", "wide.csv": "5", "a.json": "1",
               "a.parquet": "1", "a.feather": "1", "a.orc": "1"}  # fmt: skip
    assert {key: name for key, name in excluded.items() if name == "leak/1"} == dict.fromkeys(tabular.items(), "leak/1")
    assert {file for file, _ in excluded} - tabular.keys() <= {"a.tar.xz", "leak.txt"}
    copy = tmp_path / "copy"
    assert (copy / "a.jsonl").read_bytes() == b"\n" + b"".join([lines[0], *lines[2:]])
    assert gzip.decompress((copy / "d" / "a.jsonl.gz").read_bytes()) == b"".join([lines[0], *lines[2:]])
    text = records.getvalue()
    start = text.index('"leak/1"')
    kept = text[:start] + text[text.index('"row.1', start) :]
    assert (copy / "a.csv").read_bytes() == kept.encode("utf-8-sig")
    assert (copy / "wide.csv").read_bytes().decode("utf-16") == kept
    assert json.loads((copy / "a.json").read_bytes()) == CLEAN
    for read, name in (pq.read_table, "a.parquet"), (feather.read_table, "a.feather"):
        assert read(copy / name).equals(pa.Table.from_pylist(CLEAN)), name
        assert read(copy / name).schema.metadata == {b"huggingface": b"{}"}
    assert orc.read_table(copy / "a.orc").to_pylist() == CLEAN
    with tarfile.open(copy / "a.tar.xz") as tar:
        assert [json.loads(tar.extractfile(member).read())["id"] for member in tar] == [row["id"] for row in CLEAN]  # type: ignore[union-attr]
    assert not (copy / "leak.txt").exists()
    assert (copy / "clean.jsonl").read_bytes() == (train / "clean.jsonl").read_bytes()
    with (tmp_path / "conda.csv").open(newline="") as handle:
        [row] = csv.DictReader(handle)
    assert (row["Evaluation Dataset"], row["Contaminated Source"], row["Test Split"]) == (
        "test.eval",
        "train.train",
        "100.000",
    )
    # The copy proves itself.
    train.rename(tmp_path / "old")
    copy.rename(train)
    done = proof_of(tmp_path)
    assert (done.returncode, "After 0 exclusions" in done.stdout) == (0, True), done.stdout + done.stderr


def test_a_corpus_of_links_is_proved_copied_and_verified(tmp_path: Path) -> None:
    """As a download cache holds it: names that link to files by digest, and folders that lie elsewhere."""
    rows, blobs, train = rows_with_leak(), tmp_path / "blobs", tmp_path / "snapshot"
    lines = b"".join(dumped(row) + b"\n" for row in rows)
    write(blobs / "1", gzip.compress(lines))
    write(blobs / "2", as_arrow(lambda sink: pq.write_table(pa.Table.from_pylist(rows), sink)))
    write(blobs / "more" / "b.jsonl", lines)
    (train / "data").mkdir(parents=True)
    (train / "a.jsonl.gz").symlink_to("../blobs/1")
    (train / "data" / "a.parquet").symlink_to("../../blobs/2")
    (train / "more").symlink_to("../blobs/more")
    (tmp_path / "train").symlink_to("snapshot")
    write(tmp_path / "test" / "t.jsonl", dumped(LEAK))
    done = proof_of(tmp_path, "--filtered-copy", str(tmp_path / "copy"))
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "p" / "proof" / "excluded_rows.csv").open(newline="") as handle:
        excluded = {(row["file"], row["row"], row["id"]) for row in csv.DictReader(handle)}
    assert {
        ("a.jsonl.gz", "2", "leak/1"),
        ("data/a.parquet", "1", "leak/1"),
        ("more/b.jsonl", "2", "leak/1"),
    } == excluded
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*.*")}
    assert copied == {"a.jsonl.gz", "data/a.parquet", "more/b.jsonl"}
    assert b"leak/1" not in (tmp_path / "copy" / "more" / "b.jsonl").read_bytes()
    verify = "manifests.verify", str(tmp_path / "p" / "corpus"), "--proof", str(tmp_path / "p" / "proof"), "--quiet"
    done = run_module(*verify)
    assert (done.returncode, "2 corpora made elsewhere read in again" in done.stdout) == (0, True), done.stdout
    write(blobs / "more" / "b.jsonl", lines[::-1])
    done = run_module(*verify)
    assert (done.returncode, "more/b.jsonl: another content" in done.stdout) == (1, True), done.stdout


def test_rows_are_taken_out_of_the_files_that_were_proved_alone(tmp_path: Path) -> None:
    rows = rows_with_leak()
    lines = [dumped(row) + b"\n" for row in rows]
    write(tmp_path / "train" / "a.jsonl", b"".join(lines))
    write(tmp_path / "test" / "t.jsonl", dumped(LEAK))
    assert proof_of(tmp_path).returncode == 0
    listed = tmp_path / "p" / "proof" / "excluded_rows.csv"
    head, row = listed.read_text().splitlines()
    without = "builders.corpus", "--raw", str(tmp_path / "train"), "--role", "train"
    for name, text, others in (
        ("sorted", f"{head}\n{row}\n", lines[::-1]),  # another row stands there now
        ("beyond", f"{head.removesuffix(',sha256')}\n{row.rpartition(',')[0].replace(',2,', ',99,')}\n", lines),
    ):
        write(tmp_path / "train" / "a.jsonl", b"".join(others))
        write(tmp_path / f"{name}.csv", text.encode())
        done = run_module(*without, "--out", str(tmp_path / name), "--copy-without", str(tmp_path / f"{name}.csv"))
        said = {"sorted": "a.jsonl: is not the file that was proved", "beyond": "a.jsonl: has no row 99 to leave out"}
        assert (done.returncode, done.stderr.count("\n"), said[name] in done.stderr) == (2, 1, True), done.stderr
        assert not list((tmp_path / name).rglob("*.jsonl"))


def test_rows_that_cannot_be_taken_out_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    write(tmp_path / "train" / "a.zip", zipped({"a.jsonl": dumped(LEAK)}))
    write(tmp_path / "train" / "b.jsonl", LINES)
    write(tmp_path / "test" / "t.jsonl", dumped(LEAK))
    done = proof_of(tmp_path, "--filtered-copy", str(tmp_path / "copy"))
    assert (done.returncode, done.stderr.count("\n"), "a.zip!a.jsonl: rows cannot" in done.stderr) == (2, 1, True)
    assert not (tmp_path / "copy").exists()
