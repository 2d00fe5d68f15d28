"""The sources made from PubMed Central's figures: demo trees, every trap by name, damaged rows, nothing lost."""

from __future__ import annotations

import csv
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import tree_digest
from outcomes import kept, reasons, source_of

from builders import biomedica
from builders.demos import biomedica as demo_biomedica
from builders.demos.drawings import write_demo_tar
from builders.engine.names import creative_commons
from builders.engine.source import DAMAGED_REASONS, InputError, NotThisSource, Reject, Sample

NAMES = ("rocov2", "pmc_oa", "pmc_vqa", "biomedica", "pubmedvision")
SHARED = Path(__file__).parents[2] / "shared" / "data"
Outcomes = dict[str, list[Sample | Reject]]


def read_all(name: str, raw: Path, **given: Any) -> Outcomes:
    """Every outcome by split, pictures read as a build reads them: a picture that fails makes its row a reject."""
    source = source_of(name)
    params = {option.name: option.default for option in source.options} | {"split": None, "no_images": False} | given
    outcomes: Outcomes = {}
    for unit in source.plan(raw, params):
        assert unit.role == source.splits[unit.split]
        orjson.dumps(unit.payload)
        found: list[Sample | Reject] = []
        for outcome in source.read(raw, unit, params):
            if isinstance(outcome, Reject):
                assert outcome.reason in source.advice
            elif not params["no_images"]:
                try:
                    assert all(image.read().startswith(b"\xff\xd8\xff") for image in outcome.images)
                except InputError as error:
                    outcome = Reject(outcome.file, outcome.row, error.reason, error.detail)
            found.append(outcome)
        assert len(found) == unit.rows
        outcomes.setdefault(unit.split, []).extend(found)
    return outcomes


def counts(outcomes: Outcomes) -> dict[str, tuple[int, dict[str, int]]]:
    return {split: (len(kept(rows)), reasons(rows)) for split, rows in outcomes.items()}


@pytest.fixture
def demo(tmp_path: Path) -> Callable[[str], Path]:
    def write(name: str) -> Path:
        source_of(name).write_demo(tmp_path / name)
        return tmp_path / name

    return write


def edit_csv(path: Path, edit: Callable[[list[list[str]]], object]) -> None:
    with path.open(newline="") as handle:
        rows = list(csv.reader(handle))
    edit(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())


def drop_member(path: Path, name: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members.pop(name)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)


# All five


@pytest.mark.parametrize("name", NAMES)
def test_demo_tree_is_small_and_the_same_each_time(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    source.write_demo(tmp_path / "one")
    source.write_demo(tmp_path / "two")
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    assert sum(path.stat().st_size for path in (tmp_path / "one").rglob("*") if path.is_file()) <= 200_000


@pytest.mark.parametrize("name", NAMES)
def test_demo_has_no_damaged_row_and_needs_no_pictures_without_images(name: str, demo: Callable[[str], Path]) -> None:
    raw = demo(name)
    with_pictures = counts(read_all(name, raw))
    assert not {reason for _, found in with_pictures.values() for reason in found} & DAMAGED_REASONS.keys()
    for archive in raw.glob("*.zip"):
        archive.unlink()
    assert counts(read_all(name, raw, no_images=True)) == with_pictures


@pytest.mark.parametrize("name", NAMES)
def test_another_folder_is_not_this_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match="is --raw the right folder"):
        read_all(name, tmp_path)


@pytest.mark.parametrize("name", ["rocov2", "pmc_oa", "pmc_vqa", "pubmedvision"])
def test_missing_pictures_stop_the_build(name: str, demo: Callable[[str], Path]) -> None:
    raw = demo(name)
    for archive in raw.glob("*.zip"):
        archive.unlink()
    with pytest.raises(NotThisSource, match="--no-images builds without"):
        read_all(name, raw)


