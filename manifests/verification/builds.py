"""What `build.json` says of a build, derived a second time from its files and parts (see the room)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow.parquet as pq

from manifests.catalog import KINDS, LoadedBuild, part_kind
from manifests.parts import SCHEMAS
from manifests.verification.derived import Fault
from manifests.verification.differences import differing
from medgpt.digest import INPUTS_FILE, file_sha256, inputs_sha256


def files_of(build: LoadedBuild) -> Iterator[dict[str, Any]]:
    """Entries of all shards and parts of a build."""
    for unit in build.record["units"]:
        yield from unit["shards"]
        yield from unit["parts"]


def file_faults(build: LoadedBuild, progress: Callable[[int], None]) -> Iterator[Fault]:
    """Files that are missing, altered or strange."""
    name = build.record["build"]
    listed = {file["file"]: file for file in files_of(build)}
    for path in sorted(path for folder in ("shards", *KINDS) for path in (build.folder / folder).rglob("*")):
        inside = path.relative_to(build.folder).as_posix()
        if inside not in listed:
            yield f"{name}/{inside}", "not part of the build"
    for inside, file in sorted(listed.items()):
        path = build.folder / inside
        if not path.is_file():
            yield f"{name}/{inside}", "missing"
        elif path.stat().st_size != file["bytes"]:
            yield f"{name}/{inside}", f"{path.stat().st_size} bytes where {file['bytes']} were written"
        elif file_sha256(path).hex() != file["sha256"]:
            yield f"{name}/{inside}", "altered: its digest is not that of build.json"
        progress(file["bytes"])


def count_faults(build: LoadedBuild) -> Iterator[Fault]:
    """Counts in build.json that its parts do not bear out, and part rows that are not of their unit."""
    record = build.record
    where = f"{record['build']}/build.json"
    counted: dict[str, dict[str, Any]] = {}
    all_reasons: Counter[str] = Counter()
    for unit in record["units"]:
        parts = {part_kind(part["file"]): build.folder / part["file"] for part in unit["parts"]}
        if len(unit["parts"]) != len(parts):
            yield where, f"unit {unit['unit']} has two parts of a kind"
            return
        constants = {"build": record["build"], "unit": unit["unit"], "source": record["source"]["name"]}
        constants |= {"role": unit["role"], "split": unit["split"]}
        more = {"samples": ["sample_id"], "images": ["sample_id", "relation"], "rejects": ["reason", "damaged"]}
        columns = {kind: [*constants, *more.get(kind, ())] for kind in SCHEMAS}
        # Parts without rows are not written.
        tables = {kind: SCHEMAS[kind].empty_table().select(names) for kind, names in columns.items()}
        for kind, path in parts.items():
            file = f"{record['build']}/{path.parent.name}/{path.name}"
            if not pq.read_schema(path).remove_metadata().equals(SCHEMAS[kind]):
                yield file, f"its columns are not those of {kind}"
                return
            table = tables[kind] = pq.read_table(path, columns=columns[kind])
            for name, value in constants.items():
                other = set(table[name].unique().to_pylist()) - {value}
                if other:
                    what = f"{name} is {', '.join(map(repr, sorted(map(str, other))))}, of its unit {value!r}"
                    yield file, what
        images = Counter(tables["images"]["sample_id"].to_pylist())
        kin = tables["images"].select(["sample_id", "relation"])
        priors = (row["sample_id"] for row in kin.to_pylist() if row["relation"] == "prior")
        reasons = Counter(tables["rejects"]["reason"].to_pylist())
        found = {
            "read": tables["samples"].num_rows + tables["rejects"].num_rows, "kept": tables["samples"].num_rows,
            "rejected": tables["rejects"].num_rows, "damaged": sum(tables["rejects"]["damaged"].to_pylist()),
            "images": tables["images"].num_rows, "reasons": dict(sorted(reasons.items())),
            "images_squared": sum(count * count for count in images.values()),
            "with_prior": len(set(priors)),
        }  # fmt: skip
        yield from (
            (where, what)
            for name, value in found.items()
            if name in unit
            for what in differing(f"unit {unit['unit']}: {name}", unit[name], value)
        )
        in_shards = sum(shard["samples"] for shard in unit["shards"])
        if in_shards != found["kept"]:
            yield where, f"unit {unit['unit']}: its shards have {in_shards} samples, its part {found['kept']}"
        all_reasons.update(reasons)
        split = counted.setdefault(unit["split"], {"role": unit["role"], "bytes": 0})
        split["bytes"] += sum(shard["bytes"] for shard in unit["shards"])
        for name in ("read", "kept", "rejected", "damaged", "images", "images_squared", "with_prior"):
            split[name] = split.get(name, 0) + found[name]
    said = record["counts"]
    for name in ("read", "kept", "rejected", "damaged"):
        total = sum(split[name] for split in counted.values())
        if said[name] != total:
            yield where, f"counts.{name} is {said[name]}, derived {total}"
    yield from ((where, what) for what in differing("counts.rejects", said["rejects"], dict(all_reasons)))
    for name in sorted(said["by_split"].keys() | counted.keys()):
        split = counted.get(name, {})
        split |= _image_statistics(split) if split else {}
        # Builds of a corpus made elsewhere count less.
        derived = {key: split.get(key) for key in said["by_split"].get(name, split)}
        yield from (
            (where, what) for what in differing(f"counts.by_split.{name}", said["by_split"].get(name, {}), derived)
        )


def _image_statistics(split: Mapping[str, Any]) -> dict[str, float]:
    kept = split["kept"]
    mean = split["images"] / kept if kept else 0.0
    variance = max(0.0, split["images_squared"] / kept - mean * mean) if kept else 0.0
    prior = split["with_prior"] / kept if kept else 0.0
    return {"images_mean": round(mean, 4), "images_sd": round(variance**0.5, 4), "prior_share": round(prior, 4)}


def described(build: LoadedBuild) -> dict[str, Any]:
    """A build, as the certificate describes it."""
    record, source = build.record, build.record["source"]
    samples = {
        role: sum(unit["kept"] for unit in record["units"] if unit["role"] == role) for role in ("train", "eval")
    }
    return {
        **{name: source[name] for name in ("revision", "license", "access")}, "source": source["name"],
        **{name: record[name] for name in ("build", "metadata_only", "fingerprint_recipe", "root")}, "samples": samples,
        "inputs": inputs_sha256(build.folder / INPUTS_FILE),
    }  # fmt: skip
