"""Micro-batches for one rank, made ahead of the device: threads read packs, decode pictures and cut them into tiles.

The order is the stream's, whatever the number of threads: packs are handed out in order and taken in order. A step has
the same number of micro-batches on every rank; where the last step of an epoch has no pack for one, it is empty and
weighs nothing.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from shards.stream import Batch, Pack, Stream

Micro = TypeVar("Micro")


@dataclass(frozen=True)
class Step(Generic[Micro]):
    """What one rank trains on between two updates."""

    micros: list[Micro]
    batch: Batch
    waited: float
    """Seconds that the device had nothing to do."""


class Batches(Generic[Micro]):
    """Steps of a stream of packs whose `batch_size` is the number of packs that a rank takes in a step."""

    def __init__(self, stream: Stream, make: Callable[[Pack | None], Micro], workers: int) -> None:
        self.stream, self._make, self._workers = stream, make, workers

    def __iter__(self) -> Iterator[Step[Micro]]:
        size = self.stream.batch_size or 1
        ahead = 1 + -(-self._workers // size)
        waiting: deque[tuple[Batch, list[Future[Micro]]]] = deque()
        batches = iter(self.stream)
        with ThreadPoolExecutor(self._workers, "pack") as pool:
            try:
                more = True
                while True:
                    while more and len(waiting) < ahead:
                        batch = next(batches, None)
                        if batch is None:
                            more = False
                            break
                        packs = [*batch.items, *[None] * (size - len(batch.items))]
                        waiting.append((batch, [pool.submit(self._make, pack) for pack in packs]))
                    if not waiting:
                        return
                    batch, futures = waiting.popleft()
                    started = time.perf_counter()
                    micros = [future.result() for future in futures]
                    yield Step(micros, batch, time.perf_counter() - started)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
