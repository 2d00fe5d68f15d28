"""MIMIC-CXR as tables and reports alone, thousands of studies with views and visits as the real ones have them."""

from __future__ import annotations

import csv
import gzip
import io
import zipfile
from pathlib import Path
from random import Random
from typing import Any

Row = dict[str, str]

VIEWS: tuple[tuple[tuple[str, ...], float], ...] = (
    (("PA", "LATERAL"), 0.36), (("AP",), 0.34), (("PA", "LL"), 0.07), (("AP", "AP"), 0.06), (("PA",), 0.05),
    (("AP", "LATERAL"), 0.05), (("PA", "LATERAL", "LATERAL"), 0.03), (("PA", "PA", "LATERAL", "LATERAL"), 0.01),
    (("LATERAL",), 0.01), (("AP",) * 5, 0.005), (("PA", "LATERAL") * 4, 0.005), (("LAO", "SWIMMERS"), 0.01),
)  # fmt: skip
"""Some 1.7 pictures a study, as 368,960 / 222,758."""
NO_VIEW_POSITION, NO_TIME, FINDINGS = 0.042, 0.02, 0.68
CODES = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral", "LL": "left lateral"}


def study_file(subject: str, study: str) -> str:
    return f"files/p{subject[:2]}/p{subject}/s{study}"


def rows_of(studies: int, seed: int = 0) -> list[Row]:
    """A row a picture: the columns of the metadata file, `split`, and `findings` (yes or empty) of its study."""
    random, rows, subject, made = Random(seed), [], 0, 0
    while made < studies:
        subject += 1
        # A few subjects come dozens of times, a third once.
        visits = min(studies - made, 1 + int(random.paretovariate(1.1)) if random.random() < 0.7 else 1, 60)
        split = random.choices(("train", "validate", "test"), (0.8, 0.05, 0.15))[0]
        day = random.randrange(300)
        for _ in range(visits):
            day += random.choice((0, 0, 1, 2, 30, 200))
            [views] = random.choices([views for views, _ in VIEWS], [share for _, share in VIEWS])
            study, findings = str(50_000_000 + random.randrange(9_000_000)), random.random() < FINDINGS
            # HHMMSS.fff as a number, so that zeros are lost
            clock = "" if random.random() < NO_TIME else f"{random.randrange(24) * 10_000 + random.randrange(60)}.5"
            for view in views:
                blank = random.random() < NO_VIEW_POSITION
                rows.append(
                    {
                        "dicom_id": "-".join(f"{random.randrange(1 << 32):08x}" for _ in range(5)),
                        "subject_id": str(10_000_000 + subject), "study_id": study,
                        "ViewPosition": "" if blank else view, "StudyTime": clock,
                        "StudyDate": f"{2150 + day // 336}{1 + day % 336 // 28:02d}{1 + day % 28:02d}",
                        "ViewCodeSequence_CodeMeaning": CODES.get(view, "") if random.random() < 0.5 else "",
                        "split": split, "findings": "yes" if findings else "",
                    }
                )  # fmt: skip
            made += 1
    return rows


def report(findings: bool, note: str = "") -> str:
    text = " " * 33 + "FINAL REPORT\n INDICATION:  Cough.\n \n HISTORY:  Asthma.\n \n TECHNIQUE:  Chest.\n"
    text += f" \n FINDINGS:\n \n The lungs are clear{note}.\n" if findings else ""
    return text + f" \n IMPRESSION:\n \n No acute process{note}.\n"


def write_tables(jpg: Path, rows: list[Row]) -> None:
    """The metadata and split files of MIMIC-CXR-JPG below `jpg`."""
    names = [name for name in rows[0] if name not in ("split", "findings")]
    for name, columns in (("metadata", names), ("split", ["dicom_id", "study_id", "subject_id", "split"])):
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
        jpg.mkdir(parents=True, exist_ok=True)
        (jpg / f"mimic-cxr-2.0.0-{name}.csv.gz").write_bytes(gzip.compress(text.getvalue().encode(), 1))


def write_reports(archive: Path, rows: list[Row], folder: str = "") -> None:
    studies: dict[str, Any] = {study_file(row["subject_id"], row["study_id"]): row["findings"] for row in rows}
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for name, findings in studies.items():
            file.writestr(f"{folder}{name}.txt", report(bool(findings)))
