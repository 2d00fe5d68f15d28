"""What the commands of builders print: plans, counts, tables."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from builders.engine.figures import figure_lines
from builders.engine.source import DAMAGED_REASONS, Source
from medgpt.errors import DAMAGED, DONE, NOT_COMPARED
from medgpt.messages import safe
from medgpt.tables import table


def print_plan(source: Source, plan: Any, options: Any, filtering: Any, as_json: bool) -> None:
    """What a build would do, by split; of rows that are counted as they are read there is no number yet."""
    splits: dict[str, dict[str, Any]] = {}
    for job in plan.jobs:
        split = splits.setdefault(
            job.unit.split,
            {"role": job.unit.role, "units": 0, "rows": 0, "done": 0, "input_files": 0, "input_bytes": 0},
        )
        split["units"] += 1
        split["rows"] = split["rows"] + job.take if job.unit.counted and split["rows"] is not None else None
        split["done"] += job.unit.name in plan.reusable
        for name in job.unit.inputs:
            path = options.raw / name
            split["input_files"] += 1
            split["input_bytes"] += path.stat().st_size if path.is_file() else 0
    if as_json:
        chosen = filtering.describe() if filtering else None
        print(json.dumps({"build": plan.build, "target": plan.place, "splits": splits, "filters": chosen}))
        return
    print(f"{source.title} -> {plan.place} (nothing written)")
    rows = [
        (name, s["role"], s["units"], s["rows"] or "-", s["done"], s["input_files"], size_text(s["input_bytes"]))
        for name, s in splits.items()
    ]
    print(table(("split", "role", "units", "rows", "units done", "input files", "input"), rows))
    if source.filters:
        print("\n".join(filtering.lines()) if filtering else "no filter would run")


def summary(document: dict[str, Any], target: Path | str, reused: int) -> dict[str, Any]:
    """The counts of a build, for JSON."""
    names = (
        "build",
        "parameters",
        "metadata_only",
        "published",
        "counts",
        "pictures_without_row",
        "gaps",
        "root",
        "figures",
    )
    return {name: document[name] for name in names if name in document} | {
        "target": str(target),
        "units": len(document["units"]),
        "units_reused": reused,
    }


def format_summary(document: dict[str, Any], target: Path | str, reused: int, advice: Mapping[str, str]) -> str:
    """The counts of a build as text: rows by split beside the publisher's figures, then rejects by reason."""
    counts, published = document["counts"], document["published"]
    rows = [
        (
            split,
            c["role"],
            c["read"],
            published.get(split, "-"),
            c["kept"],
            c["rejected"],
            c["images"],
            f"{c['images_mean']:.2f} ± {c['images_sd']:.2f}" if c["images"] else "-",
            f"{100 * c['prior_share']:.1f} %" if c["with_prior"] else "-",
            size_text(c["bytes"]),
        )
        for split, c in counts["by_split"].items()
    ]
    heads = ("split", "role", "read", "published", "kept", "rejected", "images", "a sample", "with prior", "shards")
    lines = [f"{document['source']['title']} -> {target}", table(heads, rows)]
    if document["metadata_only"]:
        lines.append("metadata only: pictures are named, not read; training refuses these shards")
    if document["limit"] is not None:
        lines.append(f"trial build: the first {document['limit']} rows of each split")
    if counts["rejects"]:
        listed = [
            (reason, count, "damaged" if reason in DAMAGED_REASONS else "rule", advice[reason])
            for reason, count in counts["rejects"].items()
        ]
        lines += ["", f"rejected rows (each with file and row in {target}/rejects)"]
        lines.append(table(("reason", "rows", "kind", "what to do"), listed))
    lines += _other_number(document)
    if document["gaps"]:
        lines += ["", "not read, or not as said:", *gap_lines(document["gaps"])]
    if (left := document["pictures_without_row"]) and left["count"]:
        names = "" if document["source"]["access"] == "credentialed" else f": {', '.join(map(safe, left['first'][:3]))}"
        lines += ["", f"pictures that no row names: {left['count']:,}{names} (more of them in {target}/build.json)"]
    lines += [f"note: {line}" for line in document["parameters"].get("noticed", ())]
    lines += figure_lines(document.get("figures", ()))
    check = "=" if counts["kept"] + counts["rejected"] == counts["read"] else "!="
    lines += [
        "",
        f"kept {counts['kept']} + rejected {counts['rejected']} {check} read {counts['read']}; "
        f"damaged rows: {counts['damaged']}; units: {len(document['units'])} ({reused} reused)",
        f"root {document['root']}",
    ]
    return "\n".join(lines)


def exit_code(document: Mapping[str, Any]) -> int:
    """Of a finished build: 4 where something was not read, 3 where damaged rows were left out, else 0."""
    if document["gaps"]:
        return NOT_COMPARED
    return DAMAGED if document["counts"]["damaged"] else DONE


def gap_lines(gaps: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each gap: where, how many, what."""
    return [
        f"  {safe(gap['file'])}: {gap['count']:,} {gap['what']}"
        + (f", first at {safe(gap['first'])}" * bool(gap["first"]))
        for gap in gaps
    ]


def _other_number(document: Mapping[str, Any]) -> list[str]:
    """The splits that have fewer or more rows than the publisher's, a line each; a trial build always has."""
    published, lines = document["published"], []
    off = {s: published[s] - counts["read"] for s, counts in document["counts"]["by_split"].items() if s in published}
    for word, sign in (("fewer", 1), ("more", -1)):
        if document["limit"] is None and (named := [f"{s} {n * sign:,}" for s, n in off.items() if n * sign > 0]):
            said = (
                f"{word} rows than published: {', '.join(named)} (with --expect published this ends with exit code 4)"
            )
            lines += ["", said]
    return lines


def size_text(count: int) -> str:
    """Bytes as `12.3 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
