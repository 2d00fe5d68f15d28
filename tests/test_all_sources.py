"""Every source of the registry: its demo builds, twice the same, everything accounted for, listed in the docs."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from conftest import REAL_DATA, ROOT, run_module, tree_digest
from export_readers import FORMATS, exported

from builders.all import main as build_all
from builders.demos.drawings import demo_picture
from builders.engine import loop
from builders.engine.demo_files import write_demo_file
from builders.engine.registry import load, modules, sources
from builders.engine.unit import ENGINE_VERSION, UnitJob
from manifests.proof.policy import DEFAULT_POLICY, load_policy
from manifests.prove import prove
from medgpt.atomic import AtomicFile, held
from medgpt.processes import WorkerDied
from shards.export import main as export
from shards.reader import Build
from shards.verify import verify_build

NAMES = tuple(modules())
PINNED = Path(__file__).parent / "pinned_digests.json"
FIXTURE_BYTES = 200_000
LARGE_DEMOS = {"mimic_cxr", "slake", "vqa_rad"}
"""Their demo trees are more than fixtures: phantoms for training, leaks for the audits."""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All demo trees, built by one command with two workers."""
    folder = tmp_path_factory.mktemp("demo")
    arguments = ["--demo", "--raw", str(folder / "raw"), "--out", str(folder / "built"), "--workers", "2", "--json"]
    assert build_all(arguments) == 0
    return folder


def sample_digest(build: Path) -> str:
    """Digest of all samples' digests: of what is in the shards, whatever library version packed them."""
    digest = hashlib.sha256()
    for part in sorted((build / "manifest").glob("*.parquet")):
        for row in pq.read_table(part, columns=["sample_id", "sha256"]).to_pylist():
            digest.update(row["sample_id"].encode() + row["sha256"])
    return digest.hexdigest()


@pytest.mark.parametrize("name", NAMES)
def test_demo_builds_and_every_row_is_accounted_for(demo: Path, name: str) -> None:
    document = json.loads((demo / "built" / name / "build.json").read_bytes())
    counts = document["counts"]
    assert counts["kept"] > 0
    assert counts["damaged"] == 0
    assert counts["kept"] + counts["rejected"] == counts["read"]
    assert set(counts["rejects"]) <= set(load(name).advice)
    assert verify_build(demo / "built" / name) == []


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LARGE_DEMOS])
def test_fixtures_are_small(demo: Path, name: str) -> None:
    assert sum(path.stat().st_size for path in (demo / "raw" / name).rglob("*") if path.is_file()) <= FIXTURE_BYTES


