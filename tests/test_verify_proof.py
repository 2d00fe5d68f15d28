"""`manifests.verify`: an untouched proof is verified, every kind of tampering is found and named.

The forger of these tests knows the formats: after an edit he makes every digest anew that he can, and where it helps
him he runs `manifests.prove` again on what he forged.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from fractions import Fraction
from hashlib import sha256
from importlib.metadata import version
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import tree_digest
from PIL import Image

from builders.demos.phantom_pictures import jpeg
from builders.demos.phantoms import make
from builders.engine.command import main as build
from builders.engine.corpus_source import build_corpus
from builders.engine.registry import load
from manifests.catalog import connect, load_builds
from manifests.proof.certificate import certificate_root, read_certificate, statement
from manifests.proof.evidence import LEVELS, ORDER
from manifests.proof.overlaps import VERSIONS
from manifests.proof.policy import DEFAULT_POLICY, parse_policy
from manifests.proof.sentences import sentences
from manifests.proof.trust import Trust, check_proof
from manifests.prove import prove, render_report
from manifests.verification.audit import fewer_than
from manifests.verification.pictures import HashIndex
from manifests.verify import main
from medgpt.digest import build_root, file_sha256, inputs_sha256, merkle_root
from medgpt.errors import UserError

Row = dict[str, Any]
Change = Callable[[Path], None]

SLAKE, TRAIN, TEST = "slake.paper", "ours.train", "theirs.eval"
VIGNETTE = (
    "A 58-year-old man with type 2 diabetes mellitus presents with crushing substernal chest pain radiating to the "
    "left arm, diaphoresis and nausea for two hours; electrocardiography shows ST elevation in leads II, III and aVF"
)
LESION = (
    "An MRI of the knee of a young skier shows a complete tear of the anterior cruciate ligament with bone bruises of "
    "the lateral femoral condyle and the posterolateral tibial plateau after a pivoting injury"
)
BOILERPLATE = "which of the following is the most appropriate next step in the management of this patient"


def item(question: str, *options: str, **more: Any) -> Row:
    return {"question": question, "options": list(options), "answer": options[0] if options else None, **more}


TEST_ROWS = [
    item(f"{VIGNETTE}; which artery is occluded?", "Right coronary artery", "Left anterior descending artery"),
    item(f"{LESION}; what is injured, too?", "Medial meniscus", "Patellar tendon"),
    item("What causes Whipple disease?", "Tropheryma whipplei", "Giardia lamblia"),
    *[item(f"A patient number {n} has sign {n}; {BOILERPLATE}", f"Drug {n}", f"Operation {n}") for n in range(4)],
    item("急性心肌梗死患者应首先使用哪一种药物进行治疗以改善预后并降低死亡率", "阿司匹林", "青霉素"),
    item("Does this film show a pleural effusion?", image="test.jpg", patient="7"),
]
TRAIN_ROWS = [
    item(f"{VIGNETTE}; which artery is occluded?", "Left anterior descending artery", "Right coronary artery"),
    item(f"Case: {LESION.lower()}.\nWhat should be looked for?", "Haemarthrosis", "Nothing"),
    item(
        "A skier twisted the knee: anterior cruciate ligament tear on MRI, bone bruises of lateral femoral condyle and "
        "tibial plateau. Which other structure is injured?",
        "Medial meniscus",
    ),
    {"text": "Notes. What causes Whipple disease? Not Giardia lamblia: Tropheryma whipplei does, a Gram-positive rod."},
    {"text": f"In exams one is asked {BOILERPLATE}, again and again."},
    {"text": "问题：急性心肌梗死患者应首先使用哪一种药物进行治疗以改善预后并降低死亡率？答案是阿司匹林。"},
    item("What is seen?", "An effusion", image="copy.png", patient="3"),
    item("What is seen there?", "A mass", image="other.jpg", patient="7"),
    item("What else is seen?", "A second mass", image="other.png", patient="9"),
    {"text": "Nothing of interest to any test stands in this line."},
    item("What is seen here?", "No such picture", image="missing.jpg"),  # a reject
    {"text": f"Examiners like to ask {BOILERPLATE}, and so they do."},
    item(f"{VIGNETTE.replace('58', '61').replace('II, III', 'I, V2')}; which artery is occluded?", "It is another"),
]


def png(data: bytes, marked: bool = False) -> bytes:
    """A picture as PNG; `marked` with one pixel changed, so that it is another picture with the same look."""
    picture, buffer = Image.open(io.BytesIO(data)).convert("L"), io.BytesIO()
    if marked:
        picture.putpixel((80, 80), int(picture.getpixel((80, 80))) ^ 8)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_corpus(folder: Path, rows: list[Row], pictures: dict[str, bytes]) -> None:
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, data in pictures.items():
        (folder / name).write_bytes(data)


def policy() -> Any:
    """The default, but two samples of a train part are enough to make an n-gram boilerplate."""
    content = yaml.safe_load(DEFAULT_POLICY.read_text())
    content["text"] |= {"boilerplate_samples": 1, "boilerplate_share": 0.1, "run_bits": 1}
    return parse_policy(content)


def proved(data: Path) -> None:
    prove(data, data / "proof", policy(), pairs_per_cell=1)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One build with its pictures and two sides of a corpus made elsewhere, overlapping at every level; proved."""
    folder = tmp_path_factory.mktemp("verify")
    data = folder / "data"
    arguments = ["--demo", "--raw", str(folder / "raw"), "--out", str(data), "--paper-variant", "--limit", "8"]
    assert build(load("slake"), [*arguments, "--quiet"]) == 0
    shared, other = jpeg(make(3), 160), jpeg(make(8), 160)
    pictures = {"copy.png": png(shared), "other.jpg": other, "other.png": png(other, marked=True)}
    write_corpus(folder / "train", TRAIN_ROWS, pictures | {"slides.pptx": b"PK"})
    write_corpus(folder / "test", TEST_ROWS, {"test.jpg": shared})
    groups = {"subject_id": {"field": "patient", "prefix": "hospital"}}
    for role, name in ("train", "ours"), ("test", "theirs"):
        side = "train" if role == "train" else "eval"
        build_corpus(folder / role, side, {"name": name, "access": "open", "groups": groups}, data)
    proved(data)
    return data


@pytest.fixture
def data(untouched: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(untouched, tmp_path / "data"))


# ---- the forger's tools


