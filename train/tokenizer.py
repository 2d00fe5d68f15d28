"""The tokens a model reads: o200k_harmony, GPT-oss's vocabulary, built offline, with the image tokens in reserved rows.

Text is encoded by the package that counts tokens for the manifest, so both always agree, and `<|end|>` inside a text is
text, never the end of a message. Another backbone keeps its own vocabulary, with these tokens added behind it.

GPT-oss's embedding has 201,088 rows, its vocabulary uses ids up to 200,018: the image tokens take the next ones and
nothing is resized (InternVL's resize to 200,028 rows leaves a head whose width is not a multiple of 8).
"""

import base64
import gzip
import hashlib
import importlib.resources
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from medgpt.errors import UserError
from medgpt.text import vocabulary

HARMONY = "o200k_harmony"

HARMONY_ROWS = 201_088
"""Rows of GPT-oss's embedding."""

_HARMONY_NAMES = {
    199998: "startoftext", 199999: "endoftext", 200002: "return", 200003: "constrain", 200005: "channel",
    200006: "start", 200007: "end", 200008: "message", 200012: "call", 200018: "endofprompt",
}  # fmt: skip
HARMONY_SPECIAL = tuple(f"<|{_HARMONY_NAMES.get(i, f'reserved_{i}')}|>" for i in range(199998, 200019))
"""Special tokens 199998 to 200018, as in openai/gpt-oss's tokenizer.json."""

IMAGE_BEGIN, IMAGE_END, IMAGE_CONTEXT, VIDEO = "<img>", "</img>", "<IMG_CONTEXT>", "<video>"
IMAGE_SPECIAL = (IMAGE_BEGIN, IMAGE_END, IMAGE_CONTEXT, VIDEO)
"""InternVL's names. `<video>` is there because the stock processor asks for one; no sample has it."""

ESCAPE = "\ufdd0"
"""A noncharacter of Unicode, which no text for interchange has: it opens the marks that the chat template puts in."""
_BREAK, _ITSELF, _BOUNDARY = ESCAPE + "\ufdd1", ESCAPE + "\ufdd2", ESCAPE + "\ufdd3"
"""Inside a control token that is text; for `ESCAPE` in a text; between two pieces of text, which are encoded alone."""

TEMPLATE_SPECIAL = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|endoftext|>")
"""Harmony's tokens that the template needs: any backbone gets them."""

RANKS_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"
"""Of o200k_base.tiktoken; the same digest is in tiktoken 0.14 and in openai-harmony."""

TOKENIZER_SHA256 = "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"
"""Of openai/gpt-oss's tokenizer.json: `official_tokenizer` writes the same bytes."""

_LETTERS = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
)
_PATTERN = "|".join(
    [*_LETTERS, r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]
)  # o200k_base in tiktoken 0.14


@dataclass(frozen=True)
class Tokenizer:
    """What the template needs of a vocabulary."""

    name: str
    encode: Callable[[str], list[int]]
    """Ids of a text; special tokens in it are encoded as text."""
    special: Mapping[str, int]
    """Ids of `TEMPLATE_SPECIAL` and `IMAGE_SPECIAL`."""
    rows: int
    """Rows that an embedding needs at least."""
    decode: Callable[[list[int]], str]


@cache
def harmony() -> Tokenizer:
    """The vocabulary of GPT-oss; loads in milliseconds."""
    plain = vocabulary()
    ids = {name: 199998 + i for i, name in enumerate((*HARMONY_SPECIAL, *IMAGE_SPECIAL))}
    names = {i: name for name, i in ids.items()}

    def decode(tokens: list[int]) -> str:
        parts: list[str] = []
        text: list[int] = []
        for token in tokens:
            if token in names:
                parts += [plain.decode(text) or "", names[token]]
                text = []
            else:
                text.append(token)
        return "".join([*parts, plain.decode(text) or ""])

    return Tokenizer(
        HARMONY, plain.encode, {n: ids[n] for n in (*TEMPLATE_SPECIAL, *IMAGE_SPECIAL)}, max(names) + 1, decode
    )


