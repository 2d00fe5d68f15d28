"""A job in a process of a cluster's node: what all jobs share, and that nodes are alike (see `engines`)."""

import io
import os
import pickle
import platform
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from medgpt import atomic
from medgpt.private import CREDENTIALED, is_private, keep_private
from medgpt.processes import EngineError

PACKAGES = ("bpe-openai", "numpy", "orjson", "pillow", "pyarrow")
"""Whose versions must be the same on all nodes: they decode pictures, count tokens and write files."""


def software() -> dict[str, str]:
    """Versions of Python and of `PACKAGES`."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


@dataclass(frozen=True)
class Common:
    """What all jobs of a run share; picklable."""

    token: str
    work: Callable[[Any], Any]
    prepare: Callable[..., None] | None
    arguments: tuple[Any, ...]
    declared: Callable[[], Any] | None
    versions: Any
    private: bool


def common(
    work: Callable[[Any], Any],
    prepare: Callable[..., None] | None,
    arguments: tuple[Any, ...],
    declared: Callable[[], Any] | None,
) -> Common:
    """What is sent to the nodes; the versions are those of this process."""
    versions = (software(), declared and declared())
    return Common(os.urandom(8).hex(), work, prepare, arguments, declared, versions, is_private())


_ready = ""  # token of the run that this process was prepared for


@dataclass(frozen=True)
class Answer:
    """What became of a job on a node."""

    result: Any
    error: Exception | None
    said: str
    """What it wrote to standard error, for that of the command."""

    def take(self) -> Any:
        """The result. Raises: what the job raised."""
        sys.stderr.write(self.said)
        if self.error is not None:
            raise self.error
        return self.result


def answer(shared: Common, job: Any) -> Answer:
    """Do a job in a process of a node."""
    with redirect_stderr(io.StringIO()) as said:
        result, error = _answer(shared, job)
    return Answer(result, error, said.getvalue())


def _answer(shared: Common, job: Any) -> tuple[Any, Exception | None]:
    global _ready
    try:
        if _ready != shared.token:
            if shared.private:
                keep_private(CREDENTIALED)
            atomic.writer = f".{socket.gethostname()}-{os.getpid()}"  # a job may run twice at a time
            here = (software(), shared.declared and shared.declared())
            if here != shared.versions:
                raise EngineError(
                    f"node {socket.gethostname()}: {_difference(shared.versions, here)}; install the same"
                )
            if shared.prepare is not None:
                shared.prepare(*shared.arguments)
            _ready = shared.token
        return shared.work(job), None
    except Exception as error:  # noqa: BLE001 - raised again where the jobs come from
        error.add_note("in a worker process:\n" + traceback.format_exc())
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
        except Exception:  # noqa: BLE001 - told by its kind, as the net of a command does
            return None, RuntimeError(type(error).__name__)
        return None, error


def _difference(wanted: Any, here: Any) -> str:
    packages = [f"{name} {here[0][name]}, not {value}" for name, value in wanted[0].items() if here[0][name] != value]
    said, found = wanted[1], here[1]
    if isinstance(said, dict):  # of many sources those alone that differ
        said, found = ({name: one[name] for name in said if said[name] != found[name]} for one in wanted[1:] + here[1:])
    return ", ".join(packages) or f"declared versions {found}, not {said}"
