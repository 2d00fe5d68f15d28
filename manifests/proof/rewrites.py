"""Test items in other words: a sentence model proposes, words decide.

Stem of a test item and question of a training sample are laid into a space by each model of the policy (`encoders`);
the test side is small, so every pair whose cosine reaches the model's floor is looked at, none is left out by an index.
Then only words count, so that another patient with the same disease stays:

| kind | both questions are alike to the model, and |
|---|---|
| rewrite | the record has the gold answer, and enough of what its question says is in stem and gold |
| question | the gold answer is not there, but the questions are long and say nearly the same |
| sibling | one of these, but other numbers, other units, or turned round by a "not" |
| translation | the languages differ; numbers are the same, or the gold answer stands there all the same |

What a word says is its weight: the binary logarithm of how rare it is in exam questions (`common_words.txt`).
Not seen: an item inside a longer document, a question whose answer alone was kept, what a text says after its first
`encoders.MOST_TOKENS` tokens. How many real rewrites are found is measured by `bench/rewrites.py`, never proved.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from manifests.proof.ngrams import word_list
from manifests.proof.stems import NEGATIONS
from manifests.proof.word_weights import REFERENCE_TEXTS, UNIT, information, reference_counts
from medgpt.atomic import AtomicFile
from medgpt.text import fold

if TYPE_CHECKING:
    from manifests.proof.encoders import Encoder, Vectors
    from manifests.proof.policy import RewriteSettings

VERSION = 1
COVERAGE_FILE = Path(__file__).with_name("coverage_rewrites.json")
TEXTS_AT_ONCE = 1024
"""Texts whose vectors lie in one file of the cache: what a killed proof does again at most, of each worker."""
_TESTS_AT_ONCE = 4096
TOLERANCE = 0.002
"""By how much two computers may differ in a cosine; `verify` takes a pair this near the floor as it is said."""

GOLD_SHARE = 0.5
"""Of a gold answer's weight, what a record must have of it."""
GENERIC = frozenset("all any both none neither either of the above these a b c d e and or are is true false".split())
"""An answer of such words alone, "all of the above", says nothing about the question."""
FOREIGN_SHARE, FOREIGN = 0.34, 1
"""Numbers of a question that its stem may lack: one, or a third. A rewrite leaves numbers out, it adds none."""
SHARED_NUMBERS, TRANSLATED = 2, 0.77
"""Numbers that tell a translation. Where there are fewer: a gold answer with the same words, or this cosine."""
ENGLISH, LANGUAGE_WORDS = 0.22, 12
"""Share of a text's words that are among the 490 commonest of English exam questions, from which on it is English if it
has so many words: 0.28 and more in 7,000 English questions, 0.19 and less in 1,659 Spanish, French, Italian ones."""

_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"(?<![\w.,])(\d+(?:[.,]\d+)*)(?:\s*-?\s*([a-zµμ%°/]+))?")
_THOUSANDS = re.compile(r",(?=\d{3}(?!\d))")
_SPELLED = {
    word: str(number)
    for number, word in enumerate("two three four five six seven eight nine ten eleven twelve".split(), 2)
}
_UNITS = {
    unit: names[0]
    for names in (
        ("year", "years", "yr", "yrs", "yo"), ("month", "months"), ("week", "weeks"), ("day", "days"),
        ("hour", "hours", "hr", "hrs", "h"), ("minute", "minutes", "min"), ("kg",), ("g", "gm", "gram", "grams"),
        ("mg", "milligrams"), ("mcg", "µg", "μg", "ug"), ("ml",), ("l", "liters", "litres"), ("cm",), ("mm",),
        ("mmhg",), ("mg/dl",), ("g/dl",), ("meq/l", "mmol/l"), ("%", "percent"), ("/min",), ("°c",), ("°f",),
    )
    for unit in names
}  # fmt: skip


@lru_cache(1 << 16)
def says(word: str) -> int:
    """Weight of a word, in units of `word_weights.UNIT` to a bit; numbers and single letters say nothing."""
    if word.isdigit() or (len(word) == 1 and word.isascii()):
        return 0
    return max(0, information(REFERENCE_TEXTS, reference_counts().get(word, 1)) - UNIT)


def _weight(words: Iterable[str]) -> int:
    return sum(map(says, words))


