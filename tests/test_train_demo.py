"""`train.demo`: three stages with one command, resumed without training again, refused in one line."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_module

pytest.importorskip("deepspeed")

from builders.engine.command import main as build
from builders.engine.registry import load
from manifests.proof.policy import load_policy
from manifests.prove import prove
from train import assemble, demo
from train.config import STAGES, load_config
from train.model import SIZES


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small demo with a source for each stage under `data`, certified; removed at the end: checkpoints are large."""
    work = tmp_path_factory.mktemp("demo")
    data = work / "data"
    for name in ("rocov2", "pubmedvision", "medqa"):
        arguments = ["--demo", "--raw", str(work / "raw" / name), "--out", str(data / "built")]
        arguments += ["--filters", "none"] if load(name).filters else []
        assert build(load(name), [*arguments, "--workers", "1", "--quiet"]) in (0, 3)
    assert prove(data, data / "proof", load_policy())["clean"]
    yield work
    shutil.rmtree(work)


def narrow_model(folder: Path) -> None:
    """The tiny model with a quarter of its width: 201,088 rows of 64 would be most of the test's time."""
    text = SIZES["tiny"]["text"] | {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SIZES["tiny"], "text", text)
        assert assemble.main(["--size", "tiny", "--dtype", "fp32", "--out", str(folder)]) == 0


def table(text: str) -> dict[str, list[float]]:
    """Steps, first and last loss and seconds, by stage."""
    rows = re.findall(
        rf"^({'|'.join(STAGES)}): (\d+) steps, loss ([\d.]+) to ([\d.]+), ([\d.]+) s, \S+curves.svg$", text, re.M
    )
    return {stage: [float(number) for number in numbers] for stage, *numbers in rows}


def test_three_stages_and_no_stage_twice(
    work: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = work / "out"
    narrow_model(out / "model")
    command = [str(work / "data"), "--out", str(out), "--steps", "2", "--quiet"]
    assert demo.main(command) == 0
    said = capfd.readouterr().out
    assert "train.assemble" not in said  # the model was there
    rows = table(said)
    assert list(rows) == list(STAGES)
    for stage, (steps, first, last, _) in rows.items():
        log = [json.loads(line) for line in (out / stage / "log.jsonl").read_text().splitlines()]
        assert (steps, first, last) == (2, round(log[0]["loss"], 3), round(log[-1]["loss"], 3))
        assert (out / stage / "curves.svg").is_file()
    assert str(out / "instruct" / "model") in said
    times = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert demo.main(command) == 0
    again = capfd.readouterr().out
    assert table(again) == rows
    assert again.count("is trained already") == 3 and "train.run" not in again
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == times
    called: list[list[str]] = []

    def call(arguments: list[str]) -> int:
        called.append(arguments)
        return 3

    monkeypatch.setattr(demo, "call", call)  # what it shows is in test_learning.py
    assert demo.main([*command, "--sight"]) == 3
    assert called == [["bench.sight", str(out / "sight")]]
    certificate = demo.check(work / "data")
    pretrain = out / "pretrain", "pretrain", out / "model"
    assert demo.finished(*pretrain, 2, certificate)
    assert not demo.finished(*pretrain, 3, certificate)
    assert not demo.finished(*pretrain, 2, "of other data")
    (out / "model" / "generation_config.json").write_text("{}")
    assert not demo.finished(*pretrain, 2, certificate)  # it began with another model


def test_every_stage_takes_the_settings() -> None:
    for stage in STAGES:
        config = load_config(stage, demo.SETTINGS)
        assert config.data.only_present and config.engine.precision == "fp32" and not config.engine.compile
        assert config.train == load_config(stage).train  # what learns is the recipe's


def test_refusals(work: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = work / "nothing"
    assert demo.main([str(nothing)]) == 1
    said = capfd.readouterr().err
    assert said.startswith("train.demo: ") and str(nothing) in said and said.count("\n") == 1
    unproved = work / "unproved"
    shutil.copytree(work / "data" / "built", unproved / "built")
    assert demo.main([str(unproved)]) == 1
    said = capfd.readouterr().err
    assert "manifests.prove" in said and said.count("\n") == 1
    assert demo.main([str(work / "data"), "--steps", "0"]) == 2
    assert "--steps 0: at least 1" in capfd.readouterr().err
    monkeypatch.setattr("train.demo.importlib.util.find_spec", lambda name: None if name == "deepspeed" else sys)
    assert demo.main([str(work / "data")]) == 1
    assert capfd.readouterr().err == "needs deepspeed: pip install 'medgpt-oss[train]'\n"
    assert not (work / "data" / "train").exists()


def test_help_ends_with_an_example() -> None:
    said = run_module("train.demo", "--help", check=True).stdout
    assert "python -m train.demo demo" in said.split("example:")[1]
