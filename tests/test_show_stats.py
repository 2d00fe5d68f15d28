"""`shards.stats` against counting row by row; `shards.show` against the stored sample, altered and hostile ones too."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import call_module

from manifests.catalog import load_builds
from manifests.parts import MANIFEST_VERSION, SAMPLES, PartRows
from manifests.proof.certificate import CERTIFICATE_FORMAT, write_certificate
from manifests.proof.trust import FILES
from medgpt.digest import file_sha256, sealed
from medgpt.errors import UserError
from shards.reader import Build
from shards.show import ShownSample, as_html, as_text, load_sample
from shards.stats import as_html as stats_html
from shards.stats import collect

SHARED = "main h2 { margin: 1.5rem 0 .25rem;"
"""Of the style of a sample, which the page of `medgpt browse` shares."""
SOURCES = ("slake", "medquad", "gemex_thinkvg", "gmai_reasoning10k", "medqa")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five demo builds, one of them credentialed, two of text; SLAKE in a second reading, too."""
    folder = tmp_path_factory.mktemp("show")
    raw, out = str(folder / "raw"), str(folder / "built")
    done = call_module("builders.all", "--demo", "--raw", raw, "--out", out, "--workers", "1", "--only", *SOURCES)
    assert done.returncode in (0, 3), done.stderr
    call_module(
        "builders.slake",
        "--paper-variant",
        "--raw",
        f"{raw}/slake",
        "--out",
        out,
        "--quiet",
        "--workers",
        "1",
        check=True,
    )
    # As a proof would write it (manifests/prove.py): what takes out three samples.
    rows = [
        {"train_build": "slake", "train_sample": sample, "unit": "u", "reasons": ["near_image/whole"], "evidence": 1}
        for sample in Build(folder / "built" / "slake", role="train").ids[:3]
    ]
    proof = folder / "built" / "proof"
    proof.mkdir()
    for name in FILES:
        pq.write_table(pa.Table.from_pylist(rows), proof / f"{name}.parquet")
    builds = [one.record for one in load_builds(folder / "built")]
    write_certificate(proof, {
        "format": CERTIFICATE_FORMAT, "files": {name: file_sha256(proof / file).hex() for name, file in FILES.items()},
        "builds": [{"build": one["build"], "root": one["root"], "inputs": None} for one in builds],
    })  # fmt: skip
    return folder / "built"


def manifest_rows(data: Path) -> list[dict[str, Any]]:
    return [row for path in data.glob("*/manifest/*.parquet") for row in pq.read_table(path).to_pylist()]


def test_statistics_are_those_of_counting_row_by_row(data: Path) -> None:
    done = call_module("shards.stats", str(data), "--json", check=True)
    found = json.loads(done.stdout)
    rows = manifest_rows(data)
    assert len(rows) > 100
    for row in rows:
        row["all"] = row["text_tokens"] + 144 * row["tiles"] + 2 * row["n_images"]
    builds = {(row["build"], row["role"], row["split"]): row for row in found["builds"]}
    for key in {(row["build"], row["role"], row["split"]) for row in rows}:
        of = [row for row in rows if (row["build"], row["role"], row["split"]) == key]
        lengths = sorted(row["all"] for row in of)
        shown = builds.pop(key)
        assert shown["samples"] == len(of)
        assert shown["text_tokens"] == sum(row["text_tokens"] for row in of)
        assert shown["tiles"] == sum(row["tiles"] for row in of)
        assert shown["images"] == sum(row["n_images"] for row in of)
        assert (shown["tokens"], shown["longest"]) == (sum(lengths), lengths[-1])
        assert abs(shown["mean_tokens"] - sum(lengths) / len(lengths)) <= 0.5
    assert not builds
    licences = Counter((row["license"], row["access"], row["role"]) for row in rows)
    assert {(r["licence"], r["access"], r["role"]): r["samples"] for r in found["licences"]} == dict(licences)
    bits = Counter((row["role"], row["all"].bit_length()) for row in rows)
    assert {(r["role"], r["bits"]): r["samples"] for r in found["lengths"]} == dict(bits)
    tiles = Counter((row["role"], row["tiles"]) for row in rows if row["n_images"])
    assert {(r["role"], r["tiles"]): r["samples"] for r in found["tiles"]} == dict(tiles)
    excluded = Counter(pq.read_table(data / "proof" / "exclusions.parquet")["train_build"].to_pylist())
    assert excluded
    assert found["excluded"] == dict(excluded)


