"""Answers by content across runs (`eval.run --answer-cache DIR`): what a model was asked before is not asked again.

    DIR/<SHA-256 of the adapter's identity>.jsonl    one line an answer, as in a run's answers.jsonl

The identity holds the weights (digest of a local folder; name and commit at a server), the card, decoding, device and
batch. A line's key is the SHA-256 of all else that shapes an answer: turns, picture digests, options, limits. The task,
the sample's name and the build's version are none of it. Only answers are kept: what was refused is asked again.

A taken answer has `cached: true`, so that nobody counts its tokens or its time for this run.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import orjson

from eval.adapters.base import ANSWERED, Adapter, Answer, Keep, Request
from eval.answers import AnswerLog
from medgpt.errors import UserError
from medgpt.messages import complain
from medgpt.private import CREDENTIALED, make_folder

_SHAPES_NOTHING = frozenset({"task", "benchmark", "question"})
"""Fields of a request that are no part of the key; the question is in it by its prompt's digest and its options."""


class Cached(Adapter):
    """An adapter whose answers are looked up first, and kept."""

    def __init__(self, inner: Adapter, folder: Path) -> None:
        """`folder` is made when the first question comes. Raises: `UserError` for a served model without a commit."""
        self._inner, self._folder = inner, folder
        identity = inner.identity()
        if "checkpoint_sha256" not in identity and not identity["card"]["revision"]:
            raise UserError(
                "--answer-cache: nothing says which weights the server has, so answers of other weights might be "
                "taken; give --revision COMMIT"
            )
        self._name = hashlib.sha256(orjson.dumps(identity, option=orjson.OPT_SORT_KEYS)).hexdigest()
        self._counts: dict[str, int] = {"from the answer cache": 0}

    def identity(self) -> dict[str, Any]:
        """That of the model: a cache shapes no answer."""
        return self._inner.identity()

    def prepare(self, access: Mapping[str, str]) -> None:
        """As the model's adapter does."""
        self._inner.prepare(access)

    def statistics(self) -> dict[str, int]:
        """The model's counts and how many answers were taken, and how many could not be kept."""
        return self._inner.statistics() | self._counts

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Give the known answers, ask for the others and keep them. Raises: `AnswerError`, and as the model's does."""
        try:
            make_folder(self._folder)
        except OSError as error:
            raise UserError(f"--answer-cache {self._folder}: cannot be written ({error.strerror})") from error
        with AnswerLog(self._folder / f"{self._name}.jsonl") as log:
            if log.torn:
                complain(f"{log.path}: a torn last line was dropped; its question is asked again")
            private = _owners_alone(log.path)

            def unknown() -> Iterator[Request]:
                for request in requests:
                    if (found := log.get(_key(request))) is None:
                        yield request
                    else:
                        self._counts["from the answer cache"] += 1
                        kept = {name: getattr(found[1], name) for name in Answer.__struct_fields__}
                        keep(request, Answer(**kept | {"cached": True, "seconds": None}))

            def keep_both(request: Request, answer: Answer) -> None:
                keep(request, answer)
                if answer.outcome != ANSWERED:
                    return
                if request.question.access == CREDENTIALED and not private:
                    # A file system without modes, or a folder of someone else.
                    name = "credentialed answers not cached: the file is open to others"
                    self._counts[name] = self._counts.get(name, 0) + 1
                else:
                    log.add(_key(request), request.prompt_sha256, answer)

            try:
                self._inner.answer(unknown(), keep_both)
            finally:
                log.sync()


def _key(request: Request) -> str:
    shaping = {entry.name: getattr(request, entry.name) for entry in fields(request)}
    parts = {name: value for name, value in shaping.items() if name not in _SHAPES_NOTHING}
    parts["options"] = request.question.options
    return hashlib.sha256(orjson.dumps(parts, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _owners_alone(path: Path) -> bool:
    status = path.stat()
    return status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) == stat.S_IRUSR | stat.S_IWUSR
