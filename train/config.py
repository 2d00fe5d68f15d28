"""What a training run is told: a stage preset, changed by `--set key=value`, checked once, saved as resolved.

Presets are YAML files beside this module; each value carries its source in a comment. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import yaml

from medgpt.errors import UserError

PRESETS = Path(__file__).with_name("presets")
STAGES = ("pretrain", "midtrain", "instruct")


class ConfigError(UserError):
    """A setting that does not exist or cannot be; the message names it and what it may be."""


@dataclass(frozen=True)
class Data:
    """Which samples, and how they are laid into packs."""

    mixture: str
    """A preset of `shards/mixtures/` or a YAML file."""
    length: int = 32768
    """Tokens of a pack."""
    tiles: int = 96
    """Image tiles of a pack."""
    packs_per_step: int = 8
    """Packs of one optimizer step over all ranks; a multiple of the number of ranks."""
    epochs: int = 1
    over_long: Literal["report", "truncate", "drop"] = "report"
    """What happens to samples longer than a pack; `report` stops and lists them."""
    only_present: bool = False
    """Leave out sources of the mixture that are not built (they are named), instead of stopping."""
    max_enlargement: float | None = None
    """Tiles cover at most this multiple of a picture's pixels; none, the recipe, looks at its aspect ratio only.

    Packs are planned by the manifest's counts, so with a cap they are less full than planned, never fuller.
    """
    workers: int = 4
    """Threads that read, decode and cut pictures ahead of the device, per rank."""


@dataclass(frozen=True)
class Train:
    """Which parts learn."""

    vision: Literal["train", "freeze"] = "train"
    projector: Literal["train", "freeze"] = "train"
    llm: Literal["train", "freeze", "lora"] = "train"
    lora_rank: int = 64
    lora_alpha: int = 128


@dataclass(frozen=True)
class Optimizer:
    """AdamW with a linear warm-up and a cosine; a learning rate per part."""

    vision_lr: float = 1e-5
    projector_lr: float = 1e-3
    llm_lr: float = 2e-5
    warmup: float = 0.03
    """Share of all steps."""
    final: float = 0.0
    """Learning rate at the end, as a share of its peak."""
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float = 1.0
    """Largest norm of the gradient."""


@dataclass(frozen=True)
class Loss:
    """Cross-entropy on assistant tokens."""

    weighting: Literal["square", "token", "sample"] = "square"
    """A document of n supervised tokens weighs sqrt(n) (`square`), n (`token`) or 1 (`sample`)."""
    router: float = 0.0
    """Weight of the experts' load-balancing loss."""
    chunk: int = 4096
    """Supervised tokens whose logits are in memory at a time."""


@dataclass(frozen=True)
class Engine:
    """How it runs: precision, ZeRO, memory."""

    precision: Literal["bf16", "fp32"] = "bf16"
    zero: Literal[1, 2, 3] = 2
    accumulate: Literal["fp32", "bf16"] = "fp32"
    """Precision in which the gradients of a rank's packs of a step are summed. DeepSpeed's own choice for bf16 training
    is bf16, where the eighth pack's share is rounded to 8 bits of the sum of eight. A rank with one pack a step sums
    nothing and pays nothing."""
    offload: Literal["none", "optimizer"] = "none"
    checkpointing: Literal["none", "full", "selective"] = "full"
    """Layers whose activations are computed again in the backward pass; `selective` is every second one."""
    compile: bool = False
    """Compile each decoder layer (regional `torch.compile`)."""


@dataclass(frozen=True)
class Watch:
    """Logs, checkpoints, evaluation."""

    log_every: int = 1
    save_every: int = 500
    keep: int = 2
    """Checkpoints kept; the last is always."""
    evaluate_every: int = 0
    """Steps between calls of `evaluate`; 0 is never."""
    evaluate: str = ""
    """Shell command run by rank 0 on an export of the model: {model}, {step} and {out} are filled in, quoted for the
    shell. A brace of the shell's own is written twice."""

    def command(self, model: Path, step: int, out: Path) -> str:
        """`evaluate` for an exported model at a step, with a folder for what it writes.

        Raises:
            KeyError: another name in braces.
            ValueError, IndexError: braces that are no field.

        """
        return self.evaluate.format_map({"model": shlex.quote(str(model)), "step": step, "out": shlex.quote(str(out))})


