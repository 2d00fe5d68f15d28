"""What a source makes of a raw tree, row by row, without building: for the tests of the sources."""

from __future__ import annotations

import importlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from builders.engine.source import Reject, Sample, Source

Outcomes = dict[str, list[Sample | Reject]]


def source_of(name: str) -> Source:
    source = importlib.import_module(f"builders.{name}").SOURCE
    assert isinstance(source, Source)
    return source


def parameters(source: Source, **given: Any) -> dict[str, Any]:
    """The defaults of a command line with --no-images, unless `given` says otherwise."""
    return {option.name: option.default for option in source.options} | {"split": None, "no_images": True} | given


def read_all(name: str, raw: Path, *, unanswered: bool = False, **given: Any) -> Outcomes:
    """Every outcome by split, after checking what holds of any tree: one outcome a row, known reasons, plain JSON.

    A choice has its answer among the options, or is `unanswered` where a set may not know it.
    """
    source = source_of(name)
    params = parameters(source, **given)
    outcomes: Outcomes = {}
    names = []
    for unit in source.plan(raw, params):
        names.append(unit.name)
        assert unit.role == source.splits[unit.split] or params.get("paper_variant")
        orjson.dumps(unit.payload)
        found = list(source.read(raw, unit, params))
        assert len(found) == unit.rows
        for outcome in found:
            if isinstance(outcome, Reject):
                assert outcome.reason in source.advice
                orjson.dumps([outcome.file, outcome.row, outcome.detail])
            else:
                written = [outcome.messages, outcome.question, outcome.options, outcome.answer, outcome.group]
                orjson.dumps([*written, outcome.key, outcome.row, outcome.subset])
                known = outcome.answer is not None or not unanswered
                assert outcome.options is None or not known or outcome.answer in dict(outcome.options)
        outcomes.setdefault(unit.split, []).extend(found)
    assert len(set(names)) == len(names)
    return outcomes


def kept(outcomes: Sequence[Sample | Reject]) -> list[Sample]:
    return [outcome for outcome in outcomes if isinstance(outcome, Sample)]


def reasons(outcomes: Sequence[Sample | Reject]) -> dict[str, int]:
    return dict(Counter(outcome.reason for outcome in outcomes if isinstance(outcome, Reject)))


class Demos(dict[str, Path]):
    """Demo trees by source, each written when it is first asked for."""

    def __init__(self, root: Path) -> None:
        super().__init__()
        self.root = root

    def __missing__(self, name: str) -> Path:
        source_of(name).write_demo(self.root / name)
        self[name] = self.root / name
        return self[name]


class Samples(dict[str, dict[str, Sample]]):
    """Samples of each demo by `<split>/<key>`."""

    def __init__(self, demos: Demos) -> None:
        super().__init__()
        self.demos = demos

    def __missing__(self, name: str) -> dict[str, Sample]:
        read = read_all(name, self.demos[name], unanswered=True)
        self[name] = {f"{split}/{sample.key}": sample for split, found in read.items() for sample in kept(found)}
        return self[name]
