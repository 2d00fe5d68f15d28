"""MedTrinity-25M, its accessible part: machine-written captions of pictures from some 90 sources.

Pictures come as `25M_accessible/*.tar.zst`, captions as `25M_full/*.parquet` for the inaccessible part too, and what
joins them is the base name of a picture (`file_name`), which does not say in which table or tar the other half is. A
row is a picture of a tar, and a unit is a tar. Its captions are found by one pass of DuckDB over the tables: it sorts
them into the tar's order, on disk where they exceed `_JOIN_MEMORY`, and the two are then read side by side as streams.
So a tar is read three times (to plan, for its names, for its pictures), and nothing is ever held whole but the names.

`source` is an allow-list: a value that nobody has looked at stops the plan, and so do values that name an evaluation
set or MIMIC, as the README of the set says that SLAKE's and VQA-RAD's training pictures are in it. Pictures are said to
carry drawn boxes, so their ids are the set's own, while the video and the article a name gives are shared ids.
"""

from __future__ import annotations

import io
import re
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from builders.engine.archives import stream_tar
from builders.engine.rawfiles import checked_text, relative, require, write_demo_file, write_demo_parquet
from builders.engine.source import (
    CAPTION_PROMPT,
    PAPER_VARIANT,
    Image,
    InputError,
    NotThisSource,
    Option,
    PaperRow,
    Params,
    Reject,
    Sample,
    Source,
    Unit,
    assistant,
    user,
)
from builders.engine.tables import table_units
from builders.quilt_1m import VIDEO_FRAME

_TABLES, _TARS = "25M_full/*.parquet", "25M_accessible/*.tar.zst"
_COLUMNS = ("file_name", "caption", "source")
_PART = re.compile(r".+-[0-9]+-of-([0-9]+)\.parquet")
_ALLOWED = frozenset(
    "2u1-data5-nature 4u8_data2_nature CISC MAMA-MIA NCT-CRC-HE-100K PTCGA TCGA VALSET adc22 bhx brats brats24 "
    "brats_24 breast_histo chexpert cr_rate ct_rate deeplesion flare23 ihc4bc kipa22_kits23_cervix llava_med_data "
    "nih_chest padchest pmc_oa pmc_vqa quilt_1m quilt_llava sammed uls23".split()
)
"""Values seen in the accessible part (reference `sources.md`, 7.2)."""
_REFUSED = re.compile(r"mimic|slake|vqa[-_]?rad", re.IGNORECASE)
_NOT_PICTURES = (".json", ".jsonl", ".csv", ".txt", ".md")
_ARTICLE = re.compile(r"(PMC[0-9]+)_.+")
_JOIN_MEMORY = "512MB"


class _Tar(NamedTuple):
    names: list[str]
    """Member names of the pictures, in order."""
    damage: str
    """How the tar is damaged after them; empty where it is whole."""


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    require(raw, "caption tables", _TABLES)
    require(raw, "picture tars", _TARS)
    tables = sorted(raw.glob(_TABLES))
    for path in tables:
        part = _PART.fullmatch(path.name)
        if part and len(tables) < int(part[1]):
            raise NotThisSource(f"{path.parent.name}: {len(tables)} of {int(part[1])} caption tables; fetch the others")
    for _ in table_units(raw, tables, "train", "train", columns=_COLUMNS):
        pass  # for its check of the columns
    captions = [relative(path, raw) for path in tables]
    extra = frozenset(params["allow_sources"].replace(",", " ").split())
    for number, path in enumerate(sorted(raw.glob(_TARS))):
        tar, file = _survey(path, raw), relative(path, raw)
        _check_sources(_sources(raw, captions, tar.names), extra, bool(params["paper_variant"]), file)
        payload = {"tar": file, "tables": captions}
        rows = len(tar.names) + bool(tar.damage)
        yield Unit(f"train-{number:05d}", "train", "train", rows, payload, (file, *captions))


def _survey(path: Path, raw: Path) -> _Tar:
    names: list[str] = []
    try:
        names.extend(name for name, _ in _pictures(path, raw))
    except InputError as error:
        return _Tar(names, error.detail)
    return _Tar(names, "")


def _pictures(path: Path, raw: Path) -> Iterator[tuple[str, bytes]]:
    """Members of a tar that are no notes beside the pictures."""
    return ((name, data) for name, data in stream_tar(path, raw) if not name.lower().endswith(_NOT_PICTURES))


def _check_sources(found: Counter[str | None], extra: frozenset[str], paper_variant: bool, file: str) -> None:
    refused = {name: rows for name, rows in found.items() if name and _REFUSED.search(name)}
    unknown = {name: rows for name, rows in found.items() if name not in refused and name not in _ALLOWED | extra}
    if unknown:
        raise NotThisSource(
            f"{file}: unknown values of `source`: {_listed(unknown)}; look at what they are, then --allow-sources"
        )
    if refused and not paper_variant:
        raise NotThisSource(
            f"{file}: pictures of evaluation sets or MIMIC: {_listed(refused)}; move the tar away, or --paper-variant"
        )


