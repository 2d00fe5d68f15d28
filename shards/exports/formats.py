"""The formats that other trainers read: how a row looks, what file a piece becomes, what lies beside the files.

Checked by their own readers (tests, where those are installed): Parquet by `datasets`, TRL's collator, JSON Lines by
`datasets`, tars by webdataset and Energon, MDS by mosaicml-streaming. LLaVA, ShareGPT, ms-swift, LLaMA-Factory and
InternVL are written by their documented schemas; their trainers were not run.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from medgpt.atomic import AtomicFile, write_atomic
from medgpt.private import make_folder
from shards.exports.rows import IMAGE_TAG, Refused, Row
from shards.writer import add_member, end_archive

DATA = "data"
"""Folder of an export that has its data, a folder or a file a build."""
_GROUP_BYTES, _GROUP_ROWS = 32 << 20, 1024
"""A row group of Parquet is closed past either: what a reader that wants one row has to read."""
_TEXT = pa.string()
_PICTURE = [pa.field("bytes", pa.binary()), pa.field("path", _TEXT)]
_PICTURES = pa.list_(pa.struct(_PICTURE))
_COMPRESSED = ("id", "messages.list.element.content", "messages.list.element.reasoning",
               "messages.list.element.content.list.element.text")  # fmt: skip
_REPEATED = ["source", "split", "task", "license"]
_ABOUT = [(name, _TEXT) for name in ("id", "source", "split", "task", "license")]
_SHARED_TALK = {"user": "human", "assistant": "gpt", "system": "system"}


class Written(NamedTuple):
    """A file of an export."""

    file: str
    """Below the folder of the export."""
    size: int
    sha256: str
    samples: int


class Built(NamedTuple):
    """A build as it was exported, for what lies beside its files."""

    name: str
    files: Sequence[Written]
    samples: int
    pictures: int


class Format(NamedTuple):
    """A way of writing samples down."""

    about: str
    """For whom, and how pictures stand in it: a sentence of the card."""
    row: Callable[[Row, Sequence[str]], Any]
    """A row and the paths of its pictures -> what `write` takes."""
    write: Callable[[AtomicFile, Iterable[Any], Mapping[str, Any]], None]
    """Write the rows of a piece into a file; gets the options of the format."""
    suffix: str
    options: Mapping[str, Any] = {}
    joined: str = ""
    """`lines` or `array`: pieces become one file of a build."""
    beside: Callable[[Path, Sequence[Built]], None] = lambda folder, builds: None
    """Write the index files of the whole export."""

    @property
    def pictures_as_files(self) -> bool:
        """Whether rows name pictures that lie beside them, instead of holding their bytes."""
        return bool(self.joined)


def picture_names(row: Row) -> list[str]:
    """Names for pictures that are held as bytes: the sample's id and their numbers."""
    return [f"{row.record['id']}.{number}.{kind}" for number, kind in enumerate(row.kinds)]


# Parquet

_PART = pa.struct([("type", _TEXT), ("text", _TEXT)])
_MESSAGES = {
    "parquet": pa.list_(
        pa.struct(
            [("role", _TEXT), ("reasoning", _TEXT),
             ("content", pa.list_(pa.struct([("type", _TEXT), ("text", _TEXT), ("index", pa.int32())])))]
        )
    ),
    "hf": pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)])),
    "trl": pa.list_(pa.struct([("role", _TEXT), ("content", pa.list_(_PART))])),
}  # fmt: skip


