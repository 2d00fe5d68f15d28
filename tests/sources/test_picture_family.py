"""Demo trees, columns and damage of the sets of questions about pictures: both of MIMIC, MedFrameQA, MMMU, MMMU-Pro."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tree_digest
from outcomes import kept, parameters, read_all, reasons, source_of
from picture_trees import FRAMES, GEMEX, PHARMACY, PRO_4, PRO_10, VQA, by_key, drop, each, edit, put
from PIL import Image as PillowImage

from builders.demos.radiographs import demo_radiograph
from builders.engine.demo_files import DEMO_TIME
from builders.engine.source import NotThisSource, Reject, Sample

NAMES = ("mimic_cxr_vqa", "gemex_thinkvg", "medframeqa", "mmmu_med", "mmmu_pro_med")


DEMO_COUNTS: dict[str, dict[str, tuple[int, dict[str, int]]]] = {
    "mimic_cxr_vqa": {
        "train": (4, {"empty_answer": 2, "subject_of_test_split": 3}),
        "valid": (2, {"empty_answer": 1}),
        "test": (2, {}),
    },
    "gemex_thinkvg": {"train": (5, {"subject_of_test_split": 2})},
    "medframeqa": {"test": (5, {})},
    "mmmu_med": {"dev": (5, {}), "validation": (12, {})},
    "mmmu_pro_med": {"test_4": (6, {"other_subject": 1}), "test_10": (6, {"other_subject": 1})},
}


@pytest.mark.parametrize("name", NAMES)
def test_demo_counts(name: str, demos: dict[str, Path]) -> None:
    outcomes = read_all(name, demos[name], no_images=False)
    assert {split: (len(kept(found)), reasons(found)) for split, found in outcomes.items()} == DEMO_COUNTS[name]
    for found in outcomes.values():
        assert len(by_key(found)) == len(kept(found))


@pytest.mark.parametrize("name", NAMES)
def test_demo_tree_is_small_the_same_every_time_and_its_pictures_decode(
    name: str, demos: dict[str, Path], tmp_path: Path
) -> None:
    source_of(name).write_demo(tmp_path)
    assert tree_digest(tmp_path) == tree_digest(demos[name])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mtime for path in files} == {DEMO_TIME}
    assert sum(path.stat().st_size for path in files) <= 200_000
    for found in read_all(name, tmp_path, no_images=False).values():
        for sample in kept(found):
            assert sample.images
            assert len({image.file for image in sample.images}) == len(sample.images)
            for image in sample.images:
                PillowImage.open(io.BytesIO(image.read())).load()


@pytest.mark.parametrize("name", NAMES)
def test_roles_access_and_paper_rows(name: str, demos: dict[str, Path]) -> None:
    source = source_of(name)
    credentialed = name in ("mimic_cxr_vqa", "gemex_thinkvg")
    assert source.access == ("credentialed" if credentialed else "open")
    assert source.stage == ("instruct" if credentialed else "eval")
    params = parameters(source)
    assert {unit.split: unit.role for unit in source.plan(demos[name], params)} == dict(source.splits)
    assert source.published(params).keys() == source.splits.keys()
    assert {row.name: row.count for row in source.paper_rows} == {
        "mimic_cxr_vqa": {"MIMIC-CXR-VQA": 363_598},
        "gemex_thinkvg": {"GEMeX-ThinkVG": 202_383},
        "medframeqa": {"MedFrameQA": 2_851},
        "mmmu_med": {"MMMU-Med (dev)": 175},
        "mmmu_pro_med": {"MMMU-Med-Pro (4 options)": 286, "MMMU-Med-Pro (10 options)": 286},
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_tree_is_not_this_source(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    with pytest.raises(NotThisSource):
        list(source.plan(tmp_path, parameters(source)))


@pytest.mark.parametrize(
    ("name", "file", "column"),
    [
        ("gemex_thinkvg", GEMEX, "response"),
        ("medframeqa", FRAMES, "video_id"),
        ("mmmu_med", PHARMACY, "question_type"),
        ("mmmu_pro_med", PRO_10, "subject"),
    ],
)
def test_a_renamed_column_stops_the_build(name: str, file: str, column: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
    edit(raw, file, each(lambda row: row.update({f"{column}_2": row.pop(column)})))
    with pytest.raises(NotThisSource, match=f"no column {column}"):
        read_all(name, raw)


ELSEWHERE = demo_radiograph(0).path.replace("/p10/", "/p11/")


NO_ANSWER = "<think>a</think><answer></answer>"


TRAIN = VQA.format("train")


DAMAGE: dict[str, tuple[str, str, Callable[[list[dict[str, Any]]], None], str]] = {
    "no answer (the pre-release)": ("mimic_cxr_vqa", TRAIN, drop(0, "answer"), "missing_field"),
    "answer is text": ("mimic_cxr_vqa", TRAIN, put(0, answer="yes"), "bad_field"),
    "answer holds nothing": ("mimic_cxr_vqa", TRAIN, put(0, answer=[""]), "bad_field"),
    "question is null": ("mimic_cxr_vqa", TRAIN, put(0, question=None), "missing_field"),
    "question is blank": ("mimic_cxr_vqa", TRAIN, put(0, question=" "), "empty_question"),
    "idx is text": ("mimic_cxr_vqa", TRAIN, put(0, idx="0"), "bad_id"),
    "unknown kind": ("mimic_cxr_vqa", TRAIN, put(0, semantic_type="guess"), "bad_field"),
    "another subject's picture": ("mimic_cxr_vqa", TRAIN, put(0, subject_id="10000001"), "bad_id"),
    "another dicom": ("mimic_cxr_vqa", TRAIN, put(0, image_id=demo_radiograph(1).dicom_id), "bad_id"),
    "path of no radiograph": ("mimic_cxr_vqa", TRAIN, put(0, image_path="../../etc/passwd"), "bad_field"),
    "path with the wrong folder": ("mimic_cxr_vqa", TRAIN, put(0, image_path=ELSEWHERE), "bad_field"),
    "no object": ("mimic_cxr_vqa", TRAIN, lambda rows: rows.__setitem__(0, 5), "bad_row"),  # type: ignore[call-overload]
    "half a surrogate pair": ("mimic_cxr_vqa", TRAIN, put(0, question="\ud800"), "not_utf8"),
    "response is null": ("gemex_thinkvg", GEMEX, put(0, response=None), "missing_field"),
    "no reasoning": ("gemex_thinkvg", GEMEX, put(0, response="<answer>No</answer>"), "bad_field"),
    "no answer tag": ("gemex_thinkvg", GEMEX, put(0, response="<think>a</think> No"), "bad_field"),
    "nothing in the answer tag": ("gemex_thinkvg", GEMEX, put(0, response=NO_ANSWER), "empty_answer"),
    "reasoning without end": ("gemex_thinkvg", GEMEX, put(0, response="<think>a"), "unfinished_reasoning"),
    "unknown question type": ("gemex_thinkvg", GEMEX, put(0, question_type="riddle"), "bad_field"),
    "no path": ("gemex_thinkvg", GEMEX, put(0, image_path="/files/x.jpg"), "bad_field"),
    "wrong letter": ("medframeqa", FRAMES, put(0, correct_answer="D"), "bad_field"),
    "no letter": ("medframeqa", FRAMES, put(0, correct_answer=None), "missing_field"),
    "one option": ("medframeqa", FRAMES, put(0, options=["Air"]), "bad_field"),
    "not a YouTube id": ("medframeqa", FRAMES, put(0, video_id="short"), "bad_id"),
    "one frame": ("medframeqa", FRAMES, put(0, image_2=None), "missing_image"),
    "a gap in the frames": ("medframeqa", FRAMES, put(2, image_3=None), "missing_image"),
    "a frame without bytes": ("medframeqa", FRAMES, put(0, image_2={"bytes": None, "path": "x.jpg"}), "missing_image"),
    "options that are no list": ("mmmu_med", PHARMACY, put(0, options="['a', "), "bad_field"),
    "options that are code": ("mmmu_med", PHARMACY, put(0, options="__import__('os')"), "bad_field"),
    "options that are numbers": ("mmmu_med", PHARMACY, put(0, options="[1, 2]"), "bad_field"),
    "letter past the options": ("mmmu_med", PHARMACY, put(0, answer="D"), "bad_field"),
    "unknown type of question": ("mmmu_med", PHARMACY, put(0, question_type="essay"), "bad_field"),
    "no image named": ("mmmu_med", PHARMACY, put(0, question="Which?"), "bad_field"),
    "named image is null": ("mmmu_med", PHARMACY, put(0, question="Which? <image 2>"), "missing_image"),
    "image 8 does not exist": ("mmmu_med", PHARMACY, put(0, question="<image 8>?"), "bad_field"),
    "id of another form": ("mmmu_med", PHARMACY, put(0, id="Pharmacy 1"), "bad_id"),
    "open question without answer": ("mmmu_med", PHARMACY, put(2, answer=" "), "empty_answer"),
    "no subject": ("mmmu_pro_med", PRO_4, put(0, subject=None), "missing_field"),
    "pro: letter past the options": ("mmmu_pro_med", PRO_4, put(0, answer="E"), "bad_field"),
}  # fmt: skip


@pytest.mark.parametrize("what", DAMAGE)
def test_a_damaged_row_is_rejected_and_no_other(what: str, demos: dict[str, Path], tree: Callable[[str], Path]) -> None:
    name, file, change, reason = DAMAGE[what]
    raw = tree(name)
    edit(raw, file, change)
    before = [outcome for found in read_all(name, demos[name]).values() for outcome in found]
    after = [outcome for found in read_all(name, raw).values() for outcome in found]
    assert len(before) == len(after)
    [(old, new)] = [
        (old, new)
        for old, new in zip(before, after, strict=True)
        if isinstance(old, Sample) and isinstance(new, Reject)
    ]
    assert (new.file, new.row, new.reason) == (old.file, old.row, reason)
    assert (old.question or "?") not in new.detail and (old.answer or "?") not in new.detail.split()
