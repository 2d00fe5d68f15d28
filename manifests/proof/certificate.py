"""The certificate: what was proved, over which builds, under which policy, as an in-toto statement.

    certificate.json        the statement (https://in-toto.io/Statement/v1), as canonical JSON
    certificate.dsse.json   where it was signed: a DSSE envelope of the same bytes, by an Ed25519 key (extra `sign`)

Subjects are the products: each build's Merkle root over shards and manifest (`medgpt.digest.build_root`), and the list
of exclusions. The predicate is the document that the project works with, read by `read_certificate`: digests of rules,
policy and files, every count, `root` over all of it; and `materials`, each build's digest over its raw files
(`medgpt.digest.inputs_sha256`). Nothing in it depends on when, where or by how many workers it was made, so two people
who prove the same builds with the same versions get the same bytes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from manifests.proof.accounting import NOT_COMPARED, not_compared
from medgpt.atomic import write_atomic
from medgpt.digest import INPUTS_FILE
from medgpt.errors import UserError
from medgpt.limited import read_file

CERTIFICATE_FORMAT = 2
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = f"urn:medgpt-oss:train-test-non-overlap:v{CERTIFICATE_FORMAT}"
PAYLOAD = "application/vnd.in-toto+json"
ROOT_DIGEST = "merkleSha256"
"""Kind of a build's digest: the root of a tree (RFC 6962), not the SHA-256 of a file."""
CERTIFICATE = "certificate.json"
EVIDENCE_FILE = "evidence.parquet"
EXCLUSIONS_FILE = "exclusions.parquet"
COMMON_FILE = "common.parquet"
TRAIN_DUPLICATES_FILE = "train_duplicates.parquet"
REPORT_FILE = "report.html"
ENVELOPE = "certificate.dsse.json"
VERDICTS_FILE = "verdicts.jsonl"

_PACKAGES = ("numpy", "pillow", "pyarrow", "duckdb", "orjson", "pyyaml")


class CertificateError(UserError):
    """One line: what is wrong with a certificate, a key or a signature."""


def software() -> dict[str, str]:
    """Versions of what computes digests, hashes and joins."""
    from importlib.metadata import version  # 20 ms that --help need not wait for

    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


def certificate_root(document: Mapping[str, Any]) -> str:
    """SHA-256 of the certificate's canonical JSON without `root`, hexadecimal."""
    content = {key: value for key, value in document.items() if key != "root"}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()


def statement(document: Mapping[str, Any]) -> dict[str, Any]:
    """The in-toto statement that a document is the predicate of."""
    builds = document["builds"]
    subject = [{"name": build["build"], "digest": {ROOT_DIGEST: build["root"]}} for build in builds]
    subject.append({"name": EXCLUSIONS_FILE, "digest": {"sha256": document["files"]["exclusions"]}})
    materials = [
        {"name": f"{build['build']}/{INPUTS_FILE}", "digest": {"sha256": build["inputs"]}}
        for build in builds if build["inputs"]
    ]  # fmt: skip
    predicate = {**document, "materials": materials}
    return {"_type": STATEMENT, "subject": subject, "predicateType": PREDICATE, "predicate": predicate}


def write_certificate(folder: Path, document: dict[str, Any]) -> None:
    """Write `certificate.json` with its root; an older signature is removed, since it no longer fits."""
    document["root"] = certificate_root(document)
    (folder / ENVELOPE).unlink(missing_ok=True)
    content = orjson.dumps(statement(document), option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)
    write_atomic(folder / CERTIFICATE, content + b"\n")


def read_certificate(folder: Path) -> dict[str, Any]:
    """Read `certificate.json`, check its form, root digest, subjects and materials; the document it is about.

    Raises: `CertificateError`.
    """
    path = folder / CERTIFICATE
    try:
        said = orjson.loads(read_file(path))
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}; run python -m manifests.prove") from error
    except orjson.JSONDecodeError as error:
        raise CertificateError(f"{path}: not JSON ({error}); run python -m manifests.prove again") from error
    predicate = said.get("predicate") if isinstance(said, dict) and said.get("predicateType") == PREDICATE else None
    if not isinstance(predicate, dict) or predicate.get("format") != CERTIFICATE_FORMAT:
        raise CertificateError(f"{path}: not a certificate of format {CERTIFICATE_FORMAT}; prove again")
    document: dict[str, Any] = {key: value for key, value in predicate.items() if key != "materials"}
    if document.get("root") != certificate_root(document):
        raise CertificateError(f"{path}: altered, its content does not match its root digest")
    try:
        follows = statement(document) == said
    except (LookupError, TypeError):
        follows = False
    if not follows:
        raise CertificateError(f"{path}: altered, subjects or materials are not those of its builds and files")
    return document


