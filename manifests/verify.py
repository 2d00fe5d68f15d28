"""Verify a proof: derive its certificate again by a second code path, and name whatever was altered.

    python -m manifests.verify data

trusts neither the certificate nor the manifest: every file is hashed, fingerprints and digests are made again from the
stored pictures and texts, evidence is derived again by `rederive` (dictionaries, lists by quarters of a hash, sets of
words), policy, exclusions and counts are worked out row by row in Python, the report is rendered again. A forger who
computes all digests anew after an edit is caught by what no longer follows from the shards.

What it cannot see: shards that were forged before they were built from, and the digest of a publisher's picture file
with its metadata (`images.sha256`), which shards do not hold; equal files have equal pixels, which are compared.

Raw files are hashed again, and corpora made elsewhere are read in again, where the raw files lay, or where `--raw`
says. With `--no-raw` builds are taken for what their publishers shipped, which the result says.

`--sample N` is an audit: the slow steps are made for N samples of each build and side, drawn anew each time, so that a
forger can neither know nor choose them. It ends with what that shows: with 99 % confidence fewer than x of all.

Exit code: 0 verified, 1 something was found, 2 there is nothing that can be read, 4 raw files were not there.
"""

from __future__ import annotations

import argparse
import bisect
import itertools
import json
import math
import os
import secrets
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from manifests.catalog import KINDS, connect, load_builds, part_kind
from manifests.proof.accounting import accounts
from manifests.proof.certificate import (
    CERTIFICATE,
    COMMON_FILE,
    ENVELOPE,
    EVIDENCE_FILE,
    EXCLUSIONS_FILE,
    REPORT_FILE,
    TRAIN_DUPLICATES_FILE,
    check_signature,
    read_certificate,
    software,
)
from manifests.proof.sentences import sentences
from medgpt.arguments import command_parser
from medgpt.digest import INPUTS_FILE, build_root, file_sha256, inputs_sha256, merkle_root
from medgpt.errors import DONE, NOT_COMPARED, NOT_FINISHED, UserError, run
from medgpt.messages import safe
from medgpt.private import is_private
from medgpt.tables import table

if TYPE_CHECKING:
    from tqdm import tqdm

    from manifests.catalog import LoadedBuild
    from manifests.proof.policy import Policy
    from manifests.proof.rederive import Fault, Found, Key
    from manifests.proof.spill import Spill

_SHOWN = 20
_PIECE = 10_000
"""Rows of evidence, or samples, that are in memory together."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class ProofFinding:
    """One thing that is not as it must be."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


@dataclass
class ProofStep:
    """What one step found; no finding means that all of it is as it must be."""

    name: str
    note: str = ""
    """What was looked at, with counts."""
    findings: list[ProofFinding] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    """Builds whose raw files were not there."""

    def add(self, where: str, *faults: str) -> None:
        """Note what is wrong at one place."""
        self.extend((where, what) for what in faults)

    def extend(self, faults: Iterable[Fault]) -> None:
        """Note what is wrong at several."""
        self.findings += itertools.starmap(ProofFinding, faults)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings


def verify(
    data: Path,
    proof: Path,
    *,
    sample: int | None = None,
    seed: str | None = None,
    public_key: Path | None = None,
    raw: Mapping[str, Path] | None = MappingProxyType({}),
    encoder: Path | None = None,
    quiet: bool = True,
    tell: Callable[[ProofStep], None] = lambda step: None,
) -> Verification:
    """Verify the proof in the folder `proof` over the builds under `data`; what its steps found.

    `raw` says where raw files lie that are not where they were (`materials.raw_folder`); None leaves them out.
    `encoder`: the copy descriptor, where the policy has one. Steps
    that rest on builds or files which are not those of the certificate are not made. `tell` is called with each step as
    it ends. Raises: `UserError` if there is no data or no certificate, or the key cannot be read.
    """
    if not data.is_dir():
        raise UserError(f"{data}: no such folder; name the folder of builds")
    if not (proof / CERTIFICATE).is_file():
        raise UserError(f"{proof / CERTIFICATE}: missing; run python -m manifests.prove, or name the folder (--proof)")
    if public_key is not None and not public_key.is_file():
        raise UserError(f"{public_key}: no such file; name a public key (PEM)")
    verification = Verification(
        data, proof, sample, seed or secrets.token_hex(8), public_key, raw, encoder, quiet, tell
    )
    verification.run()
    return verification


