"""The table of `filters.semantic_duplicates` as a filter: a sample in it repeats the picture of an earlier sample."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from filters.base import Filter, FilterError, Record, Score


class SemanticDuplicates(Filter):
    """Whether a sample is in the table, by its id, and how near it is to the sample that stays."""

    name: ClassVar[str] = "semantic_duplicates"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {
        "duplicate": "1 where the table has the sample, else 0; the threshold was the table's",
        "cosine": "to the earlier sample that stays; none where the table does not have the sample",
    }
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.01

    def __init__(self, table: str | None = None) -> None:
        """Read the table. Raises: `FilterError`."""
        if table is None:
            raise FilterError("semantic_duplicates needs its table: python -m filters.semantic_duplicates makes it")
        try:
            rows = pq.read_table(Path(table), columns=["sample_id", "cosine"])
        except (OSError, pa.ArrowInvalid) as error:
            raise FilterError(f"{table}: no table of duplicates ({' '.join(str(error).split())})") from error
        self._cosines = dict(zip(rows["sample_id"].to_pylist(), rows["cosine"].to_pylist(), strict=True))

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record; no picture is looked at."""
        found = [self._cosines.get(record.sample["id"]) for record in records]
        return [{"duplicate": int(cosine is not None), "cosine": cosine} for cosine in found]
