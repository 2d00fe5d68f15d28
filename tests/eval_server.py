"""An OpenAI-compatible server for tests of the evaluation, in a process of its own: it can be killed and started again.

    with Server(tmp_path) as server:           # server.base, server.calls(), server.kill(), server.start()

It answers every question with a letter (or a text) that follows from the question alone, notes each answered question
in a file, and can be told to be slow or to fail at first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self


def asked(body: dict[str, Any]) -> tuple[str, int]:
    """(text of the last turn, pictures in all turns) of a request."""
    pictures = 0
    for turn in body["messages"]:
        if isinstance(turn["content"], list):
            pictures += sum(part["type"] == "image_url" for part in turn["content"])
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else "".join(p.get("text", "") for p in content), pictures


def reply_to(text: str) -> str:
    """What the server answers: the same question, the same answer."""
    return f"Answer: {'ABCD'[hashlib.sha256(text.encode()).digest()[0] % 4]}"


class Server:
    """The server as a child process on a free port. A context."""

    def __init__(self, folder: Path, **behaviour: Any) -> None:
        """`behaviour`: delay_s, first (an HTTP status for the first request about each question), most (answers before
        503), content, finish."""
        self.log = folder / "server.jsonl"
        self.behaviour = behaviour
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        command = [sys.executable, __file__, str(self.port), str(self.log), json.dumps(self.behaviour)]
        self.process = subprocess.Popen(command)
        for _ in range(400):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError("the server does not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def entries(self) -> list[dict[str, Any]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines]

    def calls(self) -> Counter[str]:
        """Answered requests by digest of question and pictures."""
        return Counter(entry["digest"] for entry in self.entries() if entry["status"] == 200)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class _Handler:
    def __init__(self, log: Path, behaviour: dict[str, Any]) -> None:
        self.log, self.behaviour = log.open("a", buffering=1), behaviour
        self.seen: Counter[str] = Counter()
        self.flying = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                length = next(
                    int(line[16:]) for line in head.split("\r\n") if line.lower().startswith("content-length")
                )
                body = json.loads(await reader.readexactly(length))
                self.flying += 1
                status, data = await self.answer(body, head)
                self.flying -= 1
                writer.write(
                    f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(data)}\r\nRetry-After: 0\r\n\r\n".encode()
                    + data
                )
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def answer(self, body: dict[str, Any], head: str) -> tuple[int, bytes]:
        text, pictures = asked(body)
        self.seen[text] += 1
        flying = self.flying
        await asyncio.sleep(self.behaviour.get("delay_s", 0.0))
        status = self.behaviour.get("first", 200) if self.seen[text] == 1 else 200
        if self.seen.total() > self.behaviour.get("most", 10**9):
            status = 503
        if self.behaviour.get("refuse", "\0") in text:
            status = 400
        fields = {name: value for name, value in body.items() if name != "messages"}
        roles = [turn["role"] for turn in body["messages"]]
        digest = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()
        entry = {
            "digest": digest,
            "text": text,
            "pictures": pictures,
            "status": status,
            "flying": flying,
            "fields": fields,
        }
        self.log.write(json.dumps({**entry, "roles": roles, "key": "authorization" in head.lower()}) + "\n")
        if status != 200:
            return status, b'{"error": "no"}'
        if "raw" in self.behaviour:
            return 200, self.behaviour["raw"].encode("latin-1")
        message = {"role": "assistant", "content": self.behaviour.get("content", reply_to(text))}
        if "reasoning" in self.behaviour:
            message["reasoning"] = self.behaviour["reasoning"]
        choice = {"index": 0, "message": message, "finish_reason": self.behaviour.get("finish", "stop")}
        usage = {"prompt_tokens": 10, "completion_tokens": 3}
        return 200, json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


async def _serve(port: int, log: Path, behaviour: dict[str, Any]) -> None:
    server = await asyncio.start_server(_Handler(log, behaviour), "127.0.0.1", port)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))
