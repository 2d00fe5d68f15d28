"""Near texts, derived a second time by tuples of words in dictionaries and sets (see the room)."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from manifests.catalog import LoadedBuild
from manifests.proof.passages import LONG_RUN, LONGER_RUN, PASSAGE_GRAMS, PASSAGE_SHARE
from manifests.proof.policy import Policy, TextSettings
from manifests.proof.stems import (
    ANSWER_WORDS,
    BESIDE_WORDS,
    FAR_SHARE,
    GOLD_LETTERS,
    GOLD_REACH,
    GOLD_RUN,
    GOLD_SHARE,
    LETTERS,
    LONG_STEM_BITS,
    LONG_STEM_PLAIN,
    NEARLY_ALL,
    NEXT_WORDS,
    OWN_SHARE,
    PROSE_TIMES,
    REST_WORDS,
    ROW_LETTERS,
    ROW_SHARE,
    ROW_WORDS,
    SAYS_BITS,
    STATED_WORDS,
    STATEMENT_ENDS,
    STEM_PLAIN,
    STEM_WORDS,
    USUAL,
    USUAL_SHARE,
    is_sibling,
)
from manifests.proof.text_pairs import NAMED
from manifests.proof.word_weights import REFERENCE_TEXTS, UNIT, information, reference_counts
from manifests.verification.derived import Derived, Found, Key, Progress, found, message_text, normalised
from manifests.verification.spread import Part, Pool, parts_of
from manifests.verification.stored_samples import records

# Scripts without spaces: a word a character (iteration marks, kana, ideographs with extensions A to H, archaic kana).
_ALONE = (
    "\u3005-\u3007\u3041-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U0001aff0-\U0001b16f\U00020000-\U000323af"
)
_SPLIT = re.compile(f"[{_ALONE}]|[^{_ALONE}]+")
_Gram = tuple[str, ...]
_Place = tuple[int, int, int, int, int]
"""Weight of the pairs in a window; its start and end; where its pairs begin and end."""
_Measures = tuple[float, float, float, int, int, float]
"""Share of a stem's runs of letters, plain and weighed; what they say; its words in shared pairs and in rows; share of
the runs between a window's pairs that are the stem's."""


def words_of(text: str) -> list[str]:
    """Words in the near-text level's sense: those of `normalised`, ideographs and kana alone."""
    return [word for run in normalised(text).split() for word in _SPLIT.findall(run)]


@dataclass
class Text:
    """What the levels of texts read of a record."""

    question: str
    options: list[str]
    answer: str
    dialogue: str
    passages: list[str]
    together: str | None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Text:
        """A stored record's."""
        said = [(one["role"], one["reasoning"], message_text(one, "\n")) for one in record["messages"] or []]
        asked = [text for role, _, text in said if role != "assistant"]
        answer = ["", *(text for role, _, text in said if role == "assistant")][-1]
        options = [one["text"] for one in record["options"] or []]
        gold = [one["text"] for one in record["options"] or [] if one["label"] == record["answer"]]
        question = record["question"]
        if question is None:
            question = "" if record["task"] in ("caption", "report") else "\n".join(asked)
        pieces = asked + ([] if options else [answer]) + [reasoning for _, reasoning, _ in said if reasoning]
        if record["task"] == "report":
            pieces = [answer]
        whose = (record["group"][name] for name in ("subject_id", "pmcid", "pmid", "video_id", "study_id"))
        for known in sorted({question, *options} - {""}, key=lambda known: (-len(known), known)):
            pieces = [part for piece in pieces for part in piece.split(known)]
        return cls(
            question,
            options,
            (gold[0] if gold else answer) or "",
            "\n".join(piece for _, reasoning, text in said for piece in ([reasoning] if reasoning else []) + [text]),
            [question, *(piece for piece in pieces if piece.strip())],
            next((one for one in whose if one), None),
        )

    @property
    def item(self) -> str:
        """Question and options."""
        return "\n".join([self.question, *self.options])

    @property
    def whole(self) -> str:
        """All there is."""
        return self.dialogue if self.question in self.dialogue else f"{self.item}\n{self.dialogue}"


