"""Files made from credentialed data are their owner's alone, whatever the umask; open data heeds it."""

from __future__ import annotations

import base64
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import ROOT

MIMIC = ("builders.mimic_cxr", "--raw", "raw", "--out", "data/built", "--longitudinal", "--limit", "12", "--quiet")
RADIOGRAPHS = str(ROOT / "filters/recipes/radiographs.yaml")
ROAD = (
    (*MIMIC, "--demo", "--dry-run"),
    (*MIMIC, "--workers", "2"),
    ("manifests.catalog", "data"),
    ("filters.run", "data", "--recipe", RADIOGRAPHS, "--quiet"),
    ("filters.decide", "data", "--recipe", RADIOGRAPHS, "--show-credentialed"),
    ("filters.audit", "draw", "data", "--score", "burned_in.score", "--out", "review/sheet", "--show-credentialed"),
    ("manifests.prove", "data", "--workers", "2", "--quiet", "--show-credentialed", "--benchmarks", "present"),
    ("manifests.verify", "data", "--sample", "1", "--quiet"),
    ("shards.pack", "data", "--stage", "midtrain", "--only-present", "--accept-incomplete"),
    ("shards.stats", "data", "--html", "pages/stats.html"),
    ("shards.show", "data", "--random", "--html", "pages/sample.html"),
    ("shards.verify", "data/built"),
    ("eval.run", "data", "--tasks", "mimic_findings", "--baseline", "majority", "--out", "runs/majority"),
    ("eval.score", "runs/majority", "--data", "data"),
    ("eval.report", "runs/majority", "--data", "data", "--out", "pages/r.html", "--show-credentialed"),
)


HIDDEN = b"Quetzalcoatlus-8812, a name"
"""In a comment of every picture: nobody may keep it."""
SAID: list[str] = []
"""What each command of the road printed."""
MAY_HOLD_REPORTS = (
    "raw/*", "data/built/*/shards/*", "runs/*/items.jsonl", "runs/*/prompts.jsonl", "runs/*/answers.jsonl",
    "runs/*/predictions.jsonl", "data/proof/report.html", "data/filtered/*/gallery.html", "pages/r.html",
    "pages/sample.html", "pages/r.items/*", "review/sheet.*",
)  # fmt: skip
"""What docs/credentialed.md names; the pages because the road asked for it."""


