"""Which option an answer names: the given cases, our own, and what holds of any text."""

from __future__ import annotations

import json
import random
import time

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st
from reading_outputs import Output, read_outputs

from eval.mcq import accepted_texts, grade, literal_option, read_option
from medgpt.replies import final_text

CASES = ROOT.parent / "shared" / "reference" / "mcq_cases.jsonl"
FOUR = (("A", "Sarcoidosis"), ("B", "Pneumonia"), ("C", "Pulmonary embolism"), ("D", "Lung adenocarcinoma"))
TRIAL = (("A", "not eligible"), ("B", "not enough information"), ("C", "eligible"), ("D", "partially eligible"))
TEN = tuple((label, f"Finding number {place}") for place, label in enumerate("ABCDEFGHIJ"))


def test_given_cases() -> None:
    if not CASES.is_file():
        pytest.skip(f"no cases at {CASES}")
    cases = [json.loads(line) for line in CASES.read_text(encoding="utf-8").splitlines() if line]
    assert len(cases) == 127
    for case in cases:
        found = grade(case["output"], tuple(case["options"].items()), case["gold"])
        verdict = "invalid" if found.reading.option is None else "correct" if found.correct else "wrong"
        assert verdict == case["strict_verdict"], (case["output"], case["why"], found.reading)


OUTPUTS = [output for name in ("outputs", "fresh", "last", "seen") for output in read_outputs(f"reading_{name}.txt")]


def test_the_rule_reads_as_a_reader_does_and_gives_no_false_credit() -> None:
    """Answers in real models' styles; what a reader takes for no answer must not be read as one."""

    def agrees(output: Output) -> bool:
        option = read_option(output.text, output.options).option
        return option in output.verdict if output.verdict else option is None

    lost = [output for output in OUTPUTS if not agrees(output)]
    assert [output.text for output in lost if read_option(output.text, output.options).option] == []
    assert len(OUTPUTS) > 1200 and len(lost) <= 0.013 * len(OUTPUTS)


def test_lenient_is_an_upper_bound_of_the_reader_too() -> None:
    for output in OUTPUTS:
        for label in output.verdict:
            assert grade(output.text, output.options, label).lenient, output.text


