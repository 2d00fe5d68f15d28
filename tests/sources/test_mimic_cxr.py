"""Study sets of MIMIC-CXR: views, priors, worked examples, checked on the demo tree against its own CSV files."""

from __future__ import annotations

import csv
import gzip
import json
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from conftest import call_module

from builders.demos import mimic_cxr as demo_mimic
from builders.mimic_cxr import EXEMPLAR_CANDIDATES, MAX_IMAGES, VIEW_RANK
from shards.reader import Build


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    demo_mimic.write(folder)
    return folder


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("out")


def build(raw: Path, out: Path, *options: str) -> tuple[Build, dict[str, Any]]:
    done = call_module("builders.mimic_cxr", "--raw", str(raw), "--out", str(out), "--json", *options)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    return Build(summary["target"]), summary


def studies(raw: Path) -> dict[str, dict[str, Any]]:
    """Studies straight from the CSV files: subject, time, views by image."""
    found: dict[str, dict[str, Any]] = {}
    views = {"postero-anterior": "PA", "antero-posterior": "AP", "lateral": "LATERAL"}
    with gzip.open(raw / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-metadata.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            study = found.setdefault(row["study_id"], {"subject": row["subject_id"], "images": {}})
            time = f"{float(row['StudyTime']):010.3f}" if row["StudyTime"] else ""
            study["when"] = (row["StudyDate"], time, row["study_id"])
            study["images"][row["dicom_id"]] = row["ViewPosition"] or views[row["ViewCodeSequence_CodeMeaning"]]
    with gzip.open(raw / "mimic-cxr-jpg" / "mimic-cxr-2.0.0-split.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            found[row["study_id"]]["split"] = row["split"]
    return found


def bare(value: str) -> str:
    return value.removeprefix("mimic-cxr/")


def test_longitudinal_sets_show_the_current_study_then_the_most_recent_earlier_one(raw: Path, out: Path) -> None:
    opened, summary = build(raw, out, "--longitudinal")
    known = studies(raw)
    by_subject = defaultdict(list)
    for study_id, study in known.items():
        by_subject[study["subject"], study["split"]].append((study["when"], study_id))
    with_prior = 0
    for sample in opened:
        record = sample.record
        study_id = bare(record["group"]["study_id"])
        study = known[study_id]
        earlier = [s for when, s in sorted(by_subject[study["subject"], study["split"]]) if when < study["when"]]
        expected = [
            ("current", image) for image in sorted(study["images"], key=lambda i: VIEW_RANK.index(study["images"][i]))
        ]
        if earlier:
            before = known[earlier[-1]]["images"]
            expected += [("prior", image) for image in sorted(before, key=lambda i: VIEW_RANK.index(before[i]))]
            assert bare(record["group"]["prior_study_id"]) == earlier[-1]
            with_prior += 1
        else:
            assert record["group"]["prior_study_id"] is None
        shown = [(image["relation"], bare(image["image_id"])) for image in record["images"]]
        assert shown == expected and len(shown) <= MAX_IMAGES
        assert {bare(image["subject_id"]) for image in record["images"]} == {study["subject"]}
        indexes = [p["index"] for p in record["messages"][0]["content"] if p["type"] == "image"]
        assert indexes == list(range(len(shown)))
    shares = {split: c["prior_share"] for split, c in summary["counts"]["by_split"].items()}
    assert with_prior and all(0 < share < 1 for share in shares.values())


def test_the_answer_is_never_in_the_prompt(raw: Path, out: Path) -> None:
    for options in (["--longitudinal"], ["--task", "impression"], ["--longitudinal", "--task", "impression"]):
        opened, _ = build(raw, out, *options)
        for sample in opened:
            prompt = " ".join(p["text"] or "" for p in sample.record["messages"][0]["content"])
            assert sample.record["answer"] not in prompt
            assert "There is" not in prompt and "heart size" not in prompt


def test_single_images_are_the_best_view(raw: Path, out: Path) -> None:
    opened, summary = build(raw, out)
    known = studies(raw)
    for sample in opened:
        [image] = sample.record["images"]
        views = known[bare(sample.record["group"]["study_id"])]["images"]
        assert views[bare(image["image_id"])] == min(views.values(), key=VIEW_RANK.index)
    assert summary["counts"]["read"] == len(known)


def test_libra_pairs_each_frontal_image_with_the_previous_date(raw: Path, out: Path) -> None:
    opened, summary = build(raw, out, "--prior-policy", "libra")
    known = studies(raw)
    assert summary["counts"]["read"] == sum(len(study["images"]) for study in known.values())
    for sample in opened:
        now, then = sample.record["images"]
        study = known[bare(now["study_id"])]
        assert study["images"][bare(now["image_id"])] in ("PA", "AP")
        if sample.record["group"]["prior_study_id"]:
            assert known[bare(then["study_id"])]["when"][0] < study["when"][0]
        else:
            assert then["image_id"] == now["image_id"]


def test_one_shot_shows_a_training_study_of_another_subject(raw: Path, out: Path) -> None:
    opened, _ = build(raw, out, "--task", "impression", "--shots", "1")
    plain, _ = build(raw, out, "--task", "impression")
    known = studies(raw)
    answers = {sample.record["id"]: sample for sample in plain}
    counted = 0
    for sample in opened:
        record, without = sample.record, answers[sample.record["id"]]
        if record["role"] == "train":
            assert record == without.record
            continue
        counted += 1
        example = [image for image in record["images"] if image["relation"] == "exemplar"]
        assert example and [m["role"] for m in record["messages"]] == ["user", "assistant"] * 2
        assert {known[bare(image["study_id"])]["split"] for image in example} == {"train"}
        assert {bare(image["subject_id"]) for image in example}.isdisjoint({bare(record["group"]["subject_id"])})
        assert record["answer"] == without.record["answer"]
        assert sample.images[len(example) :] == without.images
        shown = [p["index"] for m in record["messages"] for p in m["content"] if p["type"] == "image"]
        assert shown == list(range(len(record["images"])))
    assert counted > 20 and EXEMPLAR_CANDIDATES > 1
    # The worked examples are training studies by intention: the audits do not call them leaks.
    done = call_module("manifests.sql", str(out / "mimic_cxr.impression-1shot"), "--audit", "id_overlap", "--json")
    kinds = {(row["kind"], row["eval_ids_hit"]) for row in json.loads(done.stdout)["audits"][0]["rows"]}
    assert kinds == {("subject_id", 1)}


def test_reports_in_the_publishers_zip_give_the_same_samples(raw: Path, out: Path, tmp_path: Path) -> None:
    opened, _ = build(raw, out, "--longitudinal")
    zipped = tmp_path / "raw"
    zipped.mkdir()
    (zipped / "mimic-cxr-jpg").symlink_to(raw / "mimic-cxr-jpg")
    (zipped / "mimic-cxr").mkdir()
    with zipfile.ZipFile(zipped / "mimic-cxr" / "mimic-cxr-reports.zip", "w") as archive:
        for path in sorted((raw / "mimic-cxr" / "files").rglob("*.txt")):
            archive.write(path, path.relative_to(raw / "mimic-cxr").as_posix())
    again, _ = build(zipped, tmp_path / "out", "--longitudinal")
    for mine, theirs in zip(again, opened, strict=True):
        assert mine.record | {"provenance": None} == theirs.record | {"provenance": None}
        assert mine.record["provenance"]["file"].startswith("mimic-cxr/mimic-cxr-reports.zip!files/p10/")