def parquet_schema(name: str, pictures: bool) -> pa.Schema:
    """The columns of `parquet`, `hf` or `trl`; those for `datasets` say in its own words what they are."""
    schema = pa.schema([*_ABOUT, ("messages", _MESSAGES[name]), *[("images", _PICTURES)] * pictures])
    if name == "parquet":
        return schema
    features = {field.name: _feature(field.type) for field in schema}
    return schema.with_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def _feature(kind: pa.DataType) -> Any:
    """A column as `datasets` spells it (its `Features.to_dict`)."""
    if kind == _PICTURES:
        return {"feature": {"_type": "Image"}, "_type": "List"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {kind.field(at).name: _feature(kind.field(at).type) for at in range(kind.num_fields)}
    return {"dtype": str(kind), "_type": "Value"}


def _with_bytes(row: Row, messages: Any) -> dict[str, Any]:
    pictures = [{"bytes": data, "path": path} for data, path in zip(row.images, picture_names(row), strict=True)]
    return {**row.about(), "messages": messages, "images": pictures}


def _parquet_row(row: Row, paths: Sequence[str]) -> dict[str, Any]:
    return _with_bytes(row, row.record["messages"])


def _hf_row(row: Row, paths: Sequence[str]) -> dict[str, Any]:
    return _with_bytes(row, [{"role": role, "content": text} for role, text in row.texts()])


def _trl_row(row: Row, paths: Sequence[str]) -> dict[str, Any]:
    messages = []
    for message in row.record["messages"]:
        parts = [{"type": part["type"], "text": part["text"]} for part in message["content"]]
        if message["reasoning"]:
            parts.insert(0, {"type": "text", "text": f"<think>\n{message['reasoning']}\n</think>\n\n"})
        messages.append({"role": message["role"], "content": parts})
    return _with_bytes(row, messages)


def _write_parquet(file: AtomicFile, rows: Iterable[Any], options: Mapping[str, Any]) -> None:
    schema = parquet_schema(options["schema"], options["pictures"])
    packed = dict.fromkeys(_COMPRESSED, "ZSTD")
    with pq.ParquetWriter(file, schema, compression=packed, use_dictionary=_REPEATED, write_statistics=False) as writer:
        for group in _groups(rows):
            writer.write_table(_table(group, schema))


def _groups(rows: Iterable[Any]) -> Iterator[list[Any]]:
    group: list[Any] = []
    size = 0
    for row in rows:
        group.append(row)
        size += sum(len(picture["bytes"]) for picture in row["images"])
        if size >= _GROUP_BYTES or len(group) == _GROUP_ROWS:
            yield group
            group, size = [], 0
    if group:
        yield group


def _table(rows: Sequence[Any], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_arrays([_column(rows, field) for field in schema], schema=schema)


def _column(rows: Sequence[Any], field: pa.Field) -> pa.Array:
    """A column; pictures go in as one column of bytes, five times faster than by way of dictionaries."""
    if field.type != _PICTURES:
        return pa.array([row[field.name] for row in rows], field.type)
    pictures = [picture for row in rows for picture in row["images"]]
    parts = [pa.array([picture[part.name] for picture in pictures], part.type) for part in _PICTURE]
    ends = np.cumsum([0, *(len(row["images"]) for row in rows)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.StructArray.from_arrays(parts, fields=_PICTURE))


# JSON


def _message_row(row: Row, paths: Sequence[str]) -> dict[str, Any]:
    return {
        **row.about(),
        "messages": [{"role": role, "content": text} for role, text in row.texts()],
        **_images_key(paths),
    }


def _sharegpt_row(row: Row, paths: Sequence[str]) -> dict[str, Any]:
    talk = [{"from": _SHARED_TALK[role], "value": text} for role, text in row.texts()]
    return {**row.about(), "conversations": talk, **_images_key(paths)}


def _llava_row(row: Row, paths: Sequence[str]) -> dict[str, Any]:
    """LLaVA's own loader knows people and models only, so a system message stands before the first question."""
    texts = row.texts(f"{IMAGE_TAG}\n")
    if texts[0][0] == "system":
        (_, system), (role, asked), *rest = texts
        texts = [(role, f"{system}\n\n{asked}"), *rest]
    return {**row.about(), **_image_key(paths), "conversations": _turns(texts)}


def _internvl_row(row: Row, paths: Sequence[str]) -> dict[str, Any]:
    return {**row.about(), **_image_key(paths), "conversations": _turns(row.texts(f"{IMAGE_TAG}\n"))}


def _images_key(paths: Sequence[str]) -> dict[str, Any]:
    """No empty list: of a build without pictures, `datasets` would take its items to be null."""
    return {"images": paths} if paths else {}


def _image_key(paths: Sequence[str]) -> dict[str, Any]:
    return {"image": paths[0] if len(paths) == 1 else paths} if paths else {}


def _turns(texts: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Turns of a conversation, which both loaders want to begin with a question and to alternate."""
    talk = texts[1:] if texts[0][0] == "system" else texts
    if [role for role, _ in talk] != ["user", "assistant"] * (len(talk) // 2) or not talk:
        raise Refused("is no conversation of question and answer in turn, which this format wants")
    return [{"from": _SHARED_TALK[role], "value": text} for role, text in texts]


def _write_lines(file: AtomicFile, rows: Iterable[Any], options: Mapping[str, Any]) -> None:
    for row in rows:
        file.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))


def _llama_factory(folder: Path, builds: Sequence[Built]) -> None:
    """`dataset_info.json`: LLaMA-Factory's `data/README.md`, "sharegpt" with the roles of OpenAI's messages."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    _write_json(folder / "dataset_info.json", {
        build.name: {
            "file_name": build.files[0].file, "formatting": "sharegpt",
            "columns": {"messages": "messages", **({"images": "images"} if build.pictures else {})},
            "tags": {**tags, "system_tag": "system"},
        }
        for build in builds
    })  # fmt: skip


def _internvl(folder: Path, builds: Sequence[Built]) -> None:
    """`meta.json`, which InternVL's `--meta_path` names: paths are from where training starts."""
    _write_json(folder / "meta.json", {
        build.name: {
            "root": "", "annotation": build.files[0].file, "data_augment": False, "repeat_time": 1,
            "length": build.samples,
        }
        for build in builds
    })  # fmt: skip


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, orjson.dumps(value, option=orjson.OPT_INDENT_2))


# Tars and MDS


def _tar_row(row: Row, paths: Sequence[str]) -> tuple[str, bytes, list[tuple[str, bytes]]]:
    document = {**row.about(), "messages": row.record["messages"]}
    pictures = [(f"{at}.{kind}", data) for at, (kind, data) in enumerate(zip(row.kinds, row.images, strict=True))]
    return row.record["id"], orjson.dumps(document), pictures


def _write_energon(file: AtomicFile, rows: Iterable[Any], options: Mapping[str, Any]) -> None:
    """A tar, and beside it where each of its samples begins and where the last ends, as numbers of 8 bytes."""
    offsets = []
    for sample, document, pictures in rows:
        offsets.append(file.size)
        add_member(file, f"{sample}.json", document)
        for name, data in pictures:
            add_member(file, f"{sample}.{name}", data)
    offsets.append(file.size)
    end_archive(file)
    write_atomic(file.path.with_suffix(".tar.idx"), np.array(offsets, "<u8").tobytes())


def _energon(folder: Path, builds: Sequence[Built]) -> None:
    """`.nv-meta`, as `energon prepare` writes it for a crude dataset: a task encoder's cookers make samples of it.

    Not `index.sqlite`, which random access by key needs: `energon prepare` adds it.
    """
    place = folder / ".nv-meta"
    make_folder(place)
    tars = {written.file: written.samples for build in builds for written in build.files}
    for name, value in {
        ".info.yaml": {"shard_counts": tars},
        "split.yaml": {"split_parts": {"train": list(tars), "val": [], "test": []}, "exclude": []},
        "dataset.yaml": {"__module__": "megatron.energon", "__class__": "CrudeWebdataset"},
    }.items():
        write_atomic(place / name, yaml.safe_dump(value, sort_keys=False).encode())


_MDS = {name: "str" for name, _ in _ABOUT} | {"messages": "json", "image_sizes": "json", "images": "bytes"}
_MDS_HEAD = {
    "version": 2, "format": "mds", "compression": None, "hashes": ["sha256"], "size_limit": None,
    "column_names": sorted(_MDS), "column_encodings": [_MDS[name] for name in sorted(_MDS)],
    "column_sizes": [None] * len(_MDS),
}  # fmt: skip


def _mds_row(row: Row, paths: Sequence[str]) -> bytes:
    """A sample: the sizes of its columns, then the columns, in the order of their names.

    MDS has no column of several pictures: they stand one behind another in `images`, cut by `image_sizes`.
    """
    columns = {name: value.encode() for name, value in row.about().items()}
    columns["messages"] = orjson.dumps(row.record["messages"])
    columns["image_sizes"] = orjson.dumps([len(data) for data in row.images])
    columns["images"] = b"".join(row.images)
    values = [columns[name] for name in sorted(_MDS)]
    return b"".join([np.array([len(value) for value in values], "<u4").tobytes(), *values])


def _write_mds(file: AtomicFile, rows: Iterable[Any], options: Mapping[str, Any]) -> None:
    """A shard: number of samples, where each begins and the last ends, a description, the samples."""
    samples = list(rows)
    head = json.dumps(_MDS_HEAD, sort_keys=True).encode()
    ends = np.cumsum([0, *map(len, samples)]) + 4 * (len(samples) + 2) + len(head)
    file.write(np.array([len(samples), *ends], "<u4").tobytes() + head)
    for sample in samples:
        file.write(sample)


def _mds(folder: Path, builds: Sequence[Built]) -> None:
    """`index.json` in the folder of each build: a build is a stream of mosaicml-streaming."""
    for build in builds:
        shards = [
            {**_MDS_HEAD, "samples": written.samples, "zip_data": None, "raw_data": {
                "basename": Path(written.file).name, "bytes": written.size, "hashes": {"sha256": written.sha256},
            }}
            for written in build.files
        ]  # fmt: skip
        _write_json(folder / DATA / build.name / "index.json", {"version": 2, "shards": shards})


_BYTES = "Pictures are bytes in the column `images`"
_FILES = "Pictures are files; their paths are from this folder"
FORMATS: dict[str, Format] = {
    "parquet": Format(
        f"Parquet for any reader, messages as they are built: parts, reasoning apart. {_BYTES}.",
        _parquet_row, _write_parquet, ".parquet", {"schema": "parquet"},
    ),
    "hf": Format(
        f"Parquet for `datasets`: messages with `{IMAGE_TAG}` where a picture stands. {_BYTES}, a list of `Image`.",
        _hf_row, _write_parquet, ".parquet", {"schema": "hf"},
    ),
    "trl": Format(
        f"Parquet for TRL: messages in parts, pictures where they stand. {_BYTES}, a list of `Image`.",
        _trl_row, _write_parquet, ".parquet", {"schema": "trl"},
    ),
    "llava": Format(
        f"LLaVA's JSON, a file a build for `--data_path`. {_FILES}, which is `--image_folder`. A system message stands "
        "before the first question.",
        _llava_row, _write_lines, ".json", joined="array",
    ),
    "sharegpt": Format(
        f"ShareGPT's JSON: conversations of human and gpt, `{IMAGE_TAG}` where a picture stands. {_FILES}.",
        _sharegpt_row, _write_lines, ".json", joined="array",
    ),
    "ms-swift": Format(
        f"JSON Lines for ms-swift, a file a build for `--dataset`. {_FILES}, which is `ROOT_IMAGE_DIR`.",
        _message_row, _write_lines, ".jsonl", joined="lines",
    ),
    "llama-factory": Format(
        f"JSON Lines and `dataset_info.json` for LLaMA-Factory. {_FILES}, which is `dataset_dir` and `media_dir`.",
        _message_row, _write_lines, ".jsonl", joined="lines", beside=_llama_factory,
    ),
    "internvl": Format(
        f"JSON Lines and `meta.json` for InternVL's `--meta_path`. {_FILES}: start there, or set each `root`.",
        _internvl_row, _write_lines, ".jsonl", joined="lines", beside=_internvl,
    ),
    "energon": Format(
        "WebDataset tars with Energon's `.nv-meta`, a crude dataset: `ID.json` has the messages, `ID.0.jpg` and on are "
        "its pictures. For random access by key run `energon prepare`.",
        _tar_row, _write_energon, ".tar", beside=_energon,
    ),
    "mds": Format(
        "MDS for mosaicml-streaming, a stream a build. Pictures stand one behind another in `images`, cut by "
        "`image_sizes`.",
        _mds_row, _write_mds, ".mds", beside=_mds,
    ),
}  # fmt: skip
