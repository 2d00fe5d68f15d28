"""The steps of a verification, and what they hand on to each other: for `manifests.verify`.

What the certificate says is read first; what follows is derived by the other files of this room and held against it,
rows of evidence piece by piece (`spill`).
"""

from __future__ import annotations

import glob
import itertools
import json
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pyarrow.parquet as pq
from tqdm import tqdm

from manifests.catalog import LoadedBuild, connect, load_builds, sql_text
from manifests.proof.accounting import accounts
from manifests.proof.certificate import (
    CERTIFICATE,
    COMMON_FILE,
    ENVELOPE,
    EVIDENCE_FILE,
    EXCLUSIONS_FILE,
    REPORT_FILE,
    TRAIN_DUPLICATES_FILE,
    VERDICTS_FILE,
    check_signature,
    read_certificate,
    software,
)
from manifests.proof.descriptors import load_encoder
from manifests.proof.evidence import COMMON, EVIDENCE, EXCLUSIONS, LEVELS, ORDER
from manifests.proof.exports import EXCLUDED_ROWS_FILE, write_excluded_rows
from manifests.proof.near_images import coverage
from manifests.proof.overlaps import OFF, VERSIONS, rewrites_state
from manifests.proof.policy import Policy, check_names, held_benchmarks, load_policy, parse_policy
from manifests.proof.rewrites import coverage as rewrites_coverage
from manifests.proof.sentences import sentences
from manifests.proof.train_duplicates import TRAIN_DUPLICATES
from manifests.prove import render_report
from manifests.verification.audit import draw_samples, smallest
from manifests.verification.builds import count_faults, described, file_faults, files_of
from manifests.verification.counts import Summary, Tally, action_of
from manifests.verification.derived import FOUND, Fault, Found, Key, rows_of
from manifests.verification.differences import differing, named_row, row_differences
from manifests.verification.ids import id_and_exact
from manifests.verification.local_pictures import coverage as local_coverage
from manifests.verification.local_pictures import local_pictures
from manifests.verification.pictures import near_images, train_duplicates
from manifests.verification.raw_files import made_elsewhere, raw_faults, raw_folder
from manifests.verification.rewrites import rewrites, settled
from manifests.verification.spill import Spill
from manifests.verification.spread import Part, Pool
from manifests.verification.stored_samples import read_again
from manifests.verification.texts import near_texts
from manifests.verification.verdicts import Verdicts
from medgpt.digest import INPUTS_FILE, build_root, file_sha256, merkle_root
from medgpt.errors import UserError
from medgpt.private import is_private
from medgpt.processes import EngineError