@pytest.mark.parametrize(
    ("text", "option"),
    [
        # Of two declarations the later counts after words that take the first back, also on one line.
        ("The answer is A. No wait, the answer is B.", "B"),
        ("The answer is A? No, the answer is B.", "B"),
        ("Answer: The answer is B", "B"),
        ("Answer: A\n\nOn reflection:\nAnswer: C", "C"),
        ("The answer is A.\nB is correct.", None),
        ("The answer is A.\nSorry, B is correct.", "B"),
        ("\\boxed{A} ... \\boxed{C}", "C"),
        ("\\boxed{C}\nThe answer is A.", "C"),
        ("Answer: B\nAnswer: E", None),
        ("Answer: B\nThe answer is unclear.", None),
        # Words after a declared label on its line take nothing back, unless they name an option themselves.
        ("Answer: B. This option is typical of lobar disease.", "B"),
        ("The answer is B. A cavity is seen.", "B"),
        ("The answer is B. I see consolidation.", "B"),
        # Two labels are no choice, whichever letters they are.
        ("Answer: (B) (A)", None),
        ("Answer: B (A)", None),
        ("Answer: (C) A", None),
        ("Answer: A & B", None),
        ("\\boxed{A and B}", None),
        ("A or B", None),
        # Presentation.
        ("\\boxed{\\textbf{(B)}}", "B"),
        ("**Ｂ**", "B"),
        ("<b>B</b>", "B"),
        ("答案是 B", "B"),
        ("## Answer\n\nB", "B"),
        # Only the answer is read.
        ("<think>A</think>The rest. <think>B", None),
        ("<think>B</think>The answer is A.</think>C", "C"),
        ("<think>A</think><answer>The answer is A</answer><answer>C</answer>", "C"),
        ("<|channel|>final<|message|><answer>B</answer>", "B"),
        ("<|channel|>final <|constrain|>json<|message|>B<|end|>", "B"),
        ("<|channel|>final<|message|>A<|end|><|start|>assistant<|channel|>final<|message|><|return|>", None),
        ("<|channel|>final<|message|>B<|end|><|start|>assistant<|channel|>analysis<|message|>A", "B"),
        ("<|channel|>commentary<|message|>B<|end|>", None),
        ("It is A, surely.assistantfinalB", "B"),
        ("analysisThe answer is B", None),
        ("analysis of the film shows pneumonia.\nAnswer: B", "B"),
        ("<unused94>The answer is A", None),
        ("<|START_THINKING|>The answer is A<|END_THINKING|><|START_RESPONSE|>B<|END_RESPONSE|>", "B"),
        ("<|START_THINKING|>The answer is A", None),
        ("<|thinking|>the answer is A<|/thinking|>B", "B"),
        ("<scratchpad>A or C. The answer is A.</scratchpad>\nAnswer: B", "B"),
        ("<output>B</output>", "B"),
        ("<choice>B</choice>", "B"),
        ("<final>Not B</final>", None),
        ('["B"]', "B"),
        ('["A", "B"]', None),
        ('{"answer": B}', "B"),
        ('{"answer": B, "why": "fever"}', "B"),
        ('{"answer": A or B}', None),
        ("Answer: A\nCorrection: B", "B"),
        ("Answer: A\n\nCorrection of the deficit: C is used later.", "A"),
        ("B è la risposta corretta.", "B"),
        ("\\boxed{B}\\boxed{C}", None),
        ("\\boxed{B}\n\\boxed{B}", "B"),
        # What fits best; other languages.
        ("Of the options, (B) best explains the findings.", "B"),
        ("B best explains the fever, but C is more likely.", None),
        ("If febrile, B best fits.", None),
        ("B best explains the fever.\nAnswer: C", "C"),
        ("Most consistent with B.", "B"),
        ("Most consistent with vitamin B.", None),
        ("B is correct, if the patient has fever.", None),
        ("B ist richtig.", "B"),
        ("B ist richtig, wenn Fieber besteht.", None),
        ("Nicht B ist richtig.", None),
        ("La risposta corretta è B.", "B"),
        ("La risposta corretta non è B.", None),
        ("B est la bonne réponse.", "B"),
        ("A resposta correta é a opção B.", "B"),
        ("A resposta correta é a B.", "B"),
        ("B não é correta.", None),
        ("The answer is A B.", None),
        # Not the item's.
        ("E", None),
        ("Answer: 2", None),
        ("Answer: Z. Pneumonia", None),
        # Text of an option.
        ("Answer: pulmonary  embolism.", "C"),
        ("PNEUMONIA", "B"),
        ("Pneumonia, bacterial", None),
        ("Not pneumonia", None),
        (None, None),
        ("\ufffd\ufffd", None),
        ("   \n", None),
    ],
)  # fmt: skip
def test_own_cases(text: str | None, option: str | None) -> None:
    assert read_option(text, FOUR).option == option


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("2", "2"), ("Answer: 2", "2"), ("(2)", "2"), ("2. Stage 3", None), ("3) Stage 3", "3"), ("Stage 2", "2"),
        ("Option 2 is correct.", "2"), ("**2**", "2"), ("\\boxed{2}", "2"), ('{"answer": 2}', "2"), ("Answer: 7", None),
        ("The answer is 2 or 3.", None), ("Answer: 2.5", None), ("The dose is 2 tablets.", None), ("Not 2.", None),
        ("1. Stage 1\n2. Stage 2\n3. Stage 3", None), ("<think>Answer: 1</think>Answer: 3 (Stage 3)", "3"),
        ("The patient improved by day 2.", None), ("There are 2 reasons:\n1. age\n2. size\n\nAnswer: 3", "3"),
    ],
)  # fmt: skip
def test_labels_may_be_numbers(text: str, option: str | None) -> None:
    assert read_option(text, tuple((label, f"Stage {label}") for label in "123")).option == option


def test_texts_within_each_other_are_told_apart() -> None:
    assert read_option("Answer: eligible", TRIAL).option == "C"
    assert read_option("Answer: Not eligible.", TRIAL).option == "A"
    assert read_option("The patient is not eligible", TRIAL).option is None
    assert grade("The patient is not eligible", TRIAL, "A").lenient
    assert not grade("The patient is not eligible", TRIAL, "C").lenient


def test_of_a_text_that_stands_twice_either_label_counts_unless_label_and_text_are_written() -> None:
    """MedMCQA repeats the right option in 4 rows of its validation split (medmcqa/medmcqa issue 5)."""
    options = (("A", "Mode - Mean / SD"), ("B", "Mean - Mode / SD"), ("C", "SD"), ("D", "mean - mode / SD."))
    said = {"B": True, "D": True, "Answer: D": True, "Mean - Mode / SD": True, "A": False, "C": False}
    for text, correct in {**said, "Answer: D. Mean - Mode / SD": False, "Answer: B. Mean - Mode / SD": True}.items():
        assert grade(text, options, "B").correct == correct, text
    assert read_option("D", options).option == "D"
    assert not grade("D", (("A", ""), ("D", "")), "A").correct  # nothing is said twice


