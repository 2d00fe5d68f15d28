"""What the tests of several sources share: demo trees, rows to read and write, damage."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from outcomes import Outcomes, kept, read_all

from builders.engine.source import Reject, Sample
from medgpt.text import normalise, question_sha256


def read_in_order(name: str, raw: Path, **given: Any) -> Outcomes:
    """As `read_all`, of a source whose rows are numbered and come in order; answers may be unknown."""
    outcomes = read_all(name, raw, unanswered=True, **given)
    for found in outcomes.values():
        for file in {outcome.file for outcome in found}:
            numbers = [int(outcome.row) for outcome in found if outcome.file == file]
            assert numbers == sorted(numbers)
    return outcomes


def text_of(sample: Sample, message: int) -> str:
    return "".join(part["text"] or "" for part in sample.messages[message]["content"])


Rows = list[dict[str, Any]]


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


def need(folder: Path) -> Path:
    if not folder.exists():
        pytest.skip(f"no real rows at {folder}")
    return folder


def image_ids(outcomes: list[Sample | Reject]) -> set[str]:
    return {sample.images[0].image_id for sample in kept(outcomes)}


def load(path: Path) -> Any:
    return json.loads(path.read_bytes())


def same_samples(one: Outcomes, other: Outcomes) -> bool:
    """Whether two readings have the same keys and messages in the same order."""

    def shown(outcomes: Outcomes) -> dict[str, list[Any]]:
        return {split: [(s.key, s.messages) for s in kept(found)] for split, found in outcomes.items()}

    return shown(one) == shown(other)


LONE_SURROGATE = "\ud800"


def edited(path: Path, index: int, change: dict[str, Any] | Any, drop: str = "") -> None:
    """Change fields of one row of a JSON array, or replace the row with something that is no object."""
    rows = load(path)
    rows[index] = rows[index] | change if isinstance(change, dict) else change
    if drop:
        del rows[index][drop]
    path.write_text(json.dumps(rows))


def check_reject(outcome: Sample | Reject, file: str, row: str, reason: str) -> None:
    assert isinstance(outcome, Reject)
    assert (outcome.file, outcome.row, outcome.reason) == (file, row, reason)


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=6),
    st.sampled_from([LONE_SURROGATE, "../..", "xmlab1/source.jpg", "synpic10001.jpg", "yes", "A", "zh", "frame"]),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from("ABCDE"), st.text(max_size=3), max_size=5),
)


FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def emptied(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@st.composite
def damages(draw: st.DrawFn, fields: list[str]) -> Callable[[list[Any]], None]:
    """A change to a list of rows: fields dropped or replaced, rows replaced, repeated or removed."""
    kinds = st.sampled_from(["drop", "set", "row", "repeat", "cut"])
    steps = draw(st.lists(st.tuples(st.integers(0, 10_000), kinds, st.sampled_from(fields), JUNK), max_size=5))

    def apply(rows: list[Any]) -> None:
        for place, step, name, junk in steps:
            if not rows:
                return
            index = place % len(rows)
            if step == "row":
                rows[index] = junk
            elif step == "repeat":
                rows.append(rows[index])
            elif step == "cut":
                del rows[index]
            elif isinstance(rows[index], dict):
                rows[index] = {field: value for field, value in rows[index].items() if field != name}
                if step == "set":
                    rows[index][name] = junk

    return apply


def said(sample: Sample) -> list[tuple[str, str | None, str]]:
    """(role, reasoning, text) of each message."""
    return [(message["role"], message["reasoning"], message["content"][0]["text"]) for message in sample.messages]


def write_json(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def sha(sample: Sample) -> tuple[bytes | None, bytes | None]:
    return question_sha256(sample.question, [text for _, text in sample.options or ()])


Damage = Callable[[dict[str, Any]], Any]


def drop(name: str) -> Damage:
    return lambda row: row.pop(name)


def put(name: str, value: Any) -> Damage:
    return lambda row: row.update({name: value})


FILES = {
    "huatuo_o1": "medical_o1_verifiable_problem.json",
    "medical_r1_distill": "medical_r1_distill_sft.json",
    "medthoughts_8k": "MedThoughts-8K.jsonl",
    "medreason": "ours_quality_33000.jsonl",
}


def load_rows(name: str, raw: Path) -> list[Any]:
    data = (raw / FILES[name]).read_text(encoding="utf-8")
    return [json.loads(line) for line in data.splitlines()] if FILES[name].endswith("l") else list(json.loads(data))


def save_rows(name: str, raw: Path, rows: list[Any]) -> None:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    text = "\n".join(lines) if FILES[name].endswith("l") else f"[{', '.join(lines)}]"
    (raw / FILES[name]).write_text(text, encoding="utf-8")
