"""`manifests.prove`: evidence against independent counts, policy and exclusions, determinism, resuming, refusals."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, run_module, tree_digest

from manifests.catalog import load_builds
from manifests.proof.certificate import certificate_root, incomplete, read_certificate
from manifests.proof.policy import DEFAULT_POLICY, load_policy
from manifests.prove import main, prove
from medgpt.atomic import held
from medgpt.digest import build_root, file_sha256

BUILDS = (("slake", ()), ("slake", ("--paper-variant",)), ("pubmedqa", ("--paper-variant",)), ("medqa", ()))
PRESENT = ("--benchmarks", "present", "--no-rewrites", "--quiet")
Row = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demo builds with leaks planted in them."""
    folder = tmp_path_factory.mktemp("prove")
    for name, options in BUILDS:
        raw = folder / "raw" / name
        demo = [] if raw.exists() else ["--demo"]
        done = run_module(
            f"builders.{name}", *demo, "--raw", str(raw), "--out", str(folder / "built"), "--quiet", *options
        )
        assert done.returncode == 0, done.stderr
    return folder / "built"


@pytest.fixture(scope="module")
def proof(built: Path) -> Path:
    """Its proof, under the default policy."""
    done = run_module(
        "manifests.prove", str(built), "--benchmarks", "present", "--workers", "2", "--no-rewrites", "--quiet"
    )
    assert done.returncode == 0, done.stderr
    assert "proved" in done.stdout
    return built / "proof"


def parts(built: Path, kind: str) -> list[Row]:
    """Every manifest row of a kind, read without the catalogue."""
    rows: list[Row] = []
    for path in sorted(built.glob(f"*/{'images' if kind == 'images' else 'manifest'}/*.parquet")):
        rows += pq.read_table(path).to_pylist()
    return rows


def pairs(rows: list[Row], key: Callable[[Row], Any], identity: Callable[[Row], Any]) -> set[Any]:
    """(value, train, eval) of every pair of rows with equal values, by dictionaries."""
    sides: dict[str, dict[Any, set[Any]]] = {"train": defaultdict(set), "eval": defaultdict(set)}
    for row in rows:
        if key(row) is not None:
            sides[row["role"]][key(row)].add(identity(row))
    return {
        (value, train, test)
        for value in sides["train"].keys() & sides["eval"].keys()
        for train, test in itertools.product(sides["train"][value], sides["eval"][value])
    }


def found(proof: Path, level: str, kind: str) -> list[Row]:
    rows = pq.read_table(proof / "evidence.parquet").to_pylist()
    return [row for row in rows if (row["level"], row["kind"]) == (level, kind)]


def test_id_evidence_is_every_pair_of_equal_ids(built: Path, proof: Path) -> None:
    samples, images = parts(built, "samples"), parts(built, "images")
    for kind in ("pmid", "question_id", "image_id"):
        rows = images if kind == "image_id" else samples
        expected = pairs(rows, lambda row, kind=kind: row[kind], lambda row: (row["build"], row["sample_id"]))
        rows = found(proof, "id", kind)
        seen = {(r["value"], (r["train_build"], r["train_sample"]), (r["eval_build"], r["eval_sample"])) for r in rows}
        assert len(seen) == len(rows)
        assert seen == expected
        assert expected or kind == "question_id"


@pytest.mark.parametrize(("kind", "column"), [("bytes", "sha256"), ("pixels", "pixel_sha256")])
def test_exact_image_evidence_is_every_pair_of_equal_digests(built: Path, proof: Path, kind: str, column: str) -> None:
    expected = pairs(
        parts(built, "images"),
        lambda row: row[column].hex() if row[column] else None,
        lambda row: (row["build"], row["sample_id"], row["index"]),
    )
    seen = {
        (r["value"], (r["train_build"], r["train_sample"], r["train_index"]),
         (r["eval_build"], r["eval_sample"], r["eval_index"]))
        for r in found(proof, "exact_image", kind)
    }  # fmt: skip
    assert seen == expected != set()


