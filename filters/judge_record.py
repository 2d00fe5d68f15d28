"""The record of a judge's calibration (`filters.calibrate`), and whether it lets the judge drop by a predicate.

A record holds who was asked (model, digest of its weights where they were given, prompts, all that shapes an answer)
and the score of every labelled caption. Figures are derived from the scores anew, at the thresholds of the recipe in
use, whenever a recipe wants the judge to drop: what passes at one threshold says nothing of another. A model is known
by its name at the endpoint; only the option `weights` pins what is served under that name.

Which label a flag is held against: `irrelevant` against `relevant: false`. `misleading` against `misleading: true`, and
only on captions in which the rules find a number, since no other is put to the judge: with the rest a model at chance
would look good. Captions that the reader called unclear count nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import orjson

from filters.base import Filter, Record
from filters.expressions import Predicate
from filters.misleading_numbers import WEIGHTS, find_numbers, misleading
from filters.relevance_rules import IRRELEVANT, irrelevance
from filters.review import measures
from medgpt.digest import file_sha256
from medgpt.errors import UserError
from medgpt.intervals import wilson
from medgpt.limited import read_file
from medgpt.settings import Settings, checked

FORMAT = 2
FOLDER = Path(__file__).parent / "calibration"
LABELS = "captions.jsonl"
"""1,148 captions: `sha256`, `half`, `drawn`, `relevant`, `misleading`, `source`, `licence`, `text`. The half goes by
the last digit of the digest; those drawn fourth are all held; those drawn fifth, hard ones, only teach the rules."""
FLAGS = ("irrelevant", "misleading")
"""The judge's scores that may drop."""


STEPS = tuple(round(0.5 + step / 20, 2) for step in range(11))
"""Thresholds that are tried on the fitting half."""


class Limits(Settings, frozen=True, kw_only=True):
    """What a judge must reach on the held captions, by point estimates; the default recipe says why these."""

    kappa: float = 0.6
    precision: float = 0.9
    recall: float = 0.5

    def __post_init__(self) -> None:
        if not all(0 < value <= 1 for value in (self.kappa, self.precision, self.recall)):
            raise ValueError("kappa, precision and recall must be over 0 and at most 1")


