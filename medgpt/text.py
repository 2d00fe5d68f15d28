"""Normalised text hashes and token counts.

Normalisation: NFKC, case-folded, runs of letters and digits joined by single spaces; line wraps, punctuation and
markup do not matter. (Calibrated on ASCII benchmarks as `[a-z0-9]+`; widened to all scripts, else every Chinese
question would be the same empty text.) A text without letters or digits has no hash and never matches.
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

TEXT_RECIPE = "nfkc-casefold-words-1"

_WORDS = re.compile(r"[^\W_]+")
_MARK = " \x02 "
_ASCII_WORDS = "".join(chr(i).lower() if chr(i).isalnum() else " " for i in range(128))
_ASCII_WORDS_AND_MARK = _ASCII_WORDS[:2] + "\x02" + _ASCII_WORDS[3:]


def tokenizer() -> str:
    """What counts the tokens, with its version.

    GPT-oss reads o200k_harmony, which is o200k_base plus special tokens; plain text has the same ids in both.
    """
    from importlib.metadata import version  # 20 ms that --help need not wait for

    return f"o200k_base/bpe-openai-{version('bpe-openai')}"


def normalise(text: str) -> str:
    """Words of `text` in the form in which two texts are compared."""
    if text.isascii():  # the same result, several times faster
        return " ".join(text.translate(_ASCII_WORDS).split())
    return " ".join(_WORDS.findall(unicodedata.normalize("NFKC", text).casefold()))


def text_sha256(text: str | None) -> bytes | None:
    """Digest of the normalised text; None where nothing is left of it."""
    words = normalise(text) if text else ""
    return hashlib.sha256(words.encode()).digest() if words else None


def question_sha256(question: str | None, options: Sequence[str] = ()) -> tuple[bytes | None, bytes | None]:
    """Digests of the normalised question alone, and of the question with its normalised options in sorted order.

    A stem alone is no key: MMLU's six medical subjects have 1,010 stems in 1,089 distinct items. Without options the
    two are equal, so that open questions compare as wholes too. Both are None where nothing is left of the question.
    """
    if not question:
        return None, None
    texts = [question, *options]
    # All texts are normalised in one go, with a mark between them; a text that holds the mark itself is no case for it.
    pieces = _normalise_marked(_MARK.join(texts))
    if len(pieces) != len(texts):
        pieces = [normalise(text) for text in texts]
    stem = pieces[0]
    if not stem:
        return None, None
    alone = hashlib.sha256(stem.encode())
    if len(pieces) == 1:
        return alone.digest(), alone.digest()
    return alone.digest(), hashlib.sha256("\x00".join([stem, *sorted(pieces[1:])]).encode()).digest()


def _normalise_marked(text: str) -> list[str]:
    if text.isascii():
        return [piece.strip() for piece in " ".join(text.translate(_ASCII_WORDS_AND_MARK).split()).split(_MARK.strip())]
    return [normalise(piece) for piece in text.split(_MARK)]


@cache
def _counter() -> Callable[[str], int]:
    # Imported late: half a second, needed only where tokens are counted. The package's own front end refuses texts of
    # a million characters and builds a list of every token; its Rust tokenizer below just counts (tests compare them).
    from bpe_openai._bindings import tokenizer_for_encoding

    count: Callable[[str], int] = tokenizer_for_encoding("o200k_base").count
    return count


def count_tokens(text: str) -> int:
    """Tokens of `text` as GPT-oss would read it, special tokens and template aside."""
    return _counter()(text)
