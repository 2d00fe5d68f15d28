"""The publishers' own rows, built and audited: every leak that `data/README.md` states is found, as plain integers."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import run_module

from manifests.proof.certificate import read_certificate

BUILDS = (
    ("pubmedqa", "pubmedqa", []),
    ("pubmedqa", "pubmedqa", ["--paper-variant"]),
    ("slake", "slake", ["--no-images"]),
    ("slake", "slake", ["--no-images", "--paper-variant"]),
    ("vqa_rad", "vqa_rad", ["--no-images"]),
    ("medqa", "medqa_usmle_4_options", []),
    ("medquad", "medquad", []),
)


def need(folder: Path) -> Path:
    if not folder.exists():
        pytest.skip(f"no real rows at {folder}")
    return folder


@pytest.fixture(scope="module")
def built(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The builds above."""
    out = tmp_path_factory.mktemp("real")
    for source, folder, options in BUILDS:
        raw = str(need(real_data / folder))
        done = run_module(f"builders.{source}", "--raw", raw, "--out", str(out), "--quiet", "--workers", "1", *options)
        assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="module")
def audits(built: Path) -> dict[str, list[dict[str, Any]]]:
    """Rows of every audit over the builds above, through the command line."""
    done = run_module("manifests.sql", str(built), "--audit", "all", "--json")
    assert done.returncode == 1, done.stderr
    report = json.loads(done.stdout)
    assert report["clean"] is False
    return {audit["name"]: audit["rows"] for audit in report["audits"]}


def overlap(rows: list[dict[str, Any]], kind: str, train: str, test: str, subset: str = "all") -> dict[str, Any] | None:
    found = [
        row
        for row in rows
        if (row["kind"], row["train_build"], row["eval_build"], row["eval_split"], row["eval_subset"])
        == (kind, train, test, "test", subset)
    ]
    assert len(found) <= 1
    return found[0] if found else None


def test_pubmedqa_paper_variant_holds_500_of_500_test_ids(audits: dict[str, list[dict[str, Any]]]) -> None:
    for test in ("pubmedqa", "pubmedqa.paper"):
        row = overlap(audits["id_overlap"], "pmid", "pubmedqa.paper", test)
        assert row is not None
        assert (row["eval_ids_hit"], row["eval_ids_total"]) == (500, 500)
        assert (row["train_rows_hit"], row["train_rows_total"]) == (500, 1000)
    assert overlap(audits["id_overlap"], "pmid", "pubmedqa", "pubmedqa") is None


def test_slake_paper_variant_shows_607_of_836_and_english_none(audits: dict[str, list[dict[str, Any]]]) -> None:
    row = overlap(audits["id_overlap"], "image_id", "slake.paper", "slake.paper", "closed")
    assert row is not None
    assert (row["eval_rows_hit"], row["eval_rows_total"]) == (607, 836)
    assert [r for r in audits["id_overlap"] if (r["train_build"], r["eval_build"]) == ("slake", "slake")] == []


def test_vqa_rad_shows_203_of_203_test_images(audits: dict[str, list[dict[str, Any]]]) -> None:
    row = overlap(audits["id_overlap"], "image_id", "vqa_rad", "vqa_rad")
    assert row is not None
    assert (row["eval_ids_hit"], row["eval_ids_total"]) == (203, 203)


