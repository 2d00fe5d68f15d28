"""MMMU-Med: images at their tokens, open questions, subjects."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import kept, read_all
from picture_trees import by_key, said

from builders.demos.drawings import demo_picture
from builders.engine.mmmu import SUBJECTS
from builders.engine.source import NotThisSource


def test_mmmu_images_stand_at_their_tokens(demos: dict[str, Path]) -> None:
    samples = by_key(read_all("mmmu_med", demos["mmmu_med"], no_images=False)["validation"])
    for sample in samples.values():
        for image in sample.images:
            assert image.read() == demo_picture(image.image_id.removeprefix("mmmu/"))
    compare = samples["validation_Public_Health_1"]
    name = "mmmu/validation_Public_Health_1"
    assert said(compare, 0).startswith(
        f"Compare {{{name}/image_2}} with the earlier {{{name}/image_1}}. What has grown?"
    )
    curves = samples["validation_Public_Health_2"]
    name = "mmmu/validation_Public_Health_2"
    assert said(curves, 0).endswith(f"\n\nA. {{{name}/image_3}}\nB. {{{name}/image_1}}\nC. {{{name}/image_2}}\nD. None")
    assert (curves.answer, said(curves, 1)) == ("C", "Answer: C")
    assert dict(curves.options or [])["C"] == "<image 2>", "options stay as published"
    twice = samples["validation_Diagnostics_and_Laboratory_Medicine_1"]
    assert said(twice, 0).startswith(f"{{{twice.images[0].image_id}}} The stain in image 1 is typical")
    assert len(twice.images) == 1
    assert not any("<image" in (sample.question or "") for sample in samples.values())


def test_mmmu_open_questions_are_kept_as_another_task(demos: dict[str, Path]) -> None:
    samples = by_key(read_all("mmmu_med", demos["mmmu_med"])["validation"])
    opened = {key: sample for key, sample in samples.items() if sample.task == "vqa"}
    assert opened.keys() == {"validation_Pharmacy_3", "validation_Basic_Medical_Science_3"}
    several, one = opened["validation_Pharmacy_3"], opened["validation_Basic_Medical_Science_3"]
    assert (several.answer, said(several, 1), several.options) == ("['4', 'four']", "4", None)
    assert (one.answer, said(one, 1)) == ("Spleen", "Spleen")
    assert all(sample.options and sample.task is None for sample in samples.values() if sample.key not in opened)


def test_mmmu_needs_all_five_subjects_and_reads_no_other(tree: Callable[[str], Path]) -> None:
    raw = tree("mmmu_med")
    shutil.copytree(raw / "Pharmacy", raw / "Accounting")
    outcomes = read_all("mmmu_med", raw)
    assert {sample.subset for found in outcomes.values() for sample in kept(found)} == set(SUBJECTS)
    assert {split: len(found) for split, found in outcomes.items()} == {"dev": 5, "validation": 12}
    shutil.rmtree(raw / "Public_Health")
    with pytest.raises(NotThisSource, match="Public_Health"):
        read_all("mmmu_med", raw)
