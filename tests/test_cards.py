"""Model cards: what they ask of a server, and each architecture run tiny with random weights through its own card."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from eval_builds import build_demos
from eval_server import Server
from tiny_models import save_gemma, save_ours, save_qwen

from eval.cards import CARDS, load_card
from eval.records import read_predictions, read_prompts
from eval.run import main
from medgpt.errors import UserError

SHIPPED = sorted(path.stem for path in CARDS.glob("*.yaml"))
OWN_CODE = ["hulu_med_32b", "medgpt_oss"]
"""Their checkpoints bring their classes: nothing tiny can stand for them."""
SAVED_BY = {"Qwen2_5_VLForConditionalGeneration": save_qwen, "medgemma_27b": save_gemma, "medgpt_oss_ours": save_ours}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MedFrameQA: two to five pictures a question."""
    return build_demos(tmp_path_factory.mktemp("cards"), (("medframeqa", ()), ("patient_trial", ())))


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Path]:
    found = {}
    for save in SAVED_BY.values():
        found[save] = tmp_path_factory.mktemp("tiny")
        save(found[save])
    return found


def test_cards_whose_architecture_is_not_run_here_are_named() -> None:
    assert [name for name in SHIPPED if load_card(name).trust_remote_code] == OWN_CODE
    page = (ROOT / "docs" / "evaluate.md").read_text()
    assert all(f"`{name}`" in page for name in OWN_CODE)


def test_a_model_that_must_be_served_is_not_loaded_here(tmp_path: Path) -> None:
    from eval.adapters.hf_local import HFLocal

    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="its processor is not spoken here; give --endpoint, or --engine vllm"):
        HFLocal(tmp_path, load_card("hulu_med_32b"), trust_remote_code=True)


def test_only_what_a_card_says_is_part_of_a_runs_identity() -> None:
    """Runs of an earlier version go on where the card is as it was."""
    new = {"image_prefix", "pixels", "max_pixels"}
    said = {name: new & load_card(name).shaping().keys() for name in SHIPPED}
    expected = {"lingshu_32b": {"image_prefix"}, "octomed_7b": {"pixels"}, "qoq_med_32b": {"pixels"}}
    assert said == {name: expected.get(name, set()) for name in SHIPPED}