def run(
    folder: Path, *arguments: str, umask: int = 0, codes: tuple[int, ...] = (0,)
) -> subprocess.CompletedProcess[str]:
    """A command in `folder` under an umask, its temporary files in `folder/tmp`."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "tmp")},
        umask=umask,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode in codes, (arguments, done.stderr, done.stdout)
    return done


def open_to_others(folder: Path) -> list[str]:
    """What lies below a folder and is not 0600, or 0700 if a folder; a link has no mode of its own."""
    found = []
    for path in folder.rglob("*"):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            continue
        if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) != (0o700 if stat.S_ISDIR(mode) else 0o600):
            found.append(f"{stat.filemode(mode)} {path.relative_to(folder)}")
    return found


class Watch(threading.Thread):
    """Looks for temporary files that others may read, as often as it can."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self.folder, self.found, self.seen, self.stop = folder, set[str](), 0, threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            self.found.update(open_to_others(self.folder))
            self.seen += any(self.folder.iterdir())
            time.sleep(0.005)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that every user may enter, with all that the road of a credentialed demo leaves."""
    folder = Path(tempfile.mkdtemp(prefix="private-files-"))
    folder.chmod(0o755)
    for name in ("tmp", "pages", "review"):  # folders of the user's own: they stay as they are
        (folder / name).mkdir()
        (folder / name).chmod(0o777)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def road(place: Path) -> Path:
    watch = Watch(place / "tmp")
    watch.start()
    try:
        for arguments in ROAD:
            trial = (4,) if arguments[0] == "manifests.prove" else (0,)  # the rest of the test side was not read
            done = run(place, *arguments, codes=(0, 3) if arguments[0].startswith("builders") else trial)
            SAID.append(f"{arguments[0]}\n{done.stdout}\n{done.stderr}")
            if "--dry-run" in arguments:
                for path in place.glob("raw/**/*.jpg"):
                    data = path.read_bytes()
                    path.write_bytes(data[:2] + b"\xff\xfe" + struct.pack(">H", len(HIDDEN) + 2) + HIDDEN + data[2:])
    finally:
        watch.stop.set()
        watch.join()
    assert not watch.found
    assert watch.seen, "no command left anything in the watched folder, so nothing was seen"
    return place


def test_all_that_a_credentialed_road_writes_is_private(road: Path) -> None:
    own = {"drwxrwxrwx tmp", "drwxrwxrwx pages", "drwxrwxrwx review"}
    assert set(open_to_others(road)) == own
    names = {path.relative_to(road).as_posix() for path in road.rglob("*") if path.is_file()}
    for part in (
        "raw/", "data/built/mimic_cxr.longitudinal/shards/", "data/built/mimic_cxr.longitudinal/manifest/",
        "data/built/.resume/", "data/scores/", "data/filtered/", "data/proof/.work/", "data/proof/report.html",
        "data/manifest.duckdb", "data/.streams/", "runs/majority/mimic_findings/answers.jsonl",
        "runs/majority/mimic_findings/scores.parquet", "pages/r.html", "pages/r.md", "pages/sample.html",
        "pages/stats.html", "review/sheet.csv",
    ):  # fmt: skip
        assert any(name.startswith(part) for name in names), f"the road left no {part}"


def told(path: Path) -> str:
    """A file's text: of Parquet all cells, of a catalogue its definitions, of anything else its bytes."""
    if path.suffix == ".parquet":
        return str(pq.read_table(path).to_pylist())
    return path.read_bytes().decode("utf-8", "replace")


def test_reports_are_in_the_named_files_and_nowhere_else(road: Path) -> None:
    reports = [path.read_text() for path in road.glob("raw/**/*.txt")]
    lines = {" ".join(line.split()) for text in reports for line in re.split(r"\.\s", " ".join(text.split()))}
    canaries = {line for line in lines if len(line) > 40}
    assert len(reports) > 10 and len(canaries) > 10

    def holds(text: str) -> list[str]:
        text = " ".join(text.split())
        return [line for line in canaries if line in text]

    found = {path.relative_to(road).as_posix() for path in road.rglob("*") if path.is_file() and holds(told(path))}
    named = {pattern for pattern in MAY_HOLD_REPORTS for name in found if fnmatch(name, pattern)}
    assert not {name for name in found if not any(fnmatch(name, pattern) for pattern in MAY_HOLD_REPORTS)}
    assert {"raw/*", "data/built/*/shards/*", "runs/*/items.jsonl"} <= named, "the search sees nothing"
    assert not [text.splitlines()[0] for text in SAID if holds(text)]


def test_what_pictures_hide_is_in_none_of_its_files(road: Path) -> None:
    """As it stands, in Parquet's cells, and within pictures that a page has in base64."""
    coded = [base64.b64encode(b"x" * shift + HIDDEN)[4:-4].decode() for shift in range(3)]
    sought = [HIDDEN.decode(), *coded]
    found = {
        path.relative_to(road).parts[0]
        for path in road.rglob("*")
        if path.is_file() and any(text in told(path) for text in sought)
    }
    assert found == {"raw"}
    assert not [said for said in SAID if any(text in said for text in sought)]


