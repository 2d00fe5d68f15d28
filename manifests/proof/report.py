"""The report: one HTML file (`medgpt.page`) in which a person sees what overlaps, and checks it by eye.

It shows the five sentences, what was not compared, what is taken out by benchmark and by source (which works without
scripts), and a card for each of the strongest pairs, on which a reviewer can say that a pair is wrong
(`manifests.proof.verdicts`). What the policy only reports, and boilerplate, stands behind a switch. It holds no date
and no machine's name: the same evidence gives the same bytes.
"""

from __future__ import annotations

import glob
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from manifests.catalog import one_line, open_duckdb
from manifests.proof import accounting
from manifests.proof.evidence import EVIDENCE, LEVELS
from manifests.proof.highlight import RUN, Range, shared_ranges
from manifests.proof.policy import ACTIONS
from manifests.proof.verdicts import SIDES, WRONG
from medgpt import page
from medgpt.atomic import write_atomic
from medgpt.errors import UserError

if TYPE_CHECKING:
    import duckdb

FOLDER = Path(__file__).parent
LIMIT = 3_000_000
"""Bytes the page may have: phones and mail take it. Cards beyond it are left out and counted."""
PICTURES = 1_800_000
"""Bytes that the pictures of the page may have together, each in it once. Cards beyond say that theirs is left out."""
PER_CELL = 50
COMMON_SHOWN = 300
TEXT_SHOWN = 2_000
"""Letters of a text on a card; a longer one is cut around what matched."""
PICTURE_SIDE = 192
"""Longer side of a picture on a card, in CSS pixels: twice the stored thumbnail."""
LOW_RECALL = 0.99
"""A transformation found less often than this is called covered in part: the aim set for near images."""

_REQUIRED = (
    "root builds builds_root policy policy_sha256 rules software coverage rewrites files train_totals eval_totals "
    "matrix counts left_out_of_near_text without_pixels accounting benchmarks exclusions verdicts after clean sentences"
).split()
_CELL = ("train_build", "eval_build", "eval_split")
_KEY = (*_CELL, "level", "kind")
_NUMBERS = ("pairs", "train_samples", "eval_samples", "excluded", "forbidden", "eval_met")
_ACTIONS = (*ACTIONS, WRONG)
_KINDS = tuple(f"{level}/{kind}" for level, kinds in LEVELS.items() for kind in kinds)
_SCOPES = ("all", *(scope for level, kinds in LEVELS.items() for scope in (level, *(f"{level}/{k}" for k in kinds))))
_SHADES = {1: "1", 2: "2 to 9", 10: "10 to 99", 100: "100 to 999", 1_000: "1,000 to 9,999", 10_000: "10,000 or more"}
_RESERVE = 1_000  # bytes for the sentences that say what was left out
_SYMBOL = 150  # bytes around a picture, and its name


