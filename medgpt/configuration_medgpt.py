"""Configuration of a MedGPT-oss checkpoint; a copy lies in every model folder, so it imports `transformers` alone.

Why it exists: `InternVLConfig` always makes its vision configuration an InternViT's. A checkpoint with another encoder
then loads with a *random* InternViT and only a warning. Here each part keeps the class that its `model_type` names.
"""

from typing import Any

from transformers import AutoConfig, AutoModelForImageTextToText, InternVLConfig, InternVLForConditionalGeneration


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


AutoConfig.register(MedGptConfig.model_type, MedGptConfig, exist_ok=True)
AutoModelForImageTextToText.register(MedGptConfig, MedGptForConditionalGeneration, exist_ok=True)
