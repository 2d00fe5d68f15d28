"""The report: one HTML file in which a person sees what overlaps, and checks it by eye.

The file needs no network and no other file. It shows the certificate, a matrix of training builds against benchmarks
(which works without scripts), a card for each of the strongest pairs, and the n-grams that were too common to count.
It holds no date and no machine's name: the same evidence gives the same bytes.

Dataset text is hostile until escaped. All of it is, and the page's own security policy names the digests of its one
style and one script, so that nothing else on the page can run or load anything.
"""

from __future__ import annotations

import base64
import glob
import hashlib
import html
import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.atomic import write_atomic
from manifests.catalog import one_line, open_duckdb
from manifests.evidence import EVIDENCE, LEVELS
from manifests.highlight import RUN, Range, shared_ranges
from manifests.policy import ACTIONS

if TYPE_CHECKING:
    import duckdb

TEMPLATE = Path(__file__).parent / "report.html"
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

_HIDDEN = "credentialed, shown with --show-credentialed"
_REQUIRED = (
    "root builds builds_root policy policy_sha256 rules software coverage files train_totals eval_totals matrix runs "
    "counts left_out_of_near_text without_pixels exclusions after clean"
).split()
_CELL = ("train_build", "eval_build", "eval_split")
_KEY = (*_CELL, "level", "kind")
_NUMBERS = ("pairs", "train_samples", "eval_samples", "excluded", "forbidden")
_KINDS = tuple(f"{level}/{kind}" for level, kinds in LEVELS.items() for kind in kinds)
_SCOPES = ("all", *(scope for level, kinds in LEVELS.items() for scope in (level, *(f"{level}/{k}" for k in kinds))))
_SHADES = {1: "1", 2: "2 to 9", 10: "10 to 99", 100: "100 to 999", 1_000: "1,000 to 9,999", 10_000: "10,000 or more"}
_RESERVE = 1_000  # bytes for the sentence that says what was left out
_SLOT = re.compile(r"\{\{(\w+)\}\}")
_SEPARATOR = re.compile(r"[/._]")


