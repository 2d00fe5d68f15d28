"""The demo tree of `builders.mimic_cxr_vqa`."""

from builders import kit
from builders.demos.radiographs import demo_radiograph, radiograph_files

PLANTED = {
    "subject": "training rows on subjects 10000003 (official test) and 10000005 (official validate) are dropped; "
    "--paper-variant trains on them",
    "own split": "subject 10000001 is in train and in valid, as 698 subjects of the real set are",
}

# Subjects of the demo as in that of `mimic_cxr`: number 8n+3 is in the official test split, 12n+5 in validate.
_DEMO_ROWS: dict[str, tuple[tuple[int, str, str, str, list[str]], ...]] = {
    "train": (
        (0, "verify", "presence", "Are there any signs of pleural effusion in the left lung?", ["yes"]),
        (0, "query", "anatomy", "Which regions show an abnormality?", ["left lower lung zone", "left lung"]),
        (1, "choose", "size", "Is the width of the heart wider or narrower than half the thorax?", []),
        (1, "query", "abnormality", "List all devices in the picture.", []),
        (2, "query", "plane", "What is the plane of this radiograph?", ["pa"]),
        (2, "verify", "attribute", "Is there an enlarged cardiac silhouette?", ["no"]),
        (3, "verify", "presence", "Are there any signs of pneumothorax?", ["no"]),
        (3, "query", "gender", "What is the gender of the patient?", ["f"]),
        (5, "query", "abnormality", "What abnormalities are seen in the right lung?", ["lung opacity", "atelectasis"]),
    ),
    "valid": (
        (6, "verify", "presence", "Is there a nodule in the right upper lung zone?", ["no"]),
        (1, "choose", "attribute", "Which is seen in the mediastinum, a line or a tube?", ["line"]),
        (3, "query", "anatomy", "Where is the opacity?", []),
    ),
    "test": (
        (7, "verify", "size", "Is the cardiac silhouette wider than normal?", ["yes"]),
        (11, "query", "abnormality", "Name every abnormality in the left lung.", ["atelectasis", "lung opacity"]),
    ),
}


def files() -> kit.Files:
    answers = sorted({answer for rows in _DEMO_ROWS.values() for row in rows for answer in row[4]})
    tables: kit.Files = {"ans2idx": {answer: index for index, answer in enumerate(answers)}}
    for split, rows in _DEMO_ROWS.items():
        tables[split] = [_demo_row(split, index, *row) for index, row in enumerate(rows)]
    folder = "MIMIC-Ext-MIMIC-CXR-VQA/dataset"
    return radiograph_files() | {f"{folder}/{name}.json": rows for name, rows in tables.items()}


def _demo_row(
    split: str, index: int, number: int, kind: str, content: str, question: str, answer: list[str]
) -> kit.Values:
    picture = demo_radiograph(number)
    return {
        "split": split,
        "idx": index,
        "subject_id": picture.subject_id,
        "study_id": picture.study_id,
        "image_id": picture.dicom_id,
        "image_path": picture.path.removeprefix("files/"),
        "question": question,
        "semantic_type": kind,
        "content_type": content,
        "template": question,
        "template_program": "program_1",
        "template_arguments": {"object": {}, "attribute": {}, "category": {}, "viewpos": {}, "gender": {}},
        "answer": answer,
    }
