"""Sections of a MIMIC-CXR report.

Rules and constants after MIT-LCP/mimic-cxr at commit 3190146, `txt/section_parser.py` and `txt/create_section_files.py`
(counts in comments are theirs): headers stand at a line's start behind one space, in capitals, closed by a colon; the
line of a header is never searched for another one; empty findings and impressions are dropped; where neither is left,
what follows the last section's first blank line is the last paragraph; of equal sections the last one counts.
"""

import re

_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")

# Header variants, misspellings included, by the section they mean. A header not listed is looked up by the words in
# it (_MAIN), then by a view description (_VIEWS), which stands for findings.
_VARIANTS: dict[str, tuple[str, ...]] = {
    "impression": (
        "conclusion", "findings and impression", "findings/impression", "findings/ impression", "ndication",
        "impresson", "imprression", "imoression", "impressoin", "imprssion", "impresion", "imperssion", "mpression",
        "impession",
    ),
    "findings": (
        "chest, two views", "finding", "findins", "findindgs", "findgings", "findngs", "findnings", "finidngs",
        "reference findings",
    ),
    "comparison": (
        "comparisons", "reference exam", "comparison exam", "comparison film", "comparision", "comparsion",
        "comparrison", "comparisions",
    ),
    "indication": ("reason for examination", "reason for exam", "clinical indication", "idication"),
    "history": ("clinical history", "clinical information", "patient history", "pfi"),
    "examination": ("exam", "type of examination"),
    "recommendations": ("recommendation(s)", "recommendation"),
    "wet read": ("wetread",),
    **dict.fromkeys(("technique", "notification", "addendum", "date", "comment"), ()),
}  # fmt: skip
_CANONICAL = {variant: name for name, variants in _VARIANTS.items() for variant in (name, *variants)}
_MAIN = ("impression", "findings", "history", "comparison", "addendum")
_VIEWS = re.compile(
    "chest|portable|pa and lateral|lateral and pa|ap and lateral|lateral and ap|frontal and|two views|frontal view"
    "|pa view|ap view|one view|lateral view|bone window|frontal upright|frontal semi-upright|ribs|pa and lat"
)

CUSTOM_STUDIES = frozenset(
    # 23 studies whose text stands under an unrelated header ...
    "50913680 59363654 59279892 59768032 57936451 50058765 53356173 53202765 50808053 51966317 50743547 56451190 "
    "59067458 59215320 55124749 54365831 59087630 58157373 56482935 58375018 54654948 55157853 51491012 "
    # ... 23 whose text is a span of characters without a header ...
    "50525523 57564132 59982525 53488209 54875119 50196495 56579911 52648681 59889364 53514462 59505494 53182247 "
    "51410602 56412866 54986978 59003148 57150433 56760320 59562049 52674888 55258338 59330497 52119491 "
    # ... and 8 with no findings in the whole report.
    "58235663 50798377 54168089 53071062 56724958 54231141 53607029 52035334".split()
)
"""Studies that the official `mimic_cxr_sectioned.csv` leaves out: no findings or impression is taken from them."""


def parse_sections(report: str) -> dict[str, str]:
    """Sections by canonical name, whitespace collapsed; also `preamble`, `full report` and `last_paragraph`."""
    sections = [(_canonical(name), text) for name, text in _split(report)]
    kept = [(name, text) for name, text in sections if name not in ("impression", "findings") or text.strip()]
    if not any(name in ("impression", "findings") for name, _ in kept):
        name, text = kept[-1]
        head, blank, tail = text.partition("\n \n")
        if blank:
            kept[-1:] = [(name, head), ("last_paragraph", tail)]
    return {name: " ".join(text.split()) for name, text in kept}


def _split(report: str) -> list[tuple[str, str]]:
    match = _HEADER.search(report)
    if match is None:
        return [("full report", report)]
    sections = [("preamble", report[: match.start(1)])]
    while match is not None:
        start = match.end()
        following = _HEADER.search(report, max(start, report.find("\n", start)))
        sections.append((match.group(1).lower(), report[start : following.start() if following else len(report)]))
        match = following
    return sections


def _canonical(header: str) -> str:
    header = header.strip()
    if header in ("preamble", "full report"):
        return header
    if header in _CANONICAL:
        return _CANONICAL[header]
    for name in _MAIN:
        if name in header:
            return name
    return "findings" if _VIEWS.search(header) else header
