"""A build from its options to its selection: plan, filters chosen, units, filters run. What every command does."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builders.engine.filtered import Filtering, choose, filter_build
from builders.engine.loop import BuildOptions, Plan, make_plan, run
from builders.engine.source import Source
from medgpt.private import keep_private


def options_of(
    args: argparse.Namespace, raw: Path, out: Path, given: dict[str, Any], *, progress: bool
) -> BuildOptions:
    """The options of a build from the arguments that `command.add_options` adds; `given` are the source's own."""
    params = given | {
        "no_images": args.no_images,
        "split": sorted(args.split) if getattr(args, "split", None) else None,
        "licenses": sorted(args.licenses) if args.licenses else None,
        "frames": args.frames,
    }
    return BuildOptions(
        raw, out, params, args.workers, args.limit, args.shard_bytes, args.max_damaged, progress, args.expect or ""
    )


@dataclass(frozen=True)
class Work:
    """A build that is planned, and by what it will be filtered."""

    source: Source
    options: BuildOptions
    plan: Plan
    filtering: Filtering | None

    def carry_out(self, bar: Any = None) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """Build, then filter: (what `build.json` says, the waterfall or None). Raises `BuildStopped`."""
        document = run(self.source, self.options, self.plan, bar, self.filtering is not None)
        return document, filter_build(self.source, self.plan.target, self.filtering, self.options)


def prepare(source: Source, options: BuildOptions, recipe: str | None, *, demo: bool = False) -> Work:
    """Plan a build of a tree, with `demo` of the demo tree that is written first. Raises `UserError`."""
    keep_private(source.access)
    if demo:
        source.write_demo(options.raw)
    return Work(source, options, make_plan(source, options), choose(source, recipe, options.raw, options.params))
