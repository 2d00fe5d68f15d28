"""Near-duplicate pictures between training and test side: candidates by hash, verdicts by pixels.

Candidates are complete within the radius: every (training picture, variant of a test picture) whose perceptual hashes
differ in at most `radius` bits, and every pair that shares a region hash within `region_radius` bits. Verdicts are in
three stages, each for what the one before left open: cells at the matched alignment, thumbnails aligned freely, whole
pictures for scores between `borderline` and `threshold`.

`coverage()` is what all of this finds among real pictures changed on purpose, measured by `bench/near_images.py`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from numpy.typing import NDArray

from manifests.fingerprints import THUMBNAIL_PIXELS
from manifests.proof.agreement import (
    COARSE_LEAST,
    COARSE_TRIMMED,
    DOUBT,
    EARLY,
    Cells,
    agreement,
    cells,
    coarse_scores,
    coarse_trimmed,
    flat,
    full_agreement,
)
from manifests.proof.hamming import HammingIndex
from manifests.proof.policy import ImageSettings
from manifests.proof.variants import REGIONS, VARIANTS, PictureError, decode, perceptual_hashes, region_hashes

Numbers = NDArray[np.int64]

VERSION = 2
"""Raised by hand when other pictures are found than before (in `variants`, `agreement` or here); the measured coverage
names the version that it was measured with."""

BLOCK = 8192
"""Training pictures at a time: 75 MB of thumbnails."""
_PAIRS = 1024
COVERAGE_FILE = Path(__file__).with_name("coverage.json")
_INVERTED = np.array([variant.inverted for variant in VARIANTS])


@dataclass(frozen=True)
class ImageMatch:
    """A training picture that shows a test picture: the best evidence of the pair."""

    train: int
    """Row of the training table."""
    eval: int
    """Row of the test table."""
    kind: str
    """`whole` or `region`: which hash found it."""
    distance: int
    """Bits between the hashes that found it."""
    variant: str
    score: float
    decided_on: str
    """`thumbnail` or `full_image`."""


@dataclass
class NearImages:
    """What a scan found: matches sorted by training row and test row, and counts of pairs and rows."""

    pairs: list[ImageMatch]
    counts: Counter[str]
    """candidates = refuted + confirmed; borderline (of the candidates: between the thresholds on thumbnails),
    borderline_unread (of those: refuted since a whole picture could not be read); train_without_hash and train_flat
    (rows that could not be candidates)."""


@dataclass
class _Candidates:
    """Pairs of a block, one row each."""

    rows: Numbers
    ids: Numbers
    """Rows of the variants."""
    distance: Numbers
    region: NDArray[np.bool_]
    coarse: NDArray[np.float64]

    def take(self, at: NDArray[Any]) -> _Candidates:
        return _Candidates(*(getattr(self, name)[at] for name in self.__dataclass_fields__))


class NearImageIndex:
    """Test pictures with all their variants, ready to be compared with training pictures.

    Memory: about 70 kB a test picture. Workers that are forked after `prepare` share it.
    """

    def __init__(self, evals: pa.Table, settings: Mapping[str, ImageSettings]) -> None:
        """Index test pictures: columns phash, thumbnail, width, height, modality (a key of `settings`).

        Rows without phash or thumbnail, and blank ones, are left out (`left_out` counts them). Raises: `ValueError`
        for a modality without settings or a radius that is not even, `PictureError` for a damaged thumbnail.
        """
        names = sorted(settings)
        if unknown := sorted(set(evals["modality"].unique().to_pylist()) - set(names)):
            raise ValueError(f"modality {unknown[0]!r} has no image settings; there are {', '.join(names)}")
        usable = _usable(evals)
        self._rows: Numbers = np.flatnonzero(usable)
        thumbnails = _thumbnails(evals["thumbnail"].take(pa.array(self._rows)).to_pylist(), self._rows)
        blank = flat(thumbnails)
        self.left_out = {"without_hash": int((~usable).sum()), "flat": int(blank.sum())}
        self._rows, self._thumbnails = self._rows[~blank], thumbnails[~blank]
        take = pa.array(self._rows)
        hashes = np.array(evals["phash"].take(take), np.uint64)
        sizes = np.array([evals[name].take(take).to_pylist() for name in ("width", "height")], np.int64)
        self._settings = [settings[name] for name in names]
        self._mode = np.array([names.index(name) for name in evals["modality"].take(take).to_pylist()], np.int64)
        self._threshold = np.array([one.threshold for one in self._settings])[self._mode]
        self._borderline = np.array([one.borderline for one in self._settings])[self._mode]
        self._build(hashes, sizes)

    def _build(self, hashes: NDArray[np.uint64], sizes: Numbers) -> None:
        """All variants: hashes, cells and frames, ordered by test picture."""
        n = len(self._rows)
        owner, variant, hashed, frames = [], [], [], []
        parts: list[Cells] = []
        kept: list[NDArray[np.bool_]] = []
        for start in range(0, n, 16):
            pictures = []
            for one in range(start, min(start + 16, n)):
                width, height = int(sizes[0, one]), int(sizes[1, one])
                for number, kind in enumerate(VARIANTS):
                    picture = kind.picture(self._thumbnails[one], width, height)
                    if picture is not None:
                        pictures.append(picture)
                        owner.append(one)
                        variant.append(number)
                        frames.append(kind.frame(self._thumbnails[one], width, height))
            stack = np.stack(pictures)
            parts.append(cells(stack))
            kept.append(~flat(stack))
            hashed.append(perceptual_hashes(stack))
        self._owner, self._variant = np.array(owner, np.int64), np.array(variant, np.int64)
        self._frames = np.array(frames, np.float64).reshape(-1, 2, 3)
        self._cells = _joined(parts)
        shaped = np.concatenate(kept) if kept else np.zeros(0, bool)
        self._first = np.searchsorted(self._owner, np.arange(n))
        varied = np.concatenate(hashed) if hashed else np.zeros(0, np.uint64)
        varied[self._first] = hashes  # the picture itself: from its pixels, not from its thumbnail
        regions, contrast = region_hashes(self._thumbnails)
        self._whole: list[tuple[HammingIndex, Numbers]] = []
        self._regions: list[tuple[int, HammingIndex, Numbers]] = []
        for mode, chosen in enumerate(self._settings):
            which = np.flatnonzero(shaped & (self._mode[self._owner] == mode))
            if len(which):
                self._whole.append((HammingIndex(varied[which], chosen.radius), which))
            for region in range(len(REGIONS)):
                which = np.flatnonzero(contrast[:, region] & (self._mode == mode))
                if len(which):
                    self._regions.append((region, HammingIndex(regions[which, region], chosen.region_radius), which))

    def scan(
        self, train: pa.Table, read_train: Callable[[int], bytes | None], read_eval: Callable[[int], bytes | None]
    ) -> NearImages:
        """Compare training pictures (columns phash, thumbnail) with all test pictures.

        `read_train`, `read_eval` return the stored bytes of a picture by its row in the training or test table, None
        where there are none. Raises: `PictureError`, naming the row.
        """
        rows = np.flatnonzero(_usable(train))
        found = NearImages([], Counter(train_without_hash=len(train) - len(rows)))
        for start in range(0, len(rows), BLOCK):
            self._scan_block(train, rows[start : start + BLOCK], read_train, read_eval, found)
        found.pairs.sort(key=lambda match: (match.train, match.eval))
        return found

    def prepare(self, train: pa.Table, expected: int) -> None:
        """Build the lists of hashes now, for training pictures like these, `expected` of them in all.

        Otherwise the first scan builds them: after a fork that is once in every worker.
        """
        rows = np.flatnonzero(_usable(train))[:BLOCK]
        thumbnails, hashes = _block(train, rows)
        regions, _ = region_hashes(thumbnails)
        for index, _ in self._whole:
            index.prepare(hashes, expected)
        for region, index, _ in self._regions:
            index.prepare(np.ascontiguousarray(regions[:, region]), expected)

    def candidates(self, train: pa.Table) -> list[tuple[int, int]]:
        """(training row, test row) of every pair that a hash shows, before any pixel is compared; sorted."""
        rows = np.flatnonzero(_usable(train))
        pairs: list[tuple[int, int]] = []
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            thumbnails, hashes = _block(train, some)
            found = self._candidates(thumbnails, hashes, ~flat(thumbnails))
            evals = self._rows[self._owner[found.ids]]
            pairs += zip(some[found.rows].tolist(), evals.tolist(), strict=True)
        return pairs

    def _scan_block(
        self,
        train: pa.Table,
        rows: Numbers,
        read_train: Callable[[int], bytes | None],
        read_eval: Callable[[int], bytes | None],
        found: NearImages,
    ) -> None:
        thumbnails, hashes = _block(train, rows)
        blank = flat(thumbnails)
        found.counts["train_flat"] += int(blank.sum())
        pairs = self._candidates(thumbnails, hashes, ~blank)
        found.counts["candidates"] += len(pairs.rows)
        # Cells of changed copies score 0.66 and more (radiographs 0.89), radiographs of others 0.55 in the median. Less
        # is enough where the better half of the blocks agrees: something may be drawn over the rest.
        likely = pairs.coarse >= self._borderline[self._owner[pairs.ids]]
        unsure = np.flatnonzero(~likely & (pairs.coarse >= COARSE_LEAST))
        looked, positions = np.unique(pairs.rows[unsure], return_inverse=True)
        trimmed = coarse_trimmed(cells(thumbnails[looked]), positions, self._cells, pairs.ids[unsure])
        likely[unsure] = trimmed >= COARSE_TRIMMED
        pairs = pairs.take(likely)
        evals, variants = self._owner[pairs.ids], self._variant[pairs.ids]
        scores = np.empty(len(evals))
        for start in range(0, len(evals), _PAIRS):  # pictures are copied: not all at once
            some = slice(start, start + _PAIRS)
            scores[some] = agreement(
                thumbnails[pairs.rows[some]],
                self._thumbnails[evals[some]],
                self._frames[pairs.ids[some]],
                _INVERTED[variants[some]],
                float(self._borderline.min(initial=1)) - EARLY,
            )
        on_full = np.zeros(len(scores), bool)
        low, high = self._borderline[evals], self._threshold[evals]
        for k in np.flatnonzero((scores >= low) & (scores < np.maximum(high, DOUBT))):
            sure = bool(scores[k] >= high[k])
            found.counts["borderline"] += not sure
            row, one = int(rows[pairs.rows[k]]), int(self._rows[evals[k]])
            first, second = read_train(row), read_eval(one)
            if first is None or second is None:
                found.counts["borderline_unread"] += not sure
                continue
            try:
                score = full_agreement(first, second, VARIANTS[variants[k]])
            except PictureError as error:
                raise PictureError(f"training row {row} or test row {one}: {error}") from error
            if not sure or score < low[k]:
                scores[k], on_full[k] = score, True
        for k in np.flatnonzero(scores >= high):
            match = ImageMatch(
                int(rows[pairs.rows[k]]),
                int(self._rows[evals[k]]),
                "region" if pairs.region[k] else "whole",
                int(pairs.distance[k]),
                VARIANTS[variants[k]].name,
                float(scores[k]),
                "full_image" if on_full[k] else "thumbnail",
            )
            found.pairs.append(match)
        found.counts["confirmed"] += int((scores >= high).sum())
        found.counts["refuted"] = found.counts["candidates"] - found.counts["confirmed"]

    def _candidates(
        self, thumbnails: NDArray[np.uint8], hashes: NDArray[np.uint64], usable: NDArray[np.bool_]
    ) -> _Candidates:
        """Every (training picture, test picture) that a hash shows, with the variant whose cells agree best."""
        shaped = np.flatnonzero(usable)
        columns: list[tuple[Numbers, Numbers, Numbers, bool]] = []
        for index, which in self._whole:
            matches = index.search(hashes[shaped])
            columns.append((shaped[matches.rows], which[matches.ids], matches.distance.astype(np.int64), False))
        regions, contrast = region_hashes(thumbnails)
        for region, index, which in self._regions:
            some = np.flatnonzero(contrast[:, region] & usable)
            matches = index.search(regions[some, region])
            columns.append(
                (some[matches.rows], self._first[which[matches.ids]], matches.distance.astype(np.int64), True)
            )
        none = np.zeros(0, np.int64)
        rows, ids, distance = (np.concatenate([none, *(column[at] for column in columns)]) for at in range(3))
        region_found = np.repeat([column[3] for column in columns], [len(column[0]) for column in columns]).astype(bool)
        looked, positions = np.unique(rows, return_inverse=True)
        coarse = coarse_scores(cells(thumbnails[looked]), positions, self._cells, ids)
        evals, variants = self._owner[ids], self._variant[ids]
        order = np.lexsort((distance, region_found, variants, -coarse, evals, rows))
        rows, evals = rows[order], evals[order]
        best = np.ones(len(order), bool)
        best[1:] = (rows[1:] != rows[:-1]) | (evals[1:] != evals[:-1])
        order = order[best]
        return _Candidates(rows[best], ids[order], distance[order], region_found[order], coarse[order])


def _usable(pictures: pa.Table) -> NDArray[np.bool_]:
    """Rows with a hash and a thumbnail."""
    usable: NDArray[np.bool_] = np.array(pictures["phash"].is_valid()) & np.array(pictures["thumbnail"].is_valid())
    return usable


def _block(train: pa.Table, rows: Numbers) -> tuple[NDArray[np.uint8], NDArray[np.uint64]]:
    """Thumbnails and hashes of some rows."""
    table = train.select(["phash", "thumbnail"]).take(pa.array(rows))
    return _thumbnails(table["thumbnail"].to_pylist(), rows), np.array(table["phash"], np.uint64)


def _thumbnails(stored: Sequence[bytes], rows: Numbers) -> NDArray[np.uint8]:
    """Decode thumbnails to (n, 96, 96); `PictureError` names the row."""
    pictures = np.empty((len(stored), THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), np.uint8)
    for number, data in enumerate(stored):
        try:
            pictures[number] = decode(data)
        except PictureError as error:
            raise PictureError(f"row {rows[number]}: {error}") from error
    return pictures


def _joined(parts: Sequence[Cells]) -> Cells:
    if not parts:
        return cells(np.zeros((0, THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), np.uint8))
    names = Cells.__dataclass_fields__
    return Cells(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def coverage() -> dict[str, Any] | None:
    """What the measurement on real pictures found, or None if there is none for this version."""
    if not COVERAGE_FILE.exists():
        return None
    measured: dict[str, Any] = orjson.loads(COVERAGE_FILE.read_bytes())
    return measured if measured.get("version") == VERSION else None
