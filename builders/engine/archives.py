"""Pictures and records inside archives, read in place: zip members by name, tars as streams.

Nothing is unpacked to disk. Links and devices are never read, nor members of zips or of tars of pictures whose names
are absolute or climb with `..`.
"""

from __future__ import annotations

import io
import struct
import tarfile
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from tarfile import HeaderError, ReadError
from typing import IO, Any, BinaryIO, NamedTuple, NoReturn, TypeAlias

from builders.engine.rawfiles import (
    ARCHIVE_DAMAGE,
    near_name,
    note_gap,
    note_picture,
    note_places,
    open_regular,
    read_bytes,
    reason_for,
    relative,
    there_is,
    unreadable,
)
from builders.engine.source import InputError, NotThisSource, demand
from medgpt.errors import one_line
from medgpt.formats import PICTURE_SUFFIXES
from medgpt.limited import FILE_BYTES, SAMPLE_BYTES, OverLimit, check_size, inflate, open_file, open_stream

_LOCAL_HEADER = struct.Struct("<26sHH")
"""Of a zip member: ..., length of the name, length of the extra field (PKWARE's APPNOTE, 4.3.7)."""
_PACKED = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.zst", ".7z", ".rar")


Content: TypeAlias = bytes | InputError
"""Bytes of an archive member, or why there are none."""


def stored(content: Content) -> bytes:
    """The bytes of an archive member. Raises: `InputError` where there are none."""
    if isinstance(content, InputError):
        raise content
    return content


class _Found(NamedTuple):
    """A file that may be the one that is looked for."""

    full: str
    """Its name in its folder or archive."""
    file: str
    """Where it is, for messages."""
    mark: int
    """Tells it from all others of the places."""
    read: Callable[[], bytes]


class PictureStore:
    """Finds pictures by name in folders and zips under a raw tree, whatever prefix they were packed with.

    A name is looked up as given (`images/a/1.jpg`, also behind further leading folders), then by its last part alone if
    that is unique in the store: so archives that were flattened with `unzip -j`, or packed with another leading folder,
    are found as well. Then the same again for names that differ in case or in the extension of a picture. With `flat`
    false the last part alone is never enough: for sets whose folders repeat names like `1.png`. Of equal names the
    first counts. The index holds 37 bytes a zip member: some sets have millions. Zips within zips are looked into.
    """

    def __init__(self, raw: Path, places: Sequence[str], flat: bool = True) -> None:
        self.raw, self.flat = raw, flat
        self.places = tuple(
            relative(path, raw)
            for place in places
            for path in ([raw / place] if (raw / place).exists() else sorted(raw.glob(place)))
        )
        note_places(self.places)

    def reader(self, name: str) -> tuple[str, Callable[[], bytes]]:
        """(where it is, function that reads it); a picture found nowhere reads as `missing_image`."""
        clean = PurePosixPath(name.lstrip("/")).as_posix()
        found, others = _choose(clean, list(_candidates(self.raw, self.places, clean)), self.flat)
        if found is None:
            return clean, partial(_missing, "missing_image", clean, _hint(self.raw, self.places, others))
        note_picture(found.mark)
        return found.file, found.read


def read_zip_member(path: Path, member: str, raw: Path, missing: str = "missing_image") -> bytes:
    """Bytes of one zip member, found like a picture of a `PictureStore` that is not flat."""
    places = (relative(path, raw),)
    found, others = _choose(member, list(_candidates(raw, places, member)), flat=False)
    if found is None:
        _missing(missing, f"{places[0]}!{member}", _hint(raw, places, others))
    return found.read()


def pictures_without_row(raw: Path, places: Iterable[str], marks: set[int]) -> list[str]:
    """Pictures in the places that no row named, by where they are. Raises: `NotThisSource`."""
    names = []
    for place in sorted(places):
        if place.endswith(".zip"):
            listed = [
                (f"{archive.file}!{info.filename}", f"{archive.file}!{archive.start + info.header_offset}")
                for archive, infos in zip_tree(raw, place)[0]
                for info in infos
            ]
        else:
            listed = [(file, file) for files in _folder_index(raw, place).values() for file in files]
        for file, key in listed:
            _, _, suffix = file.rpartition(".")
            if suffix.lower() in PICTURE_SUFFIXES and _digest(key) not in marks and "/._" not in file:
                names.append(file)
    return sorted(names)


