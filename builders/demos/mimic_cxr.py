"""A synthetic raw tree in the layout of MIMIC-CXR-JPG and MIMIC-CXR: phantoms, their reports, planted leaks.

About 48 subjects with one to five studies; frontal and lateral views, portable pictures, same-day pairs, progression
that picture and report agree on, missing times, reports without findings. Split by subject, as the publisher does, but
for one subject, which is the first of the leaks in `PLANTED`. All ids are invented.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from builders.demos.drawings import encoded
from builders.demos.phantom_pictures import jpeg
from builders.demos.phantom_reports import describe
from builders.demos.phantoms import Phantom, View, choose, draw, follow_up, make
from builders.demos.radiographs import dicom_id
from builders.engine.demo_files import write_demo_file, write_demo_files

PICTURE_PIXELS = 336
"""Longer side: one tile of the vision encoder, and a tree that is drawn in seconds."""

CROSSING = 10000047

PLANTED = {
    "id": f"the last study of subject {CROSSING} is listed under test, its earlier ones under train",
    "exact bytes": "a test picture is, byte for byte, a train picture of another subject; train repeats a picture too",
    "exact pixels": "a test JPEG is a train JPEG with a comment inserted: other bytes, same coded picture",
    "near": "two test pictures are train pictures re-encoded smaller, and mirrored (found by the near-image level)",
}

_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip
_SPLIT = ("dicom_id", "study_id", "subject_id", "split")
_VIEW_CODES = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral"}


@dataclass(frozen=True)
class _Shot:
    """One picture of the tree."""

    dicom_id: str
    view: View
    data: bytes


@dataclass(frozen=True)
class _Study:
    """One study of the tree."""

    subject: int
    study: int
    split: str
    date: str
    time: str
    report: str
    shots: list[_Shot]

    @property
    def folder(self) -> str:
        """As MIMIC lays studies out."""
        return f"p{str(self.subject)[:2]}/p{self.subject}/s{self.study}"


def write(raw: Path, subjects: int = 48, *, damaged: bool = False) -> None:
    """Write the tree under `raw`: the same bytes and file times every time. `damaged` adds one of each fault."""
    studies = [study for number in range(subjects) for study in _studies(number)]
    studies = _plant(studies)
    files: dict[str, bytes | None] = {}
    for study in studies:
        files |= {f"mimic-cxr-jpg/files/{study.folder}/{shot.dicom_id}.jpg": shot.data for shot in study.shots}
        files[f"mimic-cxr/files/{study.folder}.txt"] = study.report.encode()
    metadata, split = _rows(studies)
    if damaged:
        _damage(files, studies, metadata, split)
    write_demo_files(raw, {name: data for name, data in files.items() if data is not None})
    for name, rows in (("metadata", [_METADATA, *metadata]), ("split", [_SPLIT, *split])):
        write_demo_file(raw / f"mimic-cxr-jpg/mimic-cxr-2.0.0-{name}.csv.gz", rows)


def _studies(number: int) -> list[_Study]:
    """A subject's studies in order of time; findings develop from one to the next."""
    studies: list[_Study] = []
    prior: Phantom | None = None
    split = "test" if number % 8 == 3 else "validate" if number % 12 == 5 else "train"
    day, clock = int(draw(number, "day", 0, 300)), 0
    for index in range(choose(number, "studies", (1, 2, 2, 3, 3, 4, 5))):
        seed = 1000 * number + index
        phantom = make(seed) if prior is None else follow_up(prior, seed)
        portable = any(device.kind == "endotracheal tube" for device in phantom.devices) or draw(seed, "portable") < 0.3
        views: tuple[View, ...] = ("AP",) if portable else ("PA", "LATERAL") if draw(seed, "views") < 0.75 else ("PA",)
        # Two studies of one day are told apart by their times alone, so both have one.
        same_day = index > 0 and bool(studies[-1].time) and draw(seed, "same day") < 0.15 and clock < 18 * 3600
        if same_day:
            clock += int(draw(seed, "later", 3600, 5 * 3600))
        else:
            day += 1 + int(draw(seed, "gap", 0, 40))
            clock = int(draw(seed, "clock", 180, 19 * 3600))
        untimed = not same_day and draw(seed, "no time") < 0.05
        time = "" if untimed else _study_time(clock, int(draw(seed, "ms", 0, 1000)))
        shots = [
            _Shot(dicom_id(f"{seed}/{view}"), view, jpeg(replace(phantom, view=view, seed=seed), PICTURE_PIXELS))
            for view in views
        ]
        sections = describe(phantom, prior, views)
        if draw(seed, "impression only") < 0.04:
            del sections["FINDINGS"]
        date = f"{2180 + day // 336}{1 + day % 336 // 28:02d}{1 + day % 28:02d}"
        studies.append(_Study(10000000 + number, 50000000 + 7 * seed, split, date, time, _report(sections), shots))
        prior = phantom
    return studies


