"""Reading publishers' files: every failure becomes one `InputError` that names the file, never its content."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from builders.source import InputError, NotThisSource, Reject, Sample, assistant, user
from manifests.private import make_folder

DEMO_TIME = 1_577_836_800
"""Modification time of every demo file, 2020-01-01 UTC: demo trees written twice have equal unit keys."""


def first_existing(raw: Path, *candidates: str) -> Path | None:
    """The first of `candidates` (paths relative to `raw`, `*` allowed) that exists, in their order."""
    for candidate in candidates:
        for path in sorted(raw.glob(candidate)):
            return path
    return None


def require(raw: Path, what: str, *candidates: str) -> Path:
    """Like `first_existing`, but a missing file means that the tree is not this source."""
    path = first_existing(raw, *candidates)
    if path is None:
        raise NotThisSource(f"{raw}: no {what} found (looked for {', '.join(candidates)}); is --raw the right folder?")
    return path


def require_one(raw: Path, what: str, *candidates: str) -> Path:
    """The one file that `candidates` match; two would be two copies of the same rows, and no guess is made."""
    found = [path for candidate in candidates for path in sorted(raw.glob(candidate))]
    if len(found) > 1:
        names = ", ".join(relative(path, raw) for path in found)
        raise NotThisSource(f"{raw}: {len(found)} copies of the {what} ({names}); leave one of them in --raw")
    return found[0] if found else require(raw, what, *candidates)


def relative(path: Path, raw: Path) -> str:
    """Path as messages and provenance show it: relative to the raw tree, with forward slashes."""
    return path.relative_to(raw).as_posix()


def read_bytes(path: Path, raw: Path, missing: str = "missing_image") -> bytes:
    """Bytes of a file; a missing or empty one is an `InputError` with the given reason or `empty_file`."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise InputError(missing, relative(path, raw)) from None
    if not data:
        raise InputError("empty_file", relative(path, raw))
    return data


def decode_utf8(data: bytes, file: str) -> str:
    """Text of a file that must be UTF-8."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError("not_utf8", file, f"byte {error.start}") from None


@lru_cache(maxsize=8)
def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip kept open for this process: its member list is read once."""
    return zipfile.ZipFile(path)


def read_zip_member(path: Path, member: str, raw: Path, missing: str = "missing_image") -> bytes:
    """Bytes of one zip member, without unpacking the archive."""
    file = f"{relative(path, raw)}!{member}"
    try:
        data = open_zip(path).read(member)
    except KeyError:
        raise InputError(missing, file) from None
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        # Damaged, cut off, packed by an unknown method, or encrypted (zipfile raises RuntimeError for that).
        raise InputError("bad_archive", file, str(error)) from None
    if not data:
        raise InputError("empty_file", file)
    return data


def list_zip(path: Path, raw: Path) -> list[str]:
    """Names of a zip's files. For `plan`: it leaves no handle open that worker processes would share."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [info.filename for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise NotThisSource(f"{relative(path, raw)}: not a readable zip ({error}); fetch it again") from None


def load_json(path: Path, raw: Path, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """A JSON file that the whole source rests on: an unreadable one stops the build with a clear line.

    `pairs_hook` is `json.loads`'s `object_pairs_hook`, for files in which repeated keys must be noticed.
    """
    try:
        return json.loads(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=pairs_hook)
    except (ValueError, RecursionError) as error:
        raise NotThisSource(f"{relative(path, raw)}: not valid JSON ({error}); fetch the file again") from None


def load_rows(path: Path, raw: Path) -> list[Any]:
    """A JSON file that must be one array of rows (each named by its index, from 0); a row may still be damaged."""
    rows = load_json(path, raw)
    if not isinstance(rows, list):
        raise NotThisSource(f"{relative(path, raw)}: not an array of rows; is it another file of that name?")
    return rows


def field_of(row: Any, name: str, file: str) -> Any:
    """A field that every row has; JSON's null counts as missing."""
    if not isinstance(row, dict):
        raise InputError("bad_row", file, "not an object")
    if row.get(name) is None:
        raise InputError("missing_field", file, name)
    return row[name]


def text_of(row: Any, name: str, file: str) -> str:
    """A text field that every row has."""
    return checked_text(field_of(row, name, file), name, file)


