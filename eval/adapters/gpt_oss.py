"""GPT-oss when it generates: attention through torch's fused kernels, experts that stay grouped.

Each head of GPT-oss has a sink: one more logit in its softmax, without a value. transformers computes that in plain
matrix products, whose T x T intermediates took a third of a prompt's time on a GPU (64 prompts of 896 tokens and five
tiles on an H200: 2.8 s, here 1.9 s). Here the sink is a key of its own: queries get one more coordinate, which holds
the sink's logit; the key of the sink is 1 there and 0 elsewhere, all other keys are 0 there, and its value is zero. The
result is the same by definition, and summed in fp32.

A single new token is left to plain products: its intermediates are small, and cuDNN would make a new plan for every
length (372 ms a step instead of 42 ms).

While it decodes, `generate` swaps the grouped product of the experts for one that copies the weights of every row's
experts. That is meant for a row or a few: with 64 rows a step took 202 ms instead of 42 ms.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

ATTENTION = "fused_sinks"
"""Under which it is registered with transformers (which refuses GPT-oss any name with "sdpa" in it)."""
EXPERTS = "grouped_always"
"""transformers' grouped product under a name that `generate` does not swap."""
FEW_ROWS = 13
"""Below this many rows copying is faster: 202 ms / 64 a row against 42 ms for any number."""
_MORE = 8
"""Coordinates and keys that are added: one is needed, fused kernels want multiples of eight."""


def tune_generation(model: Any, rows: int) -> bool:
    """Make `model` generate faster for batches of `rows` if its language model is a GPT-oss; returns whether it is."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.moe import ExpertsInterface, grouped_mm_experts_forward
    from transformers.masking_utils import sdpa_mask

    text = model.config.get_text_config()
    if text.model_type != "gpt_oss":
        return False

    def whole_mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
        return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False})

    def of_text(name: str) -> Any:
        return name if text is model.config else {"text_config": name}

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, whole_mask)
    ExpertsInterface.register(EXPERTS, grouped_mm_experts_forward)
    model.set_attn_implementation(of_text(ATTENTION))
    if rows >= FEW_ROWS:
        model.set_experts_implementation(of_text(EXPERTS))
    return True


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Queries (B, heads, Q, D) over keys and values (B, key heads, K, D), to (B, Q, heads, D).

    `attention_mask` is boolean, (B, 1, Q, K), true where a key is seen; `s_aux` are the sinks (heads).
    """
    from torch.nn import functional

    if s_aux is None:
        raise ValueError("attention with sinks was called without sinks")
    _, heads, asked, width = query.shape
    groups, known = heads // key.shape[1], key.shape[2]
    scale = width**-0.5 if scaling is None else scaling
    if asked == 1:
        return _attend_once(query, key, value, attention_mask, scale, s_aux), None
    query = functional.pad(query, (0, _MORE))
    query[..., width] = (s_aux / scale).to(query.dtype)[:, None]
    key = functional.pad(key, (0, _MORE, 0, _MORE))
    key[:, :, known, width] = 1
    value = functional.pad(value, (0, _MORE, 0, _MORE))
    mask = functional.pad(attention_mask, (0, _MORE))
    mask[..., known] = True
    key, value = (states.repeat_interleave(groups, 1) for states in (key, value))
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return out[..., :width].transpose(1, 2).contiguous(), None


def _attend_once(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
    scale: float,
    sinks: torch.Tensor,
) -> torch.Tensor:
    """For one query a row, (B, 1, heads, D): the heads that share a key stand side by side, so nothing is copied."""
    import torch

    batch, heads, _, width = query.shape
    shared = key.shape[1]
    logits = (query.reshape(batch, shared, -1, width) @ key.transpose(2, 3)).float() * scale
    logits = logits.masked_fill(~mask, -torch.inf)
    sink = sinks.float().reshape(1, shared, -1, 1).expand(batch, -1, -1, -1)
    weights = torch.cat([logits, sink], -1).softmax(-1)[..., :-1]
    return (weights.to(value.dtype) @ value).reshape(batch, 1, heads, width)


PACKED = "mxfp4_packed"
"""Under which the quantiser below is registered with transformers."""


def keep_packed(config: Any) -> bool:
    """Have `from_pretrained` leave MXFP4 experts packed; returns whether `config` is of a model that has such.

    transformers' own way fetches kernels from a hub, or takes experts apart when it loads: 42 GB for the 20B model.
    Here a layer's are taken apart while it runs: by size 13 GB and a layer's 1.6 GB, as much again while it is made.
    """
    stored = getattr(config, "quantization_config", None)
    if not isinstance(stored, dict) or stored.get("quant_method") != "mxfp4":
        return False
    from transformers.quantizers import register_quantization_config, register_quantizer
    from transformers.quantizers.auto import AUTO_QUANTIZER_MAPPING
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    if PACKED not in AUTO_QUANTIZER_MAPPING:

        @register_quantization_config(PACKED)
        class Settings(QuantizationConfigMixin):
            def __init__(self, **_: Any) -> None:
                self.quant_method = PACKED

        @register_quantizer(PACKED)
        class Quantizer(HfQuantizer):
            requires_calibration = False
            is_trainable = False

            def is_serializable(self, *_: Any, **__: Any) -> bool:
                return False

            def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
                for module in model.modules():
                    if type(module).__name__ == "GptOssExperts":
                        _pack(module)

        del Settings, Quantizer  # they are registered

    config.quantization_config = {"quant_method": PACKED}
    return True


def _pack(experts: Any) -> None:
    """Give a layer's experts blocks and scales for weights, and hooks that take them apart for each run."""
    import torch
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    names = ("gate_up_proj", "down_proj")
    for name in names:
        count, width, out = getattr(experts, name).shape
        delattr(experts, name)
        for kind, shape in (("blocks", (count, out, width // 32, 16)), ("scales", (count, out, width // 32))):
            empty = torch.empty(shape, dtype=torch.uint8, device=experts.gate_up_proj_bias.device)
            experts.register_parameter(f"{name}_{kind}", torch.nn.Parameter(empty, requires_grad=False))

    def unpack(module: Any, _: Any) -> None:
        for name in names:
            packed = (getattr(module, f"{name}_{kind}") for kind in ("blocks", "scales"))
            setattr(module, name, convert_moe_packed_tensors(*packed, dtype=module.gate_up_proj_bias.dtype))

    def drop(module: Any, *_: Any) -> None:
        for name in names:
            delattr(module, name)

    experts.register_forward_pre_hook(unpack)
    experts.register_forward_hook(drop)
    experts._is_hf_initialized = True
