"""The training samples that may be used: what is built, less what the proof excludes, less what filters took out.

    certified = load_certified("data")
    slake = certified.sources["slake"]
    slake.places(np.array([7]))        # shard, byte ranges of the JSON and of every picture

The first time, every manifest part is held against its digest, and what streaming needs of each sample is written to
`DATA/.streams` as plain numbers (`shards.columns`, 56 bytes a sample with one picture). Later starts look at files'
sizes and times only and map the numbers into memory, so they take the same time for a thousand samples and for twenty
million. `DATA/.streams` may be deleted.

What a later start does not look for: a build that was added in a folder where there was none before. It is not
streamed, either; and adding one beside the others, or a new proof, is seen.
"""

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.catalog import LoadedBuild, load_builds
from manifests.parts import IMAGES
from manifests.proof.certificate import CERTIFICATE, EXCLUSIONS_FILE, incomplete
from manifests.proof.trust import WATCHED, Trust, accepted, check_proof
from manifests.selections import data_folder, dropped_samples, selection_files
from medgpt.atomic import locked, write_atomic
from medgpt.digest import json_sha256
from medgpt.errors import UserError
from medgpt.layout import BUILD_FILE
from medgpt.limited import read_file
from medgpt.messages import brief
from medgpt.private import keep_private, make_folder
from shards.columns import HEADER, Int32, Int64, MappedColumns, Signature, signature, write_columns
from shards.reader import check_part, check_root
from shards.storage import ShardRef

FORMAT = 4
STREAMS = ".streams"
PROOF = "proof"
UNCERTIFIED = "uncertified-"


_COLUMNS = {"places": "int64", "pictures": "int64", "tokens": "int32", "tiles": "int32"}
_PLACE, _PICTURE = 4, 2
"""Numbers of a place (shard << 32 | row in it, offset, length, number of the first picture) and of a picture (offset,
length). Side by side, so that a sample drawn at random touches one or two pages; a last place ends the pictures."""
_SAMPLE_COLUMNS = ["sample_id", "license", "shard", "offset", "length", "n_images", "tiles", "text_tokens"]


class Places(NamedTuple):
    """Where n samples lie, in the order asked for; their pictures one after another."""

    shard: Int32
    """[n] numbers into `SourceSamples.shards`."""
    offset: Int64
    """[n] tar: byte of the JSON; Arrow: row."""
    length: Int32
    """[n] bytes of the canonical JSON."""
    images: Int64
    """[n] pictures of each sample."""
    image_offset: Int64
    """[sum(images)] first byte."""
    image_length: Int32
    """[sum(images)] bytes."""


