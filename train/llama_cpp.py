"""A model folder as llama.cpp's two files: the language model, and `mmproj` with encoder and projector.

llama.cpp's InternVL graph is ours: tiles and then the thumbnail between <img> and </img>, pixel shuffle, a norm and two
layers. It applies CLIP's norm before the layers where a file has one, leaves out the one behind them where a file has
none, and takes quick GELU where no other is named. Read against llama.cpp as in llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgpt.atomic import whole_folder
from medgpt.errors import UserError

if TYPE_CHECKING:
    import torch

    from medgpt.configuration_medgpt import MedGptConfig

MODEL, MMPROJ = "model.gguf", "mmproj.gguf"

Read = Callable[[str], "torch.Tensor"]


@dataclass(frozen=True)
class Entry:
    """A tensor of a GGUF file: name, type (`F32`, `BF16`, `MXFP4`), and how it comes of the folder's weights."""

    name: str
    kind: str
    make: Callable[[Read], torch.Tensor]
    """Works on tensors of the device `meta`, too, for the shape."""


def convert(folder: Path, out: Path) -> list[Path]:
    """Write both files to the new folder `out`, with all else of `folder`; a tensor at a time is in memory.

    Experts stay what they are: MXFP4 blocks are repacked, code by code, others are written as they are stored.

    Raises: `UserError` (no model folder, `out` is there already, or a part that llama.cpp has no graph for).
    """
    from train.model import copy_side_files, read_config
    from train.quantize import stored

    config = read_config(folder)
    text, vision = config.text_config, config.vision_config
    if text.model_type != "gpt_oss":
        raise UserError(f"{folder}: a {text.model_type}; here only GPT-oss is written for llama.cpp, use its converter")
    if vision.model_type != "clip_vision_model" or vision.hidden_act not in ("quick_gelu", "gelu"):
        raise UserError(f"{folder}: a {vision.model_type} encoder; llama.cpp's InternVL graph takes CLIP's alone")
    if out.exists():
        raise UserError(f"{out}: is there already; name another folder")
    shapes, read = stored(folder)
    language, vision_part = partial(_describe_language, folder, config), partial(_describe_vision, config)
    with whole_folder(out) as work:
        _write(work / MODEL, "gpt-oss", language, language_entries(shapes), shapes, read)
        _write(work / MMPROJ, "clip", vision_part, vision_entries(shapes), shapes, read)
        copy_side_files(folder, work)
    return [out / MODEL, out / MMPROJ]


def _write(
    path: Path,
    architecture: str,
    describe: Callable[[Any], None],
    entries: list[Entry],
    shapes: Mapping[str, torch.Tensor],
    read: Read,
) -> None:
    import gguf
    import numpy as np
    import torch

    views = {"F32": torch.float32, "BF16": torch.int16, "MXFP4": torch.uint8}

    def held(entry: Entry, source: Read) -> torch.Tensor:
        made = entry.make(source)
        return made.float() if entry.kind == "F32" else made.contiguous().view(views[entry.kind])

    writer = gguf.GGUFWriter(path, architecture)
    describe(writer)
    for entry in entries:
        shape = tuple(held(entry, shapes.__getitem__).shape)
        dtype = np.dtype({"F32": np.float32, "BF16": np.int16, "MXFP4": np.uint8}[entry.kind])
        kind = gguf.GGMLQuantizationType[entry.kind]
        writer.add_tensor_info(entry.name, shape, dtype, prod(shape) * dtype.itemsize, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in entries:
        writer.write_tensor_data(np.ascontiguousarray(held(entry, read).numpy()))
    writer.close()


def _plain(name: str, source: Read) -> torch.Tensor:
    return source(name)


def _kind(name: str, tensor: torch.Tensor) -> str:
    """Matrices keep their precision; llama.cpp adds, normalises and convolves in fp32."""
    import torch

    small = tensor.dim() < 2 or name.endswith((".bias", "ffn_gate_inp.weight", "position_embd.weight"))
    return "BF16" if tensor.dtype == torch.bfloat16 and tensor.dim() < 4 and not small else "F32"


# --- The language model


def _describe_language(folder: Path, config: MedGptConfig, writer: Any) -> None:
    import gguf
    from transformers import AutoTokenizer

    text = config.text_config
    rope = text.rope_parameters
    writer.add_name(config.title)
    writer.add_block_count(text.num_hidden_layers)
    writer.add_context_length(text.max_position_embeddings)
    writer.add_embedding_length(text.hidden_size)
    writer.add_feed_forward_length(text.intermediate_size)
    writer.add_expert_feed_forward_length(text.intermediate_size)
    writer.add_head_count(text.num_attention_heads)
    writer.add_head_count_kv(text.num_key_value_heads)
    writer.add_key_length(text.head_dim)
    writer.add_value_length(text.head_dim)
    writer.add_layer_norm_rms_eps(text.rms_norm_eps)
    writer.add_expert_count(text.num_local_experts)
    writer.add_expert_used_count(text.num_experts_per_tok)
    writer.add_sliding_window(text.sliding_window)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(rope["factor"])
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(rope["beta_slow"])
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    special = set(tokenizer.added_tokens_decoder)
    kinds = gguf.TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-4o")  # the pattern of o200k
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(text.vocab_size)])
    writer.add_token_types(
        [
            kinds.CONTROL if number in special else kinds.NORMAL if number in words else kinds.UNUSED
            for number in range(text.vocab_size)
        ]
    )
    merges = gguf.SpecialVocab(folder, load_merges=True, special_token_types=()).merges
    writer.add_token_merges(merges)
    # llama.cpp's Jinja knows no escapes by number.
    template = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    writer.add_chat_template(re.sub(r"\\u([0-9a-f]{4})", lambda code: chr(int(code[1], 16)), template))
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    writer.add_add_bos_token(False)


