"""Near-duplicate text: shared runs of words, short items inside a text, 5-gram Jaccard, rewrites by TF-IDF cosine.

| kind | a pair is reported when |
|---|---|
| run | both records share n words in a row, among them an n-gram that few test items have |
| short_item | a question of fewer than n words and all its options (else its answer) stand in the training record |
| jaccard | of the 5-word shingles of both questions with options, half are shared |
| rewrite | the TF-IDF cosine of question + answer with the test item's question + options reaches 0.40 |

Each finds every pair that its definition names: there is no approximate index, and hashes only propose. How many real
rewrites reach the thresholds of the fuzzy two is another matter: that is measured (`bench/near_text.py`), never proved.
Boilerplate ("which of the following is the most likely diagnosis") makes no pair: an n-gram that more than `common_df`
test items have is common, and is counted in a list of its own.

The test side becomes integers once (`NearTextIndex`); each training text costs some fifteen nanoseconds a byte for the
runs, more for the rest. `scan` changes nothing, so that forked workers share one index.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from manifests.proof.evidence import LEVELS
from manifests.proof.ngrams import GramTable, Ids, Ints, Vocabulary, WordBatch, counted, ranges, word_list
from manifests.proof.policy import TextSettings

Floats = npt.NDArray[np.float64]

KINDS = LEVELS["near_text"]
SHINGLE_WORDS = 5
MARGIN = 1e-9
"""Array sums may be off by far less; what they leave is scored again, exactly."""
_LOOKED_UP = 0.7
"""Words are looked up until those left weigh less than this part of the threshold; of 0.5 to 0.9 fastest on MedQA."""
_EXPANSION = 1 << 22
"""Entries of intermediate arrays made at once: 32 MB each."""
_ROUND = 1 << 20
"""Products of training texts and test items, or words, in memory at once: 8 MB, a fair share of a cache."""


@dataclass(frozen=True)
class EvalText:
    """What of a test item is looked for. An empty question leaves the item to the runs."""

    question: str
    options: tuple[str, ...]
    answer: str
    record: str
    """Everything: question, options, answer, reasoning, caption."""


@dataclass(frozen=True)
class TrainText:
    """What of a training sample is searched."""

    item: str
    """Question and options, as far as they are known."""
    answer: str
    record: str
    """Everything: prompt, reasoning, answer."""


class TextMatch(NamedTuple):
    """One pair and how it overlaps."""

    train: int
    """Position in the texts given to `scan`."""
    eval: int
    """Position in the texts given to the index."""
    kind: str
    """One of `KINDS`."""
    score: float
    """run: share of the test record's words in shared runs; short_item: 1; else the measure. Four places."""
    words: int | None
    """run: of the longest shared run; short_item: of the question; jaccard: shared shingles."""
    span: str | None
    """run, short_item: the shared words."""
    eval_df: int | None
    """run: test items that have the rarest n-gram of the run."""


@dataclass(frozen=True)
class TextScan:
    """What a batch of training texts shares with the test side."""

    matches: list[TextMatch]
    """Sorted by train, eval, kind in the order of `KINDS`."""
    common: dict[str, tuple[int, int]]
    """Common n-gram -> (test items, training texts of this batch) that have it, sorted by n-gram."""
    counts: Mapping[str, int]
    """Pairs by kind, pairs scored exactly for the fuzzy kinds, training texts that hold common n-grams."""


