"""The import rule of ARCHITECTURE.md, and what importing and `--help` may cost."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, run_module

from builders.engine.registry import modules
from medgpt.errors import ROOMS

# What the modules of a room may import of the project: themselves and what lies below, everything points down.
ALLOWED = {
    "medgpt": {"medgpt"},
    "manifests": {"manifests", "medgpt"},
    "shards": {"shards", "manifests", "medgpt"},
    "filters": {"filters", "shards", "manifests", "medgpt"},
    "builders": {"builders", "filters", "shards", "manifests", "medgpt"},
    "train": {"train", "shards", "manifests", "medgpt"},
    "eval": {"eval", "shards", "manifests", "medgpt"},
    "browse": {"browse", "shards", "manifests", "medgpt"},
    "bench": {"bench", "builders", "filters", "shards", "manifests", "train", "eval", "medgpt"},
}
PACKAGES = set(ALLOWED)
MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imported(path: Path, *, for_types: bool = True) -> set[str]:
    """What a module imports of the project; without `for_types` not what only a type checker reads."""
    names: set[str] = set()
    tree = ast.parse(path.read_text())
    if not for_types:
        checks = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
        tree.body = [node for node in tree.body if node not in checks]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module in PACKAGES}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name.split(".")[0] in PACKAGES and name not in PACKAGES}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_point_one_way(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    wrong = {name for name in imported(path) if name.split(".")[0] not in ALLOWED[module.split(".")[0]]}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


def test_the_net_knows_every_room() -> None:
    assert PACKAGES == ROOMS


def test_no_module_imports_itself_by_a_detour() -> None:
    """No circle, imports within functions included: none of them is there to hide one."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    left = {name: imported(path, for_types=False) & names.keys() - {name} for name, path in names.items()}
    while free := [name for name, wanted in left.items() if not wanted & left.keys()]:
        for name in free:
            del left[name]
    assert not left, f"in a circle, or above one: {sorted(left)}"


def test_every_package_of_the_project_is_under_the_rule() -> None:
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert found <= PACKAGES


def test_core_imports_need_no_torch_and_no_network() -> None:
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in MODULES]
    rooms = {"medgpt", "builders", "manifests", "shards", "browse"}
    # The class that goes into model folders is one of transformers; it is loaded with a model alone.
    apart = ("__main__", "configuration_medgpt")
    core = [m for m in modules if m.split(".")[0] in rooms and not m.endswith(apart)]
    code = f"""
import socket, sys
def refuse(*a, **k): raise AssertionError("network at import")
socket.socket.connect = refuse
socket.getaddrinfo = refuse
import importlib
for name in {core!r}:
    importlib.import_module(name.removesuffix(".__init__"))
heavy = {{"torch", "transformers", "datasets", "scipy", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


COMMANDS = ["builders", "browse"] + [
    f"{path.parent.name}.{path.stem}"
    for path in MODULES
    if path.parents[1] == ROOT and path.parent.name != "bench" and path.stem[0] != "_"
    if '__name__ == "__main__"' in path.read_text()
]
assert len(COMMANDS) > 70


HELP = """
import contextlib, io, json, runpy, sys
known, told = set(), {}
for command in sys.argv[1:]:
    sys.argv, said, code = [command, "--help"], io.StringIO(), None
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            code = ended.code
    heavy = {"pyarrow", "duckdb", "PIL", "numpy", "tqdm", "bpe_openai", "jinja2"} & sys.modules.keys() - known
    known |= heavy
    told[command] = code, said.getvalue(), sorted(heavy)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def helps() -> dict[str, tuple[int, str, list[str]]]:
    """Exit code of each command's `--help`, what it says, and what it loads that none before it did; one process."""
    done = subprocess.run(
        [sys.executable, "-c", HELP, *COMMANDS], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    told: dict[str, tuple[int, str, list[str]]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example_and_loads_nothing_heavy(
    helps: dict[str, tuple[int, str, list[str]]], command: str
) -> None:
    code, said, heavy = helps[command]
    assert code == 0, said
    assert "example" in said
    assert not heavy


def test_help_is_quick() -> None:
    """Not a benchmark: a bound five times the goal, that only a heavy import would break."""
    started = time.monotonic()
    run_module("builders.mimic_cxr", "--help", check=True)
    assert time.monotonic() - started < 1.5


def test_sources_import_nothing_from_one_another() -> None:
    """A source imports the kit and its family's room; a demo tree is imported by other demos alone."""
    demos = {path.stem for path in (ROOT / "builders" / "demos").glob("*.py")}
    for name in modules():
        found = {module for module in imported(ROOT / "builders" / f"{name}.py") if module.startswith("builders")}
        allowed = ("builders.kit", "builders.engine")
        assert not [module for module in found if not module.startswith(allowed)], name
        assert name in demos, f"{name} has no demo tree"
