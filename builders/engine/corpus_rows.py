"""Rows of a corpus made elsewhere, as fields: of WebDataset tars, JSON Lines and Parquet; others are in `corpus_files`.

A row that cannot be parsed is a reject. An archive that breaks off, in whatever way, is never taken for a whole one.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from builders.engine.archives import TAR_DAMAGE, Content, stored, tar_samples
from builders.engine.corpus_files import document_rows, file_rows, form_of, with_tables
from builders.engine.corpus_values import extension
from builders.engine.source import InputError, Reject, Unit
from builders.engine.tables import Row, open_parquet, parquet_batches, parse_json, table_rows
from medgpt.errors import one_line
from medgpt.formats import format_of
from medgpt.limited import OverLimit

ABSENT: Any = object()
"""What `get_field` returns for a field that is not there; None is a value."""


@lru_cache(maxsize=64)
def kind_of(file: str) -> str | None:
    """`tar`, `parquet`, `jsonl`, or `file` for what `corpus_files` reads; None for a file that is not read as rows."""
    form, ending = form_of(file), extension(file)
    if form == "lines" and ending in ("jsonl", "ndjson", "gz"):
        return "jsonl"
    if form is None or form == "tar" or (form == "parquet" and ending == "parquet"):
        return form
    return "file"


def corpus_rows(raw: Path, unit: Unit) -> Iterator[Row | Reject]:
    """Every row of a unit in order: as fields, or as a reject where it cannot be parsed."""
    file = unit.payload["file"]
    kind = kind_of(file)
    if kind == "tar":
        return with_tables(_tar_rows(raw / file, file), unit.payload["mapped"])
    if "files" in unit.payload:
        return document_rows(raw, unit.payload["files"])
    if kind == "file" or (kind == "jsonl" and not (raw / file).stat().st_size):  # which says that it is empty
        return file_rows(raw / file, file, unit.payload["mapped"], unit.payload["pictures_alone"])
    return table_rows(raw, unit)


def _tar_rows(path: Path, file: str) -> Iterator[Row | Reject]:
    try:
        for key, members in tar_samples(path):
            if members:
                yield _tar_row(file, key, members)
            else:
                yield Reject(file, _text(key), "bad_archive", "the archive breaks off in this sample")
    except OverLimit as error:
        yield Reject(file, "-", "too_large", f"{error}; what follows was not read")
    except TAR_DAMAGE as error:
        reason = "bad_archive" if path.stat().st_size else "empty_file"
        yield Reject(file, "-", reason, f"{one_line(error)}; what follows was not read")


def _text(name: str) -> str:
    """A member's name as text: bytes that are not UTF-8 are written as escapes."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _tar_row(file: str, key: str, members: dict[str, Content]) -> Row | Reject:
    key = _text(key)
    values: dict[str, Any] = {}
    for name, content in members.items():
        if extension(name) != "json":
            values[_text(name)] = content
            continue
        try:
            values[_text(name)] = parse_json(stored(content), file, python=True)
        except InputError as error:
            return Reject(file, key, error.reason, f"{_text(name)}: {error.detail}")
    fields = values.get("json")
    return Row(file, key, (fields if isinstance(fields, dict) else {}) | values | {"__key__": key})


def picture_columns(path: Path, file: str) -> list[str]:
    """Parquet columns that hold pictures by their type: {bytes, path}, or bytes whose first value is a picture."""
    from pyarrow import types

    found = []
    with open_parquet(path, file) as table:
        for field in table.schema_arrow:
            kind = field.type
            while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
                kind = kind.value_type
            of_bytes = kind.get_field_index("bytes") if types.is_struct(kind) else -1
            value = kind.field(of_bytes).type if of_bytes >= 0 else kind
            if not (types.is_binary(value) or types.is_large_binary(value)):
                continue
            if of_bytes >= 0 or _first_is_picture(table, field.name):
                found.append(field.name)
    return found


def _first_is_picture(table: Any, column: str) -> bool:
    import pyarrow as pa

    try:
        for group in range(table.num_row_groups):
            for batch in parquet_batches(table, group, [column], 16):
                for value in batch.column(0).to_pylist():
                    for data in value if isinstance(value, list) else [value]:
                        if data:
                            return format_of(data) is not None
    except (OverLimit, pa.ArrowException, OSError, ValueError, LookupError):
        return True  # reading the rows will say what is wrong with them
    return False


def covers(name: str, field: str) -> bool:
    """Whether the field is of this name or lies within it."""
    return field == name or field.startswith(f"{name}.")


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


def holds_numbers(kind: Any) -> bool:
    """Whether a Parquet column has nothing but numbers, dates and truth values, so that there is nothing to compare."""
    from pyarrow import types

    if types.is_struct(kind):
        return all(holds_numbers(kind.field(number).type) for number in range(kind.num_fields))
    depth = 0
    while types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    if depth > (not types.is_integer(kind)):
        return False  # the bytes or the rows of a picture, perhaps
    tests = (types.is_null, types.is_integer, types.is_floating, types.is_boolean, types.is_temporal, types.is_decimal)
    return any(test(kind) for test in tests)


def field_names(values: Mapping[str, Any]) -> Iterator[str]:
    """Names of all fields, nested ones as paths."""
    stack = list(values.items())
    while stack:
        name, value = stack.pop()
        if isinstance(value, dict) and value and "bytes" not in value:
            stack.extend((f"{name}.{key}", inner) for key, inner in value.items())
        else:
            yield name


def column_fields(path: Path, file: str) -> dict[str, Any]:
    """A Parquet file's columns as the fields of a row: structs as mappings, all else None."""
    with open_parquet(path, file) as table:
        return {field.name: _nested(field.type) for field in table.schema_arrow}


def _nested(kind: Any) -> dict[str, Any] | None:
    from pyarrow import types

    if not types.is_struct(kind):
        return None
    return {kind.field(i).name: _nested(kind.field(i).type) for i in range(kind.num_fields)}


def missing_fields(raw: Path, units: Iterable[Unit], named: Iterable[str]) -> tuple[list[str], set[str]]:
    """(those of `named` that no row has, fields seen). Reads only as far as it must, Parquet first."""
    missing, seen = list(named), set[str]()
    for unit in sorted(units, key=lambda unit: kind_of(unit.payload["file"]) != "parquet"):
        file = unit.payload["file"]
        rows: Iterator[Mapping[str, Any]] = (row.values for row in corpus_rows(raw, unit) if isinstance(row, Row))
        if missing and kind_of(file) == "parquet":
            rows = iter([column_fields(raw / file, file)])
        while missing and (values := next(rows, None)) is not None:
            if len(seen) < MAX_FIELDS:
                seen.update(field_names(values))
            missing = [name for name in missing if get_field(values, name) is ABSENT]
    return missing, seen


MAX_FIELDS = 500
"""Names of fields that are remembered: where names are data, there is no end of them."""
