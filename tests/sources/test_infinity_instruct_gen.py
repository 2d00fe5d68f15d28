"""infinity_instruct_gen: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from outcomes import kept, read_all, reasons, source_of
from source_cases import (
    read_in_order,
    said,
    write_parquet,
)

from builders.demos import (
    infinity_instruct_gen,
)
from builders.engine.source import Sample


def test_infinity_reads_gen_alone_and_tolerates_more_columns(demos: dict[str, Path]) -> None:
    raw = demos["infinity_instruct_gen"]
    names = pq.read_schema(raw / "Gen/train-00000-of-00002.parquet").names
    assert {"label", "langdetect", "reward"} < set(names)
    units = list(source_of("infinity_instruct_gen").plan(raw, {"no_images": True}))
    assert {file for unit in units for file in unit.inputs} == {f"Gen/train-0000{n}-of-00002.parquet" for n in (0, 1)}


def test_infinity_turns(demos: dict[str, Path], samples: dict[str, dict[str, Sample]]) -> None:
    found = {key.rpartition("train-")[2]: sample for key, sample in samples["infinity_instruct_gen"].items()}
    several = found["00000-of-00002/2"]
    assert [role for role, _, _ in said(several)] == ["user", "assistant"] * 3
    assert (several.question, several.answer) == ("Name a prime above 90.", None)
    assert [role for role, _, _ in said(found["00000-of-00002/6"])] == ["system", "user", "assistant"]
    assert found["00000-of-00002/6"].question == "Sort 3, 1, 2."
    assert (found["00000-of-00002/3"].question or "").startswith("用一句话")
    assert (found["00000-of-00002/1"].subset, found["00001-of-00002/2"].subset) == ("flan", None)
    assert several.group == {"question_id": f"infinity-instruct/{0xA3F52E9EF0E6C24C + 2:032x}"}
    rejected = reasons(read_in_order("infinity_instruct_gen", demos["infinity_instruct_gen"])["train"])
    assert rejected == {"empty_answer": 2, "odd_turns": 1}  # an empty reply, a missing one, and gpt that opens


def test_infinity_ids_may_be_numbers(tmp_path: Path) -> None:
    rows = [row | {"id": number} for number, row in enumerate(infinity_instruct_gen.demo_rows()[:3])]
    write_parquet(tmp_path / "Gen/train-00000-of-00001.parquet", rows)
    found = kept(read_in_order("infinity_instruct_gen", tmp_path)["train"])
    assert [sample.group["question_id"] for sample in found] == [f"infinity-instruct/{n}" for n in range(3)]


def test_columns_that_no_evidence_confirms_are_not_required(tree: Callable[[str], Path]) -> None:
    """`id` and `source` stand on the card alone; two readers confirm `conversations`."""
    raw = tree("infinity_instruct_gen")
    before = kept(read_all("infinity_instruct_gen", raw)["train"])
    for path in raw.glob("Gen/*.parquet"):
        pq.write_table(pq.read_table(path, columns=["conversations"]), path)
    after = kept(read_all("infinity_instruct_gen", raw)["train"])
    assert [sample.messages for sample in after] == [sample.messages for sample in before]
    assert all(sample.group == {} and sample.subset is None for sample in after)
