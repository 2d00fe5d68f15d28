"""The options of an item, and which of them a piece of text names.

Nothing here compares by similarity: a label, an option's whole text, or both. Case, outer punctuation, spacing and
presentation do not count.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from medgpt.replies import clean

Options = Sequence[tuple[str, str]]
"""(label, text), in the order shown."""
Labels = tuple[str, ...]
"""Labels that a piece of text may mean: several only where options have the same text; () for no single option."""

_OUTER = " \t\n.,:;!?\"'()[]{}。、，；！？“”‘’「」【】"


def text_key(text: str) -> str:
    """What is compared of an option's text: case, outer punctuation, spacing and presentation do not count."""
    return " ".join(clean(text).casefold().split()).strip(_OUTER)


def same_text(first: str, second: str) -> bool:
    """Whether two texts are equal but for case, outer punctuation, spacing and presentation."""
    return text_key(first) == text_key(second)


# ---------------------------------------------------------------- one piece of text -> one option

_FILLER = re.compile(
    r"""(?:[\s"'“”‘’:=>→➡–—\-]+|(?:therefore|thus|clearly|indeed|most\ likely|likely|probably|definitely|tentatively
    |perhaps|still|also|then|simply|in\ fact|option|choice|opt\.?|letter|answer|opción|opcion|opção
    |alternativa|letra|la|el|either|the\ (?:option|choice|letter|answer))(?![\w'])[.:]?|(?:选项|选)
    |(?-i:[ao](?=\ (?:opção|alternativa|letra|[(\[]?[A-Z][)\]]?[.!]?\s*$))))""",
    re.IGNORECASE | re.VERBOSE,
)
_LABEL = re.compile(
    r"[(\[{<\"'“‘]{0,3}\s?([A-Za-z])(?!'?[A-Za-z0-9])(?!-(?:[a-z]|[A-Z]\b))[\"'”’]?(?:\s?[)\]}>]{1,3})?"
)
_SEPARATORS = " \t\n.:,;-–—)]}>\"'”(=：，。"
_CONNECTIVE = re.compile(
    r"\s*[,;.:(–—\-]*\s*(?:because|since|as|due|given|which|in this|in the|in fact|for|with|based|considering|is"
    r"|was|the (?:most|best|correct|right)|"
    r"and|or|y|o|per|by|on|that|porque|ya que|dado|debido|por|因为|由于)\b",
    re.IGNORECASE,
)
_JOINED = re.compile(
    r"[\s(]*(?:\([^()]{0,60}\)\s*)?(?:,?\s*(?:and/or|and|or|then|plus|versus|vs\.?|along with|as well as|y|o|e"
    r"|u)(?![A-Za-z])"
    r"|[,;/&+|、]|或者?|和|与|及)\s*"
)
_SECOND = re.compile(
    r"(?:(?:also|possibly|perhaps|maybe)\s+)?(?:option|choice|opción"
    r"|la)?\s*[(\[]?([A-Z])[)\]]?(?!'?[A-Za-z0-9])(?!-(?:[a-z]|[A-Z]\b))(?P<next>.*)",
    re.DOTALL,
)
_BESIDE = re.compile(r"\s*[(\[]([A-Z])[)\]]|\s*[.\s]\s*([A-Z])\s*[.)]?\s*$")
_VERB = re.compile(
    r"\s+(?:is|are|was|were|would|has|have|can|could|may|might|does|do|cannot|isn't|will|should|says|"
    r"lies|stays|causes?|gives?|presents?|[a-z]+ed)\b|(?:\s?[、,]\s?[A-J])*\s*(?:均|都|为|是|不|选?项|错|用)"
)
_ASKED = re.compile(r"\s*(?:\([^()]*\))?\s*[?？]")
_IF = re.compile(
    r"[\s,→>=-]*(?:only\s+)?(?:if|when|whenever|once|in case|si)\b|\s*unless\b|\s*(?:如果|若)", re.IGNORECASE
)
_DENIED = re.compile(
    r"\s*(?:option\s+)?(?:(?:is|was|seems|es|can|could|would|does|may|might)\s*(?:also\s+)?(?:not|n't|wrong|incorrect|"
    r"false|unlikely|less likely|never|out\b|ruled out|excluded|possible|incorrecta)|isn't|(?:选?项)?(?:不|错))",
    re.IGNORECASE,
)
_GLOSS_LABEL = re.compile(
    r"\s*(?:[(\[]\s*(?:(?:option|choice|answer|opción)\s*)?([A-Za-z])\s*[)\]]"
    r"|\s*[,:–—\-]\s*(?:i\.e\.,?\s*)?(?:option|choice|answer)\s+[(\[]?([A-Z])(?![\w'])[)\]]?"
    r"|[:,]\s*([A-Z])\s*[.!]?\s*$)",
    re.IGNORECASE,
)
_ARTICLE = re.compile(r"(?:the|an?|la|el|un|una)\s+", re.IGNORECASE)
_STOP_OR_END = re.compile(r"\s*(?:[.,;:!?)\]\"'–—。，；、(]|-\s|$)")


