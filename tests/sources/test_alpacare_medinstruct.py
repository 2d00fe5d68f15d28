"""alpacare_medinstruct: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from outcomes import kept, reasons, source_of
from source_cases import (
    Damage,
    Rows,
    drop,
    put,
    read_in_order,
    said,
    write_json,
    write_parquet,
)

from builders.demos import (
    alpacare_medinstruct,
)
from builders.engine.source import Sample


def test_alpacare_no_input_has_several_spellings(samples: dict[str, dict[str, Sample]]) -> None:
    alpacare, rows = samples["alpacare_medinstruct"], alpacare_medinstruct.demo_rows()
    spelled = {row["input"] for row in rows if not row["input"].strip() or "<noinput>" in row["input"]}
    assert len(spelled) == 3
    for key, sample in alpacare.items():
        assert "noinput" not in json.dumps([sample.messages, sample.question])
        if key.startswith("train/"):
            row = rows[int(sample.key)]
            asked = row["instruction"] if row["input"] in spelled else f"{row['instruction']}\n\n{row['input']}"
            assert (sample.question, said(sample)[0]) == (asked, ("user", None, asked))
    assert alpacare["train/5"].question == "Classify the finding as normal or not.\n\nDNA ploidy: aneuploid."


def test_alpacare_test_file_is_eval_and_has_no_gold(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["alpacare_medinstruct"], tmp_path / "raw")
    write_json(raw / "data/.ipynb_checkpoints/MedInstruct-test-checkpoint.jsonl", [{"never": "read"}])
    outcomes = read_in_order("alpacare_medinstruct", raw)
    test = kept(outcomes["test"])
    assert source_of("alpacare_medinstruct").splits["test"] == "eval"
    assert [(s.key, s.subset, s.answer) for s in test] == [(str(i), f"difficulty-{1 + i}", None) for i in range(4)]
    assert all([role for role, _, _ in said(sample)] == ["user"] for sample in test)
    assert [s.group for s in test] == [{"question_id": f"medinstruct-test/{i}"} for i in range(4)]
    (raw / "data/MedInstruct-test.jsonl").unlink()
    assert list(read_in_order("alpacare_medinstruct", raw)) == ["train"]


def test_alpacare_hub_parquet(demos: dict[str, Path], tmp_path: Path) -> None:
    rows: Rows = [dict(reversed(row.items())) for row in alpacare_medinstruct.demo_rows()]  # output comes first there
    write_parquet(tmp_path / "data/train-00000-of-00001-297892d5d4e8a0ac.parquet", rows)
    hub, original = (read_in_order("alpacare_medinstruct", raw) for raw in (tmp_path, demos["alpacare_medinstruct"]))
    assert [(s.key, said(s)) for s in kept(hub["train"])] == [(s.key, said(s)) for s in kept(original["train"])]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop("id"), "missing_field"),
        (put("id", "7"), "bad_id"),
        (put("difficulty", "6"), "bad_field"),
        (put("difficulty", 3), "bad_field"),
        (put("instruction", None), "missing_field"),
        (put("instruction", " "), "empty_question"),
    ],
)
def test_alpacare_damaged_test_rows(damage: Damage, reason: str, demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["alpacare_medinstruct"], tmp_path / "raw")
    file = raw / "data/MedInstruct-test.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    damage(lines[2])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    found = read_in_order("alpacare_medinstruct", raw)["test"]
    assert reasons(found) == {reason: 1, "bad_row": 1}
    assert [sample.key for sample in kept(found)] == ["0", "1", "3"]
