"""Scoring a finished build: Parquet parts beside the build that say what each filter found in each sample.

    DATA/scores/<build>/<unit>-<key>.parquet    sample_id, reason, skipped, then `<filter>.<score>` columns
    DATA/scores/<build>/run.json                filters, parts, what the parts were made from

`reason` is why a sample could not be shown to filters (`PICTURE_REASONS`); `skipped` names the filters that were not
asked, because of that or because an earlier one had already thrown the sample out. Thresholds are no part of a part's
key: where a threshold moves, only skipped filters are asked that are now needed, and where a filter is added, only that
one. Both decode nothing for the rest. A part therefore depends on its build, its filters and the thresholds it was
scored under, never on the number of processes, or on how often the work was killed and taken up again.
"""

import glob
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from filters.base import (
    CAPTION_REASONS,
    SIDES,
    Filter,
    FilterError,
    Record,
    Score,
    UnreadablePicture,
    decode,
    filter_class,
)
from filters.recipe import FilterPlan, FilterStep, Options, Recipe, picture_stage
from manifests.catalog import load_builds, part_kind
from medgpt.atomic import AtomicFile, held, write_atomic
from medgpt.containers import MAX_PIXELS
from medgpt.digest import file_sha256, json_sha256
from medgpt.engines import in_this_process, run_jobs
from medgpt.errors import UserError
from medgpt.pictures import PICTURE_RULES
from medgpt.private import make_folder
from shards.reader import Build, StoredSample

SCORES, RUN_FILE = "scores", "run.json"
FORMAT = 1
INTAKE = f"2.{PICTURE_RULES}/{SIDES[0]}-{SIDES[1]}-{MAX_PIXELS}"
"""Version of the rules by which a picture is unreadable; part of what makes scores out of date."""
CHUNK = 256
"""Samples of a job: seconds to half a minute of work, which is what a kill can cost a worker."""
BATCH, PICTURE_BATCH = 16, 64
"""Samples whose pictures are in memory at once: in a worker, and for a filter that runs in the main process."""
_DIGITS = 4
_FIXED = ("sample_id", "reason", "skipped")


@dataclass(frozen=True)
class RunResult:
    """What a run did for one build."""

    folder: Path
    """Where the parts are."""
    document: Mapping[str, Any]
    """The content of `run.json`."""
    scored: int
    """Samples that at least one filter was asked about in this run."""
    not_judged: Mapping[str, int]
    """Filter -> samples that it was asked about and came to no verdict on; the next run asks again."""


def run_build(
    folder: Path,
    data: Path,
    recipe: Recipe,
    workers: int = 1,
    progress: bool = False,
    *,
    role: str = "train",
    options: Options | None = None,
    all_scores: bool = False,
) -> RunResult | None:
    """Score the samples of one role of a build under `data/scores`; None if the recipe does not filter its source.

    options: those by filter from outside the recipe. all_scores: ask every filter about every sample.
    Finished parts are kept as they are, and a run that was killed goes on where it was.
    Raises: `UserError`; `FilterError` where scoring stopped and can go on (another process, a missing extra).
    """
    if workers < 1:
        raise UserError(f"{workers} workers; at least 1 is needed")
    [loaded] = load_builds(folder)
    document = loaded.record
    plan = recipe.plan(document["source"]["name"], options)
    if plan is None:
        return None
    if document["metadata_only"]:
        raise UserError(f"{folder}: built without pictures (--no-images); nothing to score, build it with them")
    units = [unit for unit in document["units"] if unit["role"] == role and unit["kept"]]
    if not units:
        raise UserError(f"{folder}: no samples of role {role}")
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
                    "needs_pictures": step.needs_pictures,
                    "scores": list(step.scores),
                    "gate": step.gate,
                }
                for step in plan.steps
            ],
            "left_out": dict(plan.left_out),
            "parts": parts,
        }
        write_atomic(out / RUN_FILE, orjson.dumps(record, option=orjson.OPT_INDENT_2) + b"\n")
        run.tidy([part["file"] for part in parts], document["units"])
    return RunResult(out, record, run.scored, _not_judged([out / part["file"] for part in parts], plan))


