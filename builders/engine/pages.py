"""Pages of Parquet files: how many bytes they say they inflate to, before Arrow gives them room.

A page has a small header in Thrift's compact protocol (parquet-format's `parquet.thrift`, `PageHeader`); Arrow reads a
page at a time and believes it, and gives every row a copy of its value though the file holds it once.
"""

import os
from pathlib import Path
from typing import Any

from medgpt.limited import BATCH_BYTES, PAGE_BYTES, OverLimit

_HEADER_BYTES = 4096, 16 << 20
"""How much is read for a header: usually, and at most, as in Arrow."""


def batch_rows(path: Path, metadata: Any, group: int, columns: list[str], most: int) -> int:
    """How many rows of a row group may be read at once, `most` or fewer.

    Raises: `OverLimit` where a page inflates to more than is read; `ValueError` or `IndexError` where it is damaged.
    """
    about = metadata.row_group(group)
    rows, size = max(1, about.num_rows), 0.0
    with path.open("rb") as file:
        for number in range(about.num_columns):
            chunk = about.column(number)
            name = chunk.path_in_schema
            if not columns or any(name == column or name.startswith(f"{column}.") for column in columns):
                values = max(1.0, chunk.num_values / rows)
                # A row may have all of a dictionary, which has 1 MB where Arrow wrote it.
                size += _largest(file.fileno(), chunk) * values
    return int(max(1, min(most, BATCH_BYTES / max(1.0, size))))


def _largest(file: int, chunk: Any) -> float:
    """What a value of a column chunk may have: bytes a value of the page that has most, or of all the dictionary."""
    at = chunk.data_page_offset
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        at = min(at, chunk.dictionary_page_offset)
    end, largest = at + chunk.total_compressed_size, 0.0
    while at < end:
        try:
            header, length = _struct(os.pread(file, _HEADER_BYTES[0], at), 0)
        except IndexError:
            header, length = _struct(os.pread(file, _HEADER_BYTES[1], at), 0)
        size, packed = header[2], header[3]
        if size < 0 or packed < 0:
            raise ValueError("a page of negative size")
        if size > PAGE_BYTES:
            raise OverLimit(f"a page that inflates to {size:,} bytes, more than the limit of {PAGE_BYTES:,}")
        values = header.get(5) or header.get(8)  # a page of data, of the first or the second version
        if values:
            largest = max(largest, size / max(1, values[1]))
        elif 7 in header:
            largest = max(largest, size)
        at += length + packed
    return largest


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """(fields by number, place behind) of a struct: whole numbers and structs; the rest is passed over."""
    fields, number = dict[int, Any](), 0
    while kind := data[at]:
        at += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, at = _integer(data, at)
        kind &= 15
        if kind in (4, 5, 6):
            fields[number], at = _integer(data, at)
        elif kind == 12:
            fields[number], at = _struct(data, at)
        elif kind == 8:
            length, at = _varint(data, at)
            at += length
        elif kind == 3 or kind == 7:
            at += 1 if kind == 3 else 8
        elif kind not in (1, 2):  # true and false have no bytes
            raise ValueError("not the header of a page")
    return fields, at + 1


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while data[at] & 128:
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
    return value | data[at] << shift, at + 1


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at
