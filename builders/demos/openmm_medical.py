"""The demo tree of `builders.openmm_medical`."""

from builders import kit
from builders.demos.drawings import demo_picture
from builders.openmm_medical import FILE, FOLDER, LABELS

PLANTED = {
    "paper variant": "--paper-variant trains on the questions and pictures that the default keeps as a benchmark",
    "repeated name": "Images/ACRIMA/1.png and Images/BreakHis/1.png are two pictures of one file name",
}

# (picture, question, options, answer, modality of the card, wrong for BreakHis and Adam Challenge)
_DEMO: tuple[tuple[str, str, tuple[str, ...], str, str], ...] = (
    ("ACRIMA/1.png", "What imaging method was used here?", ("Fundus photography", "CT", "MRI", "Ultrasound"), "A",
     "Fundus Photography"),
    ("ACRIMA/1.png", "Is glaucoma present?", ("Yes", "No"), "B", "Fundus Photography"),
    ("BreakHis/1.png", "Which kind of tumour is shown?", ("Fibroadenoma", "Ductal carcinoma", "Lipoma"), "B",
     "Magnetic Resonance Imaging"),
    ("Adam Challenge/training/A0001.jpg", "Which disease is visible?", ("Macular degeneration", "Cataract", "None"),
     "A", "Endoscopy"),
    ("Chest X-Ray PA/pneumonia/7.png", 'What does "white" in the left\tlung stand for?',
     ("Consolidation", "Air", "Bone", "A line"), "A", "X-Ray"),
    ("Chest X-Ray PA/pneumonia/7.png", "Which side is affected?", ("Left", "", "Both", ""), "A", "X-Ray"),
)  # fmt: skip


def files() -> kit.Files:
    rows: kit.Rows = []
    for number, (picture, question, options, answer, modality) in enumerate(_DEMO):
        row = {"index": number, "image_path": f"{FOLDER}/{picture}", "question": question}
        row |= dict(zip(LABELS, (*options, "", ""), strict=False)) | {"answer": answer, "category": "MCQ"}
        rows.append(row | {"dataset": picture.partition("/")[0], "modality": modality})
    names = dict.fromkeys(row[0] for row in _DEMO)
    return {FILE: rows, f"{FOLDER}.zip": {f"{FOLDER}/{name}": demo_picture(name) for name in names}}
