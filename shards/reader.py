"""Read a build: samples in order or by number, with their image bytes.

Tar members are found through the manifest's byte offsets, Arrow rows through the row number, so any sample is one or
two reads away and no tar is ever scanned. Any WebDataset reader opens the same tars without this module.
"""

import hashlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.catalog import LoadedBuild, load_build
from manifests.parts import SCHEMAS
from medgpt.digest import build_root, file_sha256
from medgpt.errors import UserError
from medgpt.layout import BUILD_FILE
from medgpt.limited import read_batch
from medgpt.schema import canonical_json
from shards.writer import ARROW_BATCH_ROWS

_INDEX = ("sample_id", "role", "license", "shard", "offset", "length", "n_images")
_IMAGE_INDEX = ("sample_id", "index", "shard", "offset", "length")


@dataclass(frozen=True)
class StoredSample:
    """One sample as stored: `record` has the fields of `medgpt.schema.SAMPLE`, `images` the bytes in their order."""

    record: dict[str, Any]
    images: list[bytes]


def check_root(build: LoadedBuild) -> None:
    """Raises: `UserError` where a build's description is not what its root is of."""
    if build_root(build.record) != build.record["root"]:
        raise UserError(f"{build.folder / BUILD_FILE}: does not match its root digest; build it again")


def check_part(build: LoadedBuild, unit: Mapping[str, Any], path: Path) -> None:
    """Raises: `UserError` where a manifest part is not the one that the build's root is of."""
    digests = {part["file"]: part["sha256"] for part in unit["parts"]}
    if file_sha256(path).hex() != digests[path.relative_to(build.folder).as_posix()]:
        raise UserError(f"{path}: altered since it was built; python -m shards.verify says more")


