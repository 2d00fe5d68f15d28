"""MedMCQA: questions of Indian medical entrance exams, four options, most with an expert's explanation.

The correct option `cop` counts from 0 in the hub's Parquet files and from 1 in the JSON files of the GitHub page (its
dataset.py takes `cop - 1`). The files tell which it is, the values never: `data/<split>-*.parquet` is the hub,
`train.json`, `dev.json`, `test.json` are GitHub's. A tree that holds both is refused.

The publisher withholds the answers of the 6,150 test questions (`cop` is -1 or absent): they are rejected as `no_gold`.
Its README swaps the sizes of the two held-out splits; the 4,183 that benchmarks use are the validation split. Text is
kept as it is, OCR damage ("ahritis") included: the same damage is on both sides of a leak. GitHub's licence is MIT, the
hub's tag Apache-2.0.
"""

from __future__ import annotations

import io
import re
import uuid
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builders.engine.rawfiles import checked_text, field_of, text_of, write_demo_file
from builders.engine.source import (
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
    choice_answer,
    choice_prompt,
    user,
)
from builders.engine.tables import Row, convert_rows, table_units

_SPLITS: dict[str, Role] = {"train": "train", "validation": "eval", "test": "eval"}
_JSON_NAMES = {"train": "train.json", "validation": "dev.json", "test": "test.json"}
_JSON_FOLDERS = (".", "data", "medmcqa_data")
_OPTIONS = {"A": "opa", "B": "opb", "C": "opc", "D": "opd"}
_COLUMNS = ("id", "question", *_OPTIONS.values(), "cop", "choice_type", "exp")
_CHOICE_TYPES = frozenset({"single", "multi"})
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _files(raw: Path) -> dict[str, list[Path]]:
    """Split to its files, all of one layout; a split without a file is absent."""
    hub = {split: sorted(raw.glob(f"data/{split}-*.parquet")) for split in _SPLITS}
    github = {
        split: [path for folder in _JSON_FOLDERS if (path := raw / folder / name).is_file()][:1]
        for split, name in _JSON_NAMES.items()
    }
    found = [{split: files for split, files in layout.items() if files} for layout in (hub, github)]
    if all(found):
        raise NotThisSource(f"{raw}: holds the hub's Parquet and GitHub's JSON, whose `cop` differ; keep one of them")
    if not any(found):
        raise NotThisSource(
            f"{raw}: no data/<split>-*.parquet and no {', '.join(_JSON_NAMES.values())} found; "
            "is --raw the right folder?"
        )
    return found[0] or found[1]


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    for split, files in _files(raw).items():
        hub = files[0].suffix == ".parquet"
        yield from table_units(
            raw,
            files,
            split,
            _SPLITS[split],
            columns=_COLUMNS if hub else (),
            # GitHub's .json files hold one object a line; a copy may hold an array of them.
            layout="jsonl" if not hub and _starts_with_object(files[0]) else "",
        )


