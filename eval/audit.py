"""Check what a table of results, or a set of items, can be: counts, possible percentages, what a constant answer gets.

GRIM asks of each printed percentage whether it is 100 k / n for a whole number k of correct items. Where it is not, the
figure is no accuracy over that many items: averages of averages, dropped items or another denominator were at work.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import orjson
from msgspec import Meta

from eval.options import same_text, text_key
from eval.records import ITEMS, TASK, Item, read_items, read_object, task_folders, task_label
from eval.statistics import chance_of_passing, commonest, grim, unpaired_z
from medgpt.arguments import command_parser
from medgpt.errors import DONE, NOT_FINISHED, UserError, run
from medgpt.messages import complain
from medgpt.settings import Settings, checked, read_yaml

PUBLISHED = Path(__file__).parent / "published" / "medgpt_oss.yaml"
QUOTED = "~"
"""Sign before a figure that we have with fewer decimals than were printed."""

_EXAMPLE = """
examples:
  python -m eval.audit
  python -m eval.audit runs/ours --json
"""


class Constant(Settings, frozen=True):
    """What one constant answer gets."""

    answer: str
    k: int


class PublishedRow(Settings, frozen=True):
    """One row of a published table."""

    row: str
    table: str
    n: Annotated[int, Meta(ge=1)]
    values: dict[str, Annotated[str, Meta(pattern=r"^~?(100(\.0+)?|[0-9]{1,2}(\.[0-9]+)?)$")]] = msgspec.field(
        default_factory=dict
    )
    """Model -> figure as printed."""
    grim: Annotated[str, Meta(pattern="^[yn]*$")] = ""
    """y or n a model: what GRIM said of the whole printed row, where that was recorded; empty otherwise."""
    metric: str = "accuracy"
    note: str = ""
    constant: Constant | None = None


class Published(Settings, frozen=True):
    """A paper's tables."""

    paper: str
    models: tuple[str, ...]
    rows: tuple[PublishedRow, ...]

    def __post_init__(self) -> None:
        for row in self.rows:
            if odd := [model for model in row.values if model not in self.models]:
                raise ValueError(f"row {row.row}: {odd[0]} is none of the models")
            if row.grim and len(row.grim) != len(self.models):
                raise ValueError(f"row {row.row}: grim must be y or n for each of the {len(self.models)} models")


@dataclass(frozen=True)
class Cell:
    """What GRIM says of one printed figure."""

    table: str
    row: str
    model: str
    printed: str | None
    n: int
    count: int | None
    """k, where the figure is 100 k / n."""
    possible: bool | None
    """None: not decided (no figure, or one quoted with fewer decimals)."""
    recorded: bool | None
    """What was recorded of the whole printed table."""
    chance: float | None
    """Share of all figures with as many decimals that would pass: how little passing says."""


def load_published(path: Path = PUBLISHED) -> Published:
    """A paper's tables from YAML. Raises: `SettingsError` naming the row."""
    return checked(Published, read_yaml(path), str(path))


def grim_table(published: Published) -> list[Cell]:
    """What GRIM says of each accuracy of the tables, in their order."""
    cells = []
    for row in published.rows:
        if row.metric != "accuracy":
            continue
        for place, model in enumerate(published.models):
            printed = row.values.get(model)
            recorded = row.grim[place] == "y" if row.grim else None
            if printed is None or printed.startswith(QUOTED):
                cells.append(Cell(row.table, row.row, model, printed, row.n, None, None, recorded, None))
                continue
            count = grim(printed, row.n)
            chance = chance_of_passing(row.n, len(printed.partition(".")[2]))
            possible = count is not None
            cells.append(Cell(row.table, row.row, model, printed, row.n, count, possible, recorded, round(chance, 4)))
    return cells


def lead(published: Published, row: PublishedRow) -> tuple[str, float] | None:
    """(best other model of the row, z of the paper's model against it); None where a figure is not here.

    Unpaired, since no samples are published; a z below 2 is noise. The paper's model is the first of `models`.
    """
    ours = published.models[0]
    shares = {model: float(text) / 100 for model, text in row.values.items() if not text.startswith(QUOTED)}
    if row.metric != "accuracy" or ours not in shares or len(shares) < 2:
        return None
    best = max((model for model in shares if model != ours), key=lambda model: shares[model])
    return best, unpaired_z(shares[ours], shares[best], row.n)


def audit_items(items: Sequence[Item]) -> dict[str, Any]:
    """Counts of one task's items that a reader of its score should know.

    Doubled questions are found by options and gold (the question's text is not in the items), so their number is an
    upper bound; open questions and reports are not looked at.
    """
    closed = [item for item in items if item.options]
    texts = [dict(item.options)[item.gold] for item in closed]
    doubles = Counter((tuple(sorted(text_key(text) for _, text in item.options)), text_key(gold))
                      for item, gold in zip(closed, texts, strict=True))  # fmt: skip
    found: dict[str, Any] = {
        "items": len(items),
        "clusters": len({item.cluster for item in items}),
        "images": sum(item.images for item in items),
        "slices": dict(sorted(Counter(item.slice for item in items).items())),
        "exemplar_is_gold": sum(
            bool(item.exemplar) and same_text(item.exemplar, dict(item.options).get(item.gold, item.gold))
            for item in items
        ),
    }
    if closed:
        labels = Counter(item.gold for item in closed)
        classes = Counter(map(text_key, texts))
        found |= {
            "open_questions": len(items) - len(closed),
            "options": {
                str(count): number for count, number in sorted(Counter(len(i.options) for i in closed).items())
            },
            "items_with_equal_options": sum(
                len({text_key(text) for _, text in item.options}) < len(item.options) for item in closed
            ),
            "same_options_and_gold": sum(count - 1 for count in doubles.values()),
            "majority_label": _most(labels, len(items)),
            "majority_text": _most(classes, len(items)),
            "chance": round(sum(1 / len(item.options) for item in closed) / len(items), 6),
        }
    return found


