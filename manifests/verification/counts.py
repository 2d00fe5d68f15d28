"""Policy, exclusions and counts, derived a second time row by row in Python (see the room)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pyarrow.parquet as pq

from manifests.catalog import LoadedBuild
from manifests.proof.policy import Policy
from manifests.verification.derived import Key, rows_of

_T = TypeVar("_T")


def action_of(policy: Policy, row: Mapping[str, Any], sources: Mapping[str, str]) -> str:
    """What the first rule that fits says of a row of evidence."""
    for rule in policy.rules:
        sides = ((rule.train, row["train_build"]), (rule.eval, row["eval_build"]))
        if (
            rule.level == row["level"]
            and (not rule.kinds or row["kind"] in rule.kinds)
            and all(not names or build in names or sources.get(build) in names for names, build in sides)
            and (rule.min_score is None or (row["score"] is not None and row["score"] >= rule.min_score))
            and (rule.min_words is None or (row["words"] is not None and row["words"] >= rule.min_words))
            and (rule.max_distance is None or (row["distance"] is not None and row["distance"] <= rule.max_distance))
        ):
            return rule.action
    return "report"


class Tally:
    """Samples and pictures of all builds, counted from the parts."""

    def __init__(self, builds: Sequence[LoadedBuild]) -> None:
        self.train: Counter[str] = Counter()
        self.eval: Counter[tuple[str, str]] = Counter()
        self.subsets: Counter[tuple[str, str, str]] = Counter()
        self.without_pixels: Counter[tuple[str, str]] = Counter()
        self.rejects: Counter[tuple[str, str, str, bool]] = Counter()
        self.read: Counter[tuple[str, str, str]] = Counter()
        """Rows of the test side that a build read, by (source, build, split)."""
        for build in builds:
            name = build.record["build"]
            for _, part in build.parts("samples"):
                for row in rows_of(part, ["role", "split", "subset"]):
                    if row["role"] == "train":
                        self.train[name] += 1
                    else:
                        self.eval[name, row["split"]] += 1
                        if row["subset"] is not None:
                            self.subsets[name, row["split"], row["subset"]] += 1
            for _, part in build.parts("rejects"):
                for row in rows_of(part, ["role", "reason", "damaged"]):
                    self.rejects[name, row["role"], row["reason"], row["damaged"]] += 1
            kept = {unit["unit"] for unit, _ in build.parts("samples", "eval")}  # a part without rows is not written
            for kind in ("samples", "rejects"):
                for unit, part in build.parts(kind, "eval"):
                    if unit["unit"] in kept:
                        key = build.record["source"]["name"], name, unit["split"]
                        self.read[key] += pq.read_metadata(part).num_rows
            for _, part in build.parts("images"):
                table = pq.read_table(part, columns=["role", "pixel_sha256"])
                for row in table.filter(table["pixel_sha256"].is_null()).to_pylist():
                    self.without_pixels[name, row["role"]] += 1

    def totals(self) -> dict[str, Any]:
        """What the certificate says of the data alone."""
        return {
            "train_totals": [{"train_build": b, "train_samples": n} for b, n in sorted(self.train.items())],
            "eval_totals": [
                {"eval_build": b, "eval_split": s, "eval_samples": n} for (b, s), n in sorted(self.eval.items())
            ],
            "without_pixels": [
                {"build": b, "role": role, "images": n} for (b, role), n in sorted(self.without_pixels.items())
            ],
        }


@dataclass
class _Cell:
    """What is counted of a cell of a table."""

    pairs: int = 0
    trains: int = 0
    tests: set[str] = field(default_factory=set)


class Summary:
    """What the certificate says of the evidence; it comes in pieces, each with all evidence of its training samples."""

    def __init__(self) -> None:
        self.matrix: dict[tuple[Any, ...], _Cell] = defaultdict(_Cell)
        self.subsets: dict[tuple[Any, ...], _Cell] = defaultdict(_Cell)
        self.taken: dict[tuple[Any, ...], _Cell] = defaultdict(_Cell)
        self.after: Counter[tuple[str, ...]] = Counter()
        self.excluded: Counter[str] = Counter()

    def add(self, evidence: Sequence[Mapping[str, Any]], excluded: Mapping[Key, Any]) -> None:
        """Count one piece."""
        out = [row for row in evidence if row["action"] == "exclude"]
        tables = ((_MATRIX, self.matrix, evidence), (_SUBSETS, self.subsets, evidence), (_TAKEN, self.taken, out))
        for names, cells, rows in tables:
            trains: dict[tuple[Any, ...], set[Key]] = defaultdict(set)
            for row in rows:
                key = tuple(row[name] for name in names)
                cells[key].pairs += 1
                cells[key].tests.add(row["eval_sample"])
                trains[key].add((row["train_build"], row["train_sample"]))
            for key, samples in trains.items():
                cells[key].trains += len(samples)
        for row in evidence:
            if row["action"] in ("exclude", "forbid") and (row["train_build"], row["train_sample"]) not in excluded:
                self.after[row["level"], row["kind"], row["action"]] += 1
        self.excluded.update(build for build, _ in excluded)

    def document(self, tally: Tally) -> dict[str, Any]:
        """What the certificate must say."""
        return {
            "matrix": [
                {**_named_cell(_MATRIX, key), "pairs": cell.pairs, "train_samples": cell.trains,
                 "eval_samples": len(cell.tests)}
                for key, cell in _in_order(self.matrix)
            ],
            "subsets": [
                {**_named_cell(_SUBSETS, key), "eval_samples": len(cell.tests),
                 "of_eval_samples": tally.subsets[key[1:4]]}
                for key, cell in _in_order(self.subsets) if key[3] is not None
            ],
            "exclusions_by_benchmark": [
                {**_named_cell(_TAKEN, key), "train_samples": cell.trains, "eval_samples": len(cell.tests)}
                for key, cell in _in_order(self.taken)
            ],
            "after": [{**_named_cell(_AFTER, key), "pairs": pairs} for key, pairs in _in_order(self.after)],
            "exclusions": [{"train_build": b, "train_samples": count} for b, count in sorted(self.excluded.items())],
            "clean": not self.after,
        }  # fmt: skip


_MATRIX = ("train_build", "eval_build", "eval_split", "level", "kind", "action")
_SUBSETS = ("train_build", "eval_build", "eval_split", "eval_subset", "level", "kind")
_TAKEN = ("train_build", "eval_build", "eval_split")
_AFTER = ("level", "kind", "action")


def _named_cell(names: Sequence[str], key: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, key, strict=True))


def _in_order(cells: Mapping[tuple[Any, ...], _T]) -> list[tuple[tuple[Any, ...], _T]]:
    """In the order of the keys; NULL comes last, as SQL has it."""
    return sorted(cells.items(), key=lambda item: [(value is None, value) for value in item[0]])
