"""`python -m builders.demo` as `make demo` runs it: few lines on the screen, all the rest in the log that they name."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, run_module

from builders.demo import why_untrained
from builders.engine.registry import modules
from manifests.proof.certificate import read_certificate

LARGEST_PAGE = 3_000_000
"""Bytes."""
SCREEN = 60
"""Most lines of a whole `make demo`; its install prints none."""
WITHOUT_TRAINING = """
import runpy, sys
sys.modules["deepspeed"] = None
runpy.run_module("builders.demo", run_name="__main__")
"""


def test_a_line_a_source_and_the_rest_in_the_log(tmp_path: Path) -> None:
    only, data = ("slake", "medqa", "medbullets"), tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TRAINING, "--data", str(data), "--only", *only],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    lines, log = done.stdout.splitlines(), (data / "demo.log").read_text()
    assert done.returncode == 0, done.stdout + log
    assert len(lines) + len(modules()) - len(only) <= SCREEN, done.stdout
    for name, builds in zip(only, (2, 1, 1), strict=True):
        [line] = [line for line in lines if line.startswith(f"{name} ")]
        counts = [
            json.loads(path.read_bytes())["counts"]
            for pattern in (name, f"{name}.*") for path in (data / "built").glob(f"{pattern}/build.json")
        ]  # fmt: skip
        sums = [sum(count[key] for count in counts) for key in ("read", "kept", "rejected")]
        assert [int(number.replace(",", "")) for number in line.split()[1:5]] == [builds, *sums]
    excluded = read_certificate(data / "proof")["exclusions"]
    assert f"excluded  by the proof: {sum(row['train_samples'] for row in excluded)} of" in done.stdout
    assert "slake.paper 8 of 8 validation by" in done.stdout
    for shown in (
        r"^shards.pack +\d+ s  .* samples in ", r"^shards.resume_check +\d+ s  .*the same samples in the same order",
        r"^train.demo +left out, no deepspeed", r"^eval.demo +\d+ s  2 runs, ",
    ):  # fmt: skip
        assert re.search(shown, done.stdout, re.MULTILINE), (shown, done.stdout)
    sentences = read_certificate(data / "proof")["sentences"]
    assert lines[-2 - len(sentences) : -2] == [f"{number}. {said}" for number, said in enumerate(sentences, 1)]
    assert lines[-1] == (data / "index.html").resolve().as_uri()
    linked = re.findall(r'href="([^"]+)"', (data / "index.html").read_text())
    assert linked == ["proof/report.html", "statistics.html", "packs.html", "evaluation/report.html", "demo.log"]
    pages = [path for path in data.rglob("*.html") if "raw" not in path.parts]
    assert {path.relative_to(data).as_posix() for path in pages} == {*linked[:-1], "index.html"}
    assert all(path.stat().st_size <= LARGEST_PAGE for path in pages)
    packed = json.loads(re.search(r"(\d+) samples in (\d+) packs", log).expand(r"[\1, \2]"))  # type: ignore[union-attr]
    told = re.findall(r"<dt>(?:samples|packs)</dt><dd>([\d,]+)</dd>", (data / "packs.html").read_text())
    assert [int(number.replace(",", "")) for number in told] == packed
    for detail in (
        "$ python -m builders.slake --demo",
        "rejected rows (each with file",
        "exact_image_overlap",
        "train_build",
        "slake, same_bytes: ",
        "$ python -m shards.pack",
        "tasks scored",
    ):
        assert detail in log, detail


def test_a_step_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    done = run_module("builders.demo", "--data", str(tmp_path), "--only", "medbullets")
    assert done.returncode not in (0, 3), done.stdout
    *last, end = done.stderr.splitlines()
    assert end == f"manifests.prove ended with exit code {done.returncode}; {tmp_path}/demo.log has all of it"
    assert last[0].startswith("python -m manifests.prove") and "nothing can be proved" in last[-1]
    assert (tmp_path / "demo.log").read_text().endswith("\n".join(last) + "\n")


def test_without_a_source_of_each_stage_nothing_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train.demo` would build its model first, and then fail for want of samples."""
    monkeypatch.setattr("builders.demo.TRAINING_NEEDS", ())
    assert why_untrained(["slake", "medqa"]).startswith("no source of stage pretrain, midtrain. ")
    assert why_untrained(["slake", "rocov2"]).startswith("no source of stage midtrain. ")
    assert not why_untrained(["slake", "rocov2", "pubmedvision"])