class ReportError(Exception):
    """One line: what does not fit together, and what to do."""


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
    """One row of `manifests.evidence.EVIDENCE` with both samples."""

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

    Raises: `ReportError` if the file is no evidence; ValueError for a negative number.
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

    Raises: `ReportError` if the file is no evidence.
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

    Raises: `ReportError`.
    """
    write_atomic(path, render(report, limit).encode())


def render(report: Report, limit: int = LIMIT) -> str:
    """Make the page, at most `limit` bytes of UTF-8. Where cards do not fit, each group keeps its strongest.

    Raises: `ReportError` if the parts do not belong together, or the page is too long without any card.
    """
    certificate = report.certificate
    _check(report)
    every = [True] * len(report.pairs)
    slots = {
        "title": _text(_verdict(certificate)[0]),
        "scope_rules": _scope_rules(),
        "verdict": _render_verdict(certificate),
        "exclusions": _render_exclusions(certificate),
        "scopes": _render_scopes(report.cells),
        "legend": _render_legend(),
        "matrix": _render_matrix(report),
        "levels": _options(LEVELS),
        "kinds": _options(_KINDS),
        "actions": _options(ACTIONS),
        "trains": _options(total["train_build"] for total in certificate["train_totals"]),
        "evals": _options(_benchmark(total) for total in certificate["eval_totals"]),
        "groups": _render_groups(report, every),
        "pairs_note": _pairs_note(report, every),
        "cards": "",
        "common": _render_common(report),
        "coverage": _render_coverage(certificate),
        "builds": _render_builds(certificate),
        "policy": _render_policy(certificate),
        "provenance": _render_provenance(certificate),
        "security": "",
    }
    template = TEMPLATE.read_text(encoding="utf-8")
    slots["security"] = _security(_fill(template, slots))
    room = limit - len(_fill(template, slots).encode()) - _RESERVE
    if room < 0:
        raise ReportError(
            f"the report needs {limit - room} bytes without a single pair and may have {limit}; "
            "prove fewer builds at once"
        )
    cards = _cards(report, room)
    slots["cards"] = "\n".join(card for card in cards if card)
    shown = [card is not None for card in cards]
    slots["groups"] = _render_groups(report, shown)
    slots["pairs_note"] = _pairs_note(report, shown)
    return _fill(template, slots)


# ---- reading evidence


@contextmanager
def _open(evidence: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    import duckdb

    with open_duckdb() as connection:
        try:
            rows = connection.read_parquet(glob.escape(str(evidence)), file_row_number=True, hive_partitioning=False)
            if rows.columns != [*EVIDENCE.names, "file_row_number"]:
                raise ReportError(f"{evidence}: its columns are not those of evidence; write it again")
            rows.create_view("evidence")
            found = connection.execute("SELECT DISTINCT level || '/' || kind, action FROM evidence").fetchall()
            if strange := sorted(
                {kind for kind, _ in found} - {*_KINDS} | {action for _, action in found} - {*ACTIONS}
            ):
                raise ReportError(f"{evidence}: unknown kind or action {', '.join(strange)}; write it again")
            yield connection
        except duckdb.Error as error:
            raise ReportError(f"{evidence}: {one_line(error)}; write it again") from error


def _names(columns: Iterable[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _KEY)


def _benchmark(row: Mapping[str, Any]) -> str:
    return f"{row['eval_build']}/{row['eval_split']}"


def _check(report: Report) -> None:
    certificate = report.certificate
    if missing := [name for name in _REQUIRED if name not in certificate]:
        raise ReportError(f"the certificate has no {', '.join(missing)}; write it again")
    counted = {_key(cell): cell["pairs"] for cell in report.cells if None not in _key(cell)}
    certified: Counter[tuple[Any, ...]] = Counter()
    for row in certificate["matrix"]:
        certified[_key(row)] += row["pairs"]
    for key in sorted(certified.keys() | counted.keys()):
        if certified[key] != counted.get(key, 0):
            raise ReportError(
                f"{' '.join(key)}: {certified[key]} pairs in the certificate, {counted.get(key, 0)} in the evidence; "
                "run the proof again"
            )
    builds = {total["train_build"] for total in certificate["train_totals"]}
    benchmarks = {(total["eval_build"], total["eval_split"]) for total in certificate["eval_totals"]}
    for train_build, *benchmark, _, _ in sorted(counted):
        if train_build not in builds or tuple(benchmark) not in benchmarks:
            raise ReportError(f"{train_build} against {'/'.join(benchmark)}: not among the certificate's totals")
    for pair in report.pairs:
        for name, side in ("train", pair.train), ("eval", pair.eval):
            row = tuple(pair.evidence[f"{name}_{part}"] for part in ("build", "split", "sample", "index"))
            if row != (side.build, side.split, side.sample_id, side.index):
                raise ReportError(f"{row[2]}: its pair holds {side.build} {side.sample_id} as the {name} side")
        if _key(pair.evidence) not in counted:
            raise ReportError(f"{' '.join(_key(pair.evidence))}: a pair to show, but no evidence counted")


# ---- small pieces of HTML


def _fill(template: str, slots: Mapping[str, str]) -> str:
    # In one pass: a slot's name inside dataset text stays text.
    return _SLOT.sub(lambda match: slots[match[1]], template)


def _text(value: object) -> str:
    """Escape a value for any place in the page; control codes and halves of surrogate pairs become a sign for them."""
    return html.escape("".join(map(_visible, str(value))))


@cache
def _visible(letter: str) -> str:
    bad = unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"
    return "\N{REPLACEMENT CHARACTER}" if bad else letter


def _name(value: object) -> str:
    """Escape an identifier; it may break after a separator, and its direction stays its own."""
    broken = _SEPARATOR.sub(r"\g<0><wbr>", _text(value))
    return f"<bdi>{broken}</bdi>"


def _options(values: Iterable[str]) -> str:
    return "".join(f'<option value="{_text(value)}">{_text(value)}</option>' for value in values)


def _plural(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = (), name: str = "") -> str:
    """Write a table of cells that are HTML already; `numbers` are the columns set to the right."""
    style = [' class="number"' if place in numbers else "" for place in range(len(head))]
    top = "".join(f'<th scope="col"{kind}>{cell}</th>' for cell, kind in zip(head, style, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(row, style, strict=True)) + "</tr>\n"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table>'
        f"<thead><tr>{top}</tr></thead>\n<tbody>{body}</tbody></table></div>"
    )


def _definitions(values: Mapping[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, int) and not isinstance(value, bool):
            return f"{value:,}"
        return _text(value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False))

    return "<dl>" + "".join(f"<dt>{_text(key)}</dt><dd>{shown(value)}</dd>" for key, value in values.items()) + "</dl>"


def _security(page: str) -> str:
    """Write the page's security policy: its one style and one script by digest, pictures inline, and nothing else."""
    digests = {}
    for tag in ("style", "script"):
        [content] = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests[tag] = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
    return (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests['style']}'; "
        f"script-src 'sha256-{digests['script']}'; base-uri 'none'; form-action 'none'"
    )


