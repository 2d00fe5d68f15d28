"""Trees in object stores (s3://, gs://, any fsspec URL): what is uploaded, and the local mirror that commands read.

An object is there whole or not at all, so what says that others are whole (a unit's ledger, `build.json`, a
certificate) is uploaded after them. A store may damage, lose or delay anything: every upload carries a checksum that
the store compares, every download is held against the digest that `build.json` names. Nothing is tried more often
than is said (`tried`). Endpoint and credentials are those of the environment (AWS_ENDPOINT_URL, AWS_PROFILE, ...).
"""

import base64
import errno
import logging
import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256 as _sha256
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import orjson

from medgpt.atomic import TEMPORARY_SUFFIX, locked, write_atomic
from medgpt.digest import file_sha256
from medgpt.errors import NOT_FINISHED, UserError, one_line
from medgpt.layout import BUILD_FILE, MAX_DEPTH
from medgpt.private import CREDENTIALED, keep_private, make_folder

ATTEMPTS = 4
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITABLE = ("s3", "s3a", "gs", "gcs")
"""Where objects appear whole and one can be made only if there is none: without both, nothing is uploaded."""
_S3 = ("s3", "s3a")
_AT_ONCE = 64 << 20
"""S3: up to here a file is one request, whose SHA-256 S3 compares; above, parts of half of that, each with a CRC."""
_LONGEST_WAIT_S = 30.0

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class StoreError(UserError):
    """A store did not do what it was asked; what is done stays."""

    exit_code = NOT_FINISHED


class Damaged(Exception):
    """What came is not what was asked for; worth another attempt."""


def tried(
    what: str, action: Callable[[], Result], attempts: int = ATTEMPTS, wait_s: float = 0.5,
    failed: Callable[[Exception, bool], None] = lambda error, last: None,
) -> Result:  # fmt: skip
    """Do something over the network, at most `attempts` times, the waits doubling; each failure is logged.

    `failed` is told of each, and whether it was the last. Raises: `StoreError`; at once `FileNotFoundError` and
    `FileExistsError`, and `OSError` where a disk of this machine is full.
    """
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except (FileNotFoundError, FileExistsError, UserError):
            raise
        except PermissionError as error:
            raise StoreError(f"{what}: access denied ({_said(error)})") from error
        except Exception as error:  # every client library has errors of its own, all of them may pass
            if type(error).__name__.endswith("CredentialsError"):  # botocore's: there are none
                raise StoreError(f"{what}: access denied ({_said(error)})") from error
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            last = attempt == attempts
            failed(error, last)
            if last:
                raise StoreError(f"{what}: {_said(error)}; given up after {attempt} attempts") from error
            log.warning(
                "%s: %s; attempt %d of %d failed, next in %.1f s", what, _said(error), attempt, attempts, wait_s
            )
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
    raise ValueError(f"attempts={attempts}")


