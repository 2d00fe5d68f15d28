"""What libraries say goes to a file; lock files name exactly what pyproject.toml asks for."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = {
    "core": (), "filters": ("filters",), "train": ("train",), "eval": ("eval",),
    "dev": ("filters", "train", "eval", "dev"),
}  # fmt: skip

# A library that brings a handler of its own for the screen, as torch, transformers and DeepSpeed do.
CODE = """\
import logging, sys, threading, warnings
from pathlib import Path
from medgpt.libraries import libraries_apart
with libraries_apart() as libraries:
    logger = logging.getLogger("library")
    logger.propagate = False
    logger.addHandler(logging.StreamHandler(sys.stdout))
    logger.warning("before there is a folder")
    for _ in range(3):
        with warnings.catch_warnings():  # makes Python forget what it has shown
            warnings.simplefilter("always")
            warnings.warn("an old name", FutureWarning)
    if sys.argv[1:]:
        libraries.keep_in(Path(sys.argv[1]) / "libraries.log")
        Path(sys.argv[1]).mkdir()
    logging.getLogger("library.part").warning("in the folder")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    logging.getLogger("other").error("broken")
logger.warning("afterwards")
"""


def run(*arguments: str, temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)}, capture_output=True, text=True, check=True,
    )  # fmt: skip


SAID = (
    r"WARNING library: before there is a folder\n.*WARNING py\.warnings: .*FutureWarning: an old name\n"
    r".*WARNING library\.part: in the folder\n.*WARNING root: a thread died\n.*ZeroDivisionError: .*"
    r"ERROR other: broken\n"
)


def test_the_file_of_a_run_has_what_libraries_say_and_the_screen_its_errors(tmp_path: Path) -> None:
    done = run(str(tmp_path / "run"), temporary=tmp_path)
    assert re.search(SAID, (tmp_path / "run" / "libraries.log").read_text(), re.DOTALL)
    assert re.fullmatch(r"[^\n]* ERROR other: broken\n", done.stderr)
    assert done.stdout == "afterwards\n"  # its own handler is back


def test_without_a_folder_a_line_names_a_file_that_has_it_all(tmp_path: Path) -> None:
    last = run(temporary=tmp_path).stderr.splitlines()[-1]
    found = re.fullmatch(r"5 messages of libraries are in (.*)", last)
    assert found
    assert re.search(SAID, Path(found[1]).read_text(), re.DOTALL)


def test_nothing_said_leaves_no_file_and_no_handler(tmp_path: Path) -> None:
    from medgpt.libraries import libraries_apart

    before = [*logging.getLogger().handlers], logging.getLogRecordFactory()
    with libraries_apart() as libraries:
        libraries.keep_in(tmp_path / "libraries.log")
    assert not [*tmp_path.iterdir()]
    assert ([*logging.getLogger().handlers], logging.getLogRecordFactory()) == before


# ---------------------------------------------------------------- lock files


def locked(name: str) -> dict[str, set[str]]:
    """Versions by package: more than one where they depend on Python or the platform."""
    found: dict[str, set[str]] = {}
    for package, version in re.findall(r"^([a-z0-9-]+)==(\S+)", (ROOT / "locks" / f"{name}.txt").read_text(), re.M):
        found.setdefault(package, set()).add(version)
    return found


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_its_extras_ask_for(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["build"]]
    asked += [line for extra in LOCKS[name] for line in extras[extra]]
    versions, everything = locked(name), locked("dev")
    for requirement in map(Requirement, asked):
        found = versions.get(canonicalize_name(requirement.name))
        assert found, f"{requirement.name} is not in locks/{name}.txt: make lock"
        assert all(version in requirement.specifier for version in found), f"{requirement}, {found}: make lock"
    for package, found in versions.items():
        assert found == everything[package], f"locks/{name}.txt has another {package} than locks/dev.txt: make lock"


@pytest.mark.parametrize("name", [*LOCKS, "interop"])
def test_a_lock_has_hashes_and_names_no_place(name: str) -> None:
    text = (ROOT / "locks" / f"{name}.txt").read_text()
    assert "//" not in text and "index" not in text
    for entry in re.split(r"^(?=\S)", text, flags=re.M)[1:]:
        assert "==" in entry and "--hash=sha256:" in entry, entry
