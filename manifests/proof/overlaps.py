"""Every overlap of the train side with the test side, level by level, as Parquet parts of evidence.

Id and exact levels are SQL (`joins/`). The near levels go through the train side one manifest part at a time,
in several processes, against an index of the whole test side; each part's result is a file named by the digest of all
that it depends on, so a proof that was killed, or is repeated after one more build, does only what is new.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from manifests.catalog import LoadedBuild, select
from manifests.parts import read_pictures, thumbnails_part
from manifests.proof.descriptors import Encoder, proposed
from manifests.proof.evidence import EVIDENCE
from manifests.proof.local_features import TEST_SIDE, Features, features, features_of_none, opencv
from manifests.proof.local_pictures import VERSION as LOCAL_PICTURES
from manifests.proof.local_pictures import LocalIndex
from manifests.proof.near_images import VERSION as NEAR_IMAGES
from manifests.proof.near_images import NearImageIndex
from manifests.proof.near_text import NearTextIndex
from manifests.proof.ngrams import word_list
from manifests.proof.policy import Policy, TextSettings
from manifests.proof.rewrites import VERSION as REWRITE
from manifests.proof.rewrites import Asked, RewriteIndex
from manifests.proof.stored_text import SampleText, read_texts
from manifests.proof.text_pairs import EvalText
from manifests.proof.variants import PictureError
from medgpt.atomic import AtomicFile, write_atomic
from medgpt.digest import file_sha256
from medgpt.engines import in_this_process, run_jobs
from medgpt.errors import UserError
from medgpt.private import make_folder

if TYPE_CHECKING:
    import duckdb

SHORT_TEXT, USUAL_TEXT = "short text", "words of many patients' reports"
"""Why texts without a question are not looked for."""
JOINS = Path(__file__).parent / "joins"
VECTORS = "vectors"
"""Folder of the work folder: vectors of texts that were seen before, of use to any later proof."""
SQL_LEVELS = ("id", "exact_image", "exact_text")

FOUND = pa.schema([column for column in EVIDENCE if column.name != "action"])
"""What the levels find, before the policy is asked."""

VERSIONS = {
    "policy": 2, "id": 1, "exact": 1, "near_image": NEAR_IMAGES, "local_pictures": LOCAL_PICTURES, "near_text": 4,
    "rewrite": REWRITE,
    "train_duplicates": 1,
}  # fmt: skip
"""Declared versions of what decides an overlap. Raise a number by hand when its evidence changes for the same builds:
proofs then do that level anew. `tests/pinned_evidence.json` holds the evidence of small builds, so a change of output
without a raised number is red. Hashes and normal forms have versions of their own: a build's `fingerprint_recipe`."""

_TEXTS_AT_ONCE = 4 << 20  # characters
_PICTURES_AT_ONCE = 32
_IMAGE_COLUMNS = ["sample_id", "index", "split", "shard", "offset", "length", "width", "height", "pixel_sha256"]
_IMAGE_COLUMNS += ["phash", "thumbnail"]
PICTURE = pa.schema(
    [("width", pa.int32()), ("height", pa.int32()), ("phash", pa.uint64()), ("thumbnail", pa.binary()),
     ("modality", pa.string())]
)  # fmt: skip
"""What `NearImageIndex` takes of a test picture."""


@dataclass
class Overlaps:
    """Where the evidence lies, and what was counted on the way."""

    files: list[Path] = field(default_factory=list)
    counts: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    """By level: candidates looked at, refuted and so on."""
    common: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Boilerplate n-gram -> (test items that have it, training samples that have it)."""
    left_out: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(test build, task, reason) -> test samples that are left out of near text."""


def sql_levels(connection: duckdb.DuckDBPyConnection, work: Path) -> list[Path]:
    """Run the id and exact joins on a catalogue connection; one Parquet file each under `work`."""
    files = []
    for level in SQL_LEVELS:
        query = (JOINS / f"{level}.sql").read_text(encoding="utf-8")
        path = work / f"{level}.parquet"
        reader = connection.sql(query).to_arrow_reader(65_536)
        with AtomicFile(path) as file, pq.ParquetWriter(file, FOUND, compression="zstd") as writer:
            for batch in reader:
                writer.write_table(_complete(pa.Table.from_batches([batch])))
        files.append(path)
    return files


def _complete(table: pa.Table) -> pa.Table:
    """Give a table all columns of `FOUND`, absent ones NULL."""
    names = table.column_names
    return pa.Table.from_arrays(
        [table[one.name].cast(one.type) if one.name in names else pa.nulls(len(table), one.type) for one in FOUND],
        schema=FOUND,
    )


