"""What a training run is told: a stage preset, changed by `--set key=value`, checked once, saved as resolved.

Presets are YAML files beside this module; each value carries its source in a comment. Nothing here imports torch.
"""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from medgpt.errors import UserError
from medgpt.settings import Settings, checked, find, put, read_yaml

PRESETS = Path(__file__).with_name("presets")
STAGES = ("pretrain", "midtrain", "instruct")

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]
Rate = Annotated[float, Meta(ge=0, lt=1)]
Weight = Annotated[float, Meta(ge=0)]


class Data(Settings, frozen=True):
    """Which samples, and how they are laid into packs."""

    mixture: str
    """A preset of `shards/mixtures/` or a YAML file."""
    length: Annotated[int, Meta(ge=0)] = 0
    """Tokens of a pack, from 64; 0: from the mixture, so that a step has `samples_per_step` of its samples."""
    tiles: Annotated[int, Meta(ge=0)] = 0
    """Most image tiles of a pack; 0: as many as the mixture's samples can have in so many tokens."""
    packs_per_step: Count = 8
    """Packs of one optimizer step over all ranks, a multiple of the number of ranks; where the length is from the
    mixture, the least multiple of this whose packs are no longer than `longest`."""
    samples_per_step: Count = 128
    longest: Annotated[int, Meta(ge=64)] = 32768
    """Most tokens of a pack whose length is from the mixture."""
    epochs: Count = 1
    over_long: Literal["report", "truncate", "drop"] = "report"
    """What happens to samples longer than a pack; `report` stops and lists them."""
    only_present: bool = False
    """Leave out sources of the mixture that are not built (they are named), instead of stopping."""
    max_enlargement: Positive | None = None
    """Tiles cover at most this multiple of a picture's pixels; none, the recipe, looks at its aspect ratio only.

    Packs are planned by the manifest's counts, so with a cap they are less full than planned, never fuller.
    """
    workers: Count = 4
    """Threads that read, decode and cut pictures ahead of the device, per rank."""

    def __post_init__(self) -> None:
        if 0 < self.length < 64:
            raise ValueError(f"length: {self.length} tokens; at least 64, or 0 for the mixture's")

    def fitted(self, tokens: float, most: int, density: float) -> "Data":
        """With length, tiles and packs of a step for samples of `tokens` tokens in the mean and `most` at most.

        `density` is the largest number of tiles a token. The length holds a whole number of mean samples, in the blocks
        of 128 tokens that flex attention works in: packs of samples of one size are full, too.
        """
        length, packs = self.length, self.packs_per_step
        if not length:
            wanted = self.samples_per_step * tokens
            packs *= max(1, math.ceil(wanted / (packs * self.longest)))
            length = min(max(_blocks(wanted / packs), _blocks(most)), self.longest)
            packs = self.packs_per_step * max(1, round(wanted / (self.packs_per_step * length)))
        tiles = self.tiles or max(1, math.ceil(length * density))
        return msgspec.structs.replace(self, length=length, tiles=tiles, packs_per_step=packs)


def _blocks(tokens: float) -> int:
    return 128 * math.ceil(tokens / 128)


class Train(Settings, frozen=True):
    """Which parts learn."""

    vision: Literal["train", "freeze"] = "train"
    projector: Literal["train", "freeze"] = "train"
    llm: Literal["train", "freeze", "lora"] = "train"
    lora_rank: Count = 64
    lora_alpha: int = 128
    lora_experts: bool = False
    """Adapters beside every expert, too (`lora_rank` each): nine tenths of GPT-oss's weights."""

    def __post_init__(self) -> None:
        if self.lora_experts and self.llm != "lora":
            raise ValueError("lora_experts goes with llm: lora")
        if self.vision == self.projector == self.llm == "freeze":
            raise ValueError("freezes everything; let a part learn")


class Optimizer(Settings, frozen=True):
    """AdamW with a linear warm-up and a cosine; a learning rate per part."""

    vision_lr: Rate = 1e-5
    projector_lr: Rate = 1e-3
    llm_lr: Rate = 2e-5
    warmup: Rate = 0.03
    """Share of all steps."""
    final: Annotated[float, Meta(ge=0, le=1)] = 0.0
    """Learning rate at the end, as a share of its peak."""
    weight_decay: Weight = 0.05
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    eps: Positive = 1e-8
    clip: Positive = 1.0
    """Largest norm of the gradient."""


class Loss(Settings, frozen=True):
    """Cross-entropy on assistant tokens."""

    weighting: Literal["square", "token", "sample"] = "square"
    """A document of n supervised tokens weighs sqrt(n) (`square`), n (`token`) or 1 (`sample`)."""
    router: Weight = 0.0
    """Weight of the experts' load-balancing loss; the losses in the log have it in them."""
    chunk: Count = 4096
    """Supervised tokens whose logits are in memory at a time."""


