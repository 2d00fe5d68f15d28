"""Scoring a finished build: Parquet parts beside the build that say what each filter found in each sample.

    DATA/scores/<build>/<unit>-<key>.parquet    sample_id, reason, skipped, then `<filter>.<score>` columns
    DATA/scores/<build>/run.json                filters, parts, what the parts were made from

`reason` is why a sample could not be shown to filters (filters/records.py); `skipped` names the filters that were not
asked, because of that or because an earlier one had already thrown the sample out. Thresholds are no part of a part's
key: where a threshold moves, only skipped filters are asked that are now needed, and where a filter is added, only that
one. Both decode nothing for the rest. A part therefore depends on its build, its filters and the thresholds it was
scored under, never on the number of processes, or on how often the work was killed and taken up again.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from filters.base import Filter, FilterError, Record, Score, UnreadablePicture
from filters.expressions import ExpressionError, Value
from filters.recipe import DROP, Plan, Recipe, Settings, Step
from filters.records import INTAKE, caption_reason, decode
from manifests.atomic import AtomicFile, write_atomic
from manifests.catalog import load_builds
from manifests.digest import file_sha256
from manifests.private import make_folder
from manifests.processes import WorkerDied, run_jobs
from shards.reader import Build, StoredSample

SCORES, RUN_FILE = "scores", "run.json"
FORMAT = 1
CHUNK = 256
"""Samples of a job: seconds to half a minute of work, which is what a kill can cost a worker."""
BATCH, PICTURE_BATCH = 16, 64
"""Samples whose pictures are in memory at once: in a worker, and for a filter that runs in the main process."""
_DIGITS = 4
_FIXED = ("sample_id", "reason", "skipped")


class ScoreError(Exception):
    """One line: why scoring stopped, and what to do."""


@dataclass(frozen=True)
class RunResult:
    """What a run did for one build."""

    folder: Path
    """Where the parts are."""
    document: Mapping[str, Any]
    """The content of `run.json`."""
    scored: int
    """Samples that at least one filter was asked about in this run."""


def run_build(
    folder: Path,
    data: Path,
    recipe: Recipe,
    workers: int = 1,
    progress: bool = False,
    *,
    role: str = "train",
    settings: Settings | None = None,
    all_scores: bool = False,
) -> RunResult | None:
    """Score the samples of one role of a build under `data/scores`; None if the recipe leaves its source alone.

    settings: options by filter from outside the recipe. all_scores: ask every filter about every sample.
    Finished parts are kept as they are, and a run that was killed goes on where it was.
    Raises: `ScoreError`, `RecipeError`, `FilterError` (an endpoint that is down, a missing extra), `BuildError`,
    `CatalogError`.
    """
    if workers < 1:
        raise ScoreError(f"{workers} workers; at least 1 is needed")
    [loaded] = load_builds(folder)
    document = loaded.record
    plan = recipe.plan(document["source"]["name"], settings)
    if plan is None:
        return None
    if document["metadata_only"]:
        raise ScoreError(f"{folder}: built without pictures (--no-images); nothing to score, build it with them")
    units = [unit for unit in document["units"] if unit["role"] == role and unit["kept"]]
    if not units:
        raise ScoreError(f"{folder}: no samples of role {role}")
    out = scores_folder(data, document["build"], role)
    with _locked(out):
        run = _Run(folder, role, out, plan, all_scores, workers)
        with tqdm(
            total=sum(unit["kept"] for unit in units), unit=" samples", desc=f"score {document['build']}",
            disable=not progress or None, smoothing=0.05,
        ) as bar:  # fmt: skip
            parts = run.parts(units, bar)
        record = {
            "format": FORMAT,
            "build": document["build"],
            "source": document["source"]["name"],
            "access": document["source"]["access"],
            "root": document["root"],
            "role": role,
            "recipe": recipe.name,
            "filters": [
                {
                    "name": step.name,
                    "identity": step.identity,
                    "asked": plan.asked[step.name],
                    "alone": step.alone,
                    "needs_pictures": step.needs_pictures,
                    "scores": list(step.scores),
                }
                for step in plan.steps
            ],
            "left_out": dict(plan.left_out),
            "parts": parts,
        }
        write_atomic(out / RUN_FILE, orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")
        run.tidy([part["file"] for part in parts], document["units"])
    return RunResult(out, record, run.scored)


def run(
    data: Path,
    recipe: Recipe,
    builds: Sequence[str] = (),
    workers: int = 1,
    progress: bool = False,
    *,
    role: str = "train",
    settings: Settings | None = None,
    all_scores: bool = False,
) -> tuple[list[RunResult], list[str]]:
    """Score builds under `data` by name, or all that the recipe has rules for; (results, names of those left alone).

    Without names, builds that have no sample of that role are left alone, too. Raises: as `run_build`.
    """
    found = {build.record["build"]: build for build in load_builds(data)}
    named = {rule.name for _, rules in recipe.sources.values() for rule in rules}
    if unknown := sorted(set(settings or {}) - named):
        raise ScoreError(f"options are given for {', '.join(unknown)}, but the recipe has no such filter")
    for name in builds:
        if name not in found:
            raise ScoreError(f"{data}: no build is called {name!r}; there are: {', '.join(found)}")
    results, alone = list[RunResult](), list[str]()
    for name in builds or found:
        build = found[name]
        if not builds and not any(unit["role"] == role and unit["kept"] for unit in build.record["units"]):
            alone.append(name)
            continue
        result = run_build(
            build.folder, data, recipe, workers, progress, role=role, settings=settings, all_scores=all_scores
        )
        if result is None:
            alone.append(name)
        else:
            results.append(result)
    return results, alone


def scores_folder(data: Path, build: str, role: str) -> Path:
    """Where the scores of a build's samples of one role lie."""
    return data / SCORES / (build if role == "train" else f"{build}@{role}")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    work = out / ".work"
    for folder in out, work:
        make_folder(folder)
    with (work / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ScoreError(f"{out}: another process is scoring this build; wait for it") from None
        yield


@dataclass
class _Row:
    """One sample's scores while they are being collected."""

    sample_id: str
    reason: str | None
    values: dict[str, Value]
    done: set[str]
    """Filters that have been asked."""


@dataclass(frozen=True)
class _Job:
    """Some samples of one unit. Picklable."""

    folder: Path
    role: str
    first: int
    """Number of the first sample in the build, among those of the role."""
    start: int
    """The same in the unit."""
    count: int
    seed: Path | None
    """A part of the same unit whose scores are taken over where they are still right."""
    target: Path
    all_scores: bool


class _Run:
    """The work on one build."""

    def __init__(self, folder: Path, role: str, out: Path, plan: Plan, all_scores: bool, workers: int) -> None:
        self.folder, self.role, self.out, self.plan = folder, role, out, plan
        self.all_scores, self.workers = all_scores, workers
        self.scored = 0
        self._work = out / ".work"
        self._build: Build | None = None
        self._alone: dict[str, Filter] = {}

    def parts(self, units: Sequence[Mapping[str, Any]], bar: Any) -> list[dict[str, Any]]:
        """Make or find every unit's part; their records in the order of the units."""
        jobs: list[_Job] = []
        pending: dict[str, tuple[Mapping[str, Any], int, list[_Job]]] = {}
        first = 0
        for unit in units:
            target = self._target(unit)
            seed = self._seed(unit, target)
            if seed == target and self._complete(target):
                bar.update(unit["kept"])
            else:
                mine = self._jobs(unit, first, seed)
                pending[unit["unit"]] = unit, first, mine
                jobs += mine
            first += unit["kept"]
        try:
            self._chunks(jobs, pending, bar)
        finally:
            for made in self._alone.values():
                close = getattr(made, "close", None)
                if close is not None:
                    close()
        records = []
        for unit in units:
            target = self._target(unit)
            records.append(
                {"unit": unit["unit"], "file": target.name, "rows": unit["kept"], "sha256": file_sha256(target).hex()}
            )
        return records

    def tidy(self, parts: Sequence[str], units: Sequence[Mapping[str, Any]]) -> None:
        """Remove intermediate results, and parts that were made from other shards than the build's present ones."""
        for path in self._work.iterdir():
            if path.name != "lock":
                path.unlink()
        current = {self._content(unit) for unit in units}
        for path in self.out.glob("*.parquet"):
            if path.name not in parts and read_meta(path)["content"] not in current:
                path.unlink()
        for path in self.out.glob("*.tmp"):
            path.unlink()

    def _content(self, unit: Mapping[str, Any]) -> str:
        """Digest of what a unit's scores are made from."""
        files = [part["sha256"] for part in unit["parts"] if part["file"].startswith("manifest/")]
        files += [shard["sha256"] for shard in unit["shards"]]
        return _digest([FORMAT, INTAKE, files])

    def _target(self, unit: Mapping[str, Any]) -> Path:
        key = _digest([self._content(unit), self.plan.identity])
        return self.out / f"{unit['unit']}-{key[:16]}.parquet"

    def _seed(self, unit: Mapping[str, Any], target: Path) -> Path | None:
        """The part with the most scores that are still right; the target itself where it is there."""
        if target.is_file():
            return target
        wanted = {step.identity for step in self.plan.steps}
        best: tuple[int, Path] | None = None
        for path in sorted(self.out.glob(f"{glob_text(unit['unit'])}-????????????????.parquet")):
            meta = read_meta(path)
            shared = len(wanted & set(meta["filters"].values()))
            if meta["content"] == self._content(unit) and shared and (best is None or shared > best[0]):
                best = shared, path
        return best[1] if best else None

    def _complete(self, path: Path) -> bool:
        """Whether no sample waits for a filter under the present thresholds."""
        rows = read_rows(path, self.plan.steps)
        return not any(missing_steps(row, self.plan, self.all_scores) for row in rows)

    def _jobs(self, unit: Mapping[str, Any], first: int, seed: Path | None) -> list[_Job]:
        basis = [self._target(unit).name, self.plan.exits, self.all_scores, file_sha256(seed).hex() if seed else None]
        key = _digest(basis)[:16]
        return [
            _Job(
                self.folder, self.role, first + start, start, min(CHUNK, unit["kept"] - start), seed,
                self._work / f"{unit['unit']}-{key}-{start:09d}.parquet", self.all_scores,
            )
            for start in range(0, unit["kept"], CHUNK)
        ]  # fmt: skip

    def _chunks(self, jobs: Sequence[_Job], pending: dict[str, Any], bar: Any) -> None:
        owner = {job.target: name for name, (_, _, mine) in pending.items() for job in mine}
        left = {name: len(mine) for name, (_, _, mine) in pending.items()}
        shown: dict[str, set[str]] = {name: set() for name in pending}
        for job, asked in self._done(jobs):
            name = owner[job.target]
            shown[name].update(asked)
            bar.update(job.count)
            left[name] -= 1
            if not left[name]:
                asked_here = self._finish(*pending.pop(name))
                self.scored += len(shown.pop(name).union(asked_here))

    def _done(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, list[str]]]:
        """Jobs as they are finished, with the ids of the samples that filters were asked about."""
        todo = []
        for job in jobs:
            if job.target.is_file():
                yield job, []
            else:
                todo.append(job)
        if self.workers == 1 or len(todo) <= 1:
            worker = _Worker(self.plan)
            for job in todo:
                yield job, worker.run(job)
            return
        try:
            yield from run_jobs(_work, todo, self.workers, prepare=_start, arguments=(self.plan,))
        except WorkerDied:
            raise ScoreError(
                "a worker process died (killed, or out of memory: try fewer --workers); run again to go on"
            ) from None

    def _finish(self, unit: Mapping[str, Any], first: int, jobs: Sequence[_Job]) -> set[str]:
        """Put a unit's chunks together, ask the filters of this process, write the part; ids that they were shown."""
        rows = [row for job in jobs for row in read_rows(job.target, self.plan.steps)]
        asked = self._ask_alone(rows, first) if any(step.alone for step in self.plan.steps) else set()
        write_rows(self._target(unit), rows, self.plan, self._content(unit))
        return asked

    def _ask_alone(self, rows: Sequence[_Row], first: int) -> set[str]:
        build = self._build = self._build or Build(self.folder, role=self.role)
        shown: set[str] = set()
        for step in self.plan.steps:
            if not step.alone:
                continue
            todo = [number for number, row in enumerate(rows) if step in missing_steps(row, self.plan, self.all_scores)]
            size = PICTURE_BATCH if step.needs_pictures else max(1, len(todo))
            for start in range(0, len(todo), size):
                asked, records = [], []
                for number in todo[start : start + size]:
                    stored, row = build[first + number], rows[number]
                    try:
                        pictures = decode(stored) if step.needs_pictures else ()
                    except UnreadablePicture as error:
                        row.reason = error.reason
                        continue
                    asked.append(row)
                    records.append(Record(stored.record, pictures, _seen(row, step)))
                if asked:
                    made = self._alone.get(step.name)
                    if made is None:
                        made = self._alone[step.name] = step.make()
                    ask(made, step, asked, records)
                    shown.update(row.sample_id for row in asked)
        return shown


