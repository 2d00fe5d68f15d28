"""Packing: every sample once, limits kept, near the bound, one digest; the plan, its balance, and the command."""

from __future__ import annotations

import copy
import io
import multiprocessing
import shutil
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import yaml
from conftest import call_module
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.pack import told_by_step
from medgpt.errors import UserError
from medgpt.text import count_tokens
from medgpt.tiles import tile_count
from shards.certified import Certified, load_certified
from shards.epoch import draw, ensure_plan, least_tokens, pack_epoch, rank_balance, train_lengths
from shards.mixture import Mixture
from shards.order import EpochOrder
from shards.packing import (
    ALIKE,
    CHUNK,
    DOCUMENT_TOKENS,
    IMAGE_TOKENS,
    MESSAGE_TOKENS,
    REPLY_TOKENS,
    STRATUM,
    TILE_TOKENS,
    Draws,
    OverLong,
    PackingResult,
    PackPlan,
    PlanTerms,
    balanced_order,
    lower_bound,
    pack,
    pack_costs,
    plan_path,
    sample_length,
    write_plan,
)
from shards.reader import Build
from train.template import IGNORED, render
from train.tokenizer import harmony

Array = npt.NDArray[Any]


def packed(tokens: Any, tiles: Any, length: int, limit: int, keys: Any = None) -> PackingResult:
    """Pack, and check by counting one by one what a packing must be."""
    tokens, tiles = np.asarray(tokens, np.int32), np.asarray(tiles, np.int32)
    keys = np.arange(len(tokens), dtype=np.uint64) if keys is None else keys
    result = pack(tokens, tiles, keys, length, limit)
    assert sorted(result.members.tolist()) == list(range(len(tokens)))
    for number in range(len(result)):
        members = result.members[result.starts[number] : result.starts[number + 1]]
        assert len(members)
        assert 0 < int(tokens[members].sum()) == result.tokens[number] <= length
        assert int(tiles[members].sum()) == result.tiles[number] <= limit
    assert len(result) >= result.lower_bound
    return result


samples = st.tuples(st.integers(1, 60), st.integers(0, 12))


@given(st.lists(samples, max_size=60), st.integers(60, 90), st.integers(12, 20), st.randoms(use_true_random=False))
def test_every_sample_is_packed_once_and_the_order_given_does_not_matter(
    sizes: list[tuple[int, int]], length: int, limit: int, random: Any
) -> None:
    tokens, tiles = [size[0] for size in sizes], [size[1] for size in sizes]
    keys = np.array(random.sample(range(10_000), len(sizes)), np.uint64)
    result = packed(tokens, tiles, length, limit, keys)
    order = list(range(len(sizes)))
    random.shuffle(order)
    other = packed([tokens[i] for i in order], [tiles[i] for i in order], length, limit, keys[order])
    assert other.digest == result.digest
    assert np.array_equal(keys[order][other.members], keys[result.members])


def test_the_digest_tells_other_packs_apart() -> None:
    tokens, tiles = np.array([5, 5, 3], np.int32), np.zeros(3, np.int32)
    digests = {
        pack(tokens, tiles, np.array(keys, np.uint64), 8, 1).digest for keys in ((0, 1, 2), (1, 0, 2), (0, 1, 3))
    }
    assert len(digests) == 2  # the two of five tokens may change places, another sample may not stand in


def fewest_packs(sizes: list[tuple[int, int]], length: int, limit: int) -> int:
    """Try every assignment."""
    for count in range(1, len(sizes) + 1):
        for choice in product(range(count), repeat=len(sizes)):
            sums = [[0, 0] for _ in range(count)]
            for (tokens, tiles), number in zip(sizes, choice, strict=True):
                sums[number][0] += tokens
                sums[number][1] += tiles
            if all(tokens <= length and tiles <= limit for tokens, tiles in sums):
                return count
    return 0


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(0, 6)), min_size=1, max_size=6))
def test_the_lower_bound_is_one(sizes: list[tuple[int, int]]) -> None:
    best = fewest_packs(sizes, 12, 6)
    tokens, tiles = (np.array(column, np.int32) for column in zip(*sizes, strict=True))
    assert lower_bound(tokens, tiles, 12, 6) <= best <= len(packed(tokens, tiles, 12, 6))


