"""pubmedqa: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import kept, read_all, reasons
from source_cases import (
    FUZZ,
    JUNK,
    LONE_SURROGATE,
    check_reject,
    damages,
    emptied,
    load,
    text_of,
)

from builders.engine.source import Reject


def test_pubmedqa_trains_on_the_500_that_are_not_the_test_set(real_data: Path) -> None:
    raw = real_data / "pubmedqa"
    questions, truth = load(raw / "data/ori_pqal.json"), load(raw / "data/test_ground_truth.json")
    outcomes = read_all("pubmedqa", raw)
    train, test = kept(outcomes["train"]), kept(outcomes["test"])
    assert [sample.key for sample in train] == [pmid for pmid in questions if pmid not in truth]
    assert {sample.key: dict(sample.options or [])[sample.answer or ""] for sample in test} == truth
    for split in (train, test):
        assert len(split) == 500
        assert Counter(sample.answer for sample in split) == {"A": 276, "B": 169, "C": 55}
    for sample in train + test:
        row = questions[sample.key]
        assert sample.question == row["QUESTION"]
        assert all(context in text_of(sample, 0) for context in row["CONTEXTS"])
        assert row["LONG_ANSWER"] not in text_of(sample, 0)
        assert text_of(sample, 1) == f"{row['LONG_ANSWER']}\n\nAnswer: {row['final_decision']}"
    assert not {sample.group["pmid"] for sample in train} & {sample.group["pmid"] for sample in test}


def test_pubmedqa_paper_variant_holds_every_test_question(real_data: Path) -> None:
    outcomes = read_all("pubmedqa", real_data / "pubmedqa", paper_variant=True)
    train, test = ({sample.group["pmid"] for sample in kept(outcomes[split])} for split in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (1000, 500, 500)


PUBMEDQA_FAULTS: list[tuple[Any, str, str]] = [
    ({}, "CONTEXTS", "missing_field"),
    ({"CONTEXTS": []}, "", "bad_field"),
    ({"CONTEXTS": "text"}, "", "bad_field"),
    ({"CONTEXTS": ["text", 3]}, "", "bad_field"),
    ({"CONTEXTS": [LONE_SURROGATE]}, "", "not_utf8"),
    ({"final_decision": "perhaps"}, "", "bad_field"),
    ({"final_decision": {}}, "", "bad_field"),
    ({"LONG_ANSWER": None}, "", "missing_field"),
    (["text"], "", "bad_row"),
    ({"QUESTION": ""}, "", "empty_question"),
    ({"LONG_ANSWER": "\n"}, "", "empty_answer"),
]


@pytest.mark.parametrize(("change", "drop", "reason"), PUBMEDQA_FAULTS)
def test_pubmedqa_names_what_is_wrong_with_a_row(
    tree: Callable[[str], Path], change: Any, drop: str, reason: str
) -> None:
    raw = tree("pubmedqa")
    path = raw / "data/ori_pqal.json"
    items = load(path)
    first = next(iter(items))
    edited_item = items[first] | change if isinstance(change, dict) else change
    if drop:
        del edited_item[drop]
    path.write_text(json.dumps(items | {first: edited_item}))
    check_reject(read_all("pubmedqa", raw)["train"][0], "data/ori_pqal.json", first, reason)


def json_object(pairs: list[tuple[str, Any]]) -> str:
    """JSON text of an object that may repeat keys."""
    return "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}"


def test_pubmedqa_accounts_for_repeated_unknown_and_contradicting_ids(tree: Callable[[str], Path]) -> None:
    raw = tree("pubmedqa")
    questions = list(load(raw / "data/ori_pqal.json").items())
    truths = list(load(raw / "data/test_ground_truth.json").items())
    train_id, test_id, other = questions[0][0], truths[0][0], truths[1]
    questions += [(train_id, {}), (test_id, questions[1][1]), ("12a", questions[0][1])]
    flipped = "no" if other[1] != "no" else "yes"
    truths[1] = (other[0], flipped)
    truths += [(test_id, "yes"), ("99999999", "maybe"), ("not an id", "yes"), ("90000001x", None)]
    (raw / "data/ori_pqal.json").write_text(json_object(questions))
    (raw / "data/test_ground_truth.json").write_text(json_object(truths))
    outcomes = read_all("pubmedqa", raw)
    assert len(outcomes["train"]) == 32 and len(outcomes["test"]) == 35
    rejects = {
        split: [(o.file, o.row, o.reason) for o in found if isinstance(o, Reject)] for split, found in outcomes.items()
    }
    assert rejects["train"] == [
        ("data/ori_pqal.json", train_id, "duplicate_id"),
        ("data/ori_pqal.json", "#62", "bad_id"),
    ]
    assert rejects["test"] == [
        ("data/ori_pqal.json", other[0], "bad_field"),
        ("data/ori_pqal.json", test_id, "duplicate_id"),
        ("data/test_ground_truth.json", test_id, "duplicate_id"),
        ("data/test_ground_truth.json", "99999999", "missing_field"),
        ("data/test_ground_truth.json", "#32", "bad_id"),
        ("data/test_ground_truth.json", "#33", "bad_id"),
    ]


def test_pubmedqa_notices_a_field_that_is_repeated(tree: Callable[[str], Path]) -> None:
    raw = tree("pubmedqa")
    path = raw / "data/ori_pqal.json"
    path.write_text(path.read_text().replace('"YEAR"', '"QUESTION"', 1))
    assert reasons(read_all("pubmedqa", raw)["train"]) == {"bad_row": 1}


@FUZZ
@given(data=st.data(), paper=st.booleans())
def test_no_question_of_pubmedqa_is_lost(
    demos: dict[str, Path], scratch: Path, data: st.DataObject, paper: bool
) -> None:
    folder = demos["pubmedqa"] / "data"
    questions, truths = (list(load(folder / name).items()) for name in ("ori_pqal.json", "test_ground_truth.json"))
    values = [value for _, value in questions]
    data.draw(damages(list(values[0])))(values)
    ids = st.one_of(st.sampled_from([key for key, _ in questions]), st.text(max_size=4), st.just(LONE_SURROGATE))
    questions = [(questions[i][0] if i < len(questions) else data.draw(ids), value) for i, value in enumerate(values)]
    truths += data.draw(st.lists(st.tuples(ids, JUNK), max_size=4))
    raw = emptied(scratch)
    (raw / "ori_pqal.json").write_text(json_object(questions))
    (raw / "test_ground_truth.json").write_text(json_object(truths))
    outcomes = read_all("pubmedqa", raw, paper_variant=paper)
    known, named = {key for key, _ in questions}, {key for key, _ in truths}
    assert len(outcomes["train"]) == sum(paper or key not in named for key, _ in questions)
    stray = len(truths) - len(named & known)
    assert len(outcomes["test"]) == sum(key in named for key, _ in questions) + stray
