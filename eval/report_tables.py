"""What a report says: runs read back, numbers of their tasks, and the tables made of them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from eval.audit import Published, PublishedRow
from eval.compare import compare_tasks
from eval.records import SCORES_FILE, SUMMARY, TASK, Score, read_object, read_scored, task_label
from eval.statistics import FEW_CLUSTERS, FEW_CLUSTERS_SAY
from eval.tasks import TASKS
from eval.versions import reader_rates
from medgpt.errors import UserError

TABLES = {
    "4": "Table 4: questions about pictures",
    "5": "Table 5: questions in text",
    "6": "Table 6: in context, without and with one worked example",
    "Figure 2": "Figure 2: findings from several views and the prior study",
    "": "Further tasks",
}
REPORT_METRICS = ("ratescore", "radgraph_partial", "radcliq_v1", "bleu4", "rouge_l", "bertscore", "chexbert_14")
"""Order of report metrics; those that were not measured have no column."""
PUBLISHED = ", as published"
"""After a model's name: the row is the paper's, not ours."""
SIGNIFICANT = 0.05
"""Corrected p-values below this are more than noise."""


@dataclass(frozen=True)
class Numbers:
    """What a set of scored items amounts to. Shares are 0..1."""

    n: int
    correct: int = 0
    invalid: int = 0
    truncated: int = 0
    unanswered: int = 0
    literal: int = 0
    lenient: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """Means over the items that have the metric."""
    measured: Mapping[str, int] = field(default_factory=dict)

    @property
    def accuracy(self) -> float:
        """Share of correct items."""
        return self.correct / self.n if self.n else 0.0


def numbers(scores: Sequence[Score]) -> Numbers:
    """Counts and means."""
    names = sorted({name for score in scores for name in score.metrics})
    values = {name: [score.metrics[name] for score in scores if name in score.metrics] for name in names}
    return Numbers(
        n=len(scores),
        correct=sum(score.strict is True for score in scores),
        invalid=sum(score.verdict == "invalid" for score in scores),
        truncated=sum(score.truncated for score in scores),
        unanswered=sum(score.outcome != "answered" for score in scores),
        literal=sum(score.literal is True for score in scores),
        lenient=sum(score.lenient is True for score in scores),
        metrics={name: sum(given) / len(given) for name, given in values.items()},
        measured={name: len(given) for name, given in values.items()},
    )


@dataclass(frozen=True)
class TaskResult:
    """One scored task of one run."""

    folder: Path
    record: dict[str, Any]
    """`task.json`."""
    scores: list[Score]
    summary: dict[str, Any]
    """`summary.json` of `eval.score`."""

    @cached_property
    def numbers(self) -> Numbers:
        """Counts and means of all items."""
        return numbers(self.scores)

    @property
    def measure(self) -> str:
        """What tables show of it first: `accuracy`, or the first report metric that was measured."""
        return "accuracy" if self.task["kind"] == "choice" else first_metric(self.numbers) or "no metric measured"

    @property
    def constant(self) -> int:
        """Items of a choice task that the best constant answer gets right: one letter, or one option's text."""
        found = [self.summary[name] for name in ("majority_label", "majority_text") if name in self.summary]
        return max((int(one["correct"]) for one in found), default=0)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the share of correct items (`eval.score`); 0 to 1 where one cluster says nothing."""
        found = self.summary["parts"]["all"]["interval"]
        low, high = found["low"], found["high"]
        return (0.0 if low is None else max(0.0, low)), (1.0 if high is None else min(1.0, high))

    @property
    def task(self) -> dict[str, Any]:
        """The declaration."""
        declared: dict[str, Any] = self.record["task"]
        return declared

    @property
    def label(self) -> str:
        """`slake`, `slake:paper`."""
        return task_label(self.task["name"], self.task["variant"])


@dataclass(frozen=True)
class Run:
    """All scored tasks of one model."""

    name: str
    identity: dict[str, Any]
    tasks: dict[str, TaskResult]
    """By label."""
    unscored: tuple[str, ...] = ()
    """Labels of tasks that have no scores: not finished, or `eval.score` said why."""


def read_run(folder: Path) -> Run:
    """A run folder. Raises: `UserError`, also where nothing is scored; `UserError` for damaged scores."""
    identity = read_object(folder / "run.json")
    tasks, unscored = {}, []
    for path in sorted(folder.glob(f"*/{TASK}")):
        record = read_object(path, "task", "build_root")
        if not all((path.parent / name).is_file() for name in (SCORES_FILE, SUMMARY)):
            unscored.append(task_label(record["task"]["name"], record["task"]["variant"]))
            continue
        scores, summary = read_scored(path.parent)
        if {score.benchmark for score in scores} - {record["build_root"]}:
            raise UserError(f"{path.parent}: scores of another benchmark version; run python -m eval.score again")
        result = TaskResult(path.parent, record, scores, summary)
        tasks[result.label] = result
    if not tasks:
        first = f"eval.score {folder}" if unscored else "eval.run"
        raise UserError(f"{folder}: holds no scored task; run python -m {first} first")
    return Run(run_name(folder, identity), identity, tasks, tuple(unscored))


def run_name(folder: Path, identity: Mapping[str, Any]) -> str:
    """How a run is called: its card's name, the baseline's, or the folder's."""
    if identity.get("adapter") == "baseline":
        return f"baseline: {identity.get('baseline')}"
    card = identity.get("card")
    return str(card.get("name", folder.name)) if isinstance(card, dict) else folder.name


