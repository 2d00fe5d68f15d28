"""Samples read again from their shards, and what of the manifest does not follow from them."""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from manifests.catalog import LoadedBuild, part_kind
from manifests.fingerprints import ImageFingerprint, fingerprint
from manifests.parts import IMAGES, read_pictures
from manifests.verification.derived import Fault, Key, Progress, message_text, normalised, rows_of
from manifests.verification.spread import Part
from medgpt.errors import UserError
from medgpt.groups import GROUP_KEYS
from medgpt.limited import read_batch
from medgpt.schema import SAMPLE, canonical_json
from medgpt.text import count_tokens
from medgpt.tiles import tile_count

BLOCK = tarfile.BLOCKSIZE
_PRINTS_KEPT = 1 << 10


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
            # Not mapped: of a shard of 1 GiB every page that was looked at would stay.
            file = pa.ipc.open_file(pa.OSFile(str(self.folder / "shards" / shard)))
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
            self._batch = number, read_batch(file, number).to_pylist()
        return self._batch[1][row - ends[number]]


def records(build: LoadedBuild, part: Path, progress: Progress) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Manifest row and stored record of the samples of one part. Raises: `UserError`, `OSError`."""
    columns = ["sample_id", "split", "subset", "task", "n_images", "shard", "offset", "length"]
    with Shards(build.folder) as shards:
        for row in rows_of(part, columns):
            yield row, shards.record(row)[0]
            progress(1)


# ---- the manifest against the shards


@dataclass
class Stored:
    """What was read again of a unit."""

    samples: int = 0
    pictures: int = 0
    not_stored: int = 0
    """Pictures that the build does not keep."""
    prints: dict[bytes, ImageFingerprint] = field(default_factory=dict)
    """Made of files not long ago, by their digest."""
    named: list[tuple[str, str, str, str]] = field(default_factory=list)
    """Build, id, unit and role of every sample."""
    faults: list[Fault] = field(default_factory=list)


def read_again(chosen: set[Key] | None, part: Part, progress: Progress) -> Stored:
    """What of a unit's manifest does not follow from its shards, for the chosen samples, all without a choice.

    Everything is made again from the stored bytes but `sha256` of a picture: that is the digest of the publisher's
    file, metadata included, which shards do not hold. Places of members are checked for all samples.
    """
    read = Stored()
    read.faults += _stored_faults(part.build, part.unit, chosen, read, progress)
    read.prints.clear()
    return read


def _stored_faults(
    build: LoadedBuild, unit: Mapping[str, Any], chosen: set[Key] | None, read: Stored, progress: Progress
) -> Iterator[Fault]:
    parts = {part_kind(file["file"]): build.folder / file["file"] for file in unit["parts"]}
    part = f"{build.folder.name}/manifest/{build.record['source']['name']}-{unit['unit']}.parquet"
    with Shards(build.folder) as shards:
        pictures: dict[str, list[dict[str, Any]]] = defaultdict(list)
        if "images" in parts:
            for row in read_pictures(parts["images"], [*IMAGES.names, "thumbnail"]).to_pylist():
                pictures[row["sample_id"]].append(row)
        places: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for row in rows_of(parts["samples"]) if "samples" in parts else ():
            where = f"{part}: {row['sample_id']}"
            mine = pictures.pop(row["sample_id"], [])
            read.named.append((row["build"], row["sample_id"], row["unit"], row["role"]))
            places[row["shard"]].append((row["offset"], row["length"]))
            for one in mine:
                if one["shard"] is not None:
                    places[one["shard"]].append((one["offset"], one["length"]))
            if chosen is None or (row["build"], row["sample_id"]) in chosen:
                yield from _sample_faults(build, shards, row, mine, where, read)
            progress(1)
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
        "text_tokens": _tokens(record),
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


def _tokens(record: Mapping[str, Any]) -> int:
    """Tokens of all text, counted by part of a message."""
    pieces = [message["reasoning"] for message in record["messages"]]
    for message in record["messages"]:
        pieces += [part["text"] for part in message["content"] if part["type"] == "text"]
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
