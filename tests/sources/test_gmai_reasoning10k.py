"""GMAI-Reasoning10K: demo tree, traps, damage."""

from __future__ import annotations

import importlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mixed_trees import read_all, said
from outcomes import kept, source_of

from builders.engine.source import NotThisSource, Reject


def test_gmai_reasoning_is_apart_from_the_answer(tree: Callable[[str], Path]) -> None:
    raw = tree("gmai_reasoning10k")
    samples = kept(read_all("gmai_reasoning10k", raw)["train"])
    assert samples[0].messages[1]["reasoning"] == "The lesion lies in the right upper quadrant.\nThe liver is there."
    assert [said(sample) for sample in samples] == [
        "Answer: A. Liver",
        "Answer: B. Haemorrhages",
        "Answer: B. The second",
        "The radius",
    ]
    assert [sample.answer for sample in samples] == ["A", "B", "B", "The radius"]
    assert not any("think>" in said(sample, index) for sample in samples for index in (0, 1))
    # Options one a line, in one line, and with a dot; a question without options is no multiple choice.
    assert [len(sample.options or ()) for sample in samples] == [4, 3, 2, 0]
    assert samples[1].question == "What does the photograph show?"
    assert [sample.task for sample in samples] == [None, None, None, "vqa"]
    assert len(samples[2].images) == 2
    letters = kept(read_all("gmai_reasoning10k", raw, file="rl")["train"])
    assert all(sample.messages[1]["reasoning"] is None for sample in letters)
    assert source_of("gmai_reasoning10k").build_name({"file": "rl"}) == "gmai_reasoning10k.rl"


def test_gmai_options_in_one_line_are_cut_at_letters_in_order_only() -> None:
    module = importlib.import_module("builders.gmai_reasoning10k")
    assert module._one_a_line("Which? Options: A: Hepatitis B: acute, B: none").endswith(
        "A: Hepatitis B: acute, B: none"
    )
    assert module._one_a_line("Which? Options: (A) x (B) y") == "Which? Options:\n(A) x\n(B) y"
    assert module._one_a_line("No options here") == "No options here"


def edit_lines(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[0])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def reply(text: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row["conversations"][1].update(value=text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row.pop("image"), "missing_field"),
        (lambda row: row.update(image=[]), "missing_field"),
        (lambda row: row.update(image="/etc/1.png"), "bad_field"),
        (lambda row: row.update(image=["a/../1.png"]), "bad_field"),
        (lambda row: row.update(conversations=[]), "odd_turns"),
        (lambda row: row.update(conversations="A"), "bad_field"),
        (lambda row: row["conversations"][0].update(value="<image>\n"), "empty_question"),
        (reply("<think>It goes on and"), "unfinished_reasoning"),
        (reply("<think>Yes.</think><answer></answer>"), "empty_answer"),
        (reply("<think>Yes.</think><answer>A: Spleen</answer>"), "unclear_answer"),
        (reply("<answer>A</answer>"), "empty_reasoning"),
        (reply("<think>Yes.</think>\nAnswer: (A) liver"), None),
    ],
)
def test_gmai_damaged_rows(
    change: Callable[[dict[str, Any]], Any], reason: str | None, tree: Callable[[str], Path]
) -> None:
    raw = tree("gmai_reasoning10k")
    edit_lines(raw / "reasoning_mcq_sft.jsonl", change)
    outcome = read_all("gmai_reasoning10k", raw)["train"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_gmai_pictures_in_folders_and_wrong_trees(tree: Callable[[str], Path]) -> None:
    raw = tree("gmai_reasoning10k")
    with zipfile.ZipFile(raw / "images.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (raw / "images.zip").unlink()
    with pytest.raises(NotThisSource, match="--no-images"):
        read_all("gmai_reasoning10k", raw)
    for name, data in members.items():
        path = raw / name.removeprefix("images/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (raw / ".cache").mkdir()
    assert all(sample.images[0].read() for sample in kept(read_all("gmai_reasoning10k", raw)["train"]))
    answers = raw / "reasoning_mcq_rl.jsonl"
    answers.rename(raw / "reasoning_mcq_sft.jsonl")
    with pytest.raises(NotThisSource, match="no <think>"):
        read_all("gmai_reasoning10k", raw)
    with pytest.raises(NotThisSource, match="reasoning_mcq_rl"):
        read_all("gmai_reasoning10k", raw, file="rl")


def test_gmai_subset_is_no_kind_of_task(tree: Callable[[str], Path]) -> None:
    """Real paths begin `2d/cls/`, so that the first folder would be one stratum for all."""
    raw = tree("gmai_reasoning10k")
    path = raw / "reasoning_mcq_sft.jsonl"
    before = [sample.subset for sample in kept(read_all("gmai_reasoning10k", raw)["train"])]
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        names = row["image"] if isinstance(row["image"], list) else [row["image"]]
        row["image"] = [f"2d/cls/{name}" for name in names]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [sample.subset for sample in kept(read_all("gmai_reasoning10k", raw)["train"])] == before
