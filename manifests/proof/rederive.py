"""The evidence of a proof, derived a second time by other means: for `manifests.verify`.

Plain on purpose. Ids and digests meet in dictionaries, not in SQL; perceptual hashes are looked up one by one in lists
by a quarter of their bits, not joined through bands and products; texts are tuples of words in sets and dictionaries,
not hashes in arrays: every stem that shares a pair of words with a text is measured.

What is shared with `manifests.prove` are definitions that would mean nothing if they differed: the perceptual hash
(`fingerprints`), the variants and regions of a picture (`variants`), the agreement of two pictures (`agreement`, here
asked for one pair at a time), how letters are folded, what a word weighs, what a sibling is, and the policy.

Rows of evidence are tuples in the order of `FOUND`.
"""

from __future__ import annotations

import bisect
import hashlib
import heapq
import itertools
import math
import os
import re
import tarfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
from manifests.proof.near_text import (
    ANSWER_WORDS,
    GOLD_LETTERS,
    LETTERS,
    LONG_RUN,
    NAMED,
    NEXT_WORDS,
    PASSAGE_GRAMS,
    REFERENCE_TEXTS,
    ROW_SHARE,
    ROW_WORDS,
    SAYS_BITS,
    UNIT,
    USUAL,
    USUAL_SHARE,
    information,
    is_sibling,
    reference_counts,
)
from manifests.proof.policy import ImageSettings, Policy, TextSettings
from manifests.proof.spill import Spill
from manifests.proof.variants import IDENTITY, REGIONS, VARIANTS, decode, region_hashes
from medgpt.errors import UserError
from medgpt.groups import GROUP_KEYS
from medgpt.schema import SAMPLE, canonical_json
from medgpt.text import count_tokens, fold
from medgpt.tiles import tile_count

Found = tuple[Any, ...]
Progress = Callable[[int], None]
Key = tuple[str, str]
"""Build and sample id."""
Place = tuple[str, str, int]
"""Build, sample id and number of the picture."""

FOUND = tuple(name for name in EVIDENCE.names if name != "action")
BLOCK = tarfile.BLOCKSIZE
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
    """As in `overlaps.Overlaps`."""
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
_Gram = tuple[str, ...]
_Place = tuple[int, int, int, int, int]
"""Weight of the pairs in a window; its start and end; where its pairs begin and end."""


