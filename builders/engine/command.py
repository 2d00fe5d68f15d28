"""The command line that every builder shares: `python -m builders.<source>`."""

import argparse
import json
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from builders.engine.report import exit_code, format_summary, print_plan, summary
from builders.engine.source import Source, unverified_notes
from medgpt.arguments import FRAMES, add_allowed_hosts, command_parser
from medgpt.engines import add_engine, choose_engine
from medgpt.errors import DONE, UserError, run
from medgpt.private import keep_private

FILTERS_HELP = (
    "a recipe file, by which training samples are chosen after the build; none: all stay (default: {recipe}, which "
    "needs pip install 'medgpt-oss[filters]')"
)


def main(source: Source, arguments: Sequence[str] | None = None) -> int:
    """Run a builder's command line; returns the exit code.

    0: built, no damaged row. 3: built, damaged rows were rejected (they are listed). 4: built, but something was not
    read, or is not the publisher's (it is named). 1: not finished, or built and not filtered. 2: wrong usage, the raw
    tree is not this source, or its filters cannot run. With `--probe` as `probe.probe` says.
    """
    return run(partial(_named, source))(arguments)


def _named(source: Source, arguments: Sequence[str] | None) -> int:
    """The command, whose errors begin with the source's name."""
    try:
        return _command(source, arguments)
    except UserError as error:
        if not str(error).startswith(source.name):  # a build's own errors begin with its name
            error.args = (f"{source.name}: {error}",)
        raise


def _command(source: Source, arguments: Sequence[str] | None) -> int:
    parser = _parser(source)
    args = parser.parse_args(arguments)
    data = Path("demo") if args.demo else Path("data")
    raw = args.raw or data / "raw" / source.name
    if args.raw is None and not args.demo and not args.download and not raw.is_dir():
        parser.error(f"--raw is needed: the folder with the publisher's files ({raw} does not exist)")
    check_counts(parser, args)
    check_expect(parser, args)

    # Imported late, so that --help and usage errors answer at once.
    from builders.engine.filtered import unfiltered_text, waterfall_text
    from builders.engine.work import options_of, prepare

    quiet = args.quiet or args.json
    given = {option.name: getattr(args, option.name) for option in source.options if not option.prepare}
    afterwards = [
        option.prepare(value) for option in source.options if option.prepare and (value := getattr(args, option.name))
    ]
    options = options_of(args, raw, args.out or data / "built", given, progress=not quiet)
    if options.output and afterwards:
        parser.error("what is compared with a build after it was made is read from a disk: give a folder as --out")
    if args.download:
        from builders.engine.download import download

        download(source, raw, args.revision, quiet=quiet)
    if args.probe:
        from builders.engine.probe import probe, probe_text

        keep_private(source.access)
        if args.demo:
            source.write_demo(raw)
        seen = probe(source, raw, options.params)
        print(json.dumps(seen, ensure_ascii=False) if args.json else probe_text(source, seen))
        return int(seen["exit_code"])
    work = prepare(source, options, args.filters, demo=args.demo)
    if args.dry_run:
        print_plan(source, work.plan, options, work.filtering, args.json)
        return DONE
    document, waterfall = work.carry_out()
    target, place, reused = work.plan.target, work.plan.place, len(work.plan.reusable)
    said = [line for after in afterwards for line in after(target)]
    if args.json:
        told = {"filtered": waterfall} | ({"said": said} if said else {})
        print(json.dumps(summary(document, place, reused) | told, ensure_ascii=False))
    else:
        print(format_summary(document, place, reused, source.advice))
        print("".join(f"\n{line}" for line in unverified_notes(source)), end="\n" * bool(unverified_notes(source)))
        if waterfall:
            print(f"\n{waterfall_text(waterfall, target)}")
        elif source.filters:
            print(unfiltered_text(target))
        print(*said, sep="\n", end="\n" if said else "")
    return exit_code(document)


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that one builder and `builders.all` share."""
    add = parser.add_argument
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: one a core)")
    add_engine(parser)
    add("--scratch", type=Path, metavar="DIR", help="of --out URL: where a node writes (default: TMPDIR)")
    add_allowed_hosts(parser)
    add("--limit", type=int, metavar="N", help="a trial build: only the first N rows of each split")
    add("--no-images", action="store_true", help="metadata only: ids and texts, for audits before there are pictures")
    add("--licenses", nargs="+", metavar="NAME", help="keep only samples under these licences, reject the others")
    add("--expect", metavar="published|N", help="exit code 4 unless as many rows are read as published, or N in all")
    add("--frames", choices=FRAMES, help="of a picture with several frames take this one (default: it is rejected)")
    add("--probe", action="store_true", help="say what the tree is, from the first rows of each file; write nothing")
    add("--dry-run", action="store_true", help="show what would be built, write nothing")
    add("--json", action="store_true", help="print the summary as JSON, no progress bar")
    add("--shard-bytes", type=int, default=1 << 30, metavar="N", help="close a shard at this size (default 1 GiB)")
    add("--max-damaged", type=int, metavar="N", help="stop past N damaged rows (default: 5 %% of all, at least 100)")


def check_counts(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Refuse counts below one; take the engine."""
    choose_engine(args)
    for name in ("workers", "limit"):
        if (count := getattr(args, name)) is not None and count < 1:
            parser.error(f"--{name} must be at least 1")


