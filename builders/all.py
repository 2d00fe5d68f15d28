"""`python -m builders.all`: build every source whose raw tree is there: one list of jobs, one summary."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builders.engine.command import FILTERS_HELP, add_options, check_counts, check_expect
from builders.engine.registry import load, modules
from builders.engine.report import exit_code, gap_lines
from medgpt.arguments import command_parser
from medgpt.errors import DAMAGED, DONE, NOT_COMPARED, NOT_FINISHED, UserError, one_line, run, worst
from medgpt.tables import table


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Build all that is there; the worst code of the builds, 2 if there is nothing."""
    parser = command_parser(
        "builders.all",
        "Build every source found under --raw (one folder a source, named as in `python -m builders`).",
        "example: python -m builders.all --raw /data/raw --out data/built --workers 16",
        urls=("out",),
    )
    add = parser.add_argument
    add("--raw", type=Path, default=Path("data/raw"), metavar="DIR", help="folder of raw trees (default data/raw)")
    out = Path("data/built")
    add("--out", type=Path, default=out, metavar="DIR|URL", help=f"root of the builds (default {out})")
    add("--only", nargs="+", choices=list(modules()), metavar="SOURCE", help="only these sources")
    add_options(parser)
    add("--filters", metavar="RECIPE", help=f"{FILTERS_HELP.format(recipe='of each source its own')}")
    add("--demo", action="store_true", help="write every source's demo tree under --raw first")
    args = parser.parse_args(arguments)
    check_counts(parser, args)
    check_expect(parser, args, number=False)
    there = {name: load(name).has_demo if args.demo else (args.raw / name).is_dir() for name in args.only or modules()}
    names = [name for name, found in there.items() if found]
    if not names:
        parser.error(f"{args.raw}: no folder named after a source; `python -m builders` lists the names")

    from tqdm import tqdm

    from builders.engine.work import Work, carry_out_all, options_of, prepare
    from medgpt.private import keep_private

    rows: list[dict[str, Any]] = []
    works: list[Work] = []
    codes = []
    for name in names:  # before the first file: whose a file is must not depend on the order of the sources
        keep_private(load(name).access)
    if args.probe:
        return _probe(args, names)
    for name in names:
        source = load(name)
        given = {option.name: option.default for option in source.options if not option.prepare}
        options = options_of(args, args.raw / name, args.out, given, progress=not args.json)
        try:
            works.append(prepare(source, options, args.filters, demo=args.demo))
        except (UserError, OSError) as error:
            rows.append({"source": name, "state": "not built", "note": one_line(error)})
            codes.append(NOT_FINISHED)
    if args.dry_run:
        for work in works:
            note = work.plan.place
            if work.filtering:
                note += f"; filters of {work.filtering.recipe.name} {work.filtering.recipe.version}"
            rows.append({"source": work.source.name, "state": "planned", "read": work.plan.rows, "note": note})
        return _print(rows, args.json, DONE)
    total = sum(work.plan.rows for work in works)
    with tqdm(total=total, unit="row", disable=args.json or None, smoothing=0.05) as bar:
        for work, made in carry_out_all(works, args.workers, bar):
            if isinstance(made, Exception):
                rows.append({"source": work.source.name, "state": "stopped", "note": one_line(made)})
                codes.append(NOT_FINISHED)
                continue
            document, waterfall = made
            counts = document["counts"]
            state = {NOT_COMPARED: "not all read", DAMAGED: "damaged rows"}.get(exit_code(document), "built")
            codes.append(exit_code(document))
            numbers = {key: counts[key] for key in ("read", "kept", "rejected", "damaged")}
            if waterfall:
                numbers["filtered"] = waterfall["dropped"]
            note = "; ".join([work.plan.place, *(line.strip() for line in gap_lines(document["gaps"]))])
            rows.append({"source": work.source.name, "state": state, **numbers, "note": note})
    return _print(rows, args.json, worst(codes))


def _probe(args: argparse.Namespace, names: list[str]) -> int:
    """What each tree is, in a line; the worst code of them."""
    from builders.engine.probe import probe, verdict
    from builders.engine.work import options_of

    rows, codes = [], []
    for name in names:
        source = load(name)
        if args.demo:
            source.write_demo(args.raw / name)
        given = {option.name: option.default for option in source.options if not option.prepare}
        options = options_of(args, args.raw / name, args.out, given, progress=False)
        seen = probe(source, options.raw, options.params)
        codes.append(seen["exit_code"])
        said = [seen["refused"]] if "refused" in seen else seen["differs"]
        rows.append({"source": name, "state": verdict(seen), "note": "; ".join(said), "probe": seen})
    if args.json:
        print(json.dumps([row["probe"] for row in rows], ensure_ascii=False))
    else:
        print(table(("source", "state", "note"), [(row["source"], row["state"], row["note"]) for row in rows]))
    return worst(codes)


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
    raise SystemExit(main(None))
