"""Quilt-1M, Quilt-Instruct, MedTrinity, OpenMM-Medical, GMAI-Reasoning10K: demo trees, traps, damage, nothing lost.

There are no real rows of these sets in `../shared/data` (gated, or too large), so their demo trees stand for them.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outcomes
import pyarrow.parquet as pq
import pytest
from conftest import tree_digest
from outcomes import kept, reasons, source_of

from builders.demos.drawings import write_demo_tar
from builders.engine.archives import PictureStore
from builders.engine.command import main
from builders.engine.rawfiles import DEMO_TIME, write_demo_parquet
from builders.engine.source import InputError, NotThisSource, Reject, Sample
from medgpt.errors import DAMAGED, USAGE

NAMES = ("quilt_1m", "quilt_instruct", "medtrinity", "openmm_medical", "gmai_reasoning10k")
Outcomes = dict[str, list[Sample | Reject]]


def read_all(name: str, raw: Path, **given: Any) -> Outcomes:
    return outcomes.read_all(name, raw, **({"no_images": False} | given))


def said(sample: Sample, message: int = -1) -> str:
    return "".join(part["text"] or f"<{part['index']}>" for part in sample.messages[message]["content"])


@pytest.fixture
def demo(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        source_of(name).write_demo(tmp_path / name)
        return tmp_path / name

    return write


@pytest.mark.parametrize("name", NAMES)
def test_demo_tree_is_small_and_the_same_every_time(name: str, tmp_path: Path) -> None:
    source_of(name).write_demo(tmp_path / "a")
    source_of(name).write_demo(tmp_path / "b")
    assert tree_digest(tmp_path / "a") == tree_digest(tmp_path / "b")
    files = [path for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 200_000
    assert {path.stat().st_mtime for path in files} == {DEMO_TIME}


@pytest.mark.parametrize(
    ("name", "given", "split", "samples", "rejects"),
    [
        ("quilt_1m", {}, "train", 7, {"not_histology": 1, "empty_caption": 1}),
        ("quilt_1m", {}, "val", 3, {}),
        ("quilt_instruct", {}, "train", 4, {"empty_answer": 2}),
        ("medtrinity", {}, "train", 6, {"ambiguous_caption": 2, "empty_caption": 1, "no_caption": 1}),
        ("openmm_medical", {}, "test", 5, {"empty_option": 1}),
        ("openmm_medical", {"paper_variant": True}, "train", 5, {"empty_option": 1}),
        ("gmai_reasoning10k", {}, "train", 4, {"unclear_answer": 1, "empty_reasoning": 1}),
        ("gmai_reasoning10k", {"file": "rl"}, "train", 4, {}),
    ],
)
def test_demo_counts(
    name: str, given: dict[str, Any], split: str, samples: int, rejects: dict[str, int], demo: Callable[[str], Path]
) -> None:
    raw = demo(name)
    named = read_all(name, raw, **given)
    assert len(kept(named[split])) == samples
    assert reasons(named[split]) == rejects
    for sample in kept(named[split]):
        assert all(image.read() for image in sample.images)
        assert sample.messages[0]["content"][0] == {"type": "image", "text": None, "index": 0}
    unseen = read_all(name, raw, no_images=True, **given)
    assert [sample.messages for sample in kept(unseen[split])] == [sample.messages for sample in kept(named[split])]
    assert [sample.images[0].image_id for sample in kept(unseen[split])] == [
        sample.images[0].image_id for sample in kept(named[split])
    ]


@pytest.mark.parametrize("name", NAMES)
def test_demo_builds_and_an_empty_tree_is_refused(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "built"), "--quiet"]
    (tmp_path / "raw").mkdir()
    assert main(source_of(name), places) == USAGE
    assert capsys.readouterr().err.count("\n") == 1
    assert main(source_of(name), ["--demo", *places]) == 0


# Quilt-1M


def edit_csv(path: Path, change: Callable[[list[dict[str, str]]], None], delimiter: str = ",") -> None:
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter=delimiter))
    change(rows)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def test_quilt_splits_come_from_one_table_and_videos_from_names(demo: Callable[[str], Path]) -> None:
    outcomes = read_all("quilt_1m", demo("quilt_1m"))
    assert Counter(sample.subset for sample in kept(outcomes["train"])) == {
        "quilt": 4,
        "openpath": 1,
        "pubmed": 1,
        "laion": 1,
    }
    videos = {split: {sample.group.get("video_id") for sample in kept(found)} for split, found in outcomes.items()}
    assert videos["train"] == {"youtube/demoVideo03", "youtube/demo_qlt-01", "youtube/demoQuilt_3", None}
    assert videos["val"] == {"youtube/-demoQuilt2", "youtube/demoQuilt_3", None}
    # Only the YouTube subset has a video, whatever the other names look like.
    assert all("video_id" not in s.group for found in outcomes.values() for s in kept(found) if s.subset != "quilt")
    first, again = kept(outcomes["train"])[:2]
    assert first.images[0].image_id == again.images[0].image_id
    assert "\n" in said(again)


def test_quilt_units_split_a_table_of_several_ranges(
    demo: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module("builders.quilt_1m")
    raw, small = demo("quilt_1m"), module.table_units
    whole = read_all("quilt_1m", raw)
    monkeypatch.setattr(module, "table_units", lambda *a, **k: small(*a, rows_per_unit=2, **k))
    pieces = read_all("quilt_1m", raw)
    for split in ("train", "val"):
        assert [outcome.row for outcome in pieces[split]] == [outcome.row for outcome in whole[split]]
        assert len({sample.key for sample in kept(pieces[split])}) == len(kept(whole[split]))


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("split", "test", "bad_field"),
        ("subset", "imagenet", "bad_field"),
        ("not_histology", "maybe", "bad_field"),
        ("not_histology", "nan", None),
        ("not_histology", "1", "not_histology"),
        ("magnification", "", None),
        ("roi_text", "not a list", None),
        ("image_path", "a/b.jpg", "bad_field"),
        ("image_path", "nine.jpg", "bad_id"),
        ("caption", "  ", "empty_caption"),
    ],
)
def test_quilt_damaged_rows(column: str, value: str, reason: str | None, demo: Callable[[str], Path]) -> None:
    raw = demo("quilt_1m")
    edit_csv(raw / "quilt_1M_lookup.csv", lambda rows: rows[0].update({column: value}))
    outcome = read_all("quilt_1m", raw)["train"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_quilt_renamed_column_and_short_line(demo: Callable[[str], Path]) -> None:
    raw = demo("quilt_1m")
    table = raw / "quilt_1M_lookup.csv"
    text = table.read_text()
    table.write_text(text.replace("not_histology", "histology", 1))
    with pytest.raises(NotThisSource, match="no column not_histology"):
        read_all("quilt_1m", raw)
    table.write_text(text + "13,cut off\n")
    assert reasons(read_all("quilt_1m", raw)["train"])["bad_row"] == 1


def test_quilt_missing_and_damaged_pictures(demo: Callable[[str], Path], tmp_path: Path) -> None:
    raw = demo("quilt_1m")
    part = raw / "images_part_0.zip"
    with zipfile.ZipFile(part) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    gone, broken, *_ = members
    data = bytearray(part.read_bytes())
    data[data.index(members[broken]) + 100] ^= 255
    at = data.index(gone.encode()) + len("quilt_1m/")
    data[at : at + 3] = b"xyz"  # its local header has another name now
    part.write_bytes(data)
    code = main(source_of("quilt_1m"), ["--raw", str(raw), "--out", str(tmp_path / "built"), "--quiet"])
    assert code == DAMAGED
    rejects = pq.read_table(tmp_path / "built/quilt_1m/rejects").to_pylist()
    found = Counter(reject["reason"] for reject in rejects if reject["damaged"])
    assert found == {"missing_image": 2, "bad_archive": 1}  # the first picture has two rows


def test_quilt_reads_an_unpacked_folder(demo: Callable[[str], Path]) -> None:
    raw = demo("quilt_1m")
    for part in raw.glob("*.zip"):
        with zipfile.ZipFile(part) as archive:
            for name in archive.namelist():
                (raw / name).parent.mkdir(exist_ok=True)
                (raw / name).write_bytes(archive.read(name))
        part.unlink()
    assert all(sample.images[0].read() for sample in kept(read_all("quilt_1m", raw)["train"]))


def test_zip_members_read_as_zipfile_reads_them(tmp_path: Path) -> None:
    members = {f"deep/{number}/p{number}.jpg": bytes([number]) * 50 for number in range(40)}
    for part, method in enumerate((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)):
        with zipfile.ZipFile(tmp_path / f"{part}.zip", "w", method) as archive:
            for name, data in list(members.items())[part::3]:
                archive.writestr(name, data)
            archive.writestr(f"empty{part}.jpg", b"")
            if part == 1:
                archive.writestr("again/p0.jpg", b"a second of that name")
                archive.writestr("../climbs.jpg", b"never read")
    zips = PictureStore(tmp_path, ["0.zip", "1.zip", "2.zip"])
    for number, data in enumerate(members.values()):
        place, read = zips.reader(f"p{number}.jpg")
        assert place == f"{number % 3}.zip!deep/{number}/p{number}.jpg"
        if number % 3 == 2:
            with pytest.raises(InputError) as caught:
                read()
            assert caught.value.reason == "bad_archive"
        else:
            assert read() == data
    for name, reason in (("climbs.jpg", "missing_image"), ("p40.jpg", "missing_image"), ("empty1.jpg", "empty_file")):
        with pytest.raises(InputError) as caught:
            zips.reader(name)[1]()
        assert caught.value.reason == reason
    (tmp_path / "3.zip").write_bytes(b"no zip")
    with pytest.raises(NotThisSource, match="not a readable zip"):
        PictureStore(tmp_path, ["3.zip"]).reader("p0.jpg")


# Quilt-Instruct


def edit_json(path: Path, change: Callable[[list[Any]], None]) -> None:
    rows = json.loads(path.read_text())
    change(rows)
    path.write_text(json.dumps(rows))


def test_quilt_instruct_turns_and_videos(demo: Callable[[str], Path]) -> None:
    samples = kept(read_all("quilt_instruct", demo("quilt_instruct"))["train"])
    assert [sample.subset for sample in samples] == ["single", "several", "single", "single"]
    # The token may stand before the question, after it, or be missing; `role` and `content` are read like the others.
    assert [said(sample, 0) for sample in samples[:2]] == [
        "<0>What pattern do these nests show?",
        "<0>Which feature of the nuclei stands out?",
    ]
    assert said(samples[3], 0) == "<0>What is seen in the crypts?"
    assert [message["role"] for message in samples[1].messages] == ["user", "assistant"] * 2
    assert samples[1].answer is None
    assert samples[2].answer == "Follicles lined by crowded cells with pale nuclei."
    assert samples[0].group == {"video_id": "youtube/demoVideo03", "question_id": "quilt_instruct/demoVideo03_0"}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row.pop("image"), "missing_field"),
        (lambda row: row.update(image="frame.jpg"), "bad_id"),
        (lambda row: row.update(image=["a.jpg"]), "bad_field"),
        (lambda row: row.update(id=1.5), "bad_id"),
        (lambda row: row.update(conversations="text"), "bad_field"),
        (lambda row: row["conversations"][0].update({"from": "robot"}), "bad_field"),
        (lambda row: row["conversations"][0].pop("value"), "missing_field"),
        (lambda row: row["conversations"].pop(0), "odd_turns"),
        (lambda row: row["conversations"][0].update(value="<image>"), "empty_question"),
        (lambda row: row.update(id=7), None),
    ],
)
def test_quilt_instruct_damaged_rows(
    change: Callable[[dict[str, Any]], Any], reason: str | None, demo: Callable[[str], Path]
) -> None:
    raw = demo("quilt_instruct")
    edit_json(raw / "quilt_instruct_107k.json", lambda rows: change(rows[0]))
    outcome = read_all("quilt_instruct", raw)["train"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_quilt_instruct_other_file_of_that_name(demo: Callable[[str], Path]) -> None:
    raw = demo("quilt_instruct")
    (raw / "quilt_instruct_107k.json").write_text('[{"question": "a", "answer": "b"}]')
    with pytest.raises(NotThisSource, match="no field image, id, conversations"):
        read_all("quilt_instruct", raw)
    (raw / "quilt_instruct.zip").unlink()
    with pytest.raises(NotThisSource, match="--no-images"):
        read_all("quilt_instruct", raw)


# MedTrinity


def add_picture(raw: Path, name: str, captions: list[tuple[str | None, str | None]]) -> None:
    """One more tar with one picture, and its rows in the second table."""
    folder = raw / "25M_accessible"
    write_demo_tar(folder / "dataset_shard_2.tar.zst", {f"x/{name}": b"\x89PNG"})
    table = raw / "25M_full/train-00001-of-00002.parquet"
    rows = pq.read_table(table).to_pylist()
    rows += [{"file_name": name, "caption": caption, "source": source} for caption, source in captions]
    write_demo_parquet(table, rows)


def test_medtrinity_joins_by_base_name(demo: Callable[[str], Path]) -> None:
    outcomes = read_all("medtrinity", demo("medtrinity"))["train"]
    samples = {sample.key: sample for sample in kept(outcomes)}
    assert list(samples) == [f"dataset_shard_{key}" for key in ("1/0", "1/1", "1/2", "10/1", "10/2", "10/5")]
    assert said(samples["dataset_shard_10/1"]).endswith("Région hépatique.")
    # Two equal rows are one caption; two different ones are none. One base name in two folders has one caption.
    assert said(samples["dataset_shard_10/2"]) == said(samples["dataset_shard_10/5"])
    assert len({sample.images[0].image_id for sample in samples.values()}) == len(samples)
    assert samples["dataset_shard_1/0"].group == {"video_id": "youtube/demoVideo03"}
    assert samples["dataset_shard_1/2"].group == {"pmcid": "pmc/PMC9000001"}
    assert samples["dataset_shard_1/1"].subset == "brats_24"
    ambiguous = [outcome for outcome in outcomes if isinstance(outcome, Reject) and "2 of them" in outcome.detail]
    assert {outcome.file for outcome in ambiguous} == {
        "25M_accessible/dataset_shard_1.tar.zst",
        "25M_accessible/dataset_shard_10.tar.zst",
    }
    assert b"{}" not in [sample.images[0].read() for sample in samples.values()]  # metadata.json is no row


def test_medtrinity_unknown_source_stops(demo: Callable[[str], Path]) -> None:
    raw = demo("medtrinity")
    add_picture(raw, "new.png", [("A caption.", "brand_new_set")])
    with pytest.raises(NotThisSource, match=r"'brand_new_set' \(1 pictures\)"):
        read_all("medtrinity", raw)
    with pytest.raises(NotThisSource, match="brand_new_set"):
        read_all("medtrinity", raw, paper_variant=True)
    assert len(kept(read_all("medtrinity", raw, allow_sources="other, brand_new_set")["train"])) == 7
    add_picture(raw, "none.png", [("A caption.", None)])
    with pytest.raises(NotThisSource, match="None"):
        read_all("medtrinity", raw)


@pytest.mark.parametrize("value", ["slake", "SLAKE-train", "vqa_rad", "VQA-RAD", "mimic_cxr_jpg"])
def test_medtrinity_refuses_evaluation_sets(value: str, demo: Callable[[str], Path]) -> None:
    raw = demo("medtrinity")
    add_picture(raw, "new.png", [("A caption.", value)])
    with pytest.raises(NotThisSource, match=f"{value}.*--paper-variant"):
        read_all("medtrinity", raw, allow_sources=value)
    assert len(kept(read_all("medtrinity", raw, paper_variant=True)["train"])) == 7


def test_medtrinity_sources_without_pictures_stop_nothing(demo: Callable[[str], Path]) -> None:
    raw = demo("medtrinity")
    tables = [pq.read_table(path).to_pylist() for path in sorted((raw / "25M_full").iterdir())]
    assert "mimic_cxr_jpg" in {row["source"] for rows in tables for row in rows}
    assert read_all("medtrinity", raw)["train"]


def test_medtrinity_wrong_trees(demo: Callable[[str], Path]) -> None:
    raw = demo("medtrinity")
    second = raw / "25M_full/train-00001-of-00002.parquet"
    rows = pq.read_table(second).to_pylist()
    second.unlink()
    with pytest.raises(NotThisSource, match="1 of 2 caption tables"):
        read_all("medtrinity", raw)
    write_demo_parquet(second, [{"id": row["file_name"], "caption": "x", "source": "x"} for row in rows])
    with pytest.raises(NotThisSource, match="no column file_name"):
        read_all("medtrinity", raw)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_medtrinity_cut_tar_loses_nothing_before_the_cut(share: float, demo: Callable[[str], Path]) -> None:
    """The publisher's issue 4: several downloads end early."""
    raw = demo("medtrinity")
    whole = read_all("medtrinity", raw)["train"]
    tar = raw / "25M_accessible/dataset_shard_10.tar.zst"
    members = {f"m{number}/000001_01_01_100.png": bytes([number]) * 5000 for number in range(20)}
    write_demo_tar(tar, members)
    packed = tar.read_bytes()
    tar.write_bytes(packed[: int(share * len(packed))] if share else b"no zstd")
    for no_images in (False, True):
        outcomes = read_all("medtrinity", raw, no_images=no_images)["train"]
        assert [o.row for o in outcomes if o.file.endswith("_1.tar.zst")] == [
            o.row for o in whole if o.file.endswith("_1.tar.zst")
        ]
        cut = [o for o in outcomes if o.file.endswith("_10.tar.zst")]
        assert isinstance(cut[-1], Reject)
        assert cut[-1].reason == "bad_archive"
        assert all(isinstance(outcome, Sample) for outcome in cut[:-1])


