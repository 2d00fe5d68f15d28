"""`python -m train.run`: one stage of training on certified shards."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from train.config import Config, ConfigError, check_config, load_config

if TYPE_CHECKING:
    from shards.certified import Certified
    from shards.order import EpochOrder
    from shards.packing import Plan
    from train.memory import Need

EXAMPLE = """\
example:
  python -m train.assemble --size tiny --out data/models/tiny
  python -m train.run --shards data/built --stage pretrain --model data/models/tiny --out data/runs/pretrain
  torchrun --nproc_per_node 8 -m train.run --shards data/built --stage midtrain --model data/runs/pretrain/model \\
      --out data/runs/midtrain --set optimizer.llm_lr=1e-5

A run that was stopped goes on from its last checkpoint with the same command, on any number of devices that divides
data.packs_per_step.
"""


class RunError(Exception):
    """A run cannot start or go on; one line: what, where, what to do."""


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        "python -m train.run",
        description="Train one stage on shards that a certificate covers.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shards", type=Path, required=True, metavar="DATA", help="folder of builds and their proof")
    parser.add_argument("--stage", required=True, help="pretrain, midtrain, instruct, or a YAML file of that form")
    parser.add_argument("--model", type=Path, metavar="DIR", help="model to start from: of train.assemble or of a run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of checkpoints, logs and the trained model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; repeatable")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after N steps; the schedule keeps its length")
    parser.add_argument("--steps", type=int, metavar="N", help="length of the schedule, instead of whole epochs")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained and what memory it needs")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices that --dry-run plans for")
    parser.add_argument("--uncertified", action="store_true", help="train on builds that no certificate covers")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 stopped with one line (run again to resume), 2 wrong usage."""
    options = make_parser().parse_args(arguments)
    try:
        config = load_config(options.stage, options.set)
        if options.model is None or (options.out is None and not options.dry_run):
            raise ConfigError("--model and --out are needed (--dry-run needs no --out)")
        for name in ("max_steps", "steps", "devices"):
            value = getattr(options, name)
            if value is not None and value < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: at least 1")
    except ConfigError as error:
        print(f"train.run: {error}", file=sys.stderr)
        return 2
    from shards.certified import CertifiedError
    from shards.mixture import MixtureError

    from shards.packing import PackingError
    from shards.storage import StorageError
    from shards.stream import StreamError

    expected: tuple[type[Exception], ...] = (
        RunError, CertifiedError, MixtureError, PackingError, StorageError, StreamError,
    )  # fmt: skip
    try:
        if options.dry_run:
            print(dry_run(config, options))
            return 0
        from train.checkpoint import CheckpointError
        from train.loop import TrainError
        from train.model import ModelError

        expected += (CheckpointError, TrainError, ModelError)
        train(config, options)
    except expected as error:
        print(f"train.run: {error}", file=sys.stderr)
        return 1
    return 0


def open_data(config: Config, options: argparse.Namespace) -> tuple[Certified, EpochOrder]:
    """The samples that may be trained on, and the order of the first epoch of the stage's mixture."""
    from shards.certified import load_certified
    from shards.mixture import Mixture
    from shards.order import EpochOrder

    certified = load_certified(options.shards, uncertified=options.uncertified, quiet=options.quiet)
    mixture = Mixture.load(config.data.mixture)
    if config.data.only_present:
        mixture, left_out = mixture.only_present(certified.sources)
        if left_out and not options.quiet:
            print(f"train.run: {left_out}", file=sys.stderr)
    return certified, EpochOrder(certified, mixture, config.seed)


def open_plan(config: Config, certified: Certified, order: EpochOrder, workers: int, quiet: bool) -> Plan:
    """The packing plan of an epoch's order; it is made where it is not there yet."""
    from shards.pack import draw, pack_epoch, save
    from shards.packing import Plan, PlanTerms, plan_path

    terms = PlanTerms.of(order, config.data.length, config.data.tiles, config.data.over_long)
    path = plan_path(certified.data, terms)
    if not path.exists():
        if not quiet:
            print(f"train.run: packing {len(order):,} samples of epoch {order.epoch}", file=sys.stderr)
        draws = draw(certified, order, workers=workers)
        save(path, terms, pack_epoch(draws, config.data.length, config.data.tiles, config.data.over_long))
    return Plan.load(path)


