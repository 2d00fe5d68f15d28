"""`python -m bench`: run every measurement, print it, and write it as JSON.

Figures are per CPU-second (user + system of the process and its children) unless "wall" is said; peers and limits run
in the same call on the same bytes, so that ratios hold when the machine's speed drifts.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path

MEASUREMENTS = (
    "jpeg_build", "text_build", "manifest", "memory", "install", "proof", "filters", "filters_pictures", "filters_llm",
    "stream", "pack", "export", "engines", "eval", "train", "flex_sinks",
)  # fmt: skip
PARTS = ("hamming_join", "near_images", "local_pictures", "near_text", "proof_forms", "reports", "rewrites", "audits")
"""What `proof` consists of, each to be run alone, too."""


def main() -> int:
    """Run the measurements asked for; exit code 0."""
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m bench jpeg_build --peer-python .venv-peers/bin/python --out bench.json",
    )
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"which of {', '.join(MEASUREMENTS)} (default all); or a part of proof: {', '.join(PARTS)}",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument(
        "--peer-python", type=Path, metavar="FILE", help="interpreter of an environment with img2dataset"
    )
    args = parser.parse_args()
    if unknown := set(args.names) - set(MEASUREMENTS) - set(PARTS):
        parser.error(f"no measurement {', '.join(sorted(unknown))}; there are {', '.join((*MEASUREMENTS, *PARTS))}")
    figures = {}
    for name in args.names or MEASUREMENTS:
        print(f"== {name}", file=sys.stderr, flush=True)
        figures[name] = importlib.import_module(f"bench.{name}").measure(args.peer_python)
        print(json.dumps({name: figures[name]}, indent=1), flush=True)
    if args.out:
        machine = {"machine": platform.machine(), "processor": _processor(), "python": platform.python_version()}
        args.out.write_text(json.dumps({"machine": machine, **figures}, indent=1) + "\n")
    return 0


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


if __name__ == "__main__":
    raise SystemExit(main())
