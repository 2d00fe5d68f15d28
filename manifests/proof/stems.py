"""Stems of test items in training texts, with their answers or without (`near_text` tells the rules)."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property, lru_cache
from itertools import accumulate, groupby, pairwise
from typing import NamedTuple

import numpy as np

from manifests.proof.ngrams import (
    Flags,
    GramTable,
    Ints,
    Vocabulary,
    WordBatch,
    counted,
    ranges,
    word_list,
)
from manifests.proof.policy import TextSettings
from manifests.proof.text_pairs import NAMED, TextMatch
from manifests.proof.word_weights import UNIT, Weights, information

LETTERS = 5
NEGATIONS = frozenset("not no except least false incorrect never without neither nor cannot wrong true correct".split())
ANSWER_WORDS = 64
"""How far from what is left of a stem its answer may stand, unless `NEARLY_ALL` of the stem is there."""
BESIDE_WORDS = 12
"""An answer no farther than this belongs to half of a stem; a farther one, or one with misread letters, to
`FAR_SHARE` of it."""
NEXT_WORDS = 2
"""The same where only what many stems have is left of the stem, "Which of the following is true": next to it."""
FAR_SHARE, NEARLY_ALL = 0.6, 0.8
"""Shares of a stem's runs of letters; the first as the mean of the plain and the weighed share."""
OWN_SHARE = 0.45
"""Of the runs of letters between the first and the last pair of a stem so many are the stem's: prose about its subject
has other words between them."""
STATED_WORDS, REST_WORDS = 6, 25
"""An answer to part of a stem stands for itself, with no more than six words around it up to the next mark or line; or
the record has no more than 25 words beside the item. In prose it stands inside sentences."""
SAYS_BITS = 6
"""What is found of a stem must say so much, or only an answer next to it counts; a whole one that says less, "The most
likely diagnosis", must stand for itself."""
STEM_WORDS, STEM_PLAIN = 5, 0.8
"""A stem without its answer needs so many words and this plain share, a term of its subject being no question ..."""
LONG_STEM_BITS, LONG_STEM_PLAIN = 60, 0.5
"""... or, where what is found says so much, this one."""
PROSE_TIMES = 2
"""What is no verbatim stem must say so many times `stem_bits`, if the record has more than `REST_WORDS` beside it."""
GOLD_LETTERS = 6
"""A shorter answer must stand there as words of its own."""
GOLD_RUN, GOLD_SHARE, GOLD_REACH = 3, 0.65, 6
"""An answer with misread letters: this share of its different runs of three letters stands beside the stem, in twice
as many words and six."""
ROW_WORDS, ROW_SHARE = 4, 0.45
"""Rows of so many words of a stem, and this share of its words in them, are no coincidence."""
ROW_LETTERS = 0.4
"""Share of its runs of letters that must be there, too."""
USUAL, USUAL_SHARE = 25, 200
"""A pair of words that more stems than 25, and than one in 200, have says nothing."""
_CHUNK, _STEP = 256, 128
"""Words of a text that are looked through at once for stems whose window is no longer than a step."""
_EXPANSION = 1 << 22
"""Entries of intermediate arrays made at once: 32 MB each."""
STATEMENT_ENDS = re.compile(
    r"""[\n\r\t|"\u201c\u201d{}\[\]\u3002\uff1a\uff1b\uff1f\uff01]|[.!?;:](?=\s|$)|->|=>|\u2192|\*\*|\\[nrt"]"""
    r"|</?(?:br|p|li|td|tr|div)\b[^>]*>"
)
"""Where a statement ends: a mark, a line, a cell, a field; their like escaped in JSON, and in HTML."""
_LONGEST = 1 << 62


class _Stem(NamedTuple):
    """A stem that some test items have, as a record is judged by it."""

    words: list[str]
    pairs: dict[int, int]
    """Pair of neighbouring words, by its number -> weight, 0 for usual ones."""
    pair_weight: int
    runs: dict[str, int]
    """Run of letters -> weight: each letter has its share of its word's."""
    run_weight: int
    weight: int
    """Of its different words."""


