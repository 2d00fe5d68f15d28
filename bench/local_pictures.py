"""Local pictures on real ones: recall of every setting a copy is put into, wrong pairs, cost, two peers.

The pictures are those of `bench/near_images.py`. They are halved by the first bit of their SHA-256: on the pictures of
half 0 the level was tuned, those of half 1 were first looked at when nothing was changed any more. Each picture is put
into each setting once (a screenshot, a viewer, a montage with others ...) and stored as JPEG; these are the training
side, the pictures themselves the test side. MEDGPT_EVERY=3 takes every third picture for the training side.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.near_images import opened, sources
from manifests.proof.local_features import TEST_SIDE, features, opencv
from manifests.proof.local_pictures import LocalIndex, LocalMatch
from manifests.proof.policy import load_policy

MENU = "Open series,Window level,Zoom,Measure,Annotations,Export,Patient list,Compare,Print,Layout,Cine,Reset"
BULLETS = "55-year-old with cough and fever,No relevant history,CRP 140 mg/l,Imaging on admission,Follow-up in ten days"


def _within(picture: Image.Image, width: float, height: float) -> Image.Image:
    """As large as fits."""
    factor = min(width / picture.width, height / picture.height)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _write(canvas: Image.Image, place: tuple[float, float], words: str, size: int, fill: int) -> None:
    ImageDraw.Draw(canvas).text(place, words, fill=fill, font=ImageFont.load_default(size))


def screenshot(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
    """A desktop program that shows the picture."""
    canvas = Image.new("L", (1200, 720), 236)
    canvas.paste(70, (0, 0, 1200, 34))
    _write(canvas, (12, 6), f"Image viewer - case_{number:04d}.png", 18, 255)
    _write(canvas, (10, 42), "File   Edit   View   Tools   Window   Help", 17, 20)
    for line, words in enumerate(MENU.split(",")):
        _write(canvas, (14, 90 + 44 * line), words, 16, 40)
    canvas.paste(_within(picture, 820, 600), (220, 80))
    _write(canvas, (14, 692), "Ready   |   zoom 64 %   |   x 211  y 96", 14, 60)
    return canvas


def viewer(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
    """A radiology viewer: black around it, a tool bar, labels in the corners, another window level."""
    shown = _within(picture, 700, 700).point([min(255, max(0, round(1.25 * grey - 20))) for grey in range(256)])
    canvas = Image.new("L", (shown.width + 90, shown.height + 120), 0)
    canvas.paste(shown, (70, 60))
    _write(canvas, (6, 4), f"ID {1000 + number}\nM 064Y", 18, 255)
    _write(canvas, (canvas.width - 170, canvas.height - 52), "W: 2048 L: 1024\nZoom 0.71", 18, 255)
    _write(canvas, (90, 80), "R", 40, 255)
    for tool in range(8):
        canvas.paste(90, (14, 70 + 48 * tool, 46, 102 + 48 * tool))
        canvas.paste(200, (22, 78 + 48 * tool, 38, 94 + 48 * tool))
    return canvas


def montage(side: int) -> Callable[[Image.Image, int, Sequence[Image.Image]], Image.Image]:
    """`side` x `side` pictures, lettered; where the picture lies and what is beside it follow from its number."""

    def change(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
        draw = np.random.default_rng(number)
        cell = 1000 // side
        canvas = Image.new("L", (cell * side, cell * side), 255)
        own, beside = int(draw.integers(side**2)), draw.permutation(len(others))
        for place in range(side**2):
            shown = _within(picture if place == own else others[beside[place]], cell - 12, cell - 12)
            corner = (place % side * cell + 6, place // side * cell + 6)
            canvas.paste(shown, corner)
            letter = "ABCDEFGHIJKLMNOP"[place]
            _write(canvas, (corner[0] + 4, corner[1] + 2), letter, 24, 255 if np.mean(np.asarray(shown)) < 128 else 0)
        return canvas

    return change


def figure(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
    """The middle one of three panels of a figure, all of one height."""
    draw = np.random.default_rng(number)
    beside = [others[int(draw.integers(len(others)))] for _ in range(2)]
    shown = [_within(one, 1200, 420) for one in (beside[0], picture, beside[1])]
    canvas = Image.new("L", (sum(one.width for one in shown) + 40, 490), 255)
    left = 10
    for one, letter in zip(shown, "abc", strict=True):
        canvas.paste(one, (left, 10))
        _write(canvas, (left, 440), f"({letter})", 26, 0)
        left += one.width + 10
    return canvas


def slide(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
    """A slide of a talk."""
    canvas = Image.new("L", (1280, 720), 250)
    _write(canvas, (60, 40), "Case presentation: differential diagnosis", 46, 20)
    for line, words in enumerate(BULLETS.split(",")):
        _write(canvas, (70, 160 + 80 * line), f"- {words}", 28, 40)
    canvas.paste(_within(picture, 600, 500), (620, 150))
    return canvas


def marked(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
    """Arrows on it, and a caption over a part of its lower edge."""
    canvas = picture.copy()
    width, height = canvas.size
    draw = ImageDraw.Draw(canvas)
    for arrow in range(3):
        x, y = width * (0.3 + 0.2 * arrow), height * (0.35 + 0.12 * arrow)
        draw.line((x - width * 0.12, y - height * 0.1, x, y), fill=255, width=max(3, width // 120))
        draw.polygon([(x, y), (x - width * 0.04, y - height * 0.01), (x - width * 0.01, y - height * 0.04)], fill=255)
    draw.rectangle((0, height * 0.88, width * 0.5, height), fill=0)
    _write(canvas, (8, height * 0.9), "Fig. 2  courtesy of ...", max(10, height // 20), 255)
    return canvas


def _part(left: float, top: float, right: float, bottom: float) -> Callable[..., Image.Image]:
    """The part between these shares of width and height."""

    def change(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
        width, height = picture.size
        return picture.crop((round(left * width), round(top * height), round(right * width), round(bottom * height)))

    return change


def _colours(name: str) -> Callable[..., Image.Image]:
    """One of OpenCV's colour maps."""

    def change(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
        cv2 = opencv()
        mapped = cv2.applyColorMap(np.asarray(picture), getattr(cv2, f"COLORMAP_{name}"))
        return Image.fromarray(np.ascontiguousarray(mapped[:, :, ::-1]))

    return change


def _mirrored(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
    return screenshot(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), number, others)


def _inverted(picture: Image.Image, number: int, others: Sequence[Image.Image]) -> Image.Image:
    return montage(2)(picture.point([255 - grey for grey in range(256)]), number, others)


SETTINGS: dict[str, Callable[..., Image.Image]] = {
    "screenshot": screenshot,
    "viewer frame": viewer,
    "slide": slide,
    "montage 2x2": montage(2),
    "montage 3x3": montage(3),
    "montage 4x4": montage(4),
    "panel of a figure": figure,
    "arrows and caption": marked,
    "left 35 % cut off": _part(0.35, 0, 1, 1),
    "top 30 % cut off": _part(0, 0.3, 1, 1),
    "lower right corner, 60 %": _part(0.4, 0.4, 1, 1),
    "right half": _part(0.5, 0, 1, 1),
    "middle, 50 %": _part(0.25, 0.25, 0.75, 0.75),
    "colours: jet": _colours("JET"),
    "colours: hot": _colours("HOT"),
    "colours: viridis": _colours("VIRIDIS"),
    "mirrored, in a screenshot": _mirrored,
    "inverted, in a montage 2x2": _inverted,
}
"""How a copy is shown."""
PEERS = ("screenshot", "montage 2x2", "left 35 % cut off", "middle, 50 %", "colours: jet")
"""Where peers are run, too: `crop_resistant_hash` takes a second for a large picture."""


def half(path: Path) -> int:
    """0: the level was tuned on it; 1: it was not looked at."""
    return hashlib.sha256(path.read_bytes()).digest()[0] & 1


def stored(picture: Image.Image, quality: int = 80) -> bytes:
    """The picture as JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class Bench:
    """The pictures of one half, all of them as test side."""

    def __init__(self, folder: Path, number: int, every: int) -> None:
        self.sources = [one for one in sources(folder) if half(one.path) == number and min(opened(one.path).size) >= 96]
        self.pictures = [opened(one.path) for one in self.sources]
        self.data = [stored(picture, 95) for picture in self.pictures]
        self.train = range(0, len(self.pictures), every)
        started = time.process_time()
        found = [features(data, TEST_SIDE) for data in self.data]
        self.index_cpu_s = time.process_time() - started
        self.few = [len(one.codes) < 2 * load_policy().local_pictures.inliers for one in found]
        self.index = LocalIndex(found, [picture.size for picture in self.pictures])

    def run(self, change: Callable[..., Image.Image]) -> tuple[list[LocalMatch], Counter[str], float]:
        """Matches (training pictures by their place in `train`), counts, CPU-seconds."""
        changed = [stored(change(self.pictures[one], one, self.pictures)) for one in self.train]
        started = time.process_time()
        settings = load_policy().local_pictures
        matches, counts = self.index.scan(len(changed), changed.__getitem__, self.data.__getitem__, settings)
        return matches, counts, time.process_time() - started

    def relation(self, match: LocalMatch, beside: set[int]) -> str:
        """What a match is: own copy, another copy that is there, too (a montage), same person, wrong."""
        own = self.train[match.train]
        a, b = self.sources[own], self.sources[match.test]
        if own == match.test:
            return "own"
        if match.test in beside or any(self.sources[one].person == b.person for one in (own, *beside)):
            return "same picture or person" if a.person == b.person else "beside it"
        shown = [self.sources[one].kind for one in (own, *beside)]
        return "different people" if b.kind == "radiographs" and "radiographs" in shown else "other pictures"


def _beside(name: str, bench: Bench, own: int) -> set[int]:
    """What a montage or figure shows beside the picture, as `montage` and `figure` draw it."""
    draw = np.random.default_rng(own)
    if "montage" in name:
        side = int(name[-1])
        place, order = int(draw.integers(side**2)), draw.permutation(len(bench.pictures))
        return {int(order[at]) for at in range(side**2) if at != place}
    if "figure" in name:
        return {int(draw.integers(len(bench.pictures))) for _ in range(2)}
    return set()


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Recall of every setting on both halves, what else was matched, cost."""
    del peer_python
    folder = Path(os.environ.get("MEDGPT_PICTURES", Path(__file__).parents[2] / "shared" / "data"))
    every = int(os.environ.get("MEDGPT_EVERY", "1"))
    halves = [int(one) for one in os.environ.get("MEDGPT_HALVES", "01")]
    figures: dict[str, Any] = {}
    for number in halves:
        bench = Bench(folder, number, every)
        figures[("tuned", "unseen")[number]] = measured(bench) | {"imagehash": peers(bench, PEERS)}
    return figures


def peers(bench: Bench, names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Recall of imagehash: pHash within 8 bits, and `crop_resistant_hash` (any segment alike, its default limits)."""
    import imagehash

    def hashes(data: bytes) -> tuple[imagehash.ImageHash, imagehash.ImageMultiHash]:
        picture = Image.open(io.BytesIO(data))
        return imagehash.phash(picture), imagehash.crop_resistant_hash(picture)

    own = {one: hashes(bench.data[one]) for one in bench.train}
    rows = {}
    for name in names:
        made = {one: hashes(stored(SETTINGS[name](bench.pictures[one], one, bench.pictures))) for one in bench.train}
        rows[name] = {
            "phash": float(np.mean([made[one][0] - own[one][0] <= 8 for one in bench.train])),
            "crop_resistant": float(np.mean([made[one][1].matches(own[one][1]) for one in bench.train])),
        }
    return rows


def measured(bench: Bench, names: Sequence[str] = tuple(SETTINGS)) -> dict[str, Any]:
    """One half's figures."""
    rows, wrong, seconds, pictures = [], [], 0.0, 0
    relations: Counter[str] = Counter()
    for name in names:
        matches, counts, spent = bench.run(SETTINGS[name])
        seconds, pictures = seconds + spent, pictures + len(bench.train)
        found = {match.train for match in matches if bench.train[match.train] == match.test}
        for match in matches:
            relation = bench.relation(match, _beside(name, bench, bench.train[match.train]))
            relations[relation] += 1
            if relation in ("different people", "other pictures"):
                a, b = (bench.sources[one].path.stem for one in (bench.train[match.train], match.test))
                wrong.append([name, relation, a, b, match.verdict.score, match.placement.inliers])
        kinds = np.array([bench.sources[one].kind == "radiographs" for one in bench.train])
        got = np.array([one in found for one in range(len(bench.train))])
        row = {
            "name": name, "pictures": len(got), "recall": round(float(got.mean()), 4),
            "radiographs": round(float(got[kinds].mean()), 4), "others": round(float(got[~kinds].mean()), 4),
            "candidates": counts["candidates"], "confirmed": counts["confirmed"],
            "missed": [bench.sources[bench.train[one]].path.stem for one in np.flatnonzero(~got)],
            "cpu_ms_a_picture": round(1000 * spent / len(got), 1),
        }  # fmt: skip
        rows.append(row)
        print(row, flush=True)
    return {
        "pictures": len(bench.pictures), "with_few_features": int(np.sum(bench.few)), "settings": rows,
        "relations": dict(sorted(relations.items())), "wrong": wrong,
        "cpu_hours_a_million": round(seconds / pictures * 1e6 / 3600, 1),
        "index_cpu_ms_a_picture": round(1000 * bench.index_cpu_s / len(bench.pictures), 1),
    }  # fmt: skip
