"""Worker processes: every job answered once, errors and deaths reported, nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from medgpt.processes import WorkerDied, run_local


def square(number: int) -> tuple[int, int]:
    return number * number, os.getpid()


def fail_on_three(number: int) -> int:
    if number == 3:
        raise ValueError("row 3 is odd")
    return number


def die_on_three(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
    return number


def leave_mark(folder: Path) -> Path:
    mark = folder / str(os.getpid())
    mark.touch()
    time.sleep(60)
    return mark


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_every_job_is_answered_once_by_as_many_workers(method: str) -> None:
    done = dict(run_local(square, range(50), 3, method=method))
    assert {job: answer for job, (answer, _) in done.items()} == {n: n * n for n in range(50)}
    assert os.getpid() not in {pid for _, pid in done.values()}


def test_jobs_and_answers_larger_than_a_pipe_pass() -> None:
    jobs = [bytes([n]) * 3_000_000 for n in range(6)]
    assert sorted(answer for _, answer in run_local(bytes.upper, jobs, 2)) == sorted(job.upper() for job in jobs)


def test_no_jobs_start_no_workers() -> None:
    assert list(run_local(square, [], 2)) == []


def test_what_a_job_raises_is_raised_here_with_its_place() -> None:
    with pytest.raises(ValueError, match="row 3 is odd") as caught:
        list(run_local(fail_on_three, range(6), 2))
    assert "fail_on_three" in caught.value.__notes__[0]


def die_once(job: tuple[Path, int]) -> int:
    folder, number = job
    if number % 4 == 3 and not (mark := folder / str(number)).exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_a_killed_worker_costs_its_job_a_second_start(tmp_path: Path, workers: int, method: str) -> None:
    jobs = [(tmp_path, number) for number in range(10)]
    assert sorted(answer for _, answer in run_local(die_once, jobs, workers, method=method)) == list(range(10))
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_a_job_that_kills_its_workers_is_told(workers: int) -> None:
    with pytest.raises(WorkerDied):
        list(run_local(die_on_three, range(10), workers, method="fork"))


def test_closing_early_leaves_no_worker() -> None:
    running = run_local(square, range(100), 2, method="fork")
    pids = {next(running)[1][1]}
    running.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def is_alive(process: str) -> bool:
    """Whether a process runs; a dead one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_workers_die_with_a_killed_parent_and_free_their_lock(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        f"sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]\n"
        "from test_processes import leave_mark; from medgpt.processes import run_local\n"
        f"list(run_local(leave_mark, [Path({str(tmp_path)!r})] * 2, 2, locks=[Path({str(tmp_path / 'lock')!r})], "
        "method='fork'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while len(marks := [p for p in tmp_path.iterdir() if p.name.isdigit()]) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(marks) == 2
    parent.kill()
    parent.wait()
    held = subprocess.run(["flock", "--exclusive", "--timeout", "30", tmp_path / "lock", "true"])
    assert held.returncode == 0
    # The lock is free before a worker that is dying is seen to be dead.
    while alive := [mark.name for mark in marks if is_alive(mark.name)]:
        assert time.monotonic() < deadline, alive
        time.sleep(0.05)
