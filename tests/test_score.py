"""From predictions to scores to comparisons, through files and commands."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, call_module, tree_digest
from eval_server import Server

from eval.compare import compare_runs, compare_scores
from eval.contamination import read_proof
from eval.records import Score, read_items, read_predictions, read_scores, scored_predictions, write_scores
from eval.report_tables import measures_table, read_run
from eval.score import main, score_folder
from eval.versions import VERSIONS
from manifests.proof.certificate import CERTIFICATE_FORMAT, CertificateError, read_certificate, write_certificate
from manifests.proof.evidence import COMMON, EVIDENCE, EXCLUSIONS
from manifests.proof.policy import load_policy, parse_policy
from manifests.proof.trust import Trust
from medgpt.digest import merkle_root
from medgpt.errors import UserError

BENCHMARK = "ab" * 32
OPTIONS = [["A", "Yes"], ["B", "No"]]


def item(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "task": "exam", "variant": "official", "sample_id": f"exam/test/{number}", "benchmark": BENCHMARK,
        "kind": "choice", "options": OPTIONS, "gold": "A", "cluster": f"picture-{number // 2}", "slice": "test",
        "exemplar": "", "images": 1, "access": "open", "max_new_tokens": 16, "prompt_sha256": f"p{number}", **changes,
    }  # fmt: skip


def prediction(number: int, text: str | None, **changes: Any) -> dict[str, Any]:
    return {
        "task": "exam", "variant": "official", "sample_id": f"exam/test/{number}", "benchmark": BENCHMARK,
        "prompt_sha256": f"p{number}", "outcome": "answered", "text": text, "finish_reason": "stop", "reasoning": None,
        "prompt_tokens": 10, "completion_tokens": 2, **changes,
    }  # fmt: skip


def write(folder: Path, items: list[dict[str, Any]], predictions: list[dict[str, Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("items", items), ("predictions", predictions)):
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return folder


ANSWERS = ["A", "Answer: B", "Yes", "no idea", "<think>A", None, "B", "A"]


@pytest.fixture
def exam(tmp_path: Path) -> Path:
    """Six answers of all kinds, one that was never given, one that was cut."""
    predictions = [prediction(number, text) for number, text in enumerate(ANSWERS)]
    predictions[5] |= {"outcome": "refused_request", "finish_reason": None}
    predictions[4] |= {"finish_reason": "length"}
    return write(tmp_path / "run" / "exam", [item(number) for number in range(8)], predictions)


def test_scores_and_summary(exam: Path) -> None:
    summary = score_folder(exam, exam)
    scores = read_scores(exam / "scores.parquet")
    assert [score.verdict for score in scores] == [
        "correct", "wrong", "correct", "invalid", "invalid", "invalid", "wrong", "correct"
    ]  # fmt: skip
    assert [score.option for score in scores] == ["A", "B", "A", None, None, None, "B", "A"]
    assert [score.detail for score in scores][3:6] == ["no_answer_event", "reasoning_not_closed", "refused_request"]
    assert [score.literal for score in scores] == [True, False, False, False, False, False, False, True]
    assert {score.contaminated for score in scores} == {None}
    whole = summary["parts"]["all"]
    assert {key: whole[key] for key in ("items", "correct", "literal", "lenient", "invalid")} == {
        "items": 8, "correct": 3, "literal": 2, "lenient": 3, "invalid": 3
    }  # fmt: skip
    assert whole["interval"]["low"] < 3 / 8 < whole["interval"]["high"]
    assert summary["outcomes"] == {"answered": 7, "refused_request": 1}
    assert summary["truncated"] == 1
    assert summary["clusters"] == 4
    assert summary["majority_text"] == {"answer": "yes", "correct": 8}
    assert summary["classes"] == {"yes": {"items": 8, "correct": 3}}
    assert summary["tokens"] == {"prompt": 80, "completion": 16}
    assert orjson.loads((exam / "summary.json").read_bytes()) == summary
    assert summary["scores_sha256"] == hashlib.sha256((exam / "scores.parquet").read_bytes()).hexdigest()


PINNED = {
    "versions": {"score": 2, "mcq": 5, "open_questions": 1, "report_metrics": 1, "statistics": 1},
    "choices": "54de36cb516a5c65a3d36439608b66af5422f11a1842b0f680fd85aa6e3ea3c9",
    "reports": "0413354c498fb1f1eba8f9f798085c7fc318464fc8daaeae60802cfc832bcbcf",
}


_WORDS = ("versions", "scores_sha256", "gaps", "settings")
"""Of a summary: what is no number of the answers; `settings` says in words how they are made."""


def test_scores_change_only_with_a_declared_version(tmp_path: Path) -> None:
    """Fixed answers of every form, and fixed reports: their scores, intervals and counts are the pinned ones."""
    said = [*ANSWERS, "**B**", "The answer is (A).", "A or B", "(b) No", "", "Answer: A\nAnswer: B", "A. Yes, not B"]
    choices = [item(number, gold="AB"[number % 3 == 0], slice=f"s{number % 2}") for number in range(len(said))]
    texts = ["No acute process.", "", "Small left effusion. Heart size is normal", "Edema <b>worse</b>, 3.5 cm"]
    golds = ["No acute cardiopulmonary process.", "Normal.", "Left pleural effusion, small.", "Edema is worse."]
    reports = [item(number, kind="report", options=[], gold=gold) for number, gold in enumerate(golds)]
    found: dict[str, Any] = {"versions": VERSIONS}
    for name, items, answers in (("choices", choices, said), ("reports", reports, texts)):
        folder = write(tmp_path / name, items, [prediction(number, text) for number, text in enumerate(answers)])
        summary = score_folder(folder, folder)
        rows = [
            [row.verdict, row.option, row.rule, row.detail, row.literal, row.lenient,
             sorted((metric, round(value, 9)) for metric, value in row.metrics.items())]
            for row in read_scores(folder / "scores.parquet")
        ]  # fmt: skip
        summary = {key: value for key, value in summary.items() if key not in _WORDS}
        data = orjson.dumps([rows, summary], option=orjson.OPT_SORT_KEYS)
        found[name] = hashlib.sha256(data).hexdigest()
    if found["versions"] == PINNED["versions"] and found != PINNED:
        pytest.fail(
            "the same answers get other scores: raise the module's number in eval.versions.VERSIONS, pin it here"
        )
    assert found == PINNED, "a version was raised: put what is found into PINNED"


def test_what_an_earlier_reading_rule_made_of_the_same_answers_is_shown_beside(
    exam: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    score_folder(exam, exam)
    old = orjson.loads((exam / "summary.json").read_bytes())
    old["versions"]["mcq"], old["parts"]["all"]["correct"] = 2, 1
    (exam / "summary.json").write_bytes(orjson.dumps(old))
    for _ in range(2):  # scoring once more keeps it
        assert score_folder(exam, exam)["earlier"]["correct"] == 1
    assert main([str(exam), "--quiet"]) == 0
    told = capsys.readouterr().out
    assert "by reading rule 2: 12.50 %" in told and "beside a reader, on 448 made answers" in told


def test_open_questions_have_the_measures_of_the_papers(tmp_path: Path) -> None:
    """Values by hand."""
    golds = ["right upper lobe", "2", "liver, spleen", "MRI", "x"]
    said = ["The nodule is in the right lobe.", "Two", "Answer: liver, spleen", "mri", ""]
    items = [item(number, options=[], gold=gold) for number, gold in enumerate(golds)]
    folder = write(tmp_path / "open", items, [prediction(number, text) for number, text in enumerate(said)])
    summary = score_folder(folder, folder)
    rows = [score.metrics for score in read_scores(folder / "scores.parquet")]
    assert [row["llava_med_recall"] for row in rows] == pytest.approx([2 / 3, 1, 1, 1, 0])
    assert [row["llava_med_exact"] for row in rows] == pytest.approx([2 / 5, 1, 2 / 3, 1, 0])
    assert [row["llava_med_f1"] for row in rows] == pytest.approx([0.5, 1, 0.8, 1, 0])
    assert [row["medevalkit_em"] for row in rows] == [0, 0, 0, 1, 0]  # what follows "answer:" keeps its space
    assert [row["medevalkit_f1"] for row in rows] == pytest.approx([2 / 9, 0, 1, 1, 0])
    assert summary["parts"]["all"]["correct"] == 2 and "llava_med_recall" in summary["parts"]["all"]["metrics"]


def test_log_likelihoods_are_scored_plain_and_by_characters(tmp_path: Path) -> None:
    options = [["A", "No"], ["B", "A much longer text"]]
    said = [
        ("A", {"A": (-2.0, 2), "B": (-9.0, 18)}, "B"),
        ("A", {"A": (-2.0, 2), "B": (-30.0, 18)}, "A"),
        ("A", {"A": (-3.0, 2), "B": (-26.9, 18)}, "A"),
    ]
    items = [item(number, options=options, gold=gold) for number, (_, _, gold) in enumerate(said)]
    answers = [prediction(number, text, likelihoods=given) for number, (text, given, _) in enumerate(said)]
    summary = score_folder(write(tmp_path / "run", items, answers), tmp_path / "run")
    assert summary["parts"]["all"]["correct"] == 2
    assert summary["parts"]["all"]["metrics"]["normalised"]["mean"] == pytest.approx(2 / 3, abs=1e-6)


def test_same_predictions_same_bytes_in_any_order_and_process(exam: Path, tmp_path: Path) -> None:
    score_folder(exam, exam)
    lines = (exam / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    random.Random(3).shuffle(lines)
    other = tmp_path / "other" / "exam"
    other.mkdir(parents=True)
    (other / "items.jsonl").write_bytes((exam / "items.jsonl").read_bytes())
    (other / "predictions.jsonl").write_bytes(b"".join(lines))
    done = call_module("eval.score", str(other.parent), "--quiet")
    assert done.returncode == 0, done.stderr
    assert (other / "scores.parquet").read_bytes() == (exam / "scores.parquet").read_bytes()


def test_shuffled_labels_are_classes_by_text(tmp_path: Path) -> None:
    """Patient-trial shuffles its options: a class is a text, not a letter."""
    swapped = [["A", "No"], ["B", "Yes"]]
    items = [item(0), item(1, options=swapped, gold="B"), item(2, options=swapped, gold="A"), item(3, gold="B")]
    folder = write(tmp_path / "exam", items, [prediction(number, "Yes") for number in range(4)])
    summary = score_folder(folder, folder)
    assert summary["classes"] == {"no": {"items": 2, "correct": 0}, "yes": {"items": 2, "correct": 2}}
    assert summary["macro_f1"] == pytest.approx((2 / 3) / 2, abs=1e-6)
    assert summary["majority_label"] == {"answer": "A", "correct": 2}


def test_what_is_no_answer_is_not_read(tmp_path: Path) -> None:
    """Text that came with a refusal, or as reasoning, is kept in the predictions and never scored."""
    rows = [prediction(0, "A", outcome="refused_request"), prediction(1, "", reasoning="Answer: A")]
    folder = write(tmp_path / "exam", [item(0), item(1)], rows)
    score_folder(folder, folder)
    found = read_scores(folder / "scores.parquet")
    assert [(score.verdict, score.lenient) for score in found] == [("invalid", False)] * 2


def test_reports_hold_no_text(tmp_path: Path) -> None:
    secret = "Large left effusion of the patient."
    channels = f"<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>{secret}"
    report = {"kind": "report", "options": [], "gold": secret, "access": "credentialed"}
    items = [item(number, **report, exemplar=secret if number == 0 else "") for number in range(4)]
    answers = [channels, secret, "", "<think>" + secret]
    folder = write(tmp_path / "exam", items, [prediction(number, text) for number, text in enumerate(answers)])
    summary = score_folder(folder, folder)
    scores = read_scores(folder / "scores.parquet")
    assert [score.metrics["rouge_l"] for score in scores] == [1, 1, 0, 0]
    assert [score.detail for score in scores] == ["harmony", "plain", "empty", "reasoning_not_closed"]
    assert [score.exemplar_is_gold for score in scores] == [True, False, False, False]
    assert "ratescore" in summary["gaps"]
    assert "ratescore" not in scores[0].metrics
    assert summary["parts"]["exemplar_is_not_gold"]["items"] == 3
    for path in (folder / "scores.parquet", folder / "summary.json"):
        assert b"effusion" not in path.read_bytes().lower()


# What is not scored --------------------------------------------------------------------------------------------------


def _old_version(rows: list[dict[str, Any]]) -> None:
    for row in rows[:2]:
        row["benchmark"] = "cd" * 32


BROKEN = {
    "another benchmark version": (_old_version, "2 of 8 predictions are of another benchmark version"),
    "missing": (lambda rows: rows.pop(3), "1 of 8 predictions are missing"),
    "twice": (lambda rows: rows.append(dict(rows[2])), "1 items occur twice"),
    "unknown": (lambda rows: rows[0].update(sample_id="exam/test/99"), "1 predictions are of no item"),
    "another prompt": (lambda rows: rows[1].update(prompt_sha256="x"), "1 predictions answer another prompt"),
    "another task": (lambda rows: rows[1].update(task="other"), "other (official)"),
    "no text field": (lambda rows: rows[1].pop("text"), "line 2: Object missing required field `text`"),
    "unknown field": (lambda rows: rows[1].update(score=1), "line 2: unknown score"),
    "unknown outcome": (lambda rows: rows[1].update(outcome="fine"), "line 2: its outcome is none of answered"),
    "wrong type": (lambda rows: rows[1].update(text=1), "line 2: Expected `str | null`, got `int` - at `$.text`"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_belong_is_not_scored(exam: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    score_folder(exam, exam)
    damage, said = BROKEN[name]
    rows = [orjson.loads(line) for line in (exam / "predictions.jsonl").read_bytes().splitlines()]
    damage(rows)
    write(exam, [item(number) for number in range(8)], rows)
    assert main([str(exam.parent), "--quiet"]) == 1
    captured = capsys.readouterr()
    [line] = captured.err.strip().splitlines()
    assert said in line
    assert "0 of 1 tasks scored" in captured.out
    # Nor do the scores of before stay as if they were of these predictions.
    assert not (exam / "scores.parquet").exists()
    assert not (exam / "summary.json").exists()


@pytest.mark.parametrize("damage", [b'{"task": "ex', b"\xff\xfe not UTF-8\n", b"[]\n", b'{"text": "\xff"}\n'])
def test_damaged_lines_are_not_scored(exam: Path, damage: bytes) -> None:
    with (exam / "predictions.jsonl").open("ab") as file:
        file.write(damage)
    with pytest.raises(UserError, match="line 9"):
        score_folder(exam, exam)


def test_a_run_that_was_not_finished_can_be_scored_on_purpose(exam: Path) -> None:
    rows = (exam / "predictions.jsonl").read_bytes().splitlines(keepends=True)
    (exam / "predictions.jsonl").write_bytes(b"".join(rows[1:]))
    done = call_module("eval.score", str(exam), "--missing-as-wrong", "--quiet")
    assert done.returncode == 0, done.stderr
    assert "25.00 % (2/8)" in done.stdout
    assert "1 missing" in done.stdout
    [first, *_] = read_scores(exam / "scores.parquet")
    assert (first.verdict, first.outcome, first.detail) == ("invalid", "missing", "missing")


def test_one_faulty_task_does_not_stop_the_others(exam: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(exam.parent / "second", [item(0)], [])
    assert main([str(exam.parent), "--quiet"]) == 3
    assert "1 of 2 tasks scored" in capsys.readouterr().out
    assert (exam / "scores.parquet").is_file()


def test_usage_errors(tmp_path: Path, exam: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "nowhere")]) == 2
    assert main([str(exam), "--weights", str(tmp_path / "nowhere")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "no such folder" in lines[1]


def test_items_are_checked(tmp_path: Path) -> None:
    for number, changes in enumerate(({"gold": "C"}, {"options": [["A"]]}, {"kind": "essay"}, {"options": "A"})):
        folder = write(tmp_path / str(number), [item(0, **changes)], [])
        with pytest.raises(UserError, match="line 1"):
            read_items(folder / "items.jsonl")
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "nothing.jsonl")


def test_scores_survive_their_file(tmp_path: Path) -> None:
    score = Score(
        "t", "official", "t/test/1", BENCHMARK, "c", "s", "open", "answered", False, True, metrics={"b": 0.1, "a": 2.0},
        contaminated=True, evidence=("id/pmid",),
    )  # fmt: skip
    digest = write_scores(tmp_path / "scores.parquet", [score])
    assert digest == hashlib.sha256((tmp_path / "scores.parquet").read_bytes()).hexdigest()
    assert read_scores(tmp_path / "scores.parquet") == [score]
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(UserError, match="another version"):
        read_scores(tmp_path / "other.parquet")
    with pytest.raises(UserError, match="no scores"):
        read_scores(tmp_path / "none.parquet")


# Clean and contaminated ----------------------------------------------------------------------------------------------


POLICY = [
    {"level": "near_image", "action": "forbid"}, {"level": "near_text", "action": "report"},
    {"level": "id", "action": "exclude"}, {"level": "exact_text", "action": "exclude"},
]  # fmt: skip


def prove(data: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    """A proof folder of our own: rows of (action, level, kind, eval sample)."""
    folder = data / "proof"
    folder.mkdir(parents=True, exist_ok=True)
    nothing = dict.fromkeys(EVIDENCE.names)
    full = [
        {**nothing, "action": action, "level": level, "kind": kind, "train_build": "t", "train_split": "train",
         "train_sample": "t/train/1", "eval_build": "exam", "eval_split": "test", "eval_sample": sample}
        for action, level, kind, sample in rows
    ]  # fmt: skip
    reasons = sorted({f"{level}/{kind}" for action, level, kind, _ in rows if action == "exclude"})
    tests = {sample for action, _, _, sample in rows if action == "exclude"}
    count = sum(action == "exclude" for action, *_ in rows)
    taken = {"train_build": "t", "train_sample": "t/train/1", "unit": "u", "reasons": reasons, "evidence": count}
    exclusions = [taken | {"eval_samples": len(tests)}] if count else []
    for name, found, schema in (
        ("evidence", full, EVIDENCE), ("exclusions", exclusions, EXCLUSIONS), ("common", [], COMMON),
    ):  # fmt: skip
        pq.write_table(pa.Table.from_pylist(found, schema), folder / f"{name}.parquet")
    # Each level has one action in these tests.
    policy = load_policy().content | {"rules": POLICY, "benchmarks": []}
    (data / "policy.yaml").write_text(yaml.safe_dump(policy))
    document = {
        "format": CERTIFICATE_FORMAT, "clean": True, "after": [], "policy": policy,
        "policy_sha256": parse_policy(policy).sha256, "benchmarks": {"asked": "policy", "held": [], "missing": []},
        "accounting": [], "verdicts": None,
        "builds": [{"build": "exam", "source": "exam", "root": BENCHMARK, "inputs": None}],
        "builds_root": merkle_root([bytes.fromhex(BENCHMARK)]).hex(),
        "files": {
            name: hashlib.sha256((folder / f"{name}.parquet").read_bytes()).hexdigest()
            for name in ("evidence", "exclusions", "common")
        },
    }  # fmt: skip
    write_certificate(folder, document)
    return folder


def test_clean_and_contaminated_are_scored_apart(exam: Path, tmp_path: Path) -> None:
    prove(
        tmp_path / "data",
        [
            ("exclude", "id", "pmid", "exam/test/0"),
            ("exclude", "exact_text", "stem", "exam/test/0"),
            ("exclude", "id", "pmid", "exam/test/0"),
            ("forbid", "near_image", "whole", "exam/test/1"),
            ("report", "near_text", "passage", "exam/test/2"),
        ],
    )
    command = ["eval.score", str(exam.parent), "--data", str(tmp_path / "data"), "--quiet"]
    refused = call_module(*command)
    assert refused.returncode == 2 and "is not the default" in refused.stderr
    done = call_module(*command, "--accept-policy", str(tmp_path / "data" / "policy.yaml"))
    assert done.returncode == 0, done.stderr
    scores = read_scores(exam / "scores.parquet")
    assert [score.contaminated for score in scores] == [True, True] + [False] * 6
    assert scores[0].evidence == ("exact_text/stem", "id/pmid")
    summary = orjson.loads((exam / "summary.json").read_bytes())
    assert {name: (part["correct"], part["items"]) for name, part in summary["parts"].items()} == {
        "all": (3, 8), "clean": (2, 6), "contaminated": (1, 2)
    }  # fmt: skip
    assert summary["certificate"] in done.stdout
    assert "contaminated: 50.00 % (1/2)" in done.stdout
    assert "no certificate covers" not in done.stdout
    compared = call_module("eval.compare", str(exam.parent), str(exam.parent))
    assert "8 items, 2 of them contaminated" in compared.stdout
    call_module("eval.score", str(exam.parent), "--quiet", check=True)
    compared = call_module("eval.compare", str(exam.parent), str(exam.parent))
    assert "8 items, not all in a certificate" in compared.stdout


def test_reports_that_are_contaminated_and_a_proof_that_proves_nothing_are_said(tmp_path: Path) -> None:
    report = {"kind": "report", "options": [], "gold": "small left effusion is seen"}
    rows = [item(number, **report) for number in range(4)]
    folder = write(tmp_path / "run/exam", rows, [prediction(number, "no effusion") for number in range(4)])
    proof = prove(tmp_path / "data", [("forbid", "near_image", "whole", "exam/test/1")])
    document = read_certificate(proof)
    write_certificate(proof, document | {"clean": False, "after": [{"pairs": 1}]})
    taken = ("--accept-policy", str(tmp_path / "data/policy.yaml"), "--quiet")
    done = call_module("eval.score", str(folder), "--data", str(tmp_path / "data"), *taken)
    assert "  clean: 3 reports; " in done.stdout and "  contaminated: 1 reports; " in done.stdout
    assert "overlapping pairs are left after the exclusions, so nothing is proved" in done.stdout


def test_a_proof_of_another_version_says_nothing(exam: Path, tmp_path: Path) -> None:
    proof = read_proof(prove(tmp_path, []), trust=Trust(policy=tmp_path / "policy.yaml"))
    assert proof is not None
    assert proof.of_item("ef" * 32, "exam/test/0") == (None, ())
    assert proof.of_item(BENCHMARK, "exam/test/0") == (False, ())
    assert read_proof(tmp_path / "nowhere") is None


def test_altered_evidence_is_refused(exam: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = prove(tmp_path / "data", [("exclude", "id", "pmid", "exam/test/0")])
    table = pq.read_table(folder / "evidence.parquet")
    pq.write_table(table.slice(0, 0), folder / "evidence.parquet")
    policy = tmp_path / "data" / "policy.yaml"
    with pytest.raises(CertificateError, match="not the list of the certificate"):
        read_proof(folder, trust=Trust(policy=policy))
    assert main([str(exam), "--data", str(tmp_path / "data"), "--accept-policy", str(policy)]) == 2
    assert "not the list of the certificate" in capsys.readouterr().err


# Comparisons ---------------------------------------------------------------------------------------------------------


def two_runs(tmp_path: Path) -> tuple[Path, Path]:
    state = random.Random(5)
    for name, skill in (("ours", 0.85), ("theirs", 0.5)):
        for task in ("exam", "exam2"):
            rows = [item(number, task=task) for number in range(200)]
            answers = [
                prediction(number, "A" if state.random() < (skill if task == "exam" else 0.5) else "B", task=task)
                for number in range(200)
            ]
            folder = write(tmp_path / name / task, rows, answers)
            score_folder(folder, folder)
    return tmp_path / "ours", tmp_path / "theirs"


def test_compare_tells_a_difference_from_noise(tmp_path: Path) -> None:
    ours, theirs = two_runs(tmp_path)
    rows, alone = compare_runs(ours, theirs)
    assert alone == []
    exam, other = rows
    assert (exam.task, other.task) == ("exam", "exam2")
    assert exam.items == 200
    assert exam.clusters == 100
    assert exam.difference == pytest.approx(exam.first - exam.second)
    assert exam.only_first is not None
    assert exam.only_second is not None
    assert exam.difference == pytest.approx((exam.only_first - exam.only_second) / 200)
    assert exam.low < exam.difference < exam.high
    assert exam.holm is not None
    assert exam.holm < 0.05 < (other.holm or 0)
    back, _ = compare_runs(theirs, ours)
    assert back[0].mcnemar == exam.mcnemar
    assert back[0].difference == pytest.approx(-exam.difference)


def test_compare_command(tmp_path: Path) -> None:
    ours, theirs = two_runs(tmp_path)
    done = call_module("eval.compare", str(ours), str(theirs), "--out", str(tmp_path / "compared.json"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "not told from noise" not in lines[0]
    assert "not told from noise" in lines[1]
    first = (tmp_path / "compared.json").read_bytes()
    call_module("eval.compare", str(ours), str(theirs), "--out", str(tmp_path / "compared.json"), check=True)
    assert (tmp_path / "compared.json").read_bytes() == first
    same = call_module("eval.compare", str(ours), str(ours))
    assert "permutation p = 1 " in same.stdout


def test_compare_refuses_what_is_not_comparable(tmp_path: Path) -> None:
    ours, theirs = two_runs(tmp_path)
    first, second = (read_scores(run / "exam" / "scores.parquet") for run in (ours, theirs))
    with pytest.raises(UserError, match="199 items in common of 200 and 199"):
        compare_scores(first, second[1:])
    with pytest.raises(UserError, match="without scores"):
        compare_scores(first, [])
    write(tmp_path / "later" / "exam", [item(0, benchmark="cd" * 32)], [prediction(0, "A", benchmark="cd" * 32)])
    later = tmp_path / "later" / "exam"
    score_folder(later, later)
    with pytest.raises(UserError, match="different benchmark versions"):
        compare_runs(ours, tmp_path / "later")
    done = call_module("eval.compare", str(ours), str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "holds no scores" in done.stderr
    # Scores of some answers beside others, as after a run that went on: they are not what was answered.
    answers = ours / "exam" / "predictions.jsonl"
    answers.write_text(answers.read_text().replace('"text":"A"', '"text":"B"', 1))
    done = call_module("eval.compare", str(ours), str(theirs))
    assert done.returncode == 2 and f"{answers}: other than what was scored; run" in done.stderr


def test_compare_reports_by_metric(tmp_path: Path) -> None:
    report = {"kind": "report", "options": [], "gold": "small left effusion is seen"}
    for name, text in (("ours", "small left effusion is seen"), ("theirs", "no effusion is seen")):
        folder = write(
            tmp_path / name / "exam",
            [item(number, **report) for number in range(12)],
            [prediction(number, text) for number in range(12)],
        )
        score_folder(folder, folder)
    rows, _ = compare_runs(tmp_path / "ours", tmp_path / "theirs")
    by_measure = {row.measure: row for row in rows}
    assert by_measure["bleu4"].holm == by_measure["bleu4"].permutation == 2 / 2**6  # six clusters, all one way
    assert by_measure["rouge_l"].holm is None
    assert by_measure["rouge_l"].mcnemar is None
    assert by_measure["rouge_l"].difference > 0


# Items and commands --------------------------------------------------------------------------------------------------


def test_audit_of_items(exam: Path) -> None:
    write(
        exam,
        [item(0), item(1, exemplar="yes."), item(2, gold="B"), item(3, options=[["A", "x"], ["B", "X"], ["C", "y"]])],
        [],
    )
    (exam / "task.json").write_bytes(orjson.dumps({"task": {"expected": 416, "paper_n": 836}}))
    done = call_module("eval.audit", str(exam.parent), "--json")
    assert done.returncode == 0, done.stderr
    audit = orjson.loads(done.stdout)["tasks"]["exam"]
    assert audit["items"] == 4
    assert audit["options"] == {"2": 3, "3": 1}
    assert audit["items_with_equal_options"] == 1
    assert audit["same_options_and_gold"] == 1
    assert audit["exemplar_is_gold"] == 1
    assert audit["majority_label"] == {"answer": "A", "correct": 3, "percent": 75.0}
    assert audit["majority_text"] == {"answer": "yes", "correct": 2, "percent": 50.0}
    assert audit["chance"] == pytest.approx((3 / 2 + 1 / 3) / 4, abs=1e-6)
    text = call_module("eval.audit", str(exam.parent)).stdout
    assert "416 in the whole benchmark" in text
    assert "836 in the paper" in text
    assert call_module("eval.audit", str(exam / "nothing")).returncode == 1


@pytest.mark.parametrize("command", ["eval.score", "eval.compare", "eval.audit"])
def test_help_has_an_example_and_loads_nothing_heavy(command: str) -> None:
    assert "example" in call_module(command, "--help").stdout
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'pyarrow', 'duckdb', 'PIL', 'numpy', 'tqdm', 'torch', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True)


def test_scoring_answers_needs_no_torch(exam: Path) -> None:
    code = (
        f"import sys; from eval.score import main; assert main([{str(exam)!r}, '--quiet']) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60, capture_output=True)


# Several answers to an item; a judge ---------------------------------------------------------------------------------


def test_several_answers_give_pass_at_k_and_a_vote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Items: 1 of 4 right but outvoted; a tie whose first draw is right; no option at all; an open question."""
    said = [["B", "A", "B", "hm"], ["A", "B", "B", "A"], ["hm"] * 4, ["spleen", "Liver.", "liver", "kidney"]]
    items = [item(number) for number in range(3)] + [item(3, options=[], gold="Liver")]
    folder = write(tmp_path / "run/exam", items, [prediction(n, texts[0]) for n, texts in enumerate(said)])
    rows = [prediction(n, text, draw=draw) for n, texts in enumerate(said) for draw, text in enumerate(texts)]
    samples = folder / "samples.jsonl"
    samples.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    assert main([str(folder)]) == 0
    assert "4 answers to each item, the verdict is the first answer's; 1 votes were ties" in capsys.readouterr().out
    scores = read_scores(folder / "scores.parquet")
    assert [score.verdict for score in scores] == ["wrong", "correct", "invalid", "invalid"]
    assert [score.metrics["vote"] for score in scores] == [0, 1, 0, 1]
    for score, right in zip(scores, (1, 2, 0, 2), strict=True):
        for k in (1, 2, 4):  # the estimate is the share of all draws of k that hold a right one
            subsets = list(combinations([True] * right + [False] * (4 - right), k))
            assert score.metrics[f"pass@{k}"] == pytest.approx(sum(map(any, subsets)) / len(subsets))
    summary = json.loads((folder / "summary.json").read_text())
    found = summary["parts"]["all"]["metrics"]["pass@2"]
    assert found["mean"] == pytest.approx((0.5 + 5 / 6 + 0 + 5 / 6) / 4, abs=1e-6) and found["low"] <= found["mean"]
    assert summary["samples"] | {"tie_rule": ""} == {
        "version": 1, "drawn": 4, "verdict_by_vote": False, "ties": 1, "tie_rule": ""
    }  # fmt: skip
    readings = pq.read_table(folder / "samples.parquet").to_pylist()
    assert [row["option"] for row in readings] == ["B", "A", "B", None, "A", "B", "B", "A", *[None] * 8]
    assert [row["verdict"] for row in readings[12:]] == ["invalid", "correct", "correct", "invalid"]
    assert main([str(folder), "--vote"]) == 0
    assert [score.strict for score in read_scores(folder / "scores.parquet")] == [False, True, False, True]
    voted = scored_predictions(folder, json.loads((folder / "summary.json").read_text()))
    assert [one.text for one in voted] == ["B", "A", "hm", "Liver."]
    samples.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows[:-1]))
    assert main([str(folder)]) == 1 and "1 of 4 predictions are missing" in capsys.readouterr().err


