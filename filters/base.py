"""What a filter is, and where it is found: something that gives scores to a sample. It never decides.

A filter is a class with a name, a version and `score` (or `one`). It is found by its presence: the filter `too_dark` is
the subclass of `Filter` of that name in the module `filters/too_dark.py`, or in `too_dark.py` on `PYTHONPATH`. Scores
are stored beside the manifest (`filters.run`); which of them takes a sample out is a threshold in a recipe
(`filters.decide`), so that moving a threshold decodes nothing. Whatever can change a score (model file, side length,
rule) belongs into `version`: nothing else says that scores are out of date.
"""

import hashlib
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from medgpt.errors import NOT_FINISHED, UserError, of_others

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from filters.expressions import Predicate
    from shards.reader import StoredSample

T = TypeVar("T")

Score = float | int | str | None
"""One stored value; None where the filter has nothing to say (no picture, no text)."""

SIDES = 16, 16_384
"""Shortest and longest side, in pixels. Below, there is nothing to see; above, it is a scan of a whole slide, not a
figure: decoding a side of 20,000 pixels takes gigabytes and seconds."""
CAPTION_REASONS = ("empty_caption",)
PICTURE_REASONS = ("image_too_small", "image_too_large", "truncated_image", "corrupt_image")
"""Why a sample has no scores. A recipe says what becomes of it: `unreadable`."""


class FilterError(UserError):
    """One line: why filters cannot go on (an extra is missing, scores are out of date), and what to do."""

    exit_code = NOT_FINISHED