class NearTextIndex:
    """The test side, ready to be compared with any number of training texts."""

    def __init__(self, evals: Sequence[EvalText], settings: TextSettings) -> None:
        self.settings = settings
        self.run_words = min(self.settings.run_words)
        records = [word_list(text.record) for text in evals]
        items = [word_list("\n".join((text.question, *text.options))) for text in evals]
        shorts = _short_items(evals, self.settings.short_min_words, self.run_words)
        every = [*records, *items, *([word for part in short.parts for word in part] for short in shorts)]
        self._vocabulary = Vocabulary(word for words in every for word in words)
        self._evals = len(evals)
        self._runs = _Runs(self._vocabulary, records, self.run_words, self.settings.common_df)
        self._shorts = _Shorts(self._vocabulary, shorts, self._runs.word_df, self.settings.short_min_words)
        self._shingles = _Shingles(self._vocabulary, items, self.settings)
        self._cosines = _Cosines(self._vocabulary, items, self.settings)

    def scan(self, trains: Sequence[TrainText]) -> TextScan:
        """Every pair of these training texts with the test side. Give 1 to 4 MB at once."""
        matches, common, counts = self.scan_runs([text.record for text in trains])
        items = self._vocabulary.read([text.item for text in trains])
        answers = self._vocabulary.read([text.answer for text in trains])
        pairs = self._shingles.candidates(items)
        counts["jaccard_scored"] = len(pairs)
        matches += self._shingles.score(pairs, trains)
        pairs = self._cosines.candidates(items, answers)
        counts["rewrite_scored"] = len(pairs)
        matches += self._cosines.score(pairs, trains)
        matches.sort(key=lambda match: (match.train, match.eval, KINDS.index(match.kind)))
        counts.update(match.kind for match in matches)
        return TextScan(matches, common, counts)

    def scan_runs(self, records: Sequence[str]) -> tuple[list[TextMatch], dict[str, tuple[int, int]], Counter[str]]:
        """The pairs of kind run and short_item alone, the common n-grams, and counts as in `TextScan`."""
        batch = self._vocabulary.read(records)
        matches, common, with_common = self._runs.scan(batch)
        matches += self._shorts.scan(batch, records)
        return matches, common, Counter({"texts_with_common_ngrams": with_common})


def _joined(vocabulary: Vocabulary, texts: Sequence[Sequence[str]]) -> tuple[Ids, Ints]:
    """Ids of all words, one text after the other, and the bounds of the texts."""
    bounds = np.cumsum([0, *map(len, texts)])
    return vocabulary.ids(word for words in texts for word in words), bounds


def _slices(counts: Ints, limit: int) -> Iterator[slice]:
    """Consecutive rows of at most `limit` in sum of their counts, or one row that alone has more."""
    ends = np.cumsum(counts)
    start = 0
    while start < len(counts):
        done = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, done + limit, side="right")))
        yield slice(start, stop)
        start = stop


# ---- runs


