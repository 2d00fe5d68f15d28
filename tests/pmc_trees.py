"""The sources made from PubMed Central's figures: what their tests share."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from outcomes import kept, reasons, source_of

from builders.engine.source import InputError, Reject, Sample

SHARED = Path(__file__).parents[2] / "shared" / "data"


Outcomes = dict[str, list[Sample | Reject]]


def read_all(name: str, raw: Path, **given: Any) -> Outcomes:
    """Every outcome by split, pictures read as a build reads them: a picture that fails makes its row a reject."""
    source = source_of(name)
    params = {option.name: option.default for option in source.options} | {"split": None, "no_images": False} | given
    outcomes: Outcomes = {}
    for unit in source.plan(raw, params):
        assert unit.role == source.splits[unit.split]
        orjson.dumps(unit.payload)
        found: list[Sample | Reject] = []
        for outcome in source.read(raw, unit, params):
            if isinstance(outcome, Reject):
                assert outcome.reason in source.advice
            elif not params["no_images"]:
                try:
                    assert all(image.read().startswith(b"\xff\xd8\xff") for image in outcome.images)
                except InputError as error:
                    outcome = Reject(outcome.file, outcome.row, error.reason, error.detail)
            found.append(outcome)
        assert len(found) == unit.rows
        outcomes.setdefault(unit.split, []).extend(found)
    return outcomes


def counts(outcomes: Outcomes) -> dict[str, tuple[int, dict[str, int]]]:
    return {split: (len(kept(rows)), reasons(rows)) for split, rows in outcomes.items()}


def edit_csv(path: Path, edit: Callable[[list[list[str]]], object]) -> None:
    with path.open(newline="") as handle:
        rows = list(csv.reader(handle))
    edit(rows)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    path.write_text(text.getvalue())
