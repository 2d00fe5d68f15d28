"""Exporting: samples of text and pictures of 50 kB a CPU-second in every format, from shards of our own making.

Counts reading, the digest of each shard, rows, files and their digests, and for JSON the joining of pieces; not the
check of the certificate and the cards, which take the same time at any size. No picture is decoded: they are random
bytes. Limit: each picture copied and hashed twice (as part of its shard, and of what is written).
"""

from __future__ import annotations

import hashlib
import random
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.jpeg_build import ROUNDS, cpu_seconds
from bench.text_build import _text

TEXTS, PICTURES, PICTURE_BYTES = 40_000, 4_000, 50_000


class _Source(NamedTuple):
    """What an export asks of a certified build."""

    shards: Any
    rows: Any
    """[samples, 6] columns of `shards.certified.Places`; one picture a sample, or none."""

    def __len__(self) -> int:
        return len(self.rows)

    def places(self, indices: Any) -> Any:
        from shards.certified import Places

        shard, offset, length, images, image_offset, image_length = self.rows[indices].T
        shown = images > 0
        return Places(shard, offset, length, images, image_offset[shown], image_length[shown])


def _write(data: Path, pictures: bool) -> _Source:
    import numpy as np
    import orjson

    from builders.engine.source import assistant, user
    from medgpt.groups import GROUP_KEYS
    from shards.storage import ShardRef
    from shards.writer import ArrowShardWriter, TarShardWriter

    chance = random.Random(1)
    folder = data / "shards"
    folder.mkdir()
    writer = (TarShardWriter if pictures else ArrowShardWriter)(folder, "bench-train")
    places = []
    for number in range(PICTURES if pictures else TEXTS):
        name = f"bench/train/{number}"
        asked = user(0, _text(chance, 20)) if pictures else user(_text(chance, 60))
        image = {"file": "0.jpg", "image_id": name} | dict.fromkeys(("subject_id", "study_id", "view", "relation"))
        record = {
            "id": name, "source": "bench", "role": "train", "split": "train", "subset": None, "stage": "instruct",
            "task": "vqa" if pictures else "qa", "messages": [asked, assistant(_text(chance, 60))],
            "question": None, "options": None, "answer": None, "images": [image] if pictures else [],
            "group": dict.fromkeys(GROUP_KEYS), "license": "CC0-1.0", "access": "open", "metadata_only": False,
            "provenance": {"file": "made", "row": str(number)},
        }  # fmt: skip
        images = [("0.jpg", chance.randbytes(PICTURE_BYTES))] if pictures else []
        places.append(writer.add(name, orjson.dumps(record), images))
    files = writer.close()
    numbers = {file.name: number for number, file in enumerate(files)}
    rows = [(numbers[p.shard], p.offset, p.length, *((1, *p.images[0]) if p.images else (0, 0, 0))) for p in places]
    shards = [ShardRef(f"shards/{file.name}", file.sha256.hex(), file.size, file.samples) for file in files]
    return _Source(shards, np.array(rows, np.int64))


def _export(source: Any, data: Path, out: Path, name: str) -> None:
    from shards.export import Exporter, _files
    from shards.exports.rows import pieces
    from shards.storage import Storage

    pictures = bool(source.rows[0, 3])
    work = Exporter({"bench": source}, Storage(data), out, name, False, pictures)
    done = [(piece, work(piece)) for piece in pieces("bench", source)]
    assert sum(written.samples for written in _files(work, "bench", done)) == len(source)


def _limit(source: Any, data: Path) -> None:
    from shards.storage import Storage

    storage = Storage(data, verify="size")
    for _, _, _, _, offset, length in source.rows.tolist():
        picture = storage.open(source.shards[0]).data[offset : offset + length]
        for _ in range(2):
            hashlib.sha256(picture).digest()


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Samples of text, and pictures, a CPU-second; medians of three rounds, each into a new folder."""
    del peer_python
    from shards.export import NAMES

    figures: dict[str, Any] = {"texts": TEXTS, "pictures": PICTURES, "picture_bytes": PICTURE_BYTES}
    for what, count in (("texts", TEXTS), ("pictures", PICTURES)):
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder)
            source = _write(data, what == "pictures")
            rows = {}
            for name in NAMES:
                seconds = []
                for _ in range(ROUNDS):
                    with tempfile.TemporaryDirectory(dir=folder) as out:
                        shutil.rmtree(data / ".streams", ignore_errors=True)  # which shards were hashed before
                        seconds.append(cpu_seconds(partial(_export, source, data, Path(out), name)))
                rows[name] = round(count / sorted(seconds)[ROUNDS // 2])
            figures[f"{what}_per_cpu_s"] = rows
            if what == "pictures":
                figures["limit: copied and hashed twice"] = round(count / cpu_seconds(partial(_limit, source, data)))
    return figures
