"""The sources made from PubMed Central's figures: demo trees, every trap by name, damaged rows, nothing lost."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import tree_digest
from outcomes import source_of
from pmc_trees import SHARED, counts, read_all

from builders.engine.names import creative_commons
from builders.engine.source import DAMAGED_REASONS, NotThisSource

NAMES = ("rocov2", "pmc_oa", "pmc_vqa", "biomedica", "pubmedvision")


def drop_member(path: Path, name: str) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    members.pop(name)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)


@pytest.mark.parametrize("name", NAMES)
def test_demo_tree_is_small_and_the_same_each_time(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    source.write_demo(tmp_path / "one")
    source.write_demo(tmp_path / "two")
    assert tree_digest(tmp_path / "one") == tree_digest(tmp_path / "two")
    assert sum(path.stat().st_size for path in (tmp_path / "one").rglob("*") if path.is_file()) <= 200_000


@pytest.mark.parametrize("name", NAMES)
def test_demo_has_no_damaged_row_and_needs_no_pictures_without_images(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
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
def test_missing_pictures_stop_the_build(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
    for archive in raw.glob("*.zip"):
        archive.unlink()
    with pytest.raises(NotThisSource, match="--no-images builds without"):
        read_all(name, raw)


@pytest.mark.parametrize("name", ["rocov2", "pmc_oa", "pmc_vqa", "pubmedvision"])
def test_a_missing_member_costs_its_rows_alone(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
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
def test_unpacked_pictures_are_found(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
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
