"""Overlays, and ten kinds of change with drawn strengths: what copies of pictures look like, for `near_images`."""

from __future__ import annotations

import hashlib
import io
import itertools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

Random = np.random.Generator
Change = Callable[[Image.Image, Random], Image.Image]


def seeded(*words: str) -> Random:
    """Random numbers that these words fix."""
    return np.random.default_rng(int.from_bytes(hashlib.sha256("|".join(words).encode()).digest()[:8], "little"))


def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=max(8, round(size)))


def _drawn(picture: Image.Image) -> tuple[Image.Image, ImageDraw.ImageDraw, int]:
    changed = picture.copy()
    return changed, ImageDraw.Draw(changed), min(picture.size)


def _watermark(picture: Image.Image, random: Random) -> Image.Image:
    """One large word across the picture, half transparent."""
    word = str(random.choice(["SAMPLE", "CONFIDENTIAL", "Radiopaedia.org", "PREVIEW ONLY"]))
    side = round(1.2 * max(picture.size))
    mask = Image.new("L", (side, side), 0)
    ImageDraw.Draw(mask).text((side // 2, side // 2), word, fill=255, font=_font(side * 1.2 / len(word)), anchor="mm")
    mask = mask.rotate(float(random.choice([30, 45, -30])), Image.Resampling.BILINEAR)
    x, y = (side - picture.width) // 2, (side - picture.height) // 2
    alpha = random.uniform(0.25, 0.6)
    mask = mask.crop((x, y, x + picture.width, y + picture.height)).point([round(v * alpha) for v in range(256)])
    return Image.composite(Image.new("L", picture.size, int(random.choice([255, 200, 0]))), picture, mask)


def _tiled(picture: Image.Image, random: Random) -> Image.Image:
    """A small watermark again and again."""
    mask = Image.new("L", picture.size, 0)
    draw, size = ImageDraw.Draw(mask), picture.width * random.uniform(0.04, 0.07)
    strength = round(255 * random.uniform(0.2, 0.45))
    for row in range(int(picture.height / (4 * size)) + 1):
        for column in range(int(picture.width / (9 * size)) + 2):
            place = ((column * 9 - row % 2 * 4) * size, row * 4 * size)
            draw.text(place, "(c) example.org", fill=strength, font=_font(size))
    return Image.composite(Image.new("L", picture.size, 255), picture, mask)


def _viewer_text(picture: Image.Image, random: Random) -> Image.Image:
    """Two to five lines in every corner, as viewers write them."""
    changed, draw, _ = _drawn(picture)
    width, height = picture.size
    lines = (
        "DOE^JANE  F 053Y",
        "ID: 00482193",
        "2014-03-11 14:22",
        "Se: 3  Im: 17/96",
        "W 1500 L -600",
        "kV 120 mA 210",
    )
    size = height * random.uniform(0.022, 0.04)
    for right, low in itertools.product((False, True), repeat=2):
        for line in range(int(random.integers(2, 6))):
            down = 0.01 * height + line * size * 1.15
            place = (0.99 * width if right else 0.01 * width, height - down - size if low else down)
            draw.text(place, str(random.choice(lines)), fill=255, font=_font(size), anchor="rt" if right else "lt")
    return changed


def _label(picture: Image.Image, random: Random) -> Image.Image:
    """A box with words, anywhere."""
    changed, draw, _ = _drawn(picture)
    width, height = picture.width * random.uniform(0.25, 0.6), picture.height * random.uniform(0.05, 0.12)
    x, y = random.uniform(0, picture.width - width), random.uniform(0, picture.height - height)
    fill = int(random.choice([0, 255]))
    draw.rectangle((x, y, x + width, y + height), fill=fill)
    font = _font(min(height * 0.7, width / 9))
    draw.text((x + width / 2, y + height / 2), "Figure 2. PA VIEW", fill=255 - fill, font=font, anchor="mm")
    return changed


def _arrows(picture: Image.Image, random: Random) -> Image.Image:
    """Two to five arrows."""
    changed, draw, side = _drawn(picture)
    for _ in range(int(random.integers(2, 6))):
        x, y = (random.uniform(0.2, 0.8) * length for length in picture.size)
        angle, length = random.uniform(0, 2 * np.pi), side * random.uniform(0.08, 0.2)
        thick, fill = max(2, round(side * random.uniform(0.008, 0.02))), int(random.choice([255, 0]))
        draw.line((x - length * np.cos(angle), y - length * np.sin(angle), x, y), fill=fill, width=thick)
        head = [
            (x + size * thick * np.cos(angle + turn), y + size * thick * np.sin(angle + turn))
            for turn, size in ((0, 3.2), (2.2, 2.6), (-2.2, 2.6))
        ]
        draw.polygon(head, fill=fill)
    return changed


def _lines(picture: Image.Image, random: Random) -> Image.Image:
    """One to three burnt-in lines of text."""
    changed, draw, _ = _drawn(picture)
    words = (
        "PORTABLE AP UPRIGHT",
        "NOT FOR DIAGNOSTIC USE",
        "Courtesy of Dr. A. Example",
        "Right lower lobe consolidation",
    )
    size, top = picture.height * random.uniform(0.04, 0.08), random.uniform(0.05, 0.7) * picture.height
    for line in range(int(random.integers(1, 4))):
        font = _font(min(size, picture.width / 16))
        place = (picture.width / 2, top + line * size * 1.2)
        draw.text(place, str(random.choice(words)), fill=255, font=font, anchor="mm")
    return changed


def _outlines(picture: Image.Image, random: Random) -> Image.Image:
    """One to three circles or boxes."""
    changed, draw, side = _drawn(picture)
    for _ in range(int(random.integers(1, 4))):
        radius = side * random.uniform(0.06, 0.18)
        x, y = (random.uniform(0.2, 0.8) * length for length in picture.size)
        shape = draw.ellipse if random.random() < 0.5 else draw.rectangle
        box = (x - radius, y - radius, x + radius, y + radius)
        shape(box, outline=int(random.choice([255, 0])), width=max(2, round(side * 0.008)))
    return changed


def _logo(picture: Image.Image, random: Random) -> Image.Image:
    """A disc with a cross in a corner."""
    changed, draw, side = _drawn(picture)
    size = side * random.uniform(0.15, 0.28)
    x, y = (float(random.choice([0.03 * length, 0.97 * length - size])) for length in picture.size)
    draw.ellipse((x, y, x + size, y + size), fill=int(random.choice([255, 180])))
    for left, top, right, bottom in ((0.3, 0.45, 0.7, 0.55), (0.45, 0.3, 0.55, 0.7)):
        draw.rectangle((x + size * left, y + size * top, x + size * right, y + size * bottom), fill=0)
    return changed


OVERLAYS: dict[str, Change] = {
    "watermark": _watermark, "tiled watermark": _tiled, "viewer text in the corners": _viewer_text,
    "label box": _label, "arrows": _arrows, "burnt-in lines": _lines, "circles and boxes": _outlines, "logo": _logo,
}  # fmt: skip


def _turn(picture: Image.Image, random: Random) -> Image.Image:
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    return picture.transpose(turns[int(random.integers(3))])


def _mirror(picture: Image.Image, random: Random) -> Image.Image:
    across, down = Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.FLIP_TOP_BOTTOM
    return picture.transpose(across if random.random() < 0.7 else down)


def _crop(picture: Image.Image, random: Random) -> Image.Image:
    share = random.uniform(0.03, 0.14)
    x, y = round(share * picture.width), round(share * picture.height)
    return picture.crop((x, y, picture.width - x, picture.height - y))


def _pad(picture: Image.Image, random: Random) -> Image.Image:
    share = random.uniform(0.04, 0.14)
    border = (round(share * picture.width), round(share * picture.height))
    return ImageOps.expand(picture, border, 0 if random.random() < 0.7 else 255)


def _rotate(picture: Image.Image, random: Random) -> Image.Image:
    return picture.rotate(random.uniform(1, 3.5) * float(random.choice([1, -1])), Image.Resampling.BICUBIC)


def _tone(picture: Image.Image, random: Random) -> Image.Image:
    x = np.arange(256.0)
    curves = (
        255 * (x / 255) ** random.uniform(0.5, 0.7), 255 * (x / 255) ** random.uniform(1.5, 2),
        128 + random.uniform(1.4, 1.8) * (x - 128), 0.6 * x + random.uniform(0, 60),
    )  # fmt: skip
    return picture.point(np.clip(np.rint(curves[int(random.integers(4))]), 0, 255).astype(int).tolist())


def _jpeg(picture: Image.Image, random: Random) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(random.integers(8, 25)))
    return Image.open(io.BytesIO(buffer.getvalue())).convert("L")


def _overlay(picture: Image.Image, random: Random) -> Image.Image:
    return list(OVERLAYS.values())[int(random.integers(len(OVERLAYS)))](picture, random)


TEN: dict[str, Change] = {
    "turn": _turn, "mirror": _mirror, "inversion": lambda picture, random: ImageOps.invert(picture), "crop": _crop,
    "pad": _pad, "rotation": _rotate, "tone": _tone, "equalisation": lambda picture, random: ImageOps.equalize(picture),
    "JPEG": _jpeg, "overlay": _overlay,
}  # fmt: skip


def one_sided_crop(picture: Image.Image, random: Random) -> Image.Image:
    """10 to 22 % cut off one side."""
    box = [0, 0, *picture.size]
    side = int(random.integers(4))
    cut = round(random.uniform(0.10, 0.22) * picture.size[side % 2])
    box[side] += cut if side < 2 else -cut
    return picture.crop((box[0], box[1], box[2], box[3]))


def rainbow(picture: Image.Image, random: Random) -> Image.Image:
    """Coloured by OpenCV's `jet` and read as grey again."""
    import cv2

    return Image.fromarray(cv2.applyColorMap(np.asarray(picture), cv2.COLORMAP_JET)[:, :, ::-1]).convert("L")


def composed(picture: Image.Image, names: tuple[str, ...], random: Random) -> Image.Image:
    """Changed by several of `TEN`, in a drawn order."""
    for place in random.permutation(len(names)):
        picture = TEN[names[place]](picture, random)
    return picture