def list_zip(path: Path, raw: Path) -> list[str]:
    """Names of the files of a zip and of those within it, as `read_zip_member` finds them. Raises: `NotThisSource`."""
    return [info.filename for _, infos in zip_tree(raw, relative(path, raw))[0] for info in infos]


def _choose(clean: str, found: list[_Found], flat: bool) -> tuple[_Found | None, list[_Found]]:
    """(the file that a name means, those that come near it where none does)."""
    last, near = clean.rpartition("/")[2], near_name(clean)
    for one in found:
        if one.full == clean or one.full.endswith(f"/{clean}"):
            return one, []
    same = [one for one in found if one.full.rpartition("/")[2] == last]
    if flat and len(same) == 1:
        return same[0], []
    like = [one for one in found if near_name(one.full) == near or near_name(one.full).endswith(f"/{near}")]
    if len(like) == 1:
        return like[0], []
    return (found[0], []) if flat and len(found) == 1 else (None, like or found)


def _missing(reason: str, name: str, hint: str) -> NoReturn:
    raise InputError(reason, name, hint)


def _hint(raw: Path, places: tuple[str, ...], others: list[_Found]) -> str:
    """What may be the reason that a file is not found."""
    if others:
        return there_is(one.full for one in others)
    folders = (file for place in places if not place.endswith(".zip") for file in _packed(raw, place))
    unread = (name for name, _ in _zip_index(raw, _zips(places)).unread)
    inner = next(folders, next(unread, None))
    return f"{inner} is an archive among the pictures, and is not looked into: unpack it" if inner else ""


def _zips(places: Iterable[str]) -> tuple[str, ...]:
    return tuple(place for place in places if place.endswith(".zip"))


def _candidates(raw: Path, places: tuple[str, ...], name: str) -> Iterator[_Found]:
    """All files whose last part comes near that of a name, in the order of the places, zips last."""
    near = near_name(name.rpartition("/")[2])
    for folder in places:
        if not folder.endswith(".zip"):
            for file in _folder_index(raw, folder).get(near, ()):
                yield _Found(file, file, _digest(file), partial(read_bytes, raw / file, raw, otherwise=False))
    index = _zip_index(raw, _zips(places))
    names = index.members["name"]
    first, end = (int(names.searchsorted(_digest(near), side)) for side in ("left", "right"))
    for row in index.members[first:end].tolist():
        member = _Member(*row)
        archive = index.archives[member.zip]
        full = _local_name(raw, archive, member.offset)
        if near_name(full.rpartition("/")[2]) == near:
            file = f"{archive.file}!{full}"
            read = partial(_read_member, raw, archive, member, file)
            yield _Found(full, file, _digest(f"{archive.file}!{member.offset}"), read)


@lru_cache(maxsize=8)
def _folder_index(raw: Path, folder: str) -> dict[str, list[str]]:
    """Files below a folder by `near_name` of the last part of their name; built once a process.

    What has a file's name and is none (a pipe, a folder called 1.jpg) is among them: reading it says what it is.
    """
    files: dict[str, list[str]] = {}
    for path in sorted(p for p in (raw / folder).rglob("*") if p.suffix or p.is_file()):
        files.setdefault(near_name(path.name), []).append(relative(path, raw))
    return files


@lru_cache(maxsize=8)
def _packed(raw: Path, folder: str) -> list[str]:
    """Archives among the files below a folder."""
    files = (file for found in _folder_index(raw, folder).values() for file in found)
    return [file for file in files if file.lower().endswith(_PACKED)]


class _Member(NamedTuple):
    name: int
    """First 8 bytes of a digest of `near_name` of the last part of the member's name."""
    zip: int
    offset: int
    packed: int
    size: int
    crc: int
    method: int


_ENCRYPTED, _OVERLAPPING = 99, 98
"""Stand for methods that cannot be read."""


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest())


