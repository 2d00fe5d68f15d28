"""vqa_rad: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import kept, read_all, reasons
from source_cases import (
    LONE_SURROGATE,
    check_reject,
    edited,
    image_ids,
    load,
)


def test_vqa_rad_lands_on_1793(real_data: Path) -> None:
    raw = real_data / "vqa_rad"
    outcomes = read_all("vqa_rad", raw, paper_variant=True)
    assert len(kept(outcomes["train"])) == 1_793
    assert reasons(outcomes["train"]) == {"phrase_type_frame": 1_267, "duplicate_item": 3, "also_in_test": 1}
    assert (len(outcomes["train"]), len(kept(outcomes["test"]))) == (3_064, 451)
    train, test = load(raw / "trainset.json"), load(raw / "testset.json")
    item = ("image_name", "question", "answer")
    left = {tuple(row[name] for name in item) for row in train if row["phrase_type"] != "frame"}
    left -= {tuple(row[name] for name in item) for row in test}
    read = {(sample.images[0].image_id, sample.question, sample.answer) for sample in kept(outcomes["train"])}
    assert read == {(f"vqa-rad/{name}", question, str(answer)) for name, question, answer in left}
    # All 203 test pictures are in trainset.json; one of them in frame rows only, which are not read.
    trained, tested = image_ids(outcomes["train"]), image_ids(outcomes["test"])
    assert (len(trained), len(tested), len(trained & tested)) == (313, 203, 202)
    # By default frame rows are read, and with them every test picture is a training picture.
    whole = read_all("vqa_rad", raw)
    assert set(reasons(whole["train"])) == {"duplicate_item", "also_in_test"}
    distinct = {tuple(str(row[name]) for name in item) for row in train} - {
        tuple(str(row[name]) for name in item) for row in test
    }
    assert len(kept(whole["train"])) == len(distinct)
    assert image_ids(whole["train"]) >= tested == {f"vqa-rad/{row['image_name']}" for row in test}


def test_planted_pictures_and_item_of_vqa_rad(demos: dict[str, Path]) -> None:
    outcomes = read_all("vqa_rad", demos["vqa_rad"], paper_variant=True)
    assert len(image_ids(outcomes["test"])) == 3
    assert image_ids(outcomes["test"]) <= image_ids(outcomes["train"])
    assert reasons(outcomes["train"]) == {"phrase_type_frame": 6, "duplicate_item": 1, "also_in_test": 1}
    assert any(sample.answer == "0" or sample.answer == "1" for sample in kept(outcomes["train"]))


VQA_RAD_FAULTS: list[tuple[Any, str, str]] = [
    ({}, "phrase_type", "missing_field"),
    ({"answer": True}, "", "bad_field"),
    ({"answer": 1.5}, "", "bad_field"),
    ({"answer": None}, "", "missing_field"),
    ({"question": LONE_SURROGATE}, "", "not_utf8"),
    ({"image_name": "synpic1.png"}, "", "bad_field"),
    ({"answer_type": ""}, "", "bad_field"),
    ({"qid": "11"}, "", "bad_id"),
    (None, "", "bad_row"),
    ({"question": ""}, "", "empty_question"),
    ({"answer": " "}, "", "empty_answer"),
]


@pytest.mark.parametrize(("change", "drop", "reason"), VQA_RAD_FAULTS)
def test_vqa_rad_names_what_is_wrong_with_a_row(
    tree: Callable[[str], Path], change: Any, drop: str, reason: str
) -> None:
    raw = tree("vqa_rad")
    edited(raw / "trainset.json", 0, change, drop)
    check_reject(read_all("vqa_rad", raw)["train"][0], "trainset.json", "0", reason)


def test_vqa_rad_reports_a_damaged_test_row_once_and_keeps_all_test_rows(tree: Callable[[str], Path]) -> None:
    raw = tree("vqa_rad")
    before = read_all("vqa_rad", raw)
    edited(raw / "testset.json", 1, {"question": 3})
    after = read_all("vqa_rad", raw)
    assert reasons(after["test"]) == {"bad_field": 1}
    assert reasons(after["train"]) == reasons(before["train"])