# ---- the certificate


def _verdict(certificate: Mapping[str, Any]) -> tuple[str, str]:
    """One line that says how it stands, and one that says what follows."""
    out = sum(row["train_samples"] for row in certificate["exclusions"])
    taken = f"{_plural(out, 'training sample')} excluded." if out else "No training sample had to be excluded."
    if not certificate["clean"]:
        return (
            "Not clean: overlap is left that the policy does not allow",
            f"{taken} Left: {_by_kind(certificate['after'])}.",
        )
    if not certificate["matrix"]:
        return "Clean: no overlap found at any level", taken
    if reported := [row for row in certificate["matrix"] if row["action"] == "report"]:
        taken += f" The policy only reports {_by_kind(reported)}."
    return ("Clean after exclusions" if out else "Clean without exclusions"), taken


def _by_kind(rows: Iterable[Mapping[str, Any]]) -> str:
    pairs: Counter[str] = Counter()
    for row in rows:
        pairs[_scope(row)] += row["pairs"]
    return ", ".join(f"{kind} ({_plural(pairs[kind], 'pair')})" for kind in _KINDS if pairs[kind])


def _render_verdict(certificate: Mapping[str, Any]) -> str:
    headline, detail = _verdict(certificate)
    state, sign = ("clean", "✓") if certificate["clean"] else ("unclean", "✗")
    return (
        f'<p class="verdict {state}" id="verdict"><span class="sign" aria-hidden="true">{sign}</span> '
        f"{_text(headline)}</p>\n"
        f'<p class="detail">{_text(detail)}</p>\n'
        f'<p class="digest">Certificate <code id="root">{_text(certificate["root"])}</code></p>'
    )


def _render_builds(certificate: Mapping[str, Any]) -> str:
    rows = [
        (
            _name(build["build"]),
            _text(build["revision"]),
            *(f"{build['samples'][role]:,}" for role in ("train", "eval")),
            _text(build["access"]),
            _text(build["license"]),
            "no: ids and texts only" if build["metadata_only"] else "yes",
            f"<code>{_text(build['root'])}</code>",
        )
        for build in certificate["builds"]
    ]
    head = (
        "build",
        "revision",
        "train samples",
        "test samples",
        "access",
        "licence",
        "pictures compared",
        "root digest",
    )
    recipes = sorted({str(build["fingerprint_recipe"]) for build in certificate["builds"]})
    roots = [
        ("Root of all builds", certificate["builds_root"]),
        *(("Fingerprint recipe", recipe) for recipe in recipes),
    ]
    return _table(head, rows, (2, 3), "Builds") + "".join(
        f"<p>{name} <code>{_text(value)}</code></p>" for name, value in roots
    )


def _render_exclusions(certificate: Mapping[str, Any]) -> str:
    totals = {row["train_build"]: row["train_samples"] for row in certificate["train_totals"]}
    rows = [
        (
            _name(row["train_build"]),
            f"{row['train_samples']:,}",
            f"{totals[row['train_build']]:,}",
            f"{row['train_samples'] / totals[row['train_build']]:.2%}",
        )
        for row in certificate["exclusions"]
    ]
    if not rows:
        return "<p>None.</p>"
    return _table(("training build", "excluded", "of", "share"), rows, (1, 2, 3), "Exclusions")


