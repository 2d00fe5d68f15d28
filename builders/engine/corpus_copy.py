"""A copy of a corpus made elsewhere without some of its rows: every file in its own form, what stays as it was.

Lines, records, items of an array, members of a tar keep their bytes; rows of Parquet, Arrow and ORC their values,
schema and row groups. A document is left out as a file. What rows cannot be taken out of is refused before anything
is written.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from builders.engine.archives import webdataset_name
from builders.engine.corpus_files import csv_records, form_of, skipped, whole_text
from builders.engine.source import NotThisSource
from builders.engine.tables import open_parquet
from medgpt.atomic import AtomicFile
from medgpt.digest import file_sha256
from medgpt.limited import open_stream
from medgpt.private import make_folder

EXCLUDED_COLUMNS = ("file", "row")


class Excluded(set[str]):
    """Numbers or names of the rows that a file is to lose."""

    def __init__(self, sha256: str) -> None:
        super().__init__()
        self.sha256 = sha256
        """Of the file that was proved; empty where the list does not say it."""
        self.met: set[str] = set()
        """Those that the file has."""

    def __contains__(self, row: object) -> bool:
        found = super().__contains__(row)
        if found:
            self.met.add(str(row))
        return found


def read_excluded(path: Path) -> dict[str, Excluded]:
    """Rows by file, of a list that `manifests.prove` writes (`excluded_rows.csv`). Raises: `NotThisSource`."""
    found: dict[str, Excluded] = {}
    with path.open(encoding="utf-8", newline="") as handle:
        reader = csv.DictReader(handle)
        if not set(EXCLUDED_COLUMNS) <= set(reader.fieldnames or ()):
            raise NotThisSource(f"{path}: no columns {', '.join(EXCLUDED_COLUMNS)}; name prove's excluded_rows.csv")
        for row in reader:
            found.setdefault(row["file"], Excluded(row.get("sha256") or "")).add(row["row"])
    return found


def copy_without(raw: Path, names: Iterable[str], excluded: dict[str, Excluded], out: Path) -> tuple[int, int]:
    """Copy the named files of the folder `raw` to `out` without the excluded rows; (files, rows left out).

    Raises: `NotThisSource` for a file that rows cannot be taken out of, one that is not there, not the one that was
    proved or without one of its rows, or an `out` that is there.
    """
    if out.exists() and any(out.iterdir()):
        raise NotThisSource(f"{out}: is not empty; name another folder for the copy")
    if out.resolve().is_relative_to(raw.resolve()):
        raise NotThisSource(f"{out}: lies within the corpus {raw}; choose another place for the copy")
    for file in sorted(excluded):
        if not (raw / file).is_file() or form_of(file) not in (None, *_WRITERS):
            raise NotThisSource(
                f"{file}: rows cannot be taken out of it; unpack it, or write it as JSON Lines or Parquet"
            )
        if excluded[file].sha256 not in ("", file_sha256(raw / file).hex()):
            raise NotThisSource(f"{file}: is not the file that was proved; prove again")
    files = 0
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as scratch:
        for file in names:
            path, form, rows = raw / file, form_of(file), excluded.get(file)
            if not path.is_file() or (rows and form in (None, "text")):
                continue
            make_folder((out / file).parent)
            with AtomicFile(out / file) as target:
                if rows and form:
                    plain = Path(scratch) / "plain"
                    with plain.open("wb") as handle:
                        _WRITERS[form](path, rows, handle)
                    if gone := rows - rows.met:
                        raise NotThisSource(f"{file}: has no row {min(gone)} to leave out; prove again")
                    path = _packed(plain, path.suffix.lower())
                with path.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            files += 1
    return files, sum(map(len, excluded.values()))


def _packed(plain: Path, suffix: str) -> Path:
    """A file packed as one of this suffix is, in a file beside it; itself where the suffix packs nothing."""
    packed = plain.with_name("packed")
    if suffix not in (*_PACKERS, ".gz", ".tgz"):
        return plain
    with plain.open("rb") as handle, packed.open("wb") as target:
        if suffix in _PACKERS:
            sink: Any = _PACKERS[suffix](packed)
        else:
            sink = gzip.GzipFile("", "wb", fileobj=target, mtime=0)
        with sink:
            shutil.copyfileobj(handle, sink, 1 << 20)
    return packed


def _zstandard(path: Path) -> Any:
    import pyarrow as pa

    return pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd")


_PACKERS: dict[str, Callable[[Path], Any]] = {
    ".bz2": partial(bz2.open, mode="wb"), ".tbz2": partial(bz2.open, mode="wb"),
    ".xz": partial(lzma.open, mode="wb"), ".txz": partial(lzma.open, mode="wb"), ".zst": _zstandard,
}  # fmt: skip


def _write_lines(path: Path, rows: Collection[str], sink: BinaryIO) -> None:
    with open_stream(path) as handle:
        for number, line in enumerate(handle, 1):
            if str(number) not in rows:
                sink.write(line)


def _write_records(path: Path, rows: Collection[str], sink: BinaryIO) -> None:
    with open_stream(path) as handle:
        for number, _, text in csv_records(handle, path.name):
            if number not in rows:
                sink.write(text)


def _write_json(path: Path, rows: Collection[str], sink: BinaryIO) -> None:
    """Items of an array or values one after the other, each in its own bytes."""
    with open_stream(path) as handle:
        text = whole_text(handle, path.name)
    decode, array = json.JSONDecoder().raw_decode, text.lstrip().startswith("[")
    place, kept = text.index("[") + 1 if array else 0, []
    number = 0
    while (place := skipped(text, place)) < len(text) and text[place] != "]":
        _, end = decode(text, place)
        if str(number) not in rows:
            kept.append(text[place:end])
        place, number = end, number + 1
    if not all(row.isdecimal() and int(row) < number for row in rows) or (number == 1 and not array):
        raise NotThisSource(
            f"{path.name}: its rows lie within objects, and cannot be taken out; write it as JSON Lines"
        )
    body = (",\n" if array else "\n").join(kept)
    sink.write((f"[{body}]\n" if array else f"{body}\n").encode())


def _write_parquet(path: Path, rows: Collection[str], sink: BinaryIO) -> None:
    import pyarrow.parquet as pq

    plain = path if path.suffix.lower() == ".parquet" else io.BytesIO(open_stream(path).read())
    with open_parquet(plain, path.name) as table:
        packed = table.chunks[0][0].codec
        with pq.ParquetWriter(sink, table.schema_arrow, compression=packed) as to:
            number = 0
            for group in range(table.num_row_groups):
                to.write_table(_kept(table.read_row_group(group), number, rows))
                number += table.metadata.row_group(group).num_rows


def _write_arrow(path: Path, rows: Collection[str], sink: BinaryIO) -> None:
    import pyarrow as pa

    with pa.memory_map(str(path)) if path.suffix.lower() in _PLAIN_ARROW else open_stream(path) as handle:
        source = handle if isinstance(handle, pa.NativeFile) else pa.BufferReader(handle.read())
        try:
            found = pa.ipc.open_file(source)
            batches: Iterator[Any] = map(found.get_batch, range(found.num_record_batches))
            writer = pa.ipc.new_file
        except pa.ArrowInvalid:
            source.seek(0)
            found = batches = pa.ipc.open_stream(source)
            writer = pa.ipc.new_stream
        number = 0
        with writer(sink, found.schema) as to:
            for batch in batches:
                to.write_table(_kept(pa.Table.from_batches([batch]), number, rows))
                number += batch.num_rows


_PLAIN_ARROW = (".arrow", ".feather", ".ipc")


def _write_orc(path: Path, rows: Collection[str], sink: BinaryIO) -> None:
    import pyarrow as pa
    from pyarrow import orc

    with open_stream(path) as handle:
        table = orc.ORCFile(pa.BufferReader(handle.read())).read()
    orc.write_table(_kept(table, 0, rows), sink)


def _kept(table: Any, first: int, rows: Collection[str]) -> Any:
    """The rows of a table, numbered from `first`, that are not left out."""
    return table.take([n for n in range(table.num_rows) if str(first + n) not in rows])


def _write_tar(path: Path, rows: Collection[str], sink: BinaryIO) -> None:
    """Headers and contents as they were; samples of one name go together."""
    with tempfile.TemporaryFile(dir=Path(sink.name).parent) as plain:
        with open_stream(path) as handle:
            shutil.copyfileobj(handle, plain, 1 << 20)
        plain.seek(0)
        with tarfile.open(fileobj=plain, mode="r:") as tar:
            ends = [(member, tar.offset) for member in tar]
        for member, end in ends:
            key = webdataset_name(member.name)[0].encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            if key not in rows:
                plain.seek(member.offset)
                sink.write(plain.read(end - member.offset))
    sink.write(bytes(1024))


_WRITERS = {
    "lines": _write_lines, "csv": _write_records, "json": _write_json, "parquet": _write_parquet,
    "arrow": _write_arrow, "orc": _write_orc, "tar": _write_tar, "text": _write_lines,
}  # fmt: skip
