"""Chat completions of an OpenAI-compatible endpoint: bounded retries with back-off, then a clean stop.

The one client of filters (a model that judges captions) and evaluation (a model that is judged). No text and no answer
ever appears in an error: the body of a refusal is shown only for `probe`, whose text is ours.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

from medgpt.endpoints import Endpoint
from medgpt.errors import NOT_FINISHED, UserError
from medgpt.messages import safe
from medgpt.private import is_private

FIRST_WAIT_S = 0.5
"""Back-off: 0.5, 1, 2, 4, ... seconds, each shortened by up to half, at most `ChatOptions.longest_wait_s`."""

MAX_REPLY_BYTES = 4_000_000
"""A longer reply is no answer to any question asked here; reading on would fill the memory."""

_REFUSALS = frozenset({400, 413, 422})
_TRANSIENT = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


class EndpointError(UserError):
    """One line: the endpoint gives no answers. What was answered is kept; the same command goes on later."""

    exit_code = NOT_FINISHED


class RequestRefused(UserError):
    """The endpoint will not take this one request (too long, filtered); it does take others."""


class Stopped(UserError):
    """Another request has found that the endpoint gives no answers."""


@dataclass(frozen=True)
class ChatOptions:
    """How hard to try."""

    concurrency: int = 32
    timeout_s: float = 120.0
    """For one request, from sending to the last byte."""
    tries: int = 6
    """Requests for one answer, faults and back-off included."""
    longest_wait_s: float = 60.0
    """An endpoint that asks to wait longer (`Retry-After`) is one to come back to later."""

    def __post_init__(self) -> None:
        for name in ("concurrency", "timeout_s", "tries", "longest_wait_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} {getattr(self, name)}: must be over 0")


@dataclass(frozen=True)
class Reply:
    """A completion. `content` is None where the body is no chat completion at all."""

    content: str | None
    truncated: bool
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str | None = None
    """As the server says: `stop`, `length`, ...; None where it says nothing."""
    reasoning: str | None = None
    """What servers put beside the answer, as `reasoning` or `reasoning_content`."""
    completion: bool = False
    """Whether the body is a chat completion with a message; its `content` may still be null."""


class Chat:
    """A client for one event loop; use as an asynchronous context."""

    def __init__(self, endpoint: Endpoint, address: str, options: ChatOptions, api_key: str | None = None) -> None:
        """`address` is the one of `endpoint.addresses` to connect to."""
        self._endpoint = endpoint
        self._options = options
        self._url = endpoint.url("/chat/completions", address)
        self._headers = {"Content-Type": "application/json", "Host": endpoint.host_header}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"
        secure = endpoint.base.startswith("https")
        self._extensions = {"sni_hostname": endpoint.host} if secure else {}
        # An empty context where there is no TLS: loading all root certificates takes longer than a small batch.
        self._context = _certificates() if secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # One connection each: a shared pool looks through all its connections at every request, which costs more than
        # the request (measured with 32 at a time: 280 requests/s against 1,340/s). A bare transport follows no
        # redirects, keeps no cookies and, without trust_env, uses no proxy.
        self._idle: list[httpx.AsyncHTTPTransport] = []
        self._resume_at = 0.0
        self._probe: asyncio.Task[None] | None = None
        self.stop = asyncio.Event()
        """Set it, and requests that wait for another try give up."""
        self.requests = 0
        self.retries = 0
        """Requests that were made again after a fault or a refusal for the time being."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for transport in self._idle:
            await transport.aclose()

    async def complete(self, body: Mapping[str, Any], probe: Mapping[str, Any]) -> Reply:
        """Answer to one request. `probe` is a like request with a harmless text, sent once if one is refused.

        Raises: `RequestRefused`, `Stopped`, `EndpointError`.
        """
        data = orjson.dumps(body)
        status, reply = await self._send(data)
        if status in _REFUSALS:
            # Is it this text, or does the endpoint refuse everything (wrong model, unknown response_format)?
            if self._probe is None:
                self._probe = asyncio.create_task(self._check(orjson.dumps(probe)))
            await asyncio.shield(self._probe)
            raise RequestRefused(f"HTTP {status}")
        return _parse(reply)

    async def _check(self, data: bytes) -> None:
        status, reply = await self._send(data)
        if status in _REFUSALS:
            raise EndpointError(f"{self._endpoint.base} refuses every request, HTTP {status}: {_said(reply)}")

    async def _send(self, data: bytes) -> tuple[int, bytes]:
        """Status (200 or a refusal) and body."""
        fault = ""
        for number in range(1, self._options.tries + 1):
            await self._pause(self._resume_at - time.monotonic())
            self.requests += 1
            wait = None
            try:
                async with asyncio.timeout(self._options.timeout_s):
                    status, headers, reply = await self._post(data)
            except (httpx.TransportError, TimeoutError) as error:
                slow = isinstance(error, TimeoutError | httpx.TimeoutException)
                # The library's own words name hosts and sockets only, never what was sent.
                fault = str(error) or type(error).__name__
                if slow:
                    fault = f"no answer within {self._options.timeout_s:g} s"
            else:
                if status == 200 or status in _REFUSALS:
                    return status, reply
                fault = f"HTTP {status}"
                if status not in _TRANSIENT:
                    raise EndpointError(f"{self._endpoint.base} answers {fault}: {_hint(status)}")
                wait = _retry_after(headers.get("retry-after"))
            if wait is not None and wait > self._options.longest_wait_s:
                raise EndpointError(
                    f"{self._endpoint.base} answers {fault} and asks to wait {wait:.0f} s; run the same command later"
                )
            if number < self._options.tries:
                self.retries += 1
                if wait is not None:
                    self._resume_at = max(self._resume_at, time.monotonic() + wait)
                await self._pause(min(self._options.longest_wait_s, _back_off(data, number)) if wait is None else 0.0)
        raise EndpointError(
            f"{self._endpoint.base}: {fault}, {self._options.tries} times in a row; what was answered is kept, "
            "run the same command again when the endpoint is up"
        )

    async def _post(self, data: bytes) -> tuple[int, httpx.Headers, bytes]:
        request = httpx.Request("POST", self._url, content=data, headers=self._headers, extensions=self._extensions)
        transport = self._idle.pop() if self._idle else self._connection()
        whole = False
        try:
            response = await transport.handle_async_request(request)
            try:
                pieces: list[bytes] = []
                size = 0
                async for piece in response.aiter_bytes():
                    size += len(piece)
                    if size > MAX_REPLY_BYTES:
                        return response.status_code, response.headers, b""
                    pieces.append(piece)
                whole = True
            finally:
                await response.aclose()
        finally:
            if whole:
                self._idle.append(transport)
            else:
                await transport.aclose()
        return response.status_code, response.headers, b"".join(pieces)

    def _connection(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(max_connections=1)
        return httpx.AsyncHTTPTransport(verify=self._context, trust_env=False, limits=limits)

    async def _pause(self, seconds: float) -> None:
        if self.stop.is_set():
            raise Stopped
        if seconds > 0:
            try:
                await asyncio.wait_for(self.stop.wait(), seconds)
            except TimeoutError:
                return
            raise Stopped


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def _back_off(data: bytes, number: int) -> float:
    """Seconds before the next try. Spread out by the request's digest, so that workers do not all come back at once."""
    spread = hashlib.sha256(data + bytes([number])).digest()[0] / 255
    return FIRST_WAIT_S * float(2 ** (number - 1)) * (1 - 0.5 * spread)


def _retry_after(value: str | None) -> float | None:
    """Seconds that a `Retry-After` header asks for (a number or a date); None where it says nothing readable."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _hint(status: int) -> str:
    if status in (401, 403):
        return "check the key"
    if 300 <= status < 400:
        return "redirects are not followed, give the final address"
    if status in (404, 405, 410):
        return "check the address (it ends before /chat/completions, often in /v1) and the model's name"
    return "this cannot be helped by trying again"


def _said(reply: bytes) -> str:
    if is_private():  # a server may repeat what it was asked
        return "what it said is not shown"
    return safe(reply[:600].decode("utf-8", "replace"), 300) or "(no message)"


def _parse(reply: bytes) -> Reply:
    try:
        value = orjson.loads(reply)
    except orjson.JSONDecodeError:
        value = None
    counts = [_of(_of(value, "usage"), name) for name in ("prompt_tokens", "completion_tokens")]
    tokens = [count if isinstance(count, int) and count > 0 else 0 for count in counts]
    choices = _of(value, "choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    finish, message = _of(choice, "finish_reason"), _of(choice, "message")
    content, reasoning = _of(message, "content"), _of(message, "reasoning") or _of(message, "reasoning_content")
    return Reply(
        content if isinstance(content, str) else None,
        finish == "length",
        tokens[0],
        tokens[1],
        finish if isinstance(finish, str) else None,
        reasoning if isinstance(reasoning, str) else None,
        isinstance(message, dict),
    )


def _of(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None
