"""The policy: which evidence takes a training sample out, and how near images and texts are searched for.

A policy is a YAML file; `policies/default.yaml` is the default and documents every key. Nothing has a hidden
default: a file must say all of it, and a key, level, kind or source that is not known is an error, because a
misspelt rule would quietly let a leak through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import orjson
from msgspec import Meta

from manifests.catalog import sql_text
from manifests.proof.evidence import LEVELS
from medgpt.errors import UserError
from medgpt.settings import Settings, checked, read_yaml

DEFAULT_POLICY = Path(__file__).parent / "policies" / "default.yaml"
Action = Literal["exclude", "report", "forbid"]
ACTIONS: tuple[str, ...] = get_args(Action)

_Radius = Annotated[int, Meta(ge=0, le=16, multiple_of=2)]
_Count = Annotated[int, Meta(ge=1)]
_Share = Annotated[float, Meta(gt=0, le=1)]


class ImageSettings(Settings, frozen=True):
    """How near pictures are judged, by the modality of the test picture's source."""

    radius: _Radius
    """Bits that the hashes of a training picture and of a variant may differ in: even, 0 to 16."""
    region_radius: _Radius
    threshold: _Share
    """A score from here on is a match."""
    borderline: _Share
    """Cells or thumbnails that score less refute the pair. From here to the threshold, whole pictures decide where both
    can be read; where not, the pair is no match."""
    where_present: tuple[str, ...] | None = None
    """Sources of this modality; of all but the default."""

    def __post_init__(self) -> None:
        if self.borderline > self.threshold:
            raise ValueError("borderline <= threshold must hold")


class TextSettings(Settings, frozen=True):
    """How near texts are found; `policies/default.yaml` says how the default values were calibrated."""

    stem_pairs: _Share
    """A stem is judged where a window of a record holds pairs of its words of that share of its weight ..."""
    answer_pairs: _Share
    """... or of this one, if the record holds the gold answer, too."""
    stem_letters: _Share
    """Share of a stem's runs of letters that takes a record out, if the letters found weigh `stem_bits`."""
    stem_bits: _Count
    answer_letters: _Share
    """The same with the gold answer near it, if both together weigh `answer_bits`; `row_bits` where the stem's words
    stand in a row."""
    answer_bits: _Count
    row_bits: _Count
    verbatim_bits: _Count
    """What a verbatim stem and its gold answer must weigh, unless one follows the other at once."""
    run_words: Annotated[int, Meta(ge=5, le=50)]
    """Words of a run of which passages are made, those that weigh less than `run_bits` left out."""
    run_bits: _Count
    passage_words: _Count
    """Words of a passage in shared runs, which weigh `passage_bits` together."""
    passage_bits: _Count
    report_bits: _Count
    """What that part of a report must weigh that is not in the words of many patients' reports."""
    boilerplate_samples: _Count
    """A run that more samples of one train part hold, and more than `boilerplate_share` of them, makes no passage."""
    boilerplate_share: _Share
    boilerplate_patients: _Count
    """A run of reports that more patients or articles than so many have, of the test side or of one train part, makes
    no passage either."""
    picture_items_min_words: _Count
    """Items about a picture shorter than this say nothing without it."""
    leave_out_eval_tasks: tuple[str, ...]


class SentenceModel(Settings, frozen=True):
    """A model of the rewrite level, and the cosine from which on a pair is looked at."""

    model: Annotated[str, Meta(min_length=1)]
    """`english`, `multilingual` or a folder (`manifests.proof.encoders`)."""
    cosine: _Share


class RewriteSettings(Settings, frozen=True):
    """What makes a pair that a sentence model proposes an overlap (`manifests.proof.rewrites`)."""

    models: Annotated[tuple[SentenceModel, ...], Meta(min_length=1)]
    shared_bits: _Count
    """What the words of a question that stand in stem or gold answer must say."""
    answer_words: _Share
    """Share of the question's weight in those words, where the record has the gold answer ..."""
    question_words: _Share
    """... and where not, if they say `question_bits` and the cosine is `question_cosine`, or it is `same_cosine`."""
    question_bits: _Count
    question_cosine: _Share
    same_cosine: _Share