# Both formats --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """A table of either format."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def percent(share: float) -> str:
    """A share of 0..1 as a percentage with two decimals, without the sign."""
    return f"{100 * share:.2f}"


def _share(count: int, n: int) -> str:
    return f"{100 * count / n:.1f}" if n else "-"


@dataclass(frozen=True)
class _Column:
    """A column of a paper's table: one task under one measure, in the paper's reading or another."""

    label: str
    row: PublishedRow | None
    """The paper's row, whose figures stand in this column alone: they are of this reading."""
    metric: str
    """`accuracy`, a report metric, or the paper's name for one."""
    head: str


def main_tables(runs: Sequence[Run], published: Published) -> list[Table]:
    """The paper's tables, whole: a row a model, a column a benchmark, reading and measure, the paper's models below.

    A table appears where a run has one of its tasks; tasks that the paper has no row for follow in one of their own.
    """
    found = []
    for table, title in TABLES.items():
        columns = _columns(runs, published, table)
        if not columns:
            continue
        head = ["model", *(column.head for column in columns)]
        rows = [[run.name, *(_main_cell(run, column) for column in columns)] for run in runs]
        if any(column.row for column in columns):
            rows += [
                [model + PUBLISHED, *(_printed(column.row, model, place) for column in columns)]
                for place, model in enumerate(published.models)
            ]
        found.append(Table(title, head, rows, _TABLE_NOTE))
    return found


_TABLE_NOTE = (
    "Ours: strict accuracy in percent with k/n, or the mean of the report metric that the column names. Each reading "
    "of a benchmark has its own column; published figures (eval/published; ?: none is printed) stand in the paper's. "
    "✗ marks a figure that is 100 k/n for no whole k, ✓ one that is (python -m eval.audit)."
)
_PAPERS_METRICS = {
    "RaTEScore x 100": ("ratescore", 100),
    "RaTEScore": ("ratescore", 1),
    "RadGraph-F1": ("radgraph_partial", 1),
    "1/RadCliQ-v1": ("radcliq_v1_reciprocal", 1),
}
"""(our name, factor) of the paper's metrics."""


def _printed(row: PublishedRow | None, model: str, place: int) -> str:
    if row is None:
        return "-"
    mark = "" if not row.grim else " ✓" if row.grim[place] == "y" else " ✗"
    return f"{row.values.get(model) or '?'}{mark}"