_PIECE = 10_000
"""Rows of evidence, or samples, that are in memory together."""


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
    rebuild: Collection[str]
    """Builds that are made again from their raw files; corpora made elsewhere are in any case."""
    quiet: bool
    tell: Callable[[ProofStep], None]
    pool: Pool
    """Where the steps run that read every stored sample."""
    steps: list[ProofStep] = field(default_factory=list)
    document: dict[str, Any] = field(default_factory=dict)
    builds: Sequence[LoadedBuild] = ()
    policy: Policy = field(init=False)
    chosen: set[Key] | None = None
    """Samples that are looked at in an audit."""
    drawn_from: Counter[Key] = field(default_factory=Counter)
    """Of an audit: how many there are of what it draws from (`audit.bounds`)."""
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
            # The report takes memory of its own, which those behind it use again.
            ("report", self._report), ("raw files", self._raw), ("stored samples", self._stored),
            ("ids and digests", self._exact), ("near pictures", self._near_images),
            ("local pictures", self._local_pictures),
            ("near texts", self._near_texts), ("rewrites", self._rewrites),
            ("train duplicates", self._train_duplicates),
            ("policy and counts", self._conclusions),
        ]  # fmt: skip
        if not self._make(*early[0]):
            return
        # Another version's rules are no reason to stop: what they found can still be derived.
        sound = [self._make(name, step) or name == "rules" for name, step in early[1:]]
        if all(sound):
            if self.sample is not None:
                self.chosen, self.drawn_from = draw_samples(self.builds, self.sample, self.seed)
            for name, step in late:
                self._make(name, step)

    def _make(self, name: str, make: Callable[[ProofStep], None]) -> bool:
        """Run one step; data that no step can make sense of is a finding, too."""
        step = ProofStep(name)
        try:
            make(step)
        except EngineError:  # says nothing of the proof
            raise
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
                yield from differing(name, self.document[name], json.loads(json.dumps(self.expected[name])))

    def _builds(self, step: ProofStep) -> None:
        self.builds = load_builds(self.data)
        said = {build["build"]: build for build in self.document["builds"]}
        here = {build.record["build"]: build for build in self.builds}
        step.extend((name, "in the certificate, but no such build here") for name in sorted(said - here.keys()))
        step.extend((name, "here, but not in the certificate") for name in sorted(here.keys() - said))
        files = samples = 0
        total = sum(file["bytes"] for build in self.builds for file in files_of(build))
        with self._bar("builds", total) as bar:
            for name, build in sorted(here.items()):
                where = f"{name}/build.json"
                if build_root(build.record) != build.record["root"]:
                    step.add(where, "altered: its content does not match its root digest")
                elif name in said and said[name]["root"] != build.record["root"]:
                    step.add(where, "another build than the certificate's: the roots differ")
                faults = list(file_faults(build, bar.update))
                step.extend(faults)
                if not faults:
                    step.extend(count_faults(build))
                files += sum(1 for _ in files_of(build))
                samples += sum(unit["kept"] for unit in build.record["units"])
        step.note = f"{len(here)} builds, {files} files, {total:,} bytes, {samples:,} samples"
        self.expected["builds"] = [described(build) for build in self.builds]
        self.expected["builds_root"] = merkle_root(bytes.fromhex(b.record["root"]) for b in self.builds).hex()
        if not step.findings:
            step.add(CERTIFICATE, *self._against_certificate("builds", "builds_root"))

    def _rules(self, step: ProofStep) -> None:
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
        records = [build.record for build in self.builds]
        self.policy = parse_policy(self.document["policy"], f"{CERTIFICATE}, policy")
        check_names(self.policy, {one["source"]["name"] for one in records}, {one["build"] for one in records})
        if self.policy.sha256 != self.document["policy_sha256"]:
            step.add(f"{CERTIFICATE}, policy", "does not match policy_sha256")
        default = self.policy.sha256 == load_policy().sha256
        step.note = f"{self.policy.sha256[:16]}, " + ("the default" if default else "NOT the default: read its rules")

    def _files(self, step: ProofStep) -> None:
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

        count = pq.read_metadata(self.proof / EVIDENCE_FILE).num_rows
        self.spill = Spill(1 + max(count // _PIECE, self._count("kept") // _PIECE))
        for row in self._ordered(step, EVIDENCE_FILE, ORDER):
            self.spill.add(f"said {row['level']}", (row["train_build"], row["train_sample"]), tuple(row.values()))
        step.note = f"{len(wanted)} files, {count:,} rows of evidence"

    # ---- derived again

    def _raw(self, step: ProofStep) -> None:
        if self.raw is None:
            step.note = "NOT read (--no-raw): that builds hold what their publishers shipped is taken on trust"
            return
        files = [build.record.get("inputs", {}).get("files", 0) for build in self.builds]
        foreign = [build.record["build"] for build in self.builds if made_elsewhere(build.record)]
        again: Counter[bool] = Counter()
        with self._bar("raw files", sum(files)) as bar:
            for build in self.builds:
                name, folder, listed = build.record["build"], raw_folder(build, self.raw), build.folder / INPUTS_FILE
                if folder is None or not listed.is_file():
                    step.unread.append(name)
                    continue
                chosen = None
                if self.sample is not None:
                    chosen = set(smallest(self.sample, (row["file"] for row in rows_of(listed, ["file"])), self.seed))
                    self.drawn_from[name, "raw files"] = pq.read_metadata(listed).num_rows
                anew = name in foreign or name in self.rebuild
                again[name in foreign] += anew
                faults = raw_faults(build, folder, chosen, anew, bar.update)
                step.extend((name, fault) for fault in faults)
        step.note = f"{len(self.builds) - len(step.unread)} of {len(files)} builds{self._sampled()}"
        step.note += f", {again[True]} corpora made elsewhere read in again" * bool(again[True])
        step.note += f", {again[False]} builds made again" * bool(again[False])
        inputs = [build.record.get("inputs", {}) for build in self.builds]
        if by_size := sum(one.get("files", 0) - one.get("hashed", 0) for one in inputs):
            step.note += f"; {by_size:,} files have no digest (--limit), their sizes alone were compared"
        if step.unread:
            step.note += f"; NOT there: those of {', '.join(step.unread)}"

    def _stored(self, step: ProofStep) -> None:
        read: Counter[str] = Counter()
        units = [
            Part.of(build, build.folder, unit, unit["kept"]) for build in self.builds for unit in build.record["units"]
        ]
        with self._bar("stored samples", self._count("kept")) as bar:
            for stored in self.pool.spread(read_again, self.chosen, units, bar.update):
                step.extend(stored.faults)
                read.update(samples=stored.samples, pictures=stored.pictures, not_stored=stored.not_stored)
                for row in stored.named:
                    self.spill.add("samples", row[:2], row)
        for piece in range(self.spill.pieces):
            times = Counter((build, sample) for build, sample, *_ in self.spill.rows("samples", piece))
            step.extend((f"{build}: {sample}", "occurs twice") for (build, sample), n in times.items() if n > 1)
        step.note = f"{read['samples']:,} samples and {read['pictures']:,} pictures read again{self._sampled()}"
        if read["not_stored"]:
            step.note += f"; {read['not_stored']:,} pictures lie in no shard and were not"

    def _exact(self, step: ProofStep) -> None:
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
                    which = named_row(dict(zip(FOUND, row, strict=True)))
                    step.add("manifest", f"sha256 of two pictures is equal, but their pixels are not: {which}")
        step.note = f"{pairs:,} pairs"

    def _near_images(self, step: ProofStep) -> None:
        with self._bar("near pictures", self._count("images")) as bar:
            keep = self._keeper("images")
            derived = near_images(self.builds, self.policy, self.chosen, bar.update, keep, self.pool)
        pairs = self._compare(step, ("near_image",), "images", self.chosen)
        step.add(CERTIFICATE, *self._counted("near_image", derived.counts))
        step.note = f"{pairs:,} pairs of {derived.looked_at:,} train pictures{self._sampled()}"

    def _local_pictures(self, step: ProofStep) -> None:
        encoder = load_encoder(self.policy, self.encoder)
        self.expected["local_pictures"] = local_coverage(self.builds, self.policy)
        step.add(CERTIFICATE, *self._against_certificate("local_pictures"))
        with self._bar("local pictures", self._count("images")) as bar:
            keep = self._keeper("local")
            said = {
                tuple(row[f"{side}_{name}"] for side in ("train", "eval") for name in ("build", "sample", "index"))
                for row in rows_of(self.proof / EVIDENCE_FILE)
                if row["kind"] == "descriptor"
            } if encoder else set()  # fmt: skip
            derived = local_pictures(self.builds, self.policy, self.chosen, bar.update, keep, encoder, said)
        pairs = self._compare(step, ("local_pictures",), "local", self.chosen)
        step.add(CERTIFICATE, *self._counted("local_pictures", derived.counts))
        named = derived.looked_at or self.policy.local_pictures.train
        step.note = f"{pairs:,} pairs of {derived.looked_at:,} train pictures{self._sampled()}" if named else "off"

    def _near_texts(self, step: ProofStep) -> None:
        with self._bar("near texts", self._count("kept")) as bar:
            keep = self._keeper("texts")
            derived = near_texts(self.builds, self.policy, self.chosen, bar.update, keep, self.pool)
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

    def _rewrites(self, step: ProofStep) -> None:
        said = self.document["rewrites"]
        state = dict(OFF if self.policy.rewrites is None else said)
        derived: Counter[str] = Counter()
        if self.policy.rewrites is not None and said["ran"]:
            state = rewrites_state(self.policy)
            if not state["ran"]:
                step.add("rewrites", f"cannot be derived here ({state['why']})")
                return
            with self._bar("rewrites", self._count("kept")) as bar:
                derived = rewrites(
                    self.builds, self.policy, self.chosen, bar.update,
                    lambda key, pair: self.spill.add("rewrites derived", key, pair),
                )  # fmt: skip
        elif self.policy.rewrites is not None:
            state = {"ran": False, "why": str(said["why"]), "models": []}
        looked_at = derived["train_samples"]
        keep, ends = self._keeper("rewrites"), ("train_build", "train_sample", "eval_build", "eval_sample")
        for piece in range(self.spill.pieces):
            rows = {tuple(row[name] for name in ends): row for row in self._said("rewrite", piece)}
            for pair in self.spill.rows("rewrites derived", piece):
                row = settled(pair, rows.get(tuple(pair[0][name] for name in ends)))
                if row is not None:
                    derived[row[1]] += 1
                    keep(row)
        pairs = self._compare(step, ("rewrite",), "rewrites", self.chosen)
        step.add(CERTIFICATE, *self._counted("rewrite", derived))
        self.expected["rewrites"] = state | {"coverage": rewrites_coverage()}
        step.add(CERTIFICATE, *self._against_certificate("rewrites"))
        step.note = f"{pairs:,} pairs of {looked_at:,} train samples{self._sampled()}"
        if not state["ran"]:
            step.note = f"not looked for: {state['why']}"

    def _train_duplicates(self, step: ProofStep) -> None:
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
                step.add(TRAIN_DUPLICATES_FILE, *row_differences(said, rows, key))
            self.expected["train_duplicates"] = [
                {"build_a": a, "build_b": b, "pairs": count} for (a, b), count in sorted(counts.items())
            ]
            step.note = f"{pairs:,} pairs{self._sampled()}" if pairs or counts else "none"
        step.add(CERTIFICATE, *self._against_certificate("train_duplicates"))

    def _conclusions(self, step: ProofStep) -> None:
        sources = {build.record["build"]: build.record["source"]["name"] for build in self.builds}
        tally, summary, taken = Tally(self.builds), Summary(), 0
        for row in self._ordered(step, EXCLUSIONS_FILE, ("train_build", "train_sample")):
            self.spill.add("exclusions", (row["train_build"], row["train_sample"]), row)
        judged = Verdicts(self.proof / VERDICTS_FILE, self.policy, self.builds)
        for piece in range(self.spill.pieces):
            units = {
                (b, sample): unit for b, sample, unit, role in self.spill.rows("samples", piece) if role == "train"
            }
            evidence = [row for level in LEVELS for row in self._said(level, piece)]
            excluded: dict[Key, list[dict[str, Any]]] = defaultdict(list)
            actions = judged.heeded(evidence, [action_of(self.policy, row, sources) for row in evidence])
            for row, action in zip(evidence, actions, strict=True):
                if row["action"] != action:
                    what = f"action is {row['action']}, the policy says {action}: {named_row(row)}"
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
            step.add(EXCLUSIONS_FILE, *row_differences(said, exclusions, ("train_build", "train_sample")))
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
        derived = {"accounting": books, "verdicts": judged.document()} | tally.totals() | summary.document(tally)
        derived["benchmarks"] = held_benchmarks(self.policy, tally.read, only_present=only_present)
        # They follow from the rest of the certificate, all of which is held against what was derived.
        derived["sentences"] = sentences(self.document)
        self.expected |= derived
        step.add(CERTIFICATE, *self._against_certificate(*derived))
        step.note = f"{taken:,} exclusions, " + ("clean" if derived["clean"] else "NOT clean")

    def _report(self, step: ProofStep) -> None:
        with tempfile.TemporaryDirectory() as folder:
            again = Path(folder)
            for name in (EVIDENCE_FILE, COMMON_FILE):
                (again / name).symlink_to((self.proof / name).resolve())
            with connect(self.data) as connection:
                for setting in ("memory_limit = '192MiB'", "threads = 2"):  # what is more lies on disk meanwhile
                    connection.execute(f"SET {setting}")
                excluded = sql_text(glob.escape(str(self.proof / EXCLUSIONS_FILE)))
                connection.execute(f"CREATE VIEW exclusions AS FROM read_parquet({excluded})")
                write_excluded_rows(connection, self.builds, again)
                render_report(connection, self.builds, again, self.document)
            for name in (REPORT_FILE, EXCLUDED_ROWS_FILE):
                said, made = self.proof / name, again / name
                if said.is_file() != made.is_file():
                    step.add(name, "missing" if made.is_file() else "does not belong there")
                elif made.is_file() and file_sha256(said) != file_sha256(made):
                    step.add(name, "not what the proof's files give")
            step.note = f"{(again / REPORT_FILE).stat().st_size:,} bytes"

    # ---- helpers of the steps

    def _bar(self, name: str, total: int) -> tqdm[NoReturn]:
        return tqdm(total=total, desc=name, unit_scale=True, disable=self.quiet or None)

    def _count(self, name: str) -> int:
        return sum(unit[name] for build in self.builds for unit in build.record["units"])

    def _sampled(self) -> str:
        return "" if self.sample is None else f" (a sample, {self.sample} of each build and side)"

    def _keeper(self, side: str) -> Callable[[Found], None]:
        """Keeps rows of evidence that are derived."""
        build, sample = FOUND.index("train_build"), FOUND.index("train_sample")
        return lambda row: self.spill.add(side, (row[build], row[sample]), row)

    def _ordered(self, step: ProofStep, file: str, names: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Rows of a file of the proof, as far as each comes after the one before."""
        last: tuple[Any, ...] = ()
        for row in rows_of(self.proof / file):
            key = tuple((row[name] is not None, row[name]) for name in names)
            if not last < key:
                step.add(file, "rows out of order, or one row twice")
                return
            last = key
            yield row

    def _said(self, level: str, piece: int) -> list[dict[str, Any]]:
        """Rows of the evidence file of one level, in one piece."""
        return [dict(zip(EVIDENCE.names, row, strict=True)) for row in self.spill.rows(f"said {level}", piece)]

    def _compare(self, step: ProofStep, levels: Sequence[str], side: str, chosen: set[Key] | None) -> int:
        """Add to a step where the evidence file and what was derived differ, either way; how many were derived."""
        pairs = 0
        for piece in range(self.spill.pieces):
            said = [
                {name: row[name] for name in FOUND}
                for level in levels
                for row in self._said(level, piece)
                if chosen is None or (row["train_build"], row["train_sample"]) in chosen
            ]
            derived = [dict(zip(FOUND, row, strict=True)) for row in set(self.spill.rows(side, piece))]
            step.add(EVIDENCE_FILE, *row_differences(said, derived, ORDER))
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
    "rewrites", "without_pixels", "accounting", "exclusions", "exclusions_by_benchmark", "verdicts", "after",
    "clean", "benchmarks", "train_duplicates", "report",
    "sentences", "root",
)  # fmt: skip
"""What a certificate says."""
