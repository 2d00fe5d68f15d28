"""Synthetic raw trees in their publishers' layouts; loaded by --demo and by tests alone.

A module has `files()`, its source's tree: what `builders.engine.demo_files` makes a file of, by path (or `write(raw)`,
which writes a tree that comes in sizes). `PLANTED` says what is twice in the tree on purpose, or also in that of
another source, by level, for the audits and the proof to find.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType

from builders.engine.demo_files import write_demo_files


def writer(demo: ModuleType | None) -> Callable[[Path], None] | None:
    """What writes the tree of a module under a folder; None for None."""
    if demo is None:
        return None
    return demo.write if hasattr(demo, "write") else partial(write_demo_files, files=demo.files())
