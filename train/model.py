"""The model: CLIP, a pixel shuffle with a two-layer projector, and GPT-oss, from stock `transformers` classes.

What is ours is how it is trained: documents packed into one row are kept apart by prepared masks (`train.backends`),
logits are computed only where something is learnt, chunk by chunk.
"""

import logging
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, CLIPVisionConfig, GptOssConfig

from medgpt.configuration_medgpt import MedGptConfig, MedGptForConditionalGeneration
from medgpt.errors import UserError, one_line
from shards.packing import TILE_TOKENS
from train.backends import packed_masks, set_backends
from train.collate import Micro
from train.config import Config, Train
from train.memory import Shape
from train.tiling import CLIP_MEAN, CLIP_STD, Tiling
from train.tokenizer import HARMONY_ROWS, IMAGE_CONTEXT, Tokenizer, folder_tokenizer, harmony

PARTS = {
    "vision": ("model.vision_tower.",),
    "projector": ("model.multi_modal_projector.",),
    "llm": ("model.language_model.", "lm_head."),
}
"""Parts that learn or do not, by the names of their parameters."""

LORA_TARGETS = r"model\.language_model\..*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
"""Linear layers of the language model. GPT-oss's experts are no linear layers:"""

LORA_EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
"""theirs are parameters of shape (experts, in, out), which `train.lora_experts` adapts."""

SIZES: dict[str, dict[str, dict[str, Any]]] = {
    # Trains in seconds on two cores. Tiles are the real ones (336 pixels, 144 tokens), so counts are the manifest's.
    "tiny": {
        "vision": {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 3},
        "text": {
            "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
            "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4, "num_experts_per_tok": 2,
        },
    },
    # 0.3 billion parameters, 0.2 of them embeddings: minutes on one GPU.
    "small": {
        "vision": {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 8},
        "text": {
            "hidden_size": 512, "intermediate_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 64, "num_local_experts": 8, "num_experts_per_tok": 2,
        },
    },
    # The recipe: CLIP-ViT-L/14@336 and GPT-oss-20B. Source: their configurations on the hub.
    "20b": {
        "vision": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
        "text": {
            "hidden_size": 2880, "intermediate_size": 2880, "num_hidden_layers": 24, "num_attention_heads": 64,
            "num_key_value_heads": 8, "head_dim": 64, "num_local_experts": 32, "num_experts_per_tok": 4,
        },
    },
}  # fmt: skip


# --- Configuration


def sized_config(size: str) -> MedGptConfig:
    """Configuration of a size of `SIZES`, with GPT-oss's vocabulary; YaRN is GPT-oss's stock one (4,096 to 131,072).

    Raises: `UserError` (no such size).
    """
    if size not in SIZES:
        raise UserError(f"size {size!r}: there are {', '.join(SIZES)}")
    shapes = SIZES[size]
    vision = CLIPVisionConfig(image_size=336, patch_size=14, projection_dim=768, **shapes["vision"])
    special = harmony().special
    text = GptOssConfig(
        vocab_size=HARMONY_ROWS,
        pad_token_id=special["<|endoftext|>"],
        eos_token_id=special["<|return|>"],
        router_aux_loss_coef=0.0,  # `loss.router` of a run decides; OpenAI's own configuration has 0.9
        **shapes["text"],
    )
    return composed_config(vision, text, harmony(), f"MedGPT-oss {size}")


def composed_config(
    vision: Any,
    text: Any,
    tokenizer: Tokenizer,
    title: str,
    mean: Sequence[float] = CLIP_MEAN,
    std: Sequence[float] = CLIP_STD,
) -> MedGptConfig:
    """Configuration around a vision and a text configuration; the encoder's tile must have 24 x 24 patches.

    Raises: `UserError` (another number of patches, or an embedding too small for the tokenizer).
    """
    side = vision.image_size if isinstance(vision.image_size, int) else vision.image_size[0]
    patch = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
    if side != 24 * patch:
        raise UserError(f"encoder of {side} pixels and patches of {patch}: a tile needs 24 x 24 patches (144 tokens)")
    if text.vocab_size < tokenizer.rows:
        raise UserError(
            f"embedding of {text.vocab_size} rows for a vocabulary of {tokenizer.rows}: the wrong tokenizer"
        )
    return MedGptConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=tokenizer.special[IMAGE_CONTEXT],
        image_seq_length=TILE_TOKENS,
        downsample_ratio=0.5,
        vision_feature_layer=-1,  # -2 would leave CLIP's last layer without gradient
        # SigLIP has no class token to drop.
        vision_feature_select_strategy="full" if vision.model_type.startswith("siglip") else "default",
        tie_word_embeddings=bool(text.tie_word_embeddings),  # InternVL's default would tie GPT-oss's
        pad_token_id=tokenizer.special["<|endoftext|>"],
        eos_token_id=tokenizer.special["<|return|>"],
        text_vocabulary=tokenizer.name,
        image_mean=list(mean),
        image_std=list(std),
        title=title,
    )


