"""ROCOv2: radiology pictures of PubMed Central with their captions, in the release of Zenodo.

The release names pictures by running number alone; article and licence of each stand in `license_information.csv`. The
columns of that file are known from public loaders only (ID, PMCID, Attribution, Link), so they are found by what they
hold: the article by its PMC number, the licence by the Creative Commons name that the attribution begins with (`CC BY
[Author et al. (2019)]`, without a version). The hub's copy has neither and is not read.

The authors kept single-panel pictures only. The sizes of the splits are those of version 2.0.1, record 10821435; the
first record, 8333645, has 80,080 rows, 291 more, and is built as it is.
"""

import csv
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from builders import kit
from medgpt.messages import named

_SPLITS: dict[str, kit.Role] = {"train": "train", "valid": "eval", "test": "eval"}
_FIRST_RELEASE = {"train": 60_163, "valid": 9_945, "test": 9_972}
"""Rows of record 8333645 (2023-11-10)."""
LICENSES = "license_information.csv"
_ARTICLE = re.compile(r"PMC[0-9]+")
_UNSTATED = "unstated"


_Origin = tuple[str | None, str]
"""Article and licence of a picture."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    kit.require(raw, "list of licences and articles (the hub's copy has none; take Zenodo's release)", LICENSES)
    if not any(article for article, _ in _origins(raw).values()):
        raise kit.NotThisSource(f"{LICENSES}: no PMC number in any row; is it another file of that name?")
    for split, role in _SPLITS.items():
        path = kit.require(raw, f"{split} file", f"{split}_captions.csv")
        inputs = [LICENSES]
        if not params["no_images"]:
            places = (f"{split}_images.zip", f"{split}_images", split)
            found = kit.require(raw, f"{split} pictures (--no-images builds without)", *places)
            inputs.append(kit.relative(found, raw))
        yield from kit.table_units(raw, [path], split, role, columns=("ID", "Caption"), inputs=inputs)


def _origins(raw: Path) -> Mapping[str, _Origin]:
    """Article and licence by picture; some 80,000 rows, read in a fraction of a second."""
    rows = csv.reader(kit.text_lines(raw / LICENSES))
    header = [name.strip() for name in next(rows, [])]
    names = [name.upper() for name in header]
    if "ID" not in names:
        raise kit.NotThisSource(
            f"{LICENSES}: no column ID (there are {named(header, first_row=True)}); another revision?"
        )
    key = names.index("ID")
    return {cells[key].strip(): _origin(cells) for cells in rows if len(cells) > key}


def _origin(cells: list[str]) -> _Origin:
    article = next((found[0] for cell in cells if (found := _ARTICLE.search(cell))), None)
    return article, next((name for cell in cells if (name := kit.creative_commons(cell))), _UNSTATED)


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    store = kit.PictureStore(raw, unit.inputs[2:])  # after the table and the licences come the pictures
    return kit.convert_rows(raw, unit, partial(_sample, store, _origins(raw)))


def _sample(store: kit.PictureStore, origins: Mapping[str, _Origin], row: kit.Row) -> kit.Sample:
    file = row.file
    key, caption = kit.text_of(row.values, "ID", file).strip(), kit.text_of(row.values, "Caption", file)
    kit.demand(key, "bad_id", file, "ID is empty")
    if (origin := origins.get(key)) is None:
        raise kit.InputError("not_in_metadata", file, f"{key} is not in {LICENSES}")
    image, (article, license_name) = kit.Image(f"rocov2/{key}", *store.reader(f"{key}.jpg")), origin
    group = {"pmcid": f"pmc/{article}"} if article else {}
    return kit.caption_sample(row, caption, image, key=key, group=group, license=license_name)


def _conclude(raw: Path, params: kit.Params, entries: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Says where the rows are those of the first release."""
    read: Counter[str] = Counter()
    for record in (record for entry in entries for record in entry["records"]):
        read[record["split"]] += record["read"]
    if not any(read[split] == rows for split, rows in _FIRST_RELEASE.items()):
        return {}
    return {"noticed": ["the rows are as many as those of record 8333645, the release before 2.0.1 (record 10821435)"]}


SOURCE = kit.Source(
    name="rocov2",
    title="ROCOv2: radiology pictures of open-access articles with captions",
    homepage="https://zenodo.org/records/10821435",
    revision="Zenodo record 10821435, version 2.0.1 (79,789 rows)",
    layouts=(
        kit.Layout("Zenodo 10821435, version 2.0.1", "code", "Zenodo, by readers of its captions"),
        kit.Layout("Zenodo 8333645, of 2023", "card", "Zenodo", rows=_FIRST_RELEASE),
    ),
    license="per image",
    access="open",
    stage="pretrain",
    task="caption",
    modality="image-text",
    splits=_SPLITS,
    obtain=f"""
Download from https://zenodo.org/records/10821435 (version 2.0.1) into one folder, which is --raw:
  train_captions.csv  valid_captions.csv  test_captions.csv  {LICENSES}
  train_images.zip  valid_images.zip  test_images.zip, read in place (or unpacked: train_images/ or train/, and so on);
  not needed with --no-images
The copy on the Hugging Face hub has neither articles nor licences and cannot be used.""",
    plan=_plan,
    read=_read,
    conclude=_conclude,
    published=lambda params: {"train": 59_958, "valid": 9_904, "test": 9_927},
    paper=(
        "38,861 of 59,958 training rows by an unpublished rule; all are built here and filters choose. The licence of "
        "each picture is its article's (CC-BY, CC-BY-NC, ... without version)"
    ),
    paper_rows=kit.paper_row(
        "ROCOv2 (filtered)", "PT", 38_861, "64.8 % of train 59,958 by an unpublished rule; all rows are built"
    ),
    filters="medgpt_oss",
)

if __name__ == "__main__":
    kit.run(SOURCE)
