"""Versions of the rules that score, and how well the one that reads answers was measured to agree with a reader."""

VERSIONS = {"score": 2, "mcq": 4, "open_questions": 1, "report_metrics": 1, "statistics": 1}
"""Of the rules by module: raise a number where the module gives another score, count or interval for the same answers.

Every summary says with which it was made; a test pins what they give.
"""
READER = {"answers": 388, "named": 277, "missed": 7, "unclear": 111, "read": 6}
"""The reading rule beside a careful reader: of 277 answers that name an option it missed 7, of 111 that name none it
read 6.

Answers in 22 styles of models, made up, seen by the rule for the first time (tests/reading_outputs.txt, the held half,
and tests/reading_fresh.txt); no answer was read as another option than the reader's. The kinds of fault that they
showed were mended afterwards, so these rates are of the rule before that.
"""


def reader_rates() -> str:
    """How well the reading rule agrees with a reader, for people."""
    missed, read = (100 * READER[part] / READER[of] for part, of in (("missed", "named"), ("read", "unclear")))
    return (
        f"reading rule {VERSIONS['mcq']} beside a reader, on {READER['answers']} made answers it had not seen: missed "
        f"{missed:.2f} % of those that name an option, read {read:.2f} % of those that name none"
    )