@dataclass(frozen=True)
class Asked:
    """A question and its answer, on either side, as words are compared."""

    question: str
    answer: str

    @cached_property
    def words(self) -> frozenset[str]:
        """Of the question."""
        return frozenset(self._listed)

    @cached_property
    def answer_words(self) -> frozenset[str]:
        """Of the answer."""
        return frozenset(word_list(self.answer))

    @cached_property
    def weight(self) -> int:
        """Of the question's different words."""
        return _weight(self.words)

    @cached_property
    def answer_weight(self) -> int:
        """Of the answer's different words."""
        return _weight(self.answer_words)

    @cached_property
    def numbers(self) -> dict[str, set[str]]:
        """Each number of the question, with the units that it has."""
        if self.words.isdisjoint(_SPELLED) and not _DIGIT.search(" ".join(self._listed)):
            return {}
        text = _THOUSANDS.sub(
            "", " ".join(_SPELLED.get(word, word) for word in re.split(r"[\s-]+", fold(self.question)))
        )
        found: dict[str, set[str]] = {}
        for number, unit in _NUMBER.findall(text):
            units = found.setdefault(number.replace(",", "."), set())
            if unit in _UNITS:
                units.add(_UNITS[unit])
        return found

    @cached_property
    def negated(self) -> bool:
        """Whether a "not" or "except" turns what is asked."""
        return bool(_NOT & set(self._listed[-30:]))

    def in_other_language(self, other: Asked) -> bool:
        """Whether one of two questions, both long enough to tell, is English and the other is not."""
        shortest = min(len(self._listed), len(other._listed))
        return shortest >= LANGUAGE_WORDS and (self._common < ENGLISH) != (other._common < ENGLISH)

    @cached_property
    def _common(self) -> float:
        known = reference_counts()
        return sum(word in known for word in self._listed) / max(1, len(self._listed))

    @cached_property
    def _listed(self) -> list[str]:
        return word_list(self.question)


_NOT = NEGATIONS - {"true", "correct", "no"}


def judge(item: Asked, record: Asked, cosine: float, floor: float, settings: RewriteSettings) -> tuple[str, int] | None:
    """Kind of overlap, and how many different words of the record's question are in stem or gold; None: no overlap."""
    if cosine < floor:
        return None
    # What most pairs fail at comes first, what costs most last.
    shared = (record.words & item.words) | (record.words & item.answer_words)
    if item.in_other_language(record):
        if _same_in_other_language(item, record, cosine, _has_gold(item, record)):
            return "translation", len(shared)
        return None
    weight = _weight(shared)
    if weight < settings.shared_bits * UNIT:
        return None
    share = weight / max(1, record.weight)
    near = cosine >= settings.question_cosine and weight >= settings.question_bits * UNIT
    alike = share >= settings.question_words and (near or cosine >= settings.same_cosine)
    said = share >= settings.answer_words and _has_gold(item, record)
    if not (alike or said):
        return None
    foreign = _foreign(item, record)
    same = foreign <= FOREIGN or foreign <= FOREIGN_SHARE * len(record.numbers)
    if said and same:
        return "rewrite", len(shared)
    if not alike:
        return None
    return ("question" if same and item.negated == record.negated else "sibling"), len(shared)


def _has_gold(item: Asked, record: Asked) -> bool:
    gold = item.answer_words
    if gold <= GENERIC:
        return False
    if not item.answer_weight:
        return gold <= record.answer_words
    return _weight(gold & record.answer_words) >= GOLD_SHARE * item.answer_weight


def _foreign(item: Asked, record: Asked) -> int:
    """Numbers of the record's question that the stem does not have, or has with another unit."""
    foreign = 0
    for number, mine in record.numbers.items():
        known = item.numbers.get(number)
        foreign += known is None or (bool(mine and known) and mine.isdisjoint(known))
    return foreign


def _same_in_other_language(item: Asked, record: Asked, cosine: float, said: bool) -> bool:
    """Whether numbers, or a cognate of the gold answer, or a very close question tell a translation.

    Points and commas change places in numbers, and small numbers are spelt, so digits alone count and some may lack.
    """
    ours, theirs = ({re.sub(r"\D", "", number) for number in one.numbers} for one in (item, record))
    common, foreign = len(ours & theirs), len(theirs - ours)
    if common >= SHARED_NUMBERS:
        return 2 * foreign <= common
    return foreign <= FOREIGN and (said or cosine >= TRANSLATED)


class RewriteMatch(NamedTuple):
    """One pair and how it overlaps."""

    train: int
    eval: int
    kind: str
    model: str
    score: float
    """Cosine, three places."""
    words: int
    """Different words of the record's question that are in stem or gold."""