def _starts_with_object(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(64).lstrip().startswith(b"{")


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    first = 0 if unit.payload["file"].endswith(".parquet") else 1
    return convert_rows(raw, unit, partial(_sample, split=unit.split, first=first))


def _sample(row: Row, split: str, first: int) -> Sample:
    file, values = row.file, row.values
    key, question = text_of(values, "id", file), text_of(values, "question", file)
    if not _ID.fullmatch(key):
        raise InputError("bad_id", file, "id is not a UUID")
    options = [(label, text_of(values, column, file)) for label, column in _OPTIONS.items()]
    kind, explanation = values.get("choice_type"), values.get("exp")
    if kind is not None and kind not in _CHOICE_TYPES:
        raise InputError("bad_field", file, "choice_type is neither single nor multi")
    if explanation is not None:
        checked_text(explanation, "exp", file)
    label, text = options[_correct(values, split, first, file)]
    if not question.strip():
        raise InputError("empty_question", file)
    if not text.strip():
        raise InputError("empty_answer", file)
    return Sample(
        key=key,
        messages=[user(choice_prompt(question, options)), assistant(choice_answer(options, label, explanation))],
        file=file,
        row=row.number,
        question=question,
        options=options,
        answer=label,
        group={"question_id": f"medmcqa/{key}"},
        subset=kind,
    )


def _correct(values: dict[str, Any], split: str, first: int, file: str) -> int:
    """Index of the correct option, whose number counts from `first`."""
    if split == "test" and values.get("cop") in (None, -1):
        raise InputError("no_gold", file)
    correct = field_of(values, "cop", file)
    if not isinstance(correct, int) or isinstance(correct, bool) or not first <= correct < first + len(_OPTIONS):
        raise InputError("bad_field", file, f"cop is not {first} to {first + len(_OPTIONS) - 1}")
    return correct - first


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

PLANTED: dict[str, str] = {
    "validation_in_train": "the ninth train row is the first validation row under another id",
    "other_options": "the fourth and the eighth train rows share a question but no option: two items, not one",
    "mmlu_med": "the last train row is the first question of mmlu_med's anatomy test split",
}
"""What overlaps between the splits of the demo tree, and with other demo trees."""


def demo_rows(split: str) -> list[dict[str, Any]]:
    """Rows of a demo split as the hub has them (GitHub's count `cop` from 1, and leave it out in test.json)."""
    rows = [_demo_row(split, index, _FACTS[index]) for index in _DEMO_FACTS[split]]
    return [*rows, _demo_row(split, 2, _MMLU)] if split == "train" else rows


def _demo_row(split: str, number: int, fact: _Fact) -> dict[str, Any]:
    subject, topic, question, right, others, explanation = fact
    place = number % 4
    options = (*others[:place], right, *others[place:])
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"medmcqa/{split}/{question}/{right}")),
        "question": question,
        **dict(zip(_OPTIONS.values(), options, strict=True)),
        "cop": -1 if split == "test" else place,
        "choice_type": None if split == "validation" else "multi" if number % 3 == 1 else "single",
        "exp": explanation,
        "subject_name": subject,
        "topic_name": topic,
    }


def _write_demo(raw: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = (*_COLUMNS, "subject_name", "topic_name")
    schema = pa.schema([(name, pa.int64() if name == "cop" else pa.string()) for name in names])
    for split in _SPLITS:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(demo_rows(split), schema), buffer)
        write_demo_file(raw / f"data/{split}-00000-of-00001.parquet", buffer.getvalue())


SOURCE = Source(
    name="medmcqa",
    title="MedMCQA: questions of the AIIMS and NEET PG entrance exams",
    homepage="https://huggingface.co/datasets/openlifescienceai/medmcqa",
    revision="openlifescienceai/medmcqa@91c6572, medmcqa/medmcqa@c59ef14ca199",
    license="MIT",
    access="open",
    stage="instruct",
    task="mcq",
    modality="text",
    splits=_SPLITS,
    obtain="""
--download --revision SHA, or clone the dataset openlifescienceai/medmcqa from https://huggingface.co: --raw is then
the folder with
  data/{train,validation,test}-*.parquet                      (cop counts from 0)
Or unpack the zip linked from the README of https://github.com/medmcqa/medmcqa: --raw is the folder with
  train.json  dev.json  test.json, or with data/ or medmcqa_data/ that hold them   (cop counts from 1)
Missing splits are left out. The test split has no answers: its rows are counted and rejected as no_gold.""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 182_822, "validation": 4_183, "test": 6_150},
    paper=(
        "train 182,822, the publisher's train split; benchmark 4,183, its validation split (the 6,150 test questions "
        "have no public answers)."
    ),
    paper_rows=(
        PaperRow("MedMCQA", "IT", 182_822),
        PaperRow("MedMCQA", "EVAL", 4_183, "the publisher's validation split; its test answers are not public"),
    ),
    hub_id="openlifescienceai/medmcqa",
    hub_files=("data/*.parquet",),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
