"""Rows as aligned text, as every command prints them, or Markdown, and values as JSON has them."""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any


def table(heads: Sequence[str], rows: Iterable[Sequence[object]], longest: int | None = None) -> str:
    """A head, a rule and rows; numbers to the right with thousands separated, a `-` among them for none.

    Line breaks and terminal control codes do not reach the terminal. A cell of more than `longest` characters is cut,
    so that a thumbnail does not fill the screen.
    """
    rows = [tuple(row) for row in rows]
    lines = [tuple(heads), *(tuple(_cell(value, longest) for value in row) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = _right(heads, rows)
    lines.insert(1, tuple("-" * width for width in widths))
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """The same in Markdown."""
    rows = [tuple(row) for row in rows]
    rule = ["--:" if number else "---" for number in _right(heads, rows)]
    cells = ([_cell(value, None).replace("|", "\\|") for value in row] for row in rows)
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rule, *cells))


def plain(value: object) -> Any:
    """Turn a value into what JSON has: digests and other bytes become hexadecimal text, dates and decimals text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(item) for item in value]
    return str(value)


def printable(text: str) -> str:
    """The text without what a terminal obeys; line breaks stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\N{REPLACEMENT CHARACTER}" for letter in text)


def _right(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> list[bool]:
    """Which columns are numbers."""
    return [all(map(_is_number, column)) for column in zip(*rows, strict=True)] or [False] * len(heads)


def _is_number(value: object) -> bool:
    return value is None or value == "-" or isinstance(value, int | float)


def _cell(value: object, longest: int | None) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    value = "NULL" if value is None else plain(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = printable(text).replace("\n", "\N{REPLACEMENT CHARACTER}")
    return text if longest is None or len(text) <= longest else text[: longest - 1] + "…"
