"""It sees: a tiny model learns three findings from drawings in the three stages, and tells them in others.

What is run is `bench.sight`, with `train.run` in processes that have imported everything.
"""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import tree_digest

pytest.importorskip("deepspeed")

import torch
from test_train_run import Runs
from transformers import CLIPVisionConfig, CLIPVisionModel

from bench import sight
from bench.learning import sample
from bench.phantom_trees import FACTS, Look, write_trees
from medgpt.errors import UserError
from train import ablate, assemble
from train.config import STAGES
from train.log import read_log
from train.probe import BLACK, Probe, asked, blind
from train.tokenizer import harmony


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of phantoms under `data`, and an untrained model."""
    work = tmp_path_factory.mktemp("learning")
    sight.prepare(work)
    return work


@pytest.fixture(scope="module")
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


def test_what_blind_guessing_gets() -> None:
    """Harmony's reply `Yes` is five tokens, of which one is not known beforehand."""
    words = ["Yes", "No"] * 16
    even = [sample(number, BLACK, "Is there an effusion?", word) for number, word in enumerate(words)]
    guess = blind(even, harmony())
    assert guess is not None and guess.right == 0.5
    assert guess.loss == pytest.approx(math.log(2) / 5)
    sided = [sample(number, BLACK, "Which side?", "Left" if number % 8 else "Right") for number in range(32)]
    skewed = blind(sided, harmony())
    assert skewed is not None and skewed.right == 7 / 8
    assert skewed.loss == pytest.approx((math.log(8) + 7 * math.log(8 / 7)) / 8 / 5)
    both = blind([*even, *sided], harmony())  # it knows the question
    assert both is not None and both.loss == pytest.approx((guess.loss + skewed.loss) / 2)
    worded = [sample(number, BLACK, f"Question {number}?", word) for number, word in enumerate(words)]
    assert blind(worded, harmony()) == guess  # wordings differ, the answers are few
    assert blind([sample(number, BLACK, "Describe.", f"Film {number}.") for number in range(32)], harmony()) is None
    probe = Probe([*even, *sided, sample(99, BLACK, "What is shown?", "A chest.")], "here", 10)
    assert Counter(asked(one.record) for one in probe.samples) == {"Is there an effusion?": 5, "Which side?": 5}
    with pytest.raises(UserError, match="here: no question about a picture with 2 to 8 different answers"):
        Probe([sample(0, BLACK, "What is shown?", "A chest.")], "here")


