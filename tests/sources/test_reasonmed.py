"""reasonmed: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from outcomes import kept, source_of
from source_cases import (
    Rows,
    read_in_order,
    said,
    write_json,
)

from builders.demos import (
    reasonmed,
)
from builders.engine.source import NotThisSource, Sample


def test_reasonmed_never_reads_the_test_file(demos: dict[str, Path]) -> None:
    raw = demos["reasonmed"]
    assert (raw / "eval_data/eval_data_all.json").is_file()
    units = list(source_of("reasonmed").plan(raw, {"rendering": "all"}))
    assert [unit.inputs for unit in units] == [("CoTMed.json",), ("ResponseMed.json",), ("ReasonMed.json",)]
    assert [unit.name for unit in units] == ["train-00000", "train-00001", "train-00002"]
    assert not any("A test question" in str(s.question) for s in kept(read_in_order("reasonmed", raw)["train"]))


@pytest.mark.parametrize(("rendering", "count"), [("all", 23), ("CoTMed", 8), ("ResponseMed", 7), ("ReasonMed", 8)])
def test_reasonmed_renderings(rendering: str, count: int, demos: dict[str, Path]) -> None:
    found = read_in_order("reasonmed", demos["reasonmed"], rendering=rendering)["train"]
    assert len(found) == count
    assert rendering == "all" or {sample.subset for sample in kept(found)} == {rendering}
    source = source_of("reasonmed")
    name = "reasonmed" if rendering == "all" else f"reasonmed.{rendering.lower()}"
    assert source.build_name({"rendering": rendering}) == name
    assert source.published({"rendering": rendering}) == ({"train": 1_111_555} if rendering == "all" else {})


def test_reasonmed_question_options_and_the_letter(samples: dict[str, dict[str, Sample]]) -> None:
    found = samples["reasonmed"]
    first = found["train/CoTMed/0"]
    assert (first.question or "").startswith("A 39-year-old man")
    assert [label for label, _ in first.options or ()] == ["A", "B", "C", "D"]
    letters = {key: sample.answer for key, sample in found.items() if key.startswith("train/CoTMed/")}
    # Row 2 names the option's text alone, row 5 two letters, row 6 is no multiple-choice question.
    assert list(letters.values()) == ["B", "C", None, "B", "A", None, None]
    assert found["train/CoTMed/1"].question == "Heberden's ahritis affects"  # OCR damage is the publisher's
    assert [text for _, text in found["train/CoTMed/2"].options or ()] == ["yes", "no", "maybe"]
    assert said(found["train/CoTMed/2"])[0][2].endswith("C. maybe\n\nContext: 300 adults, two arms.")
    assert len(found["train/CoTMed/4"].options or ()) == 5
    assert (found["train/CoTMed/6"].options, found["train/CoTMed/6"].answer) == (None, None)


def test_reasonmed_reasoning_is_apart_from_the_answer(samples: dict[str, dict[str, Sample]]) -> None:
    found, rows = samples["reasonmed"], {name: reasonmed.demo_rows(name) for name in ("CoTMed", "ResponseMed")}
    assert said(found["train/CoTMed/0"])[1][1:] == (rows["CoTMed"][0]["output"], "Answer: B. Peptic ulcer disease")
    assert said(found["train/CoTMed/5"])[1][1:] == (None, rows["CoTMed"][5]["output"])  # no answer is made up
    assert said(found["train/ResponseMed/0"])[1][1:] == (None, rows["ResponseMed"][0]["output"])
    _, reasoning, text = said(found["train/ReasonMed/1"])[1]
    assert (text, "<think>" in (reasoning or "")) == ("Final answer: C", False)


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("The correct answer is **B. Gout**.", "B"),
        ("Answer: (C)", "C"),
        ("**Final Answer:** D", "D"),
        ("THE ANSWER IS C)", "C"),
        ("so the answer is option A.", "A"),
        ("The answer is a combination of these.", None),
        ("The answer is A combination of these.", None),
        ("The answer is B. No: the answer is C.", None),
        ("The answer is B. Again, the answer is B.", "B"),
        ("The answer is E.", None),  # no such option
        ("Option A is wrong.", None),
    ],
)
def test_reasonmed_takes_only_a_letter_that_is_stated(output: str, label: str | None, tmp_path: Path) -> None:
    rows: Rows = [{"instruction": "Which?\nA. one\nB. two\nC. three\nD. four", "input": "", "output": output}]
    write_json(tmp_path / "CoTMed.json", rows)
    [sample] = kept(read_in_order("reasonmed", tmp_path, rendering="CoTMed")["train"])
    assert sample.answer == label


def test_reasonmed_names_the_rendering_that_is_missing(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["reasonmed"], tmp_path / "raw")
    (raw / "ResponseMed.json").unlink()
    assert len(read_in_order("reasonmed", raw, rendering="CoTMed")["train"]) == 8
    with pytest.raises(NotThisSource, match=r"ResponseMed\.json"):
        read_in_order("reasonmed", raw)
