"""`train.run` end to end on GPUs at the recipe's shapes: shards of drawn radiographs with captions in, updates out.

Every preset as it is shipped; the bench names its own mixture, nothing else. Everything is what a user runs but the
weights, which are random and made on the device: no 42 GB are written first.

`python -m bench.train_run data FOLDER` makes shards (uncertified) of pictures of 512 (5 tiles) and 1,024 pixels (10
tiles). `python -m bench.train_run run FOLDER WAVE ...` trains on them and prints JSON. A wave is jobs at the same time
on different devices, PRESET:DATA:DEVICES[:HOW] with commas between: `midtrain:five:0-3,midtrain:five:4-7:fsdp`. HOW is
`fsdp` (a bare loop under FSDP2 instead of ours), `save` (two decoder layers, 3.1 billion parameters, whose checkpoint
has 37.5 GB; a second process goes on from it) or settings of DeepSpeed's `zero_optimization` to try, KEY=VALUE with `+`
between: `midtrain:five:0-3:stage3_allgather_sequential=true`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from train.collate import Micro
    from train.config import Config
    from train.data import Batches
    from train.log import Log
    from train.loop import Place
    from train.model import Model

ROOT = Path(__file__).parents[1]
PICTURES = {"five": (512, 40), "ten": (1024, 24)}
"""Name of the data: (side in pixels, pictures)."""

WAVES = ("pretrain:five:0", "pretrain:ten:0", "lora:five:0", "lora:ten:0")
STEPS, WARM = int(os.environ.get("BENCH_STEPS", "9")), 3
LIMIT_S = int(os.environ.get("BENCH_LIMIT", "240"))


def make_data(folder: Path) -> None:
    """Write raw trees in ROCOv2's layout, with some 150 tokens of report a picture, and build them."""
    from builders.demos import phantom_pictures, phantom_reports, phantoms
    from builders.engine.demo_files import write_demo_file

    for name, (side, count) in PICTURES.items():
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


def run(folder: Path, *waves: str) -> dict[str, Any]:
    """Samples a second and card, MFU, memory and data wait of every job, each in processes of its own."""
    results: dict[str, Any] = {}
    for wave in waves or WAVES:
        begun = [(job, _begin(folder, job, "first")) for job in wave.split(",")]
        deadline = time.monotonic() + LIMIT_S
        for job, process in begun:
            results[job] = _end(folder, job, "first", process, deadline)
            if job.endswith(":save"):
                again = _begin(folder, job, "again")
                results[f"{job}, resumed"] = _end(folder, job, "again", again, time.monotonic() + LIMIT_S)
            print(job, results[job], file=sys.stderr, flush=True)
    return results


def _begin(folder: Path, job: str, turn: str) -> subprocess.Popen[bytes]:
    _, _, devices, *_ = job.split(":")
    first, _, last = devices.partition("-")
    numbers = range(int(first), int(last or first) + 1)
    launch = [
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        str(len(numbers)),
        "--master_port",
        str(29500 + int(first)),
    ]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ",".join(map(str, numbers))}
    with _said(folder, job, turn).open("w") as file:
        return subprocess.Popen(
            [sys.executable, *launch, "-m", "bench.train_run", "one", str(folder), job, turn],
            cwd=ROOT, env=environment, stdout=file, stderr=file,
        )  # fmt: skip


def _said(folder: Path, job: str, turn: str) -> Path:
    return folder / f"{job.replace(':', '-')}-{turn}.txt"


