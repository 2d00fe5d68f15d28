"""What all files of the second derivation share: rows of evidence, how words are read, sums of a level."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from manifests.catalog import LoadedBuild
from manifests.proof.evidence import EVIDENCE
from medgpt.text import fold

Found = tuple[Any, ...]
Progress = Callable[[int], None]
Key = tuple[str, str]
"""Build and sample id."""
Place = tuple[str, str, int]
"""Build, sample id and number of the picture."""

Fault = tuple[str, str]
"""Where, and what is wrong."""

FOUND = tuple(name for name in EVIDENCE.names if name != "action")
_BATCH = 1 << 10
_WORD = re.compile(r"[^\W_]+")


def found(**values: Any) -> Found:
    """A row of evidence; columns that are not given are NULL."""
    return tuple(values.get(name) for name in FOUND)


def rows_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file. Few are in memory together: as dictionaries they take a hundred times their bytes."""
    for batch in pq.ParquetFile(path).iter_batches(_BATCH, columns=columns):
        yield from batch.to_pylist()


def test_end(build: LoadedBuild, row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of evidence that name a picture of a test sample, by its row of the manifest."""
    names = {"split": "split", "subset": "subset", "sample": "sample_id", "index": "index"}
    return {"eval_build": build.record["build"]} | {f"eval_{name}": row[column] for name, column in names.items()}


def normalised(text: str) -> str:
    """Words as `medgpt.text.normalise` has them, without its fast path."""
    return " ".join(_WORD.findall(fold(text)))


def message_text(message: Mapping[str, Any], between: str) -> str:
    """Text parts of a message, joined."""
    return between.join(part["text"] for part in message["content"] if part["type"] == "text")


@dataclass
class Derived:
    """Evidence of a near level, and what was counted on the way."""

    keep: Callable[[Found], None]
    """Takes each row of evidence."""
    counts: Counter[str] = field(default_factory=Counter)
    common: dict[str, tuple[int, int]] = field(default_factory=dict)
    """As in `overlaps.Overlaps`."""
    left_out: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    looked_at: int = 0
    """Training pictures or samples."""

    def add(self, part: Derived, rows: list[Found]) -> None:
        """Take over what one part of the train side gave."""
        for row in rows:
            self.keep(row)
        self.counts.update(part.counts)
        self.looked_at += part.looked_at
        for gram, (items, samples) in part.common.items():
            self.common[gram] = items, self.common.get(gram, (0, 0))[1] + samples
