"""Options by log-likelihood: which one a local model finds the likeliest continuation; nothing is written by the model.

The prompt is the conversation by the model's chat template (the plain text where the tokenizer has none), then
`Answer:`; a continuation is a space and the option's label, or its text. The log-likelihood is the sum over the
continuation's tokens. Prompt and continuation are encoded together and cut where the prompt alone ends, spaces at the
prompt's end go to the continuation, and each sequence is run by itself: as lm-evaluation-harness does with a batch of
one, so that the numbers are its numbers (a test holds them together). The best option by the plain sum is the answer
(`acc`); by the sum for each character of the option it is `normalised` (`acc_norm`).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from eval.adapters.base import ANSWERED, NOT_COMPARABLE, Answer, Keep, Request
from eval.adapters.hf_local import HFLocal
from eval.cards import Card
from eval.records import best_option

Continuation = Literal["labels", "texts"]
CUE = "Answer:"


class LogLikelihood(HFLocal):
    """A local model that compares the options of questions in text."""

    def __init__(self, checkpoint: Path, card: Card, continuation: Continuation, **options: Any) -> None:
        """`options`: those of `HFLocal`. Raises: `UserError`."""
        super().__init__(checkpoint, card, **options)
        self.continuation = continuation

    def identity(self) -> dict[str, Any]:
        """That of the local model, and what its options are continued by."""
        return {**super().identity(), "adapter": "log_likelihood", "batch": 1, "continuation": self.continuation}

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """One question after the other. Raises: `UserError` if the model cannot be loaded."""
        for request in requests:
            question = request.question
            if not question.options or question.images:
                keep(request, Answer(NOT_COMPARABLE, None))
                continue
            started = time.monotonic()
            said = [text if self.continuation == "texts" else label for label, text in question.options]
            values = self.log_likelihoods(self.prompt(request), [f" {one}" for one in said])
            labels = dict(question.options)
            likelihoods = {label: (value, len(one)) for label, value, one in zip(labels, values, said, strict=True)}
            seconds = round(time.monotonic() - started, 4)
            best = best_option(likelihoods)
            keep(request, Answer(ANSWERED, best, "stop", seconds=seconds, likelihoods=likelihoods))

    def prompt(self, request: Request) -> str:
        """What the options continue."""
        tokenizer = self._loaded.tokenizer
        turns = [
            {"role": turn["role"], "content": "".join(part["text"] for part in turn["content"])}
            for turn in request.question.messages
        ]
        if tokenizer.chat_template is None:
            return "\n\n".join([*(turn["content"] for turn in turns), CUE])
        return f"{tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)}{CUE}"

    def log_likelihoods(self, prompt: str, continuations: Sequence[str]) -> list[float]:
        """Of each continuation, summed over its tokens; natural logarithm. Raises: `UserError`."""
        import torch

        loaded = self._loaded
        stripped = prompt.rstrip()
        given = self._encode(stripped)
        known: dict[tuple[int, ...], Any] = {}
        values = []
        for continuation in continuations:
            whole = self._encode(prompt + continuation)
            told = whole[len(given) :]
            before = tuple(whole[:-1])
            # Continuations of one token share what stands before them, so it is run once.
            if before not in known:
                ids = torch.tensor([before], device=loaded.device)
                with torch.inference_mode():
                    logits = loaded.model(input_ids=ids).logits[0]
                known[before] = torch.log_softmax(logits, dim=-1)
                self._counts["batches"] += 1
                self._counts["prompt tokens"] += len(before)
            chosen = known[before][len(before) - len(told) :].gather(-1, torch.tensor([told], device=loaded.device).T)
            values.append(float(chosen.sum()))
        return values

    def _encode(self, text: str) -> list[int]:
        tokenizer = self._loaded.tokenizer
        start = tokenizer.bos_token
        special = not (start and text.startswith(start))  # a template writes the first special token itself
        encoded: list[int] = tokenizer.encode(text, add_special_tokens=special)
        return encoded
