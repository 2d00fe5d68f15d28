"""Single system calls of commands fail: a documented exit code, one line, and the same bytes after the next run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.parametrize(
    ("job", "calls"),
    [
        ("build:medqa", ["open", "read", "write", "fsync", "rename", "mkdir", "flock", "unlink"]),
        ("build:slake", ["open", "read"]),
    ],
)
def test_any_call_may_fail(job: str, calls: list[str], tmp_path: Path) -> None:
    """One call of each kind and error, drawn by a seed; `make torture` tries all of them, of proofs and packs, too."""
    if not sys.platform.startswith("linux") or not (shutil.which("cc") or shutil.which("gcc")):
        pytest.skip("calls are failed by a preloaded library, which needs Linux and a C compiler")
    words = [str(tmp_path / "work"), "--jobs", job, "--calls", *calls, "--draw", "1", "--seed", job]
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "torture.py"), *words], capture_output=True, text=True, timeout=900,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["findings"] == 0
    assert {name.split()[1] for name in said["trials"]} == set(calls), "the shim does not see the calls"