@dataclass(frozen=True)
class Head:
    """What the beginning of a span names."""

    labels: Labels
    """() where it names no single option."""
    why: str
    """`named`; else `several`, `outside`, `asked`, `condition`, `denied` or `nothing`."""
    rest: str = ""
    """What follows the option."""
    written: str = ""
    """`label`, `text` or `both`."""


_NOTHING = Head((), "nothing")


class Choices:
    """The options of one item, ready to be looked up."""

    def __init__(self, options: Options) -> None:
        self.labels = {label.casefold(): label for label, _ in options}
        self._texts: dict[str, Labels] = {}
        # The accepted texts of an open question share one label; those of an item's options never do.
        for label, text in options:
            if key := text_key(text):
                self._texts[key] = (*self._texts.get(key, ()), label)
        self._keys: dict[str, set[str]] = {}
        for key, named in self._texts.items():
            for label in named:
                self._keys.setdefault(label, set()).add(key)
        self.yes_no: tuple[Labels, Labels] | None = None
        if len(options) == 2:
            yes, no = (next((self._texts[word] for word in words if word in self._texts), ()) for words in _YES_AND_NO)
            self.yes_no = (yes, no) if yes and no else None
        """(labels of yes, labels of no) of an item whose options are yes and no only."""
        if self.yes_no:
            self._texts |= {"y": yes, "n": no}
        self._longest = sorted(self._texts, key=len, reverse=True)
        self._reach = max(map(len, self._longest), default=0) + 1

    def alike(self, label: str) -> Labels:
        """The label and those with the same text."""
        others = (one for key in self._keys.get(label, ()) for one in self._texts[key] if one != label)
        return (label, *others)

    def is_text(self, label: str, text: str) -> bool:
        """Whether a text is this option's, and no more."""
        return text_key(text) in self._keys.get(label, ())

    def text_at(self, span: str) -> tuple[Labels, str] | None:
        """(labels, rest) of the longest option text that the span begins with, up to the end of a word."""
        low = span[: self._reach].lower()
        for key in self._longest:
            if low.startswith(key) and not (len(low) > len(key) and key[-1].isascii() and _word(low, len(key))):
                return self._texts[key], span[len(key) :]
        return None

    def may_name(self, text: str, low: str) -> bool:
        """Whether a text holds what could name an option: a letter by itself, or an option's text. Quick."""
        return bool(CAPITAL.search(text) or _SMALL.search(f" {text}")) or any(key in low for key in self._texts)

    def other_text(self, text: str, labels: Labels) -> bool:
        """Whether the text of another option occurs."""
        spaced = f" {' '.join(_WORDS.findall(text.casefold()))} "
        own = [key for label in labels for key in self._keys.get(label, ())]
        return any(
            f" {' '.join(_WORDS.findall(key))} " in spaced
            for key, named in self._texts.items()
            if not set(named) & set(labels) and not any(key in one for one in own)
        )

    def head(self, span: str) -> Head:
        """The option that a span begins with, as something declares it ("answer is ...")."""
        while (match := _FILLER.match(span)) and match.end():
            # The filler may be the text of an option or begin one.
            if (found := self.text_at(span)) and len(span) - len(found[1]) > 1:
                break
            span = span[match.end() :]
        label = _LABEL.match(span)
        for text in dict.fromkeys((span, _ARTICLE.sub("", span, count=1))):
            bare = text.lstrip("([{\"'“‘")
            found = self.text_at(bare)
            if found and (label is None or len(bare) - len(found[1]) > 1 or label[1].casefold() not in self.labels):
                return self._after_text(*found)
        return self._after_label(label, span[label.end() :]) if label else _NOTHING

    def _after_text(self, labels: Labels, rest: str) -> Head:
        if match := _GLOSS_LABEL.match(rest):
            named = self.labels.get((match[1] or match[2] or match[3]).casefold())
            if named is not None:
                if named not in labels:
                    return Head((), "several")
                return self._judged((named,), rest[match.end() :], "both")
        if (match := _JOINED.match(rest)) and match.end():
            after = _ARTICLE.sub("", rest[match.end() :], count=1)
            if self.text_at(after) or not re.match(r"\s*[,;(]", rest):
                return Head((), "several" if self.text_at(after) else "nothing")
        if not _STOP_OR_END.match(rest) and not _CONNECTIVE.match(rest) and not _IF.match(rest):
            return _NOTHING  # the beginning of something longer
        return self._judged(labels, rest, "text")

    def _after_label(self, match: re.Match[str], rest: str) -> Head:
        letter, whole = match[1], match[0]
        told = any(pattern.match(rest) for pattern in (_CONNECTIVE, _DENIED, _IF))
        if letter in "AaIi" and whole == letter and re.match(r"\s+[a-z]", rest) and not told:
            return _NOTHING  # an article or a pronoun
        if letter.islower() and whole == letter and not re.match(r"\s*(?:[.,;:!?)\]\"'。]|-\s|$)", rest):
            return _NOTHING
        label = self.labels.get(letter.casefold())
        if label is None:
            return Head((), "outside" if letter.isupper() and _STOP_OR_END.match(rest) else "nothing")
        if self._joined(rest, label):
            return Head((), "several")
        stripped = rest.lstrip(_SEPARATORS)
        found = self.text_at(stripped) or self.text_at(_ARTICLE.sub("", stripped, count=1))
        if found and len(stripped) - len(found[1]) > 1:
            if label in found[0]:
                if self._joined(found[1], label):
                    return Head((), "several")
                return self._judged((label,), found[1], "both")
            apart = rest[: len(rest) - len(stripped)]
            if _STOP_OR_END.match(found[1]) or not re.search(r"[.;!]\s|\n", apart):
                return Head((), "several")
        return self._judged(self.alike(label), rest, "label")

    def _joined(self, rest: str, label: str) -> bool:
        """Whether a second label follows as another answer: "B, C", "B or C", "(B) (C)"."""
        if match := _JOINED.match(rest):
            second = _SECOND.match(rest, match.end())
        elif match := _BESIDE.match(rest):
            return self.labels.get((match[1] or match[2]).casefold(), label) != label
        else:
            return False
        if second is None or self.labels.get(second[1].casefold(), label) == label:
            return False
        return not (_VERB.match(second["next"]) or (second[1] in "AI" and re.match(r"\s+[a-z]", second["next"])))

    @staticmethod
    def _judged(labels: Labels, rest: str, written: str) -> Head:
        for why, pattern in (("asked", _ASKED), ("condition", _IF), ("denied", _DENIED)):
            if pattern.match(rest):
                return Head((), why)
        return Head(labels, "named", rest, written)

    def resolve(self, span: str) -> Labels:
        """The option that a span as a whole names, with at most a remark in brackets or a reason after it."""
        span = " ".join(clean(span).split())
        if span.endswith(("?", "？")):
            return ()
        if not (found := self._texts.get(text_key(span))) or len(text_key(span)) == 1:
            found = None
        if found:
            return found
        span = _IT_IS.sub("", span.lstrip(_LEADING), count=1) if _IT_IS.match(span.lstrip(_LEADING)) else span
        head = self.head(span.lstrip(_LEADING))
        if not head.labels:
            return ()
        rest = head.rest.strip(_OUTER)
        if not rest or (
            re.fullmatch(r"\s*[(\[].*[)\]]\s*[.!]?\s*", head.rest)
            and (
                head.written != "text"
                or not (self._other_label(rest, head.labels) or self.other_text(rest, head.labels))
            )
        ):
            return head.labels
        if re.match(r"\s*[,(]\s*not\b", head.rest):
            return head.labels
        if _REASON.match(head.rest) and not self._other_label(rest, head.labels):
            return head.labels
        own = self._keys.get(head.labels[0], ())
        if head.written == "label" and any(_letters(rest) == _letters(key) for key in own):
            return head.labels[:1]
        return ()

    def _other_label(self, text: str, labels: Labels) -> bool:
        letters = {match[1] for match in _CAPITAL.finditer(text) if not COMPOUND.search(text[: match.start()])}
        return bool({self.labels.get(letter.casefold()) for letter in letters} - {None, *labels})