class Stems:
    """Every different stem once."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        weights: Weights,
        stems: Sequence[list[str]],
        golds: Sequence[list[str]],
        settings: TextSettings,
    ) -> None:
        self._settings, self._weights, self._golds = settings, weights, golds
        items: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, words in enumerate(stems):
            if words:
                items[tuple(words)].append(number)
        self._words, self._items = list(items), list(items.values())
        self._answers = [sorted({tuple(golds[item]) for item in mine} - {()}) for mine in self._items]
        """The different answers of each stem."""
        self._holders = Counter(gold for mine in self._answers for gold in mine)
        # An answer that many stems have, "yes", says no more than which of them it is.
        self._answer_weights = {
            gold: min(weights.sum(gold), information(weights.total, count)) if count > USUAL else weights.sum(gold)
            for gold, count in self._holders.items()
        }
        rarest = [[vocabulary.id(max(gold, key=weights.of)) for gold in mine] for mine in self._answers]
        self._answer_words = (
            np.cumsum([0, *map(len, rarest)]),
            np.array([one for mine in rarest for one in mine], np.int64),
        )
        self._item_words = np.array([item_words(len(words)) if len(words) > 1 else _LONGEST for words in self._words])
        self._usual = max(USUAL, len(items) // USUAL_SHARE)
        texts = [*self._words, *sorted({tuple(gold) for gold in golds if len(gold) > 1})]
        bounds = np.cumsum([0, *map(len, texts)])
        self._table = table = GramTable(vocabulary.ids(word for words in texts for word in words), bounds, 2)
        self._bounds = bounds
        # A stem of one word has no pair: the word itself proposes it.
        self._alone: dict[int, list[int]] = defaultdict(list)
        for number, stem in enumerate(self._words):
            if len(stem) == 1:
                self._alone[vocabulary.id(stem[0])].append(number)
        owners, grams, weighs, whole = self._weighed(bounds, {words: at for at, words in enumerate(texts)})
        long = np.array([window_words(len(words)) > _STEP for words in self._words], bool)[owners]
        self._postings = [
            _Postings(owners[mine], grams[mine], weighs[mine], whole, table.count, settings.answer_pairs)
            for mine in (~long, long)
        ]
        self._known: dict[int, _Stem] = {}

    def _weighed(self, bounds: Ints, texts: Mapping[tuple[str, ...], int]) -> tuple[Ints, Ints, Ints, Ints]:
        """Stem, pair and weight for each pair that says something: its words, each of which is in two pairs.

        Last, all pairs' weight by stem.

        Of a stem that has no such pair the rarest one proposes it; the rarest of a long answer proposes its stems.
        """
        table, weight, stems, count = self._table, self._weights.by_id, len(self._words), len(bounds) - 1
        places = np.flatnonzero(table.at < table.count)
        owners = np.searchsorted(bounds, places, side="right") - 1
        weighs = weight[table.ids[places]] * (1 + (places == bounds[owners]))
        weighs += weight[table.ids[places + 1]] * (1 + (places + 2 == bounds[owners + 1]))
        grams = table.at[places].astype(np.int64)
        weighs[table.df[grams] > self._usual] = 0
        silent = (np.bincount(owners, weighs, minlength=count) == 0) | (np.arange(count) >= stems)
        order = np.lexsort((places, np.where(silent[owners], table.df[grams], 0), owners))
        owners, grams, weighs = owners[order], grams[order], weighs[order]
        first = np.diff(owners, prepend=-1) != 0
        weighs[first & silent[owners]] = 1
        rarest = dict(zip(owners[first].tolist(), grams[first].tolist(), strict=True))
        self._rarest = {stem: gram for stem, gram in rarest.items() if silent[stem]}
        _, once = np.unique(owners * table.count + grams, return_index=True)
        owners, grams, weighs = owners[once], grams[once], weighs[once]
        whole = np.bincount(owners, weighs, minlength=count).astype(np.int64)
        keep = (weighs > 0) & (owners < stems)
        rows = [
            (stem, rarest[texts[gold]], int(whole[stem]) + 1)
            for stem, answers in enumerate(self._answers)
            for gold in answers
            if len(self._words[stem]) > 1 and self._is_long(gold)
        ]
        by_gold = np.array(sorted(rows), np.int64).reshape(-1, 3).T
        columns = zip((owners[keep], grams[keep], weighs[keep]), by_gold, strict=True)
        owners, grams, weighs = map(np.concatenate, columns)
        return owners, grams, weighs, whole[:stems]

    def _is_long(self, gold: tuple[str, ...]) -> bool:
        """Whether an answer says so much that next to it the common beginning of a stem is enough."""
        return len(gold) > 1 and self._answer_weights[gold] >= self._settings.answer_bits * UNIT

    def _stem(self, number: int) -> _Stem:
        """A stem, made ready when it is first met."""
        if number not in self._known:
            words, of = self._words[number], self._weights.of
            start, last = int(self._bounds[number]), len(words) - 2
            pairs: dict[int, int] = {}
            for place, pair in enumerate(self._table.at[start : start + last + 1].tolist()):
                weight = of(words[place]) * (1 + (place == 0)) + of(words[place + 1]) * (1 + (place == last))
                pairs.setdefault(pair, 0 if self._table.df[pair] > self._usual else weight)
            if number in self._rarest:
                pairs[self._rarest[number]] = 1
            letters = [of(word) * UNIT // len(word) for word in words for _ in word]
            text = "".join(words)
            runs: dict[str, int] = {}
            for place in range(max(1, len(text) - LETTERS + 1)):
                runs.setdefault(text[place : place + LETTERS], sum(letters[place : place + LETTERS]))
            self._known[number] = _Stem(
                list(words), pairs, sum(pairs.values()), runs, sum(runs.values()), self._weights.sum(words)
            )
        return self._known[number]

    def scan(self, batch: WordBatch, records: Sequence[str], first: int) -> Iterator[TextMatch]:
        """Matches of a batch of texts, numbered from `first`."""
        places, grams, texts = self._table.find(batch.ids, batch.bounds)
        edges = np.searchsorted(texts, np.arange(len(records) + 1)).tolist()
        record, last = None, -1
        for text, stem, enough in self._candidates(batch, places, grams, texts):
            if record is None or text != last:
                here = slice(edges[text], edges[text + 1])
                record, last = _Record(records[text], places[here] - batch.bounds[text], grams[here]), text
            yield from self._judged(stem, record, enough, first + text)

    def _candidates(self, batch: WordBatch, places: Ints, grams: Ints, texts: Ints) -> Iterator[tuple[int, int, bool]]:
        """Texts and stems of which some window may hold enough, or of which a long answer is there; sorted.

        Last, whether it may be enough without an answer.
        """
        found = [self._postings[1].met(texts, grams, self._settings.stem_pairs)]
        sizes = np.diff(batch.bounds)
        chunks = np.maximum(1, -(-(sizes - _CHUNK) // _STEP) + 1)
        ends = np.cumsum(chunks)
        offsets = places - batch.bounds[texts]
        own = np.minimum(offsets // _STEP, chunks[texts] - 1)
        before = (own > 0) & (offsets + 1 < (own - 1) * _STEP + _CHUNK)
        chunk = ends[texts] - chunks[texts] + own
        chunk, grams = np.concatenate([chunk, chunk[before] - 1]), np.concatenate([grams, grams[before]])
        met, stems, enough = self._postings[0].met(chunk, grams, self._settings.stem_pairs)
        found.append((np.searchsorted(ends, met, side="right"), stems, enough))
        if self._alone:
            spots = np.flatnonzero(np.isin(batch.ids, list(self._alone)))
            owners = np.searchsorted(batch.bounds, spots, side="right") - 1
            pairs = zip(owners.tolist(), batch.ids[spots].tolist(), strict=True)
            rows = [(text, stem, 0) for text, word in pairs for stem in self._alone[word]]
            alone = np.array(rows, np.int64).reshape(-1, 3).T
            found.append((alone[0], alone[1], alone[2]))
        texts, stems, enough = map(np.concatenate, zip(*found, strict=True))
        keys, _ = counted(2 * (texts * len(self._words) + stems) + enough)
        last = np.diff(keys // 2, append=-1) != 0
        keys, enough = np.divmod(keys[last], 2)
        texts, stems = np.divmod(keys, max(1, len(self._words)))
        kept = self._may_be_answered(batch, texts, stems) | (enough > 0)
        return zip(texts[kept].tolist(), stems[kept].tolist(), enough[kept].astype(bool).tolist(), strict=True)

    def _may_be_answered(self, batch: WordBatch, texts: Ints, stems: Ints) -> Flags:
        """Whether texts are hardly more than the stems' items, or hold the rarest word of an answer to them."""
        words = len(self._weights.by_id)
        there, _ = counted(np.repeat(np.arange(len(batch.bounds) - 1), np.diff(batch.bounds)) * words + batch.ids)
        bounds, rarest = self._answer_words
        counts = np.diff(bounds)[stems]
        wanted = np.repeat(texts, counts) * words + rarest[ranges(bounds[stems], counts)]
        places = np.searchsorted(there, wanted)
        met = np.append(0, np.cumsum(there[np.minimum(places, len(there) - 1)] == wanted))
        ends = np.cumsum(counts)
        kept: Flags = (met[ends] > met[ends - counts]) | (np.diff(batch.bounds)[texts] <= self._item_words[stems])
        return kept

    def _judged(self, number: int, record: _Record, enough: bool, train: int) -> Iterator[TextMatch]:
        """At most `NAMED` items of a stem that a record overlaps with."""
        limits, stem, items = self._settings, self._stem(number), self._items[number]
        verbatim, prose = f" {' '.join(stem.words)} " in record.spaced, len(record.words) > item_words(len(stem.words))
        # What follows is implied by the rules below, and spares most windows of long records.
        enough &= stem.weight >= limits.stem_bits * UNIT * (PROSE_TIMES if prose and not verbatim else 1)
        answers: Iterable[tuple[str, ...]] = self._answers[number]
        if prose and not verbatim and not (enough and stem.weight >= LONG_STEM_BITS * UNIT):
            answers = filter(record.states, answers)
        golds = [(gold, record.spots(gold)) for gold in answers]
        golds = [(gold, spots) for gold, spots in golds if spots or (not prose and record.may_have(gold))]
        window = _window(stem, record, ()) if golds or enough else None
        if window is None:
            return
        whole = alone = None
        if enough and window.weight >= limits.stem_pairs * stem.pair_weight:
            whole = _held(stem, record, window, ())
            alone = whole if self._is_enough(stem, record, verbatim, whole) else None
        answered = dict[tuple[str, ...], _Held]()
        for gold, spots in golds:
            share = 1.0
            if window.weight < limits.answer_pairs * stem.pair_weight and not (
                self._is_long(gold) and f" {' '.join(gold)} " in record.spaced
            ):
                continue
            if spots:
                beside = _window(stem, record, spots)
                held = beside and _held(stem, record, beside, spots)
            elif (share := record.nearly(gold, window)) >= GOLD_SHARE:
                held = whole = whole or _held(stem, record, window, ())
            else:
                continue
            if held and self._is_answered(stem, record, verbatim, gold, spots, share, held):
                answered[gold] = held
        if not alone and not answered:
            return
        best = max([*answered.values(), *([alone] if alone else [])], key=lambda held: (held.share, held.covered))
        words = record.words[best.window.start : best.window.stop]
        kind = "sibling" if not verbatim and is_sibling(stem.words, words) else "stem" if alone else "stem_answer"
        mine = [item for item in items if alone or tuple(self._golds[item]) in answered]
        for item in mine[:NAMED]:
            yield TextMatch(train, item, kind, round(best.share, 4), best.covered, None, len(items))

    def _is_enough(self, stem: _Stem, record: _Record, verbatim: bool, held: _Held) -> bool:
        """Whether a record holds so much of a stem that its answer does not matter."""
        limits = self._settings
        plain = LONG_STEM_PLAIN if held.known >= LONG_STEM_BITS * UNIT else STEM_PLAIN
        least = limits.stem_bits * (1 if verbatim or record.rest(held.window) <= REST_WORDS else PROSE_TIMES)
        says = held.known >= least * UNIT and len(stem.words) >= STEM_WORDS
        return says and held.weighed >= limits.stem_letters and held.plain >= plain

    def _is_answered(
        self,
        stem: _Stem,
        record: _Record,
        verbatim: bool,
        gold: tuple[str, ...],
        spots: Sequence[_Spot],
        share: float,
        held: _Held,
    ) -> bool:
        """Whether an answer, or that share of it, is so near to what is left of its stem that both are an item."""
        limits, says = self._settings, self._answer_weights[gold]
        first, last = held.window.first, held.window.last
        gap = min((max(0, first - spot.stop, spot.start - last) for spot in spots), default=0)
        if verbatim and spots:
            told = stem.weight + says >= limits.verbatim_bits * UNIT
            alone = stem.weight >= SAYS_BITS * UNIT or (gap <= ANSWER_WORDS and record.states(tuple(stem.words), 1))
            if gap <= 1 or (told and alone):
                return True
        in_a_row = held.in_rows >= ROW_SHARE * len(stem.words) and self._holders[gold] <= USUAL
        tells = in_a_row and (spots or held.share >= FAR_SHARE)
        if held.known + share * says < (limits.row_bits if tells else limits.answer_bits) * UNIT:
            return False
        nearly_all = held.share >= NEARLY_ALL and held.known >= SAYS_BITS * UNIT
        stands = not spots or record.rest(held.window) <= REST_WORDS + len(gold) or record.states(gold)
        pairs = held.window.weight >= limits.stem_pairs * stem.pair_weight
        if not stands and not (nearly_all and pairs and held.known >= LONG_STEM_BITS * UNIT):
            return False
        if nearly_all:
            return True
        if gap > ANSWER_WORDS or held.own < OWN_SHARE:
            return False
        if held.known < SAYS_BITS * UNIT:
            return in_a_row and gap <= NEXT_WORDS and self._is_long(gold)
        if gap <= BESIDE_WORDS and (spots or in_a_row):
            return held.share >= (ROW_LETTERS if in_a_row else limits.answer_letters)
        return held.plain + held.weighed >= 2 * FAR_SHARE