def _not_judged(parts: Sequence[Path], plan: FilterPlan) -> dict[str, int]:
    steps = [step for step in plan.steps if step.not_judged]
    rows = [row for part in parts if steps for row in read_rows(part, steps)]
    found = {step.name: sum(not step.not_judged.isdisjoint(_texts(row, step)) for row in rows) for step in steps}
    return {name: number for name, number in found.items() if number}


def _texts(row: "_ScoreRow", step: FilterStep) -> list[str]:
    return [value for column in step.columns if isinstance(value := row.values.get(column), str)]


def run(
    data: Path,
    recipe: Recipe,
    builds: Sequence[str] = (),
    workers: int = 1,
    progress: bool = False,
    *,
    role: str = "train",
    options: Options | None = None,
    all_scores: bool = False,
) -> tuple[list[RunResult], list[str]]:
    """Score builds under `data` by name, or all that the recipe has rules for; (results, names of unfiltered ones).

    Without names, builds that have no sample of that role are not filtered either. Raises: as `run_build`.
    """
    found = {build.record["build"]: build for build in load_builds(data)}
    named = {name for rules in recipe.sources.values() for name in rules.filters}
    if unknown := sorted(set(options or {}) - named):
        raise UserError(f"options are given for {', '.join(unknown)}, but the recipe has no such filter")
    if unknown := [name for name in builds if name not in found]:
        raise UserError(f"{data}: no build is called {unknown[0]!r}; there are: {', '.join(found)}")
    results, unfiltered = list[RunResult](), list[str]()
    for name in builds or found:
        build = found[name]
        result = None
        if builds or any(unit["role"] == role and unit["kept"] for unit in build.record["units"]):
            result = run_build(
                build.folder, data, recipe, workers, progress, role=role, options=options, all_scores=all_scores
            )
        if result is None:
            unfiltered.append(name)
        else:
            results.append(result)
    return results, unfiltered


def scores_folder(data: Path, build: str, role: str) -> Path:
    """Where the scores of a build's samples of one role lie."""
    return data / SCORES / (build if role == "train" else f"{build}@{role}")


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    work = out / ".work"
    for folder in out, work:
        make_folder(folder)
    with held(work / "lock", FilterError(f"{out}: another process is scoring this build; wait for it")):
        yield


@dataclass
class _ScoreRow:
    """One sample's scores while they are being collected."""

    sample_id: str
    reason: str | None
    values: dict[str, Score]
    done: set[str]
    """Filters that have been asked."""


@dataclass(frozen=True)
class _Job:
    """Some samples of one unit. Picklable."""

    first: int
    """Number of the first sample in the build, among those of the role."""
    start: int
    """The same in the unit."""
    count: int
    seed: Path | None
    """A part of the same unit whose scores are taken over where they are still right."""
    target: Path


@dataclass
class _UnitWork:
    """The jobs of one unit, and how far they are."""

    unit: Mapping[str, Any]
    first: int
    """Number of its first sample in the build, among those of the role."""
    jobs: list[_Job]
    done: int = 0
    asked: set[str] = field(default_factory=set)
    """Ids of the samples that a filter was asked about."""


