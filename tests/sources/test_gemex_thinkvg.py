"""GEMeX-ThinkVG: reasoning, regions, the paper's variant. All of MIMIC is made up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from outcomes import kept, read_all, source_of
from picture_trees import GEMEX, said, subject

from builders.demos.radiographs import demo_radiograph
from builders.engine.command import main
from medgpt.errors import DONE


def test_gemex_keeps_reasoning_apart_from_the_answer(demos: dict[str, Path]) -> None:
    samples = kept(read_all("gemex_thinkvg", demos["gemex_thinkvg"])["train"])
    rows = pq.read_table(demos["gemex_thinkvg"] / GEMEX).to_pylist()
    assert all(row["image_path"].startswith("/files/p10/") for row in rows)
    for sample in samples:
        reply = sample.messages[1]
        assert reply["reasoning"].startswith("The question is about one region.\nLooking at [12, 20, ")
        assert not re.search(r"</?(think|answer|location)>", reply["reasoning"] + said(sample, 1))
        assert sample.answer and said(sample, 1).startswith(sample.answer)
        assert sample.messages[0]["reasoning"] is None
    assert [sample.subset for sample in samples] == ["open", "closed", "single_choice", "multi_choice", "open"]
    assert said(samples[1], 1) == "No\nright lung [10, 20, 100, 200]", "regions after the answer stay"
    assert [sample.key for sample in samples] == [f"train-00000-of-00001/{row}" for row in range(5)]


def test_gemex_paper_variant_keeps_every_row_and_shows_test_subjects(demos: dict[str, Path]) -> None:
    found = read_all("gemex_thinkvg", demos["gemex_thinkvg"], paper_variant=True)["train"]
    assert len(kept(found)) == len(found) == 7
    assert {"mimic-cxr/10000003", "mimic-cxr/10000005"} <= {subject(sample) for sample in kept(found)}


def test_gemex_demo_shows_a_picture_of_the_vqa_test_split(demos: dict[str, Path]) -> None:
    gemex = read_all("gemex_thinkvg", demos["gemex_thinkvg"])["train"]
    vqa = read_all("mimic_cxr_vqa", demos["mimic_cxr_vqa"])["test"]
    shared = {s.images[0].image_id for s in kept(gemex)} & {s.images[0].image_id for s in kept(vqa)}
    assert shared == {f"mimic-cxr/{demo_radiograph(7).dicom_id}"}


def xml_rows(rows: list[dict[str, Any]], side: int) -> list[dict[str, Any]]:
    """The layout of liamchalcroft/gaze@1275f48 `examples/gemex_thinkvg/src/schemas.py`, with boxes up to `side`."""
    for row in rows:
        thought, answer = (
            re.search(f"<{tag}>(.*?)</{tag}>", row["response"], re.DOTALL) for tag in ("think", "answer")
        )
        assert thought and answer
        row["thinkVG"] = thought[1]
        place = f"<location><ref>left lung</ref><box>[10, 20, {side}, 40]</box></location>"
        row["response"] = f"<response><answer>{answer[1]}</answer>{place}{place}</response>"
    return rows


@pytest.mark.parametrize(("side", "beyond"), [(224, []), (300, [224]), (400, [224, 336])])
def test_gemex_reads_the_layout_with_a_column_of_thoughts(
    side: int, beyond: list[int], tree: Callable[[str], Path], demos: dict[str, Path], tmp_path: Path
) -> None:
    raw = tree("gemex_thinkvg")
    pq.write_table(pa.Table.from_pylist(xml_rows(pq.read_table(raw / GEMEX).to_pylist(), side)), raw / GEMEX)
    samples = kept(read_all("gemex_thinkvg", raw)["train"])
    before = kept(read_all("gemex_thinkvg", demos["gemex_thinkvg"])["train"])
    assert [sample.messages[1]["reasoning"] for sample in samples] == [s.messages[1]["reasoning"] for s in before]
    assert [sample.answer for sample in samples] == [sample.answer for sample in before]
    region = f"left lung [10, 20, {side}, 40]"
    assert said(samples[0], 1) == f"{samples[0].answer}\n{region}\n{region}"
    arguments = ["--raw", str(raw), "--out", str(tmp_path), "--no-images", "--quiet"]
    assert main(source_of("gemex_thinkvg"), arguments) == DONE
    noticed = json.loads((tmp_path / "gemex_thinkvg/build.json").read_bytes())["parameters"].get("noticed", [])
    assert [line.split(",")[0] for line in noticed] == [f"5 rows have a box beyond a grid of {grid}" for grid in beyond]
