"""`manifests.verify` catches what a forger may do, also one who makes every digest fit again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_module

from manifests.catalog import connect, load_builds
from manifests.certificate import certificate_root, read_certificate
from manifests.digest import build_root, file_sha256, merkle_root
from manifests.policy import parse_policy
from manifests.prove import ProofError, render_report
from manifests.report import ReportError
from manifests.verify import main, verify

Row = dict[str, Any]
BUILDS = (("slake", ()), ("medqa", ()), ("pubmedqa", ("--paper-variant",)))


@pytest.fixture(scope="module")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three demo builds with leaks at every level, proved and signed."""
    folder = tmp_path_factory.mktemp("tampering")
    data = folder / "data"
    for name, options in BUILDS:
        raw = str(folder / "raw" / name)
        done = run_module(f"builders.{name}", "--demo", "--raw", raw, "--out", str(data), "--quiet", *options)
        assert done.returncode == 0, done.stderr
    for name in ("key", "other"):
        pem = str(folder / f"{name}.pem")
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", pem], check=True, capture_output=True)
        public = str(folder / f"{name}.pub")
        subprocess.run(["openssl", "pkey", "-in", pem, "-pubout", "-out", public], check=True, capture_output=True)
    done = run_module("manifests.prove", str(data), "--quiet", "--sign", str(folder / "key.pem"))
    assert done.returncode == 0, done.stderr
    levels = set(pq.read_table(data / "proof" / "evidence.parquet", columns=["level"])[0].to_pylist())
    assert levels == {"id", "exact_image", "exact_text", "near_image", "near_text"}
    return folder


