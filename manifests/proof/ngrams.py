"""Words and n-grams of many texts at once, as numbers.

Words are those of `medgpt.text.normalise` with one addition: every CJK ideograph and kana is a word by itself, since
Chinese and Japanese put no spaces between words. `word_list` is the definition; `Vocabulary.read` gives the same words
of a whole batch as integers, without any Python code per word: code points become 64-bit values by one table, words
become hashes by prefix sums modulo 2**64, and hashes become the ids of the words that the test side knows. `GramTable`
finds, in such ids, every n-gram of the test side, by comparing ids, not hashes.

An id is wrong only where a word that the test side lacks has the 64-bit hash of one that it has. Such a word can
propose a pair and cannot hide one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

from medgpt.text import fold, is_plain, normalise

Ints = npt.NDArray[np.int64]
Ids = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]

CHUNK_CHARACTERS = 1 << 17
"""Characters that one round of array operations takes: its arrays of 1 MB stay in the caches."""

_CODE_POINTS = 0x110000
_CJK_RANGES = (
    (0x3005, 0x3007), (0x3041, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x1AFF0, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip
"""Blocks of Unicode 16: iteration marks, hiragana, katakana, ideographs with extensions A to H, archaic kana."""

_CJK = re.compile("[" + "".join(f"{chr(low)}-{chr(high)}" for low, high in _CJK_RANGES) + "]")
_BREAK, _LETTER, _WHOLE_WORD, _CONTROL = range(4)
_END = "\x1c"
"""Stands between texts: white space that `fold` leaves alone."""

_BYTE_BASE, _WORD_BASE = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F  # odd, so invertible modulo 2**64
_SALTS = 8


def word_list(text: str) -> list[str]:
    """Words of one text, in order; the definition that the arrays follow."""
    words = normalise(text)
    return (words if words.isascii() else _CJK.sub(r" \g<0> ", words)).split()


def mixed(values: Hashes) -> Hashes:
    """Each 64-bit value scattered, one to one (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def ranges(starts: Ints, counts: Ints) -> Ints:
    """`starts[0]`, `starts[0] + 1`, ... (`counts[0]` of them), then those of `starts[1]`, and so on."""
    firsts: Ints = np.repeat(starts - (np.cumsum(counts) - counts), counts)
    return firsts + np.arange(len(firsts))


def counted(values: Ints) -> tuple[Ints, Ints]:
    """Different values, ascending, and how often each occurs; several times faster than `numpy.unique` on integers."""
    values = np.sort(values)
    first = np.flatnonzero(np.append(len(values) > 0, values[1:] != values[:-1]))
    return values[first], np.diff(first, append=len(values))


def window_hashes(ids: Ids, n: int, salt: int = 0) -> Hashes:
    """Hash of `ids[i : i + n]` for every i with that many ids left; the square-and-multiply way, log2(n) rounds."""
    if len(ids) < n:
        return np.empty(0, np.uint64)
    base = _WORD_BASE + 2 * salt
    block, size = ids.astype(np.uint64) * np.uint64(_BYTE_BASE), 1
    result, done = np.zeros(len(ids), np.uint64), 0
    while True:
        factor = np.uint64(pow(base, size, 2**64))
        if n & size:  # `size` more words behind the `done` ones
            result = result[: len(block) - done] * factor + block[done:]
            done += size
        if done == n:
            return mixed(result)
        block = block[:-size] * factor + block[size:]
        size *= 2


@dataclass(frozen=True)
class WordBatch:
    """Words of T texts, one after the other: W of them."""

    ids: Ids
    """(W,) position of the word in the vocabulary, counted from 1; 0 for a word it lacks."""
    bounds: Ints
    """(T + 1,) words `bounds[i]` to `bounds[i + 1]` are those of text i."""


class Vocabulary:
    """The words of the test side, numbered from 1 in the order in which they are first given."""

    def __init__(self, words: Iterable[str]) -> None:
        self.words: list[str] = list(dict.fromkeys(words))
        """Word `i + 1`."""
        self._ids = {word: number for number, word in enumerate(self.words, 1)}
        for salt in range(_SALTS):
            hashes = np.concatenate([np.zeros(1, np.uint64), _hashes_of(self.words, salt)])
            if len(np.unique(hashes)) == len(hashes):
                break
        else:
            raise ValueError(f"{len(self.words)} words of the test side collide under each of {_SALTS} hashes")
        self._salt, self._hashes = salt, hashes
        # A table of eight slots a word; words of one slot are chained.
        self._shift = np.uint64(64 - max(10, (8 * len(hashes)).bit_length()))
        slots = (hashes >> self._shift).astype(np.int64)
        order = np.argsort(slots[1:], kind="stable") + 1
        self._first = np.zeros(1 << (64 - int(self._shift)), np.int32)
        self._first[slots[order[::-1]]] = order[::-1]
        self._next = np.zeros(len(hashes), np.int32)
        chained = slots[order[1:]] == slots[order[:-1]]
        self._next[order[:-1][chained]] = order[1:][chained]

    def id(self, word: str) -> int:
        """Id of a word; 0 for one that is not in the vocabulary."""
        return self._ids.get(word, 0)

    def ids(self, words: Iterable[str]) -> Ids:
        """Ids of words, each of which is in the vocabulary."""
        return np.fromiter((self._ids[word] for word in words), np.int32)

    def read(self, texts: Sequence[str]) -> WordBatch:
        """Words of all texts as ids."""
        hashes, bounds, words = [np.empty(0, np.uint64)], [np.zeros(1, np.int64)], 0
        for part in _parts(texts):
            found = _words_of_texts(part, self._salt)
            hashes.append(found.hashes)
            bounds.append(found.text_ends + words)
            words += len(found.hashes)
        return WordBatch(self._look_up(np.concatenate(hashes)), np.concatenate(bounds))

    def _look_up(self, hashes: Hashes) -> Ids:
        ids = self._first.take((hashes >> self._shift).astype(np.int64))
        rows = np.flatnonzero(self._hashes.take(ids) != hashes)
        while len(rows):
            ids[rows] = self._next[ids[rows]]  # the chain of 0, no word, leads to 0
            rows = rows[(self._hashes[ids[rows]] != hashes[rows]) & (ids[rows] != 0)]
        return ids


class GramTable:
    """Every n-gram of the test texts: which there are, in how many texts each occurs, and where."""

    def __init__(self, ids: Ids, bounds: Ints, n: int) -> None:
        self.n = n
        texts = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
        places = np.flatnonzero(texts[n - 1 :] == texts[: max(0, len(texts) - n + 1)])
        for salt in range(_SALTS):
            hashes = window_hashes(ids, n, salt)[places]
            self._known, first, gram = np.unique(hashes, return_index=True, return_inverse=True)
            if all(np.array_equal(ids[places + k], ids[places[first[gram]] + k]) for k in range(n)):
                break
        else:
            raise ValueError(f"{n}-grams of the test side collide under each of {_SALTS} hashes")
        self._salt = salt
        self.ids = ids
        """Words of the test side, as given."""
        self.count = len(self._known)
        """G: different n-grams."""
        self.first = places[first]
        """(G,) where each n-gram is first found in the test side's words."""
        self.at = np.full(len(ids), self.count, np.int32)
        """(words of the test side,) which n-gram starts there; G where a text has fewer than n words left."""
        self.at[places] = gram
        pairs, _ = counted(gram * np.int64(len(bounds)) + texts[places])
        self.texts = pairs % len(bounds)
        """Texts that have the n-gram, each once, grouped by n-gram, ascending in each group."""
        self.text_bounds = np.searchsorted(pairs // len(bounds), np.arange(self.count + 1))
        self.df = np.diff(self.text_bounds)
        """(G,) in how many texts each n-gram occurs."""
        self._shift, self._filter = _make_filter(self._known)

    def find(self, batch_ids: Ids, bounds: Ints) -> tuple[Ints, Ints, Ints]:
        """Every place in `batch_ids` where one of the n-grams starts, which n-gram, and in which text.

        n-grams do not cross the ends of texts. Places ascend.
        """
        hashes = window_hashes(batch_ids, self.n, self._salt)
        entry = self._filter.take((hashes >> self._shift).astype(np.int64))
        # One byte a slot turns away nearly all n-grams that are not there before the binary search sees them.
        places = np.flatnonzero((entry == _mark(hashes)) | (entry == _SHARED))
        grams = np.minimum(np.searchsorted(self._known, hashes[places]), max(0, self.count - 1))
        texts = np.searchsorted(bounds, places, side="right") - 1
        keep = places + self.n <= bounds[texts + 1]
        places, grams, texts = places[keep], grams[keep], texts[keep]
        for k in range(self.n):
            same = batch_ids[places + k] == self.ids[self.first[grams] + k]
            if not same.all():
                places, grams, texts = places[same], grams[same], texts[same]
        return places, grams, texts


_EMPTY, _SHARED = np.uint8(0), np.uint8(255)


def _mark(hashes: Hashes) -> npt.NDArray[np.uint8]:
    """A byte from 1 to 254 out of bits that the slot does not use."""
    return ((hashes & np.uint64(0xFFFFFFFF)) % np.uint64(254) + np.uint64(1)).astype(np.uint8)


def _make_filter(known: Hashes) -> tuple[np.uint64, npt.NDArray[np.uint8]]:
    """Shift that gives a hash's slot, and per slot: nothing, the mark of its one hash, or that several share it."""
    bits = min(24, max(10, (8 * len(known)).bit_length()))  # 16 MB at most: it should stay in the last cache
    shift = np.uint64(64 - bits)
    slots = (known >> shift).astype(np.int64)
    table = np.full(1 << bits, _EMPTY)
    table[slots] = _mark(known)
    table[slots[1:][slots[1:] == slots[:-1]]] = _SHARED  # `known` ascends, so equal slots are neighbours
    return shift, table


@dataclass(frozen=True)
class _Tables:
    """What each code point is; (0x110000,) each."""

    values: Hashes  # a scattered number for the letter, small if it is ASCII; 0 for what breaks words
    kinds: npt.NDArray[np.uint8]


@cache
def _tables(salt: int) -> _Tables:
    everything = "".join(map(chr, range(_CODE_POINTS)))
    kinds = np.zeros(_CODE_POINTS, np.uint8)
    for run in re.finditer(r"[^\W_]+", everything):  # what str.isalnum() says, a run at a time
        kinds[run.start() : run.end()] = _LETTER
    for low, high in _CJK_RANGES:
        kinds[low : high + 1] *= _WHOLE_WORD
    kinds[[code for code in range(128) if fold(chr(code)) == ""]] = _CONTROL
    folded = np.arange(_CODE_POINTS, dtype=np.uint64)
    folded[ord("A") : ord("Z") + 1] += np.uint64(32)
    values = mixed(folded + np.uint64((salt + 1) << 32))
    values[kinds == _BREAK] = 0
    return _Tables(values, kinds)


@cache
def _powers(base: int, size: int) -> Hashes:
    """`base` ** 0 to `base` ** (size - 1) modulo 2**64."""
    return np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(size - 1, base, np.uint64)]))


