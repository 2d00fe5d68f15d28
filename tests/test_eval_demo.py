"""The evaluation's demo as `make demo` runs it: one page, all runs side by side (with a model: test_eval_adapters)."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_module, tree_digest
from eval_builds import build_demos

from eval.demo import main, with_training_side


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builds = (("slake", ()), ("medqa", ()), ("medbullets", ()))
    return build_demos(tmp_path_factory.mktemp("demo"), builds)


def test_baselines_without_a_model(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert with_training_side(data) == ["slake", "medqa"]
    assert main([str(data), "--limit", "3"]) == 0
    said = capsys.readouterr().out
    assert "without a model: " in said and "train/instruct/model is not there" in said
    html = (data / "evaluation/report.html").read_text()
    assert f"Done. Open {data}/evaluation/report.html" in said
    for name in ("baseline: majority", "baseline: nearest", "Differences of baseline: majority", "slake 3 of 416"):
        assert name in html, name
    # Every step that was printed is a command that can be typed again.
    assert said.count("\n$ python -m eval.") == 4
    before = tree_digest(data / "evaluation")
    assert main([str(data), "--limit", "3"]) == 0
    assert tree_digest(data / "evaluation") == before


def test_other_questions_replace_those_of_an_earlier_demo(data: Path) -> None:
    assert main([str(data), "--limit", "2"]) == 0
    assert "slake 2 of 416" in (data / "evaluation/report.html").read_text()


def test_what_is_missing_is_one_line(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    only = build_demos(tmp_path / "only", (("medbullets", ()),))
    assert main([str(only)]) == 2
    assert "run python -m builders.demo" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([str(data), "--checkpoint", str(tmp_path)])
    assert "no config.json" in capsys.readouterr().err


def test_help_answers_with_an_example() -> None:
    done = run_module("eval.demo", "--help")
    assert done.returncode == 0 and "example" in done.stdout
