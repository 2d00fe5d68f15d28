"""Test items and passages in training texts: every form of an item, what must stay, and words as arrays."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_module
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from bench import proof_forms, reports
from manifests.proof import ngrams
from manifests.proof.certificate import read_certificate
from manifests.proof.near_text import NearTextIndex
from manifests.proof.ngrams import GramTable, Vocabulary, window_hashes, word_list
from manifests.proof.policy import load_policy
from manifests.proof.text_pairs import EvalText, TextMatch
from medgpt.text import fold

DEFAULT = load_policy().text
CASES = Path(__file__).parents[2] / "shared" / "cases"

CJK_NAMES = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "KATAKANA LETTER")


def plain_words(text: str) -> list[str]:
    """A word is a run of letters and digits of the folded text; an ideograph or kana is one by itself."""
    import unicodedata

    words, word = [], ""
    for letter in fold(text):
        alone = unicodedata.name(letter, "").startswith(CJK_NAMES)
        if alone or not letter.isalnum():
            words += [word] if word else []
            words += [letter] if alone else []
            word = ""
        else:
            word += letter
    return words + ([word] if word else [])


def plain_grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def document_frequency(texts: Sequence[Sequence[str]], n: int) -> Counter[tuple[str, ...]]:
    return Counter(gram for words in texts for gram in set(plain_grams(words, n)))


# ---- words


LETTERS = st.one_of(
    st.characters(),
    st.sampled_from("aAbB09_ \n.,-éÉßŉİıſﬁＡ①²Ǆ中文字ひカｶﾞー々〇한국어ρςΣаЯ\u0301\u0307\u0345\x00\u200b\u3000"),
)
ANY_TEXT = st.text(LETTERS, max_size=40)


@given(st.lists(ANY_TEXT, max_size=6))
def test_words_of_a_batch_are_those_of_each_text(texts: list[str]) -> None:
    lists = [word_list(text) for text in texts]
    vocabulary = Vocabulary(word for words in lists for word in words[::2])
    batch = vocabulary.read(texts)
    assert len(batch.bounds) == len(texts) + 1
    named = {0: None, **dict(enumerate(vocabulary.words, 1))}
    for number, words in enumerate(lists):
        read = batch.ids[batch.bounds[number] : batch.bounds[number + 1]].tolist()
        assert [named[i] for i in read] == [word if word in vocabulary.words else None for word in words]


@given(ANY_TEXT)
def test_word_list_is_the_stated_rule(text: str) -> None:
    marks = re.compile("[\u3005-\u3007ー〱-〵\u309d-\u309f\u30fc-\u30ff\U0001aff0-\U0001b16f]")
    assert word_list(marks.sub(" ", text)) == plain_words(marks.sub(" ", text))


def test_every_code_point_is_read_as_word_list_reads_it() -> None:
    for low in range(0, 0x110000, 0x8000):
        texts = [f"x{chr(code)}y" for code in range(low, low + 0x8000)]
        lists = [word_list(text) for text in texts]
        batch = Vocabulary(["x", "y"]).read(texts)
        assert np.diff(batch.bounds).tolist() == [len(words) for words in lists], hex(low)
        every = Vocabulary(word for words in lists for word in words)
        named = [every.words[number - 1] for number in every.read(texts).ids]
        assert named == [word for words in lists for word in words], hex(low)


def test_ideographs_are_words_and_scripts_with_spaces_are_not_cut() -> None:
    assert word_list("急性心肌梗死 ST段抬高") == [*"急性心肌梗死", "st", *"段抬高"]
    assert word_list("カルテｶﾙﾃ") == [*"カルテカルテ"]
    assert word_list("의료 영상 Straße ＣＴ") == ["의료", "영상", "strasse", "ct"]
    assert word_list("a_b don't 3.5") == ["a", "b", "don", "t", "3", "5"]


@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 13))
def test_equal_windows_have_equal_hashes(numbers: list[int], n: int) -> None:
    hashes = window_hashes(np.array(numbers, np.int32), n).tolist()
    windows = plain_grams(list(map(str, numbers)), n)
    assert len(hashes) == len(windows)
    assert len(set(zip(windows, hashes, strict=True))) == len(set(windows)) == len(set(hashes))


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), max_size=5), st.integers(1, 4))
def test_gram_table_knows_every_ngram_and_its_texts(texts: list[list[str]], n: int) -> None:
    vocabulary = Vocabulary("abc")
    ids = vocabulary.ids(word for words in texts for word in words)
    bounds = np.cumsum([0, *map(len, texts)])
    table = GramTable(ids, bounds, n)
    df = document_frequency(texts, n)
    known = [tuple(vocabulary.words[i - 1] for i in ids[place : place + n]) for place in table.first]
    assert dict(zip(known, table.df.tolist(), strict=True)) == df
    for gram, place in enumerate(table.first):
        same = [p for p in range(len(ids)) if table.at[p] == gram]
        assert place == same[0]
    places, _, owners = table.find(ids, bounds)
    assert places.tolist() == [bounds[t] + i for t, words in enumerate(texts) for i in range(len(words) - n + 1)]
    assert owners.tolist() == [t for t, words in enumerate(texts) for _ in range(len(words) - n + 1)]


# ---- items

VIGNETTE = proof_forms.Item(
    "made up",
    "A 47-year-old beekeeper from the valley of Orlan presents with progressive hoarseness, a lacy rash over both "
    "shins and a serum copper of 12 mg/dL, fi\u00e8vre and hemoglobin of 9. Which enzyme is most likely deficient?",
    ("Prolidase", "Transketolase of Brandt", "Myeloperoxidase", "Arginase"),
    "Transketolase of Brandt",
)
QUESTION = proof_forms.Item(
    "made up",
    "Which structure forms the roof of the invented canal of Adler in the newborn esophagus?",
    ("Blue ligament", "Green fascia", "Grey septum", "Red membrane"),
    "Green fascia",
)
SHORT = proof_forms.Item("made up", "What is xanthomelia?", ("A rash", "Yellow limbs", "A tumour"), "Yellow limbs")
COMMON = proof_forms.Item(
    "made up",
    "Which of the following is true?",
    ("Alpha blocks beta quickly", "Gamma never leaves delta"),
    "Gamma never leaves delta",
)
ITEMS = [VIGNETTE, QUESTION, SHORT, COMMON]
proof_forms.FILLER[:] = [f"{start}{end}" for start in ("lo", "mi", "ta", "ru") for end in ("ren", "sal", "dor")] * 300


def index(items: Sequence[proof_forms.Item] = ITEMS, **limits: Any) -> NearTextIndex:
    evals = [EvalText(one.stem, one.gold, (one.stem,)) for one in items]
    return NearTextIndex(evals, structs.replace(DEFAULT, **limits))


def matches(*records: str, items: Sequence[proof_forms.Item] = ITEMS, **limits: Any) -> list[TextMatch]:
    return index(items, **limits).scan([list(records)]).matches


def kinds(record: str, item: proof_forms.Item) -> set[str]:
    return {match.kind for match in matches(record) if ITEMS[match.eval] == item}


@pytest.mark.parametrize("form", proof_forms.VERBATIM, ids=lambda form: form.__name__)
@pytest.mark.parametrize("item", ITEMS, ids=["vignette", "question", "short", "common"])
def test_an_item_is_found_in_every_form_that_keeps_stem_and_answer(
    form: proof_forms.Form, item: proof_forms.Item
) -> None:
    found = kinds(form(item, random.Random(1)), item)
    wanted = {"stem"} if item in (VIGNETTE, QUESTION) else {"stem_answer"}
    if not (item is COMMON and form in (proof_forms.long_reasoning,)):
        assert wanted <= found


@pytest.mark.parametrize(
    "form", (*proof_forms.CHANGED, *proof_forms.OTHERS, *proof_forms.UNSEEN), ids=lambda form: form.__name__
)
@pytest.mark.parametrize("item", [VIGNETTE, QUESTION], ids=["vignette", "question"])
def test_an_item_is_found_with_its_words_changed(form: proof_forms.Form, item: proof_forms.Item) -> None:
    assert kinds(form(item, random.Random(1)), item)


@pytest.mark.parametrize(
    "stem",
    [
        VIGNETTE.stem.replace("47", "61"), VIGNETTE.stem.replace("is most likely", "is not most likely"),
        VIGNETTE.stem.replace("copper of 12", "copper of 31"),
    ],
)  # fmt: skip
def test_the_same_item_with_other_numbers_or_turned_round_is_a_sibling(stem: str) -> None:
    assert "sibling" in kinds(f"{stem}\nArginase", VIGNETTE)
    assert "sibling" not in kinds(f"{VIGNETTE.stem}\nArginase", VIGNETTE)


@pytest.mark.parametrize(
    "record",
    [
        # Another question under the same options, whichever is right there.
        "Which pigment colours the Adler moth?\nA. Blue ligament\nB. Green fascia\nC. Grey septum\nGreen fascia",
        "Which of the following is heaviest?\nAlpha blocks beta quickly\nGamma never leaves delta, says the book",
        "Blue ligament, green fascia, grey septum, red membrane",
        # A short stem without its answer, a common one with another.
        "What is xanthomelia? Nobody can tell.",
        "Which of the following is true? The earth is round.",
        # The same subject.
        "The canal of Adler was invented long ago. In the newborn it is short, and the esophagus lies behind it.",
        "A 47-year-old man presents with a rash. Which of the following is the most likely diagnosis?",
    ],
)
def test_what_must_stay(record: str) -> None:
    assert matches(record) == []


def test_an_answer_counts_though_misread_or_made_of_words_of_its_stem_and_far_off_it_does_not() -> None:
    half = " ".join(VIGNETTE.stem.split()[:18])
    assert kinds(f"{half}\nTransketo1ase of Brandf", VIGNETTE) == {"stem_answer"}
    assert not kinds(f"{half}\nTetracycline", VIGNETTE)
    assert not kinds(f"Lacy rash over both shins, hoarseness. {'lorem ' * 80} {VIGNETTE.gold}", VIGNETTE)
    stem, gold = (
        "Pressure upon the hollow facet of Orlan wears out which lateral part of it?",
        "The lateral part of it all",
    )
    [match] = matches(
        f"Pressure upon the hollow facet of Orlan ...\n{gold}", items=[QUESTION._replace(stem=stem, gold=gold)]
    )
    assert match.kind == "stem_answer"


PROSE = "Much has been written about moths and their colours, and more will be said of them in other places. " * 12


def test_in_prose_the_answer_to_part_of_a_stem_must_stand_for_itself() -> None:
    """A page about a stem's subject has its words and its answer inside sentences; a cut item has it on a line."""
    stem = "Pressure upon the hollow facet of Orlan wears out which lateral part of it?"
    item = QUESTION._replace(stem=stem, gold="Septum of Hale")
    said = "the hollow facet of Orlan wears out in the Septum of Hale when moths are old and heavy"
    assert matches(f"{PROSE}In a few of them {said}. {PROSE}", items=[item]) == []
    part = "Pressure upon the hollow facet of Orlan wears"
    for answer in (
        "\nSeptum of Hale\n",
        " ... The answer is Septum of Hale. ",
        '", "output": "Septum of Hale", "x": "',
    ):
        [match] = matches(f"{PROSE}\n{part}{answer}{PROSE}", items=[item])
        assert match.kind == "stem_answer"


