"""Questions about pictures (MIMIC-CXR-VQA, GEMeX-ThinkVG, MedFrameQA, MMMU, MMMU-Pro): what their tests share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from outcomes import kept

from builders.engine.demo_files import write_demo_file
from builders.engine.source import Reject, Sample

VQA = "MIMIC-Ext-MIMIC-CXR-VQA/dataset/{}.json"


SPLIT_FILE = "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz"


GEMEX = "data/train-00000-of-00001.parquet"


FRAMES = "data/test-00000-of-00001.parquet"


PHARMACY = "Pharmacy/validation-00000-of-00001.parquet"


PRO_4, PRO_10 = (f"standard ({number} options)/test-00000-of-00001.parquet" for number in (4, 10))


Outcome = Sample | Reject


def by_key(outcomes: list[Outcome]) -> dict[str, Sample]:
    return {sample.key: sample for sample in kept(outcomes)}


def said(sample: Sample, message: int) -> str:
    """Text of a message; images as `{image id}`."""
    return "".join(
        part["text"] if part["type"] == "text" else f"{{{sample.images[part['index']].image_id}}}"
        for part in sample.messages[message]["content"]
    )


def subject(sample: Sample) -> str:
    return sample.group["subject_id"]


def edit(raw: Path, file: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    """Change the rows of a JSON array or a Parquet file in place."""
    path = raw / file
    if path.suffix == ".json":
        rows = json.loads(path.read_bytes())
        change(rows)
        path.write_text(json.dumps(rows))
    else:
        rows = pq.read_table(path).to_pylist()
        change(rows)
        write_demo_file(path, rows)


def each(change: Callable[[dict[str, Any]], None]) -> Callable[[list[dict[str, Any]]], None]:
    def change_all(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            change(row)

    return change_all


def put(number: int, **fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        rows[number].update(fields)

    return change


def drop(number: int, field: str) -> Callable[[list[dict[str, Any]]], None]:
    def change(rows: list[dict[str, Any]]) -> None:
        del rows[number][field]

    return change