def reseal(data: Path, *, report: bool = True) -> None:
    """Make every digest anew: of files in build.json, its root, of the proof's files, the certificate's root."""
    records = {}
    for path in sorted(data.glob("*/build.json")):
        record = json.loads(path.read_bytes())
        for unit in record["units"]:
            for file in unit["shards"] + unit["parts"]:
                content = path.parent / file["file"]
                file.update(bytes=content.stat().st_size, sha256=file_sha256(content).hex())
        record["root"] = build_root(record)
        path.write_bytes(orjson.dumps(record))
        records[record["build"]] = record
    document = read_json(data)
    for said in document["builds"]:
        if said["build"] in records:
            said["root"] = records[said["build"]]["root"]
    document["builds_root"] = merkle_root(bytes.fromhex(said["root"]) for said in document["builds"]).hex()
    write_certificate(data, document)
    if report:
        render_again(data)


def read_json(data: Path) -> Row:
    document: Row = json.loads((data / "proof" / "certificate.json").read_bytes())["predicate"]
    document.pop("materials")
    return document


def write_certificate(data: Path, document: Row) -> None:
    """Write the certificate with the digests of the proof's files and its root made anew."""
    for name in document["files"]:
        document["files"][name] = file_sha256(data / "proof" / f"{name}.parquet").hex()
    document["root"] = certificate_root(document)
    content = orjson.dumps(statement(document), option=orjson.OPT_SORT_KEYS)
    (data / "proof" / "certificate.json").write_bytes(content)


def render_again(data: Path) -> None:
    """The report as it follows from the forged files; a certificate that no report can be made of keeps the old one."""
    with contextlib.suppress(UserError, KeyError), connect(data) as connection:
        render_report(connection, load_builds(data), data / "proof", read_json(data))


def recount(data: Path) -> None:
    """Exclusions and all counts as they follow from forged evidence."""
    rows = pq.read_table(data / "proof" / "evidence.parquet").to_pylist()
    document = read_json(data)

    def cells(rows: list[Row], *names: str) -> list[tuple[Row, list[Row]]]:
        found: dict[tuple[Any, ...], list[Row]] = {}
        for row in rows:
            found.setdefault(tuple(row[name] for name in names), []).append(row)
        order = sorted(found, key=lambda values: [(value is None, value) for value in values])
        return [(dict(zip(names, values, strict=True)), found[values]) for values in order]

    def different(rows: list[Row], name: str) -> int:
        return len({row[name] for row in rows})

    document["matrix"] = [
        {**cell, "pairs": len(of), "train_samples": different(of, "train_sample"),
         "eval_samples": different(of, "eval_sample")}
        for cell, of in cells(rows, "train_build", "eval_build", "eval_split", "level", "kind", "action")
    ]  # fmt: skip
    totals = {(row["eval_build"], row["eval_split"], row["eval_subset"]): row["of_eval_samples"]
              for row in document["subsets"]}  # fmt: skip
    document["subsets"] = [
        {**cell, "eval_samples": different(of, "eval_sample"),
         "of_eval_samples": totals[cell["eval_build"], cell["eval_split"], cell["eval_subset"]]}
        for cell, of in cells(rows, "train_build", "eval_build", "eval_split", "eval_subset", "level", "kind")
        if cell["eval_subset"] is not None
    ]  # fmt: skip
    taken = cells([row for row in rows if row["action"] == "exclude"], "train_build", "train_sample")
    names = [name for build in sorted({cell["train_build"] for cell, _ in taken}) for name in [build]]
    document["exclusions"] = [
        {"train_build": name, "train_samples": sum(cell["train_build"] == name for cell, _ in taken)} for name in names
    ]
    document["exclusions_by_benchmark"] = [
        {**cell, "train_samples": different(of, "train_sample"), "eval_samples": different(of, "eval_sample")}
        for cell, of in cells(
            [row for row in rows if row["action"] == "exclude"], "train_build", "eval_build", "eval_split"
        )
    ]
    units = {
        row["sample_id"]: row["unit"]
        for path in data.glob("*/manifest/*.parquet")
        for row in pq.read_table(path, columns=["sample_id", "unit"]).to_pylist()
    }
    exclusions = [
        {**cell, "unit": units[cell["train_sample"]], "reasons": sorted({f"{r['level']}/{r['kind']}" for r in of}),
         "evidence": len(of), "eval_samples": len({(r["eval_build"], r["eval_sample"]) for r in of})}
        for cell, of in taken
    ]  # fmt: skip
    path = data / "proof" / "exclusions.parquet"
    pq.write_table(pa.Table.from_pylist(exclusions, pq.read_schema(path)), path)
    write_certificate(data, document)
    render_again(data)


def certificate(change: Callable[[Row], object]) -> Change:
    """An edit of the certificate, with its root and the report made anew."""

    def apply(data: Path) -> None:
        document = read_json(data)
        change(document)
        write_certificate(data, document)
        render_again(data)

    return apply


def rows_of(path: Path, change: Callable[[list[Row]], object]) -> None:
    """Edit a Parquet file row by row."""
    schema = pq.read_schema(path)
    rows = pq.read_table(path).to_pylist()
    before = repr(rows)
    change(rows)
    assert repr(rows) != before, "the forgery changes nothing"
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


def proof_rows(name: str, change: Callable[[list[Row]], object]) -> Change:
    """An edit of one of the proof's files, with all digests made anew; after one of the evidence, all counts too."""

    def apply(data: Path) -> None:
        rows_of(data / "proof" / f"{name}.parquet", change)
        if name == "evidence":
            recount(data)
        else:
            write_certificate(data, read_json(data))
            render_again(data)

    return apply


def part(data: Path, build: str, split: str, kind: str = "") -> Path:
    [path] = (data / build / (kind or "manifest")).glob(f"*-{split}-*.parquet")
    return path


def manifest_rows(build: str, split: str, kind: str, change: Callable[[list[Row]], object]) -> Change:
    """An edit of a manifest part with all digests made anew."""

    def apply(data: Path) -> None:
        rows_of(part(data, build, split, kind), change)
        reseal(data)

    return apply


def again(change: Change) -> Change:
    """Proved again after the edit, so that everything follows from what was forged."""

    def apply(data: Path) -> None:
        change(data)
        proved(data)

    return apply


def record(build: str, change: Callable[[Row], object], *, seal: bool = True) -> Change:
    """An edit of build.json."""

    def apply(data: Path) -> None:
        path = data / build / "build.json"
        content = json.loads(path.read_bytes())
        change(content)
        path.write_bytes(orjson.dumps(content))
        if seal:
            reseal(data)

    return apply


