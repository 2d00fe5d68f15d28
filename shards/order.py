"""The order of an epoch: a pure function of (seed, epoch, mixture, certificate), reached at any position at once.

The schedule of the mixture says from which source a position draws, and how many draws of it went before; a keyed
permutation of that source's samples says which sample. Nothing is shuffled in memory and nothing is stored, so a state
is a position, and ranks, workers and batch sizes decide only who computes which positions.

A source is gone through in complete passes: draw g of it, counted over all epochs, is number `g % len` of pass `g //
len`, and every pass has a permutation of its own. So after any number of draws no sample was drawn more than once more
than any other.
"""

import hashlib
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import orjson

from medgpt.digest import json_sha256
from medgpt.errors import UserError
from shards.certified import Certified
from shards.columns import Int32, Int64, UInt64, check_range
from shards.mixture import PRESETS, Mixture, Schedule

ROUNDS = 8
"""Even, so that both halves are mixed equally often. Four make a pseudorandom permutation of a good round function
(Luby and Rackoff 1988); on domains of some dozen numbers more are needed, and the tests measure that eight do."""

_HALF = np.uint64(32)
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
"""Multipliers of splitmix64 (Steele, Lea, Flood 2014)."""


class Permutation:
    """A keyed permutation of 0 to size - 1, computed for any index alone; equal on every platform.

    A Feistel network over pairs (index // b, index % b) with b the square root of `size`, rounded up: halves are added
    modulo a and b, so the network permutes a * b numbers, at most 2 sqrt(size) more than wanted. What falls outside is
    permuted again until it is inside (cycle walking; Black and Rogaway 2002), which leaves a bijection. Round keys are
    BLAKE2b of `key`. It shuffles well; it is no cipher.
    """

    def __init__(self, size: int, key: bytes) -> None:
        if size < 0:
            raise ValueError(f"size {size} is negative")
        self.size = size
        self._widths = _widths(size)
        self._keys = round_keys(key)

    def __len__(self) -> int:
        return self.size

    def __call__(self, indices: npt.ArrayLike) -> Int64:
        """Where each of [n] indices goes. Raises: `IndexError`."""
        values = np.asarray(indices, np.int64)
        check_range(values, self.size)
        return _walk(values, np.uint64(self.size), *self._widths, self._keys)


def round_keys(key: bytes) -> UInt64:
    """[ROUNDS] keys of the rounds."""
    digest = hashlib.blake2b(key, digest_size=8 * ROUNDS, person=b"medgpt-oss order").digest()
    return np.frombuffer(digest, "<u8").astype(np.uint64)


