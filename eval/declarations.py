"""What the prose of an answer declares, concludes or lists. Rules of `eval.mcq`, version 5.

An *event* is a place where the prose names an option as its answer. Events have a kind; a kind counts only where no
kind before it has an event:

1. a final answer ("final answer: B"), 2. a declaration ("the answer is B", "B is correct", "答案是B", "la respuesta es
la B"), 3. a choice or a declaration in the conditional mood ("I'd go with B", "the answer would be B"), 4. a list with
a verdict an option, of which one is right, 5. a conclusion ("so B", "hence option B", "yes, ..." where the options are
yes and no), or a first or last line that is an option.

No event is what the sentence denies, asks, puts under a condition ("if ..., the answer would be B") or tells of an
earlier thought ("I first thought"). Of two different options in one kind the later counts only after words that take
the earlier back or conclude (`_CUE`); without them there is no answer.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from eval.options import CAPITAL, COMPOUND, Choices, Head, Labels
from medgpt.replies import clean

FINAL, DECLARED, MILD, LISTED, CONCLUDED = range(5)
_RULES = ("declaration", "declaration", "declaration", "list", "line")


class Event(NamedTuple):
    """A place where an option is named as the answer."""

    start: int
    end: int
    kind: int
    labels: Labels
    """() where several options, or one that the item does not have, are declared."""


_I = re.IGNORECASE
# ---------------------------------------------------------------- what a sentence says before its declaration

_SENTENCE = re.compile(r"[.!?;。；！？\n](?:(?<=[.!?;])[\"')\]]*\s|(?<=[。；！？\n]))")
_FRESH = re.compile(r",?\s*\b(?:but|so|yet|however|therefore|thus|hence|pero|así que)\b|但|因此|所以|故", _I)
"""Words after which a condition or denial before them no longer holds."""
_CONDITION = re.compile(
    r"\b(?:(?<!as )(?<!even )if(?! (?:I|we|you|one) (?:had|have|must|were (?:forced|to|asked)|am))(?! (?:forced"
    r"|pressed|anything))"
    r"|unless|assuming|depending|suppos(?:e|ing)|in case|otherwise|whether)\b"
    r"|^\W*(?:had|were|should)\s(?!\w+ (?:be|is)\b)|\bsi (?:tuvi|fue|hubi|no |el |la )|如果|若|假如|倘若|是否|除非",
    _I,
)
_MILD_CONDITION = re.compile(r"\b(?:when(?:ever)?|in (?:a )?(?:patients?|children|women|men)|with \w+ the)\b", _I)
_DENIAL = re.compile(
    r"\b(?:not|never|cannot|neither|nor|doubt|unlikely|rather than|instead of|no es|no creo|nunca"
    r"|no (?:reason|one|evidence)|nobody|(?:wrong|incorrect|false|hard|difficult|impossible|mistake) to)\b|n't\b"
    r"|\b(?:nicht|kein|não)\b|\bno\s*$|不|无法",
    _I,
)
_EARLIER = re.compile(
    r"\bfirst (?:thought|guess|considered|instinct)|\bat first\b|\binitial (?:answer|guess|thought|choice|impression)"
    r"|^\W*(?:initially|originally|previously)\b|\bwas going to\b|\b(?:would|'d|might|could) have\b|\btempt(?:ed|ing)\b"
    r"|\b(?:I|we) (?:was|were|have been|had been) told\b|\bI(?:'ve| have)? (?:heard|read)\b"
    r"|\b(?:might|may|would) (?:think|argue|believe|assume)\b|\b(?:many|some|other)s? (?:people|students|sources"
    r"|authors|would|say|argue)\b|\bmistak|\bI considered\b"
    r"|\b(?:incorrect|wrong|worst|alternative|other|not the|(?:least|less|second|next|third)[\s-](?:most |best"
    r"|likely|appropriate| )*)[\s-]*$",
    _I,
)
_CUE = re.compile(
    r"\b(?:wait|actually|correct(?:ion|ed|ing)|sorry|however|but|though|second thoughts?|reflection|reconsider\w*"
    r"|re-?(?:check|read|think|examin)\w*|change|no|hmm+|edit|instead|let me|initial\w*|first|therefore|thus|hence"
    r"|so|final\w*"
    r"|in fact|on balance|overall|conclu\w+|oops|mistake|misread|revis\w+|pero|entonces|espera|por (?:lo )?tanto"
    r"|finalmente|(?:scratch|strike|disregard|ignore) (?:that|this|it)|never ?mind|take (?:that|it) back)\b"
    r"|等一下|不对|更正|因此|所以|但",
    _I,
)

# ---------------------------------------------------------------- forms of an event

_NOUN = re.compile(
    r"(?<![A-Za-z])(?:answer|ans|option|opt|choice|selection|pick|guess|bet|solution|sol|letter|label|respuesta"
    r"|opci[oó]n|alternativa"
    r"|soluci[oó]n|correcta?|corrected|correction(?=:)|r[ée]ponse|antwort|r[ei]sposta)(?![A-Za-z])|答案|选项|最佳选择|(?<![回应])答(?=\s*:)",
    _I,
)
_STEMS = (
    "ans", "opt", "opc", "choice", "selection", "pick", "guess", "bet", "sol", "letter", "label", "respuesta",
    "resposta", "risposta", "reponse", "alternativa", "correct", "antwort",
)  # fmt: skip
_STEMS_BEYOND_ASCII = ("réponse", "答", "选项", "最佳选择")
"""One of these or of `_STEMS` begins whatever `_NOUN` finds."""
_ASIDE = (
    r"(?:\s(?:(?:that\s)?I(?:'d|\swould|\swill)?\s(?:choose|chose|pick|select)|here|now|then|therefore"
    r"|thus|choice|option|letter|key|final|cor+ec?t+[ae]?|m[aá]s probable|más adecuada)){0,8}"
)
_BETWEEN = (
    r"[\"'\]】]*" + _ASIDE
    # Not any number: "answer in the answer in the ..." can be parted in as many ways as a power of its length.
    + r"(?:\s(?:to|for|in|of)\s(?:the|this|that)\s[a-z]+(?:\s[a-z]+){0,6}?" + _ASIDE + r"){0,3}"
    r"(?:,\s[^,.;:?\n]{2,30},)?,?\s*(?:\((?![A-Za-z]\))[^()\n]{2,40}\)\s*)?[\"']?\s*"
)  # fmt: skip
_LINK = re.compile(
    _BETWEEN + r"(?:(?P<mild>would (?:(?!not|never|only)\w+ )?be|ser[ií]a)(?![\w'])"
    r"|(?:is|was|'s|es|est|ist|lautet|é|è|will be|must be|has to be|have to be|should be|ought to be|can only be"
    r"|seems to be"
    r"|appears to be|remains|becomes|debe ser|equals|(?:would|will) not change(?=:))(?![\w'])"
    r"|:|=+>?|-+>|→|➡|–|—|-(?=\s)|(?:应该|应当|应|就)?(?:是|为|选择?)|】)",
    _I,
)
_MAY_LINK = re.compile(
    r"[\"'\]】]*\s*(?:[:=\-–—→➡(】,'\"]|cor|ser|m[aá]s|debe|[是为应就选]|(?:is|was|es|est|ist|lautet|é|è|will|must|has|have|should|ought"
    r"|can|seems|appears|remains|becomes|equals|would|here|now|then|therefore|thus|choice|option|letter|key|final|to|for|in|of|that"
    r"|I)\b)",
    _I,
)
"""How whatever `_LINK` finds begins: the words after most nouns are none of these."""
_LOOSE_NOUNS = frozenset(("option", "opt", "correct", "letter", "label", "选项"))
"""Words that often open something else: what names no option after them says nothing."""
_HEADING = re.compile(r"^(?:(?:the|my|final|correct|best|suggested)\s)*(?:answer|ans)$", _I)
_DOT_LINK = re.compile(r"\.\s+(?=[(\[\"]?[A-Za-z][)\]\"]?(?![A-Za-z]))")
_END = re.compile(r"$", re.MULTILINE)
_NO_LINK = re.compile(r"\.?\s+[(\[\"]*([A-Z])[)\]\"]*[.!]?\s*$", re.MULTILINE)
_PRAISED = re.compile(
    r"(?P<link>\s(?:is|seems|appears|remains|must be|has to be|should be|(?P<mild>would be)|es|ser[ií]a"
    r"|ist|est|é|è))\s+"
    r"(?:(?!not|never|part|near|hard|scarce|bare|rare|possib|potential|conceiv|suppos|alleged)[a-z]+ly\s+|still\s+"
    r"|thus\s+|then\s+|hence\s+|by far\s+|to be\s+|what\s+)*(?:(?:my|the|an?|la|el|our)\s+)?"
    r"(?:single\s+|only\s+|one\s+|final\s+)?"
    r"(?:correct\b|right(?=\s*(?:answer|choice|option|one|here|because|since|as\b|dose|[,.;:()]|$))|answer\b"
    r"|respuesta correcta|r[ei]sposta corr?et+a"
    r"|opci[oó]n correcta|(?:correct[ae]|corr?et+a|richtig|korrekt|bonne r[ée]ponse)\b"
    r"|best(?! (?:treated|seen|managed|described))|asked for|(?<=only )(?:option"
    r"|choice|one) (?:left|remaining)|I would (?:answer|choose|pick|go with)|(?:most )?likely correct"
    r"|(?:the )?(?:most|likeliest|best)\s+(?:likely|appropriate|plausible|suitable|accurate|probable|consistent"
    r"|fitting)\b)",
    _I | re.MULTILINE,
)
_LINKS = (
    " is", " seems", " appears", " remains", " must be", " has to be", " should be", " would be", " es", " ser",
    " é", " è",
)  # fmt: skip
_PRAISED_ZH = re.compile(r"(?:选项)?\s*([A-J])\s*(?:选?项)?\s*(?:是|为)?(?:正确|对的|最佳|最合适|符合题意)")
_MADE = re.compile(
    r"\bmak(?:es|ing|e)\s+(?:option\s+)?[(\[]?([A-Z])[)\]]?\s+(?:the\s+|a\s+)?(?:most\s+|single\s+)?(?:correct"
    r"|right|best|likely)"
)
_FITS = re.compile(
    r"(?:^|(?<=[,;.:]\s))(?:(?:only|just)\s+)?(?:option\s+)?([A-Z])\s+(?:(?:matches|fits) best\b|(?:remains"
    r"|is left)\W*$)",
    re.M | re.I,
)
_BEST = re.compile(
    r"(?:^|(?<=[,;.:]\s))(?:option\s+)?[(\[]?([A-Z])[)\]]?\s+best\s(?:fits|matches|explains|describes|accounts for)\b"
    r"(?![^.\n]*\b(?:but|however|although|if|unless|except|not|also|as well|equally)\b)",
    re.M | re.I,
)
_TAKEN_BACK = re.compile(
    r"[^,.;:?()]*?(?:\?|\b(?:but|and|as) (?:so )?(?:does|do|is)\b|\bis (?:false|wrong|not|incorrect|untrue)\b"
    r"|(?<!because )(?<!since )\b(?:if|wenn|falls|unless|once|when|in that|only (?:in|for|with|among|where))\b"
    r"|\b(?:to|for|of) (?:a|another|some other) (?:different |other )?question\b)"
    r"|\s*,\s*(?:only )?(?:if|unless|wenn|falls)\b",
    _I,
)
"""Behind praise: a question, a condition, another option that is as good, another question."""
_DISPUTED = re.compile(
    r"[^.;?\n]*?(?:\bbut I (?:disagree|doubt|(?:am|'m) not)\b|\baccording to (?:one|some|another)\b"
    r"|\bonly (?:if|when|with|where)\b|\buntil (?!proven|shown))",
    _I,
)
"""Behind an option that was declared: it is not, or no longer, the answer, or another's."""
_WITHDRAWN = re.compile(
    r"\b(?:(?:scratch|strike|disregard|ignore) (?:that|this|it)\b|never ?mind\b|I take (?:that|it) back\b)", _I
)
_RESTRICTED = re.compile(r"\W*(?:\w+\s){0,3}(?:in|for|when|only|once|if|unless|had|provided|among|as long)\b", _I)
_SUBJECT = re.compile(
    r"(?P<before>.*?)(?:\b(?:option|choice|answer|statement|letter|opción"
    r"|la)\s+)?[(\[\"']*(?<![A-Za-z0-9'])([A-Z])[)\]\"']*$",
    _I | re.S,
)
_LISTED_BEFORE = re.compile(
    r"(?<![A-Za-z0-9])[A-Z][)\]]?(?:\s*\([^()]*\))?\s*(?:,|and|or|nor|/|&|,\s*and|y|o)\s*(?:options?\s*)?$"
)
_CHOSEN = re.compile(
    r"(?:\b(?:I|we|let's|let us)(?P<mood>'d|'ll|'m|'ve)?(?:\s(?P<modal>would|will|am|should|must|shall|can|do"
    r"|have to|had to|have|therefore"
    r"|thus|then|still|so|tentatively|only))*\s+|(?:^|(?<=[.;:]\s)|(?<=\bto ))(?=choos|select|pick|go(?:ing)? with"
    r"|leaning))"
    r"(?P<verb>go(?:ing)?\s(?:with|for)|choos(?:e|ing)|chose|pick(?:ing)?|select(?:ing)?|say|answer|guess|opt for"
    r"|lean(?:ing)?\s(?:towards?|to)|vote for"
    r"|settle (?:on|for)|mark|stick with|stay with|(?:classify|rate|label)\s(?:this patient|it|her|him|them)\sas"
    r"|change my answer to)\s+"
    r"|\b(?P<es>elijo|escojo|selecciono|elegir[ií]a|marcar(?:ía)?|me quedo con|opto por|me inclino por"
    r"|seleccionar[ií]a|escoger[ií]a)\s+",
    _I | re.MULTILINE,
)
_CHOOSERS = (
    " i ", " i'", "\ni ", "\ni'", " we ", " we'", "\nwe ", "let", "choos", "select", "pick", "go with", "going with",
    "leaning", "elij", "escoj", "escoger", "seleccion", "elegir", "marcar", "quedo", "opto", "inclino",
)  # fmt: skip
"""One of these stands in whatever `_CHOSEN` finds."""
_CHOSEN_ZH = re.compile(
    r"(?P<no>不(?:能|应|该)?)?(?:应该?|故|可|只能|因此|所以|我)?选(?:择)?(?!项)\s*(?:答案|选项)?\s*(?:为|是|:)?\s*(?=[(\[]?[A-J])"
)
_SO = re.compile(
    r"(?:^|(?<=[\s,;:(]))(?:so|thus|hence|therefore|ergo|=+>|-+>|→|➡|⇒|∴|=|in conclusion|in summary|to conclude"
    r"|overall|finally|leaves|leaving|i\.e\.|namely|that is|this is|it is|it's"
    r"|that's|which is|(?:that|this|it|answer) (?:must|should|has to|can only) be|means|meaning|corresponds to"
    r"|es decir|es la|por tanto"
    r"|por lo tanto|by (?:process of )?(?:elimination|exclusion)|(?:that|this|it|which) would be|(?:gotta|got to"
    r"|must|has to) be)(?=[\s,:(])[,:]?\s*(?:(?:we|I) (?:choose|pick|select|have|get)\s+|only\s+|with\s+|then\s+"
    r"|it is\s+|the\s+)*"
    r"(?=(?:option |choice |answer |opción )?[(\[\"]*[A-Z](?!'?[A-Za-z0-9])(?!-[a-z]))",
    _I | re.MULTILINE,
)
_LAST_OPTION = re.compile(
    r"(?:[,:–—]|\s-)\s*(?:i\.e\.,?\s*)?(?:option|choice|opción)\s+(?=[(\[]?[A-Z](?!'?[A-Za-z0-9]))", _I
)
_POINTS_TO = re.compile(
    r"\b(?:consistent with|corresponds? to|points? to|in favou?r of|favou?rs|supports)\s+"
    r"(?=(?:option|choice|answer)\s+[(\[]?[A-Z](?!'?[A-Za-z0-9]))",
    _I,
)
_LAST_LETTER = re.compile(r"(?:[:=–—-]|\b[Mm]ost consistent with)\s+(?=[(\[\"]?[A-Z][)\]\"]?\s*[.!]?\s*\Z)")
_IS_BOTH = re.compile(
    r"\b(?:is|be|represents|suggests?|indicates?|looks like)\s+(?=[^.;?!\n]{3,80}\((?:option |choice )?[A-Z]\))", _I
)
_RATHER = re.compile(r"\b[Nn]ot\s[^.,;!?\n]{1,60}?,?\s(?:but|sino)\s(?:rather\s)?|而是\s*")
_AGAINST = re.compile(
    r"\b(?:incorrect|wrong|exclud|eliminat|rul(?:e[sd]?|ing) out|except|against|distract|unlike|versus|alternative"
    r"|mimic)",
    _I,
)
"""Words before a conclusion that make it one about a wrong option."""
_CLOSED = re.compile(
    r"\s*(?:\([^()]*\)\s*)?(?:[.!,;:)。]|$|because|since|as\b|given|in\b|it is\b|over\b|rather\b|instead\b|y\b)",
    _I | re.MULTILINE,
)
_DIAGNOSED = re.compile(
    r"(?:\b(?:most likely|correct|best|most appropriate|final|most probable)\s[^.;:?!\n]{2,80}?\s*(?:\bis|:"
    r"|\bwould be)\s"
    r"|(?:^|(?<=[.;!]\s))(?:my\s)?(?:final|output|response|diagnosis|modality|eligibility|conclusion|verdict"
    r"|decision|impression"
    r"|treatment|organism|prediction|result|category)\s?:"
    r"|\bm[aá]s probable\s(?:es|:|ser[ií]a)\s|最可能的?\w{0,6}?(?:是|为))\s*",
    _I | re.MULTILINE,
)
_DIAGNOSERS = ("most likely", "correct", "best", "most appropriate", "final", "probable", "最可能")
"""One of these, or a colon, stands in whatever `_DIAGNOSED` finds."""
_GUARDED = re.compile(r"\bI (?:think|believe|suspect|guess)\b|\bperhaps\b|\bmaybe\b", _I)
_UNKNOWN = re.compile(
    r"\W*(?:unclear|unknown|uncertain|undecided|not (?:known|possible|clear|given)|I (?:do not|don't|can't|cannot)\b)",
    _I,
)
_BY_GROUP = re.compile(
    r"\W*In (?:an?|patients|children|adults|women|men|those)\b[^.?!]*[;,]\s(?:and |but |while |whereas )?"
    r"in (?:an?|the|patients|children|adults|women|men|those)\b[^.?!]*\b[A-Z]\b",
    _I,
)
"""One answer for one group of patients, another for the next."""
_EQUALLY = re.compile(
    r"\bequally (?:good|likely|valid|correct|plausible|possible|right)\b|\bjust as (?:good|likely|valid|correct)\b"
    r"|\A[^.!?\n]{0,40}?\b(?:perhaps|maybe|possibly)\s(?:it is |it's |also )?\(?[A-Z]\b",
    _I,
)
"""Words behind an answer that put another one beside it."""
_BUT_IS = re.compile(
    r"(?:\s|^)(?:not|isn't|no)\s[^.;!?\n]{1,80}?(?:,?\s(?:but|sino)\s(?:rather\s)?|[;,]\s(?:it's|it is)\s)(?P<head>.*)",
    _I,
)


