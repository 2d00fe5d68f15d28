"""BIOMEDICA: demo tree, traps, damage."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outcomes import kept, reasons, source_of
from pmc_trees import SHARED, counts, read_all

from builders import biomedica
from builders.demos import biomedica as demo_biomedica
from builders.engine.archives import stored, webdataset_samples
from builders.engine.demo_files import write_demo_file
from builders.engine.source import NotThisSource


def test_biomedica_counts_licences_and_names(tree: Callable[[str], Path]) -> None:
    raw = tree("biomedica")
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
    panels = kept(read_all("pmc_oa", tree("pmc_oa"))["train"])
    assert samples["commercial_7_1-PMC9000001-2"].group == panels[0].group


def test_biomedica_subsets_alone(tree: Callable[[str], Path]) -> None:
    raw = tree("biomedica")
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
    write_demo_file(path, members)


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


def test_biomedica_broken_tar(tree: Callable[[str], Path]) -> None:
    raw = tree("biomedica")
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
    assert len(kept(found)) == 2  # the header of the third sample says that the second is whole
    assert reasons(found) == {"bad_archive": 2}


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


def as_parquet(raw: Path, columns: bool, key: bool) -> None:
    """The demo tree packed as Parquet: the members' names with the json, or caption, image and the json's fields."""
    for subset in ("dermatology", "surgery"):
        rows: list[dict[str, Any]] = []
        for path in sorted((raw / subset).rglob("*.tar")):
            for name, parts in webdataset_samples(path, raw):
                found = {part.rpartition(".")[2]: stored(data) for part, data in parts.items()}
                record, picture = json.loads(found["json"]), {"bytes": found["jpg"], "path": None}
                row: dict[str, Any] = {"txt": found["txt"].decode(), "jpg": picture, "json": json.dumps(record)}
                if columns:
                    row = {"caption": row["txt"], "image": picture} | {
                        field: record[field] for field in ("article_accession_id", "image_file_name", "article_license")
                    }
                rows.append(row | ({"__key__": name} if key else {}))
        folder = raw / f"biomedica_{subset}_subset_parquet/data"
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")
        shutil.rmtree(raw / subset)


@pytest.mark.parametrize(("columns", "key"), [(False, True), (True, False), (True, True), (False, False)])
def test_biomedica_packed_as_parquet(tree: Callable[[str], Path], columns: bool, key: bool) -> None:
    """No public reader names the columns of these repositories: likely names are tried."""
    raw = tree("biomedica")
    before = {s.images[0].image_id: s for s in kept(read_all("biomedica", raw)["train"])}
    as_parquet(raw, columns, key)
    outcomes = read_all("biomedica", raw)
    assert counts(outcomes) == {"train": (8, {"duplicate_item": 1, "empty_caption": 1})}
    after = {s.images[0].image_id: s for s in kept(outcomes["train"])}
    assert after.keys() == before.keys()
    for name, sample in after.items():
        assert (sample.messages, sample.license, sample.group) == (
            before[name].messages, before[name].license, before[name].group,
        )  # fmt: skip
        assert sample.images[0].read() == before[name].images[0].read()
        assert not key or sample.key == before[name].key
    assert len(kept(read_all("biomedica", raw, subset="surgery")["train"])) == 3


def test_biomedica_parquet_of_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"image": {"bytes": b"x"}, "alt": "text"}]), tmp_path / "a.parquet")
    with pytest.raises(NotThisSource, match=r"a.parquet: no column with the caption .*there are image, alt"):
        read_all("biomedica", tmp_path, subset="histopathology")
