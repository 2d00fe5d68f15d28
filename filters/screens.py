"""Screens: desktops, dialogs, browsers, terminals and viewers of slides or scans, by `filters.picture_kinds`."""

from typing import ClassVar

from filters.base import Record, Score
from filters.picture_kinds import VERSION, KindFilter, kinds


class Screens(KindFilter):
    """Says whether a picture shows a program's window."""

    name: ClassVar[str] = "screens"
    version: ClassVar[str] = f"2/{VERSION}"
    scores: ClassVar[dict[str, str]] = {"screen": "0..1; a program's window, or a part of one"}
    cost: ClassVar[float] = 16.0

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; see `Filter.score`."""
        return {"screen": round(max(kinds(picture)["screen"] for picture in record.pictures), 4)}
