"""MMLU-Med: the seven medical subjects of MMLU, a benchmark.

The paper's 1,395 are the test rows of seven subjects, nutrition (306) among them; the usual six give 1,089. The sets of
a subject are `{subject}/{test,validation,dev}-*.parquet`; the hub's folders `all` and `auxiliary_train` are never read.
Rows have no ids, so `mmlu/<subject>/<split>/<row>` is the question's. Stems repeat (1,010
of them in the 1,089 rows of the usual six), items do not: nothing is dropped, the audits compare stem and options.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builders.kit import (
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Reject,
    Role,
    Row,
    Sample,
    Source,
    Unit,
    assistant,
    checked_text,
    choice_answer,
    choice_prompt,
    convert_rows,
    field_of,
    first_existing,
    run,
    table_units,
    text_of,
    user,
)

_SPLITS: dict[str, Role] = {"test": "eval", "validation": "eval", "dev": "eval"}
_TEST_ROWS = {
    "anatomy": 135,
    "clinical_knowledge": 265,
    "college_biology": 144,
    "college_medicine": 173,
    "medical_genetics": 100,
    "nutrition": 306,
    "professional_medicine": 272,
}
"""Subjects and the sizes of their test sets."""
_COLUMNS = ("question", "subject", "choices", "answer")
_LABELS = "ABCD"


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, role in _SPLITS.items():
        files = {subject: first_existing(raw, f"{subject}/{split}-00000-of-00001*.parquet") for subject in _TEST_ROWS}
        missing = [subject for subject, path in files.items() if path is None]
        if len(missing) == len(files) and split != "test":
            continue
        if missing:
            raise NotThisSource(
                f"{raw}: no {missing[0]}/{split}-00000-of-00001.parquet ({len(missing)} of {len(files)} subjects lack "
                f"their {split} file); is --raw the right folder?"
            )
        yield from table_units(raw, [path for path in files.values() if path], split, role, columns=_COLUMNS)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, partial(_sample, split=unit.split))


def _sample(row: Row, split: str) -> Sample:
    file, values = row.file, row.values
    subject = text_of(values, "subject", file)
    if subject != file.partition("/")[0]:
        raise InputError("bad_field", file, "subject is not the folder's")
    question, choices, answer = (field_of(values, column, file) for column in ("question", "choices", "answer"))
    if not isinstance(choices, list) or len(choices) != len(_LABELS):
        raise InputError("bad_field", file, f"choices are not {len(_LABELS)}")
    if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(_LABELS):
        raise InputError("bad_field", file, f"answer is not 0 to {len(_LABELS) - 1}")
    options = [
        (label, checked_text(text, f"choice {label}", file)) for label, text in zip(_LABELS, choices, strict=True)
    ]
    if not checked_text(question, "question", file).strip():
        raise InputError("empty_question", file)
    if not choices[answer].strip():
        raise InputError("empty_answer", file)
    label = _LABELS[answer]
    return Sample(
        key=f"{subject}/{row.number}",
        messages=[user(choice_prompt(question, options)), assistant(choice_answer(options, label))],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=label,
        group={"question_id": f"mmlu/{subject}/{split}/{row.number}"},
        subset=subject,
    )


SOURCE = Source(
    name="mmlu_med",
    title="MMLU-Med: the seven medical subjects of MMLU",
    homepage="https://huggingface.co/datasets/cais/mmlu",
    revision="cais/mmlu, sizes as in stanford-cs336/assignment5-alignment@eb2c562",
    license="MIT",
    access="open",
    stage="eval",
    task="mcq",
    modality="text",
    splits=_SPLITS,
    obtain=f"""
--download --revision SHA, or clone the dataset cais/mmlu from https://huggingface.co. --raw is the folder with
  <subject>/test-00000-of-00001.parquet, and where wanted <subject>/validation-... and <subject>/dev-...
for all of {", ".join(_TEST_ROWS)}.
Other folders are not read.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"test": sum(_TEST_ROWS.values()), "validation": 156, "dev": 35},
    paper="benchmark 1,395: the test rows of seven subjects, nutrition among them.",
    paper_rows=(PaperRow("MMLU-Med", "EVAL", 1_395),),
    hub_id="cais/mmlu",
    hub_files=tuple(f"{subject}/{split}-*.parquet" for subject in _TEST_ROWS for split in _SPLITS),
)

if __name__ == "__main__":
    run(SOURCE)
