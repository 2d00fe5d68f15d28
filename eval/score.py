"""Score predictions: strict, offline and deterministic. Same predictions, same bytes.

Reads each task's `items.jsonl` and `predictions.jsonl` in a run folder (`eval.run`) and writes `scores.parquet`, one
row an item, and `summary.json` beside them (records: eval/records.py). Multiple-choice answers are read by `eval.mcq`,
reports are measured by `eval.report_metrics`; with `--data` the proof's evidence marks every item as clean or
contaminated.

A task whose predictions are of another benchmark version, incomplete, doubled or damaged is not scored at all, with a
line that says why; other tasks are. Of a run with several answers to a question (`samples.jsonl`) each choice gets
pass@k and the vote as measures (`eval.samples`); `--vote` takes the verdict itself from the vote. Nothing here asks a
model or a server, unless `--judge` names one for open questions (`eval.judge`).
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from eval.contamination import Proof, read_proof
from eval.encoders import Measured, Weights, default_radgraph_python, measure
from eval.mcq import accepted_texts, grade
from eval.open_questions import open_scores
from eval.options import same_text, text_key
from eval.records import (
    ANSWERED,
    CORRECT,
    INVALID,
    ITEMS,
    PREDICTIONS,
    PROMPTS,
    READINGS,
    SAMPLES,
    SCORES_FILE,
    SUMMARY,
    TASK,
    USAGE,
    WRONG,
    Item,
    Prediction,
    Score,
    best_option,
    read_items,
    read_object,
    read_predictions,
    read_prompts,
    read_usage,
    task_folders,
    task_label,
    usage_totals,
    write_scores,
)
from eval.samples import Drawn, weigh, write_readings
from eval.statistics import (
    FEW_CLUSTERS,
    FEW_CLUSTERS_SAY,
    Interval,
    cluster_interval,
    commonest,
    macro_f1,
    share_interval,
)
from eval.versions import VERSIONS, reader_rates
from manifests.proof.trust import Trust
from medgpt.arguments import command_parser
from medgpt.atomic import write_atomic
from medgpt.digest import file_sha256
from medgpt.endpoints import read_key
from medgpt.errors import DONE, NOT_COMPARED, NOT_FINISHED, UserError, one_line, run
from medgpt.libraries import libraries_apart
from medgpt.limited import read_file
from medgpt.private import make_folder
from medgpt.replies import final_text
from medgpt.tracking import TRACKERS, Tracker, open_tracker
from shards.options import add_trust_options

if TYPE_CHECKING:
    from eval.judge import Judge

EXIT_NOT_ALL = 3
"""Some tasks were scored, some could not be."""
MISSING = "missing"
"""Outcome of an item without a prediction, under --missing-as-wrong."""
MAX_CLASSES = 10
"""Up to so many different gold texts a task is a classification: recall by class and macro-F1 mean something."""

_EXAMPLE = """
examples:
  python -m eval.score runs/ours --data data
  python -m eval.score runs/ours/impression_0shot --weights weights --radgraph-python radgraph-env/bin/python
"""


@dataclass(frozen=True)
class Scored:
    """A task's scores and what they amount to."""

    scores: list[Score]
    summary: dict[str, Any]
    drawn: Drawn | None = None


Judged = tuple[str, dict[str, float], dict[str, Any]]
"""Name of the judge's measure, values by sample id, record for the summary."""


