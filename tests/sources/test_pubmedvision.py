"""PubMedVision: demo tree, traps, damage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import kept
from pmc_trees import counts, read_all


def test_pubmedvision_counts_and_pictures_before_the_first_question(tree: Callable[[str], Path]) -> None:
    outcomes = read_all("pubmedvision", tree("pubmedvision"))
    assert counts(outcomes) == {"train": (4, {"empty_answer": 2})}
    one, three, turns, untagged = kept(outcomes["train"])
    assert [part["type"] for part in three.messages[0]["content"]] == ["image", "image", "image", "text"]
    assert [part["index"] for part in three.messages[0]["content"][:3]] == [0, 1, 2]
    assert "<image>" not in json.dumps(three.messages)
    assert [image.image_id for image in three.images] == [f"pubmedvision/pmc_2_{k}" for k in range(3)]
    # A row's pictures lie in two zips, under folders that the row does not name.
    assert len({image.file.split("!")[0] for image in three.images}) == 2
    assert [message["role"] for message in turns.messages] == ["user", "assistant"] * 2
    assert [len(message["content"]) for message in turns.messages] == [3, 1, 1, 1]
    assert (turns.question, turns.answer) == ("Please compare the two pictures.", None)
    assert (one.key, one.subset, untagged.subset) == ("Alignment_VQA_1", "Computed Tomography", None)
    assert one.group == {"question_id": "pubmedvision/Alignment_VQA_1"}
    panels = kept(read_all("pmc_oa", tree("pmc_oa"))["train"])
    assert one.images[0].read() == panels[0].images[0].read()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "missing_field"),
        ({"id": 5}, "bad_field"),
        ({"id": ""}, "bad_id"),
        ({"image": None}, "missing_field"),
        ({"image": []}, "bad_field"),
        ({"image": [None]}, "bad_field"),
        ({"image": ["images/pmc_99_0.jpg"]}, "missing_image"),
        ({"modality": 3}, "bad_field"),
        ({"conversations": None}, "missing_field"),
        ({"conversations": "hello"}, "bad_field"),
        ({"conversations": []}, "empty_answer"),
        ({"conversations": ["hello"]}, "bad_row"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "bad_field"),
        ({"conversations": [{"from": "human"}]}, "missing_field"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "odd_turns"),
        ({"conversations": [{"from": "human", "value": " "}, {"from": "gpt", "value": "x"}]}, "empty_question"),
    ],
)
def test_pubmedvision_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("pubmedvision")
    path = raw / "PubMedVision_Alignment_VQA.json"
    first, *others = json.loads(path.read_bytes())
    path.write_text(json.dumps([first | change, *others, "no object"]))
    expected = Counter({"empty_answer": 2, "bad_row": 1}) + Counter([reason])
    assert counts(read_all("pubmedvision", raw))["train"] == (3, dict(expected))


def test_pubmedvision_one_picture_as_text(tree: Callable[[str], Path]) -> None:
    raw = tree("pubmedvision")
    path = raw / "PubMedVision_Alignment_VQA.json"
    rows = json.loads(path.read_bytes())
    rows[0]["image"] = rows[0]["image"][0]
    path.write_text(json.dumps(rows))
    assert counts(read_all("pubmedvision", raw))["train"] == (4, {"empty_answer": 2})


def test_pubmedvision_takes_the_picture_token_out_of_the_prompt(tree: Callable[[str], Path]) -> None:
    raw = tree("pubmedvision")
    path = raw / "PubMedVision_Alignment_VQA.json"
    before = [sample.messages for sample in kept(read_all("pubmedvision", raw)["train"])]
    rows = json.loads(path.read_text())
    for row in rows:
        row["conversations"][0]["value"] = "<image>\n" + row["conversations"][0]["value"]
    path.write_text(json.dumps(rows))
    assert [sample.messages for sample in kept(read_all("pubmedvision", raw)["train"])] == before
