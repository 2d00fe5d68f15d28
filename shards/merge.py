"""`python -m medgpt merge A B --out C`: builds of several sites under one root, after checks.

Builds go to `C/built`, what filters decided and scored to `C/filtered` and `C/scores`; files are hard links where that
can be, else copies. Not taken over are a site's proof, which says nothing of the other's builds, and what may be made
again at any time (`.resume`, `.streams`, the catalogue). C appears when all is in it.
"""

import errno
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgpt.arguments import command_parser
from medgpt.errors import DONE, USAGE, UserError, run
from medgpt.messages import complain
from medgpt.tables import table

_NOT_LINKED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)
"""What a file system answers that a hard link cannot be there."""
_SHOWN = 20


@dataclass(frozen=True)
class Site:
    """A build at its site."""

    data: Path
    folder: Path
    record: dict[str, Any]

    @property
    def name(self) -> str:
        """The build's name."""
        return str(self.record["build"])

    def declared(self) -> Iterator[tuple[str, Any]]:
        """The declared versions that all builds of one root must share, those of one source among them."""
        for name in ("fingerprint_recipe", "schema_version", "manifest_version"):
            yield name, self.record[name]
        yield "engine version", self.record["versions"]["engine"]
        yield f"version of {self.record['source']['name']}", self.record["versions"]["source"]

    def files(self) -> Iterator[tuple[str, Path, str | None]]:
        """(place below C, file, digest where `build.json` has one) of the build and of what filters say of it.

        Thumbnails may have been left out of what was shared.
        """
        from manifests.selections import BUILT, FILTERED, data_folder
        from medgpt.digest import INPUTS_FILE
        from medgpt.layout import BUILD_FILE

        built, digests = f"{BUILT}/{self.name}", dict.fromkeys((BUILD_FILE, INPUTS_FILE))
        for unit in self.record["units"]:
            digests |= {file["file"]: file["sha256"] for file in (*unit["shards"], *unit["parts"])}
        yield from ((f"{built}/{f}", self.folder / f, d) for f, d in digests.items() if (self.folder / f).is_file())
        for place in sorted({self.data.absolute(), data_folder(self.folder.parent)}):
            for kind in (FILTERED, "scores"):
                for path in sorted((*(place / kind).glob(self.name), *(place / kind).glob(f"{self.name}@*"))):
                    for file in sorted(path.rglob("*")):
                        if file.is_file():
                            yield file.relative_to(place).as_posix(), file, None


def conflicts(sites: Sequence[Site], verify: bool) -> Iterator[str]:
    """Why these builds cannot lie under one root, a line each."""
    from manifests.catalog import open_duckdb, part_kind, sql_text
    from medgpt.digest import file_sha256
    from shards.verify import verify_build

    said: dict[str, tuple[Any, Site]] = {}
    roots: dict[str, Site] = {}
    chosen: dict[str, Path] = {}
    for site in sites:
        for name, value in site.declared():
            first, other = said.setdefault(name, (value, site))
            if value != first:
                yield f"{site.folder}: {name} is {value}, where {other.folder} has {first}; build the older one again"
        if (other := roots.setdefault(site.name, site)).record["root"] != site.record["root"]:
            yield f"{site.folder}: {other.folder} holds another build of the same name; leave one of them out"
        for place, file, _ in site.files():
            if place.endswith("/selection.parquet"):
                first_file = chosen.setdefault(place, file)
                if first_file != file and file_sha256(first_file) != file_sha256(file):
                    yield f"{file}: another selection than {first_file}; delete the folder of one of them"
        if verify:
            yield from (f"{site.folder.parent}/{fault}" for fault in verify_build(site.folder))
    parts = [
        str((site.folder / part["file"]).absolute())
        for site in roots.values()
        for unit in site.record["units"]
        for part in unit["parts"]
        if part_kind(part["file"]) == "samples"
    ]
    if not parts:
        return
    read = f"read_parquet([{', '.join(map(sql_text, parts))}], hive_partitioning = false)"
    # Variants of a source show the same samples; all else that has one id twice is a mistake.
    query = f"""
        SELECT sample_id, string_agg(DISTINCT build, ', ' ORDER BY build) FROM {read}
        WHERE hash(sample_id) IN (SELECT hash(sample_id) AS number FROM {read} GROUP BY number HAVING count(*) > 1)
        GROUP BY sample_id HAVING count(*) > count(DISTINCT build) OR count(DISTINCT source) > 1
        ORDER BY sample_id LIMIT {_SHOWN}
    """  # noqa: S608 - paths, in quotes
    with open_duckdb() as connection:
        for sample, builds in connection.execute(query).fetchall():
            yield f"{sample}: the same sample id twice, in {builds}; leave one of them out"


