"""Where what a proof says and what was derived differ, in words: for `manifests.verify`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any


def differing(where: str, said: Any, derived: Any) -> Iterator[str]:
    """Each place where two JSON values differ."""
    if isinstance(said, dict) and isinstance(derived, dict):
        for name in sorted(said.keys() | derived.keys()):
            if name not in said or name not in derived:
                yield f"{where}.{name} " + ("is missing" if name not in said else "does not belong there")
            else:
                yield from differing(f"{where}.{name}", said[name], derived[name])
    elif isinstance(said, list) and isinstance(derived, list) and len(said) == len(derived):
        for number, (one, other) in enumerate(zip(said, derived, strict=True)):
            yield from differing(f"{where}[{number}]", one, other)
    elif isinstance(said, list) and isinstance(derived, list):
        yield f"{where} has {len(said)} entries, derived {len(derived)}"
    elif type(said) is not type(derived) or said != derived:
        yield f"{where} is {said!r}, derived {derived!r}"


def row_differences(
    said: Sequence[Mapping[str, Any]], derived: Sequence[Mapping[str, Any]], key: Sequence[str]
) -> list[str]:
    """Rows that a file lacks, has too many or has with other values, each in words."""

    def by_key(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        return {tuple(row[name] for name in key): row for row in rows}

    ours, theirs = by_key(derived), by_key(said)
    differences = []
    for name in sorted(ours.keys() | theirs.keys(), key=lambda values: [(one is not None, one) for one in values]):
        shown = " ".join(str(part) for part in name if part is not None)
        if name not in theirs:
            differences.append(f"row missing: {shown}")
        elif name not in ours:
            differences.append(f"row that does not follow: {shown}")
        else:
            changed = [
                f"{column} is {theirs[name][column]}, derived {value}"
                for column, value in ours[name].items()
                if theirs[name][column] != value
            ]
            if changed:
                differences.append(f"{'; '.join(changed)}: {shown}")
    return differences


def named_row(row: Mapping[str, Any]) -> str:
    """A row of evidence by its ends."""
    names = ("level", "kind", "train_build", "train_sample", "train_index", "eval_build", "eval_sample", "eval_index")
    return " ".join(str(row[name]) for name in names if row[name] is not None)
