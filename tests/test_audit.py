"""What an audit shows, and what a certificate names as not compared."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.proof.accounting import STATES, accounts, totals
from manifests.proof.certificate import incomplete
from manifests.verification.audit import CONFIDENCE, bounds, fewer_than, smallest


def test_the_bound_is_the_rule_of_three_for_99_percent() -> None:
    """Of very many, with `drawn` looked at: ln(100) / drawn of all, as the rule of three has ln(20) for 95 %."""
    for drawn in (100, 300, 1000):
        share = fewer_than(10**7, drawn) / 10**7
        assert share == pytest.approx(math.log(100) / drawn, rel=0.03)
    assert fewer_than(1000, 1000) == 1 and fewer_than(1, 1) == 1


def test_a_draw_misses_as_many_as_the_bound_says_once_in_a_hundred() -> None:
    names, drawn, draws = [f"sample/{number}" for number in range(30)], 8, 2_000
    wrong = fewer_than(len(names), drawn)
    bad = set(names[:wrong])
    missed = sum(bad.isdisjoint(smallest(drawn, names, f"salt {salt}")) for salt in range(draws))
    assert missed / draws <= 1.5 * (1 - CONFIDENCE)
    fewer = set(names[: wrong // 2])
    assert sum(fewer.isdisjoint(smallest(drawn, names, f"{salt}")) for salt in range(draws)) / draws > 1 - CONFIDENCE


def test_every_name_is_drawn_as_often() -> None:
    names = [f"n{number}" for number in range(20)]
    times = Counter(name for salt in range(2_000) for name in smallest(5, names, str(salt)))
    assert times.keys() == set(names) and all(400 < count < 600 for count in times.values())


def test_bounds_are_stated_of_what_was_drawn() -> None:
    said = bounds({("b", "raw files"): 3, ("b", "train samples"): 10, ("a", "test samples"): 2_000_000}, 3)
    assert [(one["build"], one["what"], one["of"]) for one in said] == [
        ("a", "test samples", 2_000_000), ("b", "raw files", 3), ("b", "train samples", 10)
    ]  # fmt: skip
    assert [one["fewer_than"] for one in said[1:]] == [1, 7]  # 3 of 10 drawn miss 7 wrong ones once in 120


def document(asked: str, missing: list[str], entries: list[dict[str, Any]]) -> dict[str, Any]:
    held = {"asked": asked, "held": [], "missing": [{"name": name, "splits": {}} for name in missing]}
    return {"benchmarks": held, "accounting": entries}


@pytest.mark.parametrize(
    ("asked", "missing", "said"),
    [
        ("policy", [], []),
        ("policy", ["A", "B"], ["benchmarks of the policy that are not held, or not whole: A, B"]),
        ("present", [], ["no benchmark was asked for (benchmarks: present)"]),
        ("present", ["A"], ["no benchmark was asked for (benchmarks: present); not held: A"]),
    ],
)
def test_benchmarks_make_a_certificate_incomplete(asked: str, missing: list[str], said: list[str]) -> None:
    assert incomplete(document(asked, missing, [])) == said


def own_build(limit: int | None = None, role: str = "train") -> dict[str, Any]:
    unit = {"role": role, "kept": 7, "images": 3}
    return {"build": "ours", "parameters": {}, "units": [unit], "limit": limit, "inputs": {"files": 2}}


def foreign_build(own: list[list[Any]], leave_out: dict[str, str]) -> dict[str, Any]:
    parameters = {"accounting": own, "mapping": {"leave_out": leave_out}}
    unit = {"role": "train", "kept": 5, "images": 0}
    return {"build": "c.train", "parameters": parameters, "units": [unit], "limit": None}


def reject(build: str, role: str, count: int, *, damaged: bool = True) -> dict[str, Any]:
    return {"build": build, "role": role, "reason": "bad_row", "damaged": damaged, "count": count}


UNREAD = ["file", "not compared", "slides.pptx", "its format is not read", 1]


@pytest.mark.parametrize(
    ("records", "rejects", "policy", "unread"),
    [
        ([own_build()], [reject("ours", "train", 4)], {}, 0),  # nothing is trained from what is not in the shards
        ([own_build()], [reject("ours", "eval", 4)], {}, 4),
        ([own_build()], [reject("ours", "eval", 4, damaged=False)], {}, 0),
        ([own_build()], [reject("ours", "eval", 4)], {"ours/bad_row": "seen"}, 0),
        ([own_build(limit=5, role="eval")], [], {}, 1),
        ([foreign_build([UNREAD], {})], [], {}, 1),
        ([foreign_build([UNREAD], {})], [reject("c.train", "train", 2, damaged=False)], {}, 3),
        ([foreign_build([UNREAD], {"bad_*": "seen"})], [reject("c.train", "train", 2)], {"c.train/*.pptx": "talks"}, 0),
    ],
)
def test_what_was_not_compared_makes_a_certificate_incomplete(
    records: list[dict[str, Any]], rejects: list[dict[str, Any]], policy: dict[str, str], unread: int
) -> None:
    books = accounts(records, policy, rejects, [], [])
    said = incomplete(document("policy", [], books))
    assert bool(said) == bool(unread)
    if unread:
        assert said[0].startswith(f"{unread} files, fields")
        open_ones = [entry for entry in books if entry["state"] == "not compared"]
        assert len(said) == 1 + len(open_ones)
        for entry, line in zip(open_ones, said[1:], strict=True):
            assert line.startswith(f"not compared: {entry['side']} {entry['build']}: {entry['kind']}")
            assert entry["name"] in line and entry["reason"] in line


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["file", "field"]), st.sampled_from(STATES), st.sampled_from("abc"), st.just("why"),
            st.integers(1, 50),
        ),
        max_size=8,
    ),
    st.dictionaries(st.sampled_from(["c.train/a", "c.train/?", "*/b"]), st.just("said"), max_size=2),
)  # fmt: skip
def test_declaring_moves_what_was_not_compared_and_loses_nothing(
    own: list[tuple[Any, ...]], policy: dict[str, str]
) -> None:
    record = foreign_build([list(entry) for entry in own], {})
    before, after = (accounts([record], leave_out, [], [], []) for leave_out in ({}, policy))
    assert [row[-1] for row in totals(before)] == [row[-1] for row in totals(after)]
    compared = STATES.index("compared") + 2
    assert [row[compared] for row in totals(before)] == [row[compared] for row in totals(after)]
    told = " ".join(incomplete(document("policy", [], after)))
    for name in "abc":
        open_ones = any(entry[1] == "not compared" and entry[2] == name for entry in own)
        declared = "c.train/?" in policy or (name == "a" and "c.train/a" in policy) or (name == "b" and "*/b" in policy)
        assert any(f" {kind} {name}, " in told for kind in ("file", "field")) == (open_ones and not declared)


def test_of_very_many_that_were_not_compared_the_rest_is_counted() -> None:
    own = [["file", "not compared", f"{number:02}.bin", "its format is not read", 1] for number in range(25)]
    said = incomplete(document("policy", [], accounts([foreign_build(own, {})], {}, [], [], [])))
    assert said[0].startswith("25 files") and "and 5 more" in said[-1] and len(said) == 22
