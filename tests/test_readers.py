"""What is built opens in our reader and in everybody else's."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson
import polars
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, call_module
from PIL import Image

from builders.engine.registry import load
from manifests.catalog import connect
from medgpt.errors import UserError
from medgpt.schema import SAMPLE, canonical_json
from shards.hub import features
from shards.reader import Build

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demo builds of a picture source, a text source and a set with several pictures a sample."""
    out = tmp_path_factory.mktemp("built")
    for name, options in (("slake", []), ("medqa", []), ("mimic_cxr", ["--longitudinal"])):
        raw = out / "raw" / name
        done = call_module(
            f"builders.{name}", "--demo", "--raw", str(raw), "--out", str(out / "built"), "--quiet", *options
        )
        assert done.returncode == 0, done.stderr
    return out / "built"


def tars(build: Path) -> list[str]:
    return [str(path) for path in sorted((build / "shards").glob("*train*.tar"))]


def test_records_have_exactly_the_schema(built: Path) -> None:
    for name in ("slake", "medqa", "mimic_cxr.longitudinal"):
        for sample in Build(built / name):
            assert list(sample.record) == SAMPLE.names
            assert len(sample.images) == len(sample.record["images"])


def test_tar_members_are_the_manifests_bytes(built: Path) -> None:
    """Plain tarfile, without our reader, gives the bytes that the reader finds by offset."""
    opened = Build(built / "slake")
    members: dict[str, bytes] = {}
    for shard in sorted((built / "slake" / "shards").iterdir()):
        with tarfile.open(shard) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None and member.name not in members
                members[member.name] = content.read()
                assert (member.mtime, member.uid, member.gid, member.mode, member.uname) == (0, 0, 0, 0o644, "")
    for sample in opened:
        sample_id = sample.record["id"]
        assert members.pop(f"{sample_id}.json") == canonical_json(sample.record)
        for image, data in zip(sample.record["images"], sample.images, strict=True):
            assert members.pop(f"{sample_id}.{image['file']}") == data
    assert not members


def test_random_access_agrees_with_reading_in_order(built: Path) -> None:
    for name in ("slake", "medqa", "mimic_cxr.longitudinal"):
        opened = Build(built / name)
        in_order = list(opened)
        assert [sample.record["id"] for sample in in_order] == opened.ids
        for index in range(len(opened) - 1, -1, -7):
            assert opened[index] == in_order[index]
            assert opened.find(opened.ids[index]) == index
        with pytest.raises(KeyError):
            opened.find("no/such/sample")
        with pytest.raises(IndexError):
            opened[len(opened)]


def test_roles_are_kept_apart(built: Path) -> None:
    train, test = Build(built / "slake", role="train"), Build(built / "slake", role="eval")
    assert len(train) + len(test) == len(Build(built / "slake"))
    assert {s.record["role"] for s in train} == {"train"}
    assert {s.record["role"] for s in test} == {"eval"}


def test_webdataset(built: Path) -> None:
    import webdataset

    found = {s["__key__"]: s for s in webdataset.WebDataset(tars(built / "slake"), shardshuffle=False)}
    for sample in Build(built / "slake", role="train"):
        theirs = found.pop(sample.record["id"])
        assert json.loads(theirs["json"]) == sample.record
        assert theirs["0.jpg"] == sample.images[0]
    assert not found


