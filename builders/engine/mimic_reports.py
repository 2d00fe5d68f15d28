"""Sections of a MIMIC-CXR report.

Rules and constants after MIT-LCP/mimic-cxr at commit 3190146, `txt/section_parser.py` and `txt/create_section_files.py`
(counts in comments are theirs): headers stand at a line's start behind one space, in capitals, closed by a colon; the
line of a header is never searched for another one; empty findings and impressions are dropped; where neither is left,
what follows the last section's first blank line is the last paragraph; of equal sections the last one counts.

Three things differ from theirs, because what follows a header would become the answer that is learnt. ` NDICATION:` is
an indication (MIT-LCP/mimic-code issue 1982); every known header is known without its first letter. Of unlisted headers
only those count as findings or impression whose words say nothing else (`_PLAIN`, `_VIEW_WORDS`): not NOTIFICATION OF
CRITICAL FINDINGS, CHEST PAIN or CHEST CT TECHNIQUE. And a header that only describes the views, or adds a word, never
replaces a section that stands under its own name.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from builders.engine.archives import list_zip
from builders.engine.mimic_pictures import JPG_ROOTS
from builders.engine.rawfiles import first_existing, relative
from builders.engine.source import NotThisSource

_ZIP = "mimic-cxr-reports.zip"
_REPORT_ROOTS = (
    "mimic-cxr/", "mimic-cxr/2.*/", "physionet.org/files/mimic-cxr/2.*/", "files/mimic-cxr/2.*/", "", *JPG_ROOTS[:-1],
)  # fmt: skip
_IN_ZIP = ("files/", "mimic-cxr-reports/files/", "")
_FOLDERS = ("files/", "mimic-cxr-reports/files/")
_NAMES = ("p{group}/p{subject}/s{study}.txt", "p{group}/p{subject}/s{study}/s{study}.txt")
"""As PhysioNet has it, and beside the pictures of the study (HKU-MedAI/MGCA issue 41)."""


def report_file(reports: str, subject_id: str, study_id: str) -> str:
    """The file of a study's report below the raw tree, `archive!member` in a zip; `reports` is of `find_reports`."""
    return reports.format(group=subject_id[:2], subject=subject_id, study=study_id)


def find_reports(raw: Path, studies: Sequence[tuple[str, str]]) -> str:
    """The pattern of the first place that has the report of at least one of the studies (subject id, study id).

    Raises `NotThisSource` where no place has one: a tree of MIMIC-CXR-JPG alone holds pictures and no reports.
    """
    for root in _REPORT_ROOTS:
        if (archive := first_existing(raw, root + _ZIP)) is not None:
            members = set(list_zip(archive, raw))
            for folder in _IN_ZIP:
                if any(report_file(folder + _NAMES[0], *study) in members for study in studies):
                    return f"{_escaped(relative(archive, raw))}!{folder}{_NAMES[0]}"
    for base in (root + folder for root in _REPORT_ROOTS for folder in _FOLDERS):
        if (there := first_existing(raw, base)) is not None:
            for name in _NAMES:
                if any((there / report_file(name, *study)).is_file() for study in studies):
                    return f"{_escaped(relative(there, raw))}/{name}"
    raise NotThisSource(
        f"{raw}: no reports: not one of {len(studies):,} studies has its s<study>.txt in {_ZIP}, under mimic-cxr/files "
        "or beside the pictures; they come with MIMIC-CXR, not with MIMIC-CXR-JPG (see --help)"
    )


def _escaped(path: str) -> str:
    return path.replace("{", "{{").replace("}", "}}")


_HEADER = re.compile(r"\n ([A-Z ()/,-]+):\s")

# Header variants, misspellings included, by the section they mean. A header not listed is looked up by the words in
# it (_MAIN), then by a view description (_VIEWS), which stands for findings.
_VARIANTS: dict[str, tuple[str, ...]] = {
    "impression": (
        "conclusion", "findings and impression", "findings/impression", "findings/ impression",
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
    "indication": (
        "reason for examination", "reason for exam", "reason for this examination", "reason for study",
        "clinical indication", "indications", "idication",
    ),
    "history": ("clinical history", "clinical information", "patient history", "pfi"),
    "examination": ("exam", "type of examination"),
    "recommendations": ("recommendation(s)", "recommendation"),
    "wet read": ("wetread",),
    **dict.fromkeys(("technique", "notification", "addendum", "date", "comment"), ()),
}  # fmt: skip
_CANONICAL = {variant: name for name, variants in _VARIANTS.items() for variant in (name, *variants)}
_CANONICAL = {name[1:]: section for name, section in _CANONICAL.items() if len(name) > 4} | _CANONICAL
_MAIN = ("history", "comparison", "addendum")
_ANSWERS = ("impression", "findings")
_VIEW_WORDS = frozenset(
    "chest portable pa ap lateral lat frontal view views two one three single bone window ribs upright semi "
    "semi-upright supine erect sitting standing left right and of the with radiograph radiographs film films x-ray "
    "xray cxr".split()
)
_PLAIN = _VIEW_WORDS | frozenset(
    "finding findings impression impressions final main overall summary report radiographic radiologic radiological "
    "imaging pertinent lung lungs heart recommendation recommendations recommendation(s) or in on".split()
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
    sections = [(header, *_canonical(header), text) for header, text in _split(report)]
    kept = [section for section in sections if section[1] not in _ANSWERS or section[3].strip()]
    named = {name for _, name, own, _ in kept if own}
    # A header that means a section only by its words gives way to the section's own name.
    found = [(name if own or name not in named else header.strip(), text) for header, name, own, text in kept]
    if not any(name in _ANSWERS for name, _ in found):
        name, text = found[-1]
        head, blank, tail = text.partition("\n \n")
        if blank:
            found[-1:] = [(name, head), ("last_paragraph", tail)]
    return {name: " ".join(text.split()) for name, text in found}


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


def _canonical(header: str) -> tuple[str, bool]:
    """The section that a header means, and whether it is one of that section's names."""
    header = header.strip()
    if header in ("preamble", "full report"):
        return header, True
    if header in _CANONICAL:
        return _CANONICAL[header], True
    words = set(re.findall(r"[a-z()-]+", header))
    for name in _ANSWERS:
        if name in header:
            return (name, False) if words <= _PLAIN else (header, True)
    for name in _MAIN:
        if name in header:
            return name, False
    return ("findings", False) if words and words <= _VIEW_WORDS else (header, True)
