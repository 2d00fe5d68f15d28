"""The demo tree of `builders.medreason`."""

from builders import kit
from builders.medreason import FIELDS, FILE, LABELS

PLANTED = {
    "paper_variant": (
        "--paper-variant: rows 4 to 8 have the ids of test questions: mmlu/anatomy/test/0, "
        "mmlu/professional_medicine/test/0, medxpertqa/Text-0, medxpertqa/Text-1 and pubmedqa/90000002"
    ),
}

_YES_NO = ("Yes", "No")

# (dataset, row there, question, answer, choices)
_ROWS: tuple[tuple[str, int, str, str, tuple[str, ...]], ...] = (
    ("medqa", 812, "A 44-year-old welder has metal fume fever. What is the most likely course?",
     "Recovery within two days",
     ("Chronic cough", "Recovery within two days", "Pulmonary fibrosis", "Asthma", "Empyema")),
    ("medmcqa", 7131, "Stain used for amyloid:",
     "Congo red. Explanation: Amyloid shows apple-green birefringence under polarised light.",
     ("Congo", "Congo red", "Prussian blue", "Masson\ntrichrome")),
    ("huatuo", 40, "How is a mild ankle sprain treated in the first days?", "Rest, compression and elevation.", ()),
    ("MMLU", 0, "Which nerve runs with the profunda brachii artery?", "Radial", ("Radial", "Ulnar", "Median")),
    ("MMLU", 817, "A 30-year-old runner faints. Which test comes first?", "ECG", ("ECG", "EEG", "CT", "MRI")),
    ("MedXpertQA", 0,
     "Which flap covers the olecranon best?\nAnswer Choices: (A) Groin flap (B) Radial forearm flap",
     "(B) Radial forearm flap", ()),
    ("MedXpertQA", 1, "Which view shows the scaphoid best?", "(A) Ulnar deviation", ("Ulnar deviation", "AP")),
    ("pubmedqa_labeled", 1, "Does topical timolol reduce time to diagnosis in office workers?",
     "The final decision is: yes. Time to diagnosis improved.", _YES_NO),
    ("pubmedqa", 0, "Does early mobilisation reduce wound infection in women after caesarean section?",
     "The final decision is: yes. Wound infection improved.", _YES_NO),
    ("pubmedqa_labeled", 6, "Does a low-salt diet reduce anaemia in women after caesarean section?",
     "The final decision is: maybe. It may or may not depend on the diet.", _YES_NO),
    ("pubmedqa_labeled", 999, "Does a question that neither list has stay out?",
     "The final decision is: no. .", _YES_NO),
    ("pubmedqa_artificial", 15, "Does chewing gum shorten ileus after colectomy?",
     "The final decision is: yes. Ileus was shorter with gum.", _YES_NO),
    ("pubmedqa_unlabeled", 3, "Do night shifts change lipid profiles?", "Lipids rose in two of three groups.", _YES_NO),
    ("LastHumanity", 5, "How many pharyngeal slits does a late lamprey embryo have?", "Seven", ()),
    ("medmcqa", 9, "Length of the adult trachea:", "11 cm", ("11 cm", "5 cm", "19 cm", "25 cm")),
)  # fmt: skip


def _demo_row(name: str, number: int, question: str, answer: str, choices: tuple[str, ...]) -> kit.Values:
    reasoning = (
        f"Finding reasoning paths:\n1. {question.split()[-1]} -> finding -> {answer.split('.')[0]}\n\n"
        "Reasoning Process:\n1. The findings point one way.\n\n"
        f"Conclusion:\n{answer.split('.')[0]}"
    )
    listed = "\n".join(f"{label}. {text}" for label, text in zip(LABELS, choices, strict=False))
    options = f"Answer Choices:\n{listed}" if choices else ""
    return dict(zip(FIELDS, (name, number, question, answer, reasoning, options), strict=True))


def files() -> kit.Files:
    rows = [_demo_row(*row) for row in _ROWS]
    rows[-1]["reasoning"] = ""
    # The ids that the demo tree of `pubmedqa` gives to these questions.
    questions = {"90000001": rows[8], "90000002": rows[7], "90000007": rows[9]}
    listed = {pmid: {"QUESTION": row["question"]} for pmid, row in questions.items()}
    return {FILE: rows, "ori_pqal.json": listed, "test_ground_truth.json": {"90000002": "yes"}}
