"""medxpertqa: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import io
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pytest
from outcomes import kept, read_all, reasons
from PIL import Image as PillowImage
from source_cases import (
    Rows,
    items,
    load_lines,
    need,
    save_lines,
    stems,
)

from builders.engine.source import InputError, NotThisSource


def as_github(rows: Rows) -> Rows:
    """Hub rows in the repository's shape."""
    shaped = []
    for row in rows:
        options = [{"letter": letter, "content": text} for letter, text in row["options"].items()]
        shaped.append(row | {"options": options, "label": [row["label"]]})
        if "images" in row:
            shaped[-1]["images"] = [{"image_path": name} for name in row["images"]]
    return shaped


def test_medxpertqa_reads_both_shapes(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = demos["medxpertqa"]
    folder = tmp_path / "eval/data/medxpertqa/input"
    for name, kind in (("MM", "mm"), ("Text", "text")):
        save_lines(folder / f"medxpertqa_{kind}_input.jsonl", as_github(load_lines(raw / name / "test.jsonl")))
    with zipfile.ZipFile(raw / "images.zip") as archive:
        archive.extractall(tmp_path / "eval")
    hub, github = read_all("medxpertqa", raw, no_images=False), read_all("medxpertqa", tmp_path, no_images=False)
    assert set(github) == {"mm_test", "text_test"}
    for split, found in github.items():
        for one, other in zip(kept(found), kept(hub[split]), strict=True):
            assert (one.key, one.messages, one.options, one.answer) == (
                other.key, other.messages, other.options, other.answer,
            )  # fmt: skip
            assert [image.read() for image in one.images] == [image.read() for image in other.images]
            assert [image.image_id for image in one.images] == [image.image_id for image in other.images]


def test_medxpertqa_strips_the_inline_options(demos: dict[str, Path], tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    outcomes = read_all("medxpertqa", raw)
    rows = load_lines(raw / "Text/test.jsonl")
    assert all("\nAnswer Choices: (A)" in row["question"] for row in rows)
    assert not any("Answer Choices" in repr(sample) for found in outcomes.values() for sample in found)
    # A copy with the options stripped reads the same.
    save_lines(raw / "Text/test.jsonl", [r | {"question": r["question"].partition("\nAnswer")[0]} for r in rows])
    assert read_all("medxpertqa", raw)["text_test"] == outcomes["text_test"]


def test_medxpertqa_pictures_come_before_the_text_and_decode(demos: dict[str, Path]) -> None:
    samples = kept(read_all("medxpertqa", demos["medxpertqa"], no_images=False)["mm_test"])
    assert [len(sample.images) for sample in samples] == [1, 2, 1, 3]
    kinds = [part["index"] for part in samples[3].messages[0]["content"]]
    assert kinds == [0, 1, 2, None]
    data = {image.image_id: image.read() for sample in samples for image in sample.images}
    for content in data.values():
        assert max(PillowImage.open(io.BytesIO(content)).size) <= 96
    assert data["medxpertqa/MM-0-a.jpeg"] == data["medxpertqa/MM-2-a.JPG"]
    assert len(set(data.values())) == 6
    assert {sample.task for sample in samples} == {"vqa"}
    text = kept(read_all("medxpertqa", demos["medxpertqa"])["text_test"])
    assert {sample.task for sample in text} == {"mcq"} and not any(sample.images for sample in text)
    assert {len(sample.options or []) for sample in text} == {10}


def test_medxpertqa_planted_stems(demos: dict[str, Path]) -> None:
    outcomes = read_all("medxpertqa", demos["medxpertqa"])
    mm = kept(outcomes["mm_test"])
    assert max(stems(mm).values()) == 2 and max(items(mm).values()) == 1
    bullets = kept(read_all("medbullets", demos["medbullets"])["test"])
    assert len(stems(bullets).keys() & stems(kept(outcomes["text_test"])).keys()) == 1


@pytest.mark.parametrize("split", ["mm_test", "text_test"])
def test_medxpertqa_builds_what_is_there(split: str, tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    folder = {"mm_test": "MM", "text_test": "Text"}[split]
    for path in raw.rglob("*.jsonl"):
        if path != raw / folder / "test.jsonl":
            path.unlink()
    assert set(read_all("medxpertqa", raw, no_images=False)) == {split}
    (raw / "images.zip").unlink()
    assert set(read_all("medxpertqa", raw)) == {split}
    if split == "mm_test":
        with pytest.raises(NotThisSource, match="--no-images"):
            read_all("medxpertqa", raw, no_images=False)
    else:
        assert read_all("medxpertqa", raw, no_images=False)


def test_medxpertqa_missing_picture_and_broken_archive(tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    with zipfile.ZipFile(raw / "images.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        for name, data in members.items():
            if not name.endswith("MM-1-b.png"):
                archive.writestr(name.removeprefix("images/"), data)  # as `zip -j` packs them
    samples = kept(read_all("medxpertqa", raw, no_images=False)["mm_test"])
    assert samples[1].images[0].read()
    with pytest.raises(InputError) as caught:
        samples[1].images[1].read()
    assert caught.value.reason == "missing_image"
    (raw / "images.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(NotThisSource, match="not a readable zip"):
        read_all("medxpertqa", raw, no_images=False)


MEDXPERTQA_DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("no id", {"id": None}, "missing_field"),
    ("empty id", {"id": ""}, "bad_id"),
    ("no options", {"options": None}, "missing_field"),
    ("options are text", {"options": "(A) x"}, "bad_field"),
    ("one option", {"options": {"A": "x"}}, "bad_field"),
    ("letters with a gap", {"options": {"A": "x", "C": "y"}, "label": "A"}, "bad_field"),
    ("option no text", {"options": {"A": "x", "B": 2}, "label": "A"}, "bad_field"),
    ("option without a letter", {"options": [{"content": "x"}], "label": ["A"]}, "missing_field"),
    ("option that is no object", {"options": ["x", "y"], "label": ["A"]}, "bad_row"),
    ("label of no option", {"label": "Z"}, "bad_field"),
    ("two labels", {"label": ["A", "B"]}, "bad_field"),
    ("no label", {"label": None}, "missing_field"),
    ("blank stem", {"question": "\nAnswer Choices: (A) x"}, "empty_question"),
    ("other type", {"question_type": "Guessing"}, "bad_field"),
    ("no images", {"images": None}, "missing_field"),
    ("empty images", {"images": []}, "bad_field"),
    ("images are text", {"images": "MM-1-a.jpeg"}, "bad_field"),
    ("image path leaves", {"images": ["../MM-1-a.jpeg"]}, "bad_field"),
    ("image is a number", {"images": [1]}, "bad_field"),
    ("image without a path", {"images": [{"path": "MM-1-a.jpeg"}]}, "missing_field"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in MEDXPERTQA_DAMAGE], ids=[case[0] for case in MEDXPERTQA_DAMAGE]
)
def test_medxpertqa_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    rows = load_lines(raw / "MM/test.jsonl")
    rows[1] |= change
    save_lines(raw / "MM/test.jsonl", rows)
    found = read_all("medxpertqa", raw, no_images=False)["mm_test"]
    assert (len(kept(found)), reasons(found)) == (3, {reason: 1})


def test_medxpertqa_text_row_with_images(tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    rows = load_lines(raw / "Text/test.jsonl")
    rows[0]["images"] = ["MM-0-a.jpeg"]
    rows[1]["images"] = []
    save_lines(raw / "Text/test.jsonl", rows)
    found = read_all("medxpertqa", raw)["text_test"]
    assert (len(kept(found)), reasons(found)) == (2, {"bad_field": 1})


def test_medxpertqa_real_rows(real_data: Path) -> None:
    raw = need(real_data / "medxpertqa")
    outcomes = read_all("medxpertqa", raw)
    mm, text = kept(outcomes["mm_test"]), kept(outcomes["text_test"])
    assert (len(mm), len(text)) == (2_000, 244)
    counts = [len(sample.images) for sample in mm]
    assert (round(mean(counts), 3), round(pstdev(counts), 3), sum(counts)) == (1.426, 1.038, 2_852)
    assert (len(mm) - len(stems(mm)), len(text) - len(stems(text))) == (70, 0)
    assert Counter(sample.subset for sample in mm) == {"reasoning": 1_446, "understanding": 554}
    for folder, samples in (("MM", mm), ("Text", text)):
        for sample, row in zip(samples, load_lines(raw / folder / "test.jsonl"), strict=True):
            listed = " ".join(f"({letter}) {option}" for letter, option in row["options"].items())
            assert f"{sample.question}\nAnswer Choices: {listed}" == row["question"]
            assert (sample.key, sample.answer) == (row["id"], row["label"])
