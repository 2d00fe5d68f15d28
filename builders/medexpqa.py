"""MedExpQA: Spanish MIR exam questions with doctors' explanations, in four languages.

The 434 training cases of the paper are the train split of one language; it does not say which, so `--language` does,
English by default. The same cases with the same ids exist in all four: two languages together teach each case twice.

Options are numbered 1 to 5 and keep their numbers as labels, because the explanations speak of "option 3". The fifth is
null in exams with four options, or a bare `NaN`, which is no JSON (files from before the publisher's nan_fix).
`full_answer` is the doctor's commentary; `full_answer_no_ref` is a language model's rewrite of it and `rag` holds
retrieved PubMed and StatPearls passages: neither becomes text.

CasiMedicos-Arg, the same exams cut into labelled tokens, has no ids and other splits, and is not read.
"""

from typing import Any

from builders import kit

LANGUAGES = ("en", "es", "fr", "it")
NAMES = {"train": "train", "validation": "dev", "test": "test"}
LABELS = "12345"
_SPLITS: dict[str, kit.Role] = {"train": "train", "validation": "eval", "test": "eval"}


def _files(params: kit.Params) -> dict[str, tuple[str, ...]]:
    language = params["language"]
    folders = (f"data/{language}/", f"{language}/", "data/casimedicos/", "")
    return {
        split: tuple(f"{folder}{name}.{language}.casimedicos.rag.jsonl" for folder in folders)
        for split, name in NAMES.items()
    }


def _sample(row: kit.Row, question: str, language: str) -> kit.Sample:
    file, key = row.file, str(kit.number_of(row.values, "id", row.file))
    kit.demand(language == row.params["language"], "bad_field", file, f"lang is not {row.params['language']}")
    options = _options(kit.field_of(row.values, "options", file), file)
    correct = kit.index_of(row.values, "correct_option", file, len(LABELS), 1)
    if (explanation := row.values.get("full_answer")) is not None:
        kit.checked_text(explanation, "full_answer", file)
    group = {"question_id": f"medexpqa/{key}"}
    return kit.choice_sample(row, question, options, LABELS[correct], explanation=explanation, key=key, group=group)


def _options(given: Any, file: str) -> list[tuple[str, str]]:
    """(number, text) of the options there are: four or five."""
    if not isinstance(given, dict) or not set(LABELS[:4]) <= given.keys() <= set(LABELS):
        raise kit.InputError("bad_field", file, f"options are not {', '.join(LABELS)}")
    fifth = given.get("5")
    labels = LABELS[:4] if fifth is None or fifth != fifth else LABELS  # NaN alone differs from itself
    return [(label, kit.text_of(given, label, file)) for label in labels]


SOURCE = kit.table_source(
    name="medexpqa",
    title="MedExpQA: Spanish medical residency exams with explanations",
    hub_id="HiTZ/MedExpQA",
    hub_revision="78b57699763e00e38acd550f28de24d8a65f1643",
    revision="HiTZ/MedExpQA (card), hitz-zentroa/MedExpQA@fa92fb621fda",
    layouts=(kit.Layout("JSON Lines of four languages", "code", "hitz-zentroa/MedExpQA@fa92fb6"),),
    license="CC-BY-4.0",
    task="mcq",
    splits=_SPLITS,
    obtain="""
--download --revision SHA, or clone the dataset HiTZ/MedExpQA from https://huggingface.co: the files of --language are
read (en, es, fr, it). Missing splits are left out.""",
    files=_files,
    several=True,
    optional=tuple(_SPLITS),
    layout="python-jsonl",
    fields=("full_question", "lang"),
    sample=_sample,
    published={"train": 434, "validation": 63, "test": 125},
    paper="train 434: the train split of one language, which the paper does not name; English here, see --language.",
    paper_rows=kit.paper_row("MedExpQA", "IT", 434, "one language of four; the paper does not say which"),
    options=(kit.Option("--language", "language of the questions (the cases are the same in each)", "en", LANGUAGES),),
    variant=lambda params: "" if params["language"] == "en" else str(params["language"]),
    hub_files=("data/*/*.casimedicos.rag.jsonl",),
)

if __name__ == "__main__":
    kit.run(SOURCE)
