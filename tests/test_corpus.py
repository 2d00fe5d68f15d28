"""Corpora made elsewhere: WebDataset tars, Parquet and JSON Lines read into builds that every other tool takes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import run_module, tree_digest, zipped
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import builders.engine.archives
import builders.engine.tables
import builders.engine.unit
from builders.corpus import main
from builders.demos.phantom_pictures import jpeg
from builders.demos.phantoms import Phantom, anatomy
from builders.engine.corpus_mapping import make_rules
from builders.engine.corpus_source import build_corpus, open_entries
from builders.engine.source import DAMAGED_REASONS
from manifests.catalog import connect
from manifests.sql import audit_names, run_audits
from medgpt import limited
from medgpt.errors import UserError
from medgpt.settings import read_yaml
from medgpt.text import normalise
from shards.reader import Build
from shards.verify import verify_build

Row = dict[str, Any]
Members = Mapping[str, bytes]


def picture(seed: int) -> bytes:
    return jpeg(Phantom(anatomy(seed), "PA", seed), size=160)


PICTURES = [picture(seed) for seed in range(8)]


def png(level: int = 90, mode: str = "L", size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, level).save(buffer, "PNG")
    return buffer.getvalue()


def tar_bytes(samples: Sequence[tuple[str, Members]]) -> bytes:
    """A tar as `webdataset.TarWriter` lays it out: `<key>.<extension>`, samples one after the other."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def write_parquet(path: Path, rows: Sequence[Row], schema: pa.Schema | None = None, group: int = 1000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows), schema), path, row_group_size=group)


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    write(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def ingest(folder: Path, role: Any, mapping: Any, out: Path, workers: int = 1) -> Path:
    """Build a corpus; the folder of the build. A mapping with sections serves both sides."""
    built, text = build_corpus(folder, role, mapping, out, workers)
    assert f"kept {built['counts']['kept']} + rejected {built['counts']['rejected']} = read" in text
    return out / str(built["build"])


def query(data: Path, text: str) -> list[tuple[Any, ...]]:
    with connect(data) as connection:
        return connection.execute(text).fetchall()


def records(build: Path) -> list[Row]:
    return [sample.record for sample in Build(build)]


def document(build: Path) -> Row:
    loaded: Row = json.loads((build / "build.json").read_bytes())
    return loaded


def one(tmp_path: Path, row: Row, mapping: Mapping[str, Any] | None = None, role: str = "train") -> Row:
    """The record that a corpus of one JSON line becomes."""
    write_lines(tmp_path / "corpus" / "rows.jsonl", [row])
    [record] = records(ingest(tmp_path / "corpus", role, mapping, tmp_path / "out"))
    return record


QUESTION = "Which nerve is most at risk in a fracture of the surgical neck of the humerus?"


@pytest.fixture
def corpora(tmp_path: Path) -> tuple[Path, Path]:
    """A WebDataset to train on and a Parquet test set; a picture, a question and a patient are in both."""
    samples = [
        (f"{number:06d}", {"jpg": PICTURES[number], "json": json.dumps({"patient": 40 + number}).encode(),
                           "txt": f"Film number {number}. No acute finding.".encode()})
        for number in range(4)
    ]  # fmt: skip
    write(tmp_path / "corpus" / "a" / "train-0000.tar", tar_bytes(samples))
    write(
        tmp_path / "corpus" / "a" / "train-0001.tar",
        tar_bytes(
            [("q", {"json": json.dumps({"question": QUESTION.lower(), "answer": "the axillary nerve"}).encode()})]
        ),
    )
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [
            ("image", image),
            ("question", pa.string()),
            ("answer", pa.string()),
            ("pid", pa.float64()),
            ("note", pa.string()),
        ]
    )
    rows = [
        {
            "image": {"bytes": PICTURES[2], "path": "2.jpg"},
            "question": "Is there an effusion?",
            "answer": "no",
            "pid": 1.0,
        },
        {"image": {"bytes": PICTURES[5], "path": "5.jpg"}, "question": "Is it normal?", "answer": "yes", "pid": 43.0},
        {"image": None, "question": QUESTION, "answer": "Axillary", "pid": None},
    ]
    write_parquet(tmp_path / "bench" / "test.parquet", rows, schema)
    return tmp_path / "corpus", tmp_path / "bench"


MAPPING = {
    "train": {"name": "ours", "groups": {"subject_id": {"field": "patient", "prefix": "hospital"}}},
    "eval": {"name": "theirs", "access": "open", "groups": {"subject_id": {"field": "pid", "prefix": "hospital"}}},
}


