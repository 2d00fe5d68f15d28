"""A sample as the tokens of a Harmony conversation, and which of them are learnt.

    <|start|>system<|message|>...<|end|>
    <|start|>user<|message|><img>...</img>Question<|end|>
    <|start|>assistant<|channel|>analysis<|message|>Reasoning<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>

Reasoning stays, in earlier turns too (Harmony's own rendering drops it, which is right for a chat and wrong for
training). What is learnt is what the model has to write itself: all after the `<|start|>assistant` of a reply, with the
header between reasoning and answer. An earlier reply ends in `<|end|>` as history shows it, but what is learnt there
is `<|return|>`, the token that ends an answer; otherwise a model of dialogues would not know when to stop.

Every piece of text is encoded alone, as the manifest counts it: `length = shards.packing.sample_length(...)` exactly.
A sample's own system message is Harmony's developer message.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medgpt.errors import UserError
from shards.packing import TILE_TOKENS
from train.tokenizer import IMAGE_BEGIN, IMAGE_CONTEXT, IMAGE_END, Tokenizer

Int64 = npt.NDArray[np.int64]

IGNORED = -100
"""Label of a token that is not learnt (the value that transformers and torch use)."""

CURRENT_DATE = "2026-01-01"
"""Harmony's system message has a date. GPT-oss's own template writes today's, which no run could repeat."""

SYSTEM = (
    "You are MedGPT-oss, a biomedical vision-language model.\n"
    f"Current date: {CURRENT_DATE}\n\n"
    "Reasoning: {effort}\n\n"
    "# Valid channels: analysis, final. Channel must be included for every message."
)
"""First message of every conversation; `effort` is `medium` where a reply has reasoning, else `low`, so that a user can
ask for either."""

_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")

_ROLES = {"user": "user", "system": "developer"}


def chat_template(tokenizer: Any) -> str:
    """The same rendering for `transformers` and vLLM, in Jinja; a test holds the two together, token for token.

    Special tokens of `tokenizer` (`train.tokenizer.fast_tokenizer`) that stand in a text are text, as in training.
    """
    special = sorted(token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return f"{{%- set specials = {json.dumps(special)} -%}}\n" + _CHAT_TEMPLATE.read_text(encoding="utf-8")


@dataclass(frozen=True)
class Document:
    """A rendered sample."""

    ids: Int64
    """Tokens."""
    labels: Int64
    """At each token what is learnt to stand there, or `IGNORED`. The first token is never learnt."""
    pictures: list[int]
    """Numbers of the sample's images in the order in which they appear."""

    @property
    def supervised(self) -> int:
        """Tokens that are learnt."""
        return int((self.labels != IGNORED).sum())


def render(
    record: Mapping[str, Any], tiles: Sequence[int], tokenizer: Tokenizer, truncate_to: int | None = None
) -> Document:
    """A sample as a document.

    `record` has the fields of `medgpt.schema.SAMPLE`, `tiles[i]` is the number of tiles of its image i. `truncate_to`
    leaves that many tokens and cuts off the end (a cut answer has no `<|return|>`).

    Raises: `UserError` (no assistant message at the end, an unknown role or part, an image that is missing, unused or
    shown twice, or a cut through a picture).
    """
    name = record["id"]
    messages = record["messages"]
    if not messages or messages[-1]["role"] != "assistant":
        raise UserError(f"{name}: does not end with an assistant message; build it with its answers")
    special = tokenizer.special
    start, end, message_token, channel = (special[f"<|{word}|>"] for word in ("start", "end", "message", "channel"))
    assistant, analysis, final = (tokenizer.encode(word) for word in ("assistant", "analysis", "final"))
    effort = "medium" if any(message["reasoning"] for message in messages) else "low"
    ids = [start, *tokenizer.encode("system"), message_token, *tokenizer.encode(SYSTEM.format(effort=effort)), end]
    labels = [IGNORED] * len(ids)
    pictures: list[int] = []
    for number, message in enumerate(messages):
        role = message["role"]
        if role != "assistant":
            if role not in _ROLES or message["reasoning"]:
                raise UserError(f"{name}: message {number} has role {role!r}, or reasoning without being a reply")
            ids += [start, *tokenizer.encode(_ROLES[role]), message_token]
            for part in message["content"]:
                if part["type"] == "text":
                    ids += tokenizer.encode(part["text"])
                elif part["type"] == "image" and 0 <= part["index"] < len(tiles) and part["index"] not in pictures:
                    pictures.append(part["index"])
                    ids += [special[IMAGE_BEGIN], *[special[IMAGE_CONTEXT]] * (TILE_TOKENS * tiles[part["index"]])]
                    ids.append(special[IMAGE_END])
                else:
                    raise UserError(
                        f"{name}: message {number} has a part {part['type']!r} {part['index']!r}, but the sample "
                        f"{len(tiles)} pictures, each to be shown once"
                    )
            ids.append(end)
            labels += [IGNORED] * (len(ids) - len(labels))
            continue
        if any(part["type"] != "text" for part in message["content"]):
            raise UserError(f"{name}: message {number} is a reply with a picture; replies are text")
        reply: list[int] = []
        if message["reasoning"]:
            reply += [channel, *analysis, message_token, *tokenizer.encode(message["reasoning"]), end]
            reply += [start, *assistant]
        reply += [channel, *final, message_token]
        for part in message["content"]:
            reply += tokenizer.encode(part["text"])
        last = number == len(messages) - 1
        ids += [start, *assistant, *reply, special["<|return|>"] if last else end]
        labels += [*[IGNORED] * (1 + len(assistant)), *reply, special["<|return|>"]]
    if len(pictures) != len(tiles):
        raise UserError(f"{name}: shows {len(pictures)} of its {len(tiles)} pictures; each is to be shown once")
    if truncate_to is not None and truncate_to < len(ids):
        if any(token in (special[IMAGE_CONTEXT], special[IMAGE_END]) for token in ids[truncate_to:]):
            raise UserError(f"{name}: cutting it to {truncate_to} tokens would cut a picture; set data.over_long=drop")
        del ids[truncate_to:], labels[truncate_to:]
    return Document(np.array(ids, np.int64), np.array(labels, np.int64), pictures)
