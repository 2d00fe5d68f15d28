"""How a report looks: one HTML page that loads nothing, with plot and single questions, and Markdown of the tables."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from eval.records import ITEMS, Item, Prediction, Score, read_items
from eval.report_tables import PUBLISHED, TABLES, Run, Table, TaskResult, by_task, numbers, percent
from eval.samples import scored_predictions
from eval.tasks import Question, Task, open_benchmarks
from medgpt.errors import UserError
from medgpt.page import render

THUMBNAIL = 320
"""Longest side of a picture in the page."""


# Single questions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Given:
    """What one run said to a question."""

    run: str
    score: Score
    prediction: Prediction


@dataclass(frozen=True)
class ShownItem:
    """One question with the answers of all runs; `question` is None where it may not be shown, or without builds."""

    item: Item
    question: Question | None
    answers: list[Given]


def samples_of(
    results: Mapping[str, TaskResult], data: Path | None, limit: int, show_credentialed: bool
) -> list[ShownItem]:
    """The first `limit` questions of a task (`results`: by run), those that fewest runs got right first.

    Questions are read from the builds under `data`. Of credentialed ones only ids and verdicts are given, unless asked.
    Raises: `UserError` where the build is not the one that was asked.
    """
    items: dict[str, Item] = {}
    answers: dict[str, list[Given]] = {}
    for name, result in results.items():
        items |= {item.sample_id: item for item in read_items(result.folder / ITEMS)}
        predictions = {one.sample_id: one for one in scored_predictions(result.folder, result.summary)}
        for score in result.scores:
            answers.setdefault(score.sample_id, []).append(Given(name, score, predictions[score.sample_id]))
    # Every run's version is checked; they are the same build then.
    benchmarks = [_benchmark(result, data) for result in results.values()] if data else []
    benchmark = benchmarks[0] if benchmarks else None
    found: list[ShownItem] = []
    for sample_id in sorted(answers, key=lambda one: sum(given.score.verdict == "correct" for given in answers[one])):
        if len(found) == limit:
            break
        shown = benchmark is not None and (show_credentialed or items[sample_id].access != "credentialed")
        question = benchmark.read(sample_id) if benchmark is not None and shown else None
        found.append(ShownItem(items[sample_id], question, answers[sample_id]))
    return found


def _benchmark(result: TaskResult, data: Path) -> Any:
    [benchmark] = open_benchmarks(data, [msgspec.convert(result.task, Task)])
    if benchmark.root != result.record["build_root"]:
        raise UserError(
            f"{benchmark.folder}: another version of the benchmark than the one asked ({benchmark.root[:12]}, asked "
            f"{result.record['build_root'][:12]}); give the --data of the run, or leave --data out"
        )
    return benchmark


def thumbnail(image: bytes) -> bytes:
    """A picture as JPEG, at most `THUMBNAIL` pixels a side, without metadata."""
    from medgpt.pictures import open_picture

    small = open_picture(image, "RGB", at_least=THUMBNAIL)
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


# The page ------------------------------------------------------------------------------------------------------------

_WORDS = {"model", "task", "against", "measure", "slice", "evidence (items)"}
"""Columns of text; the others hold numbers."""
_COLOURS = {"correct": "good", "wrong": "bad", "invalid": "odd"}


def render_html(runs: Sequence[Run], tables: Sequence[Table], browser: Mapping[str, list[ShownItem]]) -> str:
    """The page. `browser`: samples by task label."""
    of_paper = sum(table.title in TABLES.values() for table in tables)
    sections = [(f"t{number}", table.title.partition(":")[0]) for number, table in enumerate(tables)]
    sections.insert(of_paper, ("plot", "Intervals"))
    if browser:
        sections.append(("questions", "Single questions"))
    samples = [one for part in browser.values() for one in part]
    short = {
        f"{label} {len(result.scores):,} of {result.task['expected']:,}": None
        for _, label, result in by_task(runs)
        if result.task["expected"] not in (None, len(result.scores))
    }
    return render(
        Path(__file__).parent, "report.html", runs=len(runs), facts=facts(runs), sections=sections, short=list(short),
        credentialed=any(one.question is not None and one.item.access == "credentialed" for one in samples),
        tables=[
            {"title": table.title, "rows": table.rows, "note": table.note,
             "columns": [(head, "" if head in _WORDS else "number") for head in table.head]}
            for table in tables
        ],
        of_paper=of_paper, published=PUBLISHED, plot=_plot(runs), thumbnail=thumbnail,
        browser={label: [_shown(one) for one in part] for label, part in browser.items()},
    )  # fmt: skip


def facts(runs: Sequence[Run]) -> list[str]:
    """Who was asked how, and what certificate stands behind it: one line a run."""
    lines = []
    for run in runs:
        roots = {result.summary["certificate"] for result in run.tasks.values()}
        proof = ", ".join(sorted(root or "none" for root in roots))
        card = run.identity.get("card")
        digest = run.identity.get("checkpoint_sha256")
        model = f", checkpoint {digest}" if digest else ""
        if card and (card.get("revision") or not digest):
            model += f", revision {card['revision']} as declared" if card.get("revision") else ", revision not pinned"
        lines.append(f"{run.name}: adapter {run.identity['adapter']}{model}; certificate {proof}")
        uncovered = sorted(label for label, result in run.tasks.items() if result.summary["certificate"] is None)
        if uncovered and roots != {None}:
            lines.append(f"{run.name}: no certificate covers {', '.join(uncovered)}")
        if run.unscored:
            lines.append(f"{run.name}: NOT SCORED: {', '.join(run.unscored)}; python -m eval.score says why")
        limited = sorted(label for label, result in run.tasks.items() if result.record["limit"] is not None)
        if limited:
            lines.append(f"{run.name}: only the first questions were asked (--limit) of {', '.join(limited)}")
    return lines


def _plot(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Strict accuracy with 95 % intervals and of clean and contaminated items, a line a task and run; in pixels."""

    def place(share: float) -> float:
        return round(330 + 560 * share, 1)

    lines = []
    for run, label, result in by_task(runs):
        if result.task["kind"] != "choice":
            continue
        one, (low, high) = numbers(result.scores), result.interval
        name = f"{label} · {run.name}"
        words = f"{name}: {percent(one.accuracy)} % ({one.correct}/{one.n})"
        parts: dict[str, float | None] = {}
        for flag, part in ((False, "clean"), (True, "contaminated")):
            found = numbers([score for score in result.scores if score.contaminated is flag])
            parts[part] = place(found.accuracy) if found.n else None
            words += f", {part} {percent(found.accuracy)} % ({found.correct}/{found.n})" if found.n else ""
        lines.append({
            "name": name, "words": f"{words}, 95 % {percent(low)} to {percent(high)}",
            "low": place(low), "high": place(high), "all": place(one.accuracy), **parts,
            "best": place(result.constant / one.n if one.n else 0),
        })  # fmt: skip
    return lines