def check_expect(parser: argparse.ArgumentParser, args: argparse.Namespace, number: bool = True) -> None:
    """Refuse an `--expect` that is neither `published` nor, where one is allowed, a number."""
    if args.expect and args.expect != "published" and not (number and args.expect.isdecimal()):
        parser.error("--expect: `published`" + ", or a number of rows" * number)
    if args.expect and args.limit is not None:
        parser.error("--expect compares all rows, and --limit leaves most of them out")


def _parser(source: Source) -> argparse.ArgumentParser:
    counts = ", ".join(f"{split} ({role})" for split, role in source.splits.items())
    layouts = "".join(f"layout: {one.name} ({one.said})\n" for one in source.layouts)
    layouts += "".join(f"{line}\n" for line in unverified_notes(source))
    if source.hub_moved:
        layouts += f"the hub also knows {source.hub_id} as {', '.join(source.hub_moved)}\n"
    parser = command_parser(
        source.module_name,
        f"{source.title}\n{source.homepage} (checked against {source.revision})\n"
        f"{layouts}"
        f"licence: {source.license}; access: {source.access}; stage: {source.stage}; splits: {counts}\n\n"
        f"How to obtain it\n{source.obtain.strip()}",
        f"example:\n  python -m {source.module_name} --raw /data/raw/{source.name} --out data/built --workers 8\n"
        f"  python -m {source.module_name} --demo\n\n"
        "exit code: 0 built; 3 built, damaged rows rejected; 4 built, something was not read (it is named);\n"
        "1 not finished, run again to resume; 2 wrong usage, the tree is not this source, or its filters cannot run\n"
        "of --probe: 0 as known; 3 damaged rows among the first; 4 other than known; 2 no build is possible",
        urls=("out",),
    )
    add, splits = parser.add_argument, f"only these of {', '.join(source.splits)}"
    add("--raw", type=Path, metavar="DIR", help=f"the publisher's files (default data/raw/{source.name})")
    out = "root of the builds (default data/built), a folder or s3://bucket/prefix; each is a folder in it"
    add("--out", type=Path, metavar="DIR|URL", help=out)
    add_options(parser)
    add("--split", nargs="+", choices=sorted(source.splits), metavar="SPLIT", help=splits)
    if source.filters:
        add("--filters", metavar="RECIPE", help=FILTERS_HELP.format(recipe=source.filters))
    else:
        parser.set_defaults(filters=None)
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
    add("--quiet", action="store_true", help="no progress bar")
    for option in source.options:
        if option.default is False:
            add(option.flag, action="store_true", help=option.help)
        elif option.prepare:
            add(option.flag, metavar="FILE", help=option.help)
        else:
            said = f"{option.help} (default {option.default})"
            add(option.flag, choices=option.choices, default=option.default, help=said)
    return parser
