"""A model in this process: a local folder in the Hugging Face layout, ours or any other; batched greedy decoding.

Nothing is fetched from a hub. torch and transformers are imported when the model is loaded, not before.

Prompts are padded on the left to a multiple of `PAD`, and every batch has the same number of rows, so that few shapes
occur: kernels choose a plan for each. Questions are sorted by length within a window, which keeps padding short; the
order of answers does not matter to the run. The cache grows: transformers compiles every shape of a static one anew,
for more than a minute, which gained nothing for short answers at the 20B shapes.
"""

from __future__ import annotations

import os
import time
from abc import abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from msgspec.structs import replace

from eval.adapters.base import ANSWERED, TOO_MANY_IMAGES, Adapter, Answer, Keep, Request
from eval.adapters.gpt_oss import keep_packed, tune_generation
from eval.cards import GREEDY_BELOW, Card
from medgpt.digest import folder_sha256
from medgpt.errors import UserError, one_line

if TYPE_CHECKING:
    import torch

PAD = 64
"""Prompt lengths are multiples of this: at most 64 tokens of padding too many, and one shape for many batches."""
AHEAD = 2
"""Batches whose pictures are decoded and cut while the device answers another."""
WINDOW = 32
"""Batches that are sorted by length together."""


class LocalModel(Adapter):
    """A model of a local folder: which weights it has, and which questions have more pictures than its card allows."""

    def __init__(
        self,
        checkpoint: Path,
        card: Card,
        *,
        settings: Mapping[str, Any] | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """`checkpoint`: folder with config.json, weights and processor; `settings`: fields of the engine.

        Raises: `UserError` for a folder without config.json, or a card whose classes may not be run.
        """
        if not (checkpoint / "config.json").is_file():
            raise UserError(f"{checkpoint}: no config.json, so no model in the Hugging Face layout")
        if card.trust_remote_code and not trust_remote_code:
            raise UserError(
                f"{card.name} brings its own classes; read the Python files in {checkpoint}, then ask it through "
                "eval.run --trust-remote-code"
            )
        self._checkpoint, self._card, self._trust = checkpoint, card, trust_remote_code
        self._settings = dict(settings or {})
        self._counts: Counter[str] = Counter()

    @cached_property
    def _weights(self) -> dict[str, Any]:
        """Of an identity: digest of the folder's files, and the card."""
        return {"checkpoint_sha256": folder_sha256(self._checkpoint), "card": self._card.shaping()}

    @cached_property
    @abstractmethod
    def _loaded(self) -> Any:
        """The model; it is loaded when it is first asked for. Raises: `UserError`."""

    def load(self) -> None:
        """Load the model now, not at the first question. Raises: `UserError`."""
        _ = self._loaded

    @abstractmethod
    def stream(self, request: Request, card: Card, longest: int, say: Callable[[str], None]) -> Answer:
        """One answer; `say` is called after every token, with what is new in the text or nothing.

        `card` is the model's with this request's decoding and stops, `longest` the most tokens of prompt and answer.
        What `say` raises ends the generation. Raises: `UserError` if the model cannot take the request.
        """

    def _askable(self, window: Sequence[Request], keep: Keep) -> list[Request]:
        """The questions of a window that the card lets be asked; the others are kept as having too many pictures."""
        askable = []
        for request in window:
            if self._card.max_images is not None and len(request.question.images) > self._card.max_images:
                keep(request, Answer(TOO_MANY_IMAGES, None))
            else:
                askable.append(request)
        return askable


class HFLocal(LocalModel):
    """A model that is loaded when the first question comes."""

    def __init__(
        self, checkpoint: Path, card: Card, *, device: str = "auto", batch: int = 8, trust_remote_code: bool = False
    ) -> None:
        """See `LocalModel`; `batch`: questions that are answered together."""
        super().__init__(checkpoint, card, trust_remote_code=trust_remote_code)
        if card.served_only:
            raise UserError(f"card {card.name}: its processor is not spoken here; give --endpoint, or --engine vllm")
        if device not in ("auto", "cuda", "cpu"):
            raise UserError(f"--device {device}: choose auto, cuda or cpu")
        self._device, self._batch = device, batch

    def identity(self) -> dict[str, Any]:
        """Digest of the weights, the card, the device's kind and the batch (other padding rounds otherwise)."""
        return {"adapter": "hf_local", **self._weights, "device": _device(self._device), "batch": self._batch}

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Answer batch by batch. Raises: `UserError` if the model cannot be loaded or takes no pictures."""
        while window := list(islice(requests, self._batch * WINDOW)):
            askable = self._askable(window, keep)
            # A batch is of one draw: its seed is that draw's.
            askable.sort(key=lambda one: (one.draw, one.max_new_tokens, len(one.question.images), _length(one)))
            alike = groupby(askable, key=lambda one: (one.draw, one.max_new_tokens, bool(one.question.images)))
            batches = [batch for _, group in alike for batch in _batches(group, self._batch)]
            for batch, answers in zip(batches, self._answers(batches), strict=True):
                for request, answer in zip(batch, answers, strict=True):
                    keep(request, answer)

    def generate(self, batch: Sequence[Request]) -> list[Answer]:
        """Answers of one batch, in order. Raises: `UserError`."""
        (answers,) = self._answers([batch])
        return answers

    def stream(self, request: Request, card: Card, longest: int, say: Callable[[str], None]) -> Answer:
        """One answer; see `LocalModel`."""
        loaded = self._loaded
        with conversation():
            prompt = loaded.inputs([(request.question.messages, request.question.images)])
            check_length(int(prompt["attention_mask"].sum()), request, longest)
            pieces = Pieces(loaded, card.stop, say)
            [answer] = loaded.generate(prompt, 1, request.max_new_tokens, self._counts, card, pieces)
        say((answer.text or "")[pieces.sent :])
        return answer

    @cached_property
    def _loaded(self) -> _Loaded:
        return _Loaded(self._checkpoint, self._card, _device(self._device), self._trust, self._batch)

    def _answers(self, batches: Sequence[Sequence[Request]]) -> Iterator[list[Answer]]:
        """Answers of each batch; while the device answers one, threads decode the pictures of the next ones."""
        if not batches:
            return
        loaded = self._loaded

        def inputs(number: int) -> Mapping[str, torch.Tensor]:
            asked = [(request.question.messages, request.question.images) for request in batches[number]]
            # A short batch is filled up with its last question, so that its shape is that of the others.
            return loaded.inputs([*asked, *[asked[-1]] * (self._batch - len(asked))])

        with ThreadPoolExecutor(AHEAD, "prompts") as pool:
            waiting: deque[Future[Mapping[str, torch.Tensor]]] = deque()
            for number, batch in enumerate(batches):
                for upcoming in range(number + len(waiting), min(number + 1 + AHEAD, len(batches))):
                    waiting.append(pool.submit(inputs, upcoming))
                ready = waiting.popleft().result()
                limit = max(request.max_new_tokens for request in batch)
                started = time.monotonic()
                answers = loaded.generate(ready, len(batch), limit, self._counts, self._card.drawn(batch[0].draw))
                seconds = round((time.monotonic() - started) / len(batch), 4)
                yield [replace(answer, seconds=seconds) for answer in answers]
                self._counts["batches"] += 1


@contextmanager
def conversation() -> Iterator[None]:
    """What a template or a processor says of a conversation, which may repeat its text, becomes one line without it."""
    from jinja2 import TemplateError

    try:
        yield
    except (TemplateError, ValueError, LookupError, StopIteration) as error:
        raise UserError(f"the model does not take this conversation ({type(error).__name__})") from None


def check_length(asked: int, request: Request, longest: int) -> None:
    """Raises: `UserError` (a prompt of `asked` tokens and its answer do not fit into `longest`)."""
    if asked + request.max_new_tokens > longest:
        raise UserError(
            f"the prompt is {asked:,} tokens and the answer up to {request.max_new_tokens:,}; together at most "
            f"{longest:,}"
        )


def _batches(requests: Iterator[Request], size: int) -> Iterator[list[Request]]:
    while batch := list(islice(requests, size)):
        yield batch


def _length(request: Request) -> int:
    return sum(len(part.get("text", "")) for turn in request.question.messages for part in turn["content"])


def libraries() -> tuple[Any, Any]:
    """Give torch and transformers. Raises: `UserError` (one is not installed)."""
    try:
        import torch
        import transformers
    except ModuleNotFoundError as error:
        raise UserError("a local model needs torch and transformers: pip install 'medgpt-oss[eval]'") from error
    return torch, transformers


def _device(wanted: str) -> str:
    if wanted != "auto":
        return wanted
    return "cuda" if libraries()[0].cuda.is_available() else "cpu"


@contextmanager
def loading(checkpoint: Path) -> Iterator[None]:
    """What a library says of a folder that it cannot load, as one line."""
    try:
        yield
    except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
        raise UserError(f"{checkpoint}: cannot be loaded ({one_line(error)[:300]})") from error


class Prompts:
    """Processor and tokenizer of a model folder: conversations to tensors, new tokens to answers."""

    stops: frozenset[int]
    """Tokens that end an answer; `stop_ids` finds them."""

    def __init__(self, checkpoint: Path, card: Card, trust: bool, dtype: torch.dtype) -> None:
        os.environ["HF_HUB_OFFLINE"] = "1"
        if not trust:
            # Our own class, so that our checkpoints need no code from their folder; a foreign one may use its name.
            import medgpt.configuration_medgpt  # noqa: F401 - registers itself
        self.card, self.dtype = card, dtype
        self.common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust}
        with loading(checkpoint):
            self.processor, self.tokenizer = _processor(checkpoint, self.common)
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token_id is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def inputs(self, conversations: Sequence[tuple[list[dict[str, Any]], list[bytes]]]) -> Mapping[str, torch.Tensor]:
        """Tensors of (turns, pictures), one row each, on the CPU. Raises: `UserError`."""
        from medgpt.pictures import open_picture

        if self.processor is None and any(images for _, images in conversations):
            raise UserError(f"{self.card.name}: the checkpoint has no processor, so it takes no pictures")
        pictures = [[open_picture(image, "RGB") for image in images] for _, images in conversations]
        texts = []
        for turns, _ in conversations:
            chat = [{"role": turn["role"], "content": self._content(turn["content"])} for turn in turns]
            template = self.processor or self.tokenizer
            texts.append(template.apply_chat_template(chat, add_generation_prompt=True, tokenize=False))
        options: dict[str, Any] = {"padding": True, "pad_to_multiple_of": PAD, "return_tensors": "pt"}
        # Most templates write the first special token themselves; twice is not what a model has seen.
        start = self.tokenizer.bos_token
        options["add_special_tokens"] = not (start and texts[0].startswith(start))
        if self.processor is None:
            inputs = self.tokenizer(texts, **options)
        elif any(pictures):
            if self.card.pixels:
                least, most = self.card.pixels
                options["images_kwargs"] = {"size": {"shortest_edge": least, "longest_edge": most}}
            inputs = self.processor(text=texts, images=pictures, **options)
        else:
            inputs = self.processor(text=texts, **options)
        return {name: value.to(self.dtype) if value.is_floating_point() else value for name, value in inputs.items()}

    def _content(self, parts: list[dict[str, Any]]) -> Any:
        """A turn as the template wants it: parts for a processor, a plain string for a text model."""
        if self.processor is None:
            return "".join(part["text"] for part in parts)
        return [{"type": "image"} if part["type"] == "image" else part for part in parts]

    def read(self, tokens: list[int], prompt_tokens: int, stops: Sequence[str]) -> Answer:
        """The new tokens as an answer. Special tokens stay: Harmony's channels tell reasoning from answer."""
        end = next((place for place, token in enumerate(tokens) if token in self.stops), None)
        said = tokens if end is None else tokens[:end]
        text = self.decode(said)
        finish = "length" if end is None else "stop"
        for stop in stops:
            before, found, _ = text.partition(stop)
            if found:
                text, finish = before, "stop"
        return Answer(ANSWERED, text, finish, None, prompt_tokens, len(said))

    def decode(self, tokens: Sequence[int]) -> str:
        """Their text, special tokens included."""
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text


class _Loaded(Prompts):
    """Model and processor in memory."""

    def __init__(self, checkpoint: Path, card: Card, device: str, trust: bool, rows: int) -> None:
        torch, transformers = libraries()
        kind = getattr(transformers, card.model_class, None)
        if kind is None:
            raise UserError(
                f"card {card.name}: transformers {transformers.__version__} has no class {card.model_class}"
            )
        # bfloat16 halves the memory on an accelerator; on a CPU it is slower than float32.
        super().__init__(checkpoint, card, trust, torch.bfloat16 if device == "cuda" else torch.float32)
        with loading(checkpoint):
            config = _config(checkpoint, self.common)
            keep_packed(config)
            model, info = kind.from_pretrained(
                checkpoint, config=config, dtype=self.dtype, output_loading_info=True, **self.common
            )
        odd = sorted({*info["missing_keys"], *info["unexpected_keys"]})
        if odd:
            # transformers only warns, and answers with random weights.
            raise UserError(
                f"{checkpoint}: {len(odd)} weights are missing or left over ({', '.join(odd[:3])}, ...): "
                f"the files are not of this architecture ({type(model).__name__})"
            )
        self.model = model.to(device).eval()
        tune_generation(self.model, rows)
        self.device = device
        self.stops = stop_ids(model.generation_config, self.tokenizer)

    def generate(
        self,
        prompts: Mapping[str, torch.Tensor],
        asked: int,
        max_new_tokens: int,
        counts: Counter[str],
        card: Card,
        pieces: Pieces | None = None,
    ) -> list[Answer]:
        """Answers to the first `asked` rows of `inputs`, in order; `pieces` follows the text of a single row."""
        import torch

        inputs = {name: value.to(self.device) for name, value in prompts.items()}
        decoding = card.decoding
        sample = decoding.temperature is not None and decoding.temperature > GREEDY_BELOW
        chosen = {"temperature": decoding.temperature, "top_p": decoding.top_p} if sample else {}
        options = {**chosen, "repetition_penalty": decoding.repetition_penalty}
        if sample:
            torch.manual_seed(decoding.seed or 0)
        with torch.inference_mode():
            output = self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=sample,
                pad_token_id=self.tokenizer.pad_token_id,
                streamer=pieces,
                stopping_criteria=None if pieces is None else [pieces.stop],
                **{name: value for name, value in options.items() if value is not None},
            )
        width = inputs["input_ids"].shape[1]
        given = inputs["attention_mask"].sum(1).tolist()
        answers = []
        for prompt, row in zip(given[:asked], output[:asked, width:].tolist(), strict=True):
            answer = self.read(row, prompt, card.stop)
            counts["prompt tokens"] += prompt
            counts["padding tokens"] += width - prompt
            counts["new tokens"] += answer.completion_tokens
            answers.append(answer)
        return answers


