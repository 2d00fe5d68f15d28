"""An epoch's samples with their lengths, packed: what `shards.pack` writes and `train.run` trains on.

The samples of an epoch are those of its order (`shards.order.EpochOrder`): certified, in the shares of the mixture. How
long each is follows from the manifest's text tokens and tiles and from its numbers of messages, which are counted in
the shards once and kept below `DATA/.streams`, which may be deleted.
"""

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.catalog import load_build, one_line
from medgpt.atomic import locked
from medgpt.engines import is_local, run_jobs
from medgpt.errors import UserError
from medgpt.limited import read_batch
from medgpt.text import count_tokens
from shards.certified import Certified, SourceSamples
from shards.columns import HEADER, Int32, Int64, MappedColumns, write_columns
from shards.order import EpochOrder
from shards.packing import (
    REPLY_TOKENS,
    TEMPLATE,
    Draws,
    OverLong,
    PackedEpoch,
    PackPlan,
    PlanTerms,
    pack,
    plan_path,
    sample_length,
    write_plan,
)
from shards.reader import Build

_DRAWS = 1 << 20
"""Draws looked up at once."""
_FEW = 100_000
"""Samples that one process counts before others would have started."""


def train_lengths(certified: Certified, build: str, *, workers: int = 1, progress: Any = None) -> tuple[Int32, Int64]:
    """Tokens of every train sample of a build as the model sees it, and where each of its shards begins in them.

    Messages are counted in the shards the first time, in `workers` processes; `progress(n)` is told of samples that are
    done. Shards are those of `certified.sources[build].shards`, samples all that are in them.

    Raises: `UserError`, also if a shard cannot be read.
    """
    source = certified.sources[build]
    name = hashlib.sha256(f"{source.root} {TEMPLATE}".encode()).hexdigest()[:16]
    folder = certified.folder / "lengths" / f"{build}-{name}"
    of = {"build": build, "root": source.root, "template": TEMPLATE}
    with locked(certified.folder):
        if not (folder / HEADER).is_file():
            found = load_build(source.folder)
            if found.record["root"] != source.root:
                raise UserError(f"{build}: built anew since it was certified; prove again (python -m manifests.prove)")
            parts = {path: unit["kept"] for unit, path in found.parts("samples", "train")}
            # Workers cost a second to start.
            done: Iterable[tuple[Path, Int32]] = ((part, _unit_lengths(part)) for part in parts)
            if not is_local() or (workers > 1 and sum(parts.values()) >= _FEW):
                done = run_jobs(_unit_lengths, list(parts), workers, place=certified.folder, declared=_template)
            pieces: dict[Path, Int32] = {}
            for part, piece in done:
                pieces[part] = piece
                if progress is not None:
                    progress(len(piece))
            write_columns(folder, of, {"length": "int32"}, ({"length": pieces[part]} for part in parts))
    lengths = MappedColumns(folder, **of)["length"]
    samples = np.array([shard.samples for shard in source.shards], np.int64)
    return lengths, np.cumsum(samples) - samples


def _template() -> list[int]:
    """The declared version of how a sample is laid out as tokens."""
    return TEMPLATE


def _unit_lengths(part: Path) -> Int32:
    """Tokens of a unit's samples, in the order of its manifest part."""
    table = pq.read_table(part, columns=["shard", "offset", "length", "text_tokens", "tiles", "n_images"])
    shards = table["shard"].combine_chunks().dictionary_encode()
    counts = np.empty((table.num_rows, 4), np.int32)
    offsets, sizes = table["offset"].to_numpy(), table["length"].to_numpy()
    for number, name in enumerate(shards.dictionary.to_pylist()):
        rows = np.flatnonzero(shards.indices.to_numpy() == number)
        path = part.parents[1] / "shards" / name
        try:
            if path.suffix == ".arrow":
                counts[rows] = _count_arrow(path)[offsets[rows]]
            else:
                counts[rows] = _count_tar(path, offsets[rows], sizes[rows])
        except (OSError, pa.ArrowException, IndexError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)}); run the builder again") from error
    images = table["n_images"].to_numpy()
    if (counts[:, 3] != images).any():
        row = int((counts[:, 3] != images).argmax())
        raise UserError(
            f"{part}: sample {row} has {images[row]} pictures, but its messages show {counts[row, 3]}; each must "
            "be shown once for its tiles to be counted; mend the builder"
        )
    lengths: npt.NDArray[np.int64] = sample_length(
        table["text_tokens"].to_numpy(), pc.fill_null(table["tiles"], 0).to_numpy(), images=images,
        messages=counts[:, 0], replies=counts[:, 1], reasoned=counts[:, 2],
    )  # fmt: skip
    return lengths.astype(np.int32)


