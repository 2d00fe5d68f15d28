"""The report: one HTML file (`medgpt.page`) in which a person sees what overlaps, and checks it by eye.

It shows the certificate, a matrix of training builds against benchmarks (which works without scripts), a card for each
of the strongest pairs, and the n-grams that were too common to count. It holds no date and no machine's name: the same
evidence gives the same bytes.
"""

from __future__ import annotations

import glob
import tempfile
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.catalog import one_line
from manifests.proof import accounting
from manifests.proof.evidence import EVIDENCE, LEVELS
from manifests.proof.highlight import RUN, Range, shared_ranges
from manifests.proof.policy import ACTIONS
from medgpt import page
from medgpt.atomic import write_atomic
from medgpt.errors import UserError

if TYPE_CHECKING:
    import duckdb

FOLDER = Path(__file__).parent
LIMIT = 20_000_000
"""Bytes the page may have: browsers and mail still take it. Cards beyond it are left out and counted."""
PER_CELL = 50
COMMON_SHOWN = 300
TEXT_SHOWN = 2_000
"""Letters of a text on a card; a longer one is cut around what matched."""
PICTURE_SIDE = 192
"""Longer side of a picture on a card, in CSS pixels: twice the stored thumbnail."""
LOW_RECALL = 0.99
"""A transformation found less often than this is called covered in part: the aim set for near images."""

_REQUIRED = (
    "root builds builds_root policy policy_sha256 rules software coverage files train_totals eval_totals matrix "
    "counts left_out_of_near_text without_pixels accounting exclusions after clean sentences"
).split()
_CELL = ("train_build", "eval_build", "eval_split")
_KEY = (*_CELL, "level", "kind")
_NUMBERS = ("pairs", "train_samples", "eval_samples", "excluded", "forbidden")
_KINDS = tuple(f"{level}/{kind}" for level, kinds in LEVELS.items() for kind in kinds)
_SCOPES = ("all", *(scope for level, kinds in LEVELS.items() for scope in (level, *(f"{level}/{k}" for k in kinds))))
_SHADES = {1: "1", 2: "2 to 9", 10: "10 to 99", 100: "100 to 999", 1_000: "1,000 to 9,999", 10_000: "10,000 or more"}
_RESERVE = 1_000  # bytes for the sentence that says what was left out


@dataclass(frozen=True)
class Side:
    """One of the two samples of a pair."""

    build: str
    split: str
    sample_id: str
    index: int | None
    """Which image of the sample; None where the sample as a whole is meant."""
    access: str
    """`open`, `gated` or `credentialed`."""
    text: str | None
    thumbnail: bytes | None
    """JPEG or PNG of any size; it is shown at the ratio of `width` to `height`."""
    width: int | None
    height: int | None


@dataclass(frozen=True)
class Pair:
    """One row of `manifests.proof.evidence.EVIDENCE` with both samples."""

    evidence: Mapping[str, Any]
    train: Side
    eval: Side


@dataclass(frozen=True)
class Report:
    """Everything the page shows."""

    certificate: Mapping[str, Any]
    cells: Sequence[Mapping[str, Any]]
    """What `count_cells` gives."""
    pairs: Sequence[Pair]
    """The rows of `choose_pairs`, in their order."""
    common: Sequence[Mapping[str, Any]] = ()
    """N-grams too common to make a pair, as the proof keeps them: `ngram` (a digest where no open test sample has it),
    `eval_df`, `train_samples`."""
    show_credentialed: bool = False


def choose_pairs(evidence: Path, per_cell: int = PER_CELL) -> list[dict[str, Any]]:
    """Choose the rows of an evidence file that get a card.

    At most `per_cell` a training build, benchmark and kind: highest score first, then most words, least distance and
    the order of the file, which is sorted. Rows come by training build, benchmark, level, kind and that order.

    Raises: `UserError` if the file is no evidence; ValueError for a negative number.
    """
    if per_cell < 0:
        raise ValueError(f"{per_cell} pairs a cell were asked for; 0 or more can be shown")
    with _open(evidence) as connection:
        cursor = connection.execute(
            f"""
            SELECT {_names(EVIDENCE.names)} FROM (
                SELECT *, row_number() OVER (
                    PARTITION BY {_names(_KEY)}
                    ORDER BY score DESC NULLS LAST, words DESC NULLS LAST, distance NULLS LAST, file_row_number
                ) AS place
                FROM evidence
            )
            WHERE place <= {per_cell}
            ORDER BY {_names(_CELL)}, list_position({list(_KINDS)}, level || '/' || kind), place
            """  # noqa: S608 - names of columns and kinds, a number
        )
        return [dict(zip(EVIDENCE.names, row, strict=True)) for row in cursor.fetchall()]


