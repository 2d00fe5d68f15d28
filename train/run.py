"""`python -m train.run`: one stage of training on certified shards."""

from __future__ import annotations

import argparse
import fcntl
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import msgspec
import yaml

from medgpt.arguments import command_parser
from medgpt.atomic import flock, write_atomic
from medgpt.digest import folder_sha256
from medgpt.errors import DONE, NOT_FINISHED, UserError, run
from medgpt.libraries import LIBRARIES, LibraryLog, libraries_apart
from medgpt.messages import brief, complain
from medgpt.private import make_folder
from medgpt.settings import checked
from shards.options import add_trust_options
from train.config import Config, load_config
from train.memory import GIB, SMALLEST, USABLE, advice, plan_memory, trained_parameters

if TYPE_CHECKING:
    from shards.certified import Certified
    from shards.epoch import SampleSizes
    from shards.order import EpochOrder
    from shards.packing import PackPlan
    from shards.stream import Stream
    from train.checkpoint import Checkpoint
    from train.collate import Collator
    from train.loop import Place
    from train.model import Model

Made = TypeVar("Made")

EXAMPLE = """\
example:
  python -m train.assemble --size tiny --out data/models/tiny
  python -m train.run --shards data --stage pretrain --model data/models/tiny --accept-incomplete \\
      --out data/runs/pretrain
  torchrun --nproc_per_node 4 -m train.run --shards data/built --stage midtrain --model data/runs/pretrain/model \\
      --out data/runs/midtrain --set optimizer.llm_lr=1e-5

A run that was stopped goes on from its last checkpoint with the same command, on any number of devices that divides
data.packs_per_step. SIGTERM and Ctrl-C write a checkpoint after the step in hand first.
"""