def test_one_worker_gives_the_same_bytes(demo: Path, tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    shutil.copytree(demo / "raw", raw)
    assert build_all(["--raw", str(raw), "--out", str(tmp_path / "built"), "--workers", "1", "--json"]) == 0
    for name in NAMES:
        assert tree_digest(tmp_path / "built" / name) == tree_digest(demo / "built" / name), name


def test_what_stops_one_source_costs_the_others_nothing(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A full disk, a damaged tree, a unit that kills its workers, another run: one line each, nothing half there."""
    raw = Path(shutil.copytree(demo / "raw", tmp_path / "raw"))
    for path in (raw / "medquad").rglob("*"):
        os.utime(path, (1 << 32, 1 << 32))  # of a node whose clock is a century ahead
    questions = "medqa/data_clean/questions/US/4_options/phrases_no_exclude_train.jsonl"
    with (raw / questions).open("a") as file:
        file.write("{ no row")
    write, outcomes = AtomicFile.write, loop._outcomes

    def full(self: AtomicFile, data: bytes) -> int:
        if "medbullets" in str(self.path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        return write(self, data)

    def kills(jobs: list[UnitJob], workers: int, bar: Any) -> Iterator[tuple[UnitJob, Any]]:
        for job in jobs:
            if job.build == "icliniq":
                raise WorkerDied("a worker process died", job)
            yield from outcomes([job], workers, bar)

    monkeypatch.setattr(AtomicFile, "write", full)
    monkeypatch.setattr(loop, "_outcomes", kills)
    only, out = ("medbullets", "medqa", "icliniq", "pubmedqa", "medquad"), tmp_path / "built"
    words = ["--raw", str(raw), "--out", str(out), "--workers", "1", "--max-damaged", "0", "--json", "--only", *only]
    (out / ".resume/pubmedqa").mkdir(parents=True)
    with held(out / ".resume/pubmedqa/lock", ValueError()):
        assert build_all(words) == 1
    notes = {row["source"]: row["note"] for row in json.loads(capsys.readouterr().out)}
    for name, says in zip(
        only, ("No space left", "1 damaged rows", "worker process died", "another process"), strict=False
    ):
        assert says in notes[name] and "\n" not in notes[name]
        assert not list((out / name).rglob("*.tmp")) and not (out / name / "build.json").exists()
    assert tree_digest(out / "medquad") == tree_digest(demo / "built/medquad")
    monkeypatch.undo()
    shutil.copy(demo / "raw" / questions, raw / questions)
    assert build_all(words) == 0
    for name in only:
        assert tree_digest(out / name) == tree_digest(demo / "built" / name), name


@pytest.mark.parametrize("name", NAMES)
def test_samples_are_the_pinned_ones(demo: Path, name: str) -> None:
    """Unit keys and roots name declared versions: what is written must not change while they stay."""
    pinned = json.loads(PINNED.read_text()).get(name)
    found = {"version": load(name).version, "engine": ENGINE_VERSION, "samples": sample_digest(demo / "built" / name)}
    if pinned is not None and pinned["samples"] != found["samples"]:
        same = (pinned["version"], pinned["engine"]) == (found["version"], found["engine"])
        assert not same, (
            f"{name} writes other samples under the same versions: builds of before would be taken for builds of now. "
            "Undo the change, or raise `version` of its Source (of a change in the engine: ENGINE_VERSION in "
            f"builders/engine/unit.py) and pin the new line in {PINNED.name}"
        )
    assert found == pinned, f"{name} is not as pinned; where that is intended, put this line into {PINNED.name}"


def test_audits_over_all_demos_hold_what_must_hold(demo: Path) -> None:
    done = run_module("manifests.sql", str(demo), "--audit", "all", "--json")
    assert done.returncode == 1, done.stderr
    found = {audit["name"]: audit["rows"] for audit in json.loads(done.stdout)["audits"]}
    for name in ("row_accounting", "licences", "duplicate_ids", "prior_of_other_subject"):
        assert found[name] == [], name


def test_no_images_builds_name_the_same_samples(demo: Path, tmp_path: Path) -> None:
    """A metadata-only build needs no pictures and has the same ids, for every source with pictures."""
    names = [name for name in NAMES if load(name).modality == "image-text"]
    arguments = ["--raw", str(demo / "raw"), "--out", str(tmp_path), "--no-images", "--json", "--only", *names]
    assert build_all(arguments) == 0
    for name in names:
        with_pictures, without = (
            {
                row["sample_id"]
                for part in (folder / name / "manifest").glob("*.parquet")
                for row in pq.read_table(part, columns=["sample_id"]).to_pylist()
            }
            for folder in (demo / "built", tmp_path)
        )
        assert with_pictures <= without, name


def test_licence_allow_list(demo: Path, tmp_path: Path) -> None:
    """What is not on the list is rejected by name, and nothing else changes."""
    arguments = ["--raw", str(demo / "raw"), "--out", str(tmp_path), "--json", "--licenses", "CC-BY-4.0", "CC0-1.0"]
    assert build_all([*arguments, "--only", "slake", "vqa_rad", "medqa", "biomedica"]) == 0
    for name in ("slake", "vqa_rad", "medqa", "biomedica"):
        counts = json.loads((tmp_path / name / "build.json").read_bytes())["counts"]
        before = json.loads((demo / "built" / name / "build.json").read_bytes())["counts"]
        dropped = counts["rejects"].get("license_not_allowed", 0)
        assert counts["kept"] == before["kept"] - dropped
        assert (dropped == before["kept"]) == (name == "medqa")
        for part in (tmp_path / name / "manifest").glob("*[0-9].parquet"):
            assert set(pq.read_table(part, columns=["license"])["license"].to_pylist()) <= {"CC-BY-4.0", "CC0-1.0"}


def test_licence_allow_list_when_reading(demo: Path) -> None:
    whole = list(Build(demo / "built" / "biomedica"))
    licenses = {sample.record["license"] for sample in whole}
    assert len(licenses) > 1
    for wanted in ([min(licenses)], sorted(licenses)[1:], ["none of them"]):
        read = list(Build(demo / "built" / "biomedica", licenses=wanted))
        assert read == [sample for sample in whole if sample.record["license"] in wanted]


def test_table_lists_all_sources(demo: Path) -> None:
    done = run_module("builders", "--data", str(demo), "--json")
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    assert [row["name"] for row in rows] == [source.name for source in sources()]
    assert {row["name"] for row in rows} == set(NAMES) == set(json.loads(PINNED.read_text()))
    for row in rows:
        assert row["status"] == "working"
        assert row["license"] and row["homepage"] and row["paper_rows"]
        assert [build["build"] for build in row["built"]] == [row["name"]]
    shown = run_module("builders", "--data", str(demo))
    assert all(name in shown.stdout for name in NAMES)


def test_every_row_of_the_recipes_tables_has_a_source() -> None:
    """31 training rows and 15 benchmark rows, with the paper's counts: the stage sums of the reference."""
    rows = [row for name in NAMES for row in load(name).paper_rows]
    sums = {stage: sum(row.count for row in rows if row.stage == stage) for stage in ("PT", "MT", "IT")}
    assert sums == {"PT": 939_439, "MT": 19_342_373, "IT": 6_280_728}
    assert sum(row.stage != "EVAL" for row in rows) == 31
    assert sum(row.stage == "EVAL" for row in rows) == 15


def test_the_table_of_sources_is_the_generated_one() -> None:
    page = (ROOT / "docs" / "sources.md").read_text()
    [table] = re.findall(r"<!-- sources -->\n(.*?)\n<!-- /sources -->", page, re.DOTALL)
    assert table == run_module("builders", "--markdown").stdout.strip()


BROKEN = """
from builders import kit
def sample(row, key):
    return kit.question_answer(row, key, key, BODY)
SOURCE = kit.table_source(name="broken", title="t", revision="1", license="l", modality="text", sample=sample,
                          files={"train": "a.jsonl"}, fields=("id",), obtain="-")
if __name__ == "__main__":
    kit.run(SOURCE)
"""


@pytest.mark.parametrize(
    ("code", "command", "said"),
    [
        (BROKEN.replace("BODY", "kye"), "medgpt_sources.broken", "NameError at medgpt_sources/broken.py:4: "),
        (BROKEN.replace("BODY", "license=print"), "medgpt_sources.broken", "TypeError at medgpt/schema.py:"),
        ("SOURCE = kit", "builders", "medgpt_sources.broken: cannot be imported (NameError: name 'kit' is not"),
    ],
)
def test_what_is_wrong_in_a_users_source_is_told_as_that(code: str, command: str, said: str, tmp_path: Path) -> None:
    """Not as a defect of ours, and not as rows that are damaged."""
    write_demo_file(tmp_path / "a.jsonl", b'{"id": "1"}\n')
    write_demo_file(tmp_path / "medgpt_sources/broken.py", code.encode())
    words = ("--raw", ".", "--out", "built") if command != "builders" else ()
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        [sys.executable, "-m", command, *words], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1 and said in done.stderr


def run_with(folder: Path, *arguments: str, expect: int = 0) -> str:
    """Output of `python -m ...` run in `folder`, which is on PYTHONPATH."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == expect, done.stderr + done.stdout
    return done.stdout


def test_the_readmes_example_source_works(tmp_path: Path) -> None:
    """The worked example of "Add a source" is run as it stands: built, verified, audited; also as a plain module."""
    readme = (ROOT / "docs/howto/source.md").read_text()
    [code] = re.findall(r"<!-- example source -->\n```python\n(.*?)```", readme, re.DOTALL)
    assert len(code.splitlines()) <= 45
    for module in ("my_notes", "medgpt_sources.my_notes"):
        folder = tmp_path / module
        path = folder / f"{module.replace('.', '/')}.py"
        path.parent.mkdir(parents=True)
        path.write_text(code)
        run_with(folder, module, "--demo", "--raw", "raw", "--out", "built", "--quiet")
        run_with(folder, "shards.verify", "built")
        run_with(folder, "manifests.sql", "built", "--audit", "all")
        assert (folder / "built" / "my_notes" / "build.json").is_file()


HOUSE_SET = '''
"""Films with a question each, of our own house: pictures in Parquet cells, three splits."""

from builders import kit


def _sample(row: kit.Row, key: str, question: str, answer: str) -> kit.Sample:
    if answer == "unsure":
        raise kit.InputError("reader_unsure", row.file)
    return kit.Sample(
        key=key,
        messages=[kit.user(0, question), kit.assistant(answer)],
        file=row.file,
        row=row.number,
        question=question,
        answer=answer,
        images=[kit.column_image(row, "image", f"house/{key}")],
        group={"question_id": f"house/{key}"},
        subset=row.split,
    )


SOURCE = kit.table_source(
    name="house_films",
    title="Questions about our films",
    revision="2026-11",
    license="internal",
    task="vqa",
    modality="image-text",
    splits={"train": "train", "validation": "eval", "test": "eval"},
    files={split: f"data/{split}-*.parquet" for split in ("train", "validation", "test")},
    several=True,
    fields=("id", "question", "answer"),
    columns=("image",),
    sample=_sample,
    published={"train": 6, "validation": 2, "test": 2},
    obtain="Ask the archive.",
    reasons={"reader_unsure": "the reader was not sure; nothing to do"},
)

if __name__ == "__main__":
    kit.run(SOURCE)
'''


def test_one_file_adds_a_source(tmp_path: Path) -> None:
    """Pictures in cells, three splits, several files a split: one short file, and every command knows the source."""
    assert len(HOUSE_SET.strip().splitlines()) <= 60
    (tmp_path / "medgpt_sources").mkdir()
    (tmp_path / "medgpt_sources" / "house_films.py").write_text(HOUSE_SET)
    number = 0
    for split, sizes in (("train", (4, 3)), ("validation", (2,)), ("test", (2,))):
        for part, size in enumerate(sizes):
            rows = []
            for _ in range(size):
                number += 1
                drawn = 3 if number == 9 else number  # a validation film that is in train, byte for byte
                picture = {"bytes": demo_picture(f"house {drawn}"), "path": f"{number}.png"}
                answer = "unsure" if number == 7 else f"finding {number}"
                asked = f"What is in film {number}?"
                rows.append({"id": str(number), "question": asked, "answer": answer, "image": picture})
            write_demo_file(tmp_path / f"raw/house_films/data/{split}-{part:05d}-of-{len(sizes):05d}.parquet", rows)
    [row] = [row for row in json.loads(run_with(tmp_path, "builders", "--json")) if row["name"] == "house_films"]
    assert (row["access"], row["published"]) == ("credentialed", {"train": 6, "validation": 2, "test": 2})
    [built] = json.loads(run_with(tmp_path, "builders.all", "--raw", "raw", "--out", "data/built", "--json"))
    assert (built["source"], built["read"], built["kept"], built["rejected"]) == ("house_films", 11, 10, 1)
    again = run_with(tmp_path, "medgpt_sources.house_films", "--raw", "raw/house_films", "--out", "data/built")
    assert "reader_unsure" in again and "the reader was not sure" in again and "(4 reused)" in again
    run_with(tmp_path, "shards.verify", "data/built")
    run_with(tmp_path, "manifests.prove", "data", "--benchmarks", "present")
    [excluded] = pq.read_table(tmp_path / "data/proof/exclusions.parquet").to_pylist()
    assert excluded["train_sample"] == "house_films/train/3"
    mixture = "format: 1\nname: house\nsources:\n  - {build: house_films, epochs: 2}\n"
    (tmp_path / "mixture.yaml").write_text(mixture)
    run_with(tmp_path, "shards.pack", "data", "--mixture", "mixture.yaml", "--accept-incomplete")


def test_repeated_stems_of_real_benchmarks_are_reported(tmp_path: Path) -> None:
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real rows at {REAL_DATA}")
    for name, folder in (("mmlu_med", "mmlu"), ("medxpertqa", "medxpertqa"), ("medmcqa", "medmcqa")):
        options = ["--no-images"] if name == "medxpertqa" else []
        raw = str(REAL_DATA / folder)
        done = run_module(f"builders.{name}", "--raw", raw, "--out", str(tmp_path), "--quiet", *options)
        assert done.returncode == 0, done.stderr
    done = run_module("manifests.sql", str(tmp_path), "--audit", "repeated_stems", "--json")
    found = {(row["build"], row["split"]): row for row in json.loads(done.stdout)["audits"][0]["rows"]}
    mm = found["medxpertqa", "mm_test"]
    assert (mm["rows"], mm["repeated_rows"]) == (2_000, 70)
    mmlu = found["mmlu_med", "test"]
    assert mmlu["rows"] == 1_395
    assert mmlu["stems"] < mmlu["items"] <= 1_395
    assert found["medmcqa", "validation"]["rows"] == 4_183


@pytest.fixture(scope="module")
def proved(demo: Path) -> tuple[Path, dict[str, dict[str, int]]]:
    """All demo builds under a proof of a cheap policy; and how many pictures each train sample that it leaves has."""
    policy = yaml.safe_load(DEFAULT_POLICY.read_text()) | {"train_duplicates": None, "rewrites": None}
    for settings in policy["images"].values():
        settings |= {"radius": 0, "region_radius": 0}
    file = demo / "policy.yaml"
    file.write_text(yaml.safe_dump(policy))
    prove(demo, demo / "proof", load_policy(file), only_present=True, pairs_per_cell=1)
    excluded = pq.read_table(demo / "proof" / "exclusions.parquet").to_pylist()
    left: dict[str, dict[str, int]] = {}
    for path in sorted(demo.glob("built/*/build.json")):
        document, pictures = json.loads(path.read_bytes()), Counter[str]()
        for unit in document["units"]:
            if unit["role"] == "train":
                for part in unit["parts"]:
                    if part["file"].startswith("manifest/"):
                        rows = pq.read_table(path.parent / part["file"], columns=["sample_id", "n_images"]).to_pylist()
                        pictures.update({row["sample_id"]: row["n_images"] for row in rows})
        out = {row["train_sample"] for row in excluded if row["train_build"] == document["build"]}
        kept = sum(unit["kept"] for unit in document["units"] if unit["role"] == "train")
        left[document["build"]] = {sample: count for sample, count in pictures.items() if sample not in out}
        assert len(left[document["build"]]) == kept - len(out)
        selection = demo / "filtered" / document["build"] / "selection.parquet"
        for row in pq.read_table(selection).to_pylist() if selection.is_file() else ():
            if not row["kept"]:
                left[document["build"]].pop(row["sample_id"], None)
    assert any(left.values()) and excluded
    return demo, {build: samples for build, samples in left.items() if samples}


@pytest.mark.parametrize("name", FORMATS)
def test_every_build_is_exported_whole(
    proved: tuple[Path, dict[str, dict[str, int]]], name: str, tmp_path: Path
) -> None:
    data, left = proved
    taken = ["--accept-policy", str(data / "policy.yaml"), "--accept-incomplete", "--local-only"]
    words = [str(data), "--format", name, "--out", str(tmp_path / "out"), "--workers", "1", "--json", *taken]
    assert export(words) == 0
    found = exported(tmp_path / "out", name)
    assert {build: {s: len(p) for s, p in samples.items()} for build, samples in found.items()} == left
