"""MXFP4 experts at the recipe's shapes within 24 GiB: size, load time, loss on logits, questions/s.

`python -m bench.serve_20b FOLDER` writes a model of random weights to FOLDER and then, in a process of its own under
the limit, loads and asks it. Questions are those of `bench.eval`: a JPEG of five tiles, text, 16 new tokens. The loss
compares the last position's logits with bf16 weights before rounding, and with the rounded ones in bf16, which the
packed ones should equal. SIZE=tiny tries it out, on a CPU without the limit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

LIMIT_GIB = 23
"""Of torch's allocator; a card of 24 GiB has about one less, for CUDA's context."""
PROMPTS = 16
BATCHES = ((8, 16), (16, 32), (32, 64))
"""(rows of a batch, questions)."""


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _logits(adapter: Any, requests: list[Any]) -> Any:
    """Logits behind each prompt, fp32 on the CPU; a prompt at a time."""
    import torch

    loaded, rows = adapter._loaded, []
    with torch.inference_mode():
        for request in requests:
            inputs = loaded.inputs([(request.question.messages, request.question.images)])
            inputs = {name: value.to(loaded.device) for name, value in inputs.items()}
            rows.append(loaded.model(**inputs, logits_to_keep=1).logits[0, -1].float().cpu())
    return torch.stack(rows)


def make(folder: Path) -> dict[str, Any]:
    """Write the quantised model; its logits in bf16, before and after rounding, go beside it."""
    import torch

    from bench.eval import questions, random_weights
    from eval.adapters.hf_local import HFLocal
    from eval.cards import load_card
    from train.assemble import write_side_files
    from train.model import sized_config
    from train.quantize import EXPERTS, decode, encode, write

    started = time.perf_counter()
    size = os.environ.get("SIZE", "20b")
    random_weights(size)
    with tempfile.TemporaryDirectory() as scratch:
        plain = Path(scratch)
        write_side_files(plain, sized_config(size), None)
        adapter = HFLocal(plain, load_card("medgpt_oss_ours"), batch=1)
        requests = questions(PROMPTS)
        logits = {"before": _logits(adapter, requests)}
        model = adapter._loaded.model
        weights: dict[str, Any] = {}
        for name, tensor in model.state_dict().items():
            if name.endswith(EXPERTS):
                packed = encode(tensor)
                tensor.copy_(decode(*packed, tensor.dtype))
                weights[f"{name}_blocks"], weights[f"{name}_scales"] = (part.cpu() for part in packed)
            else:
                weights[name] = tensor.cpu()
        logits["rounded"] = _logits(adapter, requests)
        write(folder / "model", weights, plain)
    torch.save(logits, folder / "logits.pt")
    size_gib = sum(path.stat().st_size for path in (folder / "model").glob("*.safetensors")) / 2**30
    return {"size": size, "folder_gib": round(size_gib, 2), "made_in_s": round(time.perf_counter() - started, 1)}


def ask(folder: Path) -> dict[str, Any]:
    """Load and ask it; on a GPU under the limit."""
    import torch

    from bench.eval import NEW_TOKENS, questions
    from eval.adapters.gpt_oss import tune_generation
    from eval.adapters.hf_local import HFLocal
    from eval.cards import load_card

    device = _device()
    figures: dict[str, Any] = {"device": "cpu", "limit_gib": None}
    if device == "cuda":
        torch.cuda.set_per_process_memory_fraction(LIMIT_GIB * 2**30 / torch.cuda.get_device_properties(0).total_memory)
        figures = {"device": torch.cuda.get_device_name(), "limit_gib": LIMIT_GIB}
    card, model = load_card("medgpt_oss_ours"), folder / "model"

    def peak() -> float:
        return round(torch.cuda.max_memory_reserved() / 2**30, 2) if device == "cuda" else 0.0

    started = time.perf_counter()
    adapter = HFLocal(model, card, batch=1)
    adapter.load()
    figures |= {"load_s": round(time.perf_counter() - started, 1), "loaded_peak_gib": peak()}
    packed, kept = _logits(adapter, questions(PROMPTS)), torch.load(folder / "logits.pt")
    for name, other in kept.items():
        logs, reference = packed.log_softmax(-1), other.log_softmax(-1)
        figures[f"against_bf16_{name}"] = {
            "relative_rms": float(f"{((packed - other).square().mean().sqrt() / other.std()):.3g}"),
            "mean_kl": float(f"{(reference.exp() * (reference - logs)).sum(-1).mean():.3g}"),
            "same_first_token": f"{int((packed.argmax(-1) == other.argmax(-1)).sum())} of {PROMPTS}",
        }
    figures["questions"] = {}
    for rows, number in BATCHES:
        one = HFLocal(model, card, batch=rows)
        one._loaded = adapter._loaded  # loading is measured above
        tune_generation(adapter._loaded.model, rows)
        try:
            one.answer(iter(questions(rows)), lambda *_: None)
            started = time.perf_counter()
            one.answer(iter(questions(number)), lambda *_: None)
        except torch.OutOfMemoryError:
            figures["questions"][f"batches of {rows}"] = f"does not fit {LIMIT_GIB} GiB"
            break
        rate = number / (time.perf_counter() - started)
        figures["questions"][f"batches of {rows}"] = {"per_s": round(rate, 2), "peak_gib": peak()}
    return figures | {"new_tokens": NEW_TOKENS}


def main(arguments: list[str]) -> None:
    """Make, then ask in a new process: the limit is one of a process."""
    if arguments[0] == "ask":
        print(json.dumps(ask(Path(arguments[1])), indent=1))
        return
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    # Its memory on the card ends with it.
    code = "import sys,json,pathlib,bench.serve_20b as b; print(json.dumps(b.make(pathlib.Path(sys.argv[1]))))"
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)
    subprocess.run([sys.executable, "-m", "bench.serve_20b", "ask", str(folder)], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
