"""Row files of any size, read in ranges: Parquet, JSON Lines, JSON arrays, CSV and TSV, plain or gzipped.

`table_units` cuts files into units of some ten thousand rows without reading more than it must; `table_rows` reads one
unit's rows again, from where they start, with memory that does not depend on the file's size.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from builders.engine.archives import PictureStore
from builders.engine.rawfiles import outcome, relative
from builders.engine.source import Image, InputError, NotThisSource, Params, Reject, Role, Sample, Unit, assistant, user
from medgpt.errors import UserError
from medgpt.messages import named

ROWS_PER_UNIT = 20_000
BYTES_PER_UNIT = 256 << 20
"""A unit is closed at either size: seconds of work for text, half a minute for Parquet that holds pictures."""

_CHUNK = 1 << 22
_BATCH_ROWS, _BATCH_BYTES = 1024, 16 << 20
_NO_ITEM = re.compile(r"[\s,]*")


class Here(NamedTuple):
    """What is the same for all rows of a unit that a `kit.table_source` reads."""

    split: str
    params: Params
    store: PictureStore


class Row(NamedTuple):
    """One row of a table: where it stands and its columns."""

    file: str
    number: str
    """Line number for line formats, index from 0 for Parquet and JSON arrays."""
    values: dict[str, Any]
    here: Here | None = None
    """Of the rows of a `kit.table_source`: its split, its parameters, and where its pictures are."""

    @property
    def split(self) -> str:
        """The split that is read."""
        return self._here.split

    @property
    def params(self) -> Params:
        """The options of the build."""
        return self._here.params

    def picture(self, name: str) -> tuple[str, Callable[[], bytes]]:
        """(file, read) of a picture in the source's `pictures`: `Image("my_set/1", *row.picture("1.jpg"))`."""
        return self._here.store.reader(name)

    @property
    def _here(self) -> Here:
        assert self.here is not None, "only rows of a table_source know where they are"
        return self.here


class _Range(NamedTuple):
    """Rows `first` .. `first + rows`, findable at `start` (a byte, or a row group)."""

    start: int
    first: int
    rows: int


def table_units(
    raw: Path,
    files: Iterable[Path],
    split: str,
    role: Role,
    *,
    columns: Sequence[str] = (),
    rows_per_unit: int = ROWS_PER_UNIT,
    inputs: Sequence[str] = (),
    first_unit: int = 0,
    layout: str = "",
) -> Iterator[Unit]:
    """Units `<split>-00000` ... over the files in the order given; `inputs` are further files every unit depends on.

    `columns` are checked where the format has a header (Parquet, CSV, TSV): a missing one is `NotThisSource`.
    `layout` names the format where the file's suffix does not: "jsonl" for JSON Lines in a file named `.json`.
    """
    number = first_unit
    for path in files:
        file = relative(path, raw)
        for part in _ranges(path, file, columns, rows_per_unit, layout):
            payload = {"file": file, "range": list(part), "columns": list(columns)}
            if layout:
                payload["layout"] = layout
            yield Unit(f"{split}-{number:05d}", split, role, part.rows, payload, (file, *inputs))
            number += 1


def _ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int, layout: str) -> Iterator[_Range]:
    if not path.is_file():
        raise NotThisSource(f"{file}: not a file")  # a pipe would hang its reader
    try:
        yield from _format(path, layout).ranges(path, file, columns, rows_per_unit)
    except (UserError, MemoryError, PermissionError):
        raise
    except Exception as error:  # noqa: BLE001 - any library's, of a damaged file
        raise NotThisSource(f"{file}: cannot be read ({type(error).__name__}); fetch the file again") from None


def table_rows(raw: Path, unit: Unit) -> Iterator[Row | Reject]:
    """The rows of a unit of `table_units`; a row that cannot be parsed is a `Reject`.

    Where a file is damaged so that its reader gives up, or ends early, all rows that should follow are rejects.
    """
    file, part = unit.payload["file"], _Range(*unit.payload["range"])
    path = raw / file
    done, why = 0, "the file ends early"
    try:
        for row in _format(path, unit.payload.get("layout", "")).rows(path, file, part, unit.payload["columns"]):
            yield row
            done += 1
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - any library's, of a damaged file
        why = f"the file cannot be read any further ({type(error).__name__})"
    for number in range(done, part.rows):
        yield Reject(file, str(part.first + number), "bad_row", why)


