"""Evaluate on the demo data: baselines and, where there is one, the tiny trained model, on one page.

Each step is the command that a user would type; it is printed before it runs. The demo's items are made up and few, and
the tiny model has learnt next to nothing: the page shows what is measured and how, and no number on it means anything.
"""

import importlib
import importlib.util
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from eval.tasks import built_tasks, select_tasks
from medgpt.arguments import command_parser
from medgpt.errors import DONE, UserError, run
from medgpt.messages import complain

CHECKPOINT = "train/instruct/model"
"""Where the training demo leaves its model, below the folder of the demo."""
LIMIT = 4
"""Questions a task: all runs answer the same ones, and the tiny model needs half a second for one on a CPU."""
NEW_TOKENS = 8
"""A model that has learnt nothing writes to the limit; a letter needs no more."""

_EXAMPLE = """
example:
  python -m eval.demo demo
"""


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 done, else that of the step that failed."""
    parser = command_parser(
        "eval.demo", "Run, score, compare and report on the demo data, in about a minute.", _EXAMPLE
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder that builders.demo wrote")
    add("--checkpoint", type=Path, metavar="DIR", help=f"model folder (default: DATA/{CHECKPOINT}, if it is there)")
    add("--out", type=Path, metavar="DIR", help="default: DATA/evaluation; what an earlier demo left is replaced")
    add("--limit", type=int, default=LIMIT, metavar="N", help=f"questions a task (default {LIMIT})")
    options = parser.parse_args(arguments)
    if options.limit < 1:
        parser.error("--limit must be 1 or more")
    if options.checkpoint is not None and not (options.checkpoint / "config.json").is_file():
        parser.error(f"--checkpoint {options.checkpoint}: no config.json; give a model folder")

    data, out = options.data, options.out or options.data / "evaluation"
    trained = with_training_side(data)
    checkpoint = options.checkpoint or data / CHECKPOINT
    everything = ["--tasks", "all", "--only-present"]
    asked = {
        "majority": [*everything, "--baseline", "majority"],
        "nearest": ["--tasks", *trained, "--baseline", "nearest"],
    }
    if (why := _unusable(checkpoint)) is None:
        model = ["--model", "medgpt_oss_ours", "--checkpoint", str(checkpoint)]
        asked = {"model": [*everything, *model, "--max-new-tokens", str(NEW_TOKENS)], **asked}
    else:
        print(f"without a model: {why}")
    runs = [str(out / name) for name in asked]
    steps: list[tuple[str, list[str]]] = [
        ("eval.run", [str(data), *what, "--limit", str(options.limit), "--out", folder])
        for folder, what in zip(runs, asked.values(), strict=True)
    ]
    page = out / "report.html"
    steps += [("eval.score", [*runs, "--data", str(data)])]
    # What looks credentialed here are phantoms and made-up reports: the demo may show them.
    steps += [("eval.report", [*runs, "--data", str(data), "--out", str(page), "--show-credentialed"])]
    for folder in runs:
        # Answers of an earlier demo, to other builds or of another model: made again in a minute.
        if (Path(folder) / "run.json").is_file():
            shutil.rmtree(folder)
    for module, given in steps:
        print(f"\n$ python -m {module} {shlex.join(given)}", flush=True)
        code = _command(module)(given)
        if code:
            complain(f"python -m {module} ended with exit code {code}")
            return code
    print(f"\nDone. Open {page}\n  python -m eval.compare {shlex.join(runs[:2])}")
    return DONE


def with_training_side(data: Path) -> list[str]:
    """Labels of the tasks whose build has a training side, so that a nearest training sample exists.

    Raises: `UserError` where no build is a benchmark.
    """
    from manifests.catalog import load_builds

    sides = {
        build.record["build"]: any(unit["role"] == "train" and unit["kept"] for unit in build.record["units"])
        for build in load_builds(data)
    }
    there, _ = built_tasks(data, select_tasks(["all"]))
    found = [task.label for task in there if sides[task.build]]
    if not found:
        raise UserError(f"{data}: no benchmark with a training side; run python -m builders.demo --data {data} first")
    return found


def _unusable(checkpoint: Path) -> str | None:
    if not (checkpoint / "config.json").is_file():
        return f"{checkpoint} is not there (python -m train.demo, or --checkpoint)"
    if missing := [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]:
        return f"{' and '.join(missing)} not installed (pip install '.[eval]')"
    return None


def _command(module: str) -> Callable[[Sequence[str]], int]:
    found: Callable[[Sequence[str]], int] = importlib.import_module(module).main
    return found


if __name__ == "__main__":
    raise SystemExit(main())
