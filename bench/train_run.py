"""`train.run` end to end on one GPU at the recipe's shapes: shards of drawn radiographs with captions in, updates out.

Everything is what a user runs but the weights, which are random and made on the device: no 42 GB are written first.
`python -m bench.train_run data FOLDER` makes shards (uncertified) of pictures of 512 (5 tiles) and 1,024 pixels (10
tiles); `python -m bench.train_run run FOLDER` trains on them and prints JSON.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PICTURES = {"five": (512, 40, 12_288), "ten": (1024, 24, 13_312)}
"""Name of the data: (side in pixels, pictures, tokens of a pack: 13 samples of 929, 8 of some 1,648)."""

RUNS: dict[str, tuple[str, ...]] = {
    "pretrain": ("train.llm=freeze",),
    "instruct, LoRA": ("train.llm=lora", "engine.zero=2"),
}
COMMON = (
    "data.only_present=true", "data.tiles=96", "data.packs_per_step=4", "data.workers=8",
    "engine.checkpointing=none", "engine.compile=true",
)  # fmt: skip
STEPS, WARM = 9, 3
LIMIT_S = 240


def make_data(folder: Path) -> None:
    """Write raw trees in ROCOv2's layout, with some 150 tokens of report a picture, and build them."""
    from builders.demos import phantom_pictures, phantom_reports, phantoms
    from builders.engine.demo_files import write_demo_file

    for name, (side, count, _) in PICTURES.items():
        raw = folder / "raw" / name
        (raw / "train").mkdir(parents=True)
        captions: list[tuple[str, ...]] = [("ID", "Caption")]
        licences: list[tuple[str, ...]] = [("ID", "PMCID", "Attribution", "Link")]
        for number in range(count):
            key, phantom = f"ROCOv2_2023_train_{number + 1:06d}", phantoms.make(7_000_000 + number, "PA")
            picture = phantom_pictures.render(phantom, side).resize((side, side))
            picture.save(raw / "train" / f"{key}.jpg", quality=90)
            words = " ".join(phantom_reports.describe(phantom).values()).split()
            captions.append((key, " ".join((words * 8)[:95])))
            licences.append((key, f"PMC{number + 1}", "synthetic [CC BY 4.0]", "https://example.org/"))
        for split in ("train", "valid", "test"):
            (raw / split).mkdir(exist_ok=True)
            rows = captions if split == "train" else captions[:1]
            write_demo_file(raw / f"{split}_captions.csv", rows)
        write_demo_file(raw / "license_information.csv", licences)
        build = ["--raw", str(raw), "--out", str(folder / name / "built"), "--filters", "none", "--quiet"]
        subprocess.run([sys.executable, "-m", "builders.rocov2", *build], cwd=ROOT, check=True)
        mixture = f"format: 1\nname: {name}\nsources:\n  - {{build: rocov2, epochs: 60}}\n"
        (folder / name / "mixture.yaml").write_text(mixture)


def run(folder: Path, only: str = "") -> dict[str, Any]:
    """Samples a second, MFU and data wait of every run (of `only` one set of data), each in a process of its own."""
    results: dict[str, Any] = {}
    for data in [only] if only else PICTURES:
        for name in RUNS:
            out = folder / f"out-{data}-{name.split(',')[0]}"
            command = [sys.executable, "-m", "bench.train_run", "one", str(folder), data, name, str(out)]
            log, said = out / "log.jsonl", folder / f"{out.name}.txt"
            with said.open("w") as file, contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, cwd=ROOT, stdout=file, stderr=file, timeout=LIMIT_S)
            records = [json.loads(line) for line in log.read_text().splitlines()][WARM:] if log.exists() else []
            if not records:
                results[f"{name}, {data} tiles"] = {"failed": said.read_text()[-1500:]}
                continue
            seconds = sum(record["seconds"] for record in records)
            results[f"{name}, {data} tiles"] = {
                "samples_per_second": round(sum(r["samples"] for r in records) / seconds, 2),
                "tiles_per_sample": round(sum(r["tiles"] for r in records) / sum(r["samples"] for r in records), 2),
                "tokens_per_sample": round(sum(r["tokens"] for r in records) / sum(r["samples"] for r in records)),
                "tokens_per_second": round(sum(r["tokens"] for r in records) / seconds),
                "mfu": round(sum(r["mfu"] * r["seconds"] for r in records) / seconds, 4),
                "data_wait": round(sum(r["data_wait"] * r["seconds"] for r in records) / seconds, 4),
                "steps": len(records),
                "losses": [r["loss"] for r in records],
            }
            print(name, data, results[f"{name}, {data} tiles"], file=sys.stderr, flush=True)
    return results


def run_one(folder: Path, data: str, name: str, out: Path) -> int:
    """`train.run` itself, with weights that are random and made on the device."""
    faulthandler.dump_traceback_later(60, repeat=True)  # a run that hangs says where
    import torch

    from train import export, model
    from train import run as command

    size = os.environ.get("SIZE", "20b")
    shapes = folder / size
    shapes.mkdir(exist_ok=True)
    model.sized_config(size).save_pretrained(shapes)

    def random_module(path: Path, dtype: torch.dtype) -> model.MedGptForTraining:
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with torch.device("cuda"):
            made = model.MedGptForTraining(model.read_config(path))
        torch.set_default_dtype(torch.float32)
        return made

    def no_export(*_: Any) -> Path:
        return out / "not written"

    setattr(model, "load_module", random_module)  # noqa: B010 - of another name than the type checker expects
    setattr(export, "export_model", no_export)  # noqa: B010
    length = f"data.length={PICTURES[data][2]}"
    settings = [f"data.mixture={folder / data / 'mixture.yaml'}", length, *COMMON, *RUNS[name]]
    stage = name.split(",")[0]
    return command.main(
        ["--shards", str(folder / data), "--stage", stage, "--model", str(shapes), "--out", str(out), "--uncertified",
         "--steps", str(STEPS), "--quiet", *(part for setting in settings for part in ("--set", setting))]
    )  # fmt: skip


def main(arguments: list[str]) -> int:
    """`data FOLDER`, `run FOLDER [five|ten]`, or `one FOLDER DATA RUN OUT`."""
    verbs: dict[str, Callable[..., Any]] = {"data": make_data, "run": run}
    if arguments[0] == "one":
        return run_one(Path(arguments[1]), arguments[2], arguments[3], Path(arguments[4]))
    result = verbs[arguments[0]](Path(arguments[1]), *arguments[2:])
    if result is not None:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
