"""Catalogue, SQL and audits over small manifests written by hand; counts are checked a second way in plain Python."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import ROOT, call_module
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manifests.catalog import connect, load_builds, query_rows, write_catalog
from manifests.parts import IMAGES, MANIFEST_VERSION, SAMPLES, SCHEMAS, PartRows
from manifests.sql import AUDITS, AuditResult, audit_description, audit_names, audit_text, run_audits
from medgpt.errors import UserError
from medgpt.groups import GROUP_KEYS

Row = dict[str, Any]
SHELL = Path(sys.executable).with_name("duckdb")


def digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def sample(key: str, split: str = "train", role: str = "train", **values: Any) -> Row:
    """A sample row without its build and source; `images` are rows of `image`."""
    row: Row = dict.fromkeys(SAMPLES.names)
    row |= {"key": key, "split": split, "role": role, "unit": f"{split}-00000", "images": []}
    row |= {"stage": "instruct", "task": "qa", "license": "MIT", "access": "open", "metadata_only": False}
    row |= {"shard": "x.tar", "offset": 512, "length": 10, "sha256": digest(key), "text_tokens": 7}
    row |= {"file": "raw.json", "row": key}
    return row | values


def image(image_id: str, **values: Any) -> Row:
    return dict.fromkeys(IMAGES.names) | {"image_id": image_id} | values


def reject(split: str = "train", role: str = "train", damaged: bool = False, **values: Any) -> Row:
    row = {"split": split, "role": role, "unit": f"{split}-00000", "file": "raw.json", "row": "9", "detail": None}
    return row | {"reason": "corrupt_image" if damaged else "empty_answer", "damaged": damaged} | values


def write_build(data: Path, name: str, samples: Sequence[Row] = (), rejects: Sequence[Row] = (), **record: Any) -> Path:
    """A build folder as builders.engine.loop leaves it; `unit` in a row says which unit's part it goes to."""
    folder = data / name
    for kind in ("manifest", "images", "rejects"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    units = []
    for unit in dict.fromkeys((row["unit"], row["role"], row["split"]) for row in (*samples, *rejects)):
        constants = dict(zip(("unit", "role", "split"), unit, strict=True)) | {"build": name, "source": "demo"}
        files = {kind: pattern.format(name=name, unit=unit[0]) for kind, pattern in _FILES.items()}
        tables = {kind: PartRows(SCHEMAS[kind], constants, folder / file, "1") for kind, file in files.items()}
        mine = [row for row in samples if row["unit"] == unit[0]]
        for row in mine:
            sample_id = f"demo/{row['split']}/{row['key']}"
            tables["samples"].append(row | {"sample_id": sample_id, "n_images": len(row["images"])})
            for index, picture in enumerate(row["images"]):
                tables["images"].append(picture | {"sample_id": sample_id, "index": index, "subset": row["subset"]})
        refused = [row for row in rejects if row["unit"] == unit[0]]
        for row in refused:
            tables["rejects"].append(row)
        parts = []
        for kind, file in files.items():
            if not tables[kind].write():
                continue
            content = (folder / file).read_bytes()
            parts.append({"file": file, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()})
        shard = {"file": f"shards/{name}-{unit[0]}-00000.tar", "bytes": 10, "sha256": "ab" * 32, "samples": len(mine)}
        units.append(
            {"unit": unit[0], "role": unit[1], "split": unit[2], "read": len(mine) + len(refused), "kept": len(mine)}
            | {"images": sum(len(row["images"]) for row in mine), "rejected": len(refused)}
            | {"damaged": sum(row["damaged"] for row in refused)}
            | {"shards": [shard], "parts": parts}
        )
    source = {"name": "demo", "title": "Demo", "homepage": "https://example.org", "revision": "1", "license": "MIT"}
    source |= {"access": "open", "stage": "instruct", "task": "qa", "modality": "text", "paper": ""}
    built = {"format": 1, "build": name, "source": source, "parameters": {"limit": None}, "code_sha256": "cd" * 32}
    built |= {"fingerprint_recipe": "1", "schema_version": 1, "manifest_version": MANIFEST_VERSION}
    built |= {"metadata_only": False, "limit": None, "units": units, "counts": {}, "published": {}, "root": "ef" * 32}
    (folder / "build.json").write_text(json.dumps(built | record, indent=2))
    return folder


_FILES = {
    "samples": "manifest/{name}-{unit}.parquet",
    "images": "images/{name}-{unit}.parquet",
    "rejects": "rejects/{name}-{unit}.parquet",
}


def test_a_part_of_any_length_is_written_in_groups_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manifests.parts._CHUNK_ROWS", 4)
    monkeypatch.setattr("manifests.parts.GROUP_ROWS", 8)
    schema, path = SCHEMAS["rejects"], tmp_path / "part.parquet"
    constants = {"build": "b", "unit": "u", "source": "s", "role": "train", "split": "train"}
    for rows in (0, 3, 8, 19):
        part = PartRows(schema, constants, path, "1")
        for number in range(rows):
            part.append(reject(row=str(number)))
            assert not path.exists()
        assert part.write() == (rows > 0)
        if rows:
            found = pq.ParquetFile(path)
            groups = [found.metadata.row_group(number).num_rows for number in range(found.num_row_groups)]
            assert sum(groups) == rows and groups[:-1] == [8] * (len(groups) - 1) and groups[-1] <= 8
            assert found.read()["row"].to_pylist() == [str(number) for number in range(rows)]
            path.unlink()
    for number in range(9):
        part.append(reject(row=str(number)))
    part.discard()
    assert not list(tmp_path.iterdir())


def change(folder: Path, **record: Any) -> None:
    path = folder / "build.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | record))


def rows(data: Path, query: str) -> list[tuple[Any, ...]]:
    with connect(data) as connection:
        return connection.execute(query).fetchall()


def audit(data: Path, name: str) -> list[Row]:
    with connect(data) as connection:
        (result,) = run_audits(connection, [name])
    assert result.violations == len(result.rows)
    return result.as_json()["rows"]


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    """Two builds in which no audit finds anything, pictures, priors and rejects included."""
    prior = {"subject_id": "s/1", "study_id": "t/1", "relation": "prior", "sha256": digest("p")}
    current = {"subject_id": "s/1", "study_id": "t/2", "relation": "current", "sha256": digest("c")}
    ids = {"subject_id": "s/1", "study_id": "t/2", "prior_study_id": "t/1"}
    write_build(
        tmp_path / "built",
        "alpha",
        [
            sample("1", images=[image("i/2", **current), image("i/1", **prior)], **ids),
            sample("2", stem_sha256=digest("q"), stem_options_sha256=digest("q+o")),
            sample("3", "test", "eval"),
        ],
        [reject(), reject(damaged=True, row="10")],
        published={"train": 4, "validate": 9},
    )
    write_build(
        tmp_path / "built",
        "beta",
        [
            sample("1", "test", "eval", subset="open", subject_id="s/9", stem_sha256=digest("other")),
            sample("2", "test", "eval", subset="closed", images=[image("i/9", sha256=digest("d"))]),
        ],
    )
    return tmp_path


# --- finding builds ------------------------------------------------------------------------------------------------


def found(data: Path) -> list[Path]:
    return [build.folder for build in load_builds(data)]


def test_builds_are_found_at_every_level_once(tmp_path: Path) -> None:
    deep = write_build(tmp_path / "a/b/c", "deep", [sample("1")])
    flat = write_build(tmp_path, "flat", [sample("1")])
    write_build(tmp_path / "a/b/c/d", "too_deep", [sample("1")])
    (tmp_path / "flat" / "loop").symlink_to(tmp_path)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "itself").symlink_to("itself")
    (tmp_path / "z_again").symlink_to(deep)
    assert found(tmp_path) == [flat, tmp_path / "z_again"]
    (tmp_path / "z_again").unlink()
    assert found(tmp_path) == [deep, flat]
    assert found(flat) == [flat]


