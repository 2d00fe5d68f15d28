"""MedTrinity: demo tree, traps, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from mixed_trees import read_all, said
from outcomes import kept

from builders.engine.command import main
from builders.engine.demo_files import write_demo_file
from builders.engine.registry import load
from builders.engine.source import NotThisSource, Reject, Sample


def add_picture(raw: Path, name: str, captions: list[tuple[str | None, str | None]]) -> None:
    """One more tar with one picture, and its rows in the second table."""
    folder = raw / "25M_accessible"
    write_demo_file(folder / "dataset_shard_2.tar.zst", {f"x/{name}": b"\x89PNG"})
    table = raw / "25M_full/train-00001-of-00002.parquet"
    rows = pq.read_table(table).to_pylist()
    rows += [{"file_name": name, "caption": caption, "source": source} for caption, source in captions]
    write_demo_file(table, rows)


def test_medtrinity_joins_by_base_name(tree: Callable[[str], Path]) -> None:
    outcomes = read_all("medtrinity", tree("medtrinity"))["train"]
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


def test_medtrinity_unknown_source_stops(tree: Callable[[str], Path]) -> None:
    raw = tree("medtrinity")
    add_picture(raw, "new.png", [("A caption.", "brand_new_set")])
    with pytest.raises(NotThisSource, match=r"brand_new_set \(1 pictures\)"):
        read_all("medtrinity", raw)
    with pytest.raises(NotThisSource, match="brand_new_set"):
        read_all("medtrinity", raw, paper_variant=True)
    assert len(kept(read_all("medtrinity", raw, allow_sources="other, brand_new_set")["train"])) == 7
    add_picture(raw, "none.png", [("A caption.", None)])
    with pytest.raises(NotThisSource, match="None"):
        read_all("medtrinity", raw)


@pytest.mark.parametrize("value", ["slake", "SLAKE-train", "vqa_rad", "VQA-RAD", "mimic_cxr_jpg"])
def test_medtrinity_refuses_evaluation_sets(value: str, tree: Callable[[str], Path]) -> None:
    raw = tree("medtrinity")
    add_picture(raw, "new.png", [("A caption.", value)])
    with pytest.raises(NotThisSource, match=f"{value}.*--paper-variant"):
        read_all("medtrinity", raw, allow_sources=value)
    assert len(kept(read_all("medtrinity", raw, paper_variant=True)["train"])) == 7


def test_medtrinity_sources_without_pictures_stop_nothing(tree: Callable[[str], Path]) -> None:
    raw = tree("medtrinity")
    tables = [pq.read_table(path).to_pylist() for path in sorted((raw / "25M_full").iterdir())]
    assert "mimic_cxr_jpg" in {row["source"] for rows in tables for row in rows}
    assert read_all("medtrinity", raw)["train"]


def test_medtrinity_wrong_trees(tree: Callable[[str], Path]) -> None:
    raw = tree("medtrinity")
    second = raw / "25M_full/train-00001-of-00002.parquet"
    rows = pq.read_table(second).to_pylist()
    second.unlink()
    with pytest.raises(NotThisSource, match="1 of 2 caption tables"):
        read_all("medtrinity", raw)
    write_demo_file(second, [{"id": row["file_name"], "caption": "x", "source": "x"} for row in rows])
    with pytest.raises(NotThisSource, match="no column file_name"):
        read_all("medtrinity", raw)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.9])
def test_medtrinity_cut_tar_loses_nothing_before_the_cut(share: float, tree: Callable[[str], Path]) -> None:
    """The publisher's issue 4: several downloads end early."""
    raw = tree("medtrinity")
    whole = read_all("medtrinity", raw)["train"]
    tar = raw / "25M_accessible/dataset_shard_10.tar.zst"
    members = {f"m{number}/000001_01_01_100.png": bytes([number]) * 5000 for number in range(20)}
    write_demo_file(tar, members)
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


def test_a_cut_tar_is_a_gap_and_costs_its_budget(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """How many rows stood behind the cut nobody knows: that one reject stands for them all is said by the exit code."""
    raw, out = tree("medtrinity"), tmp_path / "built"
    tar = raw / "25M_accessible/dataset_shard_10.tar.zst"
    tar.write_bytes(tar.read_bytes()[: tar.stat().st_size // 2])
    command = ["--raw", str(raw), "--out", str(out), "--quiet", "--workers", "1"]
    assert main(load("medtrinity"), command) == 4
    [gap] = json.loads((out / "medtrinity/build.json").read_bytes())["gaps"]
    assert (gap["file"], gap["count"]) == (tar.relative_to(raw).as_posix(), 1)
    assert gap["what"] == "part behind the place where it breaks off or is damaged"
    assert main(load("medtrinity"), [*command, "--max-damaged", "0"]) == 1