class _Prose:
    """The prose of one answer, line by line without presentation."""

    def __init__(self, answer: str, choices: Choices) -> None:
        lines = [" ".join(_cells(line).split()) for line in clean(answer).splitlines()]
        self.lines = [line for line in lines if line]
        self.text = "\n".join(self.lines)
        self.low = self.text.lower()
        self.choices = choices
        self.events: list[Event] = []
        self.supposed: list[Event] = []
        """What was declared under a condition."""
        self._taken = 0

    @cached_property
    def _stops(self) -> list[int]:
        return [0, *(match.end() for match in _SENTENCE.finditer(self.text))]

    def _nouns(self) -> Iterator[re.Match[str]]:
        """Words that open a declaration, in order."""
        return self._matches(_NOUN, _STEMS if self.low.isascii() else (*_STEMS, *_STEMS_BEYOND_ASCII))

    def _matches(self, pattern: re.Pattern[str], stems: Sequence[str]) -> Iterator[re.Match[str]]:
        """What `pattern` finds; each begins with one of `stems`, and looking for those costs less than the pattern."""
        places = []
        low = self.low.replace("\n", " ")
        for stem in stems:
            place = low.find(stem)
            while place >= 0:
                places.append(place)
                place = low.find(stem, place + 1)
        end = 0
        for place in sorted(set(places)):
            if place >= end and (match := pattern.match(self.text, place)):
                end = match.end()
                yield match

    def lead(self, place: int) -> str:
        """What stands before a place in its sentence."""
        return self.text[self._stops[bisect_right(self._stops, place) - 1] : place]

    def sentence_rest(self, place: int) -> str:
        """What stands behind a place in its sentence."""
        number = bisect_right(self._stops, place)
        return self.text[place : self._stops[number] if number < len(self._stops) else None]

    def holds(self, place: int, mild: bool = False, noun: str = "") -> bool:
        """Whether the sentence before a place lets it stand: no condition, denial or earlier thought."""
        lead = _FRESH.split(self.lead(place))[-1]
        if (
            _CONDITION.search(lead)
            or _EARLIER.search(lead)
            or (noun and _EARLIER.search(lead + noun))
            or (mild and _MILD_CONDITION.search(lead))
        ):
            return False
        return not _DENIAL.search(re.split(r"[,，]", lead)[-1])

    def add(self, start: int, span_at: int, kind: int, head: Head, counts: bool = True) -> None:
        """Note what a head names, or that it names no single option where that `counts`."""
        if head.labels:
            end = max(span_at, self.text.find("\n", span_at) if "\n" in self.text[span_at:] else len(self.text))
            taken = end - len(head.rest)
            self.events.append(Event(start, min(max(taken, span_at), len(self.text)), kind, head.labels))
            self._taken = max(self._taken, taken)
        elif counts and head.why in ("several", "outside"):
            self.events.append(Event(start, span_at, kind, ()))

    def span(self, place: int) -> tuple[int, str]:
        """(place, text) from a place to the end of its line; the next line where nothing follows on this one."""
        end = self.text.find("\n", place)
        rest = self.text[place : end if end >= 0 else None]
        if rest.strip(" \"'") or end < 0:
            return place, rest
        following = self.text[end + 1 :].split("\n", 2)
        if len(following) > 1 and _starts(following[0]) and _starts(following[1]):
            return place, ""  # the options are listed
        return end + 1, following[0]

    # ------------------------------------------------------------ kinds of events

    def declared(self) -> None:
        """As in "The answer is B", "Ans. B", "答案是B"."""
        for noun in self._nouns():
            if noun.start() < self._taken:
                continue  # inside an option's own text
            word = noun[0].lower()
            may_link = _MAY_LINK.match(self.text, noun.end())
            link = _LINK.match(self.text, noun.end()) if may_link else None
            if link is None and word in ("ans", "opt", "sol"):
                link = _DOT_LINK.match(self.text, noun.end())
            at_end = self.text[noun.end() : noun.end() + 1] in ("", "\n")
            if (
                link is None
                and at_end
                and _HEADING.match(self.text[self.text.rfind("\n", 0, noun.start()) + 1 : noun.end()])
            ):
                link = _END.match(self.text, noun.end())
            if link is None:
                bare = _NO_LINK.match(self.text, noun.end()) if word in ("answer", "ans", "opt") else None
                if bare and self.holds(noun.start()):
                    self.add(noun.start(), bare.start(1), DECLARED, self.choices.head(bare[1]))
                continue
            mild = bool(link.groupdict().get("mild"))
            at, span = self.span(link.end())
            if _BY_GROUP.match(self.lead(noun.start()) + self.text[noun.start() : self._line_end(at)]):
                self.events.append(Event(noun.start(), at, DECLARED, ()))
                continue
            head = self.choices.head(span)
            if not head.labels and (turned := _BUT_IS.match(span)):
                head = self.choices.head(turned["head"])
            unknown = _UNKNOWN.match(span)
            if not (head.labels or head.why in ("several", "outside") or unknown):
                continue  # most such words declare nothing: that is cheaper to see than what stands before them
            if not self.holds(noun.start(), mild, noun[0]):
                if head.labels and _CONDITION.search(self.lead(noun.start())):
                    self.supposed.append(Event(noun.start(), at, CONCLUDED, head.labels))
                continue
            if mild and head.labels and _trailing_condition(self.sentence_rest(at + len(span) - len(head.rest))):
                continue
            if head.labels and _DISPUTED.match(head.rest):
                continue
            final = re.search(r"(?:final|最终)\s*$", self.lead(noun.start()), _I) or "final" in link[0].lower()
            kind = MILD if mild else FINAL if final else DECLARED
            self.add(noun.start(), at, kind, head, counts=word not in _LOOSE_NOUNS)
            if unknown:
                self.events.append(Event(noun.start(), at, kind, ()))

    def praised(self) -> None:
        """As in "B is correct", "lithium (B) is the best choice", "which makes B the right answer"."""
        conditional: list[Labels] = []
        for match in self._matches(_PRAISED, _LINKS):
            labels, start = self._subject(match.start())
            if labels is None or start < self._taken:
                continue
            mild = bool(match["mild"])
            if not self.holds(start, mild) or (mild and _trailing_condition(self.sentence_rest(match.end()))):
                continue
            rest = self.sentence_rest(match.end())
            if _TAKEN_BACK.match(rest):
                conditional.append(labels)
                continue
            # "A is correct once ..., B is correct in shock": each under its condition.
            beside = [event.labels for event in self.events if event.kind <= DECLARED and event.labels] + conditional
            if not beside or not _RESTRICTED.match(rest):
                self.events.append(Event(start, match.end(), MILD if mild else DECLARED, labels))
        # Most text holds none of these: looking for the words first saves the search for the patterns.
        rare = (
            (_MADE, ("mak",)),
            (_FITS, ("fits best", "matches best", "remains", "is left")),
            (_BEST, ("best ",)),
            (_PRAISED_ZH, ("确", "对", "佳", "合")),
        )
        for pattern, words in rare:
            for match in pattern.finditer(self.text) if any(word in self.low for word in words) else ():
                label = self.choices.labels.get(match[1].casefold())
                if label and self.holds(match.start(1)):
                    kind = MILD if pattern is _BEST else DECLARED
                    self.events.append(Event(match.start(), match.end(), kind, self.choices.alike(label)))

    def withdrawn(self) -> None:
        """As in "The answer is B. Scratch that": what was declared before no longer is."""
        may_be = any(word in self.low for word in ("scratch", "strike", "disregard", "ignore", "mind", "back"))
        declared = [event for event in self.events if event.labels] if may_be else []
        for match in _WITHDRAWN.finditer(self.text) if declared else ():
            kinds = [event.kind for event in declared if event.start < match.start()]
            if kinds:
                self.events.append(Event(match.start(), match.end(), min(kinds), ()))

    def _subject(self, end: int) -> tuple[Labels | None, int]:
        """(labels, place) of the option that is the subject of a sentence up to `end`; None where there is none."""
        lead = self.lead(end)
        clause = re.split(r"(?:[,;:—–]|\b(?:so|thus|therefore|hence|but|because|that|and))\s+", lead)[-1]
        for part in dict.fromkeys((lead, clause)):
            head = self.choices.head(part)
            if head.labels and not head.rest.strip(" .,:;)\"'"):
                # "A, B and C is" names several; the last clause alone would not show it.
                before = lead[: len(lead) - len(part)]
                if head.written != "label" or not (_LISTED_BEFORE.search(before) or COMPOUND.search(before)):
                    return head.labels, end - len(part)
        match = _SUBJECT.match(lead)
        if match is None or not match[2].isupper():
            return None, end
        before, label = lead[: match.start(2)], self.choices.labels.get(match[2].casefold())
        if label is None or _LISTED_BEFORE.search(before.rstrip("([\"'")) or COMPOUND.search(before):
            return None, end
        return self.choices.alike(label), end - len(lead) + match.start(2)

    def chosen(self) -> None:
        """As in "I'd go with B", "故选B"."""
        said = f" {self.low}"
        for match in _CHOSEN.finditer(self.text) if any(word in said for word in _CHOOSERS) else ():
            if not self.holds(match.start()):
                continue
            at, span = match.end(), self.text[match.end() : self._line_end(match.end())]
            head = self.choices.head(span)
            # "so I would choose B" at the very end, without a stop, may be cut off.
            at_end = not head.rest and at + len(span) == len(self.text)
            if at_end and match["modal"] == "would" and match["verb"].lower() == "choose":
                continue
            if head.written == "label" and not _CLOSED.match(head.rest):
                continue
            if _trailing_condition(re.split(r"[.,;(]", head.rest)[0]):
                continue
            if head.written == "text" and not re.match(r"\s*(?:[.,;(]|$)", head.rest):
                continue
            self.add(match.start(), at, MILD, head)
        for match in _CHOSEN_ZH.finditer(self.text) if "选" in self.text else ():
            if not match["no"] and self.holds(match.start()):
                span = self.text[match.end() : self._line_end(match.end())]
                self.add(match.start(), match.end(), DECLARED, self.choices.head(span))

    def _line_end(self, place: int) -> int:
        end = self.text.find("\n", place)
        return end if end >= 0 else len(self.text)

    def concluded(self) -> None:
        """As in "so B.", "→ option B", "The most likely diagnosis is pneumonia."."""
        patterns = (_SO, _LAST_OPTION, _POINTS_TO, _LAST_LETTER, _IS_BOTH, _RATHER)
        for pattern in patterns if CAPITAL.search(self.text) else ():
            for match in pattern.finditer(self.text):
                if (
                    not self.holds(match.start())
                    or (pattern is _LAST_LETTER and re.fullmatch(r"\W*[A-Z]\W*", self.lead(match.start())))
                    or COMPOUND.search(self.text[max(match.end() - 30, 0) : match.end()])
                    or _AGAINST.search(self.lead(match.start()).rsplit(",", 1)[-1])
                ):
                    continue
                head = self.choices.head(self.text[match.end() : self._line_end(match.end())])
                if pattern is _IS_BOTH and head.written != "both":
                    continue
                if head.labels and (head.written != "label" or _CLOSED.match(head.rest)):
                    if pattern is _SO or (_CLOSED.match(head.rest) and not re.match(r"\s*[,:]", head.rest)):
                        self.add(match.start(), match.end(), CONCLUDED, head)
                elif head.why == "several" and pattern is _SO:
                    self.add(match.start(), match.end(), CONCLUDED, head)
        may_be = ":" in self.text or any(word in self.low for word in _DIAGNOSERS)
        for match in _DIAGNOSED.finditer(self.text) if may_be else ():
            if self.holds(match.start()) and not _GUARDED.search(self.lead(match.start())):
                head = self.choices.head(self.text[match.end() : self._line_end(match.end())])
                if head.labels and re.match(r"\s*[\"']?(?:[.,;(。，；]|$)", head.rest):
                    self.add(match.start(), match.end(), CONCLUDED, head)

    def listed(self) -> None:
        """A verdict an option, and one of them right."""
        right: list[str] = []
        wrong: set[str] = set()
        seen: list[str] = []
        for piece in (
            self.lines if len(self.lines) > 2 else [part for line in self.lines for part in _PIECE.split(line)]
        ):
            match = _ITEM.match(piece)
            label = self.choices.labels.get(match[1].casefold()) if match else None
            if match is None or label is None or (match[1].islower() and match["stop"].strip() not in (")", ".")):
                continue
            seen.append(label)
            rest = match["rest"]
            if found := self.choices.text_at(rest.lstrip(" .:)-–—(")):
                rest = found[1]
            if verdict := _VERDICT.match(rest) or _VERDICT_AT_END.search(rest):
                (right.append(label) if verdict["yes"] else wrong.add(label))
        if len(right) != 1 or right[0] in wrong or len(seen) != len(set(seen)):
            return
        others = set(self.choices.labels.values()) - set(right)
        if (len(others - wrong) <= 1 and wrong) or (others <= set(seen) and not wrong):
            self.events.append(Event(0, len(self.text), LISTED, self.choices.alike(right[0])))

    def yes_or_no(self) -> None:
        """As in "Yes, there is." where the options are yes and no only."""
        if self.choices.yes_no and (match := _YES_NO.match(self.text)):
            labels = self.choices.yes_no[0 if match["yes"] else 1]
            self.events.append(Event(0, match.end(), CONCLUDED, labels))

    def edges(self) -> None:
        """The first and the last line, where that line is an option."""
        if not self.lines:
            return
        first, last = self.lines[0], self.lines[-1]
        listing = _starts(first) and len(self.lines) > 1 and _starts(self.lines[1]) not in ("", _starts(first))
        if not listing and (labels := self.choices.resolve(first) or self._opening(first)):
            self.events.append(Event(0, len(first), CONCLUDED, labels))
        if len(self.lines) > 1 and _starts(last) > _starts(self.lines[-2]) > "":
            return  # the end of a list of options
        ended = [part for part in _PIECE.split(last) if part.strip()]
        for part in dict.fromkeys((last, *ended[-1:])):
            if (len(self.lines) > 1 or part is not last) and (labels := self.choices.resolve(part)):
                self.events.append(Event(len(self.text) - len(part), len(self.text), CONCLUDED, labels))
                break

    def _opening(self, line: str) -> Labels:
        """The option that the first line begins with, where what follows explains it."""
        plain = line.lstrip(" >-•·✅✔✓☑➡→")
        named = re.match(r"(?:option|choice|opción)\s", plain, _I)
        sentence = _PIECE.split(plain)[0]
        if not _starts(plain) and re.search(r"\([^()]*\)\.$", sentence) and (labels := self.choices.resolve(sentence)):
            return labels  # "It's an MRI (B). ..."
        head = self.choices.head(plain)
        whole = self.text.rstrip("\"')]} ").endswith((".", "!", "。", "?")) or not re.search(r"[.;:]\s|\n", head.rest)
        if not head.labels or not whole:
            return ()  # cut off: what is said of one option may go on with another
        if any(_starts(part) not in ("", head.labels[0].casefold()) for part in re.split(r"(?<=[.;!])\s+", plain)):
            return ()  # the options are listed on one line
        if head.written == "both":
            return head.labels if _starts(plain) or named or re.match(r"\s*(?:[.!,;:–—-]|$)", head.rest) else ()
        if head.written == "text":
            stop = re.match(r"\s*[.!。–—-]\s", head.rest)
            return head.labels if stop and not self.choices.other_text(self.text, head.labels) else ()
        if named and re.match(r"\s*\.\s", head.rest):
            return head.labels
        if _EXPLAINED.match(head.rest):
            return head.labels
        reason = _SET_OFF.match(head.rest)
        told = reason and _FINITE.search(head.rest) and not _DOUBTED.search(head.rest)
        return head.labels if told and not self.choices.other_text(head.rest[:60], head.labels) else ()


