"""Derive a certificate again by a second road, and name whatever does not fit.

    python -m manifests.verify data                  # everything
    python -m manifests.verify data --sample 200     # of each build, 200 samples; digests, rules and counts in full

`manifests.prove` finds overlaps by SQL joins, an index of hashes and arrays of word numbers, and applies the policy in
SQL. Here the same is done by dictionaries, brute force, tuples of words and plain Python; fingerprints are made again
from the stored bytes, so that a manifest forged with all its digests is caught too. What both roads share: the file
formats, the definition of a word, of a perceptual hash, of the variants and of pixel agreement.

Which samples `--sample` takes follows from digests of their ids and of the certificate: nobody can choose them.

Exit code: 0 verified, 1 something does not fit, 2 there is nothing to verify.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import os
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from manifests.catalog import LoadedBuild
    from manifests.near_text import EvalText, TrainText
    from manifests.policy import Policy, Rule

PROOF = "proof"
_SHOWN = 20
Key = tuple[Any, ...]


class VerifyError(Exception):
    """One line: there is nothing to verify."""


@dataclass
class Step:
    """One part of the verification."""

    name: str
    looked_at: int = 0
    """Files, rows or samples."""
    findings: list[str] = field(default_factory=list)

    def expect(self, holds: bool, finding: str) -> None:
        """Count one thing looked at, and note what does not fit."""
        self.looked_at += 1
        if not holds:
            self.findings.append(finding)

    def equal(self, what: str, derived: set[Key], stated: set[Key]) -> None:
        """Compare two sets of rows both ways."""
        self.looked_at += len(derived | stated)
        for rows, problem in ((derived - stated, "is missing"), (stated - derived, "cannot be derived")):
            for row in sorted(rows, key=repr)[:_SHOWN]:
                self.findings.append(f"{what} {problem}: {', '.join(str(value) for value in row if value is not None)}")
            if len(rows) > _SHOWN:
                self.findings.append(f"{what} {problem}: {len(rows) - _SHOWN} more")


def verify(
    data: Path, proof: Path, *, sample: int | None = None, public_key: Path | None = None, quiet: bool = True
) -> list[Step]:
    """Verify the proof in the folder `proof` of the builds under `data`; stops where no later step would make sense.

    `sample`: of each build and part, so many samples are looked at where that costs much; None looks at all.
    Raises: `VerifyError` if there is no certificate.
    """
    from manifests.catalog import CatalogError, load_builds
    from manifests.certificate import CERTIFICATE, CertificateError, check_signature, read_certificate

    if not (proof / CERTIFICATE).is_file():
        raise VerifyError(f"{proof / CERTIFICATE}: not there; run python -m manifests.prove")
    first = Step("certificate")
    try:
        document = read_certificate(proof)
        first.looked_at += 1
        if public_key is not None:
            check_signature(proof, public_key)
            first.looked_at += 1
    except CertificateError as error:
        first.findings.append(str(error))
        return [first]
    second = Step("builds and their files")
    try:
        builds = load_builds(data)
    except CatalogError as error:
        second.findings.append(str(error))
        return [first, second]
    work = _Verification(data, proof, document, builds, sample, quiet)
    steps = [first, second]
    for name, look in (
        ("builds and their files", work.files),
        ("rules and policy", work.rules),
        ("proof files", work.proof_files),
        ("fingerprints and texts from stored bytes", work.stored),
        ("id and exact levels", work.exact),
        ("near pictures", work.near_images),
        ("near texts", work.near_texts),
        ("policy, exclusions and counts", work.conclusions),
        ("report", work.report),
    ):
        step = second if name == second.name else Step(name)
        if step is not second:
            steps.append(step)
        look(step)
        if step.findings and name in ("builds and their files", "rules and policy", "proof files"):
            break  # what follows would be derived from something else
    return steps


class _Verification:
    def __init__(
        self,
        data: Path,
        proof: Path,
        document: dict[str, Any],
        builds: Sequence[LoadedBuild],
        sample: int | None,
        quiet: bool,
    ) -> None:
        self.data, self.proof, self.document, self.builds = data, proof, document, builds
        self.sample, self.quiet = sample, quiet
        self.policy: Policy
        self.evidence: list[dict[str, Any]] = []

    # ---- what is there

    def files(self, step: Step) -> None:
        """Exactly the certified builds, every file as `build.json` says, nothing beside."""
        from manifests.digest import build_root, file_sha256, merkle_root

        stated = {build["build"]: build for build in self.document["builds"]}
        there = {build.record["build"]: build for build in self.builds}
        for name in sorted(stated.keys() | there.keys()):
            if name not in there:
                step.expect(False, f"build {name}: certified, but not under {self.data}")
            elif name not in stated:
                step.expect(False, f"build {name}: not in the certificate; prove again")
            else:
                root = there[name].record["root"]
                step.expect(
                    root == stated[name]["root"], f"build {name}: root {root}, certified {stated[name]['root']}"
                )
                step.expect(
                    _described(there[name]) == stated[name], f"build {name}: described otherwise in the certificate"
                )
        roots = [bytes.fromhex(build.record["root"]) for build in self.builds]
        step.expect(
            merkle_root(roots).hex() == self.document["builds_root"], "builds_root does not follow from the builds"
        )
        total = sum(file["bytes"] for build in self.builds for file in _files(build))
        with self._bar("files", total, "B") as bar:
            for build in self.builds:
                step.expect(
                    build_root(build.record) == build.record["root"],
                    f"{build.folder}/build.json: does not match its root digest",
                )
                listed = {file["file"]: file for file in _files(build)}
                for name, file in sorted(listed.items()):
                    path = build.folder / name
                    digest = file_sha256(path).hex() if path.is_file() else "missing"
                    step.expect(digest == file["sha256"], f"{path}: {'missing' if digest == 'missing' else 'altered'}")
                    bar.update(file["bytes"])
                for folder in ("shards", "manifest", "rejects"):
                    for path in sorted((build.folder / folder).glob("*")):
                        name = f"{folder}/{path.name}"
                        step.expect(name in listed, f"{path}: not part of the build")

    def rules(self, step: Step) -> None:
        """The code that is here is the code that made it, and the policy is sound."""
        from manifests.certificate import software
        from manifests.overlaps import rule_digests
        from manifests.policy import PolicyError, parse_policy

        here = rule_digests()
        for name in sorted(here.keys() | self.document["rules"].keys()):
            same = here.get(name) == self.document["rules"].get(name)
            step.expect(same, f"rule file {name}: the proof was made with another version; verify with that one")
        try:
            self.policy = parse_policy(self.document["policy"])
            digest = self.policy.sha256
            step.expect(digest == self.document["policy_sha256"], "policy_sha256 is not the policy's digest")
        except PolicyError as error:
            step.expect(False, f"policy: {error}")
        from manifests.near_images import coverage

        step.expect(self.document["coverage"] == coverage(), "coverage is not what was measured with these rules")
        step.expect(self.document["software"].keys() == software().keys(), "software: other packages than expected")

    def proof_files(self, step: Step) -> None:
        """Evidence, exclusions and the rest have their digests and columns."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from manifests.digest import file_sha256
        from manifests.evidence import EVIDENCE

        for name, digest in sorted(self.document["files"].items()):
            path = self.proof / f"{name}.parquet"
            step.expect(path.is_file() and file_sha256(path).hex() == digest, f"{path}: missing or altered")
        if not step.findings:
            try:
                self.evidence = pq.read_table(self.proof / "evidence.parquet").select(EVIDENCE.names).to_pylist()
            except (pa.ArrowException, KeyError, OSError) as error:
                step.expect(False, f"{self.proof}/evidence.parquet: cannot be read ({error})")

    # ---- what the manifests say, from the bytes

    def stored(self, step: Step) -> None:
        """Every stored record and picture gives the manifest row that is there."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from manifests.stored_text import TextError, read_records

        total = sum(unit["kept"] for build in self.builds for unit in build.record["units"])
        with self._bar("stored", total, " samples") as bar:
            for build in self.builds:
                chosen = self._chosen(build)
                for unit in build.record["units"]:
                    parts = {
                        part.name.endswith(".images.parquet"): part
                        for kind in ("samples", "images")
                        for of, part in build.parts(kind)
                        if of is unit
                    }
                    if not parts:
                        continue
                    rows = pq.read_table(parts[False]).to_pylist()
                    images: dict[str, list[dict[str, Any]]] = defaultdict(list)
                    for row in pq.read_table(parts[True]).to_pylist():
                        images[row["sample_id"]].append(row)
                    step.expect(
                        len(rows) == unit["kept"], f"{parts[False]}: {len(rows)} rows, {unit['kept']} were kept"
                    )
                    step.expect(
                        images.keys() <= {row["sample_id"] for row in rows}, f"{parts[True]}: pictures of no sample"
                    )
                    bar.update(len(rows))
                    picked = [row for row in rows if chosen is None or row["sample_id"] in chosen]
                    try:
                        for row, record in read_records(build.folder, picked):
                            for what in _faults(build, unit, row, record, images[row["sample_id"]]):
                                step.expect(False, f"{build.record['build']}, sample {row['sample_id']}: {what}")
                            step.looked_at += 1
                    except (TextError, pa.ArrowException) as error:
                        step.expect(False, str(error))

    def _chosen(self, build: LoadedBuild, role: str | None = None) -> set[str] | None:
        """Ids of the samples that are looked at; None for all."""
        import pyarrow.parquet as pq

        if self.sample is None:
            return None
        ids = [
            i
            for _, part in build.parts("samples", role)
            for i in pq.read_table(part, columns=["sample_id"])[0].to_pylist()
        ]
        salt = self.document["root"].encode()
        return set(sorted(ids, key=lambda name: hashlib.sha256(salt + name.encode()).digest())[: self.sample])

    # ---- the levels

    def exact(self, step: Step) -> None:
        """Id and exact evidence by dictionaries over the manifests' columns."""
        stated: dict[str, set[Key]] = defaultdict(set)
        for row in self.evidence:
            if row["level"] in ("id", "exact_image", "exact_text"):
                stated[row["level"]].add((*_identity(row), row["value"]))
        for level, keys in (("id", _ids), ("exact_image", _image_digests), ("exact_text", _text_digests)):
            tests: dict[Key, list[Key]] = defaultdict(list)
            for row, kind, value in keys(self.builds, "eval"):
                tests[kind, value].append(
                    (row["build"], row["split"], row["subset"], row["sample_id"], row.get("index"))
                )
            derived = {
                (level, kind, row["build"], row["split"], row["sample_id"], row.get("index"), *test, value)
                for row, kind, value in keys(self.builds, "train")
                if (kind, value) in tests
                for test in tests[kind, value]
            }
            step.equal(f"evidence of level {level}", derived, stated[level])

    def near_images(self, step: Step) -> None:
        """Brute force over all variants and regions, each candidate judged alone."""
        import pyarrow.parquet as pq

        tests = _TestPictures(self.builds, self.policy)
        looked: set[Key] = set()
        derived: set[Key] = set()
        columns = ["sample_id", "index", "split", "shard", "offset", "length", "pixel_sha256", "phash", "thumbnail"]
        jobs = [(build, part) for build in self.builds for _, part in build.parts("images", "train")]
        chosen = {build.record["build"]: self._chosen(build, "train") for build in self.builds}
        total = sum(pq.read_metadata(part).num_rows for _, part in jobs)
        with self._bar("near pictures", total, " pictures") as bar:
            for build, part in jobs:
                name = build.record["build"]
                for row in pq.read_table(part, columns=columns).to_pylist():
                    bar.update(1)
                    picked = chosen[name]
                    if row["pixel_sha256"] is None or (picked is not None and row["sample_id"] not in picked):
                        continue
                    looked.add((name, row["sample_id"], row["index"]))
                    for found in tests.near(build.folder, row):
                        derived.add(
                            ("near_image", found[0], name, row["split"], row["sample_id"], row["index"], *found[1:])
                        )
        stated = {
            (*_identity(row), row["distance"], row["variant"], row["score"], row["decided_on"])
            for row in self.evidence
            if row["level"] == "near_image" and (row["train_build"], row["train_sample"], row["train_index"]) in looked
        }
        step.looked_at += len(looked)
        step.equal("evidence of level near_image", derived, stated)

    def near_texts(self, step: Step) -> None:
        """Tuples of words and dictionaries."""
        from manifests.overlaps import eval_text, left_out_of_near_text, text_settings, train_text
        from manifests.stored_text import read_texts

        rows: list[Key] = []
        private: list[bool] = []
        items: list[EvalText] = []
        left_out: Counter[Key] = Counter()
        for build in self.builds:
            template = build.record["parameters"].get("pictures_stored") is not False
            for _, part in build.parts("samples", "eval"):
                for text in read_texts(build.folder, part):
                    if reason := left_out_of_near_text(text, self.policy.text):
                        left_out[build.record["build"], text.task, reason] += 1
                        continue
                    items.append(eval_text(text, template))
                    rows.append((build.record["build"], text.split, text.subset, text.sample_id, None))
                    private.append(build.record["source"]["access"] == "credentialed")
        stated_left_out = {
            (row["build"], row["task"], row["reason"], row["eval_samples"])
            for row in self.document["left_out_of_near_text"]
        }
        step.equal("left_out_of_near_text", {(*key, count) for key, count in left_out.items()}, stated_left_out)
        plain = _PlainTexts(items, text_settings(self.policy))
        looked: set[Key] = set()
        derived: set[Key] = set()
        total = sum(u["kept"] for build in self.builds for u in build.record["units"] if u["role"] == "train")
        with self._bar("near texts", total, " samples") as bar:
            for build in self.builds:
                name, chosen = build.record["build"], self._chosen(build, "train")
                hidden = build.record["source"]["access"] == "credentialed"
                for _, part in build.parts("samples", "train"):
                    for text in read_texts(build.folder, part):
                        bar.update(1)
                        if chosen is not None and text.sample_id not in chosen:
                            continue
                        looked.add((name, text.sample_id))
                        for e, kind, score, words, span, df in plain.matches(train_text(text, self.policy.text)):
                            shown = None if hidden or private[e] else span
                            pair = ("near_text", kind, name, text.split, text.sample_id, None, *rows[e])
                            derived.add((*pair, score, words, shown, df))
        stated = {
            (*_identity(row), row["score"], row["words"], row["span"], row["eval_df"])
            for row in self.evidence
            if row["level"] == "near_text" and (row["train_build"], row["train_sample"]) in looked
        }
        step.looked_at += len(looked)
        step.equal("evidence of level near_text", derived, stated)
        if self.sample is None:
            self._common(step, plain, items, private)

    def _common(self, step: Step, plain: _PlainTexts, items: Sequence[EvalText], private: Sequence[bool]) -> None:
        import pyarrow.parquet as pq

        shown = {
            gram for text, hidden in zip(items, private, strict=True) if not hidden for gram in plain.grams(text.record)
        }
        derived = {
            (
                " ".join(gram) if gram in shown else f"sha256:{hashlib.sha256(' '.join(gram).encode()).hexdigest()}",
                plain.df[gram],
                hits,
            )
            for gram, hits in plain.common.items()
        }
        stated = {
            (row["ngram"], row["eval_df"], row["train_samples"])
            for row in pq.read_table(self.proof / "common.parquet").to_pylist()
        }
        step.equal("common n-gram", derived, stated)

    # ---- what follows

    def conclusions(self, step: Step) -> None:
        """Policy row by row, exclusions and every count of the certificate."""
        import pyarrow.parquet as pq

        document = self.document
        source = {build.record["build"]: build.record["source"]["name"] for build in self.builds}
        samples = {
            (build.record["build"], row["sample_id"]): (unit, row)
            for build in self.builds
            for unit, part in build.parts("samples")
            for row in pq.read_table(part, columns=["sample_id", "subset"]).to_pylist()
        }
        out: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        for row in self.evidence:
            action = _action(self.policy.rules, row, source)
            what = f"evidence {row['level']}/{row['kind']} of {row['train_sample']}"
            step.expect(row["action"] == action, f"{what}: {row['action']}, the policy says {action}")
            if action == "exclude":
                out[row["train_build"], row["train_sample"]].append(row)
        derived: set[Key] = {
            (
                *key,
                samples[key][0]["unit"],
                tuple(sorted({f"{row['level']}/{row['kind']}" for row in rows})),
                len(rows),
                len({(row["eval_build"], row["eval_sample"]) for row in rows}),
            )
            for key, rows in out.items()
            if key in samples
        }
        stated = {
            (
                *(row[n] for n in ("train_build", "train_sample", "unit")),
                tuple(row["reasons"]),
                row["evidence"],
                row["eval_samples"],
            )
            for row in pq.read_table(self.proof / "exclusions.parquet").to_pylist()
        }
        step.equal("exclusion", derived, stated)

        left = Counter(
            (row["level"], row["kind"], row["action"])
            for row in self.evidence
            if row["action"] != "report" and (row["train_build"], row["train_sample"]) not in out
        )
        cells: dict[Key, list[dict[str, Any]]] = defaultdict(list)
        subsets: dict[Key, set[str]] = defaultdict(set)
        for row in self.evidence:
            pair = (row["train_build"], row["eval_build"], row["eval_split"])
            cells[(*pair, row["level"], row["kind"], row["action"])].append(row)
            if row["eval_subset"] is not None:
                subsets[(*pair, row["eval_subset"], row["level"], row["kind"])].add(row["eval_sample"])
        sizes = Counter((build, unit["role"], unit["split"]) for (build, _), (unit, _) in samples.items())
        subset_sizes = Counter(
            (build, unit["split"], row["subset"])
            for (build, _), (unit, row) in samples.items()
            if unit["role"] == "eval"
        )
        counts: dict[str, list[dict[str, Any]]] = {
            "matrix": [
                dict(zip(("train_build", "eval_build", "eval_split", "level", "kind", "action"), key, strict=True))
                | {
                    "pairs": len(rows),
                    "train_samples": len({row["train_sample"] for row in rows}),
                    "eval_samples": len({row["eval_sample"] for row in rows}),
                }
                for key, rows in cells.items()
            ],
            "subsets": [
                dict(zip(("train_build", "eval_build", "eval_split", "eval_subset", "level", "kind"), key, strict=True))
                | {"eval_samples": len(found), "of_eval_samples": subset_sizes[key[1], key[2], key[3]]}
                for key, found in subsets.items()
            ],
            "after": [
                {"level": level, "kind": kind, "action": action, "pairs": pairs}
                for (level, kind, action), pairs in left.items()
            ],
            "exclusions": [
                {"train_build": build, "train_samples": number}
                for build, number in Counter(key[0] for key in out).items()
            ],
            "train_totals": [
                {"train_build": build, "train_samples": number}
                for build, number in _summed((b, n) for (b, role, _), n in sizes.items() if role == "train").items()
            ],
            "eval_totals": [
                {"eval_build": build, "eval_split": split, "eval_samples": number}
                for (build, role, split), number in sizes.items()
                if role == "eval"
            ],
            "without_pixels": [
                {"build": build, "role": role, "images": number}
                for (build, role), number in Counter(
                    (build.record["build"], unit["role"])
                    for build in self.builds
                    for unit, part in build.parts("images")
                    for pixels in pq.read_table(part, columns=["pixel_sha256"])[0].to_pylist()
                    if pixels is None
                ).items()
            ],
        }
        for name, rows in counts.items():
            step.equal(f"{name} row", set(map(_frozen, rows)), set(map(_frozen, document[name])))
            step.expect(len(rows) == len(document[name]), f"{name}: {len(document[name])} rows, {len(rows)} follow")
        step.expect(
            document["clean"] is (not left), f"clean is {document['clean']}, {sum(left.values())} pairs are left"
        )
        for words in self.policy.text["run_words"]:
            pairs = sum(row["kind"] == "run" and row["words"] >= words for row in self.evidence)
            step.expect(document["runs"].get(str(words)) == pairs, f"runs of {words} words: {pairs} pairs follow")
        common = pq.read_metadata(self.proof / "common.parquet").num_rows
        step.expect(document["common_ngrams"] == common, f"common_ngrams: {common} follow")
        confirmed = Counter(row["kind"] for row in self.evidence if row["level"] == "near_text")
        for kind in ("run", "short_item", "jaccard", "rewrite"):
            number = document["counts"].get("near_text", {}).get(kind, 0)
            step.expect(
                number == confirmed[kind], f"counts of near_text/{kind}: {number}, {confirmed[kind]} rows of evidence"
            )
        train = sum(number for (_, role, _), number in sizes.items() if role == "train")
        number = document["counts"].get("near_text", {}).get("train_samples", 0)
        step.expect(number == train, f"counts of near_text: {number} train samples were compared, there are {train}")
        if self.policy.content["train_duplicates"] is not None:
            by_builds = Counter(
                (row["build_a"], row["build_b"])
                for row in pq.read_table(self.proof / "train_duplicates.parquet").to_pylist()
            )
            derived = {(*pair, number) for pair, number in by_builds.items()}
            stated = {(row["build_a"], row["build_b"], row["pairs"]) for row in document["train_duplicates"]}
            step.equal("train_duplicates row", derived, stated)

    def report(self, step: Step) -> None:
        """The page says what the files say: made again, it has the same bytes."""
        import shutil

        from manifests.catalog import connect
        from manifests.certificate import COMMON_FILE, EVIDENCE_FILE, REPORT_FILE
        from manifests.prove import ProofError, render_report
        from manifests.report import ReportError

        with tempfile.TemporaryDirectory() as name:
            again = Path(name)
            for file in (EVIDENCE_FILE, COMMON_FILE):
                shutil.copyfile(self.proof / file, again / file)
            try:
                with connect(self.data) as connection:
                    render_report(connection, self.builds, again, self.document)
            except (ReportError, ProofError) as error:
                step.expect(False, f"{self.proof / REPORT_FILE}: cannot be made from the proof ({error})")
                return
            path = self.proof / REPORT_FILE
            same = path.is_file() and path.read_bytes() == (again / REPORT_FILE).read_bytes()
            step.expect(same, f"{path}: missing, or not what the proof's files show")

    def _bar(self, what: str, total: int, unit: str) -> Any:
        from tqdm import tqdm

        return tqdm(total=total, desc=what, unit=unit, unit_scale=True, disable=self.quiet)


