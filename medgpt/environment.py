"""What runs here: installed packages with version, licence and requirements, held against their files and a lock.

`--files` hashes every installed file and compares it with what its package's RECORD says of it. The list of software
(SBOM) is CycloneDX 1.6. No advisory is looked up, that needs the network: give the list to a scanner of your own.

Exit codes: 1 if a file or a version differs, 4 if something could not be compared, as `medgpt.errors` says.
"""

import base64
import csv
import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from medgpt.arguments import command_parser
from medgpt.atomic import write_atomic
from medgpt.digest import file_sha256
from medgpt.errors import DONE, NOT_COMPARED, NOT_FINISHED, UserError, run, worst
from medgpt.tables import table

OURS = "medgpt-oss"
EXAMPLE = "example: python -m medgpt.environment --files --lock locks/dev.txt --sbom sbom.json"
_LONGEST_LICENCE = 60
"""Some packages put a licence's whole text where its name belongs."""


@dataclass(frozen=True)
class Package:
    """An installed package."""

    name: str
    version: str
    licence: str | None
    """As the package states it: an SPDX expression (`spdx`), else its classifiers, else a short text."""
    spdx: bool
    needs: tuple[str, ...]
    """Names of the packages that it requires here, without extras, in order."""
    record_sha256: str | None
    """SHA-256 of its list of files and their digests: the same for the same wheel on the same kind of machine."""
    found: Distribution


def installed() -> list[Package]:
    """Every package that this Python finds, by name; of two by one name the one that is imported."""
    packages: dict[str, Package] = {}
    for found in distributions():
        name = canonicalize_name(found.metadata["Name"])
        record = found.read_text("RECORD")
        packages.setdefault(
            name,
            Package(
                name=name,
                version=found.version,
                licence=_licence(found),
                spdx="License-Expression" in found.metadata,
                needs=tuple(sorted(_needs(found))),
                record_sha256=hashlib.sha256(record.encode()).hexdigest() if record else None,
                found=found,
            ),
        )
    return [packages[name] for name in sorted(packages)]


def _licence(found: Distribution) -> str | None:
    said = found.metadata
    if "License-Expression" in said:
        return said["License-Expression"]
    classes = [c.rsplit(" :: ", 1)[1] for c in said.get_all("Classifier") or () if c.startswith("License :: ")]
    classes = [c for c in classes if c != "OSI Approved"]
    text = "".join(said.get_all("License") or ()).strip()
    short = text if 0 < len(text) <= _LONGEST_LICENCE and "\n" not in text and text != "UNKNOWN" else None
    return " and ".join(classes) or short


def _needs(found: Distribution) -> set[str]:
    wanted = (Requirement(line) for line in found.requires or ())
    return {canonicalize_name(r.name) for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})}


def altered(package: Package) -> Iterator[tuple[str, str]]:
    """(file, what is wrong) for files that differ from the package's RECORD; a file "" where there is none to ask.

    Compiled caches and RECORD itself carry no digest there by PyPA's specification ("Recording installed projects").
    """
    record = package.found.read_text("RECORD")
    if record is None:
        yield "", "no list of its files (RECORD)"
        return
    for row in csv.reader(record.splitlines()):
        name, digest = (*row, "", "")[:2]
        if not digest:
            continue
        kind, _, said = digest.partition("=")
        path = Path(str(package.found.locate_file(name)))
        if kind != "sha256":
            yield "", f"{name} has a {kind} digest"
        elif not path.is_file():
            yield name, "missing"
        elif base64.urlsafe_b64encode(file_sha256(path)).decode().rstrip("=") != said:
            yield name, "altered"


