"""Twenty million samples end to end from stored numbers, and what 200 million and two billion would take.

    python -m bench.scale FOLDER [--samples 20000000] [--unit 10000]
    python -m bench.scale --simulate

The root is synthetic: manifest parts with digests, hashes and counts as `bench.audits` makes them, in units of so many
rows, and empty shards of the size that is stated; so whatever reads texts or pixels (building, near texts, pixel
verdicts, counting for packs, `verify`) is not in it: `bench.text_build`, `jpeg_build`, `verify_scale` measure that.
Each step runs in a process of its own. FOLDER must not exist; delete it afterwards.

The simulation takes CPU-seconds and MiB a million samples of every step, those that are shared out among workers and
those of the one driver, and says which step bounds the wall time and what grows. No network, no shared disk is in it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RADIUS, VARIANTS = 8, 50
"""Of the near level: bits, hashes of a test picture."""
SIZES, WORKERS = (20_000_000, 200_000_000, 2_000_000_000), (1, 16, 256)


def _catalogue(data: Path) -> dict[str, Any]:
    from manifests.catalog import connect

    with connect(data) as connection:
        return {"samples": connection.execute("SELECT count(*) FROM samples").fetchone()[0]}  # type: ignore[index]


def _audits(data: Path) -> dict[str, Any]:
    from manifests.sql import main

    with contextlib.redirect_stdout(io.StringIO()):
        return {"exit_code": main([str(data), "--audit", "all", "--json"])}


def _id_and_exact(data: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    from manifests.catalog import connect
    from manifests.proof.overlaps import sql_levels

    with connect(data) as connection, tempfile.TemporaryDirectory() as folder:
        return {"evidence": sum(pq.read_metadata(file).num_rows for file in sql_levels(connection, Path(folder)))}


def _picture_hashes(data: Path) -> dict[str, Any]:
    """Hashes of all train pictures against those of the test pictures' variants, here random ones."""
    import numpy as np
    import pyarrow.parquet as pq

    from manifests.catalog import load_builds
    from manifests.proof.hamming import HammingIndex

    builds, index, found = load_builds(data), None, 0

    def hashes(role: str) -> Iterator[Any]:
        for build in builds:
            for _, part in build.parts("images", role):
                yield pq.read_table(part, columns=["phash"])["phash"].to_numpy()

    tests = np.concatenate(list(hashes("eval")))
    variants = np.random.default_rng(0).integers(0, 1 << 64, (len(tests), VARIANTS - 1), np.uint64)
    index = HammingIndex(np.concatenate([tests, variants.ravel()]), RADIUS)
    for some in hashes("train"):
        found += len(index.search(some))
    return {"hashes_of_test_side": len(tests) * VARIANTS, "pairs": found}


def _index(data: Path) -> dict[str, Any]:
    from shards.certified import load_certified

    return {"samples": len(load_certified(data, uncertified=True, quiet=True))}


