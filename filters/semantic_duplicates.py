"""Semantic duplicates: pictures whose embeddings point the same way, whatever was done to the pixels.

Complete for the threshold: every pair is compared, block by block. Of a group the sample that comes first stays.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BLOCK = 4096


def semantic_duplicates(
    ids: Sequence[str], embeddings: NDArray[np.float32], threshold: float
) -> list[tuple[str, str, float]]:
    """(sample, earlier sample that stays, cosine) of every sample at least as close as `threshold` to one that stays.

    ids: n names. embeddings: (n, d), each row of length 1. Going through the rows in order, a row stays unless its
    nearest row that stays is at least that close (the first of equally near ones is named). O(n² d) time.
    Raises: `ValueError` for shapes that do not fit or rows that are not of length 1.
    """
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise ValueError(f"{len(ids)} ids and embeddings of shape {embeddings.shape}; (n, d) is needed")
    if len(ids) and not np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3):
        raise ValueError("embeddings must have length 1; divide each by its norm")
    stays: list[int] = []
    found: list[tuple[str, str, float]] = []
    for start in range(0, len(ids), _BLOCK):
        block = embeddings[start : start + _BLOCK]
        before = len(stays)
        best = np.full(len(block), -np.inf, np.float32)
        nearest = np.zeros(len(block), np.int64)
        for first in range(0, before, _BLOCK):
            chosen = stays[first : min(first + _BLOCK, before)]
            cosines = block @ embeddings[chosen].T
            place = cosines.argmax(axis=1)
            value = cosines[np.arange(len(block)), place]
            better = value > best
            best[better], nearest[better] = value[better], np.asarray(chosen)[place[better]]
        within = block @ block.T
        for number in range(len(block)):
            here = [row - start for row in stays[before:]]
            value, row = float(best[number]), int(nearest[number])
            if here and within[number, here].max() > value:
                place_here = int(within[number, here].argmax())
                value, row = float(within[number, here[place_here]]), start + here[place_here]
            if value >= threshold:
                found.append((ids[start + number], ids[row], round(value, 4)))
            else:
                stays.append(start + number)
    return found
