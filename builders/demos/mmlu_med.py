"""The demo tree of `builders.mmlu_med`."""

from builders import kit

_STEM = "Which of the following statements is true?"

# The demo's items by subject: question, choices, answer; made up, but for common knowledge.
_ITEMS: dict[str, tuple[tuple[str, tuple[str, str, str, str], int], ...]] = {
    "anatomy": (
        ("Which of these bones does not articulate with the scaphoid?", ("Radius", "Lunate", "Ulna", "Capitate"), 2),
        ("The phrenic nerve arises from", ("C1 to C3", "C3 to C5", "C5 to C7", "T1 to T3"), 1),
        (_STEM, ("The ulna is lateral.", "The tibia is medial.", "The radius is medial.", "The fibula is medial."), 1),
    ),
    "clinical_knowledge": (
        ("A normal resting adult pulse is about", ("30/min", "70/min", "130/min", "200/min"), 1),
        (_STEM, ("Fever lowers the pulse.", "Pain lowers it.", "Fever raises it.", "Sleep raises it."), 2),
    ),
    "college_biology": (
        ("Glycolysis takes place in the", ("nucleus", "cytosol", "lysosome", "Golgi apparatus"), 1),
        ("The ploidy of a human gamete is", ("n", "2n", "3n", "4n"), 0),
    ),
    "college_medicine": (
        ("Creatine phosphate\n\nbuffers", ("ATP", "glucose", "urea", "iron"), 0),
        ("Insulin is made in", ("alpha cells", "beta cells", "delta cells", "acinar cells"), 1),
    ),
    "medical_genetics": (
        ("Huntington disease is inherited as", ("X-linked", "recessive", "dominant", "mitochondrial"), 2),
        ("A karyotype of 45,X is found in", ("Turner syndrome", "Klinefelter", "Down", "Patau"), 0),
    ),
    "nutrition": (
        ("Scurvy is due to a lack of", ("vitamin A", "vitamin B12", "vitamin C", "vitamin D"), 2),
        (_STEM, ("Fat yields 9 kcal/g.", "Fat yields 4 kcal/g.", "Protein yields 9.", "Starch yields 7."), 0),
    ),
    "professional_medicine": (
        ("A 61-year-old man has crushing chest pain and ST elevation in II, III and aVF. The vessel is the",
         ("left main", "circumflex", "left anterior descending", "right coronary artery"), 3),
        ("A 3-year-old has a barking cough and stridor at night:", ("croup", "asthma", "measles", "mumps"), 0),
    ),
}  # fmt: skip

PLANTED = {
    "medmcqa": "the first test question of anatomy is the last train row of medmcqa",
    "repeated_stem": "the question of three test rows of three subjects is the same; their choices are not",
}


def files() -> kit.Files:
    tables: dict[str, kit.Rows] = {}
    for subject, items in _ITEMS.items():
        held = (f"Held-out question about {subject.replace('_', ' ')} number ", ("one", "two", "three", "four"))
        splits = {
            "test": items,
            "validation": tuple((f"{held[0]}{answer + 1}?", held[1], answer) for answer in (0, 3)),
            "dev": ((f"{held[0]}two?", held[1], 1),),
        }
        for split, rows in splits.items():
            tables[f"{subject}/{split}-00000-of-00001.parquet"] = [
                {"question": q, "subject": subject, "choices": list(c), "answer": a} for q, c, a in rows
            ]
    return tables
