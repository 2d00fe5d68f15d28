"""MIMIC-CXR-VQA (PhysioNet, MIMIC-Ext-MIMIC-CXR-VQA 1.0.0): templated questions about frontal radiographs.

The set draws its own subject split and never consults the official one of MIMIC-CXR (reference `sources.md`, section 3,
11), so its training rows show subjects on whom findings and impressions are evaluated. The default reading drops the
training rows of every subject who has an official test or validate image; rows built for evaluation stay. The paper
trains on train + valid, 363,598 rows: `--paper-variant` keeps them all. Pictures are read from MIMIC-CXR-JPG.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from builders import kit
from builders.engine.mimic_pictures import Radiograph, mimic_units, radiograph_of, subject_rule

_SPLITS: dict[str, kit.Role] = {"train": "train", "valid": "eval", "test": "eval"}
_FOLDERS = (
    "MIMIC-Ext-MIMIC-CXR-VQA/dataset",
    "dataset",
    "physionet.org/files/mimic-ext-mimic-cxr-vqa/1.*/MIMIC-Ext-MIMIC-CXR-VQA/dataset",
)
_KINDS = frozenset({"verify", "choose", "query"})
_NOTHING = "none"
"""Stands for `[]` in the paper's variant: the program found nothing, or could not tell (generate_answer.py)."""


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    for split, role in _SPLITS.items():
        path = kit.require(raw, f"{split} file", *(f"{folder}/{split}.json" for folder in _FOLDERS))
        trained_on: kit.Role = "train" if params["paper_variant"] and split == "valid" else role
        yield from mimic_units(raw, [path], split, trained_on, params)


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    check = subject_rule(raw, unit, params)
    nothing = _NOTHING if params["paper_variant"] else None
    return kit.convert_rows(raw, unit, partial(_sample, raw, unit, check, nothing))


def _sample(
    raw: Path, unit: kit.Unit, check: Callable[[Radiograph, str], None], nothing: str | None, row: kit.Row
) -> kit.Sample:
    file, values = row.file, row.values
    number, question = kit.number_of(values, "idx", file), kit.text_of(values, "question", file)
    kind, picture = kit.text_of(values, "semantic_type", file), radiograph_of(row)
    kit.demand(kind in _KINDS, "bad_field", file, "semantic_type is none of verify, choose, query")
    stated = [str(kit.field_of(values, name, file)) for name in ("subject_id", "study_id", "image_id")]
    kit.demand(stated == list(picture), "bad_id", file, "subject_id, study_id or image_id is not that of image_path")
    answers = kit.texts_of(values, "answer", file)
    kit.demand(all(map(str.strip, answers)), "bad_field", file, "answer is not a list of texts")
    check(picture, file)
    if not answers and nothing is not None:
        answers = [nothing]
    images, answer = [picture.image(raw, unit.payload["jpg_root"])], ", ".join(answers)
    group = picture.group | {"question_id": f"mimic-cxr-vqa/{unit.split}-{number}"}
    return kit.question_answer(row, question, answer, images, key=str(number), group=group, subset=kind)


SOURCE = kit.Source(
    name="mimic_cxr_vqa",
    title="MIMIC-CXR-VQA: templated questions about frontal radiographs of MIMIC-CXR",
    homepage="https://physionet.org/content/mimic-ext-mimic-cxr-vqa/1.0.0/",
    revision="mimic-ext-mimic-cxr-vqa 1.0.0; counts and fields as in baeseongsu/mimic-cxr-vqa@d69a025",
    layouts=(kit.Layout("three JSON files beside MIMIC-CXR-JPG", "code", "baeseongsu/mimic-cxr-vqa@d69a025"),),
    license="PhysioNet-Credentialed-Health-Data-1.5.0",
    access="credentialed",
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
    published=lambda params: {"train": 290_031, "valid": 73_567, "test": 13_793},
    paper=(
        "363,598 = train 290,031 + valid 73,567, whatever the official split says. We train on train alone, without "
        "subjects of the official test and validate splits and without empty answers; --paper-variant keeps all."
    ),
    paper_rows=kit.paper_row(
        "MIMIC-CXR-VQA",
        "IT",
        363_598,
        "ours is train alone, less subjects with official test or validate images, less empty answers; "
        "--paper-variant trains on train + valid and reads [] as 'none'",
    ),
    options=(kit.PAPER_VARIANT,),
)

if __name__ == "__main__":
    kit.run(SOURCE)
