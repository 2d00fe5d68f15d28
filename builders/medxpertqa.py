"""MedXpertQA: expert board questions, a text set with ten options and a picture set (MM) with five; a benchmark.

Both sets are one source with the splits `mm_test`, `mm_dev`, `text_test`, `text_dev`; those whose file is there are
built. Two shapes of a row are published: the hub's (options {letter: text}, label "A", images ["MM-0-a.jpeg"]) and the
repository's (options [{letter, content}], label ["A"], images [{image_path}]). Either prints the options once more
inside the question, after "Answer Choices:"; other copies have that stripped. It is stripped here, so that stems
compare. 70 stems of MM repeat, with other pictures or options: distinct items, nothing is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders.kit import (
    Image,
    InputError,
    NotThisSource,
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
    checked_text,
    choice_answer,
    choice_prompt,
    convert_rows,
    field_of,
    first_existing,
    list_zip,
    relative,
    require,
    run,
    table_units,
    text_of,
    user,
)

_SPLITS: dict[str, Role] = {"mm_test": "eval", "mm_dev": "eval", "text_test": "eval", "text_dev": "eval"}
_FILES = {
    "mm_test": ("MM/test.jsonl", "medxpertqa_mm_input.jsonl"),
    "mm_dev": ("MM/dev.jsonl",),
    "text_test": ("Text/test.jsonl", "medxpertqa_text_input.jsonl"),
    "text_dev": ("Text/dev.jsonl",),
}
_FOLDERS = ("", "eval/data/medxpertqa/input/", "data/medxpertqa/input/")
_PICTURES = ("images.zip", "images", "eval/images", "MM/images.zip", "MM/images")
_PICTURE = re.compile(r"[A-Za-z0-9_\-]+\.(?:jpe?g|png)", re.IGNORECASE)  # eight of the 2,852 end in .JPG
_LABELS = "ABCDEFGHIJ"
_SUBSETS = {"Reasoning": "reasoning", "Understanding": "understanding"}


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    found = {
        split: path
        for split, names in _FILES.items()
        if (path := first_existing(raw, *(folder + name for folder in _FOLDERS for name in names)))
    }
    if not found:
        names = ", ".join(name for names in _FILES.values() for name in names)
        raise NotThisSource(f"{raw}: none of {names} found; is --raw the right folder?")
    for split, path in found.items():
        pictures = _picture_files(raw) if split.startswith("mm_") and not params["no_images"] else []
        yield from table_units(raw, [path], split, _SPLITS[split], inputs=pictures)


def _picture_place(raw: Path) -> str:
    return relative(require(raw, "images.zip or images folder (--no-images builds without)", *_PICTURES), raw)


def _picture_files(raw: Path) -> list[str]:
    place = _picture_place(raw)
    if place.endswith(".zip"):
        list_zip(raw / place, raw)  # a broken archive stops here, not once a row
        return [place]
    return [relative(path, raw) for path in sorted((raw / place).rglob("*")) if path.is_file()]


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    shown = unit.split.startswith("mm_")
    store = PictureStore(raw, [_picture_place(raw)] if shown and not params["no_images"] else [])
    return convert_rows(raw, unit, partial(_sample, store=store, shown=shown))


def _sample(row: Row, store: PictureStore, shown: bool) -> Sample:
    file, values = row.file, row.values
    key, options = text_of(values, "id", file), _options(field_of(values, "options", file), file)
    # What follows the last "Answer Choices:" are the options, which the sample has of its own.
    question, choices, rest = text_of(values, "question", file).rpartition("Answer Choices:")
    question = question.rstrip() if choices else rest
    label = field_of(values, "label", file)
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if not isinstance(label, str) or label not in dict(options):
        raise InputError("bad_field", file, "label names no option")
    kind = text_of(values, "question_type", file)
    if kind not in _SUBSETS:
        raise InputError("bad_field", file, "question_type is neither Reasoning nor Understanding")
    names = _image_names(field_of(values, "images", file), file) if shown else []
    if not names and (shown or values.get("images")):
        raise InputError("bad_field", file, "an MM row without images" if shown else "a text row with images")
    if not question.strip():
        raise InputError("empty_question", file)
    return Sample(
        key=key,
        messages=[user(*range(len(names)), choice_prompt(question, options)), assistant(choice_answer(options, label))],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=label,
        images=[Image(f"medxpertqa/{name}", *store.reader(name)) for name in names],
        group={"question_id": f"medxpertqa/{key}"},
        subset=_SUBSETS[kind],
        task="vqa" if shown else "mcq",
    )


def _options(given: Any, file: str) -> list[tuple[str, str]]:
    """(letter, text) of either shape."""
    if isinstance(given, list):
        pairs = [(text_of(option, "letter", file), field_of(option, "content", file)) for option in given]
    elif isinstance(given, dict):
        pairs = list(given.items())
    else:
        raise InputError("bad_field", file, "options are neither an object nor a list")
    if len(pairs) < 2 or [letter for letter, _ in pairs] != list(_LABELS[: len(pairs)]):
        raise InputError("bad_field", file, "options are not lettered from A on")
    return [(letter, checked_text(text, f"option {letter}", file)) for letter, text in pairs]


def _image_names(given: Any, file: str) -> list[str]:
    """File names of either shape."""
    if not isinstance(given, list):
        raise InputError("bad_field", file, "images are no list")
    names = [text_of(image, "image_path", file) if isinstance(image, dict) else image for image in given]
    for name in names:
        if not isinstance(name, str) or not _PICTURE.fullmatch(name):
            raise InputError("bad_field", file, "an image is not the name of a picture file")
    return names


SOURCE = Source(
    name="medxpertqa",
    title="MedXpertQA: expert board questions, text and multimodal",
    homepage="https://huggingface.co/datasets/TsinghuaC3I/MedXpertQA",
    revision="TsinghuaC3I/MedXpertQA@f4e6fe7 (hub), @f21247d3ccf3 (GitHub)",
    license="MIT",
    access="open",
    stage="eval",
    task="vqa",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
--download --revision SHA, or clone the dataset TsinghuaC3I/MedXpertQA from https://huggingface.co. --raw is the folder
with
  MM/test.jsonl  MM/dev.jsonl  Text/test.jsonl  Text/dev.jsonl    (missing ones are left out)
  images.zip (read in place), or images/ with the same; not needed with --no-images
or a clone of https://github.com/TsinghuaC3I/MedXpertQA with eval/data/medxpertqa/input/medxpertqa_{mm,text}_input.jsonl
and the hub's images.zip beside eval/, or its pictures in eval/images/.""",
    plan=_plan,
    read=_read,
    published=lambda params: {"mm_test": 2_000, "mm_dev": 5, "text_test": 2_450, "text_dev": 5},
    paper="benchmarks 2,000 (MM) and 2,450 (text): the publisher's test files; its ten dev rows are separate splits.",
    paper_rows=(
        PaperRow("MedXQA (multimodal)", "EVAL", 2_000, "split mm_test"),
        PaperRow(
            "MedXQA (text-only)",
            "EVAL",
            2_450,
            "split text_test; Text-0 to Text-1000 were generation input of MedReason",
        ),
    ),
    hub_id="TsinghuaC3I/MedXpertQA",
    hub_files=("MM/*.jsonl", "Text/*.jsonl", "images.zip"),
)

if __name__ == "__main__":
    run(SOURCE)
