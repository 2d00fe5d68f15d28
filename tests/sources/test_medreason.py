"""medreason: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from outcomes import kept, read_all, reasons, source_of
from source_cases import (
    load_rows,
    save_rows,
    text_of,
)

from builders.engine.source import NotThisSource, Reject


def test_medreason_leaves_out_each_set_of_test_questions_by_its_rule(demos: dict[str, Path]) -> None:
    found = read_all("medreason", demos["medreason"])["train"]
    assert reasons(found) == {
        "from_mmlu_test": 2,
        "from_medxpertqa_test": 2,
        "from_pubmedqa_test": 1,
        "maybe_pubmedqa_test": 1,
        "from_hle": 1,
        "empty_reasoning": 1,
    }
    assert [sample.group["question_id"] for sample in kept(found)] == [
        "medreason/medqa/812",
        "medmcqa/train-row-7131",
        "medical-o1-reasoning-sft/en-40",
        "pubmedqa/90000001",
        "pubmedqa/90000007",
        "medreason/pubmedqa_artificial/15",
        "medreason/pubmedqa_unlabeled/3",
    ]


def test_medreason_paper_variant_keeps_test_questions_under_their_ids(demos: dict[str, Path], tmp_path: Path) -> None:
    found = read_all("medreason", demos["medreason"], paper_variant=True)["train"]
    assert reasons(found) == {"empty_reasoning": 1}
    ids = {sample.group["question_id"] for sample in kept(found)}
    assert ids >= {
        "mmlu/anatomy/test/0",
        "mmlu/professional_medicine/test/0",
        "medxpertqa/Text-0",
        "medxpertqa/Text-1",
        "pubmedqa/90000002",
        "medreason/LastHumanity/5",
    }
    pubmedqa = source_of("pubmedqa")
    pubmedqa.write_demo(tmp_path)
    questions = json.loads((tmp_path / "data/ori_pqal.json").read_bytes())
    by_pmid = {sample.group["pmid"]: sample for sample in kept(found) if "pmid" in sample.group}
    assert sorted(by_pmid) == ["pubmed/90000001", "pubmed/90000002", "pubmed/90000007"]
    for pmid, sample in by_pmid.items():
        assert sample.question == questions[pmid.removeprefix("pubmed/")]["QUESTION"]
    tested = json.loads((tmp_path / "data/test_ground_truth.json").read_bytes())
    assert [pmid for pmid in by_pmid if pmid.removeprefix("pubmed/") in tested] == ["pubmed/90000002"]


def test_medreason_without_pubmedqas_files_leaves_out_the_whole_labelled_set(tree: Callable[[str], Path]) -> None:
    raw = tree("medreason")
    (raw / "test_ground_truth.json").unlink()
    with pytest.raises(NotThisSource, match="no use alone"):
        read_all("medreason", raw)
    (raw / "ori_pqal.json").unlink()
    found = read_all("medreason", raw)["train"]
    assert reasons(found)["maybe_pubmedqa_test"] == 4
    assert [sample.subset for sample in kept(found)][3:] == ["pubmedqa_artificial", "pubmedqa_unlabeled"]
    assert not any("pmid" in sample.group for sample in kept(found))


def test_medreason_answers_and_options(demos: dict[str, Path]) -> None:
    found = kept(read_all("medreason", demos["medreason"], paper_variant=True)["train"])
    row = {sample.key: sample for sample in found}
    # MedMCQA: the explanation leaves the answer; of two options that both begin it, the whole one counts.
    assert (row["2"].answer, row["2"].options[3]) == ("B", ("D", "Masson\ntrichrome"))  # type: ignore[index]
    explanation = "Amyloid shows apple-green birefringence under polarised light."
    assert text_of(row["2"], 1) == f"Answer: B. Congo red\n\n{explanation}"
    # MedXpertQA: choices inside the question or in their field, the letter before the answer.
    assert (row["6"].question, row["6"].answer) == ("Which flap covers the olecranon best?", "B")
    assert row["6"].options == [("A", "Groin flap"), ("B", "Radial forearm flap")]
    assert (row["7"].question, row["7"].answer) == ("Which view shows the scaphoid best?", "A")
    assert not any("Answer Choices" in (sample.question or "") for sample in found)
    # PubMedQA: options Yes and No only, so "maybe" and bare conclusions make open questions.
    assert (row["9"].options, row["9"].answer) == ([("A", "Yes"), ("B", "No")], "A")
    assert text_of(row["9"], 1) == "Answer: A. Yes\n\nWound infection improved."
    for key in ("10", "13"):
        assert (row[key].options, row[key].task) == (None, "qa")
        assert row[key].answer == text_of(row[key], 1) and text_of(row[key], 0) == row[key].question
    assert all(sample.messages[1]["reasoning"].startswith("Finding reasoning paths:") for sample in found)


def test_medreason_mmlu_rows_are_the_test_rows_of_cais_mmlu(real_data: Path) -> None:
    import pyarrow.parquet as pq

    from builders.medreason import _MMLU_ROWS, _mmlu_id

    assert sum(_MMLU_ROWS.values()) == 1_089
    for subject, rows in _MMLU_ROWS.items():
        path = real_data / "mmlu" / subject / "test-00000-of-00001.parquet"
        if not path.is_file():
            pytest.skip(f"no real rows at {path}")
        assert pq.read_metadata(path).num_rows == rows
    assert [_mmlu_id(number, "") for number in (0, 134, 135, 1_088)] == [
        "mmlu/anatomy/test/0",
        "mmlu/anatomy/test/134",
        "mmlu/clinical_knowledge/test/0",
        "mmlu/professional_medicine/test/271",
    ]


def test_medreason_finds_all_real_pubmedqa_test_questions(real_data: Path, tmp_path: Path) -> None:
    """Rows made here from the real labelled questions, as MedReason's reader makes them."""
    raw = real_data / "pubmedqa" / "data"
    if not raw.is_dir():
        pytest.skip(f"no real rows at {raw}")
    questions = json.loads((raw / "ori_pqal.json").read_bytes())
    rows = [
        {
            "dataset_name": "pubmedqa_labeled",
            "id_in_dataset": number,
            "question": entry["QUESTION"],
            "answer": f"The final decision is: {entry['final_decision']}. {entry['LONG_ANSWER']}",
            "reasoning": "Finding reasoning paths: none",
            "options": "Answer Choices:\nA. Yes\nB. No",
        }
        for number, entry in enumerate(questions.values())
    ]
    save_rows("medreason", tmp_path, rows)
    for file in ("ori_pqal.json", "test_ground_truth.json"):
        shutil.copy(raw / file, tmp_path / file)
    found = read_all("medreason", tmp_path)["train"]
    assert (len(kept(found)), reasons(found)) == (500, {"from_pubmedqa_test": 500})
    assert sum(sample.options is None for sample in kept(found)) == 55, "the training half has 55 maybe"


