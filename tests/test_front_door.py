"""`medgpt COMMAND`: every door leads to a module's own command line, and the current folder is no place for code."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from conftest import ROOT

from medgpt import TRACEBACK
from medgpt.__main__ import DOORS
from medgpt.errors import NOT_FINISHED, place, run

MODULES = {name: module for group in DOORS.values() for name, (module, _) in group.items()}


def medgpt(*words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """The front door in a fresh process, as an installed console script starts it: from a file in another folder."""
    with tempfile.TemporaryDirectory() as bin_folder:
        script = Path(bin_folder) / "medgpt"
        script.write_text("import sys\nfrom medgpt.__main__ import main\nsys.exit(main())\n")
        places = dict.fromkeys([str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))}
        command = [sys.executable, str(script), *words]
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture
def traps(tmp_path: Path) -> Path:
    """A folder whose modules are named like ours and stop whoever imports them."""
    for room in ("builders", "filters", "shards", "manifests", "eval"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    for module in ("train.py", "multiprocessing.py", "orjson.py"):
        (tmp_path / module).write_text("raise SystemExit('the wrong one')\n")
    return tmp_path


@pytest.mark.parametrize("name", sorted(MODULES))
def test_every_door_opens_its_command_in_a_folder_of_traps(name: str, traps: Path) -> None:
    words = [name, "slake", "--help"] if MODULES[name].endswith(".") else [name, "--help"]
    done = medgpt(*words, cwd=traps)
    assert done.returncode == 0, done.stderr
    assert f"python -m {MODULES[name].removesuffix('.')}" in done.stdout


def test_workers_of_a_build_ignore_the_current_folder(traps: Path) -> None:
    done = medgpt("build", "pubmedqa", "--demo", "--raw", "raw", "--out", "built", "--workers", "2", cwd=traps)
    assert done.returncode == 0, done.stderr
    assert (traps / "built/pubmedqa/build.json").is_file()
    assert medgpt("sql", "built", "SELECT count(*) FROM samples", cwd=traps).returncode == 0


def test_exit_codes_and_arguments_pass_through(tmp_path: Path) -> None:
    assert medgpt("sql", str(tmp_path), "--audit", "all").returncode == 2
    assert medgpt("build", "slake", "--raw", str(tmp_path / "nothing")).returncode == 2


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("biuld",), "did you mean build?"),
        (("build", "slaek"), "did you mean slake?"),
        (("build", "corups"), "did you mean corpus?"),
        (("build", "kit"), "no such source"),
        (("zzz",), "no such command"),
    ],
)
def test_an_unknown_name_is_one_line_that_says_what_is_near(words: tuple[str, ...], said: str) -> None:
    done = medgpt(*words)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_source_of_ones_own_is_built_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ours" / "medgpt_sources").mkdir(parents=True)
    page = (ROOT / "builders" / "pubmedqa.py").read_text().replace("pubmedqa", "ourqa")
    (tmp_path / "ours" / "medgpt_sources" / "ourqa.py").write_text(page)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "ours"))
    done = medgpt("build", "ourqa", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "python -m medgpt_sources.ourqa" in done.stdout
    assert "did you mean ourqa?" in medgpt("build", "orqa", cwd=tmp_path).stderr
    assert medgpt("build", "corpus", "--help", cwd=tmp_path).returncode == 0


def test_help_lists_every_command() -> None:
    done = medgpt("--help")
    assert done.returncode == 0
    assert all(f"\n  {name} " in done.stdout for name in MODULES)


def test_each_room_has_a_front_page() -> None:
    for room in ("shards", "train", "eval", "manifests", "filters"):
        code = f"import runpy, sys; runpy.run_module({room!r}, run_name='__main__')"
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
        told = {line.split()[0]: line.split(None, 1)[1] for line in done.stdout.splitlines()[2:]}
        commands = {module.rpartition(".")[2] for module in MODULES.values() if module.startswith(f"{room}.")}
        assert done.returncode == 0 and commands <= told.keys() and len(done.stdout.splitlines()) <= 20


def test_a_command_under_the_net_says_one_line(tmp_path: Path) -> None:
    done = medgpt("catalog", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_a_panic_of_a_library_in_rust_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """`pyo3_runtime.PanicException` is no `Exception`: here a prefix that is longer than the pieces it is cut from."""
    tokenizers = pytest.importorskip("tokenizers")

    @run
    def main(arguments: Sequence[str] | None = None) -> int:
        words = json.loads(
            tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")])).to_str()
        )
        words["model"]["continuing_subword_prefix"] = "longer than its pieces"
        tokenizers.Tokenizer.from_str(json.dumps(words))
        return 0

    assert main([]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("pyo3_runtime.PanicException at") and "please report it" in line


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("safetensors", "needs safetensors: pip install 'medgpt-oss[train]'"),
        ("medgpt.formats", f"ModuleNotFoundError at train/{{}}; {TRACEBACK}=1 shows more, please report it"),
        ("shards.stream", f"ModuleNotFoundError at train/{{}}; {TRACEBACK}=1 shows more, please report it"),
    ],
)
def test_a_missing_module_of_ours_is_a_defect_and_nothing_to_install(
    missing: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from train.run import main as train

    def absent(*_: object) -> None:
        monkeypatch.setitem(sys.modules, missing, None)
        importlib.import_module(missing)

    monkeypatch.setattr("train.run.dry_run", absent)
    (tmp_path / "config.json").write_text("{}")
    words = ["--shards", str(tmp_path), "--stage", "pretrain", "--model", str(tmp_path), "--dry-run"]
    assert train(words) == NOT_FINISHED
    assert re.sub(r"\w+\.py:\d+", "{}", capsys.readouterr().err) == f"{said}\n"


@pytest.mark.parametrize(
    ("home", "told"),
    [
        ("/src", "at shards/x.py:1"),
        ("/env/lib/python3.11/site-packages", "at shards/x.py:1"),
        ("/src/.venv/lib/site-packages/theirs", "at y.py:1"),
    ],
)
def test_an_error_is_placed_in_our_code_where_it_is_installed_too(
    home: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgpt.errors.__file__", f"{home.removesuffix('/.venv/lib/site-packages/theirs')}/medgpt/e.py")
    inner = compile("raise ValueError", f"{home}/numpy/y.py", "exec")
    outer = compile("exec(inner)", f"{home}/shards/x.py", "exec")
    with pytest.raises(ValueError) as caught:
        exec(outer, {"inner": inner})
    assert place(caught.value) == told


@pytest.mark.parametrize("module", ["builders.slake", "filters.run", "manifests.prove", "shards.show", "eval.score"])
def test_ctrl_c_while_a_command_is_imported_is_one_line(module: str, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Interrupted:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'medgpt.errors': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupted())\n"
    )
    path = os.pathsep.join((str(tmp_path), str(ROOT)))
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (1, "interrupted; run the same command again to go on\n")


@pytest.mark.parametrize(
    "words",
    [
        ("builders.medqa", "--raw", "s3://bucket/data", "--out", "built"),
        ("builders.corpus", "--raw", "gs://bucket/raw", "--role", "train", "--out", "built"),
        ("manifests.prove", "--train", "s3://bucket/a", "--eval", "b", "--out", "c"),
        ("filters.run", "hf://datasets/one"),
        ("shards.stats", "s3://bucket/data"),
    ],
)
def test_a_url_as_a_path_is_refused(words: tuple[str, ...], tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "this command works on files of this machine" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_wheel_takes_every_file_of_the_packages() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    taken = {pattern.removeprefix("*") for pattern in settings["package-data"]["*"]} | {".py"}
    rooms = [pattern.removesuffix("*") for pattern in settings["packages"]["find"]["include"] if pattern != "bench*"]
    files = [path for room in rooms for path in (ROOT / room).rglob("*") if path.is_file()]
    assert {path.suffix for path in files if "__pycache__" not in path.parts} <= taken
