"""Row files of any size, read in ranges: Parquet, JSON Lines, JSON arrays, CSV and TSV, plain or gzipped.

`table_units` cuts files into units of some ten thousand rows without reading more than it must; `table_rows` reads one
unit's rows again, from where they start, with memory that does not depend on the file's size.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from builders.engine.archives import Content, PictureStore, stored
from builders.engine.noticed import note
from builders.engine.pages import batch_rows, read_footer
from builders.engine.rawfiles import check_filled, note_gap, outcome, reason_for, relative
from builders.engine.source import (
    CAPTION_PROMPT,
    UNCOUNTED,
    Image,
    InputError,
    NotThisSource,
    Params,
    Reject,
    Role,
    Sample,
    Unit,
    assistant,
    choice_answer,
    choice_prompt,
    user,
)
from medgpt import limited
from medgpt.errors import UserError, one_line
from medgpt.limited import Endless, OverLimit, check_values, lines, open_file, open_stream
from medgpt.messages import named

ROWS_PER_UNIT = 20_000
BYTES_PER_UNIT = 256 << 20
"""A unit is closed at either size: seconds of work for text, half a minute for Parquet that holds pictures."""

_CHUNK = 1 << 22
_BATCH_ROWS = 1024
_NO_ITEM = re.compile(r"[\s,]*")
_COLON = re.compile(r"\s*:\s*|")
_TWO_LINES = re.compile(rb"\s*\{[^\n]*\}\s*\n\s*\{")


class Here(NamedTuple):
    """What is the same for all rows of a unit that a `kit.table_source` reads."""

    split: str
    params: Params
    store: PictureStore
    notes: dict[str, Any]


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

    def note(self, name: str, **item: Any) -> None:
        """Count the row under a name of the source's `kit.noticed`; `item` says which one it is."""
        note(self._here.notes, name, **item)

    @property
    def _here(self) -> Here:
        assert self.here is not None, "only rows of a table_source know where they are"
        return self.here


class _Range(NamedTuple):
    """Rows `first` .. `first + rows`, findable at `start` (a byte, or a row group). `UNCOUNTED`: all that follow."""

    start: int
    first: int
    rows: int


class FirstRows:
    """What is learnt of a tree's row files while only their first rows are read (`reading_first_rows`)."""

    def __init__(self, raw: Path, splits: Iterable[str]) -> None:
        self.raw, self.splits = raw, frozenset(splits)
        self.counts: dict[tuple[str, str], tuple[int, int | None, bool]] = {}
        """By split and file: rows that were cut off its head, rows in all (None: unknown), whether that was counted."""
        self.columns: dict[str, dict[str, None]] = {}
        """Columns by file, in their order."""
        self.used: dict[str, set[str]] = {}
        """Columns that code asked for, by file."""

    def range(self, path: Path, file: str, split: str, columns: Sequence[str], layout: str) -> Iterator[_Range]:
        """The file's first range. Of a large file the rest is estimated, by where the second begins."""
        ranges = _ranges(path, file, columns, FIRST_ROWS, layout)
        first = next(ranges, None)
        if first is None:
            return
        rows, counted = first.rows, True
        if path.name.lower().endswith(".parquet"):
            with open_parquet(path, file) as table:
                self.columns[file] = dict.fromkeys(table.schema_arrow.names)
                self.used.setdefault(file, set()).update(columns)
                rows = table.metadata.num_rows
        elif path.stat().st_size <= COUNTED_BYTES:
            rows += sum(part.rows for part in ranges)
        elif second := next(ranges, None):
            packed, counted = path.suffix.lower() == ".gz", False
            rows = 0 if packed else round(first.rows * path.stat().st_size / second.start)
        self.counts[split, file] = first.rows, rows or None, counted
        yield first

    def seen(self, row: Row | Reject) -> Row | Reject:
        """The row, whose columns are noted, now and as code asks for them."""
        if isinstance(row, Reject):
            return row
        if not row.file.lower().endswith(".parquet"):
            self.columns.setdefault(row.file, {}).update(dict.fromkeys(row.values))
        return row._replace(values=_Asked(row.values, self.used.setdefault(row.file, set())))


