"""`--json` of commands that report: one JSON document on stdout and nothing else on it, no bar on stderr."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from conftest import call_module

from manifests.proof.certificate import read_certificate


def document(*words: str, code: int = 0) -> dict[str, Any]:
    done = call_module(*words, "--json")
    assert (done.returncode, done.stderr) == (code, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_corpus_and_its_proof(tmp_path: Path) -> None:
    rows = [{"id": str(number), "text": f"a text of its own, of number {number} " * 9} for number in range(6)]
    for side, chosen in (("train", rows[:4]), ("test", rows[3:])):
        (tmp_path / side).mkdir()
        pq.write_table(pa.Table.from_pylist(chosen), tmp_path / side / "rows.parquet")
    train, test, out = str(tmp_path / "train"), str(tmp_path / "test"), str(tmp_path / "out")
    proof = document("manifests.prove", "--train", train, "--eval", test, "--out", out)
    assert proof == read_certificate(tmp_path / "out" / "proof")
    assert [row["train_samples"] for row in proof["exclusions"]] == [1]
    plan = document("manifests.prove", f"{out}/corpus", "--dry-run")
    assert plan["pairs"] == 12
    built = document("builders.corpus", "--raw", train, "--role", "train", "--out", str(tmp_path / "again"))
    assert built["counts"]["kept"] == 4
