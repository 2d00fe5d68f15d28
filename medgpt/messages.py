"""What a message may show: one line without control codes, and names only where they are names.

A table that lost its header has a patient's row in its place, and any text of a file may hold the codes that a terminal
obeys. So messages name files, rows and numbers; what comes from within a file goes through `safe` or `named`, and what
a command says of a failure through `complain`.
"""

import re
import sys
from collections.abc import Collection

from medgpt.private import is_private

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,39}")
NAMES_SHOWN = 16
DETAIL_CHARACTERS = 300
"""As much as a reject says of what is wrong with its row."""


def safe(text: object, longest: int | None = None) -> str:
    """`text` on one line, what cannot be printed as escapes, cut to `longest` characters."""
    line = " ".join(str(text).split())
    if not line.isprintable():
        line = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
    return line if longest is None or len(line) <= longest else line[: longest - 1] + "…"


def named(names: Collection[str], *, first_row: bool = False, shown: int = NAMES_SHOWN) -> str:
    """Columns or fields for a message: those that look like names, and how many there are besides.

    first_row: they are the cells of a file's first row. Then one cell that is no name hides all, for it may be a row of
    data; and where credentialed data is read, nothing is shown: a cell of one word looks like a name.
    """
    fit = [name for name in names if _NAME.fullmatch(name)]
    if first_row and (is_private() or len(fit) < len(names)):
        fit = []
    parts = [", ".join(fit[:shown])] * bool(fit)
    if len(fit) > shown:
        parts.append(f"{len(fit) - shown} more")
    if hidden := len(names) - len(fit):
        parts.append(f"{hidden} whose names are not shown")
    return " and ".join(parts) or "none"


def shown_name(name: str) -> str:
    """One field's name where it looks like one."""
    return name if all(map(_NAME.fullmatch, name.split(", "))) else "(a name that is not shown)"


def brief(line: str) -> str:
    """What a certificate does not speak of, for a screen: more than three benchmarks that are not held are counted."""
    head, _, names = line.rpartition(": ")
    count = names.count(", ") + 1
    return f"{head}: {count} (certificate.json names them)" if "not held" in head and count > 3 else line


def complain(what: object) -> None:
    """Say on standard error what went wrong: one line, whatever the message holds."""
    print(safe(what), file=sys.stderr, flush=True)
