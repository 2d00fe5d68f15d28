"""The page of a filtered build: waterfall as table and bars, rejected samples by reason, borderline cases, kept ones.

One HTML file without scripts or links to elsewhere. Which samples are shown follows from digests of their ids, so the
same outcome gives the same bytes. Thumbnails are those of the build (grey, 96 pixels): nothing is decoded. Of
credentialed sources neither pictures nor texts are shown unless asked for.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from filters.base import Record
from manifests.catalog import LoadedBuild
from manifests.parts import read_pictures
from medgpt.page import render
from shards.reader import Build

if TYPE_CHECKING:
    from filters.selection import Decision

REJECTED, BORDERLINE, KEPT = 12, 6, 24
"""Samples shown: a reason; on each side of a threshold; kept ones."""
PAPER: Mapping[str, tuple[int, str]] = {
    "biomedica": (63_775, "two subsets whose sizes are not published"),
    "pmc_oa": (477_078, "about 1.65 M panels"),
    "quilt_1m": (359_725, "1,017,712 rows, 35.3 %"),
    "rocov2": (38_861, "59,958 training rows, 64.8 %"),
}
"""Source -> the pairs that the recipe's paper keeps (Table 1, section 3.2), and of what."""
NOT_KNOWN = "thresholds, order of the steps, language model and prompts, release that was filtered"
"""What the paper does not say of its filters."""
_TEXT = 240  # characters of a caption
_THUMBNAIL = 128  # pixels of the longer side on the page


class _Card(NamedTuple):
    """What the page says of a sample's picture and text."""

    thumbnail: bytes | None
    width: int
    height: int
    text: str


def page(loaded: LoadedBuild, decision: "Decision", *, role: str, show_credentialed: bool) -> str:
    """The page as HTML."""
    waterfall, table = decision.waterfall, decision.table
    credentialed = loaded.record["source"]["access"] == "credentialed"
    hidden = credentialed and not show_credentialed
    sections = _sections(decision)
    wanted = {sample for _, _, samples, _ in sections for sample in samples}
    cards = {} if hidden else _cards(loaded, wanted, role)
    shown = table.filter(pc.is_in(table["sample_id"], value_set=_strings(wanted)))
    rows = {row["sample_id"]: row for row in shown.to_pylist()}
    lines = waterfall_lines(waterfall)
    before = [lines[0][1], *(left for _, left, _ in lines)]
    return render(
        Path(__file__).parent, "gallery.html", waterfall=waterfall, role=role, hidden=hidden,
        credentialed=credentialed, lines=lines, paper=paper_line(waterfall), side=_THUMBNAIL,
        steps=[(step, left, whole) for (step, left, _), whole in zip(lines, before, strict=False)],
        sections=[
            (heading, note, [(rows[one], _scores(rows[one], columns, hidden), cards.get(one)) for one in samples])
            for heading, note, samples, columns in sections
        ],
    )  # fmt: skip


def paper_line(waterfall: Mapping[str, Any]) -> str:
    """What the paper keeps of the source, to stand beside a waterfall; empty where it names no count."""
    whole = waterfall["role"] == "train" and waterfall["build"] == waterfall["source"]
    if not whole or waterfall["source"] not in PAPER:
        return ""
    kept, of = PAPER[waterfall["source"]]
    share = f", {waterfall['kept'] / waterfall['read']:.1%}" if waterfall["read"] else ""
    here = f"{waterfall['kept']:,} of {waterfall['read']:,}{share}"
    return f"kept here {here.replace('%', ' %')}; in the paper {kept:,} of {of}; not known of it: {NOT_KNOWN}"