def test_planted_leaks_are_found_and_every_tool_takes_the_builds(tmp_path: Path, corpora: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    built = [ingest(folder, role, MAPPING, out) for folder, role in zip(corpora, ("train", "eval"), strict=True)]
    assert [path.relative_to(out).as_posix() for path in built] == ["ours.train", "theirs.eval"]
    for path in built:
        assert verify_build(path) == []
    done = run_module("shards.verify", str(out))
    assert (done.returncode, "2 builds" in done.stdout) == (0, True)
    with connect(out) as connection:
        results = {result.name: result for result in run_audits(connection, audit_names())}
    found = {name for name, result in results.items() if not result.clean}
    assert found == {"exact_image_overlap", "exact_text_overlap", "id_overlap"}
    images = [row for row in results["exact_image_overlap"].as_json()["rows"] if row["level"] == "bytes"]
    assert [
        (row["train_build"], row["eval_build"], row["eval_images_hit"], row["train_rows_hit"]) for row in images
    ] == [("ours.train", "theirs.eval", 1, 1)]
    [text] = results["exact_text_overlap"].as_json()["rows"]
    assert (text["eval_items_hit"], text["train_rows_hit"]) == (1, 1)
    assert query(out, "SELECT DISTINCT value FROM ids WHERE kind = 'subject_id' AND role = 'eval' ORDER BY value") == [
        ("hospital/1",),
        ("hospital/43",),
    ]
    # The same overlaps by hand, from the input files alone.
    shared = {hashlib.sha256(PICTURES[2]).digest()}
    rows = query(out, "SELECT role, sha256 FROM images")
    assert {digest for role, digest in rows if role == "train"} & {
        digest for role, digest in rows if role == "eval"
    } == shared
    assert Counter(role for role, _ in rows) == {"train": 4, "eval": 2}


def books(build: Path) -> dict[tuple[str, str, str], int]:
    """(kind, state, name) -> count, of what `build.json` says of a corpus."""
    return {(kind, state, name): count for kind, state, name, _, count in document(build)["parameters"]["accounting"]}


def test_what_was_not_compared_is_listed(tmp_path: Path, corpora: tuple[Path, Path]) -> None:
    write(corpora[0] / "README.md", b"words")
    write(corpora[0] / "more.pdf", b"not read")
    write(corpora[0] / ".cache" / "x.tar", b"hidden")
    write(corpora[0] / ".cache" / "x.lock", b"hidden")
    build = ingest(corpora[0], "train", {"name": "ours"}, tmp_path / "out")
    assert {key: count for key, count in books(build).items() if key[0] == "file"} == {
        ("file", "compared", ""): 3, ("file", "not compared", "more.pdf"): 1,
        ("file", "not compared", ".cache/x.tar"): 1, ("file", "declared", ".cache/x.lock"): 1,
    }  # fmt: skip
    assert books(build)["field", "declared", "patient"] == 1
    train = document(build)
    listed = pq.read_table(build / train["inputs"]["file"]).to_pylist()
    assert [file["file"] for file in listed] == ["README.md", "a/train-0000.tar", "a/train-0001.tar"]
    for file in listed:
        data = (corpora[0] / file["file"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(data), hashlib.sha256(data).digest())
    found = books(ingest(corpora[1], "eval", None, tmp_path / "out"))
    assert {name for kind, state, name in found if (kind, state) == ("field", "declared")} == {"note", "pid"}
    assert str(tmp_path) not in json.dumps(train)


def test_samples_read_back(tmp_path: Path, corpora: tuple[Path, Path]) -> None:
    build = ingest(corpora[1], "eval", {"groups": {"subject_id": "pid"}}, tmp_path / "out")
    first, second, third = records(build)
    assert first["id"] == "bench/test/test.parquet/0"
    assert (first["task"], first["question"], first["answer"]) == ("vqa", "Is there an effusion?", "no")
    assert (first["access"], first["license"], first["split"]) == ("credentialed", "unstated", "test")
    assert (second["group"]["subject_id"], third["group"]["subject_id"]) == ("43", None)
    assert (third["task"], third["images"], third["provenance"]) == ("qa", [], {"file": "test.parquet", "row": "2"})
    kinds = [[part["type"] for part in message["content"]] for message in first["messages"]]
    assert kinds == [["image", "text"], ["text"]]
    rows = query(
        tmp_path / "out",
        'SELECT shard, "offset", width, height, octet_length(thumbnail) > 0 '
        'FROM images JOIN thumbnails USING (build, sample_id, "index")',
    )
    assert rows == [(None, None, 130, 160, True)] * 2


def test_a_build_of_ours_read_as_a_foreign_corpus_has_the_same_fingerprints(tmp_path: Path) -> None:
    """Our shards are WebDataset tars: a second road to the same digests, through the builders."""
    done = run_module(
        "builders.slake", "--demo", "--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "built"), "--quiet"
    )
    assert done.returncode == 0, done.stderr
    ingest(tmp_path / "built" / "slake" / "shards", "train", {"name": "copy"}, tmp_path / "out")
    pictures = "SELECT stored_sha256, pixel_sha256, phash, thumbnail, width, height, tiles "
    pictures += 'FROM images JOIN thumbnails USING (build, sample_id, "index") ORDER BY ALL'
    texts = "SELECT stem_sha256, stem_options_sha256, n_images, count(*) FROM samples GROUP BY ALL ORDER BY ALL"
    assert len(query(tmp_path / "out", pictures)) > 10
    assert query(tmp_path / "out", pictures) == query(tmp_path / "built", pictures)
    assert query(tmp_path / "out", texts) == query(tmp_path / "built", texts)


def test_real_exam_rows_get_the_hashes_of_their_builder(tmp_path: Path, real_data: Path) -> None:
    out = tmp_path / "out"
    done = run_module(
        "builders.mmlu_med", "--raw", str(real_data / "mmlu"), "--out", str(tmp_path / "built"), "--quiet"
    )
    assert done.returncode in (0, 3), done.stderr
    build = ingest(real_data / "mmlu", "eval", {"name": "mmlu", "license": "MIT", "access": "open"}, out)
    assert document(build)["counts"]["rejected"] == 0
    texts = "SELECT DISTINCT stem_options_sha256 FROM samples ORDER BY ALL"
    ours, theirs = ({row[0] for row in query(data, texts)} for data in (out, tmp_path / "built"))
    assert len(theirs) > 1000
    assert theirs <= ours
    assert {record["answer"] for record in records(build)} == set("ABCD")


# --- determinism and resuming ------------------------------------------------------------------------------------


def small_pieces(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(builders.engine.unit, "ROWS_PER_UNIT", 3)
    patch.setattr(builders.engine.tables, "BYTES_PER_UNIT", 1)


def mixed(folder: Path) -> Path:
    """Tars, Parquet in several row groups, lines and loose pictures."""
    for number in range(3):
        members = [(f"k{i}", {"txt": f"text {number} {i}".encode(), "png": png(50 + 9 * i + number)}) for i in range(5)]
        write(folder / f"{number}.tar", tar_bytes(members))
    write_parquet(folder / "rows.parquet", [{"question": f"Number {i}?", "answer": "yes"} for i in range(11)], group=4)
    write_lines(folder / "l.jsonl", [{"image": f"pictures/{i}.png", "caption": f"Picture {i}"} for i in range(4)])
    for i in range(4):
        write(folder / "pictures" / f"{i}.png", png(200 + i))
    return folder


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    folder = mixed(tmp_path / "corpus")
    told = []
    for workers in (1, 2):
        build = ingest(folder, "train", None, tmp_path / f"out{workers}", workers)
        told.append(tree_digest(build))
    assert told[0] == told[1]
    assert document(build)["counts"]["read"] == 15 + 11 + 4
    assert document(build)["counts"]["by_split"]["train"]["images"] == 15 + 4


def test_pieces_hold_the_same_rows_as_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = mixed(tmp_path / "corpus")
    columns = "SELECT sample_id, sha256, file, row FROM samples ORDER BY ALL"
    ingest(folder, "train", None, tmp_path / "whole")
    small_pieces(monkeypatch)
    build = ingest(folder, "train", None, tmp_path / "pieces")
    assert query(tmp_path / "whole", columns) == query(tmp_path / "pieces", columns)
    units = document(build)["units"]
    assert sorted(unit["read"] for unit in units) == sorted([3, 2] * 3 + [3, 1] + [4, 4, 3])  # tars; lines; row groups
    assert verify_build(build) == []
    assert len(records(build)) == 30


def test_only_changed_files_are_read_again(tmp_path: Path) -> None:
    folder, out = mixed(tmp_path / "corpus"), tmp_path / "out"
    build = ingest(folder, "train", None, out)
    before = tree_digest(build)
    times = {path: path.stat().st_mtime_ns for path in build.rglob("*.*")}
    ingest(folder, "train", None, out)
    assert {path: path.stat().st_mtime_ns for path in build.rglob("*.*")} == times
    write(folder / "1.tar", tar_bytes([("new", {"txt": b"another text"})]))
    ingest(folder, "train", None, out)
    changed = {path.name for path, time in times.items() if not path.exists() or path.stat().st_mtime_ns != time}
    shard, part = "corpus-train-00001-0000-00000.arrow", "corpus-train-00001-0000.parquet"
    assert changed - {"build.json", "inputs.parquet"} == {shard, part}
    assert verify_build(build) == []
    # A shard that went missing is written again, and the corpus as it was gives the tree as it was.
    next((build / "shards").glob("*.arrow")).unlink()
    members = [(f"k{i}", {"txt": f"text 1 {i}".encode(), "png": png(51 + 9 * i)}) for i in range(5)]
    write(folder / "1.tar", tar_bytes(members))
    ingest(folder, "train", None, out)
    assert tree_digest(build) == before
    write(folder / "pictures" / "0.png", png(77))  # no tar and no row changed, but what a row names
    ingest(folder, "train", None, out)
    assert hashlib.sha256(png(77)).digest() in {row[0] for row in query(out, "SELECT sha256 FROM images")}


def test_a_file_that_is_gone_leaves_nothing_behind(tmp_path: Path) -> None:
    folder, out = mixed(tmp_path / "corpus"), tmp_path / "out"
    ingest(folder, "train", None, out)
    (folder / "rows.parquet").unlink()
    build = ingest(folder, "train", None, out)
    assert verify_build(build) == []
    assert query(out, "SELECT count(*) FROM samples WHERE file = 'rows.parquet'") == [(0,)]


# --- what rows become --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "mapping", "options", "answer"),
    [
        ({"options": ["one", "two"], "answer": 1}, None, [("A", "one"), ("B", "two")], "B"),
        ({"choices": ["one", "two"], "answer": "two"}, None, [("A", "one"), ("B", "two")], "B"),
        ({"options": {"A": "one", "C": "two"}, "answer": "C"}, None, [("A", "one"), ("C", "two")], "C"),
        ({"options": '{"A": "one", "B": "two"}', "answer": "(B)"}, None, [("A", "one"), ("B", "two")], "B"),
        ({"options": {"text": ["one", "two"], "label": ["1", "2"]}, "answer": "2"}, None,
         [("1", "one"), ("2", "two")], "2"),
        ({"options": ["", "two"], "answer": 1}, None, [("A", ""), ("B", "two")], "B"),
        ({"options": [{"key": "A", "value": "one"}], "answer": "A"}, None, [("A", "one")], "A"),
        ({"opa": "one", "opb": "two", "cop": 0}, {"options": ["opa", "opb"], "answer": "cop"},
         [("A", "one"), ("B", "two")], "A"),
        ({"o": {"x": "one", "y": "two"}}, {"options": {"X": "o.x", "Y": "o.y"}}, [("X", "one"), ("Y", "two")], None),
        ({"options": ["one", "two"], "answer": "none of them"}, None, [("A", "one"), ("B", "two")], None),
        ({"answer": "free text"}, None, None, "free text"),
    ],
)  # fmt: skip
def test_options_in_every_usual_form(
    tmp_path: Path, row: Row, mapping: Row | None, options: list[tuple[str, str]] | None, answer: str | None
) -> None:
    record = one(tmp_path, {"question": "Which?", **row}, mapping)
    found = None if record["options"] is None else [(option["label"], option["text"]) for option in record["options"]]
    assert (found, record["answer"]) == (options, answer)
    assert record["task"] == ("mcq" if options else "qa")


def texts_of(record: Row) -> list[tuple[str, str | None, list[str]]]:
    return [
        (message["role"], message["reasoning"], [part["text"] for part in message["content"] if part["type"] == "text"])
        for message in record["messages"]
    ]


def test_dialogues(tmp_path: Path) -> None:
    llava = [{"from": "human", "value": "<image>\nWhat is shown?"}, {"from": "gpt", "value": "A chest film."}]
    record = one(tmp_path / "a", {"conversations": llava})
    assert (record["task"], record["question"], record["answer"]) == ("qa", "What is shown?", "A chest film.")
    assert texts_of(record) == [("user", None, ["What is shown?"]), ("assistant", None, ["A chest film."])]
    chat = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "First?"}]},
        {"role": "assistant", "content": "One.", "reasoning_content": "Because."},
        {"role": "user", "content": "Second?"},
        {"role": "assistant", "content": "Two."},
    ]
    for number, value in enumerate((chat, json.dumps(chat))):
        record = one(tmp_path / f"b{number}", {"messages": value})
        assert (record["task"], record["question"]) == ("instruction", None)
        assert texts_of(record) == [
            ("system", None, ["Be brief."]), ("user", None, ["First?"]), ("assistant", "Because.", ["One."]),
            ("user", None, ["Second?"]), ("assistant", None, ["Two."]),
        ]  # fmt: skip


