"""Samples, or packs of samples, in one exact global order for any number of ranks, workers and any batch size.

The order is a pure function of (seed, epoch, mixture, certificate), so a stream holds nothing but a position. One step
of all ranks takes `batch_size * world_size` consecutive positions of the order; of these, rank r takes those whose
place in the step leaves r when divided by the world size. So the ranks' items, taken in turn, are the one order
whatever the world size, and a state saved by 8 ranks is loaded by 3. Workers of a `DataLoader` get whole batches in
turn, which is the order in which it asks them.

The last step of an epoch has what is left: its batches say so (`short`, `count`), nothing is repeated or dropped.

    stream = Stream(certified, order, rank=rank, world_size=world, batch_size=4, epochs=None)
    stream.load_state_dict(state)              # saved by any number of ranks and workers
    for batch in Loader(stream, workers=4):    # or: for batch in stream
        train(batch.items)
        save(stream.state_dict())              # what was delivered, not what was read ahead
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from mmap import mmap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from medgpt.errors import UserError
from medgpt.schema import canonical_json
from shards.reader import arrow_row, checked_row
from shards.storage import OpenShard, ShardRef, Storage

if TYPE_CHECKING:
    from PIL import Image

    from shards.certified import Certified, SourceSamples
    from shards.order import EpochOrder
    from shards.packing import PackPlan

Int = npt.NDArray[np.int64]

STATE_KEYS = ("seed", "epoch", "position", "digest")

_CHUNK = 1024
"""Samples whose places are looked up at once: some 2 ms of work, 100 kB."""

_LOOK_AHEAD, _PROBES = 65_536, 128
"""How far the order is searched, and at how many positions, for shards to fetch in advance."""


@dataclass(slots=True, eq=False, repr=False)
class StreamedSample:
    """One sample as stored: `images` are the bytes in their order, `record` has the fields of `medgpt.schema.SAMPLE`.

    `build`, `shard` and `key` (the sample's id, and member name in a tar) say where it came from, `epoch` and
    `position` where in the global order it stood; in a pack, `position` is that of the pack. JSON is parsed when
    `record` is first asked for.
    """

    build: str
    shard: str
    epoch: int
    position: int
    images: list[bytes]
    _raw: bytes | Callable[[], dict[str, Any]]
    _record: dict[str, Any] | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The sample's fields."""
        if self._record is None:
            raw = self._raw
            try:
                self._record = orjson.loads(raw) if isinstance(raw, bytes) else raw()
            except (OSError, ValueError, LookupError, pa.ArrowException) as error:  # with `verify="size"` alone
                raise _unreadable(f"{self.build}/shards/{self.shard}", error) from error
        return self._record

    @property
    def json(self) -> bytes:
        """The canonical JSON, whose SHA-256 the manifest has."""
        return self._raw if isinstance(self._raw, bytes) else canonical_json(self.record)

    @property
    def key(self) -> str:
        """The sample's id."""
        key: str = self.record["id"]
        return key

    def __reduce__(self) -> tuple[Any, ...]:
        # A row of a map cannot travel to another process; its record can.
        return StreamedSample, (self.build, self.shard, self.epoch, self.position, self.images, self.json)

    def __repr__(self) -> str:
        return f"StreamedSample({self.key!r}, epoch={self.epoch}, position={self.position})"


def _unreadable(shard: str, error: Exception) -> UserError:
    return UserError(f"{shard}: altered since it was built ({type(error).__name__}); python -m shards.verify")


def pictures(sample: StreamedSample) -> list[Image.Image]:
    """The sample's images, decoded to RGB; a `decode` for `Stream`, or for where the pixels are wanted.

    Raises: `UserError` naming the sample where one cannot be decoded.
    """
    from medgpt.containers import DamagedImage
    from medgpt.pictures import open_picture

    decoded = []
    for number, data in enumerate(sample.images):
        try:
            decoded.append(open_picture(data, "RGB"))
        except DamagedImage as error:
            where = f"{sample.build}/shards/{sample.shard}: image {number} of {sample.key}"
            raise UserError(f"{where} cannot be decoded ({error.reason}); python -m shards.verify") from error
    return decoded


@dataclass(frozen=True)
class Pack:
    """Samples that are trained on as one sequence."""

    items: list[Any]
    """Samples, or what `decode` made of them, in the order in which they stand in the sequence."""
    epoch: int
    position: int
    """Number of the pack in the epoch's plan."""
    truncate_to: list[int] | None
    """Tokens to which each sample is cut, where the plan says so."""


@dataclass(frozen=True)
class Batch:
    """What one rank gets in one step of all ranks."""

    items: list[Any]
    """Samples or packs, or what `decode` made of them; in an epoch's last step there may be fewer, or none."""
    epoch: int
    position: int
    """Global position of the step's first item, over all ranks."""
    count: int
    """Items of all ranks in this step."""
    short: bool
    """Whether `count` is less than `batch_size * world_size`: the last step of an epoch."""
    state: dict[str, Any]
    """State of the stream once all ranks have this step behind them."""


class Stream:
    """The certified samples in the order of `order`, and of the epochs that follow it.

    `order` is an epoch's order; the stream begins with it, goes on for `epochs` epochs (`None`: without end) and then
    yields nothing more. Without `batch_size`, iteration gives samples (packs), else `Batch`. `plan` is the epoch's
    packing plan, or for several epochs a function of the epoch that loads it. `decode` is applied to every sample (see
    `pictures`). `storage` is where shards are read; default: where `certified` was loaded, digests checked.

    `iter()` goes on where the last iteration was left. `state_dict()` is at most 200 bytes of JSON.

    Raises: `UserError`, and `UserError` while reading.
    """

    def __init__(
        self,
        certified: Certified,
        order: EpochOrder,
        *,
        rank: int = 0,
        world_size: int = 1,
        batch_size: int | None = None,
        plan: PackPlan | Callable[[int], PackPlan] | None = None,
        decode: Callable[[StreamedSample], Any] | None = None,
        storage: Storage | None = None,
        epochs: int | None = 1,
    ) -> None:
        if order.certified.digest != certified.digest:
            raise UserError("the order is of other samples than the stream reads; make both of one load_certified")
        if not 0 <= rank < world_size:
            raise UserError(f"rank {rank} of {world_size}: ranks are 0 to {world_size - 1}")
        if batch_size is not None and batch_size < 1:
            raise UserError(f"batch_size {batch_size}: at least 1, or None for single items")
        if epochs is not None and epochs < 1:
            raise UserError(f"epochs {epochs}: at least 1, or None for no end")
        self.certified, self.order, self.rank, self.world_size = certified, order, rank, world_size
        self.batch_size, self.decode, self.epochs = batch_size, decode, epochs
        self.storage = storage if storage is not None else Storage(certified.data)
        self._plan = plan
        self._last = None if epochs is None else order.epoch + epochs
        self.stand_at(order.epoch, 0)
        self._reader = _Reader(self)
        self._current = self._open_epoch(order.epoch)
        self.digest = _digest(certified, order, self._current.plan)
        if not self._current.length:
            raise UserError("the order is empty: no sample is left to train on")

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_reader": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._reader = _Reader(self)

    @property
    def step_size(self) -> int:
        """Positions that one step of all ranks takes."""
        return self.world_size * (self.batch_size or 1)

    def state_dict(self) -> dict[str, Any]:
        """Seed, epoch and global position of the next step, and what these refer to."""
        return self._state(self.epoch, self.position)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the stream that gave this state stood; world size, rank and batch size may differ.

        Raises: `UserError` for a state of other data, another mixture, seed or plan.
        """
        if set(state) != set(STATE_KEYS):
            raise UserError(f"not a stream's state: has {sorted(state)}, needs {sorted(STATE_KEYS)}")
        if state["seed"] != self.order.seed:
            raise UserError(f"the state is of seed {state['seed']}, this stream has seed {self.order.seed}")
        parts = zip(_DIGEST_PARTS, str(state["digest"]).split("-"), self.digest.split("-"), strict=False)
        for what, theirs, ours in parts:
            if theirs != ours:
                raise UserError(
                    f"the state is of another {what} ({theirs}, here {ours}); go on with what it was saved with"
                )
        epoch, position = state["epoch"], state["position"]
        if epoch < self.order.epoch or (self._last is not None and epoch > self._last):
            raise UserError(f"the state is of epoch {epoch}; this stream has {self._epochs_in_words()}")
        if epoch != self._last:
            current = self._current if epoch == self._current.epoch else self._open_epoch(epoch)
            if not 0 <= position < current.length:
                raise UserError(f"the state's position {position} is not below the epoch's {current.length} items")
            self._current = current
        self.stand_at(epoch, position)

    def _epochs_in_words(self) -> str:
        first = self.order.epoch
        return f"epochs {first} and on" if self._last is None else f"epochs {first} to {self._last - 1}"

    def __iter__(self) -> Iterator[Any]:
        return self.share(0, 1)

    def _state(self, epoch: int, position: int) -> dict[str, Any]:
        return {"seed": self.order.seed, "epoch": epoch, "position": position, "digest": self.digest}

    def _open_epoch(self, epoch: int) -> _Epoch:
        order = self.order if epoch == self.order.epoch else self.order.at_epoch(epoch)
        if self._plan is None:
            return _Epoch(epoch, order, None, len(order))
        if callable(self._plan):
            plan = self._plan(epoch)
        elif epoch == self.order.epoch:
            plan = self._plan
        else:
            raise UserError(f"the packing plan is of epoch {self.order.epoch}; give a function for several epochs")
        plan.check(order)
        return _Epoch(epoch, order, plan, len(plan))

    @property
    def finished(self) -> bool:
        """Whether the last epoch is behind."""
        return self.epoch == self._last

    def stand_at(self, epoch: int, position: int) -> None:
        """Go to a place that is known to be one of this stream; `load_state_dict` is for what was stored."""
        self.epoch, self.position, self.phase = epoch, position, 0

    def finish(self) -> None:
        """Stand behind the last epoch."""
        if self._last is not None:
            self.stand_at(self._last, 0)

    def share(self, worker: int, workers: int, *, run: int = 1, phase: int = 0) -> Iterator[Any]:
        """What is left of this rank's items for one of `workers`, who take `run` items each in turn.

        `phase` says how many items, of all workers, went before since worker 0 last began a turn. While this iterates,
        the stream's state is that of what this worker has given.
        """
        self.phase = phase
        while not self.finished:
            if self._current.epoch != self.epoch:
                self._current = self._open_epoch(self.epoch)
            epoch, base, before = self.epoch, self.position, self.phase
            left = self._current.length - base
            if self.batch_size is None:
                items = max(0, -(-(left - self.rank) // self.world_size))
            else:
                items = -(-left // self.step_size)
            for start in range(0, items, _CHUNK * workers):
                steps = np.arange(start, min(start + _CHUNK * workers, items))
                yield from self._steps(base, before, steps[(steps + before) // run % workers == worker])
            self.epoch, self.position, self.phase = epoch + 1, 0, before + items

    def _steps(self, base: int, before: int, steps: Int) -> Iterator[Any]:
        """Items of some steps, counted from position `base` of the current epoch; the state moves with each."""
        epoch, length = self._current.epoch, self._current.length
        size, whole = self.batch_size or 1, self.step_size
        per_lookup = max(1, _CHUNK // size)
        for first in range(0, len(steps), per_lookup):
            some = steps[first : first + per_lookup]
            places = base + some[:, None] * whole + self.rank + self.world_size * np.arange(size)
            items = self._reader.items(self._current, places[places < length])
            for step in some.tolist():
                start = base + step * whole
                end = min(start + whole, length)
                next_epoch, next_position = (epoch, end) if end < length else (epoch + 1, 0)
                if self.batch_size is None:
                    item = next(items)
                else:
                    mine = max(0, -(-(end - start - self.rank) // self.world_size))
                    item = Batch(
                        [next(items) for _ in range(mine)],
                        epoch,
                        start,
                        end - start,
                        end - start < whole,
                        self._state(next_epoch, next_position),
                    )
                self.epoch, self.position, self.phase = next_epoch, next_position, before + step + 1
                yield item


def torch_dataset(
    stream: Stream, *, loader_batch_size: int = 1, convert: Callable[[Stream, Any], Any] | None = None
) -> Any:
    """A torch `IterableDataset` whose `DataLoader` gives the stream's items in their exact order, with any workers.

    For `DataLoader(dataset, batch_size=None)` where the stream makes its own batches; for a loader that batches single
    items itself, say its `batch_size` here, too. `convert(stream, item)` is applied in the worker. The dataset has
    `state_dict()` and `load_state_dict()`, so torchdata's `StatefulDataLoader` resumes exactly, with the same number of
    workers. `Loader` resumes with any number, and goes on with the next epoch by itself.
    """
    from torch.utils.data import IterableDataset, get_worker_info

    def whoami() -> tuple[int, int]:
        info = get_worker_info()
        return (0, 1) if info is None else (info.id, info.num_workers)

    class StreamDataset(IterableDataset):  # type: ignore[misc, type-arg, unused-ignore]
        def __init__(self) -> None:
            self.phase, self.begun = 0, False

        def __reduce__(self) -> tuple[Any, ...]:
            return partial(torch_dataset, stream, loader_batch_size=loader_batch_size, convert=convert), ()

        def __iter__(self) -> Iterator[Any]:
            worker, workers = whoami()
            if self.begun and workers > 1 and not stream.finished:
                raise UserError("the loader was left midway; make a new one, from a saved state")
            self.begun = True
            phase, self.phase = self.phase, 0
            items = stream.share(worker, workers, run=loader_batch_size, phase=phase)
            return items if convert is None else (convert(stream, item) for item in items)

        def state_dict(self) -> dict[str, Any]:
            worker, workers = whoami()
            turn = stream.phase % (workers * loader_batch_size)
            return {"stream": stream.state_dict(), "phase": turn, "worker": worker, "workers": workers}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            worker, workers = whoami()
            if (state["worker"], state["workers"]) != (worker, workers):
                raise UserError(
                    f"the state is that of a loader with {state['workers']} workers, this one has {workers}; keep the "
                    "number, or load a state of the stream itself, which fits any"
                )
            stream.load_state_dict(state["stream"])
            self.phase, self.begun = state["phase"], False

    return StreamDataset()


class Loader:
    """A stream read by `workers` processes; the stream in this process keeps the state of what was delivered.

    `collate` turns an item (a `Batch`, pack or sample) into what the loop wants, in the worker. `options` go to torch's
    `DataLoader` (`prefetch_factor`, `pin_memory`, `multiprocessing_context`). The state is the stream's own and fits
    any number of ranks and workers. Iterating again goes on where the last iteration was left.
    """

    def __init__(
        self, stream: Stream, *, workers: int = 0, collate: Callable[[Any], Any] | None = None, **options: Any
    ) -> None:
        self.stream, self.workers, self.collate, self.options = stream, workers, collate, options

    def __iter__(self) -> Iterator[Any]:
        from torch.utils.data import DataLoader

        # The copy runs ahead, this process's stream stands where the last delivered item leaves it.
        dataset = torch_dataset(copy.copy(self.stream), convert=partial(_with_place, self.collate))
        for place, item in DataLoader(dataset, None, num_workers=self.workers, collate_fn=_as_is, **self.options):
            self.stream.stand_at(*place)
            yield item
        self.stream.finish()

    def state_dict(self) -> dict[str, Any]:
        """The stream's state."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a stream's state. Raises: `UserError`."""
        self.stream.load_state_dict(state)


def _with_place(collate: Callable[[Any], Any] | None, stream: Stream, item: Any) -> tuple[tuple[int, int], Any]:
    return (stream.epoch, stream.position), item if collate is None else collate(item)


def _as_is(item: Any) -> Any:
    return item


_DIGEST_PARTS = ("certificate", "mixture", "packing plan")


def _digest(certified: Certified, order: EpochOrder, plan: PackPlan | None) -> str:
    """Three times eight bytes, so that a state can say which of them is another."""
    packing = "none" if plan is None else plan.recipe
    parts = (certified.digest, order.mixture_digest, packing)
    return "-".join(hashlib.blake2b(part.encode(), digest_size=8).hexdigest() for part in parts)


class _Epoch(NamedTuple):
    """An epoch that is open: items are samples of the order or packs of the plan."""

    epoch: int
    order: EpochOrder
    plan: PackPlan | None
    length: int


class _Lookup(NamedTuple):
    """Where some samples lie, in the order asked for: plain lists, which Python reads faster than arrays."""

    shards: list[int]
    """Number of the shard, counted over all sources."""
    offsets: list[int]
    lengths: list[int]
    firsts: list[int]
    counts: list[int]
    starts: list[int]
    """Images: byte ranges of sample i are `starts[firsts[i]:firsts[i] + counts[i]]` and `ends` alike."""
    ends: list[int]


class _Reader:
    """Reads samples; belongs to one process."""

    def __init__(self, stream: Stream) -> None:
        self._storage, self._decode = stream.storage, stream.decode
        self._sources: list[SourceSamples] = [stream.certified.sources[name] for name in stream.order.sources]
        self._shards: list[tuple[str, ShardRef]] = []
        self._first_shard: list[int] = []
        for source in self._sources:
            self._first_shard.append(len(self._shards))
            self._shards.extend((source.name, shard) for shard in source.shards)
        self._tables: dict[str, pa.ipc.RecordBatchFileReader] = {}
        self._row = arrow_row if self._storage.verify == "digest" else checked_row
        # A map that is held keeps the disk space of a cached shard, even when its file was removed.
        self._keep = not self._storage.remote

    def items(self, epoch: _Epoch, positions: Int) -> Iterator[Any]:
        """Samples, or packs, at these positions of the epoch."""
        if self._storage.remote and len(positions):
            self._storage.read_ahead(self._soon(epoch, int(positions[-1])))
        sources: npt.NDArray[Any]
        if epoch.plan is None:
            sources, indices = epoch.order.at(positions)
            yield from self._samples(epoch.epoch, positions.tolist(), self._look_up(sources, indices))
            return
        for position in positions.tolist():
            sources, indices, truncate_to = epoch.plan.pack(position)
            lookup = self._look_up(sources, indices)
            samples = list(self._samples(epoch.epoch, [position] * len(indices), lookup))
            cuts = None if truncate_to is None else truncate_to.tolist()
            yield Pack(samples, epoch.epoch, position, cuts)

    def _look_up(self, sources: npt.NDArray[Any], indices: Int) -> _Lookup:
        parts: list[list[Int]] = [[] for _ in range(6)]
        # Source by source; `back` then puts what was found into the order asked for.
        by_source = np.argsort(sources, kind="stable")
        for number in np.unique(sources).tolist():
            places = self._sources[number].places(indices[sources == number])
            found = (places.shard + self._first_shard[number], places.offset, places.length, places.images,
                     places.image_offset, places.image_length)  # fmt: skip
            for part, values in zip(parts, found, strict=True):
                part.append(values)
        shards, offsets, lengths, counts, starts, spans = (np.concatenate(part).astype(np.int64) for part in parts)
        back = np.empty(len(indices), np.int64)
        back[by_source] = np.arange(len(indices))
        firsts = np.cumsum(counts) - counts
        columns = [column[back].tolist() for column in (shards, offsets, lengths, firsts, counts)]
        return _Lookup(*columns, starts.tolist(), (starts + spans).tolist())  # type: ignore[call-arg]

    def _samples(self, epoch: int, positions: list[int], lookup: _Lookup) -> Iterator[Any]:
        decode = self._decode
        files: dict[int, tuple[str, str, Any]] = {}
        starts, ends = lookup.starts, lookup.ends
        for position, shard, offset, length, first, count in zip(
            positions, lookup.shards, lookup.offsets, lookup.lengths, lookup.firsts, lookup.counts, strict=True
        ):
            place = files.get(shard)
            if place is None:
                place = self._open(shard)
                if self._keep:
                    files[shard] = place
            build, name, data = place
            if isinstance(data, mmap):
                raw: bytes | Callable[[], dict[str, Any]] = data[offset : offset + length]
                if count == 1:
                    images = [data[starts[first] : ends[first]]]
                else:
                    images = [data[starts[i] : ends[i]] for i in range(first, first + count)]
            else:
                raw, images = partial(self._row, data, offset), []
            sample = StreamedSample(build, name, epoch, position, images, raw)
            yield sample if decode is None else decode(sample)

    def _open(self, number: int) -> tuple[str, str, Any]:
        """Build, name and content of a shard: a map of a tar, a reader of an Arrow file."""
        build, shard = self._shards[number]
        file: OpenShard = self._storage.open(shard)
        name = shard.path.rpartition("/")[2]
        if not name.endswith(".arrow"):
            return build, name, file.data
        table = self._tables.get(shard.path)
        if table is None:
            try:
                table = pa.ipc.open_file(pa.py_buffer(file.data))
            except (OSError, pa.ArrowException) as error:
                raise _unreadable(shard.path, error) from error
            if self._keep:
                self._tables[shard.path] = table
        return build, name, table

    def _soon(self, epoch: _Epoch, position: int) -> list[ShardRef]:
        """Shards that the order will want, next first: a sparse look ahead."""
        ahead = position + np.arange(1, _PROBES + 1) * (_LOOK_AHEAD // _PROBES)
        ahead = ahead[ahead < epoch.length]
        if not len(ahead):
            return []
        sources: npt.NDArray[Any]
        if epoch.plan is None:
            sources, indices = epoch.order.at(ahead)
        else:
            packs = [epoch.plan.pack(number) for number in ahead.tolist()]
            sources, indices = (np.concatenate([pack[part] for pack in packs]) for part in (0, 1))
        numbers = dict.fromkeys(self._look_up(sources, indices).shards)
        return [self._shards[number][1] for number in numbers]
