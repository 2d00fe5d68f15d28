"""PubMedQA, the 1,000 questions labelled by experts (PQA-L), in the layout of the publisher's repository.

`ori_pqal.json` holds all 1,000 questions and `test_ground_truth.json` names the 500 that are the test set: "1,000 for
training, 500 for testing" trains on every test question. Here train is the other 500. Prompt: the abstract without its
conclusion, then the question (the publisher's reasoning-required setting); target: the conclusion, then the label.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from builders import kit

_SPLITS: dict[str, kit.Role] = {"train": "train", "test": "eval"}
_OPTIONS = [("A", "yes"), ("B", "no"), ("C", "maybe")]
_LABELS = {text: label for label, text in _OPTIONS}


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it is written: a key that is repeated is here twice."""


@dataclass(frozen=True)
class _Entry:
    """One row of a split: an entry of a file, with what is already known to be wrong with it."""

    split: str
    file: str
    pmid: str
    position: int
    fields: Any
    truth: Any
    """The label in `test_ground_truth.json`, for rows of the test split."""
    fault: kit.InputError | None

    @property
    def row(self) -> str:
        """How messages name the row: its PMID, or its position where the PMID is not one."""
        return self.pmid if _is_pmid(self.pmid) else f"#{self.position}"


def _is_pmid(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9


def _paths(raw: Path) -> tuple[Path, Path]:
    return (
        kit.require(raw, "PubMedQA questions", "data/ori_pqal.json", "ori_pqal.json"),
        kit.require(raw, "list of test PMIDs", "data/test_ground_truth.json", "test_ground_truth.json"),
    )


def _load(path: Path, raw: Path) -> _Pairs:
    pairs = kit.load_json(path, raw, _Pairs)
    if not isinstance(pairs, _Pairs):
        raise kit.NotThisSource(
            f"{kit.relative(path, raw)}: not an object keyed by PMID; is it another file of that name?"
        )
    return pairs


def _entries(raw: Path, split: str, params: kit.Params) -> list[_Entry]:
    """Rows of one split, in the order of the files: each entry of either file is a row of some split.

    Of a repeated PMID the first entry counts. Test PMIDs without a question come last.
    """
    questions_path, truth_path = _paths(raw)
    questions, truths = _load(questions_path, raw), _load(truth_path, raw)
    truth = dict(reversed(truths))
    entries: list[_Entry] = []
    file, known = kit.relative(questions_path, raw), set[str]()
    for position, (pmid, fields) in enumerate(questions):
        if (pmid in truth) == (split == "test") or (split == "train" and params["paper_variant"]):
            fault = kit.InputError("duplicate_id", file) if pmid in known else None
            entries.append(_Entry(split, file, pmid, position, fields, truth.get(pmid), fault))
        known.add(pmid)
    if split == "test":
        file, named = kit.relative(truth_path, raw), set[str]()
        for position, (pmid, label) in enumerate(truths):
            if pmid in named or pmid not in known:
                missing = kit.InputError("missing_field", file, "not among the questions")
                fault = kit.InputError("duplicate_id", file) if pmid in named else missing
                entries.append(_Entry(split, file, pmid, position, None, label, fault))
            named.add(pmid)
    return entries


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    files = [kit.relative(path, raw) for path in _paths(raw)]
    for split, role in _SPLITS.items():
        rows = len(_entries(raw, split, params))
        yield kit.Unit(f"{split}-00000", split, role, rows, {"files": files}, tuple(files))


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    for entry in _entries(raw, unit.split, params):
        yield kit.outcome(partial(_sample, entry), entry.file, entry.row)


def _sample(entry: _Entry) -> kit.Sample:
    file = entry.file
    kit.demand(_is_pmid(entry.pmid), "bad_id", file, "the key is not a PMID")
    if entry.fault:
        raise entry.fault
    if not isinstance(entry.fields, _Pairs):
        raise kit.InputError("bad_row", file, "not an object")
    row = dict(entry.fields)
    kit.demand(len(row) == len(entry.fields), "bad_row", file, "a field is repeated")
    question, conclusion = kit.text_of(row, "QUESTION", file), kit.text_of(row, "LONG_ANSWER", file)
    contexts = kit.texts_of(row, "CONTEXTS", file)
    kit.demand(contexts, "bad_field", file, "CONTEXTS is an empty list")
    decision = kit.text_of(row, "final_decision", file)
    kit.demand(decision in _LABELS, "bad_field", file, "final_decision is none of yes, no, maybe")
    if entry.split == "test" and entry.truth != decision:
        raise kit.InputError("bad_field", file, "final_decision differs from test_ground_truth.json")
    kit.check_filled(file, question=question, answer=conclusion)
    return kit.Sample(
        key=entry.pmid,
        messages=[
            kit.user(kit.choice_prompt("\n\n".join([*contexts, f"Question: {question}"]), _OPTIONS)),
            kit.assistant(f"{conclusion}\n\nAnswer: {decision}"),
        ],
        file=file,
        row=entry.row,
        question=question,
        options=_OPTIONS,
        answer=_LABELS[decision],
        group={"pmid": f"pubmed/{entry.pmid}", "question_id": f"pubmedqa/{entry.pmid}"},
    )


SOURCE = kit.Source(
    name="pubmedqa",
    title="PubMedQA, expert-labelled (PQA-L): yes/no/maybe questions about PubMed abstracts",
    homepage="https://github.com/pubmedqa/pubmedqa",
    revision="pubmedqa/pubmedqa@1cbae8e92f72",
    layouts=(kit.Layout("two JSON files", "rows", "pubmedqa/pubmedqa@1cbae8e"),),
    license="MIT",
    access="open",
    task="mcq",
    splits=_SPLITS,
    obtain="""
  git clone https://github.com/pubmedqa/pubmedqa
--raw is the checkout, or a folder with the two files that are read:
  data/ori_pqal.json            1,000 questions keyed by PMID
  data/test_ground_truth.json   500 PMIDs with their labels
(The hub's parquet of pqa_labeled has no test split and cannot be used instead.)""",
    plan=_plan,
    read=_read,
    published=lambda params: {"train": 1000 if params["paper_variant"] else 500, "test": 500},
    paper=(
        "train 1,000, benchmark 500. The 500 are half of the 1,000, so that recipe trains on every test question; we "
        "train on the other 500. --paper-variant reproduces the 1,000."
    ),
    options=(kit.PAPER_VARIANT,),
    paper_rows=(
        kit.PaperRow(
            "PubMedQA", "IT", 1_000, "holds all 500 test questions: --paper-variant; the default has the others"
        ),
        kit.PaperRow("PubMed QA", "EVAL", 500),
    ),
)

if __name__ == "__main__":
    kit.run(SOURCE)