@dataclass(frozen=True)
class Side:
    """One of the two samples of a pair."""

    build: str
    split: str
    sample_id: str
    sha256: str
    """Digest by which a verdict names the sample (`manifests.proof.verdicts.seen`)."""
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
    passages: Sequence[tuple[str, int, int]] = ()
    """What `passages` gives."""
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
            SELECT {_names(EVIDENCE.names)} FROM evidence JOIN (
                SELECT file_row_number, row_number() OVER (
                    PARTITION BY {_names(_KEY)}
                    ORDER BY score DESC NULLS LAST, words DESC NULLS LAST, distance NULLS LAST, file_row_number
                ) AS place
                FROM evidence QUALIFY place <= {per_cell}
            ) USING (file_row_number)
            ORDER BY {_names(_CELL)}, list_position({list(_KINDS)}, level || '/' || kind), place
            """  # noqa: S608 - names of columns and kinds, a number
        )
        return [dict(zip(EVIDENCE.names, row, strict=True)) for row in cursor.fetchall()]


def passages(evidence: Path) -> list[tuple[str, int, int]]:
    """Shared passages that may be shown, most common first: longest run, test items and training samples that have it.

    At most `COMMON_SHOWN`; of a passage that `text_pairs.NAMED` items share, `eval_df` says how many do.
    Raises: `UserError` if the file is no evidence.
    """
    with _open(evidence) as connection:
        query = f"""SELECT span, max(eval_df), count(DISTINCT (train_build, train_sample)) AS samples FROM evidence
            WHERE kind = 'passage' AND span IS NOT NULL GROUP BY span ORDER BY 3 DESC, 2 DESC, 1 LIMIT {COMMON_SHOWN}"""  # noqa: S608
        return connection.execute(query).fetchall()


def count_cells(evidence: Path) -> list[dict[str, Any]]:
    """Count an evidence file for the matrix, in every scope: all of it, one level, one kind.

    Each row has `train_build`, `eval_build`, `eval_split`, `level`, `kind` (None: all of them), `pairs` (rows of
    evidence), `train_samples` and `eval_samples` (different ones), of the training samples those that a row of this
    very cell and scope excludes (`excluded`) or forbids (`forbidden`), and the test samples of such rows (`eval_met`).
    Rows without a benchmark count a training
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
            CREATE TEMP TABLE eval_side AS SELECT {_names(_KEY)}, eval_sample AS sample,
                bool_or(action IN ('exclude', 'forbid')) AS met
            FROM evidence GROUP BY ALL
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
                    SELECT {_names(names)}, count(*), count_if(met)
                    FROM (SELECT {_names(names)}, sample, bool_or(met) AS met FROM eval_side GROUP BY ALL)
                    GROUP BY {_names(names)}
                    """  # noqa: S608 - names of columns
                ).fetchall():
                    add(names, row, ("eval_samples", "eval_met"))
                    if len(side) == len(_CELL):
                        add((*names[:1], *scope), (*row[:1], *row[3:]), ("eval_samples", "eval_met"))

    def order(key: tuple[Any, ...]) -> tuple[Any, ...]:
        scope = _SCOPES.index(_scope(cells[key]))
        return (*((name is None, name or "") for name in key[:3]), scope)

    return [cells[key] for key in sorted(cells, key=order)]


def write_report(path: Path, report: Report) -> None:
    """Write the page of `render` atomically.

    Raises: `UserError`.
    """
    write_atomic(path, render(report).encode())


def render(report: Report, limit: int = LIMIT, pictures: int = PICTURES) -> str:
    """Make the page, at most `limit` bytes of UTF-8, `pictures` of them for pictures.

    Where cards do not fit, each group keeps its strongest; pairs that are only reported go first.
    Raises: `UserError` if the parts do not belong together, or the page is too long without any card.
    """
    _check(report)
    values = _values(report)
    album = _Album(pictures)
    room = limit - len(_fill(report, values, [""] * len(report.pairs), album).encode()) - _RESERVE
    if room < 0:
        raise UserError(
            f"the report needs {limit - room} bytes without a single pair and may have {limit}; "
            "prove fewer builds at once"
        )
    return _fill(report, values, _cards(report, room, album), album)


def _fill(report: Report, values: Mapping[str, Any], cards: Sequence[str | None], album: _Album) -> str:
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
    return page.render(
        FOLDER, "report.html", groups=groups, cards=there, left_out=len(cards) - len(there), album=album, **values
    )


class _Album:
    """The pictures of a page, each once: cards of one test picture share it."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.names: dict[bytes, str] = {}
        """Name on the page by the picture's bytes, in the order in which they came."""
        self.left_out = 0
        """Places on cards whose picture found no room."""

    def add(self, picture: bytes) -> str | None:
        """The name of a picture on the page; None where there is no room left."""
        if picture not in self.names:
            size = len(page.data_url(picture)) + _SYMBOL
            if size > self.room:
                self.left_out += 1
                return None
            self.room -= size
            self.names[picture] = f"p{len(self.names) + 1}"
        return self.names[picture]


# ---- reading evidence


