"""HuatuoGPT-o1's verifiable problems: exam questions rewritten to be open-ended, with a short answer.

The recipe marks its row as a reasoning set, but its count, 40,644, is this file's, which has no chain of thought (the
set with one, medical-o1-reasoning-SFT, is smaller). The rows carry no ids, and being rewrites they share no exact text
with the MedQA and MedMCQA questions they come from: only fuzzy text measures can tell.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from builders.engine.rawfiles import require, text_of, write_demo_file
from builders.engine.source import PaperRow, Params, Reject, Sample, Source, Unit
from builders.engine.tables import Row, convert_rows, question_answer, table_units, with_fields

FILE = "medical_o1_verifiable_problem.json"
_QUESTION, _ANSWER = "Open-ended Verifiable Question", "Ground-True Answer"


def _plan(raw: Path, params: Params) -> Iterator[Unit]:
    path = require(raw, "verifiable problems", FILE)
    yield from with_fields(raw, table_units(raw, [path], "train", "train"), (_QUESTION, _ANSWER))


def _read(raw: Path, unit: Unit, params: Params) -> Iterator[Sample | Reject]:
    return convert_rows(raw, unit, _sample)


def _sample(row: Row) -> Sample:
    question, answer = (text_of(row.values, name, row.file) for name in (_QUESTION, _ANSWER))
    return question_answer(row, question, answer)


# Made up. Later rows are medical_r1_distill's too, as the publisher's two files overlap.
DEMO_PROBLEMS = (
    (
        "A 31-year-old climber returns from altitude with a dry cough that turned frothy overnight. "
        "Which complication of ascent explains her symptoms?",
        "High-altitude pulmonary oedema",
    ),
    (
        "Which vitamin is given to a newborn on the first day to prevent bleeding from the umbilical stump?",
        "Vitamin K",
    ),
    ("Name the nerve that is at risk when the lateral wall of the axilla is explored.", "Musculocutaneous nerve"),
    (
        "Une éruption bulleuse apparaît sous soleil chez un homme de 52 ans. What enzyme is deficient in his liver?",
        "Uroporphyrinogen decarboxylase",
    ),
    (
        "A 6-year-old with ahritis of one knee had a tick bite in July. Which organism is the likely cause?",
        "Borrelia burgdorferi",
    ),
    (
        "Which drug reverses the effect of dabigatran in a patient who needs urgent surgery for a ruptured spleen?",
        "Idarucizumab",
    ),
    (
        "A potter develops progressive breathlessness; his film shows eggshell calcification of hilar nodes. "
        "Which dust did he inhale?",
        "Crystalline silica",
    ),
    (
        "During a hernia repair the surgeon identifies vessels lateral to Hesselbach's triangle. Which are they?",
        "Inferior epigastric vessels",
    ),
    (
        "Which electrolyte abnormality follows rapid refeeding of a malnourished adult and may stop the diaphragm?",
        "Hypophosphataemia",
    ),
    (
        "A beekeeper's tryptase stays high between stings. Which clonal disorder should be looked for?",
        "Systemic mastocytosis",
    ),
)

PLANTED: dict[str, str] = {
    "subset": "huatuo_o1/train/4 to 9 ask the questions of medical_r1_distill/train/0 to 5",
}
"""What overlaps between this demo tree and others."""


def _write_demo(raw: Path) -> None:
    rows = [{_QUESTION: question, _ANSWER: answer} for question, answer in DEMO_PROBLEMS]
    rows.append({_QUESTION: "Which cranial nerve carries taste from the epiglottis?", _ANSWER: ""})
    write_demo_file(raw / FILE, json.dumps(rows, ensure_ascii=False, indent=2).encode())


SOURCE = Source(
    name="huatuo_o1",
    title="Medical-o1 verifiable problems (HuatuoGPT-o1): open-ended exam questions with a short answer",
    homepage="https://huggingface.co/datasets/FreedomIntelligence/medical-o1-verifiable-problem",
    revision="FreedomIntelligence/medical-o1-verifiable-problem, hub trees 46d5175 and fc2c9e8",
    license="Apache-2.0",
    access="open",
    stage="instruct",
    task="qa",
    modality="text",
    splits={"train": "train"},
    obtain=f"""
  hf download FreedomIntelligence/medical-o1-verifiable-problem --repo-type dataset --local-dir DIR
--raw is the folder with
  {FILE}   a JSON array; fields "{_QUESTION}" and "{_ANSWER}"
(medical-o1-reasoning-SFT is another set and is not read.)""",
    plan=_plan,
    read=_read,
    write_demo=_write_demo,
    published=lambda params: {"train": 40_644},
    paper=(
        'train 40,644, marked "(R)": question and short answer, no chain of thought. The publisher says that only '
        "train splits were rewritten, yet 3 of the 198 pairs of its demo_data.json are MedMCQA validation questions; "
        "rows have no ids, so only fuzzy text measures find such rows."
    ),
    paper_rows=(
        PaperRow("Huotuo-o1", "IT", 40_644, "the file of that count has no chain of thought, though marked (R)"),
    ),
    hub_id="FreedomIntelligence/medical-o1-verifiable-problem",
    hub_files=(FILE,),
)

if __name__ == "__main__":
    from builders.engine.command import main

    raise SystemExit(main(SOURCE))