class SourceSamples:
    """The samples of one build that may be used, numbered from 0 in the order of the shards."""

    def __init__(self, name: str, data: Path, folder: str, columns: MappedColumns) -> None:
        self.name = name
        self._columns = columns
        self.folder, self.root = data / folder, str(columns.header["root"])
        self._count = int(columns.header["samples"])
        place = "" if folder == "." else f"{folder}/"
        self.shards = tuple(
            ShardRef(place + file, sha256, size, samples)
            for file, sha256, size, samples, _part, _first in columns.header["shards"]
        )
        """All shards of the build's training units, in order."""

    def __len__(self) -> int:
        return self._count

    def locate(self, indices: Int64) -> tuple[Int32, Int32]:
        """Number of the shard, and of the sample among all of its shard, for each of [n] indices.

        Raises: `IndexError`.
        """
        packed = self._places[self._checked(indices), 0]
        return (packed >> 32).astype(np.int32), (packed & 0xFFFFFFFF).astype(np.int32)

    def places(self, indices: Int64) -> Places:
        """What is needed to read each of [n] samples without its manifest. Raises: `IndexError`."""
        indices = self._checked(indices)
        place = self._places[indices]
        first = place[:, 3]
        images = self._places[indices + 1, 3] - first
        ends = np.cumsum(images)
        numbers = np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(first - (ends - images), images)
        picture = self._columns["pictures"].reshape(-1, _PICTURE)[numbers]
        shard, length = (place[:, 0] >> 32).astype(np.int32), place[:, 2].astype(np.int32)
        return Places(shard, place[:, 1], length, images, picture[:, 0], picture[:, 1].astype(np.int32))

    @property
    def _places(self) -> Int64:
        return self._columns["places"].reshape(-1, _PLACE)

    @property
    def tokens(self) -> Int32:
        """[len] text tokens of the manifest, template tokens not counted; mapped."""
        return self._columns["tokens"]

    @property
    def tiles(self) -> Int32:
        """[len] image tiles of all pictures; mapped."""
        return self._columns["tiles"]

    @property
    def shard_counts(self) -> Int64:
        """[shards] samples of each shard that may be used: shard s holds indices `sum(counts[:s])` and on."""
        return np.asarray(self._columns.header["shard_counts"], np.int64)

    def ids(self, indices: Int64) -> list[str]:
        """Ids of [n] samples, read from the manifest parts that hold them: for reports, not for reading samples.

        Raises: `IndexError`; `UserError` if a part is gone.
        """
        shard, row = self.locate(indices)
        parts: dict[str, list[int]] = {}
        for place, number in enumerate(shard.tolist()):
            parts.setdefault(self._columns.header["shards"][number][4], []).append(place)
        found = [""] * len(shard)
        for part, places in parts.items():
            path = self.folder / part
            try:
                names = pq.read_table(path, columns=["sample_id"])["sample_id"]
            except (OSError, pa.ArrowInvalid) as error:
                raise UserError(f"{path}: cannot be read ({error}); run the builder again") from error
            first = [self._columns.header["shards"][shard[place]][5] for place in places]
            rows = pa.array(np.asarray(first, np.int64) + row[places])
            for place, name in zip(places, names.take(rows).to_pylist(), strict=True):
                found[place] = name
        return found

    def _checked(self, indices: Int64) -> Int64:
        if len(indices) and not (int(indices.min()) >= 0 and int(indices.max()) < self._count):
            raise IndexError(f"{self.name}: samples are 0 to {self._count - 1}")
        return indices


@dataclass(frozen=True)
class Certified:
    """The samples under a certificate, build by build; or, `uncertified`, samples that no proof speaks of."""

    data: Path
    digest: str
    """Root of the certificate; with selections of filters or a list of licences a digest over these and the root. For
    uncertified samples `uncertified-` and a digest over the builds' roots."""
    certificate: str | None
    """Root of the certificate; None for uncertified samples."""
    sources: dict[str, SourceSamples]
    """By build, in sorted order."""
    folder: Path
    """Where numbers beside the shards are kept."""
    accepted: tuple[str, ...] = ()
    """What the user accepted of the certificate: what it does not speak of, a policy other than the default."""

    def __len__(self) -> int:
        return sum(map(len, self.sources.values()))

    @property
    def present(self) -> list[str]:
        """Builds of which a sample is left, once exclusions and filters are heeded."""
        return [name for name, source in self.sources.items() if len(source)]


def load_certified(
    data: Path | str,
    *,
    stage: str | None = None,
    licenses: Collection[str] | None = None,
    uncertified: bool = False,
    trust: Trust = Trust(),  # noqa: B008 - immutable
    folder: Path | None = None,
    check_shards: bool = True,
    quiet: bool = False,
) -> Certified:
    """The samples below DATA that may be trained on.

    `stage` limits the builds to those the recipe uses there (`pretrain`, `midtrain`, `instruct`); it is no part of the
    digest. `licenses` is an allow-list. `uncertified` asks for no proof and heeds none. `trust` says on what a
    certificate is taken: by default it must be complete and of the default policy. `folder` is where the numbers are
    kept, `DATA/.streams` by default. Without `check_shards` shards need not be here, as when they are streamed from a
    store (`shards.storage`). A bar is shown on a terminal unless `quiet`.

    Raises: `UserError`.
    """
    data = Path(os.path.abspath(data))  # noqa: PTH100 - links are followed, not resolved: paths stay below DATA
    folder = data / STREAMS if folder is None else Path(folder)
    allowed = None if licenses is None else sorted(set(licenses))
    if uncertified and trust.key:
        raise UserError("--uncertified heeds no certificate, --trust asks for one: give one of them")
    request = {"format": FORMAT, "data": str(data), "stage": stage, "licenses": allowed, "uncertified": uncertified}
    request["trust"] = trust.terms()
    record = folder / "opened" / f"{json_sha256(request)[:16]}.json"
    opened = _read_record(record, request)
    if opened is None:
        with locked(folder):
            # Another process may have been first.
            opened = _read_record(record, request)
            if opened is None:
                opened = _prepare(data, folder, stage, allowed, None if uncertified else trust, quiet)
                opened["request"] = request
                make_folder(record.parent)
                write_atomic(record, orjson.dumps(opened | {"digest_of_this": json_sha256(opened)}))
    for access in opened["access"]:
        keep_private(access)
    sources = {
        source["build"]: SourceSamples(
            source["build"], data, source["folder"], MappedColumns(_columns(folder, source), key=source["key"])
        )
        for source in opened["sources"]
    }
    taken = tuple(opened["accepted"])
    certified = Certified(data, opened["digest"], opened["certificate"], sources, folder, taken)
    if check_shards:
        _check_shards(certified)
    return certified


