"""Deterministic shard writers: USTAR tar where there are images, Arrow IPC where there are none.

A shard is atomic (temporary name, fsync, rename), holds its samples in the order given and depends on nothing but them:
header fields that a file system would fill (owner, time, mode) are fixed. The JSON member of a sample comes first, its
images follow as `<id>.0.jpg`, `<id>.1.png`: the grouping that every WebDataset reader expects.
"""

import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from medgpt.atomic import AtomicFile
from medgpt.schema import SAMPLE, record_batch

SHARD_BYTES = 1 << 30
"""A shard is closed once it has reached this size: about a gigabyte, which suits object stores."""

ARROW_BATCH_ROWS = 1024

BLOCK = tarfile.BLOCKSIZE


# Type "regular file", no link name, magic and version, no owner names, no device numbers, no prefix.
_TAIL = b"0".ljust(101, b"\x00") + b"ustar\x0000".ljust(BLOCK - 257, b"\x00")
_TAIL_SUM = sum(_TAIL)


@dataclass(frozen=True)
class WrittenShard:
    """A finished shard."""

    name: str
    size: int
    sha256: bytes
    samples: int


class Location(NamedTuple):
    """Where a sample went. Tar: byte offsets of member data. Arrow: `offset` is the row, there are no images."""

    shard: str
    offset: int
    length: int
    images: tuple[tuple[int, int], ...] = ()


class ShardWriter(ABC):
    """Writes `<stem>-00000`, `<stem>-00001`, ... into `folder`, each closed once it has reached `shard_bytes`."""

    suffix: str

    def __init__(self, folder: Path, stem: str, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.stem, self.shard_bytes = folder, stem, shard_bytes
        self._done: list[WrittenShard] = []
        self._file: AtomicFile | None = None
        self._name = ""
        self._samples = 0

    @abstractmethod
    def add(self, sample_id: str, json: bytes, images: Sequence[tuple[str, bytes]]) -> Location:
        """Append one sample: its id, its canonical JSON and (extension, bytes) of its images."""

    @abstractmethod
    def _end(self, file: AtomicFile) -> None:
        """Write what the format has at its end."""

    def _open(self) -> AtomicFile:
        """The shard being written; the next one where there is none."""
        if self._file is None:
            self._name = f"{self.stem}-{len(self._done):05d}{self.suffix}"
            self._file = AtomicFile(self.folder / self._name)
        return self._file

    def _finish(self) -> None:
        if self._file is not None:
            self._end(self._file)
            self._file.commit()
            self._done.append(WrittenShard(self._name, self._file.size, self._file.sha256, self._samples))
            self._file, self._samples = None, 0

    def close(self) -> list[WrittenShard]:
        """Finish the last shard and return all of them."""
        self._finish()
        return self._done

    def discard(self) -> None:
        """Drop the unfinished shard."""
        if self._file is not None:
            self._file.discard()
            self._file = None


def tar_header(name: str, size: int) -> bytes:
    """The 512-byte USTAR header of a regular file with fixed owner, mode and time (POSIX.1-1988, `tar` format).

    The same bytes as `tarfile` writes, ten times faster for the usual short names (the tests compare the two). Raises
    `ValueError` where the name does not fit USTAR's 100 + 155 characters.
    """
    encoded = name.encode()
    if len(encoded) > tarfile.LENGTH_NAME or size >= 8**11:
        member = tarfile.TarInfo(name)
        member.size, member.mode = size, 0o644
        return member.tobuf(format=tarfile.USTAR_FORMAT, encoding="utf-8", errors="strict")
    head = b"%b0000644\x000000000\x000000000\x00%011o\x0000000000000\x00" % (encoded.ljust(100, b"\x00"), size)
    # The checksum is the sum of all bytes with its own field taken as eight spaces.
    checksum = sum(head) + 8 * ord(" ") + _TAIL_SUM
    return b"%b%06o\x00 %b" % (head, checksum, _TAIL)


class TarShardWriter(ShardWriter):
    """USTAR archives: `<id>.json`, then `<id>.0.jpg`, `<id>.1.png`, ..."""

    suffix = ".tar"

    def add(self, sample_id: str, json: bytes, images: Sequence[tuple[str, bytes]]) -> Location:
        """Append one sample; starts the next shard where this one is full."""
        if self._file is not None and self._file.size >= self.shard_bytes:
            self._finish()
        file = self._open()
        offset = add_member(file, f"{sample_id}.json", json)
        places = tuple((add_member(file, f"{sample_id}.{ext}", data), len(data)) for ext, data in images)
        self._samples += 1
        return Location(self._name, offset, len(json), places)

    def _end(self, file: AtomicFile) -> None:
        end_archive(file)


def end_archive(file: AtomicFile) -> None:
    """Write the two zero blocks that end an archive, and padding to whole records, as tar does."""
    file.write(bytes(2 * BLOCK + -(file.size + 2 * BLOCK) % tarfile.RECORDSIZE))


def add_member(file: AtomicFile, name: str, data: bytes) -> int:
    """Write one member; the byte at which its data starts, one block behind its header."""
    file.write(tar_header(name, len(data)))
    offset = file.size
    file.write(data)
    file.write(bytes(-len(data) % BLOCK))
    return offset


class ArrowShardWriter(ShardWriter):
    """IPC files in batches of 1,024 rows, uncompressed so that rows can be mapped; for samples without pictures."""

    suffix = ".arrow"

    def __init__(self, folder: Path, stem: str, shard_bytes: int = SHARD_BYTES, metadata_only: bool = False) -> None:
        super().__init__(folder, stem, shard_bytes)
        self._schema = SAMPLE.with_metadata({"metadata_only": "true" if metadata_only else "false"})
        self._batch: list[bytes] = []

    def add(self, sample_id: str, json: bytes, images: Sequence[tuple[str, bytes]]) -> Location:
        """Append one sample; `images` must be empty."""
        if images:
            raise ValueError("an Arrow shard holds no images")
        # The size is looked at between batches only, so every batch but a shard's last has 1,024 rows.
        if self._file is not None and not self._batch and self._file.size >= self.shard_bytes:
            self._finish()
        if self._file is None:
            self._writer = pa.ipc.new_file(self._open(), self._schema)
        place = Location(self._name, self._samples, len(json))
        self._batch.append(json)
        self._samples += 1
        if len(self._batch) == ARROW_BATCH_ROWS:
            self._flush()
        return place

    def _flush(self) -> None:
        if self._batch:
            self._writer.write_batch(record_batch(self._batch).cast(self._schema))
            self._batch = []

    def _end(self, file: AtomicFile) -> None:
        self._flush()
        self._writer.close()
