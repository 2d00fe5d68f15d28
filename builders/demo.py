"""`python -m builders.demo`: build every demo source, audit the lot, and say what was found where.

The demo trees are synthetic, in their publishers' layouts, with leaks planted at every level; two sources are also
built in the recipe's own reading (`--paper-variant`), which leaks by itself. The sources that are filtered by default
need the extra `filters`, which `make demo` installs; without it they are left unfiltered, and it is said.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from builders.all import main as build_all
from builders.engine.command import main
from builders.engine.registry import load, sources
from builders.engine.report import table
from builders.engine.source import demo_module
from medgpt.errors import DAMAGED, DONE, UserError

if TYPE_CHECKING:
    from manifests.sql import AuditResult

RUNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mimic_cxr", ("--longitudinal",)),
    ("mimic_cxr", ()),
    ("slake", ()),
    ("slake", ("--paper-variant",)),
    ("vqa_rad", ()),
    ("pubmedqa", ()),
    ("pubmedqa", ("--paper-variant",)),
    ("medqa", ()),
    ("quilt_1m", ()),
    ("mimic_cxr", ("--task", "impression")),
    ("mimic_cxr", ("--task", "impression", "--shots", "1")),
    ("patient_trial", ()),
    ("patient_trial", ("--shots", "1")),
)
"""Shown one by one; the other sources follow in one run."""


def run(data: Path, workers: int) -> int:
    """Build, catalogue and audit under `data`; exit code 0 if every step ran, whatever the audits found."""
    started = time.monotonic()
    written: set[str] = set()
    unfiltered = _unfiltered()
    for name, options in RUNS:
        # The second reading of a source uses the tree that the first one wrote.
        demo = [] if name in written else ["--demo"]
        options += unfiltered if load(name).filters else ()
        written.add(name)
        arguments = [*demo, *options, "--raw", str(data / "raw" / name), "--out", str(data / "built")]
        print(f"\n$ python -m builders.{name} {' '.join(arguments)}", flush=True)
        code = main(load(name), [*arguments, "--workers", str(workers), "--quiet"])
        if code not in (DONE, DAMAGED):
            return code
    names = [source.name for source in sources() if source.has_demo]
    others = [name for name in names if name not in written]
    arguments = ["--demo", "--raw", str(data / "raw"), "--out", str(data / "built"), "--workers", str(workers)]
    arguments += unfiltered
    print(f"\n$ python -m builders.all {' '.join(arguments)} --only {' '.join(others)}", flush=True)
    code = build_all([*arguments, "--only", *others])
    if code not in (DONE, DAMAGED):
        return code

    from manifests.catalog import connect, write_catalog
    from manifests.sql import audit_names, run_audits

    print(f"\n$ python -m manifests.catalog {data}\n$ python -m manifests.sql {data} --audit all", flush=True)
    write_catalog(data)
    with connect(data) as connection:
        results = run_audits(connection, audit_names())
    rows = [(result.name, result.violations, result.description) for result in results]
    print(table(("audit", "violations", "what it looks for"), rows))
    print("\nWhat leaked from a build's own train split into its own test:")
    print(table(("build", "split", "level", "shared", "of"), leaks(results)))
    crossing = next(result for result in results if result.name == "subject_crossing_splits")
    for row in crossing.rows:
        print("  " + ", ".join(f"{name} {value}" for name, value in zip(crossing.columns, row, strict=True)))

    _prove(data, workers)
    print("\nPlanted in the demo trees, for the audits and the proof to find:")
    for name in names:
        for level, what in getattr(demo_module(name), "PLANTED", {}).items():
            print(f"  {name}, {level}: {what}")
    print(
        f"""
Done in {time.monotonic() - started:.0f} s. Where to look:
  {data}/raw        the demo trees, in their publishers' layouts
  {data}/built      shards (any WebDataset reader), manifests and rejects (Parquet), build.json
  {data}/filtered   {"what the filters left; open quilt_1m/gallery.html" if not unfiltered else "(no filter ran)"}
  {data}/proof      evidence, exclusions, certificate; open report.html
  python -m manifests.verify {data}
  python -m manifests.sql {data} --audit id_overlap
  python -m manifests.catalog {data} && duckdb {data}/manifest.duckdb
  python -m shards.verify {data}/built"""
    )
    return 0


def _unfiltered() -> tuple[str, ...]:
    """`--filters none` where the extra is missing, which is said."""
    from builders.engine.filtered import NONE, choose

    try:
        choose(load("quilt_1m"), None, Path(), {"no_images": False})
    except UserError as error:
        print(f"No source is filtered here: {error}")
        return ("--filters", NONE)
    return ()


def _prove(data: Path, workers: int) -> None:
    """Prove the demo builds and say shortly what was found."""
    from manifests.proof.policy import load_policy
    from manifests.prove import PROOF, prove

    print(f"\n$ python -m manifests.prove {data}", flush=True)
    certificate = prove(data, data / PROOF, load_policy(), workers=workers)
    counts: dict[tuple[str, str], list[int]] = {}
    for row in certificate["matrix"]:
        cell = counts.setdefault((row["level"], row["kind"]), [0, 0])
        cell[0] += row["pairs"]
        cell[1] += row["pairs"] if row["action"] == "exclude" else 0
    print(table(("level", "kind", "pairs", "that exclude"), [(*key, *cell) for key, cell in counts.items()]))
    excluded = sum(row["train_samples"] for row in certificate["exclusions"])
    left = "nothing" if certificate["clean"] else "something"
    print(f"{excluded} train samples are taken out, {left} is left at the policy's levels; shards are as they were.")


def leaks(results: list[AuditResult]) -> list[tuple[str, str, str, int, int]]:
    """(build, split, level, eval items shared with train, eval items) from the overlap audits, within each build."""
    found = []
    for result in results:
        for values in result.rows:
            row = dict(zip(result.columns, values, strict=True))
            if (
                "train_build" not in row
                or row["train_build"] != row["eval_build"]
                or row.get("eval_subset", "all") != "all"
            ):
                continue
            level = f"{row['kind']} (id)" if "kind" in row else row.get("level", result.name.removesuffix("_overlap"))
            [hit] = [name for name in row if name.startswith("eval_") and name.endswith("_hit") and "rows" not in name]
            shared, total = row[hit], row[hit.replace("_hit", "_total")]
            found.append((row["eval_build"], row["eval_split"], level, shared, total))
    return sorted(found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m builders.demo", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, default=Path("data/demo"), metavar="DIR", help="default data/demo")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    args = parser.parse_args()
    raise SystemExit(run(args.data, args.workers))
