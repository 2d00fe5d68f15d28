"""An OpenAI-compatible endpoint on loopback whose behaviour is scripted: for tests, and for measuring the client.

    with StubEndpoint() as stub:
        stub.behaviour = lambda text, number: "http_500" if number == 1 else "ok"
        LanguageModel(stub.base, "stub", folder)

It counts requests and delivered answers by the text they are about. Standard library and orjson only.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import multiprocessing.connection
import threading
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import orjson

RELEVANT = b'{"relevant": true, "reason": "clinical", "confidence": 90}'
MISLEADING = b'{"misleading": true, "kind": "count", "confidence": 80}'

REPLIES = {429: b"Too Many Requests", 500: b"Internal Server Error", 307: b"Temporary Redirect", 400: b"Bad Request"}

Behaviour = Callable[[str, int], str]
"""(text, how many requests were about it, this one included) -> one of:

ok, slow (answers after a second), hold (never answers), nonsense (talk around no JSON), truncated (half an answer with
finish_reason `length`), no_chat (valid JSON that is no completion), no_json, close (hangs up without an answer),
endless (a body without end), http_<status> (429 carries the header `Retry-After` of `retry_after`), text:<answer>."""


class StubEndpoint:
    """A server in a thread of its own, on a free port of 127.0.0.1. A context."""

    def __init__(self) -> None:
        self.behaviour: Behaviour = lambda text, number: "ok"
        self.retry_after = "0"
        self.requests: Counter[str] = Counter()
        """Requests by prompt and text: `relevant: Axial CT ...`."""
        self.answered: Counter[str] = Counter()
        """Those whose answer was handed to the network whole, with status 200."""
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[str] = []
        self.keep = True
        """Whether bodies and headers are kept."""
        self.port = 0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def base(self) -> str:
        """The address that clients are given."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0.01))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                fields = dict(line.lower().split(": ", 1) for line in head.split("\r\n") if ": " in line)
                length = int(fields["content-length"])
                if not await self._reply(head, await reader.readexactly(length), writer):
                    break
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _reply(self, head: str, data: bytes, writer: asyncio.StreamWriter) -> bool:
        body = orjson.loads(data)
        asked = body["messages"][-1]["content"].removeprefix("<caption>").removesuffix("</caption>")
        numbers = '"misleading"' in body["messages"][0]["content"]
        name = f"{'misleading' if numbers else 'relevant'}: {asked}"
        self.requests[name] += 1
        if self.keep:
            self.bodies.append(body)
            self.headers.append(head)
        kind = self.behaviour(asked, self.requests[name])
        if kind == "close":
            return False
        if kind == "hold":
            await asyncio.sleep(3600)
        if kind == "slow":
            await asyncio.sleep(1.0)
        if kind == "endless":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 9999999999\r\n\r\n")
            while True:
                writer.write(b" " * 65536)
                await writer.drain()
        if kind.startswith("http_"):
            status = int(kind.removeprefix("http_"))
            # A careless server that repeats what it was sent.
            reply = orjson.dumps({"error": {"message": f"refused: {asked}"}})
            extra = f"Retry-After: {self.retry_after}\r\n" if status == 429 else ""
            extra += "Location: http://127.0.0.1:9/v1/chat/completions\r\n" if status == 307 else ""
            await _send(writer, f"{status} {REPLIES.get(status, b'Status').decode()}", reply, extra)
            return True
        await _send(writer, "200 OK", _completion(kind, MISLEADING if numbers else RELEVANT))
        self.answered[name] += 1
        return True


async def _send(writer: asyncio.StreamWriter, status: str, reply: bytes, extra: str = "") -> None:
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(reply)}\r\n{extra}\r\n"
    writer.write(head.encode() + reply)
    await writer.drain()


def _completion(kind: str, good: bytes) -> bytes:
    if kind == "no_json":
        return b"<html>gateway</html>"
    if kind == "no_chat":
        return b'{"choices": [], "usage": "none"}'
    content = {
        "nonsense": "I think that this is a fine picture.",
        "truncated": good[:14].decode(),
        "thinking": "<think>A CT, so",
    }.get(kind)
    if kind.startswith("text:"):
        content = kind.removeprefix("text:")
    return orjson.dumps(
        {
            "id": "stub",
            "object": "chat.completion",
            "created": 0,
            "model": "stub",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": good.decode() if content is None else content},
                    "finish_reason": "length" if kind in ("truncated", "thinking") else "stop",
                }
            ],
            "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
        }
    )


def serve_apart() -> tuple[multiprocessing.Process, str]:
    """A stub that always answers, in a process of its own (its CPU time is not the client's); stop it with `kill`."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve_until_killed, args=(theirs,), daemon=True)
    process.start()
    return process, ours.recv()  # type: ignore[return-value]


def _serve_until_killed(connection: multiprocessing.connection.Connection) -> None:
    with StubEndpoint() as stub:
        stub.keep = False
        connection.send(stub.base)
        threading.Event().wait()
