"""What a build is made from: raw files listed with digests, trees that change, files that are none, damaged ones."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run_module, tree_digest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.engine.command import main
from builders.engine.inputs import hub_note, published_digests
from builders.engine.registry import load
from manifests.proof.accounting import accounts, not_compared
from medgpt.digest import inputs_sha256
from shards.verify import verify_build

CASES = ROOT.parent / "shared" / "cases" / "fuzz"


def document_of(built: Path, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((built / name / "build.json").read_bytes())
    return document


def listed(built: Path, name: str) -> dict[str, tuple[int, str | None]]:
    rows = pq.read_table(built / name / "inputs.parquet").to_pylist()
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    return {row["file"]: (row["bytes"], row["sha256"] and row["sha256"].hex()) for row in rows}


def on_disk(raw: Path) -> dict[str, tuple[int, str]]:
    return {
        path.relative_to(raw).as_posix(): (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in raw.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ["slake", "pmc_oa", "medquad", "vqa_rad"])
def test_every_raw_file_is_listed_with_its_digest(name: str, tmp_path: Path) -> None:
    """Loose pictures, row files, zips and XML files: what the build read, and nothing else."""
    raw, built = tmp_path / "raw", tmp_path / "built"
    more = ["--filters", "none"] if load(name).filters else []
    done = run_module(f"builders.{name}", "--demo", "--raw", str(raw), "--out", str(built), "--quiet", *more)
    assert done.returncode == 0, done.stderr
    found, there = listed(built, name), on_disk(raw)
    assert found == {file: there[file] for file in found}
    assert there.keys() - found.keys() <= {"imgs/xmlab39/source.jpg"} or name == "vqa_rad"
    said = document_of(built, name)["inputs"]
    assert said == {
        "file": "inputs.parquet",
        "files": len(found),
        "bytes": sum(size for size, _ in found.values()),
        "hashed": len(found),
        "sha256": inputs_sha256(built / name / "inputs.parquet"),
        "file_sha256": hashlib.sha256((built / name / "inputs.parquet").read_bytes()).hexdigest(),
    }


def test_a_trial_build_hashes_no_archive(tmp_path: Path) -> None:
    raw, built = str(tmp_path / "raw"), tmp_path / "built"
    arguments = ["--demo", "--raw", raw, "--out", str(built), "--quiet", "--filters", "none", "--limit", "1"]
    assert main(load("pmc_oa"), arguments) == 0
    assert listed(built, "pmc_oa")["images.zip"][1] is None
    assert document_of(built, "pmc_oa")["inputs"]["hashed"] == 0


def test_what_was_hashed_is_not_hashed_again(tmp_path: Path) -> None:
    raw, built = tmp_path / "raw", tmp_path / "built"
    arguments = ["--raw", str(raw), "--out", str(built), "--quiet", "--filters", "none"]
    assert main(load("pmc_oa"), ["--demo", *arguments]) == 0
    kept = built / ".resume/pmc_oa/inputs.jsonl"
    digest = listed(built, "pmc_oa")["images.zip"][1]
    assert digest is not None
    kept.write_text(kept.read_text().replace(digest, "ab" * 32) + '\n["images.zip", 1')  # and a line that was cut off
    assert main(load("pmc_oa"), arguments) == 0
    assert listed(built, "pmc_oa")["images.zip"][1] == "ab" * 32
    os.utime(raw / "images.zip")
    assert main(load("pmc_oa"), arguments) == 0
    assert listed(built, "pmc_oa")["images.zip"][1] == digest


SOURCE = '''
"""A set whose tree changes while it is read."""

import os
from functools import partial
from builders import kit

def plan(raw, params):
    yield from kit.table_units(raw, [raw / "rows.jsonl"], "train", "train")

def sample(raw, params, row):
    if params["change"] != "nothing" and row.number == "2":
        (raw / params["change"]).write_bytes(b"something else, of another size")
    return kit.Sample(
        key=row.number, messages=[kit.user(0, "q"), kit.assistant("a")], file=row.file, row=row.number,
        images=[kit.Image(f"x/{row.number}", "p.png", partial(kit.read_bytes, raw / "p.png", raw))],
    )

SOURCE = kit.Source(
    name="moving", title="t", homepage="-", revision="1", license="l", access="open", stage="instruct", task="vqa",
    modality="image-text", splits={"train": "train"}, obtain="-", plan=plan, published=lambda params: {},
    read=lambda raw, unit, params: kit.convert_rows(raw, unit, partial(sample, raw, params)),
    options=(kit.Option("--change", "a file", "nothing", ("nothing", "rows.jsonl", "p.png")),),
)

if __name__ == "__main__":
    kit.run(SOURCE)
'''


@pytest.mark.parametrize("file", ["rows.jsonl", "p.png"])
def test_a_tree_that_changes_under_the_build_is_a_stop(file: str, tmp_path: Path) -> None:
    """A row file that the unit names, and a picture that it only reads."""
    from builders.demos.drawings import demo_picture

    (tmp_path / "medgpt_sources").mkdir()
    (tmp_path / "medgpt_sources" / "moving.py").write_text(SOURCE)
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "rows.jsonl").write_text('{"a": 1}\n' * 3)
    (tmp_path / "raw" / "p.png").write_bytes(demo_picture("p"))

    def run(*more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "medgpt_sources.moving", "--raw", "raw", "--out", "built", "--quiet", *more]
        environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)

    done = run("--change", file)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1), done.stderr
    assert f"{file} changed while it was read" in done.stderr
    assert not (tmp_path / "built" / "moving" / "build.json").exists()


def test_a_changed_comment_leaves_every_root_as_it_was(tmp_path: Path) -> None:
    """Identity is content and declared versions; the text of the code stands beside it.

    In every product file: a set of pictures, one of texts and one whose samples are scored and chosen by filters are
    neither built, scored nor compared again, and what a proof over them says is the same to the byte.
    """
    house = tmp_path / "house"
    for package in ("medgpt", "manifests", "shards", "filters", "builders", "train", "eval", "browse"):
        shutil.copytree(ROOT / package, house / package, ignore=shutil.ignore_patterns("__pycache__"))
    for path in house.rglob("*.py"):
        path.write_text(path.read_text() + "# another comment\n")

    def run(place: Path, command: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(place)}, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode in ((0, 3) if "prove" not in command else (4,)), done.stderr  # trial builds
        return done.stdout

    names = ("slake", "pubmedqa", "rocov2")
    seen = []
    for place in (ROOT, house):
        reused = []
        for name in names:
            filters = "--filters demo.yaml" if load(name).filters else ""
            (tmp_path / "demo.yaml").write_text(RECIPE)
            said = run(place, f"builders.{name} --demo --raw raw/{name} --out built --limit 6 {filters} --json")
            reused.append(json.loads(said)["units_reused"])
        run(place, "manifests.prove . --out proof --benchmarks present --quiet")
        kept = [*tmp_path.glob("proof/.work/near_*.parquet"), *(tmp_path / "scores").rglob("*.parquet")]
        assert len(kept) >= 4  # near pictures, near texts, and what two filters said
        documents = [document_of(tmp_path / "built", name) for name in names]
        certificate = (tmp_path / "proof" / "certificate.json").read_bytes()
        seen.append((documents, certificate, {path: path.stat().st_mtime_ns for path in kept}))
    (ours, certificate, written), (others, again, rewritten) = seen
    assert reused == [len(document["units"]) for document in ours]
    for one, other in zip(ours, others, strict=True):
        assert {name for name in one if one[name] != other[name]} == {"code_sha256", "sha256"}
    assert (certificate, written) == (again, rewritten)


RECIPE = """
format: 1
name: demo
version: 1
sources:
  rocov2:
    unreadable: drop
    filters:
      misleading_numbers: {drop: "misleading >= 0.9", not_scored: drop}
      compound: {drop: "compound >= 0.5", not_scored: drop}
