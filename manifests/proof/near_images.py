"""Near-duplicate pictures between training and test side: candidates by hash, verdicts by pixels.

Candidates are complete within the radius: every (training picture, variant of a test picture) whose oriented hashes
differ in at most `radius` bits, and every pair of regions at the same place whose hashes do in `region_radius` bits.
Verdicts are in three stages, each for what the one before left open: cells at the matched alignment, thumbnails aligned
freely, whole pictures for scores between `borderline` and `threshold`.

`coverage()` is what all of this finds among real pictures changed on purpose, measured by `bench/near_images.py`.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    DOUBT,
    EARLY,
    Cells,
    Whole,
    after,
    agreement,
    cells,
    coarse_enough,
    coarse_scores,
    coarse_trimmed,
    flat,
    full_agreement,
    turned_back,
)
from manifests.proof.hamming import HammingIndex
from manifests.proof.policy import ImageSettings
from manifests.proof.variants import (
    INVERTED,
    REGION_SHOWN,
    REGION_VARIANTS,
    REGIONS,
    TURN_BETWEEN,
    TURN_MATRICES,
    VARIANTS,
    PictureError,
    coefficients,
    decode,
    oriented_hashes,
    turn_name,
    without_borders,
)

Numbers = NDArray[np.int64]

VERSION = 6
"""Raised by hand when other pictures are found than before (in `variants`, `agreement` or here); the measured coverage
names the version that it was measured with."""

BLOCK = 8192
"""Training pictures at a time: 75 MB of thumbnails."""
_PAIRS = 1024
_WHOLES_KEPT = 256
"""Whole test pictures that stay decoded: 15 MB."""
_SCORES_KEPT = 1 << 18
"""Some 60 MB."""
COVERAGE_FILE = Path(__file__).with_name("coverage.json")
_UNSURE = np.array([variant.unsure for variant in VARIANTS])
_WITH_REGIONS = np.array([variant.name in REGION_VARIANTS for variant in VARIANTS])
_CENTRE = REGIONS.index("centre")
_RING = tuple(region for region in range(len(REGIONS)) if region != _CENTRE)
_WHOLE = len(REGIONS)


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
    turns: Numbers
    """In which the training picture shows the variant."""
    distance: Numbers
    region: NDArray[np.bool_]
    coarse: NDArray[np.float64]

    def take(self, at: NDArray[Any]) -> _Candidates:
        return _Candidates(*(getattr(self, name)[at] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class _Hashes:
    """Oriented hashes of variants or of their regions, one row each."""

    index: HammingIndex
    ids: Numbers
    """Rows of the variants."""
    turns: Numbers
    """That orient them."""
    regions: Numbers


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
        sizes = np.array([evals[name].take(take).to_pylist() for name in ("width", "height")], np.int64)
        self._settings = [settings[name] for name in names]
        self._mode = np.array([names.index(name) for name in evals["modality"].take(take).to_pylist()], np.int64)
        self._threshold = np.array([one.threshold for one in self._settings])[self._mode]
        self._borderline = np.array([one.borderline for one in self._settings])[self._mode]
        self._known: dict[tuple[bytes, int, int], float] = {}
        self._build(sizes)

    def _build(self, sizes: Numbers) -> None:
        """All variants: hashes, cells and frames, ordered by test picture."""
        n = len(self._rows)
        owner, variant, frames = [], [], []
        parts: list[Cells] = []
        low: list[NDArray[np.float64]] = []
        shaped: list[NDArray[np.bool_]] = []
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
            found = coefficients(stack)
            low.append(found.low)
            shaped.append(np.column_stack([found.contrast, ~flat(stack)]))
        self._owner, self._variant = np.array(owner, np.int64), np.array(variant, np.int64)
        self._frames = np.array(frames, np.float64).reshape(-1, 2, 3)
        self._cells = _joined(parts)
        every = np.concatenate(low) if low else np.zeros((0, len(REGIONS) + 1, 8, 8))
        usable = np.concatenate(shaped) if shaped else np.zeros((0, len(REGIONS) + 1), bool)
        usable[:, :_WHOLE] &= (usable[:, _WHOLE] & _WITH_REGIONS[self._variant])[:, None]
        self._hashes: list[_Hashes] = []
        for mode, chosen in enumerate(self._settings):
            own = self._mode[self._owner] == mode
            for kinds, radius in (
                ((_WHOLE,), chosen.radius),
                ((_CENTRE,), chosen.region_radius),
                (_RING, chosen.region_radius),
            ):
                columns = [_oriented(every, usable & own[:, None], kind, _UNSURE[self._variant]) for kind in kinds]
                ids, turns, values, regions = (np.concatenate(column) for column in zip(*columns, strict=True))
                if len(ids):
                    self._hashes.append(_Hashes(HammingIndex(values, radius), ids, turns, regions))

    def scan(
        self, train: pa.Table, read_train: Callable[[int], bytes | None], read_eval: Callable[[int], bytes | None]
    ) -> NearImages:
        """Compare training pictures (columns phash, thumbnail) with all test pictures.

        `read_train`, `read_eval` return the stored bytes of a picture by its row in the training or test table, None
        where there are none. Raises: `PictureError`, naming the row.
        """
        rows = np.flatnonzero(_usable(train))
        found = NearImages([], Counter(train_without_hash=len(train) - len(rows)))
        read = functools.lru_cache(1)(functools.partial(_whole, read_train, "training"))
        eval_whole = functools.lru_cache(_WHOLES_KEPT)(functools.partial(_whole, read_eval, "test"))
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            thumbnails = _block(train, some)
            found.counts["train_flat"] += int(flat(thumbnails).sum())
            for pictures, at, framed in _looks(thumbnails, some):
                whole = functools.partial(_inner, read, framed)
                self._scan_block(pictures, at, whole, eval_whole, found, bared=bool(framed))
        # Of a picture with its borders and without them the better; with them where both are as good.
        found.pairs.sort(key=lambda match: (match.train, match.eval, -match.score))
        found.pairs = [
            next(same) for _, same in itertools.groupby(found.pairs, lambda match: (match.train, match.eval))
        ]
        return found

    def prepare(self, train: pa.Table, expected: int) -> None:
        """Build the lists of hashes now, for training pictures like these, `expected` of them in all.

        Otherwise the first scan builds them: after a fork that is once in every worker.
        """
        rows = np.flatnonzero(_usable(train))[:BLOCK]
        found = coefficients(_block(train, rows))
        usable = np.ones((len(rows), len(REGIONS) + 1), bool)
        for hashes in self._hashes:
            asked = [_oriented(found.low, usable, kind)[2] for kind in np.unique(hashes.regions).tolist()]
            hashes.index.prepare(np.concatenate(asked), expected * len(asked))

    def candidates(self, train: pa.Table) -> list[tuple[int, int]]:
        """(training row, test row) of every pair that a hash shows, before any pixel is compared; sorted."""
        rows = np.flatnonzero(_usable(train))
        pairs = set[tuple[int, int]]()
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            for pictures, at, _ in _looks(_block(train, some), some):
                found = self._candidates(pictures, ~flat(pictures))
                evals = self._rows[self._owner[found.ids]]
                pairs.update(zip(at[found.rows].tolist(), evals.tolist(), strict=True))
        return sorted(pairs)

    def _scan_block(
        self,
        thumbnails: NDArray[np.uint8],
        rows: Numbers,
        train_whole: Callable[[int], Whole | None],
        eval_whole: Callable[[int], Whole | None],
        found: NearImages,
        bared: bool,
    ) -> None:
        """Thumbnails of some rows of the training table, with their borders or without."""
        pairs = self._candidates(thumbnails, ~flat(thumbnails))
        found.counts["candidates"] += len(pairs.rows)
        # Cells of changed copies score 0.66 and more (radiographs 0.89), radiographs of others 0.55 in the median. Less
        # is enough where the better half of the blocks agrees: something may be drawn over the rest.
        likely = pairs.coarse >= self._borderline[self._owner[pairs.ids]]
        unsure = np.flatnonzero(~likely & (pairs.coarse >= COARSE_LEAST))
        trimmed = self._coarse(coarse_trimmed, thumbnails, pairs.rows[unsure], pairs.ids[unsure], pairs.turns[unsure])
        likely[unsure] = trimmed >= coarse_enough(self._borderline[self._owner[pairs.ids[unsure]]])
        pairs = pairs.take(likely)
        evals, variants = self._owner[pairs.ids], self._variant[pairs.ids]
        scores = self._thumbnail_scores(thumbnails, pairs)
        on_full = np.zeros(len(scores), bool)
        low, high = self._borderline[evals], self._threshold[evals]
        for k in np.flatnonzero((scores >= low) & (scores < np.maximum(high, DOUBT))):
            sure = bool(scores[k] >= high[k])
            found.counts["borderline"] += not sure
            row, one = int(rows[pairs.rows[k]]), int(self._rows[evals[k]])
            first, second = train_whole(row), eval_whole(one)
            if first is None or second is None:
                found.counts["borderline_unread"] += not sure
                continue
            key = first.digest, int(pairs.ids[k]), int(pairs.turns[k])
            score = self._known.get(key)
            if score is None:
                score = full_agreement(first, second, VARIANTS[variants[k]], int(pairs.turns[k]))
                self._know([(key, score)])
            if not sure or score < low[k]:
                scores[k], on_full[k] = score, True
        for k in np.flatnonzero(scores >= high):
            match = ImageMatch(
                int(rows[pairs.rows[k]]),
                int(self._rows[evals[k]]),
                "region" if pairs.region[k] else "whole",
                int(pairs.distance[k]),
                turn_name(VARIANTS[variants[k]], int(pairs.turns[k]), bared),
                float(scores[k]),
                "full_image" if on_full[k] else "thumbnail",
            )
            found.pairs.append(match)
        found.counts["confirmed"] += int((scores >= high).sum())
        found.counts["refuted"] = found.counts["candidates"] - found.counts["confirmed"]

    def _thumbnail_scores(self, thumbnails: NDArray[np.uint8], pairs: _Candidates) -> NDArray[np.float64]:
        """`agreement` of pairs."""
        digests = {row: hashlib.blake2b(thumbnails[row].tobytes(), digest_size=16).digest() for row in set(pairs.rows)}
        keys = [
            (digests[row], int(one), int(turn))
            for row, one, turn in zip(pairs.rows, pairs.ids, pairs.turns, strict=True)
        ]
        new = np.array([k for k, key in enumerate(keys) if key not in self._known], np.int64)
        scores = np.array([self._known.get(key, 0.0) for key in keys], np.float64)
        for start in range(0, len(new), _PAIRS):  # pictures are copied: not all at once
            some = new[start : start + _PAIRS]
            ids, turns = pairs.ids[some], pairs.turns[some]
            shown = zip(self._owner[ids].tolist(), self._variant[ids].tolist(), strict=True)
            compared = [VARIANTS[kind].compared(self._thumbnails[one]) for one, kind in shown]
            scores[some] = agreement(
                thumbnails[pairs.rows[some]],
                np.stack(compared),
                after(self._frames[ids], TURN_MATRICES[turns]),
                turns & INVERTED == INVERTED,
                float(self._borderline.min(initial=1)) - EARLY,
            )
        self._know([(keys[k], float(scores[k])) for k in new.tolist()])
        return scores

    def _know(self, scores: Sequence[tuple[tuple[bytes, int, int], float]]) -> None:
        """Keep scores by the digest of a picture, variant and turn: sources are built more than once."""
        if len(self._known) + len(scores) > _SCORES_KEPT:
            self._known.clear()
        self._known.update(scores)

    def _candidates(self, thumbnails: NDArray[np.uint8], usable: NDArray[np.bool_]) -> _Candidates:
        """Every (training picture, test picture) that a hash shows, with the variant whose cells agree best."""
        found = coefficients(thumbnails)
        shaped = np.column_stack([found.contrast, usable])
        shaped[:, :_WHOLE] &= usable[:, None]
        columns: list[tuple[Numbers, Numbers, Numbers, Numbers, NDArray[np.bool_]]] = []
        asked: dict[int, tuple[Numbers, Numbers, NDArray[np.uint64], Numbers]] = {}
        for hashes in self._hashes:
            for kind in (
                (_WHOLE,) if hashes.regions[0] == _WHOLE else (_CENTRE,) if hashes.regions[0] == _CENTRE else _RING
            ):
                if kind not in asked:
                    asked[kind] = _oriented(found.low, shaped, kind)
                rows, turns, values, _ = asked[kind]
                matches = hashes.index.search(values)
                shown = TURN_BETWEEN[turns[matches.rows], hashes.turns[matches.ids]]
                there = hashes.regions[matches.ids]
                at = np.flatnonzero((there == _WHOLE) | (there == REGION_SHOWN[shown, min(kind, _WHOLE - 1)]))
                distance = matches.distance[at].astype(np.int64)
                rows, ids = rows[matches.rows[at]], hashes.ids[matches.ids[at]]
                columns.append((rows, ids, shown[at], distance, there[at] != _WHOLE))
        none = np.zeros(0, np.int64)
        rows, ids, turns, distance = (np.concatenate([none, *(column[at] for column in columns)]) for at in range(4))
        region_found = np.concatenate([np.zeros(0, bool), *(column[4] for column in columns)])
        coarse = self._coarse(coarse_scores, thumbnails, rows, ids, turns)
        evals, variants = self._owner[ids], self._variant[ids]
        order = np.lexsort((distance, region_found, turns, variants, -coarse, evals, rows))
        rows, evals = rows[order], evals[order]
        best = np.ones(len(order), bool)
        best[1:] = (rows[1:] != rows[:-1]) | (evals[1:] != evals[:-1])
        order = order[best]
        return _Candidates(rows[best], ids[order], turns[order], distance[order], region_found[order], coarse[order])

    def _coarse(
        self,
        measure: Callable[[Cells, Numbers, Cells, Numbers], NDArray[np.float64]],
        thumbnails: NDArray[np.uint8],
        rows: Numbers,
        ids: Numbers,
        turns: Numbers,
    ) -> NDArray[np.float64]:
        """A measure of the cells of pairs; those of the training pictures are turned back."""
        scores = np.empty(len(rows))
        looked, positions = np.unique(rows, return_inverse=True)
        plain = cells(thumbnails[looked])
        for turn in np.unique(turns).tolist():
            at = np.flatnonzero(turns == turn)
            some, places = np.unique(positions[at], return_inverse=True)
            scores[at] = measure(turned_back(plain, some, turn), places, self._cells, ids[at])
        return scores


def _oriented(
    low: NDArray[np.float64], usable: NDArray[np.bool_], kind: int, unsure: NDArray[np.float64] | None = None
) -> tuple[Numbers, Numbers, NDArray[np.uint64], Numbers]:
    """Row, turn, hash and region of the oriented hashes of a region, or of the whole, of usable rows."""
    rows = np.flatnonzero(usable[:, kind])
    picture, turn, hashes = oriented_hashes(low[rows, kind], 0.0 if unsure is None else unsure[rows])
    return rows[picture], turn, hashes, np.full(len(turn), kind)


def _whole(read: Callable[[int], bytes | None], side: str, row: int) -> Whole | None:
    """A stored picture, decoded; None where there is none."""
    data = read(row)
    try:
        return None if data is None else Whole(data)
    except PictureError as error:
        raise PictureError(f"{side} row {row}: {error}") from error


_Framed = Mapping[int, NDArray[np.uint8]]


def _looks(thumbnails: NDArray[np.uint8], rows: Numbers) -> Iterator[tuple[NDArray[np.uint8], Numbers, _Framed]]:
    """Training pictures as they are, then without wide borders those that have them; of these, thumbnails by row."""
    yield thumbnails, rows, {}
    bared, inner = without_borders(thumbnails)
    if len(bared):
        yield inner, rows[bared], dict(zip(rows[bared].tolist(), thumbnails[bared], strict=True))


def _inner(read: Callable[[int], Whole | None], framed: _Framed, row: int) -> Whole | None:
    whole = read(row)
    return whole.inner(framed[row]) if whole is not None and row in framed else whole


def _usable(pictures: pa.Table) -> NDArray[np.bool_]:
    """Rows with a hash and a thumbnail."""
    usable: NDArray[np.bool_] = np.array(pictures["phash"].is_valid()) & np.array(pictures["thumbnail"].is_valid())
    return usable


def _block(train: pa.Table, rows: Numbers) -> NDArray[np.uint8]:
    """Thumbnails of some rows."""
    return _thumbnails(train["thumbnail"].take(pa.array(rows)).to_pylist(), rows)


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
