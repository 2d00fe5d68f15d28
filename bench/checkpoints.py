"""Checkpoints of made-up states in GPT-oss 20B's shapes: how long training stands still, bytes a second, resuming.

Each rank holds its even part of every parameter (as under ZeRO-3) on its GPU, or in memory where there is none, and
multiplies matrices for a training step. Needs torch and this checkout only. For example, on four GPUs:

  torchrun --nproc_per_node 4 -m bench.checkpoints --gigabytes 37.5 --out FOLDER --limit
  torchrun --nproc_per_node 2 -m bench.checkpoints --read --out FOLDER      # the same checkpoint by two ranks

FOLDER should be on the disk that checkpoints will go to (/dev/shm is memory). The host must have the same bytes of free
memory for the copy; `note` is not empty where it has not. Rank 0 prints JSON: `stalls_s`, what `save` takes of training
in two saves; `durable_s`, until the checkpoint is visible; `resume_s`, with the files' pages dropped from the cache
first; `resumed_again_s`, with the pages in the cache; `step_ms`, a step before and while it is written; `limit_gb_s`,
what all ranks write to FOLDER without digests, and `read_limit_gb_s`, what they read of it so, the pages dropped again.
Each is the slowest rank's. Every value read is compared with what was written.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from train.checkpoint import BLOCK, THREADS, Checkpoint, Part, Saver, checkpoints

LAYER = {
    "mlp.experts.gate_up_proj": 32 * 2880 * 5760, "mlp.experts.down_proj": 32 * 2880 * 2880,
    "mlp.experts.gate_up_proj_bias": 32 * 5760, "mlp.experts.down_proj_bias": 32 * 2880,
    "mlp.router.weight": 32 * 2880, "self_attn.q_proj.weight": 4096 * 2880, "self_attn.k_proj.weight": 512 * 2880,
    "self_attn.v_proj.weight": 512 * 2880, "self_attn.o_proj.weight": 2880 * 4096, "self_attn.sinks": 64,
    "input_layernorm.weight": 2880, "post_attention_layernorm.weight": 2880,
}  # fmt: skip
"""Values of a decoder layer's parameters (0.82 G)."""


