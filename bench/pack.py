"""Packing: fill, packs above the lower bound and samples a CPU-second, beside what others do, on the same samples.

Peers, written out here as they are documented: next-fit in input order; the greedy knapsack over a buffer of samples
that Megatron-Energon's documentation gives as its example (largest first, then the largest that still fits), with the
limit on tiles as a second; padding to the longest of 16. Lengths are those of real rows, where they are at hand, varied
by a tenth so that they are of more than a few thousand sizes, and synthetic ones; the tiles are those of real pictures.

`at_scale` packs an epoch as large as the recipe's second stage in a process of its own, and writes and opens the plan.
"""

from __future__ import annotations

import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shards.epoch import pack_epoch, rank_balance
from shards.packing import (
    Draws,
    PackedEpoch,
    PackingResult,
    PackPlan,
    PlanTerms,
    balanced_order,
    pack,
    pack_costs,
    sample_length,
    write_plan,
)

REAL = Path(__file__).parents[2] / "shared" / "data"
SAMPLES = 400_000
STAGE_SAMPLES = 19_342_373
"""Rows of the recipe's mid-training table."""
LENGTH, TILES = 32_768, 96
BUFFERS = 100, 1000

Int32 = npt.NDArray[np.int32]
Texts = dict[str, Int32]

_REAL_TEXTS = {
    "medquad": ("medquad", []),
    "pubmedqa": ("pubmedqa", ["--paper-variant"]),
    "medqa": ("medqa_usmle_4_options", []),
    "slake": ("slake", ["--no-images"]),
    "vqa_rad": ("vqa_rad", ["--no-images"]),
}


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Every distribution; then the recipe's size."""
    del peer_python
    rng = np.random.default_rng(0)
    figures: dict[str, Any] = {"length": LENGTH, "tiles": TILES, "samples": SAMPLES}
    for name, draw in _distributions(rng).items():
        tokens, tiles = draw(SAMPLES)
        order = rng.permutation(len(tokens))
        figures[name] = _compare(tokens[order], tiles[order])
    done = subprocess.run(
        [sys.executable, "-m", "bench.pack"], cwd=Path(__file__).parents[1], check=True, capture_output=True
    )
    figures["at_scale"] = json.loads(done.stdout)
    return figures


