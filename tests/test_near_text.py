"""Near-duplicate text against plain implementations of the same definitions, word by word and pair by pair."""

from __future__ import annotations

import math
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from manifests.proof import near_text, ngrams
from manifests.proof.near_text import EvalText, NearTextIndex, TextMatch, TrainText
from manifests.proof.ngrams import GramTable, Vocabulary, window_hashes, word_list
from manifests.proof.policy import TextSettings, load_policy

DEFAULT = load_policy().text

# ---- the definitions, in plain Python

CJK_NAMES = ("CJK UNIFIED IDEOGRAPH", "CJK COMPATIBILITY IDEOGRAPH", "HIRAGANA LETTER", "KATAKANA LETTER")


def plain_words(text: str) -> list[str]:
    """A word is a run of letters and digits of the folded text; an ideograph or kana is one by itself."""
    words, word = [], ""
    for letter in unicodedata.normalize("NFKC", text).casefold():
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


def plain_runs(evals: Sequence[EvalText], trains: Sequence[TrainText], limit: TextSettings) -> list[TextMatch]:
    n = min(limit.run_words)
    records = [plain_words(text.record) for text in evals]
    df = document_frequency(records, n)
    matches = []
    for t, train in enumerate(trains):
        ours = plain_words(train.record)
        for e, theirs in enumerate(records):
            runs, covered = [], set()
            for q in range(len(theirs)):
                for p in range(len(ours)):
                    if p and q and ours[p - 1] == theirs[q - 1]:
                        continue  # inside a longer run
                    size = 0
                    while p + size < len(ours) and q + size < len(theirs) and ours[p + size] == theirs[q + size]:
                        size += 1
                    if size >= n:
                        covered |= set(range(q, q + size))
                        rarest = min(df[gram] for gram in plain_grams(theirs[q : q + size], n))
                        if rarest <= limit.common_df:
                            runs.append((-size, q, rarest))
            if runs:
                size, q, rarest = min(runs)
                share = round(len(covered) / len(theirs), 4)
                matches.append(TextMatch(t, e, "run", share, -size, " ".join(theirs[q : q - size]), rarest))
    return matches


def plain_common(
    evals: Sequence[EvalText], trains: Sequence[TrainText], limit: TextSettings
) -> dict[str, tuple[int, int]]:
    n = min(limit.run_words)
    df = document_frequency([plain_words(text.record) for text in evals], n)
    hits = document_frequency([plain_words(text.record) for text in trains], n)
    both = {" ".join(gram): (df[gram], hits[gram]) for gram in hits if df[gram] > limit.common_df}
    return dict(sorted(both.items()))


def plain_holds(record: Sequence[str], part: Sequence[str]) -> bool:
    return any(record[i : i + len(part)] == part for i in range(len(record) - len(part) + 1))


def plain_short_items(evals: Sequence[EvalText], trains: Sequence[TrainText], limit: TextSettings) -> list[TextMatch]:
    matches = []
    for t, train in enumerate(trains):
        record = plain_words(train.record)
        for e, item in enumerate(evals):
            question = plain_words(item.question)
            options = [plain_words(option) for option in item.options if plain_words(option)]
            parts = [question, *(options or [plain_words(item.answer)])]
            if limit.short_min_words <= len(question) < min(limit.run_words) and all(
                plain_holds(record, part) for part in parts
            ):
                matches.append(TextMatch(t, e, "short_item", 1.0, len(question), " ".join(question), None))
    return matches


def item_words(item: EvalText) -> list[str]:
    return [word for part in (item.question, *item.options) for word in plain_words(part)]


def plain_jaccard(evals: Sequence[EvalText], trains: Sequence[TrainText], limit: TextSettings) -> list[TextMatch]:
    items = [item_words(item) for item in evals]
    df = document_frequency(items, 5)
    common = {gram for gram in df if df[gram] > limit.shingle_common_df}
    matches = []
    for t, train in enumerate(trains):
        ours = set(plain_grams(plain_words(train.item), 5)) - common
        for e, item in enumerate(items):
            theirs = set(plain_grams(item, 5)) - common
            if min(len(ours), len(theirs)) >= limit.shingles_min:
                score = len(ours & theirs) / len(ours | theirs)
                if score >= limit.jaccard:
                    matches.append(TextMatch(t, e, "jaccard", round(score, 4), len(ours & theirs), None, None))
    return matches


