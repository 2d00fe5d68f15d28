"""Instruction sets of text: demo trees with the traps of the reference, damaged rows, wrong trees, real rows."""

from __future__ import annotations

import copy
import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import tree_digest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import kept, reasons, source_of

from builders import medqa as medqa_builder
from builders.demos import (
    alpacare_medinstruct,
    healthcaremagic,
    icliniq,
    ii_medical_reasoning,
    infinity_instruct_gen,
    reasonmed,
)
from builders.engine.command import main
from builders.engine.names import CHATDOCTOR_INSTRUCTION
from builders.engine.rawfiles import DEMO_TIME
from builders.engine.source import DAMAGED_REASONS, InputError, NotThisSource, Reject, Sample
from builders.engine.texts import dialogue, inline_options, split_thinking
from medgpt.text import question_sha256
from shards.reader import Build

Rows = list[dict[str, Any]]
Outcomes = dict[str, list[Sample | Reject]]
DATA = Path(__file__).parents[2] / "shared" / "data"

# split: (rows of the demo, samples)
COUNTS = {
    "healthcaremagic": {"train": (11, 9)},
    "icliniq": {"train": (8, 7)},
    "alpacare_medinstruct": {"train": (9, 8), "test": (4, 4)},
    "reasonmed": {"train": (23, 21)},
    "infinity_instruct_gen": {"train": (11, 8)},
    "ii_medical_reasoning": {"train": (12, 10)},
}


def read_all(name: str, raw: Path, **given_values: Any) -> Outcomes:
    """Every outcome by split, after checking what must hold of any tree: one outcome a row, in order, known reasons."""
    source = source_of(name)
    params = {option.name: option.default for option in source.options} | {"split": None, "no_images": True}
    outcomes: Outcomes = {}
    for unit in source.plan(raw, params | given_values):
        assert unit.role == source.splits[unit.split]
        found = list(source.read(raw, unit, params | given_values))
        assert len(found) == unit.rows
        assert [int(outcome.row) for outcome in found] == sorted(int(outcome.row) for outcome in found)
        for outcome in found:
            if isinstance(outcome, Reject):
                assert outcome.reason in source.advice
            else:
                orjson.dumps([outcome.messages, outcome.question, outcome.options, outcome.answer, outcome.group])
        outcomes.setdefault(unit.split, []).extend(found)
    return outcomes


def said(sample: Sample) -> list[tuple[str, str | None, str]]:
    """(role, reasoning, text) of each message."""
    return [(message["role"], message["reasoning"], message["content"][0]["text"]) for message in sample.messages]


def write_json(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


@pytest.fixture(scope="session")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in COUNTS}
    for name, folder in folders.items():
        source_of(name).write_demo(folder)
    return folders


@pytest.fixture(scope="session")
def samples(demos: dict[str, Path]) -> dict[str, dict[str, Sample]]:
    """Samples of each demo by `<split>/<key>`."""
    return {
        name: {
            f"{split}/{sample.key}": sample for split, found in read_all(name, folder).items() for sample in kept(found)
        }
        for name, folder in demos.items()
    }


# --- demo trees ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_demo_counts(name: str, demos: dict[str, Path], samples: dict[str, dict[str, Sample]]) -> None:
    outcomes = read_all(name, demos[name])
    assert {split: (len(found), len(kept(found))) for split, found in outcomes.items()} == COUNTS[name]
    assert not {reason for found in outcomes.values() for reason in reasons(found)} & DAMAGED_REASONS.keys()
    assert len(samples[name]) == sum(count for _, count in COUNTS[name].values()), "keys repeat"


@pytest.mark.parametrize("name", COUNTS)
def test_demo_is_small_and_always_the_same(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    source_of(name).write_demo(tmp_path)
    assert tree_digest(tmp_path) == tree_digest(demos[name])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mtime for path in files} == {DEMO_TIME}
    assert sum(path.stat().st_size for path in files) <= 200_000


