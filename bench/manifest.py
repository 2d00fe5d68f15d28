"""Manifest append and catalogue: rows a CPU-second, and seconds until a catalogue of a million rows answers."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from manifests.parts import MANIFEST_VERSION, SAMPLES, PartRows
from medgpt.groups import GROUP_KEYS

ROWS = 1_000_000
PART_ROWS = 50_000


def _row(number: int) -> dict[str, Any]:
    digest = hashlib.sha256(number.to_bytes(8, "big")).digest()
    return {
        "sample_id": f"bench/train/{number}", "subset": None, "task": "caption", "license": "CC0-1.0",
        "shard": "bench-train-00000.tar", "offset": 1000 * number, "length": 700, "sha256": digest, "n_images": 0,
        "tiles": 0, "text_tokens": 150, "stem_sha256": digest, "stem_options_sha256": digest, "caption_sha256": None,
        **dict.fromkeys(GROUP_KEYS), "question_id": f"bench/{number}", "file": "train.jsonl", "row": str(number),
    }  # fmt: skip


def measure(peer_python: Path | None) -> dict[str, Any]:
    """Append: rows as dictionaries to fsynced Parquet. Catalogue: a fresh connection to 20 parts, then a count."""
    del peer_python
    constants = {"build": "bench", "unit": "train-00000", "source": "bench", "role": "train", "split": "train"}
    units = []
    with tempfile.TemporaryDirectory() as folder:
        build = Path(folder) / "bench"
        (build / "manifest").mkdir(parents=True)
        seconds = 0.0
        for start in range(0, ROWS, PART_ROWS):
            rows = [_row(number) for number in range(start, start + PART_ROWS)]
            unit = f"train-{start // PART_ROWS:05d}"
            started = time.process_time()
            path = build / "manifest" / f"{unit}.parquet"
            own = {"unit": unit, "stage": "instruct", "access": "open", "metadata_only": False}
            columns = PartRows(SAMPLES, constants | own, path, "bench")
            for row in rows:
                columns.append(row)
            columns.write()
            seconds += time.process_time() - started
            parts = [{"file": f"manifest/{unit}.parquet", "bytes": path.stat().st_size, "sha256": ""}]
            units.append(
                {"unit": unit, "role": "train", "split": "train", "read": PART_ROWS, "kept": PART_ROWS, "rejected": 0,
                 "damaged": 0, "shards": [], "parts": parts}
            )  # fmt: skip
        size = sum(path.stat().st_size for path in (build / "manifest").iterdir())
        source = dict.fromkeys(
            ("name", "title", "homepage", "revision", "license", "access", "stage", "task", "modality", "paper"),
            "bench",
        )
        document = {
            "format": 1, "build": "bench", "source": source, "parameters": {}, "limit": None, "metadata_only": False,
            "code_sha256": "", "fingerprint_recipe": "bench", "schema_version": 1, "manifest_version": MANIFEST_VERSION,
            "published": {}, "counts": {}, "units": units, "root": "",
        }  # fmt: skip
        (build / "build.json").write_text(json.dumps(document))
        from manifests.catalog import connect

        opened = []
        for _ in range(5):
            started = time.perf_counter()
            with connect(Path(folder)) as connection:
                [(count,)] = connection.execute("SELECT count(*) FROM samples").fetchall()
            opened.append(time.perf_counter() - started)
            assert count == ROWS
    return {
        "rows": ROWS,
        "append_rows_per_cpu_s": round(ROWS / seconds),
        "parquet_bytes_per_row": round(size / ROWS, 1),
        "catalogue_open_and_count_s": round(sorted(opened)[2], 3),
    }
