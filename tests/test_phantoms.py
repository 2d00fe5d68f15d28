"""Phantoms: the same picture everywhere, picture and report agree, and the planted leaks are what they claim."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import subprocess
import sys
from collections import defaultdict
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, tree_digest
from PIL import Image

from bench.phantom_trees import questions
from builders.demos import mimic_cxr as demo_mimic
from builders.demos.phantom_pictures import render
from builders.demos.phantom_reports import course, describe, resolved
from builders.demos.phantoms import Device, Finding, Phantom, View, anatomy, follow_up, make
from builders.engine.mimic_reports import parse_sections
from manifests.fingerprints import fingerprint
from medgpt.pictures import to_store


def pixels(phantom: Phantom) -> np.ndarray:
    return np.asarray(render(phantom, 256), dtype=np.int32)


def test_a_fresh_process_draws_the_same_bytes() -> None:
    code = (
        "import hashlib; from dataclasses import replace\n"
        "from builders.demos.phantom_pictures import jpeg; from builders.demos.phantoms import make\n"
        "print(hashlib.sha256(b''.join(jpeg(replace(make(s), view=v), 200) for s in range(3)"
        " for v in ('PA', 'AP', 'LATERAL'))).hexdigest())"
    )
    runs = {
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len(runs) == 1


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    ("kind", "brighter", "rows"),
    [("effusion", True, (0.45, 0.75)), ("pneumothorax", False, (0.1, 0.4)), ("consolidation", True, (0.3, 0.6))],
)
def test_a_finding_shows_on_its_side(side: str, kind: str, brighter: bool, rows: tuple[float, float]) -> None:
    """Against the same exposure without it: the patient's left is on the picture's right."""
    zone = "middle" if kind == "consolidation" else None
    for seed in range(4):
        bare = Phantom(anatomy(seed), "PA", seed)
        change = pixels(replace(bare, findings=(Finding(kind, side, 3, zone),))) - pixels(bare)  # type: ignore[arg-type]
        height, width = change.shape
        band = change[int(rows[0] * height) : int(rows[1] * height)]
        left, right = band[:, width // 2 :].mean(), band[:, : width // 2].mean()
        own, other = (left, right) if side == "left" else (right, left)
        assert own > 1 if brighter else own < -1, (seed, own, other)
        assert abs(other) < abs(own) / 4


def test_an_effusion_fills_the_sulcus_behind_in_the_lateral_view() -> None:
    bare = Phantom(anatomy(1), "LATERAL", 1)
    change = pixels(replace(bare, findings=(Finding("effusion", "left", 2),))) - pixels(bare)
    height, width = change.shape
    low = change[int(0.45 * height) : int(0.75 * height)]
    assert low[:, width // 2 :].mean() > 2
    assert abs(change[: int(0.3 * height)].mean()) < 0.1


def test_a_larger_grade_is_a_larger_change() -> None:
    bare = Phantom(anatomy(2), "PA", 2)
    for kind in ("effusion", "pneumothorax", "consolidation", "cardiomegaly", "edema"):
        sided = {"side": "right"} if kind in ("effusion", "pneumothorax", "consolidation") else {}
        zoned = {"zone": "lower"} if kind == "consolidation" else {}
        shown = [Finding(kind, grade=grade, **sided, **zoned) for grade in (1, 2, 3)]  # type: ignore[arg-type]
        changes = [np.abs(pixels(replace(bare, findings=(finding,))) - pixels(bare)).sum() for finding in shown]
        assert changes == sorted(changes), kind


@pytest.mark.parametrize("mm", [8, 16, 28])
def test_a_nodule_has_its_size(mm: int) -> None:
    """The picture's longer side stands for 43 cm, magnified by 5 % at most."""
    bare = Phantom(anatomy(4), "PA", 4)
    nodule = Finding("nodule", "right", zone="middle", mm=mm)
    change = np.asarray(render(replace(bare, findings=(nodule,)), 512), int) - np.asarray(render(bare, 512), int)
    columns = np.flatnonzero((change > 25).any(axis=0))
    shown = (columns[-1] - columns[0] + 1) * 430 / 512
    assert shown == pytest.approx(mm, rel=0.1, abs=1.7)


@pytest.mark.parametrize("view", ["PA", "LATERAL"])
def test_devices_are_drawn(view: View) -> None:
    bare = Phantom(anatomy(5), view, 5)
    for device in (
        Device("endotracheal tube", tip_mm=40),
        Device("pacemaker", "left"),
        Device("central line", "right"),
        Device("sternotomy wires"),
    ):
        change = pixels(replace(bare, devices=(device,))) - pixels(bare)
        assert (change > 20).sum() > 20, device


def test_reports_state_what_is_drawn() -> None:
    for seed in range(60):
        phantom = make(seed)
        text = describe(phantom)["FINDINGS"]
        for finding in phantom.findings:
            assert finding.size in text
            assert finding.side is None or finding.side in text
        for device in phantom.devices:
            assert device.kind.split()[-1] in text.lower()
        assert ("pneumothorax" in text.lower().split("no ")[-1]) or any(
            f.kind == "pneumothorax" for f in phantom.findings
        )
        answers = {question: answer for question, answer, _ in questions(phantom)}
        assert answers["Is there a pneumothorax?"] == (
            "Yes" if any(f.kind == "pneumothorax" for f in phantom.findings) else "No"
        )


