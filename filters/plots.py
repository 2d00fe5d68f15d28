"""Plots: what was drawn or typeset, not taken of a patient: plots, tables, diagrams, drawings, molecules, blots.

They hold writing, too, but that is not what is wrong with them: this filter comes before `overlaid_text`, so that the
waterfall gives the right reason.
"""

from typing import ClassVar

from filters.base import Record, Score
from filters.picture_kinds import KINDS, VERSION, KindFilter, kinds


class Plots(KindFilter):
    """Says whether a picture is ink on paper, by `filters.picture_kinds`; of several pictures the likeliest counts."""

    name: ClassVar[str] = "plots"
    version: ClassVar[str] = f"1/{VERSION}"
    scores: ClassVar[dict[str, str]] = {
        "plot": "0..1; a plot, table, diagram, drawing, molecule or blot",
        "film": "0..1; a radiograph, a slice, an ultrasound image",
        "tissue": "0..1; stained tissue under the microscope",
        "photograph": "0..1; another picture: a photograph, a rendering, a logo",
    }
    cost: ClassVar[float] = 16.0

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; see `Filter.score`."""
        most = max((kinds(picture) for picture in record.pictures), key=lambda found: found["ink"])
        others = {kind: round(most[kind], 4) for kind in KINDS if kind in self.scores}
        return {"plot": round(most["ink"], 4), **others}