@pytest.mark.parametrize("name", ["rocov2", "pmc_oa", "pmc_vqa", "pubmedvision"])
def test_a_missing_member_costs_its_rows_alone(name: str, demo: Callable[[str], Path]) -> None:
    raw = demo(name)
    # Read without pictures: a process keeps the zips that it has opened.
    before = counts(read_all(name, raw, no_images=True))["train"]
    archive = sorted(raw.glob("*images*.zip"))[0] if name != "rocov2" else raw / "train_images.zip"
    with zipfile.ZipFile(archive) as opened:
        member = opened.namelist()[0]
    lost = 2 if name == "pmc_vqa" else 1  # two questions about one figure
    drop_member(archive, member)
    after = counts(read_all(name, raw))["train"]
    assert after == (before[0] - lost, before[1] | {"missing_image": lost})


@pytest.mark.parametrize("name", ["rocov2", "pmc_oa", "pmc_vqa", "pubmedvision"])
def test_unpacked_pictures_are_found(name: str, demo: Callable[[str], Path]) -> None:
    raw = demo(name)
    before = counts(read_all(name, raw))
    folders = {"pmc_oa": ".", "pmc_vqa": ".", "pubmedvision": "images", "rocov2": "."}
    for archive in raw.glob("*.zip"):
        with zipfile.ZipFile(archive) as opened:
            for member in opened.namelist():
                # As `unzip -j` for PubMedVision, as plain `unzip` for the others.
                target = raw / folders[name] / (Path(member).name if name == "pubmedvision" else member)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(opened.read(member))
        archive.unlink()
    assert counts(read_all(name, raw)) == before


def test_published_and_paper_counts_are_those_of_the_reference() -> None:
    path = SHARED.parent / "reference" / "sources.json"
    if not path.is_file():
        pytest.skip(f"no reference at {path}")
    reference = {entry["name"]: entry for entry in json.loads(path.read_text()) if entry["kind"] == "train"}
    for name in NAMES:
        [row] = source_of(name).paper_rows
        assert (row.count, row.stage) == (reference[name]["paper_examples"], reference[name]["stage"])
        assert row.note
    assert source_of("rocov2").published({}) == reference["rocov2"]["splits"]["zenodo"]
    assert source_of("pubmedvision").published({}) == reference["pubmedvision"]["splits"]
    published = source_of("pmc_vqa").published
    assert published({"version": "1"}) == reference["pmc_vqa"]["splits"]["v1"]
    assert {f"{k}_2": v for k, v in published({"version": "2"}).items()} == reference["pmc_vqa"]["splits"]["v2"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CC BY", "CC-BY"),
        ("CC BY-NC-ND", "CC-BY-NC-ND"),
        ("CC BY [Sanders et al. (2020)]", "CC-BY"),
        ("CC BY NC 4.0", "CC-BY-NC-4.0"),
        ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
        ("CC0", "CC0-1.0"),
        ("https://creativecommons.org/licenses/by-nc/4.0/", "CC-BY-NC-4.0"),
        ("NO-CC CODE", None),
        ("© The authors", None),
        ("ACC BYLAWS", None),
    ],
)
def test_licences_are_named(text: str, name: str | None) -> None:
    assert creative_commons(text) == name


# ROCOv2


def test_rocov2_counts_licences_and_articles(demo: Callable[[str], Path]) -> None:
    outcomes = read_all("rocov2", demo("rocov2"))
    assert counts(outcomes) == {"train": (5, {"empty_caption": 1}), "valid": (1, {}), "test": (2, {})}
    samples = {sample.key: sample for rows in outcomes.values() for sample in kept(rows)}
    licences = [sample.license for sample in samples.values()]
    assert licences == ["CC-BY", "CC-BY-NC", "CC-BY-NC-ND", "unstated", "CC-BY", "CC-BY", "CC0-1.0", "CC-BY-NC"]
    first, leaked = samples["ROCOv2_2023_train_000002"], samples["ROCOv2_2023_test_000002"]
    assert first.group == leaked.group == {"pmcid": "pmc/PMC9200002"}
    assert "\n" in (first.answer or "")  # a caption of two lines is one row
    assert first.images[0].image_id == "rocov2/ROCOv2_2023_train_000002"