def config_tiling(config: MedGptConfig, max_enlargement: float | None = None) -> Tiling:
    """How pictures are cut for a model."""
    side = config.vision_config.image_size
    mean, std = ((float(v[0]), float(v[1]), float(v[2])) for v in (config.image_mean, config.image_std))
    return Tiling(side if isinstance(side, int) else side[0], mean, std, max_enlargement)


# --- The module that is trained


class LossHead(nn.Linear):
    """The output layer. Given targets, it gives losses instead of logits, chunk by chunk, as one module.

    32,768 x 201,088 logits are 26 GB in fp32. As one module call, ZeRO-3 gathers the weight once, however many chunks a
    rank has; ranks with different numbers of calls would wait for each other for ever.
    """

    def forward(self, hidden: torch.Tensor, targets: torch.Tensor | None = None, chunk: int = 4096) -> torch.Tensor:
        """Logits of `hidden`; with `targets` (S) for hidden (S, width), cross-entropies (S) in fp32."""
        if targets is None:
            return super().forward(hidden)
        parts = [
            cast(torch.Tensor, checkpoint(self._losses, *part, use_reentrant=False))
            for part in zip(hidden.split(chunk), targets.split(chunk), strict=True)
        ]
        return torch.cat(parts)

    def _losses(self, hidden: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(super().forward(hidden).float(), targets, reduction="none")


class MedGptForTraining(MedGptForConditionalGeneration):
    """The stock model whose forward can also give losses; parameters and their names are the stock model's."""

    def __init__(self, config: MedGptConfig) -> None:
        super().__init__(config)
        self.lm_head.__class__ = LossHead  # the same parameter, stock initialisation

    def forward(self, *args: Any, keep: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """Losses at `keep`, see `losses`; without it, the stock forward."""
        if keep is None:
            return super().forward(*args, **kwargs)
        return self.losses(keep=keep, **kwargs)

    def losses(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        pixel_values: torch.Tensor,
        keep: torch.Tensor,
        targets: torch.Tensor,
        chunk: int = 4096,
        router_weight: float = 0.0,
    ) -> torch.Tensor:
        """Cross-entropies, fp32 (S), of the S predictions at `keep` in a packed row of shape (1, T).

        `pixel_values` (P, 3, side, side) are the tiles in the order of the image tokens. There is always at least one,
        so that every rank runs the encoder; tiles beyond the image tokens take no part and get no gradient.
        `router_weight` times the load-balancing loss of the experts is added to every loss.
        """
        features = self.model.get_image_features(pixel_values, return_dict=True).pooler_output
        embedded = self.get_input_embeddings()(input_ids)
        places = (input_ids == self.config.image_token_id).unsqueeze(-1)
        embedded = embedded.masked_scatter(places, features.to(embedded.dtype))
        masks = packed_masks(self.config.text_config, position_ids, embedded.dtype)
        routed: list[torch.Tensor] = []
        hooks = self._watch_routers(routed) if router_weight else []
        try:
            hidden = self.model.language_model(
                inputs_embeds=embedded, attention_mask=masks, position_ids=position_ids, use_cache=False
            ).last_hidden_state
        finally:
            for hook in hooks:
                hook.remove()  # before the backward pass computes layers again
        losses: torch.Tensor = self.lm_head(hidden[0].index_select(0, keep), targets, chunk)
        if router_weight:
            losses = losses + router_weight * self._balance(routed)
        return losses

    def _watch_routers(self, routed: list[torch.Tensor]) -> list[Any]:
        layers = self.model.language_model.layers
        routers = [layer.mlp.router for layer in layers if hasattr(layer.mlp, "router")]
        if not routers:
            raise UserError("loss.router is set, but the language model has no experts; set it to 0")
        return [router.register_forward_hook(lambda _, __, output: routed.append(output[0])) for router in routers]

    def _balance(self, routed: list[torch.Tensor]) -> torch.Tensor:
        from transformers.models.gpt_oss.modeling_gpt_oss import load_balancing_loss_func

        text = self.config.text_config
        found = load_balancing_loss_func(tuple(routed), text.num_local_experts, text.num_experts_per_tok)
        return cast(torch.Tensor, found)


# --- A loaded model


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a pack, forward and backward: the model's, without what is computed twice."""

    per_token: float
    """Forward, weights of the language model that a token meets, the output layer aside."""
    per_pair: tuple[tuple[int, float], ...]
    """(window, operations a pair of tokens) of the kinds of attention layers."""
    per_supervised: float
    """Forward, output layer."""
    per_tile: tuple[float, float]
    """Forward: encoder, projector."""
    passes: tuple[int, int, int]
    """Encoder, projector, language model: 3 if it learns, 2 if gradients only pass through, else 1."""

    def __call__(self, documents: Sequence[int], tiles: int, supervised: int) -> float:
        """Of a pack of documents of these lengths, with `tiles` tiles and `supervised` learnt tokens."""
        vision, projector, llm = self.passes
        pairs = sum(cost * n * min(n / 2, window) for n in documents for window, cost in self.per_pair)
        language = self.per_token * sum(documents) + pairs + self.per_supervised * supervised
        return llm * language + tiles * (vision * self.per_tile[0] + projector * self.per_tile[1])


@dataclass
class Model:
    """A model folder, loaded."""

    module: MedGptForTraining
    folder: Path
    tokenizer: Tokenizer
    tiling: Tiling
    flops: Flops
    lora_scale: float | None = None
    """alpha / rank where there are adapters."""

    @property
    def title(self) -> str:
        """What the model is called in its card."""
        return str(self.module.config.title)

    def parameter_groups(self, config: Config) -> list[dict[str, Any]]:
        """AdamW's groups: parts that learn, each with its learning rate, biases and norms apart and without decay.

        As in the trainer that InternVL uses. A group has `name`, `params`, `lr`, `weight_decay`.
        """
        optimizer = config.optimizer
        rates = {"vision": optimizer.vision_lr, "projector": optimizer.projector_lr, "llm": optimizer.llm_lr}
        groups: list[dict[str, Any]] = []
        for part, rate in rates.items():
            found = [(n, p) for n, p in self.module.named_parameters() if p.requires_grad and part_of(n) == part]
            for name, decays in ((part, True), (f"{part}_no_decay", False)):
                parameters = [p for n, p in found if _decays(n, p) is decays]
                decay = optimizer.weight_decay if decays else 0.0
                if parameters:
                    groups.append({"name": name, "params": parameters, "lr": rate, "weight_decay": decay})
        return groups

    def save(self, folder: Path, weights: Mapping[str, torch.Tensor]) -> None:
        """Write `weights` (names of the module's state) and all else of the model's folder; adapters are merged.

        Raises: `UserError` (weights are missing or unknown); `OSError` (the folder cannot be written).
        """
        merged = dict(weights) if self.lora_scale is None else merged_adapters(weights, self.lora_scale)
        write_weights(folder, merged, self.module.config)
        copy_side_files(self.folder, folder)


def part_of(name: str) -> str:
    """`vision`, `projector` or `llm`, by a parameter's name."""
    return next(part for part, starts in PARTS.items() if name.startswith(starts))


def _decays(name: str, parameter: torch.Tensor) -> bool:
    dimensions = len(getattr(parameter, "ds_shape", parameter.shape))
    return dimensions > 1 and not name.endswith("bias")  # experts' biases have two dimensions


def load_model(folder: Path, config: Config, device: torch.device | None = None, kept: float = 1.0) -> Model:
    """Load a model folder for a run: precision, attention for the device, what learns, checkpointing, compilation.

    A share `kept` of the layers is not computed again in the backward pass. The module stays on the CPU; DeepSpeed
    moves or parts it.

    Raises: `UserError` (no model folder, weights missing or unknown, or a vocabulary that does not fit).
    """
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    module = load_module(folder, dtype)
    set_backends(module, device or torch.device("cpu"))
    module.train()
    module.requires_grad_(False)
    scale = None
    if config.train.llm == "lora":
        add_adapters(module, config.train, config.seed)
        scale = config.train.lora_alpha / config.train.lora_rank
    set_learning(module, config.train)
    if config.loss.router and config.train.llm != "train":
        raise UserError("loss.router balances experts that learn: set it to 0, or train.llm=train")
    set_checkpointing(module, kept)
    if config.engine.compile:
        compile_layers(module)
    tokenizer = folder_tokenizer(folder, module.config.text_vocabulary)
    tiling = config_tiling(module.config)
    return Model(module, folder, tokenizer, tiling, count_flops(module, config.train), scale)


def read_config(folder: Path) -> MedGptConfig:
    """The configuration of a model folder. Raises: `UserError` (there is none, or it is another kind of model)."""
    try:
        found = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder}: no model folder ({one_line(error)[:300]}); make one with python -m train.assemble"
        ) from None
    if not isinstance(found, MedGptConfig):
        raise UserError(f"{folder}: a {found.model_type} model; assemble one around it (python -m train.assemble)")
    return found


