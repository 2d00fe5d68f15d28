"""The proof's measurements in one run: Hamming join, near pictures, near text, forms of items, audits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import audits, hamming_join, near_images, near_text, proof_forms, reports, rewrites


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Figures by part; peers run where `peer_python` or this environment has them (see bench/RESULTS.md)."""
    return {
        "hamming_join": hamming_join.measure(peer_python),
        "near_images": near_images.measure(peer_python),
        "near_text": near_text.measure(peer_python),
        "proof_forms": proof_forms.measure(peer_python),
        "reports": reports.measure(peer_python),
        "rewrites": rewrites.measure(peer_python),
        "audits": audits.measure(peer_python),
    }
