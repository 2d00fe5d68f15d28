"""A small model through the three stages on one GPU: its losses, and what it answers about pictures it never saw.

0.3 billion parameters from random weights, on drawn radiographs with captions and questions and on MedQuAD's text:
`python -m bench.train_small data FOLDER TEXT` builds them (TEXT holds MedQuAD in its publisher's layout),
`python -m bench.train_small run FOLDER` trains through `train.run`, asks the held-out questions and prints JSON; curves
come as `FOLDER/small/*.svg`. There is no certificate: thousands of drawings look so alike that the proof would compare
the pixels of most pairs, for an hour. `tests/test_learning.py` trains on fewer, with one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURES, HELD_OUT, PIXELS = 1600, 160, 224
FACTS = ("effusion", "lateral", "cardiomegaly")
STAGES = {
    "pretrain": "  - {build: rocov2, epochs: 20}\n",
    "midtrain": "  - {build: rocov2, epochs: 10}\n  - {build: medquad, epochs: 1}\n",
    "instruct": "  - {build: vqa_rad, epochs: 8}\n  - {build: medquad, epochs: 1}\n",
}
SETTINGS = (
    "data.length=8192", "data.tiles=48", "data.packs_per_step=4", "data.workers=8", "data.over_long=truncate",
    "engine.zero=2", "engine.checkpointing=none", "watch.save_every=100000",
    # Random weights learn at rates of their own; the presets' are those of pretrained ones.
    "optimizer.vision_lr=5e-4", "optimizer.projector_lr=1e-3", "optimizer.llm_lr=5e-4", "optimizer.betas=[0.9,0.98]",
)  # fmt: skip


def make_data(folder: Path, text: Path) -> None:
    """Raw trees, builds and mixtures under `folder`."""
    from bench.phantom_trees import write_trees

    write_trees(folder / "raw", PICTURES, HELD_OUT, pixels=PIXELS, facts=FACTS)
    for name, raw in (("rocov2", folder / "raw/rocov2"), ("vqa_rad", folder / "raw/vqa_rad"), ("medquad", text)):
        filters = ["--filters", "none"] if name == "rocov2" else []
        command = ["--raw", str(raw), "--out", str(folder / "data/built"), "--quiet", *filters]
        subprocess.run([sys.executable, "-m", f"builders.{name}", *command], cwd=ROOT, check=True)
    for stage, sources in STAGES.items():
        (folder / f"{stage}.yaml").write_text(f"format: 1\nname: {stage}\nsources:\n{sources}")


def run(folder: Path) -> dict[str, Any]:
    """Losses of the three stages and the share of held-out questions that are answered right."""
    model, results = folder / "small" / "start", {}
    command = [sys.executable, "-m", "train.assemble", "--size", "small", "--overwrite", "--out", str(model)]
    subprocess.run(command, cwd=ROOT, check=True)
    for stage in STAGES:
        out = folder / "small" / stage
        settings = [f"data.mixture={folder / f'{stage}.yaml'}", *SETTINGS]
        command = ["--shards", str(folder / "data"), "--stage", stage, "--model", str(model), "--out", str(out)]
        command += ["--uncertified", "--quiet", *(part for setting in settings for part in ("--set", setting))]
        subprocess.run([sys.executable, "-m", "train.run", *command], cwd=ROOT, check=True)
        records = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        seconds = sum(record["seconds"] for record in records)
        (folder / "small" / f"{stage}.svg").write_bytes((out / "curves.svg").read_bytes())
        results[stage] = {
            "steps": len(records),
            "seconds": round(seconds, 1),
            "samples": sum(record["samples"] for record in records),
            "tokens_per_second": round(sum(record["tokens"] for record in records) / seconds),
            "loss": [round(record["loss"], 3) for record in records[:: max(1, len(records) // 10)]],
            "last_loss": round(records[-1]["loss"], 3),
        }
        print(stage, results[stage], file=sys.stderr, flush=True)
        model = out / "model"
    results["held_out"] = ask(model, folder / "data/built/vqa_rad")
    return results


def ask(model_folder: Path, build: Path) -> dict[str, Any]:
    """Share of right answers by question: whichever of Yes and No the model finds likelier. Chance is one half."""
    import torch

    from shards.reader import Build
    from train.collate import Collator
    from train.config import load_config
    from train.model import forward_losses, load_model

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_config("instruct", ["engine.compile=false"])
    model = load_model(model_folder, config, device)
    model.module.to(device).eval()
    collate = Collator(model.tokenizer, model.tiling, {"vqa_rad": 0}, multiple=128)
    right, asked = Counter[str](), Counter[str]()
    for sample in Build(build, role="eval"):
        messages = sample.record["messages"]
        question, truth = messages[0]["content"][-1]["text"], messages[-1]["content"][0]["text"]
        losses = {}
        for answer in ("Yes", "No"):
            messages[-1]["content"][0]["text"] = answer
            with torch.no_grad():
                micro = collate([sample]).to(device)
                losses[answer] = forward_losses(model, model.module, micro, config).sum().item()
        asked[question] += 1
        right[question] += min(losses, key=losses.__getitem__) == truth
    return {question: {"right": round(right[question] / count, 3), "asked": count} for question, count in asked.items()}


def main(arguments: list[str]) -> int:
    """`data FOLDER TEXT` or `run FOLDER`."""
    verbs: dict[str, Callable[..., Any]] = {"data": make_data, "run": run}
    result = verbs[arguments[0]](*map(Path, arguments[1:]))
    if result is not None:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
