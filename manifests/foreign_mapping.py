"""Which field of a corpus made elsewhere is what: mapping files, read and checked (see `manifests.foreign`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgpt.errors import UserError
from medgpt.schema import GROUP_KEYS

Role = str

_DEFAULT_TEXT = ("text", "caption", "txt", "conversations", "messages")

DEFAULT_PREFIX = {"pmcid": "pmc", "pmid": "pubmed", "video_id": "youtube"}

_GROUPS = (*GROUP_KEYS, "image_id")

_ACCESS = ("open", "gated", "credentialed")

DEFAULT_SPLIT = {"train": "train", "eval": "test"}

_KEYS = ("name", "id", "text", "question", "options", "answer", "reasoning", "images", "groups", "license", "access",
         "split")  # fmt: skip

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class ForeignError(UserError):
    """One line: what of a folder or a mapping cannot be used, and what to do."""


@dataclass(frozen=True)
class Rules:
    """A mapping, checked. Of a tuple of fields None means: by the default names."""

    name: str
    split: str
    access: str
    license: str
    license_field: str | None
    id: str | None
    text: tuple[str, ...] | None
    question: tuple[str, ...]
    options: tuple[tuple[str, str], ...]
    """(label, field); with one entry whose label is empty the field holds them all."""
    answer: tuple[str, ...]
    reasoning: tuple[str, ...]
    images: tuple[str, ...] | None
    groups: tuple[tuple[str, str, str], ...]
    """(kind, field, prefix)."""
    named: tuple[str, ...]
    """Fields that the mapping itself names: some row must have each."""

    @property
    def texts(self) -> tuple[str, ...]:
        """Fields of free text and dialogues."""
        return _DEFAULT_TEXT if self.text is None else self.text

    @property
    def fields(self) -> frozenset[str]:
        """Every field that something is taken from, pictures found by their type aside."""
        fields = {*self.texts, *self.question, *self.answer, *self.reasoning, *(self.images or ()), *self.named}
        return frozenset(fields | {field for _, field in self.options})


def load_mapping(path: Path, role: Role) -> dict[str, Any]:
    """Read a mapping file (YAML): what it says for one side, `train` or `eval`. Raises: `ForeignError`."""
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ForeignError(f"{path}: {error.strerror}; name a mapping file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ForeignError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if document is not None and not isinstance(document, dict):
        raise ForeignError(f"{path}: a mapping is written as `key: value`; there are the keys {', '.join(_KEYS)}")
    return _side(document or {}, role)


def _side(mapping: Mapping[str, Any], role: Role) -> dict[str, Any]:
    """What a mapping says for one side: its section over what stands outside of both."""
    whole = {key: value for key, value in mapping.items() if key not in DEFAULT_SPLIT}
    _refuse_unknown(whole, "mapping")
    for side in DEFAULT_SPLIT:
        section = mapping.get(side) or {}
        if not isinstance(section, Mapping):
            raise ForeignError(f"mapping, section {side}: holds keys and values, not {_shown(section)}")
        _refuse_unknown(section, f"mapping, section {side}")
    return whole | dict(mapping.get(role) or {})


def make_rules(mapping: Mapping[str, Any], role: Role, folder: Path) -> Rules:
    """Check a mapping and fill in what it leaves out; a corpus without a name is called like its folder.

    Raises: `ForeignError`.
    """
    given = _side(mapping, role)
    named: list[str] = []

    def fields(key: str, default: tuple[str, ...]) -> tuple[str, ...]:
        if key not in given:
            return default
        value = [given[key]] if isinstance(given[key], str) else given[key] or []
        if not isinstance(value, list) or not all(isinstance(field, str) and field for field in value):
            raise ForeignError(f"mapping, {key}: a field or a list of fields, not {_shown(given[key])}")
        named.extend(value)
        return tuple(value)

    def text(key: str, default: str) -> str:
        value = given.get(key, default)
        if not isinstance(value, str) or not value.strip():
            raise ForeignError(f"mapping, {key}: a text, not {_shown(value)}")
        return value.strip()

    name = text("name", re.sub(r"[^A-Za-z0-9_-]+", "-", folder.resolve().name).strip("-_") or "corpus")
    split, access = text("split", DEFAULT_SPLIT[role]), text("access", "credentialed")
    for key, value in ("name", name), ("split", split):
        if not _NAME.fullmatch(value):
            raise ForeignError(f"mapping, {key}: letters, digits, `-` and `_` only, not {_shown(value)}")
    if access not in _ACCESS:
        raise ForeignError(f"mapping, access: one of {', '.join(_ACCESS)}, not {_shown(access)}")
    license_field = None
    if isinstance(given.get("license"), Mapping):
        license_field = _field_of(given["license"], "license", ("field",))[0]
        named.append(license_field)
    identity = given.get("id")
    if identity is not None and not (isinstance(identity, str) and identity):
        raise ForeignError(f"mapping, id: one field, not {_shown(identity)}")
    named.extend([identity] if identity else [])
    return Rules(
        name=name,
        split=split,
        access=access,
        license="per row" if license_field else text("license", "unstated"),
        license_field=license_field,
        id=identity,
        text=fields("text", ()) if "text" in given else None,
        question=fields("question", ("question",)),
        options=_option_fields(given, named),
        answer=fields("answer", ("answer",)),
        reasoning=fields("reasoning", ("reasoning",)),
        images=fields("images", ()) if "images" in given else None,
        groups=_group_fields(given.get("groups") or {}, named),
        named=tuple(dict.fromkeys(named)),
    )


def _refuse_unknown(mapping: Mapping[str, Any], where: str) -> None:
    unknown = sorted(str(key) for key in mapping if key not in _KEYS)
    if unknown:
        raise ForeignError(f"{where}: no key is called {', '.join(unknown)}; there are {', '.join(_KEYS)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _field_of(value: Mapping[str, Any], where: str, keys: tuple[str, ...]) -> tuple[str, str]:
    field, prefix = value.get("field"), value.get("prefix", "")
    if set(value) - set(keys) or not isinstance(field, str) or not field or not isinstance(prefix, str):
        raise ForeignError(f"mapping, {where}: has the keys {' and '.join(keys)}, not {_shown(dict(value))}")
    return field, prefix.strip().rstrip("/")


def _option_fields(given: Mapping[str, Any], named: list[str]) -> tuple[tuple[str, str], ...]:
    if "options" not in given:
        return (("", "options"), ("", "choices"))
    value = given["options"] or []
    if isinstance(value, str) or (isinstance(value, list) and len(value) == 1):
        value = {"": value if isinstance(value, str) else value[0]}
    elif isinstance(value, list):
        value = {option_label(number): field for number, field in enumerate(value)}
    if not isinstance(value, Mapping) or not all(isinstance(field, str) and field for field in value.values()):
        raise ForeignError(f"mapping, options: field, list of fields or label: field, not {_shown(given['options'])}")
    named.extend(value.values())
    return tuple((str(label), field) for label, field in value.items())


def _group_fields(groups: Any, named: list[str]) -> tuple[tuple[str, str, str], ...]:
    if not isinstance(groups, Mapping):
        raise ForeignError(f"mapping, groups: id: field, not {_shown(groups)}; ids are {', '.join(_GROUPS)}")
    found = []
    for kind, value in groups.items():
        if kind not in _GROUPS:
            raise ForeignError(f"mapping, groups: no id is called {kind}; there are {', '.join(_GROUPS)}")
        where = f"groups, {kind}"
        known = DEFAULT_PREFIX.get(kind, "")
        if isinstance(value, Mapping):
            field, prefix = _field_of({"prefix": known, **value}, where, ("field", "prefix"))
        elif isinstance(value, str) and value:
            field, prefix = value, known
        else:
            raise ForeignError(f"mapping, {where}: a field, or field and prefix, not {_shown(value)}")
        named.append(field)
        found.append((kind, field, prefix))
    return tuple(found)


def option_label(number: int) -> str:
    """Label of an option that has none, counted from 0: A to Z, then 27, 28, ..."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)
