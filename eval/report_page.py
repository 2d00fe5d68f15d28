"""How a report looks: one HTML page with tables and plot, files of single questions beside it, and Markdown."""

import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson
from tqdm import tqdm

from eval.records import ITEMS, PROMPTS, Item, Prediction, Prompt, Score, read_items, read_prompts, scored_predictions
from eval.report_tables import PUBLISHED, TABLES, Run, Table, TaskResult, by_task, few_clusters, numbers, percent
from eval.statistics import FEW_CLUSTERS_SAY
from eval.tasks import Task, open_benchmarks
from medgpt.atomic import write_atomic
from medgpt.errors import UserError
from medgpt.page import data_url, render
from medgpt.private import CREDENTIALED, make_folder
from medgpt.tables import markdown

THUMBNAIL = 320
"""Longest side of a picture in the page."""
FILE_BYTES = 1_000_000
"""A file of items ends where it has grown to this: so much a browser loads for a page of questions."""


# Single questions ----------------------------------------------------------------------------------------------------


def write_items(
    folder: Path, runs: Sequence[Run], data: Path | None, limit: int | None, show_credentialed: bool
) -> bool:
    """Write the item browser's files into `folder`; returns whether they hold anything credentialed.

    `index.js` has what the filters need of every item, `0.js`, `1.js`, ... the items: each is a call of a function of
    the page, so that they load from a disk too. Of a task come first what fewest runs got right, at most `limit`.
    Questions are those of the run's prompts; `data` adds pictures, and questions that a run did not keep. Of
    credentialed ones only ids and verdicts are given, unless asked.
    Raises: `UserError` where a build is not the one that was asked.
    """
    make_folder(folder)
    for old in folder.glob("[0-9]*.js"):
        old.unlink()
    tasks: dict[str, dict[int, TaskResult]] = {}
    for run, label, result in by_task(runs):
        tasks.setdefault(label, {})[runs.index(run)] = result
    listed, number, credentialed = [], 0, False
    for label, results in tasks.items():
        found = _items_of(label, results, data, limit, show_credentialed)
        verdicts: list[list[str]] = [[] for _ in runs]
        slices: dict[str, int] = {}
        entry: dict[str, Any] = {"label": label, "slice": [], "contaminated": [], "files": []}
        lines: list[bytes] = []
        size = 0
        for score, given, shown in found:
            credentialed = credentialed or (score.access == CREDENTIALED and "turns" in shown)
            for place, one in enumerate(verdicts):
                one.append(_LETTERS[given[place].verdict] if place in given else "-")
            entry["slice"].append(slices.setdefault(score.slice, len(slices)))
            entry["contaminated"].append({True: "y", False: "n", None: "?"}[score.contaminated])
            lines.append(orjson.dumps(shown))
            size += len(lines[-1])
            if size > FILE_BYTES:
                number = _write_file(folder, number, entry, lines)
                size = 0
        number = _write_file(folder, number, entry, lines)
        entry |= {"verdicts": ["".join(one) for one in verdicts], "slices": list(slices)}
        listed.append(entry | {"contaminated": "".join(entry["contaminated"])})
    index = {"runs": [run.name for run in runs], "tasks": listed}
    write_atomic(folder / "index.js", b"contents(%b);\n" % orjson.dumps(index))
    return credentialed


_LETTERS = {"correct": "c", "wrong": "w", "invalid": "i", None: "s"}


def _write_file(folder: Path, number: int, entry: dict[str, Any], lines: list[bytes]) -> int:
    """Write a file of items, if there are any, and note it; returns the next file's number."""
    if not lines:
        return number
    write_atomic(folder / f"{number}.js", b"items(%d,[\n%b\n]);\n" % (number, b",\n".join(lines)))
    entry["files"].append([number, len(entry["slice"]) - len(lines)])
    lines.clear()
    return number + 1