def datasets_rows(code: str, cache: Path) -> Any:
    """`datasets` in a process of its own, so that its caches stay in the test's folder."""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=300,
        env=os.environ | {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_datasets_webdataset(built: Path, tmp_path: Path) -> None:
    code = f"""
import json
from datasets import load_dataset
rows = load_dataset("webdataset", data_files={{"train": {tars(built / "slake")!r}}}, split="train")
print(json.dumps([[row["__key__"], row["json"]["answer"], row["0.jpg"].size] for row in rows]))"""
    rows = datasets_rows(code, tmp_path)
    expected = [
        [s.record["id"], s.record["answer"], list(Image.open(io.BytesIO(s.images[0])).size)]
        for s in Build(built / "slake", role="train")
    ]
    assert rows == expected


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build whose first six samples show one JPEG each, the next three two PNGs, the last three one of each."""
    folder = tmp_path_factory.mktemp("mixed")
    rows, pictures = [], {}
    for i in range(12):
        kinds = ["jpg"] if i < 6 else ["png", "png"] if i < 9 else ["jpg", "png"]
        names = [f"pmc_{i}_{k}.{kind}" for k, kind in enumerate(kinds)]
        for k, name in enumerate(names):
            noise = np.random.default_rng(9 * i + k).integers(0, 256, (40, 60), np.uint8)
            file = io.BytesIO()
            Image.fromarray(noise).save(file, "JPEG" if name.endswith("jpg") else "PNG")
            pictures[name] = file.getvalue()
        turns = [{"from": "human", "value": f"What is in figure {i}?"}, {"from": "gpt", "value": f"Noise {i}."}]
        images = [f"images/{name}" for name in names]
        rows.append({"id": f"row_{i}", "image": images, "conversations": turns, "modality": "CT"})
    raw = folder / "raw"
    raw.mkdir()
    (raw / "PubMedVision_Alignment_VQA.json").write_text(json.dumps(rows))
    with zipfile.ZipFile(raw / "images_0.zip", "w") as archive:
        for name, data in pictures.items():
            archive.writestr(f"images/{name}", data)
    done = call_module("builders.pubmedvision", "--raw", str(raw), "--out", str(folder / "built"), "--quiet")
    assert done.returncode == 0, done.stderr
    return folder / "built" / "pubmedvision"


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_finds_every_picture_of_builds_whose_samples_differ(
    built: Path, mixed: Path, tmp_path: Path, streaming: bool
) -> None:
    """`datasets` infers columns from five samples; with our features nothing that comes later is lost."""
    builds = [mixed, built / "mimic_cxr.longitudinal", built / "slake"]
    code = f"""
import json
from datasets import load_dataset
from shards.hub import features
names = {[str(build) for build in builds]!r}
tars = {[tar for build in builds for tar in tars(build)]!r}
rows = load_dataset("webdataset", data_files=tars, split="train", streaming={streaming}, features=features(*names))
print(json.dumps([[row["__key__"], row["json"]["answer"], {{name: picture.size for name, picture in row.items()
                   if name.endswith(("jpg", "png")) and picture is not None}}] for row in rows]))"""
    expected = [
        [
            sample.record["id"],
            sample.record["answer"],
            {
                image["file"]: list(Image.open(io.BytesIO(data)).size)
                for image, data in zip(sample.record["images"], sample.images, strict=True)
            },
        ]
        for build in builds
        for sample in Build(build, role="train")
    ]
    assert datasets_rows(code, tmp_path) == expected
    assert sum(len(pictures) for _, _, pictures in expected[:12]) == 18
    assert {"0.jpg", "0.png", "1.png", "2.jpg"} <= {name for _, _, pictures in expected for name in pictures}


def test_features_of_builds_without_pictures(built: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted((built / "medqa" / "shards").glob("*train*.arrow"))]
    code = f"""
import json
from datasets import load_dataset
from shards.hub import features
rows = load_dataset("arrow", data_files={files!r}, split="train", features=features({str(built / "medqa")!r}))
print(json.dumps([row["id"] for row in rows]))"""
    assert datasets_rows(code, tmp_path) == Build(built / "medqa", role="train").ids
    with pytest.raises(UserError, match="some have tars and some Arrow shards; load them by two calls"):
        features(built)
    with pytest.raises(UserError, match=r"no build\.json here"):
        features(tmp_path)


def test_datasets_arrow(built: Path, tmp_path: Path) -> None:
    files = [str(path) for path in sorted((built / "medqa" / "shards").glob("*train*.arrow"))]
    code = f"""
import json
from datasets import load_dataset
rows = load_dataset("arrow", data_files={files!r}, split="train")
print(json.dumps([[row["id"], row["options"], row["answer"]] for row in rows]))"""
    expected = [[s.record["id"], s.record["options"], s.record["answer"]] for s in Build(built / "medqa", role="train")]
    assert datasets_rows(code, tmp_path) == expected


def test_polars(built: Path) -> None:
    shard = next((built / "medqa" / "shards").glob("*train*.arrow"))
    frame = polars.read_ipc(shard)
    assert frame["id"].to_list() == Build(built / "medqa", role="train").ids
    manifest = polars.read_parquet(built / "medqa" / "manifest" / "medqa-train-00000.parquet")
    assert manifest["sample_id"].to_list() == frame["id"].to_list()


def test_duckdb_shell(built: Path, tmp_path: Path) -> None:
    shell = Path(sys.executable).with_name("duckdb")
    call_module("manifests.catalog", str(built), check=True)
    for query, database in (  # the catalogue names files from its own folder
        ("SELECT count(*) AS n FROM samples WHERE build = 'medqa'", "manifest.duckdb"),
        (f"SELECT count(*) AS n FROM '{built}/medqa/manifest/medqa-*[0-9].parquet'", ":memory:"),
    ):
        done = subprocess.run(
            [str(shell), "-json", database, query], capture_output=True, text=True, timeout=60, cwd=built
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == [{"n": len(Build(built / "medqa"))}]


def test_reader_says_what_is_wrong(built: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no build\.json, so no finished build"):
        Build(tmp_path)
    (tmp_path / "build.json").write_text("{")
    with pytest.raises(UserError, match=r"build\.json: cannot be read \(JSONDecodeError.*build it again"):
        Build(tmp_path)
    document = orjson.loads((built / "medqa" / "build.json").read_bytes())
    (tmp_path / "build.json").write_bytes(orjson.dumps(document))
    with pytest.raises(UserError, match=r"medqa-.*parquet: named in build\.json, but not there; build it again"):
        Build(tmp_path)


def test_manifest_tokens_and_stems_by_another_way(built: Path) -> None:
    import bpe_openai

    encoding = bpe_openai.get_encoding("o200k_base")
    parts = sorted((built / "medqa" / "manifest").glob("*[0-9].parquet"))
    rows = {row["sample_id"]: row for part in parts for row in pq.read_table(part).to_pylist()}
    for sample in Build(built / "medqa"):
        texts = [part["text"] for message in sample.record["messages"] for part in message["content"]]
        assert rows[sample.record["id"]]["text_tokens"] == sum(len(encoding.encode(text)) for text in texts)
    assert load("medqa").license in {row["license"] for row in rows.values()}


def test_altered_offsets_of_an_arrow_shard_end_no_reader(built: Path, tmp_path: Path) -> None:
    """In a process of its own: pyarrow would follow them out of the file. A stream that compares sizes alone, too."""
    shutil.copytree(built / "medqa", tmp_path / "built" / "medqa")
    code = f"""
import random, sys
from pathlib import Path
sys.path.insert(0, "tests")
from stream_source import Order
from medgpt.errors import UserError
from shards.certified import load_certified
from shards.reader import Build, arrow_file
from shards.storage import Storage
from shards.stream import Stream
data = Path({str(tmp_path)!r})
certified = load_certified(data, uncertified=True)
shard = max(data.glob("built/medqa/shards/medqa-train*.arrow"), key=lambda path: path.stat().st_size)
whole, chance, refused, stopped = shard.read_bytes(), random.Random(5), 0, 0
for _ in range(80):
    at = chance.randrange(len(whole) // 4) * 4
    shard.unlink()
    shard.write_bytes(whole[:at] + bytes.fromhex("ffffff7f") + whole[at + 4:])
    arrow_file.cache_clear()
    try:
        list(Build(shard.parents[1]))
    except UserError as error:
        assert shard.name in str(error)
        refused += 1
    try:
        for sample in Stream(certified, Order(certified), storage=Storage(data, verify="size")):
            sample.record
    except UserError as error:
        assert shard.name in str(error)
        stopped += 1
print(refused, stopped)"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert min(map(int, done.stdout.split())) > 20


def test_datasets_reads_every_part(built: Path, tmp_path: Path) -> None:
    """A file without rows would stop it; and each folder of parts holds rows of one kind."""
    kinds = {"manifest": "samples", "images": "images", "thumbnails": "thumbnails"}
    files = {kind: [str(path) for path in sorted(built.glob(f"*/{kind}/*.parquet"))] for kind in kinds}
    code = f"""
import json
from datasets import load_dataset
print(json.dumps({{kind: load_dataset("parquet", data_files=names, split="train").num_rows
                  for kind, names in {files!r}.items()}}))"""
    with connect(built) as connection:
        counted = {
            kind: connection.execute(f"SELECT count(*) FROM {view}").fetchone()[0] for kind, view in kinds.items()
        }
    assert datasets_rows(code, tmp_path) == counted
    assert counted["manifest"] == sum(
        len(Build(folder)) for folder in built.iterdir() if (folder / "build.json").exists()
    )
    for kind, number in counted.items():
        assert polars.scan_parquet(files[kind]).select(polars.len()).collect().item() == number
        assert duckdb.sql(f"SELECT count(*) FROM '{built}/*/{kind}/*.parquet'").fetchall() == [(number,)]
    assert all(pq.read_metadata(path).num_rows for path in built.glob("*/*/*.parquet"))
