"""VQA-RAD in the community split: `trainset.json` and `testset.json` over one folder of 315 MedPix pictures.

Training rows are all of trainset.json but those that repeat another's picture, question and answer or stand in the test
file. They show every one of the 203 test pictures: this test split is no held-out benchmark. The paper's variant, the
1,793 rows of its table and of the hub's parquet, also leaves out 1,267 rows of phrase_type `frame` (templated
rewordings), which hides one test picture (202 of 203).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from builders.kit import (
    PAPER_VARIANT,
    Image,
    InputError,
    PaperRow,
    Params,
    Reject,
    Role,
    Sample,
    Source,
    Unit,
    assistant,
    checked_text,
    field_of,
    list_zip,
    load_rows,
    number_of,
    outcome,
    read_bytes,
    read_zip_member,
    relative,
    require,
    run,
    text_of,
    user,
)

_SPLITS: dict[str, Role] = {"train": "train", "test": "eval"}
_FOLDERS = ("VQA_RAD Image Folder", "images", "imgs")
_PICTURE = re.compile(r"synpic[0-9]+\.jpg")
_SUBSETS = {"CLOSED": "closed", "OPEN": "open"}


class _Row(NamedTuple):
    qid: int
    picture: str
    question: str
    answer: str
    """Text, though ten rows of the training file have a bare number."""
    subset: str
    phrase_type: str

    @property
    def item(self) -> tuple[str, str, str]:
        """What makes two rows the same item: picture, question and answer, word for word."""
        return self.picture, self.question, self.answer


def _index(raw: Path, split: str) -> Path:
    return require(raw, f"{split} file of the community split", f"{split}set.json")


def _pictures(raw: Path, place: str) -> dict[str, str]:
    """Lower-case file name to path under `raw`, or to member of the zip: copies spell .jpg and .JPG."""
    if place.endswith(".zip"):
        return {PurePosixPath(name).name.lower(): name for name in list_zip(raw / place, raw)}
    return {path.name.lower(): relative(path, raw) for path in sorted((raw / place).iterdir())}


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    place, inputs = _FOLDERS[0], []
    if not params["no_images"]:
        candidates = [*_FOLDERS, *(f"{folder}.zip" for folder in _FOLDERS)]
        place = relative(require(raw, "picture folder (--no-images builds without)", *candidates), raw)
        inputs = [place] if place.endswith(".zip") else sorted(_pictures(raw, place).values())
    files = [relative(_index(raw, split), raw) for split in _SPLITS]
    for file, (split, role) in zip(files, _SPLITS.items(), strict=True):
        payload = {"file": file, "pictures": place}
        yield Unit(f"{split}-00000", split, role, len(load_rows(raw / file, raw)), payload, (*files, *inputs))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    file, place = unit.payload["file"], unit.payload["pictures"]
    image = partial(_image, raw, place, {} if params["no_images"] else _pictures(raw, place))
    left_out = _test_items(raw) if unit.split == "train" else None
    frames = not params["paper_variant"]
    for index, row in enumerate(load_rows(raw / file, raw)):
        yield outcome(partial(_sample, row, index, file, image, left_out, frames), file, str(index))


def _test_items(raw: Path) -> dict[tuple[str, str, str], str]:
    """Items of the test file, each with the reason why a training row is left out for it."""
    path = _index(raw, "test")
    items = {}
    for row in load_rows(path, raw):
        with suppress(InputError):  # reported when the test split is read
            items[_fields(row, relative(path, raw)).item] = "also_in_test"
    return items


def _fields(row: Any, file: str) -> _Row:
    picture, kind = text_of(row, "image_name", file), text_of(row, "answer_type", file).strip()
    if not _PICTURE.fullmatch(picture):
        raise InputError("bad_field", file, "image_name is not synpic<number>.jpg")
    if kind not in _SUBSETS:
        raise InputError("bad_field", file, "answer_type is neither CLOSED nor OPEN")
    answer = field_of(row, "answer", file)
    if isinstance(answer, int) and not isinstance(answer, bool):
        answer = str(answer)
    return _Row(
        qid=number_of(row, "qid", file),
        picture=picture,
        question=text_of(row, "question", file),
        answer=checked_text(answer, "answer", file),
        subset=_SUBSETS[kind],
        phrase_type=text_of(row, "phrase_type", file),
    )


def _sample(
    row: Any,
    index: int,
    file: str,
    image: Callable[[str], Image],
    left_out: dict[tuple[str, str, str], str] | None,
    frames: bool,
) -> Sample:
    fields = _fields(row, file)
    if not fields.question.strip():
        raise InputError("empty_question", file)
    if not fields.answer.strip():
        raise InputError("empty_answer", file)
    if left_out is not None:
        if fields.phrase_type == "frame" and not frames:
            raise InputError("phrase_type_frame", file)
        if reason := left_out.get(fields.item):
            raise InputError(reason, file)
        left_out[fields.item] = "duplicate_item"
    return Sample(
        key=str(fields.qid),
        messages=[user(0, fields.question), assistant(fields.answer)],
        file=file,
        row=str(index),
        question=fields.question,
        answer=fields.answer,
        images=[image(fields.picture)],
        group={"question_id": f"vqa-rad/{fields.qid}"},
        subset=fields.subset,
    )


def _image(raw: Path, place: str, pictures: dict[str, str], name: str) -> Image:
    if place.endswith(".zip"):
        member = pictures.get(name, name)
        read = partial(read_zip_member, raw / place, member, raw)
        return Image(f"vqa-rad/{name}", f"{place}!{member}", read)
    path = pictures.get(name, f"{place}/{name}")
    return Image(f"vqa-rad/{name}", path, partial(read_bytes, raw / path, raw))


SOURCE = Source(
    name="vqa_rad",
    title="VQA-RAD: clinicians' questions about 315 radiology pictures",
    homepage="https://osf.io/89kps/",
    revision="community split, as in Nana2929/vqa-rad-with-bert@3e5db51",
    license="CC0-1.0",
    access="open",
    stage="instruct",
    task="vqa",
    modality="image-text",
    splits=_SPLITS,
    obtain="""
Pictures: the folder or zip "VQA_RAD Image Folder" of https://osf.io/89kps/. Questions: the community split of its JSON,
data_rad/{trainset,testset}.json of https://github.com/Nana2929/vqa-rad-with-bert. --raw is a folder with
  trainset.json  testset.json
  VQA_RAD Image Folder/synpic<N>.jpg (or images/ or imgs/, or a .zip of one); not needed with --no-images
(The hub's parquet has no picture names and no question ids, and cannot be used instead.)""",
    reasons={
        "also_in_test": "the same item is in the publisher's test split; nothing to do",
        "phrase_type_frame": "a templated rewording that the 1,793-row set leaves out; nothing to do",
    },
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 3_064, "test": 451},
    paper=(
        "train 1,793 = 3,064 less 1,267 templated (frame), 3 repeated, 1 also in test: --paper-variant. The default "
        "keeps the templated rows; all 203 test pictures are training pictures, so test is for the audit alone."
    ),
    paper_rows=(PaperRow("VQA-Rad", "IT", 1_793, "--paper-variant; the default keeps 1,267 templated rewordings"),),
    options=(PAPER_VARIANT,),
)

if __name__ == "__main__":
    run(SOURCE)
