"""An audit: which samples and files it looks at, and what it shows of those that it did not: for `manifests.verify`."""

from __future__ import annotations

import bisect
import hashlib
import heapq
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.catalog import LoadedBuild

CONFIDENCE = 0.99


def fewer_than(total: int, drawn: int) -> int:
    """Upper bound, at `CONFIDENCE`, of wrong things among `total`, where none is among `drawn` of them, at random.

    The smallest number of which a draw without replacement would have missed all with a chance of 1 % or less.
    """

    def missed(wrong: int) -> float:
        if wrong > total - drawn:
            return 0.0
        logs = (math.lgamma(total - wrong + 1), -math.lgamma(total - wrong - drawn + 1))
        return math.exp(sum(logs) - math.lgamma(total + 1) + math.lgamma(total - drawn + 1))

    return bisect.bisect_left(range(total + 1), True, key=lambda wrong: missed(wrong) <= 1 - CONFIDENCE)


def bounds(totals: Mapping[tuple[str, str], int], drawn: int) -> list[dict[str, Any]]:
    """What an audit without a finding shows of all that it drew from: of each, fewer than so many are wrong.

    totals: how many there are, by build and what they are ("train samples"); `drawn` of each were looked at, or all.
    """
    return [
        {"build": build, "what": what, "of": total, "fewer_than": fewer_than(total, min(drawn, total))}
        for (build, what), total in sorted(totals.items())
    ]


def smallest(number: int, names: Iterable[str], salt: str) -> list[str]:
    """Of the names the `number` with the smallest SHA-256 of salt and name.

    The salt is the verifier's own: whoever made the proof can neither know nor choose what is looked at.
    """
    return heapq.nsmallest(number, names, key=lambda name: hashlib.sha256(f"{salt}/{name}".encode()).digest())


def draw_samples(
    builds: Sequence[LoadedBuild], number: int, salt: str
) -> tuple[set[tuple[str, str]], Counter[tuple[str, str]]]:
    """Build and id of `number` samples of each build and side and as many with pictures; of how many (`bounds`)."""
    import pyarrow.parquet as pq

    chosen: set[tuple[str, str]] = set()
    totals: Counter[tuple[str, str]] = Counter()
    for build in builds:
        name = build.record["build"]
        for (role, side), kind in itertools.product((("train", "train"), ("eval", "test")), ("samples", "images")):
            drawn: list[str] = []
            for _, part in build.parts(kind, role):
                ids = set(pq.read_table(part, columns=["sample_id"])["sample_id"].to_pylist())
                totals[name, f"{side} samples" + " with pictures" * (kind == "images")] += len(ids)
                drawn = smallest(number, itertools.chain(drawn, ids), salt)
            chosen |= {(name, sample) for sample in drawn}
    return chosen, totals