class Build:
    """A build directory, opened for reading; `build[i]` is its i-th sample in shard order.

    `licenses` is an allow-list: samples under other licences are not there. `metadata_only` builds are refused unless
    asked for: their pictures are missing, and nothing may be trained on them. `first` opens no more than the first so
    many samples: of a build with millions only a few parts are read. `checked` holds root, parts and every sample that
    is read against their digests: what is given is what the root, and so a certificate, speaks of.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        role: str | None = None,
        licenses: Collection[str] | None = None,
        allow_metadata_only: bool = False,
        first: int | None = None,
        checked: bool = False,
    ) -> None:
        self.path, self._checked = Path(path), checked
        build = load_build(self.path)
        if checked:
            check_root(build)
        self.document = build.record
        if self.document["metadata_only"] and not allow_metadata_only:
            raise UserError(f"{self.path}: a metadata-only build (--no-images) has no pictures; build it with them")
        more = (("sha256",), ("stored_sha256",)) if checked else ((), ())
        self._samples = self._table(build, "samples", role, (*_INDEX, *more[0]), first)
        counts = self._samples["n_images"].to_numpy()
        shown = None if first is None else int(counts.sum())
        self._images = self._table(build, "images", role, (*_IMAGE_INDEX, *more[1]), shown)
        # Image rows lie in the order of their samples, so a running sum finds the first one of each.
        self._first_image = counts.cumsum() - counts
        if licenses is not None:
            allowed = pc.is_in(self._samples["license"], pa.array(sorted(licenses), pa.string()))
            self._samples = self._samples.filter(allowed)
            self._first_image = self._first_image[allowed.to_numpy(zero_copy_only=False)]
        self._files: dict[str, FileIO] = {}

    def _open(self, shard: str) -> FileIO:
        file = self._files.get(shard)
        if file is None:
            try:
                file = self._files[shard] = (self.path / "shards" / shard).open("rb", buffering=0)
            except FileNotFoundError:
                raise UserError(f"{self.path}/shards/{shard}: missing; run the builder again") from None
        return file

    def _table(
        self, build: LoadedBuild, kind: str, role: str | None, columns: Sequence[str], most: int | None
    ) -> pa.Table:
        """The rows of the parts of a kind, or the first `most` of them."""
        tables: list[pa.Table] = []
        for unit, path in build.parts(kind, role):
            if self._checked:
                check_part(build, unit, path)
            if most is not None and sum(table.num_rows for table in tables) >= most:
                break
            try:
                tables.append(pq.read_table(path, columns=list(columns)))
            except pa.ArrowInvalid as error:
                raise UserError(f"{path}: {error}; run the builder again") from None
        if not tables and kind == "samples":
            raise UserError(f"{self.path}: no samples{f' of role {role}' if role else ''}")
        table = pa.concat_tables(tables or [SCHEMAS[kind].empty_table().select(columns)])
        return table.slice(0, most).combine_chunks()

    def __len__(self) -> int:
        return int(self._samples.num_rows)

    def __getitem__(self, index: int) -> StoredSample:
        sample = self._read(index)
        if self._checked:
            first = int(self._first_image[index])
            digests = self._images["stored_sha256"].slice(first, len(sample.images)).to_pylist()
            files = [canonical_json(sample.record), *sample.images]
            if [self._samples["sha256"][index].as_py(), *digests] != [hashlib.sha256(file).digest() for file in files]:
                shard = f"{self.path}/shards/{self._samples['shard'][index].as_py()}"
                raise UserError(
                    f"{shard}: {self._samples['sample_id'][index].as_py()} was altered since it was built; "
                    "python -m shards.verify says more"
                )
        return sample

    def _read(self, index: int) -> StoredSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        shard = self._samples["shard"][index].as_py()
        offset, length = self._samples["offset"][index].as_py(), self._samples["length"][index].as_py()
        if shard.endswith(".arrow"):
            path = self.path / "shards" / shard
            try:
                return StoredSample(checked_row(arrow_file(path), offset), [])
            except (OSError, ValueError, LookupError, pa.ArrowException) as error:
                raise UserError(f"{path}: cannot be read ({type(error).__name__}); run the builder again") from error
        descriptor = self._open(shard).fileno()
        try:
            record = orjson.loads(os.pread(descriptor, length, offset))
        except orjson.JSONDecodeError as error:
            raise UserError(f"{self.path}/shards/{shard}: cannot be read ({error}); run the builder again") from error
        first = int(self._first_image[index])
        places = self._images.slice(first, self._samples["n_images"][index].as_py()).to_pylist()
        return StoredSample(record, [os.pread(descriptor, place["length"], place["offset"]) for place in places])

    def __iter__(self) -> Iterator[StoredSample]:
        return (self[index] for index in range(len(self)))

    def find(self, sample_id: str) -> int:
        """Number of the sample with this id; `KeyError` if there is none."""
        index = int(pc.index(self._samples["sample_id"], sample_id).as_py())
        if index < 0:
            raise KeyError(sample_id)
        return index

    @property
    def ids(self) -> list[str]:
        """Sample ids in order."""
        return list(self._samples["sample_id"].to_pylist())


@lru_cache(maxsize=16)
def arrow_file(path: Path) -> pa.ipc.RecordBatchFileReader:
    """An Arrow shard, opened once. Raises: `OSError`, `pa.ArrowException`."""
    return pa.ipc.open_file(pa.memory_map(str(path)))


def arrow_slice(file: pa.ipc.RecordBatchFileReader, row: int) -> pa.RecordBatch:
    """One row of an Arrow shard as a batch; every batch but a shard's last has `ARROW_BATCH_ROWS` rows."""
    return file.get_batch(row // ARROW_BATCH_ROWS).slice(row % ARROW_BATCH_ROWS, 1)


def arrow_row(file: pa.ipc.RecordBatchFileReader, row: int) -> dict[str, Any]:
    """One row of an Arrow shard, whose digest was checked, as a record."""
    record: dict[str, Any] = arrow_slice(file, row).to_pylist()[0]
    return record


_looked_at: WeakKeyDictionary[pa.ipc.RecordBatchFileReader, set[int]] = WeakKeyDictionary()


def checked_row(file: pa.ipc.RecordBatchFileReader, row: int) -> dict[str, Any]:
    """One row of any Arrow shard as a record; a batch is looked at before its first row is. Raises: as `read_batch`."""
    batches, number = _looked_at.setdefault(file, set()), row // ARROW_BATCH_ROWS
    if number not in batches:
        read_batch(file, number)
        batches.add(number)
    return arrow_row(file, row)
