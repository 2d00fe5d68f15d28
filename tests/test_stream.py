"""One global order for any ranks, workers and batches; exact resume; what is read is what was written."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_module
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_source import Certified, Order, Plan, picture, record, write_five, write_source

from medgpt.errors import UserError
from medgpt.schema import canonical_json
from medgpt.settings import checked
from shards.certified import load_certified
from shards.mixture import Mixture
from shards.order import EpochOrder
from shards.reader import Build
from shards.storage import Storage
from shards.stream import Batch, Loader, Pack, Stream, pictures, torch_dataset

Ids = list[tuple[int, str]]


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    return write_five(tmp_path_factory.mktemp("five"))


def mixed(five: Certified, seed: int = 0, epoch: int = 0, window: int | None = None) -> EpochOrder:
    """The five sources in a mixture: weights, part of an epoch, several epochs, a number of samples."""
    terms = [("a", "epochs", 1.5), ("b", "epochs", 3), ("c", "weight", 2.5), ("d", "weight", 1), ("e", "samples", 2)]
    sources = [{"build": build, term: value} for build, term, value in terms]
    mixture = checked(Mixture, {"format": 1, "name": "five", "samples": 200, "sources": sources}, "five")
    return EpochOrder(five, mixture, seed, epoch, window=window)  # type: ignore[arg-type]


def expected(order: Any, epochs: int = 1) -> Ids:
    """The order without any stream: epoch and id of every sample."""
    found = []
    for epoch in range(order.epoch, order.epoch + epochs):
        of_epoch = order.at_epoch(epoch)
        for source, index in zip(*of_epoch.at(np.arange(len(of_epoch))), strict=True):
            found.append((epoch, of_epoch.certified.sources[of_epoch.sources[source]].ids([index])[0]))
    return found


def global_steps(
    five: Certified, order: Any, world: int, batch: int, state: dict[str, Any] | None = None, epochs: int = 1,
    plan: Any = None,
) -> Iterator[tuple[list[Any], list[dict[str, Any]]]]:  # fmt: skip
    """Steps of all ranks: the items in turn, rank by rank, and every rank's state after the step."""
    streams = [
        Stream(five, order, rank=r, world_size=world, batch_size=batch, epochs=epochs, plan=plan)  # type: ignore[arg-type]
        for r in range(world)
    ]
    for stream in streams:
        if state is not None:
            stream.load_state_dict(json.loads(json.dumps(state)))
    for batches in zip(*streams, strict=True):
        assert len({(b.epoch, b.position, b.count, b.short) for b in batches}) == 1
        assert batches[0].count == sum(len(b.items) for b in batches)
        assert batches[0].short == (batches[0].count < world * batch)
        items = [b.items[j] for j in range(batch) for b in batches if j < len(b.items)]
        yield items, [s.state_dict() for s in streams] + [b.state for b in batches]


def ids(items: list[Any]) -> Ids:
    return [(item.epoch, item.key) for item in items]


# What is read.


def test_every_sample_comes_once_as_it_was_written(five: Certified) -> None:
    order = Order(five)
    seen = Counter()
    for position, sample in enumerate(Stream(five, order)):  # type: ignore[arg-type]
        seen[sample.key] += 1
        count = len(sample.images)
        assert sample.record == record(sample.key, count)
        assert sample.images == [picture(sample.key, i) for i in range(count)]
        assert sample.json == canonical_json(sample.record)
        assert (sample.epoch, sample.position) == (0, position)
        assert sample.key.startswith(sample.build + "/")
        assert sample.shard in {shard.path.rpartition("/")[2] for shard in five.sources[sample.build].shards}
        copy = pickle.loads(pickle.dumps(sample))
        assert (copy.record, copy.images, copy.shard) == (sample.record, sample.images, sample.shard)
    assert seen == Counter(order.ids()) and len(seen) == 172


def test_decode_sees_every_sample(five: Certified) -> None:
    order = Order(five)
    keys = [key for batch in Stream(five, order, decode=lambda s: s.key, batch_size=9) for key in batch.items]  # type: ignore[arg-type]
    assert keys == order.ids()


def test_pictures_that_cannot_be_decoded_are_named(five: Certified) -> None:
    stream = Stream(five, Order(five), decode=pictures)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"[a-e]/shards/.*tar: image 0 of [a-e]/train/\d+ cannot be decoded"):
        list(stream)


# One order.


