"""`python -m shards.stats DATA`: what is in the builds: samples, tokens, tiles, licences, access, lengths.

Everything comes from the manifests in one pass of SQL, no shard is opened. A sample's length here is its text tokens,
144 for each tile and two for each picture; the chat template adds some ten tokens a turn (`shards.packing`).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.catalog import connect, query_rows
from medgpt.arguments import command_parser
from medgpt.errors import run
from medgpt.tables import table

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

_TABLES = {"Builds": "builds", "Licences and access": "licences", "Stages and tasks": "stages"}
_ROLES = ("train", "eval")

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
    """Count everything under `data`. Raises: `UserError`."""
    from manifests.proof.certificate import EXCLUSIONS_FILE
    from shards.packing import IMAGE_TOKENS, TILE_TOKENS

    tokens = _TOKENS.format(tile=TILE_TOKENS, image=IMAGE_TOKENS)
    exclusions = data / "proof" / EXCLUSIONS_FILE
    excluded = None
    with connect(data) as connection:
        query_rows(connection, f"CREATE VIEW lengths AS FROM samples SELECT * EXCLUDE (length), {tokens} AS tokens")
        tables = {
            name: query_rows(connection, f"FROM lengths SELECT {groups}, {_COUNTS} GROUP BY ALL ORDER BY {order}")
            for name, (groups, order) in _GROUPS.items()
        }
        tables |= {name: query_rows(connection, query) for name, query in _HISTOGRAMS.items()}
        if exclusions.is_file():
            query = "SELECT train_build, count(*) AS n FROM read_parquet(?) GROUP BY ALL ORDER BY ALL"
            excluded = {row["train_build"]: row["n"] for row in query_rows(connection, query, [str(exclusions)])}
    return Statistics(str(data), tables, excluded)


def as_text(statistics: Statistics) -> str:
    """The tables and histograms for a terminal."""
    tables = statistics.tables
    parts = []
    for title, name in _TABLES.items():
        found = _without_empty(tables[name])
        parts.append(f"{title}\n{table(list(found[0]), [list(row.values()) for row in found])}" if found else title)
    for role in _ROLES:
        for title, name in (("Tokens of a sample", "lengths"), ("Tiles of a sample with pictures", "tiles")):
            if bars := [(_label(row), row["samples"]) for row in tables[name] if row["role"] == role]:
                parts.append(f"{title}, {role}\n{_bars(bars)}")
    parts.append(_summary(statistics))
    return "\n\n".join(parts)


def _without_empty(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The column of metadata-only samples is there only if there are any."""
    if any(row["without_pictures"] for row in rows):
        return rows
    return [{name: value for name, value in row.items() if name != "without_pictures"} for row in rows]


def _label(row: dict[str, Any]) -> str:
    """The bin of a row of a histogram: a number of tiles, or the numbers of tokens of so many bits."""
    if "tiles" in row:
        return str(row["tiles"])
    return "0" if row["bits"] == 0 else f"{1 << (row['bits'] - 1)}-{(1 << row['bits']) - 1}"


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
    for role in _ROLES:
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


def as_html(statistics: Statistics) -> str:
    """The same as one page that needs nothing else: tables, and histograms as inline SVG."""
    from medgpt.page import render

    histograms = []
    for role in _ROLES:
        lengths = [row for row in statistics.tables["lengths"] if row["role"] == role]
        tiles = [row for row in statistics.tables["tiles"] if row["role"] == role]
        for heading, unit, rows in (
            (f"Tokens of a sample, {role}", "samples", lengths),
            (f"Where the tokens are: samples of each length taken together, {role}", "tokens", lengths),
            (f"Tiles of a sample with pictures, {role}", "samples", tiles),
        ):
            bars = [(_label(row), row[unit], row[unit]) for row in rows]
            histograms += [(heading, unit, bars)] if bars else []
    tables = []
    for heading, name in _TABLES.items():
        rows = _without_empty(statistics.tables[name])
        numbers = {column for row in rows for column, value in row.items() if isinstance(value, int | float)}
        columns = [(column.replace("_", " "), "number" if column in numbers else "") for column in (rows or [{}])[0]]
        tables.append((heading, columns, [row.values() for row in rows]))
    return render(
        Path(__file__).parent, "stats.html", name=Path(statistics.data).name,
        summary=_summary(statistics).splitlines(), histograms=histograms, tables=tables,
    )  # fmt: skip


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 if the builds cannot be read."""
    said = "Count samples, tokens, tiles, licences and lengths of every build under DATA."
    parser = command_parser("shards.stats", said, "example: python -m shards.stats data --html stats.html")
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds, or one build")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots, too")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    statistics = collect(options.data)
    if options.html:
        from medgpt.atomic import write_atomic

        write_atomic(options.html, as_html(statistics).encode())
    print(json.dumps(statistics.as_json(), indent=2) if options.json else as_text(statistics))
    if options.html and not options.json:
        print(f"{options.html} has the plots")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