def _columns(runs: Sequence[Run], published: Published, table: str) -> list[_Column]:
    seen = {
        label: result
        for _, label, result in by_task(runs)
        if (result.task["table"] if result.task["table"] in TABLES else "") == table
    }
    columns: list[_Column] = []

    def further(name: str | None) -> None:
        """Columns of tasks (of a row `name`, or of any) that have none yet."""
        for label, result in seen.items():
            if name in (None, result.task["row"]) and label not in {column.label for column in columns}:
                unit = "" if result.measure == "accuracy" else f"{result.measure}, "
                head = f"{result.task['row'] or result.task['name']} ({unit}{result.task['variant']})"
                columns.append(_Column(label, None, result.measure, head))

    rows = [row for row in published.rows if row.table == table] if seen else []
    for place, row in enumerate(rows):
        readings = [task.label for task in TASKS if task.row == row.row]
        # A row without a reading that is the paper's has one reading.
        label = next((one for one in readings if one.endswith(":paper")), readings[0] if readings else row.row)
        unit = "" if row.metric == "accuracy" else f"{row.metric}, "
        columns.append(_Column(label, row, row.metric, f"{row.row} ({unit}the paper's reading, n {row.n:,})"))
        if row.row not in {later.row for later in rows[place + 1 :]}:
            further(row.row)
    further(None)
    return columns


def _main_cell(run: Run, column: _Column) -> str:
    result = run.tasks.get(column.label)
    if result is None:
        return "not scored" if column.label in run.unscored else "-"
    found = result.numbers
    if column.metric == "accuracy":
        return f"{percent(found.accuracy)} ({found.correct}/{found.n})"
    name, factor = _PAPERS_METRICS.get(column.metric, (column.metric, 1))
    value = found.metrics.get(name, result.summary.get("corpus", {}).get(name))
    return "not measured" if value is None else f"{factor * value:.{2 if factor > 1 else 4}f}"


def first_metric(found: Numbers) -> str | None:
    """The first report metric that was measured, in the order of `REPORT_METRICS`, then by name."""
    known = [name for name in REPORT_METRICS if name in found.metrics]
    return next(iter([*known, *sorted(found.metrics)]), None)


def by_task(runs: Sequence[Run]) -> list[tuple[Run, str, TaskResult]]:
    """Every task of every run: a task's runs one below the other, tasks in the order of the tables."""
    order = [task.label for task in TASKS]
    labels = {label for run in runs for label in run.tasks}
    ordered = sorted(labels, key=lambda label: (order.index(label) if label in order else len(order), label))
    return [(run, label, run.tasks[label]) for label in ordered for run in runs if label in run.tasks]


def detail_table(runs: Sequence[Run]) -> Table:
    """Every choice task of every run with all of its columns."""
    rows = []
    for run, label, result in by_task(runs):
        if result.task["kind"] != "choice":
            continue
        one, (low, high) = result.numbers, result.interval
        expected = result.task["expected"]
        few = " !" if result.summary["clusters"] < FEW_CLUSTERS else ""
        rows.append([
            run.name, label, f"{one.n:,}" + (f" of {expected:,}" if expected not in (None, one.n) else ""),
            str(one.correct), percent(one.accuracy), f"{percent(low)} to {percent(high)}{few}",
            _share(one.literal, one.n), _share(one.lenient, one.n), _share(one.invalid, one.n),
            _share(one.truncated, one.n), str(one.unanswered), _share(result.constant, one.n),
        ])  # fmt: skip
    head = ["model", "task", "n", "k", "strict %", "95 %", "literal %", "lenient %", "invalid %", "cut %",
            "no answer", "best constant %"]  # fmt: skip
    note = f"Invalid answers (no one valid option) count as wrong; cut: at the limit. The {reader_rates()}."
    if any("!" in row[5] for row in rows):
        note += f" !: {FEW_CLUSTERS_SAY}."
    earlier = [
        f"{run.name} {label} by rule {old['mcq']}: {_share(old['correct'], old['items'])} strict, "
        f"{_share(old['invalid'], old['items'])} invalid"
        for run, label, result in by_task(runs)
        if (old := result.summary.get("earlier"))
    ]
    return Table("Every column", head, rows, "; ".join([note, *earlier]))


