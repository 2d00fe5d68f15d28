"""The raw files behind builds, for `manifests.verify`: hashed again, and a corpus made elsewhere read in again.

A build's `inputs.parquet` lists what was read. What a corpus made elsewhere says of itself is derived once more, by
`builders.corpus` in a process of its own, with the mapping that `build.json` has.
"""

from __future__ import annotations

import hashlib
import heapq
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow.parquet as pq
import yaml

from manifests.catalog import BUILD_FILE
from medgpt.digest import INPUTS_FILE, RAW_PLACE, file_sha256
from medgpt.errors import DAMAGED, DONE, NOT_COMPARED

if TYPE_CHECKING:
    from manifests.catalog import LoadedBuild


def raw_folder(build: LoadedBuild, named: Mapping[str, Path]) -> Path | None:
    """Where a build's raw files are: as named for it, below the folder named for all (key ''), else as recorded."""
    name, source = build.record["build"], build.record["source"]["name"]
    if name in named:
        return named[name]
    if "" in named:
        return named[""] / source if (named[""] / source).is_dir() else named[""]
    try:
        recorded = Path(os.fsdecode((build.folder.parent / ".resume" / name / RAW_PLACE).read_bytes()))
    except OSError:
        return None
    return recorded if recorded.is_dir() else None


def raw_faults(
    build: LoadedBuild, raw: Path, choose: Callable[[list[dict[str, Any]]], list[dict[str, Any]]],
    progress: Callable[[int], None],
) -> Iterator[str]:  # fmt: skip
    """What is not as it was when the build was made; `choose` says which of the listed files are hashed."""
    listed = pq.read_table(build.folder / INPUTS_FILE).to_pylist()
    for row in choose(listed):
        path = raw / row["file"]
        if not path.is_file():
            yield f"{row['file']}: not below {raw}"
        elif path.stat().st_size != row["bytes"]:
            yield f"{row['file']}: {path.stat().st_size} bytes where {row['bytes']} were read"
        elif row["sha256"] is not None and file_sha256(path) != row["sha256"]:
            yield f"{row['file']}: another content than was read"
        progress(1)
    if build.record["parameters"].get("pictures_stored") is False:
        yield from _read_again(build, raw)


def drawn(number: int, salt: str) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    """Of listed files the `number` with the smallest SHA-256 of salt and name."""
    return lambda rows: heapq.nsmallest(
        number, rows, key=lambda row: hashlib.sha256(f"{salt}/{row['file']}".encode()).digest()
    )


def _read_again(build: LoadedBuild, raw: Path) -> Iterator[str]:
    """Why a corpus made elsewhere, read in again, is not this build."""
    record = build.record
    parameters = record["parameters"]
    with tempfile.TemporaryDirectory(prefix="manifests-verify-") as place:
        mapping, log = Path(place) / "mapping.yaml", Path(place) / "log"
        mapping.write_text(yaml.safe_dump({k: v for k, v in parameters["mapping"].items() if v is not None}))
        command = [sys.executable, "-m", "medgpt", "build", "corpus", "--role", parameters["role"], "--raw", str(raw)]
        command += ["--mapping", str(mapping), "--out", f"{place}/out", "--quiet"]
        with log.open("wb") as file:
            code = subprocess.run(command, check=False, stdout=file, stderr=file).returncode  # noqa: S603 (ours)
        made = Path(place) / "out" / record["build"] / BUILD_FILE
        if code not in (DONE, DAMAGED, NOT_COMPARED) or not made.is_file():
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            yield f"cannot be read again from {raw}: {' '.join(said)}"
            return
        again = orjson.loads(made.read_bytes())
    if again["root"] != record["root"]:
        ours = {unit["unit"]: unit for unit in again["units"]}
        other = [unit["unit"] for unit in record["units"] if ours.get(unit["unit"]) != unit]
        what = f"units {', '.join(other[:3])}{' ...' * (len(other) > 3)}" if other else "what build.json says"
        yield f"read again from {raw}, {what} differ; its root is {again['root'][:16]}, not {record['root'][:16]}"
