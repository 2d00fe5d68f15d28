"""Which field of a corpus made elsewhere is what: the form of a mapping (its keys are told in `builders.corpus`)."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from msgspec import Meta, field, structs

from builders.engine.source import Access, Role
from manifests.proof.accounting import declared
from medgpt.arguments import Frame
from medgpt.groups import GROUP_KEYS
from medgpt.settings import Settings, checked

DEFAULT_SPLIT = {"train": "train", "eval": "test"}
DEFAULT_PREFIX = {"pmcid": "pmc", "pmid": "pubmed", "video_id": "youtube"}

_NAMES: dict[str, tuple[str, ...]] = {
    "text": ("text", "caption", "txt", "conversations", "messages", "input", "context", "passage"),
    "question": ("question", "instruction", "prompt", "query"),
    "options": ("options", "choices", "endings"),
    "answer": tuple(
        "answer output response completion correct_answer correct_option gt_answer ground_truth gold ideal answer_idx "
        "answer_key answerKey".split()
    ),
    "reasoning": ("reasoning",),
}
_DEFAULTS = {
    key: tuple(spelt for name in names for spelt in (name, name.capitalize(), name.upper()))
    for key, names in _NAMES.items()
}
_DIALOGUES = frozenset({"conversations", "messages"})
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")

Field: TypeAlias = Annotated[str, Meta(min_length=1)]
Fields: TypeAlias = Field | list[Field]
Group: TypeAlias = Literal[(*GROUP_KEYS, "image_id")]  # type: ignore[valid-type]  # the names of the schema


class FieldOf(Settings, frozen=True):
    """A field that a licence or a group id is taken from."""

    field: Field
    prefix: str | None = None


class LicenseOf(Settings, frozen=True):
    """A field with the licence of each row."""

    field: Field


class Rules(Settings, frozen=True):
    """A mapping for one side. Where a key is None, the default names hold."""

    name: Field | None = None
    id: Field | None = None
    text: Fields | None = None
    question: Fields | None = None
    options: Fields | dict[str | int, Field] | None = None
    answer: Fields | None = None
    reasoning: Fields | None = None
    images: Fields | None = None
    groups: dict[Group, Field | FieldOf] = field(default_factory=dict)
    license: Field | LicenseOf = "unstated"
    access: Access = "credentialed"
    split: Field | None = None
    frames: Frame | None = None
    store_pictures: bool = False
    leave_out: dict[Field, Field] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("name", "split"):
            value = getattr(self, key)
            if value is not None and not _NAME.fullmatch(value):
                raise ValueError(f"{key}: letters, digits, `-` and `_` only, not {value[:60]!r}")

    def of(self, key: str) -> tuple[str, ...]:
        """The fields that `key` names, or those of the default names."""
        return _fields(getattr(self, key), _DEFAULTS.get(key, ()))

    def declares(self, kind: str, name: str) -> str | None:
        """Why a field, or the pictures in it, do not matter: what the mapping says of it; None if it says nothing."""
        if why := declared(self.leave_out, name):
            return f"mapping: {why}"
        if kind == "picture" and self.pictures == ():
            return "the mapping says `images: []`"
        empty = (key for key in _DEFAULTS if getattr(self, key) == [] and name in _DEFAULTS[key])
        return next((f"the mapping says `{key}: []`" for key in empty), None)

    @property
    def pictures(self) -> tuple[str, ...] | None:
        """Fields of pictures; None: found by their type."""
        return None if self.images is None else self.of("images")

    @property
    def labelled_options(self) -> tuple[tuple[str, str], ...]:
        """(label, field) where each option has a field of its own."""
        if isinstance(self.options, dict):
            return tuple((str(label), field) for label, field in self.options.items())
        if isinstance(self.options, list) and len(self.options) > 1:
            return tuple((option_label(number), field) for number, field in enumerate(self.options))
        return ()

    @property
    def listed_options(self) -> tuple[str, ...]:
        """Fields that hold all options of a row."""
        return () if self.labelled_options else self.of("options")

    @property
    def group_fields(self) -> dict[str, tuple[str, str]]:
        """(field, prefix) by the kind of group id."""
        found = {}
        for kind, value in self.groups.items():
            of = FieldOf(field=value) if isinstance(value, str) else value
            prefix = DEFAULT_PREFIX.get(kind, "") if of.prefix is None else of.prefix
            found[kind] = of.field, prefix.strip().rstrip("/")
        return found

    @property
    def license_field(self) -> str | None:
        """The field with the licence of each row."""
        return self.license.field if isinstance(self.license, LicenseOf) else None

    @property
    def named(self) -> list[str]:
        """Fields that the mapping itself names: some row must have each."""
        given = [_fields(getattr(self, key)) for key in ("id", *_DEFAULTS, "images")]
        given += [(self.license_field or "",), tuple(field for field, _ in self.group_fields.values())]
        return [field for field in dict.fromkeys(field for fields in given for field in fields) if field]

    @property
    def fields(self) -> frozenset[str]:
        """Every field that something is taken from, pictures found by their type aside."""
        defaults = [self.of(key) for key in _DEFAULTS if key != "options"]
        return frozenset(self.listed_options).union(self.named, *defaults)

    @property
    def making_rows(self) -> frozenset[str]:
        """Fields by which an object is a row, whatever stands around it."""
        return frozenset(field for key in ("question", "options", "answer") for field in self.of(key)) | _DIALOGUES


class _Sections(Rules, frozen=True):
    """A mapping file: what stands outside of the sections holds for both sides."""

    train: Rules | None = None
    eval: Rules | None = None


def _fields(given: Any, default: tuple[str, ...] = ()) -> tuple[str, ...]:
    if given is None:
        return default
    return (given,) if isinstance(given, str) else tuple(given.values() if isinstance(given, Mapping) else given)


def make_rules(mapping: Any, role: Role, folder: Path, place: str) -> Rules:
    """What a mapping says for one side, `train` or `eval`; a corpus without a name is called like its folder.

    Raises: `SettingsError` with `place`, the mapping as the user knows it.
    """
    given = {} if mapping is None else mapping
    checked(_Sections, given, place)
    whole = {key: value for key, value in given.items() if key not in DEFAULT_SPLIT}
    rules = checked(Rules, whole | (given.get(role) or {}), place)
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", _called(folder.resolve())).strip("-_") or "corpus"
    return structs.replace(rules, name=rules.name or name, split=rules.split or DEFAULT_SPLIT[role])


def _called(folder: Path) -> str:
    """What a folder is called; in the hub's cache, `datasets--owner--name/snapshots/<commit>`, `owner--name`."""
    *_, repository, snapshots, _ = ("", "", *folder.parts[-3:])
    hub = repository if snapshots == "snapshots" and repository.startswith("datasets--") else folder.name
    return hub.removeprefix("datasets--")


@lru_cache(maxsize=256)
def option_columns(names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """(label, field) where a table has a column for each option: A, B, ...; opa, opb, ...; option_1, Option 2, ..."""
    there = {"".join(sign for sign in name.lower() if sign.isalnum()): name for name in names}
    for called in ("option", "op", "choice", "ending", ""):
        for first in "a10" if called else "a":
            series = [there.get(f"{called}{chr(ord(first) + number)}") for number in range(10)]
            series = series[: series.index(None)] if None in series else series
            if len(series) > 1 and (called or series[0] == "A"):
                return tuple((option_label(number), name or "") for number, name in enumerate(series))
    return ()


def option_label(number: int) -> str:
    """Label of an option that has none, counted from 0: A to Z, then 27, 28, ..."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)
