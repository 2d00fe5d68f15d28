"""Rows of a corpus made elsewhere, as fields: from WebDataset tars, JSON Lines and Parquet, with bounded memory.

A row that cannot be parsed is a reject. An archive that breaks off, in whatever way, is never taken for a whole one.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tarfile import HeaderError, ReadError
from typing import IO, Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.foreign_mapping import ForeignError, Role, Rules
from medgpt.strip import sniff

MEMBER_BYTES = 256 << 20
SAMPLE_BYTES = 512 << 20
"""What one tar member, and all members of one sample, may hold; what is larger is not read."""

LINE_BYTES = 64 << 20
"""What one line of JSON may hold."""

DAMAGED_REASONS = frozenset(
    {
        "animated_image", "bad_archive", "bad_field", "bad_row", "cmyk_image", "corrupt_image", "empty_file",
        "image_too_large", "missing_field", "missing_image", "not_utf8", "sixteen_bit_image", "truncated_image",
        "unsupported_image",
    }
)  # fmt: skip
"""Why a row is a reject: words of `builders.engine.source.DAMAGED_REASONS`, which says what to do about each."""

OTHER_MAGIC = (b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*", b"BM", b"\x00\x00\x00\x0cjP", b"\xff\x4f\xff\x51")
"""GIF, WebP, TIFF, BMP, JPEG 2000: pictures that are not read."""

ABSENT: Any = object()
"""What `get_field` returns for a field that is not there; None is a value."""


class Damage(Exception):
    """What is wrong with a row: one of `DAMAGED_REASONS`, and a detail that names ids and numbers, never text."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


@dataclass(frozen=True)
class Job:
    """One file, or some row groups of one; all that a worker needs. Picklable."""

    folder: Path
    target: Path
    build: str
    role: Role
    rules: Rules
    file: str
    kind: str
    number: int
    groups: tuple[int, int] | None
    """Parquet: first row group and the one after the last."""
    first: int
    """Parquet: number of the first row."""
    key: str = ""

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / self.file

    @property
    def ledger(self) -> Path:
        """Where the finished job's record lies."""
        return self.target.parent / ".resume" / self.build / f"{self.number:05d}.json"


class Row(NamedTuple):
    """One row: its key, line or number in its file, and its fields."""

    row: str
    values: dict[str, Any]


class Rejected(NamedTuple):
    """A row that cannot be used, and why."""

    row: str
    reason: str
    detail: str


@dataclass(frozen=True)
class TooLarge:
    """Stands for a tar member that was not read."""

    size: int


def extension(name: str) -> str:
    """What stands behind the last dot, in small letters."""
    return name.rpartition(".")[2].lower()


def open_parquet(path: Path, file: str) -> pq.ParquetFile:
    """Open a Parquet file, called `file` in messages. Raises: `ForeignError`."""
    try:
        # Page by page: by default Arrow would hold a whole row group, which may be the whole file.
        return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise ForeignError(f"{file}: not readable as Parquet ({_line(error)}); mend it or take it out") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def read_rows(job: Job) -> Iterator[Row | Rejected]:
    """Every row of a job in order: as fields, or as a reject where it cannot be parsed."""
    if job.kind == "tar":
        return _tar_rows(job.path)
    return _line_rows(job.path) if job.kind == "jsonl" else _parquet_rows(job)


class _StrictHeader(tarfile.TarInfo):
    """Python takes a broken header behind the first for the end of the archive; here only the end mark is the end."""

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> _StrictHeader:
        try:
            return super().fromtarfile(tarfile)
        except HeaderError as error:
            # EOFHeaderError has no name in tarfile's stubs; it is the mark.
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise ReadError(f"at byte {tarfile.offset}: {error}") from error


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.name.endswith(("gz", "GZ")) else path.open("rb")  # type: ignore[return-value]