def count_cells(evidence: Path) -> list[dict[str, Any]]:
    """Count an evidence file for the matrix, in every scope: all of it, one level, one kind.

    Each row has `train_build`, `eval_build`, `eval_split`, `level`, `kind` (None: all of them), `pairs` (rows of
    evidence), `train_samples` and `eval_samples` (different ones), and of the training samples those that a row of
    this very cell and scope excludes (`excluded`) or forbids (`forbidden`). Rows without a benchmark count a training
    build against all of them; rows without a training build count a benchmark against all of those.

    Raises: `UserError` if the file is no evidence.
    """
    cells: dict[tuple[Any, ...], dict[str, Any]] = {}

    def add(names: Sequence[str], row: Sequence[Any], numbers: Sequence[str]) -> None:
        known = dict(zip((*names, *numbers), row, strict=True))
        key = tuple(known.get(name) for name in _KEY)
        cell = cells.setdefault(key, dict(zip(_KEY, key, strict=True)) | dict.fromkeys(_NUMBERS, 0))
        for number in numbers:
            cell[number] += known[number]

    with _open(evidence) as connection:
        # Twice grouped, first by sample: one query with count(DISTINCT ...) over all sets takes ten times the memory.
        connection.execute(
            f"""
            CREATE TEMP TABLE train_side AS SELECT {_names(_KEY)}, train_sample AS sample, count(*) AS pairs,
                bool_or(action = 'exclude') AS excluded, bool_or(action = 'forbid') AS forbidden
            FROM evidence GROUP BY ALL;
            CREATE TEMP TABLE eval_side AS SELECT DISTINCT {_names(_KEY)}, eval_sample AS sample FROM evidence
            """  # noqa: S608 - names of columns
        )
        for scope in (), ("level",), ("level", "kind"):
            for side in list(_CELL), list(_CELL[:1]):
                names = [*side, *scope]
                for row in connection.execute(
                    f"""
                    SELECT {_names(names)}, sum(pairs)::BIGINT, count(*), count_if(excluded), count_if(forbidden)
                    FROM (SELECT {_names(names)}, sample, sum(pairs) AS pairs, bool_or(excluded) AS excluded,
                                 bool_or(forbidden) AS forbidden
                          FROM train_side GROUP BY ALL)
                    GROUP BY {_names(names)}
                    """  # noqa: S608 - names of columns
                ).fetchall():
                    numbers = ("pairs", "train_samples", "excluded", "forbidden")
                    add(names, row, numbers)
                    # Sample ids are unique within a build only: over several builds different samples are summed.
                    if len(side) == len(_CELL):
                        add(names[1:], row[1:], numbers)
            for side in list(_CELL), list(_CELL[1:]):
                names = [*side, *scope]
                for row in connection.execute(
                    f"""
                    SELECT {_names(names)}, count(*) FROM (SELECT DISTINCT {_names(names)}, sample FROM eval_side)
                    GROUP BY {_names(names)}
                    """  # noqa: S608 - names of columns
                ).fetchall():
                    add(names, row, ("eval_samples",))
                    if len(side) == len(_CELL):
                        add((*names[:1], *scope), (*row[:1], *row[3:]), ("eval_samples",))

    def order(key: tuple[Any, ...]) -> tuple[Any, ...]:
        scope = _SCOPES.index(_scope(cells[key]))
        return (*((name is None, name or "") for name in key[:3]), scope)

    return [cells[key] for key in sorted(cells, key=order)]


def write_report(path: Path, report: Report, limit: int = LIMIT) -> None:
    """Write the page of `render` atomically.

    Raises: `UserError`.
    """
    write_atomic(path, render(report, limit).encode())