def test_exact_text_evidence_is_every_pair_of_equal_questions_without_pictures(built: Path, proof: Path) -> None:
    expected = pairs(
        [row for row in parts(built, "samples") if not row["n_images"]],
        lambda row: row["stem_options_sha256"].hex() if row["stem_options_sha256"] else None,
        lambda row: (row["build"], row["sample_id"]),
    )
    seen = {
        (r["value"], (r["train_build"], r["train_sample"]), (r["eval_build"], r["eval_sample"]))
        for r in found(proof, "exact_text", "stem_options")
    }
    assert seen == expected != set()


def test_equal_pictures_are_near_pictures_and_equal_items_are_near_texts(built: Path, proof: Path) -> None:
    """The near levels contain the exact ones, as far as pixels have structure."""

    def ends(row: Row) -> tuple[Any, ...]:
        return row["train_build"], row["train_sample"], row["train_index"], row["eval_build"], row["eval_sample"]

    near = {ends(row) for row in found(proof, "near_image", "whole")}
    assert {ends(row) for row in found(proof, "exact_image", "pixels")} <= near
    stems = {ends(row) for kind in ("stem", "stem_answer") for row in found(proof, "near_text", kind)}
    assert {ends(row) for row in found(proof, "exact_text", "stem_options")} <= stems


def test_exclusions_are_the_train_samples_that_the_policy_names(built: Path, proof: Path) -> None:
    rows = pq.read_table(proof / "evidence.parquet").to_pylist()
    expected: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        if row["action"] == "exclude":
            expected[row["train_build"], row["train_sample"]].append(row)
    units = {(row["build"], row["sample_id"]): row["unit"] for row in parts(built, "samples")}
    exclusions = pq.read_table(proof / "exclusions.parquet").to_pylist()
    assert [(row["train_build"], row["train_sample"]) for row in exclusions] == sorted(expected)
    for row in exclusions:
        key = row["train_build"], row["train_sample"]
        assert row["unit"] == units[key]
        assert row["reasons"] == sorted({f"{e['level']}/{e['kind']}" for e in expected[key]})
        assert row["evidence"] == len(expected[key])
        assert row["eval_samples"] == len({(e["eval_build"], e["eval_sample"]) for e in expected[key]})
    roles = {(row["build"], row["sample_id"]): row["role"] for row in parts(built, "samples")}
    assert all(roles[key] == "train" for key in expected)


def test_the_certificate_counts_what_the_evidence_holds(built: Path, proof: Path) -> None:
    certificate = read_certificate(proof)
    rows = pq.read_table(proof / "evidence.parquet").to_pylist()
    names = ("train_build", "eval_build", "eval_split", "level", "kind", "action")
    cells: dict[Any, list[Row]] = defaultdict(list)
    for row in rows:
        cells[tuple(row[name] for name in names)].append(row)
    assert [tuple(row[name] for name in names) for row in certificate["matrix"]] == sorted(cells)
    for row in certificate["matrix"]:
        cell = cells[tuple(row[name] for name in names)]
        counts = len(cell), len({e["train_sample"] for e in cell}), len({e["eval_sample"] for e in cell})
        assert (row["pairs"], row["train_samples"], row["eval_samples"]) == counts
    for name in ("evidence", "exclusions", "common"):
        assert certificate["files"][name] == file_sha256(proof / f"{name}.parquet").hex()
    assert {b["build"]: b["root"] for b in certificate["builds"]} == {
        build.record["build"]: build.record["root"] for build in load_builds(built)
    }
    assert certificate["policy"] == yaml.safe_load(DEFAULT_POLICY.read_text())
    assert certificate["clean"] is True
    assert certificate["after"] == []
    assert certificate["root"] == certificate_root(certificate)


def test_the_order_of_evidence_is_fixed_and_no_row_comes_twice(proof: Path) -> None:
    names = ("level", "kind", "train_build", "train_sample", "train_index", "eval_build", "eval_sample", "eval_index")
    rows = [
        tuple(
            "" if row[n] is None else row[n] if isinstance(row[n], str) else f"{row[n]:09d}" for n in (*names, "value")
        )
        for row in pq.read_table(proof / "evidence.parquet").to_pylist()
    ]
    assert rows == sorted(set(rows))


def test_same_bytes_for_any_number_of_workers(built: Path, proof: Path, tmp_path: Path) -> None:
    prove(built, tmp_path, load_policy(), workers=1, only_present=True, no_rewrites=True)
    names = ("evidence.parquet", "exclusions.parquet", "common.parquet", "certificate.json", "report.html")
    for name in names:
        assert (tmp_path / name).read_bytes() == (proof / name).read_bytes(), name


