"""MIMIC-CXR-VQA, and what GEMeX-ThinkVG shares with it: the official split decides. All of MIMIC is made up."""

from __future__ import annotations

import gzip
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import kept, parameters, read_all, reasons, source_of
from picture_trees import SPLIT_FILE, Outcome, by_key, said, subject

from builders.demos.radiographs import OFFICIAL, demo_radiograph
from builders.engine.mimic_pictures import ROWS_WITH_PICTURES
from builders.engine.source import InputError, NotThisSource, Reject, Sample


def test_vqa_drops_training_rows_of_official_test_and_validate_subjects(demos: dict[str, Path]) -> None:
    outcomes = read_all("mimic_cxr_vqa", demos["mimic_cxr_vqa"])
    assert {subject(sample) for sample in kept(outcomes["train"])} == {
        f"mimic-cxr/1000000{number}" for number in (0, 2)
    }
    dropped = [outcome for outcome in outcomes["train"] if isinstance(outcome, Reject)]
    assert {reject.detail for reject in dropped if reject.reason == "subject_of_test_split"} == {
        "subject 10000003",
        "subject 10000005",
    }
    assert "mimic-cxr/10000011" in {subject(sample) for sample in kept(outcomes["test"])}, "evaluation rows stay"


def test_vqa_paper_variant_trains_on_train_and_valid_and_keeps_every_row(demos: dict[str, Path]) -> None:
    source, raw = source_of("mimic_cxr_vqa"), demos["mimic_cxr_vqa"]
    params = parameters(source, paper_variant=True)
    assert source.build_name(params) == "mimic_cxr_vqa.paper"
    roles = {unit.split: unit.role for unit in source.plan(raw, params)}
    assert roles == {"train": "train", "valid": "train", "test": "eval"}
    outcomes = read_all("mimic_cxr_vqa", raw, paper_variant=True)
    assert {split: len(kept(found)) for split, found in outcomes.items()} == {"train": 9, "valid": 3, "test": 2}
    assert [sample.answer for sample in kept(outcomes["train"])][2:4] == ["none", "none"]
    assert {"mimic-cxr/10000003", "mimic-cxr/10000005"} <= {subject(sample) for sample in kept(outcomes["train"])}
    assert {subject(s) for s in kept(outcomes["train"])} & {subject(s) for s in kept(outcomes["valid"])}
    published = source.published(params)
    assert published["train"] + published["valid"] == 363_598


def test_vqa_sample(demos: dict[str, Path]) -> None:
    sample = by_key(read_all("mimic_cxr_vqa", demos["mimic_cxr_vqa"])["train"])["1"]
    picture = demo_radiograph(0)
    assert said(sample, 0) == f"{{mimic-cxr/{picture.dicom_id}}}Which regions show an abnormality?"
    assert said(sample, 1) == sample.answer == "left lower lung zone, left lung"
    assert (sample.subset, sample.options) == ("query", None)
    assert sample.group == {
        "subject_id": "mimic-cxr/10000000",
        "study_id": "mimic-cxr/58000000",
        "question_id": "mimic-cxr-vqa/train-1",
    }
    [image] = sample.images
    assert (image.file, image.subject_id) == (f"mimic-cxr-jpg/{picture.path}", "mimic-cxr/10000000")


def test_planted_subjects_follow_the_rule_of_the_mimic_demo() -> None:
    for number, split in OFFICIAL.items():
        assert split == ("test" if number % 8 == 3 else "validate" if number % 12 == 5 else "train")


@pytest.mark.parametrize("name", ["mimic_cxr_vqa", "gemex_thinkvg"])
def test_pictures_and_split_file_enter_the_unit_key(name: str, demos: dict[str, Path]) -> None:
    source = source_of(name)
    for unit in source.plan(demos[name], parameters(source, no_images=False)):
        assert SPLIT_FILE in unit.inputs
        pictures = [path for path in unit.inputs if path.endswith(".jpg")]
        assert pictures and all((demos[name] / path).is_file() for path in pictures)
        assert unit.rows <= ROWS_WITH_PICTURES
    assert not any(
        path.endswith(".jpg") for unit in source.plan(demos[name], parameters(source)) for path in unit.inputs
    )


