"""Checkpoints that every rank writes its part of, while training goes on, and that any number of ranks reads.

A rank's fp32 master weights and AdamW moments, as ZeRO parts them, are copied to host memory and go from there to
`rank*.bin`, one after the other; frozen parameters stay in the model folder that the run started from. Which values of
which parameter stand where is in `state.json`, with a digest of every block of `BLOCK` values, so that a reader reads
and checks those blocks only that hold something of its own. A checkpoint is a folder under a temporary name until all
files are on disk; `state.json` goes in last.

Not torch's distributed checkpoint (2.14): parts of ZeRO-2, which end anywhere in a parameter, would need a class of
tensors over its private protocol, digests a writer and a reader; it reads entries whole and unpickles its index.
"""

import hashlib
import json
import math
import os
import re
import shutil
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.pool import AsyncResult, ThreadPool
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Self, TypedDict

import msgspec
import torch
import torch.distributed as dist

from medgpt.atomic import TEMPORARY_SUFFIX, sync_folder, write_atomic
from medgpt.errors import NOT_FINISHED, UserError, one_line
from medgpt.limited import read_file

FORMAT = 2
GIB = 2**30
MOMENTS = ("exp_avg", "exp_avg_sq")
BLOCK = 2**24
"""fp32 values that are copied, hashed, written and read at a time: 64 MiB (pinned memory comes in powers of two)."""
THREADS = 4
"""Blocks in work at a time, per rank. SHA-256 takes some 1.5 GB/s of a core."""
_NAME = re.compile(r"step-(\d{8})")
Pieces = list[tuple[int, torch.Tensor]]
"""(position, flat tensor), both in values."""


_Count = Annotated[int, msgspec.Meta(ge=0)]


class _File(TypedDict):
    file: str
    bytes: _Count
    blocks: list[str]
    parts: list[tuple[str, _Count, _Count]]


class _State(TypedDict):
    """What is relied on of a `state.json`; it has more."""

    step: _Count
    optimizer_step: _Count
    parameters: dict[str, list[int]]
    files: list[_File]
    config: dict[str, Any]
    stream: dict[str, Any]
    changes: list[Any]


class Everywhere(UserError):
    """Training cannot go on, and every rank raises this at the same place: one of them may speak for all."""

    exit_code = NOT_FINISHED


@dataclass(frozen=True)
class Part:
    """What one rank holds of a parameter's weight or moment."""

    key: str
    """`weight|NAME`, `exp_avg|NAME` or `exp_avg_sq|NAME`."""
    start: int
    """Of the first value, in the flat parameter."""
    values: torch.Tensor
    """Flat fp32 tensor (on any device), which training changes in place."""


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints below `folder`, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and (path / "state.json").is_file())


def in_background(need: int, free: int) -> bool:
    """Whether a copy of `need` bytes fits a host, so that it is written while training goes on; a tenth stays free."""
    return need <= 0.9 * free


def free_host_memory() -> int:
    """Bytes that may still be taken here: of the machine, and of the control groups (Slurm, a container) around us.

    Source: Linux, admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst. Cached files count as used, but are given up.
    """
    machine = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    free = int(machine["MemAvailable"].split()[0]) * 1024
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, kinds, path = line.split(":", 2)
        root, most, used, cached = "/sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"
        if "memory" in kinds.split(","):
            root, most, used = root + "/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        elif kinds:
            continue
        group = Path(root + path)
        for folder in (group, *group.parents):
            if (folder / most).is_file() and (limit := (folder / most).read_text().strip()) != "max":
                stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                free = min(free, int(limit) - int((folder / used).read_text()) + int(stat[cached]))
    return max(0, free)


