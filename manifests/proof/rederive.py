"""The evidence of a proof, derived a second time by other means: for `manifests.verify`.

Plain on purpose. Ids and digests meet in dictionaries, not in SQL; perceptual hashes are looked up one by one in lists
by a quarter of their bits, not joined through bands and products; texts are tuples of words in sets and dictionaries,
not hashes in arrays. What is shared with `manifests.prove` are definitions that would mean nothing if they differed:
the perceptual hash (`fingerprints`), the variants and regions of a picture (`variants`), the agreement of two pictures
(`agreement`, here asked for one pair at a time) and the policy.

Rows of evidence are tuples in the order of `FOUND`.
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
import math
import os
import re
import tarfile
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from manifests.catalog import LoadedBuild, part_kind
from manifests.fingerprints import ImageFingerprint, fingerprint, perceptual_hash
from manifests.parts import IMAGES, read_pictures
from manifests.proof.agreement import agreement, cells, flat, full_agreement
from manifests.proof.evidence import EVIDENCE
from manifests.proof.policy import ImageSettings, Policy, TextSettings
from manifests.proof.spill import Spill
from manifests.proof.variants import IDENTITY, REGIONS, VARIANTS, decode, region_hashes
from medgpt.errors import UserError
from medgpt.groups import GROUP_KEYS
from medgpt.schema import SAMPLE, canonical_json
from medgpt.text import count_tokens
from medgpt.tiles import tile_count

_Thing = TypeVar("_Thing", bound=Hashable)
Found = tuple[Any, ...]
Progress = Callable[[int], None]
Key = tuple[str, str]
"""Build and sample id."""
Place = tuple[str, str, int]
"""Build, sample id and number of the picture."""

FOUND = tuple(name for name in EVIDENCE.names if name != "action")
BLOCK = tarfile.BLOCKSIZE
_RARE_SCORE = 1e-6
"""Sums of products in any order are off by far less; what they leave is added up again exactly."""
_SCORED = 1e-9
"""How far below a threshold `manifests.proof.near_text` counts a pair as scored."""
_PICTURES_KEPT = 1 << 14
_PRINTS_KEPT = 1 << 10


def found(**values: Any) -> Found:
    """A row of evidence; columns that are not given are NULL."""
    return tuple(values.get(name) for name in FOUND)


# ---- samples of a build


def chosen_samples(builds: Sequence[LoadedBuild], number: int, salt: str) -> set[Key]:
    """Of each build and role the `number` samples with the smallest SHA-256 of salt and id, and as many with pictures.

    The salt is the verifier's own: whoever made the proof can neither know nor choose what is looked at.
    """
    chosen: set[Key] = set()
    for build in builds:
        for role in ("train", "eval"):
            for kind in ("samples", "images"):
                ids = (
                    sample
                    for _, part in build.parts(kind, role)
                    for sample in set(pq.read_table(part, columns=["sample_id"])["sample_id"].to_pylist())
                )
                smallest = heapq.nsmallest(
                    number, ids, key=lambda sample: hashlib.sha256(f"{salt}/{sample}".encode()).digest()
                )
                chosen |= {(build.record["build"], sample) for sample in smallest}
    return chosen


class Shards:
    """Records and pictures of one build, read where its manifest says they are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tar: tuple[str, int] | None = None
        self._arrow: tuple[str, Any, list[int]] | None = None
        self._batch: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __enter__(self) -> Shards:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._tar:
            os.close(self._tar[1])

    def record(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
        """A sample and its canonical JSON. Raises: `UserError`, `OSError`."""
        if row["shard"].endswith(".arrow"):
            record = self._arrow_row(row["shard"], row["offset"])
            return record, canonical_json(record)
        data = self.member(row["shard"], f"{row['sample_id']}.json", row["offset"], row["length"])
        try:
            record = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise UserError(f"shards/{row['shard']}: no JSON at byte {row['offset']} ({error})") from error
        if not isinstance(record, dict) or list(record) != SAMPLE.names:
            raise UserError(f"shards/{row['shard']}: no sample at byte {row['offset']}")
        return record, data

    def member(self, shard: str, name: str, offset: int, length: int) -> bytes:
        """Content of a tar member, after a look at its header. Raises: `UserError`, `OSError`."""
        if self._tar is None or self._tar[0] != shard:
            if self._tar:
                os.close(self._tar[1])
                self._tar = None
            self._tar = shard, os.open(self.folder / "shards" / shard, os.O_RDONLY)
        data = os.pread(self._tar[1], BLOCK + length, offset - BLOCK)
        try:
            header = tarfile.TarInfo.frombuf(data[:BLOCK], "utf-8", "strict")
        except tarfile.HeaderError as error:
            raise UserError(f"shards/{shard}: no member at byte {offset} ({error})") from error
        if (header.name, header.size) != (name, length) or len(data) != BLOCK + length:
            raise UserError(
                f"shards/{shard}: at byte {offset} lies {header.name} of {header.size} bytes, not {name} of {length}"
            )
        return data[BLOCK:]

    def picture(self, row: Mapping[str, Any]) -> bytes | None:
        """The stored file of a picture; None where the build keeps none. Raises: `UserError`, `OSError`."""
        if row["shard"] is None:
            return None
        name = f"{row['sample_id']}.{row['index']}.{row['format']}"
        return self.member(row["shard"], name, row["offset"], row["length"])

    def rows_in(self, shard: str) -> int:
        """Rows of an Arrow shard."""
        return self._opened(shard)[1][-1]

    def _opened(self, shard: str) -> tuple[Any, list[int]]:
        if self._arrow is None or self._arrow[0] != shard:
            file = pa.ipc.open_file(pa.memory_map(str(self.folder / "shards" / shard)))
            if file.schema.names != SAMPLE.names:
                raise UserError(f"shards/{shard}: its columns are not those of a sample")
            ends = [0]
            for number in range(file.num_record_batches):
                ends.append(ends[-1] + file.get_batch(number).num_rows)
            self._arrow, self._batch = (shard, file, ends), (-1, [])
        return self._arrow[1], self._arrow[2]

    def _arrow_row(self, shard: str, row: int) -> dict[str, Any]:
        file, ends = self._opened(shard)
        if not 0 <= row < ends[-1]:
            raise UserError(f"shards/{shard}: no row {row} among {ends[-1]}")
        number = int(np.searchsorted(ends, row, side="right")) - 1
        if self._batch[0] != number:
            batch = file.get_batch(number)
            batch.validate(full=True)  # altered offsets may point anywhere
            self._batch = number, batch.to_pylist()
        return self._batch[1][row - ends[number]]


# ---- the manifest against the shards


@dataclass
class Stored:
    """What was read again."""

    samples: int = 0
    pictures: int = 0
    not_stored: int = 0
    """Pictures that the build does not keep."""
    prints: dict[bytes, ImageFingerprint] = field(default_factory=dict)
    """Made of files not long ago, by their digest."""
    named: Callable[[Mapping[str, Any]], None] = lambda row: None
    """Called with every sample's row."""


Fault = tuple[str, str]
"""Where, and what is wrong."""


def stored_faults(build: LoadedBuild, chosen: set[Key] | None, read: Stored, progress: Progress) -> Iterator[Fault]:
    """What of a build's manifest does not follow from its shards, for the chosen samples, all without a choice.

    Everything is made again from the stored bytes but `sha256` of a picture: that is the digest of the publisher's
    file, metadata included, which shards do not hold. Places of members are checked for all samples.
    """
    with Shards(build.folder) as shards:
        for unit in build.record["units"]:
            parts = {part_kind(file["file"]): build.folder / file["file"] for file in unit["parts"]}
            part = f"{build.folder.name}/manifest/{build.record['source']['name']}-{unit['unit']}.parquet"
            pictures: dict[str, list[dict[str, Any]]] = defaultdict(list)
            if "images" in parts:
                for row in read_pictures(parts["images"], [*IMAGES.names, "thumbnail"]).to_pylist():
                    pictures[row["sample_id"]].append(row)
            places: dict[str, list[tuple[int, int]]] = defaultdict(list)
            for batch in pq.ParquetFile(parts["samples"]).iter_batches() if "samples" in parts else ():
                for row in batch.to_pylist():
                    where = f"{part}: {row['sample_id']}"
                    mine = pictures.pop(row["sample_id"], [])
                    read.named(row)
                    places[row["shard"]].append((row["offset"], row["length"]))
                    for one in mine:
                        if one["shard"] is not None:
                            places[one["shard"]].append((one["offset"], one["length"]))
                    if chosen is None or (row["build"], row["sample_id"]) in chosen:
                        yield from _sample_faults(build, shards, row, mine, where, read)
                progress(len(batch))
            for sample in pictures:
                yield f"{part}: {sample}", "a picture of no sample"
            sizes = {file["file"].removeprefix("shards/"): file["bytes"] for file in unit["shards"]}
            for name in sorted({*sizes, *places}):
                if name not in sizes:
                    yield part, f"names shards/{name}, which the unit has not"
                elif fault := _place_fault(shards, name, sorted(places[name]), sizes[name]):
                    yield f"{build.folder.name}/shards/{name}", fault


def _place_fault(shards: Shards, name: str, places: list[tuple[int, int]], size: int) -> str | None:
    """Why the members that the manifest names are not all that the shard holds, each once."""
    if name.endswith(".arrow"):
        rows = shards.rows_in(name)
        if [offset for offset, _ in places] != list(range(rows)):
            return f"holds {rows} rows, of which the manifest does not name each once"
        return None
    end = 0
    for offset, length in places:
        if offset != end + BLOCK:
            return f"bytes {end} to {offset - BLOCK} are no member that the manifest names"
        end = offset + -(-length // BLOCK) * BLOCK
    closed = -(-(end + 2 * BLOCK) // tarfile.RECORDSIZE) * tarfile.RECORDSIZE
    return None if size == closed else f"{size} bytes, where its members make {closed}"


def _sample_faults(
    build: LoadedBuild,
    shards: Shards,
    row: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any]],
    where: str,
    read: Stored,
) -> Iterator[Fault]:
    try:
        record, data = shards.record(row)
    except UserError as error:
        yield where, str(error)
        return
    read.samples += 1
    elsewhere = build.record["parameters"].get("pictures_stored") is False
    caption_tasks = ("caption", "text") if elsewhere else ("caption", "report")
    last = message_text(record["messages"][-1], " ")
    expected = {
        "sample_id": record["id"], **{name: record[name] for name in ("source", "role", "split", "subset", "stage")},
        **{name: record[name] for name in ("task", "license", "access", "metadata_only")}, "length": len(data),
        "sha256": hashlib.sha256(data).digest(), "n_images": len(record["images"]), **_digests(record),
        "text_tokens": _tokens(record, elsewhere),
        "caption_sha256": _sha256(last) if record["task"] in caption_tasks else None,
        **{key: record["group"][key] for key in GROUP_KEYS}, **record["provenance"],
    }  # fmt: skip
    tiles = [tile_count(one["width"], one["height"], len(pictures)) for one in pictures if one["width"] is not None]
    expected["tiles"] = sum(tiles) if len(tiles) == len(pictures) else None
    yield from _differences(where, row, expected)
    if record["access"] != build.record["source"]["access"]:
        yield where, f"access is {record['access']}, of the build {build.record['source']['access']}"
    if [one["index"] for one in pictures] != list(range(len(record["images"]))):
        yield where, f"{len(pictures)} pictures in the manifest, {len(record['images'])} in the shard"
        return
    for one, said in zip(pictures, record["images"], strict=True):
        at = f"{where}, picture {one['index']}"
        yield from _picture_faults(shards, one, said, len(pictures), elsewhere, at, read)


def _picture_faults(
    shards: Shards,
    row: Mapping[str, Any],
    said: Mapping[str, Any],
    together: int,
    elsewhere: bool,
    where: str,
    read: Stored,
) -> Iterator[Fault]:
    expected = {name: said[name] for name in ("image_id", "subject_id", "study_id", "view", "relation")}
    yield from _differences(where, row, expected)
    if said["file"] is None:
        read.not_stored += 1
        # Pictures of a corpus made elsewhere were seen when it was read in; of a metadata-only build never.
        pixels = [*IMAGES.names[IMAGES.names.index("shard") :], "thumbnail"]
        unknown = ("shard", "offset", "length") if elsewhere else pixels
        yield from _differences(where, row, dict.fromkeys(unknown))
        return
    if said["file"] != f"{row['index']}.{row['format']}":
        yield where, f"format {row['format']}, of the file {said['file']}"
        return
    try:
        data = shards.picture(row)
        if data is None:
            yield where, "names no shard, though its sample has the file"
            return
        digest = hashlib.sha256(data).digest()
        if digest not in read.prints:
            if len(read.prints) >= _PRINTS_KEPT:
                read.prints.clear()
            read.prints[digest] = fingerprint(data)
    except UserError as error:
        yield where, str(error)
        return
    read.pictures += 1
    made = read.prints[digest]
    names = ("width", "height", "pixel_sha256", "phash", "thumbnail")
    made_again = {"stored_sha256": digest, "length": len(data), **{name: getattr(made, name) for name in names}}
    made_again["tiles"] = tile_count(made.width, made.height, together)
    yield from _differences(where, row, made_again)


def _differences(where: str, row: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[Fault]:
    for name, value in expected.items():
        if row[name] != value:
            yield where, f"{name} is {_short(row[name])}, from the shard follows {_short(value)}"


def _short(value: Any) -> str:
    text = value.hex() if isinstance(value, bytes) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _tokens(record: Mapping[str, Any], elsewhere: bool) -> int:
    """Tokens of all text. A corpus made elsewhere is counted by message, our own builds by part of a message."""
    pieces = [message["reasoning"] for message in record["messages"]]
    for message in record["messages"]:
        texts = [part["text"] for part in message["content"] if part["type"] == "text"]
        pieces += ["\n".join(texts)] if elsewhere else texts
    return sum(count_tokens(piece) for piece in pieces if piece)


def _digests(record: Mapping[str, Any]) -> dict[str, bytes | None]:
    stem = normalised(record["question"] or "")
    whole = "\x00".join([stem, *sorted(normalised(option["text"]) for option in record["options"] or [])])
    return {
        "stem_sha256": _sha256(stem),
        "stem_options_sha256": hashlib.sha256(whole.encode()).digest() if stem else None,
    }


def _sha256(text: str) -> bytes | None:
    words = normalised(text)
    return hashlib.sha256(words.encode()).digest() if words else None


# ---- ids and digests


def id_and_exact(builds: Sequence[LoadedBuild], progress: Progress) -> Iterator[Found]:
    """Evidence of the levels id, exact_image and exact_text, in no order; a row may come more than once."""
    tests: dict[tuple[str, str, Any], dict[tuple[Any, ...], None]] = defaultdict(dict)
    for build in builds:
        for end, keys in _ends(build, "eval", progress):
            for key in keys:
                tests[key][end] = None
    for build in builds:
        for (split, _, sample, index), keys in _ends(build, "train", progress):
            for key in keys:
                if key not in tests:
                    continue
                level, kind, value = key
                for name, eval_split, eval_subset, eval_sample, eval_index in tests[key]:
                    yield found(
                        level=level, kind=kind, train_build=build.record["build"], train_split=split,
                        train_sample=sample, train_index=index, eval_build=name, eval_split=eval_split,
                        eval_subset=eval_subset, eval_sample=eval_sample, eval_index=eval_index,
                        value=value.hex() if isinstance(value, bytes) else value,
                    )  # fmt: skip


def _ends(
    build: LoadedBuild, role: str, progress: Progress
) -> Iterator[tuple[tuple[Any, ...], list[tuple[str, str, Any]]]]:
    """One end of possible pairs and all keys by which it may meet another. Test ends start with their build."""
    head = (build.record["build"],) if role == "eval" else ()
    for _, part in build.parts("samples", role):
        columns = ["split", "subset", "sample_id", "n_images", "stem_sha256", "stem_options_sha256", "caption_sha256"]
        for batch in pq.ParquetFile(part).iter_batches(columns=[*columns, *GROUP_KEYS]):
            for row in batch.to_pylist():
                keys = [("id", "study_id" if key == "prior_study_id" else key, row[key]) for key in GROUP_KEYS]
                keys.append(("exact_text", "caption", row["caption_sha256"]))
                if not row["n_images"]:
                    keys.append(("exact_text", "stem", row["stem_sha256"]))
                    keys.append(("exact_text", "stem_options", row["stem_options_sha256"]))
                end = (*head, row["split"], row["subset"], row["sample_id"], None)
                yield end, [key for key in keys if key[2] is not None]
            progress(len(batch))
    for _, part in build.parts("images", role):
        columns = ["split", "subset", "sample_id", "index", "relation", "image_id", "study_id", "subject_id", "sha256"]
        for batch in pq.ParquetFile(part).iter_batches(columns=[*columns, "pixel_sha256"]):
            for row in batch.to_pylist():
                if row["relation"] == "exemplar":
                    continue
                place = (*head, row["split"], row["subset"], row["sample_id"])
                ids = [("id", name, row[name]) for name in ("image_id", "study_id", "subject_id")]
                yield (*place, None), [key for key in ids if key[2] is not None]
                digests = [("exact_image", "bytes", row["sha256"]), ("exact_image", "pixels", row["pixel_sha256"])]
                yield (*place, row["index"]), [key for key in digests if key[2] is not None]
            progress(len(batch))


# ---- near pictures


@dataclass
class Derived:
    """Evidence of a near level, and what was counted on the way."""

    keep: Callable[[Found], None]
    """Takes each row of evidence."""
    counts: Counter[str] = field(default_factory=Counter)
    common: dict[str, tuple[int, int]] = field(default_factory=dict)
    """As in `overlaps.Overlaps`; of n-grams that no training sample looked at has, too, with 0."""
    left_out: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    looked_at: int = 0
    """Training pictures or samples."""


_PICTURE_COLUMNS = [
    "sample_id", "index", "split", "subset", "relation", "shard", "offset", "length", "format", "width", "height",
    "pixel_sha256", "phash", "thumbnail",
]  # fmt: skip


@dataclass
class _TestPicture:
    row: dict[str, Any]
    build: LoadedBuild
    settings: ImageSettings
    thumbnail: NDArray[np.uint8]
    shown: list[dict[str, Any]]


class HashIndex:
    """Finds all hashes within a radius, some 1.4 million of them in a fraction of a millisecond.

    Of 64 bits that differ in at most `radius` places one quarter differs in at most `radius // 4`. So for every quarter
    the hashes are listed by its value, and a search looks under each value that is so near.
    """

    def __init__(self, hashes: NDArray[np.uint64], radius: int) -> None:
        self.hashes, self.radius = hashes, radius
        values = np.arange(1 << 16, dtype=np.uint16)
        self._near = values[np.bitwise_count(values) <= radius // 4].astype(np.int64)
        self._lists = []
        for shift in range(0, 64, 16):
            quarter = (hashes >> np.uint64(shift)).astype(np.uint16)
            order = np.argsort(quarter, kind="stable")
            starts = np.searchsorted(quarter[order], np.arange((1 << 16) + 1))
            self._lists.append((shift, order.astype(np.int32), starts))

    def near(self, value: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Numbers of the hashes within the radius, ascending, with their distances."""
        found = []
        for shift, order, starts in self._lists:
            quarters = self._near ^ (value >> shift & 0xFFFF)
            first, counts = starts[quarters], starts[quarters + 1] - starts[quarters]
            places = np.arange(int(counts.sum())) + np.repeat(first - (np.cumsum(counts) - counts), counts)
            found.append(order[places])
        numbers = np.concatenate(found)
        distance = np.bitwise_count(self.hashes[numbers] ^ np.uint64(value))
        numbers = np.unique(numbers[distance <= self.radius])
        return numbers, np.bitwise_count(self.hashes[numbers] ^ np.uint64(value)).astype(np.int64)


class _TestPictures:
    """Every distinct test picture, the hashes of all its variants and regions in flat lists."""

    def __init__(self, builds: Sequence[LoadedBuild], policy: Policy, progress: Progress) -> None:
        self.pictures: list[_TestPicture] = []
        known: dict[tuple[bytes, str], list[dict[str, Any]]] = {}
        for build in builds:
            modality = policy.modality(build.record["source"]["name"])
            for _, part in build.parts("images", "eval"):
                for row in read_pictures(part, _PICTURE_COLUMNS).to_pylist():
                    progress(1)
                    if row["pixel_sha256"] is None or row["relation"] == "exemplar":
                        continue
                    shown = known.setdefault((row["pixel_sha256"], modality), [])
                    if not shown and row["phash"] is not None and row["thumbnail"] is not None:
                        thumbnail = decode(row["thumbnail"])
                        if not flat(thumbnail[None])[0]:
                            settings = policy.images[modality]
                            self.pictures.append(_TestPicture(row, build, settings, thumbnail, shown))
                    shown.append(
                        {"eval_build": build.record["build"], "eval_split": row["split"], "eval_subset": row["subset"],
                         "eval_sample": row["sample_id"], "eval_index": row["index"]}
                    )  # fmt: skip
        self._hash()
        self.least = min([1.0, *(one.settings.borderline for one in self.pictures)])
        self._cells: dict[tuple[int, int], tuple[NDArray[np.int64], int]] = {}

    def _hash(self) -> None:
        hashes: list[int] = []
        owner: list[int] = []
        variant: list[int] = []
        for number, picture in enumerate(self.pictures):
            for kind in range(len(VARIANTS)):
                varied = self.varied(number, kind)
                if varied is None or flat(varied[None])[0]:
                    continue
                # The picture itself: from its pixels, not from its thumbnail.
                hashes.append(perceptual_hash(Image.fromarray(varied)) if kind else picture.row["phash"])
                owner.append(number)
                variant.append(kind)
        self.hashes = np.array(hashes, np.uint64)
        self.owner, self.variant = np.array(owner, np.int64), np.array(variant, np.int64)
        self.radius = np.array([self.pictures[one].settings.radius for one in owner], np.int64)
        count = len(self.pictures)
        self.regions, self.contrast = np.zeros((count, len(REGIONS)), np.uint64), np.zeros((count, len(REGIONS)), bool)
        for number, picture in enumerate(self.pictures):
            [self.regions[number]], [self.contrast[number]] = region_hashes(picture.thumbnail[None])
        self.region_radius = np.array([one.settings.region_radius for one in self.pictures], np.int64)
        widest, wide = (int(each.max(initial=0)) for each in (self.radius, self.region_radius))
        self.index = HashIndex(self.hashes, widest)
        self.region_index = [HashIndex(self.regions[:, region], wide) for region in range(len(REGIONS))]

    def varied(self, number: int, kind: int) -> NDArray[np.uint8] | None:
        """A variant of a test picture."""
        one = self.pictures[number]
        return VARIANTS[kind].picture(one.thumbnail, one.row["width"], one.row["height"])

    def candidates(self, phash: int, thumbnail: NDArray[np.uint8]) -> dict[int, tuple[float, int, bool, int]]:
        """Test pictures that a hash shows: (cell correlation, variant, by region, distance) of the best variant."""
        near: dict[tuple[int, int, bool], int] = {}
        numbers, distance = self.index.near(phash)
        for place in np.flatnonzero(distance <= self.radius[numbers]).tolist():
            at = numbers[place]
            near[int(self.owner[at]), int(self.variant[at]), False] = int(distance[place])
        [regions], [contrast] = region_hashes(thumbnail[None])
        for region in np.flatnonzero(contrast).tolist():
            numbers, distance = self.region_index[region].near(int(regions[region]))
            for place in np.flatnonzero(distance <= self.region_radius[numbers]).tolist():
                one = int(numbers[place])
                if self.contrast[one, region]:
                    near[one, 0, True] = min(near.get((one, 0, True), 64), int(distance[place]))
        ours = _cells(thumbnail)
        best: dict[int, tuple[float, int, bool, int]] = {}
        for (one, kind, by_region), bits in near.items():
            found_so = (-_correlation(ours, self.cells(one, kind)), kind, by_region, bits)
            best[one] = min(best.get(one, found_so), found_so)
        return {one: (-minus, kind, by_region, bits) for one, (minus, kind, by_region, bits) in best.items()}

    def cells(self, number: int, kind: int) -> tuple[NDArray[np.int64], int]:
        """Cells of a variant and their sum of squares."""
        kept = self._cells.get((number, kind))
        if kept is None:
            varied = self.varied(number, kind)
            assert varied is not None  # only variants that have a hash are asked for, and the picture itself
            if len(self._cells) >= _PICTURES_KEPT:
                self._cells.clear()
            kept = self._cells[number, kind] = _cells(varied)
        return kept


def _cells(picture: NDArray[np.uint8]) -> tuple[NDArray[np.int64], int]:
    values = cells(picture[None]).values[0].astype(np.int64)
    return values, int(values @ values)


def _correlation(one: tuple[NDArray[np.int64], int], other: tuple[NDArray[np.int64], int]) -> float:
    return float(int(one[0] @ other[0]) / math.sqrt(max(one[1] * other[1], 1)))


def near_images(
    builds: Sequence[LoadedBuild],
    policy: Policy,
    chosen: set[Key] | None,
    progress: Progress,
    keep: Callable[[Found], None],
) -> Derived:
    """Evidence of the level near_image for the chosen training samples, all without a choice; `keep` takes its rows.

    Raises: `UserError`, `OSError`.
    """
    derived = Derived(keep)
    tests = _TestPictures(builds, policy, progress)
    for build in builds:
        name = build.record["build"]
        for _, part in build.parts("images", "train"):
            # Of equal pictures in one part the first speaks for all.
            first: dict[bytes, dict[str, Any]] = {}
            shown: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
            for row in read_pictures(part, _PICTURE_COLUMNS).to_pylist():
                progress(1)
                if row["pixel_sha256"] is None:
                    derived.counts["train_pictures_without_pixels"] += 1
                    continue
                derived.counts["train_pictures"] += 1
                first.setdefault(row["pixel_sha256"], row)
                if chosen is None or (name, row["sample_id"]) in chosen:
                    shown[row["pixel_sha256"]].append(row)
            derived.counts["train_pictures_distinct_in_their_part"] += len(first)
            derived.looked_at += sum(map(len, shown.values()))
            with Shards(build.folder) as shards:
                for digest, rows in shown.items():
                    for one, measures in _near_tests(first[digest], shards, tests, derived.counts):
                        for row, end in itertools.product(rows, tests.pictures[one].shown):
                            derived.keep(
                                found(
                                    level="near_image", train_build=name, train_split=row["split"],
                                    train_sample=row["sample_id"], train_index=row["index"], **end, **measures,
                                )
                            )  # fmt: skip
    return derived


def _near_tests(
    train: Mapping[str, Any], shards: Shards, tests: _TestPictures, counts: Counter[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Test pictures that a training picture shows, with the measures."""
    if train["phash"] is None or train["thumbnail"] is None:
        counts["train_without_hash"] += 1
        return
    thumbnail = decode(train["thumbnail"])
    if flat(thumbnail[None])[0]:
        counts["train_flat"] += 1
        return
    for one, (coarse, kind, by_region, bits) in tests.candidates(train["phash"], thumbnail).items():
        counts["candidates"] += 1
        test, variant, decided_on = tests.pictures[one], VARIANTS[kind], "thumbnail"
        low, high = test.settings.borderline, test.settings.threshold
        score = -1.0
        if coarse >= low:
            frame = variant.frame(test.thumbnail, test.row["width"], test.row["height"])
            assert frame is not None
            inverted = np.array([variant.inverted])
            [score] = agreement(thumbnail[None], test.thumbnail[None], frame[None], inverted, tests.least)
        if low <= score < high:
            counts["borderline"] += 1
            with Shards(test.build.folder) as others:
                first, second = shards.picture(train), others.picture(test.row)
            if first is None or second is None:
                counts["borderline_unread"] += 1
            else:
                score, decided_on = full_agreement(first, second, variant), "full_image"
        counts["confirmed" if score >= high else "refuted"] += 1
        if score >= high:
            yield one, {
                "kind": "region" if by_region else "whole", "distance": bits, "variant": variant.name,
                "score": float(score), "decided_on": decided_on,
            }  # fmt: skip


# ---- near-duplicate training pictures


def train_duplicates(
    builds: Sequence[LoadedBuild], radius: int, threshold: float, chosen: set[Key] | None, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Rows of `train_duplicates.parquet`, in no order: all, or those that name a chosen sample.

    Equal hashes meet piece by piece; with a radius above 0 all train pictures' hashes are in memory together.

    Raises: `UserError`.
    """
    total = sum(unit["images"] for build in builds for unit in build.record["units"] if unit["role"] == "train")
    spill = Spill(1 if radius else 1 + total // _PICTURES_KEPT)
    for build in builds:
        for _, part in build.parts("images", "train"):
            columns = ["sample_id", "index", "pixel_sha256", "phash"]
            for batch in pq.ParquetFile(part).iter_batches(columns=columns):
                for row in batch.to_pylist():
                    if row["phash"] is not None:
                        place = (build.record["build"], row["sample_id"], row["index"])
                        spill.add("pictures", row["phash"], (row["phash"], row["pixel_sha256"], place))
                progress(len(batch))
    pairs: list[tuple[Place, Place, int]] = []
    for piece in range(spill.pieces):
        pairs += _alike(spill.rows("pictures", piece), radius, chosen)
        if len(pairs) >= _PICTURES_KEPT or piece == spill.pieces - 1:
            thumbnails = _thumbnails(builds, {place for pair in pairs for place in pair[:2]})
            for one, other, bits in pairs:
                first, second = decode(thumbnails[one]), decode(thumbnails[other])
                if flat(first[None])[0] or flat(second[None])[0]:
                    continue
                [score] = agreement(first[None], second[None], IDENTITY[None], np.array([False]), threshold)
                if score >= threshold:
                    a, b = sorted((one, other))
                    row = {"build_a": a[0], "sample_a": a[1], "index_a": a[2], "build_b": b[0], "sample_b": b[1]}
                    yield {**row, "index_b": b[2], "distance": bits, "score": float(score)}
            pairs.clear()


def _alike(
    pictures: Iterable[tuple[int, bytes, Place]], radius: int, chosen: set[Key] | None
) -> Iterator[tuple[Place, Place, int]]:
    """Pairs of different pictures whose hashes are near, each by the first place that shows it, with the distance."""
    hashes: dict[bytes, int] = {}
    shown: dict[bytes, Place] = {}
    for phash, digest, place in pictures:
        hashes[digest] = phash
        shown[digest] = min(shown.get(digest, place), place)
    alike: dict[int, list[bytes]] = defaultdict(list)
    for digest in sorted(hashes):
        alike[hashes[digest]].append(digest)
    pairs = [(group[0], other, 0) for group in alike.values() for other in group[1:]]
    firsts = sorted(alike)
    values = np.array(firsts, np.uint64)
    for number in range(len(firsts) if radius else 0):
        distance = np.bitwise_count(values[number + 1 :] ^ values[number])
        for later in np.flatnonzero(distance <= radius).tolist():
            other = alike[firsts[number + 1 + later]][0]
            pairs.append((alike[firsts[number]][0], other, int(distance[later])))
    for one, other, bits in pairs:
        if chosen is None or not chosen.isdisjoint((shown[one][:2], shown[other][:2])):
            yield shown[one], shown[other], bits


def _thumbnails(builds: Sequence[LoadedBuild], places: set[Place]) -> dict[Place, bytes]:
    if not places:
        return {}
    return {
        place: row["thumbnail"]
        for build in builds
        for _, part in build.parts("thumbnails", "train")
        for batch in pq.ParquetFile(part).iter_batches(columns=["sample_id", "index", "thumbnail"])
        for row in batch.to_pylist()
        if (place := (build.record["build"], row["sample_id"], row["index"])) in places
    }


# ---- near texts

_WORD = re.compile(r"[^\W_]+")
# Scripts without spaces: a word a character (iteration marks, kana, ideographs with extensions A to H, archaic kana).
_ALONE = (
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U0001aff0-\U0001b16f\U00020000-\U000323af"
)
_SPLIT = re.compile(f"[{_ALONE}]|[^{_ALONE}]+")
_SHINGLE = 5


def normalised(text: str) -> str:
    """Words as `medgpt.text.normalise` has them, by its definition and without its fast path."""
    return " ".join(_WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def words_of(text: str) -> list[str]:
    """Words in the near-text level's sense: those of `normalised`, ideographs and kana alone."""
    return [word for run in normalised(text).split() for word in _SPLIT.findall(run)]


def message_text(message: Mapping[str, Any], between: str) -> str:
    """Text parts of a message, joined."""
    return between.join(part["text"] for part in message["content"] if part["type"] == "text")


@dataclass
class _Text:
    """What the near-text level reads of a record."""

    question: str
    options: list[str]
    answer: str
    reasoning: str
    dialogue: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Text:
        said = [(one["role"], one["reasoning"], message_text(one, "\n")) for one in record["messages"] or []]
        asked = [text for role, _, text in said if role != "assistant"]
        answer = ["", *(text for role, _, text in said if role == "assistant")][-1]
        options = record["options"] or []
        gold = [one["text"] for one in options if one["label"] == record["answer"]]
        return cls(
            "\n".join(asked) if record["question"] is None else record["question"],
            [one["text"] for one in options],
            (gold[0] if gold else answer) or "",
            "\n".join(reasoning for _, reasoning, _ in said if reasoning),
            "\n".join(piece for _, reasoning, text in said for piece in ([reasoning] if reasoning else []) + [text]),
        )

    @property
    def item(self) -> str:
        return "\n".join([self.question, *self.options])

    @property
    def whole(self) -> str:
        return self.dialogue if self.question in self.dialogue else f"{self.item}\n{self.dialogue}"


@dataclass
class _TestText:
    end: dict[str, Any]
    access: str
    record: list[str]
    item: list[str]
    short: list[list[str]] | None
    """Words of the question, then of each option or of the answer; None if the question is not short."""


def near_texts(
    builds: Sequence[LoadedBuild],
    policy: Policy,
    chosen: set[Key] | None,
    progress: Progress,
    keep: Callable[[Found], None],
) -> Derived:
    """Evidence of the level near_text for the chosen training samples, all without a choice; `keep` takes its rows.

    Raises: `UserError`, `OSError`.
    """
    derived = Derived(keep)
    tests = _TestTexts(builds, policy.text, derived.left_out, progress)
    common: Counter[tuple[str, ...]] = Counter()
    for build in builds:
        name, access = build.record["build"], build.record["source"]["access"]
        for row, record in records(build, "train", chosen, progress):
            derived.looked_at += 1
            derived.counts["train_samples"] += 1
            text = _Text.of(record)
            least = getattr(policy.text, "picture_items_min_words" if row["n_images"] else "question_min_words")
            long_enough = len(words_of(text.question)) >= least
            item = words_of(text.item) if long_enough else []
            answer = words_of(text.answer) if long_enough else []
            hits = tests.compare(words_of(text.whole), item, answer, common, derived.counts)
            for number, measures in hits:
                test = tests.items[number]
                derived.counts[measures["kind"]] += 1
                if "credentialed" in (access, test.access):
                    measures = {**measures, "span": None}
                derived.keep(
                    found(
                        level="near_text", train_build=name, train_split=row["split"], train_sample=row["sample_id"],
                        **test.end, **measures,
                    )
                )  # fmt: skip
    open_texts = [" ".join(test.record) for test in tests.items if test.access != "credentialed"]
    for gram, owners in tests.grams.items():
        if len(owners) > policy.text.common_df:
            shown = " ".join(gram)
            if not any(shown in text for text in open_texts):
                shown = f"sha256:{hashlib.sha256(shown.encode()).hexdigest()}"
            derived.common[shown] = len(owners), common[gram]
    return derived


def records(
    build: LoadedBuild, role: str, chosen: set[Key] | None, progress: Progress
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Manifest row and stored record of samples. Raises: `UserError`, `OSError`."""
    columns = ["sample_id", "split", "subset", "task", "n_images", "shard", "offset", "length"]
    with Shards(build.folder) as shards:
        for _, part in build.parts("samples", role):
            for batch in pq.ParquetFile(part).iter_batches(columns=columns):
                for row in batch.to_pylist():
                    if chosen is None or (build.record["build"], row["sample_id"]) in chosen:
                        yield row, shards.record(row)[0]
                progress(len(batch))


class _TestTexts:
    """All test items: n-grams, shingles and words in dictionaries."""

    def __init__(
        self,
        builds: Sequence[LoadedBuild],
        settings: TextSettings,
        left_out: Counter[tuple[str, str, str]],
        progress: Progress,
    ) -> None:
        self.settings, self.n = settings, min(settings.run_words)
        self.items: list[_TestText] = []
        for build in builds:
            self._read(build, left_out, progress)
        self.grams = _owners(_grams(test.record, self.n) for test in self.items)
        self.heads: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, test in enumerate(self.items):
            if test.short is not None:
                self.heads[tuple(test.short[0][: settings.short_min_words])].append(number)
        shingles = [set(_grams(test.item, _SHINGLE)) for test in self.items]
        everywhere = _owners(shingles)
        self.common_shingles = {one for one, owners in everywhere.items() if len(owners) > settings.shingle_common_df}
        self.shingles = [one - self.common_shingles for one in shingles]
        self.shingle_owners = {one: everywhere[one] for one in everywhere.keys() - self.common_shingles}
        word_owners = _owners(test.item for test in self.items)
        total = len(self.items)
        self.idf = {word: math.log((total + 1) / (len(owners) + 1)) for word, owners in word_owners.items()}
        self.unknown_idf = math.log(total + 1)
        self.weights = [self._weigh(test.item) for test in self.items]
        self.norms = np.array([_norm(weights) for weights in self.weights])
        self.postings = {
            word: (np.array(owners), np.array([self.weights[one][word] for one in owners]))
            for word, owners in word_owners.items()
        }

    def _read(self, build: LoadedBuild, left_out: Counter[tuple[str, str, str]], progress: Progress) -> None:
        name, settings = build.record["build"], self.settings
        template = build.record["parameters"].get("pictures_stored") is not False
        for row, record in records(build, "eval", None, progress):
            text = _Text.of(record)
            item = words_of(text.item)
            if row["task"] in settings.leave_out_eval_tasks:
                left_out[name, row["task"], "task"] += 1
                continue
            if row["n_images"] and len(item) < settings.picture_items_min_words:
                left_out[name, row["task"], "short question about a picture"] += 1
                continue
            asked = "\n".join([text.item, "" if text.options else text.answer, text.reasoning])
            question = words_of(text.question)
            short = None
            if settings.short_min_words <= len(question) < self.n:
                options = [words for words in map(words_of, text.options) if words]
                short = [question, *(options or [words for words in [words_of(text.answer)] if words])]
            end = {"eval_build": name, "eval_split": row["split"], "eval_subset": row["subset"]}
            self.items.append(
                _TestText(
                    {**end, "eval_sample": row["sample_id"]}, build.record["source"]["access"],
                    words_of(asked if template else text.whole), item, short,
                )
            )  # fmt: skip

    def compare(
        self,
        record: Sequence[str],
        item: Sequence[str],
        answer: Sequence[str],
        common: Counter[tuple[str, ...]],
        counts: Counter[str],
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Test items that a training text overlaps with, and the measures."""
        yield from self._runs(record, common, counts)
        yield from self._short(record)
        yield from self._jaccard(item, counts)
        yield from self._rewrites(item, answer, counts)

    def _runs(
        self, record: Sequence[str], common: Counter[tuple[str, ...]], counts: Counter[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        places: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for place, gram in enumerate(_grams(record, self.n)):
            if gram in self.grams:
                places[gram].append(place)
        usual = [gram for gram in places if len(self.grams[gram]) > self.settings.common_df]
        common.update(usual)
        counts["texts_with_common_ngrams"] += bool(usual)
        for number in sorted({one for gram in places.keys() - set(usual) for one in self.grams[gram]}):
            theirs = self.items[number].record
            best: tuple[int, int, int] | None = None  # minus length, place in the test item, test items
            covered: set[int] = set()
            for place, gram in enumerate(_grams(theirs, self.n)):
                covered.update(range(place, place + self.n) if gram in places else ())
                for ours in places.get(gram, ()):
                    if place and ours and theirs[place - 1] == record[ours - 1]:
                        continue  # a run that began earlier
                    length = self.n
                    while place + length < len(theirs) and ours + length < len(record):
                        if theirs[place + length] != record[ours + length]:
                            break
                        length += 1
                    rarest = min(len(self.grams[one]) for one in _grams(theirs[place : place + length], self.n))
                    if rarest <= self.settings.common_df:
                        best = min(best or (0, 0, 0), (-length, place, rarest))
            assert best is not None  # a rare n-gram is shared
            length, place, rarest = -best[0], best[1], best[2]
            yield number, {
                "kind": "run", "words": length, "score": round(len(covered) / len(theirs), 4),
                "span": " ".join(theirs[place : place + length]), "eval_df": rarest,
            }  # fmt: skip

    def _short(self, record: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        heads = {gram for gram in _grams(record, self.settings.short_min_words) if gram in self.heads}
        spaced = f" {' '.join(record)} " if heads else ""
        for number in sorted(number for gram in heads for number in self.heads[gram]):
            parts = self.items[number].short
            assert parts is not None
            if all(f" {' '.join(part)} " in spaced for part in parts):
                measures = {"kind": "short_item", "score": 1.0, "words": len(parts[0]), "span": " ".join(parts[0])}
                yield number, measures

    def _jaccard(self, item: Sequence[str], counts: Counter[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        ours = set(_grams(item, _SHINGLE)) - self.common_shingles
        least, threshold = self.settings.shingles_min, self.settings.jaccard
        shared = Counter(number for one in ours for number in self.shingle_owners.get(one, ()))
        for number in sorted(shared):
            both, theirs = shared[number], len(self.shingles[number])
            if theirs < least:
                continue
            counts["jaccard_scored"] += both >= threshold * theirs - _SCORED
            score = both / (len(ours) + theirs - both)
            if len(ours) >= least and score >= threshold:
                yield number, {"kind": "jaccard", "score": round(score, 4), "words": both}

    def _rewrites(
        self, item: Sequence[str], answer: Sequence[str], counts: Counter[str]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        ours = self._weigh([*item, *(answer if len(answer) <= self.settings.rewrite_answer_words else ())])
        norm = _norm(ours)
        if not norm:
            return
        dots = np.zeros(len(self.items))
        for word, weight in ours.items():
            if word in self.postings:
                owners, weights = self.postings[word]
                dots[owners] += weight * weights
        cosines = dots / (norm * np.where(self.norms > 0, self.norms, 1))
        counts["rewrite_scored"] += int((cosines >= self.settings.rewrite - _SCORED).sum())
        for number in np.flatnonzero(cosines >= self.settings.rewrite - _RARE_SCORE).tolist():
            theirs = self.weights[number]
            dot = math.fsum(weight * theirs[word] for word, weight in ours.items() if word in theirs)
            score = dot / (norm * float(self.norms[number]))
            if score >= self.settings.rewrite:
                yield number, {"kind": "rewrite", "score": round(score, 4)}

    def _weigh(self, words: Sequence[str]) -> dict[str, float]:
        counted = Counter(words)
        return {word: (1 + math.log(n)) * self.idf.get(word, self.unknown_idf) for word, n in counted.items()}


def _norm(weights: Mapping[str, float]) -> float:
    return math.sqrt(math.fsum(weight * weight for weight in weights.values()))


def _grams(words: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    """Every n words in a row, from each place on."""
    return zip(*(words[start:] for start in range(n)), strict=False)


def _owners(items: Iterable[Iterable[_Thing]]) -> dict[_Thing, list[int]]:
    """Which items have each thing, each once, ascending."""
    owners: dict[_Thing, list[int]] = {}
    for number, things in enumerate(items):
        for thing in things:
            mine = owners.setdefault(thing, [])
            if not mine or mine[-1] != number:
                mine.append(number)
    return owners
