"""SQL of a user reads the manifests and nothing else: every way out that is known is a case here."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import duckdb
import pytest
from conftest import run_module, tree_digest
from eval_builds import build_demos

from manifests.catalog import connect, jail, open_duckdb
from manifests.sql import _check_reads, main
from medgpt.errors import UserError
from medgpt.layout import BUILD_FILE

SECRET = "the-secret-of-another-file"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A demo build in a folder whose name needs quoting, with a secret and links beside it."""
    folder = tmp_path_factory.mktemp("jail") / 'it\'s, [1] "data" *'
    build_demos(folder, (("pubmedqa", ()),))
    (folder.parent / "secret.txt").write_text(SECRET)
    (folder.parent / "secret.csv").write_text(f"{SECRET},b\n{SECRET},2\n")
    (folder / "inside.txt").write_text(SECRET)
    (folder / "linked.txt").symlink_to(folder.parent / "secret.txt")
    (folder / "linked").symlink_to(folder.parent)
    return folder


def build_of(data: Path) -> Path:
    [record] = data.glob(f"**/{BUILD_FILE}")
    return record.parent


def quoted(text: object) -> str:
    return "'" + str(text).replace("'", "''") + "'"


def names(data: Path) -> dict[str, str]:
    """What the attacks below name, as SQL text."""
    build = build_of(data)
    part = next((build / "manifest").glob("*.parquet"))
    copy = f"COPY (SELECT 1 AS x) TO {quoted(part)} (FORMAT parquet, USE_TMP_FILE false)"
    with open_duckdb() as connection:
        with_copy = f"WITH a AS ({copy}) FROM a"
        [[serialized]] = connection.execute("SELECT json_serialize_sql(?)", [with_copy]).fetchall()
    hidden = f"FROM json_execute_serialized_sql({quoted(serialized)})"
    paths = {
        "SECRET": data.parent / "secret.txt",
        "TABLE": data.parent / "secret.csv",
        "INSIDE": data / "inside.txt",
        "LINK": data / "linked.txt",
        "THROUGH": data / "linked" / "secret.txt",
        "UPWARDS": build / "manifest" / ".." / ".." / ".." / ".." / "secret.txt",
        "SHARD": next((build / "shards").glob("*.arrow")),
        "RECORD": build / BUILD_FILE,
        "PART": part,
        "NEW": data / "new",
        "FOLDER": data,
        "ALL": f"{data.parent}/*",
    }
    texts = {name: quoted(path) for name, path in paths.items()}
    texts |= {"READ": quoted(f"FROM read_csv({texts['TABLE']})"), "COPY": copy, "HIDDEN": hidden}
    return texts | {"QUOTED_COPY": quoted(with_copy), "QUOTED_HIDDEN": quoted(hidden)}


