"""Normalised text hashes and token counts.

Normalisation: what a reader cannot see is folded (`fold`), then runs of letters and digits are joined by single spaces;
case, line wraps, punctuation and markup do not matter. (Calibrated on ASCII benchmarks as `[a-z0-9]+`; widened to all
scripts, else every Chinese question would be the same empty text.) A text without letters or digits has no hash and
never matches.
"""

import hashlib
import html
import re
import sys
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

TEXT_RECIPE = "folded-words-2"

_WORDS = re.compile(r"[^\W_]+")
_MARK = "\x02"
_CONTROLS = "\x00-\x08\x0e-\x1b\x7f"
_INVISIBLE = re.compile(
    # Controls that are no white space; what Unicode calls ignorable and formatting: soft hyphens, blanks of no width,
    # marks of direction, joiners, fillers, variation selectors, tags.
    f"[{_CONTROLS}\x80-\x84\x86-\x9f\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5"
    "\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # Accents: combining marks of Latin, Greek and Cyrillic letters and of symbols. Vowel signs of other scripts stay.
    "\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+"
)
_ENTITY_DEPTH = 3
"""Entities of entities (`&amp;nbsp;`) are read so often."""
_TAG = r"</?(?:{})(?:[ \t\r\n]+[\w:-]+=(?:\"[^\"<>\x1c]*\"|'[^'<>\x1c]*'|[^\s<>\"'\x1c]+))*[ \t\r\n]*/?>"
_INLINE = re.compile(_TAG.format("b|i|u|s|a|em|strong|sub|sup|span|font|small|mark|wbr"), re.IGNORECASE)
_BLOCK = re.compile(
    _TAG.format("p|br|hr|div|li|ul|ol|td|th|tr|table|tbody|thead|img|h[1-6]|pre|code|blockquote|body|html"),
    re.IGNORECASE,
)
MARKUP = re.compile(rf"&(?:amp;)*#?\w+;?|{_INLINE.pattern}|{_BLOCK.pattern}", re.IGNORECASE)
"""An entity, maybe of an entity, or a tag: what `fold` reads as one."""
_CONTROL = re.compile(f"[{_CONTROLS}]+")
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_LIGATURES = str.maketrans({"\u00e6": "ae", "\u0153": "oe"})
_ASCII_WORDS: dict[int, str | None] = {
    code: chr(code).lower() if chr(code).isalnum() else None if re.match(f"[{_CONTROLS}]", chr(code)) else " "
    for code in range(128)
}
_LETTERS = bytes(2 if code == 2 else ord(_ASCII_WORDS.get(code) or " ") for code in range(256))
_DROPPED = bytes(code for code in range(128) if _ASCII_WORDS[code] is None and code != 2)


def tokenizer() -> str:
    """What counts the tokens, with its version.

    GPT-oss reads o200k_harmony, which is o200k_base plus special tokens; plain text has the same ids in both.
    """
    from importlib.metadata import version  # 20 ms that --help need not wait for

    return f"o200k_base/bpe-openai-{version('bpe-openai')}"


def is_plain(text: str) -> bool:
    """Whether nothing of `text` needs `fold` but the case of its letters and, at most, control characters."""
    return text.isascii() and "&" not in text and "<" not in text


def fold(text: str) -> str:
    """Letters of `text` in the form in which two texts are compared, the marks between them left as they are.

    Entities are read, tags of HTML taken out; NFKC, then without case, accents, ligatures and whatever has no look of
    its own. Letters of different scripts that look alike stay different.
    """
    if not is_plain(text):
        for _ in range(_ENTITY_DEPTH):
            if "&" not in text:
                break
            text = html.unescape(text)
        if "<" in text:
            text = _BLOCK.sub(" ", _INLINE.sub("", text))
    text = text.casefold()
    if not text.isascii():
        text = _BEYOND_ASCII.sub(lambda run: _fold_run(run[0]), text)
    return _CONTROL.sub("", text) if _CONTROL.search(text) else text


def _fold_run(letters: str) -> str:
    """What is left of some letters in a row, none of them ASCII: no mark of theirs belongs beside them."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", letters).casefold())
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text).translate(_LIGATURES))


def normalise(text: str) -> str:
    """Words of `text` in the form in which two texts are compared."""
    if is_plain(text):  # the same result, several times faster
        return " ".join(text.translate(_ASCII_WORDS).split())
    return " ".join(_WORDS.findall(fold(text)))


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
    # Plain texts are normalised in one go, with a mark between them; one that holds the mark itself is no case for it.
    marked, pieces = _MARK.join(texts), list[bytes]()
    if is_plain(marked):
        words = marked.encode().translate(_LETTERS, _DROPPED)
        pieces = [b" ".join(piece.split()) for piece in words.split(_MARK.encode())]
    if len(pieces) != len(texts):
        pieces = [normalise(text).encode() for text in texts]
    stem = pieces[0]
    if not stem:
        return None, None
    alone = hashlib.sha256(stem)
    if len(pieces) == 1:
        return alone.digest(), alone.digest()
    return alone.digest(), hashlib.sha256(b"\x00".join([stem, *sorted(pieces[1:])])).digest()


@cache
def vocabulary() -> Any:
    """o200k_base as bpe-openai's compiled tokenizer: `encode`, `decode`, `count` (the package's `_bindings.pyi`).

    The package's own front end unpacks three vocabularies into Python when it is imported (0.75 s and 60 MB), refuses
    texts of a million characters and builds a list of every token; so its extension is loaded without it (0.06 s).
    """
    name = "bpe_openai._bindings"
    bindings = sys.modules.get(name)
    if bindings is None:
        package = find_spec("bpe_openai")
        found = PathFinder.find_spec(name, package.submodule_search_locations if package else None)
        assert found and found.loader, "bpe-openai is not installed"
        bindings = module_from_spec(found)
        sys.modules[name] = bindings  # it can be initialised once a process: who imports the package gets this one
        found.loader.exec_module(bindings)
    return bindings.tokenizer_for_encoding("o200k_base")


@cache
def _counter() -> Callable[[str], int]:
    count: Callable[[str], int] = vocabulary().count
    return count


def count_tokens(text: str) -> int:
    """Tokens of `text` as GPT-oss would read it, special tokens and template aside."""
    return _counter()(text)
