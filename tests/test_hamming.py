"""The radius join finds every pair: against a naive double loop, brute force in numpy, and planted pairs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from manifests.proof import hamming
from manifests.proof.hamming import HammingIndex, Matches

Hashes = NDArray[np.uint64]
PATHS = (None, "brute", "bands", "ordered")
RADII = range(0, 17, 2)
ALL_ONES = 2**64 - 1


def naive(train: Hashes, evals: Hashes, radius: int) -> list[tuple[int, int, int]]:
    found = []
    for row, left in enumerate(train.tolist()):
        for number, right in enumerate(evals.tolist()):
            distance = (left ^ right).bit_count()
            if distance <= radius:
                found.append((row, number, distance))
    return found


def brute(train: Hashes, evals: Hashes, radius: int) -> NDArray[np.int64]:
    """(n, 3) of row, id and distance by one numpy row after the other."""
    rows = []
    for row, value in enumerate(train):
        distance = np.bitwise_count(value ^ evals)
        ids = np.flatnonzero(distance <= radius)
        rows.append(np.column_stack((np.full(len(ids), row), ids, distance[ids])))
    return np.concatenate(rows) if rows else np.empty((0, 3), np.int64)


def triples(matches: Matches) -> list[tuple[int, int, int]]:
    return list(zip(matches.rows.tolist(), matches.ids.tolist(), matches.distance.tolist(), strict=True))


def uniform(rng: np.random.Generator, count: int) -> Hashes:
    return rng.integers(0, 2**64, count, dtype=np.uint64)


def flipped(rng: np.random.Generator, hashes: Hashes, most: int) -> Hashes:
    """Up to `most` bits of every hash flipped."""
    hashes = hashes.copy()
    for _ in range(most):
        hashes ^= np.left_shift(np.uint64(1), rng.integers(0, 64, len(hashes), dtype=np.uint64))
    return hashes


def look_alike(rng: np.random.Generator, count: int) -> Hashes:
    """Like radiographs: a common pattern, eight factors and noise, cut at the median, so with 32 ones."""
    basis = np.random.default_rng(1).normal(size=(9, 64))
    values = rng.standard_normal((count, 8)) @ basis[1:] * 0.3 + basis[0] + 0.7 * rng.standard_normal((count, 64))
    bits = values > np.median(values, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64).ravel()


def crowded(rng: np.random.Generator, count: int) -> Hashes:
    """Nine of ten within three bits of 20 centres."""
    centres = uniform(np.random.default_rng(5), 20)
    hashes = flipped(rng, centres[rng.integers(0, 20, count)], 3)
    far = rng.random(count) < 0.1
    hashes[far] = uniform(rng, int(far.sum()))
    return hashes


def blank(rng: np.random.Generator, count: int) -> Hashes:
    del rng
    return np.zeros(count, np.uint64)


def repeated(rng: np.random.Generator, count: int) -> Hashes:
    """Few different hashes, each many times, some all ones or all zeros."""
    values = np.concatenate((uniform(rng, 30), np.array([0, ALL_ONES, 1, ALL_ONES - 1], np.uint64)))
    return flipped(rng, values[rng.integers(0, len(values), count)], 1)


KINDS: tuple[Callable[[np.random.Generator, int], Hashes], ...] = (uniform, look_alike, crowded, blank, repeated)


@st.composite
def hash_lists(draw: st.DrawFn) -> tuple[Hashes, Hashes]:
    """Both sides of a join: free integers, or variations of a few centres so that distances around a radius occur."""
    free = st.integers(0, ALL_ONES)
    centres = draw(st.lists(st.one_of(free, st.sampled_from([0, ALL_ONES])), min_size=1, max_size=3))

    def near() -> st.SearchStrategy[int]:
        def flip(centre: int, bits: frozenset[int]) -> int:
            for bit in bits:
                centre ^= 1 << bit
            return centre

        return st.builds(flip, st.sampled_from(centres), st.frozensets(st.integers(0, 63), max_size=18))

    side = st.lists(st.one_of(free, near(), st.sampled_from(centres)), max_size=24)
    return np.array(draw(side), np.uint64), np.array(draw(side), np.uint64)


@given(hash_lists(), st.sampled_from(list(RADII)), st.sampled_from(PATHS))
def test_finds_what_a_double_loop_finds(sides: tuple[Hashes, Hashes], radius: int, path: str | None) -> None:
    train, evals = sides
    assert triples(HammingIndex(evals, radius, _path=path).search(train)) == naive(train, evals, radius)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_path_every_radius_every_kind(kind: Callable[..., Hashes], path: str | None) -> None:
    rng = np.random.default_rng(0)
    train, evals = kind(rng, 400), kind(rng, 301)
    train[::9] = flipped(rng, evals[: len(train[::9])], 17)
    for radius in RADII:
        matches = HammingIndex(evals, radius, memory=64 << 20, _path=path).search(train)
        expected = brute(train, evals, radius)
        np.testing.assert_array_equal(np.column_stack((matches.rows, matches.ids, matches.distance)), expected)
        assert len(matches) == len(expected)


@pytest.mark.parametrize("radius", [4, 8, 12, 16])
@pytest.mark.parametrize("kind", [uniform, look_alike, crowded, repeated])
def test_same_as_brute_force_on_many(kind: Callable[..., Hashes], radius: int) -> None:
    rng = np.random.default_rng(1)
    train, evals = kind(rng, 20_000), kind(rng, 2_000)
    if kind is repeated:
        train = train[:4_000]
    planted = np.arange(0, len(train), 100)
    train[planted] = flipped(rng, evals[rng.integers(0, len(evals), len(planted))], radius)
    matches = HammingIndex(evals, radius, memory=256 << 20).search(train)
    np.testing.assert_array_equal(
        np.column_stack((matches.rows, matches.ids, matches.distance)), brute(train, evals, radius)
    )
    # The naive loop agrees with both on a slice.
    part = int(np.searchsorted(matches.rows, 10))
    assert triples(matches)[:part] == naive(train[:10], evals, radius)


@pytest.mark.parametrize("kind", [uniform, look_alike, crowded])
def test_bands_look_at_fewer_pairs_where_they_are_chosen(kind: Callable[..., Hashes]) -> None:
    rng = np.random.default_rng(2)
    train, evals = kind(rng, 3_000), kind(rng, 20_000)
    index = HammingIndex(evals, 2)
    matches = index.search(train)
    assert matches.candidates < 0.2 * len(train) * len(evals)
    assert index.plan.startswith("bands") or kind is crowded
    np.testing.assert_array_equal(matches.rows, brute(train, evals, 2)[:, 0])


def test_long_lists_and_more_columns_than_one_product_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    train, evals = crowded(rng, 300), crowded(rng, 5_000)
    train[:30] = evals[0]
    expected = brute(train, evals, 6)
    monkeypatch.setattr(hamming, "_LONG_LIST", 64)
    monkeypatch.setattr(hamming, "_CANDIDATES", 1024)
    monkeypatch.setattr(hamming, "_LOOKUPS", 50)
    monkeypatch.setattr(hamming, "_WORDS", 16)
    for path in ("brute", "bands", "ordered"):
        matches = HammingIndex(evals, 6, memory=10 << 20, _path=path).search(train)
        np.testing.assert_array_equal(np.column_stack((matches.rows, matches.ids, matches.distance)), expected)


@pytest.mark.parametrize("kind", [look_alike, crowded, repeated])
@pytest.mark.parametrize("path", [None, "brute", "bands"])
def test_same_for_any_blocks_and_memory(
    kind: Callable[..., Hashes], path: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(4)
    train, evals = kind(rng, 2_000), kind(rng, 700)
    one = triples(HammingIndex(evals, 8).search(train))
    index = HammingIndex(evals, 8, memory=len(evals) * 400, _path=path)
    for block in (333, 100, 5_000):
        monkeypatch.setattr(hamming, "BLOCK", block)
        assert triples(index.search(train)) == one


def test_everything_matches_everything() -> None:
    train, evals = np.full(900, 7, np.uint64), np.full(1_100, 7, np.uint64)
    for radius in (0, 16):
        matches = HammingIndex(evals, radius).search(train)
        np.testing.assert_array_equal(matches.rows, np.repeat(np.arange(900), 1_100))
        np.testing.assert_array_equal(matches.ids, np.tile(np.arange(1_100), 900))
        assert not matches.distance.any()


def test_empty_sides() -> None:
    nothing, some = np.empty(0, np.uint64), np.arange(5, dtype=np.uint64)
    for train, evals in ((nothing, some), (some, nothing), (nothing, nothing)):
        matches = HammingIndex(evals, 8).search(train)
        assert len(matches) == 0
        assert (matches.rows.dtype, matches.ids.dtype, matches.distance.dtype) == (np.int64, np.int64, np.uint8)


def test_strided_input() -> None:
    rng = np.random.default_rng(6)
    wide = uniform(rng, 400)
    assert triples(HammingIndex(wide[::3], 16).search(wide[::2])) == naive(wide[::2], wide[::3], 16)


def test_the_index_says_which_way_it_chose() -> None:
    rng = np.random.default_rng(7)
    evals = uniform(rng, 2_000)
    index = HammingIndex(evals, 8)
    assert index.plan == "not prepared"
    index.prepare(uniform(rng, 1_000))
    assert index.plan.startswith("bands of ")
    before = index.plan
    index.prepare(evals)
    assert index.plan == before
    small = HammingIndex(evals, 16, memory=256 * len(evals))
    assert len(small.search(evals)) >= len(evals)
    assert small.plan == "brute force"


def test_a_block_unlike_the_first_is_searched_by_brute_force() -> None:
    rng = np.random.default_rng(8)
    evals = np.concatenate((uniform(rng, 3_000), flipped(rng, np.full(3_000, 12345, np.uint64), 6)))
    index = HammingIndex(evals, 4)
    index.prepare(uniform(rng, 1_000))
    assert index.plan.startswith("bands")
    alike = flipped(rng, np.full(500, 12345, np.uint64), 6)
    np.testing.assert_array_equal(index.search(alike).ids, brute(alike, evals, 4)[:, 1])


@pytest.mark.parametrize("radius", [-2, 1, 7, 17, 18])
def test_refuses_a_radius(radius: int) -> None:
    with pytest.raises(ValueError, match=f"radius {radius}: give an even number"):
        HammingIndex(np.zeros(3, np.uint64), radius)


def test_refuses_what_is_not_a_flat_array_of_hashes() -> None:
    good = np.zeros(3, np.uint64)
    for bad in (good.astype(np.int64), good.reshape(1, 3), [1, 2, 3]):
        with pytest.raises(ValueError, match=r"eval hashes: .*give a flat numpy array of uint64"):
            HammingIndex(bad, 8)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"train hashes: .*give a flat numpy array of uint64"):
            HammingIndex(good, 8).search(bad)  # type: ignore[arg-type]


def test_refuses_too_little_memory() -> None:
    hashes = np.zeros(1_000, np.uint64)
    with pytest.raises(ValueError, match=r"1000 eval hashes need .* bytes, memory is 1000: give more"):
        HammingIndex(hashes, 8, memory=1_000)


def test_the_multiplier_brings_the_eight_tests_together() -> None:
    for word in range(256):
        shown = sum(
            1 << (start + 5)
            for start, place in zip(hamming._FIELD_STARTS, hamming._FIELD_HASH, strict=True)
            if word >> place & 1
        )
        assert (shown * hamming._GATHER & ALL_ONES) >> 56 == word