def why_left_out(row: Mapping[str, Any], text: Text, settings: TextSettings) -> str | None:
    """Why a test item is not compared by its words; None where it is."""
    if row["task"] in settings.leave_out_eval_tasks:
        return "task"
    if not text.question:
        most = max([0, *(len(words_of(piece)) for piece in text.passages)])
        return "short text" if most < settings.passage_words else None
    short = row["n_images"] and len(words_of(text.item)) < settings.picture_items_min_words
    return "short question about a picture" if short else None


@dataclass
class _TestText:
    end: dict[str, Any]
    access: str
    group: str
    stem: _Gram
    gold: _Gram
    passages: list[_Gram]
    together: str | None
    task: str


def near_texts(
    builds: Sequence[LoadedBuild],
    policy: Policy,
    chosen: set[Key] | None,
    progress: Progress,
    keep: Callable[[Found], None],
    pool: Pool,
) -> Derived:
    """Evidence of the level near_text for the chosen training samples, all without a choice; `keep` takes its rows.

    What is boilerplate of a part follows from all of its samples: they are read in any case. Raises: `UserError`,
    `OSError`.
    """
    derived = Derived(keep)
    tests = _TestTexts(builds, policy.text, derived.left_out, progress)
    for test in tests.in_usual_words():
        derived.left_out[test.end["eval_build"], test.task, "words of many patients' reports"] += 1
    parts = parts_of(builds, "samples")
    for part, rows in pool.spread(_near_texts_of, (tests, policy, chosen), parts, progress):
        derived.add(part, rows)
    return derived


def _near_texts_of(
    shared: tuple[_TestTexts, Policy, set[Key] | None], part: Part, progress: Progress
) -> tuple[Derived, list[Found]]:
    tests, policy, chosen = shared
    rows_found: list[Found] = []
    derived, build, path = Derived(rows_found.append), part.build, part.path
    name, access = build.record["build"], build.record["source"]["access"]
    hits: Counter[_Gram] = Counter()
    patients: dict[_Gram, set[str]] = defaultdict(set)
    having: dict[str, set[str]] = defaultdict(set)
    samples = 0
    for _, record in records(build, path, progress):
        text = Text.of(record)
        words = words_of(text.whole)
        held = tests.looked_for.intersection(_grams(words, tests.n))
        hits.update(held)
        samples += 1
        of_reports = held & tests.of_reports
        if of_reports and text.together:
            for gram in of_reports:
                patients[gram].add(text.together)
            for word in tests.words_of_reports.intersection(words):
                having[word].add(text.together)
    least = max(policy.text.boilerplate_samples, policy.text.boilerplate_share * samples)
    usual = {
        gram
        for gram, count in hits.items()
        if count > least or gram in tests.usual or tests.is_of_many(patients.get(gram, ()))
    }
    rare = tests.rarity(having, len(set().union(*patients.values())), tests.rare)
    for gram in usual:
        shown = " ".join(gram)
        if all(tests.items[number].access == "credentialed" for number in tests.holders[gram]):
            shown = f"sha256:{hashlib.sha256(shown.encode()).hexdigest()}"
        derived.common[shown] = len(tests.holders[gram]), derived.common.get(shown, (0, 0))[1] + hits[gram]
    for row, record in records(build, path, lambda count: None):
        if chosen is not None and (name, row["sample_id"]) not in chosen:
            continue
        derived.looked_at += 1
        derived.counts["train_samples"] += 1
        whole = Text.of(record).whole
        words = words_of(whole)
        for number, measures in (*tests.stems_in(whole, words), *tests.passages_in(words, usual, rare)):
            test = tests.items[number]
            derived.counts[measures["kind"]] += 1
            if "credentialed" in (access, test.access):
                measures = {**measures, "span": None}
            derived.keep(
                found(
                    level="near_text", train_build=name, train_split=row["split"],
                    train_sample=row["sample_id"], **test.end, **measures,
                )
            )  # fmt: skip
    return derived, rows_found


