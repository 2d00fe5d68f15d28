"""Where there is writing in a picture, and what it says: PP-OCRv4's detector and recogniser.

Both ONNX files ship in the package `rapidocr` (Apache-2.0), which is itself not used: its interface enlarges every
picture and is four times slower. The detector alone takes cells, vessels and gravel for writing; so a
region counts only once the recogniser has read it with confidence. What was read stays in memory: see
`filters.overlaid_text`.
"""

import hashlib
import importlib.util
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filters.base import FilterError

DETECTOR, RECOGNISER = "ch_PP-OCRv4_det_mobile.onnx", "ch_PP-OCRv4_rec_mobile.onnx"
SHA256 = {
    DETECTOR: "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
    RECOGNISER: "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
}
"""Of the files in rapidocr 3.8.4, the last with these models; those of rapidocr-onnxruntime 1.4.4 are the same."""
WRITING = 0.3
"""Probability from which on the detector's pixels belong to a region: PP-OCR's own default."""
REGION = 0.5
"""Mean probability of a region from which on it is looked at."""
GROWN = 1.6
"""The detector is trained on shrunken regions; PP-OCR grows them back by this times area / circumference."""
LINE_HEIGHT, LINE_WIDTH = 48, 192
"""Pixels of a line as the recogniser sees it: the height of its training, and width for some twelve letters. It was
trained on 320, but reading more than the beginning of a line told no more text from none, and took longer."""
SIDE = 1280
"""Pixels of the longest side: larger pictures are reduced to it. Menus of screens of 1,920 pixels stay legible."""
CELL = 16
"""Pixels of a cell: the height of small writing with its line spacing."""
HARD, SOFT, FLAT = 50, 30, 6
"""Steps between neighbouring pixels, of 255: of an edge of ink, of a faint edge, of a flat ground with JPEG's noise."""
ACROSS, DOWN, GROUND = 0.08, 0.04, 0.35
"""Shares of a cell's pixels that are edges across, edges down and flat ground where there is writing."""


SETTINGS = (
    f"{SHA256[DETECTOR][:8]}+{SHA256[RECOGNISER][:8]}/{SIDE}/{CELL}-{HARD}-{SOFT}-{FLAT}-{ACROSS}-{DOWN}-{GROUND}"
    f"/{WRITING}-{REGION}-{GROWN}"
)
"""All of the above, for versions of filters."""


@dataclass(frozen=True)
class Region:
    """Where the detector sees writing, in shares of the picture's width and height."""

    left: float
    top: float
    right: float
    bottom: float
    probability: float

    @property
    def area(self) -> float:
        """Share of the picture."""
        return (self.right - self.left) * (self.bottom - self.top)

    def pixels(self, height: int, width: int) -> tuple[int, int, int, int]:
        """(left, top, right, bottom) in a picture of that size, at least one pixel each way."""
        left, top = min(width - 1, int(self.left * width)), min(height - 1, int(self.top * height))
        return left, top, max(left + 1, math.ceil(self.right * width)), max(top + 1, math.ceil(self.bottom * height))


@dataclass(frozen=True)
class Line:
    """A region that was read. What was read is not shown by `repr`, so that no log has it."""

    region: Region
    confidence: float
    """Mean of the characters' probabilities, 0..1."""
    text: str = field(repr=False)
    cut: bool = False
    """Whether the line goes on: only its beginning was read."""


@dataclass(frozen=True)
class Window:
    """A part of a picture, in pixels."""

    left: int
    top: int
    right: int
    bottom: int
    cells: int
    """How many of its cells look like writing."""

    @property
    def area(self) -> int:
        """Pixels."""
        return (self.right - self.left) * (self.bottom - self.top)


