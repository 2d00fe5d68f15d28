"""Mixtures: how often a stage draws from each source, and a schedule that keeps to it at every moment.

A mixture is a YAML file; `shards/mixtures/pretrain.yaml` is an example and explains every key. Sources are named by
build, so a variant (`slake.paper`) must be asked for by name. Each has exactly one of

    epochs: 1        how often an epoch of the mixture goes through it: 0.5, 1, 3
    samples: 5000    draws from it
    weight: 2        its part of what `samples:` of the whole mixture leaves after the draws of the others

A random choice by weight drifts by the square root of the draws. `Schedule` does not: see there.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from heapq import heappop, heappush
from itertools import pairwise
from math import gcd
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from msgspec import Meta
from msgspec.structs import force_setattr, replace

from medgpt.atomic import locked
from medgpt.digest import json_sha256
from medgpt.errors import UserError
from medgpt.settings import Settings, checked, find, read_yaml
from shards.columns import HEADER, Int32, Int64, MappedColumns, check_range, write_columns

FORMAT = 1
PRESETS = Path(__file__).parent / "mixtures"
TERMS = ("weight", "epochs", "samples")


class MixtureSource(Settings, frozen=True, kw_only=True):
    """One source of a mixture: exactly one of `weight`, `epochs` and `samples` is given."""

    build: Annotated[str, Meta(min_length=1)]
    weight: Annotated[float, Meta(gt=0)] | None = None
    epochs: Annotated[float, Meta(gt=0)] | None = None
    samples: Annotated[int, Meta(ge=1)] | None = None
    builder: str = ""
    """Command that builds it."""

    def __post_init__(self) -> None:
        """Fill in the usual command. Raises: `ValueError` unless one term is given."""
        given = [term for term in TERMS if getattr(self, term) is not None]
        if len(given) != 1:
            raise ValueError(f"{self.build}: one of {', '.join(TERMS)} is needed, not {', '.join(given) or 'none'}")
        if not self.builder:
            force_setattr(self, "builder", f"python -m builders.{self.build.split('.')[0]}")

    @property
    def term(self) -> str:
        """Which of the terms is given."""
        return next(term for term in TERMS if getattr(self, term) is not None)

    @property
    def value(self) -> Fraction:
        """The term as it is written in decimals: 0.1 is a tenth."""
        return Fraction(str(getattr(self, self.term)))


class Mixture(Settings, frozen=True, kw_only=True):
    """A mixture as read, sources in the order of their names."""

    format: Literal[1]
    name: Annotated[str, Meta(min_length=1)]
    sources: Annotated[tuple[MixtureSource, ...], Meta(min_length=1)]
    samples: Annotated[int, Meta(ge=1)] | None = None
    """Draws of the whole mixture, where weights are used."""

    def __post_init__(self) -> None:
        """Sort the sources. Raises: `ValueError` for one that is named twice, and for weights without `samples`."""
        force_setattr(self, "sources", tuple(sorted(self.sources, key=lambda source: source.build)))
        for one, other in pairwise(self.sources):
            if one.build == other.build:
                raise ValueError(f"sources: {one.build} is named twice")
        weighted = any(source.weight is not None for source in self.sources)
        if weighted != (self.samples is not None):
            raise ValueError(
                "sources have weights, so `samples`, the draws of the whole mixture, is needed"
                if weighted
                else "`samples` of the whole mixture is for weights, and no source has one"
            )

    @property
    def digest(self) -> str:
        """SHA-256 of what is asked for: the file's layout, comments and name do not matter."""
        return json_sha256([FORMAT, self.samples, [[s.build, s.term, str(s.value)] for s in self.sources]])

    @classmethod
    def load(cls, mixture: Path | str) -> Self:
        """Read a preset (`pretrain`, `midtrain`, `instruct`) or a YAML file. Raises: `UserError`."""
        path = find(mixture, PRESETS, "mixture")
        return checked(cls, read_yaml(path), str(path))

    def only_present(self, builds: Collection[str]) -> tuple[Self, str | None]:
        """The mixture without the sources that are not among `builds`, and one line that says which these are.

        It has a digest of its own. Weights of those that are left share all that weights share.
        Raises: `UserError` if none is left.
        """
        absent = [source.build for source in self.sources if source.build not in builds]
        if not absent:
            return self, None
        left = tuple(source for source in self.sources if source.build in builds)
        if not left:
            raise UserError(
                f"{self.name}: none of its sources is there; the first is made by {self.sources[0].builder}"
            )
        samples = self.samples if any(source.term == "weight" for source in left) else None
        line = (
            f"{self.name}: {len(absent)} of {len(self.sources)} sources are not there, or have no sample left, and are "
            f"left out: {', '.join(absent)}"
        )
        return replace(self, sources=left, samples=samples), line

    def counts(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Draws of an epoch from each source, in the order of their names; `sizes` are samples of each build.

        Epochs are rounded to the nearest sample; weights share by largest remainder (Hamilton's method; of equal
        remainders the first name's).

        Raises: `UserError` for a source that is absent or empty, or has no draw.
        """
        for source in self.sources:
            if source.build not in sizes:
                raise UserError(
                    f"{self.name}: the source {source.build} is not there; build it with {source.builder} (and prove "
                    "again), or go on without it by --only-present"
                )
            if not sizes[source.build]:
                raise UserError(
                    f"{self.name}: no sample of {source.build} is left to train on; take it out of the mixture, or go "
                    "on without it by --only-present"
                )
        counts = {}
        for source in self.sources:
            if source.term != "weight":
                exact = source.value * (sizes[source.build] if source.term == "epochs" else 1)
                counts[source.build] = int(exact + Fraction(1, 2))
        weighted = [source for source in self.sources if source.term == "weight"]
        if weighted:
            assert self.samples is not None
            shared = self.samples - sum(counts.values())
            if shared < 1:
                raise UserError(f"{self.name}: nothing of {self.samples} samples is left for the sources with weights")
            whole = sum(source.value for source in weighted)
            exact_shares = {source.build: shared * source.value / whole for source in weighted}
            floors = {build: int(share) for build, share in exact_shares.items()}
            by_remainder = sorted(floors, key=lambda build: (floors[build] - exact_shares[build], build))
            more = by_remainder[: shared - sum(floors.values())]
            counts |= {build: floor + (build in more) for build, floor in floors.items()}
        for source in self.sources:
            if not counts[source.build]:
                raise UserError(
                    f"{self.name}: {source.build} has no draw ({source.term} {float(source.value):g}); ask for more, "
                    "or take it out"
                )
        return {source.build: counts[source.build] for source in self.sources}


_BLOCK = 1 << 15
"""Positions between two counts of all sources; ranks within a block fit 16 bits."""

_CHUNK = 1 << 20


class Schedule:
    """Which source each position draws from, so that every prefix has its share of each to within one sample.

    counts: [K] draws of each of K sources, all above 0, N in all. The first t positions hold `c` draws of source k with
    `floor(t counts[k] / N) <= c <= ceil(t counts[k] / N)`, so `|c - t counts[k] / N| < 1`, for every t from 0 to N.

    Why: give draw j (from 0) of source k the window of positions from `floor(j N / n)` to before `ceil((j + 1) N / n)`,
    n = counts[k]. If every draw stands in its window, source k has at least floor and at most ceil of its share before
    every t, which is the claim. Such an assignment exists: let position t take the share n / N of each source, and each
    draw these shares in turn; that fills every position, puts every draw in its window, and a bipartite graph with a
    fractional perfect matching has an integral one (Birkhoff). And unit jobs with whole-numbered windows are scheduled
    within them, if they can be at all, by always taking that of the earliest deadline among those whose window has
    begun (Jackson's rule; Baruah, Cohen, Plaxton, Varvel 1996 for this use; Tijdeman 1980 for the bound).

    The schedule repeats after N / gcd(counts) positions, where all shares are whole. One such period is computed (about
    a million positions a CPU-second) and kept: three bytes a position. With `folder` it is written there and mapped, so
    that every later start opens it at once.
    """

    def __init__(self, counts: Sequence[int], folder: Path | None = None) -> None:
        if not counts or min(counts) < 1:
            raise UserError(f"counts {list(counts)}: each source needs at least one draw")
        if len(counts) >= 1 << 16:
            raise UserError(f"{len(counts)} sources; fewer than {1 << 16} can be mixed")
        self.counts = tuple(map(int, counts))
        shared = gcd(*self.counts)
        self._period_counts = tuple(count // shared for count in self.counts)
        self._length, self._period = sum(self.counts), sum(self._period_counts)
        self._of_period = np.array(self._period_counts, np.int64)
        if folder is None or self._period < _BLOCK:
            parts = list(_period(self._period_counts))
            self._arrays: Mapping[str, npt.NDArray[Any]] | MappedColumns = {
                name: np.concatenate([part[name] for part in parts]) for name in parts[0]
            }
        else:
            self._arrays = _kept(self._period_counts, folder)

    def __len__(self) -> int:
        return self._length

    def source_at(self, positions: Int64) -> tuple[Int32, Int64]:
        """Source of each of [n] positions, and how many draws of that source stand before it. Raises: `IndexError`."""
        positions = np.asarray(positions, np.int64)
        check_range(positions, self._length)
        period, place = np.divmod(positions, self._period)
        source = self._arrays["source"][place].astype(np.int32)
        begins = self._arrays["begins"].reshape(-1, len(self.counts))
        before = begins[place // _BLOCK, source] + self._arrays["rank"][place]
        return source, period * self._of_period[source] + before

    def prefix(self, position: int) -> Int64:
        """[K] draws of each source in the first `position` positions. Raises: `IndexError`."""
        check_range(np.array([position]), self._length + 1)
        period, place = divmod(position, self._period)
        block = place // _BLOCK
        begins = self._arrays["begins"].reshape(-1, len(self.counts))
        here = np.bincount(self._arrays["source"][block * _BLOCK : place], minlength=len(self.counts))
        return np.asarray(period * self._of_period + begins[block] + here, np.int64)


def _kept(counts: tuple[int, ...], folder: Path) -> MappedColumns:
    """The period of these counts below `folder`, made where it is not there."""
    key = json_sha256([FORMAT, _BLOCK, counts])[:16]
    place = folder / "schedules" / key
    if not (place / HEADER).is_file():
        with locked(folder):
            if not (place / HEADER).is_file():
                types = {"source": _kind(counts), "rank": "uint16", "begins": "int64"}
                write_columns(place, {"format": FORMAT, "counts": list(counts)}, types, _period(counts))
    return MappedColumns(place, counts=list(counts))


def _period(counts: tuple[int, ...]) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """One period of the schedule, chunk by chunk: source, draws of it earlier in its block, counts at each block."""
    total, before = sum(counts), np.zeros(len(counts), np.int64)
    for source in _by_deadline(counts):
        rank = np.empty(len(source), np.uint16)
        begins = []
        for start in range(0, len(source), _BLOCK):
            block = source[start : start + _BLOCK]
            begins.append(before.copy())
            found = np.bincount(block, minlength=len(counts))
            # Places of each source, in order: their numbers within the source are their ranks.
            places = np.argsort(block, kind="stable")
            firsts = np.repeat(np.cumsum(found) - found, found)
            rank[start + places] = np.arange(len(block)) - firsts
            before += found
        yield {"source": source, "rank": rank, "begins": np.concatenate(begins)}
    if total % _BLOCK == 0:
        yield {"source": np.zeros(0, _kind(counts)), "rank": np.zeros(0, np.uint16), "begins": before}


def _kind(counts: tuple[int, ...]) -> str:
    """Type of a source's number."""
    return "uint8" if len(counts) <= 1 << 8 else "uint16"


def _by_deadline(counts: tuple[int, ...]) -> Iterator[npt.NDArray[Any]]:
    """Sources of all positions by earliest deadline, of equal ones the lower number; in chunks of `_CHUNK`."""
    total, sources = sum(counts), len(counts)
    shift = sources.bit_length()
    mask = (1 << shift) - 1
    done = [0] * sources
    # (position << shift) | source, as one integer: begin of the next window of each source whose window is to come, and
    # end of the window of each that may be taken.
    waiting = [*range(sources), (total + 2) << shift]  # a heap, being sorted
    ready: list[int] = []
    for start in range(0, total, _CHUNK):
        taken = []
        for position in range(start, min(start + _CHUNK, total)):
            limit = (position + 1) << shift
            while waiting[0] < limit:
                source = heappop(waiting) & mask
                heappush(ready, (-(-(done[source] + 1) * total // counts[source]) << shift) | source)
            source = heappop(ready) & mask
            taken.append(source)
            draw = done[source] = done[source] + 1
            if draw < counts[source]:
                begin = draw * total // counts[source]
                if begin <= position + 1:
                    heappush(ready, (-(-(draw + 1) * total // counts[source]) << shift) | source)
                else:
                    heappush(waiting, (begin << shift) | source)
        yield np.array(taken, _kind(counts))