class EncoderSettings(Settings, frozen=True):
    """Which copy descriptor proposes pairs (`manifests.proof.descriptors`)."""

    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    pixels: Annotated[int, Meta(ge=16, le=2048)]
    """Side of the square that pictures are squeezed to; a folder of open_clip has its own preparation."""
    cosine: _Share
    """Pairs at least so near are looked at."""


class LocalSettings(Settings, frozen=True):
    """How local pictures are found (`manifests.proof.local_pictures`)."""

    train: tuple[str, ...]
    """Sources or builds whose training pictures are compared, as a shell's patterns; none: the level is off."""
    inliers: Annotated[int, Meta(ge=4)]
    """Features at different places that must agree on one placement."""
    spread: _Share
    """Share of the test picture that the middle of them must span."""
    share: _Share
    """Share of either picture that the other must show."""
    threshold: _Share
    """Agreement of the pixels from which on it is a match."""
    encoder: EncoderSettings | None


class DuplicateSettings(Settings, frozen=True):
    """Which different train pictures are listed as alike."""

    radius: Literal[0, 2, 4]
    threshold: _Share


class Rule(Settings, frozen=True):
    """Evidence that fits every condition given meets the action. `train` and `eval` name sources or builds."""

    level: str
    action: Action
    kinds: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()
    min_score: float | None = None
    min_words: int | None = None
    max_distance: int | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"unknown level {self.level!r}; there are {', '.join(LEVELS)}")
        if unknown := sorted(set(self.kinds) - set(LEVELS[self.level])):
            allowed = ", ".join(LEVELS[self.level])
            raise ValueError(f"unknown kind {', '.join(unknown)} of {self.level}; there are {allowed}")


class Benchmark(Settings, frozen=True):
    """A benchmark that a certificate must hold on its test side."""

    name: str
    of: Annotated[tuple[str, ...], Meta(min_length=1)]
    """Sources or builds that are it: any of them will do."""
    splits: Annotated[dict[str, _Count], Meta(min_length=1)]
    """Its splits, and the rows that the publisher's have: fewer that were read are another benchmark."""


class _File(Settings, frozen=True):
    """What a policy file says."""

    version: Literal[1]
    images: dict[str, Any]
    """Checked one by one: msgspec does not name the key of a mapping."""
    text: TextSettings
    rewrites: RewriteSettings | None
    local_pictures: LocalSettings
    train_duplicates: DuplicateSettings | None
    benchmarks: tuple[Benchmark, ...] | Literal["present"]
    leave_out: dict[str, str]
    verdicts: tuple[str, ...]
    rules: Annotated[tuple[Rule, ...], Meta(min_length=1)]