def language_entries(shapes: Mapping[str, torch.Tensor]) -> list[Entry]:
    """Tensors of the language model, in the order of their names in the folder."""
    import gguf

    layers = sum(name.endswith("input_layernorm.weight") for name in shapes)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT_OSS, layers)
    entries: list[Entry] = []

    def add(ours: str, theirs: str, make: Callable[[Read], torch.Tensor], kind: str | None = None) -> None:
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"{ours}: llama.cpp has no name for this weight")
        entries.append(Entry(name, kind or _kind(name, shapes[ours]), make))

    for ours in sorted(shapes):
        if not ours.startswith(("model.language_model.", "lm_head.")):
            continue
        stem, _, last = ours.replace("language_model.", "").rpartition(".")
        if last.endswith("_scales"):
            continue
        if not stem.endswith("experts"):
            add(ours, f"{stem}.sinks.weight" if last == "sinks" else f"{stem}.{last}", partial(_plain, ours))
            continue
        suffix = ".bias" if last.endswith("_bias") else ".weight"
        packed = last.endswith("_blocks")
        kind = "MXFP4" if packed else None
        make = partial(_repacked, ours) if packed else partial(_expert_rows, ours)
        if last.startswith("down"):
            add(ours, f"{stem}.down_proj{suffix}", make, kind)
        else:  # gate and up take turns
            add(ours, f"{stem}.gate_proj{suffix}", partial(_every_other, make, 0), kind)
            add(ours, f"{stem}.up_proj{suffix}", partial(_every_other, make, 1), kind)
    return entries


def _expert_rows(name: str, source: Read) -> torch.Tensor:
    """Weights (experts, in, out) as (experts, out, in); biases as they are."""
    tensor = source(name)
    return tensor.transpose(1, 2) if tensor.dim() == 3 else tensor


def _every_other(make: Callable[[Read], torch.Tensor], first: int, source: Read) -> torch.Tensor:
    return make(source)[:, first::2]


def _repacked(name: str, source: Read) -> torch.Tensor:
    """Blocks and scales as llama.cpp's: uint8 (experts, out, in / 32 * 17).

    A block is its scale and 16 bytes; a byte has weight i in its low half and weight i + 16 in its high one. In the
    published layout it has weights 2i and 2i + 1.
    """
    import torch

    blocks, scales = source(name), source(name.removesuffix("_blocks") + "_scales")
    low, high = torch.stack((blocks & 15, blocks >> 4), -1).flatten(-2).chunk(2, -1)
    return torch.cat((scales.unsqueeze(-1), low | (high << 4)), -1).flatten(-2)


# --- Encoder and projector


def _describe_vision(config: MedGptConfig, writer: Any) -> None:
    import gguf

    from medgpt.tiles import MAX_TILES
    from train.model import config_tiling

    vision, tiling = config.vision_config, config_tiling(config)
    writer.add_type(gguf.GGUFType.MMPROJ)
    writer.add_name(config.title)
    writer.add_clip_has_vision_encoder(True)
    writer.add_clip_projector_type(gguf.VisionProjectorType.INTERNVL)
    writer.add_vision_projection_dim(config.text_config.hidden_size)
    writer.add_vision_image_size(tiling.size)
    writer.add_vision_patch_size(vision.patch_size)
    writer.add_vision_embedding_length(vision.hidden_size)
    writer.add_vision_feed_forward_length(vision.intermediate_size)
    writer.add_vision_block_count(vision.num_hidden_layers)
    writer.add_vision_head_count(vision.num_attention_heads)
    writer.add_vision_attention_layernorm_eps(vision.layer_norm_eps)
    writer.add_vision_image_mean(list(tiling.mean))
    writer.add_vision_image_std(list(tiling.std))
    writer.add_vision_projector_scale_factor(round(1 / config.downsample_ratio))
    writer.add_vision_preproc_min_tiles(1)
    writer.add_vision_preproc_max_tiles(MAX_TILES)
    if vision.hidden_act == "gelu":
        writer.add_vision_use_gelu(True)


def vision_entries(shapes: Mapping[str, torch.Tensor]) -> list[Entry]:
    """Tensors of encoder and projector; CLIP's last norm, which only its pooled output has, is left out."""
    import gguf

    layers = sum(name.endswith("layer_norm1.weight") for name in shapes)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, max(4, layers))  # of layers, the projector's 0 to 3, too
    projector = {"layer_norm": "mlp1.0", "linear_1": "mlp1.1", "linear_2": "mlp1.3"}
    entries = []
    for ours in sorted(shapes):
        part, _, rest = ours.removeprefix("model.").partition(".")
        if part not in ("vision_tower", "multi_modal_projector") or rest.startswith("post_layernorm."):
            continue
        theirs = f"vision_tower.vision_model.{rest}"
        if part == "multi_modal_projector":
            layer, _, kind = rest.partition(".")
            theirs = f"{projector[layer]}.{kind}"
        name = names.get_name(theirs, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise UserError(f"{ours}: llama.cpp has no name for this weight")
        make = partial(_class_last if rest.endswith("position_embedding.weight") else _plain, ours)
        entries.append(Entry(name, _kind(name, shapes[ours]), make))
    return entries


def _class_last(name: str, source: Read) -> torch.Tensor:
    """Positions with the class token's last: llama.cpp puts that token behind the patches, and adds row by row.

    Its own converter leaves the row first, so each patch has its neighbour's position: ggml-org/llama.cpp, issue 25814
    (of LLaVA's graph; InternVL's does the same).
    """
    return source(name).roll(-1, 0)
