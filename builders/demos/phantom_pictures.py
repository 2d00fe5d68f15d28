"""Draws phantoms: a `Phantom` of `builders.demos.phantoms` as a grey picture.

Pixels come from elementwise IEEE operations (no transcendental functions, no sums, no BLAS) and raw PCG64 bits, so that
every machine draws the same picture; JPEG bytes also depend on the libjpeg inside Pillow. Pictures follow the
radiological convention: the patient's left is on the right of a frontal picture; the front is on the left of a lateral
one. Lengths are centimetres on the detector unless a name says `mm`.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from builders.demos.drawings import encoded
from builders.demos.phantoms import Finding, Phantom, Side, Zone, choose, draw, parts

_Float = npt.NDArray[np.floating[Any]]
_BAND = 48


def render(phantom: Phantom, size: int = 512) -> Image.Image:
    """The picture, 8-bit grey; `size` is the longer side in pixels and stands for 43 cm (35 x 43 or 43 x 35 film)."""
    film = _Film(phantom, size)
    if phantom.view == "LATERAL":
        _lateral(phantom, film)
    else:
        _frontal(phantom, film)
    return Image.fromarray(film.develop())


def jpeg(phantom: Phantom, size: int = 512, quality: int = 90) -> bytes:
    """The picture as a baseline grey JPEG file without metadata."""
    return encoded(render(phantom, size), "JPEG", quality=quality)


class _Film:
    """A grey picture in the making, 0 (black) to 1, addressed in cm: x from the midline, y from the upper edge."""

    def __init__(self, phantom: Phantom, size: int) -> None:
        seed, view = phantom.seed, phantom.view
        short = size * 35 // 43
        self.seed = seed
        self.width, self.height = (size, short) if view == "AP" else (short, size)
        # Positioning: the person is shifted and a little nearer to or farther from the detector.
        self.scale = size / 43 * draw(seed, "magnification", 0.95, 1.05) * (1.05 if view == "AP" else 1.0)
        self.left = self.width / 2 + size * draw(seed, "shift x", -0.03, 0.03)
        self.top = size * draw(seed, "shift y", -0.03, 0.03)
        self.x: _Float = ((np.arange(self.width, dtype=np.float32) - self.left) / self.scale)[None, :]
        self.y: _Float = ((np.arange(self.height, dtype=np.float32) - self.top) / self.scale)[:, None]
        self.grey: _Float = np.zeros((self.height, self.width), np.float32)
        self._bits = np.random.PCG64(seed)

    def columns(self, low: float, high: float) -> slice:
        """Pixel columns between two x."""
        return slice(*(min(self.width, max(0, int(self.left + value * self.scale))) for value in (low, high)))

    def rows(self, low: float, high: float) -> slice:
        """Pixel rows between two y."""
        return slice(*(min(self.height, max(0, int(self.top + value * self.scale))) for value in (low, high)))

    def bands(self, low: float = -99.0, high: float = 99.0) -> Iterator[slice]:
        """Pixel rows between two y, a few at a time: intermediate results then stay in the processor's cache."""
        rows = self.rows(low, high)
        for start in range(rows.start, rows.stop, _BAND):
            yield slice(start, min(rows.stop, start + _BAND))

    def raw_bytes(self, count: int) -> npt.NDArray[np.uint8]:
        """Uniform bytes from the generator's raw 64-bit words, whose stream is stable across NumPy releases."""
        words = np.asarray(self._bits.random_raw((count + 7) // 8), dtype="<u8")
        return words.view(np.uint8)[:count]

    def noise(self, cell: float) -> _Float:
        """Smooth noise in [-1, 1]: random values on a grid `cell` cm apart, interpolated in between."""
        step = max(2, int(cell * self.scale))
        down, across = self.height // step + 2, self.width // step + 2
        grid = self.raw_bytes(down * across).reshape(down, across).astype(np.float32) / 127.5 - 1.0
        at_x = np.arange(self.width)
        low, high = grid[:, at_x // step], grid[:, at_x // step + 1]
        lines = low + (high - low) * _fade(at_x, step)
        # Every row of a cell lies between the same two grid lines.
        rise, part = np.diff(lines, axis=0)[:, None, :], _fade(np.arange(step), step)[None, :, None]
        smooth = rise * part
        smooth += lines[:-1, None, :]
        return smooth.reshape(-1, self.width)[: self.height]

    def blob(
        self, x: float, y: float, half_x: float, half_y: float, amount: float, where: _Float | None = None
    ) -> None:
        """Add a soft ellipse; `where` weighs it by pixel."""
        rows, columns = self.rows(y - half_y, y + half_y), self.columns(x - half_x, x + half_x)
        across, down = (self.x[:, columns] - x) / half_x, (self.y[rows] - y) / half_y
        fall = np.maximum(1.0 - across * across - down * down, 0.0)
        fall = fall * fall * amount
        self.grey[rows, columns] += fall if where is None else fall * where[rows, columns]

    def disc(self, x: float, y: float, radius: float, amount: float) -> None:
        """Add a disc with a sharp edge and a little doming, as a sphere casts it."""
        rows, columns = self.rows(y - radius - 0.2, y + radius + 0.2), self.columns(x - radius - 0.2, x + radius + 0.2)
        across, down = (self.x[:, columns] - x) / radius, (self.y[rows] - y) / radius
        inside = 1.0 - across * across - down * down
        self.grey[rows, columns] += amount * _ramp(inside, 4.0 * radius) * (0.7 + 0.3 * np.maximum(inside, 0.0))

    def plate(self, x: float, y: float, half_x: float, half_y: float) -> None:
        """Cover a rounded rectangle with metal."""
        rows, columns = self.rows(y - half_y, y + half_y), self.columns(x - half_x, x + half_x)
        corner = 0.35 * half_y
        out_x = np.maximum(np.abs(self.x[:, columns] - x) - half_x + corner, 0.0)
        out_y = np.maximum(np.abs(self.y[rows] - y) - half_y + corner, 0.0)
        grey = self.grey[rows, columns]
        grey += _ramp(corner - np.sqrt(out_x * out_x + out_y * out_y), self.scale) * (0.92 - grey)

    def stroke(self, points: Sequence[tuple[float, float]], width: float, amount: float, hollow: float = 0.0) -> None:
        """Add a curve of `width` cm: a line for two points, else quadratic arcs (start, control, end, control, end...).

        `hollow` is the share of `amount` that is missing in the middle of the curve (a tube, or a bone's cortex).
        Arcs are gentle: each keeps clear of a right angle to its own longer direction.
        """
        if len(points) == 2:
            points = (points[0], ((points[0][0] + points[1][0]) / 2, (points[0][1] + points[1][1]) / 2), points[1])
        film = [(self.left + x * self.scale, self.top + y * self.scale) for x, y in points]
        for start, control, end in zip(film[:-2:2], film[1:-1:2], film[2::2], strict=True):
            if abs(end[0] - start[0]) <= abs(end[1] - start[1]):
                _arc(self.grey, (start, control, end), width * self.scale / 2, amount, hollow)
            else:
                turned = tuple((y, x) for x, y in (start, control, end))
                _arc(self.grey.T, turned, width * self.scale / 2, amount, hollow)

    def letter(self, glyph: Sequence[str], x: int, y: int, pixel: int) -> None:
        """Draw a lead marker, white, `pixel` pixels a dot, with its upper left corner at pixel (x, y)."""
        dots = np.array([[dot == "#" for dot in line] for line in glyph], np.float32)
        block = dots.repeat(pixel, axis=0).repeat(pixel, axis=1)
        target = self.grey[y : y + block.shape[0], x : x + block.shape[1]]
        np.maximum(target, block[: target.shape[0], : target.shape[1]] * 0.97, out=target)

    def develop(self) -> npt.NDArray[np.uint8]:
        """Exposure, marker, quantum noise and collimation; then 8 bits."""
        seed, size = self.seed, max(self.width, self.height)
        self._tilt(draw(seed, "tilt", -0.03, 0.03))
        self.grey *= draw(seed, "contrast", 0.92, 1.08)
        self.grey += draw(seed, "exposure", -0.04, 0.04)
        np.clip(self.grey, 0.0, 0.97, out=self.grey)
        side = choose(seed, "marker", ("L", "R"))
        dot = max(2, size // 190)
        inset = int(size * draw(seed, "marker x", 0.045, 0.075))
        x = self.width - inset - 5 * dot if side == "L" else inset
        self.letter(_GLYPHS[side], x, int(size * draw(seed, "marker y", 0.05, 0.14)), dot)
        grain = self.raw_bytes(2 * self.height * self.width).reshape(2, self.height, self.width)
        developed = np.empty((self.height, self.width), np.uint8)
        for rows in self.bands():
            noise = grain[0, rows].astype(np.float32) + grain[1, rows] - 255.0
            developed[rows] = np.clip(self.grey[rows] * 255.0 + noise * (1 / 48) + 0.5, 0.0, 255.0).astype(np.uint8)
        edges = [int(size * max(0.0, draw(seed, f"edge {index}", -0.03, 0.03))) for index in range(4)]
        developed[: edges[0]] = developed[self.height - edges[1] :] = 4
        developed[:, : edges[2]] = developed[:, self.width - edges[3] :] = 4
        return developed

    def _tilt(self, slope: float) -> None:
        """Shear by whole pixels a row: a person who leans, without resampling."""
        for row in range(self.height):
            shift = int((row - self.height / 2) * slope)
            if shift > 0:
                self.grey[row, shift:] = self.grey[row, :-shift].copy()
            elif shift < 0:
                self.grey[row, :shift] = self.grey[row, -shift:].copy()


_GLYPHS = {
    "L": ("#....", "#....", "#....", "#....", "#....", "#....", "#####"),
    "R": ("####.", "#...#", "#...#", "####.", "#.#..", "#..#.", "#...#"),
}


def _arc(grey: _Float, arc: Sequence[tuple[float, float]], radius: float, amount: float, hollow: float) -> None:
    """Add a quadratic arc that runs up or down a picture, one pixel row after the other. Lengths in pixels."""
    (x0, y0), (x1, y1), (x2, y2) = arc if arc[0][1] <= arc[2][1] else arc[::-1]
    rows = np.arange(max(0, math.ceil(y0)), min(grey.shape[0], math.ceil(y2)))
    if not rows.size:
        return
    # Where the arc crosses a row: the root of y(t) = row in the form that stays exact for a straight line.
    bend, rise = y0 - 2 * y1 + y2, 2 * (y1 - y0)
    speed = np.sqrt(np.maximum(rise * rise - 4 * bend * (y0 - rows), 1e-6))
    t = np.clip(2 * (rows - y0) / (rise + speed), 0.0, 1.0)
    centre = (1 - t) * (1 - t) * x0 + 2 * t * (1 - t) * x1 + t * t * x2
    slope = np.clip(2 * ((1 - t) * (x1 - x0) + t * (x2 - x1)) / speed, -2.5, 2.5)
    slant = np.sqrt(1 + slope * slope)
    reach = int((radius + 1) * float(slant.max())) + 1
    columns = centre.astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    away = np.abs(columns - centre[:, None]) / slant[:, None]
    line = amount * (np.clip(radius + 0.5 - away, 0.0, 1.0) - hollow * np.clip(0.55 * radius + 0.5 - away, 0.0, 1.0))
    inside = (columns >= 0) & (columns < grey.shape[1])
    grey[np.broadcast_to(rows[:, None], columns.shape)[inside], columns[inside]] += line[inside].astype(np.float32)


def _ramp(distance: _Float, sharpness: float) -> _Float:
    """0 well below zero, 1 well above, a linear edge 1/sharpness wide in between."""
    ramp = distance * sharpness
    ramp += 0.5
    return _unit(ramp)


def _unit(values: _Float) -> _Float:
    """Clipped to [0, 1] in place: fresh memory costs several times the arithmetic."""
    np.maximum(values, 0.0, out=values)
    np.minimum(values, 1.0, out=values)
    return values


def _fade(at: npt.NDArray[np.int64], step: int) -> _Float:
    part = ((at % step) / step).astype(np.float32)
    faded: _Float = part * part * (3 - 2 * part)
    return faded


def _half_ellipse(at: _Float, centre: float, half: float | _Float) -> _Float:
    """sqrt(1 - t^2) over [centre - half, centre + half], zero outside."""
    t = (at - centre) / half
    root: _Float = np.sqrt(np.maximum(1.0 - t * t, 0.0))
    return root


@dataclass(frozen=True)
class _Chest:
    """Frontal landmarks, by pixel row (height x 1), by pixel column (1 x width) or by pixel."""

    apex: float
    base: float
    """y of the lung apices and of the top of the right diaphragm."""
    carina: float
    half: float
    heart_y: float
    wall: _Float
    """By row: from the midline to the inner chest wall."""
    inner: dict[str, _Float]
    """By row: from the midline to the edge of mediastinum and heart, right and left."""
    dome: _Float
    """By column: y of the diaphragm."""
    depth: _Float
    """By pixel: how far inside a lung, in cm; negative outside."""

    def spot(self, film: _Film, side: str, height: float, across: float) -> tuple[float, float]:
        """A point of a lung: `height` 0 (apex) to 1 (diaphragm), `across` 0 (mediastinum) to 1 (chest wall)."""
        y = self.apex + height * (self.base - self.apex)
        row = min(film.height - 1, max(0, int(film.top + y * film.scale)))
        inner, wall = float(self.inner[side][row, 0]), float(self.wall[row, 0])
        x = inner + across * (wall - inner)
        return (x if side == "left" else -x), y


def _chest(phantom: Phantom, film: _Film) -> _Chest:
    person, seed, ap = phantom.anatomy, phantom.seed, phantom.view == "AP"
    x, y, u = film.x, film.y, np.abs(film.x)
    half = person.half_width
    apex = 4.6 + (-0.8 if ap else 0.0)
    # A portable picture is taken lying or half sitting, at a shallower breath and with the tube nearer to the heart.
    height = person.lung_height * (0.80 if ap else 1.0) * draw(seed, "breath", 0.94, 1.02)
    base = apex + height
    reach = (y - apex) / (height + 3.5)
    root = np.sqrt(np.clip(reach, 0.0, 1.0))
    wall = half * np.clip(root * (1.62 - 0.62 * np.clip(reach, 0.0, 1.0)), 0.0, 1.0)
    enlarged = next((finding.grade for finding in phantom.findings if finding.kind == "cardiomegaly"), 0)
    ratio = (person.heart_ratio, 0.56, 0.63, 0.71)[enlarged] * (1.06 if ap else 1.0)
    heart, heart_y = 2 * half * min(0.71, ratio), base - draw(person.seed, "heart y", 2.6, 3.8)
    # The heart tapers upwards into the great vessels and rests on the diaphragm.
    tall = heart * draw(person.seed, "heart shape", 0.40, 0.48) * np.where(y < heart_y, 1.3, 1.5).astype(np.float32)
    knob = draw(person.seed, "knob", 2.3, 2.9) + person.age * 0.006
    carina = apex + 0.30 * height
    left = 2.2 + np.maximum(0.0, (y - apex) * 0.03)
    left = np.maximum(left, knob * _half_ellipse(y, carina - 1.7, 2.2) + 0.5)
    left = np.maximum(left, (knob + 0.3) * _half_ellipse(y, carina + 2.6, 4.4) + 0.2)
    left = np.maximum(left, heart * 0.68 * _half_ellipse(y, heart_y, tall))
    right = np.maximum(2.1 + 0.02 * (y - apex), heart * 0.33 * _half_ellipse(y, heart_y - 0.5, tall))
    left, right = (np.asarray(edge, np.float32) for edge in (left, right))
    drop = np.where(x < 0, 0.0, draw(person.seed, "left dome", 0.6, 1.8)).astype(np.float32)
    bend = (u - 0.45 * half) / (0.55 * half)
    dome = base + drop + 2.6 * bend * bend * np.where(bend > 0, 1.2, 0.5).astype(np.float32)
    depth = np.empty_like(film.grey)
    middle = max(0, min(film.width, int(film.left)))
    for rows in film.bands():
        depth[rows] = np.minimum(wall[rows] - u, dome - y[rows])
        depth[rows, :middle] = np.minimum(depth[rows, :middle], -x[:, :middle] - right[rows])
        depth[rows, middle:] = np.minimum(depth[rows, middle:], x[:, middle:] - left[rows])
    return _Chest(apex, base, carina, half, heart_y, wall, {"right": right, "left": left}, dome, depth)


def _frontal(phantom: Phantom, film: _Film) -> None:
    person, ap = phantom.anatomy, phantom.view == "AP"
    chest = _chest(phantom, film)
    u = np.abs(film.x)
    tissue = 1.8 + 2.6 * person.habitus
    shoulder = np.maximum(0.0, u - 5.2) * 0.28 - 1.0
    lung = np.empty_like(film.grey)
    for rows in film.bands():
        y, grey = film.y[rows], film.grey[rows]
        # Body: neck, shoulder slope, torso. Behind the diaphragm there is more to pass through.
        torso = chest.half + tissue + np.maximum(0.0, 11.0 - y) * 1.4
        thick = 0.50 + 0.06 * person.habitus + 0.18 * _ramp(y - chest.base - 1.0, 0.12)
        grey += thick * np.clip(np.minimum(torso - u, y - shoulder) * 0.35, 0.0, 1.0)
        # Centre: mediastinum and spine with its discs.
        grey += np.maximum(0.0, 1.0 - u * 0.22) * (0.17 + 0.002 * np.clip(y - chest.apex, 0.0, 25.0))
        discs = np.abs(y * 0.38 - np.floor(y * 0.38) - 0.5)
        grey -= _ramp(2.0 - u, 2.0) * _ramp(0.10 - discs, 12.0) * 0.035
        lung[rows] = _ramp(chest.depth[rows], 3.2)
        air = 0.29 + 0.05 * np.clip(chest.depth[rows] * 0.3, 0.0, 1.0) - 0.07 * person.habitus
        grey -= lung[rows] * air
    bend = draw(person.seed, "trachea", -0.5, 0.3)
    film.stroke([(0.0, -2.0), (bend, chest.carina - 4), (bend / 2, chest.carina)], 1.9, -0.11)
    film.stroke([(bend / 2, chest.carina - 0.3), (-1.5, chest.carina + 1.2), (-3.6, chest.carina + 2.4)], 1.4, -0.05)
    film.stroke([(bend / 2, chest.carina - 0.3), (2.0, chest.carina + 1.2), (4.6, chest.carina + 2.2)], 1.2, -0.05)
    flooded = next((finding.grade for finding in phantom.findings if finding.kind == "edema"), 0)
    for side in ("right", "left"):
        _vessels(phantom, film, chest, side, flooded)
    _texture(film, lung, 0.045 + 0.02 * flooded)
    if flooded:
        clouds = film.noise(2.2)
        for rows in film.bands(chest.apex, chest.base + 4):
            haze = np.maximum(0.0, 1.0 - np.abs(u - 5.5) * 0.14)
            haze = haze * np.maximum(0.0, 1.0 - np.abs(film.y[rows] - chest.carina - 4) * 0.08)
            film.grey[rows] += lung[rows] * haze * (0.09 * flooded) * (1.0 + 0.25 * clouds[rows])
    for part in parts(phantom.findings):
        if part.kind in _FRONTAL_FINDINGS:  # cardiomegaly and edema are part of the chest itself
            _FRONTAL_FINDINGS[part.kind](phantom, part, film, chest, lung)
    _bones(phantom, film, chest, lung)
    if person.sex == "F":
        for sign in (-1.0, 1.0):
            low = chest.base - (3.5 if ap else 1.5) + 1.5 * draw(person.seed, "breast")
            film.blob(sign * 0.62 * chest.half, low, 0.50 * chest.half, 5.2, 0.055 + 0.05 * person.habitus)
    if draw(person.seed, "stomach") < 0.75:
        film.blob(0.48 * chest.half, chest.base + 4.0, 2.8, 1.9, -0.16)
    _frontal_devices(phantom, film, chest)


def _texture(film: _Film, lung: _Float, amount: float) -> None:
    """The lungs' fine net of vessels, and unevenness everywhere."""
    coarse, fine, uneven = film.noise(1.1), film.noise(0.6), film.noise(3.5)
    for rows in film.bands():
        net = 1.0 - np.abs(coarse[rows]) - np.abs(fine[rows]) * 0.5
        film.grey[rows] += lung[rows] * net * amount + uneven[rows] * 0.018


def _vessels(phantom: Phantom, film: _Film, chest: _Chest, side: str, flooded: int) -> None:
    person = phantom.anatomy.seed
    sign = 1.0 if side == "left" else -1.0
    hilum = (sign * 3.6, chest.carina + (1.6 if side == "left" else 2.6))
    film.blob(hilum[0], hilum[1], 2.6, 3.4, 0.15)
    for index in range(9):
        name = f"{side} vessel {index}"
        height, across = (index + draw(person, name)) / 9, draw(person, f"{name} reach", 0.45, 0.85)
        x, y = chest.spot(film, side, 0.08 + 0.86 * height, across)
        start = (hilum[0] + draw(person, f"{name} x", -0.7, 0.7), hilum[1] + (height - 0.4) * 3.6)
        control = (start[0] + sign * 0.9, (start[1] + y) / 2 + draw(person, f"{name} bow", -1.0, 1.0))
        # More blood runs at the bases; in edema it is spread to the apices, and walls thicken.
        film.stroke([start, control, (x, y)], 0.22 + 0.12 * height + 0.06 * flooded, 0.045 + 0.035 * height)


def _bones(phantom: Phantom, film: _Film, chest: _Chest, lung: _Float) -> None:
    ap = phantom.view == "AP"
    u, gap = np.abs(film.x), phantom.anatomy.rib_spacing
    outward = np.maximum(0.0, u - 0.45 * chest.half)
    back = 0.10 * (u - 2.0) + 0.45 / chest.half * outward * outward
    front = 0.55 * np.maximum(0.0, chest.half - u) + 0.3 * outward
    medial = _ramp(u - 5.0, 0.35) * 0.065
    for rows in film.bands(chest.apex - 1, chest.base + 7):
        y = film.y[rows] - chest.apex
        ends = _ramp(chest.base + 5 - film.y[rows], 0.25) * _ramp(y - 0.5, 0.6)
        weight = (0.35 + 0.65 * lung[rows]) * _ramp(chest.wall[rows] + 0.9 - u, 1.6) * ends
        ribs = _rib(y - back * np.clip(1.5 - y * 0.03, 0.7, 1.5), gap, 0.20) * 0.085
        ribs += _rib(y - front, gap * 1.12, 0.19) * medial
        film.grey[rows] += weight * ribs
    lift = 1.4 if ap else 0.0
    for sign in (-1.0, 1.0):
        inner, outer = (sign * 1.9, chest.apex + 3.0 - lift), (sign * 14.5, chest.apex - 0.2 - 1.2 * lift)
        middle, bow = (sign * 8.2, chest.apex + 0.7 - lift), (sign * 11.0, chest.apex - 0.8 - lift)
        collarbone = [inner, (sign * 5.5, chest.apex + 2.2 - 1.3 * lift), middle, bow, outer]
        film.stroke(collarbone, 1.15, 0.12, hollow=0.35)
        edge = 0.60 if ap else 0.86
        blade = [(sign * edge * across, chest.apex + down) for across, down in ((12, 1), (13, 5), (15, 10))]
        film.stroke(blade, 0.5, 0.05)
        film.blob(sign * 17.5, chest.apex + 2.5, 4.0, 4.5, 0.18)


def _rib(height: _Float, gap: float, half: float) -> _Float:
    """Repeating ribs of `2 * half * gap` cm, brighter at their edges (cortex)."""
    off = height * (1 / gap)
    off -= np.floor(off)
    off -= 0.5
    np.abs(off, out=off)
    rib = _ramp(half - off, 14)
    off += 0.035 + 0.07 - half
    off *= -14
    rib -= 0.4 * _unit(off)
    return rib


def _half(film: _Film, side: Side | None) -> slice:
    """Pixel columns of one side of the patient."""
    return film.columns(0, 99) if side == "left" else film.columns(-99, 0)


def _effusion(phantom: Phantom, finding: Finding, film: _Film, chest: _Chest, lung: _Float) -> None:
    columns = _half(film, finding.side)
    u = np.abs(film.x[:, columns])
    tall, medial = ((0.17, 0.05), (0.40, 0.55), (0.70, 0.80))[finding.grade - 1]
    angle = chest.base + 2.4
    across = np.clip((u - 3.0) / (chest.half - 3.0), 0.0, 1.0)
    # A meniscus: the fluid creeps up the chest wall.
    level = angle - tall * (chest.base - chest.apex) * (medial + (1 - medial) * across * across)
    fluid = _ramp(film.y - level, 1.1) * _ramp(chest.wall - u, 3.0) * _ramp(u - 2.6, 0.8)
    grey = film.grey[:, columns]
    grey += fluid * np.maximum(0.70 - grey, 0.0) * 0.92
    lung[:, columns] *= 1.0 - 0.8 * fluid  # ribs hardly show through fluid


def _pneumothorax(phantom: Phantom, finding: Finding, film: _Film, chest: _Chest, lung: _Float) -> None:
    columns = _half(film, finding.side)
    u, y = np.abs(film.x[:, columns]), film.y
    gap, low = ((1.5, 0.40), (2.8, 0.75), (4.8, 1.15))[finding.grade - 1]
    height = chest.base - chest.apex
    # The visceral pleura is the chest wall's curve, lowered at the apex and drawn in.
    fallen = np.clip(1.0 - (y - chest.apex) / (low * height), 0.0, 1.0)
    reach = np.clip((y - chest.apex - 1.4 * gap) / (height + 3.5 - 1.4 * gap), 0.0, 1.0)
    pleura = np.minimum(chest.wall, (chest.half - 0.2) * np.clip(np.sqrt(reach) * (1.62 - 0.62 * reach), 0.0, 1.0))
    pleura = pleura - gap * fallen * np.clip(reach * 8.0, 0.0, 1.0)
    slope = np.diff(pleura, axis=0, append=pleura[-1:]) * film.scale
    beyond = (u - pleura) / np.sqrt(1.0 + slope * slope)
    shown = lung[:, columns] * np.clip(fallen * 6.0, 0.0, 1.0)
    air = shown * _ramp(beyond, 4.0)
    grey = film.grey[:, columns]
    grey += air * (0.15 - grey) * 0.9
    grey += (shown - air) * (0.02 * finding.grade)  # the collapsed lung holds less air
    grey += shown * np.maximum(1.0 - np.abs(beyond) * 8.0, 0.0) * 0.24


def _consolidation(phantom: Phantom, finding: Finding, film: _Film, chest: _Chest, lung: _Float) -> None:
    x, y = _place(phantom, finding, film, chest)
    radius = (2.4, 3.6, 5.2)[finding.grade - 1]
    uneven = lung * (1.0 + 0.30 * film.noise(1.9))
    film.blob(x, y, radius * 1.25, radius * 1.1, 0.34, uneven)
    film.blob(x + 0.3 * radius, y - 0.35 * radius, radius * 0.7, radius * 0.6, 0.14, uneven)


def _nodule(phantom: Phantom, finding: Finding, film: _Film, chest: _Chest, lung: _Float) -> None:
    x, y = _place(phantom, finding, film, chest)
    film.disc(x, y, (finding.mm or 0) / 20, 0.26)


_FRONTAL_FINDINGS = {
    "effusion": _effusion, "pneumothorax": _pneumothorax, "consolidation": _consolidation, "nodule": _nodule,
}  # fmt: skip
_ZONE_HEIGHT: dict[Zone | None, float] = {"upper": 0.24, "middle": 0.52, "lower": 0.80}


def _place(phantom: Phantom, finding: Finding, film: _Film, chest: _Chest) -> tuple[float, float]:
    """Where a focal finding lies: it stays there at follow-up, so the place is the person's, not the exposure's."""
    seed, name = phantom.anatomy.seed, f"{finding.kind} {finding.side} {finding.zone}"
    height = _ZONE_HEIGHT[finding.zone] + draw(seed, f"{name} height", -0.06, 0.06)
    return chest.spot(film, str(finding.side), height, draw(seed, f"{name} across", 0.45, 0.65))


def _frontal_devices(phantom: Phantom, film: _Film, chest: _Chest) -> None:
    carina, heart_y = chest.carina, chest.heart_y
    for device in phantom.devices:
        sign = 1.0 if device.side == "left" else -1.0
        if device.kind == "endotracheal tube":
            tip = carina - (device.tip_mm or 0) / 10
            film.stroke([(0.3, -2.0), (0.1, tip - 3), (0.0, tip)], 1.0, 0.12, hollow=0.8)
            film.stroke([(0.5, -2.0), (0.35, tip - 3), (0.25, tip)], 0.18, 0.22)
        elif device.kind == "pacemaker":
            box = (sign * 0.68 * chest.half, chest.apex + 4.2)
            film.plate(*box, 2.3, 1.9)
            film.plate(box[0], box[1] - 2.2, 1.3, 0.6)
            for end, sag in (((-3.6, heart_y - 1.2), -2.2), ((3.4, heart_y + 2.6), -3.0)):
                start, shoulder = (box[0], box[1] - 2.2), (sign * 4.0, chest.apex + 1.2)
                film.stroke([start, shoulder, (-1.6, carina - 1.0), (sag, heart_y - 1.6), end], 0.24, 0.30)
                film.disc(*end, 0.24, 0.25)
        elif device.kind == "central line":
            bend = (-2.2, carina - 3.0) if sign < 0 else (-0.5, carina - 3.5)
            film.stroke(
                [(sign * 3.4, -2.0), (sign * 3.2, chest.apex), bend, (-2.3, carina), (-2.3, carina + 2.4)], 0.22, 0.26
            )
        else:
            for index in range(6):
                wire_y = chest.apex + 4.5 + 2.4 * index
                left, right = (-0.8, wire_y), (0.8, wire_y)
                film.stroke([left, (0.0, wire_y - 0.7), right, (0.0, wire_y + 0.8), left], 0.17, 0.34)


def _lateral(phantom: Phantom, film: _Film) -> None:
    """Front on the left. Sided findings project onto one another, as they do in a real lateral view.

    A pneumothorax is not drawn: it is read from the frontal picture.
    """
    person = phantom.anatomy
    x, y = film.x, film.y
    deep = 0.80 * person.half_width
    apex, height = 4.5, person.lung_height * draw(phantom.seed, "breath", 0.94, 1.02)
    base, carina = apex + height, apex + 0.32 * height
    tissue = 1.4 + 2.2 * person.habitus
    down = np.clip((y - apex + 1.0) / (0.6 * height), 0.0, 1.0)
    front = deep * (0.50 + 0.50 * down * (2.0 - down))
    back = deep * (0.72 + 0.28 * _half_ellipse(y, apex + 0.45 * height, 2.2 * height))
    swell = _half_ellipse(y, apex + 0.62 * height, 6.0)
    breast = 2.4 * swell * swell if person.sex == "F" else 0.0 * y
    neck = 0.10 * (x - 1.0) * (x - 1.0)
    # The right dome is higher than the left one; both fall off into the sulcus behind.
    dome, lower = base - 0.5 + 0.034 * (x + 3.0) * (x + 3.0), draw(person.seed, "left dome", 0.6, 1.8)
    inside, lung = np.empty_like(film.grey), np.empty_like(film.grey)
    for rows in film.bands():
        at_y, wall = y[rows], back[rows]
        body = np.minimum(np.minimum(x + (front + tissue + breast)[rows], wall + tissue + 0.5 - x), at_y + 2.0)
        body = np.minimum(body, at_y - neck + 4.5)
        thick = 0.46 + 0.06 * person.habitus + 0.20 * _ramp(at_y - base - 1.5, 0.12)
        inside[rows] = np.minimum(np.minimum(x + front[rows] - 0.9, wall - 0.5 - x), at_y - apex - 0.5 * neck)
        lung[rows] = 0.65 * _ramp(np.minimum(inside[rows], dome - at_y), 2.6)
        lung[rows] += 0.35 * _ramp(np.minimum(inside[rows], dome + lower - at_y), 2.6)
        film.grey[rows] = thick * _unit(body * 0.35) - lung[rows] * (0.27 - 0.06 * person.habitus)
    film.blob(1.0, apex - 0.5, 11.0, 8.0, 0.16)
    _lateral_centre(phantom, film, lung, (deep, apex, base, carina))
    _texture(film, lung, 0.045)
    for rows in film.bands(apex - 1, base + 6):
        cage = _ramp(inside[rows] + 0.6, 2.0) * (0.4 + 0.6 * lung[rows]) * _ramp(base + 3.0 - y[rows], 0.2) * 0.035
        slope = y[rows] - apex + 0.42 * x
        film.grey[rows] += cage * (_rib(slope, person.rib_spacing, 0.17) + _rib(slope - 0.9, person.rib_spacing, 0.17))
    for finding in parts(phantom.findings):
        name = f"{finding.kind} {finding.side} {finding.zone}"
        across = draw(person.seed, f"{name} lateral", -0.35, 0.45) * deep
        at = apex + height * (_ZONE_HEIGHT.get(finding.zone, 0.5) + draw(person.seed, f"{name} height", -0.06, 0.06))
        if finding.kind == "effusion":
            # It gathers in the sulcus behind, lowest of all, and creeps up the wall.
            tall = (4.5, 8.5, 14.0)[finding.grade - 1]
            part = np.clip((x + deep) / (2 * deep), 0.0, 1.0)
            fluid = _ramp(y - base - 5.0 + tall * (0.35 + 0.65 * part * part), 1.0) * _ramp(inside, 2.6)
            film.grey += fluid * np.maximum(0.66 - film.grey, 0.0) * 0.9
        elif finding.kind == "consolidation":
            radius = (2.4, 3.6, 5.2)[finding.grade - 1]
            film.blob(across, at, radius * 1.2, radius, 0.28, lung * (1.0 + 0.30 * film.noise(1.9)))
        elif finding.kind == "nodule":
            film.disc(across, at, (finding.mm or 0) / 20, 0.22)
        elif finding.kind == "edema":
            film.grey += lung * 0.05 * finding.grade * (1.0 + 0.25 * film.noise(2.2))
    for device in phantom.devices:
        if device.kind == "pacemaker":
            film.plate(-0.86 * deep - 0.8, apex + 5.0, 0.6, 2.1)
            start, end = (-0.86 * deep, apex + 3.6), (-0.50 * deep, base - 3.0)
            film.stroke([start, (-1.0, apex + 1.5), (0.2, carina - 1.0), (0.6, base - 8.0), end], 0.24, 0.30)
        elif device.kind == "sternotomy wires":
            for index in range(6):
                film.disc(-0.95 * deep, apex + 6.0 + 2.2 * index, 0.24, 0.34)
        elif device.kind == "endotracheal tube":
            film.stroke([(0.2, -2.0), (1.0, carina - (device.tip_mm or 0) / 10)], 0.9, 0.12, hollow=0.7)
        else:
            film.stroke([(-1.0, -2.0), (0.0, apex), (-0.6, carina + 2.4)], 0.22, 0.26)


def _lateral_centre(phantom: Phantom, film: _Film, lung: _Float, at: tuple[float, float, float, float]) -> None:
    """Spine, sternum, shoulder blades, heart and great vessels, airway; `at` is depth, apex, base and carina."""
    person, (deep, apex, base, carina) = phantom.anatomy, at
    x, y = film.x, film.y
    curve = deep * (0.50 + 0.16 * _half_ellipse(y, (apex + base) / 2, 2.2 * (base - apex)))
    discs = 1.0 - 0.7 * _ramp(0.08 - np.abs(y * 0.38 - np.floor(y * 0.38) - 0.5), 14.0)
    enlarged = next((finding.grade for finding in phantom.findings if finding.kind == "cardiomegaly"), 0)
    half = deep * (1.12 * person.heart_ratio + 0.09 * enlarged)
    across = (x + 0.92 * deep - half) / half
    for rows in film.bands():
        grey, behind = film.grey[rows], x - curve[rows]
        # Vertebral bodies; they look darker towards the diaphragm because less lies over them.
        off = np.abs(behind)
        bodies = _ramp(1.7 - off, 2.0) * (0.75 + 0.25 * _unit(off * 0.6)) * discs[rows]
        grey += bodies * (0.15 - 0.003 * np.clip(y[rows] - apex, 0.0, 25.0))
        grey += np.maximum(0.0, 1.0 - np.abs(behind - 3.0) * 0.4) * 0.05
        upward = (y[rows] - base + 3.0) / (1.2 * half)
        grey += _ramp(1.0 - across * across - upward * upward, 1.3) * lung[rows] * 0.20
    film.stroke(
        [(-0.62 * deep, apex + 2.5), (-0.96 * deep, apex + 7.0), (-0.97 * deep, apex + 15.0)], 1.0, 0.12, hollow=0.4
    )
    for shift in (0.0, 1.6):
        blade = [(0.45 * deep + shift, apex - 1.0), (0.80 * deep, apex + 3.0), (0.85 * deep, apex + 9.0)]
        film.stroke(blade, 0.4, 0.05)
    film.blob(1.2, carina - 1.6, 4.2, 3.6, 0.08)
    film.stroke([(0.44 * deep, carina), (0.52 * deep, (carina + base) / 2), (0.50 * deep, base)], 2.2, 0.05)
    film.blob(0.8, carina - 5.0, 1.4, 7.0, -0.14)
    film.blob(1.3, carina + 1.8, 2.6, 3.0, 0.17)
    for index in range(8):
        name = f"lateral vessel {index}"
        end_x = draw(person.seed, name, -0.75, 0.80) * deep
        end_y = carina + draw(person.seed, f"{name} reach", -4.5, 9.5)
        start = (1.3 + draw(person.seed, f"{name} x", -0.6, 0.6), carina + 1.8)
        film.stroke([start, ((start[0] + end_x) / 2, (start[1] + end_y) / 2 + 0.6), (end_x, end_y)], 0.28, 0.05)
