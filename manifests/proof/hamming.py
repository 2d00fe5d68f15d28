"""Complete radius join of 64-bit perceptual hashes: every pair within an even Hamming distance, none missed.

Two ways find the same pairs; the cheaper one is chosen from counts on a sample of both sides.

*Bands.* Cut the 64 bits into m bands with thresholds t_i that add up to radius - m + 1. If a pair passed every
threshold, it would differ in at least sum(t_i + 1) = radius + 1 bits; so a pair within the radius has a band with at
most t_i differing bits (the generalised pigeonhole principle; Qin et al., "GPH", ICDE 2018). The eval hashes are listed
under every key that lies within t_i flips of theirs; a train hash looks its own key up. A pair that several bands show
is reported by the first.

*Brute force by matrix product.* Eight eval hashes share a float64, six bits each. The product of 0/1 columns counts in
every field the ones two hashes share; one more column and row subtract half of their ones, so that bit 5 of a field is
set just where d <= radius (where both have an odd number of ones, d <= radius + 2: a check follows). Adding 2^52 makes
all sums integers below 2^53: exact, in any order of summation. Eval hashes that crowd around a few centres are packed
side by side, and train hashes that the triangle inequality keeps away from a crowd skip it.

Set OPENBLAS_NUM_THREADS=1 where several processes search: the result is the same without it, the time is not.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]

BITS = 64
MAX_RADIUS = 16
BLOCK = 1 << 20
"""Train hashes a step: enough to fill the processor with work, few enough that temporaries stay near 100 MiB."""

EXPECTED = 1 << 24
"""Train hashes an index is built for where nothing else is said."""

_FIELDS = 8
_FIELD_STARTS = (0, 8, 14, 20, 26, 32, 39, 45)
_FIELD_HASH = (7, 6, 2, 3, 4, 1, 5, 0)
"""Which of eight consecutive hashes a field holds."""
_GATHER = 0x0402_0084_2012_0040
"""Times this, bit 5 of the fields becomes the highest byte, hash 0 at its lowest bit.

Found with the two tuples above by trying all orders of fields that start six bits apart or a little more: no other
product of two bits meets these eight, and the last field ends at bit 50.
"""
_FIELD_ONES = float(sum(1 << start for start in _FIELD_STARTS))
_WORDS = 8192
"""Most float64 columns of one product; up to 65,536 eval hashes then need no merging of tiles."""
_TILE = 1 << 18
"""Float64 cells of one product, 2 MiB."""
_PACKED_BYTES = 256
"""Memory an eval hash takes in every index, with room for a thread's copy of what it needs of the packed hashes."""
_CROWD_BITS = 8
"""How far from a centre a crowd reaches, in bits."""
_CROWD_SHARE = 64
"""A crowd holds at least one in so many eval hashes."""
_MAX_CROWDS = 32
_CROWD_SAMPLE = 1024
_GROUP_ROWS = 64
"""Fewest train hashes for which packed columns are copied together."""

_LOOKUPS = 16_384
_CANDIDATES = 1 << 16
"""Candidates compared at once: the arrays of 8 bytes stay in the second-level cache."""
_LONG_LIST = 2048
"""A list from here on is compared in place; shorter ones are first copied together."""
_ENTRY_BYTES = 12
"""An entry of a band's lists: eval hash (8) and number (4). Building sorts 8-byte keys of one band on top."""
_KEY_BITS = (8, 10, 12, 14, 16, 18, 20, 22)
_MAX_BANDS = 8
_SAMPLE_TRAIN, _SAMPLE_EVALS = 512, 2048

# Nanoseconds of CPU measured with bench/hamming_join.py on an x86-64 server (EPYC, 2.6 GHz). Only their ratios matter,
# and only for speed: a pair, a match and a list entry; then what a train hash, its lookup in a band and a listed hash
# cost, in plain and in key order or in place; then what a match costs in every band that shows it, and once.
_PER_PAIR = 0.55
_PER_BRUTE_HIT = 12.0
_PER_HASH = 40.0
_PER_LOOKUP = 65.0
_PER_SORTED_LOOKUP = 110.0
_PER_CANDIDATE = 7.0
_PER_SORTED_CANDIDATE = 3.0
_PER_LONG_CANDIDATE = 1.8
_PER_SORTED_LONG_CANDIDATE = 1.2
_PER_LONG_LIST = 6000.0
_PER_BAND_HIT = 40.0
_PER_HIT = 70.0
_PER_ENTRY = 120.0