def test_a_killed_proof_goes_on_and_ends_in_the_same_bytes(built: Path, proof: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "manifests.prove", str(built), "--out", str(tmp_path), "--workers", "2", *PRESENT]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    chance = random.Random(4)
    for _ in range(4):
        process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(chance.uniform(0.5, 2.5))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = run_module(*command[2:])
    assert done.returncode == 0, done.stderr
    for path in proof.glob("*.*"):
        if path.is_file():
            assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    assert not list(tmp_path.glob("*.tmp"))


def test_what_was_done_is_not_done_again(built: Path, tmp_path: Path) -> None:
    prove(built, tmp_path, load_policy())
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / ".work").iterdir() if "near" in path.name}
    assert before
    prove(built, tmp_path, load_policy())
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / ".work").iterdir() if "near" in path.name} == before


def policy_file(tmp_path: Path, rules: list[Row]) -> Path:
    content = yaml.safe_load(DEFAULT_POLICY.read_text()) | {"rules": rules}
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_forbidden_evidence_that_no_exclusion_removes_is_a_failure(built: Path, tmp_path: Path) -> None:
    policy = policy_file(tmp_path, [{"level": "id", "kinds": ["pmid"], "action": "forbid"}])
    done = run_module("manifests.prove", str(built), "--policy", str(policy), "--out", str(tmp_path / "p"), *PRESENT)
    assert done.returncode == 1, done.stderr
    assert "NOT proved" in done.stdout
    certificate = read_certificate(tmp_path / "p")
    [left] = certificate["after"]
    assert (left["level"], left["kind"], left["action"]) == ("id", "pmid", "forbid")
    assert left["pairs"] == len(
        pairs(parts(built, "samples"), lambda r: r["pmid"], lambda r: (r["build"], r["sample_id"]))
    )
    assert certificate["clean"] is False


def test_forbidden_evidence_of_excluded_samples_is_gone(built: Path, tmp_path: Path) -> None:
    rules = [
        {"level": "id", "kinds": ["pmid"], "action": "forbid"},
        {"level": "id", "kinds": ["question_id"], "action": "exclude"},
    ]
    policy = policy_file(tmp_path, rules)
    done = run_module("manifests.prove", str(built), "--policy", str(policy), "--out", str(tmp_path / "p"), *PRESENT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_benchmark_that_is_missing_or_short_is_named_and_ends_with_4(
    built: Path, proof: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [rows] = [
        unit["read"] for build in load_builds(built) if build.record["build"] == "medqa"
        for unit in build.record["units"] if unit["split"] == "test"
    ]  # fmt: skip
    asked = {
        "held": [{"name": "MedQA", "of": ["medqa"], "splits": {"test": rows}}],
        "short": [{"name": "MedQA", "of": ["medqa", "other"], "splits": {"test": rows + 100}}],
        "missing": [{"name": "Other", "of": ["medqa"], "splits": {"test": 1, "hidden": 9}}],
        "present": "present",
    }
    found = {}
    for name, benchmarks in asked.items():
        out = tmp_path / name
        shutil.copytree(proof / ".work", out / ".work")
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(yaml.safe_load(DEFAULT_POLICY.read_text()) | {"benchmarks": benchmarks}))
        code = main([str(built), "--policy", str(file), "--out", str(out), "--workers", "1", "--quiet"])
        document = read_certificate(out)
        found[name] = code, capsys.readouterr().out, document["benchmarks"], bool(incomplete(document))
    held = {"asked": "policy", "held": [{"name": "MedQA", "builds": ["medqa"]}], "missing": []}
    assert (found["held"][0], *found["held"][2:]) == (0, held, False)
    code, said, document, lacking = found["short"]
    assert code == 4 and lacking and "not held, or not whole: MedQA" in said
    assert document["missing"] == [{"name": "MedQA", "splits": {"test": {"rows": rows + 100, "read": rows}}}]
    code, _, document, _ = found["missing"]
    assert (code, document["missing"]) == (4, [{"name": "Other", "splits": {"hidden": {"rows": 9, "read": 0}}}])
    code, said, document, lacking = found["present"]
    assert code == 0 and lacking and document["asked"] == "present" and "no benchmark was asked for" in said


def test_a_dry_run_writes_nothing(built: Path) -> None:
    before = tree_digest(built)
    done = run_module("manifests.prove", str(built), "--out", str(built / "nowhere"), "--dry-run")
    assert done.returncode == 0
    assert "would be compared" in done.stdout
    assert tree_digest(built) == before


# What a proof must not rest on.


def altered(folder: Path, change: Callable[[Row], None]) -> None:
    """Change build.json and give it the root that then fits."""
    path = folder / "build.json"
    record = json.loads(path.read_bytes())
    change(record)
    record["root"] = build_root(record)
    path.write_bytes(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))


