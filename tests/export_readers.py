"""What lies in an export, read by plain code: ids and the bytes of pictures, of every build."""

from __future__ import annotations

import json
import struct
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

FORMATS = ("parquet", "hf", "trl", "llava", "sharegpt", "ms-swift", "llama-factory", "internvl", "energon", "mds")
Samples = dict[str, list[bytes]]


def exported(out: Path, name: str) -> dict[str, Samples]:
    """Build -> sample -> its pictures, in the order of the messages."""
    found: dict[str, Samples] = {}
    for path in sorted((out / "data").rglob("*")):
        if path.is_file() and path.suffix != ".idx" and path.name != "index.json":
            build = path.relative_to(out / "data").parts[0].removesuffix(".jsonl").removesuffix(".json")
            samples = found.setdefault(build, {})
            for sample, pictures in READERS[path.suffix](path, out):
                assert sample not in samples
                samples[sample] = pictures
    return found


def _parquet(path: Path, out: Path) -> Iterator[tuple[str, list[bytes]]]:
    for row in pq.read_table(path).to_pylist():
        yield row["id"], [picture["bytes"] for picture in row.get("images", ())]


def _rows(rows: Iterator[dict[str, object]], out: Path) -> Iterator[tuple[str, list[bytes]]]:
    for row in rows:
        named = row.get("images", row.get("image", []))
        assert isinstance(named, list | str)
        yield str(row["id"]), [(out / name).read_bytes() for name in ([named] if isinstance(named, str) else named)]


def _tar(path: Path, out: Path) -> Iterator[tuple[str, list[bytes]]]:
    samples: Samples = {}
    with tarfile.open(path) as tar:
        starts = [member.offset for member in tar if member.name.endswith(".json")]
        index = struct.unpack(f"<{len(starts) + 1}Q", path.with_suffix(".tar.idx").read_bytes())
        assert list(index[:-1]) == starts
        for member in tar:
            sample, _, rest = member.name.partition(".")
            file = tar.extractfile(member)
            assert file is not None
            data = file.read()
            if rest == "json":
                assert json.loads(data)["id"] == sample
                samples[sample] = []
            else:
                assert int(rest.partition(".")[0]) == len(samples[sample])
                samples[sample].append(data)
    yield from samples.items()


def _mds(path: Path, out: Path) -> Iterator[tuple[str, list[bytes]]]:
    [shard] = [s for s in json.loads(path.with_name("index.json").read_bytes())["shards"]
               if s["raw_data"]["basename"] == path.name]  # fmt: skip
    data, columns = path.read_bytes(), shard["column_names"]
    [count] = struct.unpack_from("<I", data)
    assert (count, len(data)) == (shard["samples"], shard["raw_data"]["bytes"])
    places = struct.unpack_from(f"<{count + 1}I", data, 4)
    for start in places[:-1]:
        sizes, at, row = struct.unpack_from(f"<{len(columns)}I", data, start), start + 4 * len(columns), {}
        for column, size in zip(columns, sizes, strict=True):
            row[column], at = data[at : at + size], at + size
        pictures, begin = [], 0
        for size in json.loads(row["image_sizes"]):
            pictures.append(row["images"][begin : begin + size])
            begin += size
        assert begin == len(row["images"])
        yield row["id"].decode(), pictures


READERS = {
    ".parquet": _parquet, ".tar": _tar, ".mds": _mds,
    ".json": lambda path, out: _rows(iter(json.loads(path.read_bytes())), out),
    ".jsonl": lambda path, out: _rows(map(json.loads, path.read_bytes().splitlines()), out),
}  # fmt: skip
