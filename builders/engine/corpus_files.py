"""Files of a corpus made elsewhere, in the forms that `datasets`, pandas and DuckDB users keep them, as rows.

JSON of any shape, CSV and its kin, Arrow (streams, files, Feather), ORC, SQLite and DuckDB, NumPy archives, one
document a file, and zips of these. Any of them but databases may be packed (`.gz`, `.bz2`, `.xz`, `.zst`). Tars,
Parquet and JSON Lines have readers of their own. A file that breaks off ends in a reject; rows before the damage are
kept.
"""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import os
import pickle
import resource
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from itertools import chain
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import quote

from builders.engine.archives import DEEPEST_ZIP, check_zip, safe_member, zip_tree
from builders.engine.corpus_values import as_png, extension, is_picture_name, is_text, name_as_text
from builders.engine.pages import check_batches
from builders.engine.rawfiles import ARCHIVE_DAMAGE, reason_for
from builders.engine.source import InputError, NotThisSource, Reject
from builders.engine.tables import (
    Row,
    arrow_rows,
    delimiter_of,
    every_key,
    json_items,
    parquet_rows,
    parse_json,
    rows_within,
)
from medgpt.errors import UserError
from medgpt.formats import PICTURE_SUFFIXES
from medgpt.limited import (
    FILE_BYTES,
    LINE_BYTES,
    RATIO,
    RECORD_LINES,
    VALUES,
    OverLimit,
    check_size,
    check_values,
    lines,
    open_stream,
    read_whole,
)

Mapped: TypeAlias = Mapping[str, bool]
"""Fields that something is taken from, and whether an object that has one is a row for that alone: a question is, while
a passage may stand around several."""

_KINDS = {
    "json": "json", "jsonl": "lines", "ndjson": "lines", "csv": "csv", "tsv": "csv", "tab": "csv", "psv": "csv",
    "parquet": "parquet", "arrow": "arrow", "feather": "arrow", "ipc": "arrow", "orc": "orc", "sqlite": "sqlite",
    "sqlite3": "sqlite", "db": "sqlite", "duckdb": "duckdb", "ddb": "duckdb", "npz": "arrays", "npy": "arrays",
    "txt": "text", "md": "text", "rst": "text", "zip": "zip", "tar": "tar", "tgz": "tar", "tbz2": "tar", "txz": "tar",
}  # fmt: skip
SUFFIXES = ", ".join(f"*.{suffix}" for suffix in _KINDS)
_PACKED: dict[str, Callable[[Any], Any]] = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
_UNPACKED = frozenset({"sqlite", "duckdb", "zip"})
"""Kinds that are not read where they are packed once more."""
_ABOUT = frozenset({"readme", "license", "licence", "notice", "copying", "citation", "changelog", "authors"})
_DESCRIPTIONS = {"dataset_info.json": "features", "state.json": "_data_files", "dataset_dict.json": "splits"}
"""What `datasets` writes beside Arrow files, and a key that each has."""
_POINTERS = (b"version https://git-lfs", b"/annex/objects/")
_POINTERS_END = 64
_LONGEST_NAME = 200
"""Characters of a column's name; a longer one is a cell, such as a picture in base64."""
_DEEPEST = 12
"""Objects within objects that are looked into for rows."""
_MOST_VALUES = 8 * VALUES
"""Of a JSON text that is decoded whole: up to 800 MB as objects of Python."""


PICTURE_ENDINGS = [f".{suffix}" for suffix in sorted(PICTURE_SUFFIXES)]


def form_of(file: str) -> str | None:
    """How a file is read as rows, by its name; None for one that is not."""
    parts = PurePosixPath(file).name.lower().split(".")
    if len(parts) == 1:
        return "text" if parts[0] in _ABOUT else None
    packed = parts[-1] in _PACKED or parts[-1] == "zst"
    kind = _KINDS.get(parts[-2] if packed and len(parts) > 2 else parts[-1])
    return None if packed and kind in _UNPACKED else kind


