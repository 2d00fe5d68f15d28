"""The five small sources: real rows against published numbers, demo trees, damaged rows, nothing lost."""

from __future__ import annotations

import io
import json
import re
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import tree_digest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import kept, parameters, read_all, reasons, source_of
from PIL import Image as PillowImage

from builders.engine.rawfiles import DEMO_TIME
from builders.engine.source import DAMAGED_REASONS, NotThisSource, Reject, Sample
from medgpt.text import normalise

NAMES = ("pubmedqa", "slake", "vqa_rad", "medquad", "medqa")
Outcomes = dict[str, list[Sample | Reject]]


def image_ids(outcomes: list[Sample | Reject]) -> set[str]:
    return {sample.images[0].image_id for sample in kept(outcomes)}


def text_of(sample: Sample, message: int) -> str:
    return "".join(part["text"] or "" for part in sample.messages[message]["content"])


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, folder in folders.items():
        source_of(name).write_demo(folder)
    return folders


@pytest.fixture
def tree(request: pytest.FixtureRequest, demos: dict[str, Path], tmp_path: Path) -> Path:
    """A private copy of the demo tree of the source that the test is parametrised with (`tree`)."""
    return shutil.copytree(demos[request.param], tmp_path / request.param)


# --- real rows ----------------------------------------------------------------------------------------------------


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def test_pubmedqa_trains_on_the_500_that_are_not_the_test_set(real_data: Path) -> None:
    raw = real_data / "pubmedqa"
    questions, truth = load(raw / "data/ori_pqal.json"), load(raw / "data/test_ground_truth.json")
    outcomes = read_all("pubmedqa", raw)
    train, test = kept(outcomes["train"]), kept(outcomes["test"])
    assert [sample.key for sample in train] == [pmid for pmid in questions if pmid not in truth]
    assert {sample.key: dict(sample.options or [])[sample.answer or ""] for sample in test} == truth
    for split in (train, test):
        assert len(split) == 500
        assert Counter(sample.answer for sample in split) == {"A": 276, "B": 169, "C": 55}
    for sample in train + test:
        row = questions[sample.key]
        assert sample.question == row["QUESTION"]
        assert all(context in text_of(sample, 0) for context in row["CONTEXTS"])
        assert row["LONG_ANSWER"] not in text_of(sample, 0)
        assert text_of(sample, 1) == f"{row['LONG_ANSWER']}\n\nAnswer: {row['final_decision']}"
    assert not {sample.group["pmid"] for sample in train} & {sample.group["pmid"] for sample in test}


def test_pubmedqa_paper_variant_holds_every_test_question(real_data: Path) -> None:
    outcomes = read_all("pubmedqa", real_data / "pubmedqa", paper_variant=True)
    train, test = ({sample.group["pmid"] for sample in kept(outcomes[split])} for split in ("train", "test"))
    assert (len(train), len(test), len(train & test)) == (1000, 500, 500)


def test_slake_english_shares_no_picture_between_splits(real_data: Path) -> None:
    raw = real_data / "slake"
    outcomes = read_all("slake", raw)
    counts = {split: len(kept(found)) for split, found in outcomes.items()}
    assert counts == {"train": 4_918, "validation": 1_053, "test": 1_061}
    assert reasons(outcomes["train"]) == {"other_language": 4_916, "empty_answer": 1}
    assert {split: len(found) for split, found in outcomes.items()} == source_of("slake").published({})
    english = [row for row in load(raw / "train.json") if row["q_lang"] == "en"]
    assert (len(english), [row["qid"] for row in english if not row["answer"]]) == (4_919, [1622])
    pictures = [image_ids(found) for found in outcomes.values()]
    assert [len(ids) for ids in pictures] == [450, 96, 96]
    assert not (pictures[0] & pictures[1] or pictures[0] & pictures[2] or pictures[1] & pictures[2])
    assert Counter(sample.subset for sample in kept(outcomes["test"])) == {"open": 645, "closed": 416}


def test_slake_paper_variant_trains_on_607_of_its_836_closed_test_rows(real_data: Path) -> None:
    outcomes = read_all("slake", real_data / "slake", paper_variant=True)
    assert {split: len(kept(found)) for split, found in outcomes.items()} == {
        "train": 9_834, "validation": 2_099, "test": 2_094,
    }  # fmt: skip
    trained = image_ids(outcomes["train"])
    closed = [sample for sample in kept(outcomes["test"]) if sample.subset == "closed"]
    assert len(closed) == 836
    assert sum(sample.images[0].image_id in trained for sample in closed) == 607
    keys = [sample.key for found in outcomes.values() for sample in kept(found)]
    assert len(set(keys)) == len(keys), "qid identifies a row across splits and languages"


