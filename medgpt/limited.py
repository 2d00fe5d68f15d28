"""Bounded reading: how much of anything is read, and the readers that hold to it.

Whatever inflates, or has a size that nobody vouches for, comes through here. Nothing is read beyond these bounds:

| what | bound | beyond it |
|---|---|---|
| a file or archive member that is read whole | `FILE_BYTES`, its declared size, `RATIO` | `OverLimit` |
| the members of a sample in a WebDataset tar | `SAMPLE_BYTES` | `OverLimit` |
| a line, a record of a CSV, a text of JSON | `LINE_BYTES`, `VALUES` values | `OverLimit`, or None for a line |
| lines of one record of a CSV | `RECORD_LINES` | `OverLimit` |
| an item of a JSON array (a character takes up to four bytes) | `ITEM_CHARACTERS`, `VALUES` values | `OverLimit` |
| a JSON text of a corpus that is decoded whole | `FILE_BYTES`, eight times `VALUES` values | `OverLimit` |
| a compressed stream (gzip, Zstandard) | `RATIO` past `FILE_BYTES`; it is never held | `Endless` |
| a page of a Parquet file, and the rows that are read at once | `PAGE_BYTES`, `BATCH_BYTES` | `OverLimit` |
| ORC, SQLite, DuckDB, each in a process of its own | 1.5 GB | the process ends, its file is a reject |

So a process that reads holds at most 512 MB more than what it was asked for: two copies of a whole file, or a line and
the objects made of it. JSON is nested no deeper than its parser goes (some 1,000 levels), a number
has `MOST_DIGITS` at most.
"""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import stat
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from medgpt.errors import UserError

if TYPE_CHECKING:
    import pyarrow as pa

FILE_BYTES = 256 << 20
"""The largest picture of the sets at hand is 30 MB; an uncompressed radiograph of 4,000 x 5,000 in 16 bit has 40 MB."""
LINE_BYTES = 64 << 20
"""The longest lines at hand (a conversation with its pictures as base64) have 20 MB."""
RECORD_LINES = 10_000
"""Of a record of a CSV. The longest notes at hand have some 1,000; more is a quote that nothing closes."""
ITEM_CHARACTERS = 16 << 20
MOST_DIGITS = 4300
"""Of a whole number, as in Python (`sys.get_int_max_str_digits`): more take time by the square."""
SAMPLE_BYTES = 512 << 20
VALUES = 1 << 20
"""Cells, or values of JSON, in one row: an object of Python takes 60 to 250 bytes where a text spells it with three."""
RATIO = 200
"""Bytes that a packed byte may become: texts of these sets reach 12, a table of one repeated row 150. Deflate goes up
to 1,032, Zstandard beyond 20,000, and nothing but an attack needs it. Small things may: see `FREE_BYTES`."""
FREE_BYTES = 16 << 20
"""What may inflate at any ratio: a blank slide."""
PAGE_BYTES = 128 << 20
"""Of a page of Parquet, which has at least one cell in full: Arrow holds up to four copies of it. It writes 1 MB."""
BATCH_BYTES = 64 << 20
"""What the rows of a Parquet file that are read at once may come to, unless one row alone has more."""


class OverLimit(UserError):
    """Something has more bytes than are read, or inflates more than anything honest does; the text says how many."""


class Endless(OverLimit):
    """A stream inflates without end: nothing behind this place can be read."""