READS = [
    "FROM read_text({SECRET})",
    "FROM read_text({INSIDE})",
    "FROM read_text({LINK})",
    "FROM read_text({THROUGH})",
    "FROM read_text({UPWARDS})",
    "FROM read_blob({SECRET})",
    "FROM read_blob({SHARD})",
    "FROM read_csv({TABLE})",
    "FROM sniff_csv({TABLE})",
    "FROM read_parquet({SECRET})",
    "FROM parquet_metadata({SECRET})",
    "FROM read_duckdb({SECRET})",
    'FROM "{TABLE}"',
    "FROM {TABLE}",
    "FROM glob({ALL})",
    "FROM glob({FOLDER} || '/*')",
    "FROM read_text('file://' || {SECRET})",
    "FROM read_text('/proc/self/environ')",
    "FROM read_text('/dev/stdin')",
    "FROM query({READ})",
    "FROM query_table({TABLE})",
    "FROM samples WHERE sample_id IN (SELECT content FROM read_text({SECRET}))",
    "DESCRIBE FROM read_csv({TABLE})",
    "SUMMARIZE FROM read_csv({TABLE})",
    "EXPLAIN ANALYZE FROM read_text({SECRET})",
    "FROM json_execute_serialized_sql(json_serialize_sql({READ}))",
    "SELECT getenv('JAIL_SECRET')",
    "FROM duckdb_secrets()",
    "FROM 'https://example.org/x.parquet'",
    # Variables of the program itself.
    "FROM query",
    "FROM statements",
]
WRITES = [
    "COPY (SELECT 1) TO {RECORD}",
    "COPY (SELECT 1) TO {NEW}",
    "{COPY}",
    "WITH a AS ({COPY}) FROM a",
    "FROM (WITH a AS ({COPY}) FROM a)",
    "EXPLAIN ANALYZE {COPY}",
    "EXPLAIN ANALYZE WITH a AS ({COPY}) FROM a",
    "/* */ EXPLAIN ANALYZE {COPY}",
    "EXPLAIN ANALYZE/**/{COPY}",
    "EXPLAIN EXPLAIN ANALYZE {COPY}",
    "FROM query({QUOTED_COPY})",
    "{HIDDEN}",
    "FROM query({QUOTED_HIDDEN})",
    "SELECT count(*) FROM ({HIDDEN}), samples",
    "SUMMARIZE {HIDDEN}",
    "PRAGMA json_execute_serialized_sql('')",
    "SELECT 1; {COPY}",
    "EXPORT DATABASE {NEW}",
    "ATTACH {NEW} AS other",
    "INSTALL httpfs",
    "LOAD httpfs",
    "CREATE TABLE t AS SELECT 1",
    "CREATE PERSISTENT SECRET s (TYPE http)",
    "PREPARE p AS {COPY}",
    "CALL enable_logging(storage = 'file', storage_path = {NEW})",
    "FROM enable_logging(storage = 'file', storage_path = {NEW})",
    "FROM enable_profiling(format = 'json', save_location = {NEW} || '.json')",
    "SET allowed_paths = ['/etc/passwd']",
    "SET enable_external_access = true",
    "SET lock_configuration = false",
    "SET memory_limit = '1MB'",
    "SET temp_directory = {FOLDER}",
    "DROP VIEW samples",
    "CHECKPOINT",
    "PIVOT samples ON split",
    "SELECT 1; SELECT 2",
]


