"""Verdicts: what a reviewer says of pairs that he read. A pair judged wrong takes nothing out any more.

The report saves JSON Lines, `manifests.prove --verdicts FILE` reads them, a line a verdict (files may be joined):

    {"verdict": "wrong", "level": "near_text", "by": "A. Reader", "note": "another drug",
     "train_build": "medreason", "train_sample": "medreason/train/1", "train_index": null, "train_sha256": "...",
     "eval_build": "medqa", "eval_sample": "medqa/test/7", "eval_index": null, "eval_sha256": "..."}

A verdict is about two samples at one level, whatever the kinds of evidence there (`*_index`: the picture meant, null
for the sample as a whole), and `right` says that they are the same item. It names them by ids and digests, never by
texts. `*_sha256` is of a sample as the reviewer saw it: SHA-256 of the hexadecimal digests, one after the other, of its
record and of each picture's pixels. The proof keeps the file as it is, as `verdicts.jsonl`.

A wrong pair's evidence has the action `wrong` where the policy says `exclude`. A verdict is not used, and named, where
    - the evidence has no such pair, or one of its samples changed;
    - the policy does not name the level under `verdicts`, or excludes nothing by the pair;
    - another verdict says that the pair is right;
    - evidence names as many test items with the training sample as it ever does (`text_pairs.NAMED`), so others may be
      behind them that nobody judged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import orjson
from msgspec import Meta

from manifests.catalog import sql_text
from medgpt.errors import UserError
from medgpt.limited import open_file, read_whole
from medgpt.settings import Settings, checked

if TYPE_CHECKING:
    import duckdb

    from manifests.proof.policy import Policy

WRONG = "wrong"
"""Action of evidence that a reviewer judged wrong."""
SIDES = ("train", "eval")
PAIR = ("level", *(f"{side}_{part}" for side in SIDES for part in ("build", "sample", "index")))
"""What names a pair."""
REASONS = {
    "absent": "the evidence has no such pair",
    "changed": "one of its samples is not as it was judged",
    "level": "the policy lets no verdict lift this level",
    "kept": "the policy takes nothing out by it",
    "more": "more test items may be behind it than are named",
    "contested": "another verdict says that it is right",
}
"""Why a verdict is not used: the first that holds."""

_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, Meta(min_length=1)]
_PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
_Index = Annotated[int, Meta(ge=0)]


class Verdict(Settings, frozen=True):
    """One line of the file."""

    verdict: Literal["wrong", "right"]
    level: _Name
    train_build: _Name
    train_sample: _Name
    train_index: _Index | None
    train_sha256: _Sha256
    eval_build: _Name
    eval_sample: _Name
    eval_index: _Index | None
    eval_sha256: _Sha256
    by: Annotated[str, Meta(min_length=1, max_length=100, pattern=_PLAIN)]
    note: Annotated[str, Meta(max_length=100, pattern=_PLAIN)] = ""


def read_verdicts(path: Path) -> tuple[list[Verdict], bytes]:
    """The verdicts of a file, line by line, and its bytes. Raises: `UserError` with file and line."""
    try:
        with open_file(path) as file:
            data = read_whole(file)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; the report saves such a file") from error
    verdicts = []
    for number, line in enumerate(data.splitlines(), 1):
        place = f"{path}: line {number}"
        try:
            verdicts.append(checked(Verdict, orjson.loads(line), place))
        except orjson.JSONDecodeError as error:
            raise UserError(f"{place}: not JSON; each line is a verdict, as the report saves it") from error
    return verdicts, data


def seen(connection: duckdb.DuckDBPyConnection, samples: Iterable[tuple[str, str]]) -> None:
    """Make the table `seen` (build, sample_id, access, sha256) of the samples named: as verdicts name them."""
    import pyarrow as pa

    schema = pa.schema([("build", pa.string()), ("sample_id", pa.string())])
    rows = [dict(zip(schema.names, sample, strict=True)) for sample in sorted(set(samples))]
    connection.register("wanted", pa.Table.from_pylist(rows, schema))
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE seen AS
        SELECT build, sample_id, access, sha256(lower(hex(sha256) || coalesce(pixels, ''))) AS sha256
        FROM (FROM samples SEMI JOIN wanted USING (build, sample_id))
        LEFT JOIN (SELECT build, sample_id, string_agg(hex(pixel_sha256), '' ORDER BY "index") AS pixels
                   FROM (FROM images SEMI JOIN wanted USING (build, sample_id)) GROUP BY ALL)
            USING (build, sample_id)"""
    )
    connection.unregister("wanted")