@pytest.mark.parametrize("name", COUNTS)
def test_demo_builds(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    folders = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main(source, ["--demo", "--quiet", "--workers", "1", *folders]) == 0
    build = Build(tmp_path / "out" / name)
    assert len(build) == sum(count for _, count in COUNTS[name].values())
    assert {build[i].record["license"] for i in range(len(build))} == {source.license}


@pytest.mark.parametrize("name", COUNTS)
def test_declarations(name: str) -> None:
    source = source_of(name)
    assert (source.stage, source.modality, source.name) == ("instruct", "text", name)
    facts = {row.name: row.count for row in source.paper_rows}
    assert len(facts) == 1
    assert (
        next(iter(facts.values()))
        == {
            "healthcaremagic": 112_165,
            "icliniq": 7_321,
            "alpacare_medinstruct": 52_002,
            "reasonmed": 1_111_555,
            "infinity_instruct_gen": 1_483_097,
            "ii_medical_reasoning": 2_197_741,
        }[name]
    )
    assert source.access == ("gated" if name == "infinity_instruct_gen" else "open")
    assert len(source.hub_revision) in (0, 40)


# --- what is planted ----------------------------------------------------------------------------------------------


def sha(sample: Sample) -> tuple[bytes | None, bytes | None]:
    return question_sha256(sample.question, [text for _, text in sample.options or ()])


def test_planted_overlaps_are_there(samples: dict[str, dict[str, Sample]], tmp_path: Path) -> None:
    medqa_builder.SOURCE.write_demo(tmp_path)
    medqa = {
        f"{split}/{sample.key}": sample
        for split, found in read_all("medqa", tmp_path).items()
        for sample in kept(found)
    }
    for rendering in ("CoTMed", "ResponseMed", "ReasonMed"):
        assert sha(samples["reasonmed"][f"train/{rendering}/0"]) == sha(medqa["dev/5"])
    ii = samples["ii_medical_reasoning"]
    for key in ("train-00000-of-00002/0", "train-00000-of-00002/1"):
        assert sha(ii[f"train/{key}"]) == sha(medqa["test/11"])
    assert sha(ii["train/train-00001-of-00002/0"]) == sha(ii["train/train-00001-of-00002/1"])
    alpacare = samples["alpacare_medinstruct"]
    assert sha(alpacare["train/8"]) == sha(alpacare["test/2"])
    assert samples["icliniq"]["train/6"].question == samples["healthcaremagic"]["train/3"].question
    healthcaremagic_rows = samples["healthcaremagic"]
    assert healthcaremagic_rows["train/1"].question == healthcaremagic_rows["train/9"].question
    assert healthcaremagic_rows["train/1"].answer != healthcaremagic_rows["train/9"].answer


# --- HealthCareMagic ----------------------------------------------------------------------------------------------


def test_healthcaremagic_question_is_the_input_alone(samples: dict[str, dict[str, Sample]]) -> None:
    for sample in samples["healthcaremagic"].values():
        assert CHATDOCTOR_INSTRUCTION not in (sample.question or "")
        [(_, _, prompt), (_, reasoning, reply)] = said(sample)
        assert prompt == f"{CHATDOCTOR_INSTRUCTION}\n\n{sample.question}"
        assert (reasoning, reply) == (None, sample.answer)
        assert "Chat Doctor" in reply or sample.key == "9"


def test_healthcaremagic_original_json_gives_the_same_samples(demos: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "HealthCareMagic-100k.json").write_bytes(json.dumps(healthcaremagic.demo_rows(), indent=4).encode())
    original, hub = (read_all("healthcaremagic", raw)["train"] for raw in (tmp_path, demos["healthcaremagic"]))
    assert [(s.key, said(s)) for s in kept(original)] == [(s.key, said(s)) for s in kept(hub)]
    assert reasons(original) == reasons(hub) == {"empty_question": 1, "empty_answer": 1}


def test_real_chatdoctor_rows(tmp_path: Path) -> None:
    path = DATA / "chatdoctor" / "chatdoctor_1000.json"
    if not path.is_file():
        pytest.skip(f"no real rows at {path}")
    rows = json.loads(path.read_bytes())
    shutil.copy(path, tmp_path / "HealthCareMagic-100k.json")
    found = read_all("healthcaremagic", tmp_path)["train"]
    assert (len(rows), len(found), reasons(found)) == (1000, 1000, {})
    for row, sample in zip(rows, kept(found), strict=True):
        assert (sample.question, sample.answer) == (row["input"], row["output"])
    # The instruction is one and the same: it would make a single question of them all.
    assert len({sha(sample)[0] for sample in kept(found)}) == 1000
    assert {row["instruction"] for row in rows} == {CHATDOCTOR_INSTRUCTION}


# --- iCliniq ------------------------------------------------------------------------------------------------------


def test_icliniq_reads_the_doctor_and_no_model(samples: dict[str, dict[str, Sample]]) -> None:
    rows = icliniq.demo_rows()
    for key, sample in samples["icliniq"].items():
        row = rows[int(key.removeprefix("train/"))]
        assert said(sample) == [("user", None, row["input"]), ("assistant", None, row["answer_icliniq"])]
        written = json.dumps([sample.messages, sample.answer])
        assert "healthcare professional" not in written
        assert "as a model" not in written


@pytest.mark.parametrize("file", ["iCliniq.json", "chatdoctor-icliniq/test-00000-of-00001-e85a5978cd03c7b2.parquet"])
def test_icliniq_other_copies_are_train_too(file: str, demos: dict[str, Path], tmp_path: Path) -> None:
    write: Callable[[Path, Rows], None] = write_json if file.endswith(".json") else write_parquet
    write(tmp_path / file, list(icliniq.demo_rows()))
    other, hub = read_all("icliniq", tmp_path), read_all("icliniq", demos["icliniq"])
    assert list(other) == ["train"]
    assert [(s.key, said(s)) for s in kept(other["train"])] == [(s.key, said(s)) for s in kept(hub["train"])]


# --- AlpaCare -----------------------------------------------------------------------------------------------------


def test_alpacare_no_input_has_several_spellings(samples: dict[str, dict[str, Sample]]) -> None:
    alpacare, rows = samples["alpacare_medinstruct"], alpacare_medinstruct.demo_rows()
    spelled = {row["input"] for row in rows if not row["input"].strip() or "<noinput>" in row["input"]}
    assert len(spelled) == 3
    for key, sample in alpacare.items():
        assert "noinput" not in json.dumps([sample.messages, sample.question])
        if key.startswith("train/"):
            row = rows[int(sample.key)]
            asked = row["instruction"] if row["input"] in spelled else f"{row['instruction']}\n\n{row['input']}"
            assert (sample.question, said(sample)[0]) == (asked, ("user", None, asked))
    assert alpacare["train/5"].question == "Classify the finding as normal or not.\n\nDNA ploidy: aneuploid."


def test_alpacare_test_file_is_eval_and_has_no_gold(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["alpacare_medinstruct"], tmp_path / "raw")
    write_json(raw / "data/.ipynb_checkpoints/MedInstruct-test-checkpoint.jsonl", [{"never": "read"}])
    outcomes = read_all("alpacare_medinstruct", raw)
    test = kept(outcomes["test"])
    assert source_of("alpacare_medinstruct").splits["test"] == "eval"
    assert [(s.key, s.subset, s.answer) for s in test] == [(str(i), f"difficulty-{1 + i}", None) for i in range(4)]
    assert all([role for role, _, _ in said(sample)] == ["user"] for sample in test)
    assert [s.group for s in test] == [{"question_id": f"medinstruct-test/{i}"} for i in range(4)]
    (raw / "data/MedInstruct-test.jsonl").unlink()
    assert list(read_all("alpacare_medinstruct", raw)) == ["train"]


def test_alpacare_hub_parquet(demos: dict[str, Path], tmp_path: Path) -> None:
    rows: Rows = [dict(reversed(row.items())) for row in alpacare_medinstruct.demo_rows()]  # output comes first there
    write_parquet(tmp_path / "data/train-00000-of-00001-297892d5d4e8a0ac.parquet", rows)
    hub, original = (read_all("alpacare_medinstruct", raw) for raw in (tmp_path, demos["alpacare_medinstruct"]))
    assert [(s.key, said(s)) for s in kept(hub["train"])] == [(s.key, said(s)) for s in kept(original["train"])]


# --- ReasonMed ----------------------------------------------------------------------------------------------------


def test_reasonmed_never_reads_the_test_file(demos: dict[str, Path]) -> None:
    raw = demos["reasonmed"]
    assert (raw / "eval_data/eval_data_all.json").is_file()
    units = list(source_of("reasonmed").plan(raw, {"rendering": "all"}))
    assert [unit.inputs for unit in units] == [("CoTMed.json",), ("ResponseMed.json",), ("ReasonMed.json",)]
    assert [unit.name for unit in units] == ["train-00000", "train-00001", "train-00002"]
    assert not any("A test question" in str(s.question) for s in kept(read_all("reasonmed", raw)["train"]))


@pytest.mark.parametrize(("rendering", "count"), [("all", 23), ("CoTMed", 8), ("ResponseMed", 7), ("ReasonMed", 8)])
def test_reasonmed_renderings(rendering: str, count: int, demos: dict[str, Path]) -> None:
    found = read_all("reasonmed", demos["reasonmed"], rendering=rendering)["train"]
    assert len(found) == count
    assert rendering == "all" or {sample.subset for sample in kept(found)} == {rendering}
    source = source_of("reasonmed")
    name = "reasonmed" if rendering == "all" else f"reasonmed.{rendering.lower()}"
    assert source.build_name({"rendering": rendering}) == name
    assert source.published({"rendering": rendering}) == ({"train": 1_111_555} if rendering == "all" else {})


def test_reasonmed_question_options_and_the_letter(samples: dict[str, dict[str, Sample]]) -> None:
    found = samples["reasonmed"]
    first = found["train/CoTMed/0"]
    assert (first.question or "").startswith("A 39-year-old man")
    assert [label for label, _ in first.options or ()] == ["A", "B", "C", "D"]
    letters = {key: sample.answer for key, sample in found.items() if key.startswith("train/CoTMed/")}
    # Row 2 names the option's text alone, row 5 two letters, row 6 is no multiple-choice question.
    assert list(letters.values()) == ["B", "C", None, "B", "A", None, None]
    assert found["train/CoTMed/1"].question == "Heberden's ahritis affects"  # OCR damage is the publisher's
    assert [text for _, text in found["train/CoTMed/2"].options or ()] == ["yes", "no", "maybe"]
    assert said(found["train/CoTMed/2"])[0][2].endswith("C. maybe\n\nContext: 300 adults, two arms.")
    assert len(found["train/CoTMed/4"].options or ()) == 5
    assert (found["train/CoTMed/6"].options, found["train/CoTMed/6"].answer) == (None, None)


def test_reasonmed_reasoning_is_apart_from_the_answer(samples: dict[str, dict[str, Sample]]) -> None:
    found, rows = samples["reasonmed"], {name: reasonmed.demo_rows(name) for name in ("CoTMed", "ResponseMed")}
    assert said(found["train/CoTMed/0"])[1][1:] == (rows["CoTMed"][0]["output"], "Answer: B. Peptic ulcer disease")
    assert said(found["train/CoTMed/5"])[1][1:] == (None, rows["CoTMed"][5]["output"])  # no answer is made up
    assert said(found["train/ResponseMed/0"])[1][1:] == (None, rows["ResponseMed"][0]["output"])
    _, reasoning, text = said(found["train/ReasonMed/1"])[1]
    assert (text, "<think>" in (reasoning or "")) == ("Final answer: C", False)


@pytest.mark.parametrize(
    ("output", "label"),
    [
        ("The correct answer is **B. Gout**.", "B"),
        ("Answer: (C)", "C"),
        ("**Final Answer:** D", "D"),
        ("THE ANSWER IS C)", "C"),
        ("so the answer is option A.", "A"),
        ("The answer is a combination of these.", None),
        ("The answer is A combination of these.", None),
        ("The answer is B. No: the answer is C.", None),
        ("The answer is B. Again, the answer is B.", "B"),
        ("The answer is E.", None),  # no such option
        ("Option A is wrong.", None),
    ],
)
def test_reasonmed_takes_only_a_letter_that_is_stated(output: str, label: str | None, tmp_path: Path) -> None:
    rows: Rows = [{"instruction": "Which?\nA. one\nB. two\nC. three\nD. four", "input": "", "output": output}]
    write_json(tmp_path / "CoTMed.json", rows)
    [sample] = kept(read_all("reasonmed", tmp_path, rendering="CoTMed")["train"])
    assert sample.answer == label


# --- Infinity-Instruct --------------------------------------------------------------------------------------------


def test_infinity_reads_gen_alone_and_tolerates_more_columns(demos: dict[str, Path]) -> None:
    raw = demos["infinity_instruct_gen"]
    names = pq.read_schema(raw / "Gen/train-00000-of-00015.parquet").names
    assert {"label", "langdetect", "reward"} < set(names)
    units = list(source_of("infinity_instruct_gen").plan(raw, {"no_images": True}))
    assert {file for unit in units for file in unit.inputs} == {f"Gen/train-0000{n}-of-00015.parquet" for n in (0, 1)}


def test_infinity_turns(demos: dict[str, Path], samples: dict[str, dict[str, Sample]]) -> None:
    found = {key.rpartition("train-")[2]: sample for key, sample in samples["infinity_instruct_gen"].items()}
    several = found["00000-of-00015/2"]
    assert [role for role, _, _ in said(several)] == ["user", "assistant"] * 3
    assert (several.question, several.answer) == ("Name a prime above 90.", None)
    assert [role for role, _, _ in said(found["00000-of-00015/6"])] == ["system", "user", "assistant"]
    assert found["00000-of-00015/6"].question == "Sort 3, 1, 2."
    assert (found["00000-of-00015/3"].question or "").startswith("用一句话")
    assert (found["00000-of-00015/1"].subset, found["00001-of-00015/2"].subset) == ("flan", None)
    assert several.group == {"question_id": f"infinity-instruct/{0xA3F52E9EF0E6C24C + 2:032x}"}
    rejected = reasons(read_all("infinity_instruct_gen", demos["infinity_instruct_gen"])["train"])
    assert rejected == {"empty_answer": 2, "odd_turns": 1}  # an empty reply, a missing one, and gpt that opens


def test_infinity_ids_may_be_numbers(tmp_path: Path) -> None:
    rows = [row | {"id": number} for number, row in enumerate(infinity_instruct_gen.demo_rows()[:3])]
    write_parquet(tmp_path / "Gen/train-00000-of-00001.parquet", rows)
    found = kept(read_all("infinity_instruct_gen", tmp_path)["train"])
    assert [sample.group["question_id"] for sample in found] == [f"infinity-instruct/{n}" for n in range(3)]


# --- II-Medical ---------------------------------------------------------------------------------------------------


def test_ii_medical_reasoning_apart(demos: dict[str, Path], samples: dict[str, dict[str, Sample]]) -> None:
    found = samples["ii_medical_reasoning"]
    for sample in found.values():
        for role, reasoning, text in said(sample):
            assert "think>" not in text + (reasoning or "")
            assert role == "assistant" or reasoning is None
    first, unopened = (said(found[f"train/train-00000-of-00002/{n}"])[1] for n in (0, 1))
    assert first[1:] == ("Antibiotics came first, so the colon's flora is disturbed.", "The answer is \\boxed{A}.")
    assert unopened[1] == f"{first[1]} The rest do not fit."
    second = {n: found[f"train/train-00001-of-00002/{n}"] for n in range(2, 8)}
    assert said(second[3])[1][1:] == ("首先考虑麦氏点。", "麦氏点压痛和反跳痛。")
    assert said(second[4])[1][1:] == (None, "Mostly by the liver.")  # empty tags
    assert said(second[7])[1][1:] == (None, "A sound over a vessel.")  # no tags, no model named
    assert [part for _, part, _ in said(second[5])] == [None, "A wall that bulges.", None, "Size matters."]
    assert (second[6].question, second[7].subset) == ("Define anuria.", None)  # an empty question: the prompt's
    rejected = reasons(read_all("ii_medical_reasoning", demos["ii_medical_reasoning"])["train"])
    assert rejected == {"unfinished_reasoning": 1, "empty_answer": 1}


def test_ii_medical_null_question_and_model(tmp_path: Path) -> None:
    rows = ii_medical_reasoning.demo_rows()[:3]
    for row in rows[:2]:
        row["question"] = row["model"] = None
    rows[1]["problem"] = None
    write_parquet(tmp_path / "data/train-00000-of-00001.parquet", rows)
    found = read_all("ii_medical_reasoning", tmp_path)["train"]
    assert reasons(found) == {"empty_question": 1}
    prompt, whole = kept(found)
    assert (prompt.subset, whole.subset) == (None, "deepseek-ai/DeepSeek-R1")
    assert (prompt.question or "").endswith("What is the most likely diagnosis?")
    assert len(prompt.options or ()) == 4


# --- damaged rows -------------------------------------------------------------------------------------------------

Damage = Callable[[dict[str, Any]], Any]


def drop(name: str) -> Damage:
    return lambda row: row.pop(name)


def put(name: str, value: Any) -> Damage:
    return lambda row: row.update({name: value})


def put_turn(column: str, name: str, value: Any) -> Damage:
    return lambda row: row[column][0].update({name: value})


def json_cases() -> list[tuple[str, str, Rows, Damage | str, str]]:
    """(source, file, rows, what is done to row 1 or what replaces it, reason)."""
    alpaca: list[tuple[Damage | str, str]] = [
        (damage, reason)
        for name in ("instruction", "input", "output")
        for damage, reason in (
            (drop(name), "missing_field"),
            (put(name, None), "missing_field"),
            (put(name, 7), "bad_field"),
        )
    ]
    alpaca += [("row", "bad_row"), (put("output", "half \ud800"), "not_utf8"), (put("output", " \n"), "empty_answer")]
    cases = []
    for source, file, rows in (
        ("healthcaremagic", "HealthCareMagic-100k.json", healthcaremagic.demo_rows()),
        ("alpacare_medinstruct", "MedInstruct-52k.json", alpacare_medinstruct.demo_rows()),
        ("reasonmed", "CoTMed.json", reasonmed.demo_rows("CoTMed")),
    ):
        cases += [(source, file, list(rows), damage, reason) for damage, reason in alpaca]
    asked = {"healthcaremagic": "input", "alpacare_medinstruct": "instruction", "reasonmed": "instruction"}
    cases += [(*case[:3], put(asked[case[0]], ""), "empty_question") for case in cases if case[4] == "not_utf8"]
    for damage, reason in (
        (drop("answer_icliniq"), "missing_field"),
        (put("answer_icliniq", ["x"]), "bad_field"),
        (put("answer_icliniq", ""), "empty_answer"),
        (put("input", None), "missing_field"),
        (put("input", "\t"), "empty_question"),
    ):
        cases.append(("icliniq", "iCliniq.json", list(icliniq.demo_rows()), damage, reason))
    return cases


@pytest.mark.parametrize(("name", "file", "rows", "damage", "reason"), json_cases())
def test_damaged_json_rows(name: str, file: str, rows: Rows, damage: Damage | str, reason: str, tmp_path: Path) -> None:
    params = {"rendering": "CoTMed"} if name == "reasonmed" else {}
    write_json(tmp_path / file, rows)
    before = read_all(name, tmp_path, **params)["train"]
    changed: list[Any] = copy.deepcopy(rows)
    if isinstance(damage, str):
        changed[1] = damage
    else:
        damage(changed[1])
    write_json(tmp_path / file, changed)
    check_one_reject(before, read_all(name, tmp_path, **params)["train"], 1, file, reason)


def check_one_reject(
    before: list[Sample | Reject], after: list[Sample | Reject], index: int, file: str, reason: str
) -> None:
    """Row `index` alone has become a reject, and nothing else has changed."""
    assert isinstance(before[index], Sample)
    reject = after[index]
    assert isinstance(reject, Reject)
    assert (reject.file, reject.row, reject.reason) == (file, str(index), reason)
    rest = [(outcome.row, getattr(outcome, "messages", None)) for n, outcome in enumerate(after) if n != index]
    assert rest == [(outcome.row, getattr(outcome, "messages", None)) for n, outcome in enumerate(before) if n != index]


@pytest.mark.parametrize(
    ("name", "file", "damage", "reason"),
    [
        ("infinity_instruct_gen", "Gen/a.parquet", put("id", None), "missing_field"),
        ("infinity_instruct_gen", "Gen/a.parquet", put("id", ""), "bad_id"),
        ("infinity_instruct_gen", "Gen/a.parquet", put("conversations", None), "missing_field"),
        ("infinity_instruct_gen", "Gen/a.parquet", put("conversations", []), "empty_answer"),
        ("infinity_instruct_gen", "Gen/a.parquet", put_turn("conversations", "from", "bard"), "bad_field"),
        ("infinity_instruct_gen", "Gen/a.parquet", put_turn("conversations", "from", "gpt"), "odd_turns"),
        ("infinity_instruct_gen", "Gen/a.parquet", put_turn("conversations", "value", None), "missing_field"),
        ("infinity_instruct_gen", "Gen/a.parquet", put_turn("conversations", "value", " "), "empty_question"),
        ("ii_medical_reasoning", "data/train-a.parquet", put("messages", None), "missing_field"),
        ("ii_medical_reasoning", "data/train-a.parquet", put("messages", []), "empty_answer"),
        ("ii_medical_reasoning", "data/train-a.parquet", put_turn("messages", "role", "tool"), "bad_field"),
        ("ii_medical_reasoning", "data/train-a.parquet", put_turn("messages", "role", "assistant"), "odd_turns"),
        ("ii_medical_reasoning", "data/train-a.parquet", put_turn("messages", "content", None), "missing_field"),
        ("ii_medical_reasoning", "data/train-a.parquet", put_turn("messages", "content", ""), "empty_question"),
    ],
)
def test_damaged_parquet_rows(name: str, file: str, damage: Damage, reason: str, tmp_path: Path) -> None:
    rows: Rows = importlib.import_module(f"builders.demos.{name}").demo_rows()[:6]
    write_parquet(tmp_path / file, rows)
    before = read_all(name, tmp_path)["train"]
    damage(rows[1])
    write_parquet(tmp_path / file, rows)
    check_one_reject(before, read_all(name, tmp_path)["train"], 1, file, reason)


@pytest.mark.parametrize(
    ("column", "values"),
    [("messages", ["x"] * 2), ("messages", [["x"]] * 2), ("question", [1, 2])],
)
def test_ii_medical_columns_of_another_type(column: str, values: list[Any], tmp_path: Path) -> None:
    rows = [row | {column: value} for row, value in zip(ii_medical_reasoning.demo_rows(), values, strict=False)]
    write_parquet(tmp_path / "data/train-a.parquet", rows)
    found = reasons(read_all("ii_medical_reasoning", tmp_path)["train"])
    assert found in ({"bad_field": 2}, {"bad_row": 2})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (drop("id"), "missing_field"),
        (put("id", "7"), "bad_id"),
        (put("difficulty", "6"), "bad_field"),
        (put("difficulty", 3), "bad_field"),
        (put("instruction", None), "missing_field"),
        (put("instruction", " "), "empty_question"),
    ],
)
def test_alpacare_damaged_test_rows(damage: Damage, reason: str, demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["alpacare_medinstruct"], tmp_path / "raw")
    file = raw / "data/MedInstruct-test.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    damage(lines[2])
    file.write_text("".join(json.dumps(line) + "\n" for line in lines) + "{broken\n")
    found = read_all("alpacare_medinstruct", raw)["test"]
    assert reasons(found) == {reason: 1, "bad_row": 1}
    assert [sample.key for sample in kept(found)] == ["0", "1", "3"]


