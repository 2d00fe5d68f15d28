"""People review a filter's verdicts: draw a sample, label it blind, read the labels back, state the agreement.

The draw depends on the sample ids and the seed alone. Half of it comes from either side of the threshold, since what a
filter throws out is rare; each row carries how many it stands for, and the agreement is weighted by that. `review.csv`
holds the texts to label, without the verdicts; `review.key.csv` holds the verdicts. Credentialed texts are left out
unless asked for.
"""

import argparse
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgpt.arguments import command_parser
from medgpt.errors import DONE, UserError, run
from medgpt.messages import named
from medgpt.private import CREDENTIALED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


REVIEW_COLUMNS = ("sample_id", "text", "label")
KEY_COLUMNS = ("sample_id", "score", "flagged", "weight")
LABELS = {"yes": True, "y": True, "1": True, "true": True, "no": False, "n": False, "0": False, "false": False}
RESAMPLES = 2000
"""Bootstrap resamples behind the intervals (percentiles 2.5 and 97.5), within either side of the threshold."""


@dataclass(frozen=True)
class Drawn:
    """A sample and what the filter says of it."""

    sample_id: str
    score: float
    flagged: bool
    """Whether the score reaches the threshold."""
    weight: float = 1.0
    """How many samples of its side it stands for."""


@dataclass(frozen=True)
class Agreement:
    """Verdicts against labels; intervals are 95 %. All are weighted to the population drawn from."""

    labelled: int
    unlabelled: int
    table: tuple[tuple[int, int], tuple[int, int]]
    """Unweighted counts: ((flagged and yes, flagged and no), (not flagged and yes, not flagged and no))."""
    accuracy: float
    accuracy_interval: tuple[float, float]
    kappa: float | None
    """Cohen's kappa; None where verdicts and labels are all the same one, and chance explains everything."""
    kappa_interval: tuple[float, float] | None

    def lines(self) -> list[str]:
        """For people to read."""
        (yes, no), (missed, clear) = self.table
        kappa = "not defined (only one class)"
        if self.kappa is not None and self.kappa_interval is not None:
            kappa = f"{self.kappa:.3f} ({self.kappa_interval[0]:.3f} to {self.kappa_interval[1]:.3f})"
        return [
            f"{self.labelled} labelled, {self.unlabelled} without a label",
            f"{'':14}{'label yes':>10}{'label no':>10}",
            f"{'flagged':14}{yes:>10}{no:>10}",
            f"{'not flagged':14}{missed:>10}{clear:>10}",
            f"accuracy {self.accuracy:.3f} ({self.accuracy_interval[0]:.3f} to {self.accuracy_interval[1]:.3f})",
            f"Cohen's kappa {kappa}",
        ]


