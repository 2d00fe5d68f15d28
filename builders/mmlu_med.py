"""MMLU-Med: the seven medical subjects of MMLU, a benchmark.

The paper's 1,395 are the test rows of seven subjects, nutrition (306) among them; the usual six give 1,089. The sets of
a subject are `{subject}/{test,validation,dev}-*.parquet`; the hub's folders `all` and `auxiliary_train` are never read.
Rows have no ids, so `mmlu/<subject>/<split>/<row>` is the question's. Stems repeat (1,010
of them in the 1,089 rows of the usual six), items do not: nothing is dropped, the audits compare stem and options.
"""

from collections.abc import Iterator
from pathlib import Path

from builders import kit

_SPLITS: dict[str, kit.Role] = {"test": "eval", "validation": "eval", "dev": "eval"}
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


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    for split, role in _SPLITS.items():
        files = {
            subject: kit.first_existing(raw, f"{subject}/{split}-00000-of-00001*.parquet") for subject in _TEST_ROWS
        }
        missing = [subject for subject, path in files.items() if path is None]
        if len(missing) == len(files) and split != "test":
            continue
        if missing:
            raise kit.NotThisSource(
                f"{raw}: no {missing[0]}/{split}-00000-of-00001.parquet ({len(missing)} of {len(files)} subjects lack "
                f"their {split} file); is --raw the right folder?"
            )
        yield from kit.table_units(raw, [path for path in files.values() if path], split, role, columns=_COLUMNS)


def _sample(row: kit.Row, question: str, subject: str) -> kit.Sample:
    file = row.file
    kit.demand(subject == file.partition("/")[0], "bad_field", file, "subject is not the folder's")
    choices = kit.texts_of(row.values, "choices", file)
    kit.demand(len(choices) == len(_LABELS), "bad_field", file, f"choices are not {len(_LABELS)}")
    answer = kit.index_of(row.values, "answer", file, len(_LABELS))
    kit.check_filled(file, question=question, answer=choices[answer])
    options, key = list(zip(_LABELS, choices, strict=True)), f"{subject}/{row.number}"
    group = {"question_id": f"mmlu/{subject}/{row.split}/{row.number}"}
    return kit.choice_sample(row, question, options, _LABELS[answer], key=key, group=group, subset=subject)


SOURCE = kit.table_source(
    name="mmlu_med",
    title="MMLU-Med: the seven medical subjects of MMLU",
    hub_id="cais/mmlu",
    revision="cais/mmlu, sizes as in stanford-cs336/assignment5-alignment@eb2c562",
    license="MIT",
    stage="eval",
    task="mcq",
    splits=_SPLITS,
    obtain=f"""
--download --revision SHA, or clone the dataset cais/mmlu from https://huggingface.co. Read are the test files of all of
{", ".join(_TEST_ROWS)},
and their validation and dev files where wanted. Other folders are not read.""",
    files={split: f"<subject>/{split}-00000-of-00001*.parquet" for split in _SPLITS},
    fields=("question", "subject"),
    columns=("choices", "answer"),
    plan=_plan,
    sample=_sample,
    published={"test": sum(_TEST_ROWS.values()), "validation": 156, "dev": 35},
    paper="benchmark 1,395: the test rows of seven subjects, nutrition among them.",
    paper_rows=kit.paper_row("MMLU-Med", "EVAL", 1_395),
    hub_files=tuple(f"{subject}/{split}-*.parquet" for subject in _TEST_ROWS for split in _SPLITS),
)

if __name__ == "__main__":
    kit.run(SOURCE)
