"""Huatuo-o1, MedReason, R1-Distill, MedThoughts-8K and Patient-trial: demo trees, damaged rows, real rows."""

from __future__ import annotations

import importlib
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import outcomes
import pytest
from conftest import tree_digest
from outcomes import kept, reasons, source_of

from builders import patient_trial
from builders.engine import tables
from builders.engine.rawfiles import DEMO_TIME
from builders.engine.source import DAMAGED_REASONS, NotThisSource, Reject, Sample

NAMES = ("huatuo_o1", "medical_r1_distill", "medthoughts_8k", "medreason", "patient_trial")
FILES = {
    "huatuo_o1": "medical_o1_verifiable_problem.json",
    "medical_r1_distill": "medical_r1_distill_sft.json",
    "medthoughts_8k": "MedThoughts-8K.jsonl",
    "medreason": "ours_quality_33000.jsonl",
}
TRIALGPT = Path(__file__).parents[2] / "shared" / "data" / "trialgpt"
Outcomes = dict[str, list[Sample | Reject]]


def read_all(name: str, raw: Path, **given: Any) -> Outcomes:
    return outcomes.read_all(name, raw, **({"no_images": False} | given))


def text_of(sample: Sample, message: int) -> str:
    return "".join(part["text"] for part in sample.messages[message]["content"])


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, folder in folders.items():
        source_of(name).write_demo(folder)
    return folders