def draw(scored: Iterable[Drawn], n: int, seed: int = 0) -> list[Drawn]:
    """At most `n` samples, up to half from either side, in an order that does not show the side; with their weights.

    Each side gives the samples whose digest of (seed, id) is smallest; where one side has too few, the other fills up.
    Raises: `UserError`.
    """
    if n < 1:
        raise UserError(f"{n} samples to draw: must be 1 or more")

    def order(one: Drawn) -> bytes:
        return hashlib.sha256(f"{seed}\x00{one.sample_id}".encode()).digest()

    sides: tuple[list[Drawn], list[Drawn]] = ([], [])
    for one in sorted(scored, key=order):
        sides[one.flagged].append(one)
    take = min(len(sides[1]), max(n // 2, n - len(sides[0])))
    takes = (min(len(sides[0]), n - take), take)
    drawn = [
        replace(one, weight=len(side) / count) for side, count in zip(sides, takes, strict=True) for one in side[:count]
    ]
    if not drawn:
        raise UserError("there is no score to draw from")
    return sorted(drawn, key=order)


def review_csv(drawn: Sequence[Drawn], texts: dict[str, str]) -> str:
    """The sheet to fill in: sample, text, empty label."""
    return _csv(REVIEW_COLUMNS, [(one.sample_id, _cell(texts[one.sample_id]), "") for one in drawn])


def key_csv(drawn: Sequence[Drawn]) -> str:
    """What the reviewer does not see: score, verdict, weight."""
    return _csv(KEY_COLUMNS, [(one.sample_id, one.score, int(one.flagged), one.weight) for one in drawn])


def review_html(drawn: Sequence[Drawn], texts: dict[str, str], question: str) -> str:
    """A page with buttons that saves the same sheet, filled in. Loads nothing, sends nothing."""
    from medgpt.page import render

    samples = [(one.sample_id, texts[one.sample_id]) for one in drawn]
    return render(Path(__file__).parent, "review.html", title=question, samples=samples)


def read_labels(path: Path) -> dict[str, bool | None]:
    """Labels by sample: yes, no (also y, n, 1, 0, true, false), or None where the cell is empty.

    Raises: `UserError`.
    """
    labels: dict[str, bool | None] = {}
    for number, row in _rows(path, ("sample_id", "label")):
        value = row["label"].strip().lower()
        if value and value not in LABELS:
            raise UserError(
                f"{path}: line {number}: the label is neither yes nor no; write one of them, or leave it empty"
            )
        if row["sample_id"] in labels:
            raise UserError(f"{path}: line {number}: {row['sample_id']} is there twice")
        labels[row["sample_id"]] = LABELS[value] if value else None
    return labels


def read_key(path: Path) -> list[Drawn]:
    """What `key_csv` has written. Raises: `UserError`."""
    drawn = []
    for number, row in _rows(path, KEY_COLUMNS):
        try:
            drawn.append(Drawn(row["sample_id"], float(row["score"]), bool(int(row["flagged"])), float(row["weight"])))
        except ValueError:
            raise UserError(f"{path}: line {number}: a score, flag or weight is no number") from None
    return drawn


def agreement(drawn: Sequence[Drawn], labels: dict[str, bool | None], seed: int = 0) -> Agreement:
    """Verdicts against labels. Samples without a label are left out. Raises: `UserError`."""
    import numpy as np

    if strange := sorted(labels.keys() - {one.sample_id for one in drawn}):
        raise UserError(f"label for {strange[0]}, which was not drawn; are these the files of one draw?")
    known = [(one.flagged, found, one.weight) for one in drawn if (found := labels.get(one.sample_id)) is not None]
    if not known:
        raise UserError("no sample has a label yet")
    flagged, label = (np.array([row[i] for row in known], dtype=bool) for i in (0, 1))
    # A side that is labelled in part only still stands for the whole side.
    weight = np.array([row[2] for row in known], dtype=np.float64)
    for side in (False, True):
        if (flagged == side).any():
            drawn_weight = sum(one.weight for one in drawn if one.flagged == side)
            weight[flagged == side] *= drawn_weight / weight[flagged == side].sum()
    yes, no, missed, clear = (int(np.sum((flagged == a) & (label == b))) for a in (True, False) for b in (True, False))
    accuracy, kappa = measures(flagged, label, weight)
    chance = np.random.default_rng(seed)
    sides = [np.flatnonzero(flagged == side) for side in (False, True)]
    resampled = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([chance.choice(side, len(side)) for side in sides if len(side)])
        resampled.append(measures(flagged[rows], label[rows], weight[rows]))
    kappas = [one for _, one in resampled if one is not None]
    return Agreement(
        labelled=len(known),
        unlabelled=len(drawn) - len(known),
        table=((yes, no), (missed, clear)),
        accuracy=round(accuracy, 4),
        accuracy_interval=_interval([one for one, _ in resampled]),
        kappa=None if kappa is None else round(kappa, 4),
        kappa_interval=None if kappa is None else _interval(kappas),
    )


def measures(
    flagged: "NDArray[np.bool_]", label: "NDArray[np.bool_]", weight: "NDArray[Any]"
) -> tuple[float, float | None]:
    """Weighted accuracy and Cohen's kappa."""
    total = float(weight.sum())
    accuracy = float(weight[flagged == label].sum()) / total
    says, is_so = float(weight[flagged].sum()) / total, float(weight[label].sum()) / total
    expected = says * is_so + (1 - says) * (1 - is_so)
    return accuracy, None if expected > 1 - 1e-12 else (accuracy - expected) / (1 - expected)


def _interval(values: Sequence[float]) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(values, (2.5, 97.5))
    return round(float(low), 4), round(float(high), 4)


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue()


def _cell(text: str) -> str:
    """A text that a spreadsheet does not take for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        # utf-8-sig: spreadsheets put a mark in front.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    reader = csv.DictReader(io.StringIO(text, newline=""), restval="")
    if missing := [name for name in columns if name not in (reader.fieldnames or ())]:
        there = named(reader.fieldnames or (), first_row=True)
        raise UserError(f"{path}: no column {missing[0]!r}; there are: {there}")
    for row in reader:
        yield reader.line_num, row


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, or 2 after an error."""
    parser = command_parser(
        "filters.review",
        "Draw a sample of a filter's verdicts for people to label; say how far labels and verdicts agree.",
        "examples:\n"
        "  python -m filters.review draw data --score relevance_rules.irrelevant --n 200 --out review\n"
        "  python -m filters.review agree review.csv labelled.csv",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    drawing = commands.add_parser("draw", help="write OUT.csv, OUT.html (to label) and OUT.key.csv (verdicts)")
    add = drawing.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds with scores/")
    add("--score", required=True, metavar="FILTER.SCORE", help="a score column")
    add("--threshold", type=float, default=0.5, help="flagged from here on (default 0.5)")
    add("--build", action="append", metavar="NAME", help="only these builds")
    add("--n", type=int, default=200, help="samples to draw (default 200)")
    add("--seed", type=int, default=0)
    add("--out", type=Path, required=True, metavar="OUT", help="name without its ending")
    add("--show-credentialed", action="store_true", help="credentialed, too: keep the files safe")
    agreeing = commands.add_parser("agree", help="accuracy and Cohen's kappa with 95 %% intervals, and the table")
    add = agreeing.add_argument
    add("review", type=Path, metavar="REVIEW", help="OUT.csv of the draw")
    add("labelled", type=Path, nargs="?", metavar="LABELLED", help="labels, if not in REVIEW itself")
    add("--key", type=Path, metavar="FILE", help="OUT.key.csv, if not beside REVIEW")
    add("--seed", type=int, default=0)
    add("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    if options.command == "draw":
        _draw_command(options)
    else:
        key = options.key or options.review.with_suffix(".key.csv")
        result = agreement(read_key(key), read_labels(options.labelled or options.review), options.seed)
        print(json.dumps(asdict(result)) if options.json else "\n".join(result.lines()))
    return DONE


def _draw_command(options: argparse.Namespace) -> None:
    from filters.base import Record
    from manifests.catalog import load_builds
    from medgpt.atomic import write_atomic
    from shards.reader import Build

    builds = {build.record["build"]: build for build in load_builds(options.data)}
    scores: list[Drawn] = []
    owners: dict[str, Path] = {}
    for folder in sorted(path for path in (options.data / "scores").glob("*") if path.is_dir()):
        if options.build and folder.name not in options.build:
            continue
        build = builds.get(folder.name.partition("@")[0])
        if build is None:
            raise UserError(f"{folder}: scores of a build that is no more; delete the folder")
        if build.record["source"]["access"] == CREDENTIALED and not options.show_credentialed:
            continue
        found = list(_scores(folder, options.score, options.threshold))
        owners |= {one.sample_id: build.folder for one in found}
        scores += found
    if not scores:
        raise UserError(f"{options.data}/scores: no {options.score} to draw from")
    drawn = draw(scores, options.n, options.seed)
    opened = {path: Build(path, allow_metadata_only=True) for path in {owners[one.sample_id] for one in drawn}}
    texts = {}
    for one in drawn:
        stored = opened[owners[one.sample_id]]
        try:
            texts[one.sample_id] = Record(stored[stored.find(one.sample_id)].record).caption
        except KeyError:
            raise UserError(f"{one.sample_id} has a score but is not in its build; score it again") from None
    for suffix, content in (
        (".csv", review_csv(drawn, texts)),
        (".html", review_html(drawn, texts, f"{options.score}: yes or no?")),
        (".key.csv", key_csv(drawn)),
    ):
        write_atomic(options.out.with_name(options.out.name + suffix), content.encode())
    print(f"{len(drawn)} of {len(scores)} drawn: {options.out}.csv, {options.out}.html, {options.out}.key.csv")


def _scores(folder: Path, column: str, threshold: float) -> Iterator[Drawn]:
    """Scores of a build that are numbers; samples that were not scored are not drawn."""
    import pyarrow.parquet as pq

    for path in sorted(folder.glob("*.parquet")):
        names = pq.read_schema(path).names
        if column not in names:
            raise UserError(f"{path}: no score {column!r}; there are: {', '.join(n for n in names if '.' in n)}")
        for row in pq.read_table(path, columns=["sample_id", column]).to_pylist():
            if isinstance(row[column], str):
                raise UserError(f"{column} is text; choose a score that is a number")
            if row[column] is not None:
                yield Drawn(row["sample_id"], float(row[column]), row[column] >= threshold)


if __name__ == "__main__":
    raise SystemExit(main())
