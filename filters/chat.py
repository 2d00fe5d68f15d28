"""The chat client as filters see it: `medgpt.chat`, with its faults as errors of a filter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import medgpt.chat
from filters.base import FilterError
from medgpt.chat import Reply, RequestRefused, Stopped

__all__ = ["Chat", "ChatOptions", "EndpointError", "Reply", "RequestRefused", "Stopped", "response_format"]


class EndpointError(FilterError):
    """One line: the endpoint gives no answers. What was answered is kept; the same command goes on later."""


class ChatOptions(medgpt.chat.ChatOptions):
    """How hard to try. Raises: `FilterError` for a value that is not over 0."""

    def __post_init__(self) -> None:
        try:
            super().__post_init__()
        except ValueError as error:
            raise FilterError(str(error)) from None


class Chat(medgpt.chat.Chat):
    """A client for one event loop; use as an asynchronous context."""

    async def complete(self, body: Mapping[str, Any], probe: Mapping[str, Any]) -> Reply:
        """Answer to one request. Raises: `RequestRefused`, `Stopped`, `EndpointError`."""
        try:
            return await super().complete(body, probe)
        except medgpt.chat.EndpointError as error:
            raise EndpointError(str(error)) from error


def response_format(kind: str, name: str, schema: Mapping[str, Any]) -> dict[str, Any] | None:
    """The request field of this name: `json_schema`, `json_object`, or None for `none`. Raises: `FilterError`."""
    if kind == "json_schema":
        return {"type": "json_schema", "json_schema": {"name": name, "strict": True, "schema": schema}}
    if kind == "json_object":
        return {"type": "json_object"}
    if kind == "none":
        return None
    raise FilterError(f"response_format {kind!r}: choose json_schema, json_object or none")