class _Asked(dict[str, Any]):
    """The values of a row, which remember what was asked for."""

    def __init__(self, values: dict[str, Any], asked: set[str]) -> None:
        super().__init__(values)
        self.asked = asked

    def __getitem__(self, name: str) -> Any:
        self.asked.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        """As a dictionary's."""
        self.asked.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.asked.add(str(name))
        return super().__contains__(name)


FIRST_ROWS = 2_000
COUNTED_BYTES = 32 << 20
"""Files up to this size are counted to their end: a second."""
_first_rows: FirstRows | None = None  # while a tree is probed


@contextmanager
def reading_first_rows(raw: Path, splits: Iterable[str]) -> Iterator[FirstRows]:
    """While this is open, `table_units` gives of a split's files the first rows alone.

    Files that are read for other reasons (to look something up, `rows_per_unit` beyond the usual) are read as ever.
    """
    global _first_rows
    _first_rows = FirstRows(raw, splits)
    try:
        yield _first_rows
    finally:
        _first_rows = None


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
    optional: Sequence[str] = (),
) -> Iterator[Unit]:
    """Units `<split>-00000` ... over the files in the order given; `inputs` are further files every unit depends on.

    `columns` are checked where the format has a header (Parquet, CSV, TSV): a missing one is `NotThisSource`; those
    that are `optional` are read where they are there. Without any all are read.
    `layout` names the format where the file's suffix does not: "python-jsonl" for lines that Python's `json` wrote, a
    bare `NaN` among them. JSON Lines in a file named `.json` are told by their first lines.
    """
    number, given = first_unit, layout
    for path in files:
        file = relative(path, raw)
        if path.is_file() and not path.stat().st_size:
            note_gap(file, "file without a byte in it: fetch it again")
        layout = given or _lines_named_json(path)
        ranges = _ranges(path, file, columns, rows_per_unit, layout)
        if (
            _first_rows
            and (raw, split in _first_rows.splits) == (_first_rows.raw, True)
            and rows_per_unit <= ROWS_PER_UNIT
        ):
            ranges = _first_rows.range(path, file, split, columns, layout)
        for part in ranges:
            payload = {"file": file, "range": list(part), "columns": [*columns, *optional]}
            if layout:
                payload["layout"] = layout
            yield Unit(f"{split}-{number:05d}", split, role, part.rows, payload, (file, *inputs))
            number += 1


def _lines_named_json(path: Path) -> str:
    """`jsonl` for a file named `.json` whose first two lines are objects, else nothing."""
    if not (path.is_file() and path.name.lower().removesuffix(".gz").endswith(".json")):
        return ""
    try:
        with open_stream(path) as handle:
            return "jsonl" if _TWO_LINES.match(handle.read(_CHUNK).removeprefix(codecs.BOM_UTF8)) else ""
    except (OSError, EOFError, zlib.error, OverLimit):
        return ""  # its reader says what is wrong


def _ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int, layout: str) -> Iterator[_Range]:
    if not path.is_file():
        raise NotThisSource(f"{file}: not a file")  # a pipe would hang its reader
    try:
        yield from _format(path, layout).ranges(path, file, columns, rows_per_unit)
    except OverLimit as error:
        raise NotThisSource(f"{file}: {error}; is it the publisher's?") from None
    except (UserError, MemoryError, PermissionError):
        raise
    except Exception as error:  # noqa: BLE001 - any library's, of a damaged file
        raise NotThisSource(f"{file}: cannot be read ({type(error).__name__}); fetch the file again") from None