def connect(location: str, options: Mapping[str, Any]) -> tuple[Any, str]:
    """The fsspec file system of a URL and the path on it, without retries of its own. Raises: `UserError`."""
    import fsspec

    protocol = location.partition("://")[0]
    own: dict[str, Any] = {}
    try:
        if protocol in ("http", "https"):
            import aiohttp

            # Without this, aiohttp ends any download after five minutes.
            own = {"client_kwargs": {"timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}}
        elif protocol in _S3:
            # The client's own retries would be silent.
            own = {"config_kwargs": {"retries": {"mode": "standard", "total_max_attempts": 1}, "connect_timeout": 10}}
        elif protocol in ("gs", "gcs"):
            own = {"consistency": "md5"}
        filesystem, root = fsspec.core.url_to_fs(location, **own | dict(options))
    except ImportError as error:
        raise UserError(f"{location}: {error}; pip install 'medgpt-oss[remote]'") from error
    except ValueError as error:
        raise UserError(f"{location}: {error}") from error
    if protocol in _S3:
        filesystem.retries = 1
    return filesystem, str(root).rstrip("/")


class Store:
    """What lies below a URL; names are relative to it. Picklable: each process connects for itself.

    `attempts` and `wait_s` are as in `tried`; `options` go to the fsspec file system.
    """

    def __init__(
        self, url: str, *, attempts: int = ATTEMPTS, wait_s: float = 0.5, options: Mapping[str, Any] | None = None
    ) -> None:
        self.url, self.attempts, self.wait_s, self.options = url, attempts, wait_s, dict(options or {})
        self.protocol = url.partition("://")[0]
        self._connected: tuple[Any, str] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_connected": None}

    @property
    def filesystem(self) -> Any:
        """The fsspec file system. Raises: `UserError` (unknown scheme, a client that is not installed)."""
        if self._connected is None:
            self._connected = connect(self.url, self.options)
        return self._connected[0]

    def _do(self, name: str, action: Callable[[Any, str], Result]) -> Result:
        filesystem = self.filesystem
        assert self._connected is not None
        path = f"{self._connected[1]}/{name}".rstrip("/")
        return tried(f"{self.url}/{name}", lambda: action(filesystem, path), self.attempts, self.wait_s)

    def read(self, name: str) -> bytes | None:
        """A small object; None if there is none."""
        try:
            content: bytes = self._do(name, lambda filesystem, path: filesystem.cat_file(path))
        except FileNotFoundError:
            return None
        return content

    def get(self, name: str, file: Path, size: int, sha256: str | None) -> str:
        """Download an object of this size, and of this digest where it is known; its digest.

        Raises: `StoreError` where it is another one, or gone.
        """

        def fetch(filesystem: Any, path: str) -> str:
            filesystem.get_file(path, str(file))
            came, digest = file.stat().st_size, file_sha256(file).hex()
            if came != size:
                raise Damaged(f"{came} bytes came where {size} were listed")
            if sha256 not in (None, digest):
                raise Damaged(f"SHA-256 {digest[:12]}... where build.json says {sha256[:12]}...: altered")
            return digest

        try:
            return self._do(name, fetch)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}/{name}: gone since it was listed; run again") from error
        except OSError as error:
            raise StoreError(f"{file.parent}: disk full while fetching {name}; --cache names another place") from error

    def listing(self, name: str = "") -> dict[str, dict[str, Any]]:
        """What the store says of each object below `name`, by its name below the URL: `size` and more."""

        def find(filesystem: Any, path: str) -> dict[str, dict[str, Any]]:
            filesystem.invalidate_cache()
            return dict(filesystem.find(path, detail=True))

        assert self.filesystem is not None and self._connected is not None
        start = len(self._connected[1]) + 1
        try:
            return {path[start:]: about for path, about in sorted(self._do(name, find).items())}
        except FileNotFoundError:
            return {}

    def put(self, file: Path, name: str, sha256: str) -> None:
        """Upload a file of this machine, with its digest where the store compares one."""
        size = file.stat().st_size
        more: dict[str, Any] = {}
        if self.protocol in _S3:
            more = {"chunksize": _AT_ONCE // 2, "max_concurrency": 2}
            if size < _AT_ONCE:
                more["ChecksumSHA256"] = base64.b64encode(bytes.fromhex(sha256)).decode()
        self._write(name, lambda filesystem, path: filesystem.put_file(str(file), path, **more))

    def write(self, name: str, content: bytes) -> None:
        """Upload a small object, in place of one that is there."""
        self._write(name, lambda filesystem, path: filesystem.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> bytes | None:
        """Upload a small object if there is none (If-None-Match); the content of the one that is there."""

        def make(filesystem: Any, path: str) -> None:
            try:
                filesystem.pipe_file(path, content, mode="create")
            except OSError as error:
                # S3's 412, where the server does not name the condition, as MinIO.
                if error.errno == errno.EINVAL and "condition" in str(error):
                    raise FileExistsError(path) from error
                raise

        try:
            self._write(name, make)
        except FileExistsError:
            return self.read(name)
        return None

    def _write(self, name: str, action: Callable[[Any, str], Any]) -> None:
        try:
            self._do(name, action)
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}/{name}: {_said(error)}; make the bucket first") from error

    def remove(self, name: str) -> None:
        """Remove an object, if it is there."""
        try:
            self._do(name, lambda filesystem, path: filesystem.rm_file(path))
        except FileNotFoundError:
            return

    def require_writable(self) -> None:
        """Raises: `UserError` where nothing may be uploaded."""
        if self.protocol not in WRITABLE:
            raise UserError(f"{self.url}: nothing is written to {self.protocol}://; s3:// and gs:// can be")

    def require_private(self, source: str, allowed: Collection[str]) -> None:
        """Refuse to upload credentialed data to where it must not go: a host that is neither this machine nor allowed.

        Of S3 the endpoint counts, with any proxy of the environment; of other stores `scheme://bucket`.
        Raises: `UserError`.
        """
        from urllib.request import getproxies, proxy_bypass

        from medgpt.endpoints import resolve_endpoint

        host = "://".join(urlsplit(self.url)[:2])
        if self.protocol in _S3:
            self.filesystem.connect()
            endpoint = resolve_endpoint(self.filesystem.s3.meta.endpoint_url)
            host = endpoint.host
            scheme = urlsplit(endpoint.base).scheme
            if endpoint.loopback:
                if scheme not in getproxies() or proxy_bypass(host):
                    return
                host = f"{host} by the proxy of {scheme}_proxy"
        if host.lower() not in {name.lower() for name in allowed}:
            raise UserError(
                f"{source} is credentialed: texts and pictures go to loopback only, and {self.url} is at {host}; "
                f"if your data use agreement covers it, --allow-host {host.partition(' ')[0]}"
            )


_BESIDE = frozenset({"proof", "filtered"})
"""Folders that are mirrored beside builds."""
_MIRROR = ".mirror.json"
"""In a mirror: of each file what the store said of it, and its digest. Written after the files."""
_THREADS = 8


def open_tree(
    url: str, cache: Path | None = None, *, shards: bool = False, send: Collection[str] | None = None
) -> Path:
    """A local folder that mirrors a tree of builds in a store: every command can work on it unchanged.

    Copied are `build.json` and Parquet parts of every build, `proof` and `filtered`; shards only if asked for, but
    they are seen to be there in full size. What was copied before and has not changed is not copied again. Each file
    is held against its digest in `build.json`, which appears after them, as in a build. `cache` is the folder of
    mirrors, by default in the user's cache. With `send`, what is made of the tree will be uploaded (`publish`):
    credentialed data must then be at a host that is allowed, one of `send`.

    Raises: `UserError`.
    """
    store = Store(url)
    if send is not None:
        store.require_writable()
    below = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "medgpt"
    folder = below / _sha256(url.encode()).hexdigest()[:16]
    with _told(), locked(folder):
        _update(store, folder, shards, send)
    return folder


def _update(store: Store, folder: Path, shards: bool, send: Collection[str] | None) -> None:
    listed = {
        name: about for name, about in store.listing().items() if not any(p[:1] in ("", ".") for p in name.split("/"))
    }
    builds: dict[str, bytes] = {}
    for name in sorted(listed, key=lambda name: name.count("/")):
        place = name.removesuffix(BUILD_FILE)
        inside = any(name.startswith(build) for build in builds)
        if place + BUILD_FILE == name and place[-1:] in ("", "/") and place.count("/") <= MAX_DEPTH and not inside:
            builds[place] = store.read(name) or b""
    if not builds:
        raise UserError(f"{store.url}: no {BUILD_FILE} here or in {MAX_DEPTH} levels of folders; run a builder first")
    wanted: dict[str, str | None] = {name: None for name in listed if _BESIDE & set(name.split("/")[:-1])}
    stay = {f"{place}{BUILD_FILE}" for place in builds}
    for place, content in builds.items():
        for name, size, sha256 in _files(store, place, content, send):
            kind = name.removeprefix(place).partition("/")[0]
            if name not in listed:
                if kind == "thumbnails":  # manifests may be shared without
                    continue
                raise UserError(f"{store.url}/{name}: missing; build it again")
            if size not in (None, there := listed[name]["size"]):
                raise UserError(f"{store.url}/{name}: {there} bytes where {size} were written; build it again")
            if kind == "shards" and not shards:
                stay.add(name)
            else:
                wanted[name] = sha256
    make_folder(folder)  # private, if one of them is
    record = folder / _MIRROR
    known: dict[str, list[str]] = orjson.loads(record.read_bytes()) if record.is_file() else {}
    made = {f"proof/{path.name}" for path in (folder / "proof").glob("*") if path.is_file()}
    for name in (known.keys() | made) - wanted.keys() - stay:
        (folder / name).unlink(missing_ok=True)
        known.pop(name, None)
    for place, content in builds.items():
        path = folder / place / BUILD_FILE
        if path.is_file() and path.read_bytes() != content:
            path.unlink()

    def fetch(name: str) -> None:
        about, path = listed[name], folder / name
        said = _sha256(repr(sorted((key, str(value)) for key, value in about.items())).encode()).hexdigest()
        before, sha256 = known.get(name), wanted[name]
        whole = path.is_file() and path.stat().st_size == about["size"]
        if whole and before and before[0] == said and sha256 in (None, before[1]):
            return
        make_folder(path.parent)
        part = path.with_name(path.name + TEMPORARY_SUFFIX)
        digest = store.get(name, part, about["size"], sha256)
        part.replace(path)
        known[name] = [said, digest]

    try:
        with ThreadPoolExecutor(_THREADS) as pool:
            try:
                for _ in pool.map(fetch, sorted(wanted)):
                    pass
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        # A proof that is to be made anew here may stop half-way: the next time, the one of the store comes again.
        kept = {name: said for name, said in known.items() if send is None or not name.startswith("proof/")}
        write_atomic(record, orjson.dumps(kept | {f"{place}{BUILD_FILE}": [] for place in builds}))
    for place, content in builds.items():
        make_folder(folder / place)
        write_atomic(folder / place / BUILD_FILE, content)


def _files(
    store: Store, place: str, content: bytes, send: Collection[str] | None
) -> Iterator[tuple[str, int | None, str]]:
    """(name, bytes if known, SHA-256) of a build's files; what reads credentialed ones is private from then on."""
    name = place + BUILD_FILE
    try:
        document = orjson.loads(content)
        access = document["source"]["access"]
        keep_private(access)
        if send is not None and access == CREDENTIALED:
            store.require_private(document["build"], send)
        yield place + document["inputs"]["file"], None, document["inputs"]["file_sha256"]
        for unit in document["units"]:
            for file in unit["parts"] + unit["shards"]:
                if ".." in file["file"].split("/"):
                    raise UserError(f"{store.url}/{name}: names a file outside its build; build it again")
                yield place + file["file"], file["bytes"], file["sha256"]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{store.url}/{name}: cannot be read ({type(error).__name__}); build it again") from error


def publish(files: Iterable[Path], url: str, folder: str, last: str) -> None:
    """Upload files as a folder of a tree, in place of what is there; the one called `last` last.

    Until all are there that one is not, so no reader sees half of it. Raises: `UserError`.
    """
    store, named = Store(url), {path.name: path for path in files}
    with _told():
        store.remove(f"{folder}/{last}")
        for name in sorted(named, key=lambda name: (name == last, name)):
            store.put(named[name], f"{folder}/{name}", file_sha256(named[name]).hex())
        for name in store.listing(folder):
            if name.removeprefix(f"{folder}/") not in named:
                store.remove(name)


@contextmanager
def _told() -> Iterator[None]:
    """Of a command that reads, exit code 1 may say that something was found: what a store did not do is code 2."""
    try:
        yield
    except StoreError as error:
        raise UserError(str(error)) from error


def _said(error: BaseException) -> str:
    """An error with its kind, in one line."""
    return one_line(str(error) if isinstance(error, Damaged) else f"{type(error).__name__} {error}")
