"""Attention and experts of the language model as we train them, under names that transformers takes.

On a GPU attention sinks go through flex attention, with documents of a packed row kept apart block by block; on a CPU
attention is stock and eager. Experts are transformers' grouped products with gradients that lose nothing.
"""

from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.integrations.moe import ExpertsInterface, _grouped_linear
from transformers.masking_utils import (
    AttentionMaskInterface,
    create_causal_mask,
    create_sliding_window_causal_mask,
    flex_attention_mask,
)

FLEX, EXPERTS = "flex_sink", "grouped_rows"
"""Names under which our attention and our way through the experts are registered with transformers."""


def set_backends(module: Any, device: torch.device) -> None:
    """Attention and experts for a device: flex with sinks on a GPU, stock on a CPU (flex has no backward there)."""
    text = module.config.text_config
    stock = "eager" if text.model_type == "gpt_oss" else "sdpa"  # sinks: transformers allows no sdpa
    attention = FLEX if device.type == "cuda" else stock
    module.set_attn_implementation({"": "eager", "vision_config": "sdpa", "text_config": attention})
    if text.model_type == "gpt_oss":
        module.set_experts_implementation({"text_config": EXPERTS})  # the wrapper itself has no experts


# --- Attention


def _flex_sink(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    s_aux: torch.Tensor | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Flex attention with GPT-oss's sinks: (1, heads, T, dim) to (1, T, heads, dim).

    A sink is one more logit in the softmax without a value: it scales the output by sigmoid(lse - sink). In fp32:
    transformers' own flex attention rounds the log-sum-exp to bf16 first (1 % median error of the factor).
    """
    flex, request = _flex()
    if s_aux is None:
        return flex(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True).transpose(1, 2), None
    out, aux = flex(
        query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True, return_aux=request(lse=True)
    )
    kept = torch.sigmoid(aux.lse.float() - s_aux.float().view(1, -1, 1)).unsqueeze(-1)
    return (out * kept.to(out.dtype)).transpose(1, 2).contiguous(), None


_compiled: list[Any] = []


def _flex() -> tuple[Any, Any]:
    """(flex attention, its request for the log-sum-exp); compiled on a GPU, where nothing is gained otherwise."""
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    if torch.compiler.is_compiling() or not torch.cuda.is_available():
        return flex_attention, AuxRequest
    if not _compiled:
        _compiled.append(torch.compile(flex_attention))
    return _compiled[0], AuxRequest


AttentionInterface.register(FLEX, _flex_sink)
AttentionMaskInterface.register(FLEX, flex_attention_mask)


def packed_masks(text_config: Any, position_ids: torch.Tensor, dtype: torch.dtype) -> Any:
    """Masks that keep documents apart, by the restarts of `position_ids` (1, T).

    One mask, or one for each kind of layer where a model has several kinds. GPT-oss given positions alone lets
    documents see each other: it does not pass them on to its masks.
    """
    kinds = getattr(text_config, "layer_types", None)
    if text_config._attn_implementation == FLEX:
        if not kinds:
            return block_mask(position_ids)
        windows = {"full_attention": None, "sliding_attention": text_config.sliding_window}
        return {kind: block_mask(position_ids, windows[kind]) for kind in sorted(set(kinds))}
    makers = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
    embeds = torch.empty(*position_ids.shape, 1, dtype=dtype, device=position_ids.device)
    # By place: the cache, which there is none of, was renamed between releases.
    arguments = (text_config, embeds, None, None, position_ids)
    if not kinds:
        return create_causal_mask(*arguments)
    return {kind: makers[kind](*arguments) for kind in sorted(set(kinds))}


_BLOCK = 128
"""Tokens of a block of flex attention, its own default."""


def block_mask(position_ids: torch.Tensor, window: int | None = None) -> Any:
    """Flex attention's mask of a packed row (1, T): causal, within documents, at most `window` tokens back.

    Which blocks are empty, partial or full follows from the first and the last document of each block, since documents
    lie one behind the other. Flex attention's own way looks at all T x T pairs, in a kernel that it compiles for every
    length; at 12,288 tokens the assembler had not done with it after two minutes (torch 2.11).
    """
    from torch.nn.attention.flex_attention import BlockMask

    documents = (position_ids[0] == 0).cumsum(0)
    length = len(documents)
    blocks = -(-length // _BLOCK)
    starts = torch.arange(blocks, device=documents.device) * _BLOCK
    first, last = documents[starts], documents[(starts + _BLOCK - 1).clamp(max=length - 1)]
    number = torch.arange(blocks, device=documents.device)
    apart = (number[:, None] - number[None, :]) * _BLOCK
    # Query block i, key block j < i: the last document of j is the first of i, or they share none. The nearest pair of
    # tokens is apart - 127, the farthest apart + 127.
    some = (apart == 0) | ((apart > 0) & (last[None, :] == first[:, None]))
    whole = (apart > 0) & (first[None, :] == last[:, None])
    if length % _BLOCK:
        whole[-1] = False  # rows beyond the end
    if window is not None:
        some &= apart - (_BLOCK - 1) < window
        whole &= apart + _BLOCK - 1 < window

    def visible(_batch: Any, _head: Any, query: Any, key: Any) -> Any:
        seen = (query >= key) & (documents[query] == documents[key])
        return seen if window is None else seen & (query - key < window)

    def listed(which: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        order = torch.argsort(which.int(), dim=1, descending=True, stable=True)
        return which.sum(1, dtype=torch.int32)[None, None], order.int()[None, None]

    return BlockMask.from_kv_blocks(
        *listed(some & ~whole), *listed(whole), BLOCK_SIZE=_BLOCK, mask_mod=visible, seq_lengths=(length, length)
    )


# --- Experts


class _Rows(torch.autograd.Function):
    """Rows of `x` (T, width) at `places` (S); `went` (T, k) says where in the result each row of `x` is.

    Its gradient is gathered. That of indexing is scattered: on a GPU by atomic additions in bf16, which end in another
    order each time and lose what is small beside the sum.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, places: torch.Tensor, went: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(went)
        return x[places]

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (went,) = ctx.saved_tensors
        return gradients[0][went].sum(1), None, None


def _grouped_rows(module: Any, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """GPT-oss's experts for hidden (T, width), as transformers' `grouped_mm`, whose output it has, but for gradients.

    `chosen` and `weights` (T, k) are the experts of each token. Biases go in as a product with who is whose, so that
    their gradients, sums of thousands of rows, are products, too, and are summed in fp32.
    """
    per_token = chosen.size(-1)
    expert, order = chosen.reshape(-1).sort()
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    belongs = nn.functional.one_hot(expert, module.num_experts)
    ends = belongs.sum(0).cumsum(0, dtype=torch.int32)
    belongs = belongs.to(hidden.dtype)
    rows = _Rows.apply(hidden, order // per_token, place.view(-1, per_token))
    up = _grouped_linear(rows, module.gate_up_proj, ends, is_transposed=True) + belongs @ module.gate_up_proj_bias
    gated = module._apply_gate(up)
    down = _grouped_linear(gated, module.down_proj, ends, is_transposed=True) + belongs @ module.down_proj_bias
    rows = _Rows.apply(down, place, order.unsqueeze(1)).view(*chosen.shape, -1)
    return (rows * weights.unsqueeze(-1)).sum(1).to(hidden.dtype)


ExpertsInterface.register(EXPERTS, _grouped_rows)
