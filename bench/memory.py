"""Memory of one worker on sources larger than memory should be: a 2 GB Parquet three ways and a 5 GB tar.

`parquet` has row groups of 10,000 rows, `parquet_one_group` holds the same rows in a single group, `parquet_pictures`
holds JPEGs of 290 kB in groups of 1,000, `tar` is one WebDataset tar of JPEG and JSON, built as one unit. Each is built
by the real loop with one worker in a fresh process, whose peak resident size must stay below 1.5 GiB whatever the
source's size. Disk: three times the largest source, removed afterwards. `BENCH_MEMORY_SCALE=0.05` builds a twentieth.
"""

from __future__ import annotations

import io
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from bench.jpeg_build import SETS
from builders.engine.archives import Content, count_webdataset_samples, stored, webdataset_samples
from builders.engine.loop import BuildOptions, make_plan, run
from builders.engine.rawfiles import outcome, relative
from builders.engine.source import CAPTION_PROMPT, Image, Params, Reject, Sample, Source, Unit, assistant, user
from builders.engine.tables import Row, convert_rows, table_units
from builders.engine.unit import load_source
from shards.writer import tar_header

SCALE = float(os.environ.get("BENCH_MEMORY_SCALE", "1"))
PARQUET_BYTES, TAR_BYTES = int(2e9 * SCALE), int(5e9 * SCALE)
_WORDS = (
    "the of and in with a was to for no is at on mg right left patient chest pain fever artery vein lesion biopsy "
    "chronic normal increased findings consistent therapy dose daily carcinoma cells tissue shows renal hepatic "
    "pulmonary effusion oedema fracture examination history hypertension diabetes treatment diagnosis surgery acute"
).split()
PICTURES = 24
"""Drawn ones; a comment segment makes each copy another file."""


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    [path] = raw.iterdir()
    if path.suffix == ".parquet":
        yield from table_units(raw, [path], "train", "train")
    else:
        rows = count_webdataset_samples(path, raw)
        yield Unit("train-00000", "train", "train", rows, {"file": relative(path, raw)}, (relative(path, raw),))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    file = unit.payload["file"]
    if file.endswith(".parquet"):
        yield from convert_rows(raw, unit, _row_sample)
        return
    for number, (key, parts) in enumerate(webdataset_samples(raw / file, raw)):
        yield outcome(partial(_tar_sample, file, str(number), key, parts), file, str(number))


def _row_sample(row: Row) -> Sample:
    caption, picture = row.values["caption"], row.values["picture"]
    image = Image(f"bench/{row.number}", f"{row.file}!{row.number}", lambda: picture)
    messages = [user(0, CAPTION_PROMPT), assistant(caption)]
    return Sample(row.number, messages, row.file, row.number, answer=caption, images=[image])


def _tar_sample(file: str, row: str, key: str, parts: dict[str, Content]) -> Sample:
    caption = json.loads(stored(parts["json"]))["caption"]
    image = Image(f"bench/{key}", f"{file}!{key}.jpg", lambda: stored(parts["jpg"]))
    return Sample(key, [user(0, CAPTION_PROMPT), assistant(caption)], file, row, answer=caption, images=[image])


SOURCE = Source(
    name="bench_memory", title="Large generated sources", homepage="-", revision="1", license="CC0-1.0",
    access="open", stage="pretrain", task="caption", modality="image-text", splits={"train": "train"}, obtain="-",
    plan=_plan, read=_read, published=lambda params: {}, module="bench.memory",
)  # fmt: skip


def _cuts(seed: int) -> Iterator[str]:
    """Endless texts of 100 to 3,000 characters, cut from a few megabytes of words: gigabytes take seconds."""
    chance = random.Random(seed)
    words = (chance.choice(_WORDS) if chance.random() < 0.8 else str(chance.randrange(1000)) for _ in range(1_000_000))
    pool = " ".join(words)
    while True:
        start = chance.randrange(len(pool) - 3_000)
        yield pool[start : start + chance.randint(100, 3_000)]


def _pictures(name: str) -> Iterator[bytes]:
    """Endless JPEGs, no two alike."""
    make, quality = SETS[name]
    drawn = []
    for seed in range(PICTURES):
        buffer = io.BytesIO()
        make(seed).save(buffer, "JPEG", quality=quality)
        drawn.append(buffer.getvalue())
    number = 0
    while True:
        data = drawn[number % PICTURES]
        yield data[:2] + b"\xff\xfe\x00\x0a%08d" % number + data[2:]
        number += 1