def _read_record(path: Path, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """What an earlier start found, if nothing that it looked at has changed since."""
    try:
        opened: dict[str, Any] = orjson.loads(read_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON ({error}); delete it") from error
    if opened.pop("digest_of_this", None) != json_sha256(opened) or opened["request"] != request:
        raise UserError(f"{path}: altered; delete it")
    if any(signature(file) != then for file, then in opened["watched"].items()):
        return None
    # Folders change their size and times with every file in them, so only names are compared.
    if any(_names(place) != then for place, then in opened["folders"].items()):
        return None
    if not all((_columns(path.parents[1], source) / HEADER).is_file() for source in opened["sources"]):
        return None
    return opened


def _columns(folder: Path, source: Mapping[str, str]) -> Path:
    """Where the numbers of a build's samples lie; their key names all that decides which samples these are."""
    return folder / "samples" / f"{source['build']}-{source['key'][:16]}"


def _names(folder: str) -> list[str]:
    """What is a build in a folder of builds, and what may become one."""
    try:
        with os.scandir(folder) as entries:
            there = [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except FileNotFoundError:
        return []
    return sorted(f"{name}/{BUILD_FILE}" if os.path.isfile(f"{folder}/{name}/{BUILD_FILE}") else name for name in there)  # noqa: PTH113


def _check_shards(certified: Certified) -> None:
    """Refuse to begin an epoch that could not be finished: every shard is there, in full size."""
    for source in certified.sources.values():
        for shard in source.shards:
            path = f"{certified.data}/{shard.path}"
            try:
                size = os.stat(path).st_size  # noqa: PTH116 - thousands of shards in some milliseconds
            except FileNotFoundError:
                raise UserError(f"{path}: missing; restore it, or run the builder of {source.name} again") from None
            if size != shard.size:
                raise UserError(
                    f"{path}: {size} bytes where {shard.size} were certified; restore it, or build and prove again"
                )


def proof_folder(data: Path) -> Path:
    """DATA/proof; where DATA is the folder `built` itself, the proof may lie beside it."""
    beside = data_folder(data) / PROOF
    return beside if not (data / PROOF).is_dir() and beside.is_dir() else data / PROOF


def _prepare(
    data: Path, folder: Path, stage: str | None, licenses: list[str] | None, trust: Trust | None, quiet: bool
) -> dict[str, Any]:
    """Check all that a start rests on, and write the numbers of builds that have none yet."""
    from tqdm import tqdm

    proof = proof_folder(data)
    # Signatures are taken before anything is read: what changes meanwhile is seen at the next start.
    watched: dict[str, Signature] = {}
    if trust is not None:
        watched |= {str(proof / name): signature(proof / name) for name in WATCHED}
    builds = load_builds(data)
    for build in builds:
        path = build.folder / BUILD_FILE
        watched[str(path)] = signature(path)
    folders = {str(place): _names(str(place)) for place in sorted({build.folder.parent for build in builds} | {data})}
    train = [b for b in builds if any(unit["role"] == "train" and unit["kept"] for unit in b.record["units"])]
    train.sort(key=lambda build: str(build.record["build"]))
    for build in train:
        for file in selection_files(data, build):
            watched[str(file)] = signature(file)
    certificate = None if trust is None else _check_certificate(proof, builds, trust)
    root = certificate and certificate["root"]
    for build in train:
        _check_build(build)
    dropped = {build.record["build"]: found for build in train if (found := dropped_samples(data, build)) is not None}
    terms: dict[str, Any] = {"certificate": root}
    if root is None:
        terms = {"roots": {build.record["build"]: build.record["root"] for build in train}}
    if dropped:
        terms["selections"] = {name: selection.sha256 for name, selection in dropped.items()}
    if licenses is not None:
        terms["licenses"] = licenses
    digest = json_sha256(terms) if root is None or len(terms) > 1 else str(root)
    used = [build for build in train if stage in (None, build.record["source"]["stage"])]
    if not used:
        raise UserError(f"{data}: no train samples{f' of stage {stage}' if stage else ''}; run a builder first")
    excluded = _exclusions(proof, certificate)
    sources = []
    total = sum(u["kept"] for b in used for u in b.record["units"] if u["role"] == "train")
    with tqdm(total=total, desc="certified samples", unit_scale=True, disable=True if quiet else None, delay=1) as bar:
        for build in used:
            name = build.record["build"]
            selection = dropped.get(name)
            key = json_sha256([FORMAT, build.record["root"], root, selection and selection.sha256, licenses])
            source = {"build": name, "folder": build.folder.relative_to(data).as_posix(), "key": key}
            if not (_columns(folder, source) / HEADER).is_file():
                out = {"excluded": excluded.get(name), "dropped": selection and selection.sample_ids}
                out = {what: ids for what, ids in out.items() if ids is not None}
                _write_build(_columns(folder, source), key, build, out, licenses, bar)
            sources.append(source)
    return {
        "digest": digest if root is not None else UNCERTIFIED + digest,
        "certificate": root,
        "accepted": accepted(certificate) if certificate else [],
        "access": sorted({build.record["source"]["access"] for build in builds}),
        "sources": sources,
        "watched": watched,
        "folders": folders,
    }


def _check_build(build: LoadedBuild) -> None:
    record = build.record
    check_root(build)
    if record["metadata_only"]:
        raise UserError(
            f"{build.folder}: built without pictures (--no-images); build it with them, or move it out of DATA"
        )
    if record["parameters"].get("pictures_stored") is False:
        raise UserError(
            f"{build.folder}: a corpus made elsewhere, which holds no pictures and cannot be streamed; move it out of "
            "DATA"
        )


def _check_certificate(proof: Path, builds: Sequence[LoadedBuild], trust: Trust) -> dict[str, Any]:
    """The certificate, if it can be trusted, covers every build that is there, is complete and leaves no overlap."""
    if not (proof / CERTIFICATE).is_file():
        raise UserError(
            f"{proof / CERTIFICATE}: no certificate; run python -m manifests.prove, or ask for uncertified samples"
        )
    certificate = check_proof(proof, trust)
    covered = {build["build"]: build["root"] for build in certificate["builds"]}
    for build in builds:
        name, root = build.record["build"], build.record["root"]
        if name not in covered:
            raise UserError(
                f"{build.folder}: the certificate does not cover the build {name}; run python -m manifests.prove again"
            )
        if covered[name] != root:
            raise UserError(
                f"{build.folder}: the certificate covers another build of {name} (root {covered[name][:16]}, here "
                f"{root[:16]}); run python -m manifests.prove again"
            )
    if not certificate["clean"]:
        left = sum(row["pairs"] for row in certificate["after"])
        raise UserError(
            f"{proof / CERTIFICATE}: {left} overlapping pairs are left after the exclusions, so nothing is certified; "
            "see its report.html"
        )
    if (lacking := incomplete(certificate)) and not trust.incomplete:
        raise UserError(
            f"{proof / CERTIFICATE}: incomplete, {'; '.join(map(brief, lacking))}; build what is missing and prove "
            "again, or take it as it is: --accept-incomplete"
        )
    return certificate


def _exclusions(proof: Path, certificate: Mapping[str, Any] | None) -> dict[str, pa.Array]:
    """Excluded sample ids of every build."""
    if certificate is None:
        return {}
    table = pq.read_table(proof / EXCLUSIONS_FILE, columns=["train_build", "train_sample"])
    builds = pc.unique(table["train_build"]).to_pylist()
    return {
        name: table.filter(pc.equal(table["train_build"], name))["train_sample"].combine_chunks() for name in builds
    }


def _write_build(
    folder: Path, key: str, build: LoadedBuild, out: Mapping[str, pa.Array], licenses: list[str] | None, bar: Any
) -> None:
    """Write the numbers of one build without the ids of `out`, unit by unit."""
    header: dict[str, Any] = {
        "format": FORMAT,
        "key": key,
        "build": build.record["build"],
        "root": build.record["root"],
    }
    header |= {"samples": 0, "images": 0, "shards": [], "shard_counts": []}
    # The header is filled while the chunks are written, and written after them.
    write_columns(folder, header, _COLUMNS, _chunks(build, out, licenses, header, bar))


def _chunks(
    build: LoadedBuild, out: Mapping[str, pa.Array], licenses: list[str] | None, header: dict[str, Any], bar: Any
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    found = dict.fromkeys(out, 0)
    with_images = {path.name: path for _, path in build.parts("images", "train")}
    for unit, path in build.parts("samples", "train"):
        check_part(build, unit, path)
        images = IMAGES.empty_table()
        if path.name in with_images:
            check_part(build, unit, with_images[path.name])
            images = pq.read_table(with_images[path.name], columns=_IMAGE_COLUMNS)
        table = pq.read_table(path, columns=_SAMPLE_COLUMNS)
        ids = table["sample_id"]
        keep = np.ones(table.num_rows, np.bool_)
        for what, names in out.items():
            hit = pc.is_in(ids, names).to_numpy()
            found[what] += int(hit.sum())
            keep &= ~hit
        if licenses is not None:
            keep &= pc.is_in(table["license"], pa.array(licenses, pa.string())).to_numpy()
        yield _unit_chunk(path, build.folder, unit, table, images, keep, header)
        bar.update(table.num_rows)
    yield {"places": np.array([[0, 0, 0, header["images"]]])}
    for what, names in out.items():
        if found[what] != len(names):
            raise UserError(
                f"{build.folder}: {found[what]} of {len(names)} samples that are {what} were found; prove and filter "
                "again"
            )


_IMAGE_COLUMNS = ["shard", "offset", "length"]


def _unit_chunk(
    path: Path,
    folder: Path,
    unit: Mapping[str, Any],
    table: pa.Table,
    pictures: pa.Table,
    keep: npt.NDArray[np.bool_],
    header: dict[str, Any],
) -> dict[str, npt.NDArray[Any]]:
    """The numbers of one unit's samples; adds its shards to the header."""
    names = [PurePosixPath(shard["file"]).name for shard in unit["shards"]]
    counts = np.array([shard["samples"] for shard in unit["shards"]], np.int64)
    firsts = np.cumsum(counts) - counts
    n_images = table["n_images"].to_numpy()
    # Rows of a part lie in the order of its shards, pictures in that of their samples: `row`, and finding a sample's
    # pictures by counting, rest on it.
    shard = np.repeat(np.arange(len(names)), counts)
    as_listed = np.array_equal(_codes(table["shard"], names), shard) and np.array_equal(
        _codes(pictures["shard"], names), np.repeat(shard, n_images)
    )
    if not as_listed:
        raise UserError(f"{path}: its rows are not those of the shards that {BUILD_FILE} lists; build it again")
    rows = np.arange(len(shard)) - firsts[shard]
    first = len(header["shards"])
    part = path.relative_to(folder).as_posix()
    for listed, begin in zip(unit["shards"], firsts.tolist(), strict=True):
        header["shards"].append([listed["file"], listed["sha256"], listed["bytes"], listed["samples"], part, begin])
    header["shard_counts"] += np.bincount(shard[keep], minlength=len(names)).tolist()
    kept_images = n_images[keep].astype(np.int64)
    begins = header["images"] + np.cumsum(kept_images) - kept_images
    shown = np.repeat(keep, n_images)
    header["samples"] += int(keep.sum())
    header["images"] += int(kept_images.sum())
    packed = (shard[keep] + first) << 32 | rows[keep]
    places = (packed, table["offset"].to_numpy()[keep], table["length"].to_numpy()[keep], begins)
    return {
        "places": np.stack(places, axis=1),
        "pictures": np.stack([pictures[name].to_numpy()[shown] for name in ("offset", "length")], axis=1),
        "tokens": table["text_tokens"].to_numpy()[keep],
        "tiles": pc.fill_null(table["tiles"], 0).to_numpy()[keep],
    }


def _codes(column: pa.ChunkedArray, names: list[str]) -> npt.NDArray[Any]:
    """Number of each value in the list of names; -1 where it is not there."""
    codes = pc.fill_null(pc.index_in(column, pa.array(names, pa.string())), -1)
    return np.asarray(codes.to_numpy())
