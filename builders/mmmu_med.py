"""MMMU-Med: the five Health & Medicine subjects of MMMU, dev and validation, 25 + 150 questions.

The paper's "MMMU-Med (dev), 175" is this sum (reference `sources.md`, section 3, 16). Five validation questions are
open: they stay, as task `vqa`, so that whoever scores multiple choice alone says over how many. `<image i>` in a
question or an option stands for column `image_i`, whatever the order of the tokens. `question_sample` serves
`mmmu_pro_med` too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import partial
from hashlib import blake2b
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from builders.engine.rawfiles import checked_text, field_of, require, text_of, write_demo_parquet
from builders.engine.source import (
    Image,
    InputError,
    PaperRow,
    Params,
    Reject,
    Role,
    Sample,
    Source,
    Unit,
    assistant,
    choice_answer,
    choice_prompt,
    user,
)
from builders.engine.tables import Row, convert_rows, table_units

SUBJECTS = (
    "Basic_Medical_Science",
    "Clinical_Medicine",
    "Diagnostics_and_Laboratory_Medicine",
    "Pharmacy",
    "Public_Health",
)
"""Health & Medicine: configurations of MMMU, values of `subject` in MMMU-Pro."""
IMAGE_COLUMNS = tuple(f"image_{number}" for number in range(1, 8))

_SPLITS: dict[str, Role] = {"dev": "eval", "validation": "eval"}
_COLUMNS = ("id", "question", "options", "answer", "question_type", *IMAGE_COLUMNS)
_TOKEN = re.compile(r"<image\s*(\d+)>")
_ID = re.compile(r"(?:dev|validation|test)_[A-Za-z_]+_\d+")
_OPEN = {"multiple-choice": False, "open": True}


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, role in _SPLITS.items():
        files = []
        for subject in SUBJECTS:
            require(raw, f"{split} file of {subject}", f"{subject}/{split}-*.parquet")
            files += sorted(raw.glob(f"{subject}/{split}-*.parquet"))
        yield from table_units(raw, files, split, role, columns=_COLUMNS)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


def _sample(row: Row) -> Sample:
    kind = text_of(row.values, "question_type", row.file)
    if kind not in _OPEN:
        raise InputError("bad_field", row.file, "question_type is neither multiple-choice nor open")
    return question_sample(row, "mmmu", row.file.split("/")[-2], open_ended=_OPEN[kind])


def question_sample(row: Row, pictures: str, subset: str, *, open_ended: bool = False) -> Sample:
    """A row of MMMU or MMMU-Pro; `pictures` is the namespace of its images, its question id is MMMU's in both."""
    file, values = row.file, row.values
    key, asked, answer = (text_of(values, name, file) for name in ("id", "question", "answer"))
    if not _ID.fullmatch(key):
        raise InputError("bad_id", file, "id is not <split>_<subject>_<number>")
    if not asked.strip():
        raise InputError("empty_question", file)
    if not answer.strip():
        raise InputError("empty_answer", file)
    if open_ended:
        options, prompt, said = None, asked, _accepted(answer)[0]
    else:
        options = labelled(option_texts(field_of(values, "options", file), file), file)
        if answer not in dict(options):
            raise InputError("bad_field", file, f"the answer names none of the {len(options)} options")
        prompt, said = choice_prompt(asked, options), choice_answer(options, answer)
        if _TOKEN.search(said):  # an answer cannot show the picture that its option is
            said = f"Answer: {answer}"
    parts, numbers = _placed(prompt)
    if not numbers:
        raise InputError("bad_field", file, "neither question nor options name an image")
    if unknown := [number for number in numbers if f"image_{number}" not in IMAGE_COLUMNS]:
        raise InputError("bad_field", file, f"there is no image {unknown[0]}")
    return Sample(
        key=key,
        messages=[user(*parts), assistant(said)],
        file=file,
        row=row.number,
        # The tokens are no words of the question; one that has no words but them is in the picture.
        question=_TOKEN.sub(" ", asked).strip() or asked,
        options=options,
        answer=answer,
        images=[column_image(row, f"image_{number}", f"{pictures}/{key}/image_{number}") for number in numbers],
        group={"question_id": f"mmmu/{key}"},
        subset=subset,
        task="vqa" if open_ended else None,
    )


def option_texts(value: Any, file: str) -> list[str]:
    """Options as a list, which the publisher ships as the text of a Python list."""
    if isinstance(value, str):
        value = _literal(value)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError("bad_field", file, "options is not a list of texts")
    return [checked_text(text, "options", file) for text in value]


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def labelled(texts: list[str], file: str) -> list[tuple[str, str]]:
    """Options under letters from A: as many as the row has, never a fixed number."""
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise InputError("bad_field", file, f"{len(texts)} options")
    return list(zip(ascii_uppercase, texts, strict=False))


def _accepted(answer: str) -> list[str]:
    """Answers that count for an open question: one text, or several as the text of a Python list."""
    several = _literal(answer) if answer.startswith("[") else None
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
    for index, piece in enumerate(_TOKEN.split(prompt)):
        if index % 2 == 0:
            text += piece
        elif int(piece) in numbers:
            text += f"image {numbers.index(int(piece)) + 1}"
        else:
            parts += [text, len(numbers)] if text.strip() else [len(numbers)]
            numbers.append(int(piece))
            text = ""
    return ([*parts, text] if text.strip() else parts), numbers


