"""GMAI-Reasoning10K: multiple-choice questions about slices and frames of 95 public sets, the answers with reasoning.

Two files: `reasoning_mcq_sft.jsonl` answers `<think>...</think><answer>A</answer>`, `reasoning_mcq_rl.jsonl` with the
letter alone. The recipe marks the set as a reasoning set, so the first is the default. Its count, 9,965, is near the
10,000 of the second: a survey counts 17,004 in both, a third party 7,004 in one, so 7,004 have reasoning (unverified).
`image` is a path or a list of paths inside the publisher's folders or zips, whose packing is unverified: any folder or
zip at the top of the tree is looked into. Options are listed one a line or in one line, `A: ...`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath

from builders.kit import (
    Image,
    InputError,
    NotThisSource,
    Option,
    PaperRow,
    Params,
    PictureStore,
    Reject,
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
    inline_options,
    relative,
    require,
    run,
    split_thinking,
    table_rows,
    table_units,
    turns_of,
    user,
    with_fields,
)

_FILES = {"sft": "reasoning_mcq_sft.jsonl", "rl": "reasoning_mcq_rl.jsonl"}
_HEADING = re.compile(r"\b((?:options|choices)\s*:)\s*(?=\(?A[.):])", re.IGNORECASE)
_NEXT = re.compile(r"[,;]?\s+(?=\(?([B-J])[.):]\s)")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"(?:answer\s*:\s*)?\(?([A-J])\)?(?:[.:)]\s*(.*))?", re.IGNORECASE | re.DOTALL)


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path = require(raw, f"questions (--file {params['file']})", _FILES[params["file"]])
    pictures = [] if params["no_images"] else _picture_files(raw)
    units = with_fields(raw, table_units(raw, [path], "train", "train", inputs=pictures), ("image", "conversations"))
    for unit in units:
        if unit.name == "train-00000" and params["file"] == "sft" and not _thinks(raw, unit):
            raise NotThisSource(f"{path.name}: no <think> in its first rows; another revision?")
        yield unit


def _thinks(raw: Path, unit: Unit) -> bool:
    return any("<think>" in str(row.values) for row in islice(table_rows(raw, unit), 100) if isinstance(row, Row))


def _places(raw: Path) -> list[str]:
    """Folders and zips at the top of the tree, but for hidden ones such as the hub client's `.cache`."""
    found = [path for path in sorted(raw.iterdir()) if path.is_dir() or path.suffix == ".zip"]
    return [path.name for path in found if not path.name.startswith(".")]


def _picture_files(raw: Path) -> list[str]:
    if not (places := _places(raw)):
        raise NotThisSource(f"{raw}: no folder or zip with the pictures (--no-images builds without)")
    folders = [raw / place for place in places if (raw / place).is_dir()]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return [*(place for place in places if place.endswith(".zip")), *(relative(path, raw) for path in files)]


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    # The 95 sets repeat names like `1.png`: one picture must never stand in for another's.
    store = PictureStore(raw, [] if params["no_images"] else _places(raw), flat=False)
    return convert_rows(raw, unit, partial(_sample, store, params["file"] == "sft"))


def _sample(store: PictureStore, reasons: bool, row: Row) -> Sample:
    file = row.file
    names, turns = _names(row), turns_of(field_of(row.values, "conversations", file), file)
    if [role for role, _ in turns if role != "system"] != ["user", "assistant"]:
        raise InputError("odd_turns", file, "not one question and one answer")
    (_, asked), (_, reply) = turns[-2:]
    reasoning, answer = split_thinking(reply, file)
    if tagged := _TAGGED.search(answer):
        answer = tagged[1].strip()
    question, options = inline_options(_one_a_line(asked))
    if not question:
        raise InputError("empty_question", file)
    if not answer:
        raise InputError("empty_answer", file)
    if reasons and reasoning is None:
        raise InputError("empty_reasoning", file)
    prompt, said = question, answer
    if options is not None:
        answer = _label(answer, options, file)
        prompt, said = choice_prompt(question, options), choice_answer(options, answer)
    return Sample(
        key=row.number,
        messages=[user(*range(len(names)), prompt), assistant(said, reasoning=reasoning)],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=answer,
        images=[Image(f"gmai_reasoning10k/{name}", *store.reader(name)) for name in names],
        subset=names[0].partition("/")[0],
        task="vqa" if options is None else None,
    )


