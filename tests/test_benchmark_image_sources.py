"""Questions about pictures: MIMIC-CXR-VQA, GEMeX-ThinkVG, MedFrameQA, MMMU and MMMU-Pro. All of MIMIC is made up."""

from __future__ import annotations

import ast
import gzip
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import tree_digest
from outcomes import kept, parameters, read_all, reasons, source_of
from PIL import Image as PillowImage

from builders.demos.drawings import demo_picture
from builders.demos.radiographs import OFFICIAL, demo_radiograph
from builders.engine.mimic_pictures import ROWS_WITH_PICTURES
from builders.engine.mmmu import IMAGE_COLUMNS, SUBJECTS
from builders.engine.rawfiles import DEMO_TIME, write_demo_parquet
from builders.engine.source import InputError, NotThisSource, Reject, Sample

NAMES = ("mimic_cxr_vqa", "gemex_thinkvg", "medframeqa", "mmmu_med", "mmmu_pro_med")
REAL_PRO = Path(__file__).parents[2] / "shared/data/mmmu_pro"
VQA = "MIMIC-Ext-MIMIC-CXR-VQA/dataset/{}.json"
SPLIT_FILE = "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz"
GEMEX = "data/train-00000-of-00001.parquet"
FRAMES = "data/test-00000-of-00001.parquet"
PHARMACY = "Pharmacy/validation-00000-of-00001.parquet"
PRO_4, PRO_10 = (f"standard ({number} options)/test-00000-of-00001.parquet" for number in (4, 10))

Outcome = Sample | Reject


def by_key(outcomes: list[Outcome]) -> dict[str, Sample]:
    return {sample.key: sample for sample in kept(outcomes)}


def said(sample: Sample, message: int) -> str:
    """Text of a message; images as `{image id}`."""
    return "".join(
        part["text"] if part["type"] == "text" else f"{{{sample.images[part['index']].image_id}}}"
        for part in sample.messages[message]["content"]
    )


def subject(sample: Sample) -> str:
    return sample.group["subject_id"]


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, folder in folders.items():
        source_of(name).write_demo(folder)
    return folders