class Told(Exception):
    """Every rank stops for a reason that rank 0 has already printed; the process ends with `exit_code`."""

    def __init__(self, exit_code: int = NOT_FINISHED) -> None:
        super().__init__()
        self.exit_code = exit_code


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser("train.run", "Train one stage on shards that a certificate covers.", EXAMPLE)
    parser.add_argument("data", nargs="?", type=Path, metavar="DATA", help="folder of builds and their proof")
    parser.add_argument("--shards", type=Path, metavar="DATA", help="the same")
    parser.add_argument("--stage", required=True, help="pretrain, midtrain, instruct, or a YAML file of that form")
    parser.add_argument("--model", type=Path, metavar="DIR", help="model to start from: of train.assemble or of a run")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help=f"folder of checkpoints, logs ({LIBRARIES}: of libraries) and the model"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting; repeatable")
    parser.add_argument("--only-present", action="store_true", help="the same as --set data.only_present=true")
    parser.add_argument("--max-steps", type=int, metavar="N", help="stop after N steps; the schedule keeps its length")
    parser.add_argument("--steps", type=int, metavar="N", help="length of the schedule, instead of whole epochs")
    parser.add_argument("--dry-run", action="store_true", help="say what would be trained and what memory it needs")
    parser.add_argument("--devices", type=int, default=1, metavar="N", help="devices that --dry-run plans for")
    parser.add_argument(
        "--memory", type=float, default=SMALLEST, metavar="GIB",
        help=f"memory of each (default {SMALLEST:g}, of a card of 80 GB; 139: of 141 GB)",
    )  # fmt: skip
    parser.add_argument(
        "--change", action="store_true", help="go on from a checkpoint with other settings of optimizer and loss"
    )
    parser.add_argument("--uncertified", action="store_true", help="train on builds that no certificate covers")
    add_trust_options(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    0 done, 1 stopped with one line (run again to resume), 2 wrong usage, 128 + n ended by signal n with a checkpoint.
    """
    options = make_parser().parse_args(arguments)
    config = load_config(options.stage, [*options.set, *["data.only_present=true"] * options.only_present])
    options.shards = options.shards or options.data
    if options.shards is None:
        raise UserError("say where the builds are: python -m train.run DATA ...")
    if options.model is None or (options.out is None and not options.dry_run):
        raise UserError("--model and --out are needed (--dry-run needs no --out)")
    for name in ("max_steps", "steps", "devices"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: at least 1")
    # Before torch is loaded, which takes seconds.
    if not options.shards.is_dir():
        raise UserError(f"{options.shards}: no such folder; builders write it, manifests.prove certifies it")
    if not (options.model / "config.json").is_file():
        if ((nested := options.model / "model") / "config.json").is_file():
            raise UserError(f"{options.model}: the folder of a run, no model; its model is --model {nested}")
        raise UserError(f"{options.model}: no model is there (config.json is missing); train.assemble makes one")
    try:
        with libraries_apart() as libraries:
            quiet_libraries()
            if options.dry_run:
                text, problem = dry_run(config, options)
                print(text)
                if problem:
                    raise UserError(problem)
            else:
                train(config, options, libraries)
    except Told as told:
        return told.exit_code
    except UserError as error:
        say(error)
        return NOT_FINISHED
    return DONE


def say(message: object) -> None:
    """One line on standard error, with the command's name: a launcher mixes the lines of many processes."""
    complain(f"train.run: {message}")


def quiet_libraries() -> None:
    """Keep libraries' progress bars and notes on standard output out of our lines, and memory in one piece."""
    # Layers are gathered and freed again and again: without segments that grow, GiB lie between them that nothing fits
    # into. Pages of the checkpoints' copies are touched by threads before they are pinned: pinned page by page, 255 GB
    # of four ranks kept the driver busy for 98 s, and the first update took 92 s instead of 42.
    memory = "expandable_segments:True,pinned_use_cuda_host_register:True,pinned_num_register_threads:8"
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"):  # the second is the older name of the same
        os.environ.setdefault(name, memory)
    import torch
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns that it found nothing better


def open_data(config: Config, options: argparse.Namespace, first: bool = True) -> tuple[Certified, EpochOrder]:
    """The samples that may be trained on, and the order of the first epoch of the stage's mixture.

    What the user accepts of their certificate is said on the `first` rank, also with --quiet.
    """
    from manifests.proof.trust import Trust
    from shards.certified import load_certified
    from shards.order import EpochOrder, choose

    trust = Trust.of(options)
    certified = load_certified(options.shards, uncertified=options.uncertified, trust=trust, quiet=options.quiet)
    for line in certified.accepted if first else ():
        say(f"accepted: {brief(line)}")
    mixture, notes = choose(certified, config.data.mixture, config.data.only_present)
    for line in notes if first and not options.quiet else ():
        say(line)
    return certified, EpochOrder(certified, mixture, config.seed)


def fitted(config: Config, certified: Certified, order: EpochOrder, quiet: bool) -> tuple[Config, SampleSizes]:
    """The settings with what the mixture decides of them (`Data.fitted`), and how large its samples are."""
    from tqdm import tqdm

    from shards.epoch import sample_sizes

    with tqdm(unit="sample", desc="counting", disable=True if quiet else None, leave=False) as bar:
        sizes = sample_sizes(certified, order, workers=os.cpu_count() or 1, progress=bar.update)
    data = config.data.fitted(sizes.tokens, sizes.most, sizes.density)
    return msgspec.structs.replace(config, data=data), sizes


def check_ranks(config: Config, ranks: int) -> None:
    """Raises: `UserError` (the packs of a step cannot be dealt out to so many)."""
    if config.data.packs_per_step % ranks:
        raise UserError(
            f"data.packs_per_step={config.data.packs_per_step} is no multiple of {ranks} ranks; set "
            f"data.packs_per_step={math.lcm(config.data.packs_per_step, ranks)}, say"
        )


def open_plan(config: Config, certified: Certified, order: EpochOrder, quiet: bool) -> PackPlan:
    """The packing plan of an epoch's order; it is made where it is not there yet, by one of the ranks.

    Raises: `UserError` where samples are too long and the settings do not say what becomes of them; as `ensure_plan`.
    """
    from tqdm import tqdm

    from shards.epoch import ensure_plan
    from shards.packing import OverLong

    data = config.data
    label = f"packing epoch {order.epoch}"
    with tqdm(unit="sample", desc=label, disable=True if quiet else None, leave=False) as bar:
        try:
            return ensure_plan(
                certified, order, data.length, data.tiles, data.over_long, data.packs_per_step,
                workers=os.cpu_count() or 1, progress=bar.update,
            )  # fmt: skip
        except OverLong as error:
            cut = "truncate (cuts the end of the text) or " if data.over_long == "report" else ""
            raise UserError(
                f"{str(error).split(';')[0]}; set a larger data.length (data.longest) or data.tiles, or "
                f"data.over_long={cut}drop (python -m shards.pack lists them)"
            ) from None


def describe(certified: Certified, order: EpochOrder, plan: PackPlan) -> dict[str, Any]:
    """What is trained on, for the log, the checkpoints and the model card."""
    import pyarrow.parquet as pq

    from manifests.catalog import load_build

    sources = []
    for name in order.sources:
        build = load_build(certified.sources[name].folder)
        licenses: set[str] = set()
        for _, path in build.parts("samples", "train"):
            licenses.update(pq.read_table(path, columns=["license"])["license"].unique().to_pylist())
        source = {"source": build.record["source"]["name"], "access": build.record["source"]["access"]}
        sources.append({"name": name, **source, "samples": order.counts[name], "licenses": sorted(licenses)})
    header = plan.header
    shown = {name: header[name] for name in ("samples", "packs", "tokens", "tiles", "tile_fill")}
    return {"sources": sources, **shown, "fill": header["token_fill"], "over_long": header["over_long_samples"]}


def dry_run(config: Config, options: argparse.Namespace) -> tuple[str, str]:
    """What would be trained, in how many steps, and what memory a device would need; what is wrong with that, if it is.

    Raises: `UserError` (as training would).
    """
    from train.checkpoint import free_host_memory, in_background
    from train.model import model_shape, read_config

    shape = model_shape(read_config(options.model), config.train)
    certified, order = open_data(config, options)
    config, sizes = fitted(config, certified, order, options.quiet)
    check_ranks(config, options.devices)
    plans = open_plans(config, certified, order, options)
    data = describe(certified, order, plans[order.epoch])
    steps = schedule(config, plans, options)
    lines = [f"{'source':<28} {'samples':>12}  licences"]
    lines += [
        f"{s['name']:<28} {s['samples']:>12,}  {', '.join(s['licenses'])} ({s['access']})" for s in data["sources"]
    ]
    length = "" if options.steps is None else " (--steps)"
    too_long = ", ".join(f"{count:,} {what}" for what, count in data["over_long"].items() if count)
    lines += [
        f"{'all':<28} {data['samples']:>12,}",
        "",
        f"a sample: {sizes.tokens:,.0f} tokens and {sizes.tiles:.1f} tiles in the mean, {sizes.most:,} tokens at most",
        f"an epoch: {data['packs']:,} packs of {config.data.length:,} tokens and at most {config.data.tiles} tiles; "
        f"{data['tokens']:,} tokens ({data['fill']:.2%} full), {data['tiles']:,} tiles ({data['tile_fill']:.2%} full)"
        + (", by the manifest's counts: fewer with data.max_enlargement" if config.data.max_enlargement else ""),
        f"{steps:,} steps{length or f' of {len(plans)} epoch(s)'}, each of {config.data.packs_per_step} packs",
        f"samples too long for a pack: {too_long or 'none'}",
        "",
        f"memory of one of {options.devices} device(s), {config.engine.precision}, ZeRO-{config.engine.zero}:",
    ]
    plan = plan_memory(config, shape, options.devices, options.memory)
    lines += [f"  {need.what:<28} {need.bytes / GIB:>8.1f} GiB   less with {need.knob}" for need in plan.device]
    again = round(shape.layers * (1 - plan.kept))
    lines.append(
        f"  {'together':<28} {plan.bytes / GIB:>8.1f} GiB   (activations are estimates); {again} of {shape.layers} "
        "layers are computed again"
    )
    if plan.host:
        lines.append(f"  {'of the host, for each':<28} {plan.host / GIB:>8.1f} GiB   less with engine.offload=none")
    copy, free = 12 * trained_parameters(config, shape), free_host_memory()
    waits = "" if in_background(copy, free) else ": training would wait for them; take more memory or more hosts"
    lines.append(
        f"host memory for checkpoints that are written while training goes on: {copy / GIB:.1f} GiB if all devices are "
        f"on one host ({free / GIB:.1f} free here{waits})"
    )
    room = options.memory * USABLE
    if plan.bytes <= room * GIB:
        return "\n".join(lines), ""
    enough = (n for n in (2, 4, 8, 16, 32, 64) if plan_memory(config, shape, n, options.memory).bytes <= room * GIB)
    devices = next((f"{number} devices or larger ones, " for number in enough), "larger devices, ")
    return "\n".join(lines), (
        f"{plan.bytes / GIB:.1f} GiB are needed, {room:.1f} of a device's {options.memory:g} can be planned with; take "
        f"{devices}or try {advice(config)}"
    )


@dataclass(frozen=True)
class Prepared:
    """Data and their plans, opened and agreed with what a run says of itself."""

    config: Config
    """With what the mixture decides."""
    certified: Certified
    order: EpochOrder
    plans: dict[int, PackPlan]
    """By epoch."""
    identity: dict[str, Any]
    """What a checkpoint must have been made with to go on from it, and what the model card says."""
    steps: int


def train(config: Config, options: argparse.Namespace, libraries: LibraryLog) -> None:
    """Train the stage, from the last checkpoint of `options.out` if there is one; then export the model."""
    import torch.distributed as dist
    from tqdm import tqdm

    from train.checkpoint import Everywhere, refresh
    from train.data import Batches
    from train.export import export_model
    from train.log import Log
    from train.loop import Trainer, smallest_memory, start_processes

    place = start_processes()
    first = place.rank == 0
    libraries.keep_in(options.out / (LIBRARIES if first else f"rank-{place.rank}-{LIBRARIES}"))
    prepared = _together(place, lambda: _prepare(config, options, place))
    config = prepared.config
    digest = [prepared.identity["model"]]
    dist.broadcast_object_list(digest, 0)  # one rank reads the 42 GB
    prepared.identity["model"] = digest[0]
    resume = _together(place, lambda: _resume(config, options, prepared.identity))
    memory = smallest_memory(place)
    model, stream, collate = _together(place, lambda: _load(options, prepared, place, memory, resume))
    names = list(collate.sources)
    claim = _together(place, lambda: _claim(options.out) if first else None)
    probe = _together(place, lambda: _probe(config, prepared, model, collate, first))
    trainer = Trainer(
        config, model, Batches(stream, collate, config.data.workers), place, options.out, prepared.identity, names,
        resume, probe,
    )  # fmt: skip
    if resume is not None:
        _together(place, lambda: resume.restore(trainer.engine))
        refresh(trainer.engine)
    steps = prepared.steps
    until = min(steps, options.max_steps or steps)
    log = None
    if first:
        make_folder(options.out)
        accepted = "".join(f"# accepted: {line}\n" for line in prepared.identity["accepted"])
        settings = yaml.safe_dump(config.as_dict(), sort_keys=False)
        write_atomic(options.out / "config.yaml", (accepted + settings).encode())
        log = Log(options.out, trainer.step, _blind(prepared, model))
        if trainer.saver.note:
            say(trainer.saver.note)
        if not log.events and not options.quiet:
            say("no TensorBoard events (pip install tensorboard); log.jsonl has the same")
    try:
        with tqdm(
            total=steps, initial=trainer.step, unit="step", desc=config.stage,
            disable=options.quiet or not first or None,
        ) as bar:  # fmt: skip
            trainer.run(steps, until, log, bar)
    except Everywhere as error:
        if first:
            say(error)
        dist.barrier()  # a launcher ends the others as soon as one has ended
        raise Told(error.exit_code) from None
    finally:
        if log is not None:
            log.close()
    folder = export_model(trainer.engine, model, options.out / "model", prepared.identity, config)
    if first:
        print(f"train.run: {config.stage}: {trainer.step} of {steps} steps; model in {folder}")
    if claim is not None:
        claim.close()
    dist.destroy_process_group()


def open_plans(
    config: Config, certified: Certified, order: EpochOrder, options: argparse.Namespace
) -> dict[int, PackPlan]:
    """Plans by epoch: of all of them, whose packs the schedule counts; with --steps of the first."""
    epochs = config.data.epochs if options.steps is None else 1
    orders = [order, *(order.at_epoch(order.epoch + number) for number in range(1, epochs))]
    return {each.epoch: open_plan(config, certified, each, options.quiet) for each in orders}


def schedule(config: Config, plans: Mapping[int, PackPlan], options: argparse.Namespace) -> int:
    """Steps of the whole run, after which the learning rate has reached its end."""
    if options.steps is not None:
        return int(options.steps)
    return sum(-(-len(plan) // config.data.packs_per_step) for plan in plans.values())


def _prepare(config: Config, options: argparse.Namespace, place: Place) -> Prepared:
    from train.model import read_config

    _check_folders(options)
    read_config(options.model)
    options.quiet = options.quiet or place.rank != 0
    certified, order = open_data(config, options, place.rank == 0)
    config, _ = fitted(config, certified, order, options.quiet)
    check_ranks(config, place.world)
    held = {"certificate": certified.digest, "mixture": order.mixture_digest}
    _resume(config, options, held)  # a run of other settings is refused before hours of packing
    plans = open_plans(config, certified, order, options)
    plan = plans[order.epoch]
    steps = schedule(config, plans, options)
    identity = held | {
        "certified": not options.uncertified,
        "accepted": list(certified.accepted),
        "plan": plan.digest,
        "steps": steps,
        "model": model_digest(options.model) if place.rank == 0 else "",
        "data": describe(certified, order, plan),
        "versions": {name: version(name) for name in ("torch", "transformers", "deepspeed")},
    }
    return Prepared(config, certified, order, plans, identity, steps)


def _check_folders(options: argparse.Namespace) -> None:
    """Refuse a folder that cannot be written to, before the model is loaded, and one whose model is not this run's."""
    from train.checkpoint import checkpoints

    there = next(folder for folder in (options.out, *options.out.parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"{options.out}: {there} is no folder that can be written to; use another --out")
    target = options.out / "model"
    if target.exists() and not checkpoints(options.out / "checkpoints"):
        raise UserError(f"{target}: is there, but no checkpoint of a run that made it; use another --out")


def _load(
    options: argparse.Namespace, prepared: Prepared, place: Place, memory: float, resume: Checkpoint | None
) -> tuple[Model, Stream, Collator]:
    """The model, this rank's stream of packs, and what makes tensors of them."""
    from shards.stream import Stream
    from train.collate import Collator
    from train.model import config_tiling, load_model, model_shape, read_config
    from train.tokenizer import IMAGE_CONTEXT

    config = prepared.config
    shape = model_shape(read_config(options.model), config.train)
    kept = plan_memory(config, shape, place.world, memory).kept
    model = load_model(options.model, config, place.device, kept)
    shapes, tokenizer = model.module.config, model.tokenizer
    if tokenizer.rows > shapes.text_config.vocab_size or tokenizer.special[IMAGE_CONTEXT] != shapes.image_token_id:
        raise UserError(
            f"{options.model}: the vocabulary {tokenizer.name} has {tokenizer.rows:,} rows and its image token is "
            f"{tokenizer.special[IMAGE_CONTEXT]}, the model has {shapes.text_config.vocab_size:,} and "
            f"{shapes.image_token_id}; assemble the model again (python -m train.assemble)"
        )
    if config.data.max_enlargement is not None:
        model.tiling = config_tiling(model.module.config, config.data.max_enlargement)
    plans, order = prepared.plans, prepared.order

    def plan_of(epoch: int) -> PackPlan:
        if epoch not in plans:
            plans[epoch] = open_plan(config, prepared.certified, order.at_epoch(epoch), True)
        return plans[epoch]

    stream = Stream(
        prepared.certified,
        order,
        rank=place.rank,
        world_size=place.world,
        batch_size=config.data.packs_per_step // place.world,
        plan=plan_of,
        epochs=config.data.epochs if options.steps is None else None,
    )
    if resume is not None:
        stream.load_state_dict(resume.state["stream"])
    names = sorted({source["source"] for source in prepared.identity["data"]["sources"]})
    collate = Collator(
        model.tokenizer,
        model.tiling,
        {name: number for number, name in enumerate(names)},
        weighting=config.loss.weighting,
        flops=model.flops,
        # One shape for all packs: a compiled layer is not compiled again for every length.
        multiple=config.data.length if config.engine.compile else 128,
    )
    return model, stream, collate


def _probe(
    config: Config, prepared: Prepared, model: Model, collate: Collator, first: bool
) -> Callable[[Any], dict[str, float]] | None:
    """What asks the held-out questions of `watch.probe`, given the engine.

    Where the certificate does not speak of them, the `first` rank says so: they may be trained on.
    """
    from manifests.proof.certificate import covers, read_certificate
    from shards.certified import proof_folder
    from shards.reader import Build
    from train.collate import Collator as Layout
    from train.probe import Probe

    watch = config.watch
    if not watch.probe:
        return None
    build = Build(watch.probe, role="eval", checked=True)
    certified = prepared.certified
    said = read_certificate(proof_folder(certified.data)) if certified.certificate else None
    if first and not (said and covers(said, build.document)):
        say(f"watch.probe {watch.probe}: no certificate covers it, so its questions may be trained on")
    probe = Probe(build, watch.probe, watch.probe_questions)
    sources = dict.fromkeys((sample.record["source"] for sample in probe.samples), 0)
    layout = Layout(collate.tokenizer, collate.tiling, sources, multiple=collate.multiple)
    return lambda engine: probe.measure(probe.ask(model, engine, layout, config), model.tokenizer)


_BLIND_SAMPLES = 256
"""Samples of a build from which the loss of guessing blindly is computed; their pictures are read, too."""


def _blind(prepared: Prepared, model: Model) -> dict[str, float]:
    """Loss of guessing blindly, by source whose answers can be guessed; of two builds of a source the first counts."""
    from shards.reader import Build
    from train.probe import blind

    found: dict[str, float] = {}
    for source in prepared.identity["data"]["sources"]:
        samples = Build(prepared.certified.sources[source["name"]].folder, role="train", first=_BLIND_SAMPLES)
        if source["source"] not in found and (guess := blind(samples, model.tokenizer)) is not None:
            found[source["source"]] = guess.loss
    return found


def _claim(out: Path) -> IO[bytes]:
    """Hold the folder of a run against other processes; the hold ends when the file is closed, or with the process."""
    make_folder(out)
    file = (out / ".lock").open("wb")
    try:
        flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB, out)
    except BlockingIOError:
        file.close()
        raise UserError(f"{out}: another process trains there; wait for it, or use another --out") from None
    return file


def model_digest(folder: Path) -> str:
    """Digest of a model folder's files; its card may be edited."""
    return folder_sha256(folder, besides=("README.md",))


def _together(place: Place, make: Callable[[], Made]) -> Made:
    """What `make` gives, once it has succeeded on every rank; nothing in it may wait for another rank.

    Raises: what `make` raised if this is the only rank; else `Told` on all, after rank 0 has said why.
    """
    import torch.distributed as dist

    problem: Exception | None = None
    try:
        made = make()
    except (UserError, OSError) as error:
        if place.world == 1:
            raise
        problem = error
    reports: list[Any] = [None] * place.world
    dist.all_gather_object(reports, "" if problem is None else str(problem))
    found = [(rank, text) for rank, text in enumerate(reports) if text]
    if found:
        everywhere = len(found) == place.world
        if place.rank == 0:
            say(found[0][1] if everywhere else f"rank {found[0][0]}: {found[0][1]}")
        dist.barrier()  # a launcher ends the others as soon as one has ended
        raise Told
    return made


def _resume(config: Config, options: argparse.Namespace, identity: dict[str, Any]) -> Checkpoint | None:
    """The last checkpoint of a run, if it is of this very run; what may differ is how it runs, not what it learns.

    With --change the optimizer's and the loss's settings may; `identity["changes"]` then says which, and since when.
    """
    from train.checkpoint import Checkpoint, checkpoints

    identity["changes"] = []
    found = checkpoints(options.out / "checkpoints")
    if not found:
        return None
    checkpoint = Checkpoint(found[-1])
    identity["changes"] += checkpoint.state["changes"]
    before = checked(Config, checkpoint.state["config"], str(checkpoint.path))
    for name in ("stage", "seed", "data", "train", "optimizer", "loss"):
        ours, theirs = (settings.as_dict()[name] for settings in (config, before))
        if name == "data":
            ours, theirs = ours | {"workers": 0}, theirs | {"workers": 0}
        pairs = {f"{name}.{key}": (theirs[key], ours[key]) for key in ours} if isinstance(ours, dict) else {}
        differ = {key: pair for key, pair in (pairs or {name: (theirs, ours)}).items() if pair[0] != pair[1]}
        if differ and not (options.change and name in ("optimizer", "loss")):
            # All of a group at once: what was fitted to the mixture (length, tiles, packs) differs together.
            was, now = (" ".join(f"{key}={pair[at]}" for key, pair in differ.items()) for at in (0, 1))
            more = " (or --change to go on with the new)" if name in ("optimizer", "loss") else ""
            raise UserError(f"{checkpoint.path}: made with {was}, now {now}; use that{more}, or another --out")
        identity["changes"] += [
            {"step": checkpoint.state["step"], "key": key, "old": old, "new": new} for key, (old, new) in differ.items()
        ]
    for name, what in (
        ("certificate", "data (certificate)"),
        ("mixture", "mixture"),
        ("plan", "packing plan"),
        ("model", "model to start from"),
        ("steps", "number of steps of its schedule"),
    ):
        if name in identity and checkpoint.state[name] != identity[name]:
            raise UserError(
                f"{checkpoint.path}: made with another {what} ({str(checkpoint.state[name])[:16]}, now "
                f"{str(identity[name])[:16]}); use that one, or another --out"
            )
    return checkpoint


if __name__ == "__main__":
    raise SystemExit(main())