# --- wrong trees --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COUNTS)
def test_empty_folder_is_not_this_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match="right folder"):
        read_all(name, tmp_path)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("healthcaremagic", "input"),
        ("icliniq", "answer_icliniq"),
        ("infinity_instruct_gen", "conversations"),
        ("ii_medical_reasoning", "messages"),
    ],
)
def test_renamed_parquet_column(name: str, column: str, demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos[name], tmp_path / name)
    for path in raw.rglob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns([n if n != column else f"{n}_v2" for n in table.column_names]), path)
    with pytest.raises(NotThisSource, match=f"no column {column}"):
        read_all(name, raw)


@pytest.mark.parametrize(
    ("name", "file", "field"),
    [
        ("alpacare_medinstruct", "data/MedInstruct-52k.json", "output"),
        ("reasonmed", "ReasonMed.json", "instruction"),
    ],
)
def test_renamed_json_field(name: str, file: str, field: str, demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos[name], tmp_path / name)
    path = raw / file
    path.write_text(path.read_text().replace(f'"{field}":', f'"{field}_v2":'))
    with pytest.raises(NotThisSource, match=f"{file}: no field {field} "):
        read_all(name, raw)


def test_two_copies_are_refused(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["healthcaremagic"], tmp_path / "raw")
    (raw / "HealthCareMagic-100k.json").write_bytes(json.dumps(healthcaremagic.demo_rows(), indent=4).encode())
    with pytest.raises(NotThisSource, match="2 copies"):
        read_all("healthcaremagic", raw)


