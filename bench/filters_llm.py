"""The language-model filter against a stub on loopback that answers at once: what the client itself costs.

Peers: the same requests through one `httpx.AsyncClient`, and through `openai.AsyncOpenAI` where the peer environment
has it; both keep nothing. The stub is a process of its own; its CPU time is in no figure. The endpoint is all that a
real run waits for as long as it gives fewer answers a second than `requests_per_s` here.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import orjson

from bench.stub_endpoint import serve_apart
from filters.base import Record
from filters.language_model import RELEVANCE, LanguageModel, load_prompt
from filters.misleading_numbers import MisleadingNumbers

REQUESTS, CONCURRENCY, ROUNDS = 500, 32, 3

_PEER = """
import asyncio, json, sys, time
from openai import AsyncOpenAI
base, texts, lanes = sys.argv[1], json.load(open(sys.argv[2])), int(sys.argv[3])
async def main():
    client = AsyncOpenAI(base_url=base, api_key="unused")
    waiting = iter(texts)
    async def work():
        for messages in waiting:
            await client.chat.completions.create(model="stub", messages=messages, max_tokens=96, temperature=0.0)
    await asyncio.gather(*(work() for _ in range(lanes)))
started, cpu = time.perf_counter(), time.process_time()
asyncio.run(main())
print(json.dumps([time.perf_counter() - started, time.process_time() - cpu]))
"""


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Requests a second of wall time and of the client's CPU time; medians of three rounds in turn."""
    stub, base = serve_apart()
    try:
        with tempfile.TemporaryDirectory() as folder:
            works: dict[str, Callable[[int], tuple[float, float]]] = {
                "ours": lambda number: _timed(lambda: _ours(base, Path(folder) / str(number))),
                "ours, all verdicts known": lambda number: _timed(lambda: _ours(base, Path(folder) / str(number))),
                "peer: httpx.AsyncClient": lambda number: _timed(lambda: asyncio.run(_httpx(base))),
            }
            if peer_python is not None and _has_openai(peer_python):
                sheet = Path(folder) / "messages.json"
                sheet.write_text(json.dumps([load_prompt(RELEVANCE).messages(text) for text in _texts()]))
                works["peer: openai.AsyncOpenAI"] = lambda number: _peer(peer_python, base, sheet)
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
            for number in range(ROUNDS):
                for name, work in works.items():
                    times[name].append(work(number))
    finally:
        stub.kill()
        stub.join()
    figures: dict[str, Any] = {"requests": REQUESTS, "concurrency": CONCURRENCY}
    for name, seconds in times.items():
        wall, cpu = (sorted(column)[ROUNDS // 2] for column in zip(*seconds, strict=True))
        figures[name] = {"requests_per_s": round(REQUESTS / wall), "requests_per_cpu_s": round(REQUESTS / cpu)}
    return figures | {"number rules": _rules()}


def _texts() -> list[str]:
    words = "axial coronal sagittal chest brain liver kidney nodule mass effusion contrast stain biopsy lesion".split()
    return [f"{words[n % 14]} image of the {words[n // 14 % 14]} with {words[n // 196 % 14]}" for n in range(REQUESTS)]


def _ours(base: str, folder: Path) -> None:
    samples = [
        {"id": f"bench/train/{n}", "source": "bench", "access": "open",
         "messages": [{"role": "assistant", "content": [{"type": "text", "text": text}]}]}
        for n, text in enumerate(_texts())
    ]  # fmt: skip
    filter_ = LanguageModel(base, "stub", folder, concurrency=CONCURRENCY)
    filter_.score([Record(sample) for sample in samples])
    filter_.close()


async def _httpx(base: str) -> None:
    bodies = [
        orjson.dumps({"model": "stub", "messages": load_prompt(RELEVANCE).messages(text), "max_tokens": 96})
        for text in _texts()
    ]
    waiting = iter(bodies)
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=CONCURRENCY), trust_env=False) as client:

        async def work() -> None:
            for body in waiting:
                (await client.post(f"{base}/chat/completions", content=body)).raise_for_status()

        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))


def _timed(work: Callable[[], None]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def _has_openai(python: Path) -> bool:
    return subprocess.run([python, "-c", "import openai"], capture_output=True, check=False).returncode == 0


def _peer(python: Path, base: str, sheet: Path) -> tuple[float, float]:
    command = [python, "-c", _PEER, base, sheet, str(CONCURRENCY)]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    wall, cpu = json.loads(done.stdout)
    return wall, cpu


def _rules() -> dict[str, int]:
    """Captions a CPU-second through the number rules; 200 characters each, with eight numbers."""
    text = (
        "Figure 2. H&E stain, original magnification x200, of a 3.2 x 4 cm mass in a 45-year-old man; CD20 was "
        "positive in 12 of 34 patients (35%, p = 0.03) seen between 2014 and 2019, as reported before [12]."
    )
    content = [{"type": "text", "text": text}]
    one = Record({"id": "a", "source": "a", "access": "open", "messages": [{"role": "assistant", "content": content}]})
    started = time.process_time()
    MisleadingNumbers().score([one] * REQUESTS)
    return {"captions_per_cpu_s": round(REQUESTS / (time.process_time() - started))}