def _most(counts: Counter[str], items: int) -> dict[str, Any]:
    most = commonest(counts)
    return {**most, "percent": round(100 * most["correct"] / items, 2)}


def audit_run(paths: Sequence[Path]) -> dict[str, dict[str, Any]]:
    """What the items of runs are, by task, with the counts that the benchmark and the paper have.

    Raises: `UserError`.
    """
    found = {}
    for folder in task_folders(paths):
        items = read_items(folder / ITEMS)
        if not items:
            raise UserError(f"{folder / ITEMS}: holds no item")
        audit = audit_items(items)
        if (folder / TASK).is_file():
            declared = read_object(folder / TASK, "task")["task"]
            audit |= {"expected": declared["expected"], "paper_n": declared["paper_n"]}
        found[task_label(items[0].task, items[0].variant)] = audit
    return found


def describe_published(published: Published) -> list[str]:
    """GRIM of a paper's tables for people."""
    cells = grim_table(published)
    lines = [published.paper]
    for row in published.rows:
        mine = [cell for cell in cells if cell.row == row.row]
        lines.append(f"Table {row.table}, {row.row}, n = {row.n:,}".replace("Table Figure", "Figure"))
        if row.metric != "accuracy":
            lines.append(f"  no accuracy ({row.metric}); GRIM does not apply")
        for cell in mine:
            lines += [f"  {cell.model} {_verdict(cell)}"] if cell.printed else []
        if row.grim:
            failed = row.grim.count("n")
            lines.append(f"  whole printed row, as recorded: {failed} of {len(row.grim)} figures are no k/{row.n}")
        if row.constant:
            share = 100 * row.constant.k / row.n
            lines.append(f"  the constant answer {row.constant.answer!r} gets {share:.2f} ({row.constant.k}/{row.n})")
        if found := lead(published, row):
            lines.append(
                f"  {published.models[0]} against {found[0]}, the best other here: z = {found[1]:.1f} (unpaired)"
            )
        lines += [f"  {row.note}"] if row.note else []
    decided = [cell for cell in cells if cell.possible is not None]
    impossible = sum(cell.possible is False for cell in decided)
    recorded = [cell for cell in cells if cell.recorded is not None]
    lines.append(
        f"{len(decided)} figures checked here: {impossible} are no k/n; recorded of the whole tables: "
        f"{sum(cell.recorded is False for cell in recorded)} of {len(recorded)} are none; "
        f"{len(cells) - len(decided)} figures of these rows are not in the file with all their decimals"
    )
    return lines


def _verdict(cell: Cell) -> str:
    if cell.possible is None:
        return f"{cell.printed}: not decided, quoted with fewer decimals than printed"
    if cell.possible:
        others = f"so are {100 * (cell.chance or 0):.0f} % of all figures"
        return f"{cell.printed} = {cell.count:,}/{cell.n:,} is possible ({others})"
    return f"{cell.printed} is impossible: no k/{cell.n:,}"


def describe_items(name: str, audit: Mapping[str, Any]) -> list[str]:
    """Counts of a task's items for people."""
    lines = [f"{name}: {audit['items']:,} items, {audit['clusters']:,} clusters, {audit['images']:,} pictures"]
    for key, words in (("expected", "in the whole benchmark"), ("paper_n", "in the paper")):
        if audit.get(key) not in (None, audit["items"]):
            lines.append(f"  {audit[key]:,} {words}")
    if "options" in audit:
        spread = ", ".join(f"{number:,} with {count}" for count, number in audit["options"].items())
        lines.append(f"  options: {spread}; chance {100 * audit['chance']:.2f} %")
        best = max(audit["majority_text"], audit["majority_label"], key=lambda one: one["correct"])
        lines.append(f"  a constant answer ({best['answer']}) gets {best['percent']:.2f} %")
    for key, words in (
        ("open_questions", "open questions, scored by exact text"),
        ("items_with_equal_options", "items with two equal options"),
        ("same_options_and_gold", "items with the options and answer of another"),
        ("exemplar_is_gold", "items whose worked example shows the answer"),
    ):
        if audit.get(key):
            lines.append(f"  {audit[key]:,} {words}")
    return lines


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 audited, 1 cannot be read."""
    parser = command_parser("eval.audit", "Check what a published table, or the items of a run, can be.", _EXAMPLE)
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="run or task folders; none: audit a table")
    parser.add_argument(
        "--table",
        type=Path,
        metavar="YAML",
        help="published tables (default and example: eval/published/medgpt_oss.yaml)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)

    document: dict[str, Any] = {}
    lines: list[str] = []
    try:
        if options.runs:
            document["tasks"] = audit_run(options.runs)
            for name, audit in document["tasks"].items():
                lines += describe_items(name, audit)
        if options.table or not options.runs:
            published = load_published(options.table or PUBLISHED)
            document["cells"] = grim_table(published)
            lines += describe_published(published)
    except UserError as error:
        complain(error)
        return NOT_FINISHED
    print(orjson.dumps(document, option=orjson.OPT_INDENT_2).decode() if options.json else "\n".join(lines))
    return DONE


if __name__ == "__main__":
    raise SystemExit(main())