class _Worker:
    """Scores chunks with one set of filters, made when the first is needed."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._filters: dict[str, Filter] = {}
        self._build: Build | None = None

    def run(self, job: _Job) -> list[str]:
        """Score a chunk and write its rows; ids of the samples that a filter was asked about."""
        build = self._opened(job)
        known: list[_Row] | None = None
        if job.seed is not None:
            known = read_rows(job.seed, self.plan.steps, job.start, job.count)
        rows, asked = list[_Row](), list[str]()
        for start in range(0, job.count, BATCH):
            batch = []
            for number in range(start, min(start + BATCH, job.count)):
                row = known[number] if known else None
                if row is not None and not self._open_steps(row, job.all_scores):
                    rows.append(row)
                    continue
                stored = build[job.first + number]
                if row is None:
                    row = _Row(stored.record["id"], None, {}, set())
                elif row.sample_id != stored.record["id"]:
                    raise ScoreError(f"{job.seed}: row {job.start + number} is of another sample; delete the file")
                rows.append(row)
                batch.append((row, stored))
            asked += [row.sample_id for row, _ in batch]
            self._score(batch, job.all_scores)
        # A worker that outlived its run may write the same chunk: a name of its own, then a rename.
        own = job.target.with_name(f"{job.target.name}.{os.getpid()}")
        write_rows(own, rows, self.plan, content="")
        own.replace(job.target)
        return asked

    def _opened(self, job: _Job) -> Build:
        if self._build is None:
            self._build = Build(job.folder, role=job.role)
        return self._build

    def _open_steps(self, row: _Row, all_scores: bool) -> list[Step]:
        return [step for step in missing_steps(row, self.plan, all_scores) if not step.alone]

    def _score(self, batch: Sequence[tuple[_Row, StoredSample]], all_scores: bool) -> None:
        records: dict[str, Record] = {}
        for row, stored in batch:
            record = records[row.sample_id] = Record(stored.record)
            if row.reason is None:
                row.reason = caption_reason(record)
        opened: set[str] = set()
        for step in self.plan.steps:
            if step.alone:
                continue
            todo = []
            for row, stored in batch:
                if step not in missing_steps(row, self.plan, all_scores):
                    continue
                record = records[row.sample_id]
                if step.needs_pictures and row.sample_id not in opened:
                    try:
                        record.pictures = decode(stored)
                    except UnreadablePicture as error:
                        row.reason = error.reason
                        continue
                    opened.add(row.sample_id)
                record.found = _seen(row, step)
                todo.append(row)
            if todo:
                made = self._filters.get(step.name)
                if made is None:
                    made = self._filters[step.name] = step.make()
                ask(made, step, todo, [records[row.sample_id] for row in todo])


_worker: _Worker | None = None


def _start(plan: Plan) -> None:
    global _worker
    _worker = _Worker(plan)


def _work(job: _Job) -> list[str]:
    assert _worker is not None
    return _worker.run(job)


def _seen(row: _Row, step: Step) -> dict[str, Score]:
    """The scores that a filter may see: those of the filters it was put after."""
    return {column: value for column, value in row.values.items() if column.partition(".")[0] in step.after}


def missing_steps(row: _Row, plan: Plan, all_scores: bool) -> list[Step]:
    """The filters that have still to be asked about a sample, as far as that is known before they are asked."""
    missing = []
    for number, step in enumerate(plan.steps):
        if row.reason is not None and (row.reason == "empty_caption" or number >= plan.picture_stage):
            break
        if step.name not in row.done:
            missing.append(step)
            if not all_scores and step.drop is not None:
                break  # whether the next one is needed depends on this one
        elif not all_scores and drops(step, row.values):
            break
    return missing


def drops(step: Step, values: Mapping[str, Value]) -> bool:
    """Whether a filter that has been asked takes the sample out. Raises: `ScoreError`."""
    if step.drop is None:
        return False
    try:
        verdict = step.drop.evaluate(values)
    except ExpressionError as error:
        raise ScoreError(f"filter {step.name}: {error}") from error
    return step.not_scored == DROP if verdict is None else verdict


def ask(made: Filter, step: Step, rows: Sequence[_Row], records: Sequence[Record]) -> None:
    """Ask a filter about records and put its answers, checked and rounded, into the rows. Raises: `ScoreError`."""
    try:
        answers = made.score(records)
    except (FilterError, ScoreError):
        raise
    except Exception as error:
        where = rows[0].sample_id if len(rows) == 1 else f"{rows[0].sample_id} to {rows[-1].sample_id}"
        # The text of an error may quote a credentialed record.
        fault = f"{type(error).__name__} (a fault of the filter)"
        raise ScoreError(f"filter {step.name} failed on {where}: {fault}") from error
    if len(answers) != len(rows):
        raise ScoreError(f"filter {step.name} gave {len(answers)} answers for {len(rows)} samples")
    for row, answer in zip(rows, answers, strict=True):
        if set(answer) != set(step.scores):
            odd = sorted(set(answer) ^ set(step.scores))
            raise ScoreError(f"filter {step.name}, {row.sample_id}: scores missing or not declared: {', '.join(odd)}")
        for score in step.scores:
            row.values[f"{step.name}.{score}"] = _value(answer[score], step, score, row.sample_id)
        row.done.add(step.name)


def _value(value: Any, step: Step, score: str, sample: str) -> Value:
    if value is None or isinstance(value, str):
        return value
    try:
        number = round(float(value), _DIGITS)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise ScoreError(f"filter {step.name}, {sample}: {score} is a {kind}, no number or text") from None
    if not math.isfinite(number):
        raise ScoreError(f"filter {step.name}, {sample}: {score} is {number}; give None where there is no score")
    return number + 0.0  # no negative zero


def write_rows(path: Path, rows: Sequence[_Row], plan: Plan, content: str) -> None:
    """Write rows as a part. Raises: `ScoreError` for a score that is now a number and now a text."""
    arrays: dict[str, Any] = {
        "sample_id": pa.array([row.sample_id for row in rows], pa.string()),
        "reason": pa.array([row.reason for row in rows], pa.string()),
        "skipped": pa.array([_skipped(row, plan) for row in rows], pa.list_(pa.string())),
    }
    for step in plan.steps:
        for column in step.columns:
            values = [row.values.get(column) for row in rows]
            kinds = {isinstance(value, str) for value in values if value is not None}
            if len(kinds) > 1:
                raise ScoreError(f"filter {step.name}: {column} is now a text and now a number")
            kind = pa.null() if not kinds else pa.string() if kinds.pop() else pa.float64()
            arrays[column] = pa.array(values, kind)
    meta = {
        "format": str(FORMAT),
        "content": content,
        "filters": orjson.dumps({step.name: step.identity for step in plan.steps}).decode(),
    }
    write_table(path, pa.table(arrays), meta)


def write_table(path: Path, table: pa.Table, meta: Mapping[str, str]) -> None:
    """Write a Parquet file atomically, with `meta` as its key-value metadata."""
    # Arrow's own schema is left out, since its bytes differ between versions, and with it the table's metadata.
    with (
        AtomicFile(path) as file,
        pq.ParquetWriter(file, table.schema, compression="zstd", store_schema=False) as writer,
    ):
        writer.write_table(table)
        writer.add_key_value_metadata(meta)


def _skipped(row: _Row, plan: Plan) -> list[str]:
    return [step.name for step in plan.steps if step.name not in row.done]


def read_meta(path: Path) -> dict[str, Any]:
    """What a part was made from: `content` and `filters` (name -> identity). Raises: `ScoreError`."""
    try:
        meta = pq.read_metadata(path).metadata or {}
        filters: dict[str, str] = orjson.loads(meta[b"filters"])
        return {"content": meta[b"content"].decode(), "filters": filters}
    except (OSError, pa.ArrowInvalid, KeyError, orjson.JSONDecodeError) as error:
        raise ScoreError(f"{path}: no score part ({type(error).__name__}); delete it and run again") from error


def read_rows(path: Path, steps: Sequence[Step], start: int = 0, count: int | None = None) -> list[_Row]:
    """Rows of a part, with the scores of those filters whose identity is the same. Raises: `ScoreError`."""
    same = read_meta(path)["filters"]
    taken = [step for step in steps if same.get(step.name) == step.identity]
    columns = [*_FIXED, *(column for step in taken for column in step.columns)]
    table = pq.read_table(path, columns=columns).slice(start, count)
    values = {name: table[name].to_pylist() for name in columns}
    rows = []
    for number, (sample, reason, skipped) in enumerate(zip(*(values[name] for name in _FIXED), strict=True)):
        row = _Row(sample, reason, {}, set())
        for step in taken:
            if step.name not in skipped:
                row.values |= {column: values[column][number] for column in step.columns}
                row.done.add(step.name)
        rows.append(row)
    return rows


def glob_text(text: str) -> str:
    """A text as a pattern that matches only itself."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in text)


def _digest(value: object) -> str:
    return hashlib.sha256(orjson.dumps(value)).hexdigest()
