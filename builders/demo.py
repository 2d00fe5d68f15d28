"""`medgpt demo`, as `make demo` runs it: build every demo source, prove, pack, train, evaluate; one page leads to all.

The demo trees are synthetic, in their publishers' layouts, with leaks planted at every level; two sources are also
built in the recipe's own reading (`--paper-variant`), which leaks by itself. The sources that are filtered by default
need the extra `filters`, which `make demo` installs; without it they are left unfiltered, and it is said.

The screen gets a line a source, what matters of each step and, last, the address of `DATA/index.html`, which links
every page; all that the commands print is in `DATA/demo.log`.
"""

import importlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from builders.engine.command import main as build_source
from builders.engine.registry import load, modules
from builders.engine.source import demo_module
from medgpt.arguments import command_parser
from medgpt.errors import DAMAGED, DONE, NOT_FINISHED, UserError, run
from medgpt.private import make_folder
from medgpt.tables import table

if TYPE_CHECKING:
    from manifests.sql import AuditResult

LOG = "demo.log"
READINGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "mimic_cxr": (("--longitudinal",), (), ("--task", "impression"), ("--task", "impression", "--shots", "1")),
    "slake": ((), ("--paper-variant",)),
    "pubmedqa": ((), ("--paper-variant",)),
    "patient_trial": ((), ("--shots", "1")),
}
"""Sources that are built more than once, from one tree."""
STREAMED = ("--stage", "instruct", "--only-present", "--accept-incomplete")
LATER: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("shards.stats", ("--html", "{data}/statistics.html"), r"^train: [\d,]+ samples.+"),
    ("shards.pack", (*STREAMED, "--html", "{data}/packs.html"), r"^[\d,]+ samples in .+? tiles"),
    ("shards.resume_check", (*STREAMED, "--samples", "500"), r"^resume check: .+"),
    ("train.demo", (), r"^\w+: \d+ steps, loss [\d.]+ to [\d.]+"),
    ("eval.demo", (), r"\d+ runs, \d+ tasks"),
)
"""What runs on the builds and their proof: module, options, and what of its output the screen shows."""
PAGES = (
    ("proof/report.html", "Proof", "every level of overlap between training and test samples, pair by pair"),
    ("filtered/*/gallery.html", "Filters", "from read to kept: the waterfall, and pictures that were dropped"),
    ("statistics.html", "Builds", "samples, tokens, tiles, licences"),
    ("packs.html", "Packs", "how full the sequences of an epoch are, and how equal the work of ranks"),
    ("train/*/curves.svg", "Learning curves", "loss by source beside what blind guessing gets"),
    ("evaluation/report.html", "Evaluation", "baselines, and the model if there is one; clean items apart"),
    (LOG, "Log", "every command with all that it printed: audits, what leaked, what was planted"),
)
"""What the first page links: files below DATA, what they are called, what is on them."""
TRAINING_NEEDS = ("torch", "transformers", "deepspeed")
TRAINING_HOW = "make .venv/.train or pip install 'medgpt-oss[train]'"
LEAKS_SHOWN, LINES_OF_A_FAILURE, WIDTH = 8, 15, 118


class _Stopped(Exception):
    """A step that failed: what it is, and its exit code."""


def make_demo(data: Path, workers: int, names: Sequence[str]) -> int:
    """Build the sources under `data`, audit, prove, pack, stream, train and evaluate, and write the page of pages.

    Returns 0 if every step ran, whatever the audits found; else the exit code of the step that failed, of which the
    last lines are shown.
    """
    make_folder(data)
    log = data / LOG
    try:
        with _logged(log) as screen:
            _steps(data, workers, names, screen)
    except _Stopped as stopped:
        step, code = stopped.args
        last = log.read_text(errors="replace").rsplit("\n$ ", 1)[-1].splitlines()[-LINES_OF_A_FAILURE:]
        print(*last, f"{step} ended with exit code {code}; {log} has all of it", sep="\n", file=sys.stderr)
        return int(code)
    return 0


@contextmanager
def _logged(path: Path) -> Iterator[TextIO]:
    """What this process and those it starts print goes to a file; gives what is left of the screen."""
    kept = [os.dup(1), os.dup(2)]
    try:
        with path.open("wb") as log, os.fdopen(os.dup(1), "w", encoding="utf-8") as screen:
            for place in (1, 2):
                os.dup2(log.fileno(), place)
            yield screen
    finally:
        for place, stream, before in zip((1, 2), (sys.stdout, sys.stderr), kept, strict=True):
            stream.flush()
            os.dup2(before, place)
            os.close(before)


