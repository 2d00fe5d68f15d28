"""What of a test item is looked for in training texts, and what is said of a pair (`near_text`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from manifests.proof.evidence import LEVELS

KINDS = LEVELS["near_text"]
NAMED = 25
"""Test items named with one training text for one passage or stem; `eval_df` says how many there are."""


@dataclass(frozen=True)
class EvalText:
    """What of a test item is looked for."""

    question: str
    """The stem; empty where there is none that means anything by itself."""
    answer: str
    """The gold answer."""
    passages: tuple[str, ...]
    """Texts of which a long part must not be found: the stem too, a note, a report. Options are none."""
    group: str = ""
    """Items of one group share a template: what more than half of them hold is no passage. Empty: no such group."""
    together: str = ""
    """Of a text without a question, the patient or article that it is of. Empty: not known, or there is a question."""
    private: bool = False
    """Its words must not be shown."""


class TextMatch(NamedTuple):
    """One pair and how it overlaps."""

    train: int
    """Position in the texts given to `scan`, over all batches."""
    eval: int
    """Position in the texts given to the index."""
    kind: str
    """One of `KINDS`."""
    score: float
    """Share of the stem's runs of letters found; passage: share of its words in shared runs. Four places."""
    words: int
    """Words of the stem in shared pairs; passage: of the longest shared run."""
    span: str | None
    """passage: the longest shared run."""
    eval_df: int
    """Test items that have the same stem; passage: the rarest n-gram of that run."""
