"""Files of others, changed by chance: a documented exit code, one line, bounded time and memory, books that add up.

    python tests/fuzz.py /dev/shm/fuzz --runs 10000
    python tests/fuzz.py /dev/shm/fuzz --scenes build:slake policy --seed 3 --only 17

A scene is a command over a small tree of demo data. Each run changes one file of it (its structure where there is
one: JSON, YAML, CSV, XML, zip, tar, gzip, Parquet, Arrow, JPEG, PNG, safetensors; else bytes) and runs the command in a
fork of this process, one in `--fresh` runs as a process of its own. What a run does depends on seed and number alone,
so `--only N` repeats it. Findings are printed and their files kept in WORK/found; those that were mended are in
`tests/fuzzed` and run first. Linux.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import importlib
import importlib.util
import io
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import struct
import sys
import tarfile
import time
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "fuzzed"
CANARY = "The patient Zebedee Quillfeather coughs at night"
"""Report text: no message may show it."""
PICTURE_CANARY = b"Quetzalcoatlus-8812"
"""Hidden in pictures beside what is decoded: no file that a build writes may hold it."""
SOURCES = ("slake", "medmcqa")
"""What commands of data work on: pictures and texts, both roles, planted overlaps."""
SECONDS, MEGABYTES = 30, 700
"""Processor time of a run, and memory beside that of the process it is forked from."""
TOKENS = [
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\r", b"\r\n", b"\n", b'"', b"'", b",", b"\t", b"{", b"}", b"[", b"]", b"null",
    b"NaN", b"-1", b"1e999", b"9" * 30, b"9" * 5000, b'"\\ud800"', b"\\u0000", b"../../../../etc/passwd", b"<", b"&",
    b"[" * 3000, b"A" * 300, b"A" * 70000, "\u202e\u0301".encode(), b"\xed\xa0\x80", b"{}", b"[]", b'""', b"\x1b[31m",
    b"IEND", b"PK\x03\x04", b"\xff\xd8\xff", b"\xff\xd9", b"&x;", b"!!python/object:os.system", b"*a", b"&a", b"<<:",
    CANARY.encode(),
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, -1, 1e308, 10**30, "", " ", "A" * 300, "a\x00b", "../../x", "/etc/passwd", "\ud800", "\u202e",
    [], {}, [None], {"a": 1}, [[]], "a/b", "a\nb", "=cmd()", "NaN", float("nan"), float("inf"), "\u00e9" * 200, ".",
    "\x1b[31m", 2**63, -(2**63), "2", CANARY, [CANARY], {CANARY: CANARY}, 0.5,
]  # fmt: skip
Change = Callable[[random.Random, bytes], bytes]


# ---- what may be done to a file


def of_bytes(chance: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        kind, size = chance.randrange(8), len(out)
        if not size:
            out += chance.choice(TOKENS)
            continue
        at = chance.randrange(size)
        if kind == 0:
            out[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            out[at] = chance.randrange(256)
        elif kind == 2:
            del out[at : at + chance.choice([1, 2, 8, 64, 1024])]
        elif kind == 3:
            out[at:at] = chance.choice(TOKENS)
        elif kind == 4:
            del out[at:]
        elif kind == 5:
            other = chance.randrange(size)
            out[at:at] = out[other : other + chance.choice([1, 16, 256])]
        elif kind == 6:
            token = chance.choice(TOKENS)
            out[at : at + len(token)] = token
        else:
            out[at : at + 4] = chance.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\0"])
    return bytes(out)


def of_value(chance: random.Random, value: Any) -> Any:
    """Something near it: a key or an item gone, renamed, twice or of another type, a letter of a text changed."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key, out, kind = chance.choice(list(value)), dict(value), chance.random()
        if kind < 0.12:
            del out[key]
        elif kind < 0.2:
            out[f"{key}x"] = out.pop(key)
        elif kind < 0.25:
            out[CANARY] = chance.choice(VALUES)
        else:
            out[key] = of_value(chance, out[key])
        return out
    if isinstance(value, list) and value and chance.random() < 0.85:
        at, items, kind = chance.randrange(len(value)), list(value), chance.random()
        if kind < 0.1:
            del items[at]
        elif kind < 0.2:
            items.insert(at, items[at])
        else:
            items[at] = of_value(chance, items[at])
        return items
    if isinstance(value, str) and value and chance.random() < 0.3:
        at = chance.randrange(len(value))
        put = chance.choice(["\x00", "\ud83d", "/", "..", "\n", "\r", "\u2028", ",", '"', "<", "", "\x1b[2J"])
        return value[:at] + put + value[at + 1 :]
    if isinstance(value, int | float) and not isinstance(value, bool) and chance.random() < 0.3:
        return chance.choice([value + 1, -value, value * 1000, value / 2])
    return chance.choice(VALUES)


