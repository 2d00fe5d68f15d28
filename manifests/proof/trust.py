"""What a start rests on: the checks of a proof that training, packing, streaming and evaluation make before they begin.

`manifests.verify` derives a proof again from the publishers' bytes. This asks what can be asked in seconds: is the
certificate whole, and signed by the key that the user trusts; is its policy the default, or one that the user named;
were no pairs judged wrong, or by a file of verdicts that the user named; are evidence and exclusions the certified
files; do the exclusions, and that nothing is left, follow from evidence, policy and verdicts; does it speak of each
benchmark of the policy. What it says was not compared is taken from it: only `verify`, or a signature by a key that is
trusted, tells whether that was edited.
"""

from __future__ import annotations

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.catalog import open_duckdb, sql_text
from manifests.proof.certificate import (
    CERTIFICATE,
    COMMON_FILE,
    ENVELOPE,
    EVIDENCE_FILE,
    EXCLUSIONS_FILE,
    VERDICTS_FILE,
    CertificateError,
    check_signature,
    incomplete,
    read_certificate,
)
from medgpt.digest import file_sha256, merkle_root
from medgpt.errors import UserError
from medgpt.page import plural

if TYPE_CHECKING:
    import argparse

    from manifests.proof.policy import Policy

FILES = {"evidence": EVIDENCE_FILE, "exclusions": EXCLUSIONS_FILE, "common": COMMON_FILE}
WATCHED = (CERTIFICATE, ENVELOPE, VERDICTS_FILE, *FILES.values())
"""What is looked at: where none of it has changed, an earlier start's result holds."""


@dataclass(frozen=True)
class Trust:
    """What a user takes a certificate on; without anything: the default policy, complete, signed or not."""

    key: Path | None = None
    """Public key (PEM) that must have signed it."""
    policy: Path | None = None
    """Policy file that is taken instead of the default."""
    incomplete: bool = False
    """Take a certificate that names something as not compared."""
    verdicts: Path | None = None
    """File of reviewers' verdicts by which pairs may be judged wrong."""

    @classmethod
    def of(cls, options: argparse.Namespace) -> Trust:
        """What the options of `shards.options.add_trust_options` say."""
        incomplete = getattr(options, "accept_incomplete", False)
        return cls(options.trust, options.accept_policy, incomplete, options.accept_verdicts)

    def terms(self) -> list[str | bool | None]:
        """Digests of what is trusted: the file of the default policy, which a later release may change, first.

        Raises: `UserError`.
        """
        from manifests.proof.policy import DEFAULT_POLICY, load_policy

        if self.key is not None and not self.key.is_file():
            raise UserError(f"{self.key}: no such file; --trust names a public key (PEM)")
        if self.verdicts is not None and not self.verdicts.is_file():
            raise UserError(f"{self.verdicts}: no such file; --accept-verdicts names one that prove --verdicts reads")
        key, verdicts = (None if path is None else file_sha256(path).hex() for path in (self.key, self.verdicts))
        policy = None if self.policy is None else load_policy(self.policy).sha256
        return [file_sha256(DEFAULT_POLICY).hex(), key, policy, self.incomplete, verdicts]


def check_proof(proof: Path, trust: Trust) -> dict[str, Any]:
    """The certificate in the folder `proof`, if all that can be checked of it at a start holds.

    Whether it covers the builds, is complete and leaves nothing is for the caller to say. Raises: `CertificateError`.
    """
    from manifests.proof.policy import parse_policy

    path = proof / CERTIFICATE
    document = read_certificate(proof)
    if trust.key is not None:
        check_signature(proof, trust.key)
    policy = parse_policy(document["policy"], f"{path}, policy")
    if policy.sha256 != document["policy_sha256"]:
        raise CertificateError(f"{path}: its policy does not match policy_sha256; run python -m manifests.prove again")
    _check_policy(path, policy, trust)
    _check_verdicts(path, document["verdicts"], trust)
    benchmarks = document["benchmarks"]
    told = sorted(one["name"] for one in (*benchmarks["held"], *benchmarks["missing"]))
    if told != sorted(one.name for one in policy.benchmarks):
        raise CertificateError(f"{path}: altered, its benchmarks are not those of its policy; prove again")
    roots = (bytes.fromhex(build["root"]) for build in document["builds"])
    if merkle_root(roots).hex() != document["builds_root"]:
        raise CertificateError(f"{path}: its builds do not match builds_root; run python -m manifests.prove again")
    check_files(proof, document)
    _check_exclusions(proof, document, policy)
    return document


def check_files(proof: Path, document: Mapping[str, Any]) -> None:
    """Raises: `CertificateError` where evidence, exclusions or what is common are not the certified files."""
    for name, file in FILES.items():
        if not (proof / file).is_file() or file_sha256(proof / file).hex() != document["files"][name]:
            raise CertificateError(
                f"{proof / file}: missing, or not the list of the certificate; run python -m manifests.prove again"
            )


