"""icliniq: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import kept
from source_cases import (
    Rows,
    read_in_order,
    said,
    write_json,
    write_parquet,
)

from builders.demos import (
    icliniq,
)
from builders.engine.source import Sample


def test_icliniq_reads_the_doctor_and_no_model(samples: dict[str, dict[str, Sample]]) -> None:
    rows = icliniq.demo_rows()
    for key, sample in samples["icliniq"].items():
        row = rows[int(key.removeprefix("train/"))]
        assert said(sample) == [("user", None, row["input"]), ("assistant", None, row["answer_icliniq"])]
        written = json.dumps([sample.messages, sample.answer])
        assert "healthcare professional" not in written
        assert "as a model" not in written


@pytest.mark.parametrize(
    "file",
    [
        "iCliniq.json",
        "icliniq_10k.json",
        "iCliniq-10K.jsonl",
        "chatdoctor-icliniq/test-00000-of-00001-e85a5978cd03c7b2.parquet",
    ],
)
def test_icliniq_other_copies_are_train_too(file: str, demos: dict[str, Path], tmp_path: Path) -> None:
    write: Callable[[Path, Rows], None] = write_json if file.endswith(".json") else write_parquet
    if file.endswith(".jsonl"):
        (tmp_path / file).write_text("".join(json.dumps(row) + "\n" for row in icliniq.demo_rows()))
    else:
        write(tmp_path / file, list(icliniq.demo_rows()))
    other, hub = read_in_order("icliniq", tmp_path), read_in_order("icliniq", demos["icliniq"])
    assert list(other) == ["train"]
    first = int(file.endswith(".jsonl"))  # lines are counted from 1
    assert [(s.key, said(s)) for s in kept(other["train"])] == [
        (str(int(s.key) + first), said(s)) for s in kept(hub["train"])
    ]