def judge(connection: duckdb.DuckDBPyConnection, policy: Policy, verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """Heed verdicts in the table `evidence`, beside the catalogue's views; what `lift` returns.

    Raises: `UserError` for a note about credentialed data, which could hold its text.
    """
    ends = [((one.train_build, one.train_sample), (one.eval_build, one.eval_sample)) for one in verdicts]
    seen(connection, (end for both in ends for end in both))
    secret = set(connection.execute("SELECT build, sample_id FROM seen WHERE access = 'credentialed'").fetchall())
    for number, (one, both) in enumerate(zip(verdicts, ends, strict=True), 1):
        if one.note and not secret.isdisjoint(both):
            raise UserError(
                f"verdicts, line {number}: a note about a credentialed sample could hold its text, and this file "
                "travels; leave the note empty"
            )
    return lift(connection, "evidence", policy, verdicts, digests=True)


def lift(
    connection: duckdb.DuckDBPyConnection,
    evidence: str,
    policy: Policy,
    verdicts: Sequence[Verdict],
    *,
    skipped: Collection[int] = (),
    digests: bool = False,
) -> dict[str, Any]:
    """Give rows of the table `evidence`, whose actions are the policy's, the action `wrong` where a verdict is used.

    skipped: numbers of lines that say nothing. digests: hold them against the table `seen`.
    Returns `wrong` and `right`, the pairs that verdicts were used for; `back`, the training samples that nothing takes
    out any more; `not_used`, {line, reason} of the other verdicts.
    """
    import pyarrow as pa

    from manifests.proof.text_pairs import NAMED

    rows = [
        {"line": number, **msgspec.structs.asdict(verdict)}
        for number, verdict in enumerate(verdicts, 1)
        if number not in skipped
    ]
    types = {"line": pa.int32()} | {f"{side}_index": pa.int32() for side in SIDES}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in ("line", *Verdict.__struct_fields__)])
    connection.register("given", pa.Table.from_pylist(rows, schema))
    same, also = (" AND ".join(f"{of}.{name} IS NOT DISTINCT FROM v.{name}" for name in PAIR) for of in "eo")
    levels = ", ".join(map(sql_text, ["", *policy.verdicts]))  # no level is called ""
    as_seen = "SELECT (build, sample_id, sha256) FROM seen"
    changed = " OR ".join(f"(v.{side}_build, v.{side}_sample, v.{side}_sha256) NOT IN ({as_seen})" for side in SIDES)
    connection.execute(
        f"""CREATE OR REPLACE TEMP TABLE fresh AS SELECT *, {changed if digests else "false"} AS changed FROM given v;
        CREATE OR REPLACE TEMP TABLE judged AS
        WITH close AS (
            SELECT *, CASE WHEN level <> 'near_text' THEN 0
                      ELSE count(*) OVER (PARTITION BY level, kind, train_build, train_sample) END AS named
            FROM (FROM {evidence} SEMI JOIN given USING (train_build, train_sample)))
        SELECT *, CASE
            WHEN pairs = 0 THEN '{REASONS["absent"]}'
            WHEN changed THEN '{REASONS["changed"]}'
            WHEN verdict = 'right' THEN NULL
            WHEN level NOT IN ({levels}) THEN '{REASONS["level"]}'
            WHEN NOT excludes THEN '{REASONS["kept"]}'
            WHEN named >= {NAMED} THEN '{REASONS["more"]}'
            WHEN contested THEN '{REASONS["contested"]}'
            END AS reason
        FROM (SELECT v.*, count(e.level) AS pairs, bool_or(e.action = 'exclude') AS excludes, max(e.named) AS named,
                     bool_or(o.line IS NOT NULL) AS contested
              FROM fresh v
              LEFT JOIN close e ON {same}
              LEFT JOIN (FROM fresh WHERE verdict = 'right' AND NOT changed) o ON {also}
              GROUP BY ALL)"""  # noqa: S608 - names and texts of ours
    )
    connection.unregister("given")
    connection.execute(
        f"""UPDATE {evidence} e SET action = '{WRONG}' FROM (FROM judged WHERE verdict = 'wrong' AND reason IS NULL) v
        WHERE e.action = 'exclude' AND {same}"""  # noqa: S608
    )
    [counts] = connection.execute(
        f"""SELECT (SELECT count(DISTINCT ({", ".join(PAIR)})) FROM judged WHERE reason IS NULL AND verdict = 'wrong'),
                   (SELECT count(DISTINCT ({", ".join(PAIR)})) FROM judged WHERE reason IS NULL AND verdict = 'right'),
                   (SELECT count(*) FROM (SELECT train_build, train_sample FROM {evidence} GROUP BY ALL
                    HAVING bool_or(action = '{WRONG}') AND NOT bool_or(action = 'exclude')))"""  # noqa: S608
    ).fetchall()
    unused = connection.execute("SELECT line, reason FROM judged WHERE reason IS NOT NULL ORDER BY line").fetchall()
    return dict(zip(("wrong", "right", "back"), counts, strict=True)) | {
        "not_used": [{"line": line, "reason": reason} for line, reason in unused]
    }
