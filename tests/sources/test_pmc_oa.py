"""PMC-OA: demo tree, traps, damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import kept
from pmc_trees import counts, read_all


def test_pmc_oa_names_the_panel_and_both_names_of_its_figure(tree: Callable[[str], Path]) -> None:
    outcomes = read_all("pmc_oa", tree("pmc_oa"))
    assert counts(outcomes) == {"train": (6, {"empty_caption": 1}), "valid": (1, {}), "test": (2, {})}
    train = kept(outcomes["train"])
    assert (train[0].images[0].image_id, train[0].images[0].study_id, train[0].group) == (
        "pmc/PMC9000001/Fig3_0",
        "pmc/PMC9000001/Fig3",
        {"pmcid": "pmc/PMC9000001", "study_id": "pmc/PMC9000001/1471-9000-4-13-3"},
    )
    # A figure's own underscore and dots are no panel.
    assert train[3].images[0].study_id == "pmc/PMC9000003/fig_2"
    assert train[4].images[0].study_id == "pmc/PMC9000004/pone.9000004.g001"
    assert train[4].group["study_id"] == "pmc/PMC9000004/pone.9000004.g001"
    # Without the columns that some copies lack, the name tells the article.
    assert train[5].group == {"pmcid": "pmc/PMC9000005"}
    assert outcomes["test"][1].images[0].study_id == train[0].images[0].study_id  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": None}, "missing_field"),
        ({"caption": None}, "missing_field"),
        ({"caption": 7}, "bad_field"),
        ({"image": ["PMC9000001_Fig3_0.jpg"]}, "bad_field"),
        ({"image": "Fig3_0.jpg"}, "bad_id"),
        ({"pmcid": "PMC9000009"}, "bad_field"),
        ({"url_name": 3}, "bad_field"),
        ({"image": "PMC9000001_Fig3_9.jpg"}, "missing_image"),
    ],
)
def test_pmc_oa_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("pmc_oa")
    first, *others = (raw / "train.jsonl").read_text().splitlines(keepends=True)
    (raw / "train.jsonl").write_text(json.dumps(json.loads(first) | change) + "\n" + "".join(others) + "{broken\n")
    assert counts(read_all("pmc_oa", raw))["train"] == (5, {reason: 1, "empty_caption": 1, "bad_row": 1})
