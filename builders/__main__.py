"""`python -m builders`: the table of sources, what the publisher has and what is built here."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from builders.engine.registry import sources
from builders.engine.source import Source
from medgpt.arguments import command_parser
from medgpt.errors import DONE, UserError, run
from medgpt.tables import markdown, table


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; exit code 0, or 2 where a build here cannot be read."""
    parser = command_parser(
        "builders",
        "List the sources with stage, licence, access, published counts and what is built here.",
        "examples: python -m builders --data data    python -m builders.slake --help",
    )
    add = parser.add_argument
    add("--data", type=Path, default=Path("data"), metavar="DIR", help="where builds are (default data)")
    add("--json", action="store_true", help="print JSON")
    add("--markdown", action="store_true", help="print the table of docs/sources.md (what is built here left out)")
    args = parser.parse_args(arguments)
    built = _built(args.data)
    rows = [_row(source, built) for source in sources()]
    if args.json or args.markdown:
        print(json.dumps(rows, ensure_ascii=False) if args.json else recipe_table(rows))
        return DONE
    heads = ("source", "stage", "modality", "licence", "access", "published", "built here")
    names = ("name", "stage", "modality", "license", "access")
    print(table(heads, [(*(row[name] for name in names), _pairs(row["published"]), _here(row)) for row in rows]))
    print(f"\n{len(rows)} sources; `python -m builders.<source> --help` says how to obtain each")
    return DONE


def recipe_table(rows: list[dict[str, Any]]) -> str:
    """The table of docs/sources.md: a line for each row of the recipe's tables, its count, the publisher's, a note."""
    heads = ("source", "the recipe's row", "paper", "published", "licence", "access", "note", "checked against")
    found = [
        (
            f"`{row['name']}`", f"{paper['stage']}: {paper['name']}", paper["count"], _pairs(row["published"]),
            row["license"], row["access"], paper["note"], "; ".join(row["checked"]),
        )
        for row in rows for paper in row["paper_rows"]
    ]  # fmt: skip
    return markdown(heads, found)


def _built(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Finished builds below `data`, by source."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(data.rglob("build.json")) if data.is_dir() else []:
        try:
            document = json.loads(path.read_bytes())
            found.setdefault(document["source"]["name"], []).append(
                {
                    "build": document["build"],
                    "path": str(path.parent),
                    "metadata_only": document["metadata_only"],
                    "limit": document["limit"],
                    "kept": {split: c["kept"] for split, c in document["counts"]["by_split"].items()},
                    "damaged": document["counts"]["damaged"],
                }
            )
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); run its builder again") from None
    return found


_SHOWN = ("name", "title", "stage", "task", "modality", "license", "access", "homepage", "paper", "hub_id")


def _row(source: Source, built: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    defaults = {option.name: option.default for option in source.options} | {"no_images": False, "split": None}
    return {
        **{name: getattr(source, name) for name in _SHOWN},
        "splits": dict(source.splits),
        "paper_rows": [asdict(paper) for paper in source.paper_rows],
        "status": "working",
        "published": dict(source.published(defaults)),
        "checked": list(dict.fromkeys(one.said for one in source.layouts)),
        "built": built.get(source.name, []),
    }


def _pairs(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in counts.items())


def _here(row: dict[str, Any]) -> str:
    notes = []
    for build in row["built"]:
        marks = ["no images"] * build["metadata_only"] + ["trial"] * (build["limit"] is not None)
        notes.append(f"{build['build']}: {_pairs(build['kept'])}" + (f" ({', '.join(marks)})" if marks else ""))
    return "; ".join(notes) or "-"


if __name__ == "__main__":
    raise SystemExit(main(None))
