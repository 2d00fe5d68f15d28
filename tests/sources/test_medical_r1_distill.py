"""medical_r1_distill: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

from pathlib import Path

from outcomes import kept, read_all
from source_cases import (
    load_rows,
    text_of,
)


def test_r1_distill_keeps_reasoning_apart_and_repeats_huatuo_questions(demos: dict[str, Path]) -> None:
    distilled = kept(read_all("medical_r1_distill", demos["medical_r1_distill"])["train"])
    rows = load_rows("medical_r1_distill", demos["medical_r1_distill"])
    assert list(rows[0]) == ["question", "reasoning (reasoning_content)", "response (content)"]
    for sample, row in zip(distilled, rows, strict=False):
        assert sample.messages[1]["reasoning"] == row["reasoning (reasoning_content)"]
        assert text_of(sample, 1) == sample.answer == row["response (content)"]
    problems = kept(read_all("huatuo_o1", demos["huatuo_o1"])["train"])
    assert [sample.question for sample in distilled] == [sample.question for sample in problems[4:]]