@pytest.fixture
def copy(demos: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """A private copy of a source's demo tree."""
    return lambda name: Path(shutil.copytree(demos[name], tmp_path / name))


def load_rows(name: str, raw: Path) -> list[Any]:
    data = (raw / FILES[name]).read_text(encoding="utf-8")
    return [json.loads(line) for line in data.splitlines()] if FILES[name].endswith("l") else list(json.loads(data))


def save_rows(name: str, raw: Path, rows: list[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    text = "\n".join(lines) if FILES[name].endswith("l") else f"[{', '.join(lines)}]"
    (raw / FILES[name]).write_text(text, encoding="utf-8")


# --- demo trees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_tree_is_small_deterministic_and_undamaged(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    source_of(name).write_demo(tmp_path)
    assert tree_digest(tmp_path) == tree_digest(demos[name])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mtime for path in files} == {DEMO_TIME}
    assert sum(path.stat().st_size for path in files) <= 200_000
    outcomes = read_all(name, tmp_path)
    assert set(outcomes) == set(source_of(name).splits)
    for found in outcomes.values():
        keys = [sample.key for sample in kept(found)]
        assert keys and len(set(keys)) == len(keys)
        assert not reasons(found).keys() & DAMAGED_REASONS.keys()


@pytest.mark.parametrize(
    ("name", "count", "rejected"),
    [
        ("huatuo_o1", 10, {"empty_answer": 1}),
        ("medical_r1_distill", 6, {"empty_reasoning": 1, "empty_answer": 1}),
        ("medthoughts_8k", 5, {"empty_reasoning": 1}),
    ],
)
def test_demo_counts(name: str, count: int, rejected: dict[str, int], demos: dict[str, Path]) -> None:
    found = read_all(name, demos[name])["train"]
    assert (len(kept(found)), reasons(found)) == (count, rejected)


def test_huatuo_o1_has_a_short_answer_and_no_reasoning(demos: dict[str, Path]) -> None:
    for sample, row in zip(
        kept(read_all("huatuo_o1", demos["huatuo_o1"])["train"]),
        load_rows("huatuo_o1", demos["huatuo_o1"]),
        strict=False,
    ):
        assert sample.question == text_of(sample, 0) == row["Open-ended Verifiable Question"]
        assert sample.answer == text_of(sample, 1) == row["Ground-True Answer"]
        assert (sample.options, sample.messages[1]["reasoning"]) == (None, None)


def test_r1_distill_keeps_reasoning_apart_and_repeats_huatuo_questions(demos: dict[str, Path]) -> None:
    distilled = kept(read_all("medical_r1_distill", demos["medical_r1_distill"])["train"])
    rows = load_rows("medical_r1_distill", demos["medical_r1_distill"])
    assert list(rows[0]) == ["question", "reasoning (reasoning_content)", "response (content)"]
    for sample, row in zip(distilled, rows, strict=False):
        assert sample.messages[1]["reasoning"] == row["reasoning (reasoning_content)"]
        assert text_of(sample, 1) == sample.answer == row["response (content)"]
    problems = kept(read_all("huatuo_o1", demos["huatuo_o1"])["train"])
    assert [sample.question for sample in distilled] == [sample.question for sample in problems[4:]]


def test_medthoughts_has_five_options_an_own_namespace_and_medqa_stems(demos: dict[str, Path], tmp_path: Path) -> None:
    samples = kept(read_all("medthoughts_8k", demos["medthoughts_8k"])["train"])
    for sample, row in zip(samples, load_rows("medthoughts_8k", demos["medthoughts_8k"]), strict=False):
        assert sample.options == list(row["options"].items()) and len(sample.options) == 5
        assert text_of(sample, 1) == f"Answer: {row['answer_idx']}. {row['options'][row['answer_idx']]}"
        assert sample.messages[1]["reasoning"] == row["ds_think"]
        assert row["ds_answer"] not in text_of(sample, 0) + text_of(sample, 1)
        assert sample.group == {"question_id": f"medthoughts-8k/{row['question_id']}"}
    assert {sample.answer for sample in samples} == set("ABCDE")
    medqa = importlib.import_module("builders.medqa").SOURCE
    medqa.write_demo(tmp_path)
    params = {"options": "4", "split": None, "no_images": True}
    [unit] = [unit for unit in medqa.plan(tmp_path, params) if unit.split == "train"]
    stems = [sample.question for sample in medqa.read(tmp_path, unit, params)]
    assert [sample.question for sample in samples[:4]] == stems[:4]


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


def test_medreason_without_pubmedqas_files_leaves_out_the_whole_labelled_set(copy: Callable[[str], Path]) -> None:
    raw = copy("medreason")
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


# --- damaged rows -------------------------------------------------------------------------------------------------

DAMAGE: tuple[tuple[str, str, Any, str], ...] = (
    ("huatuo_o1", "Ground-True Answer", None, "missing_field"),
    ("huatuo_o1", "Ground-True Answer", "dropped", "missing_field"),
    ("huatuo_o1", "Open-ended Verifiable Question", ["a list"], "bad_field"),
    ("huatuo_o1", "Open-ended Verifiable Question", " ", "empty_question"),
    ("medical_r1_distill", "reasoning (reasoning_content)", "dropped", "missing_field"),
    ("medical_r1_distill", "response (content)", 3, "bad_field"),
    ("medthoughts_8k", "question_id", "dropped", "missing_field"),
    ("medthoughts_8k", "question_id", "a b", "bad_id"),
    ("medthoughts_8k", "question_id", True, "bad_id"),
    ("medthoughts_8k", "answer_idx", "F", "bad_field"),
    ("medthoughts_8k", "options", {"A": "one", "B": "two"}, "bad_field"),
    ("medthoughts_8k", "options", dict.fromkeys("ABCDE"), "bad_field"),
    ("medthoughts_8k", "source", "MedQA/US/test", "bad_field"),
    ("medreason", "dataset_name", "medbullets", "bad_field"),
    ("medreason", "dataset_name", "dropped", "missing_field"),
    ("medreason", "id_in_dataset", "7", "bad_id"),
    ("medreason", "options", "A. Yes\nB. No", "bad_field"),
    ("medreason", "options", "Answer Choices:\nA. Yes", "bad_field"),
    ("medreason", "reasoning", 1.5, "bad_field"),
    ("medreason", "answer", "", "empty_answer"),
)


@pytest.mark.parametrize(("name", "field", "value", "reason"), DAMAGE)
def test_a_damaged_row_is_rejected_alone(
    name: str, field: str, value: Any, reason: str, copy: Callable[[str], Path]
) -> None:
    raw = copy(name)
    before = read_all(name, raw)["train"]
    rows = load_rows(name, raw)
    if value == "dropped":
        del rows[1][field]
    else:
        rows[1][field] = value
    save_rows(name, raw, rows)
    after = read_all(name, raw)["train"]
    assert isinstance(after[1], Reject) and after[1].reason == reason
    assert [o for i, o in enumerate(after) if i != 1] == [o for i, o in enumerate(before) if i != 1]


@pytest.mark.parametrize("name", FILES)
def test_broken_rows_are_rejected_alone(name: str, copy: Callable[[str], Path]) -> None:
    raw = copy(name)
    rows = load_rows(name, raw)
    broken = ["[1, 2]", '{"question": '] if FILES[name].endswith("l") else ["[1, 2]", '"text"']
    save_rows(name, raw, [rows[0], *broken, *rows[1:]])
    found = read_all(name, raw)["train"]
    assert [outcome.reason for outcome in found[1:3] if isinstance(outcome, Reject)] == ["bad_row", "bad_row"]
    assert len(found) == len(rows) + 2


@pytest.mark.parametrize("name", FILES)
def test_a_renamed_column_is_another_revision(name: str, copy: Callable[[str], Path]) -> None:
    raw = copy(name)
    rows = load_rows(name, raw)
    field = next(key for key in rows[0] if "uestion" in key and "id" not in key)
    save_rows(name, raw, [{("Q" if key == field else key): value for key, value in row.items()} for row in rows])
    with pytest.raises(NotThisSource, match="another revision"):
        read_all(name, raw)
    (raw / FILES[name]).unlink()
    with pytest.raises(NotThisSource, match="is --raw the right folder"):
        read_all(name, raw)


def test_medreason_mmlu_row_out_of_range_is_a_bad_id(copy: Callable[[str], Path]) -> None:
    raw = copy("medreason")
    rows = load_rows("medreason", raw)
    rows[3]["id_in_dataset"] = 1_089
    save_rows("medreason", raw, rows)
    outcome = read_all("medreason", raw)["train"][3]
    assert isinstance(outcome, Reject) and outcome.reason == "bad_id"


# --- Patient-trial ------------------------------------------------------------------------------------------------


def test_patient_trial_demo_counts(demos: dict[str, Path]) -> None:
    raw = demos["patient_trial"]
    outcomes = read_all("patient_trial", raw)
    for cohort, found in outcomes.items():
        # Two patients, 12 + 3 + 2 pairs each: two of the twelve are over the cap, one of the three has no text.
        assert (len(found), len(kept(found))) == (34, 28), cohort
        assert reasons(found) == {"over_cap": 4, "no_trial_text": 2}
        assert Counter(sample.subset for sample in kept(found)) == {"score-0": 20, "score-1": 4, "score-2": 4}
    uncapped = read_all("patient_trial", raw, cap="none")
    assert all(reasons(found) == {"no_trial_text": 2} for found in uncapped.values())


def test_patient_trial_labels_follow_the_cohort_unless_the_paper_is_asked_for(demos: dict[str, Path]) -> None:
    own = {
        "sigir": {"score-2": "eligible", "score-1": "partially eligible", "score-0": "not eligible"},
        "trec_2021": {"score-2": "eligible", "score-1": "not eligible", "score-0": "not relevant"},
    }
    own["trec_2022"] = own["trec_2021"]
    for labels in ("official", "paper"):
        for cohort, found in read_all("patient_trial", demos["patient_trial"], labels=labels).items():
            wanted = own[cohort if labels == "official" else "sigir"]
            for sample in kept(found):
                options = dict(sample.options or ())
                assert sorted(options.values()) == sorted([*wanted.values(), "not enough information"])
                assert options[sample.answer or ""] == wanted[sample.subset or ""]
                assert text_of(sample, 1) == f"Answer: {sample.answer}. {options[sample.answer or '']}"
                assert ("would not be referred" in text_of(sample, 0)) == (labels == "official" and cohort == "sigir")


def test_patient_trial_choices_do_not_depend_on_the_order_of_rows(copy: Callable[[str], Path]) -> None:
    raw = copy("patient_trial")
    for shots in ("0", "1"):
        before = read_all("patient_trial", raw, shots=shots)
        for path in raw.glob("dataset/*/qrels/test.tsv"):
            header, *lines = path.read_text().splitlines()
            path.write_text("\n".join([header, *reversed(lines)]) + "\n")
        after = read_all("patient_trial", raw, shots=shots)
        for cohort in before:
            first, second = ({sample.key: sample for sample in kept(found[cohort])} for found in (before, after))
            assert first.keys() == second.keys()
            for key, sample in first.items():
                assert (sample.options, sample.messages) == (second[key].options, second[key].messages)


def test_patient_trial_exemplars_are_of_others_and_balanced(demos: dict[str, Path]) -> None:
    plain = read_all("patient_trial", demos["patient_trial"])
    for cohort, found in read_all("patient_trial", demos["patient_trial"], shots="1").items():
        zero = {sample.key: sample for sample in kept(plain[cohort])}
        shown: Counter[str | None] = Counter()
        assert {sample.key for sample in kept(found)} == zero.keys()
        for sample in kept(found):
            line, word, exemplar = sample.row.split(" ")
            assert (line, word) == (zero[sample.key].row, "exemplar")
            assert not set(exemplar.split("/")) & set(sample.key.split("/")), "another patient and another trial"
            assert sample.messages == zero[exemplar].messages + zero[sample.key].messages
            shown[zero[exemplar].subset] += 1
        assert max(shown.values()) - min(shown.values()) <= 1 and len(shown) == 3


def test_patient_trial_prompt_shows_numbered_sentences_and_criteria(demos: dict[str, Path]) -> None:
    samples = {sample.key: sample for sample in kept(read_all("patient_trial", demos["patient_trial"])["trec_2021"])}
    sample = samples["trec-20211/NCT91000013"]
    assert text_of(sample, 0).startswith(
        "Patient note, its sentences numbered:\n"
        "0. A 41-year-old woman presents with melanoma.\n"
        "1. She was seen by Dr. Lee on [**2148-10-1**], e.g. for advice.\n"
        "2. Her creatinine is 1.0 mg/dL.\n"
        "3. She takes nothing.\n\n"
        "Clinical trial:\n"
        "Title: Study 13 of a Treatment for Melanoma\n"
        "Target diseases: Melanoma\n"
        "Interventions: Drug 13\n"
        "Summary: This study compares Drug 13 with usual care.~It runs for 12 months.\n"
        "Inclusion criteria:\n0. adults with melanoma who can attend weekly visits\n"
        "Exclusion criteria:\n(none stated)\n\n"
        "Is this patient eligible for this trial? Choose one."
    )
    assert sample.question == (
        "A 41-year-old woman presents with melanoma. She was seen by Dr. Lee on [**2148-10-1**], e.g. for advice. "
        "Her creatinine is 1.0 mg/dL. She takes nothing."
    )
    assert sample.group == {
        "subject_id": "trialgpt/trec-20211",
        "study_id": "clinicaltrials/NCT91000013",
        "question_id": "trialgpt/trec-20211/NCT91000013",
    }
    consent = kept(read_all("patient_trial", demos["patient_trial"], consent=True)["trec_2021"])
    assert all("4. The patient will provide informed consent" in text_of(sample, 0) for sample in consent)


def test_patient_trial_variants_are_named() -> None:
    source = source_of("patient_trial")
    params = {"labels": "official", "cap": "10", "shots": "0", "consent": False}
    assert source.build_name(params) == "patient_trial"
    other = {"labels": "paper", "cap": "none", "shots": "1", "consent": True}
    assert source.build_name(other) == "patient_trial.paper-capnone-1shot-consent"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("inclusion criteria: \n\n chest pain \n\n or \n\n ", ["chest pain"]),
        (": \n\n previous stroke", ["previous stroke"]),
        ("Inclusion Criteria: adults who attend", ["adults who attend"]),
        ("Inclusion criteria for part A: \n\n adults", ["adults"]),
        ("Exclusion Criteria:\n none known", ["none known"]),
        ("Patients who met the inclusion criteria before", ["Patients who met the inclusion criteria before"]),
        ("Exclusion criteria include pregnancy", ["Exclusion criteria include pregnancy"]),
        (
            "1. first item \n\n (2) second \n\n - third \n\n b) fourth \n\n iv. fifth",
            "first item,second,third,fourth,fifth",
        ),
        ("> 18 years old \n\n 2.5 mg or less \n\n E. coli in urine", "> 18 years old,2.5 mg or less,E. coli in urine"),
        ("-20 degrees or below \n\n *Treated", "-20 degrees or below,Treated"),
        ("", []),
    ],
)
def test_criteria(text: str, wanted: list[str] | str) -> None:
    assert patient_trial.criteria(text) == (wanted.split(",") if isinstance(wanted, str) else wanted)


