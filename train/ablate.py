"""`python -m train.ablate`: which vision encoder? The paper's Figure 1: encoders, all else the same.

Each encoder is put before the same language model and trained on the same data in the same order, for the same number
of steps, with each seed; then held-out questions are asked (`train.probe`). A seed decides what is random in a model
(projector, adapters) and the order of the data. An encoder without weights of its own is a random one of its
architecture. Run again, it goes on where it was stopped; what is done is not done again.
"""

from __future__ import annotations

import argparse
import html
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from medgpt.arguments import command_parser
from medgpt.atomic import write_atomic
from medgpt.errors import DONE, NOT_FINISHED, UserError, run
from medgpt.intervals import wilson
from medgpt.libraries import libraries_apart
from medgpt.messages import complain
from medgpt.page import drawing
from medgpt.private import make_folder
from medgpt.tables import markdown
from train.config import load_config
from train.demo import call
from train.run import make_parser as run_parser

EXAMPLE = """\
examples:
  python -m train.ablate data --probe data/built/vqa_rad --encoders clip siglip --size tiny --steps 20 --out data/a \\
      -- --only-present --accept-incomplete
  python -m train.ablate data --probe data/built/slake --encoders clip biomedclip siglip medsiglip --lora \\
      --steps 2000 --llm models/gpt-oss-20b \\
      --weights clip=models/clip-vit-large-patch14-336 --weights siglip=models/siglip-so400m-patch14-384 \\
      --weights biomedclip=models/biomedclip/open_clip_config.json,models/biomedclip/open_clip_pytorch_model.bin \\
      --weights medsiglip=models/medsiglip-448 --out data/ablation --launch "torchrun --nproc_per_node 4" \\
      -- --trust key.pub --set data.mixture=instruct

What stands behind -- goes to train.run as it is.
"""


@dataclass(frozen=True)
class Architecture:
    """What an encoder is where no weights are given; widths and depth are those of --size."""

    kind: str
    """`clip`, `vit` or `siglip`."""
    side: int
    patch: int
    mean: float | None
    """Of each channel; None is CLIP's normalisation."""


