"""What commands that read an epoch's order have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shards.order import EpochOrder


def add_order_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which samples in which order; `ordered` heeds them."""
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds, certified by manifests.prove")
    parser.add_argument("--stage", required=True, choices=("pretrain", "midtrain", "instruct"))
    parser.add_argument("--mixture", metavar="FILE", help="mixture (default: the preset of the stage)")
    parser.add_argument(
        "--only-present", action="store_true", help="leave out sources of the mixture that are not built"
    )
    parser.add_argument("--sources-present", action="store_true", dest="only_present", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the order (default 0)")
    parser.add_argument("--uncertified", action="store_true", help="use samples that no certificate covers, too")
    parser.add_argument("--json", action="store_true", help="print JSON")


def ordered(options: argparse.Namespace, **more: Any) -> EpochOrder:
    """The order that the options ask for; `more` goes to `shards.order.open_order`."""
    from shards.order import open_order

    return open_order(
        options.data, options.mixture or options.stage, options.seed, only_present=options.only_present,
        uncertified=options.uncertified, **more,
    )  # fmt: skip