def flipped(pattern: str, place: float = 0.5) -> Change:
    """One bit of one file."""

    def apply(data: Path) -> None:
        path = sorted(data.glob(pattern))[0]
        content = bytearray(path.read_bytes())
        content[int(len(content) * place)] ^= 1
        path.write_bytes(content)

    return apply


def first(rows: list[Row], **wanted: Any) -> Row:
    return next(row for row in rows if all(row[name] == value for name, value in wanted.items()))


def setter(change: Callable[[Row], Row], **wanted: Any) -> Callable[[list[Row]], object]:
    """Change the first row that has the wanted values."""

    def apply(rows: list[Row]) -> None:
        row = first(rows, **wanted)
        row.update(change(row))

    return apply


def dropper(**wanted: Any) -> Callable[[list[Row]], object]:
    return lambda rows: rows.remove(first(rows, **wanted))


def added(rows: list[Row]) -> None:
    """A pair that is none, in its place in the order."""
    row = first(rows, level="near_text", kind="passage")
    names = [other["train_sample"] for other in rows if other["train_build"] == SLAKE]
    rows.append({**row, "level": "exact_text", "kind": "caption", "train_build": SLAKE, "train_sample": names[0]})
    rows.sort(key=lambda row: [(row[name] is not None, row[name]) for name in ORDER])


def swap_thumbnails(rows: list[Row]) -> None:
    one = rows[0]
    other = next(row for row in rows if row["thumbnail"] != one["thumbnail"])
    one["thumbnail"], other["thumbnail"] = other["thumbnail"], one["thumbnail"]


def point_elsewhere(data: Path) -> None:
    """One picture row shows another picture of its shard, in every column that speaks of pixels."""
    hashes = pq.read_table(part(data, SLAKE, "train", "images"))["phash"].to_pylist()
    other = next(number for number, phash in enumerate(hashes) if phash != hashes[0])
    names = ("offset", "length", "format", "width", "height", "tiles", "sha256", "stored_sha256", "pixel_sha256")
    for kind, columns in ("images", (*names, "phash")), ("thumbnails", ("thumbnail",)):
        rows_of(
            part(data, SLAKE, "train", kind),
            lambda rows, columns=columns: rows[0].update({name: rows[other][name] for name in columns}),
        )
    reseal(data)


def drop_a_thumbnail(rows: list[Row]) -> None:
    rows.pop()


def swap_roles(data: Path) -> None:
    """The test split of slake becomes a training split: its overlap would be gone."""

    def change(content: Row) -> None:
        for unit in content["units"]:
            if unit["split"] == "test":
                unit["role"] = "train"
        content["counts"]["by_split"]["test"]["role"] = "train"

    for kind in ("manifest", "images", "thumbnails"):
        rows_of(part(data, SLAKE, "test", kind), lambda rows: [row.update(role="train") for row in rows])
    record(SLAKE, change, seal=False)(data)
    reseal(data, report=False)


def hide_a_test_item(data: Path) -> None:
    """The manifest and all counts forget the last test item; the shard still holds it."""
    lost = pq.read_table(part(data, TEST, "test"))["sample_id"].to_pylist()[-1]
    rows_of(
        part(data, TEST, "test"),
        lambda rows: rows.__setitem__(slice(None), [row for row in rows if row["sample_id"] != lost]),
    )
    for kind in ("images", "thumbnails"):  # it was the only picture of this side
        part(data, TEST, "test", kind).unlink()

    def change(content: Row) -> None:
        [unit] = content["units"]
        for counts in (unit, content["counts"], content["counts"]["by_split"]["test"]):
            counts["kept"] -= 1
            counts["read"] -= 1
        split = content["counts"]["by_split"]["test"]
        for counts in (unit, split):
            counts["images"] -= 1  # the only picture of this side
            counts["images_squared"] -= 1
        split.update(images_mean=0.0, images_sd=0.0)
        unit["shards"][0]["samples"] -= 1
        unit["parts"] = [one for one in unit["parts"] if not one["file"].startswith(("images/", "thumbnails/"))]

    record(TEST, change, seal=False)(data)
    reseal(data, report=False)


def hide_an_exclusion(data: Path) -> None:
    """A training sample is kept, and the certificate counts as if that were right."""
    path = data / "proof" / "exclusions.parquet"
    lost = pq.read_table(path).to_pylist()[0]
    rows_of(path, lambda rows: rows.remove(lost))
    certificate(lambda d: first(d["exclusions"], train_build=lost["train_build"]).update(train_samples=1))(data)


def drop_level(level: str) -> Callable[[list[Row]], object]:
    return lambda rows: rows.__setitem__(slice(None), [row for row in rows if row["level"] != level])


def loosen(name: str, value: float) -> Change:
    """A policy that finds less than the evidence says, with its digest made anew."""

    def change(document: Row) -> None:
        document["policy"]["text"][name] = value
        document["policy_sha256"] = parse_policy(document["policy"]).sha256

    return certificate(change)


def drop_rule(document: Row) -> None:
    document["policy"]["rules"].remove({"level": "near_image", "action": "exclude"})
    document["policy_sha256"] = parse_policy(document["policy"]).sha256


def other_format(data: Path) -> None:
    write_certificate(data, read_json(data) | {"format": 99})


def add_build(data: Path) -> None:
    shutil.copytree(data / TRAIN, data / "more")
    path = data / "more" / "build.json"
    content = json.loads(path.read_bytes()) | {"build": "more"}
    path.write_bytes(orjson.dumps(content | {"root": build_root(content)}))


def lists_another_raw_file(data: Path) -> None:
    """As if another picture had been read: in the list and in build.json, which keeps its root."""
    path = data / SLAKE / "inputs.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[0]["sha256"] = bytes(32)
    pq.write_table(table.from_pylist(rows, table.schema), path)
    content = json.loads((data / SLAKE / "build.json").read_bytes())
    content["inputs"]["sha256"] = inputs_sha256(path)
    (data / SLAKE / "build.json").write_bytes(orjson.dumps(content))


def restated(change: Callable[[Row], object]) -> Change:
    """An edit of the statement around the certificate."""

    def apply(data: Path) -> None:
        path = data / "proof" / "certificate.json"
        content = json.loads(path.read_bytes())
        change(content)
        path.write_bytes(orjson.dumps(content, option=orjson.OPT_SORT_KEYS))

    return apply


