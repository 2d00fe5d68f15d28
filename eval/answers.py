"""Answers on disk while a run goes on: an append-only file a task, one JSON line an answer.

A line is written with one call as soon as its answer is there, so `kill -9` loses at most the answers still under way,
and no answered question is asked again. A torn last line is dropped, and said, when the file is opened again; damage
elsewhere is an error. One process writes at a time (held by a lock).
"""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from eval.adapters.base import OUTCOMES, Answer
from medgpt.atomic import flock, sync_folder
from medgpt.errors import NOT_FINISHED, UserError
from medgpt.limited import read_file

ANSWERS = "answers.jsonl"


class AnswerError(UserError):
    """One line: an answer file is damaged, in use, or cannot be written."""

    exit_code = NOT_FINISHED


class _Line(Answer, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An answer in its file; fields that have their default are left out: most lines are short."""

    sample_id: str
    prompt_sha256: str
    draw: int = 0


class AnswerLog:
    """The answers of one task, read on opening and appended to afterwards. A context."""

    def __init__(self, path: Path) -> None:
        """Open or make the file. Raises: `AnswerError`."""
        self.path = path
        self.torn = 0
        """Bytes of a torn last line that were dropped."""
        self._answers: dict[tuple[str, int], tuple[str, Answer]] = {}
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise AnswerError(f"{path}: cannot be opened ({error.strerror})") from error
        try:
            flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AnswerError(f"{path}: another run is writing here; wait for it or choose another folder") from None
        sync_folder(path.parent)
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def _read(self) -> None:
        data = read_file(self.path)
        *lines, rest = data.split(b"\n")
        decoder = msgspec.json.Decoder(_Line)
        for number, line in enumerate(lines, 1):
            try:
                entry = decoder.decode(line)
                if entry.outcome not in OUTCOMES:
                    raise ValueError
            except (ValueError, RecursionError):  # msgspec's errors are of the first kind
                raise AnswerError(
                    f"{self.path}: line {number} is damaged; delete that line, and its question is asked again"
                ) from None
            self._answers[entry.sample_id, entry.draw] = entry.prompt_sha256, entry
        if rest:
            self.torn = len(rest)
            os.ftruncate(self._descriptor, len(data) - len(rest))

    def __len__(self) -> int:
        return len(self._answers)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        return iter(self._answers)

    def get(self, sample_id: str, draw: int = 0) -> tuple[str, Answer] | None:
        """(digest of the prompt, answer) of a question, if it was answered; the last answer counts."""
        return self._answers.get((sample_id, draw))

    def add(self, sample_id: str, prompt_sha256: str, answer: Answer, draw: int = 0) -> None:
        """Append an answer; it is safe from `kill -9` on return. Raises: `AnswerError`."""
        said = msgspec.structs.asdict(answer)
        kept = _Line(sample_id=sample_id, prompt_sha256=prompt_sha256, draw=draw, **said)
        line = msgspec.json.encode(kept) + b"\n"
        before = os.fstat(self._descriptor).st_size
        try:
            written = os.write(self._descriptor, line)
        except OSError as error:
            written, reason = 0, error.strerror
        else:
            reason = "not written whole; is the disk full?"
        if written != len(line):
            # Half a line in the middle would be damage, so it is taken back.
            os.ftruncate(self._descriptor, before)
            raise AnswerError(f"{self.path}: an answer cannot be written ({reason})")
        self._answers[sample_id, draw] = prompt_sha256, answer

    def sync(self) -> None:
        """Make everything added safe from a loss of power, too."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