class _Run:
    """The work on one build."""

    def __init__(self, folder: Path, role: str, out: Path, plan: FilterPlan, all_scores: bool, workers: int) -> None:
        self.folder, self.role, self.out, self.plan = folder, role, out, plan
        self.all_scores, self.workers = all_scores, workers
        self.scored = 0
        self._work = out / ".work"
        self._here = _Worker(plan, folder, role, all_scores)
        """For the filters of the main process, and all others where there is no other process."""

    def parts(self, units: Sequence[Mapping[str, Any]], bar: Any) -> list[dict[str, Any]]:
        """Make or find every unit's part; their records in the order of the units."""
        owner: dict[_Job, _UnitWork] = {}
        first = 0
        for unit in units:
            target = self._target(unit)
            seed = self._seed(unit, target)
            if seed == target and self._complete(target):
                bar.update(unit["kept"])
            else:
                work = _UnitWork(unit, first, self._jobs(unit, first, seed))
                owner |= dict.fromkeys(work.jobs, work)
            first += unit["kept"]
        try:
            for job, asked in self._done(list(owner)):
                work = owner.pop(job)
                work.asked.update(asked)
                work.done += 1
                bar.update(job.count)
                if work.done == len(work.jobs):
                    self._finish(work)
                    self.scored += len(work.asked)
        finally:
            self._here.close()
        made = [(unit["unit"], unit["kept"], self._target(unit)) for unit in units]
        return [{"unit": u, "file": t.name, "rows": n, "sha256": file_sha256(t).hex()} for u, n, t in made]

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
        files = [part["sha256"] for part in unit["parts"] if part_kind(part["file"]) in ("samples", "images")]
        files += [shard["sha256"] for shard in unit["shards"]]
        return json_sha256([FORMAT, INTAKE, files])

    def _target(self, unit: Mapping[str, Any]) -> Path:
        key = json_sha256([self._content(unit), self.plan.identity])
        return self.out / f"{unit['unit']}-{key[:16]}.parquet"

    def _seed(self, unit: Mapping[str, Any], target: Path) -> Path | None:
        """The part with the most scores that are still right; the target itself where it is there."""
        if target.is_file():
            return target
        wanted = {step.identity for step in self.plan.steps}
        found = [
            (len(wanted & set(meta["filters"].values())), path)
            for path in sorted(self.out.glob(f"{glob.escape(unit['unit'])}-????????????????.parquet"))
            if (meta := read_meta(path))["content"] == self._content(unit)
        ]
        shared, best = max(found, key=itemgetter(0), default=(0, None))
        return best if shared else None

    def _complete(self, path: Path) -> bool:
        """Whether no sample waits for a filter under the present thresholds."""
        rows = read_rows(path, self.plan.steps, judged=True)
        return not any(missing_steps(row, self.plan, self.all_scores) for row in rows)

    def _jobs(self, unit: Mapping[str, Any], first: int, seed: Path | None) -> list[_Job]:
        basis = [self._target(unit).name, self.plan.exits, self.all_scores, file_sha256(seed).hex() if seed else None]
        key = json_sha256(basis)[:16]
        return [
            _Job(
                first + start, start, min(CHUNK, unit["kept"] - start), seed,
                self._work / f"{unit['unit']}-{key}-{start:09d}.parquet",
            )
            for start in range(0, unit["kept"], CHUNK)
        ]  # fmt: skip

    def _done(self, jobs: Sequence[_Job]) -> Iterator[tuple[_Job, list[str]]]:
        """Jobs as they are finished, with the ids of the samples that filters were asked about."""
        todo = []
        for job in jobs:
            if job.target.is_file():
                yield job, []
            else:
                todo.append(job)
        if in_this_process(self.workers, len(todo)):
            yield from ((job, self._here.run(job)) for job in todo)
            return
        arguments = (self.plan, self.folder, self.role, self.all_scores)
        yield from run_jobs(
            _work, todo, self.workers, place=self._work, prepare=_start, arguments=arguments,
            declared=partial(_declared, [step for step in self.plan.steps if not step.in_main_process]),
        )  # fmt: skip

    def _finish(self, work: _UnitWork) -> None:
        """Put a unit's chunks together, ask the filters of this process, write the part."""
        rows = [row for job in work.jobs for row in read_rows(job.target, self.plan.steps)]
        for step in self.plan.steps:
            if step.in_main_process:
                todo = [n for n, row in enumerate(rows) if step in missing_steps(row, self.plan, self.all_scores)]
                size = PICTURE_BATCH if step.needs_pictures else max(1, len(todo))
                for start in range(0, len(todo), size):
                    batch = {work.first + number: rows[number] for number in todo[start : start + size]}
                    work.asked.update(self._here.ask(batch, [step]))
        write_rows(self._target(work.unit), rows, self.plan, self._content(work.unit))