def score_task(
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    *,
    weights: Weights | None = None,
    proof: Proof | None = None,
    missing_as_wrong: bool = False,
    device: str = "cpu",
    progress: bool = False,
    samples: Sequence[Prediction] = (),
    vote: bool = False,
    judge: Callable[[Sequence[Item], Sequence[Prediction]], Judged] | None = None,
) -> Scored:
    """Scores of one task, in the order of its items.

    `samples` are all answers, where the run drew several to each item; with `vote` the voted one has the verdict.
    `judge` gives the name of its measure, values by sample id, and what the summary says.
    Raises: `UserError` for predictions that do not belong to the items; `UserError`.
    """
    if not items:
        raise UserError("no items; run python -m eval.run again")
    kinds = {item.kind for item in items}
    if len(kinds) > 1 or len({(item.task, item.variant, item.benchmark) for item in items}) > 1:
        raise UserError("items of several tasks or benchmark versions in one file; run python -m eval.run again")
    by_id = {prediction.sample_id: prediction for prediction in predictions}
    _check(items, predictions, by_id, missing_as_wrong, PREDICTIONS)
    matched = [
        by_id.get(item.sample_id) or Prediction(MISSING, None, **{name: getattr(item, name) for name in _OF_ASKED})
        for item in items
    ]
    measured = None
    drawn = _drawn(items, samples, by_id) if samples and kinds == {"choice"} else None
    judged: Judged | None = None
    if kinds == {"choice"}:
        matched = drawn.voted if drawn and vote else matched
        judged = judge(items, matched) if judge else None
        more: list[dict[str, float]] = drawn.metrics if drawn else [{} for _ in items]
        for item, values in zip(items, more, strict=True):
            if judged and item.sample_id in judged[1]:
                values[judged[0]] = judged[1][item.sample_id]
        scores = [_score_choice(*each, proof) for each in zip(items, matched, more, strict=True)]
    else:
        scores, measured = _score_reports(items, matched, proof, weights or Weights(None), device, progress)
    summary = _summary(items, scores, measured, proof)
    summary["answered"] = sum(prediction.outcome == ANSWERED for prediction in matched)
    summary["tokens"] = {
        "prompt": sum(prediction.prompt_tokens for prediction in matched),
        "completion": sum(prediction.completion_tokens for prediction in matched),
    }
    if drawn:
        summary["samples"] = drawn.record(vote)
    if judged:
        summary["judge"] = judged[2]
        if lacking := judged[2]["without_verdict"] + judged[2]["question_not_kept"]:
            summary["gaps"] = {
                judged[0]: f"{lacking:,} of {judged[2]['open_questions']:,} open questions have no verdict"
            }
    return Scored(scores, summary, drawn)


def _drawn(items: Sequence[Item], samples: Sequence[Prediction], by_id: dict[str, Prediction]) -> Drawn:
    """Raises: `UserError` where an item has other answers than the others, or its first one is not its prediction."""
    draws: dict[int, dict[str, Prediction]] = {}
    for one in samples:
        draws.setdefault(one.draw, {})[one.sample_id] = one
    for draw in draws.values():
        _check(items, list(draw.values()), draw, False, SAMPLES)
    if sorted(draws) != list(range(len(draws))) or draws[0] != by_id:
        raise UserError(f"{SAMPLES} and {PREDICTIONS} are of two runs; run python -m eval.run again")
    return weigh(items, [draws[number] for number in sorted(draws)])


def _check(
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    by_id: dict[str, Prediction],
    missing_as_wrong: bool,
    name: str,
) -> None:
    """Raises: `UserError` where predictions and items do not belong together; nothing is dropped or made up."""
    first = items[0]
    if strays := {(p.task, p.variant) for p in predictions} - {(first.task, first.variant)}:
        raise UserError(
            f"{name} holds answers of {', '.join(sorted(f'{a} ({b})' for a, b in strays))}, not of this task"
        )
    other = [p for p in predictions if p.benchmark != first.benchmark]
    if other:
        raise UserError(
            f"{len(other):,} of {len(predictions):,} predictions are of another benchmark version "
            f"({other[0].benchmark[:12]}, the items are of {first.benchmark[:12]}); run the model on this version"
        )
    known = {item.sample_id: item for item in items}
    unknown = [p.sample_id for p in predictions if p.sample_id not in known]
    if unknown:
        raise UserError(f"{len(unknown):,} predictions are of no item ({unknown[0]}, ...); they belong to another run")
    if len(by_id) != len(predictions):
        raise UserError(f"{len(predictions) - len(by_id):,} items occur twice in {name}; keep one answer each")
    changed = [p.sample_id for p in predictions if p.prompt_sha256 != known[p.sample_id].prompt_sha256]
    if changed:
        raise UserError(f"{len(changed):,} predictions answer another prompt ({changed[0]}, ...); run the model again")
    missing = [item.sample_id for item in items if item.sample_id not in by_id]
    if missing and not missing_as_wrong:
        raise UserError(
            f"{len(missing):,} of {len(items):,} predictions are missing ({missing[0]}, ...); run python -m eval.run "
            "to the end, or count them as wrong with --missing-as-wrong"
        )


