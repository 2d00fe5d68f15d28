"""Every system call of a build fails once: a documented exit code, one line, and the same bytes after the next run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, tree_digest

SHIM = """
import builtins, errno, io, os, sys
call, number, code = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
home, left = os.path.abspath(sys.argv[4]), number

def failing(real):
    def instead(target, *arguments, **options):
        global left
        place = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        if isinstance(place, str) and os.path.abspath(place).startswith(home):
            left -= 1
            if left == 0:
                raise OSError(code, os.strerror(code), place)
        return real(target, *arguments, **options)
    return instead

from builders.engine.command import main  # before the calls fail: what a build loads is no part of this
from builders.engine import loop, filtered
from builders.engine.registry import load
source = load(sys.argv[5])
if call == "open":
    builtins.open = io.open = failing(io.open)
    os.open = failing(os.open)
else:
    setattr(os, call, failing(getattr(os, call)))
done = main(source, sys.argv[6:])
print("calls", number - left, file=sys.stderr)
sys.exit(done)
"""


def run(call: str, number: int, code: int, home: Path, source: str, raw: Path, out: Path) -> tuple[int, list[str]]:
    """(exit code, lines of stderr) of a build whose n-th such call below `home` fails; 0 lets all of them be."""
    arguments = [call, str(number), str(code), str(home), source]
    options = ["--raw", str(raw), "--out", str(out), "--workers", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", SHIM, *arguments, *options], capture_output=True, text=True, timeout=120,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT,
    )  # fmt: skip
    return done.returncode, done.stderr.splitlines()


@pytest.mark.parametrize(
    ("source", "call", "code", "where"),
    [
        ("slake", "open", 5, "raw"),
        ("medqa", "open", 13, "out"),
        ("medqa", "fsync", 5, "out"),
        ("slake", "replace", 28, "out"),
        ("medqa", "mkdir", 28, "out"),
    ],
)
def test_any_call_may_fail(
    source: str, call: str, code: int, where: str, demos: dict[str, Path], tmp_path: Path
) -> None:
    raw, good = demos[source], tmp_path / "good"
    home = raw if where == "raw" else tmp_path
    done, said = run(call, 0, code, home, source, raw, good)
    assert done == 0
    wanted, total = tree_digest(good / source), int(said[-1].split()[1])
    assert total > 2, "the shim does not see the calls"
    drawn = random.Random(f"{source} {call}").sample(range(1, total + 1), 2)
    for number in sorted({1, total // 3, total // 2, total, *drawn}):
        out = tmp_path / f"out-{number}"
        done, said = run(call, number, code, home, source, raw, out)
        lines = [line for line in said if not line.startswith("calls ")]
        assert done in (0, 1, 2, 3, 4) and len(lines) == (done in (1, 2)), said
        assert run(call, 0, code, home, source, raw, out)[0] == 0
        assert tree_digest(out / source) == wanted, (number, done, lines)
