"""patient_trial: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import REAL_DATA
from outcomes import kept, read_all, reasons, source_of
from source_cases import (
    text_of,
)

from builders import patient_trial
from builders.engine import tables
from builders.engine.source import NotThisSource

TRIALGPT = REAL_DATA / "trialgpt"


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


def test_patient_trial_choices_do_not_depend_on_the_order_of_rows(tree: Callable[[str], Path]) -> None:
    raw = tree("patient_trial")
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


def test_retrieved_candidates_are_capped_among_themselves(tree: Callable[[str], Path]) -> None:
    """As the recipe says (section 4.1): the pairs of retrieved trials, up to ten a label of those."""
    raw = tree("patient_trial")
    [file] = raw.glob("dataset/sigir/retrieved_trials.json")
    first, second = json.loads(file.read_text())
    # Eleven of the first patient's twelve trials of score 0; of the second patient what the demo lists.
    names = sorted(line.split("\t")[1] for line in (raw / "dataset/sigir/qrels/test.tsv").read_text().splitlines()
                   if line.startswith(first["patient_id"]) and line.endswith("\t0"))  # fmt: skip
    first["0"] = [{"NCTID": name} for name in names[:11]]
    file.write_text(json.dumps([first, second]))
    listed = {(p["patient_id"], trial["NCTID"]) for p in (first, second) for score in "012" for trial in p[score]}
    outcomes = read_all("patient_trial", raw, candidates="retrieved")
    found = outcomes["sigir"]
    chosen = {tuple(sample.key.split("/")) for sample in kept(found)}
    assert chosen < listed and reasons(found)["over_cap"] == 1
    assert reasons(found)["not_retrieved"] == len(found) - len(listed)
    assert all(reasons(outcomes[cohort]) == {"no_candidates": 34} for cohort in ("trec_2021", "trec_2022"))
    file.write_text(json.dumps(first))  # one patient alone
    found = read_all("patient_trial", raw, candidates="retrieved")["sigir"]
    assert {sample.key.split("/")[0] for sample in kept(found)} == {first["patient_id"]}
    assert reasons(found)["no_candidates"] == 17
    file.unlink()
    with pytest.raises(NotThisSource, match="to list candidates"):
        read_all("patient_trial", raw, candidates="retrieved")


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


def test_patient_trial_damaged_judgments(tree: Callable[[str], Path]) -> None:
    raw = tree("patient_trial")
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


def test_patient_trial_damaged_texts(tree: Callable[[str], Path]) -> None:
    raw = tree("patient_trial")
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


def test_patient_trial_wrong_trees(tree: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match="TrialGPT checkout"):
        read_all("patient_trial", tmp_path)
    raw = tree("patient_trial")
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


def test_real_candidates_of_one_patient(trialgpt: Path) -> None:
    """63, 27 and 11 of the 102, 27 and 14 judged trials of a patient were retrieved."""
    for cap, wanted in (("none", (63, 27, 11)), ("10", (10, 10, 10))):
        outcomes = read_all("patient_trial", trialgpt, candidates="retrieved", cap=cap)
        found = outcomes["sigir"]
        assert Counter(s.subset for s in kept(found)) == dict(
            zip(("score-0", "score-1", "score-2"), wanted, strict=True)
        )
        counts = reasons(found)
        assert (counts["not_retrieved"], counts["no_candidates"]) == (42, len(found) - 143)
        assert not kept(outcomes["trec_2021"])


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