def test_a_stem_that_says_nothing_must_stand_for_itself() -> None:
    item = QUESTION._replace(stem="The most likely diagnosis", gold="Septum of Hale", options=())
    options = "\nA. Adler moth\nB. Orlan facet\nC. Septum of Hale\n"
    assert matches(f"{PROSE}In view of that, what is the most likely diagnosis?{options}", items=[item]) == []
    [match] = matches(f"{PROSE}\nThe most likely diagnosis:{options}", items=[item])
    assert match.kind == "stem_answer"


def test_an_answer_that_many_stems_have_says_little() -> None:
    items = [proof_forms.Item("made up", f"Is grandmal{n} a risk factor for obesity?", (), "yes") for n in range(60)]
    record = f"Question: Is being small a risk factor for retinopathy?\nA. yes\nB. no\n{PROSE}"
    assert matches(record, items=items) == []
    assert {match.eval for match in matches(f"{items[7].stem}\nyes\n{PROSE}", items=items)} == {7}


@pytest.mark.parametrize(
    "hidden", ["\u200b", "\u00ad", "&shy;", "\u2060", "\u202e", "&#8203;", "\ufeff", "\u0336", "\x08"]
)
def test_letters_that_nobody_sees_hide_nothing(hidden: str) -> None:
    stem = re.sub(r"(?<=\w)(?=\w)", hidden, QUESTION.stem)
    [match] = [match for match in matches(stem) if match.kind == "stem"]
    assert (match.eval, match.score) == (1, 1.0)


