"""Test items and passages inside training texts: in whatever form an item was written, every pair above the thresholds.

An item is its stem, its gold answer, its options and its passages. Options alone never make a pair; they are not read.

| kind | a training record overlaps with a test item when |
|---|---|
| stem | it holds so many letters of the stem, in a row or nearly so, that no other question is likely to |
| stem_answer | it holds less of the stem, or all of a stem that says little, and the gold answer |
| sibling | one of these, but numbers are others, or it is turned round by a "not" |
| passage | both share runs of words that together are long and say much: a patient's note, a report, half of a vignette |

What a word says is its weight: the binary logarithm of how rare it is (`Weights`). A stem is looked for by its pairs of
neighbouring words: every window of a record that holds pairs of `pair_share` of the stem's weight is judged by the
share of the stem's runs of five letters that stand in it, blanks left out. So a lost blank, a misread letter, a synonym
or another order of sentences cost a few letters, not the item. A passage is found by its runs of `run_words` words; a
run that many samples of one part of the train side hold is boilerplate, listed and left out. Nothing is hidden because
many test items share it: such a passage is reported with how many do, and the first of them by name.

There is no approximate index and hashes only propose: candidates are all that the definitions name. How many real
rewrites reach the thresholds is another matter: that is measured (`bench/proof_forms.py`), never proved.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.proof.evidence import LEVELS
from manifests.proof.ngrams import GramTable, Ids, Ints, Vocabulary, WordBatch, counted, ranges, window_hashes, word_list
from manifests.proof.policy import TextSettings

KINDS = LEVELS["near_text"]
REFERENCE = Path(__file__).parent / "common_words.txt"
UNIT = 16
"""Weights are counted in sixteenths of a bit, as integers: sums are the same in any order and on any machine."""
REFERENCE_TEXTS = 10_000
"""Texts that the counts of `common_words.txt` stand for; a smaller test side is weighed as if it had as many."""
LETTERS = 5
NEGATIONS = frozenset("not no except least false incorrect never without neither nor cannot wrong true correct".split())
NAMED = 25
"""Test items named with one training text for one passage or stem; `eval_df` says how many there are."""

_COMMON_SHARE = 50
"""A pair of words that more than one stem in so many has says nothing; below 25 stems it always may."""
_CHUNK, _STEP = 256, 128
"""Words of a text that are looked through at once for stems whose window is no longer than a step."""
_EXPANSION = 1 << 22
"""Entries of intermediate arrays made at once: 32 MB each."""
_ROUND = 1 << 20
"""Cells, chunks times stems, in memory at once: 8 MB, a fair share of a cache."""
_PASSAGE_GRAMS = 3
"""Runs that a passage needs at least, so that short ones are turned away early."""


@dataclass(frozen=True)
class EvalText:
    """What of a test item is looked for."""

    question: str
    """The stem; empty where there is none that means anything by itself."""
    answer: str
    """The gold answer."""
    passages: tuple[str, ...]
    """Texts of which a long part must not be found: the stem too, a note, a report. Options are none."""
    group: str = ""
    """Items of one group share a template: what more than half of them hold is no passage. Empty: no such group."""


class TextMatch(NamedTuple):
    """One pair and how it overlaps."""

    train: int
    """Position in the texts given to `scan`, over all batches."""
    eval: int
    """Position in the texts given to the index."""
    kind: str
    """One of `KINDS`."""
    score: float
    """Share of the stem's runs of letters found; passage: share of its words in shared runs. Four places."""
    words: int
    """Words of the stem in shared pairs; passage: of the longest shared run."""
    span: str | None
    """passage: the longest shared run."""
    eval_df: int
    """Test items that have the same stem; passage: the rarest n-gram of that run."""


@dataclass(frozen=True)
class TextScan:
    """What a part of the training texts shares with the test side."""

    matches: list[TextMatch]
    """Sorted by train, eval, kind in the order of `KINDS`."""
    boilerplate: dict[str, tuple[int, int]]
    """N-gram that so many of these texts hold that it makes no passage -> (test items, texts), sorted by n-gram."""
    counts: Mapping[str, int]
    """Matches by kind, and texts read."""