_OF_ASKED = ("task", "variant", "sample_id", "benchmark", "prompt_sha256")
_OF_ITEM = ("task", "variant", "sample_id", "benchmark", "cluster", "slice", "access")
"""Fields of an item that its prediction and its score repeat."""


def _base(item: Item, prediction: Prediction, proof: Proof | None) -> dict[str, Any]:
    """What every score holds."""
    contaminated, evidence = proof.of_item(item.benchmark, item.sample_id) if proof else (None, ())
    return {
        **{name: getattr(item, name) for name in _OF_ITEM},
        "outcome": prediction.outcome,
        "truncated": prediction.finish_reason == "length",
        "exemplar_is_gold": bool(item.exemplar)
        and same_text(item.exemplar, dict(item.options).get(item.gold, item.gold)),
        "contaminated": contaminated,
        "evidence": evidence,
    }


def _score_choice(item: Item, prediction: Prediction, more: dict[str, float], proof: Proof | None) -> Score:
    answered = prediction.outcome == ANSWERED
    text = prediction.text if answered else None
    found = grade(text, item.options, item.gold)
    reading = found.reading
    metrics: dict[str, float] = {}
    if not item.options:
        # The whole answer is compared: an answer in a sentence loses precision, not recall, as in the papers.
        said = (final_text(text)[0] if text else None) or ""
        metrics = open_scores(said.strip(), accepted_texts(item.gold))
    elif prediction.likelihoods:
        metrics["normalised"] = float(best_option(prediction.likelihoods, normalised=True) == item.gold)
    return Score(
        **_base(item, prediction, proof),
        verdict=CORRECT if found.correct else INVALID if reading.option is None else WRONG,
        # Free text stays out of the scores: an open question's answer is in the predictions.
        gold=item.gold if item.options else None,
        option=reading.option if item.options else None,
        rule=reading.rule,
        detail=reading.detail if answered else prediction.outcome,
        literal=found.literal,
        strict=found.correct,
        lenient=found.lenient,
        metrics=metrics | more,
    )


def _score_reports(
    items: Sequence[Item],
    predictions: Sequence[Prediction],
    proof: Proof | None,
    weights: Weights,
    device: str,
    progress: bool,
) -> tuple[list[Score], Measured]:
    texts, details = [], []
    for prediction in predictions:
        text, detail = None, prediction.outcome
        if prediction.outcome == ANSWERED:
            text, detail = final_text(prediction.text or "")
            if text is not None and not text.strip():
                detail = "empty"
        # No report is a report that says nothing: it keeps its place and scores as such.
        texts.append(text or "")
        details.append(detail)
    measured = measure(texts, [item.gold for item in items], weights, device=device, progress=progress)
    scores = [
        Score(**_base(item, prediction, proof), detail=detail, metrics=values)
        for item, prediction, detail, values in zip(items, predictions, details, measured.values, strict=True)
    ]
    return scores, measured


# ---------------------------------------------------------------- what it amounts to


def _summary(
    items: Sequence[Item], scores: Sequence[Score], measured: Measured | None, proof: Proof | None
) -> dict[str, Any]:
    first = items[0]
    summary: dict[str, Any] = {
        "task": first.task,
        "variant": first.variant,
        "kind": first.kind,
        "benchmark": first.benchmark,
        "certificate": proof.root if proof and proof.covers(first.benchmark) else None,
        "items": len(items),
        "clusters": len({item.cluster for item in items}),
        "outcomes": dict(sorted(Counter(score.outcome for score in scores).items())),
        "truncated": sum(score.truncated for score in scores),
        "exemplar_is_gold": sum(score.exemplar_is_gold for score in scores),
        "details": dict(sorted(Counter(str(score.detail) for score in scores).items())),
        "parts": {name: _part(part) for name, part in _parts(scores).items()},
        "slices": {
            name: _part([score for score in scores if score.slice == name], interval=False)
            for name in sorted({score.slice for score in scores})
        },
    }
    if summary["certificate"] and proof and proof.lacking:
        summary["lacking"] = list(proof.lacking)
    if measured is None:
        summary |= _classes(items, scores)
    else:
        summary |= {
            "corpus": {name: round(value, 6) for name, value in sorted(measured.corpus.items())},
            "gaps": dict(sorted(measured.gaps.items())),
            "settings": measured.settings,
            "weights": dict(sorted(measured.weights.items())),
        }
    return summary


