"""Size of the core environment (no torch) and how soon `--help` answers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def measure(peer_python: Path | None) -> dict[str, Any]:
    """A new environment with the core alone: bytes its packages add, and `--help` over bare Python (median of 9)."""
    del peer_python
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        before = _bytes(Path(folder))
        subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--no-compile", str(ROOT)], check=True, capture_output=True
        )
        added = _bytes(Path(folder)) - before
        bare = _median([str(python), "-c", "pass"])
        answered = _median([str(python), "-m", "builders.mimic_cxr", "--help"])
    return {
        "core_mb": round(added / 1e6, 1),
        "bare_python_s": round(bare, 3),
        "help_s": round(answered, 3),
        "help_over_bare_python_s": round(answered - bare, 3),
        "python": sys.version.split()[0],
    }


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _median(command: list[str]) -> float:
    times = []
    for _ in range(9):
        started = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd="/", env=os.environ)
        times.append(time.perf_counter() - started)
    return sorted(times)[4]