@pytest.fixture
def tree(demos: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of a demo tree."""
    return lambda name: Path(shutil.copytree(demos[name], tmp_path / name))


def edit(raw: Path, file: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of a JSON array or a Parquet file in place."""
    path = raw / file
    if path.suffix == ".json":
        rows = json.loads(path.read_bytes())
        change(rows)
        path.write_text(json.dumps(rows))
    else:
        rows = pq.read_table(path).to_pylist()
        change(rows)
        write_demo_parquet(path, rows)


def each(change: Callable[[dict[str, Any]], None]) -> Callable[[list[dict[str, Any]]], None]:
    def change_all(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            change(row)

    return change_all


# --- all of them ---------------------------------------------------------------------------------------------------

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


def put(number: int, **fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[number].update(fields)

    return change


def drop(number: int, field: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        del rows[number][field]

    return change


ELSEWHERE = demo_radiograph(0).path.replace("/p10/", "/p11/")
NO_ANSWER, BIG_BOX = ("<think>a</think><answer>" + text + "</answer>" for text in ("", "b [1, 2, 3, 225]"))
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
    "a box beyond 224": ("gemex_thinkvg", GEMEX, put(0, response=BIG_BOX), "bad_field"),
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
    "no id": ("mmmu_med", PHARMACY, put(0, id=""), "bad_id"),
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


# --- MIMIC-CXR-VQA and GEMeX-ThinkVG --------------------------------------------------------------------------------


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
        (packed[:-12], "not readable"),
        (packed[:30] + bytes(20) + packed[50:], "not readable|is damaged|no column"),
        (gzip.compress(b""), "no column"),
        (gzip.compress(good.encode("utf-16")), "not readable|no column"),
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


def test_gemex_keeps_reasoning_apart_from_the_answer(demos: dict[str, Path]) -> None:
    samples = kept(read_all("gemex_thinkvg", demos["gemex_thinkvg"])["train"])
    rows = pq.read_table(demos["gemex_thinkvg"] / GEMEX).to_pylist()
    assert all(row["image_path"].startswith("/files/p10/") for row in rows)
    for sample in samples:
        reply = sample.messages[1]
        assert reply["reasoning"].startswith("The question is about one region.\nLooking at [12, 20, ")
        assert not re.search(r"</?(think|answer|location)>", reply["reasoning"] + said(sample, 1))
        assert sample.answer and said(sample, 1).startswith(sample.answer)
        assert sample.messages[0]["reasoning"] is None
    assert [sample.subset for sample in samples] == ["open", "closed", "single_choice", "multi_choice", "open"]
    assert said(samples[1], 1) == "No\nright lung [10, 20, 100, 200]", "regions after the answer stay"
    assert [sample.key for sample in samples] == [f"train-00000-of-00001/{row}" for row in range(5)]


def test_gemex_paper_variant_keeps_every_row_and_shows_test_subjects(demos: dict[str, Path]) -> None:
    found = read_all("gemex_thinkvg", demos["gemex_thinkvg"], paper_variant=True)["train"]
    assert len(kept(found)) == len(found) == 7
    assert {"mimic-cxr/10000003", "mimic-cxr/10000005"} <= {subject(sample) for sample in kept(found)}


def test_gemex_demo_shows_a_picture_of_the_vqa_test_split(demos: dict[str, Path]) -> None:
    gemex = read_all("gemex_thinkvg", demos["gemex_thinkvg"])["train"]
    vqa = read_all("mimic_cxr_vqa", demos["mimic_cxr_vqa"])["test"]
    shared = {s.images[0].image_id for s in kept(gemex)} & {s.images[0].image_id for s in kept(vqa)}
    assert shared == {f"mimic-cxr/{demo_radiograph(7).dicom_id}"}


def test_credentialed_text_is_in_no_reject(demos: dict[str, Path]) -> None:
    for name in ("mimic_cxr_vqa", "gemex_thinkvg"):
        for found in read_all(name, demos[name]).values():
            for reject in (outcome for outcome in found if isinstance(outcome, Reject)):
                assert re.fullmatch(r"(subject 1\d{7})?", reject.detail)


# --- MedFrameQA ----------------------------------------------------------------------------------------------------


def test_medframeqa_shows_two_to_five_frames_in_order(demos: dict[str, Path]) -> None:
    samples = kept(read_all("medframeqa", demos["medframeqa"], no_images=False)["test"])
    assert [len(sample.images) for sample in samples] == [2, 3, 5, 4, 2]
    for sample in samples:
        number = int(sample.key[1:])
        names = [f"image_{place}" for place in range(1, len(sample.images) + 1)]
        assert [image.image_id for image in sample.images] == [f"medframeqa/{sample.key}/{name}" for name in names]
        assert [image.read() for image in sample.images] == [
            demo_picture(f"frames/{number}/{name}", "JPEG") for name in names
        ]
        kinds = [part["type"] for part in sample.messages[0]["content"]]
        assert kinds == ["image"] * len(names) + ["text"]


def test_medframeqa_letters_run_to_f_and_reasoning_is_never_fed(demos: dict[str, Path]) -> None:
    samples = by_key(read_all("medframeqa", demos["medframeqa"])["test"])
    assert [label for label, _ in samples["Q0004"].options or []] == list("ABCDEF")
    assert said(samples["Q0004"], 1) == "Answer: F. None"
    for sample in samples.values():
        assert "Frame by frame" not in json.dumps(sample.messages)
    source = source_of("medframeqa")
    for unit in source.plan(demos["medframeqa"], parameters(source)):
        assert "reasoning_chain" not in unit.payload["columns"]


def test_medframeqa_video_ids_are_youtube_ids_shared_by_questions(demos: dict[str, Path]) -> None:
    videos = [sample.group["video_id"] for sample in kept(read_all("medframeqa", demos["medframeqa"])["test"])]
    assert videos[:2] == ["youtube/-demo_vid-0"] * 2 and len(set(videos)) == 4


def test_medframeqa_options_may_be_stringified(demos: dict[str, Path], tree: Callable[[str], Path]) -> None:
    raw = tree("medframeqa")
    edit(raw, FRAMES, each(lambda row: row.update(options=str(row["options"]))))
    one, other = (read_all("medframeqa", where)["test"] for where in (demos["medframeqa"], raw))
    assert [sample.options for sample in kept(one)] == [sample.options for sample in kept(other)]


# --- MMMU and MMMU-Pro ---------------------------------------------------------------------------------------------


def test_mmmu_images_stand_at_their_tokens(demos: dict[str, Path]) -> None:
    samples = by_key(read_all("mmmu_med", demos["mmmu_med"], no_images=False)["validation"])
    for sample in samples.values():
        for image in sample.images:
            assert image.read() == demo_picture(image.image_id.removeprefix("mmmu/"))
    compare = samples["validation_Public_Health_1"]
    name = "mmmu/validation_Public_Health_1"
    assert said(compare, 0).startswith(
        f"Compare {{{name}/image_2}} with the earlier {{{name}/image_1}}. What has grown?"
    )
    curves = samples["validation_Public_Health_2"]
    name = "mmmu/validation_Public_Health_2"
    assert said(curves, 0).endswith(f"\n\nA. {{{name}/image_3}}\nB. {{{name}/image_1}}\nC. {{{name}/image_2}}\nD. None")
    assert (curves.answer, said(curves, 1)) == ("C", "Answer: C")
    assert dict(curves.options or [])["C"] == "<image 2>", "options stay as published"
    twice = samples["validation_Diagnostics_and_Laboratory_Medicine_1"]
    assert said(twice, 0).startswith(f"{{{twice.images[0].image_id}}} The stain in image 1 is typical")
    assert len(twice.images) == 1
    assert not any("<image" in (sample.question or "") for sample in samples.values())


def test_mmmu_open_questions_are_kept_as_another_task(demos: dict[str, Path]) -> None:
    samples = by_key(read_all("mmmu_med", demos["mmmu_med"])["validation"])
    opened = {key: sample for key, sample in samples.items() if sample.task == "vqa"}
    assert opened.keys() == {"validation_Pharmacy_3", "validation_Basic_Medical_Science_3"}
    several, one = opened["validation_Pharmacy_3"], opened["validation_Basic_Medical_Science_3"]
    assert (several.answer, said(several, 1), several.options) == ("['4', 'four']", "4", None)
    assert (one.answer, said(one, 1)) == ("Spleen", "Spleen")
    assert all(sample.options and sample.task is None for sample in samples.values() if sample.key not in opened)


def test_mmmu_needs_all_five_subjects_and_reads_no_other(tree: Callable[[str], Path]) -> None:
    raw = tree("mmmu_med")
    shutil.copytree(raw / "Pharmacy", raw / "Accounting")
    outcomes = read_all("mmmu_med", raw)
    assert {sample.subset for found in outcomes.values() for sample in kept(found)} == set(SUBJECTS)
    assert {split: len(found) for split, found in outcomes.items()} == {"dev": 5, "validation": 12}
    shutil.rmtree(raw / "Public_Health")
    with pytest.raises(NotThisSource, match="Public_Health"):
        read_all("mmmu_med", raw)


def test_mmmu_and_pro_demos_share_two_question_ids(demos: dict[str, Path]) -> None:
    plain, pro = (
        {
            sample.group["question_id"]: sample
            for found in read_all(name, demos[name], no_images=False).values()
            for sample in kept(found)
        }
        for name in ("mmmu_med", "mmmu_pro_med")
    )
    shared = plain.keys() & pro.keys()
    assert shared == {"mmmu/validation_Pharmacy_1", "mmmu/validation_Public_Health_2"}
    for key in shared:
        assert plain[key].question == pro[key].question
        assert {image.read() for image in plain[key].images} == {image.read() for image in pro[key].images}


def test_pro_labels_come_from_the_row_and_tokens_name_columns(demos: dict[str, Path]) -> None:
    outcomes = read_all("mmmu_pro_med", demos["mmmu_pro_med"], no_images=False)
    sizes = {split: [len(sample.options or []) for sample in kept(found)] for split, found in outcomes.items()}
    assert sizes == {"test_4": [4, 4, 4, 4, 4, 4], "test_10": [10, 4, 4, 10, 10, 10]}
    for found in outcomes.values():
        sample = by_key(found)["test_Pharmacy_3"]
        name = "mmmu-pro/test_Pharmacy_3"
        assert said(sample, 0).endswith(
            f"\n\nA. None\nB. {{{name}/image_2}}\nC. {{{name}/image_1}}\nD. {{{name}/image_3}}"
        )
        assert sample.answer == "B"
        assert [image.read() for image in sample.images] == [
            demo_picture(f"test_Pharmacy_3/image_{number}") for number in (2, 1, 3)
        ]
    [other] = [outcome for outcome in outcomes["test_4"] if isinstance(outcome, Reject)]
    assert (other.row, other.detail) == ("4", "Accounting")


def test_pro_reads_json_lines_without_pixels_only_where_there_is_no_parquet(
    tree: Callable[[str], Path], tmp_path: Path
) -> None:
    raw = tree("mmmu_pro_med")
    rows = pq.read_table(raw / PRO_10).to_pylist()
    lines = [json.dumps({name: row[name] for name in row if name not in IMAGE_COLUMNS}) for row in rows]
    (raw / PRO_10).with_name("test_no_pixels.jsonl").write_text("\n".join(lines))
    both = read_all("mmmu_pro_med", raw)
    assert len(both["test_10"]) == len(rows)
    (raw / PRO_10).unlink()
    shutil.rmtree((raw / PRO_4).parent)
    alone = read_all("mmmu_pro_med", raw)
    assert alone.keys() == {"test_10"}
    assert [s.messages for s in kept(alone["test_10"])] == [s.messages for s in kept(both["test_10"])]
    with pytest.raises(InputError, match=r"missing_image \(this copy has no pixels\)"):
        kept(alone["test_10"])[0].images[0].read()


@pytest.fixture(scope="session")
def real_pro() -> list[dict[str, Any]]:
    path = REAL_PRO / "standard (10 options)/test_medical_no_pixels.jsonl"
    if not path.is_file():
        pytest.skip(f"no real rows at {path}")
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_real_mmmu_pro_rows_against_published_counts(real_pro: list[dict[str, Any]]) -> None:
    outcomes = read_all("mmmu_pro_med", REAL_PRO)
    samples = kept(outcomes["test_10"])
    assert outcomes.keys() == {"test_10"} and len(outcomes["test_10"]) == len(samples) == len(real_pro) == 286
    assert Counter(sample.subset for sample in samples) == {
        "Basic_Medical_Science": 52,
        "Clinical_Medicine": 59,
        "Diagnostics_and_Laboratory_Medicine": 60,
        "Pharmacy": 57,
        "Public_Health": 58,
    }
    sizes = Counter(len(sample.options or []) for sample in samples)
    assert (sizes[10], sizes[9], sizes[4], sum(sizes.values()) - sizes[10]) == (204, 27, 18, 82)
    assert sum(sample.group["question_id"].startswith("mmmu/validation_") for sample in samples) == 92
    images = [len(sample.images) for sample in samples]
    mean = sum(images) / 286
    deviation = (sum((count - mean) ** 2 for count in images) / 286) ** 0.5
    assert (round(mean, 2), round(deviation, 2)) == (1.13, 0.56)


def test_real_mmmu_pro_rows_one_by_one(real_pro: list[dict[str, Any]]) -> None:
    samples = kept(read_all("mmmu_pro_med", REAL_PRO)["test_10"])
    for row, sample in zip(real_pro, samples, strict=True):
        options = ast.literal_eval(row["options"])
        assert sample.key == row["id"]
        assert [text for _, text in sample.options or []] == options
        assert sample.answer == row["answer"]
        asked = row["question"] + "\n\n" + "\n".join(f"{chr(65 + i)}. {text}" for i, text in enumerate(options))
        tokens = re.findall(r"<image (\d+)>", asked)
        assert [image.image_id for image in sample.images] == [
            f"mmmu-pro/{row['id']}/image_{number}" for number in tokens
        ]
        expected = re.sub(r"<image (\d+)>", rf"{{mmmu-pro/{row['id']}/image_\1}}", asked)
        assert "".join(said(sample, 0).split()) == "".join(expected.split())
        assert row["id"].split("_", 1)[1].rsplit("_", 1)[0] == sample.subset