def checked_text(value: Any, name: str, file: str) -> str:
    """`value` if it is text that UTF-8 can hold: JSON may spell half a surrogate pair, which nothing can write."""
    if not isinstance(value, str):
        raise InputError("bad_field", file, f"{name} is not text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InputError("not_utf8", file, name) from None
    return value


def number_of(row: Any, name: str, file: str) -> int:
    """A whole number, zero or more, that identifies a row."""
    value = field_of(row, name, file)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InputError("bad_id", file, f"{name} is not a whole number")
    return value


def dialogue(
    turns: Iterable[tuple[str, str]], file: str, reply: Callable[[str], dict[str, Any]] = assistant
) -> list[dict[str, Any]]:
    """Messages of a conversation, (role, text) each: perhaps a system turn, then user and assistant by turns.

    `reply` makes the assistant's messages. A conversation must end with one: there is nothing to learn otherwise.
    """
    messages: list[dict[str, Any]] = []
    expected = ["system", "user"]
    for number, (role, text) in enumerate(turns):
        if role not in expected:
            raise InputError("odd_turns", file, f"turn {number} is {role}'s")
        if role == "assistant":
            if not text.strip():
                raise InputError("empty_answer", file, f"turn {number}")
            messages.append(reply(text))
        elif text.strip():
            messages.append(user(text) | {"role": role})
        elif role == "user":
            raise InputError("empty_question", file, f"turn {number}")
        expected = ["assistant"] if role == "user" else ["user"]
    if expected != ["user"] or not messages or messages[-1]["role"] != "assistant":
        raise InputError("empty_answer", file, "the last turn has no reply")
    return messages


def split_thinking(text: str, file: str) -> tuple[str | None, str]:
    """(reasoning, answer) of a reply that may think aloud in `<think>` tags.

    The opening tag may be missing: some chat templates put it into the prompt.
    """
    thought, closed, answer = text.rpartition("</think>")
    if not closed:
        if text.lstrip().startswith("<think>"):
            raise InputError("unfinished_reasoning", file)
        thought, answer = "", text
    if not answer.strip():
        raise InputError("empty_answer", file, "nothing after the reasoning")
    return thought.replace("<think>", "").replace("</think>", "").strip() or None, answer.strip()


_OPTION = re.compile(r"\s*\(?([A-J])[.):]\s*(\S.*?)\s*")
_OPTIONS_HEADING = re.compile(r"\s*\b(?:answer )?(?:options|choices)\s*:$", re.IGNORECASE)


def inline_options(text: str) -> tuple[str, list[tuple[str, str]] | None]:
    """(question, options) of a prompt that lists its options one a line as `A. text`, `A) text`, `(A) text`.

    The last list counts, and what follows it is prompt wording. Without a list that runs A, B, ... unbroken (an option
    of several lines breaks it) the whole text is the question, and there are no options.
    """
    whole, found = text.strip(), None
    lines = text.split("\n")
    matches = [_OPTION.fullmatch(line) for line in lines]
    for start, first in enumerate(matches):
        if first is None or first[1] != "A":
            continue
        options: list[tuple[str, str]] = []
        for line, match in zip(lines[start:], matches[start:], strict=True):
            if match is not None and match[1] == "ABCDEFGHIJ"[len(options) : len(options) + 1]:
                options.append((match[1], match[2]))
            elif line.strip():
                break
        found = start, options
    if found is None:
        return whole, None
    start, options = found
    lost = chr(ord("A") + len(options))
    question = "\n".join(lines[:start]).strip()
    if question.endswith(":"):
        question = _OPTIONS_HEADING.sub("", question)
    broken = any(match is not None and match[1] == lost for match in matches[start:])
    return (whole, None) if broken or len(options) < 2 or not question else (question, options)


_CREATIVE_COMMONS = re.compile(
    r"(?:\bCC[ -]?|creativecommons\.org/(?:licenses|publicdomain)/)"
    r"(BY(?:[ -](?:NC|SA|ND)\b)*|0|ZERO)(?:[ /-]v?(\d\.\d))?",
    re.IGNORECASE,
)


def creative_commons(text: str) -> str | None:
    """The Creative Commons licence that a text names (`CC BY-NC [Author et al. (2020)]`, a link), None if none.

    `CC-BY-NC`, with `-4.0` where the version is stated: PubMed Central's lists leave it out.
    """
    found = _CREATIVE_COMMONS.search(text)
    if found is None:
        return None
    if found[1].upper() in ("0", "ZERO"):
        return "CC0-1.0"
    name = f"CC-{found[1].upper().replace(' ', '-')}"
    return f"{name}-{found[2]}" if found[2] else name


def outcome(make: Callable[[], Sample], file: str, row: str) -> Sample | Reject:
    """What `make` returns, or the `Reject` for the `InputError` it raises."""
    try:
        return make()
    except InputError as error:
        return Reject(file, row, error.reason, error.detail)


def write_demo_file(path: Path, data: bytes) -> None:
    """One file of a demo tree, with its folders and a fixed modification time."""
    make_folder(path.parent)
    path.write_bytes(data)
    os.utime(path, (DEMO_TIME, DEMO_TIME))


def write_demo_csv(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """A CSV of a demo tree, its header among the rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_demo_file(path, text.getvalue().encode())


def write_demo_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    """A Parquet file of a demo tree; the columns are those of the first row, in its order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    write_demo_file(path, buffer.getvalue())


def write_demo_zip(path: Path, members: Mapping[str, bytes]) -> None:
    """A zip of a demo tree, its members stored in the order given, without their times."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    write_demo_file(path, buffer.getvalue())