def test_rocov2_needs_the_list_of_licences(demo: Callable[[str], Path]) -> None:
    raw = demo("rocov2")
    path = raw / "license_information.csv"
    edit_csv(path, lambda rows: [row.__setitem__(slice(1, None), ["", "", ""]) for row in rows[1:]])
    with pytest.raises(NotThisSource, match="no PMC number"):
        read_all("rocov2", raw)
    edit_csv(path, lambda rows: rows[0].__setitem__(0, "image"))
    with pytest.raises(NotThisSource, match="no column ID"):
        read_all("rocov2", raw)
    path.unlink()
    with pytest.raises(NotThisSource, match="no list of licences"):
        read_all("rocov2", raw)


def test_rocov2_reads_licences_whatever_their_columns(demo: Callable[[str], Path]) -> None:
    raw = demo("rocov2")
    before = [(s.license, s.group) for s in kept(read_all("rocov2", raw)["train"])]

    def shuffle(rows: list[list[str]]) -> None:
        rows[0] = ["licence", "source", " ID "]
        rows[1:] = [[attribution, link, key] for key, _, attribution, link in rows[1:]]

    edit_csv(raw / "license_information.csv", shuffle)
    assert [(s.license, s.group) for s in kept(read_all("rocov2", raw)["train"])] == before


def test_rocov2_damaged_rows(demo: Callable[[str], Path]) -> None:
    raw = demo("rocov2")
    edit_csv(raw / "license_information.csv", lambda rows: rows.pop(1))
    edit_csv(raw / "train_captions.csv", lambda rows: (rows[2].pop(), rows[3].__setitem__(0, " ")))
    assert reasons(read_all("rocov2", raw)["train"]) == {
        "not_in_metadata": 1,
        "bad_row": 1,
        "bad_id": 1,
        "empty_caption": 1,
    }
    edit_csv(raw / "test_captions.csv", lambda rows: rows[0].__setitem__(1, "caption"))
    with pytest.raises(NotThisSource, match="no column Caption"):
        read_all("rocov2", raw)


# PMC-OA


def test_pmc_oa_names_the_panel_and_both_names_of_its_figure(demo: Callable[[str], Path]) -> None:
    outcomes = read_all("pmc_oa", demo("pmc_oa"))
    assert counts(outcomes) == {"train": (6, {"empty_caption": 1}), "valid": (1, {}), "test": (2, {})}
    train = kept(outcomes["train"])
    assert (train[0].images[0].image_id, train[0].images[0].study_id, train[0].group) == (
        "pmc/PMC9000001/Fig3_0",
        "pmc/PMC9000001/Fig3",
        {"pmcid": "pmc/PMC9000001", "study_id": "pmc/PMC9000001/1471-9000-4-13-3"},
    )
    # A figure's own underscore and dots are no panel.
    assert train[3].images[0].study_id == "pmc/PMC9000003/fig_2"
    assert train[4].images[0].study_id == "pmc/PMC9000004/pone.9000004.g001"
    assert train[4].group["study_id"] == "pmc/PMC9000004/pone.9000004.g001"
    # Without the columns that some copies lack, the name tells the article.
    assert train[5].group == {"pmcid": "pmc/PMC9000005"}
    assert outcomes["test"][1].images[0].study_id == train[0].images[0].study_id  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": None}, "missing_field"),
        ({"caption": None}, "missing_field"),
        ({"caption": 7}, "bad_field"),
        ({"image": ["PMC9000001_Fig3_0.jpg"]}, "bad_field"),
        ({"image": "Fig3_0.jpg"}, "bad_id"),
        ({"pmcid": "PMC9000009"}, "bad_field"),
        ({"url_name": 3}, "bad_field"),
        ({"image": "PMC9000001_Fig3_9.jpg"}, "missing_image"),
    ],
)
def test_pmc_oa_damaged_rows(change: dict[str, Any], reason: str, demo: Callable[[str], Path]) -> None:
    raw = demo("pmc_oa")
    first, *others = (raw / "train.jsonl").read_text().splitlines(keepends=True)
    (raw / "train.jsonl").write_text(json.dumps(json.loads(first) | change) + "\n" + "".join(others) + "{broken\n")
    assert counts(read_all("pmc_oa", raw))["train"] == (5, {reason: 1, "empty_caption": 1, "bad_row": 1})


