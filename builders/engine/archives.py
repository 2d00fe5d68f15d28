"""Pictures and records inside archives, read in place: zip members by name, tars as streams.

Nothing is unpacked to disk. Members that are links, devices, absolute or climb with `..` are never read.
"""

from __future__ import annotations

import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from tarfile import HeaderError, ReadError
from typing import IO, Any, NamedTuple

from builders.engine.rawfiles import ARCHIVE_DAMAGE, read_bytes, relative, unreadable
from builders.engine.source import InputError, NotThisSource

_LOCAL_HEADER = struct.Struct("<26sHH")
"""Of a zip member: ..., length of the name, length of the extra field (PKWARE's APPNOTE, 4.3.7)."""


class PictureStore:
    """Finds pictures by name in folders and zips under a raw tree, whatever prefix they were packed with.

    A name is looked up as given (`images/a/1.jpg`, also behind further leading folders), then by its last part alone if
    that is unique in the store: so archives that were flattened with `unzip -j`, or packed with another leading folder,
    are found as well. With `flat` false the last part alone is never enough: for sets whose folders repeat names like
    `1.png`. Of equal names the first counts. The index holds 31 bytes a zip member: some sets have millions.
    """

    def __init__(self, raw: Path, places: Sequence[str], flat: bool = True) -> None:
        self.raw, self.flat = raw, flat
        self.places = tuple(
            relative(path, raw)
            for place in places
            for path in ([raw / place] if (raw / place).exists() else sorted(raw.glob(place)))
        )

    def reader(self, name: str) -> tuple[str, partial[bytes]]:
        """(where it is, function that reads it); a picture found nowhere reads as `missing_image`."""
        clean = PurePosixPath(name.lstrip("/")).as_posix()
        found = list(self._named(clean.rpartition("/")[2]))
        for full, file, read in found:
            if full == clean or full.endswith(f"/{clean}"):
                return file, read
        if self.flat and len(found) == 1:
            return found[0][1:]
        return clean, partial(_missing, clean)

    def _named(self, last: str) -> Iterator[tuple[str, str, partial[bytes]]]:
        """(full name, where it is, reader) of all pictures with this last part, in the order of the places."""
        for folder in self.places:
            if not folder.endswith(".zip"):
                for file in _folder_index(self.raw, folder).get(last, ()):
                    yield file, file, partial(read_bytes, self.raw / file, self.raw)
        zips = tuple(place for place in self.places if place.endswith(".zip"))
        members = _zip_index(self.raw, zips)
        first, end = (int(members["name"].searchsorted(_digest(last), side)) for side in ("left", "right"))
        for row in members[first:end].tolist():
            member = _Member(*row)
            archive = zips[member.zip]
            full = _local_name(self.raw / archive, member.offset)
            if full.rpartition("/")[2] == last:
                file = f"{archive}!{full}"
                yield full, file, partial(_read_member, self.raw / archive, member, file)


def _missing(name: str) -> bytes:
    raise InputError("missing_image", name)


@lru_cache(maxsize=8)
def _folder_index(raw: Path, folder: str) -> dict[str, list[str]]:
    """Files below a folder by the last part of their name; built once a process.

    What has a file's name and is none (a pipe, a folder called 1.jpg) is among them: reading it says what it is.
    """
    files: dict[str, list[str]] = {}
    for path in sorted(p for p in (raw / folder).rglob("*") if p.suffix or p.is_file()):
        files.setdefault(path.name, []).append(relative(path, raw))
    return files


class _Member(NamedTuple):
    name: int
    """First 8 bytes of a digest of the last part of the member's name."""
    zip: int
    offset: int
    size: int
    crc: int
    method: int


_ENCRYPTED = 99
"""Stands for a method that cannot be read."""


def _digest(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest())


@lru_cache(maxsize=2)
def _zip_index(raw: Path, zips: tuple[str, ...]) -> Any:
    """The members of all zips as a NumPy record array sorted by digest; built once a process."""
    import numpy as np

    kinds = [("name", "u8"), ("zip", "u2"), ("offset", "u8"), ("size", "u8"), ("crc", "u4"), ("method", "u1")]
    parts = [np.empty(0, kinds)]
    for number, name in enumerate(zips):
        try:
            with zipfile.ZipFile(raw / name) as archive:
                rows = [
                    (_digest(info.filename.rpartition("/")[2]), number, info.header_offset, info.compress_size,
                     info.CRC, _ENCRYPTED if info.flag_bits & 1 else info.compress_type)
                    for info in archive.infolist()
                    if not info.is_dir() and safe_member(info.filename)
                ]  # fmt: skip
            parts.append(np.array(rows, kinds))
        except (*ARCHIVE_DAMAGE, OSError) as error:
            raise NotThisSource(f"{name}: not a readable zip ({error}); fetch it again") from None
    members = np.concatenate(parts)
    return members[np.argsort(members["name"], kind="stable")]


