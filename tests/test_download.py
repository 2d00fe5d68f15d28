"""`--download` against a hub-shaped server on loopback: fetch, build, resume, and every refusal in one clear line."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, tree_digest

from builders.engine import command as cli
from builders.engine.download import download
from builders.engine.source import NotThisSource
from builders.medmcqa import SOURCE
from medgpt.errors import USAGE

pytest.importorskip("huggingface_hub", "2.4")

SHA = "91c6572c454088bf71b679ad90aa8dffcd0d5868"
TRAIN = "data/train-00000-of-00001.parquet"
OTHERS = ("data/test-00000-of-00001.parquet", "data/validation-00000-of-00001.parquet")
DROP_AT = 11 << 20
"""Past the 10 MiB in which huggingface_hub writes a file."""


class Hub(ThreadingHTTPServer):
    """A dataset repository as the hub serves it; `requests` is what was asked for."""

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = files
        self.blobs = {hashlib.sha256(data).hexdigest(): data for data in files.values()}
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.refuse: dict[str, tuple[int, str]] = {}
        """Status and X-Error-Code by the first part of a path: `api`, `datasets`."""
        self.drops = 0
        """How many fetches of the train file break: the first one midway, the others at once."""
        self.broken = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def storage(self) -> str:
        """The hub sends large files from another host, without the account's token."""
        return f"http://localhost:{self.server_port}/cdn"

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for, in order of name."""
        names = {hashlib.sha256(data).hexdigest(): name for name, data in self.files.items()}
        return sorted(names[line.rpartition("/")[2]] for line in self.requests if line.startswith("GET /cdn/"))


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.server.requests.append(f"{self.command} {path}")
        kind = path.split("/")[1]
        if kind in self.server.refuse:
            status, code = self.server.refuse[kind]
            self.reply(status, b'{"error": "refused"}', {"X-Error-Code": code, "X-Error-Message": "refused"})
        elif path == f"/api/datasets/{SOURCE.hub_id}/revision/{SHA}":
            about = {"id": SOURCE.hub_id, "sha": SHA, "siblings": [{"rfilename": name} for name in self.server.files]}
            self.reply(200, json.dumps(about).encode())
        elif path == f"/api/datasets/{SOURCE.hub_id}/tree/{SHA}":
            self.reply(200, json.dumps([{"type": "directory", "path": "data", "oid": "0" * 40}, *self.tree()]).encode())
        elif path.startswith(prefix := f"/datasets/{SOURCE.hub_id}/resolve/{SHA}/"):
            data = self.server.files[path.removeprefix(prefix)]
            digest = hashlib.sha256(data).hexdigest()
            headers = {"X-Repo-Commit": SHA, "X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            self.reply(302, b"", headers | {"Location": f"{self.server.storage}/{digest}"})
        elif kind == "cdn":
            self.blob(self.server.blobs[path.removeprefix("/cdn/")])
        else:
            self.reply(404, b"{}", {"X-Error-Code": "RepoNotFound" if kind == "api" else "EntryNotFound"})

    do_HEAD = do_GET

    def tree(self) -> Iterator[dict[str, object]]:
        for name, data in self.server.files.items():
            lfs = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
            oid = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            yield {"type": "file", "path": name, "size": len(data), "oid": oid, "lfs": lfs}

    def blob(self, data: bytes) -> None:
        start, headers = 0, {"Accept-Ranges": "bytes"}
        if asked := self.headers["Range"]:
            self.server.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        if self.server.drops and data == self.server.files[TRAIN]:
            self.server.drops -= 1
            if not self.server.broken:
                self.server.broken = True
                self.head(200, len(data), headers)
                self.wfile.write(data[:DROP_AT])
            self.close_connection = True
            return
        self.reply(206 if asked else 200, data[start:], headers)

    def head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def reply(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.head(status, len(body), headers or {})
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The repository's files: the demo's rows, 12 MB beside the train rows, and files no builder reads."""
    raw = tmp_path_factory.mktemp("published")
    SOURCE.write_demo(raw)
    train = pq.read_table(raw / TRAIN)
    padding = [os.urandom(12_000_000), *[b""] * (train.num_rows - 1)]
    pq.write_table(train.append_column("padding", pa.array(padding)), raw / TRAIN)
    files = {path.relative_to(raw).as_posix(): path.read_bytes() for path in sorted(raw.rglob("*.parquet"))}
    return files | {"README.md": b"---\nlicense: mit\n---\n", "data/notes.txt": b"notes", "old/x.parquet": b"PAR1"}


