"""A tiny `mimic-cxr-jpg/` for the demo trees of the sets that were made from it."""

from hashlib import blake2b
from typing import Any

from builders.demos.phantom_pictures import jpeg
from builders.demos.phantoms import make
from builders.engine.mimic_pictures import Radiograph

OFFICIAL = {0: "train", 1: "train", 2: "train", 3: "test", 5: "validate", 6: "train", 7: "train", 11: "test"}
_SEED = 7_200_000


def demo_radiograph(number: int) -> Radiograph:
    """The picture of a demo subject; `gemex_thinkvg` shows the same ones."""
    return Radiograph(str(10_000_000 + number), str(58_000_000 + number), dicom_id(f"vqa/{number}"))


def dicom_id(name: str) -> str:
    """The DICOM id of the demo picture of this name."""
    digest = blake2b(name.encode(), digest_size=20).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def radiograph_files() -> dict[str, Any]:
    """A tiny `mimic-cxr-jpg/`: one picture a subject, and the official split."""
    rows: list[dict[str, str]] = []
    files: dict[str, Any] = {"mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz": rows}
    for number, split in OFFICIAL.items():
        picture = demo_radiograph(number)
        row = {"dicom_id": picture.dicom_id, "study_id": picture.study_id, "subject_id": picture.subject_id}
        rows.append(row | {"split": split})
        files[f"mimic-cxr-jpg/{picture.path}"] = jpeg(make(_SEED + number, "PA"), 96)
    return files