def _local_name(path: Path, offset: int) -> str:
    """The name in a member's local header, decoded as `zipfile` does; empty where there is no such header."""
    with path.open("rb") as handle:
        handle.seek(offset)
        header = handle.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            return ""
        utf8 = header[7] & 0x08  # bit 11 of the flags
        return handle.read(_LOCAL_HEADER.unpack(header)[1]).decode("utf-8" if utf8 else "cp437", errors="replace")


def _read_member(path: Path, member: _Member, file: str) -> bytes:
    try:
        with path.open("rb") as handle:
            handle.seek(member.offset)
            _, name, extra = _LOCAL_HEADER.unpack(handle.read(_LOCAL_HEADER.size))
            handle.seek(name + extra, io.SEEK_CUR)
            data = handle.read(member.size)
        if member.method == zipfile.ZIP_DEFLATED:
            data = zlib.decompress(data, -zlib.MAX_WBITS)
        elif member.method != zipfile.ZIP_STORED:
            raise InputError("bad_archive", file, "packed by an unknown method, or encrypted")
    except (zlib.error, struct.error) as error:
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


TAR_DAMAGE = (tarfile.TarError, OSError, EOFError, lzma.LZMAError)
"""What `tar_members` raises where an archive is damaged or breaks off."""


class BytesBehind(ReadError):
    """Behind the end of an archive, which itself is whole, there is more: a second one, perhaps."""


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


def tar_members(path: Path) -> Iterator[tuple[tarfile.TarInfo, Callable[[], bytes]]]:
    """(header, function that reads it) of a tar's regular files in their order, as a stream.

    An archive that breaks off, in whatever way, is never taken for a whole one. Raises: `TAR_DAMAGE`, `BytesBehind`
    among them.
    """
    with _open_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictHeader) as tar:
        for member in tar:
            tar.members.clear()  # type: ignore[attr-defined]  # else kept, a kilobyte each
            content = tar.extractfile(member) if member.isreg() else None
            if content is not None:
                yield member, content.read
        rest = tar.fileobj
        assert rest is not None
        while chunk := rest.read(1 << 20):
            if chunk.count(0) != len(chunk):
                raise BytesBehind("bytes behind the end of the archive (two archives in one file?)")


def stream_tar(path: Path, raw: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a tar's regular files in their order; plain, gzipped (`.gz`) or Zstandard (`.zst`), as a stream.

    A tar that ends early or is damaged is an `InputError` after the members before the damage. What stands behind the
    end of one is no part of it.
    """
    try:
        for member, read in tar_members(path):
            if safe_member(member.name):
                yield member.name, read()
    except BytesBehind:
        return
    except TAR_DAMAGE as error:
        raise InputError("bad_archive", relative(path, raw), str(error)) from None


def _open_stream(path: Path) -> IO[bytes]:
    import pyarrow as pa

    suffix = path.suffix.lower()
    if suffix in (".xz", ".txz"):
        return lzma.open(path)
    codec = {".gz": "gzip", ".tgz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".tbz2": "bz2"}.get(suffix)
    if codec is None:
        return path.open("rb")
    stream: Any = pa.CompressedInputStream(pa.OSFile(str(path)), codec)
    return io.BufferedReader(Readable(stream), 1 << 20)


class Readable(io.RawIOBase):
    """An Arrow input stream as a raw Python file."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` with the next bytes."""
        data = self.stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def webdataset_name(name: str) -> tuple[str, str]:
    """Key and extension (in small letters) of a member: parted at the first dot of its last part."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return f"{folder}/{stem}" if folder else stem, extension.lower()


def webdataset_samples(path: Path, raw: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: bytes}) of a WebDataset tar: neighbouring members that share a name up to its first dot."""
    key, parts = "", dict[str, bytes]()
    for name, data in stream_tar(path, raw):
        this, extension = webdataset_name(name)
        if parts and this != key:
            yield key, parts
            parts = {}
        key = this
        parts[extension] = data
    if parts:
        yield key, parts


def webdataset_keys(path: Path, raw: Path) -> Iterator[str]:
    """The keys that `webdataset_samples` will give; reads headers only where the tar is not compressed."""
    if path.suffix in (".gz", ".zst"):
        yield from (key for key, _ in webdataset_samples(path, raw))
        return
    before = None
    try:
        with tarfile.open(path, mode="r:") as tar:
            for member in tar:
                tar.members.clear()  # type: ignore[attr-defined]
                if member.isreg() and safe_member(member.name):
                    key, _ = webdataset_name(member.name)
                    if key != before:
                        yield key
                    before = key
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotThisSource(f"{relative(path, raw)}: not a readable tar ({error}); fetch it again") from None


def count_webdataset_samples(path: Path, raw: Path) -> int:
    """Number of samples `webdataset_samples` will give."""
    return sum(1 for _ in webdataset_keys(path, raw))
