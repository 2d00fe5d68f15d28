"""Where words that two texts share stand in the texts as they were written.

Evidence speaks of normalised words (`medgpt.text.normalise`); a person wants to see them in the original, with its
case, punctuation and line wraps.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cache

from medgpt.text import MARKUP, fold, is_plain

SHARED_WORDS = 5
"""Runs of so many words that both texts have are marked, whatever the evidence is."""
SHARED, RUN = 1, 2
"""Marks: of words in a shared run of `SHARED_WORDS`, and of the run that the evidence names."""

_ASCII_WORD = re.compile(r"[a-z0-9]+")

Range = tuple[int, int, int]
"""Start and end in the original text, and the mark."""
_Token = tuple[str, int, int]


def shared_ranges(
    texts: tuple[str, str], span: str | None
) -> tuple[tuple[list[Range], bool], tuple[list[Range], bool]]:
    """For each of two texts the ranges that are marked, rising and apart, and whether `span` was found in it.

    `span` is a normalised run of words (`medgpt.text.normalise`, with or without each ideograph as a word of its own);
    its first place in a text is marked `RUN`, shared runs elsewhere `SHARED`. Case, line wraps, punctuation and Unicode
    forms of the texts do not matter, as in that normalisation.
    """
    tokens = [_tokens(text) for text in texts]
    words = [[token[0] for token in side] for side in tokens]
    shingles = [_shingles(side) for side in words]
    shared = set(shingles[0]) & set(shingles[1])
    run = [token[0] for token in _tokens(span or "")]

    def of_side(side: int) -> tuple[list[Range], bool]:
        marks = [0] * len(words[side])
        for place, shingle in enumerate(shingles[side]):
            if shingle in shared:
                marks[place : place + SHARED_WORDS] = [SHARED] * SHARED_WORDS
        found = _find(words[side], run)
        if found is not None:
            marks[found : found + len(run)] = [RUN] * len(run)
        return _ranges(tokens[side], marks), found is not None

    return of_side(0), of_side(1)


@cache
def _begins(letter: str) -> bool:
    """Whether NFKC never joins this character to what stands before it (UAX #15, "boundary before")."""
    first = unicodedata.normalize("NFKD", letter)[:1]
    # Marks, and the vowels and final consonants of conjoining Hangul, which are letters.
    return not (unicodedata.category(first)[0] == "M" or "\u1160" <= first <= "\u11ff")


def _letters(text: str) -> Iterator[tuple[str, int, int]]:
    """Each folded character of `text` with the range of original characters that it comes from."""
    place = 0
    while place < len(text):
        hidden = MARKUP.match(text, place) if text[place] in "&<" else None
        end = hidden.end() if hidden else place + 1
        while not hidden and end < len(text) and not _begins(text[end]):
            end += 1
        for letter in fold(text[place:end]):
            yield letter, place, end
        place = end


def _tokens(text: str) -> list[_Token]:
    """Words of a text, in their normalised form, with where they stand in it.

    A letter of a script without case (ideographs, kana, ...) is a word of its own: so a run is found whether whoever
    normalised it wrote such letters apart or together.
    """
    if is_plain(text) and text.isprintable():
        return [(word[0], word.start(), word.end()) for word in _ASCII_WORD.finditer(text.lower())]
    tokens: list[_Token] = []
    open_word = False
    for letter, start, end in _letters(text):
        alone = unicodedata.category(letter) in ("Lo", "Lm")
        if not letter.isalnum():
            open_word = False
        elif open_word and not alone:
            tokens[-1] = (tokens[-1][0] + letter, tokens[-1][1], end)
        else:
            tokens.append((letter, start, end))
            open_word = not alone
    return tokens


def _find(words: Sequence[str], run: Sequence[str]) -> int | None:
    if not run:
        return None
    length = len(run)
    places = (place for place in range(len(words) - length + 1) if words[place] == run[0])
    return next((place for place in places if words[place : place + length] == run), None)


def _shingles(words: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(words[place:] for place in range(SHARED_WORDS)), strict=False))


def _ranges(tokens: Sequence[_Token], marks: Sequence[int]) -> list[Range]:
    """Join marked words of equal mark to ranges (start, end, mark) that rise and do not overlap."""
    ranges: list[Range] = []
    before = 0
    for (_, start, end), mark in zip(tokens, marks, strict=True):
        if mark and mark == before:
            ranges[-1] = (ranges[-1][0], end, mark)
        elif mark:
            start = max(start, ranges[-1][1]) if ranges else start  # one character may hold two words, like ½
            ranges.append((start, end, mark))
        before = mark
    return [found for found in ranges if found[0] < found[1]]
