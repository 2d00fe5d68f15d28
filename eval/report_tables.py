"""What a report says: runs read back, numbers of their tasks, and the tables made of them."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from eval.audit import Published
from eval.compare import compare_tasks
from eval.records import SCORES_FILE, SUMMARY, TASK, Score, read_scores, task_label
from eval.score import reader_rates
from eval.tasks import TASKS
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
    try:
        identity = orjson.loads((folder / "run.json").read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UserError(
            f"{folder}: no run.json that can be read ({error}); give a folder that eval.run wrote"
        ) from None
    tasks, unscored = {}, []
    for path in sorted(folder.glob(f"*/{TASK}")):
        record = orjson.loads(path.read_bytes())
        if not all((path.parent / name).is_file() for name in (SCORES_FILE, SUMMARY)):
            unscored.append(task_label(record["task"]["name"], record["task"]["variant"]))
            continue
        scores = read_scores(path.parent / SCORES_FILE)
        if {score.benchmark for score in scores} - {record["build_root"]}:
            raise UserError(f"{path.parent}: scores of another benchmark version; run python -m eval.score again")
        result = TaskResult(path.parent, record, scores, orjson.loads((path.parent / SUMMARY).read_bytes()))
        tasks[result.label] = result
    if not tasks:
        first = f"eval.score {folder}" if unscored else "eval.run"
        raise UserError(f"{folder}: holds no scored task; run python -m {first} first")
    return Run(run_name(folder, identity), identity, tasks, tuple(unscored))


def run_name(folder: Path, identity: Mapping[str, Any]) -> str:
    """How a run is called: its card's name, the baseline's, or the folder's."""
    if identity.get("adapter") == "baseline":
        return f"baseline: {identity['baseline']}"
    card = identity.get("card")
    return str(card["name"]) if isinstance(card, dict) else folder.name


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


def main_tables(runs: Sequence[Run], published: Published) -> list[Table]:
    """The paper's tables: a row a model, a column a benchmark and variant, the paper's models below."""
    found = []
    for table, title in TABLES.items():
        columns = _columns(runs, table)
        if not columns:
            continue
        head = ["model", *(_column_head(task) for _, task in columns)]
        rows = [[run.name, *(_main_cell(run, label) for label, _ in columns)] for run in runs]
        rows += _published_rows(published, [task["row"] for _, task in columns])
        found.append(Table(title, head, rows, _TABLE_NOTE))
    return found


def _column_head(task: Mapping[str, Any]) -> str:
    paper = f", paper's n {task['paper_n']:,}" if task["paper_n"] else ""
    return f"{task['row'] or task['name']} ({task['variant']}{paper})"


_TABLE_NOTE = (
    "Ours: strict accuracy in percent with k/n, or the mean of the first report metric that was measured (times 100). "
    "Published: the figures of the paper, most of them off a public copy of its tables (eval/published; ? where not "
    "known), over its own reading of each benchmark; "
    "✗ marks a figure that is 100 k/n for no whole k, ✓ one that is (python -m eval.audit)."
)


def _published_rows(published: Published, columns: Sequence[str]) -> list[list[str]]:
    """A row for each model of the paper, if the paper has one of the columns."""
    known = {row.row: row for row in published.rows}
    if not any(name in known for name in columns):
        return []
    rows = []
    for place, model in enumerate(published.models):
        cells = [model + PUBLISHED]
        for name in columns:
            row = known.get(name)
            mark = "" if row is None or not row.grim else " ✓" if row.grim[place] == "y" else " ✗"
            printed = None if row is None else row.values.get(model)
            unit = "" if row is None or row.metric == "accuracy" or printed is None else f"{row.metric} "
            cells.append("-" if row is None else f"{unit}{printed or '?'}{mark}")
        rows.append(cells)
    return rows


def _columns(runs: Sequence[Run], table: str) -> list[tuple[str, dict[str, Any]]]:
    seen: dict[str, dict[str, Any]] = {}
    for _, label, result in by_task(runs):
        if (result.task["table"] if result.task["table"] in TABLES else "") == table:
            seen.setdefault(label, result.task)
    return list(seen.items())


def _main_cell(run: Run, label: str) -> str:
    result = run.tasks.get(label)
    if result is None:
        return "not scored" if label in run.unscored else "-"
    found = numbers(result.scores)
    if result.task["kind"] == "report":
        name = first_metric(found)
        return f"{name} {100 * found.metrics[name]:.2f}" if name else "not measured"
    return f"{percent(found.accuracy)} ({found.correct}/{found.n})"


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
        one, (low, high) = numbers(result.scores), result.interval
        expected = result.task["expected"]
        rows.append([
            run.name, label, f"{one.n:,}" + (f" of {expected:,}" if expected not in (None, one.n) else ""),
            str(one.correct), percent(one.accuracy), f"{percent(low)} to {percent(high)}",
            _share(one.literal, one.n), _share(one.lenient, one.n), _share(one.invalid, one.n),
            _share(one.truncated, one.n), str(one.unanswered), _share(result.constant, one.n),
        ])  # fmt: skip
    head = ["model", "task", "n", "k", "strict %", "95 %", "literal %", "lenient %", "invalid %", "cut %",
            "no answer", "best constant %"]  # fmt: skip
    note = f"Invalid answers (no one valid option) count as wrong; cut: at the limit. The {reader_rates()}."
    earlier = [
        f"{run.name} {label} by rule {old['mcq']}: {_share(old['correct'], old['items'])} strict, "
        f"{_share(old['invalid'], old['items'])} invalid"
        for run, label, result in by_task(runs)
        if (old := result.summary.get("earlier"))
    ]
    return Table("Every column", head, rows, "; ".join([note, *earlier]))


