"""Jobs as tasks of a Ray cluster (see `engines`)."""

import atexit
import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medgpt.cluster import Answer, Common, answer
from medgpt.errors import one_line
from medgpt.processes import TRIES, EngineError, WorkerDied

_POLL_SECONDS = 0.2


def run(
    common: Common, jobs: Sequence[Any], workers: int, options: dict[str, str], place: Path, poll: Callable[[], None]
) -> Iterator[tuple[Any, Any]]:
    """As `engines.run_jobs`.

    Options: `address` of a running cluster (default RAY_ADDRESS, else the cluster that `ray start` began on this
    machine; `local` is one for this run alone), `cpus` that a task takes (1), `inflight`, the tasks given out at once
    (twice what the cluster has CPUs for). Ray itself gives a task of a lost worker or node out again, and makes results
    anew that were lost with a node.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
    except ModuleNotFoundError:
        raise EngineError("--engine ray needs ray: pip install 'medgpt-oss[ray]'") from None
    address = options.pop("address", "") or os.environ.get("RAY_ADDRESS") or _started_here()
    cpus, inflight = _number(options, "cpus", 1), _number(options, "inflight", 0)
    if options:
        raise EngineError(f"--engine-option {next(iter(options))}: Ray's are address, cpus, inflight")
    if not ray.is_initialized():
        sys.stdout = ours = _Ours(sys.stdout)
        atexit.register(ours.end)  # before what Ray has registered there
        try:
            _reach(address)
            ray.init(
                address=address, num_cpus=workers if address == "local" else None,
                include_dashboard=False if address == "local" else None, logging_level=logging.ERROR,
                log_to_driver=False,  # it would print on standard output; what jobs say comes with their answers
            )  # fmt: skip
        except (ConnectionError, ValueError, RuntimeError, OSError) as error:
            raise EngineError(
                f"no Ray cluster at {address} ({one_line(error)[:200]}); start one with `ray start --head`, "
                "or give --engine-option address=HOST:PORT"
            ) from None
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    inflight = inflight or max(1, 2 * int(resources.get("CPU", 1)) // cpus)
    task: Any = ray.remote(_task).options(max_retries=TRIES - 1, num_cpus=cpus)
    shared = [ray.put(common)]  # in a list, so that a task gets the reference and not a copy made each time
    waiting, given = iter(jobs), dict[Any, Any]()
    try:
        while True:
            while len(given) < inflight and (following := next(waiting, given)) is not given:
                given[task.remote(common.token, shared, following)] = following
            if not given:
                return
            done, _ = ray.wait(list(given), num_returns=1, timeout=_POLL_SECONDS)
            for reference in done:
                job = given.pop(reference)
                try:
                    answered: Answer = ray.get(reference)
                except ray.exceptions.RayError as lost:
                    why = (
                        f"a job's worker died {TRIES} times ({type(lost).__name__}: out of memory?); run again to go on"
                    )
                    raise WorkerDied(why, job) from None
                yield job, answered.take()
            poll()
    finally:
        for reference in given:
            ray.cancel(reference, force=True)


class _Ours:
    """Standard output without what Ray prints there, from its threads and when the process ends.

    That a node is lost, for instance: it goes to standard error.
    """

    def __init__(self, stdout: Any) -> None:
        self._stdout, self._ended = stdout, False

    def write(self, text: str) -> Any:
        """Write what our own threads say."""
        rays = self._ended or threading.current_thread().name.startswith("ray_")
        return (sys.stderr if rays else self._stdout).write(text)

    def end(self) -> None:
        """From now on there is nothing of ours."""
        self._stdout.flush()
        self._ended = True

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)


def _started_here() -> str:
    """Where `ray start` wrote the address of its cluster."""
    file = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # noqa: S108 - Ray's own
    return file.read_text().strip() if file.is_file() else "no address"


def _reach(address: str) -> None:
    """Try an address: Ray itself would wait for minutes. Raises: `OSError`, `ValueError`."""
    import ray.util

    if address == "local" or address.startswith("ray://"):
        return
    host, _, port = address.rpartition(":")
    if host in ("127.0.0.1", "localhost"):  # Ray asks this node's own address then, where a head on loopback is not
        host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    socket.create_connection((host, int(port)), timeout=10).close()


_common: Common | None = None  # of this worker process


def _task(token: str, shared: list[Any], job: Any) -> Answer:
    global _common
    if _common is None or _common.token != token:
        import ray

        _common = ray.get(shared[0])
        assert _common is not None
    return answer(_common, job)


def _number(options: dict[str, str], name: str, default: int) -> int:
    text = options.pop(name, str(default))
    if not text.isdigit():
        raise EngineError(f"--engine-option {name}={text}: a whole number is needed")
    return int(text)
