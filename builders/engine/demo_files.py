"""Files of demo trees, of the format that their name says: the same bytes and times every time."""

import csv
import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medgpt.private import make_folder

DEMO_TIME = 1_577_836_800
"""Modification time of every demo file, 2020-01-01 UTC: demo trees written twice have equal unit keys."""


def write_demo_files(raw: Path, files: Mapping[str, Any]) -> None:
    """The files of a demo tree by their paths, as `write_demo_file` takes them."""
    for name, content in files.items():
        write_demo_file(raw / name, content)


def write_demo_file(path: Path, content: Any) -> None:
    """One file of a demo tree, with its folders and a fixed modification time.

    `content` is bytes, written as they are; for a zip or tar its members by name, without times and owners; for a table
    (Parquet, JSON Lines, CSV, TSV) its rows, the columns those of the first one; for JSON any value. A CSV may also be
    lists of cells, the names first. Before `.gz` and `.zst` stands the name of what is packed.
    """
    make_folder(path.parent)
    path.write_bytes(_bytes(path.name, content))
    os.utime(path, (DEMO_TIME, DEMO_TIME))


def _bytes(name: str, content: Any) -> bytes:
    stem, _, kind = name.rpartition(".")
    buffer, text = io.BytesIO(), io.StringIO()
    if isinstance(content, bytes):
        return content
    if kind == "gz":
        return gzip.compress(_bytes(stem, content), mtime=0)
    if kind == "zst":
        import pyarrow as pa

        packed = pa.BufferOutputStream()
        with pa.CompressedOutputStream(packed, "zstd") as stream:
            stream.write(_bytes(stem, content))
        return bytes(packed.getvalue())
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            for member, data in content.items():
                archive.writestr(zipfile.ZipInfo(member), data)
    elif kind == "tar":
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            for member, data in content.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    elif kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(content if isinstance(content, pa.Table) else pa.Table.from_pylist(content), buffer)
    elif kind in ("csv", "tsv"):
        if isinstance(content[0], dict):
            content = [list(content[0]), *(row.values() for row in content)]
        csv.writer(text, delimiter="\t" if kind == "tsv" else ",", lineterminator="\n").writerows(content)
    elif kind == "jsonl":
        text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
    else:
        json.dump(content, text, ensure_ascii=False, indent=1)
    return buffer.getvalue() or text.getvalue().encode()
