"""`python -m builders.all`: build every source whose raw tree is there, with one progress bar and one summary."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from builders.cli import EXIT_DAMAGED, EXIT_FAILED, FILTERS_HELP, table
from builders.registry import NAMES, load


def main(arguments: list[str] | None = None) -> int:
    """Build all that is there; exit code 1 if a build failed, 3 if rows were damaged, 2 if there is nothing."""
    parser = argparse.ArgumentParser(
        prog="python -m builders.all",
        description="Build every source found under --raw (one folder a source, named as in `python -m builders`).",
        epilog="example: python -m builders.all --raw /data/raw --out data/built --workers 16",
    )
    add = parser.add_argument
    add("--raw", type=Path, default=Path("data/raw"), metavar="DIR", help="folder of raw trees (default data/raw)")
    add("--out", type=Path, default=Path("data/built"), metavar="DIR", help="root of the builds (default data/built)")
    add("--only", nargs="+", choices=NAMES, metavar="SOURCE", help="only these sources")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add("--limit", type=int, metavar="N", help="trial builds: only the first N rows of each split")
    add("--no-images", action="store_true", help="metadata only, see a builder's --help")
    add("--licenses", nargs="+", metavar="NAME", help="keep only samples under these licences")
    add("--filters", metavar="RECIPE", help=f"{FILTERS_HELP.format(recipe='of each source its own')}")
    add("--demo", action="store_true", help="write every source's demo tree under --raw first")
    add("--dry-run", action="store_true", help="show what would be built, write nothing")
    add("--json", action="store_true", help="print the summary as JSON, no progress bar")
    args = parser.parse_args(arguments)
    names = [name for name in args.only or NAMES if args.demo or (args.raw / name).is_dir()]
    if not names:
        parser.error(f"{args.raw}: no folder named after a source; `python -m builders` lists the names")

    from tqdm import tqdm

    from builders.build import BuildOptions, BuildStopped, make_plan, run
    from builders.filtered import NotFiltered, begin, choose, finish
    from builders.source import NotThisSource
    from manifests.private import keep_private

    rows: list[dict[str, Any]] = []
    planned = []
    for name in names:  # before the first file: whose a file is must not depend on the order of the sources
        keep_private(load(name).access)
    for name in names:
        source = load(name)
        params = {option.name: option.default for option in source.options} | {
            "no_images": args.no_images,
            "split": None,
            "licenses": sorted(args.licenses) if args.licenses else None,
        }
        options = BuildOptions(args.raw / name, args.out, params, args.workers, args.limit)
        try:
            if args.demo:
                source.write_demo(options.raw)
            plan, filtering = make_plan(source, options), choose(source, args.filters, options.raw, params)
            planned.append((source, options, plan, filtering))
        except (NotThisSource, NotFiltered) as error:
            rows.append({"source": name, "state": "not built", "note": str(error)})
    if args.dry_run:
        for source, _, plan, filtering in planned:
            recipe = f"; filters of {filtering.recipe.name} {filtering.recipe.version}" if filtering else ""
            rows.append(
                {"source": source.name, "state": "planned", "read": plan.rows, "note": f"{plan.target}{recipe}"}
            )
        return _print(rows, args.json, 0)
    with tqdm(
        total=sum(plan.rows for _, _, plan, _ in planned), unit="row", disable=args.json or None, smoothing=0.05
    ) as bar:
        for source, options, plan, filtering in planned:
            bar.set_description(plan.build)
            try:
                begin(source, plan.target, filtering)
                counts = run(source, options, plan, bar)["counts"]
                waterfall = finish(source, plan.target, filtering, args.workers, not args.json)
            except (BuildStopped, NotFiltered) as error:
                rows.append({"source": source.name, "state": "stopped", "note": str(error)})
                continue
            state = "damaged rows" if counts["damaged"] else "built"
            numbers = {key: counts[key] for key in ("read", "kept", "rejected", "damaged")}
            if waterfall:
                numbers["filtered"] = waterfall["dropped"]
            rows.append({"source": source.name, "state": state, **numbers, "note": str(plan.target)})
    states = {row["state"] for row in rows}
    failed = states & {"stopped", "not built"}
    return _print(rows, args.json, EXIT_FAILED if failed else EXIT_DAMAGED if "damaged rows" in states else 0)


def _print(rows: list[dict[str, Any]], as_json: bool, code: int) -> int:
    if as_json:
        print(json.dumps(rows, ensure_ascii=False))
        return code
    heads = ("source", "state", "read", "kept", "rejected", "damaged", "filtered", "note")
    print(table(heads, [tuple(row.get(head, "-") for head in heads) for row in rows]))
    kept, read = (sum(row.get(key, 0) for row in rows) for key in ("kept", "read"))
    dropped = sum(row.get("filtered", 0) for row in rows)
    print(f"\n{len(rows)} sources, {read:,} rows read, {kept:,} kept, {dropped:,} of them taken out by filters")
    return code


if __name__ == "__main__":
    sys.exit(main())
