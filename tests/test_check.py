"""`manifests.check`: one text or picture against the training data; and near duplicates within the train side."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import call_module
from PIL import Image, ImageOps

from manifests.catalog import connect, load_builds
from manifests.check import main
from manifests.parts import read_pictures
from manifests.proof.stored_text import SampleText, read_texts
from manifests.proof.train_duplicates import TRAIN_DUPLICATES, count_by_builds, train_duplicates
from medgpt.errors import UserError

Row = dict[str, Any]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    for name in ("slake", "medqa"):
        done = call_module(
            f"builders.{name}", "--demo", "--raw", str(folder / "raw" / name), "--out", str(folder / "built"), "--quiet"
        )
        assert done.returncode == 0, done.stderr
    return folder / "built"


@pytest.fixture(scope="module")
def texts(built: Path) -> list[SampleText]:
    [build] = [b for b in load_builds(built) if b.record["build"] == "medqa"]
    return [text for _, part in build.parts("samples", "train") for text in read_texts(build.folder, part)]


@pytest.fixture(scope="module")
def picture(built: Path) -> tuple[str, bytes]:
    """A train sample of the SLAKE demo and its picture's bytes as stored."""
    with connect(built) as connection:
        row = connection.execute(
            "SELECT sample_id, shard, \"offset\", length FROM images WHERE role = 'train' ORDER BY ALL LIMIT 1"
        ).fetchone()
    assert row is not None
    sample, shard, offset, length = row
    return sample, (built / "slake" / "shards" / shard).read_bytes()[offset : offset + length]


def check(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[Row], list[str]]:
    code = main([*arguments, "--json"])
    printed = json.loads(capsys.readouterr().out)
    return code, printed["found"], printed["left_out"]


def kinds(found: list[Row], sample: str) -> set[str]:
    return {f"{row['level']}/{row['kind']}" for row in found if row["sample_id"] == sample}


def test_a_training_question_is_found_by_digest_and_by_its_words(
    built: Path, texts: list[SampleText], capsys: pytest.CaptureFixture[str]
) -> None:
    text = max(texts, key=lambda one: len(one.question))
    options = [word for option in text.options for word in ("--option", option)]
    code, found, left_out = check(capsys, str(built), "--text", text.question.upper().replace(" ", " \n "), *options)
    assert (code, left_out) == (1, [])
    assert {"exact_text/stem", "exact_text/stem_options", "near_text/stem"} <= kinds(found, text.sample_id)


def test_a_passage_inside_a_longer_text_is_found(
    built: Path, texts: list[SampleText], capsys: pytest.CaptureFixture[str]
) -> None:
    text = max(texts, key=lambda one: len(one.question))
    words = text.question.split()
    assert len(words) > 12
    code, found, _ = check(capsys, str(built), "--text", f"Nobody wrote this. {' '.join(words[1:11])} And not this!")
    assert code == 1
    mine = [row for row in found if row["sample_id"] == text.sample_id]
    [row] = [row for row in mine if (row["level"], row["kind"]) == ("near_text", "passage")]
    assert row["words"] >= 8
    assert " ".join(words[2:9]).lower().translate({ord(c): None for c in ",.()"}).split()[0] in row["span"]


