"""Scoring: seconds of CPU for 20,000 answers (limit 5), and for the paper's 2,231 reports without models."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import orjson

RECORDS = 20_000
LIMIT_S = 5.0
REPORTS = 2_231
_LABELS = "ABCDE"
_WORDS = (
    "the film shows a right lower lobe consolidation with small pleural effusion and no pneumothorax heart size is "
    "normal mild edema stable line tip in the superior vena cava fever cough since three days answer option is likely"
).split()


def _prose(state: random.Random, words: int) -> str:
    return " ".join(state.choice(_WORDS) for _ in range(words)).capitalize() + "."


def _answer(state: random.Random, label: str, text: str) -> str:
    """Forms as models give them: bare, with text, declared after reasoning, boxed, in channels, no answer."""
    reasoning = "\n".join(_prose(state, 40) for _ in range(6))
    return state.choice(
        (
            label,
            f"**{label}. {text}**",
            f"Answer: {label}",
            f"{reasoning}\n\nThe answer is ({label}).",
            f"<think>{reasoning}</think>\\boxed{{{label}}}",
            f"<|channel|>analysis<|message|>{reasoning}<|end|><|start|>assistant<|channel|>final<|message|>{label}",
            reasoning,
        )
    )


def _write(folder: Path, kind: str, number: int) -> None:
    state = random.Random(number)
    items, predictions = [], []
    for row in range(number):
        options = [[label, _prose(state, 3)] for label in _LABELS] if kind == "choice" else []
        gold = state.choice(_LABELS) if options else _prose(state, 60)
        base = {"task": "bench", "variant": "official", "sample_id": f"bench/test/{row}", "benchmark": "00"}
        text = _answer(state, gold, dict(options)[gold]) if options else _prose(state, 60)
        items.append(
            {**base, "kind": kind, "options": options, "gold": gold, "cluster": str(row // 3), "slice": "test",
             "exemplar": "", "images": 1, "access": "open", "max_new_tokens": 512, "prompt_sha256": str(row)}
        )  # fmt: skip
        predictions.append({**base, "prompt_sha256": str(row), "outcome": "answered", "text": text})
    folder.mkdir()
    for name, rows in (("items", items), ("predictions", predictions)):
        (folder / f"{name}.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def measure(peer_python: Path | None) -> dict[str, Any]:
    """From files to files: read, grade, bootstrap, write. No peer scores with one option or wrong and keeps samples."""
    del peer_python
    from eval.score import score_folder

    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for kind, number in (("choice", RECORDS), ("report", REPORTS)):
            folder = Path(scratch) / kind
            _write(folder, kind, number)
            started = time.process_time()
            summary = score_folder(folder, folder)
            seconds = time.process_time() - started
            assert summary["items"] == number
            figures |= {f"{kind}_records": number, f"{kind}_cpu_s": round(seconds, 2)}
    return figures | {"choice_limit_s": LIMIT_S, "choice_share_of_limit": round(figures["choice_cpu_s"] / LIMIT_S, 2)}
