"""BIOMEDICA's panel type, which is in every sample (`subset`), as a score."""

from typing import ClassVar

from filters.base import Filter, Record, Score


class PanelType(Filter):
    """BIOMEDICA's panel type: the label of one of 2,000 clusters of pictures, of which 1,263 are `multiple`.

    The label is the cluster's, not the picture's, and contradicts itself at times: a hint, nothing more.
    """

    name: ClassVar[str] = "panel_type"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {"panels": "single or multiple, by the publisher; none where he says nothing"}
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.01

    def one(self, record: Record) -> dict[str, Score]:
        """The panel type of a record of BIOMEDICA, whose `subset` is `dermatology/single`."""
        _, _, panels = (record.sample["subset"] or "").partition("/")
        known = record.sample["source"] == "biomedica" and panels in ("single", "multiple")
        return {"panels": panels if known else None}
