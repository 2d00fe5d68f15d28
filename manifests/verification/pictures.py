"""Near and near-duplicate pictures, derived a second time: one pair at a time, by plain lists (see the room)."""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from manifests.catalog import LoadedBuild
from manifests.parts import read_pictures
from manifests.proof.agreement import (
    COARSE_LEAST,
    DOUBT,
    EARLY,
    Cells,
    Whole,
    after,
    agreement,
    cells,
    coarse_enough,
    coarse_trimmed,
    flat,
    full_agreement,
    turned_back,
)
from manifests.proof.policy import ImageSettings, Policy
from manifests.proof.variants import (
    IDENTITY,
    INVERTED,
    REGION_VARIANTS,
    REGIONS,
    TURN_MATRICES,
    VARIANTS,
    coefficients,
    decode,
    inner_picture,
    oriented_hashes,
    turn_name,
    turned,
)
from manifests.verification.derived import Derived, Found, Key, Place, Progress, found, test_end
from manifests.verification.spill import Spill
from manifests.verification.spread import Part, Pool, parts_of
from manifests.verification.stored_samples import Shards

_PICTURES_KEPT = 1 << 14

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
                    shown.append(test_end(build, row))
        self._hash()
        self.least = min([1.0, *(one.settings.borderline for one in self.pictures)])
        self._cells: dict[tuple[int, int], tuple[NDArray[np.int64], int]] = {}

    def _hash(self) -> None:
        """Hashes of the whole (place 5) and of the regions (0 to 4), each in all orientations that may be its own."""
        listed: list[list[tuple[int, int, int, int]]] = [[] for _ in range(len(REGIONS) + 1)]
        for number in range(len(self.pictures)):
            for kind, variant in enumerate(VARIANTS):
                varied = self.varied(number, kind)
                if varied is None or flat(varied[None])[0]:
                    continue
                found = coefficients(varied[None])
                for place in range(len(REGIONS) + 1):
                    if place < len(REGIONS) and not (variant.name in REGION_VARIANTS and found.contrast[0, place]):
                        continue
                    _, turns, hashes = oriented_hashes(found.low[:, place], variant.unsure)
                    for turn, value in zip(turns.tolist(), hashes.tolist(), strict=True):
                        listed[place].append((value, number, kind, turn))
        self.listed = listed
        widest = max([0, *(one.settings.radius for one in self.pictures)])
        wide = max([0, *(one.settings.region_radius for one in self.pictures)])
        self.index = [
            HashIndex(np.array([row[0] for row in rows], np.uint64), widest if place == len(REGIONS) else wide)
            for place, rows in enumerate(listed)
        ]

    def varied(self, number: int, kind: int) -> NDArray[np.uint8] | None:
        """A variant of a test picture."""
        one = self.pictures[number]
        return VARIANTS[kind].picture(one.thumbnail, one.row["width"], one.row["height"])

    def candidates(self, thumbnail: NDArray[np.uint8]) -> dict[int, tuple[float, int, int, bool, int]]:
        """Test pictures that a hash shows: cell correlation, variant, turn, by region, distance of the best variant."""
        near: dict[tuple[int, int, int, bool], int] = {}
        made = coefficients(thumbnail[None])
        for place in range(len(REGIONS) + 1):
            by_region = place < len(REGIONS)
            if by_region and not made.contrast[0, place]:
                continue
            _, [ours], [value] = oriented_hashes(made.low[:, place])
            for there in range(len(REGIONS)) if by_region else [place]:
                numbers, distance = self.index[there].near(int(value))
                for at, bits in zip(numbers.tolist(), distance.tolist(), strict=True):
                    _, one, kind, theirs = self.listed[there][at]
                    settings = self.pictures[one].settings
                    if bits > (settings.region_radius if by_region else settings.radius):
                        continue
                    turn = _turn(int(ours), theirs)
                    if by_region and not _lies_at(place, there, turn):
                        continue
                    key = (one, kind, turn, by_region)
                    near[key] = min(near.get(key, 64), bits)
        best: dict[int, tuple[float, int, int, bool, int]] = {}
        for (one, kind, turn, by_region), bits in near.items():
            correlation = _correlation(_cells(thumbnail, turn), self.cells(one, kind))
            found_so = (-correlation, kind, turn, by_region, bits)
            best[one] = min(best.get(one, found_so), found_so)
        return {one: (-found_so[0], *found_so[1:]) for one, found_so in best.items()}

    def better_half(self, thumbnail: NDArray[np.uint8], number: int, kind: int, turn: int) -> float:
        """Correlation of the cells over the blocks that agree best."""
        varied, at = self.varied(number, kind), np.zeros(1, np.int64)
        assert varied is not None
        return float(coarse_trimmed(_turned_back(thumbnail, turn), at, cells(varied[None]), at)[0])

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


