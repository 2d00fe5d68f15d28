"""Answers without a model: what a number means only shows beside them.

`majority` answers with what is right most often over the whole task: one option's text, or one label, whichever is
right more often; for reports the most frequent reference. It looks at the gold: the best that a constant can do.
`constant[=TEXT]` answers with TEXT always; by default the first option, for reports "No acute cardiopulmonary process."
`copy_exemplar` answers with what the worked example answered (its option, found by text).
`nearest` answers as the training sample of the same build that is nearest: by picture (64-bit pHash, Hamming) or,
without pictures, by words of the question (Jaccard).

All are deterministic; ties go to the smallest label, text or sample id.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eval.adapters.base import ANSWERED, Adapter, AdapterError, Answer, Keep, Request
from eval.mcq import accepted_texts
from eval.tasks import Benchmark, Question
from medgpt.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAMES = ("majority", "constant", "copy_exemplar", "nearest")
NORMAL_REPORT = "No acute cardiopulmonary process."
"""The commonest impression of a normal chest radiograph."""


class _Rule(Protocol):
    def __call__(self, question: Question) -> str: ...


class Baseline(Adapter):
    """One of `NAMES` over the given benchmarks."""

    def __init__(self, name: str, benchmarks: list[Benchmark], text: str | None = None) -> None:
        """`text` is the answer of `constant`. Raises: `UserError`."""
        if name not in NAMES:
            raise UserError(f"--baseline {name}: choose one of {', '.join(NAMES)}")
        if text is not None and name != "constant":
            raise UserError(f"--baseline {name}={text}: only constant takes a text")
        self._name, self._text = name, text
        self._benchmarks = {benchmark.task.label: benchmark for benchmark in benchmarks}
        self._rules: dict[str, _Rule] = {}

    def identity(self) -> dict[str, Any]:
        """The baseline and its text."""
        return {"adapter": "baseline", "baseline": self._name, "text": self._text}

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Answer every request. Raises: `AdapterError` where a task cannot have this baseline."""
        for request in requests:
            rule = self._rules.get(request.task)
            if rule is None:
                rule = self._rules[request.task] = self._rule(self._benchmarks[request.task])
            keep(request, Answer(ANSWERED, rule(request.question), "stop"))

    def _rule(self, benchmark: Benchmark) -> _Rule:
        if self._name == "majority":
            return _majority(benchmark)
        if self._name == "nearest":
            return _Nearest(benchmark)
        if self._name == "copy_exemplar":
            if not benchmark.task.shots:
                raise AdapterError(f"task {benchmark.task.label} has no worked example to copy; run its 1-shot build")
            return lambda question: _as_answer(question, question.exemplar)
        return lambda question: self._constant(question)

    def _constant(self, question: Question) -> str:
        if self._text is not None:
            return self._text
        return f"Answer: {question.options[0][0]}" if question.options else NORMAL_REPORT


def _answer_text(options: tuple[tuple[str, str], ...], gold: str) -> str:
    """The text of an option; without options the first text that is accepted."""
    return dict(options).get(gold, gold) if options else accepted_texts(gold)[0]


def _as_answer(question: Question, said: str) -> str:
    """What another item's answer says about this one: its option of the same text, by this item's label.

    Where this item has no such option, the text alone: no option, hence wrong, and never right by luck.
    """
    if not question.options:
        return said
    # Builders write worked examples as `Answer: D. partially eligible` (builders.engine.source.choice_answer).
    text = said.removeprefix("Answer: ").split("\n", 1)[0]
    _, dot, after = text.partition(". ")
    for candidate in (after, text) if dot else (text,):
        for label, option in question.options:
            if option == candidate:
                return f"Answer: {label}"
    return after or text


def _majority(benchmark: Benchmark) -> _Rule:
    texts: Counter[str] = Counter()
    labels: Counter[str] = Counter()
    for question in benchmark:
        texts[_answer_text(question.options, question.gold)] += 1
        if question.options:
            labels[question.gold] += 1
    text, of_text = _commonest(texts)
    label, of_label = _commonest(labels)

    def answer(question: Question) -> str:
        if not question.options:
            return text
        if of_text >= of_label:
            return _as_answer(question, text)
        return f"Answer: {label}"

    return answer


def _commonest(counts: Mapping[str, int]) -> tuple[str, int]:
    return min(counts.items(), key=lambda entry: (-entry[1], entry[0]), default=("", 0))


class _Nearest:
    """The training side of a benchmark's build, looked up by picture or by words."""

    def __init__(self, benchmark: Benchmark) -> None:
        from manifests.catalog import load_builds
        from shards.reader import Build

        self._benchmark = benchmark
        [build] = load_builds(benchmark.folder)
        if not any(unit["role"] == "train" and unit["kept"] for unit in build.record["units"]):
            raise AdapterError(
                f"task {benchmark.task.label}: {benchmark.folder} has no training side, so nothing is nearest; "
                "choose another baseline"
            )
        self._train = Build(benchmark.folder, role="train")
        self._ids, self._hashes = _first_hashes([path for _, path in build.parts("images", "train")])
        self._own = dict(zip(*_first_hashes([path for _, path in build.parts("images", "eval")]), strict=True))
        self._words: dict[str, set[str]] | None = None

    def __call__(self, question: Question) -> str:
        own = self._own.get(question.sample_id)
        nearest = self._by_words(question) if own is None or not self._ids else self._by_picture(own)
        record = self._train[self._train.find(nearest)].record
        options = tuple((option["label"], option["text"]) for option in record["options"] or ())
        return _as_answer(question, _answer_text(options, record["answer"] or ""))

    def _by_picture(self, own: np.uint64) -> str:
        import numpy as np

        # The ids are sorted, and argmin takes the first of several.
        return self._ids[int(np.argmin(np.bitwise_count(self._hashes ^ own)))]

    def _by_words(self, question: Question) -> str:
        if self._words is None:
            self._words = {sample.record["id"]: _words(sample.record["question"] or "") for sample in self._train}
        asked = _words(" ".join(part["text"] for part in question.messages[-1]["content"] if part["type"] == "text"))

        def distance(sample_id: str) -> tuple[float, str]:
            assert self._words is not None
            words = self._words[sample_id]
            return -len(words & asked) / max(1, len(words | asked)), sample_id

        return min(self._words, key=distance)


def _first_hashes(parts: list[Path]) -> tuple[list[str], NDArray[np.uint64]]:
    """Sample ids, sorted, and the pHash of each one's own first picture (not of a worked example)."""
    import numpy as np
    import pyarrow.parquet as pq

    hashes: dict[str, int] = {}
    for part in parts:
        rows = pq.read_table(part, columns=["sample_id", "phash", "relation"])
        for sample_id, phash, relation in zip(*(column.to_pylist() for column in rows.columns), strict=True):
            if relation != "exemplar":
                hashes.setdefault(sample_id, phash)
    ids = sorted(hashes)
    return ids, np.array([hashes[sample_id] for sample_id in ids], np.uint64)


def _words(text: str) -> set[str]:
    return {word.strip(".,;:?!()[]'\"").casefold() for word in text.split()} - {""}