def columns_seen(raw: Path, unit: Unit) -> str:
    """Names of the columns of a unit's first row, for a message; empty where it is no unit of `table_units`."""
    if not isinstance(unit.payload, dict) or not {"file", "range", "columns"} <= unit.payload.keys():
        return ""
    first = next((row for row in table_rows(raw, unit) if isinstance(row, Row)), None)
    return named(first.values) if first else ""


def has_header(unit: Unit) -> bool:
    """Whether the format of a unit's file names its columns, so that `table_units` has checked them."""
    return _format(Path(unit.payload["file"]), unit.payload.get("layout", "")).header


def with_fields(raw: Path, units: Iterable[Unit], fields: Sequence[str]) -> Iterator[Unit]:
    """`units` after a look into each file: a field that none of its first 100 rows has is `NotThisSource`.

    For JSON, which has no header that `table_units` could check.
    """
    for unit in units:
        if unit.payload["range"][1] == 0:
            first = list(islice(table_rows(raw, unit), 100))
            found = {name for row in first if isinstance(row, Row) for name in row.values}
            if first and not found and isinstance(first[0], Reject):
                raise NotThisSource(f"{unit.payload['file']}: its first rows cannot be read: {first[0].detail}")
            if missing := [name for name in fields if name not in found]:
                raise NotThisSource(
                    f"{unit.payload['file']}: no field {', '.join(missing)} in its first rows "
                    f"(there are {named(sorted(found))}); another revision?"
                )
        yield unit


def convert_rows(raw: Path, unit: Unit, convert: Callable[[Row], Sample]) -> Iterator[Sample | Reject]:
    """One outcome a row: `convert` makes a sample, or raises `InputError` for a row that cannot be one."""
    for row in table_rows(raw, unit):
        yield row if isinstance(row, Reject) else outcome(partial(convert, row), row.file, row.number)


def question_answer(row: Row, question: str, answer: str) -> Sample:
    """A row that is one question and its answer; where either is empty it is rejected by rule."""
    if not question.strip():
        raise InputError("empty_question", row.file)
    if not answer.strip():
        raise InputError("empty_answer", row.file)
    return Sample(
        key=row.number,
        messages=[user(question), assistant(answer)],
        file=row.file,
        row=row.number,
        question=question,
        answer=answer,
    )


def column_image(row: Row, column: str, image_id: str) -> Image:
    """The picture in an image column of the hub (`{"bytes", "path"}`); a row file without pixels has no such column."""
    file = f"{row.file}!{row.number}.{column}"
    value = row.values.get(column)
    data = value.get("bytes") if isinstance(value, dict) else None
    if column in row.values and not isinstance(data, bytes):
        raise InputError("missing_image", row.file, column)
    return Image(image_id, file, partial(_stored, data, file))


def _stored(data: bytes | None, file: str) -> bytes:
    if data is None:
        raise InputError("missing_image", file, "this copy has no pixels")
    if not data:
        raise InputError("empty_file", file)
    return data


def any_row_has(raw: Path, unit: Unit, field: str, value: Any) -> bool:
    """Whether one of a unit's first 20 rows has this value: for files that nothing else tells apart."""
    return any(row.values.get(field) == value for row in islice(table_rows(raw, unit), 20) if isinstance(row, Row))


class _Format(NamedTuple):
    ranges: Callable[[Path, str, Sequence[str], int], Iterator[_Range]]
    rows: Callable[[Path, str, _Range, Sequence[str]], Iterator[Row | Reject]]
    header: bool


def _format(path: Path, layout: str = "") -> _Format:
    suffix = layout or path.name.removesuffix(".gz").rpartition(".")[2].lower()
    try:
        return _FORMATS[suffix]
    except KeyError:
        raise NotThisSource(f"{path}: not a table of a known format ({', '.join(_FORMATS)})") from None


def _open(path: Path) -> BinaryIO:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


# Parquet