def covers(document: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a certificate speaks of a build as its `build.json` describes it."""
    return any((one["build"], one["root"]) == (record["build"], record["root"]) for one in document["builds"])


def left_out_of_local(document: Mapping[str, Any]) -> list[str]:
    """What the policy leaves out of the level `local_pictures`, in one line; none where it leaves out nothing."""
    rows = [row for row in document["local_pictures"]["pictures"] if row["role"] == "train" and row["left_out"]]
    if not rows:
        return []
    pictures, names = sum(row["left_out"] for row in rows), ", ".join(row["build"] for row in rows)
    what = "training pictures are not compared locally (montages, screenshots), as the policy says"
    return [f"{pictures:,} {what}: {names}"]


def incomplete(document: Mapping[str, Any]) -> list[str]:
    """What a certificate does not speak of although it should, in words; nothing: it is complete."""
    benchmarks, reasons = document["benchmarks"], []
    names = ", ".join(one["name"] for one in benchmarks["missing"])
    if benchmarks["asked"] == "present":
        reasons.append("no benchmark was asked for (benchmarks: present)" + (f"; not held: {names}" if names else ""))
    elif names:
        reasons.append(f"benchmarks of the policy that are not held, or not whole: {names}")
    unread = sum(entry["count"] for entry in document["accounting"] if entry["state"] == NOT_COMPARED)
    if unread:
        reasons.append(f"{unread:,} files, fields, rows, pictures or texts that were not compared nor declared")
    return reasons + [f"not compared: {line}" for line in not_compared(document["accounting"])]


def _encoded(payload: bytes) -> bytes:
    """What DSSE signs: `DSSEv1`, type and payload, each with its length."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sign(folder: Path, key: Path) -> None:
    """Write the DSSE envelope, signed with an Ed25519 private key in a PEM file without a password.

    `openssl genpkey -algorithm ed25519 -out key.pem` makes one. Raises: `CertificateError`.
    """
    private, payload = _key(key, private=True), (folder / CERTIFICATE).read_bytes()
    signature = {
        "keyid": _key_id(private.public_key()),
        "sig": _base64(private.sign(_encoded(payload))),
    }
    envelope = {"payload": _base64(payload), "payloadType": PAYLOAD, "signatures": [signature]}
    write_atomic(folder / ENVELOPE, orjson.dumps(envelope, option=orjson.OPT_INDENT_2) + b"\n")


def check_signature(folder: Path, key: Path) -> None:
    """Check with the public key (PEM) that the envelope holds this certificate and one of its signatures is the key's.

    Raises: `CertificateError` if it is missing, malformed or does not fit.
    """
    from cryptography.exceptions import InvalidSignature

    public, path = _key(key, private=False), folder / ENVELOPE
    try:
        envelope = orjson.loads(read_file(path))
        payload = base64.b64decode(envelope["payload"], validate=True)
        signatures = [base64.b64decode(one["sig"], validate=True) for one in envelope["signatures"]]
        fits = envelope["payloadType"] == PAYLOAD and payload == (folder / CERTIFICATE).read_bytes()
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}; sign it with prove --sign KEY") from error
    except (orjson.JSONDecodeError, binascii.Error, LookupError, TypeError, ValueError) as error:
        raise CertificateError(f"{path}: no DSSE envelope; sign it again with prove --sign KEY") from error
    if not fits:
        raise CertificateError(f"{path}: not the envelope of this {CERTIFICATE}; sign it again with prove --sign KEY")
    for signature in signatures:
        try:
            public.verify(signature, _encoded(payload))
        except InvalidSignature:
            continue
        return
    raise CertificateError(f"{path}: not this key's signature of {CERTIFICATE}")


def _key_id(public: Any) -> str:
    """SHA-256 of the public key (DER), hexadecimal: only a hint at which key it was."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _key(path: Path, private: bool) -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
        from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
    except ModuleNotFoundError as error:
        raise CertificateError("signatures need the extra `sign`: pip install 'medgpt-oss[sign]'") from error
    try:
        data = path.read_bytes()
        key = load_pem_private_key(data, None) if private else load_pem_public_key(data)
    except (OSError, ValueError, TypeError) as error:
        raise CertificateError(
            f"{path}: no PEM file of an unencrypted {'private' if private else 'public'} key"
        ) from error
    expected = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    if not isinstance(key, expected):
        raise CertificateError(f"{path}: not an Ed25519 key")
    return key
