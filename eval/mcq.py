r"""Which option an answer names: strict (the score), literal and lenient (shown beside it). Pure functions, no judge.

The strict rule, in full:

1. Only the answer is read: the last Harmony `final` message, what follows `</think>` or `<unused95>`, inside it the
   last `<answer>` tag. Reasoning that never ends, or a transcript without a final message, is no answer.
2. Presentation is taken off (Unicode forms, Markdown, LaTeX wrappers, leaked end tokens).
3. Answer *events* are looked for: `\boxed{}`; declarations ("answer is", "option:", "B is correct"); without any, the
   first and last line where the whole line is one option. Boxed goes before declarations. **The last event decides.**
4. It must name exactly one option of this item: its label, its label with its own text, or its exact text. Two labels,
   a label with another option's text, a label out of range, a paraphrase: no option, which counts as wrong. Of two
   labels with the gold text only the gold label is right.
5. Nothing is drawn by lot, nothing is compared by similarity, no letter is the default.

`lenient` also takes what a friendly reader would (a label with other words, the only option text that occurs, either
label of a gold text that stands twice). It is an upper bound to see how much format costs; it is never the score.
`literal` wants the whole output to be a label.
"""

import ast
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

Options = Sequence[tuple[str, str]]
"""(label, text), in the order shown."""


@dataclass(frozen=True)
class Reading:
    """What was read from an answer."""

    option: str | None
    """Label of the one option named; for an open question, the gold text if it was given; None where invalid."""
    rule: str
    """`literal`, `boxed`, `declaration`, `line`; `none` where there is no option."""
    detail: str
    """Where the answer text came from (`plain`, `harmony`, ...), or why no option was read."""


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
        gold_label, right = _OPEN, {_OPEN}
    else:
        # Where the right text stands under two labels (4 rows of MedMCQA's validation split), a friendly reader takes
        # either; by the strict rule the label decides.
        gold_label, key = gold, text_key(dict(options).get(gold, ""))
        right = {gold} | {label for label, option in options if key and text_key(option) == key}
    reading = read_option(text, options)
    shown = reading if reading.option != _OPEN else Reading(gold, reading.rule, reading.detail)
    literal = (text or "").strip() in accepted if accepted else literal_option(text, options) == gold
    return Grade(shown, reading.option == gold_label, literal, lenient_option(text, options, reading.option) in right)


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


# ---------------------------------------------------------------- which text is the answer

_CHANNEL = "<|channel|>"
_HARMONY = re.compile(
    r"<\|channel\|>\s*(\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>(.*?)"
    r"(?=<\|end\|>|<\|return\|>|<\|call\|>|<\|start\|>|\Z)",
    re.DOTALL,
)
_STRIPPED_FINAL = "assistantfinal"
_REASONING = (("<think>", "</think>"), ("<unused94>", "<unused95>"))
_ANSWER_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL | re.IGNORECASE)


def final_text(text: str) -> tuple[str | None, str]:
    """(what the model answered, how it was found), or (None, why there is no answer). Reasoning is left out."""
    how = "plain"
    if _CHANNEL in text:
        finals = [match[2] for match in _HARMONY.finditer(text) if match[1] == "final"]
        if not finals:
            return None, "no_final_channel"
        text, how = finals[-1], "harmony"
    elif _STRIPPED_FINAL in text:
        # Harmony decoded without its special tokens: channel names run into the text.
        text, how = text.rsplit(_STRIPPED_FINAL, 1)[1], "harmony_stripped"
    elif re.match(r"\s*analysis(?!\s)", text):
        return None, "no_final_channel"
    for opener, closer in _REASONING:
        if closer in text:
            text, how = text.rsplit(closer, 1)[1], "after_reasoning" if how == "plain" else how
        if opener in text:
            return None, "reasoning_not_closed"
    if tags := _ANSWER_TAG.findall(text):
        return tags[-1], "answer_tag"
    return text, how


# ---------------------------------------------------------------- presentation

_ZERO_WIDTH = re.compile(r"[\u200b-\u200f\u2060\ufeff]")
_TEX_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|rm|bf)\s*\{([^{}]*)\}")
_HTML = re.compile(r"</?(?:b|i|em|strong|s|p|br)\s*/?>", re.IGNORECASE)
_END_TOKENS = re.compile(r"<\|[^|]*\|>|</s>|<eos>|<end_of_turn>")
_DOLLAR = re.compile(r"(?<!\\)\$")
_TEX_DELIMITERS = re.compile(r"\\[()\[\]]")
_MARKDOWN = re.compile(r"[*_`#]+")
_OUTER = " \t\n.,:;!?\"'()[]{}。、"


_MARKED = re.compile(r"[^\x00-\x7f]|[<*_`#$\\]")


def _clean(text: str) -> str:
    if not _MARKED.search(text):
        return text  # plain ASCII without a sign of markup: nothing below would change it
    text = _ZERO_WIDTH.sub("", unicodedata.normalize("NFKC", text))
    while (plain := _TEX_TEXT.sub(r"\1", text)) != text:
        text = plain
    text = _END_TOKENS.sub(" ", _HTML.sub(" ", text))
    return _MARKDOWN.sub("", _TEX_DELIMITERS.sub("", _DOLLAR.sub("", text)))


