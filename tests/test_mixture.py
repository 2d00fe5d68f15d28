"""`shards.mixture`: the schedule's promise at every prefix, mixture files, and what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.engine.registry import load, sources
from medgpt.errors import UserError
from medgpt.settings import checked
from shards.mixture import PRESETS, Mixture, Schedule


def check_every_prefix(schedule: Schedule, length: int) -> None:
    """|draws - exact share| < 1 at every prefix, in whole numbers; ordinals count each source from 0."""
    source, ordinal = schedule.source_at(np.arange(length))
    total = len(schedule)
    positions = np.arange(length + 1)
    for number, count in enumerate(schedule.counts):
        drawn = np.concatenate(([0], np.cumsum(source == number)))
        assert int(np.abs(drawn * total - positions * count).max()) < total
        assert np.array_equal(ordinal[source == number], np.arange(drawn[-1]))


ADVERSARIAL = {
    "midtrain": (22_747, 146_893, 18_525_974, 646_759),
    "one in a million": (1, 999_999),
    "near thirds": (333_334, 333_333, 333_332, 1),
    "powers of two": tuple(2**k for k in range(20)),
    "powers of three, twice": tuple(3**k for k in range(12)) * 2,
    "equal but one": (99_991,) * 10 + (1,),
    "many small beside one": (700_001, *range(1, 31)),
    "fibonacci": (1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, 377, 610, 987, 1597, 2584, 4181, 6765),
}


@pytest.mark.parametrize("counts", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_a_million_prefixes_of_adversarial_counts(counts: tuple[int, ...]) -> None:
    # The first million positions; a schedule is that of its shares, so large counts are scaled down to it.
    scale = max(1, sum(counts) // 1_000_000)
    schedule = Schedule([max(1, count // scale) for count in counts])
    check_every_prefix(schedule, len(schedule))


@settings(max_examples=200)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_every_prefix_of_any_counts(counts: list[int]) -> None:
    schedule = Schedule(counts)
    check_every_prefix(schedule, len(schedule))
    assert np.bincount(schedule.source_at(np.arange(len(schedule)))[0]).tolist() == counts


@given(st.lists(st.integers(1, 50), min_size=1, max_size=5), st.integers(1, 4))
def test_prefix_and_random_access_agree_with_counting(counts: list[int], times: int) -> None:
    schedule = Schedule([count * times for count in counts])
    everything = np.arange(len(schedule))
    source, ordinal = schedule.source_at(everything)
    for position in range(len(schedule) + 1):
        assert schedule.prefix(position).tolist() == np.bincount(source[:position], minlength=len(counts)).tolist()
    backwards = schedule.source_at(everything[::-1])
    assert np.array_equal(backwards[0], source[::-1])
    assert np.array_equal(backwards[1], ordinal[::-1])


@pytest.mark.parametrize("counts", [(32_768 * 2 - 1, 1), (32_769, 32_768), (50_000, 50_001, 49_999), (98_304 - 1, 1)])
def test_blocks_join_and_a_kept_schedule_is_the_same(tmp_path: Path, counts: tuple[int, ...]) -> None:
    plain, kept = Schedule(counts), Schedule(counts, tmp_path)
    again = Schedule(counts, tmp_path)
    assert list((tmp_path / "schedules").iterdir()), "nothing was kept"
    places = np.arange(len(plain))
    expected = plain.source_at(places)
    for other in (kept, again):
        assert all(np.array_equal(a, b) for a, b in zip(expected, other.source_at(places), strict=True))
        for position in (0, 1, 32_767, 32_768, 32_769, 65_536, len(plain)):
            if position <= len(plain):
                assert (
                    other.prefix(position).tolist()
                    == np.bincount(expected[0][:position], minlength=len(counts)).tolist()
                )
    check_every_prefix(plain, len(plain))


def test_a_kept_schedule_that_was_damaged_is_refused(tmp_path: Path) -> None:
    Schedule((50_000, 50_001), tmp_path)
    [source] = (tmp_path / "schedules").rglob("source.uint8")
    source.write_bytes(bytes(100_001))
    with pytest.raises(UserError, match="damaged; delete the folder"):
        Schedule((50_000, 50_001), tmp_path)


def test_a_hundred_million_draws_with_round_weights_take_one_short_period() -> None:
    schedule = Schedule((50_000_000, 30_000_000, 20_000_000))
    source, ordinal = schedule.source_at(np.array([0, 99_999_999]))
    assert len(schedule) == 100_000_000
    assert ordinal[1] == schedule.counts[source[1]] - 1
    assert schedule.prefix(12_345_670).tolist() == [6_172_835, 3_703_701, 2_469_134]


def test_more_sources_than_fit_a_byte() -> None:
    schedule = Schedule([1 + number % 3 for number in range(300)])
    check_every_prefix(schedule, len(schedule))


def test_schedule_refuses() -> None:
    for counts in ([], [1, 0], [3, -1]):
        with pytest.raises(UserError, match="at least one draw"):
            Schedule(counts)
    with pytest.raises(IndexError, match="0 to 4"):
        Schedule([2, 3]).source_at(np.array([5]))
    with pytest.raises(IndexError):
        Schedule([2, 3]).prefix(6)


def parse(*sources: dict[str, Any], **keys: Any) -> Mixture:
    return checked(Mixture, {"format": 1, "name": "m", "sources": list(sources), **keys}, "m")


@given(
    st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 1000), min_size=1),
    st.integers(100, 100_000),
)
def test_weights_share_by_largest_remainder(weights: dict[str, int], samples: int) -> None:
    mixture = parse(*({"build": name, "weight": weight} for name, weight in weights.items()), samples=samples)
    total = sum(weights.values())
    exact = {name: Fraction(samples * weight, total) for name, weight in weights.items()}
    if any(share < 1 for share in exact.values()):
        return
    counts = mixture.counts(dict.fromkeys(weights, 5))
    assert sum(counts.values()) == samples
    assert all(abs(counts[name] - share) < 1 for name, share in exact.items())
    # Whoever was rounded up has no smaller remainder than whoever was rounded down.
    up = [exact[n] - int(exact[n]) for n in weights if counts[n] > exact[n]]
    down = [exact[n] - int(exact[n]) for n in weights if counts[n] < exact[n]]
    assert not up or not down or min(up) >= max(down)


def test_the_three_terms_together() -> None:
    mixture = parse(
        {"build": "w", "weight": 0.1}, {"build": "v", "weight": 0.3}, {"build": "e", "epochs": 0.5},
        {"build": "s", "samples": 20}, samples=100,
    )  # fmt: skip
    assert mixture.counts({"w": 1, "v": 1, "e": 81, "s": 3}) == {"e": 41, "s": 20, "v": 29, "w": 10}


def test_only_what_is_asked_for_is_in_the_digest(tmp_path: Path) -> None:
    one = parse({"build": "a", "epochs": 1}, {"build": "b", "epochs": 2})
    same = checked(
        Mixture,
        {
            "format": 1,
            "name": "other",
            "sources": [{"build": "b", "epochs": 2.0, "builder": "x"}, {"build": "a", "epochs": 1}],
        },
        "same",
    )
    assert one.digest == same.digest
    less, line = one.only_present(["a"])
    assert less.digest != one.digest
    assert line == "m: 1 of 2 sources are not there, or have no sample left, and are left out: b"
    assert one.only_present(["a", "b", "c"]) == (one, None)


SOURCE = {"build": "a", "epochs": 1}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "Expected `object`, got `array`"),
        ({"format": 2, "name": "m", "sources": [SOURCE]}, "format: 2 is none of 1"),
        ({"format": 1, "name": "m", "sources": []}, "sources: Expected `array` of length >= 1"),
        ({"format": 1, "sources": [SOURCE]}, "name is missing"),
        ({"format": 1, "name": "m", "sources": [SOURCE], "wieght": 1}, "no key is called wieght; there are"),
        ({"format": 1, "name": "m", "sources": [SOURCE | {"wieght": 1}]}, "sources[0]: no key is called wieght"),
        ({"format": 1, "name": "m", "sources": [SOURCE, SOURCE]}, "a is named twice"),
        ({"format": 1, "name": "m", "sources": [{"build": "a"}]}, "one of weight, epochs, samples is needed, not none"),
        ({"format": 1, "name": "m", "sources": [SOURCE | {"weight": 1}]}, "not weight, epochs"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "weight": 1}]}, "`samples`, the draws"),
        ({"format": 1, "name": "m", "sources": [SOURCE], "samples": 5}, "no source has one"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "weight": 0}], "samples": 5}, "[0].weight: Expected"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "weight": -1}]}, "sources[0].weight: Expected `float"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "epochs": float("nan")}]}, "nan is no number"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "epochs": float("inf")}]}, "inf is no number"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "samples": 2.5}]}, "sources[0].samples: Expected `int"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "samples": 0}]}, "sources[0].samples: Expected `int"),
        ({"format": 1, "name": "m", "sources": [{"build": "a", "epochs": True}]}, "sources[0].epochs: Expected"),
        ({"format": 1, "name": "m", "sources": ["a"]}, "sources[0]: Expected `object`, got `str`"),
    ],
)  # fmt: skip
def test_mixture_files_that_are_refused(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError) as raised:
        Mixture.load(path)
    assert message in str(raised.value)
    assert str(raised.value).startswith(f"{path}: ")
    assert "\n" not in str(raised.value)


def test_absent_and_empty_sources_and_no_draws() -> None:
    mixture = parse({"build": "slake.paper", "epochs": 1})
    with pytest.raises(UserError, match=r"slake\.paper is not there; build it with python -m builders\.slake"):
        mixture.counts({"slake": 4})
    with pytest.raises(UserError, match="none of its sources"):
        mixture.only_present(["slake"])
    with pytest.raises(UserError, match=r"no sample of slake\.paper is left"):
        mixture.counts({"slake.paper": 0})
    with pytest.raises(UserError, match="a has no draw"):
        parse({"build": "a", "epochs": 0.01}).counts({"a": 4})
    with pytest.raises(UserError, match="nothing of 5 samples is left"):
        parse({"build": "a", "samples": 5}, {"build": "b", "weight": 1}, samples=5).counts({"a": 1, "b": 1})
    with pytest.raises(UserError, match=r"neither a YAML file nor a shipped mixture \(instruct, midtrain, pretrain\)"):
        Mixture.load("pretraining")


LEFT_OUT = {"openmm_medical"}
"""Benchmarks that the recipe trains on; the preset says how to."""


@pytest.mark.parametrize("stage", ["pretrain", "midtrain", "instruct"])
def test_a_preset_has_the_sources_of_its_stage(stage: str) -> None:
    mixture = Mixture.load(stage)
    assert {path.stem for path in PRESETS.glob("*.yaml")} == {"pretrain", "midtrain", "instruct"}
    assert {source.build.split(".")[0] for source in mixture.sources} == {
        source.name for source in sources() if source.stage == stage and source.name not in LEFT_OUT
    }
    for source in mixture.sources:
        module, *options = source.builder.removeprefix("python -m builders.").split()
        flags = {option.flag: option for option in load(module).options}
        params = {option.name: option.default for option in flags.values()} | {
            flags[flag].name: True for flag in options
        }
        assert load(module).build_name(params) == source.build
