"""Pictures and records inside archives, read in place: zip members by name, tars as streams.

Nothing is unpacked to disk. Members that are links, devices, absolute or climb with `..` are never read.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from builders.rawfiles import list_zip, read_bytes, read_zip_member, relative
from builders.source import InputError, NotThisSource


class PictureStore:
    """Finds pictures by name in folders and zips under a raw tree, whatever prefix they were packed with.

    A name is looked up as given (`images/a/1.jpg`), then by its last part alone if that is unique in the store: so
    archives that were flattened with `unzip -j`, or packed with another leading folder, are found as well.
    """

    def __init__(self, raw: Path, places: Sequence[str]) -> None:
        self.raw, self.places = raw, tuple(places)

    def files(self) -> list[str]:
        """The zips and folders, for a unit's inputs (a folder's own files are not listed: there may be millions)."""
        return list(self.places)

    def reader(self, name: str) -> tuple[str, partial[bytes]]:
        """(where it is, function that reads it); a picture found nowhere reads as `missing_image`."""
        full, last = _index(self.raw, self.places)
        clean = PurePosixPath(name.lstrip("/")).as_posix()
        place = full.get(clean) or last.get(clean.rpartition("/")[2])
        if place is None:
            return clean, partial(_missing, clean)
        archive, member = place
        if member is None:
            return archive, partial(read_bytes, self.raw / archive, self.raw)
        return f"{archive}!{member}", partial(read_zip_member, self.raw / archive, member, self.raw)


def _missing(name: str) -> bytes:
    raise InputError("missing_image", name)


_Place = tuple[str, str | None]


@lru_cache(maxsize=4)
def _index(raw: Path, places: tuple[str, ...]) -> tuple[dict[str, _Place], dict[str, _Place | None]]:
    """Places by full name and, where unique, by last part; built once a process."""
    full: dict[str, _Place] = {}
    last: dict[str, _Place | None] = {}

    def add(name: str, place: _Place) -> None:
        parts = PurePosixPath(name).parts
        # With and without its leading folders, so that `imgs/x/1.jpg` answers to `x/1.jpg`; the first one wins.
        for start in range(len(parts)):
            full.setdefault("/".join(parts[start:]), place)
        last[parts[-1]] = None if parts[-1] in last else place

    for pattern in places:
        for path in sorted(raw.glob(pattern)):
            file = relative(path, raw)
            if path.is_dir():
                for picture in sorted(p for p in path.rglob("*") if p.is_file()):
                    add(relative(picture, raw), (relative(picture, raw), None))
            else:
                for member in sorted(list_zip(path, raw)):
                    if safe_member(member):
                        add(member, (file, member))
    return full, last


def safe_member(name: str) -> bool:
    """Whether an archive member's name stays inside the archive: not absolute, no `..`, no backslash."""
    return not name.startswith("/") and ".." not in PurePosixPath(name).parts and "\\" not in name


def stream_tar(path: Path, raw: Path) -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of a tar's regular files in their order; plain, gzipped (`.gz`) or Zstandard (`.zst`), as a stream.

    A tar that ends early or is damaged is an `InputError` after the members before the damage.
    """
    file = relative(path, raw)
    try:
        with _open_stream(path) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if member.isreg() and safe_member(member.name):
                    content = tar.extractfile(member)
                    assert content is not None
                    yield member.name, content.read()
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError("bad_archive", file, str(error)) from None


def _open_stream(path: Path) -> IO[bytes]:
    import pyarrow as pa

    codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if codec is None:
        return path.open("rb")
    stream: Any = pa.CompressedInputStream(pa.OSFile(str(path)), codec)
    return io.BufferedReader(_Readable(stream), 1 << 20)


class _Readable(io.RawIOBase):
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


def webdataset_samples(path: Path, raw: Path) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, {extension: bytes}) of a WebDataset tar: neighbouring members that share a name up to its first dot."""
    key, parts = "", dict[str, bytes]()
    for name, data in stream_tar(path, raw):
        folder, _, last = name.rpartition("/")
        stem, _, extension = last.partition(".")
        this = f"{folder}/{stem}" if folder else stem
        if parts and this != key:
            yield key, parts
            parts = {}
        key = this
        parts[extension.lower()] = data
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
                if member.isreg() and safe_member(member.name):
                    folder, _, last = member.name.rpartition("/")
                    stem = last.partition(".")[0]
                    key = f"{folder}/{stem}" if folder else stem
                    if key != before:
                        yield key
                    before = key
    except (tarfile.TarError, OSError, EOFError) as error:
        raise NotThisSource(f"{relative(path, raw)}: not a readable tar ({error}); fetch it again") from None


def count_webdataset_samples(path: Path, raw: Path) -> int:
    """Number of samples `webdataset_samples` will give."""
    return sum(1 for _ in webdataset_keys(path, raw))
