"""Small made-up pictures that several demo trees show: figures and their panels, stained sections, grey squares."""

import io
from hashlib import blake2b

from PIL import Image, ImageDraw

_DEMO_PANELS = {"PMC9000001_Fig3": 10, "PMC9000005_F4": 15}
"""Numbers of `demo_figure` that other demo trees draw as well."""


def encoded(picture: Image.Image, picture_format: str, **options: int) -> bytes:
    """A picture as a file."""
    buffer = io.BytesIO()
    picture.save(buffer, picture_format, **options)
    return buffer.getvalue()


def demo_figure(number: int, panels: int = 1) -> bytes:
    """A made-up figure as JPEG: `panels` squares side by side, each with a shape that depends on `number`."""
    side = 64
    picture = Image.new("RGB", (side * panels, side), (18, 20, 26))
    draw = ImageDraw.Draw(picture)
    for panel in range(panels):
        draw_panel = 7 * number + 3 * panel
        left, top = side * panel + 6 + draw_panel % 17, 6 + draw_panel % 13
        tint = tuple(60 + (draw_panel * step) % 190 for step in (37, 61, 89))
        draw.ellipse((left, top, left + 26 + number % 9, top + 30), fill=tint)
        draw.rectangle((left + 4, top + 12, left + 12 + panel, top + 40), outline=(230, 230, 220))
        draw.line((side * panel, side - 8, side * panel + side - 1, side - 4 - number % 5), fill=(200, 200, 90))
    return encoded(picture, "JPEG", quality=85)


def demo_panel(article: str, figure: str, panel: int) -> bytes:
    """The demo picture of a panel; PMC-VQA's demo tree draws its copies with it."""
    number = _DEMO_PANELS.get(f"{article}_{figure}", 20 + sum(map(ord, article + figure)) % 60)
    return demo_figure(number + panel)


def demo_slide(number: int) -> bytes:
    """A made-up stained section as JPEG, 64 pixels wide; `number` places the nuclei."""
    picture = Image.new("RGB", (64, 64), (226 - number % 7, 170, 200))
    draw = ImageDraw.Draw(picture)
    for cell in range(14):
        x, y = (17 * cell + 29 * number) % 60, (41 * cell + 13 * number + cell * cell) % 60
        draw.ellipse((x, y, x + 4 + (cell + number) % 5, y + 5), fill=(96 - 4 * cell, 48, 120 + number % 60))
    return encoded(picture, "JPEG", quality=85)


def demo_picture(name: str, picture_format: str = "") -> bytes:
    """A small grey picture, different for every name, of the format that the name or `picture_format` says."""
    cells = Image.frombytes("L", (8, 8), blake2b(name.encode(), digest_size=64).digest())
    named = "JPEG" if name.lower().endswith(("jpg", "jpeg")) else "PNG"
    return encoded(cells.resize((32, 32), Image.Resampling.BICUBIC), picture_format or named)