def plain_cosine(evals: Sequence[EvalText], trains: Sequence[TrainText], limit: TextSettings) -> list[TextMatch]:
    items = [item_words(item) for item in evals]
    df = document_frequency(items, 1)

    def vector(words: Sequence[str]) -> dict[str, float]:
        return {
            word: (1 + math.log(count)) * math.log((len(items) + 1) / (df[(word,)] + 1))
            for word, count in Counter(words).items()
        }

    matches = []
    for t, train in enumerate(trains):
        answer = plain_words(train.answer)
        ours = vector(plain_words(train.item) + (answer if len(answer) <= limit.rewrite_answer_words else []))
        for e, item in enumerate(items):
            theirs = vector(item)
            norms = math.prod(math.sqrt(math.fsum(x * x for x in v.values())) for v in (ours, theirs))
            dot = math.fsum(x * theirs.get(word, 0) for word, x in ours.items())
            if norms and dot / norms >= limit.rewrite:
                matches.append(TextMatch(t, e, "rewrite", round(dot / norms, 4), None, None, None))
    return matches


PLAIN = {"run": plain_runs, "short_item": plain_short_items, "jaccard": plain_jaccard, "rewrite": plain_cosine}


def check(evals: Sequence[EvalText], trains: Sequence[TrainText], limit: TextSettings) -> dict[str, list[TextMatch]]:
    """Scan, compare every kind with its plain definition, and return the matches by kind."""
    scan = NearTextIndex(evals, limit).scan(trains)
    by_kind: dict[str, list[TextMatch]] = defaultdict(list)
    for match in scan.matches:
        by_kind[match.kind].append(match)
    for kind, plain in PLAIN.items():
        expected = plain(evals, trains, limit)
        if kind == "rewrite":  # a cosine that is the threshold itself may fall on either side
            sure = [match for match in expected if match.score > round(limit.rewrite, 4)]
            assert set(sure) <= set(by_kind[kind])
            assert {m[:3] for m in by_kind[kind]} - {m[:3] for m in sure} <= {
                m[:3] for m in plain(evals, trains, structs.replace(limit, rewrite=limit.rewrite - 1e-9))
            }
        else:
            assert by_kind[kind] == expected, kind
        assert scan.counts.get(kind, 0) == len(by_kind[kind])
    assert scan.common == plain_common(evals, trains, limit)
    assert scan.matches == sorted(scan.matches, key=lambda m: (m.train, m.eval, near_text.KINDS.index(m.kind)))
    return by_kind


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
    assert len(set(batch.hashes.tolist())) == len({word for words in lists for word in words})
    assert not len(batch.impostors(np.flatnonzero(batch.ids)))


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
        flat = [word for words in lists for word in words]
        pairs = set(zip(flat, batch.hashes.tolist(), strict=True))
        assert len(pairs) == len(set(flat)) == len(set(batch.hashes.tolist()))


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


# ---- all kinds against their definitions


def variant(text: str, kind: int) -> str:
    """The same words in another dress."""
    changes = (
        str,
        str.upper,
        lambda t: t.replace(" ", " \n\t- "),
        lambda t: t.replace(" ", ", ").replace("a", "\uff41"),
        lambda t: unicodedata.normalize("NFD", t) if "é" not in t and "が" not in t else t,
    )
    return changes[kind](text)


VOCABULARY = ["a", "b", "c", "dé", "straße", "fl", "6", "中", "文", "が", "한국", "of"]
PHRASE = st.lists(st.sampled_from(VOCABULARY), max_size=14).map(" ".join)
SMALL = structs.replace(
    DEFAULT, run_words=(3, 5), common_df=2, short_min_words=1, jaccard=0.5, shingle_common_df=2, shingles_min=2,
    rewrite=0.3, rewrite_answer_words=6,
)  # fmt: skip


@st.composite
def eval_texts(draw: st.DrawFn) -> list[EvalText]:
    texts = []
    for _ in range(draw(st.integers(0, 6))):
        question, options = draw(PHRASE), tuple(draw(st.lists(PHRASE, max_size=2)))
        answer = draw(PHRASE)
        texts.append(EvalText(question, options, answer, " ; ".join((question, *options, answer))))
    return texts + texts[: draw(st.integers(0, 2))]  # test items that occur twice


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[EvalText], list[TrainText]]:
    evals = draw(eval_texts())
    trains = []
    pool = st.one_of(PHRASE, *(st.sampled_from([x.question, x.record, x.answer, *x.options]) for x in evals))
    dressed = st.builds(variant, pool, st.integers(0, 4))
    for _ in range(draw(st.integers(0, 4))):
        item, answer, more = (draw(st.lists(dressed, max_size=3).map(" ".join)) for _ in range(3))
        trains.append(TrainText(item, answer, f"{item}\n{more} {answer}"))
    return evals, trains