@dataclass(frozen=True)
class _TrainPart:
    """One part of the train side. Picklable."""

    level: str
    folder: Path
    build: str
    access: str
    part: Path
    key: str
    rows: int


class _Side:
    """A level's test side in memory, and how a train part is held against it. Made once, inherited by the workers."""

    left_out: Mapping[tuple[str, str, str], int] = {}

    @staticmethod
    def declared() -> Any:
        """The versions that evidence depends on (`medgpt.engines.run_jobs`)."""
        return VERSIONS

    def prepare(self, tasks: Sequence[_TrainPart], work: Path, encoder: Encoder | None) -> None:
        """Do once, before the workers are forked, what each would do by itself, or could not do."""

    alone = False
    """Whether only one process may run."""

    def run(self, task: _TrainPart) -> tuple[pa.Table, Counter[str], dict[str, tuple[int, int]]]:
        """Evidence of one train part, counts, and boilerplate with (test items, train samples) that have it."""
        raise NotImplementedError


@dataclass(frozen=True)
class _TestEnd:
    """The columns of evidence that name a test sample or one of its pictures."""

    columns: Mapping[str, Any]
    access: str

    @classmethod
    def of(cls, build: LoadedBuild, split: str, subset: str | None, sample: str, index: int | None = None) -> _TestEnd:
        names = ("eval_build", "eval_split", "eval_subset", "eval_sample", "eval_index")
        values = (build.record["build"], split, subset, sample, index)
        return cls(dict(zip(names, values, strict=True)), build.record["source"]["access"])


Place = tuple[Path, int, int]
"""File, offset and length of a stored picture."""


class _PictureSide(_Side):
    """Every distinct test picture once, with the rows that show it."""

    level: str

    def __init__(self, builds: Sequence[LoadedBuild], policy: Policy, work: Path, workers: int) -> None:
        rows: dict[tuple[bytes, str], list[_TestEnd]] = defaultdict(list)
        kept: list[dict[str, Any]] = []
        self.places: list[Place | None] = []
        self.rows: list[list[_TestEnd]] = []
        for build in builds:
            modality = policy.modality(build.record["source"]["name"])
            for _, part in build.parts("images", "eval"):
                table = read_pictures(part, [*_IMAGE_COLUMNS, "subset", "relation"])
                for row in table.to_pylist():
                    if row["pixel_sha256"] is None or row["relation"] == "exemplar":
                        continue
                    key = row["pixel_sha256"], modality
                    if key not in rows:
                        self.rows.append(rows[key])
                        self.places.append(image_place(build.folder, row))
                        kept.append({**{name: row[name] for name in PICTURE.names[:-1]}, "modality": modality})
                    rows[key].append(_TestEnd.of(build, row["split"], row["subset"], row["sample_id"], row["index"]))
        self.make_index(kept, policy, work, workers)

    def make_index(self, kept: list[dict[str, Any]], policy: Policy, work: Path, workers: int) -> None:
        """Of the test pictures' rows, as `PICTURE` has them."""
        raise NotImplementedError

    def scan(
        self,
        task: _TrainPart,
        pictures: pa.Table,
        read_train: Callable[[int], bytes | None],
        read_test: Callable[[int], bytes | None],
    ) -> tuple[list[tuple[int, int, dict[str, Any]]], Counter[str]]:
        """(row of the training pictures, number of the test picture, columns of evidence) of each match; counts."""
        raise NotImplementedError

    def run(self, task: _TrainPart) -> tuple[pa.Table, Counter[str], dict[str, tuple[int, int]]]:
        table = read_pictures(task.part, _IMAGE_COLUMNS)
        without = table["pixel_sha256"].null_count
        table = table.filter(table["pixel_sha256"].is_valid())
        distinct, shown = _distinct(table)
        try:
            found, counts = self.scan(
                task,
                distinct,
                _reader(task.folder, distinct),
                lambda row: read_image(self.places[row]),
            )
        except PictureError as error:
            raise UserError(f"{task.part}: {error}") from error
        ends = {name.removesuffix("_id"): table[name].to_pylist() for name in ("sample_id", "index", "split")}
        evidence = [
            {
                "level": self.level,
                "train_build": task.build,
                **{f"train_{name}": rows[number] for name, rows in ends.items()},
                **row.columns,
                **measures,
            }
            for train, test, measures in found
            for number in shown[train]
            for row in self.rows[test]
        ]
        counts["train_pictures"] += len(table)
        counts["train_pictures_distinct_in_their_part"] += len(distinct)
        counts["train_pictures_without_pixels"] += without
        return pa.Table.from_pylist(evidence, FOUND), counts, {}