@contextmanager
def _open(evidence: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    with open_duckdb() as connection:
        connection.execute("SET memory_limit = '128MiB'; SET threads = 2")  # what is more lies on disk meanwhile
        try:
            rows = connection.read_parquet(glob.escape(str(evidence)), file_row_number=True, hive_partitioning=False)
            if rows.columns != [*EVIDENCE.names, "file_row_number"]:
                raise UserError(f"{evidence}: its columns are not those of evidence; write it again")
            rows.create_view("evidence")
            found = connection.execute("SELECT DISTINCT level || '/' || kind, action FROM evidence").fetchall()
            if strange := sorted(
                {kind for kind, _ in found} - {*_KINDS} | {action for _, action in found} - {*_ACTIONS}
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
    if (said := certificate["verdicts"]) and said["wrong"]:
        taken += f" Nothing is taken out by {page.plural(said['wrong'], 'pair')} that a reviewer judged wrong."
    if not certificate["clean"]:
        return (
            "Not clean: overlap is left that the policy does not allow",
            f"{taken} Left: {_by_kind(certificate['after'])}.",
        )
    if accounting.not_compared(certificate["accounting"]):
        return "Not proved: not everything was compared", f"{taken} What was not compared is listed below."
    if missing := _missing(certificate):
        return "Not proved: benchmarks of the policy are not held, or not whole", f"{taken} Not held: {missing}."
    if not certificate["matrix"]:
        return "Clean: no overlap found at any level", taken
    if reported := [row for row in certificate["matrix"] if row["action"] == "report"]:
        taken += f" The policy only reports {_by_kind(reported)}."
    return ("Clean after exclusions" if out else "Clean without exclusions"), taken


def _missing(certificate: Mapping[str, Any]) -> str:
    """Names of the benchmarks that were asked for and are not there."""
    asked = certificate["benchmarks"]["asked"] == "policy"
    return ", ".join(one["name"] for one in certificate["benchmarks"]["missing"] if asked)


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
        shade = sum(cell["excluded"] >= least for least in _SHADES)
        shade = shade if benchmark and cell["train_build"] is not None else 0
        at[_key(cell)[:3]].append({**cell, "scope": scope, "shade": shade})
        if not benchmark:
            scope_pairs[scope] += cell["pairs"]
    policy = dict(certificate["policy"])
    rules = policy.pop("rules", [])
    by_level = {
        (cell["train_build"], cell["level"]): cell["excluded"]
        for cell in report.cells
        if cell["eval_build"] is None and cell["kind"] is None
    }
    out = {row["train_build"]: row["train_samples"] for row in certificate["exclusions"]}
    totals = [(row["train_build"], row["train_samples"]) for row in certificate["train_totals"]]
    sources = [(build, out.get(build, 0), of) for build, of in totals]
    ordered = sorted(report.common, key=lambda row: (-row["train_samples"], -row["eval_df"], row["ngram"]))
    return {
        "title": title, "detail": detail, "certificate": certificate, "benchmark": _benchmark, "at": at,
        "scopes": _SCOPES, "scope_pairs": scope_pairs, "levels": LEVELS, "kinds": _KINDS, "actions": _ACTIONS,
        "shades": list(_SHADES.values()),
        "pairs_in_all": sum(cell["pairs"] for cell in report.cells if None not in _key(cell)),
        # What is to be seen first comes first: on a phone the rest is beyond the edge of the table's box.
        "met": sorted(
            (row for row in certificate["train_totals"] if (row["train_build"], None, None) in at),
            key=lambda row: (-out.get(row["train_build"], 0), row["train_build"]),
        ),
        "sources": [
            (build, taken, of, f"{taken / of:.2%}", *(by_level.get((build, level), 0) for level in LEVELS))
            for build, taken, of in sources
        ],
        "by_level_columns": [(level, "number") for level in LEVELS],
        "excluded_in_all": sum(out.values()),
        "reported": sum(row["pairs"] for row in certificate["matrix"] if row["action"] == "report"),
        "states": accounting.STATES,
        "totals": accounting.totals(certificate["accounting"]),
        "entries": [
            (row["state"], row["side"], row["build"], row["kind"], row["name"] or "all", row["reason"], row["count"])
            for row in sorted(certificate["accounting"], key=lambda row: row["state"] != accounting.NOT_COMPARED)
            if row["reason"]
        ],
        "incomplete": accounting.not_compared(certificate["accounting"]),
        "good": not title.startswith("Not "),
        "ngrams_in_all": len(ordered),
        "passages": report.passages,
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


def _cards(report: Report, room: int, album: _Album) -> list[str | None]:
    """Make the cards that fit into `room` bytes, None for the others: the first of every group, then the second, ...

    What is only reported comes after all the rest.
    """
    seen: Counter[tuple[Any, ...]] = Counter()
    order = []
    for index, pair in enumerate(report.pairs):
        seen[_key(pair.evidence)] += 1
        order.append((pair.evidence["action"] == "report", seen[_key(pair.evidence)], index))
    totals = {_key(cell): cell["pairs"] for cell in report.cells}
    liftable = report.certificate["policy"].get("verdicts", ())
    cards: list[str | None] = [None] * len(report.pairs)
    for _, place, index in sorted(order):
        pair, before = report.pairs[index], album.room
        card = _card(pair, place, totals[_key(pair.evidence)], report.show_credentialed, album, liftable)
        room -= len(card.encode()) + 1 + before - album.room
        if room < 0:
            break
        cards[index] = card
    return cards


def _card(pair: Pair, place: int, total: int, show_credentialed: bool, album: _Album, liftable: Sequence[str]) -> str:
    row = pair.evidence
    both = (pair.train, pair.eval)
    hidden = [side.access == "credentialed" and not show_credentialed for side in both]
    span = None if any(hidden) else row["span"]
    texts = (pair.train.text or "", pair.eval.text or "")
    # To mark what the two share would tell what the hidden one says.
    marked = [([], True), ([], True)] if any(hidden) else shared_ranges(texts, span)
    roles = ("train", "test")
    pictures = []
    for side, secret in zip(both, hidden, strict=True):
        shown = None if secret else side.thumbnail
        if shown is not None and not shown.startswith(_PICTURES):
            raise UserError(f"{side.sample_id}: its thumbnail is neither JPEG nor PNG; build {side.build} again")
        pictures.append(None if shown is None else album.add(shown))
    # What a verdict can lift, of pairs that a reviewer sees.
    judged = row["action"] in ("exclude", WRONG) and row["level"] in liftable and not any(hidden)
    named = {"level": row["level"]} | {
        f"{role}_{name}": value
        for role, side in zip(SIDES, both, strict=True)
        for name, value in (
            ("build", side.build), ("sample", side.sample_id), ("index", side.index), ("sha256", side.sha256)
        )
    }  # fmt: skip
    return page.render(
        FOLDER, "report_card.html", row=row, kind=_scope(row), benchmark=_benchmark, place=place, total=total,
        score="" if row["score"] is None else f"{row['score']:.4f}",
        measures=[f"{label} {row[name]}" for name, label in _MEASURES.items() if row[name] is not None],
        sides=[
            (role, side, picture, None if secret else _excerpt(text, ranges))
            for role, side, picture, secret, text, (ranges, _) in zip(
                roles, both, pictures, hidden, texts, marked, strict=True
            )
        ],
        pair=orjson.dumps(named).decode() if judged else None,
        private=any(side.access == "credentialed" for side in both),
        picture_side=PICTURE_SIDE, span=span,
        missing=[r for r, text, (_, found) in zip(roles, texts, marked, strict=True) if span and text and not found],
    )  # fmt: skip


_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_MEASURES = {
    "value": "shared", "distance": "Hamming distance", "variant": "test picture as", "decided_on": "decided on",
    "words": "words", "eval_df": "test items that have it", "eval_subset": "subset",
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