def render(report: Report, limit: int = LIMIT) -> str:
    """Make the page, at most `limit` bytes of UTF-8. Where cards do not fit, each group keeps its strongest.

    Raises: `UserError` if the parts do not belong together, or the page is too long without any card.
    """
    _check(report)
    values = _values(report)
    room = limit - len(_fill(report, values, [""] * len(report.pairs)).encode()) - _RESERVE
    if room < 0:
        raise UserError(
            f"the report needs {limit - room} bytes without a single pair and may have {limit}; "
            "prove fewer builds at once"
        )
    return _fill(report, values, _cards(report, room))


def _fill(report: Report, values: Mapping[str, Any], cards: Sequence[str | None]) -> str:
    """The page with these cards, one a pair; None where a card does not fit."""
    shown: Counter[tuple[Any, ...]] = Counter()
    for pair, card in zip(report.pairs, cards, strict=True):
        shown[_key(pair.evidence)] += card is not None
    groups = [
        (cell["train_build"], _benchmark(cell), _scope(cell), shown[_key(cell)], cell["pairs"])
        for cell in report.cells
        if None not in _key(cell)
    ]
    there = [card for card in cards if card is not None]
    return page.render(FOLDER, "report.html", groups=groups, cards=there, left_out=len(cards) - len(there), **values)


# ---- reading evidence


@contextmanager
def _open(evidence: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": str(Path(tempfile.gettempdir()) / f"manifests-duckdb-{uuid.uuid4().hex}"),
        "autoinstall_known_extensions": False,  # no network, ever
    }
    with duckdb.connect(config=config) as connection:
        try:
            rows = connection.read_parquet(glob.escape(str(evidence)), file_row_number=True, hive_partitioning=False)
            if rows.columns != [*EVIDENCE.names, "file_row_number"]:
                raise UserError(f"{evidence}: its columns are not those of evidence; write it again")
            rows.create_view("evidence")
            found = connection.execute("SELECT DISTINCT level || '/' || kind, action FROM evidence").fetchall()
            if strange := sorted(
                {kind for kind, _ in found} - {*_KINDS} | {action for _, action in found} - {*ACTIONS}
            ):
                raise UserError(f"{evidence}: unknown kind or action {', '.join(strange)}; write it again")
            yield connection
        except duckdb.Error as error:
            raise UserError(f"{evidence}: {one_line(error)}; write it again") from error


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _benchmark(row: Mapping[str, Any]) -> str:
    return f"{row['eval_build']}/{row['eval_split']}"


def _check(report: Report) -> None:
    certificate = report.certificate
    if missing := [name for name in _REQUIRED if name not in certificate]:
        raise UserError(f"the certificate has no {', '.join(missing)}; write it again")
    counted = {_key(cell): cell["pairs"] for cell in report.cells if None not in _key(cell)}
    certified: Counter[tuple[Any, ...]] = Counter()
    for row in certificate["matrix"]:
        certified[_key(row)] += row["pairs"]
    for key in sorted(certified.keys() | counted.keys()):
        if certified[key] != counted.get(key, 0):
            raise UserError(
                f"{' '.join(key)}: {certified[key]} pairs in the certificate, {counted.get(key, 0)} in the evidence; "
                "run the proof again"
            )
    builds = {total["train_build"] for total in certificate["train_totals"]}
    benchmarks = {(total["eval_build"], total["eval_split"]) for total in certificate["eval_totals"]}
    for train_build, *benchmark, _, _ in sorted(counted):
        if train_build not in builds or tuple(benchmark) not in benchmarks:
            raise UserError(f"{train_build} against {'/'.join(benchmark)}: not among the certificate's totals")
    for pair in report.pairs:
        for name, side in ("train", pair.train), ("eval", pair.eval):
            row = tuple(pair.evidence[f"{name}_{part}"] for part in ("build", "split", "sample", "index"))
            if row != (side.build, side.split, side.sample_id, side.index):
                raise UserError(f"{row[2]}: its pair holds {side.build} {side.sample_id} as the {name} side")
        if _key(pair.evidence) not in counted:
            raise UserError(f"{' '.join(_key(pair.evidence))}: a pair to show, but no evidence counted")


# ---- the certificate


