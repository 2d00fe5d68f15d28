"""Every way in which training sets write exam items, over every item of every benchmark at hand: share excluded.

Items are those that the builders make of the folder of real rows. A form turns an item into a training record; the
near-text level is asked directly, with the policy's rules, whether it takes the record out because of that item.
`VERBATIM` forms keep the stem and the gold answer as they are, `CHANGED` ones and `OTHERS` do not; the level's settings
were chosen while these were looked at, on half of the items (by digest). `UNSEEN` forms and the other half of the items
were not. Controls are records that must stay: another question under an item's options, items of another exam, pages of
health information. Items with fewer than six words left by a form are counted apart.
"""

from __future__ import annotations

import hashlib
import html
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from manifests.proof.near_text import NearTextIndex

REAL_DATA = Path(__file__).parents[2] / "shared" / "data"
BENCHMARKS = (
    ("medqa", "medqa_usmle_4_options", ()),
    ("medmcqa", "medmcqa", ()),
    ("mmlu_med", "mmlu", ()),
    ("medxpertqa", "medxpertqa", ("--no-images",)),
    ("mmmu_pro_med", "mmmu_pro", ("--no-images",)),
    ("pubmedqa", "pubmedqa", ()),
    ("slake", "slake", ("--no-images",)),
    ("vqa_rad", "vqa_rad", ("--no-images",)),
    ("patient_trial", "trialgpt", ()),
)
"""Builder, folder of its rows, options."""
LEAST_WORDS = 6
BATCH = 2_000


class Item(NamedTuple):
    """A test item as a form sees it."""

    benchmark: str
    stem: str
    options: tuple[str, ...]
    gold: str


Form = Callable[[Item, random.Random], str]
_LABELS = "ABCDEFGHIJ"
FILLER: list[str] = []
"""Words of consumer health pages (MedQuAD), for documents and long reasoning; filled before a form is used."""


def _wrong(item: Item) -> list[str]:
    return [option for option in item.options if option != item.gold]


def _listed(options: Sequence[str], labels: str = "{}. {}", marks: str = _LABELS) -> str:
    return "\n".join(labels.format(mark, option) for mark, option in zip(marks, options, strict=False))


def _prose(chance: random.Random, words: int) -> str:
    start = chance.randrange(len(FILLER) - words)
    return " ".join(FILLER[start : start + words])


def _shuffled(options: Sequence[str], chance: random.Random) -> list[str]:
    return chance.sample(list(options), len(options))


# ---- forms that keep stem and gold


def question_and_answer(item: Item, chance: random.Random) -> str:
    """Stem and gold answer."""
    return f"{item.stem}\n{item.gold}"


def with_options(item: Item, chance: random.Random) -> str:
    """All options, and the gold one again."""
    return f"{item.stem}\n{_listed(item.options)}\nThe answer is {item.gold}"


def relabelled(item: Item, chance: random.Random) -> str:
    """Options shuffled, under other labels."""
    return f"{item.stem}\n{_listed(_shuffled(item.options, chance), '({}) {}', '123456789')}\nCorrect: {item.gold}"


def wrong_options_replaced(item: Item, chance: random.Random) -> str:
    """Other wrong options."""
    others = [_prose(chance, chance.randint(1, 4)) for _ in range(3)]
    return f"{item.stem}\n{_listed(_shuffled([item.gold, *others], chance))}\nAnswer: {item.gold}"


def wrong_options_reworded(item: Item, chance: random.Random) -> str:
    """The same wrong options in other words."""
    return f"{item.stem}\n{_listed([item.gold, *map(_reworded_words, _wrong(item))])}\nAnswer: {item.gold}"


def chat(item: Item, chance: random.Random) -> str:
    """As a person asks and an assistant answers."""
    return f"Hi! Could you help me with this one? {item.stem}\nOf course. The correct answer is {item.gold}. Good luck!"


