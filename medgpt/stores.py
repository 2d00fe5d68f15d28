"""Trees in object stores (s3://, gs://, any fsspec URL): what is uploaded, and the local mirror that commands read.

An object is there whole or not at all, so what says that others are whole (a unit's ledger, `build.json`, a
certificate) is uploaded after them. A store may damage, lose or delay anything: every upload carries a checksum that
the store compares, every download is held against the digest that `build.json` names. Nothing is tried more often
than is said (`tried`). Endpoint and credentials are those of the environment (AWS_ENDPOINT_URL, AWS_PROFILE, ...).
"""

import base64
import errno
import logging
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from medgpt.errors import NOT_FINISHED, UserError, one_line

ATTEMPTS = 4
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
WRITABLE = ("s3", "s3a", "gs", "gcs", "memory")
"""Where objects appear whole and one can be made only if there is none: without both, nothing is uploaded."""
_S3 = ("s3", "s3a")
_AT_ONCE = 128 << 20
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
        try:
            self._write(name, lambda filesystem, path: filesystem.pipe_file(path, content, mode="create"))
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
            raise UserError(f"{self.url}: nothing is written to {self.protocol}://; {', '.join(WRITABLE[:3:2])} can be")

    def require_private(self, source: str, allowed: Collection[str]) -> None:
        """Refuse to upload credentialed data to where it must not go: a host that is neither this machine nor allowed.

        Of S3 the endpoint counts, with any proxy of the environment; of other stores `scheme://bucket`.
        Raises: `UserError`.
        """
        from urllib.request import getproxies, proxy_bypass

        from medgpt.endpoints import resolve_endpoint

        if self.protocol == "memory":
            return
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


def _said(error: BaseException) -> str:
    """An error with its kind, in one line."""
    return one_line(str(error) if isinstance(error, Damaged) else f"{type(error).__name__} {error}")