class Saver:
    """Writes a run's checkpoints below `folder` and keeps the last `keep`; as a context, it waits for the last one.

    Made, left and `save` called by every rank at the same place. `parts` are what this rank will save, for their size.
    """

    def __init__(self, folder: Path, keep: int, parts: Iterable[Part]) -> None:
        self.folder, self.keep = folder, keep
        values = [part.values for part in parts]
        size = sum(value.numel() for value in values)
        # Its own: the writer's thread waits for other ranks while the main thread does, too.
        self._group = dist.new_group(backend="gloo", timeout=timedelta(days=7))
        reports = _of_all((socket.gethostname(), size * 4, free_host_memory()), self._group)
        self.note = ""
        """Why checkpoints are written while training waits; empty if they are not."""
        for host in sorted({host for host, *_ in reports}):
            need = sum(size for there, size, _ in reports if there == host)
            free = min(free for there, _, free in reports if there == host)
            if not in_background(need, free):
                self.note = (
                    f"training waits while a checkpoint is written: a copy of it takes {need / GIB:.1f} GiB of "
                    f"{host}'s memory, {free / GIB:.1f} are free; ask for more memory or more hosts"
                )
        self._copies: list[torch.Tensor] = []
        # Of daemons: a second Ctrl-C ends the process at once.
        self._thread, self._writers = ThreadPool(1), ThreadPool(THREADS)
        cuda = next((value.device for value in values if value.is_cuda), None)
        self._work: AsyncResult[None] | None = self._thread.apply_async(self._reserve, (0 if self.note else size, cuda))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, Exception):
            try:
                self.wait()
            except Everywhere as problem:
                raise Everywhere(f"{problem} (after: {error})" if error else str(problem)) from error

    @property
    def failed(self) -> bool:
        """Whether the last checkpoint could not be written, as `wait` will say."""
        return self._work is not None and self._work.ready() and not self._work.successful()

    def wait(self) -> None:
        """Wait until the last checkpoint is durable.

        Raises: `Everywhere` (a rank could not write (disk full, no rights); what was there before is untouched).
        """
        work, self._work = self._work, None
        if work is not None:
            work.get()

    def save(self, parts: Iterable[Part], step: int, state: Mapping[str, Any]) -> None:
        """Copy the parts, and write them and `state` as `folder/step-<step>` in the background, after the one before.

        Raises: as `wait`.
        """
        self.wait()
        position, index, pieces = 0, [], []
        for part in parts:
            index.append((part.key, part.start, part.values.numel()))
            pieces.append((position, part.values))
            position += part.values.numel()
        blocks = _blocks(pieces)

        def copy(number: int) -> torch.Tensor:
            block = self._copies[number] if self._copies else torch.empty(BLOCK)
            for at, values in blocks[number]:
                block[at : at + values.numel()].copy_(values, non_blocking=bool(self._copies))
            return block[: position - number * BLOCK]

        if self.note:
            self._write(len(blocks), copy, index, step, state)
            return
        copies = [copy(number) for number in range(len(blocks))]
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self._work = self._thread.apply_async(self._write, (len(blocks), copies.__getitem__, index, step, state))

    def _reserve(self, size: int, cuda: torch.device | None) -> None:
        """Memory for the copies, behind the first steps' back: pinning and paging take as long as many a copy."""
        with torch.cuda.device(-1 if cuda is None else cuda):
            try:
                for position in range(0, size, BLOCK):
                    block = torch.empty(min(BLOCK, size - position), pin_memory=cuda is not None)
                    self._copies.append(block.zero_())
            except RuntimeError as error:
                what = str(error).splitlines()[0]
                raise UserError(f"no memory for copies of checkpoints ({what}); ask for more host memory") from None

    def _write(
        self,
        blocks: int,
        block: Callable[[int], torch.Tensor],
        index: Sequence[tuple[str, int, int]],
        step: int,
        state: Mapping[str, Any],
    ) -> None:
        first = dist.get_rank() == 0
        target = self.folder / f"step-{step:08d}"
        work = target.with_name(target.name + TEMPORARY_SUFFIX)
        path = work / f"rank{dist.get_rank():05d}.bin"
        report: dict[str, Any] = {"file": path.name, "parts": index}
        problem = ""

        def write(number: int) -> str:
            data = block(number).numpy()
            with path.open("r+b") as file:
                file.seek(number * BLOCK * 4)
                file.write(data)
            return hashlib.sha256(data).hexdigest()

        try:
            if first:
                for left in self.folder.glob(f"step-*{TEMPORARY_SUFFIX}"):
                    shutil.rmtree(left)
                work.mkdir(parents=True)
        except OSError as error:
            problem = str(error)
        dist.barrier(self._group)
        try:
            with path.open("wb") as file:
                report["blocks"] = self._writers.map(write, range(blocks), chunksize=1)
                os.fsync(file.fileno())
            report["bytes"] = path.stat().st_size
        except OSError as error:
            problem = problem or str(error)
        reports = _of_all((report, problem), self._group)
        problem = next((text for _, text in reports if text), "")
        if first:
            try:
                if problem:
                    shutil.rmtree(work, ignore_errors=True)  # it may be what fills the disk
                else:
                    self._commit(work, target, {"step": step, "files": [part for part, _ in reports], **state})
            except OSError as error:
                problem = str(error)
        shared = [problem]
        dist.broadcast_object_list(shared, 0, group=self._group)
        if shared[0]:
            raise Everywhere(
                f"checkpoint not written: {target}: {shared[0]}; free space (watch.keep=1 keeps one only); the same "
                "command goes on from the checkpoint before"
            )

    def _commit(self, work: Path, target: Path, state: dict[str, Any]) -> None:
        """Make a checkpoint visible whose files are all durable, and drop those that are too many."""
        state["format"] = FORMAT
        write_atomic(work / "state.json", _text(state | {"sha256": _sha256(state)}))
        shutil.rmtree(target, ignore_errors=True)  # no checkpoint, or it would have been gone on from
        work.rename(target)
        sync_folder(self.folder)
        for old in checkpoints(self.folder)[: -self.keep]:
            shutil.rmtree(old.rename(old.with_name(old.name + TEMPORARY_SUFFIX)))