# PMC-VQA


def test_pmc_vqa_version_1(demo: Callable[[str], Path]) -> None:
    outcomes = read_all("pmc_vqa", demo("pmc_vqa"))
    assert counts(outcomes) == {
        "train": (3, {"unclear_answer": 2, "empty_option": 1, "empty_question": 1, "empty_answer": 2}),
        "test": (2, {}),
        "test_clean": (1, {}),
    }
    first, _, longer = kept(outcomes["train"])
    assert first.options == [
        ("A", "Diffuse uptake"),
        ("B", "Focal uptake"),
        ("C", "No uptake"),
        ("D", "Ring-like uptake"),
    ]
    assert (first.answer, first.question) == ("B", "What is the uptake pattern in the breast?")
    assert first.messages[1]["content"][0]["text"] == "Answer: B. Focal uptake"
    assert first.messages[0]["content"][1]["text"].endswith(
        "\n\nA. Diffuse uptake\nB. Focal uptake\nC. No uptake\nD. Ring-like uptake"
    )
    assert (first.images[0].image_id, first.group) == ("pmc/PMC9100001/F1", {"pmcid": "pmc/PMC9100001"})
    # A text that is no option does not contradict the letter; question text is trimmed.
    assert (longer.answer, longer.question) == ("C", "What does the arrow point to, in panel B?")
    # `fig_1` is a whole figure's id here, not panel 1 of `fig`.
    assert longer.images[0].study_id == longer.images[0].image_id == "pmc/PMC9100002/fig_1"


def test_pmc_vqa_both_spellings_of_answer(demo: Callable[[str], Path]) -> None:
    raw = demo("pmc_vqa")
    headers = {name: (raw / name).read_text().splitlines()[0].split(",") for name in ("train.csv", "test.csv")}
    assert "Answer" in headers["train.csv"]
    assert "Anwser" in headers["test.csv"]
    before = counts(read_all("pmc_vqa", raw))
    edit_csv(raw / "train.csv", lambda rows: rows[0].__setitem__(rows[0].index("Answer"), "Anwser"))
    assert counts(read_all("pmc_vqa", raw)) == before
    edit_csv(raw / "train.csv", lambda rows: rows[0].__setitem__(rows[0].index("Anwser"), "Response"))
    with pytest.raises(NotThisSource, match="no column Answer or Anwser"):
        read_all("pmc_vqa", raw)


def test_pmc_vqa_version_2_meets_pmc_oa(demo: Callable[[str], Path]) -> None:
    raw = demo("pmc_vqa")
    outcomes = read_all("pmc_vqa", raw, version="2")
    assert counts(outcomes) == {"train": (1, {"unclear_answer": 1}), "test": (2, {})}
    [sample] = kept(outcomes["train"])
    assert (sample.images[0].image_id, sample.images[0].study_id) == ("pmc/PMC9100007/Fig4_11", "pmc/PMC9100007/Fig4")
    assert "made up" not in json.dumps(sample.messages)  # the caption holds the answer
    panels = {s.images[0].image_id: s.images[0].read() for s in kept(read_all("pmc_oa", demo("pmc_oa"))["train"])}
    asked = {s.images[0].image_id: s.images[0].read() for s in kept(outcomes["test"])}
    assert asked.items() <= panels.items()
    assert source_of("pmc_vqa").variant({"version": "2"}) == "v2"
    # Only the files of the version asked for are needed, and test_clean.csv came late.
    for name in ("train.csv", "test.csv", "test_clean.csv", "images.zip"):
        (raw / name).unlink()
    assert counts(read_all("pmc_vqa", raw, version="2"))["test"] == (2, {})
    with pytest.raises(NotThisSource):
        read_all("pmc_vqa", raw)


