"""Model cards: one YAML file a model says how it is asked. The cards of the compared models lie in `eval/models`.

A card holds what shapes an answer (identity, prompt suffix, decoding, limits on pictures) and what a reader of its
outputs must know (the reasoning dialect). Unknown fields are refused: a misspelt limit would otherwise be none.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from medgpt.errors import UserError

CARDS = Path(__file__).parent / "models"

DIALECTS = ("none", "think_tags", "harmony", "unused_tokens")
"""How reasoning is told from the answer: nothing to tell; `</think>`; Harmony channels; MedGemma's `<unused95>`."""


@dataclass(frozen=True)
class Decoding:
    """How an answer is generated. None leaves a field out of the request."""

    temperature: float | None = 0.0
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = 0
    max_new_tokens: int | None = None
    """Raises or lowers the task's limit; None keeps it."""


@dataclass(frozen=True)
class Card:
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
    adapter: str = "openai_chat"
    """The adapter that can run it: `openai_chat` or `hf_local`."""
    system: str = ""
    """Goes before the task's own system text."""
    prompt_suffix: str = ""
    """Goes after the task's closing instruction."""
    reasoning: str = "none"
    """One of `DIALECTS`."""
    decoding: Decoding = Decoding()
    stop: tuple[str, ...] = ()
    max_images: int | None = None
    request: dict[str, Any] = field(default_factory=dict)
    """Further fields of a request to a server (`mm_processor_kwargs`, `skip_special_tokens`)."""
    note: str = ""

    def shaping(self) -> dict[str, Any]:
        """What shapes an answer, as JSON; licence and note do not."""
        return {key: value for key, value in asdict(self).items() if key not in ("license", "note", "adapter")}

    def request_fields(self) -> dict[str, Any]:
        """Fields of a chat request; None is left out by the adapter."""
        decoding = self.decoding
        return {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "repetition_penalty": decoding.repetition_penalty,
            "seed": decoding.seed,
            "stop": list(self.stop) or None,
            **self.request,
        }


def card_names() -> list[str]:
    """Names of the cards that come with this package."""
    return sorted(path.stem for path in CARDS.glob("*.yaml"))


def load_card(name: str) -> Card:
    """A card by the name of a shipped one (`medgemma_27b`) or by path. Raises: `UserError`."""
    import yaml

    shipped = CARDS / f"{name}.yaml"
    path = shipped if shipped.is_file() else Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise UserError(f"--model {name}: neither a YAML file nor one of {', '.join(card_names())}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML ({' '.join(str(error).split())})") from error
    values = _checked(path, values, Card)
    values["decoding"] = Decoding(**_checked(path, values.get("decoding", {}), Decoding))
    values["stop"] = tuple(values.get("stop", ()))
    card = Card(**values)
    if card.reasoning not in DIALECTS:
        raise UserError(f"{path}: reasoning must be one of {', '.join(DIALECTS)}, not {card.reasoning!r}")
    if card.adapter not in ("openai_chat", "hf_local"):
        raise UserError(f"{path}: adapter must be openai_chat or hf_local, not {card.adapter!r}")
    return card


_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "str | None": (str, type(None)),
    "bool": (bool,),
    "int | None": (int, type(None)),
    "float | None": (float, int, type(None)),
    "tuple[str, ...]": (list,),
    "dict[str, Any]": (dict,),
    "Decoding": (dict,),
}


def _checked(path: Path, values: object, kind: type[Card] | type[Decoding]) -> dict[str, Any]:
    types = {entry.name: str(entry.type) for entry in fields(kind)}
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping with the fields {', '.join(types)}")
    if odd := sorted(set(map(str, values)) - types.keys()):
        raise UserError(f"{path}: unknown fields {', '.join(odd)}; there are: {', '.join(types)}")
    if kind is Card and "name" not in values:
        raise UserError(f"{path}: `name` is missing")
    for name, value in values.items():
        fits = isinstance(value, _PLAIN[types[name]])
        if not fits or (isinstance(value, bool) and types[name] != "bool"):
            raise UserError(f"{path}: {name} must be {types[name]}, not {value!r}")
    return dict(values)
