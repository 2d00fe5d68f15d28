"""`--probe`: trees as publishers ship them, and forty that are not: each is named by what was seen, none is silent."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_module
from outcomes import parameters

from builders.demos import mimic_cxr as demo_mimic
from builders.engine import tables
from builders.engine.probe import probe, probe_text
from builders.engine.registry import load, modules

NAMES = tuple(modules())
Alter = Callable[[Path], Path | None]
"""Changes a demo tree; returns another folder to be given as `--raw`, or None."""


class Trees(dict[str, tuple[Path, str, dict[str, Any]]]):
    """Demo trees by source, each with what the probe says and sees of it as it is."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> tuple[Path, str, dict[str, Any]]:
        raw = self.root / name
        if name == "mimic_cxr":  # the whole one takes half a minute
            demo_mimic.write(raw, subjects=20)
        else:
            load(name).write_demo(raw)
        self[name] = raw, *said(name, raw)[1:]
        return self[name]


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    return Trees(tmp_path_factory.mktemp("trees"))


def said(name: str, raw: Path, **given: Any) -> tuple[int, str, dict[str, Any]]:
    """(exit code, text, all that is seen) of a tree, pictures included."""
    source = load(name)
    seen = probe(source, raw, parameters(source, **{"no_images": False, **given}))
    json.dumps(seen)
    return seen["exit_code"], probe_text(source, seen), seen


@pytest.mark.parametrize("name", NAMES)
def test_every_demo_tree_is_seen_for_what_it_is(name: str, trees: Trees) -> None:
    """A known layout, nothing damaged, no column or row of it beyond what is known but the number of rows."""
    seen = trees[name][2]
    assert "refused" not in seen
    assert seen["layouts"]
    published = load(name).published(parameters(load(name)))
    fewer = {split for split in seen["splits"] if split in published}
    assert seen["exit_code"] == (4 if fewer else 0)
    assert all(re.fullmatch(r"\w+: [\d,]+ rows, [\d,]+ fewer \(known: [\d,]+\)", line) for line in seen["differs"])
    for about in seen["splits"].values():
        assert about["counted"] and about["rows"] >= about["first_rows"] > 0 == about["damaged"]


# Alterations


