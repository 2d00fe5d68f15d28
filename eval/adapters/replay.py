"""Answers from predictions files: score again, with other rules or other metrics, what a model once said."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.adapters.base import Adapter, AdapterError, Answer, Keep, Request
from eval.records import Prediction, read_predictions, task_label
from medgpt.errors import UserError


class Replay(Adapter):
    """What predictions files (`predictions.jsonl` of `eval.run`) hold, by task and sample."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Read the files. Raises: `UserError` for a damaged line or an item that occurs twice."""
        self._answers: dict[tuple[str, str], Prediction] = {}
        digest = hashlib.sha256()
        for path in paths:
            for prediction in read_predictions(path):
                key = task_label(prediction.task, prediction.variant), prediction.sample_id
                if key in self._answers:
                    raise UserError(f"{path}: {key[1]} of task {key[0]} occurs twice; give each run once")
                self._answers[key] = prediction
            digest.update(path.read_bytes())
        self._digest = digest.hexdigest()

    def identity(self) -> dict[str, Any]:
        """Digest of the files."""
        return {"adapter": "replay", "predictions_sha256": self._digest}

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Give the stored answers. Raises: `AdapterError` for a question that is not there or was put otherwise."""
        for request in requests:
            sample = request.question.sample_id
            found = self._answers.get((request.task, sample))
            if found is None:
                raise AdapterError(f"the predictions hold nothing for {sample} of task {request.task}")
            if found.benchmark != request.benchmark:
                raise AdapterError(
                    f"{sample} of task {request.task} was answered in another benchmark version "
                    f"({found.benchmark[:12]}, here {request.benchmark[:12]}); build that version, or ask again"
                )
            keep(request, Answer(**{name: getattr(found, name) for name in Answer.__struct_fields__}))
