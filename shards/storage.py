"""Where shards are read from: a local tree, or any fsspec URL (s3, gs, http, hf) through a bounded local cache.

What is opened is what was certified: the size is compared at every open; the SHA-256 once for each file and remembered
by inode, size and times (`verify="digest"`), so a second run does not hash again. What comes over the
network is always hashed before it is used. A cached file gets its name, which is its digest, only when it is whole,
verified and on disk, so `kill -9` leaves nothing that could be taken for a shard.

The cache is shared by all processes of a machine. An open shard holds a shared `flock`, which keeps it from being
removed; the least recently opened of the others go first. Files are removed and room is claimed under one exclusive
lock, so the bound holds for all processes together. Locks die with their process: there is nothing to clean up.
"""

import errno
import fcntl
import hashlib
import logging
import mmap
import os
import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from medgpt.atomic import flock, locked, sync_folder, write_atomic
from medgpt.errors import UserError
from medgpt.private import make_folder
from medgpt.stores import Damaged, connect, tried

MARKS = ".streams/verified"
"""Below a local tree: one small file for every shard whose digest was found right."""

CACHE_BYTES = 64 << 30

_CHUNK = 1 << 22
_POLL_S = 0.1

log = logging.getLogger(__name__)


class _NoRoom(UserError):
    """The cache holds nothing more that may be removed."""


class ShardRef(NamedTuple):
    """A shard as it was certified."""

    path: str
    """Below DATA or the location of a store, with forward slashes."""
    sha256: str
    """Of the whole file, hexadecimal."""
    size: int
    """Bytes."""
    samples: int
    """Samples in the file, whether they may be used or not."""


@dataclass
class Counts:
    """What storage did in this process. Nothing is retried or removed without being counted here and logged."""

    opened: int = 0
    hashed_bytes: int = 0
    fetched: int = 0
    fetched_bytes: int = 0
    retries: int = 0
    damaged: int = 0
    """Downloads of wrong size or digest, and cached files that were altered behind our back."""
    evicted: int = 0
    waits: int = 0
    """Times a shard had to wait for other processes to let go of theirs."""

    def __str__(self) -> str:
        return ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in asdict(self).items())


class OpenShard:
    """An open shard: `data` is its memory map, valid as long as anything refers to it."""

    __slots__ = ("_descriptor", "_pid", "data", "path")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor, self._pid = descriptor, os.getpid()
        self.data = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)

    def release(self) -> None:
        """Let go of the file (its lock, if cached); the map lives on while somebody still reads from it."""
        if self._descriptor >= 0:
            # The map has a duplicate of the descriptor, which would keep the lock. A forked child shares the lock, so
            # it is not the child's to give up.
            if self._pid == os.getpid():
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:
            self.release()


