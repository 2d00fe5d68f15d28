"""The command line that every builder shares: `python -m builders.<source>`."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from builders.source import DAMAGED_REASONS, RULE_REASONS, NotThisSource, Source
from manifests.messages import complain, safe

EXIT_FAILED, EXIT_USAGE, EXIT_DAMAGED = 1, 2, 3
FILTERS_HELP = (
    "a recipe file, by which training samples are chosen after the build; none: all stay (default: {recipe}, which "
    "needs pip install 'medgpt-oss[filters]')"
)


def main(source: Source, arguments: list[str] | None = None) -> int:
    """Run a builder's command line; returns the exit code.

    0: built, no damaged row. 3: built, damaged rows were rejected (they are listed). 1: not finished, or built and not
    filtered. 2: wrong usage, the raw tree is not this source, or its filters cannot run.
    """
    parser = _parser(source)
    args = parser.parse_args(arguments)
    data = Path("data/demo") if args.demo else Path("data")
    raw = args.raw or data / "raw" / source.name
    out = args.out or data / "built"
    if args.raw is None and not args.demo and not args.download and not raw.is_dir():
        parser.error(f"--raw is needed: the folder with the publisher's files ({raw} does not exist)")
    if args.workers < 1:
        parser.error("--workers must be at least 1")
    if args.limit is not None and args.limit < 1:
        parser.error("--limit must be at least 1")
    params: dict[str, Any] = {option.name: getattr(args, option.name) for option in source.options}
    params |= {
        "no_images": args.no_images,
        "split": sorted(args.split) if args.split else None,
        "licenses": sorted(args.licenses) if args.licenses else None,
    }

    # Imported late, so that --help and usage errors answer at once.
    from builders.build import BuildOptions, BuildStopped, make_plan, run
    from builders.filtered import NotFiltered, begin, choose, finish, unfiltered_text, waterfall_text
    from manifests.private import keep_private

    options = BuildOptions(
        raw=raw,
        out=out,
        params=params,
        workers=args.workers,
        limit=args.limit,
        shard_bytes=args.shard_bytes,
        max_damaged=args.max_damaged,
        progress=not args.quiet and not args.json,
    )
    keep_private(source.access)
    try:
        if args.demo:
            source.write_demo(raw)
        elif args.download:
            from builders.download import download

            download(source, raw, args.revision, quiet=args.quiet or args.json)
        plan = make_plan(source, options)
        try:
            filtering = choose(source, args.filters, raw, params)
        except NotFiltered as error:
            complain(f"{source.name}: {error}")
            return EXIT_USAGE
        if args.dry_run:
            _print_plan(source, plan, options, filtering, args.json)
            return 0
        begin(source, plan.target, filtering)
        document = run(source, options, plan)
        waterfall = finish(source, plan.target, filtering, args.workers, options.progress)
    except NotThisSource as error:
        complain(f"{source.name}: {error}")
        return EXIT_USAGE
    except (BuildStopped, NotFiltered) as error:
        complain(f"{source.name}: {error}")
        return EXIT_FAILED
    except KeyboardInterrupt:
        complain(f"{source.name}: interrupted; run the same command again to resume")
        return EXIT_FAILED
    reused = len(plan.reusable)
    if args.json:
        print(json.dumps(_summary(document, plan.target, reused) | {"filtered": waterfall}, ensure_ascii=False))
    else:
        print(format_summary(document, plan.target, reused))
        if waterfall:
            print(f"\n{waterfall_text(waterfall, plan.target)}")
        elif source.filters:
            print(unfiltered_text(plan.target))
    return EXIT_DAMAGED if document["counts"]["damaged"] else 0


def _parser(source: Source) -> argparse.ArgumentParser:
    counts = ", ".join(f"{split} ({role})" for split, role in source.splits.items())
    parser = argparse.ArgumentParser(
        prog=f"python -m builders.{source.name}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            f"{source.title}\n{source.homepage} (checked against {source.revision})\n"
            f"licence: {source.license}; access: {source.access}; stage: {source.stage}; splits: {counts}\n\n"
            f"How to obtain it\n{source.obtain.strip()}"
        ),
        epilog=(
            f"example:\n  python -m builders.{source.name} --raw /data/raw/{source.name} --out data/built --workers 8\n"
            f"  python -m builders.{source.name} --demo\n\n"
            "exit code: 0 built; 3 built, damaged rows rejected; 1 not finished, run again to resume;\n"
            "2 wrong usage, the tree is not this source, or its filters cannot run"
        ),
    )
    add = parser.add_argument
    add("--raw", type=Path, metavar="DIR", help=f"the publisher's files (default data/raw/{source.name})")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="root of the builds (default data/built); one folder a build is made in it",
    )
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add("--limit", type=int, metavar="N", help="a trial build: only the first N rows of each split")
    add(
        "--split",
        nargs="+",
        choices=sorted(source.splits),
        metavar="SPLIT",
        help=f"only these of {', '.join(source.splits)}",
    )
    add(
        "--no-images",
        action="store_true",
        help="metadata only: ids and texts for audits before pictures are downloaded",
    )
    add("--licenses", nargs="+", metavar="NAME", help="keep only samples under these licences, reject the others")
    if source.filters:
        add("--filters", metavar="RECIPE", help=FILTERS_HELP.format(recipe=source.filters))
    else:
        parser.set_defaults(filters=None)
    add("--dry-run", action="store_true", help="show what would be built, write nothing")
    add("--demo", action="store_true", help="write a small demo tree in the publisher's layout and build from it")
    if source.hub_id or source.access == "credentialed":
        fetch = f"first fetch {source.hub_id} into --raw; run again, it goes on with the files that are missing"
        if source.access == "credentialed":
            fetch = "refused for credentialed sets: prints the steps to obtain them"
        add("--download", action="store_true", help=fetch)
        pinned = source.hub_revision or "must be given"
        add("--revision", default=source.hub_revision, metavar="SHA", help=f"commit to fetch (default: {pinned})")
    else:
        parser.set_defaults(download=False, revision="")
    add("--shard-bytes", type=int, default=1 << 30, metavar="N", help="close a shard at this size (default 1 GiB)")
    add("--max-damaged", type=int, metavar="N", help="stop past N damaged rows (default: 5 %% of all, at least 100)")
    add("--json", action="store_true", help="print the summary as JSON, no progress bar")
    add("--quiet", action="store_true", help="no progress bar")
    for option in source.options:
        if option.default is False:
            add(option.flag, action="store_true", help=option.help)
        else:
            add(
                option.flag,
                choices=option.choices,
                default=option.default,
                help=f"{option.help} (default {option.default})",
            )
    return parser


def _print_plan(source: Source, plan: Any, options: Any, filtering: Any, as_json: bool) -> None:
    splits: dict[str, dict[str, Any]] = {}
    for job in plan.jobs:
        split = splits.setdefault(
            job.unit.split,
            {"role": job.unit.role, "units": 0, "rows": 0, "done": 0, "input_files": 0, "input_bytes": 0},
        )
        split["units"] += 1
        split["rows"] += job.take
        split["done"] += job.unit.name in plan.reusable
        for name in job.unit.inputs:
            path = options.raw / name
            split["input_files"] += 1
            split["input_bytes"] += path.stat().st_size if path.is_file() else 0
    if as_json:
        chosen = filtering.describe() if filtering else None
        print(json.dumps({"build": plan.build, "target": str(plan.target), "splits": splits, "filters": chosen}))
        return
    print(f"{source.title} -> {plan.target} (nothing written)")
    rows = [
        (name, s["role"], s["units"], s["rows"], s["done"], s["input_files"], _bytes(s["input_bytes"]))
        for name, s in splits.items()
    ]
    print(table(("split", "role", "units", "rows", "units done", "input files", "input"), rows))
    if source.filters:
        print("\n".join(filtering.lines()) if filtering else "no filter would run")


def _summary(document: dict[str, Any], target: Path, reused: int) -> dict[str, Any]:
    names = ("build", "parameters", "metadata_only", "published", "counts", "root")
    return {name: document[name] for name in names} | {
        "target": str(target),
        "units": len(document["units"]),
        "units_reused": reused,
    }


def format_summary(document: dict[str, Any], target: Path, reused: int) -> str:
    """The counts of a build as text: rows by split beside the publisher's figures, then rejects by reason."""
    counts, published = document["counts"], document["published"]
    rows = [
        (
            split,
            c["role"],
            c["read"],
            published.get(split, "-"),
            c["kept"],
            c["rejected"],
            c["images"],
            f"{c['images_mean']:.2f} ± {c['images_sd']:.2f}" if c["images"] else "-",
            f"{100 * c['prior_share']:.1f} %" if c["with_prior"] else "-",
            _bytes(c["bytes"]),
        )
        for split, c in counts["by_split"].items()
    ]
    heads = ("split", "role", "read", "published", "kept", "rejected", "images", "a sample", "with prior", "shards")
    lines = [f"{document['source']['title']} -> {target}", table(heads, rows)]
    if document["metadata_only"]:
        lines.append("metadata only: pictures are named, not read; training refuses these shards")
    if document["limit"] is not None:
        lines.append(f"trial build: the first {document['limit']} rows of each split")
    if counts["rejects"]:
        advice = DAMAGED_REASONS | RULE_REASONS
        listed = [
            (reason, count, "damaged" if reason in DAMAGED_REASONS else "rule", advice[reason])
            for reason, count in counts["rejects"].items()
        ]
        lines += ["", f"rejected rows (each with file and row in {target}/rejects)"]
        lines.append(table(("reason", "rows", "kind", "what to do"), listed))
    check = "=" if counts["kept"] + counts["rejected"] == counts["read"] else "!="
    lines += [
        "",
        f"kept {counts['kept']} + rejected {counts['rejected']} {check} read {counts['read']}; "
        f"damaged rows: {counts['damaged']}; units: {len(document['units'])} ({reused} reused)",
        f"root {document['root']}",
    ]
    return "\n".join(lines)


def table(heads: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Columns of text; numbers to the right with thousands separated, text to the left."""
    cells = [[f"{cell:,}" if isinstance(cell, int) else safe(cell) for cell in row] for row in rows]
    right = [all(isinstance(row[i], int) or row[i] == "-" for row in rows) for i in range(len(heads))]
    widths = [max(len(line[i]) for line in [list(heads), *cells]) for i in range(len(heads))]
    lines = []
    for line in [list(heads), ["-" * width for width in widths], *cells]:
        pieces = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(line, widths, right, strict=True)]
        lines.append("  " + "  ".join(pieces).rstrip())
    return "\n".join(lines)


def _bytes(count: int) -> str:
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
