"""PMC-VQA: multiple-choice questions that a language model made from PMC-OA's captions.

Version 1 (`train.csv`, `test.csv`, and `test_clean.csv`, 2,000 checked by hand) asks about whole figures,
`PMC1064097_F1.jpg`; version 2 (`train_2.csv`, `test_2.csv`) about single panels, `PMC8253797_Fig4_11.jpg`, named as in
PMC-OA. In version 1 `Answer` is the text of the answer and `Answer_label` its letter, in version 2 `Answer` is the
letter; older files spell the column `Anwser`. Options begin with their letter, ` A:...`. Version 2's `Caption` is what
the question was made from and holds the answer: it is not read.

The recipe's 188,229 is no released file and no sum of some. Version 1 is the default, as the larger training split;
`--version 2` is its own build, and its figures occur in version 1.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builders.kit import (
    Image,
    InputError,
    NotThisSource,
    Option,
    PaperRow,
    Params,
    PictureStore,
    Reject,
    Role,
    Row,
    Sample,
    Source,
    Unit,
    assistant,
    choice_answer,
    choice_prompt,
    convert_rows,
    figure_name,
    relative,
    require,
    run,
    table_units,
    text_of,
    user,
)
from medgpt.messages import named

_SPLITS: dict[str, Role] = {"train": "train", "test": "eval", "test_clean": "eval"}
_FILES = {
    "1": {"train": "train.csv", "test": "test.csv", "test_clean": "test_clean.csv"},
    "2": {"train": "train_2.csv", "test": "test_2.csv"},
}
_PLACES = {"1": ("images.zip", "images"), "2": ("images_2.zip", "figures", "images_2")}
_PUBLISHED = {
    "1": {"train": 176_948, "test": 50_000, "test_clean": 2_000},
    "2": {"train": 152_603, "test": 33_430},
}
_ANSWERS = ("Answer", "Anwser")
_LABELS = "ABCD"
_COLUMNS = ("Figure_path", "Question", *(f"Choice {label}" for label in _LABELS))


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    version = params["version"]
    pictures: tuple[str, ...] = ()
    if not params["no_images"]:
        pictures = (relative(require(raw, "pictures (--no-images builds without)", *_PLACES[version]), raw),)
    for split, name in _FILES[version].items():
        path = raw / name
        if split == "test_clean" and not path.is_file():
            continue  # a part of test that came later
        require(raw, f"{split} file of version {version}", name)
        needed = [*_COLUMNS, _answer_column(path, raw), *(["Answer_label"] if version == "1" else [])]
        yield from table_units(raw, [path], split, _SPLITS[split], columns=needed, inputs=pictures)


def _answer_column(path: Path, raw: Path) -> str:
    """The answer's column in this file's spelling."""
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as handle:
        header = next(csv.reader(handle), [])
    for name in _ANSWERS:
        if name in header:
            return name
    raise NotThisSource(
        f"{relative(path, raw)}: no column {' or '.join(_ANSWERS)} (there are {named(header, first_row=True)}); "
        "another revision?"
    )


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    store = PictureStore(raw, unit.inputs[1:])  # after the table itself come the pictures
    return convert_rows(raw, unit, partial(_sample, store, params["version"]))


def _sample(store: PictureStore, version: str, row: Row) -> Sample:
    file, values = row.file, row.values
    picture, question = text_of(values, "Figure_path", file), text_of(values, "Question", file).strip()
    name = figure_name(picture, file, panel=version == "2")
    options = [(label, _option(text_of(values, f"Choice {label}", file), label)) for label in _LABELS]
    written = text_of(values, next(column for column in _ANSWERS if column in values), file)
    label = _gold(options, written, text_of(values, "Answer_label", file) if version == "1" else None, file)
    if not question:
        raise InputError("empty_question", file)
    if not dict(options)[label]:
        raise InputError("empty_answer", file)
    if not all(text for _, text in options):
        raise InputError("empty_option", file)
    place, read = store.reader(picture)
    return Sample(
        # Both versions have a row 2: the file's name tells them apart.
        key=f"{Path(file).stem}-{row.number}",
        messages=[user(0, choice_prompt(question, options)), assistant(choice_answer(options, label))],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=label,
        images=[Image(name.image_id, place, read, study_id=name.figure_id)],
        group={"pmcid": f"pmc/{name.pmcid}"},
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
    if not label:
        raise InputError("empty_answer", file)
    if label not in dict(options):
        raise InputError("unclear_answer", file, "the letter is none of A, B, C, D")
    if letter is not None and (text := _plain(written)):
        same = [name for name, option in options if _plain(option) == text]
        if same and label not in same:
            raise InputError("unclear_answer", file, f"the letter is {label}, the text is that of {same[0]}")
    return label


def _plain(text: str) -> str:
    return " ".join(re.sub(rf"^\s*[{_LABELS}]\s*:", "", text).lower().split()).rstrip(".")


SOURCE = Source(
    name="pmc_vqa",
    title="PMC-VQA: multiple-choice questions about figures of open-access articles",
    homepage="https://huggingface.co/datasets/RadGenome/PMC-VQA",
    revision="xiaoman-zhang/PMC-VQA@1678ec2; hub commit not known",
    license="CC-BY-SA",
    access="open",
    stage="instruct",
    task="mcq",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
Clone https://huggingface.co/datasets/RadGenome/PMC-VQA (git lfs), or --download --revision SHA. --raw is the
folder with
  version 1: train.csv  test.csv  test_clean.csv (left out if absent)  images.zip (or images/)
  version 2: train_2.csv  test_2.csv  images_2.zip (or figures/)
Only the files of the --version asked for are read; archives are read in place, and not needed with --no-images.""",
    plan=_plan,
    read=_read,
    published=lambda params: _PUBLISHED[params["version"]],
    paper=(
        "188,229, which is no released file: version 1 trains on 176,948 rows, version 2 on 152,603 (186,033 with its "
        "test split). Version 1 is built here, --version 2 builds the other"
    ),
    paper_rows=(
        PaperRow(
            "PMC-VQA", "IT", 188_229, "no released file: v1 train 176,948 (default), v2 train 152,603 (--version 2)"
        ),
    ),
    options=(Option("--version", "1: whole figures; 2: single panels", "1", ("1", "2")),),
    variant=lambda params: "v2" if params["version"] == "2" else "",
    hub_id="RadGenome/PMC-VQA",
    hub_files=("train.csv", "test.csv", "test_clean.csv", "train_2.csv", "test_2.csv", "images.zip", "images_2.zip"),
)

if __name__ == "__main__":
    run(SOURCE)