def open_file(path: Path) -> io.BufferedReader:
    """A regular file, open for reading; what is none (a pipe, a device, a folder) is an `OSError`. Nothing hangs."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a file", str(path))
    return os.fdopen(descriptor, "rb")


@contextlib.contextmanager
def opened(path: Path) -> Iterator[io.BufferedReader]:
    """As `open_file`; an `OSError` of reading names the file, too."""
    with open_file(path) as file:
        try:
            yield file
        except OSError as error:
            error.filename = error.filename or str(path)
            raise


def read_file(path: Path) -> bytes:
    """A regular file, whole: one that is ours, or that a user names. Raises: `OSError`, naming it."""
    with opened(path) as file:
        return file.read()


def check_size(size: int, packed: int | None = None, limit: int | None = None) -> None:
    """Refuse what says that it has more bytes than the limit, or that `packed` bytes become more than `RATIO` times."""
    if (most := max(size, packed or 0)) > (limit or FILE_BYTES):
        raise OverLimit(f"{most:,} bytes, more than the limit of {limit or FILE_BYTES:,}")
    if packed is not None and size > max(FREE_BYTES, RATIO * packed):
        raise OverLimit(f"{packed:,} bytes that inflate to {size:,}, more than {RATIO} times as many")


def read_whole(handle: Any) -> bytes:
    """All that is left of an open file. Raises: `OverLimit` before more than the limit is held."""
    data: bytes = handle.read(FILE_BYTES + 1)
    check_size(len(data))
    return data


def inflate(packed: bytes, size: int) -> bytes:
    """The bytes of a raw deflate stream that says it has `size`.

    Raises: `OverLimit`; `ValueError` where it has other than that; `zlib.error`.
    """
    check_size(size, len(packed))
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    data = stream.decompress(packed, size + 1)
    if len(data) != size or not stream.eof:
        raise ValueError(f"does not inflate to the {size:,} bytes that it declares")
    return data


def lines(handle: BinaryIO) -> Iterator[tuple[bytes | None, int]]:
    """(line, its bytes) down to the end; None for one of more than `LINE_BYTES`, which is never held."""
    while data := handle.readline(LINE_BYTES + 1):
        size = len(data)
        if size <= LINE_BYTES:
            yield data, size
            continue
        while data and not data.endswith(b"\n"):
            data = handle.readline(1 << 20)
            size += len(data)
        yield None, size


def check_values(text: bytes | str, start: int = 0, most: int = 0) -> None:
    """Refuse a text of JSON or a record that may hold more values than `VALUES`, or `most`, by its separators."""
    most = most or VALUES
    if len(text) - start <= most:
        return
    if isinstance(text, str):
        count = sum(text.count(separator, start) for separator in ",[{\t")
    else:
        count = sum(text.count(separator, start) for separator in b",[{\t")
    if count > most:
        raise OverLimit(f"{count:,} commas and brackets, more than the limit of {most:,} values")


def open_stream(path: Path) -> BinaryIO:
    """A file to be read piece by piece, inflated where its name says that it is packed (gzip, bzip2, xz, Zstandard).

    A gzip file may have several members, and can be sought in. Reading raises `OSError` or `EOFError` of one that is
    damaged or cut, `Endless` of one that inflates without end.
    """
    packed, suffix = open_file(path), path.suffix.lower()
    if suffix in (".gz", ".tgz"):
        return io.BufferedReader(_Inflated(packed, gzip.GzipFile(fileobj=packed)), 1 << 20)
    if suffix in (".bz2", ".tbz2"):
        return io.BufferedReader(_Inflated(packed, bz2.BZ2File(packed)), 1 << 20)
    if suffix in (".xz", ".txz"):
        return io.BufferedReader(_Inflated(packed, lzma.LZMAFile(packed)), 1 << 20)
    if suffix == ".zst":
        import pyarrow as pa

        stream: Any = pa.CompressedInputStream(pa.PythonFile(packed, "r"), "zstd")
        return io.BufferedReader(_Inflated(packed, stream), 1 << 20)
    return io.BufferedReader(packed.detach(), 1 << 20)


_PIECE_BYTES = 1 << 16
"""What is lost of a stream before the place where it is cut."""


class _Inflated(io.RawIOBase):
    """A stream that inflates, as a raw Python file that looks at the ratio."""

    def __init__(self, packed: io.BufferedReader, stream: Any) -> None:
        self.packed, self.stream, self.place = packed, stream, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Whether the stream can be read from another place, which takes reading all before it."""
        return bool(self.stream.seekable())

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte of what is inflated."""
        self.place = int(self.stream.seek(offset, whence))
        return self.place

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes."""
        try:
            data = self.stream.read(min(len(buffer), _PIECE_BYTES))
        except (zlib.error, lzma.LZMAError) as error:
            raise OSError(f"damaged: {error}") from None
        buffer[: len(data)] = data
        self.place += len(data)
        if self.place > FILE_BYTES and self.place > RATIO * (packed := self.packed.tell()):
            raise Endless(f"{packed:,} bytes that inflate to {self.place:,}, more than {RATIO} times as many")
        return len(data)

    def close(self) -> None:
        """Close what it reads."""
        self.packed.close()
        super().close()


def read_batch(
    file: "pa.ipc.RecordBatchFileReader", number: int, columns: Sequence[str] | None = None
) -> "pa.RecordBatch":
    """A batch of an Arrow file (all columns, or these), its offsets looked at. Raises: `pa.ArrowInvalid`.

    Altered ones would lead pyarrow out of the file, which is a crash and no error. Looking takes some 1 us a row.
    """
    batch = file.get_batch(number)
    if columns is not None:
        batch = batch.select(columns)
    batch.validate(full=True)
    return batch
