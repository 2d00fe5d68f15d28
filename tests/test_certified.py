"""`shards.certified`: exactly the samples that may be used, found where they are; and all that is refused."""

from __future__ import annotations

import base64
import functools
import json
import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT

from builders.engine.command import main as build
from builders.engine.registry import load
from manifests.proof.certificate import read_certificate, sign, write_certificate
from manifests.proof.policy import DEFAULT_POLICY, load_policy, parse_policy
from manifests.proof.trust import Trust
from manifests.prove import prove
from medgpt.digest import build_root, file_sha256, merkle_root
from medgpt.errors import UserError
from shards.certified import Certified
from shards.certified import load_certified as load_any
from shards.reader import Build

BUILDS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("vqa_rad", ()), ("pubmedqa", ()), ("pubmedqa", ("--paper-variant",)), ("medqa", ()), ("mmlu_med", ()),
)  # fmt: skip


load_certified = functools.partial(load_any, trust=Trust(incomplete=True))
"""Demo trees hold no benchmark whole."""


@pytest.fixture(scope="session")
def proved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Builds with and without pictures under a proof that excludes some samples of one and none of others."""
    data = tmp_path_factory.mktemp("certified")
    for name, options in BUILDS:
        raw = data / "raw" / name
        demo = [] if raw.exists() else ["--demo"]
        arguments = [*demo, *options, "--raw", str(raw), "--out", str(data / "built"), "--workers", "1", "--quiet"]
        assert build(load(name), arguments) in (0, 3)
    shutil.rmtree(data / "raw")
    assert prove(data, data / "proof", load_policy())["clean"]
    shutil.rmtree(data / "proof" / ".work")
    return data


@pytest.fixture
def data(proved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    shutil.copytree(proved, tmp_path / "data")
    return tmp_path / "data"


def excluded(data: Path, build_name: str) -> set[str]:
    rows = pq.read_table(data / "proof" / "exclusions.parquet").to_pylist()
    return {row["train_sample"] for row in rows if row["train_build"] == build_name}


def everything(certified: Certified) -> dict[str, list[str]]:
    return {name: source.ids(np.arange(len(source))) for name, source in certified.sources.items()}


def naive(
    data: Path, drop: Callable[[str, dict[str, Any]], bool] = lambda _build, _record: False
) -> dict[str, list[str]]:
    """Train samples less exclusions, by the reader and plain sets, in shard order."""
    found = {}
    for folder in sorted((data / "built").iterdir()):
        if not (folder / "build.json").is_file():
            continue
        if not any(
            u["role"] == "train" and u["kept"] for u in json.loads((folder / "build.json").read_bytes())["units"]
        ):
            continue
        out = excluded(data, folder.name)
        records = [sample.record for sample in Build(folder, role="train")]
        found[folder.name] = [r["id"] for r in records if r["id"] not in out and not drop(folder.name, r)]
    return found


def test_train_samples_less_exclusions_and_nothing_else(data: Path) -> None:
    certified = load_certified(data)
    expected = naive(data)
    assert everything(certified) == expected
    assert any(excluded(data, name) for name in expected), "the demo plants leaks"
    assert list(certified.sources) == sorted(expected)
    assert certified.digest == certified.certificate == read_certificate(data / "proof")["root"]
    assert len(certified) == sum(map(len, expected.values()))


def test_places_lead_to_the_stored_bytes_and_numbers(data: Path) -> None:
    certified = load_certified(data)
    pictures = 0
    for name, source in certified.sources.items():
        reader = Build(data / "built" / name, role="train")
        rows = {}
        for part in sorted((data / "built" / name / "manifest").glob("*.parquet")):
            rows |= {row["sample_id"]: row for row in pq.read_table(part).to_pylist()}
        # Any order, and a sample twice.
        indices = np.concatenate((np.random.default_rng(0).permutation(len(source)), [0]))
        places, ids = source.places(indices), source.ids(indices)
        shards, ordinals = source.locate(indices)
        assert np.array_equal(shards, places.shard)
        assert np.array_equal(source.tokens[indices], [rows[sample]["text_tokens"] for sample in ids])
        assert np.array_equal(source.tiles[indices], [rows[sample]["tiles"] or 0 for sample in ids])
        picture = 0
        for place, sample in enumerate(ids):
            expected = reader[reader.find(sample)]
            shard = source.shards[places.shard[place]]
            file = data / shard.path
            assert shard.size == file.stat().st_size
            assert shard.sha256 == file_sha256(file).hex()
            assert places.images[place] == len(expected.images)
            if file.suffix == ".tar":
                stored = file.read_bytes()
                offset, length = places.offset[place], places.length[place]
                assert orjson.loads(stored[offset : offset + length]) == expected.record
                for image in expected.images:
                    offset, length = places.image_offset[picture], places.image_length[picture]
                    assert stored[offset : offset + length] == image
                    picture += 1
            else:
                assert pa.ipc.open_file(file).read_all().slice(places.offset[place], 1).to_pylist()[0]["id"] == sample
                assert ordinals[place] == places.offset[place]
        assert picture == len(places.image_offset)
        pictures += picture
        counts = np.bincount(source.locate(np.arange(len(source)))[0], minlength=len(source.shards))
        assert np.array_equal(source.shard_counts, counts)
    assert pictures


def test_rows_count_all_samples_of_a_tar_shard(data: Path) -> None:
    source = load_certified(data).sources["vqa_rad"]
    stored = Build(data / "built" / "vqa_rad", role="train").ids
    shard, row = source.locate(np.arange(len(source)))
    firsts = np.cumsum([0] + [s.samples for s in source.shards])
    assert [stored[firsts[s] + r] for s, r in zip(shard, row, strict=True)] == source.ids(np.arange(len(source)))


def test_licences_stage_and_an_uncertified_folder(data: Path) -> None:
    licence = "CC0-1.0"
    plain, limited = load_certified(data), load_certified(data, licenses=[licence])
    assert everything(limited) == naive(data, lambda _build, record: record["license"] != licence)
    assert len(limited) < len(plain)
    assert limited.digest != plain.digest
    assert load_certified(data, licenses=[licence, licence]).digest == limited.digest
    assert load_certified(data, stage="instruct").digest == plain.digest
    with pytest.raises(UserError, match="no train samples of stage pretrain"):
        load_certified(data, stage="pretrain")
    shutil.rmtree(data / "proof")
    with pytest.raises(UserError, match=r"no certificate; run python -m manifests\.prove"):
        load_certified(data)
    free = load_certified(data, uncertified=True)
    assert free.digest.startswith("uncertified-")
    assert free.certificate is None
    assert len(free) > len(plain)


def write_selection(data: Path, name: str, drop: set[str]) -> None:
    """What `filters.decide` writes, as `manifests.selections` describes it."""
    folder = data / "filtered" / name
    folder.mkdir(parents=True)
    ids = Build(data / "built" / name, role="train").ids
    root = json.loads((data / "built" / name / "build.json").read_bytes())["root"]
    table = pa.table({"sample_id": ids, "kept": [sample not in drop for sample in ids]})
    pq.write_table(table.replace_schema_metadata({"root": root, "recipe_sha256": "r"}), folder / "selection.parquet")
    waterfall = {
        "selection_sha256": file_sha256(folder / "selection.parquet").hex(), "root": root, "read": len(ids),
        "dropped": len(drop), "recipe": {"sha256": "r"}, "role": "train",
    }  # fmt: skip
    (folder / "waterfall.json").write_text(json.dumps(waterfall))


def test_what_filters_took_out_is_not_there(data: Path) -> None:
    before = load_certified(data)
    name = "pubmedqa.paper"
    # One that the proof excludes, too, and one that it does not.
    drop = {sorted(excluded(data, name))[0], before.sources[name].ids(np.array([3]))[0]}
    write_selection(data, name, drop)
    after = load_certified(data)
    assert everything(after) == naive(data, lambda build, record: build == name and record["id"] in drop)
    assert after.digest != before.digest
    assert after.certificate == before.certificate
    (data / "filtered" / name / "waterfall.json").unlink()
    with pytest.raises(UserError, match="filtering was begun and not finished"):
        load_certified(data)
    shutil.rmtree(data / "filtered")
    assert load_certified(data).digest == before.digest


def edit_build(data: Path, name: str, **changes: Any) -> None:
    path = data / "built" / name / "build.json"
    document = json.loads(path.read_bytes()) | changes
    document["root"] = build_root(document)
    path.write_text(json.dumps(document))


def remove_from_certificate(data: Path) -> None:
    document = read_certificate(data / "proof")
    document["builds"] = [entry for entry in document["builds"] if entry["build"] != "medqa"]
    document["builds_root"] = merkle_root(bytes.fromhex(entry["root"]) for entry in document["builds"]).hex()
    write_certificate(data / "proof", document)


def leave_overlap(data: Path) -> None:
    """Evidence that the policy forbids, in all files alike."""
    document = read_certificate(data / "proof")
    document["policy"]["rules"] = [{"level": "id", "action": "forbid"}]
    reforge(data, document, lambda row: row.update(action="forbid" if row["level"] == "id" else "report"))


def reforge(data: Path, document: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> None:
    """Evidence after a change of its rows, and all that follows from it and from the document's policy."""
    evidence = pq.read_table(data / "proof" / "evidence.parquet")
    rows = evidence.to_pylist()
    for row in rows:
        change(row)
    pq.write_table(pa.Table.from_pylist(rows, evidence.schema), data / "proof" / "evidence.parquet")
    taken: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        if row["action"] == "exclude":
            taken.setdefault((row["train_build"], row["train_sample"]), []).append(row)
    exclusions = [
        {"train_build": name, "train_sample": sample, "unit": "u", "evidence": len(of),
         "reasons": sorted({f"{row['level']}/{row['kind']}" for row in of}),
         "eval_samples": len({(row["eval_build"], row["eval_sample"]) for row in of})}
        for (name, sample), of in sorted(taken.items())
    ]  # fmt: skip
    path = data / "proof" / "exclusions.parquet"
    pq.write_table(pa.Table.from_pylist(exclusions, pq.read_schema(path)), path)
    left = [
        row for row in rows
        if row["action"] in ("exclude", "forbid") and (row["train_build"], row["train_sample"]) not in taken
    ]  # fmt: skip
    document["after"] = [{"level": "id", "kind": "all", "action": "forbid", "pairs": len(left)}] if left else []
    document["clean"] = not left
    document["policy_sha256"] = parse_policy(document["policy"]).sha256
    (data / "policy.yaml").write_text(yaml.safe_dump(document["policy"]))
    seal(data, document)