def shorter_corpus(data: Path) -> None:
    """The test side without its first item, its list of raw files as if all had been read."""
    raw = Path((data / ".resume" / TEST / "raw").read_text())
    listed, before = (
        (data / TEST / "inputs.parquet").read_bytes(),
        json.loads((data / TEST / "build.json").read_bytes()),
    )
    shorter = data.parent / "shorter"
    shutil.copytree(raw, shorter)
    (shorter / "rows.jsonl").write_text("".join((raw / "rows.jsonl").read_text().splitlines(True)[1:]))
    shutil.rmtree(data / TEST)
    shutil.rmtree(data / ".resume" / TEST)
    groups = {"subject_id": {"field": "patient", "prefix": "hospital"}}
    build_corpus(shorter, "eval", {"name": "theirs", "access": "open", "groups": groups}, data)
    (data / ".resume" / TEST / "raw").write_text(str(raw))
    (data / TEST / "inputs.parquet").write_bytes(listed)
    record(TEST, lambda r: r.update(inputs=before["inputs"]), seal=False)(data)


def forged_inputs(data: Path) -> None:
    """The digest of a raw file is another wherever it stands."""
    path = data / TEST / "inputs.parquet"
    rows_of(path, setter(lambda row: {"sha256": bytes(32)}, file="rows.jsonl"))
    record(TEST, lambda r: r["inputs"].update(sha256=inputs_sha256(path)), seal=False)(data)


SHORTER, FORGED = again(shorter_corpus), again(forged_inputs)


def hide_a_member(data: Path) -> None:
    """A shard holds one block more than its manifest knows of, with all digests made anew."""
    path = sorted(data.glob(f"{SLAKE}/shards/*train*.tar"))[0]
    path.write_bytes(path.read_bytes() + bytes(10_240))
    longer = record(SLAKE, lambda r: first(list(r["counts"]["by_split"].values()), role="train").update(bytes=92_160))
    longer(data)


def insert_a_member(data: Path) -> None:
    """A shard holds one member more, amid the others, and every place behind it is moved along."""
    path = sorted(data.glob(f"{SLAKE}/shards/*train*.tar"))[0]
    second = sorted(row["offset"] for row in pq.read_table(part(data, SLAKE, "train")).to_pylist())[1]
    content, place = path.read_bytes(), second - 512
    assert not any(content[-1536:]), "no room left before the end"
    path.write_bytes(content[:place] + tarfile.TarInfo("hidden.json").tobuf() + content[place:-512])
    for kind in ("", "images"):
        for row_file in [part(data, SLAKE, "train", kind)]:
            rows_of(
                row_file,
                lambda rows: [row.update(offset=row["offset"] + 512 * (row["offset"] >= second)) for row in rows],
            )
    reseal(data)


def closes_the_books(document: Row) -> None:
    """What was not compared is said to have been."""
    first(document["accounting"], state="not compared").update(state="compared", name="", reason="")
    document["sentences"] = sentences(document)


def declares_all(document: Row) -> None:
    document["policy"]["leave_out"] = {"*": "of no interest"}
    document["policy_sha256"] = parse_policy(document["policy"]).sha256


def swap_ends(rows: list[Row]) -> None:
    """Two rows of evidence of one kind name each other's training sample."""
    one = first(rows, level="id", kind="subject_id")
    other = next(row for row in rows if row["kind"] == "stem" and row["train_sample"] != one["train_sample"])
    for name in ("train_build", "train_split", "train_sample"):
        one[name], other[name] = other[name], one[name]
    rows.sort(key=lambda row: [(row[name] is not None, row[name]) for name in ORDER])


def another_list_of_rows(data: Path) -> None:
    """What a user of the corpus takes out by lacks its last row."""
    path = data / "proof" / "excluded_rows.csv"
    path.write_text("".join(path.read_text().splitlines(True)[:-1]))


def corpus_says_all_was_compared(content: Row) -> None:
    books = content["parameters"]["accounting"]
    assert any(entry[1] == "not compared" for entry in books)
    content["parameters"]["accounting"] = [entry for entry in books if entry[1] != "not compared"]


SAYS_ALL = again(record(TRAIN, corpus_says_all_was_compared))


def sets_clean(document: Row) -> None:
    document["clean"] = not document["clean"]


