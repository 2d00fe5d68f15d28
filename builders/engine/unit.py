"""Build one unit: the code that shapes samples.

Runs in a worker process. Everything it writes depends only on the raw rows, the parameters and this code. Where a
change of the engine changes what is written, `ENGINE_VERSION` is raised (a source has `Source.version`).
"""

import gc
import hashlib
import importlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from builders.engine.inputs import Input, check_unchanged
from builders.engine.rawfiles import State, recorded, recorded_gaps, shown
from builders.engine.source import DAMAGED_REASONS, BuildStopped, Image, InputError, Reject, Sample, Source, Unit, told
from builders.engine.stored import FOLDERS, Output
from builders.engine.tables import BYTES_PER_UNIT, ROWS_PER_UNIT
from manifests.fingerprints import IMAGE_RECIPE, ImageFingerprint, fingerprint
from manifests.parts import IMAGES, REJECTS, SAMPLES, THUMBNAILS, PartRows
from medgpt.arguments import Frame
from medgpt.atomic import write_atomic
from medgpt.containers import DamagedImage
from medgpt.digest import file_sha256
from medgpt.groups import GROUP_KEYS
from medgpt.messages import DETAIL_CHARACTERS, safe
from medgpt.pictures import to_store
from medgpt.private import make_folder
from medgpt.schema import canonical_json
from medgpt.text import TEXT_RECIPE, count_tokens, question_sha256, text_sha256, tokenizer
from medgpt.tiles import tile_count
from shards.writer import ArrowShardWriter, ShardWriter, TarShardWriter

RECIPE = f"{IMAGE_RECIPE}; text {TEXT_RECIPE}; tokens {tokenizer()}"

ENGINE_VERSION = 5
"""Of readers and of what becomes of a row; part of every unit key and of a build's root."""

CACHED_PICTURES, CACHED_PRINTS = 64, 4096
"""Decoded once though several samples show it: a study's images come back as the next study's prior within one unit.
Of pictures that are not stored only fingerprints are kept."""

_NO_GROUP: dict[str, str | None] = dict.fromkeys(GROUP_KEYS)
_CAPTION_TASKS = frozenset({"caption", "report", "text"})


@dataclass(frozen=True)
class UnitJob:
    """All that a worker needs to know; picklable."""

    module: str
    raw: Path
    target: Path
    ledger: Path
    build: str
    params: Mapping[str, Any]
    unit: Unit
    take: int
    """Rows to account for: `unit.rows`, fewer under --limit, which counts the rows of each unit that is `UNCOUNTED`."""
    key: str
    shard_bytes: int
    planned: tuple[Input, ...] = ()
    """`unit.inputs` as they were when the key was made."""
    output: Output | None = None
    """The object store that the unit's files go to from `target`, which is scratch of this node then."""

    @property
    def metadata_only(self) -> bool:
        """Whether pictures are named but not read."""
        return bool(self.params["no_images"])


@dataclass(frozen=True)
class _Picture:
    format: str
    data: bytes
    """Empty where pictures are not stored."""
    sha256: bytes
    stored_sha256: bytes
    converted: str | None
    print: ImageFingerprint


def load_source(module: str, params: Mapping[str, Any]) -> Source:
    """The `SOURCE` of a builder module, or what its `make_source` makes of the options."""
    found = importlib.import_module(module)
    source = found.SOURCE if hasattr(found, "SOURCE") else found.make_source(params)
    assert isinstance(source, Source)
    return source