def seal(data: Path, document: dict[str, Any]) -> None:
    """Write the certificate with the digests that its files have."""
    for name in ("evidence", "exclusions"):
        document["files"][name] = file_sha256(data / "proof" / f"{name}.parquet").hex()
    write_certificate(data / "proof", document)


def drop_an_exclusion(data: Path) -> None:
    """A training sample is kept, and every digest is made anew."""
    path = data / "proof" / "exclusions.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(1), path)
    seal(data, read_certificate(data / "proof"))


def act_otherwise(data: Path) -> None:
    """One piece of evidence is only reported, and the exclusions follow."""
    reforge(data, read_certificate(data / "proof"), lambda row: row.update(action="report"))


def weaken(data: Path) -> None:
    """A policy that takes less out, and all that follows from it."""
    document = read_certificate(data / "proof")
    document["policy"]["rules"] = [{"level": "exact_image", "action": "exclude"}]
    reforge(data, document, lambda row: row.update(action="exclude" if row["level"] == "exact_image" else "report"))


def edited_certificate(**changes: Any) -> Callable[[Path], None]:
    return lambda data: write_certificate(data / "proof", read_certificate(data / "proof") | changes)


def alter_manifest(data: Path) -> None:
    path = next((data / "built" / "vqa_rad" / "images").glob("vqa_rad-train*.parquet"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shard_of(data: Path) -> Path:
    return next((data / "built" / "vqa_rad" / "shards").glob("vqa_rad-train*.tar"))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "not covered": (remove_from_certificate, "does not cover the build medqa"),
    "another build": (lambda data: edit_build(data, "medqa", limit=7), "covers another build of medqa"),
    "altered certificate": (
        lambda data: (data / "proof" / "certificate.json").write_text(
            (data / "proof" / "certificate.json").read_text().replace('"clean": true', '"clean":  false')
        ),
        "altered",
    ),
    "overlap left": (leave_overlap, "overlapping pairs are left"),
    "an exclusion dropped": (drop_an_exclusion, "1 rows are not what evidence and policy give"),
    "actions changed": (act_otherwise, "do not carry the action that the policy gives them"),
    "weaker policy": (weaken, "is not the default"),
    "policy's digest": (edited_certificate(policy_sha256="00" * 32), "does not match policy_sha256"),
    "builds_root": (edited_certificate(builds_root="00" * 32), "do not match builds_root"),
    "verdict": (edited_certificate(clean=False, after=[{"pairs": 3}]), "says other than that 0 pairs are left"),
    "other evidence": (
        lambda data: shutil.copy(data / "proof" / "exclusions.parquet", data / "proof" / "evidence.parquet"),
        "not the list of the certificate",
    ),
    "other exclusions": (
        lambda data: shutil.copy(data / "proof" / "evidence.parquet", data / "proof" / "exclusions.parquet"),
        "not the list of the certificate",
    ),
    "no exclusions": (lambda data: (data / "proof" / "exclusions.parquet").unlink(), "missing, or not the list"),
    "altered manifest": (alter_manifest, "altered since it was built"),
    "shard missing": (lambda data: shard_of(data).unlink(), "missing; restore it"),
    "shard truncated": (lambda data: shard_of(data).write_bytes(b"short"), "5 bytes where"),
    "no builds": (lambda data: shutil.rmtree(data / "built"), "run a builder first"),
}


@pytest.mark.parametrize(
    ("damage", "message", "opened_before"),
    [
        pytest.param(damage, message, before, id=f"{name}, {'later' if before else 'first'} start")
        for name, (damage, message) in REFUSED.items()
        for before in (False, True)
        # What was written before does not rest on the manifest part any more.
        if not (before and damage is alter_manifest)
    ],
)
def test_refused_with_one_line(data: Path, damage: Callable[[Path], Any], message: str, opened_before: bool) -> None:
    if opened_before:
        load_certified(data)
    damage(data)
    # That of the overlap left is named, so that it is not what is refused.
    named = data / "policy.yaml" if damage is leave_overlap else None
    with pytest.raises(UserError) as raised:
        load_certified(data, trust=Trust(policy=named, incomplete=True))
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metadata_only": True}, "built without pictures"),
        ({"parameters": {"pictures_stored": False}}, "holds no pictures and cannot be streamed"),
    ],
)
def test_builds_without_pictures_are_refused(data: Path, changes: dict[str, Any], message: str) -> None:
    edit_build(data, "vqa_rad", **changes)
    with pytest.raises(UserError, match=message):
        load_certified(data, uncertified=True)