def describe(certified: Certified, order: EpochOrder, plan: Plan) -> dict[str, Any]:
    """What is trained on, for the log, the checkpoints and the model card."""
    import pyarrow.parquet as pq

    from manifests.catalog import load_builds

    builds = {build.record["build"]: build for build in load_builds(certified.data)}
    sources = []
    for name in order.sources:
        build = builds[name]
        licenses: set[str] = set()
        for _, path in build.parts("samples", "train"):
            licenses.update(pq.read_table(path, columns=["license"])["license"].unique().to_pylist())
        source = build.record["source"]
        sources.append(
            {
                "name": name,
                "source": source["name"],
                "samples": order.counts[name],
                "licenses": sorted(licenses),
                "access": source["access"],
            }
        )
    header = plan.header
    return {
        "sources": sources,
        "samples": header["samples"],
        "packs": header["packs"],
        "tokens": header["tokens"],
        "tiles": header["tiles"],
        "fill": header["token_fill"],
        "over_long": header["over_long_samples"],
    }


def dry_run(config: Config, options: argparse.Namespace) -> str:
    """What would be trained, in how many steps, and what memory a device would need."""
    from train.memory import GIB, plan_memory
    from train.model import model_shape, read_config

    certified, order = open_data(config, options)
    plan = open_plan(config, certified, order, os.cpu_count() or 1, options.quiet)
    data = describe(certified, order, plan)
    lines = [f"{'source':<28} {'samples':>12}  licences"]
    lines += [
        f"{s['name']:<28} {s['samples']:>12,}  {', '.join(s['licenses'])} ({s['access']})" for s in data["sources"]
    ]
    steps = _steps(config, plan)
    lines += [
        f"{'all':<28} {data['samples']:>12,}",
        "",
        f"{data['packs']:,} packs of {config.data.length:,} tokens and at most {config.data.tiles} tiles: "
        f"{data['tokens']:,} tokens ({data['fill']:.2%} full), {data['tiles']:,} tiles",
        f"{steps:,} steps of {config.data.packs_per_step} packs over {config.data.epochs} epoch(s)",
        f"samples too long for a pack: {', '.join(f'{n:,} {what}' for what, n in data['over_long'].items()) or 'none'}",
        "",
        f"memory of one of {options.devices} device(s), {config.engine.precision}, ZeRO-{config.engine.zero}:",
    ]
    needs: list[Need] = plan_memory(config, model_shape(read_config(options.model), config.train), options.devices)
    lines += [f"  {need.what:<28} {need.bytes / GIB:>8.1f} GiB   less with {need.knob}" for need in needs]
    lines.append(
        f"  {'together':<28} {sum(need.bytes for need in needs) / GIB:>8.1f} GiB   (activations are estimates)"
    )
    return "\n".join(lines)