def test_pmc_vqa_keys_of_the_two_versions_differ(demo: Callable[[str], Path]) -> None:
    raw = demo("pmc_vqa")
    keys = [
        {sample.key for rows in read_all("pmc_vqa", raw, version=version).values() for sample in kept(rows)}
        for version in ("1", "2")
    ]
    assert not keys[0] & keys[1]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("Figure_path", "figure.jpg", "bad_id"),
        ("Figure_path", "PMC9100001_F9.jpg", "missing_image"),
        ("Choice B", " B: ", "empty_answer"),
        ("Answer_label", "", "empty_answer"),
        ("Answer_label", "AB", "unclear_answer"),
        ("Answer", "B:no  UPTAKE.", "unclear_answer"),
    ],
)
def test_pmc_vqa_odd_rows(column: str, value: str, reason: str, demo: Callable[[str], Path]) -> None:
    raw = demo("pmc_vqa")
    before, found = counts(read_all("pmc_vqa", raw))["train"]
    edit_csv(raw / "train.csv", lambda rows: rows[1].__setitem__(rows[0].index(column), value))
    expected = Counter(found) + Counter([reason])
    assert counts(read_all("pmc_vqa", raw))["train"] == (before - 1, dict(expected))


# BIOMEDICA


def test_biomedica_counts_licences_and_names(demo: Callable[[str], Path]) -> None:
    raw = demo("biomedica")
    outcomes = read_all("biomedica", raw)
    assert counts(outcomes) == {"train": (8, {"duplicate_item": 1, "empty_caption": 1})}
    samples = {sample.key: sample for sample in kept(outcomes["train"])}
    assert {sample.license for sample in samples.values()} == {"CC-BY", "CC0-1.0", "CC-BY-NC-ND", "unstated"}
    assert Counter(sample.subset for sample in samples.values()) == {
        "dermatology/single": 5,
        "dermatology/multiple": 1,  # by its cluster, though its subtype says single panel
        "surgery/single": 1,
        "surgery/multiple": 1,
    }
    # The stem's dots end WebDataset's key; the figure keeps its name, and two of one article stay two.
    dotted = [samples[f"commercial_0_2-PMC9300002-{position}"] for position in (0, 1)]
    assert [s.images[0].image_id for s in dotted] == [f"pmc/PMC9300002/pone.9300002.g00{n}" for n in (1, 2)]
    assert dotted[0].images[0].read() != dotted[1].images[0].read()
    # Nothing of the article goes along.
    assert "Full text" not in json.dumps([sample.messages for sample in samples.values()])
    # PMC-OA's panels of the same figure carry its name.
    panels = kept(read_all("pmc_oa", demo("pmc_oa"))["train"])
    assert samples["commercial_7_1-PMC9000001-2"].group == panels[0].group


def test_biomedica_subsets_alone(demo: Callable[[str], Path]) -> None:
    raw = demo("biomedica")
    assert counts(read_all("biomedica", raw, subset="dermatology"))["train"] == (6, {})
    alone = counts(read_all("biomedica", raw, subset="surgery"))["train"]
    assert alone == (3, {"empty_caption": 1})  # what is in both subsets is no repeat here
    assert counts(read_all("biomedica", raw / "surgery", subset="surgery"))["train"] == alone
    assert source_of("biomedica").variant({"subset": "surgery"}) == "surgery"
    (raw / "surgery").rename(raw / "biomedica_surgery_subset_webdataset")
    assert counts(read_all("biomedica", raw))["train"] == (8, {"duplicate_item": 1, "empty_caption": 1})
    with pytest.raises(NotThisSource, match="--subset builds one"):
        read_all("biomedica", raw / "dermatology")