def of_json(chance: random.Random, data: bytes) -> bytes:
    text = data.decode()
    try:
        if data.startswith(b'{"changes"') and chance.random() < 0.8:  # of a checkpoint: with its own digest
            return signed(of_value(chance, {k: v for k, v in json.loads(text).items() if k != "sha256"}))
        return json.dumps(of_value(chance, json.loads(text))).encode()
    except ValueError:
        lines = text.splitlines()
        at = chance.randrange(len(lines))
        lines[at] = json.dumps(of_value(chance, json.loads(lines[at])))
        return "\n".join(lines).encode("utf-8", "surrogatepass")


def of_yaml(chance: random.Random, data: bytes) -> bytes:
    import yaml

    return yaml.safe_dump(of_value(chance, yaml.safe_load(data)), allow_unicode=chance.random() < 0.5).encode()


def of_csv(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\n")
    at = chance.randrange(len(lines))
    sign = b"\t" if b"\t" in lines[0] else b","
    cells = lines[at].split(sign)
    cells[chance.randrange(len(cells))] = str(chance.choice(VALUES)).encode("utf-8", "surrogatepass")
    lines[at] = sign.join(cells)
    return b"\n".join(lines)


def of_xml(chance: random.Random, data: bytes) -> bytes:
    """A tag gone, twice, renamed or nested deeply; entities that expand."""
    tags = list(re.finditer(rb"<[^>]+>", data))
    tag, kind = chance.choice(tags), chance.randrange(5)
    if kind == 0:
        return data[: tag.start()] + data[tag.end() :]
    if kind == 1:
        return data[: tag.end()] + tag[0] + data[tag.end() :]
    if kind == 2:
        return data.replace(tag[0], b"<x y='1'>")
    if kind == 3:
        return data[: tag.end()] + b"<a>" * 5000 + data[tag.end() :]
    bomb = b'<!DOCTYPE a [<!ENTITY x "%s"><!ENTITY y SYSTEM "file:///etc/passwd">]>' % (b"A" * 5000)
    return data.replace(b"<", bomb + b"<", 1)[: tag.end() + len(bomb)] + b"&x;&y;" * 50 + data[tag.end() :]


def of_jpeg(chance: random.Random, data: bytes) -> bytes:
    """A segment put in, behind the start or the end; hidden text and a second picture among it."""
    hidden = PICTURE_CANARY + chance.choice([b"", data, b"\0" * 70])
    marker = bytes([0xFF, chance.choice([*range(0xE0, 0xF0), 0xFE, 0xDB, 0xC4, 0xDD])])
    segment = marker + struct.pack(">H", len(hidden[:60000]) + 2) + hidden[:60000]
    if marker[1] in (0xE1, 0xE2, 0xED):
        head = {0xE1: b"Exif\0\0MM\0*\0\0\0\x08", 0xE2: b"ICC_PROFILE\0\x01\x01", 0xED: b"Photoshop 3.0\0"}[marker[1]]
        segment = marker + struct.pack(">H", len(head + hidden[:60000]) + 2) + head + hidden[:60000]
    scan = data.rfind(b"\xff\xda")
    at = chance.choice([2, scan, len(data) - 2, None])
    return data + hidden if at is None else data[:at] + segment + data[at:]


def of_png(chance: random.Random, data: bytes) -> bytes:
    """A chunk put in, with the right checksum."""
    kind = chance.choice([
        b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"fdAT", b"prVt", b"tRNS", b"PLTE", b"IEND",
        b"IDAT", b"tIME", b"sBIT", b"gAMA",
    ])  # fmt: skip
    body = {
        b"zTXt": b"k\0\0" + zlib.compress(PICTURE_CANARY), b"iCCP": b"k\0\0" + zlib.compress(PICTURE_CANARY),
        b"acTL": struct.pack(">II", 2, 0), b"fcTL": struct.pack(">5I2H2B", 0, 1, 1, 0, 0, 1, 1, 0, 0),
    }.get(kind, b"k\0" + PICTURE_CANARY)  # fmt: skip
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    places = [33, data.find(b"IDAT") - 4, data.rfind(b"IEND") - 4, len(data)]
    at = chance.choice(places)
    return data[:at] + chunk + data[at:]


def of_zip(chance: random.Random, data: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        items = [(info.filename, source.read(info)) for info in source.infolist()]
    at, kind = chance.randrange(len(items)), chance.randrange(8)
    name, content = items[at]
    if kind < 3:
        items[at] = (name, mutated(chance, name, content))
    elif kind == 3:
        items.append((name, content[::-1]))
    elif kind == 4:
        items[at] = (chance.choice(["../", "/", "a\\..\\", "\x1b[31m"]) + name, content)
    elif kind == 5:
        del items[at]
    elif kind == 6:
        items[at] = (name.upper(), content)
    else:
        items[at] = (name, b"\0" * 300_000_000 if chance.random() < 0.2 else b"")
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", chance.choice([0, 8, 12, 14])) as target:
        warnings.simplefilter("ignore")
        for name, content in items:
            target.writestr(name, content, 8 if len(content) > 1_000_000 else None)
    return of_bytes(chance, out.getvalue()) if chance.random() < 0.3 else out.getvalue()


def of_tar(chance: random.Random, data: bytes) -> bytes:
    out = io.BytesIO()
    packed = data[:2] == b"\x1f\x8b"
    with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(
        fileobj=out, mode="w:gz" if packed else "w"
    ) as target:  # fmt: skip
        members = source.getmembers()
        chosen = chance.randrange(len(members))
        for number, member in enumerate(members):
            found = source.extractfile(member) if member.isreg() else None
            content = found.read() if found else b""
            kind = chance.randrange(9) if number == chosen else None
            if kind in (0, 1, 2):
                content = mutated(chance, member.name, content)
                member.size = len(content)
            elif kind == 3:
                member.name = chance.choice(["../", "/", "\x1b[31m"]) + member.name
            elif kind == 4:
                member.type = chance.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
                member.linkname, member.size, content = "/etc/passwd", 0, b""
            elif kind == 5:
                target.addfile(member, io.BytesIO(content))
            elif kind == 6:
                continue
            elif kind == 7:
                member.pax_headers = {"comment": CANARY, "path": member.name + "\n", "size": "-5"}
            target.addfile(member, io.BytesIO(content))
    return of_bytes(chance, out.getvalue()) if chance.random() < 0.3 else out.getvalue()


def changed_table(chance: random.Random, table: Any) -> Any:
    """A column of another type, gone, renamed or with one odd cell; no rows; rows twice."""
    import pyarrow as pa

    kind = chance.random()
    name, rows = chance.choice(table.column_names), table.num_rows
    at = table.column_names.index(name)
    if kind < 0.35:
        new = chance.choice(
            [pa.nulls(rows), pa.array([1.5] * rows), pa.array([b"\xff\x00"] * rows), pa.array([[None]] * rows),
             pa.array(["x"] * rows).dictionary_encode(), pa.array([{"bytes": None, "path": None}] * rows),
             pa.array([10**17] * rows), pa.array([True] * rows), pa.array([CANARY] * rows)]
        )  # fmt: skip
        return table.set_column(at, name, new)
    if kind < 0.7 and rows:
        values, type_ = table.column(at).to_pylist(), table.schema.field(at).type
        row = chance.randrange(rows)
        values[row] = of_value(chance, values[row])
        try:
            new = pa.array(values, type=type_)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            values[row] = None
            new = pa.array(values, type=type_)
        return table.set_column(at, name, new)
    if kind < 0.78:
        return table.drop_columns([name])
    if kind < 0.84:
        return table.slice(0, 0)
    if kind < 0.9:
        return pa.concat_tables([table, table])
    return table.rename_columns([CANARY if n == name else n for n in table.column_names])


def of_parquet(chance: random.Random, data: bytes) -> bytes:
    import pyarrow.parquet as pq

    out, table = io.BytesIO(), changed_table(chance, pq.read_table(io.BytesIO(data), use_threads=False))
    packing = chance.choice(["none", "zstd", "gzip"])
    pq.write_table(table, out, row_group_size=chance.choice([1, 3, 1000]), compression=packing)
    return of_bytes(chance, out.getvalue()) if chance.random() < 0.35 else out.getvalue()


def of_arrow(chance: random.Random, data: bytes) -> bytes:
    import pyarrow as pa

    out, file = io.BytesIO(), data[:6] == b"ARROW1"
    with (pa.ipc.open_file if file else pa.ipc.open_stream)(io.BytesIO(data)) as source:
        table = changed_table(chance, source.read_all())
    with (pa.ipc.new_file if file else pa.ipc.new_stream)(out, table.schema) as target:
        target.write_table(table)
    return of_bytes(chance, out.getvalue()) if chance.random() < 0.35 else out.getvalue()


def of_safetensors(chance: random.Random, data: bytes) -> bytes:
    """The header's JSON, or its length, or the file's end."""
    (size,) = struct.unpack("<Q", data[:8])
    header = of_json(chance, data[8 : 8 + size]).ljust(8)
    if chance.random() < 0.2:
        size = chance.choice([0, 2**63, 2**64 - 1, size + 8, len(data)])
        return struct.pack("<Q", size) + data[8:]
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


STRUCTURES: list[tuple[tuple[str, ...], Change]] = [
    ((".json", ".jsonl"), of_json), ((".csv", ".tsv"), of_csv), ((".zip",), of_zip), ((".parquet",), of_parquet),
    ((".arrow",), of_arrow), ((".yaml", ".yml"), of_yaml), ((".xml",), of_xml), ((".jpg", ".jpeg"), of_jpeg),
    ((".png",), of_png), ((".safetensors",), of_safetensors), ((".tar", ".tar.gz", ".tgz"), of_tar),
]  # fmt: skip


def mutated(chance: random.Random, name: str, data: bytes) -> bytes:
    """`data` of a file of that name, changed."""
    name = name.lower()
    if chance.random() < 0.3:
        return of_bytes(chance, data)
    # What a change cannot take apart (a reader's own errors, any of them) is changed by bytes.
    with contextlib.suppress(Exception):
        for endings, change in STRUCTURES:
            if name.endswith(endings):
                return change(chance, data)
        if name.endswith(".gz"):
            return gzip.compress(mutated(chance, name[:-3], gzip.decompress(data)))
    return of_bytes(chance, data)


# ---- what is run over it


@dataclass(frozen=True)
class Scene:
    """Commands over a tree, one file of which is changed."""

    tree: str
    """Below the prepared folder; the run's copy, if `writes`, is a folder of the same name."""
    files: tuple[str, ...]
    """What is changed: patterns below the tree."""
    steps: tuple[tuple[str, tuple[str, ...]], ...]
    """(module, words); {tree} and {out} are filled in. Those behind the first run after it, however it ended."""
    writes: bool = True
    """The commands write into the tree."""
    lists: bool = False
    """What it finds it may list, a line each."""
    shows: bool = False
    """Its output is the content itself; its errors are not."""
    own: bool = False
    """The file is the user's own settings, which an error may quote."""
    build: str | None = None
    """The source that is built, whose books are looked at."""


def scenes() -> dict[str, Scene]:
    """All scenes by name. Commands of data over two sources: pictures and texts, both roles."""
    from builders.engine.registry import load, modules

    found = {}
    for name in modules():
        more = (
            *(("--filters", "none") if load(name).filters else ()),
            *(("--limit", "12") if name == "mimic_cxr" else ()),
        )
        words = ("--raw", "{tree}", "--out", "{out}", "--workers", "1", "--json", *more)
        found[f"build:{name}"] = Scene(f"raw/{name}", ("**/*",), ((f"builders.{name}", words),), False, build=name)
    corpus = ("--raw", "{tree}/train", "--role", "train", "--out", "{out}", "--workers", "1", "--json")
    mapped = (*corpus, "--mapping", "{tree}/map.yaml")
    prove = ("{tree}", "--benchmarks", "present", "--workers", "1", "--quiet", "--no-rewrites")
    pack = ("{tree}", "--stage", "instruct", "--only-present", "--accept-incomplete", "--workers", "1")
    recipe = ("{tree}", "--recipe", "{tree}/recipe.yaml", "--quiet")
    run = ("{tree}", "--tasks", "slake", "medmcqa", "--out", "{out}/run", "--quiet")
    built, proof = ("built/**/*",), ("proof/*.parquet", "proof/*.json")
    return found | {
        "corpus": Scene("corpus", ("train/**/*",), (("builders.corpus", corpus),), False),
        "mapping": Scene("corpus", ("map.yaml",), (("builders.corpus", mapped),), False, own=True),
        "verify_shards": Scene("data", built, (("shards.verify", ("{tree}/built",)),), False, lists=True),
        "catalog": Scene("data", built, (("manifests.catalog", ("{tree}",)),)),
        "audits": Scene("data", built, (("manifests.sql", ("{tree}", "--audit", "all")),), lists=True, shows=True),
        "show": Scene("data", built, (("shards.show", ("{tree}", "--random")),), shows=True),
        "stats": Scene("data", built, (("shards.stats", ("{tree}",)),)),
        "prove": Scene("data", built, (("manifests.prove", prove),), lists=True),
        "verify": Scene(
            "data",
            (*built, *proof, "raw/**/*"),
            (("manifests.verify", ("{tree}", "--raw", "{tree}/raw", "--workers", "1", "--quiet")),),
            lists=True,
        ),
        "check": Scene("data", built, (("manifests.check", ("{tree}", "--text", "Does the patient have a cough?")),)),
        "pack": Scene("data", (*built, *proof), (("shards.pack", pack),), lists=True),
        "export": Scene(
            "data",
            (*built, *proof),
            (
                (
                    "shards.export",
                    ("{tree}", "--format", "trl", "--out", "{out}/trl", "--accept-incomplete", "--workers", "1"),
                ),
            ),
        ),
        "policy": Scene(
            "data",
            ("policy.yaml",),
            (("manifests.prove", (*prove, "--policy", "{tree}/policy.yaml")),),
            lists=True,
            own=True,
        ),
        "verdicts": Scene(
            "data",
            ("verdicts.jsonl",),
            (("manifests.prove", (*prove, "--verdicts", "{tree}/verdicts.jsonl")),),
            lists=True,
            own=True,
        ),
        "mixture": Scene(
            "data",
            ("mixture.yaml",),
            (("shards.pack", (*pack, "--mixture", "{tree}/mixture.yaml")),),
            lists=True,
            own=True,
        ),
        "recipe": Scene("data", ("recipe.yaml",), (("filters.run", recipe), ("filters.decide", recipe[:3])), own=True),
        "scores": Scene("data", ("scores/**/*", *built), (("filters.decide", recipe[:3]),)),
        "task": Scene(
            "data",
            ("task.yaml",),
            (("eval.run", (*run, "--baseline", "majority", "--task-file", "{tree}/task.yaml")),),
            own=True,
        ),
        "card": Scene(
            "data", ("card.yaml",), (("eval.run", (*run, "--model", "{tree}/card.yaml", "--dry-run")),), own=True
        ),
        "answers": Scene(
            "data", ("run/**/*",), (("eval.score", ("{tree}/run", "--data", "{tree}", "--quiet")),), lists=True
        ),
        "scored": Scene(
            "data",
            ("run/**/*",),
            (("eval.report", ("{tree}/run", "--data", "{tree}", "--out", "{out}/page.html")),),
            lists=True,
        ),
        "resumed_run": Scene(
            "data",
            ("run/**/*",),
            (
                (
                    "eval.run",
                    (
                        "{tree}",
                        "--tasks",
                        "slake",
                        "medmcqa",
                        "--out",
                        "{tree}/run",
                        "--quiet",
                        "--baseline",
                        "majority",
                    ),
                ),
            ),
        ),
        "stage": Scene("data", ("stage.yaml",), (("fuzz", ("{tree}/stage.yaml",)),), own=True),
        "checkpoint": Scene("checkpoint", ("step-00000001/*",), (("fuzz", ("{tree}",)),)),
    }


def prepare(home: Path, sources: Iterable[str], command: Callable[..., None]) -> None:
    """Write the trees that scenes start from: demo trees, and what `command` (module, words) makes of two of them."""
    import pyarrow as pa
    from pyarrow import orc

    from builders.engine.registry import load

    for name in sources:
        load(name).write_demo(home / "raw" / name)
    data = home / "data"
    for name in SOURCES:
        shutil.copytree(home / "raw" / name, data / "raw" / name)
        command(f"builders.{name}", "--raw", str(data / "raw" / name), "--out", str(data / "built"), "--limit", "12",
                "--workers", "1")  # fmt: skip
    proved = (str(data), "--benchmarks", "present", "--workers", "1", "--no-rewrites")
    command("manifests.prove", *proved)
    files = {
        "policy.yaml": ROOT / "manifests/proof/policies/default.yaml",
        "stage.yaml": ROOT / "train/presets/instruct.yaml",
        "card.yaml": ROOT / "eval/models/medgpt_oss_ours.yaml",
    }  # fmt: skip
    for name, path in files.items():
        shutil.copyfile(path, data / name)
    (data / "mixture.yaml").write_text(
        "format: 1\nname: m\nsources:\n  - {build: slake, epochs: 1}\n  - {build: medmcqa, samples: 3}\n"
    )
    (data / "recipe.yaml").write_text(RECIPE)
    (data / "task.yaml").write_text(TASK)
    (data / "verdicts.jsonl").write_text(json.dumps(a_verdict(data)) + "\n")
    command("filters.run", str(data), "--recipe", str(data / "recipe.yaml"))
    command("eval.run", str(data), "--tasks", "slake", "medmcqa", "--baseline", "majority", "--out", str(data / "run"))
    command("eval.score", str(data / "run"), "--data", str(data))
    corpus = home / "corpus" / "train"
    corpus.mkdir(parents=True)
    shutil.copytree(home / "raw" / "slake" / "imgs", corpus / "imgs")
    rows = [{"id": str(n), "text": f"{CANARY} {n}", "img": p.relative_to(corpus).as_posix()}
            for n, p in enumerate(sorted(corpus.rglob("*.jpg"))[:5])]  # fmt: skip
    (corpus / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (corpus / "b.csv").write_text("id,text\n" + "".join(f'{n},"one, {n}"\n' for n in range(5)))
    (corpus / "c.xml").write_text("<a><b>text</b></a>")
    table = pa.Table.from_pylist(rows)
    orc.write_table(table, corpus / "e.orc", compression="uncompressed")
    with pa.ipc.new_file(corpus / "e.arrow", table.schema) as target:
        target.write_table(table)
    with contextlib.closing(sqlite3.connect(corpus / "e.db")) as base, base:
        base.execute("CREATE TABLE t(id, text)")
        base.executemany("INSERT INTO t VALUES (:id, :text)", rows)
    for suffix in (".parquet", ".zip", ".tar"):
        for path in sorted((home / "raw").rglob(f"*{suffix}"))[:1]:
            shutil.copyfile(path, corpus / f"d{suffix}")
    (corpus.parent / "map.yaml").write_text(MAPPING)
    write_checkpoint(home)


def a_verdict(data: Path) -> dict[str, Any]:
    """A reviewer's word on the first pair of words that takes a sample out."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "proof" / "evidence.parquet").to_pylist()
    pair = next(row for row in rows if row["level"] == "near_text" and row["action"] == "exclude")
    digests = {}
    for side in ("train", "eval"):
        parts = [
            p for p in (data / "built" / pair[f"{side}_build"] / "manifest").glob("*.parquet") if p.name.count(".") == 1
        ]
        samples = [row for part in parts for row in pq.read_table(part).to_pylist()]
        digests[f"{side}_sha256"] = next(r for r in samples if r["sample_id"] == pair[f"{side}_sample"])["sha256"].hex()
    names = [f"{side}_{what}" for side in ("train", "eval") for what in ("build", "sample", "index")]
    return {"verdict": "wrong", "level": "near_text", "by": "A. Reader"} | {n: pair[n] for n in names} | digests


def write_checkpoint(home: Path) -> None:
    """A checkpoint of one parameter; nothing where torch is not installed."""
    with contextlib.suppress(ImportError):
        import torch

        from train.checkpoint import FORMAT

        folder = home / "checkpoint" / "step-00000001"
        folder.mkdir(parents=True)
        values = torch.arange(8, dtype=torch.float32).numpy()
        (folder / "rank0.bin").write_bytes(values.tobytes())
        block = hashlib.sha256(values).hexdigest()
        file = {"file": "rank0.bin", "bytes": 32, "blocks": [block], "parts": [["weight|a", 0, 8]]}
        state = {"format": FORMAT, "step": 1, "optimizer_step": 1, "parameters": {"a": [8]}, "files": [file],
                 "config": {}, "stream": {}, "changes": []}  # fmt: skip
        (folder / "state.json").write_bytes(signed(state))


def signed(state: dict[str, Any]) -> bytes:
    """As `train.checkpoint` writes it: whoever can alter a state can make its digest right, too."""
    digest = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
    return json.dumps(state | {"sha256": digest}, sort_keys=True).encode()


RECIPE = """\
format: 1
name: demo
version: 1
sources:
  slake:
    unreadable: drop
    filters:
      misleading_numbers: {drop: "misleading >= 0.9", not_scored: drop}
      compound: {drop: "compound >= 0.5", not_scored: drop}
"""
TASK = "- name: sounds\n  build: medmcqa\n  splits: [validation]\n  max_new_tokens: 8\n"
MAPPING = """\
name: ours
id: id
text: [text]
images: [img]
access: credentialed
leave_out: {"*.xml": notes}
train: {split: train}
"""


LOADED_LATE = """
builders.engine.unit builders.engine.work builders.engine.filtered builders.engine.corpus_source filters.compound
filters.misleading_numbers manifests.catalog manifests.proof.evidence manifests.proof.overlaps
manifests.proof.near_images manifests.proof.near_text manifests.proof.local_pictures manifests.proof.report
manifests.proof.rewrites manifests.proof.verdicts manifests.proof.train_duplicates manifests.verification.steps
manifests.verification.stored_samples shards.certified shards.epoch shards.packing shards.mixture
shards.exports.formats duckdb jinja2 lupa simplejpeg sqlite3 pyarrow.parquet
"""
"""What commands import when they need it: a fork need not do it again."""


def load_late(sources: Iterable[str], proofs: bool) -> None:
    """Import that and make what is made once a process."""
    for module in (*LOADED_LATE.split(), *(["pandas"] if importlib.util.find_spec("pandas") else [])):
        importlib.import_module(module)  # pyarrow takes pandas where it is
    from builders.engine.loop import code_sha256
    from manifests.proof.ngrams import _tables
    from medgpt.page import render
    from medgpt.text import count_tokens

    count_tokens("")
    for template in ROOT.glob("*/**/*.html"):
        with contextlib.suppress(Exception):  # compiled and kept; it misses its values
            render(template.parent, template.name)
    if proofs:
        _tables(0)
    for source in sources:
        code_sha256(f"builders.{source}")


def main_of(module: str) -> Callable[[list[str]], int]:
    """A command's entry point."""
    if module == "fuzz":
        return read_settings
    found = importlib.import_module(module)
    if hasattr(found, "SOURCE"):
        from builders.engine.command import main
        from builders.engine.registry import load

        return lambda words: main(load(module.partition(".")[2]), words)
    main_: Callable[[list[str]], int] = found.main
    return main_


def read_settings(words: list[str]) -> int:
    """What `train.run` reads before it loads a model: a stage, or a checkpoint's state and a part of its values."""
    from medgpt.errors import run

    def read(arguments: Any = None) -> int:
        del arguments
        if words[0].endswith(".yaml"):
            from train.config import load_config

            load_config(words[0])
        else:
            import torch

            from train.checkpoint import Checkpoint, Part, checkpoints

            for path in checkpoints(Path(words[0])):
                Checkpoint(path).read([Part("weight|a", 2, torch.zeros(4))])
        return 0

    return run(read)(words)


# ---- a run


@dataclass
class Ended:
    """How a command ended."""

    code: int
    said: str
    """Standard output."""
    complained: str
    """Standard error."""
    memory: int
    """Kilobytes at most."""


class Fuzzer:
    """Runs below a folder of work."""

    def __init__(self, work: Path, fresh: int) -> None:
        self.work, self.home, self.fresh = work, work / "home", fresh
        self.known, self.codes = scenes(), Counter[str]()

    def start(self, names: Sequence[str]) -> None:
        """Load what the scenes need before the first fork, and write the trees, unless an earlier call did."""
        for name in names:
            for module, _ in self.known[name].steps:
                main_of(module)
        for module in ("manifests.prove", "filters.run", "eval.run", "eval.score"):
            main_of(module)
        load_late([source for name in names if (source := self.known[name].build)], proofs="prove" in names)
        if "checkpoint" in names:
            importlib.import_module("train.checkpoint")
        self.own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if not (self.home / "ready").exists():
            shutil.rmtree(self.work, ignore_errors=True)
            self.work.mkdir(parents=True)
            builds = {name.partition(":")[2] for name in names if name.startswith("build:")}
            prepare(self.home, sorted({*builds, *SOURCES}), self.made)
            (self.home / "ready").touch()

    def made(self, module: str, *words: str) -> None:
        """Run a command that must succeed."""
        ended = self.command(module, list(words), fresh=False)
        if ended.code not in (0, 3, 4):
            raise SystemExit(f"{module} {words}: {ended.complained}")

    def run(
        self, name: str, chance: random.Random, put: bytes | None = None, place: str | None = None
    ) -> tuple[str, str, bytes | None]:
        """(finding or "", file, its bytes) of one run of a scene: with one file changed by chance, or by `put`."""
        scene = self.known[name]
        base, out = self.home / scene.tree, self.work / "out"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        tree = base
        if scene.writes:
            tree = self.work / "tree"
            shutil.rmtree(tree, ignore_errors=True)
            shutil.copytree(base, tree)
        files = sorted({p for pattern in scene.files for p in tree.glob(pattern) if p.is_file() and "/." not in str(p)})
        if place is None:
            pictures = (".jpg", ".jpeg", ".png", ".txt")
            tables = [p for p in files if p.suffix.lower() not in pictures] or files
            chosen = chance.choice(tables if chance.random() < 0.7 else files)
        else:
            chosen = tree / place
        place = chosen.relative_to(tree).as_posix()
        before = chosen.read_bytes()
        new: bytes | None = None
        try:
            if put is None and chance.random() < 0.03:
                self.displace(chance, chosen)
            else:
                new = put if put is not None else mutated(chance, chosen.name, before)
                chosen.unlink()
                chosen.write_bytes(new)
            wrong = self.judged(scene, tree, out, name, fresh=chance.randrange(self.fresh) == 0)
        finally:
            if tree is base:
                self.restore(chosen, before)
        return wrong, place, new

    def displace(self, chance: random.Random, path: Path) -> None:
        """Something else in a file's place: nothing, a folder, a link to itself, a pipe."""
        path.unlink()
        kind = chance.randrange(5)
        if kind == 1:
            path.mkdir()
        elif kind == 2:
            path.symlink_to(path.name)
        elif kind == 3:
            os.mkfifo(path)
        elif kind == 4:
            path.symlink_to("/dev/zero")

    def restore(self, path: Path, data: bytes) -> None:
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def judged(self, scene: Scene, tree: Path, out: Path, name: str, fresh: bool) -> str:
        for module, words in scene.steps:
            filled = [word.format(tree=tree, out=out) for word in words]
            ended = self.command(module, filled, fresh=fresh and module != "fuzz")
            if wrong := fault(scene, ended, out):
                return f"{name}: {wrong}"
            self.codes[f"{name.partition(':')[0]} {ended.code}"] += 1
        return ""

    def command(self, module: str, words: list[str], fresh: bool) -> Ended:
        """Run a command in a fork, or as a process of its own."""
        said, complained = self.work / "said", self.work / "complained"
        child = os.fork()
        if child == 0:
            status = 99
            try:
                resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
                os.setpgid(0, 0)
                os.chdir(self.work)
                for number, path in ((1, said), (2, complained)):
                    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                if fresh:
                    os.execv(sys.executable, [sys.executable, "-m", module, *words])
                status = main_of(module)(words)
                sys.stdout.flush()
                sys.stderr.flush()
            except SystemExit as left:
                status = left.code if isinstance(left.code, int) else 98
            except BaseException as error:  # noqa: BLE001 - what passes the net is a finding
                os.write(2, f"Traceback past the net: {type(error).__name__}\n".encode())
            os._exit(status)
        until = time.monotonic() + 6 * SECONDS
        while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.killpg(child, signal.SIGKILL)
                ended = os.wait4(child, 0)
                break
            time.sleep(0.002)
        out, err = (path.read_bytes().decode("utf-8", "replace") for path in (said, complained))
        return Ended(os.waitstatus_to_exitcode(ended[1]), out, err, ended[2].ru_maxrss - (0 if fresh else self.own))


def fault(scene: Scene, ended: Ended, out: Path) -> str:
    """What is wrong with how a command ended; "" if nothing is."""
    lines = [line for line in ended.complained.splitlines() if line.strip()]
    both = ended.said + ended.complained
    if ended.code < 0:
        return f"signal {-ended.code} (time, or a crash)"
    if odd := next((line for line in lines if "Traceback" in line or "please report it" in line), ""):
        return odd.split("; MEDGPT")[0]
    if ended.code not in range(5):
        return f"exit code {ended.code}: {lines[-1:]}"
    if ended.memory > MEGABYTES * 1024:
        return f"{ended.memory // 1024} MB"
    if scene.own:
        pass
    elif CANARY in ended.complained or (CANARY in both and not scene.shows):
        return "the canary in a message"
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", ended.complained if scene.shows else both.replace("\r", "")):
        return "control codes in a message"
    if ended.code == 2 and not (lines if scene.lists else len(lines) == 1):
        return f"{len(lines)} lines at exit code 2: {lines[:2]}"
    if ended.code == 1 and len(lines) != 1 and not scene.lists:
        return f"{len(lines)} lines at exit code 1: {lines[:2]}"
    if scene.build and ended.code in (0, 3, 4):
        return books(ended, out)
    return ""


def books(ended: Ended, out: Path) -> str:
    """Whether a build's counts add up, its exit code says what they say, and no hidden text is in its files."""
    import pyarrow.parquet as pq

    told = json.loads(ended.said.splitlines()[-1])
    counts, built = told["counts"], out / told["build"]
    document = json.loads((built / "build.json").read_bytes())
    parts = [part["file"] for unit in document["units"] for part in unit["parts"]]
    samples = [p for p in parts if p.startswith("manifest/") and p.count(".") == 1]
    rows = sum(pq.read_metadata(built / part).num_rows for part in samples)
    if counts["read"] != counts["kept"] + counts["rejected"] or rows != counts["kept"]:
        return f"miscount: {counts['read']} read, {counts['kept']} kept, {counts['rejected']} rejected, {rows} rows"
    if ended.code != 4 and (ended.code == 3) != bool(counts["damaged"]):
        return f"exit code {ended.code} with {counts['damaged']} damaged rows"
    for path in (*built.rglob("*.tar"), *built.rglob("*.parquet")):
        if PICTURE_CANARY in path.read_bytes():
            return f"hidden bytes of a picture in {path.suffix}"
    return ""


def main() -> int:
    """Command line: prepare, run, list what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a folder of its own; everything below it is replaced")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--seed", default="0")
    parser.add_argument("--scenes", nargs="+", help="only these (all)")
    parser.add_argument("--only", type=int, metavar="N", help="this run alone, its messages shown")
    parser.add_argument("--first", type=int, default=0, metavar="N", help="begin with this run")
    parser.add_argument("--fresh", type=int, default=100, metavar="N", help="one in N runs is a process of its own")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    options, begun = parser.parse_args(), time.monotonic()
    work = options.work.resolve()
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "TQDM_DISABLE": "1"}
    fuzzer, kinds, runs = Fuzzer(work, options.fresh), Counter[str](), 0
    kept = json.loads((KEPT / "index.json").read_text())
    names = options.scenes or list(fuzzer.known)
    if options.scenes is None:  # the demo trees of builders are many and cheap
        names += [name for name in names if name.startswith("build:")]
    fuzzer.start([*names, *(one["scene"] for one in kept)])
    numbers = [options.only] if options.only is not None else range(options.first, options.runs)
    jobs: Iterable[tuple[str, str, bytes | None, str | None]] = itertools.chain(
        ((k["scene"], k["input"], (KEPT / k["input"]).read_bytes(), k["replaces"]) for k in kept),
        ((names[n % len(names)], f"{options.seed} {n}", None, None) for n in numbers),
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for name, seed, put, place in jobs:
            wrong, file, data = fuzzer.run(name, random.Random(seed), put, place)
            runs += 1
            if options.only is not None:
                print(file, (work / "said").read_text()[-2000:], (work / "complained").read_text()[-2000:])
            if wrong:
                kinds[wrong] += 1
                if kinds[wrong] == 1:
                    print(f"{wrong} | {seed} | {file} | {keep(work, len(kinds), name, file, data)}", flush=True)
            if options.seconds and time.monotonic() > begun + options.seconds:
                break
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    told = {"runs": runs, "faults": sum(kinds.values()), "kinds": len(kinds)}
    print(json.dumps(told | {"codes": dict(sorted(fuzzer.codes.items()))}))
    return bool(kinds)


def keep(work: Path, number: int, name: str, file: str, data: bytes | None) -> str:
    """Write down the file that led to a finding; its name in WORK/found."""
    if data is None:
        return "displaced"
    place = work / "found" / f"{number:03d}-{name.replace(':', '-')}-{Path(file).name}"
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(data)
    return place.name


if __name__ == "__main__":
    sys.exit(main())
