"""Precision and recall of the picture filters (compound, narrator, drawn marks, text, screens), and their speed.

Three kinds of pictures, each halved by `sha256(path) % 2` into what was tuned on (even) and what was not (odd):
the labelled ones of `shared/data/artifacts`, those there without labels (read by eye for this bench), and pictures put
together here by seeded rules from clean single pictures of the same half. `python -m bench.filters_pictures --misses
FILE` writes every miss as a thumbnail into one HTML page.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import html
import importlib.util
import io
import json
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from filters.base import Filter, Picture, Record
from medgpt.intervals import wilson

DATA = Path(__file__).parents[1].parent / "shared" / "data"
COMPOUND_AT = 0.5
NARRATOR_AT = 0.5
MARKS_AT = 0.5
TEXT_AT = 0.5
SCREENS_AT = 0.5

# Pictures of `artifacts/images` without a row in labels.csv, by the start of their names.
UNLABELLED_COMPOUND = frozenset(
    "0a999b 1e056e 287960 48208e 4a4776 595fdc 8873d2 8d78e8 9a9be9 c708b4 d256a4 d9f0f2 e0c288 f33b40".split()
)
UNLABELLED_DOUBTFUL = frozenset("da0d40 f79b61 ddefe3 fe916c".split())
"""An inset locator, tissue that may be two slides, viewers with two views: not counted either way."""
UNLABELLED_SCREEN = frozenset(
    "0b4d28 13a66a 1c979e 1e056e 286ea0 2a86f5 2bed31 3e0c05 48208e 4a4776 50cf57 5a5d17 5b400e 5bb3bf 5dc3e2 5eb6e7 "
    "63d8cc 664b8b 6d4f8b 70a8d6 7bd3c9 7db224 823d2f 8365b0 85099d 89ba28 96bf33 9a9be9 a8fd7a ac1f8f ac5162 b45673 "
    "b46d44 b6d5da b6543a cd19a0 d1b8ca d5311d d7628f ddefe3 de2e95 eef54c f09d35 f9410f fdc5f1 fe591d fe916c "
    "ff9fc1".split()
)
"""Every one of them shows text, too."""
UNLABELLED_TEXT = UNLABELLED_SCREEN | frozenset(
    "0a999b 1dc0a4 287960 4a9568 524ed3 595fdc 8d78e8 c17ba9 c708b4 d256a4 d9f0f2 da0d40 e0c288 f33b40".split()
)
DOUBTFUL_TEXT = frozenset("88431c bd84aa f8d773".split())
"""Writing on what is shown: badges of an astronaut, a blackboard, coins."""
DOUBTFUL_SCREEN = frozenset(["1dc0a4"])
"""A page with a question."""
LETTERS_ONLY = "images/b56123152f965bde.png"
"""Labelled as text; its note says that it has panel letters only, which are no text here."""
# Radiographs, by the start of their names: dates, times, exposures and names. Lone markers are no text.
TEXT_ON_RADIOGRAPHS = frozenset(
    "04792ca1 04e628f3 06482152 0dcb84ac 218f03e7 2bad5be1 33d68bfa 3f63d944 46113b35 4fdbfb57 "
    "501c2ffc 598ee49e 77cf21ca 7dd4ba20 7f52d181 87fdcfe8 95a595b5 99fab367 af11d2e3 beb46f94".split()
)
DOUBTFUL_RADIOGRAPHS = frozenset(
    "02813fbd 0e3ca802 0eae5b65 16f1ddf9 2a5aabfb 32b0962d 3986048b 4fe209c3 5139562a 69859e7f "
    "bd9ac350 edcddcff".split()
)
"""Writing that is too small or too faint to be read by eye."""
REAL = frozenset({"labelled", "read by eye", "radiographs"})
SCIKIT_SINGLE = (
    "brick.png",
    "cell.png",
    "chelsea.png",
    "coffee.png",
    "grass.png",
    "gravel.png",
    "ihc.png",
    "microaneurysms.png",
    "moon.png",
    "retina.jpg",
    "rocket.jpg",
)


@dataclass(frozen=True)
class Case:
    """One picture with what is true of it."""

    name: str
    kind: str
    held_out: bool
    truth: bool
    data: bytes


@dataclass(frozen=True)
class Base:
    """A picture to build on."""

    name: str
    held_out: bool
    image: Image.Image


def held_out(path: str) -> bool:
    """The half that nothing was tuned on."""
    return int(hashlib.sha256(path.encode()).hexdigest(), 16) % 2 == 1


def labelled() -> list[tuple[dict[str, str], bytes]]:
    """Rows of labels.csv with their pictures' bytes."""
    with (DATA / "artifacts" / "labels.csv").open(newline="") as file:
        return [(row, (DATA / "artifacts" / row["path"]).read_bytes()) for row in csv.DictReader(file)]


