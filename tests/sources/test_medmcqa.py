"""medmcqa: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import run_module
from outcomes import kept, read_all, reasons, source_of
from source_cases import (
    Rows,
    items,
    need,
    save_lines,
    save_table,
    stems,
    text_of,
)

from builders.demos.medmcqa import demo_rows
from builders.engine.command import main
from builders.engine.source import NotThisSource, Reject


def github_rows(split: str) -> Rows:
    """Demo rows in GitHub's spelling: `cop` from 1, none in the test file."""
    rows = [row | {"cop": row["cop"] + 1} for row in demo_rows(split)]
    return [{k: v for k, v in row.items() if k != "cop"} for row in rows] if split == "test" else rows


@pytest.fixture
def github(tmp_path: Path) -> Path:
    for split, name in (("train", "train"), ("validation", "dev"), ("test", "test")):
        save_lines(tmp_path / f"github/{name}.json", github_rows(split))
    return tmp_path / "github"


def test_medmcqa_reads_both_bases_of_cop_by_layout(demos: dict[str, Path], github: Path) -> None:
    hub, lines = read_all("medmcqa", demos["medmcqa"]), read_all("medmcqa", github)
    assert {row["cop"] for row in demo_rows("train")} == {0, 1, 2, 3}
    for split, found in hub.items():
        assert [(s.key, s.messages, s.answer) for s in kept(found)] == [
            (s.key, s.messages, s.answer) for s in kept(lines[split])
        ]
        assert reasons(found) == reasons(lines[split])
    answers = [dict(sample.options or [])[sample.answer or ""] for sample in kept(hub["train"])]
    assert answers[:3] == ["Axillary nerve", "Low dose prednisolone", "Tuberculosis"]
    # An array in a .json file is GitHub's layout as well; so is a folder below.
    (github / "train.json").write_text(json.dumps(github_rows("train")))
    (github / "data").mkdir()
    (github / "dev.json").rename(github / "data/dev.json")
    again = read_all("medmcqa", github)
    assert [s.messages for s in kept(again["train"])] == [s.messages for s in kept(hub["train"])]
    assert len(kept(again["validation"])) == 3


def test_medmcqa_refuses_a_tree_with_both_layouts(tree: Callable[[str], Path], github: Path) -> None:
    raw = tree("medmcqa")
    shutil.copy(github / "dev.json", raw)
    with pytest.raises(NotThisSource, match="keep one of them"):
        read_all("medmcqa", raw)


def test_medmcqa_explains_after_the_answer_and_repairs_nothing(demos: dict[str, Path]) -> None:
    train = kept(read_all("medmcqa", demos["medmcqa"])["train"])
    assert text_of(train[0], 1) == (
        "Answer: A. Axillary nerve\n\nAns. (a) Axillary nerve. It winds round the surgical neck."
    )
    assert "gouty ahritis" in (train[1].question or "")
    assert text_of(train[2], 1) == "Answer: C. Tuberculosis"
    assert text_of(train[4], 1) == "Answer: A. Potassium"  # its explanation is a blank
    assert [sample.subset for sample in train[:2]] == ["single", "multi"]


def test_medmcqa_planted_items(demos: dict[str, Path]) -> None:
    outcomes = read_all("medmcqa", demos["medmcqa"])
    train, validation = kept(outcomes["train"]), kept(outcomes["validation"])
    assert items(train).keys() & items(validation).keys() == items(validation[:1]).keys()
    assert train[8].key != validation[0].key
    assert max(stems(train).values()) == 2 and max(items(train).values()) == 1
    mmlu = kept(read_all("mmlu_med", demos["mmlu_med"])["test"])
    assert (train[9].question, train[9].options, train[9].answer) == (
        mmlu[0].question,
        mmlu[0].options,
        mmlu[0].answer,
    )


MEDMCQA_DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("no id", {"id": None}, "missing_field"),
    ("not a uuid", {"id": "1234"}, "bad_id"),
    ("no question", {"question": None}, "missing_field"),
    ("blank question", {"question": " \n"}, "empty_question"),
    ("no option", {"opc": None}, "missing_field"),
    ("blank gold option", {"opb": " "}, "empty_answer"),
    ("no cop", {"cop": None}, "missing_field"),
    ("withheld outside test", {"cop": -1}, "bad_field"),
    ("other type", {"choice_type": "several"}, "bad_field"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in MEDMCQA_DAMAGE], ids=[c[0] for c in MEDMCQA_DAMAGE]
)
def test_medmcqa_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    path = tree("medmcqa") / "data/train-00000-of-00001.parquet"
    rows = demo_rows("train")
    rows[1] |= change
    save_table(path, rows, pq.read_schema(path))
    found = read_all("medmcqa", path.parents[1])["train"]
    assert (len(kept(found)), reasons(found)) == (9, {reason: 1})
    assert isinstance(found[1], Reject) and found[1].row == "1"