@pytest.mark.parametrize("name", ["mimic_cxr_vqa", "gemex_thinkvg"])
def test_a_picture_that_is_not_there_is_found_missing_when_read(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
    (raw / "mimic-cxr-jpg" / demo_radiograph(0).path).unlink()
    sample = kept(read_all(name, raw, no_images=False)["train"])[0]
    with pytest.raises(InputError, match="missing_image"):
        sample.images[0].read()


@pytest.mark.parametrize("name", ["mimic_cxr_vqa", "gemex_thinkvg"])
def test_the_official_split_must_be_whole(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
    good = gzip.decompress((raw / SPLIT_FILE).read_bytes()).decode()
    packed = (raw / SPLIT_FILE).read_bytes()
    whole = read_all(name, raw)
    for data, message in (
        (gzip.compress(good.replace("subject_id", "patient").encode()), "no column subject_id"),
        (gzip.compress(good.replace(",validate", ",val").encode()), "line 6 is damaged"),
        (gzip.compress(good.replace("10000005", "1000000").encode()), "line 6 is damaged"),
        (gzip.compress(good.replace(",58000003", "").encode()), "line 5 is damaged"),
        (packed[:-12], "cannot be read"),
        (packed[:30] + bytes(20) + packed[50:], "cannot be read|is damaged|no column"),
        (gzip.compress(b""), "no column"),
        (gzip.compress(good.encode("utf-16")), "cannot be read|no column"),
    ):
        (raw / SPLIT_FILE).write_bytes(data)
        with pytest.raises(NotThisSource, match=message):
            read_all(name, raw)
    (raw / SPLIT_FILE).unlink()
    with pytest.raises(NotThisSource, match="no MIMIC-CXR-JPG split found"):
        read_all(name, raw)
    (raw / SPLIT_FILE).with_suffix("").write_text(good)
    again = read_all(name, raw)
    assert {split: list(map(repr_of, found)) for split, found in again.items()} == {
        split: list(map(repr_of, found)) for split, found in whole.items()
    }


def repr_of(outcome: Outcome) -> object:
    return outcome.messages if isinstance(outcome, Sample) else outcome


@pytest.mark.parametrize("name", ["mimic_cxr_vqa", "gemex_thinkvg"])
def test_a_subject_that_the_split_file_lacks_is_not_trained_on(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
    lines = gzip.decompress((raw / SPLIT_FILE).read_bytes()).decode().splitlines(keepends=True)
    left = [line for line in lines if "10000002" not in line]
    (raw / SPLIT_FILE).write_bytes(gzip.compress("".join(left).encode()))
    outcomes = read_all(name, raw)["train"]
    assert reasons(outcomes)["not_in_split"] == {"mimic_cxr_vqa": 2, "gemex_thinkvg": 1}[name]
    assert "not_in_split" not in reasons(read_all(name, raw, paper_variant=True)["train"])


def test_one_image_of_another_split_holds_the_whole_subject_out(tree: Callable[[str], Path]) -> None:
    raw = tree("mimic_cxr_vqa")
    table = gzip.decompress((raw / SPLIT_FILE).read_bytes()).decode()
    dicom_id = demo_radiograph(99).dicom_id
    (raw / SPLIT_FILE).write_bytes(gzip.compress(f"{table}{dicom_id},59999999,10000000,validate\n".encode()))
    outcomes = read_all("mimic_cxr_vqa", raw)["train"]
    assert "mimic-cxr/10000000" not in {subject(sample) for sample in kept(outcomes)}
    assert reasons(outcomes)["subject_of_test_split"] == 5


def test_wget_folders_are_found(demos: dict[str, Path], tmp_path: Path) -> None:
    raw, files = demos["mimic_cxr_vqa"], tmp_path / "physionet.org/files"
    shutil.copytree(raw / "mimic-cxr-jpg", files / "mimic-cxr-jpg/2.1.0")
    folder = "MIMIC-Ext-MIMIC-CXR-VQA"
    shutil.copytree(raw / folder, files / "mimic-ext-mimic-cxr-vqa/1.0.0" / folder)
    outcomes = read_all("mimic_cxr_vqa", tmp_path, no_images=False)
    assert sum(len(kept(found)) for found in outcomes.values()) == 8
    for sample in kept(outcomes["test"]):
        assert sample.images[0].read()


def test_credentialed_text_is_in_no_reject(demos: dict[str, Path]) -> None:
    for name in ("mimic_cxr_vqa", "gemex_thinkvg"):
        for found in read_all(name, demos[name]).values():
            for reject in (outcome for outcome in found if isinstance(outcome, Reject)):
                assert re.fullmatch(r"(subject 1\d{7})?", reject.detail)
