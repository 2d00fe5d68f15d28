"""The pages of docs/: short sentences, a reference made from the code, a tutorial whose commands run as printed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
import shlex
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, call_module

from builders.engine.command import main as build
from builders.engine.registry import load, modules
from filters.base import shipped_filters
from manifests import parts
from medgpt.__main__ import DOORS
from medgpt.errors import DAMAGED, DONE, NOT_COMPARED

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
WORDS = 25
SLOW = pytest.mark.skipif("CI_SLOW" not in os.environ, reason="two minutes of a processor; set CI_SLOW=1")


def sentences(text: str) -> list[str]:
    """Of prose, lists and cells of tables; code is one word, a generated table is not hand-written."""
    text = re.sub(r"(?s)<!-- sources -->.*?<!-- /sources -->|```.*?```|<!--.*?-->", "\n\n", text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"`[^`]*`", "code", text))
    blocks: list[str] = []
    for line in text.splitlines():
        if line.startswith("|"):
            blocks += [*line.strip("|").split("|"), ""]
        elif not line.strip() or re.match(r"\s*([-*+]|\d+\.|#+)\s", line):
            blocks.append(line)
        else:
            blocks[-1:] = [f"{blocks[-1] if blocks else ''} {line}"]
    return [
        part.strip()
        for block in blocks
        for part in re.split(r"(?<=[.!?])[)\"*]*\s+(?=[\"(*]*(?:[A-Z0-9]|code))", block)
    ]


def test_no_sentence_is_longer_than_25_words() -> None:
    assert sentences("One two. Three `a b` four\nfive.\n\n| six | seven. Eight |")[1] == "Three code four five."
    long = [
        f"{path.relative_to(ROOT)}: {sentence}"
        for path in PAGES
        for sentence in sentences(path.read_text())
        if len(re.findall(r"\w[\w'’.,%-]*", sentence)) > WORDS
    ]
    assert not long, "\n".join(long)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 200


def test_the_reference_names_what_the_code_declares() -> None:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None and spec.loader is not None
    reference = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reference)
    pages = reference.pages()
    named = [entry for group in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"] for entry in flat(group)]
    there = {path.relative_to(ROOT / "docs").as_posix() for path in PAGES[1:]}
    assert sorted(named) == sorted({*there, *pages, *reference.TAKEN.values()})
    for page, names in (
        ("commands", [f"medgpt {name}" for group in DOORS.values() for name in group]),
        ("sources", modules()),
        ("schemas", [name for table in (parts.SAMPLES, parts.IMAGES, parts.REJECTS) for name in table.names]),
    ):
        for name in names:
            assert f"`{name}`" in pages[f"reference/{page}.md"], name
    for name in shipped_filters():
        assert f"\n## {name}\n" in pages["reference/filters.md"]
    assert "| quilt_1m | narrator | `narrator >= 0.5` | drop |" in pages["reference/filters.md"]
    assert re.findall(r"(?m)^\| (\d) \|", pages["reference/exit-codes.md"]) == list("01234")
    described = [line for line in pages["reference/schemas.md"].splitlines() if line.startswith("| `")]
    assert not [line for line in described if line.endswith("|  |")], "a field without a word"
    linked = reference.linked("[a](../../bench/RESULTS.md#b) [`x`](../../x) [y](../../x)", "docs/a/b.md", "a/b.md")
    assert linked == "[a](../project/results.md#b) `x` y (`x`)"


def flat(entry: object) -> list[str]:
    """Pages of a part of the navigation."""
    if isinstance(entry, str):
        return [entry]
    assert isinstance(entry, dict | list)
    return [page for part in (entry.values() if isinstance(entry, dict) else entry) for page in flat(part)]


@pytest.mark.parametrize(("page", "least"), [("README.md", 5), pytest.param("docs/tutorial.md", 15, marks=SLOW)])
def test_commands_run_as_printed(page: str, least: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / page).read_text().partition("## Serve it")[0]  # which needs a trained model: tests/test_readme.py
    lines = re.findall(r"(?m)^python -m [^#\n]*", text)
    assert len(lines) >= least
    monkeypatch.chdir(tmp_path)
    # What came before on the page, `make demo`, must not stand in the way of the builds below `data`.
    assert build(load("vqa_rad"), ["--demo", "--quiet"]) == DONE and (tmp_path / "demo/built/vqa_rad").is_dir()
    for line in lines:
        _, _, module, *words = shlex.split(line)
        monkeypatch.setattr("sys.argv", [module, *words])
        room, _, name = module.partition(".")
        if room == "builders" and name:
            code = build(load(name), words)
        else:
            code = importlib.import_module(module if name else f"{module}.__main__").main(words)
        assert code in (DONE, DAMAGED), line


EXAMPLES = (
    "shards.stats", "shards.show", "shards.verify", "shards.pack", "shards.resume_check", "shards.export",
    "filters.run", "filters.decide", "filters.review", "browse.__main__",
)  # fmt: skip
"""Commands whose `--help` prints examples for `data`, in an order in which they can follow each other."""


@pytest.fixture(scope="module")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, as `make demo` leaves it, of a few sources: no certificate of all benchmarks."""
    folder = tmp_path_factory.mktemp("examples")
    sources = ("slake", "medqa", "pmc_oa", "quilt_1m", "gemex_thinkvg")
    words = (
        "--demo",
        "--filters",
        "none",
        "--raw",
        "data/raw",
        "--out",
        "data/built",
        "--workers",
        "1",
        "--only",
        *sources,
    )
    assert call_module("builders.all", *words, cwd=folder).returncode in (DONE, DAMAGED)
    assert call_module("manifests.prove", "data", "--benchmarks", "present", cwd=folder).returncode == DONE
    return folder


@pytest.mark.parametrize("module", [*EXAMPLES, "docs/shards.md"])
def test_examples_run_as_printed(module: str, demo_data: Path) -> None:
    text = (ROOT / module).read_text() if module.endswith(".md") else call_module(module, "--help").stdout
    text = text if module.endswith(".md") else text.partition("\nexample")[2]
    lines = re.findall(r"(?m)^(?:s?: | *)(python -m [^#\n]*|medgpt [^#\n]*)", text)
    asked = [
        line for line in lines if "--endpoint" not in line and " agree " not in line and line != "medgpt browse data"
    ]
    assert asked
    for line in asked:
        words = shlex.split(line.replace("python -m ", "").replace("medgpt browse", "browse.__main__"))
        done = call_module(*words, cwd=demo_data)
        named = NOT_COMPARED if "--stage instruct" in line else DONE  # a credentialed source is not exported
        assert done.returncode in (DONE, named), (line, done.stderr)


def test_the_stream_is_opened_as_printed(demo_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = [
        one for one in re.findall(r"(?s)```python\n(.*?)```", (ROOT / "docs/shards.md").read_text()) if "Loader" in one
    ]
    pytest.importorskip("torch")
    monkeypatch.chdir(demo_data)
    found: dict[str, object] = {}
    exec(block.replace("epochs=None", "epochs=1").replace("workers=4", "workers=0"), found)
    assert isinstance(found["state"], dict) and found["state"]["epoch"] == 1