def write_tar(path: Path, samples: Iterable[tuple[str, dict[str, bytes]]]) -> None:
    members = {f"{key}.{extension}": data for key, parts in samples for extension, data in parts.items()}
    write_demo_tar(path, members)


def edited(change: dict[str, Any]) -> Callable[[dict[str, bytes]], dict[str, bytes]]:
    return lambda members: members | {"json": json.dumps(json.loads(members["json"]) | change).encode()}


@pytest.mark.parametrize(
    ("key", "edit", "reason"),
    [
        (None, edited({"image_panel_type": "both"}), "bad_field"),
        (None, edited({"image_panel_type": None}), "missing_field"),
        (None, edited({"article_accession_id": "PMC1"}), "bad_field"),
        (None, edited({"article_license": ["CC BY"]}), "bad_field"),
        (None, edited({"article_license": "see text"}), "bad_field"),
        (None, lambda members: members | {"json": b"{"}, "bad_row"),
        (None, lambda members: members | {"json": b"[]"}, "bad_row"),
        (None, lambda members: members | {"txt": b"\xff"}, "not_utf8"),
        (None, lambda members: members | {"jpg": b""}, "empty_file"),
        (None, lambda members: {k: v for k, v in members.items() if k != "jpg"}, "missing_image"),
        (None, lambda members: {k: v for k, v in members.items() if k != "txt"}, "missing_field"),
        (None, lambda members: {k: v for k, v in members.items() if k != "json"}, "missing_field"),
        ("commercial_0_1-9300001-0-x", lambda members: members, "bad_id"),
    ],
)
def test_biomedica_damaged_members(
    key: str | None, edit: Callable[[dict[str, bytes]], dict[str, bytes]], reason: str, tmp_path: Path
) -> None:
    figures = [figure for figure in demo_biomedica._DEMO["dermatology"] if figure[0] == "commercial"]
    samples = [("-".join(map(str, figure[1:5])), demo_biomedica.demo_members(figure)) for figure in figures]
    samples[1] = (key or samples[1][0], edit(samples[1][1]))
    write_tar(tmp_path / "commercial/0_2000000000.tar", samples)
    assert counts(read_all("biomedica", tmp_path, subset="dermatology"))["train"] == (3, {reason: 1})


def test_biomedica_unstated_licence(tmp_path: Path) -> None:
    figure = demo_biomedica._DEMO["dermatology"][0]
    members = edited({"article_license": "None"})(demo_biomedica.demo_members(figure))  # the publisher's str(None)
    write_tar(tmp_path / "other/0_2000000000.tar", [("other_0_0-PMC9300001-0-x", members)])
    [sample] = kept(read_all("biomedica", tmp_path, subset="dermatology")["train"])
    assert sample.license == "unstated"


def test_biomedica_broken_tar(demo: Callable[[str], Path]) -> None:
    raw = demo("biomedica")
    path = raw / "dermatology/commercial/0_2000000000.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(NotThisSource, match="not a readable tar"):
        read_all("biomedica", raw)
    # It breaks between plan and read: what stood before the damage is kept, the rest is accounted for.
    path.write_bytes(whole)
    source = source_of("biomedica")
    params = {"subset": "dermatology", "no_images": False}
    unit = next(iter(source.plan(raw, params)))
    with tarfile.open(path) as tar:
        third = tar.getmembers()[6].offset
    path.write_bytes(whole[: third + 700])
    found = list(source.read(raw, unit, params))
    assert len(found) == unit.rows == 4
    assert len(kept(found)) == 1  # the second sample may have lost a member with the third
    assert reasons(found) == {"bad_archive": 3}


