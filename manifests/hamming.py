"""Complete radius join of 64-bit perceptual hashes: every pair within an even Hamming distance, none missed.

Two ways find the same pairs; the cheaper one is chosen from counts on a sample of both sides.

*Bands.* Cut the 64 bits into m bands with thresholds t_i that add up to radius - m + 1. If a pair passed every threshold,
it would differ in at least sum(t_i + 1) = radius + 1 bits; so a pair within the radius has a band with at most t_i
differing bits (the generalised pigeonhole principle; Qin et al., "GPH", ICDE 2018). The eval hashes are listed under
every key that lies within t_i flips of theirs; a train hash looks its own key up. A pair that several bands show is
reported by the first.

*Brute force by matrix product.* Six eval bits go into one float64 as 8-bit fields, train bits are +1 and -1. The product
of 64 such columns is |a| - d in every field; one more column adds 128 + radius - |a| and 2^52, so that all sums are
integers below 2^53, exact in any order of summation, and a byte of the result is 128 or more just where d <= radius.

Set OPENBLAS_NUM_THREADS=1 where `workers` threads run: the result is the same without it, the time is not.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
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

_FIELDS = 6
"""Eval hashes in one float64: six 8-bit fields are 48 of the 52 bits of its fraction."""
_FIELD_ONES = float(sum(1 << (8 * field) for field in range(_FIELDS)))
_FIELD_TOPS = sum(0x80 << (8 * field) for field in range(_FIELDS))
_WORDS = 8192
"""Most float64 columns of one product; up to 49,152 eval hashes then need no merging of tiles."""
_TILE = 1 << 18
"""Float64 cells of one product, 2 MiB."""
_PACKED_BYTES = 128
"""Memory an eval hash takes in every index: 88 bytes packed for the product, 40 for hashes, numbers and groups."""

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

# Nanoseconds of CPU on a 2-core x86-64 server (EPYC, 2.6 GHz); only ratios matter, and only for speed.
_PER_PAIR = 0.65
_PER_BRUTE_HIT = 14.0
_PER_HASH = 40.0
_PER_LOOKUP = 65.0
_PER_SORTED_LOOKUP = 110.0
_PER_CANDIDATE = 7.0
_PER_SORTED_CANDIDATE = 3.0
_PER_LONG_CANDIDATE = 1.2
_PER_LONG_LIST = 4000.0
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
class _Plan:
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
        self._chosen: _Plan | None = None
        self._order: tuple[int, ...] = ()
        # Equal eval hashes are compared once where that saves a third of the work; matches are spread out afterwards.
        unique, inverse = np.unique(evals, return_inverse=True)
        self._spread: tuple[Numbers, Numbers, Numbers] | None = None
        if len(unique) < 0.7 * len(evals):
            sizes = np.bincount(inverse, minlength=len(unique)).astype(np.int64)
            self._spread = sizes, np.cumsum(sizes) - sizes, np.argsort(inverse, kind="stable")
            evals = unique
        self._evals = np.ascontiguousarray(evals)
        self._packed: list[NDArray[np.float64]] = []
        self._tops: list[Numbers] = []

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
            self._chosen = self._choose(train, max(expected, 1))
            if self._chosen is not None:
                self._build(self._chosen)
            for first in range(0, len(self._evals), _WORDS * _FIELDS):
                packed, tops = _pack_evals(self._evals[first : first + _WORDS * _FIELDS])
                self._packed.append(packed)
                self._tops.append(tops)
            self._prepared = True

    def search(self, train: Hashes) -> Matches:
        """Every pair of a hash of `train` (uint64, (n,)) and an eval hash within the radius."""
        _check(train, "train")
        self.prepare(train)
        train = np.ascontiguousarray(train)
        parts = []
        if self._count:
            for start in range(0, len(train), BLOCK):
                block = train[start : start + BLOCK]
                found = self._by_bands(block) if self._worth_bands(block) else self._by_product(block)
                parts.extend(_with_start(part, start) for part in found)
        return _joined(parts)

    def search_blocks(self, train: Hashes, workers: int = 1, block: int = BLOCK) -> Iterator[Matches]:
        """Matches of one block of train hashes after the other, in order, found by `workers` threads.

        Rows count from the start of `train`. At most `workers` + 1 blocks are held: for joins whose matches would not
        fit into memory. Raises `ValueError` for less than one worker or hash a block.
        """
        if workers < 1 or block < 1:
            raise ValueError(f"{workers} workers, blocks of {block} hashes: give at least 1")
        _check(train, "train")
        self.prepare(train)
        starts = range(0, len(train), block)
        if workers == 1:
            for start in starts:
                yield _with_start(self.search(train[start : start + block]), start)
            return
        with ThreadPoolExecutor(workers) as threads:
            running: deque[tuple[int, Future[Matches]]] = deque()
            try:
                for start in starts:
                    if len(running) > workers:
                        first, future = running.popleft()
                        yield _with_start(future.result(), first)
                    running.append((start, threads.submit(self.search, train[start : start + block])))
                while running:
                    first, future = running.popleft()
                    yield _with_start(future.result(), first)
            finally:
                for _, future in running:
                    future.cancel()

    # Choosing

    def _choose(self, train: Hashes, expected: int) -> _Plan | None:
        """The plan of the least estimated cost, or None where brute force costs least."""
        if self._path == "brute":
            return None
        some = train[:: -(-len(train) // _SAMPLE_TRAIN)]
        others = self._evals[:: -(-len(self._evals) // _SAMPLE_EVALS)]
        differences = (some[:, None] ^ others).ravel()
        hits = np.bitwise_count(differences) <= self.radius
        hit_differences = differences[hits]
        per_hash = len(self._evals) / len(differences)
        best = self._brute_cost(len(hit_differences) * per_hash) if self._path is None else math.inf
        chosen = None
        order = _bits_by_use(differences)
        budget = self._memory - self._count * _PACKED_BYTES
        for count in range(1, _MAX_BANDS + 1):
            flips = _thresholds(self.radius, count)
            if flips is None:
                break
            bands = _deal(order, flips)
            for bits in _KEY_BITS:
                plan = _Plan(tuple(band[:bits] for band in bands), flips)
                bytes_needed = plan.entries() * len(self._evals) * _ENTRY_BYTES + sum(
                    8 * _ball(len(key), limit) * len(self._evals) + 16 * (1 << len(key))
                    for key, limit in zip(plan.keys, plan.flips, strict=True)
                )
                if bytes_needed > budget:
                    continue
                build = plan.entries() * len(self._evals) * _PER_ENTRY / expected
                if build >= best:
                    continue
                candidates, shown = [], 0
                for mask, limit in zip(plan.masks(), flips, strict=True):
                    candidates.append(np.count_nonzero(np.bitwise_count(differences & mask) <= limit) * per_hash)
                    shown += np.count_nonzero(np.bitwise_count(hit_differences & mask) <= limit)
                hit_cost = (shown * _PER_BAND_HIT + len(hit_differences) * _PER_HIT) * per_hash
                for in_order in (False, True):
                    cost = build + hit_cost + _lookup_cost(candidates, in_order)
                    if cost < best and (self._path is None or in_order == (self._path == "ordered")):
                        best, chosen = cost, _Plan(plan.keys, flips, in_order)
                if max(map(len, plan.keys)) < bits:
                    break  # a longer key has no more bits to take
        return chosen

    def _brute_cost(self, hits: float) -> float:
        return _PER_PAIR * len(self._evals) + _PER_BRUTE_HIT * hits

    def _worth_bands(self, block: Hashes) -> bool:
        """Whether the lists, at their exact lengths for some hashes of this block, still beat brute force."""
        if self._chosen is None:
            return False
        if self._path is not None:
            return True
        some = _permute(block[:: -(-len(block) // _SAMPLE_TRAIN)], self._order)
        lengths = [float(band.lists(some)[1].mean()) for band in self._bands]
        return _lookup_cost(lengths, self._chosen.in_order) < self._brute_cost(0)

    # Bands

    def _build(self, plan: _Plan) -> None:
        """Lists of all bands. Bits are moved so that every band's key lies together."""
        used = [bit for key in plan.keys for bit in key]
        self._order = (*used, *(bit for bit in range(BITS) if bit not in set(used)))
        moved = _permute(self._evals, self._order)
        shift = 0
        for key, flips in zip(plan.keys, plan.flips, strict=True):
            self._bands.append(_Band(moved, shift, len(key), flips))
            shift += len(key)

    def _by_bands(self, block: Hashes) -> list[Matches]:
        moved = _permute(block, self._order)
        assert self._chosen is not None
        seen = 0
        found: list[Numbers] = []
        for number, band in enumerate(self._bands):
            numbers: Numbers | None = None
            hashes = moved
            if self._chosen.in_order:
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
        every = np.concatenate(found) if found else np.empty(0, np.int64)
        every.sort()
        return [self._unpacked(every, seen)]

    # Brute force

    def _by_product(self, block: Hashes) -> list[Matches]:
        widest = self._packed[0].shape[1]
        height = max(1, min(_TILE // widest, len(block)))
        product = np.empty(height * widest)
        tops = np.empty(height * widest, np.int64)
        flags = np.empty(height * widest, bool)
        parts: list[Matches] = []
        for start in range(0, len(block), height):
            some = block[start : start + height]
            signs = _signs(some, self.radius)
            found = []
            for tile, packed in enumerate(self._packed):
                cells = len(some) * packed.shape[1]
                np.matmul(signs, packed, out=product[:cells].reshape(len(some), -1))
                words = product[:cells].view(np.int64)
                np.bitwise_and(words.reshape(len(some), -1), self._tops[tile], out=tops[:cells].reshape(len(some), -1))
                at = np.flatnonzero(np.not_equal(tops[:cells], 0, out=flags[:cells]))
                if not len(at):
                    continue
                hits = np.flatnonzero(tops[at].view(np.int8) < 0)
                fields = words[at].view(np.uint8)
                base = at // packed.shape[1]
                at -= base * packed.shape[1]
                at += tile * _WORDS
                at *= _FIELDS
                base += start
                base *= len(self._evals)
                base += at
                base <<= _DISTANCE_BITS
                match = base[hits >> 3]
                distance = np.uint8(128 + self.radius) - fields[hits]
                hits &= 7
                hits <<= _DISTANCE_BITS
                match += hits
                match += distance
                found.append(match)
            if found:
                every = found[0] if len(found) == 1 else np.concatenate(found)
                if len(found) > 1:
                    every.sort()
                parts.append(self._unpacked(every, 0))
        return [*parts, Matches(*_NOTHING, len(block) * len(self._evals))]

    def _unpacked(self, every: Numbers, seen: int) -> Matches:
        """Sorted one-number matches as arrays, spread over equal eval hashes."""
        distance = (every & _DISTANCE).astype(np.uint8)
        every >>= _DISTANCE_BITS
        rows = every // len(self._evals)
        every -= rows * len(self._evals)
        if self._spread is None:
            return Matches(rows, every, distance, seen)
        sizes, starts, members = self._spread
        counts = sizes[every]
        ends = np.cumsum(counts)
        at = np.arange(ends[-1] if len(ends) else 0)
        at += np.repeat(starts[every] - ends + counts, counts)
        spread = np.repeat(rows, counts)
        spread *= self._count
        spread += members[at]
        spread <<= _DISTANCE_BITS
        spread |= np.repeat(distance, counts)
        if not (spread[1:] > spread[:-1]).all():
            spread.sort()
        distance = (spread & _DISTANCE).astype(np.uint8)
        spread >>= _DISTANCE_BITS
        rows = spread // self._count
        spread -= rows * self._count
        return Matches(rows, spread, distance, seen)


def join(
    train: Hashes,
    evals: Hashes,
    radius: int,
    workers: int = 1,
    progress: Callable[[int], object] | None = None,
    memory: int = 2 << 30,
) -> Matches:
    """Every pair of a train hash and an eval hash (uint64, (n,) and (m,)) within an even radius of 0 to 16 bits.

    `progress` is told after each block how many train hashes are done. `memory` bounds the index, not the matches: for
    more of those than fit, use `HammingIndex.search_blocks`. Raises `ValueError` as `HammingIndex` does.
    """
    index = HammingIndex(evals, radius, memory)
    _check(train, "train")
    block = max(1, min(BLOCK, -(-len(train) // max(workers, 1))))
    parts = []
    for number, part in enumerate(index.search_blocks(train, workers, block), 1):
        parts.append(part)
        if progress is not None:
            progress(min(number * block, len(train)))
    return _joined(parts)


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
        self.ends = np.zeros((1 << width) + 1, np.int32 if len(flat) < 1 << 31 else np.int64)
        np.cumsum(np.bincount(flat.view(np.int64), minlength=1 << width), out=self.ends[1:])
        del sortable, flat
        self.hashes = evals[self.ids]

    def keys(self, hashes: Hashes) -> Numbers:
        """Keys of hashes, as int64: what numpy indexes with."""
        return ((hashes >> self.shift) & self.low_bits).view(np.int64)

    def lists(self, hashes: Hashes) -> tuple[NDArray[Any], NDArray[Any]]:
        """Where the list of each hash starts, and how long it is."""
        keys = self.keys(hashes)
        first = self.ends.take(keys)
        keys += 1
        return first, self.ends.take(keys) - first

    def shows(self, differences: Hashes) -> NDArray[np.bool_]:
        """Whether pairs with these differing bits meet in this band."""
        key = (differences >> self.shift) & self.low_bits
        return np.bitwise_count(key) <= self.flips

    def near(self, hashes: Hashes, radius: int) -> Iterator[tuple[Numbers, NDArray[np.int32], Hashes, int]]:
        """Position among `hashes`, eval number and differing bits of listed pairs within the radius; pairs compared."""
        first, counts = self.lists(hashes)
        long = np.flatnonzero(counts >= _LONG_LIST)
        for row in long.tolist():
            start, count = int(first[row]), int(counts[row])
            differences = self.hashes[start : start + count] ^ hashes[row]
            hits = np.flatnonzero(np.bitwise_count(differences) <= radius)
            yield np.full(len(hits), row), self.ids[start : start + count][hits], differences[hits], count
        counts[long] = 0
        ends = np.cumsum(counts, dtype=np.int64)
        total = int(ends[-1])
        pieces = -(-total // _CANDIDATES)
        cuts = [0, *np.searchsorted(ends, np.arange(1, pieces) * _CANDIDATES).tolist(), len(hashes)]
        for low, high in zip(cuts[:-1], cuts[1:], strict=True):
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
_NOTHING = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8))
_BYTES = np.arange(256, dtype=np.uint8)
_BIT_TABLE = np.unpackbits(_BYTES[:, None], axis=1, bitorder="little").astype(np.float64)


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
        cost += short if count < _LONG_LIST else min(short, _PER_LONG_LIST + count * _PER_LONG_CANDIDATE)
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


def _pack_evals(evals: Hashes) -> tuple[NDArray[np.float64], Numbers]:
    """(65, words): row k holds bit k of six eval hashes a word, row 64 ones; (words,): the top bits of used fields."""
    words = -(-len(evals) // _FIELDS)
    packed = np.zeros((BITS + 1, words))
    for field in range(_FIELDS):
        some = evals[field::_FIELDS]
        weight = float(1 << (8 * field))
        packed[:BITS, : len(some)] += _BIT_TABLE[_octets(some)].reshape(-1, BITS).T * weight
    packed[BITS] = 1.0
    tops = np.full(words, _FIELD_TOPS)
    tops[-1] >>= 8 * (words * _FIELDS - len(evals))
    return packed, tops


def _signs(hashes: Hashes, radius: int) -> NDArray[np.float64]:
    """(n, 65): +1 and -1 for ones and zeros, and the constant that makes a field 128 + radius - distance."""
    signs = np.empty((len(hashes), BITS + 1))
    np.multiply(_BIT_TABLE[_octets(hashes)].reshape(-1, BITS), 2.0, out=signs[:, :BITS])
    signs[:, :BITS] -= 1.0
    signs[:, BITS] = (128.0 + radius - np.bitwise_count(hashes)) * _FIELD_ONES + 2.0**52
    return signs


def _with_start(matches: Matches, start: int) -> Matches:
    return Matches(matches.rows + start, matches.ids, matches.distance, matches.candidates) if start else matches


def _joined(parts: list[Matches]) -> Matches:
    if len(parts) == 1:
        return parts[0]
    return Matches(
        np.concatenate([_NOTHING[0], *(part.rows for part in parts)]),
        np.concatenate([_NOTHING[1], *(part.ids for part in parts)]),
        np.concatenate([_NOTHING[2], *(part.distance for part in parts)]),
        sum(part.candidates for part in parts),
    )
