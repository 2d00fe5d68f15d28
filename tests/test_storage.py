"""Reading shards from a local tree, over http and from an S3 API, both on loopback, through the bounded cache."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import pickle
import resource
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT

from medgpt.errors import UserError
from shards.storage import MARKS, ShardRef, Storage

SIZE = 50_000


def content(number: int, size: int = SIZE) -> bytes:
    return hashlib.shake_128(str(number).encode()).digest(size)


def ref(number: int, size: int = SIZE) -> ShardRef:
    return ShardRef(f"built/x/shards/x-{number:05d}.tar", hashlib.sha256(content(number, size)).hexdigest(), size, 1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    data = tmp_path / "data"
    for number in range(10):
        path = data / ref(number).path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(number))
    return data


# A local tree.


def test_local_shards_are_mapped_as_they_are(tree: Path) -> None:
    storage = Storage(tree, max_open=3)
    for number in (0, 1, 2, 3, 0, 9):
        assert storage.open(ref(number)).data[:] == content(number)
    assert storage.counts.opened == 6  # 0 was let go of before it was asked for again
    assert storage.open(ref(9)) is storage.open(ref(9))


@pytest.mark.parametrize("verify", ["size", "digest"])
def test_missing_and_truncated_shards_are_named(tree: Path, verify: str) -> None:
    storage = Storage(tree, verify=verify)  # type: ignore[arg-type]
    (tree / ref(1).path).unlink()
    with pytest.raises(UserError, match=r"x-00001.tar: missing; run its builder"):
        storage.open(ref(1))
    os.truncate(tree / ref(2).path, 100)
    with pytest.raises(UserError, match=r"x-00002.tar: 100 bytes where 50000 were certified"):
        storage.open(ref(2))


def test_an_altered_byte_is_found_before_and_after_the_digest_was_remembered(tree: Path) -> None:
    path = tree / ref(4).path
    first = Storage(tree)
    first.open(ref(4))
    assert first.counts.hashed_bytes == SIZE
    again = Storage(tree)
    again.open(ref(4))
    assert again.counts.hashed_bytes == 0
    for flipped in (0, SIZE - 1):
        data = bytearray(content(4))
        data[flipped] ^= 1
        times = path.stat()
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as `cp -p` of an altered copy leaves it
        with pytest.raises(UserError, match=r"x-00004.tar: altered after certification"):
            Storage(tree).open(ref(4))
    unchecked = Storage(tree, verify="size")
    unchecked.open(ref(4))
    assert unchecked.counts.hashed_bytes == 0


def test_a_tree_that_is_mounted_read_only_is_hashed_by_each_process(tree: Path) -> None:
    for command in (["--bind", str(tree), str(tree)], ["-o", "remount,bind,ro", str(tree)]):
        if subprocess.run(["mount", *command], capture_output=True).returncode:
            pytest.skip("nothing can be mounted here")
    try:
        for _ in range(2):
            storage = Storage(tree, max_open=1)
            for number in (0, 1, 0):
                storage.open(ref(number))
            assert storage.counts.hashed_bytes == 2 * SIZE
    finally:
        subprocess.run(["umount", "-l", str(tree)], check=True)


def test_remembered_digests_need_their_folder(tree: Path) -> None:
    (tree / ".streams").write_text("in the way")
    with pytest.raises(NotADirectoryError, match=MARKS):
        Storage(tree).open(ref(0))


# Over http.


@dataclass
class Faults:
    """What the server does wrong, by path: answers to give instead, one a request."""

    answers: dict[str, list[str]] = field(default_factory=dict)
    requests: Counter[str] = field(default_factory=Counter)
    hold: threading.Event = field(default_factory=threading.Event)


@pytest.fixture
def server(tree: Path) -> Iterator[tuple[str, Faults]]:
    pytest.importorskip("aiohttp", reason="http locations need the extra `remote`")
    faults = Faults()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = tree / self.path.lstrip("/")
            if not path.exists():
                self.send_error(404)
                return
            data = path.read_bytes()
            fault = ""
            if self.command == "GET":
                faults.requests[self.path] += 1
                fault = (faults.answers.get(self.path) or [""]).pop(0)
            if fault == "500":
                self.send_error(500)
                return
            self.send_response(200)
            if fault != "unsaid":  # without a length, only our own check can tell that the end is missing
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault in ("short", "unsaid"):
                self.wfile.write(data[: len(data) // 2])
            elif fault == "wrong":
                self.wfile.write(b"\0" + data[1:])
            elif fault == "slow":
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                faults.hold.wait(20)
            else:
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}", faults
        faults.hold.set()
        http.shutdown()


def remote(url: str, cache: Path, shards: float = 3, **options: object) -> Storage:
    return Storage(url, cache=cache, cache_bytes=int(shards * SIZE), first_wait_s=0.01, patience_s=10, **options)  # type: ignore[arg-type]


def held(cache: Path) -> set[str]:
    """Digests of what lies in the cache under a shard's name."""
    return {path.name for path in cache.glob("*") if len(path.name) == 64}


