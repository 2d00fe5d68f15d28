"""Every n-th system call of a command fails: a documented exit code, one line, and the same bytes after the next run.

    python tests/torture.py /tmp/torture --jobs build:slake prove --calls open fsync
    python tests/torture.py /tmp/torture --draw 20 --seed 1

Linux, with a C compiler: `faults.c` is preloaded, so that calls of pyarrow and DuckDB fail like Python's own. Each
trial is a fork of one process; it runs the command with one call failing, and once more with none, unless the fault
left a folder, byte for byte, from which that went well before.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import hashlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
TORN, LOST = 0, -1
"""Half of a write arrives, or what was not yet fsynced is gone: then the process is killed."""
ERRORS = {**errno.errorcode, TORN: "torn", LOST: "lost"}
CALLS = {
    "open": (errno.EIO, errno.EACCES, errno.EINTR),
    "create": (errno.EIO, errno.EACCES, errno.ENOSPC, errno.EINTR),
    "read": (errno.EIO, errno.EINTR),
    "write": (errno.ENOSPC, errno.EIO, TORN, LOST),
    "fsync": (errno.EIO, errno.EINTR, LOST),
    "sync_folder": (errno.EIO, errno.EINVAL, LOST),
    "rename": (errno.ENOSPC, errno.EACCES, LOST),
    "mkdir": (errno.ENOSPC, errno.EACCES),
    "flock": (errno.ENOLCK, errno.EINTR),
    "mmap": (errno.ENOMEM,),
    "link": (errno.EACCES,),
    "unlink": (errno.EACCES,),
}
ALWAYS = {"flock": (errno.ENOLCK, errno.ENOSYS), "sync_folder": (errno.EINVAL,), "change": (errno.EROFS, errno.ENOSPC)}
"""What a file system may lack: locks, folders that can be fsynced, the right to write, inodes."""
SOURCES = ("slake", "medmcqa")
"""What is proved and packed: pictures and texts, both roles."""
LIMIT = "6"
"""Rows of each split: a call for each, so not many."""
PROVE = ["--benchmarks", "present", "--quiet", "--no-rewrites"]
RECIPE = """\
format: 1
name: demo
version: 1
sources:
  slake: {unreadable: drop, filters: {compound: {drop: "compound >= 0.5", not_scored: drop}}}