TAMPERINGS: dict[str, tuple[Change, tuple[str, ...]]] = {
    # Bytes, files and builds.
    "a bit of a tar shard": (flipped(f"{SLAKE}/shards/*.tar"), ("shards/slake", "altered")),
    "a bit of an Arrow shard": (flipped(f"{TEST}/shards/*"), ("shards/theirs", "altered")),
    "a bit of a part": (flipped(f"{SLAKE}/manifest/*train*.parquet"), ("manifest/slake", "altered")),
    "a bit of the rejects": (flipped(f"{TRAIN}/rejects/*"), ("rejects/ours", "altered")),
    "a bit of the evidence": (flipped("proof/evidence.parquet"), ("evidence", "altered")),
    "a bit of the report": (flipped("proof/report.html", 0.9), ("report",)),
    "a bit of the certificate": (flipped("proof/certificate.json", 0.7), ("certificate.json",)),
    "shard removed": (lambda data: sorted(data.glob(f"{SLAKE}/shards/*"))[0].unlink(), ("shards/slake", "missing")),
    "part removed": (lambda data: part(data, TRAIN, "train").unlink(), ("manifest/ours", "not there")),
    "thumbnails removed": (lambda data: part(data, SLAKE, "train", "thumbnails").unlink(), ("thumbnails/slake",)),
    "stray shard": (
        lambda data: shutil.copy(sorted(data.glob(f"{SLAKE}/shards/*"))[0], data / SLAKE / "shards" / "x-00000.tar"),
        ("shards/x-00000.tar", "not part of the build"),
    ),
    "build removed": (lambda data: shutil.rmtree(data / TRAIN), (TRAIN, "certifi")),
    "build added": (add_build, ("more", "certificate")),
    "evidence removed": (lambda data: (data / "proof" / "evidence.parquet").unlink(), ("evidence.parquet", "missing")),
    "report removed": (lambda data: (data / "proof" / "report.html").unlink(), ("report.html",)),
    # build.json.
    "kept of build.json": (record(SLAKE, lambda r: r["counts"].update(kept=1), seal=False), (SLAKE,)),
    "kept of build.json, sealed": (record(SLAKE, lambda r: r["counts"].update(kept=1)), (SLAKE, "kept")),
    "rejected of a unit, sealed": (record(SLAKE, lambda r: r["units"][0].update(rejected=9)), (SLAKE, "rejected")),
    "access, sealed": (record(TRAIN, lambda r: r["source"].update(access="gated")), ("builds", "access")),
    "a raw file, in the list": (lists_another_raw_file, ("builds", "inputs")),
    "another digest of raw files": (
        certificate(lambda d: d["builds"][0].update(inputs="00" * 32)), ("builds", "inputs"),
    ),
    "another root": (
        certificate(lambda d: d["builds"][0].update(root="00" * 32)), (TRAIN, "root"),
    ),
    # Evidence.
    "id row gone": (proof_rows("evidence", dropper(level="id")), ("evidence", "id", "missing")),
    "exact row gone": (proof_rows("evidence", dropper(level="exact_image", kind="pixels")), ("exact_image", "missing")),
    "exact text row gone": (proof_rows("evidence", dropper(level="exact_text")), ("exact_text", "missing")),
    "near picture gone": (proof_rows("evidence", dropper(level="near_image")), ("near_image", "missing")),
    "passage gone": (proof_rows("evidence", dropper(kind="passage")), ("near_text", "passage", "missing")),
    "stem gone": (proof_rows("evidence", dropper(kind="stem", level="near_text")), ("stem", "missing")),
    "stem with answer gone": (proof_rows("evidence", dropper(kind="stem_answer")), ("stem_answer", "missing")),
    "sibling gone": (proof_rows("evidence", dropper(kind="sibling")), ("sibling", "missing")),
    "a level gone": (proof_rows("evidence", drop_level("near_image")), ("near_image", "missing")),
    "row added": (proof_rows("evidence", added), ("exact_text", "caption")),
    "row twice": (proof_rows("evidence", lambda rows: rows.insert(1, rows[0])), ("evidence",)),
    "order": (proof_rows("evidence", lambda rows: rows.reverse()), ("evidence",)),
    "distance": (
        proof_rows("evidence", setter(lambda row: {"distance": row["distance"] + 2}, level="near_image")),
        ("near_image",),
    ),
    "score of a picture": (
        proof_rows("evidence", setter(lambda row: {"score": row["score"] - 0.0001}, level="near_image")),
        ("near_image",),
    ),
    "words of a passage": (
        proof_rows("evidence", setter(lambda row: {"words": row["words"] - 1}, kind="passage")),
        ("near_text", "passage"),
    ),
    "score of a stem": (
        proof_rows("evidence", setter(lambda row: {"score": 0.7}, kind="stem", level="near_text")),
        ("near_text", "stem"),
    ),
    "span": (proof_rows("evidence", setter(lambda row: {"span": "nothing"}, kind="passage")), ("near_text", "passage")),
    "action": (
        proof_rows("evidence", setter(lambda row: {"action": "report"}, action="exclude")), ("action", "exclude"),
    ),
    # What follows from the evidence.
    "exclusion gone": (hide_an_exclusion, ("exclusion",)),
    "exclusion added": (
        proof_rows("exclusions", lambda rows: rows.append({**rows[-1], "train_sample": "slake/train/zzz"})),
        ("exclusion", "slake/train/zzz"),
    ),
    "exclusion's reasons": (
        proof_rows("exclusions", lambda rows: rows[0].update(reasons=["id/pmid"])), ("exclusion", "id/pmid"),
    ),
    "common n-gram's count": (
        proof_rows("common", lambda rows: rows[0].update(train_samples=rows[0]["train_samples"] + 1)), ("common",),
    ),
    "common n-gram gone": (proof_rows("common", lambda rows: rows.pop()), ("common",)),
    "train duplicate gone": (proof_rows("train_duplicates", lambda rows: rows.pop()), ("train", "duplicate")),
    "exclusions counted": (
        certificate(lambda d: d["exclusions"][0].update(train_samples=99)), ("exclusions", "99"),
    ),
    "count of the matrix": (certificate(lambda d: d["matrix"][0].update(pairs=1000)), ("matrix", "1000")),
    "share of a subset": (certificate(lambda d: d["subsets"][0].update(eval_samples=999)), ("subsets", "999")),
    "count of siblings": (certificate(lambda d: d["counts"]["near_text"].update(sibling=0)), ("counts",)),
    "count of candidates": (certificate(lambda d: d["counts"]["near_image"].update(candidates=77)), ("counts",)),
    "count of train samples": (certificate(lambda d: d["train_totals"][0].update(train_samples=5)), ("train_totals",)),
    "count of test samples": (certificate(lambda d: d["eval_totals"][0].update(eval_samples=5)), ("eval_totals",)),
    "what was left out": (certificate(lambda d: d["left_out_of_near_text"].clear()), ("left_out_of_near_text",)),
    "clean": (certificate(sets_clean), ("clean",)),
    "coverage": (certificate(lambda d: d["coverage"]["pictures"].update(radiographs=999)), ("coverage", "999")),
    "levels": (certificate(lambda d: d["levels"].pop("id")), ("levels",)),
    "rule version": (certificate(lambda d: d["rules"].update({"id": 0})), ("id", "another version")),
    "rule gone": (certificate(lambda d: d["rules"].pop("exact")), ("exact",)),
    "key gone": (certificate(lambda d: d.pop("software")), ("software",)),
    "policy's digest": (certificate(lambda d: d.update(policy_sha256="00" * 32)), ("policy",)),
    "threshold of stems": (loosen("stem_bits", 9999), ("stem",)),
    "threshold of passages": (loosen("passage_words", 9999), ("passage",)),
    "rule of the policy": (certificate(drop_rule), ("action",)),
    "format": (other_format, ("format",)),
    # Forged manifests, every digest made anew, some proved again: only the shards know better.
    "phash": (
        again(manifest_rows(SLAKE, "train", "images", setter(lambda row: {"phash": row["phash"] ^ 0xFFFFFFFF}))),
        ("phash",),
    ),
    "thumbnails": (manifest_rows(SLAKE, "train", "thumbnails", swap_thumbnails), ("thumbnail",)),
    "pixel digest": (
        manifest_rows(SLAKE, "test", "images", lambda rows: [row.update(pixel_sha256=bytes(32)) for row in rows]),
        ("pixel_sha256",),
    ),
    "image id": (
        manifest_rows(SLAKE, "train", "images", lambda rows: [row.update(image_id="slake/x") for row in rows]),
        ("image_id",),
    ),
    "another picture": (point_elsewhere, ("slake",)),
    "a thumbnail less": (manifest_rows(SLAKE, "train", "thumbnails", drop_a_thumbnail), ("thumbnails",)),
    "stem digest": (
        again(manifest_rows(TEST, "test", "", lambda rows: rows[0].update(stem_sha256=None, stem_options_sha256=None))),
        ("stem_sha256",),
    ),
    "subject id": (
        again(manifest_rows(TRAIN, "train", "", setter(lambda row: {"subject_id": None}, subject_id="hospital/7"))),
        ("subject_id",),
    ),
    "subset": (manifest_rows(SLAKE, "test", "", lambda rows: [row.update(subset=None) for row in rows]), ("subset",)),
    "pictures of a sample": (
        manifest_rows(TRAIN, "train", "", lambda rows: [row.update(n_images=1) for row in rows]), ("n_images",),
    ),
    "roles": (again(swap_roles), ("role",)),
    "licence of a sample": (
        manifest_rows(SLAKE, "train", "", lambda rows: [row.update(license="CC0-1.0") for row in rows]), ("license",),
    ),
    "tokens of a sample": (
        again(manifest_rows(TRAIN, "train", "", lambda rows: rows[0].update(text_tokens=1))), ("text_tokens",),
    ),
    # What a corpus made elsewhere says of itself, forged before it was proved: only its raw files know better.
    "a row of a corpus left out": (SHORTER, (TEST, "made again", "differ")),
    "a raw file, in every list": (FORGED, (TEST, "rows.jsonl", "another content")),
    # The statement.
    "a subject": (restated(lambda s: s["subject"][0]["digest"].update(merkleSha256="00" * 32)), ("subjects",)),
    "a subject gone": (restated(lambda s: s["subject"].pop()), ("subjects",)),
    "a material": (
        restated(lambda s: s["predicate"]["materials"][0]["digest"].update(sha256="00" * 32)), ("materials",),
    ),
    "type of the predicate": (restated(lambda s: s.update(predicateType="urn:other")), ("not a certificate",)),
    "a benchmark held": (
        certificate(lambda d: d["benchmarks"]["held"].append({"name": "MedQA", "builds": [TEST]})),
        ("benchmarks.held",),
    ),
    "benchmarks missing": (certificate(lambda d: d["benchmarks"].update(missing=[])), ("benchmarks.missing",)),
    # Columns that nobody reads.
    "unit of an exclusion": (proof_rows("exclusions", lambda rows: rows[0].update(unit="other-00000")), ("unit",)),
    "split of evidence": (
        proof_rows("evidence", setter(lambda row: {"train_split": "other"}, level="near_image")), ("train_split",),
    ),
    "shared value": (proof_rows("evidence", setter(lambda row: {"value": "hospital/8"}, level="id")), ("id",)),
    "what a picture was decided on": (
        proof_rows("evidence", setter(lambda row: {"decided_on": "other"}, level="near_image")), ("decided_on",),
    ),
    "score of a train duplicate": (
        proof_rows("train_duplicates", lambda rows: rows[0].update(score=0.9)), ("train_duplicates", "score"),
    ),
    "exclusions in another order": (proof_rows("exclusions", lambda rows: rows.reverse()), ("exclusions", "order")),
    "an exclusion twice": (proof_rows("exclusions", lambda rows: rows.insert(0, rows[0])), ("exclusions", "twice")),
    "another list of excluded rows": (another_list_of_rows, ("excluded_rows.csv", "not what")),
    "ends of two pairs": (proof_rows("evidence", swap_ends), ("id", "missing")),
    "items that share a stem": (
        proof_rows("evidence", setter(lambda row: {"eval_df": 99}, kind="stem", level="near_text")), ("eval_df",),
    ),
    "accounting": (certificate(closes_the_books), ("accounting",)),
    "policy that declares all": (certificate(declares_all), ("accounting", "policy")),
    "a sentence": (certificate(lambda d: d["sentences"].__setitem__(2, "Nothing was found.")), ("sentences",)),
    "a recall": (certificate(lambda d: [one.update(recall=1.0) for one in d["coverage"]["transformations"]]),
        ("coverage", "recall"),
    ),
    "a benchmark nobody asks for": (
        certificate(lambda d: d["benchmarks"]["missing"].append({"name": "other", "splits": {}})),
        ("benchmarks.missing",),
    ),
    "a picture that is no current one": (
        again(manifest_rows(SLAKE, "train", "images", lambda rows: rows[0].update(relation="exemplar"))), ("relation",),
    ),
    "a member among those of a shard": (insert_a_member, ("shards/slake", "no member that the manifest names")),
    "what a corpus says was compared": (SAYS_ALL, (TRAIN, "made again", "build.json")),
    "a member behind those of a shard": (hide_a_member, ("shards/slake", "where its members make")),
    "test item hidden": (again(hide_a_test_item), ("theirs", "rows")),
}  # fmt: skip