def is_about(file: str) -> bool:
    """Whether a file's name says that it tells of the corpus: README, LICENSE. A table of that name has rows."""
    return PurePosixPath(file).name.lower().partition(".")[0] in _ABOUT and form_of(file) in (None, "text")


def is_description(path: Path) -> bool:
    """Whether a file is what `datasets` writes of an Arrow folder: it holds no rows."""
    key = _DESCRIPTIONS.get(path.name)
    return key is not None and path.stat().st_size < LINE_BYTES and f'"{key}"'.encode() in path.read_bytes()


def document_rows(raw: Path, files: Iterable[str]) -> Iterator[Row | Reject]:
    """Files that are a row each: a text, with the picture beside it that has its name, or a picture."""
    for file in files:
        path = raw / file
        if form_of(file) is None:
            yield Row(file, "0", {"image": path.name})
            continue
        for row in file_rows(path, file, {}, False):
            beside = [p.name for p in map(path.with_suffix, PICTURE_ENDINGS) if p.is_file()]
            yield row._replace(values={**row.values, "image": beside}) if isinstance(row, Row) and beside else row


def file_rows(path: Path, file: str, mapped: Mapped, pictures_alone: bool) -> Iterator[Row | Reject]:
    """Every row of a file, as fields or as a reject.

    mapped: by which an object of JSON is known for a row. pictures_alone: a picture in a zip is a row itself.
    """
    with path.open("rb") as handle:
        head = handle.read(_POINTERS_END)
    if not head:
        yield Reject(file, "-", "empty_file")
    elif head.startswith(_POINTERS):
        yield Reject(file, "-", "unreadable_file", "a pointer of Git LFS or git-annex, not the file; fetch it")
    else:
        yield from _told(_rows(path, file, mapped, pictures_alone), file)


def _told(rows: Iterable[Row | Reject], file: str) -> Iterator[Row | Reject]:
    """The rows; where their reader gives up, a reject that says why."""
    last = "0"
    try:
        for row in rows:
            last = row.row if isinstance(row, Reject) else row.number
            yield row
    except InputError as error:
        yield Reject(file, "-", error.reason, error.detail)
    except NotThisSource as error:
        yield Reject(file, "-", "bad_archive", f"{error}; what follows was not read")
    except OverLimit as error:
        yield Reject(file, "-", "too_large", f"{error}; what follows was not read")
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - any library's, of a damaged file
        yield Reject(file, "-", "bad_archive", f"{type(error).__name__} behind row {last}; what follows was not read")


def _rows(path: Path, file: str, mapped: Mapped, pictures_alone: bool) -> Iterator[Row | Reject]:
    kind = form_of(file)
    if kind in ("sqlite", "duckdb"):
        yield from _apart(database_rows, path, file)
    elif kind == "zip":
        check_zip(path, path.parents[file.count("/")], within=False)
        yield from _zip_rows(path, file, mapped, pictures_alone)
    elif kind == "json" and path.stat().st_size > FILE_BYTES // 2 and _first(path) == b"[":
        for number, (_, _, item) in enumerate(json_items(path, file)):
            yield from _json_rows(item, mapped, str(number), {}, file)
    elif kind == "arrow" and path.suffix.lower() not in (".zst", *(f".{suffix}" for suffix in _PACKED)):
        import pyarrow as pa

        with pa.memory_map(str(path)) as handle:
            yield from _arrow_rows(handle, file)
    else:
        with open_stream(path) as handle:
            yield from _READERS[kind or "text"](handle, file, mapped)


def _first(path: Path) -> bytes:
    with open_stream(path) as handle:
        return handle.read(1 << 10).removeprefix(codecs.BOM_UTF8).lstrip()[:1]


