"""Reviewers' verdicts, heeded a second time: pairs as they stand in the file, piece by piece (see the room)."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manifests.catalog import LoadedBuild
from manifests.proof.policy import Policy
from manifests.proof.text_pairs import NAMED
from manifests.proof.verdicts import PAIR, REASONS, SIDES, WRONG
from manifests.verification.derived import Key, rows_of


class Verdicts:
    """What reviewers said of pairs, held against evidence that comes in pieces, all of a training sample in one."""

    def __init__(self, path: Path, policy: Policy, builds: Sequence[LoadedBuild]) -> None:
        self.data = path.read_bytes() if path.exists() else None
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in (self.data or b"").splitlines()]
        self.pairs = [tuple(one[name] for name in PAIR) for one in self.lines]
        ends = [[(one[f"{side}_build"], one[f"{side}_sample"]) for side in SIDES] for one in self.lines]
        seen = _as_seen(builds, set(itertools.chain.from_iterable(ends)))
        self.changed = [
            [one[f"{side}_sha256"] for side in SIDES] != [seen.get(end) for end in mine]
            for one, mine in zip(self.lines, ends, strict=True)
        ]
        told = zip(self.lines, self.pairs, self.changed, strict=True)
        self.right = {pair for one, pair, changed in told if one["verdict"] == "right" and not changed}
        self.levels = policy.verdicts
        self.reasons: dict[int, str | None] = {}
        """Why a line is not used, None where it is; of lines whose pair was met."""
        self.back = 0

    def heeded(self, evidence: Sequence[Mapping[str, Any]], actions: Sequence[str]) -> list[str]:
        """The actions of a piece of evidence after its verdicts, of those that the policy gives."""
        actions = list(actions)
        places: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        named: Counter[tuple[Any, ...]] = Counter()
        for place, row in enumerate(evidence if self.lines else ()):
            places[tuple(row[name] for name in PAIR)].append(place)
            named[row["kind"], row["train_build"], row["train_sample"]] += row["level"] == "near_text"
        lifted = set[int]()
        for number, pair in enumerate(self.pairs):
            if pair in places:
                rows = [evidence[place] for place in places[pair]]
                most = max(named[row["kind"], row["train_build"], row["train_sample"]] for row in rows)
                out = {actions[place] for place in places[pair]}
                self.reasons[number] = self._reason(number, out, most if pair[0] == "near_text" else 0)
                if self.reasons[number] is None and self.lines[number]["verdict"] == "wrong":
                    lifted.update(place for place in places[pair] if actions[place] == "exclude")
        for place in lifted:
            actions[place] = WRONG
        told = list(zip(evidence, actions, strict=True))
        still = {(row["train_build"], row["train_sample"]) for row, action in told if action == "exclude"}
        self.back += len({(row["train_build"], row["train_sample"]) for row, action in told if action == WRONG} - still)
        return actions

    def _reason(self, number: int, actions: set[str], named: int) -> str | None:
        if self.changed[number]:
            return REASONS["changed"]
        if self.lines[number]["verdict"] == "right":
            return None
        checks = {
            "level": self.pairs[number][0] in self.levels, "kept": "exclude" in actions, "more": named < NAMED,
            "contested": self.pairs[number] not in self.right,
        }  # fmt: skip
        return next((REASONS[name] for name, good in checks.items() if not good), None)

    def document(self) -> dict[str, Any] | None:
        """What the certificate must say of them."""
        if self.data is None:
            return None
        reasons = [self.reasons.get(number, REASONS["absent"]) for number in range(len(self.lines))]
        used: dict[str, set[tuple[Any, ...]]] = defaultdict(set)
        for one, pair, reason in zip(self.lines, self.pairs, reasons, strict=True):
            if reason is None:
                used[one["verdict"]].add(pair)
        return {
            "sha256": hashlib.sha256(self.data).hexdigest(), "lines": len(self.lines), "wrong": len(used["wrong"]),
            "right": len(used["right"]), "back": self.back,
            "not_used": [{"line": n, "reason": reason} for n, reason in enumerate(reasons, 1) if reason is not None],
        }  # fmt: skip


def _as_seen(builds: Sequence[LoadedBuild], samples: set[Key]) -> dict[Key, str]:
    """The digests by which verdicts name samples: of the record's, then each picture's pixels, in hexadecimal."""
    records: dict[Key, str] = {}
    pixels: dict[Key, dict[int, str]] = defaultdict(dict)
    for build in builds if samples else ():
        name = build.record["build"]
        for _, part in build.parts("samples"):
            for row in rows_of(part, ["sample_id", "sha256"]):
                if (name, row["sample_id"]) in samples:
                    records[name, row["sample_id"]] = row["sha256"].hex()
        for _, part in build.parts("images"):
            for row in rows_of(part, ["sample_id", "index", "pixel_sha256"]):
                if (name, row["sample_id"]) in samples and row["pixel_sha256"] is not None:
                    pixels[name, row["sample_id"]][row["index"]] = row["pixel_sha256"].hex()
    return {
        key: hashlib.sha256("".join([record, *(pixels[key][at] for at in sorted(pixels[key]))]).encode()).hexdigest()
        for key, record in records.items()
    }