def _shown(one: ShownItem) -> dict[str, Any]:
    """A question as the page shows it; `find` is what its filter looks in."""
    first = one.answers[0].score
    answers = []
    for given in one.answers:
        score, verdict = given.score, given.score.verdict or "scored"
        read = [f"read as {score.option}" if score.option else "no option read", score.rule, score.detail]
        detail = [*(read if score.verdict else []), "cut at the limit of new tokens" if score.truncated else None]
        answers.append({
            "run": given.run, "kind": _COLOURS.get(verdict, ""), "prediction": given.prediction,
            "state": verdict if score.outcome == "answered" else f"{verdict}, {score.outcome}",
            "detail": [part for part in detail if part] + [f"{n} {v:.4f}" for n, v in sorted(score.metrics.items())],
        })  # fmt: skip
    words = [one.item.sample_id, *(["contaminated"] if first.contaminated else [])]
    if one.question is not None:
        words += [part.get("text", "") for turn in one.question.messages for part in turn["content"]]
    words += [f"{given['run']} {given['state']}" for given in answers]
    return {
        "item": one.item, "question": one.question, "evidence": first.evidence, "answers": answers,
        "find": " ".join(words).lower(),
        "gold": one.item.gold + "".join(f". {text}" for label, text in one.item.options if label == one.item.gold),
    }  # fmt: skip


def render_markdown(runs: Sequence[Run], tables: Sequence[Table]) -> str:
    """The same tables without plots and single questions."""
    parts = ["# Evaluation", *(f"- {_plain(line)}" for line in facts(runs))]
    for table in tables:
        parts += ["", f"## {_plain(table.title)}", "", _row(table.head), _row(["---"] * len(table.head))]
        parts += [_row(row) for row in table.rows]
        if table.note:
            parts += ["", table.note]
    return "\n".join(parts) + "\n"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell) for cell in cells)} |"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