class _ImageSide(_PictureSide):
    """Test pictures as hashes of their variants."""

    level = "near_image"

    def make_index(self, kept: list[dict[str, Any]], policy: Policy, work: Path, workers: int) -> None:
        try:
            self.index = NearImageIndex(pa.Table.from_pylist(kept, PICTURE), policy.images)
        except PictureError as error:
            raise UserError(f"test side: {error}") from error

    def prepare(self, tasks: Sequence[_TrainPart], work: Path, encoder: Encoder | None) -> None:
        some = read_pictures(max(tasks, key=lambda task: task.rows).part, ["phash", "thumbnail"])
        self.index.prepare(some, sum(task.rows for task in tasks))

    def scan(
        self,
        task: _TrainPart,
        pictures: pa.Table,
        read_train: Callable[[int], bytes | None],
        read_test: Callable[[int], bytes | None],
    ) -> tuple[list[tuple[int, int, dict[str, Any]]], Counter[str]]:
        found = self.index.scan(pictures, read_train, read_test)
        names = ("kind", "distance", "variant", "score", "decided_on")
        matches = [(match.train, match.eval, {name: getattr(match, name) for name in names}) for match in found.pairs]
        return matches, Counter(found.counts)


class _LocalSide(_PictureSide):
    """Test pictures as local features of the stored files."""

    level = "local_pictures"

    @staticmethod
    def declared() -> Any:
        return [VERSIONS, opencv().__version__]

    def make_index(self, kept: list[dict[str, Any]], policy: Policy, work: Path, workers: int) -> None:
        self.settings = policy.local_pictures
        self.proposed: dict[str, list[tuple[int, int]]] = {}
        places = [(number, place) for number, place in enumerate(self.places) if place is not None]
        jobs = [places[start : start + _PICTURES_AT_ONCE] for start in range(0, len(places), _PICTURES_AT_ONCE)]
        none = features_of_none()
        found = dict.fromkeys(range(len(self.places)), none)
        if in_this_process(workers, len(jobs)):
            done: Iterable[dict[int, Features]] = map(_features_of, jobs)
        else:
            made = run_jobs(_features_of, jobs, workers, place=work, declared=self.declared)
            done = (some for _, some in made)
        for some in done:
            found.update(some)
        shapes = [(row["width"], row["height"]) for row in kept]
        self.index = LocalIndex([found[number] for number in range(len(found))], shapes)

    def prepare(self, tasks: Sequence[_TrainPart], work: Path, encoder: Encoder | None) -> None:
        """What an encoder proposes: here, since a GPU is not for forked processes; kept, part by part."""
        if encoder is None or self.settings.encoder is None:
            return
        test = encoder.vectors(map(read_image, self.places))
        for task in tasks:
            path = _file(work, task, "npy")
            if not path.exists():
                table = read_pictures(task.part, _IMAGE_COLUMNS)
                pictures, _ = _distinct(table.filter(table["pixel_sha256"].is_valid()))
                with AtomicFile(path) as file:
                    np.save(file, encoder.vectors(map(_reader(task.folder, pictures), range(len(pictures)))))
            found = proposed(np.load(path), test, self.settings.encoder.cosine)
            self.proposed[task.key] = [(row, one) for row, one, _ in found]

    def scan(
        self,
        task: _TrainPart,
        pictures: pa.Table,
        read_train: Callable[[int], bytes | None],
        read_test: Callable[[int], bytes | None],
    ) -> tuple[list[tuple[int, int, dict[str, Any]]], Counter[str]]:
        pairs = self.proposed.get(task.key, ())
        matches, counts = self.index.scan(len(pictures), read_train, read_test, self.settings, pairs)
        return [(match.train, match.test, match.columns) for match in matches], counts


def _distinct(table: pa.Table) -> tuple[pa.Table, list[list[int]]]:
    """Each distinct picture of a part once, and the rows that show it.

    A study's picture comes back as the next study's prior.
    """
    places: dict[bytes, list[int]] = defaultdict(list)
    for number, digest in enumerate(table["pixel_sha256"].to_pylist()):
        places[digest].append(number)
    shown = list(places.values())
    return table.take(pa.array([numbers[0] for numbers in shown], pa.int64())), shown