def ask(data: Path, name: str, out: Path, *more: str) -> None:
    given = [str(data), "--tasks", "medframeqa", "--limit", "2", "--model", name, "--quiet"]
    assert main([*given, "--out", str(out), *more]) == 0


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in OWN_CODE])
def test_every_card_runs_its_architecture(
    data: Path, checkpoints: dict[Any, Path], tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    card = load_card(name)
    folder = checkpoints[SAVED_BY[name if name in SAVED_BY else card.model_class]]
    where = ["--checkpoint", str(folder), "--device", "cpu", "--batch", "2", "--max-new-tokens", "3"]
    ask(data, name, tmp_path, *where)
    task = tmp_path / "medframeqa"
    prompts, predictions = read_prompts(task / "prompts.jsonl"), read_predictions(task / "predictions.jsonl")
    for prompt, said in zip(prompts, predictions, strict=True):
        assert said.outcome == "answered" and said.completion_tokens
        turns = prompt.messages or []
        words = [part["text"] for turn in turns for part in turn["content"] if part["type"] == "text"]
        assert words[0].startswith(card.system.strip()) and words[-1].endswith(card.prompt_suffix)
        marked = [word for word in words if word.startswith("<image_")]
        assert marked == [f"<image_{place + 1}>: " for place in range(len(prompt.images) if card.image_prefix else 0)]
        if card.pixels:  # a token of Qwen's is 28 x 28 pixels
            assert said.prompt_tokens > len(prompt.images) * (card.pixels[0] // 28**2) * 0.9
    # Same bytes in, same answers out.
    ask(data, name, tmp_path / "again", *where)
    again = tmp_path / "again/medframeqa/predictions.jsonl"
    assert again.read_bytes() == (task / "predictions.jsonl").read_bytes()
    assert "scales them down" not in capsys.readouterr().err


def test_what_cards_ask_of_a_server(data: Path, tmp_path: Path) -> None:
    with Server(tmp_path) as server:
        for name in SHIPPED:
            given = ["--endpoint", server.base, "--served-model", name]
            ask(data, name, tmp_path / name, *given)
        entries = {entry["fields"]["model"]: entry for entry in server.entries()}
    assert sorted(entries) == SHIPPED
    pixels = {name: entry["fields"].get("mm_processor_kwargs") for name, entry in entries.items()}
    assert pixels.pop("octomed_7b") == {"min_pixels": 262144, "max_pixels": 262144}
    assert pixels.pop("qoq_med_32b") == {"min_pixels": 200704, "max_pixels": 1003520}
    assert set(pixels.values()) == {None}
    assert entries["medgemma_27b"]["roles"] == ["system", "user"]
    # Before a task's own system text there is one space, as in MedGemma's notebook; else it stands alone.
    trial = [str(data), "--tasks", "patient_trial_0shot", "--limit", "1", "--quiet", "--out", str(tmp_path / "trial")]
    with Server(tmp_path) as server:
        assert main([*trial, "--model", "medgemma_27b", "--endpoint", server.base]) == 0
    thinks = "SYSTEM INSTRUCTION: think silently if needed."
    for place, expected in (("medgemma_27b/medframeqa", [f"{thinks} ", ""]), ("trial/patient_trial_0shot", [thinks])):
        system = (read_prompts(tmp_path / place / "prompts.jsonl")[0].messages or [])[0]["content"]
        assert [part["text"] for part in system[:1]] == expected[:1] and len(system) == len(expected)


def test_pictures_above_a_cards_limit_are_named_and_counted(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read from their headers; a limit is a card's, here one that pictures of the demo are above."""
    (tmp_path / "card.yaml").write_text("name: small eyes\nhub_id: a/b\nmax_pixels: 100\n")
    with Server(tmp_path) as server:
        ask(data, str(tmp_path / "card.yaml"), tmp_path / "out", "--endpoint", server.base)
    record = json.loads((tmp_path / "out/medframeqa/task.json").read_text())["scaled_down"]
    prompts = read_prompts(tmp_path / "out/medframeqa/prompts.jsonl")
    assert record["above_pixels"] == 100 and record["items"] == [prompt.sample_id for prompt in prompts]
    assert record["pictures"] == sum(len(prompt.images) for prompt in prompts)
    said = capsys.readouterr().err
    assert f"{record['pictures']} pictures have more than the 100 pixels that small eyes sees" in said
    assert prompts[0].sample_id in said and said.count("\n") == 1


def test_a_large_picture_is_cut_to_the_cards_pixels(checkpoints: dict[Any, Path]) -> None:
    from PIL import Image

    from eval.adapters.base import Answer, Request
    from eval.adapters.hf_local import HFLocal
    from eval.tasks import Question

    buffer = BytesIO()
    Image.new("RGB", (1400, 1400)).save(buffer, "PNG")
    turns = [{"role": "user", "content": [{"type": "image", "index": 0}]}]
    question = Question("s/test/1", turns, [buffer.getvalue()], (), "", "c", "test", "", "open")
    tokens = {}
    for name in ("octomed_7b", "qoq_med_32b", "lingshu_32b"):

        def keep(request: Request, answer: Answer, name: str = name) -> None:
            tokens[name] = answer.prompt_tokens

        adapter = HFLocal(checkpoints[save_qwen], load_card(name), device="cpu", batch=1)
        adapter.answer(iter([Request("t", "root", question, 1, "")]), keep)
    words = tokens["lingshu_32b"] - 50 * 50
    assert tokens == {"octomed_7b": 18 * 18 + words, "qoq_med_32b": 35 * 35 + words, "lingshu_32b": 2500 + words}
