"""`python -m bench.sight FOLDER`: a tiny model learns to see on a CPU, and is asked with and without pictures.

Everything is what a user runs: raw trees in the publishers' layouts, builders, `train.assemble` and `train.run` with
each stage's own freezing. The truth is the phantoms'. The language model is random and small, with a
vocabulary of its own: 201,088 rows would be most of the time. Held-out drawings are of another seed and another look.
Beside the shares stand blind chance, the best grey threshold, a linear probe of the untrained encoder, and pictures of
others and black ones. `FOLDER/sight.json` has all figures, `FOLDER/STAGE/curves.svg` the losses beside blind chance.
"""

from __future__ import annotations

import argparse
import json
from itertools import islice
from pathlib import Path
from typing import Any

from bench.learning import grey_threshold, linear_probe, shares, write_language_model
from bench.phantom_trees import Look, write_trees
from builders.engine.command import main as build
from builders.engine.registry import load
from train.config import STAGES, load_config
from train.demo import call

TRAIN, TEST, CONTROL = 1024, 328, 336
"""Pictures learnt from, held-out ones (three questions each), questions asked with others' pictures and black ones."""
STEPS = {"pretrain": 10, "midtrain": 400, "instruct": 20}
SOURCE = {"pretrain": "rocov2", "midtrain": "pubmedvision", "instruct": "vqa_rad"}
"""Captions, dialogues that ask of all three findings of a picture, one question: by their stages in the recipe."""
SETTINGS = (
    # Two dialogues of 263 tokens a pack: with 512 tokens it would be one, and half of a step's answers.
    "data.length=528", "data.tiles=2", "data.packs_per_step=8", "data.workers=1",
    "engine.zero=1", "engine.precision=fp32", "engine.compile=false", "engine.checkpointing=none", "loss.chunk=256",
    # From nothing, in few steps: the recipe's learning rates are for trained parts.
    "optimizer.vision_lr=1e-3", "optimizer.projector_lr=1.5e-3", "optimizer.llm_lr=1.5e-3", "optimizer.warmup=0.04",
    "optimizer.betas=[0.9,0.98]", "watch.probe_every=20", "watch.probe_questions=24", "watch.save_every=1000",
)  # fmt: skip
LATER = ("optimizer.vision_lr=2e-4", "optimizer.projector_lr=2e-4", "optimizer.llm_lr=2e-4")
"""Of instruct: single questions at the rates of before would undo some of what dialogues have taught."""
SEEN, UNSEEN = Look(168), Look(200, quality=75, contrast=(0.80, 1.10), brightness=(-24.0, 24.0))


