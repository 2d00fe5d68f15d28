"""`python -m shards.export DATA --format hf --out DIR`: certified training samples as other trainers read them.

What is exported is what may be trained on: train samples of certified builds, less what the proof excludes and what
filters and licences leave out. A build is cut into pieces by bytes alone, each of which a job writes, so the files are
the same whatever the workers or the engine. DIR/.export has what a later run goes on from, and may be deleted once the
export is done.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgpt.arguments import Tree, command_parser
from medgpt.engines import add_engine, choose_engine
from medgpt.errors import DONE, NOT_COMPARED, UserError, run
from medgpt.messages import complain
from medgpt.private import CREDENTIALED, keep_private, make_folder
from medgpt.tables import table
from shards.options import add_trust_options

if TYPE_CHECKING:
    from manifests.catalog import LoadedBuild
    from shards.certified import SourceSamples
    from shards.exports.formats import Format
    from shards.exports.rows import Piece
    from shards.storage import Storage

VERSION = 1
"""Raised when the same samples give other bytes."""
NAMES = ("parquet", "hf", "llava", "sharegpt", "ms-swift", "llama-factory", "trl", "internvl", "energon", "mds")
WORK, REFUSED, PICTURES = ".export", "not_exported.jsonl", "images"
_SHOWN = 20
_SHOWS = re.compile(rb'"images?":')
"""In a row of JSON that names pictures, and in no other: within a text, quotes are escaped."""


@dataclass(frozen=True)
class Exporter:
    """Writes pieces, in whatever process; picklable."""

    sources: Mapping[str, SourceSamples]
    storage: Storage
    out: Path
    format: str
    local_only: bool
    pictures: bool
    """Whether any sample of the export has one: else no column is kept for them."""

    @property
    def kind(self) -> Format:
        """What rows and files are like. Without pictures, TRL trains language models, whose templates want one text."""
        from shards.exports.formats import FORMATS

        return FORMATS["hf" if self.format == "trl" and not self.pictures else self.format]

    def ledger(self, piece: Piece) -> Path:
        """Where is written what became of a piece, once its files are on disk."""
        return self.out / WORK / "pieces" / f"{piece.build}-{piece.number:05d}.json"

    def file(self, piece: Piece) -> Path:
        """A piece's own file: part of the export, or of a file that is joined."""
        from shards.exports.formats import DATA

        folder = self.out / WORK / "parts" if self.kind.joined else self.out / DATA
        return folder / piece.build / f"{piece.number:05d}{self.kind.suffix}"

    def pictures_of(self, piece: Piece) -> Path:
        """The folder of a piece's pictures, where they are files."""
        return self.out / PICTURES / piece.build / f"{piece.number:05d}"

    def joined(self, build: str) -> list[Any] | None:
        """What was said of a build's one file, if it is there in full size."""
        import orjson

        ledger = self.out / WORK / "joined" / f"{build}.json"
        said: list[Any] | None = orjson.loads(ledger.read_bytes()) if ledger.is_file() else None
        return said if said and _has(self.out / said[0], said[1]) else None

    def done(self, piece: Piece) -> dict[str, Any] | None:
        """What the ledger says of a piece, if all that it names is there."""
        import orjson

        if not self.ledger(piece).is_file():
            return None
        said: dict[str, Any] = orjson.loads(self.ledger(piece).read_bytes())
        name, size, _, samples = said["file"]
        there = not samples or _has(self.out / name, size) or bool(self.kind.joined and self.joined(piece.build))
        if there and said["pictures"] and self.kind.pictures_as_files:
            folder = self.pictures_of(piece)
            there = folder.is_dir() and sum(1 for _ in folder.iterdir()) == said["pictures"]
        return said if there else None

    def __call__(self, piece: Piece) -> dict[str, Any]:
        """Write a piece; what its ledger says. Raises: `UserError`, `OSError`."""
        import orjson

        from medgpt.atomic import AtomicFile, sync_folder, write_atomic, writer
        from shards.exports.rows import Refused, in_shown_order, read

        if self.local_only:
            keep_private(CREDENTIALED)
        kind, path = self.kind, self.file(piece)
        beside = self.pictures_of(piece)
        place, staging = beside.relative_to(self.out), beside.with_name(f"{beside.name}{writer}.tmp")
        licenses: Counter[str] = Counter()
        refused: list[dict[str, str]] = []
        pictures = 0

        def rows() -> Iterator[Any]:
            nonlocal pictures
            for number, stored in enumerate(read(self.sources[piece.build], self.storage, piece)):
                record = stored.record
                try:
                    if record["access"] == CREDENTIALED and not self.local_only:
                        raise Refused("credentialed: only with --local-only")
                    row = in_shown_order(stored)
                    names = [f"{number:06d}.{at}.{name}" for at, name in enumerate(row.kinds)]
                    found = kind.row(row, [f"{place}/{name}" for name in names])
                except Refused as why:
                    refused.append({"build": piece.build, "sample": record["id"], "why": str(why)})
                    continue
                if kind.pictures_as_files:
                    for name, data in zip(names, row.images, strict=True):
                        (staging / name).write_bytes(data)
                licenses[record["license"]] += 1
                pictures += len(row.images)
                yield found

        make_folder(path.parent)
        files_apart = kind.pictures_as_files and piece.pictures > 0
        if files_apart:
            shutil.rmtree(staging, ignore_errors=True)
            make_folder(staging)
        with AtomicFile(path) as file:
            kind.write(file, rows(), {**kind.options, "pictures": self.pictures})
        if files_apart:
            os.sync()  # once for some thousand pictures, where fsync would wait for each
            shutil.rmtree(beside, ignore_errors=True)  # of a run that was killed before its ledger, or not whole
            staging.rename(beside)
            sync_folder(beside.parent)
        samples = licenses.total()
        if not samples:
            for made in path.parent.glob(f"{path.stem}.*"):
                made.unlink()
        written = [path.relative_to(self.out).as_posix(), file.size, file.sha256.hex(), samples]
        done = {"samples": samples, "pictures": pictures, "licenses": licenses, "refused": refused, "file": written}
        make_folder(self.ledger(piece).parent)
        write_atomic(self.ledger(piece), orjson.dumps(done, option=orjson.OPT_SORT_KEYS))
        return done


