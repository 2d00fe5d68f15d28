"""The catalogue: DuckDB views over every build's `build.json` and Parquet parts. Nothing is copied.

    python -m manifests.catalog data

writes `data/manifest.duckdb`, which holds the views alone: it may be deleted at any time and is rebuilt in seconds.
Run it again after a build was added. The views name files from the folder that the database lies in, so a moved or
copied tree needs no new one; DuckDB finds them where it was started there, or told `SET file_search_path = 'DATA'`.
`python -m manifests.sql` and the audits do not need the file: they make the same views in memory.

Views:
    builds     one row a build: source, licence, parameters, digests, counts
    units      one row a unit: rows read, kept, rejected, damaged, as the build counted them
    shards     one row a shard file, with its digest
    published  rows a split has at the publisher
    samples, images, thumbnails, rejects   the Parquet parts (columns: manifests/parts.py)
    ids        every group id of every sample and of its images, as (kind, value), without duplicates
    id_rows    the same with duplicates: cheaper where a query narrows it down first
    build_json what the four views at the top read
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import re
import shlex
import shutil
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

import msgspec

from medgpt.arguments import Tree, command_parser
from medgpt.errors import UserError, os_error_line, run
from medgpt.layout import BUILD_FILE, MAX_DEPTH
from medgpt.messages import safe
from medgpt.private import keep_private
from medgpt.tables import plain, table

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

DATABASE = "manifest.duckdb"
FORMAT = 1

_SMALL_PART, _MANY_PARTS = 1 << 18, 64
"""Bytes below which a part is small (some 2,000 rows; from 6,000 on it does not pay), number from which small ones are
many (`_laid_together`)."""

KINDS = {"manifest": "samples", "images": "images", "thumbnails": "thumbnails", "rejects": "rejects"}
"""Folder of a build -> kind of the Parquet parts in it."""

# Files in the storage version that is the default of DuckDB 2.0 are refused by the shell 1.5; it opens this one.
_STORAGE_VERSION = "v1.0.0"

_JSON_COLUMNS = {
    "build": "VARCHAR",
    "source": "STRUCT(name VARCHAR, title VARCHAR, homepage VARCHAR, revision VARCHAR, license VARCHAR, "
    "access VARCHAR, stage VARCHAR, task VARCHAR, modality VARCHAR, paper VARCHAR)",
    "parameters": "JSON",
    "code_sha256": "VARCHAR",
    "fingerprint_recipe": "VARCHAR",
    "schema_version": "INTEGER",
    "manifest_version": "INTEGER",
    "metadata_only": "BOOLEAN",
    "units": 'STRUCT(unit VARCHAR, role VARCHAR, split VARCHAR, "read" BIGINT, kept BIGINT, rejected BIGINT, '
    'damaged BIGINT, shards STRUCT("file" VARCHAR, bytes BIGINT, sha256 VARCHAR, samples BIGINT)[])[]',
    "counts": "JSON",
    "published": "MAP(VARCHAR, BIGINT)",
    "root": "VARCHAR",
}

# Views over build_json, in the order in which they need each other.
_BUILD_VIEWS = {
    "units": """
        SELECT build, u.unit, u.role, u.split, u."read", u.kept, u.rejected, u.damaged
        FROM (SELECT build, unnest(units) AS u FROM build_json)
    """,
    "shards": """
        SELECT build, unit, s."file", s.bytes, s.sha256, s.samples
        FROM (SELECT build, u.unit AS unit, unnest(u.shards) AS s
              FROM (SELECT build, unnest(units) AS u FROM build_json))
    """,
    "published": """
        SELECT build, p.key AS split, p.value AS "rows"
        FROM (SELECT build, unnest(map_entries(published)) AS p FROM build_json)
    """,
    "builds": """
        SELECT j.build, parse_dirpath(j.filename) AS path, j.source.name AS source, j.source.title AS title,
               j.source.homepage AS homepage, j.source.revision AS revision, j.source.license AS license,
               j.source.access AS access, j.source.stage AS stage, j.source.task AS task,
               j.source.modality AS modality, j.source.paper AS paper, j.metadata_only,
               coalesce(u.units, 0) AS units, coalesce(u."read", 0) AS "read", coalesce(u.kept, 0) AS kept,
               coalesce(u.rejected, 0) AS rejected, coalesce(u.damaged, 0) AS damaged,
               j.parameters, j.counts, j.code_sha256, j.fingerprint_recipe, j.schema_version, j.manifest_version,
               j.root
        FROM build_json j
        LEFT JOIN (SELECT build, count(*) AS units, sum("read")::BIGINT AS "read", sum(kept)::BIGINT AS kept,
                          sum(rejected)::BIGINT AS rejected, sum(damaged)::BIGINT AS damaged
                   FROM units GROUP BY build) u USING (build)
    """,
}

_READ_AND_PUBLISHED = """
    SELECT build, split, u.role, p."rows" AS published, coalesce(u."read", 0) AS "read", coalesce(u.kept, 0) AS kept,
           coalesce(u.rejected, 0) AS rejected, coalesce(u.damaged, 0) AS damaged
    FROM (SELECT build, split, role, sum("read")::BIGINT AS "read", sum(kept)::BIGINT AS kept,
                 sum(rejected)::BIGINT AS rejected, sum(damaged)::BIGINT AS damaged
          FROM units GROUP BY ALL) u
    FULL JOIN published p USING (build, split)
    ORDER BY build, u.role DESC NULLS LAST, split
