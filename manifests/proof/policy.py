"""The policy: which evidence takes a training sample out, and how near images and texts are searched for.

A policy is a YAML file; `policies/default.yaml` is the default and documents every key. Nothing has a hidden
default: a file must say all of it, and a key, level, kind or source that is not known is an error, because a
misspelt rule would quietly let a leak through.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson
import yaml

from manifests.proof.evidence import LEVELS
from medgpt.errors import UserError

DEFAULT_POLICY = Path(__file__).parent / "policies" / "default.yaml"
ACTIONS = ("exclude", "report", "forbid")
_VERSION = 1

_IMAGE_KEYS = {"radius": int, "region_radius": int, "threshold": float, "borderline": float}
_TEXT_KEYS = {
    "run_words": list,
    "common_df": int,
    "short_min_words": int,
    "jaccard": float,
    "shingle_common_df": int,
    "shingles_min": int,
    "rewrite": float,
    "rewrite_answer_words": int,
    "question_min_words": int,
    "picture_items_min_words": int,
    "leave_out_eval_tasks": list,
}
_RULE_KEYS = {"level", "kinds", "train", "eval", "min_score", "min_words", "max_distance", "action"}


class PolicyError(UserError):
    """One line: what in the policy file is wrong, and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """Evidence that fits every condition given meets the action. `train` and `eval` name sources or builds."""

    level: str
    action: str
    kinds: tuple[str, ...] = ()
    train: tuple[str, ...] = ()
    eval: tuple[str, ...] = ()
    min_score: float | None = None
    min_words: int | None = None
    max_distance: int | None = None


@dataclass(frozen=True)
class Policy:
    """A policy file as read. `content` is the file's content as plain values, which the certificate repeats."""

    content: Mapping[str, Any]
    images: Mapping[str, Mapping[str, Any]]
    """Settings by modality; `default` is among them."""
    modality_of: Mapping[str, str]
    """Source -> modality, where it is not the default."""
    text: Mapping[str, Any]
    rules: tuple[Rule, ...]

    @property
    def sha256(self) -> str:
        """Digest of the content as canonical JSON: comments and layout of the file do not matter."""
        return hashlib.sha256(orjson.dumps(self.content, option=orjson.OPT_SORT_KEYS)).hexdigest()

    def modality(self, source: str) -> str:
        """Which image settings judge pairs with a test picture of this source."""
        return self.modality_of.get(source, "default")

    def action_sql(self) -> str:
        """Write the rules as one SQL expression over a row of evidence joined with both sources.

        Columns used: those of `manifests.proof.evidence.EVIDENCE` but `action`, and `train_source`, `eval_source`.
        """
        cases = []
        for rule in self.rules:
            tests = [f"level = {_quote(rule.level)}"]
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
            cases.append(f"WHEN {' AND '.join(tests)} THEN {_quote(rule.action)}")
        return f"CASE {' '.join(cases)} ELSE 'report' END"


def load_policy(path: Path | None = None) -> Policy:
    """Read a policy file, the default one if none is named.

    Raises: `PolicyError`.
    """
    file = path or DEFAULT_POLICY
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"{file}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise PolicyError(f"{file}: not YAML ({' '.join(str(error).split())})") from error
    try:
        return parse_policy(content)
    except PolicyError as error:
        raise PolicyError(f"{file}: {error}") from error


