"""medexpqa: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import math
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from outcomes import kept, parameters, read_all, reasons, source_of
from source_cases import (
    Rows,
    load_lines,
    need,
    save_lines,
    text_of,
)

from builders.engine.source import NotThisSource, Reject

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
