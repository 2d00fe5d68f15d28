"""Pages of the site that are made from the code at each build of it, as a hook of MkDocs (`mkdocs.yml` names it).

`reference/*.md` are tables of what the code declares, so they cannot go stale. The pages at the root of the repository
(ARCHITECTURE.md ...) are pages of the site, too; a link to a file that is no page becomes the file's name.
"""

import inspect
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from medgpt.tables import markdown

ROOT = Path(__file__).parents[1]
TAKEN = {
    "ARCHITECTURE.md": "project/architecture.md", "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md", "CHANGELOG.md": "project/changelog.md",
    "bench/RESULTS.md": "project/results.md",
}  # fmt: skip
"""Pages outside `docs/`, and where they are on the site."""
_FIELD = re.compile(r'\(\s*"(\w+)",.*?\),?\s+# (.+)')
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s#]+)(#[^)\s]*)?\)")


def pages() -> dict[str, str]:
    """Markdown by path below `docs/`."""
    return {
        "reference/commands.md": _commands(),
        "reference/exit-codes.md": _exit_codes(),
        "reference/sources.md": _sources(),
        "reference/filters.md": _filters(),
        "reference/schemas.md": _schemas(),
    }


def _commands() -> str:
    from medgpt.__main__ import DOORS

    parts = ["# Commands", "Each is a module, too, and has a `--help` with an example."]
    for group, doors in DOORS.items():
        rows = [
            (f"`medgpt {name}`", f"`python -m {module.rstrip('.')}`", what) for name, (module, what) in doors.items()
        ]
        parts.append(f"## {group}\n\n{markdown(('command', 'module', 'what it does'), rows)}")
    return "\n\n".join(parts)


def _exit_codes() -> str:
    from medgpt import errors

    said = re.findall(r"(?m)^ {4}(\d)  (.+)$", errors.__doc__ or "")
    more = (
        "4 outranks 3; 1 and 2 outrank both. A training run that a signal stopped ends with 128 + the signal's number."
    )
    return f"# Exit codes\n\n{markdown(('code', 'meaning'), said)}\n\n{more}"


def _sources() -> str:
    from builders.engine.registry import sources

    heads = ("source", "what", "stage", "task", "licence", "access", "version", "filtered by default")
    rows = [
        (f"`{s.name}`", s.title, s.stage, s.task, s.license, s.access, s.version, "yes" if s.filters else "")
        for s in sources()
    ]
    return f"# Sources\n\n`python -m builders.NAME --help` says how to obtain each.\n\n{markdown(heads, rows)}"


def _filters() -> str:
    from filters.base import filter_class, shipped_filters
    from filters.recipe import RECIPES, load_recipe

    parts = [
        "# Filters",
        "A filter gives scores, a threshold of a recipe decides. Costs are milliseconds a sample, roughly.",
    ]
    for name in shipped_filters():
        found = filter_class(name)
        parts.append(f"## {name}\n\nVersion {found.version}; cost {found.cost:g} ms.")
        parts.append(markdown(("score", "what it says, and its unit"), found.scores.items()))
    for path in sorted(RECIPES.glob("*.yaml")):
        recipe, rows = load_recipe(path), []
        for source, rules in recipe.sources.items():
            for name, rule in rules.filters.items():
                drop = f"`{rule.drop}`" if rule.drop else "only scores"
                rows.append((source, name, drop, rule.not_scored or "", ", ".join(rule.needs)))
        heads = ("source", "filter", "a sample is dropped where", "without a score", "only with")
        parts.append(f"## Recipe {recipe.name}, version {recipe.version}\n\n{markdown(heads, rows)}")
    return "\n\n".join(parts)


def _schemas() -> str:
    from manifests import parts as tables
    from medgpt import schema
    from medgpt.groups import GROUP_KEYS

    shown = {"A sample: JSON member of a tar, row of an Arrow shard": (schema, "SAMPLE")}
    shown |= {f"Manifest, {name.lower()}": (tables, name) for name in ("SAMPLES", "IMAGES", "THUMBNAILS", "REJECTS")}
    parts = [
        "# Schemas",
        "Digests are 32 raw bytes of SHA-256; `hex(sha256)` shows them in SQL. Offsets and lengths are bytes.",
    ]
    for title, (module, name) in shown.items():
        notes = dict.fromkeys(("group", *GROUP_KEYS), "id that samples share, with its namespace") | _notes(
            inspect.getsource(module), name
        )
        rows = [
            (f"`{f.name}`", f"`{f.type}`", "" if f.nullable else "always", notes.get(f.name, ""))
            for f in getattr(module, name)
        ]
        parts.append(f"## {title}\n\n{markdown(('field', 'type', 'there', 'what it is'), rows)}")
    return "\n\n".join(parts)


def _notes(source: str, name: str) -> dict[str, str]:
    """What the comments behind the fields of a schema say of them."""
    own = re.findall(rf"(?ms)^(?:_REQUIRED|{name}) = .*?^[\])]$", source)
    return dict(found for part in own for found in _FIELD.findall(part))


def linked(text: str, place: str, own: str) -> str:
    """Text of the file `place` of the repository with links as on the site, where it is the page `own`."""

    def replace(match: re.Match[str]) -> str:
        picture, words, target, heading = match[1], match[2], match[3], match[4] or ""
        path = os.path.normpath(PurePosixPath(place).parent / target)
        page = TAKEN.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if page is None:
            return words if words.strip("`") == path else f"{words} (`{path}`)"
        return f"{picture}[{words}]({os.path.relpath(page, PurePosixPath(own).parent)}{heading})"

    return _LINK.sub(replace, text)


def on_files(files: Any, config: Any) -> Any:
    """MkDocs: add the pages that are made, and those of the root."""
    from mkdocs.structure.files import File

    made = pages() | {page: linked((ROOT / name).read_text(), name, page) for name, page in TAKEN.items()}
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """MkDocs: links of the pages in `docs/` as on the site."""
    place = page.file.src_uri
    return markdown if place.startswith(("reference/", "project/")) else linked(markdown, f"docs/{place}", place)