def test_medreason_mmlu_row_out_of_range_is_a_bad_id(tree: Callable[[str], Path]) -> None:
    raw = tree("medreason")
    rows = load_rows("medreason", raw)
    rows[3]["id_in_dataset"] = 1_089
    save_rows("medreason", raw, rows)
    outcome = read_all("medreason", raw)["train"][3]
    assert isinstance(outcome, Reject) and outcome.reason == "bad_id"


def listed(options: list[tuple[str, str]]) -> str:
    return "\n".join(f"{label}) {text}" for label, text in options)


@pytest.mark.parametrize(
    "form",
    [
        lambda options: f"Answer Choices:\n{listed(options)}",
        listed,
        lambda options: json.dumps([text for _, text in options]),
        lambda options: json.dumps(dict(options)),
    ],
)
def test_medreason_options_as_two_readers_allow_them(
    form: Callable[[list[tuple[str, str]]], str], tree: Callable[[str], Path]
) -> None:
    """JSON text and `A) text`: not shown to occur in the file, but no damage."""
    raw = tree("medreason")
    before = {sample.row: sample for sample in kept(read_all("medreason", raw)["train"]) if sample.options}
    path = raw / "ours_quality_33000.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, sample in before.items():
        rows[int(number) - 1]["options"] = form(sample.options or [])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    after = {sample.row: sample for sample in kept(read_all("medreason", raw)["train"]) if sample.options}
    assert before and after.keys() == before.keys()
    assert all((s.options, s.answer) == (before[row].options, before[row].answer) for row, s in after.items())
