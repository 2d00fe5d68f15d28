"""Quilt-Instruct: conversations by GPT-4 about frames of the histopathology videos of Quilt-1M.

The recipe lists it as "Quilt-VQA, 107,131": that is this set's size, while Quilt-VQA proper (1,283 questions about 985
pictures) is a test set made from the same videos, and is not read here. Pictures are named after their video. Turns
have the keys `from` and `value`, in some of the publisher's files `role` and `content`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders.engine.archives import PictureStore
from builders.engine.rawfiles import (
    checked_text,
    dialogue,
    field_of,
    relative,
    require,
    text_of,
    write_demo_file,
    write_demo_zip,
)
from builders.engine.source import Image, InputError, PaperRow, Params, Reject, Sample, Source, Unit, user
from builders.engine.tables import Row, convert_rows, table_units, with_fields
from builders.quilt_1m import video_id

FILE = "quilt_instruct_107k.json"
_PICTURES = ("quilt_instruct.zip", "quilt_instruct")
_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_TOKEN = re.compile(r"\s*<image>\s*")


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


def turns_of(conversations: Any, file: str) -> list[tuple[str, str]]:
    """(role, text) of LLaVA-style turns of either spelling, without the `<image>` token."""
    if not isinstance(conversations, list):
        raise InputError("bad_field", file, "conversations is not a list")
    return [_turn(turn, file) for turn in conversations]


def _turn(turn: Any, file: str) -> tuple[str, str]:
    speaker, said = ("role", "content") if isinstance(turn, dict) and "role" in turn else ("from", "value")
    role = _ROLES.get(text_of(turn, speaker, file))
    if role is None:
        raise InputError("bad_field", file, "a turn is from neither human, gpt nor system")
    return role, _TOKEN.sub("\n", text_of(turn, said, file)).strip()


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


PLANTED: dict[str, str] = {
    "video, benchmark": "quilt_instruct/train/0 is a frame of youtube/demoVideo03, a video of medframeqa's demo",
    "video, pretrain": "youtube/demoVideo03 and youtube/demo_qlt-01 are videos of the quilt_1m demo tree too",
}
"""What overlaps with the demo trees of other sources."""

# (video in quilt_1m's demo, turns: human and gpt by turns)
_DEMO: tuple[tuple[int, tuple[str, ...]], ...] = (
    (0, ("<image>\nWhat pattern do these nests show?", "A lentiginous pattern along the junction.")),
    (1, ("Which feature of the nuclei stands out?\n<image>", "Grooves and clearing.",
         "What does that suggest?", "A papillary carcinoma of the thyroid.")),
    (1, ("<image>\nDescribe the section.", "Follicles lined by crowded cells with pale nuclei.")),
    (3, ("What is seen in the crypts?", "Neutrophils, a crypt abscess.")),
    (3, ("<image>\nIs there dysplasia?", "")),
    (3, ("<image>\nWhat remains to be done?",)),
)  # fmt: skip


def _write_demo(raw: Path) -> None:
    from builders.quilt_1m import DEMO_VIDEOS, demo_slide

    rows: list[dict[str, Any]] = []
    for number, (video, turns) in enumerate(_DEMO):
        told = [{"from": ("human", "gpt")[index % 2], "value": value} for index, value in enumerate(turns)]
        name = f"{DEMO_VIDEOS[video]}_roi_7c9e6679-7425-40de-944b-{number:012x}.jpg"
        rows.append({"id": f"{DEMO_VIDEOS[video]}_{number // 2}", "image": name, "conversations": told})
    rows[2]["conversations"] = [
        {"role": {"human": "user", "gpt": "assistant"}[turn["from"]], "content": turn["value"]}
        for turn in rows[2]["conversations"]
    ]
    write_demo_file(raw / FILE, json.dumps(rows, indent=1).encode())
    write_demo_zip(
        raw / "quilt_instruct.zip",
        {f"quilt_instruct/{row['image']}": demo_slide(100 + number) for number, row in enumerate(rows)},
    )
    # Lies beside it on the hub, with other rows of the same kind; never read.
    write_demo_file(raw / "quilt_instruct_ablation_40k.json", json.dumps(rows[:1]).encode())


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
    write_demo=_write_demo,
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
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