@settings(max_examples=25)
@given(world=st.integers(1, 9), batch=st.integers(1, 30), epochs=st.integers(1, 3), seed=st.integers(0, 5))
def test_ranks_in_turn_are_the_one_order(five: Certified, world: int, batch: int, epochs: int, seed: int) -> None:
    order = Order(five, seed, epoch=seed)
    together: Ids = []
    for items, states in global_steps(five, order, world, batch, epochs=epochs):
        together += ids(items)
        assert all(state == states[0] for state in states)
        assert len(json.dumps(states[0])) <= 200
    assert together == expected(order, epochs)


@settings(max_examples=15)
@given(steps=st.integers(1, 9), seed=st.integers(0, 9), batch=st.integers(1, 3), packed=st.booleans(), data=st.data())
def test_saved_by_eight_ranks_loaded_by_others(
    five: Certified, steps: int, seed: int, batch: int, packed: bool, data: st.DataObject
) -> None:
    order = mixed(five, seed)
    plan = (lambda epoch: Plan(order.at_epoch(epoch))) if packed else None

    def flat(items: list[Any]) -> Ids:
        return ids([s for item in items for s in (item.items if packed else [item])])

    before: Ids = []
    for _, (items, states) in zip(range(steps), global_steps(five, order, 8, batch, epochs=2, plan=plan), strict=False):
        before += flat(items)
        state = states[0]
    assert before == expected(order, 2)[: len(before)]
    world = data.draw(st.sampled_from([1, 2, 3, 5, 6, 16]))
    after: Ids = []
    for items, _ in global_steps(five, order, world, data.draw(st.integers(1, 7)), state, 2, plan):
        after += flat(items)
    assert before + after == expected(order, 2)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32))
def test_any_schedule_of_ranks_that_die_gives_the_same_order(five: Certified, seed: int) -> None:
    """Ranks run at their own pace until they are killed; other ones go on from a state that any of the ranks saved.

    What came behind that state comes again, what came before it never does.
    """
    chance, order = random.Random(seed), Order(five)
    seen, state, ended = Ids(), None, set[int]()
    while not ended:
        world, batch = chance.randint(1, 5), chance.randint(1, 20)
        streams = [Stream(five, order, rank=r, world_size=world, batch_size=batch, epochs=2) for r in range(world)]  # type: ignore[arg-type]
        for stream in streams:
            if state is not None:
                stream.load_state_dict(state)
        ranks, steps = [iter(stream) for stream in streams], [list[Any]() for _ in streams]
        for _ in range(chance.randint(0, 400)):
            rank = chance.randrange(world)
            found = next(ranks[rank], None)
            if found is None:
                ended.add(rank)
            else:
                steps[rank].append(found)
        ended = ended if len(ended) == world else set()
        whole = min(map(len, steps))
        saved = whole if ended else chance.randint(0, whole)
        for step in zip(*(rank[:saved] for rank in steps), strict=True):
            seen += ids([b.items[j] for j in range(batch) for b in step if j < len(b.items)])
        if saved:
            state = json.loads(json.dumps(chance.choice(steps)[saved - 1].state))
    assert seen == expected(order, 2)


def test_saved_by_eight_ranks_with_four_workers_each(five: Certified) -> None:
    pytest.importorskip("torch")
    order = mixed(five, 3)

    def ranks(world: int, workers: int, batch: int, state: dict[str, Any] | None, steps: int) -> tuple[Ids, Any]:
        streams = [Stream(five, order, rank=r, world_size=world, batch_size=batch) for r in range(world)]  # type: ignore[arg-type]
        if state is not None:
            for stream in streams:
                stream.load_state_dict(state)
        shares = []
        for stream in streams:
            share = []
            for _, batch_ in zip(range(steps), Loader(stream, workers=workers), strict=False):
                share.append(batch_)
                assert stream.state_dict() == batch_.state
            shares.append(share)
        items = [
            b.items[j] for step in zip(*shares, strict=True) for j in range(batch) for b in step if j < len(b.items)
        ]
        return ids(items), streams[0].state_dict()

    before, state = ranks(8, 4, 2, None, 7)
    assert len(before) == 7 * 16
    for world, workers, batch in ((1, 2, 5), (2, 0, 3), (3, 1, 4)):
        after, end = ranks(world, workers, batch, state, 1000)
        assert before + after == expected(order)
        assert (end["epoch"], end["position"]) == (1, 0)


def test_single_samples_are_split_in_turn(five: Certified) -> None:
    order = Order(five)
    shares = [ids(list(Stream(five, order, rank=r, world_size=5, epochs=2))) for r in range(5)]  # type: ignore[arg-type]
    per_epoch = expected(order, 2)[:172], expected(order, 2)[172:]
    assert shares == [per_epoch[0][r::5] + per_epoch[1][r::5] for r in range(5)]


