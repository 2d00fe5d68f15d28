"""Items in other words, derived a second time: one text at a time, each against each test item, nothing cached.

Shared with `prove` is what a model says of a text (`encoders`) and what words say of a pair (`rewrites.judge`). Two
computers differ in the last digits of a cosine: near a threshold both verdicts are right, and the said one is taken.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from manifests.catalog import LoadedBuild
from manifests.proof.encoders import Encoder
from manifests.proof.policy import Policy, RewriteSettings
from manifests.proof.rewrites import TOLERANCE, Asked, judge
from manifests.verification.derived import Found, Key, Progress, found
from manifests.verification.spread import Part, Pool, parts_of
from manifests.verification.stored_samples import records
from manifests.verification.texts import Text, why_left_out

Derived = tuple[dict[str, Any], list[tuple[str, float, list[tuple[str, int] | None]]]]
"""Both ends of a pair; for each model its cosine, and the verdicts a little below, at and a little above it."""
_Test = tuple[dict[str, Any], Asked, list[Any]]
"""The columns of evidence that name a test item, what it asks, its vectors."""


def rewrites(
    builds: Sequence[LoadedBuild],
    policy: Policy,
    chosen: set[Key] | None,
    progress: Progress,
    keep: Callable[[Key, Derived], None],
    pool: Pool,
) -> Counter[str]:
    """Pairs of the chosen training samples, all without a choice, that may be overlaps; `keep` takes them.

    Returns how many samples were looked at, as `train_samples`, and their different questions in each part. Raises:
    `UserError`, `OSError`.
    """
    settings = policy.rewrites
    assert settings is not None
    encoders = [(Encoder(one.model), one.cosine) for one in settings.models]
    tests: list[_Test] = []
    for build in builds:
        for _, part in build.parts("samples", "eval"):
            for row, record in records(build, part, progress):
                text = Text.of(record)
                if text.question and why_left_out(row, text, policy.text) is None:
                    end = {
                        "eval_build": build.record["build"],
                        "eval_split": row["split"],
                        "eval_subset": row["subset"],
                    }
                    item = Asked(text.question, text.answer)
                    tests.append((end | {"eval_sample": row["sample_id"]}, item, _vectors(encoders, item)))
    counts: Counter[str] = Counter()
    parts = parts_of(builds, "samples")
    shared, alone = (tests, encoders, settings, chosen), any(encoder.on_gpu for encoder, _ in encoders)
    for counted, pairs in pool.spread(_rewrites_of, shared, parts, progress, alone=alone):
        counts.update(counted)
        for key, pair in pairs:
            keep(key, pair)
    return counts


def _rewrites_of(
    shared: tuple[list[_Test], list[tuple[Encoder, float]], RewriteSettings, set[Key] | None],
    part: Part,
    progress: Progress,
) -> tuple[Counter[str], list[tuple[Key, Derived]]]:
    tests, encoders, settings, chosen = shared
    counts, questions, name = Counter[str](), set[str](), part.build.record["build"]
    pairs: list[tuple[Key, Derived]] = []
    for row, record in records(part.build, part.path, progress):
        text = Text.of(record)
        asked = Asked(text.question, text.answer)
        questions |= {text.question} if asked.words else set()
        if chosen is not None and (name, row["sample_id"]) not in chosen:
            continue
        counts["train_samples"] += 1
        start = {"train_build": name, "train_split": row["split"], "train_sample": row["sample_id"]}
        mine = _vectors(encoders, asked) if asked.words else []
        for end, item, theirs in tests if mine else ():
            options = list(_options(item, asked, zip(encoders, mine, theirs, strict=True), settings))
            if any(verdict is not None for _, _, verdicts in options for verdict in verdicts):
                pairs.append(((name, row["sample_id"]), (start | end, options)))
    counts["train_questions_distinct_in_their_part"] += len(questions)
    return counts, pairs


def _vectors(encoders: Sequence[tuple[Encoder, float]], asked: Asked) -> list[Any]:
    return [encoder.encode([asked.question])[0].astype(np.float64) for encoder, _ in encoders]


def _options(
    item: Asked, asked: Asked, pairs: Iterable[tuple[tuple[Encoder, float], Any, Any]], settings: RewriteSettings
) -> Iterator[tuple[str, float, list[tuple[str, int] | None]]]:
    for (encoder, floor), mine, theirs in pairs:
        cosine = float(np.dot(mine, theirs))
        if cosine >= floor - TOLERANCE:
            about = (cosine - TOLERANCE, cosine, cosine + TOLERANCE)
            yield encoder.name, cosine, [judge(item, asked, one, floor, settings) for one in about]


def settled(derived: Derived, said: Mapping[str, Any] | None) -> Found | None:
    """The row of evidence of a pair: as it is said, where that can be; else as it was derived."""
    ends, options = derived
    before = True  # whether no model before this one need have seen the pair
    for model, cosine, verdicts in options:
        if said is not None and said["variant"] == model and before:
            fits = (said["kind"], said["words"]) in verdicts and abs(said["score"] - cosine) <= TOLERANCE
            if fits:
                score, words = said["score"], said["words"]
                return _row(ends, model, said["kind"], score, words)
        before = before and None in verdicts
    if said is None and before:
        return None
    for model, cosine, (_, verdict, _) in options:
        if verdict is not None:
            return _row(ends, model, verdict[0], round(cosine, 3), verdict[1])
    return None


def _row(ends: Mapping[str, Any], model: str, kind: str, score: float, words: int) -> Found:
    return found(level="rewrite", kind=kind, variant=model, score=score, words=words, **ends)
