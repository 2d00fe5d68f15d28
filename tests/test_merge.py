"""Builds of two sites under one root: what is brought, what is refused, and that nothing is half there."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import tree_digest

from builders.all import main as build_all
from manifests.catalog import load_builds
from medgpt.atomic import held
from medgpt.digest import sealed
from shards.merge import main as merge
from shards.verify import verify_build

SITES = {"a": ("medqa", "vqa_rad"), "b": ("medqa", "mimic_cxr")}


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sites: an open one and one with credentialed data; both have medqa."""
    folder = tmp_path_factory.mktemp("sites")
    for site, names in SITES.items():
        words = ["--demo", "--raw", str(folder / "raw"), "--out", str(folder / site / "built"), "--filters", "none"]
        assert build_all([*words, "--workers", "1", "--json", "--only", *names]) == 0
    for name, said in (("recipe.json", "{}"), ("selection.parquet", "kept")):
        (folder / "a/filtered/vqa_rad").mkdir(parents=True, exist_ok=True)
        (folder / "a/filtered/vqa_rad" / name).write_text(said)
    (folder / "a/proof").mkdir()
    return folder


@pytest.fixture
def two(sites: Path, tmp_path: Path) -> list[str]:
    """Copies of both to change."""
    return [shutil.copytree(sites / name, tmp_path / name).as_posix() for name in SITES]


def test_two_sites_come_under_one_root(two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "c"
    assert merge([*two, "--out", str(out), "--dry-run"]) == 0
    assert "3 builds" in capsys.readouterr().out and not out.exists()
    (tmp_path / ".c.merge/root/built").mkdir(parents=True)  # by a run that was killed
    assert merge([*two, "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [(row["build"], row["files"] > 0) for row in said["builds"]] == [
        ("medqa", True), ("vqa_rad", True), ("medqa", False), ("mimic_cxr", True),
    ]  # fmt: skip
    assert sorted(path.name for path in out.iterdir()) == ["built", "filtered"]
    for site, names in SITES.items():
        for name in names:
            assert tree_digest(out / "built" / name) == tree_digest(tmp_path / site / "built" / name)
            assert verify_build(out / "built" / name) == []
    assert tree_digest(out / "filtered") == tree_digest(tmp_path / "a/filtered")
    assert sum(row["samples"] for row in said["builds"]) == sum(b.record["counts"]["kept"] for b in load_builds(out))
    # Nothing is open to others, and what was open at its site is so still.
    assert {path.stat().st_mode & 0o077 for path in (out, *out.rglob("*"))} == {0}
    linked = {name: (out / "built" / name / "build.json").stat().st_nlink for name in ("medqa", "mimic_cxr")}
    assert linked == {"medqa": 1, "mimic_cxr": 2}
    assert (tmp_path / "a/built/medqa/build.json").stat().st_mode & 0o077


def change(folder: Path, **values: Any) -> None:
    """Let a build say something else, with all its digests."""
    record = orjson.loads((folder / "build.json").read_bytes())
    (folder / "build.json").write_bytes(orjson.dumps(sealed(record | values)))


def damage(tmp_path: Path) -> None:
    shard = next((tmp_path / "a/built/vqa_rad/shards").glob("*.tar"))
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)


def twice(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tmp_path / "a/built/vqa_rad", tmp_path / "b/built/other"))
    change(folder, build="other")


def select(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tmp_path / "a/built/vqa_rad", tmp_path / "b/built/vqa_rad"))
    (tmp_path / "b/filtered" / folder.name).mkdir(parents=True)
    (tmp_path / "b/filtered" / folder.name / "selection.parquet").write_text("others")


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (damage, "a/built/vqa_rad/shards/vqa_rad-train-00000-00000.tar, member"),
        (
            lambda t: change(t / "b/built/medqa", fingerprint_recipe="x"),
            "b/built/medqa: fingerprint_recipe is x, where",
        ),
        (lambda t: change(t / "b/built/mimic_cxr", versions={"engine": 2, "source": 1}), "engine version is 2, where"),
        (lambda t: change(t / "b/built/medqa", limit=3), "a/built/medqa holds another build of the same name"),
        (lambda t: (t / "b/built/mimic_cxr/build.json").write_text("{"), "cannot be read"),
        (twice, "the same sample id twice"),
        (select, "b/filtered/vqa_rad/selection.parquet: another selection than"),
    ],
)
def test_what_does_not_go_together_is_a_line_each(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: Callable[[Path], Any], says: str
) -> None:
    break_it(tmp_path)
    out = tmp_path / "c"
    assert merge([*two, "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any(says in line for line in lines), lines
    assert lines[-1] == f"nothing was written: {len(lines) - 1} conflicts"
    assert not out.exists() and not (tmp_path / ".c.merge").exists()


def test_damage_goes_through_where_nothing_is_hashed_and_that_is_said(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(tmp_path)
    assert merge([*two, "--out", str(tmp_path / "c"), "--no-verify", "--dry-run"]) == 0
    assert "NOT hashed (--no-verify)" in capsys.readouterr().out
    # A copy is hashed on its way.
    assert merge([*two, "--out", str(tmp_path / "c"), "--no-verify", "--copy"]) == 2
    assert "another content than" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_full_disk_leaves_nothing(
    two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "c")

    monkeypatch.setattr(os, "link", full)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert merge([*two, "--out", str(tmp_path / "c")]) in (1, 2)
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_two_merges_into_one_folder_and_folders_that_are_there(
    two: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / ".c.merge").mkdir()
    with held(tmp_path / ".c.merge/lock", ValueError()):
        assert merge([*two, "--out", str(tmp_path / "c"), "--no-verify"]) == 2
    assert "another process is merging" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        merge([*two, "--out", str(tmp_path / "b/c")])
    assert "lies in" in capsys.readouterr().err
    assert merge([*two, "--out", str(tmp_path), "--no-verify"]) == 2
    assert "is there already" in capsys.readouterr().err