def test_another_user_can_read_none_of_it(road: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may become another user")
    code = f"""
import os, sys
from pathlib import Path
files = [str(path) for path in Path({str(road)!r}).rglob("*") if path.is_file()]
os.setgroups([]); os.setgid(65534); os.setuid(65534)
read = []
for file in files:
    try:
        open(file, "rb").close()
        read.append(file)
    except PermissionError:
        pass
print(len(files), *read)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *read = done.stdout.split()
    assert int(count) > 50
    assert not read


def test_what_an_earlier_run_left_open_is_closed(road: Path, tmp_path: Path) -> None:
    """Also what is kept as it is, and what is appended to."""
    for name in ("raw", "data", "runs"):
        shutil.copytree(road / name, tmp_path / name)
    (tmp_path / "tmp").mkdir()
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    stale = tmp_path / "data/built/mimic_cxr.longitudinal/build.json.tmp"
    stale.touch(0o666)
    answers = tmp_path / "runs/majority/mimic_findings/answers.jsonl"
    whole = answers.read_bytes()
    answers.write_bytes(whole[: whole.index(b"\n") + 1])  # so that the rest is asked again
    run(tmp_path, *MIMIC, codes=(0, 3))
    run(tmp_path, *ROAD[12])
    assert answers.read_bytes().count(b"\n") == whole.count(b"\n")
    for name in ("data/built/mimic_cxr.longitudinal", "data/built/.resume/mimic_cxr.longitudinal", "runs/majority"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700
        assert not open_to_others(tmp_path / name)


@pytest.mark.parametrize("umask", [0o022, 0o002])
def test_open_data_heeds_the_umask(tmp_path: Path, umask: int) -> None:
    (tmp_path / "tmp").mkdir()
    run(tmp_path, "builders.slake", "--demo", "--raw", "raw", "--out", "built", "--quiet", umask=umask, codes=(0, 3))
    run(tmp_path, "manifests.catalog", ".", umask=umask)
    for path in (tmp_path / "built", *(tmp_path / "built").rglob("*"), tmp_path / "manifest.duckdb"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_open_builds_of_one_run_with_a_credentialed_source_are_private(tmp_path: Path) -> None:
    """Whatever the order of the sources."""
    (tmp_path / "tmp").mkdir()
    only = ("--only", "medqa", "gemex_thinkvg")
    run(tmp_path, "builders.all", "--demo", "--raw", "raw", "--out", "built", "--json", *only, codes=(0, 3))
    assert {path.name for path in (tmp_path / "built").glob("[a-z]*")} == {"medqa", "gemex_thinkvg"}
    assert not open_to_others(tmp_path / "built")


def test_a_corpus_made_elsewhere_is_credentialed_unless_it_says_otherwise(tmp_path: Path) -> None:
    for side in ("tmp", "train", "test"):
        (tmp_path / side).mkdir()
    words = "a patient came in with a cough and a fever that had lasted for eleven days without any relief at all"
    (tmp_path / "train/a.jsonl").write_text(f'{{"text": "{words}"}}\n')
    (tmp_path / "test/a.jsonl").write_text('{"text": "an old man fell from a ladder and broke his left hip in two"}\n')
    prove = ("manifests.prove", "--train", "train", "--eval", "test", "--quiet")
    run(tmp_path, *prove, "--out", "ours")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == 0o700
    assert not open_to_others(tmp_path / "ours")
    (tmp_path / "map.yaml").write_text("access: open\n")
    run(tmp_path, *prove, "--out", "theirs", "--mapping", "map.yaml", umask=0o022)
    assert stat.S_IMODE((tmp_path / "theirs/proof/certificate.json").stat().st_mode) == 0o644


def test_folders_are_made_in_one_place() -> None:
    """`medgpt.private.make_folder` closes what was open; these few make a new folder, or one of the user's own."""
    made = {
        path.relative_to(ROOT).as_posix()
        for package in ("medgpt", "browse", "builders", "eval", "filters", "manifests", "shards", "train")
        for path in (ROOT / package).rglob("*.py")
        if ".mkdir(" in path.read_text() or "makedirs(" in path.read_text()
    }
    assert made == {
        "medgpt/atomic.py", "medgpt/private.py", "shards/packing.py", "eval/report.py", "builders/engine/stored.py",
        "train/checkpoint.py",
    }  # fmt: skip
