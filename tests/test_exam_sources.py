"""Exam sets and benchmarks: MedMCQA, MedExpQA, MMLU-Med, Medbullets, MedXpertQA on demo, damaged and real rows."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from statistics import mean, pstdev
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import tree_digest
from outcomes import kept, parameters, read_all, reasons, source_of
from PIL import Image as PillowImage

from builders.demos.medmcqa import demo_rows
from builders.engine.rawfiles import DEMO_TIME
from builders.engine.source import InputError, NotThisSource, Reject, Sample
from medgpt.text import normalise

NAMES = ("medmcqa", "medexpqa", "mmlu_med", "medbullets", "medxpertqa")
Outcomes = dict[str, list[Sample | Reject]]
Rows = list[dict[str, Any]]


def text_of(sample: Sample, message: int) -> str:
    return "".join(part["text"] or "" for part in sample.messages[message]["content"])


def stems(samples: list[Sample]) -> Counter[str]:
    return Counter(normalise(sample.question or "") for sample in samples)


def items(samples: list[Sample]) -> Counter[tuple[str, ...]]:
    """What makes two samples one item: the question and the options in any order."""
    return Counter(
        (normalise(sample.question or ""), *sorted(normalise(text) for _, text in sample.options or []))
        for sample in samples
    )


def load_lines(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text().splitlines()]


def save_lines(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def save_table(path: Path, rows: Rows, schema: pa.Schema | None = None) -> None:
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, folder in folders.items():
        source_of(name).write_demo(folder)
    return folders


@pytest.fixture
def tree(demos: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Makes a private copy of a demo tree."""
    return lambda name: shutil.copytree(demos[name], tmp_path / name)


DEMO_COUNTS: dict[str, dict[str, tuple[int, dict[str, int]]]] = {
    "medmcqa": {"train": (10, {}), "validation": (3, {}), "test": (0, {"no_gold": 2})},
    "medexpqa": {"train": (8, {}), "validation": (2, {}), "test": (4, {})},
    "mmlu_med": {"test": (15, {}), "validation": (14, {}), "dev": (7, {})},
    "medbullets": {"test": (7, {"duplicate_item": 2})},
    "medxpertqa": {"mm_test": (4, {}), "mm_dev": (1, {}), "text_test": (3, {}), "text_dev": (1, {})},
}


