"""What holds of many sources: small and equal demo trees, planted overlaps, damaged rows, wrong trees."""

from __future__ import annotations

import copy
import importlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from conftest import tree_digest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import kept, parameters, read_all, reasons, source_of
from PIL import Image as PillowImage
from source_cases import (
    FILES,
    FUZZ,
    Damage,
    Rows,
    damages,
    drop,
    emptied,
    load,
    load_rows,
    put,
    read_in_order,
    same_samples,
    save_rows,
    sha,
    text_of,
    write_json,
    write_parquet,
)

from builders import medqa as medqa_builder
from builders.demos import (
    alpacare_medinstruct,
    healthcaremagic,
    icliniq,
    reasonmed,
)
from builders.engine.command import main
from builders.engine.demo_files import DEMO_TIME
from builders.engine.source import DAMAGED_REASONS, NotThisSource, Reject, Sample
from medgpt.text import normalise
from shards.reader import Build

EXAMS = ("medmcqa", "medexpqa", "mmlu_med", "medbullets", "medxpertqa")


DEMO_COUNTS: dict[str, dict[str, tuple[int, dict[str, int]]]] = {
    "medmcqa": {"train": (10, {}), "validation": (3, {}), "test": (0, {"no_gold": 2})},
    "medexpqa": {"train": (8, {}), "validation": (2, {}), "test": (4, {})},
    "mmlu_med": {"test": (15, {}), "validation": (14, {}), "dev": (7, {})},
    "medbullets": {"test": (7, {"duplicate_item": 2})},
    "medxpertqa": {"mm_test": (4, {}), "mm_dev": (1, {}), "text_test": (3, {}), "text_dev": (1, {})},
}


@pytest.mark.parametrize("name", EXAMS)
def test_exams_demo_trees(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    source_of(name).write_demo(tmp_path)
    assert tree_digest(tmp_path) == tree_digest(demos[name])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mtime for path in files} == {DEMO_TIME}
    assert sum(path.stat().st_size for path in files) <= 200_000
    outcomes = read_all(name, tmp_path, no_images=False)
    assert {split: (len(kept(found)), reasons(found)) for split, found in outcomes.items()} == DEMO_COUNTS[name]
    for split, found in outcomes.items():
        samples = kept(found)
        assert len({sample.key for sample in samples}) == len(samples)
        assert all(sample.group["question_id"] for sample in samples), split


@pytest.mark.parametrize("name", EXAMS)
def test_an_empty_or_foreign_folder_is_not_this_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match="is --raw the right folder"):
        read_all(name, tmp_path)


@pytest.mark.parametrize("name", EXAMS)
def test_prompts_list_the_options_once_and_answers_name_one(name: str, demos: dict[str, Path]) -> None:
    for found in read_all(name, demos[name]).values():
        for sample in kept(found):
            assert sample.options is not None and sample.answer is not None
            listed = "\n".join(f"{label}. {text}" for label, text in sample.options)
            assert text_of(sample, 0) == f"{sample.question}\n\n{listed}"
            answer = f"Answer: {sample.answer}. {dict(sample.options)[sample.answer]}"
            assert text_of(sample, 1).split("\n\n")[0] == answer


SMALL = ("pubmedqa", "slake", "vqa_rad", "medquad", "medqa")


