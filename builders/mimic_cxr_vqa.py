"""MIMIC-CXR-VQA (PhysioNet, MIMIC-Ext-MIMIC-CXR-VQA 1.0.0): templated questions about frontal radiographs.

The set draws its own subject split and never consults the official one of MIMIC-CXR (reference `sources.md`, section 3,
11), so its training rows show subjects on whom findings and impressions are evaluated. The default reading drops the
training rows of every subject who has an official test or validate image; rows built for evaluation stay. The paper
trains on train + valid, 363,598 rows: `--paper-variant` keeps them all. Pictures are read from MIMIC-CXR-JPG.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from builders.engine.rawfiles import (
    checked_text,
    field_of,
    number_of,
    read_bytes,
    relative,
    require,
    text_of,
    write_demo_file,
)
from builders.engine.source import (
    PAPER_VARIANT,
    Image,
    InputError,
    NotThisSource,
    PaperRow,
    Params,
    Reject,
    Role,
    Sample,
    Source,
    Unit,
    assistant,
    user,
)
from builders.engine.tables import ROWS_PER_UNIT, Row, convert_rows, table_rows, table_units

ROWS_WITH_PICTURES = 1_000
"""Rows a unit where pictures are decoded: about a minute of full-size radiographs."""

_SPLITS: dict[str, Role] = {"train": "train", "valid": "eval", "test": "eval"}
_FOLDERS = (
    "MIMIC-Ext-MIMIC-CXR-VQA/dataset",
    "dataset",
    "physionet.org/files/mimic-ext-mimic-cxr-vqa/1.*/MIMIC-Ext-MIMIC-CXR-VQA/dataset",
)
_JPG_ROOTS = ("mimic-cxr-jpg/", "mimic-cxr-jpg/2.*/", "physionet.org/files/mimic-cxr-jpg/2.*/", "")
_KINDS = frozenset({"verify", "choose", "query"})
_NOTHING = "none"
"""Stands for `[]` in the paper's variant: the program found nothing, or could not tell (generate_answer.py)."""

_PICTURE = re.compile(r"(?:.*/)?p(1\d)/p(1\d{7})/s(5\d{7})/([0-9a-f]{8}(?:-[0-9a-f]{8}){4})\.jpg")
_SUBJECT = re.compile(r"1\d{7}")
_OFFICIAL = frozenset({"train", "validate", "test"})


class Radiograph(NamedTuple):
    """What a path of MIMIC-CXR-JPG says about its picture."""

    subject_id: str
    study_id: str
    dicom_id: str

    @property
    def path(self) -> str:
        """Below the root of MIMIC-CXR-JPG."""
        return f"files/p{self.subject_id[:2]}/p{self.subject_id}/s{self.study_id}/{self.dicom_id}.jpg"

    @property
    def group(self) -> dict[str, str]:
        """Group ids in the namespace that all sources made from MIMIC-CXR share."""
        return {"subject_id": f"mimic-cxr/{self.subject_id}", "study_id": f"mimic-cxr/{self.study_id}"}

    def image(self, raw: Path, jpg_root: str) -> Image:
        """The picture under `raw`; both sources show frontal views only, which one is not said."""
        file = (Path(jpg_root) / self.path).as_posix()
        return Image(
            image_id=f"mimic-cxr/{self.dicom_id}",
            file=file,
            read=partial(read_bytes, raw / file, raw),
            subject_id=f"mimic-cxr/{self.subject_id}",
            study_id=f"mimic-cxr/{self.study_id}",
        )


def radiograph_of(row: Row) -> Radiograph:
    """The picture that a row's `image_path` names, with or without leading folders."""
    match = _PICTURE.fullmatch(text_of(row.values, "image_path", row.file))
    if match is None or not match[2].startswith(match[1]):
        raise InputError("bad_field", row.file, "image_path is not p1x/p1xxxxxxx/s5xxxxxxx/<dicom id>.jpg")
    return Radiograph(match[2], match[3], match[4])


def mimic_units(
    raw: Path, files: Iterable[Path], split: str, role: Role, params: Params, columns: Sequence[str] = ()
) -> Iterator[Unit]:
    """Units of row files about MIMIC-CXR-JPG; the official split file and the rows' pictures enter their keys."""
    official = require(raw, "MIMIC-CXR-JPG split", *(f"{root}mimic-cxr-2.0.0-split.csv*" for root in _JPG_ROOTS))
    held_out_subjects(official, raw)  # an unusable file stops here, not in every worker
    tree = {"official": relative(official, raw), "jpg_root": relative(official.parent, raw)}
    for unit in table_units(
        raw,
        files,
        split,
        role,
        columns=columns,
        rows_per_unit=ROWS_PER_UNIT if params["no_images"] else ROWS_WITH_PICTURES,
        inputs=(tree["official"],),
    ):
        pictures = [] if params["no_images"] else _pictures(raw, unit, tree["jpg_root"])
        yield replace(unit, payload=unit.payload | tree, inputs=(*unit.inputs, *pictures))