class Checkpoint:
    """A finished checkpoint: `state` as it was given, values by parameter."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.state: dict[str, Any] = json.loads(read_file(path / "state.json"))
        except FileNotFoundError:
            raise UserError(f"{path}: no state.json, so no finished checkpoint") from None
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"{path}/state.json: not valid JSON ({error}); {self._older}") from None
        found = self.state.get("format") if isinstance(self.state, dict) else None
        if found != FORMAT:
            raise UserError(f"{path}: format {found!r}, not {FORMAT}; use the version it names")
        try:
            msgspec.convert(self.state, _State)
        except (msgspec.ValidationError, UnicodeError) as error:
            raise UserError(f"{path}/state.json: {one_line(error)}; no checkpoint of train.run") from None
        if self.state.pop("sha256", "") != _sha256(self.state):
            raise UserError(f"{path}/state.json: altered since it was written; {self._older}")
        for file in self.state["files"]:
            part = path / file["file"]
            if not part.is_file() or part.stat().st_size != file["bytes"]:
                raise UserError(f"{part}: missing or not of {file['bytes']} bytes; {self._older}")
            values = sum(count for *_, count in file["parts"])
            if values * 4 != file["bytes"] or len(file["blocks"]) != math.ceil(values / BLOCK):
                raise UserError(f"{path}/state.json: {file['file']} is not the sum of its parts; {self._older}")

    @property
    def _older(self) -> str:
        return f"remove {self.path.name} to go on from the checkpoint before"

    def read(self, parts: Iterable[Part]) -> None:
        """Fill the parts' values, however the stored ones were parted.

        Raises: `UserError` (what is read is not what was written, or less than is asked for).
        """
        wanted: dict[str, list[Part]] = defaultdict(list)
        for part in parts:
            wanted[part.key].append(part)
        jobs: list[tuple[Mapping[str, Any], int, Pieces]] = []
        lacking = sum(part.values.numel() for several in wanted.values() for part in several)
        for file in self.state["files"]:
            position, pieces = 0, []
            for key, start, count in file["parts"]:
                for part in wanted.get(key, ()):
                    low, high = max(start, part.start), min(start + count, part.start + part.values.numel())
                    if low < high:
                        pieces.append((position + low - start, part.values[low - part.start : high - part.start]))
                        lacking -= high - low
                position += count
            jobs += [(file, number, inside) for number, inside in _blocks(pieces).items()]
        if lacking:
            raise UserError(f"{self.path}: lacks {lacking:,} values of its parameters; {self._older}")
        with ThreadPool(THREADS) as pool:
            pool.starmap(self._fill, jobs, chunksize=1)

    def _fill(self, file: Mapping[str, Any], number: int, pieces: Pieces) -> None:
        """Read one block, check it, and copy its values to where they belong."""
        path = self.path / file["file"]
        block = torch.empty(min(BLOCK, file["bytes"] // 4 - number * BLOCK))
        try:
            with path.open("rb") as stream:
                stream.seek(number * BLOCK * 4)
                stream.readinto(block.numpy())
        except OSError as error:
            raise UserError(f"{path}: {error}; {self._older}") from error
        if hashlib.sha256(block.numpy()).hexdigest() != file["blocks"][number]:
            raise UserError(f"{path}: altered since it was written (block {number}); {self._older}")
        for at, values in pieces:
            values.copy_(block[at : at + values.numel()])

    def restore(self, engine: Any) -> None:
        """Set this rank's master weights and moments, and the step count; `refresh` is to follow on all ranks.

        Raises: `UserError` (the model's trainable parameters are not those stored, or as `read`).
        """
        ours, theirs = trainable(engine), self.state["parameters"]
        for name in sorted(ours.keys() ^ theirs.keys()):
            side = "the model has" if name in ours else "the checkpoint has"
            raise UserError(f"{self.path}: only {side} the trainable parameter {name}; resume with its own settings")
        for name, shape in ours.items():
            if theirs[name] != shape:
                raise UserError(f"{self.path}: {name} has shape {theirs[name]}, the model {shape}")
        self.read(parts_of(engine))
        for state in engine.optimizer.optimizer.state.values():
            if torch.is_tensor(state.get("step")):
                state["step"].fill_(self.state["optimizer_step"])
            elif "step" in state:
                state["step"] = self.state["optimizer_step"]


def trainable(engine: Any) -> dict[str, list[int]]:
    """Shapes of the parameters that learn, by name."""
    return {
        name: list(getattr(parameter, "ds_shape", parameter.shape))
        for name, parameter in engine.module.named_parameters()
        if parameter.requires_grad
    }


def parts_of(engine: Any) -> Iterator[Part]:
    """What this rank holds of the master weights and moments, as views (after `make_states`)."""
    for name, parameter in engine.module.named_parameters():
        for kind in ("weight", *MOMENTS) if parameter.requires_grad else ():
            state = None if kind == "weight" else kind
            if hasattr(parameter, "ds_tensor"):
                # ZeRO 3 parts each parameter evenly and pads the last part. DeepSpeed's public getter copies.
                values, _ = engine.optimizer._get_fp32_opt_state_partition(parameter, False, state)
                start = dist.get_rank() * values.numel()
                values = values[: max(0, parameter.ds_numel - start)]
            elif parameter._hp_mapping is not None:
                # ZeRO 1 and 2 part all parameters of a group together.
                start = parameter._hp_mapping.lp_fragment_address.start
                values = parameter._hp_mapping.get_hp_fragment(state)
            else:
                continue
            if values.numel():
                yield Part(f"{kind}|{name}", start, values.detach())


def refresh(engine: Any) -> None:
    """Copy the master weights to the parameters of the forward pass, as a step does after each update; a collective."""
    zero = engine.optimizer
    if not hasattr(zero, "fp32_partitioned_groups_flat"):
        zero.update_lp_params()
        return
    for number in range(len(zero.fp32_partitioned_groups_flat)):
        zero._reassign_or_swap_out_partitioned_parameters(number)
    whole = zero.persistent_parameters  # too small to be parted: they are gathered once a step
    if whole:
        whole[0].partition(whole)
        whole[0].all_gather(whole)


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


def _of_all(report: Any, group: Any) -> list[Any]:
    """What every rank reports, by rank."""
    reports: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(reports, report, group=group)
    return reports


def _blocks(pieces: Iterable[tuple[int, torch.Tensor]]) -> dict[int, Pieces]:
    """Cut what stands at positions of a file at the borders of blocks: pieces, by position in it, of each block."""
    blocks: dict[int, Pieces] = defaultdict(list)
    for position, values in pieces:
        for number in range(position // BLOCK, math.ceil((position + values.numel()) / BLOCK)):
            low = max(0, number * BLOCK - position)
            inside = values[low : (number + 1) * BLOCK - position]
            blocks[number].append((position + low - number * BLOCK, inside))
    return blocks


def _text(state: Mapping[str, Any]) -> bytes:
    return json.dumps(state, sort_keys=True).encode()


def _sha256(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(_text(state)).hexdigest()
