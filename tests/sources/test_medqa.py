"""medqa: the traps of its rows, damaged rows, other layouts, real rows where they are at hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from outcomes import kept, parameters, read_all, source_of
from source_cases import (
    FUZZ,
    check_reject,
    damages,
    emptied,
    text_of,
)

from builders.engine.source import NotThisSource


def test_medqa_reads_the_shared_rows(real_data: Path) -> None:
    # The shared file that is named train holds the 1,272 dev items.
    raw = real_data / "medqa_usmle_4_options"
    outcomes = read_all("medqa", raw)
    assert {split: len(kept(found)) for split, found in outcomes.items()} == {"train": 1_272, "test": 1_273}
    rows = [json.loads(line) for line in (raw / "phrases_no_exclude_test.jsonl").open()]
    for sample, row in zip(kept(outcomes["test"]), rows, strict=True):
        assert sample.options == list(row["options"].items())
        assert (sample.question, sample.answer) == (row["question"], row["answer_idx"])
        assert text_of(sample, 1) == f"Answer: {row['answer_idx']}. {row['answer']}"


def test_medqa_never_reads_the_file_with_all_splits(demos: dict[str, Path]) -> None:
    assert (demos["medqa"] / "data_clean/questions/US/US_qbank.jsonl").is_file()
    for options, variant in (("4", "medqa"), ("5", "medqa.5opt")):
        outcomes = read_all("medqa", demos["medqa"], options=options)
        assert {split: len(found) for split, found in outcomes.items()} == {"train": 36, "dev": 12, "test": 12}
        assert all(len(sample.options or []) == int(options) for found in outcomes.values() for sample in kept(found))
        source = source_of("medqa")
        assert source.build_name(parameters(source, options=options)) == variant


OPTIONS = b'"options": {"A": "a", "B": "b", "C": "c", "D": "d"}'


MEDQA_FAULTS: list[tuple[bytes, str]] = [
    (b'{"question": "cut', "bad_row"),
    (b"[" * 100_000, "bad_row"),
    (b"9" * 5_000, "bad_row"),
    (b"17", "bad_row"),
    (b"\xff\xfe{}", "not_utf8"),
    (b"{}", "missing_field"),
    (b'{"question": "a", "options": {"A": "a", "B": "b", "C": "c"}}', "bad_field"),
    (b'{"question": "a", "options": {"A": "a", "B": "b", "C": "c", "D": 4}}', "bad_field"),
    (b'{"question": "a", "options": ["a", "b", "c", "d"]}', "bad_field"),
    (b'{"question": "a", %b, "answer_idx": "E", "answer": "d"}' % OPTIONS, "bad_field"),
    (b'{"question": "a", %b, "answer_idx": "A", "answer": "b"}' % OPTIONS, "bad_field"),
    (b'{"question": "a", %b, "answer_idx": "A"}' % OPTIONS, "missing_field"),
    (b'{"question": " ", %b, "answer_idx": "A", "answer": "a"}' % OPTIONS, "empty_question"),
    (b'{"question": "\\ud800", "options": {}}', "not_utf8"),
]


@pytest.mark.parametrize(("line", "reason"), MEDQA_FAULTS, ids=lambda value: str(value)[:60])
def test_medqa_names_what_is_wrong_with_a_line(tree: Callable[[str], Path], line: bytes, reason: str) -> None:
    raw = tree("medqa")
    file = "data_clean/questions/US/4_options/phrases_no_exclude_test.jsonl"
    lines = (raw / file).read_bytes().split(b"\n")
    # A byte order mark, a blank line and Windows line ends are no damage; numbers stay those of an editor.
    (raw / file).write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([lines[0], b"", line, *lines[3:]]))
    found = read_all("medqa", raw)["test"]
    assert (len(found), len(kept(found))) == (11, 10)
    check_reject(found[1], file, "3", reason)


@FUZZ
@given(data=st.data())
def test_no_line_of_medqa_is_lost(demos: dict[str, Path], scratch: Path, data: st.DataObject) -> None:
    path = demos["medqa"] / "data_clean/questions/US/4_options/phrases_no_exclude_dev.jsonl"
    rows = [json.loads(line) for line in path.read_bytes().splitlines()]
    data.draw(damages(list(rows[0])))(rows)
    damaged = [json.dumps(row).encode() for row in rows]
    noise = st.binary(max_size=8).map(lambda junk: junk.replace(b"\n", b" "))
    for index in data.draw(st.lists(st.integers(0, len(damaged) - 1), max_size=3)):
        cut = data.draw(st.integers(0, len(damaged[index])))
        damaged[index] = damaged[index][:cut] + data.draw(noise)
    raw = emptied(scratch)
    (raw / "phrases_no_exclude_dev.jsonl").write_bytes(b"\n".join(damaged) + b"\n")
    first = damaged[0].removeprefix(b"\xef\xbb\xbf")
    filled = sum(bool(line.strip()) for line in [first, *damaged[1:]])
    if filled:
        assert len(read_all("medqa", raw)["dev"]) == filled
    else:
        with pytest.raises(NotThisSource):
            read_all("medqa", raw)