def test_healthcaremagic_and_alpacare_are_told_apart(demos: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "data/train-00000-of-00001.parquet"
    write_parquet(file, list(alpacare_medinstruct.demo_rows()))
    with pytest.raises(NotThisSource, match="another set"):
        read_all("healthcaremagic", tmp_path)
    with pytest.raises(NotThisSource, match="HealthCareMagic"):
        read_all("alpacare_medinstruct", demos["healthcaremagic"])


def test_reasonmed_names_the_rendering_that_is_missing(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = shutil.copytree(demos["reasonmed"], tmp_path / "raw")
    (raw / "ResponseMed.json").unlink()
    assert len(read_all("reasonmed", raw, rendering="CoTMed")["train"]) == 8
    with pytest.raises(NotThisSource, match=r"ResponseMed\.json"):
        read_all("reasonmed", raw)


# --- shared helpers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which?\nA. one\nB. two", ("Which?", ["one", "two"])),
        ("Which?\n\n(A) one\n\n(B) two\n", ("Which?", ["one", "two"])),
        ("Which?\nAnswer Choices:\nA) one\nB) two\nC) three\n\nThink first.", ("Which?", ["one", "two", "three"])),
        ("Which?\nOptions:\nA: one\nB: two", ("Which?", ["one", "two"])),
        ("A. is a letter\nWhich?\nA. one\nB. two", ("A. is a letter\nWhich?", ["one", "two"])),
        ("Which?\nA. one\nB. two\n  over two lines\nC. three", None),  # an option of two lines
        ("Which?\nA. one\nC. three", None),
        ("Which?\nA. one", None),
        ("A. one\nB. two", None),  # no question
        ("Which? A. one B. two", None),
        ("Why?", None),
        ("", None),
    ],
)
def test_inline_options(text: str, expected: tuple[str, list[str]] | None) -> None:
    question, options = inline_options(text)
    if expected is None:
        assert (question, options) == (text.strip(), None)
    else:
        assert (question, [option for _, option in options or ()]) == expected
        assert [label for label, _ in options or ()] == list("ABCDEFGHIJ"[: len(expected[1])])