@pytest.fixture
def hub(published: dict[str, bytes]) -> Iterator[Hub]:
    with Hub(published) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def environment(folder: Path, url: str) -> dict[str, str]:
    """No token, no cache, no proxy of the machine's; nothing but the hub given is reachable."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("HF_") and not k.lower().endswith("_proxy")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "HF_ENDPOINT": url,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_UPDATE_CHECK": "1",
        "HF_HUB_DISABLE_XET": "1",
    }


def build(folder: Path, url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m builders.medmcqa --download` into `folder`, without progress bars."""
    command = [sys.executable, "-m", "builders.medmcqa", "--download", "--revision", SHA, "--workers", "1"]
    command += ["--raw", str(folder / "raw"), "--out", str(folder / "built"), "--quiet", *arguments]
    variables = environment(folder, url) | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=120, check=False)


def refusal(result: subprocess.CompletedProcess[str]) -> str:
    """The one line of a build that could not begin."""
    assert result.returncode == USAGE, result
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"medmcqa: {SOURCE.hub_id} at {SHA}: ")
    return line


def fetched_tree(folder: Path) -> dict[str, bytes]:
    raw = folder / "raw"
    paths = (path for path in raw.rglob("*") if path.is_file() and ".cache" not in path.parts)
    return {path.relative_to(raw).as_posix(): path.read_bytes() for path in paths}


def wanted(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: files[name] for name in (TRAIN, *OTHERS)}


def test_download_builds_and_a_second_run_fetches_nothing(hub: Hub, tmp_path: Path) -> None:
    first = build(tmp_path, hub.url)
    assert first.returncode == 0, first
    assert first.stderr == ""
    assert fetched_tree(tmp_path) == wanted(hub.files)
    assert hub.fetched() == sorted([TRAIN, *OTHERS])
    assert not [line for line in hub.requests if "README" in line or "notes" in line or "old" in line]
    digest = tree_digest(tmp_path / "built/medmcqa")

    hub.requests.clear()
    second = build(tmp_path, hub.url, "--json")
    assert second.returncode == 0, second
    assert hub.requests == []
    summary = json.loads(second.stdout)
    assert summary["units_reused"] == summary["units"] == 3
    assert tree_digest(tmp_path / "built/medmcqa") == digest

    # One file lost is fetched alone.
    (tmp_path / "raw" / OTHERS[0]).unlink()
    third = build(tmp_path, hub.url)
    assert third.returncode == 0, third
    assert hub.fetched() == [OTHERS[0]]
    assert tree_digest(tmp_path / "built/medmcqa") == digest

    # The same files fetched by hand build the same bytes.
    shutil.rmtree(tmp_path / "raw/.cache")
    arguments = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "by_hand"), "--workers", "1", "--quiet"]
    assert cli.main(SOURCE, arguments) == 0
    assert tree_digest(tmp_path / "by_hand/medmcqa") == digest


