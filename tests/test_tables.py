"""Row files read in ranges give every row once, in order, however they are cut."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.engine.rawfiles import recorded_gaps, summed_gaps
from builders.engine.source import NotThisSource, Reject
from builders.engine.tables import Row, table_rows, table_units
from medgpt import limited

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=40)
ROWS = st.lists(st.fixed_dictionaries({"id": st.integers(0, 10**9).map(str), "text": TEXT}), min_size=1, max_size=60)


def encode(kind: str, rows: list[dict[str, str]], path: Path, group: int) -> Path:
    name = path / f"rows.{kind}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), name, row_group_size=group)
        return name
    if kind.startswith("jsonl"):
        # JSON Lines allows blank lines; they are no rows.
        text = "\n".join(
            json.dumps(row, ensure_ascii=bool(i % 2)) + ("\n  " if i % 5 == 4 else "") for i, row in enumerate(rows)
        )
    elif kind == "json":
        text = json.dumps(rows, ensure_ascii=False, indent=group % 3 or None)
    else:
        buffer = io.StringIO(newline="")
        writer = csv.writer(
            buffer, delimiter="\t" if kind == "tsv" else ",", lineterminator="\r\n" if group % 2 else "\n"
        )
        writer.writerow(["id", "text"])
        writer.writerows([row["id"], row["text"]] for row in rows)
        text = buffer.getvalue()
    data = text.encode()
    name.write_bytes(gzip.compress(data, mtime=0) if kind.endswith(".gz") else data)
    return name


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=ROWS,
    kind=st.sampled_from(["parquet", "jsonl", "jsonl.gz", "json", "csv", "tsv", "csv.gz"]),
    per_unit=st.integers(1, 70),
    group=st.integers(1, 30),
)
def test_every_row_once_in_order(
    tmp_path: Path, rows: list[dict[str, str]], kind: str, per_unit: int, group: int
) -> None:
    if kind in ("csv", "tsv", "csv.gz"):
        # csv itself folds bare returns; and a line of a cell must not look like a row of this table (`0,...`)
        rows = [row | {"text": row["text"].replace("\r", " ").replace("\n", "\n-")} for row in rows]
    path = encode(kind, rows, tmp_path, group)
    units = list(table_units(tmp_path, [path], "train", "train", columns=("id", "text"), rows_per_unit=per_unit))
    found: list[dict[str, Any]] = []
    for unit in units:
        part = list(table_rows(tmp_path, unit))
        assert len(part) == unit.rows
        assert all(isinstance(row, Row) for row in part)
        found += [row.values for row in part if isinstance(row, Row)]
    assert found == rows
    assert len({unit.name for unit in units}) == len(units)


def test_row_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n\n{"a": 2}\n')
    (tmp_path / "a.csv").write_text('a,b\n1,"two\nlines"\n3,4\n')
    for name, numbers in (("a.jsonl", ["1", "3"]), ("a.csv", ["3", "4"])):
        for per_unit in (1, 10):
            units = table_units(tmp_path, [tmp_path / name], "train", "train", rows_per_unit=per_unit)
            assert [
                row.number for unit in units for row in table_rows(tmp_path, unit) if isinstance(row, Row)
            ] == numbers


def test_damaged_rows_are_rejected_alone(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n{"a": \n{"a": "\xff"}\n[1]\n{"a": 5}\n')
    (tmp_path / "a.csv").write_bytes(b"a,b\n1,2\n1\n\xff,2\n3,4\n")
    for name, kinds in (
        ("a.jsonl", ["row", "bad_row", "not_utf8", "bad_row", "row"]),
        ("a.csv", ["row", "bad_row", "not_utf8", "row"]),
    ):
        [unit] = table_units(tmp_path, [tmp_path / name], "train", "train")
        rows = list(table_rows(tmp_path, unit))
        assert [row.reason if isinstance(row, Reject) else "row" for row in rows] == kinds
        assert len(rows) == unit.rows


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.csv", b"id;text\n1;a, b\n2;c\n"),
        ("a.csv", b"text\tid\na, b\t1\nc\t2\n"),
        ("a.csv", b'"ID", "Text"\n"1", "a, b"\n"2", "c"\n'),
        ("a.CSV", b"\xef\xbb\xbfID|TEXT\r\n1|a, b\r\n2|c\r\n"),
        ("a.tsv", b"Id \t text\n1\ta, b\n2\tc\n"),
        ("a.json", b'{"id": "1", "text": "a, b"}\n{"id": "2", "text": "c"}\n'),
        ("a.JSON", b'\xef\xbb\xbf\n{"id": "1", "text": "a, b"} \r\n{"id": "2", "text": "c"}'),
    ],
)
def test_a_table_that_is_written_otherwise(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    units = list(table_units(tmp_path, [tmp_path / name], "train", "train", columns=("id", "text"), rows_per_unit=1))
    rows = [row.values for unit in units for row in table_rows(tmp_path, unit) if isinstance(row, Row)]
    assert rows == [{"id": "1", "text": "a, b"}, {"id": "2", "text": "c"}]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.json", b'[{"a": 1}, {"a": 2}', "ends early"),
        ("a.json", b'[{"a": 1}, {"a": ', "broken JSON"),
        ("a.json", b'{"a": 1}', "not an array"),
        ("a.json", b'[{"a": "\xff"}]', "not UTF-8"),
        ("a.json", b"", "ends early"),
        ("a.json.gz", b"\x1f\x8b\x08\0no", "cannot be read"),
        ("a.json.gz", gzip.compress(b'[{"a": 1}]')[:-9], "cannot be read"),
        ("a.csv", b"x,y\n1,2\n", "no column a"),
        ("a.parquet", b"PAR1 no", "not readable as Parquet"),
        ("a.xlsx", b"", "not a table"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(NotThisSource, match=message):
        list(table_units(tmp_path, [tmp_path / name], "train", "train", columns=("a",)))


def test_a_long_array_is_read_in_pieces(tmp_path: Path) -> None:
    """Larger than the read buffer, with characters of several bytes at its seams."""
    rows = [{"id": str(i), "text": "é" * (i % 3000)} for i in range(6000)]
    (tmp_path / "a.json").write_text("\ufeff" + json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    units = list(table_units(tmp_path, [tmp_path / "a.json"], "train", "train", rows_per_unit=1000))
    assert len(units) == 6
    assert [row.values for unit in units for row in table_rows(tmp_path, unit) if isinstance(row, Row)] == rows


def read_with_gaps(folder: Path, file: str) -> tuple[list[Row | Reject], list[dict[str, Any]]]:
    """All rows of a file, and what `build.json` would say was not read of it."""
    with recorded_gaps() as gaps:
        units = list(table_units(folder, [folder / file], "train", "train", rows_per_unit=500))
        rows = [row for unit in units for row in table_rows(folder, unit)]
    return rows, summed_gaps(gaps)


@pytest.mark.parametrize(
    ("header", "row", "delimiter"),
    [
        ("ID,Caption", "ROCOv2_2023_train_{0:06d},chest film {0}", ","),
        ("key,question,a,b,answer", "{0},what is it?,x{0},y,A", ","),
        ("index\tquestion\tanswer", "{0}\tis it, well, {0}?\tyes", "\t"),
    ],
)
@pytest.mark.parametrize("place", ["begin", "middle", "pair"])
def test_rows_that_a_stray_quote_swallows_are_a_gap(
    header: str, row: str, delimiter: str, place: str, tmp_path: Path
) -> None:
    """2,000 rows, of which a reader that trusts quotes sees 7 and none the worse."""
    lines = [row.format(number) for number in range(2000)]
    for at in {"begin": (6,), "middle": (6,), "pair": (6, 1500)}[place]:
        cells = lines[at].split(delimiter)
        cells[0 if place == "begin" else -1] = '"' + cells[0 if place == "begin" else -1]
        lines[at] = delimiter.join(cells)
    name = "rows.tsv" if delimiter == "\t" else "rows.csv"
    (tmp_path / name).write_text("\n".join([header, *lines]) + "\n")
    rows, [gap] = read_with_gaps(tmp_path, name)
    kept = [row for row in rows if isinstance(row, Row)]
    [reject] = [row for row in rows if isinstance(row, Reject)]
    assert reject.reason == "bad_row" and "look like rows (a stray quote?)" in reject.detail
    assert gap["file"] == name and gap["count"] >= 2000 - len(kept) - 2
    assert int(gap["first"]) == int(reject.row)


def test_cells_of_several_lines_are_no_gap(tmp_path: Path) -> None:
    """Notes with prose, lists, quotes and numbers: nothing in them has the make of a row."""
    notes = [
        "Dear colleague,\nthank you, as always, for this.",
        'He said "no", then left.\n"Yes", she said.\n1, 2, 3',
        "1. rest\n2. fluids, salt\n3. none",
        "\n\n,\n",
        "\nfirst,second\rthird\r,fourth\n",
    ]
    for header in (["id", "note"], ["note", "id"], ["a", "note", "b", "c", "d", "e"]):
        rows = [{name: note if name == "note" else f"{name}{at}" for name in header} for at, note in enumerate(notes)]
        with (tmp_path / "rows.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, header, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        found, gaps = read_with_gaps(tmp_path, "rows.csv")
        assert [row.values for row in found if isinstance(row, Row)] == rows
        assert gaps == []


def test_a_record_of_too_many_lines_costs_its_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "RECORD_LINES", 50)
    text = "note\nshort\n" + '"long' + "\nline" * 60 + "\nlast\n"
    (tmp_path / "rows.csv").write_text(text)
    rows, _ = read_with_gaps(tmp_path, "rows.csv")
    assert isinstance(rows[1], Reject) and rows[1].reason == "too_large"
    assert "more than 50 lines (a quote that nothing closes?)" in rows[1].detail
    assert isinstance(rows[-1], Row) and rows[-1].values == {"note": "last"}


def test_what_stands_behind_an_array_is_a_gap(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"a": 1}]  \n')
    assert read_with_gaps(tmp_path, "rows.json")[1] == []
    (tmp_path / "rows.json").write_text('[{"a": 1}]\n[{"a": 2}]\n')
    rows, [gap] = read_with_gaps(tmp_path, "rows.json")
    assert len(rows) == 1
    assert gap == {"file": "rows.json", "what": "bytes behind the end of its JSON (two files in one?)", "count": 10} | {
        "first": ""
    }


def test_a_parquet_file_that_counts_rows_it_does_not_hold(tmp_path: Path) -> None:
    """The row groups beside the count of the whole: a footer that was mended by hand."""
    pq.write_table(pa.table({"a": list(range(300))}), tmp_path / "rows.parquet", row_group_size=100)
    data = (tmp_path / "rows.parquet").read_bytes()
    # FileMetaData.num_rows is an i64 in Thrift's zigzag varint: 300 is d8 04, behind the field header 16; 301 is da 04.
    at = data.rindex(b"\x16\xd8\x04")
    (tmp_path / "rows.parquet").write_bytes(data[:at] + b"\x16\xda\x04" + data[at + 3 :])
    rows, gaps = read_with_gaps(tmp_path, "rows.parquet")
    assert len(rows) == 300
    (tmp_path / "fewer.parquet").write_bytes(data[:at] + b"\x16\xd6\x04" + data[at + 3 :])
    with pytest.raises(NotThisSource, match="299 rows, and 300 in its row groups"):
        read_with_gaps(tmp_path, "fewer.parquet")
    assert [(gap["what"], gap["count"]) for gap in gaps] == [
        ("rows of its own count stand in none of its row groups", 1)
    ]