@pytest.mark.parametrize("width", [32, 256])
def test_random_parts_keep_the_size_of_what_passes_through(width: int) -> None:
    torch.manual_seed(0)
    projector = torch.nn.Sequential(torch.nn.Linear(4 * width, width), torch.nn.GELU(), torch.nn.Linear(width, width))
    assemble.draw_projector(projector)
    assert 0.4 < projector(torch.randn(64, 4 * width)).std() < 0.8  # a GELU keeps 0.65 of unit variance
    for patch, drawn in ((7, 0.08), (14, 0.02)):
        shape = {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": 1, "num_attention_heads": 1}
        tower = CLIPVisionModel(
            CLIPVisionConfig(image_size=4 * patch, patch_size=patch, initializer_range=drawn, **shape)
        )
        assemble.spread_positions(tower)
        weights = dict(tower.named_parameters())
        pixels = torch.randn(64, 3, patch, patch)
        seen = torch.nn.functional.conv2d(pixels, next(w for n, w in weights.items() if "patch_embedding" in n))
        where = next(w for n, w in weights.items() if "position_embedding" in n)
        assert 0.8 < seen.std() / where.std() < 1.25


@pytest.mark.slow
@pytest.mark.skipif("CI_SLOW" not in os.environ, reason="three and a half CPU-minutes: set CI_SLOW=1")
def test_a_tiny_model_learns_to_see_in_three_stages(work: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three findings that grey does not tell, in drawings of another seed and another look; without them chance."""

    def call(arguments: list[str]) -> int:
        return runs.run(arguments[arguments.index("--stage") + 1], arguments[1:]).codes[0]

    monkeypatch.setattr(sight, "call", call)
    found = sight.look(work, sight.learn(work))
    print(json.dumps(found, indent=1))
    for stage in STAGES:
        log, source = read_log(work / stage / "log.jsonl"), sight.SOURCE[stage]
        print(stage, [(r["step"], r["loss"], r["probe"]["right"]) for r in log if "probe" in r])
        # Three facts of two kinds in a caption, one in an answer.
        learnt = log[0]["supervised"] / log[0]["samples"]
        assert log[0]["blind"][source] == pytest.approx(math.log(2 if stage == "instruct" else 8) / learnt, rel=0.05)
        assert log[0]["samples"] == 16
    assert log[-1]["loss"] < 0.5 * log[-1]["blind"][source]
    assert log[-1]["probe"]["blind_right"] == 0.5 < log[-1]["probe"]["low"]
    # Of the loss, the source's and the held-out questions', and of the share right.
    assert (work / "instruct" / "curves.svg").read_text().count('class="line dashed') == 4
    assert found["guessed blindly"] == 0.5 and max(found["grey threshold"].values()) <= 0.6
    assert set(found["own"]) == {fact.question for fact in FACTS.values()}
    for question, own in found["own"].items():
        assert own["right"] >= 0.9 and own["asked"] == sight.TEST >= 320, question
        for other in ("shuffled", "black"):
            assert found[other][question]["low"] <= 0.5 <= found[other][question]["high"], (question, other)
    example = found["example"]
    assert example["with its picture"] == example["truth"] != example["with a black one"]
    assert example["sample"] in sight.lines(found)[-1]


def test_encoders_are_compared_on_the_same_data(
    work: Path, runs: Runs, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Tiny ones of the four architectures: two as folders and files in their publishers' layouts, two random."""
    timm = pytest.importorskip("timm")
    pytest.importorskip("open_clip")
    clip = ablate.random_encoder(work / "clip", "clip", "tiny", 3)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=1)
    torch.save({f"visual.trunk.{name}": value for name, value in vit.state_dict().items()}, work / "biomed.pt")
    tower = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
    (work / "biomed.json").write_text(json.dumps({"model_cfg": {"embed_dim": 64, "vision_cfg": tower}}))
    called: list[str] = []
    told: list[Sequence[str]] = []
    ask = ablate.ask

    def asking(folder: Path, options: Any, settings: Sequence[str]) -> dict[str, Any]:
        told.append(settings)
        return ask(folder, options, settings)

    def call(arguments: list[str], launcher: Sequence[str] = ()) -> int:
        assert not launcher
        called.append(arguments[0])
        if arguments[0] == "train.assemble":
            return assemble.main([*arguments[1:], "--dtype", "fp32"])
        if len(called) == 2:
            return 143
        return runs.run(f"ablate-{len(called)}", arguments[1:]).codes[0]

    monkeypatch.setattr(ablate, "call", call)
    monkeypatch.setattr(ablate, "ask", asking)
    (work / "mixture.yaml").write_text("format: 1\nname: ablation\nsources: [{build: vqa_rad, epochs: 1}]\n")
    settings = [one for one in sight.SETTINGS if not one.startswith("watch.probe")]
    settings.append(f"data.mixture={work / 'mixture.yaml'}")
    command = [
        str(work / "data"), "--probe", str(work / "data" / "built" / "vqa_rad"), "--encoders", *ablate.ENCODERS,
        "--lora", "--llm", str(work / "llm"), "--size", "tiny", "--steps", "2", "--seeds", "1", "--questions", "24",
        "--weights", f"clip={clip}", "--weights", f"biomedclip={work / 'biomed.json'},{work / 'biomed.pt'}",
        "--out", str(work / "ablation"), "--", "--uncertified", "--quiet",
        *(f"--set={setting}" for setting in settings),
    ]  # fmt: skip
    assert ablate.main(command) == 143  # stopped while it trains
    assert ablate.main(["small" if word == "tiny" else word for word in command]) == 1
    assert "made with other options" in capfd.readouterr().err
    assert ablate.main(command) == 0, capfd.readouterr().err
    assert called == ["train.assemble", "train.run", "train.run", *["train.assemble", "train.run"] * 3]
    assert told == [[*settings, "engine.compile=false"]] * 4
    rows = json.loads((work / "ablation" / "ablation.json").read_text())
    assert [row["encoder"] for row in rows] == list(ablate.ENCODERS)
    assert [row["weights"] != "random" for row in rows] == [True, True, False, False]
    for row in rows:
        assert row["asked"] == 24 and row["low"] < row["right"] < row["high"] and row["blind"] == 0.5
        log = read_log(work / "ablation" / row["encoder"] / "seed-0" / "run" / "log.jsonl")
        assert len(log) == 2
        # The same samples in the same order, whatever the encoder.
        assert [(r["tokens"], r["samples"]) for r in log] == [(r["tokens"], r["samples"]) for r in log_of_clip(work)]
    plot = (work / "ablation" / "ablation.svg").read_text()
    assert plot.count('class="pale s0"') == 4 and plot.count('class="line dashed') == 1
    assert (work / "ablation" / "ablation.md").read_text().count("\n| ") == 6
    called.clear()
    assert ablate.main(command) == 0 and not called  # what is done is not done again
    assert ablate.main([*command[: command.index("--steps") + 1], "3", *command[command.index("--seeds") :]]) == 1
    assert "made with other options" in capfd.readouterr().err


def log_of_clip(work: Path) -> list[dict[str, Any]]:
    return read_log(work / "ablation" / "clip" / "seed-0" / "run" / "log.jsonl")
