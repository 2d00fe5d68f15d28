"""MedMCQA: questions of Indian medical entrance exams, four options, most with an expert's explanation.

The correct option `cop` counts from 0 in the hub's Parquet files and from 1 in the JSON files of the GitHub page (its
dataset.py takes `cop - 1`). The files tell which it is, the values never: `data/<split>-*.parquet` is the hub,
`train.json`, `dev.json`, `test.json` are GitHub's. A tree that holds both is refused.

The publisher withholds the answers of the 6,150 test questions (`cop` is -1 or absent): they are rejected as `no_gold`.
Its README swaps the sizes of the two held-out splits; the 4,183 that benchmarks use are the validation split. Text is
kept as it is, OCR damage ("ahritis") included: the same damage is on both sides of a leak. GitHub's licence is MIT, the
hub's tag Apache-2.0.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from builders import kit
from medgpt.text import normalise

SPLITS: dict[str, kit.Role] = {"train": "train", "validation": "eval", "test": "eval"}
OPTIONS = {"A": "opa", "B": "opb", "C": "opc", "D": "opd"}
_TEXTS = ("id", "question", *OPTIONS.values())
COLUMNS = (*_TEXTS, "cop", "choice_type", "exp")
_HUB = {split: f"data/{split}-*.parquet" for split in SPLITS}
_GITHUB = {
    split: (name, f"data/{name}", f"medmcqa_data/{name}")
    for split, name in zip(SPLITS, ("train.json", "dev.json", "test.json"), strict=True)
}
_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    hub = {split: sorted(raw.glob(pattern)) for split, pattern in _HUB.items()}
    github = {split: kit.first_existing(raw, *names) for split, names in _GITHUB.items()}
    if any(hub.values()) and any(github.values()):
        raise kit.NotThisSource(
            f"{raw}: holds the hub's Parquet and GitHub's JSON, whose `cop` differ; keep one of them"
        )
    if not any(hub.values()) and not any(github.values()):
        raise kit.NotThisSource(
            f"{raw}: no data/<split>-*.parquet and no {', '.join(names[0] for names in _GITHUB.values())} found; "
            "is --raw the right folder?"
        )
    for split, role in SPLITS.items():
        yield from kit.table_units(raw, kit.check_parts(hub[split], raw), split, role, columns=COLUMNS)
        if path := github[split]:
            # GitHub's .json files hold one object a line; a copy may hold an array of them.
            yield from kit.table_units(raw, [path], split, role)


def _sample(row: kit.Row, key: str, question: str, *texts: str) -> kit.Sample:
    file, kind, explanation = row.file, row.values.get("choice_type"), row.values.get("exp")
    kit.demand(_ID.fullmatch(key), "bad_id", file, "id is not a UUID")
    kit.demand(kind in (None, "single", "multi"), "bad_field", file, "choice_type is neither single nor multi")
    if explanation is not None:
        kit.checked_text(explanation, "exp", file)
    correct = _correct(row)
    kit.check_filled(file, question=question, answer=texts[correct])
    options = list(zip(OPTIONS, texts, strict=True))
    if len({normalise(text) for text in texts}) < len(texts):
        twice = sum(normalise(text) == normalise(texts[correct]) for text in texts) > 1
        row.note("repeated_options", sample_id=f"medmcqa/{row.split}/{key}", gold=twice)
    (label, _), group = options[correct], {"question_id": f"medmcqa/{key}"}
    return kit.choice_sample(row, question, options, label, explanation=explanation, key=key, group=group, subset=kind)


def _correct(row: kit.Row) -> int:
    """Index of the correct option, whose number counts from 0 at the hub and from 1 at GitHub."""
    kit.demand(row.split != "test" or row.values.get("cop") not in (None, -1), "no_gold", row.file)
    return kit.index_of(row.values, "cop", row.file, len(OPTIONS), 0 if row.file.endswith(".parquet") else 1)


SOURCE = kit.table_source(
    name="medmcqa",
    title="MedMCQA: questions of the AIIMS and NEET PG entrance exams",
    hub_id="openlifescienceai/medmcqa",
    hub_revision="91c6572c454088bf71b679ad90aa8dffcd0d5868",
    hub_moved=("medmcqa",),
    revision="openlifescienceai/medmcqa@91c6572, medmcqa/medmcqa@c59ef14ca199",
    layouts=(
        kit.Layout(
            "the hub's Parquet, cop from 0", "rows", "TsinghuaC3I/MedXpertQA@f21247d (validation)", files="*.parquet"
        ),
        kit.Layout("GitHub's JSON, cop from 1", "code", "medmcqa/medmcqa@c59ef14", files="*.json"),
    ),
    license="MIT",
    task="mcq",
    splits=SPLITS,
    obtain="""
--download --revision SHA, or clone the dataset openlifescienceai/medmcqa from https://huggingface.co (Parquet, cop
counts from 0). Or unpack the zip linked from the README of https://github.com/medmcqa/medmcqa (JSON, cop counts from
1). Missing splits are left out. The test split has no answers: its rows are counted and rejected as no_gold.""",
    reasons={"no_gold": "the publisher keeps the answer of this row to itself; nothing to do"},
    files={split: (_HUB[split], *_GITHUB[split]) for split in SPLITS},
    fields=_TEXTS,
    columns=COLUMNS[len(_TEXTS) :],
    plan=_plan,
    version=2,
    conclude=kit.noticed(
        repeated_options="{rows} questions list one option twice; the audit repeated_options names them, and says of "
        "which it is the right one"
    ),
    sample=_sample,
    published={"train": 182_822, "validation": 4_183, "test": 6_150},
    paper=(
        "train 182,822, the publisher's train split; benchmark 4,183, its validation split (the 6,150 test questions "
        "have no public answers)."
    ),
    paper_rows=(
        kit.PaperRow("MedMCQA", "IT", 182_822),
        kit.PaperRow("MedMCQA", "EVAL", 4_183, "the publisher's validation split; its test answers are not public"),
    ),
    hub_files=("data/*.parquet",),
)

if __name__ == "__main__":
    kit.run(SOURCE)