LINE = st.from_regex(r"[a-z][a-z ,.]{0,20}[a-z]", fullmatch=True)


@given(stem=LINE, options=st.lists(LINE, min_size=2, max_size=10))
def test_inline_options_are_those_written(stem: str, options: list[str]) -> None:
    listed = "\n".join(f"{label}. {text}" for label, text in zip("ABCDEFGHIJ", options, strict=False))
    assert inline_options(f"{stem}\n{listed}") == (stem, list(zip("ABCDEFGHIJ", options, strict=False)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>b", ("a", "b")),
        ("  <think>\na\n</think>\n\nb\n", ("a", "b")),
        ("a</think>b", ("a", "b")),
        ("<think></think>b", (None, "b")),
        ("<think>a</think> c <think>d</think>b", ("a c d", "b")),
        ("b", (None, "b")),
        ("the tag <think> is written so", (None, "the tag <think> is written so")),
    ],
)
def test_split_thinking(text: str, expected: tuple[str | None, str]) -> None:
    assert split_thinking(text, "f") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [("<think>a", "unfinished_reasoning"), ("<think>a</think> ", "empty_answer"), (" ", "empty_answer")],
)
def test_split_thinking_without_an_answer(text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        split_thinking(text, "f")
    assert caught.value.reason == reason


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.sampled_from(["", "x"])), max_size=6))
def test_dialogue_is_whole_or_refused(turns: list[tuple[str, str]]) -> None:
    try:
        messages = dialogue(turns, "f")
    except InputError as error:
        assert error.reason in {"odd_turns", "empty_question", "empty_answer"}
        return
    roles = [message["role"] for message in messages]
    talk = roles[1:] if roles[0] == "system" else roles
    assert talk == ["user", "assistant"] * (len(talk) // 2)
    assert talk
    assert [(m["role"], m["content"][0]["text"]) for m in messages] == [turn for turn in turns if turn[1]]