class RewriteIndex:
    """The test side, ready to be compared with any number of training texts."""

    def __init__(
        self,
        items: Sequence[Asked],
        encoders: Sequence[tuple[Encoder, float]],
        settings: RewriteSettings,
        cache: Path | None = None,
    ) -> None:
        """`encoders`: each model with its floor. `cache`: a folder for vectors of texts that were seen before."""
        self._items, self._encoders, self._settings, self._cache = items, encoders, settings, cache
        self._vectors = [self._embedded(encoder, [item.question for item in items]) for encoder, _ in encoders]

    def scan(self, records: Sequence[Asked]) -> tuple[list[RewriteMatch], Counter[str]]:
        """Every pair of some training texts with the test side, and what was counted; sorted by train, eval."""
        counts: Counter[str] = Counter(train_samples=len(records))
        found: dict[tuple[int, int], RewriteMatch] = {}
        places: dict[str, list[int]] = {}
        for number, record in enumerate(records):
            if record.words:
                places.setdefault(record.question, []).append(number)
        texts = list(places)
        counts["train_questions_distinct_in_their_part"] += len(texts)
        for (encoder, floor), tests in zip(self._encoders, self._vectors, strict=True):
            for row, item, cosine in self._proposed(encoder, texts, tests, floor):
                for number in places[texts[row]]:
                    if (number, item) in found:
                        continue
                    verdict = judge(self._items[item], records[number], cosine, floor, self._settings)
                    if verdict is not None:
                        kind, words = verdict
                        found[number, item] = RewriteMatch(number, item, kind, encoder.name, round(cosine, 3), words)
        matches = [found[pair] for pair in sorted(found)]
        return matches, counts + Counter(match.kind for match in matches)

    def _proposed(
        self, encoder: Encoder, texts: Sequence[str], tests: Vectors, floor: float
    ) -> Iterator[tuple[int, int, float]]:
        """Every pair whose cosine reaches the floor: text, test item, cosine."""
        for start, vectors in zip(range(0, len(texts), TEXTS_AT_ONCE), self._chunks(encoder, texts), strict=True):
            for row, item, cosine in _above(vectors, tests, floor):
                yield start + row, item, cosine

    def _embedded(self, encoder: Encoder, texts: Sequence[str]) -> Vectors:
        parts = list(self._chunks(encoder, texts))
        return np.concatenate(parts) if parts else np.zeros((0, 1), np.float32)

    def _chunks(self, encoder: Encoder, texts: Sequence[str]) -> Iterator[Vectors]:
        """Vectors of `TEXTS_AT_ONCE` texts after each other; the model goes on while words judge what it gave."""
        with ThreadPoolExecutor(1) as model:
            starts = range(0, len(texts), TEXTS_AT_ONCE)
            yield from model.map(lambda start: self._chunk(encoder, texts[start : start + TEXTS_AT_ONCE]), starts)

    def _chunk(self, encoder: Encoder, texts: Sequence[str]) -> Vectors:
        """Vectors of some texts, from the file that is named by their digests and the model's if it is there."""
        digests = [hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts]
        key = hashlib.sha256(orjson.dumps([encoder.sha256, digests])).hexdigest()
        path = None if self._cache is None else self._cache / f"{key}.npy"
        if path is not None and path.is_file():
            return np.asarray(np.load(path, allow_pickle=False), np.float32)
        # Rounded as they are stored, so that a proof that goes on computes what one in one go does.
        vectors = encoder.encode(texts).astype(np.float16)
        if path is not None:
            with AtomicFile(path) as file:
                np.save(file, vectors)
        return vectors.astype(np.float32)


def _above(rows: Vectors, tests: Vectors, floor: float) -> Iterator[tuple[int, int, float]]:
    """Every pair whose inner product reaches the floor: row, test, product. Blocks of 16 MB for 1,024 rows."""
    for first in range(0, len(tests), _TESTS_AT_ONCE):
        products = rows @ tests[first : first + _TESTS_AT_ONCE].T
        # Several times faster than `argwhere`, which was a quarter of the level's time on short questions.
        at = np.flatnonzero(products >= floor)
        for place, product in zip(at.tolist(), products.ravel()[at].tolist(), strict=True):
            row, test = divmod(place, products.shape[1])
            yield row, first + test, product


def coverage() -> dict[str, Any] | None:
    """What was measured on real rewrites, or None if there is none for this version."""
    if not COVERAGE_FILE.exists():
        return None
    measured: dict[str, Any] = orjson.loads(COVERAGE_FILE.read_bytes())
    return measured if measured.get("version") == VERSION else None
