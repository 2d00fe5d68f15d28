"""Small filters for the tests of the framework, in a module of their own: worker processes import it quickly."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, ClassVar

from filters.base import Filter, FilterError, Record, Score


def seventh(sample_id: str) -> bool:
    return int(sample_id.rpartition("/")[2]) % 7 == 3


class Words(Filter):
    """Cheap, reads the caption."""

    name: ClassVar[str] = "words"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {"count": "words", "first": "the first word"}
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.1

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        return [{"count": len(r.caption.split()), "first": r.caption.split()[0]} for r in records]


class Brightness(Filter):
    """Looks at the picture; has nothing to say about every seventh sample."""

    name: ClassVar[str] = "brightness"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {"mean": "0..255"}
    cost: ClassVar[float] = 2.0

    def __init__(self, nap: float = 0.0) -> None:
        self.nap = nap

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        time.sleep(self.nap * len(records))
        return [{"mean": None if seventh(r.sample["id"]) else r.pictures[0].rgb(64).mean()} for r in records]


class Twice(Filter):
    """Sees what brightness found."""

    name: ClassVar[str] = "twice"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {"mean": "0..510", "others": "scores it sees"}
    cost: ClassVar[float] = 1.0  # cheaper, and yet later, by `after`

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        return [{"mean": 2 * (r.found["brightness.mean"] or 0), "others": " ".join(sorted(r.found))} for r in records]


class Faulty(Filter):
    """Gives whatever the option says."""

    name: ClassVar[str] = "faulty"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {"value": "?"}
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 1.0

    def __init__(self, fault: str = "none") -> None:
        self.fault = fault

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        if self.fault == "raise":
            raise ZeroDivisionError(records[0].caption)
        if self.fault == "down":
            raise FilterError("the endpoint is down")
        if self.fault == "undeclared":
            return [{"value": 1, "more": 2} for _ in records]
        if self.fault == "mixed":
            return [{"value": number if number else "text"} for number in range(len(records))]
        odd: dict[str, Any] = {"nan": float("nan"), "list": [1]}
        return [{"value": odd.get(self.fault, 1)} for _ in records[self.fault == "few" :]]