def _parquet_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise NotThisSource(f"{file}: not readable as Parquet ({error}); fetch the file again") from None
    names = metadata.schema.to_arrow_schema().names
    if missing := [name for name in columns if name not in names]:
        raise NotThisSource(f"{file}: no column {', '.join(missing)} (there are {named(names)}); another revision?")
    start = first = rows = size = 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        size += metadata.row_group(group).total_byte_size
        if rows >= rows_per_unit or size >= BYTES_PER_UNIT or group == metadata.num_row_groups - 1:
            # A group larger than a unit is cut by rows; its start is read again for each of its units.
            for begin in range(0, rows, rows_per_unit) if rows >= 2 * rows_per_unit else (0,):
                taken = min(rows_per_unit, rows - begin) if rows >= 2 * rows_per_unit else rows
                yield _Range(start, first + begin, taken)
            start, first, rows, size = group + 1, first + rows, 0, 0


def _parquet_rows(path: Path, file: str, part: _Range, columns: Sequence[str]) -> Iterator[Row | Reject]:
    import pyarrow.parquet as pq

    # Page by page: by default Arrow would hold a whole row group, which may be the whole file.
    with pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False) as table:
        metadata = table.metadata
        before = sum(metadata.row_group(group).num_rows for group in range(part.start))
        groups = range(part.start, metadata.num_row_groups)
        number, end = before, part.first + part.rows
        # Rows that hold pictures come a few at a time.
        row_bytes = metadata.row_group(part.start).total_byte_size // max(1, metadata.row_group(part.start).num_rows)
        size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, row_bytes)))
        for batch in table.iter_batches(size, groups, list(columns) or None, use_threads=False):
            if number + batch.num_rows > part.first:
                skip = max(0, part.first - number)
                wanted = batch.slice(skip, end - number - skip)
                names = wanted.schema.names
                # Column by column, then zipped: three times faster than the batch's own to_pylist.
                cells = zip(*(column.to_pylist() for column in wanted.columns), strict=True)
                for index, values in enumerate(cells, number + skip):
                    yield Row(file, str(index), dict(zip(names, values, strict=True)))
            number += batch.num_rows
            if number >= end:
                return


# JSON Lines


def _lines_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    start = position = rows = line = first = 0
    with _open(path) as handle:
        for data in handle:
            line += 1
            position += len(data)
            rows += bool(data.strip())
            if rows >= rows_per_unit or position - start >= BYTES_PER_UNIT:
                yield _Range(start, first, rows)
                start, first, rows = position, line, 0
    if rows:
        yield _Range(start, first, rows)


def _lines_rows(path: Path, file: str, part: _Range, columns: Sequence[str]) -> Iterator[Row | Reject]:
    import orjson

    with _open(path) as handle:
        handle.seek(part.start)
        left, number = part.rows, part.first
        while left:
            data = handle.readline()
            number += 1
            if not data.strip():
                continue
            left -= 1
            try:
                values = orjson.loads(data)
            except orjson.JSONDecodeError as error:
                try:
                    data.decode()
                except UnicodeDecodeError as wrong:
                    yield Reject(file, str(number), "not_utf8", f"byte {wrong.start}")
                else:
                    yield Reject(file, str(number), "bad_row", error.msg)
                continue
            if isinstance(values, dict):
                yield Row(file, str(number), values)
            else:
                yield Reject(file, str(number), "bad_row", "not an object")


# JSON arrays


def _array_items(path: Path, file: str, start: int) -> Iterator[tuple[int, Any]]:
    """(byte after the item, item) from byte `start`, which is 0 or stands behind an item."""
    decode = json.JSONDecoder().raw_decode
    with _open(path) as handle:
        handle.seek(start)
        utf8 = codecs.getincrementaldecoder("utf-8-sig" if start == 0 else "utf-8")()
        # `text` is what was read, items up to `place` are done, `position` is the byte of `place`.
        text, place, position, opened, ended = "", 0, start, start > 0, False
        if start == 0 and path.suffix != ".gz":
            position += len(codecs.BOM_UTF8) * (handle.read(3) == codecs.BOM_UTF8)
            handle.seek(0)
        while True:
            at = _NO_ITEM.match(text, place).end()  # type: ignore[union-attr]  # the pattern matches everywhere
            if not opened and at < len(text):
                if text[at] != "[":
                    raise NotThisSource(f"{file}: not an array of rows; is it another file of that name?")
                opened = True
                position += at + 1 - place
                place = at + 1
                continue
            if at < len(text) and text[at] == "]":
                return
            if at < len(text):
                try:
                    item, end = decode(text, at)
                except json.JSONDecodeError as error:
                    if ended:
                        raise NotThisSource(f"{file}: broken JSON after byte {position} ({error.msg})") from None
                else:
                    done = text[place:end]
                    position += len(done) if done.isascii() else len(done.encode())
                    place = end
                    yield position, item
                    continue
            elif ended:
                raise NotThisSource(f"{file}: the array ends early after byte {position}; fetch the file again")
            data = handle.read(max(_CHUNK, len(text) - place))
            try:
                text, place = text[place:] + utf8.decode(data, final=not data), 0
            except UnicodeDecodeError as error:
                raise NotThisSource(f"{file}: not UTF-8 after byte {position} ({error.reason})") from None
            ended = not data