def test_texts_that_are_letters_or_declarations() -> None:
    letters = (("A", "B"), ("B", "A"), ("C", "K"))
    assert [read_option(text, letters).option for text in ("A", "Answer: B", "Answer: K")] == ["A", "B", "C"]
    spoken = (("A", "The best option is surgery"), ("B", "Surgery"))
    assert read_option("Answer: A. The best option is surgery", spoken).option == "A"
    assert read_option("The best option is surgery", spoken).option == "B"


def test_lower_case_labels_are_labels() -> None:
    options = (("a", "Left"), ("b", "Right"))
    assert read_option("Answer: B", options).option == "b"


def test_why_there_is_no_answer_is_said() -> None:
    details = {
        "": "empty",
        "<|channel|>analysis<|message|>B": "no_final_channel",
        "<think>B": "reasoning_not_closed",
        "<think>x</think> ": "empty_final",
        "A\nfoo\nB": "conflicting_lines",
        "no idea": "no_answer_event",
        "\\boxed{}": "boxed_unresolved",
        "Answer: E": "declaration_unresolved",
        "The answer is A.\nThe answer is B.": "conflicting_declarations",
    }
    assert {text: read_option(text, FOUR).detail for text in details} == details


def test_open_questions_are_scored_by_exact_text() -> None:
    assert grade("Answer: 12.5 mg.", (), "12.5 mg").correct
    assert grade("**12.5 MG**", (), "12.5 mg").correct
    assert not grade("about 12.5 mg", (), "12.5 mg").correct
    assert grade("it is about 12.5 mg", (), "12.5 mg").lenient
    assert grade("12.5 mg", (), "12.5 mg").literal
    assert grade("12 mg", (), "12.5 mg").reading.option is None
    assert not grade("", (), "12.5 mg").correct
    assert not grade("", (), "").correct


def test_open_questions_may_accept_several_texts() -> None:
    """MMMU stores them as the text of a Python list; a list that is no list of texts is a text."""
    for said in ("4", "Four.", "Answer: four", "**4**"):
        assert grade(said, (), "['4', 'four']").correct, said
    assert grade("4", (), "['4', 'four']").literal and grade("so it is four then", (), "['4', 'four']").lenient
    for said in ("five", "", "['4', 'four']", "4 or five"):
        assert not grade(said, (), "['4', 'four']").correct, said
    assert grade("4", (), "['4', '4.']").correct  # equal but for punctuation: one text
    for gold in ("[1, 2]", "[]", "['']", "[4", "[x]"):
        assert accepted_texts(gold) == (gold,)
        assert grade(gold, (), gold).literal


def test_lenient_is_the_most_that_a_reading_could_give() -> None:
    def lenient(text: str) -> list[str]:
        return [label for label, _ in FOUR if grade(text, FOUR, label).lenient]

    assert lenient("B. Bacterial pneumonia") == ["B"]
    assert lenient("I think the most likely diagnosis is pneumonia.") == ["B"]
    assert lenient("so I would choose B") == ["B"]
    assert lenient("Pneumonia or sarcoidosis") == ["A", "B"]
    assert lenient("B or C") == ["B", "C"]
    assert lenient("Answer: B, though C is close") == ["B"]  # what strict reads stands
    assert lenient("A patient with fever") == []
    assert lenient("<think>pneumonia") == []


# What holds of any text ----------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        "A",
        "B",
        "(C)",
        "D.",
        "Answer:",
        "The answer is ",
        "option",
        "choice:",
        " is correct",
        "\n",
        ". ",
        ", ",
        " and ",
        "E",
        "not",
        "Pneumonia",
        "sarcoidosis",
        "because",
        "\\boxed{",
        "}",
        "**",
        "<think>",
        "</think>",
        "<answer>",
        "</answer>",
        "<|channel|>final<|message|>",
        "<|channel|>analysis<|message|>",
        "<|end|>",
        "assistantfinal",
        "analysis",
        "$",
        "：",
        "\u200b",
        "\ufffd",
        "I think ",
        "?",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(PIECES, max_size=12).map("".join), st.lists(PIECES, max_size=8).map(" ".join))
ITEMS = st.sampled_from([FOUR, TRIAL, TEN, (("A", "Yes"), ("B", "No")), (("A", "B"), ("B", "A"))])


