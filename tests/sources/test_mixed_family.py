"""Quilt-1M, Quilt-Instruct, MedTrinity, OpenMM-Medical, GMAI-Reasoning10K: demo trees, traps, damage, nothing lost.

There are no real rows of these sets in `../shared/data` (gated, or too large), so their demo trees stand for them.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import tree_digest
from mixed_trees import read_all
from outcomes import kept, reasons, source_of

from builders.engine.archives import PictureStore
from builders.engine.command import main
from builders.engine.demo_files import DEMO_TIME
from builders.engine.source import InputError, NotThisSource
from medgpt.errors import USAGE

NAMES = ("quilt_1m", "quilt_instruct", "medtrinity", "openmm_medical", "gmai_reasoning10k")


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
    name: str, given: dict[str, Any], split: str, samples: int, rejects: dict[str, int], tree: Callable[[str], Path]
) -> None:
    raw = tree(name)
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