def _parts(scores: Sequence[Score]) -> dict[str, list[Score]]:
    """All items, and those parts of them that a reader must see apart; parts that do not arise are left out."""
    parts = {
        "all": list(scores),
        "clean": [score for score in scores if score.contaminated is False],
        "contaminated": [score for score in scores if score.contaminated is True],
    }
    if any(score.exemplar_is_gold for score in scores):
        parts["exemplar_is_not_gold"] = [score for score in scores if not score.exemplar_is_gold]
    return {name: part for name, part in parts.items() if part}


def _part(scores: Sequence[Score], interval: bool = True) -> dict[str, Any]:
    part: dict[str, Any] = {"items": len(scores)}
    clusters: list[Hashable] = [score.cluster for score in scores]
    if scores[0].verdict is not None:
        part |= {
            "correct": sum(score.strict is True for score in scores),
            "literal": sum(score.literal is True for score in scores),
            "lenient": sum(score.lenient is True for score in scores),
            "invalid": sum(score.verdict == INVALID for score in scores),
        }
        if interval:
            part["interval"] = _rounded(share_interval([score.strict is True for score in scores], clusters))
    means: dict[str, Any] = {}
    for name in sorted({name for score in scores for name in score.metrics}):
        having = [score for score in scores if name in score.metrics]
        values = [score.metrics[name] for score in having]
        found = cluster_interval(values, [score.cluster for score in having]) if interval else None
        means[name] = _rounded(found) if found else {"mean": round(sum(values) / len(values), 6)}
        if len(having) < len(scores):
            means[name] = {**(means[name] or {}), "items": len(having)}
    if means or scores[0].verdict is None:
        part["metrics"] = means
    return part