def outcome(data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
    capsys.readouterr()
    code = main([str(data), "--quiet", *more])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def test_the_proof_has_overlap_of_every_kind_that_is_tampered_with(untouched: Path) -> None:
    """Else a tampering below would change nothing that matters."""
    rows = pq.read_table(untouched / "proof" / "evidence.parquet").to_pylist()
    kinds = {(row["level"], row["kind"]) for row in rows}
    assert {
        ("id", "subject_id"), ("id", "image_id"), ("exact_image", "bytes"), ("exact_image", "pixels"),
        ("exact_text", "stem"), ("exact_text", "stem_options"), ("near_image", "whole"),
        ("near_text", "stem"), ("near_text", "stem_answer"), ("near_text", "sibling"), ("near_text", "passage"),
    } <= kinds  # fmt: skip
    for name in ("exclusions", "common", "train_duplicates"):
        assert pq.read_table(untouched / "proof" / f"{name}.parquet").num_rows
    certificate = read_certificate(untouched / "proof")
    assert certificate["left_out_of_near_text"]
    assert certificate["clean"]


PINNED = Path(__file__).parent / "pinned_evidence.json"
PINNED_VERSIONS = {
    "id": ("id",), "exact": ("exact_image", "exact_text"), "near_image": ("near_image",), "near_text": ("near_text",),
    "train_duplicates": (), "policy": tuple(LEVELS),
}  # fmt: skip
"""Declared version -> levels of evidence that it stands for; `rewrite` follows from a model, and the verdicts that it
stands for are those of tests/test_rewrites.py."""
PINNED_ELSEWHERE = {"local_pictures"}  # tests/test_local_pictures.py
ENDS = ("train_build", "train_sample", "eval_build", "eval_sample")


def pinned_form(proof: Path, name: str) -> Row:
    """What a declared version stands for, as digests: pairs of samples, and all that is said of them.

    What is measured on pictures, or is a digest of theirs, is the same only with the same libraries.
    """
    if name == "train_duplicates":
        rows = pq.read_table(proof / "train_duplicates.parquet").to_pylist()
        pairs = sorted({(row["sample_a"], row["sample_b"]) for row in rows})
    else:
        evidence = pq.read_table(proof / "evidence.parquet").to_pylist()
        rows = [row for row in evidence if row["level"] in PINNED_VERSIONS[name]]
        also = ("level", "action") if name == "policy" else ("level",)
        pairs = sorted({tuple(row[column] for column in (*also, *ENDS)) for row in rows})
        # Of a policy only what follows from it: what was measured belongs to the levels.
        plain = [{column: value for column, value in row.items() if column != "action"} for row in rows]
        rows = pairs if name == "policy" else plain
    assert rows, f"the builds show nothing of {name}"
    digests = (sha256(orjson.dumps(one)).hexdigest() for one in (pairs, rows))
    return dict(zip(("pairs", "rows"), digests, strict=True))


@pytest.mark.parametrize("name", PINNED_VERSIONS)
def test_evidence_changes_with_the_declared_version_alone(untouched: Path, name: str) -> None:
    pinned = json.loads(PINNED.read_text())
    assert PINNED_VERSIONS.keys() | PINNED_ELSEWHERE == VERSIONS.keys() - {"rewrite"} == pinned["levels"].keys()
    found = {"version": VERSIONS[name], **pinned_form(untouched / "proof", name)}
    here = {library: version(library) for library in pinned["libraries"]}
    told = pinned["levels"][name]
    compared = ["pairs", "rows"] if name in ("id", "near_text") or here == pinned["libraries"] else ["pairs"]
    changed = [key for key in compared if found[key] != told[key]]
    again = f"pin again in {PINNED.name}: {name} {json.dumps(found)}, libraries {json.dumps(here)}"
    assert not changed or found["version"] != told["version"], f"output changed: raise VERSIONS[{name!r}] and {again}"
    assert found["version"] == told["version"], f"VERSIONS[{name!r}] was changed: {again}"


@pytest.mark.parametrize("sample", [(), ("--sample", "1"), ("--sample", "3"), ("--sample", "1000")])
def test_an_untouched_proof_is_verified_and_nothing_is_written(
    untouched: Path, capsys: pytest.CaptureFixture[str], sample: tuple[str, ...]
) -> None:
    before = tree_digest(untouched)
    code, text = outcome(untouched, capsys, *sample, *(["--no-raw"] if sample else []))
    assert code == 0, text
    assert "FAILED" not in text
    assert "Verified" in text
    assert tree_digest(untouched) == before


@pytest.mark.parametrize("name", TAMPERINGS)
def test_tampering_is_found_and_named(data: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change, words = TAMPERINGS[name]
    before = tree_digest(data)
    change(data)
    assert tree_digest(data) != before
    # Reading corpora in anew takes the most time.
    code, text = outcome(data, capsys, *(() if change in (SHORTER, FORGED, SAYS_ALL) else ("--no-raw",)))
    assert code == 1, text
    findings = [line for line in text.splitlines() if line.startswith("   ")]
    assert any(all(word in line for word in words) for line in findings), text


CHEAP = (
    "a bit of the evidence", "a bit of the certificate", "evidence removed", "another root", "action",
    "exclusion gone", "exclusion added", "exclusion's reasons", "an exclusion twice", "clean", "threshold of stems",
    "rule of the policy", "policy's digest", "format", "a subject", "a material", "benchmarks missing",
    "policy that declares all",
)  # fmt: skip
"""What a start on a proof finds without deriving anything from shards."""


@pytest.mark.parametrize("name", CHEAP)
def test_a_start_on_a_proof_refuses_what_does_not_follow(data: Path, name: str) -> None:
    named = data.parent / "policy.yaml"
    named.write_text(yaml.safe_dump(policy().content))
    assert check_proof(data / "proof", Trust(policy=named))["clean"]
    change, _ = TAMPERINGS[name]
    change(data)
    with pytest.raises(UserError):
        check_proof(data / "proof", Trust(policy=named))


def test_a_build_forged_before_it_was_proved_is_found_where_it_is_made_again(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw, listed = data / ".resume" / SLAKE / "raw", data / SLAKE / "inputs.parquet"
    publisher, other = Path(raw.read_text()), data.parent / "other"
    before = json.loads((data / SLAKE / "build.json").read_bytes()), listed.read_bytes()
    options = ["--out", str(data), "--paper-variant", "--limit", "8", "--quiet"]
    code, text = outcome(data, capsys, "--rebuild", SLAKE)
    assert code == 0 and "1 builds made again" in text, text
    shutil.copytree(publisher, other)
    for file in other.glob("*.json"):
        file.write_text(file.read_text().replace("What modality", "Which modality"))
    assert build(load("slake"), ["--raw", str(other), *options]) == 0
    raw.write_text(str(publisher))
    listed.write_bytes(before[1])
    record(SLAKE, lambda content: content.update(inputs=before[0]["inputs"]), seal=False)(data)
    proved(data)
    assert read_json(data)["builds"][1]["root"] != before[0]["root"]
    assert outcome(data, capsys)[0] == 0
    code, text = outcome(data, capsys, "--rebuild", SLAKE)
    assert code == 1 and f"{SLAKE}: made again from" in text, text
    assert outcome(data, capsys, "--rebuild", "other")[0] == 2
    assert outcome(data, capsys, "--rebuild", SLAKE, "--no-raw")[0] == 2


def test_a_resealed_proof_that_was_not_edited_is_verified(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The forger's tools alone are not what is found."""
    reseal(data)
    code, text = outcome(data, capsys, "--no-raw")
    assert code == 0, text
    proved(data)
    code, text = outcome(data, capsys)
    assert code == 0, text


def test_raw_files_are_read_where_they_are_and_said_to_be_missing_where_not(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = {name: Path((data / ".resume" / name / "raw").read_text()) for name in (SLAKE, TRAIN, TEST)}
    code, text = outcome(data, capsys)
    assert code == 0 and "3 of 3 builds, 2 corpora made elsewhere read in again" in text
    shutil.rmtree(data / ".resume")
    code, text = outcome(data, capsys)
    assert code == 4 and f"raw files that were NOT there ({TRAIN}, {SLAKE}, {TEST})" in text
    code, text = outcome(data, capsys, "--no-raw")
    assert code == 0 and "Verified; raw files were NOT read (--no-raw)" in text
    code, text = outcome(data, capsys, *(f"--raw={name}={place}" for name, place in where.items()))
    assert code == 0, text
    other = tmp_path / "other"
    shutil.copytree(where[TRAIN], other)
    (other / "copy.png").write_bytes((other / "copy.png").read_bytes()[:-1] + b"\0")
    (other / "other.jpg").unlink()
    code, text = outcome(
        data, capsys, "--raw", str(where[SLAKE]), f"--raw={TRAIN}={other}", f"--raw={TEST}={where[TEST]}"
    )
    assert code == 1 and "copy.png: another content than was read" in text and "other.jpg: not below" in text


def test_an_audit_says_what_it_shows(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main([str(data), "--sample", "3", "--seed", "mine", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["seed"], said["confidence"]) == ("mine", 0.99)
    bounds = {(one["build"], one["what"]): (one["fewer_than"], one["of"]) for one in said["bounds"]}
    assert bounds[TRAIN, "train samples"] == (9, 12)  # 3 of 12 drawn miss 9 wrong ones once in 220
    code, text = outcome(data, capsys, "--sample", "1000")
    assert code == 0 and "--seed" in text
    assert all(line.split()[1] == "1" for line in text.splitlines() if line.startswith(TEST))


@pytest.mark.parametrize(("total", "drawn"), [(10, 3), (400, 60), (2_000_000, 300), (50, 50)])
def test_the_bound_of_an_audit_is_the_smallest_that_holds(total: int, drawn: int) -> None:
    bound = fewer_than(total, drawn)

    def missed(wrong: int) -> Fraction:
        return Fraction(comb(total - wrong, drawn), comb(total, drawn))

    assert missed(bound) <= Fraction(1, 100) < missed(bound - 1)


@pytest.mark.parametrize("name", [None, "near picture gone", "train duplicate gone", "exclusion gone", "row added"])
def test_what_is_held_together_piece_by_piece_by_two_processes_is_as_in_one_piece(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str | None
) -> None:
    for number in ("verification.steps._PIECE", "verification.spill._BUFFERED", "verification.pictures._PICTURES_KEPT"):
        monkeypatch.setattr(f"manifests.{number}", 3)
    monkeypatch.setattr("manifests.verification.spread._FEW", 0)
    words: tuple[str, ...] = ()
    if name is not None:
        change, words = TAMPERINGS[name]
        change(data)
    code, text = outcome(data, capsys, "--no-raw", "--workers", "2")
    assert code == (0 if name is None else 1), text
    assert name is None or any(all(word in line for word in words) for line in text.splitlines()), text


@pytest.mark.parametrize("radius", [0, 2, 8, 16])
def test_no_hash_within_the_radius_is_missed(radius: int) -> None:
    draw = np.random.default_rng(radius)
    hashes = draw.integers(0, 2**64, 3_000, dtype=np.uint64)
    index = HashIndex(hashes, radius)
    for _ in range(200):
        flips = draw.choice(64, draw.integers(0, radius + 3), replace=False)
        value = int(hashes[draw.integers(3_000)]) ^ sum(1 << int(bit) for bit in flips)
        distance = np.bitwise_count(hashes ^ np.uint64(value))
        numbers, found = index.near(value)
        assert numbers.tolist() == np.flatnonzero(distance <= radius).tolist()
        assert found.tolist() == distance[numbers].tolist()


def test_json_names_every_finding(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof_rows("evidence", dropper(level="near_image"))(data)
    capsys.readouterr()
    assert main([str(data), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["verified"] is False
    assert [finding for step in document["steps"] for finding in step["findings"]]


def test_a_sample_of_all_finds_what_the_full_run_finds(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    proof_rows("evidence", dropper(kind="sibling"))(data)
    code, text = outcome(data, capsys, "--sample", "1000")
    assert code == 1
    assert "sibling" in text


def test_signatures_are_checked_against_the_key_that_is_given(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ed25519 = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ed25519")
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from manifests.proof.certificate import sign

    keys = []
    for name in ("ours", "others"):
        private = ed25519.Ed25519PrivateKey.generate()
        secret, public = data.parent / f"{name}.pem", data.parent / f"{name}.pub"
        secret.write_bytes(
            private.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        public.write_bytes(
            private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
        )
        keys.append(public)
    code, text = outcome(data, capsys, "--public-key", str(keys[0]))
    assert (code, "certificate.dsse.json" in text) == (1, True)
    sign(data / "proof", data.parent / "ours.pem")
    code, text = outcome(data, capsys, "--public-key", str(keys[0]))
    assert code == 0, text
    code, text = outcome(data, capsys, "--public-key", str(keys[1]))
    assert code == 1
    assert "not this key's signature" in text
    path = data / "proof" / "certificate.dsse.json"
    ours = json.loads(path.read_bytes())
    sign(data / "proof", data.parent / "others.pem")
    others = json.loads(path.read_bytes())
    [by_us], [by_them] = ours["signatures"], others["signatures"]
    for forged in (
        {"signatures": [{**by_them, "keyid": by_us["keyid"]}]}, {"signatures": []}, {"signatures": [{"sig": ""}]},
        {"payload": base64.b64encode(b"{}").decode()}, {"payloadType": "text/plain"},
    ):  # fmt: skip
        path.write_text(json.dumps(ours | forged))
        code, text = outcome(data, capsys, "--public-key", str(keys[0]))
        assert (code, "certificate.dsse.json" in text) == (1, True), forged
        with pytest.raises(UserError, match=r"certificate\.dsse\.json"):
            check_proof(data / "proof", Trust(key=keys[0]))
    path.write_text(json.dumps(ours | {"signatures": [by_them, by_us]}))
    assert outcome(data, capsys, "--public-key", str(keys[0]), "--no-raw")[0] == 0


@pytest.mark.parametrize("lacking", ["data", "certificate"])
def test_without_anything_to_verify_one_line_says_so(
    data: Path, capsys: pytest.CaptureFixture[str], lacking: str
) -> None:
    if lacking == "data":
        shutil.move(data / "proof", data.parent / "proof")
        shutil.rmtree(data)
    else:
        (data / "proof" / "certificate.json").unlink()
    capsys.readouterr()
    assert main([str(data), "--proof", str((data.parent if lacking == "data" else data) / "proof"), "--quiet"]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
