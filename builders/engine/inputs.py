"""What a build read: every raw file with its size and SHA-256, in `inputs.parquet` beside `build.json`.

A loose file that is read whole is hashed as it is read (`rawfiles.read_bytes`). Row files and archives, which are read
piece by piece, are hashed once each when the units are done; what is done stays in `.resume/<build>/inputs.jsonl`, by
path, size and time. A trial build (`--limit`) says of those their size alone. `build.json` has the number of files,
their bytes and one digest over the list: hundreds of thousands of loose pictures would make it a file to wait for.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from builders.engine.rawfiles import Gap, State, open_regular, relative, shown, state_of
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


SUMS = ("SHA256SUMS.txt", "SHA256SUMS")
"""What PhysioNet puts beside its files; lines `<SHA-256>  <path from its folder>`."""
_SUMS_DEPTH = 5
"""Folders below the raw tree that may have sums: `physionet.org/files/<set>/<version>` is four."""
_HUB = ".cache/huggingface/download"
"""Where `hf download --local-dir` notes of every file the commit and the digest that the hub gave, a line each."""


def hub_note(raw: Path, file: str) -> tuple[str, str]:
    """(commit, digest) that the hub gave with a file, empty where it is not from there.

    In the hub's cache a file is a link to a blob that is called by its digest, in a folder called by the commit. The
    digest of a large file is its SHA-256 (64 digits), that of a small one its git id (40).
    """
    path = raw / file
    if path.is_symlink():
        folders, blob = path.parent.absolute().parts, path.readlink().name
        if "snapshots" in folders[:-1]:
            return folders[len(folders) - folders[::-1].index("snapshots")], blob
        return "", blob
    try:
        commit, digest, *_ = (raw / _HUB / f"{file}.metadata").read_text().splitlines()
    except (OSError, ValueError):
        return "", ""
    return commit, digest


def _sums_beside(raw: Path, files: Iterable[str]) -> dict[Path, None]:
    """The lists of sums in the raw tree and in the upper folders of these files, in order."""
    folders = {raw: None}
    for file in files:
        parts = file.split("/")[:-1][:_SUMS_DEPTH]
        folders |= {raw.joinpath(*parts[:depth]): None for depth in range(1, len(parts) + 1)}
    return {path: None for folder in sorted(folders) for path in (folder / name for name in SUMS) if path.is_file()}


def published_digests(raw: Path, files: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """(file, digest, who says so) of those of the files whose digest the publisher gives, by file."""
    wanted, said = sorted(files), dict[str, tuple[str, str]]()
    for path in _sums_beside(raw, wanted):
        folder, known = relative(path.parent, raw), set(wanted)
        with open_regular(path, raw, "missing_file") as lines:
            for line in lines:
                digest, _, name = line.decode(errors="surrogateescape").strip().partition(" ")
                file = os.path.normpath(f"{folder}/{name.lstrip(' *')}")
                if file in known:
                    said[file] = digest.lower(), relative(path, raw)
    for file in wanted:
        digest, by = said.get(file) or (hub_note(raw, file)[1], "the hub")
        if len(digest) in (40, 64) and not set(digest) - set("0123456789abcdef"):
            yield file, digest, by


def _other_than_published(raw: Path, inputs: Iterable[Input]) -> list[Gap]:
    """Files whose digest is not the one that their publisher gives."""
    hashed = {one.file: one.sha256 for one in inputs if one.sha256}
    return [
        Gap(file, f"file that is not the publisher's: its digest is not that of {by}", "", 1)
        for file, digest, by in published_digests(raw, hashed)
        if digest != (_git_id(raw / file) if len(digest) == 40 else hashed[file])
    ]


def _git_id(path: Path) -> str:
    """What git calls a file's content."""
    with path.open("rb") as file:
        digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_inputs(
    target: Path, raw: Path, resume: Path, build: str, whole: Mapping[str, Input], planned: Iterable[Input], *,
    hash_rest: bool, workers: int,
) -> tuple[dict[str, Any], list[Gap]]:  # fmt: skip
    """Hash what the units did not, write the list; what `build.json` says of it, and which files are other than said.

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
    about = {
        "file": INPUTS_FILE,
        "files": len(rows),
        "bytes": sum(columns[1]),
        "hashed": sum(digest is not None for digest in columns[2]),
        "sha256": inputs_sha256(path),
        "file_sha256": hashlib.sha256(content).hexdigest(),
    }
    unread = [
        Gap(file, "raw file that could not be read to take its digest", "", 1)
        for file, one in rows
        if hash_rest and one.sha256 is None
    ]
    return about, [*unread, *_other_than_published(raw, (rest | found).values())]


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
        done = run_jobs(_hash, jobs, workers, place=lock.parent, locks=[lock])
    for job, digest in done:
        check_unchanged(build, job.raw, [job.input])
        yield job.input._replace(sha256=digest)


def _hash(job: _Job) -> str | None:
    try:
        with open_regular(job.raw / job.input.file, job.raw, "missing_file") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except (InputError, OSError):
        return None  # as its rows were rejected