def official_tokenizer() -> Any:
    """GPT-oss's tokenizer as `tokenizers.Tokenizer`, without the image tokens; takes some seconds.

    `to_str(pretty=True)` has the digest `TOKENIZER_SHA256`. Merges are found as transformers' converter does: every way
    to split a token into two others, in the order of ranks.

    Raises: `UserError` (the package that ships the ranks has others).
    """
    from tokenizers import AddedToken, Regex, decoders, pre_tokenizers, processors
    from tokenizers import Tokenizer as Fast
    from tokenizers.models import BPE

    packed = importlib.resources.files("bpe_openai").joinpath("data", "o200k_base.tiktoken.gz").read_bytes()
    data = gzip.decompress(packed)
    if hashlib.sha256(data).hexdigest() != RANKS_SHA256:
        raise UserError("bpe-openai ships another o200k_base than GPT-oss reads; install bpe-openai 0.1.4")
    ranks = {base64.b64decode(word): int(rank) for word, rank in (line.split() for line in data.splitlines())}
    letters = _byte_letters()
    text = {word: "".join(letters[byte] for byte in word) for word in ranks}
    merges: list[tuple[str, str]] = []
    for word in ranks:  # in the order of their ranks
        splits = [(word[:i], word[i:]) for i in range(1, len(word))]
        there = [(ranks[left], ranks[right], left, right) for left, right in splits if left in ranks and right in ranks]
        merges += [(text[left], text[right]) for _, _, left, right in sorted(there)]
    fast = Fast(BPE({text[word]: rank for word, rank in ranks.items()}, merges, fuse_unk=False, ignore_merges=True))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in HARMONY_SPECIAL])
    fast.post_processor = processors.ByteLevel(trim_offsets=False)
    return fast


def _byte_letters() -> list[str]:
    """GPT-2's letter for each byte: printable Latin-1 stands for itself, the rest is moved to 256 and on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte if byte in printable else 256 + others.index(byte)) for byte in range(256)]


def fast_tokenizer(base: Any = None) -> Any:
    """A `transformers` tokenizer with the template's and the image tokens: of GPT-oss, or of another backbone (`base`).

    It is what a model folder carries. Its role tokens have the names that `InternVLProcessor` asks for. Special tokens
    are found first, then the marks of the chat template go: a control token that it broke up is text.
    """
    from transformers import PreTrainedTokenizerFast

    roles = {
        "start_image_token": IMAGE_BEGIN,
        "end_image_token": IMAGE_END,
        "context_image_token": IMAGE_CONTEXT,
        "video_token": VIDEO,
    }
    from tokenizers import AddedToken, normalizers, pre_tokenizers

    core = official_tokenizer() if base is None else base.backend_tokenizer
    marks = [normalizers.Replace(_BREAK, ""), normalizers.Replace(_ITSELF, ESCAPE)]
    core.normalizer = normalizers.Sequence([*marks, *([core.normalizer] if core.normalizer else [])])
    pieces = pre_tokenizers.Split(_BOUNDARY, behavior="removed")
    core.pre_tokenizer = pre_tokenizers.Sequence([pieces, *([core.pre_tokenizer] if core.pre_tokenizer else [])])
    names = [name for name in (*TEMPLATE_SPECIAL, *IMAGE_SPECIAL) if core.token_to_id(name) is None]
    core.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|return|>",  # noqa: S106  (no password)
        pad_token="<|endoftext|>",  # noqa: S106
        extra_special_tokens=roles,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def folder_tokenizer(folder: Path, vocabulary: str) -> Tokenizer:
    """The tokenizer of a model folder whose configuration names its `vocabulary`.

    Raises: `UserError` (the folder has no tokenizer, or one without the tokens of the template).
    """
    if vocabulary == HARMONY:
        return harmony()
    from tokenizers import Tokenizer as Fast

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise UserError(f"{path}: missing; assemble the model again (python -m train.assemble)")
    fast = Fast.from_file(str(path))
    fast.encode_special_tokens = True  # in a text they are text
    special: dict[str, int] = {}
    for name in (*TEMPLATE_SPECIAL, *IMAGE_SPECIAL):
        number = fast.token_to_id(name)
        if number is None:
            raise UserError(f"{path}: has no token {name}; assemble the model again (python -m train.assemble)")
        special[name] = number

    def encode(text: str) -> list[int]:
        return list(fast.encode(text.replace(ESCAPE, _ITSELF), add_special_tokens=False).ids)

    def decode(tokens: list[int]) -> str:
        return str(fast.decode(tokens, skip_special_tokens=False))

    return Tokenizer(vocabulary, encode, special, fast.get_vocab_size(with_added_tokens=True), decode)
