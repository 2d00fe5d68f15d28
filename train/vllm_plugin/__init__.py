"""vLLM's plug-in: `vllm serve MODEL_FOLDER` finds our architecture by the entry point of pyproject.toml.

Into vLLM's own environment goes this package without what it depends on (`pip install --no-deps medgpt-oss`): here only
`medgpt.configuration_medgpt` is imported, which needs transformers alone.
"""


def register() -> None:
    """Name our configuration to transformers and our model to vLLM, in each of its processes."""
    from transformers import AutoConfig
    from vllm import ModelRegistry

    from train.vllm_plugin.config import ServedConfig

    AutoConfig.register(ServedConfig.model_type, ServedConfig, exist_ok=True)
    ModelRegistry.register_model("MedGptForConditionalGeneration", "train.vllm_plugin.model:MedGptForVllm")
