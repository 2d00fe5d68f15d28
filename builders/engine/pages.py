"""What Parquet and Arrow files say of themselves, looked at before Arrow believes it.

Footers and headers of pages are structs in Thrift's compact protocol (parquet-format's `parquet.thrift`). Arrow ends
the process where it is asked about a column of a damaged footer, nests as deep as the schema says, and gives a page the
room that it asks for and every row a copy of its value though the file holds it once. Batches of Arrow files have
headers in FlatBuffers (Arrow's `Message.fbs`), and may have any number of rows, or inflate to any size, in few bytes.
"""

import struct
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple

from medgpt.limited import BATCH_BYTES, FREE_BYTES, PAGE_BYTES, RATIO, VALUES, OverLimit

_HEADER_BYTES = 4096, 16 << 20
"""How much is read for the header of a page: usually, and at most, as in Arrow."""
_FOOTER_BYTES = 64 << 20
_STRUCTS = 1 << 18
"""Of a footer, seven a column of a row group where Arrow wrote it, which takes up to 1 KB for one when it reads."""
_DEEPEST = 32
"""Groups of a schema within each other, and structs and lists of Thrift: a footer has nine."""
_MAGIC = b"PAR1"
_CODECS = ("none", "snappy", "gzip", "lzo", "brotli", "lz4", "zstd", "lz4")
"""By their numbers (`CompressionCodec`): the first LZ4 is Hadoop's."""


class Chunk(NamedTuple):
    """A column of a row group, as the footer describes it."""

    name: str
    """Its path in the schema, with dots."""
    values: int
    """Its values, nulls and empty lists among them."""
    codec: str
    """How its pages are packed, as Arrow calls it."""
    start: int
    """The first byte of its first page."""
    bytes: int
    """Of all its pages, as they are in the file."""


def read_footer(file: BinaryIO) -> list[list[Chunk]]:
    """The columns of each row group of a Parquet file. Raises: `ValueError` where it is damaged, `OverLimit`."""
    size = file.seek(0, 2)
    file.seek(max(0, size - 8))
    length, magic = int.from_bytes(file.read(4), "little"), file.read(4)
    if magic != _MAGIC or length > size - 12:
        raise ValueError("no footer: cut off, encrypted, or no Parquet file")
    if length > _FOOTER_BYTES:
        raise OverLimit(f"a footer of {length:,} bytes, more than the limit of {_FOOTER_BYTES:,}")
    file.seek(size - 8 - length)
    groups = _groups(file.read(length))
    if sum(chunk.bytes for group in groups for chunk in group) > size:
        raise ValueError("columns of more bytes than the file")
    return groups


@lru_cache(maxsize=1)  # the units of a file read it one after the other
def _groups(footer: bytes) -> list[list[Chunk]]:
    try:
        about = _Thrift(footer, _STRUCTS).struct()
        leaves = _leaves(about[2])
        groups = [[_chunk(column[3]) for column in group[1]] for group in about[4]]
        least = min((group[3] for group in about[4]), default=0)
    except (IndexError, KeyError, TypeError, AttributeError) as error:  # a part is missing, or of another kind
        raise ValueError("a damaged footer, or encrypted columns") from error
    if any(len(group) != leaves for group in groups):
        raise ValueError("a row group of other columns than its schema")
    if any(min(least, chunk.values, chunk.start, chunk.bytes) < 0 for group in groups for chunk in group):
        raise ValueError("a row group of fewer than no rows, bytes or values")
    return groups


def _leaves(schema: list[dict[int, Any]]) -> int:
    """How many columns a schema has: what has no children. Raises: `OverLimit`."""
    open_groups, leaves = list[int](), 0
    for element in schema:
        while open_groups and not open_groups[-1]:
            open_groups.pop()
        if open_groups:
            open_groups[-1] -= 1
        if children := element.get(5, 0):
            open_groups.append(children)
        else:
            leaves += 1
        if len(open_groups) > _DEEPEST:
            raise OverLimit(f"a schema of more than {_DEEPEST} groups within each other")
    return leaves


def _chunk(about: dict[int, Any]) -> Chunk:
    start = min(about[9], about.get(11) or about[9])  # a dictionary stands before its data
    return Chunk(b".".join(about[3]).decode("utf-8", "replace"), about[5], _CODECS[about[4]], start, about[7])


def batch_rows(file: BinaryIO, chunks: list[Chunk], rows: int, columns: Sequence[str], most: int) -> int:
    """How many of the rows of a row group may be read at once, `most` or fewer.

    Raises: `OverLimit` where a page inflates to more than is read; `ValueError` or `IndexError` where it is damaged.
    """
    size = 0.0
    for chunk in chunks:
        if not columns or any(chunk.name == name or chunk.name.startswith(f"{name}.") for name in columns):
            if chunk.values - rows > min(VALUES * rows, max(FREE_BYTES, RATIO * chunk.bytes)):
                raise OverLimit(f"{chunk.values:,} values in {rows:,} rows of {chunk.bytes:,} bytes")
            # A row may have all of a dictionary, which has 1 MB where Arrow wrote it; a number takes eight bytes.
            size += max(8, _largest(file, chunk)) * max(1.0, chunk.values / max(1, rows))
    return int(max(1, min(most, BATCH_BYTES / max(1.0, size))))


