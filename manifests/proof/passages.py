"""Long runs of words that training texts share with notes, reports and vignettes (`near_text` tells the rules)."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from manifests.proof.ngrams import (
    Flags,
    GramTable,
    Ids,
    Ints,
    Vocabulary,
    WordBatch,
    counted,
    ranges,
)
from manifests.proof.policy import TextSettings
from manifests.proof.text_pairs import NAMED, EvalText, TextMatch
from manifests.proof.word_weights import UNIT, Weights, information

LONG_RUN = 32
"""So many words in one run need say only half of `passage_bits`."""
PASSAGE_SHARE, LONGER_RUN = 0.4, 48
"""This share of a passage's words, or so many of them in one run: less is how examinations are written down."""
PASSAGE_GRAMS = 3
"""Runs that a passage needs at least, so that short ones are turned away early."""


class _Found(NamedTuple):
    text: int
    grams: Ints  # different ones, ascending
    ids: Ids  # of the text's words


class _Seen:
    """What the texts of one part hold of the test side's runs, until all of the part is read."""

    def __init__(self, count: int) -> None:
        self.texts: list[_Found] = []
        self.hits = np.zeros(count, np.int64)
        """Texts that hold each n-gram."""
        self.reports = [(np.empty(0, np.int64), np.empty(0, np.int64))]
        """Texts, and n-grams of reports that they hold."""
        self.words = self.reports.copy()
        """These texts, and their different words."""


