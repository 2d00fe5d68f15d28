"""The training loop: one pack a micro-batch, one update a step, the same numbers for any number of ranks.

The loss of a step is the sum of token weight x cross-entropy over *all* packs of *all* ranks, divided by the sum of the
weights: a rank's share of the weights is known before its first forward pass, so the gradient does not depend on how
packs fall on ranks. DeepSpeed divides by ranks and by micro-batches; both are multiplied back.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from train import checkpoint as checkpoints
from train.collate import Micro
from train.config import Config, learning_rate
from train.data import Batches, Step
from train.log import Log
from train.memory import advice
from train.model import Model, forward_losses

PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "B200": 2250.0, "A100": 312.0}
"""Dense bf16 TFLOP/s by name of the device, from NVIDIA's data sheets; what is not here gets no MFU."""


class TrainError(Exception):
    """Training cannot go on; one line: what, where, and what to do. Checkpoints stay as they were."""


@dataclass(frozen=True)
class Place:
    """Where this process runs."""

    rank: int
    world: int
    device: torch.device


def start_processes() -> Place:
    """Join the ranks that `torchrun`, `deepspeed` or Slurm started; alone, make a group of one.

    Raises:
        TrainError: the launcher's variables are there in part only.

    """
    import deepspeed

    alone = "RANK" not in os.environ and "WORLD_SIZE" not in os.environ
    if alone:
        os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
        # A store in this process: no port that another run could hold.
        dist.init_process_group(
            "nccl" if torch.cuda.is_available() else "gloo", store=dist.HashStore(), rank=0, world_size=1
        )
    missing = [name for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK") if name not in os.environ]
    if missing:
        raise TrainError(f"{', '.join(missing)} not set: start with torchrun, deepspeed or plain python")
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    else:
        device = torch.device("cpu")
    if device.type == "cpu":
        # DeepSpeed would compile an operator for ranks that share memory, say so on standard output, and never use it
        # for what training does.
        deepspeed.ops.__compatible_ops__ = {}
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo", verbose=False)
    return Place(dist.get_rank(), dist.get_world_size(), device)


def engine_config(config: Config, micros: int) -> dict[str, Any]:
    """DeepSpeed's configuration; the reasons for its figures are in the comments."""
    zero: dict[str, Any] = {
        "stage": config.engine.zero,
        "contiguous_gradients": True,
        "overlap_comm": torch.cuda.is_available(),  # gloo has no streams
        "reduce_bucket_size": int(5e8),
    }
    if config.engine.zero == 3:
        # A decoder layer of the 20B model has 0.82 G parameters: less live than two of them leaves nothing to overlap.
        zero |= {
            "stage3_max_live_parameters": int(2.5e9),
            "stage3_max_reuse_distance": int(2.5e9),
            "stage3_prefetch_bucket_size": int(1e9),
            "reduce_bucket_size": int(1e9),
            "stage3_param_persistence_threshold": int(1e5),
            # One fetch for all experts of a layer; they are fused parameters that are used in one call.
            "leaf_module": {"classes": ["transformers.models.gpt_oss.modeling_gpt_oss.GptOssExperts"]},
        }
    if config.engine.offload == "optimizer":
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": micros,
        "gradient_clipping": config.optimizer.clip,
        "bf16": {"enabled": config.engine.precision == "bf16"},
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
    ) -> None:
        import deepspeed

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
        if resume is not None:
            resume.put_weights(model.module)
        try:
            self.engine, *_ = deepspeed.initialize(
                model=model.module, optimizer=optimizer, config=engine_config(config, micros)
            )
        except torch.OutOfMemoryError as error:
            raise TrainError(
                f"the device is out of memory for weights and states ({str(error).split('. ')[0]}); "
                f"try {advice(config)}"
            ) from None
        checkpoints.make_states(self.engine)
        self.step = 0
        if resume is not None:
            resume.put_optimizer(self.engine)
            self.step = resume.state["step"]
        self.micros = micros

    def run(self, steps: int, until: int, log: Log | None, bar: Any) -> None:
        """Train from `self.step` to `until` of `steps` (the length of the schedule).

        Raises:
            TrainError: a loss or gradient that is not finite, memory that does not suffice, a failed evaluation.

        """
        watch = self.config.watch
        previous = time.perf_counter()
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
            except torch.OutOfMemoryError as error:
                raise TrainError(
                    f"step {self.step}: the device is out of memory ({str(error).split('. ')[0]}); "
                    f"try {advice(self.config)}"
                ) from None
            now = time.perf_counter()
            seconds, previous = now - previous, now
            record |= {
                "step": self.step,
                "seconds": round(seconds, 4),
                "tokens_per_second": round(record["tokens"] / seconds, 1),
                "data_wait": round(record.pop("waited") / seconds, 4),
                **{f"lr/{name}": peak * rate for name, peak in zip(self.names, self.peaks, strict=True)},
            }
            flops = record.pop("flops")
            peak_flops = peak_tflops(self.place.device)
            if peak_flops is not None:
                record["mfu"] = round(flops / seconds / (peak_flops * 1e12 * self.place.world), 4)
            self.step += 1
            if log is not None and (record["step"] % watch.log_every == 0 or self.step == until):
                log.write(record)
            bar.update(1)
            bar.set_postfix_str(f"loss {record['loss']:.3f}, {record['tokens_per_second']:,.0f} tokens/s")
            if self.step % watch.save_every == 0 or self.step == until:
                self.save(batch.batch.state)
                previous = time.perf_counter()
            if watch.evaluate_every and self.step % watch.evaluate_every == 0:
                self.evaluate()
                previous = time.perf_counter()

    def save(self, stream_state: Mapping[str, Any]) -> Path:
        """Write a checkpoint of this step; `stream_state` is where the data go on."""
        state = {"stream": dict(stream_state), "config": self.config.as_dict(), **self.identity}
        return checkpoints.save_checkpoint(
            self.engine, self.out / "checkpoints", self.step, state, self.config.watch.keep
        )

    def evaluate(self) -> None:
        """Export the model and run `watch.evaluate` on it, on rank 0, while the others wait.

        Raises:
            TrainError: the command failed.

        """
        from train.export import export_model

        folder = self.out / "evaluations" / f"step-{self.step:08d}"
        export_model(self.engine, self.model, folder / "model", self.identity, self.config)
        status = [0]
        if self.place.rank == 0:
            command = self.config.watch.evaluate.format(model=folder / "model", step=self.step, out=folder)
            # The command is the user's own, from their own configuration; it runs as they would type it.
            status = [subprocess.run(command, shell=True, stdout=sys.stderr).returncode]  # noqa: S602
        dist.broadcast_object_list(status, 0)
        if status[0]:
            raise TrainError(f"step {self.step}: watch.evaluate ended with {status[0]}; see above")

    def _update(self, step: Step[Micro]) -> dict[str, Any]:
        """One optimizer update; the step's figures over all ranks."""
        device, world = self.place.device, self.place.world
        weight = torch.tensor([sum(micro.weight for micro in step.micros)], dtype=torch.float64, device=device)
        dist.all_reduce(weight)
        if weight.item() <= 0:
            raise TrainError(f"step {self.step}: no supervised token in {step.batch.count} packs; check the mixture")
        by_source = torch.zeros(2, len(self.sources), dtype=torch.float64, device=device)
        totals = torch.zeros(6, dtype=torch.float64, device=device)
        for micro in step.micros:
            there = micro.to(device)
            losses = forward_losses(self.model, self.engine, there, self.config)
            loss = (losses * there.weights).sum() / weight.float()[0]
            value = loss.item()
            if not math.isfinite(value):
                names = ", ".join(micro.samples[:3])
                raise TrainError(
                    f"step {self.step}: the loss is {value} in a pack that begins with {names}; nothing was updated. "
                    "Resume from the last checkpoint with a lower learning rate, or leave the samples out"
                )
            self.engine.backward(loss * (world * len(step.micros)))
            self.engine.step()
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
            raise TrainError(
                f"step {self.step}: the gradient's norm is {norm}; resume from the last checkpoint with a lower "
                "learning rate"
            )
        waited = torch.tensor([step.waited], dtype=torch.float64, device=device)
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
            "waited": waited.item(),
            "flops": flops,
            "sources": {
                name: round(total / count, 6)
                for name, total, count in zip(self.sources, *by_source.tolist(), strict=True)
                if count
            },
        }


def peak_tflops(device: torch.device) -> float | None:
    """Dense bf16 peak of a device, where it is known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)
