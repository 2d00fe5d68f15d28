"""Local pictures, derived a second time: each feature is looked up by itself in plain lists (see the room)."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from manifests.catalog import LoadedBuild
from manifests.parts import read_pictures
from manifests.proof.descriptors import MARGIN, Encoder, Vectors, proposed
from manifests.proof.local_features import NEAR, TEST_SIDE, TRAIN_SIDE, Features, features, opencv, place, reduced
from manifests.proof.local_pictures import (
    COMMON,
    TEST_PIXELS,
    TRAIN_PIXELS,
    LocalMatch,
    compare,
    confirmed,
    enough,
    proposed_match,
)  # fmt: skip
from manifests.proof.overlaps import local_row
from manifests.proof.policy import LocalSettings, Policy
from manifests.verification.derived import Derived, Found, Key, Progress, found, test_end
from manifests.verification.pictures import HashIndex, train_pictures
from manifests.verification.spread import Part, Pool, parts_of
from manifests.verification.stored_samples import Shards

_COLUMNS = ["sample_id", "index", "split", "subset", "relation", "shard", "offset", "length", "format", "pixel_sha256"]
_COLUMNS += ["width", "height"]

End = tuple[str, str, int, str, str, int]
"""Build, sample and picture of the training side, and of the test side."""


def coverage(builds: Sequence[LoadedBuild], policy: Policy) -> dict[str, Any]:
    """What the certificate must say of the level, counted row by row."""
    pictures: Counter[tuple[str, str]] = Counter()
    stored: Counter[tuple[str, str]] = Counter()
    for build, role in itertools.product(builds, ("eval", "train")):
        for _, part in build.parts("images", role):
            for row in read_pictures(part, ["pixel_sha256", "relation", "shard"]).to_pylist():
                if row["pixel_sha256"] is not None and (role == "train" or row["relation"] != "exemplar"):
                    pictures[build.record["build"], role] += 1
                    stored[build.record["build"], role] += row["shard"] is not None
    named = {build.record["build"] for build in builds if policy.compares_local(build.record)}
    on = any(role == "train" and build in named for build, role in pictures)
    rows = [
        local_row(build, role, count, stored[build, role], build in named, on)
        for (build, role), count in sorted(pictures.items())
    ]
    return {"opencv": opencv().__version__ if on else None, "pictures": rows}


@dataclass
class _Tests:
    """Every distinct test picture that is stored: its features in flat lists."""

    features: list[Features] = field(default_factory=list)
    rows: list[tuple[LoadedBuild, dict[str, Any]]] = field(default_factory=list)
    shown: list[list[dict[str, Any]]] = field(default_factory=list)
    vectors: Vectors | None = None
    """By the encoder, where there is one."""

    def picture(self, number: int) -> bytes:
        """The stored file of one of them."""
        build, row = self.rows[number]
        with Shards(build.folder) as shards:
            data = shards.picture(row)
        assert data is not None  # only those that are stored are here
        return data

    def index(self) -> None:
        """After all are there."""
        none = np.zeros((0, 2), np.uint64)
        codes: NDArray[np.uint64] = np.concatenate([none, *(one.codes for one in self.features)])
        lengths = [len(one.codes) for one in self.features]
        self.owner = np.repeat(np.arange(len(lengths)), lengths)
        self.number = np.concatenate([np.zeros(0, np.int64), *(np.arange(length) for length in lengths)])
        self.second = codes[:, 1]
        self.first = HashIndex(np.ascontiguousarray(codes[:, 0]), NEAR[0])

    def matches(self, train: Features) -> dict[int, list[tuple[int, int, int]]]:
        """By test picture: (feature of the training picture, feature of the test picture, differing bits)."""
        near: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for feature, (first, second) in enumerate(train.codes.tolist()):
            numbers, distance = self.first.near(first)
            more = np.bitwise_count(self.second[numbers] ^ np.uint64(second)).astype(np.int64)
            met = [
                (int(self.owner[at]), int(self.number[at]), int(bits))
                for at, bits in zip(numbers[more <= NEAR[1]], (distance + more)[more <= NEAR[1]], strict=True)
            ]
            if len({one for one, _, _ in met}) <= COMMON:
                for one, other, bits in met:
                    near[one].append((feature, other, bits))
        return near


def _tests(builds: Sequence[LoadedBuild], policy: Policy, progress: Progress) -> _Tests:
    tests, known = _Tests(), dict[tuple[bytes, str], list[dict[str, Any]]]()
    for build in builds:
        modality = policy.modality(build.record["source"]["name"])
        for _, part in build.parts("images", "eval"):
            with Shards(build.folder) as shards:
                for row in read_pictures(part, _COLUMNS).to_pylist():
                    progress(1)
                    if row["pixel_sha256"] is None or row["relation"] == "exemplar":
                        continue
                    key = row["pixel_sha256"], modality
                    if key not in known:
                        known[key] = []
                        if (data := shards.picture(row)) is not None:
                            tests.features.append(features(data, TEST_SIDE))
                            tests.rows.append((build, row))
                            tests.shown.append(known[key])
                    known[key].append(test_end(build, row))
    tests.index()
    return tests


def local_pictures(
    builds: Sequence[LoadedBuild],
    policy: Policy,
    chosen: set[Key] | None,
    progress: Progress,
    keep: Callable[[Found], None],
    pool: Pool,
    encoder: Encoder | None = None,
    said: Container[End] = (),
) -> Derived:
    """Evidence of the level for the chosen training samples, all without a choice; `keep` takes its rows.

    `said`: pairs that the proof has by the `encoder`; of pairs so near the cosine's limit that another device may find
    them on the other side of it, only those count.

    Raises: `UserError`, `OSError`.
    """
    derived = Derived(keep)
    compared = [one for one in builds if policy.compares_local(one.record) and any(one.parts("images", "train"))]
    if not compared:
        return derived
    tests = _tests(builds, policy, progress)
    parts = parts_of(compared, "images")
    shared = tests, policy, chosen, encoder, said
    for part, rows in pool.spread(_local_pictures_of, shared, parts, progress, alone=encoder is not None):
        derived.add(part, rows)
    return derived


def _local_pictures_of(
    shared: tuple[_Tests, Policy, set[Key] | None, Encoder | None, Container[End]], part: Part, progress: Progress
) -> tuple[Derived, list[Found]]:
    tests, policy, chosen, encoder, said = shared
    rows_found: list[Found] = []
    derived, name = Derived(rows_found.append), part.build.record["build"]
    first, shown = train_pictures(name, part.path, _COLUMNS, chosen, derived, progress)
    with Shards(part.build.folder) as shards:
        for digest, rows in shown.items():
            row = first[digest]
            matches = list(_matches(row, shards, tests, policy.local_pictures, derived.counts))
            if encoder is not None:
                matches += _proposed(name, row, rows, shards, tests, policy, encoder, said, matches)
            for match in matches:
                derived.counts["confirmed_by_descriptor"] += match.kind == "descriptor"
                for row, end in itertools.product(rows, tests.shown[match.test]):
                    derived.keep(
                        found(
                            level="local_pictures", train_build=name, train_split=row["split"],
                            train_sample=row["sample_id"], train_index=row["index"], **end, **match.columns,
                        )
                    )  # fmt: skip
    return derived, rows_found


def _proposed(
    name: str,
    first: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    shards: Shards,
    tests: _Tests,
    policy: Policy,
    encoder: Encoder,
    said: Container[End],
    found_so: Sequence[LocalMatch],
) -> Iterator[LocalMatch]:
    """What the encoder adds for one training picture."""
    settings, data = policy.local_pictures, shards.picture(first)
    assert settings.encoder is not None
    if data is None:
        return
    if tests.vectors is None:
        tests.vectors = encoder.vectors(tests.picture(number) for number in range(len(tests.rows)))
    limit = settings.encoder.cosine
    for _, test, cosine in proposed(encoder.vectors([data]), tests.vectors, limit - MARGIN):
        known = any(
            (name, row["sample_id"], row["index"], *(end[key] for key in ("eval_build", "eval_sample", "eval_index")))
            in said
            for row in rows
            for end in tests.shown[test]
        )
        if all(match.test != test for match in found_so) and (cosine >= limit + MARGIN or known):
            match = proposed_match(0, test, data, tests.picture(test), settings)
            if match is not None:
                yield match


def _matches(
    row: Mapping[str, Any], shards: Shards, tests: _Tests, settings: LocalSettings, counts: Counter[str]
) -> Iterator[LocalMatch]:
    """Test pictures that a training picture shows."""
    data = shards.picture(row)
    if data is None:
        counts["train_pictures_unread"] += 1
        return
    train = features(data, TRAIN_SIDE)
    for test, met in sorted(tests.matches(train).items()):
        if len(met) < settings.inliers:
            continue
        ours, theirs, bits = np.array(sorted(met)).T
        other = tests.rows[test][1]
        shape = other["width"], other["height"]
        placement = place(train.take(ours), tests.features[test].take(theirs), bits, shape)
        if placement is None or not enough(placement, settings):
            continue
        counts["candidates"] += 1
        second = reduced(tests.picture(test), TEST_PIXELS)
        verdict = compare(reduced(data, TRAIN_PIXELS, None), second, placement, settings.threshold)
        counts["confirmed" if confirmed(verdict, settings) else "refuted"] += 1
        if confirmed(verdict, settings):
            yield LocalMatch(0, test, placement, verdict)