"""


class _Part(TypedDict):
    file: str
    bytes: int
    sha256: str


class _Shard(_Part):
    samples: int


class _Unit(TypedDict):
    unit: str
    role: str
    split: str
    read: int
    kept: int
    rejected: int
    images: int
    shards: list[_Shard]
    parts: list[_Part]


class _Gap(TypedDict):
    file: str
    what: str
    count: int


class _Parameters(TypedDict, total=False):
    accounting: list[tuple[str, str, str, str, int]]
    mapping: dict[str, Any] | None
    pictures_stored: bool


class _Inputs(TypedDict):
    files: int
    file_sha256: str


class _Source(TypedDict):
    name: str
    access: str
    license: str
    stage: str
    task: str


class _Record(TypedDict):
    """What readers rely on of a `build.json`; it has more."""

    build: str
    root: str
    source: _Source
    parameters: _Parameters
    inputs: NotRequired[_Inputs]
    limit: int | None
    versions: NotRequired[dict[str, int]]
    counts: dict[str, Any]
    fingerprint_recipe: str
    metadata_only: bool
    filter_wanted: NotRequired[bool]
    units: list[_Unit]
    gaps: NotRequired[list[_Gap]]


@dataclass(frozen=True)
class LoadedBuild:
    """A build's folder and the content of its `build.json`, whose parts are there in full size."""

    folder: Path
    record: dict[str, Any]

    def parts(self, kind: str, role: str | None = None) -> Iterator[tuple[dict[str, Any], Path]]:
        """(unit, file) of every Parquet part of a kind (a value of `KINDS`), of one role where asked.

        A part without rows was not written, so a unit may have none.
        """
        for unit in self.record["units"]:
            if role in (None, unit["role"]):
                for part in unit["parts"]:
                    if part_kind(part["file"]) == kind:
                        yield unit, self.folder / part["file"]


def connect(
    data: Path, database: Path | None = None, *, jailed: bool = False, queries: Sequence[str] = ()
) -> duckdb.DuckDBPyConnection:
    """Open the catalogue's views over everything under `data`: in memory, or in the file `database`.

    In memory they name files by absolute paths, in a file as `data` does.

    jailed: no other file can be read from then on (`jail`); for SQL that a user wrote. queries: all that will be asked;
    then small parts, if there are many, are read once beforehand, those columns alone that the queries name.

    Raises: `UserError`.
    """
    import duckdb

    from manifests.parts import SCHEMAS

    builds = load_builds(data)
    connection = open_duckdb(database)
    files = {name: [part for build in builds for _, part in build.parts(name)] for name in SCHEMAS}
    files["thumbnails"] = [part for part in files["thumbnails"] if part.is_file()]  # `load_build` saw all others
    if queries:
        files = {name: _laid_together(connection, name, parts, queries) for name, parts in files.items()}
    try:
        named = os.fspath if database else os.path.abspath
        for name, query in _views(builds, files, lambda schema: _no_rows(connection, schema), named):
            connection.execute(f"CREATE OR REPLACE VIEW {name} AS {query}")
    except duckdb.Error as error:
        connection.close()
        raise UserError(f"{one_line(error)}: build it again") from error
    if jailed:
        jail(connection, [*(build.folder / BUILD_FILE for build in builds), *itertools.chain(*files.values())])
    return connection


