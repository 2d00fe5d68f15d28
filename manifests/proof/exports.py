"""What others take from a proof: excluded rows by the names that a corpus made elsewhere gave them, rows for CONDA."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgpt.atomic import AtomicFile, write_atomic
from medgpt.digest import INPUTS_FILE

if TYPE_CHECKING:
    import duckdb

    from manifests.catalog import LoadedBuild

EXCLUDED_ROWS_FILE = "excluded_rows.csv"
_ROWS = 4_096
_HUB = "https://huggingface.co/datasets/"
_SPLITS = {"train": "Train Split", "dev": "Development Split", "val": "Development Split", "test": "Test Split"}
CONDA_COLUMNS = (
    "Evaluation Dataset", "Subset", "Contaminated Source", "Version", "Train Split", "Development Split", "Test Split",
    "Approach", "Reference", "PR",
)  # fmt: skip
"""Of https://huggingface.co/datasets/CONDA-Workshop/Data-Contamination-Database; splits are percentages of items."""


def write_excluded_rows(connection: duckdb.DuckDBPyConnection, builds: Sequence[LoadedBuild], out: Path) -> None:
    """Write `excluded_rows.csv` beside the exclusions, a line a row; none where no corpus is foreign.

    `id` is what the corpus calls the row (its `id` field, a WebDataset key), else the row's number. `sha256` is of the
    file when it was read, so that nobody takes the rows out of another.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    foreign = {b.record["build"]: b.record["source"]["name"] for b in builds if "accounting" in b.record["parameters"]}
    path = out / EXCLUDED_ROWS_FILE
    path.unlink(missing_ok=True)
    if not foreign:
        return
    files = []
    for build in builds:
        if (name := build.record["build"]) in foreign:
            read = pq.read_table(build.folder / INPUTS_FILE, columns=["file", "sha256"])
            files.append(read.append_column("build", pa.repeat(name, len(read))))
    connection.register("corpus_files", pa.concat_tables(files))
    cursor = connection.execute(
        """SELECT e.train_build, s.split, s.sample_id, s."file", s."row", e.reasons, coalesce(lower(hex(f.sha256)), '')
        FROM exclusions e JOIN samples s ON s.build = e.train_build AND s.sample_id = e.train_sample
        LEFT JOIN corpus_files f ON f.build = s.build AND f."file" = s."file" ORDER BY ALL"""
    )
    with AtomicFile(path) as file:
        file.write(_csv([("build", "id", "file", "row", "reasons", "sha256")]))
        while found := cursor.fetchmany(_ROWS):  # a corpus may lose millions
            file.write(
                _csv(
                    (build, name.removeprefix(f"{foreign[build]}/{split}/{raw}/"), raw, row, " ".join(reasons), sha256)
                    for build, split, name, raw, row, reasons, sha256 in found
                    if build in foreign
                )
            )


def conda_rows(
    connection: duckdb.DuckDBPyConnection, builds: Sequence[LoadedBuild], totals: Iterable[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """A row a training build, benchmark and split: how many percent of its items evidence that excludes names.

    totals: `eval_totals` of the certificate.
    """
    touched = {
        (train, build, split): count
        for train, build, split, count in connection.execute(
            "SELECT train_build, eval_build, eval_split, count(DISTINCT eval_sample) FROM evidence "
            "WHERE action IN ('exclude', 'forbid') GROUP BY ALL"
        ).fetchall()
    }
    records = {build.record["build"]: build.record for build in builds}
    sources = [name for name, record in records.items() if any(unit["role"] == "train" for unit in record["units"])]
    rows = []
    for source in sorted(sources):
        for total in totals:
            benchmark, split = total["eval_build"], total["eval_split"]
            column = next((name for start, name in _SPLITS.items() if split.startswith(start)), "Test Split")
            share = 100 * touched.get((source, benchmark, split), 0) / total["eval_samples"]
            version = records[source]["source"]["revision"]
            rows.append(
                dict.fromkeys(CONDA_COLUMNS, "")
                | {"Evaluation Dataset": _published(records[benchmark]), "Subset": split, column: f"{share:.3f}"}
                | {"Contaminated Source": _published(records[source]), "Version": version, "Approach": "data-based"}
            )
    return rows


def write_conda(rows: Iterable[Mapping[str, str]], path: Path) -> None:
    """Write the rows as CSV; `Reference` and `PR` are for whoever sends them in."""
    write_atomic(path, _csv([CONDA_COLUMNS, *([row[name] for name in CONDA_COLUMNS] for row in rows)]))


def _published(record: Mapping[str, Any]) -> str:
    """A build's source as CONDA names it: its path on the hub, else its page, else its name."""
    page = record["source"]["homepage"]
    return str(page.removeprefix(_HUB) if page and page != "-" else record["build"])


def _csv(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