class CalibrationRecord(Settings, frozen=True, kw_only=False):
    """The content of a record."""

    format: int
    judge: dict[str, Any]
    """As `LanguageModel.judge`: all that makes it this judge."""
    labels: dict[str, str]
    """Labelled file -> its SHA-256."""
    scores: dict[str, dict[str, float | None]]
    """Digest of a caption -> flag -> score; None where the model gave no answer, no flag where it was not asked."""
    figures: dict[str, Any]
    """For people: what was found when it was written. Nothing is decided by it."""

    def json(self) -> bytes:
        """The file."""
        return orjson.dumps(msgspec.structs.asdict(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


Scores = Mapping[str, Mapping[str, float | None]]
"""As `CalibrationRecord.scores`."""


@dataclass(frozen=True)
class Labelled:
    """A caption and what the reader said of each flag: yes, no, or unclear (None)."""

    digest: str
    text: str
    labels: Mapping[str, bool | None]
    held: bool
    """Whether no threshold is fitted on it."""


@dataclass(frozen=True)
class Figures:
    """How one flag at one threshold agrees with the reader. Shares are (share, lower, upper), Wilson, 95 %."""

    flag: str
    threshold: float
    table: tuple[tuple[int, int], tuple[int, int]]
    """As `Agreement.table`: ((flagged and yes, flagged and no), (not flagged and yes, not flagged and no))."""
    unanswered: int
    kappa: float
    """Cohen's; 0 where it is not defined."""

    @property
    def precision(self) -> tuple[float, float, float]:
        """Of what is flagged, the share that the reader would flag."""
        return wilson(self.table[0][0], sum(self.table[0]))

    @property
    def recall(self) -> tuple[float, float, float]:
        """Of what the reader would flag, the share that is flagged."""
        return wilson(self.table[0][0], self.table[0][0] + self.table[1][0])

    def line(self) -> str:
        """For people to read."""
        (yes, no), (missed, clear) = self.table
        return (
            f"{self.flag} >= {self.threshold:g} on {yes + no + missed + clear} captions: kappa {self.kappa:.2f}, "
            f"precision {yes} of {yes + no} [{self.precision[1]:.2f}, {self.precision[2]:.2f}], "
            f"recall {yes} of {yes + missed} [{self.recall[1]:.2f}, {self.recall[2]:.2f}], {self.unanswered} unanswered"
        )

    def plain(self) -> dict[str, Any]:
        """For a record."""
        shares = {"precision": self.precision, "recall": self.recall}
        return {
            "threshold": self.threshold,
            "flagged_yes_no": list(self.table[0]),
            "not_flagged_yes_no": list(self.table[1]),
            "unanswered": self.unanswered,
            "kappa": round(self.kappa, 4),
            # A share of nothing is no number.
            **{name: [None if x != x else round(x, 4) for x in share] for name, share in shares.items()},
        }

    def short_of(self, limits: Limits) -> list[str]:
        """The limits that are not reached; a share of nothing reaches none."""
        found = {"kappa": self.kappa, "precision": self.precision[0], "recall": self.recall[0]}
        return [
            f"{name} {least:g}" for name, least in msgspec.structs.asdict(limits).items() if not found[name] >= least
        ]


@cache
def labelled() -> tuple[Labelled, ...]:
    """The captions of `filters/calibration` with at least one label."""
    found = []
    for row in map(orjson.loads, (FOLDER / LABELS).read_bytes().splitlines()):
        irrelevant = None if row["relevant"] is None else not row["relevant"]
        asked = any(number.kind in WEIGHTS for number in find_numbers(row["text"]))
        labels = {"irrelevant": irrelevant, "misleading": row["misleading"] if asked else None}
        if set(labels.values()) != {None} and row["drawn"] < 5:
            found.append(Labelled(row["sha256"], row["text"], labels, row["half"] == "held"))
    return tuple(found)


def figures(
    scores: Scores, flag: str, threshold: float, unanswered_flagged: bool,
    among: Sequence[Labelled],
) -> Figures:  # fmt: skip
    """A flag at a threshold against the reader's labels.

    unanswered_flagged: what the recipe makes of a caption without an answer (`not_scored: drop` takes it out).
    """
    import numpy as np

    asked = [one for one in among if one.labels[flag] is not None]
    says = [scores[one.digest][flag] for one in asked]
    flagged = np.array([unanswered_flagged if score is None else score >= threshold for score in says], dtype=bool)
    label = np.array([one.labels[flag] for one in asked], dtype=bool)
    yes, no, missed, clear = (int(np.sum((flagged == a) & (label == b))) for a in (True, False) for b in (True, False))
    kappa = measures(flagged, label, np.ones(len(asked)))[1] or 0.0
    return Figures(flag, threshold, ((yes, no), (missed, clear)), says.count(None), kappa)


def thresholds(drop: Predicate, name: str) -> dict[str, float]:
    """{flag: threshold} of a judge's predicate. Raises: `UserError` for one whose effect no record can say."""
    found = drop.any_of() or {}
    flags = {column.removeprefix(f"{name}."): number for column, number in found.items()}
    if not flags or not flags.keys() <= set(FLAGS):
        raise UserError(
            f"{drop.text!r}: a judge drops by {' or '.join(f'{flag} >= NUMBER' for flag in FLAGS)}, or both"
        )
    return flags


def held_figures(scores: Scores, drop: Predicate, name: str, unanswered_flagged: bool) -> list[Figures]:
    """Figures on the held captions at a predicate's thresholds."""
    held = [one for one in labelled() if one.held]
    flags = thresholds(drop, name)
    return [figures(scores, flag, flags[flag], unanswered_flagged, held) for flag in sorted(flags)]


def require_limits(found: Sequence[Figures], limits: Limits, who: str) -> None:
    """Refuse a judge that does not reach the limits. Raises: `UserError`, one line with its figures."""
    for one in found:
        if short := one.short_of(limits):
            raise UserError(f"{who} may drop nothing: {one.line()}; short of {', '.join(short)}")


def check_record(
    path: Path,
    judge: Mapping[str, Any],
    drop: Predicate,
    name: str,
    unanswered_flagged: bool,
    limits: Mapping[str, Any],
) -> None:
    """See to it that a record lets this judge drop by this predicate. Raises: `UserError`, one line."""
    record = load_record(path)
    if other := sorted(key for key in judge.keys() | record.judge.keys() if judge.get(key) != record.judge.get(key)):
        shown = f"{other[0]} {record.judge.get(other[0])!r}, not {judge.get(other[0])!r}"
        raise UserError(f"{path}: the record of another judge ({shown}); run filters.calibrate for this one")
    if record.labels != label_digests():
        raise UserError(f"{path}: made with other labelled captions than these; run filters.calibrate again")
    found = held_figures(record.scores, drop, name, unanswered_flagged)
    require_limits(found, checked(Limits, limits, f"{name}.limits"), f"{path}: this judge")


def label_digests() -> dict[str, str]:
    """SHA-256 of the labelled file."""
    return {LABELS: file_sha256(FOLDER / LABELS).hex()}


def load_record(path: Path) -> CalibrationRecord:
    """Read a record. Raises: `UserError`."""
    try:
        content = orjson.loads(read_file(path))
    except OSError as error:
        raise UserError(f"{path}: no calibration record ({error.strerror}); make it with filters.calibrate") from error
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: no calibration record (not JSON)") from error
    record = checked(CalibrationRecord, content, str(path))
    wanted = {one.digest: {flag for flag, label in one.labels.items() if label is not None} for one in labelled()}
    if record.format != FORMAT or any(not flags <= record.scores.get(one, {}).keys() for one, flags in wanted.items()):
        raise UserError(f"{path}: a record of another version, or not whole; run filters.calibrate again")
    return record


def ask(judge: Filter, among: Sequence[Labelled] = ()) -> dict[str, dict[str, float | None]]:
    """The judge's scores of the labelled captions, or of some, by their digest."""
    records, among = [], among or labelled()
    for one in among:
        turn = {"role": "assistant", "reasoning": None, "content": [{"type": "text", "text": one.text}]}
        sample = {"id": f"caption {one.digest[:12]}", "source": "calibration", "access": "open", "messages": [turn]}
        records.append(Record(sample))
    found = {}
    for one, scores in zip(among, judge.score(records), strict=True):
        flags = (flag for flag in FLAGS if one.labels[flag] is not None)
        found[one.digest] = {flag: None if (value := scores[flag]) is None else float(value) for flag in flags}
    return found


def report(scores: Scores, found: Sequence[Figures]) -> dict[str, Any]:
    """The figures of a record: held and fitting half, the fitted threshold, agreement with the rules."""
    fitting, held = ([one for one in labelled() if one.held == side] for side in (False, True))
    rules = {
        one.digest: {"irrelevant": irrelevance(one.text), "misleading": misleading(find_numbers(one.text))}
        for one in labelled()
    }
    result = {}
    for one in found:
        at = {"irrelevant": IRRELEVANT, "misleading": 0.5}[one.flag]
        asked = [case for case in held if case.labels[one.flag] is not None]
        says = [(scores[case.digest][one.flag] or 0.0) >= one.threshold for case in asked]
        rule = [rules[case.digest][one.flag] >= at for case in asked]
        left = [(said, case) for said, ruled, case in zip(says, rule, asked, strict=True) if not ruled]
        # The highest of those with the highest kappa.
        step = max(STEPS, key=lambda step: (figures(scores, one.flag, step, False, fitting).kappa, step))
        result[one.flag] = {
            **one.plain(),
            "fitted": {
                "fitting_half": figures(scores, one.flag, step, False, fitting).plain(),
                "held": figures(scores, one.flag, step, False, held).plain(),
            },
            "as_the_rules_say": [sum(said == ruled for said, ruled in zip(says, rule, strict=True)), len(asked)],
            "rules_alone": figures(rules, one.flag, at, False, held).plain(),
            "left_over_by_rules": {
                "captions": len(left),
                "to_drop": sum(case.labels[one.flag] is True for _, case in left),
                "found": sum(said and case.labels[one.flag] is True for said, case in left),
                "wrong": sum(said and case.labels[one.flag] is False for said, case in left),
            },
        }
    return result