class _Archive(NamedTuple):
    """A zip of the raw tree, or one within it."""

    file: str
    """`images.zip`, or `images.zip!part/1.zip`."""
    start: int = 0
    """Its first byte in what holds it: places in it are counted from there."""
    packed: tuple[_Member, ...] = ()
    """Members that must be inflated, one within the other, before it can be read; a stored zip is read where it is."""

    def open(self, raw: Path) -> BinaryIO:
        """What holds it, open for reading. Raises: `InputError`."""
        path = raw / self.file.partition("!")[0]
        if not self.packed:
            return open_regular(path, raw, "bad_archive")
        if (data := _held.pop((path, self.packed), None)) is None:
            holder = self._replace(packed=self.packed[:-1])
            data = _read_member(raw, holder, self.packed[-1], self.file)
        _held[path, self.packed] = data
        while sum(map(len, _held.values())) > FILE_BYTES and len(_held) > 1:
            _held.popitem(last=False)
        return io.BytesIO(data)


_held: OrderedDict[tuple[Path, tuple[_Member, ...]], bytes] = OrderedDict()
DEEPEST_ZIP = 3
"""Zips within zips that are looked into; an archive below is not."""


class _ZipIndex(NamedTuple):
    members: Any
    """All of `_Member`'s as a NumPy record array sorted by name."""
    archives: list[_Archive]
    """To which `_Member.zip` points."""
    unread: list[tuple[str, str]]
    """Archives within that cannot be looked into, and why."""


def zip_tree(raw: Path, name: str) -> tuple[list[tuple[_Archive, list[zipfile.ZipInfo]]], list[tuple[str, str]]]:
    """(a zip and the zips within it, each with its files; archives within that are not read, with the reasons).

    A zip that is stored within another is read where it is; one that is packed is inflated, up to `FILE_BYTES`. Members
    whose names lead out of the archive are left out. Raises: `NotThisSource` where the zip itself cannot be read.
    """
    found, unread = list[tuple[_Archive, list[zipfile.ZipInfo]]](), list[tuple[str, str]]()

    def look(archive: _Archive, size: int, depth: int) -> None:
        with archive.open(raw) as handle, zipfile.ZipFile(_Part(handle, archive.start, size)) as opened:
            infos = [info for info in opened.infolist() if not info.is_dir() and safe_member(info.filename)]
        within = [at for at, info in enumerate(infos) if info.filename.lower().endswith(_PACKED)]
        files = [info for info in infos if not info.filename.lower().endswith(_PACKED)] if within else infos
        found.append((archive, files))
        members = _as_members(archive, infos, 0)[within].tolist() if within else ()
        for at, row in zip(within, members, strict=True):
            inner, member, before = f"{archive.file}!{infos[at].filename}", _Member(*row), len(found)
            try:
                demand(inner.lower().endswith(".zip"), "bad_archive", inner, "not a zip")
                demand(depth < DEEPEST_ZIP, "bad_archive", inner, "too many zips in one another")
                if member.method == zipfile.ZIP_STORED:
                    start = _content_start(raw, archive, member.offset)
                    look(_Archive(inner, start, archive.packed), infos[at].file_size, depth + 1)
                else:
                    look(_Archive(inner, 0, (*archive.packed, member)), infos[at].file_size, depth + 1)
            except (*ARCHIVE_DAMAGE, InputError, OSError) as error:
                del found[before:]
                unread.append((inner, error.detail if isinstance(error, InputError) else one_line(error)))

    try:
        look(_Archive(name), (raw / name).stat().st_size, 0)
    except (*ARCHIVE_DAMAGE, OSError, InputError) as error:
        raise NotThisSource(f"{name}: not a readable zip ({error}); fetch it again") from None
    return found, unread


class _Part(io.RawIOBase):
    """A stretch of an open file as a file, so that no end record but its own is found."""

    def __init__(self, handle: BinaryIO, start: int, size: int) -> None:
        self.handle, self.start, self.size, self.place = handle, start, size, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a byte of the stretch. Raises: `OSError` before its first."""
        place = (0, self.place, self.size)[whence] + offset
        if place < 0:
            raise OSError("before the first byte")
        self.place = place
        return place

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes."""
        self.handle.seek(self.start + self.place)
        data = self.handle.read(max(0, min(len(buffer), self.size - self.place)))
        buffer[: len(data)] = data
        self.place += len(data)
        return len(data)