def _verdict(certificate: Mapping[str, Any]) -> tuple[str, str]:
    """One line that says how it stands, and one that says what follows."""
    out = sum(row["train_samples"] for row in certificate["exclusions"])
    taken = f"{page.plural(out, 'training sample')} excluded." if out else "No training sample had to be excluded."
    if not certificate["clean"]:
        return (
            "Not clean: overlap is left that the policy does not allow",
            f"{taken} Left: {_by_kind(certificate['after'])}.",
        )
    if accounting.not_compared(certificate["accounting"]):
        return "Not proved: not everything was compared", f"{taken} What was not compared is listed below."
    if not certificate["matrix"]:
        return "Clean: no overlap found at any level", taken
    if reported := [row for row in certificate["matrix"] if row["action"] == "report"]:
        taken += f" The policy only reports {_by_kind(reported)}."
    return ("Clean after exclusions" if out else "Clean without exclusions"), taken


def _by_kind(rows: Iterable[Mapping[str, Any]]) -> str:
    pairs: Counter[str] = Counter()
    for row in rows:
        pairs[_scope(row)] += row["pairs"]
    return ", ".join(f"{kind} ({page.plural(pairs[kind], 'pair')})" for kind in _KINDS if pairs[kind])


def _values(report: Report) -> dict[str, Any]:
    """What the template shows besides the pairs."""
    certificate = report.certificate
    title, detail = _verdict(certificate)
    at: dict[tuple[Any, ...], list[dict[str, Any]]] = defaultdict(list)
    scope_pairs: Counter[str] = Counter()
    for cell in report.cells:
        scope, benchmark = _scope(cell), cell["eval_build"] is not None
        # Totals are not shaded: only a training build against one benchmark is.
        shade = sum(cell["train_samples"] >= least for least in _SHADES)
        shade = shade if benchmark and cell["train_build"] is not None else 0
        at[_key(cell)[:3]].append({**cell, "scope": scope, "shade": shade})
        if not benchmark:
            scope_pairs[scope] += cell["pairs"]
    policy = dict(certificate["policy"])
    rules = policy.pop("rules", [])
    totals = {row["train_build"]: row["train_samples"] for row in certificate["train_totals"]}
    ordered = sorted(report.common, key=lambda row: (-row["train_samples"], -row["eval_df"], row["ngram"]))
    return {
        "title": title, "detail": detail, "certificate": certificate, "benchmark": _benchmark, "at": at,
        "scopes": _SCOPES, "scope_pairs": scope_pairs, "levels": LEVELS, "kinds": _KINDS, "actions": ACTIONS,
        "shades": list(_SHADES.values()),
        "pairs_in_all": sum(cell["pairs"] for cell in report.cells if None not in _key(cell)),
        "exclusions": [
            (row["train_build"], row["train_samples"], totals[row["train_build"]],
             f"{row['train_samples'] / totals[row['train_build']]:.2%}")
            for row in certificate["exclusions"]
        ],
        "states": accounting.STATES,
        "totals": accounting.totals(certificate["accounting"]),
        "entries": [
            (row["state"], row["side"], row["build"], row["kind"], row["name"] or "all", row["reason"], row["count"])
            for row in sorted(certificate["accounting"], key=lambda row: row["state"] != accounting.NOT_COMPARED)
            if row["reason"]
        ],
        "incomplete": accounting.not_compared(certificate["accounting"]),
        "ngrams_in_all": len(ordered),
        "common": [(row["ngram"], row["eval_df"], row["train_samples"]) for row in ordered[:COMMON_SHOWN]],
        "low_recall": LOW_RECALL,
        "changes": _changes(certificate),
        "builds": [
            (build["build"], build["revision"], build["samples"]["train"], build["samples"]["eval"], build["access"],
             build["license"], "no: ids and texts only" if build["metadata_only"] else "yes", build["root"])
            for build in certificate["builds"]
        ],
        "policy": policy,
        "rules": [_rule(number, rule) for number, rule in enumerate(rules, 1)],
        "looked_at": [
            (level, name.replace("_", " "), number)
            for level, counts in certificate["counts"].items() for name, number in counts.items()
        ],
        "digests": [*certificate["files"].items(), *certificate["rules"].items()],
    }  # fmt: skip


CHANGE_GROUPS = ("transformations", "between", "overlays", "composed")
"""Of `coverage.json`: changes of the promise, other single ones, overlays, several at once."""