def ink(rgb: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Cells of 16 pixels that may hold writing: (hard strokes on a flat ground, strokes on a texture).

    Costs a tenth of the detector and leaves nothing of a clean radiograph.
    """
    if min(rgb.shape[:2]) < CELL:
        nothing = np.zeros((rgb.shape[0] // CELL, rgb.shape[1] // CELL), np.bool_)
        return nothing, nothing
    planes = cv2.split(rgb[: rgb.shape[0] // CELL * CELL, : rgb.shape[1] // CELL * CELL])
    if all((plane == planes[0]).all() for plane in planes):
        planes = planes[:1]  # grey: the other planes are the same
    steep_across, steep_down = map(np.maximum.reduce, zip(*map(steps, planes), strict=True))
    flat = shares(np.maximum(steep_across, steep_down) <= FLAT)
    hard = (shares(steep_across > HARD) > ACROSS) & (shares(steep_down > HARD) > DOWN) & (flat > GROUND)
    soft = (shares(steep_across > SOFT) > ACROSS) & (shares(steep_down > SOFT) > DOWN) & ~hard
    return hard, soft


def steps(plane: NDArray[Any]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(height, width) each: how far a pixel is from its left and from its upper neighbour; 0 at the border."""
    left, upper = np.hstack((plane[:, :1], plane[:, :-1])), np.vstack((plane[:1], plane[:-1]))
    return np.asarray(cv2.absdiff(plane, left)), np.asarray(cv2.absdiff(plane, upper))


def shares(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Share of each cell's pixels that are set: (rows / 16, columns / 16) of a mask that holds whole cells."""
    size = mask.shape[1] // CELL, mask.shape[0] // CELL
    return np.asarray(cv2.resize(mask.astype(np.float32), size, interpolation=cv2.INTER_AREA))


def windows(cells: NDArray[np.bool_], height: int, width: int, budget: int) -> list[Window]:
    """Parts of a picture of that size around cells that hold ink, fullest first, together at most `budget` pixels."""
    if not cells.any():
        return []
    # One cell of margin for the detector's sight; two across, since words of a line belong together.
    grown = cv2.dilate(cells.view(np.uint8), np.ones((3, 5)))
    _, _, found_boxes, _ = cv2.connectedComponentsWithStats(grown, connectivity=4)
    boxes = _merged([[left, top, left + wide, top + high] for left, top, wide, high, _ in found_boxes[1:].tolist()])
    found = []
    for left, top, right, bottom in boxes:
        inside = int(cells[top:bottom, left:right].sum())
        # The last cells reach to the border: what is left over from whole cells belongs to them.
        right_pixel = width if right == cells.shape[1] else right * CELL
        bottom_pixel = height if bottom == cells.shape[0] else bottom * CELL
        found.append(Window(left * CELL, top * CELL, right_pixel, bottom_pixel, inside))
    chosen = []
    for window in sorted(found, key=lambda window: (-window.cells, window.top, window.left)):
        if window.area > budget:
            window = _fullest_rows(window, cells, budget)
        if window.area <= budget:
            chosen.append(window)
            budget -= window.area
    return chosen


def _merged(boxes: list[list[int]]) -> list[list[int]]:
    """Boxes (left, top, right, bottom), each pair that overlaps made one, until none does."""
    kept: list[list[int]] = []
    waiting = list(boxes)
    while waiting:
        box = waiting.pop()
        for other in kept:
            if box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]:
                kept.remove(other)
                waiting.append([*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:])])
                break
        else:
            kept.append(box)
    return kept


