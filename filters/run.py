"""Score finished builds with a recipe's filters; `python -m filters.decide` then says which samples stay.

python -m filters.run data
python -m filters.run data --build quilt_1m --workers 8 --set quilt_cleaner.table=predictions_quiltcleaner.csv
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.messages import complain


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 if scoring stopped (run again to go on), 2 for a wrong recipe or usage."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.workers < 1:
        parser.error("--workers must be 1 or more")
    if bool(options.endpoint) != bool(options.model):
        parser.error("--endpoint and --model belong together")
    settings = _settings(parser, options)

    from filters.base import FilterError
    from filters.recipe import DEFAULT_RECIPE, RecipeError, load_recipe
    from filters.scores import ScoreError, run
    from manifests.catalog import CatalogError
    from shards.reader import BuildError

    try:
        results, alone = run(
            options.data,
            load_recipe(options.recipe or DEFAULT_RECIPE),
            options.build,
            options.workers,
            not options.quiet,
            role=options.role,
            settings=settings,
            all_scores=options.all_scores,
        )
    except (RecipeError, CatalogError) as error:
        complain(error)
        return 2
    except (ScoreError, FilterError, BuildError) as error:
        complain(error)
        return 1
    except KeyboardInterrupt:
        complain("stopped; run again to go on")
        return 1
    for result in results:
        rows = sum(part["rows"] for part in result.document["parts"])
        names = ", ".join(entry["name"] for entry in result.document["filters"])
        print(f"{result.document['build']}: {rows:,} samples, {result.scored:,} of them shown to a filter now; {names}")
        for name, why in result.document["left_out"].items():
            print(f"  {name} takes no part ({why}); give it with --set {name}.OPTION=VALUE")
    if alone:
        print(f"left alone: {', '.join(alone)}")
    if not results:
        complain("nothing was scored: no build here has samples of that role and rules in the recipe")
        return 2
    chosen = f" --recipe {options.recipe}" if options.recipe else ""
    print(f"next: python -m filters.decide {options.data}{chosen}")
    return 0


def _settings(parser: argparse.ArgumentParser, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    import yaml

    settings: dict[str, dict[str, Any]] = {}
    for text in options.set:
        place, equals, value = text.partition("=")
        name, dot, option = place.partition(".")
        if not (equals and dot and name and option):
            parser.error(f"--set {text}: write FILTER.OPTION=VALUE")
        try:
            settings.setdefault(name, {})[option] = yaml.safe_load(value)
        except yaml.YAMLError:
            parser.error(f"--set {text}: the value is no YAML; put texts with special signs in quotes")
    if options.endpoint:
        settings.setdefault("language_model", {}).update(
            endpoint=options.endpoint,
            model=options.model,
            verdicts=str(options.verdicts or options.data / "verdicts"),
            progress=not options.quiet,
        )
    return settings


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m filters.run",
        description="Score the samples of finished builds under DATA with a recipe's filters, into DATA/scores; "
        "what is there and right is not done again, and a run that was killed goes on where it was. "
        "Exit code: 0, 1 if scoring stopped, 2 for a wrong recipe or usage.",
        epilog="examples:\n"
        "  python -m filters.run data --workers 8\n"
        "  python -m filters.run data --build pmc_oa --recipe mine.yaml --all-scores\n"
        "  python -m filters.run data --endpoint http://127.0.0.1:8000/v1 --model my-model\n"
        "  python -m filters.run data --set quilt_cleaner.table=raw/quilt_1m/predictions_quiltcleaner.csv",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds")
    parser.add_argument(
        "--build", action="append", default=[], metavar="NAME", help="only this build (may be repeated); default: all "
        "that the recipe has rules for",
    )  # fmt: skip
    parser.add_argument("--recipe", type=Path, metavar="FILE", help="default: filters/recipes/medgpt_oss.yaml")
    parser.add_argument("--role", choices=("train", "eval"), default="train", help="which samples (default train)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    parser.add_argument("--all-scores", action="store_true", help="show every sample to every filter: no early exit")
    parser.add_argument("--endpoint", metavar="URL", help="OpenAI-compatible endpoint for the language_model filter")
    parser.add_argument("--model", metavar="NAME", help="model at the endpoint")
    parser.add_argument("--verdicts", type=Path, metavar="DIR", help="cache of its verdicts (default DATA/verdicts)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FILTER.OPTION=VALUE", help="option of a filter (may be repeated)"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser


if __name__ == "__main__":
    sys.exit(main())