def test_vqa_rad_lands_on_1793(real_data: Path) -> None:
    raw = real_data / "vqa_rad"
    outcomes = read_all("vqa_rad", raw, paper_variant=True)
    assert len(kept(outcomes["train"])) == 1_793
    assert reasons(outcomes["train"]) == {"phrase_type_frame": 1_267, "duplicate_item": 3, "also_in_test": 1}
    assert (len(outcomes["train"]), len(kept(outcomes["test"]))) == (3_064, 451)
    train, test = load(raw / "trainset.json"), load(raw / "testset.json")
    item = ("image_name", "question", "answer")
    left = {tuple(row[name] for name in item) for row in train if row["phrase_type"] != "frame"}
    left -= {tuple(row[name] for name in item) for row in test}
    read = {(sample.images[0].image_id, sample.question, sample.answer) for sample in kept(outcomes["train"])}
    assert read == {(f"vqa-rad/{name}", question, str(answer)) for name, question, answer in left}
    # All 203 test pictures are in trainset.json; one of them in frame rows only, which are not read.
    trained, tested = image_ids(outcomes["train"]), image_ids(outcomes["test"])
    assert (len(trained), len(tested), len(trained & tested)) == (313, 203, 202)
    # By default frame rows are read, and with them every test picture is a training picture.
    whole = read_all("vqa_rad", raw)
    assert set(reasons(whole["train"])) == {"duplicate_item", "also_in_test"}
    distinct = {tuple(str(row[name]) for name in item) for row in train} - {
        tuple(str(row[name]) for name in item) for row in test
    }
    assert len(kept(whole["train"])) == len(distinct)
    assert image_ids(whole["train"]) >= tested == {f"vqa-rad/{row['image_name']}" for row in test}


def test_medquad_keeps_the_pairs_that_have_an_answer(real_data: Path) -> None:
    archive = real_data / "medquad" / "medquad_xml.tar.gz"
    found = read_all("medquad", archive.parent)["train"]
    assert (len(found), len(kept(found))) == (47_457, 16_423)
    assert reasons(found) == {"empty_answer": 31_034}
    assert len({sample.key for sample in kept(found)}) == 16_423
    assert len({sample.group["question_id"] for sample in kept(found)}) == 16_423
    # The same numbers without an XML parser.
    pairs: Counter[str] = Counter()
    with tarfile.open(archive) as members:
        for member in members:
            if member.name.endswith(".xml") and (file := members.extractfile(member)):
                text = file.read().decode()
                pairs["QAPair"] += len(re.findall(r"<QAPair\b", text))
                pairs["pair"] += len(re.findall(r"<pair\b", text))
                pairs["empty"] += len(re.findall(r"<[Aa]nswer>\s*</[Aa]nswer>|<[Aa]nswer\s*/>", text))
    assert pairs == {"QAPair": 47_441, "pair": 16, "empty": 31_034}


def test_medqa_reads_the_shared_rows(real_data: Path) -> None:
    # The shared file that is named train holds the 1,272 dev items.
    raw = real_data / "medqa_usmle_4_options"
    outcomes = read_all("medqa", raw)
    assert {split: len(kept(found)) for split, found in outcomes.items()} == {"train": 1_272, "test": 1_273}
    rows = [json.loads(line) for line in (raw / "phrases_no_exclude_test.jsonl").open()]
    for sample, row in zip(kept(outcomes["test"]), rows, strict=True):
        assert sample.options == list(row["options"].items())
        assert (sample.question, sample.answer) == (row["question"], row["answer_idx"])
        assert text_of(sample, 1) == f"Answer: {row['answer_idx']}. {row['answer']}"


# --- demo trees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_tree_is_the_same_every_time_and_undamaged(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    source = source_of(name)
    source.write_demo(tmp_path)
    assert tree_digest(tmp_path) == tree_digest(demos[name])
    assert {path.stat().st_mtime for path in tmp_path.rglob("*") if path.is_file()} == {DEMO_TIME}
    outcomes = read_all(name, tmp_path, no_images=False)
    assert set(outcomes) == set(source.splits)
    for found in outcomes.values():
        assert not reasons(found).keys() & DAMAGED_REASONS.keys()
        keys = [sample.key for sample in kept(found)]
        assert keys and len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["slake", "vqa_rad"])