def _steps(data: Path, workers: int, names: Sequence[str], screen: TextIO) -> None:
    from manifests.proof.certificate import read_certificate
    from manifests.prove import PROOF

    started = time.monotonic()

    def show(text: str = "", end: str = "\n") -> None:
        print(text, end=end, file=screen, flush=True)

    unfiltered, why = _unfiltered()
    if why:
        show(f"No source is filtered here: {why}")
    show(f"{'source':<22} builds    read    kept  rejected  pictures  filters")
    for name in names:
        for number, options in enumerate(READINGS.get(name, ((),))):
            # The second reading of a source uses the tree that the first one wrote.
            given = [*(() if number else ("--demo",)), *options, *(unfiltered if load(name).filters else ())]
            given += ["--raw", str(data / "raw" / name), "--out", str(data / "built"), "--workers", str(workers)]
            print(f"\n$ python -m builders.{name} {' '.join(given)}", flush=True)
            code = build_source(load(name), [*given, "--quiet"])
            if code not in (DONE, DAMAGED):
                raise _Stopped(f"builders.{name}", code)
        show(_source_line(data, name))
    show(_audit(data))
    code, _ = _call(
        data, "manifests.prove", (str(data), "--benchmarks", "present", "--workers", str(workers), "--quiet")
    )
    if code:
        raise _Stopped("manifests.prove", code)
    show(_exclusions(data))
    print("\nPlanted in the demo trees, for the audits and the proof to find:")
    for name in names:
        for level, what in getattr(demo_module(name), "PLANTED", {}).items():
            print(f"  {name}, {level}: {what}")
    steps, untrained = [], why_untrained(names)
    for module, options, shown in LATER:
        if module == "train.demo" and untrained:
            show(f"{module:<20} left out, {untrained}")
            continue
        show(f"{module:<20} ", end="")
        begun = time.monotonic()
        code, said = _call(data, module, (str(data), *(option.format(data=data) for option in options)))
        steps.append((module, "; ".join(re.findall(shown, said, re.MULTILINE))))
        show(f"{time.monotonic() - begun:>3.0f} s  {steps[-1][1]}")
        if code:
            raise _Stopped(module, code)
    sentences = read_certificate(data / PROOF)["sentences"]
    for number, sentence in enumerate(sentences, 1):
        show(f"{number}. {sentence}")
    page = _write_index(data, steps, sentences)
    show(f"Done in {time.monotonic() - started:.0f} s. Open this page, it leads to all others:")
    show(page.resolve().as_uri())


def why_untrained(names: Sequence[str]) -> str:
    """Why nothing can be trained, and what to do; empty where something can: each stage needs a source of its own."""
    if missing := [name for name in TRAINING_NEEDS if importlib.util.find_spec(name) is None]:
        return f"no {', '.join(missing)}. To have it: {TRAINING_HOW}, then again"
    stages = {load(name).stage for name in names}
    lacking = [stage for stage in ("pretrain", "midtrain", "instruct") if stage not in stages]
    return f"no source of stage {', '.join(lacking)}. Name one more with --only" if lacking else ""


def _write_index(data: Path, steps: Sequence[tuple[str, str]], sentences: Sequence[str]) -> Path:
    """The page that links every other page of the demo; its path."""
    from medgpt.atomic import write_atomic
    from medgpt.page import render

    places = [
        (path.relative_to(data).as_posix(), f"{title}: {path.parent.name}" if "*" in pattern else title, what)
        for pattern, title, what in PAGES
        for path in sorted(data.glob(pattern))
    ]
    page, folder = data / "index.html", Path(__file__).parent
    shown = render(folder, "demo.html", title="The demo", places=places, steps=steps, sentences=sentences)
    write_atomic(page, shown.encode())
    return page


def _unfiltered() -> tuple[tuple[str, ...], str]:
    """Where the extra is missing: `--filters none`, and why."""
    from builders.engine.filtered import NONE, choose

    try:
        choose(load("quilt_1m"), None, Path(), {"no_images": False})
    except UserError as error:
        return ("--filters", NONE), str(error)
    return (), ""


def _source_line(data: Path, name: str) -> str:
    """What the builds of a source read, kept and rejected, and what the filters left of its training samples."""
    from manifests.selections import WATERFALL_FILE, selection_folder

    files = [*(data / "built").glob(f"{name}/build.json"), *(data / "built").glob(f"{name}.*/build.json")]
    counts = [json.loads(path.read_bytes())["counts"] for path in files]
    read, kept, rejected = (sum(count[key] for count in counts) for key in ("read", "kept", "rejected"))
    pictures = sum(split["images"] for count in counts for split in count["by_split"].values())
    waterfall = selection_folder(data, name) / WATERFALL_FILE
    found = json.loads(waterfall.read_bytes()) if waterfall.is_file() else None
    filters = f"{found['kept']:,} of {found['read']:,} training samples stay" if found else "-"
    return f"{name:<22} {len(files):>6} {read:>7,} {kept:>7,} {rejected:>9,} {pictures:>9,}  {filters}"


