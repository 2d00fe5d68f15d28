"""`shards.order`: permutations against brute force, windows, and epochs of a mixture from any position."""

from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from medgpt.errors import UserError
from medgpt.settings import checked
from shards.mixture import Mixture
from shards.order import EpochOrder, Permutation, WindowedOrder


@dataclass
class FakeSource:
    """As many samples as its shards hold."""

    shard_counts: np.ndarray

    def __len__(self) -> int:
        return int(self.shard_counts.sum())


@dataclass
class FakeCertified:
    """What an order asks of certified samples."""

    sources: dict[str, FakeSource]
    folder: Path | None = None
    digest: str = "certificate"


def certified(**sizes: int) -> Any:
    return FakeCertified({name: FakeSource(np.array([size // 2, size - size // 2])) for name, size in sizes.items()})


def mixture(**epochs: float) -> Mixture:
    entries = [{"build": name, "epochs": value} for name, value in epochs.items()]
    return checked(Mixture, {"format": 1, "name": "test", "sources": entries}, "test")


SIZES = [*range(70), 255, 256, 257, 4096, 4097, 65_535, 100_003]


@pytest.mark.parametrize("size", SIZES)
def test_permutation_is_a_bijection(size: int) -> None:
    image = Permutation(size, b"key")(np.arange(size))
    assert sorted(image.tolist()) == list(range(size))


@given(st.integers(1, 2**62), st.binary(max_size=40), st.lists(st.integers(0, 2**62), min_size=1, max_size=50))
def test_permutation_of_any_size_stays_inside_and_inverts(size: int, key: bytes, indices: list[int]) -> None:
    permutation = Permutation(size, key)
    values = np.array([index % size for index in indices])
    image = permutation(values)
    assert ((image >= 0) & (image < size)).all()
    assert [inverse(size, key, value) for value in image.tolist()] == values.tolist()
    assert [int(permutation(np.array([value]))[0]) for value in values] == image.tolist(), "not a function of the index"


def keys_of(key: bytes) -> list[int]:
    digest = hashlib.blake2b(key, digest_size=64, person=b"medgpt-oss order").digest()
    return [int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(8)]


def scramble(half: int, round_key: int, width: int) -> int:
    x = (half + round_key) * 0x9E3779B97F4A7C15 % 2**64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
    return (x >> 32) * width >> 32


def inverse(size: int, key: bytes, value: int) -> int:
    """What the permutation brings to `value`, by its rounds backwards, in plain integers."""
    keys, b = keys_of(key), math.isqrt(size - 1) + 1
    a = -(-size // b)
    while True:
        left, right = divmod(value, b)
        for i in (6, 4, 2, 0):
            right = (right - scramble(left, keys[i + 1], b)) % b
            left = (left - scramble(right, keys[i], a)) % a
        value = left * b + right
        if value < size:
            return value


def test_permutation_is_pinned() -> None:
    """Resuming on another machine or version must give the same order: it is written again here in plain integers."""
    size, key = 1000, b"pinned"
    keys = keys_of(key)
    b = 32
    a = math.ceil(size / b)

    def once(value: int) -> int:
        left, right = divmod(value, b)
        for i in range(0, 8, 2):
            left = (left + scramble(right, keys[i], a)) % a
            right = (right + scramble(left, keys[i + 1], b)) % b
        return left * b + right

    expected = []
    for value in range(size):
        moved = once(value)
        while moved >= size:
            moved = once(moved)
        expected.append(moved)
    image = Permutation(size, key)(np.arange(size)).tolist()
    assert image == expected
    assert image[:5] == PINNED


PINNED = [369, 15, 723, 258, 316]


@pytest.mark.parametrize("size", [2, 3, 4, 10, 97])
def test_every_item_comes_to_every_place_equally_often(size: int) -> None:
    """Chi-square over keys; a bound at six standard deviations, so that only a real defect breaks it."""
    keys = 4000
    table = np.zeros((size, size))
    for number in range(keys):
        table[np.arange(size), Permutation(size, b"%d" % number)(np.arange(size))] += 1
    expected = keys / size
    freedom = (size - 1) ** 2
    assert ((table - expected) ** 2 / expected).sum() < freedom + 6 * math.sqrt(2 * freedom)


def test_all_permutations_of_four_occur_equally_often() -> None:
    keys = 6000
    seen = Counter(tuple(Permutation(4, b"%d" % key)(np.arange(4)).tolist()) for key in range(keys))
    expected = keys / 24
    assert len(seen) == 24
    assert sum((count - expected) ** 2 / expected for count in seen.values()) < 23 + 6 * math.sqrt(46)


def test_a_large_permutation_has_no_pattern() -> None:
    size = 100_003
    image = Permutation(size, b"pattern")(np.arange(size))
    cells = np.histogram2d(np.arange(size), image, bins=32)[0]
    expected = size / 32**2
    assert ((cells - expected) ** 2 / expected).sum() < 961 + 6 * math.sqrt(2 * 961)
    assert abs(np.corrcoef(image[:-1], image[1:])[0, 1]) < 0.02
    # Neighbours of a random permutation stay neighbours about twice.
    assert (np.abs(np.diff(image)) == 1).sum() < 15


def test_permutation_refuses_what_is_outside() -> None:
    with pytest.raises(IndexError, match="0 to 9"):
        Permutation(10, b"")(np.array([10]))
    with pytest.raises(IndexError):
        Permutation(0, b"")(np.array([0]))


@given(st.lists(st.integers(0, 20), max_size=12), st.integers(1, 14), st.binary(max_size=4))
def test_windowed_order_is_a_bijection_that_keeps_to_its_windows(counts: list[int], window: int, key: bytes) -> None:
    order = WindowedOrder(np.array(counts, np.int64), window, key)
    total = sum(counts)
    image = order(np.arange(total))
    assert sorted(image.tolist()) == list(range(total))
    if total:
        last = total - 1
        assert order(np.array([last])).tolist() == image[last:].tolist()
    # From its first sample to its last a shard is open: never more than `window` at a time.
    shard_of = np.repeat(np.arange(len(counts)), counts)
    first_use = {int(s): int(np.flatnonzero(shard_of[image] == s)[0]) for s in set(shard_of.tolist())}
    last_use = {int(s): int(np.flatnonzero(shard_of[image] == s)[-1]) for s in set(shard_of.tolist())}
    for place in range(total):
        opened = sum(first_use[s] <= place <= last_use[s] for s in first_use)
        assert opened <= window


def naive_epochs(data: Any, mix: Mixture, seed: int, epochs: int) -> list[tuple[int, int]]:
    """All draws of several epochs, position by position, each source's passes from lists."""
    drawn: list[tuple[int, int]] = []
    queues: dict[int, list[int]] = {}
    passes: Counter[int] = Counter()
    for epoch in range(epochs):
        order = EpochOrder(data, mix, seed, epoch)
        for position in range(len(order)):
            source = int(order.schedule.source_at(np.array([position]))[0][0])
            if not queues.get(source):
                key = order._pass_key(passes[source], source)
                size = len(data.sources[order.sources[source]])
                queues[source] = Permutation(size, key)(np.arange(size)).tolist()
                passes[source] += 1
            drawn.append((source, queues[source].pop(0)))
    return drawn


MIX = {"a": 1, "b": 2.5, "c": 0.4, "d": 1, "e": 3}
DATA = {"a": 97, "b": 20, "c": 50, "d": 1, "e": 2}


def test_an_epoch_is_what_a_naive_walk_gives_at_any_position() -> None:
    data, mix = certified(**DATA), mixture(**MIX)
    expected = naive_epochs(data, mix, 7, 3)
    got: list[tuple[int, int]] = []
    for epoch in range(3):
        order = EpochOrder(data, mix, 7, epoch)
        source, index = order.at(np.arange(len(order)))
        got += zip(source.tolist(), index.tolist(), strict=True)
        shuffled = np.random.default_rng(epoch).permutation(len(order))
        again = order.at(shuffled)
        assert np.array_equal(again[0], source[shuffled])
        assert np.array_equal(again[1], index[shuffled])
    assert got == expected


@given(st.data())
def test_counts_of_any_sample_differ_by_one_at_most(data: st.DataObject) -> None:
    sizes = data.draw(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 30), min_size=1))
    epochs = {name: data.draw(st.sampled_from([0.5, 1, 1.3, 2, 3.75])) for name in sizes}
    window = data.draw(st.sampled_from([None, 1, 2]))
    seen: dict[tuple[int, int], int] = {(s, i): 0 for s, name in enumerate(sorted(sizes)) for i in range(sizes[name])}
    for epoch in range(2):
        order = EpochOrder(certified(**sizes), mixture(**epochs), 3, epoch, window=window)
        source, index = order.at(np.arange(len(order)))
        for key in zip(source.tolist(), index.tolist(), strict=True):
            seen[key] += 1
    for number in range(len(sizes)):
        counts = [count for (source_number, _), count in seen.items() if source_number == number]
        assert max(counts) - min(counts) <= 1


def test_everything_that_the_order_is_a_function_of_changes_it() -> None:
    base = EpochOrder(certified(**DATA), mixture(**MIX), 7, 0)
    other_certificate = certified(**DATA)
    other_certificate.digest = "another"
    others = [
        EpochOrder(certified(**DATA), mixture(**MIX), 8, 0),
        EpochOrder(certified(**DATA), mixture(**MIX), 7, 1),
        EpochOrder(certified(**DATA), mixture(**MIX | {"c": 0.42}), 7, 0),
        EpochOrder(other_certificate, mixture(**MIX), 7, 0),
        EpochOrder(certified(**DATA), mixture(**MIX), 7, 0, window=1),
    ]
    everything = np.arange(100)
    seen = {base.digest} | {other.digest for other in others}
    assert len(seen) == 1 + len(others)
    orders = {base.at(everything)[1].tobytes()} | {other.at(everything)[1].tobytes() for other in others}
    assert len(orders) == 1 + len(others)
    assert base.at_epoch(1).digest == others[1].digest
    assert (
        EpochOrder(certified(**dict(reversed(DATA.items()))), mixture(**dict(reversed(MIX.items()))), 7, 0).digest
        == base.digest
    )


def test_another_process_gives_the_same_order() -> None:
    code = (
        "import sys; sys.path.insert(0, 'tests')\n"
        "from test_order import *\n"
        "o = EpochOrder(certified(**DATA), mixture(**MIX), 7, 2)\n"
        "print(o.digest, [x.tolist() for x in o.at(np.arange(50))])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    order = EpochOrder(certified(**DATA), mixture(**MIX), 7, 2)
    assert done.stdout.strip() == f"{order.digest} {[x.tolist() for x in order.at(np.arange(50))]}"


def test_positions_outside_and_negative_seeds_are_refused() -> None:
    order = EpochOrder(certified(a=10), mixture(a=1), 0, 0)
    assert [part.tolist() for part in order.at(np.zeros(0, np.int64))] == [[], []]
    for outside in (-1, 10):
        with pytest.raises(IndexError, match="0 to 9"):
            order.at(np.array([outside]))
    with pytest.raises(UserError, match="negative"):
        EpochOrder(certified(a=10), mixture(a=1), -1)
    with pytest.raises(UserError, match="window 0"):
        EpochOrder(certified(a=10), mixture(a=1), window=0)