def _cells(picture: NDArray[np.uint8], turn: int = 0) -> tuple[NDArray[np.int64], int]:
    values = _turned_back(picture, turn).values[0].astype(np.int64)
    return values, int(values @ values)


def _turned_back(picture: NDArray[np.uint8], turn: int) -> Cells:
    """Cells of a picture that shows something turned, as they are without the turn."""
    return turned_back(cells(picture[None]), np.zeros(1, np.int64), turn)


@functools.cache
def _turn(ours: int, theirs: int) -> int:
    """The turn in which we show the other, if both are the same once turned: by trying it on nine different numbers."""
    numbers = np.arange(1, 10, dtype=np.uint8).reshape(3, 3)
    for turn in range(len(TURN_MATRICES)):
        shown = turned(turned(numbers, turn), ours)
        if np.array_equal(shown, turned(numbers, theirs)):
            return turn
    raise AssertionError("turns are a group")


@functools.cache
def _lies_at(place: int, there: int, turn: int) -> bool:
    """Whether the region `there` of a picture lies at the region `place` of the turned one."""
    layout = np.array([[0, 9, 1], [9, 2, 9], [3, 9, 4]], np.uint8)
    return bool(turned(layout, turn & ~INVERTED)[layout == place][0] == there)


def _correlation(one: tuple[NDArray[np.int64], int], other: tuple[NDArray[np.int64], int]) -> float:
    return float(int(one[0] @ other[0]) / math.sqrt(max(one[1] * other[1], 1)))


def train_pictures(
    build: str, part: Path, columns: list[str], chosen: set[Key] | None, derived: Derived, progress: Progress
) -> tuple[dict[bytes, dict[str, Any]], dict[bytes, list[dict[str, Any]]]]:
    """By the digest of their pixels: the first row of each picture of a part, and the rows of the chosen samples.

    Of equal pictures in one part the first speaks for all. What is read is counted in `derived`.
    """
    first: dict[bytes, dict[str, Any]] = {}
    shown: dict[bytes, list[dict[str, Any]]] = defaultdict(list)
    for row in read_pictures(part, columns).to_pylist():
        progress(1)
        if row["pixel_sha256"] is None:
            derived.counts["train_pictures_without_pixels"] += 1
            continue
        derived.counts["train_pictures"] += 1
        first.setdefault(row["pixel_sha256"], row)
        if chosen is None or (build, row["sample_id"]) in chosen:
            shown[row["pixel_sha256"]].append(row)
    derived.counts["train_pictures_distinct_in_their_part"] += len(first)
    derived.looked_at += sum(map(len, shown.values()))
    return first, shown


def near_images(
    builds: Sequence[LoadedBuild],
    policy: Policy,
    chosen: set[Key] | None,
    progress: Progress,
    keep: Callable[[Found], None],
    pool: Pool,
) -> Derived:
    """Evidence of the level near_image for the chosen training samples, all without a choice; `keep` takes its rows.

    Raises: `UserError`, `OSError`.
    """
    derived = Derived(keep)
    tests = _TestPictures(builds, policy, progress)
    parts = parts_of(builds, "images")
    for part, rows in pool.spread(_near_images_of, (tests, chosen), parts, progress):
        derived.add(part, rows)
    return derived


