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

import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

from builders import kit
from medgpt.messages import shown_name

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
    damage: kit.InputError | None
    """Why nothing behind them can be read; None where the tar is whole."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    kit.require(raw, "caption tables", _TABLES)
    kit.require(raw, "picture tars", _TARS)
    tables = kit.check_parts(sorted(raw.glob(_TABLES)), raw)
    for path in tables:
        part = _PART.fullmatch(path.name)
        if part and len(tables) < int(part[1]):
            raise kit.NotThisSource(
                f"{path.parent.name}: {len(tables)} of {int(part[1])} caption tables; fetch the others"
            )
    for _ in kit.table_units(raw, tables, "train", "train", columns=_COLUMNS):
        pass  # for its check of the columns
    captions = [kit.relative(path, raw) for path in tables]
    extra = frozenset(params["allow_sources"].replace(",", " ").split())
    for number, path in enumerate(sorted(raw.glob(_TARS))):
        tar, file = _survey(path, raw), kit.relative(path, raw)
        _check_sources(_sources(raw, captions, tar.names), extra, bool(params["paper_variant"]), file)
        payload = {"tar": file, "tables": captions}
        rows = len(tar.names) + (tar.damage is not None)
        yield kit.Unit(f"train-{number:05d}", "train", "train", rows, payload, (file, *captions))


def _survey(path: Path, raw: Path) -> _Tar:
    names: list[str] = []
    try:
        names.extend(name for name, _ in _pictures(path, raw))
    except kit.InputError as error:
        return _Tar(names, error)
    return _Tar(names, None)


def _pictures(path: Path, raw: Path) -> Iterator[tuple[str, kit.Content]]:
    """Members of a tar that are no notes beside the pictures."""
    return ((name, data) for name, data in kit.stream_tar(path, raw) if not name.lower().endswith(_NOT_PICTURES))


def _check_sources(found: Counter[str | None], extra: frozenset[str], paper_variant: bool, file: str) -> None:
    refused = {name: rows for name, rows in found.items() if name and _REFUSED.search(name)}
    unknown = {name: rows for name, rows in found.items() if name not in refused and name not in _ALLOWED | extra}
    if unknown:
        raise kit.NotThisSource(
            f"{file}: unknown values of `source`: {_listed(unknown)}; look at what they are, then --allow-sources"
        )
    if refused and not paper_variant:
        raise kit.NotThisSource(
            f"{file}: pictures of evaluation sets or MIMIC: {_listed(refused)}; move the tar away, or --paper-variant"
        )


def _listed(found: Mapping[Any, int]) -> str:
    return ", ".join(f"{shown_name(str(name))} ({rows} pictures)" for name, rows in sorted(found.items(), key=str))


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


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
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
            row = kit.Row(file, str(position), {})
            yield kit.outcome(partial(_sample, row, name, data, found), file, row.number)
    if tar.damage is not None:
        damage = f"ends after {len(tar.names)} pictures, what follows was not read: {tar.damage.detail}"
        yield kit.Reject(file, str(len(tar.names)), tar.damage.reason, damage)


def _sample(row: kit.Row, name: str, data: kit.Content, found: set[Any]) -> kit.Sample:
    file, position = row.file, row.number
    kit.demand(found, "no_caption", file, name)
    kit.demand(len(found) <= 1, "ambiguous_caption", file, f"{name}: {len(found)} of them")
    [(caption, source)] = found
    if caption is None:
        raise kit.InputError("empty_caption", file, name)
    caption, last, tar = kit.checked_text(caption, "caption", file), name.rpartition("/")[2], Path(file).name
    group: dict[str, str] = {}
    if source.startswith("quilt") and (frame := kit.VIDEO_FRAME.fullmatch(last)):
        group["video_id"] = f"youtube/{frame[1]}"
    if source.startswith(("pmc", "llava_med")) and (article := _ARTICLE.fullmatch(last)):
        group["pmcid"] = f"pmc/{article[1]}"
    # Base names repeat across tars, and a tar may hold one name twice.
    place = f"{file}#{position}!{name}"
    image = kit.Image(f"medtrinity/{tar}/{position}/{last}", place, partial(kit.stored_picture, data, place))
    key = f"{re.sub(r'[^A-Za-z0-9_-]', '_', tar.partition('.')[0])}/{position}"
    return kit.caption_sample(row, caption, image, key=key, group=group, subset=source)


SOURCE = kit.Source(
    name="medtrinity",
    title="MedTrinity-25M (accessible part): machine-written captions of medical pictures",
    revision="UCSC-VLAA/MedTrinity-25M (GitHub README at 79b1b03 and 1983a03, hub card)",
    layouts=(kit.Layout("tar.zst beside Parquet captions", "code", "UCSC-VLAA/MedTrinity-25M@79b1b03"),),
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
    reasons={
        "ambiguous_caption": "several captions stand under this file name; nothing to do",
        "no_caption": "no caption stands under this file name; are all of the caption tables there?",
    },
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 18_525_974},
    paper=(
        "18,525,974, which we take for the pictures of 25M_accessible (unverified). Ours are those with one caption. "
        "Licences are those of the sources: research use. It repeats PMC-OA, PMC-VQA, Quilt-1M and LLaVA-Med data."
    ),
    paper_rows=kit.paper_row(
        "MedTrinity (accessible)",
        "MT",
        18_525_974,
        "less pictures without a caption or with several; stops at pictures of SLAKE, VQA-RAD or MIMIC, which "
        "--paper-variant keeps",
    ),
    options=(
        kit.PAPER_VARIANT,
        kit.Option("--allow-sources", "further values of `source` to accept, separated by commas", ""),
    ),
    hub_id="UCSC-VLAA/MedTrinity-25M",
    hub_revision="89e5c684794e5c4cc1af9e8f1a7798af7c937dbf",
    hub_files=(_TABLES, _TARS),
)

if __name__ == "__main__":
    kit.run(SOURCE)
