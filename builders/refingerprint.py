"""Builds of an earlier release, written anew from their own shards: nobody reads 10 TB of raw files again.

Every build whose pictures or hashes were made by earlier rules is read from its shards, its pictures go through
today's picture door, and shards, manifest and `build.json` are written as a build does. What stays: ids, texts, the
publisher's digests, rejects, the list of raw files. What the shards do not hold cannot come back: rows that were
rejected then (a CMYK picture, for instance) stay rejected, and a corpus of `builders.corpus`, whose pictures were not
stored, is named and must be read in again (exit code 4). Proof and selections rest on the old build: run
`manifests.prove` and the filters again.
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import orjson

from builders import kit
from builders.engine.source import StoredSample, told
from manifests.catalog import part_kind
from medgpt.arguments import command_parser
from medgpt.engines import add_engine, choose_engine
from medgpt.errors import DAMAGED, DONE, NOT_COMPARED, UserError, run, worst
from medgpt.messages import complain

RETIRED = ("animated_image", "cmyk_image", "format_mismatch", "sixteen_bit_image")
"""Reasons of earlier releases: pictures that are read today, if the raw tree is built again."""

_EPILOG = """
The folder needs room for one more copy of its largest build. Killed and run again, it goes on with the units that are
missing.

example:
  python -m builders.refingerprint data --dry-run
  python -m builders.refingerprint data --workers 8
"""


def make_source(params: kit.Params) -> kit.Source:
    """The source that a build is; workers make it again from the same `params`."""
    record = _record(Path(params["folder"]))
    said = record["source"]
    return kit.Source(
        **{name: said[name] for name in ("name", "title", "homepage", "revision", "license", "task", "modality")},
        access=said["access"],
        stage=said["stage"],
        splits={split: counts["role"] for split, counts in record["counts"]["by_split"].items()},
        obtain="",
        plan=_plan,
        read=_read,
        published=lambda params: {},
        variant=lambda params: record["build"].partition(".")[2],
        reasons=dict.fromkeys(record["counts"]["rejects"], "as built"),
        module="builders.refingerprint",
    )


def _record(folder: Path) -> dict[str, Any]:
    """What `build.json` says. Raises: `UserError` where that was altered."""
    from medgpt.digest import build_root, sealed

    with told(str(folder), UserError):
        record: dict[str, Any] = orjson.loads((folder / "build.json").read_bytes())
        # In the first release the root covered all else.
        if sealed(record) != record and build_root(record, {"root"}) != record["root"]:
            raise UserError(f"{folder}/build.json: altered; restore it, or build from the raw files")
    return record


def _plan(raw: Path, params: kit.Params) -> Iterator[kit.Unit]:
    for unit in _record(raw)["units"]:
        parts = {_kind(part["file"]): part["file"] for part in unit["parts"]}
        inputs = tuple(sorted(file["file"] for file in (*unit["shards"], *unit["parts"])))
        yield kit.Unit(unit["unit"], unit["split"], unit["role"], unit["read"], parts, inputs)


def _kind(part: str) -> str:
    """Which rows a part of this or an earlier layout holds."""
    return "images" if part.endswith(".images.parquet") else part_kind(part)


def _rows(raw: Path, part: str | None) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    if part is None:
        return []
    names = pq.read_schema(raw / part).names
    rows: list[dict[str, Any]] = pq.read_table(raw / part, columns=[n for n in names if n != "thumbnail"]).to_pylist()
    return rows


def _read(raw: Path, unit: kit.Unit, params: kit.Params) -> Iterator[kit.Sample | kit.Reject]:
    import pyarrow as pa

    from shards.reader import checked_row

    images: dict[str, list[dict[str, Any]]] = {}
    for row in _rows(raw, unit.payload.get("images")):
        images.setdefault(row["sample_id"], []).append(row)
    shard, file = "", None
    with ExitStack() as opened:
        for row in _rows(raw, unit.payload.get("samples")):
            if row["shard"] != shard:
                opened.close()
                shard = row["shard"]
                path = raw / "shards" / shard
                arrow = path.suffix == ".arrow"
                file = pa.ipc.open_file(str(path)) if arrow else opened.enter_context(path.open("rb"))
            record = checked_row(file, row["offset"]) if arrow else orjson.loads(_bytes(file, row))
            yield _sample(record, row, images.get(row["sample_id"], []), file)
    for row in _rows(raw, unit.payload.get("rejects")):
        if row["reason"] in RETIRED:
            detail = f"{row['reason']}: read today, from the raw files"
            yield kit.Reject(row["file"], row["row"], "unsupported_image", detail)
        else:
            yield kit.Reject(row["file"], row["row"], row["reason"], row["detail"])


def _bytes(file: Any, row: Mapping[str, Any]) -> bytes:
    return os.pread(file.fileno(), row["length"], row["offset"])


def _sample(record: dict[str, Any], row: dict[str, Any], images: list[dict[str, Any]], file: Any) -> StoredSample:
    return StoredSample(
        key=record["id"].split("/", 2)[2],
        messages=record["messages"],
        file=row["file"],
        row=row["row"],
        question=record["question"],
        options=None if record["options"] is None else [(o["label"], o["text"]) for o in record["options"]],
        answer=record["answer"],
        images=[_image(image, file) for image in images],
        group=record["group"],
        subset=record["subset"],
        task=record["task"],
        license=record["license"],
    )


def _image(row: dict[str, Any], file: Any) -> kit.Image:
    named = {name: row[name] for name in ("image_id", "subject_id", "study_id", "view", "relation")}
    place = f"shards/{row['shard']} at byte {row['offset']}"
    return kit.Image(file=place, read=lambda: _bytes(file, row), sha256=row["sha256"], **named)


def up_to_date(record: Mapping[str, Any]) -> bool:
    """Whether a build was made by today's rules."""
    from builders.engine.unit import ENGINE_VERSION, RECIPE
    from manifests.parts import MANIFEST_VERSION

    made = record["fingerprint_recipe"], record["manifest_version"], record.get("versions", {}).get("engine")
    return made == (RECIPE, MANIFEST_VERSION, ENGINE_VERSION)