_REASON = re.compile(
    r"[\s,;.:—–-]*(?:because|since|as the|as it|as this|due to|given|porque|ya que|因为)\b", re.IGNORECASE
)
_CAPITAL = re.compile(r"(?<![A-Za-z0-9'])([B-HJ-Z])(?![A-Za-z0-9'-])")
"""A letter alone; A and I are words, too."""
_IT_IS = re.compile(
    r"(?:it'?s|it is|this is|that is)\s+(?:most likely\s+|probably\s+)?(?:an?\s+|the\s+)?(?=.*\([A-Z]\))", re.I
)
COMPOUND = re.compile(
    r"\b(?:vitamin|hepatitis|type|group|class|grade|stage|factor|protein|influenza|ha?emophilia|immunoglobulin"
    r"|panel|image|figure"
    r"|patient|phase|vitamina|tipo|grupo)\s$",
    re.IGNORECASE,
)
"""What a letter alone belongs to, before it: in "vitamin C" it is no label."""
_YES_AND_NO = (("yes", "是", "sí", "si"), ("no", "否", "不是"))
_WORDS = re.compile(r"\w+")
CAPITAL = re.compile(r"[A-Z](?<![A-Za-z0-9].)(?!'?[A-Za-z0-9])")
_SMALL = re.compile(r"[\s(\[:\"'][a-z](?=\s*(?:[.,;:!?)\]\"'。]|-\s|$))", re.MULTILINE)
_LEADING = "".join(chr(sign) for sign in range(33, 48) if chr(sign) not in "([\"'") + " >•·●✅✔✓☑➡→👉🔹|~"


def _letters(text: str) -> str:
    return "".join(_WORDS.findall(text.casefold()))


def _word(text: str, place: int) -> bool:
    return text[place].isalnum() and text[place].isascii()


@lru_cache(maxsize=512)
def choices_of(options: tuple[tuple[str, str], ...]) -> Choices:
    """The options of an item, made once."""
    return Choices(options)