def test_unusual_forms_lose_no_text(tmp_path: Path) -> None:
    record = one(
        tmp_path / "a", {"question": "Which?", "options": "['one', 'two'", "choices": ["three"], "answer": "one"}
    )
    assert texts_of(record) == [("user", None, ["Which?\n\nA. three\n['one', 'two'"]), ("assistant", None, ["one"])]
    printed = {"question": "Which?", "options": "['one', 'it\\'s two']", "choices": ["three"], "answer": "B"}
    record = one(tmp_path / "e", printed)
    assert texts_of(record) == [
        ("user", None, ["Which?\n\nA. one\nB. it's two\nthree"]),
        ("assistant", None, ["B. it's two"]),
    ]
    turns = [{"from": "human", "value": "First?"}, {"from": "gpt", "value": "One."}]
    record = one(tmp_path / "b", {"conversations": turns, "answer": "1", "caption": "A film.", "text": "A text."})
    assert [text for _, _, texts in texts_of(record) for text in texts] == ["A text.", "A film.", "1", "First?", "One."]
    record = one(tmp_path / "c", {"messages": [{"role": "user", "words": "Said otherwise."}]})
    assert texts_of(record) == [("assistant", None, ["user", "Said otherwise."])]
    record = one(tmp_path / "d", {"reasoning": "Only thought."})
    assert texts_of(record) == [("assistant", "Only thought.", [])]