def train(config: Config, options: argparse.Namespace) -> None:
    """Train the stage, from the last checkpoint of `options.out` if there is one; then export the model."""
    import yaml
    from tqdm import tqdm

    from manifests.atomic import write_atomic
    from shards.stream import Stream
    from train.collate import Collator
    from train.data import Batches
    from train.export import export_model
    from train.log import Log
    from train.loop import Trainer, start_processes
    from train.model import load_model

    place = start_processes()
    if config.data.packs_per_step % place.world:
        raise RunError(
            f"data.packs_per_step={config.data.packs_per_step} is no multiple of {place.world} ranks; set one that is"
        )
    first = place.rank == 0
    certified, order = open_data(config, options)
    if first:  # one rank packs, the others read
        open_plan(config, certified, order, os.cpu_count() or 1, options.quiet)
    _barrier()
    plan = open_plan(config, certified, order, 1, True)
    data = describe(certified, order, plan)
    identity = {
        "certificate": certified.digest,
        "certified": not options.uncertified,
        "mixture": order.mixture_digest,
        "plan": plan.digest,
        "model": _from_first(place, lambda: folder_digest(options.model)),
        "data": data,
        "versions": _versions(),
    }
    resume = _resume(config, options.out, identity)
    model = load_model(options.model, config, place.device)

    def plan_of(epoch: int) -> Plan:
        return plan if epoch == order.epoch else open_plan(config, certified, order.at_epoch(epoch), 1, True)

    stream = Stream(
        certified,
        order,
        rank=place.rank,
        world_size=place.world,
        batch_size=config.data.packs_per_step // place.world,
        plan=plan_of,
        epochs=config.data.epochs if options.steps is None else None,
    )
    if resume is not None:
        stream.load_state_dict(resume.state["stream"])
    names = sorted({source["source"] for source in data["sources"]})
    collate = Collator(
        model.tokenizer,
        model.tiling,
        {name: number for number, name in enumerate(names)},
        weighting=config.loss.weighting,
        flops=model.flops,
        # One shape for all packs: a compiled layer is not compiled again for every length.
        multiple=config.data.length if config.engine.compile else 128,
    )
    trainer = Trainer(
        config, model, Batches(stream, collate, config.data.workers), place, options.out, identity, names, resume
    )
    steps = options.steps or _steps(config, plan)
    until = min(steps, options.max_steps or steps)
    log = None
    if first:
        options.out.mkdir(parents=True, exist_ok=True)
        write_atomic(options.out / "config.yaml", yaml.safe_dump(config.as_dict(), sort_keys=False).encode())
        log = Log(options.out, trainer.step)
    try:
        with tqdm(
            total=steps, initial=trainer.step, unit="step", disable=options.quiet or not first, desc=config.stage
        ) as bar:
            trainer.run(steps, until, log, bar)
    finally:
        if log is not None:
            log.close()
    folder = export_model(trainer.engine, model, options.out / "model", identity, config)
    if first:
        print(f"train.run: {config.stage}: {trainer.step} of {steps} steps; model in {folder}")


def folder_digest(folder: Path) -> str:
    """SHA-256 over the names and contents of a model folder's files, the model card aside."""
    import hashlib

    from manifests.digest import file_sha256

    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "README.md":
            digest.update(path.name.encode() + b"\0" + file_sha256(path))
    return digest.hexdigest()


def _from_first(place: Any, make: Any) -> Any:
    """What rank 0 makes, on every rank."""
    import torch.distributed as dist

    made = [make() if place.rank == 0 else None]
    dist.broadcast_object_list(made, 0)
    return made[0]


def _steps(config: Config, plan: Plan) -> int:
    return -(-len(plan) // config.data.packs_per_step) * config.data.epochs


def _barrier() -> None:
    import torch.distributed as dist

    dist.barrier()


def _resume(config: Config, out: Path, identity: dict[str, Any]) -> Any:
    """The last checkpoint of `out`, if it is of this very run; what may differ is how it runs, not what it learns."""
    from train.checkpoint import Checkpoint, checkpoints

    found = checkpoints(out / "checkpoints")
    if not found:
        return None
    checkpoint = Checkpoint(found[-1])
    for name, what in (
        ("certificate", "data (certificate)"),
        ("mixture", "mixture"),
        ("plan", "packing plan"),
        ("model", "model to start from"),
    ):
        if checkpoint.state[name] != identity[name]:
            raise RunError(
                f"{checkpoint.path}: made with another {what} ({str(checkpoint.state[name])[:16]}, now "
                f"{str(identity[name])[:16]}); use that one, or another --out"
            )
    before = check_config(checkpoint.state["config"], str(checkpoint.path))
    for name in ("stage", "seed", "data", "train", "optimizer", "loss"):
        ours, theirs = getattr(config, name), getattr(before, name)
        if name == "data":
            ours, theirs = _data_terms(ours), _data_terms(theirs)
        if ours != theirs:
            raise RunError(f"{checkpoint.path}: made with another `{name}` ({theirs}); use that, or another --out")
    checkpoint.verify()
    return checkpoint


def _data_terms(data: Any) -> Any:
    from dataclasses import replace

    return replace(data, workers=1)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "deepspeed")}


if __name__ == "__main__":
    raise SystemExit(main())
