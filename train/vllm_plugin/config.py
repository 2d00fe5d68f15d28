"""Our configuration as vLLM's InternS1 reads it, apart from the model so that it is found without loading vLLM."""

from typing import Any

from medgpt.configuration_medgpt import MedGptConfig


class ServedConfig(MedGptConfig):
    """A model folder's configuration whose vision sizes are pairs, as InternS1 has them."""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("image_size", "patch_size"):
            size = getattr(self.vision_config, name)
            if isinstance(size, int):
                setattr(self.vision_config, name, (size, size))