_DISTANCE_BITS = 7
"""A match on its way is one int64: (row * evals + id) << 7 | distance, so that one sort orders matches."""
_DISTANCE = (1 << _DISTANCE_BITS) - 1


@dataclass(frozen=True)
class Matches:
    """Pairs within the radius, each once, sorted by row and id."""

    rows: Numbers
    """Positions in the train hashes, int64 (n,)."""
    ids: Numbers
    """Positions in the eval hashes, int64 (n,)."""
    distance: NDArray[np.uint8]
    """Differing bits, (n,)."""
    candidates: int = 0
    """Pairs whose distance was computed to find these."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class _BandPlan:
    """How bits are cut into bands: for each, the bits of its key and the flips a pair may show there."""

    keys: tuple[tuple[int, ...], ...]
    flips: tuple[int, ...]
    in_order: bool = False
    """Look train hashes up sorted by key: worth a sort where lists are long."""

    def masks(self) -> list[np.uint64]:
        return [np.uint64(sum(1 << bit for bit in key)) for key in self.keys]

    def entries(self) -> int:
        """List entries an eval hash takes, all bands together."""
        return sum(_ball(len(key), flips) for key, flips in zip(self.keys, self.flips, strict=True))


class HammingIndex:
    """Eval hashes, ready to be asked which of them lie within `radius` of train hashes.

    Either side may hold equal hashes, blanks, and hashes with any number of ones. The lists are built when the first
    train hashes arrive, for what they look like (`prepare`); results do not depend on that choice. Safe to search from
    several threads.
    """

    def __init__(self, evals: Hashes, radius: int, memory: int = 2 << 30, *, _path: str | None = None) -> None:
        """Index `evals` (uint64, (m,)) for an even `radius` of 0 to 16 bits within about `memory` bytes.

        `_path` forces "brute", "bands" or "ordered" (tests). Raises `ValueError` for an odd or impossible radius, for
        anything but a flat uint64 array, and for less memory than the hashes need.
        """
        if radius % 2 or not 0 <= radius <= MAX_RADIUS:
            raise ValueError(f"radius {radius}: give an even number of bits from 0 to {MAX_RADIUS}")
        _check(evals, "eval")
        if memory < len(evals) * _PACKED_BYTES:
            raise ValueError(
                f"{len(evals)} eval hashes need {len(evals) * _PACKED_BYTES} bytes, memory is {memory}: give more"
            )
        self.radius = radius
        self._memory = memory
        self._path = _path
        self._count = len(evals)
        self._lock = threading.Lock()
        self._prepared = False
        self._bands: list[_Band] = []
        self._chosen: _BandPlan | None = None
        self._order: tuple[int, ...] = ()
        # Equal eval hashes are compared once where that saves a third of the work; matches are spread out afterwards.
        unique, inverse = np.unique(evals, return_inverse=True)
        self._spread: tuple[Numbers, Numbers, Numbers] | None = None
        if len(unique) < 0.7 * len(evals):
            sizes = np.bincount(inverse, minlength=len(unique)).astype(np.int64)
            self._spread = sizes, np.cumsum(sizes) - sizes, np.argsort(inverse, kind="stable")
            evals = unique
        self._evals = np.ascontiguousarray(evals)
        self._product: _Product | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())  # a worker of another machine has its own

    @property
    def plan(self) -> str:
        """The way chosen, in words; empty lists and unprepared indexes say so."""
        if not self._prepared:
            return "not prepared"
        if self._chosen is None:
            return "brute force"
        keys = "+".join(str(len(key)) for key in self._chosen.keys)
        flips = "+".join(map(str, self._chosen.flips))
        return f"bands of {keys} bits, {flips} flips" + (", in order" if self._chosen.in_order else "")

    def prepare(self, train: Hashes, expected: int = EXPECTED) -> None:
        """Choose the way for train hashes like these (uint64, (n,)) and build its lists. Only the first call acts.

        `expected` is how many train hashes will be searched in all: building long lists must pay.
        """
        _check(train, "train")
        with self._lock:
            if self._prepared or not len(train) or not self._count:
                return
            self._product = _Product(self._evals, self.radius)
            self._chosen = self._choose(train, self._product, max(expected, 1))
            if self._chosen is not None:
                self._build(self._chosen)
            self._prepared = True

    def search(self, train: Hashes) -> Matches:
        """Every pair of a hash of `train` (uint64, (n,)) and an eval hash within the radius."""
        _check(train, "train")
        self.prepare(train)
        parts = []
        for start in range(0, len(train) if self._product else 0, BLOCK):
            block = np.ascontiguousarray(train[start : start + BLOCK])
            parts.append(_with_start(self._search_block(block), start))
        return _joined(parts)

    # Choosing

    def _choose(self, train: Hashes, product: _Product, expected: int) -> _BandPlan | None:
        """The plan of the least estimated cost, or None where brute force costs least."""
        some = train[:: -(-len(train) // _SAMPLE_TRAIN)]
        others = self._evals[:: -(-len(self._evals) // _SAMPLE_EVALS)]
        differences = (some[:, None] ^ others).ravel()
        hits = np.bitwise_count(differences) <= self.radius
        hit_differences = differences[hits]
        per_hash = len(self._evals) / len(differences)
        if self._path == "brute":
            return None
        best = product.cost(some) + _PER_BRUTE_HIT * len(hit_differences) * per_hash
        if self._path is not None:
            best = math.inf
        chosen = None
        order = _bits_by_use(differences)
        budget = self._memory - self._count * _PACKED_BYTES
        for count in range(1, _MAX_BANDS + 1):
            flips = _thresholds(self.radius, count)
            if flips is None:
                break
            bands = _deal(order, flips)
            for bits in _KEY_BITS:
                plan = _BandPlan(tuple(band[:bits] for band in bands), flips)
                bytes_needed = plan.entries() * len(self._evals) * _ENTRY_BYTES + sum(
                    8 * _ball(len(key), limit) * len(self._evals) + 16 * (1 << len(key))
                    for key, limit in zip(plan.keys, plan.flips, strict=True)
                )
                if bytes_needed > budget:
                    continue
                build = plan.entries() * len(self._evals) * _PER_ENTRY / expected
                if build >= best:
                    continue
                candidates: list[float] = []
                shown = 0
                for mask, limit in zip(plan.masks(), flips, strict=True):
                    candidates.append(int(np.count_nonzero(np.bitwise_count(differences & mask) <= limit)) * per_hash)
                    shown += int(np.count_nonzero(np.bitwise_count(hit_differences & mask) <= limit))
                hit_cost = (shown * _PER_BAND_HIT + len(hit_differences) * _PER_HIT) * per_hash
                for in_order in (False, True):
                    cost = build + hit_cost + _lookup_cost(candidates, in_order)
                    if cost < best and (self._path is None or in_order == (self._path == "ordered")):
                        best, chosen = cost, _BandPlan(plan.keys, flips, in_order)
                if max(map(len, plan.keys)) < bits:
                    break  # a longer key has no more bits to take
        return chosen

    def _search_block(self, block: Hashes) -> Matches:
        """By the bands, if their lists, at their exact lengths for some hashes of this block, are still worth it."""
        assert self._product is not None
        if self._chosen is not None:
            some = block[:: -(-len(block) // _SAMPLE_TRAIN)]
            moved = _permute(some, self._order)
            lengths = [float(band.lists(moved)[1].mean()) for band in self._bands]
            cost = _lookup_cost(lengths, self._chosen.in_order)
            if self._path is not None or cost < self._product.cost(some):
                return self._by_bands(block, self._chosen.in_order)
        rows, ids, distance, seen = self._product.search(block)
        return self._spread_out(rows, ids, distance, seen)

    # Bands

    def _build(self, plan: _BandPlan) -> None:
        """Lists of all bands. Bits are moved so that every band's key lies together."""
        used = [bit for key in plan.keys for bit in key]
        self._order = (*used, *(bit for bit in range(BITS) if bit not in set(used)))
        moved = _permute(self._evals, self._order)
        shift = 0
        for key, flips in zip(plan.keys, plan.flips, strict=True):
            self._bands.append(_Band(moved, shift, len(key), flips))
            shift += len(key)

    def _by_bands(self, block: Hashes, in_order: bool) -> Matches:
        moved = _permute(block, self._order)
        seen = 0
        found: list[Numbers] = []
        for number, band in enumerate(self._bands):
            numbers: Numbers | None = None
            hashes = moved
            if in_order:
                sortable = band.keys(moved) << 32
                sortable |= np.arange(len(moved))
                sortable.sort()
                numbers = sortable & 0xFFFFFFFF
                hashes = moved[numbers]
            for start in range(0, len(hashes), _LOOKUPS):
                for rows, ids, differences, compared in band.near(hashes[start : start + _LOOKUPS], self.radius):
                    seen += compared
                    if not len(rows):
                        continue
                    new = np.ones(len(rows), bool)
                    for earlier in self._bands[:number]:
                        new &= ~earlier.shows(differences)
                    rows = rows[new] + start
                    if numbers is not None:
                        rows = numbers[rows]
                    match = rows * len(self._evals)
                    match += ids[new]
                    match <<= _DISTANCE_BITS
                    match |= np.bitwise_count(differences[new])
                    found.append(match)
        return self._spread_out(*_unpacked(found, len(self._evals)), seen)

    def _spread_out(self, rows: Numbers, ids: Numbers, distance: NDArray[np.uint8], seen: int) -> Matches:
        """Matches with equal eval hashes as matches with each of them."""
        if self._spread is None:
            return Matches(rows, ids, distance, seen)
        sizes, starts, members = self._spread
        counts = sizes[ids]
        ends = np.cumsum(counts)
        places = np.repeat(starts[ids] - ends + counts, counts)
        places += np.arange(len(places))
        return Matches(
            *_in_order(np.repeat(rows, counts), members[places], np.repeat(distance, counts), self._count), seen
        )