def table(raw: Path, pattern: str, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the rows of a Parquet, JSON or CSV file; `change` edits the list, or returns another."""
    [path] = raw.glob(pattern)
    if path.suffix == ".parquet":
        rows = pq.read_table(path).to_pylist()
    elif path.suffix == ".csv":
        rows = list(csv.DictReader(path.open(newline="")))
    else:
        text = path.read_text()
        rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    rows = change(rows) or rows
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "\n".join(map(json.dumps, rows))
        path.write_text(f"[{','.join(map(json.dumps, rows))}]" if path.suffix == ".json" else lines + "\n")


def renamed(pattern: str, old: str, new: str) -> Alter:
    def alter(raw: Path) -> None:
        table(raw, pattern, lambda rows: [{new if k == old else k: v for k, v in row.items()} for row in rows])

    return alter


def set_to(pattern: str, **values: Any) -> Alter:
    def alter(raw: Path) -> None:
        table(raw, pattern, lambda rows: [row | values for row in rows])

    return alter


def cut(pattern: str, share: float = 0.5) -> Alter:
    def alter(raw: Path) -> None:
        [path] = raw.glob(pattern)
        os.truncate(path, int(path.stat().st_size * share))

    return alter


def written(pattern: str, data: bytes) -> Alter:
    def alter(raw: Path) -> None:
        [path] = raw.glob(pattern)
        path.write_bytes(data)

    return alter


def without(*patterns: str) -> Alter:
    def alter(raw: Path) -> None:
        for pattern in patterns:
            found = sorted(raw.glob(pattern))
            assert found
            for path in found:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    return alter


def added(name: str, data: bytes = b"{}") -> Alter:
    def alter(raw: Path) -> None:
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_bytes(data)

    return alter


def every_second_picture(raw: Path) -> None:
    for path in sorted(raw.rglob("*.jpg"))[::2]:
        path.unlink()


def repeated(pattern: str, count: int) -> Alter:
    """As many rows, each with an id of its own."""

    def alter(raw: Path) -> None:
        table(
            raw,
            pattern,
            lambda rows: [rows[0] | {"id": f"{number:08x}-0000-4000-8000-000000000000"} for number in range(count)],
        )

    return alter


def other_release(raw: Path) -> None:
    lines = "".join(f"ROCOv2_2023_train_{number:06d},a film\n" for number in range(60_163))
    (raw / "train_captions.csv").write_text("ID,Caption\n" + lines)


def spanish_for_english(raw: Path) -> None:
    for split in ("train", "dev", "test"):
        shutil.copy(
            raw / f"data/es/{split}.es.casimedicos.rag.jsonl", raw / f"data/en/{split}.en.casimedicos.rag.jsonl"
        )


def stray_quote(raw: Path) -> None:
    lines = (raw / "train.csv").read_text().splitlines()
    lines[1] = lines[1].replace(",", ',"', 1)
    (raw / "train.csv").write_text(
        "\n".join(line if at == 1 else line.replace('"', "") for at, line in enumerate(lines))
    )


def edited(path: Path, old: str, new: str) -> None:
    path.write_text(path.read_text().replace(old, new, 1))


def other_source(raw: Path) -> None:
    without("*")(raw)
    load("medmcqa").write_demo(raw)


def below(raw: Path) -> None:
    inner = raw / "a-clone"
    inner.mkdir()
    for path in list(raw.iterdir()):
        if path != inner:
            path.rename(inner / path.name)


COMMIT = "0123456789abcdef0123456789abcdef01234567"


def hub_cache(raw: Path, lose: int = 0) -> Path:
    """The tree as `hf download` leaves it in its cache; of some files the blob is lost."""
    repository = raw / "datasets--x--y"
    snapshot = repository / "snapshots" / COMMIT
    files = [path for path in sorted(raw.rglob("*")) if path.is_file()]
    (repository / "blobs").mkdir(parents=True)
    for number, path in enumerate(files):
        blob = repository / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        link = snapshot / path.relative_to(raw)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
        if number >= lose:
            path.rename(blob)
    return snapshot


def listed_on_the_hub(raw: Path) -> None:
    files = {f"data/test-0000{number}-of-00003.parquet": {"size": 1, "blob_id": "0"} for number in range(3)}
    added(f".cache/huggingface/trees/{COMMIT}.json", json.dumps({"format_version": 1, "files": files}).encode())(raw)


def as_json_arrays(raw: Path) -> None:
    """MedMCQA as its GitHub page gives it: other files, answers counted from 1."""
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        [path] = (raw / "data").glob(f"{split}-*.parquet")
        rows = pq.read_table(path).to_pylist()
        rows = [row | {"cop": row["cop"] + 1} if row["cop"] >= 0 else row for row in rows]
        (raw / f"{name}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path.unlink()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:%064d\nsize 12345\n" % 7
PAGE = b"<!DOCTYPE html><html><head><title>Log in</title></head></html>\n"

CASES: dict[str, tuple[str, Alter, int, str]] = {
    "a column of Parquet renamed": (
        "medmcqa", renamed("data/train-*.parquet", "question", "stem"), 2, r"no column question .*stem",
    ),
    "a field of JSON Lines renamed": (
        "medthoughts_8k", renamed("*.jsonl", "question", "stem"), 2, r"no field question .*stem",
    ),
    "a field of a JSON array renamed": (
        "huatuo_o1", renamed("*.json", "Ground-True Answer", "answer"), 2, r"no field Ground-True Answer .*answer",
    ),
    "a column of CSV renamed": (
        "pmc_vqa", renamed("train.csv", "Question", "Ask"), 2, r"no column Question (.|\n)*has the columns .*Ask",
    ),
    "a column of TSV renamed": (
        "openmm_medical",
        lambda raw: edited(raw / "OpenMMMedical.tsv", "image_path", "picture"),
        2, r"no column image_path .*picture",
    ),
    "columns swapped": (
        "medmcqa",
        lambda raw: table(
            raw, "data/train-*.parquet", lambda rows: [row | {"cop": 7, "question": row["exp"] or ""} for row in rows]
        ),
        2, r"train: \d+ bad_field",
    ),
    "a further column": (
        "medqa", set_to("**/4_options/*train.jsonl", source="x"), 4,
        r"train\.jsonl: meta_info, metamap_phrases, source",
    ),
    "answers counted from 1": (
        "medmcqa", set_to("data/train-*.parquet", cop=4), 2, r"train: 10 bad_field .*row 0",
    ),
    "half a Parquet file": ("ii_medical_reasoning", cut("data/train-00000-*"), 2, r"train-00000.* not readable as Par"),
    "half a JSON array": ("huatuo_o1", cut("*.json"), 2, r"\.json: (the array ends early|broken JSON)"),
    "half a zip": ("pmc_oa", cut("images.zip"), 2, r"images\.zip: not a readable zip"),
    "half a tar": ("biomedica", cut("surgery/commercial/*.tar", 0.3), 2, r"surgery/commercial/.*\.tar"),
    "half a Zstandard tar": ("medtrinity", cut("25M_accessible/dataset_shard_1.tar.zst"), 4, r"bad_archive"),
    "half a gzip file": ("mimic_cxr", cut("mimic-cxr-jpg/*metadata.csv.gz"), 2, r"metadata\.csv\.gz: cannot be read"),
    "half of the rows": (
        "medmcqa", lambda raw: table(raw, "data/train-*.parquet", lambda rows: rows[: len(rows) // 2]), 4,
        r"train: 5 rows, 182,817 fewer",
    ),
    "half of the pictures": ("slake", every_second_picture, 4, r"train: \d+ missing_image \(.*fetch it.*source\.jpg"),
    "no pictures": ("pmc_oa", without("images.zip"), 2, r"no pictures of train .*images\.zip"),
    "no file of a split": ("vqa_rad", without("testset.json"), 2, r"looked for testset\.json"),
    "one subject missing": ("mmlu_med", without("anatomy"), 2, r"no anatomy/.*\(\d+ of \d+ parts"),
    "no reports": ("mimic_cxr", without("mimic-cxr"), 2, r"missing_report|no reports"),
    "files of no kind": ("medquad", without("6_NINDS_QA"), 4, r"train: 12 rows, 47,445 fewer"),
    "an empty file": ("medreason", written("ours*.jsonl", b""), 2, r"ours_quality_33000\.jsonl: has no bytes"),
    "a pointer of Git LFS": ("healthcaremagic", written("data/*.parquet", POINTER), 2, r"a pointer of Git LFS"),
    "a pointer among JSON Lines": ("medthoughts_8k", written("*.jsonl", POINTER), 2, r"a pointer of Git LFS"),
    "a page of a log-in": ("alpacare_medinstruct", written("data/*52k.json", PAGE), 2, r"52k\.json: a web page"),
    "another format of that name": (
        "medframeqa", written("data/*.parquet", b"a,b\n1,2\n"), 2, r"does not begin as a parquet file does",
    ),
    "two bytes a letter": (
        "pmc_vqa", written("train.csv", "Figure_path,Question\nx,what\n".encode("utf-16")), 2, r"no column Figure_path",
    ),
    "another split under a split's name": (
        "medmcqa", repeated("data/validation-*.parquet", 6150), 4, r"validation: 6,150 rows, as many as test",
    ),
    "another release": ("rocov2", other_release, 4, r"layout    Zenodo 8333645, of 2023"),
    "the publisher's other form": ("medmcqa", as_json_arrays, 4, r"layout    GitHub's JSON, cop from 1"),
    "another language under a name": ("medexpqa", spanish_for_english, 2, r"train: 8 bad_field .*lang is not en"),
    "another language": (
        "healthcaremagic",
        set_to("data/*.parquet", input="¿Qué es el dolor de la espalda?", output="El dolor es una señal del cuerpo."),
        4, r"the texts look like es \d+ %.*, not en",
    ),
    "one language alone": ("slake", set_to("train.json", q_lang="zh"), 4, r"train: none of its first 120 rows"),
    "a stray quote": ("pmc_vqa", stray_quote, 2, r"lines that look like rows stand within records"),
    "two copies": ("icliniq", added("iCliniq.json", b"[]"), 2, r"2 copies of the train file"),
    "a file that nothing reads": (
        "pubmedvision", added("PubMedVision_InstructionTuning_VQA.json"), 4,
        r"files that nothing reads: 1 .*InstructionTuning",
    ),
    "a folder around the tree": ("medqa", below, 2, r"the tree is in .*/a-clone: give it as --raw"),
    "the hub's cache": ("medmcqa", hub_cache, 4, rf"revision  hub commit {COMMIT}"),
    "the hub's cache from above": (
        "medmcqa", lambda raw: hub_cache(raw).parent.parent, 2, rf"the tree is in .*/snapshots/{COMMIT}",
    ),
    "the hub's cache without a blob": ("medmcqa", lambda raw: hub_cache(raw, 1), 2, r"1 links lead nowhere"),
    "a download that stopped": (
        "reasonmed", added(".cache/huggingface/download/x.json.abc.incomplete"), 4, r"1 downloads of the hub are not",
    ),
    "files that the hub lists": ("medframeqa", listed_on_the_hub, 4, r"3 of the 3 files that the hub lists are not"),
    "another source": ("medqa", other_source, 2, r"these look like the files of medmcqa"),
    "an empty folder": ("medqa", without("*"), 2, r"found"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_an_altered_tree_is_named_by_what_was_seen(case: str, trees: Trees, tmp_path: Path) -> None:
    name, alter, code, pattern = CASES[case]
    original, text, _ = trees[name]
    raw = tmp_path / "raw"
    shutil.copytree(original, raw)
    found, shown, _ = said(name, alter(raw) or raw)
    assert re.search(pattern, shown), shown
    assert not re.search(pattern, text), "said of every tree"
    assert found == code, shown


def test_columns_of_credentialed_files_stay_hidden(trees: Trees, tmp_path: Path) -> None:
    """A table that lost its header has a patient's row in its place."""
    for name, shown in (("pmc_vqa", True), ("mimic_cxr_vqa", False)):
        shutil.copytree(trees[name][0], tmp_path / name)
        for path in [*(tmp_path / name).rglob("*.csv"), *(tmp_path / name).rglob("*.csv.gz")]:
            path.rename(path.with_name(path.name.removesuffix(".gz"))).write_text("Doe,Jane,1950-01-01\n1,2,3\n")
        code, text, _ = said(name, tmp_path / name)
        assert code == 2 and ("Jane" in text) == shown, text


def test_a_large_file_is_estimated_and_not_read(trees: Trees, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "COUNTED_BYTES", 0)
    monkeypatch.setattr(tables, "FIRST_ROWS", 100)
    raw = tmp_path / "raw"
    shutil.copytree(trees["medthoughts_8k"][0], raw)
    table(raw, "*.jsonl", lambda rows: [rows[0] | {"question_id": number} for number in range(7716)])
    _, text, seen = said("medthoughts_8k", raw)
    about = seen["splits"]["train"]
    assert not about["counted"] and abs(about["rows"] - 7716) < 200 and about["compared"] == "as known"
    assert f"about {about['rows']:,}" in text
    assert seen["exit_code"] == 0


@pytest.mark.parametrize(
    ("name", "folder", "rows"),
    [
        ("vqa_rad", "vqa_rad", {"train": 3064, "test": 451}),
        ("slake", "slake", {"train": 9835, "validation": 2099, "test": 2094}),
        ("pubmedqa", "pubmedqa", {"train": 500, "test": 500}),
        ("medmcqa", "medmcqa", {"validation": 4183}),
    ],
)
def test_the_publishers_own_rows(name: str, folder: str, rows: dict[str, int], real_data: Path) -> None:
    if not (real_data / folder).is_dir():
        pytest.skip(f"no real rows at {real_data / folder}")
    _, _, seen = said(name, real_data / folder, no_images=True)
    assert {split: about["rows"] for split, about in seen["splits"].items() if about["compared"] == "as known"} == rows
    assert seen["layouts"][0]["checked"].startswith("real rows: ")
    assert not any(about["damaged"] for about in seen["splits"].values())


def test_a_real_file_under_another_splits_name(real_data: Path) -> None:
    """The file named train holds the items of dev, as its README says; nothing in its rows does."""
    folder = real_data / "medqa_usmle_4_options"
    if not folder.is_dir():
        pytest.skip(f"no real rows at {folder}")
    code, text, _ = said("medqa", folder)
    assert code == 4 and "train: 1,272 rows, as many as dev (known: 10,178)" in text


def test_the_command_line(trees: Trees, tmp_path: Path) -> None:
    """One source and all of them; nothing is written."""
    raw = trees["biomedica"][0]
    done = run_module("builders.biomedica", "--raw", str(raw), "--out", str(tmp_path / "built"), "--probe")
    assert done.returncode == 0 and "a build makes sense" in done.stdout, done.stderr
    done = run_module("builders.all", "--raw", str(trees.root), "--only", "biomedica", "medqa", "--probe", "--json")
    assert done.returncode == 4
    assert [(seen["source"], seen["exit_code"]) for seen in json.loads(done.stdout)] == [("biomedica", 0), ("medqa", 4)]
    assert not (tmp_path / "built").exists()
    shown = run_module("builders.openmm_medical", "--help").stdout
    assert "layout: OpenMMMedical.tsv with a column image_path (unverified" in shown
    assert "no public reader of this layout was found" in shown


def test_every_source_says_what_it_was_checked_against() -> None:
    """Real rows and readers by repository and commit, unless a release or a tree is all that is recorded."""
    unverified = set()
    for source in map(load, NAMES):
        assert source.layouts, source.name
        for layout in source.layouts:
            assert layout.evidence or layout.checked == "unverified"
            if layout.checked == "rows":
                assert re.search(r"[\w.-]+/[\w.-]+@[0-9a-f]{7}\b", layout.evidence), (source.name, layout)
            if layout.checked == "unverified":
                unverified.add(source.name)
        assert not source.hub_revision or re.fullmatch("[0-9a-f]{40}", source.hub_revision)
    # Nobody could be found who reads these: `fidelity.md`, sections 1 and 7.
    assert unverified == {"openmm_medical", "infinity_instruct_gen", "patient_trial"}


def test_there_are_thirty_altered_trees_of_many_sources() -> None:
    assert len(CASES) >= 30
    assert len({name for name, *_ in CASES.values()}) >= 15
