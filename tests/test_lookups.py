"""Pictures that are there under nearly the name that a row gives, pictures that no row names, ids that name samples."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import run_module
from hypothesis import given
from hypothesis import strategies as st

from builders.engine import rawfiles
from builders.engine.archives import PictureStore, check_zip, list_zip, pictures_without_row, read_zip_member
from builders.engine.rawfiles import read_bytes, recorded_gaps
from builders.engine.source import InputError, NotThisSource, Sample, safe_key


def zipped(members: dict[str, bytes], packed: bool = False) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def lay(raw: Path, how: str, names: list[str]) -> str:
    """Files of these names, each with its name in it, in a folder or a zip; where that is."""
    if how == "zip":
        (raw / "p.zip").write_bytes(zipped({name: name.encode() for name in names}))
        return "p.zip"
    for name in names:
        path = raw / "p" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return "p"


Found = str
"""A file's content, or the reason and detail of the error."""


def found(read: Callable[[], bytes]) -> Found:
    try:
        return read().decode()
    except InputError as error:
        return f"{error.reason}: {error.detail}"


CASES: list[tuple[list[str], str, Found]] = [
    (["a/1.jpg", "a/1.JPG"], "a/1.jpg", "a/1.jpg"),  # what is named goes before all else
    (["a/1.JPG"], "a/1.jpg", "a/1.JPG"),
    (["a/1.png"], "a/1.jpg", "a/1.png"),
    (["A/1.JPEG"], "a/1.jpg", "A/1.JPEG"),
    (["a/1.tif", "b/2.jpg"], "a/1.jpg", "a/1.tif"),
    (["a/1.JPG", "b/1.JPG"], "a/1.jpg", "a/1.JPG"),
    (["a/1.JPG", "a/1.png"], "a/1.jpg", "missing_image: there is {p}a/1.JPG, {p}a/1.png"),
    (["a/1.jpg.jpg"], "a/1.jpg", "missing_image: "),
    (["a/2.jpg"], "a/1.jpg", "missing_image: "),
    (["\u00e9.JPG"], "\u00e9.jpg", "\u00e9.JPG"),
    (["\u00e9.jpg"], "e\u0301.jpg", "\u00e9.jpg"),  # as macOS writes the accent
    (["a/b 1.jpg"], "a/b%201.jpg", "a/b 1.jpg"),
    (["a/b%201.jpg"], "a/b 1.png", "a/b%201.jpg"),
]


@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("how", ["zip", "folder"])
@pytest.mark.parametrize(("names", "wanted", "expected"), CASES)
def test_near_names(how: str, flat: bool, names: list[str], wanted: str, expected: Found, tmp_path: Path) -> None:
    place = lay(tmp_path, how, names)
    prefix = "" if how == "zip" else "p/"
    expected = expected.format(p=prefix)
    _, read = PictureStore(tmp_path, [place], flat).reader(wanted)
    assert found(read) == expected
    if how == "zip":
        assert found(lambda: read_zip_member(tmp_path / place, wanted, tmp_path)) == expected
    else:  # the same of a loose file that is read by its path
        loose = expected.replace("p/a/", "")
        assert found(lambda: read_bytes(tmp_path / "p" / wanted, tmp_path)) == loose


def test_the_last_part_alone_is_enough_only_where_it_is_said(tmp_path: Path) -> None:
    place = lay(tmp_path, "zip", ["x/1.JPG"])
    assert found(PictureStore(tmp_path, [place]).reader("a/1.jpg")[1]) == "x/1.JPG"
    assert found(PictureStore(tmp_path, [place], flat=False).reader("a/1.jpg")[1]) == "missing_image: there is x/1.JPG"
    place = lay(tmp_path, "folder", ["x/1.JPG", "y/1.JPG"])
    said = found(PictureStore(tmp_path, ["p"]).reader("a/1.jpg")[1])
    assert said == "missing_image: there is p/x/1.JPG, p/y/1.JPG"