class _Postings:
    """Which stems have a pair of words, and how much it weighs there; of short stems or of long ones."""

    def __init__(self, owners: Ints, grams: Ints, weights: Ints, whole: Ints, count: int, share: float) -> None:
        """Stem, pair and weight of each row; `count` pairs there are, `share` of the `whole` is looked for."""
        self._numbers = np.unique(owners)
        order = np.argsort(grams, kind="stable")
        self._owners, self._weights = np.searchsorted(self._numbers, owners[order]), weights[order]
        self._bounds = np.searchsorted(grams[order], np.arange(count + 1))
        self._whole = whole[self._numbers]
        self._least = np.maximum(1, share * self._whole)

    def met(self, groups: Ints, grams: Ints, more: float) -> tuple[Ints, Ints, Ints]:
        """Groups of places, stems of which they hold pairs of enough weight, and 1 where it is a share of `more`.

        `groups` says of each place which it is in, `grams` which pair stands there.
        """
        size = len(self._bounds)
        keys, _ = counted(groups * size + grams)
        groups, grams = keys // size, keys % size
        counts = self._bounds[grams + 1] - self._bounds[grams]
        groups, grams, counts = groups[counts > 0], grams[counts > 0], counts[counts > 0]
        stems, found = max(1, len(self._numbers)), [np.empty((3, 0), np.int64)]
        edges = np.flatnonzero(np.diff(groups, prepend=-1))
        whole = np.add.reduceat(counts, edges) if len(edges) else counts
        edges = np.append(edges, len(groups))
        for one in _slices(whole, _EXPANSION):
            part = slice(edges[one.start], edges[one.stop])
            spots = ranges(self._bounds[grams[part]], counts[part])
            cells = np.repeat(groups[part] * stems, counts[part]) + self._owners[spots]
            order = np.argsort(cells, kind="stable")
            cells, weights = cells[order], self._weights[spots][order]
            first = np.flatnonzero(np.diff(cells, prepend=-1))
            sums = np.add.reduceat(weights, first)
            stem = cells[first] % stems
            kept = sums >= self._least[stem]
            found.append(
                np.stack([cells[first] // stems, self._numbers[stem], sums >= more * self._whole[stem]])[:, kept]
            )
        group, stem, enough = np.concatenate(found, axis=1)
        return group, stem, enough


def _slices(counts: Ints, limit: int) -> Iterator[slice]:
    """Consecutive rows of at most `limit` in sum of their counts, or one row that alone has more."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield slice(start, stop)
        start = stop


def item_words(words: int) -> int:
    """A record of more words than this is more than a stem of so many words with its answer."""
    return window_words(words) + REST_WORDS


def window_words(words: int) -> int:
    """How many words of a record are looked at together for a stem of so many."""
    return 2 * words + 16


class _Record:
    """Words of a training text, and what is asked of them for several stems."""

    def __init__(self, text: str, places: Ints, pairs: Ints) -> None:
        """`places` of the stems' pairs, and which stands there."""
        self._text = text
        self.words = words = word_list(text)
        self.spaced = f" {' '.join(words)} "
        self.letters = "".join(words)
        self._hits = places, pairs

    @cached_property
    def pairs(self) -> dict[int, list[int]]:
        """Where each of the stems' pairs stands, ascending."""
        places: dict[int, list[int]] = defaultdict(list)
        for place, pair in zip(*(hits.tolist() for hits in self._hits), strict=True):
            places[pair].append(place)
        return places

    @cached_property
    def _statements(self) -> list[tuple[int, str]]:
        """How many words each statement has, and the words, a blank on both sides of each."""
        found = map(word_list, STATEMENT_ENDS.split(self._text))
        return [(len(words), f" {' '.join(words)} ") for words in found if words]

    def states(self, words: tuple[str, ...], more: int = STATED_WORDS) -> bool:
        """Whether words stand for themselves, with no more than so many others up to the ends of their statement."""
        most, spaced = len(words) + more, f" {' '.join(words)} "
        return any(count <= most and spaced in there for count, there in self._statements)

    def rest(self, window: _Window) -> int:
        """Words outside of a window's pairs."""
        return len(self.words) - (window.last - window.first)

    @cached_property
    def ends(self) -> list[int]:
        """Letters up to the end of each word; before the first, 0."""
        return [0, *accumulate(map(len, self.words))]

    def spots(self, gold: Sequence[str]) -> list[_Spot]:
        """Where the gold answer stands: as words, or all of its letters if they are enough to tell it."""
        joined, found = "".join(gold), list[_Spot]()
        place = self.letters.find(joined)
        while place >= 0:
            start = bisect_right(self.ends, place) - 1
            stop = bisect_left(self.ends, place + len(joined))
            if len(joined) >= GOLD_LETTERS or (self.ends[start] == place and self.ends[stop] == place + len(joined)):
                found.append(_Spot(start, stop))
            place = self.letters.find(joined, place + 1)
        return found

    @cached_property
    def _runs(self) -> Set[str]:
        return frozenset(map("".join, zip(*(self.letters[at:] for at in range(GOLD_RUN)), strict=False)))

    def may_have(self, gold: tuple[str, ...]) -> bool:
        """Whether so many of an answer's runs of letters stand anywhere that they may stand beside a window."""
        runs = _answer_runs(gold)
        return _tells(runs) and len(runs & self._runs) >= GOLD_SHARE * len(runs)

    def nearly(self, gold: tuple[str, ...], window: _Window) -> float:
        """Share of a gold answer's runs of letters that stand in a row of words before or behind a window."""
        runs = _answer_runs(gold)
        if not _tells(runs):
            return 0.0
        reach = 2 * len(gold) + GOLD_REACH
        sides = self.words[max(0, window.first - reach) : window.first], self.words[window.last : window.last + reach]
        return max(sum(run in there for run in runs) / len(runs) for there in map("".join, sides))


@lru_cache(1 << 16)
def _answer_runs(gold: tuple[str, ...]) -> Set[str]:
    text = "".join(gold)
    return frozenset(text[place : place + GOLD_RUN] for place in range(len(text) - GOLD_RUN + 1))


def _tells(runs: Set[str]) -> bool:
    """Whether an answer has letters enough to be known by some of them."""
    return len(runs) > GOLD_LETTERS - GOLD_RUN


class _Spot(NamedTuple):
    """Words of a record."""

    start: int
    stop: int


class _Held(NamedTuple):
    """What a record holds of a stem."""

    window: _Window
    plain: float
    """Share of the stem's runs of letters."""
    weighed: float
    """The same, each by its weight."""
    known: float
    """Weight of what was found."""
    covered: int
    """Words of the stem in shared pairs."""
    in_rows: int
    """Words of the stem in shared rows."""
    own: float
    """Share of the runs of letters between the first and the last pair that are the stem's."""

    @property
    def share(self) -> float:
        """The better of the two."""
        return max(self.plain, self.weighed)


def _held(stem: _Stem, record: _Record, window: _Window, spots: Sequence[_Spot]) -> _Held:
    """What a window of a record holds of a stem outside of some words."""
    words = record.words[window.start : window.stop]
    for spot in spots:
        for place in range(max(spot.start, window.start), min(spot.stop, window.stop)):
            words[place - window.start] = ""
    covered, in_rows = _covered(stem.words, words)
    there = "".join(words)
    met = [weight for run, weight in stem.runs.items() if run in there]
    weighed = sum(met) / max(1, stem.run_weight)
    between = "".join(words[window.first - window.start : window.last - window.start])
    runs = [between[place : place + LETTERS] for place in range(max(1, len(between) - LETTERS + 1))]
    own = sum(run in stem.runs for run in runs) / len(runs)
    return _Held(window, len(met) / len(stem.runs), weighed, weighed * stem.weight, covered, in_rows, own)


class _Window(NamedTuple):
    """The words of a record that are held against a stem."""

    weight: int  # of the different pairs in it
    start: int
    stop: int
    first: int  # where the first of the pairs begins
    last: int  # where the last one ends


def _window(stem: _Stem, record: _Record, spots: Sequence[_Spot]) -> _Window | None:
    """The words around the place of a record that has most of a stem's pairs outside of some words; the first such."""
    hidden = {place for spot in spots for place in range(spot.start, spot.stop)}
    if len(stem.words) == 1:
        for place, word in enumerate(record.words):
            if word == stem.words[0] and place not in hidden:
                return _Window(0, place, place + 1, place, place + 1)
        return None
    hits = sorted(
        (place, pair)
        for pair in stem.pairs
        for place in record.pairs.get(pair, ())
        if place not in hidden and place + 1 not in hidden
    )
    size, best, end, start, sum_ = window_words(len(stem.words)), 0, 0, 0, 0
    for place, pair in hits:
        sum_ += stem.pairs[pair] + 1
        while hits[start][0] < place + 2 - size:
            sum_ -= stem.pairs[hits[start][1]] + 1
            start += 1
        if sum_ > best:
            best, end = sum_, place + 2
    if not best:
        return None
    places = [place for place, _ in hits if end - size <= place <= end - 2]
    here = {pair for place, pair in hits if end - size <= place <= end - 2}
    weight = sum(stem.pairs[pair] for pair in here)
    return _Window(weight, max(0, end - size), end + 8, min(places), end)


def _covered(stem: Sequence[str], window: Sequence[str]) -> tuple[int, int]:
    """Words of a stem that stand in pairs which a window has, and those of rows of `ROW_WORDS` words and more."""
    pairs = set(pairwise(window))
    rows = [sum(1 for _ in run) + 1 for shared, run in groupby(pair in pairs for pair in pairwise(stem)) if shared]
    return sum(rows), sum(row for row in rows if row >= ROW_WORDS)


def is_sibling(stem: Sequence[str], window: Sequence[str]) -> bool:
    """Whether a window has the stem with another number in the place of one, or with a negation put in or taken out."""
    pairs = set(pairwise(window))
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