def _reader(folder: Path, pictures: pa.Table) -> Callable[[int], bytes | None]:
    return lambda row: read_image(image_place(folder, pictures.slice(row, 1).to_pylist()[0]))


def _features_of(places: Sequence[tuple[int, Place]]) -> dict[int, Features]:
    """Features of test pictures by their numbers."""
    return {number: features(read_image(place) or b"", TEST_SIDE) for number, place in places}


def image_place(folder: Path, row: Mapping[str, Any]) -> tuple[Path, int, int] | None:
    """Where the full picture lies; None where the build holds none (pictures of a corpus made elsewhere)."""
    return None if row["shard"] is None else (folder / "shards" / row["shard"], row["offset"], row["length"])


def read_image(place: tuple[Path, int, int] | None) -> bytes | None:
    """Bytes of a stored picture; None where there is no place. Raises: `UserError`."""
    if place is None:
        return None
    path, offset, length = place
    try:
        with path.open("rb", buffering=0) as file:
            data = os.pread(file.fileno(), length, offset)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; build it again") from error
    if len(data) != length:
        raise UserError(f"{path}: ends before byte {offset + length}; python -m shards.verify says more")
    return data


class _TextSide(_Side):
    """Every test item's text."""

    def __init__(self, builds: Sequence[LoadedBuild], policy: Policy, work: Path, workers: int) -> None:
        self.rows: list[_TestEnd] = []
        tasks: list[str] = []
        texts: list[EvalText] = []
        self.left_out: Counter[tuple[str, str, str]] = Counter()
        for build in builds:
            name = build.record["build"]
            # A corpus made elsewhere has no template of ours.
            template = name if build.record["parameters"].get("pictures_stored") is not False else ""
            for _, part in build.parts("samples", "eval"):
                for text in read_texts(build.folder, part):
                    if reason := left_out_of_near_text(text, policy.text):
                        self.left_out[name, text.task, reason] += 1
                        continue
                    self.rows.append(_TestEnd.of(build, text.split, text.subset, text.sample_id))
                    texts.append(eval_text(text, template, private=self.rows[-1].access == "credentialed"))
                    tasks.append(text.task)
        self.index = NearTextIndex(texts, policy.text)
        for number in self.index.usual:
            self.left_out[self.rows[number].columns["eval_build"], tasks[number], USUAL_TEXT] += 1

    def run(self, task: _TrainPart) -> tuple[pa.Table, Counter[str], dict[str, tuple[int, int]]]:
        samples: list[tuple[str, str]] = []
        together: list[str | None] = []

        def batches() -> Iterator[list[str]]:
            for batch in text_batches(read_texts(task.folder, task.part)):
                samples.extend((text.split, text.sample_id) for text in batch)
                together.extend(text.together for text in batch)
                yield [text.whole for text in batch]

        found = self.index.scan(batches(), together)
        evidence = []
        for match in found.matches:
            row = self.rows[match.eval]
            private = "credentialed" in (task.access, row.access)
            split, sample = samples[match.train]
            evidence.append(
                {
                    "level": "near_text",
                    "kind": match.kind,
                    "train_build": task.build,
                    "train_split": split,
                    "train_sample": sample,
                    **row.columns,
                    "score": match.score,
                    "words": match.words,
                    "span": None if private else match.span,
                    "eval_df": match.eval_df,
                }
            )
        return pa.Table.from_pylist(evidence, FOUND), Counter(found.counts), found.boilerplate


class _RewriteSide(_Side):
    """Every test item's question and answer, and their vectors."""

    def __init__(self, builds: Sequence[LoadedBuild], policy: Policy, work: Path, workers: int) -> None:
        from manifests.proof.encoders import Encoder

        assert policy.rewrites is not None
        self.rows: list[_TestEnd] = []
        items: list[Asked] = []
        for build in builds:
            for _, part in build.parts("samples", "eval"):
                for text in read_texts(build.folder, part):
                    if text.question and left_out_of_near_text(text, policy.text) is None:
                        items.append(Asked(text.question, text.answer))
                        self.rows.append(_TestEnd.of(build, text.split, text.subset, text.sample_id))
        encoders = [(Encoder(one.model), one.cosine) for one in policy.rewrites.models]
        self.alone = any(encoder.on_gpu for encoder, _ in encoders)
        make_folder(work / VECTORS)
        self.index = RewriteIndex(items, encoders, policy.rewrites, work / VECTORS)

    def run(self, task: _TrainPart) -> tuple[pa.Table, Counter[str], dict[str, tuple[int, int]]]:
        ends: list[tuple[str, str]] = []
        records: list[Asked] = []
        for text in read_texts(task.folder, task.part):
            ends.append((text.split, text.sample_id))
            records.append(Asked(text.question, text.answer))
        matches, counts = self.index.scan(records)
        evidence = [
            {
                "level": "rewrite", "kind": match.kind, "train_build": task.build, "train_split": ends[match.train][0],
                "train_sample": ends[match.train][1], **self.rows[match.eval].columns, "variant": match.model,
                "score": match.score, "words": match.words,
            }
            for match in matches
        ]  # fmt: skip
        return pa.Table.from_pylist(evidence, FOUND), counts, {}


