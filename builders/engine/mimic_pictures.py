"""Pictures of MIMIC-CXR-JPG as the sets made from them name them, and the subjects of its official test split."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from builders.engine.rawfiles import read_bytes, relative, require, text_of
from builders.engine.source import Image, InputError, NotThisSource, Params, Reject, Role, Unit
from builders.engine.tables import ROWS_PER_UNIT, Row, table_rows, table_units

ROWS_WITH_PICTURES = 1_000
"""Rows a unit where pictures are decoded: about a minute of full-size radiographs."""

JPG_ROOTS = (
    "mimic-cxr-jpg/", "mimic-cxr-jpg/2.*/", "physionet.org/files/mimic-cxr-jpg/2.*/", "files/mimic-cxr-jpg/2.*/", "",
)  # fmt: skip
"""Where MIMIC-CXR-JPG may lie below a raw tree; the third is what PhysioNet's `wget -r` makes."""
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

    def file(self, jpg_root: str) -> str:
        """Below the raw tree."""
        return (Path(jpg_root) / self.path).as_posix()

    @property
    def group(self) -> dict[str, str]:
        """Group ids in the namespace that all sources made from MIMIC-CXR share."""
        return {"subject_id": f"mimic-cxr/{self.subject_id}", "study_id": f"mimic-cxr/{self.study_id}"}

    def image(self, raw: Path, jpg_root: str) -> Image:
        """The picture under `raw`, without its view."""
        file = self.file(jpg_root)
        read = partial(read_bytes, raw / file, raw)
        return Image(f"mimic-cxr/{self.dicom_id}", file, read, self.group["subject_id"], self.group["study_id"])


def radiograph_of(row: Row) -> Radiograph:
    """The picture that a row's `image_path` names, with or without leading folders."""
    match = _PICTURE.fullmatch(text_of(row.values, "image_path", row.file))
    if match is None or not match[2].startswith(match[1]):
        raise InputError("bad_field", row.file, "image_path is not p1x/p1xxxxxxx/s5xxxxxxx/<dicom id>.jpg")
    return Radiograph(match[2], match[3], match[4])


def mimic_units(
    raw: Path,
    files: Iterable[Path],
    split: str,
    role: Role,
    params: Params,
    columns: Sequence[str] = (),
    optional: Sequence[str] = (),
) -> Iterator[Unit]:
    """Units of row files about MIMIC-CXR-JPG; the official split file and the rows' pictures enter their keys."""
    official = require(raw, "MIMIC-CXR-JPG split", *(f"{root}mimic-cxr-2.0.0-split.csv*" for root in JPG_ROOTS))
    held_out_subjects(official, raw)  # an unusable file stops here, not in every worker
    tree = {"official": relative(official, raw), "jpg_root": relative(official.parent, raw)}
    size, inputs = ROWS_PER_UNIT if params["no_images"] else ROWS_WITH_PICTURES, [tree["official"]]
    for unit in table_units(
        raw, files, split, role, columns=columns, rows_per_unit=size, inputs=inputs, optional=optional
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
            found.add(Radiograph(match[2], match[3], match[4]).file(jpg_root))
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
    for unit in table_units(path.parent, [path], "official", "eval", columns=("subject_id", "split")):
        for row in table_rows(path.parent, unit):
            values = {} if isinstance(row, Reject) else row.values
            if not _SUBJECT.fullmatch(values.get("subject_id", "")) or values["split"] not in _OFFICIAL:
                number = row.row if isinstance(row, Reject) else row.number
                raise NotThisSource(f"{file}: line {number} is damaged; fetch the file again")
            known.add(values["subject_id"])
            if values["split"] != "train":
                held_out.add(values["subject_id"])
    return frozenset(known), frozenset(held_out)