def sizes(values: int) -> dict[str, int]:
    """Values of each parameter of a model of about so many; the experts of the last layers are smaller."""
    layers = math.ceil(values / sum(LAYER.values()))
    rest = sum(size for name, size in LAYER.items() if size < 10**8)
    experts = max(values // layers - rest, 3)
    smaller = LAYER | {
        "mlp.experts.gate_up_proj": experts * 2 // 3,
        "mlp.experts.down_proj": experts // 3,
    }
    return {f"layers.{number}.{name}": size for number in range(layers) for name, size in smaller.items()}


def parts(parameters: dict[str, int], rank: int, ranks: int, device: torch.device) -> Iterator[Part]:
    """A rank's parts, zeroed."""
    for name, size in parameters.items():
        each = -(-size // ranks)
        count = min(each, size - rank * each)
        for kind in ("weight", "exp_avg", "exp_avg_sq") if count > 0 else ():
            yield Part(f"{kind}|{name}", rank * each, torch.zeros(count, device=device))


def pattern(part: Part, number: int) -> torch.Tensor:
    """Bits that depend on the parameter and the place in it alone, and on `number`."""
    first = part.start + sum(part.key.encode()) * 1_000_003 + number
    return torch.arange(first, first + part.values.numel(), device=part.values.device).to(torch.int32)


def slowest(seconds: float) -> float:
    """The largest over all ranks."""
    reports = [0.0] * dist.get_world_size()
    dist.all_gather_object(reports, seconds)
    return round(max(reports), 3)


def timed(work: Callable[[], object]) -> float:
    """Seconds of a piece of work that all ranks begin together."""
    dist.barrier()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def write_plain(path: Path, size: int) -> None:
    """So many bytes, as fast as the disk takes them."""
    block = memoryview(os.urandom(2**20) * 64)
    with path.open("wb") as file:
        for _ in range(-(-size // len(block))):
            file.write(block)
        os.fsync(file.fileno())


def read_plain(paths: Iterable[Path]) -> None:
    """All bytes of files, by as many threads and in blocks as large as a resume, into memory that is there."""
    blocks = [memoryview(bytearray(BLOCK * 4)) for _ in range(THREADS)]

    def read(thread: int, path: Path) -> None:
        with path.open("rb", buffering=0) as file:
            for position in range(thread * BLOCK * 4, path.stat().st_size, THREADS * BLOCK * 4):
                file.seek(position)
                file.readinto(blocks[thread])

    with ThreadPool(THREADS) as pool:
        for path in paths:
            pool.starmap(read, ((thread, path) for thread in range(THREADS)))


def drop_cached(folder: Path) -> None:
    """Let the system forget the files' pages, so that they are read from the disk."""
    for path in folder.glob("*.bin"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def save_twice(mine: list[Part], out: Path, parameters: dict[str, int], step: Callable[[], float]) -> dict[str, Any]:
    """Write two checkpoints and keep the second."""
    saver = Saver(out, 1, mine)
    reserving = timed(saver.wait)
    before = [step() for _ in range(20)]
    stalls, durable, during = [], [], []
    shapes = {name: [size] for name, size in parameters.items()}
    state = {"parameters": shapes, "optimizer_step": 0, "config": {}, "stream": {}, "changes": []}
    with saver:
        for number in (1, 2):
            for part in mine:
                part.values.view(torch.int32).copy_(pattern(part, number))

            def save(number: int = number) -> None:
                saver.save(mine, number, state)

            began = time.perf_counter()
            stalls.append(slowest(timed(save)))
            while not (out / f"step-{number:08d}").exists():
                during.append(step())
            saver.wait()
            durable.append(slowest(time.perf_counter() - began))
    steps = {"before": before, "while written": during}
    return {
        "note": saver.note,
        "reserving_s": slowest(reserving),
        "stalls_s": stalls,
        "durable_s": durable,
        "step_ms": {name: round(statistics.median(found) * 1e3, 2) for name, found in steps.items() if found},
    }


def read_back(mine: list[Part], out: Path) -> dict[str, Any]:
    """Read what is there and compare every value."""
    for part in mine:
        part.values.zero_()
    path = checkpoints(out)[-1]
    if dist.get_rank() == 0:
        drop_cached(path)

    def resume() -> None:
        Checkpoint(path).read(mine)
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    seconds = slowest(timed(resume))
    again = slowest(timed(resume))
    same = all(torch.equal(part.values.view(torch.int32), pattern(part, int(path.name[5:]))) for part in mine)
    mine_to_read = sorted(path.glob("*.bin"))[dist.get_rank() :: dist.get_world_size()]
    dist.barrier()
    if dist.get_rank() == 0:
        drop_cached(path)
    plain = slowest(timed(lambda: read_plain(mine_to_read)))
    size = sum(file.stat().st_size for file in path.glob("*.bin")) / 1e9
    return {
        "resume_s": seconds,
        "resumed_again_s": again,
        "read_limit_gb_s": round(size / plain, 2),
        "all_equal": not slowest(float(not same)),
    }


def main() -> None:
    """Run it on this rank."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.checkpoints", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for the checkpoint, which stays")
    parser.add_argument("--gigabytes", type=float, default=1.5, metavar="N", help="of all ranks together (default 1.5)")
    parser.add_argument("--read", action="store_true", help="only read the checkpoint that is there")
    parser.add_argument("--limit", action="store_true", help="measure plain writing of the same bytes, too")
    options = parser.parse_args()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29577")
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    device = (
        torch.device("cuda", rank % torch.cuda.device_count()) if torch.cuda.is_available() else torch.device("cpu")
    )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    width = 8192 if device.type == "cuda" else 512
    factor = torch.randn(width, width, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)

    def step() -> float:
        began = time.perf_counter()
        for _ in range(10):
            factor @ factor
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    if options.read:
        shapes = Checkpoint(checkpoints(options.out)[-1]).state["parameters"]
        parameters = {name: size for name, (size,) in shapes.items()}
    else:
        parameters = sizes(int(options.gigabytes * 1e9 / 12))
    mine = list(parts(parameters, rank, ranks, device))
    total = sum(parameters.values()) * 12 / 1e9
    result: dict[str, Any] = {
        "ranks": ranks,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "gigabytes": round(total, 2),
    }
    if options.limit and not options.read:
        options.out.mkdir(parents=True, exist_ok=True)
        plain = options.out / f"plain-{rank}"
        result["limit_gb_s"] = round(total / slowest(timed(lambda: write_plain(plain, int(total * 1e9 / ranks)))), 2)
        plain.unlink()
    if not options.read:
        dist.barrier()
        if rank == 0:
            for path in checkpoints(options.out):
                shutil.rmtree(path)
        dist.barrier()
        result |= save_twice(mine, options.out, parameters, step)
        result["written_gb_s"] = [round(total / seconds, 2) for seconds in result["durable_s"]]
    result |= read_back(mine, options.out)
    result["read_gb_s"] = round(total / result["resume_s"], 2)
    if rank == 0:
        print(json.dumps(result, indent=1))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
