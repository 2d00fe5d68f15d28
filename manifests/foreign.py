"""A corpus made elsewhere, as a build: so that its owner can prove it free of test items without building it anew.

`ingest` reads a folder of WebDataset tars, Parquet files and JSON Lines and writes a build in our own layout. Texts go
into Arrow shards; pictures are fingerprinted and not copied, so `shard`, `offset` and `length` of their rows are NULL.
Catalogue, audits, `prove` and `shards.verify` work on it as on any other build. Nothing can be trained from it.

What is read:
    *.tar, *.tar.gz, *.tgz   WebDataset: neighbouring members that share a name up to the first dot of its last part.
                             Fields of a row: those of its `json`, every member by its extension, `__key__`
    *.parquet                one row a row; pictures as bytes, as {bytes, path} or as lists of either
    *.jsonl, *.jsonl.gz      one object a line; `image` and `images` name picture files in the folder

A mapping says where things are. Every key may be left out; a key set to `[]` is not looked for at all. A field is a
name, or a path into nested fields (`meta.patient`):
    name      of the corpus; default: the folder's name
    id        field that names a row; default: `__key__`, or the row's number
    text      fields of free text or of dialogues; default: text, caption, txt, conversations, messages
    question, options, answer, reasoning
              fields; default: those names (options also: choices). `options` is one field (a list, or an object
              label -> text), a list of fields, or an object label -> field. An answer is a label, an index from 0
              or the text itself
    images    fields; default: found by type
    groups    subject_id, study_id, prior_study_id, pmcid, pmid, video_id, question_id, image_id -> field, or
              {field: patient, prefix: ourhospital}. Equal values mean the same thing everywhere: give the train and the
              eval side the same prefix. Without one pmcid, pmid and video_id get ours (`pmc/PMC123`, `pubmed/123`,
              `youtube/...`); others are taken as they stand
    license   text, or {field: ...}; default: unstated
    access    open, gated or credentialed; default: credentialed, which keeps texts out of reports
    split     default: train, or test for the eval side
With sections `train:` and `eval:` one file serves both sides; what stands outside of them holds for both.

A row that is damaged becomes a reject; kept + rejected = read. `build.json` lists under `parameters` every file with
its digest, the files that were not read and the fields that nothing was taken from: what was *not* compared.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pyarrow as pa

from manifests.fingerprints import IMAGE_RECIPE
from manifests.foreign_mapping import DEFAULT_SPLIT, ForeignError, Role, Rules, load_mapping, make_rules
from manifests.foreign_rows import (
    ABSENT,
    DAMAGED_REASONS,
    Damage,
    Job,
    Rejected,
    Row,
    covers,
    extension,
    field_names,
    found_values,
    get_field,
    in_schema,
    open_parquet,
    read_rows,
    schema_names,
)
from manifests.foreign_samples import (
    PICTURE_SUFFIXES,
    Picture,
    get_or_none,
    group_value,
    joined,
    message_text,
    picture_bytes,
    picture_fields,
    read_picture,
    shape,
    strings,
)
from manifests.parts import IMAGES, MANIFEST_VERSION, REJECTS, SAMPLES, PartRows, write_part
from medgpt.atomic import TEMPORARY_SUFFIX, AtomicFile, write_atomic
from medgpt.digest import build_root, file_sha256
from medgpt.messages import DETAIL_CHARACTERS, named, safe
from medgpt.private import keep_private, make_folder
from medgpt.processes import WorkerDied, run_jobs
from medgpt.schema import GROUP_KEYS, SAMPLE, SCHEMA_VERSION, canonical_json, record_batch
from medgpt.text import TEXT_RECIPE, TOKENIZER, count_tokens, question_sha256, text_sha256
from medgpt.tiles import tile_count

__all__ = ["ForeignError", "code_sha256", "ingest", "load_mapping"]

RECIPE = f"{IMAGE_RECIPE}; text {TEXT_RECIPE}; tokens {TOKENIZER}"
"""The same words as `builders.engine.unit.RECIPE`: both sides of a comparison must be made alike."""

UNIT_ROWS = 20_000
UNIT_BYTES = 256 << 20
"""A unit is closed at either size (rows read, bytes of text), so memory does not grow with a file."""

PARQUET_JOB_BYTES = 256 << 20
"""Parquet files are cut at row groups into pieces of about this size (uncompressed), which several processes share."""

ARROW_BATCH_ROWS = 1024
"""Rows of a batch; `shards.reader` finds rows by it (the same number stands in `shards.writer`, out of reach here)."""

_BUILD_FORMAT = 1
_FOLDERS = ("shards", "manifest", "rejects")
_KINDS = {
    ".tar": "tar", ".tar.gz": "tar", ".tgz": "tar", ".parquet": "parquet", ".jsonl": "jsonl", ".jsonl.gz": "jsonl",
}  # fmt: skip
_MAX_FIELDS = 500
_REMEMBERED_PICTURES = 4096

CODE = (
    "manifests.foreign", "manifests.foreign_mapping", "manifests.foreign_rows", "manifests.foreign_samples",
    "medgpt.atomic", "medgpt.digest", "manifests.fingerprints", "manifests.parts", "medgpt.processes",
    "medgpt.text", "medgpt.tiles", "medgpt.schema", "medgpt.strip",
)  # fmt: skip
"""The modules that shape a sample; a change in one of them rebuilds every unit."""


class _Contents(NamedTuple):
    data: list[tuple[str, str]]
    """(file, kind), sorted."""
    pictures: list[str]
    """Picture files that rows may name."""
    left_out: list[str]


def _kind(name: str) -> str | None:
    return next((kind for suffix, kind in _KINDS.items() if name.lower().endswith(suffix)), None)


def _look(folder: Path, out: Path) -> _Contents:
    if not folder.is_dir():
        raise ForeignError(f"{folder}: no such folder")
    if out.resolve().is_relative_to(folder.resolve()):
        raise ForeignError(f"{out}: lies within the corpus {folder}; choose another place for what is written")
    data, pictures, others = list[tuple[str, str]](), list[str](), list[str]()
    for name in _walk(folder):
        kind = _kind(name)
        if kind:
            data.append((name, kind))
        else:
            (pictures if extension(name) in PICTURE_SUFFIXES else others).append(name)
    if not data:
        suffixes = ", ".join(f"*{suffix}" for suffix in _KINDS)
        raise ForeignError(f"{folder}: nothing here or below is {suffixes}; name the folder of a corpus")
    if all(kind == "tar" for _, kind in data):
        pictures, others = [], sorted(pictures + others)
    return _Contents(data, pictures, others)


def _walk(folder: Path) -> list[str]:
    """Relative names of all files, sorted. Links are followed, each folder once; hidden names are left out."""
    names: list[str] = []
    seen: set[tuple[int, int]] = set()

    def fail(error: OSError) -> None:
        raise ForeignError(f"{error.filename}: {error.strerror}; the corpus must be readable") from error

    for place, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        status = Path(place).stat()
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(place).relative_to(folder).as_posix()
        names += [name if below == "." else f"{below}/{name}" for name in files if not name.startswith(".")]
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ForeignError(f"{folder}: a file's name is not UTF-8 ({name!r}); rename it") from None
    return sorted(names)


def _digests(folder: Path, names: Sequence[str], workers: int) -> list[dict[str, Any]]:
    def digest(name: str) -> dict[str, Any]:
        path = folder / name
        try:
            return {"file": name, "bytes": path.stat().st_size, "sha256": file_sha256(path).hex()}
        except OSError as error:
            raise ForeignError(f"{path}: {error.strerror}; the corpus must be readable") from error

    with ThreadPoolExecutor(max(1, workers)) as pool:  # hashing leaves the interpreter free
        return list(pool.map(digest, names))


def _jobs(folder: Path, target: Path, build: str, role: Role, rules: Rules, contents: _Contents) -> list[Job]:
    jobs: list[Job] = []
    for file, kind in contents.data:
        job = Job(folder, target, build, role, rules, file, kind, len(jobs), None, 0)
        if kind != "parquet":
            jobs.append(job)
            continue
        metadata = open_parquet(job.path, file).metadata
        start = first = rows = size = 0
        for group in range(metadata.num_row_groups):
            rows += metadata.row_group(group).num_rows
            size += metadata.row_group(group).total_byte_size
            last = group == metadata.num_row_groups - 1
            # Ids are made unique within a job, so a file whose rows have ids of their own stays one job.
            if last or (size >= PARQUET_JOB_BYTES and rules.id is None):
                jobs.append(replace(job, number=len(jobs), groups=(start, group + 1), first=first))
                start, first, rows, size = group + 1, first + rows, 0, 0
        if not metadata.num_row_groups:
            jobs.append(replace(job, groups=(0, 0)))
    return jobs


class _Shard:
    """The Arrow file of a unit, in the batches that `shards.reader` expects; written only if there is a sample."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._batch: list[bytes] = []
        self._file: AtomicFile | None = None
        self.samples = self.bytes = 0

    def add(self, json: bytes) -> int:
        """Append one sample; its row number."""
        if self._file is None:
            self._file = AtomicFile(self.path)
            self._schema = SAMPLE.with_metadata({"metadata_only": "false"})
            self._writer = pa.ipc.new_file(self._file, self._schema)
        self._batch.append(json)
        self.samples += 1
        self.bytes += len(json)
        if len(self._batch) == ARROW_BATCH_ROWS:
            self._flush()
        return self.samples - 1

    def _flush(self) -> None:
        if self._batch:
            self._writer.write_batch(record_batch(self._batch).cast(self._schema))
            self._batch = []

    def close(self) -> list[dict[str, Any]]:
        """Finish the file; its entry in `build.json`."""
        if self._file is None:
            return []
        self._flush()
        self._writer.close()
        self._file.commit()
        file = {"file": f"shards/{self.path.name}", "bytes": self._file.size, "sha256": self._file.sha256.hex()}
        return [file | {"samples": self.samples}]

    def discard(self) -> None:
        """Drop what was written."""
        if self._file is not None:
            self._file.discard()