def _as_members(archive: _Archive, infos: Sequence[zipfile.ZipInfo], number: int) -> Any:
    """What is kept of the members, as a NumPy record array of `_Member`'s. Raises: `OverflowError`, `ValueError`."""
    import numpy as np

    rows = np.array(
        [
            (_digest(near_name(info.filename.rpartition("/")[2])), number, archive.start + info.header_offset,
             info.compress_size, min(info.file_size, 0xFFFFFFFF), info.CRC,
             _ENCRYPTED if info.flag_bits & 1 else info.compress_type)
            for info in infos
        ],
        [("name", "u8"), ("zip", "u4"), ("offset", "u8"), ("packed", "u8"), ("size", "u4"), ("crc", "u4"),
         ("method", "u1")],
    )  # fmt: skip
    order = np.argsort(rows["offset"], kind="stable")
    offsets = rows["offset"][order]
    ends = offsets[:-1] + rows["packed"][order][:-1] + np.uint64(_LOCAL_HEADER.size)
    rows["method"][order[:-1][ends > offsets[1:]]] = _OVERLAPPING
    return rows


@lru_cache(maxsize=4)
def _zip_index(raw: Path, zips: tuple[str, ...]) -> _ZipIndex:
    """The members of all zips; built once a process."""
    import numpy as np

    parts, archives, unread = list[Any](), list[_Archive](), list[tuple[str, str]]()
    for name in zips:
        tree, inner = zip_tree(raw, name)
        if inner and not any(infos for _, infos in tree):
            raise NotThisSource(f"{name}: it holds {inner[0][0]} ({inner[0][1]}) and no pictures; unpack it once")
        unread += inner
        for archive, infos in tree:
            try:
                parts.append(_as_members(archive, infos, len(archives)))
            except (OverflowError, ValueError) as error:
                raise NotThisSource(f"{name}: not a readable zip ({error}); fetch it again") from None
            archives.append(archive)
    members = np.concatenate(parts or [_as_members(_Archive(""), (), 0)])
    return _ZipIndex(members[np.argsort(members["name"], kind="stable")], archives, unread)


def _local_name(raw: Path, archive: _Archive, offset: int) -> str:
    """The name in a member's local header, decoded as `zipfile` does; empty where there is no such header."""
    with archive.open(raw) as handle:
        handle.seek(offset)
        header = handle.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            return ""
        utf8 = header[7] & 0x08  # bit 11 of the flags
        return handle.read(_LOCAL_HEADER.unpack(header)[1]).decode("utf-8" if utf8 else "cp437", errors="replace")


def _content_start(raw: Path, archive: _Archive, offset: int) -> int:
    """The byte behind a member's local header. Raises: `struct.error`."""
    with archive.open(raw) as handle:
        handle.seek(offset)
        _, name, extra = _LOCAL_HEADER.unpack(handle.read(_LOCAL_HEADER.size))
    return offset + _LOCAL_HEADER.size + int(name) + int(extra)


def _read_member(raw: Path, archive: _Archive, member: _Member, file: str) -> bytes:
    try:
        if member.method == _OVERLAPPING:
            raise InputError("bad_archive", file, "its bytes are those of another member as well")
        if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise InputError("bad_archive", file, "packed by an unknown method, or encrypted")
        check_size(member.size, member.packed)
        with archive.open(raw) as handle:
            handle.seek(_content_start(raw, archive, member.offset))
            data = handle.read(member.packed)
        if member.method == zipfile.ZIP_DEFLATED:
            data = inflate(data, member.size)
        elif len(data) != member.size:
            raise InputError("bad_archive", file, f"has {len(data):,} bytes and declares {member.size:,}")
    except OverLimit as error:
        raise InputError("too_large", file, str(error)) from None
    except (zlib.error, struct.error, ValueError) as error:
        raise InputError("bad_archive", file, str(error)) from None
    except OSError as error:
        raise unreadable(error, file) from None
    if zlib.crc32(data) != member.crc:
        raise InputError("bad_archive", file, "wrong checksum")
    if not data:
        raise InputError("empty_file", file)
    return data


def safe_member(name: str) -> bool:
    """Whether an archive member's name stays inside the archive: not absolute, no `..`, no backslash."""
    return not name.startswith("/") and ".." not in PurePosixPath(name).parts and "\\" not in name


TAR_DAMAGE = (tarfile.TarError, OSError, EOFError)
"""What `tar_members` raises where an archive is damaged or breaks off."""


class BytesBehind(ReadError):
    """Behind the end of an archive, which itself is whole, there is more: a second one, perhaps."""


