"""MedReason: 32,682 questions of seven sets with reasoning along knowledge-graph paths.

Some of its sources are test sets, and `dataset_name` with `id_in_dataset`, the row in the source file, tells which rows
came from them (configs/dataset_configs.yml and src/data_generation of UCSC-VLAA/MedReason@02b51f1):

- `MedXpertQA` is row n of the Text config's test split, `Text-n`;
- `MMLU` is row n of mmlu_en_medical.jsonl, which is the test splits of six subjects of cais/mmlu one after the other
  (compared for all 1,089 rows, questions and choices);
- `pubmedqa`, `pubmedqa_labeled` is PubMedQA's pqa_labeled, half of which is its test set; the question tells which half
  where PubMedQA's two files are at hand;
- `LastHumanity` is Humanity's Last Exam.

The default leaves these rows out, each set by a rule of its own; `--paper-variant` keeps all and gives them the ids of
the test questions, so that the id audit finds them. MedQA's split is not named there, so `medqa` rows are kept and have
a namespace of their own: text measures must decide about them.
"""

import json
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from builders import kit

FILE = "ours_quality_33000.jsonl"
FIELDS = ("dataset_name", "id_in_dataset", "question", "answer", "reasoning", "options")
LABELS = "ABCDEFGHIJ"

# Rows of mmlu_en_medical.jsonl, in its order (aistairc/medLLM_QA_benchmark@614599e).
_MMLU_ROWS = {
    "anatomy": 135,
    "clinical_knowledge": 265,
    "college_biology": 144,
    "college_medicine": 173,
    "medical_genetics": 100,
    "professional_medicine": 272,
}
# Where the ids of sets without test questions count, and whose rows they are.
_NAMESPACES = {"medqa": "medreason/medqa/", "medmcqa": "medmcqa/train-row-", "huatuo": "medical-o1-reasoning-sft/en-"}
_PUBMEDQA = {
    "pubmedqa": True,
    "pubmedqa_labeled": True,
    "pubmedqa_l": True,
    "pubmedqa_artificial": False,
    "pubmedqa_a": False,
    "pubmedqa_unlabeled": False,
    "pubmedqa_u": False,
}
"""Names of PubMedQA's three sets (configs, and as later scripts and loaders shorten them); is it the labelled one?"""

_CHOICES = re.compile(r"\s*Answer Choices:\s*")
_XPERT_ANSWER = re.compile(r"\(([A-J])\) ")
_EXPLANATION = re.compile(r"\. Explanation:(?:\s|$)")
_DECISION = re.compile(r"The final decision is: (yes|no|maybe)\.\s*")


class _Origin(NamedTuple):
    group: dict[str, str]
    rule: str = ""
    """Why the default leaves the row out."""


class _PubMedQA(NamedTuple):
    """PubMedQA's labelled questions, as far as they are at hand."""

    pmids: Mapping[str, str]
    """By question."""
    test: frozenset[str]


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    path = kit.require(raw, "MedReason's rows", FILE)
    units = kit.table_units(raw, [path], "train", "train", inputs=_pubmedqa_files(raw))
    yield from kit.with_fields(raw, units, FIELDS)


def _pubmedqa_files(raw: Path) -> list[str]:
    """The two files of PubMedQA, or none."""
    names = ("ori_pqal.json", "test_ground_truth.json")
    found = [
        kit.first_existing(raw, name, f"data/{name}", f"pubmedqa/{name}", f"pubmedqa/data/{name}") for name in names
    ]
    files = [kit.relative(path, raw) for path in found if path]
    if len(files) == 1:
        raise kit.NotThisSource(
            f"{raw}: {files[0]} is of no use alone; put both {' and '.join(names)} there, or neither"
        )
    return files


def _pubmedqa(raw: Path, files: tuple[str, ...]) -> _PubMedQA:
    if not files:
        return _PubMedQA({}, frozenset())
    questions, test = (kit.load_json(raw / file, raw) for file in files)
    try:
        pmids = {_squeezed(fields["QUESTION"]): pmid for pmid, fields in questions.items()}
        return _PubMedQA(pmids, frozenset(test))
    except (AttributeError, KeyError, TypeError):
        raise kit.NotThisSource(f"{files[0]}: not PubMedQA's questions keyed by PMID; is it another file?") from None


