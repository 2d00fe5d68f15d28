"""Which filters there are: name -> where its class is. A filter's module is imported when a recipe uses it.

A recipe may also name a class of its own (`class: "my_filters:TooDark"`), which must be importable and needs no entry.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medgpt.errors import UserError

if TYPE_CHECKING:
    from filters.base import Filter


@dataclass(frozen=True)
class Entry:
    """Where a filter is and how it is run."""

    place: str
    """`module:Class`."""
    alone: bool = False
    """It does its own concurrency: run once in the main process over whole units, after all others."""
    files: tuple[str, ...] = ()
    """Options that are local files: their content, not their path, decides whether scores are up to date."""
    passing: tuple[str, ...] = ()
    """Options that cannot change a score, such as addresses and prices."""
    switches: tuple[str, ...] = ()
    """Of these, the ones that change scores by being given at all: without an endpoint only rules judge."""


FILTERS: Mapping[str, Entry] = {
    "burned_in": Entry("filters.burned_in:BurnedIn"),
    "compound": Entry("filters.compound:Compound"),
    "drawn_marks": Entry("filters.drawn_marks:DrawnMarks"),
    "language_model": Entry(
        "filters.llm:LanguageModel",
        alone=True,
        passing=(
            "endpoint", "verdicts", "allowed_hosts", "key_variable", "price_in", "price_out", "progress", "concurrency",
            "timeout_s", "tries", "longest_wait_s",
        ),
        switches=("endpoint",),
    ),
    "misleading_numbers": Entry("filters.numbers:MisleadingNumbers"),
    "narrator": Entry("filters.narrator:Narrator"),
    "overlaid_text": Entry("filters.overlaid_text:OverlaidText"),
    "panel_type": Entry("filters.source_labels:PanelType"),
    "quilt_cleaner": Entry("filters.source_labels:QuiltCleaner", files=("table",)),
    "relevance_rules": Entry("filters.relevance:RelevanceRules"),
    "screens": Entry("filters.screens:Screens"),
    "semantic_duplicates": Entry("filters.duplicate_table:SemanticDuplicates", files=("table",)),
    "zero_shot": Entry("filters.zero_shot:ZeroShot", alone=True, files=("weights",), passing=("device",)),
}  # fmt: skip


class UnknownFilter(UserError):
    """One line: a filter or its class is not there."""


def entry(name: str, place: str | None = None) -> Entry:
    """The registry's entry, or one for a class that a recipe names. Raises: `UnknownFilter`."""
    if place is not None:
        return Entry(place)
    if name not in FILTERS:
        raise UnknownFilter(
            f"no filter is called {name!r}; there are: {', '.join(FILTERS)} (or give class: module:Class)"
        )
    return FILTERS[name]


def load_class(name: str, place: str) -> type[Filter]:
    """Import a filter's class and check that it is one of that name. Raises: `UnknownFilter`."""
    from filters.base import Filter

    module, _, attribute = place.partition(":")
    if not module or not attribute.isidentifier():
        raise UnknownFilter(f"filter {name}: {place!r} is not module:Class")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise UnknownFilter(f"filter {name}: {module} cannot be imported ({error}); is it on the path?") from error
    except AttributeError:
        raise UnknownFilter(f"filter {name}: {module} has no {attribute}") from None
    if not isinstance(found, type) or not issubclass(found, Filter):
        raise UnknownFilter(f"filter {name}: {place} is no subclass of filters.base.Filter")
    missing = [field for field in ("name", "version", "scores", "cost") if not hasattr(found, field)]
    if missing:
        raise UnknownFilter(f"filter {name}: {place} has no {', '.join(missing)}")
    if found.name != name:
        raise UnknownFilter(f"filter {name}: {place} calls itself {found.name!r}; the recipe must use that name")
    return found
