"""Builds in an S3 store and readers of them, on loopback: moto, with a server in front of it that misbehaves."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from builders.engine.command import main as build
from builders.engine.registry import load, modules
from manifests.catalog import main as catalog
from manifests.prove import main as prove
from manifests.sql import main as sql
from manifests.verify import main as verify
from medgpt.errors import NOT_FINISHED, USAGE, UserError
from medgpt.stores import Store, StoreError, open_tree
from shards.certified import load_certified
from shards.pack import main as pack
from shards.storage import Storage

pytest.importorskip("s3fs", reason="stores need the extra `remote`")
moto = pytest.importorskip("moto.server")
serving = pytest.importorskip("werkzeug.serving")

EXPIRED = "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"


@dataclass
class Faults:
    """moto behind what goes wrong on the way: (method, end of the path, fault), each once, in order."""

    app: Any
    endpoint: str = ""
    wrong: list[tuple[str, str, str]] = field(default_factory=list)
    held: threading.Event = field(default_factory=threading.Event)
    """A request is being held."""
    go: threading.Event = field(default_factory=threading.Event)

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        fault = next((f for f in self.wrong if f[0] == method and f[1] in path), None)
        what = ""
        if fault:
            self.wrong.remove(fault)
            what = fault[2]
        if what == "slow":
            self.go.wait(300)  # to the end of the test: a machine that stands still for seconds must not end it
        if what in ("500", "slow"):
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if what == "expired":
            start("403 Forbidden", [("Content-Type", "application/xml")])
            return [EXPIRED.encode()]
        if what == "hold":
            self.held.set()
            self.go.wait(60)
        if method == "PUT" and (said := environ.get("HTTP_X_AMZ_CHECKSUM_SHA256")):
            body = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
            if what == "flip":
                body = bytes([body[0] ^ 1]) + body[1:]
            if base64.b64encode(hashlib.sha256(body).digest()).decode() != said:  # what S3 does, and moto does not
                start("400 Bad Request", [("Content-Type", "application/xml")])
                return [b"<Error><Code>BadDigest</Code><Message>checksum did not match</Message></Error>"]
            environ["wsgi.input"] = io.BytesIO(body)
        if what == "lost":  # done, but who asked does not hear of it
            b"".join(self.app(environ, lambda *_: None))
            start("500 Internal Server Error", [("Content-Length", "0")])
            return [b""]
        if what == "unmet":
            start("412 Precondition Failed", [("Content-Type", "application/xml")])
            return [b"<Error><Code>PreconditionFailed</Code><Message>An unmet pre-condition</Message></Error>"]
        answer = self.app(environ, start)
        return [b"".join(answer)[:-10]] if what == "cut" else answer


class OneContinue(serving.WSGIRequestHandler):
    """Says "100 Continue" once, as S3 does. werkzeug and http.server both say it: a second one that comes late
    makes aiohttp forget its timeout, and the client waits for as long as the server holds the request."""

    def handle_expect_100(self) -> bool:
        return True


@pytest.fixture(scope="module")
def service() -> Iterator[Faults]:
    faults = Faults(moto.DomainDispatcherApplication(moto.create_backend_app))
    server = serving.make_server("127.0.0.1", 0, faults, threaded=True, request_handler=OneContinue)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    faults.endpoint = f"http://127.0.0.1:{server.server_port}"
    yield faults
    server.shutdown()


@pytest.fixture
def s3(service: Faults, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faults]:
    """An empty bucket, and a server that does nothing wrong yet."""
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_ENDPOINT_URL", service.endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    service.wrong.clear()
    service.held.clear()
    service.go.clear()
    files = Store("s3://corpus").filesystem
    if files.exists("corpus"):
        files.rm("corpus", recursive=True)
    files.mkdir("corpus")
    yield service
    service.go.set()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo tree and its build on a disk: DATA/raw/slake, DATA/built/slake."""
    data = tmp_path_factory.mktemp("local")
    assert slake(data, data / "built", "--demo") == 0
    return data


def slake(data: Path, out: Path | str, *more: str) -> int:
    return build(
        load("slake"), ["--raw", str(data / "raw" / "slake"), "--out", str(out), "--json", "--workers", "1", *more]
    )


URL = "s3://corpus/data/built"


def objects(below: str = "") -> dict[str, bytes]:
    store = Store(URL)
    return {name: store.read(name) or b"" for name in store.listing(below)}


