"""Labels that a publisher ships, as scores: QuiltCleaner's probabilities and BIOMEDICA's panel type.

What a shard does not carry cannot be scored from it. BIOMEDICA's panel type is in every sample (`subset`).
QuiltCleaner's table is a file of its own beside Quilt-1M: it is given as an option, pictures are found by their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.csv as pc
from numpy.typing import NDArray

from filters.base import Filter, FilterError, Record, Score


class PanelType(Filter):
    """BIOMEDICA's panel type: the label of one of 2,000 clusters of pictures, of which 1,263 are `multiple`.

    The label is the cluster's, not the picture's, and contradicts itself at times: a hint, nothing more.
    """

    name: ClassVar[str] = "panel_type"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {"panels": "single or multiple, by the publisher; none where he says nothing"}
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.01

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """The panel type of each record of BIOMEDICA, whose `subset` is `dermatology/single`."""
        return [{"panels": self._panels(record)} for record in records]

    @staticmethod
    def _panels(record: Record) -> str | None:
        _, _, panels = (record.sample["subset"] or "").partition("/")
        return panels if record.sample["source"] == "biomedica" and panels in ("single", "multiple") else None


LABELS = {
    "persons": "Persons/Photos",
    "screen": "Desktop/Windows/SlideViewer",
    "text": "Text/Logo in Image",
    "arrows": "Arrow/Annotation",
    "quality": "Image Perspective/Quality",
    "overview": "Additional (On-Slide) Overview",
    "controls": "Additional Control Elements",
    "panels": "Multi-Panel Image",
    "any": "Any impairment",
}
"""Score -> column of `predictions_quiltcleaner.csv` (DeepMicroscopy/QuiltCleaner, arXiv 2404.07676)."""


class QuiltCleaner(Filter):
    """QuiltCleaner's probabilities of a picture of Quilt-1M, from the table that its authors publish."""

    name: ClassVar[str] = "quilt_cleaner"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {
        score: f"probability 0..1 of {column!r}; none where the table does not have the picture or the column"
        for score, column in LABELS.items()
    }
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.02

    def __init__(self, table: str | None = None) -> None:
        """Read the table, `predictions_quiltcleaner.csv`: some 650,000 rows take 30 MB. Raises: `FilterError`."""
        if table is None:
            raise FilterError("quilt_cleaner needs its table: --set quilt_cleaner.table=predictions_quiltcleaner.csv")
        self._names, self._digests, self._rows, self._columns = _read(Path(table))

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Probabilities of each record's pictures; of several the highest."""
        return [self._one(record) for record in records]

    def _one(self, record: Record) -> dict[str, Score]:
        names = [image["image_id"].rpartition("/")[2] for image in record.sample["images"] or ()]
        found = [number for name in names if (number := self._find(name)) is not None]
        values: dict[str, Score] = dict.fromkeys(self.scores)
        if found:
            for score, column in self._columns.items():
                numbers = column[found]
                values[score] = None if np.isnan(numbers).all() else round(float(np.nanmax(numbers)), 4)
        return values

    def _find(self, name: str) -> int | None:
        digest = _short_digest(name)
        place = int(np.searchsorted(self._digests, digest))
        # Two names of one 64-bit digest are not expected, but cost nothing to tell apart.
        while place < len(self._digests) and self._digests[place] == digest:
            row = int(self._rows[place])
            if self._names[row].as_py() == name:
                return row
            place += 1
        return None


_Columns = dict[str, NDArray[np.float64]]


def _read(path: Path) -> tuple[Any, NDArray[np.uint64], NDArray[np.int64], _Columns]:
    try:
        table = pc.read_csv(path, convert_options=pc.ConvertOptions(column_types={"Filename": pa.string()}))
    except (OSError, pa.ArrowInvalid) as error:
        # The library's own words repeat the row.
        what = error.strerror if isinstance(error, OSError) else "empty, or its rows are not those of one table"
        raise FilterError(f"{path}: cannot be read as CSV ({what})") from error
    there = {score: column for score, column in LABELS.items() if column in table.column_names}
    if "Filename" not in table.column_names or not there:
        raise FilterError(f"{path}: no column Filename, or none of {', '.join(LABELS.values())}")
    columns = {}
    for score, column in there.items():
        try:
            columns[score] = table[column].cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise FilterError(f"{path}: column {column!r} holds what is no number") from error
        if not np.all((columns[score] >= 0) & (columns[score] <= 1) | np.isnan(columns[score])):
            raise FilterError(f"{path}: column {column!r} holds what is no probability between 0 and 1")
    names = table["Filename"].combine_chunks()
    digests = np.array([_short_digest(name or "") for name in names.to_pylist()], np.uint64)
    order = np.argsort(digests, kind="stable")
    return names, digests[order], order, columns


def _short_digest(name: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big"))
