"""Which items of a benchmark the proof links to the training side: clean and contaminated items are scored apart.

An item is contaminated where evidence that the policy acts on (`exclude`, `forbid`) names it. Training on certified
shards leaves the excluded training samples out, so for such a model both parts are unseen and the split is a check; a
model trained elsewhere on the same public sources may well have seen them. Evidence at action `report` does not count.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from manifests.proof.certificate import CERTIFICATE, EVIDENCE_FILE, incomplete
from manifests.proof.trust import Trust, check_proof
from medgpt.messages import brief

COUNTED = ("exclude", "forbid")
"""Actions of the policy whose evidence makes an item contaminated."""


@dataclass(frozen=True)
class Proof:
    """What a proof says about test items."""

    root: str
    """Digest of the certificate."""
    builds: Mapping[str, str]
    """Name of each build that it covers, by root digest."""
    evidence: Mapping[tuple[str, str], tuple[str, ...]]
    """`level/kind`, sorted, by (build, sample)."""
    lacking: tuple[str, ...] = ()
    """What the certificate names as not compared, and that overlaps are left where they are, for a screen."""

    def covers(self, benchmark: str) -> bool:
        """Whether the build with this root digest was compared with the training side."""
        return benchmark in self.builds

    def of_item(self, benchmark: str, sample_id: str) -> tuple[bool | None, tuple[str, ...]]:
        """(contaminated, its evidence). (None, ()) for an item of a build that the proof does not cover."""
        build = self.builds.get(benchmark)
        if build is None:
            return None, ()
        found = self.evidence.get((build, sample_id), ())
        return bool(found), found


def read_proof(folder: Path, *, evidence: bool = True, trust: Trust = Trust()) -> Proof | None:  # noqa: B008 - immutable
    """The proof in a folder (`DATA/proof`), None where there is none; without evidence only what its certificate says.

    Raises: `manifests.proof.certificate.CertificateError` for what `manifests.proof.trust.check_proof` refuses.
    """
    if not (folder / CERTIFICATE).is_file():
        return None
    document = check_proof(folder, trust)
    found = _read_evidence(folder / EVIDENCE_FILE) if evidence else {}
    builds = {build["root"]: build["build"] for build in document["builds"]}
    left = [] if document["clean"] else ["overlapping pairs are left after the exclusions, so nothing is proved"]
    return Proof(document["root"], builds, found, (*left, *map(brief, incomplete(document))))


def _read_evidence(path: Path) -> dict[tuple[str, str], tuple[str, ...]]:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path, columns=["action", "level", "kind", "eval_build", "eval_sample"])
    table = table.filter(pc.is_in(table["action"], value_set=pa.array(COUNTED)))
    pairs = table.group_by(["eval_build", "eval_sample", "level", "kind"]).aggregate([])
    evidence: dict[tuple[str, str], set[str]] = {}
    for row in pairs.to_pylist():
        evidence.setdefault((row["eval_build"], row["eval_sample"]), set()).add(f"{row['level']}/{row['kind']}")
    return {item: tuple(sorted(kinds)) for item, kinds in evidence.items()}