def _squeezed(text: str) -> str:
    return " ".join(text.lower().split())


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    known = _pubmedqa(raw, unit.inputs[1:])
    return kit.convert_rows(raw, unit, partial(_sample, known=known, keep_all=bool(params["paper_variant"])))


def _sample(row: kit.Row, known: _PubMedQA, keep_all: bool) -> kit.Sample:
    values, file = row.values, row.file
    name, number = kit.text_of(values, "dataset_name", file), kit.number_of(values, "id_in_dataset", file)
    question, answer, reasoning, listed = (kit.text_of(values, field, file) for field in FIELDS[2:])
    origin = _origin(name, number, question, known, file)
    kit.demand(keep_all or not origin.rule, origin.rule, file, f"{name} {number}")
    for text, reason in ((question, "empty_question"), (answer, "empty_answer"), (reasoning, "empty_reasoning")):
        kit.demand(text.strip(), reason, file, f"{name} {number}")
    stem, options = _options(question, listed, file)
    label, explanation = _gold(answer, options)
    fields: dict[str, Any] = {"reasoning": reasoning, "group": origin.group, "subset": name}
    if label is None:
        # Yes/no options under an answer that is "maybe" or a sentence: asked and answered as an open question.
        return kit.question_answer(row, stem, answer, task="qa", **fields)
    return kit.choice_sample(row, stem, options, label, explanation=explanation, task="mcq", **fields)


def _origin(name: str, number: int, question: str, known: _PubMedQA, file: str) -> _Origin:
    """Whose question it is. An unknown set stops the row: nobody could say whether it is a test set."""
    if name in _NAMESPACES:
        return _Origin({"question_id": f"{_NAMESPACES[name]}{number}"})
    if name == "MedXpertQA":
        return _Origin({"question_id": f"medxpertqa/Text-{number}"}, "from_medxpertqa_test")
    if name == "MMLU":
        return _Origin({"question_id": _mmlu_id(number, file)}, "from_mmlu_test")
    if name == "LastHumanity":
        return _Origin({"question_id": f"medreason/LastHumanity/{number}"}, "from_hle")
    kit.demand(name in _PUBMEDQA, "bad_field", file, "dataset_name is none of MedReason's sets")
    pmid = known.pmids.get(_squeezed(question))
    if pmid is None:
        # A labelled question that is in no list at hand may be a test question.
        rule = "maybe_pubmedqa_test" if _PUBMEDQA[name] else ""
        return _Origin({"question_id": f"medreason/{name}/{number}"}, rule)
    group = {"question_id": f"pubmedqa/{pmid}", "pmid": f"pubmed/{pmid}"}
    return _Origin(group, "from_pubmedqa_test" if pmid in known.test else "")


def _mmlu_id(number: int, file: str) -> str:
    for (subject, rows), end in zip(_MMLU_ROWS.items(), accumulate(_MMLU_ROWS.values()), strict=True):
        if number < end:
            return f"mmlu/{subject}/test/{number - (end - rows)}"
    raise kit.InputError("bad_id", file, f"MMLU row {number} of {end}")


def _options(question: str, listed: str, file: str) -> tuple[str, list[tuple[str, str]]]:
    """The stem without choices, and the choices: of the field (`A. text` a line) or of the question (`(A) text`).

    Two readers of the file allow for JSON in the field (a list of texts, or an object by letters) and for `A) text`.
    """
    stem, *inline = _CHOICES.split(question, maxsplit=1)
    if not listed.strip():
        texts = _inline_choices(inline[0]) if inline else []
    else:
        before, *lines = _CHOICES.split(listed, maxsplit=1)
        headed = (lines and not before) or listed.lstrip().startswith(("[", "{", "A)"))
        kit.demand(headed, "bad_field", file, "options do not begin with Answer Choices:")
        texts = _json_choices(listed) or _line_choices(lines[0] if lines else listed)
        kit.demand(len(texts) >= 2, "bad_field", file, "options are not lines A., B., ...")
    return stem.strip(), list(zip(LABELS, texts, strict=False))


def _json_choices(text: str) -> list[str]:
    """Texts of a JSON list, or of an object whose keys are A, B, ... in that order; none of anything else."""
    try:
        value = json.loads(text) if text.lstrip()[:1] in ("[", "{") else None
    except (ValueError, RecursionError):
        return []
    if isinstance(value, dict) and "".join(value) == LABELS[: len(value)]:
        value = list(value.values())
    if not isinstance(value, list) or len(value) > len(LABELS) or not all(isinstance(text, str) for text in value):
        return []
    return [text.strip() for text in value]