class _Product:
    """Brute force: eval hashes packed eight to a float64, those of a crowd side by side."""

    def __init__(self, evals: Hashes, radius: int) -> None:
        self.evals, self.radius = evals, radius
        self.centres = _centres(evals)
        # Crowd of each eval hash: the nearest centre's, or the last for those near none; within a crowd by number.
        crowd = np.full(len(evals), len(self.centres))
        nearest = np.full(len(evals), _CROWD_BITS + 1, np.uint8)
        for number, centre in enumerate(self.centres):
            distance = np.bitwise_count(evals ^ centre)
            closer = distance < nearest
            crowd[closer] = number
            nearest[closer] = distance[closer]
        members = [np.flatnonzero(crowd == number) for number in range(len(self.centres) + 1)]
        words = [-(-len(some) // _FIELDS) for some in members]
        self.reach = [int(nearest[some].max(initial=0)) + radius for some in members[:-1]]
        self.crowd_of_word = np.repeat(np.arange(len(members)), words)
        self.numbers = np.zeros(sum(words) * _FIELDS, np.int32)
        used = np.zeros(len(self.numbers), bool)
        start = 0
        for some, length in zip(members, words, strict=True):
            self.numbers[start : start + len(some)] = some
            used[start : start + len(some)] = True
            start += length * _FIELDS
        self.packed, self.tops = _pack(evals[self.numbers], used)

    def needed(self, hashes: Hashes) -> Numbers:
        """Which crowds a hash must be compared with, bit by bit: the last always, others within their reach."""
        needed = np.full(len(hashes), 1 << len(self.centres), np.int64)
        for number, (centre, reach) in enumerate(zip(self.centres, self.reach, strict=True)):
            needed |= (np.bitwise_count(hashes ^ centre) <= reach).astype(np.int64) << number
        return needed

    def cost(self, hashes: Hashes) -> float:
        """Estimated nanoseconds to compare a hash like these."""
        needed = self.needed(hashes)
        words = np.bincount(self.crowd_of_word, minlength=len(self.centres) + 1)
        shares = [float(((needed >> crowd) & 1).mean()) for crowd in range(len(words))]
        return _PER_PAIR * _FIELDS * float(np.dot(words, shares))

    def search(self, block: Hashes) -> tuple[Numbers, Numbers, NDArray[np.uint8], int]:
        """Rows, eval numbers and distances in order; pairs compared."""
        if not len(self.centres):
            order, groups = None, [(0, len(block), -1)]
        else:
            needed = self.needed(block)
            order = np.argsort(needed, kind="stable")
            groups = _groups(needed[order])
        counts = np.zeros(len(block), np.int64)
        seen = 0
        found: list[tuple[NDArray[np.int32], NDArray[np.uint8]]] = []
        for start, stop, crowds in groups:
            some = block[start:stop] if order is None else block[order[start:stop]]
            columns = np.flatnonzero((crowds >> self.crowd_of_word) & 1)
            if not len(columns):
                continue  # far from every crowd, and no eval hash is outside of crowds
            whole = len(columns) == len(self.crowd_of_word)
            packed, tops = (self.packed, self.tops) if whole else (self.packed[:, columns], self.tops[columns])
            numbers = self.numbers if whole else self.numbers.reshape(-1, _FIELDS)[columns].ravel()
            seen += len(some) * int(np.bitwise_count(tops).sum())
            self._compare(some, packed, tops, numbers, counts[start:stop], found)
        ids = np.concatenate([np.empty(0, np.int64), *(part[0] for part in found)], dtype=np.int64)
        distance = np.concatenate([np.empty(0, np.uint8), *(part[1] for part in found)])
        if order is None:
            return np.repeat(np.arange(len(block)), counts), ids, distance, seen
        # Hashes were compared group by group: bring their matches back into the order of rows.
        starts = np.empty(len(block), np.int64)
        starts[order] = np.cumsum(counts) - counts
        by_row = np.empty(len(block), np.int64)
        by_row[order] = counts
        places = np.repeat(starts - (np.cumsum(by_row) - by_row), by_row)
        places += np.arange(len(places))
        rows = np.repeat(np.arange(len(block)), by_row)
        return *_in_order(rows, ids[places], distance[places], len(self.evals)), seen

    def _compare(
        self,
        hashes: Hashes,
        packed: NDArray[np.float64],
        tops: Numbers,
        numbers: NDArray[np.int32],
        counts: Numbers,
        found: list[tuple[NDArray[np.int32], NDArray[np.uint8]]],
    ) -> None:
        """Compare hashes with packed columns: how many match each goes to `counts`, which and how far to `found`."""
        words = packed.shape[1]
        height = min(max(_TILE // max(words, 1), 16), 4096, len(hashes))
        width = min(words, _WORDS)
        cells = np.empty(height * width)
        flags = np.empty(height * width, bool)
        for start in range(0, len(hashes), height):
            some = hashes[start : start + height]
            columns = _columns(some, self.radius)
            parts = []
            for first in range(0, words, _WORDS):
                last = min(first + _WORDS, words)
                shape, size = (len(some), last - first), len(some) * (last - first)
                product = np.matmul(columns, packed[:, first:last], out=cells[:size].reshape(shape)).view(np.int64)
                np.bitwise_and(product, tops[first:last], out=product)
                shown = product.ravel()
                at = np.flatnonzero(np.not_equal(shown, 0, out=flags[:size]))
                part = self._decode(some, at, shown[at].view(np.uint64), last - first, numbers[first * _FIELDS :])
                parts.append(part)
            by_row, ids, distance = parts[0] if len(parts) == 1 else _merged(parts)
            counts[start : start + height] = by_row
            found.append((ids, distance))

    def _decode(
        self, hashes: Hashes, at: Numbers, fields: Hashes, width: int, numbers: NDArray[np.int32]
    ) -> tuple[Numbers, NDArray[np.int32], NDArray[np.uint8]]:
        """Matches of each hash, and the numbers and distances of all of them, from the words that show any."""
        fields *= np.uint64(_GATHER)
        fields >>= np.uint64(56)
        shown = np.flatnonzero(np.unpackbits(fields.astype(np.uint8), bitorder="little").view(bool))
        row_starts = np.arange(len(hashes) + 1) * width
        word_cuts = np.searchsorted(at, row_starts)
        cuts = np.searchsorted(shown, word_cuts * _FIELDS)
        by_row = np.diff(cuts)
        # Place of a match = 8 * (word within its row) + bit; `shown` counts 8 a word that shows any.
        at -= np.repeat(row_starts[:-1], np.diff(word_cuts))
        at -= np.arange(len(at))
        at <<= 3
        places = at.take(shown >> 3)
        places += shown
        ids = numbers.take(places)
        differences = np.repeat(hashes, by_row)
        differences ^= self.evals.take(ids)
        distance = np.bitwise_count(differences)
        keep = np.flatnonzero(distance <= self.radius)
        if len(keep) == len(ids):
            return by_row, ids, distance
        return np.diff(np.searchsorted(keep, cuts)), ids[keep], distance[keep]


class _Band:
    """Eval hashes listed under every key within `flips` of their own in one band of `width` bits from `shift` on."""

    def __init__(self, evals: Hashes, shift: int, width: int, flips: int) -> None:
        self.shift, self.width, self.flips = np.uint64(shift), width, flips
        self.low_bits = np.uint64((1 << width) - 1)
        every = np.arange(1 << width, dtype=np.uint64)
        masks = every[np.bitwise_count(every) <= flips]
        # Key and number in one integer: sorting gives lists in key order, numbers ascending, whatever the sort does.
        sortable = np.empty((len(masks), len(evals)), np.uint64)
        np.bitwise_xor(masks[:, None], (evals >> self.shift) & self.low_bits, out=sortable)
        sortable <<= np.uint64(32)
        sortable |= np.arange(len(evals), dtype=np.uint64)
        flat = sortable.ravel()
        flat.sort()
        self.ids = flat.astype(np.uint32).view(np.int32)
        flat >>= np.uint64(32)
        ends = np.zeros((1 << width) + 1, np.int32 if len(flat) < 1 << 31 else np.int64)
        np.cumsum(np.bincount(flat.view(np.int64), minlength=1 << width), out=ends[1:])
        self.ends: NDArray[Any] = ends
        del sortable, flat
        self.hashes = evals[self.ids]

    def keys(self, hashes: Hashes) -> Numbers:
        """Keys of hashes, as int64: what numpy indexes with."""
        return ((hashes >> self.shift) & self.low_bits).view(np.int64)

    def lists(self, hashes: Hashes) -> tuple[Numbers, Numbers]:
        """Where the list of each hash starts, and how long it is (32-bit where that is enough)."""
        keys = self.keys(hashes)
        first: Numbers = self.ends.take(keys)
        keys += 1
        counts: Numbers = self.ends.take(keys) - first
        return first, counts

    def shows(self, differences: Hashes) -> NDArray[np.bool_]:
        """Whether pairs with these differing bits meet in this band."""
        shown: NDArray[np.bool_] = np.bitwise_count((differences >> self.shift) & self.low_bits) <= self.flips
        return shown

    def near(self, hashes: Hashes, radius: int) -> Iterator[tuple[Numbers, NDArray[np.int32], Hashes, int]]:
        """Position among `hashes`, eval number and differing bits of listed pairs within the radius; pairs compared."""
        first, counts = self.lists(hashes)
        long = np.flatnonzero(counts >= _LONG_LIST)
        # Neighbours with the same list, as key order brings them together, share its way through the caches.
        same = np.flatnonzero(np.diff(first[long])) + 1
        for together in np.split(long, same) if len(long) else []:
            start, count = int(first[together[0]]), int(counts[together[0]])
            listed, ids = self.hashes[start : start + count], self.ids[start : start + count]
            step = max(_CANDIDATES // count, 1)
            for low in range(0, len(together), step):
                some = together[low : low + step]
                differences = (hashes[some][:, None] ^ listed).ravel()
                hits = np.flatnonzero(np.bitwise_count(differences) <= radius)
                rows = hits // count
                yield some[rows], ids[hits - rows * count], differences[hits], len(differences)
        counts[long] = 0
        ends = np.cumsum(counts, dtype=np.int64)
        total = int(ends[-1])
        pieces = -(-total // _CANDIDATES)
        cuts = [0, *np.searchsorted(ends, np.arange(1, pieces) * _CANDIDATES).tolist(), len(hashes)]
        for low, high in itertools.pairwise(cuts):
            if low == high:
                continue
            done = int(ends[low - 1]) if low else 0
            lengths = counts[low:high]
            last = ends[low:high] - done
            jump = first[low:high] - (last - lengths)
            places = np.repeat(jump, lengths)
            places += _COUNTING[: len(places)]
            differences = self.hashes.take(places)
            differences ^= np.repeat(hashes[low:high], lengths)
            hits = np.flatnonzero(np.bitwise_count(differences) <= radius)
            rows = np.searchsorted(last, hits, side="right")
            yield rows + low, self.ids[places[hits]], differences[hits], len(places)


_COUNTING = np.arange(_CANDIDATES + _LONG_LIST)
_NOTHING = Matches(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))
_BYTES = np.arange(256, dtype=np.uint8)


def _check(hashes: Hashes, side: str) -> None:
    if not isinstance(hashes, np.ndarray) or hashes.dtype != np.uint64 or hashes.ndim != 1:
        kind = f"{hashes.dtype} {hashes.shape}" if isinstance(hashes, np.ndarray) else type(hashes).__name__
        raise ValueError(f"{side} hashes: {kind}, give a flat numpy array of uint64")


def _ball(width: int, flips: int) -> int:
    """Keys of `width` bits within `flips` of a given one."""
    return sum(math.comb(width, count) for count in range(flips + 1))


def _thresholds(radius: int, bands: int) -> tuple[int, ...] | None:
    """Flips each band allows: as even as they get, with the sum that makes the join complete."""
    if radius - bands + 1 < 0:
        return None
    each, rest = divmod(radius - bands + 1, bands)
    return (*(each + 1 for _ in range(rest)), *(each for _ in range(bands - rest)))


def _bits_by_use(differences: Hashes) -> list[int]:
    """Bits, those first that tell most pairs apart."""
    shares = [np.count_nonzero(differences & np.uint64(1 << bit)) for bit in range(BITS)]
    return sorted(range(BITS), key=lambda bit: (-shares[bit], bit))


def _deal(order: list[int], flips: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Deal bits to bands in turn; a band that allows a flip more gets two bits more (its lists grow as fast again)."""
    spare = BITS - 2 * (sum(flips) - len(flips) * flips[-1])
    target = [spare / len(flips) + 2 * (limit - flips[-1]) for limit in flips]
    bands: list[list[int]] = [[] for _ in flips]
    for bit in order:
        least = min(range(len(flips)), key=lambda band: (len(bands[band]) / target[band], band))
        bands[least].append(bit)
    return [tuple(band) for band in bands]


def _lookup_cost(candidates: list[float], in_order: bool) -> float:
    """Nanoseconds a train hash costs that has so many candidates in each band."""
    cost = _PER_HASH
    for count in candidates:
        cost += _PER_SORTED_LOOKUP if in_order else _PER_LOOKUP
        short = count * (_PER_SORTED_CANDIDATE if in_order else _PER_CANDIDATE)
        long = _PER_LONG_LIST + count * (_PER_SORTED_LONG_CANDIDATE if in_order else _PER_LONG_CANDIDATE)
        cost += short if count < _LONG_LIST else min(short, long)
    return cost


def _permute(hashes: Hashes, order: tuple[int, ...]) -> Hashes:
    """Bit order[p] of every hash moves to position p, by eight 256-entry tables."""
    tables = np.zeros((8, 256), np.uint64)
    for position, bit in enumerate(order):
        tables[bit // 8, (_BYTES >> (bit % 8)) & 1 == 1] |= np.uint64(1 << position)
    moved = np.empty(len(hashes), np.uint64)
    for start in range(0, len(hashes), _LOOKUPS):
        octets = _octets(hashes[start : start + _LOOKUPS])
        part = tables[0].take(octets[:, 0])
        for place in range(1, 8):
            part |= tables[place].take(octets[:, place])
        moved[start : start + _LOOKUPS] = part
    return moved


def _octets(hashes: Hashes) -> NDArray[np.uint8]:
    """(n, 8) bytes, lowest first."""
    return np.ascontiguousarray(hashes, "<u8").view(np.uint8).reshape(-1, 8)


def _pack(evals: Hashes, used: NDArray[np.bool_]) -> tuple[NDArray[np.float64], Numbers]:
    """(66, words) and bit 5 of used fields, (words,): rows 0 to 63 the bits, then minus half the ones, then ones."""
    words = len(evals) // _FIELDS
    packed = np.zeros((BITS + 2, words))
    tops = np.zeros(words, np.int64)
    for start, place in zip(_FIELD_STARTS, _FIELD_HASH, strict=True):
        some = evals[place::_FIELDS]
        for first in range(0, words, _LOOKUPS):
            bits = np.unpackbits(_octets(some[first : first + _LOOKUPS]), axis=1, bitorder="little")
            packed[:BITS, first : first + len(bits)] += bits.T * float(1 << start)
        packed[BITS] -= (np.bitwise_count(some) >> 1) * float(1 << start)
        tops |= used[place::_FIELDS].astype(np.int64) << (start + 5)
    packed[BITS + 1] = 1.0
    return packed, tops


def _columns(hashes: Hashes, radius: int) -> NDArray[np.float64]:
    """(n, 66), to be multiplied with packed evals: a field becomes 32 + (radius - d) / 2, rounded up by odd ones."""
    columns = np.empty((len(hashes), BITS + 2))
    columns[:, :BITS] = np.unpackbits(_octets(hashes), axis=1, bitorder="little")
    columns[:, BITS] = 1.0
    columns[:, BITS + 1] = (32.0 + radius // 2 - (np.bitwise_count(hashes) >> 1)) * _FIELD_ONES + 2.0**52
    return columns


def _centres(evals: Hashes) -> Hashes:
    """Centres of crowds among eval hashes: the majority of every bit among a hash and those near it, fullest first."""
    some = evals[:: -(-len(evals) // _CROWD_SAMPLE)]
    near = np.bitwise_count(some[:, None] ^ some) <= _CROWD_BITS
    alive = np.ones(len(some), bool)
    centres: list[np.uint64] = []
    while len(centres) < _MAX_CROWDS:
        sizes = np.count_nonzero(near & alive, axis=1)
        fullest = int(sizes.argmax())
        if sizes[fullest] < max(len(some) // _CROWD_SHARE, 4):
            break
        crowd = near[fullest] & alive
        shares = np.unpackbits(_octets(some[crowd]), axis=1, bitorder="little").mean(axis=0)
        centre = np.packbits(shares > 0.5, bitorder="little").view("<u8").astype(np.uint64)[0]
        centres.append(centre)
        alive &= ~crowd
        alive &= np.bitwise_count(some ^ centre) > _CROWD_BITS
    return np.array(centres, np.uint64)


def _groups(needed: Numbers) -> list[tuple[int, int, int]]:
    """Start, stop and crowds of runs of hashes that need the same crowds; small runs are put together."""
    cuts = [0, *(np.flatnonzero(np.diff(needed)) + 1).tolist(), len(needed)]
    groups: list[tuple[int, int, int]] = []
    for start, stop in itertools.pairwise(cuts):
        crowds = int(needed[start])
        if groups and groups[-1][1] - groups[-1][0] < _GROUP_ROWS:
            before, _, others = groups.pop()
            groups.append((before, stop, others | crowds))
        else:
            groups.append((start, stop, crowds))
    return groups


def _merged(
    parts: list[tuple[Numbers, NDArray[np.int32], NDArray[np.uint8]]],
) -> tuple[Numbers, NDArray[np.int32], NDArray[np.uint8]]:
    """Matches of the same hashes in several ranges of columns, brought together hash by hash."""
    rows = np.concatenate([np.repeat(np.arange(len(by_row)), by_row) for by_row, _, _ in parts])
    order = np.argsort(rows, kind="stable")
    by_row = np.sum([part[0] for part in parts], axis=0)
    ids = np.concatenate([ids for _, ids, _ in parts])[order]
    return by_row, ids, np.concatenate([distance for _, _, distance in parts])[order]


def _unpacked(found: list[Numbers], evals: int) -> tuple[Numbers, Numbers, NDArray[np.uint8]]:
    """Rows, ids and distances of matches that are one number each, in order."""
    every = np.concatenate([np.empty(0, np.int64), *found])
    every.sort()
    distance = (every & _DISTANCE).astype(np.uint8)
    every >>= _DISTANCE_BITS
    rows = every // evals
    every -= rows * evals
    return rows, every, distance


def _in_order(
    rows: Numbers, ids: Numbers, distance: NDArray[np.uint8], evals: int
) -> tuple[Numbers, Numbers, NDArray[np.uint8]]:
    """Matches sorted by row and id, given sorted by row."""
    broken = np.flatnonzero((ids[1:] <= ids[:-1]) & (rows[1:] == rows[:-1]))
    if len(broken):
        # Only the matches of rows that are out of order are sorted; runs in order make a stable sort quick.
        again = np.zeros(int(rows[-1]) + 1, bool)
        again[rows[broken]] = True
        at = np.flatnonzero(again[rows])
        every = ((rows[at] * evals + ids[at]) << _DISTANCE_BITS) | distance[at]
        every.sort(kind="stable")
        distance[at] = every & _DISTANCE
        every >>= _DISTANCE_BITS
        ids[at] = every - rows[at] * evals
    return rows, ids, distance


def _with_start(matches: Matches, start: int) -> Matches:
    return replace(matches, rows=matches.rows + start) if start else matches


def _joined(parts: list[Matches]) -> Matches:
    if len(parts) == 1:
        return parts[0]
    some = [_NOTHING, *parts]
    rows, ids = (np.concatenate([getattr(part, name) for part in some]) for name in ("rows", "ids"))
    distance = np.concatenate([part.distance for part in some])
    return Matches(rows, ids, distance, sum(part.candidates for part in parts))
