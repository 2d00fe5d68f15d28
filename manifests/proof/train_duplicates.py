"""Near-duplicate pictures within the train side: what a mixture trains on several times under different names.

Only reported: that a picture comes back with another question is what visual question answering is made of. Pictures
that are equal in pixels are not listed (the SQL audits count those); a pair here is two different pictures whose hashes
are within the policy's radius and whose thumbnails agree. Of many pictures with one hash each is compared with the
first (by digest), so that a placeholder used ten thousand times makes ten thousand pairs and not fifty million.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from manifests.proof.agreement import agreement, flat
from manifests.proof.hamming import HammingIndex
from manifests.proof.variants import IDENTITY, decode

if TYPE_CHECKING:
    import duckdb

TRAIN_DUPLICATES = pa.schema(
    [
        pa.field("build_a", pa.string(), nullable=False),
        pa.field("sample_a", pa.string(), nullable=False),
        pa.field("index_a", pa.int32(), nullable=False),
        pa.field("build_b", pa.string(), nullable=False),
        pa.field("sample_b", pa.string(), nullable=False),
        pa.field("index_b", pa.int32(), nullable=False),
        pa.field("distance", pa.int32(), nullable=False),
        pa.field("score", pa.float64(), nullable=False),
    ]
)
"""One row a pair of different pictures, each named by the first sample (by build, id, index) that shows it."""

_BLOCK = 4096  # pairs decoded at a time: 80 MB
_SEARCHED = 1 << 20  # hashes searched at a time

_PICTURES = """
    CREATE OR REPLACE TEMP TABLE train_pictures AS
    SELECT row_number() OVER (ORDER BY phash, pixel_sha256) - 1 AS number, *
    FROM (SELECT pixel_sha256, any_value(phash) AS phash,
                 arg_min({'build': build, 'sample': sample_id, 'index': "index"}, (build, sample_id, "index")) AS shown
          FROM images WHERE role = 'train' AND phash IS NOT NULL GROUP BY pixel_sha256)
"""


def train_duplicates(
    connection: duckdb.DuckDBPyConnection, radius: int, threshold: float, progress: Callable[[int], None]
) -> pa.Table:
    """Pairs of near-duplicate train pictures as a table of `TRAIN_DUPLICATES`, sorted by its columns.

    `radius` in bits, even; `threshold` of the agreement of thumbnails, 0 to 1. `progress` gets numbers of pairs judged.
    """
    connection.execute(_PICTURES)
    columns = connection.execute("SELECT phash FROM train_pictures ORDER BY number").fetchnumpy()
    hashes = np.asarray(columns["phash"], np.uint64)
    rows: list[dict[str, Any]] = []
    for first, second, distance in _candidates(hashes, radius):
        for start in range(0, len(first), _BLOCK):
            part = slice(start, start + _BLOCK)
            rows += _judged(connection, first[part], second[part], distance[part], threshold)
            progress(len(first[part]))
    connection.execute("DROP TABLE train_pictures")
    table = pa.Table.from_pylist(rows, TRAIN_DUPLICATES)
    return table.sort_by([(name, "ascending") for name in TRAIN_DUPLICATES.names])


def _candidates(
    hashes: NDArray[np.uint64], radius: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs of positions in sorted `hashes`: equal ones with the first of their kind, then firsts within the radius."""
    different, start = np.unique(hashes, return_index=True)
    owner = np.repeat(start, np.diff(np.append(start, len(hashes))))
    repeated = np.flatnonzero(owner != np.arange(len(hashes)))
    yield owner[repeated], repeated, np.zeros(len(repeated), np.int64)
    if not radius:
        return
    index = HammingIndex(different, radius)
    for begin in range(0, len(different), _SEARCHED):
        matches = index.search(different[begin : begin + _SEARCHED])
        one, other = matches.rows + begin, matches.ids
        once = one < other
        yield start[one[once]], start[other[once]], matches.distance[once].astype(np.int64)


def _judged(
    connection: duckdb.DuckDBPyConnection,
    first: NDArray[np.int64],
    second: NDArray[np.int64],
    distance: NDArray[np.int64],
    threshold: float,
) -> list[dict[str, Any]]:
    """Pairs whose thumbnails agree."""
    wanted = np.unique(np.concatenate([first, second]))
    connection.register("wanted", pa.table({"number": wanted}))
    found = connection.execute(
        """SELECT number, shown, thumbnail
           FROM (SELECT * FROM train_pictures SEMI JOIN wanted USING (number)) p
           JOIN thumbnails t
           ON t.build = p.shown.build AND t.sample_id = p.shown.sample AND t."index" = p.shown."index" """
    ).fetchall()
    connection.unregister("wanted")
    shown: dict[int, Mapping[str, Any]] = {number: place for number, place, _ in found}
    thumbnails = {number: decode(bytes(thumbnail)) for number, _, thumbnail in found}
    one = np.stack([thumbnails[int(number)] for number in first])
    other = np.stack([thumbnails[int(number)] for number in second])
    scores = agreement(one, other, np.tile(IDENTITY, (len(one), 1, 1)), np.zeros(len(one), bool), threshold)
    rows = []
    for k in np.flatnonzero((scores >= threshold) & ~flat(one) & ~flat(other)):
        pair = sorted(
            (place["build"], place["sample"], place["index"]) for place in (shown[int(first[k])], shown[int(second[k])])
        )
        (build_a, sample_a, index_a), (build_b, sample_b, index_b) = pair
        rows.append(
            {
                "build_a": build_a, "sample_a": sample_a, "index_a": index_a,
                "build_b": build_b, "sample_b": sample_b, "index_b": index_b,
                "distance": int(distance[k]), "score": float(scores[k]),
            }
        )  # fmt: skip
    return rows


def count_by_builds(table: pa.Table) -> list[dict[str, Any]]:
    """Pairs by the builds of their two sides."""
    counts = Counter(zip(table["build_a"].to_pylist(), table["build_b"].to_pylist(), strict=True))
    return [{"build_a": a, "build_b": b, "pairs": pairs} for (a, b), pairs in sorted(counts.items())]