def _compare(tokens: Int32, tiles: Int32) -> dict[str, Any]:
    keys = np.arange(len(tokens), dtype=np.uint64)
    started = time.process_time()
    result = pack(tokens, tiles, keys, LENGTH, TILES)
    seconds = time.process_time() - started
    other = np.random.default_rng(1).permutation(len(tokens))
    again = pack(tokens[other], tiles[other], keys[other], LENGTH, TILES)
    assert len(result.members) == len(np.unique(result.members)) == len(tokens)
    costs, squares = pack_costs(tokens, tiles, result.members, result.starts)
    order = balanced_order(costs, squares, b"bench")
    shuffled = np.random.default_rng(2).permutation(len(costs))
    ranks, usual = range(2, 17), (2, 4, 8, 16)
    padded = tokens[: len(tokens) // 16 * 16].reshape(-1, 16)
    return {
        "mean_tokens": round(float(tokens.mean())),
        "mean_tiles": round(float(tiles.mean()), 2),
        "ours": {
            "packs": len(result), "above_bound": len(result) - result.lower_bound, "fill": round(result.fill, 5),
            "token_fill": round(result.token_fill, 5), "tile_fill": round(result.tile_fill, 5),
            "samples_per_cpu_s": round(len(tokens) / seconds), "same_digest_shuffled": result.digest == again.digest,
        },
        "next_fit": _peer(next_fit, tokens, tiles, result.lower_bound),
        **{
            f"greedy_knapsack_of_{size}": _peer(partial(buffered_knapsack, size), tokens, tiles, result.lower_bound)
            for size in BUFFERS
        },
        "pad_to_longest_of_16_fill": round(float(padded.sum() / (padded.max(1) * 16).sum()), 4),
        "worst_of_2_to_16_ranks": {
            "rank_work_max_over_mean": round(max(rank_balance(costs[order], w)[0] for w in ranks), 4),
            "rank_squares_and_tiles_max_over_mean": round(max(rank_balance(squares[order], w)[0] for w in ranks), 4),
            "the_same_of_2_4_8_16_ranks": round(max(rank_balance(squares[order], w)[0] for w in usual), 4),
            "step_slowest_over_mean": round(max(rank_balance(costs[order], w)[1] for w in ranks), 4),
            "step_slowest_over_mean_if_shuffled": round(max(rank_balance(costs[shuffled], w)[1] for w in ranks), 4),
        },
        "length_told_by_step_of_8_packs": round(told_by_step(np.log(tokens), result, order), 4),
    }  # fmt: skip


def told_by_step(values: npt.NDArray[Any], result: PackingResult, order: npt.NDArray[Any], packs: int = 8) -> float:
    """Share of the variance of samples' values that lies between steps; of steps drawn by chance steps / samples."""
    of_pack = np.empty(len(order), np.int64)
    of_pack[order] = np.arange(len(order)) // packs
    step = np.repeat(of_pack, np.diff(result.starts))
    apart = values[result.members] - values.mean()
    return float((np.bincount(step, apart) ** 2 / np.bincount(step)).sum() / (apart**2).sum())


def _peer(peer: Callable[[list[int], list[int]], int], tokens: Int32, tiles: Int32, bound: int) -> dict[str, Any]:
    started = time.process_time()
    packs = peer(tokens.tolist(), tiles.tolist())
    seconds = time.process_time() - started
    fill = max(float(tokens.sum()) / (packs * LENGTH), float(tiles.sum()) / (packs * TILES))
    return {
        "packs": packs, "above_bound": packs - bound, "fill": round(fill, 5),
        "samples_per_cpu_s": round(len(tokens) / seconds),
    }  # fmt: skip


def next_fit(tokens: list[int], tiles: list[int]) -> int:
    """Packs of next-fit: a sample goes into the pack in hand or begins the next."""
    packs, used, used_tiles = 0, LENGTH, TILES
    for length, count in zip(tokens, tiles, strict=True):
        if used + length > LENGTH or used_tiles + count > TILES:
            packs, used, used_tiles = packs + 1, 0, 0
        used += length
        used_tiles += count
    return packs


def buffered_knapsack(size: int, tokens: list[int], tiles: list[int]) -> int:
    """Packs of a greedy knapsack over buffers of `size` samples; each buffer is packed and done with."""
    packs = 0
    for start in range(0, len(tokens), size):
        some = slice(start, start + size)
        left = sorted(zip(tokens[some], tiles[some], strict=True), reverse=True)
        while left:
            room, tile_room, over = LENGTH, TILES, []
            for length, count in left:
                if length <= room and count <= tile_room:
                    room -= length
                    tile_room -= count
                else:
                    over.append((length, count))
            packs += 1
            left = over
    return packs


def _distributions(rng: np.random.Generator) -> dict[str, Callable[[int], tuple[Int32, Int32]]]:
    pictures = _real_tiles()
    texts = _real_texts() if REAL.is_dir() else None

    def joined(parts: list[tuple[Int32, Int32]]) -> tuple[Int32, Int32]:
        tokens, tiles = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        return tokens.clip(1, LENGTH).astype(np.int32), tiles

    def with_tiles(text: npt.NDArray[Any], images: bool) -> tuple[Int32, Int32]:
        text = text.astype(np.int64).clip(1)
        tiles = rng.choice(pictures, len(text)) if images else np.zeros(len(text), np.int32)
        return sample_length(text, tiles, images=int(images)).astype(np.int32), tiles

    def real(names: tuple[str, ...], count: int) -> npt.NDArray[Any]:
        assert texts is not None
        drawn = rng.choice(np.concatenate([texts[name] for name in names]), count)
        return drawn * rng.uniform(0.9, 1.1, count)

    def long_reasoning(count: int) -> npt.NDArray[Any]:
        return rng.lognormal(7.2, 0.7, count)

    written, asked = ("medquad", "pubmedqa", "medqa"), ("slake", "vqa_rad")
    made: dict[str, Callable[[int], tuple[Int32, Int32]]] = {
        "synthetic text": lambda n: joined(
            [with_tiles(rng.lognormal(5.3, 0.6, n // 2), False), with_tiles(long_reasoning(n - n // 2), False)]
        ),
        "synthetic text and pictures": lambda n: joined(
            [
                with_tiles(rng.lognormal(5.3, 0.6, n // 2), False),
                with_tiles(long_reasoning(n // 4), False),
                with_tiles(rng.lognormal(4.8, 0.5, n - n // 2 - n // 4), True),
            ]
        ),
    }
    if texts is not None:
        made |= {
            "real text": lambda n: joined([with_tiles(real(written, n), False)]),
            "real questions about pictures": lambda n: joined([with_tiles(real(asked, n), True)]),
            # Shares of the recipe's third stage: 5,308,798 texts, 971,930 with pictures; half of the texts reason.
            "instruct stage": lambda n: joined(
                [
                    with_tiles(real(written, n * 42 // 100), False),
                    with_tiles(long_reasoning(n * 42 // 100), False),
                    with_tiles(real(asked, n - 2 * (n * 42 // 100)), True),
                ]
            ),
        }
    return made


def _real_tiles() -> Int32:
    """Tiles of real pictures; without them, those of common formats."""
    from PIL import Image

    from medgpt.tiles import tile_count

    sizes = [(640, 480), (512, 512), (1024, 1024), (1376, 960), (336, 336), (2544, 3056)]
    folder = REAL / "artifacts" / "images"
    if folder.is_dir():
        sizes = [Image.open(io.BytesIO(path.read_bytes())).size for path in sorted(folder.iterdir())]
    return np.array([tile_count(*size) for size in sizes], np.int32)


def _real_texts() -> Texts:
    """Text tokens of the real rows, by source: from their manifests."""
    import pyarrow.parquet as pq

    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for source, (raw, options) in _REAL_TEXTS.items():
            out = Path(folder) / source
            command = [sys.executable, "-m", f"builders.{source}", "--raw", str(REAL / raw), "--out", str(out)]
            subprocess.run(
                [*command, "--quiet", *options], cwd=Path(__file__).parents[1], check=True, capture_output=True
            )
            parts = sorted(out.rglob("manifest/*.parquet"))
            counts = [pq.read_table(path, columns=["text_tokens"])["text_tokens"].to_numpy() for path in parts]
            found[source] = np.concatenate(counts)
    return found


def at_scale() -> dict[str, Any]:
    """Pack as many samples as the recipe's second stage has, write the plan, open it."""
    rng = np.random.default_rng(0)
    half = STAGE_SAMPLES // 2
    pictures = _real_tiles()
    tiles = np.concatenate((np.zeros(half, np.int32), rng.choice(pictures, STAGE_SAMPLES - half)))
    text = rng.lognormal(5.5, 0.8, STAGE_SAMPLES).clip(4, 20_000).astype(np.int32)
    tokens = sample_length(text, tiles, images=tiles > 0).astype(np.int32)
    order = rng.permutation(STAGE_SAMPLES)
    source, index = rng.integers(0, 20, STAGE_SAMPLES, np.int16), np.arange(STAGE_SAMPLES)
    draws = Draws(source, index, tokens[order], tiles[order])
    del order, text, tokens, tiles
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    terms = PlanTerms("0" * 64, "0" * 64, 0, 0, tuple(f"s{i}" for i in range(20)), LENGTH, TILES, "report")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "plan.arrow"
        started = time.process_time()
        epoch: PackedEpoch = pack_epoch(draws, LENGTH, TILES, "report")
        packed = time.process_time()
        write_plan(path, terms, epoch)
        saved = time.process_time()
        opened = time.perf_counter()
        plan = PackPlan.load(path)
        plan.pack(len(plan) // 2)
        first_pack = time.perf_counter() - opened
        size = path.stat().st_size
    result = epoch.result
    return {
        "samples": STAGE_SAMPLES, "packs": len(result), "above_bound": len(result) - result.lower_bound,
        "fill": round(result.fill, 5), "pack_cpu_s": round(packed - started, 1),
        "samples_per_cpu_s": round(STAGE_SAMPLES / (packed - started)), "write_cpu_s": round(saved - packed, 1),
        "input_rss_gb": round(before / 1e6, 2),
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "plan_bytes_per_sample": round(size / STAGE_SAMPLES, 2), "open_and_first_pack_ms": round(first_pack * 1e3, 1),
    }  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(at_scale()))
