"""Score finished builds with a recipe's filters; `python -m filters.decide` then says which samples stay."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medgpt.arguments import command_parser
from medgpt.engines import add_engine, choose_engine
from medgpt.errors import DONE, NOT_COMPARED, UserError, run


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 if scoring stopped, 2 for a wrong recipe or usage, 4 if samples were not judged."""
    parser = command_parser(
        "filters.run",
        "Score the samples of finished builds under DATA with a recipe's filters, into DATA/scores; what is there and "
        "right is not done again, and a run that was killed goes on where it was. "
        "Exit code: 0, 1 if scoring stopped, 2 for a wrong recipe or usage, 4 if a model gave some samples no verdict.",
        "examples:\n"
        "  python -m filters.run data --workers 8\n"
        "  python -m filters.run data --build pmc_oa --recipe strict --all-scores\n"
        "  python -m filters.run data --endpoint http://127.0.0.1:8000/v1 --model my-model\n"
        "  python -m filters.run data --set quilt_cleaner.table=data/raw/quilt_1m/predictions_quiltcleaner.csv",
    )
    add, every = parser.add_argument, "all that the recipe has rules for"
    add("data", type=Path, metavar="DATA", help="folder of builds")
    add("--build", action="append", default=[], metavar="NAME", help=f"only this (may be repeated); default: {every}")
    add("--recipe", metavar="FILE", help="or a name: medgpt_oss (default), paper, strict, radiographs")
    add("--role", choices=("train", "eval"), default="train", help="which samples (default train)")
    add("--workers", type=int, default=1, metavar="N", help="processes (default 1)")
    add_engine(parser)
    add("--all-scores", action="store_true", help="show every sample to every filter: no early exit")
    add("--endpoint", metavar="URL", help="OpenAI-compatible endpoint for the language_model filter")
    add("--model", metavar="NAME", help="model at the endpoint")
    add("--verdicts", type=Path, metavar="DIR", help="cache of its verdicts (default DATA/verdicts)")
    add(
        "--set", action="append", default=[], metavar="FILTER.OPTION=VALUE", help="option of a filter (may be repeated)"
    )
    add("--json", action="store_true", help="print what was scored as JSON, no progress bar")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    choose_engine(options)
    if options.workers < 1:
        parser.error("--workers must be 1 or more")
    if bool(options.endpoint) != bool(options.model):
        parser.error("--endpoint and --model belong together")

    from filters import scores
    from filters.recipe import DEFAULT_RECIPE, load_recipe

    results, unfiltered = scores.run(
        options.data,
        load_recipe(options.recipe or DEFAULT_RECIPE),
        options.build,
        options.workers,
        not (options.quiet or options.json),
        role=options.role,
        options=filter_options(options),
        all_scores=options.all_scores,
    )
    code = NOT_COMPARED if any(result.not_judged for result in results) else DONE
    if options.json and results:
        found = [{**r.document, "scored": r.scored, "not_judged": dict(r.not_judged)} for r in results]
        print(json.dumps({"builds": found, "not_filtered": unfiltered}, ensure_ascii=False))
        return code
    for result in results:
        rows = sum(part["rows"] for part in result.document["parts"])
        names = ", ".join(entry["name"] for entry in result.document["filters"])
        print(f"{result.document['build']}: {rows:,} samples, {result.scored:,} of them shown to a filter now; {names}")
        for name, why in result.document["left_out"].items():
            print(f"  {name} left out ({why}); give it with --set {name}.OPTION=VALUE")
        for entry in result.document["filters"]:
            if entry["gate"] and (why := entry["gate"]["only_reports"]):
                print(f"  {entry['name']} only reports ({why})")
        for name, number in result.not_judged.items():
            print(f"  {name} came to no verdict on {number:,} samples; the same command asks again")
    if unfiltered:
        print(f"not filtered: {', '.join(unfiltered)}")
    if not results:
        raise UserError("nothing was scored: no build here has samples of that role and rules in the recipe")
    chosen = f" --recipe {options.recipe}" if options.recipe else ""
    print(f"next: python -m filters.decide {options.data}{chosen}")
    return code


def filter_options(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Options by filter, of a command with `--set`, `--endpoint`, `--model`. Raises: `SettingsError`."""
    from medgpt.settings import put

    found: dict[str, dict[str, Any]] = {}
    for setting in options.set:
        if setting.partition("=")[0].count(".") != 1:
            raise UserError(f"--set {setting}: write FILTER.OPTION=VALUE")
        put(found, setting)
    if options.endpoint:
        found.setdefault("language_model", {}).update(
            endpoint=options.endpoint,
            model=options.model,
            verdicts=str(options.verdicts or options.data / "verdicts"),
            progress=not (options.quiet or options.json),
        )
    return found


if __name__ == "__main__":
    raise SystemExit(main())
