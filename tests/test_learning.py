"""It learns: a tiny model sees drawn chest radiographs in the three stages and answers questions about other ones.

Everything is what a user runs: raw trees in the publishers' layouts, builders, proof, `train.assemble`, `train.run`,
with each stage's own freezing and ZeRO. The truth is the phantoms'. The language model is random and small, with a
vocabulary of its own: 201,088 rows would be most of the time, and `--llm` takes any causal language model.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import tree_digest
from PIL import Image

pytest.importorskip("deepspeed")

import torch
from test_train_run import Runs

from bench.phantom_trees import FACTS, write_trees
from builders.engine.command import main as build
from builders.engine.registry import load
from manifests.proof.policy import DEFAULT_POLICY, load_policy
from manifests.prove import prove
from shards.reader import Build
from train import assemble
from train.collate import Collator
from train.config import STAGES, load_config
from train.log import read_log
from train.model import SIZES, forward_losses, load_model
from train.template import SYSTEM

TRAIN, TEST = 128, 64
STEPS = {"pretrain": 12, "midtrain": 28, "instruct": 50}
SETTINGS = (
    "data.mixture=mixture.yaml", "data.length=512", "data.tiles=2", "data.packs_per_step=4", "data.workers=1",
    "engine.precision=fp32", "engine.compile=false", "engine.checkpointing=none", "loss.chunk=256",
    # From nothing, in few steps: the recipe's learning rates are for trained parts.
    "optimizer.vision_lr=3e-3", "optimizer.projector_lr=5e-3", "optimizer.llm_lr=5e-3", "optimizer.warmup=0.1",
)  # fmt: skip


def write_policy(path: Path) -> None:
    """The default policy, but look-alikes stay: drawn chests are alike for a perceptual hash, whoever's they are.

    With the default 207 of 240 training pictures were taken out. No person of the test split is in train.
    """
    text = DEFAULT_POLICY.read_text()
    changes = (("level: near_image, action: exclude", "level: near_image, action: report"), ("radius: 8", "radius: 0"))
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


def write_language_model(folder: Path, texts: Iterable[str]) -> None:
    """A random Llama of 50,000 weights, and a vocabulary made from the texts that it will read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=512, initial_alphabet=letters, show_progress=False)
    )
    set_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, tie_word_embeddings=False, initializer_range=0.15,  # about 1 / sqrt(hidden_size)
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Certified shards of phantoms under `data`, and an untrained model."""
    write_trees(tmp_path / "raw", TRAIN, TEST, facts=("lateral",))
    write_policy(tmp_path / "policy.yaml")
    data, texts = tmp_path / "data", [SYSTEM.format(effort="low"), "user assistant analysis final"] * 5
    for name in ("rocov2", "vqa_rad"):
        unfiltered = ["--filters", "none"] if load(name).filters else []
        arguments = ["--raw", str(tmp_path / "raw" / name), "--out", str(data / "built"), "--workers", "1", "--quiet"]
        assert build(load(name), [*arguments, *unfiltered]) == 0
        for sample in Build(data / "built" / name, role="train"):
            texts += [part["text"] for m in sample.record["messages"] for part in m["content"] if part["text"]]
    certificate = prove(data, data / "proof", load_policy(tmp_path / "policy.yaml"))
    assert certificate["clean"] and not certificate["exclusions"]
    write_language_model(tmp_path / "llm", texts)
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


def share_right(model_folder: Path, built: Path) -> float:
    """Share of the test questions whose right answer the model finds likelier than the wrong one."""
    config = load_config("instruct", SETTINGS)
    model = load_model(model_folder, config)
    model.module.eval()
    collate = Collator(model.tokenizer, model.tiling, {"vqa_rad": 0})
    right: list[bool] = []
    for sample in Build(built / "vqa_rad", role="eval"):
        reply = sample.record["messages"][-1]["content"][0]
        truth: str = reply["text"]
        losses: dict[str, float] = {}
        for answer in ("Yes", "No"):
            reply["text"] = answer
            with torch.no_grad():
                losses[answer] = forward_losses(model, model.module, collate([sample]), config).sum().item()
        right.append(min(losses, key=losses.__getitem__) == truth)
    assert len(right) == TEST
    return sum(right) / len(right)


def test_trees_are_balanced_repeatable_and_true(tmp_path: Path) -> None:
    """Of the truth, what pixels show by themselves: fluid at the base of a lung is brighter than air."""
    facts = ("effusion", "cardiomegaly", "lateral")
    for name in ("one", "two"):
        write_trees(tmp_path / name, 16, 8, pixels=96, facts=facts, seed=3)
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    write_trees(tmp_path / "other", 16, 8, pixels=96, facts=facts, seed=4)
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
    grey: dict[str, list[float]] = {"Yes": [], "No": []}
    lateral = {row["image_name"] for row in rows["train"] if "lateral" in row["question"] and row["answer"] == "Yes"}
    for row in rows["train"]:
        if row["question"] == FACTS["effusion"].question and row["image_name"] not in lateral:
            picture = Image.open(tmp_path / "one" / "vqa_rad" / "images" / row["image_name"])
            assert picture.size == (96, 96)
            grey[row["answer"]].append(float(np.asarray(picture)[55:72, 20:40].mean()))
    assert len(grey["Yes"]) == len(grey["No"]) == 4
    assert min(grey["Yes"]) > max(grey["No"])


def test_a_tiny_model_learns_to_see_in_three_stages(work: Path, runs: Runs) -> None:
    model = work / "model"
    for stage in STAGES:
        build_name = "vqa_rad" if stage == "instruct" else "rocov2"
        (work / "mixture.yaml").write_text(f"format: 1\nname: {stage}\nsources: [{{build: {build_name}, epochs: 1}}]\n")
        arguments = [
            "--shards", str(work / "data"), "--stage", stage, "--model", str(model), "--out", str(work / stage),
            "--steps", str(STEPS[stage]), "--quiet", "--accept-incomplete",
            "--accept-policy", str(work / "policy.yaml"),
            *(part for setting in SETTINGS for part in ("--set", setting)),
        ]  # fmt: skip
        result = runs.run(stage, arguments)
        assert result.codes == [0], result.err
        losses = [record["loss"] for record in read_log(work / stage / "log.jsonl")]
        assert len(losses) == STEPS[stage]
        assert losses[-1] < 0.95 * losses[0]
        model = work / stage / "model"
    # As many are lateral as not. Of guesses, 48 of 64 or more are right once in 26,000 times (binomial).
    assert share_right(model, work / "data" / "built") >= 0.75