class _TestTexts:
    """All test items: stems, their pairs of words, passages and their n-grams, in dictionaries."""

    def __init__(
        self,
        builds: Sequence[LoadedBuild],
        settings: TextSettings,
        left_out: Counter[tuple[str, str, str]],
        progress: Progress,
    ) -> None:
        self.settings, self.n = settings, settings.run_words
        self.items: list[_TestText] = []
        for build in builds:
            self._read(build, left_out, progress)
        asked = [test for test in self.items if not test.together]
        texts = {words for test in asked for words in (test.stem, *test.passages) if words}
        self._total = max(REFERENCE_TEXTS, len(texts))
        around: dict[str, set[_Gram]] = defaultdict(set)
        for words in texts:
            for before, word, after in zip(("", *words), words, (*words[1:], ""), strict=False):
                around[word].add((before, after))
        self._around = {word: len(places) for word, places in around.items()}
        self._weights: dict[str, int] = {}
        self._read_stems()
        self._read_passages()

    def _read(self, build: LoadedBuild, left_out: Counter[tuple[str, str, str]], progress: Progress) -> None:
        name, settings = build.record["build"], self.settings
        template = build.record["parameters"].get("pictures_stored") is not False
        for _, part in build.parts("samples", "eval"):
            for row, record in records(build, part, progress):
                text = Text.of(record)
                if reason := why_left_out(row, text, settings):
                    left_out[name, row["task"], reason] += 1
                else:
                    end = {"eval_build": name, "eval_split": row["split"], "eval_subset": row["subset"]}
                    self.items.append(
                        _TestText(
                            {**end, "eval_sample": row["sample_id"]}, build.record["source"]["access"],
                            name if template else "", tuple(words_of(text.question)),
                            tuple(words_of(text.answer)) if text.question else (),
                            [tuple(words_of(piece)) for piece in text.passages],
                            None if text.question else text.together, row["task"],
                        )
                    )  # fmt: skip

    def weight(self, word: str, rare: Mapping[str, int] = MappingProxyType({})) -> int:
        """How much a word says, in units of `word_weights.UNIT` to a bit; no more than `rare` has of it."""
        if word in rare:
            return min(rare[word], self.weight(word))
        if word not in self._weights:
            weight = 0
            if not word.isdigit() and (len(word) > 1 or not word.isascii()):
                weight = information(self._total, self._around.get(word, 1))
                if word in (known := reference_counts()):
                    weight = min(weight, information(REFERENCE_TEXTS, known[word]))
                weight = max(0, weight - UNIT)
            self._weights[word] = weight
        return self._weights[word]

    def _weigh(self, words: Iterable[str], rare: Mapping[str, int] = MappingProxyType({})) -> int:
        return sum(self.weight(word, rare) for word in set(words))

    # ---- stems

    def _read_stems(self) -> None:
        self.stems: dict[_Gram, list[int]] = defaultdict(list)
        for number, test in enumerate(self.items):
            if test.stem:
                self.stems[test.stem].append(number)
        answers = {(test.stem, test.gold) for test in self.items if test.stem and test.gold}
        self._holders = Counter(gold for _, gold in answers)
        golds = {test.gold for test in self.items if len(test.gold) > 1}
        self._df = Counter(pair for words in (*self.stems, *golds) for pair in set(_grams(words, 2)))
        self._usual = max(USUAL, len(self.stems) // USUAL_SHARE)
        self._by_pair: dict[_Gram, set[_Gram]] = defaultdict(set)
        self._pairs: dict[_Gram, dict[_Gram, int]] = {}
        for stem, owners in self.stems.items():
            pairs = self._pairs[stem] = self._stem_pairs(stem)
            for pair, weight in pairs.items():
                if weight:
                    self._by_pair[pair].add(stem)
            if len(stem) == 1:
                self._by_pair[stem].add(stem)
            for gold in {self.items[owner].gold for owner in owners}:
                if self._is_long(gold):
                    self._by_pair[next(_grams(gold, 2))].add(stem)

    def _is_long(self, gold: _Gram) -> bool:
        return len(gold) > 1 and self._says(gold) >= self.settings.answer_bits * UNIT

    def _says(self, gold: _Gram) -> int:
        """What an answer says: of one that many stems have, no more than which of them it is."""
        says, holders = self._weigh(gold), self._holders[gold]
        return says if holders <= USUAL else min(says, information(self._total, holders))

    def _stem_pairs(self, stem: _Gram) -> dict[_Gram, int]:
        pairs: dict[_Gram, int] = {}
        for place, pair in enumerate(_grams(stem, 2)):
            times = 1 + (place == 0), 1 + (place + 2 == len(stem))
            weight = times[0] * self.weight(pair[0]) + times[1] * self.weight(pair[1])
            pairs.setdefault(pair, 0 if self._df[pair] > self._usual else weight)
        if pairs and not any(pairs.values()):
            pairs[min(_grams(stem, 2), key=lambda pair: self._df[pair])] = 1
        return pairs

    def stems_in(self, whole_text: str, record: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Test items whose stem a training text holds, and the measures."""
        places: dict[_Gram, list[int]] = defaultdict(list)
        for place, pair in enumerate(_grams(record, 2)):
            places[pair].append(place)
        met = {stem for pair in (*places, *_grams(record, 1)) for stem in self._by_pair.get(pair, ())}
        text = _Letters(whole_text, record)
        for stem in met:
            owners = self.stems[stem]
            window = self._window(stem, record, places, frozenset())
            if window is None:
                continue
            limits, whole = self.settings, sum(self._pairs[stem].values())
            alone, near = None, limits.answer_pairs * whole <= window[0]
            verbatim, prose = text.has(stem), len(record) > 2 * len(stem) + 16 + REST_WORDS
            if limits.stem_pairs * whole <= window[0]:
                alone = self._measured(stem, record, window, frozenset())
                alone = alone if self._is_enough(stem, verbatim, len(record) - window[4] + window[3], alone) else None
            answered: dict[_Gram, tuple[_Place, _Measures]] = {}
            for gold in {self.items[one].gold for one in owners} - {()}:
                if not near and not (self._is_long(gold) and text.has(gold)):
                    continue
                hidden, held, share = frozenset[int](), window, 1.0
                if spots := text.spots(gold):
                    hidden = frozenset(place for spot in spots for place in spot)
                    beside = self._window(stem, record, places, hidden)
                    if beside is None:
                        continue
                    held = beside
                elif prose or (share := text.nearly(gold, window)) < GOLD_SHARE:
                    continue
                measures = self._measured(stem, record, held, hidden)
                if self._is_answered(stem, gold, text, verbatim, spots, share, held, measures):
                    answered[gold] = held, measures
            found = [*answered.values(), *([(window, alone)] if alone else [])]
            if not found:
                continue
            window, best = max(found, key=lambda one: (max(one[1][:2]), one[1][3]))
            kind = "stem" if alone else "stem_answer"
            if not verbatim and is_sibling(stem, record[window[1] : window[2]]):
                kind = "sibling"
            mine = [one for one in owners if alone or self.items[one].gold in answered]
            for number in mine[:NAMED]:
                score = round(max(best[:2]), 4)
                yield number, {"kind": kind, "score": score, "words": best[3], "eval_df": len(owners)}

    def _window(
        self, stem: _Gram, record: list[str], places: Mapping[_Gram, Sequence[int]], hidden: Set[int]
    ) -> _Place | None:
        """The window of a record that has most of a stem's pairs, none of its hidden words among them."""
        if len(stem) == 1:
            first = next((at for at, word in enumerate(record) if word == stem[0] and at not in hidden), None)
            return None if first is None else (0, first, first + 1, first, first + 1)
        pairs, size = self._pairs[stem], 2 * len(stem) + 16
        hits = sorted(
            (place, pair) for pair in pairs for place in places.get(pair, ()) if hidden.isdisjoint((place, place + 1))
        )
        if not hits:
            return None
        sums = list(itertools.accumulate((pairs[pair] + 1 for _, pair in hits), initial=0))
        firsts = [bisect.bisect_left(hits, (place + 2 - size,)) for place, _ in hits]
        last = max(range(len(hits)), key=lambda at: (sums[at + 1] - sums[firsts[at]], -at))
        inside = hits[firsts[last] : last + 1]
        end = hits[last][0] + 2
        return sum(pairs[pair] for pair in {pair for _, pair in inside}), max(0, end - size), end + 8, inside[0][0], end

    def _measured(self, stem: _Gram, record: list[str], window: _Place, hidden: Set[int]) -> _Measures:
        words = ["" if place in hidden else record[place] for place in range(window[1], min(window[2], len(record)))]
        here = set(_grams(words, 2))
        rows = [
            len(list(run)) + 1 for shared, run in itertools.groupby(pair in here for pair in _grams(stem, 2)) if shared
        ]
        text, there = "".join(stem), "".join(words)
        each = [self.weight(word) * UNIT // len(word) for word in stem for _ in word]
        runs: dict[str, int] = {}
        for place in range(max(1, len(text) - LETTERS + 1)):
            runs.setdefault(text[place : place + LETTERS], sum(each[place : place + LETTERS]))
        met = {run for run in runs if there.find(run) >= 0}
        weighed = sum(runs[run] for run in met) / max(1, sum(runs.values()))
        in_rows = sum(row for row in rows if row >= ROW_WORDS)
        between = "".join("" if place in hidden else record[place] for place in range(window[3], window[4]))
        own = [between[place : place + LETTERS] in runs for place in range(max(1, len(between) - LETTERS + 1))]
        share = own.count(True) / len(own)
        return len(met) / len(runs), weighed, weighed * self._weigh(stem), sum(rows), in_rows, share

    def _is_enough(self, stem: _Gram, verbatim: bool, rest: int, measures: _Measures) -> bool:
        """Whether a record holds so much of a stem that its answer does not matter."""
        plain, weighed, known, *_ = measures
        least = self.settings.stem_bits * UNIT * (PROSE_TIMES if rest > REST_WORDS and not verbatim else 1)
        if len(stem) < STEM_WORDS or known < least or weighed < self.settings.stem_letters:
            return False
        return plain >= STEM_PLAIN or (known >= LONG_STEM_BITS * UNIT and plain >= LONG_STEM_PLAIN)

    def _is_answered(
        self,
        stem: _Gram,
        gold: _Gram,
        text: _Letters,
        verbatim: bool,
        spots: list[range],
        share: float,
        window: _Place,
        held: _Measures,
    ) -> bool:
        """Whether an answer, or that share of it, is so near to what is left of a stem that both are an item."""
        limits, says, (plain, weighed, known, _, in_rows, own) = self.settings, self._says(gold), held
        gaps = [window[3] - spot.stop if spot.stop <= window[3] else max(0, spot.start - window[4]) for spot in spots]
        gap, here = min(gaps, default=0), max(plain, weighed)
        in_a_row = in_rows >= ROW_SHARE * len(stem) and self._holders[gold] <= USUAL
        if verbatim and spots:
            whole = self._weigh(stem)
            if gap < 2:
                return True
            alone = whole >= SAYS_BITS * UNIT or (gap <= ANSWER_WORDS and text.states(stem, 1))
            if alone and whole + says >= limits.verbatim_bits * UNIT:
                return True
        row = in_a_row and (here >= FAR_SHARE or len(spots) > 0)
        if known + share * says < UNIT * (limits.row_bits if row else limits.answer_bits):
            return False
        whole_stem = here >= NEARLY_ALL and known >= SAYS_BITS * UNIT
        if spots and text.words - (window[4] - window[3]) > REST_WORDS + len(gold) and not text.states(gold):
            pairs = sum(self._pairs[stem].values()) * limits.stem_pairs
            return whole_stem and window[0] >= pairs and known >= LONG_STEM_BITS * UNIT
        if whole_stem:
            return True
        if gap > ANSWER_WORDS or own < OWN_SHARE:
            return False
        if known < SAYS_BITS * UNIT:
            return in_a_row and self._is_long(gold) and gap <= NEXT_WORDS
        if in_a_row and gap <= BESIDE_WORDS:
            return here >= ROW_LETTERS
        if spots and gap <= BESIDE_WORDS:
            return here >= limits.answer_letters
        return plain + weighed >= 2 * FAR_SHARE

    # ---- passages

    def _read_passages(self) -> None:
        self._passages: dict[_Gram, list[int]] = defaultdict(list)
        for number, test in enumerate(self.items):
            for words in dict.fromkeys(test.passages):
                if len(words) >= self.n:
                    self._passages[words].append(number)
        self._having: dict[_Gram, list[_Gram]] = defaultdict(list)
        self.holders: dict[_Gram, set[int]] = defaultdict(set)
        for passage, owners in self._passages.items():
            for gram in set(_grams(passage, self.n)):
                self._having[gram].append(passage)
                self.holders[gram].update(owners)
        sizes = Counter(test.group for test in self.items)
        self._read_reports()
        self.says = {
            gram
            for gram, owners in self.holders.items()
            if (gram in self.of_reports or sum(map(self.weight, gram)) >= self.settings.run_bits * UNIT)
            and gram not in self.usual
            and not any(
                group and sizes[group] > 2 and 2 * count > sizes[group]
                for group, count in Counter(self.items[one].group for one in owners).items()
            )
        }
        self.looked_for = self.says | self.of_reports
        self._order = {passage: number for number, passage in enumerate(self._passages)}

    def is_of_many(self, patients: Collection[str]) -> bool:
        """Whether what these patients' reports have is boilerplate."""
        return len(patients) > self.settings.boilerplate_patients

    def _is_report(self, passage: _Gram) -> bool:
        return all(self.items[owner].together for owner in self._passages[passage])

    def _read_reports(self) -> None:
        """Runs that reports alone hold, those of many patients, and what words say among patients."""
        self.of_reports: set[_Gram] = set()
        self.usual: set[_Gram] = set()
        for gram, owners in self.holders.items():
            patients = {self.items[owner].together or "" for owner in owners}
            if "" not in patients:
                self.of_reports.add(gram)
                if self.is_of_many(patients):
                    self.usual.add(gram)
        having: dict[str, set[str]] = defaultdict(set)
        for passage, items in self._passages.items():
            if self._is_report(passage):
                for word in set(passage):
                    having[word].update(self.items[owner].together or "" for owner in items)
        self.words_of_reports = set(having)
        self.rare = self.rarity(having, len({test.together for test in self.items} - {None, ""}), {})

    def rarity(self, having: Mapping[str, Set[str]], patients: int, known: Mapping[str, int]) -> dict[str, int]:
        """What words say that the reports of many of some patients have, if what is known is not less."""
        many = {word: len(mine) for word, mine in having.items() if self.is_of_many(mine)}
        found = {word: information(patients, count) for word, count in many.items()}
        return {word: min(each.get(word, 1 << 30) for each in (known, found)) for word in {*known, *found}}

    def in_usual_words(self) -> list[_TestText]:
        """Reports of which no passage has enough that not many patients' have."""
        able: set[int] = set()
        for passage, owners in self._passages.items():
            if self._is_report(passage):
                covered = self._covered(passage, self.says)
                weight = self._weigh((passage[place] for place in covered), self.rare)
                if weight >= self.settings.report_bits * UNIT:
                    able.update(owners)
        return [test for number, test in enumerate(self.items) if test.together and number not in able]

    def _covered(self, passage: _Gram, runs: Set[_Gram]) -> set[int]:
        begins = (place for place, gram in enumerate(_grams(passage, self.n)) if gram in runs)
        return {place for begin in begins for place in range(begin, begin + self.n)}

    def passages_in(
        self, record: list[str], usual: set[_Gram], rare: Mapping[str, int]
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """Test items of whose passages a training text holds enough, and the measures."""
        here = set(_grams(record, self.n))
        grams = (here & self.says) - usual
        held = grams | (here & self.of_reports)
        if len(grams) < PASSAGE_GRAMS:
            return
        shared = Counter(passage for gram in grams for passage in self._having[gram])
        spaced, named = f" {' '.join(record)} ", set[int]()
        for passage in sorted(shared, key=lambda passage: (-shared[passage], self._order[passage])):
            if shared[passage] < PASSAGE_GRAMS or len(named) >= NAMED:
                return
            begins = [place for place, gram in enumerate(_grams(passage, self.n)) if gram in grams]
            shared_words, is_report = len(self._covered(passage, held)), self._is_report(passage)
            if shared_words < self.settings.passage_words:
                continue
            own = (passage[place] for place in self._covered(passage, grams))
            weight = self._weigh(own, rare if is_report else {})
            least = UNIT * (self.settings.report_bits if is_report else self.settings.passage_bits)
            if weight < least and (is_report or 2 * weight < least):
                continue
            place, length = 0, 0
            for begin in begins:
                end = begin + max(self.n, length)
                while end <= len(passage) and f" {' '.join(passage[begin:end])} " in spaced:
                    place, length, end = (
                        (begin, end - begin, end + 1) if end - begin > length else (place, length, end + 1)
                    )
            if weight < least and length < LONG_RUN:
                continue
            if length < LONGER_RUN and shared_words < PASSAGE_SHARE * len(passage):
                continue
            run = passage[place : place + length]
            measures = {
                "kind": "passage", "score": round(shared_words / len(passage), 4), "words": length,
                "span": " ".join(run), "eval_df": min(len(self.holders[gram]) for gram in _grams(run, self.n)),
            }  # fmt: skip
            for number in self._passages[passage]:
                if number not in named and len(named) < NAMED:
                    named.add(number)
                    yield number, measures


class _Letters:
    """A record's letters without blanks, and which word each belongs to."""

    def __init__(self, text: str, words: list[str]) -> None:
        self._whole, self._words, self._text, self.words = text, words, "".join(words), len(words)
        self._word = [number for number, word in enumerate(words) for _ in word]
        self._edges = {0, *itertools.accumulate(map(len, words))}
        self._spaced = f" {' '.join(words)} "

    def has(self, words: _Gram) -> bool:
        """Whether some words stand there in a row."""
        return f" {' '.join(words)} " in self._spaced

    def states(self, some: _Gram, more: int = STATED_WORDS) -> bool:
        """Whether some words stand for themselves: few others up to the ends of their statement."""
        pieces = map(words_of, STATEMENT_ENDS.split(self._whole))
        return any(some in _grams(words, len(some)) for words in pieces if len(words) <= len(some) + more)

    def spots(self, gold: _Gram) -> list[range]:
        """Places of an answer: its words, or, if it is no short one, its letters."""
        joined = "".join(gold)
        starts = [found.start() for found in re.finditer(f"(?={re.escape(joined)})", self._text)]
        return [
            range(self._word[start], self._word[start + len(joined) - 1] + 1)
            for start in starts
            if len(joined) >= GOLD_LETTERS or {start, start + len(joined)} <= self._edges
        ]

    def nearly(self, gold: _Gram, window: _Place) -> float:
        """Share of an answer's runs of letters beside a window; of a short answer none."""
        joined, reach = "".join(gold), 2 * len(gold) + GOLD_REACH
        runs = {"".join(run) for run in zip(*(joined[at:] for at in range(GOLD_RUN)), strict=False)}
        if len(runs) <= GOLD_LETTERS - GOLD_RUN:
            return 0.0
        before, behind = self._words[max(0, window[3] - reach) : window[3]], self._words[window[4] :][:reach]
        return max(len([run for run in runs if "".join(side).count(run)]) / len(runs) for side in (before, behind))


def _grams(words: Sequence[str], n: int) -> Iterator[_Gram]:
    """Every n words in a row, from each place on."""
    return zip(*(words[start:] for start in range(n)), strict=False)
