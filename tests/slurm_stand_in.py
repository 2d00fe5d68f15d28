"""Stand-ins for Slurm's commands, for tests: `sbatch`, `srun`, `sacct`, `scancel`, `scontrol requeue`, as one machine.

What is known of jobs stands in the folder SLURM_STAND_IN: `arrays` (a line `<id> <tasks>` a submission), `tasks` with
state and process of each and whether it is to be requeued, `requeued` (a line a task).
"""

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

STATE = Path(os.environ.get("SLURM_STAND_IN", "."))
TASKS = STATE / "tasks"


def sbatch(*words: str) -> None:
    """Take a script in, and begin its tasks in a process that stays; one of training is noted alone."""
    if "--parsable" in words:
        with (STATE / "training").open("a") as training:
            training.write(f"{' '.join(words)}\n")
        print("1000")
        return
    [file] = words
    [array] = re.findall(r"#SBATCH --array='?0-(\d+)%(\d+)", Path(file).read_text()) or [("", "1")]
    number = 1 + len((STATE / "arrays").read_text().splitlines())
    names = [f"{number}_{task}" for task in range(int(array[0]) + 1)] if array[0] else [str(number)]
    with (STATE / "arrays").open("a") as arrays:
        arrays.write(f"{number} {len(names)}\n")
    for name in names:
        (TASKS / name).write_text("PENDING")
    script = STATE / f"{number}.sh"
    script.write_bytes(Path(file).read_bytes())
    subprocess.Popen(
        [sys.executable, __file__, "serve", str(script), array[1], *names],
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    print(f"Submitted batch job {number}")


def serve(script: str, at_once: str, *names: str) -> None:
    """Run an array's tasks; one that asked for it a second time."""
    waiting, running = list(names), dict[str, subprocess.Popen[bytes]]()
    while waiting or running:
        while waiting and len(running) < int(at_once):
            name = waiting.pop(0)
            if (TASKS / name).read_text() == "CANCELLED":
                continue
            number, _, task = name.partition("_")
            array = {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": task} if task else {}
            said = os.environ | array | {"SLURM_JOB_ID": number, "SLURM_STAND_IN_TASK": name}
            running[name] = subprocess.Popen(["bash", script], env=said, start_new_session=True)
            (TASKS / f"{name}.pid").write_text(str(running[name].pid))
            (TASKS / name).write_text("RUNNING")
        for name, process in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if (TASKS / f"{name}.requeue").exists():
                (TASKS / f"{name}.requeue").unlink()
                (TASKS / name).write_text("REQUEUED")
                waiting.append(name)
            elif (TASKS / name).read_text() == "RUNNING":
                (TASKS / name).write_text("FAILED" if process.returncode else "COMPLETED")
        time.sleep(0.05)


def srun(*words: str) -> None:
    """Run a step in this process, its output where the options say."""
    rest, options = list(words), dict[str, str]()
    while rest[0].startswith("--"):
        option = rest.pop(0)
        if option in ("--output", "--error"):
            options[option] = rest.pop(0)
    number, _, task = os.environ["SLURM_STAND_IN_TASK"].partition("_")
    for option, place in (("--output", 1), ("--error", 2)):
        path = options[option].replace("%A", number).replace("%a", task).replace("%j", number).replace("%t", "0")
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), place)
    os.execvp(rest[0], rest)


def sacct(*_: str) -> None:
    """The state of all there is."""
    print("JobID|State|NodeList")
    for path in sorted(TASKS.iterdir()):
        if not path.suffix:
            print(f"{path.name}|{path.read_text()}|here")


def scancel(*words: str) -> None:
    """End tasks, named alone or by their array."""
    for word in words:
        for path in (*TASKS.glob(word), *TASKS.glob(f"{word}_*")) if word[0] != "-" else ():
            if not path.suffix and path.read_text() in ("PENDING", "RUNNING", "REQUEUED"):
                path.write_text("CANCELLED")
                with suppress(ProcessLookupError, FileNotFoundError):
                    os.killpg(int(path.with_suffix(".pid").read_text()), signal.SIGKILL)


def scontrol(_: str, name: str) -> None:
    """Requeue a task when it ends."""
    (TASKS / f"{name}.requeue").touch()
    with (STATE / "requeued").open("a") as file:
        file.write(f"{name}\n")


def install(folder: Path) -> dict[str, str]:
    """Put the commands into a folder; returns the variables under which they are found."""
    (folder / "state/tasks").mkdir(parents=True)
    (folder / "state/arrays").touch()
    for name in ("sbatch", "srun", "sacct", "scancel", "scontrol"):
        (folder / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" {name} "$@"\n')
        (folder / name).chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_STAND_IN": str(folder / "state")}


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
