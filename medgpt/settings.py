"""Settings from YAML files (policies, recipes, mixtures, presets, cards, mappings), every key and value checked.

A file's form is a `Settings` class: its fields are the keys, their types and `Annotated[int, Meta(ge=1)]` bounds are
checked by msgspec, what concerns several keys by `__post_init__`, which raises `ValueError`. Unknown and repeated keys
are refused everywhere: a misspelt rule would otherwise be none.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
import yaml

from medgpt.errors import UserError, one_line
from medgpt.limited import OverLimit, check_size, open_file

Kind = TypeVar("Kind")

_MOST_BYTES = 256 << 10
"""Ten times the largest file at hand; PyYAML takes up to 15 s a megabyte, and for some numbers the square of that."""
_MOST_VALUES = 1_000_000
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_AT = re.compile(r"(?P<what>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>.*)`)?", re.DOTALL)
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`")
_MISSING = re.compile(r"Object missing required field `(.*)`")


class SettingsError(UserError):
    """A settings file that cannot be used: which file, which key, what is allowed."""


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of a checked form. Immutable; compare and copy with `msgspec.structs.replace`."""


class _Loader(yaml.SafeLoader):
    """Safe; 1e-5 is a number, as in YAML 1.2, << merges nothing (merges within merges grow without end)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Refuse a key that is there twice: of two values the last would win unseen."""
        keys = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if twice := sorted(key for key, count in keys.items() if count > 1):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} is there twice", node.start_mark)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Refuse what a merge key would copy."""
        if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
            what = "merge keys (<<) are not read; write the keys out"
            raise yaml.constructor.ConstructorError(None, None, what, node.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(?:\.\d*)?[eE][-+]?\d+"), list("-+0123456789")
)


def parse_yaml(text: str | bytes, place: str) -> Any:
    """The plain values of a YAML text. Raises: `SettingsError` with `place`, the file as the user knows it."""
    try:
        check_size(len(text), limit=_MOST_BYTES)
        value = yaml.load(text, _Loader)  # noqa: S506 - a safe loader
    except (yaml.YAMLError, OverLimit, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise SettingsError(f"{place}: not YAML ({one_line(error)})") from error
    _refuse_odd(value, place)
    return value


def read_settings(path: Path) -> bytes:
    """A settings file, or enough of it for `parse_yaml` to refuse it. Raises: `SettingsError`, of a pipe, too."""
    try:
        with open_file(path) as file:
            return file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read ({error.strerror})") from error


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file. Raises: `SettingsError`."""
    return parse_yaml(read_settings(path), str(path))


def find(name: Path | str, presets: Path, what: str) -> Path:
    """The file of a shipped name (`presets/NAME.yaml`) or of a path. Raises: `SettingsError`, naming the shipped."""
    shipped = sorted(path.stem for path in presets.glob("*.yaml"))
    path = presets / f"{name}.yaml" if str(name) in shipped else Path(name)
    if not path.is_file():
        raise SettingsError(f"{name}: neither a YAML file nor a shipped {what} ({', '.join(shipped)})")
    return path


def checked(kind: type[Kind], value: Any, place: str) -> Kind:
    """`value`, plain, as `kind`. Raises: `SettingsError` with `place`, the key and what it may be."""
    try:
        return msgspec.convert(value, kind, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise SettingsError(f"{place}: {_explained(kind, str(error))}") from error


def put(document: dict[str, Any], setting: str) -> None:
    """Carry out one `--set a.b=value` on plain settings. Raises: `SettingsError`."""
    key, equals, text = setting.partition("=")
    *groups, last = key.strip().split(".")
    if not equals or not last:
        raise SettingsError(f"--set {setting}: write it as key=value")
    for group in groups:
        document = document.setdefault(group, {})
        if not isinstance(document, dict):
            raise SettingsError(f"--set {setting}: {group} is no group of settings")
    document[last] = parse_yaml(text, f"--set {setting}")


def _refuse_odd(value: Any, place: str) -> None:
    """What JSON cannot hold (digests are taken of it), and aliases within aliases that stand for endless values."""
    left, count = [value], 0
    while left:
        item, count, odd = left.pop(), count + 1, ""
        if isinstance(item, Mapping):
            left += [*item, *item.values()]
        elif isinstance(item, list):
            left += item
        elif isinstance(item, float) and not math.isfinite(item):
            odd = f"{item} is no number that a setting can have"
        elif isinstance(item, int) and not -(2**63) <= item < 2**63:
            odd = "a whole number of more than 64 bits"
        elif isinstance(item, str) and _SURROGATE.search(item):
            odd = "half of a surrogate pair in a text"
        if count > _MOST_VALUES:
            odd = f"more than {_MOST_VALUES:,} values; are there aliases within aliases?"
        if odd:
            raise SettingsError(f"{place}: {odd}")


def _explained(kind: Any, message: str) -> str:
    """The message of msgspec with the key in front, and what there is where a name or a word is unknown."""
    found = _AT.fullmatch(message)
    assert found is not None  # the pattern matches every text
    path, what = (found["path"] or "").lstrip("."), found["what"]
    known = ", ".join(sorted(map(str, _known(kind, re.findall(r"\w+|\[[^]]*\]", path), bool(found["key"])))))
    if unknown := _UNKNOWN.fullmatch(what):
        what = f"no key is called {unknown[1]}; there are {known}"
    elif missing := _MISSING.fullmatch(what):
        what = f"{missing[1]} is missing"
    elif what.startswith("Invalid enum value"):
        what = f"{what.removeprefix('Invalid enum value ')} is none of {known}"
    return one_line(f"{path}: {what}" if path else what)


def _known(kind: Any, path: Sequence[str], key: bool = False) -> set[Any]:
    """The keys or words that may stand at a path within `kind`; with `key`, as keys of the mapping there."""
    arguments = get_args(kind)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        fields = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
        return set(fields) if not path else _known(fields[path[0]], path[1:], key)
    if get_origin(kind) is Literal:
        return set(arguments)
    # A list or a mapping takes one step of the path, `| None` and `Annotated` none.
    step = path and path[0].startswith("[") and get_origin(kind) in (list, tuple, dict)
    if get_origin(kind) is dict:
        arguments = arguments[:1] if key and not path else arguments[1:]
    return set().union(*(_known(part, path[1:] if step else path, key) for part in arguments))