def measures_table(runs: Sequence[Run], kind: str, title: str) -> Table:
    """Reports: mean of each metric over the items that have it; choices: open questions, log-likelihoods likewise."""
    found = [
        (run.name, label, one)
        for run, label, result in by_task(runs)
        if result.task["kind"] == kind and ((one := result.numbers).metrics or kind == "report")
    ]
    names = {name for _, _, one in found for name in one.metrics}
    order = [*(name for name in REPORT_METRICS if name in names), *sorted(names - set(REPORT_METRICS))]
    rows = [
        [name, label, f"{one.n:,}", _share(one.truncated, one.n), str(one.unanswered),
         *(_metric(one, metric) for metric in order)]
        for name, label, one in found
    ]  # fmt: skip
    gaps: dict[str, dict[str, None]] = {}
    for _, _, result in by_task(runs):
        for metric, why in result.summary.get("gaps", {}).items():
            gaps.setdefault(why, {})[metric] = None
    note = "Means over the items in brackets, if not all."
    if gaps:
        reasons = [f"{', '.join(sorted(metrics))} ({why})" for why, metrics in sorted(gaps.items())]
        note += f" Not measured: {'; '.join(reasons)}."
    judges = [result.summary["judge"] for _, _, result in by_task(runs) if "judge" in result.summary]
    for name, prompt in sorted({(judge["model"], judge["prompt"]) for judge in judges} if kind == "choice" else ()):
        note += f" judge:{name} is a language model's verdict, to this prompt: {prompt}"
    return Table(title, ["model", "task", "n", "cut %", "no answer", *order], rows, note)


def _metric(one: Numbers, name: str) -> str:
    if name not in one.metrics:
        return "-"
    rest = f" ({one.measured[name]:,})" if one.measured[name] != one.n else ""
    return f"{one.metrics[name]:.4f}{rest}"


def _by_measure(title: str, head: list[str], rows: Sequence[tuple[str, list[str]]], note: str = "") -> list[Table]:
    """A table a measure: numbers of different kinds never share a column. `rows`: (measure, cells)."""
    measures = dict.fromkeys(measure for measure, _ in rows)
    return [
        Table(f"{title}: {measure}{' in %' if measure == 'accuracy' else ''}", head,
              [cells for name, cells in rows if name == measure], note)
        for measure in measures
    ]  # fmt: skip


def contamination_tables(runs: Sequence[Run]) -> list[Table]:
    """Clean and contaminated items apart."""
    rows = []
    for run, label, result in by_task(runs):
        parts = {flag: [s for s in result.scores if s.contaminated is flag] for flag in (False, True, None)}
        if parts[None]:
            rows.append((result.measure, [run.name, label, "-", "-", "-", "-", "no proof covers it"]))
            continue
        kinds = Counter(kind for score in parts[True] for kind in score.evidence)
        what = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "-"
        clean, dirty = ([f"{len(parts[flag]):,}", _part_value(result, parts[flag])] for flag in (False, True))
        rows.append((result.measure, [run.name, label, *clean, *dirty, what]))
    head = ["model", "task", "clean n", "clean", "contaminated n", "contaminated", "evidence (items)"]
    note = (
        "Contaminated: the proof links the item to a sample of the training side. A model trained on certified shards "
        "saw neither part, since those samples are excluded; any other model may have seen the second."
    )
    return _by_measure("Clean and contaminated items", head, rows, note)


