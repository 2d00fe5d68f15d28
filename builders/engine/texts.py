"""Texts as publishers shape them: conversations, reasoning in tags, options in many spellings."""

import ast
import re
from collections.abc import Callable, Iterable, Sequence
from string import ascii_uppercase
from typing import Any

from builders.engine.rawfiles import checked_text, field_of, text_of
from builders.engine.source import Image, InputError, Sample, assistant, demand, user
from builders.engine.tables import Row

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_PICTURE_TOKEN = re.compile(r"\s*<image>\s*")


def dialogue(
    turns: Iterable[tuple[str, str]], file: str, reply: Callable[[str], dict[str, Any]] = assistant, images: int = 0
) -> list[dict[str, Any]]:
    """Messages of a conversation, (role, text) each: perhaps a system turn, then user and assistant by turns.

    `reply` makes the assistant's messages. So many `images` stand before the first question. A conversation must end
    with a reply: there is nothing to learn otherwise.
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
            shown = range(images) if role == "user" and not any(said["role"] == "user" for said in messages) else ()
            messages.append(user(*shown, text) | {"role": role})
        elif role == "user":
            raise InputError("empty_question", file, f"turn {number}")
        expected = ["assistant"] if role == "user" else ["user"]
    if expected != ["user"] or not messages or messages[-1]["role"] != "assistant":
        raise InputError("empty_answer", file, "the last turn has no reply")
    return messages


def sample_of(row: Row, messages: list[dict[str, Any]], **fields: Any) -> Sample:
    """A row as a sample of these messages, its number the key if `fields` have none."""
    return Sample(messages=messages, file=row.file, row=row.number, **{"key": row.number} | fields)


def conversation_sample(row: Row, turns: list[tuple[str, str]], images: Sequence[Image] = (), **fields: Any) -> Sample:
    """A row that is a conversation, its pictures before the first question; the reply to a lone one is the answer."""
    said = dialogue(turns, row.file, images=len(images))
    question = next(text for role, text in turns if role == "user")
    answer = turns[1][1] if len(turns) == 2 else None
    return sample_of(row, said, images=list(images), **{"question": question, "answer": answer} | fields)


def lettered(given: Any, labels: str, file: str) -> list[tuple[str, str]]:
    """Options that a row ships as an object with these labels and no others."""
    if not isinstance(given, dict) or sorted(given) != list(labels):
        raise InputError("bad_field", file, f"options are not {', '.join(labels)}")
    return [(label, checked_text(given[label], f"option {label}", file)) for label in labels]


def split_thinking(text: str, file: str) -> tuple[str | None, str]:
    """(reasoning, answer) of a reply that may think aloud in `<think>` or `<thinking>` tags.

    The opening tag may be missing: some chat templates put it into the prompt.
    """
    text = text.replace("<thinking>", "<think>").replace("</thinking>", "</think>")
    thought, closed, answer = text.rpartition("</think>")
    if not closed:
        if text.lstrip().startswith("<think>"):
            raise InputError("unfinished_reasoning", file)
        thought, answer = "", text
    if not answer.strip():
        raise InputError("empty_answer", file, "nothing after the reasoning")
    return thought.replace("<think>", "").replace("</think>", "").strip() or None, answer.strip()


def turns_of(conversations: Any, file: str, *, pictures: bool = True) -> list[tuple[str, str]]:
    """(role, text) of turns of either spelling; those about `pictures` are stripped and lose the `<image>` token."""
    if not isinstance(conversations, list):
        raise InputError("bad_field", file, "the conversation is not a list")
    turns = [_turn(turn, file) for turn in conversations]
    return [(role, _PICTURE_TOKEN.sub("\n", text).strip()) for role, text in turns] if pictures else turns


def _turn(turn: Any, file: str) -> tuple[str, str]:
    speaker, said = ("role", "content") if isinstance(turn, dict) and "role" in turn else ("from", "value")
    role = _ROLES.get(text_of(turn, speaker, file))
    if role is None:
        raise InputError("bad_field", file, "a turn is from neither human, gpt nor system")
    return role, text_of(turn, said, file)


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


def texts_of(row: Any, name: str, file: str, *, spelt: bool = False) -> list[str]:
    """The texts of a field that is a list of them; with `spelt` it may be the text of a Python list."""
    value = field_of(row, name, file)
    if spelt and isinstance(value, str):
        value = python_literal(value)
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError("bad_field", file, f"{name} is not a list of texts")
    return [checked_text(text, name, file) for text in value]


def id_of(row: Any, name: str, file: str) -> str:
    """An identifier that is text or a number."""
    value = field_of(row, name, file)
    kind = isinstance(value, str | int) and not isinstance(value, bool) and value != ""
    demand(kind, "bad_id", file, f"{name} is neither text nor a number")
    return checked_text(str(value), name, file)


def index_of(row: Any, name: str, file: str, count: int, first: int = 0) -> int:
    """Which of `count` options a number names that counts from `first`; from 0 on."""
    value = field_of(row, name, file)
    known = isinstance(value, int) and not isinstance(value, bool) and first <= value < first + count
    demand(known, "bad_field", file, f"{name} is not {first} to {first + count - 1}")
    return int(value) - first


def python_literal(text: str) -> Any:
    """The value that a text spells as Python does (`['a', "b"]`); None if it spells none, or takes a megabyte to."""
    if len(text) > 1 << 20:  # Python's parser makes hundreds of bytes of one
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


def labelled(texts: list[str], file: str) -> list[tuple[str, str]]:
    """Options under letters from A: as many as the row has, never a fixed number."""
    if not 2 <= len(texts) <= len(ascii_uppercase):
        raise InputError("bad_field", file, f"{len(texts)} options")
    return list(zip(ascii_uppercase, texts, strict=False))
