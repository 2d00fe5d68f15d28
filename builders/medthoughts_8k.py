"""MedThoughts-8K: DeepSeek-R1's reasoning on 7,716 MedQA US training questions, with five options.

Stems and options are verbatim MedQA; the publisher left out the rows in which R1 chose wrongly. As in its own converter
(hwei-hw/MedR1, utils/build_sft.py) the target is the gold option; `ds_answer`, R1's wording of it, is not used.
`question_id` is not known to be a line number of MedQA's file, so it has a namespace of its own: the overlap with
`medqa` is found by text, not by id.
"""

import re

from builders import kit

FILE = "MedThoughts-8K.jsonl"
LABELS = "ABCDE"
SPLIT = "MedQA/US/train"
_ID = re.compile(r"[A-Za-z0-9_\-]+")


def _sample(row: kit.Row, question: str, answer: str, reasoning: str, split: str) -> kit.Sample:
    number = kit.id_of(row.values, "question_id", row.file)
    kit.demand(_ID.fullmatch(number), "bad_id", row.file, "question_id")
    if split != SPLIT:
        # Rows of another split of MedQA would be test questions.
        raise kit.InputError("bad_field", row.file, f"source is not {SPLIT}")
    kit.check_filled(row.file, question=question, reasoning=reasoning)
    options = kit.lettered(kit.field_of(row.values, "options", row.file), LABELS, row.file)
    group = {"question_id": f"medthoughts-8k/{number}"}
    return kit.choice_sample(row, question, options, answer, reasoning=reasoning, key=number, group=group)


SOURCE = kit.table_source(
    name="medthoughts_8k",
    title="MedThoughts-8K: DeepSeek-R1's reasoning on MedQA US training questions",
    hub_id="hw-hwei/MedThoughts-8K",
    hub_moved=("HaoWeiCUHK/MedThoughts-8K",),
    revision="hw-hwei/MedThoughts-8K (hub tree 423360b), hwei-hw/MedR1 build_sft.py",
    layouts=(kit.Layout("MedThoughts-8K.jsonl", "card", "hw-hwei/MedThoughts-8K@423360b"),),
    license="GPL-3.0",
    task="mcq",
    obtain="""
  hf download hw-hwei/MedThoughts-8K --repo-type dataset --local-dir DIR
Its licence, GPL-3.0, is unusual for data: --licenses leaves it out where that is unwelcome.""",
    files={"train": FILE},
    fields=("question", "answer_idx", "ds_think", "source"),
    values=("question_id", "options"),
    sample=_sample,
    published={"train": 7_716},
    paper="train 7,716: the publisher's file (GPL-3.0). Its questions repeat MedQA's training questions word for word.",
    paper_rows=kit.paper_row("MedThoughts-8K", "IT", 7_716),
)

if __name__ == "__main__":
    kit.run(SOURCE)
