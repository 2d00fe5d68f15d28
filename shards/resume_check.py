"""`python -m shards.resume_check DATA --stage instruct`: a stream that was left goes on exactly there.

One stream is read to the end of an epoch (or of `--samples`). Another is read by several ranks, left somewhere, and its
state, as JSON, handed to other numbers of ranks. Ids and bytes must be those of the first stream, in its order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice, zip_longest
from typing import TYPE_CHECKING, Any

from medgpt.arguments import command_parser
from medgpt.errors import run
from shards.options import add_order_options, ordered

if TYPE_CHECKING:
    from shards.order import EpochOrder

SAVED_BY = (4, 3)
"""Ranks and samples of a batch of the stream that is left."""
LOADED_BY = ((1, 1), (2, 5), (5, 2), (16, 1))
"""Ranks and samples of a batch of those that go on."""


def check(order: EpochOrder, samples: int, bar: Any = None) -> dict[str, Any]:
    """Compare what follows a state, for every split of `LOADED_BY`, with the uninterrupted stream.

    Returns `samples` compared, `left_at`, `state_bytes`, and `different`: splits whose samples were others.
    """
    count = min(samples, len(order))
    whole = _read(order, 1, 1, None, count, bar)
    ranks, batch = SAVED_BY
    step = ranks * batch
    left_at = max(1, count // (2 * step)) * step if count > step else 0
    state = None
    if left_at:
        state = json.loads(json.dumps(_state_at(order, ranks, batch, left_at)))
    different = []
    for ranks, batch in LOADED_BY:
        rest = _read(order, ranks, batch, state, count - left_at, bar)
        if rest != whole[left_at:]:
            different.append({"ranks": ranks, "batch": batch})
    return {
        "samples": count,
        "left_at": left_at,
        "state_bytes": len(json.dumps(state).encode()) if state else 0,
        "loaded_by_ranks": [ranks for ranks, _ in LOADED_BY],
        "different": different,
    }


def _streams(order: EpochOrder, ranks: int, batch: int, state: Any) -> list[Any]:
    from shards.stream import Stream

    streams = [Stream(order.certified, order, rank=rank, world_size=ranks, batch_size=batch) for rank in range(ranks)]
    if state is not None:
        for stream in streams:
            stream.load_state_dict(state)
    return streams


def _state_at(order: EpochOrder, ranks: int, batch: int, position: int) -> Any:
    streams = _streams(order, ranks, batch, None)
    for _ in zip(range(position // (ranks * batch)), *streams, strict=False):
        pass
    return streams[0].state_dict()


def _read(order: EpochOrder, ranks: int, batch: int, state: Any, count: int, bar: Any) -> list[tuple[str, int]]:
    """(id, digest of JSON and pictures) of the next `count` samples, the ranks' batches taken in turn."""
    found: list[tuple[str, int]] = []
    for sample in islice(_in_turn(_streams(order, ranks, batch, state)), count):
        found.append((sample.key, hash((sample.json, *sample.images))))
        if bar is not None:
            bar.update(1)
    return found


def _in_turn(streams: list[Any]) -> Iterator[Any]:
    for step in zip(*streams, strict=True):
        for items in zip_longest(*(batch.items for batch in step)):
            yield from (item for item in items if item is not None)


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = command_parser(
        "shards.resume_check",
        "Check that a stream that was left goes on exactly there, with other numbers of ranks. Exit code: "
        "0 the same samples in the same order; 1 others, or a file cannot be read; 2 for bad input.",
        "example: python -m shards.resume_check data --stage instruct --only-present --accept-incomplete",
    )
    add_order_options(parser)
    parser.add_argument("--samples", type=int, default=10_000, metavar="N", help="compare so many (default 10000)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    from tqdm import tqdm

    order = ordered(options, quiet=options.quiet)
    total = min(options.samples, len(order)) * (1 + len(LOADED_BY) / 2)
    with tqdm(total=int(total), unit=" samples", disable=options.quiet or None) as bar:
        result = check(order, options.samples, bar)
    if options.json:
        print(json.dumps(result))
        return 1 if result["different"] else 0
    for split in result["different"]:
        print(f"{split['ranks']} ranks with batches of {split['batch']}: other samples than the uninterrupted stream")
    ranks = ", ".join(map(str, result["loaded_by_ranks"]))
    print(
        f"resume check: {result['samples']:,} samples; left at {result['left_at']:,} by {SAVED_BY[0]} ranks "
        f"({result['state_bytes']} bytes of state), taken up by {ranks}: "
        + ("others" if result["different"] else "the same samples in the same order")
    )
    return 1 if result["different"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
