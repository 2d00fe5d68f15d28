"""ii_medical_reasoning: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outcomes import kept, reasons
from source_cases import (
    read_in_order,
    said,
    write_parquet,
)

from builders.demos import (
    ii_medical_reasoning,
)
from builders.engine.source import Sample


def test_ii_medical_reasoning_apart(demos: dict[str, Path], samples: dict[str, dict[str, Sample]]) -> None:
    found = samples["ii_medical_reasoning"]
    for sample in found.values():
        for role, reasoning, text in said(sample):
            assert "think>" not in text + (reasoning or "")
            assert role == "assistant" or reasoning is None
    first, unopened = (said(found[f"train/train-00000-of-00002/{n}"])[1] for n in (0, 1))
    assert first[1:] == ("Antibiotics came first, so the colon's flora is disturbed.", "The answer is \\boxed{A}.")
    assert unopened[1] == f"{first[1]} The rest do not fit."
    second = {n: found[f"train/train-00001-of-00002/{n}"] for n in range(2, 8)}
    assert said(second[3])[1][1:] == ("首先考虑麦氏点。", "麦氏点压痛和反跳痛。")
    assert said(second[4])[1][1:] == (None, "Mostly by the liver.")  # empty tags
    assert said(second[7])[1][1:] == (None, "A sound over a vessel.")  # no tags, no model named
    assert [part for _, part, _ in said(second[5])] == [None, "A wall that bulges.", None, "Size matters."]
    assert (second[6].question, second[7].subset) == ("Define anuria.", None)  # an empty question: the prompt's
    rejected = reasons(read_in_order("ii_medical_reasoning", demos["ii_medical_reasoning"])["train"])
    assert rejected == {"unfinished_reasoning": 1, "empty_answer": 1}


def test_ii_medical_null_question_and_model(tmp_path: Path) -> None:
    rows = ii_medical_reasoning.demo_rows()[:3]
    for row in rows[:2]:
        row["question"] = row["model"] = None
    rows[1]["problem"] = None
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", rows)
    found = read_in_order("ii_medical_reasoning", tmp_path)["train"]
    assert reasons(found) == {"empty_question": 1}
    prompt, whole = kept(found)
    assert (prompt.subset, whole.subset) == (None, "deepseek-ai/DeepSeek-R1")
    assert (prompt.question or "").endswith("What is the most likely diagnosis?")
    assert len(prompt.options or ()) == 4


@pytest.mark.parametrize(
    ("column", "values"),
    [("messages", ["x"] * 2), ("messages", [["x"]] * 2), ("question", [1, 2])],
)
def test_ii_medical_columns_of_another_type(column: str, values: list[Any], tmp_path: Path) -> None:
    rows = [row | {column: value} for row, value in zip(ii_medical_reasoning.demo_rows(), values, strict=False)]
    write_parquet(tmp_path / "data/train-a.parquet", rows)
    found = reasons(read_in_order("ii_medical_reasoning", tmp_path)["train"])
    assert found in ({"bad_field": 2}, {"bad_row": 2})
