"""Precision and recall of the picture filters (compound figures, narrators, drawn marks), and pictures a CPU-second.

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

from PIL import Image, ImageDraw, ImageFont

from filters.base import Filter, Picture, Record

DATA = Path(__file__).parents[1].parent / "shared" / "data"
COMPOUND_AT = 0.5
NARRATOR_AT = 0.5
MARKS_AT = 0.5

# Pictures of `artifacts/images` without a row in labels.csv, by the start of their names.
UNLABELLED_COMPOUND = frozenset(
    "0a999b 1e056e 287960 48208e 4a4776 595fdc 8873d2 8d78e8 9a9be9 c708b4 d256a4 d9f0f2 e0c288 f33b40".split()
)
UNLABELLED_DOUBTFUL = frozenset("da0d40 f79b61 ddefe3 fe916c".split())
"""An inset locator, tissue that may be two slides, viewers with two views: not counted either way."""
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


def wilson(hits: int, total: int) -> tuple[float, float, float]:
    """(share, lower, upper): 95 % score interval of a share; (nan, 0, 1) of nothing."""
    if not total:
        return math.nan, 0.0, 1.0
    z = 1.959963984540054
    share = hits / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return share, max(0.0, middle - half), min(1.0, middle + half)


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


def judged(filter_: Filter, score: str, at: float, cases: list[Case]) -> tuple[dict[str, Any], list[Miss], float]:
    """Table rows by half and kind, misses, and milliseconds of CPU a picture (without decoding)."""
    counts: dict[str, list[int]] = {}
    misses: list[Miss] = []
    seconds = 0.0
    for case in cases:
        picture = Picture(case.data)
        picture.rgb(512)
        started = time.process_time()
        [scores] = filter_.score([Record({"messages": []}, [picture])])
        seconds += time.process_time() - started
        value = scores[score]
        assert isinstance(value, (int, float))
        said = value >= at
        half = "held out" if case.held_out else "tuned on"
        for group in (half, f"{half}: {case.kind}"):
            count = counts.setdefault(group, [0, 0, 0, 0])
            count[2 * case.truth + said] += 1
        if said != case.truth:
            misses.append((f"{filter_.name}: {'missed' if case.truth else 'false alarm'}", case, value))
    return {name: _row(*count) for name, count in sorted(counts.items())}, misses, 1000 * seconds / len(cases)


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
    """Tables of the three filters; `misses_page` is where the misses are written as thumbnails. No peer has these."""
    del peer_python
    from filters.compound import Compound
    from filters.drawn_marks import DrawnMarks
    from filters.narrator import Narrator

    if not (DATA / "artifacts" / "labels.csv").is_file():
        return {"skipped": "no labelled pictures in shared/data/artifacts"}
    runs: tuple[tuple[Filter, str, float, Callable[[], Iterator[Case]]], ...] = (
        (Compound(), "compound", COMPOUND_AT, compound_cases),
        (Narrator(), "narrator", NARRATOR_AT, narrator_cases),
        (DrawnMarks(), "marks", MARKS_AT, marks_cases),
    )
    report: dict[str, Any] = {}
    misses: list[Miss] = []
    for filter_, score, at, cases in runs:
        table, missed, milliseconds = judged(filter_, score, at, list(cases()))
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