class UnreadablePicture(UserError):
    """A picture that cannot be decoded; `reason` is one of `PICTURE_REASONS`."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


class Picture:
    """A picture as filters see it: decoded once, reduced on demand."""

    def __init__(self, data: bytes, sides: tuple[int, int] = (1, 1_000_000)) -> None:
        """Decode a picture whose sides are within `sides`, in pixels. Raises: `UnreadablePicture`."""
        from medgpt.containers import DamagedImage
        from medgpt.pictures import open_picture, picture_size

        try:
            self.width, self.height = picture_size(data)
            small, large = sorted((self.width, self.height))
            if large > sides[1] or small < sides[0]:
                kind = "image_too_small" if small < sides[0] and large <= sides[1] else "image_too_large"
                raise UnreadablePicture(kind, f"{self.width} x {self.height} pixels")
            # Nothing looks at more than 2,048 pixels a side; JPEGs then decode several times faster.
            self._image = open_picture(data, "RGB", at_least=2048)
        except DamagedImage as error:
            raise UnreadablePicture(error.reason, error.detail) from error
        self._reduced: dict[int, NDArray[np.uint8]] = {}
        self._seen: dict[str, Any] = {}

    def rgb(self, side: int) -> "NDArray[np.uint8]":
        """(height, width, 3), the longest side at most `side`; smaller pictures are not enlarged. Read-only."""
        import numpy as np
        from PIL import Image

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

    def seen(self, name: str, look: Callable[["Picture"], T]) -> T:
        """What `look` sees of this picture, kept under `name`: one look of a network serves several filters."""
        if name not in self._seen:
            self._seen[name] = look(self)
        found: T = self._seen[name]
        return found


def decode(sample: "StoredSample") -> list[Picture]:
    """The pictures of a sample. Raises: `UnreadablePicture` for the first that is too small, too large or damaged."""
    return [Picture(data, SIDES) for data in sample.images]


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
    """A filter. Subclasses set the first class variables and write `one`, or `score` where a batch is quicker."""

    name: ClassVar[str]
    """As in recipes and score columns: `overlaid_text`; also the name of its module."""
    version: ClassVar[str]
    """Anything that can change a score."""
    scores: ClassVar[Mapping[str, str]]
    """Score -> what it says and its unit."""
    cost: ClassVar[float]
    """Milliseconds a sample, roughly: cheap filters run first; what one throws out is not shown to the rest."""
    needs_pictures: ClassVar[bool] = True
    in_main_process: ClassVar[bool] = False
    """It does its own concurrency: run in the main process over whole units, after all others."""
    file_options: ClassVar[tuple[str, ...]] = ()
    """Options that are local files or folders: their content, not their path, decides whether scores are up to date."""
    not_judged: ClassVar[frozenset[str]] = frozenset()
    """Texts among its scores that say that it came to no verdict: such samples are named, and asked about again."""
    runtime_options: ClassVar[tuple[str, ...]] = ()
    """Options that cannot change a score, such as addresses and prices."""
    gated: ClassVar[bool] = False
    """`only_reports` decides whether it may drop: a threshold holds once `filters.run` has checked it."""

    def score(self, records: Sequence[Record]) -> list[dict[str, Score]]:
        """Scores of each record, every name of `scores` in each. Of several pictures the highest score counts.

        Pure: the same record gets the same scores, whatever else is in the batch. A filter that needs pictures says
        None of a record without any.
        """
        return [
            self.one(record) if record.pictures or not self.needs_pictures else dict.fromkeys(self.scores)
            for record in records
        ]

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of one record, where `score` is not overridden."""
        raise NotImplementedError

    @classmethod
    def only_reports(cls, options: Mapping[str, Any], drop: "Predicate", not_scored: str) -> str | None:
        """Why it may drop nothing by a recipe's predicate, and only scores; None where it may.

        Raises: `UserError` where the options claim that it may, and it may not.
        """
        return None

    @classmethod
    def identity_options(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        """What of the options can change a score; files by the digest of their content. Raises: `OSError`."""
        kept = {name: value for name, value in options.items() if name not in cls.runtime_options}
        files = [name for name in cls.file_options if kept.get(name) is not None]
        return kept | {name: content_digest(Path(str(kept[name]))) for name in files}


def content_digest(path: Path) -> str:
    """Digest of a file, or of a folder's files and their names. Raises: `OSError`."""
    from medgpt.digest import file_sha256

    if not path.is_dir():
        return file_sha256(path).hex()
    digest = hashlib.sha256()
    for file in sorted(file for file in path.rglob("*") if file.is_file()):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0" + file_sha256(file))
    return digest.hexdigest()


def filter_class(name: str, place: str | None = None) -> type[Filter]:
    """The class of a filter: in the module of its name, or at `place` (`module:Class`). Raises: `UserError`."""
    module, colon, attribute = (place or _module(name)).partition(":")
    if place is not None and (not module or not attribute.isidentifier()):
        raise UserError(f"filter {name}: {place!r} is not module:Class")
    try:
        members = vars(importlib.import_module(module))
    except ImportError as error:
        if module.startswith("filters.") and of_others(error):
            raise UserError(f"filter {name} needs {error.name}: pip install 'medgpt-oss[filters]'") from error
        raise UserError(f"filter {name}: {module} cannot be imported ({error}); is it on the path?") from error
    if not colon:
        attribute = next((key for key, member in members.items() if _is_filter(member) and member.name == name), "")
        if not attribute:
            raise _unknown(name)
    elif attribute not in members:
        raise UserError(f"filter {name}: {module} has no {attribute}")
    found = members[attribute]
    if not isinstance(found, type) or not issubclass(found, Filter):
        raise UserError(f"filter {name}: {place} is no subclass of filters.base.Filter")
    if missing := [needed for needed in ("name", "version", "scores", "cost") if not hasattr(found, needed)]:
        raise UserError(f"filter {name}: {module}:{attribute} has no {', '.join(missing)}")
    if found.name != name:
        raise UserError(f"filter {name}: {place} calls itself {found.name!r}; the recipe must use that name")
    return found


def _module(name: str) -> str:
    """The module of a filter's name: one in this folder, else one on the path. Raises: `UserError`."""
    for module in (f"filters.{name}", name):
        if name.isidentifier() and importlib.util.find_spec(module) is not None:
            return module
    raise _unknown(name)


def shipped_filters() -> list[str]:
    """Names of the filters in `filters/`, sorted; those whose extra is missing are left out."""
    names = set()
    for found in pkgutil.iter_modules([str(Path(__file__).parent)], "filters."):
        try:
            members = vars(importlib.import_module(found.name)).values()
        except ImportError:
            continue
        names |= {member.name for member in members if _is_filter(member)}
    return sorted(names)


def _is_filter(member: Any) -> bool:
    return isinstance(member, type) and issubclass(member, Filter) and hasattr(member, "name")


def _unknown(name: str) -> UserError:
    return UserError(
        f"no filter is called {name!r}; there are: {', '.join(shipped_filters())} (or a module {name}.py on PYTHONPATH "
        "with a filters.base.Filter of that name, or class: module:Class)"
    )
