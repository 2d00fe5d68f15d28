"""Builds of the first release are written anew from their shards: what a build from the raw files would write."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT, run_module, tree_digest

from builders import refingerprint
from manifests.catalog import load_build
from medgpt.errors import UserError
from shards.verify import verify_build

FIRST = ROOT / "tests/first_release.tar.xz"
"""`medtrinity`'s demo as the first release (commit f5149bd) built it."""


@pytest.fixture
def built(tmp_path: Path) -> Path:
    with tarfile.open(FIRST) as archive:
        archive.extractall(tmp_path / "built", filter="data")
    return tmp_path / "built" / "medtrinity"


def test_it_is_what_a_build_from_the_raw_files_writes(built: Path, tmp_path: Path) -> None:
    old = json.loads((built / "build.json").read_bytes())
    with pytest.raises(UserError, match=r"manifest version 1, .*builders\.refingerprint"):
        load_build(built)
    assert [fault.what.partition(",")[0] for fault in verify_build(built)] == ["of an earlier release"]
    dry = run_module("builders.refingerprint", str(tmp_path), "--dry-run")
    assert dry.returncode == 0 and "to be written anew, 6 samples" in dry.stdout
    assert json.loads((built / "build.json").read_bytes()) == old

    done = run_module("builders.refingerprint", str(tmp_path), "--workers", "2")
    assert (done.returncode, done.stderr) == (0, "")
    assert "6 samples written anew, 0 rejected now" in done.stdout
    assert verify_build(built) == []
    assert load_build(built).record["counts"] == old["counts"]
    assert not list(tmp_path.rglob("*.anew"))

    run_module(
        "builders.medtrinity", "--demo", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "again"), "--quiet",
        check=True,
    )  # fmt: skip
    rebuilt = tree_digest(tmp_path / "again" / "medtrinity")
    besides = ("build.json", "inputs.parquet")  # the first release kept no list of raw files
    assert {name: digest for name, digest in tree_digest(built).items() if name not in besides} == {
        name: digest for name, digest in rebuilt.items() if name not in besides
    }
    again = run_module("builders.refingerprint", str(tmp_path / "built"))
    assert "up to date" in again.stdout and again.returncode == 0


def test_an_altered_build_is_named_and_stays(built: Path) -> None:
    shard = next((built / "shards").iterdir())
    data = bytearray(shard.read_bytes())
    data[shard.stat().st_size // 3] ^= 1
    shard.write_bytes(data)
    before = tree_digest(built)
    done = run_module("builders.refingerprint", str(built))
    assert done.returncode == 4
    assert "altered" in done.stderr or "not written anew" in done.stderr
    assert tree_digest(built) == before

    (built / "build.json").write_text("{}")
    assert run_module("builders.refingerprint", str(built)).returncode == 4


def test_a_replacement_that_was_killed_is_finished(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = built.parent / "wanted" / "medtrinity"
    shutil.copytree(built, wanted)
    refingerprint.refingerprint(wanted, 1)

    rename, calls = Path.rename, []

    def dies(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        refingerprint.refingerprint(built, 1)
    monkeypatch.undo()
    assert not built.exists()
    assert refingerprint.main([str(built.parent)]) == 0
    assert tree_digest(built) == tree_digest(wanted)
