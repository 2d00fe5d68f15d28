"""QuiltCleaner's probabilities of the pictures of Quilt-1M, as their authors publish them.

What a shard does not carry cannot be scored from it: the table is a file of its own beside Quilt-1M, given as an
option, and pictures are found in it by their names.
"""

from bisect import bisect_left
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from filters.base import Filter, FilterError, Record, Score

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
    cost: ClassVar[float] = 0.02
    needs_pictures: ClassVar[bool] = False
    file_options: ClassVar[tuple[str, ...]] = ("table",)

    def __init__(self, table: str | None = None) -> None:
        """Read the table, `predictions_quiltcleaner.csv`: some 650,000 rows take 60 MB. Raises: `FilterError`."""
        if table is None:
            raise FilterError("quilt_cleaner needs its table: --set quilt_cleaner.table=predictions_quiltcleaner.csv")
        self._names, self._columns = _read(Path(table))

    def one(self, record: Record) -> dict[str, Score]:
        """Probabilities of a record's pictures; of several the highest."""
        names = [image["image_id"].rpartition("/")[2] for image in record.sample["images"] or ()]
        found = [number for name in names if (number := self._find(name)) is not None]
        values: dict[str, Score] = dict.fromkeys(self.scores)
        if found:
            for score, column in self._columns.items():
                numbers = column[found]
                values[score] = None if np.isnan(numbers).all() else round(float(np.nanmax(numbers)), 4)
        return values

    def _find(self, name: str) -> int | None:
        row = bisect_left(self._names, name, key=lambda one: one.as_py())
        return row if row < len(self._names) and self._names[row].as_py() == name else None


def _read(path: Path) -> tuple[pa.StringArray, dict[str, NDArray[np.float64]]]:
    """Names of pictures, sorted, and the column of each score in that order."""
    try:
        types = pa.csv.ConvertOptions(column_types={"Filename": pa.string()})
        table = pa.csv.read_csv(path, convert_options=types)
    except (OSError, pa.ArrowInvalid) as error:
        # The library's own words repeat the row.
        what = error.strerror if isinstance(error, OSError) else "empty, or its rows are not those of one table"
        raise FilterError(f"{path}: cannot be read as CSV ({what})") from error
    there = {score: column for score, column in LABELS.items() if column in table.column_names}
    if "Filename" not in table.column_names or not there:
        raise FilterError(f"{path}: no column Filename, or none of {', '.join(LABELS.values())}")
    table = table.take(pc.sort_indices(table["Filename"]))
    columns = {}
    for score, column in there.items():
        try:
            columns[score] = table[column].cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid as error:
            raise FilterError(f"{path}: column {column!r} holds what is no number") from error
        if not np.all((columns[score] >= 0) & (columns[score] <= 1) | np.isnan(columns[score])):
            raise FilterError(f"{path}: column {column!r} holds what is no probability between 0 and 1")
    return pc.drop_null(table["Filename"]).combine_chunks(), columns