def synthetic_build(folder: Path, tokens: list[int]) -> None:
    """A build with nothing but a manifest part, whose samples have these numbers of tokens."""
    constants = {"build": "made", "unit": "u", "source": "made", "role": "train", "split": "train", "stage": "instruct"}
    path = folder / "made" / "manifest" / "made-u.parquet"
    columns = PartRows(SAMPLES, constants | {"access": "open", "metadata_only": False}, path, "none")
    for number, count in enumerate(tokens):
        row = dict.fromkeys(SAMPLES.names)
        row |= {
            "sample_id": f"made/train/{number}",
            "task": "qa",
            "license": "MIT",
            "shard": "s.arrow",
            "offset": number,
        }
        row |= {
            "length": 5,
            "sha256": bytes(32),
            "n_images": 0,
            "tiles": 0,
            "text_tokens": count,
            "file": "f",
            "row": "0",
        }
        columns.append(row)
    (folder / "made" / "manifest").mkdir(parents=True)
    parts = []
    if columns.write():
        parts = [{"file": "manifest/made-u.parquet", "bytes": path.stat().st_size, "sha256": ""}]
    unit = {"unit": "u", "role": "train", "split": "train", "read": len(tokens), "kept": len(tokens), "rejected": 0}
    source = dict.fromkeys(
        ("name", "title", "homepage", "revision", "license", "access", "stage", "task", "modality", "paper"), "made"
    )
    document = {
        "format": 1, "build": "made", "source": source, "parameters": {}, "limit": None, "metadata_only": False,
        "code_sha256": "", "fingerprint_recipe": "none", "schema_version": 1, "manifest_version": MANIFEST_VERSION,
        "published": {}, "counts": {}, "root": "",
        "units": [unit | {"images": 0, "damaged": 0, "shards": [], "parts": parts}],
    }  # fmt: skip
    (folder / "made" / "build.json").write_text(json.dumps(document))


def test_lengths_fall_into_the_bin_they_belong_to(tmp_path: Path) -> None:
    """Around every power of two, where a rounded logarithm would be wrong first."""
    tokens = [0] + [(1 << k) + d for k in range(1, 31) for d in (-1, 0, 1)]
    synthetic_build(tmp_path, tokens)
    found = {row["bits"]: row["samples"] for row in collect(tmp_path).tables["lengths"]}
    assert found == dict(Counter(count.bit_length() for count in tokens))


def test_the_page_of_statistics_needs_nothing_else(data: Path, tmp_path: Path) -> None:
    done = call_module("shards.stats", str(data), "--html", str(tmp_path / "stats.html"), check=True)
    assert "Licences and access" in done.stdout
    assert "█" in done.stdout
    page = (tmp_path / "stats.html").read_text()
    assert page.count("<svg") >= 4
    assert not re.search(r"(src|href)=|<script|url\(|http:|https:", page)
    assert "default-src 'none'" in page
    statistics = collect(data)
    assert page == stats_html(statistics)
    statistics.tables["builds"][0]["build"] = "<script>"
    assert "<script>" not in stats_html(statistics)


def test_statistics_of_nothing(tmp_path: Path) -> None:
    done = call_module("shards.stats", str(tmp_path))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    synthetic_build(tmp_path, [])
    assert call_module("shards.stats", str(tmp_path)).returncode == 0


@pytest.mark.parametrize("name", ["slake", "medquad", "gemex_thinkvg", "gmai_reasoning10k", "medqa"])
def test_a_sample_is_shown_as_it_is_stored(data: Path, name: str) -> None:
    build = Build(data / name)
    for number in (0, len(build) - 1):
        stored = build[number]
        shown = load_sample(data, stored.record["id"], build=name)
        assert shown.record == stored.record
        assert shown.pictures == stored.images
        assert shown.altered == []
        text, page = as_text(shown), as_html(shown)
        squeezed = " ".join(text.split())
        for message in stored.record["messages"]:
            for part in message["content"]:
                if part["type"] == "text":
                    assert " ".join(part["text"].split()) in squeezed
        for picture, image in zip(stored.images, shown.images, strict=True):
            assert base64.b64encode(picture).decode() in page
            assert hashlib.sha256(picture).hexdigest() == image["stored_sha256"]
            assert image["stored_sha256"] in text
        for value in (stored.record["license"], shown.row["sha256"], stored.record["provenance"]["file"]):
            assert value in text
            assert value in html.unescape(page)


def test_exclusions_are_told(data: Path) -> None:
    exclusions = pq.read_table(data / "proof" / "exclusions.parquet").to_pylist()
    first = exclusions[0]
    shown = load_sample(data, first["train_sample"], build=first["train_build"])
    assert shown.excluded == first["reasons"]
    assert f"taken out: {first['reasons'][0]}" in as_text(shown)