def test_free_text_and_captions_have_a_hash_of_their_own(tmp_path: Path) -> None:
    write(tmp_path / "c" / "x.tar", tar_bytes([("a", {"png": png(), "txt": b"A  Film."}), ("b", {"txt": b"a film"})]))
    write(tmp_path / "c" / "y.tar", tar_bytes([("c", {"png": png(), "cls": b"3"})]))
    ingest(tmp_path / "c", "train", None, tmp_path / "out")
    wanted = hashlib.sha256(b"a film").digest()
    assert query(tmp_path / "out", "SELECT task, caption_sha256, stem_sha256 FROM samples ORDER BY sample_id") == [
        ("caption", wanted, None),
        ("text", wanted, None),
        ("image", None, None),
    ]


def test_a_mapping_says_where_everything_is(tmp_path: Path) -> None:
    row = {
        "uid": "case-7", "body": {"history": "Fell.", "findings": ["Fracture.", "No effusion."]}, "why": "Seen.",
        "text": "not wanted", "meta.site": "north", "lic": "CC-BY-4.0", "pmc": "1234", "paper": "PMC77", "pm": 99.0,
        "vid": "youtube/abc",
    }  # fmt: skip
    mapping = {
        "name": "mine", "id": "uid", "text": ["body.history", "body.findings"], "reasoning": "why", "split": "dev",
        "license": {"field": "lic"}, "access": "gated",
        "groups": {"pmcid": "pmc", "pmid": "pm", "study_id": {"field": "paper"}, "video_id": "vid",
                   "subject_id": {"field": "meta.site", "prefix": "sites/"}},
    }  # fmt: skip
    record = one(tmp_path, row, mapping)
    assert record["id"] == "mine/dev/rows.jsonl/case-7"
    assert texts_of(record) == [("assistant", "Seen.", ["Fell.", "Fracture.", "No effusion."])]
    assert (record["license"], record["access"], record["split"]) == ("CC-BY-4.0", "gated", "dev")
    assert {key: value for key, value in record["group"].items() if value} == {
        "pmcid": "pmc/PMC1234", "pmid": "pubmed/99", "study_id": "pmc77", "video_id": "youtube/abc",
        "subject_id": "sites/north",
    }  # fmt: skip


def test_pictures_by_type_in_parquet(tmp_path: Path) -> None:
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("frames", pa.list_(struct)), ("raw", pa.large_binary()), ("embedding", pa.binary()), ("text", pa.string())]
    )
    rows = [
        {"frames": None, "raw": None, "embedding": b"\x00\x01", "text": "none"},
        {
            "frames": [{"bytes": PICTURES[0]}, {"bytes": PICTURES[1]}],
            "raw": PICTURES[3],
            "embedding": b"\x02",
            "text": "3",
        },
        {"frames": [{"bytes": None, "path": "loose.png"}], "raw": None, "embedding": None, "text": "loose"},
    ]
    write_parquet(tmp_path / "c" / "rows.parquet", rows, schema)
    write(tmp_path / "c" / "loose.png", png(33))
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    found = query(
        tmp_path / "out", 'SELECT row, i."index", i.sha256 FROM images i JOIN samples USING (sample_id) ORDER BY ALL'
    )
    expected = [("1", 0, PICTURES[0]), ("1", 1, PICTURES[1]), ("1", 2, PICTURES[3]), ("2", 0, png(33))]
    assert found == [(row, index, hashlib.sha256(data).digest()) for row, index, data in expected]
    assert books(build)["field", "declared", "embedding"] == 1
    assert document(build)["counts"]["rejected"] == 0