class NearTextIndex:
    """The test side, ready to be compared with any number of training texts."""

    def __init__(self, evals: Sequence[EvalText], settings: TextSettings) -> None:
        stems = [word_list(text.question) for text in evals]
        golds = [word_list(text.answer) for text in evals]
        passages = [[word_list(passage) for passage in text.passages] for text in evals]
        every = [*stems, *(words for of_item in passages for words in of_item)]
        self._vocabulary = Vocabulary(word for words in every for word in words)
        weights = Weights(self._vocabulary, every)
        self._stems = _Stems(self._vocabulary, weights, stems, golds, settings)
        self._passages = _Passages(self._vocabulary, weights, passages, [text.group for text in evals], settings)

    def scan(self, batches: Iterable[Sequence[str]]) -> TextScan:
        """Every pair of one part of the training texts with the test side. Give batches of 1 to 4 MB."""
        matches: list[TextMatch] = []
        seen = _Seen()
        texts = 0
        for records in batches:
            batch = self._vocabulary.read(records)
            matches += self._stems.scan(batch, records, texts)
            self._passages.look(batch, texts, seen)
            texts += len(records)
        found, boilerplate = self._passages.conclude(seen, texts)
        matches = sorted([*matches, *found], key=lambda match: (match.train, match.eval, KINDS.index(match.kind)))
        return TextScan(matches, boilerplate, Counter(match.kind for match in matches) + Counter(train_samples=texts))


# ---- weights