def build_unit(job: UnitJob, progress: Callable[[int], None]) -> list[dict[str, Any]]:
    """Write shards, manifest and rejects of one unit, then its ledger entry; returns its record or those of its pieces.

    `progress` is called with numbers of rows done. Raises `BuildStopped`, also if rows went unaccounted for.
    """
    source, unit = load_source(job.module, job.params), job.unit
    if job.output:
        for folder in (*(job.target / name for name in FOLDERS), job.ledger.parent):
            make_folder(folder)
    pictures: OrderedDict[str, _Picture] = OrderedDict()
    work, records, done = _UnitWork(source, job, pictures), list[dict[str, Any]](), 0
    # Nothing here makes reference cycles, and walking the growing lists of rows takes a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    with told(f"{job.build}, unit {unit.name}", BuildStopped), recorded() as record, recorded_gaps() as gaps:
        try:
            outcomes = source.read(job.raw, unit, job.params)
            for done, outcome in enumerate(islice(outcomes, job.take if job.take >= 0 else None), 1):
                if work.full:
                    records.append(work.finish())
                    work = _UnitWork(source, job, pictures, len(records))
                if isinstance(outcome, Reject):
                    work.reject(outcome)
                else:
                    work.sample(outcome, record.reads)
                if done % 50 == 0:
                    progress(50)
            progress(done % 50)
            if unit.counted and work.rows != job.take:
                raise BuildStopped(
                    f"{job.build}, unit {unit.name}: {work.samples.rows} kept + {work.rejects.rows} rejected "
                    f"!= {job.take} rows; this is a fault of the builder, please report it"
                )
            records.append(work.finish())
        except BaseException as error:
            work.discard()
            if isinstance(error, Exception):  # whose cause may be that the tree changed
                check_unchanged(job.build, job.raw, job.planned)
            raise
        finally:
            if collecting:
                gc.enable()
    whole = [Input(file, state, digest) for file, (state, digest) in sorted(record.reads.items())]
    check_unchanged(job.build, job.raw, (*job.planned, *whole))
    inputs = [[shown(i.file), *i.state, i.sha256] for i in whole]
    entry: dict[str, Any] = {"key": job.key, "records": records, "notes": unit.notes, "inputs": inputs}
    entry |= {"places": record.places, "pictures": record.pictures, "gaps": sorted(map(list, gaps))}
    if job.output:
        written = job.output.upload(job.build, job.target, job.ledger, entry)
    else:
        written = orjson.dumps(entry, default=sorted)
    write_atomic(job.ledger, written)
    return records


