"""What the engines cost beside the jobs: the same jobs of five CPU-seconds on `local`, `ray` and `slurm`.

CPU is user + system of every process of the engine, the cluster's own processes among it, from the first job to the
last; the jobs' own CPU is counted in them. A cluster that idles uses some all the same (`idle_cpu`, a share of one
core): on a full machine, where jobs take long, that is most of `overhead_cpu`; `overhead_cpu_less_idle` leaves it out.
`start` is the time from the call to the first answer of an empty job on a cluster that runs, `start_cpu_s` its CPU.
Slurm is submitit's local executor: its scheduler's part is not in it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import psutil  # type: ignore[import-untyped]

from medgpt.engines import add_engine, choose_engine, run_jobs

JOBS, SECONDS, IDLE_SECONDS = 12, 5.0, 20.0
_CLUSTER = """
import sys
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def spend(seconds: float) -> float:
    """Use so many CPU-seconds; how many it were."""
    began = time.process_time()
    while time.process_time() - began < seconds:
        sum(range(10_000))
    return time.process_time() - began


def _cpu() -> float:
    """CPU-seconds of this process and of all that it started, the cluster among them; what ended counts, too."""
    own, total = psutil.Process(), 0.0
    for process in own, *own.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def _timed(engine: list[str], place: Path, cost: float, count: int) -> dict[str, float]:
    parser = argparse.ArgumentParser()
    add_engine(parser)
    choose_engine(parser.parse_args(engine))
    began, cpu = time.monotonic(), _cpu()
    spent = sum(answer for _, answer in run_jobs(spend, [cost] * count, 2, place=place))
    return {"wall_s": time.monotonic() - began, "cpu_s": _cpu() - cpu, "jobs_cpu_s": spent}


def measure(peer_python: Path | None = None) -> dict[str, Any]:
    """Figures of the three engines with two workers."""
    figures: dict[str, Any] = {}
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[1])
    cluster = subprocess.Popen([sys.executable, "-c", _CLUSTER], stdin=PIPE, stdout=PIPE, text=True)
    assert cluster.stdout is not None
    try:
        ray = ["--engine", "ray", "--engine-option", f"address={cluster.stdout.readline().strip()}"]
        with tempfile.TemporaryDirectory() as folder:
            for name, engine in {
                "local": [],
                "ray": ray,
                "slurm": ["--engine", "slurm", "--engine-option", "cluster=local", "--engine-option", "seconds=60"],
            }.items():
                empty = _timed(engine, Path(folder), 0.0, 1)
                jobs = _timed(engine, Path(folder), SECONDS, JOBS)
                before = _cpu()
                time.sleep(IDLE_SECONDS)
                idle = (_cpu() - before) / IDLE_SECONDS
                figures[name] = {
                    "load": os.getloadavg()[0],
                    "start_s": round(empty["wall_s"], 2),
                    "start_cpu_s": round(empty["cpu_s"], 2),
                    "wall_s": round(jobs["wall_s"], 2),
                    "idle_cpu": round(idle, 4),
                    "overhead_cpu": round(jobs["cpu_s"] / jobs["jobs_cpu_s"] - 1, 4),
                    "overhead_cpu_less_idle": round(
                        (jobs["cpu_s"] - idle * jobs["wall_s"]) / jobs["jobs_cpu_s"] - 1, 4
                    ),
                }
                print({name: figures[name]}, file=sys.stderr, flush=True)
            small = _timed(ray, Path(folder), 0.0, 1_000)
            figures["ray"]["ms_a_job"] = round(small["wall_s"], 2)
    finally:
        cluster.communicate()  # with the end of its input it stops the processes that it started
    return figures
