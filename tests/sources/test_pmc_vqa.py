"""PMC-VQA: demo tree, traps, damage."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import kept, source_of
from pmc_trees import counts, edit_csv, read_all

from builders.engine.source import NotThisSource


def test_pmc_vqa_version_1(tree: Callable[[str], Path]) -> None:
    outcomes = read_all("pmc_vqa", tree("pmc_vqa"))
    assert counts(outcomes) == {
        "train": (3, {"unclear_answer": 2, "empty_option": 1, "empty_question": 1, "empty_answer": 2}),
        "test": (2, {}),
        "test_clean": (1, {}),
    }
    first, _, longer = kept(outcomes["train"])
    assert first.options == [
        ("A", "Diffuse uptake"),
        ("B", "Focal uptake"),
        ("C", "No uptake"),
        ("D", "Ring-like uptake"),
    ]
    assert (first.answer, first.question) == ("B", "What is the uptake pattern in the breast?")
    assert first.messages[1]["content"][0]["text"] == "Answer: B. Focal uptake"
    assert first.messages[0]["content"][1]["text"].endswith(
        "\n\nA. Diffuse uptake\nB. Focal uptake\nC. No uptake\nD. Ring-like uptake"
    )
    assert (first.images[0].image_id, first.group) == ("pmc/PMC9100001/F1", {"pmcid": "pmc/PMC9100001"})
    # A text that is no option does not contradict the letter; question text is trimmed.
    assert (longer.answer, longer.question) == ("C", "What does the arrow point to, in panel B?")
    # `fig_1` is a whole figure's id here, not panel 1 of `fig`.
    assert longer.images[0].study_id == longer.images[0].image_id == "pmc/PMC9100002/fig_1"


def test_pmc_vqa_both_spellings_of_answer(tree: Callable[[str], Path]) -> None:
    raw = tree("pmc_vqa")
    headers = {name: (raw / name).read_text().splitlines()[0].split(",") for name in ("train.csv", "test.csv")}
    assert "Answer" in headers["train.csv"]
    assert "Anwser" in headers["test.csv"]
    before = counts(read_all("pmc_vqa", raw))
    edit_csv(raw / "train.csv", lambda rows: rows[0].__setitem__(rows[0].index("Answer"), "Anwser"))
    assert counts(read_all("pmc_vqa", raw)) == before
    edit_csv(raw / "train.csv", lambda rows: rows[0].__setitem__(rows[0].index("Anwser"), "Response"))
    with pytest.raises(NotThisSource, match="no column Answer or Anwser"):
        read_all("pmc_vqa", raw)


def test_pmc_vqa_version_2_meets_pmc_oa(tree: Callable[[str], Path]) -> None:
    raw = tree("pmc_vqa")
    outcomes = read_all("pmc_vqa", raw, version="2")
    assert counts(outcomes) == {"train": (1, {"unclear_answer": 1}), "test": (2, {})}
    [sample] = kept(outcomes["train"])
    assert (sample.images[0].image_id, sample.images[0].study_id) == ("pmc/PMC9100007/Fig4_11", "pmc/PMC9100007/Fig4")
    assert "made up" not in json.dumps(sample.messages)  # the caption holds the answer
    panels = {s.images[0].image_id: s.images[0].read() for s in kept(read_all("pmc_oa", tree("pmc_oa"))["train"])}
    asked = {s.images[0].image_id: s.images[0].read() for s in kept(outcomes["test"])}
    assert asked.items() <= panels.items()
    assert source_of("pmc_vqa").variant({"version": "2"}) == "v2"
    # Only the files of the version asked for are needed, and test_clean.csv came late.
    for name in ("train.csv", "test.csv", "test_clean.csv", "images.zip"):
        (raw / name).unlink()
    assert counts(read_all("pmc_vqa", raw, version="2"))["test"] == (2, {})
    with pytest.raises(NotThisSource):
        read_all("pmc_vqa", raw)


def test_pmc_vqa_keys_of_the_two_versions_differ(tree: Callable[[str], Path]) -> None:
    raw = tree("pmc_vqa")
    keys = [
        {sample.key for rows in read_all("pmc_vqa", raw, version=version).values() for sample in kept(rows)}
        for version in ("1", "2")
    ]
    assert not keys[0] & keys[1]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("Figure_path", "figure.jpg", "bad_id"),
        ("Figure_path", "PMC9100001_F9.jpg", "missing_image"),
        ("Choice B", " B: ", "empty_answer"),
        ("Answer_label", "", "empty_answer"),
        ("Answer_label", "AB", "unclear_answer"),
        ("Answer", "B:no  UPTAKE.", "unclear_answer"),
    ],
)
def test_pmc_vqa_odd_rows(column: str, value: str, reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("pmc_vqa")
    before, found = counts(read_all("pmc_vqa", raw))["train"]
    edit_csv(raw / "train.csv", lambda rows: rows[1].__setitem__(rows[0].index(column), value))
    expected = Counter(found) + Counter([reason])
    assert counts(read_all("pmc_vqa", raw))["train"] == (before - 1, dict(expected))