class StrictHeader(tarfile.TarInfo):
    """Python takes a broken header behind the first for the end of the archive; here only the end mark is the end.

    Headers that hold more than any name, sizes below zero and files with holes, whose lists may be endless, are damage.
    """

    _NAMES = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
              tarfile.GNUTYPE_LONGLINK)  # fmt: skip

    @classmethod
    def fromtarfile(cls, tarfile: tarfile.TarFile) -> StrictHeader:
        """The next header. Raises: `ReadError`."""
        try:
            return super().fromtarfile(tarfile)
        except (HeaderError, ValueError, ArithmeticError, LookupError, RecursionError) as error:
            # EOFHeaderError has no name in tarfile's stubs; it is the mark.
            if type(error).__name__ == "EOFHeaderError":
                raise
            raise ReadError(f"at byte {tarfile.offset}: {error}") from error

    def _proc_member(self, tarfile: tarfile.TarFile) -> Any:
        if self.size < 0 or (self.type in self._NAMES and self.size > _HEADER_BYTES):
            raise ReadError(f"at byte {tarfile.offset}: a header of {self.size} bytes")
        return super()._proc_member(tarfile)  # type: ignore[misc]  # which tarfile lets subclasses override

    def _sparse(self, *_: Any) -> Any:
        raise ReadError("a file with holes (`tar --sparse`), which is not read")

    _proc_sparse = _proc_gnusparse_00 = _proc_gnusparse_01 = _proc_gnusparse_10 = _sparse


_HEADER_BYTES = 1 << 20


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """(header, function that reads it) of a tar's regular files in their order, as a stream.

    It may be plain, gzipped (`.gz`, `.tgz`) or Zstandard (`.zst`). An archive that breaks off, in whatever way, is
    never taken for a whole one. Raises: `TAR_DAMAGE`, `BytesBehind` among them; `OverLimit` where it inflates without
    end, or of a member that is read.
    """
    with open_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=StrictHeader) as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # else kept, a kilobyte each
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member, partial(_content, member.size, content)
        rest = tar.fileobj
        assert rest is not None
        while chunk := rest.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise BytesBehind("bytes behind the end of the archive (two archives in one file?)")


def _content(size: int, content: IO[bytes]) -> bytes:
    check_size(size)
    return content.read()


def stream_tar(path: Path, raw: Path) -> Iterator[tuple[str, Content]]:
    """(name, bytes) of a tar's regular files in their order, as a stream; the error in place of what is too large.

    A tar that ends early, is damaged or inflates without end is an `InputError` after the members before the damage.
    What stands behind the end of one is no part of it, and is a gap; so is a member whose name leaves the archive.
    """
    with _told(path, raw):
        for member, read in tar_members(path):
            if not safe_member(member.name):
                note_gap(relative(path, raw), _OUTSIDE, member.name)
                continue
            try:
                check_size(member.size)
            except OverLimit as error:
                yield member.name, InputError("too_large", relative(path, raw), f"{member.name}: {error}")
            else:
                yield member.name, read()


@contextmanager
def _told(path: Path, raw: Path) -> Iterator[None]:
    """What is wrong with a tar, as an `InputError`; what cannot be read for that is a gap: nobody knows its rows."""
    file = relative(path, raw)
    try:
        yield
    except BytesBehind:
        note_gap(file, _BEHIND)
    except (OverLimit, *TAR_DAMAGE) as error:
        note_gap(file, _CUT)
        reason = "too_large" if isinstance(error, OverLimit) else reason_for(error, "bad_archive")
        raise InputError(reason, file, str(error)) from None


_CUT = "part behind the place where it breaks off or is damaged"
_BEHIND = "part behind the end of the archive (two archives in one file?)"
_OUTSIDE = "members whose names lead out of the archive"
_END_RECORD = struct.Struct("<4s4H2LH")
"""Of a zip: ..., members, bytes of the directory, its offset, length of the comment (PKWARE's APPNOTE, 4.3.16)."""


