"""`shards.verify` finds any flipped byte and names the member."""

from __future__ import annotations

import json
import random
import tarfile
from pathlib import Path

import pytest
from conftest import call_module

from shards.verify import Fault, verify_build


@pytest.fixture(scope="module")
def builds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    for name in ("slake", "medqa"):
        raw = str(out / "raw" / name)
        done = call_module(f"builders.{name}", "--demo", "--raw", raw, "--out", str(out / "built"), "--quiet")
        assert done.returncode == 0, done.stderr
    return out / "built"


def flipped(path: Path, place: int, build: Path) -> list[Fault]:
    """Faults found with one bit of one byte flipped."""
    data = bytearray(path.read_bytes())
    original = bytes(data)
    data[place] ^= 1 << place % 8
    path.write_bytes(data)
    try:
        return verify_build(build)
    finally:
        path.write_bytes(original)


def test_untouched_builds_pass(builds: Path) -> None:
    assert verify_build(builds / "slake") == verify_build(builds / "medqa") == []
    done = call_module("shards.verify", str(builds))
    assert (done.returncode, "2 builds" in done.stdout, "as built" in done.stdout) == (0, True, True)


@pytest.mark.parametrize("name", ["slake", "medqa"])
def test_any_flipped_byte_is_found_and_its_file_named(builds: Path, name: str) -> None:
    chance = random.Random(name)
    files = sorted(path for path in (builds / name).rglob("*") if path.is_file())
    for file in files:
        for place in {0, file.stat().st_size - 1, *(chance.randrange(file.stat().st_size) for _ in range(12))}:
            faults = flipped(file, place, builds / name)
            assert faults, f"{file} byte {place}"
            assert {fault.file for fault in faults} == {file.relative_to(builds / name).as_posix()}


def test_the_member_with_the_flipped_byte_is_named(builds: Path) -> None:
    shard = sorted((builds / "slake" / "shards").iterdir())[0]
    with tarfile.open(shard) as tar:
        members = tar.getmembers()
    chance = random.Random(7)
    for member in chance.sample(members, 25):
        for place, what in (
            (member.offset + chance.randrange(512), "header"),
            (member.offset_data + chance.randrange(member.size), "content"),
            (member.offset_data + member.size, "padding" if member.size % 512 else None),
        ):
            if what is None:
                continue
            [fault] = flipped(shard, place, builds / "slake")
            assert (fault.member, fault.what) == (member.name, f"{what} altered")
    [fault] = flipped(shard, shard.stat().st_size - 100, builds / "slake")
    assert (fault.member, fault.what) == ("", "bytes altered behind the last member")


def test_the_row_with_the_flipped_byte_is_named(builds: Path) -> None:
    """In an Arrow shard: flip bytes of texts that occur once, and the row of that text must be the one named."""
    from shards.reader import Build

    [shard] = (builds / "medqa" / "shards").glob("*train*")
    data = shard.read_bytes()
    named = 0
    for sample in Build(builds / "medqa", role="train"):
        text = sample.record["question"].encode()
        if data.count(sample.record["id"].encode()) == 1 and text in data:
            [fault] = flipped(shard, data.index(sample.record["id"].encode()) + 3, builds / "medqa")
            assert fault.what == "content altered"
            assert fault.member == sample.record["id"]
            named += 1
    assert named > 10


def test_missing_extra_and_cut_files(builds: Path) -> None:
    build = builds / "slake"
    shard = sorted((build / "shards").iterdir())[0]
    original = shard.read_bytes()
    shard.unlink()
    assert [(f.file, f.what) for f in verify_build(build)] == [(f"shards/{shard.name}", "missing")]
    shard.write_bytes(original[:-10240])
    assert any("bytes where" in fault.what for fault in verify_build(build))
    shard.write_bytes(original)
    extra = build / "shards" / "extra.tar"
    extra.write_bytes(b"")
    assert [(f.file, f.what) for f in verify_build(build)] == [("shards/extra.tar", "not part of the build")]
    extra.unlink()
    assert verify_build(build) == []


def test_a_rewritten_description_is_found(builds: Path) -> None:
    path = builds / "medqa" / "build.json"
    original = path.read_bytes()
    document = json.loads(original)
    document["counts"]["kept"] += 1
    path.write_text(json.dumps(document))
    [fault] = verify_build(builds / "medqa")
    assert fault.file == "build.json"
    done = call_module("shards.verify", str(builds), "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["faults"][0]["file"] == "build.json"
    path.write_bytes(original)


def test_a_folder_without_builds_is_refused(tmp_path: Path) -> None:
    done = call_module("shards.verify", str(tmp_path))
    assert done.returncode == 2
    assert "no build.json below" in done.stderr