@pytest.mark.parametrize("name", NAMES)
def test_a_demo_tree_is_the_same_every_time_small_and_undamaged(
    name: str, demos: dict[str, Path], tmp_path: Path
) -> None:
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


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_or_foreign_folder_is_not_this_source(name: str, tmp_path: Path) -> None:
    with pytest.raises(NotThisSource, match="is --raw the right folder"):
        read_all(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_list_the_options_once_and_answers_name_one(name: str, demos: dict[str, Path]) -> None:
    for found in read_all(name, demos[name]).values():
        for sample in kept(found):
            assert sample.options is not None and sample.answer is not None
            listed = "\n".join(f"{label}. {text}" for label, text in sample.options)
            assert text_of(sample, 0) == f"{sample.question}\n\n{listed}"
            answer = f"Answer: {sample.answer}. {dict(sample.options)[sample.answer]}"
            assert text_of(sample, 1).split("\n\n")[0] == answer


# --- MedMCQA ------------------------------------------------------------------------------------------------------


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


def need(folder: Path) -> Path:
    if not folder.exists():
        pytest.skip(f"no real rows at {folder}")
    return folder


# --- MedExpQA -----------------------------------------------------------------------------------------------------

TRAIN = "data/en/train.en.casimedicos.rag.jsonl"


def test_medexpqa_fifth_option_may_be_null_or_nan(demos: dict[str, Path]) -> None:
    rows = load_lines(demos["medexpqa"] / TRAIN)
    fifth = [row["options"]["5"] for row in rows]
    assert "NaN" in (demos["medexpqa"] / TRAIN).read_text()
    assert any(text is None for text in fifth) and any(isinstance(t, float) and math.isnan(t) for t in fifth)
    train = kept(read_all("medexpqa", demos["medexpqa"])["train"])
    for sample, text in zip(train, fifth, strict=True):
        assert [label for label, _ in sample.options or []] == list("12345" if isinstance(text, str) else "1234")


def test_medexpqa_leaves_retrieved_and_rewritten_text_out(demos: dict[str, Path]) -> None:
    raw = demos["medexpqa"]
    samples = [sample for found in read_all("medexpqa", raw).values() for sample in kept(found)]
    assert "RETRIEVED" in (raw / TRAIN).read_text() and "REWRITTEN" in (raw / TRAIN).read_text()
    assert not re.search("RETRIEVED|REWRITTEN", repr(samples))
    assert text_of(samples[0], 1) == "Answer: 2. Electrocardiogram\n\nElectrocardiogram: the answer is 2."
    assert text_of(samples[6], 1) == "Answer: 3. Electrocardiogram"  # no commentary


def test_medexpqa_languages_are_the_same_cases(demos: dict[str, Path]) -> None:
    source = source_of("medexpqa")
    read = {
        language: read_all("medexpqa", demos["medexpqa"], language=language) for language in ("en", "es", "fr", "it")
    }
    ids = [
        {split: [sample.group["question_id"] for sample in kept(found)] for split, found in outcomes.items()}
        for outcomes in read.values()
    ]
    assert ids[1:] == ids[:-1]
    assert len({text_of(kept(outcomes["train"])[0], 0) for outcomes in read.values()}) == 4
    names = [source.build_name(parameters(source, language=language)) for language in read]
    assert names == ["medexpqa", "medexpqa.es", "medexpqa.fr", "medexpqa.it"]


MEDEXPQA_DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("no id", {"id": None}, "missing_field"),
    ("id is text", {"id": "2"}, "bad_id"),
    ("no question", {"full_question": None}, "missing_field"),
    ("blank question", {"full_question": ""}, "empty_question"),
    ("other language", {"lang": "es"}, "bad_field"),
    ("options a list", {"options": ["a", "b"]}, "bad_field"),
    ("three options", {"options": {"1": "a", "2": "b", "3": "c"}}, "bad_field"),
    ("fourth is null", {"options": {"1": "a", "2": "b", "3": "c", "4": None, "5": None}}, "missing_field"),
    ("fifth is a number", {"options": {"1": "a", "2": "b", "3": "c", "4": "d", "5": 5.0}}, "bad_field"),
    ("no correct option", {"correct_option": None}, "missing_field"),
    ("correct option absent", {"correct_option": 6}, "bad_field"),
    ("correct option is text", {"correct_option": "3"}, "bad_field"),
    ("commentary no text", {"full_answer": 3}, "bad_field"),
    ("half a surrogate pair", {"full_question": "\ud83d"}, "not_utf8"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in MEDEXPQA_DAMAGE], ids=[case[0] for case in MEDEXPQA_DAMAGE]
)
def test_medexpqa_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("medexpqa")
    rows = load_lines(raw / TRAIN)
    rows[1] |= change
    save_lines(raw / TRAIN, rows)
    found = read_all("medexpqa", raw)["train"]
    assert (len(kept(found)), reasons(found)) == (7, {reason: 1})
    assert isinstance(found[1], Reject) and found[1].row == "2"


def test_medexpqa_broken_lines_and_missing_files(tree: Callable[[str], Path]) -> None:
    raw = tree("medexpqa")
    lines = (raw / TRAIN).read_bytes().splitlines()
    (raw / TRAIN).write_bytes(b"\n".join([lines[0], b"", lines[1][:-9], b"\xff", b"[" * 10_000, b"[]", lines[2]]))
    (raw / "data/en/test.en.casimedicos.rag.jsonl").unlink()
    outcomes = read_all("medexpqa", raw)
    assert set(outcomes) == {"train", "validation"}
    assert (len(kept(outcomes["train"])), reasons(outcomes["train"])) == (2, {"bad_row": 3, "not_utf8": 1})
    assert outcomes["train"][-1].row == "7"
    (raw / TRAIN).write_bytes(b"\n")
    with pytest.raises(NotThisSource, match="no rows"):
        read_all("medexpqa", raw)


