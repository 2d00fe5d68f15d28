"""A scored run as logs that can be read alone, in the form that inspect_ai's viewer opens.

Writes `logs/<task>.json`, an evaluation log of inspect_ai (version 2) for each scored task: for every item the prompt
as it was asked, digests of its pictures, the options, the model's output and its reasoning, tokens, the verdict under
each rule, and whether the item is contaminated. Nothing but the run folder is read.

Questions and answers of credentialed sources are left out unless --show-credentialed is given, and their prompts unless
the run was made with --credentialed-prompts; such logs must stay where the data may be. Logs hold no date, but how long
each answer took (`usage.jsonl`): the same run gives the same bytes. Of several answers to an item they have the one
that has the verdict.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from eval.records import (
    ITEMS,
    PROMPTS,
    USAGE,
    Item,
    Prediction,
    Prompt,
    Score,
    Usage,
    read_items,
    read_prompts,
    read_usage,
    scored_predictions,
)
from eval.report_tables import Run, TaskResult, read_run
from medgpt import errors
from medgpt.arguments import command_parser
from medgpt.atomic import write_atomic
from medgpt.messages import complain
from medgpt.private import CREDENTIALED, make_folder

_NO_TIME = "1970-01-01T00:00:00+00:00"
"""The form asks for times."""
_STOPS = {"length": "max_tokens", "stop": "stop"}
_VERDICTS = {"correct": "C", "wrong": "I", "invalid": "N"}
"""inspect_ai's marks: correct, incorrect, no answer."""
_HIDDEN = "(credentialed; not shown)"

_EXAMPLE = """
example:
  python -m eval.log runs/ours --out logs && inspect view --log-dir logs
"""


@errors.run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 written, 3 written without tasks that are not scored, 2 not written."""
    parser = command_parser("eval.log", "A scored run as logs that inspect_ai's viewer opens.", _EXAMPLE)
    parser.add_argument("run", type=Path, metavar="RUN", help="folder that eval.run wrote, scored")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="one log a task")
    parser.add_argument("--show-credentialed", action="store_true", help="also questions and answers of such sources")
    options = parser.parse_args(arguments)
    run = read_run(options.run)
    make_folder(options.out)
    for label, result in run.tasks.items():
        path = options.out / f"{label.replace(':', '.')}.json"
        log = task_log(run, result, show_credentialed=options.show_credentialed)
        write_atomic(path, orjson.dumps(log, option=orjson.OPT_INDENT_2) + b"\n")
        print(f"{path}: {len(log['samples']):,} items")
    if run.unscored:
        complain(f"{run.name}: not scored: {', '.join(run.unscored)}")
    return errors.DAMAGED if run.unscored else errors.DONE


def task_log(run: Run, result: TaskResult, *, show_credentialed: bool) -> dict[str, Any]:
    """The log of one task (`EvalLog` of inspect_ai, as JSON). Raises: `UserError` for damaged files."""
    items = read_items(result.folder / ITEMS)
    prompts = {prompt.sample_id: prompt for prompt in read_prompts(result.folder / PROMPTS)}
    said = {prediction.sample_id: prediction for prediction in scored_predictions(result.folder, result.summary)}
    usage = result.folder / USAGE
    spent = {(one.sample_id, one.draw): one for one in read_usage(usage)} if usage.is_file() else {}
    samples = [
        _sample(run.name, item, prompts[item.sample_id], said.get(item.sample_id), score, show_credentialed, spent)
        for item, score in zip(items, result.scores, strict=True)
    ]
    whole, tokens = result.summary["parts"]["all"], result.summary["tokens"]
    measured = {name: found["mean"] for name, found in whole.get("metrics", {}).items()}
    if "correct" in whole:
        measured |= {rule: whole[key] / whole["items"] for rule, key in _RULES.items()}
    identity = result.summary["predictions_sha256"][:22]
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": identity, "run_id": identity, "task_id": identity, "created": _NO_TIME, "task": result.label,
            "task_version": result.record["build_root"][:12], "model": run.name,
            "dataset": {"name": result.record["build"], "samples": len(items)},
            "config": {}, "metadata": {"run": run.identity, "task": result.record},
        },
        "results": {
            "total_samples": len(items), "completed_samples": result.summary["answered"],
            "scores": [{
                "name": "medgpt", "scorer": "eval.score",
                "metrics": {name: {"name": name, "value": value} for name, value in sorted(measured.items())},
                "metadata": {"versions": result.summary["versions"]},
            }],
        },
        "stats": {
            "started_at": _NO_TIME, "completed_at": _NO_TIME,
            "model_usage": {run.name: _usage(tokens["prompt"], tokens["completion"])},
        },
        "samples": samples,
    }  # fmt: skip


_RULES = {"strict": "correct", "literal": "literal", "lenient": "lenient", "invalid": "invalid"}


def _usage(prompt: int, completion: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}


def _sample(
    model: str,
    item: Item,
    prompt: Prompt,
    said: Prediction | None,
    score: Score,
    show_credentialed: bool,
    spent: Mapping[tuple[str, int], Usage],
) -> dict[str, Any]:
    took = spent.get((item.sample_id, said.draw)) if said else None
    shown = show_credentialed or item.access != CREDENTIALED
    turns = [_turn(turn, prompt.images) for turn in prompt.messages or ()] if shown else []
    asked = turns or [{"role": "user", "content": _HIDDEN}]
    text = (said.text if said else None) or ""
    content: Any = text if shown else _HIDDEN
    if shown and said and said.reasoning:
        content = [{"type": "reasoning", "reasoning": said.reasoning}, {"type": "text", "text": text}]
    answer = {"role": "assistant", "content": content, "source": "generate", "model": model}
    usage = _usage(said.prompt_tokens, said.completion_tokens) if said else _usage(0, 0)
    stop = _STOPS.get((said.finish_reason if said else None) or "", "unknown")
    options = dict(item.options)
    value: Any = dict(score.metrics) if score.verdict is None else _VERDICTS[score.verdict]
    facts = {
        "rule": score.rule, "detail": score.detail, "literal": score.literal, "lenient": score.lenient,
        "contaminated": score.contaminated, "evidence": list(score.evidence), **score.metrics,
    }  # fmt: skip
    return {
        "id": item.sample_id,
        "epoch": 1,
        "input": asked,
        "choices": [f"{label}. {text}" for label, text in options.items()] if shown and options else None,
        "target": item.gold if shown or item.options else _HIDDEN,
        "messages": [*asked, answer],
        "output": {
            "model": model,
            "choices": [{"message": answer, "stop_reason": stop}],
            "usage": usage,
            "error": None if score.outcome == "answered" else score.outcome,
        },
        "scores": {"medgpt": {"value": value, "answer": score.option, "metadata": facts}},
        "metadata": {
            "cluster": item.cluster, "slice": item.slice, "access": item.access, "pictures": list(prompt.images),
            "prompt_sha256": item.prompt_sha256, "outcome": score.outcome, "truncated": score.truncated,
            "likelihoods": said.likelihoods if said else None, "draw": said.draw if said else None,
            "cost": took.cost if took else None,
        },
        "total_time": took.seconds if took else None,
        "model_usage": {model: usage},
    }  # fmt: skip


def _turn(turn: Mapping[str, Any], images: Sequence[str]) -> dict[str, Any]:
    """A turn with its pictures named by their digests: the log holds no picture."""
    parts = [part["text"] if part["type"] == "text" else f"[picture sha256:{images[part['index']]}]"
             for part in turn["content"]]  # fmt: skip
    return {"role": turn["role"], "content": "\n".join(parts)}


if __name__ == "__main__":
    raise SystemExit(main())