def open_table(runs: Sequence[Run]) -> Table:
    """Open questions and log-likelihoods: measures beside the strict score, of the items that have them."""
    return _measures(runs, "choice", "Further measures of questions")


def reports_table(runs: Sequence[Run]) -> Table:
    """Every report task: mean of each metric over the items that have it."""
    return _measures(runs, "report", "Reports")


def _measures(runs: Sequence[Run], kind: str, title: str) -> Table:
    found = [
        (run.name, label, one)
        for run, label, result in by_task(runs)
        if result.task["kind"] == kind and ((one := numbers(result.scores)).metrics or kind == "report")
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


def contamination_table(runs: Sequence[Run]) -> Table:
    """Clean and contaminated items apart."""
    rows = []
    for run, label, result in by_task(runs):
        parts = {flag: [s for s in result.scores if s.contaminated is flag] for flag in (False, True, None)}
        if parts[None]:
            rows.append([run.name, label, "no proof covers it", "-", "-", "-", "-"])
            continue
        kinds = Counter(kind for score in parts[True] for kind in score.evidence)
        what = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())) or "-"
        clean, dirty = ([f"{len(parts[flag]):,}", _part_value(result, parts[flag])] for flag in (False, True))
        rows.append([run.name, label, *clean, *dirty, what])
    head = ["model", "task", "clean n", "clean", "contaminated n", "contaminated", "evidence (items)"]
    note = (
        "Contaminated: the proof links the item to a sample of the training side. A model trained on certified shards "
        "saw neither part, since those samples are excluded; any other model may have seen the second."
    )
    return Table("Clean and contaminated items", head, rows, note)


def _part_value(result: TaskResult, scores: Sequence[Score]) -> str:
    if not scores:
        return "-"
    found = numbers(scores)
    if result.task["kind"] == "choice":
        return f"{percent(found.accuracy)} %"
    name = first_metric(found)
    return f"{name} {found.metrics[name]:.4f}" if name else "not measured"


def slices_table(runs: Sequence[Run]) -> Table:
    """By the publisher's subsets, and, for reports, without items whose worked example shows the very answer."""
    rows = []
    for run, label, result in by_task(runs):
        names = sorted({score.slice for score in result.scores})
        for name in names if len(names) > 1 else ():
            scores = [score for score in result.scores if score.slice == name]
            rows.append([run.name, label, name, f"{len(scores):,}", _part_value(result, scores)])
        if any(score.exemplar_is_gold for score in result.scores):
            rest = [score for score in result.scores if not score.exemplar_is_gold]
            what = "worked example is not the answer"
            rows.append([run.name, label, what, f"{len(rest):,}", _part_value(result, rest)])
    return Table("Slices", ["model", "task", "slice", "n", "score"], rows)


def differences_table(runs: Sequence[Run]) -> Table:
    """The first run against each other one, on tasks that both answered the same items of."""
    rows = []
    for other in runs[1:]:
        pairs = []
        for task in (name for _, name, _ in by_task(runs[:1]) if name in other.tasks):
            pair = runs[0].tasks[task].scores, other.tasks[task].scores
            if {(s.benchmark, s.sample_id) for s in pair[0]} != {(s.benchmark, s.sample_id) for s in pair[1]}:
                rows.append([other.name, task, "not compared: other items", *["-"] * 9])
            else:
                pairs.append(pair)
        for row in compare_tasks(pairs):
            if row.holm is None:
                continue
            accuracy = row.measure == "accuracy"
            scale, places = (100, 2) if accuracy else (1, 4)
            rows.append([
                other.name, row.task, row.measure, f"{row.items:,} ({row.clusters:,})",
                *(f"{scale * value:.{places}f}" for value in (row.first, row.second)),
                f"{scale * row.difference:+.{places}f}",
                "one cluster" if row.low == -math.inf else
                f"{scale * row.low:+.{places}f} to {scale * row.high:+.{places}f}",
                "-" if row.only_first is None else f"{row.only_first:,} : {row.only_second:,}",
                "-" if row.mcnemar is None else f"{row.mcnemar:.2g}", f"{row.permutation:.2g}",
                f"{row.holm:.2g}" + ("" if row.holm < SIGNIFICANT else " (noise)"),
            ])  # fmt: skip
    head = ["against", "task", "measure", "items (clusters)", runs[0].name, "the other", "difference", "95 %",
            "alone right", "McNemar p", "permutation p", "Holm p"]  # fmt: skip
    note = f"Holm's correction is over the tasks of a pair; noise: {SIGNIFICANT} or more."
    return Table(f"Differences: {runs[0].name} against the others", head, rows, note)


def all_tables(runs: Sequence[Run], published: Published) -> list[Table]:
    """The tables that have rows, in order."""
    further: list[Callable[[Sequence[Run]], Table]] = [
        contamination_table, differences_table, detail_table, open_table, reports_table, slices_table
    ]  # fmt: skip
    return [*main_tables(runs, published), *(table for make in further if (table := make(runs)).rows)]