def _end(folder: Path, job: str, turn: str, process: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    try:
        process.wait(max(1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait()
    log, text = folder / job.replace(":", "-") / "log.jsonl", _said(folder, job, turn).read_text()
    lines = log.read_text().splitlines() if log.exists() else []
    records = [json.loads(line) for line in lines]
    notes = [json.loads(line) for line in text.splitlines() if line.startswith('{"note"')]
    measured = records[WARM:]
    if not measured:
        return {"failed": text[-1500:], "notes": notes}
    seconds = sum(record["seconds"] for record in measured)
    cards = len(range(*_ends(job)))
    total = {name: sum(record[name] for record in measured) for name in ("samples", "tokens", "tiles", "packs")}
    found = {
        "samples_per_second_and_card": round(total["samples"] / seconds / cards, 2),
        "tokens_per_second_and_card": round(total["tokens"] / seconds / cards),
        "tiles, tokens a sample": [round(total[name] / total["samples"], 1) for name in ("tiles", "tokens")],
        "tokens a pack": round(total["tokens"] / total["packs"]),
        "packs a step": total["packs"] // len(measured),
        "step_s": [round(record["seconds"], 3) for record in measured],
        "first_step_s": records[0]["seconds"],
        "losses": [record["loss"] for record in records],
        "grad_norms": [record["grad_norm"] for record in records],
        "notes": notes,
    }
    for name in ("mfu", "data_wait", "fill"):
        if name in measured[0]:
            found[name] = round(sum(record[name] * record["seconds"] for record in measured) / seconds, 4)
    return found


def _ends(job: str) -> tuple[int, int]:
    first, _, last = job.split(":")[2].partition("-")
    return int(first), int(last or first) + 1


def note(**values: Any) -> None:
    """A line for the result."""
    print(json.dumps({"note": values}), flush=True)


def run_one(folder: Path, job: str, turn: str) -> int:
    """`train.run` itself, with weights that are random and made on the device."""
    from train import run as command

    command.quiet_libraries()
    import torch

    from train import checkpoint, export, loop, model

    started = time.perf_counter()
    stage, data, _, *how = job.split(":")
    out, saves = folder / job.replace(":", "-"), how == ["save"]
    shapes = model.SIZES["20b"]
    layers = 2 if saves else int(os.environ.get("BENCH_LAYERS", "24"))  # fewer: a rehearsal
    model.SIZES["20b"] = shapes | {"text": shapes["text"] | {"num_hidden_layers": layers}}
    rank = os.environ["RANK"]
    made, first = folder / f"model-{job.replace(':', '-')}-{rank}", rank == "0"
    model.sized_config("20b").save_pretrained(made)
    device = "cuda" if torch.cuda.is_available() else "cpu"

    def random_module(path: Path, dtype: torch.dtype) -> model.MedGptForTraining:
        torch.manual_seed(0)
        torch.set_default_dtype(dtype)
        with torch.device(device):
            found = model.MedGptForTraining(model.read_config(path))
        torch.set_default_dtype(torch.float32)
        return found

    def timed(owner: Any, name: str) -> None:
        plain = getattr(owner, name, None)
        if plain is None:
            return  # a bare loop saves nothing

        def wrapped(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            result = plain(*arguments, **named)
            if first:
                note(what=name, seconds=round(time.perf_counter() - begun, 2), at=round(begun - started, 1))
            return result

        setattr(owner, name, wrapped)

    setattr(model, "load_module", random_module)  # noqa: B010 - of another name than the type checker expects
    setattr(export, "export_model", lambda *_: out / "not written")  # noqa: B010
    if how == ["fsdp"]:
        setattr(loop, "Trainer", Bare)  # noqa: B010
    elif not saves:
        setattr(loop.Trainer, "save", lambda *_: None)  # noqa: B010 - 255 GB
    if how and "=" in how[0]:
        tried = {key: json.loads(value) for key, _, value in (part.partition("=") for part in how[0].split("+"))}
        shipped = loop.engine_config

        def changed(config: Config, micros: int) -> dict[str, Any]:
            found = shipped(config, micros)
            return found | {"zero_optimization": found["zero_optimization"] | tried}

        setattr(loop, "engine_config", changed)  # noqa: B010
    for owner, name in ((command, "_resume"), (command, "_load"), (loop.Trainer, "__init__"), (loop.Trainer, "save")):
        timed(owner, name)
    timed(checkpoint.Saver, "_reserve")
    timed(checkpoint.Checkpoint, "read")
    until = ["--max-steps", str(STEPS - 3 if turn == "first" else STEPS)] if saves else []
    code = command.main(
        ["--shards", str(folder / data), "--stage", stage, "--model", str(made), "--out", str(out), "--uncertified",
         "--steps", str(STEPS), *until, "--quiet", "--set", f"data.mixture={folder / data / 'mixture.yaml'}"]
    )  # fmt: skip
    if first and device == "cuda":
        stats = torch.cuda.memory_stats()
        peaks = {name: round(stats.get(f"{name}_bytes.all.peak", 0) / 2**30, 1) for name in ("allocated", "reserved")}
        note(peak_gib=peaks, retries=stats.get("num_alloc_retries"), device=torch.cuda.get_device_name())
        from torch._dynamo.utils import compilation_time_metrics as spent

        note(compiled_s={name: [round(one, 1) for one in spent[name]] for name in spent if sum(spent[name]) > 1})
    return code


class Bare:
    """A plain loop under FSDP2 in the place of `train.loop.Trainer`: same module, packs, losses and AdamW."""

    def __init__(self, config: Config, model: Model, batches: Batches[Micro], place: Place, *_: Any) -> None:
        import torch
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        from train.model import layer_lists

        self.config, self.model, self.batches, self.place = config, model, batches, place
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.bfloat16)
        for layers in layer_lists(model.module):
            for layer in layers:
                fully_shard(layer.float(), mp_policy=policy)  # fp32 master weights
        self.module = fully_shard(model.module.float(), mp_policy=policy)
        groups = model.parameter_groups(config)
        self.optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, fused=place.device.type == "cuda")
        self.step, self.engine, self.saver = 0, None, SimpleNamespace(note="")

    def run(self, _steps: int, until: int, log: Log | None, _bar: Any) -> None:
        """Train; writes what the bench reads."""
        import torch
        import torch.distributed as dist

        from train.loop import peak_tflops
        from train.model import forward_losses

        device, world = self.place.device, self.place.world
        previous = time.perf_counter()
        for batch in self.batches:
            weight = torch.tensor(sum(micro.weight for micro in batch.micros), device=device)
            dist.all_reduce(weight)
            total = torch.zeros(6, dtype=torch.float64, device=device)
            for micro in batch.micros:
                there = micro.to(device)
                loss = (forward_losses(self.model, self.module, there, self.config) * there.weights).sum() / weight
                (loss * world).backward()
                counts = [loss.item(), len(micro.samples), micro.tokens, micro.tiles, micro.flops, batch.waited]
                total += torch.tensor(counts, dtype=torch.float64, device=device)
            norm = torch.nn.utils.clip_grad_norm_(self.module.parameters(), self.config.optimizer.clip)
            self.optimizer.step()
            self.optimizer.zero_grad()
            dist.all_reduce(total)
            loss_sum, samples, tokens, tiles, flops, waited = total.tolist()
            now = time.perf_counter()
            record = {
                "step": self.step, "seconds": now - previous, "loss": loss_sum, "samples": int(samples),
                "grad_norm": norm.full_tensor().item(),
                "tokens": int(tokens), "tiles": int(tiles), "packs": batch.batch.count,
                "data_wait": waited / world / (now - previous),
                "mfu": flops / (now - previous) / ((peak_tflops(device) or 1) * 1e12 * world),
            }  # fmt: skip
            previous = now
            if log is not None:
                log.write(record)
            self.step += 1
            if self.step == until:
                break


def main(arguments: list[str]) -> int:
    """`data FOLDER`, `run FOLDER [WAVE ...]`, or `one FOLDER JOB TURN`."""
    verbs: dict[str, Callable[..., Any]] = {"data": make_data, "run": run}
    if arguments[0] == "one":
        code = run_one(Path(arguments[1]), *arguments[2:])
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # a rank's device threads sometimes keep a process that is done
    result = verbs[arguments[0]](Path(arguments[1]), *arguments[2:])
    if result is not None:
        print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