def bits(whole: int, part: int) -> int:
    """log2(whole / part) in units, rounded down; 0 where the part is no smaller. Integers: no rounding but that one."""
    return max(0, (whole**UNIT // part**UNIT).bit_length() - 1)


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
        distinct = {tuple(words) for words in texts if words}
        self._total = max(REFERENCE_TEXTS, len(distinct))
        ends = (np.zeros(1, np.int32), np.zeros(1, np.int32))
        padded = [ids for words in sorted(distinct) for ids in (vocabulary.ids(words), ends[0])]
        ids = np.concatenate([ends[0], *padded, ends[1]])
        surroundings = window_hashes(ids, 3)
        _, first = np.unique(surroundings, return_index=True)
        counts = np.bincount(ids[first + 1], minlength=len(vocabulary.words) + 1)
        self.by_id: Ints = np.zeros(len(vocabulary.words) + 1, np.int64)
        """(words + 1,) of each word of the vocabulary."""
        for number, word in enumerate(vocabulary.words, 1):
            self.by_id[number] = self._of(word, int(counts[number]))
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
        weight = bits(self._total, surroundings)
        if word in (known := reference_counts()):
            weight = min(weight, bits(REFERENCE_TEXTS, known[word]))
        return max(0, weight - UNIT)


# ---- stems


class _Stem(NamedTuple):
    """A stem that some test items have."""

    words: list[str]
    pairs: dict[tuple[str, str], int]  # neighbouring words -> weight, in the order of the stem
    pair_weight: int
    weight: int
    letters: frozenset[str]
    items: list[int]


class _Stems:
    """Every different stem once."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        weights: Weights,
        stems: Sequence[list[str]],
        golds: Sequence[list[str]],
        settings: TextSettings,
    ) -> None:
        self._settings, self._vocabulary, self._weights = settings, vocabulary, weights
        self._golds = golds
        items: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, words in enumerate(stems):
            if words:
                items[tuple(words)].append(number)
        texts = list(items)
        df = Counter(pair for words in texts for pair in set(zip(words, words[1:], strict=False)))
        usual = max(NAMED, len(texts) // _COMMON_SHARE)
        self._stems = []
        for words in texts:
            pairs = _pair_weights(words, weights, df, usual)
            letters = frozenset(letter_runs(words))
            self._stems.append(
                _Stem(list(words), pairs, sum(pairs.values()), weights.sum(words), letters, items[words])
            )
        bounds = np.cumsum([0, *map(len, texts)])
        self._table = GramTable(vocabulary.ids(word for words in texts for word in words), bounds, 2)
        # A stem of one word has no pair: the word itself proposes it.
        self._alone: dict[int, list[int]] = defaultdict(list)
        for number, stem in enumerate(self._stems):
            if len(stem.words) == 1:
                self._alone[vocabulary.id(stem.words[0])].append(number)
        self._postings = [_Postings(self._table, self._stems, vocabulary, long) for long in (False, True)]

    def scan(self, batch: WordBatch, records: Sequence[str], first: int) -> Iterator[TextMatch]:
        """Matches of a batch of texts, numbered from `first`."""
        by_text: dict[int, list[int]] = defaultdict(list)
        for text, stem in sorted(self._candidates(batch)):
            by_text[text].append(stem)
        for text, numbers in by_text.items():
            record = _Record(word_list(records[text]))
            for number in numbers:
                yield from self._judged(self._stems[number], record, first + text)

    def _candidates(self, batch: WordBatch) -> set[tuple[int, int]]:
        places, grams, texts = self._table.find(batch.ids, batch.bounds)
        share, found = self._settings.pair_share, set[tuple[int, int]]()
        met, stems = self._postings[1].met(texts, grams, len(batch.bounds) - 1, share)
        found.update(zip(met.tolist(), stems.tolist(), strict=True))
        sizes = np.diff(batch.bounds)
        chunks = np.maximum(1, -(-(sizes - _CHUNK) // _STEP) + 1)
        ends = np.cumsum(chunks)
        offsets = places - batch.bounds[texts]
        own = np.minimum(offsets // _STEP, chunks[texts] - 1)
        before = (own > 0) & (offsets + 1 < (own - 1) * _STEP + _CHUNK)
        chunk = np.concatenate([ends[texts] - chunks[texts] + own, (ends[texts] - chunks[texts] + own - 1)[before]])
        met, stems = self._postings[0].met(chunk, np.concatenate([grams, grams[before]]), int(chunks.sum()), share)
        found.update(zip(np.searchsorted(ends, met, side="right").tolist(), stems.tolist(), strict=True))
        if self._alone:
            spots = np.flatnonzero(np.isin(batch.ids, list(self._alone)))
            owners = np.searchsorted(batch.bounds, spots, side="right") - 1
            for text, word in set(zip(owners.tolist(), batch.ids[spots].tolist(), strict=True)):
                found.update((text, stem) for stem in self._alone[word])
        return found

    def _judged(self, stem: _Stem, record: _Record, train: int) -> Iterator[TextMatch]:
        """At most `NAMED` items of a stem that a record overlaps with."""
        limits = self._settings
        window = _window(stem, record)
        if window is None or window.weight < limits.pair_share * stem.pair_weight:
            return
        shared = len(stem.letters & letter_runs(window.words))
        score = shared / len(stem.letters)
        alone = score >= limits.stem_letters and score * stem.weight >= limits.stem_bits * UNIT
        spaced = f" {' '.join(stem.words)} "
        verbatim = spaced in record.spaced
        kinds: dict[tuple[str, ...], str | None] = {}
        named = 0
        for item in stem.items:
            gold = self._golds[item]
            if tuple(gold) not in kinds:
                kinds[tuple(gold)] = "stem" if alone else None
                if not alone and gold and record.answers(gold, stem.words):
                    known = self._weights.sum(gold)
                    near = score >= limits.answer_letters and score * stem.weight + known >= limits.answer_bits * UNIT
                    told = stem.weight + known >= limits.verbatim_bits * UNIT or f"{spaced}{' '.join(gold)} " in record.spaced
                    if near or (verbatim and told):
                        kinds[tuple(gold)] = "stem_answer"
            kind = kinds[tuple(gold)]
            if kind is None:
                continue
            if not verbatim and is_sibling(stem.words, window.words):
                kind = "sibling"
            covered = _covered(stem.words, window.words)
            yield TextMatch(train, item, kind, round(score, 4), covered, None, len(stem.items))
            named += 1
            if named == NAMED:
                return


class _Postings:
    """Which stems have a pair of words, and how much it weighs there; of short stems or of long ones."""

    def __init__(self, table: GramTable, stems: Sequence[_Stem], vocabulary: Vocabulary, long: bool) -> None:
        gram_of = {
            (int(table.ids[place]), int(table.ids[place + 1])): gram for gram, place in enumerate(table.first.tolist())
        }
        rows = [
            (gram_of[vocabulary.id(one), vocabulary.id(other)], number, weight)
            for number, stem in enumerate(stems)
            if (window_words(len(stem.words)) > _STEP) == long
            for (one, other), weight in stem.pairs.items()
        ]
        grams, owners, weights = np.array(sorted(rows), np.int64).reshape(-1, 3).T
        self._numbers = np.unique(owners)
        self._owners, self._weights = np.searchsorted(self._numbers, owners), weights
        self._bounds = np.searchsorted(grams, np.arange(table.count + 1))
        self._whole = np.array([stems[number].pair_weight for number in self._numbers], np.float64)

    def met(self, groups: Ints, grams: Ints, count: int, share: float) -> tuple[Ints, Ints]:
        """Groups of places and stems of which they hold pairs of at least that share of the weight.

        `groups` says of each place which it is in, 0 to `count` - 1, `grams` which pair stands there.
        """
        size = len(self._bounds)
        keys, _ = counted(groups * size + grams)
        groups, grams = keys // size, keys % size
        counts = self._bounds[grams + 1] - self._bounds[grams]
        groups, grams, counts = groups[counts > 0], grams[counts > 0], counts[counts > 0]
        stems, found = max(1, len(self._numbers)), [np.empty((2, 0), np.int64)]
        per_round = max(1, _ROUND // stems)
        for low in range(0, count, per_round):
            start, stop = np.searchsorted(groups, (low, low + per_round))
            rows, cells = min(per_round, count - low), np.empty(0)
            for part in _slices(counts[start:stop], _EXPANSION):
                here = slice(start + part.start, start + part.stop)
                spots = ranges(self._bounds[grams[here]], counts[here])
                cell = np.repeat((groups[here] - low) * stems, counts[here]) + self._owners[spots]
                sums = np.bincount(cell, self._weights[spots], minlength=rows * stems)
                cells = sums if not len(cells) else cells + sums
            if len(cells):
                group, stem = np.nonzero(cells.reshape(rows, stems) >= np.maximum(share * self._whole, 1))
                found.append(np.stack([group + low, self._numbers[stem]]))
        group, stem = np.concatenate(found, axis=1)
        return group, stem


def _slices(counts: Ints, limit: int) -> Iterator[slice]:
    """Consecutive rows of at most `limit` in sum of their counts, or one row that alone has more."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield slice(start, stop)
        start = stop


def _pair_weights(
    words: Sequence[str], weights: Weights, df: Mapping[tuple[str, str], int], usual: int
) -> dict[tuple[str, str], int]:
    """What each different pair of neighbouring words weighs: its words, each of which is in two pairs.

    Pairs that are usual say nothing. Of a stem that has no others the rarest one proposes it, with weight 1.
    """
    last = len(words) - 2
    pairs: dict[tuple[str, str], int] = {}
    for place, pair in enumerate(zip(words, words[1:], strict=False)):
        weight = weights.of(pair[0]) * (1 + (place == 0)) + weights.of(pair[1]) * (1 + (place == last))
        if df[pair] <= usual and weight:
            pairs.setdefault(pair, weight)
    if not pairs and len(words) > 1:
        pairs[min(zip(words, words[1:], strict=False), key=lambda pair: (df[pair], pair))] = 1
    return pairs


def window_words(words: int) -> int:
    """How many words of a record are looked at together for a stem of so many."""
    return 2 * words + 16


def letter_runs(words: Sequence[str]) -> set[str]:
    """Runs of `LETTERS` letters of some words, blanks left out; of less than that, all of it."""
    text = "".join(words)
    return {text[place : place + LETTERS] for place in range(max(1, len(text) - LETTERS + 1))}


class _Record:
    """Words of a training text, and what is asked of them for several stems."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.spaced = f" {' '.join(words)} "
        self.pairs: dict[tuple[str, str], list[int]] = defaultdict(list)
        for place, pair in enumerate(zip(words, words[1:], strict=False)):
            self.pairs[pair].append(place)

    def answers(self, gold: Sequence[str], stem: Sequence[str]) -> bool:
        """Whether the gold answer stands here more often than a copy of the stem brings it along."""
        spaced = f" {' '.join(gold)} "
        return self.spaced.count(spaced) > f" {' '.join(stem)} ".count(spaced)


class _Window(NamedTuple):
    weight: int  # of the different pairs in it
    words: list[str]


def _window(stem: _Stem, record: _Record) -> _Window | None:
    """The words around the place of a record that has most of a stem's pairs; the first of several such."""
    if len(stem.words) == 1:
        return _Window(0, stem.words)
    hits = sorted((place, pair) for pair in stem.pairs for place in record.pairs.get(pair, ()))
    size, best, end, start, sum_ = window_words(len(stem.words)), 0, 0, 0, 0
    for place, pair in hits:
        sum_ += stem.pairs[pair]
        while hits[start][0] < place + 2 - size:
            sum_ -= stem.pairs[hits[start][1]]
            start += 1
        if sum_ > best:
            best, end = sum_, place + 2
    if not best:
        return None
    here = {pair for place, pair in hits if end - size <= place <= end - 2}
    return _Window(sum(stem.pairs[pair] for pair in here), record.words[max(0, end - size) : end + 8])


def _covered(stem: Sequence[str], window: Sequence[str]) -> int:
    """Words of a stem that stand in pairs which a window has."""
    pairs = set(zip(window, window[1:], strict=False))
    met = [pair in pairs for pair in zip(stem, stem[1:], strict=False)]
    return sum(before or after for before, after in zip([False, *met], [*met, False], strict=True))


def is_sibling(stem: Sequence[str], window: Sequence[str]) -> bool:
    """Whether a window has the stem with another number in the place of one, or with a negation put in or taken out."""
    pairs = set(zip(window, window[1:], strict=False))
    between: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one, middle, other in zip(window, window[1:], window[2:], strict=False):
        between[one, other].add(middle)
    for before, word, after in zip(["", *stem], stem, [*stem[1:], ""], strict=False):
        if word.isdigit() or word in NEGATIONS:
            if (before, word) in pairs or (word, after) in pairs:
                continue
            others = between.get((before, after), set())
            if any(other.isdigit() if word.isdigit() else True for other in others):
                return True
            if word in NEGATIONS and (before, after) in pairs:
                return True
        elif after and (word, after) not in pairs and between.get((word, after), set()) & NEGATIONS:
            return True
    return False


# ---- passages


class _Found(NamedTuple):
    text: int
    grams: Ints  # different ones, ascending
    ids: Ids  # of the text's words


class _Seen(list[_Found]):
    """What the texts of one part hold of the test side's runs, until all of the part is read."""


class _Passages:
    """Runs of n words that say enough, in every different passage."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        weights: Weights,
        passages: Sequence[Sequence[list[str]]],
        groups: Sequence[str],
        settings: TextSettings,
    ) -> None:
        self._settings, self._vocabulary, self._weights, self._n = settings, vocabulary, weights, settings.run_words
        owners: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, of_item in enumerate(passages):
            for words in of_item:
                if len(words) >= self._n and number not in owners[tuple(words)]:
                    owners[tuple(words)].append(number)
        self._owners = list(owners.values())
        self._bounds: Ints = np.cumsum([0, *map(len, owners)])
        self._ids = vocabulary.ids(word for words in owners for word in words)
        self._table = table = GramTable(self._ids, self._bounds, self._n)
        sums = np.cumsum(np.append(0, weights.by_id[self._ids]))
        says = sums[table.first + self._n] - sums[table.first] >= settings.run_bits * UNIT
        holders = [np.unique(one) for one in self._holders()]
        self.df: Ints = np.array([len(one) for one in holders], np.int64)
        """(G,) test items that have each n-gram."""
        for group in {*groups} - {""}:
            mine = np.array([one == group for one in groups])
            if mine.sum() > 2:
                says &= np.array([2 * mine[one].sum() <= mine.sum() for one in holders], bool)
        self._says = says
        # n-grams that stand in the same passages are one class: a note's five hundred are looked up as one.
        classes: dict[bytes, int] = {}
        self._classes = np.zeros(table.count, np.int64)
        for gram in np.flatnonzero(says).tolist():
            key = table.texts[table.text_bounds[gram] : table.text_bounds[gram + 1]].tobytes()
            self._classes[gram] = classes.setdefault(key, len(classes))
        self._of_class = [np.frombuffer(key, table.texts.dtype) for key in classes]

    def _holders(self) -> Iterator[Ints]:
        """Items that have each n-gram."""
        table = self._table
        for gram in range(table.count):
            texts = table.texts[table.text_bounds[gram] : table.text_bounds[gram + 1]]
            yield np.array([item for text in texts.tolist() for item in self._owners[text]])

    def look(self, batch: WordBatch, first: int, seen: _Seen) -> None:
        """Remember which runs the texts of a batch hold."""
        _, grams, texts = self._table.find(batch.ids, batch.bounds)
        kept = self._says[grams]
        keys, _ = counted(texts[kept] * (self._table.count + 1) + grams[kept])
        texts, grams = keys // (self._table.count + 1), keys % (self._table.count + 1)
        for text, start, stop in zip(*_groups(texts), strict=True):
            if stop - start >= _PASSAGE_GRAMS:
                ids = batch.ids[batch.bounds[text] : batch.bounds[text + 1]].copy()
                seen.append(_Found(first + text, grams[start:stop].copy(), ids))

    def conclude(self, seen: _Seen, texts: int) -> tuple[list[TextMatch], dict[str, tuple[int, int]]]:
        """Matches of a part, and its boilerplate."""
        limits = self._settings
        hits = np.zeros(self._table.count, np.int64)
        for one in seen:
            hits[one.grams] += 1
        usual = hits > max(limits.boilerplate_samples, limits.boilerplate_share * texts)
        matches = []
        for text, grams, ids in seen:
            mine = grams[~usual[grams]]
            if len(mine) >= _PASSAGE_GRAMS:
                matches += self._judged(text, mine, ids)
        listed = ((self._text(self._table.first[gram], self._n), gram) for gram in np.flatnonzero(usual))
        return matches, {text: (int(self.df[gram]), int(hits[gram])) for text, gram in sorted(listed)}

    def _text(self, start: int, words: int) -> str:
        return " ".join(self._vocabulary.words[number - 1] for number in self._ids[start : start + words])

    def _judged(self, text: int, grams: Ints, ids: Ids) -> Iterator[TextMatch]:
        classes, counts = counted(self._classes[grams])
        shared: Counter[int] = Counter()
        for one, count in zip(classes.tolist(), counts.tolist(), strict=True):
            for passage in self._of_class[one].tolist():
                shared[passage] += count
        found = np.zeros(self._table.count + 1, bool)
        found[grams] = True
        record, named = ids.tobytes(), set[int]()
        for passage, count in sorted(shared.items(), key=lambda one: (-one[1], one[0])):
            if count < _PASSAGE_GRAMS or len(named) >= NAMED:
                break
            start, stop = int(self._bounds[passage]), int(self._bounds[passage + 1])
            begins = np.flatnonzero(found[self._table.at[start:stop]])
            covered = np.unique((begins[:, None] + np.arange(self._n)).ravel())
            words = np.unique(self._ids[start + covered])
            if len(covered) < self._settings.passage_words:
                continue
            if int(self._weights.by_id[words].sum()) < self._settings.passage_bits * UNIT:
                continue
            place, length = self._longest(start, begins, record)
            df = int(self.df[self._table.at[place : place + length - self._n + 1]].min())
            span = self._text(place, length)
            share = round(len(covered) / (stop - start), 4)
            for item in self._owners[passage]:
                if item not in named and len(named) < NAMED:
                    named.add(item)
                    yield TextMatch(text, item, "passage", share, length, span, df)

    def _longest(self, start: int, begins: Ints, record: bytes) -> tuple[int, int]:
        """Place and length of the longest run of a passage, from one of those n-grams on, that the record holds."""
        best, reach = (start, 0), 0
        for begin in (start + begins).tolist():
            length = max(self._n, reach - begin)
            while begin + length < len(self._ids) and _holds(record, self._ids[begin : begin + length + 1].tobytes()):
                if begin + length >= self._bounds[np.searchsorted(self._bounds, begin, side="right")]:
                    break
                length += 1
            reach = begin + length
            if length > best[1]:
                best = begin, length
        return best


def _holds(record: bytes, part: bytes) -> bool:
    """Whether ids (four bytes each) stand in a row in a record."""
    place = record.find(part)
    while place >= 0 and place % 4:
        place = record.find(part, place + 1)
    return place >= 0


def _groups(values: Ints) -> tuple[Collection[int], Collection[int], Collection[int]]:
    """Each of the values, which ascend, and where its rows begin and end."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return values[starts].tolist(), starts.tolist(), np.append(starts[1:], len(values)).tolist()
