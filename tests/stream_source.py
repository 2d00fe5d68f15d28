"""Small shards and the simplest possible certified list and order over them, all in memory: what a stream stands on.

An order here is a shuffled list. What the keyed order, mixtures and the certified index promise is tested on their own.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgpt.schema import SAMPLE, canonical_json
from shards.storage import ShardRef
from shards.writer import ArrowShardWriter, Location, ShardWriter, TarShardWriter


class Places(NamedTuple):
    shard: Any
    offset: Any
    length: Any
    images: Any
    image_offset: Any
    image_length: Any


class Source:
    def __init__(self, name: str, shards: tuple[ShardRef, ...], rows: list[Location], ids: list[str]) -> None:
        numbers = {shard.path.rpartition("/")[2]: number for number, shard in enumerate(shards)}
        self.name, self.shards, self._rows, self._ids = name, shards, rows, ids
        self._numbers = numbers

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def shard_counts(self) -> Any:
        return np.array([shard.samples for shard in self.shards])

    def ids(self, indices: Any) -> list[str]:
        return [self._ids[index] for index in indices]

    def places(self, indices: Any) -> Places:
        rows = [self._rows[index] for index in indices]
        images = [span for row in rows for span in row.images]
        columns = (
            [self._numbers[row.shard] for row in rows], [row.offset for row in rows], [row.length for row in rows],
            [len(row.images) for row in rows], [start for start, _ in images], [length for _, length in images],
        )  # fmt: skip
        return Places(*(np.array(column, np.int64) for column in columns))


class Certified:
    def __init__(self, data: Path, sources: Sequence[Source], digest: str = "certificate") -> None:
        self.data, self.sources, self.digest = data, {source.name: source for source in sources}, digest
        self.folder = data / ".streams"


class Order:
    def __init__(self, certified: Certified, seed: int = 0, epoch: int = 0, mixture: str = "all") -> None:
        self.certified, self.seed, self.epoch, self.mixture_digest = certified, seed, epoch, mixture
        self.sources = tuple(certified.sources)
        pairs = [(s, i) for s, name in enumerate(self.sources) for i in range(len(certified.sources[name]))]
        random.Random(f"{seed} {epoch}").shuffle(pairs)
        self.pairs = pairs
        self._pairs = np.array(pairs).reshape(-1, 2)

    def at_epoch(self, epoch: int) -> Order:
        return Order(self.certified, self.seed, epoch, self.mixture_digest)

    def __len__(self) -> int:
        return len(self._pairs)

    def at(self, positions: Any) -> tuple[Any, Any]:
        return self._pairs[positions, 0], self._pairs[positions, 1]

    def ids(self) -> list[str]:
        """The epoch's sample ids, one by one."""
        return [self.certified.sources[self.sources[s]].ids([i])[0] for s, i in self.pairs]


class Plan:
    """Packs of a few neighbours of the order."""

    def __init__(self, order: Any, size: int = 3, recipe: str = "plan") -> None:
        self.order, self.size, self.recipe = order, size, recipe

    def __len__(self) -> int:
        return -(-len(self.order) // self.size)

    def pack(self, number: int) -> tuple[Any, Any, Any]:
        start = number * self.size
        sources, indices = self.order.at(np.arange(start, min(start + self.size, len(self.order))))
        return sources, indices, np.full(len(indices), 100) if number % 5 == 4 else None

    def check(self, order: Any) -> None:
        assert order.epoch == self.order.epoch


def record(sample_id: str, images: int) -> dict[str, Any]:
    fields: dict[str, Any] = dict.fromkeys(SAMPLE.names)
    return fields | {
        "id": sample_id, "source": sample_id.partition("/")[0], "role": "train", "split": "train", "stage": "instruct",
        "task": "vqa", "messages": [{"role": "user", "reasoning": None, "content": [
            {"type": "text", "text": f"What is {sample_id}? " + "ä" * (hash_of(sample_id) % 40), "index": None}]}],
        "images": [{"file": f"{i}.jpg", "image_id": None, "subject_id": None, "study_id": None, "view": None,
                    "relation": None} for i in range(images)],
        "license": "CC0-1.0", "access": "open", "metadata_only": False,
    }  # fmt: skip


def picture(sample_id: str, number: int) -> bytes:
    name = f"{sample_id}.{number}"
    return hashlib.shake_128(name.encode()).digest(50 + hash_of(name) % 900)


def hash_of(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big")


def write_source(
    data: Path, name: str, count: int, *, images: int | None, fixed: bool = False, shard_bytes: int = 20_000
) -> Source:
    """Samples with up to (or `fixed`, just) `images` pictures in tars, or (None) without in Arrow files."""
    folder = data / "built" / name / "shards"
    folder.mkdir(parents=True)
    kind: type[ShardWriter] = ArrowShardWriter if images is None else TarShardWriter
    writer = kind(folder, f"{name}-train", shard_bytes)
    rows, ids = [], []
    for number in range(count):
        sample_id = f"{name}/train/{number}"
        pictures = 0 if images is None else images if fixed else number % (images + 1)
        members = [(f"{i}.jpg", picture(sample_id, i)) for i in range(pictures)]
        rows.append(writer.add(sample_id, canonical_json(record(sample_id, pictures)), members))
        ids.append(sample_id)
    shards = tuple(
        ShardRef(f"built/{name}/shards/{file.name}", file.sha256.hex(), file.size, file.samples)
        for file in writer.close()
    )
    return Source(name, shards, rows, ids)


def write_five(data: Path, scale: int = 1) -> Certified:
    """Five sources of different sizes, one of them text."""
    counts = {"a": (40, 1), "b": (7, 3), "c": (101, 0), "d": (23, None), "e": (1, 2)}
    return Certified(data, [write_source(data, name, n * scale, images=i) for name, (n, i) in counts.items()])
