"""The demo tree of `builders.vqa_rad`."""

from builders import kit
from builders.demos import phantom_pictures, phantoms
from builders.vqa_rad import FOLDERS

_DEMO_PICTURES = 6
_DEMO_SEED = 7_200_000
_DEMO_PIXELS = 192

PLANTED = {
    "pictures": "all 3 test pictures are training pictures, as all 203 real ones are",
    "item": "one training row repeats a test row word for word; it is left out when read (also_in_test)",
}


def files() -> kit.Files:
    tree: kit.Files = {}
    rows: dict[str, kit.Rows] = {split: [] for split in ("train", "test")}

    def add(split: str, number: int, question: str, answer: str | int, kind: str, phrase: str = "freeform") -> None:
        # Numbered in the order of writing, over both files.
        row = {"qid": 1 + sum(map(len, rows.values())), "image_name": f"synpic{10_001 + number}.jpg"}
        row |= {"image_organ": "CHEST", "answer": answer, "answer_type": kind, "question_type": "PRES"}
        rows[split].append(row | {"question": question, "phrase_type": phrase, "modality": "XR"})

    for number in range(_DEMO_PICTURES):
        phantom = phantoms.make(_DEMO_SEED + number)
        suffix = "JPG" if number == 1 else "jpg"
        tree[f"{FOLDERS[0]}/synpic{10_001 + number}.{suffix}"] = phantom_pictures.jpeg(phantom, _DEMO_PIXELS)
        kinds = {finding.kind for finding in phantom.findings}
        enlarged, effusion = ("Yes" if kind in kinds else "No" for kind in ("cardiomegaly", "effusion"))
        add("train", number, "Is the heart enlarged?", enlarged, "CLOSED")
        add("train", number, "Is there evidence of an enlarged heart?", enlarged, "CLOSED ", "para")
        add("train", number, "Is enlarged heart present?", enlarged, "CLOSED", "frame")
        add("train", number, "How many findings does this radiograph show?", len(phantom.findings), "OPEN")
        if number % 2 == 0:
            add("test", number, "Is a pleural effusion seen?", effusion, "CLOSED")
            add("test", number, "What imaging method was used?", "X-ray", "OPEN", "para")
    add("train", 0, rows["train"][0]["question"], rows["train"][0]["answer"], "CLOSED")
    add("train", 0, rows["test"][0]["question"], rows["test"][0]["answer"], "CLOSED")
    return tree | {f"{split}set.json": items for split, items in rows.items()}