def test_faults_of_the_network_are_retried_and_counted(
    server: tuple[str, Faults], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, faults = server
    bad = ["500", "short", "unsaid", "wrong"]
    faults.answers["/" + ref(3).path] = list(bad)
    storage = remote(url, tmp_path / "cache")
    assert storage.open(ref(3)).data[:] == content(3)
    assert (storage.counts.retries, storage.counts.fetched) == (4, 1)
    assert storage.counts.damaged == 2  # what came whole or without a length, and was not the shard
    assert len([record for record in caplog.records if "x-00003.tar" in record.getMessage()]) == 4
    assert "4 retries" in str(storage.counts)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("500", "500.*given up after 2 attempts"),
        ("short", "given up after 2 attempts"),
        ("unsaid", "25000 bytes came where 50000 were certified; given up after 2 attempts"),
        ("wrong", "altered; given up after 2 attempts"),
    ],
)
def test_a_lasting_fault_is_one_line_and_leaves_nothing(
    server: tuple[str, Faults], tmp_path: Path, fault: str, said: str
) -> None:
    url, faults = server
    faults.answers["/" + ref(3).path] = [fault] * 2
    storage = remote(url, tmp_path / "cache", attempts=2)
    with pytest.raises(UserError, match=f"{url}/built/x/shards/x-00003.tar: .*{said}") as caught:
        storage.open(ref(3))
    assert "\n" not in str(caught.value)
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {".lock"}
    assert faults.requests["/" + ref(3).path] == 2


def test_a_shard_that_is_not_there_is_not_asked_for_twice(server: tuple[str, Faults], tmp_path: Path) -> None:
    storage = remote(server[0], tmp_path / "cache")
    with pytest.raises(UserError, match=r"x-00077.tar: missing; upload"):
        storage.open(ref(77))
    assert storage.counts.retries == 0


