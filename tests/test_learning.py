"""It sees: a tiny model learns three findings from drawings in the three stages, and tells them in others.

Everything is what a user runs: raw trees in the publishers' layouts, builders, `train.assemble`, `train.run`, with each
stage's own freezing and ZeRO. The truth is the phantoms'. The language model is random and small, with a vocabulary of
its own: 201,088 rows would be most of the time, and `--llm` takes any causal language model. What would explain the
figures without sight is measured beside them: brightness, and pictures of others.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from conftest import tree_digest

pytest.importorskip("deepspeed")

from test_train_run import Runs

from bench.learning import grey_threshold, linear_probe, shares, texts_of, write_language_model
from bench.phantom_trees import FACTS, Look, write_trees
from builders.engine.command import main as build
from builders.engine.registry import load
from shards.reader import Build
from train import assemble
from train.collate import Collator
from train.config import STAGES, load_config
from train.log import read_log
from train.model import SIZES, load_model
from train.probe import Pictures, Probe

TRAIN, TEST = 512, 328
STEPS = {"pretrain": 10, "midtrain": 200, "instruct": 40}
SETTINGS = (
    "data.mixture=mixture.yaml", "data.length=512", "data.tiles=2", "data.packs_per_step=8", "data.workers=1",
    "engine.precision=fp32", "engine.compile=false", "engine.checkpointing=none", "loss.chunk=256",
    # From nothing, in few steps: the recipe's learning rates are for trained parts.
    "optimizer.vision_lr=2e-3", "optimizer.projector_lr=3e-3", "optimizer.llm_lr=3e-3", "optimizer.warmup=0.1",
    "watch.probe=data/built/vqa_rad", "watch.probe_every=20", "watch.probe_questions=24", "watch.save_every=1000",
)  # fmt: skip
SEEN, UNSEEN = Look(168), Look(200, quality=75, contrast=(0.80, 1.10), brightness=(-24.0, 24.0))


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Shards of phantoms under `data`, and an untrained model."""
    write_trees(tmp_path / "raw", TRAIN, TEST, seen=SEEN, unseen=UNSEEN)
    data, samples = tmp_path / "data", []
    for name in ("rocov2", "vqa_rad"):
        unfiltered = ["--filters", "none"] if load(name).filters else []
        arguments = ["--raw", str(tmp_path / "raw" / name), "--out", str(data / "built"), "--workers", "1", "--quiet"]
        assert build(load(name), [*arguments, *unfiltered]) == 0
        samples += list(Build(data / "built" / name, role="train"))
    write_language_model(tmp_path / "llm", texts_of(samples))
    vision = {"hidden_size": 24, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 3}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES["tiny"], "vision", vision)
        arguments = ["--size", "tiny", "--dtype", "fp32", "--llm", str(tmp_path / "llm")]
        assert assemble.main([*arguments, "--out", str(tmp_path / "model")]) == 0
    return tmp_path


@pytest.fixture
def runs(work: Path) -> Iterator[Runs]:
    found = Runs(work)
    yield found
    found.close()


def test_trees_are_balanced_and_repeatable(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_trees(tmp_path / name, 16, 8, seen=Look(96), unseen=Look(96, 75), seed=3)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    write_trees(tmp_path / "other", 16, 8, seen=Look(96), unseen=Look(96, 75), seed=5)
    ours, theirs = (tree_digest(tmp_path / name / "vqa_rad" / "images") for name in ("one", "other"))
    assert len(ours) == len(set(ours.values())) == 24  # no picture is shown twice
    assert ours.keys() == theirs.keys() and not set(ours.values()) & set(theirs.values())
    rows = {
        split: json.loads((tmp_path / "one" / "vqa_rad" / f"{split}set.json").read_text())
        for split in ("train", "test")
    }
    assert {split: len(items) for split, items in rows.items()} == {"train": 48, "test": 24}
    assert not {row["image_name"] for row in rows["train"]} & {row["image_name"] for row in rows["test"]}
    for split, items in rows.items():
        counts = Counter((row["question"], row["answer"]) for row in items)
        assert set(counts.values()) == {len(items) // 6} and len(counts) == 6, split


def test_a_tiny_model_learns_to_see_in_three_stages(work: Path, runs: Runs) -> None:
    built = work / "data" / "built"
    held = Probe(Build(built / "vqa_rad", role="eval"), "vqa_rad")
    untrained = load_model(work / "model", load_config("instruct", SETTINGS))
    some = list(islice(Build(built / "vqa_rad", role="train"), 3 * 256))
    print("grey threshold", grey := grey_threshold(some, held.samples))
    print("linear probe of the untrained encoder", linear_probe(untrained, some, held.samples))
    assert max(grey.values()) <= 0.6
    model = work / "model"
    for stage in STAGES:
        source = "vqa_rad" if stage == "instruct" else "rocov2"
        (work / "mixture.yaml").write_text(f"format: 1\nname: {stage}\nsources: [{{build: {source}, epochs: 1}}]\n")
        arguments = [
            "--shards", str(work / "data"), "--stage", stage, "--model", str(model), "--out", str(work / stage),
            "--steps", str(STEPS[stage]), "--quiet", "--uncertified",
            *(part for setting in SETTINGS for part in ("--set", setting)),
        ]  # fmt: skip
        result = runs.run(stage, arguments)
        assert result.codes == [0], result.err
        log = read_log(work / stage / "log.jsonl")
        print(stage, [(r["step"], r["loss"], r["probe"]["right"]) for r in log if "probe" in r])
        tokens = log[0]["supervised"] / log[0]["samples"]
        # Three facts of two kinds in a caption, one in an answer.
        assert log[0]["blind"][source] == pytest.approx(math.log(2 if stage == "instruct" else 8) / tokens, rel=0.05)
        model = work / stage / "model"
    assert log[-1]["loss"] < 0.5 * log[-1]["blind"]["vqa_rad"]
    assert log[-1]["probe"]["blind_right"] == 0.5 < log[-1]["probe"]["low"]
    assert "stroke-dasharray" in (work / "instruct" / "curves.svg").read_text()
    config = load_config("instruct", SETTINGS)
    trained = load_model(model, config)
    collate = Collator(trained.tokenizer, trained.tiling, {"vqa_rad": 0})

    def ask(pictures: Pictures) -> dict[str, dict[str, float]]:
        found = shares(held.ask(trained, trained.module, collate, config, pictures=pictures, documents=2))
        print(pictures, found)
        assert set(found) == {fact.question for fact in FACTS.values()}
        assert all(one["asked"] == TEST >= 320 for one in found.values())
        return found

    assert min(one["right"] for one in ask("own").values()) >= 0.9
    assert all(one["low"] <= 0.5 <= one["high"] for one in ask("shuffled").values())
