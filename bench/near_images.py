"""Near-duplicate pictures on real ones: recall of every transformation, precision, speed; writes `coverage.json`.

The pictures: `cxr_mimic_layout` (radiographs) and `artifacts` (histology, CT, screens, diagrams) below the folder that
MEDGPT_PICTURES names, `../shared/data` by default. Each is changed once by each transformation; the changed ones are
the training side, the pictures themselves the test side. `unseen` is the recall on the half of them (by the digest of
their names) whose changed copies no constant was chosen on since overlays and two changes at once are measured.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from msgspec.structs import asdict
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from bench.picture_changes import OVERLAYS, TEN, composed, one_sided_crop, rainbow, seeded
from manifests.fingerprints import THUMBNAIL_PIXELS, ImageFingerprint, fingerprint
from manifests.proof.agreement import agreement, cells, coarse_scores, flat
from manifests.proof.near_images import COVERAGE_FILE, VERSION, ImageMatch, NearImageIndex
from manifests.proof.policy import load_policy
from manifests.proof.variants import VARIANTS, coefficients, decode
from medgpt.pictures import to_store

LONGEST = 1024
"""Longest side of a picture before it is changed, in pixels (as in the survey the transformations come from)."""


def _scaled(picture: Image.Image, factor: float) -> Image.Image:
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _jpeg(picture: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    opened = Image.open(io.BytesIO(buffer.getvalue()))
    opened.load()
    return opened


def _blur(picture: Image.Image) -> Image.Image:
    return _scaled(picture, 1 / 6).resize(picture.size, Image.Resampling.BICUBIC)


def _tone(picture: Image.Image, curve: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Image.Image:
    table = np.clip(np.rint(curve(np.arange(256, dtype=np.float64))), 0, 255).astype(int)
    return picture.point(table.tolist())


def clahe(picture: Image.Image, clip: float = 2.0, tiles: int = 8) -> Image.Image:
    """Contrast-limited adaptive histogram equalisation: `tiles` x `tiles` histograms cut at `clip` times their mean."""
    grey = np.asarray(picture)
    height, width = grey.shape
    rows, columns = (np.linspace(0, n, tiles + 1).astype(int) for n in (height, width))
    tables = np.zeros((tiles, tiles, 256))
    for i in range(tiles):
        for j in range(tiles):
            tile = grey[rows[i] : max(rows[i + 1], rows[i] + 1), columns[j] : max(columns[j + 1], columns[j] + 1)]
            counts = np.bincount(tile.ravel(), minlength=256).astype(float)
            limit = clip * tile.size / 256
            counts = np.minimum(counts, limit) + np.maximum(counts - limit, 0).sum() / 256
            tables[i, j] = 255 * counts.cumsum() / counts.sum()

    def between(length: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        position = np.clip((np.arange(length) + 0.5) * tiles / length - 0.5, 0, tiles - 1)
        first = np.minimum(position.astype(np.int64), tiles - 2)
        return first, first + 1, position - first

    (y0, y1, fy), (x0, x1, fx) = between(height), between(width)
    top = tables[y0[:, None], x0, grey] * (1 - fx) + tables[y0[:, None], x1, grey] * fx
    bottom = tables[y1[:, None], x0, grey] * (1 - fx) + tables[y1[:, None], x1, grey] * fx
    return Image.fromarray(np.rint(top * (1 - fy[:, None]) + bottom * fy[:, None]).astype(np.uint8))


def _label(picture: Image.Image) -> Image.Image:
    changed = picture.copy()
    height = max(6, round(0.06 * picture.height))
    box = (0, 0, max(8, round(0.4 * picture.width)), height)
    draw = ImageDraw.Draw(changed)
    draw.rectangle(box, fill=0)
    font = ImageFont.load_default(size=max(5, round(0.75 * height)))
    words = "AP PORTABLE 1234567"
    while font.getlength(words) > box[2] * 0.96 and len(words) > 2:
        words = words[:-1]
    draw.text((box[2] // 2, height // 2), words, fill=255, font=font, anchor="mm")
    return changed


def _crop(picture: Image.Image, share: float) -> Image.Image:
    x, y = round(share * picture.width), round(share * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def _pad(picture: Image.Image, share: float) -> Image.Image:
    x, y = round(share * picture.width), round(share * picture.height)
    changed = Image.new("L", (picture.width + 2 * x, picture.height + 2 * y), 0)
    changed.paste(picture, (x, y))
    return changed


def _square(picture: Image.Image, fill: int, at: float = 0.5) -> Image.Image:
    side = max(picture.size)
    changed = Image.new("L", (side, side), fill)
    changed.paste(picture, (int((side - picture.width) * at), int((side - picture.height) * at)))
    return changed


def bars(picture: Image.Image, left: float, top: float, right: float, bottom: float, fill: int) -> Image.Image:
    """With uniform bars, as shares of its width and height."""
    changed = Image.new(
        "L", (round(picture.width * (1 + left + right)), round(picture.height * (1 + top + bottom))), fill
    )
    changed.paste(picture, (round(picture.width * left), round(picture.height * top)))
    return changed


def _fed(picture: Image.Image) -> Image.Image:
    """As networks are fed: 256 pixels on the shorter side, and the middle 224."""
    small = _scaled(picture, 256 / min(picture.size))
    x, y = (small.width - 224) // 2, (small.height - 224) // 2
    return small.crop((x, y, x + 224, y + 224))


def _rotated(picture: Image.Image, degrees: float) -> Image.Image:
    return picture.rotate(degrees, Image.Resampling.BICUBIC)


TRANSFORMATIONS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "JPEG quality 30": lambda p: _jpeg(p, 30),
    "half size": lambda p: _scaled(p, 0.5),
    "squeezed to 256x256": lambda p: p.resize((256, 256), Image.Resampling.LANCZOS),
    "down 6x and up again": _blur,
    "gamma 0.6": lambda p: _tone(p, lambda x: 255 * (x / 255) ** 0.6),
    "contrast x1.6": lambda p: _tone(p, lambda x: 128 + 1.6 * (x - 128)),
    "CLAHE": clahe,
    "text label": _label,
    "rotated 3 degrees": lambda p: _rotated(p, 3),
    "cropped 3 % a side": lambda p: _crop(p, 0.03),
    "cropped 8 % a side": lambda p: _crop(p, 0.08),
    "cropped 15 % a side": lambda p: _crop(p, 0.15),
    "padded 10 % black": lambda p: _pad(p, 0.10),
    "inverted": lambda p: _tone(p, lambda x: 255 - x),
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "quarter turn": lambda p: p.transpose(Image.Transpose.ROTATE_90),
}
"""The transformations of the promise: each at >= 0.99 recall (not reached: contrast x 1.6, two of the crops)."""

BETWEEN: dict[str, Callable[[Image.Image], Image.Image]] = {
    "cropped 5 % a side": lambda p: _crop(p, 0.05),
    "cropped 11 % a side": lambda p: _crop(p, 0.11),
    "padded 5 % black": lambda p: _pad(p, 0.05),
    "rotated 1.5 degrees": lambda p: _rotated(p, 1.5),
    "rotated -2 degrees": lambda p: _rotated(p, -2),
    "square, black bars": lambda p: _square(p, 0),
    "square, white bars": lambda p: _square(p, 255),
    "square, black bar right or below": lambda p: _square(p, 0, 0),
    "square, white bar left or above": lambda p: _square(p, 255, 1),
    "shorter side 256, the middle 224": _fed,
    "black border, 30 % a side": lambda p: bars(p, 0.3, 0.3, 0.3, 0.3, 0),
    "black bars left and right, 30 % each": lambda p: bars(p, 0.3, 0, 0.3, 0, 0),
    "one black bar right, 12 %": lambda p: bars(p, 0, 0, 0.12, 0, 0),
    "one white bar above, 25 %": lambda p: bars(p, 0, 0.25, 0, 0, 255),
    "twice the brightness, clipped": lambda p: _tone(p, lambda x: 2 * x),
}
"""Values between those that the variants are made for, and a tone that loses structure, as information."""

PAIRS, TRIPLES = (tuple(itertools.combinations(TEN, count)) for count in (2, 3))
STEP = 3
"""One in so many real pictures is measured, from the second on (version 3 and before: every sixth from the first)."""
EACH = 4
"""Every pair of changes is made to one in so many pictures, to others each."""

SAME_PICTURE = (
    "b678b82402fb8be5 d359559f7c4c3e3d",
    "8d78e80a4a3a2999 f62af1c72af33e08",
    "77cf4f5593f08c52 f9bd433d56a655d3",
    "1e157fb5a052a999 0ce48e817c399515 3ae51bc59898bb12 6b1b1755daaa1b9f",
    "d5311d14e79ebbc5 3d80ecac3ae4dbbc",
    "d1d6b536f419581e 8365b0aecf85fd23 de2e95d4ec4c48c8 d5d464e6a3d86295",
    "74c9408f0655a872 2e24b89c2966e1cb",
    "0930e3aa8cae5920 55fc3ee1c2affe97",
    "ac1f8ff21e07885c cfe328001a276347 286ea08c6b12362f",
    "50ae54128f982a58 e545fa0dbca3975c 6082bc3dd782ba9e ef0bbca7c8c66b0e",
)
"""Groups of `artifacts` files that show one picture (with overlays, in other colours, cropped), told apart by eye.
Other pairs of screens of one program are counted as different, though only a few of their pixels differ."""


SAME_PERSON = {"p10000529": "p10000307"}
"""The person of `cxr_mimic_layout` who was published twice (the data's README)."""


@dataclass(frozen=True)
class Source:
    """A real picture."""

    path: Path
    name: str
    person: str
    """Who a radiograph shows; otherwise the picture's group, or its own name."""
    kind: str
    """`radiographs` or `others`."""

    @property
    def unseen(self) -> bool:
        """Whether no constant was chosen on it."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 2 == 1


def sources(folder: Path) -> list[Source]:
    """All real pictures below the data folder. `FileNotFoundError` says what is missing."""
    layout, artifacts = folder / "cxr_mimic_layout", folder / "artifacts" / "images"
    for needed in (layout / "provenance.csv", artifacts):
        if not needed.exists():
            raise FileNotFoundError(f"{needed} is not there; set MEDGPT_PICTURES to the folder of real pictures")
    found = []
    with (layout / "provenance.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            subject = f"p{row['subject_id']}"
            place = layout / "mimic-cxr-jpg" / "files" / subject[:3] / subject / f"s{row['study_id']}"
            person = SAME_PERSON.get(subject, subject)
            found.append(Source(place / f"{row['dicom_id']}.jpg", row["dicom_id"], person, "radiographs"))
    groups = {stem: group for group in SAME_PICTURE for stem in group.split()}
    for path in sorted(artifacts.iterdir()):
        found.append(Source(path, path.stem, groups.get(path.stem, path.stem), "others"))
    return found


def opened(path: Path) -> Image.Image:
    """A picture as the survey used it: grey, longest side at most `LONGEST`."""
    with Image.open(path) as file:
        grey = file.convert("L")
    return _scaled(grey, LONGEST / max(grey.size)) if max(grey.size) > LONGEST else grey


def stored(picture: Image.Image) -> tuple[bytes, ImageFingerprint]:
    """The picture as a JPEG of high quality, and what a manifest keeps of it."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=95)
    data = buffer.getvalue()
    return data, fingerprint(to_store(data).data)


def image_table(prints: Iterable[ImageFingerprint], modalities: list[str]) -> pa.Table:
    """Columns that `NearImageIndex` and its `scan` read."""
    rows = list(prints)
    return pa.table(
        {
            "phash": pa.array([row.phash for row in rows], pa.uint64()),
            "thumbnail": pa.array([row.thumbnail for row in rows], pa.binary()),
            "width": pa.array([row.width for row in rows], pa.int32()),
            "height": pa.array([row.height for row in rows], pa.int32()),
            "modality": pa.array(modalities, pa.string()),
        }
    )


@dataclass(frozen=True)
class _Change:
    """What one transformation gave."""

    candidates: set[int]
    """Pictures that were looked at with their own changed copy."""
    found: set[int]
    pairs: list[ImageMatch]
    counts: Counter[str]
    cpu_s: float


class _Coverage:
    """The real pictures, usable ones only, indexed as test side."""

    def __init__(self, folder: Path) -> None:
        self.sources: list[Source] = []
        self.left_out: Counter[str] = Counter(too_small=0, without_structure=0)
        self.pictures: list[Image.Image] = []
        self.data: list[bytes] = []
        prints = []
        for source in sources(folder)[1::STEP]:
            picture = opened(source.path)
            data, print_ = stored(picture)
            if min(picture.size) < THUMBNAIL_PIXELS:
                self.left_out["too_small"] += 1
            elif flat(decode(print_.thumbnail)[None])[0]:
                self.left_out["without_structure"] += 1
            else:
                self.sources.append(source)
                self.pictures.append(picture)
                self.data.append(data)
                prints.append(print_)
        modalities = ["radiographs" if source.kind == "radiographs" else "default" for source in self.sources]
        started = time.process_time()
        self.table = image_table(prints, modalities)
        self.index = NearImageIndex(self.table, load_policy().images)
        self.index_cpu_s = time.process_time() - started

    def run(self, change: Callable[[int], Image.Image], of: NDArray[np.int64]) -> _Change:
        """Change some pictures, each by its number; matches name the numbers."""
        changed = [stored(change(row)) for row in of.tolist()]
        train = image_table((print_ for _, print_ in changed), ["-"] * len(changed))
        started = time.process_time()
        found = self.index.scan(train, lambda row: changed[row][0], lambda row: self.data[row])
        seconds = time.process_time() - started
        pairs = [replace(match, train=int(of[match.train])) for match in found.pairs]
        own = {match.train for match in pairs if match.train == match.eval}
        candidates = {int(of[row]) for row, one in self.index.candidates(train) if of[row] == one}
        return _Change(candidates, own, pairs, found.counts, seconds)

    def groups(self) -> dict[str, dict[str, list[tuple[Callable[[int], Image.Image], NDArray[np.int64]]]]]:
        """What is measured: by group and name, changes and the numbers of the pictures that they are made to."""
        every = np.arange(len(self.sources))

        def drawn(name: str, change: Callable[[Image.Image, np.random.Generator], Image.Image]) -> Any:
            return lambda row: change(self.pictures[row], seeded(self.sources[row].name, name))

        def several(names: tuple[str, ...]) -> Any:
            return drawn("+".join(names), lambda picture, random: composed(picture, names, random))

        def plain(change: Callable[[Image.Image], Image.Image]) -> Any:
            return lambda row: change(self.pictures[row])

        others = {"cropped on one side": one_sided_crop, "colour map": rainbow}
        triples = [(several(names), every[number :: len(TRIPLES)]) for number, names in enumerate(TRIPLES)]
        return {
            "transformations": {name: [(plain(change), every)] for name, change in TRANSFORMATIONS.items()},
            "between": {
                **{name: [(plain(change), every)] for name, change in BETWEEN.items()},
                **{name: [(drawn(name, change), every)] for name, change in others.items()},
            },
            "overlays": {
                **{name: [(drawn(name, change), every)] for name, change in OVERLAYS.items()},
                "overlay and crop": [(several(("overlay", "crop")), every)],
            },
            "composed": {
                "two of ten changes": [
                    (several(names), every[number % EACH :: EACH]) for number, names in enumerate(PAIRS)
                ],
                "three of ten changes": triples,
            },
        }

    def relation(self, match: ImageMatch) -> str:
        a, b = self.sources[match.train], self.sources[match.eval]
        if match.train == match.eval:
            return "own_copies"
        if a.kind == b.kind == "radiographs":
            return "same_person" if a.person == b.person else "different_people"
        return "same_picture" if a.person == b.person else "different_pictures"


def _speeds(coverage: _Coverage, train: pa.Table) -> dict[str, Any]:
    """Figures per CPU-second of the stages, each the best of five."""

    def rate(work: Callable[[], object], things: int) -> int:
        best = float("inf")
        for _ in range(5):
            started = time.process_time()
            work()
            best = min(best, time.process_time() - started)
        return round(things / best)

    thumbnails = [thumbnail.as_py() for thumbnail in train["thumbnail"]]
    pictures = np.stack([decode(thumbnail) for thumbnail in thumbnails])
    n = len(pictures)
    cells_of = cells(pictures)
    order = np.random.default_rng(0)
    rows, ids = order.integers(0, n, 100_000), order.integers(0, n, 100_000)
    frames = np.tile(np.array([[1.0, 0, 0], [0, 1.0, 0]]), (n, 1, 1))
    rolled = np.roll(pictures, 1, 0)
    # Training pictures that are no candidates are the rule: a test side of one picture leaves only what each costs.
    single = NearImageIndex(coverage.table.slice(0, 1), load_policy().images)
    copies = pa.concat_tables([train.slice(1)] * 4)
    return {
        "decode_per_cpu_s": rate(lambda: [decode(one) for one in thumbnails], n),
        "hashes_per_cpu_s": rate(lambda: coefficients(pictures), n),
        "scan_without_candidates_per_cpu_s": rate(
            lambda: single.scan(copies, lambda row: None, lambda row: None), len(copies)
        ),
        "coarse_verdicts_per_cpu_s": rate(lambda: coarse_scores(cells_of, rows, cells_of, ids), len(rows)),
        "aligned_verdicts_per_cpu_s": rate(lambda: agreement(pictures, rolled, frames, np.zeros(n, bool)), n),
        "index_ms_a_test_picture": round(1000 * coverage.index_cpu_s / n, 1),
    }


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Recall and precision over all transformations, speeds; writes `manifests/proof/coverage.json`."""
    del peer_python
    folder = Path(os.environ.get("MEDGPT_PICTURES", Path(__file__).parents[2] / "shared" / "data"))
    coverage = _Coverage(folder)
    kinds = np.array([source.kind for source in coverage.sources])
    unseen = np.array([source.unseen for source in coverage.sources])
    tables: dict[str, list[dict[str, Any]]] = {}
    relations: dict[str, Counter[str]] = {}
    pairs_of_changes: dict[str, float] = {}
    seconds, counts, changed = 0.0, Counter[str](), 0
    for group, changes in coverage.groups().items():
        tables[group], relations[group] = [], Counter()
        for name, parts in changes.items():
            looked: list[NDArray[np.int64]] = []
            candidates: list[NDArray[np.bool_]] = []
            found: list[NDArray[np.bool_]] = []
            for number, (change, of) in enumerate(parts):
                done = coverage.run(change, of)
                looked.append(of)
                candidates.append(np.isin(of, list(done.candidates)))
                found.append(np.isin(of, list(done.found)))
                relations[group].update(coverage.relation(match) for match in done.pairs)
                seconds += done.cpu_s
                counts.update(done.counts)
                if len(parts) == len(PAIRS):
                    pairs_of_changes["+".join(PAIRS[number])] = round(float(found[-1].mean()), 4)
            rows, hit = np.concatenate(looked), np.concatenate(found)
            changed += len(rows)
            row: dict[str, Any] = {
                "name": name,
                "pictures": len(rows),
                "found": int(hit.sum()),
                "recall_candidates": round(float(np.concatenate(candidates).mean()), 4),
                "recall": round(float(hit.mean()), 4),
                "unseen": round(float(hit[unseen[rows]].mean()), 4),
            }
            for kind in ("radiographs", "others"):
                row[kind] = round(float(hit[kinds[rows] == kind].mean()), 4)
            tables[group].append(row)
            print(json.dumps(row), file=sys.stderr, flush=True)
    settings = {
        name: {key: value for key, value in asdict(one).items() if key != "where_present"}
        for name, one in sorted(load_policy().images.items())
    }
    pictures = {
        "radiographs": int((kinds == "radiographs").sum()),
        "others": int((kinds == "others").sum()),
        "left_out_too_small": coverage.left_out["too_small"],
        "left_out_without_structure": coverage.left_out["without_structure"],
    }
    precision = _precision(sum(relations.values(), Counter()))
    document = {
        "version": VERSION,
        "settings": settings,
        "variants": [variant.name for variant in VARIANTS],
        "pictures": pictures,
        "precision": precision,
        **tables,
    }
    COVERAGE_FILE.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    return {
        **document,
        "precision_by_group": {group: _precision(some) for group, some in relations.items()},
        "pairs_of_changes": pairs_of_changes,
        "pairs": dict(sorted(counts.items())),
        "scan_ms_a_changed_picture": round(1000 * seconds / changed, 2),
        **_speeds(coverage, coverage.table),
    }


def _precision(relations: Counter[str]) -> dict[str, Any]:
    """Confirmed pairs by what they are. Another film of the same person is neither right nor wrong."""
    right = relations["own_copies"] + relations["same_picture"]
    wrong = relations["different_people"] + relations["different_pictures"]
    names = ("own_copies", "same_picture", "same_person", "different_people", "different_pictures")
    return {**{name: relations[name] for name in names}, "precision": round(right / (right + wrong), 4)}
