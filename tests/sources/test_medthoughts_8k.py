"""medthoughts_8k: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import importlib
from pathlib import Path

from outcomes import kept, read_all
from source_cases import (
    load_rows,
    text_of,
)


def test_medthoughts_has_five_options_an_own_namespace_and_medqa_stems(demos: dict[str, Path], tmp_path: Path) -> None:
    samples = kept(read_all("medthoughts_8k", demos["medthoughts_8k"])["train"])
    for sample, row in zip(samples, load_rows("medthoughts_8k", demos["medthoughts_8k"]), strict=False):
        assert sample.options == list(row["options"].items()) and len(sample.options) == 5
        assert text_of(sample, 1) == f"Answer: {row['answer_idx']}. {row['options'][row['answer_idx']]}"
        assert sample.messages[1]["reasoning"] == row["ds_think"]
        assert row["ds_answer"] not in text_of(sample, 0) + text_of(sample, 1)
        assert sample.group == {"question_id": f"medthoughts-8k/{row['question_id']}"}
    assert {sample.answer for sample in samples} == set("ABCDE")
    medqa = importlib.import_module("builders.medqa").SOURCE
    medqa.write_demo(tmp_path)
    params = {"options": "4", "split": None, "no_images": True}
    [unit] = [unit for unit in medqa.plan(tmp_path, params) if unit.split == "train"]
    stems = [sample.question for sample in medqa.read(tmp_path, unit, params)]
    assert [sample.question for sample in samples[:4]] == stems[:4]
