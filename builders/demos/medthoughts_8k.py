"""The demo tree of `builders.medthoughts_8k`."""

from builders import kit
from builders.medthoughts_8k import FILE, LABELS, SPLIT

PLANTED = {"verbatim": "medthoughts_8k/train/0 to 3 have the stems of medqa/train/1 to 4, with a fifth option"}


def files() -> kit.Files:
    endocarditis, ketoacidosis = (
        "A 19-year-old man has fever, a harsh holosystolic murmur and splinter haemorrhages.",
        "A 56-year-old woman has polyuria, polydipsia and a serum glucose of 412 mg/dL.",
    )
    diagnosis, treatment = "What is the most likely diagnosis?", "Which treatment is best now?"
    rows: kit.Rows = []
    for stem, answer, *others in (
        (f"{endocarditis} {diagnosis}", "Infective endocarditis", "Rheumatic fever", "Lyme disease", "Myocarditis"),
        (f"{endocarditis} {treatment}", "Vancomycin", "Aspirin", "Colchicine", "Fluconazole"),
        (f"{ketoacidosis} {diagnosis}", "Diabetic ketoacidosis", "Psychogenic polydipsia", "Gout", "Migraine"),
        (f"{ketoacidosis} {treatment}", "Intravenous insulin", "Metformin", "Desmopressin", "Furosemide"),
        ("Which tendon is torn in mallet finger?", "Terminal extensor", "Palmaris longus", "Supraspinatus", "Psoas"),
    ):
        place = len(rows)
        texts = [*others, "Watchful waiting"]
        texts.insert(place % len(LABELS), answer)
        label = LABELS[texts.index(answer)]
        rows.append(
            {
                "question_id": place,
                "question": stem,
                "options": dict(zip(LABELS, texts, strict=True)),
                "answer_idx": label,
                "ds_answer": f"The correct answer is **{label}: {answer}**.",
                "ds_think": f"Okay, so I need to pick one option. {answer} fits best; the others explain less.\n",
                "source": SPLIT,
            }
        )
    rows.append(rows[4] | {"question_id": 11, "ds_think": "", "question": "Which nerve is cut if the wrist drops?"})
    return {FILE: rows}
