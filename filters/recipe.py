"""Recipes: which filters look at which source, with which options, and which scores take a sample out.

A recipe is a YAML file; `filters/recipes/medgpt_oss.yaml` is the default and explains every key. `load_recipe` reads
one, `Recipe.plan` resolves it for a source: filters in the order in which they run, predicates parsed against the
scores that the filters really have. A key, filter, score or word that is not known is an error: a misspelt threshold
would quietly let everything through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import yaml

from filters.base import Filter
from filters.expressions import ExpressionError, Predicate, parse
from filters.registry import Entry, UnknownFilter, entry, load_class
from manifests.digest import file_sha256

DEFAULT_RECIPE = Path(__file__).parent / "recipes" / "medgpt_oss.yaml"
FORMAT = 1
KEEP, DROP = "keep", "drop"
_RECIPE_KEYS = {"format", "name", "version", "default", "sources"}
_SOURCE_KEYS = {"unreadable", "filters"}
_FILTER_KEYS = {"class", "options", "after", "needs", "drop", "not_scored"}

Settings = Mapping[str, Mapping[str, Any]]
"""Options given from outside the recipe, by filter: weights, label tables, an endpoint."""


class RecipeError(Exception):
    """One line: what in the recipe is wrong, and what is allowed."""


@dataclass(frozen=True)
class FilterRule:
    """One filter as a recipe asks for it, not yet checked against the filter itself."""

    name: str
    place: str | None = None
    """`module:Class` of a filter that is not in the registry."""
    options: Mapping[str, Any] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    """Filters that must run before it, and whose scores it sees."""
    needs: tuple[str, ...] = ()
    """Options without which it is left out: weights or tables that not everybody has."""
    drop: str | None = None
    not_scored: str | None = None
    """`keep` or `drop`: what becomes of a sample whose predicate stays open for want of a score."""

    @property
    def asked(self) -> str:
        """Digest of all but the thresholds: scores made for it serve every recipe that asks the same."""
        return _digest([self.place, dict(self.options), list(self.after), list(self.needs)])


@dataclass(frozen=True)
class Step:
    """A filter of a plan, resolved. Picklable."""

    name: str
    place: str
    alone: bool
    needs_pictures: bool
    scores: tuple[str, ...]
    options: Mapping[str, Any]
    identity: str
    """Digest of all that decides its scores of a sample: class, version, options, and those of the filters it sees."""
    after: tuple[str, ...]
    drop: Predicate | None
    not_scored: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Its score columns, `<filter>.<score>`."""
        return tuple(f"{self.name}.{score}" for score in self.scores)

    def make(self) -> Filter:
        """The filter itself. Raises: `RecipeError` for options that it does not take, `FilterError` of the filter."""
        try:
            return load_class(self.name, self.place)(**self.options)
        except TypeError as error:
            raise RecipeError(f"filter {self.name}: options {sorted(self.options)} do not fit ({error})") from error


@dataclass(frozen=True)
class Plan:
    """What happens to the samples of one source, in order."""

    source: str
    steps: tuple[Step, ...]
    unreadable: str
    left_out: Mapping[str, str]
    """Filters that take no part -> why."""
    asked: Mapping[str, str]
    """Filter -> digest of what the recipe asks of it, thresholds left out (`FilterRule.asked`)."""

    @property
    def picture_stage(self) -> int:
        """Number of the first step that looks at pictures: before it a picture is found readable or not."""
        needing = (number for number, step in enumerate(self.steps) if step.needs_pictures)
        return next(needing, len(self.steps))

    @property
    def identity(self) -> str:
        """Digest of which filters there are, in which order; thresholds are no part of it."""
        return _digest([step.identity for step in self.steps])

    @property
    def exits(self) -> str:
        """Digest of all that early exit depends on."""
        return _digest([[step.drop.text if step.drop else None, step.not_scored] for step in self.steps])


