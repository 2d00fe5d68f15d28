"""What the pages ask of the builds: counts, a page of samples, one sample, texts that have a word. Nothing is written.

Samples are numbered by place, not sorted: a place is a part (a unit's Parquet file) and a row in it. One pass over the
manifests counts every combination of what can be chosen in every part (`count`); from then on counts and the way to
any page are sums over that small table, and a page reads the one or two parts that it lies in, whatever their number.
"""

# ruff: noqa: S608 - names of columns and files are ours, what a user gives are parameters

from __future__ import annotations

import contextlib
import glob
import os
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from manifests.catalog import LoadedBuild, connect, load_builds, one_line, open_duckdb, sql_files
from manifests.proof.certificate import CERTIFICATE, EVIDENCE_FILE, EXCLUSIONS_FILE, covers, read_certificate
from manifests.proof.trust import check_files
from manifests.selections import SELECTION_FILE, dropped_samples, selection_files
from manifests.sql import ask
from medgpt.errors import UserError
from medgpt.limited import read_batch
from medgpt.private import CREDENTIALED
from medgpt.schema import SAMPLE
from medgpt.tables import plain
from shards.certified import proof_folder
from shards.reader import arrow_file
from shards.show import ShownSample, read_record, read_sample
from shards.writer import ARROW_BATCH_ROWS

OF_PART = ("build", "role", "split", "modality")
"""What can be chosen and is the same for all samples of a part."""
OF_ROW = {
    "stage": "stage",
    "license": "license",
    "task": "task",
    "subset": "coalesce(subset, '-')",
    "tokens": "CASE WHEN text_tokens = 0 THEN 0 ELSE floor(log2(text_tokens))::INTEGER + 1 END",
    "tiles": "least(coalesce(tiles, 0), 32)",
    "pictures": "least(n_images, 8)",
    "state": "coalesce(state, 'stays')",
}
"""What can be chosen and differs by sample, as SQL over a manifest part; of tokens the number of bits."""
FACETS = (
    "build",
    "role",
    "split",
    "state",
    "license",
    "modality",
    "tokens",
    "tiles",
    "pictures",
    "stage",
    "task",
    "subset",
)
TEXTS, NAMES = "texts", "names"
PAGE = 48
SQL_ROWS = 200
_CARD = 'sample_id, build, role, split, task, license, n_images, tiles, text_tokens, shard, "offset", length'
_NAMES = ("sample_id", "study_id", "subject_id", "pmcid", "pmid", "video_id", "question_id", "file", '"row"')
_TEXTS = (("messages", "reasoning"), ("messages", "content", "text"), ("question",), ("options", "text"), ("answer",))
_THUMBNAILS = 256
"""Rows of a part whose thumbnails are read together."""
_PAIRS = 50
_SCANNED = 1_000_000
"""Rows of the manifests that a search looks at between two looks at the clock."""
_LOOK_S = 2.0
"""Seconds after which a search shows what it has, and goes on when it is asked to."""

Place = tuple[int, int]
"""Number of a part and of a row in it."""


class NotThere(UserError):
    """A page, a picture or a sample that does not exist."""


@dataclass(frozen=True)
class Part:
    """A unit of a build: the files that its samples and thumbnails are named in."""

    number: int
    build: LoadedBuild
    unit: Mapping[str, Any]
    samples: Path
    images: Path | None
    thumbnails: Path | None

    @property
    def constants(self) -> dict[str, str]:
        """What can be chosen and is the same for all samples of the part, by facet."""
        record = self.build.record
        of_unit = {name: str(self.unit[name]) for name in ("role", "split")}
        return {"build": str(record["build"]), **of_unit, "modality": str(record["source"]["modality"])}

    @property
    def credentialed(self) -> bool:
        """Whether pictures and texts are shown to those alone who ask for them."""
        return bool(self.build.record["source"]["access"] == CREDENTIALED)


@dataclass(frozen=True)
class Asked:
    """What is looked for. `chosen`: values of a facet, any of which will do; all facets must."""

    chosen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    find: str = ""
    within: str = TEXTS
    """Where `find` is looked for: `TEXTS`, or `NAMES` (ids, raw files and rows)."""
    start: int = 0
    after: Place = (0, -1)
    """Place that a search goes on behind."""
    places: tuple[int, ...] = ()
    """Rows of one part; none: all."""


