"""The demo tree of `builders.medmcqa`."""

import uuid

import pyarrow as pa

from builders import kit
from builders.medmcqa import COLUMNS, OPTIONS, SPLITS

# The demo's facts: subject, topic, question, correct option, the others, explanation; made up, OCR damage and all.
_Fact = tuple[str, str | None, str, str, tuple[str, str, str], str | None]

_FACTS: tuple[_Fact, ...] = (
    ("Anatomy", "Upper limb", "Nerve injured in a fracture of the surgical neck of the humerus:", "Axillary nerve",
     ("Radial nerve", "Ulnar nerve", "Median nerve"), "Ans. (a) Axillary nerve. It winds round the surgical neck."),
    ("Medicine", None, "Drug of choice for acute gouty ahritis with renal failure is",
     "Low dose prednisolone", ("Allopurinol", "Indomethacin", "Probenecid"), "NSAIDs are avoided in renal failure."),
    ("Pathology", "Lung", "Caseating granuloma is typical of", "Tuberculosis",
     ("Sarcoidosis", "Silicosis", "Asbestosis"), None),
    ("Pharmacology", "Antidotes", "Antidote of paracetamol is", "N-acetylcysteine",
     ("Naloxone", "Flumazenil", "Atropine"), "It restores glutathione."),
    ("Physiology", None, "Resting membrane potential is closest to the equilibrium potential of", "Potassium",
     ("Sodium", "Chloride", "Calcium"), " "),
    ("Pediatrics", "Growth", "A child can build a tower of two cubes at the age of", "15 months",
     ("9 months", "24 months", "36 months"), "15 months: two cubes; 18 months: three."),
    ("Surgery", "Abdomen", "Not true about a true diveiculum:", "It lacks a muscular coat",
     ("It holds all layers", "Meckel's is one", "It can perforate"), None),
    ("Pharmacology", "Antidotes", "Antidote of paracetamol is", "Methionine",
     ("Fomepizole", "Dimercaprol", "Deferoxamine"), "Given by mouth."),
    ("Microbiology", None, "Culture medium for Corynebacterium diphtheriae is", "Loeffler serum slope",
     ("Chocolate agar", "Thayer-Martin agar", "Sabouraud agar"), None),
    ("Anatomy", None, "Which of these bones does not aiculate with the scaphoid?", "Ulna",
     ("Radius", "Lunate", "Capitate"), None),
    ("Skin", "Papulosquamous", "Auspitz sign is seen in", "Psoriasis",
     ("Lichen planus", "Pityriasis rosea", "Eczema"), None),
    ("Radiology", "Chest", "Egg on a string sign is seen in", "Transposition of the great aeries",
     ("Tetralogy of Fallot", "Ebstein anomaly", "Coarctation of the aoa"), None),
    ("ENT", "Ear", "Commonest organism in acute otitis media is", "Streptococcus pneumoniae",
     ("Pseudomonas", "Staphylococcus epidermidis", "Proteus"), None),
)  # fmt: skip

_MMLU = ("Anatomy", None, "Which of these bones does not articulate with the scaphoid?", "Ulna",
         ("Radius", "Lunate", "Capitate"), None)  # fmt: skip

_DEMO_FACTS = {"train": range(9), "validation": range(8, 11), "test": range(11, 13)}

PLANTED = {
    "validation_in_train": "the ninth train row is the first validation row under another id",
    "other_options": "the fourth and the eighth train rows share a question but no option: two items, not one",
    "mmlu_med": "the last train row is the first question of mmlu_med's anatomy test split",
}


def demo_rows(split: str) -> kit.Rows:
    """Rows of a demo split as the hub has them (GitHub's count `cop` from 1, and leave it out in test.json)."""
    rows = [_demo_row(split, index, _FACTS[index]) for index in _DEMO_FACTS[split]]
    return [*rows, _demo_row(split, 2, _MMLU)] if split == "train" else rows


def _demo_row(split: str, number: int, fact: _Fact) -> kit.Values:
    subject, topic, question, right, others, explanation = fact
    place = number % 4
    options = (*others[:place], right, *others[place:])
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"medmcqa/{split}/{question}/{right}")),
        "question": question,
        **dict(zip(OPTIONS.values(), options, strict=True)),
        "cop": -1 if split == "test" else place,
        "choice_type": None if split == "validation" else "multi" if number % 3 == 1 else "single",
        "exp": explanation,
        "subject_name": subject,
        "topic_name": topic,
    }


def files() -> kit.Files:
    names = (*COLUMNS, "subject_name", "topic_name")
    schema = pa.schema([(name, pa.int64() if name == "cop" else pa.string()) for name in names])
    tables = {split: pa.Table.from_pylist(demo_rows(split), schema) for split in SPLITS}
    return {f"data/{split}-00000-of-00001.parquet": table for split, table in tables.items()}