def test_items_of_one_stem_are_named_up_to_a_number_and_told_apart_by_their_answers() -> None:
    many = [proof_forms.Item("made up", QUESTION.stem, (), f"Answer{n} of many") for n in range(40)]
    found = matches(QUESTION.stem, items=many)
    assert [match.eval for match in found if match.kind == "stem"] == list(range(25))
    assert {match.eval_df for match in found} == {40}
    short = [SHORT, SHORT._replace(gold="A rash")]
    assert [match.eval for match in matches("What is xanthomelia? A rash", items=short)] == [1]


def test_matches_do_not_depend_on_batches() -> None:
    records = [form(item, random.Random(2)) for form in proof_forms.VERBATIM for item in ITEMS]
    whole = index().scan([records])
    assert whole == index().scan([[record] for record in records])
    assert whole.counts["train_samples"] == len(records)


def test_nothing_to_compare() -> None:
    for evals in ([], [EvalText("", "", ())], [EvalText("?", "!", ("", "..."))]):
        for records in ([], [""], ["a b", "\x00", "?"]):
            scan = NearTextIndex(evals, DEFAULT).scan([records])
            assert not scan.matches and not scan.boilerplate


@pytest.mark.parametrize("name", ["window_hashes", "_hashes_of"])
def test_test_sides_that_collide_get_another_hash_or_a_clear_refusal(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong, limit = getattr(ngrams, name), 3

    def constant(values: Any, *rest: int) -> Any:
        hashes = strong(values, *rest)
        return np.full_like(hashes, 7) if rest[-1] < limit else hashes

    monkeypatch.setattr(ngrams, name, constant)
    assert [match.eval for match in matches(QUESTION.stem, items=[QUESTION])] == [0]
    limit = ngrams._SALTS
    with pytest.raises(ValueError, match=f"of the test side collide under each of {limit} hashes"):
        index([QUESTION])


# ---- passages

NOTE = " ".join(
    f"{a}{b}{c}" for a in ("ka", "po", "zu") for b in ("rim", "tol", "ved", "xan") for c in ("is", "or", "um", "el")
)


@pytest.mark.parametrize("items", [1, 20, 30, 400])
def test_a_passage_is_found_however_many_items_share_it(items: int) -> None:
    evals = [EvalText("", "yes", (f"Patient: {NOTE} Trial: number{n} of site{n}. Eligible?",)) for n in range(items)]
    record = f"Summarise this. {' '.join(proof_forms.FILLER[:300])} {NOTE} {' '.join(proof_forms.FILLER[:300])}"
    found = NearTextIndex(evals, DEFAULT).scan([[record, "Hello there."]]).matches
    assert [match.eval for match in found] == list(range(min(items, 25)))
    assert {(match.train, match.kind, match.words, match.eval_df) for match in found} == {(0, "passage", 48, items)}
    assert {match.span for match in found} == {NOTE}


def test_a_run_that_many_samples_of_a_part_hold_is_boilerplate_and_listed() -> None:
    evals = [EvalText("", "", (f"{NOTE} one two",))]
    found = NearTextIndex(evals, DEFAULT).scan([[f"{NOTE} {n}" for n in range(30)] + ["nothing"] * 30])
    assert not found.matches
    assert set(found.boilerplate.values()) == {(1, 30)}
    assert " ".join(NOTE.split()[:8]) in found.boilerplate
    rare = NearTextIndex(evals, DEFAULT).scan([[f"{NOTE} {n}" for n in range(25)]])
    assert len(rare.matches) == 25 and not rare.boilerplate


@pytest.mark.parametrize(("words", "found"), [(30, False), (50, True), (130, True)])
def test_a_small_part_of_a_passage_is_no_passage_unless_it_is_long(words: int, found: bool) -> None:
    note = " ".join(f"{word}{end}" for end in ("a", "e", "i") for word in NOTE.split())
    record = " ".join(note.split()[:words])
    assert bool(NearTextIndex([EvalText("", "", (note,))], DEFAULT).scan([[record]]).matches) is found


def test_our_own_template_and_what_says_little_are_no_passages() -> None:
    asked = "which of the following is the most likely diagnosis in this patient with pain and fever of two days " * 3
    assert not NearTextIndex([EvalText("", "", (asked,))], DEFAULT).scan([[asked]]).matches
    evals = [EvalText("", "", (f"{NOTE} case{n}",), "ours") for n in range(4)]
    assert not NearTextIndex(evals, DEFAULT).scan([[NOTE]]).matches


# ---- reports

USUAL = "The lungs are clear without focal consolidation and there is no pleural effusion or pneumothorax on this film."
RARE = (
    "A dysmorphic azygos fissure abuts the brachiocephalic stent while a migrated Kirschner wire indents the trachea."
)
OTHER = "Bilateral cervical ribs and a partially calcified hydatid cyst displace the aberrant subclavian artery."


def reports_index(*reports: tuple[str, str], **limits: Any) -> NearTextIndex:
    evals = [EvalText("", "", (text,), together=patient) for patient, text in reports]
    return NearTextIndex(evals, structs.replace(DEFAULT, **limits))


def test_what_the_reports_of_many_patients_have_is_boilerplate_and_one_patients_reports_are_one_patient() -> None:
    report = f"{USUAL} {RARE}"
    many = [(f"patient{n}", f"{USUAL} {USUAL}") for n in range(6)]
    index = reports_index(*many, *[("ours", report)] * 9)
    assert index.usual == list(range(6))
    scan = index.scan([[f"{USUAL} {USUAL}", report, RARE, f"{OTHER} {report} {OTHER}"]])
    assert {(match.train, match.kind) for match in scan.matches} == {(1, "passage"), (3, "passage")}
    # The rare sentence alone is too little of it: fewer words than make a passage.
    assert len(RARE.split()) < DEFAULT.passage_words
    assert all(eval_df in (6, 15) for eval_df, _ in scan.boilerplate.values()) and scan.boilerplate
    # Nobody says whose they are: a passage that many items share is none the less one.
    assert reports_index(*[("", report)] * 9).scan([[report]]).matches


@pytest.mark.parametrize(("patients", "found"), [(2, True), (3, False)])
def test_patients_of_the_train_side_are_counted_too(patients: int, found: bool) -> None:
    report = f"{USUAL} {RARE}"
    whose = [f"patient{n % patients}" for n in range(12)]
    scan = reports_index(("ours", report)).scan([[report] * 6, [report] * 6], whose)
    assert bool(scan.matches) is found
    assert bool(scan.boilerplate) is not found
    assert reports_index(("ours", report)).scan([[report] * 12]).matches


def test_what_is_private_is_no_boilerplate_to_read() -> None:
    evals = [EvalText("", "", (USUAL,), together=f"patient{n}", private=n > 0) for n in range(4)]
    for tests, digests in (evals, False), (evals[1:], True):
        listed = NearTextIndex(tests, DEFAULT).scan([[USUAL]]).boilerplate
        assert listed and all(gram.startswith("sha256:") is digests for gram in listed)


def test_made_reports_are_found_in_every_form_and_hardly_one_is_taken_out_wrongly() -> None:
    figures = reports.figures(reports.reports(1_200))
    wrong, of = map(int, figures["taken out though nothing was planted"].split(" of "))
    assert wrong <= 0.005 * of
    least = {"verbatim": 0.85, "in_a_document": 0.85, "lower_cased": 0.85, "reordered": 0.8, "cut": 0.4}
    assert {form for form, share in least.items() if float(figures[form].split()[0]) < share} == set()


# ---- prove and verify, two roads


@pytest.mark.parametrize(
    ("case", "test", "out"), [("verbatim_open", "eval", 2), ("common_df", "eval20", 1), ("common_df", "eval30", 1)]
)
def test_cases(case: str, test: str, out: int, tmp_path: Path) -> None:
    folder = CASES / case
    if not folder.is_dir():
        pytest.skip(f"no case at {folder}")
    sides = ["--train", str(folder / "train"), "--eval", str(folder / test), "--out", str(tmp_path), "--quiet"]
    done = run_module("manifests.prove", *sides)
    assert done.returncode == 0, done.stdout + done.stderr
    certificate = read_certificate(tmp_path / "proof")
    assert sum(row["train_samples"] for row in certificate["exclusions"]) == out


def test_the_second_derivation_agrees_on_every_form(tmp_path: Path) -> None:
    """Items that share words, in all forms and cut anywhere: `verify` finds the same rows by dictionaries."""
    chance = random.Random(3)
    syllables = [a + b for a in ("ka", "po", "zu", "li", "me") for b in ("rim", "tol", "ved", "xan")]
    words = syllables + "which of the following is not the most common cause true 3 45 patient acute".split() * 2
    items = list(ITEMS)
    for _ in range(60):
        stem = " ".join(chance.choices(words, k=chance.choice((1, 2, 4, 9, 20, 70))))
        items.append(
            proof_forms.Item("made up", stem, ("a", "b"), " ".join(chance.choices(words, k=chance.randint(1, 5))))
        )
    items += [item._replace(gold=chance.choice(words)) for item in items[:10]]
    forms = (
        *proof_forms.VERBATIM, *proof_forms.CHANGED, *proof_forms.SIBLINGS, *proof_forms.OTHERS, *proof_forms.UNSEEN,
    )  # fmt: skip
    records = [form(item, chance) for form in forms for item in items[:: chance.randint(1, 3)]]
    records += [" ".join(chance.sample(text.split(), len(text.split()))) for text in records[::9]]
    tests = [{"question": one.stem, "answer": one.gold} for one in items]
    # Reports, of the patients of both sides, of one of these, and of nobody; some tests are copied into train.
    made = [{"text": one.text, "patient": one.patient} for one in reports.reports(260)]
    tests += made[:60]
    train = [{"text": text} for text in records]
    train += [*made[60:], *({"text": f"{RARE} {one['text']} {RARE}"} for one in made[:60:2])]
    mapping = tmp_path / "map.yaml"
    sides_say = {"text": "text", "groups": {"subject_id": {"field": "patient", "prefix": "made"}}}
    asks = {"question": "question", "answer": "answer"}
    mapping.write_text(
        json.dumps({"license": "CC0-1.0", "access": "open", "train": sides_say, "eval": sides_say | asks})
    )
    for side, rows in ("test", tests), ("train", train):
        (tmp_path / side).mkdir()
        (tmp_path / side / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sides = ["--train", str(tmp_path / "train"), "--eval", str(tmp_path / "test"), "--out", str(tmp_path / "out")]
    done = run_module("manifests.prove", *sides, "--mapping", str(mapping), "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    certificate = read_certificate(tmp_path / "out" / "proof")
    assert {row["kind"] for row in certificate["matrix"] if row["level"] == "near_text"} >= {
        "stem",
        "stem_answer",
        "passage",
    }
    assert "words of many patients' reports" in {row["reason"] for row in certificate["left_out_of_near_text"]}
    assert certificate["common_ngrams"]
    done = run_module(
        "manifests.verify", str(tmp_path / "out" / "corpus"), "--proof", str(tmp_path / "out" / "proof"), "--quiet"
    )
    assert done.returncode == 0, done.stdout + done.stderr
