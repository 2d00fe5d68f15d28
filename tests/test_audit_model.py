"""`eval.audit_model`: tiny models that read the audited items, or others; resumed runs; what the figures are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.engine.command import main as build
from builders.engine.registry import load
from eval.audit_model import Item, askable, cut_shards, judge, main, order_test, orders
from eval.statistics import t_test
from medgpt.errors import DONE, NOT_COMPARED, NOT_FINISHED, USAGE

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")
from bench.audit_model import Tiny, made_items

ITEMS = 60
FRESH = "- {name: fresh, build: medqa, splits: [dev]}\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MedQA with made items: 60 in `test`, 60 others in `dev`; eight questions on pictures of SLAKE's demo."""
    folder = tmp_path_factory.mktemp("audited")
    raw = folder / "raw/data_clean/questions/US/4_options"
    raw.mkdir(parents=True)
    for split, seed in (("test", 1), ("dev", 2)):
        rows = [
            {
                "question": item.question, "options": dict(item.options), "answer_idx": item.gold,
                "answer": dict(item.options)[item.gold],
            }
            for item in made_items(ITEMS, seed)
        ]  # fmt: skip
        lines = "".join(f"{json.dumps(row)}\n" for row in rows)
        (raw / f"phrases_no_exclude_{split}.jsonl").write_text(lines)
    where = ["--out", str(folder / "built"), "--workers", "1", "--quiet"]
    assert build(load("medqa"), ["--raw", str(folder / "raw"), *where]) == 0
    assert build(load("slake"), ["--demo", "--raw", str(folder / "slake"), *where]) in (0, 3)
    (folder / "tasks.yaml").write_text(FRESH)
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model that read other items, and the same after it read the audited ones in order."""
    folder = tmp_path_factory.mktemp("models")
    tiny = Tiny(0)
    tiny.read(made_items(300, 3), 2)
    tiny.save(folder / "clean")
    tiny.read(made_items(ITEMS, 1), 70)
    tiny.save(folder / "seen")
    return {name: folder / name for name in ("seen", "clean")}


def audit(model: Path, data: Path, out: Path, *more: str) -> int:
    words = ["--model", str(model), "--data", str(data), "--out", str(out), "--context", "256", "--device", "cpu"]
    chosen = ["--benchmarks", "medqa", "--task-file", str(data / "tasks.yaml"), "--controls", "fresh"]
    return main([*words, *chosen, "--permutations", "6", "--shards", "12", "--quiet", *more])


def results(out: Path) -> dict[str, Any]:
    return {one["benchmark"]: one for one in json.loads((out / "audit.json").read_bytes())["benchmarks"]}


def test_a_model_that_read_the_items_in_order_is_flagged(
    data: Path, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "seen"
    assert audit(models["seen"], data, out) == NOT_FINISHED
    shown = capsys.readouterr().out
    found = results(out)
    order, completion = found["medqa"]["order"], found["medqa"]["completion"]
    assert order["verdict"] == "flagged" and order["p_holm"] < 1e-4 and order["shards_above"] == 12
    assert order["p_reversed"] > 0.05 > order["p_control"]
    assert completion["verdict"] == "flagged" and completion["only_published"] > completion["only_moved"] + 5
    # What nobody trained on is held apart, and named as a control.
    assert found["fresh"]["order"]["p"] > 0.05 and "verdict" not in found["fresh"]["order"]
    assert "| fresh | order |" in shown and "proves nothing" in shown

    # No question in what is written; a killed run goes on, and gives the same bytes.
    item = made_items(1, 1)[0]
    files = {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}
    assert not [path for path, content in files.items() if item.question[-12:].encode() in content]
    log = out / "medqa/order.jsonl"
    log.write_bytes(log.read_bytes()[:5_000])
    (out / "audit.json").unlink()
    assert audit(models["seen"], data, out) == NOT_FINISHED
    assert {path: (out / path).read_bytes() for path in files} == files

    # Figures of one model or seed are never taken for another's.
    assert audit(models["clean"], data, out) == USAGE
    assert "choose another --out" in capsys.readouterr().err
    assert audit(models["seen"], data, out, "--seed", "1") == USAGE


def test_a_model_that_read_other_items_is_not(data: Path, models: dict[str, Path], tmp_path: Path) -> None:
    assert audit(models["clean"], data, tmp_path / "clean") == DONE
    found = results(tmp_path / "clean")["medqa"]
    assert found["order"]["verdict"] == found["completion"]["verdict"] == "not flagged"


def test_what_cannot_be_tested_is_named_before_a_model_is_loaded(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(data), "--benchmarks", "slake", "--dry-run"]
    assert main(words) == NOT_COMPARED
    said = capsys.readouterr()
    assert "slake: order: fewer than 30 blocks" in said.err and "slake: completion: no item" in said.err
    assert said.out.startswith("slake: ") and "0 shards" in said.out
    assert main(["--data", str(data), "--benchmarks", "medqa", "--controls", "medqa", "--dry-run"]) == USAGE


def test_likelihoods_and_completions_are_the_models_own(models: dict[str, Path], tmp_path: Path) -> None:
    """Windows give every token what a pass of its own over its window gives; completion is what `generate` writes."""
    import torch

    from eval.audit_model import Scorer
    from eval.cards import Card

    card = Card("tiny", model_class="AutoModelForCausalLM")
    scorer, long = (Scorer(models["seen"], card, context, device="cpu") for context in (64, 256))
    loaded = scorer._loaded
    texts = [item.text for item in made_items(6, 1)]
    tokens = [token for text in texts for token in loaded.tokenizer.encode(text, add_special_tokens=False)]
    assert len(tokens) > 200
    total = 0.0
    for place in range(1, len(tokens)):
        # The first window has 64 tokens, each later one 32 new ones behind 32 old ones.
        first = 0 if place <= 64 else 32 * ((place - 64 + 31) // 32)
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([tokens[first:place]])).logits[0, -1]
        total += float(logits.log_softmax(-1)[tokens[place]])
    found, count = scorer.likelihood(texts)
    assert found == pytest.approx(total, rel=1e-5) and count == len(tokens)

    both = set()
    for item in made_items(20, 1):
        for moved in (False, True):
            prompt, last = item.completion(moved=moved)
            right, length = long.reproduced(prompt, last)
            ids = loaded.tokenizer(prompt, return_tensors="pt")
            said = loaded.model.generate(**ids, max_new_tokens=length, do_sample=False)[0, ids["input_ids"].shape[1] :]
            assert (right == length) == (loaded.tokenizer.decode(said) == last)
            both.add(right == length)
    assert both == {True, False}


def test_clusters_stay_together_and_orders_are_drawn_by_their_number() -> None:
    items = [Item(f"{place}", f"question {place}", (), "yes", f"{place // 2}") for place in range(80)]
    shards = cut_shards(items, 50)
    assert [len(blocks) for blocks in shards] == [4, *[3] * 12]
    drawn = dict(orders(shards[0], 3, "0"))
    assert list(drawn) == ["published", "reversed", "permutation 0", "permutation 1", "permutation 2"]
    for texts in drawn.values():
        numbers = [int(text.split()[1]) for text in texts]
        assert sorted(numbers) == list(range(8)) and all(
            b == a + 1 for a, b in zip(numbers[::2], numbers[1::2], strict=True)
        )
    assert dict(orders(shards[0], 2, "0")).items() <= drawn.items() and dict(orders(shards[0], 3, "1")) != drawn
    assert cut_shards(items[:58], 50) == []


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (("Gout", "Asthma", "Croup", "Migraine"), ""),
        (("yes", "no"), "fewer than three options"),
        (("Gout", "Croup", "gout "), "two equal options"),
        (("10 mg", "9 mg", "2.5 mg"), "options in order"),
        (("Asthma", "Croup", "Gout"), "options in order"),
        (("9 mg", "10 mg", "2.5 mg"), ""),
    ],
)
def test_options_in_an_order_are_left_out(texts: tuple[str, ...], reason: str) -> None:
    assert askable(Item("i", "q", tuple(zip("ABCD", texts, strict=False)), "A", "c")) == reason


def test_p_values_are_those_of_scipy_and_right_in_one_of_twenty_clean_trials() -> None:
    stats = pytest.importorskip("scipy.stats")
    state = np.random.RandomState(0)
    for number in (2, 3, 4, 9, 10, 50, 51):
        values = (state.randn(number) + state.randn()).tolist()
        assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0, alternative="greater").pvalue, abs=1e-11)
    assert t_test([1.0]) == t_test([2.0, 2.0]) == 1.0
    low = 0
    for _ in range(1_000):
        shards = state.randn(12, 8)
        low += order_test([dict(zip(map(str, range(8)), row, strict=True)) for row in shards.tolist()])["p"] < 0.05
    assert 30 <= low <= 70


def test_a_firing_control_takes_the_verdict_back() -> None:
    def benchmark(name: str, p: float, p_control: float, *, control: bool = False) -> dict[str, Any]:
        return {"benchmark": name, "control": control, "order": {"p": p, "p_control": p_control}, "completion": None}

    first, second = benchmark("a", 0.01, 0.001), benchmark("b", 0.02, 0.4)
    judge([first, second, benchmark("fresh", 0.5, 0.5, control=True)])
    assert (first["order"]["p_holm"], first["order"]["verdict"]) == (0.02, "flagged")
    assert (second["order"]["p_holm"], second["order"]["verdict"]) == (0.02, "a control fires")
    judge([first, second, benchmark("fresh", 0.04, 0.5, control=True)])
    assert first["order"]["verdict"] == "a control fires"
