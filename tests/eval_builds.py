"""Small builds of benchmarks for tests of the evaluation: demo trees, built once a session."""

from __future__ import annotations

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


def build_demos(data: Path, builds: tuple[tuple[str, tuple[str, ...]], ...] = BUILDS) -> Path:
    """Builds of the demo trees under `data`."""
    written: set[str] = set()
    for name, options in builds:
        demo = () if name in written else ("--demo",)
        written.add(name)
        where = ["--raw", str(data / "raw" / name), "--out", str(data / "built"), "--workers", "1", "--quiet"]
        assert main(load(name), [*demo, *options, *where]) in (0, 3)
    return data
