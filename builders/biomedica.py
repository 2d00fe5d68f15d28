"""BIOMEDICA: figures of PubMed Central with captions and article data, its dermatology and surgery subsets.

The subsets are two hub repositories of WebDataset tars, `{commercial,noncommercial,other}/*.tar`, 10,000 figures each.
A member's key is `<batch>-<PMCID>-<position in the article>-<file stem of the figure>` (biomedica-etl, script 06); the
stem may hold dots (`pone.0012345.g001`), at the first of which WebDataset readers cut the key, so batch, article and
position are the key here. The json holds the whole article (`image_set`, `image_context`, `article_text`): four short
fields of it are kept.

A figure with labels of both subsets is in both; the later one is rejected as a repeat. `subset` is the tree and the
panel type, `dermatology/single`. That type is a label of one of 2,000 clusters of pictures, not of the picture: a hint
for filters, nothing more. `image_hash` is of a re-encoded PNG and compares with nothing else, so it is not kept. The
figure's file stem is the name under which PMC-OA's `url_name` knows it.
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath

from builders import kit

_SUBSETS = ("dermatology", "surgery")
LISTS = ("commercial", "noncommercial", "other")
"""PubMed Central's lists of articles by licence: the folders of a subset."""
_KEY = re.compile(r"(?P<batch>[^-/]+)-(?P<article>PMC[0-9]+)-(?P<position>[0-9]+)-.+")
_PANEL_TYPES = frozenset({"single", "multiple"})
_NO_LICENSE = frozenset({"", "none", "no-cc code"})
"""What is stated of articles under terms of their own; `None` is the publisher's str(None)."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    wanted = _SUBSETS if params["subset"] == "both" else (params["subset"],)
    trees = {subset: _tars(raw, subset, alone=len(wanted) == 1) for subset in wanted}
    number, earlier = 0, list[str]()
    for subset, tars in trees.items():
        for path in tars:
            file = kit.relative(path, raw)
            payload = {"file": file, "subset": subset, "earlier": earlier}
            rows = kit.count_webdataset_samples(path, raw)
            yield kit.Unit(f"train-{number:05d}", "train", "train", rows, payload, (file, *earlier))
            number += 1
        earlier = [kit.relative(path, raw) for path in tars]


def _tars(raw: Path, subset: str, alone: bool) -> list[Path]:
    """The tars of a subset's tree, which is `raw` itself if it is the only one wanted."""
    folders = [raw / subset, raw / f"biomedica_{subset}_subset_webdataset", *([raw] if alone else [])]
    for folder in folders:
        if tars := [path for name in LISTS for path in sorted(folder.glob(f"{name}/*.tar"))]:
            return tars
    hint = "" if alone else "; --subset builds one of the two alone"
    raise kit.NotThisSource(f"{raw}: no {subset}/{{{','.join(LISTS)}}}/*.tar found; is --raw the right folder?{hint}")


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    file, subset = unit.payload["file"], unit.payload["subset"]
    paths = [raw / name for name in unit.payload["earlier"]]
    repeats = _figures(raw, tuple((path, path.stat().st_mtime_ns) for path in paths))
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
    """Figures of another subset, `PMC123-4`; its tars' headers are read once a process."""
    keys = (_KEY.fullmatch(PurePosixPath(key).name) for path, _ in tars for key in kit.webdataset_keys(path, raw))
    return frozenset(f"{match['article']}-{match['position']}" for match in keys if match)


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
    record, caption = _record(kit.stored(content["json"]), file), kit.decode_utf8(kit.stored(content["txt"]), file)
    if record["article_accession_id"] != article:
        raise kit.InputError("bad_field", file, f"{key}: article_accession_id is not the key's")
    if record["image_panel_type"] not in _PANEL_TYPES:
        raise kit.InputError("bad_field", file, f"{key}: image_panel_type is neither single nor multiple")
    kit.demand(f"{article}-{position}" not in repeats, "duplicate_item", file, f"{key} is in {_SUBSETS[0]} too")
    pictures = [data for name, data in content.items() if name in kit.PICTURE_SUFFIXES]
    picture = content.get("jpg", pictures[0] if len(pictures) == 1 else None)
    figure, place = f"pmc/{article}/{PurePosixPath(record['image_file_name']).stem}", f"{file}!{key}.jpg"
    image = kit.Image(figure, place, partial(kit.stored_picture, picture, place), study_id=figure)
    names = {"key": f"{match['batch']}-{article}-{position}", "subset": f"{subset}/{record['image_panel_type']}"}
    group, license_name = {"pmcid": f"pmc/{article}", "study_id": figure}, _license(record["article_license"], file)
    return kit.caption_sample(row, caption, image, group=group, license=license_name, **names)


def _record(data: bytes, file: str) -> dict[str, str]:
    """The few fields of the json that are kept; the rest is the article."""
    values = kit.parse_json(data, file)
    names = ("article_accession_id", "image_file_name", "image_panel_type", "article_license")
    return {name: kit.text_of(values, name, file) for name in names}


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
may be one of the two trees itself. The tars hold pictures and text together: --no-images needs them, too.""",
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
    options=(kit.Option("--subset", "build one of the two subsets alone", "both", ("both", *_SUBSETS)),),
    variant=lambda params: "" if params["subset"] == "both" else str(params["subset"]),
    filters="medgpt_oss",
)

if __name__ == "__main__":
    kit.run(SOURCE)
