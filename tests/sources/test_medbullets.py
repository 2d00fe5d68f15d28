"""medbullets: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import kept, parameters, read_all, reasons, source_of
from source_cases import (
    stems,
)

from builders.engine.source import NotThisSource, Reject

OP4 = "medbullets/medbullets_op4"


def without_csv(raw: Path) -> Path:
    for path in raw.rglob("*.csv"):
        path.unlink()
    return raw


@pytest.mark.parametrize("options", ["4", "5"])
def test_medbullets_csv_and_json_are_the_same(options: str, tree: Callable[[str], Path]) -> None:
    raw = tree("medbullets")
    rows = read_all("medbullets", raw, options=options)["test"]
    columns = read_all("medbullets", without_csv(raw), options=options)["test"]
    assert [(s.key, s.messages, s.group) for s in kept(rows)] == [(s.key, s.messages, s.group) for s in kept(columns)]
    assert reasons(rows) == reasons(columns) == {"duplicate_item": 2}
    assert all(len(sample.options or []) == int(options) for sample in kept(rows))
    # A CSV row is known by its last line: the question of the 4-option file's first row has three.
    assert (columns[0].row, rows[0].row) == ("0", {"4": "4", "5": "2"}[options])
    (raw / "medbullets").rename(raw / "other")
    assert [s.key for s in kept(read_all("medbullets", raw / "other", options=options)["test"])] == [
        s.key for s in kept(rows)
    ]


def test_medbullets_repeats_name_the_row_they_repeat(demos: dict[str, Path]) -> None:
    source = source_of("medbullets")
    four, five = (read_all("medbullets", demos["medbullets"], options=options)["test"] for options in ("4", "5"))
    repeats = [outcome for outcome in four if isinstance(outcome, Reject)]
    assert [reject.detail for reject in repeats] == ["the question of row 5", "the question of row 8"]
    with (demos["medbullets"] / f"{OP4}.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[4]["question"] == rows[8]["question"] and rows[4]["answer"] == rows[8]["answer"]
    assert rows[4]["answer_idx"] != rows[8]["answer_idx"] and rows[4]["opc"] != rows[8]["opc"]
    # The releases differ in order; what is the same question has the same id unless its repeat came first.
    assert {s.key for s in kept(four)} ^ {s.key for s in kept(five)} == {
        "217001", "bitly-3again1", "bitly-4demo04", "bitly-3again4",
    }  # fmt: skip
    assert stems(kept(four)) == stems(kept(five))
    names = [source.build_name(parameters(source, options=options)) for options in ("4", "5")]
    assert names == ["medbullets", "medbullets.5opt"]


MEDBULLETS_DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("no link", {"link": None}, "missing_field"),
    ("other link", {"link": "https://example.org/1"}, "bad_id"),
    ("no option", {"opd": None}, "missing_field"),
    ("letter of no option", {"answer_idx": "E"}, "bad_field"),
    ("answer of another letter", {"answer": "something"}, "bad_field"),
    ("question no text", {"question": 7}, "bad_field"),
    ("blank question", {"question": " "}, "empty_question"),
    ("no explanation", {"explanation": None}, "missing_field"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in MEDBULLETS_DAMAGE], ids=[case[0] for case in MEDBULLETS_DAMAGE]
)
@pytest.mark.parametrize("absent", [False, True])
def test_medbullets_damaged_rows(
    change: dict[str, Any], reason: str, absent: bool, tree: Callable[[str], Path]
) -> None:
    raw = without_csv(tree("medbullets"))
    columns = json.loads((raw / f"{OP4}.json").read_text())
    for name, value in change.items():
        columns[name]["1"] = value
        if absent and value is None:
            del columns[name]["1"]
    (raw / f"{OP4}.json").write_text(json.dumps(columns))
    found = read_all("medbullets", raw)["test"]
    # Row 1 is what a later row repeats: that one is now the first of its question.
    assert (len(kept(found)), reasons(found)) == (7, {reason: 1, "duplicate_item": 1})
    assert isinstance(found[1], Reject) and found[1].row == "1"


def test_medbullets_wrong_files(tree: Callable[[str], Path]) -> None:
    raw = tree("medbullets")
    path = raw / f"{OP4}.csv"
    path.write_text(path.read_text().replace("answer_idx", "label", 1))
    with pytest.raises(NotThisSource, match="no column answer_idx"):
        read_all("medbullets", raw)
    without_csv(raw)
    (raw / f"{OP4}.json").write_text("[]")
    with pytest.raises(NotThisSource, match="column-oriented"):
        read_all("medbullets", raw)
    (raw / f"{OP4}.json").unlink()
    with pytest.raises(NotThisSource, match="questions with 4 options"):
        read_all("medbullets", raw)
    assert read_all("medbullets", raw, options="5")


def test_medbullets_csv_rows_with_too_few_fields(tree: Callable[[str], Path]) -> None:
    raw = tree("medbullets")
    with (raw / f"{OP4}.csv").open("a") as handle:
        handle.write("https://bit.ly/abcdefg,only two\n")
    found = read_all("medbullets", raw)["test"]
    assert (len(kept(found)), reasons(found)) == (7, {"duplicate_item": 2, "bad_row": 1})
