"""`python -m shards.stats DATA`: what is in the builds: samples, tokens, tiles, licences, access, lengths.

Everything comes from the manifests in one pass of SQL, no shard is opened. A sample's length here is its text tokens,
144 for each tile and two for each picture; the chat template adds some ten tokens a turn (`shards.packing`).
"""

from __future__ import annotations

import argparse
import html
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.catalog import CatalogError, connect, format_table, one_line, plain
from manifests.messages import complain

if TYPE_CHECKING:
    import duckdb

_BAR = 40
_BLOCKS = " ▏▎▍▌▋▊▉█"

_COUNTS = """
    count(*) AS samples, sum(n_images)::BIGINT AS images, sum(text_tokens)::BIGINT AS text_tokens,
    coalesce(sum(tiles), 0)::BIGINT AS tiles, count(*) FILTER (n_images > 0 AND tiles IS NULL) AS without_pictures,
    sum(tokens)::BIGINT AS tokens, round(avg(tokens))::BIGINT AS mean_tokens,
    quantile_disc(tokens, 0.99) AS tokens_99, max(tokens) AS longest
"""

_TOKENS = "text_tokens + {tile} * coalesce(tiles, 0) + {image} * n_images"

_GROUPS = {
    "builds": ("build, role, split", "build, role DESC, split"),
    "licences": ("license AS licence, access, role", "ALL"),
    "stages": ("stage, task, role", "ALL"),
}

_HISTOGRAMS = {
    # Bin k holds numbers of k bits: from 2^(k-1) to 2^k - 1.
    "lengths": """
        SELECT role, CASE WHEN tokens = 0 THEN 0 ELSE floor(log2(tokens))::INTEGER + 1 END AS bits,
               count(*) AS samples, sum(tokens)::BIGINT AS tokens
        FROM lengths GROUP BY ALL ORDER BY ALL
    """,
    "tiles": """
        SELECT role, tiles, count(*) AS samples FROM lengths WHERE n_images > 0 AND tiles IS NOT NULL
        GROUP BY ALL ORDER BY ALL
    """,
}


@dataclass(frozen=True)
class Statistics:
    """Rows of every table, as dictionaries."""

    data: str
    tables: dict[str, list[dict[str, Any]]]
    excluded: dict[str, int] | None
    """Train samples of each build that the proof takes out; None if nothing is proved."""

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        return {"data": self.data, **self.tables, "excluded": self.excluded}


def collect(data: Path) -> Statistics:
    """Count everything under `data`. Raises: `CatalogError`."""
    import duckdb

    from manifests.certificate import EXCLUSIONS_FILE
    from shards.packing import IMAGE_TOKENS, TILE_TOKENS

    tokens = _TOKENS.format(tile=TILE_TOKENS, image=IMAGE_TOKENS)
    exclusions = data / "proof" / EXCLUSIONS_FILE
    excluded = None
    with connect(data) as connection:
        try:
            lengths = connection.view("samples").project(f"* EXCLUDE (length), {tokens} AS tokens")
            lengths.create_view("lengths")
            tables = {
                name: _rows(lengths.aggregate(f"{groups}, {_COUNTS}").order(order))
                for name, (groups, order) in _GROUPS.items()
            }
            tables |= {name: _rows(connection.sql(query)) for name, query in _HISTOGRAMS.items()}
            if exclusions.is_file():
                query = "SELECT train_build, count(*) FROM read_parquet(?) GROUP BY ALL ORDER BY ALL"
                excluded = dict(connection.execute(query, [str(exclusions)]).fetchall())
        except duckdb.Error as error:
            raise CatalogError(f"{one_line(error)}: build it again") from error
    return Statistics(str(data), tables, excluded)


def _rows(relation: duckdb.DuckDBPyRelation) -> list[dict[str, Any]]:
    return [dict(zip(relation.columns, map(plain, row), strict=True)) for row in relation.fetchall()]


def as_text(statistics: Statistics) -> str:
    """The tables and histograms for a terminal."""
    tables = statistics.tables
    parts = []
    for title, name in (("Builds", "builds"), ("Licences and access", "licences"), ("Stages and tasks", "stages")):
        rows = _without_empty(tables[name])
        parts.append(f"{title}\n{format_table(list(rows[0]), [list(row.values()) for row in rows])}" if rows else title)
    for role in ("train", "eval"):
        lengths = [(_length_label(row["bits"]), row["samples"]) for row in tables["lengths"] if row["role"] == role]
        tiles = [(str(row["tiles"]), row["samples"]) for row in tables["tiles"] if row["role"] == role]
        if lengths:
            parts.append(f"Tokens of a sample, {role}\n{_bars(lengths)}")
        if tiles:
            parts.append(f"Tiles of a sample with pictures, {role}\n{_bars(tiles)}")
    parts.append(_summary(statistics))
    return "\n\n".join(parts)


