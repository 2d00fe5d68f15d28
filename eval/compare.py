"""Compare two scored runs item by item, and say what is more than noise.

Tasks that both runs scored on the same benchmark version are compared. Choices: the exact McNemar test on items that
one model alone got right. Reports: the mean difference of each metric. Both also by a permutation test that swaps whole
clusters (pictures, videos, patients), with a 95 % interval of the difference from a cluster bootstrap. Holm's
correction is over one p-value a task: the permutation test's, since clusters are its independent units.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from eval.records import SCORES_FILE, Score, read_scored, task_label
from eval.statistics import holm, mcnemar, paired_interval, permutation
from medgpt.arguments import command_parser
from medgpt.atomic import write_atomic
from medgpt.errors import DONE, UserError, run

MAIN_METRICS = ("ratescore", "radgraph_partial", "radcliq_v1", "bleu4")
"""The first of them that both runs have is the one metric of a report task in Holm's correction."""

_EXAMPLE = """
example:
  python -m eval.compare runs/ours runs/medgemma --out compared.json
"""


@dataclass(frozen=True)
class Comparison:
    """First run minus second run, on one task and one measure."""

    task: str
    measure: str
    """`accuracy`, or a report metric."""
    items: int
    clusters: int
    first: float
    second: float
    difference: float
    low: float
    high: float
    """95 % interval of the difference."""
    only_first: int | None
    """Items that the first run alone got right; None for reports."""
    only_second: int | None
    mcnemar: float | None
    permutation: float
    contaminated: int | None
    """Items that a proof links to the training side, in either run's scores; None where no proof covers them all."""
    holm: float | None = None
    """Corrected over tasks; None for further metrics of a task."""


def compare_scores(first: Sequence[Score], second: Sequence[Score]) -> list[Comparison]:
    """Comparisons of one task: one for choices, one a shared metric for reports.

    Raises: `UserError` where the runs did not score the same items of the same benchmark version.
    """
    if not first or not second:
        raise UserError("a run without scores")
    name = task_label(first[0].task, first[0].variant)
    versions = {score.benchmark for score in (*first, *second)}
    if len(versions) > 1:
        raise UserError(f"{name}: the runs are of different benchmark versions; run both on one build")
    by_id = {score.sample_id: score for score in second}
    if {score.sample_id for score in first} != by_id.keys() or len(first) != len(second):
        shared = sum(score.sample_id in by_id for score in first)
        raise UserError(f"{name}: {shared:,} items in common of {len(first):,} and {len(second):,}; run both whole")
    pairs = [(score, by_id[score.sample_id]) for score in first]
    clusters = [score.cluster for score in first]
    flags = [(a.contaminated, b.contaminated) for a, b in pairs]
    contaminated = None if any(None in flag for flag in flags) else sum(map(any, flags))

    def one(measure: str, values: Sequence[tuple[float, float]], only: tuple[int, int] | None) -> Comparison:
        ours, theirs = [a for a, _ in values], [b for _, b in values]
        interval = paired_interval(ours, theirs, clusters)
        assert interval is not None  # there are items
        return Comparison(
            task=name,
            measure=measure,
            items=len(values),
            clusters=interval.clusters,
            first=sum(ours) / len(ours),
            second=sum(theirs) / len(theirs),
            difference=interval.mean,
            low=interval.low,
            high=interval.high,
            only_first=only[0] if only else None,
            only_second=only[1] if only else None,
            mcnemar=mcnemar(*only) if only else None,
            permutation=permutation(ours, theirs, clusters),
            contaminated=contaminated,
        )

    if first[0].verdict is not None:
        values = [(float(a.strict is True), float(b.strict is True)) for a, b in pairs]
        only = sum(a > b for a, b in values), sum(b > a for a, b in values)
        return [one("accuracy", values, only)]
    shared_metrics = sorted(set(first[0].metrics) & set(second[0].metrics))
    return [one(metric, [(a.metrics[metric], b.metrics[metric]) for a, b in pairs], None) for metric in shared_metrics]


def compare_tasks(pairs: Sequence[tuple[Sequence[Score], Sequence[Score]]]) -> list[Comparison]:
    """Comparisons of tasks, in order, with Holm's correction over them. Raises: `UserError`."""
    compared = [compare_scores(first, second) for first, second in pairs]
    main = {index: _main(rows) for index, rows in enumerate(compared) if rows}
    corrected = holm({str(index): row.permutation for index, row in main.items()})
    return [
        replace(row, holm=corrected[str(index)]) if row is main.get(index) else row
        for index, rows in enumerate(compared)
        for row in rows
    ]


def compare_runs(first: Path, second: Path) -> tuple[list[Comparison], list[str]]:
    """(comparisons in the order of task names, tasks that only one run has). Raises: `UserError`."""
    folders = [
        {path.parent.name: path.parent for path in sorted(run.glob(f"*/{SCORES_FILE}"))} for run in (first, second)
    ]
    for folder, found in zip((first, second), folders, strict=True):
        if not found:
            raise UserError(f"{folder}: holds no scores; run python -m eval.score {folder} first")
    shared = [name for name in folders[0] if name in folders[1]]
    if not shared:
        raise UserError(f"{first} and {second} scored no task in common")
    result = compare_tasks([(read_scored(folders[0][name])[0], read_scored(folders[1][name])[0]) for name in shared])
    return result, sorted(folders[0].keys() ^ folders[1].keys())


def _main(rows: Sequence[Comparison]) -> Comparison:
    by_measure = {row.measure: row for row in rows}
    return next((by_measure[name] for name in ("accuracy", *MAIN_METRICS) if name in by_measure), rows[0])


def describe(row: Comparison) -> str:
    """One line for people; accuracies in percent, metrics as they are."""
    scale, sign, places = (100, " %", 2) if row.measure == "accuracy" else (1, "", 4)
    low, high = (f"{scale * end:+.{places}f}" for end in (row.low, row.high))
    ends = f"[{low}, {high}]" if math.isfinite(row.low) else "(one cluster, so no interval)"
    parts = [
        f"{row.task} {row.measure}: {scale * row.first:.{places}f} vs {scale * row.second:.{places}f}{sign}, "
        f"difference {scale * row.difference:+.{places}f} {ends}"
    ]
    if row.mcnemar is not None:
        parts.append(f"{row.only_first:,} : {row.only_second:,} items alone, McNemar p = {row.mcnemar:.4g}")
    parts.append(f"permutation p = {row.permutation:.4g} ({row.clusters:,} clusters)")
    parts.append(
        f"{row.items:,} items, "
        + ("not all in a certificate" if row.contaminated is None else f"{row.contaminated:,} of them contaminated")
    )
    if row.holm is not None:
        parts.append(f"Holm p = {row.holm:.4g}{'' if row.holm < 0.05 else ', not told from noise'}")
    return "; ".join(parts)


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 compared, 2 cannot be compared."""
    parser = command_parser("eval.compare", "Compare two scored runs item by item.", _EXAMPLE)
    parser.add_argument("first", type=Path, metavar="A", help="scored run folder")
    parser.add_argument("second", type=Path, metavar="B", help="scored run folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the comparisons as JSON")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    rows, alone = compare_runs(options.first, options.second)
    # Infinite ends (one cluster) become null: JSON has no infinity.
    document = {"first": str(options.first), "second": str(options.second), "rows": rows, "alone": alone}
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
    lines = [*map(describe, rows), *([f"only one run has: {', '.join(alone)}"] if alone else [])]
    print(data.decode() if options.json else "\n".join(lines))
    if options.out:
        write_atomic(options.out, data)
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
