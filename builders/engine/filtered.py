"""Filters after a build: the recipe that a source names runs over its training samples, shards stay as they are.

    DATA/scores/<build>/      what the filters found
    DATA/filtered/<build>/    recipe.json, selection.parquet, waterfall.json, gallery.html

The recipe (name, version, digest, thresholds, each filter's identity) stands in `recipe.json` there, and not in
`build.json`: that file's root covers all it says, so a moved threshold would make a new build of unchanged shards, and
scores, evidence and certificate would have to be made again. `build.json` says beside its root that a selection is
wanted (`filter_wanted`): a reader that finds the build refuses it until there is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from builders.engine.loop import BuildOptions
from builders.engine.source import BuildStopped, Params, Source
from filters.gallery import paper_line, waterfall_lines
from filters.recipe import FilterPlan, Recipe, load_recipe
from filters.scores import run_build
from filters.selection import decide_build
from manifests import selections
from manifests.catalog import LoadedBuild, load_builds
from medgpt.atomic import write_atomic
from medgpt.errors import UserError
from medgpt.private import make_folder
from medgpt.tables import table

NONE = "none"
ROLE = "train"
"""Only training samples are chosen among: a benchmark is scored as its publisher ships it."""


@dataclass(frozen=True)
class Filtering:
    """The filters that are to run over a source's build."""

    recipe: Recipe
    plan: FilterPlan
    settings: Mapping[str, Mapping[str, Any]]

    def describe(self) -> dict[str, Any]:
        """The content of `recipe.json`: all that decides which samples stay, given the shards."""
        return {
            "recipe": {"name": self.recipe.name, "version": self.recipe.version, "sha256": self.recipe.sha256},
            "role": ROLE,
            "unreadable": self.plan.unreadable,
            "filters": [
                {
                    "name": step.name,
                    "identity": step.identity,
                    "drop": step.drop.text if step.drop else None,
                    "not_scored": step.not_scored if step.drop else None,
                }
                for step in self.plan.steps
            ],
            "left_out": dict(self.plan.left_out),
        }

    def lines(self) -> list[str]:
        """What will run, for a dry run."""
        lines = [f"filters of {self.recipe.name} {self.recipe.version} ({self.recipe.sha256[:16]}), in this order:"]
        for step in self.plan.steps:
            lines.append(f"  {step.name}: {f'drop if {step.drop.text}' if step.drop else 'scores only'}")
        lines += [f"  {name} left out ({why})" for name, why in self.plan.left_out.items()]
        return lines


def choose(source: Source, asked: str | None, raw: Path, params: Params) -> Filtering | None:
    """The filters for a source: its own recipe, or the file `asked` for; None for `none` and metadata-only builds.

    Every filter is made once, so that a missing extra is found before hours of building. Raises: `UserError`.
    """
    if not source.filters or asked == NONE or params["no_images"]:
        return None
    try:
        recipe = load_recipe(asked or source.filters)
        settings: dict[str, dict[str, Any]] = {}
        rules = recipe.rules(source.name)
        named = set(rules.filters) if rules else set()
        for place, file in source.filter_files.items():
            name, _, option = place.partition(".")
            if name in named and (raw / file).is_file():
                settings.setdefault(name, {})[option] = str(raw / file)
        plan = recipe.plan(source.name, settings)
        if plan is None:
            raise UserError(f"{asked}: the recipe has no rules for {source.name}; add them, or --filters none")
        for step in plan.steps:
            step.make()
    except UserError as error:
        raise UserError(f"{error}; or build with --filters none") from error
    return Filtering(recipe, plan, settings)


def _ask(source: Source, target: Path, filtering: Filtering | None) -> None:
    """Write `recipe.json`; where it said something else, what was selected by that goes.

    Without filters, only what a builder selected is taken away: a selection made by hand (`filters.decide`) stays.
    """
    folder = selections.selection_folder(selections.data_folder(target.parent), target.name)
    request = folder / selections.REQUEST_FILE
    before = request.read_bytes() if request.is_file() else None
    wanted = None
    if filtering is not None:
        wanted = orjson.dumps(filtering.describe(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    if not source.filters or before == wanted:
        return
    make_folder(folder)
    # In this order a reader finds the selection unfinished wherever this is killed, and never a build without one.
    (folder / selections.WATERFALL_FILE).unlink(missing_ok=True)
    if wanted is not None:
        write_atomic(request, wanted)
    _clear(folder, keep=wanted is not None)


def _clear(folder: Path, keep: bool = False) -> None:
    """Take away what was decided of a build; `recipe.json` last, or not at all."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.name == selections.REQUEST_FILE, path.name)):
        if path.name != selections.REQUEST_FILE or not keep:
            path.unlink()
    if not keep:
        folder.rmdir()


def filter_build(
    source: Source, target: Path, filtering: Filtering | None, options: BuildOptions
) -> dict[str, Any] | None:
    """After a build: score, decide, write the waterfall and the page; the waterfall. None where no filter ran.

    What is there and right is not done again; a run that was killed goes on where it was. A selection that
    `filters.decide` made since by another recipe stays. Raises: `BuildStopped`.
    """
    data = selections.data_folder(target.parent)
    _ask(source, target, filtering)
    if filtering is None:
        return None
    try:
        [loaded] = load_builds(target)
        folder = selections.selection_folder(data, loaded.record["build"])
        if not any(unit["role"] == ROLE and unit["kept"] for unit in loaded.record["units"]):
            _clear(folder)
            return None
        if not _selected(data, loaded):
            run_build(
                target, data, filtering.recipe, options.workers, options.progress, role=ROLE, options=filtering.settings
            )
            decide_build(target, data, filtering.recipe, role=ROLE)
        waterfall: dict[str, Any] = orjson.loads((folder / selections.WATERFALL_FILE).read_bytes())
    except (UserError, OSError) as error:
        raise BuildStopped(f"built, but not filtered: {error} (or build with --filters none)") from error
    return waterfall


def _selected(data: Path, loaded: LoadedBuild) -> bool:
    try:
        return selections.dropped_samples(data, loaded) is not None
    except selections.SelectionFileError:
        return False  # of an earlier build, or unfinished


def waterfall_text(waterfall: Mapping[str, Any], target: Path) -> str:
    """The waterfall of a build as a table, and where its page is."""
    folder = selections.selection_folder(selections.data_folder(target.parent), waterfall["build"])
    recipe = waterfall["recipe"]
    stay = f"{waterfall['kept']:,} of {waterfall['read']:,} training samples stay"
    lines = [
        f"filters of {recipe['name']} {recipe['version']}: {stay}",
        table(("step", "left", ""), waterfall_lines(waterfall)),
    ]
    lines += [said] if (said := paper_line(waterfall)) else []
    lines += [f"{name} took no part ({why})" for name, why in waterfall["left_out"].items()]
    lines += [f"{name} only reports ({why})" for name, why in waterfall.get("only_report", {}).items()]
    page, data = folder / selections.GALLERY_FILE, folder.parents[1]
    lines.append(f"page {page}; why one went: python -m filters.decide {data} --explain ID")
    return "\n".join(lines)


def unfiltered_text(target: Path) -> str:
    """What a build says of which no sample was chosen."""
    folder = selections.selection_folder(selections.data_folder(target.parent), target.name)
    if (folder / selections.WATERFALL_FILE).is_file():
        return f"no filter ran; {folder}, made by filters.decide, stays: readers leave out what it drops"
    return "no filter ran: all training samples stay"