@given(cases())
@settings(max_examples=300)
def test_every_kind_is_its_plain_definition(case: tuple[list[EvalText], list[TrainText]]) -> None:
    check(*case, SMALL)


@given(cases())
@settings(max_examples=100)
def test_texts_that_repeat_themselves_take_another_road_to_the_same_runs(
    case: tuple[list[EvalText], list[TrainText]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_text, "_EXPANSION", 1)  # every text with two meeting places counts as repetitive
        check(*case, SMALL)


@given(cases(), st.integers(1, 40))
@settings(max_examples=50)
def test_matches_do_not_depend_on_batches(case: tuple[list[EvalText], list[TrainText]], size: int) -> None:
    evals, trains = case
    index = NearTextIndex(evals, SMALL)
    together = index.scan(trains).matches
    assert index.scan(trains).matches == together
    alone = [m._replace(train=t) for t, text in enumerate(trains) for m in index.scan([text]).matches]
    assert alone == together
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ngrams, "CHUNK_CHARACTERS", size)
        assert index.scan(trains).matches == together


def words_of_size(rng: random.Random, size: int) -> str:
    vocabulary = [f"w{number}é" if number % 7 == 0 else f"w{number}" for number in range(3000)]
    return " ".join(rng.choices(vocabulary, cum_weights=np.cumsum(1 / np.arange(1, 3001)).tolist(), k=size))


@pytest.mark.parametrize("n", [8, 13])
def test_planted_runs_are_all_found_and_nothing_else(n: int) -> None:
    rng = random.Random(n)
    evals = [words_of_size(rng, rng.choice((5, 8, 12, 15, 25, 40))) for _ in range(150)]
    trains = [words_of_size(rng, rng.randint(30, 200)) for _ in range(600)]
    planted = set()
    for row in rng.sample(range(600), 120):
        test = rng.randrange(150)
        words = evals[test].split()
        if len(words) >= n:
            start = rng.randrange(len(words) - n + 1)
            run = variant(" ".join(words[start : start + n]), rng.randrange(5))
            cut = rng.randrange(len(trains[row]))
            trains[row] = f"{trains[row][:cut]} {run} {trains[row][cut:]}"
            planted.add((row, test))
    index = NearTextIndex([EvalText("", (), "", text) for text in evals], structs.replace(DEFAULT, run_words=(n,)))
    found = {(m.train, m.eval) for m in index.scan([TrainText("", "", text) for text in trains]).matches}
    grams = [set(plain_grams(plain_words(text), n)) for text in evals]
    expected = set()
    for row, text in enumerate(trains):
        ours = set(plain_grams(plain_words(text), n))
        expected |= {(row, test) for test, theirs in enumerate(grams) if ours & theirs}
    assert planted and planted <= found
    assert found == expected


def test_a_larger_corpus_agrees_in_every_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(5)
    evals, trains = [], []
    for _ in range(120):
        question = words_of_size(rng, rng.choice((4, 6, 15, 40)))
        options = words_of_size(rng, 2), words_of_size(rng, 1)
        evals.append(EvalText(question, options, options[0], "\n".join((question, *options))))
    for _ in range(150):
        source = rng.choice(evals)
        keep = rng.choice((0.5, 0.9, 1.0, 1.0))
        words = [word for word in source.record.split() if rng.random() < keep]
        if rng.random() < 0.3:
            rng.shuffle(words)
        item = " ".join(words) + " " + words_of_size(rng, rng.choice((0, 5, 60)))
        trains.append(TrainText(item, source.answer, f"{item}. {source.answer}"))
    limits = structs.replace(DEFAULT, common_df=2, shingles_min=4)
    found = check(evals, trains, limits)
    monkeypatch.setattr(near_text, "_ROUND", 20_000)  # several rounds; no text sees another's words
    scan = NearTextIndex(evals, limits).scan(trains)
    assert [match for match in scan.matches if match.kind == "rewrite"] == found["rewrite"]
    assert scan.counts["rewrite_scored"] == len(found["rewrite"])
    assert all(len(found[kind]) > 20 for kind in PLAIN), {kind: len(rows) for kind, rows in found.items()}


# ---- single points of the definitions