@dataclass(frozen=True)
class Recipe:
    """A recipe file."""

    name: str
    version: int
    sha256: str
    sources: Mapping[str, tuple[str, tuple[FilterRule, ...]]]
    """Source, or `*` for all others -> (what becomes of unreadable samples, filters)."""

    def rules(self, source: str) -> tuple[str, tuple[FilterRule, ...]] | None:
        """What the recipe says of a source; None if it leaves the source alone."""
        return self.sources.get(source, self.sources.get("*"))

    def plan(self, source: str, settings: Settings | None = None) -> Plan | None:
        """Resolve the recipe for a source; None if it leaves the source alone.

        Imports the filters' classes, makes none of them. Raises: `RecipeError`.
        """
        found = self.rules(source)
        if found is None:
            return None
        unreadable, rules = found
        wanted, left_out = dict[str, FilterRule](), dict[str, str]()
        for rule in rules:
            options = {**rule.options, **(settings or {}).get(rule.name, {})}
            missing = [name for name in rule.needs if options.get(name) is None]
            if missing:
                left_out[rule.name] = f"not given: {', '.join(missing)}"
            else:
                wanted[rule.name] = FilterRule(**{**vars(rule), "options": options})
        steps = _resolve(wanted, left_out, f"{self.name}, {source}")
        return Plan(source, steps, unreadable, left_out, {rule.name: rule.asked for rule in rules})


def load_recipe(path: Path = DEFAULT_RECIPE) -> Recipe:
    """Read a recipe file. Raises: `RecipeError`."""
    try:
        data = path.read_bytes()
        content = yaml.safe_load(data)
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise RecipeError(f"{path}: {' '.join(str(error).split())}") from error
    try:
        _keys(content, _RECIPE_KEYS, "a recipe", required=_RECIPE_KEYS - {"default"})
        if content["format"] != FORMAT:
            raise RecipeError(f"format {content['format']!r}, where {FORMAT} is read")
        if not isinstance(content["name"], str) or type(content["version"]) is not int:
            raise RecipeError("name must be a text and version a whole number")
        base = content.get("default") or {}
        _keys(base, _SOURCE_KEYS, "default")
        if not isinstance(content["sources"], dict) or not content["sources"]:
            raise RecipeError("sources must name at least one source (or '*' for all)")
        sources = {str(source): _source(str(source), base, own) for source, own in content["sources"].items()}
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None
    return Recipe(content["name"], content["version"], hashlib.sha256(data).hexdigest(), sources)


def _source(source: str, base: Mapping[str, Any], own: object) -> tuple[str, tuple[FilterRule, ...]]:
    own = {} if own is None else own
    if not isinstance(own, dict):
        raise RecipeError(f"source {source}: must be a mapping, {{}} for the default as it is")
    _keys(own, _SOURCE_KEYS, f"source {source}")
    unreadable = own.get("unreadable", base.get("unreadable"))
    if unreadable not in (KEEP, DROP):
        raise RecipeError(f"source {source}: unreadable must be keep or drop, not {unreadable!r}")
    filters: dict[str, Any] = {}
    for part in (base.get("filters") or {}, own.get("filters") or {}):
        if not isinstance(part, dict):
            raise RecipeError(f"source {source}: filters must be a mapping of filter to rule")
        filters |= part
    rules = tuple(_rule(str(name), rule) for name, rule in filters.items() if rule is not False)
    if not rules:
        raise RecipeError(f"source {source}: no filter is left; leave the source out instead")
    return unreadable, rules


def _rule(name: str, rule: object) -> FilterRule:
    rule = {} if rule is None else rule
    if not isinstance(rule, dict):
        raise RecipeError(f"filter {name}: must be a mapping, or false to take it out")
    _keys(rule, _FILTER_KEYS, f"filter {name}")
    drop, not_scored = rule.get("drop"), rule.get("not_scored")
    if drop is not None and not isinstance(drop, str):
        raise RecipeError(f'filter {name}: drop must be a predicate in quotes, like "score >= 0.5"')
    if drop is not None and not_scored not in (KEEP, DROP):
        raise RecipeError(
            f"filter {name}: not_scored must be keep or drop: what becomes of samples that have no score?"
        )
    if drop is None and not_scored is not None:
        raise RecipeError(f"filter {name}: not_scored without drop means nothing")
    options = rule.get("options") or {}
    if not isinstance(options, dict) or not all(isinstance(key, str) for key in options):
        raise RecipeError(f"filter {name}: options must be a mapping")
    place = rule.get("class")
    if place is not None and not isinstance(place, str):
        raise RecipeError(f"filter {name}: class must be module:Class")
    return FilterRule(name, place, options, _names(rule, "after", name), _names(rule, "needs", name), drop, not_scored)


