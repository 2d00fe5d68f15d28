"""`python -m shards.verify DIR`: re-hash everything a build holds and name what was altered.

Every byte of a build is covered: `build.json` by its own root digest, every manifest part and shard by the digest that
`build.json` records, and a shard whose digest is wrong is searched member by member with the manifest's digests.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgpt.arguments import command_parser
from medgpt.errors import run
from medgpt.messages import complain

CHUNK = 1 << 22


@dataclass(frozen=True)
class Fault:
    """One thing that is not as it was built."""

    build: str
    file: str
    member: str
    what: str

    def __str__(self) -> str:
        inside = f", member {self.member}" if self.member else ""
        return f"{self.build}/{self.file}{inside}: {self.what}"


def verify_build(path: Path, progress: Any = None) -> list[Fault]:
    """Faults of one build; empty if every byte is as it was built. `progress(bytes)` is told what was read."""
    import orjson

    from manifests.catalog import KINDS, part_kind
    from manifests.parts import MANIFEST_VERSION
    from medgpt.digest import INPUTS_FILE, file_sha256, sealed

    try:
        document = orjson.loads((path / "build.json").read_bytes())
        if document["manifest_version"] < MANIFEST_VERSION:
            older = "of an earlier release, whose pictures may hold more than they show"
            return [Fault(path.name, "build.json", "", f"{older}; python -m builders.refingerprint writes it anew")]
        intact = sealed(document) == document
    except FileNotFoundError:
        return [Fault(path.name, "build.json", "", "missing; the build is not finished")]
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        intact = False
    if not intact:
        # Its digests cannot be trusted then, so nothing else is judged by them.
        return [Fault(path.name, "build.json", "", "altered: its content does not match its root digest")]

    faults: list[Fault] = []
    if not (path / INPUTS_FILE).is_file() or file_sha256(path / INPUTS_FILE).hex() != document["inputs"]["file_sha256"]:
        faults.append(Fault(path.name, INPUTS_FILE, "", "altered, or missing"))
    listed = {file["file"]: (file, unit) for unit in document["units"] for file in unit["shards"] + unit["parts"]}
    for folder in ("shards", *KINDS):
        for stray in sorted((path / folder).iterdir()) if (path / folder).is_dir() else []:
            if f"{folder}/{stray.name}" not in listed:
                faults.append(Fault(path.name, f"{folder}/{stray.name}", "", "not part of the build"))
    bad: set[str] = set()
    for name, (file, _) in sorted(listed.items()):
        try:
            digest, size = _digest(path / name, progress)
        except FileNotFoundError:
            faults.append(Fault(path.name, name, "", "missing"))
            bad.add(name)
            continue
        if digest != file["sha256"]:
            bad.add(name)
            if not name.startswith("shards/"):
                faults.append(Fault(path.name, name, "", "altered"))
            elif size != file["bytes"]:
                faults.append(Fault(path.name, name, "", f"{size} bytes where {file['bytes']} were written"))
    for name in sorted(bad):
        file, unit = listed[name]
        if name.startswith("shards/") and (path / name).is_file():
            parts = {part_kind(part["file"]): part["file"] for part in unit["parts"]}
            if bad & {parts.get("samples"), parts.get("images")}:
                faults.append(Fault(path.name, name, "", "altered (its manifest too, so the member cannot be named)"))
            else:
                faults.extend(_search(path, name, parts))
    return faults


def _digest(path: Path, progress: Any) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if progress is not None:
                progress(len(chunk))
    return digest.hexdigest(), size


def _search(path: Path, name: str, parts: dict[str, str]) -> list[Fault]:
    """The altered members of a shard whose digest is wrong."""
    import pyarrow.parquet as pq

    shard = name.removeprefix("shards/")

    def rows_of(kind: str, *columns: str) -> list[dict[str, Any]]:
        if kind not in parts:  # a sample without pictures
            return []
        table = pq.read_table(path / parts[kind], columns=["sample_id", "shard", "offset", "length", *columns])
        return [row for row in table.to_pylist() if row["shard"] == shard]

    rows = rows_of("samples", "sha256")
    if shard.endswith(".arrow"):
        found = list(_search_arrow(path / name, rows))
    else:
        pictures = rows_of("images", "index", "format", "stored_sha256")
        members = [(f"{row['sample_id']}.json", row["offset"], row["length"], row["sha256"]) for row in rows]
        members += [
            (f"{row['sample_id']}.{row['index']}.{row['format']}", row["offset"], row["length"], row["stored_sha256"])
            for row in pictures
        ]
        found = list(_search_tar(path / name, sorted(members, key=lambda member: member[1])))
    return [Fault(path.name, name, member, what) for member, what in found]


def _search_tar(path: Path, members: list[tuple[str, int, int, bytes]]) -> Iterator[tuple[str, str]]:
    from shards.writer import BLOCK, tar_header

    with path.open("rb") as file:
        for name, offset, length, digest in members:
            file.seek(offset - BLOCK)
            if file.read(BLOCK) != tar_header(name, length):
                yield name, "header altered"
            if hashlib.sha256(file.read(length)).digest() != digest:
                yield name, "content altered"
            if any(file.read(-length % BLOCK)):
                yield name, "padding altered"
        if any(file.read()):
            yield "", "bytes altered behind the last member"


def _search_arrow(path: Path, rows: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    import pyarrow as pa

    from medgpt.schema import canonical_json
    from shards.reader import arrow_row, arrow_slice

    found = False
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
    except (pa.ArrowException, OSError) as error:
        yield "", f"not readable as Arrow ({error})"
        return
    for row in rows:
        try:
            # Altered offsets may point anywhere, so a row is checked to be sound before it is read.
            arrow_slice(file, row["offset"]).validate(full=True)
            intact = hashlib.sha256(canonical_json(arrow_row(file, row["offset"]))).digest() == row["sha256"]
        except (pa.ArrowException, ValueError, TypeError, OSError):
            intact = False
        if not intact:
            found = True
            yield row["sample_id"], "content altered"
    if not found:
        yield "", "bytes altered between the rows (offsets, padding or footer)"


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; exit code 0 if all is as built, 1 if not, 2 for wrong usage."""
    said = "Re-hash builds and name every altered file and member."
    parser = command_parser("shards.verify", said, "example: python -m shards.verify data/built")
    parser.add_argument("dir", type=Path, metavar="DIR", help="a build, or any folder above builds")
    parser.add_argument("--json", action="store_true", help="print the faults as JSON")
    args = parser.parse_args(arguments)

    from tqdm import tqdm

    builds = sorted(path.parent for path in args.dir.rglob("build.json")) if args.dir.is_dir() else []
    if not builds:
        parser.error(f"{args.dir}: no build.json below; is this the folder of a finished build?")
    total = sum(path.stat().st_size for build in builds for path in build.rglob("*") if path.is_file())
    faults: list[Fault] = []
    with tqdm(total=total, unit="B", unit_scale=True, desc="verify", disable=True if args.json else None) as bar:
        for build in builds:
            faults.extend(verify_build(build, bar.update))
    if args.json:
        print(json.dumps({"builds": len(builds), "bytes": total, "faults": [vars(fault) for fault in faults]}))
    else:
        for fault in faults:
            complain(fault)
        print(f"{len(builds)} builds, {total:,} bytes: " + (f"{len(faults)} faults" if faults else "as built"))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