class Pieces:
    """Follows one generation as transformers' streamer: the text so far, piece by piece, up to a stop."""

    def __init__(self, prompts: Prompts, stops: Sequence[str], say: Callable[[str], None]) -> None:
        self._prompts, self._stops, self._say = prompts, stops, say
        self._tokens: list[int] | None = None
        self._text, self._from, self._read = "", 0, 0
        self.sent = 0
        """Characters that were said."""
        self.ended = False
        """Whether a stop was said."""

    def put(self, tokens: torch.Tensor) -> None:
        """New tokens; the first call brings the prompt."""
        if self._tokens is None:
            self._tokens = []
            return
        for token in tokens.reshape(-1).tolist():
            self.ended = self.ended or token in self._prompts.stops
            if not self.ended:
                self._tokens.append(token)
        # Decoded behind the piece before: the first token of a decoding may lose its space.
        before = self._prompts.decode(self._tokens[self._from : self._read])
        text = self._prompts.decode(self._tokens[self._from :])
        # A character of several bytes may be half there.
        if len(text) > len(before) and not text.endswith("\ufffd"):
            self._text += text[len(before) :]
            self._from, self._read = self._read, len(self._tokens)
        places = [place for place in map(self._text.find, self._stops) if place >= 0]
        self.ended = self.ended or bool(places)
        # What may become a stop is held back; the answer itself brings it if it does not.
        end = min(places, default=max(self.sent, len(self._text) - max(map(len, self._stops), default=1) + 1))
        piece, self.sent = self._text[self.sent : end], end
        self._say(piece)

    def end(self) -> None:
        """Nothing is left to do: the caller has the whole answer."""

    def stop(self, tokens: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Whether a stop was said, for each row."""
        import torch

        del scores
        return tokens.new_full((len(tokens),), self.ended, dtype=torch.bool)


def _config(checkpoint: Path, common: Mapping[str, Any]) -> Any:
    """The configuration, with the vision encoder that config.json names.

    InternVLConfig of transformers 5 reads any `vision_config` as InternViT and so would swap our CLIP encoder for a
    random one, with no more than a warning (reported upstream; checked with 5.17 and 5.23).
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(checkpoint, **common)
    stored = orjson.loads((checkpoint / "config.json").read_bytes()).get("vision_config")
    if isinstance(stored, dict) and "model_type" in stored:
        vision = AutoConfig.for_model(**stored)
        # By class: the wrong one takes over the right one's `model_type`.
        if type(vision) is not type(config.vision_config):
            config.vision_config = vision
    return config


def _processor(checkpoint: Path, common: Mapping[str, Any]) -> tuple[Any, Any]:
    """(processor, tokenizer); no processor for a text model."""
    from transformers import AutoProcessor, AutoTokenizer

    names = ("processor_config.json", "preprocessor_config.json")
    if any((checkpoint / name).is_file() for name in names):
        processor: Any = AutoProcessor.from_pretrained(checkpoint, **common)
        return processor, processor.tokenizer
    return None, AutoTokenizer.from_pretrained(checkpoint, **common)


def stop_ids(generation: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer, of the generation configuration and the tokenizer."""
    found: set[int] = {tokenizer.eos_token_id, tokenizer.pad_token_id}
    configured = generation.eos_token_id
    found |= set(configured) if isinstance(configured, list) else {configured}
    return frozenset(token for token in found if token is not None)