_PIECE = re.compile(r"(?<=[\w)\]\"'%]{2}[.;!])\s+")
_ITEM = re.compile(
    r"[\s>•·\-–]*(?:\d+[.)]\s*)?(?:option\s+|choice\s+)?[(\[]?([A-Za-z])(?P<stop>[)\].:]*\s*(?:[-–—:]\s*)?"
    r"|\s+is\s+)(?<![A-Za-z])(?P<rest>.*)$",
    _I,
)
_YES = r"(?P<yes>✓|✔|✅|☑|√|correct\b|right\b(?!\s\w)|true\b|yes\b|the (?:correct|best|right) (?:answer|choice|option))"
_NO = r"(?P<no>✗|✘|❌|×|✖|x\b|incorrect\b|not correct|wrong\b|false\b|no\b(?!\s\w)|not the)"
_VERDICT = re.compile(rf"[\s:.,\-–—(\[>=]*(?:is\s+)?(?:{_YES}|{_NO})", _I)
_VERDICT_AT_END = re.compile(rf"[\s(\[:\-–—]\(?(?:{_YES}|{_NO})(?:\s*answer)?\s*[)\].]*\s*$", _I)
_YES_NO = re.compile(
    r"[\s\"'(]*(?:(?:based on|according to|from|in|on)\s[^,.;:\n]{2,40},\s)?(?:probably\s|most likely\s|likely\s"
    r"|definitely\s|indeed,?\s|I (?:believe|think|don't think) so,?\s)?"
    r"(?:(?P<yes>yes|y|sí|是的?|有)|(?:no|n|否|不是|没有))"
    r"(?:\s*[\"')]*\s*(?:$|\n|[(.;:!–—。;！]|-\s|[,，](?!\W*(?:wait|yes|no\b|maybe|hmm|actually|let me)))|\s(?:it"
    r"|there|he|she|they|this) (?:is|are|does|was|has|isn't|aren't|doesn't)\b)",
    _I,
)
_EXPLAINED = re.compile(
    r"\s*[.:)]*\s*(?:\(|(?:the|this|these|it|because|since|she|he|they|patients?|given|in this|as the|as this"
    r"|there)\s)",
    _I,
)