def drop_units(role: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        for folder in data.iterdir():
            altered(folder, lambda record: record.update(units=[u for u in record["units"] if u["role"] != role]))

    return change


def cut(pattern: str) -> Callable[[Path], None]:
    def change(data: Path) -> None:
        path = sorted(data.glob(pattern))[0]
        path.write_bytes(path.read_bytes()[:-7])

    return change


def flip(data: Path) -> None:
    path = sorted(data.glob("medqa/manifest/*.parquet"))[0]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def repeat_a_row(data: Path) -> None:
    """The first row of a part twice, with every digest mended."""
    folder = data / "medqa"
    path = sorted(folder.glob("manifest/*train*.parquet"))[0]
    table = pq.read_table(path)
    pq.write_table(table.take([0, *range(len(table))]), path)

    def change(record: Row) -> None:
        for unit in record["units"]:
            for part in unit["parts"]:
                part.update(
                    bytes=(folder / part["file"]).stat().st_size, sha256=file_sha256(folder / part["file"]).hex()
                )

    altered(folder, change)


REFUSALS = {
    "no eval side": (drop_units("eval"), "no test samples"),
    "no train side": (drop_units("train"), "no train samples"),
    "half-written part": (cut("medqa/manifest/*.parquet"), "build it again"),
    "altered part": (flip, "altered"),
    "manifests shared without thumbnails": (
        lambda data: shutil.rmtree(data / "slake" / "thumbnails"),
        "not there; copy the build with its thumbnails, or build it again",
    ),
    "missing shard": (lambda data: sorted(data.glob("medqa/shards/*"))[0].unlink(), "missing; build it again"),
    "half-written shard": (cut("slake/shards/*.tar"), "were written; build it again"),
    "other manifest version": (
        lambda data: altered(data / "medqa", lambda record: record.update(manifest_version=99)),
        "manifest version 99",
    ),
    "other recipe": (
        lambda data: altered(data / "medqa", lambda record: record.update(fingerprint_recipe="other")),
        "different recipes",
    ),
    "root that does not fit": (
        lambda data: (data / "medqa" / "build.json").write_bytes(
            (data / "medqa" / "build.json").read_bytes().replace(b'"published"', b'"Published"', 1)
        ),
        "",
    ),
    "duplicate ids": (repeat_a_row, "occurs twice"),
    "no builds": (lambda data: [shutil.rmtree(folder) for folder in data.iterdir()], "no build.json"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_a_proof_cannot_rest_on_is_refused_in_one_line(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, says = REFUSALS[name]
    data = tmp_path / "data"
    for build in ("medqa", "slake"):
        shutil.copytree(built / build, data / build)
    change(data)
    assert main([str(data), "--quiet", "--workers", "1"]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert not (data / "proof" / "certificate.json").exists()


def test_an_unfinished_build_is_no_build(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(built / "medqa", tmp_path / "medqa")
    (tmp_path / "medqa" / "build.json").unlink()
    assert main([str(tmp_path), "--quiet"]) == 2
    assert "no build.json" in capsys.readouterr().err


def test_a_proof_that_cannot_be_written_is_no_proof(
    built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Code 1 would say that there is one, and that something is left."""
    (tmp_path / "file").touch()
    assert main([str(built), "--out", str(tmp_path / "file" / "proof"), "--quiet"]) == 2
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert str(tmp_path / "file") in printed


def test_two_proofs_in_one_folder_do_not_meet(built: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".work").mkdir()
    with held(tmp_path / ".work/lock", ValueError()):
        assert main([str(built), "--out", str(tmp_path), *PRESENT]) == 2
    assert "another process is proving there; wait for it\n" in capsys.readouterr().err
