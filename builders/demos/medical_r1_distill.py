"""The demo tree of `builders.medical_r1_distill`."""

from builders import kit
from builders.demos.huatuo_o1 import DEMO_PROBLEMS

PLANTED = {"subset": "the questions of medical_r1_distill/train/0 to 5 are those of huatuo_o1/train/4 to 9"}


def files() -> kit.Files:
    answers = [
        (
            question,
            f"Okay, let's see. The question is about this: {question.split('.')[0]}.\n\n"
            f"Several causes fit at first; on reflection {answer} is the one that explains everything.",
            f"The answer is **{answer}**.\n\nIt accounts for the findings, and the alternatives do not.",
        )
        for question, answer in DEMO_PROBLEMS[4:]
    ]
    asked = "What is the first-line treatment of scabies in a nursing home outbreak?"
    answers.append((asked, "", "Permethrin 5 % cream for all residents and staff."))
    answers.append((asked, "Okay, the user asks about an outbreak.", " "))
    names = ("question", "reasoning (reasoning_content)", "response (content)")
    return {"medical_r1_distill_sft.json": [dict(zip(names, texts, strict=True)) for texts in answers]}
