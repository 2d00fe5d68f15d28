"""`medgpt.tables`: what stands in a table that a command prints, and what cannot."""

from __future__ import annotations

import datetime
import json

from medgpt.tables import markdown, plain, table


def test_cells_cannot_reach_the_terminal() -> None:
    shown = table(["a", "b"], [["x\x1b[2J\ny", 1.5], ["é" * 100, None]], longest=72).splitlines()
    assert shown[2].startswith("x\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}y ")
    assert (len(shown), shown[3].split()[0]) == (4, "é" * 71 + "…")
    assert "é" * 100 in table(["a"], [["é" * 100]])


def test_numbers_stand_to_the_right_and_text_to_the_left() -> None:
    shown = table(("name", "rows", "share", "sure"), [("a", 12_345, 0.5, True), ("bcdef", "-", None, False)])
    assert shown.splitlines() == [
        "name     rows  share   sure",
        "-----  ------  -----  -----",
        "a      12,345    0.5   true",
        "bcdef       -   NULL  false",
    ]
    assert table(("name", "rows"), []).splitlines() == ["name  rows", "----  ----"]


def test_a_cell_leaves_no_table_in_markdown() -> None:
    found = markdown(("name", "rows"), [("a|b\n", 12_345), ("c", "-")])
    lines = ["| name | rows |", "| --- | --: |", "| a\\|b\N{REPLACEMENT CHARACTER} | 12,345 |", "| c | - |"]
    assert found.splitlines() == lines


def test_plain_values_are_what_json_has() -> None:
    value = {1: b"\xff", "when": datetime.date(2020, 1, 2), "odd": [float("nan"), None, {"a": (True, 2.5)}]}
    assert plain(value) == {"1": "ff", "when": "2020-01-02", "odd": ["nan", None, {"a": [True, 2.5]}]}
    json.dumps(plain(value), allow_nan=False)