def _call(data: Path, module: str, arguments: tuple[str, ...]) -> tuple[int, str]:
    """`python -m ...` as it would be typed, in a process of its own; its exit code and what it left in the log."""
    log = data / LOG
    print(f"\n$ python -m {module} {' '.join(arguments)}", flush=True)
    before = log.stat().st_size
    code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode  # noqa: S603 (ours)
    with log.open("rb") as file:
        file.seek(before)
        return code, file.read().decode(errors="replace")


def _audit(data: Path) -> str:
    """Run all audits, which the log gets in full; the lines of the screen on them."""
    from manifests.catalog import connect, write_catalog
    from manifests.sql import audit_names, run_audits

    print(f"\n$ python -m manifests.catalog {data}\n$ python -m manifests.sql {data} --audit all", flush=True)
    try:
        write_catalog(data)
        with connect(data) as connection:
            results = run_audits(connection, audit_names())
    except (UserError, OSError) as error:
        print(error)
        raise _Stopped("the audits", NOT_FINISHED) from error
    rows = [(result.name, result.violations, result.description) for result in results]
    print(table(("audit", "violations", "what it looks for"), rows))
    leaked = leaks(results)
    print("\nWhat leaked from a build's own train split into its own test:")
    print(table(("build", "split", "level", "shared", "of"), leaked))
    crossing = next(result for result in results if result.name == "subject_crossing_splits")
    for row in crossing.rows:
        print("  " + ", ".join(f"{name} {value}" for name, value in zip(crossing.columns, row, strict=True)))
    worst: dict[str, tuple[float, str]] = {}
    for build, split, level, shared, total in leaked:
        worst[build] = max(worst.get(build, (0.0, "")), (shared / total, f"{shared} of {total} {split} by {level}"))
    shown = [f"{name} {what}" for name, (_, what) in sorted(worst.items(), key=lambda item: -item[1][0])]
    found = [f"{result.name} {result.violations:,}" for result in results if result.violations]
    most = ", ".join(shown[:LEAKS_SHOWN]) + ", ..." * (len(shown) > LEAKS_SHOWN)
    own = f"from a build's own train split into its own test, in {len(shown)} builds: {most or '-'}"
    audits = f"{len(found)} of {len(results)} find something: {', '.join(found) or '-'}"
    return f"{_filled('audits', audits)}\n{_filled('leaked', own)}"


def _exclusions(data: Path) -> str:
    """What the proof took out, by level, and what it says is left."""
    from manifests.proof.certificate import read_certificate
    from manifests.prove import PROOF

    certificate = read_certificate(data / PROOF)
    pairs: dict[str, int] = {}
    for row in certificate["matrix"]:
        if row["action"] == "exclude":
            pairs[row["level"]] = pairs.get(row["level"], 0) + row["pairs"]
    excluded, total = (sum(row["train_samples"] for row in certificate[key]) for key in ("exclusions", "train_totals"))
    by_level = ", ".join(f"{level} {count:,}" for level, count in pairs.items())
    return _filled(
        "excluded",
        f"by the proof: {excluded:,} of {total:,} train samples (pairs: {by_level}); nothing is left at the policy's "
        "levels, the shards are as they were",
    )


def _filled(head: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=f"{head:<10}", subsequent_indent=" " * 10)


def leaks(results: "list[AuditResult]") -> list[tuple[str, str, str, int, int]]:
    """(build, split, level, eval items shared with train, eval items) from the overlap audits, within each build."""
    found = []
    for result in results:
        for values in result.rows:
            row = dict(zip(result.columns, values, strict=True))
            within = "train_build" in row and row["train_build"] == row["eval_build"]
            if not within or row.get("eval_subset", "all") != "all":
                continue
            level = f"{row['kind']} (id)" if "kind" in row else row.get("level", result.name.removesuffix("_overlap"))
            [hit] = [name for name in row if name.startswith("eval_") and name.endswith("_hit") and "rows" not in name]
            shared, total = row[hit], row[hit.replace("_hit", "_total")]
            found.append((row["eval_build"], row["eval_split"], level, shared, total))
    return sorted(found)


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, or the exit code of the step that failed."""
    said = "Build, filter, audit, prove, pack, train (where torch is) and evaluate the synthetic demo sources."
    parser = command_parser("builders.demo", said, "example: python -m builders.demo --data demo")
    add = parser.add_argument
    add("--data", type=Path, default=Path("demo"), metavar="DIR", help="default demo")
    add("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    add("--only", nargs="+", choices=list(modules()), metavar="SOURCE", help="only these sources")
    args = parser.parse_args(arguments)
    from builders.engine.registry import sources

    there = [source.name for source in sources() if source.has_demo and source.name in (args.only or modules())]
    return make_demo(args.data, args.workers, there)


if __name__ == "__main__":
    raise SystemExit(main())
