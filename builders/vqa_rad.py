"""VQA-RAD in the community split: `trainset.json` and `testset.json` over one folder of 315 MedPix pictures.

Training rows are all of trainset.json but those that repeat another's picture, question and answer or stand in the test
file. They show every one of the 203 test pictures: this test split is no held-out benchmark. The paper's variant, the
1,793 rows of its table and of the hub's parquet, also leaves out 1,267 rows of phrase_type `frame` (templated
rewordings), which hides one test picture (202 of 203).
"""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from builders import kit

_SPLITS: dict[str, kit.Role] = {"train": "train", "test": "eval"}
FOLDERS = ("VQA_RAD Image Folder", "images", "imgs")
_PICTURE = re.compile(r"synpic[0-9]+\.jpg")
_SUBSETS = {"CLOSED": "closed", "OPEN": "open"}

Item = tuple[str, str, str]
"""What makes two rows the same item: picture, question and answer, word for word."""


def _index(raw: Path, split: str) -> Path:
    return kit.require(raw, f"{split} file of the community split", f"{split}set.json")


def _place(raw: Path) -> str:
    candidates = [*FOLDERS, *(f"{folder}.zip" for folder in FOLDERS)]
    return kit.relative(kit.require(raw, "picture folder (--no-images builds without)", *candidates), raw)


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    pictures: list[str] = []
    if not params["no_images"]:
        place = _place(raw)
        if place.endswith(".zip"):
            kit.list_zip(raw / place, raw)  # a broken archive stops here, not in a worker
            pictures = [place]
        else:
            pictures = sorted(kit.relative(path, raw) for path in (raw / place).iterdir())
    files = {split: _index(raw, split) for split in _SPLITS}
    for split, path in files.items():
        others = [kit.relative(other, raw) for other in files.values() if other != path]
        yield from kit.table_units(raw, [path], split, _SPLITS[split], inputs=(*others, *pictures))


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    store = kit.PictureStore(raw, [] if params["no_images"] else [_place(raw)])

    def image(name: str) -> kit.Image:
        return kit.Image(f"vqa-rad/{name}", *store.reader(f"{FOLDERS[0]}/{name}"))

    left_out = _test_items(raw) if unit.split == "train" else None
    return kit.convert_rows(raw, unit, partial(_sample, image, left_out, params["paper_variant"]))


def _test_items(raw: Path) -> dict[Item, str]:
    """Items of the test file, each with the reason why a training row is left out for it."""
    items = {}
    for unit in kit.table_units(raw, [_index(raw, "test")], "test", "eval"):
        for row in kit.table_rows(raw, unit):
            with suppress(kit.InputError):  # reported when the test split is read
                if isinstance(row, kit.Row):
                    items[_item(row)] = "also_in_test"
    return items


def _item(row: kit.Row) -> Item:
    """The item of a row; ten rows of the training file have a bare number for an answer."""
    picture, answer = kit.text_of(row.values, "image_name", row.file), kit.field_of(row.values, "answer", row.file)
    kit.demand(_PICTURE.fullmatch(picture), "bad_field", row.file, "image_name is not synpic<number>.jpg")
    if isinstance(answer, int) and not isinstance(answer, bool):
        answer = str(answer)
    return picture, kit.text_of(row.values, "question", row.file), kit.checked_text(answer, "answer", row.file)


def _sample(
    image: Callable[[str], kit.Image], left_out: dict[Item, str] | None, no_frames: bool, row: kit.Row
) -> kit.Sample:
    file, values, item = row.file, row.values, _item(row)
    qid, kind = kit.number_of(values, "qid", file), kit.text_of(values, "answer_type", file).strip()
    phrase_type, (picture, question, answer) = kit.text_of(values, "phrase_type", file), item
    kit.demand(kind in _SUBSETS, "bad_field", file, "answer_type is neither CLOSED nor OPEN")
    group, subset = {"question_id": f"vqa-rad/{qid}"}, _SUBSETS[kind]
    sample = kit.question_answer(row, question, answer, [image(picture)], key=str(qid), group=group, subset=subset)
    if left_out is not None:
        kit.demand(phrase_type != "frame" or not no_frames, "phrase_type_frame", file)
        kit.demand(item not in left_out, left_out.get(item, ""), file)
        left_out[item] = "duplicate_item"
    return sample


SOURCE = kit.Source(
    name="vqa_rad",
    title="VQA-RAD: clinicians' questions about 315 radiology pictures",
    homepage="https://osf.io/89kps/",
    revision="community split, as in Nana2929/vqa-rad-with-bert@3e5db51",
    layouts=(kit.Layout("community split", "rows", "Nana2929/vqa-rad-with-bert@3e5db51"),),
    license="CC0-1.0",
    access="open",
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
    paper_rows=kit.paper_row("VQA-Rad", "IT", 1_793, "--paper-variant; the default keeps 1,267 templated rewordings"),
    options=(kit.PAPER_VARIANT,),
)

if __name__ == "__main__":
    kit.run(SOURCE)