def radiographs() -> list[tuple[str, bytes]]:
    """(path below the data folder, bytes) of the real chest radiographs, which are all single pictures."""
    files = sorted((DATA / "cxr_mimic_layout" / "mimic-cxr-jpg").rglob("*.jpg"))
    return [(path.relative_to(DATA).as_posix(), path.read_bytes()) for path in files]


def clean_bases() -> list[Base]:
    """Single pictures without text, marks, screens or people."""
    bases = [
        Base(row["path"], held_out(row["path"]), _opened(data))
        for row, data in labelled()
        if row["label_panel"] == "single"
        and row["label_screen"] == "none"
        and row["modality"] not in {"mask", "no_tissue"}
        and row["label_overlay_text"] == row["label_drawn_mark"] == row["label_face"] == "0"
        and int(row["width"]) > 200
    ]
    bases += [Base(path, held_out(path), _opened(data)) for path, data in radiographs()]
    bases += [Base(f"skimage/{name}", held_out(name), _opened(data)) for name, data in _scikit(SCIKIT_SINGLE)]
    return bases


def _opened(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((768, 768), Image.Resampling.LANCZOS)
    return image


def _scikit(names: tuple[str, ...]) -> list[tuple[str, bytes]]:
    found = importlib.util.find_spec("skimage")
    if found is None or found.origin is None:
        return []
    folder = Path(found.origin).parent / "data"
    return [(name, (folder / name).read_bytes()) for name in names if (folder / name).exists()]


def _encoded(image: Image.Image, rule: random.Random) -> bytes:
    buffer = io.BytesIO()
    if rule.random() < 0.2:
        image.save(buffer, "PNG", compress_level=1)
    else:
        image.save(buffer, "JPEG", quality=rule.choice((75, 85, 92)))
    return buffer.getvalue()


def _fitted(image: Image.Image, width: int, height: int, rule: random.Random) -> Image.Image:
    """The middle of the picture at that size, as editors of figures cut panels to fit."""
    scale = max(width / image.width, height / image.height)
    scaled = image.resize((max(width, round(image.width * scale)), max(height, round(image.height * scale))))
    left, top = rule.randint(0, scaled.width - width), rule.randint(0, scaled.height - height)
    return scaled.crop((left, top, left + width, top + height))


LAYOUTS = ("2x1", "1x2", "1x3", "2x2", "unequal")


def composite(bases: list[Base], rule: random.Random) -> tuple[Image.Image, str]:
    """A figure of 2 to 4 panels of one kind of picture, and its layout with gutter and colour."""
    layout = rule.choice(LAYOUTS)
    gutter = rule.choice((0, 1, 2, 3, 4, 6, 8, 12))
    colour = rule.choice(((255, 255, 255), (255, 255, 255), (0, 0, 0)))
    side = rule.choice((240, 320, 400))
    boxes: list[tuple[int, int, int, int]]
    if layout == "unequal":
        cut = rule.randint(side // 3, side // 2)
        boxes = [(0, 0, side, 2 * cut + gutter)]
        boxes += [(side + gutter, 0, side * 2 // 3, cut), (side + gutter, cut + gutter, side * 2 // 3, cut)]
    else:
        rows, columns = {"2x1": (2, 1), "1x2": (1, 2), "1x3": (1, 3), "2x2": (2, 2)}[layout]
        height = rule.choice((side, side * 3 // 4))
        boxes = [
            (column * (side + gutter), row * (height + gutter), side, height)
            for row in range(rows)
            for column in range(columns)
        ]
    margin = rule.choice((0, 0, 6)) if gutter else 0
    width, height = (max(box[axis] + box[axis + 2] for box in boxes) + 2 * margin for axis in (0, 1))
    image = Image.new("RGB", (width, height), colour)
    kind = rule.choice((True, False))
    chosen = [base for base in bases if ("cxr" in base.name) == kind]
    letters = rule.random() < 0.5
    for number, (x, y, w, h) in enumerate(boxes):
        image.paste(_fitted(rule.choice(chosen).image, w, h, rule), (x + margin, y + margin))
        if letters:
            draw = ImageDraw.Draw(image)
            draw.text(
                (x + margin + 6, y + margin + 4),
                "ABCD"[number],
                "white",
                ImageFont.load_default(24),
                stroke_width=2,
                stroke_fill="black",
            )
    image.thumbnail((rule.choice((512, 800)),) * 2)
    tone = "white" if colour[0] else "black"
    return image, f"{layout}, gutter {gutter}" + (f" {tone}" if gutter else "") + (", radiographs" if kind else "")


def compound_cases(per_half: int = 150) -> Iterator[Case]:
    """Real figures and singles, composites, and the clean singles they were made of."""
    known = set()
    for row, data in labelled():
        known.add(Path(row["path"]).name)
        kind = "labelled" if row["label_screen"] == "none" else "labelled screens"
        yield Case(row["path"], kind, held_out(row["path"]), row["label_panel"] == "compound", data)
    for file in sorted((DATA / "artifacts" / "images").iterdir()):
        if file.name not in known and file.name[:6] not in UNLABELLED_DOUBTFUL:
            path = f"images/{file.name}"
            yield Case(path, "read by eye", held_out(path), file.name[:6] in UNLABELLED_COMPOUND, file.read_bytes())
    for path, data in radiographs():
        yield Case(path, "radiographs", held_out(path), False, data)
    bases = clean_bases()
    for base in bases:
        if base.name.startswith("skimage"):
            yield Case(base.name, "photographs", base.held_out, False, _encoded(base.image, random.Random(base.name)))
    for half in (False, True):
        own = [base for base in bases if base.held_out == half]
        rule = random.Random(f"compound {half}")
        for number in range(per_half):
            image, layout = composite(own, rule)
            yield Case(f"composite {number}: {layout}", "composites", half, True, _encoded(image, rule))


FACES = {
    # Head and shoulders in pictures of people, as shares of width and height (left, top, right, bottom).
    "images/a17d127a14c9bd57.jpg": (0.25, 0.0, 0.8, 1.0),
    "images/0930e3aa8cae5920.jpg": (0.2, 0.0, 0.75, 0.42),
    "images/3c17508bb91554c6.jpg": (0.0, 0.0, 1.0, 0.45),
    "skimage/astronaut.png": (0.25, 0.0, 0.7, 0.5),
}


def narrator_cases(per_half: int = 90) -> Iterator[Case]:
    """Real portraits, insets of real faces on clean pictures of 512 pixels, and clean pictures without people."""
    faces: dict[bool, list[Image.Image]] = {False: [], True: []}
    for row, data in labelled():
        if row["label_face"] == "1" or row["label_screen"] == "none":
            yield Case(row["path"], "labelled", held_out(row["path"]), row["label_face"] == "1", data)
        if row["path"] in FACES:
            faces[held_out(row["path"])].append(_head(_opened(data), FACES[row["path"]]))
    for _, data in _scikit(("astronaut.png",)):
        faces[True].append(_head(_opened(data), FACES["skimage/astronaut.png"]))
    bases = [base for base in clean_bases() if min(base.image.size) > 200]
    for base in bases:
        kind = "radiographs" if "cxr" in base.name else "tissue and others"
        yield Case(base.name, kind, base.held_out, False, _encoded(base.image, random.Random(base.name)))
        if "cxr" not in base.name and not base.name.startswith("skimage"):
            # Few pictures of tissue are at hand: their quarters and mirror images are looked at, too.
            for number, piece in enumerate(_quarters(base.image)):
                name, data = f"{base.name} quarter {number}", _encoded(piece, random.Random(number))
                yield Case(name, kind, base.held_out, False, data)
    for half in (False, True):
        rule = random.Random(f"narrator {half}")
        own = [base for base in bases if base.held_out == half]
        for number in range(per_half):
            side = (160, 96, 56)[number % 3]
            base = rule.choice(own)
            image = base.image.resize((512, max(320, round(512 * base.image.height / base.image.width))))
            head = rule.choice(faces[half])
            if rule.random() < 0.5:
                head = head.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            head = head.resize((side, round(side * head.height / head.width)), Image.Resampling.LANCZOS)
            gap = rule.choice((0, 4, 12))
            x = rule.choice((gap, image.width - head.width - gap))
            y = rule.choice((gap, image.height - head.height - gap))
            image.paste(head, (x, y))
            name = f"inset {number}: {side} px on {base.name}"
            yield Case(name, f"insets {side} px", half, True, _encoded(image, rule))


def _head(image: Image.Image, box: tuple[float, float, float, float]) -> Image.Image:
    sides = (image.width, image.height, image.width, image.height)
    left, top, right, bottom = (round(share * side) for share, side in zip(box, sides, strict=True))
    return image.crop((left, top, right, bottom))


def _quarters(image: Image.Image) -> Iterator[Image.Image]:
    width, height = image.width // 2, image.height // 2
    for left in (0, width):
        for top in (0, height):
            piece = image.crop((left, top, left + width, top + height)).resize((2 * width, 2 * height))
            yield piece
            yield piece.transpose(Image.Transpose.FLIP_TOP_BOTTOM)


Miss = tuple[str, Case, float]


def judged(
    filter_: Filter, scores: tuple[str, ...], at: float, cases: list[Case], before: Filter | None = None
) -> tuple[dict[str, Any], list[Miss], float]:
    """Table rows by half and kind, misses, and milliseconds of CPU a picture (without decoding).

    scores: the largest of them counts. before: a filter whose scores this one sees; its time is not counted.
    """
    counts: dict[str, list[int]] = {}
    misses: list[Miss] = []
    seconds = 0.0
    for case in cases:
        record = _record(case, before)
        started = time.process_time()
        [found] = filter_.score([record])
        seconds += time.process_time() - started
        values = [found[score] for score in scores]
        value = max(value for value in values if isinstance(value, (int, float)))
        said = value >= at
        half = "held out" if case.held_out else "tuned on"
        for group in (half, f"{half}: {'real' if case.kind in REAL else 'made'}", f"{half}: {case.kind}"):
            count = counts.setdefault(group, [0, 0, 0, 0])
            count[2 * case.truth + said] += 1
        if said != case.truth:
            misses.append((f"{filter_.name}: {'missed' if case.truth else 'false alarm'}", case, value))
    return {name: _row(*count) for name, count in sorted(counts.items())}, misses, 1000 * seconds / len(cases)


def _record(case: Case, before: Filter | None) -> Record:
    """The case as filters see it, decoded and reduced."""
    record = Record({"messages": []}, [Picture(case.data)])
    for side in (512, 1280):
        record.pictures[0].rgb(side)
    if before is not None:
        [found] = before.score([record])
        record.found = {f"{before.name}.{name}": value for name, value in found.items()}
    return record


def _row(quiet: int, alarms: int, missed: int, hits: int) -> dict[str, Any]:
    row: dict[str, Any] = {"positives": missed + hits, "negatives": quiet + alarms}
    for name, part, whole in (
        ("precision", hits, hits + alarms),
        ("recall", hits, hits + missed),
        ("false_alarms", alarms, alarms + quiet),
    ):
        if whole:
            share, low, high = wilson(part, whole)
            row[name] = [round(share, 3), round(low, 3), round(high, 3)]
    return row


def marks_cases() -> Iterator[Case]:
    """The labelled pictures; clean singles, of which every second gets an arrow, a circle or a box."""
    for row, data in labelled():
        kind = "labelled" if row["label_screen"] == "none" else "labelled screens"
        yield Case(row["path"], kind, held_out(row["path"]), row["label_drawn_mark"] == "1", data)
    for number, base in enumerate(clean_bases()):
        rule = random.Random(f"marks {base.name}")
        image = base.image.resize((512, max(200, round(512 * base.image.height / base.image.width))))
        drawn = number % 2 == 1
        name = base.name
        if drawn:
            name = f"{_drawn(image, rule)} on {name}"
        yield Case(name, "drawn and clean", base.held_out, drawn, _encoded(image, rule))


def _drawn(image: Image.Image, rule: random.Random) -> str:
    draw = ImageDraw.Draw(image)
    colour = rule.choice(("red", "yellow", "lime", "blue", "cyan", "white"))
    size, x, y = rule.randint(40, 90), rule.randint(120, image.width - 120), rule.randint(60, image.height - 60)
    what = rule.choice(("arrow", "circle", "box")) if colour != "white" else "arrow"
    if what == "arrow":
        angle = rule.uniform(0, 2 * math.pi)
        forward, side = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
        tip = (x + size * forward[0] / 2, y + size * forward[1] / 2)
        neck = (tip[0] - 14 * forward[0], tip[1] - 14 * forward[1])
        draw.line((x - size * forward[0] / 2, y - size * forward[1] / 2, *neck), colour, width=rule.choice((3, 4, 5)))
        draw.polygon(
            (tip, (neck[0] + 8 * side[0], neck[1] + 8 * side[1]), (neck[0] - 8 * side[0], neck[1] - 8 * side[1])),
            fill=colour,
        )
    else:
        shape = draw.ellipse if what == "circle" else draw.rectangle
        shape(
            (x - size // 2, y - size // 2, x + size // 2, y + size // 2), outline=colour, width=rule.choice((2, 3, 4))
        )
    return f"{colour} {what}"


WORDS = (
    "Figure 1", "Patient 4021", "H&E x400", "Dr. Smith", "12/03/2019 14:05", "Case 7", "Lecture 5", "Tumor cells",
    "Acme Imaging", "www.example.org", "Normal mucosa", "Ki-67", "Kidney biopsy", "Slice 34/120", "W 2048 L 1024",
)  # fmt: skip
WRITTEN = ("title", "subtitle", "watermark", "burned in", "scale bar", "label")
UNWRITTEN = ("nothing", "panel letter", "side marker")


def overlaid(base: Base, what: str, rule: random.Random) -> Image.Image:
    """The base at 512 pixels with writing drawn over it, one of `WRITTEN` and `UNWRITTEN`."""
    image = base.image.resize((512, max(256, round(512 * base.image.height / base.image.width))))
    draw = ImageDraw.Draw(image, "RGBA")
    width, height = image.size
    edge: dict[str, Any] = {"stroke_width": 1, "stroke_fill": "black"}
    if what == "title":
        draw.rectangle((0, 0, width, 40), fill=rule.choice(("white", "navy", "black")))
        draw.text((12, 6), rule.choice(WORDS), rule.choice(("orange", "gray", "red")), _font(rule.choice((18, 24))))
    elif what == "subtitle":
        text = f"{rule.choice(WORDS)} and {rule.choice(WORDS)}"
        draw.text((60, height - 40), text, "white", _font(rule.choice((14, 18, 22))), **edge)
    elif what == "watermark":
        draw.text((width // 5, height // 2), rule.choice(WORDS), (255, 255, 255, 110), _font(rule.choice((32, 44))))
    elif what == "burned in":
        for line in range(rule.choice((1, 2, 3))):
            draw.text((6, 4 + 16 * line), rule.choice(WORDS), rule.choice(("white", "yellow")), _font(12), **edge)
    elif what == "scale bar":
        x, y = width - 130, height - 30
        colour = _visible(image, (x, y - 18, x + 90, y + 4), rule.choice(("black", "white")))
        draw.rectangle((x, y, x + 90, y + 4), fill=colour)
        draw.text((x + 20, y - 18), rule.choice(("50 µm", "100 µm", "1 mm", "200 um")), colour, _font(14))
    elif what == "label":
        x, y = rule.randint(60, width - 200), rule.randint(60, height - 90)
        colour = _visible(image, (x, y, x + 140, y + 20), rule.choice(("yellow", "white", "black")))
        draw.text((x, y), rule.choice(WORDS), colour, _font(rule.choice((16, 20))))
    elif what == "panel letter":
        draw.text((6, 4), rule.choice(("A", "B", "(c)", "d", "E")), "white", _font(rule.choice((20, 28))), **edge)
    elif what == "side marker":
        draw.text((width - 70, 20), rule.choice(("L", "R", "AP", "PA", "PORT")), "white", _font(18), **edge)
    return image


def _visible(image: Image.Image, box: tuple[int, int, int, int], colour: str) -> str:
    """The colour, or the opposite one where the ground in the box is as bright or as dark as it."""
    ground = float(np.asarray(image.crop(box).convert("L")).mean())
    return "black" if ground > 170 else "white" if ground < 85 else colour


def _font(size: int) -> Any:
    return ImageFont.load_default(size)


def _window(rule: random.Random) -> tuple[Image.Image, ImageDraw.ImageDraw, Any, Any]:
    """An empty window, light or dark, of macOS, of Windows or without a title; what draws on it, ink and outline."""
    dark = rule.random() < 0.3
    ground = rule.choice(((50, 52, 56), (30, 30, 30)) if dark else ((238, 238, 240), (245, 245, 245), (220, 220, 224)))
    ink, outline = ((220, 220, 220), (90, 90, 94)) if dark else ((30, 30, 30), (180, 180, 184))
    image = Image.new("RGB", rule.choice(((900, 600), (1200, 700), (700, 500), (520, 400))), ground)
    draw = ImageDraw.Draw(image)
    if rule.random() < 0.5:
        draw.rectangle((0, 0, image.width, 22), fill=tuple(level - 14 for level in ground))
        draw.text((image.width // 2 - 40, 4), rule.choice(("Untitled", "Project 4", "slide.svs")), ink, _font(12))
        if rule.random() < 0.5:
            for number, colour in enumerate(((255, 95, 87), (254, 188, 46), (40, 200, 64))):
                draw.ellipse((8 + 18 * number, 5, 20 + 18 * number, 17), fill=colour)
    return image, draw, ink, outline


def viewer(base: Base, rule: random.Random) -> Image.Image:
    """A mock-up of a slide viewer around a picture: a bar of menus, a bar of tools, perhaps a panel of values."""
    image, draw, ink, outline = _window(rule)
    panel = rule.choice((0, 160, 220))
    for number, word in enumerate(("File", "Edit", "View", "Tools", "Measure", "Window", "Help")):
        draw.text((10 + 60 * number, 26), word, ink, _font(12))
    for number in range(rule.randint(6, 12)):
        x = 8 + 30 * number
        draw.rounded_rectangle((x, 48, x + 24, 70), 3, outline=outline)
        draw.line((x + 6, 65, x + 18, 53), rule.choice(("red", ink)), 2)
    for row in range(12 if panel else 0):
        draw.text((8, 86 + 22 * row), f"Value {row}", ink, _font(11))
        draw.rectangle((panel // 2, 84 + 22 * row, panel - 8, 102 + 22 * row), outline=outline)
    image.paste(base.image.resize((image.width - panel, image.height - 76)), (panel, 76))
    return image


def desktop(rule: random.Random) -> Image.Image:
    """A mock-up of a dialog, a browser or a terminal."""
    image, draw, ink, outline = _window(rule)
    what = rule.choice(("dialog", "browser", "terminal"))
    if what == "dialog":
        for row in range(rule.randint(4, 10)):
            y = 40 + 32 * row
            draw.text(
                (16, y + 4), rule.choice(("Threshold", "Pixel size", "Channel", "Classifier", "Name")), ink, _font(13)
            )
            draw.rectangle((image.width // 3, y, image.width - 20, y + 24), outline=outline)
        for number, word in enumerate(("OK", "Cancel")):
            x = image.width - 200 + 95 * number
            draw.rounded_rectangle((x, image.height - 40, x + 85, image.height - 12), 4, outline=outline)
            draw.text((x + 20, image.height - 34), word, ink, _font(13))
    elif what == "browser":
        draw.rounded_rectangle((90, 26, image.width - 90, 48), 8, outline=outline)
        draw.text((104, 29), "https://www.example.org/cases/17", ink, _font(13))
        draw.rectangle((0, 54, image.width, image.height), fill="white")
        for row in range((image.height - 90) // 22):
            words = " ".join(rule.choice(WORDS) for _ in range(rule.randint(2, 5)))
            draw.text((30, 70 + 22 * row), words, rule.choice(((20, 20, 20), (0, 80, 180))), _font(13))
        draw.line((0, 54, image.width, 54), outline)
    else:
        draw.rectangle((0, 22, image.width, image.height), fill=rule.choice(("white", "black", (40, 40, 46))))
        for row in range(rule.randint(8, (image.height - 40) // 17)):
            words = " ".join(rule.choice(WORDS) for _ in range(rule.randint(1, 5)))
            draw.text((8, 28 + 17 * row), f"$ {words}", rule.choice(((150, 160, 150), (90, 170, 90))), _font(12))
    return image


def drawing(base: Base, rule: random.Random) -> Image.Image:
    """A slide of boxes and arrows, or a plot, with a picture: writing on white that is no screen."""
    image = Image.new("RGB", (800, 500), "white")
    draw = ImageDraw.Draw(image)
    image.paste(base.image.resize((200, 200)), (40, 140))
    draw.text((40, 30), f"{rule.choice(WORDS)}: {rule.choice(WORDS)}", rule.choice(("black", "navy")), _font(28))
    if rule.random() < 0.5:
        for number in range(3):
            x = 280 + 170 * number
            draw.rectangle((x, 190, x + 120, 260), outline=rule.choice(("black", "navy", "red")), width=2)
            draw.text((x + 8, 212), rule.choice(WORDS)[:12], "black", _font(15))
            draw.line((x + 122, 225, x + 166, 225), "black", 3)
    else:
        draw.rectangle((300, 110, 760, 430), outline="black", width=1)
        for number in range(5):
            y = 130 + 65 * number
            draw.text((268, y - 7), str(100 - 20 * number), "black", _font(13))
            draw.line((294, y, 300, y), "black")
            draw.rectangle((330 + 85 * number, rule.randint(150, 400), 380 + 85 * number, 430), fill="steelblue")
            draw.text((330 + 85 * number, 438), f"Day {number}", "black", _font(13))
    return image


def _real(doubtful: frozenset[str]) -> Iterator[tuple[dict[str, str], str, str, bytes]]:
    """(row of labels.csv or nothing, path, kind, bytes) of real pictures but those of doubtful truth."""
    known = set()
    for row, data in labelled():
        known.add(Path(row["path"]).name)
        yield row, row["path"], "labelled", data
    for file in sorted((DATA / "artifacts" / "images").iterdir()):
        if file.name not in known and file.name[:6] not in doubtful:
            yield {}, f"images/{file.name}", "read by eye", file.read_bytes()
    for path, data in radiographs():
        if Path(path).name[:8] not in doubtful:
            yield {}, path, "radiographs", data


def _wordless() -> dict[bool, list[Base]]:
    """By half: clean pictures that have no writing of their own."""
    unclean = TEXT_ON_RADIOGRAPHS | DOUBTFUL_RADIOGRAPHS
    bases = [base for base in clean_bases() if Path(base.name).name[:8] not in unclean]
    return {half: [base for base in bases if base.held_out == half] for half in (False, True)}


def text_cases(per_half: int = 180) -> Iterator[Case]:
    """Real pictures, and clean ones with writing of nine kinds drawn over them, three of which do not count."""
    for row, path, kind, data in _real(DOUBTFUL_TEXT | DOUBTFUL_RADIOGRAPHS):
        name = Path(path).name
        truth = name[:6] in UNLABELLED_TEXT or (kind == "radiographs" and name[:8] in TEXT_ON_RADIOGRAPHS)
        if row:
            truth = row["label_overlay_text"] == "1" and path != LETTERS_ONLY
        yield Case(path, kind, held_out(path), truth, data)
    for half, own in _wordless().items():
        others = [base for base in own if "cxr" not in base.name]
        rule = random.Random(f"text {half}")
        for number in range(per_half):
            base = rule.choice(own if number % 2 else others)
            what = (*WRITTEN, *UNWRITTEN)[number % (len(WRITTEN) + len(UNWRITTEN))]
            data = _encoded(overlaid(base, what, rule), rule)
            yield Case(f"{what} {number} on {base.name}", f"drawn: {what}", half, what in WRITTEN, data)


def screens_cases(per_half: int = 30) -> Iterator[Case]:
    """Real pictures; mock-ups of viewers and of desktops; pictures with writing, figures and drawings, no screens."""
    for row, path, kind, data in _real(DOUBTFUL_SCREEN):
        truth = row["label_screen"] != "none" if row else Path(path).name[:6] in UNLABELLED_SCREEN
        yield Case(path, kind, held_out(path), truth, data)
    for half, own in _wordless().items():
        others = [base for base in own if "cxr" not in base.name]
        rule = random.Random(f"screens {half}")
        for number in range(per_half):
            made = (
                ("viewers", True, viewer(rule.choice(others), rule)),
                ("desktops", True, desktop(rule)),
                ("written on", False, overlaid(rule.choice(own), WRITTEN[number % len(WRITTEN)], rule)),
                ("figures", False, composite(own, rule)[0]),
                ("drawings", False, drawing(rule.choice(others), rule)),
            )
            for kind, truth, image in made:
                yield Case(f"{kind} {number}", kind, half, truth, _encoded(image, rule))


def newton(
    x: NDArray[np.float64], y: NDArray[np.float64], w: NDArray[np.float64], strength: float
) -> NDArray[np.float64]:
    """Weights of a logistic regression of y (0 or 1) on x, whose first column is the bias; w: of each row."""
    penalty = np.diag([0.0, *[strength] * (x.shape[1] - 1)])
    found = np.zeros(x.shape[1])
    for _ in range(40):
        p = 1 / (1 + np.exp(-np.clip(x @ found, -30, 30)))
        slope = x.T @ (w * (p - y)) + penalty @ found
        found -= np.linalg.solve(x.T @ (x * (w * p * (1 - p))[:, None]) + penalty + 1e-9 * np.eye(x.shape[1]), slope)
    return found


def gallery(misses: list[Miss], path: Path) -> None:
    """One HTML page with a thumbnail of every miss; needs nothing beside itself."""
    parts = ["<!doctype html><meta charset=utf-8><title>Misses of the picture filters</title>"]
    for title, case, value in misses:
        image = _opened(case.data)
        image.thumbnail((220, 220))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=80)
        half = "held out" if case.held_out else "tuned on"
        parts.append(
            f'<figure style="display:inline-block;width:230px;vertical-align:top;font:12px sans-serif"><img '
            f'src="data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"><figcaption>'
            f"{html.escape(title)} ({value:.2f}), {half}<br>{html.escape(case.name)}</figcaption></figure>"
        )
    path.write_text("\n".join(parts), encoding="utf-8")


def measure(peer_python: Path | None, misses_page: Path | None = None) -> dict[str, Any]:
    """Tables of the five filters; `misses_page` is where the misses are written as thumbnails. No peer has these."""
    del peer_python
    from filters.compound import Compound
    from filters.drawn_marks import DrawnMarks
    from filters.narrator import Narrator
    from filters.overlaid_text import OverlaidText
    from filters.screens import Screens

    if not (DATA / "artifacts" / "labels.csv").is_file():
        return {"skipped": "no labelled pictures in shared/data/artifacts"}
    text = OverlaidText()
    runs: tuple[tuple[Filter, tuple[str, ...], float, Callable[[], Iterator[Case]], Filter | None], ...] = (
        (Compound(), ("compound",), COMPOUND_AT, compound_cases, None),
        (Narrator(), ("narrator",), NARRATOR_AT, narrator_cases, None),
        (DrawnMarks(), ("marks",), MARKS_AT, marks_cases, None),
        (text, ("text",), TEXT_AT, text_cases, None),
        (Screens(), ("screen",), SCREENS_AT, screens_cases, None),
    )
    report: dict[str, Any] = {}
    misses: list[Miss] = []
    for filter_, scores, at, cases, before in runs:
        table, missed, milliseconds = judged(filter_, scores, at, list(cases()), before)
        report[filter_.name] = {
            "threshold": at,
            "images_per_cpu_second": round(1000 / milliseconds, 1),
            "table": table,
            "missed": [f"{title}: {case.name} ({value:.2f})" for title, case, value in missed if case.held_out],
        }
        misses += missed
    if misses_page:
        gallery(misses, misses_page)
    return report


def main() -> None:
    """Measure, print as JSON, write the page of misses."""
    parser = argparse.ArgumentParser(prog="python -m bench.filters_pictures", description=__doc__)
    parser.add_argument("--misses", type=Path, metavar="FILE", help="write misses as thumbnails into this HTML page")
    args = parser.parse_args()
    print(json.dumps(measure(None, args.misses), indent=1))


if __name__ == "__main__":
    main()
