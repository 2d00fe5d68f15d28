"""Rows on disk, cut into pieces by their key, so that two sides meet piece by piece in a memory that does not grow."""

from __future__ import annotations

import pickle
import tempfile
from collections import defaultdict
from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

_BUFFERED = 2_000
"""Rows kept in memory before they are written."""


class Spill:
    """Rows of several sides. Of rows with one key all are in one piece, whatever their side."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        # Its owner's alone, and gone with this object.
        self._folder = tempfile.TemporaryDirectory(prefix="manifests-verify-")
        self._rows: dict[tuple[str, int], list[Any]] = defaultdict(list)
        self._count = 0

    def add(self, side: str, key: Hashable, row: Any) -> None:
        """Keep a row of plain values."""
        self._rows[side, hash(key) % self.pieces].append(row)
        self._count += 1
        if self._count >= _BUFFERED:
            self._flush()

    def rows(self, side: str, piece: int) -> list[Any]:
        """Rows of a side in one piece, in the order in which they came."""
        self._flush()
        return list(self._read(self._path(side, piece)))

    def _read(self, path: Path) -> Iterator[Any]:
        if path.exists():
            with path.open("rb") as file:
                while file.peek(1):
                    yield from pickle.load(file)  # noqa: S301 - what this process wrote

    def _flush(self) -> None:
        for place, rows in self._rows.items():
            with self._path(*place).open("ab") as file:
                pickle.dump(rows, file, pickle.HIGHEST_PROTOCOL)
        self._rows.clear()
        self._count = 0

    def _path(self, side: str, piece: int) -> Path:
        return Path(self._folder.name) / f"{side}-{piece}"
