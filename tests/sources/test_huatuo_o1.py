"""huatuo_o1: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

from pathlib import Path

from outcomes import kept, read_all
from source_cases import (
    load_rows,
    text_of,
)


def test_huatuo_o1_has_a_short_answer_and_no_reasoning(demos: dict[str, Path]) -> None:
    for sample, row in zip(
        kept(read_all("huatuo_o1", demos["huatuo_o1"])["train"]),
        load_rows("huatuo_o1", demos["huatuo_o1"]),
        strict=False,
    ):
        assert sample.question == text_of(sample, 0) == row["Open-ended Verifiable Question"]
        assert sample.answer == text_of(sample, 1) == row["Ground-True Answer"]
        assert (sample.options, sample.messages[1]["reasoning"]) == (None, None)
