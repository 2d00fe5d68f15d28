"""Files that are either there and whole, or not there: temporary name, fsync, rename, fsync of the folder."""

import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from medgpt.errors import UserError
from medgpt.private import make_folder

TEMPORARY_SUFFIX = ".tmp"
writer = ""
"""Part of temporary names in processes of a cluster, where a job that seems lost may run on beside its second start."""


class AtomicFile:
    """A binary file for writing that appears under its name only when it is complete.

    Counts and hashes what is written; `sha256` and `size` are those of the whole file once the context is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._temporary = path.with_name(path.name + writer + TEMPORARY_SUFFIX)
        # What a killed run left may be open to others, or a link.
        self._temporary.unlink(missing_ok=True)
        self._file = self._temporary.open("wb")
        self._hash = hashlib.sha256()

    @property
    def sha256(self) -> bytes:
        """Digest of everything written so far."""
        return self._hash.digest()

    @property
    def closed(self) -> bool:
        """Whether the underlying file is closed (pyarrow asks)."""
        return self._file.closed

    def write(self, data: bytes) -> int:
        """Append bytes."""
        self._hash.update(data)
        written = self._file.write(data)
        self.size += written
        return written

    def tell(self) -> int:
        """Position, which is always the end."""
        return self.size

    def flush(self) -> None:
        """Nothing to do before `commit` (pyarrow calls it)."""

    def commit(self) -> None:
        """Make the file durable and visible under its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._temporary.replace(self.path)
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Drop what was written."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def close(self) -> None:
        """Ignored: `commit` or `discard` decide (pyarrow closes what it writes to)."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.discard()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a small file whole."""
    with AtomicFile(path) as file:
        file.write(data)


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A folder of files to fill, which takes the place of `folder` once they are whole and durable.

    What a killed run left is removed first. Each file may be read by whom this process lets read its folders:
    safetensors writes files for their owner alone.
    """
    work = folder.with_name(folder.name + TEMPORARY_SUFFIX)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    yield work
    for path in work.iterdir():
        path.chmod(work.stat().st_mode & 0o666)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    shutil.rmtree(folder, ignore_errors=True)
    work.rename(folder)
    sync_folder(folder.parent)


@contextmanager
def held(path: Path, refusal: Exception) -> Iterator[None]:
    """Hold the lock file `path` for this process; the lock dies with it, whatever kills it. Raises: `refusal`."""
    with path.open("w") as file:
        # Forked workers of a killed process have the lock, too, for the half second until they notice.
        until = time.monotonic() + 1
        while True:
            try:
                flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, path)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise refusal from None
            time.sleep(0.1)
        yield


def flock(descriptor: int, how: int, path: Path) -> None:
    """`fcntl.flock`, whose error names the file. Raises: `BlockingIOError` (another has it), `OSError`.

    Some network file systems have no locks, or have run out of them. Two writers would spoil what both write.
    """
    try:
        fcntl.flock(descriptor, how)
    except BlockingIOError:
        raise
    except OSError as error:
        what = f"{error.strerror}: it cannot be locked; use a folder on a file system that has flock"
        raise OSError(error.errno, what, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable, where the file system can: some say EINVAL or ENOTSUP (fsync(2))."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Make `folder` and hold it against other processes; the lock goes when the process ends, however it ends.

    Raises: `UserError` where it cannot be written to.
    """
    try:
        make_folder(folder)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); name another folder") from error
    try:
        flock(descriptor, fcntl.LOCK_EX, folder)
        yield
    finally:
        os.close(descriptor)
