r"""Which option an answer names: strict (the score), literal and lenient (shown beside it). Pure functions, no judge.

The strict rule (version 5), in full:

1. Only the answer is read: the last Harmony `final` message, what follows `</think>` and its like, inside it the last
   `<answer>` tag. Reasoning that never ends, or a transcript without a final message, is no answer. What a model writes
   after its turn (an end token, the next question) is not read either.
2. Presentation is taken off (Unicode forms, Markdown, table rules, LaTeX wrappers).
3. What names an option is looked for in this order, and the first kind that is there decides: the answer key of a JSON
   object; `\boxed{}`; what the prose declares, lists or concludes (`eval.declarations`).
4. It must name exactly one option of this item: its label, its label with its own text, or its exact text. Two labels,
   a label with another option's text, a label out of range, a paraphrase: no option, which counts as wrong. Where a
   text stands under two labels, the text or a bare label means either; a label with the text written out means itself.
5. Nothing is drawn by lot, nothing is compared by similarity, no letter is the default.

How often the rule and a careful reader agree was measured on answers it had not seen:
`eval.versions.READER`.

`lenient` is the most that any reading could give where strict reads nothing: it also counts an answer without an option
that mentions the right label or text anywhere. An upper bound to see how much format costs; it is never the score.
`literal` wants the whole output to be a label.
"""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eval.declarations import read_prose
from eval.options import Choices, Options, choices_of, text_key
from medgpt.replies import clean, final_text


@dataclass(frozen=True)
class Reading:
    """What was read from an answer."""

    option: str | None
    """Label of the one option named; for an open question, the gold text if it was given; None where invalid."""
    rule: str
    """`literal`, `json`, `boxed`, `declaration`, `list`, `line`; `none` where there is no option."""
    detail: str
    """Where the answer text came from (`plain`, `harmony`, ...), or why no option was read."""
    alike: tuple[str, ...] = ()
    """All labels that the answer may mean: several where options have the same text."""


@dataclass(frozen=True)
class Grade:
    """One answer against its gold, under the three rules."""

    reading: Reading
    correct: bool
    """Strict: the score."""
    literal: bool
    lenient: bool


def grade(text: str | None, options: Options, gold: str) -> Grade:
    """Grade an answer. Without options `gold` holds the texts that an open question accepts: one must be given exactly.

    Outer punctuation, case and Markdown of an option's text do not count.
    """
    accepted = accepted_texts(gold) if not options else ()
    if accepted:
        # All accepted texts are one option, whose label is a sign that no answer can hold.
        options = tuple((_OPEN, one) for one in {text_key(one): one for one in accepted}.values())
    label = _OPEN if accepted else gold
    reading = read_option(text, options)
    correct = label in reading.alike
    literal = (text or "").strip() in accepted if accepted else literal_option(text, options) == gold
    lenient = correct or (reading.option is None and _mentions(text, label, options))
    if reading.option == _OPEN:
        reading = Reading(gold, reading.rule, reading.detail, (gold,))
    return Grade(reading, correct, literal, lenient)


_OPEN = "\x00"


def accepted_texts(gold: str) -> tuple[str, ...]:
    """The texts that an open question accepts: MMMU writes several as the text of a Python list (`['4', 'four']`)."""
    if gold.startswith("["):
        try:
            several = ast.literal_eval(gold)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return (gold,)
        if isinstance(several, list) and several and all(isinstance(one, str) and one.strip() for one in several):
            return tuple(several)
    return (gold,)


def literal_option(text: str | None, options: Options) -> str | None:
    """The most literal reading of "exactly one valid choice": the whole output, spaces aside, is a label."""
    whole = (text or "").strip()
    return whole if any(whole == label for label, _ in options) else None