def test_the_cache_keeps_its_bound_and_what_was_used_last(server: tuple[str, Faults], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    storage = remote(server[0], cache, shards=3.5)
    for number in (0, 1, 2):
        storage.open(ref(number))
    storage.close()
    for number in (0, 3):
        storage.open(ref(number))
        storage.close()
    assert held(cache) == {ref(number).sha256 for number in (0, 2, 3)}  # 1 was used longest ago
    assert storage.counts.evicted == 1
    assert {path.name.removesuffix(".ok") for path in cache.iterdir()} == held(cache) | {".lock"}
    for number in range(10):  # open shards are let go of, oldest first, when room is needed
        storage.open(ref(number))
        assert len(held(cache)) <= 3
    again = remote(server[0], cache, shards=3.5)
    assert again.open(ref(9)).data[:] == content(9)
    assert again.counts.fetched == 0


def test_what_others_have_open_is_not_removed(server: tuple[str, Faults], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    other = remote(server[0], cache, shards=2)
    other.open(ref(0))
    other.open(ref(1))
    storage = Storage(server[0], cache=cache, cache_bytes=2 * SIZE, patience_s=0.3)
    with pytest.raises(UserError, match="no room for 50,000 bytes: 100,000 of 100,000 are in use"):
        storage.open(ref(2))
    assert storage.counts.waits
    other.close()
    assert storage.open(ref(2)).data[:] == content(2)


def test_a_forked_child_does_not_give_up_its_parents_shards(server: tuple[str, Faults], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    storage = remote(server[0], cache, shards=2)
    storage.open(ref(0))
    child = multiprocessing.get_context("fork").Process(target=lambda: storage.open(ref(1)).data[:])
    child.start()
    child.join()
    assert child.exitcode == 0
    assert remote(server[0], cache, shards=2).open(ref(2)).data[:] == content(2)
    assert held(cache) == {ref(0).sha256, ref(2).sha256}


def test_a_released_shard_makes_room_though_its_map_is_in_use(server: tuple[str, Faults], tmp_path: Path) -> None:
    storage = remote(server[0], tmp_path / "cache", shards=1)
    kept = storage.open(ref(0)).data
    assert storage.open(ref(1)).data[:] == content(1)
    assert kept[:] == content(0)


def test_an_altered_cached_file_is_fetched_again(server: tuple[str, Faults], tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    remote(server[0], cache).open(ref(5))
    (cache / ref(5).sha256).write_bytes(b"\0" + content(5)[1:])
    storage = remote(server[0], cache)
    assert storage.open(ref(5)).data[:] == content(5)
    assert (storage.counts.damaged, storage.counts.fetched) == (1, 1)


def test_read_ahead_brings_the_next_shards(server: tuple[str, Faults], tmp_path: Path) -> None:
    url, faults = server
    storage = remote(url, tmp_path / "cache", shards=6, ahead=2)
    storage.read_ahead([ref(number) for number in range(4)])
    deadline = time.monotonic() + 10
    while held(tmp_path / "cache") != {ref(0).sha256, ref(1).sha256}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert storage.open(ref(0)).data[:] == content(0)
    assert storage.open(ref(1)).data[:] == content(1)
    assert sum(faults.requests.values()) == 2  # no more than `ahead`, and none twice


def _read_all(url: str, cache: str, numbers: list[int], shards: float) -> int:
    storage = remote(url, Path(cache), shards)
    for number in numbers:
        assert storage.open(ref(number)).data[:] == content(number)
        assert len(held(Path(cache))) <= shards
    return storage.counts.fetched


def test_processes_share_the_cache(server: tuple[str, Faults], tmp_path: Path) -> None:
    url, faults = server
    cache = str(tmp_path / "cache")
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        fetched = pool.starmap(_read_all, [(url, cache, [0, 1, 2, 3], 4)] * 3)
        # All want the same four and there is room for them: each is brought once, by whom does not matter.
        assert sum(fetched) == sum(faults.requests.values()) == 4
        orders = [[number * step % 10 for number in range(20)] for step in (1, 3, 7)]
        pool.starmap(_read_all, [(url, cache + "-small", order, 3.2) for order in orders])


_FETCH = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from shards.storage import Storage
from tests.test_storage import ref
Storage(sys.argv[1], cache=Path(sys.argv[2])).open(ref(6))
"""


def test_a_killed_download_leaves_nothing_that_counts(server: tuple[str, Faults], tmp_path: Path) -> None:
    url, faults = server
    cache = tmp_path / "cache"
    faults.answers["/" + ref(6).path] = ["slow"]
    process = subprocess.Popen(
        [sys.executable, "-c", _FETCH, url, str(cache), str(ROOT)],
        env=os.environ | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    part = cache / f"{ref(6).sha256}.{SIZE}.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    storage = remote(url, cache, shards=1.5)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert held(cache) == set()
    assert storage.open(ref(7)).data[:] == content(7)  # the dead download's bytes are not in the way
    assert not part.exists()
    assert storage.open(ref(6)).data[:] == content(6)


def test_a_cache_that_cannot_hold_the_shard(server: tuple[str, Faults], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a shard of 50,000 bytes does not fit a cache of 40,000"):
        remote(server[0], tmp_path / "cache", shards=0.8).open(ref(0))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: cannot be written to \(.*; name another folder"):
        remote(server[0], tmp_path / "file").open(ref(0))


def test_a_full_disk_is_one_line(server: tuple[str, Faults], tmp_path: Path) -> None:
    cache = tmp_path / "small"
    cache.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(cache)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        storage = Storage(server[0], cache=cache, patience_s=0)
        (cache / "something else").write_bytes(bytes(90_000))
        with pytest.raises(UserError, match=r"small: disk full: a shard of 50,000 bytes, [\d,]+ bytes free"):
            storage.open(ref(0))
        (cache / "something else").write_bytes(bytes(40_000))
        storage.open(ref(0))
        assert storage.open(ref(1)).data[:] == content(1)  # drives out the first
        assert storage.counts.evicted == 1
        storage.close()
    finally:
        subprocess.run(["umount", "-l", str(cache)], check=True)


def test_a_disk_that_fills_up_while_fetching(server: tuple[str, Faults], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"disk full while fetching built/x/shards/x-00000.tar"):
            remote(server[0], tmp_path / "cache").open(ref(0))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert held(tmp_path / "cache") == set()


def test_storage_travels_to_other_processes(server: tuple[str, Faults], tmp_path: Path) -> None:
    storage = remote(server[0], tmp_path / "cache")
    storage.open(ref(0))
    copy = pickle.loads(pickle.dumps(storage))
    assert copy.open(ref(0)).data[:] == content(0)
    assert (copy.counts.fetched, copy.cache_bytes) == (0, storage.cache_bytes)


def test_wrong_locations_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need a local folder"):
        Storage("s3://bucket/data")
    with pytest.raises(UserError, match="nosuch://"):
        remote("nosuch://bucket", tmp_path).open(ref(0))
    with pytest.raises(UserError, match="'digest' or 'size'"):
        Storage(tmp_path, verify="none")  # type: ignore[arg-type]


# An S3 API.


def test_s3(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    for name, value in {"ACCESS_KEY_ID": "x", "SECRET_ACCESS_KEY": "x", "DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    api = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    api.start()
    try:
        host, port = api.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        client = boto3.client("s3", endpoint_url=endpoint)
        client.create_bucket(Bucket="corpus")
        for number in range(4):
            client.put_object(Bucket="corpus", Key=f"data/{ref(number).path}", Body=content(number))
        storage = remote("s3://corpus/data", tmp_path / "cache", options={"endpoint_url": endpoint})
        storage.read_ahead([ref(0), ref(1)])
        for number in range(4):
            assert storage.open(ref(number)).data[:] == content(number)
        assert storage.counts.retries == 0
        with pytest.raises(UserError, match=r"s3://corpus/data/built/x/shards/x-00008.tar: missing; upload"):
            storage.open(ref(8))
        client.put_object(Bucket="corpus", Key=f"data/{ref(8).path}", Body=content(9))
        storage.attempts = 2
        with pytest.raises(UserError, match=r"x-00008.tar: SHA-256 .* altered; given up after 2 attempts"):
            storage.open(ref(8))
        lost = remote(
            "s3://corpus/data", tmp_path / "other", attempts=2, options={"endpoint_url": "http://127.0.0.1:9"}
        )
        with pytest.raises(UserError, match="given up after 2 attempts"):
            lost.open(ref(0))
        assert lost.counts.retries == 1
    finally:
        api.stop()
