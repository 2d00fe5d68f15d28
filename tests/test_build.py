"""The build loop through its command line: determinism, resuming, damaged input, accounting."""

from __future__ import annotations

import fcntl
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run_module, tree_digest

from builders.demos import mimic_cxr as demo_mimic
from medgpt.errors import UserError
from shards.reader import Build

NAME = "mimic_cxr.longitudinal"


def command(raw: Path, out: Path, *more: str) -> list[str]:
    return [
        "builders.mimic_cxr",
        "--longitudinal",
        "--raw",
        str(raw),
        "--out",
        str(out),
        "--shard-bytes",
        "3000000",
        *more,
    ]


def build(raw: Path, out: Path, *more: str, expect: int = 0) -> dict[str, Any]:
    done = run_module(*command(raw, out, "--json", *more))
    assert done.returncode == expect, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    demo_mimic.write(folder, subjects=120)  # some seconds of work: kills must find it unfinished
    return folder


@pytest.fixture(scope="module")
def reference(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted build by one worker."""
    out = tmp_path_factory.mktemp("reference")
    build(raw, out, "--workers", "1")
    return out


@pytest.mark.parametrize("workers", ["2", "4"])
def test_any_number_of_workers_gives_the_same_bytes(raw: Path, reference: Path, tmp_path: Path, workers: str) -> None:
    build(raw, tmp_path, "--workers", workers)
    assert tree_digest(tmp_path / NAME) == tree_digest(reference / NAME)


def test_twenty_kills_and_resumes_give_the_same_bytes(raw: Path, reference: Path, tmp_path: Path) -> None:
    chance = random.Random(20)
    for kill in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", *command(raw, tmp_path, "--quiet", "--workers", str(1 + kill % 3))],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(chance.uniform(0.2, 1.8))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if kill % 5 == 4:
            # Let it get further than any one delay allows, so that later kills meet finished units too.
            left = tmp_path / NAME / "shards" / "left-behind.tar.tmp"
            left.parent.mkdir(parents=True, exist_ok=True)  # on a busy machine no run came so far before it was killed
            left.write_bytes(b"unfinished")
    document = build(raw, tmp_path, "--workers", "2")
    assert document["units"] == len(json.loads((reference / NAME / "build.json").read_bytes())["units"])
    assert tree_digest(tmp_path / NAME) == tree_digest(reference / NAME)


def test_a_killed_worker_costs_its_unit_a_second_start(raw: Path, reference: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", *command(raw, tmp_path, "--quiet", "--workers", "2")],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    deadline = time.monotonic() + 60
    worker = None
    while worker is None and time.monotonic() < deadline:
        listed = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True
        )
        worker = next((int(line.split()[0]) for line in listed.stdout.splitlines() if "spawn_main" in line), None)
    assert worker is not None
    os.kill(worker, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert tree_digest(tmp_path / NAME) == tree_digest(reference / NAME)


def test_the_tree_depends_on_content_not_on_place_or_time(reference: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "some where else"
    demo_mimic.write(elsewhere, subjects=120)
    for path in elsewhere.rglob("*"):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    build(elsewhere, tmp_path / "out", "--workers", "2")
    assert tree_digest(tmp_path / "out" / NAME) == tree_digest(reference / NAME)


def test_a_second_run_does_nothing_and_a_changed_file_rebuilds_its_unit(
    raw: Path, reference: Path, tmp_path: Path
) -> None:
    mine, out = tmp_path / "raw", tmp_path / "out"
    shutil.copytree(raw, mine)
    first = build(mine, out)
    times = {path: path.stat().st_mtime_ns for path in (out / NAME).rglob("*")}
    again = build(mine, out)
    assert again["units_reused"] == again["units"] == first["units"]
    assert {path: path.stat().st_mtime_ns for path in (out / NAME).rglob("*")} == times
    image = next((mine / "mimic-cxr-jpg" / "files").rglob("*.jpg"))
    os.utime(image)
    touched = build(mine, out)
    assert touched["units_reused"] == touched["units"] - 1
    assert tree_digest(out / NAME) == tree_digest(reference / NAME)
    # A lost shard is made again; a stray file of an older plan goes.
    victim = sorted((out / NAME / "shards").iterdir())[0]
    victim.unlink()
    (out / NAME / "shards" / "mimic_cxr-train-09999-00000.tar").write_bytes(b"old")
    build(mine, out)
    assert tree_digest(out / NAME) == tree_digest(reference / NAME)


def test_every_row_is_accounted_for_by_a_direct_count(raw: Path, reference: Path) -> None:
    """Studies counted straight from the CSV against kept + rejected, and samples against the Parquet rows."""
    import csv

    with gzip.open(raw / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-split.csv.gz", "rt") as file:
        studies = {(row["split"], row["subject_id"], row["study_id"]) for row in csv.DictReader(file)}
    document = json.loads((reference / NAME / "build.json").read_bytes())
    read = {split: counts["read"] for split, counts in document["counts"]["by_split"].items()}
    assert read == Counter(split for split, _, _ in studies)
    assert document["counts"]["read"] >= 300
    kept = sum(pq.read_metadata(p).num_rows for p in (reference / NAME / "manifest").glob("*[0-9].parquet"))
    rejected = sum(pq.read_metadata(p).num_rows for p in (reference / NAME / "rejects").iterdir())
    assert (kept, rejected) == (document["counts"]["kept"], document["counts"]["rejected"])
    assert kept + rejected == len(studies)


def test_damaged_rows_are_rejected_named_and_counted(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    demo_mimic.write(raw, subjects=40, damaged=True)
    document = build(raw, out, "--workers", "2", expect=3)
    counts = document["counts"]
    assert counts["kept"] + counts["rejected"] == counts["read"]
    assert {
        "truncated_image", "empty_file", "corrupt_image", "missing_image", "missing_report", "bad_row",
        "duplicate_id", "not_utf8", "no_findings",
    } <= set(counts["rejects"])  # fmt: skip
    rows = [row for path in (out / NAME / "rejects").iterdir() for row in pq.read_table(path).to_pylist()]
    assert len(rows) == counts["rejected"]
    assert sum(row["damaged"] for row in rows) == counts["damaged"] > 0
    for row in rows:
        assert row["file"] and row["row"] and row["reason"]
    # The human summary says it too; no report text is in any of it.
    shown = run_module(*command(raw, out))
    assert shown.returncode == 3
    assert "truncated_image" in shown.stdout and f"damaged rows: {counts['damaged']}" in shown.stdout
    assert "pleural" not in shown.stdout + shown.stderr + json.dumps(rows)


def test_the_budget_of_damaged_rows_stops_the_build(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    demo_mimic.write(raw, subjects=40, damaged=True)
    done = run_module(*command(raw, out, "--max-damaged", "1", "--quiet"))
    assert done.returncode == 1
    assert "budget of 1" in done.stderr and "--max-damaged" in done.stderr
    assert not (out / NAME / "build.json").exists()
    build(raw, out, "--max-damaged", "1000", expect=3)


@pytest.mark.parametrize("broken", ["empty", "no_split", "other_columns", "bad_gzip", "missing"])
def test_another_tree_is_refused_with_one_line(raw: Path, tmp_path: Path, broken: str) -> None:
    folder = tmp_path / "raw"
    if broken != "missing":
        folder.mkdir()
    if broken not in ("empty", "missing"):
        shutil.copytree(raw / "mimic-cxr-jpg", folder / "mimic-cxr-jpg", ignore=shutil.ignore_patterns("files"))
        (folder / "mimic-cxr" / "files").mkdir(parents=True)
        split = folder / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-split.csv.gz"
        if broken == "no_split":
            split.unlink()
        elif broken == "bad_gzip":
            split.write_bytes(split.read_bytes()[:50])
        else:
            split.unlink()
            split.with_suffix("").write_text("a,b\n1,2\n")
    done = run_module(*command(folder, tmp_path / "out"))
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out" / NAME).exists()


def test_limit_is_a_trial_and_never_replaces_a_full_build(raw: Path, reference: Path, tmp_path: Path) -> None:
    document = build(raw, tmp_path, "--limit", "7")
    assert {split: c["read"] for split, c in document["counts"]["by_split"].items()} == dict.fromkeys(
        ("train", "validate", "test"), 7
    )
    full = build(raw, tmp_path)
    assert full["counts"]["read"] > 21
    assert tree_digest(tmp_path / NAME) == tree_digest(reference / NAME)
    for option in (["--limit", "7"], ["--no-images"]):
        done = run_module(*command(raw, tmp_path, *option))
        assert done.returncode == 1
        assert "choose another --out" in done.stderr
    assert tree_digest(tmp_path / NAME) == tree_digest(reference / NAME)


def test_two_builders_of_one_build_do_not_meet(raw: Path, tmp_path: Path) -> None:
    lock = tmp_path / ".resume" / NAME / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        done = run_module(*command(raw, tmp_path))
    assert done.returncode == 1
    assert "another process" in done.stderr


def test_columns_are_read_by_name_and_further_ones_ignored(raw: Path, reference: Path, tmp_path: Path) -> None:
    """CSV files of another release: other column order, extra columns, a byte order mark, not gzipped."""
    mine = tmp_path / "raw"
    shutil.copytree(raw, mine)
    for name in ("metadata", "split"):
        path = mine / "mimic-cxr-jpg" / f"mimic-cxr-2.0.0-{name}.csv.gz"
        rows = [line.split(",") for line in gzip.decompress(path.read_bytes()).decode().splitlines()]
        turned = [[*row[::-1], "extra"] for row in rows]
        path.unlink()
        path.with_suffix("").write_text("\ufeff" + "".join(",".join(row) + "\r\n" for row in turned), newline="")
    build(mine, tmp_path / "out")
    found, expected = (tree_digest(folder / NAME) for folder in (tmp_path / "out", reference))
    # Other raw files, the same samples: the root does not cover what stands beside it.
    assert {name for name in found if found[name] != expected[name]} == {"build.json", "inputs.parquet"}
    assert (
        len(
            {
                json.loads((folder / NAME / "build.json").read_bytes())["root"]
                for folder in (tmp_path / "out", reference)
            }
        )
        == 1
    )


def test_swapped_columns_are_rejected_row_by_row(raw: Path, tmp_path: Path) -> None:
    mine = tmp_path / "raw"
    shutil.copytree(raw, mine)
    path = mine / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-metadata.csv.gz"
    lines = gzip.decompress(path.read_bytes()).decode().splitlines()
    cells = lines[1].split(",")
    cells[1], cells[2] = cells[2], cells[1]
    path.write_bytes(gzip.compress("\n".join([lines[0], ",".join(cells), *lines[2:]]).encode()))
    counts = build(mine, tmp_path / "out", "--no-images", expect=3)["counts"]
    assert counts["rejects"]["bad_id"] == 1
    assert counts["kept"] + counts["rejected"] == counts["read"]


def test_dry_run_writes_nothing(raw: Path, tmp_path: Path) -> None:
    done = run_module(*command(raw, tmp_path / "out", "--dry-run"))
    assert done.returncode == 0
    assert "nothing written" in done.stdout
    assert not (tmp_path / "out").exists()


def test_one_split_is_a_build_of_its_own(raw: Path, tmp_path: Path) -> None:
    document = build(raw, tmp_path, "--split", "test")
    assert document["build"] == f"{NAME}-test"
    assert set(document["counts"]["by_split"]) == {"test"}


def test_metadata_only_build_has_ids_and_no_pixels(raw: Path, reference: Path, tmp_path: Path) -> None:
    pictureless = tmp_path / "raw"
    shutil.copytree(raw, pictureless, ignore=shutil.ignore_patterns("*.jpg"))
    document = build(pictureless, tmp_path / "out", "--no-images")
    assert document["metadata_only"]
    images, full = (
        [row for path in (out / NAME / "images").glob("*.parquet") for row in pq.read_table(path).to_pylist()]
        for out in (tmp_path / "out", reference)
    )
    assert {row["image_id"] for row in images} == {row["image_id"] for row in full}
    assert all(row["sha256"] is None and row["phash"] is None for row in images)
    assert list((reference / NAME / "thumbnails").iterdir())
    assert not list((tmp_path / "out" / NAME / "thumbnails").iterdir())
    with pytest.raises(UserError, match="metadata-only"):
        Build(tmp_path / "out" / NAME)
    opened = Build(tmp_path / "out" / NAME, allow_metadata_only=True)
    assert len(opened) == document["counts"]["kept"]
    assert opened[0].images == []
    assert opened[0].record["metadata_only"] is True