def _listed(found: Mapping[Any, int]) -> str:
    return ", ".join(f"{name!r} ({rows} pictures)" for name, rows in sorted(found.items(), key=str))


def _joined(
    raw: Path, tables: Sequence[str], names: Sequence[str], query: str, scratch: str
) -> Iterator[tuple[Any, ...]]:
    """Rows of a query over `members` (position, file_name of the pictures of a tar) and `captions` (the tables)."""
    import duckdb
    import pyarrow as pa

    settings: dict[str, Any] = {"memory_limit": _JOIN_MEMORY, "temp_directory": scratch, "threads": 1}
    with duckdb.connect(config=settings) as connection:
        last = [name.rpartition("/")[2] for name in names]
        members = pa.table(
            {"position": pa.array(range(len(last)), pa.int64()), "file_name": pa.array(last, pa.string())}
        )
        connection.register("members", members)
        connection.read_parquet([str(raw / table) for table in tables]).create_view("captions")
        answer = connection.execute(query)
        while rows := answer.fetchmany(1000):
            yield from rows


def _sources(raw: Path, tables: Sequence[str], names: Sequence[str]) -> Counter[str | None]:
    """How many pictures of a tar come from each value of `source`; pictures without a caption are not counted."""
    query = "SELECT source, count(DISTINCT position) FROM members JOIN captions USING (file_name) GROUP BY source"
    with tempfile.TemporaryDirectory() as scratch:
        return Counter(dict(_joined(raw, tables, names, query, scratch)))


def _captions(raw: Path, tables: Sequence[str], names: Sequence[str], scratch: str) -> Iterator[tuple[int, set[Any]]]:
    """(position of a picture, the different (caption, source) under its name) in the tar's order."""
    query = "SELECT position, caption, source FROM members JOIN captions USING (file_name) ORDER BY position"
    for position, rows in groupby(_joined(raw, tables, names, query, scratch), key=itemgetter(0)):
        yield position, {(caption, source) for _, caption, source in rows}


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    file, tables = unit.payload["tar"], unit.payload["tables"]
    tar = _survey(raw / file, raw)
    # Without pictures the second pass is not needed: their names are known.
    pictures = ((name, b"") for name in tar.names) if params["no_images"] else _pictures(raw / file, raw)
    with tempfile.TemporaryDirectory() as scratch:
        captions = _captions(raw, tables, tar.names, scratch)
        known = next(captions, None)
        for position, (name, data) in zip(range(len(tar.names)), pictures, strict=False):
            found: set[Any] = set()
            if known is not None and known[0] == position:
                found, known = known[1], next(captions, None)
            try:
                yield _sample(file, position, name, data, found)
            except InputError as error:
                yield Reject(file, str(position), error.reason, error.detail)
    if tar.damage:
        yield Reject(file, str(len(tar.names)), "bad_archive", f"ends after {len(tar.names)} pictures: {tar.damage}")


def _sample(file: str, position: int, name: str, data: bytes, found: set[Any]) -> Sample:
    if not found:
        raise InputError("no_caption", file, name)
    if len(found) > 1:
        raise InputError("ambiguous_caption", file, f"{name}: {len(found)} of them")
    [(caption, source)] = found
    if caption is None or not caption.strip():
        raise InputError("empty_caption", file, name)
    caption, last, tar = checked_text(caption.strip(), "caption", file), name.rpartition("/")[2], Path(file).name
    group: dict[str, str] = {}
    if source.startswith("quilt") and (frame := VIDEO_FRAME.fullmatch(last)):
        group["video_id"] = f"youtube/{frame[1]}"
    if source.startswith(("pmc", "llava_med")) and (article := _ARTICLE.fullmatch(last)):
        group["pmcid"] = f"pmc/{article[1]}"
    return Sample(
        key=f"{re.sub(r'[^A-Za-z0-9_-]', '_', tar.partition('.')[0])}/{position}",
        messages=[user(0, CAPTION_PROMPT), assistant(caption)],
        file=file,
        row=str(position),
        answer=caption,
        # Base names repeat across tars, and a tar may hold one name twice.
        images=[Image(f"medtrinity/{tar}/{position}/{last}", f"{file}#{position}!{name}", partial(bytes, data))],
        group=group,
        subset=source,
    )


PLANTED: dict[str, str] = {
    "video": "medtrinity has a frame of youtube/demoVideo03, a video of the demo trees of medframeqa and quilt_1m",
    "article": "a picture of medtrinity is named after PMC9000001, an article of the pmc_oa demo tree",
}
"""What overlaps with the demo trees of other sources."""