def _laid_together(
    connection: duckdb.DuckDBPyConnection, kind: str, files: list[Path], queries: Sequence[str]
) -> list[Path]:
    """Parts of one kind, the small ones replaced by a file with all their rows where they are many.

    Whatever its rows, a file costs DuckDB a millisecond or two in every scan, and twelve audits are some twenty scans.
    The file lies in the connection's own scratch folder and goes with it, so nothing of it can be out of date.
    """
    import duckdb

    from manifests.parts import SCHEMAS

    words = set(re.findall(r"\w+", re.sub("--.*", "", "\n".join([*queries, *_id_views().values()]))))
    small = [file for file in files if file.stat().st_size < _SMALL_PART]
    if kind not in words or len(small) < _MANY_PARTS:
        return files
    [scratch] = connection.execute("SELECT current_setting('temp_directory')").fetchone() or ()
    target = Path(scratch) / f"{kind}.parquet"
    columns = ", ".join(f'"{name}"' for name in SCHEMAS[kind].names if name in words)
    rows = f"SELECT {columns} FROM read_parquet({sql_files(small)}, hive_partitioning=false)"  # noqa: S608 - ours
    try:
        connection.execute(f"COPY ({rows}) TO {sql_text(str(target))} (FORMAT parquet, COMPRESSION lz4)")
    except duckdb.Error as error:
        raise UserError(f"{one_line(error)}: build it again") from error
    return [target, *(file for file in files if file not in set(small))]


def open_duckdb(database: Path | None = None) -> duckdb.DuckDBPyConnection:
    """Open DuckDB, in memory or on a file, without extensions from outside and without sight of Python's variables."""
    import duckdb

    # DuckDB's own choice is `.tmp` in the working folder, open to all; what is spilled may be a thumbnail of a patient.
    scratch = tempfile.mkdtemp(prefix="manifests-duckdb-")
    config: dict[str, str | bool | int | float | list[str]] = {
        "temp_directory": scratch,
        "autoinstall_known_extensions": False,  # no network, ever; JSON and Parquet are built in
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "python_enable_replacements": False,
    }
    if database:
        config["storage_compatibility_version"] = _STORAGE_VERSION
    connection = duckdb.connect(str(database) if database else ":memory:", config=config)
    weakref.finalize(connection, shutil.rmtree, scratch, ignore_errors=True)
    connection.execute("SET parquet_metadata_cache = true")  # parts are scanned often; one that changed is read anew
    return connection