def _parts(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    """Consecutive texts of about `CHUNK_CHARACTERS` together, or one longer text."""
    start = size = 0
    for number, text in enumerate(texts):
        if size and size + len(text) > CHUNK_CHARACTERS:
            yield texts[start:number]
            start, size = number, 0
        size += len(text) + 1
    if start < len(texts):
        yield texts[start:]


@dataclass(frozen=True)
class _Words:
    hashes: Hashes
    text_ends: Ints  # number of words up to the end of each text


def _words_of_texts(texts: Sequence[str], salt: int) -> _Words:
    joined = _END.join(["", *texts, ""])
    if joined.count(_END) != len(texts) + 1:
        joined = _END.join(["", *(text.replace(_END, " ") for text in texts), ""])
    if not is_plain(joined):
        joined = fold(joined)
    codes = _codes(joined)
    kinds = _tables(salt).kinds.take(codes)
    if kinds.max() == _CONTROL:
        codes = _codes(fold(joined))
        kinds = _tables(salt).kinds.take(codes)
    return _words_of_codes(codes, kinds, salt)


def _words_of_codes(
    codes: npt.NDArray[np.uint8] | npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8], salt: int
) -> _Words:
    """Words of folded texts, each with an `_END` before and behind it."""
    if kinds.max() <= _LETTER:
        edges = np.flatnonzero(kinds[1:] != kinds[:-1]) + 1
        starts, ends = edges[0::2], edges[1::2]
    else:
        inside = (kinds[1:] == _LETTER) & (kinds[:-1] == _LETTER)  # between two letters of one word
        starts = np.flatnonzero((kinds[1:] != _BREAK) & ~inside) + 1
        ends = np.flatnonzero((kinds[:-1] != _BREAK) & ~inside) + 1
    sums = _tables(salt).values.take(codes)
    size = 1 << len(sums).bit_length()
    sums *= _powers(_BYTE_BASE, size)[: len(sums)]
    np.cumsum(sums, out=sums)
    hashes = mixed((sums[ends - 1] - sums[starts - 1]) * _powers(pow(_BYTE_BASE, -1, 2**64), size)[starts])
    hashes[hashes == 0] = 1  # 0 stands for no word
    return _Words(hashes, np.searchsorted(starts, np.flatnonzero(codes == ord(_END))[1:]))


def _codes(text: str) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint32]:
    if text.isascii():
        return np.frombuffer(text.encode(), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _hashes_of(words: Sequence[str], salt: int) -> Hashes:
    """Hashes of single words. They are not normalised again: Unicode does not promise that this changes nothing."""
    found = [np.empty(0, np.uint64)]
    for part in _parts(words):
        codes = _codes(_END.join(["", *part, ""]))
        found.append(_words_of_codes(codes, _tables(salt).kinds.take(codes), salt).hashes)
    return np.concatenate(found)
