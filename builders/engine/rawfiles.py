"""Reading publishers' files: every failure becomes one `InputError` that names the file, never its content."""

import errno
import hashlib
import io
import json
import os
import re
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from builders.engine.source import InputError, NotThisSource, Reject, Sample
from medgpt.errors import place
from medgpt.formats import PICTURE_SUFFIXES
from medgpt.limited import OverLimit, check_size, check_values, lines, open_file, read_whole


def first_existing(raw: Path, *candidates: str) -> Path | None:
    """The first of `candidates` (paths relative to `raw`, `*` allowed) that exists, in their order.

    Where none does, files that are called almost so are gaps.
    """
    path = next(iter(_found(raw, candidates)), None)
    for near in _nearly(raw, candidates) if path is None else ():
        note_gap(near, "file that is called almost as one that is read: rename or unpack it")
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
        near = there_is(_nearly(raw, candidates))
        looked = f"looked for {', '.join(candidates)}" + f"; {near}: unpack or rename it" * bool(near)
        raise NotThisSource(f"{raw}: no {what} found ({looked}); is --raw the right folder?")
    return path


def _nearly(raw: Path, candidates: Iterable[str]) -> Iterator[str]:
    """Files that are called as a candidate but for case, a packed ending or a browser's `(1)`."""
    for folder, _, name in (candidate.rpartition("/") for candidate in candidates):
        stem, dot, suffix = name.casefold().rpartition(".")
        for beside in sorted(raw.glob(folder)) if folder else [raw]:
            for path in sorted(beside.iterdir()) if beside.is_dir() else ():
                called = path.name.casefold()
                if any(fnmatch(called, form) for form in (name.casefold(), f"{stem} (?){dot}{suffix}")) or (
                    called.endswith((".gz", ".bz2", ".xz", ".zst", ".zip")) and fnmatch(called, f"{name.casefold()}.*")
                ):
                    yield relative(path, raw)


def require_one(raw: Path, what: str, *candidates: str) -> Path:
    """The one file that `candidates` match; two would be two copies of the same rows, and no guess is made."""
    found = _found(raw, candidates)
    if len(found) > 1:
        names = ", ".join(relative(path, raw) for path in found)
        raise NotThisSource(f"{raw}: {len(found)} copies of the {what} ({names}); leave one of them in --raw")
    return require(raw, what, *candidates)


_PART = re.compile(r"(.+)-([0-9]{5})-of-([0-9]{5})\b.*")


def check_parts(paths: list[Path], raw: Path) -> list[Path]:
    """The parts of a split, unchanged; what their names (`train-00000-of-00002.parquet`) do not foresee is a gap.

    Parts are missing, or there are more: a copy of one, or those of two revisions.
    """
    groups: dict[tuple[Path, str], list[tuple[int, int]]] = {}
    for path in paths:
        if match := _PART.fullmatch(path.name):
            groups.setdefault((path.parent, match[1]), []).append((int(match[2]), int(match[3])))
    for (folder, name), parts in groups.items():
        file, most = relative(folder / name, raw), max(of for _, of in parts)
        if missing := set(range(most)) - {number for number, _ in parts}:
            note_gap(file, f"of {most} parts by their names that are not here", f"part {min(missing)}", len(missing))
        if more := len(parts) - most + len(missing):
            note_gap(file, "parts more than their names foresee (copies?)", count=more)
    return paths


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


class Recorded(NamedTuple):
    """What was read and named while a unit was built."""

    reads: dict[str, tuple[State, str]]
    """State and SHA-256 of every file that `read_bytes` read."""
    places: set[str]
    """Folders and zips in which an `archives.PictureStore` looked."""
    pictures: set[int]
    """Marks of the pictures there that rows named."""


class Gap(NamedTuple):
    """Something of a file that was not read, and that no count of rows shows."""

    file: str
    what: str
    """Follows the count: "lines that look like rows stand within records"."""
    where: str
    """A row or a byte, or empty. Gaps that agree down to here are one, however often the place is read."""
    amount: int


_record: Recorded | None = None  # while a unit is built
_gaps: set[Gap] | None = None  # while a build is planned, or a unit is built


@contextmanager
def recorded_gaps() -> Iterator[set[Gap]]:
    """While this is open, what `note_gap` is told stands in the set."""
    global _gaps
    _gaps = set()
    try:
        yield _gaps
    finally:
        _gaps = None


def note_gap(file: str, what: str, where: str = "", count: int = 1) -> None:
    """Record that something was not read: the build names it and ends with exit code 4."""
    if _gaps is not None:
        _gaps.add(Gap(file, what, where, count))


def summed_gaps(gaps: Iterable[Gap]) -> list[dict[str, Any]]:
    """What `build.json` says of gaps: {file, what, count, first}, by file; `first` is where the first of them is."""
    summed: dict[tuple[str, str], dict[str, Any]] = {}
    for gap in sorted(set(gaps), key=lambda gap: (gap.file, gap.what, len(gap.where), gap.where)):
        blank = {"file": shown(gap.file), "what": gap.what, "count": 0, "first": gap.where}
        summed.setdefault((gap.file, gap.what), blank)["count"] += gap.amount
    return list(summed.values())


def shown(file: str) -> str:
    """A path as text that UTF-8 can hold: bytes of a name that is no UTF-8 are spelt out."""
    return file.encode(errors="surrogateescape").decode(errors="backslashreplace")


@contextmanager
def recorded() -> Iterator[Recorded]:
    """While this is open, what is read and named stands in the record."""
    global _record
    _record = Recorded({}, set(), set())
    try:
        yield _record
    finally:
        _record = None


def note_places(places: Iterable[str]) -> None:
    """Record where pictures are looked for."""
    if _record is not None:
        _record.places.update(places)