class _Worker:
    """Asks filters about samples of a build; each is made when it is first needed."""

    def __init__(self, plan: FilterPlan, folder: Path, role: str, all_scores: bool) -> None:
        self._plan, self._folder, self._role, self._all_scores = plan, folder, role, all_scores
        self._filters: dict[str, Filter] = {}

    def close(self) -> None:
        """Close the filters that have something to close."""
        for made in self._filters.values():
            if close := getattr(made, "close", None):
                close()

    def run(self, job: _Job) -> list[str]:
        """Score a chunk and write its rows; ids of the samples that a filter was asked about."""
        if job.seed is not None:
            rows = read_rows(job.seed, self._plan.steps, job.start, job.count, judged=True)
        else:
            rows = [_ScoreRow("", None, {}, set()) for _ in range(job.count)]
        asked = []
        for start in range(0, job.count, BATCH):
            batch = {job.first + number: rows[number] for number in range(start, min(start + BATCH, job.count))}
            asked += self.ask(batch, [step for step in self._plan.steps if not step.in_main_process])
        # A worker that outlived its run may write the same chunk: a name of its own, then a rename.
        own = job.target.with_name(f"{job.target.name}.{os.getpid()}")
        write_rows(own, rows, self._plan, content="")
        own.replace(job.target)
        return asked

    def ask(self, batch: Mapping[int, _ScoreRow], steps: Sequence[FilterStep]) -> list[str]:
        """Ask filters about samples (number in the build -> row) where their scores are needed; ids of the samples."""
        waiting: dict[int, StoredSample] = {}
        records: dict[int, Record] = {}
        for number, row in batch.items():
            if not row.sample_id or any(step in steps for step in self._missing(row)):
                sample = self._build[number]
                row.sample_id = row.sample_id or sample.record["id"]
                if row.sample_id != sample.record["id"]:
                    raise UserError(f"{self._folder}: scores of {row.sample_id} are not of this build; delete them")
                records[number] = Record(sample.record)
                if any(step.needs_pictures for step in steps):
                    waiting[number] = sample
                if row.reason is None and not records[number].caption.strip():
                    [row.reason] = CAPTION_REASONS
        for step in steps:
            todo = []
            for number, record in records.items():
                row = batch[number]
                if step not in self._missing(row):
                    continue
                if step.needs_pictures and number in waiting:
                    try:
                        record.pictures = decode(waiting.pop(number))
                    except UnreadablePicture as error:
                        row.reason = error.reason
                        continue
                # It may see the scores of those filters that it was put after.
                record.found = {c: value for c, value in row.values.items() if c.partition(".")[0] in step.after}
                todo.append(number)
            if todo:
                made = self._filters[step.name] = self._filters.get(step.name) or step.make()
                ask(made, step, [batch[number] for number in todo], [records[number] for number in todo])
        return [batch[number].sample_id for number in records]

    def _missing(self, row: _ScoreRow) -> list[FilterStep]:
        return missing_steps(row, self._plan, self._all_scores)

    @cached_property
    def _build(self) -> Build:
        return Build(self._folder, role=self._role)


def _declared(steps: Sequence[FilterStep]) -> dict[str, str]:
    """The declared versions that scores depend on, as they are where this runs."""
    return {"intake": INTAKE} | {step.name: filter_class(step.name, step.place).version for step in steps}


_worker: _Worker | None = None


def _start(*arguments: Any) -> None:
    global _worker
    _worker = _Worker(*arguments)


def _work(job: _Job) -> list[str]:
    assert _worker is not None
    return _worker.run(job)


def missing_steps(row: _ScoreRow, plan: FilterPlan, all_scores: bool) -> list[FilterStep]:
    """The filters that have still to be asked about a sample, as far as that is known before they are asked."""
    missing = []
    first_picture = picture_stage(plan.steps)
    for number, step in enumerate(plan.steps):
        if row.reason is not None and (row.reason in CAPTION_REASONS or number >= first_picture):
            break
        if step.name not in row.done:
            missing.append(step)
            if not all_scores and step.drop is not None:
                break  # whether the next one is needed depends on this one
        elif not all_scores and step.drops(row.values):
            break
    return missing