def _array_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    start = first = rows = end = 0
    for end, _ in _array_items(path, file, 0):
        rows += 1
        if rows >= rows_per_unit or end - start >= BYTES_PER_UNIT:
            yield _Range(start, first, rows)
            start, first, rows = end, first + rows, 0
    if rows:
        yield _Range(start, first, rows)


def _array_rows(path: Path, file: str, part: _Range, columns: Sequence[str]) -> Iterator[Row | Reject]:
    items = _array_items(path, file, part.start)
    for number in range(part.first, part.first + part.rows):
        _, values = next(items)
        if isinstance(values, dict):
            yield Row(file, str(number), values)
        else:
            yield Reject(file, str(number), "bad_row", "not an object")


# CSV and TSV


class _Lines:
    """Decoded lines of a binary file for `csv`, counting the bytes handed out."""

    def __init__(self, handle: BinaryIO, position: int) -> None:
        self.handle, self.position = handle, position

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        data = self.handle.readline()
        if not data:
            raise StopIteration
        self.position += len(data)
        # Bytes that are no UTF-8 become lone surrogates, which `_csv_rows` rejects row by row.
        return data.decode("utf-8", errors="surrogateescape")


def _csv_reader(handle: BinaryIO, path: Path, start: int) -> tuple[Any, _Lines]:
    lines = _Lines(handle, start)
    tabs = path.name.removesuffix(".gz").endswith(".tsv")
    csv.field_size_limit(1 << 30)
    return csv.reader(lines, delimiter="\t" if tabs else ","), lines


def _csv_header(path: Path) -> tuple[list[str], int]:
    with _open(path) as handle:
        reader, lines = _csv_reader(handle, path, 0)
        header = [name.removeprefix("\ufeff") for name in next(reader, [])]
        return header, lines.position


def _csv_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    header, position = _csv_header(path)
    if missing := [name for name in columns if name not in header]:
        raise NotThisSource(
            f"{file}: no column {', '.join(missing)} (there are {named(header, first_row=True)}); another revision?"
        )
    with _open(path) as handle:
        handle.seek(position)
        reader, lines = _csv_reader(handle, path, position)
        start, rows, line, first = position, 0, 1, 1
        for cells in reader:
            rows += bool(cells)
            if rows >= rows_per_unit or lines.position - start >= BYTES_PER_UNIT:
                yield _Range(start, first, rows)
                start, rows, first = lines.position, 0, line + reader.line_num
    if rows:
        yield _Range(start, first, rows)


def _csv_rows(path: Path, file: str, part: _Range, columns: Sequence[str]) -> Iterator[Row | Reject]:
    header, _ = _csv_header(path)
    with _open(path) as handle:
        handle.seek(part.start)
        reader, _ = _csv_reader(handle, path, part.start)
        left = part.rows
        for cells in reader:
            if not cells:
                continue
            number = str(part.first + reader.line_num)
            if len(cells) != len(header):
                yield Reject(file, number, "bad_row", f"{len(cells)} fields, {len(header)} in the header")
            elif any("\udc80" <= character <= "\udcff" for cell in cells if not cell.isascii() for character in cell):
                yield Reject(file, number, "not_utf8")
            else:
                yield Row(file, number, dict(zip(header, cells, strict=True)))
            left -= 1
            if not left:
                return


_FORMATS: dict[str, _Format] = {
    "parquet": _Format(_parquet_ranges, _parquet_rows, True),
    "jsonl": _Format(_lines_ranges, _lines_rows, False),
    "json": _Format(_array_ranges, _array_rows, False),
    "csv": _Format(_csv_ranges, _csv_rows, True),
    "tsv": _Format(_csv_ranges, _csv_rows, True),
}