def normalised(text: str) -> str:
    """Words as `medgpt.text.normalise` has them, without its fast path."""
    return " ".join(_WORD.findall(fold(text)))


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
    dialogue: str
    passages: list[str]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> _Text:
        said = [(one["role"], one["reasoning"], message_text(one, "\n")) for one in record["messages"] or []]
        asked = [text for role, _, text in said if role != "assistant"]
        answer = ["", *(text for role, _, text in said if role == "assistant")][-1]
        options = [one["text"] for one in record["options"] or []]
        gold = [one["text"] for one in record["options"] or [] if one["label"] == record["answer"]]
        question = "\n".join(asked) if record["question"] is None else record["question"]
        pieces = asked + ([] if options else [answer]) + [reasoning for _, reasoning, _ in said if reasoning]
        for known in sorted({question, *options} - {""}, key=lambda known: (-len(known), known)):
            pieces = [part for piece in pieces for part in piece.split(known)]
        return cls(
            question,
            options,
            (gold[0] if gold else answer) or "",
            "\n".join(piece for _, reasoning, text in said for piece in ([reasoning] if reasoning else []) + [text]),
            [question, *(piece for piece in pieces if piece.strip())],
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
    group: str
    stem: _Gram
    gold: _Gram
    passages: list[_Gram]


def near_texts(
    builds: Sequence[LoadedBuild],
    policy: Policy,
    chosen: set[Key] | None,
    progress: Progress,
    keep: Callable[[Found], None],
) -> Derived:
    """Evidence of the level near_text for the chosen training samples, all without a choice; `keep` takes its rows.

    What is boilerplate of a part follows from all of its samples: they are read in any case. Raises: `UserError`,
    `OSError`.
    """
    derived = Derived(keep)
    tests = _TestTexts(builds, policy.text, derived.left_out, progress)
    open_texts = [" ".join(words) for test in tests.items if test.access != "credentialed" for words in test.passages]
    for build in builds:
        name, access = build.record["build"], build.record["source"]["access"]
        for _, part in build.parts("samples", "train"):
            hits: Counter[_Gram] = Counter()
            samples = 0
            for _, record in records(build, part, progress):
                hits.update(tests.says.intersection(_grams(words_of(_Text.of(record).whole), tests.n)))
                samples += 1
            least = max(policy.text.boilerplate_samples, policy.text.boilerplate_share * samples)
            usual = {gram for gram, count in hits.items() if count > least}
            for gram in usual:
                shown = " ".join(gram)
                if not any(shown in text for text in open_texts):
                    shown = f"sha256:{hashlib.sha256(shown.encode()).hexdigest()}"
                derived.common[shown] = len(tests.holders[gram]), derived.common.get(shown, (0, 0))[1] + hits[gram]
            for row, record in records(build, part, lambda count: None):
                if chosen is not None and (name, row["sample_id"]) not in chosen:
                    continue
                derived.looked_at += 1
                derived.counts["train_samples"] += 1
                words = words_of(_Text.of(record).whole)
                for number, measures in (*tests.stems_in(words), *tests.passages_in(words, usual)):
                    test = tests.items[number]
                    derived.counts[measures["kind"]] += 1
                    if "credentialed" in (access, test.access):
                        measures = {**measures, "span": None}
                    derived.keep(
                        found(
                            level="near_text", train_build=name, train_split=row["split"],
                            train_sample=row["sample_id"], **test.end, **measures,
                        )
                    )  # fmt: skip
    return derived


def records(build: LoadedBuild, part: Path, progress: Progress) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Manifest row and stored record of the samples of one part. Raises: `UserError`, `OSError`."""
    columns = ["sample_id", "split", "subset", "task", "n_images", "shard", "offset", "length"]
    with Shards(build.folder) as shards:
        for batch in pq.ParquetFile(part).iter_batches(columns=columns):
            for row in batch.to_pylist():
                yield row, shards.record(row)[0]
            progress(len(batch))


class _TestTexts:
    """All test items: stems, their pairs of words, passages and their n-grams, in dictionaries."""

    def __init__(
        self,
        builds: Sequence[LoadedBuild],
        settings: TextSettings,
        left_out: Counter[tuple[str, str, str]],
        progress: Progress,
    ) -> None:
        self.settings, self.n = settings, settings.run_words
        self.items: list[_TestText] = []
        for build in builds:
            self._read(build, left_out, progress)
        texts = {words for test in self.items for words in (test.stem, *test.passages) if words}
        self._total = max(REFERENCE_TEXTS, len(texts))
        around: dict[str, set[_Gram]] = defaultdict(set)
        for words in texts:
            for before, word, after in zip(("", *words), words, (*words[1:], ""), strict=False):
                around[word].add((before, after))
        self._around = {word: len(places) for word, places in around.items()}
        self._weights: dict[str, int] = {}
        self._read_stems()
        self._read_passages()

    def _read(self, build: LoadedBuild, left_out: Counter[tuple[str, str, str]], progress: Progress) -> None:
        name, settings = build.record["build"], self.settings
        template = build.record["parameters"].get("pictures_stored") is not False
        for _, part in build.parts("samples", "eval"):
            for row, record in records(build, part, progress):
                text = _Text.of(record)
                if row["task"] in settings.leave_out_eval_tasks:
                    left_out[name, row["task"], "task"] += 1
                elif row["n_images"] and len(words_of(text.item)) < settings.picture_items_min_words:
                    left_out[name, row["task"], "short question about a picture"] += 1
                else:
                    end = {"eval_build": name, "eval_split": row["split"], "eval_subset": row["subset"]}
                    self.items.append(
                        _TestText(
                            {**end, "eval_sample": row["sample_id"]}, build.record["source"]["access"],
                            name if template else "", tuple(words_of(text.question)), tuple(words_of(text.answer)),
                            [tuple(words_of(piece)) for piece in text.passages],
                        )
                    )  # fmt: skip

    def weight(self, word: str) -> int:
        """How much a word says, in units of `near_text.UNIT` to a bit."""
        if word not in self._weights:
            weight = 0
            if not word.isdigit() and (len(word) > 1 or not word.isascii()):
                weight = information(self._total, self._around.get(word, 1))
                if word in (known := reference_counts()):
                    weight = min(weight, information(REFERENCE_TEXTS, known[word]))
                weight = max(0, weight - UNIT)
            self._weights[word] = weight
        return self._weights[word]

    def _weigh(self, words: Iterable[str]) -> int:
        return sum(self.weight(word) for word in set(words))

    # ---- stems

    def _read_stems(self) -> None:
        self.stems: dict[_Gram, list[int]] = defaultdict(list)
        for number, test in enumerate(self.items):
            if test.stem:
                self.stems[test.stem].append(number)
        golds = {test.gold for test in self.items if len(test.gold) > 1}
        self._df = Counter(pair for words in (*self.stems, *golds) for pair in set(_grams(words, 2)))
        self._usual = max(USUAL, len(self.stems) // USUAL_SHARE)
        self._by_pair: dict[_Gram, set[_Gram]] = defaultdict(set)
        self._pairs: dict[_Gram, dict[_Gram, int]] = {}
        for stem, owners in self.stems.items():
            pairs = self._pairs[stem] = self._stem_pairs(stem)
            for pair, weight in pairs.items():
                if weight:
                    self._by_pair[pair].add(stem)
            if len(stem) == 1:
                self._by_pair[stem].add(stem)
            for gold in {self.items[owner].gold for owner in owners}:
                if self._is_long(gold):
                    self._by_pair[next(_grams(gold, 2))].add(stem)

    def _is_long(self, gold: _Gram) -> bool:
        return len(gold) > 1 and self._weigh(gold) >= self.settings.answer_bits * UNIT

    def _stem_pairs(self, stem: _Gram) -> dict[_Gram, int]:
        pairs: dict[_Gram, int] = {}
        for place, pair in enumerate(_grams(stem, 2)):
            times = 1 + (place == 0), 1 + (place + 2 == len(stem))
            weight = times[0] * self.weight(pair[0]) + times[1] * self.weight(pair[1])
            pairs.setdefault(pair, 0 if self._df[pair] > self._usual else weight)
        if pairs and not any(pairs.values()):
            pairs[min(_grams(stem, 2), key=lambda pair: self._df[pair])] = 1
        return pairs

    def stems_in(self, record: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Test items whose stem a training text holds, and the measures."""
        places: dict[_Gram, list[int]] = defaultdict(list)
        for place, pair in enumerate(_grams(record, 2)):
            places[pair].append(place)
        met = {stem for pair in (*places, *_grams(record, 1)) for stem in self._by_pair.get(pair, ())}
        spaced, letters = f" {' '.join(record)} ", "".join(record)
        for stem in met:
            owners = self.stems[stem]
            golds = {gold for gold in {self.items[one].gold for one in owners} if _answers(gold, spaced, letters)}
            if not golds and self._weigh(stem) < self.settings.stem_bits * UNIT:
                continue
            worded = any(f" {' '.join(gold)} " in spaced for gold in golds)
            if len(stem) == 1:
                if not worded:
                    continue
                place = record.index(stem[0])
                window: _Place | None = (0, place, place + 1, place, place + 1)
            else:
                pairs = self._pairs[stem]
                if not worded and sum(pairs[one] for one in pairs if one in places) < self.settings.stem_pairs * sum(
                    pairs.values()
                ):
                    continue
                window = self._window(stem, places)
            if window and (measures := self._measured(stem, record, spaced, golds, worded, window)):
                kind, answered, share, covered = measures
                mine = [one for one in owners if answered is None or self.items[one].gold in answered]
                for number in mine[:NAMED]:
                    yield number, {"kind": kind, "score": share, "words": covered, "eval_df": len(owners)}

    def _window(self, stem: _Gram, places: Mapping[_Gram, Sequence[int]]) -> _Place | None:
        """The window of a record that has most of a stem's pairs."""
        pairs, size = self._pairs[stem], 2 * len(stem) + 16
        hits = sorted((place, pair) for pair in pairs for place in places.get(pair, ()))
        if not hits:
            return None
        sums = list(itertools.accumulate((pairs[pair] + 1 for _, pair in hits), initial=0))
        firsts = [bisect.bisect_left(hits, (place + 2 - size,)) for place, _ in hits]
        last = max(range(len(hits)), key=lambda at: (sums[at + 1] - sums[firsts[at]], -at))
        inside = hits[firsts[last] : last + 1]
        end = hits[last][0] + 2
        return sum(pairs[pair] for pair in {pair for _, pair in inside}), max(0, end - size), end + 8, inside[0][0], end

    def _measured(
        self, stem: _Gram, record: list[str], spaced: str, golds: set[_Gram], worded: bool, window: _Place
    ) -> tuple[str, set[_Gram] | None, float, int] | None:
        """Kind, the answers that make it (None: the stem alone does), score and words."""
        limits, (weight, start, stop, first, end) = self.settings, window
        words = record[start:stop]
        here = set(_grams(words, 2))
        rows = [
            len(list(run)) + 1 for shared, run in itertools.groupby(pair in here for pair in _grams(stem, 2)) if shared
        ]
        longest = max(rows, default=0)
        cut_short = longest > ROW_WORDS and 2 * longest >= len(stem)
        says = weight >= (limits.answer_pairs if worded else limits.stem_pairs) * sum(self._pairs[stem].values())
        if not says and not (worded and cut_short):
            return None
        share, known = self._letters(stem, words)
        plain, weighed = share
        best = max(plain, weighed)
        alone = weighed >= limits.stem_letters and plain >= 0.5 and known >= limits.stem_bits * UNIT
        verbatim = f" {' '.join(stem)} " in spaced
        says = says and known >= SAYS_BITS * UNIT
        within = NEXT_WORDS if not says else None if best >= 0.8 else ANSWER_WORDS
        anywhere = None if self._weigh(stem) >= SAYS_BITS * UNIT else ANSWER_WORDS

        def beside(gold: _Gram, within: int | None) -> bool:
            before, behind = record[:first], record[end:]
            if within is not None:
                before, behind = before[-within:], behind[:within]
            return any(_answers(gold, f" {' '.join(side)} ", "".join(side)) for side in (before, behind))

        answered = set()
        in_a_row = longest >= ROW_WORDS and longest >= ROW_SHARE * len(stem)
        for gold in golds:
            together = f" {' '.join(gold)} "
            near = best >= limits.answer_letters or cut_short
            near = near and known + self._weigh(gold) >= (limits.row_bits if in_a_row else limits.answer_bits) * UNIT
            if not says:
                near = near and self._is_long(gold) and together in spaced
            told = self._weigh(stem) + self._weigh(gold) >= limits.verbatim_bits * UNIT and beside(gold, anywhere)
            if (near and beside(gold, within)) or (verbatim and (f" {' '.join(stem)}{together}" in spaced or told)):
                answered.add(gold)
        if not alone and not answered:
            return None
        kind = "sibling" if not verbatim and is_sibling(stem, words) else "stem" if alone else "stem_answer"
        return kind, None if alone else answered, round(best, 4), sum(rows)

    def _letters(self, stem: _Gram, window: Sequence[str]) -> tuple[tuple[float, float], float]:
        """Shares of the stem's runs of letters that a window has, plain and weighed; what they say."""
        text, there = "".join(stem), "".join(window)
        each = [self.weight(word) * UNIT // len(word) for word in stem for _ in word]
        runs: dict[str, int] = {}
        for place in range(max(1, len(text) - LETTERS + 1)):
            runs.setdefault(text[place : place + LETTERS], sum(each[place : place + LETTERS]))
        met = {run for run in runs if there.find(run) >= 0}
        weighed = sum(runs[run] for run in met) / max(1, sum(runs.values()))
        return (len(met) / len(runs), weighed), weighed * self._weigh(stem)

    # ---- passages

    def _read_passages(self) -> None:
        self._passages: dict[_Gram, list[int]] = defaultdict(list)
        for number, test in enumerate(self.items):
            for words in dict.fromkeys(test.passages):
                if len(words) >= self.n:
                    self._passages[words].append(number)
        self._having: dict[_Gram, list[_Gram]] = defaultdict(list)
        self.holders: dict[_Gram, set[int]] = defaultdict(set)
        for passage, owners in self._passages.items():
            for gram in set(_grams(passage, self.n)):
                self._having[gram].append(passage)
                self.holders[gram].update(owners)
        sizes = Counter(test.group for test in self.items)
        self.says = {
            gram
            for gram, owners in self.holders.items()
            if sum(map(self.weight, gram)) >= self.settings.run_bits * UNIT
            and not any(
                group and sizes[group] > 2 and 2 * count > sizes[group]
                for group, count in Counter(self.items[one].group for one in owners).items()
            )
        }
        self._order = {passage: number for number, passage in enumerate(self._passages)}

    def passages_in(self, record: list[str], usual: set[_Gram]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Test items of whose passages a training text holds enough, and the measures."""
        grams = self.says.intersection(_grams(record, self.n)) - usual
        if len(grams) < PASSAGE_GRAMS:
            return
        shared = Counter(passage for gram in grams for passage in self._having[gram])
        spaced, named = f" {' '.join(record)} ", set[int]()
        for passage in sorted(shared, key=lambda passage: (-shared[passage], self._order[passage])):
            if shared[passage] < PASSAGE_GRAMS or len(named) >= NAMED:
                return
            begins = [place for place, gram in enumerate(_grams(passage, self.n)) if gram in grams]
            covered = {place for begin in begins for place in range(begin, begin + self.n)}
            if len(covered) < self.settings.passage_words:
                continue
            weight, least = self._weigh(passage[place] for place in covered), self.settings.passage_bits * UNIT
            if 2 * weight < least:
                continue
            place, length = 0, 0
            for begin in begins:
                end = begin + max(self.n, length)
                while end <= len(passage) and f" {' '.join(passage[begin:end])} " in spaced:
                    place, length, end = (
                        (begin, end - begin, end + 1) if end - begin > length else (place, length, end + 1)
                    )
            if weight < least and length < LONG_RUN:
                continue
            run = passage[place : place + length]
            measures = {
                "kind": "passage", "score": round(len(covered) / len(passage), 4), "words": length,
                "span": " ".join(run), "eval_df": min(len(self.holders[gram]) for gram in _grams(run, self.n)),
            }  # fmt: skip
            for number in self._passages[passage]:
                if number not in named and len(named) < NAMED:
                    named.add(number)
                    yield number, measures


def _answers(gold: _Gram, spaced: str, letters: str) -> bool:
    joined = "".join(gold)
    return bool(gold) and (f" {' '.join(gold)} " in spaced or (len(joined) >= GOLD_LETTERS and joined in letters))


def _grams(words: Sequence[str], n: int) -> Iterator[_Gram]:
    """Every n words in a row, from each place on."""
    return zip(*(words[start:] for start in range(n)), strict=False)
