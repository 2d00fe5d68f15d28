"""All sources, in the order in which they are listed."""

from __future__ import annotations

import importlib

from builders.source import Source

NAMES = ("mimic_cxr", "slake", "vqa_rad", "pubmedqa", "medqa", "medquad")


def load(name: str) -> Source:
    """The `SOURCE` of `builders.<name>`."""
    source: Source = importlib.import_module(f"builders.{name}").SOURCE
    return source