OFF: dict[str, Any] = {"ran": False, "why": "left out by the policy", "models": []}


def rewrites_state(policy: Policy, *, left_out: bool = False) -> dict[str, Any]:
    """What a certificate says of the rewrite level: its models with their digests, or why it did not run.

    Raises: `UserError` where a model is there and cannot be used.
    """
    from manifests.proof.encoders import Encoder, missing

    if policy.rewrites is None:
        return dict(OFF)
    if left_out:
        return OFF | {"why": "left out by --no-rewrites"}
    lacking = [f"{one.model}: {why}" for one in policy.rewrites.models if (why := missing(one.model)) is not None]
    if lacking:
        return {"ran": False, "why": "; ".join(lacking), "models": []}
    encoders = [(Encoder(one.model), one.cosine) for one in policy.rewrites.models]
    models = [{"model": one.name, "sha256": one.sha256, "cosine": cosine} for one, cosine in encoders]
    return {"ran": True, "why": None, "models": models}


def left_out_of_near_text(text: SampleText, settings: TextSettings) -> str | None:
    """Why a test sample is left out of the near-text level; None where it is compared.

    Whole tasks, as the policy says; short questions about pictures, which say nothing without the picture; and texts
    without a question that have fewer words than are evidence.
    """
    if text.task in settings.leave_out_eval_tasks:
        return "task"
    if not text.question:
        longest = max((len(word_list(passage)) for passage in text.passages), default=0)
        return SHORT_TEXT if longest < settings.passage_words else None
    if text.n_images and len(word_list(text.item)) < settings.picture_items_min_words:
        return "short question about a picture"
    return None


def eval_text(text: SampleText, template: str = "", *, private: bool = False) -> EvalText:
    """What of a test sample is looked for.

    `template`: name of the build, where our builders' wording stands around the question in the user's message.
    `private`: its words must not be shown.
    """
    if text.question:
        return EvalText(text.question, text.answer, text.passages, template, private=private)
    return EvalText("", "", text.passages, template, text.together or "", private)


def text_batches(texts: Iterator[SampleText]) -> Iterator[list[SampleText]]:
    """Cut texts into lists of a few million characters."""
    batch: list[SampleText] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text.dialogue)
        if size >= _TEXTS_AT_ONCE:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


_SIDES: dict[str, tuple[Callable[[Sequence[LoadedBuild], Policy, Path, int], _Side], str]] = {
    "near_image": (_ImageSide, "images"),
    "local_pictures": (_LocalSide, "images"),
    "near_text": (_TextSide, "samples"),
    "rewrite": (_RewriteSide, "samples"),
}
_started: tuple[_Side, Path] | None = None  # of this worker process


