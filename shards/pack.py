"""`python -m shards.pack DATA --stage instruct`: pack one epoch of a mixture into sequences, and write the plan."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgpt.arguments import Tree, command_parser
from medgpt.engines import add_engine, choose_engine
from medgpt.errors import NOT_FINISHED, run
from medgpt.messages import complain
from medgpt.tables import table
from shards.options import add_order_options, ordered

if TYPE_CHECKING:
    from shards.order import EpochOrder
    from shards.packing import Draws, PackedEpoch, PlanTerms

ROWS_SHOWN = 20
RANKS = (2, 8, 16)
"""Numbers of ranks whose balance is told."""


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 if samples are over-long and no policy says what to do, 2 if nothing can be packed."""
    options = _parser().parse_args(arguments)
    choose_engine(options)
    from tqdm import tqdm

    from shards.epoch import draw, least_tokens, pack_epoch
    from shards.packing import OverLong, PlanTerms, plan_path, write_plan

    order = ordered(options, epoch=options.epoch, licenses=options.licenses)
    terms = PlanTerms.of(order, options.length, options.tiles, options.over_long, options.together)
    path = options.out or plan_path(options.data, terms)
    with tqdm(desc="counting", unit=" samples", disable=None) as bar:
        draws = draw(order.certified, order, workers=options.workers, progress=bar.update)
    try:
        least = partial(least_tokens, order.certified, order)
        epoch = pack_epoch(draws, options.length, options.tiles, options.over_long, least)
    except OverLong as error:
        complain(error)
        first = _first(order, draws.take(error.positions))
        if options.json:
            print(json.dumps({"over_long": len(error.positions), "over_long_first": first}, indent=2))
        else:
            _print_over_long(len(error.positions), first)
        return NOT_FINISHED
    report = _report(order, terms, epoch)
    if options.html:
        from medgpt.atomic import write_atomic

        write_atomic(options.html, _as_html(report, epoch).encode())
    digest = None if options.dry_run else write_plan(path, terms, epoch)
    if options.json:
        print(json.dumps(report | {"plan": None if options.dry_run else str(path), "digest": digest}, indent=2))
        return 0
    _print(report, terms.over_long)
    if options.dry_run:
        print("nothing is written (--dry-run)")
    else:
        print(f"{path} is the plan, {path.stat().st_size:,} bytes, digest {str(digest)[:16]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "shards.pack",
        "Pack one epoch of a mixture into sequences of a fixed number of tokens and image tiles, and write "
        "the plan, which training reads. Exit code: 0; 1 if samples are too long and no policy says what becomes of "
        "them, or a file cannot be read or written; 2 for input that cannot be packed.",
        "example: python -m shards.pack data --stage instruct --only-present --accept-incomplete --dry-run",
        tree=Tree(shards=True),
    )
    add_order_options(parser)
    add = parser.add_argument
    add("--length", type=int, default=32_768, metavar="N", help="tokens of a pack (default 32768)")
    add("--tiles", type=int, default=96, metavar="N", help="most image tiles of a pack (default 96)")
    long = "samples that fit into no pack: report them and stop (default), cut the end of their text, leave them out"
    add("--over-long", choices=("report", "truncate", "drop"), default="report", help=long)
    alike = "packs of nearly equal work in a row: a multiple of the ranks (train.run asks for those of a step)"
    add("--together", type=int, metavar="N", help=alike)
    add("--epoch", type=int, default=0, metavar="N", help="number of the epoch (default 0)")
    add("--licenses", nargs="+", action="extend", metavar="NAME", help="only samples under these licences")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that count")
    add_engine(parser)
    add("--out", type=Path, metavar="FILE", help="plan (default: below DATA/.streams/plans)")
    add("--html", type=Path, metavar="FILE", help="write a page of how full the packs are, too")
    add("--dry-run", action="store_true", help="pack and say how well, write no plan")
    return parser


def _first(order: EpochOrder, found: Draws) -> list[dict[str, Any]]:
    """The first of some draws, with ids."""
    rows = []
    for place in range(min(len(found), ROWS_SHOWN)):
        build = order.sources[found.source[place]]
        [name] = order.certified.sources[build].ids(found.index[place : place + 1])
        rows.append(
            {"build": build, "sample": name, "tokens": int(found.tokens[place]), "tiles": int(found.tiles[place])}
        )
    return rows


def _print_over_long(count: int, first: Sequence[dict[str, Any]]) -> None:
    print(table(("build", "sample", "tokens", "tiles"), [list(row.values()) for row in first]))
    if count > len(first):
        print(f"and {count - len(first)} more")


def _report(order: EpochOrder, terms: PlanTerms, epoch: PackedEpoch) -> dict[str, Any]:
    """How well an epoch is packed, what was too long, and how equal the work of ranks is."""
    from shards.epoch import rank_balance
    from shards.packing import balanced_order, pack_costs

    draws, result = epoch.draws, epoch.result
    costs, uneven = pack_costs(draws.tokens, draws.tiles, result.members, result.starts)
    costs = costs[balanced_order(costs, uneven, bytes.fromhex(terms.digest), terms.together)]
    balances = [(ranks, *rank_balance(costs, ranks)) for ranks in RANKS if len(costs) >= terms.together]
    return {
        "samples": len(draws), "packs": len(result), "length": result.length, "tiles": result.tiles_limit,
        "lower_bound": result.lower_bound, "token_fill": result.token_fill, "tile_fill": result.tile_fill,
        "over_long": len(epoch.over_long), "over_long_first": _first(order, epoch.over_long),
        "balance": [{"ranks": r, "busiest": busiest, "step": step} for r, busiest, step in balances],
    }  # fmt: skip


def _as_html(report: dict[str, Any], epoch: PackedEpoch) -> str:
    """The report as one page: packs by how much of their tokens and tiles is filled, and the balance of ranks."""
    from medgpt.page import render

    result = epoch.result
    filled = {"tokens": result.tokens / result.length, "tiles": result.tiles / max(1, result.tiles_limit)}
    bins = {
        name: [(f"{10 * ten} to {10 * ten + 10} %", count, count) for ten, count in enumerate(_tenths(shares))]
        for name, shares in filled.items()
    }
    balance = [(row["ranks"], *(f"{row[key] - 1:.2%}" for key in ("busiest", "step"))) for row in report["balance"]]
    folder = Path(__file__).parent
    return render(folder, "pack.html", title="Packs of an epoch", report=report, bins=bins, balance=balance)


def _tenths(shares: Any) -> list[int]:
    """How many shares, 0 to 1, lie in each tenth; 1 itself belongs to the last."""
    import numpy as np

    counts: list[int] = np.histogram(shares, 10, (0, 1))[0].tolist()
    return counts


def _print(report: dict[str, Any], policy: str) -> None:
    print(
        f"{report['samples']:,} samples in {report['packs']:,} packs of {report['length']} tokens and "
        f"{report['tiles']} tiles (lower bound {report['lower_bound']:,}); tokens filled {report['token_fill']:.4%}, "
        f"tiles {report['tile_fill']:.4%}"
    )
    if report["over_long"]:
        print(f"{report['over_long']:,} samples too long, by --over-long {policy}:")
        _print_over_long(report["over_long"], report["over_long_first"])
    for row in report["balance"]:
        print(
            f"{row['ranks']} ranks: the busiest has {row['busiest'] - 1:.2%} more work than the mean; waiting for the "
            f"slowest in each step takes {row['step'] - 1:.2%}"
        )


if __name__ == "__main__":
    raise SystemExit(main())
