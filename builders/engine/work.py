"""A build from its options to its selection: plan, filters chosen, units, filters run. What every command does."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.engine.filtered import NONE, Filtering, choose, filter_build
from builders.engine.loop import Building, BuildOptions, Plan, begun, build_units, make_plan, run
from builders.engine.source import NotThisSource, Source
from builders.engine.stored import Output, scratch_folder
from medgpt.arguments import url_of
from medgpt.errors import UserError
from medgpt.private import keep_private
from medgpt.stores import Store


def options_of(
    args: argparse.Namespace, raw: Path, out: Path, given: dict[str, Any], *, progress: bool
) -> BuildOptions:
    """The options of a build from the arguments that `command.add_options` adds; `given` are the source's own.

    Raises: `UserError` where `out` is a URL that nothing can be built to.
    """
    params = given | {
        "no_images": args.no_images,
        "split": sorted(args.split) if getattr(args, "split", None) else None,
        "licenses": sorted(args.licenses) if args.licenses else None,
        "frames": args.frames,
    }
    output = None
    if url := url_of(out):
        output = Output(Store(url), tuple(args.allow_host))
        output.store.require_writable()
        if args.engine == "slurm" and args.scratch is None:
            raise NotThisSource(f"--engine slurm with --out {url}: give --scratch, a folder that all nodes see")
        out = scratch_folder(args.scratch, url)
    return BuildOptions(
        raw,
        out,
        params,
        args.workers,
        args.limit,
        args.shard_bytes,
        args.max_damaged,
        progress,
        args.expect or "",
        output,
    )


Made = tuple[dict[str, Any], dict[str, Any] | None]
"""What `build.json` says of a build, and the waterfall of its filters; None where no filter ran."""


@dataclass(frozen=True)
class Work:
    """A build that is planned, and by what it will be filtered."""

    source: Source
    options: BuildOptions
    plan: Plan
    filtering: Filtering | None

    def carry_out(self) -> Made:
        """Build, then filter. Raises `BuildStopped`."""
        return self._filtered(run(self.source, self.options, self.plan, self.filtering is not None))

    def _filtered(self, document: dict[str, Any]) -> Made:
        return document, filter_build(self.source, self.plan.target, self.filtering, self.options)


def carry_out_all(works: Sequence[Work], workers: int, bar: Any) -> Iterator[tuple[Work, Made | UserError | OSError]]:
    """Carry out several plans, the units of all as one list of jobs; each with what it made, or what stopped it.

    Builds are finished, then filtered, one by one when all units are done.
    """
    stopped: dict[str, UserError | OSError] = {}
    buildings: dict[str, Building] = {}
    with ExitStack() as locks:
        for work in works:
            try:
                one = locks.enter_context(begun(work.source, work.options, work.plan, work.filtering is not None))
                buildings[work.plan.build] = one
            except (UserError, OSError) as error:
                stopped[work.plan.build] = error
        stopped |= build_units(list(buildings.values()), workers, bar)
        for work in works:
            name = work.plan.build
            try:
                if name in stopped:
                    raise stopped[name]
                yield work, work._filtered(buildings[name].finish())
            except (UserError, OSError) as error:
                yield work, error


def prepare(source: Source, options: BuildOptions, recipe: str | None, *, demo: bool = False) -> Work:
    """Plan a build of a tree, with `demo` of the demo tree that is written first. Raises `UserError`."""
    keep_private(source.access)
    if options.output and source.filters and recipe != NONE and not options.params["no_images"]:
        raise NotThisSource(
            f"{source.name}: filters read shards from a disk: give --filters none, and filter a copy of the build"
        )
    if demo:
        source.write_demo(options.raw)
    return Work(source, options, make_plan(source, options), choose(source, recipe, options.raw, options.params))
