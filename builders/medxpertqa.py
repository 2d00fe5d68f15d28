"""MedXpertQA: expert board questions, a text set with ten options and a picture set (MM) with five; a benchmark.

Both sets are one source with the splits `mm_test`, `mm_dev`, `text_test`, `text_dev`; those whose file is there are
built. Two shapes of a row are published: the hub's (options {letter: text}, label "A", images ["MM-0-a.jpeg"]) and the
repository's (options [{letter, content}], label ["A"], images [{image_path}]). Either prints the options once more
inside the question, after "Answer Choices:"; other copies have that stripped. It is stripped here, so that stems
compare. 70 stems of MM repeat, with other pictures or options: distinct items, nothing is dropped.
"""

import re
from typing import Any

from builders import kit

FILES = {
    "mm_test": ("MM/test.jsonl", "medxpertqa_mm_input.jsonl"),
    "mm_dev": ("MM/dev.jsonl",),
    "text_test": ("Text/test.jsonl", "medxpertqa_text_input.jsonl"),
    "text_dev": ("Text/dev.jsonl",),
}
_FOLDERS = ("", "eval/data/medxpertqa/input/", "data/medxpertqa/input/")
_PICTURES = ("images.zip", "images", "eval/images", "MM/images.zip", "MM/images")
_PICTURE = re.compile(r"[A-Za-z0-9_\-]+\.(?:jpe?g|png)", re.IGNORECASE)  # eight of the 2,852 end in .JPG
LABELS = "ABCDEFGHIJ"
_SUBSETS = {"Reasoning": "reasoning", "Understanding": "understanding"}


def _sample(row: kit.Row, key: str, asked: str, kind: str) -> kit.Sample:
    file, values, shown = row.file, row.values, row.split.startswith("mm_")
    options = _options(kit.field_of(values, "options", file), file)
    # What follows the last "Answer Choices:" are the options, which the sample has of its own.
    question, choices, rest = asked.rpartition("Answer Choices:")
    question = question.rstrip() if choices else rest
    label = kit.field_of(values, "label", file)
    if isinstance(label, list) and len(label) == 1:
        label = label[0]
    if not isinstance(label, str) or label not in dict(options):
        raise kit.InputError("bad_field", file, "label names no option")
    kit.demand(kind in _SUBSETS, "bad_field", file, "question_type is neither Reasoning nor Understanding")
    names = _image_names(kit.field_of(values, "images", file), file) if shown else []
    if not names and (shown or values.get("images")):
        raise kit.InputError("bad_field", file, "an MM row without images" if shown else "a text row with images")
    images = [kit.Image(f"medxpertqa/{name}", *row.picture(name)) for name in names]
    group, task = {"question_id": f"medxpertqa/{key}"}, "vqa" if shown else "mcq"
    return kit.choice_sample(
        row, question, options, label, images, key=key, group=group, subset=_SUBSETS[kind], task=task
    )


def _options(given: Any, file: str) -> list[tuple[str, str]]:
    """(letter, text) of either shape."""
    if isinstance(given, list):
        pairs = [(kit.text_of(option, "letter", file), kit.field_of(option, "content", file)) for option in given]
    elif isinstance(given, dict):
        pairs = list(given.items())
    else:
        raise kit.InputError("bad_field", file, "options are neither an object nor a list")
    if len(pairs) < 2 or [letter for letter, _ in pairs] != list(LABELS[: len(pairs)]):
        raise kit.InputError("bad_field", file, "options are not lettered from A on")
    return [(letter, kit.checked_text(text, f"option {letter}", file)) for letter, text in pairs]


def _image_names(given: Any, file: str) -> list[str]:
    """File names of either shape."""
    if not isinstance(given, list):
        raise kit.InputError("bad_field", file, "images are no list")
    names = [kit.text_of(image, "image_path", file) if isinstance(image, dict) else image for image in given]
    for name in names:
        if not isinstance(name, str) or not _PICTURE.fullmatch(name):
            raise kit.InputError("bad_field", file, "an image is not the name of a picture file")
    return names


SOURCE = kit.table_source(
    name="medxpertqa",
    title="MedXpertQA: expert board questions, text and multimodal",
    revision="TsinghuaC3I/MedXpertQA@f4e6fe7 (hub), @f21247d3ccf3 (GitHub)",
    layouts=(kit.Layout("Text and MM as JSON Lines", "rows", "TsinghuaC3I/MedXpertQA@f21247d"),),
    license="MIT",
    stage="eval",
    task="vqa",
    splits=dict.fromkeys(FILES, "eval"),
    obtain="""
--download --revision SHA, or clone the dataset TsinghuaC3I/MedXpertQA from https://huggingface.co, or clone
https://github.com/TsinghuaC3I/MedXpertQA and put the hub's images.zip beside eval/. Missing splits are left out.""",
    files={split: tuple(f + name for f in _FOLDERS for name in names) for split, names in FILES.items()},
    optional=tuple(FILES),
    pictures={"mm_test": _PICTURES, "mm_dev": _PICTURES},
    each_picture=True,
    fields=("id", "question", "question_type"),
    sample=_sample,
    published={"mm_test": 2_000, "mm_dev": 5, "text_test": 2_450, "text_dev": 5},
    paper="benchmarks 2,000 (MM) and 2,450 (text): the publisher's test files; its ten dev rows are separate splits.",
    paper_rows=(
        kit.PaperRow("MedXQA (multimodal)", "EVAL", 2_000, "split mm_test"),
        kit.PaperRow(
            "MedXQA (text-only)",
            "EVAL",
            2_450,
            "split text_test; Text-0 to Text-1000 were generation input of MedReason",
        ),
    ),
    hub_id="TsinghuaC3I/MedXpertQA",
    hub_revision="7e7c465a68eb2b866926bfa59c8c9d17a8daba65",
    hub_files=("MM/*.jsonl", "Text/*.jsonl", "images.zip"),
)

if __name__ == "__main__":
    kit.run(SOURCE)