def _mentions(text: str | None, label: str, options: Options) -> bool:
    """Whether the answer names this option anywhere: its label as a word of its own, or its text."""
    answer = final_text(_fewer_turns(text or ""))[0]
    choices = choices_of(tuple(options))
    flat = clean(answer or "")
    if not choices.may_name(flat, flat.lower()):
        return False
    alike = {one.casefold() for one in choices.alike(label)}
    if any(match[1].casefold() in alike for pattern in _ALONE for match in pattern.finditer(flat)):
        return True
    spoken, texts = _words(flat), {_words(option) for _, option in options if text_key(option)}
    own = {_words(option) for name, option in options if name == label} & texts
    # "not eligible" holds "eligible": the longer text is the one that was written.
    for longer in texts - own:
        if any(one in longer for one in own):
            spoken = spoken.replace(longer, " ")
    return any(one in spoken for one in own)


def _fewer_turns(text: str) -> str:
    """A text with a loop at its end or over its middle, as of a model that repeats itself, with fewer turns of it.

    It names what the whole text does: what a pattern looks at is shorter than the turns that are left.
    """
    for part in (1, 2):
        at = len(text) // part
        place = text.rfind(text[at - _LOOP : at], 0, at - 1) if len(text) > 4 * _LOOP else -1
        if place >= 0:
            period, begin, end = at - _LOOP - place, at, at
            unit = text[at - period : at]
            while text.endswith(unit, 0, begin):
                begin -= period
            while text.startswith(unit, end):
                end += period
            turns = min((end - begin) // period, max(4, _LOOP // period + 1))
            text = text[:begin] + unit * turns + text[end:]
    return text


_LOOP = 400
"""Characters that stand before themselves, too: a loop."""


def _words(text: str) -> str:
    """Words between single spaces, one at each end, so that a text within another starts and ends at a word."""
    return f" {' '.join(_WORD.findall(text.casefold()))} "


_ALONE = (
    re.compile(r"([A-Z])(?<![A-Za-z0-9'].)(?!'?[A-Za-z0-9])(?<![AI](?=\s[a-z]))"),
    re.compile(r"(?:^|[(\[])([a-z])(?=[)\].]|\s*$)"),
)
"""A letter that stands alone; A and I before a word are words, too."""
_WORD = re.compile(r"\w+")


# ---------------------------------------------------------------- structured answers

_JSON_START = re.compile(r"[{\[]\s*[\"'{]")
_ANSWER_KEY = re.compile(
    r"(?:the|my)?(?:final|correct|best|selected|predicted|model|chosen)?"
    r"(?:answer|choice|option|prediction|selection|letter|answers|label|response|result|respuesta|答案)"
    r"(?:letter|label|option|choice|idx|index|id|text|key|value)?|correct|selected|pred"
)
_LOOSE_PAIR = re.compile(
    r"""(?<!\\)["']([\w \-]{1,30})["']\s*:\s*(?:"([^"\\]{0,200})"|'([^'\\]{0,200})'|([A-Z])(?=\s*(?:\}|,\s*["'])))"""
)


def _pairs(text: str) -> list[tuple[str, Any]] | None:
    """(key, value) of all objects in a JSON answer, or of what can be read of one; None where there is no JSON."""
    start = _JSON_START.search(text)
    if start is None:
        return None
    pairs: list[tuple[str, Any]] = []
    while start:
        try:
            found, end = _DECODER.raw_decode(text, start.start())
        except (ValueError, RecursionError):
            # Python's quotes, a trailing comma, cut off: the pairs that are whole.
            pairs += [
                (match[1], match[2] or match[3] or match[4]) for match in _LOOSE_PAIR.finditer(text, start.start())
            ]
            break
        pairs += _walk(found)
        start = _JSON_START.search(text, end)
    return pairs


class _Object(list[tuple[str, Any]]):
    """The pairs of a JSON object: a key may stand there twice."""


_DECODER = json.JSONDecoder(object_pairs_hook=_Object)


def _walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, _Object):
        for key, inner in value:
            if isinstance(inner, _Object):
                yield from _walk(inner)
            else:
                yield key, inner
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner)


