"""`python -m builders.demo`: build every demo source, audit the lot, and say what was found where.

The demo trees are synthetic, in their publishers' layouts, with leaks planted at every level; two sources are also built
in the recipe's own reading (`--paper-variant`), which leaks by itself.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from builders.cli import EXIT_DAMAGED, main, table
from builders.registry import load

RUNS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("mimic_cxr", ("--longitudinal",)),
    ("mimic_cxr", ()),
    ("slake", ()),
    ("slake", ("--paper-variant",)),
    ("vqa_rad", ()),
    ("pubmedqa", ()),
    ("pubmedqa", ("--paper-variant",)),
    ("medqa", ()),
    ("medquad", ()),
)
_PLANTED_IN = {"mimic_cxr": "builders.demo_mimic"}


def run(data: Path, workers: int) -> int:
    """Build, catalogue and audit under `data`; exit code 0 if every step ran, whatever the audits found."""
    started = time.monotonic()
    for name, options in RUNS:
        arguments = ["--demo", *options, "--raw", str(data / "raw" / name), "--out", str(data / "built")]
        print(f"\n$ python -m builders.{name} {' '.join(arguments)}", flush=True)
        code = main(load(name), [*arguments, "--workers", str(workers), "--quiet"])
        if code not in (0, EXIT_DAMAGED):
            return code

    from manifests.catalog import connect, write_catalog
    from manifests.sql import audit_names, run_audits

    print(f"\n$ python -m manifests.catalog {data}\n$ python -m manifests.sql {data} --audit all", flush=True)
    write_catalog(data)
    with connect(data) as connection:
        results = run_audits(connection, audit_names())
    rows = [(result.name, result.violations, result.description) for result in results]
    print(table(("audit", "violations", "what it looks for"), rows))

    print("\nPlanted in the demo trees, for the audits to find:")
    for name in dict.fromkeys(name for name, _ in RUNS):
        planted = importlib.import_module(_PLANTED_IN.get(name, f"builders.{name}")).PLANTED
        for level, what in planted.items():
            print(f"  {name}, {level}: {what}")
    print(
        f"""
Done in {time.monotonic() - started:.0f} s. Where to look:
  {data}/raw        the demo trees, in their publishers' layouts
  {data}/built      shards (any WebDataset reader), manifests and rejects (Parquet), build.json
  python -m manifests.sql {data} --audit id_overlap
  python -m manifests.sql {data} "SELECT build, split, count(*) FROM samples GROUP BY ALL ORDER BY ALL"
  python -m shards.verify {data}/built"""
    )
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m builders.demo", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    parser.add_argument("--data", type=Path, default=Path("data/demo"), metavar="DIR", help="default data/demo")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="processes (default 2)")
    args = parser.parse_args()
    raise SystemExit(run(args.data, args.workers))