@dataclass(frozen=True)
class Plan:
    """What an export is made of, before anything is written."""

    certified: Any
    builds: Mapping[str, LoadedBuild]
    """Those that are exported."""
    left_out: list[str]
    """Credentialed builds that may not leave."""
    pieces: list[Piece]
    request: dict[str, Any]
    """What decides every byte of the export."""

    def rows(self) -> list[tuple[Any, ...]]:
        """(build, samples, pictures, bytes as stored) of every build."""
        found = []
        for name in self.builds:
            mine = [piece for piece in self.pieces if piece.build == name]
            samples = sum(piece.last - piece.first for piece in mine)
            found.append((name, samples, sum(p.pictures for p in mine), sum(p.size for p in mine)))
        return found


def plan(options: argparse.Namespace) -> Plan:
    """Which pieces of which builds. Raises: `UserError` (nothing certified, nothing left, an unknown build)."""
    import pyarrow as pa

    from manifests.catalog import load_builds
    from manifests.proof.trust import Trust
    from shards.certified import load_certified
    from shards.exports.rows import pieces

    certified = load_certified(
        options.data, stage=options.stage, licenses=options.licenses, trust=Trust.of(options), quiet=options.json
    )
    if unknown := set(options.only or ()) - set(certified.sources):
        raise UserError(
            f"{', '.join(sorted(unknown))}: no certified train samples; there are {', '.join(certified.sources)}"
        )
    wanted = [name for name in certified.present if not options.only or name in options.only]
    loaded = {build.record["build"]: build for build in load_builds(options.data)}
    kept_back = {name for name in wanted if loaded[name].record["source"]["access"] == CREDENTIALED}
    left_out = [] if options.local_only else sorted(kept_back)
    builds = {name: loaded[name] for name in wanted if name not in left_out}
    if not builds:
        why = "all are credentialed; --local-only exports them for this machine" if left_out else "none is left"
        raise UserError(f"{options.data}: no samples to export, {why}")
    cut = [piece for name in builds for piece in pieces(name, certified.sources[name])]
    request = {
        "version": VERSION, "format": options.format, "certified": certified.digest, "builds": list(builds),
        "local_only": options.local_only, "pyarrow": pa.__version__,
    }  # fmt: skip
    return Plan(certified, builds, left_out, cut, request)