def two_turns(item: Item, chance: random.Random) -> str:
    """The options in a turn of their own."""
    return f"{item.stem}\nPlease give me the options.\n{_listed(item.options)}\nI would choose {item.gold}."


def statement(item: Item, chance: random.Random) -> str:
    """Stem and answer as a statement."""
    return f"It is known that: {item.stem.rstrip(' ?.:-')} - {item.gold}."


def in_a_document(item: Item, chance: random.Random) -> str:
    """Between 400 words of other text on each side."""
    return f"{_prose(chance, 400)}\n\n{item.stem}\n{item.gold}\n\n{_prose(chance, 400)}"


def long_reasoning(item: Item, chance: random.Random) -> str:
    """900 words of other text before the answer."""
    return f"{item.stem}\nLet me think. {_prose(chance, 900)}\nSo the answer is {item.gold}."


VERBATIM: tuple[Form, ...] = (
    question_and_answer, with_options, relabelled, wrong_options_replaced, wrong_options_reworded, chat, two_turns,
    statement, in_a_document, long_reasoning,
)  # fmt: skip

# ---- forms that change the words

_SYNONYMS = {
    "patient": "person", "man": "gentleman", "woman": "lady", "boy": "male child", "girl": "female child",
    "year-old": "years of age", "history": "background", "presents": "comes", "presented": "came",
    "complains": "reports", "likely": "probable", "treatment": "management", "management": "treatment",
    "diagnosis": "condition", "drug": "medication", "medication": "drug", "seen": "observed",
    "feature": "characteristic", "features": "characteristics", "cause": "reason", "caused": "brought about",
    "shows": "reveals", "reveals": "shows", "examination": "exam", "best": "most suitable", "appropriate": "suitable",
    "associated": "linked", "used": "employed", "commonest": "most frequent", "common": "frequent",
    "increased": "elevated", "elevated": "raised", "decreased": "reduced", "reduced": "lowered",
    "responsible": "accountable", "occurs": "happens", "found": "present", "involved": "affected",
    "indicated": "advised", "type": "kind", "site": "location", "main": "principal",
}  # fmt: skip


def _reworded_words(text: str) -> str:
    return re.sub(r"[A-Za-z-]+", lambda found: _SYNONYMS.get(found.group().lower(), found.group()), text)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!])\s+", text.strip())


def reworded(item: Item, chance: random.Random) -> str:
    """Last sentence first, clauses moved, synonyms, "which of the following" dropped."""
    sentences = _sentences(item.stem)
    text = " ".join([*sentences[-1:], *sentences[:-1]])
    text = re.sub(r"\bwhich (one )?of the following (is|are|was|were)\b", "what is", text, flags=re.I)
    text = re.sub(r"\bwhich (one )?of the following\b", "what", text, flags=re.I)
    text = re.sub(r"\b(among|of|from) the following\b", "", text, flags=re.I)
    clauses = _reworded_words(text).split(", ")
    return f"{', '.join([*clauses[1:], *clauses[:1]])}\n{item.gold}"


def cut_at_the_end(item: Item, chance: random.Random) -> str:
    """The first 60 % of the stem."""
    words = item.stem.split()
    return f"{' '.join(words[: -(-len(words) * 3 // 5)])} ...\n{item.gold}"


def cut_at_the_start(item: Item, chance: random.Random) -> str:
    """The last 60 % of the stem."""
    words = item.stem.split()
    return f"... {' '.join(words[len(words) * 2 // 5 :])}\n{item.gold}"


_CONFUSED = {"l": "1", "o": "0", "m": "rn", "e": "c", "h": "b", "i": "l", "s": "5", "a": "o", "t": "f", "n": "u"}


def ocr_noise(item: Item, chance: random.Random) -> str:
    """One letter in thirty misread, one blank in thirty lost."""
    text = f"{item.stem}\n{item.gold}"
    return "".join(
        ("" if letter == " " else _CONFUSED.get(letter, letter)) if chance.random() < 1 / 30 else letter
        for letter in text
    )