def _fullest_rows(window: Window, cells: NDArray[np.bool_], budget: int) -> Window:
    """The rows of a window with most ink that the budget allows."""
    high = budget // (window.right - window.left) // CELL
    if not high:
        return window
    first, last = window.top // CELL, -(-window.bottom // CELL)
    sums = np.concatenate(([0], cells[first:last, window.left // CELL : -(-window.right // CELL)].sum(1).cumsum()))
    start = int((sums[high:] - sums[:-high]).argmax())
    top = (first + start) * CELL
    inside = int(sums[start + high] - sums[start])
    return Window(window.left, top, window.right, min(window.bottom, top + high * CELL), inside)


class TextRegions:
    """Detector and recogniser; one object for all filters of a process."""

    def __init__(self) -> None:
        """Load both models. Raises: `FilterError` where the package is missing or has other models."""
        self._detector = _session(DETECTOR)
        self._recogniser = _session(RECOGNISER)
        alphabet = self._recogniser.get_modelmeta().custom_metadata_map["character"]
        self._characters = ["", *alphabet.splitlines(), " "]  # number 0 says "nothing here"

    def detect(self, rgb: NDArray[np.uint8], window: Window, scale: float = 1.0) -> list[Region]:
        """Regions in a window of (height, width, 3), looked at `scale` times as large as it is; surest first."""
        height, width = rgb.shape[:2]
        part = rgb[window.top : window.bottom, window.left : window.right]
        if scale != 1:
            size = max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale))
            part = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))
        # The network halves five times. Repeating the border shows it nothing that is not there.
        high, wide = part.shape[:2]
        padded = np.pad(part, ((0, -high % 32), (0, -wide % 32), (0, 0)), mode="edge")
        [output] = self._detector.run(None, {"x": normal(padded)})
        probability = output[0, 0, :high, :wide]
        writing = (probability > WRITING).view(np.uint8)
        _, labels, boxes, _ = cv2.connectedComponentsWithStats(writing, connectivity=8)
        means = np.bincount(labels.ravel(), probability.ravel()) / boxes[:, cv2.CC_STAT_AREA]
        down, across = (window.bottom - window.top) / high, (window.right - window.left) / wide
        found = []
        for (x, y, w, h, _), mean in zip(boxes[1:].tolist(), means[1:].tolist(), strict=True):
            if min(h, w) < 3 or mean < REGION:
                continue
            grow = GROWN * w * h / (2 * (w + h))
            found.append(
                Region(
                    max(0.0, (window.left + (x - grow) * across) / width),
                    max(0.0, (window.top + (y - grow) * down) / height),
                    min(1.0, (window.left + (x + w + grow) * across) / width),
                    min(1.0, (window.top + (y + h + grow) * down) / height),
                    mean,
                )
            )
        return sorted(found, key=lambda region: (-round(region.probability, 3), region.top, region.left))

    def reading_width(self, rgb: NDArray[np.uint8], region: Region, longest: int = LINE_WIDTH) -> int:
        """Pixels of line that reading a region takes: 60 microseconds each."""
        left, top, right, bottom = region.pixels(*rgb.shape[:2])
        return min(longest, max(LINE_HEIGHT, round(LINE_HEIGHT * (right - left) / (bottom - top))))

    def read(self, rgb: NDArray[np.uint8], region: Region, longest: int = LINE_WIDTH) -> Line:
        """What a region says; only the beginning of a line longer than `longest`. No line depends on another."""
        left, top, right, bottom = region.pixels(*rgb.shape[:2])
        end = left - (top - bottom) * longest // LINE_HEIGHT
        wide = self.reading_width(rgb, region, longest)
        crop = Image.fromarray(rgb[top:bottom, left : min(right, end)])
        line = np.zeros((1, 3, LINE_HEIGHT, -(-wide // 32) * 32), np.float32)
        line[..., :wide] = normal(np.asarray(crop.resize((wide, LINE_HEIGHT), Image.Resampling.BILINEAR)))
        [output] = self._recogniser.run(None, {"x": line})
        best, confidence = output[0].argmax(1), output[0].max(1)
        keep = (best != 0) & np.append(True, best[1:] != best[:-1])
        text = "".join(self._characters[index] for index in best[keep])
        return Line(region, round(float(confidence[keep].mean()), 4) if keep.any() else 0.0, text, right > end)


def normal(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(1, 3, height, width) from -1 to 1, blue first: both models were trained on OpenCV's order of colours."""
    turned = np.ascontiguousarray(rgb[..., ::-1].transpose(2, 0, 1), dtype=np.float32)
    turned *= np.float32(1 / 127.5)
    turned -= np.float32(1)
    return turned[None]


def _session(name: str) -> Any:
    return session(model(name))


def model(name: str) -> bytes:
    """The file of a model. Raises: `FilterError` where the package is missing or has another one."""
    found = importlib.util.find_spec("rapidocr")
    if found is None or found.origin is None:
        raise FilterError("text filters need the package rapidocr: pip install --no-deps rapidocr==3.8.4")
    file = Path(found.origin).parent / "models" / name
    if not file.is_file():
        raise FilterError(f"no {name} in the package rapidocr; version 3.8.4 has it")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != SHA256[name]:
        raise FilterError(f"{name} of rapidocr is not that of version 3.8.4; scores would differ")
    return data


def session(data: bytes) -> Any:
    """A model that runs on one thread, so that its results are always the same. Raises: `FilterError`."""
    try:
        import onnxruntime
    except ImportError as error:
        raise FilterError(f"picture filters need {error.name}: pip install 'medgpt-oss[filters]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