_SET_OFF = re.compile(r"\s*[.):,–—-]+\s+\w+\s\w+")
_FINITE = re.compile(
    r"\b(?:is|are|was|were|has|have|had|does|do|did|can|will|shows?|presents?|suggests?|indicates?|points?|fits?"
    r"|explains?|causes?|occurs?)\b"
)
"""A verb: what follows the label is a sentence that explains, not another text for the option."""
_DOUBTED = re.compile(r"\b(?:not|no|wrong|incorrect|unlikely|less|excluded|however|but|or|if)\b|n't\b", _I)


def _starts(line: str) -> str:
    """The label that a line of a list begins with."""
    match = re.match(r"[\s>•·\-–]*(?:option\s+)?[(\[]?([A-Za-z])(?:[)\].:]|\s[-–—])", line, _I)
    return match[1].casefold() if match else ""


def _cells(line: str) -> str:
    """A row of a Markdown table as prose."""
    if not line.lstrip().startswith("|"):
        return line
    return ": ".join(cell.strip() for cell in line.strip().strip("|").split("|") if cell.strip(" -:"))


def _trailing_condition(rest: str) -> bool:
    return bool(re.search(r"\b(?:if|unless|had|were|when|in case|provided)\b|如果", rest, _I))


_SHORT = 200
_PLAIN = re.compile(
    r"(?P<said>(?:(?:the|my) )?(?:(?:final|correct|best) )?answer(?: is|:)?:? )?[(\[]?(?P<label>[A-Z])[)\]]?[.!]?", _I
)
_WITH_TEXT = re.compile(r"[(\[]?(?P<label>[A-Z])(?:[)\]]?[.:]|[)\]]) (?P<text>.+)")