@given(TEXTS, ITEMS, st.data())
def test_every_text_has_one_verdict(text: str, options: tuple[tuple[str, str], ...], data: st.DataObject) -> None:
    labels = [label for label, _ in options]
    gold = data.draw(st.sampled_from(labels))
    found = grade(text, options, gold)
    assert found.reading.option in (None, *labels)
    assert (found.reading.option is None) == (found.reading.rule == "none")
    assert found.correct == (gold in found.reading.alike)
    # Each rule takes what the stricter one takes.
    assert not found.literal or found.correct
    assert not found.correct or found.lenient
    # One answer is never right for two golds.
    grades = [grade(text, options, label) for label in labels]
    assert sum(one.correct for one in grades) <= 1
    assert grade(text, options, gold) == found


@given(TEXTS, TEXTS, ITEMS)
def test_reasoning_never_counts(reasoning: str, text: str, options: tuple[tuple[str, str], ...]) -> None:
    marks = ("<|channel|>", "assistantfinal", "<think>", "</think>", "<unused9")
    if any(mark in reasoning + text for mark in marks) or text.lstrip().startswith("analysis"):
        return
    plain = read_option(text, options).option
    assert read_option(f"<think>{reasoning}</think>{text}", options).option == plain
    channels = f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant<|channel|>final<|message|>{text}"
    if "<|" not in reasoning + text:
        assert read_option(channels, options).option == plain


FORMS = (
    "{label}",
    " {label}\n",
    "({label})",
    "{label}.",
    "**{label}**",
    "{label}. {text}",
    "{label}) {text}",
    "Answer: {label}",
    "Answer: {label}. {text}",
    "The answer is {label}.",
    "The correct answer is ({label}) {text}.",
    "Option {label}",
    "\\boxed{{{label}}}",
    "$\\boxed{{\\text{{{label}}}}}$",
    "{other} looks likely at first.\n\nAnswer: {label}",
    "Answer: {other}\nWait.\nAnswer: {label}",
    "<think>Answer: {other}</think>{label}",
    "{label} is correct.",
    "<answer>{other}</answer> no, <answer>{label}</answer>",
    "Answer:\n\n{label}",
    '{{"answer": "{label}"}}',
    "{text}",
)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_names_every_label(form: str) -> None:
    """By construction the option is known: ten labels, the article and the pronoun among them, texts in any order."""
    state = random.Random(form)
    for _ in range(20):
        texts = [text for _, text in TEN]
        state.shuffle(texts)
        options = tuple(zip("ABCDEFGHIJ", texts, strict=True))
        (label, text), (other, _) = state.sample(options, 2)
        answer = form.format(label=label, text=text, other=other)
        assert read_option(answer, options).option == label, answer
        assert literal_option(answer, options) == (label if answer.strip() == label else None)


def test_an_answer_of_empty_lines_is_read_at_once() -> None:
    """A model in a loop: 50,000 were half a minute. The next question behind some is still no part of the answer."""
    began = time.process_time()
    assert grade("\n" * 50_000, FOUR, "B").reading.detail == "empty"
    assert read_option("B" + "\n \r\n" * 20_000 + "Question: 2\nC", FOUR).option == "B"
    assert time.process_time() - began < 5


def test_an_answer_that_repeats_itself_is_read_at_once_and_as_its_first_turns_are() -> None:
    """16 kB without a stop were up to ten seconds each; "answer in the answer in the ..." did not end at all."""
    turns = (
        "I go with ", "answer is ", "is correct ", "\\boxed{", "答案是B。", '{"answer": ', "answer in the ", "option ",
        "The answer is B, wait, no. ", "So the answer is A. Therefore, B. ", "B. Pulmonary embolism\n", "A or B ",
    )  # fmt: skip
    began, seen = time.process_time(), set()
    for first in ("", "The answer is C. ", "Let us see.\n"):
        for turn in turns:
            for last in ("", "\nSo the answer is D."):
                short, long = (grade(first + turn * (size // len(turn)) + last, FOUR, "B") for size in (1_500, 16_000))
                assert short == long
                seen.add((long.reading.option, long.reading.rule))
    assert len(seen) > 4
    assert time.process_time() - began < 5


def test_channels_are_found_where_other_tools_lose_them() -> None:
    assert final_text("<|channel|>final<|message|>B") == ("B", "harmony")
    assert final_text("finalB") == ("finalB", "plain")
    assert final_text("<|start|>assistant<|channel|>analysis<|message|>B<|end|>")[0] is None