def test_the_last_step_of_an_epoch_is_short_and_says_so(five: Certified) -> None:
    streams = [Stream(five, Order(five), rank=r, world_size=3, batch_size=30, epochs=2) for r in range(3)]  # type: ignore[arg-type]
    for stream in streams:
        batches: list[Batch] = list(stream)
        assert [(b.epoch, b.count, b.short) for b in batches] == [
            (epoch, *step) for epoch in (0, 1) for step in ((90, False), (82, True))
        ]
        assert [len(b.items) for b in batches] == [30, 28 if stream.rank == 0 else 27] * 2
        assert list(stream) == []
    few = [list(Stream(five, Order(five), rank=r, world_size=200, batch_size=1)) for r in (0, 171, 172, 199)]  # type: ignore[arg-type]
    assert [[len(b.items) for b in rank] for rank in few] == [[1], [1], [0], [0]]


def test_iteration_goes_on_where_it_was_left(five: Certified) -> None:
    stream = Stream(five, Order(five), epochs=2)  # type: ignore[arg-type]
    seen: Ids = []
    for stop in (1, 100, 50, 1000):
        for _, sample in zip(range(stop), stream, strict=False):
            seen += ids([sample])
    assert seen == expected(Order(five), 2)


def test_without_an_end_epochs_follow_one_another(five: Certified) -> None:
    stream = Stream(five, Order(five), epochs=None)  # type: ignore[arg-type]
    seen = [(sample.epoch, sample.key) for _, sample in zip(range(800), stream, strict=False)]
    assert seen == expected(Order(five), 5)[:800]


def test_packs(five: Certified) -> None:
    order = Order(five)
    packs: list[Pack] = list(Stream(five, order, plan=Plan(order)))  # type: ignore[arg-type]
    assert [pack.position for pack in packs] == list(range(58))
    assert ids([sample for pack in packs for sample in pack.items]) == expected(order)
    assert [pack.truncate_to for pack in packs[3:6]] == [None, [100] * 3, None]
    assert {sample.position for sample in packs[7].items} == {7}
    with pytest.raises(UserError, match="plan is of epoch 0; give a function for several epochs"):
        list(Stream(five, order, plan=Plan(order), epochs=2))  # type: ignore[arg-type]


# Loaders.


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_data_loader_keeps_the_order(five: Certified, workers: int, batch: int) -> None:
    data = pytest.importorskip("torch.utils.data")
    dataset = torch_dataset(Stream(five, Order(five), epochs=2), loader_batch_size=batch)  # type: ignore[arg-type]
    loader = data.DataLoader(dataset, batch_size=batch, num_workers=workers, collate_fn=list)
    assert [i for items in loader for i in ids(items)] == expected(Order(five), 2)


@pytest.mark.parametrize("workers", [0, 3])
def test_stateful_data_loader(five: Certified, workers: int) -> None:
    module = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        stream = Stream(five, Order(five), batch_size=7, world_size=2, rank=1, epochs=2)  # type: ignore[arg-type]
        return module.StatefulDataLoader(torch_dataset(stream), batch_size=None, num_workers=workers)

    whole = [ids(batch.items) for batch in loader()]
    for stop in (1, 5, 12, 13, 24):  # the last one of the first epoch among them
        first = loader()
        steps = iter(first)
        seen = [ids(next(steps).items) for _ in range(stop)]
        state = pickle.loads(pickle.dumps(first.state_dict()))
        del steps
        second = loader()
        second.load_state_dict(state)
        assert seen + [ids(batch.items) for batch in second] == whole


def test_a_loader_goes_on_and_does_not_repeat(five: Certified) -> None:
    pytest.importorskip("torch")
    stream = Stream(five, Order(five), batch_size=10, epochs=2)  # type: ignore[arg-type]
    loader = Loader(stream, workers=2, collate=lambda batch: ids(batch.items))
    seen: Ids = []
    for stop in (3, 20, 100):
        for _, batch in zip(range(stop), loader, strict=False):
            seen += batch
    assert seen == expected(Order(five), 2)
    assert list(loader) == []


def test_a_spawned_worker_reads_the_same(five: Certified) -> None:
    data = pytest.importorskip("torch.utils.data")
    dataset = torch_dataset(Stream(five, Order(five), batch_size=50))  # type: ignore[arg-type]
    loader = data.DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context="spawn")
    assert [i for batch in loader for i in ids(batch.items)] == expected(Order(five))


# States.