def _pictures(raw: Path, unit: Unit, jpg_root: str) -> list[str]:
    """Files of a unit's pictures; rows that name none are rejected when they are read."""
    found = set()
    for row in table_rows(raw, replace(unit, payload=unit.payload | {"columns": ["image_path"]})):
        path = row.values.get("image_path") if isinstance(row, Row) else None
        match = _PICTURE.fullmatch(path) if isinstance(path, str) else None
        if match is not None:
            found.add((Path(jpg_root) / Radiograph(match[2], match[3], match[4]).path).as_posix())
    return sorted(found)


def subject_rule(raw: Path, unit: Unit, params: Params) -> Callable[[Radiograph, str], None]:
    """Refuses training rows of subjects with official test or validate images, except in the paper's variant."""
    if unit.role != "train" or params["paper_variant"]:
        return lambda picture, file: None
    known, held_out = held_out_subjects(raw / unit.payload["official"], raw)

    def check(picture: Radiograph, file: str) -> None:
        if picture.subject_id not in known:
            raise InputError("not_in_split", file, f"subject {picture.subject_id}")
        if picture.subject_id in held_out:
            raise InputError("subject_of_test_split", file, f"subject {picture.subject_id}")

    return check


def held_out_subjects(path: Path, raw: Path) -> tuple[frozenset[str], frozenset[str]]:
    """(all subjects, those with a test or validate image) of the official split file of MIMIC-CXR-JPG.

    No line of it may be damaged: a subject that it loses would be trained on.
    """
    stat = path.stat()
    return _held_out_subjects(path, relative(path, raw), (stat.st_size, stat.st_mtime_ns))


@lru_cache(maxsize=2)
def _held_out_subjects(path: Path, file: str, state: tuple[int, int]) -> tuple[frozenset[str], frozenset[str]]:
    known, held_out = set(), set()
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as data:
            reader = csv.reader(io.TextIOWrapper(data, "utf-8-sig", newline=""))
            header = next(reader, [])
            if missing := [name for name in ("subject_id", "split") if name not in header]:
                raise NotThisSource(f"{file}: no column {', '.join(missing)}; is this the file of MIMIC-CXR-JPG 2.x?")
            subject, split = header.index("subject_id"), header.index("split")
            for cells in reader:
                whole = len(cells) == len(header) and _SUBJECT.fullmatch(cells[subject])
                if not whole or cells[split] not in _OFFICIAL:
                    raise NotThisSource(f"{file}: line {reader.line_num} is damaged; fetch the file again")
                known.add(cells[subject])
                if cells[split] != "train":
                    held_out.add(cells[subject])
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise NotThisSource(f"{file}: not readable ({error}); fetch the file again") from None
    return frozenset(known), frozenset(held_out)


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, role in _SPLITS.items():
        path = require(raw, f"{split} file", *(f"{folder}/{split}.json" for folder in _FOLDERS))
        trained_on: Role = "train" if params["paper_variant"] and split == "valid" else role
        yield from mimic_units(raw, [path], split, trained_on, params)


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    check = subject_rule(raw, unit, params)
    nothing = _NOTHING if params["paper_variant"] else None
    return convert_rows(raw, unit, partial(_sample, raw, unit, check, nothing))


def _sample(raw: Path, unit: Unit, check: Callable[[Radiograph, str], None], nothing: str | None, row: Row) -> Sample:
    file, values = row.file, row.values
    number, question, kind = number_of(values, "idx", file), text_of(values, "question", file), _kind(row)
    picture = radiograph_of(row)
    stated = [str(field_of(values, name, file)) for name in ("subject_id", "study_id", "image_id")]
    if stated != list(picture):
        raise InputError("bad_id", file, "subject_id, study_id or image_id is not that of image_path")
    answers = _answers(row)
    check(picture, file)
    if not question.strip():
        raise InputError("empty_question", file)
    if not answers and nothing is None:
        raise InputError("empty_answer", file)
    answer = ", ".join(answers) or str(nothing)
    return Sample(
        key=str(number),
        messages=[user(0, question), assistant(answer)],
        file=file,
        row=row.number,
        question=question,
        answer=answer,
        images=[picture.image(raw, unit.payload["jpg_root"])],
        group=picture.group | {"question_id": f"mimic-cxr-vqa/{unit.split}-{number}"},
        subset=kind,
    )


def _kind(row: Row) -> str:
    kind = text_of(row.values, "semantic_type", row.file)
    if kind not in _KINDS:
        raise InputError("bad_field", row.file, "semantic_type is none of verify, choose, query")
    return kind