def test_a_relative_folder_will_do(clean: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clean)
    assert found(Path("built")) == [Path("built/alpha"), Path("built/beta")]
    assert rows(Path(), "SELECT count(*) FROM samples") == [(5,)]


def test_two_builds_of_one_name_are_an_error(tmp_path: Path) -> None:
    write_build(tmp_path / "new", "same", [sample("1")])
    write_build(tmp_path / "old", "same", [sample("1")])
    with pytest.raises(UserError, match=r"old/same/build.json: .*new/same holds a build of the same name, same; "):
        found(tmp_path)


# --- views ---------------------------------------------------------------------------------------------------------


def test_views_of_the_build_files(clean: Path) -> None:
    folder = clean / "built" / "alpha"
    assert rows(
        clean,
        "SELECT build, path, license, access, units, read, kept, rejected, damaged, root FROM builds ORDER BY build",
    ) == [
        ("alpha", str(folder), "MIT", "open", 2, 5, 3, 2, 1, "ef" * 32),
        ("beta", str(folder.with_name("beta")), "MIT", "open", 1, 2, 2, 0, 0, "ef" * 32),
    ]
    assert rows(clean, "SELECT parameters->>'limit' IS NULL, metadata_only, manifest_version FROM builds LIMIT 1") == [
        (True, False, MANIFEST_VERSION)
    ]
    assert rows(clean, "FROM units ORDER BY ALL") == [
        ("alpha", "test-00000", "eval", "test", 1, 1, 0, 0),
        ("alpha", "train-00000", "train", "train", 4, 2, 2, 1),
        ("beta", "test-00000", "eval", "test", 2, 2, 0, 0),
    ]
    assert rows(clean, "FROM published ORDER BY ALL") == [("alpha", "train", 4), ("alpha", "validate", 9)]
    assert rows(clean, "FROM shards WHERE build = 'beta'") == [
        ("beta", "test-00000", "shards/beta-test-00000-00000.tar", 10, "ab" * 32, 2)
    ]


def test_views_of_the_parts(clean: Path) -> None:
    with connect(clean) as connection:
        for name, schema in SCHEMAS.items():
            cursor = connection.execute(f"FROM {name}")
            assert [column[0] for column in cursor.description] == schema.names
    assert rows(clean, "SELECT sample_id, n_images, sha256 FROM samples WHERE build = 'beta' ORDER BY ALL") == [
        ("demo/test/1", 0, digest("1")),
        ("demo/test/2", 1, digest("2")),
    ]
    assert rows(clean, 'SELECT image_id, "index", subset FROM images ORDER BY ALL') == [
        ("i/1", 1, None),
        ("i/2", 0, None),
        ("i/9", 0, "closed"),
    ]
    assert rows(clean, "SELECT row, reason, damaged FROM rejects ORDER BY ALL") == [
        ("10", "corrupt_image", True),
        ("9", "empty_answer", False),
    ]


def test_ids_of_samples_and_images_without_duplicates(tmp_path: Path) -> None:
    keys = {key: f"{key}/1" for key in GROUP_KEYS}
    same = image("x/1", subject_id="subject_id/1", study_id="study_id/1")
    write_build(tmp_path, "b", [sample("1", subset="open", images=[same, image("x/2", study_id="t/7")], **keys)])
    found = rows(tmp_path, "SELECT build, role, split, subset, sample_id, kind, value FROM ids")
    assert {row[:5] for row in found} == {("b", "train", "train", "open", "demo/train/1")}
    assert sorted(row[5:] for row in found) == sorted(
        [(key.replace("prior_", ""), value) for key, value in keys.items()]
        + [("image_id", "x/1"), ("image_id", "x/2"), ("study_id", "t/7")]
    )
    assert rows(tmp_path, "SELECT count(*) FROM id_rows") == [(len(found) + 2,)]