class _UnitWork:
    """The unit in hand: its writer and the rows of its manifest parts."""

    def __init__(self, source: Source, job: UnitJob, pictures: OrderedDict[str, _Picture], piece: int = 0) -> None:
        self.source, self.job, self.unit = source, job, job.unit
        self.advice = source.advice
        self.name = job.unit.name if job.unit.counted else f"{job.unit.name}-{piece:04d}"
        self.stem = f"{source.name}-{self.name}"
        constants = {
            "build": job.build,
            "unit": self.name,
            "source": source.name,
            "role": job.unit.role,
            "split": job.unit.split,
        }
        self.stage = source.stage if job.unit.role == "train" else "eval"

        def rows(folder: str, schema: pa.Schema, **more: Any) -> PartRows:
            return PartRows(schema, constants | more, job.target / folder / f"{self.stem}.parquet", RECIPE)

        self.rejects, self.thumbnails = rows("rejects", REJECTS), rows("thumbnails", THUMBNAILS)
        self.images = rows("images", IMAGES)
        self.samples = rows(
            "manifest", SAMPLES, stage=self.stage, access=source.access, metadata_only=self.job.metadata_only
        )
        shards = job.target / "shards"
        self.writer: ShardWriter
        if source.modality == "text" or self.job.metadata_only or not self.source.store_pictures:
            self.writer = ArrowShardWriter(shards, self.stem, job.shard_bytes, self.job.metadata_only)
        else:
            self.writer = TarShardWriter(shards, self.stem, job.shard_bytes)
        self._ids: set[str] = set()
        self._pictures = pictures
        self._bytes = self._damaged = self._n_images = self._n_images_squared = self._with_prior = 0
        self._reasons: dict[str, int] = {}

    @property
    def rows(self) -> int:
        """Rows so far."""
        return self.samples.rows + self.rejects.rows

    @property
    def full(self) -> bool:
        """Whether the next row belongs to the next piece of a unit whose rows were not counted."""
        return not self.unit.counted and (self.rows >= ROWS_PER_UNIT or self._bytes >= BYTES_PER_UNIT)

    def reject(self, reject: Reject) -> None:
        """Record a row that became no sample."""
        damaged = reject.reason in DAMAGED_REASONS
        if reject.reason not in self.advice:
            raise BuildStopped(f"{self.source.name}: unknown reject reason {reject.reason!r}")
        self._damaged += damaged
        self._reasons[reject.reason] = self._reasons.get(reject.reason, 0) + 1
        self.rejects.append(
            {
                "file": reject.file,
                "row": safe(reject.row),
                "reason": reject.reason,
                "damaged": damaged,
                "detail": safe(reject.detail, DETAIL_CHARACTERS),
            }
        )

    def sample(self, sample: Sample, reads: Mapping[str, tuple[State, str]]) -> None:
        """Write a sample, or reject its row where a picture cannot be used or the id occurred before.

        `reads` has the digests of files that were read whole.
        """
        sample_id = f"{self.source.name}/{self.unit.split}/{sample.key}"
        allowed = self.job.params.get("licenses")
        try:
            if sample_id in self._ids:
                raise InputError("duplicate_id", sample.file, sample_id)
            if allowed is not None and (sample.license or self.source.license) not in allowed:
                raise InputError("license_not_allowed", sample.file, sample.license or self.source.license)
            pictures = [] if self.job.metadata_only else [self._picture(image, reads) for image in sample.images]
        except InputError as error:
            detail = f"{error.file}: {error.detail}" if error.file != sample.file else error.detail
            self.reject(Reject(sample.file, sample.row, error.reason, detail.rstrip(": ")))
            return
        record = self._record(sample_id, sample, pictures)
        try:
            json = canonical_json(record)
        except TypeError as error:
            if "surrogates" not in str(error):  # a source gave what is no text, number or list
                raise
            # Half a surrogate pair, as JSON may spell it, is no text.
            self.reject(Reject(sample.file, sample.row, "not_utf8"))
            return
        self._ids.add(sample_id)
        stem, stem_options = question_sha256(sample.question, [text for _, text in sample.options or ()])
        members = [(f"{i}.{picture.format}", picture.data) for i, picture in enumerate(pictures)]
        place = self.writer.add(sample_id, json, members if self.source.store_pictures else ())
        self._bytes += len(json)
        tiles = [tile_count(p.print.width, p.print.height, len(pictures)) for p in pictures]
        self.samples.append(
            {
                "sample_id": sample_id,
                "subset": sample.subset,
                "task": record["task"],
                "license": record["license"],
                "shard": place.shard,
                "offset": place.offset,
                "length": place.length,
                "sha256": hashlib.sha256(json).digest(),
                "n_images": len(sample.images),
                "tiles": None if self.job.metadata_only and sample.images else sum(tiles),
                "text_tokens": _count_text(record["messages"]),
                "stem_sha256": stem,
                "stem_options_sha256": stem_options,
                "caption_sha256": text_sha256(_target(record)) if record["task"] in _CAPTION_TASKS else None,
                **record["group"],
                "file": sample.file,
                "row": sample.row,
            }
        )
        for index, image in enumerate(sample.images):
            row = {"sample_id": sample_id, "index": index, "subset": sample.subset, **_named(image)}
            self.images.append(row | self._image_columns(place.shard, place.images, pictures, tiles, index))
            if pictures:
                self.thumbnails.append(row | {"thumbnail": pictures[index].print.thumbnail})
        count = len(sample.images)
        self._n_images += count
        self._n_images_squared += count * count
        self._with_prior += any(image.relation == "prior" for image in sample.images)

    def _image_columns(
        self, shard: str, places: tuple[tuple[int, int], ...], pictures: list[_Picture], tiles: list[int], index: int
    ) -> dict[str, Any]:
        if not pictures:
            return dict.fromkeys(IMAGES.names[IMAGES.get_field_index("shard") :])
        picture = pictures[index]
        return {
            "shard": shard if places else None,
            "offset": places[index][0] if places else None,
            "length": places[index][1] if places else None,
            "format": picture.format,
            "converted": picture.converted,
            "width": picture.print.width,
            "height": picture.print.height,
            "tiles": tiles[index],
            "sha256": picture.sha256,
            "stored_sha256": picture.stored_sha256,
            "pixel_sha256": picture.print.pixel_sha256,
            "phash": picture.print.phash,
        }

    def _record(self, sample_id: str, sample: Sample, pictures: list[_Picture]) -> dict[str, Any]:
        group = _NO_GROUP | sample.group
        if len(group) != len(GROUP_KEYS):
            raise BuildStopped(f"{self.source.name}: unknown group ids {sorted(group.keys() - set(GROUP_KEYS))}")
        images = [
            {"file": f"{i}.{pictures[i].format}" if pictures and self.source.store_pictures else None, **_named(image)}
            for i, image in enumerate(sample.images)
        ]
        options = None
        if sample.options is not None:
            options = [{"label": label, "text": text} for label, text in sample.options]
        return {
            "id": sample_id,
            "source": self.source.name,
            "role": self.unit.role,
            "split": self.unit.split,
            "subset": sample.subset,
            "stage": self.stage,
            "task": sample.task or self.source.task,
            "messages": sample.messages,
            "question": sample.question,
            "options": options,
            "answer": sample.answer,
            "images": images,
            "group": group,
            "license": sample.license or self.source.license,
            "access": self.source.access,
            "metadata_only": self.job.metadata_only,
            "provenance": {"file": sample.file, "row": sample.row},
        }

    def _picture(self, image: Image, reads: Mapping[str, tuple[State, str]]) -> _Picture:
        picture = self._pictures.get(image.file)
        if picture is None:
            picture = read_picture(image, reads, self.job.params.get("frames"))
            if not self.source.store_pictures:
                picture = replace(picture, data=b"")
            self._pictures[image.file] = picture
            if len(self._pictures) > (CACHED_PICTURES if self.source.store_pictures else CACHED_PRINTS):
                self._pictures.popitem(last=False)
        else:
            self._pictures.move_to_end(image.file)
        return picture

    @property
    def _parts(self) -> tuple[PartRows, ...]:
        """In the order in which they appear."""
        return self.rejects, self.thumbnails, self.images, self.samples

    def discard(self) -> None:
        """Drop the unfinished files."""
        self.writer.discard()
        for part in self._parts:
            part.discard()

    def finish(self) -> dict[str, Any]:
        """Write the parts that have rows, the manifest last; the unit's record as it stands in `build.json`."""
        shards = self.writer.close()
        written = []
        for part in self._parts:
            if part.write():  # `datasets` stops at a Parquet file without rows
                path, name = part.path, part.path.relative_to(self.job.target).as_posix()
                written.append({"file": name, "bytes": path.stat().st_size, "sha256": file_sha256(path).hex()})
        return {
            "unit": self.name,
            "role": self.unit.role,
            "split": self.unit.split,
            "read": self.rows,
            "kept": self.samples.rows,
            "rejected": self.rejects.rows,
            "damaged": self._damaged,
            "images": self._n_images,
            "images_squared": self._n_images_squared,
            "with_prior": self._with_prior,
            "reasons": dict(sorted(self._reasons.items())),
            "shards": [
                {"file": f"shards/{s.name}", "bytes": s.size, "sha256": s.sha256.hex(), "samples": s.samples}
                for s in shards
            ],
            "parts": sorted(written, key=lambda part: str(part["file"])),
        }