def _structured(text: str, choices: Choices) -> tuple[str, ...] | None:
    """What the answer keys of a JSON answer name; () where they name nothing or several, None without JSON."""
    pairs = _pairs(text) if "{" in text or "[" in text else None
    if pairs is None:
        return None
    values = []
    for key, value in pairs:
        if _ANSWER_KEY.fullmatch(re.sub(r"[\s_\-]", "", key.casefold())):
            values.append(value[0] if isinstance(value, list) and len(value) == 1 else value)
    truths = [(key, value) for key, value in pairs if isinstance(value, bool)]
    if not values and len(truths) > 1 and sum(value for _, value in truths) == 1:
        values = [next(key for key, value in truths if value)]  # {"A": false, "B": true}
    if not values and (alone := re.fullmatch(r"\W*(\w+)\W*", text)):
        values = [alone[1]]  # ["B"]
    if not values:
        # An object without an answer key says nothing; prose with a bracket in it is read as prose.
        return () if text.lstrip(" \n`").removeprefix("json").lstrip()[:1] in ("{", "[") else None
    named = [choices.resolve(value) if isinstance(value, str) else () for value in values]
    # {"answer": "B", "response": "a long text"}: a text that names none is passed over beside one that does.
    told = [
        one for one, value in zip(named, values, strict=True) if one or not isinstance(value, str) or len(value) < 9
    ]
    agreed = set(told[0]).intersection(*told[1:]) if told else set()
    return tuple(label for label in (told[0] if told else ()) if label in agreed)


_BOX = re.compile(r"\\+f?box(?:ed)?\s*\{")
_BOX_BESIDE = re.compile(r"\}[\s$]*(?:or|and|,|/)?[\s$]*\\+f?box", re.IGNORECASE)
_TEX_SPACE = re.compile(r"\\[ ,;:!]|~")


def _boxes(text: str) -> list[str]:
    found = []
    for match in _BOX.finditer(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        if not depth:
            found.append(_TEX_SPACE.sub(" ", text[match.end() : end - 1]))
    return found


# ---------------------------------------------------------------- all of it

_LETTERS = dict(zip("123456789", "ABCDEFGHI", strict=True))
_NUMBER = re.compile(
    r"(?<![\w.,%/+-])(?:(?<=option\s)|(?=\d\s*(?:[)\]}:;\"'*<!(]|[.,](?!\d)|$)))[1-9](?!\w)",
    re.IGNORECASE | re.MULTILINE,
)
"""A number that stands where a label would."""


def _letter(number: re.Match[str]) -> str:
    return _LETTERS[number[0]]


def read_option(text: str | None, options: Options) -> Reading:
    """The option that an answer names under the strict rule."""
    if text is None or not text.strip():
        return Reading(None, "none", "empty")
    answer, how = final_text(_fewer_turns(text))
    if answer is None:
        return Reading(None, "none", how)
    if not answer.strip():
        return Reading(None, "none", "empty_final")
    choices = choices_of(tuple(options))
    if (whole := literal_option(answer, options)) is not None:
        return Reading(whole, "literal", how, choices.alike(whole))
    if options and all(label in _LETTERS for label, _ in options):  # 1, 2, ...: read as A, B, ...
        lettered = [(_LETTERS[label], _NUMBER.sub(_letter, text)) for label, text in options]
        found = read_option(_NUMBER.sub(_letter, answer), lettered)
        alike = tuple(label for label, _ in options if _LETTERS[label] in found.alike)
        return Reading(alike[0] if alike else None, found.rule, how if alike else found.detail, alike)
    labels = _structured(answer, choices)
    rule = "json"
    if labels is None and "box" in answer and (boxes := _boxes(answer)):
        labels, rule = choices.resolve(boxes[-1]) or read_prose(boxes[-1], choices)[1], "boxed"
        if len(boxes) > 1 and _BOX_BESIDE.search(answer) and set(labels).isdisjoint(choices.resolve(boxes[-2])):
            labels = ()
    if labels is None:
        rule, labels = read_prose(answer, choices)
        if not labels:
            return Reading(None, "none", rule)
    if not labels:
        return Reading(None, "none", f"{rule}_unresolved")
    return Reading(labels[0], rule, how, labels)
