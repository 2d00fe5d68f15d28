"""MedFrameQA: multiple-choice questions over two to five frames of a medical YouTube video.

`video_id` is the YouTube id, by which Quilt's training rows can be joined. `reasoning_chain` is never read: it gives
the answer away. Most questions have five options, some six (F).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from builders.kit import (
    InputError,
    PaperRow,
    Params,
    Reject,
    Role,
    Row,
    Sample,
    Source,
    Unit,
    assistant,
    choice_answer,
    choice_prompt,
    column_image,
    convert_rows,
    field_of,
    labelled,
    option_texts,
    require,
    run,
    table_units,
    text_of,
    user,
)

_SPLITS: dict[str, Role] = {"test": "eval"}
_IMAGES = tuple(f"image_{number}" for number in range(1, 6))
_COLUMNS = ("question_id", "system", "video_id", "question", "options", "correct_answer", *_IMAGES)
_VIDEO = re.compile(r"[A-Za-z0-9_-]{11}")


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    require(raw, "Parquet file", "data/test-*.parquet")
    return table_units(raw, sorted(raw.glob("data/test-*.parquet")), "test", "eval", columns=_COLUMNS)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


def _sample(row: Row) -> Sample:
    file, values = row.file, row.values
    key, video, question = (text_of(values, name, file) for name in ("question_id", "video_id", "question"))
    options = labelled(option_texts(field_of(values, "options", file), file), file)
    answer = text_of(values, "correct_answer", file)
    if not _VIDEO.fullmatch(video):
        raise InputError("bad_id", file, "video_id is not the 11 characters of a YouTube id")
    if answer not in dict(options):
        raise InputError("bad_field", file, f"correct_answer names none of the {len(options)} options")
    if not question.strip():
        raise InputError("empty_question", file)
    # Questions speak of the first, second, ... frame: a gap would give them other numbers.
    count = max((number for number, name in enumerate(_IMAGES, 1) if values.get(name) is not None), default=0)
    images = [column_image(row, name, f"medframeqa/{key}/{name}") for name in _IMAGES[: max(2, count)]]
    return Sample(
        key=key,
        messages=[
            user(*range(len(images)), choice_prompt(question, options)),
            assistant(choice_answer(options, answer)),
        ],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=answer,
        images=images,
        group={"video_id": f"youtube/{video}", "question_id": f"medframeqa/{key}"},
        subset=text_of(values, "system", file),
    )


SOURCE = Source(
    name="medframeqa",
    title="MedFrameQA: questions over several frames of a medical video",
    homepage="https://huggingface.co/datasets/SuhaoYu1020/MedFrameQA",
    revision="SuhaoYu1020/MedFrameQA@96083ae",
    license="CC-BY-4.0",
    access="open",
    stage="eval",
    task="mcq",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
Fetch data/test-*.parquet (571 MB) of https://huggingface.co/datasets/SuhaoYu1020/MedFrameQA (--download does it).
--raw is the folder with data/test-*.parquet""",
    plan=_plan,
    read=_read,
    published=lambda params: {"test": 2_851},
    paper="2,851, the whole test split.",
    paper_rows=(PaperRow("MedFrameQA", "EVAL", 2_851),),
    hub_id="SuhaoYu1020/MedFrameQA",
    hub_files=("data/test-*.parquet",),
)

if __name__ == "__main__":
    run(SOURCE)
