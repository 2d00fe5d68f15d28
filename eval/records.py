"""The records that evaluation hands from step to step: what was asked, what was answered, what it scored.

    RUN/run.json                  who was asked                                  by eval.run
    RUN/<task>/task.json          the declaration, and what it was asked of      by eval.run
    RUN/<task>/items.jsonl        `Item`, one a question                         by eval.run
    RUN/<task>/prompts.jsonl      `Prompt`, one an item: what was asked, word for word
    RUN/<task>/predictions.jsonl  `Prediction`, one an item (of a run that stopped: of those answered)
    RUN/<task>/samples.jsonl      the same, K an item, of a run with --samples K
    RUN/<task>/usage.jsonl        `Usage`, one an answer; of two equal runs this file alone differs, by its times
    RUN/<task>/scores.parquet     `Score`, one an item, in the order of items    by eval.score
    RUN/<task>/summary.json       counts, intervals, slices, gaps                by eval.score

Scores hold no text of a report or an answer, so they may leave a machine that credentialed text may not leave.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, TypeVar

import msgspec

from medgpt.atomic import AtomicFile
from medgpt.digest import file_sha256
from medgpt.errors import UserError, one_line
from medgpt.limited import read_file
from medgpt.messages import named
from medgpt.private import keep_private

if TYPE_CHECKING:
    import pyarrow as pa

ITEMS = "items.jsonl"
PROMPTS = "prompts.jsonl"
PREDICTIONS = "predictions.jsonl"
SAMPLES = "samples.jsonl"
READINGS = "samples.parquet"
"""Of each answer of `samples.jsonl` its verdict, and which one was voted for."""
USAGE = "usage.jsonl"
SCORES_FILE = "scores.parquet"
SUMMARY = "summary.json"
TASK = "task.json"

ANSWERED = "answered"
REFUSED = "refused_request"
"""The server takes other requests, but not this one (too long, filtered): HTTP 400, 413, 422."""
NO_COMPLETION = "no_completion"
"""The server answered with something that is no chat completion: no JSON, not UTF-8, or no message in it."""
TOO_MANY_IMAGES = "too_many_images"
"""More pictures than the model card allows; never asked with some of them left out."""
NOT_COMPARABLE = "not_comparable"
"""Log-likelihoods compare options of a question in text; this one has none, or has pictures."""
OUTCOMES = (ANSWERED, REFUSED, NO_COMPLETION, TOO_MANY_IMAGES, NOT_COMPARABLE)

CORRECT, WRONG, INVALID = "correct", "wrong", "invalid"


class Item(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What was asked, without the question's text."""

    task: str
    variant: str
    sample_id: str
    benchmark: str
    """Root digest of the build: the version of the benchmark."""
    kind: Literal["choice", "report"]
    options: tuple[tuple[str, str], ...]
    """(label, text) in the order shown; empty for reports and for open questions of a choice task."""
    gold: str
    """The gold label; the reference text where there are no options."""
    cluster: str
    """Items of one cluster (picture, video, patient) are not independent."""
    slice: str
    """Stratum: the publisher's subset, else the split."""
    exemplar: str
    """What the worked example answered; empty without one."""
    images: int
    access: str
    max_new_tokens: int
    prompt_sha256: str

    def __post_init__(self) -> None:
        keep_private(self.access)
        labels = [name for name, _ in self.options]
        if len(set(labels)) != len(labels) or (labels and self.gold not in labels):
            raise ValueError("a label is there twice, or the gold answer is none; run eval.run again")