def load_module(folder: Path, dtype: torch.dtype) -> MedGptForTraining:
    """The module of a model folder, every weight from its files.

    Raises: `UserError` (weights are missing, unknown or of another shape, or cannot be read).
    """
    config = read_config(folder)
    library = logging.getLogger("transformers.modeling_utils")
    library.addFilter(_no_load_report)
    try:
        module, report = MedGptForTraining.from_pretrained(
            folder, config=config, dtype=dtype, output_loading_info=True, local_files_only=True
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(
            f"{folder}: weights cannot be loaded ({one_line(error)[:300]}); assemble the model again"
        ) from None
    finally:
        library.removeFilter(_no_load_report)
    check_report(folder, report)
    return cast(MedGptForTraining, module)


def _no_load_report(record: logging.LogRecord) -> bool:
    """Whether a line is not transformers' table of weights, which `check_report` turns into one line."""
    return "LOAD REPORT" not in record.getMessage()


def check_report(folder: Path | str, report: Mapping[str, Any]) -> None:
    """Refuse a load that left anything out: transformers only warns, and goes on with random weights.

    Raises: `UserError` (with the first key that is missing, unexpected or of another shape).
    """
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        keys = sorted(map(str, report[kind]))
        if keys:
            what = kind.removesuffix("_keys")
            raise UserError(
                f"{folder}: {len(keys)} {what} weights, the first is {keys[0]}; not the model it says it is"
            )


def add_adapters(module: MedGptForTraining, train: Train, seed: int) -> None:
    """Put LoRA adapters beside the linear layers of the language model (`LORA_TARGETS`) and, if asked, its experts.

    Raises: `UserError` (experts are to be adapted, and there are none).
    """
    from peft import LoraConfig, inject_adapter_in_model

    torch.manual_seed(seed)
    if train.lora_experts and module.config.text_config.model_type != "gpt_oss":
        raise UserError("train.lora_experts: the language model has no experts of GPT-oss's kind; leave it out")
    settings = LoraConfig(
        r=train.lora_rank,
        lora_alpha=train.lora_alpha,
        target_modules=LORA_TARGETS,
        target_parameters=list(LORA_EXPERTS) if train.lora_experts else None,
    )
    inject_adapter_in_model(settings, module)
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(module.dtype)


def set_learning(module: MedGptForTraining, train: Train) -> None:
    """Which parameters get gradients. Weights that only feed CLIP's pooled output, which nothing uses, never do."""
    learns = {"vision": train.vision == "train", "projector": train.projector == "train", "llm": train.llm == "train"}
    for name, parameter in module.named_parameters():
        unused = re.match(r"model\.vision_tower\.(post_layernorm|head|pooler)\.", name) and not _norm_is_used(
            module, name
        )
        parameter.requires_grad_((learns[part_of(name)] and not unused) or (train.llm == "lora" and ".lora_" in name))


def _norm_is_used(module: MedGptForTraining, name: str) -> bool:
    """SigLIP's last norm is in its patch outputs, CLIP's is not."""
    return "post_layernorm" in name and module.config.vision_config.model_type.startswith("siglip")


def set_checkpointing(module: MedGptForTraining, kept: float) -> None:
    """Layers are computed again in the backward pass, but for the last ones, a share `kept` of them.

    The backward pass comes to the last ones first: their activations are gone when a layer's are made again.
    """
    # Newer transformers warn of the old name; 5.17 has no other.
    kind = "activation" if hasattr(module, "activation_checkpointing_enable") else "gradient"
    if kept == 1:
        getattr(module, f"{kind}_checkpointing_disable")()
        return
    getattr(module, f"{kind}_checkpointing_enable")(**{f"{kind}_checkpointing_kwargs": {"use_reentrant": False}})
    for layers in layer_lists(module):
        for layer in layers[len(layers) - round(kept * len(layers)) :]:
            layer.gradient_checkpointing = False


def compile_layers(module: MedGptForTraining) -> None:
    """Compile each layer by itself: a graph that DeepSpeed's hooks, which are around a layer, do not break.

    The whole module's call (`layer.compile()`) would have them within. Layers of a kind share a graph, whose inputs are
    their weights; under ZeRO-3 that needs `memory_efficient_linear` off (`train.loop.engine_config`).
    """
    from torch._dynamo import config

    config.inline_inbuilt_nn_modules = True
    config.recompile_limit = 64  # beyond it, and 8 may be too few, a layer silently runs uncompiled
    config.accumulated_recompile_limit = 4096
    language, encoder = layer_lists(module)
    for layer in language:
        layer.forward = torch.compile(layer.forward)
    for layer in encoder:
        layer.forward = _of_any_batch(torch.compile(layer.forward))


def _of_any_batch(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled layer whose one graph takes any number of tiles: else it is compiled anew at the second number."""

    def forward(hidden_states: torch.Tensor, *arguments: Any, **named: Any) -> Any:
        torch._dynamo.maybe_mark_dynamic(hidden_states, 0)
        return compiled(hidden_states, *arguments, **named)

    return forward


def layer_lists(module: MedGptForTraining) -> tuple[Any, Any]:
    """Layers of the language model and of the encoder."""
    tower = module.model.vision_tower
    # ViT has them at the top.
    return module.model.language_model.layers, tower.layers if hasattr(tower, "layers") else tower.encoder.layers


def forward_losses(model: Model, engine: Callable[..., Any], micro: Micro, config: Config) -> torch.Tensor:
    """Cross-entropies, fp32 (S), of a micro-batch on the device, through `engine` (DeepSpeed's, or the module)."""
    losses: torch.Tensor = engine(
        input_ids=micro.input_ids,
        position_ids=micro.position_ids,
        pixel_values=model.tiling.normalise(micro.pixels, model.module.dtype),
        keep=micro.keep,
        targets=micro.targets,
        chunk=config.loss.chunk,
        router_weight=config.loss.router if model.module.training else 0.0,  # no part of what an answer costs
    )
    return losses


# --- Sizes


def count_flops(module: nn.Module, train: Train) -> Flops:
    """Operations of a module (on any device, `meta` too, not yet parted by ZeRO-3) under what learns."""
    config: Any = module.config
    text, vision = config.text_config, config.vision_config
    sizes = _part_sizes(module)
    pair = 4.0 * text.num_attention_heads * _head_dim(text)
    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    windows = {kind: (text.sliding_window if kind == "sliding_attention" else 2**62) for kind in sorted(set(kinds))}
    patches = 4 * TILE_TOKENS + 1
    tower = 2.0 * sizes["vision"] * patches + 4.0 * vision.num_hidden_layers * vision.hidden_size * patches**2
    below = train.vision == "train"
    passes = (
        3 if train.vision == "train" else 1,
        3 if train.projector == "train" else 2 if below else 1,
        3 if train.llm == "train" else 2 if below or train.projector == "train" or train.llm == "lora" else 1,
    )
    return Flops(
        2.0 * sizes["active"],
        tuple((window, pair * kinds.count(kind)) for kind, window in windows.items()),
        2.0 * text.vocab_size * text.hidden_size,
        (tower, 2.0 * sizes["projector"] * TILE_TOKENS),
        passes,
    )


def _head_dim(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def _part_sizes(module: nn.Module) -> dict[str, int]:
    """Parameters of each part, and `active`: those in the layers of the language model that a token meets."""
    config: Any = module.config
    text = config.text_config
    sizes = dict.fromkeys([*PARTS, "active"], 0)
    share = getattr(text, "num_experts_per_tok", 1) / getattr(text, "num_local_experts", 1)
    for name, parameter in module.named_parameters():
        if ".lora_" in name:
            continue
        sizes[part_of(name)] += parameter.numel()
        if name.startswith("model.language_model.layers."):
            sizes["active"] += round(parameter.numel() * (share if ".experts." in name else 1))
    return sizes


def model_shape(config: MedGptConfig, train: Train) -> Shape:
    """Sizes for `train.memory`, from the configuration alone: nothing is allocated."""
    with torch.device("meta"):
        module = MedGptForTraining(config)
    text, vision = config.text_config, config.vision_config
    sizes = _part_sizes(module)
    lora = 0
    if train.llm == "lora":
        for name, part in module.named_modules():
            if isinstance(part, nn.Linear) and re.fullmatch(LORA_TARGETS, name):
                lora += train.lora_rank * (part.in_features + part.out_features)
        for name, one in module.named_parameters() if train.lora_experts else ():
            if name.endswith(LORA_EXPERTS):
                experts, width, out = one.shape
                lora += train.lora_rank * experts * (width + out)
    heads = 2 * text.num_attention_heads + 2 * text.num_key_value_heads
    return Shape(
        parameters={name: sizes[name] for name in PARTS} | {"lora": lora},
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        expert_width=text.intermediate_size * getattr(text, "num_experts_per_tok", 1),
        attention_width=heads * _head_dim(text),
        vocabulary=text.vocab_size,
        vision_layers=vision.num_hidden_layers,
        vision_hidden=vision.hidden_size,
        patches=4 * TILE_TOKENS,
    )


# --- Folders


def merged_adapters(weights: Mapping[str, torch.Tensor], scale: float) -> dict[str, torch.Tensor]:
    """Weights under their own names, each with its adapter added: W + scale B A, in fp32."""
    merged: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer", "")
        if plain.endswith(LORA_EXPERTS) and plain != name:
            tensor = (tensor.float() + scale * _experts_delta(weights, name, tensor)).to(tensor.dtype)
        elif plain != name and name.endswith(".weight"):
            stem = name.removesuffix(".base_layer.weight")
            up, down = weights[f"{stem}.lora_B.default.weight"], weights[f"{stem}.lora_A.default.weight"]
            tensor = (tensor.float() + scale * (up.float() @ down.float())).to(tensor.dtype)
        merged[plain] = tensor
    return merged


def _experts_delta(weights: Mapping[str, torch.Tensor], name: str, tensor: torch.Tensor) -> torch.Tensor:
    """B A of each expert, (experts, in, out) like `tensor`. peft puts one wrapper a parameter around the other."""
    experts, width, out = tensor.shape
    stem = name.partition(".base_layer")[0]
    for wrapper in (stem, f"{stem}.base_layer"):
        down, up = (weights[f"{wrapper}.lora_{which}.default.weight"].float() for which in "AB")
        if (down.shape[1], up.shape[0]) == (width, out):
            return torch.einsum("ore,eri->eio", up.reshape(out, -1, experts), down.reshape(experts, -1, width))
    raise UserError(f"{name}: no adapter of its shape; written by another version of peft")


def write_weights(folder: Path, weights: Mapping[str, torch.Tensor], config: MedGptConfig) -> None:
    """Write safetensors files of at most 5 GB; names are those of the module.

    Raises: `UserError` (weights are missing or unknown).
    """
    from huggingface_hub import save_torch_state_dict

    with torch.device("meta"):
        wanted = set(MedGptForTraining(config).state_dict())
    for name in sorted(wanted ^ set(weights)):
        raise UserError(f"{folder}: weight {name} {'is missing' if name in wanted else 'is not of this model'}")
    held = dict(weights)
    if config.tie_word_embeddings:
        del held["lm_head.weight"]  # the embedding's
    save_torch_state_dict({name: held[name].contiguous() for name in sorted(held)}, folder, max_shard_size="5GB")


def copy_side_files(source: Path, target: Path) -> None:
    """Copy what a model folder has beside its weights: configuration, its class, tokenizer, processor, template."""
    for path in sorted(source.iterdir()):
        if path.is_file() and ".safetensors" not in path.name:
            shutil.copyfile(path, target / path.name)
