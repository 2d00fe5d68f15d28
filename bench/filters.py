"""The whole chain of the default recipe over pictures of 512 pixels: pictures a CPU-second, on average and at worst.

Average: as `filters.run` works, cheap filters first, a sample that one throws out is not shown to the rest. Worst case:
every filter sees every picture (`--all-scores`). Both include reading the shard, decoding and writing the scores. The
limit is the same pictures decoded and nothing else. Half of the pictures are clean, half have text, screens, panels,
marks or faces; composites and insets are made from clean ones by seeded rules (bench/filters_pictures.py).
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import statistics
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any

from PIL import Image

from bench.filters_pictures import DATA, clean_bases, composite, labelled, narrator_cases
from filters.base import Filter, Picture, Record, decode
from filters.recipe import FilterPlan, load_recipe

SIDE = 512
GOAL_AVERAGE, GOAL_WORST = 20.0, 8.0
"""Pictures a second and core: what the project set itself."""
SOURCE = "pmc_oa"
EACH = 25
"""Pictures of a kind of artifact."""
CAPTION = "Axial section of the lesion after treatment, {number}."
"""Nothing that a rule on captions throws out: the pictures decide."""


def measure(peer_python: Path | None, each: int = EACH) -> dict[str, Any]:
    """Both modes over a build of all kinds of pictures, and every kind alone without early exit. No peer has these."""
    del peer_python
    if not (DATA / "artifacts" / "labels.csv").is_file():
        return {"skipped": "no labelled pictures in shared/data/artifacts"}
    from builders.engine.command import main as build
    from builders.engine.registry import load
    from filters.scores import run_build
    from shards.reader import Build

    recipe = load_recipe()
    plan = recipe.plan(SOURCE)
    assert plan is not None
    made = {step.name: step.make() for step in plan.steps}
    pictures = kinds(each)
    with tempfile.TemporaryDirectory() as folder:
        raw, data = Path(folder) / "raw", Path(folder) / "data"
        _write(raw, [picture for part in pictures.values() for picture in part])
        arguments = ["--raw", str(raw), "--out", str(data / "built"), "--json", "--filters", "none", "--workers", "1"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = build(load(SOURCE), arguments)
        if code:
            raise RuntimeError(f"the pictures of the bench were not built: exit code {code}")
        target = data / "built" / SOURCE
        stored = list(Build(target, role="train"))
        seconds = {}
        for name, all_scores in (("average", False), ("worst_case", True)):
            started = time.process_time()
            result = run_build(target, Path(folder) / name, recipe, all_scores=all_scores)
            seconds[name] = time.process_time() - started
            assert result is not None and result.scored == len(stored)
        started = time.process_time()
        for sample in stored:
            decode(sample)
        seconds["decoding_alone"] = time.process_time() - started
    alone = {name: [_timed(data, made, plan) for data in part] for name, part in pictures.items()}
    by_kind = {name: [sum(parts.values()) for parts in part] for name, part in alone.items()}
    every = sorted(value for part in by_kind.values() for value in part)
    rates = {name: round(len(stored) / value, 1) for name, value in seconds.items()}
    return {
        "recipe": f"{recipe.name} {recipe.version}",
        "filters": [step.name for step in plan.steps],
        "pictures": {name: len(part) for name, part in pictures.items()},
        "images_per_cpu_second": rates,
        "goals": {"average": GOAL_AVERAGE, "worst_case": GOAL_WORST},
        "without_early_exit_by_kind": {name: round(len(part) / sum(part), 1) for name, part in by_kind.items()},
        "milliseconds_a_picture": {
            "median": round(1000 * statistics.median(every), 1),
            "95th percentile": round(1000 * every[int(0.95 * len(every))], 1),
            "slowest": round(1000 * every[-1], 1),
        },
        "milliseconds_by_filter": {
            name: round(1000 * statistics.fmean(parts[name] for part in alone.values() for parts in part), 2)
            for name in ("decoding", *made)
        },
    }


def kinds(each: int) -> dict[str, list[bytes]]:
    """At most `each` pictures of every kind of artifact and about as many clean ones as all of these; longest side 512.

    As JPEG; the same ones every time. Clean ones are radiographs and, as many, tissue and photographs.
    """
    rule = random.Random("chain")
    rows = labelled()
    faces = list(narrator_cases(each // 2))
    wanted = {
        "clean: radiographs": [case.data for case in faces if case.kind == "radiographs"],
        "clean: tissue and others": [case.data for case in faces if case.kind == "tissue and others"],
        "text": [data for row, data in rows if row["label_overlay_text"] == "1"],
        "screens": [data for row, data in rows if row["label_screen"] != "none"],
        "compound or marked": [
            data for row, data in rows if row["label_panel"] == "compound" or row["label_drawn_mark"] == "1"
        ],
        "made: faces inset": [case.data for case in faces if case.kind.startswith("insets")],
    }
    found = {}
    for name, part in wanted.items():
        count = 5 * each // 2 if name.startswith("clean") else each
        found[name] = [_resized(data) for data in rule.sample(part, min(count, len(part)))]
    bases = clean_bases()
    found["made: composites"] = [_encoded(composite(bases, rule)[0]) for _ in range(each)]
    return found


def _resized(data: bytes) -> bytes:
    return _encoded(Image.open(io.BytesIO(data)).convert("RGB"))


def _encoded(image: Image.Image) -> bytes:
    scale = SIDE / max(image.size)
    size = tuple(max(16, round(side * scale)) for side in image.size)
    buffer = io.BytesIO()
    image.resize((size[0], size[1]), Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _write(raw: Path, pictures: list[bytes]) -> None:
    """A raw tree of PMC-OA."""
    raw.mkdir(parents=True)
    rows = []
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        for number, picture in enumerate(pictures):
            name = f"PMC{number + 1}_F1_0.jpg"
            archive.writestr(f"images/{name}", picture)
            rows.append(json.dumps({"image": name, "caption": CAPTION.format(number=number)}) + "\n")
    for split, part in (("train", rows[:-2]), ("valid", rows[-2:-1]), ("test", rows[-1:])):  # none may be empty
        (raw / f"{split}.jsonl").write_text("".join(part))


def _timed(data: bytes, made: dict[str, Filter], plan: FilterPlan) -> dict[str, float]:
    """CPU seconds of decoding and of every filter for one picture, none of them left out."""
    seconds = {}
    content = [{"type": "text", "text": CAPTION.format(number=1), "index": None}]
    sample = {"id": "x", "source": SOURCE, "subset": None, "images": [], "messages": [{"content": content}]}
    started = time.process_time()
    record = Record(sample, [Picture(data)])
    seconds["decoding"] = time.process_time() - started
    for step in plan.steps:
        started = time.process_time()
        [scores] = made[step.name].score([record])
        seconds[step.name] = time.process_time() - started
        record.found |= {f"{step.name}.{score}": value for score, value in scores.items()}
    return seconds


def main() -> None:
    """Measure and print as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.filters", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="example: python -m bench.filters --each 20",
    )  # fmt: skip
    parser.add_argument(
        "--each", type=int, default=EACH, metavar="N", help=f"pictures of a kind of artifact (default {EACH})"
    )
    print(json.dumps(measure(None, parser.parse_args().each), indent=1))


if __name__ == "__main__":
    main()
