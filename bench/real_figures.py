"""Precision and recall of the picture filters on real pictures of public repositories, by the shipped recipes.

`real_figures.csv` names pictures by digest, repository, commit and path, with their licence and labels; none is
committed. Labels were given by eye on numbered thumbnails twice, in two orders, what differed looked at large; an empty
label is doubtful, or was not given, and counts nowhere. Those without a word in `article` were drawn later, from other
paths, and have no label of `compound` and `text`; of these, screens, plots and tables were looked at twice, marks and
the other kinds once. `compound`: several panels. `text`: writing on a film or a slide of
tissue that is no side, projection, position or technician's mark. `screen`: a program's window. `narrator`: a person
beside what is taught. `mark`: arrows, outlines and leader lines over a film or tissue. The last digit of the digest
halves them: even may be tuned on, odd may not.

    python -m bench.real_figures FOLDER [--half fit] [--reasons 50]

FOLDER holds the pictures under any names; what is missing there is counted and named.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.filters_pictures import newton
from filters.base import Picture, Record
from filters.compound import SIDE, grey_levels, panels
from filters.ink_panels import signs
from filters.recipe import FilterStep, load_recipe
from medgpt.intervals import wilson

TABLE = Path(__file__).with_name("real_figures.csv")
DETECTORS = {
    "compound": "compound",
    "overlaid_text": "text",
    "screens": "screen",
    "narrator": "narrator",
    "drawn_marks": "mark",
    "plots": "plot",
}
"""Filter -> label."""
INK = ("plot", "table", "drawing", "molecule", "blot")
"""Kinds that the filter `plots` is after."""
ORDER = ("medgpt_oss", "strict")
"""Recipes whose threshold is taken: the default's, and the strict one's of what the default does not ask."""


def rows(half: str) -> list[dict[str, str]]:
    """Rows of the table: those of a half, or of both for `all`."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        found = [row | {"plot": _plot(row["kind"])} for row in csv.DictReader(file)]
    return [row for row in found if half in ("all", "unseen" if int(row["sha256"][-1], 16) % 2 else "fit")]


def _plot(kind: str) -> str:
    return "1" if kind in INK else "0" if kind in ("film", "tissue", "screen") else ""


def files(folder: Path) -> dict[str, Path]:
    """Digest -> file."""
    return {hashlib.sha256(file.read_bytes()).hexdigest(): file for file in folder.rglob("*") if file.is_file()}


def groups(filter_: str, row: dict[str, str]) -> Iterator[str]:
    """What a picture counts in: all, and the groups that a goal names."""
    yield "all"
    if filter_ == "compound":
        yield "articles" if row["article"] == "1" else "others"
    elif row["kind"] in ("film", "tissue"):
        yield row["kind"]
    elif row["kind"] in ("plot", "table"):
        yield "plots and tables"
    if row["article"]:
        yield "drawn first"


def measure(folder: Path, half: str, reasons: int = 0, only: Sequence[str] = tuple(DETECTORS)) -> dict[str, Any]:
    """Counts by detector and group, errors, CPU milliseconds a picture, and reasons drawn at random."""
    here = files(folder)
    steps: dict[str, FilterStep] = {}
    for name in ORDER:
        plan = load_recipe(name).plan("pmc_oa")
        assert plan is not None
        steps |= {step.name: step for step in plan.steps if step.name in only and step.name not in steps}
    made = {name: step.make() for name, step in steps.items()}
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    errors: dict[str, list[str]] = defaultdict(list)
    missing, taken_out, seen = [], [], 0
    seconds = dict.fromkeys(steps, 0.0)
    for row in rows(half):
        if row["sha256"] not in here:
            missing.append(f"{row['repository']} {row['path']}")
            continue
        record = Record({"messages": [], "subset": None}, [Picture(here[row["sha256"]].read_bytes())])
        seen += 1
        first = None
        for name, step in steps.items():
            started = time.process_time()
            [values] = made[name].score([record])
            seconds[name] += time.process_time() - started
            record.found |= {f"{name}.{score}": value for score, value in values.items()}
            said = step.drops(record.found)
            first = first or (name if said and name != "drawn_marks" else None)
            if not (truth := row[DETECTORS[name]]):
                continue
            what = ("right", "false alarm", "missed", "found")[2 * int(truth) + said]
            for group in groups(name, row):
                counts[f"{name}: {group}"][what] += 1
            if said != bool(int(truth)):
                errors[name].append(f"{what}, {row['kind']}: {row['repository']} {row['path']} {row['sha256'][:8]}")
        if first:
            right = {"1": "right", "0": "wrong", "": "not labelled"}[row[DETECTORS[first]]]
            place = f"{row['kind']} {row['sha256'][:8]} {row['repository']} {row['path']}"
            taken_out.append(f"{first}, {right}: {place}")
    random.Random(half).shuffle(taken_out)
    return {
        "pictures": seen,
        "missing": missing,
        "table": {name: _line(count) for name, count in counts.items()},
        "milliseconds": {name: round(1000 * value / max(1, seen), 1) for name, value in seconds.items()},
        "errors": errors,
        "reasons": taken_out[:reasons],
    }


def fit(folder: Path, strength: float = 1.0) -> dict[str, float]:
    """Bias and weights of `filters.ink_panels` on the fit half, by a ridge-penalised logistic regression."""
    here, known = files(folder), []
    for row in rows("fit"):
        if row["compound"] and row["sha256"] in here:
            rgb = Picture(here[row["sha256"]].read_bytes()).rgb(SIDE)
            if (found := signs(rgb, grey_levels(rgb))) is not None:
                parted, gutter = panels(rgb)
                more = {"gutter": gutter, "panels": min(len(parted), 5) / 5}
                known.append(({"bias": 1.0} | found | more, float(row["compound"])))
    x, y = np.array([list(one.values()) for one, _ in known]), np.array([truth for _, truth in known])
    weights = newton(x, y, np.ones(len(y)), strength)
    return dict(zip(known[0][0], (round(float(weight), 2) for weight in weights), strict=True))


def _line(count: Counter[str]) -> str:
    found, alarms, missed, right = (count[what] for what in ("found", "false alarm", "missed", "right"))
    shares = (
        ("precision", found, found + alarms),
        ("recall", found, found + missed),
        ("alarms", alarms, alarms + right),
    )
    return "; ".join(
        f"{name} {hits}/{total} = {share:.3f} [{low:.3f}, {high:.3f}]"
        for name, hits, total in shares
        for share, low, high in [wilson(hits, total)]
    )


def main() -> int:
    """Measure and print as JSON; exit code 4 where a picture of the table is not in the folder."""
    parser = argparse.ArgumentParser(prog="python -m bench.real_figures", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--half", choices=("all", "fit", "unseen"), default="all")
    parser.add_argument("--reasons", type=int, default=0, metavar="N", help="also draw N reasons of the default recipe")
    parser.add_argument("--only", nargs="+", choices=DETECTORS, default=tuple(DETECTORS), help="filters to run")
    parser.add_argument("--fit", action="store_true", help="print bias and weights of filters/ink_panels.py and stop")
    options = parser.parse_args()
    if options.fit:
        print(json.dumps(fit(options.folder)))
        return 0
    found = measure(options.folder, options.half, options.reasons, options.only)
    print(json.dumps(found, indent=1))
    return 4 if found["missing"] else 0


if __name__ == "__main__":
    sys.exit(main())
