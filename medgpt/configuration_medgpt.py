"""Configuration and processor of a MedGPT-oss checkpoint; a copy lies in every model folder: `transformers` alone.

Why they exist: `InternVLConfig` always makes its vision configuration an InternViT's. A checkpoint with another encoder
then loads with a *random* InternViT and only a warning. Here each part keeps the class that its `model_type` names.
`InternVLProcessor` cuts every picture into up to 12 tiles; in training, those of a sample share them.
"""

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BatchFeature,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
)
from transformers.image_utils import make_flat_list_of_images


class MedGptConfig(InternVLConfig):
    """InternVL's configuration around any vision encoder and any language model."""

    model_type = "medgpt_oss"

    def __post_init__(self, **kwargs: Any) -> None:
        for name in ("vision_config", "text_config"):
            part = getattr(self, name)
            if isinstance(part, dict):
                setattr(self, name, AutoConfig.for_model(**part))
        super().__post_init__(**kwargs)


class MedGptForConditionalGeneration(InternVLForConditionalGeneration):
    """The stock model, under this configuration."""

    config_class = MedGptConfig


class MedGptProcessor(InternVLProcessor):
    """The stock processor, with as many tiles a picture as training gives it."""

    def __call__(self, images: Any = None, text: Any = None, videos: Any = None, **kwargs: Any) -> BatchFeature:
        """As `InternVLProcessor`; texts with different numbers of pictures are processed each alone, then padded."""
        texts = [text] if isinstance(text, str) else list(text)
        counts = [one.count(self.image_token) for one in texts]
        most = kwargs.pop("max_patches", self.image_processor.max_patches)
        if images is None:
            return super().__call__(text=text, videos=videos, **kwargs)
        if len(set(counts)) == 1:
            share = max(1, most // max(1, counts[0]))
            return super().__call__(images=images, text=text, videos=videos, max_patches=share, **kwargs)
        padding = {name: kwargs.pop(name) for name in ("padding", "pad_to_multiple_of") if name in kwargs}
        kind = kwargs.pop("return_tensors", None)
        flat = make_flat_list_of_images(self.image_processor.fetch_images(images))
        if len(flat) != sum(counts):
            raise ValueError(f"{len(flat)} pictures for {sum(counts)} places in the texts")
        left = iter(flat)
        rows = [
            self([next(left) for _ in range(count)] or None, [one], max_patches=most, **kwargs)
            for one, count in zip(texts, counts, strict=True)
        ]
        tiles = [torch.as_tensor(tile) for row in rows for tile in row.pop("pixel_values", ())]
        padded = self.tokenizer.pad({name: [row[name][0] for row in rows] for name in rows[0]}, **padding)
        return BatchFeature({**padded, "pixel_values": torch.stack(tiles)}, tensor_type=kind)


AutoConfig.register(MedGptConfig.model_type, MedGptConfig, exist_ok=True)
AutoModelForImageTextToText.register(MedGptConfig, MedGptForConditionalGeneration, exist_ok=True)
AutoProcessor.register(MedGptConfig, MedGptProcessor, exist_ok=True)
