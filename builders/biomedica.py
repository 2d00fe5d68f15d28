"""BIOMEDICA: figures of PubMed Central with captions and article data, its dermatology and surgery subsets.

The subsets are two hub repositories of WebDataset tars, `{commercial,noncommercial,other}/*.tar`, 10,000 figures each.
A member's key is `<batch>-<PMCID>-<position in the article>-<file stem of the figure>` (biomedica-etl, script 06); the
stem may hold dots (`pone.0012345.g001`), at the first of which WebDataset readers cut the key, so batch, article and
position are the key here. The json holds the whole article (`image_set`, `image_context`, `article_text`): four short
fields of it are kept.

The subsets are also packed as Parquet (`biomedica_<subset>_subset_parquet`), whose columns no public reader names: the
members' names, those of the `datasets` library, and the json's fields as columns of their own are tried
(`_CAPTIONS`, `_PICTURES`). Histopathology has no webdataset of its own here, and is built with `--subset` alone.

A figure with labels of both subsets is in both; the later one is rejected as a repeat. `subset` is the tree and the
panel type, `dermatology/single`. That type is a label of one of 2,000 clusters of pictures, not of the picture: a hint
for filters, nothing more. `image_hash` is of a re-encoded PNG and compares with nothing else, so it is not kept. The
figure's file stem is the name under which PMC-OA's `url_name` knows it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from builders import kit
from builders.engine.tables import open_parquet
from medgpt.messages import named

_SUBSETS = ("dermatology", "surgery")
_OTHERS = ("histopathology",)
_KEYS, _CAPTIONS, _PICTURES = ("__key__", "key"), ("txt", "caption", "image_caption"), ("jpg", "image", "png")
"""Names of a Parquet file's columns, of which the first that is there is read; `json` holds the record, or its fields
are columns."""
_FIELDS = ("article_accession_id", "image_file_name", "image_panel_type", "article_license")
LISTS = ("commercial", "noncommercial", "other")
"""PubMed Central's lists of articles by licence: the folders of a subset."""
_KEY = re.compile(r"(?P<batch>[^-/]+)-(?P<article>PMC[0-9]+)-(?P<position>[0-9]+)-.+")
_ARTICLE = re.compile(r"PMC[0-9]+")
_PANEL_TYPES = frozenset({"single", "multiple"})
_NO_LICENSE = frozenset({"", "none", "no-cc code"})
"""What is stated of articles under terms of their own; `None` is the publisher's str(None)."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    wanted = _SUBSETS if params["subset"] == "both" else (params["subset"],)
    trees = {subset: _files(raw, subset, alone=len(wanted) == 1) for subset in wanted}
    number, earlier = 0, list[str]()
    for subset, files in trees.items():
        for path in files:
            if path.suffix == ".parquet":
                for unit in _parquet_units(raw, path, number, earlier):
                    yield replace(unit, payload=unit.payload | {"subset": subset, "earlier": earlier})
                    number += 1
                continue
            file = kit.relative(path, raw)
            payload = {"file": file, "subset": subset, "earlier": earlier}
            rows = kit.count_webdataset_samples(path, raw)
            yield kit.Unit(f"train-{number:05d}", "train", "train", rows, payload, (file, *earlier))
            number += 1
        earlier = [kit.relative(path, raw) for path in files]


def _files(raw: Path, subset: str, alone: bool) -> list[Path]:
    """The tars or Parquet files of a subset's tree, which is `raw` itself if it is the only one wanted."""
    named = [raw / f"biomedica_{subset}_subset_{packing}" for packing in ("webdataset", "parquet")]
    for folder in [raw / subset, *named, *([raw] if alone else [])]:
        if tars := [path for name in LISTS for path in sorted(folder.glob(f"{name}/*.tar"))]:
            return tars
        if tables := sorted(folder.rglob("*.parquet")):
            return tables
    hint = "" if alone else "; --subset builds one of the two alone"
    packed = f"{subset}/{{{','.join(LISTS)}}}/*.tar or {subset}/**/*.parquet"
    raise kit.NotThisSource(f"{raw}: no {packed} found; is --raw the right folder?{hint}")


