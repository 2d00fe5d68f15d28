"""Checkpoints that do not know how many ranks wrote them.

Every trainable parameter is stored whole: fp32 master weight and both AdamW moments, in safetensors files that the
ranks write in turn (rank r writes every W-th parameter), so that a run saved on eight devices goes on on two. Frozen
parameters stay in the model folder that the run started from. A checkpoint is a folder under a temporary name until all
is on disk; `state.json` goes in last and holds every file's digest.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from medgpt.atomic import TEMPORARY_SUFFIX, write_atomic
from medgpt.digest import file_sha256
from medgpt.errors import NOT_FINISHED, UserError

FORMAT = 1
MOMENTS = ("exp_avg", "exp_avg_sq")
_STATE = ("step", "optimizer_step", "files", "config", "stream", "changes")
_FILE_BYTES = 4 * 2**30
"""Tensors gathered in host memory before a file is written."""
_NAME = re.compile(r"step-(\d{8})")


class Everywhere(UserError):
    """Training cannot go on, and every rank raises this at the same place: one of them may speak for all."""

    exit_code = NOT_FINISHED


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and (path / "state.json").is_file())


def save_checkpoint(engine: Any, folder: Path, step: int, state: Mapping[str, Any], keep: int) -> Path:
    """Write the engine's trainable parameters and optimizer state, and `state`, as `folder/step-<step>`.

    A collective: every rank calls it at the same step. Older checkpoints beyond `keep` go once the new one is whole.

    Raises: `Everywhere` (a rank could not write (disk full, no rights); what was there before is untouched).
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    target = folder / f"step-{step:08d}"
    work = target.with_name(target.name + TEMPORARY_SUFFIX)
    if rank == 0:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
    dist.barrier()
    files: list[dict[str, Any]] = []
    problem = ""
    held: dict[str, torch.Tensor] = {}
    size = 0

    def flush() -> None:
        nonlocal size
        path = work / f"rank{rank:05d}-{len(files):05d}.safetensors"
        save_file(held, path)
        with path.open("rb") as file:
            os.fsync(file.fileno())
        files.append({"file": path.name, "bytes": path.stat().st_size, "sha256": file_sha256(path).hex(), "rank": rank})
        held.clear()
        size = 0

    for number, (name, tensors) in enumerate(_full_tensors(engine)):
        if number % world != rank or problem:
            continue
        try:
            for kind, tensor in tensors.items():
                held[f"{kind}|{name}"] = tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
                size += tensor.numel() * 4
            if size >= _FILE_BYTES:
                flush()
        except (OSError, SafetensorError) as error:
            problem = f"{work}: {error}"
    try:
        if held and not problem:
            flush()
    except (OSError, SafetensorError) as error:
        problem = f"{work}: {error}"
    reports: list[Any] = [None] * world
    dist.all_gather_object(reports, (files, problem))
    problems = [text for _, text in reports if text]
    if not problems and rank == 0:
        document = {
            "format": FORMAT,
            "step": step,
            "optimizer_step": optimizer_step(engine),
            "files": [file for part, _ in reports for file in part],
            **state,
        }
        try:
            write_atomic(work / "state.json", orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))
            shutil.rmtree(target, ignore_errors=True)
            work.rename(target)
            for old in checkpoints(folder)[:-keep]:
                shutil.rmtree(old)
        except OSError as error:
            problems = [f"{target}: {error}"]
    shared = [problems]
    dist.broadcast_object_list(shared, 0)
    if shared[0]:
        raise Everywhere(f"checkpoint not written: {shared[0][0]}; free space and resume from the one before")
    return target