def test_views_without_any_part(tmp_path: Path) -> None:
    write_build(tmp_path, "empty")
    with connect(tmp_path) as connection:
        for name, schema in SCHEMAS.items():
            cursor = connection.execute(f"FROM {name}")
            assert [column[0] for column in cursor.description] == schema.names
            assert cursor.fetchall() == []
        kinds = dict(connection.execute("SELECT column_name, column_type FROM (DESCRIBE images)").fetchall())
        assert (kinds["index"], kinds["sha256"], kinds["phash"]) == ("INTEGER", "BLOB", "UBIGINT")
        assert all(result.clean for result in run_audits(connection, audit_names()))


def test_paths_are_taken_literally(tmp_path: Path) -> None:
    data = tmp_path / "it's [1] * role=x?"
    write_build(data, "b", [sample("1")])
    assert rows(data, "SELECT role, count(*) FROM samples GROUP BY ALL") == [("train", 1)]
    assert rows(data, "SELECT path FROM builds") == [(str(data / "b"),)]


# --- errors --------------------------------------------------------------------------------------------------------


def test_no_build(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(str(tmp_path))}: no build.json here .*run a builder"):
        connect(tmp_path)
    with pytest.raises(UserError, match="nowhere: No such file or directory"):
        connect(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read .*; build it again"),
        ("[]", "cannot be read .*; build it again"),
        ("\udcff", "cannot be read .*; build it again"),
        ('{"format": 1, "manifest_version": 2, "build": "b"}', "cannot be read .*root.*; build it again"),
        (
            '{"format": 2, "manifest_version": 1}',
            "format 2, manifest version 1, where 1 and 2 are read; build it again",
        ),
        (
            '{"format": 1, "manifest_version": 1}',
            "format 1, manifest version 1, where 1 and 2 are read; python -m builders.refingerprint .*",
        ),
        (
            '{"format": 1, "manifest_version": 7}',
            "format 1, manifest version 7, where 1 and 2 are read; build it again",
        ),
    ],
)
def test_an_unreadable_build_file(tmp_path: Path, content: str, message: str) -> None:
    folder = write_build(tmp_path, "b", [sample("1")])
    (folder / "build.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=rf"^{re.escape(str(folder))}/build.json: {message}$"):
        connect(tmp_path)


def test_a_missing_a_torn_and_a_damaged_part(tmp_path: Path) -> None:
    folder = write_build(tmp_path, "b", [sample("1")])
    part = folder / "manifest" / "b-train-00000.parquet"
    content = part.read_bytes()
    part.write_bytes(content[:-1])
    with pytest.raises(UserError, match=rf"{re.escape(str(part))}: \d+ bytes, but build.json says \d+; build it"):
        connect(tmp_path)
    part.write_bytes(content[:-1] + b"?")
    with pytest.raises(UserError, match=rf"^[^\n]*{re.escape(str(part))}[^\n]*: build it again$"):
        connect(tmp_path)
    part.unlink()
    with pytest.raises(UserError, match=rf"^{re.escape(str(part))}: named in build.json, but not there; build it"):
        connect(tmp_path)


def test_many_small_parts_are_read_once_and_give_the_same(clean: Path) -> None:
    """What audits find in 70 units' parts, laid together or not; a part that cannot be read is named."""
    picture: Row = {"images": [image("i/1", sha256=digest("c"), pixel_sha256=digest("c"))], "subject_id": "s/9"}
    rows_ = [sample("1", unit=f"train-{n:05}", pmid="p/1", stem_sha256=digest("other"), **picture) for n in range(69)]
    last = [sample(key, unit="train-00069", license=licence) for key, licence in (("2", "MIT"), ("2", ""))]
    folder = write_build(clean, "many", [*rows_, *last], [reject(unit=f"train-{n:05}") for n in range(64)])
    queries = [audit_text(name) for name in audit_names()]
    with connect(clean) as connection, connect(clean, jailed=True, queries=queries) as together:
        apart = run_audits(connection, audit_names())
        assert run_audits(together, audit_names()) == apart
        assert sum(not result.clean for result in apart) >= 3
        with pytest.raises(UserError, match="file"):
            query_rows(together, f"FROM read_parquet('{folder}/manifest/many-train-00000.parquet')")
    part = folder / "manifest" / "many-train-00007.parquet"
    part.write_bytes(part.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match=rf"^[^\n]*{re.escape(str(part))}[^\n]*: build it again$"):
        connect(clean, queries=queries)


# --- audits: one planted violation each, nothing else ------------------------------------------------------------


def test_clean_manifests_have_no_violation(clean: Path) -> None:
    with connect(clean) as connection:
        assert {result.name: result.rows for result in run_audits(connection, audit_names())} == {
            name: [] for name in audit_names()
        }


@pytest.mark.parametrize("name", audit_names())
def test_every_audit_says_what_it_is(name: str) -> None:
    lines = (AUDITS / f"{name}.sql").read_text().splitlines()
    assert re.fullmatch(r"-- [A-Z].*\.", lines[0])
    assert audit_description(name) == lines[0][3:]
    assert lines[1] == "--"
    assert "-- A row is" in "\n".join(lines) or "A row is" in "\n".join(lines)
    assert max(map(len, lines)) <= 120


def test_row_accounting(clean: Path) -> None:
    folder = clean / "built" / "alpha"
    units = json.loads((folder / "build.json").read_text())["units"]
    good = json.dumps(units)
    for field, value in {"read": 5, "kept": 1, "rejected": 1, "damaged": 0}.items():
        units = json.loads(good)
        units[0][field] = value
        change(folder, units=units)
        counts = {"read": 4, "kept": 2, "rejected": 2, "damaged": 1, "samples": 2, "reject_rows": 2, "damaged_rows": 1}
        assert audit(clean, "row_accounting") == [{"build": "alpha", "unit": "train-00000"} | counts | {field: value}]


def test_row_accounting_of_units_in_one_place_only(clean: Path) -> None:
    folder = clean / "built" / "alpha"
    units = json.loads((folder / "build.json").read_text())["units"]
    units[0]["unit"] = "renamed"
    change(folder, units=units)
    nothing = {"samples": 0, "reject_rows": 0, "damaged_rows": 0}
    counts = {"read": 4, "kept": 2, "rejected": 2, "damaged": 1}
    assert audit(clean, "row_accounting") == [
        {"build": "alpha", "unit": "renamed", **counts, **nothing},
        {"build": "alpha", "unit": "train-00000", **dict.fromkeys(counts)}
        | {"samples": 2, "reject_rows": 2, "damaged_rows": 1},
    ]


def test_licences(tmp_path: Path) -> None:
    write_build(
        tmp_path,
        "b",
        [
            sample("1", license=""),
            sample("2", license=" "),
            sample("3", access="secret"),
            sample("4", access="gated"),
            sample("5", license="CC-BY-4.0"),
            sample("6", access="gated"),
        ],
    )
    found = [(row["license"], row["access"], row["problem"], row["samples"]) for row in audit(tmp_path, "licences")]
    assert found == [
        ("", "open", "no licence", 1),
        (" ", "open", "no licence", 1),
        ("MIT", "gated", "access differs from what the source declares", 2),
        ("MIT", "secret", "unknown access", 1),
    ]


def test_duplicate_ids(tmp_path: Path) -> None:
    write_build(tmp_path, "b", [sample("1"), sample("2"), sample("1", unit="train-00001"), sample("1")])
    write_build(tmp_path, "c", [sample("1")])
    assert audit(tmp_path, "duplicate_ids") == [
        {"build": "b", "sample_id": "demo/train/1", "rows": 3, "units": "train-00000, train-00001"}
    ]


def test_id_overlap(tmp_path: Path) -> None:
    write_build(
        tmp_path,
        "t",
        [
            sample("1", images=[image("i/1")], pmid="p/1"),
            sample("2", images=[image("i/1")], prior_study_id="t/1"),
            sample("3", pmid="p/2"),
            sample("4", "val", "eval", pmid="p/7"),
        ],
    )
    write_build(
        tmp_path,
        "e",
        [
            sample("1", "test", "eval", subset="closed", images=[image("i/1")]),
            sample("2", "test", "eval", subset="open", images=[image("i/1"), image("i/2")]),
            sample("3", "test", "eval", subset="closed", study_id="t/1"),
            sample("4", "test", "eval", pmid="p/7"),
        ],
    )
    found = [tuple(row.values()) for row in audit(tmp_path, "id_overlap")]
    assert found == [
        ("image_id", "t", "e", "test", "all", 1, 2, 2, 4, 2, 3),
        ("image_id", "t", "e", "test", "closed", 1, 1, 1, 2, 2, 3),
        ("image_id", "t", "e", "test", "open", 1, 2, 1, 1, 2, 3),
        ("study_id", "t", "e", "test", "all", 1, 1, 1, 4, 1, 3),
        ("study_id", "t", "e", "test", "closed", 1, 1, 1, 2, 1, 3),
    ]


def test_exact_image_overlap(tmp_path: Path) -> None:
    def picture(name: str, pixels: str | None = None) -> Row:
        return image(name, sha256=digest(name), pixel_sha256=pixels and digest(pixels))

    write_build(
        tmp_path,
        "t",
        [
            sample("1", images=[picture("a", "A"), picture("b", "B")]),
            sample("2", images=[picture("a", "A"), image("none")]),
            sample("3", images=[picture("c", "C")]),
            sample("4", "val", "eval", images=[picture("c", "C")]),
            sample("5", "test", "eval", images=[picture("a", "A"), picture("b2", "B"), picture("d")]),
            sample("6", "test", "eval", images=[image("none")]),
        ],
    )
    assert [tuple(row.values()) for row in audit(tmp_path, "exact_image_overlap")] == [
        ("t", "t", "test", "bytes", 1, 3, 1, 2, 2, 3),
        ("t", "t", "test", "pixels", 2, 2, 1, 2, 2, 3),
        ("t", "t", "val", "bytes", 1, 1, 1, 1, 1, 3),
        ("t", "t", "val", "pixels", 1, 1, 1, 1, 1, 3),
    ]


def item(key: str, stem: str, options: str | None = "", split: str = "train", **values: Any) -> Row:
    own = None if options is None else digest(stem + options)
    role = "train" if split == "train" else "eval"
    return sample(key, split, role, stem_sha256=digest(stem), stem_options_sha256=own, **values)


def test_exact_text_and_stem_overlap(tmp_path: Path) -> None:
    pictures = [image("i")]
    train = [
        item("1", "same", "AB"),
        item("2", "same", "AB"),
        item("3", "stem", "AB"),
        item("4", "picture", "AB", images=pictures),
        item("5", "picture 2", "AB"),
        item("6", "no options", None),
        sample("7", caption_sha256=digest("normal")),
    ]
    test = [
        item("1", "same", "AB", "test"),
        item("2", "stem", "CD", "test"),
        item("3", "picture", "AB", "test"),
        item("4", "picture 2", "AB", "test", images=[image("j")]),
        item("5", "no options", None, "test"),
        sample("6", "test", "eval", caption_sha256=digest("normal")),
    ]
    write_build(tmp_path, "t", train)
    write_build(tmp_path, "e", test)
    assert [tuple(row.values()) for row in audit(tmp_path, "exact_text_overlap")] == [
        ("t", "e", "test", 1, 3, 1, 6, 2, 7),
    ]
    assert [tuple(row.values()) for row in audit(tmp_path, "exact_stem_overlap")] == [
        ("t", "e", "test", 2, 4, 2, 6, 2, 7),
    ]


def test_stem_overlap_looks_at_all_options_of_the_other_side(tmp_path: Path) -> None:
    # Two variants on each side: each row meets its own item and another one, whichever digest is the smaller.
    write_build(tmp_path, "t", [item("1", "stem", "AB"), item("2", "stem", "CD")])
    write_build(tmp_path, "e", [item("1", "stem", "AB", "test"), item("2", "stem", "CD", "test")])
    assert [tuple(row.values()) for row in audit(tmp_path, "exact_stem_overlap")] == [
        ("t", "e", "test", 1, 1, 2, 2, 2, 2)
    ]


def test_duplicate_images(tmp_path: Path) -> None:
    same = {"sha256": digest("same")}
    write_build(
        tmp_path,
        "b",
        [
            sample("1", images=[image("a", **same), image("a", **same)]),
            sample(
                "2", "valid", "train", images=[image("c", **same), image("b", **same), image("x", sha256=b"x" * 32)]
            ),
            sample("3", "test", "eval", images=[image("y", **same), image("p"), image("q")]),
        ],
    )
    write_build(tmp_path, "c", [sample("1", images=[image("n", **same)]), sample("2", images=[image("m", **same)])])
    pair = {"build": "b", "role": "train", "image_id_a": "a", "split_a": "train", "split_b": "valid"}
    assert audit(tmp_path, "duplicate_images") == [
        *(pair | {"image_id_b": name, "sha256": same["sha256"].hex()} for name in ("b", "c")),
        {"build": "c", "role": "train", "image_id_a": "m", "image_id_b": "n", "split_a": "train", "split_b": "train"}
        | {"sha256": same["sha256"].hex()},
    ]


def test_subject_crossing_splits(tmp_path: Path) -> None:
    write_build(
        tmp_path,
        "b",
        [
            sample("1", subject_id="s/1"),
            sample("2", subject_id="s/1"),
            sample("3", subject_id="s/2"),
            sample("4"),
            sample("5", "test", "eval", images=[image("i", subject_id="s/2")]),
            sample("6", "test", "eval"),
        ],
    )
    write_build(tmp_path, "c", [sample("1", "test", "eval", subject_id="s/1")])
    assert audit(tmp_path, "subject_crossing_splits") == [
        {"build": "b", "subject_id": "s/2", "splits": "test, train"},
    ]


def test_prior_of_other_subject(tmp_path: Path) -> None:
    ids = {"subject_id": "s/1", "study_id": "t/2", "prior_study_id": "t/1"}
    good = {"relation": "prior", "subject_id": "s/1", "study_id": "t/1"}
    write_build(
        tmp_path,
        "b",
        [
            sample("1", images=[image("cur", relation="current", subject_id="s/9"), image("ok", **good)], **ids),
            sample("2", images=[image("subject", **good | {"subject_id": "s/2"})], **ids),
            sample("3", images=[image("ok", **good), image("study", **good | {"study_id": "t/2"})], **ids),
            sample("4", images=[image("unknown", **good | {"subject_id": None})], **ids),
            sample("5", images=[image("unnamed", **good)], **ids | {"prior_study_id": None}),
        ],
    )
    found = audit(tmp_path, "prior_of_other_subject")
    assert [(row["sample_id"], row["index"], row["image_id"]) for row in found] == [
        ("demo/train/2", 0, "subject"),
        ("demo/train/3", 1, "study"),
        ("demo/train/4", 0, "unknown"),
        ("demo/train/5", 0, "unnamed"),
    ]


# --- the counts a second way ---------------------------------------------------------------------------------------

few = st.sampled_from(["v/1", "v/2", "v/3", None])
pictures = st.lists(
    st.builds(
        lambda name, subject, own, pixels: image(
            name, subject_id=subject, sha256=own and digest(own), pixel_sha256=pixels and digest(pixels)
        ),
        st.sampled_from(["v/1", "v/2", "v/3"]),
        few,
        few,
        few,
    ),
    max_size=2,
)


@st.composite
def manifests(draw: st.DrawFn) -> dict[str, list[Row]]:
    """One to three builds of a few rows whose ids and texts often meet."""
    builds = {}
    for name in ("a", "b", "c")[: draw(st.integers(1, 3))]:
        drawn = []
        for key in range(draw(st.integers(0, 7))):
            split = draw(st.sampled_from(["train", "test", "val"]))
            stem = draw(st.sampled_from(["q1", "q2", None]))
            options = draw(st.sampled_from(["", "AB", "CD", None]))
            drawn.append(
                sample(
                    str(key),
                    split,
                    "train" if split == "train" else "eval",
                    subset=draw(st.sampled_from([None, "open", "closed"])),
                    images=draw(pictures),
                    pmid=draw(few),
                    subject_id=draw(few),
                    study_id=draw(few),
                    prior_study_id=draw(few),
                    stem_sha256=stem and digest(stem),
                    stem_options_sha256=digest(stem + options) if stem and options is not None else None,
                )
            )
        builds[name] = drawn
    return builds


def overlap(train: Iterable[tuple[Any, set[Any]]], rows_: Iterable[tuple[Any, set[Any]]]) -> tuple[int, ...]:
    """Hits and totals of values and rows by comparing every eval row with every train row."""
    train, rows_ = list(train), list(rows_)
    hits = [(key, values & other) for key, values in rows_ for _, other in train if values & other]
    train_hits = {key for key, values in train for _, other in rows_ if values & other}
    return (
        len(set().union(*(values for _, values in hits))),
        len(set().union(*(values for _, values in rows_))),
        len({key for key, _ in hits}),
        len(rows_),
        len(train_hits),
        len(train),
    )


def strata(builds: Mapping[str, list[Row]], subsets: bool) -> dict[tuple[str, ...], list[Row]]:
    found: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for build, all_rows in builds.items():
        for row in all_rows:
            if row["role"] == "eval":
                names = {"all", row["subset"]} - {None} if subsets else {"all"}
                for name in names:
                    found[build, row["split"], name].append(row)
    return found


def ids_of(row: Row, kind: str) -> set[str]:
    own = {
        "pmid": [row["pmid"]],
        "subject_id": [row["subject_id"], *(picture["subject_id"] for picture in row["images"])],
        "study_id": [row["study_id"], row["prior_study_id"]],
        "image_id": [picture["image_id"] for picture in row["images"]],
    }
    return {value for value in own[kind] if value}


def pairs_of(builds: Mapping[str, list[Row]], values: Any, subsets: bool = False) -> dict[tuple[str, ...], Any]:
    """Expected counts by (train build, eval build, split, stratum) where anything is hit."""
    expected = {}
    for train_build, train_rows in builds.items():
        train = [(row["key"], values(row)) for row in train_rows if row["role"] == "train"]
        for (build, split, name), own in strata(builds, subsets).items():
            counts = overlap(train, [(row["key"], values(row)) for row in own])
            if counts[0]:
                expected[train_build, build, split, name] = counts
    return expected


many = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def audited(builds: Mapping[str, list[Row]], name: str) -> list[tuple[Any, ...]]:
    with tempfile.TemporaryDirectory() as folder:
        for build, own in builds.items():
            write_build(Path(folder), build, own)
        return [tuple(row.values()) for row in audit(Path(folder), name)]


@given(manifests())
@many
def test_id_overlap_counted_row_by_row(builds: dict[str, list[Row]]) -> None:
    found = {row[:5]: row[5:] for row in audited(builds, "id_overlap")}
    expected = {
        (kind, *key): counts
        for kind in ("pmid", "subject_id", "study_id", "image_id")
        for key, counts in pairs_of(builds, lambda row, kind=kind: ids_of(row, kind), subsets=True).items()
    }
    assert found == expected


@given(manifests())
@many
def test_exact_text_overlap_counted_row_by_row(builds: dict[str, list[Row]]) -> None:
    def values(row: Row) -> set[bytes]:
        return {row["stem_options_sha256"]} - {None} if not row["images"] else set()

    found = {row[:3]: row[3:] for row in audited(builds, "exact_text_overlap")}
    assert found == {key[:3]: counts for key, counts in pairs_of(builds, values).items()}


@given(manifests())
@many
def test_exact_image_overlap_counted_row_by_row(builds: dict[str, list[Row]]) -> None:
    found = {row[:4]: row[4:] for row in audited(builds, "exact_image_overlap")}
    expected = {
        (*key[:3], level): counts
        for level, column in (("bytes", "sha256"), ("pixels", "pixel_sha256"))
        for key, counts in pairs_of(builds, lambda row, c=column: {p[c] for p in row["images"]} - {None}).items()
    }
    assert found == expected


@given(manifests())
@many
def test_exact_stem_overlap_counted_pair_by_pair(builds: dict[str, list[Row]]) -> None:
    def asks_alike(one: Row, other: Row) -> bool:
        same = one["stem_options_sha256"] is not None and one["stem_options_sha256"] == other["stem_options_sha256"]
        return one["stem_sha256"] == other["stem_sha256"] and not same

    expected = {}
    asked = {name: [row for row in own if row["stem_sha256"] and not row["images"]] for name, own in builds.items()}
    for train_build in builds:
        train = [row for row in asked[train_build] if row["role"] == "train"]
        for (build, split, _), own in strata(builds, subsets=False).items():
            test = [row for row in asked[build] if row["role"] == "eval" and row["split"] == split]
            hits = [(one, other) for one in test for other in train if asks_alike(one, other)]
            if hits:
                expected[train_build, build, split] = (
                    len({one["stem_sha256"] for one, _ in hits}),
                    len({one["stem_sha256"] for one in test}),
                    len({one["key"] for one, _ in hits}),
                    len(own),
                    len({other["key"] for _, other in hits}),
                    sum(row["role"] == "train" for row in builds[train_build]),
                )
    assert {row[:3]: row[3:] for row in audited(builds, "exact_stem_overlap")} == expected


# --- run_audits ----------------------------------------------------------------------------------------------------


def test_run_audits_keeps_the_order_and_a_bounded_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manifests.sql.ROWS_KEPT", 3)
    write_build(tmp_path, "b", [sample(str(key // 2)) for key in range(10)])
    with connect(tmp_path) as connection:
        results = run_audits(connection, ["licences", "duplicate_ids"])
        assert results[0] == AuditResult(
            "licences",
            audit_description("licences"),
            ("build", "source", "license", "access", "problem", "samples"),
            0,
            [],
        )
        assert (results[1].violations, len(results[1].rows), results[1].clean) == (5, 3, False)
        with pytest.raises(UserError, match=r"no audit is called '\.\./x'; there are: duplicate_ids, "):
            run_audits(connection, ["../x"])
        connection.execute("DROP VIEW samples")
        with pytest.raises(UserError, match=r"^audit licences: Catalog Error: [^\n]+$"):
            run_audits(connection, ["licences"])


# --- manifest.duckdb and the command lines -------------------------------------------------------------------------


def test_catalog_command(clean: Path) -> None:
    done = call_module("manifests.catalog", str(clean), check=True)
    assert (clean / "manifest.duckdb").is_file()
    assert sorted(path.name for path in clean.iterdir()) == ["built", "manifest.duckdb"]
    table = [line.split() for line in done.stdout.splitlines()]
    assert table[0] == ["build", "split", "role", "published", "read", "kept", "rejected", "damaged"]
    assert table[2:6] == [
        ["alpha", "train", "train", "4", "4", "2", "2", "1"],
        ["alpha", "test", "eval", "NULL", "1", "1", "0", "0"],
        ["alpha", "validate", "NULL", "9", "0", "0", "0", "0"],
        ["beta", "test", "eval", "NULL", "2", "2", "0", "0"],
    ]
    assert f"cd {clean} && duckdb -readonly manifest.duckdb" in done.stdout


def test_catalog_command_json(clean: Path) -> None:
    change(clean / "built" / "beta", metadata_only=True)
    shown = json.loads(call_module("manifests.catalog", str(clean), "--json", check=True).stdout)
    assert shown["database"] == str(clean / "manifest.duckdb")
    alpha, beta = shown["builds"]
    assert (alpha["build"], alpha["read"], alpha["kept"], alpha["parameters"]) == ("alpha", 5, 3, {"limit": None})
    train = {"split": "train", "role": "train", "published": 4, "read": 4, "kept": 2, "rejected": 2, "damaged": 1}
    assert alpha["splits"][0] == train
    assert beta["metadata_only"] is True
    assert "beta was built without pictures" in call_module("manifests.catalog", str(clean)).stdout


@pytest.mark.skipif(not SHELL.is_file(), reason="the DuckDB shell (duckdb-cli) is not installed")
def test_the_duckdb_shell_opens_the_catalogue(clean: Path) -> None:
    database = write_catalog(clean)

    def ask(query: str) -> Any:
        command = [SHELL, "-readonly", "-json", database.name]
        done = subprocess.run(command, input=query, capture_output=True, text=True, check=True, cwd=clean)
        return json.loads(done.stdout)

    views = ("build_json", "builds", "units", "shards", "published", *SCHEMAS, "ids", "id_rows")
    with connect(clean) as connection:
        for view in views:
            (count,) = connection.execute(f"SELECT count(*) FROM {view}").fetchone() or (None,)
            assert ask(f"SELECT count(*) AS n FROM {view}") == [{"n": count}], view
    assert ask("SELECT build, kept FROM builds ORDER BY ALL") == [
        {"build": "alpha", "kept": 3},
        {"build": "beta", "kept": 2},
    ]
    for name in audit_names():
        assert ask(f"SELECT count(*) AS n FROM ({(AUDITS / f'{name}.sql').read_text()})") == [{"n": 0}], name


def test_the_catalogue_is_rebuilt_and_follows_a_moved_folder(clean: Path, tmp_path: Path) -> None:
    import duckdb

    database = write_catalog(clean)
    first = database.read_bytes()
    database.with_name("manifest.duckdb.wal").write_bytes(b"left by a shell")
    database.unlink()
    assert write_catalog(clean) == database
    assert len(database.read_bytes()) == len(first)
    assert not database.with_name("manifest.duckdb.wal").exists()

    moved = Path(shutil.move(clean, tmp_path.with_name("moved")))
    with contextlib.chdir(moved), duckdb.connect("manifest.duckdb", read_only=True) as connection:
        assert connection.execute("SELECT count(*) FROM images").fetchall() == [(3,)]
        assert connection.execute("SELECT path FROM builds ORDER BY ALL").fetchall() == [
            ("built/alpha",),
            ("built/beta",),
        ]
    # A copy that cannot be written, seen from elsewhere when the first is gone.
    copy = shutil.copytree(moved, tmp_path / "copy of it")
    shutil.rmtree(moved)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with duckdb.connect(str(copy / "manifest.duckdb"), read_only=True) as connection:
        with pytest.raises(duckdb.IOException, match="No files found"):
            connection.execute("FROM samples")
        connection.execute(f"SET file_search_path = '{copy}'")
        assert connection.execute("SELECT count(*) FROM samples").fetchall() == [(5,)]
    assert rows(copy, "SELECT count(*) FROM samples") == [(5,)]
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o755)


def test_sql_command_shows_a_table(clean: Path) -> None:
    query = "SELECT sample_id, n_images, pmid, sha256 FROM samples WHERE build = 'beta' ORDER BY ALL"
    done = call_module("manifests.sql", str(clean), query, check=True)
    assert done.stdout.splitlines() == [
        f"sample_id    n_images  pmid  {'sha256':64}".rstrip(),
        f"-----------  --------  ----  {'-' * 64}",
        f"demo/test/1         0  NULL  {digest('1').hex()}",
        f"demo/test/2         1  NULL  {digest('2').hex()}",
    ]


def test_sql_command_json_and_csv(clean: Path) -> None:
    query = "SELECT sha256, n_images, pmid, true AS t, [1, 2] AS l, 1 AS x, 2 AS x FROM samples WHERE n_images = 2"
    row = {"sha256": digest("1").hex(), "n_images": 2, "pmid": None, "t": True, "l": [1, 2], "x": 1, "x_1": 2}
    assert json.loads(call_module("manifests.sql", str(clean), "--json", query, check=True).stdout) == [row]
    shown = call_module("manifests.sql", str(clean), query, "--csv", check=True).stdout
    cells = {"sha256": row["sha256"], "n_images": "2", "pmid": "", "t": "true", "l": "[1, 2]", "x": "1", "x_1": "2"}
    assert list(csv.DictReader(io.StringIO(shown))) == [cells]
    nothing = call_module("manifests.sql", str(clean), "SELECT 1 AS a WHERE false", "--json", check=True)
    assert json.loads(nothing.stdout) == []


def test_sql_command_shows_a_bounded_table(clean: Path) -> None:
    lines = call_module("manifests.sql", str(clean), "FROM range(1001)", check=True).stdout.splitlines()
    assert len(lines) == 1003
    assert lines[-1] == "only the first 1000 rows are shown; --csv and --json print all"
    assert call_module("manifests.sql", str(clean), "FROM range(5000)", "--csv").stdout.count("\n") == 5001


@pytest.mark.parametrize(
    "arguments",
    [
        ["DATA", "SELECT nothing_of_the_kind FROM samples"],
        ["DATA", "SELEC"],
        ["DATA", " -- nothing"],
        ["DATA", "FROM range(3) SELECT error('x')"],
        ["DATA", "--audit", "no_such_audit"],
        ["/nowhere", "SELECT 1"],
    ],
)
def test_errors_are_one_line(clean: Path, arguments: list[str]) -> None:
    done = call_module("manifests.sql", *(str(clean) if word == "DATA" else word for word in arguments))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [[], ["DATA"], ["DATA", "SELECT 1", "--audit", "all"], ["DATA", "--audit", "all", "--csv"], ["--audit", "all"]],
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = call_module("manifests.sql", *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: ")


def test_catalog_errors_are_one_line(clean: Path) -> None:
    for path in (clean / "nowhere", clean / "built" / "alpha" / "manifest"):
        done = call_module("manifests.catalog", str(path))
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    units = json.loads((clean / "built" / "alpha" / "build.json").read_text())["units"]
    units[0]["kept"] = "many"
    change(clean / "built" / "alpha", units=units)
    done = call_module("manifests.catalog", str(clean))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "build.json" in done.stderr


def leaky(data: Path, leaks: int) -> None:
    write_build(data, "b", [sample(str(key), pmid=f"p/{key}") for key in range(leaks)])
    for key in range(leaks):
        write_build(data, f"e{key:02}", [sample("1", "test", "eval", pmid=f"p/{key}")])


def test_audit_command(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = call_module("manifests.sql", str(clean), "--audit", "all")
    assert (done.returncode, done.stderr) == (0, "")
    number = len(audit_names())
    assert done.stdout.splitlines() == [
        *(f"{name}: clean" for name in audit_names()),
        f"{number} of {number} audits clean",
    ]

    data = tmp_path_factory.mktemp("leaky")
    leaky(data, 23)
    done = call_module("manifests.sql", str(data), "--audit", "id_overlap", "--audit", "licences")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert "id_overlap: 23 violations" in lines
    assert len([line for line in lines if line.startswith("pmid")]) == 20
    assert "and 3 more" in lines
    assert lines[-1] == "1 of 2 audits clean; look at id_overlap"


def test_audit_command_json(clean: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    done = call_module("manifests.sql", str(clean), "--audit", "all", "--json", check=True)
    shown = json.loads(done.stdout)
    assert (shown["data"], shown["clean"]) == (str(clean), True)
    assert [found["name"] for found in shown["audits"]] == audit_names()
    assert {(found["violations"], len(found["rows"])) for found in shown["audits"]} == {(0, 0)}

    data = tmp_path_factory.mktemp("leaky")
    leaky(data, 1)
    done = call_module("manifests.sql", str(data), "--audit", "id_overlap", "--json")
    assert done.returncode == 1
    counts = {"eval_ids_hit": 1, "eval_ids_total": 1, "eval_rows_hit": 1, "eval_rows_total": 1}
    counts |= {"train_rows_hit": 1, "train_rows_total": 1}
    where = {"kind": "pmid", "train_build": "b", "eval_build": "e00", "eval_split": "test", "eval_subset": "all"}
    assert json.loads(done.stdout) == {
        "data": str(data),
        "clean": False,
        "audits": [
            {
                "name": "id_overlap",
                "description": audit_description("id_overlap"),
                "violations": 1,
                "rows": [where | counts],
            }
        ],
    }


def test_list_of_audits() -> None:
    done = call_module("manifests.sql", "--list", check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == audit_names()
    listed = json.loads(call_module("manifests.sql", "--list", "--json", check=True).stdout)
    assert listed == [{"name": name, "description": audit_description(name)} for name in audit_names()]


def test_the_data_is_left_alone(clean: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in clean.rglob("*")}
    call_module("manifests.sql", str(clean), "DROP VIEW samples; CREATE TABLE t AS SELECT 1", "--unsafe", check=True)
    call_module("manifests.sql", str(clean), "--audit", "all", check=True)
    assert {path: path.stat().st_mtime_ns for path in clean.rglob("*")} == before


def test_a_reader_that_stops_early(clean: Path) -> None:
    command = f"{sys.executable} -m manifests.sql '{clean}' 'FROM range(100000)' --csv | head -1"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, shell=True, env=environment, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("range\n", "")


def test_help_needs_no_heavy_import() -> None:
    code = "import sys, manifests.sql; print(sorted({'duckdb', 'numpy', 'orjson', 'pyarrow'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    for module in ("manifests.sql", "manifests.catalog"):
        assert f"python -m {module} data" in call_module(module, "--help", check=True).stdout
