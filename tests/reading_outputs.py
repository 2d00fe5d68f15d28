"""Answers with a reader's verdict: `reading_*.txt`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Output:
    """An answer and what a reader takes it for."""

    style: str
    options: tuple[tuple[str, str], ...]
    verdict: tuple[str, ...]
    """Labels that are right to read; empty where the answer names no option."""
    text: str

    @property
    def held(self) -> bool:
        """Whether it is of the half that the rule was not made on."""
        return int(hashlib.sha256(self.text.encode()).hexdigest()[-1], 16) % 2 == 1


def read_outputs(name: str) -> list[Output]:
    """All answers of a file, in its order; the format is said at the top of reading_outputs.txt."""
    items: dict[str, tuple[tuple[str, str], ...]] = {}
    outputs: list[Output] = []
    head, *answers = (HERE / name).read_text(encoding="utf-8").split("\n@@ ")
    for line in head.splitlines():
        if line.startswith("## "):
            name, *texts = line[3:].split(" | ")
            items[name.strip()] = tuple(zip("ABCDEFGHIJ", texts, strict=False))
    for answer in answers:
        declared, _, text = answer.partition("\n")
        style, item, verdict = declared.split()
        labels = () if verdict == "-" else tuple(verdict.split("="))
        assert set(labels) <= {label for label, _ in items[item]}, answer
        outputs.append(Output(style, items[item], labels, text.strip()))
    return outputs