def casimedicos(archive: tarfile.TarFile, split: str) -> Rows:
    """Cases of CasiMedicos-Arg, whose files hold one labelled token a line, in the layout of MedExpQA."""
    member = archive.extractfile(f"casimedicos-arg/EN/{split}.tsv")
    assert member is not None
    sentences = re.split(r"\n\s*\n", member.read().decode())
    text = "\n".join(" ".join(line.rpartition(" ")[0] for line in s.split("\n") if line.strip()) for s in sentences)
    rows = []
    for number, case in enumerate(re.split(r"(?m)^QUESTION TYPE: ?", text)[1:]):
        match = re.fullmatch(
            r"(.*?)\s*CLINICAL CASE: ?\n(.*?)\n(1- .*?)\s+CORRECT ANSWER: (\d)\s*(.*?)\s*", case, re.DOTALL
        )
        assert match is not None
        topic, question, options, correct, commentary = match.groups()
        parts = re.split(r"(?:^|\n)([1-5])- ?", options)[1:]
        given = {"5": None} | dict(zip(parts[::2], parts[1::2], strict=True))
        fields = {"id": number, "type": topic, "lang": "en", "full_question": question, "options": given}
        rows.append(fields | {"correct_option": int(correct), "full_answer": commentary})
    return rows


def test_medexpqa_real_cases(real_data: Path, tmp_path: Path) -> None:
    path = need(real_data / "casimedicos/casimedicos-arg.tar.gz")
    with tarfile.open(path) as archive:
        rows = {split: casimedicos(archive, split) for split in ("train", "dev", "test")}
    for split, found in rows.items():
        save_lines(tmp_path / f"data/en/{split}.en.casimedicos.rag.jsonl", found)
    outcomes = read_all("medexpqa", tmp_path)
    assert {split: len(kept(found)) for split, found in outcomes.items()} == {
        "train": 381, "validation": 55, "test": 117,
    }  # fmt: skip
    for sample, row in zip(kept(outcomes["train"]), rows["train"], strict=True):
        assert sample.answer == str(row["correct_option"]) and sample.question == row["full_question"]
        assert text_of(sample, 1).partition("\n\n")[2] == row["full_answer"]


# --- MMLU-Med -----------------------------------------------------------------------------------------------------

ANATOMY = "anatomy/test-00000-of-00001.parquet"


def test_mmlu_repeated_stems_are_kept(demos: dict[str, Path]) -> None:
    test = kept(read_all("mmlu_med", demos["mmlu_med"])["test"])
    assert max(stems(test).values()) == 3 and max(items(test).values()) == 1
    assert test[0].group == {"question_id": "mmlu/anatomy/test/0"}


def test_mmlu_needs_every_subject_and_reads_no_other(tree: Callable[[str], Path]) -> None:
    raw = tree("mmlu_med")
    expected = read_all("mmlu_med", raw)
    for other in ("auxiliary_train", "all", "astronomy"):
        shutil.copytree(raw / "anatomy", raw / other)
    assert read_all("mmlu_med", raw) == expected
    for path in raw.glob("*/dev-*"):
        path.unlink()
    assert set(read_all("mmlu_med", raw)) == {"test", "validation"}
    (raw / "nutrition/validation-00000-of-00001.parquet").unlink()
    with pytest.raises(NotThisSource, match=r"no nutrition/validation.*1 of 7"):
        read_all("mmlu_med", raw)
    shutil.rmtree(raw / "nutrition")
    with pytest.raises(NotThisSource, match="no nutrition/test"):
        read_all("mmlu_med", raw)


