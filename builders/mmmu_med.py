"""MMMU-Med: the five Health & Medicine subjects of MMMU, dev and validation, 25 + 150 questions.

The paper's "MMMU-Med (dev), 175" is this sum (reference `sources.md`, section 3, 16). Five validation questions are
open: they stay, as task `vqa`, so that whoever scores multiple choice alone says over how many. `<image i>` in a
question or an option stands for column `image_i`, whatever the order of the tokens. `question_sample` serves
`mmmu_pro_med` too.
"""

from builders import kit
from builders.engine.mmmu import IMAGE_COLUMNS, SUBJECTS, question_sample

_SPLITS: dict[str, kit.Role] = {"dev": "eval", "validation": "eval"}
_OPEN = {"multiple-choice": False, "open": True}


def _sample(row: kit.Row, key: str, question: str, answer: str, kind: str) -> kit.Sample:
    kit.demand(kind in _OPEN, "bad_field", row.file, "question_type is neither multiple-choice nor open")
    return question_sample(row, "mmmu", row.file.split("/")[-2], open_ended=_OPEN[kind])


SOURCE = kit.table_source(
    name="mmmu_med",
    title="MMMU-Med: Health & Medicine of MMMU, dev and validation",
    revision="MMMU/MMMU, main; ids and question types as in MMMU-Benchmark/MMMU@bb0b95a",
    layouts=(kit.Layout("Parquet of five subjects", "code", "MMMU-Benchmark/MMMU@bb0b95a"),),
    license="Apache-2.0",
    stage="eval",
    task="mcq",
    modality="image-text",
    splits=_SPLITS,
    obtain="Fetch the folders of the five subjects from the hub's MMMU/MMMU; --download does it.",
    files={split: [f"{subject}/{split}-*.parquet" for subject in SUBJECTS] for split in _SPLITS},
    several=True,
    fields=("id", "question", "answer", "question_type"),
    values=("options",),
    columns=IMAGE_COLUMNS,
    sample=_sample,
    published={"dev": 25, "validation": 150},
    paper="175 = dev 25 + validation 150; five of the validation questions are open (task vqa).",
    paper_rows=kit.paper_row(
        "MMMU-Med (dev)", "EVAL", 175, "dev 25 + validation 150, of which 5 are open questions (task vqa)"
    ),
    hub_id="MMMU/MMMU",
    hub_revision="98e6ac0cb9b7b2cd2c991b85a50762edc4aedc68",
)

if __name__ == "__main__":
    kit.run(SOURCE)
