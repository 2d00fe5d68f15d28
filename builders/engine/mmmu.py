"""Rows of MMMU and MMMU-Pro: `<image i>` in a question or an option stands for column `image_i`."""

import re

from builders.engine.rawfiles import check_filled, text_of
from builders.engine.source import InputError, Sample, assistant, choice_answer, choice_prompt, demand, user
from builders.engine.tables import Row, column_image
from builders.engine.texts import labelled, python_literal, texts_of

SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)
"""Health & Medicine: configurations of MMMU, values of `subject` in MMMU-Pro."""
IMAGE_COLUMNS = tuple(f"image_{number}" for number in range(1, 8))

IMAGE_TOKEN = re.compile(r"<image\s*(\d+)>")
_ID = re.compile(r"(?:dev|validation|test)_[A-Za-z_]+_\d+")


def question_sample(
    row: Row, pictures: str, subset: str, *, open_ended: bool = False, unnamed_too: bool = False
) -> Sample:
    """A row of MMMU or MMMU-Pro; `pictures` is the namespace of its images, its question id is MMMU's in both.

    With `unnamed_too` pictures that no token names are shown before the text, and such rows counted.
    """
    file, values = row.file, row.values
    key, asked, answer = (text_of(values, name, file) for name in ("id", "question", "answer"))
    demand(_ID.fullmatch(key), "bad_id", file, "id is not <split>_<subject>_<number>")
    check_filled(file, question=asked, answer=answer)
    if open_ended:
        options, prompt, said = None, asked, _accepted(answer)[0]
    else:
        options = labelled(texts_of(values, "options", file, spelt=True), file)
        demand(answer in dict(options), "bad_field", file, f"the answer names none of the {len(options)} options")
        prompt, said = choice_prompt(asked, options), choice_answer(options, answer)
        if IMAGE_TOKEN.search(said):  # an answer cannot show the picture that its option is
            said = f"Answer: {answer}"
    parts, numbers = _placed(prompt)
    cells = [values.get(name) for name in IMAGE_COLUMNS]
    pictured = [number for number, cell in enumerate(cells, 1) if isinstance(cell, dict) and cell.get("bytes")]
    if unnamed_too and (unnamed := [number for number in pictured if number not in numbers]):
        row.note("shown_unnamed", question=key)
        shifted = [part + len(unnamed) if isinstance(part, int) else part for part in parts]
        parts, numbers = [*range(len(unnamed)), *shifted], [*unnamed, *numbers]
    demand(numbers, "bad_field", file, "neither question nor options name an image")
    if unknown := [number for number in numbers if f"image_{number}" not in IMAGE_COLUMNS]:
        raise InputError("bad_field", file, f"there is no image {unknown[0]}")
    return Sample(
        key=key,
        messages=[user(*parts), assistant(said)],
        file=file,
        row=row.number,
        # The tokens are no words of the question; one that has no words but them is in the picture.
        question=IMAGE_TOKEN.sub(" ", asked).strip() or asked,
        options=options,
        answer=answer,
        images=[column_image(row, f"image_{number}", f"{pictures}/{key}/image_{number}") for number in numbers],
        group={"question_id": f"mmmu/{key}"},
        subset=subset,
        task="vqa" if open_ended else None,
    )


def _accepted(answer: str) -> list[str]:
    """Answers that count for an open question: one text, or several as the text of a Python list."""
    several = python_literal(answer) if answer.startswith("[") else None
    if isinstance(several, list) and several and all(isinstance(text, str) and text.strip() for text in several):
        return several
    return [answer]


def _placed(prompt: str) -> tuple[list[str | int], list[int]]:
    """(parts of the message, numbers of the image columns): each image stands where its token stood first.

    A later mention of the same image becomes words: a sample shows each of its images once.
    """
    parts: list[str | int] = []
    numbers: list[int] = []
    text = ""
    for index, piece in enumerate(IMAGE_TOKEN.split(prompt)):
        if index % 2 == 0:
            text += piece
        elif int(piece) in numbers:
            text += f"image {numbers.index(int(piece)) + 1}"
        else:
            parts += [text, len(numbers)] if text.strip() else [len(numbers)]
            numbers.append(int(piece))
            text = ""
    return ([*parts, text] if text.strip() else parts), numbers