def typography(item: Item, chance: random.Random) -> str:
    """What typesetting and web pages add: ligatures, blanks, soft hyphens, entities, other quotes."""
    text = f"{item.stem}\n{item.gold}".replace("fi", "\ufb01").replace("fl", "\ufb02").replace("-", "\u2010")
    text = text.replace("'", "\u2019").replace('"', "\u201d").replace("\n", "<br>")
    text = re.sub(r"(?<=\w{4})(?=\w{4})", lambda _: chance.choice(("", "\u00ad", "\u200b", "&shy;")), text)
    return re.sub(" ", lambda _: chance.choice((" ", "\u00a0", "&nbsp;", "\u2009")), text)


_BRITISH = (
    ("hemo", "haemo"), ("hema", "haema"), ("anemi", "anaemi"), ("edema", "oedema"), ("esophag", "oesophag"),
    ("diarrhea", "diarrhoea"), ("tumor", "tumour"), ("color", "colour"), ("fetal", "foetal"), ("fetus", "foetus"),
    ("estrogen", "oestrogen"), ("pediatric", "paediatric"), ("leukemi", "leukaemi"), ("center", "centre"),
    ("fiber", "fibre"), ("labor", "labour"), ("behavior", "behaviour"), ("ischemi", "ischaemi"),
    ("gynecolog", "gynaecolog"), ("orthopedic", "orthopaedic"), ("etiology", "aetiology"), ("emia", "aemia"),
    ("ize", "ise"), ("yze", "yse"), ("sulf", "sulph"),
)  # fmt: skip


def other_spelling(item: Item, chance: random.Random) -> str:
    """British where American was written, and the other way round."""
    text = f"{item.stem}\n{item.gold}"
    british = any(there in text.lower() for _, there in _BRITISH)
    for american, there in _BRITISH:
        text = re.sub(there, american, text, flags=re.I) if british else re.sub(american, there, text, flags=re.I)
    return text


CHANGED: tuple[Form, ...] = (reworded, cut_at_the_end, cut_at_the_start, ocr_noise, typography, other_spelling)


# ---- siblings: the same item with other numbers, or turned round


def other_numbers(item: Item, chance: random.Random) -> str:
    """Every number is another."""
    return re.sub(r"\d+", lambda found: str(int(found.group()) + chance.randint(1, 5)), item.stem) + f"\n{item.gold}"


def negated(item: Item, chance: random.Random) -> str:
    """A "not" taken out, or put in."""
    text = re.sub(r"\bnot\b ?", "", item.stem, flags=re.I)
    if text == item.stem:
        text = re.sub(r"\b(is|are|was|does|do|can|would)\b", r"\1 not", item.stem, count=1, flags=re.I)
    return f"{text}\n{item.gold}"


SIBLINGS: tuple[Form, ...] = (other_numbers, negated)


# ---- other forms


def every_eighth_word_lost(item: Item, chance: random.Random) -> str:
    """One word in eight is missing."""
    words = item.stem.split()
    return f"{' '.join(word for place, word in enumerate(words) if place % 8 != 5)}\n{item.gold}"


def typing_errors(item: Item, chance: random.Random) -> str:
    """Two neighbouring letters of one word in ten are swapped."""
    words = f"{item.stem}\n{item.gold}".split(" ")
    for place, word in enumerate(words):
        if len(word) > 3 and chance.random() < 0.1:
            at = chance.randrange(1, len(word) - 1)
            words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def broken_lines(item: Item, chance: random.Random) -> str:
    """As copied from a two-column PDF: every line ends in the middle of a word."""
    text = f"{item.stem}\n{item.gold}"
    return "-\n".join(text[start : start + 47] for start in range(0, len(text), 47))


def small_talk_inside(item: Item, chance: random.Random) -> str:
    """A filler word after every seventh word."""
    words = item.stem.split()
    spoken = [
        f"{word} {chance.choice(('well', 'um', 'so', 'indeed'))}" if n % 7 == 6 else word
        for n, word in enumerate(words)
    ]
    return f"{' '.join(spoken)}\nThat would be {item.gold}, I think."