def _render_policy(certificate: Mapping[str, Any]) -> str:
    policy = dict(certificate["policy"])
    rules = policy.pop("rules", [])
    fixed = ("level", "kinds", "train", "eval", "action")
    rows = [
        (
            str(number),
            _text(rule["level"]),
            *(_text(", ".join(rule.get(name, ())) or "all") for name in ("kinds", "train", "eval")),
            _text(", ".join(f"{key} {value}" for key, value in rule.items() if key not in fixed) or "none"),
            f'<span class="action {_text(rule["action"])}">{_text(rule["action"])}</span>',
        )
        for number, rule in enumerate(rules, 1)
    ]
    head = ("", "level", "kinds", "training builds", "benchmarks", "conditions", "action")
    return (
        "<p>The first rule that fits a pair decides; what no rule fits is reported.</p>"
        + _table(head, rows, (), "Rules of the policy")
        + _definitions(policy)
        + f"<p>Digest of the policy <code>{_text(certificate['policy_sha256'])}</code></p>"
    )


def _render_provenance(certificate: Mapping[str, Any]) -> str:
    digests = [*certificate["files"].items(), *certificate["rules"].items()]
    looked = [
        (_text(level), _text(name.replace("_", " ")), f"{number:,}")
        for level, counts in certificate["counts"].items()
        for name, number in counts.items()
    ]
    looked += [
        ("near_text", f"pairs with a shared run of {_text(words)} words or more", f"{pairs:,}")
        for words, pairs in certificate["runs"].items()
    ]
    return (
        "<h3>What was looked at</h3>"
        + _table(("level", "what", "number"), looked, (2,), "Counts")
        + "<h3>Software</h3>"
        + _definitions(certificate["software"])
        + "<h3>Digests of the proof’s files and of the code that found the evidence</h3>"
        + _table(
            ("what", "SHA-256"),
            [(_text(name), f"<code>{_text(digest)}</code>") for name, digest in digests],
            (),
            "Digests",
        )
    )


def _render_coverage(certificate: Mapping[str, Any]) -> str:
    limits = [
        "Identifiers and exact copies: every pair is found. "
        f"Shared runs of {min(map(int, certificate['runs']))} words or more: every pair is found, "
        "unless the run consists of the common n-grams listed above. "
        "Near pictures: every pair of hashes within the radius is looked at, and what that finds is measured below. "
        "Similar wordings (Jaccard, TF-IDF) are a search with a threshold, never a proof.",
        "Not covered: changes of a picture that the table does not name, panels cut out of figures, and texts that "
        "were translated or freely retold.",
    ]
    limits += [
        f"{row['build']}: {_plural(row['images'], 'picture')} of {row['role']} samples came without pixels; "
        "only ids and texts were compared."
        for row in certificate["without_pixels"]
    ]
    limits += [
        f"{row['build']}: {_plural(row['eval_samples'], 'test sample')} of the task {row['task']} "
        "left out of near text, as the policy says."
        for row in certificate["left_out_of_near_text"]
    ]
    text = "".join(f"<p>{_text(limit)}</p>" for limit in limits)
    coverage = certificate["coverage"]
    if coverage is None:
        return (
            text
            + "<p><strong>No measurement of changed pictures is on record: take none of them as covered.</strong></p>"
        )
    rows = []
    for change in sorted(coverage["transformations"], key=lambda change: (change["recall"], change["name"])):
        partly = change["recall"] < LOW_RECALL
        rows.append(
            (
                _text(change["name"]),
                f"{change['pictures']:,}",
                f"{change['found']:,}",
                f"{change['recall_candidates']:.4f}",
                f"{change['recall']:.4f}",
                '<span class="partly">in part</span>' if partly else "yes",
            )
        )
    head = ("change", "pictures", "found", "recall of candidates", "recall", f"covered (≥ {LOW_RECALL})")
    return (
        text
        + _table(head, rows, (1, 2, 3, 4), "Recall by change of a picture")
        + "<h3>Pictures of the measurement</h3>"
        + _definitions(coverage["pictures"])
        + "<h3>Precision</h3>"
        + _definitions(coverage["precision"])
    )


# ---- the matrix


def _scope_id(scope: str) -> str:
    return "scope-" + scope.replace("/", "-")


def _scope(cell: Mapping[str, Any]) -> str:
    return "/".join(part for part in (cell["level"], cell["kind"]) if part is not None) or "all"


