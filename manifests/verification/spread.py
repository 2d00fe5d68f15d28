"""The slow steps of a verification, part by part: here, in worker processes or on a cluster (`medgpt.engines`)."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from manifests.catalog import LoadedBuild
from manifests.proof.overlaps import VERSIONS
from medgpt.engines import in_this_process, is_local, run_jobs

Result = TypeVar("Result")
Progress = Callable[[int], None]

_FEW = 5_000
"""Rows for which other processes are not worth their start."""


@dataclass(frozen=True)
class Part:
    """One part of a build, or one unit where `path` is its folder. Picklable; of the build's record no units."""

    build: LoadedBuild
    path: Path
    unit: dict[str, Any]
    rows: int

    @classmethod
    def of(cls, build: LoadedBuild, path: Path, unit: dict[str, Any], rows: int) -> Part:
        """With the build's record but for its units, which would be sent with every part."""
        said = {name: value for name, value in build.record.items() if name != "units"}
        return cls(LoadedBuild(build.folder, said), path, unit, rows)


def parts_of(builds: Iterable[LoadedBuild], kind: Literal["samples", "images"], role: str = "train") -> list[Part]:
    """The parts of one kind and side, build by build; of their units only the kind."""
    rows = {"samples": "kept", "images": "images"}[kind]
    return [
        Part.of(build, path, {"kind": kind}, unit[rows]) for build in builds for unit, path in build.parts(kind, role)
    ]


@dataclass(frozen=True)
class Pool:
    """Worker processes at once, and a folder that all nodes see."""

    workers: int = 1
    place: Path = Path()

    def spread(
        self,
        work: Callable[[Any, Part, Progress], Result],
        shared: Any,
        parts: Sequence[Part],
        progress: Progress,
        *,
        alone: bool = False,
    ) -> Iterator[Result]:
        """`work(shared, part, progress)` of every part, in their order; in this process where it works `alone` (a GPU).

        Raises: what the work raises.
        """
        few = is_local() and sum(part.rows for part in parts) < _FEW
        if alone or few or in_this_process(self.workers, len(parts)):
            yield from (work(shared, part, progress) for part in parts)
            return
        # Forked workers share what is theirs; where there is no fork it is sent to each.
        method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
        done: dict[int, Result] = {}
        following = 0
        for (number, part), result in run_jobs(
            _do, list(enumerate(parts)), self.workers, place=self.place, prepare=_start, arguments=(work, shared),
            declared=_declared, method=method,
        ):  # fmt: skip
            progress(part.rows)
            done[number] = result
            while following in done:
                yield done.pop(following)
                following += 1


_started: tuple[Callable[[Any, Part, Progress], Any], Any] | None = None  # of this worker process


def _start(work: Callable[[Any, Part, Progress], Any], shared: Any) -> None:
    global _started
    _started = (work, shared)


def _do(job: tuple[int, Part]) -> Any:
    assert _started is not None
    work, shared = _started
    return work(shared, job[1], lambda rows: None)


def _declared() -> Any:
    return VERSIONS