MMLU_DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("no question", {"question": None}, "missing_field"),
    ("blank question", {"question": " "}, "empty_question"),
    ("no answer", {"answer": None}, "missing_field"),
    ("answer too large", {"answer": 4}, "bad_field"),
    ("answer negative", {"answer": -1}, "bad_field"),
    ("no choices", {"choices": None}, "missing_field"),
    ("three choices", {"choices": ["a", "b", "c"]}, "bad_field"),
    ("choice null", {"choices": ["a", "b", None, "d"]}, "bad_field"),
    ("gold choice blank", {"choices": ["a", " ", "c", "d"]}, "empty_answer"),
    ("other subject", {"subject": "astronomy"}, "bad_field"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in MMLU_DAMAGE], ids=[case[0] for case in MMLU_DAMAGE]
)
def test_mmlu_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("mmlu_med")
    table = pq.read_table(raw / ANATOMY)
    rows = table.to_pylist()
    rows[1] |= change
    save_table(raw / ANATOMY, rows, table.schema)
    found = read_all("mmlu_med", raw)["test"]
    assert (len(kept(found)), reasons(found)) == (14, {reason: 1})


def test_mmlu_renamed_column_and_broken_file(tree: Callable[[str], Path]) -> None:
    raw = tree("mmlu_med")
    table = pq.read_table(raw / ANATOMY)
    pq.write_table(table.rename_columns(["input", "subject", "choices", "answer"]), raw / ANATOMY)
    with pytest.raises(NotThisSource, match="no column question"):
        read_all("mmlu_med", raw)
    (raw / ANATOMY).write_bytes(b"PAR1")
    with pytest.raises(NotThisSource, match="not readable as Parquet"):
        read_all("mmlu_med", raw)


def test_mmlu_real_rows(real_data: Path) -> None:
    raw = need(real_data / "mmlu")
    outcomes = read_all("mmlu_med", raw)
    counts = {split: len(kept(found)) for split, found in outcomes.items()}
    assert counts == source_of("mmlu_med").published({}) == {"test": 1_395, "validation": 156, "dev": 35}
    test = kept(outcomes["test"])
    assert Counter(sample.subset for sample in test) == {
        "anatomy": 135, "clinical_knowledge": 265, "college_biology": 144, "college_medicine": 173,
        "medical_genetics": 100, "nutrition": 306, "professional_medicine": 272,
    }  # fmt: skip
    six = [sample for sample in test if sample.subset != "nutrition"]
    assert (len(six), len(stems(six))) == (1_089, 1_010)
    rows = [
        row for subject in sorted({s.subset or "" for s in test})
        for row in pq.read_table(raw / subject / "test-00000-of-00001.parquet").to_pylist()
    ]  # fmt: skip
    for sample, row in zip(test, rows, strict=True):
        assert (sample.question, [text for _, text in sample.options or []]) == (row["question"], row["choices"])
        assert sample.answer == "ABCD"[row["answer"]]


# --- Medbullets ---------------------------------------------------------------------------------------------------

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


# --- MedXpertQA ---------------------------------------------------------------------------------------------------


def as_github(rows: Rows) -> Rows:
    """Hub rows in the repository's shape."""
    shaped = []
    for row in rows:
        options = [{"letter": letter, "content": text} for letter, text in row["options"].items()]
        shaped.append(row | {"options": options, "label": [row["label"]]})
        if "images" in row:
            shaped[-1]["images"] = [{"image_path": name} for name in row["images"]]
    return shaped


def test_medxpertqa_reads_both_shapes(demos: dict[str, Path], tmp_path: Path) -> None:
    raw = demos["medxpertqa"]
    folder = tmp_path / "eval/data/medxpertqa/input"
    for name, kind in (("MM", "mm"), ("Text", "text")):
        save_lines(folder / f"medxpertqa_{kind}_input.jsonl", as_github(load_lines(raw / name / "test.jsonl")))
    with zipfile.ZipFile(raw / "images.zip") as archive:
        archive.extractall(tmp_path / "eval")
    hub, github = read_all("medxpertqa", raw, no_images=False), read_all("medxpertqa", tmp_path, no_images=False)
    assert set(github) == {"mm_test", "text_test"}
    for split, found in github.items():
        for one, other in zip(kept(found), kept(hub[split]), strict=True):
            assert (one.key, one.messages, one.options, one.answer) == (
                other.key, other.messages, other.options, other.answer,
            )  # fmt: skip
            assert [image.read() for image in one.images] == [image.read() for image in other.images]
            assert [image.image_id for image in one.images] == [image.image_id for image in other.images]