def _write_text(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, schema = _cuts(2), pa.schema([(name, pa.string()) for name in ("instruction", "reasoning", "response")])
    with path.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
        while file.tell() < PARQUET_BYTES:
            writer.write_table(pa.table({name: [next(texts) for _ in range(10_000)] for name in schema.names}, schema))


def _write_one_group(path: Path) -> None:
    import pyarrow.parquet as pq

    _write_text(path)
    whole = pq.read_table(path)
    pq.write_table(whole, path, row_group_size=whole.num_rows)


def _write_pictures(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts, pictures = _cuts(3), _pictures("radiographs")
    schema = pa.schema([("caption", pa.string()), ("picture", pa.binary())])
    with path.open("wb") as file, pq.ParquetWriter(file, schema) as writer:
        while file.tell() < PARQUET_BYTES:
            rows = [[next(column) for _ in range(1_000)] for column in (texts, pictures)]
            writer.write_table(pa.table(rows, schema=schema))


def _write_tar(path: Path) -> None:
    texts, pictures, number = _cuts(4), _pictures("figures"), 0
    with path.open("wb") as file:
        while file.tell() < TAR_BYTES:
            # The article that BIOMEDICA puts into every figure's record is a few times its caption.
            record = {"caption": next(texts), "article_text": " ".join(next(texts) for _ in range(6))}
            for extension, data in (("jpg", next(pictures)), ("json", json.dumps(record).encode())):
                file.write(tar_header(f"{number:08d}.{extension}", len(data)) + data + bytes(-len(data) % 512))
            number += 1
        file.write(bytes(1024))


SOURCES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "parquet": ("train.parquet", _write_text),
    "parquet_one_group": ("train.parquet", _write_one_group),
    "parquet_pictures": ("pictures.parquet", _write_pictures),
    "tar": ("train.tar", _write_tar),
}


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Peak resident MiB, seconds and rates for each source, one round; `BENCH_MEMORY_ONLY=tar` builds one of them."""
    del peer_python
    figures = {}
    for name in os.environ.get("BENCH_MEMORY_ONLY", " ".join(SOURCES)).split():
        file, _ = SOURCES[name]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "raw" / file
            path.parent.mkdir()
            # In a process of its own, too: what it held must not count.
            subprocess.run([sys.executable, "-m", "bench.memory", "write", name, str(path)], check=True)
            megabytes = path.stat().st_size / 1e6
            command = [sys.executable, "-m", "bench.memory", "build", str(path.parent), f"{folder}/built"]
            built = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        figures[name] = {"mb": round(megabytes), **built} | {
            "rows_per_s": round(built["rows"] / built["wall_s"], 1),
            "mb_per_s": round(megabytes / built["wall_s"], 1),
        }
        print(json.dumps({name: figures[name]}), file=sys.stderr, flush=True)
    return figures


def _build(raw: Path, out: Path) -> dict[str, Any]:
    """Build `raw` in this process, which has done nothing else."""
    source = load_source("bench.text_build" if (raw / "train.parquet").exists() else "bench.memory", {})
    params = {"no_images": False, "split": None, "licenses": None}
    options = BuildOptions(raw=raw, out=out, params=params, progress=False)
    started = time.monotonic()
    plan = make_plan(source, options)
    planned, peak = time.monotonic(), _peak_mib()
    document = run(source, options, plan)
    wall, used = time.monotonic() - started, resource.getrusage(resource.RUSAGE_SELF)
    return {
        "rows": document["counts"]["kept"],
        "units": len(plan.jobs),
        "rows_of_largest_unit": max(job.take for job in plan.jobs),
        "plan_s": round(planned - started, 1),
        "plan_peak_mib": peak,
        "peak_mib": _peak_mib(),
        "wall_s": round(wall, 1),
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
    }


def _peak_mib() -> int:
    """Largest resident size of this program; `ru_maxrss` would count the process that started it as well."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) >> 10


if __name__ == "__main__":
    if sys.argv[1] == "write":
        SOURCES[sys.argv[2]][1](Path(sys.argv[3]))
    else:
        print(json.dumps(_build(Path(sys.argv[2]), Path(sys.argv[3]))))
