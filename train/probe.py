"""Questions with few answers: what blind guessing gets of them, and what a model does with the picture and without.

A reply of five learnt tokens of which one is Yes or No has a loss of ln 2 / 5 = 0.139 a token when it is guessed
blindly and the other four are known: a loss of 0.14 shows no learning. So the loss of such a source is logged beside
that of the best guess that knows the question and not the picture, and some held-out questions are asked meanwhile.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from medgpt.errors import UserError
from medgpt.intervals import wilson
from shards.reader import StoredSample
from train.collate import Collator
from train.config import Config
from train.model import Model, forward_losses
from train.template import render
from train.tokenizer import Tokenizer

Pictures = Literal["own", "shuffled", "black"]

MOST_ANSWERS = 8
"""A question with more different answers is not asked: each costs a pass."""
_REPEATS = 8
"""Samples a different answer: with fewer, the entropy of the answers is more guess than measure."""


@dataclass(frozen=True)
class Blind:
    """The best guess that knows the question, and how often each answer is right, but no picture."""

    loss: float
    """Nats a learnt token, the tokens that every answer has in common (the template's) being known."""
    right: float
    """Share that the commonest answer to each question gets."""


def asked(record: dict[str, Any]) -> str:
    """All text of a sample that is not the assistant's."""
    texts = [part["text"] for m in record["messages"] if m["role"] != "assistant" for part in m["content"]]
    return "\n".join(text for text in texts if text)


def reply(record: dict[str, Any]) -> str:
    """All text of the assistant."""
    return "\n".join(p["text"] for m in record["messages"] if m["role"] == "assistant" for p in m["content"])


def blind(samples: Iterable[StoredSample], tokenizer: Tokenizer) -> Blind | None:
    """What blind guessing gets of a source, or None where replies are too varied to be guessed among (or none).

    The loss is the entropy of the answers over the learnt tokens: ln K / tokens for K answers that are equally often
    right. Of the answers given the question where questions repeat, else of all answers.

    Raises: `UserError` (a sample that cannot be rendered).
    """
    pairs: Counter[tuple[str, str]] = Counter()
    tokens = 0
    for sample in samples:
        pairs[asked(sample.record), reply(sample.record)] += 1
        tokens += render(sample.record, [1] * len(sample.record["images"] or ()), tokenizer).supervised
    answers: Counter[tuple[str, str]] = Counter()
    for (_, answer), count in pairs.items():
        answers["", answer] += count
    few = (counts for counts in (pairs, answers) if 0 < len(counts) * _REPEATS <= counts.total())
    return next((_guess(counts, tokens) for counts in few), None)


def _guess(pairs: Counter[tuple[str, str]], tokens: int) -> Blind:
    """Of questions with their answers, of `tokens` learnt tokens together."""
    questions: Counter[str] = Counter()
    best: Counter[str] = Counter()
    for (question, _), count in pairs.items():
        questions[question] += count
        best[question] = max(best[question], count)
    entropy = -sum(count * math.log(count / questions[question]) for (question, _), count in pairs.items())
    return Blind(entropy / tokens, best.total() / pairs.total())


@dataclass(frozen=True)
class Answers:
    """What a model made of some questions, in their order."""

    questions: list[str]
    given: list[str]
    """The likeliest of the answers that are given to the question."""
    right: npt.NDArray[np.bool_]
    """[questions] whether that was the right one."""
    losses: npt.NDArray[np.float64]
    """[questions] mean loss of a learnt token of the right answer."""

    def by_question(self) -> dict[str, tuple[int, int]]:
        """(right, asked) of each wording."""
        found: dict[str, list[bool]] = defaultdict(list)
        for question, right in zip(self.questions, self.right.tolist(), strict=True):
            found[question].append(right)
        return {question: (sum(rights), len(rights)) for question, rights in sorted(found.items())}


class Probe:
    """Held-out questions with one reply each, whose answers are few.

    Of the samples those count whose question has 2 to `MOST_ANSWERS` different answers among them; at most `limit`, the
    same number of each question where there are as many. Nothing is learnt from them.

    Raises: `UserError` (there is no such question).
    """

    def __init__(self, samples: Iterable[StoredSample], where: str, limit: int | None = None) -> None:
        by_question: dict[str, list[StoredSample]] = defaultdict(list)
        for sample in samples:
            if sum(m["role"] == "assistant" for m in sample.record["messages"]) == 1 and sample.images:
                by_question[asked(sample.record)].append(sample)
        answers = {question: sorted({reply(s.record) for s in found}) for question, found in by_question.items()}
        self.answers = {q: found for q, found in sorted(answers.items()) if 2 <= len(found) <= MOST_ANSWERS}
        if not self.answers:
            raise UserError(f"{where}: no question about a picture with 2 to {MOST_ANSWERS} different answers")
        each = None if limit is None else -(-limit // len(self.answers))
        self.samples = [sample for question in self.answers for sample in by_question[question][:each]][:limit]

    def ask(
        self,
        model: Model,
        engine: Callable[..., Any],
        collate: Collator,
        config: Config,
        *,
        pictures: Pictures = "own",
        documents: int = 4,
        seed: int = 0,
    ) -> Answers:
        """Which of its answers the model finds likeliest for each question, `documents` in a pass.

        `pictures`: its own, another question's (drawn among those of the same wording) or a black one: with the last
        two nothing but chance is to be had. Every rank must call it: `engine` may gather weights.
        """
        device = next(iter(model.module.parameters())).device
        shown = self._shown(pictures, seed)
        candidates: list[StoredSample] = []
        owner: list[tuple[int, str]] = []
        for number, sample in enumerate(self.samples):
            for answer in self.answers[asked(sample.record)]:
                candidates.append(StoredSample(_answered(sample.record, answer), shown[number]))
                owner.append((number, answer))
        found: list[tuple[float, float]] = []  # sum and mean of the losses of a document
        was_training = model.module.training
        model.module.eval()
        with torch.no_grad():
            for start in range(0, len(candidates), documents):
                micro = collate(candidates[start : start + documents]).to(device)
                losses = forward_losses(model, engine, micro, config).double()
                document = micro.document_ids[0, micro.keep]
                count = min(documents, len(candidates) - start)
                sums = torch.zeros(count, dtype=torch.float64, device=device).index_add_(0, document, losses)
                sizes = torch.bincount(document, minlength=count)
                found += zip(sums.tolist(), (sums / sizes).tolist(), strict=True)
        model.module.train(was_training)
        least: dict[int, tuple[float, str]] = {}
        truth_loss = np.zeros(len(self.samples))
        for (number, answer), (total, mean) in zip(owner, found, strict=True):
            least[number] = min(least.get(number, (math.inf, "")), (total, answer))
            if answer == reply(self.samples[number].record):
                truth_loss[number] = mean
        given = [least[number][1] for number in range(len(self.samples))]
        right = [answer == reply(sample.record) for answer, sample in zip(given, self.samples, strict=True)]
        return Answers([asked(sample.record) for sample in self.samples], given, np.array(right), truth_loss)

    def _shown(self, pictures: Pictures, seed: int) -> list[list[bytes]]:
        own = [sample.images for sample in self.samples]
        if pictures == "own":
            return own
        if pictures == "black":
            return [[BLACK] * len(images) for images in own]
        shown = list(own)
        shuffle = np.random.default_rng(seed).permutation
        for question, answers in self.answers.items():
            places = [number for number, sample in enumerate(self.samples) if asked(sample.record) == question]
            takers, givers = (
                sorted(shuffle(places).tolist(), key=lambda place: reply(self.samples[place].record)) for _ in range(2)
            )
            # The pictures of each answer go evenly to the questions of every answer: a model that sees is right by
            # chance's share exactly, not by that of one permutation.
            mixed = [place for first in range(len(answers)) for place in givers[first :: len(answers)]]
            for place, other in zip(takers, mixed, strict=True):
                shown[place] = own[other]
        return shown

    def blind(self, tokenizer: Tokenizer) -> Blind:
        """What guessing these very questions blindly gets."""
        pairs = Counter((asked(sample.record), reply(sample.record)) for sample in self.samples)
        tokens = [render(one.record, [1] * len(one.images), tokenizer).supervised for one in self.samples]
        return _guess(pairs, sum(tokens))

    def measure(self, answers: Answers, tokenizer: Tokenizer) -> dict[str, float]:
        """What is logged of a round: share right with its 95 % interval, loss, and what blind guessing gets."""
        guess = self.blind(tokenizer)
        share, low, high = wilson(int(answers.right.sum()), len(answers.right))
        measured = {"right": share, "low": low, "high": high, "loss": float(answers.losses.mean())}
        measured |= {"blind_right": guess.right, "blind_loss": guess.loss}
        return {name: round(value, 4) for name, value in measured.items()}


def _answered(record: dict[str, Any], answer: str) -> dict[str, Any]:
    """The record with another reply."""
    part = {**record["messages"][-1]["content"][0], "text": answer}
    return record | {"messages": [*record["messages"][:-1], {**record["messages"][-1], "content": [part]}]}


def _black() -> bytes:
    from io import BytesIO

    file = BytesIO()
    Image.new("L", (64, 64)).save(file, "PNG")
    return file.getvalue()


BLACK = _black()
"""A picture that shows nothing."""
