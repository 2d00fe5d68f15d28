"""Quilt-1M, Quilt-Instruct, MedTrinity, OpenMM-Medical, GMAI-Reasoning10K: what their tests share."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outcomes

from builders.engine.source import Reject, Sample

Outcomes = dict[str, list[Sample | Reject]]


def read_all(name: str, raw: Path, **given: Any) -> Outcomes:
    return outcomes.read_all(name, raw, **({"no_images": False} | given))


def said(sample: Sample, message: int = -1) -> str:
    return "".join(part["text"] or f"<{part['index']}>" for part in sample.messages[message]["content"])


def edit_csv(path: Path, change: Callable[[list[dict[str, str]]], None], delimiter: str = ",") -> None:
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle, delimiter=delimiter))
    change(rows)
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]), delimiter=delimiter, lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)