def export(found: Plan, out: Path, workers: int, *, quiet: bool = False) -> dict[str, Any]:
    """Write an export, or what is missing of it, into `out`; returns counts, and what was not exported.

    Raises: `UserError` (`out` holds something else, a shard is altered), `OSError`.
    """
    import orjson
    from tqdm import tqdm

    from medgpt.atomic import held, write_atomic
    from medgpt.engines import in_this_process, run_jobs
    from shards.exports.card import write_cards
    from shards.exports.formats import Built
    from shards.storage import Storage

    record = orjson.dumps(found.request, option=orjson.OPT_INDENT_2)
    before = out / WORK / "request.json"
    if out.exists() and (not out.is_dir() or ({WORK} != {*os.listdir(out), WORK} and not before.is_file())):  # noqa: PTH208
        raise UserError(f"{out}: is there already and is no unfinished export; name a new folder")
    make_folder(before.parent)
    with held(out / WORK / "lock", UserError(f"{out}: another process exports into it; wait for it")):
        if before.is_file() and before.read_bytes() != record:
            raise UserError(f"{out}: an export of other samples, or in another format; name a new folder")
        write_atomic(before, record)
        sources = {name: found.certified.sources[name] for name in found.builds}
        storage = Storage(found.certified.data)
        work = Exporter(
            sources, storage, out, found.request["format"], found.request["local_only"],
            any(piece.pictures for piece in found.pieces),
        )  # fmt: skip
        done = {piece: said for piece in found.pieces if (said := work.done(piece)) is not None}
        left = [piece for piece in found.pieces if piece not in done]
        samples = sum(piece.last - piece.first for piece in found.pieces)
        with tqdm(total=samples, desc="exporting", unit=" samples", disable=True if quiet else None) as bar:
            bar.update(sum(piece.last - piece.first for piece in done))
            here = ((piece, work(piece)) for piece in left)
            alone = in_this_process(workers, len(left))
            jobs = here if alone else run_jobs(work, left, workers, place=out / WORK, declared=_version)
            for piece, result in jobs:
                done[piece] = result
                bar.update(piece.last - piece.first)
        built = []
        for name in found.builds:
            mine = [(piece, done[piece]) for piece in found.pieces if piece.build == name]
            files = _files(work, name, mine)
            counts = [sum(result[what] for _, result in mine) for what in ("samples", "pictures")]
            if files:
                built.append(Built(name, files, *counts))
        work.kind.beside(out, built)
        refused = [one for piece in found.pieces for one in done[piece]["refused"]]
        if refused:
            write_atomic(out / REFUSED, b"".join(orjson.dumps(one) + b"\n" for one in refused))
        licenses: Counter[str] = Counter()
        for result in done.values():
            licenses.update(result["licenses"])
        write_cards(found, out, built, licenses, refused)
    return {
        "format": work.format, "out": str(out), "certified": found.certified.digest,
        "builds": [
            {"build": b.name, "samples": b.samples, "pictures": b.pictures, "bytes": sum(f.size for f in b.files)}
            for b in built
        ],
        "left_out": found.left_out, "not_exported": refused,
    }  # fmt: skip


