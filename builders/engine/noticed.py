"""What a build says of its rows beside samples and rejects: how many have a trait, and which, in `build.json`."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from builders.engine.source import Params

MOST_NAMED = 1_000
"""Rows that are called by their names; of the others there is a count."""


def note(notes: dict[str, Any], name: str, **item: Any) -> None:
    """Count a row under a name in a unit's `notes`; `item`, JSON values, says which one it is."""
    found = notes.setdefault(name, {"rows": 0, "items": []})
    found["rows"] += 1
    if item:
        found["items"].append(item)


def noticed(**texts: str) -> Callable[[Path, Params, Sequence[Mapping[str, Any]]], Mapping[str, Any]]:
    """A `Source.conclude` for what `note` counted: `noticed` is a line for each name that has rows.

    texts: By name the line, in which `{rows}` stands for their number. A name with items is a list of them besides.
    """

    def conclude(raw: Path, params: Params, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        found: dict[str, Any] = {"noticed": []}
        for name, text in texts.items():
            noted = [entry["notes"][name] for entry in entries if name in entry["notes"]]
            if rows := sum(one["rows"] for one in noted):
                found["noticed"].append(text.format(rows=f"{rows:,}"))
            if items := [item for one in noted for item in one["items"]]:
                found[name] = items[:MOST_NAMED]
        return found if found["noticed"] else {}

    return conclude
