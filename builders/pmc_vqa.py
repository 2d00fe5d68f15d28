"""PMC-VQA: multiple-choice questions that a language model made from PMC-OA's captions.

Version 1 (`train.csv`, `test.csv`, and `test_clean.csv`, 2,000 checked by hand) asks about whole figures,
`PMC1064097_F1.jpg`; version 2 (`train_2.csv`, `test_2.csv`) about single panels, `PMC8253797_Fig4_11.jpg`, named as in
PMC-OA. In version 1 `Answer` is the text of the answer and `Answer_label` its letter, in version 2 `Answer` is the
letter; older files spell the column `Anwser`. Options begin with their letter, ` A:...`. Version 2's `Caption` is what
the question was made from and holds the answer: it is not read.

The recipe's 188,229 is no released file and no sum of some. Version 1 is the default, as the larger training split;
`--version 2` is its own build, and its figures occur in version 1.
"""

import re
from pathlib import Path

from builders import kit
from medgpt.messages import named

FILES = {
    "1": {"train": "train.csv", "test": "test.csv", "test_clean": "test_clean.csv"},
    "2": {"train": "train_2.csv", "test": "test_2.csv"},
}
PLACES = {"1": ("images.zip", "images"), "2": ("images_2.zip", "figures", "images_2")}
_PUBLISHED = {"1": {"train": 176_948, "test": 50_000, "test_clean": 2_000}, "2": {"train": 152_603, "test": 33_430}}
ANSWERS = ("Answer", "Anwser")
LABELS = "ABCD"


def _check(raw: Path, unit: kit.Unit, params: kit.Params) -> None:
    first = next((row for row in kit.table_rows(raw, unit) if isinstance(row, kit.Row)), None)
    for names in (ANSWERS, ("Answer_label",))[: 2 if params["version"] == "1" else 1]:
        if first is not None and not any(name in first.values for name in names):
            raise kit.NotThisSource(
                f"{first.file}: no column {' or '.join(names)} (there are {named(first.values, first_row=True)}); "
                "another revision?"
            )


def _sample(row: kit.Row, picture: str, question: str, *choices: str) -> kit.Sample:
    file, values, version = row.file, row.values, row.params["version"]
    name = kit.figure_name(picture, file, panel=version == "2")
    options = [(label, _option(text, label)) for label, text in zip(LABELS, choices, strict=True)]
    written = kit.text_of(values, next(column for column in ANSWERS if column in values), file)
    label = _gold(options, written, kit.text_of(values, "Answer_label", file) if version == "1" else None, file)
    kit.check_filled(file, question=question, answer=dict(options)[label])
    kit.demand(all(text for _, text in options), "empty_option", file)
    image = kit.Image(name.image_id, *row.picture(picture), study_id=name.figure_id)
    # Both versions have a row 2: the file's name tells them apart.
    key = f"{Path(file).stem}-{row.number}"
    return kit.choice_sample(
        row, question.strip(), options, label, [image], key=key, group={"pmcid": f"pmc/{name.pmcid}"}
    )


def _option(text: str, label: str) -> str:
    """An option without its own letter: ` B:Focal uptake` is `Focal uptake`."""
    return re.sub(rf"^\s*{label}\s*:", "", text).strip()


def _gold(options: list[tuple[str, str]], written: str, letter: str | None, file: str) -> str:
    """The right option's label: `letter` if there is such a column, else `written` is a letter itself.

    A text that is word for word another option than the letter's leaves open which is right. One that is no option at
    all (a longer wording) does not contradict the letter.
    """
    label = (written if letter is None else letter).strip()
    kit.check_filled(file, answer=label)
    kit.demand(label in dict(options), "unclear_answer", file, "the letter is none of A, B, C, D")
    if letter is not None and (text := _plain(written)):
        same = [name for name, option in options if _plain(option) == text]
        if same and label not in same:
            raise kit.InputError("unclear_answer", file, f"the letter is {label}, the text is that of {same[0]}")
    return label


def _plain(text: str) -> str:
    return " ".join(re.sub(rf"^\s*[{LABELS}]\s*:", "", text).lower().split()).rstrip(".")


SOURCE = kit.table_source(
    name="pmc_vqa",
    title="PMC-VQA: multiple-choice questions about figures of open-access articles",
    revision="xiaoman-zhang/PMC-VQA@1678ec2; hub commit not known",
    layouts=(
        kit.Layout("version 1, by Answer_label", "code", "xiaoman-zhang/PMC-VQA@1678ec2", files="*train.csv"),
        kit.Layout(
            "version 2, by the order of its columns", "code", "xiaoman-zhang/PMC-VQA@1678ec2", files="*train_2.csv"
        ),
    ),
    license="CC-BY-SA",
    task="mcq",
    splits={"train": "train", "test": "eval", "test_clean": "eval"},
    obtain="""
Clone https://huggingface.co/datasets/RadGenome/PMC-VQA (git lfs), or --download --revision SHA. Version 2 has the files
train_2.csv, test_2.csv and images_2.zip (or figures/); only the files of the --version asked for are read.""",
    files=lambda params: FILES[params["version"]],
    optional=("test_clean",),  # a part of test that came later
    pictures=lambda params: PLACES[params["version"]],
    fields=("Figure_path", "Question", *(f"Choice {label}" for label in LABELS)),
    check=_check,
    sample=_sample,
    published=lambda params: _PUBLISHED[params["version"]],
    paper=(
        "188,229, which is no released file: version 1 trains on 176,948 rows, version 2 on 152,603 (186,033 with its "
        "test split). Version 1 is built here, --version 2 builds the other"
    ),
    paper_rows=kit.paper_row(
        "PMC-VQA", "IT", 188_229, "no released file: v1 train 176,948 (default), v2 train 152,603 (--version 2)"
    ),
    options=(kit.Option("--version", "1: whole figures; 2: single panels", "1", ("1", "2")),),
    variant=lambda params: "v2" if params["version"] == "2" else "",
    hub_id="RadGenome/PMC-VQA",
    hub_revision="b56ae594f794867893143b337b4118a835794647",
    hub_files=("train.csv", "test.csv", "test_clean.csv", "train_2.csv", "test_2.csv", "images.zip", "images_2.zip"),
)

if __name__ == "__main__":
    kit.run(SOURCE)