@dataclass(frozen=True)
class Policy:
    """A policy file as read. `content` is the file's content as plain values, which the certificate repeats."""

    content: Mapping[str, Any]
    images: Mapping[str, ImageSettings]
    """Settings by modality; `default` is among them."""
    text: TextSettings
    local_pictures: LocalSettings
    train_duplicates: DuplicateSettings | None
    rules: tuple[Rule, ...]
    benchmarks: tuple[Benchmark, ...] = ()
    """None where the policy says `present`."""
    leave_out: Mapping[str, str] = field(default_factory=dict)
    """What is declared not to matter: reason by pattern of `<build>/<name>` (`manifests.proof.accounting`)."""
    verdicts: tuple[str, ...] = ()
    """Levels at which a reviewer's verdict lifts an exclusion (`manifests.proof.verdicts`)."""
    rewrites: RewriteSettings | None = None
    """None where the level is left out."""

    @property
    def sha256(self) -> str:
        """Digest of the content as canonical JSON: comments and layout of the file do not matter."""
        return hashlib.sha256(orjson.dumps(self.content, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def modality(self, source: str) -> str:
        """Which image settings judge pairs with a test picture of this source."""
        named = (name for name, settings in self.images.items() if source in (settings.where_present or ()))
        return next(named, "default")

    def compares_local(self, record: Mapping[str, Any]) -> bool:
        """Whether `local_pictures` names the source or build that this `build.json` is of."""
        names = record["source"]["name"], record["build"]
        return any(fnmatchcase(name, pattern) for pattern in self.local_pictures.train for name in names)

    def action_sql(self) -> str:
        """Write the rules as one SQL expression over a row of evidence joined with both sources.

        Columns used: those of `manifests.proof.evidence.EVIDENCE` but `action`, and `train_source`, `eval_source`.
        """
        cases = []
        for rule in self.rules:
            tests = [f"level = {sql_text(rule.level)}"]
            if rule.kinds:
                tests.append(f"kind IN {_list(rule.kinds)}")
            for side in ("train", "eval"):
                if names := getattr(rule, side):
                    tests.append(f"({side}_build IN {_list(names)} OR {side}_source IN {_list(names)})")
            if rule.min_score is not None:
                tests.append(f"score >= {rule.min_score!r}")
            if rule.min_words is not None:
                tests.append(f"words >= {rule.min_words}")
            if rule.max_distance is not None:
                tests.append(f"distance <= {rule.max_distance}")
            cases.append(f"WHEN {' AND '.join(tests)} THEN {sql_text(rule.action)}")
        return f"CASE {' '.join(cases)} ELSE 'report' END"


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file, the default one if none is named. Raises: `UserError`."""
    file = path or DEFAULT_POLICY
    return parse_policy(read_yaml(file), str(file))


def parse_policy(content: Any, place: str = "policy") -> Policy:
    """Check a policy's content, as a YAML or JSON reader gives it. Raises: `UserError` with `place`."""
    file = checked(_File, content, place)
    images, owner = {}, dict[str, str]()
    for modality, given in file.images.items():
        where = f"{place}: images.{modality}"
        settings = images[modality] = checked(ImageSettings, given, where)
        if (settings.where_present is None) != (modality == "default"):
            raise UserError(f"{where}: where_present belongs to every modality but the default")
        for source in settings.where_present or ():
            if owner.setdefault(source, modality) != modality:
                raise UserError(f"{place}: images: {source} is named under {owner[source]} and {modality}")
    if "default" not in images:
        raise UserError(f"{place}: images: `default` is missing")
    if all(rule.action == "report" for rule in file.rules):
        raise UserError(f"{place}: rules: none excludes or forbids anything, so nothing would be proved")
    if unknown := sorted(set(file.verdicts) - set(LEVELS)):
        raise UserError(f"{place}: verdicts: unknown level {', '.join(unknown)}; there are {', '.join(LEVELS)}")
    asked = () if file.benchmarks == "present" else file.benchmarks
    return Policy(
        content, images, file.text, file.local_pictures, file.train_duplicates, file.rules, asked, file.leave_out,
        file.verdicts, file.rewrites,
    )  # fmt: skip


def held_benchmarks(policy: Policy, read: Mapping[tuple[str, str, str], int], *, only_present: bool) -> dict[str, Any]:
    """What a certificate says of the policy's benchmarks. `read`: rows by (source, build, split) of the test side.

    `only_present` says, as the policy may, that none is asked for: those that are missing are named all the same.
    """
    only_present = only_present or policy.content["benchmarks"] == "present"
    held, missing = [], []
    for benchmark in policy.benchmarks:
        builds, lacking = set(), {}
        for split, rows in sorted(benchmark.splits.items()):
            found = {
                build: count
                for (source, build, of), count in read.items()
                if of == split and not {source, build}.isdisjoint(benchmark.of)
            }
            builds |= {build for build, count in found.items() if count >= rows}
            if max(found.values(), default=0) < rows:
                lacking[split] = {"rows": rows, "read": max(found.values(), default=0)}
        if lacking:
            missing.append({"name": benchmark.name, "splits": lacking})
        else:
            held.append({"name": benchmark.name, "builds": sorted(builds)})
    return {"asked": "present" if only_present else "policy", "held": held, "missing": missing}


def check_names(policy: Policy, sources: Collection[str], builds: Collection[str]) -> None:
    """Refuse rules that name a source or build which the data does not hold. Raises: `UserError`."""
    known = {*sources, *builds}
    for number, rule in enumerate(policy.rules):
        for name in (*rule.train, *rule.eval):
            if name not in known:
                raise UserError(f"rules[{number}] names {name!r}; the data holds {', '.join(sorted(known))}")


def _list(values: Iterable[str]) -> str:
    return f"({', '.join(map(sql_text, values))})"
