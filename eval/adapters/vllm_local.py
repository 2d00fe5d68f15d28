"""A model in vLLM in this process: the card's decoding and vLLM's batching; `hf_local` stays the reference.

Runs in an environment that has vLLM beside this package (extra `vllm`), whose plug-in for our own models
(`train.vllm_plugin`) vLLM then finds by itself. Questions go in windows: answers of a window are kept when all of it is
there, so a killed run asks at most one window again. Conversations are those of a server (`openai_chat`), the text is
`hf_local`'s: special tokens kept.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from eval.adapters.base import ANSWERED, REFUSED, AdapterError, Answer, Keep, Request
from eval.adapters.hf_local import LocalModel, check_length
from eval.adapters.openai_chat import chat_messages
from eval.cards import GREEDY_BELOW, Card
from medgpt.errors import UserError, one_line
from medgpt.private import is_private

WINDOW = 128
"""Questions that are handed over together. vLLM cuts the pictures of all of them first: some 30 MB for 12 tiles."""
_OF_CHAT = ("chat_template_kwargs", "mm_processor_kwargs")
"""Fields of a request that vLLM's `chat` takes beside the sampling."""


class VllmLocal(LocalModel):
    """A model that vLLM loads when the first question comes; `settings` are fields of its engine."""

    def identity(self) -> dict[str, Any]:
        """Digest of the weights, the card, vLLM's version and the engine's settings. Raises: `UserError`."""
        return {
            "adapter": "vllm_local", **self._weights, "vllm": _vllm().__version__, "settings": self._settings,
        }  # fmt: skip

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Answer window by window. Raises: `UserError` if the model cannot be loaded, `AdapterError` as in `_ask`."""
        while window := list(islice(requests, WINDOW)):
            if askable := self._askable(window, keep):
                for request, answer in zip(askable, self._ask(askable), strict=True):
                    keep(request, answer)

    def stream(self, request: Request, card: Card, longest: int, say: Callable[[str], None]) -> Answer:
        """One answer, said as a whole; see `LocalModel`. vLLM's own `max_model_len` is another limit."""
        try:
            [answer] = self._generate([request], card)
        except ValueError as error:  # its words may repeat the text
            raise UserError(f"the model does not take this conversation ({type(error).__name__})") from None
        check_length(answer.prompt_tokens or 0, request, longest)
        say(answer.text or "")
        return answer

    def _ask(self, requests: Sequence[Request]) -> list[Answer]:
        """Answers in order. Raises: `AdapterError` where vLLM takes none of several questions."""
        try:
            return self._generate(requests, self._card)
        except ValueError as error:
            if len(requests) == 1:
                return [Answer(REFUSED, None)]
            # One question that is too long stops its window: each is asked alone, and that one is named.
            answers = [answer for request in requests for answer in self._ask([request])]
            if all(answer.outcome == REFUSED for answer in answers):
                what = "what it said is not shown" if is_private() else one_line(error)[:300]
                raise AdapterError(f"vLLM refuses every question ({type(error).__name__}: {what})") from None
            return answers

    def _generate(self, requests: Sequence[Request], card: Card) -> list[Answer]:
        model, fields = self._loaded, card.request_fields()
        chat = {name: fields[name] for name in _OF_CHAT if fields.get(name) is not None}
        started = time.monotonic()
        outputs = model.chat(
            [chat_messages(request.question.messages, request.question.images) for request in requests],
            [_sampling(request, card) for request in requests],
            use_tqdm=False,
            **chat,
        )
        seconds = round((time.monotonic() - started) / len(requests), 4)
        answers = []
        for output in outputs:
            [said] = output.outputs
            prompt, new = len(output.prompt_token_ids), len(said.token_ids)
            answers.append(Answer(ANSWERED, said.text, said.finish_reason, None, prompt, new, seconds))
            self._counts["prompt tokens"] += prompt
            self._counts["new tokens"] += new
        self._counts["windows"] += 1
        return answers

    @cached_property
    def _loaded(self) -> Any:
        os.environ["HF_HUB_OFFLINE"] = "1"
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        vllm = _vllm()
        from vllm.platforms import current_platform

        pictures = {} if self._card.max_images is None else {"limit_mm_per_prompt": {"image": self._card.max_images}}
        chosen = {
            "dtype": "float32" if current_platform.is_cpu() else "bfloat16",
            "seed": self._card.decoding.seed or 0,
            "trust_remote_code": self._trust,
            **pictures,
            **self._settings,
        }
        try:
            return vllm.LLM(str(self._checkpoint), **chosen)
        except (OSError, ValueError, TypeError, KeyError, ImportError, RuntimeError) as error:
            raise UserError(f"{self._checkpoint}: vLLM cannot load it ({one_line(error)[:300]})") from error


def lacks_mxfp4(checkpoint: Path) -> bool:
    """Whether the weights are MXFP4, and the vLLM that is installed is a CPU build, which does not take them."""
    config = checkpoint / "config.json"
    if not config.is_file() or b'"mxfp4"' not in config.read_bytes():
        return False
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _sampling(request: Request, card: Card) -> Any:
    """A card's fields as vLLM's; greedy where it says nothing and special tokens kept, as in `hf_local`."""
    fields = card.drawn(request.draw).request_fields()
    chosen = {name: value for name, value in fields.items() if value is not None and name not in _OF_CHAT}
    if chosen.get("temperature", 0.0) <= GREEDY_BELOW:
        chosen |= {"temperature": 0.0, "top_p": 1.0}
    kept = {"skip_special_tokens": False, "spaces_between_special_tokens": False}
    try:
        return _vllm().SamplingParams(**kept | chosen, max_tokens=request.max_new_tokens)
    except TypeError as error:
        raise UserError(f"card {card.name}: vLLM knows no such field of `request` ({error})") from None


def _vllm() -> Any:
    try:
        import vllm
    except ModuleNotFoundError as error:
        raise UserError("--engine vllm needs vLLM: pip install 'medgpt-oss[vllm]'") from error
    return vllm
