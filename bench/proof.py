"""The proof's measurements in one run: Hamming join, near pictures, near text, audits over 20 M rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import audits, hamming_join, near_images, near_text


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Figures by part; peers run where `peer_python` or this environment has them (see bench/RESULTS.md)."""
    return {
        "hamming_join": hamming_join.measure(peer_python),
        "near_images": near_images.measure(peer_python),
        "near_text": near_text.measure(peer_python),
        "audits": audits.measure(peer_python),
    }
