"""A build whose root is in an object store: units are written to scratch, uploaded, and named whole by their ledgers.

    <root>/<build>/                    as on a disk; `build.json` last, by the driver
    <root>/.resume/<build>/*.json      unit ledgers, each after its unit's files and only where there is none
    <root>/.resume/<build>/driver      the run that began last: an earlier one stops before its next ledger

Nothing has to be released after a kill, so nothing is left held: whoever begins goes on, and whoever was there before
stops in one line. Locks with a time on them would have to trust clocks.
"""

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson

from builders.engine.source import BuildStopped
from manifests.catalog import KINDS
from medgpt.atomic import write_atomic
from medgpt.errors import UserError
from medgpt.layout import BUILD_FILE
from medgpt.private import make_folder
from medgpt.stores import Store

FOLDERS = ("shards", *KINDS)


@dataclass(frozen=True)
class Output:
    """Where a driver's builds go; picklable."""

    store: Store
    """The root of builds."""
    allowed: tuple[str, ...] = ()
    """Hosts that may see credentialed data."""
    run: str = field(default_factory=lambda: os.urandom(8).hex())
    """What tells this driver from others."""

    def bring_ledgers(self, build: str, resume: Path) -> dict[str, int]:
        """Make the ledgers in `resume` those of the store; bytes of each file of the build there, by name."""
        make_folder(resume)
        held = {_ledger(name) for name in self.store.listing(f".resume/{build}") if name.endswith(".json")}
        for path in resume.glob("*.json"):
            if path.name not in held:
                path.unlink()
        for name in sorted(held):
            if (content := self.store.read(f".resume/{build}/{name}")) is not None:
                write_atomic(resume / name, content)
        return {name.removeprefix(f"{build}/"): about["size"] for name, about in self.store.listing(build).items()}

    def begin(self, build: str, reused: Iterable[str], finished: bool) -> None:
        """Take the build over; ledgers but those of units that are `reused` go, and `build.json` unless `finished`."""
        self.store.write(f".resume/{build}/driver", self.run.encode())
        if not finished:
            self.store.remove(f"{build}/{BUILD_FILE}")
        kept = {f"{name}.json" for name in reused}
        for name in self.store.listing(f".resume/{build}"):
            if name.endswith(".json") and _ledger(name) not in kept:
                self.store.remove(name)

    def upload(self, build: str, target: Path, ledger: Path, entry: Mapping[str, Any]) -> bytes:
        """Upload a unit's files, then its ledger, whose bytes are returned; the files go from scratch.

        Raises: `BuildStopped` where another driver has the build, `StoreError`.
        """
        self._check(build)
        files = [file for record in entry["records"] for file in record["shards"] + record["parts"]]
        for file in files:
            self.store.put(target / file["file"], f"{build}/{file['file']}", file["sha256"])
        self._check(build)
        content = orjson.dumps(dict(entry) | {"run": self.run}, default=sorted)
        other = self.store.create(f".resume/{build}/{ledger.name}", content)
        if other is not None and orjson.loads(other)["run"] != self.run:  # a job of a cluster may be done twice
            raise self._taken(build)
        for file in files:
            (target / file["file"]).unlink()
        return content

    def finish(self, target: Path, document: Mapping[str, Any], data: bytes, ledgers: Iterable[str]) -> None:
        """Upload what the driver wrote, `build.json` last, once all that it names is seen to be there.

        Strays of an earlier plan go. Raises: `BuildStopped`, `StoreError`.
        """
        build, inputs = document["build"], document["inputs"]
        self.store.put(target / inputs["file"], f"{build}/{inputs['file']}", inputs["file_sha256"])
        files = {file["file"]: file["bytes"] for unit in document["units"] for file in unit["shards"] + unit["parts"]}
        found = {n.removeprefix(f"{build}/"): about["size"] for n, about in self.store.listing(build).items()}
        for name, size in files.items():
            if found.get(name) != size:
                raise BuildStopped(
                    f"{self.store.url}/{build}/{name}: {found.get(name, 'no')} bytes where {size} were uploaded; "
                    "see who else writes there, and run again"
                )
        for name in found:
            if name.partition("/")[0] in FOLDERS and name not in files:
                self.store.remove(f"{build}/{name}")
        wanted = set(ledgers)
        for name in self.store.listing(f".resume/{build}"):
            if name.endswith(".json") and _ledger(name) not in wanted:
                self.store.remove(name)
        self._check(build)
        if self.store.read(f"{build}/{BUILD_FILE}") != data:
            self.store.write(f"{build}/{BUILD_FILE}", data)
        self.store.remove(f".resume/{build}/driver")
        shutil.rmtree(target)

    def _check(self, build: str) -> None:
        if self.store.read(f".resume/{build}/driver") != self.run.encode():
            raise self._taken(build)

    def _taken(self, build: str) -> BuildStopped:
        return BuildStopped(
            f"{self.store.url}/{build}: another driver began this build and has it now; this one stops, "
            "its finished units are kept"
        )


def scratch_folder(given: Path | None, url: str) -> Path:
    """Where a node writes the units of a root: below `--scratch`, else in a folder of the user's own below TMPDIR.

    Raises: `UserError` where that is another user's.
    """
    below = given or Path(tempfile.gettempdir()) / f"medgpt-{os.geteuid()}"
    if given is None:
        below.mkdir(mode=0o700, exist_ok=True)
        if below.is_symlink() or below.stat().st_uid != os.geteuid():
            raise UserError(f"{below}: not a folder of yours; name one by --scratch")
    return below / sha256(url.encode()).hexdigest()[:16]


def _ledger(name: str) -> str:
    return name.rpartition("/")[2]
