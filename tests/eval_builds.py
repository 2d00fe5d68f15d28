"""Builds of demo trees for tests of what comes after: each is made once a process, and copied for whoever asks."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path

from builders.engine.command import main
from builders.engine.registry import load

BUILDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("slake", ()), ("slake", ("--paper-variant",)), ("medqa", ()), ("medxpertqa", ()), ("medframeqa", ()),
    ("mmmu_med", ()), ("mmmu_pro_med", ()), ("medmcqa", ()), ("pubmedqa", ()), ("mmlu_med", ()), ("medbullets", ()),
    ("patient_trial", ()), ("patient_trial", ("--shots", "1")), ("patient_trial", ("--labels", "paper")),
    ("mimic_cxr", ("--task", "impression")), ("mimic_cxr", ("--task", "impression", "--shots", "1")),
    ("mimic_cxr", ("--longitudinal",)),
)  # fmt: skip
_MADE = tempfile.TemporaryDirectory(prefix="demo-builds-")  # goes with the process


@cache
def _made(name: str, options: tuple[str, ...]) -> str:
    """Make one build; its name."""
    data = Path(_MADE.name)
    before = {path.parent.name for path in data.glob("built/*/build.json")}
    demo = () if (data / "raw" / name).exists() else ("--demo",)
    where = ["--raw", str(data / "raw" / name), "--out", str(data / "built"), "--workers", "1", "--quiet"]
    assert main(load(name), [*demo, *options, *where]) in (0, 3)
    [build] = {path.parent.name for path in data.glob("built/*/build.json")} - before
    return build


def build_demos(data: Path, builds: tuple[tuple[str, tuple[str, ...]], ...] = BUILDS) -> Path:
    """Builds of the demo trees under `data`, with these trees and what filters chose."""
    for name, options in builds:
        build = _made(name, options)
        for place in (f"raw/{name}", *(f"{room}/{build}" for room in ("built", "built/.resume", "scores", "filtered"))):
            if (Path(_MADE.name) / place).exists() and not (data / place).exists():
                shutil.copytree(Path(_MADE.name) / place, data / place)
    return data