def test_folders_are_listed_only_where_a_file_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of thousands of loose pictures are opened by their paths; a folder is listed once, however many miss."""
    lay(tmp_path, "folder", [f"a/{number}.JPG" for number in range(20)] + ["a/there.jpg"])
    listed: list[Path] = []
    real = rawfiles._listing.__wrapped__

    def listing(folder: Path, state: Any) -> dict[str, list[str]]:
        listed.append(folder)
        return dict(real(folder, state))

    monkeypatch.setattr(rawfiles, "_listing", rawfiles.lru_cache(listing))
    assert read_bytes(tmp_path / "p/a/there.jpg", tmp_path) and not listed
    for number in range(20):
        assert read_bytes(tmp_path / f"p/a/{number}.jpg", tmp_path) == f"a/{number}.JPG".encode()
    assert listed == [tmp_path / "p/a"]


def test_zips_within_zips_are_read_in_place(tmp_path: Path) -> None:
    """Stored or packed, three deep; what cannot be looked into is named where its pictures miss, and by the build."""
    deep = zipped({"c/b.zip": zipped({"d/a.zip": zipped({"3.jpg": b"three"})}, packed=True)})
    members = {"one.zip": zipped({"x/1.jpg": b"one"}), "f/two.ZIP": zipped({"2.jpg": b"two"}, packed=True)}
    for packed in (False, True):
        (tmp_path / f"{packed}.zip").write_bytes(zipped(members | {"deep.zip": deep, "0.jpg": b"none"}, packed))
        store = PictureStore(tmp_path, [f"{packed}.zip"])
        places = {"0.jpg": "0.jpg", "x/1.jpg": "one.zip!x/1.jpg", "2.jpg": "f/two.ZIP!2.jpg"}
        for name, place in (places | {"3.jpg": "deep.zip!c/b.zip!d/a.zip!3.jpg"}).items():
            file, read = store.reader(name)
            said = "none one two three".split()[int(name.rpartition("/")[2][0])]
            assert (file, found(read)) == (f"{packed}.zip!{place}", said)
        names = ["0.jpg", "x/1.jpg", "2.jpg", "3.jpg"]
        assert sorted(list_zip(tmp_path / f"{packed}.zip", tmp_path)) == sorted(names)
        left = pictures_without_row(tmp_path, [f"{packed}.zip"], set())
        assert [file.rpartition("!")[2] for file in left] == ["0.jpg", "3.jpg", "2.jpg", "x/1.jpg"]


def test_archives_within_zips_that_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = zipped({"1.jpg": b"x" * 1000})
    others = {"t.tar": b"tar", "cut.zip": inner[:-30], "deep.zip": zipped({"a.zip": zipped({"b.zip": inner})})}
    deepest = zipped({"too.zip": others["deep.zip"]})
    (tmp_path / "a.zip").write_bytes(zipped({"images/inner.tar": b"tar"}))
    with pytest.raises(NotThisSource, match=r"a\.zip: it holds a\.zip!images/inner\.tar \(not a zip\) and no pictures"):
        PictureStore(tmp_path, ["a.zip"]).reader("1.jpg")
    (tmp_path / "b.zip").write_bytes(zipped({**others, "too.zip": deepest, "2.jpg": b"y"}))
    (tmp_path / "c.zip").write_bytes(zipped({"big.zip": inner, "2.jpg": b"y"}, packed=True))
    monkeypatch.setattr("medgpt.limited.FILE_BYTES", 500)
    with recorded_gaps() as gaps:
        check_zip(tmp_path / "b.zip", tmp_path)
        check_zip(tmp_path / "c.zip", tmp_path)
    assert {gap.file: gap.what.partition("(")[2].partition(")")[0] for gap in gaps} == {
        "b.zip!t.tar": "not a zip",
        "b.zip!cut.zip": "File is not a zip file",
        "b.zip!too.zip!too.zip!a.zip!b.zip": "too many zips in one another",
        "c.zip!big.zip": f"{len(inner):,} bytes, more than the limit of 500",
    }
    hint = "is an archive among the pictures, and is not looked into: unpack it"
    assert found(PictureStore(tmp_path, ["c.zip"]).reader("1.jpg")[1]) == f"missing_image: c.zip!big.zip {hint}"
    lay(tmp_path, "folder", ["inner.tar.gz", "2.jpg"])
    assert found(PictureStore(tmp_path, ["p"]).reader("1.jpg")[1]) == f"missing_image: p/inner.tar.gz {hint}"


def build(source: str, raw: Path, out: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """(exit code, what it prints, build.json) with the filters off."""
    done = run_module(f"builders.{source}", "--raw", str(raw), "--out", str(out), "--quiet", *options)
    [document] = out.glob("*/build.json")
    return done.returncode, done.stdout, json.loads(document.read_bytes())


def test_pictures_without_a_row_are_counted(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """In folders and zips alike, of all splits together; rows that are left out by rule have named theirs."""
    raw = tree("quilt_1m")
    with zipfile.ZipFile(raw / "images_part_9.zip", "w") as archive:
        for name in ("one.jpg", "two.PNG", "notes.txt", "__MACOSX/._one.jpg"):
            archive.writestr(f"quilt_1m/{name}", b"x")
    (raw / "quilt_1m").mkdir(exist_ok=True)
    (raw / "quilt_1m" / "three.jpg").write_bytes(b"x")
    options = ("--filters", "none")
    _, said, document = build("quilt_1m", raw, tmp_path / "out", *options, "--workers", "2")
    names = [f"images_part_9.zip!quilt_1m/{name}" for name in ("one.jpg", "two.PNG")] + ["quilt_1m/three.jpg"]
    assert document["pictures_without_row"] == {"count": 3, "first": names}
    assert f"pictures that no row names: 3: {', '.join(names)}" in said
    _, _, again = build("quilt_1m", raw, tmp_path / "out", *options)  # nothing is read again
    assert again == document
    for few in (["--limit", "2"], ["--no-images"], ["--split", "val"]):
        _, said, document = build("quilt_1m", raw, tmp_path / few[0], *options, *few)
        assert document["pictures_without_row"] is None
        assert "no row names" not in said


IDS = ["fig.1.a", "fig.1.b", "fig", "FIG", "Fig 2", "a/b", "a_b",
       "\u00e9t\u00e9", "../up", "0.jpg", "1.json", ".hidden", "a:b",
       "a%2Fb", "a//b", "/abs", "a/", "/", "//", "a\\b", "~", "con", "%", "%25", "-", "a/../b"]  # fmt: skip


def test_ids_of_any_spelling_name_samples() -> None:
    keys = {key: safe_key(key) for key in IDS}
    assert len(set(keys.values())) == len(keys)
    for key, spelt in keys.items():
        assert unquote(spelt) == key
        assert all(part and set(part) <= SAFE for part in spelt.split("/"))
    for good in ("fig", "FIG", "a/b", "a_b", "con", "-"):
        assert keys[good] == good
    assert (keys["fig.1.a"], keys["Fig 2"], keys["/abs"]) == ("fig%2E1%2Ea", "Fig%202", "%2Fabs")


SAFE = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-%")


@given(st.lists(st.text(st.sampled_from("ab./% ~2F\u00e9\ud800"), max_size=6), min_size=2, max_size=2, unique=True))
def test_no_two_ids_become_one(keys: list[str]) -> None:
    one, other = map(safe_key, keys)
    assert one != other
    assert unquote(one, errors="surrogatepass") == keys[0]
    assert not keys[0] or all(set(part) <= SAFE and part for part in one.split("/"))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("", "an id of 0"),
        ("a\nb", "an id of 3"),
        ("\ud800", "an id of 1"),
        ("x" * 91, "an id of 91"),
        ("a/" * 70 + "a", "an id of 141"),
        (" " * 31, "an id of 31"),
    ],
)
def test_an_id_that_is_empty_or_too_long_costs_its_row(key: str, said: str) -> None:
    with pytest.raises(InputError) as raised:
        Sample(key, [], "f.json", "7")
    assert (raised.value.reason, raised.value.detail.startswith(f"row 7: {said}")) == ("bad_id", True)


def test_samples_of_odd_ids_open_in_every_reader(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """Built, verified, and read by tar readers that part names at dots, with all members of a sample together."""
    import tarfile

    raw = tree("pubmedvision")
    path = raw / "PubMedVision_Alignment_VQA.json"
    rows = json.loads(path.read_bytes())
    good = next(row for row in rows if row["id"] == "Alignment_VQA_1")
    path.write_text(json.dumps([good | {"id": key} for key in IDS]))
    code, _, document = build("pubmedvision", raw, tmp_path / "built")
    assert (code, document["counts"]["kept"]) == (0, len(IDS))
    checked = run_module("shards.verify", str(tmp_path / "built"))
    assert checked.returncode == 0, checked.stdout + checked.stderr
    [shard] = (tmp_path / "built").glob("pubmedvision/shards/*.tar")
    with tarfile.open(shard) as tar:
        names = tar.getnames()
    groups = [key for key, _ in itertools.groupby(names, lambda name: name.partition(".")[0])]
    assert groups == [f"pubmedvision/train/{safe_key(key)}" for key in IDS]