def _largest(file: BinaryIO, chunk: Chunk) -> float:
    """What a value of a column chunk may have: bytes a value of the page that has most, or of all the dictionary."""
    at, end, largest = chunk.start, chunk.start + chunk.bytes, 0.0
    while at < end:
        for length in _HEADER_BYTES:
            file.seek(at)
            page = _Thrift(file.read(length), 100)
            try:
                header = page.struct()
                break
            except IndexError:
                if length == _HEADER_BYTES[1]:
                    raise
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
        at += page.at + packed
    return largest


def check_batches(source: Any) -> int:
    """How many batches of an Arrow file or stream stand one behind the other, up to where it is damaged.

    Raises: `OverLimit` where they have more rows, or inflate more, than it can hold.
    """
    import pyarrow as pa

    most, rows, batches = RATIO * source.size(), 0, 0
    source.seek(8 if source.read(6) == b"ARROW1" else 0)  # what stands in a file is a stream
    try:
        for message in pa.ipc.MessageReader.open_stream(source):
            count, values, size = _said(message.metadata.to_pybytes(), message.body)
            rows, batches = rows + count, batches + (message.type == "record batch")
            if rows > most or values > max(FREE_BYTES, most):
                raise OverLimit(f"{max(rows, values):,} rows or values, which it cannot hold")
            if size > max(FREE_BYTES, RATIO * message.body.size):
                raise OverLimit(f"a batch of {message.body.size:,} bytes that inflates to {size:,}")
    except (pa.ArrowException, OSError, struct.error, IndexError):
        pass  # Arrow will say what it is
    source.seek(0)
    return batches


def _said(header: bytes, body: Any) -> tuple[int, int, int]:
    """(rows, values of the longest column, bytes of packed buffers once inflated) that a message says it has."""

    def number(kind: str, at: int) -> int:
        return int(struct.unpack_from(f"<{kind}", header, at)[0])

    def field(table: int, at: int) -> int:
        """The place of a field of a table, 0 where it is left out."""
        fields = table - number("i", table)
        place = number("H", fields + 4 + 2 * at) if 4 + 2 * at < number("H", fields) else 0
        return place and table + place

    def behind(place: int) -> int:
        return place + number("I", place)

    table = behind(0)
    kind, batch = header[field(table, 1)], behind(field(table, 2))
    if kind == 2:  # a dictionary, which has a batch
        batch = behind(field(batch, 1))
    rows = field(batch, 0)
    if kind not in (2, 3) or not rows:
        return 0, 0, 0
    nodes = behind(field(batch, 1))
    values = max((number("q", nodes + 4 + 16 * at) for at in range(number("I", nodes))), default=0)
    size, buffers = 0, behind(field(batch, 2))
    for at in range(buffers + 4, buffers + 4 + 16 * number("I", buffers), 16):
        start, length = number("q", at), number("q", at + 8)
        if field(batch, 3) and length >= 8:  # packed: each begins with its size, or with -1 where it is not
            size += max(0, int.from_bytes(body[start : start + 8].to_pybytes(), "little", signed=True))
    return number("q", rows), values, size


class _Thrift:
    """Thrift's compact protocol: structs as fields by number, with the structs and texts in lists of them.

    Other lists are passed over. Raises: `IndexError` behind the last byte, `ValueError`, `OverLimit`.
    """

    def __init__(self, data: bytes, structs: int) -> None:
        self.data, self.at, self.left = data, 0, structs

    def struct(self, depth: int = 0) -> dict[int, Any]:
        """The fields of a struct that begins here."""
        fields, number = dict[int, Any](), 0
        self.left -= 1
        if depth > _DEEPEST or self.left < 0:
            raise OverLimit("a footer or page header of more structs, or deeper ones, than are read")
        while kind := self._byte():
            number = number + (kind >> 4) if kind >> 4 else self._integer()
            if number in fields or not 0 < number < 1 << 15:
                raise ValueError("a field out of its place")
            # True and false have no byte of their own.
            fields[number] = kind if kind & 15 < 3 else self._value(kind & 15, depth + 1)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (4, 5, 6):
            return self._integer()
        if kind == 8:
            return self._pass(self._varint())
        if kind == 12:
            return self.struct(depth)
        if kind in (9, 10) and depth <= _DEEPEST:
            head = self._byte()
            count = head >> 4 if head >> 4 < 15 else self._varint()
            self._pass(0 if count <= len(self.data) - self.at else count)  # none has less than a byte
            items = (self._value(head & 15, depth + 1) for _ in range(count))
            return list(items) if head & 15 in (8, 12) else deque(items, 0)
        if kind in (1, 2, 3, 7):
            return self._pass(8 if kind == 7 else 1)
        raise ValueError("a field of a kind that Parquet has not")

    def _pass(self, count: int) -> bytes:
        data = self.data[self.at : self.at + count]
        self.at += count
        if len(data) < count:
            raise IndexError
        return data

    def _byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")
        return value | byte << shift

    def _integer(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)
