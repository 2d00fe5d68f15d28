"""Digests of files and of whole builds."""

import hashlib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import orjson

from medgpt.limited import opened


def file_sha256(path: Path) -> bytes:
    """SHA-256 of a file's bytes, read in blocks. Raises: `OSError`, naming it, of what is no file, too."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").digest()


def json_sha256(value: object) -> str:
    """SHA-256 (hexadecimal) of a value's JSON, keys sorted: of what is asked for, and of small files about files."""
    return hashlib.sha256(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).hexdigest()


def folder_sha256(folder: Path, besides: Collection[str] = ()) -> str:
    """SHA-256 (hexadecimal) over names and contents of a folder's files, by name, without `besides`."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name not in besides:
            digest.update(path.name.encode() + b"\0" + file_sha256(path))
    return digest.hexdigest()


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    """Root of a binary Merkle tree over the leaves in the order given (RFC 6962, section 2.1).

    Leaves and inner nodes are hashed with different prefixes, so that no inner node can pass as a leaf; the empty tree
    is the digest of no bytes.
    """
    level = [hashlib.sha256(b"\x00" + leaf).digest() for leaf in leaves]
    if not level:
        return hashlib.sha256(b"").digest()
    while len(level) > 1:
        # An odd last node moves up unchanged, which is what RFC 6962's split at a power of two amounts to.
        pairs = [hashlib.sha256(b"\x01" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(level) // 2 * 2 :]
    return level[0]


INPUTS_FILE = "inputs.parquet"
RAW_PLACE = "raw"
"""`.resume/<build>/raw` beside a build: the folder that its raw files lay in. A machine's own, and may be deleted."""
BESIDE_ROOT = frozenset({"root", "code_sha256", "software", "inputs", "gaps", "filter_wanted", "sha256"})
"""What `build.json` says that is no part of what was built: with what code, from which files, what of them was not
read, what is to follow, and `sha256` over all the rest of it, so that an altered byte is found here, too."""


def sealed(document: dict[str, Any]) -> dict[str, Any]:
    """A build's description with its `root`, and with `sha256` over all of it."""
    document = {key: value for key, value in document.items() if key not in ("root", "sha256")}
    document["root"] = build_root(document)
    return document | {"sha256": json_sha256(document)}


def inputs_sha256(path: Path) -> str | None:
    """Digest (hexadecimal) over a build's list of raw files; None where there is no such file.

    Each file is a line `<path> <bytes> <sha256>`, sorted by path; `-` stands where it was not hashed.
    """
    import pyarrow.parquet as pq

    if not path.is_file():
        return None
    digest = hashlib.sha256()
    for row in pq.read_table(path, columns=["file", "bytes", "sha256"]).to_pylist():
        digest.update(f"{row['file']} {row['bytes']} {row['sha256'].hex() if row['sha256'] else '-'}\n".encode())
    return digest.hexdigest()


def build_root(document: dict[str, Any], beside: Collection[str] = BESIDE_ROOT) -> str:
    """Root digest of a build: a Merkle tree over its description and every file's path and digest, hex.

    Leaves: the canonical JSON of `build.json` without what is `beside`, then `<path> <sha256>` of all files,
    sorted by path. So it depends on content and declared versions, not on the text of the code that made it.
    """
    described = {key: value for key, value in document.items() if key not in beside}
    files = sorted(
        (file["file"], file["sha256"]) for unit in document["units"] for file in unit["shards"] + unit["parts"]
    )
    leaves = [orjson.dumps(described, option=orjson.OPT_SORT_KEYS)]
    return merkle_root([*leaves, *(f"{path} {digest}".encode() for path, digest in files)]).hex()