def test_pictures_of_a_demo_tree_decode_from_folder_and_zip(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    folder = {"slake": "imgs", "vqa_rad": "VQA_RAD Image Folder"}[name]
    for path in demos[name].glob("*.json"):
        shutil.copy(path, tmp_path)
    with zipfile.ZipFile(tmp_path / f"{folder}.zip", "w") as archive:
        for path in sorted((demos[name] / folder).rglob("*.*")):
            archive.write(path, path.relative_to(demos[name]))
    from_folder, from_zip = (read_all(name, raw, no_images=False) for raw in (demos[name], tmp_path))
    for split, found in from_folder.items():
        for one, other in zip(kept(found), kept(from_zip[split]), strict=True):
            (picture,), (zipped,) = one.images, other.images
            assert (one.key, one.messages, picture.image_id) == (other.key, other.messages, zipped.image_id)
            data = picture.read()
            assert data == zipped.read()
            PillowImage.open(io.BytesIO(data)).load()


@pytest.mark.parametrize("name", ["slake", "vqa_rad"])
def test_picture_files_enter_the_unit_key(name: str, demos: dict[str, Path]) -> None:
    source = source_of(name)
    for unit in source.plan(demos[name], parameters(source, no_images=False)):
        pictures = [path for path in unit.inputs if path.endswith((".jpg", ".JPG"))]
        assert pictures and all((demos[name] / path).is_file() for path in unit.inputs)
    assert not any("jpg" in path for unit in source.plan(demos[name], parameters(source)) for path in unit.inputs)


def by_id(name: str, raw: Path, **params: Any) -> dict[str, Sample]:
    """Kept samples under `<split>/<key>`."""
    outcomes = read_all(name, raw, **params)
    return {f"{split}/{sample.key}": sample for split, found in outcomes.items() for sample in kept(found)}


def words(sample: Sample) -> str:
    assert sample.question
    return normalise(sample.question)


def item(sample: Sample) -> list[str]:
    """What makes two multiple-choice samples equal: the question and the options in any order."""
    return [words(sample), *sorted(normalise(text) for _, text in sample.options or [])]


def test_planted_text_of_pubmedqa_and_medqa(demos: dict[str, Path]) -> None:
    pubmedqa = by_id("pubmedqa", demos["pubmedqa"])
    copy, original = pubmedqa["train/90000029"], pubmedqa["test/90000030"]
    assert copy.question != original.question
    assert item(copy) == item(original)
    reworded, question = words(pubmedqa["train/90000031"]), words(pubmedqa["test/90000032"])
    assert reworded != question
    assert set(question.split()) - set(reworded.split()) == {"does", "reduce"}
    for options in ("4", "5"):
        medqa = by_id("medqa", demos["medqa"], options=options)
        copy, original = medqa["train/36"], medqa["test/3"]
        assert copy.options != original.options
        assert item(copy) == item(original)


@pytest.mark.parametrize("name", ["pubmedqa", "medqa"])
def test_a_demo_has_no_equal_text_but_the_planted(name: str, demos: dict[str, Path]) -> None:
    outcomes = read_all(name, demos[name])
    questions = {split: [words(sample) for sample in kept(found)] for split, found in outcomes.items()}
    assert all(len(set(found)) == len(found) for found in questions.values())
    assert len(set(questions["train"]) & set(questions["test"])) == 1


def test_planted_pictures_of_slake(demos: dict[str, Path]) -> None:
    raw = demos["slake"]
    assert (raw / "imgs/xmlab39/source.jpg").read_bytes() == (raw / "imgs/xmlab4/source.jpg").read_bytes()
    assert len({path.read_bytes() for path in raw.rglob("source.jpg")}) == 39
    english, both = read_all("slake", raw), read_all("slake", raw, paper_variant=True)
    test = image_ids(english["test"])
    assert "slake/xmlab39/source.jpg" in test and "slake/xmlab4/source.jpg" in image_ids(english["train"])
    assert not test & image_ids(english["train"])
    assert (len(test), len(test & image_ids(both["train"]))) == (8, 4)


def test_planted_pictures_and_item_of_vqa_rad(demos: dict[str, Path]) -> None:
    outcomes = read_all("vqa_rad", demos["vqa_rad"], paper_variant=True)
    assert len(image_ids(outcomes["test"])) == 3
    assert image_ids(outcomes["test"]) <= image_ids(outcomes["train"])
    assert reasons(outcomes["train"]) == {"phrase_type_frame": 6, "duplicate_item": 1, "also_in_test": 1}
    assert any(sample.answer == "0" or sample.answer == "1" for sample in kept(outcomes["train"]))


def test_medquad_demo_has_all_shapes(demos: dict[str, Path]) -> None:
    raw = demos["medquad"]
    roots = {path.read_text().splitlines()[1].split()[0] for path in raw.rglob("*.xml")}
    assert roots == {"<doc", "<Document", "<DiseaseFile"}
    found = read_all("medquad", raw)["train"]
    assert reasons(found) == {"empty_answer": 6}
    assert len(kept(found)) == 15


def test_medqa_never_reads_the_file_with_all_splits(demos: dict[str, Path]) -> None:
    assert (demos["medqa"] / "data_clean/questions/US/US_qbank.jsonl").is_file()
    for options, variant in (("4", "medqa"), ("5", "medqa.5opt")):
        outcomes = read_all("medqa", demos["medqa"], options=options)
        assert {split: len(found) for split, found in outcomes.items()} == {"train": 36, "dev": 12, "test": 12}
        assert all(len(sample.options or []) == int(options) for found in outcomes.values() for sample in kept(found))
        source = source_of("medqa")
        assert source.build_name(parameters(source, options=options)) == variant


# --- layouts ------------------------------------------------------------------------------------------------------


def test_files_may_lie_directly_in_the_raw_folder(demos: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in (("pubmedqa", "data"), ("medqa", "data_clean/questions/US/4_options")):
        shutil.copytree(demos[name] / folder, tmp_path / name)
        assert same_samples(read_all(name, tmp_path / name), read_all(name, demos[name]))
    shutil.copytree(demos["medqa"] / "data_clean", tmp_path / "clean")
    for options in ("4", "5"):
        assert same_samples(
            read_all("medqa", tmp_path / "clean", options=options), read_all("medqa", demos["medqa"], options=options)
        )
    (tmp_path / "medqa/phrases_no_exclude_dev.jsonl").unlink()
    assert set(read_all("medqa", tmp_path / "medqa")) == {"train", "test"}


def same_samples(one: Outcomes, other: Outcomes) -> bool:
    """Whether two readings have the same keys and messages in the same order."""

    def shown(outcomes: Outcomes) -> dict[str, list[Any]]:
        return {split: [(s.key, s.messages) for s in kept(found)] for split, found in outcomes.items()}

    return shown(one) == shown(other)


def test_slake_accepts_the_hub_spelling_of_validation(demos: dict[str, Path], tmp_path: Path) -> None:
    for path in demos["slake"].glob("*.json"):
        shutil.copy(path, tmp_path / path.name.replace("validate", "validation"))
    assert same_samples(read_all("slake", tmp_path), read_all("slake", demos["slake"]))


@pytest.mark.parametrize("layout", ["checkout", "zip", "tar.gz"])
def test_medquad_reads_a_checkout_or_an_archive_of_it(layout: str, demos: dict[str, Path], tmp_path: Path) -> None:
    if layout == "checkout":
        shutil.copytree(demos["medquad"], tmp_path / "MedQuAD")
        # The repository also ships test data in a zip, which is not to be read.
        with zipfile.ZipFile(tmp_path / "QA-TestSet.zip", "w") as archive:
            archive.writestr("6_NINDS_QA/0000099.xml", "<Document><QAPair/></Document>")
    else:
        (tmp_path / "raw").mkdir()
        form = {"zip": "zip", "tar.gz": "gztar"}[layout]
        staged = shutil.copytree(demos["medquad"], tmp_path / "stage" / "MedQuAD-master").parent
        shutil.make_archive(str(tmp_path / "raw" / "MedQuAD"), form, staged)
    raw = tmp_path if layout == "checkout" else tmp_path / "raw"
    expected, found = read_all("medquad", demos["medquad"]), read_all("medquad", raw)
    assert same_samples(found, expected)
    assert [o.file for o in found["train"]] == [o.file for o in expected["train"]]


def add_member(archive: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd" if kind != tarfile.REGTYPE else ""
    archive.addfile(info, io.BytesIO())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../6_NINDS_QA/0000001.xml", tarfile.REGTYPE),
        ("/6_NINDS_QA/0000001.xml", tarfile.REGTYPE),
        ("6_NINDS_QA/0000001.xml", tarfile.SYMTYPE),
        ("6_NINDS_QA/0000001.xml", tarfile.LNKTYPE),
        ("6_NINDS_QA/0000001.xml", tarfile.FIFOTYPE),
    ],
)
def test_medquad_refuses_archives_with_links_or_paths_that_leave(name: str, kind: bytes, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "MedQuAD.tar.gz", "w:gz") as archive:
        add_member(archive, name, kind)
    with pytest.raises(NotThisSource):
        read_all("medquad", tmp_path)


def test_medquad_refuses_an_archive_that_unpacks_to_too_much(
    demos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.make_archive(str(tmp_path / "MedQuAD"), "zip", demos["medquad"])
    monkeypatch.setattr("builders.medquad._MAX_ARCHIVE_BYTES", 1000)
    with pytest.raises(NotThisSource, match="unpacks"):
        read_all("medquad", tmp_path)


def broken_trees() -> Iterator[Any]:
    def case(name: str, label: str, spoil: Callable[[Path], object], **params: Any) -> Any:
        return pytest.param(name, spoil, params, id=f"{name}-{label}")

    main_file = {
        "pubmedqa": "data/ori_pqal.json",
        "slake": "test.json",
        "vqa_rad": "testset.json",
        "medqa": "data_clean/questions/US/4_options/phrases_no_exclude_dev.jsonl",
    }
    for name in NAMES:
        yield case(name, "empty folder", lambda raw: [shutil.rmtree(raw), raw.mkdir()])
    for name, file in main_file.items():
        yield case(name, "empty file", lambda raw, file=file: (raw / file).write_bytes(b""))
        if name == "medqa":
            continue
        for label, data in {
            "not UTF-8": b'["\xff"]',
            "cut short": b'[{"qid": 1',
            "not the right JSON": b"7",
            "nested too deeply": b"[" * 200_000,
            "a number without end": b"[" + b"9" * 5_000 + b"]",
        }.items():
            yield case(name, label, lambda raw, file=file, data=data: (raw / file).write_bytes(data))
        yield case(name, "missing", lambda raw, file=file: (raw / file).unlink())
    for name, folder in (("slake", "imgs"), ("vqa_rad", "VQA_RAD Image Folder")):
        yield case(name, "no pictures", lambda raw, folder=folder: shutil.rmtree(raw / folder), no_images=False)

        def spoil_zip(raw: Path, folder: str = folder) -> None:
            shutil.rmtree(raw / folder)
            (raw / f"{folder}.zip").write_bytes(b"PK no zip")

        yield case(name, "broken zip", spoil_zip, no_images=False)

    def spoil_archive(raw: Path, data: bytes, name: str) -> None:
        shutil.rmtree(raw)
        raw.mkdir()
        (raw / name).write_bytes(data)

    yield case("medquad", "broken tar", lambda raw: spoil_archive(raw, b"\x1f\x8b\x08\x00" + bytes(20), "a.tar.gz"))
    yield case("medquad", "broken zip", lambda raw: spoil_archive(raw, b"PK", "a.zip"))


@pytest.mark.parametrize(("name", "spoil", "params"), list(broken_trees()))
def test_a_broken_tree_is_refused_in_one_line(
    name: str, spoil: Callable[[Path], object], params: dict[str, Any], demos: dict[str, Path], tmp_path: Path
) -> None:
    raw = shutil.copytree(demos[name], tmp_path / name)
    spoil(raw)
    with pytest.raises(NotThisSource) as caught:
        read_all(name, raw, **params)
    assert "\n" not in str(caught.value)


# --- damaged rows -------------------------------------------------------------------------------------------------

LONE_SURROGATE = "\ud800"


def edited(path: Path, index: int, change: dict[str, Any] | Any, drop: str = "") -> None:
    """Change fields of one row of a JSON array, or replace the row with something that is no object."""
    rows = load(path)
    rows[index] = rows[index] | change if isinstance(change, dict) else change
    if drop:
        del rows[index][drop]
    path.write_text(json.dumps(rows))


SLAKE_FAULTS: list[tuple[Any, str, str]] = [
    ({}, "img_name", "missing_field"),
    ({}, "qid", "missing_field"),
    ({"question": None}, "", "missing_field"),
    ({"question": 5}, "", "bad_field"),
    ({"answer": ["Yes"]}, "", "bad_field"),
    ({"answer": LONE_SURROGATE}, "", "not_utf8"),
    ({"qid": "7"}, "", "bad_id"),
    ({"qid": True}, "", "bad_id"),
    ({"qid": -1}, "", "bad_id"),
    ({"img_name": "../../etc/source.jpg"}, "", "bad_field"),
    ({"img_name": "xmlab\u0663/source.jpg"}, "", "bad_field"),
    ({"q_lang": "fr"}, "", "bad_field"),
    ({"answer_type": "BOTH"}, "", "bad_field"),
    ("not a row", "", "bad_row"),
    ([], "", "bad_row"),
    ({"q_lang": "zh"}, "", "other_language"),
    ({"question": " "}, "", "empty_question"),
    ({"answer": ""}, "", "empty_answer"),
]


@pytest.mark.parametrize("tree", ["slake"], indirect=True)
@pytest.mark.parametrize(("change", "drop", "reason"), SLAKE_FAULTS)
def test_slake_names_what_is_wrong_with_a_row(tree: Path, change: Any, drop: str, reason: str) -> None:
    edited(tree / "train.json", 0, change, drop)
    check_one_reject(read_all("slake", tree)["train"][0], "train.json", "0", reason)


VQA_RAD_FAULTS: list[tuple[Any, str, str]] = [
    ({}, "phrase_type", "missing_field"),
    ({"answer": True}, "", "bad_field"),
    ({"answer": 1.5}, "", "bad_field"),
    ({"answer": None}, "", "missing_field"),
    ({"question": LONE_SURROGATE}, "", "not_utf8"),
    ({"image_name": "synpic1.png"}, "", "bad_field"),
    ({"answer_type": ""}, "", "bad_field"),
    ({"qid": "11"}, "", "bad_id"),
    (None, "", "bad_row"),
    ({"question": ""}, "", "empty_question"),
    ({"answer": " "}, "", "empty_answer"),
]


@pytest.mark.parametrize("tree", ["vqa_rad"], indirect=True)
@pytest.mark.parametrize(("change", "drop", "reason"), VQA_RAD_FAULTS)
def test_vqa_rad_names_what_is_wrong_with_a_row(tree: Path, change: Any, drop: str, reason: str) -> None:
    edited(tree / "trainset.json", 0, change, drop)
    check_one_reject(read_all("vqa_rad", tree)["train"][0], "trainset.json", "0", reason)


@pytest.mark.parametrize("tree", ["vqa_rad"], indirect=True)
def test_vqa_rad_reports_a_damaged_test_row_once_and_keeps_all_test_rows(tree: Path) -> None:
    before = read_all("vqa_rad", tree)
    edited(tree / "testset.json", 1, {"question": 3})
    after = read_all("vqa_rad", tree)
    assert reasons(after["test"]) == {"bad_field": 1}
    assert reasons(after["train"]) == reasons(before["train"])


def check_one_reject(outcome: Sample | Reject, file: str, row: str, reason: str) -> None:
    assert isinstance(outcome, Reject)
    assert (outcome.file, outcome.row, outcome.reason) == (file, row, reason)


PUBMEDQA_FAULTS: list[tuple[Any, str, str]] = [
    ({}, "CONTEXTS", "missing_field"),
    ({"CONTEXTS": []}, "", "bad_field"),
    ({"CONTEXTS": "text"}, "", "bad_field"),
    ({"CONTEXTS": ["text", 3]}, "", "bad_field"),
    ({"CONTEXTS": [LONE_SURROGATE]}, "", "not_utf8"),
    ({"final_decision": "perhaps"}, "", "bad_field"),
    ({"final_decision": {}}, "", "bad_field"),
    ({"LONG_ANSWER": None}, "", "missing_field"),
    (["text"], "", "bad_row"),
    ({"QUESTION": ""}, "", "empty_question"),
    ({"LONG_ANSWER": "\n"}, "", "empty_answer"),
]


@pytest.mark.parametrize("tree", ["pubmedqa"], indirect=True)
@pytest.mark.parametrize(("change", "drop", "reason"), PUBMEDQA_FAULTS)
def test_pubmedqa_names_what_is_wrong_with_a_row(tree: Path, change: Any, drop: str, reason: str) -> None:
    path = tree / "data/ori_pqal.json"
    items = load(path)
    first = next(iter(items))
    edited_item = items[first] | change if isinstance(change, dict) else change
    if drop:
        del edited_item[drop]
    path.write_text(json.dumps(items | {first: edited_item}))
    check_one_reject(read_all("pubmedqa", tree)["train"][0], "data/ori_pqal.json", first, reason)


def json_object(pairs: list[tuple[str, Any]]) -> str:
    """JSON text of an object that may repeat keys."""
    return "{" + ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs) + "}"


@pytest.mark.parametrize("tree", ["pubmedqa"], indirect=True)
def test_pubmedqa_accounts_for_repeated_unknown_and_contradicting_ids(tree: Path) -> None:
    questions = list(load(tree / "data/ori_pqal.json").items())
    truths = list(load(tree / "data/test_ground_truth.json").items())
    train_id, test_id, other = questions[0][0], truths[0][0], truths[1]
    questions += [(train_id, {}), (test_id, questions[1][1]), ("12a", questions[0][1])]
    flipped = "no" if other[1] != "no" else "yes"
    truths[1] = (other[0], flipped)
    truths += [(test_id, "yes"), ("99999999", "maybe"), ("not an id", "yes"), ("90000001x", None)]
    (tree / "data/ori_pqal.json").write_text(json_object(questions))
    (tree / "data/test_ground_truth.json").write_text(json_object(truths))
    outcomes = read_all("pubmedqa", tree)
    assert len(outcomes["train"]) == 32 and len(outcomes["test"]) == 35
    rejects = {
        split: [(o.file, o.row, o.reason) for o in found if isinstance(o, Reject)] for split, found in outcomes.items()
    }
    assert rejects["train"] == [
        ("data/ori_pqal.json", train_id, "duplicate_id"),
        ("data/ori_pqal.json", "#62", "bad_id"),
    ]
    assert rejects["test"] == [
        ("data/ori_pqal.json", other[0], "bad_field"),
        ("data/ori_pqal.json", test_id, "duplicate_id"),
        ("data/test_ground_truth.json", test_id, "duplicate_id"),
        ("data/test_ground_truth.json", "99999999", "missing_field"),
        ("data/test_ground_truth.json", "#32", "bad_id"),
        ("data/test_ground_truth.json", "#33", "bad_id"),
    ]


@pytest.mark.parametrize("tree", ["pubmedqa"], indirect=True)
def test_pubmedqa_notices_a_field_that_is_repeated(tree: Path) -> None:
    path = tree / "data/ori_pqal.json"
    path.write_text(path.read_text().replace('"YEAR"', '"QUESTION"', 1))
    assert reasons(read_all("pubmedqa", tree)["train"]) == {"bad_row": 1}


OPTIONS = b'"options": {"A": "a", "B": "b", "C": "c", "D": "d"}'
MEDQA_FAULTS: list[tuple[bytes, str]] = [
    (b'{"question": "cut', "bad_row"),
    (b"[" * 100_000, "bad_row"),
    (b"9" * 5_000, "bad_row"),
    (b"17", "bad_row"),
    (b"\xff\xfe{}", "not_utf8"),
    (b"{}", "missing_field"),
    (b'{"question": "a", "options": {"A": "a", "B": "b", "C": "c"}}', "bad_field"),
    (b'{"question": "a", "options": {"A": "a", "B": "b", "C": "c", "D": 4}}', "bad_field"),
    (b'{"question": "a", "options": ["a", "b", "c", "d"]}', "bad_field"),
    (b'{"question": "a", %b, "answer_idx": "E", "answer": "d"}' % OPTIONS, "bad_field"),
    (b'{"question": "a", %b, "answer_idx": "A", "answer": "b"}' % OPTIONS, "bad_field"),
    (b'{"question": "a", %b, "answer_idx": "A"}' % OPTIONS, "missing_field"),
    (b'{"question": " ", %b, "answer_idx": "A", "answer": "a"}' % OPTIONS, "empty_question"),
    (b'{"question": "\\ud800", "options": {}}', "not_utf8"),
]


@pytest.mark.parametrize("tree", ["medqa"], indirect=True)
@pytest.mark.parametrize(("line", "reason"), MEDQA_FAULTS, ids=lambda value: str(value)[:60])
def test_medqa_names_what_is_wrong_with_a_line(tree: Path, line: bytes, reason: str) -> None:
    file = "data_clean/questions/US/4_options/phrases_no_exclude_test.jsonl"
    lines = (tree / file).read_bytes().split(b"\n")
    # A byte order mark, a blank line and Windows line ends are no damage; numbers stay those of an editor.
    (tree / file).write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([lines[0], b"", line, *lines[3:]]))
    found = read_all("medqa", tree)["test"]
    assert (len(found), len(kept(found))) == (11, 10)
    check_one_reject(found[1], file, "3", reason)