def waterfall_lines(waterfall: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(step, samples left after it, what it did) from read to kept."""
    lines = [("read", int(waterfall["read"]), "")]
    aside = 0
    for step in waterfall["steps"]:
        if "drop" not in step:
            if step["unreadable"]:
                named = ", ".join(f"{count} {reason}" for reason, count in step["reasons"].items())
                aside += step["unreadable"] if step["outcome"] == "keep" else 0
                lines.append((step["step"], step["left"] + aside, f"{named}: {step['outcome']}"))
            continue
        said = f"{step['dropped']:,} dropped ({step['drop']})"
        if step["not_scored"]:
            said += f"; {step['not_scored']:,} not scored: {step['not_scored_outcome']}"
        lines.append((step["step"], step["left"] + aside, said))
    return [*lines, ("kept", int(waterfall["kept"]), "")]


def _sections(decision: "Decision") -> list[tuple[str, str, list[str], Sequence[str]]]:
    """(heading, note, sample ids, score columns to show)."""
    table, stages = decision.table, decision.scored.stages
    columns = {stage.name: stage.columns for stage in stages}
    sections: list[tuple[str, str, list[str], Sequence[str]]] = []
    for reason, count in decision.waterfall["reasons"].items():
        ids = table.filter(pc.equal(table["reason"], reason))["sample_id"].to_pylist()
        note = f"{count:,} samples, {min(count, REJECTED)} of them by the digest of their ids"
        sections.append((f"Dropped: {reason}", note, some(ids, REJECTED), columns.get(reason.partition("/")[0], ())))
    for stage in stages:
        for column, number in stage.drop.thresholds() if stage.drop else ():
            if column not in table.column_names or str(table[column].type) != "double":
                continue
            scored = table.filter(pc.is_valid(table[column]))
            pairs = list(zip(scored["sample_id"].to_pylist(), scored[column].to_pylist(), strict=True))
            for side, name in (False, "below"), (True, "at or above"):
                here = ((sample, value) for sample, value in pairs if (value >= number) == side)
                near = [(abs(value - number), _order(sample), sample) for sample, value in here]
                samples = [sample for _, _, sample in sorted(near)[:BORDERLINE]]
                if samples:
                    note = f"nearest {name} {number:g} in {column}, whatever the verdict"
                    sections.append((f"Borderline: {stage.name}", note, samples, stage.columns))
    for one in decision.waterfall["second_opinions"]:
        shown = (*columns[one["filter"]], *columns[one["rule"]])
        pair = one["filter"], one["rule"]
        for which, (drops, passes) in {"only_filter": pair, "only_rule": pair[::-1]}.items():
            note = f"{one[which]:,} samples that {drops} would drop as {one['rule']} and {passes} would not"
            sections.append((f"Disagreement: {one['filter']} and {one['rule']}", note, one["examples"][which], shown))
    kept = table.filter(table["kept"])["sample_id"].to_pylist()
    note = f"{min(len(kept), KEPT)} of {len(kept):,} by the digest of their ids"
    sections.append(("Kept", note, some(kept, KEPT), ()))
    return sections


def some(ids: Iterable[str], count: int) -> list[str]:
    """A few samples, by the digests of their ids."""
    return sorted(ids, key=_order)[:count]


def _order(sample: str) -> bytes:
    return hashlib.sha256(sample.encode()).digest()


def _strings(values: Iterable[str]) -> Any:
    return pa.array(sorted(values), pa.string())


def _cards(loaded: LoadedBuild, wanted: set[str], role: str) -> dict[str, _Card]:
    texts = {}
    if wanted:
        build = Build(loaded.folder, role=role)
        places = pc.index_in(_strings(wanted), value_set=pa.array(build.ids, pa.string())).to_pylist()
        for place in places:
            record = build[place].record
            caption = Record(record).caption
            texts[record["id"]] = caption if len(caption) <= _TEXT else caption[:_TEXT] + " ..."
    thumbnails: dict[str, tuple[bytes | None, int, int]] = {}
    for _, path in loaded.parts("images", role):
        part = read_pictures(path, ["sample_id", "index", "thumbnail", "width", "height"])
        first = pc.and_(pc.is_in(part["sample_id"], value_set=_strings(wanted)), pc.equal(part["index"], 0))
        for row in part.filter(first).to_pylist():
            if row["thumbnail"]:
                thumbnails[row["sample_id"]] = row["thumbnail"], row["width"], row["height"]
    return {sample: _Card(*thumbnails.get(sample, (None, 1, 1)), text) for sample, text in texts.items()}


def _scores(row: Mapping[str, Any], columns: Sequence[str], hidden: bool) -> list[tuple[str, str]]:
    # A filter ought to give numbers and verdicts only; a text score of a credentialed sample is not trusted to.
    shown = [column for column in columns if isinstance(row.get(column), float if hidden else (float, str))]
    return [(column, f"{row[column]:g}" if isinstance(row[column], float) else row[column]) for column in shown]
