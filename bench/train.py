"""Training on one GPU at the recipe's shapes, with random weights, and the ceiling of a matrix product beside it.

`measure` runs each case in a process of its own, so that one that fails or runs out of memory is a line of the result.
A case is one pack, forward and backward, through the very module that `train.run` trains: masks, encoder, projector,
decoder layers, output layer and loss on the supervised tokens; no optimizer. `python -m bench.train` prints JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

GOALS = {
    "language model, full parameter, tokens/s": 20_000,
    "pretrain, 5 tiles, samples/s": 20,
    "pretrain, 10 tiles, samples/s": 11,
    "full parameter or LoRA, 5 tiles, samples/s": 12,
    "full parameter or LoRA, 10 tiles, samples/s": 7.5,
}

TEXT = {"tiles": 0, "document": 1200}
FIVE, TEN = {"tiles": 5, "document": 870}, {"tiles": 10, "document": 1590}
"""A picture of 512 x 512 and of 1,024 x 1,024 pixels, each with some 150 tokens of text."""

CASES: list[dict[str, Any]] = [
    {"name": "language model, full parameter", "llm": "train", "vision": "freeze", **TEXT, "tokens": 8192,
     "checkpointing": "none"},
    {"name": "language model, full parameter, half the layers again", "llm": "train", "vision": "freeze", **TEXT,
     "tokens": 16384, "checkpointing": "selective"},
    {"name": "language model, full parameter, all layers again", "llm": "train", "vision": "freeze", **TEXT,
     "tokens": 16384, "checkpointing": "full"},
    {"name": "language model frozen", "llm": "freeze", "vision": "train", **TEXT, "tokens": 16384,
     "checkpointing": "none"},
    {"name": "pretrain, 5 tiles", "llm": "freeze", "vision": "train", **FIVE, "tokens": 16384, "checkpointing": "none"},
    {"name": "pretrain, 10 tiles", "llm": "freeze", "vision": "train", **TEN, "tokens": 16384, "checkpointing": "none"},
    {"name": "full parameter, 5 tiles", "llm": "train", "vision": "train", **FIVE, "tokens": 8192,
     "checkpointing": "none"},
    {"name": "full parameter, 10 tiles", "llm": "train", "vision": "train", **TEN, "tokens": 8192,
     "checkpointing": "none"},
    {"name": "LoRA, 5 tiles", "llm": "lora", "vision": "train", **FIVE, "tokens": 16384, "checkpointing": "none"},
    {"name": "LoRA, 10 tiles", "llm": "lora", "vision": "train", **TEN, "tokens": 16384, "checkpointing": "none"},
]  # fmt: skip


def measure(peer_python: Path | None = None, cases: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """Every case and the ceiling; on a machine without a GPU, only that there is none."""
    del peer_python
    import torch

    if not torch.cuda.is_available():
        return {"skipped": "no GPU"}
    results: dict[str, Any] = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "goals": GOALS}
    for case in [{"name": "matrix product"}, *(CASES if cases is None else cases)]:
        command = [sys.executable, "-m", "bench.train", json.dumps(case)]
        try:
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
        except subprocess.TimeoutExpired:
            results[case["name"]] = {"failed": "more than 240 s"}
            continue
        lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
        error = [line for line in done.stderr.splitlines() if "Error" in line or "assert" in line.lower()]
        results[case["name"]] = json.loads(lines[-1]) if lines else {"failed": (error or ["no result"])[-1][:300]}
        print(case["name"], results[case["name"]], file=sys.stderr, flush=True)
    return results


def ceiling() -> dict[str, Any]:
    """TFLOP/s of an 8,192 bf16 matrix product, the mean of ten."""
    import torch

    a = torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        a @ a
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(10):
        a @ a
    torch.cuda.synchronize()
    return {"tflops": round(2 * 8192**3 * 10 / (time.perf_counter() - started) / 1e12, 1)}


def run_case(case: dict[str, Any]) -> dict[str, Any]:
    """Seconds of one pack, forward and backward, after two for warming up."""
    import torch

    from train.backends import set_backends
    from train.config import Train
    from train.model import (
        MedGptForTraining,
        add_adapters,
        compile_layers,
        count_flops,
        set_checkpointing,
        set_learning,
        sized_config,
    )

    device = torch.device(case.get("device", "cuda"))
    config = sized_config(case.get("size", "20b"))
    torch.set_default_dtype(torch.bfloat16)
    with device:
        module = MedGptForTraining(config)
    torch.set_default_dtype(torch.float32)
    set_backends(module, device)
    module.train().requires_grad_(False)
    settings = Train(vision=case["vision"], projector="train", llm=case["llm"])
    if case["llm"] == "lora":
        add_adapters(module, settings, 0)
        module.to(device)
    set_learning(module, settings)
    set_checkpointing(module, {"none": 1.0, "selective": 0.5, "full": 0.0}[case["checkpointing"]])
    if case.get("compile", True):
        compile_layers(module)
    tokens, document, tiles = case["tokens"], case["document"], case["tiles"]
    lengths = [document] * (tokens // document)
    lengths += [tokens - sum(lengths)] if sum(lengths) < tokens else []
    whole = tokens // document
    flops = count_flops(module, settings)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1000, 100_000, (1, tokens), generator=generator)
    for number in range(whole):
        ids[0, number * document + 50 : number * document + 50 + 144 * tiles] = config.image_token_id
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    # The supervised tokens: all text of a caption but its prompt; of a text, one token in ten.
    share = 120 if tiles else document // 10
    ends = torch.arange(1, whole + 1) * document
    keep = torch.cat([torch.arange(int(end) - share - 1, int(end) - 1) for end in ends])
    pixels = torch.randn(max(1, whole * tiles), 3, 336, 336, dtype=torch.bfloat16, device=device)
    batch = {
        "input_ids": ids.to(device),
        "position_ids": positions.to(device),
        "pixel_values": pixels,
        "keep": keep.to(device),
        "targets": ids[0, keep + 1].to(device),
    }

    def step() -> None:
        module(**batch).mean().backward()
        module.zero_grad(set_to_none=True)

    started = time.perf_counter()
    step()
    step()
    torch.cuda.synchronize()
    warm = time.perf_counter() - started
    repeats = 4
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / repeats
    work = flops(lengths, whole * tiles, len(keep))
    return {
        "tokens_per_second": round(tokens / seconds),
        "samples_per_second": round(whole / seconds, 2),
        "tflops": round(work / seconds / 1e12, 1),
        "seconds": round(seconds, 4),
        "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1),
        "warm_up_s": round(warm, 1),
        **{name: case[name] for name in ("tokens", "document", "tiles", "checkpointing")},
    }


def main(arguments: list[str]) -> None:
    """With a case as JSON: run it here. Without: all, each in a process."""
    if not arguments:
        print(json.dumps(measure(), indent=1))
        return
    case = json.loads(arguments[0])
    print(json.dumps(ceiling() if case["name"] == "matrix product" else run_case(case)))


if __name__ == "__main__":
    main(sys.argv[1:])
