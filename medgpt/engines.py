"""Where the jobs of a command run: in processes here, as tasks of a Ray cluster, or as job arrays of Slurm.

A job is picklable, writes files of its own atomically and may be run twice: a worker or node that is lost costs its
jobs, not the run. Ray's and Slurm's nodes see the same files under the same paths as the command does. What comes out
does not depend on the engine: it is no part of any identity.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from medgpt.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")

ENGINES = {"local": "", "ray": "medgpt.ray_engine", "slurm": "medgpt.slurm_engine"}


@dataclass(frozen=True)
class Engine:
    """What `--engine` and `--engine-option` say."""

    name: str = "local"
    options: Mapping[str, str] = field(default_factory=dict)


_chosen = Engine()


def add_engine(parser: argparse.ArgumentParser) -> None:
    """The two options of a command that has jobs."""
    add = parser.add_argument
    add("--engine", choices=list(ENGINES), default="local", help="where jobs run (default local: processes here)")
    add(
        "--engine-option", action="append", default=[], metavar="KEY=VALUE", dest="engine_options",
        help="ray: address, cpus, inflight; slurm: cluster, seconds, and what submitit takes, as slurm_partition",
    )  # fmt: skip


def choose_engine(args: argparse.Namespace) -> None:
    """Let this process's `run_jobs` use what the command line says. Raises: `UserError` (an option without a value)."""
    global _chosen
    options = {}
    for given in args.engine_options:
        key, separator, value = given.partition("=")
        if not separator or not key:
            raise UserError(f"--engine-option {given}: write KEY=VALUE")
        options[key] = value
    if args.engine == "local" and options:
        raise UserError(f"--engine-option {next(iter(options))}: the local engine has no options, see --engine")
    _chosen = Engine(args.engine, options)


def engine_arguments() -> list[str]:
    """The chosen engine as words of a command line, for a command that starts another."""
    return ["--engine", _chosen.name, *(f"--engine-option={key}={value}" for key, value in _chosen.options.items())]


def in_this_process(workers: int, jobs: int) -> bool:
    """Whether jobs need no other process: one worker or one job, and no cluster was asked for."""
    return _chosen.name == "local" and (workers <= 1 or jobs <= 1)


def is_local() -> bool:
    """Whether workers are processes of this machine, which share memory with this one."""
    return _chosen.name == "local"


def run_jobs(
    work: Callable[[Job], Result],
    jobs: Sequence[Job],
    workers: int,
    *,
    place: Path,
    prepare: Callable[..., None] | None = None,
    arguments: tuple[Any, ...] = (),
    declared: Callable[[], Any] | None = None,
    locks: Sequence[Path] = (),
    method: str = "spawn",
    poll: Callable[[], None] | None = None,
) -> Iterator[tuple[Job, Result]]:
    """(job, result) of every job as it is done, by the engine that was chosen (`choose_engine`).

    `prepare(*arguments)` runs once in each worker process, before its first job. `declared()` gives the declared
    versions that results depend on: a node where it, Python or a package of `cluster.PACKAGES` has another value is
    refused. `place` is a folder that all nodes see, where an engine may keep files. `locks`, `method` and `poll` are as
    in `medgpt.processes.run_local`; with Ray and Slurm only `poll` is heeded, and `workers` counts what Slurm runs at
    once. What a job raises is raised here, and no other job is begun.

    Raises: `UserError` (no cluster, another version on a node, workers that die again and again).
    """
    if _chosen.name == "local":
        from medgpt.processes import run_local  # 20 ms that --help need not wait for

        return run_local(
            work, jobs, workers, prepare=prepare, arguments=arguments, locks=locks, method=method, poll=poll
        )
    from medgpt.cluster import common

    shared = common(work, prepare, arguments, declared)
    engine = import_module(ENGINES[_chosen.name])
    found: Iterator[tuple[Job, Result]] = engine.run(
        shared, jobs, workers, dict(_chosen.options), place, poll or (lambda: None)
    )
    return found
