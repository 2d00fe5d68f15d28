"""MedQA, the US (USMLE-style) questions, with 4 or 5 options.

The publisher's folder also holds `US_qbank.jsonl` with all splits in one file, so files are found by their exact names,
never by a pattern. Questions have no ids: `medqa/<split>-<line>` is the question id in both the 4- and the 5-option
build, on the understanding that the publisher made the 4-option files line by line from the others (not verified).
"""

from builders import kit

SPLITS: dict[str, kit.Role] = {"train": "train", "dev": "eval", "test": "eval"}
NAMES = {"4": "phrases_no_exclude_{}.jsonl", "5": "{}.jsonl"}
LABELS = "ABCDE"
_FOLDERS = {
    "4": ("data_clean/questions/US/4_options/", "questions/US/4_options/", ""),
    "5": ("data_clean/questions/US/", "questions/US/"),
}


def _files(params: kit.Params) -> dict[str, tuple[str, ...]]:
    count = params["options"]
    return {split: tuple(folder + NAMES[count].format(split) for folder in _FOLDERS[count]) for split in SPLITS}


def _sample(row: kit.Row, question: str) -> kit.Sample:
    options = kit.lettered(
        kit.field_of(row.values, "options", row.file), LABELS[: int(row.params["options"])], row.file
    )
    label, answer = kit.text_of(row.values, "answer_idx", row.file), kit.text_of(row.values, "answer", row.file)
    if answer != dict(options).get(label, answer):
        raise kit.InputError("bad_field", row.file, "answer is not the text of answer_idx")
    group = {"question_id": f"medqa/{row.split}-{row.number}"}
    return kit.choice_sample(row, question, options, label, group=group)


SOURCE = kit.table_source(
    name="medqa",
    title="MedQA (US): USMLE-style multiple-choice questions",
    homepage="https://github.com/jind11/MedQA",
    revision="jind11/MedQA@27b02f66aac2",
    layouts=(kit.Layout("GitHub's US questions", "rows", "jind11/MedQA@27b02f6, UCSC-VLAA/MedReason@02b51f1 (test)"),),
    license="MIT",
    task="mcq",
    splits=SPLITS,
    obtain="""
Download data_clean.zip (Google Drive, linked from the README of https://github.com/jind11/MedQA) and unpack it; or the
two files of https://huggingface.co/datasets/GBaker/MedQA-USMLE-4-options (no dev split). Missing splits are left out.
For --options 5, [data_clean/]questions/US/{train,dev,test}.jsonl are read.""",
    files=_files,
    several=True,
    optional=tuple(SPLITS),
    layout="python-jsonl",
    fields=("question",),
    columns=("options", "answer_idx", "answer"),
    sample=_sample,
    published={"train": 10_178, "dev": 1_272, "test": 1_273},
    paper=(
        "train 10,178, benchmark 1,273: the publisher's US train and test. The paper does not say 4 or 5 options; "
        "4 is the default here, as in MedEvalKit and lm-eval."
    ),
    options=(kit.Option("--options", "options a question: the 4-option or the 5-option files", "4", ("4", "5")),),
    variant=lambda params: "5opt" if params["options"] == "5" else "",
    paper_rows=(
        kit.PaperRow("MedQA", "IT", 10_178),
        kit.PaperRow("MedQA", "EVAL", 1_273, "4 options by default (--options 5); the paper does not say"),
    ),
    hub_id="GBaker/MedQA-USMLE-4-options",
    hub_revision="0fb93dd23a7339b6dcd27e241cb9b5eca62d4d18",
    hub_files=("phrases_no_exclude_train.jsonl", "phrases_no_exclude_test.jsonl"),
)

if __name__ == "__main__":
    kit.run(SOURCE)
