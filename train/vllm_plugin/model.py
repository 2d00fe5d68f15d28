"""The model in vLLM: its InternS1 (InternVL under transformers' names) with vLLM's CLIP as vision tower.

Projector, pixel shuffle, GPT-oss, placement of image tokens and names of weights are InternS1's. What is ours: the
encoder, without the last norm, which transformers gives to CLIP's pooled output alone; and that the pictures of a
prompt share 12 tiles, as in training.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from transformers.models.internvl import InternVLProcessor
from vllm.model_executor.models.clip import CLIPVisionTransformer
from vllm.model_executor.models.interns1 import (
    InternS1DummyInputsBuilder,
    InternS1ForConditionalGeneration,
    InternS1MultiModalProcessor,
    InternS1ProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.transformers_utils.processor import cached_processor_from_config


class Info(InternS1ProcessingInfo):
    """Pictures, no videos."""

    def get_supported_mm_limits(self) -> Mapping[str, int | None]:
        """Any number of pictures."""
        return {"image": None}

    def get_hf_processor(self, **kwargs: object) -> Any:
        """One a process, whose calls say `max_patches`.

        InternS1's is loaded again for each copy of the tokenizer and each such value: seconds, some within a request.
        """
        del kwargs
        return cached_processor_from_config(self.ctx.model_config, InternVLProcessor)


class Processor(InternS1MultiModalProcessor):
    """Pictures of a prompt share its tiles; by `max_patches`, which is part of the keys of vLLM's caches."""

    def apply(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """`inputs` with prompt tokens and pictures, to what the engine takes."""
        pictures = inputs.mm_data_items.get_count("image", strict=False)
        if pictures > 1:
            most = self.info.get_hf_processor().image_processor.max_patches
            shared = {"max_patches": max(1, most // pictures), **inputs.hf_processor_mm_kwargs}
            inputs = replace(inputs, hf_processor_mm_kwargs=shared)
        return super().apply(inputs, *args, **kwargs)


@MULTIMODAL_REGISTRY.register_processor(Processor, info=Info, dummy_inputs=InternS1DummyInputsBuilder)
class MedGptForVllm(InternS1ForConditionalGeneration):
    """A model folder of `train.assemble` or `train.run` around a CLIP."""

    def _init_vision_model(self, config: Any, quant_config: Any, *, prefix: str) -> Any:
        vision = copy.copy(config.vision_config)
        if vision.model_type != "clip_vision_model":
            raise ValueError(f"a {vision.model_type} encoder: the vLLM plug-in has CLIP only; serve it by eval.serve")
        vision.image_size, vision.patch_size = vision.image_size[0], vision.patch_size[0]
        return CLIPVisionTransformer(vision, quant_config, require_post_norm=False, prefix=prefix)