def test_members_without_a_known_extension_and_repeated_names(tmp_path: Path) -> None:
    samples = [
        ("d/a.b", {"img": PICTURES[0], "json": b"[1]"}),  # the key ends at the first dot
        ("d/a", {"0.jpg": PICTURES[1], "10.jpg": PICTURES[2]}),
        ("z", {"txt": b"one"}),
        ("d/a", {"txt": b"again"}),
    ]
    buffer = io.BytesIO(tar_bytes(samples))
    with tarfile.open(fileobj=buffer, mode="a") as tar:  # a folder, a link, and what macOS adds
        for name, kind in (("d", tarfile.DIRTYPE), ("d/link.txt", tarfile.SYMTYPE), ("d/._a.jpg", tarfile.REGTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info, io.BytesIO())
    write(tmp_path / "c" / "x.tar", buffer.getvalue())
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    rows = [(record["id"].removeprefix("c/train/x.tar/"), len(record["images"])) for record in records(build)]
    assert rows == [("d/a", 3), ("z", 0), ("d/a#2", 0)]


def test_equal_ids_stay_apart(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl"):
        write_lines(tmp_path / "c" / name, [{"uid": 1, "text": "x"}, {"uid": 1, "text": "y"}, {"uid": 2, "text": "z"}])
    build = ingest(tmp_path / "c", "train", {"id": "uid"}, tmp_path / "out")
    ids = [record["id"] for record in records(build)]
    assert ids == [f"c/train/{name}/{end}" for name in ("a.jsonl", "b.jsonl") for end in ("1", "1#2", "2")]


def test_compressed_files(tmp_path: Path) -> None:
    tar = tar_bytes([("a", {"txt": b"one"})])
    write(tmp_path / "c" / "x.tar.gz", gzip.compress(tar))
    write(tmp_path / "c" / "y.tgz", gzip.compress(tar))
    write(tmp_path / "c" / "z.jsonl.gz", gzip.compress(b'\xef\xbb\xbf{"text": "two"}\n\n{"text": "three"}'))
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    assert [texts_of(record)[0][2] for record in records(build)] == [["one"], ["one"], ["two"], ["three"]]
    assert [record["provenance"]["row"] for record in records(build)][-2:] == ["1", "3"]


# --- damage ------------------------------------------------------------------------------------------------------


def rejects(build: Path) -> list[tuple[str, str, str]]:
    rows = [row for path in (build / "rejects").iterdir() for row in pq.read_table(path).to_pylist()]
    return sorted((row["file"], row["row"], row["reason"]) for row in rows)


def balanced(build: Path) -> dict[str, int]:
    """The counts of a build, after checking its books in two ways."""
    counts = document(build)["counts"]
    assert counts["kept"] + counts["rejected"] == counts["read"]
    with connect(build) as connection:
        [audit] = run_audits(connection, ["row_accounting"])
    assert audit.clean, audit.rows
    assert sum(counts["rejects"].values()) == counts["rejected"]
    return {name: counts[name] for name in ("read", "kept", "rejected")}


def test_damaged_members_are_rejects(tmp_path: Path) -> None:
    cmyk = io.BytesIO()
    Image.new("CMYK", (40, 40)).save(cmyk, "JPEG")
    deep = io.BytesIO()
    Image.new("I;16", (40, 40)).save(deep, "PNG")
    samples: dict[str, Members] = {
        "good": {"jpg": PICTURES[0], "txt": b"fine"},
        "cut": {"jpg": PICTURES[1][:-900], "txt": b"x"},
        "noise": {"jpg": b"\x01\x02\x03\x04" * 9, "txt": b"x"},
        "webp": {"webp": b"RIFF\x00\x00\x00\x00WEBP", "txt": b"x"},
        "void": {"png": b"", "txt": b"x"},
        "cmyk": {"jpg": cmyk.getvalue(), "txt": b"x"},
        "deep": {"png": deep.getvalue(), "txt": b"x"},
        "bytes": {"txt": b"\xff\xfe"},
        "json": {"json": b'{"text": '},
        "utf": {"json": b'{"text": "\xe9"}'},
        "nothing": {"json": b'{"other": 1}'},
        "many": {"json": b'{"text": "t"}', "png": png()},
    }
    write(tmp_path / "c" / "x.tar", tar_bytes(list(samples.items())))
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    assert balanced(build) == {"read": 12, "kept": 4, "rejected": 8}
    reasons = {row: reason for _, row, reason in rejects(build)}
    assert reasons == {
        "cut": "truncated_image", "noise": "corrupt_image", "webp": "corrupt_image", "void": "empty_file",
        "bytes": "not_utf8", "json": "bad_row", "utf": "not_utf8",
        "nothing": "missing_field",
    }  # fmt: skip
    assert set(reasons.values()) <= DAMAGED_REASONS.keys()
    assert verify_build(build) == []


def broken(cut: Callable[[bytes], bytes]) -> bytes:
    return cut(tar_bytes([(f"k{number}", {"txt": b"word " * 200}) for number in range(6)]))


@pytest.mark.parametrize(
    ("data", "kept", "rows"),
    [
        (broken(lambda tar: tar[: 2 * 1536 + 700]), 2, ["-", "k2"]),  # in a member's data: its sample is incomplete
        (broken(lambda tar: tar[: 3 * 1536 + 100]), 2, ["-", "k2"]),  # in a header
        (broken(lambda tar: tar[: 3 * 1536]), 2, ["-", "k2"]),  # between two members, where Python sees a whole archive
        (broken(lambda tar: tar[: 3 * 1536] + b"\x07" * 512 + tar[3 * 1536 + 512 :]), 2, ["-", "k2"]),
        (broken(lambda tar: tar + tar), 6, ["-"]),  # two archives in one file
        (b"no archive at all" * 100, 0, ["-"]),
        (b"", 0, ["-"]),
    ],
)  # fmt: skip
def test_an_archive_that_breaks_off_is_never_taken_for_whole(
    tmp_path: Path, data: bytes, kept: int, rows: list[str]
) -> None:
    write(tmp_path / "c" / "good.tar", tar_bytes([("a", {"txt": b"fine"})]))
    write(tmp_path / "c" / "x.tar", data)
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    assert balanced(build) == {"read": kept + len(rows) + 1, "kept": kept + 1, "rejected": len(rows)}
    reason = "bad_archive" if data else "empty_file"
    assert rejects(build) == [("x.tar", row, reason) for row in rows]


def test_broken_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(broken(bytes))
    write(tmp_path / "c" / "x.tar.gz", packed[: len(packed) // 2])
    lines = gzip.compress(b"".join(b'{"text": "%d"}\n' % number for number in range(9999)))
    write(tmp_path / "c" / "y.jsonl.gz", lines[: len(lines) // 2])
    write_lines(tmp_path / "c" / "z.jsonl", [{"text": "fine"}])
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    balanced(build)
    assert {("x.tar.gz", "bad_archive"), ("y.jsonl.gz", "bad_archive")} <= {(f, r) for f, _, r in rejects(build)}


def test_members_beyond_the_limits_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited, "FILE_BYTES", 5000)
    monkeypatch.setattr(builders.engine.archives, "SAMPLE_BYTES", 8000)
    monkeypatch.setattr(limited, "LINE_BYTES", 100)
    samples: list[tuple[str, Members]] = [
        ("video", {"mp4": bytes(6000), "txt": b"kept: nothing is taken from the film"}),
        ("picture", {"jpg": PICTURES[0] + bytes(6000), "txt": b"x"}),
        ("text", {"txt": b"a" * 6000}),
        ("json", {"json": b"1" * 6000}),
        ("all", {"a.txt": b"b" * 4500, "txt": b"a" * 4500}),
    ]
    write(tmp_path / "c" / "x.tar", tar_bytes(samples))
    write(tmp_path / "c" / "y.jsonl", b'{"text": "%s"}\n{"text": "short"}\n' % (b"a" * 300))
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    assert balanced(build) == {"read": 7, "kept": 2, "rejected": 5}
    assert {row: reason for _, row, reason in rejects(build)} == {
        "picture": "too_large", "text": "too_large", "json": "too_large", "all": "too_large", "1": "too_large",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["../secret.png", "/etc/x.png", "a\\b.png", "gone.png"])
def test_picture_names_lead_nowhere_else(tmp_path: Path, name: str) -> None:
    write(tmp_path / "secret.png", png())
    write(tmp_path / "c" / "deep" / "here.png", png())
    write_lines(tmp_path / "c" / "deep" / "x.jsonl", [{"image": name, "text": "x"}, {"image": "here.png", "text": "y"}])
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    assert rejects(build) == [("deep/x.jsonl", "1", "missing_image")]
    assert query(tmp_path / "out", "SELECT count(*) FROM images") == [(1,)]


def test_damaged_parquet(tmp_path: Path) -> None:
    rows = [{"text": f"row {number} " + "x" * 50} for number in range(300)]
    path = tmp_path / "c" / "x.parquet"
    path.parent.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=100, compression="snappy", use_dictionary=False)
    start = pq.read_metadata(path).row_group(1).column(0).data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + 400] = b"\xff" * 400
    path.write_bytes(data)
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    assert balanced(build) == {"read": 300, "kept": 200, "rejected": 100}
    assert rejects(build) == sorted(("x.parquet", str(number), "bad_row") for number in range(100, 200))
    path.write_bytes(bytes(data[:-5]))
    with pytest.raises(UserError, match=r"x\.parquet: not readable as Parquet"):
        ingest(tmp_path / "c", "train", None, tmp_path / "out2")


def test_a_cell_that_is_no_text_costs_its_own_row_only(tmp_path: Path) -> None:
    broken_text = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(b"\x00\x00\x00\x00\x01\x00\x00\x00\x02\x00\x00\x00\x03\x00\x00\x00"),
                         pa.py_buffer(b"a\xffb")]
    )  # fmt: skip
    (tmp_path / "c").mkdir()
    pq.write_table(pa.table({"text": broken_text}), tmp_path / "c" / "x.parquet")
    build = ingest(tmp_path / "c", "train", None, tmp_path / "out")
    assert rejects(build) == [("x.parquet", "1", "not_utf8")]
    assert [record["provenance"]["row"] for record in records(build)] == ["0", "2"]


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"tekst": "a"}, "no key is called tekst; there are access, answer, eval, frames, groups, id"),
        ({"train": {"tekst": "a"}}, "train: no key is called tekst"),
        ({"eval": {"tekst": "a"}}, "eval: no key is called tekst"),
        ({"eval": 3}, "eval: Expected `object"),
        ({"text": "report"}, "has report; there are answer, .*question"),
        ({"groups": {"patient": "x"}}, "groups: 'patient' is none of image_id, pmcid.*subject_id"),
        ({"groups": {"subject_id": "patient"}}, r"has patient; there are"),
        ({"groups": {"subject_id": {"fild": "x"}}}, "groups.*: no key is called fild; there are field, prefix"),
        ({"groups": "x"}, "groups: Expected `object`, got `str`"),
        ({"options": 3}, "options: Expected `str . object . array"),
        ({"text": [1]}, "text.*: Expected `str`, got `int`"),
        ({"access": "secret"}, "access: 'secret' is none of credentialed, gated, open"),
        ({"license": 3}, "license: Expected `str . object`, got `int`"),
        ({"license": {"field": "lic"}}, "has lic; there are"),
        ({"name": "../x"}, "name: letters, digits"),
        ({"split": "a b"}, "split: letters, digits"),
        ({"id": ["a"]}, "id: Expected `str"),
        ({"id": "uid"}, "has uid; there are"),
        ({"question": [], "answer": [], "images": []}, "none of 3 rows could be used .missing_field 3.*question"),
    ],
)
def test_mappings_that_do_not_fit_give_one_line(
    tmp_path: Path, corpora: tuple[Path, Path], mapping: Row, message: str
) -> None:
    with pytest.raises(UserError, match=message) as caught:
        ingest(corpora[1], "train", mapping, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "out").rglob("build.json")) if (tmp_path / "out").exists() else True