def test_no_sample_is_kept_by_a_proof_of_another_build_or_by_other_lists(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = pq.read_table(data / "proof" / "exclusions.parquet").to_pylist()[0]
    copy = shutil.copytree(data, tmp_path / "data")
    path = copy / first["train_build"] / "build.json"
    path.write_text(json.dumps(sealed(json.loads(path.read_text()) | {"parameters": {"other": 1}})))
    shown = load_sample(copy, first["train_sample"], build=first["train_build"])
    assert shown.excluded is None and "none of this build" in as_text(shown)
    shutil.copy(data / first["train_build"] / "build.json", path)
    exclusions = copy / "proof" / "exclusions.parquet"
    pq.write_table(pq.read_table(exclusions).slice(0, 0), exclusions)
    assert load_sample(copy, first["train_sample"], build=first["train_build"]).excluded is None
    assert "exclusions.parquet: missing, or not the list of the certificate" in capsys.readouterr().err


def test_pictures_of_credentialed_samples_only_where_asked_for(data: Path, tmp_path: Path) -> None:
    name = Build(data / "gemex_thinkvg").ids[0]
    done = call_module("shards.show", str(data), name, check=True)
    assert done.stdout.startswith("credentialed: ")
    assert "[picture 0]" in done.stdout
    file = tmp_path / "sample.html"
    asked = call_module("shards.show", str(data), name, "--html", str(file), check=True)
    assert "credentialed: " in asked.stdout
    assert "credentialed: " in file.read_text()
    assert 'src="data:image/jpeg;base64,' in file.read_text()
    assert SHARED in file.read_text()
    assert "credentialed" not in call_module("shards.show", str(data), "slake/train/0", "--build", "slake").stdout


def test_a_build_without_samples_of_a_role_is_said_to_have_none(data: Path) -> None:
    with pytest.raises(UserError, match="medquad: no samples of role eval"):
        Build(data / "medquad", role="eval")


def test_random_samples_follow_the_seed(data: Path) -> None:
    chosen = [load_sample(data, None, seed=seed).row for seed in range(12)]
    assert [load_sample(data, None, seed=seed).row for seed in range(12)] == chosen
    assert len({row["sample_id"] for row in chosen}) >= 10
    assert len({row["build"] for row in chosen}) >= 2
    of_build = {load_sample(data, None, build="medquad", seed=seed).row["build"] for seed in range(3)}
    assert of_build == {"medquad"}
    assert call_module("shards.show", str(data), "--random", "--seed", "3", check=True).stdout.count("sha256") >= 1


def test_ids_that_are_not_one_sample(data: Path) -> None:
    for arguments, said in (
        (["slake/train/none"], "--random"),
        (["e/train/1"], "ids like it: "),
        (["slake/train/1"], "several builds (slake, slake.paper); choose one with --build"),
        (["slake/train/1", "--build", "medqa"], "in build medqa"),
        (["--random", "--build", "none"], "no sample in build 'none'"),
    ):
        done = call_module("shards.show", str(data), *arguments)
        assert done.returncode == 2, arguments
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
    for arguments in ([], ["slake/train/1", "--random"]):
        assert call_module("shards.show", str(data), *arguments).returncode == 2


def test_altered_and_missing_bytes_are_said(data: Path, tmp_path: Path) -> None:
    for name in ("slake", "medquad"):
        shutil.copytree(data / name, tmp_path / name)
    build = Build(tmp_path / "slake")
    shown = load_sample(tmp_path, build.ids[0])
    shard = tmp_path / "slake" / "shards" / shown.row["shard"]
    content = bytearray(shard.read_bytes())
    content[shown.images[0]["offset"] + 100] ^= 1
    shard.write_bytes(content)
    done = call_module("shards.show", str(tmp_path), build.ids[0])
    assert done.returncode == 1
    assert "ALTERED: picture 0" in done.stdout
    question = content.index(b'"messages"', shown.row["offset"])
    content[question + 1] ^= 1
    shard.write_bytes(content)
    done = call_module("shards.show", str(tmp_path), build.ids[0])
    assert done.returncode == 2
    assert f"{build.ids[0]} was altered" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    shard.unlink()
    for text in (tmp_path / "medquad" / "shards").iterdir():
        text.write_bytes(text.read_bytes()[:100])
    for source in ("slake", "medquad"):
        done = call_module("shards.show", str(tmp_path), Build(data / source).ids[0])
        assert done.returncode == 2
        assert "run the builder again" in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_nothing_in_a_sample_reaches_the_terminal_or_the_page_as_code(data: Path) -> None:
    shown = load_sample(data, Build(data / "medqa").ids[0])
    evil = "\x1b[2J\x07<img src=x onerror=alert(1)>&"
    record = shown.record | {"answer": evil, "options": [{"label": evil, "text": evil}], "id": evil}
    record["messages"] = [
        {"role": "user", "reasoning": evil, "content": [{"type": "text", "text": evil, "index": None}]}
    ]
    record["provenance"] = {"file": evil, "row": f"a\n{evil}"}
    hostile = ShownSample(record, shown.row, [], [], [], [evil])
    assert "\x1b" not in as_text(hostile)
    assert "\x07" not in as_text(hostile)
    assert "<img" not in as_html(hostile)