def test_what_is_not_there_is_not_found(built: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "Seven purple zebras quietly rehearse an unwritten symphony beneath the frozen aqueduct every leap year"
    assert check(capsys, str(built), "--text", text) == (0, [], [])
    noise = np.random.default_rng(5).integers(0, 256, (300, 300), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    file = built.parent / "noise.png"
    file.write_bytes(buffer.getvalue())
    assert check(capsys, str(built), "--image", str(file)) == (0, [], [])


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "inverted": ImageOps.invert,
    "smaller": lambda image: image.resize((image.width * 3 // 4, image.height * 3 // 4)),
}


def test_a_training_picture_is_found_and_so_are_its_changed_copies(
    built: Path, picture: tuple[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sample, data = picture
    file = tmp_path / "same.jpg"
    file.write_bytes(data)
    code, found, _ = check(capsys, str(built), "--image", str(file))
    assert code == 1
    assert {"exact_image/bytes", "exact_image/pixels", "near_image/whole"} <= kinds(found, sample)
    for name, change in CHANGES.items():
        changed = tmp_path / f"{name}.png"
        change(Image.open(io.BytesIO(data)).convert("L")).save(changed)
        code, found, _ = check(capsys, str(built), "--image", str(changed))
        assert kinds(found, sample) == {"near_image/whole"}, name


def test_what_was_not_read_is_said(
    built: Path, texts: list[SampleText], picture: tuple[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = " ".join(max(texts, key=lambda one: len(one.question)).question.split()[:9])
    code, found, left_out = check(capsys, str(built), "--text", words, "--limit", "1")
    assert (code, found) == (0, [])
    assert "--thorough" in left_out[0]
    assert check(capsys, str(built), "--text", words, "--limit", "1", "--thorough")[0] == 1
    file = tmp_path / "same.jpg"
    file.write_bytes(picture[1])
    code, found, left_out = check(capsys, str(built), "--image", str(file), "--limit", "1")
    assert "near_image/whole" in kinds(found, picture[0])
    assert "--thorough" in left_out[0]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (["--text", "?!"], "no letter or digit"),
        (["--image", "README.md"], "no picture format that is read"),
        (["--image", "no.png"], "no.png"),
    ],
)
def test_items_that_cannot_be_compared_are_refused(
    built: Path, capsys: pytest.CaptureFixture[str], item: list[str], says: str
) -> None:
    assert main([str(built), *item]) == 2
    printed = capsys.readouterr()
    assert says in printed.err
    assert printed.err.count("\n") == 1


def test_the_table_names_the_sample(built: Path, texts: list[SampleText], capsys: pytest.CaptureFixture[str]) -> None:
    text = texts[0]
    assert main([str(built), "--text", text.question]) == 1
    printed = capsys.readouterr().out
    assert text.sample_id in printed
    assert "Found:" in printed


def images_view(connection: duckdb.DuckDBPyConnection, rows: list[Row]) -> None:
    connection.register("rows", pa.Table.from_pylist(rows, pa.schema([
        ("build", pa.string()), ("sample_id", pa.string()), ("index", pa.int32()), ("role", pa.string()),
        ("pixel_sha256", pa.binary()), ("phash", pa.uint64()), ("thumbnail", pa.binary()),
    ])))  # fmt: skip
    connection.execute("CREATE VIEW images AS SELECT * EXCLUDE (thumbnail) FROM rows")
    connection.execute('CREATE VIEW thumbnails AS SELECT build, sample_id, "index", thumbnail FROM rows')


def test_train_duplicates_are_different_pictures_that_agree() -> None:
    chance = np.random.default_rng(0)

    def thumbnail(seed: int, quality: int) -> bytes:
        small = np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(small).resize((96, 96), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    def row(build: str, sample: str, digest: bytes, phash: int, data: bytes, role: str = "train") -> Row:
        values = {"build": build, "sample_id": sample, "index": 0, "role": role}
        return values | {"pixel_sha256": digest, "phash": phash, "thumbnail": data}

    base = int(chance.integers(0, 2**63))
    rows = [
        row("a", "1", b"p1", base, thumbnail(1, 80)),
        row("b", "1", b"p2", base, thumbnail(1, 60)),  # same look, other bytes: a pair with a/1
        row("b", "2", b"p2", base, thumbnail(1, 60)),  # the same picture again: no pair of its own
        row("b", "3", b"p3", base, thumbnail(2, 80)),  # same hash, other look
        row("c", "1", b"p4", base ^ 0b11, thumbnail(1, 50)),  # two bits off
        row("c", "2", b"p5", base, thumbnail(1, 90), role="eval"),
    ]
    with duckdb.connect() as connection:
        images_view(connection, rows)
        judged: list[int] = []
        exact = train_duplicates(connection, 0, 0.7, judged.append)
        near = train_duplicates(connection, 2, 0.7, judged.append)
    assert exact.schema == TRAIN_DUPLICATES
    pairs = {(r["build_a"], r["sample_a"], r["build_b"], r["sample_b"], r["distance"]) for r in exact.to_pylist()}
    assert pairs == {("a", "1", "b", "1", 0)}
    pairs = {(r["build_a"], r["sample_a"], r["build_b"], r["sample_b"], r["distance"]) for r in near.to_pylist()}
    assert pairs == {("a", "1", "b", "1", 0), ("a", "1", "c", "1", 2)}
    assert count_by_builds(near) == [
        {"build_a": "a", "build_b": "b", "pairs": 1},
        {"build_a": "a", "build_b": "c", "pairs": 1},
    ]
    assert sum(judged) == 2 + 3


def test_manifests_shared_without_thumbnails(
    built: Path, picture: tuple[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SQL works, no small picture is in there; what needs them says so instead of finding nothing."""
    data = tmp_path / "shared"
    shutil.copytree(built, data, ignore=shutil.ignore_patterns("thumbnails"))
    with connect(data) as connection:
        (images,) = connection.execute("SELECT count(*) FROM images").fetchone() or (0,)
        assert connection.execute("SELECT count(*) FROM thumbnails").fetchone() == (0,)
        assert images > 0
        assert not any("thumbnail" in str(row) for row in connection.execute("DESCRIBE images").fetchall())

    def jpegs(folder: Path) -> int:
        values = (
            v for path in folder.glob("*/*/*.parquet") for c in pq.read_table(path).columns for v in c.to_pylist()
        )
        return sum(isinstance(value, bytes) and value.startswith(b"\xff\xd8") for value in values)

    assert (jpegs(built), jpegs(data)) == (images, 0)
    (tmp_path / "picture.jpg").write_bytes(picture[1])
    assert main([str(data), "--image", str(tmp_path / "picture.jpg")]) == 2
    assert "no thumbnails/, and pictures cannot be compared without" in capsys.readouterr().err
    [build] = [b for b in load_builds(data) if b.record["build"] == "slake"]
    _, part = next(build.parts("images"))
    with pytest.raises(UserError, match=r"thumbnails/slake-.*parquet: not there, and pictures cannot be compared"):
        read_pictures(part, ["thumbnail"])