def _line_choices(text: str) -> list[str]:
    """Texts of the lines `A. ...` or `A) ...`, `B. ...`, in that order; other lines continue the choice above them."""
    texts: list[str] = []
    for line in text.splitlines():
        label = LABELS[len(texts) : len(texts) + 1]
        if label and f"{line} ".startswith((f"{label}. ", f"{label}) ")):
            texts.append(line[2:].strip())
        elif texts:
            texts[-1] = f"{texts[-1]}\n{line}".strip()
        elif line.strip():
            return []
    return texts


def _inline_choices(text: str) -> list[str]:
    """Texts of `(A) ... (B) ...`, as MedXpertQA writes them behind the question."""
    texts: list[str] = []
    for label, following in zip(LABELS, [*LABELS[1:], ""], strict=True):
        if not text.startswith(f"({label})"):
            return []
        text = text.removeprefix(f"({label})")
        end = text.find(f"({following})") if following else -1
        texts.append(text[: end if end >= 0 else None].strip())
        if end < 0:
            break
        text = text[end:]
    return texts


def _gold(answer: str, options: list[tuple[str, str]]) -> tuple[str | None, str]:
    """(label, explanation) of an answer; no label where it names no option, or several.

    The forms are those of MedReason's parsers: `text`, `text. Explanation: ...`, `(B) text`, and PubMedQA's decision.
    """
    if decision := _DECISION.match(answer):
        labels = [label for label, text in options if text.lower() == decision[1]]
        return (labels[0] if labels else None), answer[decision.end() :].strip()
    if (marked := _XPERT_ANSWER.match(answer)) and (marked[1], answer[marked.end() :].strip()) in options:
        return marked[1], ""
    text, *explanation = _EXPLANATION.split(answer, maxsplit=1)
    labels = [label for label, option in options if option.strip() == text.strip()]
    return (labels[0] if len(labels) == 1 else None), "".join(explanation).strip()


SOURCE = kit.Source(
    name="medreason",
    title="MedReason: medical questions with knowledge-graph-guided reasoning",
    revision="UCSC-VLAA/MedReason (hub 7fc0ddb), code UCSC-VLAA/MedReason@02b51f1",
    layouts=(kit.Layout("ours_quality_33000.jsonl", "code", "UCSC-VLAA/MedReason@02b51f1"),),
    license="Apache-2.0",
    access="open",
    task="mcq",
    splits={"train": "train"},
    obtain=f"""
  hf download UCSC-VLAA/MedReason --repo-type dataset --local-dir DIR
--raw is the folder with
  {FILE}   JSON Lines; fields {", ".join(FIELDS)}
  ori_pqal.json, test_ground_truth.json   optional, from data/ of https://github.com/pubmedqa/pubmedqa: with them the
      rows of PubMedQA's 500 training questions are kept; without them every row of its labelled set is left out""",
    reasons={
        "from_hle": "made from a question of Humanity's Last Exam, a test set; --paper-variant keeps it",
        "from_medxpertqa_test": "made from a question of MedXpertQA's test split; --paper-variant keeps it",
        "from_mmlu_test": "made from a question of MMLU's test split; --paper-variant keeps it",
        "from_pubmedqa_test": "made from one of PubMedQA's 500 test questions; --paper-variant keeps it",
        "maybe_pubmedqa_test": "half of its set is PubMedQA's test; put PubMedQA's two files beside it, "
        "or --paper-variant",
    },
    plan=_plan,
    version=2,
    read=_read,
    published=lambda params: {"train": 32_682},
    paper=(
        "train 32,682: the whole file, with questions of MedXpertQA's, MMLU's and PubMedQA's test sets and of "
        "Humanity's Last Exam. We leave those out; --paper-variant keeps them, under the ids of the test questions."
    ),
    options=(kit.PAPER_VARIANT,),
    paper_rows=kit.paper_row(
        "MedReason", "IT", 32_682, "rows made from test questions are left out; --paper-variant keeps them"
    ),
    hub_id="UCSC-VLAA/MedReason",
    hub_revision="7fc0ddb80653c839be359ac4496ec6ee00bdd52f",
    hub_files=(FILE,),
)

if __name__ == "__main__":
    kit.run(SOURCE)