class _Runs:
    """Shared runs of n words and more."""

    def __init__(self, vocabulary: Vocabulary, records: Sequence[Sequence[str]], n: int, common_df: int) -> None:
        self._vocabulary, self._n, self._common_df = vocabulary, n, common_df
        self._ids, self._bounds = _joined(vocabulary, records)
        self._table = GramTable(self._ids, self._bounds, n)
        self._owners = np.repeat(np.arange(len(records)), np.diff(self._bounds))
        self._place_df = np.append(self._table.df, 0)[self._table.at]
        pairs, _ = counted(self._ids.astype(np.int64) * (len(records) + 1) + self._owners)
        self.word_df: Ints = np.bincount(pairs // (len(records) + 1), minlength=len(vocabulary.words) + 1)
        """Test records that have each word, by id."""

    def scan(self, batch: WordBatch) -> tuple[list[TextMatch], dict[str, tuple[int, int]], int]:
        """Pairs, common n-grams with (test items, training texts), number of training texts that have any of those."""
        table, ids = self._table, batch.ids
        while True:
            places, grams, texts = table.find(ids, batch.bounds)
            touched = np.zeros(len(ids) + 1, np.int32)
            np.add.at(touched, places, 1)
            np.add.at(touched, places + self._n, -1)
            impostors = batch.impostors(np.flatnonzero(np.cumsum(touched)))
            if not len(impostors):
                break
            ids = ids.copy()
            ids[impostors] = 0
        usual = table.df[grams] > self._common_df
        keys, _ = counted(grams[usual] * len(batch.bounds) + texts[usual])
        common, hits = counted(keys // len(batch.bounds))
        listed = sorted(
            (self._text(int(table.first[gram]), self._n), (int(table.df[gram]), int(count)))
            for gram, count in zip(common, hits, strict=True)
        )
        with_common = len(counted(keys % len(batch.bounds))[0])
        matches: list[TextMatch] = []
        rare = np.flatnonzero(~usual)
        rare_texts, starts = np.unique(texts[rare], return_index=True)
        counts = table.place_bounds[grams[rare] + 1] - table.place_bounds[grams[rare]]
        if len(rare):
            per_text = np.add.reduceat(counts, starts)
            ends = np.append(starts[1:], len(rare))
            for part in _slices(per_text, _EXPANSION):
                rows = rare[starts[part.start] : ends[part.stop - 1]]
                if int(per_text[part].sum()) > _EXPANSION:
                    runs = self._longest_in_repetitive_text(batch.bounds, ids, places[rows], grams[rows], texts[rows])
                else:
                    runs = self._longest(batch.bounds, ids, places[rows], grams[rows], texts[rows])
                shares = self._shares(runs, rare_texts[part], texts, grams)
                matches += [
                    TextMatch(t, e, "run", share, words, self._text(q, words), df)
                    for t, e, q, words, df, share in zip(*(x.tolist() for x in runs), shares, strict=True)
                ]
        return matches, dict(listed), with_common

    def _text(self, start: int, words: int) -> str:
        return " ".join(self._vocabulary.words[number - 1] for number in self._ids[start : start + words])

    def _longest(self, bounds: Ints, ids: Ids, places: Ints, grams: Ints, texts: Ints) -> _LongestRuns:
        """Of every pair, the longest run with a rare n-gram, from all places where its rare n-grams meet."""
        n = self._n
        counts = self._table.place_bounds[grams + 1] - self._table.place_bounds[grams]
        here = np.repeat(places, counts)
        there = self._table.places[ranges(self._table.place_bounds[grams], counts)]
        # Along a run both places go up together: neighbours in this order are one run, or the run ends between them.
        keys = (there - here + len(ids)) * (len(ids) + 1) + here
        order = np.argsort(keys, kind="stable")
        keys, here, there = keys[order], here[order], there[order]
        starts = np.flatnonzero(np.diff(keys, prepend=-2) != 1)
        df = np.minimum.reduceat(self._place_df[there], starts)
        lengths = np.diff(starts, append=len(keys)) + n - 1
        here, there = here[starts], there[starts]
        # Common n-grams carry a run on, beyond its rare ones.
        train = np.searchsorted(bounds, here, side="right") - 1
        test = self._owners[there]
        left = self._reach(ids, here, there, -1, np.minimum(here - bounds[train], there - self._bounds[test]))
        room = np.minimum(bounds[train + 1] - here, self._bounds[test + 1] - there) - lengths
        lengths += left + self._reach(ids, here + lengths - 1, there + lengths - 1, 1, room)
        here, there = here - left, there - left
        # Two parts of one run have met by now; the longest of a pair goes first, of several the test item's first.
        order = np.lexsort((df, here, there, -lengths, test, train))
        train, test, there, lengths, df, here = (x[order] for x in (train, test, there, lengths, df, here))
        first = np.flatnonzero((np.diff(train, prepend=-1) != 0) | (np.diff(test, prepend=-1) != 0))
        return _LongestRuns(train[first], test[first], there[first], lengths[first], df[first])

    def _reach(self, ids: Ids, here: Ints, there: Ints, step: int, room: Ints) -> Ints:
        """How many more words are equal, walking by `step` from each pair of places, within `room`."""
        reached = np.zeros(len(here), np.int64)
        rows, distance = np.flatnonzero(room > 0), 0
        while len(rows):
            distance += 1
            rows = rows[ids[here[rows] + step * distance] == self._ids[there[rows] + step * distance]]
            reached[rows] = distance
            rows = rows[room[rows] > distance]
        return reached

    def _longest_in_repetitive_text(
        self, bounds: Ints, ids: Ids, places: Ints, grams: Ints, texts: Ints
    ) -> _LongestRuns:
        """As `_longest`, for one text that repeats itself so often that the meeting places would fill the memory."""
        n, text = self._n, int(texts[0])
        record = ids[bounds[text] : bounds[text + 1]].tobytes()
        rows = []
        spots = np.unique(grams)
        counts = self._table.text_bounds[spots + 1] - self._table.text_bounds[spots]
        rare_here = np.zeros(self._table.count + 1, np.bool_)
        rare_here[spots] = True
        for test in np.unique(self._table.texts[ranges(self._table.text_bounds[spots], counts)]).tolist():
            start, stop = int(self._bounds[test]), int(self._bounds[test + 1])
            rare = np.flatnonzero(rare_here[self._table.at[start:stop]])
            best, words = (0, 0), 0
            for place in range(start, stop - n + 1):  # the words shared from each place on; one less from the next
                words = max(0, words - 1)
                while place + words < stop and _holds(record, self._ids[place : place + words + 1].tobytes()):
                    words += 1
                following = rare[np.searchsorted(rare, place - start) :]
                if words > best[0] and len(following) and following[0] + n <= place - start + words:
                    best = words, place
            within = self._place_df[best[1] : best[1] + best[0] - n + 1]
            rows.append((text, test, best[1], best[0], int(within.min())))
        return _LongestRuns(*np.array(rows, np.int64).T)

    def _shares(self, runs: _LongestRuns, with_rare: Ints, texts: Ints, grams: Ints) -> list[float]:
        """Share of each pair's test words that stand in runs shared with the training text, common n-grams included."""
        n, found = self._n, np.zeros(self._table.count + 1, np.bool_)
        shares: list[float] = []
        low, high = np.searchsorted(texts, with_rare), np.searchsorted(texts, with_rare, side="right")
        first, last = np.searchsorted(runs.train, with_rare), np.searchsorted(runs.train, with_rare, side="right")
        for a, b, c, d in zip(low, high, first, last, strict=True):
            found[grams[a:b]] = True
            starts = self._bounds[runs.test[c:d]]
            sizes = self._bounds[runs.test[c:d] + 1] - starts
            # No n-gram starts at a record's last n - 1 words, so nothing reaches over into the next record.
            begins = np.cumsum(found[self._table.at[ranges(starts, sizes)]])
            begins[n:] = begins[n:] - begins[:-n]
            covered = np.add.reduceat((begins > 0).astype(np.int64), np.cumsum(sizes) - sizes)
            shares += [round(x / y, 4) for x, y in zip(covered.tolist(), sizes.tolist(), strict=True)]
            found[grams[a:b]] = False
        return shares


class _LongestRuns(NamedTuple):
    """One row a pair, sorted by train and test."""

    train: Ints
    test: Ints
    place: Ints  # in the words of all test records
    words: Ints
    df: Ints


def _holds(record: bytes, part: bytes) -> bool:
    """Whether ids (four bytes each) stand in a row in a record."""
    place = record.find(part)
    while place >= 0 and place % 4:
        place = record.find(part, place + 1)
    return place >= 0


# ---- short items


class _ShortItem(NamedTuple):
    eval: int
    parts: list[list[str]]  # question first, then options or answer: words of each


def _short_items(evals: Sequence[EvalText], least: int, below: int) -> list[_ShortItem]:
    items = []
    for number, text in enumerate(evals):
        question = word_list(text.question)
        if least <= len(question) < below:
            options = [words for words in map(word_list, text.options) if words]
            if not options:
                options = [words for words in [word_list(text.answer)] if words]
            items.append(_ShortItem(number, [question, *options]))
    return items


class _Shorts:
    """Test items too short for a run, looked for as a whole."""

    def __init__(self, vocabulary: Vocabulary, items: list[_ShortItem], word_df: Ints, first_words: int) -> None:
        self._items, self._first_words = items, first_words
        heads, bounds = _joined(vocabulary, [item.parts[0][:first_words] for item in items])
        self._table = GramTable(heads, bounds, first_words)
        # "Which of the following is true" starts many items; each one's rarest word tells at once that most are absent.
        rarest = []
        for item in items:
            ids = vocabulary.ids(word for part in item.parts for word in part)
            rarest.append(ids[np.argmin(word_df[ids])])
        self._rarest = np.array(rarest, np.int32)
        self._present = len(vocabulary.words) + 1

    def scan(self, batch: WordBatch, records: Sequence[str]) -> list[TextMatch]:
        """Pairs of which the training record holds every part as consecutive words."""
        _, grams, texts = self._table.find(batch.ids, batch.bounds)
        keys, _ = counted(texts * (self._table.count + 1) + grams)
        texts, grams = keys // (self._table.count + 1), keys % (self._table.count + 1)
        present = np.zeros(self._present, np.bool_)
        matches = []
        for text in np.unique(texts).tolist():
            mine = grams[np.searchsorted(texts, text) : np.searchsorted(texts, text, side="right")]
            counts = self._table.df[mine]
            items = self._table.texts[ranges(self._table.text_bounds[mine], counts)]
            ids = batch.ids[batch.bounds[text] : batch.bounds[text + 1]]
            present[ids] = True
            items = items[present[self._rarest[items]]]
            present[ids] = False
            if len(items):
                record = f" {' '.join(word_list(records[text]))} "
                for item in np.sort(items).tolist():
                    number, parts = self._items[item]
                    if all(f" {' '.join(part)} " in record for part in parts):
                        words = len(parts[0])
                        matches.append(TextMatch(text, number, "short_item", 1.0, words, " ".join(parts[0]), None))
        return matches


# ---- Jaccard


def _shingles(words: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(words[k : k + SHINGLE_WORDS]) for k in range(len(words) - SHINGLE_WORDS + 1)}


class _Shingles:
    """Jaccard of 5-word shingles of questions with options."""

    def __init__(self, vocabulary: Vocabulary, items: Sequence[Sequence[str]], settings: TextSettings) -> None:
        self._settings, self._items = settings, items
        ids, bounds = _joined(vocabulary, items)
        self._table = table = GramTable(ids, bounds, SHINGLE_WORDS)
        rare = table.df <= settings.shingle_common_df
        self._common = {
            tuple(vocabulary.words[number - 1] for number in ids[place : place + SHINGLE_WORDS])
            for place in table.first[~rare].tolist()
        }
        grams = np.repeat(np.arange(table.count), table.df)
        self._sizes: Ints = np.bincount(table.texts[rare[grams]], minlength=len(items))
        # Only what can make a pair: rare shingles of items that have enough of them.
        kept = rare[grams] & (self._sizes[table.texts] >= settings.shingles_min)
        self._texts = table.texts[kept]
        self._bounds: Ints = np.searchsorted(grams[kept], np.arange(table.count + 1))

    def candidates(self, batch: WordBatch) -> list[tuple[int, int]]:
        """Pairs that share enough shingles for the test item's size alone; sorted."""
        _, grams, texts = self._table.find(batch.ids, batch.bounds)
        keys, _ = counted(texts * (self._table.count + 1) + grams)
        texts, grams = keys // (self._table.count + 1), keys % (self._table.count + 1)
        counts = self._bounds[grams + 1] - self._bounds[grams]
        pairs: list[tuple[int, int]] = []
        edges = np.flatnonzero(np.diff(texts, prepend=-1))
        per_text = np.add.reduceat(counts, edges) if len(texts) else counts
        edges = np.append(edges, len(texts))
        for part in _slices(per_text, _EXPANSION):
            rows = slice(edges[part.start], edges[part.stop])
            tests = self._texts[ranges(self._bounds[grams[rows]], counts[rows])]
            met, shared = counted(np.repeat(texts[rows], counts[rows]) * len(self._sizes) + tests)
            enough = shared >= self._settings.jaccard * self._sizes[met % len(self._sizes)] - MARGIN
            first, second = divmod(met[enough], len(self._sizes))
            pairs += zip(first.tolist(), second.tolist(), strict=True)
        return pairs

    def score(self, pairs: Sequence[tuple[int, int]], trains: Sequence[TrainText]) -> list[TextMatch]:
        """Those of the pairs that reach the threshold, on the words themselves."""
        matches, known = [], (-1, set[tuple[str, ...]]())
        for train, test in pairs:
            if known[0] != train:
                known = train, _shingles(word_list(trains[train].item)) - self._common
            ours, theirs = known[1], _shingles(self._items[test]) - self._common
            if min(len(ours), len(theirs)) < self._settings.shingles_min:
                continue
            shared = len(ours & theirs)
            score = shared / (len(ours) + len(theirs) - shared)
            if score >= self._settings.jaccard:
                matches.append(TextMatch(train, test, "jaccard", round(score, 4), shared, None, None))
        return matches


# ---- rewrites


class _Cosines:
    """TF-IDF cosine of question + answer with question + options.

    tf = 1 + log(count), idf = log((N + 1) / (df + 1)) with N and df from the test side alone; what the test side lacks
    has df 0. A training text's rarest words are looked up in the test side's postings until the words left over weigh
    too little to make a pair by themselves; the pairs met are bounded by Cauchy and Schwarz, then scored.
    """

    def __init__(self, vocabulary: Vocabulary, items: Sequence[Sequence[str]], settings: TextSettings) -> None:
        self._settings, self._items, self._vocabulary = settings, items, vocabulary
        ids, bounds = _joined(vocabulary, items)
        size = len(vocabulary.words) + 1
        owners = np.repeat(np.arange(len(items)), np.diff(bounds))
        keys, counts = counted(owners * size + ids)
        owners, words = keys // size, keys % size
        self._df: Ints = np.bincount(words, minlength=size)
        # Of the math library, which rounds alike with any vector unit: scores are the same on every machine.
        self._idf: Floats = np.array([math.log((len(items) + 1) / (df + 1)) for df in self._df.tolist()])
        weights = (1 + np.log(counts)) * self._idf[words]
        norms = np.sqrt(np.bincount(owners, weights**2, minlength=len(items)))
        weights /= np.where(norms > 0, norms, 1)[owners]
        self._bounds: Ints = np.searchsorted(owners, np.arange(len(items) + 1))  # by test item
        self._words, self._weights = words, weights
        order = np.argsort(words, kind="stable")
        self._posting_bounds: Ints = np.searchsorted(words[order], np.arange(size + 1))
        self._posting_tests, self._posting_weights = owners[order], weights[order]

    def candidates(self, items: WordBatch, answers: WordBatch) -> list[tuple[int, int]]:
        """Pairs whose cosine, in array arithmetic, reaches the threshold less a margin; sorted."""
        if not len(self._items):
            return []
        rows = _weighted_words(items, answers, self._df, self._idf, self._settings.rewrite_answer_words)
        threshold = self._settings.rewrite - MARGIN
        pairs: list[tuple[int, int]] = []
        starts = np.flatnonzero(np.diff(rows.text, prepend=-1))
        if not len(starts):
            return []
        edges = np.append(starts, len(rows.text))
        # Weight of the words from each on; looking up more would cost more than scoring fewer pairs saves.
        squares = np.cumsum(rows.weight**2)
        totals = np.repeat(squares[edges[1:] - 1], np.diff(edges))
        left = np.sqrt(np.maximum(0, totals - squares + rows.weight**2))
        looked_up = left >= threshold * _LOOKED_UP
        rest = np.zeros(len(starts))
        np.maximum.at(rest, np.repeat(np.arange(len(starts)), np.diff(edges)), np.where(looked_up, 0, left))
        tests, size = len(self._items), len(self._idf)
        per_round = max(1, _ROUND // max(tests, size))
        dense = np.zeros(per_round * size)  # a text's weights by word, of one round's texts
        for low in range(0, len(starts), per_round):
            high = min(len(starts), low + per_round)
            part = slice(edges[low], edges[high])
            text = np.repeat(np.arange(high - low), np.diff(edges[low : high + 1]))
            words, weights = rows.word[part], rows.weight[part]
            chosen = np.flatnonzero(looked_up[part] & (words > 0))
            counts = self._df[words[chosen]]
            spots = ranges(self._posting_bounds[words[chosen]], counts)
            sums = np.bincount(
                np.repeat(text[chosen] * tests, counts) + self._posting_tests[spots],
                np.repeat(weights[chosen], counts) * self._posting_weights[spots],
                minlength=(high - low) * tests,
            ).reshape(high - low, tests)
            maybe_text, maybe_test = divmod(np.flatnonzero(sums >= threshold - rest[low:high, None]), tests)
            if not len(maybe_text):
                continue
            spread = (text * size + words)[words > 0]  # words the test side lacks meet nothing
            dense[spread] = weights[words > 0]
            sizes = self._bounds[maybe_test + 1] - self._bounds[maybe_test]
            maybe_text, maybe_test, sizes = maybe_text[sizes > 0], maybe_test[sizes > 0], sizes[sizes > 0]
            for cut in _slices(sizes, _EXPANSION):
                spots = ranges(self._bounds[maybe_test[cut]], sizes[cut])
                products = dense[np.repeat(maybe_text[cut] * size, sizes[cut]) + self._words[spots]]
                scores = np.add.reduceat(products * self._weights[spots], np.cumsum(sizes[cut]) - sizes[cut])
                reach = np.flatnonzero(scores >= threshold) + cut.start
                found = rows.text[starts[maybe_text[reach] + low]]
                pairs += zip(found.tolist(), maybe_test[reach].tolist(), strict=True)
            dense[spread] = 0
        return pairs

    def score(self, pairs: Sequence[tuple[int, int]], trains: Sequence[TrainText]) -> list[TextMatch]:
        """Those of the pairs that reach the threshold, on the words themselves, in sums that no order changes."""
        matches = []
        ours: tuple[int, dict[str, float]] = (-1, {})
        theirs: dict[int, dict[str, float]] = {}
        for train, test in pairs:
            if ours[0] != train:
                ours = train, self._weigh(self._train_words(trains[train]))
            if test not in theirs:
                theirs[test] = self._weigh(self._items[test])
            score = _cosine(ours[1], theirs[test])
            if score >= self._settings.rewrite:
                matches.append(TextMatch(train, test, "rewrite", round(score, 4), None, None, None))
        return matches

    def _train_words(self, text: TrainText) -> list[str]:
        answer = word_list(text.answer)
        return word_list(text.item) + (answer if len(answer) <= self._settings.rewrite_answer_words else [])

    def _weigh(self, words: Collection[str]) -> dict[str, float]:
        idf = self._idf
        counts = Counter(words)
        return {word: (1 + math.log(n)) * float(idf[self._vocabulary.id(word)]) for word, n in counts.items()}


def _cosine(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    norms = [math.sqrt(math.fsum(x * x for x in weights.values())) for weights in (one, other)]
    if not all(norms):
        return 0.0
    small, large = sorted((one, other), key=len)
    return math.fsum(x * large[word] for word, x in small.items() if word in large) / (norms[0] * norms[1])


class _Weighted(NamedTuple):
    """Different words of training texts with their share of the text's norm; each text's rarest first."""

    text: Ints
    word: Ints  # 0 for words the test side lacks
    weight: Floats


def _weighted_words(items: WordBatch, answers: WordBatch, df: Ints, idf: Floats, answer_words: int) -> _Weighted:
    """Weights tf * idf over the norm, for the words of every item and, where it is short, its answer."""
    texts = [np.repeat(np.arange(len(batch.bounds) - 1), np.diff(batch.bounds)) for batch in (items, answers)]
    short = np.diff(answers.bounds)[texts[1]] <= answer_words
    text = np.concatenate([texts[0], texts[1][short]])
    ids = np.concatenate([items.ids, answers.ids[short]]).astype(np.int64)
    hashes = np.concatenate([items.hashes, answers.hashes[short]])
    known = ids > 0
    keys, counts = counted(text[known] * len(df) + ids[known])
    # Two words that the test side lacks differ by their hashes alone; `score` counts them by their letters.
    order = np.lexsort((hashes[~known], text[~known]))
    strange_text, strange = text[~known][order], hashes[~known][order]
    first = np.flatnonzero((np.diff(strange_text, prepend=-1) != 0) | np.append(True, strange[1:] != strange[:-1]))
    strange_counts = np.diff(first, append=len(strange))
    text = np.concatenate([keys // len(df), strange_text[first]])
    word = np.concatenate([keys % len(df), np.zeros(len(first), np.int64)])
    weight = (1 + np.log(np.concatenate([counts, strange_counts]))) * idf[word]
    norms = np.sqrt(np.bincount(text, weight**2, minlength=len(items.bounds) - 1))
    keep = weight > 0
    text, word, weight = text[keep], word[keep], weight[keep]
    order = np.lexsort((word, df[word], text))
    return _Weighted(text[order], word[order], weight[order] / norms[text[order]])