def jail(connection: duckdb.DuckDBPyConnection, files: Iterable[Path] = ()) -> None:
    """Close a connection to all files but these, and its settings to any change; what it spills stays possible.

    DuckDB knows no right to read alone: a COPY could still overwrite these files, so SQL of a user must be kept from
    that besides (`manifests.sql`).
    """
    paths = [os.path.abspath(file) for file in files]  # noqa: PTH100 - as the views name them
    # Before a file is opened its name is looked up as a pattern, so both spellings are needed.
    spellings = {spelling for path in paths for spelling in (path, glob.escape(path))}
    connection.execute(f"SET allowed_paths = [{', '.join(map(sql_text, sorted(spellings)))}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def manifest_files(builds: Iterable[LoadedBuild]) -> Iterator[Path]:
    """Yield every file that the views read."""
    for build in builds:
        yield build.folder / BUILD_FILE
        yield from (build.folder / part["file"] for part in _parts(build.record))


def write_catalog(data: Path) -> Path:
    """Write `DATA/manifest.duckdb` atomically; returns its path."""
    from medgpt.atomic import write_atomic

    target = data / DATABASE
    load_builds(data)  # what is wrong is said by the names that the caller knows
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / DATABASE
        with contextlib.chdir(data):  # a view is bound where it is made, and its files are named from here
            connect(Path(), temporary).close()
        # The log of a shell that wrote into the old file would be replayed into the new one.
        target.with_name(target.name + ".wal").unlink(missing_ok=True)
        write_atomic(target, temporary.read_bytes())
    return target


def load_builds(data: Path) -> list[LoadedBuild]:
    """Read and check every build in a folder at most four levels under `data` (itself included), sorted by folder.

    A build within a build is not looked for. Links are followed, each folder once.

    Raises: `UserError` if there is none, one cannot be read, or two hold a build of the same name.
    """
    builds = [load_build(folder) for folder in sorted(_walk(data))]
    if not builds:
        raise UserError(f"{data}: no {BUILD_FILE} here or in {MAX_DEPTH} levels of folders; run a builder first")
    folders: dict[str, Path] = {}
    for build in builds:
        other = folders.setdefault(build.record["build"], build.folder)
        if other != build.folder:
            raise UserError(
                f"{build.folder / BUILD_FILE}: {other} holds a build of the same name, {build.record['build']}; "
                "move one of them out of the data folder"
            )
    return builds


def _walk(data: Path) -> Iterator[Path]:
    seen: set[tuple[int, int]] = set()
    level = [str(data)]
    try:
        for _ in range(MAX_DEPTH + 1):
            below = []
            for folder in level:
                status = os.stat(folder)  # noqa: PTH116 - raw trees hold hundreds of thousands of names; Path is slow
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    is_folder = {entry.name: _is_folder(entry) for entry in entries}
                if BUILD_FILE in is_folder:
                    yield Path(folder)
                else:
                    below += [os.path.join(folder, name) for name in sorted(is_folder) if is_folder[name]]
            level = below
    except OSError as error:
        raise UserError(f"{os_error_line(error)}; name a readable folder of builds") from error


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere or to itself is no folder; `entry.is_dir()` alone raises for the latter.
    return Path(entry.path).is_dir() if entry.is_symlink() else entry.is_dir()


def load_build(folder: Path) -> LoadedBuild:
    """Read a `build.json` and check what its readers rely on: versions, and that its parts are there in full size.

    Raises: `UserError`.
    """
    from manifests.parts import MANIFEST_VERSION

    path = folder / BUILD_FILE
    if not path.is_file():
        raise UserError(f"{folder}: no {BUILD_FILE}, so no finished build; run its builder again")
    try:
        record: dict[str, Any] = json.loads(path.read_bytes())
        versions = record["format"], record["manifest_version"]
        if versions != (FORMAT, MANIFEST_VERSION):
            older = versions[0] == FORMAT and versions[1] < MANIFEST_VERSION
            todo = "python -m builders.refingerprint writes it anew from its shards" if older else "build it again"
            raise UserError(
                f"{path}: format {versions[0]}, manifest version {versions[1]}, where {FORMAT} and {MANIFEST_VERSION} "
                f"are read; {todo}"
            )
        msgspec.convert(record, _Record)
        for part in _parts(record):
            name, file = part["file"], f"{folder}/{part['file']}"  # a Path for each of 20,000 parts would take seconds
            if name.startswith("/") or ".." in name.split("/"):
                raise UserError(f"{path}: names a part outside its build, {name!r}; build it again")
            if not os.path.isfile(file):  # noqa: PTH113
                if part_kind(name) == "thumbnails":
                    continue  # manifests may be shared without; who needs them says so (`parts.read_pictures`)
                raise UserError(f"{file}: named in {BUILD_FILE}, but not there; build it again")
            if (size := os.stat(file).st_size) != part["bytes"]:  # noqa: PTH116
                # A build that was started anew and stopped, or a half-copied folder.
                raise UserError(f"{file}: {size} bytes, but {BUILD_FILE} says {part['bytes']}; build it again")
        keep_private(record["source"]["access"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, msgspec.ValidationError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}: {error}); build it again") from error
    return LoadedBuild(folder, record)


def _parts(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for unit in record["units"]:
        yield from unit["parts"]


def part_kind(file: str) -> str:
    """Kind of a part, by its path in the build."""
    return KINDS[file.partition("/")[0]]


def _views(
    builds: Sequence[LoadedBuild],
    parts: Mapping[str, Sequence[Path]],
    empty: Callable[[pa.Schema], str],
    named: Callable[[Path], str],
) -> Iterator[tuple[str, str]]:
    """Name and query of every view over `parts`, files by kind.

    `empty` gives the query for a kind that has no part, `named` the name of a file.
    """
    from manifests.parts import SCHEMAS

    records = [build.folder / BUILD_FILE for build in builds]
    columns = ", ".join(f'"{name}": {sql_text(kind)}' for name, kind in _JSON_COLUMNS.items())
    # DuckDB wants to know how long one JSON value may be; its own limit is 16 MiB.
    longest = max(16 << 20, *(2 * record.stat().st_size for record in records))
    yield (
        "build_json",
        f"FROM read_json({sql_files(map(named, records))}, columns={{{columns}}}, format='unstructured', "
        f"maximum_object_size={longest}, filename=true, hive_partitioning=false)",
    )
    yield from _BUILD_VIEWS.items()
    for name, schema in SCHEMAS.items():
        if parts[name]:
            # Folders named like `x=1` must not become columns.
            yield name, f"FROM read_parquet({sql_files(map(named, parts[name]))}, hive_partitioning=false)"
        else:
            yield name, empty(schema)
    yield from _id_views().items()


def _id_views() -> dict[str, str]:
    from medgpt.groups import GROUP_KEYS

    # A prior study is a study: a train row that shows a test row's prior study has seen it.
    ids = [("samples", "study_id" if key == "prior_study_id" else key, key) for key in GROUP_KEYS]
    # The worked example of a few-shot prompt is a training study by intention, and no part of what is tested.
    shown = "(FROM images WHERE relation IS DISTINCT FROM 'exemplar')"
    ids += [(shown, key, key) for key in ("image_id", "study_id", "subject_id")]
    rows = " UNION ALL ".join(
        f"(FROM {table} SELECT build, role, split, subset, sample_id, '{kind}' AS kind, {column} AS value "
        f"WHERE {column} IS NOT NULL)"
        for table, kind, column in ids
    )
    return {"id_rows": rows, "ids": "SELECT DISTINCT * FROM id_rows"}


def sql_files(paths: Iterable[Path | str]) -> str:
    """Name files in SQL: a list of paths that DuckDB takes literally."""
    return "[" + ", ".join(sql_text(glob.escape(str(path))) for path in paths) + "]"


def sql_text(value: str) -> str:
    """A text in SQL."""
    return "'" + value.replace("'", "''") + "'"


def _no_rows(connection: duckdb.DuckDBPyConnection, schema: pa.Schema) -> str:
    """Write the query that has the schema's columns and no rows."""
    empty = connection.from_arrow(schema.empty_table())
    columns = (f'NULL::{kind} AS "{name}"' for name, kind in zip(empty.columns, empty.types, strict=True))
    return f"SELECT {', '.join(columns)} WHERE false"


def query_rows(
    connection: duckdb.DuckDBPyConnection, query: str, values: Sequence[object] = ()
) -> list[dict[str, Any]]:
    """What a query over the views gives, as plain JSON values by column. Raises: `UserError` naming the file."""
    import duckdb

    try:
        cursor = connection.execute(query, list(values))
        names = [column[0] for column in cursor.description or ()]
        return [dict(zip(names, map(plain, row), strict=True)) for row in cursor.fetchall()]
    except duckdb.Error as error:  # a part that was altered, or a value in some build.json of another type
        raise UserError(f"{one_line(error)}: build it again") from error


def select(
    connection: duckdb.DuckDBPyConnection, query: str, values: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """What a query gives by column, digests as bytes. Raises: `duckdb.Error`."""
    rows: list[dict[str, Any]] = connection.sql(query, params=values).to_arrow_table().to_pylist()
    return rows


def one_line(error: Exception) -> str:
    """Put an error's message on one line, without DuckDB's excerpt of the statement."""
    return safe(str(error).split("\n\nLINE ")[0])


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = command_parser(
        "manifests.catalog",
        "Write DATA/manifest.duckdb (views over every build under DATA) and show what was built.",
        "example: python -m manifests.catalog data",
        tree=Tree(),
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of builds (at most four levels deep)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    database = write_catalog(options.data)
    with connect(options.data) as connection:
        builds = query_rows(connection, "SELECT * FROM builds ORDER BY build")
        splits = query_rows(connection, _READ_AND_PUBLISHED)
    if options.json:
        for build in builds:
            build["parameters"], build["counts"] = json.loads(build["parameters"]), json.loads(build["counts"])
            build["splits"] = [
                {name: value for name, value in split.items() if name != "build"}
                for split in splits
                if split["build"] == build["build"]
            ]
        print(json.dumps({"data": str(options.data), "database": str(database), "builds": builds}, indent=2))
        return 0
    print(table(list(splits[0]) if splits else ["build"], [list(split.values()) for split in splits]))
    for build in builds:
        if build["metadata_only"]:
            print(f"{build['build']} was built without pictures: only ids and texts can be compared")
    print(
        f"\n{database} holds the views; look into them with\n"
        f'    cd {shlex.quote(str(options.data))} && duckdb -readonly {DATABASE} "FROM builds"\n'
        f"    python -m manifests.sql {shlex.quote(str(options.data))} --audit all"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