def ask(made: Filter, step: FilterStep, rows: Sequence[_ScoreRow], records: Sequence[Record]) -> None:
    """Ask a filter about records and put its answers, checked and rounded, into the rows. Raises: `FilterError`."""
    try:
        answers = made.score(records)
    except UserError:
        raise
    except Exception as error:
        where = rows[0].sample_id if len(rows) == 1 else f"{rows[0].sample_id} to {rows[-1].sample_id}"
        # The text of an error may quote a credentialed record.
        fault = f"{type(error).__name__} (a fault of the filter)"
        raise FilterError(f"filter {step.name} failed on {where}: {fault}") from error
    if len(answers) != len(rows):
        raise FilterError(f"filter {step.name} gave {len(answers)} answers for {len(rows)} samples")
    for row, answer in zip(rows, answers, strict=True):
        if set(answer) != set(step.scores):
            odd = sorted(set(answer) ^ set(step.scores))
            raise FilterError(f"filter {step.name}, {row.sample_id}: scores missing or not declared: {', '.join(odd)}")
        for score in step.scores:
            row.values[f"{step.name}.{score}"] = _value(answer[score], step, score, row.sample_id)
        row.done.add(step.name)


def _value(value: Any, step: FilterStep, score: str, sample: str) -> Score:
    if value is None or isinstance(value, str):
        return value
    try:
        number = round(float(value), _DIGITS)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise FilterError(f"filter {step.name}, {sample}: {score} is a {kind}, no number or text") from None
    if not math.isfinite(number):
        raise FilterError(f"filter {step.name}, {sample}: {score} is {number}; give None where there is no score")
    return number + 0.0  # no negative zero


def write_rows(path: Path, rows: Sequence[_ScoreRow], plan: FilterPlan, content: str) -> None:
    """Write rows as a part. Raises: `FilterError` for a score that is now a number and now a text."""
    arrays: dict[str, Any] = {
        "sample_id": pa.array([row.sample_id for row in rows], pa.string()),
        "reason": pa.array([row.reason for row in rows], pa.string()),
        "skipped": pa.array(
            [[step.name for step in plan.steps if step.name not in row.done] for row in rows], pa.list_(pa.string())
        ),
    }
    for step in plan.steps:
        for column in step.columns:
            values = [row.values.get(column) for row in rows]
            kinds = {isinstance(value, str) for value in values if value is not None}
            if len(kinds) > 1:
                raise FilterError(f"filter {step.name}: {column} is now a text and now a number")
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


def read_meta(path: Path) -> dict[str, Any]:
    """What a part was made from: `content` and `filters` (name -> identity). Raises: `FilterError`."""
    try:
        meta = pq.read_metadata(path).metadata or {}
        filters: dict[str, str] = orjson.loads(meta[b"filters"])
        return {"content": meta[b"content"].decode(), "filters": filters}
    except (OSError, pa.ArrowInvalid, KeyError, orjson.JSONDecodeError) as error:
        raise FilterError(f"{path}: no score part ({type(error).__name__}); delete it and run again") from error


def read_rows(
    path: Path, steps: Sequence[FilterStep], start: int = 0, count: int | None = None, judged: bool = False
) -> list[_ScoreRow]:
    """Rows of a part, with the scores of those filters whose identity is the same. Raises: `FilterError`.

    judged: without those of filters that came to no verdict.
    """
    same = read_meta(path)["filters"]
    taken = [step for step in steps if same.get(step.name) == step.identity]
    columns = [*_FIXED, *(column for step in taken for column in step.columns)]
    rows = []
    for entry in pq.read_table(path, columns=columns).slice(start, count).to_pylist():
        done = [step for step in taken if step.name not in entry["skipped"]]
        values = {column: entry[column] for step in done for column in step.columns}
        row = _ScoreRow(entry["sample_id"], entry["reason"], values, {step.name for step in done})
        for step in done:
            if judged and not step.not_judged.isdisjoint(_texts(row, step)):
                row.done.remove(step.name)
        rows.append(row)
    return rows
