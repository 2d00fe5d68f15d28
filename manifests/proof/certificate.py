"""The certificate: canonical JSON whose root digest covers builds, rules, policy, evidence, exclusions and counts.

Nothing in it depends on when, where or by how many workers it was made, so two people who prove the same builds with
the same versions get the same bytes. It may be signed with an Ed25519 key (extra `sign`): `certificate.json.sig` holds
the signature of the file's bytes, 64 bytes in hexadecimal.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from medgpt.atomic import write_atomic
from medgpt.errors import UserError

CERTIFICATE_FORMAT = 1
CERTIFICATE = "certificate.json"
EVIDENCE_FILE = "evidence.parquet"
EXCLUSIONS_FILE = "exclusions.parquet"
COMMON_FILE = "common.parquet"
TRAIN_DUPLICATES_FILE = "train_duplicates.parquet"
REPORT_FILE = "report.html"
SIGNATURE = "certificate.json.sig"

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


def write_certificate(folder: Path, document: dict[str, Any]) -> None:
    """Write `certificate.json` with its root; an older signature is removed, since it no longer fits."""
    document["root"] = certificate_root(document)
    (folder / SIGNATURE).unlink(missing_ok=True)
    write_atomic(
        folder / CERTIFICATE, orjson.dumps(document, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2) + b"\n"
    )


def read_certificate(folder: Path) -> dict[str, Any]:
    """Read `certificate.json` and check its format and its root digest.

    Raises: `CertificateError`.
    """
    path = folder / CERTIFICATE
    try:
        document = orjson.loads(path.read_bytes())
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}; run python -m manifests.prove") from error
    except orjson.JSONDecodeError as error:
        raise CertificateError(f"{path}: not JSON ({error}); run python -m manifests.prove again") from error
    if not isinstance(document, dict) or document.get("format") != CERTIFICATE_FORMAT:
        raise CertificateError(f"{path}: not a certificate of format {CERTIFICATE_FORMAT}; prove again")
    if document.get("root") != certificate_root(document):
        raise CertificateError(f"{path}: altered, its content does not match its root digest")
    return document


def sign(folder: Path, key: Path) -> None:
    """Sign the certificate with an Ed25519 private key in a PEM file without a password.

    `openssl genpkey -algorithm ed25519 -out key.pem` makes one. Raises: `CertificateError`.
    """
    private = _key(key, private=True)
    write_atomic(folder / SIGNATURE, private.sign((folder / CERTIFICATE).read_bytes()).hex().encode() + b"\n")


def check_signature(folder: Path, key: Path) -> None:
    """Check the signature with the public key (PEM).

    Raises: `CertificateError` if it is missing, malformed or does not fit.
    """
    from cryptography.exceptions import InvalidSignature

    public = _key(key, private=False)
    path = folder / SIGNATURE
    try:
        public.verify(bytes.fromhex(path.read_text(encoding="ascii")), (folder / CERTIFICATE).read_bytes())
    except OSError as error:
        raise CertificateError(f"{path}: {error.strerror}; sign it with prove --sign KEY") from error
    except (ValueError, InvalidSignature) as error:
        raise CertificateError(f"{path}: not this key's signature of {CERTIFICATE}") from error


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