def outcome(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Exit code and output of the command, in this process: a jail is of a connection, and each has its own."""
    capfd.readouterr()
    code = main(words)
    return code, *capfd.readouterr()


@pytest.mark.parametrize("attack", [*READS, *WRITES])
def test_no_way_out(
    data: Path, attack: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAIL_SECRET", SECRET)
    before = tree_digest(data.parent)
    code, out, err = outcome(capfd, str(data), attack.format(**names(data)), "--csv")
    assert (code, out, err.count("\n")) == (2, "", 1), out + err
    assert SECRET not in err
    assert "Traceback" not in err
    assert tree_digest(data.parent) == before


def test_the_environment_of_a_process_stays_in_it(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAIL_SECRET", SECRET)  # as `/proc/self/environ` has it of a process that began with it
    done = run_module("manifests.sql", str(data), "FROM read_text('/proc/self/environ')", "--csv")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stdout + done.stderr
    assert SECRET not in done.stderr


def test_no_function_of_duckdb_reads_or_writes_another_file(data: Path) -> None:
    """Every one that this version has, also those that came after our lists: with paths in each place."""
    before = tree_digest(data.parent)
    text = names(data)
    words = [text["TABLE"], f"[{text['TABLE']}]", f"{text['TABLE']}, 1", f"{text['NEW']}, {text['NEW']}", text["READ"]]
    with open_duckdb() as free:
        found = free.execute("SELECT DISTINCT function_type, function_name FROM duckdb_functions()").fetchall()
    plain = [(kind, name) for kind, name in found if name.isidentifier()]
    tables = [f"FROM {name}({given})" for kind, name in plain if "table" in kind for given in words]
    values = [f"SELECT {name}({given})" for kind, name in plain if "table" not in kind for given in words[::3]]
    assert len(tables) > 500 and len(values) > 1000
    ran = 0
    with connect(data, jailed=True) as connection:
        for query in tables + values:
            try:
                _check_reads(connection, query)
                told = str(connection.execute(query).fetchmany(20))
                ran += 1
            except (UserError, duckdb.Error) as error:
                told = str(error)
            assert SECRET not in told, query
    assert ran > 100
    assert tree_digest(data.parent) == before


def test_a_plan_as_text_shows_nothing_of_other_files(data: Path) -> None:
    done = run_module("manifests.sql", str(data), "SELECT json_serialize_plan({READ})".format(**names(data)), "--csv")
    assert "Cannot access file" in done.stdout
    assert SECRET not in done.stdout


def test_messages_say_what_is_allowed(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for attack in ("COPY (SELECT 1) TO {NEW}", "SELECT 1; SELECT 2", "WITH a AS ({COPY}) FROM a", "{HIDDEN}"):
        _, _, err = outcome(capfd, str(data), attack.format(**names(data)))
        assert err.startswith("only one statement that reads is run: SELECT, ")
        assert err.endswith("; --unsafe lifts this\n")
    _, _, err = outcome(capfd, str(data), "FROM read_text({SECRET})".format(**names(data)))
    assert err.endswith("; only manifests are read, --unsafe lifts this\n")


@pytest.mark.parametrize(
    "query",
    [
        "SELECT count(*) FROM samples",
        "FROM samples SELECT split, count(*) GROUP BY ALL ORDER BY ALL;",
        "WITH a AS (SELECT split FROM samples) SELECT count(*) FROM a -- all",
        "(SELECT 1)",
        "VALUES (1), (2)",
        "TABLE units",
        "DESCRIBE samples",
        "SUMMARIZE units",
        "SHOW TABLES",
        "SHOW ALL TABLES",
        "PIVOT samples ON split IN ('train', 'test') USING count(*)",
        "UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b",
        "EXPLAIN SELECT count(*) FROM samples",
        "explain analyze\nFROM samples",
        "FROM query('SELECT count(*) FROM samples')",
        "SELECT parameters->>'limit', source FROM builds",
        "SELECT 'COPY x TO y; SET a = 1' AS text",
    ],
)
def test_what_only_reads_is_run(data: Path, query: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, err = outcome(capfd, str(data), query, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)


def test_unsafe_lifts_the_jail_and_says_so(data: Path, tmp_path: Path) -> None:
    query = f"COPY (FROM read_text({quoted(data / 'inside.txt')}) SELECT content) TO {quoted(tmp_path / 'new.csv')}"
    done = run_module("manifests.sql", str(data), query, "--unsafe")
    assert done.returncode == 0
    assert done.stderr == "--unsafe: this query may read and change every file that you can\n"
    assert SECRET in (tmp_path / "new.csv").read_text()
    done = run_module("manifests.sql", str(data), "--audit", "all", "--unsafe")
    assert (done.returncode, done.stdout) == (2, "")
    assert "--unsafe is for a query" in done.stderr


def test_links_to_data_and_builds(data: Path, tmp_path: Path) -> None:
    (tmp_path / "data").symlink_to(data)
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "build").symlink_to(build_of(data))
    query = "SELECT (SELECT count(*) FROM samples) > 0 AS a, (SELECT count(*) FROM builds) = 1 AS b"
    for folder in (tmp_path / "data", tmp_path / "more", Path("data"), Path("more/../more"), build_of(data)):
        done = run_module("manifests.sql", str(folder), query, "--json", cwd=tmp_path)
        assert json.loads(done.stdout) == [{"a": True, "b": True}], done.stderr
    done = run_module("manifests.sql", "data", "--audit", "all", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")  # the demo tree has an overlap planted
    assert "11 of 12 audits clean" in done.stdout


def test_a_part_outside_its_build_is_refused(data: Path, tmp_path: Path) -> None:
    record = json.loads((build_of(data) / BUILD_FILE).read_text())
    secret = data.parent / "secret.txt"
    for file in (str(secret), os.path.relpath(secret, tmp_path)):
        record["units"] = [record["units"][0] | {"parts": [{"file": file, "bytes": len(SECRET), "sha256": ""}]}]
        (tmp_path / BUILD_FILE).write_text(json.dumps(record))
        with pytest.raises(UserError, match="names a part outside its build"):
            connect(tmp_path)


def test_what_is_spilled_is_private_and_removed(data: Path) -> None:
    with connect(data, jailed=True) as connection:
        [[scratch]] = connection.execute("SELECT current_setting('temp_directory')").fetchall()
        assert stat.S_IMODE(Path(scratch).stat().st_mode) == 0o700
    del connection
    assert not Path(scratch).exists()


def test_a_jail_without_files_still_spills() -> None:
    with open_duckdb() as connection:
        connection.execute("SET memory_limit = '60MB'")
        connection.execute("SET threads = 1")
        jail(connection)
        query = "SELECT range::VARCHAR || repeat('a', 30) AS a, hash(range) AS h FROM range(3000000) ORDER BY h"
        cursor = connection.execute(f"SELECT count(DISTINCT a) FROM ({query})")
        assert cursor.fetchall() == [(3_000_000,)]
