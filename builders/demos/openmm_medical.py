"""The demo tree of `builders.openmm_medical`."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from builders.demos.drawings import demo_picture
from builders.kit import write_demo_file, write_demo_zip
from builders.openmm_medical import _FOLDER, _LABELS, FILE

PLANTED: dict[str, str] = {
    "paper variant": "--paper-variant trains on the questions and pictures that the default keeps as a benchmark",
    "repeated name": "Images/ACRIMA/1.png and Images/BreakHis/1.png are two pictures of one file name",
}
"""What overlaps between the two readings of the demo tree."""


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


def write(raw: Path) -> None:
    """Write the tree under `raw`."""
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(("index", "image_path", "question", *_LABELS, "answer", "category", "dataset", "modality"))
    for number, (picture, question, options, answer, modality) in enumerate(_DEMO):
        listed = (*options, *("",) * (4 - len(options)))
        component = picture.partition("/")[0]
        writer.writerow((number, f"{_FOLDER}/{picture}", question, *listed, answer, "MCQ", component, modality))
    write_demo_file(raw / FILE, table.getvalue().encode())
    names = dict.fromkeys(row[0] for row in _DEMO)
    pictures = {f"{_FOLDER}/{name}": demo_picture(name, "PNG" if name.endswith("png") else "JPEG") for name in names}
    write_demo_zip(raw / f"{_FOLDER}.zip", pictures)