def _tar_rows(path: Path) -> Iterator[Row | Rejected]:
    key, members, size = "", dict[str, Any](), 0
    try:
        with _open(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictHeader) as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]  # else kept, a kilobyte each
                folder, _, last = member.name.rpartition("/")
                stem, _, extension = last.partition(".")
                # Links lead elsewhere and are not followed; `._name` is what macOS adds.
                if not member.isreg() or not stem:
                    continue
                this = f"{folder}/{stem}" if folder else stem
                if members and this != key:
                    yield _tar_row(key, members)
                    members, size = {}, 0
                key = this
                name = extension.lower() or "data"
                if name in members:  # WebDataset allows one; both are kept, so that both are compared
                    name = next(f"{n}.{name}" for n in range(1, len(members) + 2) if f"{n}.{name}" not in members)
                members[name] = TooLarge(member.size)
                if member.size <= MEMBER_BYTES and size + member.size <= SAMPLE_BYTES:
                    file = tar.extractfile(member)
                    assert file is not None  # a regular member
                    members[name] = file.read()
                    size += member.size
            if members:
                yield _tar_row(key, members)
                members = {}
            rest = tar.fileobj
            assert rest is not None
            while chunk := rest.read(1 << 20):
                if chunk.count(0) != len(chunk):
                    raise ReadError("bytes behind the end of the archive (two archives in one file?)")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        if members:
            yield Rejected(_text(key), "bad_archive", "the archive breaks off in this sample")
        reason = "bad_archive" if path.stat().st_size else "empty_file"
        yield Rejected("-", reason, f"{_line(error)}; what follows was not read")