@contextmanager
def _staged(out: Path) -> Iterator[Path]:
    """A folder that is `out` when the context is left; nothing is there where it fails. Raises: `UserError`."""
    from medgpt.atomic import held, sync_folder
    from medgpt.private import make_folder

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: is there already; name a new folder")
    aside = out.absolute().with_name(f".{out.name}.merge")
    make_folder(aside)
    with held(aside / "lock", UserError(f"{out}: another process is merging into it; wait for it")):
        try:
            staging = aside / "root"
            if staging.exists():  # by a run that was killed
                shutil.rmtree(staging)
            make_folder(staging)
            yield staging
            staging.rename(out)
            sync_folder(aside.parent)
        finally:
            shutil.rmtree(aside)


def _bring(file: Path, target: Path, sha256: str | None, copy: bool) -> bool:
    """Link or copy a file; whether it was linked. Raises: `UserError` for a copy with another digest, `OSError`."""
    from medgpt.atomic import AtomicFile
    from medgpt.private import is_private, make_folder

    make_folder(target.parent)
    # A link has the rights of the file: one that others may read is no place for what stands beside patients.
    if not copy and not (is_private() and file.stat().st_mode & 0o077):
        try:
            os.link(file.resolve(), target)
        except OSError as error:
            if error.errno not in _NOT_LINKED:
                raise
        else:
            return True
    with file.open("rb") as source, AtomicFile(target) as made:
        shutil.copyfileobj(source, made, 1 << 22)
        if sha256 not in (None, made.sha256.hex()):
            raise UserError(f"{file}: another content than {file.parents[1]}/build.json says; restore it")
    return False


def merge(sites: Sequence[Site], out: Path, *, copy: bool = False) -> list[dict[str, Any]]:
    """Bring builds without conflicts under `out`; returns a row a build. Raises: `UserError`, `OSError`."""
    rows, there = [], set[str]()
    with _staged(out) as staging:
        for site in sites:
            row = {"build": site.name, "from": str(site.data), "samples": site.record["counts"]["kept"]}
            if f"built/{site.name}/build.json" in there:  # the same build at both sites
                row = {"build": site.name, "from": str(site.data), "samples": 0}
            row |= {"files": 0, "linked": 0, "bytes": 0}
            rows.append(row)
            for place, file, sha256 in site.files():
                if place not in there:
                    there.add(place)
                    row["linked"] += _bring(file, staging / place, sha256, copy)
                    row["files"] += 1
                    row["bytes"] += file.stat().st_size
    return rows


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0: merged, 2: conflicts (a line each), or wrong usage."""
    parser = command_parser(
        "shards.merge",
        "Bring builds of several sites under one root: declared versions, names, sample ids and digests are compared "
        "first. Prove anew afterwards.",
        "example: python -m medgpt merge site_a/data site_b/data --out data --dry-run",
    )
    add = parser.add_argument
    add("data", nargs="+", type=Path, metavar="DATA", help="folders of builds, two or more")
    add("--out", type=Path, required=True, metavar="DIR", help="the new root; must not be there yet")
    add("--copy", action="store_true", help="copies in any case (default: hard links where the file system can)")
    add("--no-verify", action="store_true", help="do not hash shards and manifests first; said in the summary")
    add("--dry-run", action="store_true", help="check and say what would be brought, write nothing")
    add("--json", action="store_true", help="print JSON")
    args = parser.parse_args(arguments)
    if len(args.data) < 2:
        parser.error("name two folders of builds or more")
    from manifests.catalog import load_builds

    sites, found = [], []
    for data in args.data:
        if args.out.resolve() == data.resolve() or data.resolve() in args.out.resolve().parents:
            parser.error(f"--out {args.out} lies in {data}; name a folder beside it")
        try:
            sites += [Site(data, build.folder, build.record) for build in load_builds(data)]
        except UserError as error:
            found.append(str(error))
    found += conflicts(sites, not args.no_verify)
    if found:
        for line in found:
            complain(line)
        complain(f"nothing was written: {len(found)} conflicts")
        return USAGE
    if args.dry_run:
        rows = [
            {"build": site.name, "from": str(site.data), "samples": site.record["counts"]["kept"]} for site in sites
        ]
    else:
        rows = merge(sites, args.out, copy=args.copy)
    said = {"out": str(args.out), "written": not args.dry_run, "verified": not args.no_verify, "builds": rows}
    if args.json:
        print(json.dumps(said))
        return DONE
    print(table(tuple(rows[0]), [tuple(row.values()) for row in rows]))
    samples = sum(row["samples"] for row in rows)
    print(f"\n{args.out}: {len({row['build'] for row in rows})} builds, {samples:,} samples" + (
        "; nothing written (--dry-run)" if args.dry_run
        else f"; compare them with one another: python -m manifests.prove {args.out}"
    ))  # fmt: skip
    if args.no_verify:
        print("shards and manifests were NOT hashed (--no-verify)")
    return DONE


if __name__ == "__main__":
    raise SystemExit(main(None))