def _stream(data: Path) -> dict[str, Any]:
    """What a rank does at its start: index, order, a position in the middle."""
    import numpy as np

    order = _order(data)
    source, _ = order.at(np.arange(len(order) // 2, len(order) // 2 + 16))
    return {"samples": len(order), "drawn": len(source)}


def _order(data: Path) -> Any:
    from medgpt.settings import checked
    from shards.certified import load_certified
    from shards.mixture import Mixture
    from shards.order import EpochOrder

    certified = load_certified(data, uncertified=True, quiet=True)
    sources = [{"build": name, "epochs": 1} for name in certified.sources]
    return EpochOrder(certified, checked(Mixture, {"format": 1, "name": "scale", "sources": sources}, "scale"), seed=1)


def _pack(data: Path) -> dict[str, Any]:
    """Packs from the index's tokens and tiles; `shards.pack` counts a sample's turns in its shard before."""
    import numpy as np

    from shards.epoch import pack_epoch
    from shards.packing import Draws

    order = _order(data)
    [name] = order.sources
    samples, count = order.certified.sources[name], len(order)
    drawn = Draws(np.empty(count, np.int16), np.empty(count, np.int64), *(np.empty(count, np.int32) for _ in range(2)))
    for start in range(0, count, 1 << 20):  # as `shards.epoch.draw` does
        piece = slice(start, start + (1 << 20))
        source, index = order.at(np.arange(start, min(start + (1 << 20), count)))
        drawn.source[piece], drawn.index[piece] = source, index
        drawn.tokens[piece], drawn.tiles[piece] = samples.tokens[index], samples.tiles[index]
    return {"packs": len(pack_epoch(drawn, 32_768, 96, "report").result)}


STEPS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "catalogue": _catalogue, "audits": _audits, "ids and exact": _id_and_exact, "picture hashes": _picture_hashes,
    "index": _index, "stream": _stream, "pack": _pack,
}  # fmt: skip


def measure(folder: Path, samples: int, unit: int) -> dict[str, Any]:
    """Make the root and take every step; seconds, CPU-seconds, MiB of each, files and bytes of the root."""
    from bench.audits import write_manifest

    began = time.monotonic()
    write_manifest(folder, samples, unit, shards=True)
    files = [path.stat() for path in folder.rglob("*") if path.is_file()]
    figures: dict[str, Any] = {
        "samples": samples, "rows_a_unit": unit, "files": len(files), "made_in_s": round(time.monotonic() - began),
        "gb_on_disk": round(sum(state.st_blocks * 512 for state in files) / 1e9, 2),
    }  # fmt: skip
    print(json.dumps(figures), file=sys.stderr, flush=True)
    for name in STEPS:
        load = os.getloadavg()[0]
        command = [sys.executable, "-m", "bench.scale", str(folder), "--step", name]
        done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        figures[name] = json.loads(done.stdout) | {"load": round(load, 1)}
        print(json.dumps({name: figures[name]}), file=sys.stderr, flush=True)
    return figures


def _step(name: str, data: Path) -> dict[str, Any]:
    began = time.monotonic()
    found = STEPS[name](data)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return found | {
        "wall_s": round(time.monotonic() - began, 2), "cpu_s": round(used.ru_utime + used.ru_stime, 2),
        "mib": used.ru_maxrss >> (20 if sys.platform == "darwin" else 10),
    }  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What a step takes for a million samples."""

    shared: float = 0
    """CPU-seconds that workers share."""
    driver: float = 0
    """CPU-seconds of the one process that gives the jobs out, or is alone."""
    mib: float = 0
    """Memory of that process, beside `base`."""
    base: float = 300


COSTS = {
    # text_build 26,600 short rows, jpeg_build 701 figures a CPU-second, half of the samples with a picture each; the
    # driver reads a ledger and writes an entry of build.json a unit of 10,000 rows, 5 ms and some 20 kB as Python.
    "build": Cost(shared=732, driver=0.5, mib=2),
    "audits": Cost(driver=1.0, mib=46),  # 20 M in 18 to 21 CPU-s; 0.36 GiB at 2 M, 1.16 at 20 M
    "ids and exact": Cost(driver=2.4, mib=2),
    "near levels": Cost(shared=583, mib=2),  # verify_scale: 18 CPU-s at 20,000, 123 at 200,000 rows, 1,000 test items
    "verify": Cost(driver=1017, mib=1),  # the same: 28 and 211 CPU-s; as one process
    "index": Cost(driver=1.0),
    "pack": Cost(driver=0.9, mib=72),  # 20 M in 16.3 CPU-s at load 21, 1.5 GiB
}
"""As measured on two cores: `bench/RESULTS.md` has the runs that these are of."""


def simulate(costs: dict[str, Cost]) -> list[dict[str, Any]]:
    """For every size and number of workers: hours, the step with most of them, the driver that is largest and its GiB.

    A worker's memory does not depend on the number of samples, so it is not among these.
    """
    rows = []
    for samples in SIZES:
        millions = samples / 1e6
        for workers in WORKERS:
            hours = {name: millions * (cost.shared / workers + cost.driver) / 3600 for name, cost in costs.items()}
            memory = {name: (cost.base + millions * cost.mib) / 1024 for name, cost in costs.items()}
            slowest, largest = max(hours, key=hours.__getitem__), max(memory, key=memory.__getitem__)
            rows.append(
                {
                    "samples": samples, "workers": workers, "hours": round(math.fsum(hours.values()), 1),
                    "bound": slowest, "of_it": round(hours[slowest] / math.fsum(hours.values()), 2),
                    "largest_driver": largest, "gib": round(memory[largest], 1),
                }
            )  # fmt: skip
    return rows


def _without(name: str) -> dict[str, Cost]:
    return {step: cost for step, cost in COSTS.items() if step != name}


def main() -> int:
    """Command line; exit code 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.scale")
    parser.add_argument("folder", type=Path, nargs="?", metavar="FOLDER")
    parser.add_argument("--samples", type=int, default=SIZES[0], metavar="N")
    parser.add_argument("--unit", type=int, default=10_000, metavar="ROWS")
    parser.add_argument("--step", choices=list(STEPS), help="take one step on a root that is there")
    parser.add_argument("--simulate", action="store_true", help="hours and memory of other sizes from `COSTS`")
    options = parser.parse_args()
    if options.simulate:
        print(json.dumps({"all": simulate(COSTS), "without verify": simulate(_without("verify"))}, indent=1))
    elif options.step:
        print(json.dumps(_step(options.step, options.folder)))
    else:
        print(json.dumps(measure(options.folder, options.samples, options.unit), indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
