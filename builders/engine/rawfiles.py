"""Reading publishers' files: every failure becomes one `InputError` that names the file, never its content."""

import errno
import hashlib
import io
import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from builders.engine.source import InputError, NotThisSource, Reject, Sample
from medgpt.errors import place


def first_existing(raw: Path, *candidates: str) -> Path | None:
    """The first of `candidates` (paths relative to `raw`, `*` allowed) that exists, in their order."""
    path = next(iter(_found(raw, candidates)), None)
    if path is not None and _finds is not None:
        _finds.add(path)
    return path


_finds: set[Path] | None = None  # while a build is planned


@contextmanager
def recorded_finds() -> Iterator[set[Path]]:
    """While this is open, what `first_existing`, `require` and `require_one` return stands in the set."""
    global _finds
    _finds = set()
    try:
        yield _finds
    finally:
        _finds = None


def _found(raw: Path, candidates: Iterable[str]) -> list[Path]:
    """All files and folders that the candidates name; a pipe or device in a file's place would hang its reader."""
    found = [path for candidate in candidates for path in sorted(raw.glob(candidate))]
    for path in found:
        if not (path.is_file() or path.is_dir()):
            raise NotThisSource(f"{path}: not a file")
    return found


def require(raw: Path, what: str, *candidates: str) -> Path:
    """Like `first_existing`, but a missing file means that the tree is not this source."""
    path = first_existing(raw, *candidates)
    if path is None:
        raise NotThisSource(f"{raw}: no {what} found (looked for {', '.join(candidates)}); is --raw the right folder?")
    return path


def require_one(raw: Path, what: str, *candidates: str) -> Path:
    """The one file that `candidates` match; two would be two copies of the same rows, and no guess is made."""
    found = _found(raw, candidates)
    if len(found) > 1:
        names = ", ".join(relative(path, raw) for path in found)
        raise NotThisSource(f"{raw}: {len(found)} copies of the {what} ({names}); leave one of them in --raw")
    return require(raw, what, *candidates)


def relative(path: Path, raw: Path) -> str:
    """Path as messages and provenance show it: relative to the raw tree, with forward slashes."""
    return path.relative_to(raw).as_posix()


class State(NamedTuple):
    """By what a file is seen to have changed; both are -1 where there is none."""

    size: int
    mtime_ns: int


def state_of(path: Path) -> State:
    """The state of a file or folder now."""
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return State(-1, -1)
    return State(found.st_size, found.st_mtime_ns)


_reads: dict[str, tuple[State, str]] | None = None  # by file, while a unit is built


@contextmanager
def recorded_reads() -> Iterator[dict[str, tuple[State, str]]]:
    """While this is open, every file that `read_bytes` reads stands in the mapping: its state and SHA-256."""
    global _reads
    _reads = {}
    try:
        yield _reads
    finally:
        _reads = None


def open_regular(path: Path, raw: Path, missing: str) -> io.BufferedReader:
    """A file open for reading. What is no file, or may not be read, is an `InputError`; nothing hangs on a pipe."""
    file = relative(path, raw)
    try:
        handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(missing, file) from None
    except IsADirectoryError:
        raise InputError("unreadable_file", file, "not a file") from None
    except OSError as error:
        raise unreadable(error, file) from None
    if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
        handle.close()
        raise InputError("unreadable_file", file, "not a file")
    return handle


def unreadable(error: OSError, file: str) -> InputError:
    """The `InputError` for a file that the system does not let us read; raises `error` if it is the system's own."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error
    return InputError("unreadable_file", file, error.strerror or type(error).__name__)


def read_bytes(path: Path, raw: Path, missing: str = "missing_image") -> bytes:
    """Bytes of a file; a missing, empty or unreadable one is an `InputError`: `missing`, `empty_file`, ..."""
    file = relative(path, raw)
    with open_regular(path, raw, missing) as handle:
        try:
            found = os.fstat(handle.fileno())
            data = handle.read()
        except OSError as error:
            raise unreadable(error, file) from None
    if _reads is not None:
        _reads[file] = State(found.st_size, found.st_mtime_ns), hashlib.sha256(data).hexdigest()
    if not data:
        raise InputError("empty_file", file)
    return data


def decode_utf8(data: bytes, file: str) -> str:
    """Text of a file that must be UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not_utf8", file, f"byte {error.start}") from None


ARCHIVE_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OverflowError)
"""What readers of damaged archives raise."""


@lru_cache(maxsize=8)
def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip kept open for this process: its member list is read once."""
    return zipfile.ZipFile(path)


def read_zip_member(path: Path, member: str, raw: Path, missing: str = "missing_image") -> bytes:
    """Bytes of one zip member, without unpacking the archive."""
    file = f"{relative(path, raw)}!{member}"
    try:
        data = open_zip(path).read(member)
    except KeyError:
        raise InputError(missing, file) from None
    except OSError as error:
        raise unreadable(error, file) from None
    except (*ARCHIVE_DAMAGE, EOFError, RuntimeError) as error:
        # Damaged, cut off, packed by an unknown method, or encrypted (zipfile raises RuntimeError for that).
        raise InputError("bad_archive", file, str(error)) from None
    if not data:
        raise InputError("empty_file", file)
    return data


def list_zip(path: Path, raw: Path) -> list[str]:
    """Names of a zip's files. For `plan`: it leaves no handle open that worker processes would share."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except ARCHIVE_DAMAGE as error:
        raise NotThisSource(f"{relative(path, raw)}: not a readable zip ({error}); fetch it again") from None


def load_json(path: Path, raw: Path, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """A JSON file that the whole source rests on: an unreadable one stops the build with a clear line.

    `pairs_hook` is `json.loads`'s `object_pairs_hook`, for files in which repeated keys must be noticed.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=pairs_hook)
    except (ValueError, RecursionError) as error:
        raise NotThisSource(f"{relative(path, raw)}: not valid JSON ({error}); fetch the file again") from None


def field_of(row: Any, name: str, file: str) -> Any:
    """A field that every row has; JSON's null counts as missing."""
    if not isinstance(row, dict):
        raise InputError("bad_row", file, "not an object")
    if row.get(name) is None:
        raise InputError("missing_field", file, name)
    return row[name]


def text_of(row: Any, name: str, file: str) -> str:
    """A text field that every row has."""
    return checked_text(field_of(row, name, file), name, file)


def checked_text(value: Any, name: str, file: str) -> str:
    """`value` if it is text that UTF-8 can hold: JSON may spell half a surrogate pair, which nothing can write."""
    if not isinstance(value, str):
        raise InputError("bad_field", file, f"{name} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError("not_utf8", file, name) from None
    return value


def number_of(row: Any, name: str, file: str) -> int:
    """A whole number, zero or more, that identifies a row."""
    value = field_of(row, name, file)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError("bad_id", file, f"{name} is not a whole number")
    return value


def check_filled(file: str, **texts: str) -> None:
    """Reject a row by rule for the first of these that is blank: `empty_question` for `question=`, and so on."""
    for name, text in texts.items():
        if not text.strip():
            raise InputError(f"empty_{name}", file)


ODD_VALUES = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""What code meets in a row whose values are of types or shapes that no publisher ships."""


def outcome(make: Callable[[], Sample], file: str, row: str) -> Sample | Reject:
    """What `make` returns, or the `Reject` for the `InputError` it raises; a row it cannot digest is a `bad_row`."""
    try:
        return make()
    except InputError as error:
        return Reject(file, row, error.reason, error.detail)
    except ODD_VALUES as error:
        return Reject(file, row, "bad_row", f"{type(error).__name__} {place(error)}")
