"""The front door: `medgpt build mimic_cxr --longitudinal`, `medgpt prove data`, `medgpt train --shards data`.

Every command is a module that also runs as `python -m MODULE`; here they are named as strings and none is imported, so
no room is loaded but the one asked for. The current folder is no place for code: a `train.py` or an `eval/` that lies
there is never taken for ours, neither by this process nor by those it starts. (`python -m train.run` cannot be kept
from it: Python looks into the current folder first.)
"""

import ast
import difflib
import importlib.util
import os
import runpy
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from medgpt.errors import UserError, run

DOORS: dict[str, dict[str, tuple[str, str]]] = {
    "Build": {
        "sources": ("builders", "what there is: stage, licence, access, counts, what is built here"),
        "build": ("builders.", "build a source: medgpt build slake --raw DIR; all: every source that is there"),
        "filter": ("filters.run", "scores of every filter over the builds"),
        "decide": ("filters.decide", "thresholds of a recipe: what stays, and why"),
        "calibrate": ("filters.calibrate", "ask a language model about labelled captions: may it drop any?"),
        "review": ("filters.review", "draw samples for a reader, and say how far a filter agrees with him"),
        "duplicates": ("filters.semantic_duplicates", "pictures that are an earlier one to a CLIP model"),
        "merge": ("shards.merge", "builds of several sites under one root, after checks"),
        "demo": ("builders.demo", "everything on synthetic sources, and one page that leads to all of it"),
    },
    "Look": {
        "browse": ("browse", "builds, samples, proof and reports in a browser on this machine"),
        "sql": ("manifests.sql", "SQL over the manifests, and the audits"),
        "catalog": ("manifests.catalog", "write DATA/manifest.duckdb for the DuckDB shell"),
        "stats": ("shards.stats", "counts, tokens, tiles, licences, lengths"),
        "export": ("shards.export", "certified samples as other trainers read them"),
        "show": ("shards.show", "one sample with its pictures"),
        "check-shards": ("shards.verify", "hash everything again; names the altered member"),
        "audit-env": ("medgpt.environment", "installed packages: versions, licences, altered files, SBOM"),
    },
    "Prove": {
        "prove": ("manifests.prove", "compare all train with all test samples"),
        "verify": ("manifests.verify", "derive the certificate again by a second code path"),
        "check": ("manifests.check", "is this text or picture in the training data?"),
    },
    "Train": {
        "pack": ("shards.pack", "which samples make one sequence"),
        "resume-check": ("shards.resume_check", "left by 4 ranks, taken up by others: the same samples"),
        "assemble": ("train.assemble", "put encoder and language model together"),
        "train": ("train.run", "one stage of training on certified shards"),
        "ablate": ("train.ablate", "vision encoders, all else the same: table and plot"),
        "quantize": ("train.quantize", "a trained model with its experts in MXFP4"),
        "gguf": ("train.export", "a trained model for llama.cpp"),
    },
    "Evaluate": {
        "eval": ("eval.run", "ask a model the benchmark items"),
        "weights": ("eval.weights", "which weights metrics of reports need; are yours they?"),
        "score": ("eval.score", "judge its answers by rule"),
        "report": ("eval.report", "results on one page, clean and contaminated items apart"),
        "compare": ("eval.compare", "two models on the same items"),
        "log": ("eval.log", "a scored run for the viewer of inspect_ai"),
        "audit-tables": ("eval.audit", "which published figures are possible as k of n"),
        "audit-model": ("eval.audit_model", "does a model remember a benchmark? Two tests, with controls"),
        "chat": ("eval.chat", "talk to a checkpoint in the terminal"),
        "serve": ("eval.serve", "serve a checkpoint on loopback"),
    },
}
"""Group -> command -> (module, what it does). A module that ends with a dot takes the next word as its last part."""


class UnknownCommand(UserError):
    """No command of this name; the message says which is near."""


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line: run a command's module as `python -m` would; returns its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(_help())
        return 0
    _leave_current_folder()
    module, rest = _module(words)
    sys.argv = [module, *rest]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        if ended.code is None or isinstance(ended.code, int):
            return ended.code or 0
        raise
    return 0


def front_page(room: str) -> int:
    """Print what commands a room has, for `python -m ROOM`; returns exit code 0."""
    told = {module: what for group in DOORS.values() for module, what in group.values()}
    lines = [f"python -m {room}.COMMAND ...   (each has a --help with an example)", ""]
    for name, module in sorted(_modules(room).items()):
        lines.append(f"  {name:22}{told.get(module) or _first_line(module)}")
    print("\n".join(lines))
    return 0


def _first_line(module: str) -> str:
    """What a module says of itself, which is not imported for it."""
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin
    said = ast.get_docstring(ast.parse(Path(spec.origin).read_bytes())) or ""
    return said.partition("\n")[0].removeprefix(f"`python -m {module}`: ").rstrip(".")


def _module(words: Sequence[str]) -> tuple[str, list[str]]:
    """The module that the words name, and what is left for it. Raises: `UnknownCommand`."""
    doors = {name: door for group in DOORS.values() for name, door in group.items()}
    if words[0] not in doors:
        raise UnknownCommand(f"medgpt {words[0]}: no such command{_near(words[0], doors)}; medgpt --help lists them")
    module = doors[words[0]][0]
    if not module.endswith("."):
        return module, list(words[1:])
    package = module.removesuffix(".")
    if len(words) == 1 or words[1].startswith("-"):
        return package, list(words[1:])
    name, found = words[1], {**_modules("medgpt_sources"), **_modules(package)}
    if name not in found:
        raise UnknownCommand(f"medgpt {words[0]} {name}: no such source{_near(name, found)}; medgpt sources lists them")
    return found[name], list(words[2:])


def _modules(package: str) -> dict[str, str]:
    """Module by its last name, of a package's modules that are commands; none if there is no such package."""
    spec = importlib.util.find_spec(package)
    files = [path for folder in (spec and spec.submodule_search_locations) or () for path in Path(folder).glob("*.py")]
    commands = [path.stem for path in files if path.stem[0] != "_" and b'__name__ == "__main__"' in path.read_bytes()]
    return {name: f"{package}.{name}" for name in commands}


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f", did you mean {near[0]}?" if near else ""


def _leave_current_folder() -> None:
    """Take the current folder off the path of modules, here and in every Python that is started from here."""
    home, here = Path(__file__).resolve().parent.parent, Path.cwd()
    sys.path[:] = [str(home), *(place for place in sys.path if place and Path(place).resolve() not in (home, here))]
    if home == here:
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(home), os.environ.get("PYTHONPATH"))))
    os.environ["PYTHONSAFEPATH"] = "1"


def _help() -> str:
    lines = ["medgpt COMMAND ...   (each has a --help with an example)"]
    for group, doors in DOORS.items():
        lines += ["", group, *(f"  {name:14}{what}" for name, (_, what) in doors.items())]
    return "\n".join([*lines, "", "example:", "  medgpt build slake --demo && medgpt sql demo --audit all"])


if __name__ == "__main__":
    sys.exit(main())