def _names(row: Row) -> list[str]:
    given = field_of(row.values, "image", row.file)
    names = [checked_text(name, "image", row.file) for name in (given if isinstance(given, list) else [given])]
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or not PurePosixPath(name).suffix:
            raise InputError("bad_field", row.file, "image is not the path of a picture inside the set")
    if not names:
        raise InputError("missing_field", row.file, "image")
    return [PurePosixPath(name).as_posix() for name in names]


def _one_a_line(text: str) -> str:
    """`Options: A: x, B: y` with its options one a line; anything else as it is."""
    heading = _HEADING.search(text)
    if heading is None:
        return text
    before, listed = f"{text[: heading.start()]}{heading[1]}", text[heading.end() :].strip()
    labels = "A" + "".join(match[1] for match in _NEXT.finditer(listed))
    if "\n" not in listed and len(labels) > 1 and "ABCDEFGHIJ".startswith(labels):
        listed = _NEXT.sub("\n", listed)
    return f"{before}\n{listed}"


def _label(answer: str, options: list[tuple[str, str]], file: str) -> str:
    """The letter that an answer gives, perhaps with the option's text after it, or that stands before its text."""
    texts = {label: text.casefold() for label, text in options}
    if match := _LETTER.fullmatch(answer):
        label, text = match[1].upper(), (match[2] or "").strip().casefold()
        if label in texts and text in ("", texts[label]):
            return label
    named = [label for label, text in texts.items() if text == answer.casefold()]
    if len(named) != 1:
        raise InputError("unclear_answer", file)
    return named[0]


SOURCE = Source(
    name="gmai_reasoning10k",
    title="GMAI-Reasoning10K: multiple-choice questions with reasoning, from 95 imaging sets",
    homepage="https://huggingface.co/datasets/General-Medical-AI/GMAI-Reasoning10K",
    revision="uni-medical/GMAI-VL-R1@a02771d and the hub's card (rows, tags and packing of pictures are unverified)",
    license="unstated",
    access="open",
    stage="instruct",
    task="mcq",
    modality="image-text",
    splits={"train": "train"},
    obtain="""
  hf download General-Medical-AI/GMAI-Reasoning10K --repo-type dataset --local-dir DIR        (about 4 GB)
--raw is the folder with
  reasoning_mcq_sft.jsonl, or with --file rl reasoning_mcq_rl.jsonl
  the pictures under the paths that `image` gives, in folders or zips (read in place); not needed with --no-images""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 7_004 if params["file"] == "sft" else 10_000},
    paper=(
        "9,965 with reasoning, 35 less than the 10,000 that the card states, which are the answers-only questions "
        "(--file rl); the default file has the reasoning, 7,004 rows by third-party counts. No licence is stated."
    ),
    paper_rows=(
        PaperRow(
            "GMAI-Reasoning10K", "IT", 9_965, "35 less than --file rl (10,000); the default is the file with reasoning"
        ),
    ),
    options=(Option("--file", "answers with reasoning (sft) or the letter alone (rl)", "sft", ("sft", "rl")),),
    variant=lambda params: "rl" if params["file"] == "rl" else "",
    hub_id="General-Medical-AI/GMAI-Reasoning10K",
    hub_files=("*.jsonl", "**/*.png", "**/*.jpg", "**/*.jpeg", "*.zip"),
)

if __name__ == "__main__":
    run(SOURCE)