def test_patient_trial_damaged_judgments(copy: Callable[[str], Path]) -> None:
    raw = copy("patient_trial")
    path = raw / "dataset/trec_2021/qrels/test.tsv"
    with path.open("a") as handle:
        handle.write(
            "trec-20211\tNCT91000000\t0\n"  # again
            "trec-20211\tNCT91000999\t3\n"
            "NCT91000998\ttrec-20211\t1\n"
            "trec-20219\tNCT91000000\t1\n"
            "trec-20211\tNCT91000997\n"
        )
    before = read_all("patient_trial", raw)["trec_2021"]
    assert reasons(before) == {
        "over_cap": 4, "no_trial_text": 2, "duplicate_id": 1, "bad_field": 1, "bad_id": 1, "not_in_metadata": 1,
        "bad_row": 1,
    }  # fmt: skip
    assert (len(before), len(kept(before))) == (39, 28)


def test_patient_trial_damaged_texts(copy: Callable[[str], Path]) -> None:
    raw = copy("patient_trial")
    path = raw / "dataset/trial_info.json"
    info = json.loads(path.read_bytes())
    del info["NCT91000013"]["brief_summary"]
    info["NCT91000014"]["drugs_list"] = "Drug 14"
    path.write_text(json.dumps(info))
    found = read_all("patient_trial", raw)["trec_2021"]
    assert reasons(found) == {"over_cap": 4, "no_trial_text": 2, "missing_field": 1, "bad_field": 1}
    path.write_text(json.dumps(info)[:-40])
    with pytest.raises(NotThisSource, match=r"trial_info\.json: broken JSON after byte"):
        read_all("patient_trial", raw)
    queries = raw / "dataset/sigir/queries.jsonl"
    queries.write_text(queries.read_text() + '{"_id": "sigir-1"\n')
    with pytest.raises(NotThisSource, match=r"queries\.jsonl, line 4"):
        read_all("patient_trial", raw)


