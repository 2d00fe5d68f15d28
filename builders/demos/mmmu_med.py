"""The demo tree of `builders.mmmu_med`."""

from builders import kit
from builders.demos.drawings import demo_picture
from builders.engine.mmmu import IMAGE_COLUMNS, IMAGE_TOKEN, SUBJECTS

PLANTED = {
    "question": "validation_Pharmacy_1 and validation_Public_Health_2 are in mmmu_pro_med's demo too, by the same ids",
}

# Question, options (none: an open question), answer.
DEMO_QUESTIONS: tuple[tuple[str, list[str], str], ...] = (
    ("Which chamber does the arrow in <image 1> point to?", ["Left atrium", "Right atrium", "Aorta"], "B"),
    (
        "Compare <image 2> with the earlier <image 1>. What has grown?",
        ["The nodule", "The heart", "It's 'nothing'"],
        "A",
    ),
    ("Which curve is that of a competitive antagonist?", ["<image 3>", "<image 1>", "<image 2>", "None"], "C"),
    ("<image 1> The stain in <image 1> is typical of which cell?", ["Mast cell", "Neutrophil"], "A"),
    ("How many half-lives does <image 1> show?", [], "['4', 'four']"),
    ("Which organ is marked in <image 1>?", [], "Spleen"),
)


def demo_row(key: str, number: int) -> kit.Values:
    """A row with all of the publisher's columns but those that tell MMMU and MMMU-Pro apart."""
    question, options, answer = DEMO_QUESTIONS[number]
    tokens = set(IMAGE_TOKEN.findall(question + "".join(options)))
    images = {
        column: {"bytes": demo_picture(f"{key}/{column}"), "path": f"{key}_{column[-1]}.png"}
        if column[-1] in tokens
        else None
        for column in IMAGE_COLUMNS
    }
    return {
        "id": key,
        "question": f"{question} (case {key.replace('_', ' ')})",
        "options": str(options),
        "explanation": "",
        **images,
        "img_type": "['Diagrams']",
        "answer": answer,
        "topic_difficulty": "Medium",
    }


def files() -> kit.Files:
    tables: dict[str, kit.Rows] = {}
    for place, subject in enumerate(SUBJECTS):
        chosen = {"dev": [place % 4], "validation": [(place + 1) % 4, (place + 2) % 4]}
        if subject in ("Basic_Medical_Science", "Pharmacy"):
            chosen["validation"].append(4 if subject == "Pharmacy" else 5)
        for split, numbers in chosen.items():
            tables[f"{subject}/{split}-00000-of-00001.parquet"] = [
                demo_row(f"{split}_{subject}_{index}", number)
                | {"question_type": "multiple-choice" if DEMO_QUESTIONS[number][1] else "open", "subfield": subject}
                for index, number in enumerate(numbers, 1)
            ]
    return tables