def shouted_entities(item: Item, chance: random.Random) -> str:
    """Capitals, tags and entities of a web page."""
    return html.escape(f"<p>{item.stem.upper()}</p>\n<b>{item.gold.upper()}</b>")


def answer_first(item: Item, chance: random.Random) -> str:
    """The answer, then the sentences of the stem from the last to the first."""
    return f"{item.gold}. That is the right answer to this: {' '.join(_sentences(item.stem)[::-1])}"


OTHERS: tuple[Form, ...] = (
    every_eighth_word_lost, typing_errors, broken_lines, small_talk_inside, shouted_entities, answer_first,
)  # fmt: skip


# ---- forms that were written before this level's thresholds and not looked at until they were fixed

_SCANNED = (
    ("rn", "m"), ("cl", "d"), ("vv", "w"), ("li", "h"), ("m", "nn"), ("w", "vv"), ("d", "cl"), ("g", "9"), ("b", "6"),
    ("f", "t"), ("e", "o"), ("u", "ii"), ("y", "v"), ("n", "ri"), ("s", "8"), ("r", "i"),
)  # fmt: skip
_NEIGHBOURS = dict(zip("qwertyuiopasdfghjklzxcvbnm", "wertyuiopoasdfghjkkxzvbvnn", strict=True))
_SHORTHAND = (
    (r"\byear[- ]old\b", "yo"), (r"\bpatient\b", "pt"), (r"\bhistory of\b", "h/o"), (r"\bwith\b", "w/"),
    (r"\bblood pressure\b", "BP"), (r"\bcomplain(s|ing) of\b", "c/o"), (r"\bdiagnosis\b", "dx"),
    (r"\btreatment\b", "rx"), (r"\bwoman\b", "F"), (r"\bman\b", "M"), (r"\bexamination\b", "o/e"),
    (r"\bsymptoms\b", "sx"), (r"\bfracture\b", "fx"), (r"\bwithout\b", "w/o"), (r"\b(the|a|an) ", ""),
    (r"\band\b", "&"),
    (r"\bmost (likely|common)\b", r"\1est"),
)  # fmt: skip


def scanned(item: Item, chance: random.Random) -> str:
    """Other misread letters, one place in 25; blanks lost and put in; lines broken with a hyphen in words."""
    text = f"{item.stem}\n{item.gold}"
    for right, wrong in _SCANNED:
        pieces = text.split(right)
        text = "".join(piece + (wrong if chance.random() < 1 / 25 else right) for piece in pieces[:-1]) + pieces[-1]
    text = re.sub(" ", lambda _: chance.choices((" ", "", "  "), (30, 1, 1))[0], text)
    text = re.sub(r"(?<=[a-z]{3})(?=[a-z]{3})", lambda _: "-\n" if chance.random() < 1 / 60 else "", text)
    return re.sub(r"(?<=[a-z])(?=[a-z])", lambda _: " " if chance.random() < 1 / 90 else "", text)


def keyboard(item: Item, chance: random.Random) -> str:
    """One letter in forty is doubled, left out, or its neighbour on the keyboard."""

    def typed(letter: str) -> str:
        if chance.random() >= 1 / 40 or letter.lower() not in _NEIGHBOURS:
            return letter
        return chance.choice((letter * 2, "", _NEIGHBOURS[letter.lower()]))

    return "".join(map(typed, f"{item.stem}\n{item.gold}"))