def test_patient_trial_wrong_trees(copy: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match="TrialGPT checkout"):
        read_all("patient_trial", tmp_path)
    raw = copy("patient_trial")
    (raw / "dataset/trial_info.json").unlink()
    with pytest.raises(NotThisSource, match="fetch trial_info"):
        read_all("patient_trial", raw)
    path = raw / "dataset/sigir/qrels/test.tsv"
    path.write_text(path.read_text().replace("corpus-id", "doc"))
    with pytest.raises(NotThisSource, match="no column corpus-id"):
        read_all("patient_trial", raw)


def test_trial_members_are_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_CHUNK", 7)
    values = {"a": {"text": "αβγ } ] ,", "n": 1.5}, "b": [1, {"c": None}], "d": 123456789, "e": "x", "f": {}}
    path = tmp_path / "object.json"
    path.write_text("  " + json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    assert {name: value for _, name, value in tables.json_items(path, "object.json", kinds="[{")} == values
    path.write_text(json.dumps(list(values.values())), encoding="utf-8")
    assert [value for _, _, value in tables.json_items(path, "object.json")] == list(values.values())
    for broken in ('{"a": 1', '{"a" 1}', '"text"', "", '[{"a": 1}, '):
        path.write_text(broken)
        with pytest.raises(NotThisSource):
            list(tables.json_items(path, "object.json", kinds="[{"))


@pytest.fixture
def trialgpt() -> Path:
    if not TRIALGPT.is_dir():
        pytest.skip(f"no real rows at {TRIALGPT}")
    return TRIALGPT


def judged(raw: Path) -> dict[str, list[tuple[str, str, str]]]:
    """The judgments, read without the builder."""
    cohorts = {}
    for cohort in ("sigir", "trec_2021", "trec_2022"):
        lines = (raw / "dataset" / cohort / "qrels/test.tsv").read_text().splitlines()[1:]
        cohorts[cohort] = [tuple(line.split("\t")) for line in lines]
    return cohorts  # type: ignore[return-value]


def test_real_judgments_are_all_accounted_for(trialgpt: Path) -> None:
    raw = judged(trialgpt)
    outcomes = read_all("patient_trial", trialgpt)
    assert {cohort: len(found) for cohort, found in outcomes.items()} == source_of("patient_trial").published({})
    assert sum(map(len, outcomes.values())) == 75_061
    assert Counter(score for rows in raw.values() for *_, score in rows) == {"0": 55_395, "1": 9_736, "2": 9_930}
    under_cap: dict[str, int] = {}
    by_score: Counter[str] = Counter()
    for cohort, found in outcomes.items():
        groups = Counter((patient, score) for patient, _, score in raw[cohort])
        under_cap[cohort] = sum(min(10, count) for count in groups.values())
        for (_, score), count in groups.items():
            by_score[score] += min(10, count)
        assert len(found) - reasons(found)["over_cap"] == under_cap[cohort]
        assert len(kept(found)) + reasons(found).get("no_trial_text", 0) == under_cap[cohort]
    assert under_cap == {"sigir": 1_321, "trec_2021": 2_209, "trec_2022": 1_469} and sum(under_cap.values()) == 4_999
    assert by_score == {"0": 1_826, "1": 1_610, "2": 1_563}
    patients: defaultdict[str, set[str]] = defaultdict(set)
    for cohort, rows in raw.items():
        listed = (trialgpt / "dataset" / cohort / "queries.jsonl").read_text().splitlines()
        patients["all"] |= {json.loads(line)["_id"] for line in listed}
        patients["judged"] |= {patient for patient, *_ in rows}
    assert (len(patients["all"]), len(patients["judged"])) == (184, 183)
    assert patients["all"] - patients["judged"] == {"sigir-201428"}


def test_real_pairs_with_text_are_the_ones_kept_without_a_cap(trialgpt: Path) -> None:
    data = trialgpt / "dataset"
    alone = json.loads((data / "sigir/retrieved_trials_sigir-20141.json").read_bytes())
    retrieved = {trial["NCTID"] for score in "012" for trial in alone[score]}
    corpus, trec = (
        {json.loads(line)["_id"] for line in (data / name).read_text().splitlines()}
        for name in ("sigir/corpus_sample.jsonl", "trec_trials_sample.jsonl")
    )
    assert (len(retrieved), len(trec), len(corpus)) == (101, 68, 10)
    texts = {"sigir": retrieved | corpus | trec, "trec_2021": trec, "trec_2022": trec}
    outcomes = read_all("patient_trial", trialgpt, cap="none")
    for cohort, rows in judged(trialgpt).items():
        wanted = {f"{patient}/{trial}": score for patient, trial, score in rows if trial in texts[cohort]}
        samples = kept(outcomes[cohort])
        assert {sample.key: (sample.subset or "")[-1] for sample in samples} == wanted
        assert reasons(outcomes[cohort]) == {"no_trial_text": len(rows) - len(wanted)}
    assert {cohort: len(kept(found)) for cohort, found in outcomes.items()} == {
        "sigir": 124, "trec_2021": 80, "trec_2022": 10,
    }  # fmt: skip


def test_real_notes_lose_nothing_to_the_sentence_splitter(trialgpt: Path) -> None:
    notes: dict[str, str] = {}
    for path in sorted(trialgpt.glob("dataset/*/queries.jsonl")):
        notes |= {row["_id"]: row["text"] for row in map(json.loads, path.read_text().splitlines())}
    assert len(notes) == 184
    assert sum("[**" in note for name, note in notes.items() if name.startswith("trec-2021")) == 10
    counts = []
    for note in notes.values():
        cut = patient_trial.sentences(note)
        assert " ".join(cut).split() == note.split()
        assert not any(sentence.endswith((" Dr.", " Mr.", " Mrs.", " vs.")) for sentence in cut)
        counts.append(len(cut))
    assert 4 <= sum(counts) / len(counts) <= 15
