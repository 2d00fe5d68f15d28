"""What a run will need of a device, before any device is touched: weights, gradients, states, activations.

Weights, gradients and optimizer states are counted; activations are estimated from the shapes, with the factors that
`bench/train.py` measured on one H200. The estimate is for planning: a run that does not fit is stopped by the device.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from train.config import Config

GIB = 2**30

BUCKET = {1: 500_000_000, 2: 500_000_000, 3: 265_000_000}
"""Gradients that DeepSpeed gathers before it sums them over the ranks, by ZeRO stage. Under ZeRO-3 a tensor larger than
this (experts of the 20B model: 265.4 and 530.8 million) is alone and summed where it lies, without a copy."""

LIVE = 2_500_000_000
"""Parameters that DeepSpeed keeps gathered under ZeRO-3, three decoder layers: with less than two nothing overlaps."""

USABLE = 0.92
"""Share of a device's memory that is planned with; the rest is CUDA's, NCCL's and what lies between blocks."""

KEPT_PARTED = 0.85
"""The same, where activations are kept under ZeRO-3: blocks that a stream of gathers used are free later than they look
(four H200, 0.92: 123 GiB in use, 137 held, the allocator began anew four times in nine steps)."""

SMALLEST = 78.0
"""GiB of the smallest device that presets are made for; `--dry-run` plans with it unless told another."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a model that memory follows from."""

    parameters: Mapping[str, int]
    """Parameters of `vision`, `projector`, `llm` and, for LoRA, `lora`."""
    layers: int
    hidden: int
    expert_width: int
    """Intermediate width that a token meets in a layer: experts a token times their width (dense: the width)."""
    attention_width: int
    """Query, key, value and output channels."""
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    patches: int
    """Patches of a tile."""


@dataclass(frozen=True)
class Need:
    """One line of the plan."""

    what: str
    bytes: int
    knob: str
    """The setting that makes it smaller."""


def trained_parameters(config: Config, shape: Shape) -> int:
    """How many parameters learn. A checkpoint has 12 bytes of each: fp32 weight and two moments."""
    train = config.train
    learns = {
        "vision": train.vision == "train",
        "projector": train.projector == "train",
        "llm": train.llm == "train",
        "lora": train.llm == "lora",
    }
    return sum(count for name, count in shape.parameters.items() if learns[name])


class Plan(NamedTuple):
    """What a device and, with offload, the host need for it."""

    device: list[Need]
    host: int
    kept: float
    """Share of the layers that are not computed again in the backward pass."""

    @property
    def bytes(self) -> int:
        """Of the device, together."""
        return sum(need.bytes for need in self.device)


def plan_memory(config: Config, shape: Shape, ranks: int, memory: float = SMALLEST) -> Plan:
    """What a device of `memory` GiB needs for one pack of `config.data.length` tokens and `config.data.tiles` tiles.

    With `engine.checkpointing=auto` as many layers are kept as fit.
    """
    fixed = {"none": 1.0, "selective": 0.5, "full": 0.0}
    if config.engine.checkpointing != "auto":
        return _plan(config, shape, ranks, fixed[config.engine.checkpointing])
    shares = [layers / shape.layers for layers in range(shape.layers, -1, -1)]
    plans = (_plan(config, shape, ranks, share) for share in shares)
    room = memory * GIB * (KEPT_PARTED if config.engine.zero == 3 else USABLE)
    return next((plan for plan in plans if plan.bytes <= room), _plan(config, shape, ranks, 0.0))


def _plan(config: Config, shape: Shape, ranks: int, share: float) -> Plan:
    engine = config.engine
    width = 2 if engine.precision == "bf16" else 4
    trained = trained_parameters(config, shape)
    total = sum(shape.parameters.values())
    weights = total * width // (ranks if engine.zero == 3 else 1)
    if engine.zero == 3 and ranks > 1:
        weights += width * min(LIVE, total)
    parted = ranks if engine.zero >= 2 else 1
    # Of the packs of a rank, where it has several; two layers of the pack in hand beside the sum.
    summed = max(width, 4 if engine.accumulate == "fp32" and config.data.packs_per_step > ranks else width)
    gradients = trained * summed // parted + 2 * width * trained // (shape.layers + 2)
    # fp32 master weight and two moments; in fp32 the weights are the master.
    states = trained * (12 if engine.precision == "bf16" else 8) // ranks
    tokens, tiles = config.data.length, config.data.tiles
    layer = width * (4 * shape.hidden + 2 * shape.attention_width + 3 * shape.expert_width)
    if config.train.llm == "lora":  # outputs of the adapters
        layer += width * shape.attention_width
    language = int(tokens * (shape.layers * (shape.hidden * width + share * layer) + (1 - share) * 2 * layer))
    sees = tiles * (shape.patches + 1) * width * shape.vision_hidden
    # Stored per layer of a tower that learns: two norms, query, key, value, output, the MLP's 4 x hidden twice.
    kept = shape.vision_layers * (1 + share * 13) + (1 - share) * 13
    vision = int(sees * (kept if config.train.vision == "train" else 4))
    # Logits of a chunk, their gradient and the softmax in fp32.
    logits = min(config.loss.chunk, tokens) * shape.vocabulary * (4 + 4 + width)
    offload = engine.offload == "optimizer"
    device = [
        Need("weights", weights, "engine.zero=3 with more devices"),
        Need("gradients", gradients, "more devices, train.llm=lora or engine.accumulate=bf16"),
        Need(
            "master weights and moments",
            0 if offload else states,
            "engine.offload=optimizer, train.llm=lora or more devices",
        ),
        Need("buffer of reductions", 0 if engine.zero == 3 else BUCKET[engine.zero] * width, "engine.zero=3"),
        Need("activations, language model", language, "engine.checkpointing=full or a smaller data.length"),
        Need("activations, vision", vision, "a smaller data.tiles or train.vision=freeze"),
        Need("logits", logits, "a smaller loss.chunk"),
    ]
    # DeepSpeed keeps the gradients of offloaded states in fp32 beside them.
    return Plan(device, (states + 4 * trained // ranks) if offload else 0, share)


def advice(config: Config) -> str:
    """Which settings to change when a device runs out of memory, first the cheapest."""
    knobs = []
    if config.engine.checkpointing != "full":
        knobs.append("engine.checkpointing=full")
    if config.engine.zero != 3:
        knobs.append("engine.zero=3 and more devices")
    knobs.append(f"data.length below {config.data.length} (with a new packing plan)")
    if config.data.tiles > 16:
        knobs.append(f"data.tiles below {config.data.tiles}")
    if config.train.llm == "train":
        knobs.append("train.llm=lora")
    if config.engine.offload == "none":
        knobs.append("engine.offload=optimizer")
    return "; ".join(knobs)