def refingerprint(folder: Path, workers: int, *, progress: bool = False) -> dict[str, Any]:
    """Write the build in `folder` anew; returns what its `build.json` then says.

    The old build is replaced when the new one is whole and every file that it was made from had its digest. Raises:
    `UserError` for a build that was altered, or whose pictures are not in its shards.
    """
    from builders.engine.loop import BuildOptions, make_plan
    from builders.engine.loop import run as build
    from medgpt.atomic import write_atomic
    from medgpt.digest import INPUTS_FILE, sealed

    old = _record(folder)
    if not old["metadata_only"] and any(unit["images"] and not _has_tar(unit) for unit in old["units"]):
        raise UserError(f"{folder}: its pictures were not stored; read the corpus in again (builders.corpus)")
    aside = _aside(folder)
    params = {"folder": str(folder), "no_images": old["metadata_only"], "split": None, "licenses": None, "frames": None}
    options = BuildOptions(folder, aside, params, workers, max_damaged=old["counts"]["read"], progress=progress)
    source = make_source(params)
    plan = make_plan(source, options)
    made = build(source, options, plan)
    _check_digests(folder, old, plan.target)
    said = {name: old[name] for name in ("parameters", "limit", "published", "source")}
    said["versions"] = made["versions"] | {"source": old.get("versions", made["versions"])["source"]}
    said |= {"filter_wanted": old.get("filter_wanted", False), "gaps": old.get("gaps", [])}
    if (folder / INPUTS_FILE).is_file():  # the first release kept no list of raw files: the old build is the input
        said["inputs"] = old["inputs"]
        write_atomic(plan.target / INPUTS_FILE, (folder / INPUTS_FILE).read_bytes())
    document = sealed(made | said)
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    write_atomic(plan.target / "build.json", data)
    folder.rename(aside / _BEFORE)
    plan.target.rename(folder)
    shutil.rmtree(aside)
    return document


_BEFORE = "before"


def _aside(folder: Path) -> Path:
    return folder.parent / ".resume" / f"{folder.name}.anew"


def _mend(place: Path) -> None:
    """Finish a replacement that was killed between its two renames."""
    for before in sorted(place.rglob(f".resume/*.anew/{_BEFORE}")):
        aside = before.parent
        folder = aside.parents[1] / aside.name.removesuffix(".anew")
        if not folder.exists():
            [made] = [path.parent for path in aside.glob("*/build.json") if path.parent != before]
            made.rename(folder)
        shutil.rmtree(aside)


def _has_tar(unit: Mapping[str, Any]) -> bool:
    return any(shard["file"].endswith(".tar") for shard in unit["shards"])


def _check_digests(folder: Path, old: Mapping[str, Any], target: Path) -> None:
    """Compare what was read with what the old `build.json` says. Raises: `UserError` for a file that was altered."""
    import pyarrow.parquet as pq

    from medgpt.digest import INPUTS_FILE

    listed = {file["file"]: file["sha256"] for unit in old["units"] for file in (*unit["shards"], *unit["parts"])}
    for row in pq.read_table(target / INPUTS_FILE).to_pylist():
        if row["file"] in listed and row["sha256"] != bytes.fromhex(listed[row["file"]]):
            shutil.rmtree(_aside(folder))
            raise UserError(f"{folder}/{row['file']}: altered; restore it (shards.verify), or build from the raw files")


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. 0: all builds are of today's rules; 1: run again; 2: wrong usage; 4: some could not be redone."""
    parser = command_parser("builders.refingerprint", str(__doc__), _EPILOG)
    parser.add_argument("data", type=Path, metavar="DATA", help="a build, or any folder above builds")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="default: one a core")
    add_engine(parser)
    parser.add_argument("--dry-run", action="store_true", help="say what would be written anew, write nothing")
    args = parser.parse_args(arguments)
    choose_engine(args)
    if not args.data.is_dir():
        parser.error(f"{args.data}: no such folder")
    if not args.dry_run:
        _mend(args.data)
    folders = [path.parent for path in sorted(args.data.rglob("build.json")) if ".resume" not in path.parts]
    if not folders:
        parser.error(f"{args.data}: no build.json below; is this the folder of finished builds?")
    codes = []
    for folder in folders:
        try:
            record = _record(folder)
            if up_to_date(record):
                print(f"{folder}: up to date")
            elif args.dry_run:
                size = sum(shard["bytes"] for unit in record["units"] for shard in unit["shards"])
                print(f"{folder}: to be written anew, {record['counts']['kept']:,} samples, {size:,} bytes of shards")
            else:
                made = refingerprint(folder, args.workers, progress=True)
                lost = record["counts"]["kept"] - made["counts"]["kept"]
                print(f"{folder}: {made['counts']['kept']:,} samples written anew, {lost:,} rejected now")
                codes.append(DAMAGED if lost else DONE)
        except UserError as error:
            complain(f"{folder}: not written anew: {error}" if str(folder) not in str(error) else error)
            codes.append(NOT_COMPARED)
    if DONE in codes or DAMAGED in codes:
        print("their proof and selections rest on the builds before: run the filters and manifests.prove again")
    return worst(codes)


if __name__ == "__main__":
    raise SystemExit(main())
