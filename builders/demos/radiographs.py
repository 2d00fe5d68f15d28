"""A tiny `mimic-cxr-jpg/` for the demo trees of the sets that were made from it."""

import gzip
from hashlib import blake2b
from pathlib import Path

from builders.demos.phantom_pictures import jpeg
from builders.demos.phantoms import make
from builders.engine.mimic_pictures import Radiograph
from builders.engine.rawfiles import write_demo_file

OFFICIAL = {0: "train", 1: "train", 2: "train", 3: "test", 5: "validate", 6: "train", 7: "train", 11: "test"}
_SEED = 7_200_000


def demo_radiograph(number: int) -> Radiograph:
    """The picture of a demo subject; `gemex_thinkvg` shows the same ones."""
    return Radiograph(str(10_000_000 + number), str(58_000_000 + number), dicom_id(f"vqa/{number}"))


def dicom_id(name: str) -> str:
    """The DICOM id of the demo picture of this name."""
    digest = blake2b(name.encode(), digest_size=20).hexdigest()
    return "-".join(digest[start : start + 8] for start in range(0, 40, 8))


def write_demo_radiographs(raw: Path) -> None:
    """A tiny `mimic-cxr-jpg/`: one picture a subject, and the official split."""
    lines = ["dicom_id,study_id,subject_id,split"]
    for number, split in OFFICIAL.items():
        picture = demo_radiograph(number)
        lines.append(f"{picture.dicom_id},{picture.study_id},{picture.subject_id},{split}")
        write_demo_file(raw / "mimic-cxr-jpg" / picture.path, jpeg(make(_SEED + number, "PA"), 96))
    table = gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)
    write_demo_file(raw / "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz", table)
