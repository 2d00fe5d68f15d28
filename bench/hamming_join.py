"""Radius join of perceptual hashes: pairs a CPU-second beside numpy and faiss, and what the recipe would take.

A pair-equivalent is one train hash beside one eval hash, looked at or not: train x evals / CPU-seconds. Searching is
timed, with the matches in hand (rows, ids, distances); choosing and building the lists is reported beside it. faiss-cpu
is measured where `--peer-python` or this interpreter has it; all then runs by that interpreter (numpy is enough).
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EVALS = 20_000
MANY = 200_000
FEW = 4_000
"""Train hashes where matches are few, and where their number makes the output the work; peers always get FEW."""
RADII = range(0, 17, 2)
RECIPE_TRAIN, RECIPE_EVALS, RECIPE_VARIANTS = 20_500_000, 28_000, 3_320_000
"""Real test pictures (every sixth of `near_images`) list 118.6 oriented hashes of the whole each, 34.3 of regions."""
FEW_MATCHES = 0.0003
"""Share of pairs that match up to which MANY train hashes are searched."""


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Every part in a process of its own, with one thread a matrix product, so that peak memory is its own."""
    python = str(peer_python) if peer_python and _has_faiss(peer_python) else sys.executable
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    figures = {}
    for part in PARTS:
        done = subprocess.run(
            [python, "-m", "bench.hamming_join", part],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        figures[part] = json.loads(done.stdout)
    return figures


def _has_faiss(python: Path) -> bool:
    return not subprocess.run([python, "-c", "import faiss"], capture_output=True, check=False).returncode


def _uniform(rng: Any, count: int) -> Any:
    import numpy as np

    return rng.integers(0, 2**64, count, dtype=np.uint64)


def _look_alike(rng: Any, count: int) -> Any:
    """Radiograph-like: a shared pattern, eight factors and noise, cut at the median as a pHash is."""
    import numpy as np

    basis = np.random.default_rng(1).normal(size=(9, 64)).astype(np.float32)
    values = rng.standard_normal((count, 8), np.float32) @ basis[1:] * 0.3 + basis[0]
    values += 0.7 * rng.standard_normal((count, 64), np.float32)
    bits = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def _crowded(rng: Any, count: int) -> Any:
    """Nine of ten hashes within three bits of one of 20 centres."""
    import numpy as np

    hashes = _uniform(np.random.default_rng(5), 20)[rng.integers(0, 20, count)]
    for _ in range(3):
        hashes ^= np.left_shift(np.uint64(1), rng.integers(0, 64, count, dtype=np.uint64))
    far = rng.random(count) < 0.1
    hashes[far] = _uniform(rng, int(far.sum()))
    return hashes


def _equal(rng: Any, count: int) -> Any:
    """Blank pictures only; a tenth of the others' eval hashes, since every pair matches."""
    import numpy as np

    del rng
    return np.zeros(min(count, EVALS // 10), np.uint64)


KINDS: dict[str, Callable[[Any, int], Any]] = {
    "uniform": _uniform,
    "look_alike": _look_alike,
    "crowded": _crowded,
    "equal": _equal,
}


def _best(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Least CPU-seconds of some repeats, and the last result."""
    seconds = []
    result = None
    for _ in range(repeats):
        del result
        started = time.process_time()
        result = work()
        seconds.append(time.process_time() - started)
    return min(seconds), result


def _numpy(train: Any, evals: Any, radius: int) -> tuple[Any, Any, Any]:
    import numpy as np

    rows, ids, distances = [], [], []
    for row, value in enumerate(train):
        distance = np.bitwise_count(value ^ evals)
        hits = np.flatnonzero(distance <= radius)
        rows.append(np.full(len(hits), row))
        ids.append(hits)
        distances.append(distance[hits])
    return np.concatenate(rows), np.concatenate(ids), np.concatenate(distances)


def _faiss(evals: Any) -> Callable[[Any, int], tuple[Any, Any, Any]]:
    import numpy as np

    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexBinaryFlat(64)
    flat.add(evals.view(np.uint8).reshape(-1, 8))

    def search(train: Any, radius: int) -> tuple[Any, Any, Any]:
        limits, distances, ids = flat.range_search(train.view(np.uint8).reshape(-1, 8), radius + 1)
        return np.repeat(np.arange(len(train)), np.diff(limits.astype(np.int64))), ids, distances

    return search


def _peak_gib() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def _table() -> dict[str, Any]:
    """Giga pair-equivalents a CPU-second for every kind of data and radius, and the ratio to the faster peer."""
    import numpy as np

    figures: dict[str, Any] = {}
    for kind, make in KINDS.items():
        rng = np.random.default_rng(0)
        train, evals = make(rng, MANY), make(rng, EVALS)
        flat = _faiss(evals) if importlib.util.find_spec("faiss") else None
        for radius in RADII:
            figures[f"{kind} {radius}"] = _case(train, evals, radius, flat)
    return figures


def _case(train: Any, evals: Any, radius: int, flat: Callable[[Any, int], Any] | None) -> dict[str, Any]:
    import numpy as np

    from manifests.proof.hamming import HammingIndex

    few = train[:FEW]
    pairs = len(few) * len(evals)
    index = HammingIndex(evals, radius)
    built, _ = _best(lambda: index.prepare(train), 1)
    seconds, (rows, ids, _) = _best(lambda: _numpy(few, evals, radius), 2)
    peers = {"numpy": pairs / seconds / 1e9}
    if flat is not None:
        peers["faiss"] = pairs / _best(lambda: flat(few, radius), 3)[0] / 1e9
    seconds, matches = _best(lambda: index.search(few), 3)
    same = bool(np.array_equal(matches.rows, rows) and np.array_equal(matches.ids, ids))
    searched = few
    if len(matches) < FEW_MATCHES * pairs:
        searched = train
        seconds, matches = _best(lambda: index.search(train), 2)
    rate = len(searched) * len(evals) / seconds / 1e9
    return {
        "g_pairs_per_cpu_s": round(rate, 2),
        **{name: round(value, 2) for name, value in peers.items()},
        "ratio_to_best_peer": round(rate / max(peers.values()), 2),
        "same_as_brute_force": same,
        "train": len(searched),
        "share_of_pairs_that_match": float(f"{len(matches) / len(searched) / len(evals):.3g}"),
        "plan": index.plan,
        "build_cpu_s": round(built, 2),
    }


def _headline() -> dict[str, Any]:
    """The goal's own sizes: a million by 20,000 at radius 8."""
    return {kind: _million(KINDS[kind]) for kind in ("uniform", "look_alike")}


def _million(make: Callable[[Any, int], Any]) -> dict[str, Any]:
    """Matches are compared with planted pairs, and with brute force on a slice."""
    import numpy as np

    from manifests.proof.hamming import HammingIndex

    rng = np.random.default_rng(0)
    train, evals = make(rng, 1_000_000), make(rng, EVALS)
    planted = np.arange(0, len(train), 100)
    targets = rng.integers(EVALS, size=len(planted))
    flips = rng.permuted(np.arange(64) < rng.integers(9, size=len(planted))[:, None], axis=1)
    train[planted] = evals[targets] ^ np.packbits(flips, axis=1).view(np.uint64).ravel()
    index = HammingIndex(evals, 8)
    built, _ = _best(lambda: index.prepare(train), 1)
    seconds, matches = _best(lambda: index.search(train), 3)
    rows, ids, _ = _numpy(train[:FEW], evals, 8)
    part = int(np.searchsorted(matches.rows, FEW))
    same = np.array_equal(matches.rows[:part], rows) and np.array_equal(matches.ids[:part], ids)
    found = np.isin(planted * EVALS + targets, matches.rows * EVALS + matches.ids)
    return {
        "g_pairs_per_cpu_s": round(len(train) * EVALS / seconds / 1e9, 1),
        "pairs": len(matches),
        "candidates_per_hash": round(matches.candidates / len(train), 1),
        "planted_recall": float(found.mean()),
        "same_as_brute_force": bool(same),
        "plan": index.plan,
        "build_cpu_s": round(built, 2),
        "peak_gib": _peak_gib(),
    }


def _recipe(evals_count: int, train_count: int) -> dict[str, Any]:
    """The recipe's 20.5 million train hashes, look-alike, radius 8, two threads: a measured slice, extrapolated."""
    import numpy as np

    from manifests.proof.hamming import BLOCK, HammingIndex

    rng = np.random.default_rng(0)
    train = _look_alike(rng, train_count)
    evals = np.concatenate([_look_alike(rng, min(100_000, evals_count - n)) for n in range(0, evals_count, 100_000)])
    index = HammingIndex(evals, 8)
    built, _ = _best(lambda: index.prepare(train), 1)
    clock = time.perf_counter()
    cpu = time.process_time()
    with ThreadPoolExecutor(2) as threads:
        blocks = (train[start : start + BLOCK] for start in range(0, len(train), BLOCK))
        pairs = sum(map(len, threads.map(index.search, blocks)))
    cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
    return {
        "train_slice": train_count,
        "evals": evals_count,
        "pairs": pairs,
        "g_pairs_per_cpu_s": round(train_count * evals_count / cpu / 1e9, 2),
        "minutes_on_2_cores": round((built + cpu / 2 * RECIPE_TRAIN / train_count) / 60, 1),
        "minutes_on_2_cores_by_wall": round((built + clock * RECIPE_TRAIN / train_count) / 60, 1),
        "plan": index.plan,
        "build_cpu_s": round(built, 2),
        "peak_gib": _peak_gib(),
    }


PARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "headline": _headline,
    "table": _table,
    "recipe": lambda: _recipe(RECIPE_EVALS, 1_000_000),
    "recipe_variants": lambda: _recipe(RECIPE_VARIANTS, 50_000),
}

if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]]()))
