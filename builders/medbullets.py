"""Medbullets: USMLE step 2 and 3 questions posted since 2022, with 4 or 5 options; a benchmark.

Both releases have 308 rows, ten of which repeat the question of an earlier one: 298 questions, the paper's number. In
the 5-option files the repeats are identical; in the 4-option files six of the ten come with other wrong options (two
with another letter), but always with the same answer text. Repeats are rejected as `duplicate_item`, the first stays.
The paper does not say 4 or 5 options: 4 is the default, as for MedQA. The two releases list the questions in different
orders, so a question is known by its link. The CSV files have one row a question, the JSON files one object a column
(`{"question": {"0": ...}}`); both hold the same text.
"""

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders import kit

_LINK = re.compile(r"https?://(?:bit\.ly/(?P<short>\w+)|step[23]\.medbullets\.com/testview\?qid=(?P<qid>[0-9]+))")


def _options(params: kit.Params) -> dict[str, str]:
    """Label to column."""
    return {letter.upper(): f"op{letter}" for letter in "abcde"[: int(params["options"])]}


def _columns(params: kit.Params) -> tuple[str, ...]:
    return "link", "question", *_options(params).values(), "answer_idx", "answer", "explanation"


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    names = [f"medbullets_op{params['options']}.{suffix}" for suffix in ("csv", "json")]
    candidates = [f"{folder}{name}" for folder in ("medbullets/", "") for name in names]
    path = kit.require(raw, f"questions with {params['options']} options", *candidates)
    if path.suffix == ".csv":
        # One unit, whatever its size: repeats are found within a unit.
        yield from kit.table_units(raw, [path], "test", "eval", columns=_columns(params), rows_per_unit=1 << 30)
    else:
        file, rows = kit.relative(path, raw), len(_column_rows(path, raw, params))
        yield kit.Unit("test-00000", "test", "eval", rows, {"file": file}, (file,))


def _column_rows(path: Path, raw: Path, params: kit.Params) -> list[kit.Row]:
    """Rows of a column-oriented JSON file; a cell that a column lacks is absent from its row."""
    columns, file = kit.load_json(path, raw), kit.relative(path, raw)
    rows: dict[str, dict[str, Any]] = {}
    for name in _columns(params):
        cells = columns.get(name) if isinstance(columns, dict) else None
        if not isinstance(cells, dict):
            raise kit.NotThisSource(f"{file}: no column {name}; is it the column-oriented JSON of the repository?")
        for number, cell in cells.items():
            rows.setdefault(number, {})[name] = cell
    # By number, since a row whose first cell is absent was met late; the first of two repeats must be the first row.
    return [kit.Row(file, number, rows[number]) for number in sorted(rows, key=lambda number: (len(number), number))]


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    path, options = raw / unit.payload["file"], _options(params)
    rows = kit.table_rows(raw, unit) if path.suffix == ".csv" else _column_rows(path, raw, params)
    seen: dict[str, str] = {}
    for made in kit.outcomes(rows, partial(_sample, columns=options)):
        if isinstance(made, kit.Sample):
            words = " ".join((made.question or "").split())
            if words in seen:
                made = kit.Reject(made.file, made.row, "duplicate_item", f"the question of row {seen[words]}")
            else:
                seen[words] = made.row
        yield made


def _sample(row: kit.Row, columns: dict[str, str]) -> kit.Sample:
    file, values = row.file, row.values
    link = _LINK.fullmatch(kit.text_of(values, "link", file))
    if link is None:
        raise kit.InputError("bad_id", file, "link is neither bit.ly/... nor step2.medbullets.com/testview?qid=...")
    question, explanation = kit.text_of(values, "question", file), kit.text_of(values, "explanation", file)
    options = [(label, kit.text_of(values, column, file)) for label, column in columns.items()]
    label, answer = kit.text_of(values, "answer_idx", file), kit.text_of(values, "answer", file)
    kit.demand(answer == dict(options).get(label, answer), "bad_field", file, "answer is not the text of answer_idx")
    key = link["qid"] or f"bitly-{link['short']}"
    group = {"question_id": f"medbullets/{key}"}
    return kit.choice_sample(row, question, options, label, explanation=explanation, key=key, group=group)


SOURCE = kit.Source(
    name="medbullets",
    title="Medbullets: USMLE step 2 and 3 questions",
    homepage="https://github.com/HanjieChen/ChallengeClinicalQA",
    revision="HanjieChen/ChallengeClinicalQA@ef3c9da03fc1",
    layouts=(kit.Layout("CSV and JSON by columns", "rows", "HanjieChen/ChallengeClinicalQA@ef3c9da"),),
    license="unstated",
    access="open",
    stage="eval",
    task="mcq",
    splits={"test": "eval"},
    obtain="""
Clone https://github.com/HanjieChen/ChallengeClinicalQA. --raw is the clone, or a folder with
  medbullets_op4.csv or medbullets_op4.json, and for --options 5 medbullets_op5.csv or medbullets_op5.json
The repository has no licence and Medbullets content is copyrighted: use it for evaluation only.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"test": 308},
    paper=(
        "benchmark 298: the 308 rows less ten repeated questions, for 4 and 5 options alike. The paper does not say 4 "
        "or 5; 4 is the default here, as for MedQA."
    ),
    paper_rows=kit.paper_row(
        "Medbullets", "EVAL", 298, "308 rows, ten of them repeats; 4 options, --options 5 for five"
    ),
    options=(kit.Option("--options", "options a question: the 4-option or the 5-option file", "4", ("4", "5")),),
    variant=lambda params: "5opt" if params["options"] == "5" else "",
)

if __name__ == "__main__":
    kit.run(SOURCE)
