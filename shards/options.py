"""What commands that read an epoch's order have in common."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgpt.errors import UserError
from medgpt.messages import brief, complain

if TYPE_CHECKING:
    from shards.order import EpochOrder


def add_order_options(parser: argparse.ArgumentParser) -> None:
    """The options that say which samples in which order; `ordered` heeds them."""
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds, certified by manifests.prove")
    add("--stage", choices=("pretrain", "midtrain", "instruct"), help="its preset mixture; needed without --mixture")
    add("--mixture", metavar="FILE", help="this mixture, not the preset of the stage")
    add("--only-present", action="store_true", help="leave out sources of the mixture that are not built")
    add("--sources-present", action="store_true", dest="only_present", help=argparse.SUPPRESS)
    add("--seed", type=int, default=0, metavar="N", help="seed of the order (default 0)")
    add("--uncertified", action="store_true", help="use samples that no certificate covers, too")
    add_trust_options(parser)
    add("--json", action="store_true", help="print JSON")


def add_trust_options(parser: argparse.ArgumentParser, *, training: bool = True) -> None:
    """The options that say on what a certificate is taken; `manifests.proof.trust.Trust.of` reads them.

    One that is incomplete is asked about only where something is trained.
    """
    add = parser.add_argument
    add("--trust", type=Path, metavar="KEY", help="the certificate must be signed by this key (PEM)")
    add("--accept-policy", type=Path, metavar="FILE", help="take a certificate of this policy, too")
    add("--accept-verdicts", type=Path, metavar="FILE", help="take pairs as wrong that this file of verdicts says are")
    if training:
        add("--accept-incomplete", action="store_true", help="take a certificate that names something as not compared")


def ordered(options: argparse.Namespace, epoch: int = 0, **more: Any) -> EpochOrder:
    """The order of an epoch that the options ask for; `more` goes to `load_certified`.

    What is accepted of the certificate, and what `choose` says, is said on standard error. Raises: `UserError`.
    """
    from manifests.proof.trust import Trust
    from shards.certified import load_certified
    from shards.order import EpochOrder, choose

    if not (options.mixture or options.stage):
        raise UserError("say which samples: --stage pretrain, midtrain or instruct, or --mixture FILE")
    found = load_certified(options.data, uncertified=options.uncertified, trust=Trust.of(options), **more)
    mixed, notes = choose(found, options.mixture or options.stage, options.only_present)
    for line in (*(f"accepted: {brief(line)}" for line in found.accepted), *notes):
        complain(line)
    return EpochOrder(found, mixed, options.seed, epoch)