def test_a_field_that_only_the_last_row_has_is_found(tmp_path: Path) -> None:
    write(tmp_path / "c" / "x.tar", tar_bytes([("a", {"txt": b"one"})]))
    write_lines(tmp_path / "c" / "y.jsonl", [{"text": "two"}, {"text": "three", "meta": {"patient": "p"}}])
    ingest(tmp_path / "c", "train", {"groups": {"subject_id": "meta.patient"}}, tmp_path / "out")
    assert query(tmp_path / "out", "SELECT subject_id FROM samples ORDER BY sample_id") == [(None,), (None,), ("p",)]


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        ingest(tmp_path / "gone", "train", None, tmp_path / "out")
    write(tmp_path / "c" / "a.pdf", PICTURES[0])
    with pytest.raises(UserError, match=r"nothing here or below is \*\.json"):
        ingest(tmp_path / "c", "train", None, tmp_path / "out")
    write(tmp_path / "c" / "x.tar", tar_bytes([("a", {"txt": b"x"})]))
    with pytest.raises(UserError, match="lies within the corpus"):
        ingest(tmp_path / "c", "train", None, tmp_path / "c" / "proof")
    for missing in ([], ["--role", "test"]):
        done = run_module("builders.corpus", "--raw", str(tmp_path), "--out", str(tmp_path / "out"), *missing)
        assert (done.returncode, "--role" in done.stderr) == (2, True)


