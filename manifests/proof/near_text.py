"""Test items and passages inside training texts: in whatever form an item was written, every pair above the thresholds.

An item is its stem, its gold answer, its options and its passages. Options alone never make a pair; they are not read.

| kind | a training record overlaps with a test item when |
|---|---|
| stem | it holds so many letters of the stem, in a row or nearly so, that no other question is likely to |
| stem_answer | it holds less of the stem, or all of a stem that says little, and the gold answer |
| sibling | one of these, but numbers are others, or it is turned round by a "not" |
| passage | both share runs of words that together are long and say much: a patient's note, a report, a vignette |

What a word says is its weight: the binary logarithm of how rare it is (`word_weights`). A stem is looked for by its
pairs of neighbouring words: every window of a record that holds pairs of `answer_pairs` of the stem's weight
(`stem_pairs`, if the answer is not asked for), or a long answer and any pair, is judged by the words of the stem in a
row and by the share of the stem's runs of five letters that stand in it, blanks left out. So a lost blank, a misread
letter, a synonym or another order of sentences cost a few letters, not the item. What stands in the answer is no
evidence of the stem, and the answer may be misread, too: it counts by its runs of three letters beside the window.
Prose about a stem's subject has its words, too, and often its answer; so unless the stem is verbatim, the answer must
stand for itself, as a line, a sentence or a field does, or the record be little more than the item. A passage is found
by its runs of `run_words` words; a run that many samples of one part of the train side hold is boilerplate, listed and
left out. Nothing is hidden because many test items share it: such a passage is reported with how many do, and the first
of them by name.

Reports are the exception, since a normal chest is described in the same words again and again: a run that only texts
without a question hold, such as reports and captions, is boilerplate, too, where those of more than
`boilerplate_patients` patients or articles have it, on the test side or in one part of the train side; and a word that
so many have says no more than how rare it is among them, of either. Patients are counted, not texts: one patient's
repeat themselves. Where nobody says whose a text is, it counts for none. What is no boilerplate must say `report_bits`;
boilerplate only counts for how much of the report there is.

There is no approximate index and hashes only propose: candidates are all that the definitions name. How many real
rewrites reach the thresholds is another matter: that is measured (`bench/proof_forms.py`), never proved.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from manifests.proof.ngrams import Vocabulary, word_list
from manifests.proof.passages import Passages
from manifests.proof.policy import TextSettings
from manifests.proof.stems import Stems
from manifests.proof.text_pairs import KINDS, EvalText, TextMatch
from manifests.proof.word_weights import Weights


@dataclass(frozen=True)
class TextScan:
    """What a part of the training texts shares with the test side."""

    matches: list[TextMatch]
    """Sorted by train, eval, kind in the order of `KINDS`."""
    boilerplate: dict[str, tuple[int, int]]
    """N-gram that so many hold that it makes no passage -> (test items, texts), sorted. Of one that private test items
    alone have, its digest."""
    counts: Mapping[str, int]
    """Matches by kind, and texts read."""


class NearTextIndex:
    """The test side, ready to be compared with any number of training texts."""

    def __init__(self, evals: Sequence[EvalText], settings: TextSettings) -> None:
        known: dict[str, list[str]] = {}
        for text in evals:
            for piece in (text.question, text.answer, *text.passages):
                if piece not in known:
                    known[piece] = word_list(piece)
        stems = [known[text.question] for text in evals]
        golds = [known[text.answer] for text in evals]
        passages = [[known[passage] for passage in text.passages] for text in evals]
        asked = (one for text, mine in zip(evals, passages, strict=True) if not text.together for one in mine)
        # Thousands of reports are no measure of how rare a word is in a question.
        distinct = sorted({tuple(words) for words in (*stems, *asked) if words})
        every = (*distinct, *golds, *(one for mine in passages for one in mine))
        self._vocabulary = Vocabulary(word for words in every for word in words)
        weights = Weights(self._vocabulary, distinct)
        self._stems = Stems(self._vocabulary, weights, stems, golds, settings)
        self._passages = Passages(self._vocabulary, weights, passages, evals, settings)
        self.usual = self._passages.usual_items()
        """Items, by their positions, that no text can be found to overlap with: reports in everybody's words."""

    def scan(self, batches: Iterable[Sequence[str]], together: Sequence[str | None] = ()) -> TextScan:
        """Every pair of one part of the training texts with the test side. Give batches of 1 to 4 MB.

        `together`: patient or article of each text, where known, over all batches; looked at after the last of them.
        """
        matches: list[TextMatch] = []
        seen = self._passages.nothing_seen()
        texts = 0
        for records in batches:
            batch = self._vocabulary.read(records)
            matches += self._stems.scan(batch, records, texts)
            self._passages.look(batch, texts, seen)
            texts += len(records)
        found, boilerplate = self._passages.conclude(seen, texts, together)
        matches = sorted([*matches, *found], key=lambda match: (match.train, match.eval, KINDS.index(match.kind)))
        return TextScan(matches, boilerplate, Counter(match.kind for match in matches) + Counter(train_samples=texts))