def _parquet_units(raw: Path, path: Path, number: int, earlier: list[str]) -> Iterator[kit.Unit]:
    file = kit.relative(path, raw)
    with open_parquet(path, file) as table:
        names = table.schema_arrow.names
    for what, wanted in (("caption", _CAPTIONS), ("picture", _PICTURES), ("record", ("json", _FIELDS[0]))):
        if not set(wanted) & set(names):
            there = f"(looked for {', '.join(wanted)}; there are {named(names)})"
            raise kit.NotThisSource(f"{file}: no column with the {what} {there}; another packing?")
    # Only these: the article's text is in every row.
    columns = [name for name in (*_KEYS, *_CAPTIONS, *_PICTURES, "json", *_FIELDS) if name in names]
    yield from kit.table_units(raw, [path], "train", "train", columns=columns, inputs=earlier, first_unit=number)


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    file, subset = unit.payload["file"], unit.payload["subset"]
    paths = [raw / name for name in unit.payload["earlier"]]
    repeats = _figures(raw, tuple((path, path.stat().st_mtime_ns) for path in paths))
    if "range" in unit.payload:
        yield from kit.convert_rows(raw, unit, lambda row: _table_sample(row, subset, repeats))
        return
    done = 0
    try:
        for key, parts in kit.webdataset_samples(raw / file, raw):
            row = kit.Row(file, str(done), {})
            yield kit.outcome(partial(_sample, row, subset, key, parts, repeats), file, row.number)
            done += 1
    except kit.InputError as error:  # the tar is damaged from here on
        for number in range(done, unit.rows):
            yield kit.Reject(file, str(number), error.reason, error.detail)


@lru_cache(maxsize=1)
def _figures(raw: Path, tars: tuple[tuple[Path, int], ...]) -> frozenset[str]:
    """Figures of another subset, `PMC123-4` or `PMC123/name.jpg`; its files are looked through once a process."""
    names = (name for path, _ in tars if path.suffix != ".parquet" for name in kit.webdataset_keys(path, raw))
    keys = (_KEY.fullmatch(PurePosixPath(name).name) for name in names)
    tables = (path for path, _ in tars if path.suffix == ".parquet")
    return frozenset(f"{match['article']}-{match['position']}" for match in keys if match) | {
        figure for path in tables for figure in _table_figures(raw, path)
    }


def _table_figures(raw: Path, path: Path) -> Iterator[str]:
    for unit in _parquet_units(raw, path, 0, []):
        columns = [name for name in unit.payload["columns"] if name not in (*_PICTURES, *_CAPTIONS)]
        for row in kit.table_rows(raw, replace(unit, payload=unit.payload | {"columns": columns})):
            if isinstance(row, kit.Row):
                try:
                    yield _figure(row, _values(row))[0]
                except kit.InputError:
                    continue  # a reject of its own subset


def _values(row: kit.Row) -> Mapping[str, Any]:
    """The fields of the json, wherever they stand."""
    value = row.values.get("json")
    if isinstance(value, str | bytes):
        value = kit.parse_json(value.encode() if isinstance(value, str) else value, row.file)
    return value if isinstance(value, dict) else row.values


def _figure(row: kit.Row, values: Mapping[str, Any]) -> tuple[str, str]:
    """(the figure, as it is compared; the sample's key) of a Parquet row: by the key of the tars, or its article."""
    given = next((row.values[name] for name in _KEYS if isinstance(row.values.get(name), str)), "")
    if match := _KEY.fullmatch(PurePosixPath(given).name):
        figure = f"{match['article']}-{match['position']}"
        return figure, f"{match['batch']}-{figure}"
    article, name = kit.text_of(values, _FIELDS[0], row.file), values.get(_FIELDS[1])
    key = f"{Path(row.file).stem}-{article}-{row.number}"
    return f"{article}/{name}" if name else key, key


def _table_sample(row: kit.Row, subset: str, repeats: frozenset[str]) -> kit.Sample:
    values = _values(row)
    column, text = (next(name for name in names if name in row.values) for names in (_PICTURES, _CAPTIONS))
    figure, key = _figure(row, values)
    picture = row.values[column]
    data = picture.get("bytes") if isinstance(picture, dict) else picture
    found = _Figure(figure, key, f"{row.file}!{row.number}.{column}", data if isinstance(data, bytes) else None)
    return _of_figure(row, subset, found, _known(values, row.file), kit.text_of(row.values, text, row.file), repeats)


class _Figure(NamedTuple):
    """A figure of either packing."""

    name: str
    key: str
    place: str
    picture: kit.Content | None


def _sample(
    row: kit.Row, subset: str, key: str, parts: Mapping[str, kit.Content], repeats: frozenset[str]
) -> kit.Sample:
    file = row.file
    match = _KEY.fullmatch(PurePosixPath(key).name)
    if match is None:
        raise kit.InputError("bad_id", file, f"{key!r} is not <batch>-<PMCID>-<position>-<image>")
    article, position = match["article"], match["position"]
    # What stands before the extension of `...-pone.0012345.g001.jpg` is the rest of the key.
    content = {name.rpartition(".")[2]: data for name, data in parts.items()}
    for name in ("json", "txt"):
        kit.demand(name in content, "missing_field", file, name)
    record = _record(kit.parse_json(kit.stored(content["json"]), file), file)
    caption = kit.decode_utf8(kit.stored(content["txt"]), file)
    if record["article_accession_id"] != article:
        raise kit.InputError("bad_field", file, f"{key}: article_accession_id is not the key's")
    if record["image_panel_type"] not in _PANEL_TYPES:
        raise kit.InputError("bad_field", file, f"{key}: image_panel_type is neither single nor multiple")
    pictures = [data for name, data in content.items() if name in kit.PICTURE_SUFFIXES]
    picture = content.get("jpg", pictures[0] if len(pictures) == 1 else None)
    figure = f"{article}-{position}"
    found = _Figure(figure, f"{match['batch']}-{figure}", f"{file}!{key}.jpg", picture)
    return _of_figure(row, subset, found, record, caption, repeats)


