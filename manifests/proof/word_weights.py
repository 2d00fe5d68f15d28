"""How much a word says: the binary logarithm of how rare it is, in exam questions and on the test side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from manifests.proof.ngrams import (
    Ints,
    Vocabulary,
    window_hashes,
)

REFERENCE = Path(__file__).parent / "common_words.txt"
UNIT = 16
"""Weights are counted in sixteenths of a bit, as integers: sums are the same in any order and on any machine."""
REFERENCE_TEXTS = 10_000
"""Texts that the counts of `common_words.txt` stand for; a smaller test side is weighed as if it had as many."""


def information(whole: int, part: int) -> int:
    """log2(whole / part) in units, rounded down; 0 where the part is no smaller. Integers: no rounding but that one."""
    quotient: int = whole**UNIT // part**UNIT
    return max(0, quotient.bit_length() - 1)


@cache
def reference_counts() -> dict[str, int]:
    """How many of 10,000 medical exam questions have each of the most common words."""
    lines = REFERENCE.read_text(encoding="utf-8").splitlines()
    return {word: int(count) for word, count in (line.split() for line in lines if not line.startswith("#"))}


class Weights:
    """How much each word says: the rarer, the more; numbers and single letters nothing.

    How common a word is follows from exam questions at large and from the different surroundings (a word on either
    side) that it has in the test side: a word that stands in one note only is rare, however many items have the note.
    One bit is taken off, so that what is in half of the texts says nothing.
    """

    def __init__(self, vocabulary: Vocabulary, texts: Sequence[Sequence[str]]) -> None:
        """`texts`: all different ones of the test side."""
        self.total = max(REFERENCE_TEXTS, len(texts))
        ids = np.array([0, *(vocabulary.id(word) for words in texts for word in (*words, ""))], np.int32)
        surroundings = window_hashes(ids, 3)
        _, first = np.unique(surroundings, return_index=True)
        counts = np.bincount(ids[first + 1], minlength=len(vocabulary.words) + 1)
        self.by_id: Ints = np.zeros(len(vocabulary.words) + 1, np.int64)
        """(words + 1,) of each word of the vocabulary."""
        for number, word in enumerate(vocabulary.words, 1):
            self.by_id[number] = self._of(word, max(1, int(counts[number])))
        self._ids = vocabulary.id

    def of(self, word: str) -> int:
        """Weight of any word; one that the test side's stems and passages lack is as rare as can be."""
        number = self._ids(word)
        return int(self.by_id[number]) if number else self._of(word, 1)

    def sum(self, words: Iterable[str]) -> int:
        """Weight of the different words among these."""
        return sum(map(self.of, set(words)))

    def _of(self, word: str, surroundings: int) -> int:
        if word.isdigit() or (len(word) == 1 and word.isascii()):
            return 0
        weight = information(self.total, surroundings)
        if word in (known := reference_counts()):
            weight = min(weight, information(REFERENCE_TEXTS, known[word]))
        return max(0, weight - UNIT)