def test_medxpertqa_strips_the_inline_options(demos: dict[str, Path], tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    outcomes = read_all("medxpertqa", raw)
    rows = load_lines(raw / "Text/test.jsonl")
    assert all("\nAnswer Choices: (A)" in row["question"] for row in rows)
    assert not any("Answer Choices" in repr(sample) for found in outcomes.values() for sample in found)
    # A copy with the options stripped reads the same.
    save_lines(raw / "Text/test.jsonl", [r | {"question": r["question"].partition("\nAnswer")[0]} for r in rows])
    assert read_all("medxpertqa", raw)["text_test"] == outcomes["text_test"]


def test_medxpertqa_pictures_come_before_the_text_and_decode(demos: dict[str, Path]) -> None:
    samples = kept(read_all("medxpertqa", demos["medxpertqa"], no_images=False)["mm_test"])
    assert [len(sample.images) for sample in samples] == [1, 2, 1, 3]
    kinds = [part["index"] for part in samples[3].messages[0]["content"]]
    assert kinds == [0, 1, 2, None]
    data = {image.image_id: image.read() for sample in samples for image in sample.images}
    for content in data.values():
        assert max(PillowImage.open(io.BytesIO(content)).size) <= 96
    assert data["medxpertqa/MM-0-a.jpeg"] == data["medxpertqa/MM-2-a.JPG"]
    assert len(set(data.values())) == 6
    assert {sample.task for sample in samples} == {"vqa"}
    text = kept(read_all("medxpertqa", demos["medxpertqa"])["text_test"])
    assert {sample.task for sample in text} == {"mcq"} and not any(sample.images for sample in text)
    assert {len(sample.options or []) for sample in text} == {10}


def test_medxpertqa_planted_stems(demos: dict[str, Path]) -> None:
    outcomes = read_all("medxpertqa", demos["medxpertqa"])
    mm = kept(outcomes["mm_test"])
    assert max(stems(mm).values()) == 2 and max(items(mm).values()) == 1
    bullets = kept(read_all("medbullets", demos["medbullets"])["test"])
    assert len(stems(bullets).keys() & stems(kept(outcomes["text_test"])).keys()) == 1


@pytest.mark.parametrize("split", ["mm_test", "text_test"])
def test_medxpertqa_builds_what_is_there(split: str, tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    folder = {"mm_test": "MM", "text_test": "Text"}[split]
    for path in raw.rglob("*.jsonl"):
        if path != raw / folder / "test.jsonl":
            path.unlink()
    assert set(read_all("medxpertqa", raw, no_images=False)) == {split}
    (raw / "images.zip").unlink()
    assert set(read_all("medxpertqa", raw)) == {split}
    if split == "mm_test":
        with pytest.raises(NotThisSource, match="--no-images"):
            read_all("medxpertqa", raw, no_images=False)
    else:
        assert read_all("medxpertqa", raw, no_images=False)


def test_medxpertqa_missing_picture_and_broken_archive(tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    with zipfile.ZipFile(raw / "images.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        for name, data in members.items():
            if not name.endswith("MM-1-b.png"):
                archive.writestr(name.removeprefix("images/"), data)  # as `zip -j` packs them
    samples = kept(read_all("medxpertqa", raw, no_images=False)["mm_test"])
    assert samples[1].images[0].read()
    with pytest.raises(InputError) as caught:
        samples[1].images[1].read()
    assert caught.value.reason == "missing_image"
    (raw / "images.zip").write_bytes(b"PK\x03\x04")
    with pytest.raises(NotThisSource, match="not a readable zip"):
        read_all("medxpertqa", raw, no_images=False)


MEDXPERTQA_DAMAGE: list[tuple[str, dict[str, Any], str]] = [
    ("no id", {"id": None}, "missing_field"),
    ("id that names no file", {"id": "MM 1"}, "bad_id"),
    ("no options", {"options": None}, "missing_field"),
    ("options are text", {"options": "(A) x"}, "bad_field"),
    ("one option", {"options": {"A": "x"}}, "bad_field"),
    ("letters with a gap", {"options": {"A": "x", "C": "y"}, "label": "A"}, "bad_field"),
    ("option no text", {"options": {"A": "x", "B": 2}, "label": "A"}, "bad_field"),
    ("option without a letter", {"options": [{"content": "x"}], "label": ["A"]}, "missing_field"),
    ("option that is no object", {"options": ["x", "y"], "label": ["A"]}, "bad_row"),
    ("label of no option", {"label": "Z"}, "bad_field"),
    ("two labels", {"label": ["A", "B"]}, "bad_field"),
    ("no label", {"label": None}, "missing_field"),
    ("blank stem", {"question": "\nAnswer Choices: (A) x"}, "empty_question"),
    ("other type", {"question_type": "Guessing"}, "bad_field"),
    ("no images", {"images": None}, "missing_field"),
    ("empty images", {"images": []}, "bad_field"),
    ("images are text", {"images": "MM-1-a.jpeg"}, "bad_field"),
    ("image path leaves", {"images": ["../MM-1-a.jpeg"]}, "bad_field"),
    ("image is a number", {"images": [1]}, "bad_field"),
    ("image without a path", {"images": [{"path": "MM-1-a.jpeg"}]}, "missing_field"),
]


@pytest.mark.parametrize(
    ("change", "reason"), [case[1:] for case in MEDXPERTQA_DAMAGE], ids=[case[0] for case in MEDXPERTQA_DAMAGE]
)
def test_medxpertqa_damaged_rows(change: dict[str, Any], reason: str, tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    rows = load_lines(raw / "MM/test.jsonl")
    rows[1] |= change
    save_lines(raw / "MM/test.jsonl", rows)
    found = read_all("medxpertqa", raw, no_images=False)["mm_test"]
    assert (len(kept(found)), reasons(found)) == (3, {reason: 1})


def test_medxpertqa_text_row_with_images(tree: Callable[[str], Path]) -> None:
    raw = tree("medxpertqa")
    rows = load_lines(raw / "Text/test.jsonl")
    rows[0]["images"] = ["MM-0-a.jpeg"]
    rows[1]["images"] = []
    save_lines(raw / "Text/test.jsonl", rows)
    found = read_all("medxpertqa", raw)["text_test"]
    assert (len(kept(found)), reasons(found)) == (2, {"bad_field": 1})


def test_medxpertqa_real_rows(real_data: Path) -> None:
    raw = need(real_data / "medxpertqa")
    outcomes = read_all("medxpertqa", raw)
    mm, text = kept(outcomes["mm_test"]), kept(outcomes["text_test"])
    assert (len(mm), len(text)) == (2_000, 244)
    counts = [len(sample.images) for sample in mm]
    assert (round(mean(counts), 3), round(pstdev(counts), 3), sum(counts)) == (1.426, 1.038, 2_852)
    assert (len(mm) - len(stems(mm)), len(text) - len(stems(text))) == (70, 0)
    assert Counter(sample.subset for sample in mm) == {"reasoning": 1_446, "understanding": 554}
    for folder, samples in (("MM", mm), ("Text", text)):
        for sample, row in zip(samples, load_lines(raw / folder / "test.jsonl"), strict=True):
            listed = " ".join(f"({letter}) {option}" for letter, option in row["options"].items())
            assert f"{sample.question}\nAnswer Choices: {listed}" == row["question"]
            assert (sample.key, sample.answer) == (row["id"], row["label"])