def scan_records(evals: Sequence[str], trains: Sequence[str], **limits: Any) -> near_text.TextScan:
    index = NearTextIndex([EvalText("", (), "", text) for text in evals], structs.replace(DEFAULT, **limits))
    return index.scan([TrainText("", "", text) for text in trains])


def test_common_ngrams_make_no_pair_but_lengthen_a_run_and_are_listed() -> None:
    boilerplate = "which of the following is the most likely diagnosis"
    evals = [f"{boilerplate} item{number} a b c d e f g h" for number in range(4)]
    scan = scan_records(evals, [boilerplate, f"x {boilerplate.upper()} item2 y"], common_df=3)
    assert scan.matches == [TextMatch(1, 2, "run", round(10 / 18, 4), 10, f"{boilerplate} item2", 1)]
    assert scan.common == {
        "of the following is the most likely diagnosis": (4, 2), "which of the following is the most likely": (4, 2),
    }  # fmt: skip
    assert scan.counts["texts_with_common_ngrams"] == 2


def test_a_longer_run_of_boilerplate_does_not_hide_the_rare_one() -> None:
    boilerplate = "one two three four five six seven eight nine ten"
    evals = [f"{boilerplate} . own{n} text of item number{n} and its end{n} here" for n in range(3)]
    [match] = scan_records(evals, [f"own1 text of item number1 and its end1 // {boilerplate}"], common_df=2).matches
    assert (match.eval, match.words, match.eval_df, match.span) == (1, 8, 1, "own1 text of item number1 and its end1")
    assert match.score == round(18 / 19, 4)


def test_runs_do_not_cross_from_one_text_into_the_next() -> None:
    assert not scan_records(["a b c d e f g h"], ["a b c d", "e f g h"]).matches
    assert not scan_records(["a b c d", "e f g h"], ["a b c d e f g h"]).matches


def test_a_text_of_one_repeated_word_is_no_memory_trap() -> None:
    [match] = scan_records(["0 " * 700, "a b c d e f g h i"], ["0 " * 30_000 + "a b"]).matches
    assert (match.words, match.score, match.eval) == (700, 1.0, 0)


def test_words_with_equal_hashes_are_told_apart_by_their_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    strong = ngrams._words_of_codes

    def weak(*arguments: Any) -> Any:  # 20 bits: strange words now often look like known ones
        found = strong(*arguments)
        found.hashes[:] = (found.hashes >> np.uint64(44) << np.uint64(44)) | np.uint64(1)
        return found

    monkeypatch.setattr(ngrams, "_words_of_codes", weak)
    test = "the quick brown fox jumps over the lazy dog near river banks"
    vocabulary = Vocabulary(word_list(test))
    strangers = vocabulary.read([f"s{number}" for number in range(600_000)])
    twins = {int(strangers.ids[place]): f"s{place}" for place in np.flatnonzero(strangers.ids)}
    assert len(twins) >= 3
    words = test.split()
    swapped = [twins.get(vocabulary.id(word), word) for word in words]
    trains = [TrainText(text, "", text) for text in (" ".join(swapped), f"{' '.join(swapped)} {test}", test)]
    assert vocabulary.read([trains[0].record]).ids.tolist() == vocabulary.read([test]).ids.tolist()
    evals = [EvalText(test, (), "", test), EvalText("dog near river banks", (), "", "dog near river banks"), SPARE]
    found = check(evals, trains, structs.replace(DEFAULT, shingles_min=2))
    assert [match.train for match in found["run"]] == [1, 2]


