"""Normalised text hashes against their plain definition, token counts against the tokenizer's own front end."""

from __future__ import annotations

import hashlib
import html
import re
import subprocess
import sys
import unicodedata

import bpe_openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgpt.text import count_tokens, fold, normalise, question_sha256, text_sha256

TEXT = st.one_of(st.text(max_size=60), st.text(st.characters(max_codepoint=127), max_size=60))


IGNORABLE = {
    0x34F,
    0x115F,
    0x1160,
    0x17B4,
    0x17B5,
    0x2065,
    0x3164,
    0xFFA0,
    *range(0x180B, 0x1810),
    *range(0xFE00, 0xFE10),
}
IGNORABLE |= {*range(0xFFF0, 0xFFF9), *range(0xE0000, 0xE1000)}
ACCENTS = {*range(0x300, 0x370), *range(0x1AB0, 0x1B00), *range(0x1DC0, 0x1E00), *range(0x20D0, 0x2100)}
ACCENTS |= {*range(0xFE20, 0xFE30)}


def plain(text: str) -> str:
    """The rule as the module states it, letter by letter."""
    for _ in range(3):
        text = html.unescape(text)
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text.casefold()).casefold())
    seen = [
        {"\u00e6": "ae", "\u0153": "oe"}.get(letter, letter)
        for letter in text
        if letter.isspace()
        or (unicodedata.category(letter) not in ("Cc", "Cf") and ord(letter) not in IGNORABLE | ACCENTS)
    ]
    return " ".join(re.findall(r"[^\W_]+", unicodedata.normalize("NFC", "".join(seen))))


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


@pytest.mark.parametrize(
    "written",
    [
        "hyper\u00adcalc\u200bemia", "hyper&shy;calc&#8203;emia", "hyper&amp;shy;calcemia", "\u202ehypercalcemia\u202c",
        "\ufeffhyper\u2060calcemia", "h\u0336ypercalcem\u0301ia", "hyper<b>calcemia</b>",
        "hyper<sub class='x'>calc</sub>emia",
        "\uff28\uff39\uff30ercalcemia", "hypercalcemia\x08", "hyper\ufe0fcalcemia", "hyper\U000e0061calcemia",
        "&lt;p&gt;hypercalcemia&lt;/p&gt;", "hyp\u00e9rcalc\u00eamia",
    ],
)  # fmt: skip
def test_what_a_reader_cannot_see_changes_nothing(written: str) -> None:
    assert normalise(f"of {written}, acute") == "of hypercalcemia acute"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a\u00a0b", "a b"), ("a&nbsp;b", "a b"), ("a\u2009\u3000b", "a b"), ("a<br/>b", "a b"), ("a\u2010b", "a-b"),
        ("it\u2019s \u201cx\u201d", "it's \"x\""), ("\ufb01brosis", "fibrosis"), ("c\u00e6cum", "caecum"),
        ("H\u2082O", "h2o"),
        ("p &lt; 0.05", "p < 0.05"), ("M\u00e9ni\u00e8re", "Meniere"),
    ],
)  # fmt: skip
def test_what_typesetting_changes_is_the_same_text(one: str, other: str) -> None:
    assert normalise(one) == normalise(other)


def test_what_differs_to_a_reader_differs() -> None:
    """Cyrillic letters that look like Latin ones are others; comparisons are no tags; kana keep their marks."""
    assert normalise("\u0441\u0430ncer") != normalise("cancer")
    assert normalise("a <b and c> d") == "a b and c d"
    assert normalise("\u304c") != normalise("\u304b")
    assert fold("A&B <i>C</i>") == "a&b c"


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


def test_the_vocabulary_is_loaded_without_the_front_end() -> None:
    """That unpacks three vocabularies into Python, 0.75 s of every worker; who needs it can still import it."""
    code = (
        "import sys; from medgpt.text import count_tokens; print(count_tokens('one two'), 'bpe_openai' in sys.modules);"
        "import bpe_openai; print(*bpe_openai.get_encoding('o200k_base').encode('one two'), count_tokens('one two'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2", "False", "690", "1920", "2"]