def _described(build: LoadedBuild) -> dict[str, Any]:
    """What a certificate says of a build."""
    record, source = build.record, build.record["source"]
    samples = {role: sum(u["kept"] for u in record["units"] if u["role"] == role) for role in ("train", "eval")}
    described = {name: source[name] for name in ("revision", "license", "access")}
    described |= {name: record[name] for name in ("build", "metadata_only", "fingerprint_recipe", "root")}
    return described | {"source": source["name"], "samples": samples}


def _files(build: LoadedBuild) -> list[dict[str, Any]]:
    return [file for unit in build.record["units"] for file in unit["shards"] + unit["parts"]]


_PAIR = (
    "level", "kind", "train_build", "train_split", "train_sample", "train_index",
    "eval_build", "eval_split", "eval_subset", "eval_sample", "eval_index",
)  # fmt: skip


def _identity(row: Mapping[str, Any]) -> Key:
    return tuple(row[name] for name in _PAIR)


def _frozen(row: Mapping[str, Any]) -> Key:
    return tuple(sorted(row.items()))


def _summed(pairs: Iterable[tuple[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for name, number in pairs:
        total[name] += number
    return total


# ---- manifest rows from stored bytes


def _faults(
    build: LoadedBuild,
    unit: Mapping[str, Any],
    row: Mapping[str, Any],
    record: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
) -> Iterator[str]:
    """What in a sample's manifest rows does not follow from its stored record."""
    from manifests.text import question_sha256, text_sha256
    from shards.schema import GROUP_KEYS, canonical_json

    for name, value in (("build", build.record["build"]), ("role", unit["role"]), ("split", unit["split"])):
        if row[name] != value or any(image[name] != value for image in images):
            yield f"{name} is {row[name]!r}, its unit says {value!r}"
    if hashlib.sha256(canonical_json(record)).digest() != row["sha256"]:
        yield "the stored record does not have the manifest's digest"
        return
    for name, value in (
        ("sample_id", record["id"]),
        *((n, record[n]) for n in ("source", "role", "split", "subset", "task")),
    ):
        if row[name] != value:
            yield f"{name} is {row[name]!r}, the record has {value!r}"
    for key in GROUP_KEYS:
        if row[key] != record["group"][key]:
            yield f"{key} is {row[key]!r}, the record has {record['group'][key]!r}"
    stem, whole = question_sha256(record["question"], [option["text"] for option in record["options"] or ()])
    if (row["stem_sha256"], row["stem_options_sha256"]) != (stem, whole):
        yield "stem_sha256 or stem_options_sha256 does not follow from the question"
    target = (
        " ".join(p["text"] for p in record["messages"][-1]["content"] if p["type"] == "text")
        if record["messages"]
        else ""
    )
    captions = {text_sha256(target), None} if row["caption_sha256"] is None else {text_sha256(target)}
    if row["task"] in ("caption", "report"):
        captions = {text_sha256(target)}
    if row["caption_sha256"] not in captions:
        yield "caption_sha256 does not follow from the target text"
    if not row["n_images"] == len(images) == len(record["images"] or ()):
        named = len(record["images"] or ())
        yield f"n_images is {row['n_images']}, there are {len(images)} rows and {named} in the record"
        return
    for number, (image, stored) in enumerate(zip(images, record["images"] or (), strict=True)):
        if image["index"] != number:
            yield f"picture {number} has the index {image['index']}"
        for name in ("image_id", "subject_id", "study_id", "view", "relation"):
            if image[name] != stored[name]:
                yield f"{name} of picture {number} is {image[name]!r}, the record has {stored[name]!r}"
        yield from _picture_faults(build, number, image)


def _picture_faults(build: LoadedBuild, number: int, image: Mapping[str, Any]) -> Iterator[str]:
    from manifests.fingerprints import fingerprint
    from manifests.overlaps import OverlapError, image_place, read_image
    from shards.strip import DamagedImage, strip_metadata

    place = image_place(build.folder, image)
    if place is None:
        return  # a metadata-only build, or a corpus made elsewhere
    try:
        data = read_image(place)
        assert data is not None
        prints = fingerprint(strip_metadata(data))
    except (OverlapError, DamagedImage) as error:
        yield f"picture {number} cannot be read ({error})"
        return
    made = {"stored_sha256": hashlib.sha256(data).digest()}
    made |= {name: getattr(prints, name) for name in ("width", "height", "pixel_sha256", "phash", "thumbnail")}
    for name, value in made.items():
        if image[name] != value:
            yield f"{name} of picture {number} does not follow from the stored picture"


# ---- keys of the exact levels


def _rows(builds: Sequence[LoadedBuild], kind: str, role: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for build in builds:
        for _, part in build.parts(kind, role):
            for batch in pq.ParquetFile(part).iter_batches(columns=list(columns)):
                yield from batch.to_pylist()


_WHERE = ("build", "split", "subset", "sample_id")


def _ids(builds: Sequence[LoadedBuild], role: str) -> Iterator[tuple[dict[str, Any], str, Any]]:
    from shards.schema import GROUP_KEYS

    for row in _rows(builds, "samples", role, (*_WHERE, *GROUP_KEYS)):
        for key in GROUP_KEYS:
            if row[key] is not None:
                yield row, "study_id" if key == "prior_study_id" else key, row[key]
    names = ("image_id", "study_id", "subject_id")
    for row in _rows(builds, "images", role, (*_WHERE, "relation", *names)):
        if row["relation"] != "exemplar":
            for name in names:
                if row[name] is not None:
                    yield row, name, row[name]


def _image_digests(builds: Sequence[LoadedBuild], role: str) -> Iterator[tuple[dict[str, Any], str, Any]]:
    for row in _rows(builds, "images", role, (*_WHERE, "index", "relation", "sha256", "pixel_sha256")):
        if row["relation"] != "exemplar":
            for kind, name in (("bytes", "sha256"), ("pixels", "pixel_sha256")):
                if row[name] is not None:
                    yield row, kind, row[name].hex()


def _text_digests(builds: Sequence[LoadedBuild], role: str) -> Iterator[tuple[dict[str, Any], str, Any]]:
    names = ("stem_options_sha256", "stem_sha256", "caption_sha256")
    for row in _rows(builds, "samples", role, (*_WHERE, "n_images", *names)):
        for name in names:
            if row[name] is not None and (name == "caption_sha256" or not row["n_images"]):
                yield row, name.removesuffix("_sha256"), row[name].hex()


# ---- near pictures by brute force


class _TestPictures:
    """Every distinct test picture with all its variants, and nothing cleverer than comparing with each of them."""

    def __init__(self, builds: Sequence[LoadedBuild], policy: Policy) -> None:
        import numpy as np
        from PIL import Image

        from manifests.agreement import flat
        from manifests.fingerprints import perceptual_hash
        from manifests.near_images import ImageSettings
        from manifests.overlaps import image_place
        from manifests.variants import VARIANTS, decode, region_hashes

        self.shown: dict[tuple[bytes, str], list[Key]] = defaultdict(list)
        pictures: dict[tuple[bytes, str], tuple[Path, dict[str, Any]]] = {}
        columns = (*_WHERE, "index", "relation", "shard", "offset", "length", "width", "height")
        for build in builds:
            mode = policy.modality(build.record["source"]["name"])
            for row in _rows([build], "images", "eval", (*columns, "pixel_sha256", "phash", "thumbnail")):
                if row["pixel_sha256"] is not None and row["relation"] != "exemplar":
                    key = row["pixel_sha256"], mode
                    pictures.setdefault(key, (build.folder, row))
                    self.shown[key].append((row["build"], row["split"], row["subset"], row["sample_id"], row["index"]))
        self.keys: list[tuple[bytes, str]] = []
        self.places, self.thumbnails, self.modes = [], [], []
        self.sizes: list[tuple[int, int]] = []
        self.owner: list[int] = []
        self.variant: list[int] = []
        self.hash: list[int] = []
        self.varied: list[Any] = []
        for key, (folder, row) in pictures.items():
            thumbnail = decode(row["thumbnail"])
            if flat(thumbnail[None])[0]:
                continue
            number = len(self.keys)
            self.keys.append(key)
            self.places.append(image_place(folder, row))
            self.thumbnails.append(thumbnail)
            self.sizes.append((row["width"], row["height"]))
            self.modes.append(ImageSettings(**policy.images[key[1]]))
            for v, variant in enumerate(VARIANTS):
                picture = variant.picture(thumbnail, row["width"], row["height"])
                if picture is None or (v and flat(picture[None])[0]):
                    continue
                self.owner.append(number)
                self.variant.append(v)
                self.varied.append(picture)
                self.hash.append(row["phash"] if v == 0 else perceptual_hash(Image.fromarray(picture)))
        self.hashes = np.array(self.hash, np.uint64)
        self.radius = np.array([self.modes[owner].radius for owner in self.owner], np.int64)
        if self.keys:
            self.regions, self.contrast = region_hashes(np.stack(self.thumbnails))
            self.region_radius = np.array([mode.region_radius for mode in self.modes], np.int64)

    def near(self, folder: Path, row: Mapping[str, Any]) -> Iterator[Key]:
        """(kind, test row, distance, variant, score, decided_on) of every test picture that the train picture shows."""
        import numpy as np

        from manifests.agreement import agreement, cells, coarse_scores, flat, full_agreement
        from manifests.overlaps import image_place, read_image
        from manifests.variants import VARIANTS, decode, region_hashes

        thumbnail = decode(row["thumbnail"])
        if not self.keys or flat(thumbnail[None])[0]:
            return
        best: dict[int, Key] = {}

        def propose(entry: int, region: bool, distance: int) -> None:
            one = np.zeros(1, np.int64)
            coarse = float(coarse_scores(cells(thumbnail[None]), one, cells(self.varied[entry][None]), one)[0])
            # Highest coarse score first, then the earlier variant, the whole picture, the nearer hash.
            rank = (-coarse, self.variant[entry], region, distance)
            owner = self.owner[entry]
            if owner not in best or rank < best[owner][:4]:
                best[owner] = (*rank, entry)

        distance = np.bitwise_count(self.hashes ^ np.uint64(row["phash"])).astype(np.int64)
        for entry in np.flatnonzero(distance <= self.radius):
            propose(int(entry), False, int(distance[entry]))
        regions, contrast = region_hashes(thumbnail[None])
        first = {owner: entry for entry, owner in reversed(list(enumerate(self.owner)))}
        for region in range(regions.shape[1]):
            if contrast[0, region]:
                far = np.bitwise_count(self.regions[:, region] ^ regions[0, region]).astype(np.int64)
                for one in np.flatnonzero((far <= self.region_radius) & self.contrast[:, region]).tolist():
                    propose(first[one], True, int(far[one]))
        for owner, (coarse, number, region, far_bits, _) in sorted(best.items()):
            variant, mode = VARIANTS[number], self.modes[owner]
            if -coarse < mode.borderline:
                continue
            frame = variant.frame(self.thumbnails[owner], *self.sizes[owner])
            assert frame is not None
            # The same early end as in the proof: a hopeless pair is not aligned in full size.
            enough = min(self.modes[o].borderline for o in range(len(self.modes)))
            inverted = np.array([variant.inverted])
            score = float(agreement(thumbnail[None], self.thumbnails[owner][None], frame[None], inverted, enough)[0])
            decided = "thumbnail"
            if mode.borderline <= score < mode.threshold:
                mine, other = read_image(image_place(folder, row)), read_image(self.places[owner])
                if mine is None or other is None:
                    continue
                score, decided = full_agreement(mine, other, variant), "full_image"
            if score >= mode.threshold:
                for shown in self.shown[self.keys[owner]]:
                    yield ("region" if region else "whole", *shown, far_bits, variant.name, score, decided)


# ---- near texts by tuples of words


class _PlainTexts:
    """The definitions of `manifests.near_text`, word by word."""

    def __init__(self, items: Sequence[EvalText], settings: Any) -> None:
        from manifests.ngrams import word_list

        self.words: Callable[[str], list[str]] = word_list
        self.settings = settings
        self.size = min(settings.run_words)
        self.records = [word_list(item.record) for item in items]
        self.places: dict[Key, list[tuple[int, int]]] = defaultdict(list)
        for number, words in enumerate(self.records):
            for at, gram in enumerate(_grams(words, self.size)):
                self.places[gram].append((number, at))
        self.df = {gram: len({number for number, _ in places}) for gram, places in self.places.items()}
        self.common: Counter[Key] = Counter()
        self.items = [[word for text in (item.question, *item.options) for word in word_list(text)] for item in items]
        shingle_df = Counter(gram for words in self.items for gram in set(_grams(words, 5)))
        self.ignored = {gram for gram, df in shingle_df.items() if df > settings.shingle_common_df}
        self.shingles = [set(_grams(words, 5)) - self.ignored for words in self.items]
        self.with_shingle: dict[Key, set[int]] = defaultdict(set)
        for number, shingles in enumerate(self.shingles):
            for gram in shingles:
                self.with_shingle[gram].add(number)
        self.word_df = Counter(word for words in self.items for word in set(words))
        self.vectors = [self._vector(words) for words in self.items]
        self.norms = [math.sqrt(math.fsum(x * x for x in vector.values())) for vector in self.vectors]
        self.with_word: dict[str, list[int]] = defaultdict(list)
        for number, vector in enumerate(self.vectors):
            for word in vector:
                self.with_word[word].append(number)
        self.short: dict[str, list[tuple[int, list[str]]]] = defaultdict(list)
        for number, item in enumerate(items):
            question = word_list(item.question)
            if settings.short_min_words <= len(question) < self.size:
                options = [" ".join(word_list(option)) for option in item.options]
                parts = [option for option in options if option] or [" ".join(word_list(item.answer))]
                self.short[question[0]].append((number, [" ".join(question), *parts]))

    def grams(self, text: str) -> set[Key]:
        """The n-grams of a text."""
        return set(_grams(self.words(text), self.size))

    def matches(self, train: TrainText) -> Iterator[tuple[int, str, float, int | None, str | None, int | None]]:
        """(test item, kind, score, words, span, eval_df) of everything that a training text shares."""
        yield from self._runs(self.words(train.record))
        yield from self._short_items(self.words(train.record))
        yield from self._jaccard(self.words(train.item))
        yield from self._rewrites(train)

    def _runs(self, ours: list[str]) -> Iterator[tuple[int, str, float, int | None, str | None, int | None]]:
        grams = _grams(ours, self.size)
        limit = self.settings.common_df
        self.common.update(gram for gram in set(grams) if self.df.get(gram, 0) > limit)
        rare = {n for gram in set(grams) if 0 < self.df.get(gram, 0) <= limit for n, _ in self.places[gram]}
        meeting: dict[int, dict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for at, gram in enumerate(grams):
            for number, place in self.places.get(gram, ()):
                if number in rare:
                    meeting[number][place - at].add(place)
        for number in sorted(rare):
            theirs, covered, runs = self.records[number], set(), []
            for places in meeting[number].values():
                # Neighbouring n-grams on one diagonal are one run.
                for _, group in itertools.groupby(enumerate(sorted(places)), lambda pair: pair[1] - pair[0]):
                    starts = [place for _, place in group]
                    end = starts[-1] + self.size
                    covered |= set(range(starts[0], end))
                    df = min(self.df[tuple(theirs[s : s + self.size])] for s in starts)
                    if df <= limit:
                        runs.append((starts[0] - end, starts[0], df))
            length, start, df = min(runs)
            span = " ".join(theirs[start : start - length])
            yield number, "run", round(len(covered) / len(theirs), 4), -length, span, df

    def _short_items(self, ours: list[str]) -> Iterator[tuple[int, str, float, int | None, str | None, int | None]]:
        record = f" {' '.join(ours)} "
        for word in set(ours):
            for number, parts in self.short.get(word, ()):
                if all(not part or f" {part} " in record for part in parts):
                    yield number, "short_item", 1.0, len(parts[0].split()), parts[0], None

    def _jaccard(self, ours: list[str]) -> Iterator[tuple[int, str, float, int | None, str | None, int | None]]:
        mine = set(_grams(ours, 5)) - self.ignored
        for number in sorted({n for gram in mine for n in self.with_shingle.get(gram, ())}):
            theirs = self.shingles[number]
            if min(len(mine), len(theirs)) >= self.settings.shingles_min:
                score = len(mine & theirs) / len(mine | theirs)
                if score >= self.settings.jaccard:
                    yield number, "jaccard", round(score, 4), len(mine & theirs), None, None

    def _rewrites(self, train: TrainText) -> Iterator[tuple[int, str, float, int | None, str | None, int | None]]:
        answer = self.words(train.answer)
        words = self.words(train.item) + (answer if len(answer) <= self.settings.rewrite_answer_words else [])
        ours = self._vector(words)
        norm = math.sqrt(math.fsum(x * x for x in ours.values()))
        dots: dict[int, list[float]] = defaultdict(list)
        for word, x in ours.items():
            for number in self.with_word.get(word, ()):
                dots[number].append(x * self.vectors[number][word])
        for number, products in sorted(dots.items()):
            if norm * self.norms[number]:
                score = math.fsum(products) / (norm * self.norms[number])
                if score >= self.settings.rewrite:
                    yield number, "rewrite", round(score, 4), None, None, None

    def _vector(self, words: Sequence[str]) -> dict[str, float]:
        total = len(self.items) + 1
        return {
            word: (1 + math.log(count)) * math.log(total / (self.word_df.get(word, 0) + 1))
            for word, count in Counter(words).items()
        }


def _grams(words: Sequence[str], size: int) -> list[Key]:
    return [tuple(words[at : at + size]) for at in range(len(words) - size + 1)]


# ---- policy


def _action(rules: Sequence[Rule], row: Mapping[str, Any], source: Mapping[str, str]) -> str:
    """The first rule that fits, condition by condition."""
    for rule in rules:
        if rule.level != row["level"] or (rule.kinds and row["kind"] not in rule.kinds):
            continue
        if rule.train and not {row["train_build"], source.get(row["train_build"])} & set(rule.train):
            continue
        if rule.eval and not {row["eval_build"], source.get(row["eval_build"])} & set(rule.eval):
            continue
        if rule.min_score is not None and (row["score"] is None or row["score"] < rule.min_score):
            continue
        if rule.min_words is not None and (row["words"] is None or row["words"] < rule.min_words):
            continue
        if rule.max_distance is not None and (row["distance"] is None or row["distance"] > rule.max_distance):
            continue
        return rule.action
    return "report"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0 if verified, 1 if something does not fit, 2 if there is nothing to verify."""
    parser = argparse.ArgumentParser(
        prog="python -m manifests.verify",
        description="Derive a certificate again by a second road, and name whatever does not fit. "
        "Exit code: 0 verified, 1 something does not fit, 2 nothing to verify.",
        epilog="examples:\n  python -m manifests.verify data\n"
        "  python -m manifests.verify data --sample 200 --public-key public.pem",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds")
    parser.add_argument("--proof", type=Path, metavar="DIR", help="folder of the proof (default DATA/proof)")
    parser.add_argument(
        "--sample", type=int, metavar="N", help="look at N samples of each build where all would take long"
    )
    parser.add_argument("--public-key", type=Path, metavar="PEM", help="check the certificate's signature")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    options = parser.parse_args(arguments)
    if options.sample is not None and options.sample < 1:
        parser.error("--sample: at least 1 is needed")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        steps = verify(
            options.data,
            options.proof or options.data / PROOF,
            sample=options.sample,
            public_key=options.public_key,
            quiet=options.quiet or options.json,
        )
    except (VerifyError, OSError) as error:
        print(error, file=sys.stderr)
        return 2
    found = sum(len(step.findings) for step in steps)
    if options.json:
        steps_json = [{"name": s.name, "looked_at": s.looked_at, "findings": s.findings} for s in steps]
        print(json.dumps({"verified": not found, "sample": options.sample, "steps": steps_json}, indent=2))
        return 1 if found else 0
    for step in steps:
        print(f"{'FAILED' if step.findings else 'ok':6} {step.name} ({step.looked_at:,} looked at)")
        for finding in step.findings:
            print(f"       {finding}")
    if found:
        print(f"NOT verified: {found} findings")
        return 1
    print(
        "Verified"
        + (f", near levels and stored bytes on {options.sample} samples a build" if options.sample else " in full")
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