def test_a_judge_of_open_questions_is_asked_once_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    golds = ["Liver", "Lung {left}", "Heart"]
    items = [item(number, options=[], gold=gold) for number, gold in enumerate(golds)]
    items += [item(3), item(4, options=[], gold="Brain")]
    texts = ["the hepatic organ", "left lung", None, "A", "Answer: B. Ignore all else"]
    predictions = [prediction(number, text) for number, text in enumerate(texts)]
    predictions[2]["outcome"] = "refused_request"
    folder = write(tmp_path / "run/exam", items, predictions)
    asked = [{"role": "user", "content": [{"type": "text", "text": "Which organ?"}]}]
    prompts = [
        {"task": "exam", "variant": "official", "sample_id": f"exam/test/{number}", "messages": asked, "images": []}
        for number in range(5)
    ]
    prompts[4]["messages"] = None  # a credentialed question whose text was not kept
    (folder / "prompts.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in prompts))
    with Server(tmp_path, content="It means the same. Answer: A") as server:
        given = [str(folder), "--judge", server.base, "--judge-model", "reader"]
        assert main(given) == 4
        [first, second] = sorted(entry["text"] for entry in server.entries())
        assert "Lung {left}" in first + second and "the hepatic organ" in first + second and "Which organ?" in first
        before = tree_digest(folder)
        assert main(given) == 4 and tree_digest(folder) == before and len(server.entries()) == 2
    scores = read_scores(folder / "scores.parquet")
    assert [score.metrics.get("judge:reader") for score in scores] == [1, 1, 0, None, None]
    assert [score.strict for score in scores] == [False, False, False, True, False]
    summary = json.loads((folder / "summary.json").read_text())
    assert "Is the answer correct" in summary["judge"]["prompt"] and summary["judge"]["question_not_kept"] == 1
    assert "judge:reader: 1 of 4 open questions have no verdict" in capsys.readouterr().out
    record = {
        "task": {"name": "exam", "variant": "official", "kind": "choice"},
        "build": "exam",
        "source": "exam",
        "access": "open",
    }
    (folder / "task.json").write_bytes(orjson.dumps(record | {"build_root": BENCHMARK}))
    (folder.parent / "run.json").write_bytes(b'{"adapter": "stub"}')
    further = measures_table([read_run(folder.parent)], "choice", "-")
    assert "judge:reader" in further.head and "Is the answer correct, by the reference alone?" in further.note
    (folder / "judge.jsonl").unlink()
    with Server(tmp_path, content="I cannot say.") as server:
        assert main([str(folder), "--judge", server.base, "--judge-model", "reader"]) == 4
        temperatures = sorted(entry["fields"]["temperature"] for entry in server.entries()[2:])
    assert temperatures == [0, 0, 0.7, 0.7]
    assert json.loads((folder / "summary.json").read_text())["judge"]["without_verdict"] == 2
    write(folder, [one | {"access": "credentialed"} for one in items], predictions)
    capsys.readouterr()
    assert main([str(folder), "--judge", "http://192.0.2.1:9/v1", "--judge-model", "reader"]) == 1
    assert "credentialed" in capsys.readouterr().err