MEDQUAD_FAULTS: list[tuple[bytes, bytes, str, str]] = [
    (b'pid="1"', b"", "missing_field", "#0"),
    (b'qid="0000398-1"', b"", "missing_field", "1"),
    (b'pid="1"', b'pid="1 or 2"', "bad_id", "1 or 2"),
    (b"</Document>", b"", "bad_xml", "file"),
    (b"Elmfield", b"\xe9", "not_utf8", "file"),
    (b"</Answer>", b"</answer>", "bad_xml", "file"),
    (b'encoding="UTF-8"?>', b'encoding="UTF-8"?><!DOCTYPE Document [<!ENTITY a "b">]>', "bad_xml", "file"),
    (b"Document", b"html", "bad_xml", "file"),
    (b"What is (are) Elmfield fever ?", b" ", "empty_question", "1"),
]


@pytest.mark.parametrize("tree", ["medquad"], indirect=True)
@pytest.mark.parametrize(("old", "new", "reason", "row"), MEDQUAD_FAULTS)
def test_medquad_names_what_is_wrong_with_a_pair(tree: Path, old: bytes, new: bytes, reason: str, row: str) -> None:
    file = "9_CDC_QA/0000398.xml"
    count = -1 if old == b"Document" else 1
    (tree / file).write_bytes((tree / file).read_bytes().replace(old, new, count))
    found = read_all("medquad", tree)["train"]
    rejects = [outcome for outcome in found if isinstance(outcome, Reject) and outcome.reason != "empty_answer"]
    assert len(rejects) == 1
    check_one_reject(rejects[0], file, row, reason)
    assert len(found) == (21 if row != "file" else 19)


