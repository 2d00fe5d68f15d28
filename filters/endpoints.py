"""Where texts may be sent, as filters see it: `medgpt.endpoints`, with its refusal as an error of a filter."""

from __future__ import annotations

from collections.abc import Collection

import medgpt.endpoints
from filters.base import FilterError
from medgpt.endpoints import Endpoint, is_loopback

__all__ = ["Endpoint", "EndpointRefused", "is_loopback", "require_private", "resolve_endpoint"]


class EndpointRefused(FilterError):
    """One line: this endpoint is no web address, cannot be resolved, or must not see these texts."""


def resolve_endpoint(base: str) -> Endpoint:
    """Parse and resolve `http(s)://host[:port][/path]`. Raises: `EndpointRefused`."""
    try:
        return medgpt.endpoints.resolve_endpoint(base)
    except medgpt.endpoints.EndpointRefused as error:
        raise EndpointRefused(str(error)) from None


def require_private(endpoint: Endpoint, source: str, allowed: Collection[str] = ()) -> None:
    """Refuse an endpoint that must not see credentialed texts of `source`. Raises: `EndpointRefused`."""
    try:
        medgpt.endpoints.require_private(endpoint, source, allowed)
    except medgpt.endpoints.EndpointRefused as error:
        raise EndpointRefused(str(error)) from None
