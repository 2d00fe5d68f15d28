"""Semantic duplicates: pictures whose embeddings point the same way, whatever was done to the pixels.

The first picture of every sample is embedded by a CLIP model (filters/zero_shot.py), every pair is compared, block by
block: complete for the threshold. Of a group the sample that comes first stays. Embeddings are kept, so that another
threshold decodes nothing. The table of duplicates is then a filter like any other.
The filter of the same name reads the table.

    DATA/embeddings/<build>/<unit>-<key>.parquet    sample_id, embedding (d numbers; none where there is no picture)
    DATA/embeddings/duplicates.parquet              build, sample_id, stays_build, stays, cosine
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from filters.base import Filter, FilterError, Picture, Record, Score, UnreadablePicture, content_digest, decode
from medgpt.arguments import command_parser
from medgpt.errors import DONE, UserError, one_line, run

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from filters.zero_shot import ZeroShot
    from manifests.catalog import LoadedBuild

EMBEDDINGS, TABLE_FILE = "embeddings", "duplicates.parquet"
_BLOCK = 4096
_BATCH = 32


class SemanticDuplicates(Filter):
    """Whether a sample is in the table, by its id, and how near it is to the sample that stays."""

    name: ClassVar[str] = "semantic_duplicates"
    version: ClassVar[str] = "1"
    scores: ClassVar[dict[str, str]] = {
        "duplicate": "1 where the table has the sample, else 0; the threshold was the table's",
        "cosine": "to the earlier sample that stays; none where the table does not have the sample",
    }
    cost: ClassVar[float] = 0.01
    needs_pictures: ClassVar[bool] = False
    file_options: ClassVar[tuple[str, ...]] = ("table",)

    def __init__(self, table: str | None = None) -> None:
        """Read the table. Raises: `FilterError`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if table is None:
            raise FilterError("semantic_duplicates needs its table: python -m filters.semantic_duplicates makes it")
        try:
            rows = pq.read_table(Path(table), columns=["sample_id", "cosine"])
        except (OSError, pa.ArrowInvalid) as error:
            raise FilterError(f"{table}: no table of duplicates ({one_line(error)})") from error
        self._cosines = dict(zip(rows["sample_id"].to_pylist(), rows["cosine"].to_pylist(), strict=True))

    def one(self, record: Record) -> dict[str, Score]:
        """Scores of a record; no picture is looked at."""
        cosine = self._cosines.get(record.sample["id"])
        return {"duplicate": int(cosine is not None), "cosine": cosine}