@pytest.mark.parametrize("name", SMALL)
def test_a_demo_tree_is_the_same_every_time_and_undamaged(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    source = source_of(name)
    source.write_demo(tmp_path)
    assert tree_digest(tmp_path) == tree_digest(demos[name])
    assert {path.stat().st_mtime for path in tmp_path.rglob("*") if path.is_file()} == {DEMO_TIME}
    outcomes = read_all(name, tmp_path, no_images=False)
    assert set(outcomes) == set(source.splits)
    for found in outcomes.values():
        assert not reasons(found).keys() & DAMAGED_REASONS.keys()
        keys = [sample.key for sample in kept(found)]
        assert keys and len(set(keys)) == len(keys)


@pytest.mark.parametrize("name", ["slake", "vqa_rad"])
def test_pictures_of_a_demo_tree_decode_from_folder_and_zip(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    folder = {"slake": "imgs", "vqa_rad": "VQA_RAD Image Folder"}[name]
    for path in demos[name].glob("*.json"):
        shutil.copy(path, tmp_path)
    with zipfile.ZipFile(tmp_path / f"{folder}.zip", "w") as archive:
        for path in sorted((demos[name] / folder).rglob("*.*")):
            archive.write(path, path.relative_to(demos[name]))
    from_folder, from_zip = (read_all(name, raw, no_images=False) for raw in (demos[name], tmp_path))
    for split, found in from_folder.items():
        for one, other in zip(kept(found), kept(from_zip[split]), strict=True):
            (picture,), (zipped,) = one.images, other.images
            assert (one.key, one.messages, picture.image_id) == (other.key, other.messages, zipped.image_id)
            data = picture.read()
            assert data == zipped.read()
            PillowImage.open(io.BytesIO(data)).load()


@pytest.mark.parametrize("name", ["slake", "vqa_rad"])
def test_picture_files_enter_the_unit_key(name: str, demos: dict[str, Path]) -> None:
    source = source_of(name)
    for unit in source.plan(demos[name], parameters(source, no_images=False)):
        pictures = [path for path in unit.inputs if path.endswith((".jpg", ".JPG"))]
        assert pictures and all((demos[name] / path).is_file() for path in unit.inputs)
    assert not any("jpg" in path for unit in source.plan(demos[name], parameters(source)) for path in unit.inputs)


def by_id(name: str, raw: Path, **params: Any) -> dict[str, Sample]:
    """Kept samples under `<split>/<key>`."""
    outcomes = read_all(name, raw, **params)
    return {f"{split}/{sample.key}": sample for split, found in outcomes.items() for sample in kept(found)}


def words(sample: Sample) -> str:
    assert sample.question
    return normalise(sample.question)


def item(sample: Sample) -> list[str]:
    """What makes two multiple-choice samples equal: the question and the options in any order."""
    return [words(sample), *sorted(normalise(text) for _, text in sample.options or [])]


def test_planted_text_of_pubmedqa_and_medqa(demos: dict[str, Path]) -> None:
    pubmedqa = by_id("pubmedqa", demos["pubmedqa"])
    copy, original = pubmedqa["train/90000029"], pubmedqa["test/90000030"]
    assert copy.question != original.question
    assert item(copy) == item(original)
    reworded, question = words(pubmedqa["train/90000031"]), words(pubmedqa["test/90000032"])
    assert reworded != question
    assert set(question.split()) - set(reworded.split()) == {"does", "reduce"}
    for options in ("4", "5"):
        medqa = by_id("medqa", demos["medqa"], options=options)
        copy, original = medqa["train/36"], medqa["test/3"]
        assert copy.options != original.options
        assert item(copy) == item(original)


@pytest.mark.parametrize("name", ["pubmedqa", "medqa"])
def test_a_demo_has_no_equal_text_but_the_planted(name: str, demos: dict[str, Path]) -> None:
    outcomes = read_all(name, demos[name])
    questions = {split: [words(sample) for sample in kept(found)] for split, found in outcomes.items()}
    assert all(len(set(found)) == len(found) for found in questions.values())
    assert len(set(questions["train"]) & set(questions["test"])) == 1


def test_files_may_lie_directly_in_the_raw_folder(demos: dict[str, Path], tmp_path: Path) -> None:
    for name, folder in (("pubmedqa", "data"), ("medqa", "data_clean/questions/US/4_options")):
        shutil.copytree(demos[name] / folder, tmp_path / name)
        assert same_samples(read_all(name, tmp_path / name), read_all(name, demos[name]))
    shutil.copytree(demos["medqa"] / "data_clean", tmp_path / "clean")
    for options in ("4", "5"):
        assert same_samples(
            read_all("medqa", tmp_path / "clean", options=options), read_all("medqa", demos["medqa"], options=options)
        )
    (tmp_path / "medqa/phrases_no_exclude_dev.jsonl").unlink()
    assert set(read_all("medqa", tmp_path / "medqa")) == {"train", "test"}


def broken_trees() -> Iterator[Any]:
    def case(name: str, label: str, spoil: Callable[[Path], object], **params: Any) -> Any:
        return pytest.param(name, spoil, params, id=f"{name}-{label}")

    main_file = {
        "pubmedqa": "data/ori_pqal.json",
        "slake": "test.json",
        "vqa_rad": "testset.json",
        "medqa": "data_clean/questions/US/4_options/phrases_no_exclude_dev.jsonl",
    }
    for name in SMALL:
        yield case(name, "empty folder", lambda raw: [shutil.rmtree(raw), raw.mkdir()])
    for name, file in main_file.items():
        yield case(name, "empty file", lambda raw, file=file: (raw / file).write_bytes(b""))
        if name == "medqa":
            continue
        for label, data in {
            "not UTF-8": b'["\xff"]',
            "cut short": b'[{"qid": 1',
            "not the right JSON": b"7",
            "nested too deeply": b"[" * 200_000,
            "a number without end": b"9" * 5_000,
        }.items():
            yield case(name, label, lambda raw, file=file, data=data: (raw / file).write_bytes(data))
        yield case(name, "missing", lambda raw, file=file: (raw / file).unlink())
    for name, folder in (("slake", "imgs"), ("vqa_rad", "VQA_RAD Image Folder")):
        yield case(name, "no pictures", lambda raw, folder=folder: shutil.rmtree(raw / folder), no_images=False)

        def spoil_zip(raw: Path, folder: str = folder) -> None:
            shutil.rmtree(raw / folder)
            (raw / f"{folder}.zip").write_bytes(b"PK no zip")

        yield case(name, "broken zip", spoil_zip, no_images=False)

    def spoil_archive(raw: Path, data: bytes, name: str) -> None:
        shutil.rmtree(raw)
        raw.mkdir()
        (raw / name).write_bytes(data)

    yield case("medquad", "broken tar", lambda raw: spoil_archive(raw, b"\x1f\x8b\x08\x00" + bytes(20), "a.tar.gz"))
    yield case("medquad", "broken zip", lambda raw: spoil_archive(raw, b"PK", "a.zip"))


@pytest.mark.parametrize(("name", "spoil", "params"), list(broken_trees()))
def test_a_broken_tree_is_refused_in_one_line(
    name: str, spoil: Callable[[Path], object], params: dict[str, Any], demos: dict[str, Path], tmp_path: Path
) -> None:
    raw = shutil.copytree(demos[name], tmp_path / name)
    spoil(raw)
    with pytest.raises(NotThisSource) as caught:
        read_all(name, raw, **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file", "split"),
    [("slake", "train.json", "train"), ("vqa_rad", "trainset.json", "train"), ("vqa_rad", "testset.json", "test")],
)
@FUZZ
@given(data=st.data())
def test_no_row_of_a_json_array_is_lost(
    name: str, file: str, split: str, demos: dict[str, Path], scratch: Path, data: st.DataObject
) -> None:
    rows = load(demos[name] / file)
    data.draw(damages(list(rows[0])))(rows)
    raw = emptied(scratch)
    for path in demos[name].glob("*.json"):
        shutil.copy(path, raw)
    (raw / file).write_text(json.dumps(rows))
    assert len(read_all(name, raw)[split]) == len(rows)


# split: (rows of the demo, samples)
INSTRUCTIONS = {
    "healthcaremagic": {"train": (11, 9)},
    "icliniq": {"train": (8, 7)},
    "alpacare_medinstruct": {"train": (9, 8), "test": (4, 4)},
    "reasonmed": {"train": (23, 21)},
    "infinity_instruct_gen": {"train": (11, 8)},
    "ii_medical_reasoning": {"train": (12, 10)},
}


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_instructions_demo_counts(name: str, demos: dict[str, Path], samples: dict[str, dict[str, Sample]]) -> None:
    outcomes = read_in_order(name, demos[name])
    assert {split: (len(found), len(kept(found))) for split, found in outcomes.items()} == INSTRUCTIONS[name]
    assert not {reason for found in outcomes.values() for reason in reasons(found)} & DAMAGED_REASONS.keys()
    assert len(samples[name]) == sum(count for _, count in INSTRUCTIONS[name].values()), "keys repeat"


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_demo_is_small_and_always_the_same(name: str, demos: dict[str, Path], tmp_path: Path) -> None:
    source_of(name).write_demo(tmp_path)
    assert tree_digest(tmp_path) == tree_digest(demos[name])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mtime for path in files} == {DEMO_TIME}
    assert sum(path.stat().st_size for path in files) <= 200_000


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_demo_builds(name: str, tmp_path: Path) -> None:
    source = source_of(name)
    folders = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "out")]
    assert main(source, ["--demo", "--quiet", "--workers", "1", *folders]) == 0
    build = Build(tmp_path / "out" / name)
    assert len(build) == sum(count for _, count in INSTRUCTIONS[name].values())
    assert {build[i].record["license"] for i in range(len(build))} == {source.license}