def _count_tar(path: Path, offsets: Int64, sizes: Int64) -> Int32:
    """(messages but replies, replies, replies with reasoning, pictures shown) of a tar's samples, by places of JSON.

    Members are canonical JSON (`medgpt.schema.canonical_json`): no spaces, and a quotation mark inside a text has a
    backslash before it, so these byte strings occur nowhere but where a message begins. Nothing need be parsed.
    """
    counts = []
    with path.open("rb", buffering=0) as file:
        descriptor = file.fileno()
        for offset, size in zip(offsets.tolist(), sizes.tolist(), strict=True):
            data = os.pread(descriptor, size, offset)
            reasoned = data.count(b'"reasoning":"') - data.count(b'"reasoning":"",')
            replies = data.count(b'{"role":"assistant"')
            pictures = data.count(b'{"type":"image"')
            counts.append((data.count(b'{"role":"') - replies, replies, reasoned, pictures))
    return np.array(counts, np.int32).reshape(-1, 4)


def _count_arrow(path: Path) -> Int32:
    """The same of all samples of an Arrow shard."""
    pieces = [np.zeros((0, 4), np.int32)]
    file = pa.ipc.open_file(pa.memory_map(str(path)))
    for number in range(file.num_record_batches):
        messages = read_batch(file, number, ["messages"]).column("messages")
        inner = messages.flatten()
        content = inner.field("content")
        reply = _flags(pc.equal(inner.field("role"), "assistant"))
        reasoned = _flags(pc.greater(pc.binary_length(inner.field("reasoning")), 0))
        picture = _flags(pc.equal(content.flatten().field("type"), "image"))
        pictures = _sums(picture[:, None], content)
        kinds = np.concatenate((np.stack([~reply, reply, reasoned], axis=1), pictures), axis=1)
        pieces.append(_sums(kinds, messages))
    return np.concatenate(pieces)


def _flags(values: Any) -> npt.NDArray[np.bool_]:
    """An Arrow column of truth values, null taken for false."""
    flags: npt.NDArray[np.bool_] = pc.fill_null(values, False).to_numpy(zero_copy_only=False)
    return flags


def _sums(rows: npt.NDArray[Any], lists: Any) -> Int32:
    """Sums of `rows` over each list of an Arrow column whose flattened items they belong to; of a null list 0."""
    running = np.concatenate((np.zeros((1, rows.shape[1]), np.int32), np.cumsum(rows, axis=0, dtype=np.int32)))
    ends = np.cumsum(lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False))
    sums: Int32 = running[ends] - running[np.concatenate(([0], ends))[:-1]]
    return sums


@dataclass(frozen=True)
class SampleSizes:
    """How large the samples of a mixture are, as the model sees them."""

    tokens: float
    """In the mean of an epoch's draws."""
    tiles: float
    """Likewise."""
    most: int
    """Tokens of the longest."""
    density: float
    """Largest number of tiles a token."""


def sample_sizes(certified: Certified, order: EpochOrder, *, workers: int = 1, progress: Any = None) -> SampleSizes:
    """Sizes of the samples of an order's mixture, by sources: the same for every epoch. Raises: as `train_lengths`."""
    tokens = tiles = density = 0.0
    most = 1
    for name in order.sources:
        source = certified.sources[name]
        lengths, begins = train_lengths(certified, name, workers=workers, progress=progress)
        shard, row = source.locate(np.arange(len(source)))
        used = lengths[begins[shard] + row]
        share = order.counts[name] / len(order)
        tokens, tiles = tokens + share * float(used.mean()), tiles + share * float(source.tiles.mean())
        most, density = max(most, int(used.max())), max(density, float((source.tiles / used).max()))
    return SampleSizes(tokens, tiles, most, density)


def draw(certified: Certified, order: EpochOrder, *, workers: int = 1, progress: Any = None) -> Draws:
    """Samples of an epoch in its order, with their tokens and tiles. Raises: as `train_lengths`."""
    sources: list[SourceSamples] = [certified.sources[name] for name in order.sources]
    lengths = [train_lengths(certified, name, workers=workers, progress=progress) for name in order.sources]
    count = len(order)
    draws = Draws(np.empty(count, np.int16), np.empty(count, np.int64), *(np.empty(count, np.int32) for _ in range(2)))
    for first in range(0, count, _DRAWS):
        piece = slice(first, min(first + _DRAWS, count))
        source, index = order.at(np.arange(piece.start, piece.stop))
        draws.source[piece], draws.index[piece] = source, index
        tokens, tiles = draws.tokens[piece], draws.tiles[piece]
        for number in np.unique(source).tolist():
            here = np.flatnonzero(source == number)
            shard, row = sources[number].locate(index[here])
            of_build, begins = lengths[number]
            tokens[here] = of_build[begins[shard] + row]
            tiles[here] = sources[number].tiles[index[here]]
    return draws