def check_zip(path: Path, raw: Path, within: bool = True) -> None:
    """Count a zip's members a second way: its end record beside its directory. What differs is a gap.

    Zip64 archives say 65,535 and have their counts elsewhere: those are left to `zipfile`, which needs them right.
    `within`: archives within it that are not read are gaps, too.
    """
    file = relative(path, raw)
    for inner, why in zip_tree(raw, file)[1] if within else ():
        note_gap(inner, f"archive within an archive that was not read ({why}): unpack it")
    try:
        with open_file(path) as handle, zipfile.ZipFile(handle) as archive:
            names = [info.filename for info in archive.infolist()]
            handle.seek(max(0, path.stat().st_size - _END_RECORD.size - 0xFFFF))
            tail = handle.read()
    except (*ARCHIVE_DAMAGE, OSError) as error:
        raise NotThisSource(f"{file}: not a readable zip ({error}); fetch it again") from None
    at = tail.rfind(b"PK\x05\x06")
    _, _, _, _, said, size, offset, _ = _END_RECORD.unpack_from(tail, at)
    if 0xFFFF in (said, len(names)) or 0xFFFFFFFF in (size, offset):
        return
    if missing := said - len(names) % 0x10000:
        note_gap(file, "members by its end record that its directory does not list", count=missing)
    end = path.stat().st_size - (len(tail) - at)
    if before := end - size - offset:
        note_gap(file, "bytes in front of the archive (two archives in one file?)", count=before)
    for name in names:
        if not safe_member(name):
            note_gap(file, _OUTSIDE, name)


def webdataset_name(name: str) -> tuple[str, str]:
    """Key and extension (in small letters) of a member: parted at the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def tar_samples(path: Path) -> Iterator[tuple[str, dict[str, Content]]]:
    """(key, {extension: content}) of a WebDataset tar: neighbouring members that share a name up to its first dot.

    Where one repeats an extension, the later ones are called `1.jpg`, `2.jpg`. An archive that breaks off within a
    sample gives its key and nothing else before it raises what `tar_members` does.
    """
    key, parts, size = "", dict[str, Content](), 0
    try:
        for member, read in tar_members(path):
            this, name = webdataset_name(member.name)
            if this.endswith("/") or not this:  # `._name` is what macOS adds
                continue
            if parts and this != key:
                yield key, parts
                parts, size = {}, 0
            key, name = this, name or "data"
            if name in parts:  # WebDataset allows one; all are kept, so that all are compared
                name = next(f"{n}.{name}" for n in range(1, len(parts) + 2) if f"{n}.{name}" not in parts)
            parts[name] = b""  # the sample has begun, whatever becomes of it
            try:
                check_size(member.size)
                check_size(size + member.size, limit=SAMPLE_BYTES)
            except OverLimit as error:
                parts[name] = InputError("too_large", path.name, f"{name}: {error}")
            else:
                parts[name] = read()
                size += member.size
    except BytesBehind:
        if parts:
            yield key, parts
        raise
    except (OverLimit, *TAR_DAMAGE):
        if parts:
            yield key, {}
        raise
    if parts:
        yield key, parts


def webdataset_samples(path: Path, raw: Path) -> Iterator[tuple[str, dict[str, Content]]]:
    """Whole samples of `tar_samples`; an archive that breaks off is an `InputError` after them, as in `stream_tar`."""
    with _told(path, raw):
        yield from (found for found in tar_samples(path) if found[1])


def webdataset_keys(path: Path, raw: Path) -> Iterator[str]:
    """The keys that `webdataset_samples` will give; reads headers only where the tar is not compressed."""
    if path.suffix.lower() in (".gz", ".tgz", ".zst"):
        yield from (key for key, _ in webdataset_samples(path, raw))
        return
    before = None
    try:
        with open_file(path) as handle, tarfile.open(fileobj=handle, mode="r:", tarinfo=StrictHeader) as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]
                key, _ = webdataset_name(member.name)
                if member.isreg() and key and not key.endswith("/"):
                    if key != before:
                        yield key
                    before = key
            handle.seek(tar.offset)
            if any(chunk.count(0) != len(chunk) for chunk in iter(partial(handle.read, 1 << 20), b"")):
                note_gap(relative(path, raw), _BEHIND)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotThisSource(f"{relative(path, raw)}: not a readable tar ({error}); fetch it again") from None


def count_webdataset_samples(path: Path, raw: Path) -> int:
    """Number of samples `webdataset_samples` will give."""
    return sum(1 for _ in webdataset_keys(path, raw))