# OpenMM-Medical


def test_openmm_is_a_benchmark_unless_asked(demo: Callable[[str], Path]) -> None:
    source, raw = source_of("openmm_medical"), demo("openmm_medical")
    assert source.splits == {"test": "eval", "train": "train"}
    assert list(read_all("openmm_medical", raw)) == ["test"]
    assert list(read_all("openmm_medical", raw, paper_variant=True)) == ["train"]
    assert source.build_name({"paper_variant": True}) == "openmm_medical.paper"
    assert "benchmark_as_train" in source.paper_rows[0].note
    assert source.published({"paper_variant": False}) == {"test": 88_996}


def test_openmm_questions(demo: Callable[[str], Path]) -> None:
    samples = kept(read_all("openmm_medical", demo("openmm_medical"))["test"])
    assert [len(sample.options or ()) for sample in samples] == [4, 2, 3, 3, 4]
    assert said(samples[2]) == "Answer: B. Ductal carcinoma"
    assert samples[4].question == 'What does "white" in the left\tlung stand for?'
    # The component comes from the path; the card's modality, wrong for three components, is nowhere.
    assert [sample.subset for sample in samples[2:]] == ["BreakHis", "Adam Challenge", "Chest X-Ray PA"]
    assert all("Endoscopy" not in str(sample) and "Magnetic" not in str(sample.messages) for sample in samples)
    assert samples[0].images[0].read() != samples[2].images[0].read()


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("answer", "E", "bad_field"),
        ("answer", "", "empty_answer"),
        ("answer", "Fundus photography", "bad_field"),
        ("question", " ", "empty_question"),
        ("index", "A1", "bad_id"),
        ("image_path", "Images/1.png", "bad_field"),
        ("image_path", "../x/1.png", "bad_field"),
        ("image_path", "ACRIMA/1.png", None),
        ("B", "", "empty_option"),
        ("D", "", None),
        ("modality", "Wrong", None),
    ],
)
def test_openmm_damaged_rows(column: str, value: str, reason: str | None, demo: Callable[[str], Path]) -> None:
    raw = demo("openmm_medical")
    edit_csv(raw / "OpenMMMedical.tsv", lambda rows: rows[0].update({column: value}), "\t")
    outcome = read_all("openmm_medical", raw)["test"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_openmm_missing_picture_is_never_another_of_its_name(demo: Callable[[str], Path]) -> None:
    raw = demo("openmm_medical")
    archive = raw / "Images.zip"
    with zipfile.ZipFile(archive) as old:
        members = {name: old.read(name) for name in old.namelist()}
    del members["Images/ACRIMA/1.png"]
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as new:
        for name, data in members.items():
            new.writestr(f"packed/{name}", data)
    archive.write_bytes(buffer.getvalue())
    samples = kept(read_all("openmm_medical", raw)["test"])
    with pytest.raises(InputError) as caught:
        samples[0].images[0].read()
    assert caught.value.reason == "missing_image"
    assert samples[2].images[0].read() == members["Images/BreakHis/1.png"]
    assert PictureStore(raw, ["Images.zip"]).reader("ACRIMA/1.png")[1]()  # flat sets may still be asked that way


def test_openmm_renamed_column(demo: Callable[[str], Path]) -> None:
    raw = demo("openmm_medical")
    table = raw / "OpenMMMedical.tsv"
    table.write_text(table.read_text().replace("image_path", "image", 1))
    with pytest.raises(NotThisSource, match="no column image_path"):
        read_all("openmm_medical", raw)


# GMAI-Reasoning10K


def test_gmai_reasoning_is_apart_from_the_answer(demo: Callable[[str], Path]) -> None:
    raw = demo("gmai_reasoning10k")
    samples = kept(read_all("gmai_reasoning10k", raw)["train"])
    assert samples[0].messages[1]["reasoning"] == "The lesion lies in the right upper quadrant.\nThe liver is there."
    assert [said(sample) for sample in samples] == [
        "Answer: A. Liver",
        "Answer: B. Haemorrhages",
        "Answer: B. The second",
        "The radius",
    ]
    assert [sample.answer for sample in samples] == ["A", "B", "B", "The radius"]
    assert not any("think>" in said(sample, index) for sample in samples for index in (0, 1))
    # Options one a line, in one line, and with a dot; a question without options is no multiple choice.
    assert [len(sample.options or ()) for sample in samples] == [4, 3, 2, 0]
    assert samples[1].question == "What does the photograph show?"
    assert [sample.task for sample in samples] == [None, None, None, "vqa"]
    assert len(samples[2].images) == 2
    letters = kept(read_all("gmai_reasoning10k", raw, file="rl")["train"])
    assert all(sample.messages[1]["reasoning"] is None for sample in letters)
    assert source_of("gmai_reasoning10k").build_name({"file": "rl"}) == "gmai_reasoning10k.rl"


def test_gmai_options_in_one_line_are_cut_at_letters_in_order_only() -> None:
    module = importlib.import_module("builders.gmai_reasoning10k")
    assert module._one_a_line("Which? Options: A: Hepatitis B: acute, B: none").endswith(
        "A: Hepatitis B: acute, B: none"
    )
    assert module._one_a_line("Which? Options: (A) x (B) y") == "Which? Options:\n(A) x\n(B) y"
    assert module._one_a_line("No options here") == "No options here"


def edit_lines(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows[0])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def reply(text: str) -> Callable[[dict[str, Any]], Any]:
    return lambda row: row["conversations"][1].update(value=text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda row: row.pop("image"), "missing_field"),
        (lambda row: row.update(image=[]), "missing_field"),
        (lambda row: row.update(image="/etc/1.png"), "bad_field"),
        (lambda row: row.update(image=["a/../1.png"]), "bad_field"),
        (lambda row: row.update(conversations=[]), "odd_turns"),
        (lambda row: row.update(conversations="A"), "bad_field"),
        (lambda row: row["conversations"][0].update(value="<image>\n"), "empty_question"),
        (reply("<think>It goes on and"), "unfinished_reasoning"),
        (reply("<think>Yes.</think><answer></answer>"), "empty_answer"),
        (reply("<think>Yes.</think><answer>A: Spleen</answer>"), "unclear_answer"),
        (reply("<answer>A</answer>"), "empty_reasoning"),
        (reply("<think>Yes.</think>\nAnswer: (A) liver"), None),
    ],
)
def test_gmai_damaged_rows(
    change: Callable[[dict[str, Any]], Any], reason: str | None, demo: Callable[[str], Path]
) -> None:
    raw = demo("gmai_reasoning10k")
    edit_lines(raw / "reasoning_mcq_sft.jsonl", change)
    outcome = read_all("gmai_reasoning10k", raw)["train"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_gmai_pictures_in_folders_and_wrong_trees(demo: Callable[[str], Path]) -> None:
    raw = demo("gmai_reasoning10k")
    with zipfile.ZipFile(raw / "images.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    (raw / "images.zip").unlink()
    with pytest.raises(NotThisSource, match="--no-images"):
        read_all("gmai_reasoning10k", raw)
    for name, data in members.items():
        path = raw / name.removeprefix("images/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (raw / ".cache").mkdir()
    assert all(sample.images[0].read() for sample in kept(read_all("gmai_reasoning10k", raw)["train"]))
    answers = raw / "reasoning_mcq_rl.jsonl"
    answers.rename(raw / "reasoning_mcq_sft.jsonl")
    with pytest.raises(NotThisSource, match="no <think>"):
        read_all("gmai_reasoning10k", raw)
    with pytest.raises(NotThisSource, match="reasoning_mcq_rl"):
        read_all("gmai_reasoning10k", raw, file="rl")