def test_a_repository_that_moved_is_found_by_its_other_name(hub: Hub, tmp_path: Path) -> None:
    code = f"""
from dataclasses import replace
from pathlib import Path
from builders.engine.download import download
from builders.medmcqa import SOURCE
download(replace(SOURCE, hub_id="someone/else", hub_moved=(SOURCE.hub_id,)), Path("raw"), {SHA!r}, quiet=True)"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment(tmp_path, hub.url), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert fetched_tree(tmp_path) == wanted(hub.files)


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.drops = 1
    result = build(tmp_path, hub.url)
    assert result.returncode == 0, result
    assert hub.ranges == [f"bytes={10 << 20}-"]
    assert fetched_tree(tmp_path) == wanted(hub.files)


def test_an_interrupted_download_resumes(hub: Hub, tmp_path: Path) -> None:
    hub.drops = 100
    line = refusal(build(tmp_path, hub.url))
    assert re.search(r"download stopped \(.+\); the same command resumes it$", line)
    assert not (tmp_path / "built").exists()
    assert fetched_tree(tmp_path).keys() <= set(OTHERS)

    hub.drops = 0
    whole = set(fetched_tree(tmp_path))
    hub.requests.clear()
    result = build(tmp_path, hub.url)
    assert result.returncode == 0, result
    assert hub.fetched() == sorted({TRAIN, *OTHERS} - whole)
    assert fetched_tree(tmp_path) == wanted(hub.files)


@pytest.mark.parametrize(
    ("part", "status", "code", "said"),
    [
        ("datasets", 403, "GatedRepo", f"gated; accept its terms at {SOURCE.homepage} and set HF_TOKEN"),
        ("api", 401, "GatedRepo", f"gated; accept its terms at {SOURCE.homepage} and set HF_TOKEN"),
        ("api", 401, "RepoNotFound", f"not found, or not for this account; {SOURCE.homepage}; nor is medmcqa"),
        ("api", 404, "RepoNotFound", f"not found, or not for this account; {SOURCE.homepage}; nor is medmcqa"),
        ("api", 404, "RevisionNotFound", "the publisher has no such revision (any more); fetch by hand, use --raw"),
        ("api", 403, "", r"download stopped \(.*403 Forbidden.*\); the same command resumes it"),
        ("api", 500, "", r"download stopped \(.*500 .*\); the same command resumes it"),
    ],
    ids=lambda value: str(value) if len(str(value)) < 20 else "",
)
def test_the_hub_refuses(hub: Hub, tmp_path: Path, part: str, status: int, code: str, said: str) -> None:
    hub.refuse[part] = (status, code)
    line = refusal(build(tmp_path, hub.url))
    assert line.endswith(f": {said}") or re.search(f": {said}$", line)
    assert hub.fetched() == []


def test_nothing_listens(hub: Hub, tmp_path: Path) -> None:
    hub.server_close()
    assert re.search(r"download stopped \(.*Connection refused\)", refusal(build(tmp_path, hub.url)))


def test_a_tree_that_stands_there_is_not_taken_for_the_revision(hub: Hub, tmp_path: Path) -> None:
    SOURCE.write_demo(tmp_path / "raw")
    hub.refuse["datasets"] = (403, "GatedRepo")
    result = build(tmp_path, hub.url)
    assert result.returncode == USAGE, result
    assert f"{TRAIN}: not the file of {SHA}, which could not be fetched" in result.stderr

    shutil.rmtree(tmp_path / "raw/.cache")
    hub.server_close()
    assert "download stopped" in refusal(build(tmp_path, hub.url))
    assert not (tmp_path / "built").exists()


def test_files_of_another_name(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"README.md": b"moved", "data/train.csv": b"question\n"}
    assert refusal(build(tmp_path, hub.url)).endswith(": has none of data/*.parquet; another revision?")


def test_quiet_shows_no_progress(hub: Hub, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from builders.engine.download import download; from builders.medmcqa import SOURCE; "
        f"download(SOURCE, Path('raw'), '{SHA}', quiet=True)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment(tmp_path, hub.url),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert (result.stdout, result.stderr) == ("", "")
    assert fetched_tree(tmp_path) == wanted(hub.files)


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """No library that could connect."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)


@pytest.mark.usefixtures("no_hub")
def test_credentialed_sources_are_not_fetched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = importlib.import_module("builders.gemex_thinkvg").SOURCE
    assert cli.main(source, ["--download", "--revision", SHA, "--raw", str(tmp_path / "raw")]) == USAGE
    said = capsys.readouterr().err
    assert said.endswith("gemex_thinkvg: credentialed, so it is not fetched for you\n")
    assert source.obtain.strip() in said
    assert not (tmp_path / "raw").exists()


@pytest.mark.usefixtures("no_hub")
def test_the_revision_must_be_a_commit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw = ["--raw", str(tmp_path / "raw")]
    assert cli.main(replace(SOURCE, hub_revision=""), ["--download", *raw]) == USAGE
    assert capsys.readouterr().err == (
        f"medmcqa: --download needs --revision SHA (see {SOURCE.homepage}); none is pinned here\n"
    )
    assert cli.main(SOURCE, ["--download", "--revision", "main", *raw]) == USAGE
    assert "--revision main: give the commit's 40 digits" in capsys.readouterr().err


@pytest.mark.usefixtures("no_hub")
def test_without_huggingface_hub(tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match=r"python -m pip install 'huggingface_hub>=2.4'"):
        download(SOURCE, tmp_path / "raw", SHA)
