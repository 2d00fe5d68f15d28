"""Numeric content that nobody can read off the picture: magnifications, measurements, counts of patients, p-values.

Rules only, so they run offline and always first; `judge` names them in the verdict. Every run of digits in a text ends
up in exactly one find: a kind that misleads, `names` (CD20, T1-weighted, C3-C4, grade 2: vocabulary, not quantities) or
`other` (a number the rules cannot place). The weights of the kinds are argued, not fitted: there is no public set of
captions labelled for this.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import ClassVar

from filters.base import Filter, Record, Score

RULES = "number-rules-2"
"""What a verdict names when the rules alone have made it."""

WEIGHTS = {
    "p_values": 0.9,
    "counts": 0.7,
    "dates": 0.6,
    "percentages": 0.6,
    "measurements": 0.5,
    "magnifications": 0.5,
    "ages": 0.5,
    "references": 0.5,
    "labels": 0.2,
    "other": 0.1,
}
"""How surely one find of a kind asks for what the picture does not show. Finds combine as independent chances:
1 - product of (1 - weight), so one p-value is 0.9 and two magnifications are 0.75. A find of 0.5 or more alone makes a
caption misleading; which kinds do was settled on one half of `filters/calibration/captions.jsonl`."""

KINDS = {
    "magnifications": "magnifications: x200, 40×, original magnification 1:100",
    "measurements": "numbers with a unit: 3.2 x 4 cm, 5 mg/dl, 38 °C",
    "counts": "patients, cases, samples: n = 34, twelve patients",
    "p_values": "p-values, confidence intervals, hazard and odds ratios, areas under curves",
    "percentages": "percentages and x-fold changes",
    "ages": "ages and times: 45-year-old, after 6 months",
    "dates": "dates and years",
    "labels": "figure, table, case and video numbers: Fig. 3A",
    "references": "reference numbers, DOIs and links: [12], [3-5]",
    "other": "numbers of no known kind",
    "names": "numbers inside names, which mislead nobody: CD20, T1-weighted, L4-L5, grade 2",
}
"""Kind of find -> what it covers."""

# Atomic groups and bounded repetition: no text, however long or odd, makes a rule backtrack far.
_NUMBER = r"(?>(?<!\d)\d+(?:[.,\u00b7]\d+){0,6})"
_RANGE = rf"(?>{_NUMBER}(?:\s?(?:-|–|—|to|±|/|~)\s?{_NUMBER}){{0,3}})"
_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_WORD_NUMBER = (
    r"(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
    r"|eighteen|nineteen|(?:twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety)(?:[- ](?:one|two|three|four|five|six"
    r"|seven|eight|nine))?|hundreds?|thousands?)"
)
_COUNTED = (
    r"(?:patients?|cases?|subjects?|participants?|individuals|controls|volunteers|women|men|males|females|children"
    r"|infants|people|persons|mice|rats|animals|samples|specimens|biopsies|slides|studies|trials|experiments"
    r"|replicates)"
)
_UNIT = (
    r"(?:(?:n|µ|μ|u|m|c|k)?m(?:\s?[23²³])?(?:/s(?:ec)?)?|microns?|inch(?:es)?|cc|(?:millim|centim|microm|nanom)et(?:er"
    r"|re)s?|(?:n|µ|μ|u|mc|m|k)?g(?:rams?)?(?:/(?:d?l|ml|kg|day|m2|dL))?|kg(?:/m2|/m²)?|(?:m|d|µ|μ|u)?l(?:/min)?|(?:m|n"
    r"|p|µ|μ|u)?mol(?:/l)?|meq(?:/l)?|(?:m|k)?iu(?:/(?:m?l))?|u/l|mm\s?hg|cm\s?h2o|bpm|hz|khz|mhz|ghz|(?:m|c)?gy|msv"
    r"|mci|mbq|k?pa|kvp?"
    r"|mas?|hu|hounsfield units?|(?:°|º|degrees?)\s?[cf]?|cells?/(?:mm3|µl|μl|hpf)|/?hpfs?|/(?:mm2|mm3)"
    r"|tesla|t|kda?|bp|kb|ms|msec|rpm|diopters?|db)"
)
_TIME = (
    r"(?:seconds?|secs?|minutes?|mins?|hours?|hrs?|h|days?|weeks?|wks?|months?|years?|yrs?|decades?"
    r"|jours?|semaines?|mois|ans|d[ií]as|semanas|mes(?:es)?|a[nñ]os)"
)

# The order decides: the first rule that takes a run of digits keeps it.
_RULES: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE))
    for kind, pattern in (
        ("references", r"\b(?:https?://|www\.|doi:?\s?10\.\d{4,9}/)\S*[^\s.,;:)\]]|\b(?:pmid|pmcid):?\s?(?:pmc)?\d+"),
        (
            "references",
            r"\[\s?\d{1,3}(?:\s?[,;–-]\s?\d{1,3})*\s?\]|\b(?:refs?\.?|references?)\s?\d+(?:\s?[,–-]\s?\d+)*",
        ),
        (
            "labels",
            r"\b(?:supplementary\s|suppl?\.?\s)?(?:fig(?:ure|s|ures)?\.?|tables?|tab\.|videos?|movies?|box|schemes?"
            r"|panels?|plates?|cases?|patients?|chapters?|sections?|appendix|equations?|eq\.)\s?(?:no\.?\s|nos\.?\s"
            r"|#\s?)?s?\d{1,3}(?:\.\d+)?[a-h]?\b(?!\s?%)(?:\s?(?:,|and|&|–|-)\s?s?\d{1,3}[a-h]?\b(?![\s-]*(?:of|out"
            r"|[a-z]*year)))*",
        ),
        (
            "p_values",
            rf"\bp\s?(?:-?\s?values?)?\s?(?:of|was|=|<|>|≤|≥|⩽|⩾|&lt;"
            rf"|&gt;)+\s?{_NUMBER}(?:\s?[x×]\s?10\s?[-−–^]*\s?\d+)?",
        ),
        (
            "p_values",
            rf"\b(?:\d{{2}}(?:\.\d+)?\s?%\s?)?(?:ci|confidence intervals?)\b\s?[:=,]?\s?[(\[]?\s?"
            rf"(?:of\s|from\s)?{_NUMBER}(?:\s?(?:-|–|—|to|,)\s?{_NUMBER})?",
        ),
        (
            "p_values",
            rf"\b(?:hr|rr|aor|ahr|auc|auroc|r2|r²|kappa|κ|χ2|χ²|hazard ratio|odds ratio|relative risk"
            rf"|area under the curve)\s?(?:of|was|=|:)?\s?-?{_NUMBER}|\b(?:or|r)\s?(?:=|:)\s?[-−]?{_NUMBER}",
        ),
        (
            "dates",
            rf"\b(?:19|20)\d{{2}}[-/.](?:0?[1-9]|1[0-2])[-/.](?:[0-2]?\d|3[01])\b|\b(?:[0-2]?\d|3[01])[-/.](?:[0-2]?\d"
            rf"|3[01])[-/.](?:19|20)?\d{{2}}\b|\b(?:(?:[0-2]?\d|3[01])(?:st|nd|rd"
            rf"|th)?\s(?:of\s)?)?{_MONTH}\s(?:(?:[0-2]?\d|3[01])(?:st|nd|rd|th)?,?\s)?(?:19|20)\d{{2}}\b|\b(?:[0-2]?\d"
            rf"|3[01])(?:st|nd|rd|th)?\s(?:of\s)?{_MONTH}(?![a-z])|\b{_MONTH}\s(?:[0-2]?\d|3[01])(?:st|nd|rd|th)?\b",
        ),
        ("counts", rf"\bn\s?(?:=|≥|>|of)\s?{_NUMBER}"),
        (
            "counts",
            rf"\b(?:{_NUMBER}|{_WORD_NUMBER})\s?(?:/|of|out of)\s?(?:the\s)?(?:{_NUMBER}|{_WORD_NUMBER})"
            rf"(?:\s[a-z-]{{1,24}}){{0,2}}\s{_COUNTED}\b|\b(?:{_NUMBER}|{_WORD_NUMBER})(?:\s[a-z-]{{1,24}}){{0,2}}?\s{_COUNTED}\b",
        ),
        (
            "magnifications",
            rf"\b(?:original\s)?magnifications?\b[\s:=,]*(?:of\s|is\s|was\s)?(?:1\s?:\s?"
            rf"|[x×✕*]\s?)?{_NUMBER}(?:\s?(?:[x×✕]|fold|times)(?!\w))?(?:\s?(?:,|and|&|or)\s?(?:[x×✕]\s?{_NUMBER}"
            rf"|{_NUMBER}\s?[x×✕](?!\w)))*|\b(?:h\s?&\s?e|he|hpf|objective|power)\s?[,;:]?\s?[x×✕*]\s?{_NUMBER}",
        ),
        (
            "ages",
            rf"\b(?:aged?|ages)\s(?:of\s)?{_RANGE}(?:\s?[-\s]?(?:years?|months?|weeks?|days?)(?:\sold)?)?"
            rf"|\b{_RANGE}[\s-]?(?:year|yr|month|week|day|hour|y)s?[\s-]?(?:olds?|/o)\b|\b\d{{1,3}}\s?(?:y/?o|yo"
            rf"|[mf])\b(?=[\s,.;:)]|$)(?<!\d\sm)(?<!\dm)|\b{_RANGE}[\s-]?{_TIME}\b(?![\w/])"
            rf"|\b(?:one|{_WORD_NUMBER})(?:\s(?:to|or)\s(?:{_NUMBER}|{_WORD_NUMBER}))?[\s-]{_TIME}\b"
            rf"|\b(?:days?|weeks?|months?|years?)\s\d{{1,3}}\b(?!\s?%)",
        ),
        ("percentages", rf"{_RANGE}\s?(?:%|percent\b|per cent\b|‰)|\b{_RANGE}[\s-]?fold\b"),
        (
            "measurements",
            rf"(?<![\w.])[±≈~<>≤≥]?\s?{_RANGE}(?:\s?{_UNIT})?(?:\s?(?:x|×|✕|by)\s?{_RANGE}(?:\s?{_UNIT})?){{0,2}}"
            rf"(?<=[\s\d])\s?-?{_UNIT}(?![\w])|(?<![\w.]){_NUMBER}(?:\s?[x×✕]\s?{_NUMBER}){{1,2}}(?![\w])"
            rf"|\b(?:bmi|ef|lvef|gfr|egfr|suv(?:max)?|psa|hb|hba1c|wbc|crp|ph|spo2|bp|hr|rr)\s?(?:of|was|=|:|<"
            rf"|>)?\s?{_RANGE}"
            rf"|\b(?:uptake value|ejection fraction|density|score|index|ratio)s?\s(?:of|was|is|=|:)\s?{_RANGE}",
        ),
        ("magnifications", rf"(?<![\w.])[x×✕]\s?{_NUMBER}(?!\w)|(?<![\w.]){_NUMBER}\s?[x×✕](?![\w])"),
        ("dates", r"\(1[5-9]\d\d\)|(?<=\b[io]n )1[5-9]\d\d\b|(?<![\w.,])1[5-9]\d\d\s?[-–]\s?(?:1[5-9]|20)\d\d(?!\w)"),
        ("dates", r"(?<![\w.,])(?:19[5-9]|20[0-4])\d(?:\s?[-–/]\s?(?:(?:19|20)?\d{2}))?(?![\w.,]\d|\w)"),
        # Vocabulary: a letter or a classifying word before the digits, or a hyphened word after them.
        (
            "names",
            r"\b(?:grades?|gleason|stages?|types?|class|score|bi-?rads|pi-?rads|ti-?rads|li-?rads|lung-?rads|levels?"
            r"|segments?|zones?|phase|lobe|subtypes?|degree|category|toes?|digits?|fingers?|ribs?|cranial nerves?"
            r"|level|trisomy|group)\s?-?\d{1,2}[a-d]?(?:\s?(?:\+|-|–|/|and|or)\s?\d{1,2}[a-d]?)*(?![\d%])",
        ),
        ("names", r"(?:[^\W\d_]|(?<=[^\W\d_])[-‐])\d++(?:[.,]\d++)*+(?:[-–/.]?[^\W\d_]{0,12}\d++)*+"),
        ("names", r"(?<![\w.])\d{1,2}(?:st|nd|rd|th)(?!\w)|(?<![\w.,])\d++(?:,\d++)*+(?:-|[^\W\d_]|')++(?!\d)"),
        ("other", _NUMBER),
    )
)
_DIGITS = re.compile(r"\d+")
_WORDS = re.compile(r"\S+")


@dataclass(frozen=True)
class FoundNumber:
    """One piece of numeric content: `text[start:end]` is of this kind."""

    kind: str
    start: int
    end: int


def find_numbers(text: str) -> list[FoundNumber]:
    """Numeric content of a text, in order, without overlaps. Every run of digits lies inside exactly one find."""
    taken = bytearray(len(text))
    found = []
    for kind, rule in _RULES:
        for match in rule.finditer(text):
            start, end = match.span()
            end = start + len(match[0].rstrip())
            start = end - len(match[0].strip())
            if start < end and not any(taken[start:end]):
                taken[start:end] = b"\x01" * (end - start)
                found.append(FoundNumber(kind, start, end))
    # A rule may have taken the first half of a longer number, or what it wanted was partly taken: nothing gets lost.
    for match in _DIGITS.finditer(text):
        for is_taken, run in groupby(range(*match.span()), key=taken.__getitem__):
            if not is_taken:
                places = list(run)
                found.append(FoundNumber("other", places[0], places[-1] + 1))
    return sorted(found, key=lambda find: find.start)


def misleading(finds: Sequence[FoundNumber]) -> float:
    """How surely a text asks for numbers that the picture does not show: 0 (none) to 1; see `WEIGHTS`."""
    return round(1 - math.prod(1 - WEIGHTS.get(find.kind, 0.0) for find in finds), 4)


def share_of_words(text: str, finds: Sequence[FoundNumber]) -> float:
    """Share of the words (split at white space) that a misleading find touches, 0..1."""
    spans = [match.span() for match in _WORDS.finditer(text)]
    marked = bytearray(len(text))
    for find in finds:
        if find.kind in WEIGHTS:
            marked[find.start : find.end] = b"\x01" * (find.end - find.start)
    touched = sum(any(marked[start:end]) for start, end in spans)
    return round(touched / len(spans), 4) if spans else 0.0


class MisleadingNumbers(Filter):
    """Counts numeric content of the caption by kind. Needs no picture, no model, no network."""

    name: ClassVar[str] = "misleading_numbers"
    version: ClassVar[str] = RULES
    scores: ClassVar[dict[str, str]] = {
        **{kind: f"finds: {what}" for kind, what in KINDS.items()},
        "share": "share of the words that misleading finds touch, 0..1",
        "misleading": "how surely the text asks for numbers the picture does not show, 0..1; no caption: none",
        "judge": "the rules that made the verdict; `empty_caption` where there is no text",
    }
    needs_pictures: ClassVar[bool] = False
    cost: ClassVar[float] = 0.1

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record's caption; without one all numbers are None and `judge` is `empty_caption`."""
        text = record.caption
        if not text.strip():
            return dict.fromkeys(self.scores) | {"judge": "empty_caption"}
        finds = find_numbers(text)
        counts = Counter(find.kind for find in finds)
        return {
            **{kind: counts[kind] for kind in KINDS},
            "share": share_of_words(text, finds),
            "misleading": misleading(finds),
            "judge": RULES,
        }