class Storage:
    """Opens shards below `location`, a folder or an fsspec URL.

    `cache` is a folder for copies of remote shards, at most `cache_bytes` of them. `verify="size"` skips the digests of
    local files. A failed download is tried `attempts` times in all, the waits doubling from `first_wait_s` seconds;
    every failure is counted and logged. `ahead` shards are fetched in advance (`read_ahead`). At most `max_open` shards
    are kept open. A shard that finds the cache full of what other processes use waits `patience_s` seconds. `options`
    go to the fsspec file system (endpoint, credentials).

    May be pickled and used after a fork; counts and open files are each process's own.

    Raises: `UserError`.
    """

    def __init__(
        self,
        location: Path | str,
        *,
        cache: Path | str | None = None,
        cache_bytes: int = CACHE_BYTES,
        verify: Literal["digest", "size"] = "digest",
        attempts: int = 5,
        first_wait_s: float = 0.5,
        ahead: int = 2,
        max_open: int = 4096,
        patience_s: float = 60.0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if verify not in ("digest", "size"):
            raise UserError(f"verify={verify!r}: 'digest' or 'size'")
        if attempts < 1 or max_open < 1 or ahead < 0:
            raise UserError(f"attempts={attempts}, max_open={max_open}, ahead={ahead}: too small")
        self.location = str(location).removeprefix("file://")
        self.remote = "://" in self.location
        if self.remote and cache is None:
            raise UserError(f"{self.location}: shards of a URL need a local folder to be kept in: cache=...")
        self.cache = None if cache is None else Path(cache)
        self.cache_bytes, self.verify, self.attempts, self.first_wait_s = cache_bytes, verify, attempts, first_wait_s
        self.ahead, self.max_open, self.patience_s = ahead, max_open, patience_s
        self.options = dict(options or {})
        self._reset()

    def _reset(self) -> None:
        """What belongs to one process."""
        self._pid = os.getpid()
        self.counts = Counts()
        self._open: OrderedDict[str, OpenShard] = OrderedDict()
        self._checked: dict[str, str] = {}
        self._filesystem: tuple[Any, str] | None = None
        self._asked: set[str] = set()
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_") and name != "counts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reset()

    def open(self, shard: ShardRef) -> OpenShard:
        """The shard, checked; the one already open if there is one.

        Raises: `UserError` where it is missing, truncated, altered, not to be fetched, or finds no room.
        """
        if self._pid != os.getpid():
            self._reset()
        found = self._open.get(shard.sha256)
        if found is not None:
            self._open.move_to_end(shard.sha256)
            return found
        while len(self._open) >= self.max_open:
            self._release_oldest()
        path, descriptor = self._cached(shard) if self.remote else self._local(shard)
        try:
            file = OpenShard(path, descriptor)
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise UserError(f"{path}: cannot be mapped ({error})") from error
        self._open[shard.sha256] = file
        self.counts.opened += 1
        return file

    def close(self) -> None:
        """Let go of every open shard."""
        while self._open:
            self._release_oldest()

    def _release_oldest(self) -> None:
        self._open.popitem(last=False)[1].release()

    def _count(self, **more: int) -> None:
        with self._lock:
            for name, number in more.items():
                setattr(self.counts, name, getattr(self.counts, name) + number)

    # A local tree.

    def _local(self, shard: ShardRef) -> tuple[Path, int]:
        path = Path(self.location) / shard.path
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe has no size: refused below
        except FileNotFoundError:
            raise UserError(f"{path}: missing; run its builder again, or restore the certified file") from None
        try:
            size = os.fstat(descriptor).st_size
            if size != shard.size:
                raise UserError(
                    f"{path}: {size} bytes where {shard.size} were certified: truncated, or from another build; "
                    "restore the certified file or prove again"
                )
            if self.verify == "digest":
                self._check_digest(path, descriptor, shard)
        except BaseException:
            os.close(descriptor)
            raise
        return path, descriptor

    def _check_digest(self, path: Path, descriptor: int, shard: ShardRef) -> None:
        """Hash a local file, unless this very file was found right before, by this process or another."""
        # The time of the last change of its entry is nobody's to set: content written in place is seen, whatever mtime.
        stamp = f"{_stamp(descriptor)} {os.fstat(descriptor).st_ctime_ns}"
        place = hashlib.blake2b(shard.path.encode(), digest_size=8).hexdigest()
        mark = Path(self.location) / MARKS / f"{shard.sha256}-{place}"
        if self._checked.get(shard.path) == stamp or _read(mark) == stamp:
            return
        flock(descriptor, fcntl.LOCK_EX, path)  # one process hashes, those that want the same shard wait for its mark
        try:
            if _read(mark) != stamp:
                digest = hashlib.sha256()
                with mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ) as data, memoryview(data) as view:
                    for start in range(0, len(view), _CHUNK):
                        digest.update(view[start : start + _CHUNK])
                self._count(hashed_bytes=shard.size)
                if digest.hexdigest() != shard.sha256:
                    raise UserError(
                        f"{path}: altered after certification (SHA-256 {digest.hexdigest()[:12]}..., certified "
                        f"{shard.sha256[:12]}...); python -m shards.verify names the member"
                    )
                try:
                    make_folder(mark.parent)
                    write_atomic(mark, stamp.encode())
                except OSError as error:
                    # A tree may be mounted read-only: then every process has to hash for itself.
                    if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
                        raise
                    log.info("%s: %s; digests are remembered in this process only", mark.parent, error.strerror)
            self._checked[shard.path] = stamp
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)

    # The cache.

    def read_ahead(self, shards: Iterable[ShardRef]) -> None:
        """Fetch shards that will be wanted soon, in this order, in the background; nothing where shards are local.

        Only as many as `ahead` are on their way at a time, and none drives out a shard in use. What fails here is
        logged, and raised when the shard is opened.
        """
        if not self.remote or not self.ahead:
            return
        if self._pid != os.getpid():
            self._reset()
        for shard in shards:
            if len(self._asked) >= self.ahead:
                return
            if shard.sha256 in self._asked or shard.sha256 in self._open or self._file(shard).exists():
                continue
            with self._lock:
                self._asked.add(shard.sha256)
            threading.Thread(target=self._fetch_wanted, args=(shard,), daemon=True).start()

    def _fetch_wanted(self, shard: ShardRef) -> None:
        try:
            self._fetch(shard)
        except (UserError, OSError) as error:
            log.warning("read-ahead: %s", error)
        finally:
            with self._lock:
                self._asked.discard(shard.sha256)

    def _file(self, shard: ShardRef) -> Path:
        assert self.cache is not None
        return self.cache / shard.sha256

    def _cached(self, shard: ShardRef) -> tuple[Path, int]:
        """The shard's file in the cache with a shared lock; it is fetched first where it is not there."""
        path = self._file(shard)
        deadline = time.monotonic() + self.patience_s
        while True:
            descriptor = self._pin(path, shard)
            if descriptor is not None:
                return path, descriptor
            try:
                self._fetch(shard)
            except _NoRoom:
                if self._open:
                    self._release_oldest()
                    continue
                if time.monotonic() > deadline:
                    raise
                self._count(waits=1)
                time.sleep(_POLL_S)

    def _pin(self, path: Path, shard: ShardRef) -> int | None:
        """A locked descriptor of a cached file; none if it is not there (any more), or is not what was put there."""
        if (descriptor := _opened(path)) is None:
            return None
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if not _is_linked(path, descriptor):
            os.close(descriptor)
            return None
        if os.fstat(descriptor).st_size != shard.size or _read(_mark(path)) != _stamp(descriptor):
            log.warning("%s: altered in the cache; fetched again", path)
            self._count(damaged=1)
            path.unlink(missing_ok=True)
            os.close(descriptor)
            return None
        # The access time says how recently it was used; the modification time is part of what is remembered.
        os.utime(path, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
        return descriptor

    def _fetch(self, shard: ShardRef) -> None:
        """Bring a shard into the cache; returns when it is there, whoever brought it."""
        path = self._file(shard)
        part = path.with_name(f"{path.name}.{shard.size}.part")
        while not path.exists():
            descriptor = self._claim(path, part, shard.size)
            if descriptor is None:
                if (other := _opened(part)) is not None:
                    fcntl.flock(other, fcntl.LOCK_SH)  # until whoever downloads it is done or dead
                    os.close(other)
                continue
            try:
                self._download(shard, path, part)
            finally:
                part.unlink(missing_ok=True)
                os.close(descriptor)

    def _claim(self, path: Path, part: Path, size: int) -> int | None:
        """A locked descriptor of the unfinished file, which stands for its bytes; none if another process has it."""
        with locked(path.parent):  # files are removed and room is claimed
            if path.exists():
                return None
            descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if not _try_lock(descriptor):
                    os.close(descriptor)
                    return None
                self._make_room(path.parent, size, part)
            except BaseException:
                part.unlink(missing_ok=True)
                os.close(descriptor)
                raise
            return descriptor

    def _make_room(self, folder: Path, size: int, own: Path) -> None:
        """Remove what was used longest ago until `size` bytes fit below the bound and on the disk."""
        if size > self.cache_bytes:
            raise UserError(f"{folder}: a shard of {size:,} bytes does not fit a cache of {self.cache_bytes:,}")
        used, files = 0, []
        for path in folder.iterdir():
            if path == own:
                continue
            if path.suffix == ".part":
                if _remove_unused(path):  # its process died
                    continue
                used += int(path.suffixes[-2][1:])
            elif len(path.name) == 64:
                status = path.stat()
                used += status.st_size
                files.append((status.st_atime_ns, status.st_size, path))
        in_use = 0
        for _, bytes_, path in sorted(files):
            if used + size <= self.cache_bytes and shutil.disk_usage(folder).free >= size:
                return
            if _remove_unused(path):
                _mark(path).unlink(missing_ok=True)
                used -= bytes_
                self._count(evicted=1)
            else:
                in_use += 1
        if used + size > self.cache_bytes:
            raise _NoRoom(
                f"{folder}: no room for {size:,} bytes: {used:,} of {self.cache_bytes:,} are in use "
                f"({in_use} open shards and downloads); give the cache more bytes or use fewer processes"
            )
        free = shutil.disk_usage(folder).free
        if free < size:
            raise (_NoRoom if in_use else UserError)(
                f"{folder}: disk full: a shard of {size:,} bytes, {free:,} bytes free; make room or move the cache"
            )

    def _download(self, shard: ShardRef, path: Path, part: Path) -> None:
        filesystem, root = self._remote()
        name = f"{self.location}/{shard.path}"

        def fetch() -> None:
            filesystem.get_file(f"{root}/{shard.path}", str(part))
            self._accept(shard, path, part)

        def failed(error: Exception, last: bool) -> None:
            self._count(damaged=isinstance(error, Damaged), retries=not last)

        try:
            tried(name, fetch, self.attempts, self.first_wait_s, failed)
        except FileNotFoundError:
            raise UserError(f"{name}: missing; upload the certified shard") from None
        except OSError as error:
            raise UserError(
                f"{self.cache}: disk full while fetching {shard.path}; make room or move the cache"
            ) from error
        self._count(fetched=1, fetched_bytes=shard.size)

    def _accept(self, shard: ShardRef, path: Path, part: Path) -> None:
        """Give a downloaded file its name if it is the shard, whole."""
        with part.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.size:
                raise Damaged(f"{size} bytes came where {shard.size} were certified")
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            self._count(hashed_bytes=size)
            if digest != shard.sha256:
                raise Damaged(f"SHA-256 {digest[:12]}... where {shard.sha256[:12]}... was certified: altered")
            os.fsync(file.fileno())
            write_atomic(_mark(path), _stamp(file.fileno()).encode())
        part.rename(path)
        sync_folder(path.parent)

    def _remote(self) -> tuple[Any, str]:
        """The file system of the location and the path on it; made in the process that uses it."""
        with self._lock:
            if self._filesystem is None:
                self._filesystem = connect(self.location, self.options)
            return self._filesystem


def _stamp(descriptor: int) -> str:
    """What tells a file from the one that was hashed: inode, size, time of modification."""
    status = os.fstat(descriptor)
    return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".ok")


def _read(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _opened(path: Path) -> int | None:
    """A descriptor to read from; None if there is no such file."""
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _is_linked(path: Path, descriptor: int) -> bool:
    """Whether the open file is still the one under this name."""
    try:
        return path.stat().st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_unused(path: Path) -> bool:
    """Remove a file of the cache that no process holds; whether it is gone."""
    if (descriptor := _opened(path)) is None:
        return True
    try:
        if not _try_lock(descriptor):
            return False
        path.unlink(missing_ok=True)
        return True
    finally:
        os.close(descriptor)