def _study_time(seconds: int, milliseconds: int) -> str:
    """HHMMSS.mmm as MIMIC has it: a number, so that leading zeros are lost."""
    clock = seconds // 3600 * 10000 + seconds // 60 % 60 * 100 + seconds % 60
    return f"{clock}.{milliseconds:03d}"


def _report(sections: dict[str, str]) -> str:
    """As MIMIC's files look: a centred title, every line behind one space, short sections on their header's line."""
    lines = []
    for name, text in sections.items():
        lines += [f"{name}: ", "", text, ""] if name in ("FINDINGS", "IMPRESSION") else [f"{name}:  {text}", ""]
    return " " * 33 + "FINAL REPORT\n" + "\n".join(f" {line}" for line in lines[:-1]) + "\n"


def _plant(studies: list[_Study]) -> list[_Study]:
    """Leaks of every level, see `PLANTED`; trees of a few subjects have those that fit."""
    # A copied picture goes where a picture of its view is expected: frontal for frontal, first of the study.
    train = [study for study in studies if study.split == "train" and study.shots[0].view == "PA"]
    test = [number for number, study in enumerate(studies) if study.split == "test" and study.shots[0].view == "PA"]
    crossing = [number for number, study in enumerate(studies) if study.subject == CROSSING]
    planted = list(studies)

    def put(number: int, data: bytes) -> None:
        study = planted[number]
        planted[number] = replace(study, shots=[replace(study.shots[0], data=data), *study.shots[1:]])

    changes: tuple[Callable[[bytes], bytes], ...] = (bytes, _commented, _smaller, _mirrored)
    for number, change, source in zip(test[1::3], changes, train[::5], strict=False):
        put(number, change(source.shots[0].data))
    if len(train) > 12:
        put(studies.index(train[12]), train[2].shots[0].data)
    for number in crossing[-1:]:
        planted[number] = replace(planted[number], split="test")
    return planted


def _commented(data: bytes) -> bytes:
    """The same coded picture with a comment segment (ITU-T T.81, B.2.4.5)."""
    return data[:2] + b"\xff\xfe\x00\x09a copy!" + data[2:]


def _smaller(data: bytes) -> bytes:
    picture = Image.open(io.BytesIO(data))
    return encoded(picture.resize((picture.width * 3 // 4, picture.height * 3 // 4)), "JPEG", quality=40)


def _mirrored(data: bytes) -> bytes:
    return encoded(Image.open(io.BytesIO(data)).transpose(Image.Transpose.FLIP_LEFT_RIGHT), "JPEG", quality=90)


def _rows(studies: list[_Study]) -> tuple[list[list[str]], list[list[str]]]:
    metadata, split = [], []
    for study in studies:
        for shot in study.shots:
            width, height = Image.open(io.BytesIO(shot.data)).size
            step = "CHEST (PORTABLE AP)" if shot.view == "AP" else "CHEST (PA AND LAT)"
            # MIMIC leaves about 4 % of view positions empty; the view code then says it.
            position = "" if draw(study.study, "no view") < 0.04 else shot.view
            metadata.append(
                [shot.dicom_id, str(study.subject), str(study.study), step, position, str(height), str(width),
                 study.date, study.time, step, _VIEW_CODES[shot.view], "Erect"]
            )  # fmt: skip
            split.append([shot.dicom_id, str(study.study), str(study.subject), study.split])
    return metadata, split


def _damage(
    files: dict[str, bytes | None], studies: list[_Study], metadata: list[list[str]], split: list[list[str]]
) -> None:
    """One of each fault, each in a study of its own (the first picture of every second train study)."""
    victims = iter([study for study in studies if study.split == "train"][::2])
    sound = studies[0].shots[0].data
    opened = Image.open(io.BytesIO(sound))
    png, cmyk = encoded(opened, "PNG"), encoded(opened.convert("CMYK"), "JPEG")
    for data in (sound[: len(sound) // 2], b"", png, cmyk, None, b"GIF89a" + bytes(40)):
        study = next(victims)
        files[f"mimic-cxr-jpg/files/{study.folder}/{study.shots[0].dicom_id}.jpg"] = data
    for report in (None, b" FINDINGS:  caf\xe9.\n"):
        files[f"mimic-cxr/files/{next(victims).folder}.txt"] = report
    study = next(victims)
    metadata.append(metadata[0])
    metadata.append(metadata[1][:4])
    metadata.append([study.shots[0].dicom_id[::-1], *metadata[2][1:]])
    metadata.append(["f" * 8 + "-00000000" * 4, str(study.study), str(study.subject), *metadata[2][3:]])
    split.append(["0" * 8 + "-00000000" * 4, *split[2][1:]])