def mixture(count: int, pictures: float, reasoning: float) -> tuple[Array, Array]:
    """Lengths like those of questions, of reasoning and of captions with pictures of one to thirteen tiles."""
    rng = np.random.default_rng(7)
    kind = rng.random(count)
    tiles = np.where(kind < pictures, rng.choice([1, 3, 4, 5, 7, 7, 9, 10, 11, 13, 13], count), 0).astype(np.int32)
    long = (kind >= pictures) & (kind < pictures + reasoning)
    text = np.where(long, rng.lognormal(7.2, 0.7, count), rng.lognormal(5.0, 0.6, count)).clip(4, 30_000)
    return sample_length(text.astype(np.int64), tiles, images=tiles > 0).astype(np.int32), tiles


@pytest.mark.parametrize(("pictures", "reasoning"), [(0, 0.3), (0.15, 0.4), (0.45, 0.3), (0.6, 0.3), (1, 0)])
def test_packs_are_full(pictures: float, reasoning: float) -> None:
    tokens, tiles = mixture(100_000, pictures, reasoning)
    result = pack(tokens, tiles, np.arange(len(tokens), dtype=np.uint64), 32_768, 96)
    assert len(result) <= result.lower_bound + 2
    assert result.fill >= 0.999
    # The bound is what fills the scarcer of the two limits, not more.
    assert result.lower_bound == max(-(-int(tokens.sum()) // 32_768), -(-int(tiles.sum()) // 96))


def test_both_limits_press_and_packs_are_full_still() -> None:
    """Long answers about pictures: packs filled by tiles alone would run out of tokens. Plain best fit is 3 % above."""
    rng = np.random.default_rng(3)
    tiles = rng.choice([0, 0, 1, 3, 5, 7, 8, 13, 24], 60_000).astype(np.int32)
    text = rng.lognormal(6.6, 0.8, len(tiles)).clip(4, 20_000).astype(np.int64)
    tokens = sample_length(text, tiles, images=tiles > 0).astype(np.int32)
    result = pack(tokens, tiles, np.arange(len(tokens), dtype=np.uint64), 32_768, 96)
    assert min(result.token_fill, result.tile_fill) > 0.8
    assert len(result) <= result.lower_bound + 2


def test_sizes_that_fit_nowhere_are_named() -> None:
    for tokens, tiles in ((0, 0), (33, 0), (3, 9), (3, -1)):
        with pytest.raises(UserError, match=f"first has {tokens} and {tiles}"):
            pack(np.array([1, tokens]), np.array([0, tiles]), np.arange(2, dtype=np.uint64), 32, 8)
    with pytest.raises(UserError, match="2 token counts, 1 tile counts"):
        pack(np.array([1, 1]), np.array([0]), np.arange(2, dtype=np.uint64), 32, 8)
    for length, limit in ((0, 8), (32, 0), (1 << 40, 1 << 20)):
        with pytest.raises(UserError, match="both from 1"):
            pack(np.array([1]), np.array([0]), np.arange(1, dtype=np.uint64), length, limit)


def test_no_sample_makes_no_pack() -> None:
    nothing = np.zeros(0, np.int32)
    result = pack(nothing, nothing, np.zeros(0, np.uint64), 32, 8)
    assert (len(result), result.lower_bound, result.fill) == (0, 0, 1.0)


@pytest.mark.parametrize(("pictures", "reasoning"), [(0, 0.3), (0.15, 0.4), (0.6, 0.3)])
def test_ranks_and_steps_are_balanced(pictures: float, reasoning: float) -> None:
    tokens, tiles = mixture(100_000, pictures, reasoning)
    result = pack(tokens, tiles, np.arange(len(tokens), dtype=np.uint64), 32_768, 96)
    costs, uneven = pack_costs(tokens, tiles, result.members, result.starts)
    first = result.members[: result.starts[1]]
    assert uneven[0] == sum(int(t) ** 2 for t in tokens[first]) + 3_950_000 * int(tiles[first].sum())
    assert costs[0] == uneven[0] + 61_900 * int(tokens[first].sum())
    order = balanced_order(costs, uneven, b"key")
    assert sorted(order.tolist()) == list(range(len(costs)))
    assert not np.array_equal(order, balanced_order(costs, uneven, b"another"))
    for ranks in range(1, 17):
        whole = len(order) // ranks * ranks
        by_rank = uneven[order][:whole].reshape(-1, ranks).sum(axis=0).astype(float)
        assert by_rank.max() / by_rank.mean() <= (1.02 if STRATUM % ranks == 0 else 1.05)
        of_rank, of_step = rank_balance(costs[order], ranks)
        assert of_rank <= 1.02
        assert of_step <= (1.02 if STRATUM % ranks == 0 else 1.05)
    # What a random order would be like: steps wait twice as long.
    waits = [rank_balance(costs[at], 8)[1] - 1 for at in (order, np.random.default_rng(0).permutation(len(costs)))]
    assert 2 * waits[0] < waits[1]
    # A step of eight packs has samples of every kind: it says little of how long a sample of it is.
    for values in (np.log(tokens), (tiles > 0).astype(float)):
        assert not values.std() or told_by_step(values, result, order) <= 0.25  # best fit alone: 0.29 to 0.97


@pytest.mark.parametrize("together", [1, 4, 8])
def test_steps_are_alike_inside_and_unlike_each_other(together: int) -> None:
    tokens, tiles = mixture(60_000, 0.3, 0.3)
    result = pack(tokens, tiles, np.arange(len(tokens), dtype=np.uint64), 32_768, 96)
    costs, uneven = pack_costs(tokens, tiles, result.members, result.starts)
    order = balanced_order(costs, uneven, b"key", together)
    assert sorted(order.tolist()) == list(range(len(costs)))
    whole = len(order) // together * together
    steps = costs[order][:whole].reshape(-1, together)
    # A step's packs differ by little more than what counts as equal; neighbours are as far apart as chance has them (a
    # third of all, less what is equal).
    assert np.quantile(np.ptp(steps, axis=1), 0.99) <= 2 * costs.mean() / ALIKE
    place = np.argsort(np.argsort(steps.sum(axis=1), kind="stable"), kind="stable")
    assert 0.25 < np.abs(np.diff(place)).mean() / len(place) < 0.42
    for ranks in [ranks for ranks in (2, 4, 8) if together % ranks == 0]:
        of_rank, of_step = rank_balance(costs[order], ranks)
        assert of_rank <= 1.02 and of_step <= 1.02


# --- Plans of real (demo) builds.

SOURCES = ("slake", "infinity_instruct_gen", "quilt_instruct", "gmai_reasoning10k")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demo builds: questions about pictures, long conversations with a system's message, two with reasoning."""
    folder = tmp_path_factory.mktemp("packing")
    done = call_module(
        "builders.all", "--demo", "--raw", str(folder / "raw"), "--out", str(folder / "built"), "--workers", "1",
        "--only", *SOURCES,
    )  # fmt: skip
    assert done.returncode in (0, 3), done.stderr
    sources = [{"build": name, "epochs": 2.5 if name == "slake" else 1} for name in SOURCES]
    (folder / "mixture.yaml").write_text(yaml.safe_dump({"format": 1, "name": "demo", "sources": sources}))
    return folder


@pytest.fixture(scope="module")
def certified(data: Path) -> Certified:
    return load_certified(data / "built", uncertified=True, quiet=True)


@pytest.fixture(scope="module")
def order(data: Path, certified: Certified) -> EpochOrder:
    return EpochOrder(certified, Mixture.load(data / "mixture.yaml"), seed=3, epoch=1)


def by_parsing(sample: Any) -> int:
    """Tokens of a sample from its text and pictures, without the manifest."""
    tokens = DOCUMENT_TOKENS
    for message in sample.record["messages"]:
        tokens += REPLY_TOKENS if message["role"] == "assistant" else MESSAGE_TOKENS
        if message["reasoning"]:
            tokens += REPLY_TOKENS + count_tokens(message["reasoning"])
        for part in message["content"]:
            tokens += count_tokens(part["text"]) if part["type"] == "text" else IMAGE_TOKENS
    for picture in sample.images:
        width, height = Image.open(io.BytesIO(picture)).size
        tokens += TILE_TOKENS * tile_count(width, height, len(sample.images))
    return tokens


def test_lengths_are_those_of_the_stored_samples(data: Path, certified: Certified) -> None:
    kinds: set[tuple[str, ...]] = set()
    for name in SOURCES:
        lengths, begins = train_lengths(certified, name)
        build = Build(data / "built" / name, role="train")
        assert lengths.tolist() == [by_parsing(sample) for sample in build]
        kinds |= {tuple(message["role"] for message in sample.record["messages"]) for sample in build}
        shard, row = certified.sources[name].locate(np.arange(len(certified.sources[name])))
        again = [by_parsing(build[build.find(i)]) for i in certified.sources[name].ids(np.arange(len(shard)))]
        assert lengths[begins[shard] + row].tolist() == again
    assert {len(kind) for kind in kinds} >= {2, 4}
    assert any("system" in kind for kind in kinds)


def test_workers_count_the_same(data: Path, certified: Certified, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("shards.epoch._FEW", 0)
    elsewhere = load_certified(data / "built", uncertified=True, folder=tmp_path, quiet=True)
    told: list[int] = []
    lengths, _ = train_lengths(elsewhere, "quilt_instruct", workers=2, progress=told.append)
    assert np.array_equal(lengths, train_lengths(certified, "quilt_instruct")[0])
    assert sum(told) == len(lengths)


def make_plan(
    order: EpochOrder, path: Path, length: int = 4096, limit: int = 30, over_long: str = "report"
) -> PackPlan:
    draws = draw(order.certified, order)
    write_plan(path, PlanTerms.of(order, length, limit, over_long), pack_epoch(draws, length, limit, over_long))
    return PackPlan.load(path)


def test_a_plan_holds_every_draw_of_the_epoch(order: EpochOrder, tmp_path: Path) -> None:
    plan = make_plan(order, tmp_path / "plan.arrow")
    source, index = order.at(np.arange(len(order)))
    wanted = Counter(zip(source.tolist(), index.tolist(), strict=True))
    assert max(wanted.values()) == 3  # slake is drawn two and a half times
    found: Counter[tuple[int, int]] = Counter()
    lengths = {i: train_lengths(order.certified, name) for i, name in enumerate(order.sources)}
    for number in range(len(plan)):
        of, which, cut = plan.pack(number)
        assert cut is None
        found.update(zip(of.tolist(), which.tolist(), strict=True))
        tokens = tiles = cost = 0
        for s, i in zip(of.tolist(), which, strict=True):
            samples = order.certified.sources[order.sources[s]]
            shard, row = samples.locate(np.array([i]))
            length = int(lengths[s][0][lengths[s][1][shard] + row][0])
            tokens, tiles, cost = tokens + length, tiles + int(samples.tiles[i]), cost + length**2
        assert plan.size(number) == (tokens, tiles, cost + 3_950_000 * tiles + 61_900 * tokens)
        assert tokens <= 4096
        assert tiles <= 30
    assert found == wanted
    assert plan.header["samples"] == len(order)
    for number in (-1, len(plan)):
        with pytest.raises(IndexError):
            plan.pack(number)


def test_the_same_terms_give_the_same_bytes_and_others_do_not(order: EpochOrder, tmp_path: Path) -> None:
    one, other = make_plan(order, tmp_path / "one"), make_plan(order, tmp_path / "other")
    assert one.path.read_bytes() == other.path.read_bytes()
    assert one.digest == other.digest
    next_epoch = make_plan(order.at_epoch(2), tmp_path / "next")
    assert next_epoch.digest != one.digest
    assert next_epoch.recipe == one.recipe
    assert make_plan(order, tmp_path / "longer", 4097).recipe != one.recipe
    paths = {plan_path(tmp_path, plan.terms) for plan in (one, other, next_epoch)}
    assert len(paths) == 2


def test_processes_that_ask_at_once_get_one_plan(data: Path, order: EpochOrder, tmp_path: Path) -> None:
    """The second waits for the first; neither finds half a file."""
    path = plan_path(order.certified.data, PlanTerms.of(order, 5000, 33, "report"))
    assert not path.exists()
    with ProcessPoolExecutor(3, multiprocessing.get_context("fork")) as pool:
        digests = {pool.submit(ensured_digest, order).result for _ in range(6)}
        assert {digest() for digest in digests} == {make_plan(order, tmp_path / "plan", 5000, 33).digest}
    assert path.read_bytes() == (tmp_path / "plan").read_bytes()


def ensured_digest(order: EpochOrder) -> str:
    return ensure_plan(order.certified, order, 5000, 33).digest


def test_what_is_kept_under_the_name_of_something_else_is_refused(
    data: Path, certified: Certified, order: EpochOrder, tmp_path: Path
) -> None:
    """A plan that drops samples in place of one that drops none; lengths of one build in place of another's."""
    kept = plan_path(certified.data, PlanTerms.of(order, 5003, 33, "report"))
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(make_plan(order, tmp_path / "plan", 300, 30, "drop").path, kept)
    with pytest.raises(UserError, match="a plan of other terms than its name says; delete it"):
        ensure_plan(certified, order, 5003, 33)
    kept.unlink()
    elsewhere = load_certified(data / "built", uncertified=True, folder=tmp_path / "streams", quiet=True)
    for name in SOURCES[:2]:
        train_lengths(elsewhere, name)
    one, other = sorted((tmp_path / "streams/lengths").iterdir())
    shutil.rmtree(one)
    shutil.copytree(other, one)
    with pytest.raises(UserError, match="of something else than its name says; delete the folder"):
        train_lengths(elsewhere, one.name.rpartition("-")[0])


def test_a_plan_of_something_else_is_refused(data: Path, order: EpochOrder, tmp_path: Path) -> None:
    plan = make_plan(order, tmp_path / "plan")
    plan.check(order)
    changes = {
        "epoch": order.at_epoch(2),
        "seed": EpochOrder(order.certified, order.mixture, 4, 1),
        "mixture": EpochOrder(order.certified, order.mixture, 3, 1, window=1),
        "certificate": EpochOrder(
            load_certified(data / "built", uncertified=True, licenses=["CC-BY-4.0", "unstated", "MIT", "Apache-2.0"]),
            order.mixture.only_present(["slake"])[0], 3, 1,
        ),
    }  # fmt: skip
    for what, other in changes.items():
        with pytest.raises(UserError, match=f"another {what}"):
            plan.check(other)


def test_no_altered_byte_of_a_plan_goes_unseen(order: EpochOrder, tmp_path: Path) -> None:
    path = tmp_path / "plan"
    plan = make_plan(order, path)
    content = path.read_bytes()

    def read(of: PackPlan) -> list[Any]:
        packs = [of.pack(number) for number in range(len(of))]
        sizes = [of.size(number) for number in range(len(of))]
        return [of.header, [(s.tolist(), i.tolist()) for s, i, _ in packs], sizes]

    true, caught = read(plan), 0
    for place in range(0, len(content), 11):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            assert read(PackPlan.load(path)) == true  # padding between buffers
        except UserError as error:
            caught += 1
            assert str(path) in str(error)
            assert "\n" not in str(error)
    assert caught > len(content) / 11 / 2
    for cut in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:cut])
        with pytest.raises(UserError, match="make it again"):
            read(PackPlan.load(path))
    with pytest.raises(UserError, match="no such plan"):
        PackPlan.load(tmp_path / "none")


def test_plans_of_many_chunks_are_read_anywhere(tmp_path: Path) -> None:
    """Three or four samples a pack, more packs than two chunks; indices beyond 32 bits; some samples truncated."""
    count = 4 * (2 * CHUNK + 100)
    rng = np.random.default_rng(0)
    index = rng.permutation(count) + (1 << 33)
    tokens = rng.integers(20, 34, count).astype(np.int32)
    tokens[::50] = 500
    source = rng.integers(0, 300, count).astype(np.int16)
    draws = Draws(source, index, tokens, np.zeros(count, np.int32))
    epoch = pack_epoch(draws, 100, 1, "truncate")
    terms = PlanTerms("c", "m", 0, 0, tuple(map(str, range(300))), 100, 1, "truncate")
    write_plan(tmp_path / "plan", terms, epoch)
    plan = PackPlan.load(tmp_path / "plan")
    assert len(plan) > 2 * CHUNK
    assert plan.header["over_long_samples"] == {"truncated": len(tokens[::50])}
    of = dict(zip(index.tolist(), zip(source.tolist(), tokens.tolist(), strict=True), strict=True))
    seen = set()
    for number in rng.permutation(len(plan)).tolist():
        sources, which, cut = plan.pack(number)
        lengths = [of[i][1] for i in which.tolist()]
        assert [of[i][0] for i in which.tolist()] == sources.tolist()
        assert (cut is not None) == (500 in lengths)
        assert cut is None or cut.tolist() == [min(length, 100) for length in lengths]
        seen.update(which.tolist())
    assert len(seen) == count


def test_over_long_samples_are_reported_cut_or_left_out() -> None:
    tokens, tiles = np.array([50, 150, 90, 300], np.int32), np.array([0, 0, 2, 1], np.int32)
    draws = Draws(np.zeros(4, np.int16), np.arange(4), tokens, tiles)
    with pytest.raises(
        OverLong, match=r"2 of 4 samples have more than 200 tokens or 1 tiles \(the longest 300 and 2\)"
    ) as e:
        pack_epoch(draws, 200, 1, "report")
    assert e.value.positions.tolist() == [2, 3]
    with pytest.raises(OverLong, match="1 samples cannot be truncated: they have more than 1 tiles, or their") as e:
        pack_epoch(draws, 200, 1, "truncate")
    assert e.value.positions.tolist() == [2]
    epoch = pack_epoch(draws, 200, 2, "truncate")
    assert epoch.draws.tokens.tolist() == [50, 150, 90, 200]
    assert epoch.cut is not None
    assert epoch.cut.tolist() == [False, False, False, True]
    dropped = pack_epoch(draws, 200, 1, "drop")
    assert dropped.draws.index.tolist() == [0, 1]
    assert dropped.over_long.index.tolist() == [2, 3]
    assert dropped.cut is None


def test_truncated_samples_keep_their_pictures_and_learn_of_them_and_others_are_named(
    certified: Certified, order: EpochOrder
) -> None:
    """At every kind of cut, by rendering: a plan refuses just those that would lose a picture or all of the reply."""
    every, words = draw(certified, order), harmony()
    draws = every.take(np.concatenate([np.flatnonzero(every.source == number)[:6] for number in range(len(SOURCES))]))
    samples = []
    for source, index, tiles in zip(draws.source.tolist(), draws.index, draws.tiles.tolist(), strict=True):
        build = certified.sources[order.sources[source]]
        stored = Build(build.folder, role="train")
        record = stored[stored.find(build.ids(np.array([index]))[0])].record
        pictures = len(record["images"] or ())
        samples.append((record, [tiles - pictures + 1, *[1] * (pictures - 1)][:pictures]))
    header = {*words.special.values(), *words.encode("analysis"), *words.encode("final")}
    seen = Counter[bool]()
    for length in {size - less for size in draws.tokens.tolist() for less in (1, 2, 8)}:
        fit = []
        for tokens, (record, tiles) in zip(draws.tokens.tolist(), samples, strict=True):
            try:
                cut = render(record, tiles, words, truncate_to=length)
            except UserError:  # through a picture
                cut = None
            behind = 0 if cut is None or not tiles else int(np.flatnonzero(cut.ids == words.special["</img>"]).max())
            learnt = () if cut is None else cut.labels[behind:][cut.labels[behind:] != IGNORED].tolist()
            fit.append(bool(set(learnt) - header))
            seen[fit[-1]] += tokens > length
        least = partial(least_tokens, certified, order)
        if not all(fit):
            with pytest.raises(OverLong, match=f"{fit.count(False)} samples cannot be truncated") as caught:
                pack_epoch(draws, length, 500, "truncate", least)
            assert caught.value.positions.tolist() == np.flatnonzero(~np.array(fit)).tolist()
        epoch = pack_epoch(draws.take(np.array(fit)), length, 500, "truncate", least)
        assert len(epoch.over_long) == (draws.tokens[fit] > length).sum()
        assert int(epoch.draws.tokens.max(initial=0)) <= length
    assert min(seen[True], seen[False]) > 50, seen


def command(data: Path, *options: str) -> Any:
    return call_module(
        "shards.pack", str(data / "built"), "--stage", "instruct", "--mixture", str(data / "mixture.yaml"),
        "--uncertified", *options,
    )  # fmt: skip


def test_command(data: Path, order: EpochOrder, tmp_path: Path) -> None:
    arguments = ("--length", "4096", "--tiles", "30", "--seed", "3", "--epoch", "1", "--out", str(tmp_path / "plan"))
    dry = command(data, *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "nothing is written" in dry.stdout
    assert not (tmp_path / "plan").exists()
    done = command(data, *arguments)
    assert done.returncode == 0, done.stderr
    plan = make_plan(order, tmp_path / "here")
    assert (tmp_path / "plan").read_bytes() == plan.path.read_bytes()
    assert f"{len(order)} samples in {len(plan)} packs" in done.stdout
    assert plan.digest[:16] in done.stdout
    default = command(data, *arguments[:-2])
    path = plan_path(data / "built", plan.terms)
    assert str(path) in default.stdout
    assert path.read_bytes() == plan.path.read_bytes()


def test_a_later_start_reads_no_build_again(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--length", "4096", "--tiles", "30", "--out", str(tmp_path / "plan"))
    assert command(data, *arguments).returncode == 0
    first = (tmp_path / "plan").read_bytes()
    monkeypatch.setattr("manifests.catalog.load_build", lambda folder: pytest.fail(f"{folder} is read again"))
    assert command(data, *arguments, "--stage", "pretrain").returncode == 0  # the mixture says what is drawn from
    assert (tmp_path / "plan").read_bytes() == first


def test_command_names_over_long_samples(data: Path) -> None:
    done = command(data, "--length", "1500")
    assert done.returncode == 1
    assert "have more than 1500 tokens" in done.stderr
    assert "--over-long" in done.stderr
    assert "slake/train/" in done.stdout
    assert "and 190 more" in done.stdout
    left_out = command(data, "--length", "1500", "--over-long", "drop", "--dry-run")
    assert left_out.returncode == 0, left_out.stderr
    assert "samples too long, by --over-long drop" in left_out.stdout


def test_command_says_what_is_wrong(data: Path, tmp_path: Path) -> None:
    for options, said in (
        (("--mixture", str(tmp_path / "none.yaml")), "none.yaml"),
        (("--seed", "-1"), "seed"),
        (("--length", "0"), "tokens"),
        (("--out", str(data / "mixture.yaml" / "plan")), "mixture.yaml"),
    ):
        done = command(data, *options)
        assert done.returncode in (1, 2), options
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    (tmp_path / "one.yaml").write_text("format: 1\nname: one\nsources:\n  - {build: absent, epochs: 1}\n")
    for options, said in (
        (("--mixture", str(tmp_path / "one.yaml")), "absent is not there; build it with python -m builders.absent"),
        ((), "--stage pretrain, midtrain or instruct, or --mixture FILE"),
    ):
        done = call_module("shards.pack", str(data / "built"), "--uncertified", *options)
        assert done.returncode == 2 and said in done.stderr
        assert not options or "--only-present" in done.stderr
    absent = call_module("shards.pack", str(tmp_path), "--stage", "instruct", "--uncertified")
    assert absent.returncode == 2
    assert len(absent.stderr.splitlines()) == 1


def test_a_build_made_anew_since_is_not_counted(certified: Certified, tmp_path: Path) -> None:
    source = copy.copy(certified.sources["slake"])
    source.root = "0" * 64
    elsewhere = SimpleNamespace(folder=tmp_path, sources={"slake": source})
    with pytest.raises(UserError, match=r"slake: built anew since .*manifests\.prove"):
        train_lengths(elsewhere, "slake")  # type: ignore[arg-type]


def test_a_missing_shard_stops_the_count(data: Path, certified: Certified, tmp_path: Path) -> None:
    [shard] = list((data / "built" / "gmai_reasoning10k" / "shards").iterdir())[:1]
    moved = shard.with_suffix(".away")
    elsewhere = SimpleNamespace(data=certified.data, folder=tmp_path, sources=certified.sources)
    shard.rename(moved)
    try:
        with pytest.raises(UserError, match=rf"{shard.name}: cannot be read"):
            train_lengths(elsewhere, "gmai_reasoning10k")  # type: ignore[arg-type]
    finally:
        moved.rename(shard)
