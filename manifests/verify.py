"""Verify a proof: derive its certificate again by a second code path, and name whatever was altered.

    python -m manifests.verify data

trusts neither the certificate nor the manifest: every file is hashed, fingerprints and digests are made again from the
stored pictures and texts, evidence is derived again by `verification/` (dictionaries, lists by quarters of a hash, sets
of words), policy, exclusions and counts are worked out row by row in Python, the report is rendered again. A forger who
computes all digests anew after an edit is caught by what no longer follows from the shards.

Raw files are hashed again, and corpora made elsewhere are read in again, where the raw files lay, or where `--raw`
says. What a builder of ours made of raw files is taken from whoever ran it, unless `--rebuild` names the build: it is
then made again and must have the same root. Without that the digest of a publisher's picture file (`images.sha256`) is
not seen, either, for shards do not hold it; equal files have equal pixels, which are compared. With `--no-raw` all
builds are taken for what their publishers shipped, which the result says.

`--sample N` is an audit: the slow steps are made for N samples of each build and side and N raw files, drawn anew each
time, so that a forger can neither know nor choose them. It ends with what that shows: with 99 % confidence fewer than x
of all are other than they must be.

Exit code: 0 verified, 1 something was found, 2 there is nothing that can be read, 4 raw files were not there.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from manifests.catalog import load_builds
from manifests.proof.certificate import CERTIFICATE
from manifests.verification.audit import CONFIDENCE, bounds
from medgpt.arguments import Tree, command_parser
from medgpt.engines import add_engine, choose_engine
from medgpt.errors import DONE, NOT_COMPARED, NOT_FINISHED, UserError, run
from medgpt.messages import safe
from medgpt.tables import table

if TYPE_CHECKING:
    from manifests.verification.steps import ProofStep, Verification

_SHOWN = 20


def verify(
    data: Path,
    proof: Path,
    *,
    sample: int | None = None,
    seed: str | None = None,
    public_key: Path | None = None,
    raw: Mapping[str, Path] | None = MappingProxyType({}),
    encoder: Path | None = None,
    rebuild: Collection[str] = (),
    quiet: bool = True,
    workers: int = 1,
    tell: Callable[[ProofStep], None] = lambda step: None,
) -> Verification:
    """Verify the proof in the folder `proof` over the builds under `data`; what its steps found.

    `raw` says where raw files lie that are not where they were (`materials.raw_folder`); None leaves them out. Builds
    that `rebuild` names are made again from them. `encoder`: the copy descriptor, where the policy has one. Steps that
    rest on builds or files which are not those of the certificate are not made. Those that go through the train side
    are jobs of the chosen engine, in `workers` processes. `tell` is called with each step as it ends.

    Raises: `UserError` if there is no data or no certificate, or the key cannot be read.
    """
    from manifests.verification.spread import Pool
    from manifests.verification.steps import Verification

    if not data.is_dir():
        raise UserError(f"{data}: no such folder; name the folder of builds")
    if not (proof / CERTIFICATE).is_file():
        raise UserError(f"{proof / CERTIFICATE}: missing; run python -m manifests.prove, or name the folder (--proof)")
    if public_key is not None and not public_key.is_file():
        raise UserError(f"{public_key}: no such file; name a public key (PEM)")
    if rebuild and raw is None:
        raise UserError("--rebuild makes builds of raw files, which --no-raw leaves out; leave out one of them")
    if rebuild and (unknown := set(rebuild) - {build.record["build"] for build in load_builds(data)}):
        raise UserError(f"no build {', '.join(sorted(unknown))} below {data}; --rebuild needs names of builds")
    seed = seed or secrets.token_hex(8)
    pool = Pool(workers, proof / ".work" / f"verify-{seed}")
    verification = Verification(data, proof, sample, seed, public_key, raw, encoder, rebuild, quiet, tell, pool)
    try:
        verification.run()
    finally:
        if pool.place.is_dir():  # where an engine kept files
            shutil.rmtree(pool.place)
    return verification


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 verified, 1 something was found, 2 nothing can be read, 4 raw files were not there."""
    options = _parser().parse_args(arguments)
    choose_engine(options)
    # As in prove: one thread for the linear algebra, so that both do the same.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    verification = verify(
        options.data,
        options.proof or options.data / "proof",
        sample=options.sample,
        seed=options.seed,
        public_key=options.public_key,
        encoder=options.encoder,
        raw=None if options.no_raw else dict(options.raw),
        rebuild=options.rebuild,
        quiet=options.quiet or options.json,
        workers=options.workers,
        tell=(lambda step: None) if options.json else _print,
    )
    steps = verification.steps
    findings = sum(len(step.findings) for step in steps)
    unread = [build for step in steps for build in step.unread]
    shown = [] if options.sample is None or findings else bounds(verification.drawn_from, options.sample)
    if options.json:
        listed = [{"step": step.name, "ok": step.ok, **asdict(step)} for step in steps]
        said = {"verified": not findings, "sample": options.sample, "raw": not options.no_raw, "steps": listed}
        if options.sample is not None:
            said |= {"seed": verification.seed, "confidence": CONFIDENCE, "bounds": shown}
        print(json.dumps(said, indent=2))
    elif findings:
        print(f"NOT verified: {findings} finding{'s' * (findings != 1)}")
    else:
        if shown:
            rows = [[one["build"], one["fewer_than"], one["of"], one["what"]] for one in shown]
            print(table(["build", f"wrong, with {CONFIDENCE:.0%}: fewer than", "of", ""], rows))
        line = "Verified"
        if options.sample is not None:
            line += f", the slow steps for a sample alone (--seed {verification.seed})"
        if options.no_raw:
            line += "; raw files were NOT read (--no-raw)"
        if unread:
            line += (
                f", but for raw files that were NOT there ({', '.join(unread)}): --raw BUILD=DIR names them, --no-raw "
            )
            line += "leaves them out"
        print(line)
    return NOT_FINISHED if findings else NOT_COMPARED if unread else DONE