def parse_policy(content: Any) -> Policy:
    """Check a policy's content, as a YAML or JSON reader gives it.

    Raises: `PolicyError`.
    """
    document = _mapping(content, "policy", {"version", "images", "text", "rules", "train_duplicates"})
    if document["version"] != _VERSION:
        raise PolicyError(f"version {document['version']!r}, where {_VERSION} is read")
    images: dict[str, dict[str, Any]] = {}
    modality_of: dict[str, str] = {}
    for modality, given in _mapping(document["images"], "images").items():
        expected = set(_IMAGE_KEYS) | (set() if modality == "default" else {"where_present"})
        settings = _mapping(given, f"images.{modality}", expected)
        images[modality] = {
            key: _typed(settings[key], kind, f"images.{modality}.{key}") for key, kind in _IMAGE_KEYS.items()
        }
        for key in ("radius", "region_radius"):
            if images[modality][key] not in range(0, 17, 2):
                raise PolicyError(
                    f"images.{modality}.{key}: {images[modality][key]}; even numbers from 0 to 16 are allowed"
                )
        if not 0 < images[modality]["borderline"] <= images[modality]["threshold"] <= 1:
            raise PolicyError(f"images.{modality}: 0 < borderline <= threshold <= 1 must hold")
        for source in _names(settings.get("where_present", []), f"images.{modality}.where_present"):
            if source in modality_of:
                raise PolicyError(f"images: {source} is named under {modality_of[source]} and {modality}")
            modality_of[source] = modality
    if "default" not in images:
        raise PolicyError("images: `default` is missing")
    text = _mapping(document["text"], "text", set(_TEXT_KEYS))
    text = {key: _typed(text[key], kind, f"text.{key}") for key, kind in _TEXT_KEYS.items()}
    runs = text["run_words"]
    if (
        not runs
        or not all(type(n) is int for n in runs)
        or runs != sorted(set(runs))
        or not 5 <= runs[0] <= runs[-1] <= 50
    ):
        raise PolicyError(f"text.run_words: {runs}; rising whole numbers from 5 to 50 are allowed")
    for key in ("jaccard", "rewrite"):
        if not 0 < text[key] <= 1:
            raise PolicyError(f"text.{key}: {text[key]}; more than 0 and at most 1 is allowed")
    for key, kind in _TEXT_KEYS.items():
        if kind is int and text[key] < 1:
            raise PolicyError(f"text.{key}: {text[key]}; at least 1 is needed")
    _names(text["leave_out_eval_tasks"], "text.leave_out_eval_tasks")
    duplicates = document["train_duplicates"]
    if duplicates is not None:
        duplicates = _mapping(duplicates, "train_duplicates", {"radius", "threshold"})
        if duplicates["radius"] not in (0, 2, 4):
            raise PolicyError(f"train_duplicates.radius: {duplicates['radius']!r}; 0, 2 and 4 are allowed")
        if not 0 < _typed(duplicates["threshold"], float, "train_duplicates.threshold") <= 1:
            raise PolicyError("train_duplicates.threshold: more than 0 and at most 1 is allowed")
    if not isinstance(document["rules"], list) or not document["rules"]:
        raise PolicyError("rules: a list with at least one rule is needed")
    rules = tuple(_rule(given, f"rule {number}") for number, given in enumerate(document["rules"], 1))
    if all(rule.action == "report" for rule in rules):
        raise PolicyError("rules: none excludes or forbids anything, so nothing would be proved")
    return Policy(cast(Mapping[str, Any], document), images, modality_of, text, rules)


def check_names(policy: Policy, sources: Collection[str], builds: Collection[str]) -> None:
    """Refuse rules that name a source or build which the data does not hold.

    Raises: `PolicyError`.
    """
    known = {*sources, *builds}
    for number, rule in enumerate(policy.rules, 1):
        for name in (*rule.train, *rule.eval):
            if name not in known:
                raise PolicyError(f"rule {number} names {name!r}; the data holds {', '.join(sorted(known))}")


def _rule(given: Any, where: str) -> Rule:
    rule = _mapping(given, where)
    if unknown := rule.keys() - _RULE_KEYS:
        raise PolicyError(
            f"{where}: unknown key {', '.join(sorted(unknown))}; there are {', '.join(sorted(_RULE_KEYS))}"
        )
    level, action = rule.get("level"), rule.get("action")
    if level not in LEVELS:
        raise PolicyError(f"{where}: unknown level {level!r}; there are {', '.join(LEVELS)}")
    if action not in ACTIONS:
        raise PolicyError(f"{where}: unknown action {action!r}; there are {', '.join(ACTIONS)}")
    kinds = _names(rule.get("kinds", []), f"{where}, kinds")
    if unknown := set(kinds) - set(LEVELS[level]):
        raise PolicyError(
            f"{where}: unknown kind {', '.join(sorted(unknown))} of {level}; there are {', '.join(LEVELS[level])}"
        )
    return Rule(
        level,
        action,
        tuple(kinds),
        tuple(_names(rule.get("train", []), f"{where}, train")),
        tuple(_names(rule.get("eval", []), f"{where}, eval")),
        _typed(rule["min_score"], float, f"{where}, min_score") if "min_score" in rule else None,
        _typed(rule["min_words"], int, f"{where}, min_words") if "min_words" in rule else None,
        _typed(rule["max_distance"], int, f"{where}, max_distance") if "max_distance" in rule else None,
    )


def _mapping(value: Any, where: str, expected: set[str] | None = None) -> dict[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise PolicyError(f"{where}: a mapping is needed, not {value!r}")
    if expected is not None and value.keys() != expected:
        missing, unknown = sorted(expected - value.keys()), sorted(value.keys() - expected)
        what = [f"{', '.join(missing)} missing"] * bool(missing) + [f"unknown key {', '.join(unknown)}"] * bool(unknown)
        raise PolicyError(f"{where}: {'; '.join(what)}; its keys are {', '.join(sorted(expected))}")
    return value


def _typed(value: Any, kind: type, where: str) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise PolicyError(f"{where}: {value!r} is no {kind.__name__}")
    return value


def _names(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise PolicyError(f"{where}: a list of names is needed, not {value!r}")
    return value


def _quote(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _list(values: Iterable[str]) -> str:
    return f"({', '.join(map(_quote, values))})"
