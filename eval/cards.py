"""Model cards: one YAML file a model says how it is asked. The cards of the compared models lie in `eval/models`.

A card holds what shapes an answer (identity, prompt suffix, decoding, limits on pictures) and what a reader of its
outputs must know (the reasoning dialect). Unknown fields are refused: a misspelt limit would otherwise be none.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from medgpt.settings import Settings, checked, find, read_yaml

CARDS = Path(__file__).parent / "models"

Dialect = Literal["none", "think_tags", "harmony", "unused_tokens"]
"""How reasoning is told from the answer: nothing to tell; `</think>`; Harmony channels; MedGemma's `<unused95>`."""

GREEDY_BELOW = 1e-3
"""A temperature at or below this is greedy: QoQ-Med's generation config says 1e-6, which no sampler tells from 0."""


class Decoding(Settings, frozen=True):
    """How an answer is generated. None leaves a field out of the request."""

    temperature: float | None = 0.0
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = 0
    max_new_tokens: Annotated[int, Meta(ge=1)] | None = None
    """Raises or lowers the task's limit; None keeps it."""


class Card(Settings, frozen=True):
    """How one model is asked."""

    name: str
    hub_id: str = ""
    """`owner/name` on the Hugging Face hub, for people: nothing is downloaded."""
    revision: str | None = None
    """Commit of the weights, as declared (`eval.run --revision`). None: not pinned, and the report says so."""
    license: str = ""
    model_class: str = "AutoModelForImageTextToText"
    """`transformers` class of the local adapter."""
    trust_remote_code: bool = False
    """The checkpoint brings its own classes; they are run only with --trust-remote-code."""
    served_only: bool = False
    """`hf_local` does not speak its processor: it is asked at a server, or in vLLM."""
    system: str = ""
    """Goes before the task's own system text: after a blank line, or as it is where it ends with a space."""
    prompt_suffix: str = ""
    """Goes after the task's closing instruction."""
    reasoning: Dialect = "none"
    decoding: Decoding = Decoding()
    stop: tuple[str, ...] = ()
    max_images: Annotated[int, Meta(ge=0)] | None = None
    image_prefix: str = ""
    """Goes before each picture of a question with several; `{number}` counts them from 1."""
    pixels: tuple[int, int] | None = None
    """The least and the most pixels that Qwen's processor is told to scale each picture to, here and in vLLM."""
    max_pixels: Annotated[int, Meta(ge=1)] | None = None
    """Pixels of a picture that the model sees at most by its own processor's settings."""
    request: dict[str, Any] = msgspec.field(default_factory=dict)
    """Further fields of a request to a server (`skip_special_tokens`)."""
    price_in: Annotated[float, Meta(ge=0)] | None = None
    """Price of a million tokens of prompts (`eval.run --price-in`), in a currency of your own."""
    price_out: Annotated[float, Meta(ge=0)] | None = None
    """Price of a million new tokens."""
    note: str = ""

    def drawn(self, draw: int) -> "Card":
        """The card whose seed is that of the `draw`-th answer to a question; 0 is the card itself."""
        if not draw:
            return self
        decoding = msgspec.structs.replace(self.decoding, seed=(self.decoding.seed or 0) + draw)
        return msgspec.structs.replace(self, decoding=decoding)

    def shaping(self) -> dict[str, Any]:
        """What shapes an answer, as JSON; licence, prices and note do not. Later fields stand there if they say so.

        So a run of an earlier version goes on where its card is as it was.
        """
        left_out = {"license", "note", "served_only", "max_pixels", "price_in", "price_out"}
        left_out |= {name for name in ("image_prefix", "pixels") if not getattr(self, name)}
        return {key: value for key, value in msgspec.to_builtins(self).items() if key not in left_out}

    @property
    def pixel_limit(self) -> int | None:
        """The model's own processor scales pictures of more pixels down; None: nothing is known of a limit."""
        return self.pixels[1] if self.pixels else self.max_pixels

    def request_fields(self) -> dict[str, Any]:
        """Fields of a chat request; None is left out by the adapter."""
        decoding = self.decoding
        return {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "repetition_penalty": decoding.repetition_penalty,
            "seed": decoding.seed,
            "stop": list(self.stop) or None,
            "mm_processor_kwargs": self.pixels and dict(zip(("min_pixels", "max_pixels"), self.pixels, strict=True)),
            **self.request,
        }


def load_card(name: str) -> Card:
    """A card by the name of a shipped one (`medgemma_27b`) or by path. Raises: `SettingsError`."""
    path = find(name, CARDS, "model card")
    return checked(Card, read_yaml(path), str(path))