def _names(rule: Mapping[str, Any], key: str, name: str) -> tuple[str, ...]:
    found = rule.get(key) or []
    if not isinstance(found, list) or not all(isinstance(other, str) for other in found):
        raise RecipeError(f"filter {name}: {key} must be a list of names")
    return tuple(found)


def _keys(content: object, allowed: set[str], what: str, required: set[str] | None = None) -> None:
    if not isinstance(content, dict):
        raise RecipeError(f"{what} must be a mapping with {', '.join(sorted(allowed))}")
    unknown = sorted(str(key) for key in content if key not in allowed)
    missing = sorted((required or set()) - set(content))
    if unknown:
        raise RecipeError(f"{what}: unknown {', '.join(unknown)}; allowed are {', '.join(sorted(allowed))}")
    if missing:
        raise RecipeError(f"{what}: {', '.join(missing)} missing")


def _resolve(rules: Mapping[str, FilterRule], left_out: Mapping[str, str], where: str) -> tuple[Step, ...]:
    try:
        entries = {name: entry(name, rule.place) for name, rule in rules.items()}
        classes = {name: load_class(name, entries[name].place) for name in rules}
    except UnknownFilter as error:
        raise RecipeError(f"{where}: {error}") from error
    steps: dict[str, Step] = {}
    for name in _order(rules, entries, classes, left_out, where):
        rule, found = rules[name], classes[name]
        after = tuple(other for other in rule.after if other in rules)
        known = {other: frozenset(step.scores) for other, step in steps.items()}
        known[name] = frozenset(found.scores)
        try:
            drop = parse(rule.drop, name, known) if rule.drop is not None else None
        except ExpressionError as error:
            raise RecipeError(f"{where}: {error}") from error
        identity = _identity(rule, entries[name], found, [steps[other].identity for other in after], where)
        steps[name] = Step(
            name, entries[name].place, entries[name].alone, found.needs_pictures, tuple(found.scores), rule.options,
            identity, after, drop, rule.not_scored or KEEP,
        )  # fmt: skip
    return tuple(steps.values())


def _order(
    rules: Mapping[str, FilterRule],
    entries: Mapping[str, Entry],
    classes: Mapping[str, type[Filter]],
    left_out: Mapping[str, str],
    where: str,
) -> list[str]:
    """Cheap filters first, those of the main process last, each after those whose scores it sees."""
    waiting = sorted(rules, key=lambda name: (entries[name].alone, classes[name].cost, name))
    placed: list[str] = []
    for name, rule in rules.items():
        for other in rule.after:
            if other not in rules and other not in left_out:
                raise RecipeError(f"{where}: {name} runs after {other}, which is no filter of this source")
            if other in rules and entries[other].alone and not entries[name].alone:
                raise RecipeError(f"{where}: {name} cannot run after {other}, which runs last")
    while waiting:
        ready = (name for name in waiting if all(o in placed for o in rules[name].after if o in rules))
        first = next(ready, None)
        if first is None:
            raise RecipeError(f"{where}: {', '.join(sorted(waiting))} wait for each other (see after)")
        waiting.remove(first)
        placed.append(first)
    return placed


def _identity(rule: FilterRule, place: Entry, found: type[Filter], after: Sequence[str], where: str) -> str:
    options: dict[str, Any] = {}
    for name, value in rule.options.items():
        if name in place.files and value is not None:
            try:
                options[name] = _content(Path(str(value)))
            except OSError as error:
                raise RecipeError(f"{where}: {rule.name}.{name}: {value}: {error.strerror}") from error
        elif name in place.switches:
            options[name] = value is not None
        elif name not in place.passing:
            options[name] = value
    try:
        return _digest([rule.name, place.place, found.version, list(found.scores), options, list(after)])
    except TypeError as error:
        raise RecipeError(f"{where}: {rule.name}: options must be texts, numbers and lists ({error})") from error


def _content(path: Path) -> str:
    """Digest of a file, or of a folder's files and their names."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return _digest([(file.relative_to(path).as_posix(), file_sha256(file).hex()) for file in files])
    return file_sha256(path).hex()


def _digest(value: object) -> str:
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()