class Prompt(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """What was asked, as the model was asked it: a run can be read without the build."""

    task: str
    variant: str
    sample_id: str
    messages: list[dict[str, Any]] | None
    """Turns; None for a credentialed question, unless the run was told to keep those."""
    images: tuple[str, ...]
    """SHA-256 of the picture files, hexadecimal, in the order of the parts' `index`."""


class Answer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What came of a request."""

    outcome: str
    """`answered`, or why there is no answer."""
    text: str | None
    """The answer as the model gave it, special tokens kept; None where there is none. Empty is an answer, too."""
    finish_reason: str | None = None
    """`stop`, `length` (cut at the limit) or what else the server says; None where it says nothing."""
    reasoning: str | None = None
    """What came apart from the answer; kept beside it and never scored."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float | None = None
    """Wall time: of the request at a server, tries included; in this process, of its batch by the batch's questions.

    It is kept with the answer (`answers.jsonl`) and in `Usage`; predictions have none, so that equal answers are equal
    bytes.
    """
    likelihoods: dict[str, tuple[float, int]] | None = None
    """By label: log-likelihood (natural logarithm, summed over tokens) and characters of what was compared for it.

    None for a written answer.
    """
    cached: bool = False
    """Taken from `--answer-cache`: an earlier run spent its tokens and its time. Never said in predictions."""


class Prediction(Answer, frozen=True, gc=False, kw_only=True, forbid_unknown_fields=True):
    """What came of one item."""

    task: str
    variant: str
    sample_id: str
    benchmark: str
    prompt_sha256: str
    draw: int = 0
    """Which of the answers that were drawn for the item, from 0 (`eval.run --samples`)."""


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one answer took."""

    task: str
    variant: str
    sample_id: str
    draw: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float | None
    """As `Answer.seconds`; None where nobody was asked, or by an earlier version."""
    cost: float | None
    """In the currency of the prices; None without prices."""


class Score(msgspec.Struct, frozen=True, gc=False):
    """What one item scored. Verdict and columns are None for reports."""

    task: str
    variant: str
    sample_id: str
    benchmark: str
    cluster: str
    slice: str
    access: str
    outcome: str
    truncated: bool
    """Cut at the limit of new tokens."""
    exemplar_is_gold: bool
    """The worked example showed the very answer that is asked for (frequent normal impressions)."""
    verdict: str | None = None
    """Under the strict rule: `correct`, `wrong` or `invalid` (no one valid option; counts as wrong)."""
    gold: str | None = None
    """Gold label; None for free text."""
    option: str | None = None
    """Label that the strict rule read."""
    rule: str | None = None
    detail: str | None = None
    """Where the answer was found, or why there is none (`eval.mcq`)."""
    literal: bool | None = None
    strict: bool | None = None
    lenient: bool | None = None
    metrics: Mapping[str, float] = msgspec.field(default_factory=dict)
    """Values by metric: of a report, of an open question (`eval.open_questions`), of log-likelihoods (`normalised`).

    A metric that could not be measured is absent, never a dummy value.
    """
    contaminated: bool | None = None
    """Evidence links this item to a training sample; None where no proof covers the benchmark."""
    evidence: tuple[str, ...] = ()
    """`level/kind` of that evidence, sorted."""

    def __post_init__(self) -> None:
        keep_private(self.access)


def best_option(likelihoods: Mapping[str, tuple[float, int]], *, normalised: bool = False) -> str:
    """The label with the largest log-likelihood, or, `normalised`, with the largest one for each character.

    Of equal ones the first wins: `acc` and `acc_norm` of lm-evaluation-harness.
    """
    return max(likelihoods, key=lambda label: likelihoods[label][0] / (likelihoods[label][1] if normalised else 1))


def usage_totals(usage: Sequence[Usage]) -> dict[str, float]:
    """Answers, tokens, seconds (sum and median) and cost of a task; what nobody measured is left out."""
    totals: dict[str, float] = {
        "answers": len(usage),
        "prompt_tokens": sum(one.prompt_tokens for one in usage),
        "completion_tokens": sum(one.completion_tokens for one in usage),
    }
    if seconds := [one.seconds for one in usage if one.seconds is not None]:
        totals |= {"seconds": round(sum(seconds), 3), "seconds_median": round(median(seconds), 4)}
    if costs := [one.cost for one in usage if one.cost is not None]:
        totals["cost"] = round(sum(costs), 6)
    return totals


def usage_line(totals: Mapping[str, float]) -> str:
    """Totals for people. Requests of a server overlap, so their seconds add up to more than the run took."""
    words = [f"{totals['prompt_tokens']:,} prompt tokens, {totals['completion_tokens']:,} new tokens"]
    if "seconds" in totals:
        words.append(f"{totals['seconds']:,.1f} s of answering, {totals['seconds_median']:.3f} s the median answer")
    if "cost" in totals:
        words.append(f"cost {totals['cost']:,.4f}")
    return ", ".join(words)


def task_label(task: str, variant: str) -> str:
    """How a task is called in commands: `slake`, `slake:paper`."""
    return task if variant == "official" else f"{task}:{variant}"


def task_folders(paths: Sequence[Path]) -> list[Path]:
    """Folders of tasks: of run folders, task folders or their predictions files, each once. Raises: `UserError`."""
    found: dict[Path, None] = {}
    for given in paths:
        path = given.parent if given.name == PREDICTIONS else given
        if (path / ITEMS).is_file():
            found[path] = None
            continue
        below = sorted(items.parent for items in path.glob(f"*/{ITEMS}"))
        if not below:
            raise UserError(f"{given}: holds no task; give a folder that python -m eval.run wrote")
        found |= dict.fromkeys(below)
    return list(found)


def scores_schema() -> pa.Schema:
    """Columns of `scores.parquet`."""
    import pyarrow as pa

    text, flag = pa.string(), pa.bool_()
    nullable = {"verdict", "gold", "option", "rule", "detail", "literal", "strict", "lenient", "contaminated"}
    types = {
        **dict.fromkeys(("truncated", "exemplar_is_gold", "literal", "strict", "lenient", "contaminated"), flag),
        "metrics": pa.map_(text, pa.float64()),
        "evidence": pa.list_(text),
    }
    return pa.schema(
        [pa.field(name, types.get(name, text), nullable=name in nullable) for name in Score.__struct_fields__]
    )


def read_object(path: Path, *keys: str) -> dict[str, Any]:
    """The JSON object in a file of a run folder, which has these keys. Raises: `UserError`."""
    try:
        found = msgspec.json.decode(read_file(path), type=dict[str, Any])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read ({one_line(error)}); give a folder that eval.run wrote, or run it again"
        ) from None
    if lacking := [key for key in keys if key not in found]:
        raise UserError(f"{path}: has no {lacking[0]}; run eval.run again")
    return found


class _Best(TypedDict):
    correct: int


class _Summary(TypedDict):
    """What the report relies on of a `summary.json`; it has more."""

    clusters: int
    parts: dict[str, dict[str, Any]]
    majority_label: NotRequired[_Best]
    majority_text: NotRequired[_Best]
    gaps: NotRequired[dict[str, str]]


def read_summary(path: Path) -> dict[str, Any]:
    """A `summary.json` of `eval.score`. Raises: `UserError`."""
    found = read_object(path)
    try:
        msgspec.convert(found, _Summary)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: cannot be read ({error}); run eval.score again") from None
    return found


def read_items(path: Path) -> list[Item]:
    """Items of a file, in its order. Raises: `UserError` for a damaged line or an item that occurs twice."""
    return _read(Item, path)


def read_predictions(path: Path) -> list[Prediction]:
    """Predictions of a file, in its order. Raises: `UserError` for a damaged line or an item that occurs twice."""
    return _read(Prediction, path)


def scored_predictions(folder: Path, summary: Mapping[str, Any]) -> list[Prediction]:
    """The answers that have the verdicts of a scored task: its predictions, or those that were voted for."""
    if not summary.get("samples", {}).get("verdict_by_vote"):
        return read_predictions(folder / PREDICTIONS)
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / READINGS, columns=["sample_id", "draw"], filters=[("voted", "=", True)]).to_pylist()
    voted = {(row["sample_id"], row["draw"]) for row in rows}
    return [one for one in read_predictions(folder / SAMPLES) if (one.sample_id, one.draw) in voted]


def read_usage(path: Path) -> list[Usage]:
    """What the answers of a task took. Raises: `UserError` for a damaged line or an answer that occurs twice."""
    return _read(Usage, path)


def read_prompts(path: Path) -> list[Prompt]:
    """Prompts of a file, in its order. Raises: `UserError` for a damaged line or an item that occurs twice."""
    return _read(Prompt, path)


def write_scores(path: Path, scores: list[Score]) -> str:
    """Write `scores.parquet`; returns its SHA-256, hexadecimal. Same scores, same bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [msgspec.structs.asdict(row) | {"metrics": sorted(row.metrics.items())} for row in scores]
    with AtomicFile(path) as file:
        pq.write_table(pa.Table.from_pylist(rows, scores_schema()), file, compression="zstd")
    return file.sha256.hex()


def read_scores(path: Path) -> list[Score]:
    """Scores of a file, in its order. Raises: `UserError`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read()  # read_table imports pandas, where that is installed
    except (OSError, pa.ArrowInvalid) as error:
        raise UserError(f"{path}: no scores ({' '.join(str(error).split())}); run python -m eval.score") from error
    if not table.schema.equals(scores_schema()):
        raise UserError(f"{path}: columns of another version; run python -m eval.score again")
    rows = []
    for row in table.to_pylist():
        row["metrics"], row["evidence"] = dict(row["metrics"] or ()), tuple(row["evidence"] or ())
        rows.append(Score(**row))
    return rows


def read_scored(folder: Path) -> tuple[list[Score], dict[str, Any]]:
    """Scores of a task folder and their summary.

    Raises: `UserError`, also where items or answers beside them are others than those that were scored.
    """
    scores, summary = read_scores(folder / SCORES_FILE), read_summary(folder / SUMMARY)
    for name in (ITEMS, PREDICTIONS):
        path, scored = folder / name, summary.get(f"{name.removesuffix('.jsonl')}_sha256")
        if path.is_file() and file_sha256(path).hex() != scored:
            raise UserError(f"{path}: other than what was scored; run python -m eval.score {folder} again")
    return scores, summary


_R = TypeVar("_R", Item, Prompt, Prediction, Usage)


def _read(kind: type[_R], path: Path) -> list[_R]:
    try:
        data = read_file(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); run python -m eval.run to the end") from error
    decoder = msgspec.json.Decoder(kind)
    records: list[_R] = []
    seen: set[tuple[str, str, str, int]] = set()
    twice: dict[str, None] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line:
            continue
        try:
            record = decoder.decode(line)
            if isinstance(record, Prediction) and record.outcome not in OUTCOMES:
                raise ValueError(f"its outcome is none of {', '.join(OUTCOMES)}")
        except (ValueError, RecursionError) as error:  # msgspec's are of the first kind
            raise UserError(f"{path}: line {number}: {_without_content(error)}; nothing was scored") from None
        records.append(record)
        key = record.task, record.variant, record.sample_id, getattr(record, "draw", 0)
        if key in seen:
            twice[record.sample_id] = None
        seen.add(key)
    if twice:
        shown = ", ".join(list(twice)[:3])
        raise UserError(f"{path}: {len(twice):,} items occur twice ({shown}); nothing was scored")
    return records


def _without_content(error: Exception) -> str:
    """What a decoder says, without the words and names of a record that it may repeat."""
    what, unknown, name = str(error).partition(" unknown field ")
    if unknown:
        return f"unknown {named([name.strip('`')])}"
    return re.sub(r"enum value '.*'", "word", what)