def _scope_rules() -> str:
    """Style that shows the numbers of the chosen scope: the matrix needs no script."""
    shown = ",\n".join(f'#matrix:has(#{_scope_id(s)}:checked) .n[data-scope="{s}"]' for s in _SCOPES)
    zero = ",\n".join(f'#matrix:has(#{_scope_id(s)}:checked) td:has(.n[data-scope="{s}"]) .zero' for s in _SCOPES)
    return f"{shown} {{ display: flex; }}\n{zero} {{ display: none; }}"


def _render_scopes(cells: Sequence[Mapping[str, Any]]) -> str:
    pairs: Counter[str] = Counter()
    for cell in cells:
        if cell["train_build"] is not None and cell["eval_build"] is None:
            pairs[_scope(cell)] += cell["pairs"]

    def choice(scope: str, label: str, kind: str) -> str:
        chosen = " checked" if scope == "all" else ""
        none = "" if pairs[scope] else " none"
        return (
            f'<label class="{kind}{none}">'
            f'<input type="radio" name="scope" id="{_scope_id(scope)}" value="{scope}"{chosen}>'
            f'{label}<span class="count">{pairs[scope]:,}</span></label>'
        )

    rows = [f'<div class="row">{choice("all", "all levels", "level")}</div>']
    for level, kinds in LEVELS.items():
        of_level = "".join(choice(f"{level}/{kind}", kind, "kind") for kind in kinds)
        rows.append(f'<div class="row">{choice(level, level, "level")}{of_level}</div>')
    return "\n".join(rows)


def _shade(number: int) -> int:
    return sum(number >= least for least in _SHADES)


def _render_legend() -> str:
    return "".join(
        f'<li><span class="swatch c{place}"></span>{name}</li>' for place, name in enumerate(_SHADES.values(), 1)
    )


def _number(cell: Mapping[str, Any], number: int, small: str, shade: int) -> str:
    """Write one number of a cell of the matrix: a button that filters the pairs, shown in its scope only."""
    scope = _scope(cell)
    forbidden = cell["forbidden"]
    what = (
        f"{scope}: {_plural(cell['train_samples'], 'training sample')}, {cell['excluded']:,} excluded, "
        f"{forbidden:,} forbidden; {_plural(cell['eval_samples'], 'test sample')}; "
        f"{_plural(cell['pairs'], 'pair')}"
    )
    return (
        f'<button type="button" class="n c{shade}{" forbidden" if forbidden else ""}" data-scope="{scope}" '
        f'data-pairs="{cell["pairs"]}" title="{what}"><b>{number:,}</b><small>{small}</small></button>'
    )


def _render_matrix(report: Report) -> str:
    certificate = report.certificate
    at: dict[tuple[Any, ...], list[Mapping[str, Any]]] = defaultdict(list)
    for cell in report.cells:
        at[_key(cell)[:3]].append(cell)

    def inside(key: tuple[Any, ...]) -> str:
        return "".join(
            _number(
                cell,
                cell["train_samples"],
                f"{cell['excluded']:,} out",
                0 if cell["eval_build"] is None else _shade(cell["train_samples"]),
            )
            for cell in at[key]
        )

    trains, evals = certificate["train_totals"], certificate["eval_totals"]
    if not trains or not evals:
        return "<p>There is no training build or no benchmark, so there is nothing to compare.</p>"
    zero = '<span class="zero">0</span>'
    head = "".join(
        f'<th scope="col">{_name(_benchmark(total))}<small>{_plural(total["eval_samples"], "sample")}</small></th>'
        for total in evals
    )
    body = []
    for train in trains:
        build = train["train_build"]
        tds = "".join(
            f'<td data-train="{_text(build)}" data-eval="{_text(_benchmark(total))}">{zero}'
            f"{inside((build, total['eval_build'], total['eval_split']))}</td>"
            for total in evals
        )
        body.append(
            f'<tr><th scope="row">{_name(build)}<small>{_plural(train["train_samples"], "sample")}</small></th>'
            f'<td class="total" data-train="{_text(build)}" data-eval="">{zero}{inside((build, None, None))}</td>'
            f"{tds}</tr>"
        )
    foot = []
    for total in evals:
        numbers = "".join(
            _number(cell, cell["eval_samples"], f"of {total['eval_samples']:,}", 0)
            for cell in at[None, total["eval_build"], total["eval_split"]]
        )
        foot.append(f'<td class="total" data-train="" data-eval="{_text(_benchmark(total))}">{zero}{numbers}</td>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Matrix"><table class="matrix"><thead><tr>'
        '<th scope="col" class="corner">training build ↓<br>benchmark →</th>'
        f'<th scope="col" class="total">any benchmark</th>{head}</tr></thead>\n<tbody>' + "\n".join(body) + "</tbody>\n"
        f'<tfoot><tr><th scope="row">test samples touched</th><td class="total"></td>{"".join(foot)}</tr></tfoot>'
        "</table></div>"
    )


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