_FRAME = "demoVideo03_image_0b0f4c1e-5d1c-4f7e-9a57-000000000000.jpg"
_TABLE_NAME = "25M_full/train-{:05d}-of-00002.parquet"
# (tar, member, captions under its base name: (text, source))
_DEMO: tuple[tuple[int, str, tuple[tuple[str | None, str], ...]], ...] = (
    (1, "data2/quilt/" + _FRAME, (("The image is a stained section. Region of interest: nests.", "quilt_1m"),)),
    (1, "data2/brats/BraTS-GoAT-00001 0000_y.slice-119.jpg", (("The image is an axial MRI slice.", "brats_24"),)),
    (1, "data5/pmc/PMC9000001_Fig3_1.jpg", (("The image is a light micrograph.", "pmc_oa"),)),
    (1, "data5/pmc/figure.jpg", (("The image is a chart.", "pmc_vqa"), ("The image is a CT scan.", "pmc_oa"))),
    (1, "metadata.json", ()),
    (10, "a/deeplesion/figure.jpg", ()),
    (10, "a/deeplesion/000001_01_01_100.png", (("The image is a CT scan of the abdomen. Région hépatique.",
                                                "deeplesion"),)),
    (10, "a/deeplesion/000001_01_01_101.png", (("The image is a CT scan.", "deeplesion"),
                                               ("The image is a CT scan.", "deeplesion"))),
    (10, "b/not_in_the_tables.png", ()),
    (10, "b/null_caption.png", ((None, "sammed"),)),
    (10, "b/000001_01_01_101.png", ()),
)  # fmt: skip


def _write_demo(raw: Path) -> None:
    from builders.mmmu_med import demo_picture

    tars: dict[int, dict[str, bytes]] = {}
    rows: list[dict[str, Any]] = []
    for number, member, captions in _DEMO:
        last = member.rpartition("/")[2]
        picture = demo_picture(member, "PNG" if member.endswith("png") else "JPEG")
        tars.setdefault(number, {})[member] = picture if captions or "." in last[-4:] else b"{}"
        rows += [{"file_name": last, "caption": caption, "source": source} for caption, source in captions]
    # An inaccessible source of the full tables, of which no tar has a picture, stops nothing.
    rows.append({"file_name": "s50000000.jpg", "caption": "The image is a radiograph.", "source": "mimic_cxr_jpg"})
    rows.reverse()
    write_demo_parquet(raw / _TABLE_NAME.format(0), rows[::2])
    write_demo_parquet(raw / _TABLE_NAME.format(1), rows[1::2])
    for number, members in tars.items():
        write_demo_file(raw / f"25M_accessible/dataset_shard_{number}.tar.zst", demo_tar(members))


def demo_tar(members: dict[str, bytes]) -> bytes:
    """A Zstandard-compressed tar."""
    import pyarrow as pa

    buffer, packed = io.BytesIO(), pa.BufferOutputStream()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(buffer.getvalue())
    return bytes(packed.getvalue())


SOURCE = Source(
    name="medtrinity",
    title="MedTrinity-25M (accessible part): machine-written captions of medical pictures",
    homepage="https://huggingface.co/datasets/UCSC-VLAA/MedTrinity-25M",
    revision="UCSC-VLAA/MedTrinity-25M (GitHub README at 79b1b03 and 1983a03, hub card)",
    license="unstated",
    access="gated",
    stage="midtrain",
    task="caption",
    modality="image-text",
    splits={"train": "train"},
    obtain="""
Accept the terms of https://huggingface.co/datasets/UCSC-VLAA/MedTrinity-25M and fetch two of its folders (--download
does it, with your token). --raw is the folder with
  25M_full/*.parquet             all caption tables
  25M_accessible/*.tar.zst       the pictures, read in place; some or all (needed with --no-images as well: they say
                                 which rows there are)
Planning reads every tar once. Captions are sorted in the folder for temporary files (TMPDIR): 1 to 2 GB a worker.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 18_525_974},
    paper=(
        "18,525,974, which we take for the pictures of 25M_accessible (unverified). Ours are those with one caption. "
        "Licences are those of the sources: research use. It repeats PMC-OA, PMC-VQA, Quilt-1M and LLaVA-Med data."
    ),
    paper_rows=(
        PaperRow(
            "MedTrinity (accessible)",
            "MT",
            18_525_974,
            "less pictures without a caption or with several; stops at pictures of SLAKE, VQA-RAD or MIMIC, which "
            "--paper-variant keeps",
        ),
    ),
    options=(
        PAPER_VARIANT,
        Option("--allow-sources", "further values of `source` to accept, separated by commas", ""),
    ),
    hub_id="UCSC-VLAA/MedTrinity-25M",
    hub_files=(_TABLES, _TARS),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