def _text(name: str) -> str:
    """A member's name as text: bytes that are not UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _tar_row(key: str, members: dict[str, Any]) -> Row | Rejected:
    key = _text(key)
    values: dict[str, Any] = {}
    for name, content in members.items():
        if extension(name) != "json":
            values[_text(name)] = content
            continue
        if isinstance(content, TooLarge):
            return Rejected(key, "bad_row", f"{name}: {content.size} bytes, limit {MEMBER_BYTES}")
        try:
            values[_text(name)] = orjson.loads(content)
        except orjson.JSONDecodeError as error:
            return Rejected(key, *_json_fault(content, f"{name}: {error.msg}"))
    fields = values.get("json")
    return Row(key, (fields if isinstance(fields, dict) else {}) | values | {"__key__": key})


def _json_fault(data: bytes, message: str) -> tuple[str, str]:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return "not_utf8", f"byte {error.start}"
    return "bad_row", message


def _line_rows(path: Path) -> Iterator[Row | Rejected]:
    number = 0
    try:
        with _open(path) as stream:
            while line := stream.readline(LINE_BYTES + 1):
                number += 1
                if len(line) > LINE_BYTES:
                    while line and not line.endswith(b"\n"):
                        line = stream.readline(LINE_BYTES)
                    yield Rejected(str(number), "bad_row", f"a line of more than {LINE_BYTES} bytes")
                    continue
                line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if not line.strip():
                    continue
                try:
                    values = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    yield Rejected(str(number), *_json_fault(line, error.msg))
                    continue
                if isinstance(values, dict):
                    yield Row(str(number), values)
                else:
                    yield Rejected(str(number), "bad_row", "not an object")
    except (OSError, EOFError, zlib.error) as error:
        yield Rejected(str(number + 1), "bad_archive", f"{_line(error)}; what follows was not read")


def _parquet_rows(job: Job) -> Iterator[Row | Rejected]:
    with open_parquet(job.path, job.file) as table:
        columns = _columns(table, job)
        number = job.first
        for group in range(*(job.groups or (0, 0))):
            about = table.metadata.row_group(group)
            end = number + about.num_rows
            # Rows that hold pictures come a few at a time: about 16 MiB.
            size = max(1, min(1024, (16 << 20) * about.num_rows // max(1, about.total_byte_size)))
            try:
                for batch in table.iter_batches(size, [group], columns, use_threads=False):
                    for outcome in _batch_rows(batch, number):
                        number += 1
                        yield outcome
            except (pa.ArrowException, OSError) as error:
                # The file says how many rows it has: those behind the damage are accounted for one by one.
                for left in range(number, end):
                    yield Rejected(str(left), "bad_row", _line(error)[:200])
            number = end


def _batch_rows(batch: pa.RecordBatch, first: int) -> Iterator[Row | Rejected]:
    names = batch.schema.names
    try:
        # Column by column, then zipped: three times faster than the batch's own to_pylist.
        cells = list(zip(*(column.to_pylist() for column in batch.columns), strict=True))
        if not names:
            cells = [()] * batch.num_rows
    except ValueError:  # texts that are not UTF-8, times that Python cannot hold: the row is looked for
        for index in range(batch.num_rows):
            try:
                [values] = batch.slice(index, 1).to_pylist()
                yield Row(str(first + index), values)
            except ValueError as error:
                reason = "not_utf8" if isinstance(error, UnicodeDecodeError) else "bad_field"
                yield Rejected(str(first + index), reason, type(error).__name__)
        return
    for index, row in enumerate(cells, first):
        yield Row(str(index), dict(zip(names, row, strict=True)))


def _columns(table: pq.ParquetFile, job: Job) -> list[str]:
    """The columns that something is taken from."""
    wanted = job.rules.fields
    columns = [name for name in table.schema_arrow.names if any(covers(name, field) for field in wanted)]
    return columns + [name for name in picture_columns(job) if name not in columns]


def covers(name: str, field: str) -> bool:
    """Whether the field is of this name or lies within it."""
    return field == name or field.startswith(f"{name}.")


@cache
def picture_columns(job: Job) -> tuple[str, ...]:
    """Parquet columns that hold pictures by their type: {bytes, path}, or bytes whose first value is a picture."""
    if job.rules.images is not None:
        return ()
    found = []
    with open_parquet(job.path, job.file) as table:
        for field in table.schema_arrow:
            kind = field.type
            while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
                kind = kind.value_type
            if pa.types.is_struct(kind):
                index = kind.get_field_index("bytes")
                if index >= 0 and _is_binary(kind.field(index).type):
                    found.append(field.name)
            elif _is_binary(kind) and _first_is_picture(table, field.name):
                found.append(field.name)
    return tuple(found)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _first_is_picture(table: pq.ParquetFile, column: str) -> bool:
    try:
        for batch in table.iter_batches(16, columns=[column], use_threads=False):
            for value in batch.column(0).to_pylist():
                for data in value if isinstance(value, list) else [value]:
                    if data:
                        return _looks_like_picture(data)
    except (pa.ArrowException, OSError):
        return True  # reading the rows will say what is wrong with them
    return False


def _looks_like_picture(data: bytes) -> bool:
    return sniff(data) is not None or data.startswith(OTHER_MAGIC)


def get_field(values: Mapping[str, Any], field: str) -> Any:
    """The value of a field or path; `ABSENT` where there is none. Names that hold dots themselves are found too."""
    if field in values:
        return values[field]
    cut = field.find(".")
    while cut > 0:
        inner = values.get(field[:cut])
        if isinstance(inner, Mapping):
            found = get_field(inner, field[cut + 1 :])
            if found is not ABSENT:
                return found
        cut = field.find(".", cut + 1)
    return ABSENT


def found_values(values: Mapping[str, Any], fields: Iterable[str]) -> list[Any]:
    """Values of those of the fields that are there and not null."""
    found = (get_field(values, field) for field in fields)
    return [value for value in found if value is not ABSENT and value is not None]


def field_names(values: Mapping[str, Any]) -> Iterator[str]:
    """Names of all fields, nested ones as paths."""
    stack = list(values.items())
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict) and value and "bytes" not in value:
            stack.extend((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name


def schema_names(schema: pa.Schema) -> list[str]:
    """Names of all columns, fields of structs as paths."""
    names, stack = [], [(field.name, field.type) for field in schema]
    while stack:
        name, kind = stack.pop()
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") < 0:
            stack.extend((f"{name}.{kind.field(i).name}", kind.field(i).type) for i in range(kind.num_fields))
        else:
            names.append(name)
    return names


def in_schema(schema: pa.Schema, field: str) -> bool:
    """Whether a Parquet file has a field or path."""
    nested: dict[str, Any] = {name: _nested(schema.field(name).type) for name in schema.names}
    return get_field(nested, field) is not ABSENT


def _nested(kind: pa.DataType) -> dict[str, Any] | None:
    if not pa.types.is_struct(kind):
        return None
    return {kind.field(i).name: _nested(kind.field(i).type) for i in range(kind.num_fields)}
