"""The training loop: one pack a micro-batch, one update a step, the same numbers for any number of ranks.

The loss of a step is the sum of token weight x cross-entropy over *all* packs of *all* ranks, divided by the sum of the
weights: a rank's share of the weights is known before its first forward pass, so the gradient does not depend on how
packs fall on ranks. DeepSpeed divides by ranks and by micro-batches; both are multiplied back.
"""

import gc
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist

from medgpt.errors import UserError, one_line
from train import checkpoint as checkpoints
from train.checkpoint import Everywhere
from train.collate import Micro
from train.config import Config, learning_rate
from train.data import Batches, Step
from train.log import Log
from train.memory import BUCKET, GIB, LIVE, advice
from train.model import Model, forward_losses, layer_lists

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "B200": 2250.0, "A100": 312.0}
"""Dense bf16 TFLOP/s by name of the device, from NVIDIA's data sheets; what is not here gets no MFU."""


LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables by which `torchrun`, `deepspeed` and the Slurm example tell a process where it is."""


class Stopped(Everywhere):
    """A signal (its `number`) asked for the end; the checkpoint of the last step is written."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


class Asked:
    """Notes SIGTERM (Slurm, before it takes the machine away) and SIGINT (Ctrl-C) instead of dying of them.

    A second Ctrl-C ends the process at once.
    """

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number


@dataclass(frozen=True)
class Place:
    """Where this process runs."""

    rank: int
    world: int
    device: torch.device


def start_processes() -> Place:
    """Join the ranks that `torchrun`, `deepspeed` or Slurm's `srun` started; alone, make a group of one.

    Raises: `UserError` (the launcher's variables are there in part only).
    """
    import deepspeed

    alone = "RANK" not in os.environ and "WORLD_SIZE" not in os.environ
    # Of a step of several tasks only (sbatch itself sets SLURM_NTASKS): taken for single runs, they would all write to
    # the same folder.
    if alone and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        alone = False
        names = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}
        os.environ |= {ours: os.environ[theirs] for ours, theirs in names.items() if theirs in os.environ}
    if alone:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        # A store in this process: no port that another run could hold.
        dist.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(), rank=0, world_size=1
        )
    missing = [name for name in LAUNCHER if name not in os.environ and not dist.is_initialized()]
    if missing:
        raise UserError(
            f"{', '.join(missing)} not set: start with torchrun, deepspeed, srun (as in train/slurm/train.sbatch) or "
            "plain python"
        )
    if torch.cuda.is_available():
        # Slurm may show each task its own device only.
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if device.type == "cpu":
        # DeepSpeed would compile an operator for ranks that share memory, say so on standard output, and never use it
        # for what training does.
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return Place(dist.get_rank(), dist.get_world_size(), device)


def smallest_memory(place: Place) -> float:
    """GiB of the smallest device of the ranks, which all plan with; 0 on a CPU. A collective."""
    total = torch.cuda.mem_get_info(place.device)[1] if place.device.type == "cuda" else 0
    found = torch.tensor([total / GIB], device=place.device)
    dist.all_reduce(found, dist.ReduceOp.MIN)
    return found.item()


def engine_config(config: Config, micros: int) -> dict[str, Any]:
    """DeepSpeed's configuration for `micros` packs a rank and step; the reasons for its figures are in the comments."""
    zero: dict[str, Any] = {
        "stage": config.engine.zero,
        # ZeRO-3 would copy each gradient into a buffer, and out of it again to part it.
        "contiguous_gradients": config.engine.zero != 3,
        "overlap_comm": torch.cuda.is_available(),  # gloo has no streams
        "reduce_bucket_size": BUCKET[config.engine.zero],
    }
    if config.engine.zero == 3:
        zero |= {
            "stage3_max_live_parameters": LIVE,
            "stage3_max_reuse_distance": LIVE,
            "stage3_prefetch_bucket_size": int(1e9),
            "stage3_param_persistence_threshold": int(1e5),
            # A function of its own for every linear layer: torch 2.11 compiles it to one that passes no gradient on.
            "memory_efficient_linear": not config.engine.compile,
        }
    # Left to itself, DeepSpeed 0.19 sums in the model's precision, in every ZeRO stage. A single pack is no sum.
    summed = micros > 1 and config.engine.precision == "bf16"
    accumulation = {"data_types": {"grad_accum_dtype": config.engine.accumulate}} if summed else {}
    if config.engine.offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micros,
        "gradient_clipping": config.optimizer.clip,
        "bf16": {"enabled": config.engine.precision == "bf16"},
        **accumulation,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 10**9,
    }