@pytest.mark.parametrize("tree", ["medquad"], indirect=True)
def test_medquad_names_missing_questions_and_answers(tree: Path) -> None:
    path = tree / "9_CDC_QA/0000398.xml"
    path.write_text('<Document><QAPairs><QAPair pid="1"><Question qid="1-1">a</Question></QAPair>'
                    '<QAPair pid="2"><Answer>b</Answer></QAPair></QAPairs></Document>')  # fmt: skip
    found = [o for o in read_all("medquad", tree)["train"] if o.file == "9_CDC_QA/0000398.xml"]
    assert [(o.row, o.reason, o.detail) for o in found if isinstance(o, Reject)] == [
        ("1", "missing_field", "Answer"),
        ("2", "missing_field", "Question"),
    ]


# --- nothing is ever lost -----------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from([LONE_SURROGATE, "../..", "xmlab1/source.jpg", "synpic10001.jpg", "yes", "A", "zh", "frame"]),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from("ABCDE"), st.text(max_size=3), max_size=5),
)
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder that the examples of one test share; each empties it first."""
    return tmp_path / "raw"


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@st.composite
def damages(draw: st.DrawFn, fields: list[str]) -> Callable[[list[Any]], None]:
    """A change to a list of rows: fields dropped or replaced, rows replaced, repeated or removed."""
    kinds = st.sampled_from(["drop", "set", "row", "repeat", "cut"])
    steps = draw(st.lists(st.tuples(st.integers(0, 10_000), kinds, st.sampled_from(fields), JUNK), max_size=5))

    def apply(rows: list[Any]) -> None:
        for place, step, name, junk in steps:
            if not rows:
                return
            index = place % len(rows)
            if step == "row":
                rows[index] = junk
            elif step == "repeat":
                rows.append(rows[index])
            elif step == "cut":
                del rows[index]
            elif isinstance(rows[index], dict):
                rows[index] = {field: value for field, value in rows[index].items() if field != name}
                if step == "set":
                    rows[index][name] = junk

    return apply


@pytest.mark.parametrize(
    ("name", "file", "split"),
    [("slake", "train.json", "train"), ("vqa_rad", "trainset.json", "train"), ("vqa_rad", "testset.json", "test")],
)
@FUZZ
@given(data=st.data())
def test_no_row_of_a_json_array_is_lost(
    name: str, file: str, split: str, demos: dict[str, Path], scratch: Path, data: st.DataObject
) -> None:
    rows = load(demos[name] / file)
    data.draw(damages(list(rows[0])))(rows)
    raw = emptied(scratch)
    for path in demos[name].glob("*.json"):
        shutil.copy(path, raw)
    (raw / file).write_text(json.dumps(rows))
    assert len(read_all(name, raw)[split]) == len(rows)


@FUZZ
@given(data=st.data(), paper=st.booleans())
def test_no_question_of_pubmedqa_is_lost(
    demos: dict[str, Path], scratch: Path, data: st.DataObject, paper: bool
) -> None:
    folder = demos["pubmedqa"] / "data"
    questions, truths = (list(load(folder / name).items()) for name in ("ori_pqal.json", "test_ground_truth.json"))
    values = [value for _, value in questions]
    data.draw(damages(list(values[0])))(values)
    ids = st.one_of(st.sampled_from([key for key, _ in questions]), st.text(max_size=4), st.just(LONE_SURROGATE))
    questions = [(questions[i][0] if i < len(questions) else data.draw(ids), value) for i, value in enumerate(values)]
    truths += data.draw(st.lists(st.tuples(ids, JUNK), max_size=4))
    raw = emptied(scratch)
    (raw / "ori_pqal.json").write_text(json_object(questions))
    (raw / "test_ground_truth.json").write_text(json_object(truths))
    outcomes = read_all("pubmedqa", raw, paper_variant=paper)
    known, named = {key for key, _ in questions}, {key for key, _ in truths}
    assert len(outcomes["train"]) == sum(paper or key not in named for key, _ in questions)
    stray = len(truths) - len(named & known)
    assert len(outcomes["test"]) == sum(key in named for key, _ in questions) + stray


@FUZZ
@given(data=st.data())
def test_no_line_of_medqa_is_lost(demos: dict[str, Path], scratch: Path, data: st.DataObject) -> None:
    path = demos["medqa"] / "data_clean/questions/US/4_options/phrases_no_exclude_dev.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    data.draw(damages(list(rows[0])))(rows)
    damaged = [json.dumps(row).encode() for row in rows]
    noise = st.binary(max_size=8).map(lambda junk: junk.replace(b"\n", b" "))
    for index in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
        cut = data.draw(st.integers(0, len(damaged[index])))
        damaged[index] = damaged[index][:cut] + data.draw(noise)
    raw = emptied(scratch)
    (raw / "phrases_no_exclude_dev.jsonl").write_bytes(b"\n".join(damaged) + b"\n")
    first = damaged[0].removeprefix(b"\xef\xbb\xbf")
    filled = sum(bool(line.strip()) for line in [first, *damaged[1:]])
    if filled:
        assert len(read_all("medqa", raw)["dev"]) == filled
    else:
        with pytest.raises(NotThisSource):
            read_all("medqa", raw)


@FUZZ
@given(data=st.data())
def test_damage_to_one_file_of_medquad_stays_in_that_file(
    demos: dict[str, Path], scratch: Path, data: st.DataObject
) -> None:
    file = data.draw(st.sampled_from(["6_NINDS_QA/0000007.xml", "9_CDC_QA/0000397.xml"]))
    content = (demos["medquad"] / file).read_bytes()
    start = data.draw(st.integers(0, len(content)))
    content = content[:start] + data.draw(st.binary(max_size=6)) + content[start + data.draw(st.integers(0, 80)) :]
    raw = emptied(scratch)
    shutil.copytree(demos["medquad"], raw, dirs_exist_ok=True)
    (raw / file).write_bytes(content)
    found = read_all("medquad", raw)["train"]
    assert len([o for o in found if o.file != file]) == 18
    assert len(kept(found)) <= 15


def test_slake_closed_test_questions_become_choices(real_data: Path) -> None:
    """One English test row of 416 stays open: its answer is none of the alternatives that it lists."""
    rows = [row for row in load(real_data / "slake" / "test.json") if row["answer_type"] == "CLOSED"]
    english = [sample for sample in kept(read_all("slake", real_data / "slake")["test"]) if sample.subset == "closed"]
    assert (len(english), sum(sample.options is None for sample in english)) == (416, 1)
    yes_no = [sample for sample in english if sample.options == [("A", "Yes"), ("B", "No")]]
    assert len(yes_no) == sum(row["answer"].lower() in ("yes", "no") for row in rows if row["q_lang"] == "en") == 355
    for sample in english:
        if sample.options is not None:
            texts = dict(sample.options)
            [row] = [row for row in rows if str(row["qid"]) == sample.key]
            assert texts[str(sample.answer)].lower() == row["answer"].lower()
            listed = all(text in row["question"] for text in texts.values())
            assert listed or sample.options == [("A", "Yes"), ("B", "No")]
    both = kept(read_all("slake", real_data / "slake", paper_variant=True)["test"])
    converted = [sample for sample in both if sample.subset == "closed" and sample.options is not None]
    assert len(converted) >= 0.98 * 836
    # Training rows stay as the publisher wrote them.
    assert all(sample.options is None for sample in kept(read_all("slake", real_data / "slake")["train"]))