"""
_CHANGING = re.compile(r"[0-9a-f]{8,}|\d+")
"""Parts of a path that differ between files of one kind."""
_SECONDS = 120
"""A trial that takes longer hangs."""

Trial = tuple[str, int, int, str]
"""Call, number, error, and what is wrong or ""."""


@dataclass(frozen=True)
class Job:
    """A command over a folder of its own."""

    module: str
    words: Callable[[Path, Path], list[str]]
    """(all of the work, the trial's folder) to the command line."""
    result: str
    """The folder whose files must be the same; hidden ones may be deleted, they do not count."""
    needs: bool = False
    """Works on a copy of the built data."""
    lists: bool = False
    """What it could not read is among what it lists, on standard output."""


def jobs(sources: list[str]) -> dict[str, Job]:
    """The commands, by the names that `--jobs` takes."""

    def build(source: str) -> Job:
        return Job(
            f"builders.{source}",
            lambda work, trial: [
                "--raw", str(work / "raw" / source), "--out", str(trial / "built"), "--workers", "1", "--json",
                "--limit", LIMIT,
            ],
            "built",
        )  # fmt: skip

    def over_data(module: str, words: list[str], result: str, lists: bool = False) -> Job:
        def filled(work: Path, trial: Path) -> list[str]:
            return [word.format(data=trial / "data", out=trial / "out") for word in words]

        return Job(module, filled, result, True, lists)

    one, some = ["{data}", "--workers", "1"], ["--only-present", "--accept-incomplete"]
    recipe = ["{data}", "--recipe", "{data}/recipe.yaml"]
    return {f"build:{source}": build(source) for source in sources} | {
        "prove": over_data("manifests.prove", [*one, *PROVE], "data/proof"),
        "pack": over_data("shards.pack", [*one, "--stage", "instruct", *some], "data"),
        "filter": over_data("filters.run", [*recipe, "--quiet"], "data/filtered"),
        "decide": over_data("filters.decide", recipe, "data/filtered"),
        "catalog": over_data("manifests.catalog", ["{data}"], "data/built"),
        "verify": over_data(
            "manifests.verify", [*one, "--quiet", "--sample", "2", "--seed", "a"], "data/proof", lists=True
        ),
        "stats": over_data("shards.stats", ["{data}", "--html", "{out}.html"], "data/built"),
        "verify_shards": over_data("shards.verify", ["{data}"], "data/built"),
        "export": over_data("shards.export", [*one, "--format", "trl", "--out", "{out}", some[1]], "out"),
        "answer": over_data(
            "eval.run", ["{data}", "--tasks", "slake", "--baseline", "majority", "--out", "{out}", "--quiet"], "out"
        ),
        "score": over_data("eval.score", ["{data}/run", "--data", "{data}", "--quiet"], "data/run"),
        "report": over_data("eval.report", ["{data}/run", "--data", "{data}", "--out", "{out}/page.html"], "out"),
    }


class Torture:
    """Trials under a folder of work. Started with `faults.c` preloaded (`started`)."""

    def __init__(self, work: Path) -> None:
        self.work, self.ended, self.went_well = work, Counter[str](), set[str]()
        self.usual: list[str] = []
        self.not_run_on = 0
        self._shim = ctypes.CDLL(None)
        self._shim.fault_count.restype, self._shim.fault_path.restype = ctypes.c_long, ctypes.c_char_p

    def run(
        self, job: Job, trial: Path, call: str, number: int, code: int
    ) -> tuple[int, list[str], dict[str, int], str]:
        """(exit code or -signal, lines on stderr, calls of each kind, path that failed) of a command in a fork."""
        main = importlib.import_module(job.module).main if "builders" not in job.module else self._main(job.module)
        said, counted = trial.with_suffix(".said"), trial.with_suffix(".count")
        child = os.fork()
        if child == 0:
            status = 99
            try:
                os.setpgid(0, 0)
                os.chdir(self.work.parent)
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
                os.dup2(2 if job.lists else os.open(os.devnull, os.O_WRONLY), 1)
                home = os.fsencode(self.work / "in") + b"/"
                if call == "list":
                    code = os.open(trial.with_suffix(".calls"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                self._shim.fault_arm(call.encode(), ctypes.c_long(number), code, home)
                status = main(job.words(self.work / "in", trial))
                sys.stderr.flush()
            except SystemExit as left:
                status = left.code if isinstance(left.code, int) else 98
            except BaseException as error:  # noqa: BLE001 - what passes the net is a finding
                os.write(2, f"Traceback past the net: {error!r}\n".encode())
            counts = {name: self._shim.fault_count(name.encode()) for name in CALLS}
            told = json.dumps([counts, os.fsdecode(self._shim.fault_path())]).encode()
            self._shim.fault_arm(b"none", ctypes.c_long(0), 0, b"/")
            os.write(os.open(counted, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), told)
            os._exit(status)
        until = time.monotonic() + _SECONDS
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > until:
                os.killpg(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return -signal.SIGALRM, ["hangs"], {}, ""
            time.sleep(0.005)
        counts, path = json.loads(counted.read_text()) if os.WIFEXITED(ended[1]) else ({}, "")
        path = path.removeprefix(f"{self.work}/in/")
        return os.waitstatus_to_exitcode(ended[1]), said.read_text().splitlines(), counts, path

    @staticmethod
    def _main(module: str) -> Callable[[list[str]], int]:
        from builders.engine.command import main
        from builders.engine.registry import load

        return lambda words: main(load(module.partition(".")[2]), words)

    def fresh(self, job: Job, name: str) -> Path:
        """An empty folder for a trial, with the built data if the command works on it."""
        trial = self.work / "in" / name
        shutil.rmtree(trial, ignore_errors=True)
        trial.mkdir(parents=True)
        if job.needs:
            shutil.copytree(self.work / "in" / "data", trial / "data")
        return trial

    def trials(self, job: Job, calls: list[str], draw: int | None, seed: str, sites: bool) -> Iterator[Trial]:
        """Every trial: of all calls, of some drawn, or of the first at each site (a kind of call of a kind of file).

        No calls: those of `ALWAYS`, each time.
        """
        good = self.fresh(job, "good")
        before = state(good)
        wanted_code, lines, *_ = self.run(job, good, "list", 0, 0)
        if wanted_code not in (0, 3, 4):
            raise SystemExit(f"{job.module} fails undisturbed: {lines}")
        wanted = files(good / job.result)
        self.went_well, self.usual = {before}, lines
        for call, codes in (ALWAYS if not calls else {}).items():
            for code in codes:
                yield call, -1, code, self.trial(job, call, -1, code, wanted_code, wanted)
        numbers: dict[str, dict[str, int]] = {call: {} for call in CALLS}
        for line in good.with_suffix(".calls").read_text().splitlines():
            kind, count, path = line.split(" ", 2)
            numbers[kind].setdefault(_CHANGING.sub("N", path) if sites else count, int(count))
        for call in calls:
            for code in CALLS[call]:
                some = sorted(numbers[call].values())
                if draw is not None:
                    some = sorted(random.Random(f"{seed} {call} {code}").sample(some, min(draw, len(some))))
                for number in some:
                    yield call, number, code, self.trial(job, call, number, code, wanted_code, wanted)

    def trial(self, job: Job, call: str, number: int, code: int, wanted_code: int, wanted: dict[str, str]) -> str:
        """What is wrong with a single fault and the run after it; "" if nothing is."""
        trial = self.fresh(job, "trial")
        done, lines, _, path = self.run(job, trial, call, number, code)
        self.ended[f"{call} {ERRORS[code]} {'done' if done == wanted_code else done}"] += 1
        if done == -signal.SIGKILL and code in (TORN, LOST):
            pass
        elif done not in (0, 1, 2, 3, 4):
            return f"{path}: exit {done}: {lines[-3:]}"
        elif any("Traceback" in line for line in lines) or (
            done in (1, 2) and not (job.lists or len([line for line in lines if line not in self.usual]) == 1)
        ):
            return f"{path}: exit {done}, not one line beside those of an undisturbed run: {lines[-3:]}"
        elif job.lists and done == 1 and Path(path).name not in "".join(lines) and not path.endswith(".said"):
            return f"{path}: exit 1, not named in {lines[-3:]}"
        elif done == wanted_code and (differs := differing(files(trial / job.result), wanted)):
            return f"{path}: exit {done}, other bytes: {differs}"
        before = state(trial)
        if before in self.went_well:
            self.not_run_on += 1
            return ""
        again, after, *_ = self.run(job, trial, "none", 0, 0)
        if again != wanted_code:
            return f"{path}: exit {done} ({lines[-1:]}), the next run {again}: {after[-2:]}"
        if differs := differing(files(trial / job.result), wanted):
            return f"{path}: exit {done} ({lines[-1:]}), other bytes after the next run: {differs}"
        self.went_well.add(before)
        return ""


def prepare(raw: Path, data: Path) -> None:
    """Write the data that commands work on: two builds, a proof, scores, a scored run."""
    limited = ["--out", str(data / "built"), "--limit", LIMIT, "--quiet"]
    commands = [[f"builders.{source}", "--raw", str(raw / source), *limited] for source in SOURCES]
    commands += [
        ["manifests.prove", str(data), *PROVE],
        ["filters.run", str(data), "--recipe", str(data / "recipe.yaml"), "--quiet"],
        ["eval.run", str(data), "--tasks", "slake", "--baseline", "majority", "--out", str(data / "run"), "--quiet"],
        ["eval.score", str(data / "run"), "--data", str(data), "--quiet"],
    ]
    data.mkdir(parents=True)
    (data / "recipe.yaml").write_text(RECIPE)
    for words in commands:
        done = subprocess.run([sys.executable, "-m", *words], stdout=subprocess.DEVNULL, check=False, cwd=ROOT)
        if done.returncode not in (0, 3, 4):
            raise SystemExit(f"{words} ended with {done.returncode}")


def differing(some: dict[str, str], others: dict[str, str]) -> list[str]:
    """The first files whose digests differ."""
    return sorted({name for name, _ in some.items() ^ others.items()})[:3]


def state(folder: Path) -> str:
    """Digest over all below a folder, hidden or not: names, modes, contents."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        content = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b""
        digest.update(f"{path.relative_to(folder)} {path.lstat().st_mode} ".encode() + content)
    return digest.hexdigest()


def files(folder: Path) -> dict[str, str]:
    """Digest of every file below a folder that no hidden name leads to."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import tree_digest

    found = tree_digest(folder)
    return {name: digest for name, digest in found.items() if not any(part[0] == "." for part in name.split("/"))}


def started(work: Path) -> bool:
    """Whether `faults.c` is preloaded here; if not, it is compiled into the folder for who starts the process."""
    if hasattr(ctypes.CDLL(None), "fault_arm"):
        return True
    work.mkdir(parents=True, exist_ok=True)
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("no C compiler (cc, gcc): faults.c cannot be built")
    source = str(ROOT / "tests" / "faults.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(work / "faults.so"), source, "-ldl"], check=True)
    return False


def main() -> int:
    """Command line: prepare, try, list what is wrong; 1 if anything is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path, help="a folder of its own; everything below it is replaced")
    parser.add_argument("--jobs", nargs="+", default=["build:slake", "build:medqa", *jobs([])])
    parser.add_argument("--calls", nargs="+", default=list(CALLS), choices=list(CALLS))
    parser.add_argument("--always", action="store_true", help="calls that fail each time, as file systems lack them")
    parser.add_argument("--draw", type=int, metavar="K", help="so many of each call and error, drawn by --seed (all)")
    parser.add_argument("--sites", action="store_true", help="the first call of each kind on each kind of file")
    parser.add_argument("--seed", default="0")
    options = parser.parse_args()
    work = options.work.resolve()
    if not started(work):
        environment = os.environ | {"LD_PRELOAD": str(work / "faults.so"), "PYTHONPATH": str(ROOT)}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    from fuzz import load_late

    from builders.engine.registry import load

    shutil.rmtree(work / "in", ignore_errors=True)
    sources = [name.partition(":")[2] for name in options.jobs if name.startswith("build:")]
    known = jobs(sources)
    for source in {*sources, *SOURCES}:
        load(source).write_demo(work / "in" / "raw" / source)
    if not all(name.startswith("build:") for name in options.jobs):
        prepare(work / "in" / "raw", work / "in" / "data")
    load_late(sources, proofs="prove" in options.jobs)
    torture, counts, found = Torture(work), Counter[str](), []
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for name in options.jobs:
            for call, number, code, wrong in torture.trials(
                known[name], [] if options.always else options.calls, options.draw, options.seed, options.sites
            ):
                counts[f"{name} {call}"] += 1
                if wrong:
                    found.append((name, call, number, ERRORS[code], wrong))
                    print(*found[-1], flush=True)
    except KeyboardInterrupt:  # what was seen so far is told
        print("stopped", file=sys.stderr)
    told = {"trials": counts, "findings": len(found), "not_run_on": torture.not_run_on, "ended": torture.ended}
    print(json.dumps(told))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