def _rounded(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    ends = {"low": interval.low, "high": interval.high}
    # One cluster says nothing about the spread: JSON has no infinity, so there is no end.
    finite = {name: round(end, 6) if abs(end) != float("inf") else None for name, end in ends.items()}
    return {"mean": round(interval.mean, 6), **finite}


def _classes(items: Sequence[Item], scores: Sequence[Score]) -> dict[str, Any]:
    """Baselines without a model, and recall by class where the gold texts are few."""
    closed = [(item, score, dict(item.options)) for item, score in zip(items, scores, strict=True) if item.options]
    found: dict[str, Any] = {"open_questions": len(items) - len(closed)}
    if not closed:
        return found
    labels = Counter(item.gold for item, _, _ in closed)
    texts = Counter(text_key(options[item.gold]) for item, _, options in closed)
    found["majority_label"] = commonest(labels)
    found["chance"] = round(sum(1 / len(item.options) for item, _, _ in closed) / len(items), 6)
    if len(texts) <= MAX_CLASSES:
        found["majority_text"] = commonest(texts)
        named = [
            (text_key(options[item.gold]), None if score.option is None else text_key(options[score.option]))
            for item, score, options in closed
        ]
        found["classes"] = {
            name: {"items": count, "correct": sum(gold == given == name for gold, given in named)}
            for name, count in sorted(texts.items())
        }
        value = macro_f1(named)
        found["macro_f1"] = None if value is None else round(value, 6)
    return found


# ---------------------------------------------------------------- files


def score_folder(folder: Path, out: Path, *, judge: Judge | None = None, **how: Any) -> dict[str, Any]:
    """Score the task in `folder`, write scores and summary into `out`, return the summary.

    `how`: keywords of `score_task`. Older scores in `out` go first, so that a task that cannot be scored has none.
    Raises: `UserError`.
    """
    earlier = _earlier(out / SUMMARY)
    for name in (SUMMARY, SCORES_FILE, READINGS):
        (out / name).unlink(missing_ok=True)
    items, predictions = read_items(folder / ITEMS), read_predictions(folder / PREDICTIONS)
    samples = read_predictions(folder / SAMPLES) if (folder / SAMPLES).is_file() else []
    record = read_object(folder / TASK) if (folder / TASK).is_file() else None
    digests = {name: file_sha256(folder / name).hex() for name in (ITEMS, PREDICTIONS)}
    if record and record.get("items_sha256", digests[ITEMS]) != digests[ITEMS]:
        raise UserError(f"{folder / ITEMS}: not the items that {TASK} is of; run python -m eval.run again")
    make_folder(out)

    def judged(items: Sequence[Item], predictions: Sequence[Prediction]) -> Judged:
        assert judge is not None
        prompts = read_prompts(folder / PROMPTS)
        return judge.metric, *judge.judge(items, predictions, prompts, out / "judge.jsonl")

    try:
        scored = score_task(items, predictions, samples=samples, judge=judged if judge else None, **how)
    except UserError as error:
        raise UserError(f"{folder}: {error}") from None
    if scored.drawn:
        write_readings(out / READINGS, scored.drawn)
    summary = scored.summary
    if (folder / USAGE).is_file():
        summary["usage"] = usage_totals(read_usage(folder / USAGE))
    summary["scores_sha256"] = write_scores(out / SCORES_FILE, scored.scores)
    summary |= {f"{name.removesuffix('.jsonl')}_sha256": digest for name, digest in digests.items()}
    if record:
        task = record.get("task")
        asked = {"limit": record.get("limit"), "expected": task.get("expected") if isinstance(task, dict) else None}
        summary["asked"] = {name: value for name, value in asked.items() if isinstance(value, int)}
    summary["versions"] = VERSIONS
    if earlier and earlier["predictions_sha256"] == summary["predictions_sha256"]:
        summary["earlier"] = earlier
    write_atomic(out / SUMMARY, orjson.dumps(summary, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n")
    return summary


def _earlier(path: Path) -> dict[str, Any] | None:
    """What an earlier version of the reading rule made of the answers in this folder, for both to be shown."""
    try:
        found = orjson.loads(read_file(path))
        if found["versions"]["mcq"] >= VERSIONS["mcq"]:
            return found.get("earlier")
        counts = {name: found["parts"]["all"][name] for name in ("items", "correct", "lenient", "invalid")}
        return {"mcq": found["versions"]["mcq"], "predictions_sha256": found["predictions_sha256"], **counts}
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None  # no summary, or one of reports: there is nothing to show beside


def describe(summary: dict[str, Any]) -> list[str]:
    """Lines for people."""
    name = task_label(summary["task"], summary["variant"])
    whole = summary["parts"]["all"]
    counts = [f"{count:,} {outcome}" for outcome, count in summary["outcomes"].items() if outcome != "answered"]
    counts += [f"{summary['truncated']:,} cut at the limit"] * bool(summary["truncated"])
    tail = f"; {', '.join(counts)}" if counts else ""
    asked, known = summary.get("asked", {}), []
    if "limit" in asked:
        known.append(f"  only the first {whole['items']:,} questions were asked (--limit)")
    elif asked.get("expected") not in (None, whole["items"]):
        known.append(f"  {whole['items']:,} items of {asked['expected']:,} in the whole benchmark")
    if "asked" not in summary:
        known.append(f"  no {TASK}: whether these are all items, as they were asked, is not known")
    if summary["certificate"] is None:
        known.append("  no certificate covers these items: clean and contaminated are not told apart")
    if summary["kind"] == "choice":
        items, interval = whole["items"], whole["interval"]
        ends = _ends(interval) + (f" ({FEW_CLUSTERS_SAY})" if summary["clusters"] < FEW_CLUSTERS else "")
        lines = [
            f"{name}: {_percent(whole['correct'], items)} ({whole['correct']:,}/{items:,}), 95 % {ends}; "
            f"literal {_percent(whole['literal'], items)}, lenient {_percent(whole['lenient'], items)}, "
            f"invalid {_percent(whole['invalid'], items)}{tail}"
        ]
        if earlier := summary.get("earlier"):
            lines.append(
                f"  by reading rule {earlier['mcq']}: {_percent(earlier['correct'], items)}, lenient "
                f"{_percent(earlier['lenient'], items)}, invalid {_percent(earlier['invalid'], items)}"
            )
        if measures := [f"{metric} {found['mean']:.4f}" for metric, found in whole.get("metrics", {}).items()]:
            lines.append(f"  {', '.join(measures)}")
        if drawn := summary.get("samples"):
            how = "the verdict is the vote's" if drawn["verdict_by_vote"] else "the verdict is the first answer's"
            lines.append(f"  {drawn['drawn']} answers to each item, {how}; {drawn['ties']:,} votes were ties")
        lines += [f"  {metric}: {reason}" for metric, reason in summary.get("gaps", {}).items()]
        constants = [summary[name] for name in ("majority_text", "majority_label") if name in summary]
        if constants:
            constant = max(constants, key=lambda one: one["correct"])
            lines.append(f"  a constant answer ({constant['answer']}) gets {_percent(constant['correct'], items)}")
        for part in ("clean", "contaminated"):
            if found := summary["parts"].get(part):
                share = _percent(found["correct"], found["items"])
                lines.append(f"  {part}: {share} ({found['correct']:,}/{found['items']:,})")
        return lines + known
    values = ", ".join(f"{metric} {found['mean']:.4f}" for metric, found in whole["metrics"].items())
    lines = [f"{name}: {whole['items']:,} reports{tail}; {values}"]
    gaps: dict[str, list[str]] = {}
    for metric, reason in summary["gaps"].items():
        gaps.setdefault(reason, []).append(metric)
    lines += [f"  not measured: {', '.join(metrics)} ({reason})" for reason, metrics in gaps.items()]
    for part in ("clean", "contaminated"):
        if found := summary["parts"].get(part):
            values = ", ".join(f"{metric} {one['mean']:.4f}" for metric, one in found["metrics"].items())
            lines.append(f"  {part}: {found['items']:,} reports; {values}")
    return lines + known


def _percent(count: int, items: int) -> str:
    return f"{100 * count / items:.2f} %"


def _ends(interval: dict[str, float | None]) -> str:
    low, high = interval["low"], interval["high"]
    return "not known (one cluster)" if low is None or high is None else f"{100 * low:.2f} to {100 * high:.2f}"


def _figures(summary: dict[str, Any]) -> dict[str, float]:
    """Figures of a task for a tracker, by `task/name`: those of all items, and what the answers took."""
    whole = summary["parts"]["all"]
    found: dict[str, float | None] = {"items": whole["items"], **summary.get("usage", {})}
    if "correct" in whole:
        found |= {rule: whole[key] / whole["items"] for rule, key in (("accuracy", "correct"), ("lenient", "lenient"))}
        found |= {f"accuracy_{end}": whole["interval"][end] for end in ("low", "high")}
    found |= {name: value["mean"] for name, value in whole.get("metrics", {}).items()}
    label = task_label(summary["task"], summary["variant"])
    return {f"{label}/{name}": value for name, value in found.items() if value is not None}


def _trackers(options: argparse.Namespace, folders: Sequence[Path]) -> dict[Path, Tracker]:
    """A tracker for each run folder, which says who was asked. Raises: `UserError` where it is not installed."""
    opened = {}
    for place in dict.fromkeys(folder.parent for folder in folders):
        who = place / "run.json"
        config = read_object(who) if who.is_file() else {}
        opened[place] = open_tracker(options.track, options.out or place, config)
    return opened


def _judge(options: argparse.Namespace) -> Judge:
    from eval.judge import Judge

    key = read_key(options.judge_key_variable)
    return Judge(options.judge, options.judge_model, key, tuple(options.allow_host))


@run
@libraries_apart()
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 all scored, 3 some tasks not, 4 not all judged, 1 none, 2 wrong usage."""
    parser = command_parser(
        "eval.score", "Score what models answered: strict, offline, the same bytes every time.", _EXAMPLE
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="run folder, task folder or predictions.jsonl")
    add("--data", type=Path, metavar="DIR", help="folder of builds; its proof tells clean from contaminated")
    add("--out", type=Path, metavar="DIR", help="write here, a folder a task (default: beside the predictions)")
    add("--weights", type=Path, metavar="DIR", help="local models of report metrics (layout: eval/encoders.py)")
    add("--radgraph-python", type=Path, metavar="FILE", help="interpreter that has radgraph 0.1.18 and transformers 4")
    add("--device", default="cpu", metavar="NAME", help="where the models of metrics run (default cpu)")
    add("--vote", action="store_true", help="of several answers to an item (--samples) take the vote's")
    asked = parser.add_argument_group("a judge of open questions (never the default; its prompt is in the summary)")
    asked.add_argument("--judge", metavar="URL", help="OpenAI-compatible server of the model that judges")
    asked.add_argument("--judge-model", metavar="NAME", help="its name there")
    asked.add_argument("--judge-key-variable", metavar="NAME", help="environment variable that holds the API key")
    asked.add_argument("--allow-host", action="append", default=[], metavar="HOST", help="may see credentialed data")
    add("--missing-as-wrong", action="store_true", help="score a run that was not finished")
    add_trust_options(parser, training=False)
    add("--track", choices=sorted(TRACKERS), help="write the figures for it too, beside the scores")
    add("--json", action="store_true", help="print JSON: each task's summary, or why it is not scored")
    add("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if bool(options.judge) != bool(options.judge_model):
        parser.error("--judge URL and --judge-model NAME go together")

    from tqdm import tqdm

    from shards.certified import proof_folder

    folders = task_folders(options.runs)
    if options.out and len({folder.name for folder in folders}) != len(folders):
        raise UserError(f"--out {options.out}: two runs have a task of the same name; score one run at a time")
    if options.data and not options.data.is_dir():
        raise UserError(f"--data {options.data}: no such folder")
    how = {"missing_as_wrong": options.missing_as_wrong, "device": options.device, "progress": not options.quiet}
    judge = _judge(options) if options.judge else None
    how |= {"vote": options.vote, "judge": judge}
    weights = Weights(options.weights, options.radgraph_python or default_radgraph_python())
    proof = read_proof(proof_folder(options.data), trust=Trust.of(options)) if options.data else None
    lines = []
    if options.data and proof is None:
        lines.append(
            f"{options.data}: no proof; clean and contaminated are not told apart (run python -m manifests.prove)"
        )
    summaries: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    trackers = _trackers(options, folders) if options.track else {}
    with tqdm(folders, unit=" tasks", disable=True if options.quiet else None, dynamic_ncols=True) as bar:
        for folder in bar:
            try:
                out = options.out / folder.name if options.out else folder
                summary = score_folder(folder, out, weights=weights, proof=proof, **how)
            except (UserError, OSError) as error:
                failed[str(folder)] = one_line(error)
                tqdm.write(f"not scored: {one_line(error)}", file=sys.stderr)
                continue
            summaries.append(summary)
            if options.track:
                trackers[folder.parent].write(_figures(summary), 0)
            if not options.json:
                tqdm.write("\n".join([*lines, *describe(summary)]), file=sys.stdout)
                lines.clear()
    for tracker in trackers.values():
        tracker.close()
    if options.json:
        document = {"tasks": summaries, "failed": failed, "certificate": proof.root if proof else None}
        print(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS).decode())
    else:
        lines.append(f"{len(folders) - len(failed)} of {len(folders)} tasks scored")
        lines += [reader_rates()] if any(summary["kind"] == "choice" for summary in summaries) else []
        lines += [f"certificate: {proof.root}", *(f"  incomplete: {line}" for line in proof.lacking)] if proof else []
        print("\n".join(lines))
    if failed:
        return EXIT_NOT_ALL if summaries else NOT_FINISHED
    return NOT_COMPARED if judge and any("gaps" in one for one in summaries if one["kind"] == "choice") else DONE


if __name__ == "__main__":
    raise SystemExit(main())