def cut_at_both_ends(item: Item, chance: random.Random) -> str:
    """From 50 to 70 % of the stem in a row, from anywhere, and the answer."""
    words = item.stem.split()
    left = -(-len(words) * chance.randint(50, 70) // 100)
    start = chance.randint(0, len(words) - left)
    return f"Question: {' '.join(words[start : start + left])}\nAnswer: {item.gold}"


def cut_in_the_middle(item: Item, chance: random.Random) -> str:
    """The first and the last third of the stem."""
    words = item.stem.split()
    third = -(-len(words) // 3)
    return f"{' '.join(words[:third])} [...] {' '.join(words[-third:])}\nAns. {item.gold}"


def cut_in_a_word(item: Item, chance: random.Random) -> str:
    """The first 60 % of the letters, the answer in a field of its own."""
    return json.dumps({"prompt": item.stem[: len(item.stem) * 3 // 5], "completion": item.gold}, ensure_ascii=False)


def template_and_explanation(item: Item, chance: random.Random) -> str:
    """A chat template with its marks, a system prompt, options, and an explanation before the answer."""
    options = _listed(_shuffled(item.options, chance), "{}) {}")
    asked = (
        f"<|im_start|>system\nYou are a medical expert.<|im_end|>\n<|im_start|>user\n{item.stem}\n{options}<|im_end|>"
    )
    return f"{asked}\n<|im_start|>assistant\n<think>{_prose(chance, 250)}</think>**Answer**: {item.gold}<|im_end|>"


def json_in_json(item: Item, chance: random.Random) -> str:
    """A dialogue as a JSON string within JSON: line breaks and quotes are escaped twice."""
    turns = [{"from": "human", "value": f"\n{item.stem}\n"}, {"from": "gpt", "value": f"\n{item.gold}\n"}]
    return json.dumps({"conversations": json.dumps(turns, ensure_ascii=False)}, ensure_ascii=False)


def very_long_reasoning(item: Item, chance: random.Random) -> str:
    """2,500 words of other text before the answer, which stands in a box."""
    return f"{item.stem}\n{_prose(chance, 2_500)}\n$\\boxed{{{item.gold}}}$"


def filled_in(item: Item, chance: random.Random) -> str:
    """The answer in the place of the question word, no question mark."""
    asks = re.compile(r"\b(which (one )?of the following|what|which)\b", re.I)
    text, changed = asks.subn(lambda _: item.gold, item.stem.rstrip(" ?:."), count=1)
    return f"{text}." if changed else f"{text} {item.gold}."


def shorthand(item: Item, chance: random.Random) -> str:
    """As a student notes it down: abbreviations, articles dropped."""
    text = item.stem
    for long, short in _SHORTHAND:
        text = re.sub(long, short, text, flags=re.I)
    return f"{text} -> {item.gold}"


def foreign_options(item: Item, chance: random.Random) -> str:
    """The answer among words of other texts, three other questions around it."""
    quiz = [f"{n}. {_prose(chance, 25)}?\n{_listed([_prose(chance, 3) for _ in range(4)])}" for n in range(3)]
    options = _shuffled([item.gold, *(_prose(chance, 2) for _ in range(4))], chance)
    quiz.insert(chance.randrange(4), f"9. {item.stem}\n{_listed(options)}\nKey: {_LABELS[options.index(item.gold)]}")
    return "\n\n".join(quiz)


UNSEEN: tuple[Form, ...] = (
    scanned, keyboard, cut_at_both_ends, cut_in_the_middle, cut_in_a_word, template_and_explanation, json_in_json,
    very_long_reasoning, filled_in, shorthand, foreign_options,
)  # fmt: skip


# ---- the measurement


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Share of items excluded by form, all and worst benchmark, and of controls; None without the real rows."""
    if not REAL_DATA.is_dir():
        return {}
    from manifests.proof.near_text import NearTextIndex
    from manifests.proof.policy import load_policy
    from manifests.proof.text_pairs import EvalText

    started = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        items, apart = _items(Path(folder))
    index = NearTextIndex([EvalText(one.stem, one.gold, (one.stem,)) for one in items], load_policy().text)
    figures: dict[str, Any] = {
        "items": dict(Counter(one.benchmark for one in items)),
        "short questions about a picture, left to the picture levels": dict(apart),
    }
    groups = {"verbatim": VERBATIM, "changed": CHANGED, "siblings": SIBLINGS, "others": OTHERS, "unseen": UNSEEN}
    for name, forms in groups.items():
        figures[name] = {form.__name__: _form(index, items, form, name != "verbatim") for form in forms}
    figures["wrong"] = _controls(index, items)
    figures["patients' notes inside longer documents"] = notes_in_documents()
    figures["cpu_s"] = round(time.process_time() - started)
    return figures


def _items(folder: Path) -> tuple[list[Item], Counter[str]]:
    """Items as the near-text level reads them, and how many it leaves to the pictures. Fills `FILLER`."""
    from manifests.catalog import load_builds
    from manifests.proof.overlaps import left_out_of_near_text
    from manifests.proof.policy import load_policy
    from manifests.proof.stored_text import read_texts

    for source, rows, options in (*BENCHMARKS, ("medquad", "medquad", ())):
        command = [sys.executable, "-m", f"builders.{source}", "--raw", str(REAL_DATA / rows), "--out", str(folder)]
        subprocess.run([*command, "--quiet", "--workers", "1", *options], check=True, stdout=subprocess.DEVNULL)
    settings, items, apart = load_policy().text, [], Counter[str]()
    for build in load_builds(folder):
        name = build.record["build"]
        for _, part in build.parts("samples", "train" if name == "medquad" else "eval"):
            for text in read_texts(build.folder, part):
                if name == "medquad":
                    FILLER.extend(text.answer.split())
                elif left_out_of_near_text(text, settings):
                    apart[name] += 1
                else:
                    items.append(Item(name, text.question, text.options, text.answer))
    return items, apart


def notes_in_documents() -> str:
    """Documents of a corpus that `prove` takes out, each with one patient's note among 600 other words, of how many.

    All judged patients of the Patient-trial benchmark through its builder, thirty trials each (their texts are made).
    """
    with tempfile.TemporaryDirectory() as name:
        raw, corpus, out = (Path(name) / part for part in ("raw/dataset", "documents", "built"))
        shutil.copytree(REAL_DATA / "trialgpt" / "dataset", raw)
        for path in (raw, *raw.rglob("*")):
            path.chmod(0o755)
        trials, patients, notes = set[str](), set[str](), dict[str, str]()
        for cohort in sorted(path for path in raw.iterdir() if path.is_dir()):
            for line in (cohort / "qrels" / "test.tsv").read_text().splitlines()[1:]:
                patient, trial, _ = line.split("\t")
                patients.add(patient)
                trials.add(trial)
            lines = (cohort / "queries.jsonl").read_text().splitlines()
            notes.update((row["_id"], row["text"]) for row in map(json.loads, lines))
        fields = (
            "brief_title",
            "brief_summary",
            "phase",
            "drugs",
            "diseases",
            "inclusion_criteria",
            "exclusion_criteria",
        )
        with (raw / "made_trials.jsonl").open("w") as file:
            for trial in sorted(trials):
                file.write(
                    json.dumps(
                        {
                            "_id": trial,
                            **{field: f"{field} of {trial}" for field in fields},
                            "drugs_list": [trial],
                            "diseases_list": [trial],
                        }
                    )
                    + "\n"
                )
        corpus.mkdir()
        chance = random.Random(0)
        documents = [f"{_prose(chance, 300)}\n{notes[one]}\n{_prose(chance, 300)}" for one in sorted(patients)]
        (corpus / "documents.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
        mapping = Path(name) / "mapping.yaml"
        mapping.write_text("access: open\n")
        sides = ("--role", "train", "--mapping", str(mapping))
        for command in (
            ("builders.patient_trial", "--raw", str(raw.parent), "--out", str(out)),
            ("builders.corpus", "--raw", str(corpus), *sides, "--out", str(out)),
            ("manifests.prove", name, "--benchmarks", "present"),
        ):
            done = subprocess.run([sys.executable, "-m", *command, "--quiet"], capture_output=True, text=True)
            if done.returncode not in (0, 4):
                raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")
        from manifests.proof.certificate import read_certificate

        found = sum(row["train_samples"] for row in read_certificate(Path(name) / "proof")["exclusions"])
        return f"{found} of {len(documents)}"


def _batches(records: Sequence[str]) -> list[Sequence[str]]:
    return [records[start : start + BATCH] for start in range(0, len(records), BATCH)]


def _words_left(item: Item, form: Form) -> float:
    shares: dict[Form, float] = {
        cut_at_the_end: 0.6, cut_at_the_start: 0.6, every_eighth_word_lost: 0.875, cut_at_both_ends: 0.5,
        cut_in_the_middle: 0.667, cut_in_a_word: 0.6,
    }  # fmt: skip
    return len(item.stem.split()) * shares.get(form, 1.0)


def _form(index: NearTextIndex, items: Sequence[Item], form: Form, counted_apart: bool) -> dict[str, Any]:
    """A record counts as excluded if an item of the same stem does it, by whatever kind."""
    chance = random.Random(form.__name__)
    found: set[int] = set()
    kinds: Counter[str] = Counter()
    for match in index.scan(_batches([form(item, chance) for item in items])).matches:
        if items[match.eval].stem == items[match.train].stem:
            found.add(match.train)
            kinds[match.kind] += 1
    by: dict[str, dict[str, list[bool]]] = {"all items": defaultdict(list), "unseen items": defaultdict(list)}
    few: list[bool] = []
    for number, item in enumerate(items):
        if counted_apart and _words_left(item, form) < LEAST_WORDS:
            few.append(number in found)
            continue
        for _, mine in list(by.items())[: 1 + _is_unseen(item)]:
            mine[item.benchmark].append(number in found)
    return {
        **{name: _shares(mine) for name, mine in by.items()},
        "kinds": dict(kinds),
        "few": f"{sum(few)} of {len(few)}",
    }


def _is_unseen(item: Item) -> bool:
    """Whether an item was left alone while the level's settings were chosen."""
    return hashlib.sha256(f"{item.stem}\0{item.gold}".encode()).digest()[0] % 2 == 1


def _shares(by: dict[str, list[bool]]) -> dict[str, Any]:
    shares = {benchmark: round(sum(each) / len(each), 4) for benchmark, each in by.items()}
    worst = min(shares, key=shares.__getitem__)
    every = [one for each in by.values() for one in each]
    return {"all": round(sum(every) / len(every), 4), "worst": f"{worst} {shares[worst]}", "by benchmark": shares}


def _controls(index: NearTextIndex, items: Sequence[Item]) -> dict[str, Any]:
    """Share of records that an item takes out which they are not."""
    chance = random.Random("controls")
    others = [chance.choice(items) for _ in items]
    asked = [
        f"{other.stem}\n{_listed(_shuffled(item.options, chance))}\nAnswer: {item.gold}"
        for item, other in zip(items, others, strict=True)
    ]
    own = index.scan(_batches(asked)).matches
    wrong = {m.train for m in own if items[m.eval] == items[m.train] and items[m.eval].stem != others[m.train].stem}
    exam = index.scan(_batches([with_options(item, chance) for item in items])).matches
    foreign = {m.train for m in exam if items[m.eval].benchmark != items[m.train].benchmark}
    words = [" ".join(FILLER[start : start + 250]) for start in range(0, len(FILLER) - 250, 250)]
    pages = {m.train for m in index.scan(_batches(words)).matches}
    unseen = {number for number, item in enumerate(items) if _is_unseen(item)}
    return {
        "another question under the same options": round(len(wrong) / len(items), 4),
        "another question under the same options, unseen items": round(len(wrong & unseen) / len(unseen), 4),
        "items of another exam, copies of items among them": round(len(foreign) / len(items), 4),
        "items of another exam, unseen items": round(len(foreign & unseen) / len(unseen), 4),
        "pages of health information, 250 words": round(len(pages) / len(words), 4),
    }