@pytest.mark.parametrize("name", INSTRUCTIONS)
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


def test_planted_overlaps_are_there(samples: dict[str, dict[str, Sample]], tmp_path: Path) -> None:
    medqa_builder.SOURCE.write_demo(tmp_path)
    medqa = {
        f"{split}/{sample.key}": sample
        for split, found in read_in_order("medqa", tmp_path).items()
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
    before = read_in_order(name, tmp_path, **params)["train"]
    changed: list[Any] = copy.deepcopy(rows)
    if isinstance(damage, str):
        changed[1] = damage
    else:
        damage(changed[1])
    write_json(tmp_path / file, changed)
    check_one_reject(before, read_in_order(name, tmp_path, **params)["train"], 1, file, reason)


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
    before = read_in_order(name, tmp_path)["train"]
    damage(rows[1])
    write_parquet(tmp_path / file, rows)
    check_one_reject(before, read_in_order(name, tmp_path)["train"], 1, file, reason)


@pytest.mark.parametrize("name", INSTRUCTIONS)
def test_empty_folder_is_not_this_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match="right folder"):
        read_in_order(name, tmp_path)


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
        read_in_order(name, raw)


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
        read_in_order(name, raw)


def test_healthcaremagic_and_alpacare_are_told_apart(demos: dict[str, Path], tmp_path: Path) -> None:
    file = tmp_path / "data/train-00000-of-00001.parquet"
    write_parquet(file, list(alpacare_medinstruct.demo_rows()))
    with pytest.raises(NotThisSource, match="another set"):
        read_in_order("healthcaremagic", tmp_path)
    with pytest.raises(NotThisSource, match="HealthCareMagic"):
        read_in_order("alpacare_medinstruct", demos["healthcaremagic"])