def test_mapping_files(tmp_path: Path) -> None:
    path = tmp_path / "mapping.yaml"

    def side(role: Any) -> Any:
        return make_rules(read_yaml(path), role, tmp_path / "a corpus", str(path))

    path.write_text(yaml.safe_dump({"license": "MIT", "text": "a", "eval": {"text": ["b", "c"]}, "train": None}))
    assert [(side(role).license, side(role).of("text")) for role in ("train", "eval")] == [
        ("MIT", ("a",)),
        ("MIT", ("b", "c")),
    ]
    path.write_text("")
    assert [(side(role).name, side(role).split, side(role).access) for role in ("train", "eval")] == [
        ("a-corpus", "train", "credentialed"), ("a-corpus", "test", "credentialed"),
    ]  # fmt: skip
    for content, message in (("- a", "Expected `object`"), ("a: [", "not YAML"), ("txt: a", "no key is called txt")):
        path.write_text(content)
        with pytest.raises(UserError, match=f"^{path}: .*{message}") as caught:
            side("train")
        assert "\n" not in str(caught.value)
    path.unlink()
    with pytest.raises(UserError, match=r"mapping\.yaml: cannot be read"):
        side("train")


def test_another_process_is_waited_for(tmp_path: Path) -> None:
    import fcntl

    write_lines(tmp_path / "c" / "x.jsonl", [{"text": "x"}])
    ingest(tmp_path / "c", "train", None, tmp_path / "out")
    with (tmp_path / "out" / ".resume" / "c.train" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            ingest(tmp_path / "c", "train", None, tmp_path / "out")


# --- properties --------------------------------------------------------------------------------------------------

scalars = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(width=16) | st.text(max_size=9)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        "question",
        "answer",
        "options",
        "choices",
        "text",
        "caption",
        "messages",
        "conversations",
        "reasoning",
        "image",
        "other",
    ]
)
lines = st.dictionaries(fields, values, max_size=5).map(lambda row: json.dumps(row).encode()) | st.binary(
    max_size=12
).filter(lambda data: data.strip() and b"\n" not in data and b"\r" not in data)


def naive_strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for inner in value.values() for text in naive_strings(inner)]
    if isinstance(value, list):
        return [text for inner in value for text in naive_strings(inner)]
    return [value] if isinstance(value, str) else []


@settings(max_examples=20)
@given(st.lists(lines, min_size=1, max_size=12))
def test_every_line_is_a_sample_or_a_reject_and_no_text_is_lost(
    tmp_path_factory: pytest.TempPathFactory, content: list[bytes]
) -> None:
    folder = tmp_path_factory.mktemp("lines")
    write(folder / "c" / "x.jsonl", b"\n".join([*content, b'{"text": "the last line"}']))
    build = ingest(folder / "c", "train", None, folder / "out")
    assert balanced(build)["read"] == len(content) + 1
    assert verify_build(build) == []
    kept = {record["provenance"]["row"]: record for record in records(build)}
    refused = {row for _, row, _ in rejects(build)}
    assert kept.keys() | refused == {str(number) for number in range(1, len(content) + 2)}
    assert not kept.keys() & refused
    for number, line in enumerate(content, 1):
        record = kept.get(str(number))
        if record is None:
            continue
        said = " ".join(
            normalise(text) for _, reasoning, texts in texts_of(record) for text in [*texts, reasoning or ""]
        )
        row = json.loads(line)
        for name in row.keys() - {"image", "other"}:
            if name == "answer" and record["options"]:
                continue  # the gold option's text stands for it
            for text in naive_strings(row.get(name)):
                assert normalise(text.replace("<image>", "")) in said


