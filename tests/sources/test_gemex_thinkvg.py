"""GEMeX-ThinkVG: reasoning, regions, the paper's variant. All of MIMIC is made up."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
from outcomes import kept, read_all
from picture_trees import GEMEX, said, subject

from builders.demos.radiographs import demo_radiograph


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