def locked(path: Path) -> dict[str, str]:
    """Name -> version of what a lock file asks for on this machine. Raises: `UserError`."""
    text = re.sub(r"\\\n", " ", path.read_text(encoding="utf-8"))
    found: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition(" --hash=")[0].partition("#")[0].strip()
        if not words or words.startswith("-"):
            continue
        try:
            wanted = Requirement(words)
        except InvalidRequirement as error:
            raise UserError(f"{path}: entry {number}: {error}; give a lock file as in locks/") from error
        versions = [s.version for s in wanted.specifier if s.operator == "=="]
        if not versions:
            raise UserError(f"{path}: entry {number}: {wanted.name} without ==; give a lock file as in locks/")
        if wanted.marker is None or wanted.marker.evaluate():
            found[canonicalize_name(wanted.name)] = versions[0]
    return found


def bill(packages: Sequence[Package]) -> dict[str, Any]:
    """The list of software as CycloneDX 1.6 JSON (ECMA-424), without dates: the same environment, the same bytes."""
    names = {package.name for package in packages}

    def component(package: Package) -> dict[str, Any]:
        stated = {"expression": package.licence} if package.spdx else {"license": {"name": package.licence}}
        digest = {"name": "medgpt:record-sha256", "value": package.record_sha256}
        return {
            "type": "application" if package.name == OURS else "library",
            "bom-ref": _purl(package),
            "name": package.name,
            "version": package.version,
            "purl": _purl(package),
            **({"licenses": [stated]} if package.licence else {}),
            **({"properties": [digest]} if package.record_sha256 else {}),
        }

    by_name = {package.name: package for package in packages}
    ours = by_name.get(OURS)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        **({"metadata": {"component": component(ours)}} if ours else {}),
        "components": [component(package) for package in packages if package is not ours],
        "dependencies": [
            {"ref": _purl(p), "dependsOn": [_purl(by_name[name]) for name in p.needs if name in names]}
            for p in packages
        ],
    }


def _purl(package: Package) -> str:
    return f"pkg:pypi/{package.name}@{package.version}"


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: list, compare, write; returns the exit code."""
    parser = command_parser("medgpt.environment", "packages of this environment: versions, licences, files", EXAMPLE)
    parser.add_argument("--files", action="store_true", help="hash every installed file, compare with its RECORD")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="name what is of another version than in this lock")
    parser.add_argument("--sbom", type=Path, metavar="FILE", help="write a CycloneDX list of the software")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    packages = installed()
    differs: list[tuple[str, str]] = []
    unknown: list[tuple[str, str]] = []
    if options.lock:
        versions, wanted = {p.name: p.version for p in packages}, locked(options.lock)
        for name in sorted(wanted.keys() | versions.keys() - {OURS, "pip"}):  # pip comes with every environment
            here, there = versions.get(name), wanted.get(name)
            if here != there:
                differs.append((name, f"{here or 'not installed'} here, {there or 'not named'} in {options.lock}"))
    if options.files:
        from tqdm import tqdm

        for package in tqdm(packages, "hash files", disable=None, leave=False):
            for file, what in altered(package):
                (differs if file else unknown).append((package.name, f"{file} {what}".strip()))
    if options.sbom:
        write_atomic(options.sbom, (json.dumps(bill(packages), indent=1, ensure_ascii=False) + "\n").encode())
    rows = [(p.name, p.version, p.licence or "not stated") for p in packages]
    if options.json:
        heads = ("name", "version", "licence")
        said = {"packages": [dict(zip(heads, row, strict=True)) for row in rows]}
        print(json.dumps(said | {"differs": differs, "not_compared": unknown}))
    else:
        print(table(("package", "version", "licence"), rows))
        for name, what in differs:
            print(f"{name}: {what}", file=sys.stderr)
        for name, what in unknown:
            print(f"not compared: {name}: {what}", file=sys.stderr)
        bare = sum(p.licence is None for p in packages)
        print(f"{len(packages)} packages, {bare} without a stated licence, {len(differs)} differences", file=sys.stderr)
    return worst([NOT_FINISHED if differs else DONE, NOT_COMPARED if unknown else DONE])


if __name__ == "__main__":
    sys.exit(main())
