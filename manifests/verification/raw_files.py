"""The raw files behind builds, for `manifests.verify`: hashed again, and builds made again from them.

A build's `inputs.parquet` lists what was read. Corpora made elsewhere, and builds that are asked for, are made once
more by their builder in a process of its own, with the parameters that `build.json` has.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import yaml

from manifests.verification.derived import rows_of
from medgpt.digest import INPUTS_FILE, RAW_PLACE, file_sha256
from medgpt.layout import BUILD_FILE

if TYPE_CHECKING:
    from manifests.catalog import LoadedBuild


def made_elsewhere(record: Mapping[str, Any]) -> bool:
    """Whether a build is of a corpus made elsewhere, which is read in again whenever its raw files are there."""
    return "mapping" in record["parameters"]


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
    build: LoadedBuild, raw: Path, chosen: Container[str] | None, again: bool, progress: Callable[[int], None]
) -> Iterator[str]:
    """What is not as it was when the build was made.

    chosen: the listed files that are looked at, None for all. again: make the build anew, by its own builder.
    """
    for row in rows_of(build.folder / INPUTS_FILE):
        progress(1)
        path = raw / row["file"]
        if chosen is not None and row["file"] not in chosen:
            continue
        if not path.is_file():
            yield f"{row['file']}: not below {raw}"
        elif path.stat().st_size != row["bytes"]:
            yield f"{row['file']}: {path.stat().st_size} bytes where {row['bytes']} were read"
        elif row["sha256"] is not None and file_sha256(path) != row["sha256"]:
            yield f"{row['file']}: another content than was read"
    if again:
        yield from _made_again(build, raw)


def _made_again(build: LoadedBuild, raw: Path) -> Iterator[str]:
    """Why what its builder makes of the raw files is not this build."""
    record = build.record
    with tempfile.TemporaryDirectory(prefix="manifests-verify-") as place:
        log = Path(place) / "log"
        command = [sys.executable, "-m", "medgpt", "build", *_options(record, Path(place) / "mapping.yaml")]
        command += ["--raw", str(raw), "--out", f"{place}/out", "--quiet"]
        with log.open("wb") as file:
            subprocess.run(command, check=False, stdout=file, stderr=file)  # noqa: S603 (ours)
        made = Path(place) / "out" / record["build"] / BUILD_FILE
        if not made.is_file():
            said = log.read_text(errors="replace").strip().splitlines()[-1:]
            yield f"cannot be made again from {raw}: {' '.join(said)}"
            return
        again = orjson.loads(made.read_bytes())
    if again["root"] != record["root"]:
        ours = {unit["unit"]: unit for unit in again["units"]}
        other = [unit["unit"] for unit in record["units"] if ours.get(unit["unit"]) != unit]
        what = f"units {', '.join(other[:3])}{' ...' * (len(other) > 3)}" if other else "what build.json says"
        yield f"made again from {raw}, {what} differ; its root is {again['root'][:16]}, not {record['root'][:16]}"


def _options(record: Mapping[str, Any], mapping: Path) -> list[str]:
    """The source and options of the command that made a build; a corpus's mapping is written to `mapping`."""
    parameters = record["parameters"]
    if made_elsewhere(record):
        mapping.write_text(yaml.safe_dump({k: v for k, v in parameters["mapping"].items() if v is not None}))
        return ["corpus", "--role", parameters["role"], "--mapping", str(mapping)]
    said = [record["source"]["name"], *["--filters", "none"] * record["filter_wanted"]]
    for name, value in {**parameters, "limit": record["limit"]}.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        said += [f"--{name.replace('_', '-')}", *map(str, values)] * (value not in (None, False))
    return said
