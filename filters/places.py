"""Where there is writing in a record's pictures, as one text that can be stored as a score; never what was read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

KINDS = {"t": "text", "m": "marker", "p": "panel letter", "u": "unread"}
"""Unread: looks like writing and was left unread, since what was read before it settled the picture."""


@dataclass(frozen=True, order=True)
class Place:
    """A box of writing, in pixels of the picture as it is shown (its EXIF orientation followed)."""

    picture: int
    """Number among the record's pictures."""
    top: int
    left: int
    bottom: int
    right: int
    kind: str
    """One of `KINDS`."""
    score: float
    """0..1, two digits: how sure it is that this is text; of an unread place, the detector's probability."""


def places_text(places: Iterable[Place]) -> str:
    """`<picture> <kind> <left> <top> <right> <bottom> <score in hundredths>;` of each place, in order."""
    return "".join(
        f"{one.picture} {one.kind} {one.left} {one.top} {one.right} {one.bottom} {round(100 * one.score)};"
        for one in sorted(places)
    )


def read_places(text: str) -> list[Place]:
    """The places of `places_text`. Raises: `ValueError` for any other text."""
    found = []
    for entry in text.split(";")[:-1]:
        picture, kind, *numbers = entry.split(" ")
        left, top, right, bottom, score = map(int, numbers)
        if kind not in KINDS or not (0 <= left < right and 0 <= top < bottom and 0 <= score <= 100):
            raise ValueError(f"{entry!r} is no place of writing")
        found.append(Place(int(picture), top, left, bottom, right, kind, score / 100))
    if places_text(found) != text:
        raise ValueError("no places of writing in order")
    return found
