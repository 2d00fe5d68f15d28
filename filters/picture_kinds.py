"""What kind of picture it is, by two networks that the filters run anyway: film, tissue, ink, screen or photograph.

The inner layers of the text detector (its backbone alone, a fifth of its cost) and of the face detector, each channel's
mean, largest and spread, are brought to a few numbers (principal components) and compared with those of labelled
pictures by a kernel ridge regression. `python -m bench.picture_kinds FOLDER` makes its file, of pictures
that may be tuned on. A kind's score is 0.5 where it draws level with the strongest other kind and with the bar that
cross-validation by repository set for it.
"""

import functools
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filters.base import Filter, FilterError, Picture
from filters.narrator import look, network, sums
from filters.text_regions import DETECTOR, model, normal, session

SIDE = 512
"""Pixels of the longest side."""
LAYERS = tuple(f"{name}.tmp_0" for name in (*(f"depthwise_conv2d_{number}" for number in (2, 4, 6, 11)), "conv2d_469"))
"""Convolutions of the text detector whose inputs are looked at: the ends of its stages."""
KINDS = ("film", "tissue", "ink", "screen", "photograph")
"""Ink: plots, tables, diagrams, drawings, molecules, blots. Photograph: logos and renderings, too."""
FILE = Path(__file__).with_name("picture_kinds.npz")
VERSION = hashlib.sha256(FILE.read_bytes()).hexdigest()[:12]
"""Of the filters that use it: another file gives other scores."""
REST = 0.5
"""Weight of the strongest other kind against a kind's own value."""
STEEP = 4.0
"""How fast a score goes from 0 to 1 around 0.5."""
WIDTH = 0.25
"""Of the kernel: a squared distance is counted so many times."""
LIMIT = 4.0
"""Spreads of the labelled pictures beyond which a number is cut."""


class KindFilter(Filter):
    """A filter that asks `kinds`."""

    def __init__(self) -> None:
        """Load what it needs. Raises: `FilterError` where a package is missing or a model is another one."""
        head()


def kinds(picture: Picture) -> dict[str, float]:
    """0..1 of each of `KINDS` and of `marks` (something is drawn on a film or on tissue)."""
    return picture.seen("kinds", _kinds)


def _kinds(picture: Picture) -> dict[str, float]:
    known = head()
    values = answer(known, components(known, channels(picture)[None]))[0]
    own = values[: len(KINDS)]
    others = np.array([np.delete(own, number).max() for number in range(len(KINDS))])
    scores = 1 / (1 + np.exp(-STEEP * (np.append(own - REST * others, values[-1]) - known["bars"])))
    return dict(zip((*KINDS, "marks"), map(float, scores), strict=True))


def channels(picture: Picture) -> NDArray[np.float32]:
    """Mean, largest and spread of each channel of both networks' layers."""
    return np.concatenate((picture.seen("backbone", _backbone), picture.seen("narrator", look)[1]))


def components(known: dict[str, Any], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """(pictures, components) of (pictures, channels), by what `bench.picture_kinds` found of the labelled pictures."""
    rooted = np.sign(found) * np.sqrt(np.abs(found.astype(np.float64)))
    plain = np.clip((rooted - known["mean"]) / known["spread"], -LIMIT, LIMIT)
    return np.asarray((plain - known["centre"]) @ known["axes"].astype(np.float64).T * known["scale"])


def answer(known: dict[str, Any], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """(pictures, `KINDS` and marks) of (pictures, components): -1 no, 1 yes."""
    rows = known["rows"].astype(np.float64) * known["step"]
    return np.asarray(near(places, rows) @ known["weights"].astype(np.float64) + known["rest"])


def near(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """(n, m): the kernel of (n, components) and (m, components)."""
    apart = (one**2).sum(1)[:, None] + (other**2).sum(1) - 2 * one @ other.T
    return np.asarray(np.exp(-WIDTH * apart))


@functools.cache
def head() -> dict[str, Any]:
    """The regression's arrays, by name; both networks are loaded. Raises: `FilterError` where one is missing."""
    _network()
    network()
    with np.load(FILE, allow_pickle=False) as file:
        return dict(file)


@functools.cache
def _network() -> Any:
    try:
        import onnx
        from onnx.utils import Extractor
    except ImportError as error:
        raise FilterError(f"picture filters need {error.name}: pip install 'medgpt-oss[filters]'") from None
    whole = onnx.load_model_from_string(model(DETECTOR))
    inputs = {output: node.input[0] for node in whole.graph.node if node.input for output in node.output}
    ends = [inputs[name] for name in LAYERS]
    whole.graph.value_info.extend(onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, None) for end in ends)
    part = Extractor(whole).extract_model(["x"], ends)
    return session(part.SerializeToString())


def _backbone(picture: Picture) -> NDArray[np.float32]:
    rgb = picture.rgb(SIDE)
    padding = ((0, -rgb.shape[0] % 32), (0, -rgb.shape[1] % 32), (0, 0))
    padded = np.pad(rgb, padding, mode="edge")
    return sums([layer[0] for layer in _network().run(None, {"x": normal(padded)})])
