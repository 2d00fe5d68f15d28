"""healthcaremagic: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from conftest import REAL_DATA
from outcomes import kept, reasons
from source_cases import (
    read_in_order,
    said,
    sha,
)

from builders.demos import (
    healthcaremagic,
)
from builders.engine.names import CHATDOCTOR_INSTRUCTION
from builders.engine.source import NotThisSource, Sample


def test_healthcaremagic_question_is_the_input_alone(samples: dict[str, dict[str, Sample]]) -> None:
    for sample in samples["healthcaremagic"].values():
        assert CHATDOCTOR_INSTRUCTION not in (sample.question or "")
        [(_, _, prompt), (_, reasoning, reply)] = said(sample)
        assert prompt == f"{CHATDOCTOR_INSTRUCTION}\n\n{sample.question}"
        assert (reasoning, reply) == (None, sample.answer)
        assert "Chat Doctor" in reply or sample.key == "9"


@pytest.mark.parametrize("file", ["HealthCareMagic-100k.json", "healthcaremagic100k.json"])
def test_healthcaremagic_original_json_gives_the_same_samples(
    file: str, demos: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / file).write_bytes(json.dumps(healthcaremagic.demo_rows(), indent=4).encode())
    original, hub = (read_in_order("healthcaremagic", raw)["train"] for raw in (tmp_path, demos["healthcaremagic"]))
    assert [(s.key, said(s)) for s in kept(original)] == [(s.key, said(s)) for s in kept(hub)]
    assert reasons(original) == reasons(hub) == {"empty_question": 1, "empty_answer": 1}


def test_real_chatdoctor_rows(tmp_path: Path) -> None:
    path = REAL_DATA / "chatdoctor" / "chatdoctor_1000.json"
    if not path.is_file():
        pytest.skip(f"no real rows at {path}")
    rows = json.loads(path.read_bytes())
    shutil.copy(path, tmp_path / "HealthCareMagic-100k.json")
    found = read_in_order("healthcaremagic", tmp_path)["train"]
    assert (len(rows), len(found), reasons(found)) == (1000, 1000, {})
    for row, sample in zip(rows, kept(found), strict=True):
        assert (sample.question, sample.answer) == (row["input"], row["output"])
    # The instruction is one and the same: it would make a single question of them all.
    assert len({sha(sample)[0] for sample in kept(found)}) == 1000
    assert {row["instruction"] for row in rows} == {CHATDOCTOR_INSTRUCTION}


def test_two_copies_are_refused(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["healthcaremagic"], tmp_path / "raw")
    (raw / "HealthCareMagic-100k.json").write_bytes(json.dumps(healthcaremagic.demo_rows(), indent=4).encode())
    with pytest.raises(NotThisSource, match="2 copies"):
        read_in_order("healthcaremagic", raw)