class Trainer:
    """A model under DeepSpeed, its data and its log; `run` trains until the steps are done."""

    def __init__(
        self,
        config: Config,
        model: Model,
        batches: Batches[Micro],
        place: Place,
        out: Path,
        identity: Mapping[str, Any],
        sources: list[str],
        resume: checkpoints.Checkpoint | None,
        probe: Callable[[Any], dict[str, float]] | None = None,
    ) -> None:
        import deepspeed
        from deepspeed.utils import set_z3_leaf_modules

        self.probe = probe

        self.config, self.model, self.batches, self.place, self.out = config, model, batches, place, out
        self.identity, self.sources = dict(identity), sources
        micros = config.data.packs_per_step // place.world
        groups = model.parameter_groups(config)
        optimizer = torch.optim.AdamW(
            groups,
            betas=config.optimizer.betas,
            eps=config.optimizer.eps,
            fused=place.device.type == "cuda" and config.engine.offload == "none",
        )
        self.peaks = [group["lr"] for group in groups]
        self.names = [group["name"] for group in groups]
        if config.engine.zero == 3:
            # One fetch for a whole layer, and no hook within the graph that is compiled of it.
            set_z3_leaf_modules(model.module, list({type(layers[0]) for layers in layer_lists(model.module)}))
        try:
            self.engine, *_ = deepspeed.initialize(
                model=model.module, optimizer=optimizer, config=engine_config(config, micros)
            )
            checkpoints.make_states(self.engine)
            self.whole: list[Any] = []
            if config.engine.zero == 3:
                # DeepSpeed does both parameter by parameter, in some 800 calls each, while the device waits.
                parted = self.engine.optimizer
                parted.get_grad_norm_direct = _norm
                self.whole, parted.persistent_parameters = parted.persistent_parameters, []
        except RuntimeError as error:
            raise _explained(error, "weights and states", config) from None
        self.step = 0 if resume is None else resume.state["step"]
        self.saver = checkpoints.Saver(out / "checkpoints", config.watch.keep, checkpoints.parts_of(self.engine))
        self.micros = micros
        self.asked = Asked()
        # An evaluation may take longer than a collective of the devices may (half an hour): the ranks wait on the CPU.
        self.patient = dist.new_group(backend="gloo", timeout=timedelta(days=7))

    def run(self, steps: int, until: int, log: Log | None, bar: Any) -> None:
        """Train from `self.step` to `until` of `steps` (the length of the schedule).

        The last checkpoint is durable when it ends.

        Raises: `Stopped` (SIGTERM or SIGINT came to any rank; a checkpoint of the step in hand is written); `UserError`
        (a loss or gradient that is not finite, memory that does not suffice, a checkpoint that could not be written, a
        failed evaluation, whose step has a checkpoint).
        """
        with self.asked, self.saver:
            try:
                self._run(steps, until, log, bar)
            finally:
                gc.unfreeze()

    def _run(self, steps: int, until: int, log: Log | None, bar: Any) -> None:
        watch = self.config.watch
        begun, previous = self.step, time.perf_counter()
        for batch in self.batches:
            if self.step >= until:
                break
            rate = learning_rate(self.step, steps, self.config.optimizer)
            for group, peak in zip(self.engine.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = peak * rate
            # What is random in a step (LoRA's dropout, say) depends on seed, step and rank alone: resuming is exact.
            torch.manual_seed((self.config.seed * 1_000_003 + self.step) * 4099 + self.place.rank)
            try:
                record = self._update(batch)
            except RuntimeError as error:
                raise _explained(error, f"step {self.step}", self.config) from None
            now = time.perf_counter()
            seconds, previous = now - previous, now
            if self.step == begun:
                # What the first update made (graphs above all) stays: full collections need not look at it again.
                gc.collect()
                gc.freeze()
            record |= {
                "step": self.step,
                "seconds": round(seconds, 4),
                "tokens_per_second": round(record["tokens"] / seconds, 1),
                "data_wait": round(record.pop("waited") / seconds, 4),
                **{f"lr/{name}": peak * rate for name, peak in zip(self.names, self.peaks, strict=True)},
            }
            flops, asked, failed = (record.pop(name) for name in ("flops", "asked", "failed"))
            peak_flops = peak_tflops(self.place.device)
            if peak_flops is not None:
                record["mfu"] = round(flops / seconds / (peak_flops * 1e12 * self.place.world), 4)
            self.step += 1
            if self.probe is not None and (self.step % watch.probe_every == 0 or self.step == until):
                record["probe"] = self.probe(self.engine)
                previous = time.perf_counter()
            if log is not None and (record["step"] % watch.log_every == 0 or self.step == until or "probe" in record):
                log.write(record)
            bar.update(1)
            bar.set_postfix_str(f"loss {record['loss']:.3f}, {record['tokens_per_second']:,.0f} tokens/s")
            if failed:
                self.saver.wait()
            evaluates = bool(watch.evaluate_every) and self.step % watch.evaluate_every == 0
            # What was learnt outlives an evaluation that fails, or is killed with all else.
            if self.step % watch.save_every == 0 or self.step == until or asked or evaluates:
                self.save(batch.batch.state)
                previous = time.perf_counter()
            if evaluates and not asked:
                asked = self.evaluate()
                previous = time.perf_counter()
            if asked:
                raise Stopped(
                    f"stopped by {signal.Signals(asked).name} after {self.step} of {steps} steps; the same command "
                    f"goes on from the checkpoint in {self.out / 'checkpoints'}",
                    asked,
                )

    def save(self, stream_state: Mapping[str, Any]) -> None:
        """Begin a checkpoint of this step; `stream_state` is where the data go on."""
        state = {
            "stream": dict(stream_state),
            "config": self.config.as_dict(),
            "parameters": checkpoints.trainable(self.engine),
            "optimizer_step": checkpoints.optimizer_step(self.engine),
            **self.identity,
        }
        self.saver.save(checkpoints.parts_of(self.engine), self.step, state)

    def evaluate(self) -> int:
        """Export the model and run `watch.evaluate` on it, on rank 0, while the others wait.

        Gives the number of a signal that came to rank 0 meanwhile, of which the command may have died, too; else 0.

        Raises: `UserError` (the command failed by itself).
        """
        from train.export import export_model

        folder = self.out / "evaluations" / f"step-{self.step:08d}"
        export_model(self.engine, self.model, folder / "model", self.identity, self.config)
        status = [0, 0]
        if self.place.rank == 0:
            command = self.config.watch.command(folder / "model", self.step, folder)
            # A command that trains or loads with torch is not a rank of ours.
            environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
            # The command is the user's own, from their own configuration; it runs as they would type it.
            done = subprocess.run(command, shell=True, stdout=sys.stderr, env=environment)  # noqa: S602
            status = [done.returncode, self.asked.number]
        dist.broadcast_object_list(status, 0, group=self.patient)
        if status[0] and not status[1]:
            raise Everywhere(
                f"step {self.step}: watch.evaluate ended with {status[0]}; see above. The same command goes on with "
                "the next step"
            )
        return status[1]

    def _check(self, problem: str) -> None:
        """Raise on every rank if one has a problem: the others would wait for it in the next collective."""
        found = torch.tensor([float(bool(problem))], device=self.place.device)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        if found.item():
            reports: list[Any] = [None] * self.place.world
            dist.all_gather_object(reports, problem)
            raise Everywhere(next(text for text in reports if text))

    def _gather_whole(self) -> None:
        """After an update, gather the small parameters that ZeRO-3 keeps whole on every rank, in one collective."""
        from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

        parted = [parameter for parameter in self.whole if parameter.ds_status == ZeroParamStatus.NOT_AVAILABLE]
        if parted:
            parted[0].all_gather_coalesced(parted).wait()

    def _update(self, step: Step[Micro]) -> dict[str, Any]:
        """One optimizer update; the step's figures over all ranks."""
        device, world = self.place.device, self.place.world
        weight = torch.tensor([sum(micro.weight for micro in step.micros)], dtype=torch.float64, device=device)
        dist.all_reduce(weight)
        if weight.item() <= 0:
            raise Everywhere(f"step {self.step}: no supervised token in {step.batch.count} packs; check the mixture")
        by_source = torch.zeros(2, len(self.sources), dtype=torch.float64, device=device)
        totals = torch.zeros(6, dtype=torch.float64, device=device)
        for micro in step.micros:
            there = micro.to(device)
            losses = forward_losses(self.model, self.engine, there, self.config)
            loss = (losses * there.weights).sum() / weight.float()[0]
            self.engine.backward(loss * (world * len(step.micros)))
            value = loss.item()  # not before: the device would wait between forward and backward pass
            names = ", ".join(micro.samples[:3])
            self._check(
                ""
                if math.isfinite(value)
                else f"step {self.step}: the loss is {value} in a pack that begins with {names}; nothing was updated. "
                "Go on from the last checkpoint with a lower learning rate (--change), or leave the samples out"
            )
            self.engine.step()
            self._gather_whole()
            detached = losses.detach().double()
            by_source[0].index_add_(0, there.sources, detached)
            by_source[1].index_add_(0, there.sources, torch.ones_like(detached))
            totals += torch.tensor(
                [value, micro.tokens, micro.tiles, micro.supervised, micro.flops, micro.documents],
                dtype=torch.float64,
                device=device,
            )
        norm = self.engine.get_global_grad_norm()
        norm = float(norm) if norm is not None else 0.0
        if not math.isfinite(norm):
            raise Everywhere(
                f"step {self.step}: the gradient's norm is {norm}; nothing was updated. Go on from the last checkpoint "
                "with a lower learning rate (--change)"
            )
        # A signal that has come to one rank counts for all, at the same step; so does a failed checkpoint.
        waited = torch.tensor([step.waited, self.asked.number, self.saver.failed], dtype=torch.float64, device=device)
        dist.all_reduce(totals)
        dist.all_reduce(by_source)
        dist.all_reduce(waited, dist.ReduceOp.MAX)
        loss_sum, tokens, tiles, supervised, flops, documents = totals.tolist()
        data, packs = self.config.data, step.batch.count
        return {
            "loss": round(loss_sum, 6),
            "tokens": int(tokens),
            "tiles": int(tiles),
            "supervised": int(supervised),
            "samples": int(documents),
            "packs": packs,
            "fill": round(tokens / (packs * data.length), 4),
            "tile_fill": round(tiles / (packs * data.tiles), 4),
            "grad_norm": round(norm, 6),
            "waited": waited[0].item(),
            "asked": int(waited[1].item()),
            "failed": bool(waited[2].item()),
            "flops": flops,
            "sources": {
                name: round(total / count, 6)
                for name, total, count in zip(self.sources, *by_source.tolist(), strict=True)
                if count
            },
        }


def _norm(gradients: list[torch.Tensor], _parameters: Any) -> torch.Tensor:
    """Norm over all ranks of their parts of the gradients, fp32; -1 where it is not finite, as DeepSpeed's."""
    total = torch.stack(torch._foreach_norm(gradients, 2, dtype=torch.float32)).square().sum()
    dist.all_reduce(total)
    return torch.where(total.isfinite(), total.sqrt(), -1.0)


def _explained(error: RuntimeError, what: str, config: Config) -> UserError:
    """One line with what to set when memory, the compiler or the ranks' link fails. Raises: any other, as it is."""
    from torch._dynamo.exc import TorchDynamoException

    said = one_line(error)
    host = re.search(r"DefaultCPUAllocator: can't allocate memory: you (tried to allocate \d+ bytes)", said)
    if host:
        return UserError(f"the host is out of memory for {what} ({host[1]}); try {advice(config)}")
    if isinstance(error, torch.OutOfMemoryError):
        return UserError(f"the device is out of memory for {what} ({said.split('. ')[0]}); try {advice(config)}")
    if isinstance(error, TorchDynamoException):
        return UserError(f"{what}: a layer cannot be compiled ({said[:300]}); try engine.compile=false")
    if isinstance(error, dist.DistError) or re.search(r"NCCL error|gloo/|Connection (closed|reset) by peer", said):
        return UserError(
            f"{what}: the ranks have lost each other ({said[:300]}); see what the others say, or NCCL_DEBUG=INFO. The "
            "same command goes on from the last checkpoint"
        )
    raise error


def peak_tflops(device: torch.device) -> float | None:
    """Dense bf16 peak of a device, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
