"""Streaming: samples a CPU-second from the same tars, ours beside other loaders and limits; resume in a large corpus.

Samples are 336-pixel JPEGs of some 21 kB with 0.6 kB of JSON, as a CLIP encoder eats them. Raw: the bytes of JSON and
picture are handed out, nothing is parsed or decoded. Decoded: to RGB. Ours and the peers that can are globally
shuffled. Limits: slices of a memory map in the same order, and the bare decode of the same bytes.

Peers run with the interpreter given by `--peer-python` where they are installed there, each in a process of its own:
this file is run as `python bench/stream.py PEER FOLDER`, imports nothing of the project then, and times iteration
alone, after the peer has made its own copy or index. One environment takes them all: locks/interop.txt.
mosaicml-streaming imports torchvision, which does not load where it is made for CUDA and torch for the CPU, or the
other way round.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

SAMPLES = 4000
ROUNDS = 5
CORPUS = {"gmai": 9_965, "medtrinity": 18_500_000, "pmc_oa": 500_000, "pubmedvision": 240_035, "quilt": 50_000}
"""19.3 M samples of five sources, about the recipe's mid-training stage, in the middle of which is resumed."""

PEERS = ("webdataset", "webdataset_shuffled", "datasets", "litdata", "mosaicml_streaming", "energon")


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Raw and decoded samples a CPU-second, medians of five rounds in turn; peers once over the same shards; resume."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        _write(data)
        figures: dict[str, Any] = {"samples": SAMPLES} | _ours(data)
        figures["peers"] = {
            name: _peer(peer_python or Path(sys.executable), name, data)
            for name in PEERS
            if peer_python is not None or name.startswith(("webdataset", "datasets"))
        }
        ours = figures["raw, maps new"]["samples_per_cpu_s"]
        for row in figures["peers"].values():
            if "samples_per_cpu_s" in row:
                row["ours_over"] = round(ours / row["samples_per_cpu_s"], 2)
        _order(_Certified(data, CORPUS))  # the schedule of the mixture is worked out once, and kept
        command = [sys.executable, "-m", "bench.stream", "resume", str(data)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        figures["resume"] = json.loads(done.stdout)
    return figures


class _Shard(NamedTuple):
    path: str
    sha256: str
    size: int
    samples: int


class _Places(NamedTuple):
    shard: Any
    offset: Any
    length: Any
    images: Any
    image_offset: Any
    image_length: Any


class _Source:
    """`size` samples, of which every `SAMPLES` are the ones on disk again."""

    def __init__(self, name: str, size: int, shards: tuple[_Shard, ...], rows: Any) -> None:
        self.name, self.size, self.shards, self.rows = name, size, shards, rows

    def __len__(self) -> int:
        return self.size

    def places(self, indices: Any) -> _Places:
        """Where samples lie."""
        import numpy as np

        shard, offset, length, image_offset, image_length = self.rows[indices % SAMPLES].T
        return _Places(shard, offset, length, np.ones(len(indices), np.int64), image_offset, image_length)


class _Certified:
    def __init__(self, data: Path, sizes: dict[str, int]) -> None:
        import numpy as np

        index = json.loads((data / "index.json").read_text())
        shards = tuple(_Shard(*row) for row in index["shards"])
        rows = np.array(index["rows"], np.int64)
        self.data, self.folder, self.digest = data, data / ".streams", "bench"
        self.sources = {name: _Source(name, size, shards, rows) for name, size in sizes.items()}


def _order(certified: Any) -> Any:
    from medgpt.settings import checked
    from shards.mixture import Mixture
    from shards.order import EpochOrder

    sources = [{"build": name, "epochs": 1} for name in certified.sources]
    return EpochOrder(certified, checked(Mixture, {"format": 1, "name": "bench", "sources": sources}, "bench"), seed=1)


def _write(data: Path) -> None:
    """The shards, and where each sample lies."""
    import numpy as np
    import orjson
    from PIL import Image

    from shards.writer import TarShardWriter

    folder = data / "built" / "bench" / "shards"
    folder.mkdir(parents=True)
    writer = TarShardWriter(folder, "bench-train", 22 << 20)
    chance = np.random.Generator(np.random.PCG64(1))
    places = []
    for number in range(SAMPLES):
        grain = np.clip(chance.normal(128, 30, (84, 84, 3)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(grain).resize((336, 336), Image.Resampling.BICUBIC).save(file, "JPEG", quality=70)
        record = orjson.dumps({"id": f"bench/train/{number}", "text": "x" * 570})
        places.append(writer.add(f"bench/train/{number}", record, [("0.jpg", file.getvalue())]))
    files = writer.close()
    numbers = {file.name: number for number, file in enumerate(files)}
    shards = [(f"built/bench/shards/{f.name}", f.sha256.hex(), f.size, f.samples) for f in files]
    rows = [(numbers[p.shard], p.offset, p.length, *p.images[0]) for p in places]
    (data / "index.json").write_text(json.dumps({"shards": shards, "rows": rows}))


def _ours(data: Path) -> dict[str, Any]:
    import mmap

    import numpy as np
    from PIL import Image

    from shards.storage import Storage
    from shards.stream import Stream, pictures

    certified: Any = _Certified(data, {"bench": SAMPLES})
    order = _order(certified)
    rows = certified.sources["bench"].rows[order.at(np.arange(SAMPLES))[1]].tolist()
    paths = [data / shard.path for shard in certified.sources["bench"].shards]

    def maps() -> list[mmap.mmap]:
        opened = []
        for path in paths:
            with path.open("rb") as file:
                opened.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return opened

    def slices(files: list[mmap.mmap]) -> None:
        for shard, offset, length, image, image_length in rows:
            file = files[shard]
            _ = file[offset : offset + length], file[image : image + image_length]

    def decode(files: list[mmap.mmap]) -> None:
        for shard, _, _, image, image_length in rows:
            Image.open(io.BytesIO(files[shard][image : image + image_length])).convert("RGB")

    def stream(storage: Storage, **options: Any) -> None:
        for _ in Stream(certified, order, storage=storage, **options):
            pass

    kept, opened = Storage(data), maps()
    works: dict[str, Callable[[], None]] = {
        "raw, maps new": lambda: stream(Storage(data)),
        "raw, maps new, limit": lambda: slices(maps()),
        "raw, maps kept": lambda: stream(kept),
        "raw, maps kept, limit": lambda: slices(opened),
        "raw, batches of 64": lambda: stream(kept, batch_size=64),
        "decoded": lambda: stream(kept, decode=pictures),
        "decoded, limit": lambda: decode(opened),
    }
    stream(Storage(data))  # the digests are checked once, outside the measurement
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.process_time()
            work()
            seconds[name].append(time.process_time() - started)
    rates = {name: SAMPLES / sorted(values)[ROUNDS // 2] for name, values in seconds.items()}
    figures: dict[str, Any] = {name: {"samples_per_cpu_s": round(rate)} for name, rate in rates.items()}
    for name, limit in (("raw, maps new",) * 2, ("raw, maps kept",) * 2, ("decoded",) * 2):
        figures[name]["of_limit"] = round(rates[name] / rates[f"{limit}, limit"], 3)
    return figures


def _peer(python: Path, name: str, data: Path) -> dict[str, Any]:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(data / "hf")}
    command = [str(python), str(Path(__file__)), name, str(data)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    if done.returncode:
        return {"not measured": (done.stderr.strip().splitlines() or ["no message"])[-1][:200]}
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _resume(data: Path) -> dict[str, Any]:
    """First batch in the middle of 19.3 M samples: milliseconds from nothing but imports, bytes of state, memory."""
    import shards.mixture
    import shards.order  # noqa: F401 - imports are not measured
    from shards.storage import Storage
    from shards.stream import Stream

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    certified: Any = _Certified(data, CORPUS)  # what opening the certified index takes is measured with the index
    before = resident()
    started, used = time.perf_counter(), time.process_time()
    order = _order(certified)
    stream = Stream(certified, order, batch_size=16, world_size=8, rank=3, storage=Storage(data))
    state = stream.state_dict() | {"position": len(order) // 2}
    stream.load_state_dict(state)
    batch = next(iter(stream))
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    assert len(batch.items) == 16
    assert batch.position == len(order) // 2
    return {
        "samples": len(order),
        "first_batch_wall_ms": round(wall * 1000, 1),
        "first_batch_cpu_ms": round(cpu * 1000, 1),
        "state_bytes": len(json.dumps(stream.state_dict())),
        "memory_growth_mb": round((resident() - before) / 1e6, 1),
    }


# What follows runs in the peers' environment, without the project.


def _tars(data: Path) -> list[str]:
    return [str(path) for path in sorted((data / "built" / "bench" / "shards").glob("*.tar"))]


def _members(data: Path) -> Iterator[tuple[bytes, bytes]]:
    """(JSON, picture) of every sample."""
    for row in json.loads((data / "index.json").read_text())["rows"]:
        with Path(_tars(data)[row[0]]).open("rb") as file:
            file.seek(row[1])
            record = file.read(row[2])
            file.seek(row[3])
            yield record, file.read(row[4])


def _webdataset(data: Path) -> Iterable[Any]:
    import webdataset

    return webdataset.WebDataset(_tars(data), shardshuffle=False)  # type: ignore[no-any-return, unused-ignore]


def _webdataset_shuffled(data: Path) -> Iterable[Any]:
    import webdataset

    return webdataset.WebDataset(_tars(data), shardshuffle=100).shuffle(1000)  # type: ignore[no-any-return, unused-ignore]


def _datasets(data: Path) -> Iterable[Any]:
    from datasets import Image, load_dataset

    rows = load_dataset("webdataset", data_files=_tars(data), split="train", streaming=True)
    return rows.cast_column("0.jpg", Image(decode=False))  # type: ignore[no-any-return, unused-ignore]


def _litdata(data: Path) -> Iterable[Any]:
    import litdata
    from litdata.streaming.cache import Cache

    folder = str(data / "litdata")
    cache = Cache(folder, chunk_bytes=22 << 20)
    for number, (record, image) in enumerate(_members(data)):
        cache[number] = {"json": record, "jpg": image}
    cache.done()
    cache.merge()
    return litdata.StreamingDataset(folder, shuffle=True)  # type: ignore[no-any-return, unused-ignore]


def _mosaicml_streaming(data: Path) -> Iterable[Any]:
    import streaming

    folder = str(data / "mosaic")
    with streaming.MDSWriter(out=folder, columns={"json": "bytes", "jpg": "bytes"}, size_limit=22 << 20) as out:
        for record, image in _members(data):
            out.write({"json": record, "jpg": image})
    streaming.base.util.clean_stale_shared_memory()
    return streaming.StreamingDataset(local=folder, shuffle=True, batch_size=1)  # type: ignore[no-any-return, unused-ignore]


def _energon(data: Path) -> Iterable[Any]:
    import shutil

    folder = data / "energon"
    folder.mkdir()
    for path in _tars(data):
        shutil.copy(path, folder)
    energon = str(Path(sys.executable).parent / "energon")
    subprocess.run(
        [energon, "prepare", str(folder), "--non-interactive", "--split-ratio", "1,0,0"],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / ".nv-meta" / "dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CrudeWebdataset\nsubflavors: {}\n"
    )
    from megatron.energon import (
        Cooker,
        DefaultTaskEncoder,
        WorkerConfig,
        basic_sample_keys,
        get_loader,
        get_train_dataset,
        stateless,
    )
    from megatron.energon.flavors import CrudeSample

    @stateless  # type: ignore[untyped-decorator, unused-ignore]
    def cook(sample: Any) -> Any:
        return CrudeSample({**basic_sample_keys(sample), **sample})

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc, type-arg, unused-ignore]
        cookers = [Cooker(cook)]  # noqa: RUF012
        decoder = None

    dataset = get_train_dataset(
        str(folder), worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), batch_size=None,
        shuffle_buffer_size=1000, max_samples_per_sequence=100, repeat=False, task_encoder=Encoder(),
    )  # fmt: skip
    return get_loader(dataset)  # type: ignore[no-any-return, unused-ignore]


def _cpu() -> float:
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _time_peer(name: str, data: Path) -> dict[str, Any]:
    """The middle of three passes; a pass ends after as many samples as there are."""
    samples = globals()[f"_{name}"](data)
    rates = []
    for _ in range(3):
        started, count = _cpu(), 0
        for _ in samples:
            count += 1
            if count == SAMPLES:
                break
        rates.append(count / (_cpu() - started))
    assert count == SAMPLES, f"{name} gave {count} samples"
    return {"samples_per_cpu_s": round(sorted(rates)[1])}


if __name__ == "__main__":
    work, where = sys.argv[1], Path(sys.argv[2])
    print(json.dumps(_resume(where) if work == "resume" else _time_peer(work, where)))