def test_biomedica_panel_types_of_the_real_clusters() -> None:
    path = SHARED / "biomedica" / "cluster_labels.json"
    if not path.is_file():
        pytest.skip(f"no real labels at {path}")
    clusters = json.loads(path.read_bytes())
    panels = Counter(cluster["panel_type"] for cluster in clusters.values())
    assert panels == {"single": 737, "multiple": 1_263}
    assert panels.keys() == biomedica._PANEL_TYPES
    # The type contradicts the subtype in some clusters: it is a hint, not a fact about a picture.
    assert clusters["0"]["panel_type"] == "multiple"
    assert clusters["0"]["panel_subtype"] == "single panel"


# PubMedVision


def test_pubmedvision_counts_and_pictures_before_the_first_question(demo: Callable[[str], Path]) -> None:
    outcomes = read_all("pubmedvision", demo("pubmedvision"))
    assert counts(outcomes) == {"train": (4, {"empty_answer": 2})}
    one, three, turns, untagged = kept(outcomes["train"])
    assert [part["type"] for part in three.messages[0]["content"]] == ["image", "image", "image", "text"]
    assert [part["index"] for part in three.messages[0]["content"][:3]] == [0, 1, 2]
    assert "<image>" not in json.dumps(three.messages)
    assert [image.image_id for image in three.images] == [f"pubmedvision/pmc_2_{k}" for k in range(3)]
    # A row's pictures lie in two zips, under folders that the row does not name.
    assert len({image.file.split("!")[0] for image in three.images}) == 2
    assert [message["role"] for message in turns.messages] == ["user", "assistant"] * 2
    assert [len(message["content"]) for message in turns.messages] == [3, 1, 1, 1]
    assert (turns.question, turns.answer) == ("Please compare the two pictures.", None)
    assert (one.key, one.subset, untagged.subset) == ("Alignment_VQA_1", "Computed Tomography", None)
    assert one.group == {"question_id": "pubmedvision/Alignment_VQA_1"}
    panels = kept(read_all("pmc_oa", demo("pmc_oa"))["train"])
    assert one.images[0].read() == panels[0].images[0].read()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": None}, "missing_field"),
        ({"id": 5}, "bad_field"),
        ({"id": "a b"}, "bad_id"),
        ({"image": None}, "missing_field"),
        ({"image": []}, "bad_field"),
        ({"image": [None]}, "bad_field"),
        ({"image": ["images/pmc_99_0.jpg"]}, "missing_image"),
        ({"modality": 3}, "bad_field"),
        ({"conversations": None}, "missing_field"),
        ({"conversations": "hello"}, "bad_field"),
        ({"conversations": []}, "empty_answer"),
        ({"conversations": ["hello"]}, "bad_row"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "bad_field"),
        ({"conversations": [{"from": "human"}]}, "missing_field"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "odd_turns"),
        ({"conversations": [{"from": "human", "value": " "}, {"from": "gpt", "value": "x"}]}, "empty_question"),
    ],
)
def test_pubmedvision_damaged_rows(change: dict[str, Any], reason: str, demo: Callable[[str], Path]) -> None:
    raw = demo("pubmedvision")
    path = raw / "PubMedVision_Alignment_VQA.json"
    first, *others = json.loads(path.read_bytes())
    path.write_text(json.dumps([first | change, *others, "no object"]))
    expected = Counter({"empty_answer": 2, "bad_row": 1}) + Counter([reason])
    assert counts(read_all("pubmedvision", raw))["train"] == (3, dict(expected))


def test_pubmedvision_one_picture_as_text(demo: Callable[[str], Path]) -> None:
    raw = demo("pubmedvision")
    path = raw / "PubMedVision_Alignment_VQA.json"
    rows = json.loads(path.read_bytes())
    rows[0]["image"] = rows[0]["image"][0]
    path.write_text(json.dumps(rows))
    assert counts(read_all("pubmedvision", raw))["train"] == (4, {"empty_answer": 2})
