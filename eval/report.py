"""The results as one page: the paper's tables beside the paper's own numbers, and every answer behind a number.

Writes `results.html` and `results.md` from scored runs (`eval.run`, then `eval.score`), and `results.items/` beside
them. The page has: the paper's tables; a plot with intervals; clean and contaminated items apart; the first run against
each other one; invalid and cut answers; literal, strict and lenient columns; slices; the certificate; and a browser of
every question with the answers of all runs side by side, which reads the files in `results.items/`, from a disk too.
Questions stand in the run's own prompts; --data adds the pictures. Nothing else is loaded.

Questions and answers of credentialed sources, and their pictures, are shown only with --show-credentialed: such a page
must stay where the data may be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from medgpt import errors
from medgpt.arguments import command_parser
from medgpt.atomic import write_atomic
from medgpt.messages import complain

if TYPE_CHECKING:
    from eval.report_tables import Run

_EXAMPLE = """
example:
  python -m eval.report runs/ours runs/medgemma --data data --out results.html
"""


@errors.run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 written, 3 written without tasks that are not scored, 2 not written.

    Where the page cannot be written, it is 1.
    """
    parser = command_parser(
        "eval.report", "Tables, plots and single questions of scored runs, as one HTML page and as Markdown.", _EXAMPLE
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folders that eval.run wrote, scored")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page; FILE.md goes beside it")
    parser.add_argument("--data", type=Path, metavar="DATA", help="builds, to show the pictures of questions")
    parser.add_argument("--samples", type=int, metavar="N", help="only so many questions a task, 0 for none")
    parser.add_argument("--show-credentialed", action="store_true", help="also questions and pictures of such sources")
    parser.add_argument("--json", action="store_true", help="print JSON: the tables, and what is not scored")
    options = parser.parse_args(arguments)
    if options.samples is not None and options.samples < 0:
        parser.error("--samples must be 0 or more")

    from eval.audit import load_published
    from eval.report_page import render_html, render_markdown, write_items
    from eval.report_tables import all_tables, read_run

    runs = _distinct([read_run(folder) for folder in options.runs])
    tables = all_tables(runs, load_published())
    options.out.parent.mkdir(parents=True, exist_ok=True)
    folder, credentialed = options.out.with_suffix(".items"), False
    if options.samples != 0:
        credentialed = write_items(folder, runs, options.data, options.samples, options.show_credentialed)
    page = render_html(runs, tables, folder.name if options.samples != 0 else "", credentialed)
    write_atomic(options.out, page.encode())
    write_atomic(options.out.with_suffix(".md"), render_markdown(runs, tables).encode())
    tasks = sum(len(run.tasks) for run in runs)
    if options.json:
        unscored = {run.name: run.unscored for run in runs}
        document = {"page": str(options.out), "runs": len(runs), "tasks": tasks, "unscored": unscored, "tables": tables}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode())
    else:
        print(f"{options.out} and {options.out.with_suffix('.md').name}: {len(runs)} runs, {tasks} tasks")
    for run in runs:
        if run.unscored:
            complain(f"{run.name}: not scored: {', '.join(run.unscored)}")
    return errors.DAMAGED if any(run.unscored for run in runs) else errors.DONE


def _distinct(runs: list[Run]) -> list[Run]:
    """Runs of the same model get their folder's number, so that no two rows look alike."""
    counts = Counter(run.name for run in runs)
    seen: Counter[str] = Counter()
    named = []
    for run in runs:
        seen[run.name] += 1
        named.append(replace(run, name=f"{run.name} #{seen[run.name]}") if counts[run.name] > 1 else run)
    return named


if __name__ == "__main__":
    raise SystemExit(main())