def near_level(
    level: str,
    builds: Sequence[LoadedBuild],
    policy: Policy,
    work: Path,
    workers: int,
    progress: Callable[[int], None],
    overlaps: Overlaps,
    depends_on: Any = None,
    encoder: Encoder | None = None,
) -> None:
    """Hold every train part of all builds against the whole test side at one near level; adds to `overlaps`.

    `progress` is called with numbers of train samples or images done. `depends_on`: what else the evidence follows
    from, as plain values. `encoder`: that of `local_pictures`, where the policy has one. Raises: `UserError`.
    """
    make, kind = _SIDES[level]
    base: list[Any] = [level, VERSIONS, _settings(level, policy)]
    base += [] if depends_on is None else [depends_on]
    evals = [one.record for one in builds if any(unit["role"] == "eval" for unit in one.record["units"])]
    base.append(sorted((record["build"], record["root"]) for record in evals))
    tasks: list[_TrainPart] = []
    done: list[_TrainPart] = []
    for build in builds:
        if level == "local_pictures" and not policy.compares_local(build.record):
            continue
        for unit, part in build.parts(kind, "train"):
            rows = unit["images"] if kind == "images" else unit["kept"]
            if not rows:
                continue
            name, access = build.record["build"], build.record["source"]["access"]
            files = [part, thumbnails_part(part)] if kind == "images" else [part]
            digests = [file_sha256(file).hex() for file in files if file.is_file()]
            content = [*base, name, access, digests, [shard["sha256"] for shard in unit["shards"]]]
            key = hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
            task = _TrainPart(level, build.folder, name, access, part, key, rows)
            (done if _file(work, task, "json").exists() else tasks).append(task)
    for task in done:
        progress(task.rows)
    if tasks or level == "near_text":
        side = make(builds, policy, work, workers)
        overlaps.left_out.update(side.left_out)
        if tasks:
            side.prepare(tasks, work, encoder)
        for task in _run(side, tasks, work, 1 if side.alone else workers):
            progress(task.rows)
    for task in [*done, *tasks]:
        stored = orjson.loads(_file(work, task, "json").read_bytes())
        overlaps.files.append(_file(work, task, "parquet"))
        overlaps.counts[level].update(stored["counts"])
        for gram, (eval_df, hits) in stored["common"].items():
            overlaps.common[gram] = eval_df, overlaps.common.get(gram, (0, 0))[1] + hits


def local_coverage(
    connection: duckdb.DuckDBPyConnection, builds: Sequence[LoadedBuild], policy: Policy
) -> dict[str, Any]:
    """What the certificate says of the level `local_pictures`.

    The version of OpenCV, None where the level is off; of each build and side the pictures that were compared, that are
    not stored, and that the policy leaves out.
    """
    named = {build.record["build"] for build in builds if policy.compares_local(build.record)}
    rows = select(
        connection,
        """SELECT build, role, count(*) AS pictures, count(shard) AS stored FROM images
           WHERE pixel_sha256 IS NOT NULL AND (role = 'train' OR relation IS DISTINCT FROM 'exemplar')
           GROUP BY ALL ORDER BY ALL""",
    )
    on = any(row["role"] == "train" and row["build"] in named for row in rows)
    return {
        "opencv": opencv().__version__ if on else None,
        "pictures": [
            local_row(row["build"], row["role"], row["pictures"], row["stored"], row["build"] in named, on)
            for row in rows
        ],
    }


def local_row(build: str, role: str, pictures: int, stored: int, named: bool, on: bool) -> dict[str, Any]:
    """One build and side of `local_coverage`; the whole test side is compared where any training picture is."""
    asked = on and (role == "eval" or named)
    states = {"compared": stored, "not_stored": pictures - stored, "left_out": 0}
    return {"build": build, "role": role, **(states if asked else dict.fromkeys(states, 0) | {"left_out": pictures})}


def _settings(level: str, policy: Policy) -> Any:
    """What of the policy a level's evidence depends on."""
    if level == "local_pictures":
        content = policy.content["local_pictures"]
        # Another source switched on is no reason to compare the others again; another OpenCV may find other features.
        version = opencv().__version__ if policy.local_pictures.train else None
        return [version, {name: value for name, value in content.items() if name != "train"}]
    names = {"near_image": ("images",), "near_text": ("text",), "rewrite": ("text", "rewrites")}[level]
    return [policy.content[name] for name in names]


def _file(work: Path, task: _TrainPart, kind: str) -> Path:
    return work / f"{task.level}-{task.key}.{kind}"


def _run(side: _Side, tasks: Sequence[_TrainPart], work: Path, workers: int) -> Iterator[_TrainPart]:
    if in_this_process(workers, len(tasks)):
        for task in tasks:
            _do(side, task, work)
            yield task
        return
    # Forked workers share the index; where there is no fork it is sent to each.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    for task, _ in run_jobs(
        _do_in_worker, tasks, workers, place=work, prepare=_start, arguments=(side, work), declared=side.declared,
        method=method,
    ):  # fmt: skip
        yield task


def _start(side: _Side, work: Path) -> None:
    global _started
    _started = (side, work)


def _do_in_worker(task: _TrainPart) -> None:
    assert _started is not None
    _do(_started[0], task, _started[1])


def _do(side: _Side, task: _TrainPart, work: Path) -> None:
    table, counts, common = side.run(task)
    with AtomicFile(_file(work, task, "parquet")) as file:
        pq.write_table(table, file, compression="zstd")
    # The counts last: where they are, the part is done.
    write_atomic(
        _file(work, task, "json"), orjson.dumps({"counts": counts, "common": common}, option=orjson.OPT_SORT_KEYS)
    )