class Passages:
    """Runs of n words that say enough, in every different passage."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        weights: Weights,
        passages: Sequence[Sequence[list[str]]],
        evals: Sequence[EvalText],
        settings: TextSettings,
    ) -> None:
        self._settings, self._vocabulary, self._n = settings, vocabulary, settings.run_words
        groups = [text.group for text in evals]
        owners: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for number, of_item in enumerate(passages):
            for words in of_item:
                if len(words) >= self._n and number not in owners[tuple(words)]:
                    owners[tuple(words)].append(number)
        self._owners = list(owners.values())
        self._bounds: Ints = np.cumsum([0, *map(len, owners)])
        self._ids = vocabulary.ids(word for words in owners for word in words)
        self._table = table = GramTable(self._ids, self._bounds, self._n)
        grams = np.repeat(np.arange(table.count), np.diff(table.text_bounds))
        sizes = np.array([len(mine) for mine in self._owners], np.int64)
        firsts = np.cumsum(sizes) - sizes
        all_owners = np.array([item for mine in self._owners for item in mine], np.int64)
        pairs, _ = counted(
            np.repeat(grams, sizes[table.texts]) * len(groups)
            + all_owners[ranges(firsts[table.texts], sizes[table.texts])]
        )
        of_gram, holders = pairs // max(1, len(groups)), pairs % max(1, len(groups))
        self.df: Ints = np.bincount(of_gram, minlength=table.count)
        """(G,) test items that have each n-gram."""
        hidden = np.array([text.private for text in evals], bool)[holders]
        self._private = np.bincount(of_gram[~hidden], minlength=table.count) == 0
        numbers = {one: number for number, one in enumerate(sorted({text.together for text in evals} - {""}))}
        self._whose = np.array([numbers.get(text.together, -1) for text in evals], np.int64)
        self._reports = np.bincount(of_gram[self._whose[holders] < 0], minlength=table.count) == 0
        """(G,) whether reports alone have each n-gram."""
        usual = _owners_of(of_gram, self._whose[holders], table.count) > settings.boilerplate_patients
        self._usual = usual & self._reports
        is_report = np.array([bool((self._whose[mine] >= 0).all()) for mine in self._owners], bool)
        self._weights = [self._among_reports(weights.by_id, sizes, all_owners, is_report), weights.by_id]
        """Of reports, and of others."""
        self._weights_of = (~is_report).astype(int).tolist()
        sums = np.cumsum(np.append(0, weights.by_id[self._ids]))
        says = sums[table.first + self._n] - sums[table.first] >= settings.run_bits * UNIT
        says = (says | self._reports) & ~self._usual
        names = {group: number for number, group in enumerate(sorted({*groups} - {""}))}
        group = np.array([names.get(one, -1) for one in groups], np.int64)
        in_group = pairs[group[pairs % max(1, len(groups))] >= 0]
        keys, hold = counted(
            in_group // max(1, len(groups)) * max(1, len(names)) + group[in_group % max(1, len(groups))]
        )
        whole = np.bincount(group[group >= 0], minlength=len(names))[keys % max(1, len(names))]
        says[keys[(2 * hold > whole) & (whole > 2)] // max(1, len(names))] = False
        self._says = says
        # n-grams that stand in the same passages are one class: a note's five hundred are looked up as one.
        single = np.diff(table.text_bounds) == 1
        self._of_class: list[Ints] = [np.array([number]) for number in range(len(self._owners))]
        self._classes = np.zeros(table.count, np.int64)
        self._classes[single] = table.texts[table.text_bounds[:-1][single]]
        classes: dict[bytes, int] = {}
        for gram in np.flatnonzero(says & ~single).tolist():
            mine = table.texts[table.text_bounds[gram] : table.text_bounds[gram + 1]]
            number = classes.setdefault(mine.tobytes(), len(self._of_class))
            if number == len(self._of_class):
                self._of_class.append(mine)
            self._classes[gram] = number

    def _among_reports(self, weights: Ints, sizes: Ints, owners: Ints, is_report: Flags) -> Ints:
        """Weights of words in reports, as the test side's patients have them."""
        text = np.repeat(np.arange(len(sizes)), np.diff(self._bounds))
        ids, text = self._ids[is_report[text]].astype(np.int64), text[is_report[text]]
        whose = self._whose[owners[ranges((np.cumsum(sizes) - sizes)[text], sizes[text])]]
        have = _owners_of(np.repeat(ids, sizes[text]), whose, len(weights))
        return self._rarer(weights, have, int(self._whose.max(initial=-1)) + 1)

    def _rarer(self, weights: Ints, have: Ints, patients: int) -> Ints:
        """Weights, of words that many of some patients have no more than how rare they are among these."""
        result = weights.copy()
        for word in np.flatnonzero(have > self._settings.boilerplate_patients).tolist():
            result[word] = min(int(weights[word]), information(patients, int(have[word])))
        return result

    def usual_items(self) -> list[int]:
        """Items that are reports, of which no passage has enough that not many patients' have."""
        able = np.ones(len(self._whose), bool)
        able[self._whose >= 0] = False
        for passage, owners in enumerate(self._owners):
            if not self._weights_of[passage]:
                start, stop = int(self._bounds[passage]), int(self._bounds[passage + 1])
                places = self._covered(np.append(self._says, False)[self._table.at[start:stop]])
                if self._weight(passage, places, self._weights) >= self._settings.report_bits * UNIT:
                    able[owners] = True
        return np.flatnonzero(~able).tolist()

    def _covered(self, begins: Flags) -> Ints:
        """Places of a passage's words in the runs that begin where it says so."""
        return np.unique((np.flatnonzero(begins)[:, None] + np.arange(self._n)).ravel())

    def _weight(self, passage: int, places: Ints, weights: Sequence[Ints]) -> int:
        """What the different words at some places of a passage say."""
        words = np.unique(self._ids[int(self._bounds[passage]) + places])
        return int(weights[self._weights_of[passage]][words].sum())

    def nothing_seen(self) -> _Seen:
        """For a new part."""
        return _Seen(self._table.count)

    def look(self, batch: WordBatch, first: int, seen: _Seen) -> None:
        """Remember which runs the texts of a batch hold."""
        _, grams, texts = self._table.find(batch.ids, batch.bounds)
        kept = self._says[grams] | self._reports[grams]
        keys, _ = counted(texts[kept] * (self._table.count + 1) + grams[kept])
        texts, grams = keys // (self._table.count + 1), keys % (self._table.count + 1)
        np.add.at(seen.hits, grams, 1)
        of_reports = self._reports[grams]
        if of_reports.any():
            seen.reports.append((first + texts[of_reports], grams[of_reports]))
            has = np.zeros(len(batch.bounds) - 1, bool)
            has[texts[of_reports]] = True
            chosen = np.repeat(has, np.diff(batch.bounds))
            of_word = np.repeat(np.flatnonzero(has), np.diff(batch.bounds)[has])
            most = len(self._weights[1])
            keys, _ = counted(of_word * most + batch.ids[chosen])
            seen.words.append((first + keys // most, keys % most))
        for text, start, stop in zip(*_groups(texts), strict=True):
            if np.count_nonzero(self._says[grams[start:stop]]) >= PASSAGE_GRAMS:
                ids = batch.ids[batch.bounds[text] : batch.bounds[text + 1]].copy()
                seen.texts.append(_Found(first + text, grams[start:stop].copy(), ids))

    def conclude(
        self, seen: _Seen, texts: int, together: Sequence[str | None]
    ) -> tuple[list[TextMatch], dict[str, tuple[int, int]]]:
        """Matches of a part, and its boilerplate."""
        limits = self._settings
        usual = self._usual | (seen.hits > max(limits.boilerplate_samples, limits.boilerplate_share * texts))
        weights = self._weights.copy()
        if together:
            numbers = {one: number for number, one in enumerate(dict.fromkeys(together)) if one is not None}
            whose = np.array([-1 if one is None else numbers[one] for one in together], np.int64)
            of_text, of_gram = map(np.concatenate, zip(*seen.reports, strict=True))
            usual |= _owners_of(of_gram, whose[of_text], self._table.count) > limits.boilerplate_patients
            patients = len(set(whose[of_text].tolist()) - {-1})
            of_text, words = map(np.concatenate, zip(*seen.words, strict=True))
            have = _owners_of(words, whose[of_text], len(weights[0]))
            weights[0] = self._rarer(weights[0], have, patients)
        own = self._says & ~usual
        matches: list[TextMatch] = []
        for text, grams, ids in seen.texts:
            mine = grams[own[grams]]
            if len(mine) >= PASSAGE_GRAMS:
                matches += self._judged(text, mine, grams[self._reports[grams]], ids, weights)
        listed = sorted((self._named(gram), gram) for gram in np.flatnonzero(usual & (seen.hits > 0)).tolist())
        return matches, {text: (int(self.df[gram]), int(seen.hits[gram])) for text, gram in listed}

    def _named(self, gram: int) -> str:
        text = self._text(self._table.first[gram], self._n)
        return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}" if self._private[gram] else text

    def _text(self, start: int, words: int) -> str:
        return " ".join(self._vocabulary.words[number - 1] for number in self._ids[start : start + words])

    def _judged(
        self, text: int, grams: Ints, of_reports: Ints, ids: Ids, weights: Sequence[Ints]
    ) -> Iterator[TextMatch]:
        """`of_reports`: also those that are boilerplate. They are no evidence, but part of what is shared."""
        classes, counts = counted(self._classes[grams])
        shared: Counter[int] = Counter()
        for one, count in zip(classes.tolist(), counts.tolist(), strict=True):
            for passage in self._of_class[one].tolist():
                shared[passage] += count
        found = np.zeros(self._table.count + 1, bool)
        found[grams] = True
        held = found.copy()
        held[of_reports] = True
        limits, record, named = self._settings, ids.tobytes(), set[int]()
        for passage, count in sorted(shared.items(), key=lambda one: (-one[1], one[0])):
            if count < PASSAGE_GRAMS or len(named) >= NAMED:
                break
            start, stop = int(self._bounds[passage]), int(self._bounds[passage + 1])
            at = self._table.at[start:stop]
            covered, words = self._covered(found[at]), len(self._covered(held[at]))
            if words < limits.passage_words:
                continue
            weight, is_report = self._weight(passage, covered, weights), not self._weights_of[passage]
            enough = weight >= (limits.report_bits if is_report else limits.passage_bits) * UNIT
            if not enough and (is_report or 2 * weight < limits.passage_bits * UNIT):
                continue
            place, length = self._longest(start, np.flatnonzero(found[at]), record)
            if (not enough and length < LONG_RUN) or (words < PASSAGE_SHARE * (stop - start) and length < LONGER_RUN):
                continue
            df = int(self.df[self._table.at[place : place + length - self._n + 1]].min())
            span = self._text(place, length)
            share = round(words / (stop - start), 4)
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


def _owners_of(things: Ints, owners: Ints, count: int) -> Ints:
    """How many different owners each of `count` things has; -1 is none."""
    things, owners = things[owners >= 0], owners[owners >= 0]
    most = int(owners.max(initial=0)) + 1
    return np.bincount(counted(things * most + owners)[0] // most, minlength=count)


def _holds(record: bytes, part: bytes) -> bool:
    """Whether ids (four bytes each) stand in a row in a record."""
    place = record.find(part)
    while place >= 0 and place % 4:
        place = record.find(part, place + 1)
    return place >= 0


def _groups(values: Ints) -> tuple[Collection[int], Collection[int], Collection[int]]:
    """Each of the values, which ascend, and where its rows begin and end."""
    starts = np.flatnonzero(np.diff(values, prepend=-1))
    return values[starts].tolist(), starts.tolist(), [*starts[1:].tolist(), len(values)][: len(starts)]