ENCODERS = {
    "clip": Architecture("clip", 336, 14, None),  # openai/clip-vit-large-patch14-336
    "biomedclip": Architecture("vit", 224, 16, None),  # microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224
    "siglip": Architecture("siglip", 384, 14, 0.5),  # google/siglip-so400m-patch14-384
    "medsiglip": Architecture("siglip", 448, 14, 0.5),  # google/medsiglip-448
}
"""The encoders of the paper's Figure 1; grids and normalisation from their cards and configurations."""


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser("train.ablate", (__doc__ or "").partition("\n\n")[2], EXAMPLE)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds and their proof")
    parser.add_argument("--probe", type=Path, required=True, metavar="DIR", help="build whose held-out part is asked")
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS), help="default: all four")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NAME=DIR",
        help="an encoder's Hugging Face folder, or MODEL,FILE of open_clip; repeatable (without: random)",
    )  # fmt: skip
    parser.add_argument("--llm", type=Path, metavar="DIR", help="language model; without it, a random one")
    parser.add_argument("--size", choices=("tiny", "small", "20b"), default="small", help="of what is random (small)")
    parser.add_argument("--stage", default="instruct", help="preset of train.run (instruct)")
    parser.add_argument("--lora", action="store_true", help="adapters on the language model, as in the paper")
    parser.add_argument("--steps", type=int, default=500, metavar="N", help="steps of each run (500)")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each encoder (3)")
    parser.add_argument("--questions", type=int, metavar="N", help="ask at most so many (default all)")
    parser.add_argument(
        "--launch", default="", metavar="COMMAND", help="what starts train.run, say torchrun with its options"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of models, runs, table and plot")
    return parser


@run
@libraries_apart()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 stopped with one line (run again to go on), 2 wrong usage, else a run's code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    cut = given.index("--") if "--" in given else len(given)
    options = make_parser().parse_args(given[:cut])
    options.run_options = given[cut + 1 :]
    if options.steps < 1 or options.seeds < 1:
        raise UserError("--steps and --seeds: at least 1")
    weights = dict(pair.partition("=")[::2] for pair in options.weights)
    for name, where in weights.items():
        if name not in options.encoders or not where:
            raise UserError(f"--weights {name}={where}: say NAME=DIR, NAME one of --encoders")
    try:
        found: dict[str, list[dict[str, Any]]] = {}
        for name in options.encoders:
            for seed in range(options.seeds):
                result = one(options, name, weights.get(name), seed)
                if isinstance(result, int):
                    return result
                found.setdefault(name, []).append(result)
    except UserError as error:
        complain(f"train.ablate: {error}")
        return NOT_FINISHED
    rows = table(found)
    write_atomic(options.out / "ablation.json", orjson.dumps(rows, option=orjson.OPT_INDENT_2) + b"\n")
    write_atomic(options.out / "ablation.svg", plot(rows).encode())
    text = "\n".join(lines(rows, options)) + "\n"
    write_atomic(options.out / "ablation.md", text.encode())
    print(f"\n{text}\n{options.out / 'ablation.svg'}")
    return DONE


def one(options: argparse.Namespace, name: str, weights: str | None, seed: int) -> dict[str, Any] | int:
    """Assemble, train and ask one encoder with one seed; the figures, or the exit code of a command that failed."""
    folder = options.out / name / f"seed-{seed}"
    told = {
        "weights": weights, "llm": options.llm and str(options.llm), "size": options.size, "stage": options.stage,
        "lora": options.lora, "steps": options.steps, "questions": options.questions, "run": options.run_options,
    }  # fmt: skip
    answers = folder / "answers.json"
    done: dict[str, Any] = orjson.loads(answers.read_bytes()) if answers.is_file() else {"told": told}
    if done["told"] != told:
        raise UserError(f"{folder}: made with other options; use those, or another --out")
    if "right" in done:
        return done
    make_folder(folder)
    write_atomic(answers, orjson.dumps(done))  # of what is made below, should this be stopped
    start = folder / "start"
    if not (start / "config.json").is_file():
        if weights is not None and "," in weights:
            vision = ["--open-clip", *weights.split(",", 1)]
        else:
            vision = ["--vision", weights or str(random_encoder(folder / "encoder", name, options.size, seed))]
        language = [] if options.llm is None else ["--llm", str(options.llm)]
        arguments = ["--size", options.size, "--seed", str(seed), "--out", str(start), *vision, *language]
        if code := call(["train.assemble", *arguments]):
            return code
    trained = folder / "run" / "model"
    settings = [f"seed={seed}", *(["train.llm=lora"] if options.lora else [])]
    arguments = ["--shards", str(options.data), "--stage", options.stage, "--model", str(start)]
    arguments += ["--out", str(trained.parent), "--steps", str(options.steps), *options.run_options]
    arguments += [part for setting in settings for part in ("--set", setting)]
    if not (trained / "config.json").is_file() and (
        code := call(["train.run", *arguments], shlex.split(options.launch))
    ):
        return code
    changes = run_parser().parse_args(["--stage", options.stage, *options.run_options]).set
    done |= {"encoder": name} | ask(trained, options, [*changes, "engine.compile=false"])
    write_atomic(answers, orjson.dumps(done))
    return done


def random_encoder(folder: Path, name: str, size: str, seed: int) -> Path:
    """A Hugging Face folder of a random encoder of an architecture, with the widths of a size."""
    import transformers as hub

    from train.assemble import spread_positions
    from train.model import SIZES
    from train.tiling import CLIP_MEAN, CLIP_STD

    kinds: dict[str, tuple[Any, Any]] = {
        "clip": (hub.CLIPVisionConfig, hub.CLIPVisionModel),
        "siglip": (hub.SiglipVisionConfig, hub.SiglipVisionModel),
        "vit": (hub.ViTConfig, hub.ViTModel),
    }
    shape = ENCODERS[name]
    config, model = kinds[shape.kind]
    hub.set_seed(seed)
    module = model(config(image_size=shape.side, patch_size=shape.patch, **SIZES[size]["vision"]))
    spread_positions(module)
    module.save_pretrained(folder)
    mean, std = (CLIP_MEAN, CLIP_STD) if shape.mean is None else ((shape.mean,) * 3, (shape.mean,) * 3)
    write_atomic(folder / "preprocessor_config.json", orjson.dumps({"image_mean": mean, "image_std": std}))
    return folder


def ask(folder: Path, options: argparse.Namespace, settings: Sequence[str]) -> dict[str, Any]:
    """What a trained model answers to the held-out questions, on the first device."""
    import torch

    from shards.reader import Build
    from train.collate import Collator
    from train.model import config_tiling, load_model
    from train.probe import Probe

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = load_config(options.stage, settings)
    model = load_model(folder, config, device)
    model.module.to(device)
    probe = Probe(Build(options.probe, role="eval", checked=True), str(options.probe), options.questions)
    sources = dict.fromkeys((sample.record["source"] for sample in probe.samples), 0)
    tiling = config_tiling(model.module.config, config.data.max_enlargement)
    collate = Collator(model.tokenizer, tiling, sources, multiple=128)
    answers = probe.ask(model, model.module, collate, config)
    return {
        "right": int(answers.right.sum()), "asked": len(answers.right), "by_question": answers.by_question(),
        "blind": probe.blind(model.tokenizer).right,
        "encoder_parameters": sum(p.numel() for p in model.module.model.vision_tower.parameters()),
    }  # fmt: skip


def table(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """One row an encoder: mean share over the seeds with the 95 % interval of that many questions, and each seed's."""
    rows = []
    for name, results in found.items():
        count = int(results[0]["asked"])
        seeds = [result["right"] / count for result in results]
        share, low, high = wilson(round(count * sum(seeds) / len(seeds)), count)
        rows.append({
            "encoder": name, "right": round(share, 4), "low": round(low, 4), "high": round(high, 4), "asked": count,
            "seeds": [round(share, 4) for share in seeds], "blind": results[0]["blind"],
            "encoder_parameters": results[0]["encoder_parameters"],
            "weights": results[0]["told"]["weights"] or "random",
        })  # fmt: skip
    return rows


def lines(rows: Sequence[Mapping[str, Any]], options: argparse.Namespace) -> list[str]:
    """The table as Markdown."""
    how = "LoRA" if options.lora else "all parameters"
    head = [
        f"{rows[0]['asked']:,} held-out questions, {options.steps:,} steps, {options.seeds} seed(s), {how}",
        "",
    ]
    heads = ("encoder", "weights", "its parameters", "right", "95 % interval", "seeds")
    body = [
        (
            row["encoder"], row["weights"], row["encoder_parameters"], f"{row['right']:.3f}",
            f"{row['low']:.3f} to {row['high']:.3f}", ", ".join(f"{share:.3f}" for share in row["seeds"]),
        )
        for row in rows
    ]  # fmt: skip
    return [*head, markdown(heads, body), "", f"Guessed blindly: {rows[0]['blind']:.3f}."]


def plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """An SVG: a bar an encoder with its interval, a dot a seed, and a dashed line for blind guessing."""
    wide, high, left, floor = 110, 260, 48, 220

    def y(share: float) -> float:
        return floor - 190 * share

    width = left + wide * len(rows) + 12
    out = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        out.append(f'<line x1="{left}" x2="{width - 12}" y1="{y(tick)}" y2="{y(tick)}" class="grid"/>')
        out.append(f'<text x="{left - 6}" y="{y(tick) + 4}" class="end">{tick:.2f}</text>')
    for number, row in enumerate(rows):
        middle = left + wide * number + wide / 2
        out.append(
            f'<rect x="{middle - 28}" y="{y(row["right"]):.1f}" width="56" height="{190 * row["right"]:.1f}" '
            f'class="pale s0"/><line x1="{middle}" x2="{middle}" y1="{y(row["low"]):.1f}" '
            f'y2="{y(row["high"]):.1f}" class="line s0"/>'
        )
        out += [f'<circle cx="{middle + 14}" cy="{y(share):.1f}" r="3" class="solid s1"/>' for share in row["seeds"]]
        out.append(f'<text x="{middle}" y="{floor + 18}" class="middle">{html.escape(row["encoder"])}</text>')
    blind = y(rows[0]["blind"])
    out.append(f'<line x1="{left}" x2="{width - 12}" y1="{blind}" y2="{blind}" class="line dashed s6"/>')
    return drawing(width, high, out)


if __name__ == "__main__":
    sys.exit(main())
