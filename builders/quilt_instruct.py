"""Quilt-Instruct: conversations by GPT-4 about frames of the histopathology videos of Quilt-1M.

The recipe lists it as "Quilt-VQA, 107,131": that is this set's size, while Quilt-VQA proper (1,283 questions about 985
pictures) is a test set made from the same videos, and is not read here. Pictures are named after their video. Turns
have the keys `from` and `value`, in some of the publisher's files `role` and `content`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from builders.kit import (
    Image,
    InputError,
    PaperRow,
    Params,
    PictureStore,
    Reject,
    Row,
    Sample,
    Source,
    Unit,
    checked_text,
    convert_rows,
    dialogue,
    field_of,
    relative,
    require,
    run,
    table_units,
    text_of,
    turns_of,
    user,
    video_id,
    with_fields,
)

FILE = "quilt_instruct_107k.json"
_PICTURES = ("quilt_instruct.zip", "quilt_instruct")


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path = require(raw, "conversations", FILE)
    pictures: tuple[str, ...] = ()
    if not params["no_images"]:
        pictures = (relative(require(raw, "quilt_instruct.zip (--no-images builds without)", *_PICTURES), raw),)
    units = table_units(raw, [path], "train", "train", inputs=pictures)
    return with_fields(raw, units, ("id", "image", "conversations"))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    store = PictureStore(raw, unit.inputs[1:])  # after the table itself come the pictures
    return convert_rows(raw, unit, partial(_sample, store))


def _sample(store: PictureStore, row: Row) -> Sample:
    file = row.file
    number, name = field_of(row.values, "id", file), text_of(row.values, "image", file)
    if not isinstance(number, str | int) or number == "":
        raise InputError("bad_id", file, "id is neither text nor a number")
    turns = turns_of(field_of(row.values, "conversations", file), file)
    video = video_id(name, file)
    messages = dialogue(turns, file)
    question = next(text for role, text in turns if role == "user")
    # The picture stands first, wherever the publisher's token was within the first question.
    first = next(index for index, message in enumerate(messages) if message["role"] == "user")
    messages[first] = user(0, question)
    return Sample(
        key=row.number,  # one id may be given to several conversations
        messages=messages,
        file=file,
        row=row.number,
        question=question,
        answer=turns[1][1] if len(turns) == 2 else None,
        images=[Image(f"quilt_instruct/{name}", *store.reader(name))],
        group={"video_id": video, "question_id": f"quilt_instruct/{checked_text(str(number), 'id', file)}"},
        subset="single" if len(turns) == 2 else "several",
    )


SOURCE = Source(
    name="quilt_instruct",
    title="Quilt-Instruct: conversations about frames of histopathology videos",
    homepage="https://quilt-llava.github.io",
    revision="aldraus/quilt-llava@a7a9a4c and the tree of wisdomik/QUILT-LLaVA-Instruct-107K",
    license="CC-BY-NC-ND-3.0",
    access="gated",
    stage="instruct",
    task="vqa",
    modality="image-text",
    splits={"train": "train"},
    obtain=f"""
Accept the terms (form and data use agreement) of https://huggingface.co/datasets/wisdomik/QUILT-LLaVA-Instruct-107K and
fetch the two files (--download does it, with your token). --raw is the folder with
  {FILE}
  quilt_instruct.zip (read in place), or quilt_instruct/ with the same; not needed with --no-images
NoDerivatives: build it for yourself, do not pass converted shards on.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 107_131},
    paper=(
        'listed as "Quilt-VQA", 107,131, which is the size of Quilt-Instruct; Quilt-VQA proper, 1,283 questions, is a '
        "test set. The licence is by a third-party audit."
    ),
    paper_rows=(
        PaperRow("Quilt-VQA", "IT", 107_131, "misnamed in the paper: this is Quilt-Instruct; Quilt-VQA is a test set"),
    ),
    hub_id="wisdomik/QUILT-LLaVA-Instruct-107K",
    hub_files=(FILE, "quilt_instruct.zip"),
)

if __name__ == "__main__":
    run(SOURCE)