class Engine(Settings, frozen=True):
    """How it runs: precision, ZeRO, memory."""

    precision: Literal["bf16", "fp32"] = "bf16"
    zero: Literal[1, 2, 3] = 2
    accumulate: Literal["fp32", "bf16"] = "fp32"
    """Precision in which the gradients of a rank's packs of a step are summed. DeepSpeed's own choice for bf16 training
    is bf16, where the eighth pack's share is rounded to 8 bits of the sum of eight. A rank with one pack a step sums
    nothing and pays nothing."""
    offload: Literal["none", "optimizer"] = "none"
    checkpointing: Literal["auto", "none", "full", "selective"] = "auto"
    """Layers whose activations are computed again in the backward pass; `selective` is half of them, `auto` as many as
    the device's memory asks for (`train.memory`). Results are the same."""
    compile: bool = False
    """Compile each layer of the language model and of the encoder (regional `torch.compile`)."""

    def __post_init__(self) -> None:
        if self.zero == 1 and self.precision == "bf16" and self.accumulate == "fp32":
            raise ValueError(
                "engine.zero=1 sums gradients in bf16; set engine.accumulate=bf16, or engine.zero=2, which parts the "
                "sums among the ranks"
            )


class Watch(Settings, frozen=True):
    """Logs, checkpoints, evaluation."""

    log_every: Count = 1
    save_every: Count = 500
    keep: Count = 2
    """Checkpoints kept; the last is always."""
    evaluate_every: Annotated[int, Meta(ge=0)] = 0
    """Steps between calls of `evaluate`; 0 is never."""
    evaluate: str = ""
    """Shell command run by rank 0 on an export of the model: {model}, {step} and {out} are filled in, quoted for the
    shell. A brace of the shell's own is written twice."""
    probe: str = ""
    """Build folder whose held-out questions with few answers are asked meanwhile (`train.probe`); not one to report."""
    probe_every: Annotated[int, Meta(ge=0)] = 0
    """Steps between two rounds; 0 is never."""
    probe_questions: Count = 96
    """Questions of a round at most."""

    def __post_init__(self) -> None:
        if bool(self.probe_every) != bool(self.probe):
            raise ValueError("probe and probe_every go together")
        if bool(self.evaluate_every) != bool(self.evaluate):
            raise ValueError("evaluate and evaluate_every go together")
        try:
            self.command(Path("model"), 0, Path("out"))
        except (KeyError, ValueError, IndexError, AttributeError):
            raise ValueError(
                "evaluate may have {model}, {step} and {out} in braces; write other braces twice"
            ) from None

    def command(self, model: Path, step: int, out: Path) -> str:
        """`evaluate` for an exported model at a step, with a folder for what it writes.

        Raises: `KeyError` (another name in braces); `ValueError` or `IndexError` (braces that are no field).
        """
        return self.evaluate.format_map({"model": shlex.quote(str(model)), "step": step, "out": shlex.quote(str(out))})


class Config(Settings, frozen=True):
    """A whole run."""

    stage: str
    seed: Annotated[int, Meta(ge=0, lt=2**32)]
    data: Data
    train: Train = Train()
    optimizer: Optimizer = Optimizer()
    loss: Loss = Loss()
    engine: Engine = Engine()
    watch: Watch = Watch()

    def __post_init__(self) -> None:
        if self.train.lora_experts and self.engine.zero == 3:
            raise ValueError("train.lora_experts: peft wraps whole experts, which ZeRO-3 parts; set engine.zero=2")

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as written to `config.yaml` of a run and into its checkpoints."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        plain["optimizer"]["betas"] = list(self.optimizer.betas)
        return plain


def load_config(stage: str, settings: Sequence[str] = ()) -> Config:
    """The preset of a stage (or a YAML file of that form) with `key=value` settings, say `optimizer.llm_lr=1e-5`.

    Raises: `UserError` (an unknown stage, key or value, named with what it may be).
    """
    path = find(stage, PRESETS, "stage")
    document = read_yaml(path)
    if settings and not isinstance(document, dict):
        raise UserError(f"{path}: must hold a mapping of settings")
    for setting in settings:
        put(document, setting)
    return checked(Config, document, str(path))


def learning_rate(step: int, steps: int, optimizer: Optimizer) -> float:
    """Share of the peak learning rate at a step (0-based) of `steps`: linear warm-up, then a cosine to `final`."""
    warm = max(1, round(steps * optimizer.warmup)) if optimizer.warmup else 0
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return optimizer.final + (1 - optimizer.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
