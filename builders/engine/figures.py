"""A build's counts beside those that a paper prints of the same samples."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medgpt.tables import table

FIGURES = {
    "kept": ("samples", 0, 1),
    "images_mean": ("pictures a sample", 2, 1),
    "images_sd": ("their standard deviation", 2, 1),
    "prior_share": ("with a prior study, %", 2, 100),
}
"""Of each figure its name, the decimals that papers print, and by what it is multiplied for that."""
ALL = "all"


def beside_published(
    published: Mapping[str, Mapping[str, float]], splits: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of split, figure, ours, published and whether they differ as printed; none where a split was not built.

    published: By split (`all`: every split together, of which only `kept` can be said), then by names of `FIGURES`.
    splits: `counts.by_split` of `build.json`.
    """
    known: dict[str, Mapping[str, Any]] = {**splits, ALL: {"kept": sum(split["kept"] for split in splits.values())}}
    rows = []
    for split, figures in published.items():
        found = known.get(split, {})
        for name, said in figures.items() if found else ():
            _, decimals, factor = FIGURES[name]
            differs = round(found[name] * factor, decimals) != round(said * factor, decimals)
            rows.append({"split": split, "figure": name, "ours": found[name], "published": said, "differs": differs})
    return rows


def figure_lines(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """The rows as a table, and a warning that counts those that differ."""
    if not rows:
        return
    shown = []
    for row in rows:
        name, decimals, factor = FIGURES[row["figure"]]
        values = [f"{row[side] * factor:,.{decimals}f}" for side in ("ours", "published")]
        shown.append((row["split"], name, *values, "differs" if row["differs"] else "equal"))
    yield ""
    yield table(("split", "of kept samples", "ours", "published", ""), shown)
    if differ := sum(row["differs"] for row in rows):
        yield f"warning: {differ} of {len(rows)} figures differ from the published ones; this is not the same cohort"