def test_a_build_json_that_was_edited_is_refused(data: Path) -> None:
    path = data / "built" / "vqa_rad" / "build.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"parameters": document["parameters"] | {"limit": 9999}}))
    with pytest.raises(UserError, match="does not match its root digest"):
        load_certified(data, uncertified=True)


def test_an_incomplete_certificate_and_another_policy_are_taken_where_they_are_named(data: Path) -> None:
    with pytest.raises(UserError, match=r"incomplete, .*not held, or not whole: 14 \(cert.*--accept-incomplete"):
        load_any(data)
    assert "not whole: MedXQA" in " ".join(load_certified(data).accepted)
    weaken(data)
    named = load_certified(data, trust=Trust(policy=data / "policy.yaml", incomplete=True))
    assert "a policy other than the default" in " ".join(named.accepted)
    assert everything(named) == naive(data)
    with pytest.raises(UserError, match="is not the default; prove again under the default, or name"):
        load_certified(data)


def test_a_trusted_key_must_have_signed_what_is_there(data: Path, tmp_path: Path) -> None:
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    for name in ("ours", "theirs"):
        key = ed25519.Ed25519PrivateKey.generate()
        plain = serialization.NoEncryption()
        secret = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
        (tmp_path / f"{name}.pem").write_bytes(secret)
        public = serialization.PublicFormat.SubjectPublicKeyInfo
        (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(serialization.Encoding.PEM, public))
    ours, theirs = (Trust(key=tmp_path / f"{name}.pub", incomplete=True) for name in ("ours", "theirs"))
    with pytest.raises(UserError, match=r"certificate\.dsse\.json: No such file"):
        load_certified(data, trust=ours)
    sign(data / "proof", tmp_path / "ours.pem")
    assert everything(load_certified(data, trust=ours)) == naive(data)
    envelope = json.loads((data / "proof" / "certificate.dsse.json").read_bytes())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert envelope["payloadType"] == "application/vnd.in-toto+json"
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert base64.b64decode(envelope["payload"]) == (data / "proof" / "certificate.json").read_bytes()
    exclusions = file_sha256(data / "proof" / "exclusions.parquet").hex()
    assert {"name": "exclusions.parquet", "digest": {"sha256": exclusions}} in statement["subject"]
    built = json.loads((data / "built" / "medqa" / "build.json").read_bytes())
    assert built["root"] in [one["digest"].get("merkleSha256") for one in statement["subject"]]
    assert built["inputs"]["sha256"] in [one["digest"]["sha256"] for one in statement["predicate"]["materials"]]
    with pytest.raises(UserError, match="not this key's signature"):
        load_certified(data, trust=theirs)
    # Everything is forged again, but for the signature.
    old = (data / "proof" / "certificate.dsse.json").read_bytes()
    edited_certificate(software={})(data)
    (data / "proof" / "certificate.dsse.json").write_bytes(old)
    with pytest.raises(UserError, match="not the envelope of this certificate"):
        load_certified(data, trust=ours)
    (data / "proof" / "certificate.dsse.json").write_bytes(b"{}")
    with pytest.raises(UserError, match="no DSSE envelope"):
        load_certified(data, trust=ours)
    with pytest.raises(UserError, match="give one of them"):
        load_any(data, uncertified=True, trust=ours)