@dataclass(frozen=True)
class Page:
    """Some samples: rows of the manifests with `part` and `place`."""

    rows: list[dict[str, Any]]
    total: int | None
    """None while it is not counted, and of a search."""
    after: Place | None = None
    """Where a search goes on; None where it is done."""
    searched: int = 0
    """Rows that a search has looked at."""


class Catalogue:
    """Everything below a folder, opened for reading. Threads may ask at the same time."""

    def __init__(self, data: Path, seconds: float = 30.0) -> None:
        """`seconds`: after these a query is stopped. Raises: `UserError`."""
        self.data, self.seconds = data, seconds
        self.builds = {str(build.record["build"]): build for build in load_builds(data)}
        self.parts = list(_parts(self.builds.values()))
        self.proof = proof_folder(data)
        self.notes: list[str] = []
        """What could not be relied on, a line each."""
        self.certificate = self._certificate()
        self.counted = threading.Event()
        self._connection = open_duckdb()
        self._jailed: duckdb.DuckDBPyConnection | None = None
        self._lock = threading.Lock()
        self._selections: dict[tuple[str, str], Path] = {}
        self._thumbnails = lru_cache(maxsize=64)(self._read_thumbnails)
        columns: dict[str, list[Any]] = {"part": [part.number for part in self.parts]}
        columns |= {name: [part.constants[name] for part in self.parts] for name in OF_PART}
        columns["n"] = [part.unit["kept"] for part in self.parts]
        self._connection.register("given", pa.table(columns))
        self._connection.execute("CREATE TABLE parts AS FROM given")
        self._kinds = pa.table({name: columns[name] for name in (*OF_PART, "n")})
        """Values of all that can be chosen, and how many samples have them together; the number is last."""

    def _certificate(self) -> dict[str, Any] | None:
        if not (self.proof / CERTIFICATE).is_file():
            return None
        try:
            document = read_certificate(self.proof)
            check_files(self.proof, document)
        except UserError as error:
            self.notes.append(str(error))
            return None
        return document

    def count_beside(self) -> None:
        """Count in the background; what goes wrong is a note on every page."""

        def count() -> None:
            try:
                self.count()
            except (duckdb.Error, OSError, UserError) as error:
                self.notes.append(f"licences, tokens, filters and proof cannot be counted: {one_line(error)}")

        threading.Thread(target=count, daemon=True).start()

    def count(self) -> None:
        """Count what can be chosen, once; pages are there before. Raises: `duckdb.Error`."""
        with self._connection.cursor() as cursor:
            self._note_left_out(cursor)
            source = samples_sql(self.parts)
            cursor.execute(
                f"CREATE TABLE out_rows AS SELECT part, place, state FROM {source} s "
                "JOIN left_out USING (build, sample_id) ORDER BY ALL"
            )
            columns = ", ".join(f"{sql} AS {name}" for name, sql in OF_ROW.items())
            cursor.execute(
                f"CREATE TEMP TABLE fine AS FROM (SELECT part, {columns}, count(*) AS n FROM {source} s "
                "LEFT JOIN out_rows USING (part, place) GROUP BY ALL) "
                "JOIN (SELECT * EXCLUDE (n) FROM parts) USING (part)"
            )
            # Apart, so that what grows with the parts is three numbers a row.
            facets = ", ".join(FACETS)
            cursor.execute(
                "CREATE TABLE kinds AS SELECT *, row_number() OVER () AS kind "
                f"FROM (SELECT {facets}, sum(n)::BIGINT AS n FROM fine GROUP BY {facets})"
            )
            cursor.execute(
                "CREATE TABLE cells AS SELECT part, kind::INTEGER AS kind, fine.n::INTEGER AS n FROM fine "
                f"JOIN kinds USING ({facets}) ORDER BY part"
            )
            self._kinds = cursor.sql(f"SELECT {facets}, n FROM kinds").to_arrow_table()
        self.counted.set()

    def _note_left_out(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """A table of what filters and proof take out."""
        cursor.execute("CREATE TEMP TABLE left_out (build VARCHAR, sample_id VARCHAR, state VARCHAR)")
        for name, build in self.builds.items():
            for role in ("train", "eval"):
                try:  # that the digests agree
                    if dropped_samples(self.data, build, role) is None:
                        continue
                except UserError as error:
                    self.notes.append(str(error))
                    continue
                files = selection_files(self.data, build, role)
                file = next(file for file in files if file.name == SELECTION_FILE and file.is_file())
                self._selections[name, role] = file
                query = "SELECT ?, sample_id, 'filtered: ' || reason FROM read_parquet(?) WHERE NOT kept"
                cursor.execute(f"INSERT INTO left_out {query}", [name, glob.escape(str(file))])
        if self.certificate is not None:
            cursor.execute(
                "INSERT INTO left_out SELECT train_build, train_sample, 'excluded: ' || reasons[1] "
                "FROM read_parquet(?) ANTI JOIN left_out ON build = train_build AND sample_id = train_sample",
                [glob.escape(str(self.proof / EXCLUSIONS_FILE))],
            )

    @contextlib.contextmanager
    def _cursor(
        self, client: socket.socket | None = None, connection: duckdb.DuckDBPyConnection | None = None
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own, whose query ends when its time is over or `client` waits no more.

        Raises: `UserError` for what DuckDB raises.
        """
        done = threading.Event()

        def watch() -> None:
            end = time.monotonic() + self.seconds
            while not done.wait(0.1):
                if time.monotonic() > end or (client is not None and _gone(client)):
                    cursor.interrupt()

        with (connection or self._connection).cursor() as cursor:
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            try:
                yield cursor
            except duckdb.InterruptException:
                raise UserError(f"stopped after {self.seconds:g} s; ask for less, or start with --seconds N") from None
            except duckdb.PermissionException as error:
                raise UserError(f"{one_line(error)}; only manifests are read") from None
            except duckdb.Error as error:
                raise UserError(one_line(error)) from None
            finally:
                done.set()
                watcher.join()

    def facets(self, asked: Asked) -> dict[str, list[tuple[str, int]]]:
        """How many samples each value has, under what is chosen of the other facets."""
        kinds = self._kinds
        fits = {
            name: pc.is_in(kinds[name].cast(pa.string()), pa.array(of, pa.string()))
            for name, of in asked.chosen.items()
            if name in kinds.column_names
        }
        found = {}
        for facet in kinds.column_names[:-1]:
            some = kinds
            if others := [fit for name, fit in fits.items() if name != facet]:
                some = kinds.filter(reduce(pc.and_, others))
            counts = some.group_by(facet, use_threads=False).aggregate([("n", "sum")]).sort_by(facet)
            pairs = zip(counts[facet].to_pylist(), counts["n_sum"].to_pylist(), strict=True)
            found[facet] = [(str(value), count) for value, count in pairs]
        return found

    def page(self, asked: Asked, size: int = PAGE, client: socket.socket | None = None) -> Page:
        """Samples from a number on, or those that a search finds next. Raises: `UserError`."""
        names = self._kinds.column_names
        counted = "state" in names
        if "state" in asked.chosen and not counted:
            raise UserError("what filters and proof take out is still being counted; try again in some seconds")
        where, values = _where({name: of for name, of in asked.chosen.items() if name in names})
        kinds = f"cells SEMI JOIN (FROM kinds WHERE {where}) USING (kind)"
        counts_of = kinds if counted else f"parts WHERE {where}"
        query = f"SELECT part, sum(n)::BIGINT FROM {counts_of} GROUP BY part ORDER BY part"
        with self._cursor(client) as cursor:
            counts = cursor.execute(query, values).fetchall()
            if asked.find or not asked.chosen.keys() <= set(names):
                return self._search(cursor, asked, [self.parts[part] for part, _ in counts], size)
            chosen, before, end = [], 0, 0
            for part, n in counts:
                begin, end = end, end + n
                if end <= asked.start:
                    before = end
                elif begin < asked.start + size:
                    chosen.append(self.parts[part])
            return Page(self._rows(cursor, chosen, asked, size, asked.start - before), end)

    def _source(self, parts: Sequence[Part]) -> str:
        """SQL for the rows of some parts, with their places and, once it is known, what takes them out."""
        rows = samples_sql(parts)
        if not self.counted.is_set():
            return f"{rows} s"
        numbers = ", ".join(str(part.number) for part in parts)
        return f"{rows} s LEFT JOIN (FROM out_rows WHERE part IN ({numbers})) o USING (part, place)"

    def _rows(
        self, cursor: duckdb.DuckDBPyConnection, parts: Sequence[Part], asked: Asked, size: int, skip: int = 0
    ) -> list[dict[str, Any]]:
        """Rows of some parts in order; `skip` is of the first part."""
        if not parts:
            return []
        where, values = _row_where(asked)
        state = "state" if self.counted.is_set() else "NULL AS state"
        query = f"SELECT part, place, {_CARD}, {state} FROM {self._source(parts)} WHERE {where} ORDER BY part, place"
        return _dicts(cursor, f"{query} LIMIT ? OFFSET ?", [*values, size, skip])

    def _search(self, cursor: duckdb.DuckDBPyConnection, asked: Asked, parts: Sequence[Part], size: int) -> Page:
        """Look part by part, until the page is full or a user would think that it hangs."""
        end = time.monotonic() + _LOOK_S
        found: list[dict[str, Any]] = []
        searched, after = 0, None
        left = [part for part in parts if part.number >= asked.after[0]]
        steps = self._in_texts if asked.find and asked.within == TEXTS else self._in_rows
        for rows, looked, place in steps(cursor, asked, left, size):
            found, searched, after = found + rows, searched + looked, place
            if len(found) >= size or time.monotonic() > end:
                break
        else:
            after = None
        if len(found) > size:
            found = found[:size]
            after = found[-1]["part"], found[-1]["place"]
        return Page(found, None, after, searched)

    def _in_rows(
        self, cursor: duckdb.DuckDBPyConnection, asked: Asked, parts: list[Part], size: int
    ) -> Iterator[tuple[list[dict[str, Any]], int, Place]]:
        """What the manifests' rows say: rows found, number looked at, place reached; more and more at a time."""
        wanted = 20_000
        while parts:
            chunk = [parts.pop(0)]
            while parts and sum(part.unit["kept"] for part in chunk) < wanted:
                chunk.append(parts.pop(0))
            wanted = min(2 * wanted, _SCANNED)
            rows = self._rows(cursor, chunk, asked, size)
            place = (rows[-1]["part"], rows[-1]["place"]) if len(rows) == size else (chunk[-1].number + 1, -1)
            yield rows, sum(part.unit["kept"] for part in chunk), place

    def _in_texts(
        self, cursor: duckdb.DuckDBPyConnection, asked: Asked, parts: list[Part], size: int
    ) -> Iterator[tuple[list[dict[str, Any]], int, Place]]:
        """The same of what the shards' texts say."""
        where, values = _row_where(asked)
        for part in parts:
            query = f'SELECT place, shard, "offset", length FROM {self._source([part])} WHERE {where} ORDER BY place'
            cursor.execute(query, values)
            while rows := cursor.fetchmany(ARROW_BATCH_ROWS):
                hits = list(_with_text(part.build.folder / "shards", rows, asked.find))
                with self._connection.cursor() as other:
                    where_hit = Asked(places=tuple(hits))
                    found = self._rows(other, [part], where_hit, len(hits)) if hits else []
                yield found, len(rows), (part.number, rows[-1][0])

    def locate(self, build: str, sample_id: str) -> Place | None:
        """Where a sample of a build stands."""
        parts = [part for part in self.parts if part.build.record["build"] == build]
        with self._cursor() as cursor:
            query = f"SELECT part, place FROM {samples_sql(parts)} WHERE sample_id = ? LIMIT 1"
            found = cursor.execute(query, [sample_id]).fetchone() if parts else None
        return None if found is None else (found[0], found[1])

    def sample(self, place: Place) -> ShownSample:
        """A sample as it is stored, and what manifests and proof say of it. Raises: `UserError`."""
        part = self.part(place)
        with self._cursor() as cursor:
            query = f"SELECT * EXCLUDE (part, place) FROM {samples_sql([part])} WHERE place = ?"
            rows = _dicts(cursor, query, [place[1]])
            if not rows:
                raise NotThere("there is no such sample")
            [row], images, excluded = rows, [], None
            if part.images is not None:
                query = f'FROM read_parquet({sql_files([part.images])}) WHERE sample_id = ? ORDER BY "index"'
                images = _dicts(cursor, query, [row["sample_id"]])
            if self.certificate is not None and covers(self.certificate, part.build.record):
                query = "SELECT reasons FROM read_parquet(?) WHERE train_build = ? AND train_sample = ?"
                file = glob.escape(str(self.proof / EXCLUSIONS_FILE))
                found = _dicts(cursor, query, [file, row["build"], row["sample_id"]])
                excluded = [reason for one in found for reason in one["reasons"]]
        return read_sample(part.build.folder, row, images, excluded)

    def part(self, place: Place) -> Part:
        """The part of a place. Raises: `UserError`."""
        if not 0 <= place[0] < len(self.parts):
            raise NotThere("there is no such sample")
        return self.parts[place[0]]

    def pairs(self, build: str, sample_id: str) -> list[dict[str, Any]]:
        """Evidence of the proof that a sample is part of, on either side; the first `_PAIRS` rows."""
        if self.certificate is None:
            return []
        columns = "level, kind, action, train_build, train_sample, eval_build, eval_sample, score, distance, words"
        sides = "(train_build = ? AND train_sample = ?) OR (eval_build = ? AND eval_sample = ?)"
        query = f"SELECT {columns} FROM read_parquet(?) WHERE {sides} ORDER BY ALL LIMIT {_PAIRS}"
        file = glob.escape(str(self.proof / EVIDENCE_FILE))
        with self._cursor() as cursor:
            return _dicts(cursor, query, [file, build, sample_id, build, sample_id])

    def verdict(self, build: str, role: str, sample_id: str) -> dict[str, Any] | None:
        """What filters decided on a sample; None where there is no selection, or it is not yet known to be sound."""
        file = self._selections.get((build, role))
        if file is None:
            return None
        with self._cursor() as cursor:
            query = "SELECT kept, reasons FROM read_parquet(?) WHERE sample_id = ?"
            return next(iter(_dicts(cursor, query, [glob.escape(str(file)), sample_id])), None)

    def thumbnail(self, place: Place) -> bytes | None:
        """The small picture of a sample's first picture; None where it has none. Raises: `UserError`."""
        found: bytes | None = self._thumbnails(place[0], place[1] // _THUMBNAILS).get(place[1])
        return found

    def _read_thumbnails(self, part: int, block: int) -> dict[int, bytes]:
        named = self.part((part, 0))
        if named.thumbnails is None:
            return {}
        query = (
            f"SELECT place, thumbnail FROM read_parquet({sql_files([named.thumbnails])}) JOIN {samples_sql([named])} "
            'USING (sample_id) WHERE "index" = 0 AND place BETWEEN ? AND ?'
        )
        with self._cursor() as cursor:
            rows = cursor.execute(query, [block * _THUMBNAILS, (block + 1) * _THUMBNAILS - 1]).fetchall()
        return dict(rows)

    def text(self, row: Mapping[str, Any]) -> str:
        """What a sample is about, for its card. Raises: `UserError`."""
        shards = self.parts[row["part"]].build.folder / "shards"
        try:
            record = orjson.loads(read_record(shards, row))
        except orjson.JSONDecodeError:
            raise UserError(f"{row['shard']}: altered; python -m shards.verify says more") from None
        said = [part["text"] for message in record["messages"] or [] for part in message["content"] if part["text"]]
        return str(record["question"] or (said or [""])[-1])

    def ask(self, query: str, client: socket.socket | None) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns and the first `SQL_ROWS` + 1 rows of a user's query, in the jail. Raises: `UserError`."""
        with self._lock:
            if self._jailed is None:
                self._jailed = connect(self.data, jailed=True)
        rows: list[tuple[Any, ...]] = []
        with self._cursor(client, self._jailed) as cursor:
            columns, batches = ask(cursor, query)
            for batch in batches:
                rows += batch
                if len(rows) > SQL_ROWS:
                    break
        return columns, rows[: SQL_ROWS + 1]


def samples_sql(parts: Sequence[Part]) -> str:
    """SQL: the sample rows of some parts, with `part` and `place`."""
    numbers = ", ".join(str(part.number) for part in parts)
    files = sql_files([part.samples for part in parts])
    return (
        f"(SELECT ([{numbers}])[file_index::BIGINT + 1] AS part, file_row_number AS place, * "
        f"FROM read_parquet({files}, hive_partitioning=false))"
    )


def _parts(builds: Iterable[LoadedBuild]) -> Iterator[Part]:
    number = 0
    for build in builds:
        for unit in build.record["units"]:
            files = {part["file"].partition("/")[0]: build.folder / part["file"] for part in unit["parts"]}
            if samples := files.get("manifest"):
                thumbnails = files.get("thumbnails")  # manifests may be shared without
                there = thumbnails if thumbnails is not None and thumbnails.is_file() else None
                yield Part(number, build, unit, samples, files.get("images"), there)
                number += 1


def _where(chosen: Mapping[str, Sequence[str]], sql: Mapping[str, str] | None = None) -> tuple[str, list[Any]]:
    """A condition that what is chosen holds, and its values; `sql` says what a facet is where it is no column."""
    terms = [f"({(sql or {}).get(name, name)})::VARCHAR IN ({', '.join('?' * len(of))})" for name, of in chosen.items()]
    return " AND ".join(terms) or "true", [value for of in chosen.values() for value in of]


def _row_where(asked: Asked) -> tuple[str, list[Any]]:
    where, values = _where({name: of for name, of in asked.chosen.items() if name in OF_ROW}, sql=OF_ROW)
    if asked.find and asked.within == NAMES:
        where += f" AND ({' OR '.join(f'contains(lower({name}), ?)' for name in _NAMES)})"
        values += [asked.find.lower()] * len(_NAMES)
    if asked.after != (0, -1):
        where += " AND (part, place) > (?, ?)"
        values += asked.after
    if asked.places:
        where += f" AND place IN ({', '.join('?' * len(asked.places))})"
        values += asked.places
    return where, values


def _dicts(cursor: duckdb.DuckDBPyConnection, query: str, values: Sequence[Any]) -> list[dict[str, Any]]:
    """Rows as plain JSON values by column. Raises: `duckdb.Error`."""
    cursor.execute(query, list(values))
    names = [column[0] for column in cursor.description or ()]
    return [dict(zip(names, map(plain, row), strict=True)) for row in cursor.fetchall()]


def _gone(client: socket.socket) -> bool:
    """Whether the other side has closed the connection."""
    try:
        return bool(select.select([client], [], [], 0)[0]) and not client.recv(1, socket.MSG_PEEK)
    except OSError:
        return True


def _with_text(shards: Path, rows: Sequence[tuple[int, str, int, int]], find: str) -> Iterator[int]:
    """Which of some rows (place, shard, offset, length) have a text in any of their texts, whatever its case."""
    for shard, some in groupby(rows, key=lambda row: row[1]):
        look = _in_arrow if shard.endswith(".arrow") else _in_tar
        try:
            yield from look(shards / shard, some, find)
        except (OSError, ValueError, LookupError, TypeError, pa.ArrowException) as error:
            raise UserError(f"{shard}: cannot be read ({type(error).__name__}); run the builder again") from error


def _in_arrow(shard: Path, rows: Iterable[tuple[int, str, int, int]], find: str) -> Iterator[int]:
    file = arrow_file(shard)
    for number, batch in groupby(rows, key=lambda row: row[2] // ARROW_BATCH_ROWS):
        hits = _rows_with(read_batch(file, number), find)
        yield from (place for place, _, row, _ in batch if row % ARROW_BATCH_ROWS in hits)


def _in_tar(shard: Path, rows: Iterable[tuple[int, str, int, int]], find: str) -> Iterator[int]:
    # As it stands within JSON: a quick look that lets pass what has it in a name or an id.
    quick = orjson.dumps(find)[1:-1].decode().lower()
    with shard.open("rb", buffering=0) as opened:
        for place, _, offset, length in rows:
            data = os.pread(opened.fileno(), length, offset)
            maybe = quick in data.decode(errors="replace").lower()
            if maybe and _rows_with(pa.RecordBatch.from_pylist([orjson.loads(data)], SAMPLE), find):
                yield place


def _rows_with(batch: pa.RecordBatch, find: str) -> set[int]:
    """Numbers of a batch's rows that have a text."""
    found: set[int] = set()
    for column, *steps in _TEXTS:
        array = batch.column(column)
        rows = pa.array(range(len(array)), pa.int64())
        for step in [*steps, ""]:
            while pa.types.is_list(array.type):
                rows, array = rows.take(pc.list_parent_indices(array)), pc.list_flatten(array)
            array = pc.struct_field(array, step) if step else array
        if pa.types.is_string(array.type):
            hits = pc.fill_null(pc.match_substring(array, find, ignore_case=True), False)
            found.update(rows.filter(hits).to_pylist())
    return found