def _named(image: Image) -> dict[str, str | None]:
    """What a record and a manifest row say of an image by its names."""
    return {name: getattr(image, name) for name in ("image_id", "subject_id", "study_id", "view", "relation")}


def read_picture(image: Image, reads: Mapping[str, tuple[State, str]], frames: Frame | None) -> _Picture:
    """Read, check, pack again and fingerprint one picture file; every fault is an `InputError`."""
    data = image.read()
    try:
        stored = to_store(data, frames)
        prints = fingerprint(stored.data, stored.grey)
    except DamagedImage as error:
        raise InputError(error.reason, image.file, error.detail) from error
    read = reads.get(image.file)
    sha256 = bytes.fromhex(read[1]) if read else hashlib.sha256(data).digest()
    stored_sha256 = sha256 if stored.data is data else hashlib.sha256(stored.data).digest()
    return _Picture(stored.format, stored.data, image.sha256 or sha256, stored_sha256, stored.converted, prints)


def _count_text(messages: list[dict[str, Any]]) -> int:
    """Tokens of all text the model reads or writes; each piece is tokenised alone, as special tokens will part them."""
    tokens = 0
    for message in messages:
        if message["reasoning"]:
            tokens += count_tokens(message["reasoning"])
        for part in message["content"]:
            if part["type"] == "text":
                tokens += count_tokens(part["text"])
    return tokens


def _target(record: Mapping[str, Any]) -> str:
    """Text of the last message: the caption or report to be written."""
    return " ".join(part["text"] for part in record["messages"][-1]["content"] if part["type"] == "text")
