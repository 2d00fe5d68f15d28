"""The resume check passes where streams go on exactly, and fails where they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import run_module

from builders.engine.command import main as build
from builders.engine.registry import load
from shards import resume_check


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for name in ("slake", "medqa"):
        arguments = ["--demo", "--raw", str(folder / "raw" / name), "--out", str(folder / "built"), "--quiet"]
        assert build(load(name), arguments) == 0
    return folder


def test_the_command_says_how_many_were_compared(data: Path) -> None:
    done = run_module(
        "shards.resume_check", str(data), "--stage", "instruct", "--only-present", "--uncertified", "--quiet"
    )
    assert done.returncode == 0, done.stderr
    assert "taken up by 1, 2, 5, 16: the same samples in the same order" in done.stdout
    assert "left out" in done.stderr


def test_a_stream_that_loses_its_place_is_found(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shards.stream import Stream

    right = Stream.load_state_dict

    def wrong(self: Stream, state: dict[str, object]) -> None:
        right(self, {**state, "position": int(str(state["position"])) - 1})

    monkeypatch.setattr(Stream, "load_state_dict", wrong)
    arguments = [str(data), "--stage", "instruct", "--only-present", "--uncertified", "--quiet"]
    assert resume_check.main(arguments) == 1


def test_what_cannot_be_streamed_is_one_line(data: Path) -> None:
    done = run_module("shards.resume_check", str(data), "--stage", "instruct", "--sources-present")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "certificate" in done.stderr