def whole_text(handle: BinaryIO, file: str) -> str:
    """All text of a file: UTF-8, or UTF-16 that says so. Raises: `InputError`, `OverLimit`."""
    data = read_whole(handle)
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError("not_utf8", file, f"byte {error.start}") from None


# JSON


def _json_file(handle: BinaryIO, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    """Rows of a JSON text: one value, or several one after the other (JSON Lines, or what jq prints)."""
    text = whole_text(handle, file)
    check_values(text, most=_MOST_VALUES)
    decode, place, number, several = json.JSONDecoder(object_pairs_hook=every_key).raw_decode, 0, 0, False
    while (place := skipped(text, place)) < len(text):
        value, place = decode(text, place)
        several = several or skipped(text, place) < len(text)
        # A value alone may hold the rows; each of several is one, or some.
        yield from _json_rows(value, mapped, f"{number}" if several else "", {}, file)
        number += 1


def skipped(text: str, place: int) -> int:
    """The place of the next value of JSON, behind whatever parts it from the one before."""
    while place < len(text) and text[place] in " \t\r\n,\x1e":
        place += 1
    return place


def _json_rows(
    value: Any, mapped: Mapped, at: str, above: Mapping[str, Any], file: str, depth: int = 0
) -> Iterator[Row]:
    """The rows in a value. `above`: what the objects around it say, which its rows say, too."""
    here = f"{at}." if at else ""
    if isinstance(value, list):
        for number, item in enumerate(value):
            if isinstance(item, list):  # pandas' `values`
                item = {f"column_{column}": cell for column, cell in enumerate(item, 1)}
            yield from _json_rows(item, mapped, f"{here}{number}", above, file, depth + 1)
        return
    if not isinstance(value, dict):
        yield Row(file, at or "0", {**above, "text": value})
        return
    columns = _columns(value)
    if columns is not None:
        for number, row in enumerate(columns):
            yield Row(file, f"{here}{number}", {**above, **row})
        return
    inner = {name: held for name, held in value.items() if name not in mapped and _holds_rows(held)}
    by_name = bool(value) and mapped.keys().isdisjoint(value) and all(isinstance(held, dict) for held in value.values())
    if by_name and not inner:
        inner = value
    if depth > _DEEPEST or not inner or not _stands_around(value, inner, mapped):
        yield Row(file, at or "0", _joined(above, value))
        return
    around = _joined(above, {name: held for name, held in value.items() if name not in inner})
    for name, held in inner.items():
        named = {**around, "__key__": name} if by_name or is_text(name) else around
        yield from _json_rows(held, mapped, f"{here}{name}", named, file, depth + 1)


def _stands_around(value: Mapping[str, Any], inner: Mapping[str, Any], mapped: Mapped) -> bool:
    """Whether an object stands around rows, as a passage around its questions, and is not one itself."""
    if any(mapped.get(name) for name in value):
        return False
    if mapped.keys().isdisjoint(value):
        return True
    for held in inner.values():
        first = next(iter(held if isinstance(held, list) else held.values()), None)
        if isinstance(first, dict) and any(mapped.get(name) for name in first):
            return True
    return False


def _joined(above: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    return {f"above.{name}" if name in row else name: held for name, held in above.items()} | dict(row)


def _holds_rows(value: Any) -> bool:
    """Whether a value is a list of objects, a table, or an object of such or of objects."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(item, dict) for item in value)
    return isinstance(value, dict) and bool(value) and (
        all(isinstance(item, dict) for item in value.values())
        or any(_holds_rows(item) for item in value.values())
        or _columns(value) is not None
    )  # fmt: skip


def _columns(value: Mapping[str, Any]) -> list[dict[str, Any]] | None:
    """Rows of an object that is a table by columns, or pandas' `split`, `table` or `columns`; None if it is none."""
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(row, list) for row in data):
        called = [*map(str, names), *(f"column_{at + 1}" for at in range(len(names), max(map(len, data), default=0)))]
        return [dict(zip(called, row, strict=False)) for row in data]  # a short row has fewer fields
    if isinstance(value.get("schema"), dict) and isinstance(data, list) and all(isinstance(row, dict) for row in data):
        return data
    held = list(value.values())
    if len(held) > 1 and all(isinstance(cells, list) and len(cells) == len(held[0]) for cells in held):
        objects = all(isinstance(cell, dict) for cells in held for cell in cells)
        return None if objects else [dict(zip(value, row, strict=True)) for row in zip(*held, strict=True)]
    if held and all(isinstance(cells, dict) and cells and all(map(str.isdecimal, cells)) for cells in held):
        places = dict.fromkeys(place for cells in held for place in cells)
        if not all(name.isdecimal() for name in value):
            return [{name: cells.get(place) for name, cells in value.items()} for place in places]
    return None


def _line_rows(handle: BinaryIO, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    for number, (data, _) in enumerate(lines(handle), 1):
        if data is None:
            yield Reject(file, str(number), "too_large", f"a line of more than {LINE_BYTES:,} bytes")
            continue
        if not (text := data.removeprefix(codecs.BOM_UTF8)).strip():
            continue
        try:
            value = parse_json(text, file, python=True)
        except InputError as error:
            yield Reject(file, str(number), error.reason, error.detail)
            continue
        yield Row(file, str(number), value if isinstance(value, dict) else {"text": value})


# CSV and its kin


def csv_records(handle: BinaryIO, file: str) -> Iterator[tuple[str, list[str] | None, bytes]]:
    """(number of its last line, cells, its bytes) of every record, parted by what gives the first line most cells.

    None stands for the cells where a stray quote made one record of several.
    """
    packed: Any = io.BufferedReader(handle, 1 << 20)
    encoding = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(packed.peek(2)[:2], "utf-8")
    text = io.TextIOWrapper(packed, encoding, errors="surrogateescape", newline="")
    spent: list[str] = []

    def line() -> str:
        spent.append(found := text.readline(LINE_BYTES + 1))
        cells = max(map(found.count, ",;\t|")) if len(found) > VALUES else 0
        if len(found) > LINE_BYTES or len(spent) > RECORD_LINES or cells > VALUES:
            most = f"{LINE_BYTES:,} characters in a line, {RECORD_LINES:,} lines or {VALUES:,} cells"
            raise OverLimit(f"a record of more than {most} (a quote that nothing closes?)")
        return found

    first = line()
    parted = delimiter_of(first, file)
    csv.field_size_limit(LINE_BYTES)
    reader, width = csv.reader(chain([first.removeprefix("\ufeff")], iter(line, "")), delimiter=parted), 0
    for cells in reader:
        width = width or len(cells)
        whole = len(spent) == 1 or not _swallows(spent, parted, width)
        yield str(reader.line_num), cells if whole else None, "".join(spent).encode(encoding, "surrogateescape")
        spent.clear()


def _swallows(record: list[str], parted: str, width: int) -> bool:
    """Whether lines of a record are records of their own: its quotes do not match, or lines in it look like rows."""
    try:
        list(csv.reader(record, delimiter=parted, strict=True))
    except csv.Error:
        return True
    return bool(rows_within(record, parted, width))


def _csv_file(handle: BinaryIO, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    """Rows by the names of the first line; where it has none, by `column_1` ..."""
    records = csv_records(handle, file)
    header = [name.strip() for name in next(records, ("1", [], b""))[1] or ()]
    unnamed = [f"column_{number}" for number in range(1, len(header) + 1)]
    if any(map(_is_cell, header)):  # no names: a row
        yield _csv_row(file, "1", unnamed, header)
        header = unnamed
    header = [name if name and header.count(name) == 1 else unnamed[at] for at, name in enumerate(header)]
    for number, cells, _ in records:
        if cells is None:
            yield Reject(file, number, "bad_row", "its lines look like rows of their own (a stray quote?)")
        elif cells:
            yield _csv_row(file, number, header, cells)


def _is_cell(name: str) -> bool:
    """Whether what stands in the first line is no name of a column: a text, a number, a question, a picture."""
    words = len(name.split())
    asked = words > 1 and "?" in name
    return words > 4 or len(name) > _LONGEST_NAME or asked or name.isdecimal() or is_picture_name(name)


def _csv_row(file: str, number: str, header: list[str], cells: list[str]) -> Row | Reject:
    if len(cells) != len(header):
        return Reject(file, number, "bad_row", f"{len(cells)} fields, {len(header)} in the header")
    if any("\udc80" <= sign <= "\udcff" for cell in cells if not cell.isascii() for sign in cell):
        return Reject(file, number, "not_utf8")
    if any("\0" in cell for cell in cells):
        return Reject(file, number, "bad_row", "zero bytes (a hole that a download left?)")
    return Row(file, number, dict(zip(header, cells, strict=True)))


# Arrow, ORC, Parquet within a zip


def _arrow_rows(handle: Any, file: str, mapped: Mapped | None = None) -> Iterator[Row | Reject]:
    import pyarrow as pa

    source = handle if isinstance(handle, pa.NativeFile) else pa.BufferReader(read_whole(handle))
    seen = check_batches(source)
    try:
        found = pa.ipc.open_file(source)
        if found.num_record_batches > seen:
            raise NotThisSource(f"{file}: damaged, or its footer lists batches that were not looked at")
        batches = (found.get_batch(number) for number in range(found.num_record_batches))
    except pa.ArrowInvalid:
        source.seek(0)
        batches = iter(pa.ipc.open_stream(source))
    # Altered offsets would lead Arrow out of the file, which is a crash and no error.
    yield from _sliced((batch for batch in batches if batch.validate(full=True) is None), file)


def _orc_rows(handle: Any, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    yield from _apart(orc_rows, read_whole(handle), file)


def orc_rows(data: bytes, file: str) -> Iterator[Row | Reject]:
    """Rows of all stripes."""
    import pyarrow as pa
    from pyarrow import orc

    found = orc.ORCFile(pa.BufferReader(data))
    yield from _sliced((found.read_stripe(number) for number in range(found.nstripes)), file)


def _parquet_file(handle: Any, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    yield from parquet_rows(io.BytesIO(read_whole(handle)), file)


def _sliced(batches: Iterable[Any], file: str) -> Iterator[Row | Reject]:
    """Rows of Arrow batches, a few at a time where they are large."""
    number = 0
    for batch in batches:
        step = max(1, min(1024, (16 << 20) * batch.num_rows // max(1, batch.nbytes)))
        for start in range(0, batch.num_rows, step):
            yield from arrow_rows(file, batch.slice(start, step), number + start)
        number += batch.num_rows


# What libraries read that trust a file: ORC, databases


def _apart(
    reader: Callable[[Any, str], Iterator[Row | Reject]], source: Path | bytes, file: str
) -> Iterator[Row | Reject]:
    """The rows of a reader in a process of its own, with `_APART_BYTES` of memory.

    A wrong length, precision or page number ends the process of such a library, and a schema may compute columns of
    any size. Raises: `NotThisSource` where it ended.
    """
    program = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)}
    started: Any = subprocess.Popen(  # noqa: S603 - our own
        program, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    with started as process:
        try:
            with suppress(BrokenPipeError), process.stdin as to:
                pickle.dump((reader, source, file), to)
            while (row := pickle.load(process.stdout)) is not None:  # noqa: S301 - our own
                yield row
        except (EOFError, pickle.UnpicklingError):
            raise NotThisSource(f"{file}: damaged, or it takes more than {_APART_BYTES >> 20:,} MB to read") from None
        finally:
            process.kill()


_APART_BYTES = 3 << 29
"""An ORC file has up to `FILE_BYTES`, a vector of DuckDB 2,048 rows."""


def serve() -> None:
    """Write the rows that `_apart` asks for to stdout, and None behind them."""
    with suppress(ValueError):  # macOS has no such limit
        resource.setrlimit(resource.RLIMIT_AS, (_APART_BYTES, _APART_BYTES))
    reader, source, file = pickle.load(sys.stdin.buffer)  # noqa: S301 - our own
    for row in chain(_told(reader(source, file), file), [None]):
        pickle.dump(row, sys.stdout.buffer)


def database_rows(path: Path, file: str) -> Iterator[Row | Reject]:
    """Rows of all tables, `<table>/<number>`; the file is opened for reading alone."""
    with path.open("rb") as handle:
        head = handle.read(16)
    connection: Any
    if head.startswith(b"SQLite format 3"):
        connection = sqlite3.connect(f"file:{quote(str(path.resolve()))}?mode=ro&immutable=1", uri=True)
        connection.text_factory = lambda data: data.decode(errors="surrogateescape")
        listed = "SELECT NULL, name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY name"
    elif head[8:12] == b"DUCK":
        import duckdb

        shut: dict[str, str | bool | int | float | list[str]] = {
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "threads": 1,
            "temp_directory": "",
        }
        connection = duckdb.connect(str(path), read_only=True, config=shut)
        listed = "SELECT schema_name, table_name FROM duckdb_tables() ORDER BY ALL"
    else:
        raise NotThisSource(f"{file}: neither SQLite nor DuckDB")
    left = RATIO * path.stat().st_size  # of rows: pages may lead to each other in circles
    with closing(connection):
        for path_to in connection.execute(listed).fetchall():
            quoted = ['"' + name.replace('"', '""') + '"' for name in path_to if name]
            table = ".".join(name for name in path_to if name not in (None, "main"))
            cursor = connection.execute(f"SELECT * FROM {'.'.join(quoted)}")  # noqa: S608 - a name
            names, number = [column[0] for column in cursor.description], 0
            named = {"__key__": table} if name_as_text(table) else {}
            while row := cursor.fetchone():
                yield Row(file, f"{table}/{number}", {**named, **dict(zip(names, row, strict=True))})
                number, left = number + 1, left - 1
                if left < 0:
                    raise OverLimit(f"{file}: more rows than it can hold")


# Arrays, documents, zips


def _array_rows(handle: BinaryIO, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    """NumPy arrays, cut along their first axis: texts, and bytes of the shape of pictures. Pickles are never opened."""
    data = read_whole(handle)
    if not data.startswith(b"PK"):
        yield from _items(data, "array", file)
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for info in archive.infolist():
            check_size(info.file_size, info.compress_size)
            yield from _items(archive.read(info), info.filename.removesuffix(".npy"), file)


def _items(data: bytes, name: str, file: str) -> Iterator[Row | Reject]:
    import numpy as np

    about = io.BytesIO(data)
    header = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    shape, _, kind = header[np.lib.format.read_magic(about)[0]](about)
    if prod(shape) * kind.itemsize > len(data) or max(shape, default=0) > RATIO * len(data):
        raise OverLimit(f"{name}: an array of {' x '.join(map(str, shape))} in {len(data):,} bytes")
    array = np.load(io.BytesIO(data), allow_pickle=False)
    pictures = array.dtype == np.uint8 and (array.ndim == 3 or (array.ndim == 4 and array.shape[3] in (3, 4)))
    for number, item in enumerate(array if array.ndim else array[None]):
        if item.size > VALUES and not pictures:
            yield Reject(file, f"{name}/{number}", "too_large", f"{item.size:,} numbers, limit {VALUES:,}")
        else:
            yield Row(file, f"{name}/{number}", {name: as_png(item) if pictures else item.tolist()})


def _text_file(handle: BinaryIO, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    text, name = whole_text(handle, file), name_as_text(PurePosixPath(file.rpartition("!")[2]).stem)
    yield Row(file, "0", {"text": [name, text] if name else text})


def _zip_rows(zip_file: Any, file: str, mapped: Mapped, pictures_alone: bool, depth: int = 0) -> Iterator[Row | Reject]:
    """Rows of a zip's members, `<zip>!<member>`, and of the zips within it, `<zip>!<zip>!<member>`."""
    with zipfile.ZipFile(zip_file) as archive:
        for info in archive.infolist():
            inner, name = f"{file}!{info.filename}", info.filename
            picture = pictures_alone and extension(name) in PICTURE_SUFFIXES
            within = form_of(name) == "zip" and depth < DEEPEST_ZIP and safe_member(name)
            if info.is_dir() or not (picture or within or is_zip_table(name)):
                continue
            try:
                check_size(info.file_size, info.compress_size)
                data = archive.read(info)
                if within:
                    yield from _zip_rows(io.BytesIO(data), inner, mapped, pictures_alone, depth + 1)
                    continue
            except OverLimit as error:
                yield Reject(inner, "-", "too_large", f"{error}; it was not read")
                continue
            except (*ARCHIVE_DAMAGE, OSError, EOFError, RuntimeError) as error:
                yield Reject(inner, "-", reason_for(error, "bad_archive"), f"{type(error).__name__}; it was not read")
                continue
            yield from [Row(inner, "0", {"image": data})] if picture else member_rows(data, inner, mapped)


def member_rows(data: bytes, file: str, mapped: Mapped) -> Iterator[Row | Reject]:
    """Rows of a table that is a member of an archive, `<archive>!<member>`."""
    ending = extension(file)
    handle = _PACKED[ending](io.BytesIO(data)) if ending in _PACKED else io.BytesIO(data)
    yield from _told(_READERS[form_of(file.rpartition("!")[2]) or "text"](handle, file, mapped), file)


def with_tables(rows: Iterable[Row | Reject], mapped: Mapped) -> Iterator[Row | Reject]:
    """Rows of a tar, and those of the tables among its members: a tar may be no WebDataset but packed files."""
    for row in rows:
        values = {} if isinstance(row, Reject) else row.values
        tables = [name for name, held in values.items() if extension(name) in _IN_TARS and isinstance(held, bytes)]
        for name in tables:
            yield from member_rows(values[name], f"{row.file}!{values['__key__']}.{name}", mapped)
        if isinstance(row, Reject) or not tables:
            yield row
        elif len(values) > len(tables) + 1:
            yield row._replace(values={name: held for name, held in values.items() if name not in tables})


_IN_TARS = frozenset({"csv", "tsv", "jsonl", "ndjson", "parquet", "arrow", "feather", "orc"})
"""Endings of tables; a member that is `json` or `txt` is a field of a sample."""


def is_zip_table(name: str) -> bool:
    """Whether a zip's member is read as rows: tars, databases and Zstandard within a zip are not."""
    return form_of(name) in _READERS and not name.lower().endswith(".zst") and safe_member(name)


def zip_members(path: Path) -> list[str]:
    """Names of all files in a zip, `<zip>!<name>` of those in zips within it; none where it cannot be read itself.

    A zip within it that is not looked into is a file among them.
    """
    try:
        tree, unread = zip_tree(path.parent, path.name)
    except NotThisSource:
        return []  # as its rows will say
    found = [f"{archive.file}!{info.filename}" for archive, infos in tree for info in infos]
    return [name.partition("!")[2] for name in [*found, *(name for name, _ in unread)]]


_READERS: dict[str, Callable[[Any, str, Mapped], Iterator[Row | Reject]]] = {
    "json": _json_file, "lines": _line_rows, "csv": _csv_file, "arrow": _arrow_rows, "orc": _orc_rows,
    "parquet": _parquet_file, "arrays": _array_rows, "text": _text_file,
}  # fmt: skip
