"""Normalised text hashes against their plain definition, token counts against the tokenizer's own front end."""

from __future__ import annotations

import hashlib
import re
import unicodedata

import bpe_openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgpt.text import count_tokens, normalise, question_sha256, text_sha256

TEXT = st.one_of(st.text(max_size=60), st.text(st.characters(max_codepoint=127), max_size=60))


def plain(text: str) -> str:
    """The rule as the module's docstring states it."""
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFKC", text).casefold()))


@given(TEXT)
def test_normalise_is_the_stated_rule(text: str) -> None:
    assert normalise(text) == plain(text)


@given(question=TEXT, options=st.lists(TEXT, max_size=5))
def test_question_digests_are_those_of_the_normalised_texts(question: str, options: list[str]) -> None:
    alone, whole = question_sha256(question, options)
    stem = plain(question)
    if not stem:
        assert alone is whole is None
        return
    assert alone == hashlib.sha256(stem.encode()).digest() == text_sha256(question)
    assert whole == hashlib.sha256("\x00".join([stem, *sorted(map(plain, options))]).encode()).digest()


@pytest.mark.parametrize("mark", ["\x02", " \x02 ", "a \x02 b \x02", "\x02\x02"])
def test_control_characters_in_a_text_change_nothing(mark: str) -> None:
    assert question_sha256(f"What {mark} is it?", [mark, "b"]) == question_sha256(
        f"What {mark.replace(chr(2), ' ')} is it?", [mark.replace("\x02", " "), "b"]
    )


def test_layout_does_not_matter_and_content_does() -> None:
    first = question_sha256("Which drug\nis   BEST?", ["(a) Aspirin.", "Ibuprofen"])
    assert first == question_sha256("which drug is best", ["ibuprofen", "A: aspirin"])
    assert first[0] == question_sha256("Which drug is best", ["other"])[0]
    assert first[1] != question_sha256("Which drug is best", ["other"])[1]
    assert question_sha256("图像的模态是什么?") != question_sha256("这是什么器官?")
    assert question_sha256("?!") == question_sha256(None) == (None, None)


@given(TEXT)
def test_tokens_are_counted_as_the_front_end_would(text: str) -> None:
    assert count_tokens(text) == len(bpe_openai.get_encoding("o200k_base").encode_ordinary(text))


def test_long_texts_are_counted() -> None:
    """The package's own front end refuses a million characters."""
    assert count_tokens("word " * 250_000) == pytest.approx(250_000, abs=2)