class Checkpoint:
    """A finished checkpoint, opened: `state` as it was given, tensors by name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.state: dict[str, Any] = orjson.loads((path / "state.json").read_bytes())
        except FileNotFoundError:
            raise UserError(f"{path}: no state.json, so no finished checkpoint") from None
        except orjson.JSONDecodeError as error:
            raise UserError(f"{path}/state.json: not valid JSON ({error})") from None
        if self.state.get("format") != FORMAT:
            raise UserError(f"{path}: format {self.state.get('format')!r}, not {FORMAT}; use the version it names")
        missing = [name for name in _STATE if name not in self.state]
        if missing:
            raise UserError(f"{path}/state.json: has no {missing[0]}; no checkpoint of train.run")
        self._open = ExitStack()
        self._where: dict[str, Any] = {}
        for file in self.state["files"]:
            part = path / file["file"]
            if not part.is_file() or part.stat().st_size != file["bytes"]:
                raise UserError(f"{part}: missing or not of {file['bytes']} bytes; use an older checkpoint")
            try:
                tensors = self._open.enter_context(safe_open(part, "pt"))
            except SafetensorError as error:
                raise UserError(f"{part}: {error}; use an older checkpoint") from None
            self._where.update(dict.fromkeys(tensors.keys(), tensors))

    def verify(self) -> None:
        """Hash every file again. Raises: `UserError` (a file's bytes are not those that were written)."""
        for file in self.state["files"]:
            if file_sha256(self.path / file["file"]).hex() != file["sha256"]:
                raise UserError(f"{self.path / file['file']}: altered since it was written; use an older checkpoint")

    @property
    def names(self) -> set[str]:
        """Parameters that are stored."""
        return {key.partition("|")[2] for key in self._where}

    def tensor(self, name: str, kind: str = "weight") -> torch.Tensor:
        """Full fp32 tensor of a parameter: its `weight`, `exp_avg` or `exp_avg_sq`."""
        found: torch.Tensor = self._where[f"{kind}|{name}"].get_tensor(f"{kind}|{name}")
        return found

    def put_weights(self, model: torch.nn.Module, parted: bool) -> None:
        """Copy the stored weights into a model that DeepSpeed does not have yet.

        Not where they are to be `parted` by ZeRO-3, for then `put_optimizer` sets them: every rank would make a copy
        of the whole model in the host's memory (what `from_pretrained` gives is mapped from the file and shared).

        Raises: `UserError` (the model's trainable parameters are not those stored).
        """
        wanted = {name: p for name, p in model.named_parameters() if p.requires_grad}
        for name in sorted(set(wanted) ^ self.names):
            side = "the model has" if name in wanted else "the checkpoint has"
            raise UserError(f"{self.path}: only {side} the trainable parameter {name}; resume with its own settings")
        with torch.no_grad():
            for name, parameter in wanted.items():
                stored = self.tensor(name)
                if stored.shape != parameter.shape:
                    raise UserError(
                        f"{self.path}: {name} has shape {tuple(stored.shape)}, the model {tuple(parameter.shape)}"
                    )
                if not parted:
                    parameter.copy_(stored)

    def put_optimizer(self, engine: Any) -> None:
        """Set master weights, moments and step count of an engine (after `make_states`) of that model."""
        for name, parameter in engine.module.named_parameters():
            if not parameter.requires_grad:
                continue
            for kind in ("weight", *MOMENTS):
                _set(parameter, self.tensor(name, kind), None if kind == "weight" else kind)
        if hasattr(engine.optimizer, "fp32_partitioned_groups_flat"):
            _refresh_parts(engine.optimizer)
        for state in engine.optimizer.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"].fill_(self.state["optimizer_step"])
            elif "step" in state:
                state["step"] = self.state["optimizer_step"]

    def close(self) -> None:
        """Unmap the files."""
        self._open.close()


def make_states(engine: Any) -> None:
    """Make AdamW's states now, as torch would in the first step, and link them to their parameters.

    DeepSpeed 0.19 links them after the step of the first parameter group, when those of the others do not exist yet,
    and never again; with several groups they could not be read.
    """
    zero = engine.optimizer
    flats = zero.fp32_partitioned_groups_flat if hasattr(zero, "fp32_partitioned_groups_flat") else None
    inner = zero.optimizer
    for flat in flats if flats is not None else zero.single_partition_of_fp32_groups:
        state = inner.state[flat]
        if not state:
            device = flat.device if inner.defaults["fused"] else "cpu"
            state["step"] = torch.zeros((), dtype=torch.float32, device=device)
            for kind in MOMENTS:
                state[kind] = torch.zeros_like(flat, memory_format=torch.preserve_format)
    if flats is None:
        zero._lazy_init_hp_params_optimizer_state()


def optimizer_step(engine: Any) -> int:
    """Updates that the optimizer has counted."""
    steps = {int(state["step"]) for state in engine.optimizer.optimizer.state.values() if "step" in state}
    if len(steps) > 1:
        raise UserError(f"the optimizer's states disagree on their step: {sorted(steps)}")
    return steps.pop() if steps else 0


def _full_tensors(engine: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """(name, {kind: full fp32 tensor}) of every trainable parameter, gathered from all ranks one by one."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    for name, parameter in engine.module.named_parameters():
        if not parameter.requires_grad:
            continue
        tensors = {"weight": safe_get_full_fp32_param(parameter)}
        for kind in MOMENTS:
            tensors[kind] = safe_get_full_optimizer_state(parameter, kind)
        shape: Sequence[int] = getattr(parameter, "ds_shape", parameter.shape)
        yield name, {kind: tensor.view(shape) for kind, tensor in tensors.items()}


def _refresh_parts(zero: Any) -> None:
    """Copy ZeRO-3's master weights to the parameters of the forward pass, as its step does after each update."""
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    whole = zero.persistent_parameters  # too small to be parted: they are gathered once a step
    if whole:
        whole[0].partition(whole)
        whole[0].all_gather(whole)


def _set(parameter: Any, full: torch.Tensor, kind: str | None) -> None:
    """Set this rank's part of the master weight (`kind` None) or a moment."""
    from deepspeed import utils

    set_weight, set_state = utils.safe_set_full_fp32_param, utils.safe_set_full_optimizer_state  # ZeRO 1 and 2
    if hasattr(parameter, "ds_tensor"):
        # ZeRO 3 splits the flat parameter evenly, the last part padded; DeepSpeed's own setter does not pad.
        set_weight, set_state = utils.safe_set_local_fp32_param, utils.safe_set_local_optimizer_state
        count = parameter.ds_tensor.numel()
        part = full.flatten()[dist.get_rank() * count : (dist.get_rank() + 1) * count]
        full = torch.nn.functional.pad(part, (0, count - part.numel()))
    if kind is None:
        set_weight(parameter, full)
    else:
        set_state(parameter, full, kind)