@dataclass(frozen=True)
class Config:
    """A whole run."""

    stage: str
    seed: int
    data: Data
    train: Train = field(default_factory=Train)
    optimizer: Optimizer = field(default_factory=Optimizer)
    loss: Loss = field(default_factory=Loss)
    engine: Engine = field(default_factory=Engine)
    watch: Watch = field(default_factory=Watch)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as written to `config.yaml` of a run."""
        plain: dict[str, Any] = dataclasses.asdict(self)
        plain["optimizer"]["betas"] = list(self.optimizer.betas)
        return plain


def load_config(stage: str, settings: Sequence[str] = ()) -> Config:
    """The preset of a stage (or a YAML file of that form) with `key=value` settings, say `optimizer.llm_lr=1e-5`.

    Raises:
        ConfigError: an unknown stage, key or value, named with what it may be.

    """
    path = PRESETS / f"{stage}.yaml" if stage in STAGES else Path(stage)
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{stage}: neither a stage ({', '.join(STAGES)}) nor a YAML file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: must hold a mapping of settings")
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write it as key=value")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {setting}: the value is not valid YAML") from None
        _put(document, key.strip().split("."), value, setting)
    return check_config(document, str(path))


def check_config(document: Mapping[str, Any], place: str) -> Config:
    """A configuration from plain values, every one checked.

    Raises:
        ConfigError: the first that is wrong, with `place` and its key.

    """
    config = cast(Config, _make(Config, document, place, ""))
    limits = (
        ("seed", 0 <= config.seed < 2**32, "in [0, 2^32)"),
        ("data.length", config.data.length >= 64, "at least 64"),
        ("data.tiles", config.data.tiles >= 1, "at least 1"),
        ("data.packs_per_step", config.data.packs_per_step >= 1, "at least 1"),
        ("data.epochs", config.data.epochs >= 1, "at least 1"),
        ("data.workers", config.data.workers >= 1, "at least 1"),
        ("data.max_enlargement", (config.data.max_enlargement or 1) > 0, "above 0, or null"),
        ("optimizer.warmup", 0 <= config.optimizer.warmup < 1, "in [0, 1)"),
        ("optimizer.final", 0 <= config.optimizer.final <= 1, "in [0, 1]"),
        ("optimizer.clip", config.optimizer.clip > 0, "above 0"),
        ("optimizer.eps", config.optimizer.eps > 0, "above 0"),
        ("optimizer.weight_decay", config.optimizer.weight_decay >= 0, "0 or more"),
        ("optimizer.betas", all(0 <= beta < 1 for beta in config.optimizer.betas), "two numbers in [0, 1)"),
        ("loss.chunk", config.loss.chunk >= 1, "at least 1"),
        ("loss.router", config.loss.router >= 0, "0 or more"),
        ("train.lora_rank", config.train.lora_rank >= 1, "at least 1"),
        ("watch.log_every", config.watch.log_every >= 1, "at least 1"),
        ("watch.save_every", config.watch.save_every >= 1, "at least 1"),
        ("watch.keep", config.watch.keep >= 1, "at least 1"),
        ("watch.evaluate_every", config.watch.evaluate_every >= 0, "0 or more"),
    )
    for name in ("vision_lr", "projector_lr", "llm_lr"):
        if not 0 <= getattr(config.optimizer, name) < 1:
            raise ConfigError(f"{place}: optimizer.{name} must be in [0, 1)")
    for key, right, rule in limits:
        if not right:
            raise ConfigError(f"{place}: {key} must be {rule}")
    if {config.train.vision, config.train.projector, config.train.llm} == {"freeze"}:
        raise ConfigError(f"{place}: train freezes everything; let a part learn")
    if bool(config.watch.evaluate_every) != bool(config.watch.evaluate):
        raise ConfigError(f"{place}: watch.evaluate and watch.evaluate_every go together")
    try:
        config.watch.command(Path("model"), 0, Path("out"))
    except (KeyError, ValueError, IndexError, AttributeError):
        raise ConfigError(
            f"{place}: watch.evaluate may have {{model}}, {{step}} and {{out}} in braces; write other braces twice"
        ) from None
    if config.engine.zero == 1 and config.engine.precision == "bf16" and config.engine.accumulate == "fp32":
        raise ConfigError(
            f"{place}: engine.zero=1 sums gradients in bf16; set engine.accumulate=bf16, or engine.zero=2, which parts "
            "the sums among the ranks"
        )
    return config


def learning_rate(step: int, steps: int, optimizer: Optimizer) -> float:
    """Share of the peak learning rate at a step (0-based) of `steps`: linear warm-up, then a cosine to `final`."""
    warm = max(1, round(steps * optimizer.warmup)) if optimizer.warmup else 0
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return optimizer.final + (1 - optimizer.final) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _put(document: dict[str, Any], keys: Sequence[str], value: object, setting: str) -> None:
    for key in keys[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise ConfigError(f"--set {setting}: {key} is no group of settings")
    document[keys[-1]] = value


def _make(kind: Any, value: Any, place: str, prefix: str) -> Any:
    """`value` as an instance of the dataclass `kind`."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"{place}: {prefix.rstrip('.') or 'the file'} must be a mapping")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints), key=str)
    if unknown:
        raise ConfigError(f"{place}: {prefix}{unknown[0]} is no setting; there are {', '.join(sorted(hints))}")
    made = {}
    for spot in dataclasses.fields(kind):
        if spot.name not in value:
            if spot.default is dataclasses.MISSING and spot.default_factory is dataclasses.MISSING:
                raise ConfigError(f"{place}: {prefix}{spot.name} is missing")
            continue
        made[spot.name] = _value(hints[spot.name], value[spot.name], place, f"{prefix}{spot.name}")
    return kind(**made)


def _value(kind: Any, value: Any, place: str, key: str) -> Any:
    origin, choices = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _make(kind, value, place, f"{key}.")
    if origin is Literal:
        if value in choices and type(value) in {type(choice) for choice in choices}:
            return value
        raise ConfigError(f"{place}: {key} is {value!r}; it may be {', '.join(map(str, choices))}")
    if origin is types.UnionType:  # `X | None`
        if value is None:
            return None
        return _value(next(choice for choice in choices if choice is not type(None)), value, place, key)
    if origin is tuple:
        if isinstance(value, list | tuple) and len(value) == len(choices):
            return tuple(_value(part, item, place, key) for part, item in zip(choices, value, strict=True))
        raise ConfigError(f"{place}: {key} must be a list of {len(choices)} numbers")
    if kind is float and isinstance(value, str):  # YAML 1.1 reads 1e-5 (without a point) as text
        try:
            value = float(value)
        except ValueError:
            raise ConfigError(f"{place}: {key} is {value!r}; it must be a number") from None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        names = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
        raise ConfigError(f"{place}: {key} is {value!r}; it must be {names[kind]}")
    if kind is float and not math.isfinite(value):
        raise ConfigError(f"{place}: {key} is {value}, not a number")
    return value