def _print(step: ProofStep) -> None:
    print(f"{'ok' if step.ok else 'FAILED':8}{step.name:18}{step.note}".rstrip(), flush=True)
    for finding in step.findings[:_SHOWN]:
        print(f"        {safe(finding)}")
    if len(step.findings) > _SHOWN:
        print(f"        and {len(step.findings) - _SHOWN} more; --json prints all")


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _raw_place(text: str) -> tuple[str, Path]:
    build, _, place = text.rpartition("=")
    if not Path(place).is_dir():
        raise argparse.ArgumentTypeError(f"{place}: no such folder")
    return build, Path(place)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "manifests.verify",
        (__doc__ or "").partition("\n")[0] + " Exit code: 0 verified, 1 something found, 2 unreadable, "
        "4 raw files not there.",
        "examples:\n"
        "  python -m manifests.verify data\n"
        "  python -m manifests.verify data --sample 200 --trust key.pub\n"
        "  python -m manifests.verify proofs/ours/corpus --proof proofs/ours/proof --raw ours.train=corpus/train",
        tree=Tree(shards=True),
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds")
    add("--proof", type=Path, metavar="DIR", help="folder of the proof (default DATA/proof)")
    drawn = "audit: make the slow steps for N samples of each build and side (default: all)"
    add("--sample", type=_number, metavar="N", help=drawn)
    add("--encoder", type=Path, metavar="PATH", help="the copy descriptor that the policy names")
    signed = "the certificate must be signed by this key (PEM, Ed25519)"
    add("--trust", "--public-key", type=Path, dest="public_key", metavar="KEY", help=signed)
    add("--seed", metavar="TEXT", help="draw the sample of an earlier run (default: a new one)")
    places = "where raw files lie now: of one build, or of all (DIR/<source>, or DIR itself); repeatable"
    add("--raw", type=_raw_place, action="append", default=[], metavar="[BUILD=]DIR", help=places)
    rebuilt = "builds of our own that are made again from their raw files and must have the same root; slow"
    add("--rebuild", nargs="+", default=[], metavar="BUILD", help=rebuilt)
    add("--no-raw", action="store_true", help="raw files are gone: do not read them, and say so")
    workers = "processes for the slow steps (default: one a core)"
    add("--workers", type=_number, default=os.cpu_count() or 1, metavar="N", help=workers)
    add_engine(parser)
    add("--json", action="store_true", help="print JSON")
    add("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())
