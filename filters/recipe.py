"""Recipes: which filters look at which source, with which options, and which scores take a sample out.

A recipe is a YAML file; `filters/recipes/medgpt_oss.yaml` is the default and explains every key. `load_recipe` reads
one, `Recipe.plan` resolves it for a source: filters in the order in which they run, predicates parsed against the
scores that the filters really have. A key, filter, score or word that is not known is an error: a misspelt threshold
would quietly let everything through.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from filters.base import Filter, Score, filter_class
from filters.expressions import Predicate, parse
from medgpt.digest import json_sha256
from medgpt.errors import UserError, os_error_line
from medgpt.settings import Settings, checked, find, parse_yaml, read_settings

RECIPES = Path(__file__).parent / "recipes"
DEFAULT_RECIPE = RECIPES / "medgpt_oss.yaml"
FORMAT = 1
KEEP, DROP = "keep", "drop"
Outcome = Literal["keep", "drop"]

Options = Mapping[str, Mapping[str, Any]]
"""Options given from outside the recipe, by filter: weights, label tables, an endpoint."""


class FilterRule(Settings, frozen=True, kw_only=True, rename={"place": "class"}):
    """One filter as a recipe asks for it, not yet checked against the filter itself."""

    place: str | None = None
    """`module:Class` of a filter that is not in the module of its name."""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    after: tuple[str, ...] = ()
    """Filters that must run before it, and whose scores it sees."""
    needs: tuple[str, ...] = ()
    """Options without which it is left out: weights or tables that not everybody has."""
    drop: str | None = None
    not_scored: Outcome | None = None
    """What becomes of a sample whose predicate stays open for want of a score."""

    def __post_init__(self) -> None:
        if self.drop is not None and self.not_scored is None:
            raise ValueError("not_scored must be keep or drop: what becomes of samples that have no score?")
        if self.drop is None and self.not_scored is not None:
            raise ValueError("not_scored without drop means nothing")

    @property
    def asked(self) -> str:
        """Digest of all but the thresholds: scores made for it serve every recipe that asks the same."""
        return json_sha256([self.place, self.options, self.after, self.needs])


class SourceRules(Settings, frozen=True, kw_only=True):
    """What a recipe says of a source: what becomes of unreadable samples, and its filters."""

    unreadable: Outcome | None = None
    filters: dict[str, Any] = msgspec.field(default_factory=dict)
    """By name; from `load_recipe` on, each is a `FilterRule`."""


class _RecipeFile(Settings, frozen=True, kw_only=True):
    format: int
    name: str
    version: int
    sources: dict[str, Any]
    default: SourceRules | None = None

    def __post_init__(self) -> None:
        if self.format != FORMAT:
            raise ValueError(f"format {self.format}, where {FORMAT} is read")
        if not self.sources:
            raise ValueError("sources must name at least one source (or '*' for all)")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A filter with a recipe's threshold: what scoring and deciding both know of it."""

    name: str
    needs_pictures: bool
    scores: tuple[str, ...]
    drop: Predicate | None
    not_scored: str

    @property
    def columns(self) -> tuple[str, ...]:
        """Its score columns, `<filter>.<score>`."""
        return tuple(f"{self.name}.{score}" for score in self.scores)

    def drops(self, values: Mapping[str, Score]) -> bool:
        """Whether it takes a sample out, by the scores of all filters so far. Raises: `UserError` for a mismatch."""
        verdict = self.drop.evaluate(values) if self.drop else False
        return self.not_scored == DROP if verdict is None else verdict


def picture_stage(stages: Sequence[Stage]) -> int:
    """Number of the first stage that looks at pictures: before it a picture is found readable or not."""
    return next((number for number, stage in enumerate(stages) if stage.needs_pictures), len(stages))


@dataclass(frozen=True, kw_only=True)
class FilterStep(Stage):
    """A stage that can be run: its filter, resolved. Picklable."""

    place: str
    in_main_process: bool
    options: Mapping[str, Any]
    identity: str
    """Digest of all that decides its scores of a sample: name, version, options, and those of the filters it sees."""
    after: tuple[str, ...]
    not_judged: frozenset[str]
    """As `Filter.not_judged`."""
    gate: Mapping[str, str | None] | None
    """Of a `gated` filter: drop and not_scored as they were checked; only_reports says why they do not hold."""

    def make(self) -> Filter:
        """The filter itself. Raises: `UserError` for options that it does not take, `FilterError` of the filter."""
        try:
            return filter_class(self.name, self.place)(**self.options)
        except TypeError as error:
            raise UserError(f"filter {self.name}: options {sorted(self.options)} do not fit ({error})") from error


@dataclass(frozen=True)
class FilterPlan:
    """What happens to the samples of one source, in order."""

    source: str
    steps: tuple[FilterStep, ...]
    unreadable: str
    left_out: Mapping[str, str]
    """Filters that do not run -> why."""
    asked: Mapping[str, str]
    """Filter -> digest of what the recipe asks of it, thresholds left out (`FilterRule.asked`)."""

    @property
    def identity(self) -> str:
        """Digest of which filters there are, in which order; thresholds are no part of it."""
        return json_sha256([step.identity for step in self.steps])

    @property
    def exits(self) -> str:
        """Digest of all that early exit depends on."""
        return json_sha256([[step.drop.text if step.drop else None, step.not_scored] for step in self.steps])