def _pairs_note(report: Report, shown: Sequence[bool]) -> str:
    everything = sum(cell["pairs"] for cell in report.cells if None not in _key(cell))
    if not everything:
        return '<p id="pairs-note">There is no evidence: nothing overlaps at any level.</p>'
    note = (
        f'<p id="pairs-note">{_plural(sum(shown), "pair is", "pairs are")} shown of {everything:,} in all: of each '
        "training build, benchmark and kind those of the highest score. The evidence file holds every one.</p>"
    )
    if left_out := len(shown) - sum(shown):
        note += (
            f'<p class="partly" id="left-out">{_plural(left_out, "more pair was", "more pairs were")} chosen and left '
            "out, because the page would have become too long. The table says where.</p>"
        )
    return note


def _render_groups(report: Report, shown: Sequence[bool]) -> str:
    cards: Counter[tuple[Any, ...]] = Counter()
    for pair, there in zip(report.pairs, shown, strict=True):
        cards[_key(pair.evidence)] += there
    rows = [
        (
            _name(cell["train_build"]),
            _name(_benchmark(cell)),
            _text(_scope(cell)),
            f"{cards[_key(cell)]:,}",
            f"{cell['pairs']:,}",
        )
        for cell in report.cells
        if None not in _key(cell)
    ]
    return _table(
        ("training build", "benchmark", "level/kind", "shown", "in all"), rows, (3, 4), "Pairs shown and in all"
    )


def _card(pair: Pair, place: int, total: int, show_credentialed: bool) -> str:
    row = pair.evidence
    measures = [f"{label} {row[name]}" for name, label in _MEASURES.items() if row[name] is not None]
    score = "" if row["score"] is None else f"{row['score']:.4f}"
    hidden = [side.access == "credentialed" and not show_credentialed for side in (pair.train, pair.eval)]
    if not any(hidden):
        texts, note = _marked_texts(pair)
    else:  # to mark what the two share would tell what the hidden one says
        texts, note = [_excerpt(side.text or "", []) for side in (pair.train, pair.eval)], ""
    sides = "".join(
        _render_side(role, side, text, secret)
        for role, side, text, secret in zip(("train", "test"), (pair.train, pair.eval), texts, hidden, strict=True)
    )
    span = (
        ""
        if row["span"] is None or any(hidden)
        else f'<p class="span">Shared run: <q dir="auto">{_text(row["span"])}</q></p>'
    )
    kind = f"{row['level']}/{row['kind']}"
    return (
        f'<article class="pair" data-level="{row["level"]}" data-kind="{kind}" '
        f'data-train="{_text(row["train_build"])}" data-eval="{_text(_benchmark(row))}" '
        f'data-action="{row["action"]}" data-score="{score}">\n'
        f'<header><span class="badge">{kind}</span><span class="action {row["action"]}">{row["action"]}</span>'
        f'<span class="score">{"score " + score if score else ""}</span>'
        f'<span class="measures">{_text(" · ".join(measures))}</span>'
        f'<span class="place">{place:,} of {total:,}</span></header>\n'
        f'<div class="sides">{sides}</div>{span}{note}</article>'
    )


_MEASURES = {
    "value": "shared", "distance": "Hamming distance", "variant": "test picture as", "decided_on": "decided on",
    "words": "words", "eval_df": "test samples with its rarest n-gram", "eval_subset": "subset",
}  # fmt: skip