REASONING = ("huatuo_o1", "medical_r1_distill", "medthoughts_8k", "medreason", "patient_trial")


@pytest.mark.parametrize("name", REASONING)
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
def test_reasoning_demo_counts(name: str, count: int, rejected: dict[str, int], demos: dict[str, Path]) -> None:
    found = read_all(name, demos[name])["train"]
    assert (len(kept(found)), reasons(found)) == (count, rejected)


DAMAGE: tuple[tuple[str, str, Any, str], ...] = (
    ("huatuo_o1", "Ground-True Answer", None, "missing_field"),
    ("huatuo_o1", "Ground-True Answer", "dropped", "missing_field"),
    ("huatuo_o1", "Open-ended Verifiable Question", ["a list"], "bad_field"),
    ("huatuo_o1", "Open-ended Verifiable Question", " ", "empty_question"),
    ("medical_r1_distill", "reasoning (reasoning_content)", "dropped", "missing_field"),
    ("medical_r1_distill", "response (content)", 3, "bad_field"),
    ("medthoughts_8k", "question_id", "dropped", "missing_field"),
    ("medthoughts_8k", "question_id", "a" * 91, "bad_id"),
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
    name: str, field: str, value: Any, reason: str, tree: Callable[[str], Path]
) -> None:
    raw = tree(name)
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
def test_broken_rows_are_rejected_alone(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
    rows = load_rows(name, raw)
    broken = ["[1, 2]", '{"question": '] if FILES[name].endswith("l") else ["[1, 2]", '"text"']
    save_rows(name, raw, [rows[0], *broken, *rows[1:]])
    found = read_all(name, raw)["train"]
    assert [outcome.reason for outcome in found[1:3] if isinstance(outcome, Reject)] == ["bad_row", "bad_row"]
    assert len(found) == len(rows) + 2


@pytest.mark.parametrize("name", FILES)
def test_a_renamed_column_is_another_revision(name: str, tree: Callable[[str], Path]) -> None:
    raw = tree(name)
    rows = load_rows(name, raw)
    field = next(key for key in rows[0] if "uestion" in key and "id" not in key)
    save_rows(name, raw, [{("Q" if key == field else key): value for key, value in row.items()} for row in rows])
    with pytest.raises(NotThisSource, match="another revision"):
        read_all(name, raw)
    (raw / FILES[name]).unlink()
    with pytest.raises(NotThisSource, match="is --raw the right folder"):
        read_all(name, raw)