def whole(local: Path) -> None:
    """The build in the store has the files and bytes of the one on a disk."""
    folder = local / "built" / "slake"
    files = {f"slake/{p.relative_to(folder).as_posix()}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert objects("slake") == files


def test_a_build_in_a_store_is_the_build_on_a_disk(
    s3: Faults, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Store(URL).write("slake/shards/slake-of-an-earlier-plan.tar", b"stray")
    for reused in (0, 3):
        assert slake(local, URL, "--scratch", str(tmp_path)) == 0
        said = json.loads(capsys.readouterr().out)
        assert (said["target"], said["units_reused"]) == (f"{URL}/slake", reused)
        whole(local)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".json", ".jsonl", ""}  # no data stays
    assert slake(local, URL, "--scratch", str(tmp_path), "--limit", "3") == NOT_FINISHED
    assert f"{URL}/slake holds a full build, which --limit would replace" in capsys.readouterr().err
    assert slake(local, (tmp_path / "disk").as_uri()) == 0
    assert (tmp_path / "disk" / "slake" / "build.json").read_bytes() == objects("slake")["slake/build.json"]


def started(data: Path, scratch: Path) -> subprocess.Popen[str]:
    raw = str(data / "raw" / "slake")
    command = [sys.executable, "-m", "builders.slake", "--raw", raw, "--out", URL, "--json", "--workers", "1"]
    return subprocess.Popen(
        [*command, "--scratch", str(scratch)], env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_killed_in_an_upload_and_gone_on_with(
    s3: Faults, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.wrong.append(("PUT", "slake-validation-00000-00000.tar", "hold"))
    process = started(local, tmp_path)
    assert s3.held.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    s3.go.set()
    assert "slake/build.json" not in objects("slake")
    ledgers = list(objects(".resume"))
    assert slake(local, URL, "--scratch", str(tmp_path)) == 0
    assert json.loads(capsys.readouterr().out)["units_reused"] == len(ledgers) - 1 > 0  # `driver` is none
    whole(local)


def test_of_two_drivers_the_earlier_one_stops(
    s3: Faults, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    s3.wrong.append(("PUT", "slake-validation-00000-00000.tar", "hold"))
    first = started(local, tmp_path / "one")
    assert s3.held.wait(60)
    assert slake(local, URL, "--scratch", str(tmp_path / "one")) == NOT_FINISHED
    assert "slake: another process is building this; wait for it" in capsys.readouterr().err
    assert slake(local, URL, "--scratch", str(tmp_path / "two")) == 0
    s3.go.set()
    [line] = first.communicate(timeout=60)[1].splitlines()
    assert f"{URL}/slake: another driver began this build and has it now; this one stops" in line
    assert first.returncode == NOT_FINISHED
    whole(local)


def test_what_a_store_does_wrong_is_tried_again_a_few_times_and_told(
    s3: Faults, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    s3.wrong += [("PUT", "slake-test-00000-00000.tar", fault) for fault in ("500", "flip")]
    s3.wrong += [("PUT", ".resume/slake/test-00000.json", fault) for fault in ("lost", "unmet")]
    assert slake(local, URL, "--scratch", str(tmp_path)) == 0
    assert [record.levelname for record in caplog.records] == 3 * ["WARNING"]
    assert "attempt 2 of 4 failed" in caplog.text and "checksum did not match" in caplog.text
    whole(local)
    caplog.clear()
    capsys.readouterr()
    lost = "slake/shards/slake-test-00000-00000.tar"
    Store(URL).remove(lost)  # its unit is built again, the others are not
    s3.wrong += [("PUT", lost, "expired")]
    assert slake(local, URL, "--scratch", str(tmp_path)) == NOT_FINISHED
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"slake: {URL}/{lost}: access denied (PermissionError The provided token has expired.)"
    assert "slake/build.json" not in objects("slake") and not caplog.records


def test_each_failure_of_a_store_is_one_line(
    s3: Faults, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    digest = hashlib.sha256(b"content").hexdigest()
    quick = {"config_kwargs": {"read_timeout": 0.5, "retries": {"total_max_attempts": 1}}}
    store = Store(URL, attempts=2, wait_s=0, options=quick)
    s3.wrong += 2 * [("PUT", "file", "slow")]
    with pytest.raises(StoreError, match=rf"{URL}/file: ReadTimeoutError .*; given up after 2 attempts"):
        store.put(tmp_path / "file", "file", digest)
    s3.wrong += 2 * [("PUT", "file", "500")]
    with pytest.raises(StoreError, match=rf"{URL}/file: .*; given up after 2 attempts"):
        store.put(tmp_path / "file", "file", digest)
    assert "attempt 1 of 2 failed" in caplog.text
    assert store.create("ledger", b"mine") is None
    assert store.create("ledger", b"other") == b"mine"
    with pytest.raises(StoreError, match=r"s3://nowhere/x/file: FileNotFoundError .*; make the bucket first"):
        Store("s3://nowhere/x").put(tmp_path / "file", "file", digest)
    s3.wrong += [("GET", "/corpus", "expired")]
    with pytest.raises(StoreError, match=rf"{URL}/: access denied \(PermissionError The provided token has expired"):
        store.listing()
    lost = Store(URL, attempts=2, wait_s=0, options={"endpoint_url": "http://127.0.0.1:9"})
    with pytest.raises(StoreError, match=r"Could not connect to the endpoint .*; given up after 2 attempts"):
        lost.read("file")


def test_a_full_scratch_is_one_line(
    s3: Faults, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        assert slake(local, URL, "--scratch", str(tmp_path)) == NOT_FINISHED
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    [line] = capsys.readouterr().err.splitlines()
    assert "File too large" in line
    assert not objects("slake")


def test_credentialed_data_goes_to_loopback_or_to_a_host_that_is_named(
    s3: Faults, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Store(URL).require_private("mimic_cxr", [])
    elsewhere = Store(URL, options={"endpoint_url": "http://192.0.2.1:9000"})
    with pytest.raises(UserError, match=r"mimic_cxr is credentialed: .* is at 192.0.2.1; .* --allow-host 192.0.2.1"):
        elsewhere.require_private("mimic_cxr", ["other.example"])
    elsewhere.require_private("mimic_cxr", ["192.0.2.1"])
    with pytest.raises(UserError, match=r"is at gs://corpus; .* --allow-host gs://corpus"):
        Store("gs://corpus/data").require_private("mimic_cxr", [])
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("http_proxy", "http://192.0.2.1:3128")
    with pytest.raises(UserError, match=r"is at 127.0.0.1 by the proxy of http_proxy"):
        Store(URL).require_private("mimic_cxr", [])


def test_what_cannot_be_built_to_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    raw, filtered = ["--raw", str(tmp_path), "--json"], next(name for name in modules() if load(name).filters)
    scratch = ["--scratch", str(tmp_path)]
    for source, words, said in (
        ("slake", ["--out", "hf://datasets/x/y"], "nothing is written to hf://; s3:// and gs:// can be"),
        ("mimic_cxr", ["--out", "gs://corpus/x", *scratch], "is credentialed: texts and pictures go to loopback only"),
        ("slake", ["--out", "s3://b/x", "--engine", "slurm"], "give --scratch, a folder that all nodes see"),
        (filtered, ["--out", "s3://b/x", *scratch], "filters read shards from a disk: give --filters none"),
    ):
        assert build(load(source), [*raw, *words]) == USAGE
        assert said in capsys.readouterr().err


# Readers.

DATA = "s3://corpus/data"


def uploaded(local: Path) -> None:
    """The build on a disk, as a build to the store would have it."""
    for path in (local / "built").rglob("*"):
        if path.is_file() and ".resume" not in path.parts:
            name = path.relative_to(local / "built").as_posix()
            Store(URL).put(path, name, hashlib.sha256(path.read_bytes()).hexdigest())


def test_readers_of_a_store_say_what_they_say_of_a_disk(
    s3: Faults, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded(local)
    cache = ["--cache", str(tmp_path)]

    def said(command: Callable[..., int], *words: str) -> Any:
        """The same of both, but for where it lies."""
        both = []
        for data in ([str(local)], [DATA, *cache]):
            code = command([*data, *words, "--json"])
            found = json.loads(capsys.readouterr().out)
            both.append((code, [{k: v for k, v in one.items() if k not in _PLACES} for one in _listed(found)]))
        assert both[0] == both[1]
        return both[0][1]

    s3.wrong += [("GET", "slake-test-00000.parquet", fault) for fault in ("cut", "500")]
    assert len(said(catalog)[0]["builds"]) == 1
    assert len(said(sql, "--audit", "all")[0]["audits"]) > 10
    [mirror] = tmp_path.iterdir()
    assert not list(mirror.rglob("*.tar"))  # these two need no shards
    said(prove, "--benchmarks", "present", "--workers", "1", "--no-rewrites")
    proof = {path.name: path.read_bytes() for path in (local / "proof").iterdir() if path.is_file()}
    assert {name: Store(DATA).read(name) for name in Store(DATA).listing("proof")} == {
        f"proof/{name}": content for name, content in proof.items()
    }
    assert verify([DATA, *cache, "--no-raw", "--sample", "2"]) == 0
    capsys.readouterr()
    packing = "--stage", "instruct", "--only-present", "--accept-incomplete", "--workers", "1"
    said(pack, *packing, "--dry-run")
    certified = load_certified(open_tree(DATA, tmp_path / "other"), check_shards=False, uncertified=True)
    storage = Storage(DATA, cache=tmp_path / "shards")
    for shard in certified.sources["slake"].shards:
        assert storage.open(shard).data[:] == (local / shard.path).read_bytes()


_PLACES = {"data", "database", "path", "plan"}


def _listed(found: Any) -> list[dict[str, Any]]:
    if "builds" in found and isinstance(found["builds"][0], dict):
        for build_ in found["builds"]:
            build_.pop("path", None)
    return [found]


def test_a_mirror_follows_the_store(
    s3: Faults, local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uploaded(local)
    mirror = open_tree(DATA, tmp_path)
    part = "built/slake/manifest/slake-test-00000.parquet"
    right = (mirror / part).read_bytes()
    s3.wrong += [("GET", "parquet", "500")]  # never asked for again
    assert open_tree(DATA, tmp_path) == mirror and s3.wrong
    s3.wrong.clear()
    Store(DATA).write(part, right[:-1] + b"x")
    assert sql([DATA, "--audit", "all", "--cache", str(tmp_path)]) == USAGE
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert f"{DATA}/{part}: SHA-256" in line and "altered; given up after 4 attempts" in line
    assert (mirror / part).read_bytes() == right
    Store(DATA).write(part, right[:-1])
    with pytest.raises(UserError, match=rf"{part}: {len(right) - 1} bytes where {len(right)} were written"):
        open_tree(DATA, tmp_path)
    Store(DATA).remove(part)
    with pytest.raises(UserError, match=rf"{part}: missing; build it again"):
        open_tree(DATA, tmp_path)
    Store(DATA).remove("built/slake/build.json")
    with pytest.raises(UserError, match=rf"{DATA}: no build.json here"):
        open_tree(DATA, tmp_path)
    evil = json.loads((local / "built" / "slake" / "build.json").read_bytes())
    evil["units"][0]["parts"][0]["file"] = "manifest/../../../escaped"
    Store(DATA).write("built/slake/build.json", json.dumps(evil).encode())
    with pytest.raises(UserError, match="names a file outside its build"):
        open_tree(DATA, tmp_path)


def test_a_mirror_of_credentialed_data_is_its_owners_alone(
    s3: Faults, local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploaded(local)
    said = (local / "built" / "slake" / "build.json").read_bytes()
    Store(URL).write("slake/build.json", said.replace(b'"access": "open"', b'"access": "credentialed"'))
    mirror = open_tree(DATA, tmp_path, send=[])  # the endpoint is loopback
    files = [mirror, *mirror.rglob("*")]
    assert len(files) > 10 and not any(path.stat().st_mode & 0o077 for path in files)
    asked = []
    monkeypatch.setattr(Store, "require_private", lambda store, build, allowed: asked.append((build, allowed)))
    open_tree(DATA, tmp_path)
    open_tree(DATA, tmp_path, send=["host"])  # where a proof is to be uploaded
    assert asked == [("slake", ["host"])]


def test_the_hub_is_read_and_nothing_is_sent_there(
    local: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fsspec = pytest.importorskip("fsspec")
    from fsspec.implementations.memory import MemoryFileSystem

    class Hub(MemoryFileSystem):  # type: ignore[misc]
        protocol = "hf"

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return str(super()._strip_protocol(path.removeprefix("hf://")))

    before = fsspec.get_filesystem_class("hf")
    fsspec.register_implementation("hf", Hub, clobber=True)
    try:
        Hub().put(str(local / "built" / "slake"), "/datasets/us/corpus/slake", recursive=True)
        found = open_tree("hf://datasets/us/corpus", tmp_path, shards=True)
        for path in (local / "built" / "slake").rglob("*.*"):
            assert (found / "slake" / path.relative_to(local / "built" / "slake")).read_bytes() == path.read_bytes()
        assert prove(["hf://datasets/us/corpus", "--cache", str(tmp_path)]) == USAGE
        assert "nothing is written to hf://; s3:// and gs:// can be" in capsys.readouterr().err
    finally:
        fsspec.register_implementation("hf", before, clobber=True)
        MemoryFileSystem.store.clear()
