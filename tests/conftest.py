"""Shared helpers: small raw trees, builds in a fresh process, byte-for-byte comparison of trees."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from outcomes import Demos, Samples

from builders.engine.command import main as build
from manifests.proof import encoders

# A busy machine is no reason to fail: how long an example takes says nothing about what it shows.
settings.register_profile("project", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("project")

# One process a core is at work already: threads of torch's own would wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

UMASK = os.umask(0o022)
os.umask(UMASK)

ROOT = Path(__file__).parents[1]
REAL_DATA = ROOT.parent / "shared" / "data"


def zipped(members: Mapping[str, bytes]) -> bytes:
    """A zip of files by name, packed."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def run_module(*arguments: str, cwd: Path = ROOT, check: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m ...` in a fresh process."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=check,
    )


def call_module(*arguments: str, cwd: Path = ROOT, check: bool = False) -> subprocess.CompletedProcess[str]:
    """As `run_module`, in this process: for what a command says and writes, at a tenth of the time."""
    module, *words = arguments
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.chdir(cwd), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            found = importlib.import_module(module)
            code = found.main(words) if hasattr(found, "main") else build(found.SOURCE, words)
        except SystemExit as ended:
            code = ended.code
    said = [stream.buffer.getvalue().decode().replace("\r", "\n") for stream in (out, err)]  # type: ignore[attr-defined]
    done = subprocess.CompletedProcess(arguments, code or 0, *said)
    if check:
        done.check_returncode()
    return done


def tree_digest(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(autouse=True)
def own_umask(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What reads credentialed data makes its process private for good; a test does not do that to the next."""
    os.umask(UMASK)
    monkeypatch.setattr("medgpt.private._private", UMASK & 0o077)
    yield
    os.umask(UMASK)


MISSING = encoders.missing


@pytest.fixture(scope="session", autouse=True)
def no_sentence_models() -> Iterator[None]:
    """A proof loads two models, a second each, where they are installed: only marked tests wait for that."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "missing", lambda model: "not in this test")
        yield


@pytest.fixture(autouse=True)
def sentence_models(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """In tests marked `sentence_models`, models are as they are."""
    if request.node.get_closest_marker("sentence_models") is not None:
        monkeypatch.setattr(encoders, "missing", MISSING)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real rows, or a skip that says what is missing."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"no real rows at {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Demos:
    """Demo trees by source, to be read; `tree` makes copies to change."""
    return Demos(tmp_path_factory.mktemp("demos"))


@pytest.fixture(scope="session")
def samples(demos: Demos) -> Samples:
    """Samples of the demo trees by source, and there by `<split>/<key>`."""
    return Samples(demos)


@pytest.fixture
def tree(demos: Demos, tmp_path: Path) -> Callable[[str], Path]:
    """Makes a private copy of a source's demo tree."""
    return lambda name: Path(shutil.copytree(demos[name], tmp_path / name))


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """A folder that the examples of one test share; each empties it first."""
    return tmp_path / "raw"