def test_a_store_needs_no_shards_here(data: Path) -> None:
    shard_of(data).unlink()
    assert everything(load_certified(data, check_shards=False)) == everything(load_certified(data, check_shards=False))


def test_a_later_start_reads_no_manifest_and_a_change_is_seen(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load_certified(data)
    ids = everything(first)

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a manifest was read")

    with monkeypatch.context() as patched:
        patched.setattr("shards.certified.pq.read_table", refuse)
        patched.setattr("shards.certified.load_builds", refuse)
        again = load_certified(data)
        assert again.digest == first.digest
        assert [len(s) for s in again.sources.values()] == [len(s) for s in first.sources.values()]
    shutil.copytree(data / "built" / "medqa", data / "built" / "medqa.copy")
    edit_build(data, "medqa.copy", build="medqa.copy")
    with pytest.raises(UserError, match=r"does not cover the build medqa\.copy"):
        load_certified(data)
    shutil.rmtree(data / "built" / "medqa.copy")
    assert everything(load_certified(data)) == ids


def test_numbers_may_be_deleted_and_damage_to_them_is_seen(data: Path) -> None:
    ids = everything(load_certified(data))
    numbers = {
        path.relative_to(data): path.read_bytes() for path in sorted((data / ".streams" / "samples").rglob("*.int*"))
    }
    shutil.rmtree(data / ".streams")
    assert everything(load_certified(data)) == ids
    for path, content in numbers.items():
        assert (data / path).read_bytes() == content, "not the same bytes again"
    damaged = max(numbers, key=lambda path: len(numbers[path]))
    content = bytearray(numbers[damaged])
    content[8] ^= 1
    (data / damaged).write_bytes(content)
    with pytest.raises(UserError, match=r"damaged; delete the folder"):
        load_certified(data)
    shutil.rmtree((data / damaged).parent)
    assert everything(load_certified(data)) == ids


def test_numbers_of_other_samples_under_this_ones_name_are_refused(data: Path) -> None:
    """A copy of what an uncertified start wrote would bring back every sample that the proof excludes."""
    ids = everything(load_certified(data))
    before = set((data / ".streams/samples").iterdir())
    load_certified(data, uncertified=True, trust=Trust())
    for ours in before:
        [other] = [p for p in (data / ".streams/samples").glob(f"{ours.name.rpartition('-')[0]}-*") if p not in before]
        shutil.rmtree(ours)
        shutil.copytree(other, ours)
    with pytest.raises(UserError, match="of something else than its name says; delete the folder"):
        load_certified(data)
    shutil.rmtree(data / ".streams")
    assert everything(load_certified(data)) == ids


def test_a_build_that_is_finished_in_a_folder_that_was_there_is_seen(data: Path) -> None:
    shutil.move(data / "built/medqa/build.json", data / "aside.json")
    assert "medqa" not in load_certified(data).sources
    shutil.move(data / "aside.json", data / "built/medqa/build.json")
    edit_build(data, "medqa", limit=7)
    with pytest.raises(UserError, match="covers another build of medqa"):
        load_certified(data)


def test_a_later_release_with_another_default_policy_asks_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_certified(data)
    older = DEFAULT_POLICY.read_text()
    (tmp_path / "policy.yaml").write_text(older.replace("action: report", "action: exclude", 1))
    monkeypatch.setattr("manifests.proof.policy.DEFAULT_POLICY", tmp_path / "policy.yaml")
    with pytest.raises(UserError, match="is not the default"):
        load_certified(data)


def _open(data: str) -> str:
    return load_certified(data).digest


def test_many_processes_may_start_at_once(data: Path) -> None:
    with multiprocessing.get_context("fork").Pool(4) as pool:
        digests = pool.map(_open, [str(data)] * 8, chunksize=1)
    assert set(digests) == {load_certified(data).digest}
    assert not list((data / ".streams").rglob("*.tmp"))


KILLED = """
import os, signal, sys
import medgpt.atomic
real, left = medgpt.atomic.AtomicFile.commit, [int(sys.argv[2])]
def commit(file):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    real(file)
medgpt.atomic.AtomicFile.commit = commit
from manifests.proof.trust import Trust
from shards.certified import load_certified
print(load_certified(sys.argv[1], trust=Trust(incomplete=True)).digest)
"""


def test_killed_while_preparing_the_next_start_has_everything(data: Path) -> None:
    expected = naive(data)
    for commits in (0, 2, 4, 5, 7, 11):
        done = subprocess.run([sys.executable, "-c", KILLED, str(data), str(commits)], cwd=ROOT, capture_output=True)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert everything(load_certified(data)) == expected
    assert not [path for path in (data / ".streams").rglob("*.tmp") if path.suffix == ".tmp" and path.stat().st_size]


def test_it_travels_to_another_process_by_name(data: Path) -> None:
    certified = load_certified(data)
    sent = pickle.dumps(certified)
    assert len(sent) < 20_000
    assert everything(pickle.loads(sent)) == everything(certified)


def test_indices_outside_are_refused(data: Path) -> None:
    source = load_certified(data).sources["vqa_rad"]
    for outside in (-1, len(source)):
        for ask in (source.locate, source.places, source.ids):
            with pytest.raises(IndexError, match="vqa_rad: samples are 0 to"):
                ask(np.array([outside]))
    assert len(source.places(np.zeros(0, np.int64)).image_offset) == 0
    assert source.ids(np.zeros(0, np.int64)) == []


def test_numbers_kept_elsewhere_and_a_folder_that_cannot_be_written(data: Path, tmp_path: Path) -> None:
    elsewhere = load_certified(data, folder=tmp_path / "elsewhere")
    assert not (data / ".streams").exists()
    assert everything(elsewhere) == naive(data)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written to"):
        load_certified(data, folder=tmp_path / "file")


def test_a_proof_beside_the_folder_of_builds_is_found(data: Path) -> None:
    assert load_certified(data / "built").digest == load_certified(data).digest
