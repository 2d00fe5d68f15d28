"""The page of a filtered build: waterfall as table and bars, rejected samples by reason, borderline cases, kept ones.

One HTML file without scripts or links to elsewhere. Which samples are shown follows from digests of their ids, so the
same outcome gives the same bytes. Thumbnails are those of the manifest (grey, 96 pixels): nothing is decoded. Of
credentialed sources neither pictures nor texts are shown unless asked for.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.catalog import LoadedBuild
from shards.reader import Build

if TYPE_CHECKING:
    from filters.selection import Decision

REJECTED, BORDERLINE, KEPT = 12, 6, 24
"""Samples shown: a reason; on each side of a threshold; kept ones."""
_TEXT = 240  # characters of a caption
_THUMBNAIL = 128  # pixels of the longer side on the page

_STYLE = """
body{font:14px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1100px;padding:0 1rem;color:#222}
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem;border-bottom:1px solid #ddd}
table{border-collapse:collapse}td,th{padding:.2rem .7rem;text-align:left}td.n,th.n{text-align:right}
tr:nth-child(even){background:#f6f6f6}code{background:#f1f1f1;padding:0 .2rem}
.cards{display:flex;flex-wrap:wrap;gap:.8rem}.card{width:160px;font-size:11px;overflow-wrap:anywhere}
.card .p{height:128px;background:#eee;display:flex;align-items:center;justify-content:center;color:#888}
.t{color:#555}
"""


@dataclass(frozen=True)
class _Card:
    """What the page says of a sample's picture and text."""

    thumbnail: bytes | None
    width: int
    height: int
    text: str


def page(loaded: LoadedBuild, decision: Decision, *, role: str, show_credentialed: bool) -> str:
    """The page as HTML."""
    waterfall, table = decision.waterfall, decision.table
    hidden = loaded.record["source"]["access"] == "credentialed" and not show_credentialed
    sections = _sections(decision)
    wanted = {sample for _, _, samples, _ in sections for sample in samples}
    cards = {} if hidden else _cards(loaded, wanted, role)
    shown = table.filter(pc.is_in(table["sample_id"], value_set=_strings(wanted)))
    rows = {row["sample_id"]: row for row in shown.to_pylist()}
    recipe = waterfall["recipe"]
    title = f"{waterfall['build']}: what the filters kept"
    body = [
        f"<h1>{escape(title)}</h1>",
        f"<p>Recipe {escape(recipe['name'])} {recipe['version']} (<code>{escape(recipe['sha256'][:16])}</code>), build "
        f"<code>{escape(waterfall['root'][:16])}</code>, role {escape(role)}: {waterfall['read']:,} read, "
        f"{waterfall['kept']:,} kept, {waterfall['dropped']:,} dropped.</p>",
    ]
    body += [f"<p>Took no part: {escape(name)} ({escape(why)}).</p>" for name, why in waterfall["left_out"].items()]
    if hidden:
        body.append("<p>Credentialed: pictures and texts are left out; --show-credentialed shows them.</p>")
    body += [waterfall_svg(waterfall), _table(waterfall)]
    for heading, note, samples, columns in sections:
        body.append(f"<h2>{escape(heading)}</h2><p class=t>{escape(note)}</p><div class=cards>")
        body += [_card(rows[sample], cards.get(sample), columns, hidden) for sample in samples]
        body.append("</div>")
    return (
        f"<!doctype html><html lang=en><head><meta charset=utf-8><title>{escape(title)}</title>"
        f"<style>{_STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )


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


def waterfall_svg(waterfall: Mapping[str, Any]) -> str:
    """The waterfall as bars, inline SVG; what a step took away is the pale end of its bar."""
    lines = waterfall_lines(waterfall)
    total, height, left, width = max(1, waterfall["read"]), 22, 190, 620
    parts = []
    before = lines[0][1]
    for number, (step, count, _) in enumerate(lines):
        y = number * height
        full, now = width * before / total, width * count / total
        parts.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(step)}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{full:.1f}" height="16" fill="#f2c9c0"/>'
            f'<rect x="{left}" y="{y + 3}" width="{now:.1f}" height="16" fill="#4a7fb5"/>'
            f'<text x="{left + full + 6:.1f}" y="{y + 15}">{count:,}</text>'
        )
        before = count
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{len(lines) * height}" '
        f'font-family="system-ui,sans-serif" font-size="12" role="img" aria-label="waterfall">{"".join(parts)}</svg>'
    )


def _table(waterfall: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(step)}</td><td class=n>{count:,}</td><td>{escape(said)}</td></tr>"
        for step, count, said in waterfall_lines(waterfall)
    )
    return f"<table><tr><th>step</th><th class=n>left</th><th></th></tr>{rows}</table>"


def _sections(decision: Decision) -> list[tuple[str, str, list[str], Sequence[str]]]:
    """(heading, note, sample ids, score columns to show)."""
    table, stages = decision.table, decision.scored.stages
    columns = {stage.name: stage.columns for stage in stages}
    sections: list[tuple[str, str, list[str], Sequence[str]]] = []
    for reason, count in decision.waterfall["reasons"].items():
        ids = table.filter(pc.equal(table["reason"], reason))["sample_id"].to_pylist()
        note = f"{count:,} samples, {min(count, REJECTED)} of them by the digest of their ids"
        sections.append((f"Dropped: {reason}", note, _some(ids, REJECTED), columns.get(reason.partition("/")[0], ())))
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
    kept = table.filter(table["kept"])["sample_id"].to_pylist()
    note = f"{min(len(kept), KEPT)} of {len(kept):,} by the digest of their ids"
    sections.append(("Kept", note, _some(kept, KEPT), ()))
    return sections


def _some(ids: Iterable[str], count: int) -> list[str]:
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
            texts[record["id"]] = _caption(record)
    thumbnails: dict[str, tuple[bytes, int, int]] = {}
    for _, path in loaded.parts("images", role):
        part = pq.read_table(
            path,
            columns=["sample_id", "thumbnail", "width", "height"],
            filters=[("sample_id", "in", wanted), ("index", "=", 0)] if wanted else [("index", "<", 0)],
        )
        for row in part.to_pylist():
            if row["thumbnail"]:
                thumbnails[row["sample_id"]] = row["thumbnail"], row["width"], row["height"]
    cards = {}
    for sample, text in texts.items():
        thumbnail, width, height = thumbnails.get(sample, (None, 1, 1))
        cards[sample] = _Card(thumbnail, width, height, text)
    return cards


def _caption(record: Mapping[str, Any]) -> str:
    last = (record["messages"] or [{"content": []}])[-1]
    text = " ".join(part["text"] for part in last["content"] if part["type"] == "text")
    return text if len(text) <= _TEXT else text[:_TEXT] + " ..."


def _card(row: Mapping[str, Any], card: _Card | None, columns: Sequence[str], hidden: bool) -> str:
    picture = "no picture"
    if card is not None and card.thumbnail is not None:
        scale = _THUMBNAIL / max(card.width, card.height)
        width, height = max(1, round(card.width * scale)), max(1, round(card.height * scale))
        data = base64.b64encode(card.thumbnail).decode()
        picture = f'<img src="data:image/jpeg;base64,{data}" width="{width}" height="{height}" alt="">'
    # A filter ought to give numbers and verdicts only; a text score of a credentialed sample is not trusted to.
    shown = [column for column in columns if isinstance(row.get(column), float if hidden else (float, str))]
    scores = "".join(f"<br>{escape(column)}: {escape(_score(row[column]))}" for column in shown)
    verdict = "kept" if row["kept"] else f"dropped: {', '.join(row['reasons'])}"
    text = f"<br><span class=t>{escape(card.text)}</span>" if card is not None else ""
    said = f"{escape(row['sample_id'])}<br>{escape(verdict)}{scores}{text}"
    return f"<div class=card><div class=p>{picture}</div>{said}</div>"


def _score(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