def accepted(document: Mapping[str, Any]) -> list[str]:
    """What a user of this certificate has to accept, in words: for the screen, and records of what is made with it."""
    from manifests.proof.policy import load_policy

    own = document["policy_sha256"] != load_policy().sha256
    policy = [f"a policy other than the default ({document['policy_sha256'][:16]})"] * own
    verdicts = document["verdicts"] or {"wrong": 0}
    judged = [f"{plural(verdicts['wrong'], 'pair')} that a reviewer judged wrong"] * bool(verdicts["wrong"])
    return incomplete(document) + policy + judged


def _check_policy(path: Path, policy: Policy, trust: Trust) -> None:
    from manifests.proof.policy import load_policy

    if policy.sha256 not in {load_policy(file).sha256 for file in (None, trust.policy)}:
        named = f" nor {trust.policy}" if trust.policy else ""
        raise CertificateError(
            f"{path}: its policy ({policy.sha256[:16]}) is not the default{named}; prove again under the default, or "
            "name the file of the policy that it may be: --accept-policy FILE"
        )


def _check_verdicts(path: Path, said: Mapping[str, Any] | None, trust: Trust) -> None:
    file = path.with_name(VERDICTS_FILE)
    if said and (not file.is_file() or file_sha256(file).hex() != said["sha256"]):
        raise CertificateError(f"{file}: missing, or not the verdicts of the certificate; prove again")
    if said and said["wrong"] and said["sha256"] != trust.terms()[-1]:
        named = f", and {trust.verdicts} is another file" if trust.verdicts else ""
        raise CertificateError(
            f"{path}: nothing is taken out by {plural(said['wrong'], 'pair')} that a reviewer judged wrong{named}; "
            f"prove again without, or name the file: --accept-verdicts {file}"
        )


def _check_exclusions(proof: Path, document: Mapping[str, Any], policy: Policy) -> None:
    """Refuse actions, exclusions and a conclusion that do not follow from evidence, policy and verdicts."""
    evidence, exclusions = (sql_text(glob.escape(str(proof / file))) for file in (EVIDENCE_FILE, EXCLUSIONS_FILE))
    from manifests.proof.evidence import EXCLUSION_SUMS
    from manifests.proof.verdicts import lift, read_verdicts

    sources = {build["build"]: build["source"] for build in document["builds"]}
    said = document["verdicts"]
    with open_duckdb() as connection:
        connection.execute("CREATE TABLE builds (build VARCHAR, source VARCHAR)")
        connection.executemany("INSERT INTO builds VALUES (?, ?)", list(sources.items()))
        # The row's own action must not be read by the rules.
        connection.execute(
            f"""CREATE {"TABLE" if said else "VIEW"} acted AS
            SELECT *, {policy.action_sql()} AS action
            FROM (SELECT * EXCLUDE (action), action AS said FROM read_parquet({evidence}))
            LEFT JOIN (SELECT build AS train_build, source AS train_source FROM builds) USING (train_build)
            LEFT JOIN (SELECT build AS eval_build, source AS eval_source FROM builds) USING (eval_build)"""  # noqa: S608
        )
        if said:
            unused = {one["line"] for one in said["not_used"]}
            heeded = lift(connection, "acted", policy, read_verdicts(proof / VERDICTS_FILE)[0], skipped=unused)
            if heeded != {**{name: said[name] for name in heeded}, "not_used": []}:
                raise CertificateError(f"{proof / CERTIFICATE}: its verdicts do not do what it says; prove again")
        connection.execute(
            f"""CREATE VIEW said AS SELECT train_build, train_sample, reasons, evidence, eval_samples
            FROM read_parquet({exclusions})"""  # noqa: S608
        )
        connection.execute(
            f"""CREATE VIEW derived AS SELECT train_build, train_sample, {EXCLUSION_SUMS}
            FROM acted WHERE action = 'exclude' GROUP BY ALL"""  # noqa: S608
        )
        [[acted, differing, left]] = connection.execute(
            """SELECT (SELECT count(*) FROM acted WHERE action IS DISTINCT FROM said),
                      (SELECT count(*) FROM ((FROM said EXCEPT ALL FROM derived)
                                             UNION ALL (FROM derived EXCEPT ALL FROM said))),
                      (SELECT count(*) FROM acted ANTI JOIN said USING (train_build, train_sample)
                       WHERE action IN ('exclude', 'forbid'))"""
        ).fetchall()
    if acted:
        raise CertificateError(
            f"{proof / EVIDENCE_FILE}: {acted} rows do not carry the action that the policy gives them; prove again"
        )
    if differing:
        raise CertificateError(
            f"{proof / EXCLUSIONS_FILE}: {differing} rows are not what evidence and policy give; prove again"
        )
    if document["clean"] != (not left) or left != sum(row["pairs"] for row in document["after"]):
        raise CertificateError(f"{proof / CERTIFICATE}: says other than that {left} pairs are left; prove again")
