"""slake: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import kept, read_all, reasons, source_of
from source_cases import (
    LONE_SURROGATE,
    check_reject,
    edited,
    image_ids,
    load,
    same_samples,
)


def test_slake_english_shares_no_picture_between_splits(real_data: Path) -> None:
    raw = real_data / "slake"
    outcomes = read_all("slake", raw)
    counts = {split: len(kept(found)) for split, found in outcomes.items()}
    assert counts == {"train": 4_918, "validation": 1_053, "test": 1_061}
    assert reasons(outcomes["train"]) == {"other_language": 4_916, "empty_answer": 1}
    assert {split: len(found) for split, found in outcomes.items()} == source_of("slake").published({})
    english = [row for row in load(raw / "train.json") if row["q_lang"] == "en"]
    assert (len(english), [row["qid"] for row in english if not row["answer"]]) == (4_919, [1622])
    pictures = [image_ids(found) for found in outcomes.values()]
    assert [len(ids) for ids in pictures] == [450, 96, 96]
    assert not (pictures[0] & pictures[1] or pictures[0] & pictures[2] or pictures[1] & pictures[2])
    assert Counter(sample.subset for sample in kept(outcomes["test"])) == {"open": 645, "closed": 416}


def test_slake_paper_variant_trains_on_607_of_its_836_closed_test_rows(real_data: Path) -> None:
    outcomes = read_all("slake", real_data / "slake", paper_variant=True)
    assert {split: len(kept(found)) for split, found in outcomes.items()} == {
        "train": 9_834, "validation": 2_099, "test": 2_094,
    }  # fmt: skip
    trained = image_ids(outcomes["train"])
    closed = [sample for sample in kept(outcomes["test"]) if sample.subset == "closed"]
    assert len(closed) == 836
    assert sum(sample.images[0].image_id in trained for sample in closed) == 607
    keys = [sample.key for found in outcomes.values() for sample in kept(found)]
    assert len(set(keys)) == len(keys), "qid identifies a row across splits and languages"


def test_planted_pictures_of_slake(demos: dict[str, Path]) -> None:
    raw = demos["slake"]
    assert (raw / "imgs/xmlab39/source.jpg").read_bytes() == (raw / "imgs/xmlab4/source.jpg").read_bytes()
    assert len({path.read_bytes() for path in raw.rglob("source.jpg")}) == 39
    english, both = read_all("slake", raw), read_all("slake", raw, paper_variant=True)
    test = image_ids(english["test"])
    assert "slake/xmlab39/source.jpg" in test and "slake/xmlab4/source.jpg" in image_ids(english["train"])
    assert not test & image_ids(english["train"])
    assert (len(test), len(test & image_ids(both["train"]))) == (8, 4)


def test_slake_accepts_the_hub_spelling_of_validation(demos: dict[str, Path], tmp_path: Path) -> None:
    for path in demos["slake"].glob("*.json"):
        shutil.copy(path, tmp_path / path.name.replace("validate", "validation"))
    assert same_samples(read_all("slake", tmp_path), read_all("slake", demos["slake"]))


SLAKE_FAULTS: list[tuple[Any, str, str]] = [
    ({}, "img_name", "missing_field"),
    ({}, "qid", "missing_field"),
    ({"question": None}, "", "missing_field"),
    ({"question": 5}, "", "bad_field"),
    ({"answer": ["Yes"]}, "", "bad_field"),
    ({"answer": LONE_SURROGATE}, "", "not_utf8"),
    ({"qid": "7"}, "", "bad_id"),
    ({"qid": True}, "", "bad_id"),
    ({"qid": -1}, "", "bad_id"),
    ({"img_name": "../../etc/source.jpg"}, "", "bad_field"),
    ({"img_name": "xmlab\u0663/source.jpg"}, "", "bad_field"),
    ({"q_lang": "fr"}, "", "bad_field"),
    ({"answer_type": "BOTH"}, "", "bad_field"),
    ("not a row", "", "bad_row"),
    ([], "", "bad_row"),
    ({"q_lang": "zh"}, "", "other_language"),
    ({"question": " "}, "", "empty_question"),
    ({"answer": ""}, "", "empty_answer"),
]


@pytest.mark.parametrize(("change", "drop", "reason"), SLAKE_FAULTS)
def test_slake_names_what_is_wrong_with_a_row(tree: Callable[[str], Path], change: Any, drop: str, reason: str) -> None:
    raw = tree("slake")
    edited(raw / "train.json", 0, change, drop)
    check_reject(read_all("slake", raw)["train"][0], "train.json", "0", reason)


def test_slake_closed_test_questions_become_choices(real_data: Path) -> None:
    """One English test row of 416 stays open: its answer is none of the alternatives that it lists."""
    rows = [row for row in load(real_data / "slake" / "test.json") if row["answer_type"] == "CLOSED"]
    english = [sample for sample in kept(read_all("slake", real_data / "slake")["test"]) if sample.subset == "closed"]
    assert (len(english), sum(sample.options is None for sample in english)) == (416, 1)
    yes_no = [sample for sample in english if sample.options == [("A", "Yes"), ("B", "No")]]
    assert len(yes_no) == sum(row["answer"].lower() in ("yes", "no") for row in rows if row["q_lang"] == "en") == 355
    for sample in english:
        if sample.options is not None:
            texts = dict(sample.options)
            [row] = [row for row in rows if str(row["qid"]) == sample.key]
            assert texts[str(sample.answer)].lower() == row["answer"].lower()
            listed = all(text in row["question"] for text in texts.values())
            assert listed or sample.options == [("A", "Yes"), ("B", "No")]
    both = kept(read_all("slake", real_data / "slake", paper_variant=True)["test"])
    converted = [sample for sample in both if sample.subset == "closed" and sample.options is not None]
    assert len(converted) >= 0.98 * 836
    # Training rows stay as the publisher wrote them.
    assert all(sample.options is None for sample in kept(read_all("slake", real_data / "slake")["train"]))