def text_key(text: str) -> str:
    """What is compared of an option's text: case, outer punctuation, spacing and presentation do not count."""
    return " ".join(_clean(text).casefold().split()).strip(_OUTER)


def same_text(first: str, second: str) -> bool:
    """Whether two texts are equal but for case, outer punctuation, spacing and presentation."""
    return text_key(first) == text_key(second)


@dataclass(frozen=True)
class _Choices:
    """The options of one item, ready to be looked up."""

    labels: dict[str, str]
    """Folded label -> label."""
    texts: dict[str, str]
    """Label -> key of its text."""
    by_text: dict[str, str | None]
    """Key of a text -> label; None where two options have it."""


@lru_cache(maxsize=4096)
def _choices(options: tuple[tuple[str, str], ...]) -> _Choices:
    by_text: dict[str, str | None] = {}
    # The accepted texts of an open question share one label; those of an item's options never do.
    for label, text in options:
        key = text_key(text)
        by_text[key] = None if key in by_text else label
    by_text.pop("", None)
    texts = {label: text_key(text) for label, text in options}
    return _Choices({label.casefold(): label for label, _ in options}, texts, by_text)


# ---------------------------------------------------------------- one span -> one option

_PREFIX = re.compile(r"^(?:the\s+)?(?:option|choice|letter|answer)\s*[:=]?\s+(?=\S)", re.IGNORECASE)
_LABEL = re.compile(r"^[(\[{<\"'“]?\s*([A-Za-z])(?![A-Za-z0-9])(?P<rest>.*)$", re.DOTALL)
_SEPARATORS = " \t\n.:：,;-–—)]}>\"'”"
_REASON = re.compile(r"^[\s,;.:—–-]*(?:because|since|as the|as it|as this|due to|given)\b", re.IGNORECASE)
_CAPITAL = re.compile(r"\b([B-HJ-Z])\b")
"""A letter alone; A and I are words, too."""


def _resolve(span: str, choices: _Choices) -> str | None:
    """The option that a span as a whole names."""
    span = _PREFIX.sub("", _clean(span).strip()).strip()
    if not span:
        return None
    if (match := _LABEL.match(span)) and (label := choices.labels.get(match[1].casefold())) is not None:
        rest = match["rest"]
        if not text_key(rest) or text_key(rest.lstrip(_SEPARATORS)) == choices.texts[label]:
            return label
        others = {choices.labels.get(letter.casefold()) for letter in _CAPITAL.findall(rest)} - {None, label}
        if _REASON.match(rest) and not others:
            return label
    return choices.by_text.get(text_key(span))


_LABEL_THEN_STOP = re.compile(r"^\W{0,2}([A-Za-z])(?:[)\]]|\s*[)\]]?\s*[.;!…]+(?=\s|$))\s*(?P<after>.*)$", re.DOTALL)
_SECOND_LABEL = re.compile(r"^\W*(?:and|or|&|/|,)?\s*([A-Za-z])(?![A-Za-z])", re.IGNORECASE)
_ARTICLE = re.compile(r"^\W*(?<![(\[])[AaI](?:['’]|\s+\w)")
"""A and I as words: "The answer is B. A cavity is seen", "B. I see ..."."""
_JOINED_LABEL = re.compile(r"^\W*(?:and|or|&|/)\s*[(\[]?[A-Za-z][)\]]?(?![A-Za-z])", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[\w)\]])[.;](?:\s|$)")


def _declared(span: str, choices: _Choices) -> str | None:
    """What a declaration declares: its whole span, a label that ends a sentence, or its first sentence."""
    if (label := _resolve(span, choices)) is not None:
        return label
    span = span.strip()
    if match := _LABEL_THEN_STOP.match(span):
        label, after = choices.labels.get(match[1].casefold()), match["after"]
        if label is None or text_key(after) in choices.by_text or _JOINED_LABEL.match(after):
            return None
        second = None if _ARTICLE.match(after) else _SECOND_LABEL.match(after)
        return label if second is None or choices.labels.get(second[1].casefold(), label) == label else None
    first = _SENTENCE_END.split(span, maxsplit=1)[0]
    return _resolve(first, choices) if first != span else None


# ---------------------------------------------------------------- events

_DECLARATION = re.compile(
    r"(?:\b(?:answer|option|choice|selection)\b[\"']?\s*(?:is|:|=|–|—|->|→)|答案\s*(?:是|为|:))\s*:?\s*"
    r"(?:(?:therefore|thus|clearly|indeed|most likely|likely|probably|definitely)\b,?\s*)*",
    re.IGNORECASE,
)
_IS_CORRECT = re.compile(
    r"(?:^|(?<=[\n.;:,]))\s*(?:so\s+|therefore,?\s+|thus,?\s+|hence,?\s+)?"
    r"(?P<span>(?:option|choice|answer)?\s*[(\[]?[A-Z][)\]]?)\s+"
    r"is\s+(?:the\s+)?(?:single\s+)?(?:most\s+)?(?:correct|best|right|likely correct)\b",
    re.IGNORECASE,
)
_ANCHORS = ("answer", "option", "choice", "selection", "答案")
_PRAISE = ("correct", "best", "right")
_BOX = re.compile(r"\\boxed\s*\{")

