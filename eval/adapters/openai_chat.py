"""Any OpenAI-compatible server (vLLM, `transformers serve`, llama.cpp, SGLang): pictures go as data URLs.

Many requests are in flight at a time, each answer is stored when it comes. A server that is down, overloaded or killed
is asked again with back-off, so a restart loses nothing; after the last try the run stops cleanly and the same command
goes on later. Credentialed questions go to loopback only, or to hosts that the user has allowed.
"""

import asyncio
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from eval.adapters.base import (
    ANSWERED,
    NO_COMPLETION,
    REFUSED,
    TOO_MANY_IMAGES,
    Adapter,
    AdapterError,
    Answer,
    Keep,
    Request,
)
from eval.cards import Card
from medgpt.chat import Chat, ChatOptions, EndpointError, RequestRefused, Stopped
from medgpt.endpoints import Endpoint, require_private, resolve_endpoint
from medgpt.errors import UserError
from medgpt.page import data_url

CONCURRENCY = 64
"""Requests in flight. vLLM batches as many as fit; a server that takes fewer queues the rest."""
TRIES = 12
"""With waits of 0.5, 1, 2, ... up to 30 s: some four minutes, enough for a server to load a large model again."""
LONGEST_WAIT_S = 30.0
REACH_S = 10.0

_PROBE = "Answer with the letter A."


class OpenAIChat(Adapter):
    """A served model."""

    def __init__(
        self,
        endpoint: str,
        model: str,
        card: Card,
        *,
        api_key: str | None = None,
        allowed_hosts: Collection[str] = (),
        concurrency: int = CONCURRENCY,
        timeout_s: float = 600.0,
        tries: int = TRIES,
        longest_wait_s: float = LONGEST_WAIT_S,
    ) -> None:
        """Resolves the endpoint; connects to nothing yet. Raises: `UserError`."""
        self._endpoint: Endpoint = resolve_endpoint(endpoint)
        self._model, self._card, self._api_key = model, card, api_key
        self._allowed = tuple(allowed_hosts)
        try:
            self._options = ChatOptions(concurrency, timeout_s, tries, longest_wait_s)
        except ValueError as error:
            raise UserError(str(error)) from None
        self._counts: dict[str, int] = {"requests": 0, "retries": 0, "most in flight": 0}
        self._flying = 0

    def identity(self) -> dict[str, Any]:
        """The model's name at the server and the card; not the address, which shapes no answer."""
        return {"adapter": "openai_chat", "model": self._model, "card": self._card.shaping()}

    def prepare(self, access: Mapping[str, str]) -> None:
        """Refuse an endpoint that must not see credentialed data. Raises: `EndpointRefused`."""
        for source in sorted(source for source, kind in access.items() if kind == "credentialed"):
            require_private(self._endpoint, source, self._allowed)

    def answer(self, requests: Iterator[Request], keep: Keep) -> None:
        """Ask the server. Raises: `AdapterError` when it gives no answers."""
        asyncio.run(self._run(requests, keep))

    async def _run(self, requests: Iterator[Request], keep: Keep) -> None:
        try:
            address = await asyncio.to_thread(self._endpoint.reachable_address, REACH_S)
        except OSError as error:
            raise AdapterError(f"{self._endpoint.base}: {error}; is the server running?") from None
        faults: list[Exception] = []
        async with Chat(self._endpoint, address, self._options, self._api_key) as chat:
            try:
                await asyncio.gather(
                    *(self._work(chat, requests, keep, faults) for _ in range(self._options.concurrency))
                )
            finally:
                self._counts["requests"] += chat.requests
                self._counts["retries"] += chat.retries
        if faults:
            raise faults[0]

    async def _work(self, chat: Chat, requests: Iterator[Request], keep: Keep, faults: list[Exception]) -> None:
        for request in requests:
            if chat.stop.is_set():
                return
            self._flying += 1
            self._counts["most in flight"] = max(self._counts["most in flight"], self._flying)
            try:
                answer = await self._ask(chat, request)
            except Stopped:
                return
            except EndpointError as error:
                # The others finish what they have sent, and send no more: their answers are paid for.
                chat.stop.set()
                faults.append(AdapterError(f"{error} (at {request.question.sample_id})"))
                return
            finally:
                self._flying -= 1
            keep(request, answer)

    async def _ask(self, chat: Chat, request: Request) -> Answer:
        question = request.question
        if self._card.max_images is not None and len(question.images) > self._card.max_images:
            return Answer(TOO_MANY_IMAGES, None)
        chosen = self._card.drawn(request.draw).request_fields()
        fields = {"model": self._model, **chosen, "max_tokens": request.max_new_tokens}
        fields = {name: value for name, value in fields.items() if value is not None}
        body = {**fields, "messages": chat_messages(question.messages, question.images)}
        probe = {**fields, "messages": [{"role": "user", "content": _PROBE}]}
        asked_at = time.monotonic()
        try:
            reply = await chat.complete(body, probe)
        except RequestRefused:
            return Answer(REFUSED, None)
        if not reply.completion:
            return Answer(NO_COMPLETION, reply.content)
        return Answer(
            ANSWERED,
            reply.content,
            reply.finish_reason,
            reply.reasoning,
            reply.prompt_tokens,
            reply.completion_tokens,
            round(time.monotonic() - asked_at, 4),
        )


def chat_messages(messages: list[dict[str, Any]], images: list[bytes]) -> list[dict[str, Any]]:
    """Turns in the wire format: one plain string where a turn is text alone, which every server takes."""
    turns = []
    for turn in messages:
        parts = turn["content"]
        if all(part["type"] == "text" for part in parts):
            content: Any = "".join(part["text"] for part in parts)
        else:
            content = [
                {"type": "text", "text": part["text"]}
                if part["type"] == "text"
                else {"type": "image_url", "image_url": {"url": data_url(images[part["index"]])}}
                for part in parts
            ]
        turns.append({"role": turn["role"], "content": content})
    return turns
