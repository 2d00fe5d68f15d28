"""The section parser, on hand-made reports for each published quirk."""

from __future__ import annotations

import pytest

from builders.engine.mimic_reports import CUSTOM_STUDIES, parse_sections


def report(*lines: str) -> str:
    return "                                 FINAL REPORT\n" + "\n".join(f" {line}" for line in lines) + "\n"


FULL = report(
    "EXAMINATION:  CHEST (PA AND LAT)", "", "INDICATION:  ___ with cough", "", "COMPARISON:  None.", "",
    "FINDINGS: ", "", "The heart is", "normal.  Lungs clear.", "", "IMPRESSION: ", "", "No acute process.",
)  # fmt: skip


def test_plain_report() -> None:
    assert parse_sections(FULL) == {
        "preamble": "FINAL REPORT",
        "examination": "CHEST (PA AND LAT)",
        "indication": "___ with cough",
        "comparison": "None.",
        "findings": "The heart is normal. Lungs clear.",
        "impression": "No acute process.",
    }


@pytest.mark.parametrize(
    ("header", "section"),
    [
        ("FINDINS", "findings"), ("CHEST, TWO VIEWS", "findings"), ("PORTABLE AP CHEST", "findings"),
        ("FRONTAL AND LATERAL VIEWS OF THE CHEST", "findings"), ("REFERENCE FINDINGS", "findings"),
        ("IMPRESSON", "impression"), ("CONCLUSION", "impression"), ("FINDINGS/IMPRESSION", "impression"),
        ("FINDINGS AND IMPRESSION", "impression"), ("FINAL IMPRESSION", "impression"),
        ("REASON FOR EXAM", "indication"), ("INDICATIONS", "indication"), ("CLINICAL HISTORY", "history"),
        ("COMPARISONS", "comparison"),
        ("RECOMMENDATION(S)", "recommendations"), ("WETREAD", "wet read"),
    ],
)  # fmt: skip
def test_header_variants(header: str, section: str) -> None:
    assert parse_sections(report("", f"{header}:  The text.", ""))[section] == "The text."


def test_last_of_equal_sections_counts() -> None:
    assert parse_sections(report("FINDINGS:  First.", "", "FINDINGS:  Second."))["findings"] == "Second."


def test_empty_findings_are_dropped() -> None:
    text = report("CHEST, PA AND LATERAL:  ", "", "INDICATION:  Cough.", "", "FINDINGS:  Clear.")
    assert parse_sections(text)["findings"] == "Clear."
    assert "findings" not in parse_sections(report("FINDINGS:  ", "", "IMPRESSION:  Fine."))


def test_last_paragraph_without_findings_and_impression() -> None:
    sections = parse_sections(report("", "INDICATION:  Cough.", "", "Lungs are clear.", "", "Heart is normal."))
    assert sections["indication"] == "Cough."
    assert sections["last_paragraph"] == "Lungs are clear. Heart is normal."
    assert "last_paragraph" not in parse_sections(FULL)


def test_no_header_at_all() -> None:
    assert parse_sections("Lungs are clear.\n")["full report"] == "Lungs are clear."


def test_headers_need_their_leading_space_and_own_line() -> None:
    text = "x\nFINDINGS: not a header\n FINDINGS:  Seen. IMPRESSION: inside the line\n"
    assert parse_sections(text)["findings"] == "Seen. IMPRESSION: inside the line"


def test_a_headers_own_line_is_never_searched_for_another() -> None:
    """The published parser looks for the next header only past the header's next newline."""
    text = report("", "INDICATION:  Cough.", "FINDINGS:  Clear.")
    assert parse_sections(text)["findings"] == "Clear."


def test_custom_studies() -> None:
    assert len(CUSTOM_STUDIES) == 54
    assert {"50913680", "50525523", "58235663"} <= CUSTOM_STUDIES
    assert all(len(study) == 8 and study.startswith("5") for study in CUSTOM_STUDIES)


@pytest.mark.parametrize(
    "header",
    [
        "NOTIFICATION OF CRITICAL FINDINGS", "COMMUNICATION OF FINDINGS", "CHEST PAIN", "INDICATION FOR CHEST CT",
        "CHEST CT TECHNIQUE", "CRITICAL FINDINGS", "FINDINGS DISCUSSED WITH", "CLINICAL IMPRESSION", "CHEST TUBES",
        "DISCUSSION OF IMPRESSION", "PHYSICAL FINDINGS", "CHEST", "PORTABLE AP CHEST", "PERTINENT FINDINGS",
        "FINAL IMPRESSION",
    ],
)  # fmt: skip
def test_a_header_that_means_something_else_replaces_nothing(header: str) -> None:
    sections = parse_sections(FULL + f" \n {header}:  Dr. ___ was called.\n")
    assert (sections["findings"], sections["impression"]) == (
        "The heart is normal. Lungs clear.", "No acute process.",
    )  # fmt: skip


@pytest.mark.parametrize("header", ["NOTIFICATION OF CRITICAL FINDINGS", "CHEST PAIN", "CLINICAL IMPRESSION"])
def test_nor_does_it_stand_for_one_that_is_missing(header: str) -> None:
    sections = parse_sections(report("EXAMINATION:  CHEST", "", f"{header}:  Dr. ___ was called."))
    assert "findings" not in sections and "impression" not in sections


@pytest.mark.parametrize(
    ("header", "section"),
    [("NDICATION", "indication"), ("INDINGS", "findings"), ("MPRESSION", "impression"), ("OMPARISON", "comparison"),
     ("ISTORY", "history"), ("ECHNIQUE", "technique"), ("EASON FOR EXAM", "indication"), ("ONCLUSION", "impression"),
     ("EASON FOR STUDY", "indication")],
)  # fmt: skip
def test_a_header_without_its_first_letter(header: str, section: str) -> None:
    """` NDICATION:` occurs in MIMIC-CXR (MIT-LCP/mimic-code issue 1982)."""
    assert parse_sections(report("EXAMINATION:  CHEST", "", f"{header}:  The text."))[section] == "The text."