class _Memory:
    """What the units of one job share: ids given, fields seen, and pictures that came before."""

    def __init__(self) -> None:
        self.ids: set[bytes] = set()
        """Short digests: an id takes a hundred bytes, and a file may have millions."""
        self.fields: set[str] = set()
        self.used: set[str] = set()
        self.pictures: dict[bytes, Picture] = {}


class _Unit:
    """The unit in hand: its shard and the rows of its three manifest parts."""

    def __init__(self, job: Job, piece: int, memory: _Memory) -> None:
        self.job, self.memory = job, memory
        rules = job.rules
        self.name = f"{rules.split}-{job.number:05d}-{piece:04d}"
        self.stem = f"{rules.name}-{self.name}"
        self.stage = "instruct" if job.role == "train" else "eval"
        constants = {"build": job.build, "unit": self.name, "source": rules.name}
        constants |= {"role": job.role, "split": rules.split}
        shard = f"{self.stem}-00000.arrow"
        self.shard = _Shard(job.target / "shards" / shard)
        more = {"subset": None, "stage": self.stage, "access": rules.access, "metadata_only": False, "shard": shard}
        self.samples = PartRows(SAMPLES, constants | more)
        nothing = dict.fromkeys(("subset", "subject_id", "study_id", "view", "relation", "shard", "offset", "length"))
        self.images = PartRows(IMAGES, constants | nothing)
        self.rejects = PartRows(REJECTS, constants)
        self.reasons: Counter[str] = Counter()

    @property
    def read(self) -> int:
        """Rows so far."""
        return self.samples.rows + self.rejects.rows

    def add(self, outcome: Row | Rejected) -> None:
        """Take in one row."""
        if isinstance(outcome, Row):
            try:
                self._sample(outcome)
            except Damage as damage:
                outcome = Rejected(outcome.row, damage.reason, damage.detail)
            else:
                return
        assert outcome.reason in DAMAGED_REASONS
        self.reasons[outcome.reason] += 1
        row = {"file": self.job.file, "row": safe(outcome.row), "reason": outcome.reason, "damaged": True}
        self.rejects.append(row | {"detail": safe(outcome.detail, DETAIL_CHARACTERS)})

    def _sample(self, row: Row) -> None:
        job, rules, values = self.job, self.job.rules, row.values
        if len(self.memory.fields) < _MAX_FIELDS:
            self.memory.fields.update(field_names(values))
        fields = picture_fields(job, values)
        self.memory.used.update(fields)
        pictures = [
            self._remembered(data) for field in fields for data in picture_bytes(job, found_values(values, [field]))
        ]
        shaped = shape(values, rules, len(pictures))
        groups = {kind: group_value(kind, get_or_none(values, field), prefix) for kind, field, prefix in rules.groups
                  if kind != "image_id"}  # fmt: skip
        image_ids = self._image_ids(values, pictures)
        license_name = rules.license
        if rules.license_field:
            license_name = joined(values, [rules.license_field]) or "unstated"
        sample_id = self._id(row)
        record = {
            "id": sample_id,
            "source": rules.name,
            "role": job.role,
            "split": rules.split,
            "subset": None,
            "stage": self.stage,
            **shaped,
            "images": [
                dict.fromkeys(("file", "image_id", "subject_id", "study_id", "view", "relation"))
                | {"image_id": image_id}
                for image_id in image_ids
            ],
            "group": {key: groups.get(key) for key in GROUP_KEYS},
            "license": license_name,
            "access": rules.access,
            "metadata_only": False,
            "provenance": {"file": job.file, "row": row.row},
        }
        try:
            json = canonical_json(record)
        except TypeError:  # half a surrogate pair, as JSON may spell it, is no text
            raise Damage("not_utf8") from None
        tiles = [tile_count(picture.print.width, picture.print.height, len(pictures)) for picture in pictures]
        stem, stem_options = question_sha256(shaped["question"], [option["text"] for option in shaped["options"] or ()])
        target = message_text(shaped["messages"][-1]) if shaped["task"] in ("caption", "text") else None
        self.samples.append(
            {
                "sample_id": sample_id,
                "task": shaped["task"],
                "license": license_name,
                "offset": self.shard.add(json),
                "length": len(json),
                "sha256": hashlib.sha256(json).digest(),
                "n_images": len(pictures),
                "tiles": sum(tiles),
                "text_tokens": sum(
                    count_tokens(text)
                    for message in shaped["messages"]
                    for text in (message["reasoning"], message_text(message))
                    if text
                ),
                "stem_sha256": stem,
                "stem_options_sha256": stem_options,
                "caption_sha256": text_sha256(target),
                **record["group"],
                "file": job.file,
                "row": row.row,
            }
        )
        for index, (picture, image_id) in enumerate(zip(pictures, image_ids, strict=True)):
            self.images.append(
                {
                    "sample_id": sample_id,
                    "index": index,
                    "image_id": image_id,
                    "format": picture.format,
                    "width": picture.print.width,
                    "height": picture.print.height,
                    "tiles": tiles[index],
                    "sha256": picture.sha256,
                    "stored_sha256": picture.stored_sha256,
                    "pixel_sha256": picture.print.pixel_sha256,
                    "phash": picture.print.phash,
                    "thumbnail": picture.print.thumbnail,
                }
            )

    def _remembered(self, data: bytes) -> Picture:
        """The picture, decoded once though many rows show it (several questions about one film)."""
        digest = hashlib.sha256(data).digest()
        picture = self.memory.pictures.get(digest)
        if picture is None:
            if len(self.memory.pictures) >= _REMEMBERED_PICTURES:
                self.memory.pictures.clear()
            picture = self.memory.pictures[digest] = read_picture(data)
        return picture

    def _image_ids(self, values: Mapping[str, Any], pictures: list[Picture]) -> list[str]:
        """Ids of the pictures: the mapping's, else made from their bytes, so that equal ids mean the same picture."""
        for kind, field, prefix in self.job.rules.groups:
            if kind == "image_id":
                names = strings(get_or_none(values, field))
                if len(names) != len(pictures):
                    raise Damage("bad_field", f"image_id: {len(names)} values for {len(pictures)} pictures")
                return [f"{prefix}/{name}" if prefix else name for name in names]
        return [f"{self.job.build}/{picture.sha256.hex()[:32]}" for picture in pictures]

    def _id(self, row: Row) -> str:
        """`<corpus>/<split>/<file>/<row>`; a name that comes again gets a number, since no row may go unchecked."""
        rules, name = self.job.rules, row.row
        if rules.id is not None:
            names = strings(get_or_none(row.values, rules.id))
            if len(names) != 1:
                raise Damage("missing_field", f"{rules.id}: {len(names)} values where one is expected")
            name = names[0]
        found = base = f"{rules.name}/{rules.split}/{self.job.file}/{name}"
        if rules.id is None and self.job.kind != "tar":
            return found  # lines and rows have different numbers
        number = 1
        while (
            digest := hashlib.blake2b(found.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        ) in self.memory.ids:
            number += 1
            found = f"{base}#{number}"
        self.memory.ids.add(digest)
        return found

    def finish(self) -> dict[str, Any]:
        """Write the parts, the manifest last; the unit's record as it stands in `build.json`."""
        shards = self.shard.close()
        parts = {
            f"rejects/{self.stem}.parquet": self.rejects,
            f"manifest/{self.stem}.images.parquet": self.images,
            f"manifest/{self.stem}.parquet": self.samples,
        }
        written = []
        for name, columns in parts.items():
            path = self.job.target / name
            write_part(path, columns.table(), RECIPE)
            written.append({"file": name, "bytes": path.stat().st_size, "sha256": file_sha256(path).hex()})
        return {
            "unit": self.name,
            "role": self.job.role,
            "split": self.job.rules.split,
            "file": self.job.file,
            "read": self.read,
            "kept": self.samples.rows,
            "rejected": self.rejects.rows,
            "damaged": self.rejects.rows,
            "images": self.images.rows,
            "reasons": dict(sorted(self.reasons.items())),
            "shards": shards,
            "parts": sorted(written, key=lambda part: str(part["file"])),
        }


def _build_job(job: Job, progress: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Write all units of a job, then its ledger entry; returns {units, unused}."""
    memory, units = _Memory(), list[dict[str, Any]]()
    unit = _Unit(job, 0, memory)
    try:
        for outcome in read_rows(job):
            if unit.read >= UNIT_ROWS or unit.shard.bytes >= UNIT_BYTES:
                units.append(unit.finish())
                unit = _Unit(job, len(units), memory)
            unit.add(outcome)
            if progress is not None:
                progress(1)
        units.append(unit.finish())
    except BaseException:
        unit.shard.discard()
        raise
    if job.kind == "parquet":  # columns that nothing is taken from were not even read
        with open_parquet(job.path, job.file) as table:
            memory.fields.update(schema_names(table.schema_arrow))
    used = job.rules.fields | memory.used | {"__key__", "json"}
    unused = sorted(name for name in memory.fields if not any(covers(field, name) for field in used))
    record = {"units": units, "unused": unused[:_MAX_FIELDS]}
    write_atomic(job.ledger, orjson.dumps({"key": job.key, "record": record}))
    return record


def _finished(job: Job) -> dict[str, Any] | None:
    """The record of an earlier run, if it read the same bytes in the same way and all its files are there."""
    try:
        entry = orjson.loads(job.ledger.read_bytes())
    except (FileNotFoundError, orjson.JSONDecodeError):
        return None
    if entry["key"] != job.key:
        return None
    record: dict[str, Any] = entry["record"]
    for unit in record["units"]:
        for file in unit["shards"] + unit["parts"]:
            path = job.target / file["file"]
            if not path.is_file() or path.stat().st_size != file["bytes"]:
                return None
    return record


def _check_fields(jobs: Sequence[Job], rules: Rules) -> None:
    """Refuse a mapping that names a field which no row has. Reads only as far as it must."""
    missing, seen = set(rules.named), set[str]()
    for job in jobs:
        if job.kind == "parquet" and missing and job.first == 0:
            with open_parquet(job.path, job.file) as table:
                columns = table.schema_arrow
                seen.update(schema_names(columns))
                missing = {name for name in missing if not in_schema(columns, name)}
    for job in jobs:
        if job.kind != "parquet" and missing:
            for row in read_rows(job):
                if isinstance(row, Row):
                    if len(seen) < _MAX_FIELDS:
                        seen.update(field_names(row.values))
                    missing = {name for name in missing if get_field(row.values, name) is ABSENT}
                    if not missing:
                        break
    if missing:
        there = named(sorted(seen), shown=60)
        raise ForeignError(f"mapping: no row of {jobs[0].folder} has {', '.join(sorted(missing))}; there are {there}")


@cache
def code_sha256() -> str:
    """Digest of the code that shapes a sample of a foreign corpus, hexadecimal."""
    files = [(name, Path(str(importlib.import_module(name).__file__))) for name in CODE]
    return hashlib.sha256(orjson.dumps([(name, file_sha256(path).hex()) for name, path in files])).hexdigest()


def ingest(
    folder: Path,
    role: Role,
    mapping: Mapping[str, Any] | None,
    out: Path,
    workers: int = 1,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Read a corpus as the `train` or `eval` side and write it as a build `out/<name>.<role>`, which is returned.

    `progress` is called with numbers of rows done. The same corpus and mapping give the same bytes, whatever the number
    of workers; files whose content is that of an earlier run are not read again but for their digest.

    Raises: `ForeignError`, one line, for a folder, file or mapping that cannot be used; `ValueError` for another role.
    """
    if role not in DEFAULT_SPLIT:
        raise ValueError(f"role is train or eval, not {role!r}")
    rules = make_rules(mapping or {}, role, folder)
    keep_private(rules.access)
    contents = _look(folder, out)
    build = f"{rules.name}.{role}"
    target, resume = out / build, out / ".resume" / build
    jobs = _jobs(folder, target, build, role, rules, contents)
    _check_fields(jobs, rules)
    names = [name for name, _ in contents.data] + contents.pictures
    before = _states(folder, names)
    files = sorted(_digests(folder, names, workers), key=lambda file: str(file["file"]))
    jobs = _with_keys(jobs, files, set(contents.pictures))
    for place in (target, *(target / name for name in _FOLDERS), resume):
        make_folder(place)
    with (resume / "lock").open("w") as lock, (resume / "workers").open("w") as workers_lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ForeignError(f"{target}: another process is writing this; wait for it") from None
        # Workers of a killed run notice within half a second and hold this lock until they are gone.
        fcntl.flock(workers_lock, fcntl.LOCK_EX)
        fcntl.flock(workers_lock, fcntl.LOCK_UN)
        done = {job.number: record for job in jobs if (record := _finished(job)) is not None}
        waiting = [job for job in jobs if job.number not in done]
        if waiting:
            # Until all is read there is no build.json, and so nothing that an audit or a proof would take for whole.
            (target / "build.json").unlink(missing_ok=True)
        if progress is not None:
            progress(sum(unit["read"] for record in done.values() for unit in record["units"]))
        try:
            done.update(_run(waiting, workers, progress))
        except OSError as error:
            raise ForeignError(f"{target}: {error}; finished files are kept, run again to resume") from error
        if _states(folder, names) != before:
            raise ForeignError(f"{folder}: a file was changed while it was read; run again")
        document = _document(rules, build, role, files, contents.left_out, [done[job.number] for job in jobs])
        _refuse_empty(document, folder)
        data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        _remove_strays(target, document, resume, {job.ledger.name for job in jobs})
        path = target / "build.json"
        if not path.exists() or path.read_bytes() != data:
            write_atomic(path, data)
    return target


def _states(folder: Path, names: Sequence[str]) -> list[tuple[int, int]]:
    try:
        found = [(folder / name).stat() for name in names]
    except OSError as error:
        raise ForeignError(f"{error.filename}: {error.strerror}; the corpus must be readable") from error
    return [(status.st_size, status.st_mtime_ns) for status in found]


def _with_keys(jobs: Sequence[Job], files: Sequence[Mapping[str, Any]], pictures: set[str]) -> list[Job]:
    """The jobs with the digest of all that shapes what they write."""
    digests = {file["file"]: file["sha256"] for file in files}
    loose = hashlib.sha256(orjson.dumps(sorted((name, digests[name]) for name in pictures))).hexdigest()
    keyed = []
    for job in jobs:
        described = {
            "file": [job.file, digests[job.file], job.groups, job.number],
            "loose": "" if job.kind == "tar" else loose,
            "rules": asdict(job.rules),
            "build": [job.build, job.role],
            "code": code_sha256(),
            "recipe": RECIPE,
            "versions": [SCHEMA_VERSION, MANIFEST_VERSION],
        }
        key = hashlib.sha256(orjson.dumps(described, option=orjson.OPT_SORT_KEYS)).hexdigest()
        keyed.append(replace(job, key=key))
    return keyed


def _run(jobs: Sequence[Job], workers: int, progress: Callable[[int], None] | None) -> Iterator[tuple[int, Any]]:
    """(number, record) of every job as it is done; in this process for one worker, else in spawned ones."""
    if workers <= 1 or len(jobs) <= 1:
        for job in jobs:
            yield job.number, _build_job(job, progress)
        return
    try:
        for job, record in run_jobs(_build_job, jobs, workers, lock=jobs[0].ledger.with_name("workers")):
            if progress is not None:
                progress(sum(unit["read"] for unit in record["units"]))
            yield job.number, record
    except WorkerDied:
        raise ForeignError(
            "a worker process died (killed, or out of memory: try fewer workers); run again to resume"
        ) from None


def _document(
    rules: Rules,
    build: str,
    role: Role,
    files: list[dict[str, Any]],
    left_out: list[str],
    records: list[dict[str, Any]],
) -> dict[str, Any]:
    units = [unit for record in records for unit in record["units"]]
    counts = {name: sum(unit[name] for unit in units) for name in ("read", "kept", "rejected", "damaged")}
    images = sum(unit["images"] for unit in units)
    size = sum(shard["bytes"] for unit in units for shard in unit["shards"])
    reasons: Counter[str] = Counter()
    for unit in units:
        reasons.update(unit["reasons"])
    mapping = asdict(rules)
    document = {
        "format": _BUILD_FORMAT,
        "build": build,
        "source": {
            "name": rules.name,
            "title": f"{rules.name}: a corpus made elsewhere",
            "homepage": "",
            "revision": hashlib.sha256(orjson.dumps(files)).hexdigest(),
            "license": rules.license,
            "access": rules.access,
            "stage": "instruct" if role == "train" else "eval",
            "task": "mixed",
            "modality": "image-text" if images else "text",
            "paper": "",
        },
        "parameters": {
            "mapping": mapping,
            "pictures_stored": False,
            "folder_files": files,
            "files_not_read": left_out,
            "fields_not_used": sorted({name for record in records for name in record["unused"]}),
        },
        "limit": None,
        "metadata_only": False,
        "code_sha256": code_sha256(),
        "fingerprint_recipe": RECIPE,
        "schema_version": SCHEMA_VERSION,
        "manifest_version": MANIFEST_VERSION,
        "published": {},
        "counts": {
            **counts,
            "by_split": {rules.split: {**counts, "role": role, "images": images, "bytes": size}},
            "rejects": dict(sorted(reasons.items())),
        },
        "units": units,
    }
    return document | {"root": build_root(document)}


def _refuse_empty(document: Mapping[str, Any], folder: Path) -> None:
    counts = document["counts"]
    if counts["kept"]:
        return
    reasons = ", ".join(f"{reason} {count}" for reason, count in counts["rejects"].items()) or "no rows"
    fields = named(document["parameters"]["fields_not_used"], shown=60)
    raise ForeignError(
        f"{folder}: none of {counts['read']} rows could be used ({reasons}); fields that nothing was taken from: "
        f"{fields}; say in a mapping where text and pictures are (`images: []` compares texts alone)"
    )


def _remove_strays(target: Path, document: Mapping[str, Any], resume: Path, ledgers: set[str]) -> None:
    """Files of an earlier run and unfinished temporary files; nothing outside these folders is touched."""
    wanted = {file["file"] for unit in document["units"] for file in unit["shards"] + unit["parts"]}
    for folder in _FOLDERS:
        for path in (target / folder).iterdir():
            if f"{folder}/{path.name}" not in wanted and path.suffix in (".arrow", ".parquet", TEMPORARY_SUFFIX):
                path.unlink()
    for path in resume.iterdir():
        if path.name not in ledgers | {"lock", "workers"}:
            path.unlink()