def _near_images_of(
    shared: tuple[_TestPictures, set[Key] | None], part: Part, progress: Progress
) -> tuple[Derived, list[Found]]:
    tests, chosen = shared
    rows_found: list[Found] = []
    derived, name = Derived(rows_found.append), part.build.record["build"]
    first, shown = train_pictures(name, part.path, _PICTURE_COLUMNS, chosen, derived, progress)
    with Shards(part.build.folder) as shards:
        for digest, rows in shown.items():
            for one, measures in _near_tests(first[digest], shards, tests, derived.counts):
                for row, end in itertools.product(rows, tests.pictures[one].shown):
                    derived.keep(
                        found(
                            level="near_image", train_build=name, train_split=row["split"],
                            train_sample=row["sample_id"], train_index=row["index"], **end, **measures,
                        )
                    )  # fmt: skip
    return derived, rows_found


def _near_tests(
    train: Mapping[str, Any], shards: Shards, tests: _TestPictures, counts: Counter[str]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Test pictures that a training picture shows, with its borders or without, with the better measures."""
    if train["phash"] is None or train["thumbnail"] is None:
        counts["train_without_hash"] += 1
        return
    thumbnail = decode(train["thumbnail"])
    counts["train_flat"] += int(flat(thumbnail[None])[0])
    best: dict[int, dict[str, Any]] = {}
    for framed, picture in (False, thumbnail), (True, inner_picture(thumbnail, thumbnail)):
        if picture is None or flat(picture[None])[0]:
            continue
        for one, measures in _measured(picture, thumbnail if framed else None, train, shards, tests, counts):
            if one not in best or measures["score"] > best[one]["score"]:
                best[one] = measures
    yield from best.items()


def _measured(
    picture: NDArray[np.uint8],
    framed: NDArray[np.uint8] | None,
    train: Mapping[str, Any],
    shards: Shards,
    tests: _TestPictures,
    counts: Counter[str],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Test pictures that one look of a training picture shows; `framed`: its thumbnail, where borders are gone."""
    for one, (coarse, kind, turn, by_region, bits) in tests.candidates(picture).items():
        counts["candidates"] += 1
        test, variant, decided_on = tests.pictures[one], VARIANTS[kind], "thumbnail"
        low, high = test.settings.borderline, test.settings.threshold
        score = -1.0
        enough = float(coarse_enough(np.array(low)))
        if coarse >= low or (coarse >= COARSE_LEAST and tests.better_half(picture, one, kind, turn) >= enough):
            frame = variant.frame(test.thumbnail, test.row["width"], test.row["height"])
            assert frame is not None
            frames, inverted = after(frame[None], TURN_MATRICES[[turn]]), np.array([turn & INVERTED == INVERTED])
            compared = variant.compared(test.thumbnail)
            [score] = agreement(picture[None], compared[None], frames, inverted, tests.least - EARLY)
        if low <= score < max(high, DOUBT):
            counts["borderline"] += score < high
            with Shards(test.build.folder) as others:
                first, second = shards.picture(train), others.picture(test.row)
            if first is None or second is None:
                counts["borderline_unread"] += score < high
            else:
                ours = Whole(first) if framed is None else Whole(first).inner(framed)
                if (whole := full_agreement(ours, Whole(second), variant, turn)) < low or score < high:
                    score, decided_on = whole, "full_image"
        counts["confirmed" if score >= high else "refuted"] += 1
        if score >= high:
            yield one, {
                "kind": "region" if by_region else "whole", "distance": bits,
                "variant": turn_name(variant, turn, framed is not None), "score": float(score),
                "decided_on": decided_on,
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
