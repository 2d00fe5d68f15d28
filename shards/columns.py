"""Numbers beside the shards: folders of plain columns, mapped into memory, so that opening costs the same at any size.

    <folder>/<column>.<dtype>   little-endian numbers and nothing else: `numpy.fromfile(path, "<i8")` reads them
    <folder>/header.json        what they are, with every column's length and SHA-256; written last
    <folder>/verified.json      size, times and inode of the files whose digests were last compared

A folder without a header is not there. Digests are compared once, and again when a file's size, times or inode have
changed. Everything can be derived again, so a damaged folder may be deleted.
"""

import mmap
import os
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from medgpt.atomic import AtomicFile, write_atomic
from medgpt.digest import file_sha256, json_sha256
from medgpt.errors import UserError
from medgpt.private import make_folder

HEADER, VERIFIED = "header.json", "verified.json"

DTYPES = {"uint8": "<u1", "uint16": "<u2", "int32": "<i4", "int64": "<i8"}
"""Name of a column's type, which is also its file's suffix -> how numpy spells it, little-endian on every machine."""

Signature = list[int] | None
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]


def signature(path: Path | str) -> Signature:
    """Size, times of content and of entry (ns), and inode: a file that has the same is the same. None: not there."""
    try:
        status = os.stat(path)  # noqa: PTH116 - of hundreds of files at every start
    except (FileNotFoundError, NotADirectoryError):
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def check_range(indices: Int64, size: int) -> None:
    """Raises: `IndexError` where one is not from 0 to `size` - 1."""
    if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < size):
        raise IndexError(f"indices are 0 to {size - 1}")


def write_columns(
    folder: Path, header: Mapping[str, Any], types: Mapping[str, str], chunks: Iterable[Mapping[str, npt.NDArray[Any]]]
) -> None:
    """Write columns chunk by chunk: no more than a chunk is in memory. `types` are keys of `DTYPES`.

    A chunk may hold any number of values of each column. The caller holds the lock. Raises: `UserError`.
    """
    files: dict[str, AtomicFile] = {}
    try:
        make_folder(folder)
        (folder / HEADER).unlink(missing_ok=True)
        for name, kind in types.items():
            files[name] = AtomicFile(folder / f"{name}.{kind}")
        for chunk in chunks:
            for name, values in chunk.items():
                files[name].write(np.ascontiguousarray(values, DTYPES[types[name]]).tobytes())
        columns = {}
        for name, kind in types.items():
            files[name].commit()
            length = files[name].size // np.dtype(DTYPES[kind]).itemsize
            columns[name] = {"type": kind, "length": length, "sha256": files[name].sha256.hex()}
        document = {**header, "columns": columns}
        document["digest"] = _digest(document)
        write_atomic(folder / HEADER, orjson.dumps(document))
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror}); make room or name another folder") from error
    finally:
        for file in files.values():
            if not file.closed:
                file.discard()
    _stamp(folder, _signatures(folder, columns))


class MappedColumns:
    """A folder of columns, opened. `header` is what was written, `columns[name]` a column's numbers.

    `of` is what the header must say: a folder of other numbers under this one's name is no cache of them.

    Raises: `UserError` if a file is missing, or not what was written.
    """

    def __init__(self, folder: Path, **of: Any) -> None:
        self.folder, self._of = folder, of
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        try:
            self.header: dict[str, Any] = orjson.loads((folder / HEADER).read_bytes())
            intact = self.header["digest"] == _digest(self.header)
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise UserError(f"{folder}/{HEADER}: cannot be read ({error}); delete the folder") from error
        if not intact or any(self.header.get(name) != value for name, value in of.items()):
            what = "of something else than its name says" if intact else "altered"
            raise UserError(f"{folder}/{HEADER}: {what}; delete the folder, it is made again")
        self._check()

    def _check(self) -> None:
        now = _signatures(self.folder, self.header["columns"])
        try:
            before = orjson.loads((self.folder / VERIFIED).read_bytes())
        except (FileNotFoundError, orjson.JSONDecodeError):
            before = None  # then everything is hashed, which is all that the stamp saves
        if now == before:
            return
        for name, column in self.header["columns"].items():
            path = self._path(name)
            if not path.is_file() or file_sha256(path).hex() != column["sha256"]:
                raise UserError(f"{path}: missing or damaged; delete the folder, it is made again")
        try:
            _stamp(self.folder, now)
        except OSError:
            # A folder that cannot be written to is hashed at each start.
            return

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.{self.header['columns'][name]['type']}"

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        array = self._arrays.get(name)
        if array is None:
            column = self.header["columns"][name]
            dtype = DTYPES[column["type"]]
            if column["length"]:
                with self._path(name).open("rb") as file:
                    mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                # Else every number drawn at random would bring its 16 neighbouring pages into memory.
                mapped.madvise(mmap.MADV_RANDOM)
                array = np.frombuffer(mapped, dtype)
            else:
                array = np.zeros(0, dtype)
            self._arrays[name] = array
        return array

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(MappedColumns, **self._of), (self.folder,)


def _digest(document: Mapping[str, Any]) -> str:
    return json_sha256({key: value for key, value in document.items() if key != "digest"})


def _signatures(folder: Path, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Signature]:
    return {name: signature(folder / f"{name}.{column['type']}") for name, column in sorted(columns.items())}


def _stamp(folder: Path, signatures: Mapping[str, Signature]) -> None:
    write_atomic(folder / VERIFIED, orjson.dumps(signatures))