Event = tuple[int, str, str | None]
"""(position, rule, option named or None)."""


def _boxes(text: str) -> list[tuple[int, str]]:
    found = []
    for match in _BOX.finditer(text):
        depth, end = 1, match.end()
        while end < len(text) and depth:
            depth += {"{": 1, "}": -1}.get(text[end], 0)
            end += 1
        found.append((match.start(), text[match.end() : end if depth else end - 1]))
    return found


def _declarations(text: str, choices: _Choices) -> list[Event]:
    events: list[Event] = []
    whole: list[tuple[int, int]] = []  # declarations that name an option with all that follows on their line
    declared_to = 0
    lower = text.lower()
    # Most text declares nothing: looking for the words first saves the search for the patterns.
    anchors = _DECLARATION.finditer(text) if any(word in lower for word in _ANCHORS) else ()
    for match in anchors:
        if whole and match.start() < whole[-1][1]:
            continue  # inside the option's own text
        end = text.find("\n", match.end())
        end = len(text) if end < 0 else end
        span = text[match.end() : end]
        if not span.strip():  # "Answer:" with the option on the next line
            span = next((line for line in text[match.end() :].splitlines() if line.strip()), "")
        option = _declared(span, choices)
        # "Answer: B. This option is typical": later words of the same line count only if they name an option.
        if match.start() < declared_to and option is None:
            continue
        if option is not None:
            declared_to = end
            if _resolve(span, choices) is not None:
                whole.append((match.start(), end))
        events.append((match.start(), "declaration", option))
    if any(word in lower for word in _PRAISE):
        for match in _IS_CORRECT.finditer(text):
            if not any(start <= match.start() < end for start, end in whole):
                events.append((match.start("span"), "declaration", _resolve(match["span"], choices)))
    return events


def read_option(text: str | None, options: Options) -> Reading:
    """The option that an answer names under the strict rule."""
    if text is None or not text.strip():
        return Reading(None, "none", "empty")
    answer, how = final_text(text)
    if answer is None:
        return Reading(None, "none", how)
    if not answer.strip():
        return Reading(None, "none", "empty_final")
    if (whole := literal_option(answer, options)) is not None:
        return Reading(whole, "literal", how)
    choices = _choices(tuple(options))
    events: list[Event] = [(at, "boxed", _resolve(content, choices)) for at, content in _boxes(answer)]
    flat = _clean(answer)
    if not events:
        events = _declarations(flat, choices)
    if events:
        _, rule, option = max(events, key=lambda event: event[0])
        return Reading(option, rule, how) if option is not None else Reading(None, "none", f"{rule}_unresolved")
    lines = [line for line in flat.splitlines() if line.strip()]
    named = {_resolve(line, choices) for line in (*lines[:1], *lines[-1:])} - {None}
    if len(named) == 1:
        return Reading(named.pop(), "line", how)
    return Reading(None, "none", "conflicting_lines" if named else "no_answer_event")


# ---------------------------------------------------------------- the friendly reader

_LEADING_LABEL = re.compile(r"^\W{0,3}([A-Za-z])(?:[).:\]]|\s+[-–—])")
_WORD = re.compile(r"\w+")
_MENTION = re.compile(r"(?<![A-Za-z0-9'])([A-Z])(?![A-Za-z0-9'])")


def lenient_option(text: str | None, options: Options, strict: str | None) -> str | None:
    """The option a friendly reader would take: the strict one (`strict`), else what the answer points to alone.

    In this order: a label at the beginning with other words after it; the only option whose text occurs; the only
    letter that stands alone. Still nothing is guessed: where two fit, there is none.
    """
    if strict is not None or text is None:
        return strict
    answer, _ = final_text(text)
    if answer is None:
        return None
    choices = _choices(tuple(options))
    flat = _clean(answer).strip()
    lines = [line for line in flat.splitlines() if line.strip()]
    if len(lines) == 1 and (match := _LEADING_LABEL.match(lines[0])) and match[1].casefold() in choices.labels:
        return choices.labels[match[1].casefold()]
    spoken = _words(flat.casefold())
    texts = {key: _words(key) for key in choices.by_text}
    found = {key for key, spaced in texts.items() if spaced.strip() and spaced in spoken}
    # "not eligible" holds "eligible": the longer text is the one that was written.
    found -= {key for key in found if any(key != other and texts[key] in texts[other] for other in found)}
    if len(found) == 1:
        return choices.by_text[found.pop()]
    if found:
        return None
    letters = {letter for letter in _MENTION.findall(flat) if letter not in ("A", "I")}
    mentioned = {choices.labels.get(letter.casefold()) for letter in letters} - {None}
    return mentioned.pop() if len(mentioned) == 1 else None


def _words(text: str) -> str:
    """Words between single spaces, one at each end, so that a text within another starts and ends at a word."""
    return f" {' '.join(_WORD.findall(text))} "
