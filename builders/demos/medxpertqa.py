"""The demo tree of `builders.medxpertqa`."""

from builders import kit
from builders.demos.drawings import demo_picture
from builders.medxpertqa import FILES, LABELS

# The demo's questions: stem, right answer, type; made up. Text-2 is a question of the medbullets demo tree.
_FIGURE = "A 9-year-old boy falls on his elbow. A radiograph is shown in Figure A. What is the most likely diagnosis?"

_MM = (
    (_FIGURE, "Supracondylar fracture", "Reasoning", ("a.jpeg",)),
    ("A 52-year-old man has a cough. Films are shown in Figures A and B. Which lobe is affected?",
     "Right upper lobe", "Reasoning", ("a.jpeg", "b.png")),
    (_FIGURE, "Radial neck fracture", "Reasoning", ("a.JPG",)),
    ("Which structure is marked in Figures A to C?", "Aortic knob", "Understanding", ("a.jpeg", "b.jpeg", "c.jpeg")),
)  # fmt: skip

_TEXT = (
    ("A 41-year-old woman has episodes of sweating, headache and a blood pressure of 210/120 mmHg. What is measured?",
     "Plasma metanephrines", "Reasoning"),
    ("Which cranial nerve carries taste from the anterior two thirds of the tongue?", "Facial", "Understanding"),
    ("A 58-year-old woman has a tremor at rest, rigidity and slow movements. Which cells are lost?",
     "Cells of the pars compacta", "Reasoning"),
)  # fmt: skip

_WRONG = ("None of these", "Sternal notch", "Plasma renin", "Clavicle fracture", "Vagus", "Left lower lobe",
          "Urinary sodium", "Olecranon bursitis", "Granule cells")  # fmt: skip


PLANTED = {
    "repeated_stem": "MM-0 and MM-2 share a question, not the picture nor the answer: two items",
    "same_picture": "MM-2-a.JPG is, byte for byte, MM-0-a.jpeg",
    "medbullets": "Text-2 is a question of the medbullets demo tree, with other options",
}


def _demo_row(key: str, number: int, stem: str, right: str, kind: str, count: int) -> kit.Values:
    place = (3 * number + 1) % count
    wrong = _WRONG[: count - 1]
    options = dict(zip(LABELS, (*wrong[:place], right, *wrong[place:]), strict=False))
    listed = " ".join(f"({letter}) {text}" for letter, text in options.items())
    return {
        "id": key,
        "question": f"{stem}\nAnswer Choices: {listed}",
        "medical_task": "Diagnosis" if kind == "Reasoning" else "Basic Science",
        "body_system": "Skeletal",
        "question_type": kind,
        "options": options,
        "label": LABELS[place],
    }


def files() -> kit.Files:
    rows: dict[str, kit.Rows] = {split: [] for split in FILES}
    for number, (stem, right, kind, ends) in enumerate(_MM):
        row = _demo_row(f"MM-{number}", number, stem, right, kind, 5)
        rows["mm_test"].append(row | {"images": [f"MM-{number}-{end}" for end in ends]})
    for number, (stem, right, kind) in enumerate(_TEXT):
        rows["text_test"].append(_demo_row(f"Text-{number}", number, stem, right, kind, 10))
    shown = _demo_row("MM-2000", 0, "Which view is shown in Figure A?", "Lateral", "Understanding", 5)
    rows["mm_dev"].append(shown | {"images": ["MM-2000-a.jpeg"]})
    rows["text_dev"].append(_demo_row("Text-2450", 1, "Which vitamin is cobalamin?", "B12", "Understanding", 10))
    names = [name for split in ("mm_test", "mm_dev") for row in rows[split] for name in row["images"]]
    pictures = {f"images/{name}": demo_picture(name) for name in names}
    pictures["images/MM-2-a.JPG"] = pictures["images/MM-0-a.jpeg"]
    return {FILES[split][0]: listed for split, listed in rows.items()} | {"images.zip": pictures}