@pytest.mark.parametrize("name", ["window_hashes", "_hashes_of"])
def test_test_sides_that_collide_get_another_hash_or_a_clear_refusal(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    strong, limit = getattr(ngrams, name), 3

    def constant(values: Any, *rest: int) -> Any:
        hashes = strong(values, *rest)
        return np.full_like(hashes, 7) if rest[-1] < limit else hashes

    monkeypatch.setattr(ngrams, name, constant)
    text = "a b c d e f g h i j"
    assert [match[:5] for match in scan_records([text], [f"{text} k"]).matches] == [(0, 0, "run", 1.0, 10)]
    limit = ngrams._SALTS
    with pytest.raises(ValueError, match=f"of the test side collide under each of {limit} hashes"):
        scan_records([text], [text])


SPARE = EvalText("another item altogether", (), "", "another item altogether")
ORGAN = EvalText("The main organ is?", ("Liver", "Left lung"), "", "")


@pytest.mark.parametrize(
    ("item", "record", "found"),
    [
        (ORGAN, "... the MAIN organ\nis: a) liver b) left-lung", True),
        (ORGAN, "the main organ is liver, not the lung", False),
        (ORGAN, "the main organ of it is liver left lung", False),
        (EvalText("The main organ is?", (), "the heart", ""), "What the main organ is? It is the heart.", True),
        (EvalText("The main organ is?", (), "the heart", ""), "What the main organ is? It is the liver.", False),
        (EvalText("The main organ is?", ("+", "?"), "", ""), "the main organ is", True),
        (EvalText("Main organ is?", ("Liver",), "", ""), "main organ is liver", False),  # too short to mean anything
        (EvalText("主要器官是?", ("肝",), "", ""), "问:主要器官是?答:肝。", True),
    ],
)  # fmt: skip
def test_short_items(item: EvalText, record: str, found: bool) -> None:
    scan = NearTextIndex([item, SPARE], DEFAULT).scan([TrainText("", "", record)])
    assert [match[:4] for match in scan.matches] == ([(0, 0, "short_item", 1.0)] if found else [])


def test_a_long_answer_is_left_out_of_a_rewrite() -> None:
    evals = [EvalText("renal stone composition", ("oxalate", "urate"), "", ""), SPARE]
    prose = " ".join(f"word{number}" for number in range(64))
    index = NearTextIndex(evals, DEFAULT)
    scores = {
        answer: [m.score for m in index.scan([TrainText("stone composition renal", answer, "")]).matches]
        for answer in ("oxalate", "", prose, f"{prose} more")
    }
    assert scores["oxalate"][0] > scores[""][0] > 0.7
    assert scores[prose] == []
    assert scores[f"{prose} more"] == scores[""]


def test_nothing_to_compare() -> None:
    empty = EvalText("", (), "", "")
    for evals in ([], [empty], [empty, EvalText("?!", ("...",), "-", "?!")]):
        index = NearTextIndex(evals, DEFAULT)
        for trains in ([], [TrainText("", "", "")], [TrainText("a b", "c", "a b c"), TrainText("?", "", "\x00")]):
            scan = index.scan(trains)
            assert not scan.matches and not scan.common


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
        assert table.places[table.place_bounds[gram] : table.place_bounds[gram + 1]].tolist() == same
        assert place == same[0]
    places, _, owners = table.find(ids, bounds)
    assert places.tolist() == [bounds[t] + i for t, words in enumerate(texts) for i in range(len(words) - n + 1)]
    assert owners.tolist() == [t for t, words in enumerate(texts) for _ in range(len(words) - n + 1)]


# ---- real rows


def medqa(folder: Path) -> list[EvalText]:
    rows = [orjson.loads(line) for line in (folder / "phrases_no_exclude_test.jsonl").read_bytes().splitlines()]
    return [item(row["question"], list(row["options"].values())) for row in rows]


def item(question: str, options: list[str]) -> EvalText:
    return EvalText(question, tuple(options), "", "\n".join((question, *options)))


def test_findings_on_real_items_are_repeated(real_data: Path) -> None:
    tests = medqa(real_data / "medqa_usmle_4_options")
    lines = (real_data / "medxpertqa" / "Text" / "test.jsonl").read_bytes().splitlines()
    expert = [orjson.loads(line)["question"] for line in lines]
    dev = pq.read_table(real_data / "medmcqa" / "data" / "validation-00000-of-00001.parquet").to_pylist()
    tests += [item(row["question"], [row[f"op{letter}"] for letter in "abcd"]) for row in dev]
    index = NearTextIndex(tests, DEFAULT)
    scan = index.scan([TrainText(text, "", text) for text in expert])
    pairs = {kind: [m for m in scan.matches if m.kind == kind] for kind in PLAIN}
    # Boilerplate: many rows share 8 words with something, few are copies.
    assert len({m.train for m in pairs["run"]}) > 10 * max(1, len({m.train for m in pairs["jaccard"]}))
    # Every test item is found by itself, dressed differently, at the full length.
    copies = index.scan([TrainText(t.record.upper(), "", t.record.replace(" ", "\n").title()) for t in tests[:300]])
    for number, text in enumerate(tests[:300]):
        size = len(plain_words(text.record))
        assert TextMatch(number, number, "run", 1.0, size, " ".join(plain_words(text.record)), 1) in copies.matches
        assert (number, number, "jaccard", 1.0) in {m[:4] for m in copies.matches}
        assert (number, number, "rewrite", 1.0) in {m[:4] for m in copies.matches}
