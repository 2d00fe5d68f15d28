"""MMLU-Med: the seven medical subjects of MMLU, a benchmark.

The paper's 1,395 are the test rows of seven subjects, nutrition (306) among them; the usual six give 1,089. The sets of
a subject are `{subject}/{test,validation,dev}-*.parquet`; the hub's folders `all` and `auxiliary_train` are never read.
Rows have no ids, so `mmlu/<subject>/<split>/<row>` is the question's. Stems repeat (1,010
of them in the 1,089 rows of the usual six), items do not: nothing is dropped, the audits compare stem and options.
"""

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
_LABELS = "ABCD"


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
    hub_revision="c30699e8356da336a370243923dbaf21066bb9fe",
    revision="cais/mmlu, sizes as in stanford-cs336/assignment5-alignment@eb2c562",
    layouts=(kit.Layout("Parquet of seven subjects", "rows", "stanford-cs336/assignment5-alignment@eb2c562"),),
    license="MIT",
    stage="eval",
    task="mcq",
    splits=_SPLITS,
    obtain=f"""
--download --revision SHA, or clone the dataset cais/mmlu from https://huggingface.co. Read are the test files of all of
{", ".join(_TEST_ROWS)},
and their validation and dev files where wanted. Other folders are not read.""",
    files={split: [f"{name}/{split}-00000-of-00001*.parquet" for name in _TEST_ROWS] for split in _SPLITS},
    optional=("validation", "dev"),
    fields=("question", "subject"),
    columns=("choices", "answer"),
    sample=_sample,
    published={"test": sum(_TEST_ROWS.values()), "validation": 156, "dev": 35},
    paper="benchmark 1,395: the test rows of seven subjects, nutrition among them.",
    paper_rows=kit.paper_row("MMLU-Med", "EVAL", 1_395),
)

if __name__ == "__main__":
    kit.run(SOURCE)