"""


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"counts": 3}'])
def test_a_record_of_another_shape_is_built_again(text: str, tmp_path: Path) -> None:
    raw = made("slake", tmp_path)
    place = tmp_path / "built" / "slake" / "build.json"
    place.parent.mkdir(parents=True)
    place.write_text(text)
    [fault] = verify_build(place.parent)
    assert "altered" in str(fault)
    assert build("slake", raw, tmp_path / "built", "--limit", "6")[0] == 0
    assert verify_build(place.parent) == []


def test_a_terminal_without_utf8_stops_nothing(tmp_path: Path) -> None:
    """The summary of a build and a sample's text: what the terminal cannot show is escaped."""
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    for command in (
        "builders.slake --demo --raw raw --out built",
        "shards.show built slake/train/1",
        "shards.stats built",
    ):
        done = subprocess.run(
            [sys.executable, "-X", "utf8=0", "-m", *command.split()],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.isascii()


# ---- files that are none, and damaged ones


def made(source: str, folder: Path) -> Path:
    load(source).write_demo(folder / "raw")
    return folder / "raw"


def build(source: str, raw: Path, built: Path, *more: str) -> tuple[int, list[str]]:
    """(exit code, lines on stderr) of a build: one line where it stops, and never one that no one foresaw."""
    filters = ["--filters", "none"] if load(source).filters else []
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = main(load(source), ["--raw", str(raw), "--out", str(built), "--workers", "1", "--json", *filters, *more])
    lines = said.getvalue().splitlines()
    assert len(lines) == (code not in (0, 3, 4)), lines
    assert "please report it" not in said.getvalue(), lines
    return code, lines


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "forbidden"])
def test_what_is_no_file_in_a_pictures_place_is_one_reject(kind: str, tmp_path: Path) -> None:
    raw = made("slake", tmp_path)
    path = raw / "imgs/xmlab0/source.jpg"
    if kind == "forbidden":
        if os.geteuid() == 0:
            pytest.skip("root may read everything")
        path.chmod(0)
    else:
        path.unlink()
        if kind == "device":
            path.symlink_to("/dev/zero")
        else:
            (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    assert build("slake", raw, tmp_path / "built")[0] == 3
    counts = document_of(tmp_path / "built", "slake")["counts"]
    assert counts["rejects"]["unreadable_file"] == counts["damaged"] == 3
    assert "imgs/xmlab0/source.jpg" not in listed(tmp_path / "built", "slake") or kind == "forbidden"


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_in_a_row_files_place_stops_the_build(kind: str, tmp_path: Path) -> None:
    raw = made("medmcqa", tmp_path)
    path = next(raw.rglob("train-*"))
    path.unlink()
    if kind == "device":
        path.symlink_to("/dev/zero")
    else:
        (os.mkfifo if kind == "pipe" else os.mkdir)(path)
    code, lines = build("medmcqa", raw, tmp_path / "built")
    assert code == 2
    assert "not a file" in lines[0]


def test_what_the_system_did_not_read_once_is_named_and_read_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opening of a raw file fails once: no row is damaged for good, and no digest is missing without a word."""
    raw = made("medqa", tmp_path)
    assert build("medqa", raw, tmp_path / "good")[0] == 0
    wanted, real, left = tree_digest(tmp_path / "good"), os.open, 0

    def failing(path: Any, *arguments: Any, **named: Any) -> int:
        nonlocal left
        if not isinstance(path, int) and str(path).startswith(str(raw)):
            left -= 1
            if left == 0:
                raise OSError(errno.EIO, "Input/output error", str(path))
        return real(path, *arguments, **named)

    seen: dict[str, set[int]] = {"rejects": set(), "gaps": set()}
    for number in range(1, 100):
        built, left = tmp_path / f"built{number}", number
        with monkeypatch.context() as patch:
            patch.setattr(os, "open", failing)
            code, _ = build("medqa", raw, built)
        if left > 0:
            break  # fewer calls than that
        if code in (0, 3, 4):
            document = document_of(built, "medqa")
            assert document["counts"]["rejects"].keys() <= {"unreadable_file"}
            assert code == (4 if document["gaps"] else 3 if document["counts"]["damaged"] else 0)
            assert code or tree_digest(built) == wanted
            for name, there in (("rejects", document["counts"]["rejects"]), ("gaps", document["gaps"])):
                seen[name] |= {number} if there else set()
        assert build("medqa", raw, built)[0] == 0
        assert {k: v for k, v in tree_digest(built).items() if ".resume" not in k} == {
            k: v for k, v in wanted.items() if ".resume" not in k
        }
    assert seen["rejects"] and seen["gaps"], "no opening failed while rows were read, or while files were hashed"


@pytest.mark.parametrize("length", [91, 300, 5_000])
def test_a_long_id_is_one_reject(length: int, tmp_path: Path) -> None:
    raw = made("pubmedvision", tmp_path)
    path = raw / "PubMedVision_Alignment_VQA.json"
    rows = json.loads(path.read_bytes())
    rows.append(rows[0] | {"id": "x" * length})
    rows.append(rows[0] | {"id": "y" * 60})
    path.write_text(json.dumps(rows))
    build("pubmedvision", raw, tmp_path / "built")
    found = document_of(tmp_path / "built", "pubmedvision")["counts"]
    assert found["rejects"]["bad_id"] == 1


def test_a_budget_that_is_spent_says_on_what(tmp_path: Path) -> None:
    raw = made("medmcqa", tmp_path)
    path = next(raw.rglob("train-*"))
    table = pq.read_table(path)
    rows = table.to_pylist()
    pq.write_table(table.from_pylist([row | {"cop": 9} for row in rows] * 30, table.schema), path)
    code, [line] = build("medmcqa", raw, tmp_path / "built", "--split", "train", "--max-damaged", "20")
    assert code == 1
    assert "bad_field" in line
    assert "every row: another layout?" in line and "cop" in line and "question" in line
    pq.write_table(table.from_pylist([*rows, *[row | {"cop": 9} for row in rows * 30]], table.schema), path)
    code, [line] = build("medmcqa", raw, tmp_path / "built", "--split", "train", "--max-damaged", "20")
    assert code == 1
    assert f"{len(rows) * 30} bad_field" in line and "another layout" not in line
    # The units of that run are done: the next one reuses them all, and what they cost counts as before.
    assert build("medmcqa", raw, tmp_path / "built", "--split", "train", "--max-damaged", "20") == (1, [line])
    assert not (tmp_path / "built" / "medmcqa.train" / "build.json").exists()
    assert build("medmcqa", raw, tmp_path / "built", "--split", "train", "--max-damaged", "9999") == (3, [])


@pytest.mark.skipif(not CASES.is_dir(), reason=f"no damaged files at {CASES}")
@pytest.mark.parametrize("number", range(10))
def test_files_that_let_a_librarys_error_through(number: int, tmp_path: Path) -> None:
    case = json.loads((CASES / "inputs.json").read_text())[number]
    raw = made(case["source"], tmp_path)
    replaced = [path for path in raw.rglob("*") if path.name == case["replaces"]]
    for path in replaced:
        shutil.copyfile(CASES / case["input"], path)
    assert replaced
    assert build(case["source"], raw, tmp_path / "built")[0] in (1, 2, 3)


@settings(max_examples=25)
@given(place=st.floats(0, 1, exclude_max=True), data=st.binary(min_size=1, max_size=40), cut=st.booleans())
@pytest.mark.parametrize("source", ["medmcqa", "icliniq", "huatuo_o1", "pmc_oa", "openmm_medical", "healthcaremagic"])
def test_any_damage_ends_in_one_line_and_a_documented_code(
    source: str, place: float, data: bytes, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """One file of a demo tree, overwritten or cut off somewhere: built, rejected or refused, never a traceback."""
    folder = tmp_path_factory.mktemp("fuzz")
    raw = made(source, folder)
    path = sorted(path for path in raw.rglob("*") if path.is_file())[0]
    content = path.read_bytes()
    at = int(place * len(content))
    path.write_bytes(content[:at] if cut else content[:at] + data + content[at + len(data) :])
    code, _ = build(source, raw, folder / "built")
    assert code in (0, 1, 2, 3, 4)
    if code in (0, 3, 4):
        counts = document_of(folder / "built", source)["counts"]
        assert counts["kept"] + counts["rejected"] == counts["read"]
    shutil.rmtree(folder)


def medqa_built(raw: Path, built: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Exit code and `build.json` of a small source with loose files."""
    code = main(load("medqa"), ["--raw", str(raw), "--out", str(built), "--quiet", *more])
    return code, document_of(built, "medqa")


@pytest.fixture
def medqa(tmp_path: Path) -> Path:
    load("medqa").write_demo(tmp_path / "raw")
    return tmp_path / "raw"


def row_files(raw: Path) -> list[str]:
    return [path.relative_to(raw).as_posix() for path in sorted(raw.rglob("*")) if path.is_file()]


@pytest.mark.parametrize("change", ["upper", "packed", "empty"])
def test_a_split_that_is_there_under_another_name_or_empty_is_a_gap(
    change: str, tree: Callable[[str], Path], tmp_path: Path
) -> None:
    """Splits may be absent; one that somebody meant to be there is not left out without a word."""
    raw, name = tree("alpacare_medinstruct"), "alpacare_medinstruct"
    [path] = raw.rglob("MedInstruct-test.jsonl")
    if change == "empty":
        path.write_bytes(b"")
    else:
        path = path.rename(path.with_name(path.name.upper() if change == "upper" else f"{path.name}.bz2"))
    assert main(load(name), ["--raw", str(raw), "--out", str(tmp_path / "built"), "--quiet"]) == 4
    gaps = document_of(tmp_path / "built", name)["gaps"]
    assert [gap["file"] for gap in gaps] == [path.relative_to(raw).as_posix()]


def test_xml_is_read_whatever_the_case_of_its_ending(tree: Callable[[str], Path], tmp_path: Path) -> None:
    raw, counts = tree("medquad"), []
    for _ in range(2):
        main(load("medquad"), ["--raw", str(raw), "--out", str(tmp_path / "built"), "--quiet"])
        counts.append(document_of(tmp_path / "built", "medquad")["counts"]["read"])
        for path in raw.rglob("*.xml"):
            path.rename(path.with_suffix(".XML"))
    assert counts[0] == counts[1] > 0


def test_publishers_sums_are_compared(medqa: Path, tmp_path: Path) -> None:
    """PhysioNet's list, in a folder above the files: one file changed behind it, one that nobody reads."""
    files = row_files(medqa)
    lines = [f"{hashlib.sha256((medqa / file).read_bytes()).hexdigest()}  {file}\n" for file in files]
    (medqa / "SHA256SUMS.txt").write_text("".join([*lines, f"{'ab' * 32} *elsewhere/none.csv\n", "no sum\n"]))
    code, document = medqa_built(medqa, tmp_path / "built")
    assert (code, document["gaps"]) == (0, [])
    assert len(list(published_digests(medqa, listed(tmp_path / "built", "medqa")))) == document["inputs"]["files"] > 1
    root = document["root"]
    changed = medqa / sorted(listed(tmp_path / "built", "medqa"))[0]
    changed.write_bytes(changed.read_bytes() + b"\n")
    code, document = medqa_built(medqa, tmp_path / "built")
    [gap] = document["gaps"]
    assert code == 4 and gap["file"] == changed.relative_to(medqa).as_posix()
    assert gap["what"] == "file that is not the publisher's: its digest is not that of SHA256SUMS.txt"
    assert document["root"] == root  # the rows are the same; what was found of the files stands beside the root


def git_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@pytest.mark.parametrize("layout", ["cache", "local"])
def test_the_hubs_digests_are_compared(layout: str, medqa: Path, tmp_path: Path) -> None:
    """A snapshot of links into blobs named by digest, and a folder with notes under .cache: large files and small."""
    commit, raw = "0123456789abcdef" * 2 + "01234567", medqa
    digests = {}
    for number, file in enumerate(row_files(medqa)):
        data = (medqa / file).read_bytes()
        digests[file] = hashlib.sha256(data).hexdigest() if number % 2 else git_id(data)
    if layout == "cache":
        repository = tmp_path / "hub" / "datasets--GBaker--MedQA-USMLE-4-options"
        raw = repository / "snapshots" / commit
        (repository / "blobs").mkdir(parents=True)
        for file, digest in digests.items():
            shutil.copy(medqa / file, repository / "blobs" / digest)
            (raw / file).parent.mkdir(parents=True, exist_ok=True)
            (raw / file).symlink_to(os.path.relpath(repository / "blobs" / digest, (raw / file).parent))
    else:
        for file, digest in digests.items():
            note = medqa / ".cache/huggingface/download" / f"{file}.metadata"
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(f"{commit}\n{digest}\n1700000000.0\n")
    code, document = medqa_built(raw, tmp_path / "built")
    assert (code, document["gaps"]) == (0, [])
    read = sorted(listed(tmp_path / "built", "medqa"))
    assert [(file, digest) for file, digest, _ in published_digests(raw, read)] == [(f, digests[f]) for f in read]
    assert hub_note(raw, read[0]) == (commit, digests[read[0]])
    for file in read:
        (raw / file).write_bytes((raw / file).read_bytes() + b"\n")
    code, document = medqa_built(raw, tmp_path / "built")
    assert code == 4 and [gap["file"] for gap in document["gaps"]] == read
    assert {gap["what"] for gap in document["gaps"]} == {
        "file that is not the publisher's: its digest is not that of the hub"
    }


def test_rows_that_are_expected(medqa: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file of lines that was cut at a line's end looks whole to every reader; only a number tells."""
    code, document = medqa_built(medqa, tmp_path / "built")
    counts, rows = document["counts"], document["counts"]["read"]
    assert code == 0
    assert medqa_built(medqa, tmp_path / "built", "--expect", str(rows))[0] == 0
    file = medqa / next(name for name in sorted(listed(tmp_path / "built", "medqa")) if "train" in name)
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    assert medqa_built(medqa, tmp_path / "built")[0] == 0
    assert "fewer rows than published: train 10,1" in capsys.readouterr().out
    code, document = medqa_built(medqa, tmp_path / "built", "--expect", str(rows))
    assert (code, document["gaps"]) == (
        4, [{"file": "rows", "what": f"rows fewer than the {rows} that were expected", "count": 1, "first": ""}]
    )  # fmt: skip
    code, document = medqa_built(medqa, tmp_path / "built", "--expect", "published")
    assert code == 4 and {gap["file"] for gap in document["gaps"]} == set(counts["by_split"])
    [train] = [gap for gap in document["gaps"] if gap["file"] == "train"]
    assert train["count"] == 10_178 - document["counts"]["by_split"]["train"]["read"]
    assert "rows fewer than the 10,178 that were expected" in capsys.readouterr().out
    for more in (["--expect", "many"], ["--expect", "3", "--limit", "2"]):
        with pytest.raises(SystemExit) as ended:
            main(load("medqa"), ["--raw", str(medqa), *more])
        assert ended.value.code == 2


@pytest.mark.parametrize(
    ("name", "file", "change", "what", "count"),
    [
        ("pmc_oa", "images.zip", "before", "bytes in front of the archive (two archives in one file?)", None),
        ("pmc_oa", "images.zip", "count", "members by its end record that its directory does not list", 1),
        ("pmc_oa", "images.zip", "within", "archive within an archive that was not read (not a zip): unpack it", 1),
        ("biomedica", "*.tar", "behind", "part behind the end of the archive (two archives in one file?)", 1),
    ],
)
def test_a_second_archive_in_a_file_is_a_gap(
    name: str, file: str, change: str, what: str, count: int | None, tmp_path: Path
) -> None:
    """Counted a second way: what a directory lists, what its end record says, what stands around the archive."""
    raw, built = tmp_path / "raw", tmp_path / "built"
    load(name).write_demo(raw)
    path = sorted(raw.rglob(file))[0]
    data = path.read_bytes()
    at = data.rfind(b"PK\x05\x06") + 8
    more = {
        "before": lambda: data + data,
        "behind": lambda: data + data,
        "within": lambda: data,
        "count": lambda: data[:at] + bytes([data[at] + 1, data[at + 1]]) * 2 + data[at + 4 :],
    }[change]()
    path.write_bytes(more)
    if change == "within":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("more.tar", b"tar")
    assert main(load(name), ["--raw", str(raw), "--out", str(built), "--quiet", "--filters", "none"]) == 4
    [gap] = document_of(built, name)["gaps"]
    assert (gap["file"], gap["what"]) == (path.relative_to(raw).as_posix() + "!more.tar" * (change == "within"), what)
    assert gap["count"] == (len(data) if count is None else count)


def test_a_proof_names_gaps_of_the_test_side(medqa: Path, tmp_path: Path) -> None:
    """What of a benchmark was not read was not compared; of a train side, nothing is trained from it."""
    code, document = medqa_built(medqa, tmp_path / "built", "--expect", "100000")
    assert code == 4
    [line] = not_compared(accounts([document], {}, [], [], []))
    assert line == "eval medqa: file rows, 99,940 (rows fewer than the 100,000 that were expected)"
    train = document | {"units": [unit for unit in document["units"] if unit["role"] == "train"]}
    assert not_compared(accounts([train], {}, [], [], [])) == []