@pytest.fixture
def data(proved: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    return Path(shutil.copytree(proved / "data", tmp_path / "data"))


def test_an_untouched_proof_is_verified_in_full_and_by_sample(proved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    public = str(proved / "key.pub")
    assert main([str(proved / "data"), "--quiet", "--public-key", public]) == 0
    assert "Verified in full" in capsys.readouterr().out
    assert main([str(proved / "data"), "--sample", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is True
    assert all(step["looked_at"] > 0 for step in found["steps"])


# ruff: noqa: E501 - one forgery a line reads as a table
# ---- what a forger can do


def documents(data: Path) -> list[Path]:
    return sorted(path for path in data.glob("*/build.json"))


def reseal(data: Path) -> None:
    """Make every digest fit what is there now: files, builds, certificate; and render the report again."""
    for path in documents(data):
        record = json.loads(path.read_bytes())
        for unit in record["units"]:
            for file in unit["shards"] + unit["parts"]:
                whole = path.parent / file["file"]
                file["bytes"], file["sha256"] = whole.stat().st_size, file_sha256(whole).hex()
        record["root"] = build_root(record)
        path.write_bytes(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))
    builds = load_builds(data)
    proof = data / "proof"
    certificate = json.loads((proof / "certificate.json").read_bytes())
    roots = {build.record["build"]: build.record["root"] for build in builds}
    kept = {role: Counter({b.record["build"]: sum(u["kept"] for u in b.record["units"] if u["role"] == role)
                           for b in builds}) for role in ("train", "eval")}  # fmt: skip
    for build in certificate["builds"]:
        build["root"] = roots[build["build"]]
        build["samples"] = {role: kept[role][build["build"]] for role in kept}
    certificate["builds_root"] = merkle_root(bytes.fromhex(build.record["root"]) for build in builds).hex()
    certificate["files"] = {name: file_sha256(proof / f"{name}.parquet").hex() for name in certificate["files"]}
    certificate["policy_sha256"] = parse_policy(certificate["policy"]).sha256
    seal(data, certificate)
    # The page refuses to show counts that contradict the evidence.
    with connect(data) as connection, contextlib.suppress(ReportError, ProofError):
        render_report(connection, builds, proof, read_certificate(proof))


def seal(data: Path, certificate: Row) -> None:
    certificate["root"] = certificate_root(certificate)
    path = data / "proof" / "certificate.json"
    path.write_bytes(orjson.dumps(certificate, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n")


def certify(change: Callable[[Row], None]) -> Callable[[Path], None]:
    """Change the certificate and give it the root that then fits."""

    def forge(data: Path) -> None:
        certificate = json.loads((data / "proof" / "certificate.json").read_bytes())
        change(certificate)
        seal(data, certificate)

    return forge


def rows(name: str, change: Callable[[list[Row]], None]) -> Callable[[Path], None]:
    """Change the rows of a Parquet file (a glob below the data folder)."""

    def forge(data: Path) -> None:
        path = sorted(data.glob(name))[0]
        schema = pq.read_schema(path)
        content = pq.read_table(path).to_pylist()
        before = repr(content)
        change(content)
        assert repr(content) != before
        pq.write_table(pa.Table.from_pylist(content, schema), path)

    return forge


def flip(name: str) -> Callable[[Path], None]:
    def forge(data: Path) -> None:
        path = sorted(data.glob(name))[0]
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 4
        path.write_bytes(content)

    return forge


def first(content: list[Row], **values: Any) -> Row:
    return next(row for row in content if all(row[name] == value for name, value in values.items()))


def set_first(name: str, column: str, value: Callable[[Row], Any], **where: Any) -> Callable[[Path], None]:
    def change(content: list[Row]) -> None:
        row = first(content, **where)
        row[column] = value(row)

    return rows(name, change)


def swap_thumbnails(content: list[Row]) -> None:
    one, other = content[0], next(row for row in content if row["thumbnail"] != content[0]["thumbnail"])
    one["thumbnail"], other["thumbnail"] = other["thumbnail"], one["thumbnail"]


def remove_evidence(data: Path) -> None:
    """Of one train sample everything goes: evidence, exclusion, and the counts that follow."""
    rows("proof/evidence.parquet", lambda content: content.remove(first(content, level="near_text")))(data)


def rename_a_build(data: Path) -> None:
    shutil.copytree(data / "medqa", data / "medqa.more")
    path = data / "medqa.more" / "build.json"
    record = json.loads(path.read_bytes()) | {"build": "medqa.more"}
    record["root"] = build_root(record)
    path.write_bytes(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))


def count_one_more(data: Path) -> None:
    path = data / "medqa" / "build.json"
    record = json.loads(path.read_bytes())
    record["units"][0]["kept"] += 1
    record["units"][0]["read"] += 1
    path.write_bytes(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))


def swap_roles(data: Path) -> None:
    """Tests become training samples on paper, so that nothing overlaps them any more."""
    path = data / "medqa" / "build.json"
    record = json.loads(path.read_bytes())
    for unit in record["units"]:
        if unit["role"] == "eval":
            unit["role"] = "train"
    path.write_bytes(orjson.dumps(record, option=orjson.OPT_SORT_KEYS))


def reword_a_question(data: Path) -> None:
    """One letter of a stored question, and the record's digest in the manifest."""
    part = sorted(p for p in data.glob("slake/manifest/*train*.parquet") if not p.name.endswith(".images.parquet"))[0]
    content = pq.read_table(part).to_pylist()
    row = content[0]
    shard = data / "slake" / "shards" / row["shard"]
    bytes_ = bytearray(shard.read_bytes())
    at = slice(row["offset"], row["offset"] + row["length"])
    record = orjson.loads(bytes(bytes_[at]))
    letter = "z" if record["question"][1] != "z" else "y"
    record["question"] = record["question"][0] + letter + record["question"][2:]
    changed = orjson.dumps(record)
    assert len(changed) == row["length"]
    bytes_[at] = changed
    shard.write_bytes(bytes_)
    row["sha256"] = hashlib.sha256(changed).digest()
    pq.write_table(pa.Table.from_pylist(content, pq.read_schema(part)), part)


@dataclass(frozen=True)
class Forgery:
    forge: Callable[[Path], None]
    says: str
    """Part of a finding."""
    resealed: bool = False
    """Whether every digest is made to fit afterwards."""


EVIDENCE, EXCLUSIONS = "proof/evidence.parquet", "proof/exclusions.parquet"
IMAGES, SAMPLES = "slake/manifest/*train*.images.parquet", "medqa/manifest/*train*[0-9].parquet"

FORGERIES = {
    "a byte in a shard": Forgery(flip("slake/shards/*.tar"), "altered"),
    "a byte in an Arrow shard": Forgery(flip("medqa/shards/*.arrow"), "altered"),
    "a byte in a manifest part": Forgery(flip(IMAGES), "altered"),
    "a byte in a reject part": Forgery(flip("slake/rejects/*.parquet"), "altered"),
    "a shard removed": Forgery(lambda data: sorted(data.glob("slake/shards/*"))[0].unlink(), "missing"),
    "a part removed": Forgery(lambda data: sorted(data.glob("slake/manifest/*"))[0].unlink(), "not there"),
    "a stray shard": Forgery(lambda data: (data / "slake/shards/more.tar").write_bytes(b"x") and None, "not part of"),
    "a build removed": Forgery(lambda data: shutil.rmtree(data / "medqa"), "certified, but not under"),
    "a build added": Forgery(rename_a_build, "not in the certificate"),
    "a count in build.json": Forgery(count_one_more, "does not match its root"),
    "a count in build.json, resealed": Forgery(count_one_more, "were kept", resealed=True),
    "evidence removed": Forgery(remove_evidence, "is missing", resealed=True),
    "evidence added": Forgery(
        rows(EVIDENCE, lambda content: content.append(content[-1] | {"eval_sample": content[0]["eval_sample"]})),
        "cannot be derived", resealed=True,
    ),
    "evidence altered, digests left": Forgery(set_first(EVIDENCE, "score", lambda row: 0.5, level="near_image"), "altered"),
    "a distance": Forgery(set_first(EVIDENCE, "distance", lambda row: row["distance"] + 2, level="near_image"), "near_image", True),
    "a score": Forgery(set_first(EVIDENCE, "score", lambda row: row["score"] / 2, kind="run"), "near_text", True),
    "an id": Forgery(set_first(EVIDENCE, "value", lambda row: row["value"] + "0", level="id"), "level id", True),
    "an action": Forgery(set_first(EVIDENCE, "action", lambda row: "report", action="exclude"), "the policy says exclude", True),
    "an exclusion removed": Forgery(rows(EXCLUSIONS, lambda content: content.pop()), "exclusion is missing", True),
    "an exclusion added": Forgery(
        rows(EXCLUSIONS, lambda content: content.append(content[0] | {"train_sample": "medqa/train/0"})),
        "exclusion cannot be derived", True,
    ),
    "a reason": Forgery(set_first(EXCLUSIONS, "reasons", lambda row: ["id/pmid"], train_build="slake"), "exclusion", True),
    "a count in the matrix": Forgery(certify(lambda c: c["matrix"][0].update(pairs=1_000)), "matrix row"),
    "a total": Forgery(certify(lambda c: c["train_totals"][0].update(train_samples=7)), "train_totals row"),
    "runs": Forgery(certify(lambda c: c["runs"].update({"8": 0})), "runs of 8 words"),
    "clean": Forgery(certify(lambda c: c.update(clean=False)), "clean is False"),
    "what is left out": Forgery(certify(lambda c: c.update(left_out_of_near_text=[])), "left_out_of_near_text"),
    "pictures without pixels": Forgery(
        certify(lambda c: c["without_pixels"].append({"build": "slake", "role": "train", "images": 3})), "without_pixels"
    ),
    "a policy that reports": Forgery(
        certify(lambda c: [rule.update(action="report") for rule in c["policy"]["rules"][:2]] and None),
        "the policy says report", True,
    ),
    "a policy's digest": Forgery(certify(lambda c: c.update(policy_sha256="00" * 32)), "policy_sha256"),
    "a looser threshold": Forgery(
        certify(lambda c: c["policy"]["images"]["default"].update(threshold=1.0)), "near_image cannot be derived", True
    ),
    "a rule's digest": Forgery(certify(lambda c: c["rules"].update({"manifests/hamming.py": "00" * 32})), "another version"),
    "coverage": Forgery(certify(lambda c: c.update(coverage={"transformations": []})), "coverage"),
    "the builds' root": Forgery(certify(lambda c: c.update(builds_root="00" * 32)), "builds_root"),
    "another format": Forgery(certify(lambda c: c.update(format=99)), "not a certificate of format"),
    "a byte in the certificate": Forgery(
        lambda data: (data / "proof/certificate.json").write_bytes(
            (data / "proof/certificate.json").read_bytes().replace(b'"clean": true', b'"clean": false')
        ) and None, "altered",
    ),
    "a perceptual hash": Forgery(set_first(IMAGES, "phash", lambda row: row["phash"] ^ 3), "phash of picture 0", True),
    "a pixel digest": Forgery(set_first(IMAGES, "pixel_sha256", lambda row: bytes(32)), "pixel_sha256 of picture 0", True),
    "thumbnails swapped": Forgery(rows(IMAGES, swap_thumbnails), "thumbnail of picture", True),
    "a picture's name": Forgery(set_first(IMAGES, "image_id", lambda row: "slake/other"), "image_id of picture 0", True),
    "a question's digest": Forgery(
        set_first("medqa/manifest/*train*[0-9].parquet", "stem_options_sha256", lambda row: bytes(32)), "stem_sha256 or", True
    ),
    "a PMID": Forgery(set_first("pubmedqa.paper/manifest/*train*[0-9].parquet", "pmid", lambda row: "pubmed/1"), "pmid is", True),
    "a question reworded": Forgery(reword_a_question, "does not follow from the question", True),
    "roles swapped": Forgery(swap_roles, "role is", True),
    "common n-grams": Forgery(
        lambda data: pq.write_table(
            pa.Table.from_pylist([{"ngram": "a b c d e f g h", "eval_df": 40, "train_samples": 2}],
                                 pq.read_schema(data / "proof/common.parquet")), data / "proof/common.parquet",
        ), "common n-gram", True,
    ),
    "the report": Forgery(
        lambda data: (data / "proof/report.html").write_bytes((data / "proof/report.html").read_bytes() + b" ") and None,
        "not what the proof's files show",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_caught_and_named(data: Path, name: str) -> None:
    forgery = FORGERIES[name]
    forgery.forge(data)
    if forgery.resealed:
        reseal(data)
    findings = [finding for step in verify(data, data / "proof") for finding in step.findings]
    assert any(forgery.says in finding for finding in findings), findings


def test_a_signature_of_another_key_is_no_signature(
    proved: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(data), "--quiet", "--public-key", str(proved / "other.pub")]) == 1
    assert "not this key's signature" in capsys.readouterr().out
    (data / "proof" / "certificate.json.sig").unlink()
    assert main([str(data), "--quiet", "--public-key", str(proved / "key.pub")]) == 1
    assert main([str(data), "--quiet", "--public-key", str(proved / "absent.pub")]) == 1


def test_without_a_certificate_there_is_nothing_to_verify(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(data / "proof")
    assert main([str(data)]) == 2
    assert "run python -m manifests.prove" in capsys.readouterr().err
