"""The architectures that model cards name, tiny and random, saved as checkpoints in the Hugging Face layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

_TEXT = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_CHAT = (
    "{% for m in messages %}<|start|>{{ m.role }}<|message|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}IMAGE{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)


def byte_tokenizer(names: dict[str, str], signs: list[str]) -> Any:
    """One token a byte; `names` are special tokens that a processor looks for, `signs` those of the template."""
    transformers = pytest.importorskip("transformers", minversion="5")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytes_only = Tokenizer(models.BPE(vocab={sign: place for place, sign in enumerate(alphabet)}, merges=[]))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, eos_token="<|return|>", pad_token="<|endoftext|>", extra_special_tokens=names
    )
    tokenizer.add_tokens(signs, special_tokens=True)
    return tokenizer


def save_qwen(folder: Path) -> None:
    """Qwen2.5-VL with its own picture processor and the limits of its preprocessor_config.json."""
    tokenizer = byte_tokenizer(
        {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>", "vision_start_token": "<|vision_start|>",
         "vision_end_token": "<|vision_end|>"},
        ["<|start|>", "<|message|>", "<|end|>"],
    )  # fmt: skip
    import transformers
    from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor

    id_of = tokenizer.convert_tokens_to_ids
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={**vision, "fullatt_block_indexes": [1]},
        text_config={
            **_TEXT, "vocab_size": len(tokenizer), "num_key_value_heads": 1, "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
            "rope_parameters": {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 1e4},
        },
        image_token_id=id_of("<|image_pad|>"), video_token_id=id_of("<|video_pad|>"),
        vision_start_token_id=id_of("<|vision_start|>"), vision_end_token_id=id_of("<|vision_end|>"),
    )  # fmt: skip
    transformers.Qwen2_5_VLForConditionalGeneration(config).save_pretrained(folder)
    transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(min_pixels=3136, max_pixels=12845056),
        tokenizer=tokenizer, video_processor=Qwen2VLVideoProcessor(),
        chat_template=_CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>"),
    ).save_pretrained(folder)  # fmt: skip


def save_gemma(folder: Path) -> None:
    """Gemma 3 of 56 pixels and four tokens a picture."""
    tokenizer = byte_tokenizer(
        {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"},
        ["<|start|>", "<|message|>", "<|end|>"],
    )
    import transformers

    id_of = tokenizer.convert_tokens_to_ids
    vision = {"image_size": 56, "patch_size": 14, "vision_use_head": False}
    config = transformers.Gemma3Config(
        vision_config={**_TEXT, **vision},
        text_config={
            **_TEXT, "vocab_size": len(tokenizer), "num_key_value_heads": 1, "head_dim": 16, "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
        },
        mm_tokens_per_image=4, image_token_index=id_of("<image_soft_token>"),
        boi_token_index=id_of("<start_of_image>"), eoi_token_index=id_of("<end_of_image>"),
    )  # fmt: skip
    transformers.Gemma3ForConditionalGeneration(config).save_pretrained(folder)
    transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56}), tokenizer=tokenizer,
        image_seq_length=4, chat_template=_CHAT.replace("IMAGE", "<start_of_image>"),
    ).save_pretrained(folder)  # fmt: skip


def save_ours(folder: Path) -> None:
    """Our own: CLIP, two-layer MLP, GPT-oss."""
    torch = pytest.importorskip("torch")
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    tokenizer = byte_tokenizer(names, ["<|start|>", "<|message|>", "<|end|>", "<|channel|>"])
    import transformers
    from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    processor = transformers.InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(
            size={"height": 56, "width": 56}, crop_to_patches=True, min_patches=1, max_patches=4
        ),
        tokenizer=tokenizer, video_processor=InternVLVideoProcessor(), image_seq_length=4,
        chat_template=_CHAT.replace("IMAGE", "<IMG_CONTEXT>\n"),
    )  # fmt: skip
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=56, patch_size=14
    )
    text = transformers.GptOssConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_local_experts=4,
        num_experts_per_tok=2, num_attention_heads=8, num_key_value_heads=2, head_dim=8, sliding_window=16,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    config = transformers.InternVLConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4, downsample_ratio=0.5, vision_feature_layer=-1, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    model = transformers.InternVLForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.05)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
