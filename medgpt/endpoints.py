"""Where texts may be sent: any endpoint for open data; for credentialed data loopback, or a host the user has allowed.

The address that was checked is the address that is connected to: a name is resolved once and requests go to that
address (with the name in `Host` and in the TLS handshake), so that a name server cannot answer differently the second
time. Proxies of the environment are never used and redirects never followed: both would carry texts elsewhere.
"""

import ipaddress
import os
import socket
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from medgpt.errors import UserError


class EndpointRefused(UserError):
    """One line: this endpoint is no web address, cannot be resolved, or must not see these texts."""


@dataclass(frozen=True)
class Endpoint:
    """A resolved endpoint."""

    base: str
    """As given, without a slash at the end: `http://127.0.0.1:8000/v1`."""
    host: str
    port: int
    addresses: tuple[str, ...]
    """What the host stands for, in the order of the resolver."""

    @property
    def loopback(self) -> bool:
        """Whether every address of the host is this machine's own."""
        return all(is_loopback(address) for address in self.addresses)

    def url(self, path: str, address: str) -> str:
        """The address of `path` below the base, with the host replaced by one of `addresses`."""
        parts = urlsplit(self.base)
        host = f"[{address}]" if ":" in address else address
        return f"{parts.scheme}://{host}:{self.port}{parts.path}{path}"

    @property
    def host_header(self) -> str:
        """What the server must see in `Host`."""
        return urlsplit(self.base).netloc

    def reachable_address(self, timeout_s: float) -> str:
        """The first address that accepts a connection (`localhost` may be two, and a server on one of them).

        Raises: `OSError` of the last address if none does.
        """
        *others, last = self.addresses
        for address in others:
            try:
                socket.create_connection((address, self.port), timeout_s).close()
            except OSError:
                continue
            return address
        socket.create_connection((last, self.port), timeout_s).close()
        return last


def is_loopback(address: str) -> bool:
    """Whether a numeric address is in 127.0.0.0/8 or ::1, also when written as an IPv4-mapped IPv6 address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return (mapped or parsed).is_loopback


def resolve_endpoint(base: str) -> Endpoint:
    """Parse and resolve `http(s)://host[:port][/path]`. Raises: `EndpointRefused`."""
    try:
        parts = urlsplit(base.strip())
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
    except ValueError as error:
        raise EndpointRefused(f"endpoint {base!r} is no web address: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise EndpointRefused("the endpoint's address holds a user name or password; leave it out")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise EndpointRefused(f"endpoint {base!r} is no web address; give one like http://127.0.0.1:8000/v1")
    if parts.query or parts.fragment:
        raise EndpointRefused(f"endpoint {base!r}: leave out what follows ? or #")
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise EndpointRefused(f"endpoint {base!r}: host {parts.hostname} cannot be resolved ({error})") from None
    addresses = dict.fromkeys(str(entry[4][0]) for entry in found)
    return Endpoint(base.strip().rstrip("/"), parts.hostname, port, tuple(addresses))


def require_private(endpoint: Endpoint, source: str, allowed: Collection[str] = ()) -> None:
    """Refuse an endpoint that must not see credentialed texts.

    `allowed` are hosts, or `host:port`, that the user answers for; letter case does not matter.
    Raises: `EndpointRefused`.
    """
    names = {name.strip().lower() for name in allowed}
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    if endpoint.loopback or names & {endpoint.host.lower(), host.lower(), f"{host}:{endpoint.port}".lower()}:
        return
    raise EndpointRefused(
        f"{source} is credentialed: its texts go to loopback only, but {endpoint.host} is "
        f"{', '.join(endpoint.addresses)}; serve the model on 127.0.0.1, "
        "or allow the host by name if your data use agreement covers it"
    )


def read_key(variable: str | None, file: Path | None = None) -> str | None:
    """The API key in a file or an environment variable, None for neither. Raises: `UserError` if it is not there."""
    if file is not None:
        try:
            return file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"--key-file {file}: cannot be read ({type(error).__name__})") from None
    if variable is None:
        return None
    if value := os.environ.get(variable):
        return value
    raise UserError(f"the environment variable {variable}, named as the API key's, is not set")
