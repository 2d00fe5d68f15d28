"""The demo tree of `builders.medreason`."""

from pathlib import Path
from typing import Any

from builders.kit import write_demo_rows
from builders.medreason import FIELDS, FILE, LABELS

PLANTED: dict[str, str] = {
    "paper_variant": (
        "--paper-variant: rows 4 to 8 have the ids of test questions: mmlu/anatomy/test/0, "
        "mmlu/professional_medicine/test/0, medxpertqa/Text-0, medxpertqa/Text-1 and pubmedqa/90000002"
    ),
}
"""What overlaps between this demo tree and the test splits of others."""


def _demo_rows() -> list[dict[str, Any]]:
    def row(name: str, number: int, question: str, answer: str, options: str = "") -> dict[str, Any]:
        reasoning = (
            f"Finding reasoning paths:\n1. {question.split()[-1]} -> finding -> {answer.split('.')[0]}\n\n"
            "Reasoning Process:\n1. The findings point one way.\n\n"
            f"Conclusion:\n{answer.split('.')[0]}"
        )
        values = (name, number, question, answer, reasoning, options)
        return dict(zip(FIELDS, values, strict=True))

    def choices(*texts: str) -> str:
        return "Answer Choices:\n" + "\n".join(f"{label}. {text}" for label, text in zip(LABELS, texts, strict=False))

    yes_no = choices("Yes", "No")
    return [
        row(
            "medqa",
            812,
            "A 44-year-old welder has metal fume fever. What is the most likely course?",
            "Recovery within two days",
            choices("Chronic cough", "Recovery within two days", "Pulmonary fibrosis", "Asthma", "Empyema"),
        ),
        row(
            "medmcqa",
            7131,
            "Stain used for amyloid:",
            "Congo red. Explanation: Amyloid shows apple-green birefringence under polarised light.",
            choices("Congo", "Congo red", "Prussian blue", "Masson\ntrichrome"),
        ),
        row("huatuo", 40, "How is a mild ankle sprain treated in the first days?", "Rest, compression and elevation."),
        row(
            "MMLU",
            0,
            "Which nerve runs with the profunda brachii artery?",
            "Radial",
            choices("Radial", "Ulnar", "Median"),
        ),
        row(
            "MMLU",
            817,
            "A 30-year-old runner faints. Which test comes first?",
            "ECG",
            choices("ECG", "EEG", "CT", "MRI"),
        ),
        row(
            "MedXpertQA",
            0,
            "Which flap covers the olecranon best?\nAnswer Choices: (A) Groin flap (B) Radial forearm flap",
            "(B) Radial forearm flap",
        ),
        row(
            "MedXpertQA",
            1,
            "Which view shows the scaphoid best?",
            "(A) Ulnar deviation",
            choices("Ulnar deviation", "AP"),
        ),
        row(
            "pubmedqa_labeled",
            1,
            "Does topical timolol reduce time to diagnosis in office workers?",
            "The final decision is: yes. Time to diagnosis improved.",
            yes_no,
        ),
        row(
            "pubmedqa",
            0,
            "Does early mobilisation reduce wound infection in women after caesarean section?",
            "The final decision is: yes. Wound infection improved.",
            yes_no,
        ),
        row(
            "pubmedqa_labeled",
            6,
            "Does a low-salt diet reduce anaemia in women after caesarean section?",
            "The final decision is: maybe. It may or may not depend on the diet.",
            yes_no,
        ),
        row(
            "pubmedqa_labeled",
            999,
            "Does a question that neither list has stay out?",
            "The final decision is: no. .",
            yes_no,
        ),
        row(
            "pubmedqa_artificial",
            15,
            "Does chewing gum shorten ileus after colectomy?",
            "The final decision is: yes. Ileus was shorter with gum.",
            yes_no,
        ),
        row(
            "pubmedqa_unlabeled",
            3,
            "Do night shifts change lipid profiles?",
            "Lipids rose in two of three groups.",
            yes_no,
        ),
        row("LastHumanity", 5, "How many pharyngeal slits does a late lamprey embryo have?", "Seven"),
        row("medmcqa", 9, "Length of the adult trachea:", "11 cm", choices("11 cm", "5 cm", "19 cm", "25 cm"))
        | {"reasoning": ""},
    ]


def write(raw: Path) -> None:
    """Write the tree under `raw`."""
    rows = _demo_rows()
    write_demo_rows(raw / FILE, rows)
    # The ids that the demo tree of `pubmedqa` gives to these questions.
    questions = {"90000001": rows[8], "90000002": rows[7], "90000007": rows[9]}
    listed = {pmid: {"QUESTION": row["question"]} for pmid, row in questions.items()}
    write_demo_rows(raw / "ori_pqal.json", listed)
    write_demo_rows(raw / "test_ground_truth.json", {"90000002": "yes"})
