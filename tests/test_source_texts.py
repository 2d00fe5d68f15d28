"""Texts as publishers shape them: options in a prompt, reasoning in tags, turns of a conversation."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.engine.source import InputError
from builders.engine.texts import dialogue, inline_options, split_thinking


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which?\nA. one\nB. two", ("Which?", ["one", "two"])),
        ("Which?\n\n(A) one\n\n(B) two\n", ("Which?", ["one", "two"])),
        ("Which?\nAnswer Choices:\nA) one\nB) two\nC) three\n\nThink first.", ("Which?", ["one", "two", "three"])),
        ("Which?\nOptions:\nA: one\nB: two", ("Which?", ["one", "two"])),
        ("A. is a letter\nWhich?\nA. one\nB. two", ("A. is a letter\nWhich?", ["one", "two"])),
        ("Which?\nA. one\nB. two\n  over two lines\nC. three", None),  # an option of two lines
        ("Which?\nA. one\nC. three", None),
        ("Which?\nA. one", None),
        ("A. one\nB. two", None),  # no question
        ("Which? A. one B. two", None),
        ("Why?", None),
        ("", None),
    ],
)
def test_inline_options(text: str, expected: tuple[str, list[str]] | None) -> None:
    question, options = inline_options(text)
    if expected is None:
        assert (question, options) == (text.strip(), None)
    else:
        assert (question, [option for _, option in options or ()]) == expected
        assert [label for label, _ in options or ()] == list("ABCDEFGHIJ"[: len(expected[1])])


LINE = st.from_regex(r"[a-z][a-z ,.]{0,20}[a-z]", fullmatch=True)


@given(stem=LINE, options=st.lists(LINE, min_size=2, max_size=10))
def test_inline_options_are_those_written(stem: str, options: list[str]) -> None:
    listed = "\n".join(f"{label}. {text}" for label, text in zip("ABCDEFGHIJ", options, strict=False))
    assert inline_options(f"{stem}\n{listed}") == (stem, list(zip("ABCDEFGHIJ", options, strict=False)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think>b", ("a", "b")),
        ("  <think>\na\n</think>\n\nb\n", ("a", "b")),
        ("a</think>b", ("a", "b")),
        ("<think></think>b", (None, "b")),
        ("<think>a</think> c <think>d</think>b", ("a c d", "b")),
        ("b", (None, "b")),
        ("the tag <think> is written so", (None, "the tag <think> is written so")),
        ("<thinking>\na\n</thinking>\nb", ("a", "b")),
    ],
)
def test_split_thinking(text: str, expected: tuple[str | None, str]) -> None:
    assert split_thinking(text, "f") == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [("<think>a", "unfinished_reasoning"), ("<think>a</think> ", "empty_answer"), (" ", "empty_answer")],
)
def test_split_thinking_without_an_answer(text: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        split_thinking(text, "f")
    assert caught.value.reason == reason


@given(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant"]), st.sampled_from(["", "x"])), max_size=6))
def test_dialogue_is_whole_or_refused(turns: list[tuple[str, str]]) -> None:
    try:
        messages = dialogue(turns, "f")
    except InputError as error:
        assert error.reason in {"odd_turns", "empty_question", "empty_answer"}
        return
    roles = [message["role"] for message in messages]
    talk = roles[1:] if roles[0] == "system" else roles
    assert talk == ["user", "assistant"] * (len(talk) // 2)
    assert talk
    assert [(m["role"], m["content"][0]["text"]) for m in messages] == [turn for turn in turns if turn[1]]
