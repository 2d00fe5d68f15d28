"""Normalised text hashes and token counts.

Normalisation: NFKC, case-folded, runs of letters and digits joined by single spaces; line wraps, punctuation and
markup do not matter. (Calibrated on ASCII benchmarks as `[a-z0-9]+`; widened to all scripts, else every Chinese
question would be the same empty text.) A text without letters or digits has no hash and never matches.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from typing import Any

TOKENIZER = f"o200k_base/bpe-openai-{version('bpe-openai')}"
"""GPT-oss reads o200k_harmony, which is o200k_base plus special tokens; plain text has the same ids in both."""

TEXT_RECIPE = "nfkc-casefold-words-1"

_WORDS = re.compile(r"[^\W_]+")


def normalise(text: str) -> str:
    """Words of `text` in the form in which two texts are compared."""
    if not text.isascii():  # NFKC and full case folding change nothing beyond lower() in ASCII
        text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORDS.findall(text.lower()))


def text_sha256(text: str | None) -> bytes | None:
    """Digest of the normalised text; None where nothing is left of it."""
    words = normalise(text) if text else ""
    return hashlib.sha256(words.encode()).digest() if words else None


def stem_options_sha256(question: str | None, options: Iterable[str]) -> bytes | None:
    """Digest of the normalised question and its normalised options in sorted order.

    A stem alone is no key: MMLU's six medical subjects have 1,010 stems in 1,089 distinct items. Without options this
    is the stem's digest under another prefix, so that open questions compare as wholes too.
    """
    stem = normalise(question) if question else ""
    if not stem:
        return None
    parts = [stem, *sorted(normalise(option) for option in options)]
    return hashlib.sha256("\x00".join(parts).encode()).digest()


@cache
def _encoding() -> Any:
    import bpe_openai  # half a second, needed only where tokens are counted

    return bpe_openai.get_encoding("o200k_base")


def count_tokens(text: str) -> int:
    """Tokens of `text` as GPT-oss would read it, special tokens and template aside."""
    return len(_encoding().encode_ordinary(text))