def test_every_row_is_accounted_for_and_every_licence_is_known(audits: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("row_accounting", "licences", "duplicate_ids", "prior_of_other_subject"):
        assert audits[name] == [], name


def test_no_test_question_of_pubmedqa_is_trained_on_by_text_either(audits: dict[str, list[dict[str, Any]]]) -> None:
    rows = [(r["train_build"], r["eval_build"], r["eval_items_hit"]) for r in audits["exact_text_overlap"]]
    assert {row for row in rows if row[0].startswith("pubmedqa")} == {
        ("pubmedqa.paper", "pubmedqa", 500),
        ("pubmedqa.paper", "pubmedqa.paper", 500),
    }


def test_the_proof_shows_every_known_truth(built: Path) -> None:
    """PubMedQA, SLAKE and VQA-RAD as the publishers' rows say; the defaults are clean after exclusions."""
    done = run_module("manifests.prove", str(built), "--benchmarks", "present", "--no-rewrites", "--quiet")
    assert done.returncode == 4, done.stderr  # of three sources the pictures are not here
    assert "not compared: eval slake: picture (all), 2,114 (no pixels in this build)" in done.stdout
    certificate = read_certificate(built / "proof")
    cells = {
        (row["train_build"], row["eval_build"], row["eval_split"], row["level"], row["kind"]): row
        for row in certificate["matrix"]
    }
    for test in ("pubmedqa", "pubmedqa.paper"):
        for level, kind in (("id", "pmid"), ("exact_text", "stem_options")):
            row = cells["pubmedqa.paper", test, "test", level, kind]
            assert (row["eval_samples"], row["train_samples"], row["action"]) == (500, 500, "exclude")
        assert ("pubmedqa", test, "test", "id", "pmid") not in cells
    closed = [
        (row["eval_samples"], row["of_eval_samples"])
        for row in certificate["subsets"]
        if (row["train_build"], row["eval_build"], row["eval_split"], row["eval_subset"], row["kind"])
        == ("slake.paper", "slake.paper", "test", "closed", "image_id")
    ]
    assert closed == [(607, 836)]
    assert not [cell for cell in cells if cell[:2] == ("slake", "slake")]
    evidence = pq.read_table(built / "proof" / "evidence.parquet", filters=[("kind", "=", "image_id")]).to_pylist()
    shared = {row["value"] for row in evidence if row["train_build"] == row["eval_build"] == "vqa_rad"}
    assert len(shared) == 203
    assert certificate["clean"]
    assert {row["train_build"]: row["train_samples"] for row in certificate["exclusions"]}["pubmedqa.paper"] >= 500


def test_one_person_under_two_subject_ids_is_found_by_pictures_alone(real_data: Path, tmp_path: Path) -> None:
    """Every confirmed pair is the one person that was published twice, as a list made elsewhere says."""
    raw = need(real_data / "cxr_mimic_layout")
    done = run_module("builders.mimic_cxr", "--longitudinal", "--raw", str(raw), "--out", str(tmp_path), "--quiet")
    assert done.returncode == 0, done.stderr
    done = run_module("manifests.prove", str(tmp_path), "--benchmarks", "present", "--no-rewrites", "--quiet")
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "proof" / "evidence.parquet").to_pylist()
    assert {row["level"] for row in rows if row["action"] == "exclude"} == {"near_image"}
    [images] = [
        {(row["sample_id"], row["index"]): row for path in tmp_path.glob("*/images/*.parquet") for row in
         pq.read_table(path, columns=["sample_id", "index", "subject_id", "image_id"]).to_pylist()}
    ]  # fmt: skip
    near = [
        (images[row["train_sample"], row["train_index"]], images[row["eval_sample"], row["eval_index"]])
        for row in rows
        if row["level"] == "near_image"
    ]
    persons = {(train["subject_id"], test["subject_id"]) for train, test in near}
    assert len(persons) == 1
    assert len({(train["image_id"], test["image_id"]) for train, test in near}) == 4
    with (raw / "provenance.csv").open() as file:
        origin = {row["dicom_id"]: row for row in csv.DictReader(file)}
    for train, test in near:
        # Two publications of one series: the same day of the case on both sides.
        first, second = (origin[one["image_id"].partition("/")[2]] for one in (train, test))
        assert first["patientid"] != second["patientid"]
        assert first["offset"] == second["offset"]
    done = run_module("manifests.verify", str(tmp_path), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr


def test_radiographs_in_the_mimic_layout(real_data: Path, tmp_path: Path) -> None:
    """Counts against the CSVs read here, the byte-identical pair against digests made here."""
    raw = need(real_data / "cxr_mimic_layout")
    out = str(tmp_path)
    arguments = ["--longitudinal", "--raw", str(raw), "--out", out, "--json"]
    done = run_module("builders.mimic_cxr", *arguments)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)["counts"]
    with gzip.open(raw / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-split.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    studies = {(row["split"], row["study_id"]) for row in rows}
    assert {split: c["read"] for split, c in counts["by_split"].items()} == Counter(split for split, _ in studies)
    assert counts["kept"] + counts["rejected"] == counts["read"] == 117

    by_digest: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        folder = f"p{row['subject_id'][:2]}/p{row['subject_id']}/s{row['study_id']}"
        data = (raw / "mimic-cxr-jpg" / "files" / folder / f"{row['dicom_id']}.jpg").read_bytes()
        by_digest[hashlib.sha256(data).hexdigest()].append(f"mimic-cxr/{row['dicom_id']}")
    [twins] = [sorted(ids) for ids in by_digest.values() if len(ids) > 1]
    audit = run_module("manifests.sql", out, "--audit", "all", "--json")
    found = {entry["name"]: entry["rows"] for entry in json.loads(audit.stdout)["audits"]}
    assert [sorted((row["image_id_a"], row["image_id_b"])) for row in found["duplicate_images"]] == [twins]
    for name in ("row_accounting", "subject_crossing_splits", "prior_of_other_subject", "id_overlap"):
        assert found[name] == [], name
    verified = run_module("shards.verify", out)
    assert verified.returncode == 0, verified.stderr