@dataclass(frozen=True)
class Recipe:
    """A recipe file."""

    name: str
    version: int
    sha256: str
    sources: Mapping[str, SourceRules]
    """By source, or `*` for all others."""

    def rules(self, source: str) -> SourceRules | None:
        """What the recipe says of a source; None if it does not filter the source."""
        return self.sources.get(source, self.sources.get("*"))

    def plan(self, source: str, options: Options | None = None) -> FilterPlan | None:
        """Resolve the recipe for a source; None if it does not filter the source.

        Imports the filters' classes, makes none of them. Raises: `UserError`.
        """
        found = self.rules(source)
        if found is None:
            return None
        assert found.unreadable is not None  # `load_recipe` sees to it
        wanted, left_out = dict[str, FilterRule](), dict[str, str]()
        for name, rule in found.filters.items():
            given = {**rule.options, **(options or {}).get(name, {})}
            if missing := [need for need in rule.needs if given.get(need) is None]:
                left_out[name] = f"not given: {', '.join(missing)}"
            else:
                wanted[name] = msgspec.structs.replace(rule, options=given)
        steps = _resolve(wanted, left_out, f"{self.name}, {source}")
        asked = {name: rule.asked for name, rule in found.filters.items()}
        return FilterPlan(source, steps, found.unreadable, left_out, asked)


def load_recipe(recipe: Path | str = DEFAULT_RECIPE) -> Recipe:
    """Read a recipe: a file, or the name of one in `filters/recipes`. Raises: `SettingsError`, `UserError`."""
    path = find(recipe, RECIPES, "recipe")
    data = read_settings(path)
    content = checked(_RecipeFile, parse_yaml(data, str(path)), str(path))
    base = content.default or SourceRules()
    sources = {source: _source(f"{path}: source {source}", base, own) for source, own in content.sources.items()}
    return Recipe(content.name, content.version, hashlib.sha256(data).hexdigest(), sources)


def _source(place: str, base: SourceRules, content: object) -> SourceRules:
    own = checked(SourceRules, {} if content is None else content, place)
    unreadable = own.unreadable or base.unreadable
    if unreadable is None:
        raise UserError(f"{place}: unreadable must be keep or drop")
    filters = {
        name: checked(FilterRule, {} if rule is None else rule, f"{place}, filter {name}")
        for name, rule in (base.filters | own.filters).items()
        if rule is not False
    }
    if not filters:
        raise UserError(f"{place}: no filter is left; leave the source out instead")
    return SourceRules(unreadable=unreadable, filters=filters)


def _resolve(rules: Mapping[str, FilterRule], left_out: Mapping[str, str], where: str) -> tuple[FilterStep, ...]:
    steps: dict[str, FilterStep] = {}
    try:
        classes = {name: filter_class(name, rule.place) for name, rule in rules.items()}
        for name in _order(rules, classes, left_out):
            rule, found = rules[name], classes[name]
            after = tuple(other for other in rule.after if other in rules)
            known = {other: frozenset(step.scores) for other, step in steps.items()}
            known[name] = frozenset(found.scores)
            drop, not_scored = parse(rule.drop, name, known) if rule.drop is not None else None, rule.not_scored or KEEP
            reports = found.only_reports(rule.options, drop, not_scored) if drop else None
            gate = {"drop": rule.drop, "not_scored": rule.not_scored, "only_reports": reports}
            steps[name] = FilterStep(
                name=name,
                needs_pictures=found.needs_pictures,
                scores=tuple(found.scores),
                drop=None if reports else drop,
                not_scored=KEEP if reports else not_scored,
                place=f"{found.__module__}:{found.__qualname__}",
                in_main_process=found.in_main_process,
                options=rule.options,
                identity=_identity(name, rule, found, [steps[other].identity for other in after]),
                after=after,
                not_judged=found.not_judged,
                gate=gate if found.gated else None,
            )
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    return tuple(steps.values())


def _order(
    rules: Mapping[str, FilterRule], classes: Mapping[str, type[Filter]], left_out: Mapping[str, str]
) -> list[str]:
    """Cheap filters first, those of the main process last, each after those whose scores it sees."""
    waiting = sorted(rules, key=lambda name: (classes[name].in_main_process, classes[name].cost, name))
    ordered: list[str] = []
    for name, rule in rules.items():
        for other in rule.after:
            if other not in rules and other not in left_out:
                raise UserError(f"{name} runs after {other}, which is no filter of this source")
            if other in rules and classes[other].in_main_process and not classes[name].in_main_process:
                raise UserError(f"{name} cannot run after {other}, which runs last")
    while waiting:
        ready = (name for name in waiting if all(o in ordered for o in rules[name].after if o in rules))
        first = next(ready, None)
        if first is None:
            raise UserError(f"{', '.join(sorted(waiting))} wait for each other (see after)")
        waiting.remove(first)
        ordered.append(first)
    return ordered


def _identity(name: str, rule: FilterRule, found: type[Filter], after: Sequence[str]) -> str:
    try:
        options = found.identity_options(rule.options)
        return json_sha256([name, rule.place, found.version, list(found.scores), options, after])
    except OSError as error:
        raise UserError(f"filter {name}: {os_error_line(error)}") from error
    except TypeError as error:
        raise UserError(f"filter {name}: options must be texts, numbers and lists ({error})") from error