@dataclass
class Verification:
    """One run: what the steps hand on to each other."""

    data: Path
    proof: Path
    sample: int | None
    seed: str
    """Says which samples and files are looked at where not all are."""
    public_key: Path | None
    raw: Mapping[str, Path] | None
    encoder: Path | None
    quiet: bool
    tell: Callable[[ProofStep], None]
    steps: list[ProofStep] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    builds: Sequence[LoadedBuild] = ()
    policy: Policy = field(init=False)
    chosen: set[Key] | None = None
    spill: Spill = field(init=False)
    """Evidence as it is said, by level, and as it is derived, by step; exclusions; samples. By training sample."""
    expected: dict[str, Any] = field(default_factory=dict)
    """What the certificate must say, as far as it was derived."""

    def run(self) -> None:
        """All steps, as far as they can be made."""
        early = [
            ("certificate", self._certificate), ("builds", self._builds), ("rules", self._rules),
            ("policy file", self._policy), ("proof files", self._files),
        ]  # fmt: skip
        late = [
            ("raw files", self._raw), ("stored samples", self._stored),
            ("ids and digests", self._exact), ("near pictures", self._near_images),
            ("local pictures", self._local_pictures),
            ("near texts", self._near_texts), ("train duplicates", self._train_duplicates),
            ("policy and counts", self._conclusions), ("report", self._report),
        ]  # fmt: skip
        if not self._make(*early[0]):
            return
        # Another version's rules are no reason to stop: what they found can still be derived.
        sound = [self._make(name, step) or name == "rules" for name, step in early[1:]]
        if all(sound):
            from manifests.proof.rederive import chosen_samples

            if self.sample is not None:
                self.chosen = chosen_samples(self.builds, self.sample, self.seed)
            for name, step in late:
                self._make(name, step)

    def _make(self, name: str, make: Callable[[ProofStep], None]) -> bool:
        """Run one step; data that no step can make sense of is a finding, too."""
        step = ProofStep(name)
        try:
            make(step)
        except UserError as error:
            step.add(name, str(error))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            # Manifest and records come from whoever made the proof: they may hold anything.
            text = " ".join(str(error).split())
            step.add(name, f"cannot be derived ({type(error).__name__}: {text})")
        self.steps.append(step)
        self.tell(step)
        return step.ok

    # ---- the certificate and the files it names

    def _certificate(self, step: ProofStep) -> None:
        from manifests.proof.evidence import LEVELS
        from manifests.proof.near_images import coverage
        from manifests.proof.overlaps import VERSIONS

        self.document = read_certificate(self.proof)
        step.note = f"root {self.document['root']}"
        if self.public_key is not None:
            check_signature(self.proof, self.public_key)
            step.note += ", signature fits"
        else:
            signed = (self.proof / ENVELOPE).exists()
            step.note += ", signature not checked (--trust)" if signed else ", not signed"
        step.add(CERTIFICATE, *(f"no {name!r} in it" for name in _KEYS if name not in self.document))
        step.add(CERTIFICATE, *(f"unknown {name!r} in it" for name in sorted(self.document.keys() - set(_KEYS))))
        if step.findings:
            return
        self.expected["levels"] = {level: list(kinds) for level, kinds in LEVELS.items()}
        if self.document["rules"] == VERSIONS:
            self.expected["coverage"] = coverage()
        step.add(CERTIFICATE, *self._against_certificate("levels", "coverage"))
        shown = self.document["report"]
        if not (
            shown.keys() == {"pairs_per_cell", "show_credentialed"}
            and type(shown["pairs_per_cell"]) is int
            and type(shown["show_credentialed"]) is bool
        ):
            step.add(CERTIFICATE, f"report settings are {shown}")

    def _against_certificate(self, *names: str) -> Iterator[str]:
        """Where the certificate does not say what was derived."""
        for name in names:
            if name in self.expected:
                yield from _differing(name, self.document[name], _as_json(self.expected[name]))

    def _builds(self, step: ProofStep) -> None:
        self.builds = load_builds(self.data)
        said = {build["build"]: build for build in self.document["builds"]}
        here = {build.record["build"]: build for build in self.builds}
        step.extend((name, "in the certificate, but no such build here") for name in sorted(said - here.keys()))
        step.extend((name, "here, but not in the certificate") for name in sorted(here.keys() - said))
        files = samples = 0
        total = sum(file["bytes"] for build in self.builds for file in _files(build))
        with self._bar("builds", total) as bar:
            for name, build in sorted(here.items()):
                where = f"{name}/build.json"
                if build_root(build.record) != build.record["root"]:
                    step.add(where, "altered: its content does not match its root digest")
                elif name in said and said[name]["root"] != build.record["root"]:
                    step.add(where, "another build than the certificate's: the roots differ")
                faults = list(_file_faults(build, bar.update))
                step.extend(faults)
                if not faults:
                    step.extend(_count_faults(build))
                files += sum(1 for _ in _files(build))
                samples += sum(unit["kept"] for unit in build.record["units"])
        step.note = f"{len(here)} builds, {files} files, {total:,} bytes, {samples:,} samples"
        self.expected["builds"] = [_described(build) for build in self.builds]
        self.expected["builds_root"] = merkle_root(bytes.fromhex(b.record["root"]) for b in self.builds).hex()
        if not step.findings:
            step.add(CERTIFICATE, *self._against_certificate("builds", "builds_root"))

    def _rules(self, step: ProofStep) -> None:
        from manifests.proof.overlaps import VERSIONS

        here, said = VERSIONS, self.document["rules"]
        for name in sorted(here.keys() | said.keys()):
            if here.get(name) != said.get(name):
                what = "the certificate was made with another version of it" if name in here else "no such rule here"
                step.add(name, f"{what}; verify with the release that made it, or prove again")
        step.note = f"{len(here)} versions"
        libraries = software()
        made_with = self.document["software"].items()
        other = [f"{name} {version}" for name, version in made_with if libraries.get(name) != version]
        if other:
            step.note += f"; made with {', '.join(other)}, other versions than here"

    def _policy(self, step: ProofStep) -> None:
        from manifests.proof.policy import check_names, load_policy, parse_policy

        records = [build.record for build in self.builds]
        self.policy = parse_policy(self.document["policy"], f"{CERTIFICATE}, policy")
        check_names(self.policy, {one["source"]["name"] for one in records}, {one["build"] for one in records})
        if self.policy.sha256 != self.document["policy_sha256"]:
            step.add(f"{CERTIFICATE}, policy", "does not match policy_sha256")
        default = self.policy.sha256 == load_policy().sha256
        step.note = f"{self.policy.sha256[:16]}, " + ("the default" if default else "NOT the default: read its rules")

    def _files(self, step: ProofStep) -> None:
        import pyarrow.parquet as pq

        from manifests.proof.evidence import COMMON, EVIDENCE, EXCLUSIONS, ORDER
        from manifests.proof.train_duplicates import TRAIN_DUPLICATES

        wanted = {
            "evidence": (EVIDENCE_FILE, EVIDENCE), "exclusions": (EXCLUSIONS_FILE, EXCLUSIONS),
            "common": (COMMON_FILE, COMMON), "train_duplicates": (TRAIN_DUPLICATES_FILE, TRAIN_DUPLICATES),
        }  # fmt: skip
        if self.document["policy"]["train_duplicates"] is None:
            wanted.pop("train_duplicates")
        if wanted.keys() != self.document["files"].keys():
            names = ", ".join(sorted(self.document["files"]))
            step.add(CERTIFICATE, f"files are {names}, where the policy makes {', '.join(wanted)}")
            return
        for name, (file, schema) in wanted.items():
            path = self.proof / file
            if not path.is_file():
                step.add(file, "missing")
            elif file_sha256(path).hex() != self.document["files"][name]:
                step.add(file, "altered: its digest is not the certificate's")
            elif not pq.read_schema(path).remove_metadata().equals(schema):
                step.add(file, "its columns are not those of such a file")
        if step.findings:
            return
        from manifests.proof.spill import Spill

        count = pq.read_metadata(self.proof / EVIDENCE_FILE).num_rows
        self.spill = Spill(1 + max(count // _PIECE, self._count("kept") // _PIECE))
        for row in self._ordered(step, EVIDENCE_FILE, ORDER):
            self.spill.add(f"said {row['level']}", (row["train_build"], row["train_sample"]), tuple(row.values()))
        step.note = f"{len(wanted)} files, {count:,} rows of evidence"

    # ---- derived again

    def _raw(self, step: ProofStep) -> None:
        from manifests.proof.materials import drawn, raw_faults, raw_folder

        if self.raw is None:
            step.note = "NOT read (--no-raw): that builds hold what their publishers shipped is taken on trust"
            return
        choose = list if self.sample is None else drawn(self.sample, self.seed)
        files = [build.record.get("inputs", {}).get("files", 0) for build in self.builds]
        again = 0
        with self._bar("raw files", sum(files)) as bar:
            for build in self.builds:
                folder = raw_folder(build, self.raw)
                if folder is None or not (build.folder / INPUTS_FILE).is_file():
                    step.unread.append(build.record["build"])
                    continue
                step.extend((build.record["build"], fault) for fault in raw_faults(build, folder, choose, bar.update))
                again += build.record["parameters"].get("pictures_stored") is False
        step.note = f"{len(self.builds) - len(step.unread)} of {len(files)} builds{self._sampled()}"
        step.note += f", {again} corpora made elsewhere read in again" * bool(again)
        inputs = [build.record.get("inputs", {}) for build in self.builds]
        if by_size := sum(one.get("files", 0) - one.get("hashed", 0) for one in inputs):
            step.note += f"; {by_size:,} files have no digest (--limit), their sizes alone were compared"
        if step.unread:
            step.note += f"; NOT there: those of {', '.join(step.unread)}"

    def _stored(self, step: ProofStep) -> None:
        from manifests.proof.rederive import Stored, stored_faults

        def named(row: Mapping[str, Any]) -> None:
            sample = (row["build"], row["sample_id"])
            self.spill.add("samples", sample, (*sample, row["unit"], row["role"]))

        read = Stored(named=named)
        with self._bar("stored samples", self._count("kept")) as bar:
            for build in self.builds:
                step.extend(stored_faults(build, self.chosen, read, bar.update))
        for piece in range(self.spill.pieces):
            times = Counter((build, sample) for build, sample, *_ in self.spill.rows("samples", piece))
            step.extend((f"{build}: {sample}", "occurs twice") for (build, sample), n in times.items() if n > 1)
        step.note = f"{read.samples:,} samples and {read.pictures:,} pictures read again{self._sampled()}"
        if read.not_stored:
            step.note += f"; {read.not_stored:,} pictures lie in no shard and were not"

    def _exact(self, step: ProofStep) -> None:
        from manifests.proof.rederive import FOUND, id_and_exact

        total = self._count("kept") + self._count("images")
        with self._bar("ids and digests", total) as bar:
            keep = self._keeper("exact")
            for row in id_and_exact(self.builds, bar.update):
                keep(row)
        pairs = self._compare(step, ("id", "exact_image", "exact_text"), "exact", None)
        kind, value = FOUND.index("kind"), FOUND.index("value")
        for piece in range(self.spill.pieces):
            rows = self.spill.rows("exact", piece)
            images = [row for row in rows if row[FOUND.index("level")] == "exact_image"]
            ends = {(row[:kind], row[kind + 1 : value], row[value + 1 :]) for row in images if row[kind] == "pixels"}
            for row in images:
                if row[kind] == "bytes" and (row[:kind], row[kind + 1 : value], row[value + 1 :]) not in ends:
                    step.add("manifest", f"sha256 of two pictures is equal, but their pixels are not: {_named(row)}")
        step.note = f"{pairs:,} pairs"

    def _near_images(self, step: ProofStep) -> None:
        from manifests.proof.rederive_pictures import near_images

        with self._bar("near pictures", self._count("images")) as bar:
            keep = self._keeper("images")
            derived = near_images(self.builds, self.policy, self.chosen, bar.update, keep)
        pairs = self._compare(step, ("near_image",), "images", self.chosen)
        step.add(CERTIFICATE, *self._counted("near_image", derived.counts))
        step.note = f"{pairs:,} pairs of {derived.looked_at:,} train pictures{self._sampled()}"

    def _local_pictures(self, step: ProofStep) -> None:
        from manifests.proof.descriptors import load_encoder
        from manifests.proof.rederive_local import coverage, local_pictures

        encoder = load_encoder(self.policy, self.encoder)
        self.expected["local_pictures"] = coverage(self.builds, self.policy)
        step.add(CERTIFICATE, *self._against_certificate("local_pictures"))
        with self._bar("local pictures", self._count("images")) as bar:
            keep = self._keeper("local")
            said = {
                tuple(row[f"{side}_{name}"] for side in ("train", "eval") for name in ("build", "sample", "index"))
                for row in _rows_of(self.proof / EVIDENCE_FILE)
                if row["kind"] == "descriptor"
            } if encoder else set()  # fmt: skip
            derived = local_pictures(self.builds, self.policy, self.chosen, bar.update, keep, encoder, said)
        pairs = self._compare(step, ("local_pictures",), "local", self.chosen)
        step.add(CERTIFICATE, *self._counted("local_pictures", derived.counts))
        named = derived.looked_at or self.policy.local_pictures.train
        step.note = f"{pairs:,} pairs of {derived.looked_at:,} train pictures{self._sampled()}" if named else "off"

    def _near_texts(self, step: ProofStep) -> None:
        import pyarrow.parquet as pq

        from manifests.proof.rederive_texts import near_texts

        with self._bar("near texts", self._count("kept")) as bar:
            keep = self._keeper("texts")
            derived = near_texts(self.builds, self.policy, self.chosen, bar.update, keep)
        pairs = self._compare(step, ("near_text",), "texts", self.chosen)
        step.add(CERTIFICATE, *self._counted("near_text", derived.counts))
        common = pq.read_table(self.proof / COMMON_FILE).to_pylist()
        said = {row["ngram"]: (row["eval_df"], row["train_samples"]) for row in common}
        if list(said) != sorted(said) or len(said) != len(common):
            step.add(COMMON_FILE, "rows out of order, or an n-gram twice")
        for gram in sorted(said.keys() | derived.common.keys()):
            told, (test_items, hits) = said.get(gram, (0, 0)), derived.common.get(gram, (0, 0))
            if told != (test_items, hits):
                which = "a run of words (not shown)" if is_private() else repr(gram)
                what = f"{which}: in {told[0]} test items and {told[1]} train samples, derived {test_items} and {hits}"
                step.add(COMMON_FILE, what)
        self.expected["common_ngrams"] = len(common)
        self.expected["left_out_of_near_text"] = [
            {"build": build, "task": task, "reason": reason, "eval_samples": count}
            for (build, task, reason), count in sorted(derived.left_out.items())
        ]
        step.add(CERTIFICATE, *self._against_certificate("common_ngrams", "left_out_of_near_text"))
        step.note = f"{pairs:,} pairs of {derived.looked_at:,} train samples{self._sampled()}"

    def _train_duplicates(self, step: ProofStep) -> None:
        from manifests.proof.rederive_pictures import train_duplicates
        from manifests.proof.train_duplicates import TRAIN_DUPLICATES

        settings = self.policy.train_duplicates
        self.expected["train_duplicates"] = None
        if settings is None:
            step.note = "left out by the policy"
        else:
            key = ("build_a", "sample_a", "index_a", "build_b", "sample_b", "index_b")
            counts: Counter[Key] = Counter()
            for row in self._ordered(step, TRAIN_DUPLICATES_FILE, TRAIN_DUPLICATES.names):
                counts[row["build_a"], row["build_b"]] += 1
                ends = (row["build_a"], row["sample_a"]), (row["build_b"], row["sample_b"])
                if self.chosen is None or not self.chosen.isdisjoint(ends):
                    self.spill.add("duplicates said", ends, row)
            pairs = 0
            with self._bar("train duplicates", self._count("images")) as bar:
                found = train_duplicates(self.builds, settings.radius, settings.threshold, self.chosen, bar.update)
                for row in found:
                    pairs += 1
                    ends = (row["build_a"], row["sample_a"]), (row["build_b"], row["sample_b"])
                    self.spill.add("duplicates", ends, row)
            for piece in range(self.spill.pieces):
                said, rows = (self.spill.rows(side, piece) for side in ("duplicates said", "duplicates"))
                step.add(TRAIN_DUPLICATES_FILE, *_row_differences(said, rows, key))
            self.expected["train_duplicates"] = [
                {"build_a": a, "build_b": b, "pairs": count} for (a, b), count in sorted(counts.items())
            ]
            step.note = f"{pairs:,} pairs{self._sampled()}" if pairs or counts else "none"
        step.add(CERTIFICATE, *self._against_certificate("train_duplicates"))

    def _conclusions(self, step: ProofStep) -> None:
        from manifests.proof.evidence import LEVELS
        from manifests.proof.policy import held_benchmarks

        sources = {build.record["build"]: build.record["source"]["name"] for build in self.builds}
        tally, summary, taken = _Tally(self.builds), _Summary(), 0
        for row in self._ordered(step, EXCLUSIONS_FILE, ("train_build", "train_sample")):
            self.spill.add("exclusions", (row["train_build"], row["train_sample"]), row)
        for piece in range(self.spill.pieces):
            units = {
                (b, sample): unit for b, sample, unit, role in self.spill.rows("samples", piece) if role == "train"
            }
            evidence = [row for level in LEVELS for row in self._said(level, piece)]
            excluded: dict[Key, list[dict[str, Any]]] = defaultdict(list)
            for row in evidence:
                action = _action(self.policy, row, sources)
                if row["action"] != action:
                    what = f"action is {row['action']}, the policy says {action}: {_named_row(row)}"
                    step.add(EVIDENCE_FILE, what)
                row["action"] = action
                if action == "exclude":
                    excluded[row["train_build"], row["train_sample"]].append(row)
            exclusions = [
                {
                    "train_build": build, "train_sample": sample, "unit": units.get((build, sample)),
                    "reasons": sorted({f"{row['level']}/{row['kind']}" for row in rows}), "evidence": len(rows),
                    "eval_samples": len({(row["eval_build"], row["eval_sample"]) for row in rows})
                }
                for (build, sample), rows in sorted(excluded.items())
            ]  # fmt: skip
            said = self.spill.rows("exclusions", piece)
            step.add(EXCLUSIONS_FILE, *_row_differences(said, exclusions, ("train_build", "train_sample")))
            summary.add(evidence, excluded)
            taken += len(excluded)
        only_present = self.document["benchmarks"]["asked"] == "present"
        rejects = [
            dict(zip(("build", "role", "reason", "damaged", "count"), (*key, count), strict=True))
            for key, count in tally.rejects.items()
        ]
        records, out = (build.record for build in self.builds), self.document["left_out_of_near_text"]
        local = self.expected["local_pictures"]["pictures"]
        books = accounts(records, self.policy.leave_out, rejects, tally.totals()["without_pixels"], out, local)
        derived = {"accounting": books} | tally.totals() | summary.document(tally)
        derived["benchmarks"] = held_benchmarks(self.policy, tally.read, only_present=only_present)
        # They follow from the rest of the certificate, all of which is held against what was derived.
        derived["sentences"] = sentences(self.document)
        self.expected |= derived
        step.add(CERTIFICATE, *self._against_certificate(*derived))
        step.note = f"{taken:,} exclusions, " + ("clean" if derived["clean"] else "NOT clean")

    def _report(self, step: ProofStep) -> None:
        from manifests.prove import render_report

        path = self.proof / REPORT_FILE
        if not path.is_file():
            step.add(REPORT_FILE, "missing")
            return
        with tempfile.TemporaryDirectory() as folder:
            for name in (EVIDENCE_FILE, COMMON_FILE):
                (Path(folder) / name).symlink_to((self.proof / name).resolve())
            with connect(self.data) as connection:
                render_report(connection, self.builds, Path(folder), self.document)
            said, again = path.read_bytes(), (Path(folder) / REPORT_FILE).read_bytes()
        if said != again:
            pairs = enumerate(zip(said, again, strict=False))
            place = next((at for at, (one, other) in pairs if one != other), min(len(said), len(again)))
            step.add(REPORT_FILE, f"not what the proof's files give, from byte {place} on")
        step.note = f"{len(said):,} bytes"

    # ---- helpers of the steps

    def _bar(self, name: str, total: int) -> tqdm[NoReturn]:
        from tqdm import tqdm

        return tqdm(total=total, desc=name, unit_scale=True, disable=self.quiet or None)

    def _count(self, name: str) -> int:
        return sum(unit[name] for build in self.builds for unit in build.record["units"])

    def bounds(self) -> list[dict[str, Any]]:
        """What an audit without a finding shows: of each build and side, fewer than so many samples are wrong."""
        counts: Counter[tuple[str, str]] = Counter()
        for build in self.builds:
            for unit in build.record["units"]:
                counts[build.record["build"], unit["role"]] += unit["kept"]
        drawn = self.sample or 0
        return [
            {"build": build, "role": role, "samples": total, "fewer_than": fewer_than(total, min(drawn, total))}
            for (build, role), total in sorted(counts.items()) if total
        ]  # fmt: skip

    def _sampled(self) -> str:
        return "" if self.sample is None else f" (a sample, {self.sample} of each build and side)"

    def _keeper(self, side: str) -> Callable[[Found], None]:
        """Keeps rows of evidence that are derived."""
        from manifests.proof.rederive import FOUND

        build, sample = FOUND.index("train_build"), FOUND.index("train_sample")
        return lambda row: self.spill.add(side, (row[build], row[sample]), row)

    def _ordered(self, step: ProofStep, file: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows of a file of the proof, as far as each comes after the one before."""
        last: tuple[Any, ...] = ()
        for row in _rows_of(self.proof / file):
            key = tuple((row[name] is not None, row[name]) for name in names)
            if not last < key:
                step.add(file, "rows out of order, or one row twice")
                return
            last = key
            yield row

    def _said(self, level: str, piece: int) -> list[dict[str, Any]]:
        """Rows of the evidence file of one level, in one piece."""
        from manifests.proof.evidence import EVIDENCE

        return [dict(zip(EVIDENCE.names, row, strict=True)) for row in self.spill.rows(f"said {level}", piece)]

    def _compare(self, step: ProofStep, levels: Sequence[str], side: str, chosen: set[Key] | None) -> int:
        """Add to a step where the evidence file and what was derived differ, either way; how many were derived."""
        from manifests.proof.evidence import ORDER
        from manifests.proof.rederive import FOUND

        pairs = 0
        for piece in range(self.spill.pieces):
            said = [
                {name: row[name] for name in FOUND}
                for level in levels
                for row in self._said(level, piece)
                if chosen is None or (row["train_build"], row["train_sample"]) in chosen
            ]
            derived = [dict(zip(FOUND, row, strict=True)) for row in set(self.spill.rows(side, piece))]
            step.add(EVIDENCE_FILE, *_row_differences(said, derived, ORDER))
            pairs += len(derived)
        return pairs

    def _counted(self, level: str, counts: Mapping[str, int]) -> Iterator[str]:
        """Where the certificate's counts of a level are not those derived; of a sample nothing can be said."""
        if self.chosen is None:
            said = self.document["counts"].get(level, {})
            for name in sorted(said.keys() | counts.keys()):
                if said.get(name, 0) != counts.get(name, 0):
                    what = f"counts.{level}.{name} is {said.get(name, 0)}, derived {counts.get(name, 0)}"
                    yield what


_KEYS = (
    "format", "builds", "builds_root", "policy", "policy_sha256", "rules", "software", "levels", "coverage", "files",
    "local_pictures",
    "train_totals", "eval_totals", "matrix", "subsets", "counts", "common_ngrams", "left_out_of_near_text",
    "without_pixels", "accounting", "exclusions", "after", "clean", "benchmarks", "train_duplicates", "report",
    "sentences", "root",
)  # fmt: skip
"""What a certificate says."""


CONFIDENCE = 0.99


def fewer_than(total: int, drawn: int) -> int:
    """Upper bound, at `CONFIDENCE`, of wrong things among `total`, where none is among `drawn` of them, at random.

    The smallest number of which a draw without replacement would have missed all with a chance of 1 % or less.
    """

    def missed(wrong: int) -> float:
        if wrong > total - drawn:
            return 0.0
        logs = (math.lgamma(total - wrong + 1), -math.lgamma(total - wrong - drawn + 1))
        return math.exp(sum(logs) - math.lgamma(total + 1) + math.lgamma(total - drawn + 1))

    return bisect.bisect_left(range(total + 1), True, key=lambda wrong: missed(wrong) <= 1 - CONFIDENCE)


def _rows_of(path: Path, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
    """Rows of a Parquet file, some thousands at a time."""
    import pyarrow.parquet as pq

    for batch in pq.ParquetFile(path).iter_batches(_PIECE, columns=columns):
        yield from batch.to_pylist()


def _as_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _differing(where: str, said: Any, derived: Any) -> Iterator[str]:
    """Each place where two JSON values differ."""
    if isinstance(said, dict) and isinstance(derived, dict):
        for name in sorted(said.keys() | derived.keys()):
            if name not in said or name not in derived:
                yield f"{where}.{name} " + ("is missing" if name not in said else "does not belong there")
            else:
                yield from _differing(f"{where}.{name}", said[name], derived[name])
    elif isinstance(said, list) and isinstance(derived, list) and len(said) == len(derived):
        for number, (one, other) in enumerate(zip(said, derived, strict=True)):
            yield from _differing(f"{where}[{number}]", one, other)
    elif isinstance(said, list) and isinstance(derived, list):
        yield f"{where} has {len(said)} entries, derived {len(derived)}"
    elif type(said) is not type(derived) or said != derived:
        yield f"{where} is {said!r}, derived {derived!r}"


def _row_differences(
    said: Sequence[Mapping[str, Any]], derived: Sequence[Mapping[str, Any]], key: Sequence[str]
) -> list[str]:
    """Rows that a file lacks, has too many or has with other values, each in words."""

    def by_key(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[Any, ...], Mapping[str, Any]]:
        return {tuple(row[name] for name in key): row for row in rows}

    ours, theirs = by_key(derived), by_key(said)
    differences = []
    for name in sorted(ours.keys() | theirs.keys(), key=lambda values: [(one is not None, one) for one in values]):
        shown = " ".join(str(part) for part in name if part is not None)
        if name not in theirs:
            differences.append(f"row missing: {shown}")
        elif name not in ours:
            differences.append(f"row that does not follow: {shown}")
        else:
            changed = [
                f"{column} is {theirs[name][column]}, derived {value}"
                for column, value in ours[name].items()
                if theirs[name][column] != value
            ]
            if changed:
                differences.append(f"{'; '.join(changed)}: {shown}")
    return differences


def _named(row: Found) -> str:
    from manifests.proof.rederive import FOUND

    return _named_row(dict(zip(FOUND, row, strict=True)))


def _named_row(row: Mapping[str, Any]) -> str:
    names = ("level", "kind", "train_build", "train_sample", "train_index", "eval_build", "eval_sample", "eval_index")
    return " ".join(str(row[name]) for name in names if row[name] is not None)


# ---- builds


def _files(build: LoadedBuild) -> Iterator[dict[str, Any]]:
    for unit in build.record["units"]:
        yield from unit["shards"]
        yield from unit["parts"]


def _file_faults(build: LoadedBuild, progress: Callable[[int], None]) -> Iterator[Fault]:
    """Files that are missing, altered or strange."""
    name = build.record["build"]
    listed = {file["file"]: file for file in _files(build)}
    for path in sorted(path for folder in ("shards", *KINDS) for path in (build.folder / folder).rglob("*")):
        inside = path.relative_to(build.folder).as_posix()
        if inside not in listed:
            yield f"{name}/{inside}", "not part of the build"
    for inside, file in sorted(listed.items()):
        path = build.folder / inside
        if not path.is_file():
            yield f"{name}/{inside}", "missing"
        elif path.stat().st_size != file["bytes"]:
            yield f"{name}/{inside}", f"{path.stat().st_size} bytes where {file['bytes']} were written"
        elif file_sha256(path).hex() != file["sha256"]:
            yield f"{name}/{inside}", "altered: its digest is not that of build.json"
        progress(file["bytes"])


def _count_faults(build: LoadedBuild) -> Iterator[Fault]:
    """Counts in build.json that its parts do not bear out, and part rows that are not of their unit."""
    import pyarrow.parquet as pq

    from manifests.parts import SCHEMAS

    record = build.record
    where = f"{record['build']}/build.json"
    counted: dict[str, dict[str, Any]] = {}
    all_reasons: Counter[str] = Counter()
    for unit in record["units"]:
        parts = {part_kind(part["file"]): build.folder / part["file"] for part in unit["parts"]}
        if len(unit["parts"]) != len(parts):
            yield where, f"unit {unit['unit']} has two parts of a kind"
            return
        constants = {"build": record["build"], "unit": unit["unit"], "source": record["source"]["name"]}
        constants |= {"role": unit["role"], "split": unit["split"]}
        more = {"samples": ["sample_id"], "images": ["sample_id", "relation"], "rejects": ["reason", "damaged"]}
        columns = {kind: [*constants, *more.get(kind, ())] for kind in SCHEMAS}
        # Parts without rows are not written.
        tables = {kind: SCHEMAS[kind].empty_table().select(names) for kind, names in columns.items()}
        for kind, path in parts.items():
            file = f"{record['build']}/{path.parent.name}/{path.name}"
            if not pq.read_schema(path).remove_metadata().equals(SCHEMAS[kind]):
                yield file, f"its columns are not those of {kind}"
                return
            table = tables[kind] = pq.read_table(path, columns=columns[kind])
            for name, value in constants.items():
                other = set(table[name].unique().to_pylist()) - {value}
                if other:
                    what = f"{name} is {', '.join(map(repr, sorted(map(str, other))))}, of its unit {value!r}"
                    yield file, what
        images = Counter(tables["images"]["sample_id"].to_pylist())
        kin = tables["images"].select(["sample_id", "relation"])
        priors = (row["sample_id"] for row in kin.to_pylist() if row["relation"] == "prior")
        reasons = Counter(tables["rejects"]["reason"].to_pylist())
        found = {
            "read": tables["samples"].num_rows + tables["rejects"].num_rows, "kept": tables["samples"].num_rows,
            "rejected": tables["rejects"].num_rows, "damaged": sum(tables["rejects"]["damaged"].to_pylist()),
            "images": tables["images"].num_rows, "reasons": dict(sorted(reasons.items())),
            "images_squared": sum(count * count for count in images.values()),
            "with_prior": len(set(priors)),
        }  # fmt: skip
        yield from (
            (where, what)
            for name, value in found.items()
            if name in unit
            for what in _differing(f"unit {unit['unit']}: {name}", unit[name], value)
        )
        in_shards = sum(shard["samples"] for shard in unit["shards"])
        if in_shards != found["kept"]:
            yield where, f"unit {unit['unit']}: its shards have {in_shards} samples, its part {found['kept']}"
        all_reasons.update(reasons)
        split = counted.setdefault(unit["split"], {"role": unit["role"], "bytes": 0})
        split["bytes"] += sum(shard["bytes"] for shard in unit["shards"])
        for name in ("read", "kept", "rejected", "damaged", "images", "images_squared", "with_prior"):
            split[name] = split.get(name, 0) + found[name]
    said = record["counts"]
    for name in ("read", "kept", "rejected", "damaged"):
        total = sum(split[name] for split in counted.values())
        if said[name] != total:
            yield where, f"counts.{name} is {said[name]}, derived {total}"
    yield from ((where, what) for what in _differing("counts.rejects", said["rejects"], dict(all_reasons)))
    for name in sorted(said["by_split"].keys() | counted.keys()):
        split = counted.get(name, {})
        split |= _image_statistics(split) if split else {}
        # Builds of a corpus made elsewhere count less.
        derived = {key: split.get(key) for key in said["by_split"].get(name, split)}
        yield from (
            (where, what) for what in _differing(f"counts.by_split.{name}", said["by_split"].get(name, {}), derived)
        )


def _image_statistics(split: Mapping[str, Any]) -> dict[str, float]:
    kept = split["kept"]
    mean = split["images"] / kept if kept else 0.0
    variance = max(0.0, split["images_squared"] / kept - mean * mean) if kept else 0.0
    prior = split["with_prior"] / kept if kept else 0.0
    return {"images_mean": round(mean, 4), "images_sd": round(variance**0.5, 4), "prior_share": round(prior, 4)}


def _described(build: LoadedBuild) -> dict[str, Any]:
    """A build, as the certificate describes it."""
    record, source = build.record, build.record["source"]
    samples = {
        role: sum(unit["kept"] for unit in record["units"] if unit["role"] == role) for role in ("train", "eval")
    }
    return {
        **{name: source[name] for name in ("revision", "license", "access")}, "source": source["name"],
        **{name: record[name] for name in ("build", "metadata_only", "fingerprint_recipe", "root")}, "samples": samples,
        "inputs": inputs_sha256(build.folder / INPUTS_FILE),
    }  # fmt: skip


# ---- policy and counts


def _action(policy: Policy, row: Mapping[str, Any], sources: Mapping[str, str]) -> str:
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


class _Tally:
    """Samples and pictures of all builds, counted from the parts."""

    def __init__(self, builds: Sequence[LoadedBuild]) -> None:
        import pyarrow.parquet as pq

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
                for row in _rows_of(part, ["role", "split", "subset"]):
                    if row["role"] == "train":
                        self.train[name] += 1
                    else:
                        self.eval[name, row["split"]] += 1
                        if row["subset"] is not None:
                            self.subsets[name, row["split"], row["subset"]] += 1
            for _, part in build.parts("rejects"):
                for row in _rows_of(part, ["role", "reason", "damaged"]):
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


class _Summary:
    """What the certificate says of the evidence; it comes in pieces, each with all evidence of its training samples."""

    def __init__(self) -> None:
        self.matrix: dict[tuple[Any, ...], _Cell] = defaultdict(_Cell)
        self.subsets: dict[tuple[Any, ...], _Cell] = defaultdict(_Cell)
        self.after: Counter[tuple[str, ...]] = Counter()
        self.excluded: Counter[str] = Counter()

    def add(self, evidence: Sequence[Mapping[str, Any]], excluded: Mapping[Key, Any]) -> None:
        """Count one piece."""
        for names, cells in (_MATRIX, self.matrix), (_SUBSETS, self.subsets):
            trains: dict[tuple[Any, ...], set[Key]] = defaultdict(set)
            for row in evidence:
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

    def document(self, tally: _Tally) -> dict[str, Any]:
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
            "after": [{**_named_cell(_AFTER, key), "pairs": pairs} for key, pairs in _in_order(self.after)],
            "exclusions": [{"train_build": b, "train_samples": count} for b, count in sorted(self.excluded.items())],
            "clean": not self.after,
        }  # fmt: skip


_MATRIX = ("train_build", "eval_build", "eval_split", "level", "kind", "action")
_SUBSETS = ("train_build", "eval_build", "eval_split", "eval_subset", "level", "kind")
_AFTER = ("level", "kind", "action")


def _named_cell(names: Sequence[str], key: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names, key, strict=True))


def _in_order(cells: Mapping[tuple[Any, ...], _T]) -> list[tuple[tuple[Any, ...], _T]]:
    """In the order of the keys; NULL comes last, as SQL has it."""
    return sorted(cells.items(), key=lambda item: [(value is None, value) for value in item[0]])


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 verified, 1 something was found, 2 nothing can be read, 4 raw files were not there."""
    options = _parser().parse_args(arguments)
    # As in prove: one thread for the linear algebra, so that both do the same.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    verification = verify(
        options.data,
        options.proof or options.data / "proof",
        sample=options.sample,
        seed=options.seed,
        public_key=options.public_key,
        encoder=options.encoder,
        raw=None if options.no_raw else dict(options.raw),
        quiet=options.quiet or options.json,
        tell=(lambda step: None) if options.json else _print,
    )
    steps = verification.steps
    findings = sum(len(step.findings) for step in steps)
    unread = [build for step in steps for build in step.unread]
    bounds = [] if options.sample is None or findings else verification.bounds()
    if options.json:
        listed = [{"step": step.name, "ok": step.ok, **asdict(step)} for step in steps]
        said = {"verified": not findings, "sample": options.sample, "raw": not options.no_raw, "steps": listed}
        if options.sample is not None:
            said |= {"seed": verification.seed, "confidence": CONFIDENCE, "bounds": bounds}
        print(json.dumps(said, indent=2))
    elif findings:
        print(f"NOT verified: {findings} finding{'s' * (findings != 1)}")
    else:
        if bounds:
            rows = [[one["build"], one["role"], one["fewer_than"], one["samples"]] for one in bounds]
            print(table(["build", "side", f"wrong, with {CONFIDENCE:.0%}: fewer than", "of"], rows))
        line = "Verified"
        if options.sample is not None:
            line += f", the slow steps for a sample alone (--seed {verification.seed})"
        if options.no_raw:
            line += "; raw files were NOT read (--no-raw)"
        if unread:
            line += (
                f", but for raw files that were NOT there ({', '.join(unread)}): --raw BUILD=DIR names them, --no-raw "
            )
            line += "leaves them out"
        print(line)
    return NOT_FINISHED if findings else NOT_COMPARED if unread else DONE


def _print(step: ProofStep) -> None:
    print(f"{'ok' if step.ok else 'FAILED':8}{step.name:18}{step.note}".rstrip(), flush=True)
    for finding in step.findings[:_SHOWN]:
        print(f"        {safe(finding)}")
    if len(step.findings) > _SHOWN:
        print(f"        and {len(step.findings) - _SHOWN} more; --json prints all")


def _number(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def _raw_place(text: str) -> tuple[str, Path]:
    build, _, place = text.rpartition("=")
    if not Path(place).is_dir():
        raise argparse.ArgumentTypeError(f"{place}: no such folder")
    return build, Path(place)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "manifests.verify",
        (__doc__ or "").partition("\n")[0] + " Exit code: 0 verified, 1 something found, 2 unreadable, "
        "4 raw files not there.",
        "examples:\n"
        "  python -m manifests.verify data\n"
        "  python -m manifests.verify data --sample 200 --trust key.pub\n"
        "  python -m manifests.verify proofs/ours/corpus --proof proofs/ours/proof --raw ours.train=corpus/train",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds")
    parser.add_argument("--proof", type=Path, metavar="DIR", help="folder of the proof (default DATA/proof)")
    parser.add_argument(
        "--sample",
        type=_number,
        metavar="N",
        help="audit: make the slow steps for N samples of each build and side (default: all)",
    )
    parser.add_argument("--encoder", type=Path, metavar="PATH", help="the copy descriptor that the policy names")
    parser.add_argument(
        "--trust", "--public-key", type=Path, dest="public_key", metavar="KEY",
        help="the certificate must be signed by this key (PEM, Ed25519)",
    )  # fmt: skip
    parser.add_argument("--seed", metavar="TEXT", help="draw the sample of an earlier run (default: a new one)")
    parser.add_argument(
        "--raw", type=_raw_place, action="append", default=[], metavar="[BUILD=]DIR",
        help="where raw files lie now: of one build, or of all (DIR/<source>, or DIR itself); repeatable",
    )  # fmt: skip
    parser.add_argument("--no-raw", action="store_true", help="raw files are gone: do not read them, and say so")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


if __name__ == "__main__":
    sys.exit(main())