def _without_empty(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The column of metadata-only samples is there only if there are any."""
    if any(row["without_pictures"] for row in rows):
        return rows
    return [{name: value for name, value in row.items() if name != "without_pictures"} for row in rows]


def _length_label(bits: int) -> str:
    return "0" if bits == 0 else f"{1 << (bits - 1)}-{(1 << bits) - 1}"


def _bars(rows: Sequence[tuple[str, int]]) -> str:
    longest, width = max(count for _, count in rows), max(len(label) for label, _ in rows)
    lines = []
    for label, count in rows:
        eighths = max(1, round(count * _BAR * 8 / longest))
        bar = "█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()
        lines.append(f"  {label:>{width}}  {bar:<{_BAR}}  {count:,}")
    return "\n".join(lines)


def _summary(statistics: Statistics) -> str:
    lines = []
    for role in ("train", "eval"):
        rows = [row for row in statistics.tables["builds"] if row["role"] == role]
        if rows:
            total = {name: sum(row[name] for row in rows) for name in ("samples", "images", "text_tokens", "tiles")}
            lines.append(
                f"{role}: {total['samples']:,} samples, {total['images']:,} pictures, {total['text_tokens']:,} tokens "
                f"of text, {total['tiles']:,} tiles"
            )
    if statistics.excluded is None:
        lines.append("nothing is proved yet: python -m manifests.prove")
    else:
        lines.append(f"the proof takes out {sum(statistics.excluded.values()):,} train samples, still counted above")
    return "\n".join(lines)


_STYLE = """
:root { --paper: #fcfcfb; --ink: #1c2126; --soft: #59626b; --line: #dcdfe2; --bar: #2a72b2; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171a; --ink: #e4e7ea; --soft: #9aa4ad; --line: #343a40; --bar: #84b7e0; }
}
body { margin: 0 auto; padding: 2rem clamp(1rem, 4vw, 3rem); max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; } h2 { margin-top: 2.5rem; font-size: 1.1rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .875rem; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
svg { display: block; max-width: 100%; height: auto; } svg rect { fill: var(--bar); }
svg text { fill: var(--soft); font: 12px system-ui, sans-serif; } svg .value { fill: var(--ink); }
pre { white-space: pre-wrap; }
"""


def as_html(statistics: Statistics) -> str:
    """The same as one page that needs nothing else: tables, and histograms as inline SVG."""
    tables = statistics.tables
    parts = [f"<p>{html.escape(line)}</p>" for line in _summary(statistics).splitlines()]
    for role in ("train", "eval"):
        lengths = [row for row in tables["lengths"] if row["role"] == role]
        if lengths:
            parts.append(f"<h2>Tokens of a sample, {role}</h2>")
            parts.append(_svg([(_length_label(row["bits"]), row["samples"]) for row in lengths], "samples"))
            parts.append(f"<h2>Where the tokens are: samples of each length taken together, {role}</h2>")
            parts.append(_svg([(_length_label(row["bits"]), row["tokens"]) for row in lengths], "tokens"))
        tiles = [(str(row["tiles"]), row["samples"]) for row in tables["tiles"] if row["role"] == role]
        if tiles:
            parts += [f"<h2>Tiles of a sample with pictures, {role}</h2>", _svg(tiles, "samples")]
    for title, name in (("Builds", "builds"), ("Licences and access", "licences"), ("Stages and tasks", "stages")):
        parts += [f"<h2>{title}</h2>", _html_table(_without_empty(tables[name]))]
    return page(f"Statistics of {Path(statistics.data).name}", _STYLE, "\n".join(parts))


def page(title: str, style: str, body: str) -> str:
    """A page without scripts that fetches nothing; `body` is HTML."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta name="color-scheme" content="light dark">\n<title>{html.escape(title)}</title>\n'
        f"<style>{style}</style>\n<h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )


def _svg(rows: Sequence[tuple[str, int]], unit: str) -> str:
    """A bar chart, one bar a line."""
    height, label_width, bar_width = 22, 130, 480
    longest = max(value for _, value in rows)
    bars = []
    for number, (label, value) in enumerate(rows):
        top, width = number * height, max(1.0, bar_width * value / longest)
        bars.append(
            f'<text x="{label_width - 8}" y="{top + 15}" text-anchor="end">{html.escape(label)}</text>'
            f'<rect x="{label_width}" y="{top + 3}" width="{width:.1f}" height="{height - 6}"/>'
            f'<text class="value" x="{label_width + width + 6:.1f}" y="{top + 15}">{value:,}</text>'
        )
    described = f"{unit} by bin: " + ", ".join(f"{label}: {value}" for label, value in rows)
    size = label_width + bar_width + 130, height * len(rows)
    return (
        f'<svg viewBox="0 0 {size[0]} {size[1]}" width="{size[0]}" role="img" aria-label="{html.escape(described)}">'
        f"{''.join(bars)}</svg>"
    )


def _html_table(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "<p>none</p>"
    head = "".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in rows[0])
    body = "".join(f"<tr>{''.join(map(_html_cell, row.values()))}</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _html_cell(value: object) -> str:
    if isinstance(value, int | float):
        return f'<td class="number">{value:,}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if the builds cannot be read."""
    parser = argparse.ArgumentParser(
        prog="python -m shards.stats",
        description="Count samples, tokens, tiles, licences and lengths of every build under DATA.",
        epilog="example: python -m shards.stats data --html stats.html",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds, or one build")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    try:
        statistics = collect(options.data)
        if options.html:
            from manifests.atomic import write_atomic

            write_atomic(options.html, as_html(statistics).encode())
    except (CatalogError, OSError) as error:
        complain(error)
        return 2
    print(json.dumps(statistics.as_json(), indent=2) if options.json else as_text(statistics))
    if options.html and not options.json:
        print(f"{options.html} has the plots")
    return 0


if __name__ == "__main__":
    sys.exit(main())