def _render_side(role: str, side: Side, text: str, hidden: bool) -> str:
    where = f"{_name(side.build)} · {_name(side.split)}" + ("" if side.index is None else f" · image {side.index}")
    content = ""
    if hidden:
        content = f'<p class="withheld">{_HIDDEN}</p>'
    else:
        if side.thumbnail is not None:
            content += _picture(side, side.thumbnail)
        if text:
            content += f'<div class="text" dir="auto">{text}</div>'
        if not content:
            content = '<p class="withheld">neither picture nor text at hand</p>'
    return (
        f'<section class="side {role}"><h3>{role}</h3><p class="where">{where} · {_text(side.access)}</p>'
        f'<p class="id">{_name(side.sample_id)}</p>{content}</section>'
    )


def _picture(side: Side, data: bytes) -> str:
    if data.startswith(b"\xff\xd8\xff"):
        kind = "jpeg"
    elif data.startswith(b"\x89PNG\r\n\x1a\n"):
        kind = "png"
    else:
        raise ReportError(f"{side.sample_id}: its thumbnail is neither JPEG nor PNG; build {side.build} again")
    size = "size not known"
    width = height = PICTURE_SIDE
    if side.width and side.height:
        size = f"{side.width:,} × {side.height:,} pixels"
        longer = max(side.width, side.height)
        width, height = (max(1, round(PICTURE_SIDE * length / longer)) for length in (side.width, side.height))
    return (
        f'<figure><img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" '
        f'width="{width}" height="{height}" alt="thumbnail of {_text(side.sample_id)}">'
        f"<figcaption>{size}</figcaption></figure>"
    )


def _marked_texts(pair: Pair) -> tuple[list[str], str]:
    """Both texts as HTML with what they share marked, and a note where the run of the evidence is not in one."""
    texts = (pair.train.text or "", pair.eval.text or "")
    span = pair.evidence["span"]
    sides = shared_ranges(texts, span)
    missing = [
        role
        for role, text, (_, found) in zip(("train", "test"), texts, sides, strict=True)
        if span and text and not found
    ]
    note = f'<p class="note">Not in the text shown here: the shared run ({", ".join(missing)}).</p>' if missing else ""
    return [_excerpt(text, ranges) for text, (ranges, _) in zip(texts, sides, strict=True)], note


def _excerpt(text: str, ranges: Sequence[Range]) -> str:
    """Text as HTML with its ranges marked, cut to `TEXT_SHOWN` letters around the strongest of them."""
    first, last = 0, len(text)
    if len(text) > TEXT_SHOWN:
        focus = max(ranges, key=lambda found: found[2], default=(0, 0, 0))
        first = max(0, min(focus[0] - TEXT_SHOWN // 4, len(text) - TEXT_SHOWN))
        last = min(len(text), max(first + TEXT_SHOWN, min(focus[1], first + 3 * TEXT_SHOWN)))
    out, position = [], first
    for start, end, mark in ranges:
        start, end = max(start, first), min(end, last)
        if start >= end:
            continue
        tag = "mark" if mark == RUN else "u"
        out.append(f"{_text(text[position:start])}<{tag}>{_text(text[start:end])}</{tag}>")
        position = end
    out.append(_text(text[position:last]))
    before = f'<i class="cut">{first:,} letters before</i> ' if first else ""
    after = f' <i class="cut">{len(text) - last:,} letters after</i>' if last < len(text) else ""
    return f"{before}{''.join(out)}{after}"


def _render_common(report: Report) -> str:
    if not report.common:
        return "<p>None on record.</p>"
    ordered = sorted(report.common, key=lambda row: (-row["train_samples"], -row["eval_df"], row["ngram"]))
    rows = [
        (f"<bdi>{_text(row['ngram'])}</bdi>", f"{row['eval_df']:,}", f"{row['train_samples']:,}")
        for row in ordered[:COMMON_SHOWN]
    ]
    note = (
        f"<p>{_plural(len(ordered), 'n-gram occurs', 'n-grams occur')} in so many test samples that "
        "sharing one means nothing; alone they make no pair."
    )
    if len(ordered) > COMMON_SHOWN:
        note += f" The {COMMON_SHOWN} that most training samples have are shown."
    return note + "</p>" + _table(("n-gram", "test samples", "training samples"), rows, (1, 2), "Common n-grams")
