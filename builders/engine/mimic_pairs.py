"""Agreement of a build's prior pictures with a table of pairs that someone else published.

Read are X-iZhang/MIMIC-CXR-RRG (rows of `main_image` and `prior_image`), MLRG's annotation (mk-runner/MLRG@03f63d1
`tools/dataset/datasets_v0818_ab.py`: items of `anchor_scan`, `auxiliary_references` and `prior_study.latest_study`, by
split) and lists of `image` as Libra and EditGRPO train on (the current picture, then the prior one). Only ids are taken
from them, never text; a picture is known by the DICOM id in its path.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from builders.engine.rawfiles import load_json
from builders.engine.source import NotThisSource, Reject
from builders.engine.tables import table_rows, table_units

_DICOM = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{8}){4}")
_COLUMNS = ("main_image", "prior_image", "image", "anchor_scan", "auxiliary_references", "prior_study")
Pair = tuple[str, str | None]
"""A current picture and its prior one, as DICOM ids; no prior, or the current one standing in for it: None."""


def comparison(file: str) -> Callable[[Path], Sequence[str]]:
    """Read a table of pairs; gives what compares a build with it. Raises `NotThisSource` where it names no pair."""
    path = Path(file)
    if not path.is_file():
        raise NotThisSource(f"--compare-pairs {path}: no such file")
    rows = list(_rows(path))
    pairs = list(dict.fromkeys(pair for row in rows for pair in _pairs(row)))
    if not pairs:
        raise NotThisSource(
            f"--compare-pairs {path}: none of {len(rows):,} rows names a picture by its DICOM id (looked for "
            f"{', '.join(_COLUMNS)})"
        )
    unnamed = sum(not any(True for _ in _pairs(row)) for row in rows)
    return lambda build: _compare(build, pairs, path.name, unnamed)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    if path.name.endswith(".json"):
        value = load_json(path, path.parent)
        lists = value.values() if isinstance(value, dict) else [value]
        for row in (row for rows in lists if isinstance(rows, list) for row in rows):
            yield row if isinstance(row, dict) else {}
        return
    for unit in table_units(path.parent, [path], "pairs", "eval"):
        for found in table_rows(path.parent, unit):
            yield {} if isinstance(found, Reject) else found.values


def _pairs(row: dict[str, Any]) -> Iterator[Pair]:
    prior_study = row.get("prior_study")
    latest = prior_study.get("latest_study") if isinstance(prior_study, dict) else None
    current = [*_ids(row.get("main_image")), *_ids(row.get("anchor_scan")), *_ids(row.get("auxiliary_references"))]
    prior = [*_ids(row.get("prior_image")), *_ids(latest)]
    if not current:
        current, prior = (lambda both: (both[:1], both[1:2]))(list(_ids(row.get("image"))))
    for one in current:
        yield one, prior[0] if prior and prior[0] not in current else None


def _ids(value: Any) -> Iterator[str]:
    """The DICOM ids in a path, in a picture's `path` or `image_path`, or in a list of such."""
    if isinstance(value, str):
        yield from _DICOM.findall(value)[-1:]
    elif isinstance(value, list):
        for one in value:
            yield from _ids(one)
    elif isinstance(value, dict):
        yield from _ids(value.get("path") or value.get("image_path"))


def _compare(build: Path, pairs: Sequence[Pair], name: str, unnamed: int) -> list[str]:
    import pyarrow.parquet as pq

    columns = ["sample_id", "image_id", "relation", "study_id"]
    priors: dict[str, set[str]] = {}
    samples: dict[str, list[str]] = {}
    study_of: dict[str, str] = {}
    for part in sorted((build / "images").glob("*.parquet")):
        for row in pq.read_table(part, columns=columns).to_pylist():
            dicom = row["image_id"].rpartition("/")[2]
            study_of[dicom] = row["study_id"]
            if row["relation"] == "prior":
                priors.setdefault(row["sample_id"], set()).add(dicom)
            elif row["relation"] != "exemplar":
                samples.setdefault(dicom, []).append(row["sample_id"])
    counts: Counter[str] = Counter()
    for current, prior in pairs:
        ours: set[str] = set().union(*(priors.get(sample, ()) for sample in samples.get(current, ())))
        if current not in samples:
            counts["the current picture is not in this build"] += 1
        elif prior is None or not ours:
            counts[_either(prior is not None, bool(ours))] += 1
        elif prior in ours:
            counts["the same prior picture"] += 1
        elif study_of.get(prior) in {study_of[one] for one in ours}:
            counts["another picture of the same prior study"] += 1
        else:
            counts["another prior study"] += 1
    agree = counts["the same prior picture"] + counts["no prior on either side"]
    lines = [f"{name}: {agree:,} of {len(pairs):,} published pairs agree ({100 * agree / len(pairs):.1f} %)"]
    lines += [f"  {count:>9,}  {what}" for what, count in counts.most_common()]
    return lines + ([f"  {unnamed:>9,}  rows name no picture by its DICOM id"] if unnamed else [])


def _either(published: bool, ours: bool) -> str:
    if not (published or ours):
        return "no prior on either side"
    return "a prior there, none here" if published else "a prior here, none there"