@pytest.mark.parametrize(("name", "cop"), [("hub", 4), ("github", 0), ("github", 5), ("github", "2"), ("github", True)])
def test_medmcqa_cop_out_of_range_is_never_guessed(
    name: str, cop: Any, tree: Callable[[str], Path], github: Path
) -> None:
    if name == "hub":
        raw = tree("medmcqa")
        path = raw / "data/validation-00000-of-00001.parquet"
        rows = demo_rows("validation")
        rows[0]["cop"] = cop
        save_table(path, rows, pq.read_schema(path))
    else:
        raw = github
        rows = github_rows("validation")
        rows[0]["cop"] = cop
        save_lines(raw / "dev.json", rows)
    found = read_all("medmcqa", raw)["validation"]
    assert (len(kept(found)), reasons(found)) == (2, {"bad_field": 1})


def test_medmcqa_json_lines_that_are_none(github: Path) -> None:
    lines = (github / "dev.json").read_bytes().splitlines()
    (github / "dev.json").write_bytes(b"\n".join([lines[0], lines[1][:40], lines[2], b'{"id": "\xff"}', b"[1]"]))
    found = read_all("medmcqa", github)["validation"]
    assert (len(kept(found)), reasons(found)) == (2, {"bad_row": 2, "not_utf8": 1})


def test_medmcqa_renamed_column_is_another_revision(tree: Callable[[str], Path]) -> None:
    path = tree("medmcqa") / "data/train-00000-of-00001.parquet"
    save_table(path, [{("correct" if k == "cop" else k): v for k, v in row.items()} for row in demo_rows("train")])
    with pytest.raises(NotThisSource, match="no column cop"):
        read_all("medmcqa", path.parents[1])


def test_medmcqa_test_rows_with_an_answer_are_kept(tree: Callable[[str], Path]) -> None:
    path = tree("medmcqa") / "data/test-00000-of-00001.parquet"
    rows = demo_rows("test")
    rows[0]["cop"] = 3
    save_table(path, rows, pq.read_schema(path))
    found = read_all("medmcqa", path.parents[1])["test"]
    assert ([sample.answer for sample in kept(found)], reasons(found)) == (["D"], {"no_gold": 1})


def test_medmcqa_real_validation_rows(real_data: Path) -> None:
    raw = need(real_data / "medmcqa")
    outcomes = read_all("medmcqa", raw)
    assert list(outcomes) == ["validation"]
    samples = kept(outcomes["validation"])
    rows = pq.read_table(next(raw.glob("data/validation-*.parquet"))).to_pylist()
    assert len(samples) == len(rows) == source_of("medmcqa").published({})["validation"] == 4_183
    assert (len(stems(samples)), len({sample.key for sample in samples})) == (4_163, 4_183)
    assert sum(count for stem, count in stems(samples).items() if len(stem.split()) < 13) == 2_582
    for sample, row in zip(samples, rows, strict=True):
        assert (sample.key, sample.question) == (row["id"], row["question"])
        assert text_of(sample, 1) == f"Answer: {'ABCD'[row['cop']]}. {row['op' + 'abcd'[row['cop']]]}"
    # Three of them are verbatim in HuatuoGPT-o1's demo data (reference/sources.md, 3.1): ids a leak audit must know.
    leaked = ("bc8e9ed4-81fd-4c8e-9381-ae6c4d193066", "da529e73-61fe-4b52-81b1-8686b6a62ffd",
              "b5135682-e700-4fda-a6b2-39b289c3cc41")  # fmt: skip
    assert {f"medmcqa/{key}" for key in leaked} <= {sample.group["question_id"] for sample in samples}


def test_an_audit_names_items_whose_options_repeat(tree: Callable[[str], Path], tmp_path: Path) -> None:
    """medmcqa/medmcqa issue 5: 21 rows of the real validation split repeat an option, 4 of them the right one."""
    raw = tree("medmcqa")
    path = next(raw.glob("data/validation-*.parquet"))
    table = pq.read_table(path)
    rows = table.to_pylist()
    for number, options in enumerate((("a", "B", "b", "c"), ("x", "X.", "b", "c"), ("a", "b", "c", "d"))):
        names = dict(zip(("opa", "opb", "opc", "opd"), options, strict=True))
        rows.append(rows[0] | names | {"id": f"00000000-0000-0000-0000-{number:012d}", "cop": 1})
    pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
    assert main(source_of("medmcqa"), ["--raw", str(raw), "--out", str(tmp_path), "--quiet"]) == 0
    done = run_module("manifests.sql", str(tmp_path), "--audit", "repeated_options", "--json")
    [audit] = json.loads(done.stdout)["audits"]
    wanted = [(f"medmcqa/validation/00000000-0000-0000-0000-{number:012d}", True) for number in (0, 1)]
    assert [(row["sample_id"], row["gold"]) for row in audit["rows"]][-2:] == wanted
    assert (done.returncode, audit["violations"]) == (1, len(audit["rows"]))
