"""What a filter is: something that gives scores to a sample. It never decides.

A filter is a class with a name, a version and `score`. Scores are stored beside the manifest (`filters.run`); which of
them takes a sample out is a threshold in a recipe (`filters.decide`), so that moving a threshold decodes nothing.
Whatever can change a score (model file, side length, rule) belongs into `version`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from medgpt.errors import UserError

Score = float | int | str | None
"""One stored value; None where the filter has nothing to say (no picture, no text)."""

MAX_PIXELS = 400_000_000
"""Larger pictures are refused: a slide at full resolution is no training picture."""


class FilterError(UserError):
    """One line: a filter cannot run at all (a model file or an extra is missing, an endpoint is refused)."""


class UnreadablePicture(UserError):
    """A picture that cannot be decoded; `reason` is a reject reason (`corrupt_image`, `truncated_image`, ...)."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Picture:
    """A picture as filters see it: decoded once, reduced on demand."""

    def __init__(self, data: bytes) -> None:
        """Decode a JPEG or PNG. Raises: `UnreadablePicture`."""
        try:
            with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as opened:
                if opened.width * opened.height > MAX_PIXELS:
                    raise UnreadablePicture("image_too_large", f"{opened.width} x {opened.height} pixels")
                self.width, self.height = opened.size
                # Nothing looks at more than 2,048 pixels a side; JPEGs then decode several times faster.
                opened.draft("RGB", (2048, 2048))
                self._image = ImageOps.exif_transpose(opened).convert("RGB")
        except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
            reason = "truncated_image" if "truncated" in str(error) else "corrupt_image"
            raise UnreadablePicture(reason, str(error)) from error
        self._reduced: dict[int, NDArray[np.uint8]] = {}

    def rgb(self, side: int) -> NDArray[np.uint8]:
        """(height, width, 3), the longest side at most `side`; smaller pictures are not enlarged. Read-only."""
        found = self._reduced.get(side)
        if found is None:
            scale = min(1.0, side / max(self._image.size))
            size = tuple(max(1, round(length * scale)) for length in self._image.size)
            image = self._image
            if size != image.size:
                image = image.resize((size[0], size[1]), Image.Resampling.LANCZOS, reducing_gap=2.0)
            found = self._reduced[side] = np.asarray(image)
            found.setflags(write=False)
        return found


@dataclass
class Record:
    """One sample as filters see it."""

    sample: Mapping[str, Any]
    """Fields of `medgpt.schema.SAMPLE`."""
    pictures: Sequence[Picture] = ()
    found: dict[str, Score] = field(default_factory=dict)
    """Scores of the filters that ran before, by `<filter>.<score>`: one detector's boxes serve two filters."""

    @property
    def caption(self) -> str:
        """What the assistant says at last: the caption of a figure, the answer of a question."""
        messages = self.sample["messages"] or ()
        return " ".join(
            part["text"] for message in messages[-1:] for part in message["content"] if part["type"] == "text"
        )


class Filter:
    """A filter. Subclasses set the class variables and write `score`."""

    name: ClassVar[str]
    """As in recipes and score columns: `overlaid_text`."""
    version: ClassVar[str]
    """Anything that can change a score."""
    scores: ClassVar[Mapping[str, str]]
    """Score -> what it says and its unit."""
    needs_pictures: ClassVar[bool] = True
    cost: ClassVar[float]
    """Milliseconds a sample, roughly: cheap filters run first; what one throws out is not shown to the rest."""

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record, every name of `scores` in each. Of several pictures the highest score counts.

        Pure: the same record gets the same scores, whatever else is in the batch.
        """
        raise NotImplementedError