def _items_of(
    label: str, results: Mapping[int, TaskResult], data: Path | None, limit: int | None, show: bool
) -> Iterator[tuple[Score, dict[int, Score], dict[str, Any]]]:
    """(a score, scores by run, the item as the page shows it) of a task's items, in the browser's order."""
    items: dict[str, Item] = {}
    prompts: dict[str, Prompt] = {}
    asked: dict[str, set[str]] = {}
    scores: dict[str, dict[int, Score]] = {}
    said: dict[int, dict[str, Prediction]] = {}
    for place, result in results.items():
        for score in result.scores:
            scores.setdefault(score.sample_id, {})[place] = score
        said[place] = {one.sample_id: one for one in scored_predictions(result.folder, result.summary)}
        for one in said[place].values():
            asked.setdefault(one.sample_id, set()).add(one.prompt_sha256)
        if scores.keys() <= items.keys():
            continue
        items |= {item.sample_id: item for item in read_items(result.folder / ITEMS)}
        if (path := result.folder / PROMPTS).is_file():
            prompts |= {prompt.sample_id: prompt for prompt in read_prompts(path)}
    # Every run's version is checked; they are the same build then.
    benchmarks = [_benchmark(result, data) for result in results.values()] if data else []
    order = sorted(scores, key=lambda one: sum(score.strict is True for score in scores[one].values()))[:limit]
    for sample_id in tqdm(order, f"{label}: questions", disable=None, dynamic_ncols=True):
        item, given = items[sample_id], scores[sample_id]
        first = next(iter(given.values()))
        shown: dict[str, Any] = {"id": sample_id, "evidence": first.evidence}
        readable = show or item.access != CREDENTIALED
        turns = prompts[sample_id].messages if sample_id in prompts else None
        if readable:
            if benchmarks and (item.images or turns is None):
                question = benchmarks[0].read(sample_id)
                turns = turns or question.messages
                shown["pictures"] = [data_url(thumbnail(image)) for image in question.images]
            shown["turns"] = [[turn["role"], [part.get("text", part.get("index")) for part in turn["content"]]]
                              for turn in turns or ()]  # fmt: skip
            shown["options"] = item.options
            shown["gold"] = ". ".join([item.gold, *(text for name, text in item.options if name == item.gold)])
            shown["differs"] = len(asked.get(sample_id, ())) > 1
        shown["answers"] = [
            _answer(place, score, said[place].get(sample_id) if readable else None) for place, score in given.items()
        ]
        yield first, given, shown


def _answer(place: int, score: Score, said: Prediction | None) -> dict[str, Any]:
    """What one run said to a question, and how it was read."""
    verdict = score.verdict or "scored"
    read = [f"read as {score.option}" if score.option else "no option read", score.rule, score.detail]
    detail = [*(read if score.verdict else []), "cut at the limit of new tokens" if score.truncated else None]
    detail += [f"{name} {value:.4f}" for name, value in sorted(score.metrics.items())]
    return {
        "run": place, "kind": _COLOURS.get(verdict, ""),
        "state": verdict if score.outcome == "answered" else f"{verdict}, {score.outcome}",
        "detail": "; ".join(filter(None, detail)),
        "text": said and said.text, "reasoning": said and said.reasoning,
    }  # fmt: skip


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

_WORDS = {"model", "task", "against", "slice", "evidence (items)"}
"""Columns of text; the others hold numbers."""
_COLOURS = {"correct": "good", "wrong": "bad", "invalid": "odd"}


def render_html(runs: Sequence[Run], tables: Sequence[Table], folder: str = "", credentialed: bool = False) -> str:
    """The page. `folder`: name of the folder of items beside it, empty for none (`write_items`)."""
    of_paper = sum(table.title in TABLES.values() for table in tables)
    sections = [
        (f"t{number}", table.title.partition(":")[0] if number < of_paper else table.title)
        for number, table in enumerate(tables)
    ]
    sections.insert(of_paper, ("plot", "Intervals"))
    if folder:
        sections.append(("questions", "Single questions"))
    short = {
        f"{label} {len(result.scores):,} of {result.task['expected']:,}": None
        for _, label, result in by_task(runs)
        if result.task["expected"] not in (None, len(result.scores))
    }
    return render(
        Path(__file__).parent, "report.html", runs=len(runs), facts=facts(runs), sections=sections, short=list(short),
        credentialed=credentialed, folder=folder, few=few_clusters(runs), few_say=FEW_CLUSTERS_SAY.capitalize(),
        tables=[
            {"title": table.title, "rows": table.rows, "note": table.note,
             "columns": [(head, "" if head in _WORDS else "number") for head in table.head]}
            for table in tables
        ],
        of_paper=of_paper, published=PUBLISHED, plot=_plot(runs),
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
        lacking = dict.fromkeys(line for result in run.tasks.values() for line in result.summary.get("lacking", ()))
        lines += [f"{run.name}: certificate incomplete: {line}" for line in lacking]
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
        one, (low, high) = result.numbers, result.interval
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


def render_markdown(runs: Sequence[Run], tables: Sequence[Table]) -> str:
    """The same tables without plots and single questions."""
    parts = ["# Evaluation", *(f"- {_plain(line)}" for line in facts(runs))]
    for table in tables:
        cells = [[_plain(cell) for cell in row] for row in (table.head, *table.rows)]
        parts += ["", f"## {_plain(table.title)}", "", markdown(cells[0], cells[1:])]
        if table.note:
            parts += ["", table.note]
    return "\n".join(parts) + "\n"


def _plain(text: str) -> str:
    return " ".join(text.split()).replace("<", "&lt;")
