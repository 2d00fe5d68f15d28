"""Jobs as job arrays of Slurm, by submitit (see `engines`).

A task of an array has jobs for a minute or more and leaves each one's answer in a file. The first tasks have one job
each; what those took says how many the others get. A task that Slurm requeues, or that is given out again because it
ended without all answers, goes on where its answers end.
"""

import math
import pickle
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medgpt.atomic import write_atomic
from medgpt.cluster import Common, answer
from medgpt.errors import one_line
from medgpt.private import make_folder
from medgpt.processes import TRIES, EngineError, WorkerDied

SECONDS = 60
"""Jobs for so long make a task: shorter ones cost the scheduler more than they give."""
ARRAY = 1_000
"""Tasks of one array at most; Slurm's default MaxArraySize is 1,001."""
MINUTES = 240
"""A task's limit of time where `timeout_min` says nothing; one that reaches it is requeued and goes on."""
PREEMPTED = 300
"""Seconds after which a task that was preempted and not requeued by Slurm counts as ended (PreemptMode=CANCEL)."""
LINGER = 10
"""Seconds in which the last tasks may end after their answers, before their files go."""
_POLL_SECONDS = 0.5


def run(
    common: Common, jobs: Sequence[Any], workers: int, options: dict[str, str], place: Path, poll: Callable[[], None]
) -> Iterator[tuple[Any, Any]]:
    """As `engines.run_jobs`; `workers` tasks of an array run at once.

    Options: `cluster` (slurm; `local` runs the tasks as processes here), `seconds` (`SECONDS`), and every parameter of
    submitit, as `timeout_min`, `mem_gb`, `slurm_partition`, `slurm_account`.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise EngineError("--engine slurm needs submitit: pip install 'medgpt-oss[slurm]'") from None
    folder = place / "slurm"
    _forget(folder)
    make_folder(folder)
    cluster, seconds = options.pop("cluster", "slurm"), float(options.pop("seconds", SECONDS))
    try:
        executor = submitit.AutoExecutor(folder / "log", cluster=cluster)
        executor.update_parameters(name="medgpt", timeout_min=MINUTES, slurm_array_parallelism=workers)
        executor.update_parameters(**{key: int(text) if text.isdigit() else text for key, text in options.items()})
    except (AssertionError, NameError, RuntimeError, TypeError, ValueError) as error:
        raise EngineError(f"--engine slurm: {one_line(error)[:300]}") from None
    write_atomic(folder / "common", pickle.dumps(common))
    left, tries, took = dict(enumerate(jobs)), [0] * len(jobs), 0.0
    tasks: list[tuple[Any, _Part]] = []
    answers, waiting, done = folder / "answers", list(range(len(jobs))), 0
    make_folder(answers)

    def give(numbers: Sequence[int], size: int) -> None:
        parts = [_Part(folder, [(n, left[n]) for n in numbers[at : at + size]]) for at in range(0, len(numbers), size)]
        for at in range(0, len(parts), ARRAY):
            try:
                with executor.batch():
                    begun = [executor.submit(part) for part in parts[at : at + ARRAY]]
            except (OSError, RuntimeError, submitit.core.utils.FailedJobError) as error:
                raise EngineError(f"--engine slurm: {one_line(error)[:300]}") from None
            tasks.extend(zip(begun, parts[at : at + ARRAY], strict=True))
            if cluster == "slurm":
                with (folder / "ids").open("a") as file:
                    file.writelines(f"{task.job_id}\n" for task in begun)

    preempted: dict[Any, float] = {}

    def over(task: Any) -> bool:
        if task.done():
            return True
        if task.state != "PREEMPTED":
            preempted.pop(task, None)
            return False
        return time.monotonic() - preempted.setdefault(task, time.monotonic()) > PREEMPTED

    try:
        give(waiting[:workers], 1)
        del waiting[:workers]
        while left:
            ended = [one for one in tasks if over(one[0])]  # before the answers are looked for
            for path in sorted(answers.glob("*.answer")):
                spent, answered = pickle.loads(path.read_bytes())  # noqa: S301 - our own, in our folder
                path.rename(path.with_suffix(".seen"))
                took, done = took + spent, done + 1
                yield left.pop(int(path.stem)), answered.take()
            for task, part in ended:
                tasks.remove((task, part))
                if lost := [number for number, _ in part.jobs if number in left]:
                    for number in lost:
                        tries[number] += 1
                    if tries[lost[0]] >= TRIES:  # the first is the one at which the task ended
                        told = f"a job's task ended {TRIES} times without an answer; see {folder}/log"
                        raise WorkerDied(told, left[lost[0]])
                    give(lost, len(lost))
            if waiting and done >= workers:
                size = max(1, math.ceil(seconds * done / max(took, 1e-3)))
                give(waiting, max(size, math.ceil(len(waiting) / workers)) if cluster == "local" else size)
                waiting.clear()
            poll()
            if left:
                time.sleep(_POLL_SECONDS)
        until = time.monotonic() + LINGER
        while time.monotonic() < until and not all(task.done() for task, _ in tasks):
            time.sleep(_POLL_SECONDS)
    except BaseException:
        for task, _ in tasks:
            task.cancel(check=False)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _forget(folder: Path) -> None:
    """End what a killed run left in the queue; the root is locked, so that no other run is at it."""
    if (folder / "ids").is_file() and shutil.which("scancel"):
        ids = (folder / "ids").read_text().split()
        subprocess.run(["scancel", "--quiet", *ids], check=False)  # noqa: S603, S607 - numbers that Slurm gave
    shutil.rmtree(folder, ignore_errors=True)


class _Part:
    """The jobs of a task of an array, numbered."""

    def __init__(self, folder: Path, jobs: list[tuple[int, Any]]) -> None:
        self.folder, self.jobs = folder, jobs

    def __call__(self) -> None:
        common = pickle.loads((self.folder / "common").read_bytes())  # noqa: S301 - our own, in our folder
        for number, job in self.jobs:
            path = self.folder / "answers" / f"{number:09d}.answer"
            if path.exists() or path.with_suffix(".seen").exists():
                continue
            began = time.monotonic()
            said = answer(common, job)
            write_atomic(path, pickle.dumps((time.monotonic() - began, said)))

    def checkpoint(self) -> Any:
        """What submitit submits where Slurm preempts the task or its time is over."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)
