"""Quilt-1M: demo tree, traps, damage."""

from __future__ import annotations

import csv
import json
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mixed_trees import edit_csv, read_all, said
from outcomes import kept, reasons, source_of

from builders import kit
from builders.engine.command import main
from builders.engine.source import NotThisSource, Reject
from medgpt.errors import DAMAGED


def test_quilt_splits_come_from_one_table_and_videos_from_names(tree: Callable[[str], Path]) -> None:
    outcomes = read_all("quilt_1m", tree("quilt_1m"))
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
    tree: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, small = tree("quilt_1m"), kit.table_units
    whole = read_all("quilt_1m", raw)
    monkeypatch.setattr(kit, "table_units", lambda *a, **k: small(*a, rows_per_unit=2, **k))
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
        ("not_histology", "True", "not_histology"),
        ("not_histology", "False", None),
        ("magnification", "", None),
        ("roi_text", "not a list", None),
        ("image_path", "a\\b.jpg", "bad_field"),
        ("image_path", "nine.jpg", "bad_id"),
        ("caption", "  ", "empty_caption"),
    ],
)
def test_quilt_damaged_rows(column: str, value: str, reason: str | None, tree: Callable[[str], Path]) -> None:
    raw = tree("quilt_1m")
    edit_csv(raw / "quilt_1M_lookup.csv", lambda rows: rows[0].update({column: value}))
    outcome = read_all("quilt_1m", raw)["train"][0]
    assert (outcome.reason if isinstance(outcome, Reject) else None) == reason


def test_quilt_renamed_column_and_short_line(tree: Callable[[str], Path]) -> None:
    raw = tree("quilt_1m")
    table = raw / "quilt_1M_lookup.csv"
    text = table.read_text()
    table.write_text(text.replace("not_histology", "histology", 1))
    with pytest.raises(NotThisSource, match="no column not_histology"):
        read_all("quilt_1m", raw)
    table.write_text(text + "13,cut off\n")
    assert reasons(read_all("quilt_1m", raw)["train"])["bad_row"] == 1


def test_quilt_image_paths_with_their_folder(tree: Callable[[str], Path]) -> None:
    raw = tree("quilt_1m")
    before = [sample.images[0].image_id for sample in kept(read_all("quilt_1m", raw)["train"])]
    edit_csv(
        raw / "quilt_1M_lookup.csv",
        lambda rows: [row.update(image_path=f"quilt_1m/{row['image_path']}") for row in rows],
    )
    assert [sample.images[0].image_id for sample in kept(read_all("quilt_1m", raw)["train"])] == before


def test_quilt_missing_and_damaged_pictures(tree: Callable[[str], Path], tmp_path: Path) -> None:
    raw = tree("quilt_1m")
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


def test_quilt_reads_an_unpacked_folder(tree: Callable[[str], Path]) -> None:
    raw = tree("quilt_1m")
    for part in raw.glob("*.zip"):
        with zipfile.ZipFile(part) as archive:
            for name in archive.namelist():
                (raw / name).parent.mkdir(exist_ok=True)
                (raw / name).write_bytes(archive.read(name))
        part.unlink()
    assert all(sample.images[0].read() for sample in kept(read_all("quilt_1m", raw)["train"]))


def test_quilt_table_of_13_columns_before_2023_10_26(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """wisdomikezogwo/quilt1m's README: single_wsi and not_histology came then."""
    raw = tree("quilt_1m")
    table = raw / "quilt_1M_lookup.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    marked = len(rows) - sum(row["not_histology"] in ("", "0", "0.0") for row in rows)
    names = [name for name in rows[0] if name not in ("single_wsi", "not_histology")]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    arguments = ["--raw", str(raw), "--out", str(tmp_path), "--quiet", "--filters", "none", "--no-images"]
    assert main(source_of("quilt_1m"), arguments) == 0
    document = json.loads((tmp_path / "quilt_1m/build.json").read_bytes())
    assert marked and "not_histology" not in document["counts"]["rejects"]
    [line] = document["parameters"]["noticed"]
    assert line.startswith(
        f"{len(rows)} rows are of a table without the column not_histology, which came on 2023-10-26"
    )
