"""Quilt-Instruct: demo tree, traps, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mixed_trees import read_all, said
from outcomes import kept

from builders.engine.source import NotThisSource, Reject


def edit_json(path: Path, change: Callable[[list[Any]], None]) -> None:
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_quilt_instruct_turns_and_videos(tree: Callable[[str], Path]) -> None:
    samples = kept(read_all("quilt_instruct", tree("quilt_instruct"))["train"])
    assert [sample.subset for sample in samples] == ["single", "several", "single", "single"]
    # The token may stand before the question, after it, or be missing; `role` and `content` are read like the others.
    assert [said(sample, 0) for sample in samples[:2]] == [
        "<0>What pattern do these nests show?",
        "<0>Which feature of the nuclei stands out?",
    ]
    assert said(samples[3], 0) == "<0>What is seen in the crypts?"
    assert [message["role"] for message in samples[1].messages] == ["user", "assistant"] * 2
    assert samples[1].answer is None
    assert samples[2].answer == "Follicles lined by crowded cells with pale nuclei."
    assert samples[0].group == {"video_id": "youtube/demoVideo03", "question_id": "quilt_instruct/demoVideo03_0"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row.pop("image"), "missing_field"),
        (lambda row: row.update(image="frame.jpg"), "bad_id"),
        (lambda row: row.update(image=["a.jpg"]), "bad_field"),
        (lambda row: row.update(id=1.5), "bad_id"),
        (lambda row: row.update(conversations="text"), "bad_field"),
        (lambda row: row["conversations"][0].update({"from": "robot"}), "bad_field"),
        (lambda row: row["conversations"][0].pop("value"), "missing_field"),
        (lambda row: row["conversations"].pop(0), "odd_turns"),
        (lambda row: row["conversations"][0].update(value="<image>"), "empty_question"),
        (lambda row: row.update(id=7), None),
    ],
)
def test_quilt_instruct_damaged_rows(
    change: Callable[[dict[str, Any]], Any], reason: str | None, tree: Callable[[str], Path]
) -> None:
    raw = tree("quilt_instruct")
    edit_json(raw / "quilt_instruct_107k.json", lambda rows: change(rows[0]))
    outcome = read_all("quilt_instruct", raw)["train"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_quilt_instruct_other_file_of_that_name(tree: Callable[[str], Path]) -> None:
    raw = tree("quilt_instruct")
    (raw / "quilt_instruct_107k.json").write_text('[{"question": "a", "answer": "b"}]')
    with pytest.raises(NotThisSource, match="no field image, id, conversations"):
        read_all("quilt_instruct", raw)
    (raw / "quilt_instruct.zip").unlink()
    with pytest.raises(NotThisSource, match="--no-images"):
        read_all("quilt_instruct", raw)
