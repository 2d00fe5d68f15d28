"""Jobs on a Ray cluster of three nodes and in tasks of submitit: same bytes, lost workers and nodes, refusals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import pytest
import slurm_stand_in
from conftest import ROOT, tree_digest

from filters.base import Filter, Record, Score
from medgpt.stores import Store

pytestmark = pytest.mark.xdist_group("engines")

ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}", "RAY_USAGE_STATS_ENABLED": "0"}
SOURCES = ("rocov2", "medqa")
MIXTURE = """\
format: 1
name: test
sources:
  - {build: rocov2, samples: 3}
"""

CLUSTER = """\
import sys
from ray.cluster_utils import Cluster
size = {"num_cpus": 1, "object_store_memory": 10**8}
cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
nodes = [cluster.add_node(**size) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    cluster.remove_node(nodes.pop(), allow_graceful=False)
    cluster.add_node(**size)
    print("lost", flush=True)
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[Store]:
    """A bucket of moto's that the cluster's nodes and the commands know by their environment."""
    pytest.importorskip("s3fs", reason="stores need the extra `remote`")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    endpoint = "http://{}:{}".format(*server.get_host_and_port())
    ENVIRONMENT.update(AWS_ENDPOINT_URL=endpoint, AWS_DEFAULT_REGION="us-east-1", no_proxy="127.0.0.1")
    ENVIRONMENT.update(AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x")
    store = Store("s3://bucket/built", options={"endpoint_url": endpoint, "key": "x", "secret": "x"})
    store.filesystem.mkdir("bucket")
    yield store
    server.stop()


@pytest.fixture(scope="module")
def cluster(bucket: Store) -> Iterator[subprocess.Popen[str]]:
    """A head and two nodes of one CPU each; a line on its standard input kills a node, and another comes."""
    pytest.importorskip("ray", reason="Ray is not installed")
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    yield process
    process.communicate()


@pytest.fixture(scope="module")
def ray(cluster: subprocess.Popen[str]) -> list[str]:
    """The words of a command line that name the cluster."""
    assert cluster.stdout is not None
    return ["--engine", "ray", "--engine-option", f"address={cluster.stdout.readline().strip()}"]


def run(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *map(str, words)], env=ENVIRONMENT, capture_output=True, text=True, timeout=240
    )
    assert done.returncode in (0, 4), done.stderr[-2000:]
    return done.stdout


def written(data: Path) -> dict[str, str]:
    """The digests of all files that are no cache."""
    files = tree_digest(data)
    return {
        name: digest for name, digest in files.items() if not {".resume", ".work", ".streams"} & {*Path(name).parts}
    }


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Raw trees, and what the local engine makes of them, one source after the other."""
    folder = tmp_path_factory.mktemp("local")
    raw, data = folder / "raw", folder / "data"
    for name in SOURCES:
        out = ["--out", data / "built", "--workers", 2, "--quiet"]
        run(f"builders.{name}", "--demo", "--raw", raw / name, *out)
    run("manifests.prove", data, *OPTIONS["PROVE"].split(), "--workers", 2, "--quiet")
    run("shards.pack", data, "--stage", "pretrain", *pack(data).split(), "--workers", 2)
    return raw, written(data)


OPTIONS = {"PROVE": "--benchmarks present", "STAGES": "pretrain", "PYTHON": sys.executable}


def pack(data: Path) -> str:
    """A mixture, and the options of `shards.pack` that name it."""
    (data / "mixture.yaml").write_text(MIXTURE)
    return f"--mixture {data / 'mixture.yaml'} --accept-incomplete --out {data / 'plan'}"


def recipe(folder: Path, raw: Path, *engine: str, **environment: str) -> dict[str, str]:
    """The files that `examples/recipe.sh` writes: sources in one list of jobs, proof, verification, packing plan."""
    data = folder / "data"
    data.mkdir()
    options = OPTIONS | {"PACK": pack(data)} | environment
    done = subprocess.run(
        [ROOT / "examples/recipe.sh", raw, data, "a model", "--workers", "2", *engine],
        env=ENVIRONMENT | options, capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "\nVerified" in done.stdout
    return written(data)


def test_a_cluster_of_three_nodes_writes_the_same_bytes(
    ray: list[str], local: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    raw, files = local
    (tmp_path / "torchrun").write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/training"\n')
    (tmp_path / "torchrun").chmod(0o755)
    assert recipe(tmp_path, raw, *ray, PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}") == files
    trained = (
        f"-m train.run --stage pretrain --shards {tmp_path}/data --model a model --out {tmp_path}/data/runs/pretrain"
    )
    assert (tmp_path / "training").read_text().endswith(f"{trained}\n")


def test_a_cluster_exports_the_same_bytes(ray: list[str], local: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    data = local[0].parent / "data"
    words = ["shards.export", data, "--format", "ms-swift", "--accept-incomplete", "--out"]
    run(*words, tmp_path / "here", "--workers", 1)
    run(*words, tmp_path / "ray", *ray)
    ours, theirs = (tree_digest(tmp_path / place) for place in ("here", "ray"))
    assert {n: d for n, d in ours.items() if ".export" not in n} == {
        n: d for n, d in theirs.items() if ".export" not in n
    }


def test_a_cluster_writes_the_same_bytes_into_an_object_store(
    ray: list[str], bucket: Store, local: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    raw, files = local
    run("builders.medqa", "--raw", raw / "medqa", "--out", bucket.url, "--scratch", tmp_path, "--quiet", *ray)
    found = {f"built/{name}": sha256(bucket.read(name) or b"").hexdigest() for name in bucket.listing("medqa")}
    assert found == {name: digest for name, digest in files.items() if name.startswith("built/medqa/")}


def test_tasks_of_slurm_write_the_same_bytes(local: tuple[Path, dict[str, str]], tmp_path: Path) -> None:
    pytest.importorskip("submitit", reason="submitit is not installed")
    raw, files = local
    for path in raw.rglob("*"):
        os.utime(path, (1 << 32, 1 << 32))  # of a node whose clock is a century ahead
    slurm = slurm_stand_in.install(tmp_path / "stand_in")
    assert recipe(tmp_path, raw, "--engine", "slurm", "--engine-option", "seconds=1", **slurm) == files
    assert not list((tmp_path / "data").rglob("slurm"))
    [trained] = (tmp_path / "stand_in/state/training").read_text().splitlines()
    assert trained.endswith(f"train.sbatch pretrain {tmp_path}/data a model {tmp_path}/data/runs/pretrain")


JOBS = """\
import argparse, os, sys
from pathlib import Path
from medgpt import slurm_engine
from medgpt.engines import add_engine, choose_engine, run_jobs
from medgpt.errors import run
from test_engines import declared, slow
@run
def main(arguments=None):
    parser = argparse.ArgumentParser()
    add_engine(parser)
    parser.add_argument("place", type=Path)
    args = parser.parse_args()
    choose_engine(args)
    slurm_engine.ARRAY = int(os.environ.get("ARRAY", slurm_engine.ARRAY))
    slurm_engine.PREEMPTED = 1
    jobs = [(args.place, number) for number in range(8)]
    for job, (answer, _) in run_jobs(slow, jobs, 2, place=args.place, declared=declared):
        assert answer == job[1] ** 2
        print(answer, flush=True)
    return 0
sys.exit(main())
"""


def slow(job: tuple[Path, int]) -> tuple[int, int]:
    """The square of a number; number 3 ends its worker the first time."""
    folder, number = job
    time.sleep(0.5)
    if number == 3 and not (mark := folder / "died").exists():
        mark.touch()
        if os.environ.get("END") == "CANCEL":  # preempted, and not to be begun again by Slurm
            Path(os.environ["SLURM_STAND_IN"], "tasks", os.environ["SLURM_STAND_IN_TASK"]).write_text("PREEMPTED")
        os.kill(os.getpid(), signal.SIGUSR2 if os.environ.get("END") == "REQUEUE" else signal.SIGKILL)
    with (folder / "done").open("a") as file:
        file.write(f"{number}\n")
    return number**2, os.getpid()


def declared() -> str:
    """A declared version that a test makes differ in the processes of a node."""
    return os.environ.get("DECLARED", "1")


def start_jobs(place: Path, *engine: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", JOBS, str(place), *engine],
        env=ENVIRONMENT | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_killed_worker_costs_its_job_a_second_start(tmp_path: Path) -> None:
    out, err = start_jobs(tmp_path).communicate(timeout=120)
    assert sorted(map(int, out.split())) == [n * n for n in range(8)], err
    assert (tmp_path / "died").exists()


def test_slurms_commands_are_used_as_slurm_has_them(tmp_path: Path) -> None:
    """Arrays of two tasks at most, some jobs a task; a task that ends goes on where its answers end."""
    pytest.importorskip("submitit", reason="submitit is not installed")
    words = ["--engine", "slurm", "--engine-option", "seconds=1"]
    running = {}
    for end in ("KILL", "REQUEUE", "CANCEL"):
        slurm = slurm_stand_in.install(tmp_path / end / "stand_in")
        running[end] = start_jobs(tmp_path / end, *words, ARRAY="2", END=end, **slurm)
    for end, process in running.items():
        out, err = process.communicate(timeout=120)
        assert sorted(map(int, out.split())) == [n * n for n in range(8)], err
        place, state = tmp_path / end, tmp_path / end / "stand_in/state"
        assert sorted((place / "done").read_text().split()) == [str(n) for n in range(8)]  # each once
        sizes = [int(line.split()[1]) for line in (state / "arrays").read_text().splitlines()]
        assert max(sizes) == 2 and 4 <= sum(sizes) <= 7  # eight jobs in fewer tasks, some of them given out again
        assert (state / "requeued").exists() == (end == "REQUEUE")
        assert not (place / "slurm").exists()


def test_a_lost_node_costs_its_jobs_a_second_start(
    cluster: subprocess.Popen[str], ray: list[str], tmp_path: Path
) -> None:
    process = start_jobs(tmp_path, *ray)
    assert process.stdout is not None
    assert cluster.stdin is not None
    assert cluster.stdout is not None
    first = process.stdout.readline()
    cluster.stdin.write("a node\n")
    cluster.stdin.flush()
    assert cluster.stdout.readline() == "lost\n"
    out, err = process.communicate(timeout=120)
    found = [int(line) for line in (first + out).splitlines()]  # what Ray says of the node is no part of it
    assert sorted(found) == [n * n for n in range(8)], err
    assert (tmp_path / "died").exists()


def refused(place: Path, *engine: str, **environment: str) -> str:
    process = start_jobs(place, *engine, **environment)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) in ((1, ""), (2, "")), err
    assert err.count("\n") == 1, err
    return err


def test_a_node_with_another_declared_version_is_refused(ray: list[str], tmp_path: Path) -> None:
    assert "declared versions 1, not 2; install the same" in refused(tmp_path, *ray, DECLARED="2")


class Length(Filter):
    """A filter whose version a test makes differ in the processes of a node."""

    name: ClassVar[str] = "length"
    version: ClassVar[str] = declared()
    scores: ClassVar[dict[str, str]] = {"words": "of the caption"}
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 1.0

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        return [{"words": len(record.caption.split())} for record in records]


def test_a_node_with_another_filter_is_refused(
    ray: list[str], local: tuple[Path, dict[str, str]], tmp_path: Path
) -> None:
    rule = "{class: 'test_engines:Length'}"
    rules = f"format: 1\nname: x\nversion: 1\nsources: {{rocov2: {{unreadable: keep, filters: {{length: {rule}}}}}}}"
    (tmp_path / "recipe.yaml").write_text(rules)
    shutil.copytree(local[0].parent / "data/built/rocov2", tmp_path / "data/rocov2")
    command = ["filters.run", str(tmp_path / "data"), "--recipe", str(tmp_path / "recipe.yaml"), "--quiet", *ray]
    done = subprocess.run(
        [sys.executable, "-m", *command], env=ENVIRONMENT | {"DECLARED": "2"}, capture_output=True, text=True
    )
    assert done.returncode == 2 and "declared versions {'length': '1'}, not {'length': '2'}" in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("engine", "options", "says"),
    [
        ("ray", ["address=127.0.0.1:1"], "no Ray cluster at 127.0.0.1:1"),
        ("ray", ["address=local", "cpu=2"], "--engine-option cpu: Ray's are address, cpus, inflight"),
        ("ray", ["address=local", "cpus=two"], "--engine-option cpus=two: a whole number is needed"),
        ("ray", ["address"], "--engine-option address: write KEY=VALUE"),
        ("local", ["cpus=2"], "the local engine has no options"),
        ("slurm", ["cluster=local", "slurm_queue=x"], "slurm_queue"),
        ("slurm", ["cluster=nowhere"], "nowhere"),
    ],
)
def test_wrong_options_are_one_line(tmp_path: Path, engine: str, options: list[str], says: str) -> None:
    if engine != "local":
        pytest.importorskip({"ray": "ray", "slurm": "submitit"}[engine], reason="not installed")
    words = [word for option in options for word in ("--engine-option", option)]
    assert says in refused(tmp_path, "--engine", engine, *words)
