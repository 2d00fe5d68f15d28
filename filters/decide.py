"""Apply a recipe's thresholds to scored builds: who is kept, why not, and a page to look at. Decodes nothing."""

import json
from collections.abc import Sequence
from pathlib import Path

from medgpt.arguments import command_parser
from medgpt.errors import DONE, run


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 if scores are missing or out of date, 2 for a wrong recipe or usage."""
    parser = command_parser(
        "filters.decide",
        "Apply a recipe's thresholds to the scores under DATA/scores; writes selection.parquet, waterfall.json and "
        "gallery.html to DATA/filtered/<build>, and quarantine.parquet with boxes of burned-in text where the recipe "
        "asks for it. Exit code: 0, 1 if scores are missing or out of date, 2 for a wrong recipe or usage.",
        "examples:\n  python -m filters.decide data\n  python -m filters.decide data --recipe medgpt_oss --json\n"
        "  python -m filters.decide data --explain pmc_oa/train/1",
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds and scores")
    add("--recipe", metavar="FILE", help="or a name: medgpt_oss (default), paper, strict, radiographs")
    add("--explain", metavar="ID", help="print every score of a sample, its threshold and the verdict")
    add("--no-gallery", action="store_true", help="write no page")
    add("--show-credentialed", action="store_true", help="show pictures and texts of credentialed sources in the page")
    add("--json", action="store_true", help="print the waterfalls as JSON")
    options = parser.parse_args(arguments)

    from filters.gallery import paper_line, waterfall_lines
    from filters.recipe import DEFAULT_RECIPE, load_recipe
    from filters.selection import decide, explain
    from medgpt.tables import table

    recipe = load_recipe(options.recipe or DEFAULT_RECIPE)
    if options.explain is not None:
        print(explain(options.data, recipe, options.explain))
        return DONE
    decisions, unfiltered = decide(
        options.data, recipe, gallery=not options.no_gallery, show_credentialed=options.show_credentialed
    )
    if options.json:
        print(json.dumps([decision.waterfall for decision in decisions], indent=2))
        return DONE
    for decision in decisions:
        print(f"\n{decision.folder}")
        print(table(("step", "left", ""), waterfall_lines(decision.waterfall)))
        if said := paper_line(decision.waterfall):
            print(said)
        for name, why in decision.waterfall["left_out"].items():
            print(f"{name} left out ({why})")
        for name, why in decision.waterfall["only_report"].items():
            print(f"{name} only reports ({why})")
        for one in decision.waterfall["second_opinions"]:
            print(
                f"{one['filter']} and {one['rule']}: both drop {one['both']:,}, only {one['filter']} "
                f"{one['only_filter']:,}, only {one['rule']} {one['only_rule']:,}, neither {one['neither']:,}"
            )
        if quarantine := decision.waterfall.get("quarantine"):
            print(
                f"burned-in text: {quarantine['boxes']:,} boxes on {quarantine['pictures']:,} pictures, listed in "
                f"{decision.folder / quarantine['file']}"
            )
    if unfiltered:
        print(f"not filtered: {', '.join(unfiltered)}")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
