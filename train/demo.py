"""`python -m train.demo`: the tiny model through all three stages on the demo shards, on a CPU, in minutes.

It shows that the road is open, not that anything is learnt: the demo sources have a few hundred samples. With `--sight`
it shows that, too, on drawings (`bench.sight`): a question that is answered right with its picture and wrong without.
Each stage is the command that a user would type, and it is printed. What is not the presets' own is in `SETTINGS`, with
its reason.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import orjson

from medgpt.arguments import command_parser
from medgpt.errors import NOT_FINISHED, UserError, one_line, run
from medgpt.messages import complain
from train.config import STAGES, load_config

EXAMPLE = """\
example:
  python -m builders.demo --data demo
  python -m train.demo demo
  xdg-open demo/train/instruct/curves.svg
  python -m train.demo demo --sight

Run again, it goes on where it was stopped; a stage that is done is not trained again.
"""

STEPS = 5
"""Optimizer steps of a stage: each is about a second on two cores, for the 201,088 rows of embedding and head."""

SETTINGS = (
    "data.only_present=true",  # the demo leaves some sources without a sample
    "data.length=2048", "data.tiles=13",  # one picture of 12 tiles and its thumbnail, with room for its text
    "data.over_long=drop",  # samples with several pictures
    "data.max_enlargement=0.01",  # one tile a picture: the demo's are smaller than one
    "data.packs_per_step=1", "data.workers=2",
    "engine.precision=fp32", "engine.zero=1", "engine.compile=false", "engine.checkpointing=none",
    # A model that knows nothing and has five steps: the recipe's learning rates would not move it.
    "optimizer.vision_lr=1e-3", "optimizer.projector_lr=1e-2", "optimizer.llm_lr=2e-3",
    "loss.chunk=256", "watch.keep=1",
)  # fmt: skip


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser("train.demo", "Train the tiny model through the three stages on demo shards.", EXAMPLE)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builders.demo: builds and their proof")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of models and logs (default DATA/train)")
    parser.add_argument("--steps", type=int, default=STEPS, metavar="N", help=f"steps of a stage (default {STEPS})")
    parser.add_argument(
        "--sight",
        action="store_true",
        help="then train another on drawings and ask it with and without (4 CPU-minutes)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 stopped with one line (run again to resume), 2 wrong usage, else a stage's code."""
    options = make_parser().parse_args(arguments)
    if options.steps < 1:
        raise UserError(f"--steps {options.steps}: at least 1")
    try:
        certificate = check(options.data)
    except UserError as error:
        complain(f"train.demo: {error}")
        return NOT_FINISHED
    out = options.out or options.data / "train"
    code = train(options.data, out, options.steps, certificate, options.quiet)
    return call(["bench.sight", str(out / "sight")]) if options.sight and not code else code


def check(data: Path) -> str:
    """See that there are the libraries and certified data; the certificate's digest.

    Raises: `UserError` (no such data), `ModuleNotFoundError` (no such library).
    """
    for name in ("torch", "transformers", "deepspeed"):
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(name=name)  # `medgpt.errors.run` says how to install it
    from manifests.proof.trust import Trust
    from shards.certified import load_certified

    try:
        return load_certified(data, trust=Trust(incomplete=True), quiet=True).digest
    except UserError as error:
        raise UserError(f"{one_line(error)} (the demo shards: python -m builders.demo --data DIR)") from None


def train(data: Path, out: Path, steps: int, certificate: str, quiet: bool) -> int:
    """Assemble the model where there is none, train the stages one after the other, and say what became of the loss."""
    from train.log import read_log

    model = out / "model"
    if not (model / "config.json").is_file():
        code = call(["train.assemble", "--size", "tiny", "--dtype", "fp32", "--out", str(model)])
        if code:
            return code
    rows = []
    for stage in STAGES:
        folder = out / stage
        paths = ["--shards", str(data), "--model", str(model), "--out", str(folder), "--steps", str(steps)]
        paths.append("--accept-incomplete")  # the demo has all of no benchmark
        if finished(folder, stage, model, steps, certificate):
            print(f"\n{stage}: is trained already, in {folder}", flush=True)
        else:
            settings = [part for setting in SETTINGS for part in ("--set", setting)]
            code = call(["train.run", "--stage", stage, *paths, *(["--quiet"] if quiet else []), *settings])
            if code:
                return code
        records = read_log(folder / "log.jsonl")
        seconds = sum(record["seconds"] for record in records)
        rows.append((stage, len(records), records[0]["loss"], records[-1]["loss"], seconds, folder / "curves.svg"))
        model = folder / "model"
    print()
    for stage, count, first, last, seconds, curves in rows:
        print(f"{stage}: {count} steps, loss {first:.3f} to {last:.3f}, {seconds:.1f} s, {curves}")
    print(f"\nThe model: {model}; it is not for asking. One that sees: --sight", flush=True)
    return 0


def finished(folder: Path, stage: str, model: Path, steps: int, certificate: str) -> bool:
    """Whether a stage was trained to its end on these data, from this model, with these settings, and exported.

    If anything differs, `train.run` is called, which goes on or says what does.
    """
    from train.run import model_digest

    found = sorted((folder / "checkpoints").glob(f"step-{steps:08d}/state.json"))
    if not found or not (folder / "model" / "config.json").is_file():
        return False
    state = orjson.loads(found[0].read_bytes())
    now = {
        "step": steps, "steps": steps, "certificate": certificate, "model": model_digest(model),
        "config": load_config(stage, SETTINGS).as_dict(),
    }  # fmt: skip
    return all(state[name] == value for name, value in now.items())


def call(arguments: list[str], launcher: Sequence[str] = ()) -> int:
    """`python -m ...` (or `torchrun ... -m ...`) in a process of its own, shown as it is typed; its exit code.

    A process each: DeepSpeed and torch.distributed are started once a process.
    """
    print(f"\n$ {' '.join(launcher) or 'python'} -m {' '.join(arguments)}", flush=True)
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(part for part in (root, os.environ.get("PYTHONPATH")) if part)
    command = [*(launcher or [sys.executable]), "-m", *arguments]
    return subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, check=False).returncode  # noqa: S603 (ours)


if __name__ == "__main__":
    raise SystemExit(main())