def table_rows(raw: Path, unit: Unit) -> Iterator[Row | Reject]:
    """The rows of a unit of `table_units`; a row that cannot be parsed is a `Reject`.

    Where a file is damaged so that its reader gives up, or ends early, all rows that should follow are rejects; one
    reject stands for them if they were not counted.
    """
    file, part = unit.payload["file"], _Range(*unit.payload["range"])
    path = raw / file
    done, why, reason, row = 0, "the file ends early", "bad_row", None
    try:
        for row in _format(path, unit.payload.get("layout", "")).rows(path, file, part, unit.payload["columns"]):
            yield _first_rows.seen(row) if _first_rows else row
            done += 1
    except (UserError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - any library's, of a damaged file
        why, reason = f"the file cannot be read any further ({type(error).__name__})", reason_for(error, "bad_row")
        if part.rows == UNCOUNTED:
            before = row.row if isinstance(row, Reject) else row.number if row else "0"
            yield Reject(file, str(int(before) + 1), reason_for(error, "bad_archive"), why)
    for number in range(done, part.rows):
        yield Reject(file, str(part.first + number), reason, why)


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
    return outcomes(table_rows(raw, unit), convert)


def outcomes(rows: Iterable[Row | Reject], convert: Callable[[Row], Sample]) -> Iterator[Sample | Reject]:
    """As `convert_rows`, of rows at hand."""
    for row in rows:
        yield row if isinstance(row, Reject) else outcome(partial(convert, row), row.file, row.number)


def question_answer(
    row: Row, question: str, answer: str, images: Sequence[Image] = (), *, said: str = "", **fields: Any
) -> Sample:
    """A row that is one question and its answer, behind its pictures; where either is empty it is rejected by rule.

    `said` is the reply where it is more than the answer. `fields` are `reasoning`, or further ones of the sample.
    """
    check_filled(row.file, question=question, answer=answer)
    return _sample(row, question, said or answer, images, question=question, answer=answer, **fields)


def choice_sample(
    row: Row,
    question: str,
    options: list[tuple[str, str]],
    label: str,
    images: Sequence[Image] = (),
    *,
    explanation: str | None = None,
    **fields: Any,
) -> Sample:
    """A row that is a multiple-choice question, behind its pictures, and the label of its answer.

    An empty question or label is rejected by rule; a label of no option is damage. `explanation` follows the answer in
    the reply; `fields` as in `question_answer`.
    """
    check_filled(row.file, question=question, answer=label)
    if label not in dict(options):
        raise InputError("bad_field", row.file, f"the answer names none of the {len(options)} options")
    prompt, said = choice_prompt(question, options), choice_answer(options, label, explanation)
    return _sample(row, prompt, said, images, question=question, options=options, answer=label, **fields)


def caption_sample(row: Row, caption: str, image: Image, **fields: Any) -> Sample:
    """A row that is a picture and its caption, rejected by rule where that is empty."""
    check_filled(row.file, caption=caption)
    return _sample(row, CAPTION_PROMPT, caption.strip(), [image], answer=caption.strip(), **fields)


def _sample(
    row: Row, prompt: str, said: str, images: Sequence[Image], *, reasoning: str | None = None, **fields: Any
) -> Sample:
    messages = [user(*range(len(images)), prompt), assistant(said, reasoning=reasoning)]
    keyed = {"key": row.number} | fields
    return Sample(messages=messages, file=row.file, row=row.number, images=list(images), **keyed)


def column_image(row: Row, column: str, image_id: str) -> Image:
    """The picture in an image column of the hub (`{"bytes", "path"}`); a row file without pixels has no such column."""
    file = f"{row.file}!{row.number}.{column}"
    value = row.values.get(column)
    data = value.get("bytes") if isinstance(value, dict) else None
    if column in row.values and not isinstance(data, bytes):
        raise InputError("missing_image", row.file, column)
    return Image(image_id, file, partial(stored_picture, data, file))


def stored_picture(data: Content | None, file: str) -> bytes:
    """A picture that came with its row, as `Image.read` gives it; None where the row has none, or what is wrong."""
    if data is None:
        raise InputError("missing_image", file, "this copy has no pixels")
    if not stored(data):
        raise InputError("empty_file", file)
    return stored(data)


def any_row_has(raw: Path, unit: Unit, field: str, value: Any) -> bool:
    """Whether one of a unit's first 20 rows has this value: for files that nothing else tells apart."""
    return any(row.values.get(field) == value for row in islice(table_rows(raw, unit), 20) if isinstance(row, Row))


class _Format(NamedTuple):
    ranges: Callable[[Path, str, Sequence[str], int], Iterator[_Range]]
    rows: Callable[[Path, str, _Range, Sequence[str]], Iterator[Row | Reject]]
    header: bool


def _format(path: Path, layout: str = "") -> _Format:
    suffix = layout or path.name.lower().removesuffix(".gz").rpartition(".")[2]
    try:
        return _FORMATS[suffix]
    except KeyError:
        raise NotThisSource(f"{path}: not a table of a known format ({', '.join(_FORMATS)})") from None


def parse_json(data: bytes, file: str, python: bool = False) -> Any:
    """The value of a text of JSON; with `python` also what Python's `json` writes beyond it (`NaN`), and every key.

    Raises: `InputError`, without a word of the text.
    """
    import orjson

    try:
        check_values(data)
        return json.loads(data.decode(), object_pairs_hook=every_key) if python else orjson.loads(data)
    except OverLimit as error:
        raise InputError("too_large", file, str(error)) from None
    except (ValueError, RecursionError) as error:
        message = getattr(error, "msg", type(error).__name__)
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise InputError("not_utf8", file, f"byte {error.start}") from None
    raise InputError("bad_row", file, message)


def every_key(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON (`object_pairs_hook`): a key that comes again gets a number, so that no value is lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        found, seen = {}, Counter[str]()
        for key, value in pairs:
            seen[key] += 1
            found[key if seen[key] == 1 else f"{key}#{seen[key]}"] = value
    return found


# Parquet


@contextmanager
def open_parquet(source: Path | BinaryIO, file: str) -> Iterator[Any]:
    """A `ParquetFile`, `file` in messages, with `chunks` (of `read_footer`) and `handle`. Raises: `NotThisSource`.

    Its metadata is asked for rows and bytes alone: of a damaged column Arrow ends the process.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        try:
            handle = stack.enter_context(open_file(source) if isinstance(source, Path) else source)
            chunks = read_footer(handle)
            # Page by page: by default Arrow would hold a whole row group, which may be the whole file.
            table = stack.enter_context(pq.ParquetFile(source, buffer_size=1 << 20, pre_buffer=False))
        except (pa.ArrowException, OSError, ValueError, OverLimit) as error:
            raise NotThisSource(f"{file}: not readable as Parquet ({one_line(error)}); fetch the file again") from None
        about, table.chunks, table.handle = table.metadata, chunks, handle
        held = sum(about.row_group(group).num_rows for group in range(about.num_row_groups))
        if not held <= about.num_rows <= limited.RATIO * handle.seek(0, io.SEEK_END):
            what = f"says that it has {about.num_rows:,} rows, and {held:,} in its row groups, which it cannot hold"
            raise NotThisSource(f"{file}: {what}; fetch the file again")
        if lost := about.num_rows - held:
            note_gap(file, "rows of its own count stand in none of its row groups", count=lost)
        yield table


def parquet_batches(table: Any, group: int, columns: Sequence[str], most: int) -> Iterator[Any]:
    """Arrow batches of a row group of `open_parquet`'s, of some columns or all: `most` rows, or fewer large ones."""
    rows = table.metadata.row_group(group).num_rows
    size = batch_rows(table.handle, table.chunks[group], rows, columns, most)
    yield from table.iter_batches(size, [group], list(columns) or None, use_threads=False)


def _parquet_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    with open_parquet(path, file) as table:
        metadata, names = table.metadata, table.schema_arrow.names
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


def parquet_rows(
    path: Path | BinaryIO, file: str, part: _Range | None = None, columns: Sequence[str] = ()
) -> Iterator[Row | Reject]:
    """Rows of a Parquet file, or of a part of it. Raises: `NotThisSource`."""
    import pyarrow as pa

    with open_parquet(path, file) as table:
        part = part or _Range(0, 0, table.metadata.num_rows)
        number = sum(table.metadata.row_group(group).num_rows for group in range(part.start))
        last = part.first + part.rows
        for group in range(part.start, table.metadata.num_row_groups):
            if number >= last:
                return
            about = table.metadata.row_group(group)
            end = number + about.num_rows
            try:  # rows that hold pictures come a few at a time
                for batch in parquet_batches(table, group, columns, _BATCH_ROWS):
                    skip = min(max(0, part.first - number), batch.num_rows)
                    yield from arrow_rows(file, batch.slice(skip, last - number - skip), number + skip)
                    number += batch.num_rows
                    if number >= last:
                        return
            except (OverLimit, pa.ArrowException, OSError, ValueError, LookupError) as error:
                # The file says how many rows it has: those behind the damage are accounted for one by one.
                wrong = "too_large", str(error)
                if not isinstance(error, OverLimit):
                    wrong = reason_for(error, "bad_row"), f"its row group is damaged ({type(error).__name__})"
                for left in range(max(number, part.first), min(end, last)):
                    yield Reject(file, str(left), *wrong)
            number = end


def arrow_rows(file: str, batch: Any, first: int) -> Iterator[Row | Reject]:
    """Rows of an Arrow batch, numbered from `first`; a cell that Python cannot hold costs its own row."""
    names = batch.schema.names
    try:
        # Column by column, then zipped: three times faster than the batch's own to_pylist.
        cells = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
    except ValueError:  # a text that is not UTF-8, a time that Python cannot hold: the row is looked for
        for index in range(batch.num_rows):
            try:
                [values] = batch.slice(index, 1).to_pylist()
                yield Row(file, str(first + index), values)
            except ValueError as error:
                reason = "not_utf8" if isinstance(error, UnicodeDecodeError) else "bad_field"
                yield Reject(file, str(first + index), reason, type(error).__name__)
        return
    for index, values in enumerate(cells, first):
        yield Row(file, str(index), dict(zip(names, values, strict=True)))


# JSON Lines


def _lines_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    start = position = rows = first = 0
    with open_stream(path) as handle:
        for line, (data, size) in enumerate(lines(handle), 1):
            position += size
            text = data.removeprefix(codecs.BOM_UTF8) if data and line == 1 else data
            rows += text is None or bool(text.strip())
            if rows >= rows_per_unit or position - start >= BYTES_PER_UNIT:
                yield _Range(start, first, rows)
                start, first, rows = position, line, 0
    if rows:
        yield _Range(start, first, rows)


def _lines_rows(
    path: Path, file: str, part: _Range, columns: Sequence[str], python: bool = False
) -> Iterator[Row | Reject]:
    with open_stream(path) as handle:
        handle.seek(part.start)
        left = part.rows
        for number, (data, _) in enumerate(lines(handle), part.first + 1):
            if not left:
                return
            if data is None:
                left -= 1
                yield Reject(file, str(number), "too_large", f"a line of more than {limited.LINE_BYTES:,} bytes")
                continue
            data = data.removeprefix(codecs.BOM_UTF8) if number == 1 else data
            if not data.strip():
                continue
            left -= 1
            try:
                values = parse_json(data, file, python)
            except InputError as error:
                yield Reject(file, str(number), error.reason, error.detail)
                continue
            if isinstance(values, dict):
                yield Row(file, str(number), values)
            else:
                yield Reject(file, str(number), "bad_row", "not an object")


# JSON arrays


def json_items(path: Path, file: str, start: int = 0, kinds: str = "[") -> Iterator[tuple[int, str, Any]]:
    """(byte after the item, its name, item) of a JSON array, or of an object where `kinds` has "{", one at a time.

    Items of an array have no name; its `start` may be the byte behind an item. An item with a number that is too long
    for Python is an `InputError` in its place.
    """
    long: list[int] = []

    def integer(digits: str) -> int:
        if len(digits) <= limited.MOST_DIGITS:
            return int(digits)
        long.append(len(digits))
        return 0

    decode = json.JSONDecoder(parse_int=integer).raw_decode
    with open_stream(path) as handle:
        handle.seek(start)
        utf8 = codecs.getincrementaldecoder("utf-8-sig" if start == 0 else "utf-8")()
        # `text` is what was read, items up to `place` are done, `position` is the byte of `place`.
        text, place, position, opened, ended, closing = "", 0, start, start > 0, False, "]"
        if start == 0 and path.suffix != ".gz":
            position += len(codecs.BOM_UTF8) * (handle.read(3) == codecs.BOM_UTF8)
            handle.seek(0)
        while True:
            at = _NO_ITEM.match(text, place).end()  # type: ignore[union-attr]  # the pattern matches everywhere
            if not opened and at < len(text):
                if text[at] not in kinds:
                    wanted = "an array of rows" if kinds == "[" else "an array or object"
                    raise NotThisSource(f"{file}: not {wanted}; is it another file of that name?")
                opened, closing = True, "}" if text[at] == "{" else "]"
                position += at + 1 - place
                place = at + 1
                continue
            if at < len(text) and text[at] == closing:
                behind = len(text[at + 1 :].strip())
                while data := handle.read(_CHUNK):
                    behind += len(data.strip())
                if behind:
                    note_gap(file, "bytes behind the end of its JSON (two files in one?)", count=behind)
                return
            if at < len(text):
                long.clear()
                try:
                    name, end = decode(text, at) if closing == "}" else ("", at)
                    item, end = decode(text, _COLON.match(text, end).end() if closing == "}" else end)  # type: ignore[union-attr]
                except json.JSONDecodeError as error:
                    end, wrong = len(text), error.msg
                except RecursionError:
                    raise NotThisSource(f"{file}: nested too deeply after byte {position}") from None
                else:
                    wrong = ""
                if wrong and ended:
                    raise NotThisSource(f"{file}: broken JSON after byte {position} ({wrong})")
                if end < len(text):  # a number that ends with the text may go on
                    done = text[place:end]
                    position += len(done) if done.isascii() else len(done.encode())
                    place = end
                    odd = InputError("too_large", file, f"a number of {long[0]:,} digits") if long else None
                    yield position, str(name), odd or item
                    continue
            if ended:
                raise NotThisSource(f"{file}: the array ends early after byte {position}; fetch the file again")
            if len(text) - place > limited.ITEM_CHARACTERS:
                most = limited.ITEM_CHARACTERS
                raise NotThisSource(f"{file}: an item of more than {most:,} characters after byte {position}")
            check_values(text, place)
            data = handle.read(max(_CHUNK, len(text) - place))
            try:
                text, place = text[place:] + utf8.decode(data, final=not data), 0
            except UnicodeDecodeError as error:
                raise NotThisSource(f"{file}: not UTF-8 after byte {position} ({error.reason})") from None
            ended = not data


def _array_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    start = first = rows = end = 0
    for end, _, _ in json_items(path, file):
        rows += 1
        if rows >= rows_per_unit or end - start >= BYTES_PER_UNIT:
            yield _Range(start, first, rows)
            start, first, rows = end, first + rows, 0
    if rows:
        yield _Range(start, first, rows)


def _array_rows(path: Path, file: str, part: _Range, columns: Sequence[str]) -> Iterator[Row | Reject]:
    items = json_items(path, file, part.start)
    for number in range(part.first, part.first + part.rows):
        _, _, values = next(items)
        if isinstance(values, dict):
            yield Row(file, str(number), values)
        elif isinstance(values, InputError):
            yield Reject(file, str(number), values.reason, values.detail)
        else:
            yield Reject(file, str(number), "bad_row", "not an object")


# CSV and TSV


class _Lines:
    """Decoded lines of a binary file for `csv`, counting lines, bytes handed out, and those of the record in hand."""

    def __init__(self, handle: BinaryIO, position: int, delimiter: str, width: int) -> None:
        self.lines, self.position, self.number = lines(handle), position, 0
        self.delimiter, self.width = delimiter, width
        self.begin()

    def begin(self) -> None:
        """What follows is another record."""
        self.bytes = self.within = self.rows_within = 0
        self.first, self.cells = "", list[str]()

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        data, size = next(self.lines)
        self.number, self.position, self.bytes = self.number + 1, self.position + size, self.bytes + size
        if data is None or self.bytes > limited.LINE_BYTES:
            raise OverLimit(f"a record of more than {limited.LINE_BYTES:,} bytes (a quote that nothing closes?)")
        check_values(data)
        # Bytes that are no UTF-8 become lone surrogates, which `_csv_rows` rejects row by row.
        line = data.decode("utf-8", errors="surrogateescape")
        if not self.first:
            self.first = line
            return line
        if not self.within:  # the stray quote may stand in the first line itself
            alone = self.first.replace('"', "") if self.first.count('"') % 2 else self.first
            self.cells = _cells(alone, self.delimiter)
        self.within += 1
        self.rows_within += _like_a_row(line, self.cells, self.delimiter, self.width)
        if self.within >= limited.RECORD_LINES:
            raise OverLimit(f"a record of more than {limited.RECORD_LINES:,} lines (a quote that nothing closes?)")
        return line


_ENOUGH_CELLS = 5


def _like_a_row(line: str, first: list[str], delimiter: str, width: int) -> bool:
    """Whether a line within a record would be a row of its own, had no quote opened before it.

    first: cells of the record's first line. The line has all quotes in pairs (which the last one of a cell of several
    lines has not), as many cells as the header, and commas as this table has them: where those have no blank behind, as
    in prose. Fewer than `_ENOUGH_CELLS` cells may be prose all the same: then the first must be an id with a number in
    it, made like that of the record.
    """
    if width < 2 or line.count(delimiter) < width - 1 or line.count('"') % 2:
        return False
    cells = _cells(line, delimiter)
    spaced, usual = (sum(cell.startswith(" ") for cell in found[1:]) for found in (cells, first))
    if len(cells) != width or not any(cells) or spaced > usual:
        return False
    same = first and _ID.fullmatch(cells[0]) and _make(cells[0]) == _make(first[0])
    return delimiter == "\t" or width >= _ENOUGH_CELLS or bool(same)


def rows_within(record: Sequence[str], delimiter: str, width: int) -> int:
    """How many lines of a record would be rows of their own, had no quote opened in front of them."""
    alone = record[0].replace('"', "") if record[0].count('"') % 2 else record[0]
    return sum(_like_a_row(line, _cells(alone, delimiter), delimiter, width) for line in record[1:])


def _cells(line: str, delimiter: str) -> list[str]:
    """Cells of a line alone; none where it cannot stand alone."""
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return []


def _make(cell: str) -> str:
    """What a cell is made of: `PMC12_fig3.jpg` is `a0_a0.a`."""
    return _DIGITS.sub("0", _LETTERS.sub("a", cell.strip()))


_ID, _LETTERS, _DIGITS = re.compile(r"\S*\d\S*"), re.compile(r"[^\W\d_]+"), re.compile(r"\d+")


def _csv_records(
    handle: BinaryIO, path: Path, start: int, width: int = 0
) -> Iterator[tuple[list[str] | InputError, _Lines]]:
    """(cells, or what is wrong; where its end is) of every record from a byte on that is not blank.

    A record among whose lines there are rows of a table of `width` columns is damaged: rows would be lost in a cell.
    """
    with open_stream(path) as again:
        first = (next(lines(again), (b"", 0))[0] or b"").decode("utf-8-sig", errors="replace")
    delimiter = delimiter_of(first, path.name)
    found = _Lines(handle, start, delimiter, width)
    csv.field_size_limit(limited.LINE_BYTES)
    reader = csv.reader(found, delimiter=delimiter, skipinitialspace=f'{delimiter} "' in first)
    while True:
        found.begin()
        try:
            cells: list[str] | InputError = next(reader)
        except StopIteration:
            return
        except Endless:
            raise
        except OverLimit as error:
            cells = InputError("too_large", "", str(error))
        except csv.Error as error:
            cells = InputError("bad_row", "", str(error))
        if found.rows_within:
            said = f"{found.rows_within:,} of the {found.within:,} lines within it look like rows (a stray quote?)"
            cells = InputError("bad_row", "", said)
        if cells:
            yield cells, found


_HEADER = 100_000
"""Characters of a first line that say what parts it."""


def delimiter_of(header: str, name: str) -> str:
    """What parts the cells of a table by its first line; tabs where its file is named so."""
    tabs = {".tsv", ".tab"} & {suffix.lower() for suffix in Path(name).suffixes}
    return "\t" if tabs else max(",;\t|", key=lambda sign: len(_cells(header[:_HEADER], sign)))


def _csv_header(path: Path, file: str, columns: Sequence[str]) -> tuple[list[str], int]:
    """(names of the columns, as they are asked for where case and blanks alone differ; where the rows begin)."""
    with open_stream(path) as handle:
        for header, end in _csv_records(handle, path, 0):
            if isinstance(header, InputError):
                raise NotThisSource(f"{file}: no header ({header.detail}); fetch the file again")
            names = [name.removeprefix("\ufeff") for name in header]
            asked = {name.casefold(): name for name in columns if name not in names}
            bare = [asked.get(name.strip().casefold(), name.strip()) for name in names]
            return (bare if len(set(bare)) == len(set(names)) else names), end.position
    return [], 0


def _csv_ranges(path: Path, file: str, columns: Sequence[str], rows_per_unit: int) -> Iterator[_Range]:
    header, start = _csv_header(path, file, columns)
    if missing := [name for name in columns if name not in header]:
        raise NotThisSource(
            f"{file}: no column {', '.join(missing)} (there are {named(header, first_row=True)}); another revision?"
        )
    with open_stream(path) as handle:
        handle.seek(start)
        rows, first = 0, 1
        for _, end in _csv_records(handle, path, start, len(header)):
            rows += 1
            if end.rows_within:
                what = "lines that look like rows stand within records (a stray quote?)"
                note_gap(file, what, str(1 + end.number), end.rows_within)
            if rows >= rows_per_unit or end.position - start >= BYTES_PER_UNIT:
                yield _Range(start, first, rows)
                start, rows, first = end.position, 0, 1 + end.number
    if rows:
        yield _Range(start, first, rows)


def _csv_rows(path: Path, file: str, part: _Range, columns: Sequence[str]) -> Iterator[Row | Reject]:
    header, _ = _csv_header(path, file, columns)
    with open_stream(path) as handle:
        handle.seek(part.start)
        for cells, end in islice(_csv_records(handle, path, part.start, len(header)), part.rows):
            number = str(part.first + end.number)
            if isinstance(cells, InputError):
                yield Reject(file, number, cells.reason, cells.detail)
            elif len(cells) != len(header):
                yield Reject(file, number, "bad_row", f"{len(cells)} fields, {len(header)} in the header")
            elif any("\udc80" <= character <= "\udcff" for cell in cells if not cell.isascii() for character in cell):
                yield Reject(file, number, "not_utf8")
            elif any("\0" in cell for cell in cells):
                yield Reject(file, number, "bad_row", "zero bytes (a hole that a download left?)")
            else:
                yield Row(file, number, dict(zip(header, cells, strict=True)))


_FORMATS: dict[str, _Format] = {
    "parquet": _Format(_parquet_ranges, parquet_rows, True),
    "jsonl": _Format(_lines_ranges, _lines_rows, False),
    "python-jsonl": _Format(_lines_ranges, partial(_lines_rows, python=True), False),
    "json": _Format(_array_ranges, _array_rows, False),
    "csv": _Format(_csv_ranges, _csv_rows, True),
    "tsv": _Format(_csv_ranges, _csv_rows, True),
}
