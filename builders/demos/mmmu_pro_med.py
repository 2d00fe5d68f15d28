"""The demo tree of `builders.mmmu_pro_med`."""

from builders import kit
from builders.demos.mmmu_med import DEMO_QUESTIONS, demo_row
from builders.mmmu_pro_med import FOLDERS

PLANTED = {
    "question": "validation_Pharmacy_1 and validation_Public_Health_2 are in mmmu_med's demo too, by the same ids",
}

# Id, subject, question of `DEMO_QUESTIONS`. The first two are those of the demo of `mmmu_med`, pictures and all.
_DEMO_ROWS = (
    ("validation_Pharmacy_1", "Pharmacy", 0),
    ("validation_Public_Health_2", "Public_Health", 2),
    ("test_Pharmacy_3", "Pharmacy", 2),
    ("test_Clinical_Medicine_12", "Clinical_Medicine", 1),
    ("test_Accounting_7", "Accounting", 0),
    ("test_Basic_Medical_Science_40", "Basic_Medical_Science", 3),
    ("test_Diagnostics_and_Laboratory_Medicine_5", "Diagnostics_and_Laboratory_Medicine", 0),
)

_DEMO_FILLERS = ("Lung", "Liver", "Skin", "Bone", "Brain", "Pancreas", "Retina", "Kidney")


def files() -> kit.Files:
    tables: dict[str, kit.Rows] = {}
    for split, most in (("test_4", 4), ("test_10", 10)):
        rows = tables.setdefault(f"{FOLDERS[split]}/test-00000-of-00001.parquet", [])
        for key, subject, number in _DEMO_ROWS:
            row = demo_row(key, number) | {"subject": subject}
            _, options, answer = DEMO_QUESTIONS[number]
            right = options["ABCDEFGHIJ".index(answer)]
            # Options that name images get no fillers, as in the real set, but are shuffled.
            many = options if any("<image" in option for option in options) else [*options, *_DEMO_FILLERS][:most]
            shuffled = many[::-1]
            row |= {"options": str(shuffled), "answer": "ABCDEFGHIJ"[shuffled.index(right)]}
            rows.append(row)
    return tables