def prepare(folder: Path, seed: int = 0) -> None:
    """Shards of phantoms under `data`, and an untrained model of a seed."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from train import assemble

    write_trees(folder / "raw", TRAIN, TEST, seen=SEEN, unseen=UNSEEN)
    for name in SOURCE.values():
        unfiltered = ["--filters", "none"] if load(name).filters else []
        paths = ["--raw", str(folder / "raw" / name), "--out", str(folder / "data" / "built")]
        if code := build(load(name), [*paths, "--workers", "1", "--quiet", *unfiltered]):
            raise SystemExit(code)
    write_language_model(folder / "llm", 0, seed, heads=2)  # two heads: attention is half of a step
    # Tiles of 168 pixels: the same 24 x 24 patches for a quarter of the pixels.
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    torch.manual_seed(seed)
    encoder = CLIPVisionModel(CLIPVisionConfig(image_size=168, patch_size=7, initializer_range=0.08, **shape))
    assemble.spread_positions(encoder)
    encoder.save_pretrained(folder / "vision")
    parts = ["--seed", str(seed), "--dtype", "fp32", "--llm", str(folder / "llm"), "--vision", str(folder / "vision")]
    if code := assemble.main([*parts, "--out", str(folder / "model")]):
        raise SystemExit(code)


def learn(folder: Path, seed: int = 0) -> Path:
    """Train the three stages, one after the other, with an order of the data of a seed; the last model."""
    model = folder / "model"
    for stage in STAGES:
        mixture = folder / f"{stage}.yaml"
        mixture.write_text(f"format: 1\nname: {stage}\nsources: [{{build: {SOURCE[stage]}, epochs: 1}}]\n")
        settings = [*SETTINGS, f"data.mixture={mixture}", f"seed={seed}"]
        settings += [f"watch.probe={folder / 'data' / 'built' / 'vqa_rad'}", *(LATER if stage == "instruct" else ())]
        arguments = ["--shards", str(folder / "data"), "--stage", stage, "--model", str(model)]
        arguments += ["--out", str(folder / stage), "--steps", str(STEPS[stage]), "--quiet", "--uncertified"]
        if code := call(["train.run", *arguments, *(part for one in settings for part in ("--set", one))]):
            raise SystemExit(code)
        model = folder / stage / "model"
    return model


def look(folder: Path, trained: Path) -> dict[str, Any]:
    """What the held-out questions say: shares by question, and one that needs its picture."""
    from shards.reader import Build
    from train.collate import Collator
    from train.model import load_model
    from train.probe import Probe, reply

    built = folder / "data" / "built" / "vqa_rad"
    held = Probe(Build(built, role="eval"), "vqa_rad")
    some = list(islice(Build(built, role="train"), 3 * 256))
    config = load_config("instruct", [*SETTINGS, f"watch.probe={built}"])
    found: dict[str, Any] = {
        "grey threshold": grey_threshold(some, held.samples),
        "linear probe of the untrained encoder": linear_probe(load_model(folder / "model", config), some, held.samples),
    }
    model = load_model(trained, config)
    collate = Collator(model.tokenizer, model.tiling, {"vqa_rad": 0})
    few = Probe(held.samples, "vqa_rad", CONTROL)
    ask: dict[str, Any] = {"model": model, "engine": model.module, "collate": collate, "config": config, "documents": 2}
    own, shuffled, black = held.ask(**ask), few.ask(**ask, pictures="shuffled"), few.ask(**ask, pictures="black")
    found |= {"own": shares(own), "shuffled": shares(shuffled), "black": shares(black)}
    found["guessed blindly"] = held.blind(model.tokenizer).right
    best = max(found["own"], key=lambda question: found["own"][question]["right"])
    said = {sample.record["id"]: answer for sample, answer in zip(held.samples, own.given, strict=True)}
    for sample, question, blindly in zip(few.samples, black.questions, black.given, strict=True):
        truth, seen = reply(sample.record), said[sample.record["id"]]
        if question == best and seen == truth != blindly:
            found["example"] = {"sample": sample.record["id"], "question": best, "truth": truth}
            found["example"] |= {"with its picture": seen, "with a black one": blindly}
            break
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The figures to read: shares by question, and one question with and without its picture."""
    text = [f"Held-out questions right, guessed blindly {found['guessed blindly']:.3f}:"]
    for question, own in found["own"].items():
        others, black, grey = (found[name][question] for name in ("shuffled", "black", "grey threshold"))
        text.append(
            f"{question} {own['right']:.3f} ({own['low']:.3f} to {own['high']:.3f}) of {own['asked']} with their "
            f"pictures, {others['right']:.3f} with others', {black['right']:.3f} with black ones; by grey {grey:.3f}"
        )
    if "example" in found:
        one = found["example"]
        text.append(
            f"{one['sample']}: {one['question']} {one['truth']}. "
            f"Said: {one['with its picture']} with the picture, {one['with a black one']} without."
        )
    return text


def main(arguments: list[str] | None = None) -> int:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="FOLDER", help="a new folder")
    parser.add_argument("--seed", type=int, default=0, help="of the model and of the order of the data")
    options = parser.parse_args(arguments)
    prepare(options.out, options.seed)
    found = look(options.out, learn(options.out, options.seed))
    (options.out / "sight.json").write_text(json.dumps(found, indent=1) + "\n")
    print("", *lines(found), sep="\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