def _has(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _version() -> int:
    return VERSION


def _files(work: Exporter, build: str, mine: Sequence[tuple[Piece, dict[str, Any]]]) -> list[Any]:
    """The files of a build that have samples; those of its pieces are joined where the format wants one."""
    import orjson

    from medgpt.atomic import AtomicFile, write_atomic
    from shards.exports.formats import DATA, Written

    kind = work.kind
    written = [Written(*result["file"]) for _, result in mine if result["samples"]]
    if not kind.joined or not written:
        return written
    if said := work.joined(build):
        return [Written(*said)]
    parts = [work.out / part.file for part in written]
    path = work.out / DATA / f"{build}{kind.suffix}"
    make_folder(path.parent)
    begin, between, end = (b"[\n", b",\n", b"\n]\n") if kind.joined == "array" else (b"", b"\n", b"\n")
    with AtomicFile(path) as file:
        for line in _lines(parts, any(result["pictures"] for _, result in mine)):
            file.write((between if file.size else begin) + line[:-1])
        file.write(end)
    name = path.relative_to(work.out).as_posix()
    joined = Written(name, file.size, file.sha256.hex(), sum(part.samples for part in written))
    make_folder(work.out / WORK / "joined")
    write_atomic(work.out / WORK / "joined" / f"{build}.json", orjson.dumps(list(joined)))
    shutil.rmtree(work.out / WORK / "parts" / build)
    return [joined]


def _lines(parts: Sequence[Path], pictures: bool) -> Iterator[bytes]:
    """The rows of a build in order, but for the first that has pictures, which stands before all others.

    `datasets` takes the columns of JSON Lines from the first megabytes, and refuses a column that comes later.
    """
    first = next((line for line in _all_lines(parts) if _SHOWS.search(line)), None) if pictures else None
    if first is not None:
        yield first
    yield from (line for line in _all_lines(parts) if line != first)


def _all_lines(parts: Sequence[Path]) -> Iterator[bytes]:
    for part in parts:
        with part.open("rb") as lines:
            yield from lines


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns 0, 1 if it did not finish, 2 for what cannot be exported, 4 if something was left out."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.out is None and not options.dry_run:
        parser.error("--out DIR is where it is written; --dry-run writes nothing")
    choose_engine(options)
    found = plan(options)
    if options.push:
        _refuse_push(found)
    if options.dry_run:
        rows = found.rows()
        said = {
            "format": options.format, "certified": found.certified.digest, "pieces": len(found.pieces),
            "builds": [dict(zip(("build", "samples", "pictures", "bytes"), row, strict=True)) for row in rows],
            "left_out": found.left_out, "not_exported": [],
        }  # fmt: skip
    else:
        said = export(found, options.out, options.workers, quiet=options.json)
        if options.push:
            from shards.hub import push

            said["pushed"] = push(options.out, options.push, WORK, quiet=options.json)
    if options.json:
        print(json.dumps(said, indent=2))
    else:
        _print(said, None if options.dry_run else options.out)
    return NOT_COMPARED if said["left_out"] or said["not_exported"] else DONE


def _refuse_push(found: Plan) -> None:
    """What a publisher gives out on terms of its own is not given on. Raises: `UserError`."""
    held = {
        name: access for name, build in found.builds.items() if (access := build.record["source"]["access"]) != "open"
    }
    if held:
        named = ", ".join(f"{name} ({access})" for name, access in held.items())
        raise UserError(f"--push: {named}: not open, so not passed on; name the others with --only")


def _print(said: Mapping[str, Any], out: Path | None) -> None:
    rows = [tuple(build.values()) for build in said["builds"]]
    total = [sum(build[what] for build in said["builds"]) for what in ("samples", "pictures", "bytes")]
    print(table(("build", "samples", "pictures", "bytes"), [*rows, ("in all", *total)]))
    for name in said["left_out"]:
        complain(f"{name}: credentialed, not exported; --local-only exports it for this machine alone")
    for one in said["not_exported"][:_SHOWN]:
        complain(f"{one['build']}: {one['sample']} not exported, {one['why']}")
    if len(said["not_exported"]) > _SHOWN:
        complain(f"{len(said['not_exported']):,} samples were not exported; {REFUSED} names all")
    print(
        "nothing is written (--dry-run); bytes are those of the shards"
        if out is None
        else f"{out}/README.md says what it is"
    )
    if "pushed" in said:
        print(f"pushed: {said['pushed']}")


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "shards.export",
        "Write certified training samples in a format that another trainer reads, with a card, Croissant metadata and "
        "the certificate. Exit code: 0; 1 if it did not finish (run it again, it goes on); 2 for what cannot be "
        "exported; 4 if something was left out, which is named: a credentialed source, a sample that the format cannot "
        "hold.",
        "example: python -m shards.export data --format hf --out exports/hf --only slake medqa --accept-incomplete",
        tree=Tree(shards=True),
    )
    add = parser.add_argument
    add("data", type=Path, metavar="DATA", help="folder of builds, certified by manifests.prove")
    add("--format", required=True, choices=NAMES)
    add("--out", type=Path, metavar="DIR", help="new folder, or that of an unfinished export")
    add("--only", nargs="+", action="extend", metavar="BUILD", help="only these builds")
    add("--stage", choices=("pretrain", "midtrain", "instruct"), help="only builds of this stage of the recipe")
    add("--licenses", nargs="+", action="extend", metavar="NAME", help="only samples under these licences")
    add("--local-only", action="store_true", help="export credentialed sources, too: files are yours alone (0600)")
    add("--push", metavar="OWNER/NAME", help="then upload it to this dataset repository (private if it is made)")
    add("--dry-run", action="store_true", help="say how many samples, pictures and bytes; write nothing")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="processes that write")
    add("--json", action="store_true", help="print JSON")
    add_engine(parser)
    add_trust_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
