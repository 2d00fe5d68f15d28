"""Jobs in worker processes: results as they come; a killed worker costs its job a second start.

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
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

from medgpt.errors import NOT_FINISHED, UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

TRIES = 3
"""How often a job is given out before a worker's death counts as the job's own fault."""
_POLL_SECONDS = 0.2


class EngineError(UserError):
    """Jobs could not run, through no fault of what they read: no cluster, other versions on a node, wrong options."""


class WorkerDied(EngineError):
    """A worker process ended without an answer: it was killed, or the machine ran out of memory."""

    exit_code = NOT_FINISHED

    def __init__(self, text: str, job: Any = None) -> None:
        super().__init__(text)
        self.job = job
        """The job at which they ended."""


def run_local(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    *,
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    locks: Sequence[Path] = (),
    method: str = "spawn",
    poll: Callable[[], None] | None = None,
) -> Iterator[tuple[Job, Result]]:
    """(job, result) of every job as it is done, from `workers` processes.

    `prepare(*arguments)` runs once in each worker. Each holds `locks` shared while it lives, and dies within half a
    second of its parent, so that a later run can wait for the orphans of a killed one. `poll` is called in this process
    some five times a second. What a job raises is raised here; then, and when the iterator is closed, all workers are
    ended at once, so work must be safe to kill. A job whose worker was killed is given out again.

    Raises: `WorkerDied` where workers ended at the same job `TRIES` times.
    """
    context: Any = multiprocessing.get_context(method)
    waiting = deque(enumerate(jobs))
    tries: Counter[int] = Counter()
    owners: dict[Connection, BaseProcess] = {}
    given: dict[Connection, tuple[int, Job]] = {}

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(
            target=_serve, args=(theirs, work, prepare, arguments, os.getpid(), locks), daemon=True
        )
        process.start()
        theirs.close()
        owners[ours] = process
        give(ours)

    def give(connection: Connection) -> None:
        if waiting:
            given[connection] = waiting.popleft()
            with suppress(OSError):  # a worker that is dead is seen below, with the job that it was given
                connection.send(given[connection][1])

    try:
        for _ in range(min(workers, len(jobs))):
            start()
        while given:
            wait([*given, *(owners[connection].sentinel for connection in given)], _POLL_SECONDS)
            for connection in list(given):
                ended = not owners[connection].is_alive()  # before its pipe is looked at
                try:
                    if not connection.poll():
                        if not ended:
                            continue
                        raise EOFError
                    result, error = connection.recv()
                except (EOFError, OSError):
                    number, job = given.pop(connection)
                    tries[number] += 1
                    if tries[number] >= TRIES:
                        raise WorkerDied(
                            f"a worker process died {TRIES} times at one job (killed, or out of memory: try fewer "
                            "--workers)", job,
                        ) from None  # fmt: skip
                    waiting.appendleft((number, job))
                    owners.pop(connection).join()
                    connection.close()
                    start()
                    continue
                if error is not None:
                    raise error
                _, job = given.pop(connection)
                give(connection)
                yield job, result
            if poll is not None:
                poll()
    finally:
        for process in owners.values():
            process.terminate()
        for connection, process in owners.items():
            process.join()
            connection.close()


def _serve(
    connection: Connection,
    work: Callable[[Any], Any],
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
    parent: int,
    locks: Sequence[Path],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its workers itself, without their tracebacks
    held = [lock.open("w") for lock in locks]
    for file in held:
        fcntl.flock(file, fcntl.LOCK_SH)

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