def least_tokens(certified: Certified, order: EpochOrder, draws: Draws) -> Int64:
    """Tokens that each of some draws keeps at least when it is truncated, read from their records.

    They end with the first of the reply behind its last picture: its pictures are whole, and something is learnt.
    """
    least = np.zeros(len(draws), np.int64)
    for number in np.unique(draws.source).tolist():
        source = certified.sources[order.sources[number]]
        build, (_, begins) = Build(source.folder, role="train"), train_lengths(certified, source.name)
        here = np.flatnonzero(draws.source == number)
        shard, row = source.locate(draws.index[here])
        for place, index in zip(here.tolist(), (begins[shard] + row).tolist(), strict=True):
            messages = build[index].record["messages"]
            roles = [one["role"] for one in messages]
            pictures = [i for i, one in enumerate(messages) for part in one["content"] if part["type"] == "image"]
            reply = [*roles, "assistant"].index("assistant", max(pictures, default=0))
            before, replies = messages[:reply], roles[:reply].count("assistant")
            texts = [text for one in before for text in (one["reasoning"], *(part["text"] for part in one["content"]))]
            least[place] = REPLY_TOKENS + sample_length(
                sum(count_tokens(text) for text in texts if text), int(draws.tiles[place]), images=len(pictures),
                messages=reply - replies, replies=replies, reasoned=sum(bool(one["reasoning"]) for one in before),
            )  # fmt: skip
    return least


def pack_epoch(
    draws: Draws, length: int, tiles_limit: int, over_long: str, least: Callable[[Draws], Int64] | None = None
) -> PackedEpoch:
    """Pack an epoch's samples. A sample's place in the epoch's order decides between samples of one size.

    `least` says of draws what a truncated one must keep (`least_tokens`).

    Raises: `OverLong` where there are such samples and the policy is to report them, or they cannot be truncated.
    """
    long = (draws.tokens > length) | (draws.tiles > tiles_limit)
    found = draws.take(long)
    count = len(found)
    if count and over_long == "report":
        raise OverLong(
            np.flatnonzero(long),
            f"{count} of {len(draws)} samples have more than {length} tokens or {tiles_limit} tiles (the longest "
            f"{found.tokens.max()} and {found.tiles.max()}); raise --length or --tiles, or choose --over-long truncate "
            "(cuts the end of the text) or --over-long drop",
        )
    keys, cut, packed = np.arange(len(draws), dtype=np.uint64), None, draws
    if count and over_long == "truncate":
        # Pictures cannot be cut, and a sample without a reply teaches nothing.
        whole = found.tiles > tiles_limit
        if least is not None:
            whole |= least(found) > length
        if whole.any():
            raise OverLong(
                np.flatnonzero(long)[whole],
                f"{int(whole.sum())} samples cannot be truncated: they have more than {tiles_limit} tiles, or their "
                f"reply begins beyond {length} tokens; raise --length or --tiles, or choose --over-long drop",
            )
        cut, packed = long, replace(draws, tokens=np.minimum(draws.tokens, length))
    elif count:
        keys, packed = keys[~long], draws.take(~long)
    result = pack(packed.tokens, packed.tiles, keys, length, tiles_limit)
    return PackedEpoch(packed, result, found, cut)


def ensure_plan(
    certified: Certified,
    order: EpochOrder,
    length: int,
    tiles_limit: int,
    over_long: str = "report",
    together: int | None = None,
    *,
    workers: int = 1,
    progress: Any = None,
) -> PackPlan:
    """The plan of an epoch at its usual place, made where it is not there yet; any number of processes may ask at once.

    Raises: `OverLong`, `UserError`.
    """
    terms = PlanTerms.of(order, length, tiles_limit, over_long, together)
    path = plan_path(certified.data, terms)
    with locked(path.parent):
        if not path.exists():
            draws = draw(certified, order, workers=workers, progress=progress)
            least = partial(least_tokens, certified, order)
            write_plan(path, terms, pack_epoch(draws, length, tiles_limit, over_long, least))
    plan = PackPlan.load(path)
    if plan.terms != terms:
        raise UserError(f"{path}: a plan of other terms than its name says; delete it, it is made again")
    return plan


def rank_balance(costs: Int64, world_size: int) -> tuple[float, float]:
    """How unequal the work of `world_size` ranks is that take packs of these costs in turn.

    Returns: (most work of a rank, divided by the mean; mean over the whole steps of the most expensive pack of a step,
    divided by the step's mean: the share of time that ranks wait for each other).
    """
    whole = len(costs) // world_size * world_size
    steps = costs[:whole].reshape(-1, world_size).astype(float)
    if not len(steps):
        return 1.0, 1.0
    sums = steps.sum(axis=0)
    return float(sums.max() / sums.mean()), float(steps.max(axis=1).sum() / steps.mean(axis=1).sum())