def _part_value(result: TaskResult, scores: Sequence[Score]) -> str:
    """Of a part of a task's items, in the task's measure."""
    found = numbers(scores)
    if result.measure == "accuracy":
        return percent(found.accuracy) if scores else "-"
    return f"{found.metrics[result.measure]:.4f}" if result.measure in found.metrics else "-"


def slices_tables(runs: Sequence[Run]) -> list[Table]:
    """By the publisher's subsets, and, for reports, without items whose worked example shows the very answer."""
    rows = []
    for run, label, result in by_task(runs):
        parts: dict[str, list[Score]] = {}
        for score in result.scores:
            parts.setdefault(score.slice, []).append(score)
        if len(parts) == 1:
            parts.clear()
        parts = dict(sorted(parts.items()))
        if any(score.exemplar_is_gold for score in result.scores):
            parts["worked example is not the answer"] = [one for one in result.scores if not one.exemplar_is_gold]
        for name, scores in parts.items():
            rows.append((result.measure, [run.name, label, name, f"{len(scores):,}", _part_value(result, scores)]))
    return _by_measure("Slices", ["model", "task", "slice", "n", "score"], rows)


def differences_tables(runs: Sequence[Run]) -> list[Table]:
    """The first run against each other one, on tasks that both answered the same items of."""
    rows = []
    for other in runs[1:]:
        pairs = []
        for task in (name for _, name, _ in by_task(runs[:1]) if name in other.tasks):
            pair = runs[0].tasks[task].scores, other.tasks[task].scores
            if {(s.benchmark, s.sample_id) for s in pair[0]} != {(s.benchmark, s.sample_id) for s in pair[1]}:
                cells = [other.name, task, "not compared: other items", *["-"] * 8]
                rows.append((runs[0].tasks[task].measure, cells))
            else:
                pairs.append(pair)
        for row in compare_tasks(pairs):
            if row.holm is None:
                continue
            scale, places = (100, 2) if row.measure == "accuracy" else (1, 4)
            few = " !" if row.clusters < FEW_CLUSTERS else ""
            rows.append((row.measure, [
                other.name, row.task, f"{row.items:,} ({row.clusters:,})",
                *(f"{scale * value:.{places}f}" for value in (row.first, row.second)),
                f"{scale * row.difference:+.{places}f}",
                "one cluster" if row.low == -math.inf else
                f"{scale * row.low:+.{places}f} to {scale * row.high:+.{places}f}{few}",
                "-" if row.only_first is None else f"{row.only_first:,} : {row.only_second:,}",
                "-" if row.mcnemar is None else f"{row.mcnemar:.2g}", f"{row.permutation:.2g}",
                f"{row.holm:.2g}" + ("" if row.holm < SIGNIFICANT else " (noise)"),
            ]))  # fmt: skip
    head = ["against", "task", "items (clusters)", runs[0].name, "the other", "difference", "95 %",
            "alone right", "McNemar p", "permutation p", "Holm p"]  # fmt: skip
    note = f"Holm's correction is over the tasks of a pair; noise: {SIGNIFICANT} or more."
    if any("!" in cells[6] for _, cells in rows):
        note += f" !: {FEW_CLUSTERS_SAY}."
    return _by_measure(f"Differences of {runs[0].name} from the others", head, rows, note)


def few_clusters(runs: Sequence[Run]) -> list[str]:
    """Tasks whose items make few clusters, and how many."""
    return list(dict.fromkeys(
        f"{label} ({result.summary['clusters']})"
        for _, label, result in by_task(runs)
        if result.summary["clusters"] < FEW_CLUSTERS
    ))  # fmt: skip


def all_tables(runs: Sequence[Run], published: Published) -> list[Table]:
    """The tables that have rows, in order."""
    further = [
        *contamination_tables(runs), *differences_tables(runs), detail_table(runs),
        measures_table(runs, "choice", "Further measures of questions"), measures_table(runs, "report", "Reports"),
        *slices_tables(runs),
    ]  # fmt: skip
    return [*main_tables(runs, published), *(table for table in further if table.rows)]