def _changes(certificate: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Rows of the measured changes of a picture, what is found least often first."""
    coverage = certificate["coverage"] or {}
    changes = [change for group in CHANGE_GROUPS for change in coverage.get(group, ())]
    return [
        (
            change["name"],
            change["pictures"],
            change["found"],
            f"{change['recall_candidates']:.4f}",
            f"{change['recall']:.4f}",
            "in part" if change["recall"] < LOW_RECALL else "yes",
        )
        for change in sorted(changes, key=lambda change: (change["recall"], change["name"]))
    ]


def _rule(number: int, rule: Mapping[str, Any]) -> tuple[Any, ...]:
    fixed = ("level", "kinds", "train", "eval", "action")
    conditions = ", ".join(f"{key} {value}" for key, value in rule.items() if key not in fixed)
    sides = (", ".join(rule.get(name, ())) or "all" for name in ("kinds", "train", "eval"))
    return (number, rule["level"], *sides, conditions or "none", rule["action"])


def _scope(cell: Mapping[str, Any]) -> str:
    return "/".join(part for part in (cell["level"], cell["kind"]) if part is not None) or "all"


# ---- the pairs


def _cards(report: Report, room: int) -> list[str | None]:
    """Make the cards that fit into `room` bytes, None for the others: the first of every group, then the second, ..."""
    seen: Counter[tuple[Any, ...]] = Counter()
    order = []
    for index, pair in enumerate(report.pairs):
        seen[_key(pair.evidence)] += 1
        order.append((seen[_key(pair.evidence)], index))
    totals = {_key(cell): cell["pairs"] for cell in report.cells}
    cards: list[str | None] = [None] * len(report.pairs)
    for place, index in sorted(order):
        pair = report.pairs[index]
        card = _card(pair, place, totals[_key(pair.evidence)], report.show_credentialed)
        room -= len(card.encode()) + 1
        if room < 0:
            break
        cards[index] = card
    return cards


def _card(pair: Pair, place: int, total: int, show_credentialed: bool) -> str:
    row = pair.evidence
    both = (pair.train, pair.eval)
    hidden = [side.access == "credentialed" and not show_credentialed for side in both]
    span = None if any(hidden) else row["span"]
    texts = (pair.train.text or "", pair.eval.text or "")
    # To mark what the two share would tell what the hidden one says.
    marked = [([], True), ([], True)] if any(hidden) else shared_ranges(texts, span)
    roles = ("train", "test")
    for side, secret in zip(both, hidden, strict=True):
        if not secret and side.thumbnail is not None and not side.thumbnail.startswith(_PICTURES):
            raise UserError(f"{side.sample_id}: its thumbnail is neither JPEG nor PNG; build {side.build} again")
    return page.render(
        FOLDER, "report_card.html", row=row, kind=_scope(row), benchmark=_benchmark, place=place, total=total,
        score="" if row["score"] is None else f"{row['score']:.4f}",
        measures=[f"{label} {row[name]}" for name, label in _MEASURES.items() if row[name] is not None],
        sides=[
            (role, side, None if secret else _excerpt(text, ranges))
            for role, side, secret, text, (ranges, _) in zip(roles, both, hidden, texts, marked, strict=True)
        ],
        picture_side=PICTURE_SIDE, span=span,
        missing=[r for r, text, (_, found) in zip(roles, texts, marked, strict=True) if span and text and not found],
    )  # fmt: skip


_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_MEASURES = {
    "value": "shared", "distance": "Hamming distance", "variant": "test picture as", "decided_on": "decided on",
    "words": "words", "eval_df": "test samples with its rarest n-gram", "eval_subset": "subset",
}  # fmt: skip


def _excerpt(text: str, ranges: Sequence[Range]) -> dict[str, Any]:
    """Text cut to `TEXT_SHOWN` letters around its strongest range, as (part, tag), and how much is left out."""
    first, last = 0, len(text)
    if len(text) > TEXT_SHOWN:
        focus = max(ranges, key=lambda found: found[2], default=(0, 0, 0))
        first = max(0, min(focus[0] - TEXT_SHOWN // 4, len(text) - TEXT_SHOWN))
        last = min(len(text), max(first + TEXT_SHOWN, min(focus[1], first + 3 * TEXT_SHOWN)))
    parts, position = [], first
    for start, end, mark in ranges:
        start, end = max(start, first), min(end, last)
        if start < end:
            parts += [(text[position:start], ""), (text[start:end], "mark" if mark == RUN else "u")]
            position = end
    return {"before": first, "parts": [*parts, (text[position:last], "")], "after": len(text) - last}
