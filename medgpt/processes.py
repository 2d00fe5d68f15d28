"""Jobs in worker processes: results as they come, one clear error when a worker is killed.

`concurrent.futures.ProcessPoolExecutor` starts spawned workers one by one while its manager thread may already be
tidying up after a dead one, and then ends in tracebacks or hangs (CPython 3.11 and 3.12). Here a worker has nothing but
a pipe: no lock or queue is shared, so a worker killed at any moment can stop no other.
"""

import fcntl
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from medgpt.errors import NOT_FINISHED, UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

_POLL_SECONDS = 0.2


class WorkerDied(UserError):
    """A worker process ended without an answer: it was killed, or the machine ran out of memory."""

    exit_code = NOT_FINISHED

    def __str__(self) -> str:
        return "a worker process died (killed, or out of memory: try fewer --workers); run again to go on"


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    *,
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    lock: Path | None = None,
    method: str = "spawn",
    poll: Callable[[], None] | None = None,
) -> Iterator[tuple[Job, Result]]:
    """(job, result) of every job as it is done, from `workers` processes.

    `prepare(*arguments)` runs once in each worker. Each holds `lock` shared while it lives, and dies within half a
    second of its parent, so that a later run can wait for the orphans of a killed one. `poll` is called in this process
    some five times a second. What a job raises is raised here; then, and when the iterator is closed, all workers are
    ended at once, so work must be safe to kill. Raises: `WorkerDied` where a worker ended without an answer.
    """
    context: Any = multiprocessing.get_context(method)
    waiting = iter(jobs)
    processes: list[BaseProcess] = []
    owners: dict[Connection, BaseProcess] = {}
    given: dict[Connection, Job] = {}
    try:
        for _ in range(min(workers, len(jobs))):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, work, prepare, arguments, os.getpid(), lock), daemon=True
            )
            process.start()
            theirs.close()
            processes.append(process)
            owners[ours] = process
            _give(ours, waiting, given)
        while given:
            ready = wait([*given, *(process.sentinel for process in processes)], _POLL_SECONDS)
            answered = [connection for connection in given if connection in ready]
            if ready and not answered:
                raise WorkerDied
            for connection in answered:
                try:
                    result, error = connection.recv()
                except (EOFError, OSError):
                    raise WorkerDied from None
                if error is not None:
                    raise error
                job = given.pop(connection)
                _give(connection, waiting, given)
                yield job, result
            if poll is not None:
                poll()
    finally:
        for process in processes:
            process.terminate()
        for connection, process in owners.items():
            process.join()
            connection.close()


def _give(connection: Connection, waiting: Iterator[Job], given: dict[Connection, Job]) -> None:
    for job in waiting:
        given[connection] = job
        try:
            connection.send(job)
        except OSError:
            raise WorkerDied from None
        return


def _serve(
    connection: Connection,
    work: Callable[[Any], Any],
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
    parent: int,
    lock: Path | None,
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself, without their tracebacks
    held = None if lock is None else lock.open("w")
    if held is not None:
        fcntl.flock(held, fcntl.LOCK_SH)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    if prepare is not None:
        prepare(*arguments)
    while True:
        job = connection.recv()
        try:
            answer: tuple[Any, Exception | None] = (work(job), None)
        except Exception as error:  # noqa: BLE001 - raised again in the parent
            error.add_note("in a worker process:\n" + traceback.format_exc())
            answer = (None, error)
        connection.send(answer)
