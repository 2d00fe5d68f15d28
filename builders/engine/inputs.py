"""What a build read: every raw file with its size and SHA-256, in `inputs.parquet` beside `build.json`.

A loose file that is read whole is hashed as it is read (`rawfiles.read_bytes`). Row files and archives, which are read
piece by piece, are hashed once each when the units are done; what is done stays in `.resume/<build>/inputs.jsonl`, by
path, size and time. A trial build (`--limit`) says of those their size alone. `build.json` has the number of files,
their bytes and one digest over the list: hundreds of thousands of loose pictures would make it a file to wait for.
"""

import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from builders.engine.rawfiles import State, open_regular, state_of
from builders.engine.source import BuildStopped, InputError
from medgpt.atomic import write_atomic
from medgpt.digest import INPUTS_FILE, inputs_sha256
from medgpt.engines import in_this_process, run_jobs

SCHEMA = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.binary(32)),  # NULL: could not be read, or a trial build did not hash it
    ]
)
BYTES_WORTH_PROCESSES = 1 << 28
"""Below this the files are hashed in this process."""


class Input(NamedTuple):
    """A raw file as it was when the build was planned, or read."""

    file: str
    state: State
    sha256: str | None = None


class _Job(NamedTuple):
    raw: Path
    input: Input


def changed(build: str, file: str) -> BuildStopped:
    """The error for a raw file that is not what it was when the build began."""
    return BuildStopped(
        f"{build}: {file} changed while it was read; leave the raw tree alone and run again (finished units are kept)"
    )


def check_unchanged(build: str, raw: Path, inputs: Iterable[Input]) -> None:
    """Look at files again. Raises `BuildStopped` for the first that changed, came or went."""
    for file, state, _ in inputs:
        if state_of(raw / file) != state:
            raise changed(build, file)


def write_inputs(
    target: Path, raw: Path, resume: Path, build: str, whole: Mapping[str, Input], planned: Iterable[Input], *,
    hash_rest: bool, workers: int,
) -> dict[str, Any]:  # fmt: skip
    """Hash what the units did not, write the list, return what `build.json` says of it.

    whole: the files that units read whole and hashed. planned: all that the units named, even folders and lost files.
    """
    rest = {one.file: one for one in planned if one.file not in whole and (raw / one.file).is_file()}
    found = dict(whole)
    if hash_rest:
        with _kept(resume / "inputs.jsonl") as (known, keep):
            found |= {one.file: one for one in known if rest.get(one.file) == one._replace(sha256=None)}
            jobs = [_Job(raw, one) for file, one in sorted(rest.items()) if file not in found]
            for one in _hashed(jobs, build, workers, resume / "workers"):
                found[one.file] = one
                if one.sha256 is not None:  # what cannot be read now is tried again the next time
                    keep(one)
    rows = sorted({shown(one.file): one for one in (rest | found).values()}.items())
    columns: list[list[Any]] = [
        [file for file, _ in rows],
        [one.state.size for _, one in rows],
        [one.sha256 and bytes.fromhex(one.sha256) for _, one in rows],
    ]
    table = pa.Table.from_arrays([pa.array(v, f.type) for v, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
    path, buffer = target / INPUTS_FILE, io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", store_schema=False)
    content = buffer.getvalue()
    if not path.is_file() or path.read_bytes() != content:
        write_atomic(path, content)
    return {
        "file": INPUTS_FILE,
        "files": len(rows),
        "bytes": sum(columns[1]),
        "hashed": sum(digest is not None for digest in columns[2]),
        "sha256": inputs_sha256(path),
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }


def shown(file: str) -> str:
    """A path as text that UTF-8 can hold: bytes of a name that is no UTF-8 are spelt out."""
    return file.encode(errors="surrogateescape").decode(errors="backslashreplace")


@contextmanager
def _kept(path: Path) -> Iterator[tuple[list[Input], Any]]:
    """(what an earlier run hashed, function that keeps one more); a line that was cut off is no line."""
    known = []
    with path.open("a+b") as file:
        file.seek(0)
        for line in file:
            try:
                name, size, mtime, digest = orjson.loads(line)
            except (orjson.JSONDecodeError, TypeError, ValueError):
                continue
            known.append(Input(name, State(size, mtime), digest))

        def keep(one: Input) -> None:
            file.write(b"\n" + orjson.dumps([shown(one.file), *one.state, one.sha256]))
            file.flush()

        yield known, keep


def _hashed(jobs: list[_Job], build: str, workers: int, lock: Path) -> Iterator[Input]:
    """The inputs of the jobs, hashed."""
    done: Iterator[tuple[_Job, str | None]]
    if in_this_process(workers, len(jobs)) or sum(job.input.state.size for job in jobs) < BYTES_WORTH_PROCESSES:
        done = ((job, _hash(job)) for job in jobs)
    else:
        done = run_jobs(_hash, jobs, workers, place=lock.parent, lock=lock)
    for job, digest in done:
        check_unchanged(build, job.raw, [job.input])
        yield job.input._replace(sha256=digest)


def _hash(job: _Job) -> str | None:
    try:
        with open_regular(job.raw / job.input.file, job.raw, "missing_file") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (InputError, OSError):
        return None  # as its rows were rejected