def _answers(row: Row) -> list[str]:
    answers = field_of(row.values, "answer", row.file)
    if not isinstance(answers, list) or not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise InputError("bad_field", row.file, "answer is not a list of texts")
    return [checked_text(answer, "answer", row.file) for answer in answers]


PLANTED: dict[str, str] = {
    "subject": "training rows on subjects 10000003 (official test) and 10000005 (official validate) are dropped; "
    "--paper-variant trains on them",
    "own split": "subject 10000001 is in train and in valid, as 698 subjects of the real set are",
}
"""What overlaps between the splits of the demo tree."""

# Subjects of the demo as in that of `mimic_cxr`: number 8n+3 is in the official test split, 12n+5 in validate.
_DEMO_OFFICIAL = {0: "train", 1: "train", 2: "train", 3: "test", 5: "validate", 6: "train", 7: "train", 11: "test"}
_DEMO_SEED = 7_200_000
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


def demo_radiograph(number: int) -> Radiograph:
    """The picture of a demo subject; `gemex_thinkvg` shows the same ones."""
    from hashlib import blake2b

    digest = blake2b(f"vqa/{number}".encode(), digest_size=20).hexdigest()
    dicom_id = "-".join(digest[start : start + 8] for start in range(0, 40, 8))
    return Radiograph(str(10_000_000 + number), str(58_000_000 + number), dicom_id)


def write_demo_radiographs(raw: Path) -> None:
    """A tiny `mimic-cxr-jpg/`: one picture a subject, and the official split."""
    from builders.demos.phantom_pictures import jpeg
    from builders.demos.phantoms import make

    lines = ["dicom_id,study_id,subject_id,split"]
    for number, split in _DEMO_OFFICIAL.items():
        picture = demo_radiograph(number)
        lines.append(f"{picture.dicom_id},{picture.study_id},{picture.subject_id},{split}")
        write_demo_file(raw / "mimic-cxr-jpg" / picture.path, jpeg(make(_DEMO_SEED + number, "PA"), 96))
    table = gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0)
    write_demo_file(raw / "mimic-cxr-jpg/mimic-cxr-2.0.0-split.csv.gz", table)


def _write_demo(raw: Path) -> None:
    write_demo_radiographs(raw)
    for split, rows in _DEMO_ROWS.items():
        data = [_demo_row(split, index, *row) for index, row in enumerate(rows)]
        write_demo_file(raw / f"MIMIC-Ext-MIMIC-CXR-VQA/dataset/{split}.json", json.dumps(data, indent=4).encode())
    answers = sorted({answer for rows in _DEMO_ROWS.values() for row in rows for answer in row[4]})
    numbered = {answer: index for index, answer in enumerate(answers)}
    write_demo_file(raw / "MIMIC-Ext-MIMIC-CXR-VQA/dataset/ans2idx.json", json.dumps(numbered).encode())


def _demo_row(
    split: str, index: int, number: int, kind: str, content: str, question: str, answer: list[str]
) -> dict[str, Any]:
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


SOURCE = Source(
    name="mimic_cxr_vqa",
    title="MIMIC-CXR-VQA: templated questions about frontal radiographs of MIMIC-CXR",
    homepage="https://physionet.org/content/mimic-ext-mimic-cxr-vqa/1.0.0/",
    revision="mimic-ext-mimic-cxr-vqa 1.0.0; counts and fields as in baeseongsu/mimic-cxr-vqa@d69a025",
    license="PhysioNet-Credentialed-Health-Data-1.5.0",
    access="credentialed",
    stage="instruct",
    task="vqa",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
1. Get a PhysioNet account, do the CITI training, sign the agreements of mimic-ext-mimic-cxr-vqa and mimic-cxr-jpg.
2. wget -r -N -c -np --user NAME --ask-password https://physionet.org/files/mimic-ext-mimic-cxr-vqa/1.0.0/
3. wget -r -N -c -np --user NAME --ask-password https://physionet.org/files/mimic-cxr-jpg/2.1.0/
Layout under --raw: MIMIC-Ext-MIMIC-CXR-VQA/dataset/{train,valid,test}.json and
mimic-cxr-jpg/{mimic-cxr-2.0.0-split.csv.gz, files/p10/...} (a link to the tree of mimic_cxr will do); the folders that
wget makes are found too. The split file is needed with --no-images as well. Nothing leaves the machine.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 290_031, "valid": 73_567, "test": 13_793},
    paper=(
        "363,598 = train 290,031 + valid 73,567, whatever the official split says. We train on train alone, without "
        "subjects of the official test and validate splits and without empty answers; --paper-variant keeps all."
    ),
    paper_rows=(
        PaperRow(
            "MIMIC-CXR-VQA",
            "IT",
            363_598,
            "ours is train alone, less subjects with official test or validate images, less empty answers; "
            "--paper-variant trains on train + valid and reads [] as 'none'",
        ),
    ),
    options=(PAPER_VARIANT,),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