cells = st.fixed_dictionaries(
    {
        "question": st.none() | st.text(max_size=9),
        "options": st.none() | st.lists(st.text(max_size=5), max_size=4),
        "answer": st.none() | st.integers(0, 5),
        "image": st.none() | st.sampled_from([PICTURES[0], PICTURES[1], b"", PICTURES[0][:200], b"no picture"]),
    }
)
SCHEMA = pa.schema(
    [("question", pa.string()), ("options", pa.list_(pa.string())), ("answer", pa.int64()),
     ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
)  # fmt: skip


@settings(max_examples=20)
@given(st.lists(cells, max_size=12), st.integers(1, 5))
def test_every_parquet_row_is_a_sample_or_a_reject(
    tmp_path_factory: pytest.TempPathFactory, content: list[Row], group: int
) -> None:
    folder = tmp_path_factory.mktemp("cells")
    rows = [row | {"image": None if row["image"] is None else {"bytes": row["image"]}} for row in content]
    rows.append({"question": "The last row?"})
    write_parquet(folder / "c" / "x.parquet", rows, SCHEMA, group)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(builders.engine.tables, "BYTES_PER_UNIT", 1)
        build = ingest(folder / "c", "eval", None, folder / "out")
    assert balanced(build)["read"] == len(rows)
    kept = {int(record["provenance"]["row"]): record for record in records(build)}
    for number, row in enumerate(content):
        usable = row["image"] in (None, *PICTURES[:2])
        something = row["image"] is not None or row["answer"] is not None or any(
            text.strip() for text in [row["question"] or "", *(row["options"] or [])]
        )  # fmt: skip
        assert (number in kept) == (usable and something)
        if number in kept:
            assert len(kept[number]["images"]) == (row["image"] is not None)
            assert (kept[number]["question"] or "") == (row["question"] or "").strip()


def test_a_trial_build_and_a_dry_run(tmp_path: Path) -> None:
    """Rows that are counted as they are read are limited in each file by itself; a dry run writes nothing."""
    for name in ("a", "b"):
        write_lines(tmp_path / "c" / f"{name}.jsonl", [{"text": f"{name} {number}"} for number in range(5)])
    write_parquet(tmp_path / "c" / "d.parquet", [{"text": f"d {number}"} for number in range(5)])
    words = [
        "builders.corpus",
        "--raw",
        str(tmp_path / "c"),
        "--role",
        "train",
        "--out",
        str(tmp_path / "out"),
        "--json",
    ]
    planned = json.loads(run_module(*words, "--dry-run", check=True).stdout)
    assert (planned["build"], planned["splits"]["train"]["units"]) == ("c.train", 3)
    assert planned["splits"]["train"]["rows"] is None
    assert not (tmp_path / "out").exists()
    built = json.loads(run_module(*words, "--limit", "2", "--quiet", check=True).stdout)
    assert (built["limit"], built["counts"]["read"]) == (2, 6)
    whole = json.loads(run_module(*words, "--quiet", check=True).stdout)
    assert (whole["limit"], whole["counts"]["read"]) == (None, 15)
    again = run_module(*words, "--limit", "2")
    assert (again.returncode, "holds a full build" in again.stderr) == (1, True)
    assert run_module(*words, "--limit", "0").returncode == 2


def test_a_corpus_is_read_to_its_end_whatever_is_damaged(tmp_path: Path) -> None:
    rows = [{"text": f"row {number}", "image": {"bytes": b"no picture", "path": "a.jpg"}} for number in range(120)]
    write_parquet(tmp_path / "c" / "d.parquet", [*rows, {"text": "sound", "image": None}])
    done = run_module(
        "builders.corpus", "--raw", str(tmp_path / "c"), "--role", "train", "--out", str(tmp_path / "out")
    )
    assert (done.returncode, "damaged rows: 120" in done.stdout) == (4, True), done.stderr


def test_zips_within_zips_are_read_row_by_row_and_picture_by_picture(tmp_path: Path) -> None:
    """Rows and pictures of zips within zips count as those of the zip do; what is not looked into is not compared."""
    rows = b"".join(json.dumps({"question": QUESTION, "image": f"{n}.jpg"}).encode() + b"\n" for n in range(2))
    parts = {
        "p/b.zip": zipped({"rows.jsonl": rows}),
        "pictures.zip": zipped({"0.jpg": PICTURES[0], "1.jpg": PICTURES[1]}),
    }
    write(tmp_path / "corpus" / "a.zip", zipped(parts))
    built = ingest(tmp_path / "corpus", "train", None, tmp_path / "out")
    assert [record["provenance"]["file"] for record in records(built)] == ["a.zip!p/b.zip!rows.jsonl"] * 2
    assert [len(record["images"]) for record in records(built)] == [1, 1]
    assert open_entries(document(built)) == []
    write(tmp_path / "corpus" / "a.zip", zipped(parts | {"x.zip": parts["p/b.zip"][:-30], "y.tar": b"tar"}))
    lines = "\n".join(open_entries(document(ingest(tmp_path / "corpus", "train", None, tmp_path / "out"))))
    assert "file a.zip!x.zip, 1" in lines and "file a.zip!y.tar, 1" in lines and "row bad_archive, 1" in lines


ASKED, SAID = QUESTION.encode(), b'{"text": "a b c d e f"}\n'
PROBES: dict[str, tuple[dict[str, bytes], int, str]] = {
    "the usual names": ({"a.jsonl": b'{"question": "%s", "answer": "nerve"}\n' % ASKED}, 0, r"question: question"),
    "other names": ({"a.jsonl": b'{"frage": "%s", "n": 1}\n' % ASKED}, 2, r"nothing was taken from: frage, n"),
    "a text that nothing reads": (
        {"a.csv": b'question,remark\n"%s","the patient fell off a ladder"\n' % ASKED}, 4, r"text remark, 1",
    ),
    "a format that is not read": ({"a.jsonl": SAID, "b.pdf": b"%PDF"}, 4, r"b\.pdf, 1 \(its format"),
    "two formats, one damaged": (
        {"a.csv": b"text\na b c d e f\n", "b.jsonl": SAID + b'{"text": \n'}, 4,
        r"\*\.jsonl +1 +2 +1 +1(.|\n)*row bad_row, 1",
    ),
    "pictures beyond the first rows": (
        {"a.jsonl": b"".join(b'{"text": "a b c d e f", "image": "p/%d.png"}\n' % n for n in range(130))}
        | {f"p/{n}.png": png(n) for n in range(130)}, 0, r"images: image",
    ),
    "nothing": ({"a.bin": b"x"}, 2, r"name the folder of a corpus"),
}  # fmt: skip


@pytest.mark.parametrize("case", PROBES)
def test_a_probe_says_what_a_corpus_is_and_writes_nothing(case: str, tmp_path: Path, capsys: Any) -> None:
    files, code, pattern = PROBES[case]
    for name, data in files.items():
        write(tmp_path / "corpus" / name, data)
    before = tree_digest(tmp_path)
    assert main(["--raw", str(tmp_path / "corpus"), "--role", "eval", "--probe"]) == code
    assert re.search(pattern, shown := capsys.readouterr().out), shown
    assert main(["--raw", str(tmp_path / "corpus"), "--role", "eval", "--probe", "--json"]) == code
    assert json.loads(capsys.readouterr().out)["exit_code"] == code
    assert tree_digest(tmp_path) == before


def test_a_snapshot_of_the_hub_is_called_by_its_dataset(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "datasets--an-owner--a.set" / "snapshots" / ("0123456789" * 4)
    write_lines(folder / "rows.jsonl", [{"text": "a b c d e f"}])
    (tmp_path / "link").symlink_to(folder)
    for raw in (folder, tmp_path / "link"):
        assert make_rules(None, "train", raw, "mapping").name == "an-owner--a-set"
    assert make_rules({"name": "mine"}, "train", folder, "mapping").name == "mine"
    assert make_rules(None, "train", folder.parents[1], "mapping").name == "an-owner--a-set"