def _widths(size: int) -> tuple[np.uint64, np.uint64]:
    """(a, b) with a * b >= size, both near its square root."""
    root = max(1, int(np.ceil(np.sqrt(float(size)))))
    while root * root < size:  # a float's square root of a large number may be one too low
        root += 1
    return np.uint64(max(1, -(-size // root))), np.uint64(root)


def _scramble(half: UInt64, key: Any, width: Any) -> UInt64:
    """A hash of a half and a round's key, from 0 to width - 1; widths are below 2**32."""
    mixed = (half + key) * _MIX[0]
    mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[1]
    mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[2]
    # The upper half as a fraction of the width (Lemire 2019): no division, and less than 2**-32 * width from even.
    result: UInt64 = ((mixed >> _HALF) * width) >> _HALF
    return result


def _encrypt(values: UInt64, a: Any, b: Any, keys: Any) -> UInt64:
    left, right = np.divmod(values, b)
    for number in range(0, ROUNDS, 2):
        left = left + _scramble(right, keys[number], a)
        left = np.where(left >= a, left - a, left)
        right = right + _scramble(left, keys[number + 1], b)
        right = np.where(right >= b, right - b, right)
    result: UInt64 = left * b + right
    return result


def _walk(indices: Int64, size: Any, a: Any, b: Any, keys: Any) -> Int64:
    """Repeat `_encrypt` until every value is below its size again: still a bijection.

    size, a, b are numbers, or [n] arrays with keys [ROUNDS, n]: then each index has a permutation of its own.
    """
    values = _encrypt(indices.astype(np.uint64), a, b, keys)
    outside = np.flatnonzero(values >= size)
    while len(outside):
        if isinstance(size, np.ndarray):
            moved = _encrypt(values[outside], a[outside], b[outside], keys[:, outside])
            outside_still = moved >= size[outside]
        else:
            moved = _encrypt(values[outside], a, b, keys)
            outside_still = moved >= size
        values[outside] = moved
        outside = outside[outside_still]
    return values.astype(np.int64)


class WindowedOrder:
    """A permutation with locality: shards are permuted, and samples shuffled among `window` shards at a time.

    For stores where opening a shard is dear: whoever reads in this order needs `window` shards at hand, not all of
    them. counts: [shards] samples of each; index i of the source lies in the shard in whose range of running counts it
    falls. A bijection like `Permutation`, and any place is found by two binary searches.
    """

    def __init__(self, counts: Int64, window: int, key: bytes) -> None:
        if window < 1:
            raise ValueError(f"window {window}: at least 1 shard is needed")
        self.counts, self.window, self._key = np.asarray(counts, np.int64), window, key
        shards = len(self.counts)
        self._shards = Permutation(shards, key + b"/shards")(np.arange(shards))
        """Shards in the order in which they are read."""
        sizes = self.counts[self._shards]
        self._ends = np.cumsum(sizes)
        """Samples up to and with each of these."""
        self._starts = self._ends - sizes
        self._firsts = np.cumsum(self.counts) - self.counts
        self._windows: dict[int, Permutation] = {}
        self.size = int(sizes.sum())

    def __len__(self) -> int:
        return self.size

    def __call__(self, indices: npt.ArrayLike) -> Int64:
        """Which sample stands at each of [n] places. Raises: `IndexError`."""
        places = np.asarray(indices, np.int64)
        check_range(places, self.size)
        mixed = self._within_windows(places, np.searchsorted(self._ends, places, "right") // self.window)
        slot = np.searchsorted(self._ends, mixed, "right")
        return np.asarray(self._firsts[self._shards[slot]] + mixed - self._starts[slot], np.int64)

    def _within_windows(self, places: Int64, windows: Int64) -> Int64:
        """Permute places within their windows."""
        result = np.empty_like(places)
        for number in np.unique(windows).tolist():
            here = windows == number
            first = int(self._starts[number * self.window])
            last = min((number + 1) * self.window, len(self._ends)) - 1
            permutation = self._windows.get(number)
            if permutation is None:
                if len(self._windows) >= _KEPT_WINDOWS:
                    self._windows.clear()
                key = self._key + f"/window {number}".encode()
                permutation = self._windows[number] = Permutation(int(self._ends[last]) - first, key)
            result[here] = first + permutation(places[here] - first)
        return result


_KEPT_WINDOWS = 1024
_KEPT_PASSES = 4096


class EpochOrder:
    """Samples of one epoch of a mixture, in their order.

    `window` gives locality (`WindowedOrder`): with W, each source is read W shards at a time. It changes the order, so
    it is part of `mixture_digest`.

    Raises: `UserError` if the mixture does not fit what is there.
    """

    def __init__(
        self, certified: Certified, mixture: Mixture, seed: int = 0, epoch: int = 0, *, window: int | None = None
    ) -> None:
        if seed < 0 or epoch < 0:
            raise UserError(f"seed {seed}, epoch {epoch}: neither may be negative")
        if window is not None and window < 1:
            raise UserError(f"window {window}: at least 1 shard is needed")
        self.certified, self.mixture, self.seed, self.epoch, self.window = certified, mixture, seed, epoch, window
        self.counts = mixture.counts({name: len(source) for name, source in certified.sources.items()})
        """Draws of the epoch from each source."""
        self.sources = tuple(self.counts)
        """Builds in sorted order; `at` speaks of them by number."""
        self.mixture_digest = mixture.digest if window is None else json_sha256([mixture.digest, window])
        self.schedule = Schedule(tuple(self.counts.values()), certified.folder)
        self._sizes = np.array([len(certified.sources[name]) for name in self.sources], np.int64)
        self._before = epoch * np.array(list(self.counts.values()), np.int64)
        self._keys: dict[tuple[int, int], UInt64] = {}
        self._windowed: dict[tuple[int, int], WindowedOrder] = {}
        widths = [_widths(int(size)) for size in self._sizes]
        self._a, self._b = (np.array(part, np.uint64) for part in zip(*widths, strict=True))

    def __len__(self) -> int:
        return len(self.schedule)

    @property
    def digest(self) -> str:
        """SHA-256 of all that the order is a function of."""
        return json_sha256(
            [self.certified.digest, self.mixture_digest, self.seed, self.epoch, list(self.counts.items())]
        )

    def at_epoch(self, epoch: int) -> Self:
        """The order of another epoch."""
        return type(self)(self.certified, self.mixture, self.seed, epoch, window=self.window)

    def at(self, positions: npt.ArrayLike) -> tuple[Int32, Int64]:
        """Number of the source in `sources`, and of the sample in it, for each of [n] positions.

        Raises: `IndexError`.
        """
        source, ordinal = self.schedule.source_at(np.asarray(positions, np.int64))
        number, place = np.divmod(ordinal + self._before[source], self._sizes[source])
        if self.window is not None:
            return source, self._at_windowed(source, number, place)
        # Each pair of source and pass has its keys; the network then takes all of them at once.
        pair = number * len(self.sources) + source
        pairs, group = np.unique(pair, return_inverse=True)
        keys = np.stack([self._pass_keys(*divmod(value, len(self.sources))) for value in pairs.tolist()] or [_NO_KEYS])
        keys_of_each = np.ascontiguousarray(keys.T)[:, group]
        sizes = self._sizes[source].astype(np.uint64)
        return source, _walk(place, sizes, self._a[source], self._b[source], keys_of_each)

    def _at_windowed(self, source: Int32, number: Int64, place: Int64) -> Int64:
        index = np.empty_like(place)
        for which in np.unique(source).tolist():
            of_source = source == which
            for this_pass in np.unique(number[of_source]).tolist():
                here = of_source & (number == this_pass)
                order = self._windowed.get((this_pass, which))
                if order is None:
                    counts = self.certified.sources[self.sources[which]].shard_counts
                    order = WindowedOrder(counts, self.window or 1, self._pass_key(this_pass, which))
                    self._windowed[this_pass, which] = order
                index[here] = order(place[here])
        return index

    def _pass_key(self, number: int, source: int) -> bytes:
        parts = [self.seed, self.sources[source], number, self.mixture_digest, self.certified.digest]
        return orjson.dumps(parts)

    def _pass_keys(self, number: int, source: int) -> UInt64:
        keys = self._keys.get((number, source))
        if keys is None:
            if len(self._keys) >= _KEPT_PASSES:
                self._keys.clear()
            keys = self._keys[number, source] = round_keys(self._pass_key(number, source))
        return keys


_NO_KEYS = np.zeros(ROUNDS, np.uint64)


def choose(found: Certified, mixture: Path | str, only_present: bool) -> tuple[Mixture, list[str]]:
    """The mixture as it is drawn from, and lines to say: sources left out as absent, builds that no mixture names.

    Raises: `UserError`.
    """
    mixed, notes = Mixture.load(mixture), []
    named = {source.build for name in (mixture, *PRESETS.glob("*.yaml")) for source in Mixture.load(name).sources}
    if only_present:
        mixed, left_out = mixed.only_present(found.present)
        notes += [left_out] if left_out else []
    if unnamed := sorted(set(found.present) - named):
        notes.append(f"no mixture names {', '.join(unnamed)}; what is to be trained on must stand in a --mixture FILE")
    return mixed, notes
