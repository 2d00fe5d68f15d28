"""GMAI-Reasoning10K: multiple-choice questions about slices and frames of 95 public sets, the answers with reasoning.

Two files: `reasoning_mcq_sft.jsonl` answers `<think>...</think><answer>A</answer>`, `reasoning_mcq_rl.jsonl` with the
letter alone. The recipe marks the set as a reasoning set, so the first is the default. Its count, 9,965, is near the
10,000 of the second: a survey counts 17,004 in both, a third party 7,004 in one, so 7,004 have reasoning (unverified).
`image` is a path or a list of paths inside the publisher's folders or zips, whose packing is unverified: any folder or
zip at the top of the tree is looked into. Options are listed one a line or in one line, `A: ...`.
"""

import re
from itertools import islice
from pathlib import Path, PurePosixPath

from builders import kit

FILES = {"sft": "reasoning_mcq_sft.jsonl", "rl": "reasoning_mcq_rl.jsonl"}
_KINDS = frozenset({"2d", "3d", "cls", "det", "seg", "images"})
"""Folders above those of the 95 sets: real paths begin `2d/cls/`."""
_HEADING = re.compile(r"\b((?:options|choices)\s*:)\s*(?=\(?A[.):])", re.IGNORECASE)
_NEXT = re.compile(r"[,;]?\s+(?=\(?([B-J])[.):]\s)")
_TAGGED = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_LETTER = re.compile(r"(?:answer\s*:\s*)?\(?([A-J])\)?(?:[.:)]\s*(.*))?", re.IGNORECASE | re.DOTALL)


def _check(raw: Path, unit: kit.Unit, params: kit.Params) -> None:
    rows = (row for row in islice(kit.table_rows(raw, unit), 100) if isinstance(row, kit.Row))
    if params["file"] == "sft" and not any("<think>" in str(row.values) for row in rows):
        raise kit.NotThisSource(f"{unit.payload['file']}: no <think> in its first rows; another revision?")


def _sample(row: kit.Row) -> kit.Sample:
    file = row.file
    names, turns = _names(row), kit.turns_of(kit.field_of(row.values, "conversations", file), file)
    if [role for role, _ in turns if role != "system"] != ["user", "assistant"]:
        raise kit.InputError("odd_turns", file, "not one question and one answer")
    (_, asked), (_, reply) = turns[-2:]
    reasoning, answer = kit.split_thinking(reply, file)
    if tagged := _TAGGED.search(answer):
        answer = tagged[1].strip()
    question, options = kit.inline_options(_one_a_line(asked))
    kit.check_filled(file, question=question, answer=answer)
    kit.demand(reasoning is not None or row.params["file"] != "sft", "empty_reasoning", file)
    images = [kit.Image(f"gmai_reasoning10k/{name}", *row.picture(name)) for name in names]
    subset = next((part for part in names[0].split("/")[:-1] if part.lower() not in _KINDS), None)
    if options is None:
        return kit.question_answer(row, question, answer, images, reasoning=reasoning, subset=subset, task="vqa")
    label = _label(answer, options, file)
    return kit.choice_sample(row, question, options, label, images, reasoning=reasoning, subset=subset)


def _names(row: kit.Row) -> list[str]:
    given = kit.field_of(row.values, "image", row.file)
    names = [kit.checked_text(name, "image", row.file) for name in (given if isinstance(given, list) else [given])]
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or not PurePosixPath(name).suffix:
            raise kit.InputError("bad_field", row.file, "image is not the path of a picture inside the set")
    kit.demand(names, "missing_field", row.file, "image")
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
    kit.demand(len(named) == 1, "unclear_answer", file)
    return named[0]


SOURCE = kit.table_source(
    name="gmai_reasoning10k",
    title="GMAI-Reasoning10K: multiple-choice questions with reasoning, from 95 imaging sets",
    revision="uni-medical/GMAI-VL-R1@a02771d and the hub's card (rows, tags and packing of pictures are unverified)",
    layouts=(kit.Layout("two JSON Lines, loose pictures", "code", "uni-medical/GMAI-VL-R1@a02771d"),),
    license="unstated",
    task="mcq",
    files=lambda params: {"train": FILES[params["file"]]},
    pictures=("[!.]*/", "[!.]*.zip"),  # hidden ones are the hub client's
    flat=False,  # the 95 sets repeat names like `1.png`: one picture must never stand in for another's
    each_picture=True,
    fields=(),
    values=("image", "conversations"),
    check=_check,
    sample=_sample,
    version=2,
    published=lambda params: {"train": 7_004 if params["file"] == "sft" else 10_000},
    paper=(
        "9,965 with reasoning, 35 less than the 10,000 that the card states, which are the answers-only questions "
        "(--file rl); the default file has the reasoning, 7,004 rows by third-party counts. No licence is stated."
    ),
    paper_rows=kit.paper_row(
        "GMAI-Reasoning10K", "IT", 9_965, "35 less than --file rl (10,000); the default is the file with reasoning"
    ),
    options=(kit.Option("--file", "answers with reasoning (sft) or the letter alone (rl)", "sft", ("sft", "rl")),),
    variant=lambda params: "rl" if params["file"] == "rl" else "",
    hub_id="General-Medical-AI/GMAI-Reasoning10K",
    hub_files=("*.jsonl", "**/*.png", "**/*.jpg", "**/*.jpeg", "*.zip"),
)

if __name__ == "__main__":
    kit.run(SOURCE)