def _of_figure(
    row: kit.Row, subset: str, found: _Figure, record: dict[str, str], caption: str, repeats: frozenset[str]
) -> kit.Sample:
    file, article = row.file, record["article_accession_id"]
    kit.demand(_ARTICLE.fullmatch(article), "bad_id", file, "article_accession_id is no PMC number")
    panels = record["image_panel_type"]
    kit.demand(found.name not in repeats, "duplicate_item", file, f"{found.key} is in {_SUBSETS[0]} too")
    figure = f"pmc/{article}/{PurePosixPath(record['image_file_name']).stem or found.key}"
    image = kit.Image(figure, found.place, partial(kit.stored_picture, found.picture, found.place), study_id=figure)
    names = {"key": found.key, "subset": f"{subset}/{panels}" if panels else subset}
    group, license_name = {"pmcid": f"pmc/{article}", "study_id": figure}, _license(record["article_license"], file)
    return kit.caption_sample(row, caption, image, group=group, license=license_name, **names)


def _record(values: Any, file: str) -> dict[str, str]:
    """The few fields of the json that are kept; the rest is the article."""
    return {name: kit.text_of(values, name, file) for name in _FIELDS}


def _known(values: Mapping[str, Any], file: str) -> dict[str, str]:
    """As `_record`, of Parquet files: only the article must be there."""
    record = {name: kit.text_of(values, name, file) for name in _FIELDS if name == _FIELDS[0] or values.get(name)}
    return dict.fromkeys(_FIELDS, "") | record


def _license(text: str, file: str) -> str:
    """PubMed Central's code, `CC BY-NC`, as `CC-BY-NC`; it states no version."""
    name = kit.creative_commons(text)
    if name is None and text.strip().lower() not in _NO_LICENSE:
        raise kit.InputError("bad_field", file, "article_license is no code of PubMed Central's lists")
    return name or "unstated"


SOURCE = kit.Source(
    name="biomedica",
    title="BIOMEDICA: figures of open-access articles, dermatology and surgery subsets",
    homepage="https://huggingface.co/BIOMEDICA",
    revision="layout of minwoosun/biomedica-etl@b53ded3; hub commits not known",
    layouts=(
        kit.Layout("WebDataset tars", "code", "minwoosun/biomedica-etl@b53ded3", files="*.tar"),
        kit.Layout("Parquet subsets", "card", "the hub's trees of BIOMEDICA", files="*.parquet"),
    ),
    license="per image",
    access="gated",
    stage="pretrain",
    task="caption",
    modality="image-text",
    splits={"train": "train"},
    obtain=f"""
Accept the terms at https://huggingface.co/BIOMEDICA, log in, and fetch both repositories into one folder:
  hf download BIOMEDICA/biomedica_dermatology_subset_webdataset --repo-type dataset --local-dir RAW/dermatology
  hf download BIOMEDICA/biomedica_surgery_subset_webdataset --repo-type dataset --local-dir RAW/surgery
--raw is RAW, with {{dermatology,surgery}}/{{{",".join(LISTS)}}}/*.tar, which are read as streams. With --subset it
may be one of the two trees itself. The repositories biomedica_<subset>_subset_parquet are read in the same places
(columns by likely names, unverified: no public reader is known); histopathology with --subset alone. The files hold
pictures and text together: --no-images needs them, too.""",
    plan=_plan,
    read=_read,
    published=lambda params: {},
    paper=("63,775 of both subsets, whose sizes are not published: cannot be checked. A figure in both is kept once"),
    paper_rows=kit.paper_row(
        "BIOMEDICA (dermatology and surgery subsets)",
        "PT",
        63_775,
        "cannot be checked, the publisher states no sizes; all rows are built, a figure in both subsets once",
    ),
    options=(kit.Option("--subset", "build one of the subsets alone", "both", ("both", *_SUBSETS, *_OTHERS)),),
    variant=lambda params: "" if params["subset"] == "both" else str(params["subset"]),
    filters="medgpt_oss",
)

if __name__ == "__main__":
    kit.run(SOURCE)