def semantic_duplicates(
    ids: Sequence[str], embeddings: NDArray[np.float32], threshold: float
) -> list[tuple[str, str, float]]:
    """(sample, earlier sample that stays, cosine) of every sample at least as close as `threshold` to one that stays.

    ids: n names. embeddings: (n, d), each row of length 1. Going through the rows in order, a row stays unless its
    nearest row that stays is at least that close (the first of equally near ones is named). O(n² d) time.
    Raises: `ValueError` for shapes that do not fit or rows that are not of length 1.
    """
    import numpy as np

    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise ValueError(f"{len(ids)} ids and embeddings of shape {embeddings.shape}; (n, d) is needed")
    if len(ids) and not np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-3):
        raise ValueError("embeddings must have length 1; divide each by its norm")
    stays: list[int] = []
    found: list[tuple[str, str, float]] = []
    for start in range(0, len(ids), _BLOCK):
        block = embeddings[start : start + _BLOCK]
        before = len(stays)
        best = np.full(len(block), -np.inf, np.float32)
        nearest = np.zeros(len(block), np.int64)
        for first in range(0, before, _BLOCK):
            chosen = stays[first : min(first + _BLOCK, before)]
            cosines = block @ embeddings[chosen].T
            place = cosines.argmax(axis=1)
            value = cosines[np.arange(len(block)), place]
            better = value > best
            best[better], nearest[better] = value[better], np.asarray(chosen)[place[better]]
        within = block @ block.T
        for number in range(len(block)):
            here = [row - start for row in stays[before:]]
            value, row = float(best[number]), int(nearest[number])
            if here and within[number, here].max() > value:
                place_here = int(within[number, here].argmax())
                value, row = float(within[number, here[place_here]]), start + here[place_here]
            if value >= threshold:
                found.append((ids[start + number], ids[row], round(value, 4)))
            else:
                stays.append(start + number)
    return found


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 if it stopped (run again to go on), 2 for wrong usage."""
    parser = command_parser(
        "filters.semantic_duplicates",
        "Find training samples whose first picture is, to a CLIP model, the one of an earlier sample; writes "
        "DATA/embeddings/duplicates.parquet, which the filter semantic_duplicates drops by. Every pair is compared: a "
        "million pictures of 512 numbers take an hour and a half at 10^11 operations a second. "
        "Exit code: 0, 1 if it stopped (run again to go on), 2 for wrong usage.",
        "example:\n  python -m filters.semantic_duplicates data --build pmc_oa --build rocov2 --weights "
        "weights/biomedclip --threshold 0.97\n"
        "  python -m filters.run data --set semantic_duplicates.table=data/embeddings/duplicates.parquet",
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds")
    add("--build", action="append", default=[], metavar="NAME", help="only this one (may be repeated)")
    add("--weights", type=Path, required=True, metavar="PATH", help="checkpoint: see filters.zero_shot")
    add("--model", metavar="NAME", help="architecture in open_clip, where the weights are one file")
    add("--device", default="cpu", metavar="NAME", help="for torch (default cpu)")
    add(
        "--threshold", type=float, required=True, metavar="COSINE", help="no default: checkpoints differ, look at pairs"
    )
    add("--json", action="store_true", help="print the counts as JSON, no progress bar")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if not 0 < options.threshold <= 1:
        parser.error("--threshold is a cosine above 0, at most 1")
    table = find(
        options.data, _chosen(options.data, options.build), options.weights, options.model, options.device,
        options.threshold, progress=not (options.quiet or options.json),
    )  # fmt: skip
    path = options.data / EMBEDDINGS / TABLE_FILE
    if options.json:
        print(json.dumps({"table": str(path), "duplicates": len(table), "threshold": options.threshold}))
        return DONE
    print(f"{len(table):,} samples repeat an earlier one at a cosine of {options.threshold:g} or more: {path}")
    print(f"next: python -m filters.run {options.data} --set semantic_duplicates.table={path}")
    return DONE


def _chosen(data: Path, names: Sequence[str]) -> list[LoadedBuild]:
    """The builds named, or all that have pictures of the train side. Raises: `UserError`."""
    from manifests.catalog import load_builds

    builds = {build.record["build"]: build for build in load_builds(data)}
    if missing := sorted(set(names) - set(builds)):
        raise UserError(f"{data}: no build is called {missing[0]!r}; there are: {', '.join(builds)}")
    chosen = [
        build
        for name, build in builds.items()
        if name in (names or builds)
        and not build.record["metadata_only"]
        and any(map(_has_pictures, build.record["units"]))
    ]
    if not chosen:
        raise UserError(f"{data}: no build here has training samples with pictures")
    return chosen


def _has_pictures(unit: dict[str, Any]) -> bool:
    """Whether a unit is of the train side and its samples lie in tars."""
    return unit["role"] == "train" and any(shard["file"].endswith(".tar") for shard in unit["shards"])


def find(
    data: Path,
    builds: Sequence[LoadedBuild],
    weights: Path,
    model: str | None,
    device: str,
    threshold: float,
    progress: bool = False,
) -> pa.Table:
    """Embed the first picture of every training sample, find the duplicates, write and return their table.

    Raises: `UserError`, where an id is in two builds; `FilterError` (weights, an extra, a damaged part).
    """
    import numpy as np
    import pyarrow as pa
    from tqdm import tqdm

    from filters.scores import write_table
    from filters.zero_shot import ZeroShot

    digest = content_digest(weights) if weights.exists() else ""
    owner: dict[str, str] = {}
    parts: list[NDArray[np.float32]] = []
    network: ZeroShot | None = None
    count = 0
    with tqdm(unit=" samples", desc="embed", disable=not progress or None, smoothing=0.05) as bar:
        bar.total = sum(unit["kept"] for build in builds for unit in build.record["units"] if _has_pictures(unit))
        for build in builds:
            first = 0
            for unit in (unit for unit in build.record["units"] if unit["role"] == "train"):
                if _has_pictures(unit):
                    path = _part(data, build, unit, [digest, model])
                    if not path.is_file():
                        network = network or ZeroShot(str(weights), model, device)
                        write_table(path, _embed(network, build, first, unit["kept"]), {"format": "1"})
                    names, vectors = _read(path)
                    owner |= dict.fromkeys(names, build.record["build"])
                    count += len(names)
                    parts.append(vectors)
                    bar.update(unit["kept"])
                first += unit["kept"]
    if len(owner) != count:
        raise UserError(f"{data}: a sample id is in two builds (two variants of a source?); choose one with --build")
    stacked = np.concatenate([part for part in parts if len(part)] or [np.zeros((0, 0), np.float32)])
    rows = [
        {"build": owner[sample], "sample_id": sample, "stays_build": owner[other], "stays": other, "cosine": cosine}
        for sample, other, cosine in semantic_duplicates(list(owner), stacked, threshold)
    ]
    kinds = dict.fromkeys(("build", "sample_id", "stays_build", "stays"), pa.string()) | {"cosine": pa.float64()}
    table = pa.Table.from_pylist(rows, pa.schema(list(kinds.items())))
    roots = {build.record["build"]: build.record["root"] for build in builds}
    made_from = {"threshold": f"{threshold:g}", "weights": digest, "roots": json.dumps(roots)}
    write_table(data / EMBEDDINGS / TABLE_FILE, table, made_from)
    return table


def _part(data: Path, build: LoadedBuild, unit: dict[str, Any], made_with: Any) -> Path:
    from medgpt.private import make_folder

    key = json.dumps([[shard["sha256"] for shard in unit["shards"]], made_with])
    folder: Path = data / EMBEDDINGS / build.record["build"]
    make_folder(folder)
    return folder / f"{unit['unit']}-{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"


def _embed(network: ZeroShot, build: LoadedBuild, first: int, count: int) -> pa.Table:
    """Embeddings of a unit's samples; a sample without a readable picture has none."""
    import pyarrow as pa

    from shards.reader import Build

    stored = Build(build.folder, role="train")
    ids, vectors = list[str](), list[Any]()
    for start in range(first, first + count, _BATCH):
        shown: dict[int, Picture] = {}
        for number in range(start, min(start + _BATCH, first + count)):
            sample = stored[number]
            ids.append(sample.record["id"])
            vectors.append(None)
            with suppress(UnreadablePicture):  # filters.run names it: the recipe says what becomes of it
                shown |= {len(vectors) - 1: picture for picture in decode(sample)[:1]}
        for row, vector in zip(shown, network.embed_pictures(list(shown.values())), strict=True):
            vectors[row] = vector.tolist()
    return pa.table({"sample_id": pa.array(ids, pa.string()), "embedding": pa.array(vectors, pa.list_(pa.float32()))})


def _read(path: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Ids and embeddings of the samples of a part that have one. Raises: `ScoreError`."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=["sample_id", "embedding"])
        table = table.filter(pc.is_valid(table["embedding"]))
        flat = pc.list_flatten(table["embedding"]).to_numpy().astype(np.float32)
        return table["sample_id"].to_pylist(), flat.reshape(len(table), -1 if len(table) else 0)
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        raise FilterError(f"{path}: no embeddings ({type(error).__name__}); delete it and run again") from error


if __name__ == "__main__":
    raise SystemExit(main())
