"""Benches that run on a laptop, small: what they print is in `bench/RESULTS.md`."""

import json
from pathlib import Path

from conftest import run_module


def test_checkpoints_are_written_and_read_back(tmp_path: Path) -> None:
    told = ("bench.checkpoints", "--out", str(tmp_path))
    written = run_module(*told, "--gigabytes", "0.4", "--limit")
    assert written.returncode == 0, written.stderr[-500:]
    read = run_module(*told, "--read")
    assert read.returncode == 0, read.stderr[-500:]
    for found in map(json.loads, (written.stdout, read.stdout)):
        assert found["all_equal"] and found["gigabytes"] == 0.4
        assert min(found["resume_s"], found["resumed_again_s"], found["read_limit_gb_s"]) > 0