def note_picture(mark: int) -> None:
    """Record that a row names a picture."""
    if _record is not None:
        _record.pictures.add(mark)


def open_regular(path: Path, raw: Path, missing: str) -> io.BufferedReader:
    """A file open for reading. What is no file, or may not be read, is an `InputError`; nothing hangs on a pipe."""
    file = relative(path, raw)
    try:
        return open_file(path)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(missing, file) from None
    except OSError as error:
        raise unreadable(error, file) from None


def unreadable(error: OSError, file: str) -> InputError:
    """The `InputError` for a file that the system does not let us read; raises `error` if it is the system's own."""
    if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        raise error
    return InputError("unreadable_file", file, error.strerror or type(error).__name__)


def reason_for(error: BaseException, damage: str) -> str:
    """`damage` for bad bytes; for what the system did not read, as `unreadable` says, since a later run tries again.

    An `OSError` of a library that found bad bytes has no number.
    """
    return unreadable(error, "").reason if isinstance(error, OSError) and error.errno is not None else damage


def read_bytes(path: Path, raw: Path, missing: str = "missing_image", otherwise: bool = True) -> bytes:
    """Bytes of a file; a missing, empty, unreadable or huge one is an `InputError`: `missing`, `empty_file`, ...

    `otherwise`: where there is none of that name, but exactly one whose name differs in case or in the extension of a
    picture, that one is read; where there are several, the error names them.
    """
    try:
        handle = open_regular(path, raw, missing)
    except InputError as error:
        near = _spelt_otherwise(path, raw) if otherwise and error.reason == missing else []
        if len(near) != 1:
            raise InputError(error.reason, error.file, there_is(near) or error.detail) from None
        [path] = near
        handle = open_regular(path, raw, missing)
    file = relative(path, raw)
    with handle:
        try:
            found = os.fstat(handle.fileno())
            check_size(found.st_size)
            data = read_whole(handle)
        except OSError as error:
            raise unreadable(error, file) from None
        except OverLimit as error:
            raise InputError("too_large", file, str(error)) from None
    if _record is not None:
        _record.reads[file] = State(found.st_size, found.st_mtime_ns), hashlib.sha256(data).hexdigest()
    if not data:
        raise InputError("empty_file", file)
    return data


def near_name(name: str) -> str:
    """What file names have in common that differ only in case, or in the extension of a picture.

    Or in how they are written: `%20` as in an address, an accent as a sign of its own as macOS has it.
    """
    name = unicodedata.normalize("NFC", unquote(name))
    stem, _, suffix = name.rpartition(".")
    return (stem if suffix.lower() in PICTURE_SUFFIXES else name).casefold()


def there_is(names: Iterable[Path | str]) -> str:
    """What a message says of names that come near a missing one."""
    found = sorted(name.name if isinstance(name, Path) else name for name in names)
    return f"there is {', '.join(found[:3])}{', ...' if found[3:] else ''}" if found else ""


def _spelt_otherwise(path: Path, raw: Path) -> list[Path]:
    """Files whose names come near one that is not there. Folders are listed only now, and once a process."""
    found, parts = [raw], path.relative_to(raw).parts
    for number, part in enumerate(parts, 1):
        below: list[Path] = []
        for folder in found:
            if number < len(parts) and (folder / part).is_dir():
                below.append(folder / part)
            else:
                below += [folder / name for name in _listing(folder, state_of(folder)).get(near_name(part), ())]
        found = [one for one in below if one.is_dir() == (number < len(parts))]
    return found


@lru_cache(maxsize=512)
def _listing(folder: Path, state: State) -> dict[str, list[str]]:
    """Names in a folder by `near_name`; none where it cannot be listed."""
    names: dict[str, list[str]] = {}
    try:
        for path in sorted(folder.iterdir()):
            names.setdefault(near_name(path.name), []).append(path.name)
    except OSError:
        return {}
    return names


def decode_utf8(data: bytes, file: str) -> str:
    """Text of a file that must be UTF-8; zero bytes are a hole that a download left."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not_utf8", file, f"byte {error.start}") from None
    if "\0" in text:
        raise InputError("not_utf8", file, f"a zero byte at character {text.index(chr(0))}")
    return text


ARCHIVE_DAMAGE = (zipfile.BadZipFile, zlib.error, struct.error, ValueError, OverflowError, NotImplementedError)
"""What readers of damaged archives raise."""


def load_json(path: Path, raw: Path, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """A JSON file that the whole source rests on: an unreadable one stops the build with a clear line.

    `pairs_hook` is `json.loads`'s `object_pairs_hook`, for files in which repeated keys must be noticed.
    """
    try:
        with open_file(path) as handle:
            data = read_whole(handle)
        check_values(data)
        return json.loads(data.decode("utf-8-sig"), object_pairs_hook=pairs_hook)
    except OverLimit as error:
        raise NotThisSource(f"{relative(path, raw)}: {error}; is it another file of that name?") from None
    except (ValueError, RecursionError) as error:
        raise NotThisSource(f"{relative(path, raw)}: not valid JSON ({error}); fetch the file again") from None


def text_lines(path: Path) -> Iterator[str]:
    """Lines of a text that the whole source rests on, bytes that are no UTF-8 replaced. Raises: `NotThisSource`."""
    with open_file(path) as handle:
        for number, (line, _) in enumerate(lines(handle), 1):
            if line is None:
                raise NotThisSource(f"{path.name}: line {number} is longer than anything that is read; fetch it again")
            yield line.decode("utf-8-sig" if number == 1 else "utf-8", errors="replace")


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
    except OverLimit as error:
        return Reject(file, row, "too_large", str(error))
    except ODD_VALUES as error:
        return Reject(file, row, "bad_row", f"{type(error).__name__} {place(error)}")