def test_states_of_something_else_are_refused(five: Certified) -> None:
    order = Order(five, 1)
    stream = Stream(five, order)  # type: ignore[arg-type]
    state = stream.state_dict()
    elsewhere = Certified(five.data, list(five.sources.values()), "other")
    others = {
        "another certificate": (elsewhere, Order(elsewhere, 1), None),
        "another mixture": (five, Order(five, 1, mixture="other"), None),
        "another packing plan": (five, order, Plan(order)),
        "of seed 1, this stream has seed 2": (five, Order(five, 2), None),
    }
    for said, (certified, other, plan) in others.items():
        with pytest.raises(UserError, match=said) as caught:
            Stream(certified, other, plan=plan).load_state_dict(state)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
    for wrong in ({"position": 172}, {"position": -1}, {"epoch": 2}, {"epoch": -1}):
        with pytest.raises(UserError):
            stream.load_state_dict(state | wrong)
    for wrong in ({}, {"seed": 1}, state | {"more": 1}):
        with pytest.raises(UserError, match="not a stream's state"):
            stream.load_state_dict(wrong)
    assert stream.state_dict() == state


def test_wrong_arguments_are_refused(five: Certified) -> None:
    for wrong in ({"rank": 2, "world_size": 2}, {"rank": -1}, {"batch_size": 0}, {"epochs": 0}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Stream(five, Order(five), **wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="the order is of other samples than the stream reads"):
        Stream(five, Order(Certified(five.data, list(five.sources.values()), "uncertified")))  # type: ignore[arg-type]
    none = Certified(five.data, [])
    with pytest.raises(UserError, match="empty"):
        Stream(none, Order(none))  # type: ignore[arg-type]


# Shards that are not as certified.


def test_damaged_shards_end_the_stream(tmp_path: Path) -> None:
    source = write_source(tmp_path, "a", 40, images=1)
    certified = Certified(tmp_path, [source])
    path = tmp_path / source.shards[0].path
    whole = path.read_bytes()
    altered = bytearray(whole)
    altered[5000] ^= 1
    harms = {
        "missing": path.unlink,
        "truncated": lambda: path.write_bytes(whole[:-512]),
        "altered after certification": lambda: path.write_bytes(altered),
    }
    for said, harm in harms.items():
        path.write_bytes(whole)
        assert len(list(Stream(certified, Order(certified)))) == 40  # type: ignore[arg-type]
        harm()
        stream = Stream(certified, Order(certified))  # type: ignore[arg-type]
        seen = 0
        with pytest.raises(UserError, match=said) as caught:
            for _ in stream:
                seen += 1
        assert source.shards[0].path in str(caught.value)
        assert seen < 40
        assert stream.state_dict()["position"] == seen


@pytest.mark.parametrize("packed", [False, True])
def test_from_a_store_through_a_small_cache(five: Certified, tmp_path: Path, packed: bool) -> None:
    fsspec = pytest.importorskip("fsspec")
    store = fsspec.filesystem("memory")
    shards = [shard for source in five.sources.values() for shard in source.shards]
    for shard in shards:
        store.pipe(f"/corpus/{shard.path}", (five.data / shard.path).read_bytes())
    # Read shard by shard within each source, every shard is fetched once though few fit the cache.
    order = mixed(five, 2, window=1)
    plan = Plan(order) if packed else None
    bound = 8 * max(shard.size for shard in shards)
    storage = Storage("memory://corpus", cache=tmp_path / "cache", cache_bytes=bound, ahead=1)
    seen = []
    for item in Stream(five, order, storage=storage, plan=plan):  # type: ignore[arg-type]
        seen += item.items if packed else [item]
        assert sum(path.stat().st_size for path in (tmp_path / "cache").glob("*") if len(path.name) == 64) <= bound
    assert ids(seen) == expected(order)
    drawn = {sample.shard for sample in seen}
    assert len(shards) > 12
    assert len(drawn) <= storage.counts.fetched
    store.rm("/corpus", recursive=True)
    with pytest.raises(UserError, match=r"memory://corpus/built/.*: missing; upload"):
        list(Stream(five, order, storage=Storage("memory://corpus", cache=tmp_path / "empty")))  # type: ignore[arg-type]


def test_from_another_location(five: Certified, tmp_path: Path) -> None:
    """A stream over storage that is not where the certificate lies."""
    (tmp_path / "built").symlink_to(five.data / "built")
    stream = Stream(five, Order(five), storage=Storage(tmp_path))  # type: ignore[arg-type]
    assert ids(list(stream)) == expected(Order(five))


# kill -9.


def _consume(data: Path, certified: Certified, log: Path) -> None:
    """Read batches; each one's ids and the state after it are one line, written at once."""
    stream = Stream(certified, mixed(certified, 7), batch_size=4, epochs=40, world_size=2, rank=1)  # type: ignore[arg-type]
    lines = log.read_bytes().split(b"\n") if log.exists() else [b""]
    with log.open("ab") as file:
        file.truncate(sum(len(line) + 1 for line in lines[:-1]))
        if len(lines) > 1:
            stream.load_state_dict(json.loads(lines[-2])["state"])
        for batch in stream:
            line = json.dumps({"ids": ids(batch.items), "state": stream.state_dict()}) + "\n"
            os.write(file.fileno(), line.encode())


def test_killed_fifty_times(tmp_path: Path, five: Certified) -> None:
    chance = random.Random(5)
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    kills = 0
    while True:
        process = context.Process(target=_consume, args=(tmp_path, five, log))
        process.start()
        size = log.stat().st_size if log.exists() else 0
        while process.is_alive() and (log.stat().st_size if log.exists() else 0) == size:
            time.sleep(0.0005)
        if kills < 50:
            time.sleep(chance.random() * 0.004)
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            assert process.exitcode == -signal.SIGKILL, "the stream ended before it could be killed fifty times"
            kills += 1
        else:
            process.join()
            assert process.exitcode == 0
            break
    seen = [tuple(pair) for line in log.read_text().splitlines() for pair in json.loads(line)["ids"]]
    order = mixed(five, 7)
    per_epoch = [expected(order.at_epoch(epoch)) for epoch in range(40)]
    assert seen == [
        pair for epoch in per_epoch for step in range(0, len(order), 8) for pair in epoch[step : step + 8][1::2]
    ]


# Real builds.


def test_builds_stream_as_they_are_read_one_by_one(tmp_path: Path) -> None:
    """Demo builds, with pictures and without, through the certified index; `Build` is the other way to read them."""
    for name in ("slake", "medquad"):
        arguments = ("--demo", "--raw", str(tmp_path / "raw" / name), "--out", str(tmp_path / "data" / "built"))
        assert run_module(f"builders.{name}", *arguments, "--quiet").returncode in (0, 3)
    certified = load_certified(tmp_path / "data", uncertified=True)
    expected = {}
    for name in ("slake", "medquad"):
        for sample in Build(tmp_path / "data" / "built" / name, role="train"):
            expected[sample.record["id"]] = (name, sample.record, sample.images)
    seen = {}
    for sample in Stream(certified, Order(certified, 1)):  # type: ignore[arg-type]
        assert sample.key not in seen
        seen[sample.key] = (sample.build, sample.record, sample.images)
        assert all(image.mode == "RGB" for image in pictures(sample))
    assert seen == expected
    assert any(images for _, _, images in seen.values())


# Other people's loaders.


@pytest.fixture(scope="module")
def real_jpegs(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    data = tmp_path_factory.mktemp("plain")
    return Certified(data, [write_source(data, "w", 60, images=2)])


def test_webdataset_reads_the_same(real_jpegs: Certified) -> None:
    webdataset = pytest.importorskip("webdataset")
    source = real_jpegs.sources["w"]
    paths = [str(real_jpegs.data / shard.path) for shard in source.shards]
    assert len(paths) > 1
    ours = {s.key: (s.json, s.images) for s in Stream(real_jpegs, Order(real_jpegs))}  # type: ignore[arg-type]
    theirs = {}
    for sample in webdataset.WebDataset(paths, shardshuffle=False):
        images = [sample[name] for name in sorted(name for name in sample if name.endswith(".jpg"))]
        theirs[sample["__key__"]] = sample["json"], images
    assert theirs == ours


def test_datasets_reads_the_same(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    certified = Certified(tmp_path, [write_source(tmp_path, "w", 60, images=2, fixed=True)])
    paths = [str(tmp_path / shard.path) for shard in certified.sources["w"].shards]
    rows = datasets.load_dataset("webdataset", data_files=paths, split="train", streaming=True, cache_dir=str(tmp_path))
    for name in ("0.jpg", "1.jpg"):
        rows = rows.cast_column(name, datasets.Image(decode=False))
    ours = {s.key: s for s in Stream(certified, Order(certified))}  # type: ignore[arg-type]
    keys = []
    for row in rows:
        sample = ours[row["__key__"]]
        assert row["json"]["messages"] == sample.record["messages"]
        assert [row[f"{i}.jpg"]["bytes"] for i in range(2)] == sample.images
        keys.append(sample.key)
    assert sorted(keys) == sorted(ours)
