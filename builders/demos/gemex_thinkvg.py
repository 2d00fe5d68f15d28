"""The demo tree of `builders.gemex_thinkvg`."""

from builders import kit
from builders.demos.radiographs import demo_radiograph, radiograph_files

PLANTED = {
    "subject": "rows on subjects 10000003 (official test) and 10000005 (official validate) are dropped; "
    "--paper-variant trains on them",
    "other source": "a row shows the picture of mimic_cxr_vqa's test question on subject 10000007",
}

_DEMO_ROWS = (
    (0, "open_ended_questions", "What does the left costophrenic angle show?", "It is blunted [150, 160, 210, 204]"),
    (1, "closed_ended_questions", "Is there any pneumothorax?", "No"),
    (2, "single_choice_questions", "Which side is hyperinflated?\nA. Left\nB. Right\nC. Both\nD. Neither", "D"),
    (6, "multi_choice_questions", "Which devices are seen?\nA. Line\nB. Tube\nC. Wires\nD. None", "A, C"),
    (7, "open_ended_questions", "How wide is the heart?", "Wider than half of the thorax [60,90,170.5,200]"),
    (3, "open_ended_questions", "Where is the opacity?", "In the right lower zone [20, 140, 90, 210]"),
    (5, "closed_ended_questions", "Are the lungs clear?", "Yes"),
)


def files() -> kit.Files:
    rows: kit.Rows = []
    for index, (number, kind, question, answer) in enumerate(_DEMO_ROWS):
        regions = "<location>right lung [10, 20, 100, 200]</location>" if index == 1 else ""
        thought = f"The question is about one region.\nLooking at [12, 20, {100 + index}, 190] settles it."
        response = f"<think>{thought}</think>{chr(10) * (index % 2)}<answer>{answer}</answer>{regions}"
        path = f"/{demo_radiograph(number).path}"
        rows.append({"question_type": kind, "image_path": path, "question": question, "response": response})
    return radiograph_files() | {"data/train-00000-of-00001.parquet": rows}
