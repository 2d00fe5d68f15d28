"""mmlu_med: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from outcomes import kept, read_all, reasons, source_of
from source_cases import (
    items,
    need,
    save_table,
    stems,
)

from builders.engine.source import NotThisSource

ANATOMY = "anatomy/test-00000-of-00001.parquet"


def test_mmlu_repeated_stems_are_kept(demos: dict[str, Path]) -> None:
    test = kept(read_all("mmlu_med", demos["mmlu_med"])["test"])
    assert max(stems(test).values()) == 3 and max(items(test).values()) == 1
    assert test[0].group == {"question_id": "mmlu/anatomy/test/0"}


def test_mmlu_needs_every_subject_and_reads_no_other(tree: Callable[[str], Path]) -> None:
    raw = tree("mmlu_med")
    expected = read_all("mmlu_med", raw)
    for other in ("auxiliary_train", "all", "astronomy"):
        shutil.copytree(raw / "anatomy", raw / other)
    assert read_all("mmlu_med", raw) == expected
    for path in raw.glob("*/dev-*"):
        path.unlink()
    assert set(read_all("mmlu_med", raw)) == {"test", "validation"}
    (raw / "nutrition/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(NotThisSource, match=r"no nutrition/validation.*1 of 7"):
        read_all("mmlu_med", raw)
    shutil.rmtree(raw / "nutrition")
    with pytest.raises(NotThisSource, match="no nutrition/test"):
        read_all("mmlu_med", raw)


MMLU_DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("no question", {"question": None}, "missing_field"),
    ("blank question", {"question": " "}, "empty_question"),
    ("no answer", {"answer": None}, "missing_field"),
    ("answer too large", {"answer": 4}, "bad_field"),
    ("answer negative", {"answer": -1}, "bad_field"),
    ("no choices", {"choices": None}, "missing_field"),
    ("three choices", {"choices": ["a", "b", "c"]}, "bad_field"),
    ("choice null", {"choices": ["a", "b", None, "d"]}, "bad_field"),
    ("gold choice blank", {"choices": ["a", " ", "c", "d"]}, "empty_answer"),
    ("other subject", {"subject": "astronomy"}, "bad_field"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in MMLU_DAMAGE], ids=[case[0] for case in MMLU_DAMAGE]
)
def test_mmlu_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("mmlu_med")
    table = pq.read_table(raw / ANATOMY)
    rows = table.to_pylist()
    rows[1] |= change
    save_table(raw / ANATOMY, rows, table.schema)
    found = read_all("mmlu_med", raw)["test"]
    assert (len(kept(found)), reasons(found)) == (14, {reason: 1})


def test_mmlu_renamed_column_and_broken_file(tree: Callable[[str], Path]) -> None:
    raw = tree("mmlu_med")
    table = pq.read_table(raw / ANATOMY)
    pq.write_table(table.rename_columns(["input", "subject", "choices", "answer"]), raw / ANATOMY)
    with pytest.raises(NotThisSource, match="no column question"):
        read_all("mmlu_med", raw)
    (raw / ANATOMY).write_bytes(b"PAR1")
    with pytest.raises(NotThisSource, match="not readable as Parquet"):
        read_all("mmlu_med", raw)


def test_mmlu_real_rows(real_data: Path) -> None:
    raw = need(real_data / "mmlu")
    outcomes = read_all("mmlu_med", raw)
    counts = {split: len(kept(found)) for split, found in outcomes.items()}
    assert counts == source_of("mmlu_med").published({}) == {"test": 1_395, "validation": 156, "dev": 35}
    test = kept(outcomes["test"])
    assert Counter(sample.subset for sample in test) == {
        "anatomy": 135, "clinical_knowledge": 265, "college_biology": 144, "college_medicine": 173,
        "medical_genetics": 100, "nutrition": 306, "professional_medicine": 272,
    }  # fmt: skip
    six = [sample for sample in test if sample.subset != "nutrition"]
    assert (len(six), len(stems(six))) == (1_089, 1_010)
    rows = [
        row for subject in sorted({s.subset or "" for s in test})
        for row in pq.read_table(raw / subject / "test-00000-of-00001.parquet").to_pylist()
    ]  # fmt: skip
    for sample, row in zip(test, rows, strict=True):
        assert (sample.question, [text for _, text in sample.options or []]) == (row["question"], row["choices"])
        assert sample.answer == "ABCD"[row["answer"]]