def test_progression_is_stated() -> None:
    courses = set()
    for seed in range(80):
        before = make(seed)
        after = follow_up(before, 10_000 + seed)
        text = describe(after, before)["FINDINGS"]
        for finding in after.findings:
            change = course(finding, before)
            courses.add(change)
            assert ("new since" if change == "new" else f"{change} compared") in text
        assert text.count("has resolved") == len(resolved(after, before))
    assert courses == {"new", "increased", "decreased", "unchanged"}


def test_what_cannot_be_described_cannot_be_made() -> None:
    for wrong in (
        lambda: Finding("effusion"),
        lambda: Finding("nodule", "left", zone="upper"),
        lambda: Finding("edema", "left"),
        lambda: Finding("effusion", "left", 4),
        lambda: Device("pacemaker"),
        lambda: Phantom(anatomy(1), "PA", 1, (Finding("effusion", "left"), Finding("effusion", "bilateral"))),
    ):
        with pytest.raises(ValueError, match=r"not a describable|listed twice"):
            wrong()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    demo_mimic.write(folder)
    return folder


def rows(tree: Path, name: str) -> list[dict[str, str]]:
    with gzip.open(tree / "mimic-cxr-jpg" / f"mimic-cxr-2.0.0-{name}.csv.gz", "rt") as file:
        return list(csv.DictReader(file))


def test_the_tree_is_a_mimic_tree(tree: Path) -> None:
    metadata, split = rows(tree, "metadata"), rows(tree, "split")
    assert len({row["study_id"] for row in metadata}) >= 120
    assert [row["dicom_id"] for row in metadata] == [row["dicom_id"] for row in split]
    assert {row["split"] for row in split} == {"train", "validate", "test"}
    for row in metadata:
        folder = f"p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}"
        data = (tree / "mimic-cxr-jpg" / "files" / folder / f"{row['dicom_id']}.jpg").read_bytes()
        assert Image.open(io.BytesIO(data)).size == (int(row["Columns"]), int(row["Rows"]))
        assert "impression" in parse_sections((tree / "mimic-cxr" / "files" / f"{folder}.txt").read_text())
        if row["StudyTime"]:
            datetime.strptime(f"{row['StudyDate']} {float(row['StudyTime']):010.3f}", "%Y%m%d %H%M%S.%f")  # noqa: DTZ007
    assert any(row["StudyTime"] == "" for row in metadata)
    assert {row["ViewPosition"] for row in metadata} == {"PA", "AP", "LATERAL", ""}


def test_studies_of_one_day_are_told_apart_by_their_times(tree: Path) -> None:
    """Study ids rise with time in this tree, so the order by time must be that of the ids."""
    days: dict[tuple[str, str], set[tuple[str, str]]] = defaultdict(set)
    for row in rows(tree, "metadata"):
        days[row["subject_id"], row["StudyDate"]].add((row["study_id"], row["StudyTime"]))
    pairs = [sorted(studies) for studies in days.values() if len(studies) > 1]
    assert len(pairs) >= 5
    for pair in pairs:
        times = [float(time) for _, time in pair]
        assert times == sorted(set(times))


def test_the_tree_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        demo_mimic.write(tmp_path / name, subjects=10)
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    times = {path.stat().st_mtime for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert len(times) == 1


def test_planted_leaks_are_what_they_claim(tree: Path) -> None:
    sides: dict[str, set[str]] = defaultdict(set)
    by_bytes: dict[str, set[tuple[str, str]]] = defaultdict(set)
    by_pixels: dict[bytes, set[tuple[str, str]]] = defaultdict(set)
    hashes: dict[str, list[int]] = defaultdict(list)
    for row in rows(tree, "split"):
        sides[row["subject_id"]].add(row["split"])
        folder = f"p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}"
        data = (tree / "mimic-cxr-jpg" / "files" / folder / f"{row['dicom_id']}.jpg").read_bytes()
        side = "train" if row["split"] == "train" else "eval"
        by_bytes[hashlib.sha256(data).hexdigest()].add((side, row["dicom_id"]))
        found = fingerprint(to_store(data).data)
        by_pixels[found.pixel_sha256].add((side, row["dicom_id"]))
        hashes[side].append(found.phash)
    assert {subject for subject, found in sides.items() if len(found) > 1} == {str(demo_mimic.CROSSING)}
    twins = [{side for side, _ in group} for group in by_bytes.values() if len(group) > 1]
    assert sorted(map(sorted, twins)) == [["eval", "train"], ["train"]]
    both = [group for group in by_pixels.values() if {side for side, _ in group} == {"train", "eval"}]
    assert len(both) == 2
    # The re-encoded copy lies within the near radius of a train picture but is neither of the above.
    exact = {found for group in both for found in group}
    assert len(exact) == 4
    near = sum(min((a ^ b).bit_count() for b in hashes["train"]) <= 4 for a in hashes["eval"])
    assert near >= 3
