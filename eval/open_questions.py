"""Measures of a short answer in words (SLAKE, VQA-RAD), as the papers that report them define them.

`llava_med_*`: LLaVA-Med's `run_eval.py` (microsoft/LLaVA-Med ad758b6). Words without punctuation and articles, numbers
as figures. *exact* is the share of the answer's words that the reference has (so it is no exact match), *recall* the
share of the reference's words that the answer has, *f1* of both; a repeated word of the answer counts as often as it
stands there. LLaVA-Med's tables print recall. Its list that gives "dont" its apostrophe back is left out.
`medevalkit_*`: MedEvalKit's `judge_open_end_vqa` (9b12e3b): the text after the last "answer:" and its like, in lower
case; *em* is equality, *f1* is over sets of words between spaces.

The strict score of an open question stays the exact text (`eval.mcq`).
"""

import re
from collections import Counter
from collections.abc import Iterable

_SIGNS = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")
_ARTICLES = frozenset(("a", "an", "the"))
_FIGURES = {
    word: str(number)
    for number, word in enumerate("zero one two three four five six seven eight nine ten".split())
} | {"none": "0"}  # fmt: skip
_MARKS = ("**answer**:", "**answer**", "*answer*:", "**answer:**", "answer is", "answer:", "答案:", "final answer")


def _words(text: str) -> Counter[str]:
    """Words of a text as LLaVA-Med compares them."""
    text, plain = text.lower(), text.lower()
    for sign in _SIGNS:
        # A sign beside a space goes, one within a word parts it; a comma within a number keeps its digits together.
        beside = f"{sign} " in text or f" {sign}" in text or _DIGIT_COMMA.search(text)
        plain = plain.replace(sign, "" if beside else " ")
    words = (_FIGURES.get(word, word) for word in _STOP.sub("", plain).split())
    return Counter(word for word in words if word not in _ARTICLES)


def llava_med(answer: str, reference: str) -> dict[str, float]:
    """Exact, F1 and recall, 0..1, as LLaVA-Med computes them; 0 where a side has no words."""
    given, wanted = _words(answer), _words(reference)
    shared = sum(count for word, count in given.items() if word in wanted)
    missing = sum(count for word, count in wanted.items() if word not in given)
    found = len(wanted.keys() & given.keys())
    recall = shared / (shared + missing) if shared else 0.0
    precision = shared / given.total() if shared else 0.0
    return {
        "llava_med_exact": found / given.total() if given else 0.0,
        "llava_med_f1": _f1(precision, recall),
        "llava_med_recall": recall,
    }


def medevalkit(answer: str, reference: str) -> dict[str, float]:
    """Equality and F1 over sets of words, 0..1, as MedEvalKit computes them."""
    answer, reference = answer.lower(), reference.lower()
    for mark in _MARKS:
        answer = answer.split(mark)[-1]
    given, wanted = set(answer.split()), set(reference.split())
    shared = len(given & wanted)
    precision, recall = (shared / len(side) if side else 0.0 for side in (given, wanted))
    return {"medevalkit_em": float(answer == reference), "medevalkit_f1": _f1(precision, recall)}


def open_scores(answer: str, accepted: Iterable[str]) -> dict[str, float]:
    """All measures of an answer; of several accepted texts the one that gives most."""
    found: dict[str, float] = {}
    for reference in accepted:
        for name, value in (llava_med(answer, reference) | medevalkit(answer, reference)).items():
            found[name] = max(found.get(name, 0.0), value)
    return found


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