def _plain(answer: str, choices: Choices) -> tuple[str, Labels] | None:
    """The commonest answers, which need no search: "B", "Answer: B", "(B) its text"; None for all others."""
    text = " ".join(clean(answer).split())
    if match := _PLAIN.fullmatch(text):
        label = choices.labels.get(match["label"].casefold())
        return None if label is None else ("declaration" if match["said"] else "line", choices.alike(label))
    match = _WITH_TEXT.fullmatch(text)
    label = choices.labels.get(match["label"].casefold()) if match else None
    if match is None or label is None or not choices.is_text(label, match["text"]):
        return None
    return "line", (label,)


def read_prose(answer: str, choices: Choices) -> tuple[str, Labels]:
    """(rule, labels) of what the prose of an answer names; (why, ()) where it names no single option."""
    if len(answer) < _SHORT and (labels := _plain(answer, choices)):
        return labels
    prose = _Prose(answer, choices)
    if not choices.may_name(prose.text, prose.low):
        return "no_answer_event", ()
    prose.declared()
    prose.praised()
    prose.withdrawn()
    if not any(event.kind <= DECLARED and event.labels for event in prose.events):
        prose.chosen()
    if not any(event.labels for event in prose.events):
        prose.listed()
        if not prose.events:
            prose.yes_or_no()
            prose.concluded()
            prose.edges()
    if not prose.events:
        return "no_answer_event", ()
    kind = min(event.kind for event in prose.events)
    events = sorted(event for event in prose.events if event.kind == kind)
    last = events[-1]
    if kind == CONCLUDED:
        # "If ..., the answer is A. Without it, it is B.": the second has its condition, too.
        line = prose.text.rfind("\n", 0, last.start)
        events = sorted([*events[:-1], *(event for event in prose.supposed if line < event.start < last.start), last])
    for earlier in reversed(events[:-1]):
        if earlier.labels and not set(earlier.labels) & set(last.labels):
            if not _CUE.search(prose.text[earlier.end : max(last.end, earlier.end)]):
                return "conflicting_lines" if kind == CONCLUDED else "conflicting_declarations", ()
            break
    if not last.labels:
        later = [event for event in prose.events if event.kind > kind and event.start > last.start and event.labels]
        if not later:
            return f"{_RULES[kind]}_unresolved", ()
        last = later[-1]
    if kind in (DECLARED, MILD) and _EQUALLY.search(prose.text[last.end :]):
        return "conflicting_declarations", ()
    return _RULES[kind], last.labels
