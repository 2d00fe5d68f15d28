"""What an adapter is: it turns questions into answers, in any order, and says what it did.

An adapter decides nothing about scores. What it could not get is an answer with an outcome of its own, so that every
question ends as a record and none is dropped.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from eval.records import ANSWERED, NO_COMPLETION, NOT_COMPARABLE, OUTCOMES, REFUSED, TOO_MANY_IMAGES, Answer
from eval.tasks import Question
from medgpt.errors import NOT_FINISHED, UserError

__all__ = [
    "ANSWERED", "NOT_COMPARABLE", "NO_COMPLETION", "OUTCOMES", "REFUSED", "TOO_MANY_IMAGES",
    "Adapter", "AdapterError", "Answer", "Keep", "Request", "prompt_digest",
]  # fmt: skip


class AdapterError(UserError):
    """One line: the model or the file gives no answer; those that it gave are kept."""

    exit_code = NOT_FINISHED


@dataclass(frozen=True)
class Request:
    """One question on its way to a model."""

    task: str
    """Label of the task."""
    benchmark: str
    """Root digest of the build: the version of the benchmark."""
    question: Question
    max_new_tokens: int
    prompt_sha256: str
    """Digest of turns and pictures (`prompt_digest`), hexadecimal."""
    draw: int = 0
    """Which of several answers to the question; it is added to the card's seed."""


Keep = Callable[[Request, Answer], None]
"""Stores an answer; when it returns, the answer survives `kill -9`."""


class Adapter(ABC):
    """Answers questions."""

    _counts: Mapping[str, int] = MappingProxyType({})

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Everything that shapes an answer (model, revision, decoding), as JSON: two runs with equal ones compare."""

    @abstractmethod
    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Answer all requests, calling `keep` once for each, as soon as its answer is there.

        Raises: `AdapterError`; what was kept until then stays.
        """

    def prepare(self, access: Mapping[str, str]) -> None:
        """Refuse before the first question what must not be: `access` maps each source to its access.

        Raises: `AdapterError`, or `medgpt.endpoints.EndpointRefused` for credentialed data.
        """
        del access

    def statistics(self) -> dict[str, int]:
        """Counts for the end of a run: requests, retries, tokens."""
        return dict(self._counts)


def prompt_digest(messages: Sequence[Mapping[str, Any]], pictures: Sequence[str]) -> str:
    """SHA-256 (hexadecimal) of turns and of the pictures' SHA-256: what was asked, apart from how it was decoded."""
    parts = [list(messages), list(pictures)]
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()