def column_image(row: Row, column: str, image_id: str) -> Image:
    """The picture in an image column of the hub (`{"bytes", "path"}`); a row file without pixels has no such column."""
    file = f"{row.file}!{row.number}.{column}"
    value = row.values.get(column)
    data = value.get("bytes") if isinstance(value, dict) else None
    if column in row.values and not isinstance(data, bytes):
        raise InputError("missing_image", row.file, column)
    return Image(image_id, file, partial(_stored, data, file))


def _stored(data: bytes | None, file: str) -> bytes:
    if data is None:
        raise InputError("missing_image", file, "this copy has no pixels")
    if not data:
        raise InputError("empty_file", file)
    return data


PLANTED: dict[str, str] = {
    "question": "validation_Pharmacy_1 and validation_Public_Health_2 are in mmmu_pro_med's demo too, by the same ids",
}
"""What the demo tree shares with that of `mmmu_pro_med`."""

# Question, options (none: an open question), answer.
DEMO_QUESTIONS: tuple[tuple[str, list[str], str], ...] = (
    ("Which chamber does the arrow in <image 1> point to?", ["Left atrium", "Right atrium", "Aorta"], "B"),
    (
        "Compare <image 2> with the earlier <image 1>. What has grown?",
        ["The nodule", "The heart", "It's 'nothing'"],
        "A",
    ),
    ("Which curve is that of a competitive antagonist?", ["<image 3>", "<image 1>", "<image 2>", "None"], "C"),
    ("<image 1> The stain in <image 1> is typical of which cell?", ["Mast cell", "Neutrophil"], "A"),
    ("How many half-lives does <image 1> show?", [], "['4', 'four']"),
    ("Which organ is marked in <image 1>?", [], "Spleen"),
)


def demo_picture(name: str, picture_format: str = "PNG") -> bytes:
    """A small grey picture, different for every name."""
    import io

    from PIL import Image as Pillow

    cells = Pillow.frombytes("L", (8, 8), blake2b(name.encode(), digest_size=64).digest())
    buffer = io.BytesIO()
    cells.resize((32, 32), Pillow.Resampling.BICUBIC).save(buffer, picture_format)
    return buffer.getvalue()


def demo_row(key: str, number: int) -> dict[str, Any]:
    """A row with all of the publisher's columns but those that tell MMMU and MMMU-Pro apart."""
    question, options, answer = DEMO_QUESTIONS[number]
    tokens = set(_TOKEN.findall(question + "".join(options)))
    images = {
        column: {"bytes": demo_picture(f"{key}/{column}"), "path": f"{key}_{column[-1]}.png"}
        if column[-1] in tokens
        else None
        for column in IMAGE_COLUMNS
    }
    return {
        "id": key,
        "question": f"{question} (case {key.replace('_', ' ')})",
        "options": str(options),
        "explanation": "",
        **images,
        "img_type": "['Diagrams']",
        "answer": answer,
        "topic_difficulty": "Medium",
    }


def _write_demo(raw: Path) -> None:
    for place, subject in enumerate(SUBJECTS):
        chosen = {"dev": [place % 4], "validation": [(place + 1) % 4, (place + 2) % 4]}
        if subject in ("Basic_Medical_Science", "Pharmacy"):
            chosen["validation"].append(4 if subject == "Pharmacy" else 5)
        for split, numbers in chosen.items():
            rows = [
                demo_row(f"{split}_{subject}_{index}", number)
                | {"question_type": "multiple-choice" if DEMO_QUESTIONS[number][1] else "open", "subfield": subject}
                for index, number in enumerate(numbers, 1)
            ]
            write_demo_parquet(raw / subject / f"{split}-00000-of-00001.parquet", rows)


SOURCE = Source(
    name="mmmu_med",
    title="MMMU-Med: Health & Medicine of MMMU, dev and validation",
    homepage="https://huggingface.co/datasets/MMMU/MMMU",
    revision="MMMU/MMMU, main; ids and question types as in MMMU-Benchmark/MMMU@bb0b95a",
    license="Apache-2.0",
    access="open",
    stage="eval",
    task="mcq",
    modality="image-text",
    splits=_SPLITS,
    obtain=f"""
Fetch the folders of the five subjects from https://huggingface.co/datasets/MMMU/MMMU (--download does it). --raw is the
folder with {{subject}}/{{dev,validation}}-00000-of-00001.parquet for the subjects
  {", ".join(SUBJECTS)}""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"dev": 25, "validation": 150},
    paper="175 = dev 25 + validation 150; five of the validation questions are open (task vqa).",
    paper_rows=(
        PaperRow("MMMU-Med (dev)", "EVAL", 175, "dev 25 + validation 150, of which 5 are open questions (task vqa)"),
    ),
    hub_id="MMMU/MMMU",
    hub_files=tuple(f"{subject}/{split}-*.parquet" for subject in SUBJECTS for split in _SPLITS),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
