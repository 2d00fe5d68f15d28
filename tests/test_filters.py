"""The framework around filters: recipes, scoring, deciding, galleries; with small filters of its own.

The pictures are grey squares whose brightness the tests know, so that every outcome can be computed a second time here.
"""

from __future__ import annotations

import ast
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
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sample_filters
import yaml
from conftest import ROOT, run_module, tree_digest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow

import filters.scores
from builders.engine.command import main as build_main
from builders.engine.rawfiles import read_bytes, text_of
from builders.engine.registry import load
from builders.engine.source import Image, Sample, Source, assistant, user
from builders.engine.tables import convert_rows, table_units
from filters.base import FilterError, Record, filter_class, shipped_filters
from filters.decide import main as decide_main
from filters.expressions import parse
from filters.gallery import waterfall_lines
from filters.recipe import Recipe, load_recipe
from filters.run import main as run_main
from filters.scores import run_build
from filters.selection import Decision, decide_build, explain
from medgpt.errors import UserError
from shards.reader import Build

SAMPLES = 300
MODULE = "sample_filters"

# ---------------------------------------------------------------- a small build


def _grey(number: int) -> int:
    return 37 * number % 251


def _plan(raw: Path, params: Mapping[str, Any]) -> Iterator[Any]:
    yield from table_units(raw, sorted(raw.glob("*.jsonl")), "train", "train")


def _sample(raw: Path, row: Any) -> Sample:
    number, caption = (text_of(row.values, name, row.file) for name in ("id", "caption"))
    place = f"pictures/{row.values['picture']}"
    return Sample(
        key=number,
        messages=[user(0, "Describe."), assistant(caption)],
        file=row.file,
        row=row.number,
        answer=caption,
        images=[Image(f"my/{row.values['picture']}", place, partial(read_bytes, raw / place, raw))],
    )


def _read(raw: Path, unit: Any, params: Mapping[str, Any]) -> Iterator[Any]:
    return convert_rows(raw, unit, partial(_sample, raw))


SOURCE = Source(
    name="my_pictures", title="-", homepage="-", revision="1", license="CC0-1.0", access="open", stage="pretrain",
    task="caption", modality="image-text", splits={"train": "train"}, obtain="-", plan=_plan, read=_read,
    published=lambda params: {"train": SAMPLES}, module="test_filters",
)  # fmt: skip


def caption(number: int) -> str:
    return " ".join(["<b>Grey</b>" if number % 2 else "Square", *(["word"] * (number % 5)), f"number {number}"])


def picture(size: tuple[int, int], grey: int) -> bytes:
    buffer = BytesIO()
    Pillow.new("L", size, grey).save(buffer, "PNG")
    return buffer.getvalue()


def make_build(folder: Path, samples: int = SAMPLES, odd: Mapping[int, bytes] | None = None, **replaced: Any) -> Path:
    """DATA with one build of two units; `odd` are pictures in place of the squares."""
    raw = folder / "raw"
    (raw / "pictures").mkdir(parents=True)
    rows = []
    for number in range(samples):
        (raw / "pictures" / f"{number}.png").write_bytes((odd or {}).get(number) or picture((40, 30), _grey(number)))
        rows.append({"id": str(number), "caption": caption(number), "picture": f"{number}.png"})
    parts = {"a": rows[: samples * 9 // 10], "b": rows[samples * 9 // 10 :]}  # one unit of two chunks, one small one
    for name, part in parts.items():
        (raw / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    source = Source(**{**vars(SOURCE), **replaced})
    assert build_main(source, ["--raw", str(raw), "--out", str(folder / "built"), "--quiet", "--workers", "1"]) == 0
    shutil.rmtree(raw)
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_build(tmp_path_factory.mktemp("data"))


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy of the build that a test may change, without scores."""
    shutil.copytree(made / "built", tmp_path / "data" / "built")
    return tmp_path / "data"


def folder_of(data: Path) -> Path:
    return data / "built" / "my_pictures"


BASE: dict[str, Any] = {
    "words": {"class": f"{MODULE}:Words", "drop": "count >= 6", "not_scored": "drop"},
    "brightness": {"class": f"{MODULE}:Brightness", "drop": "mean > 200", "not_scored": "keep"},
    "twice": {"class": f"{MODULE}:Twice", "after": ["brightness"], "drop": "mean < 40", "not_scored": "keep"},
}


def recipe_file(folder: Path, rules: Mapping[str, Any] = BASE, name: str = "recipe", unreadable: str = "drop") -> Path:
    path = folder / f"{name}.yaml"
    sources = {"my_pictures": {"unreadable": unreadable, "filters": rules}}
    content = {"format": 1, "name": name, "version": 1, "sources": sources}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def recipe(folder: Path, rules: Mapping[str, Any] = BASE, **options: Any) -> Recipe:
    return load_recipe(recipe_file(folder, rules, **options))


def changed(**thresholds: str) -> dict[str, Any]:
    return {name: rule | ({"drop": thresholds[name]} if name in thresholds else {}) for name, rule in BASE.items()}


def decided(data: Path, made_recipe: Recipe, **options: Any) -> Decision:
    decision = decide_build(folder_of(data), data, made_recipe, gallery=False, **options)
    assert decision is not None
    return decision


def selection(decision: Decision) -> dict[str, tuple[bool, str | None]]:
    rows = pq.read_table(decision.folder / "selection.parquet").to_pylist()
    return {row["sample_id"]: (row["kept"], row["reason"]) for row in rows}


def expected(numbers: Sequence[int]) -> dict[str, tuple[bool, str | None]]:
    """BASE applied to what the tests know of the pictures."""
    found: dict[str, tuple[bool, str | None]] = {}
    for number in numbers:
        mean = None if number % 7 == 3 else _grey(number)
        reason = None
        if len(caption(number).split()) >= 6:
            reason = "words"
        elif mean is not None and mean > 200:
            reason = "brightness"
        elif 2 * (mean or 0) < 40:
            reason = "twice"
        found[f"my_pictures/train/{number}"] = (reason is None, reason)
    return found


@pytest.fixture
def decodes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of samples whose pictures were decoded in this process."""
    seen: list[str] = []
    real = filters.scores.decode

    def counted(sample: Any) -> Any:
        seen.append(sample.record["id"])
        return real(sample)

    monkeypatch.setattr(filters.scores, "decode", counted)
    return seen


# ---------------------------------------------------------------- predicates

_NAMES = ("f.a", "f.b", "g.c")
_VALUES = st.one_of(st.none(), st.integers(-3, 3).map(float), st.floats(-2, 2).map(lambda x: round(x, 4)))


def _predicates() -> st.SearchStrategy[str]:
    names = st.sampled_from(["a", "b", "f.a", "g.c"])
    sides = st.one_of(names, st.integers(-3, 3).map(str), st.sampled_from(["0.5", "-1.25", "1e-3"]))
    signs = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
    simple = st.one_of(
        st.builds("{} {} {}".format, names, signs, sides),
        st.builds("{} {} {}".format, sides, signs, names),
        st.builds("{} {} {} {} 2".format, sides, signs, names, signs),
        st.builds("{} {} ({}, 0)".format, names, st.sampled_from(["in", "not in"]), st.integers(-3, 3)),
    )
    return st.recursive(
        simple,
        lambda inner: st.one_of(
            st.builds("({} and {})".format, inner, inner),
            st.builds("({} or {})".format, inner, inner),
            st.builds("not ({})".format, inner),
        ),
        max_leaves=6,
    )


_connection = duckdb.connect()
_KNOWN = {"f": frozenset("ab"), "g": frozenset("c")}


@given(_predicates(), st.lists(st.fixed_dictionaries(dict.fromkeys(_NAMES, _VALUES)), min_size=1, max_size=8))
def test_a_predicate_means_the_same_in_python_and_in_sql(text: str, rows: list[dict[str, float | None]]) -> None:
    predicate = parse(text, "f", _KNOWN)
    table = pa.table({name: pa.array([row[name] for row in rows], pa.float64()) for name in _NAMES})
    _connection.register("rows", table)
    found = _connection.execute(f"SELECT {predicate.sql(dict.fromkeys(_NAMES, 'number'))} FROM rows").fetchall()
    mine = [predicate.evaluate(row) for row in rows]
    assert mine == [value for (value,) in found]
    # Where nothing is missing, Python's own reading of the text decides.
    plain = re.sub(r"\b([fg])\.([abc])", r"\2", text)
    for row, value in zip(rows, mine, strict=True):
        if None not in row.values():
            names = {name[-1]: number for name, number in row.items()}
            assert value == eval(compile(ast.parse(plain, mode="eval"), "", "eval"), {}, names)


@given(_predicates())
def test_with_no_score_at_all_no_predicate_is_true(text: str) -> None:
    predicate = parse(text, "f", _KNOWN)
    assert predicate.evaluate(dict.fromkeys(_NAMES)) is None
    assert duckdb.sql(f"SELECT {predicate.sql(dict.fromkeys(_NAMES))}").fetchall() == [(None,)]


def test_texts_compare_by_equality_and_quotes_are_no_way_out() -> None:
    predicate = parse("""a in ("it's", 'x" OR 1=1 --') or a == 'y'""", "f", _KNOWN)
    values = ["it's", 'x" OR 1=1 --', "y", "z", None]
    with duckdb.connect() as connection:
        connection.register("rows", pa.table({"f.a": values}))
        found = connection.sql(f"SELECT {predicate.sql({'f.a': 'text'})} FROM rows").fetchall()
    assert [value for (value,) in found] == [True, True, True, False, None]
    assert [predicate.evaluate({"f.a": value}) for value in values] == [True, True, True, False, None]
    with pytest.raises(UserError, match="text"):
        predicate.sql({"f.a": "number"})
    with pytest.raises(UserError, match="text"):
        predicate.evaluate({"f.a": 1.0})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "write something like"),
        ("a >", "write something like"),
        ("a", "cannot stand there"),
        ("c > 1", "has no score 'c'; there are: a, b"),
        ("h.a > 1", "filter 'h' does not run before f; there are: f, g"),
        ("1 > 0", "without a score"),
        ("a + 1 > 2", "cannot stand there"),
        ("len('x') > a", "cannot stand there"),
        ("__import__('os').system('x') == a", "cannot stand there"),
        ("a.b.c > 1", "cannot stand there"),
        ("a > 'x'", "compared with =="),
        ("a is None", "cannot stand there"),
        ("a in b", "a list in brackets"),
        ("a > True", "cannot stand there"),
        ("a > 1e999", "cannot stand there"),
        ("(" * 300 + "a > 1" + ")" * 300, "write something like"),
        ("a > 1 and " * 200 + "a > 1", "characters"),
    ],
)
def test_what_is_no_predicate_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(text, "f", _KNOWN)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- recipes


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"words": {"drop": "count > 1", "not_scored": "drop"}}, "no filter is called 'words'"),
        ({"words": BASE["words"] | {"dorp": "x"}}, "no key is called dorp; there are after, class, drop"),
        ({"words": {"class": f"{MODULE}:Words", "drop": "count > 1"}}, "not_scored must be keep or drop"),
        ({"words": {"class": f"{MODULE}:Words", "not_scored": "keep"}}, "without drop means nothing"),
        ({"words": BASE["words"] | {"drop": "cuont > 1"}}, "has no score 'cuont'; there are: count, first"),
        ({"words": BASE["words"] | {"drop": "brightness.mean > 1"}, "brightness": BASE["brightness"]}, "before words"),
        ({"words": BASE["words"] | {"class": f"{MODULE}:Brightness"}}, "calls itself 'brightness'"),
        ({"words": BASE["words"] | {"class": f"{MODULE}:seventh"}}, "no subclass"),
        ({"words": BASE["words"] | {"class": "no_such_module:X"}}, "cannot be imported"),
        ({"words": BASE["words"] | {"class": f"{MODULE}:Nothing"}}, "has no Nothing"),
        ({"twice": BASE["twice"]}, "which is no filter of this source"),
        ({"brightness": BASE["brightness"] | {"after": ["twice"]}, "twice": BASE["twice"]}, "wait for each other"),
        ({"words": False}, "no filter is left"),
        ({"words": BASE["words"] | {"options": {"when": {1, 2}}}}, "options must be texts"),
    ],
)
def test_a_wrong_recipe_is_refused_in_one_line(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe(tmp_path, change).plan("my_pictures")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [("a: [", "expected"), ("[]", "Expected `object`, got `array`"), ("format: 1\nname: x\n", "version is missing"),
     ("format: 2\nname: x\nversion: 1\nsources: {a: {}}", "format 2"), ("\x00", "unacceptable"),
     ("format: 1\nname: x\nversion: 1\nsources: {a: {filters: {}}}", "unreadable must be keep or drop")],
)  # fmt: skip
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(UserError, match=says) as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "\n" not in str(caught.value)


def test_a_source_starts_from_the_default_and_may_replace_and_take_out(tmp_path: Path) -> None:
    content = {
        "format": 1, "name": "x", "version": 1, "default": {"unreadable": "drop", "filters": BASE},
        "sources": {
            "one": {},
            "two": {
                "unreadable": "keep",
                "filters": {"words": False, "brightness": BASE["brightness"] | {"drop": "mean > 1"}},
            },
            "*": {"filters": {"brightness": False, "twice": False}},
        },
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    found = load_recipe(tmp_path / "r.yaml")
    plans = {source: found.plan(source) for source in ("one", "two", "three")}
    names = {source: [step.name for step in plan.steps] for source, plan in plans.items() if plan}
    # Twice is cheaper than brightness, but must see what brightness found.
    assert names == {"one": ["words", "brightness", "twice"], "two": ["brightness", "twice"], "three": ["words"]}
    assert plans["two"] and plans["two"].unreadable == "keep"
    assert plans["two"].steps[0].drop and plans["two"].steps[0].drop.text == "mean > 1"
    del content["sources"]["*"]  # type: ignore[attr-defined]
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(content))
    assert load_recipe(tmp_path / "r.yaml").plan("three") is None


def test_a_filter_that_needs_what_is_not_given_is_left_out_and_that_is_said(data: Path, tmp_path: Path) -> None:
    faulty = {"class": f"{MODULE}:Faulty", "needs": ["fault"], "drop": "value > 0", "not_scored": "drop"}
    rules = BASE | {"faulty": faulty}
    found = recipe(tmp_path, rules)
    result = run_build(folder_of(data), data, found)
    assert result is not None
    assert result.document["left_out"] == {"faulty": "not given: fault"}
    assert decided(data, found).waterfall["left_out"] == {"faulty": "not given: fault"}
    assert run_build(folder_of(data), data, found, options={"faulty": {"fault": "none"}})
    assert decided(data, found).waterfall["kept"] == 0


def test_the_default_recipe_fits_its_filters_and_sources() -> None:
    found = load_recipe()
    assert set(found.sources) == {"pmc_oa", "quilt_1m", "rocov2", "biomedica"}
    for source in found.sources:
        plan = found.plan(source)
        assert plan is not None
        names = [step.name for step in plan.steps]
        assert {"compound", "narrator", "misleading_numbers", "relevance_rules"} <= set(names)
        assert {"overlaid_text", "screens", "plots"} <= set(names)
        assert plan.left_out.keys() >= {"language_model", "zero_shot"}
    assert found.plan("slake") is None


@pytest.mark.parametrize("path", sorted((ROOT / "filters" / "recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_found_by_name_and_fit_their_filters(path: Path) -> None:
    found = load_recipe(path.stem)
    assert found.name == path.stem and all(found.plan(source) for source in found.sources)
    for command in ("filters.run", "filters.decide"):
        assert path.stem in run_module(command, "--help").stdout


def test_every_shipped_filter_is_found_by_its_name() -> None:
    found = shipped_filters()
    assert len(found) >= 12
    for name in found:
        assert filter_class(name).name == name


def test_a_filter_is_found_by_its_presence_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lucky_numbers.py").write_text(
        "from filters.base import Filter\n\n\nclass Lucky(Filter):\n    name, version, scores, cost = "
        "'lucky_numbers', '1', {'sevens': 'count'}, 1.0\n"
    )
    with pytest.raises(UserError, match=r"no filter is called 'lucky_numbers'; there are: burned_in, compound.*lucky"):
        filter_class("lucky_numbers")
    monkeypatch.syspath_prepend(tmp_path)
    assert filter_class("lucky_numbers").scores == {"sevens": "count"}
    for name in ("json", "base", "no such thing", "filters.compound", ""):
        with pytest.raises(UserError, match="no filter is called"):
            filter_class(name)


def test_a_file_counts_by_its_content_wherever_it_lies(tmp_path: Path) -> None:
    from filters.quilt_cleaner import QuiltCleaner
    from filters.zero_shot import ZeroShot

    for number, text in enumerate(("a", "a", "b")):
        (tmp_path / f"{number}" / "deep").mkdir(parents=True)
        (tmp_path / f"{number}" / "deep" / "t.csv").write_text(text)
    tables = [QuiltCleaner.identity_options({"table": str(tmp_path / f"{n}" / "deep" / "t.csv")}) for n in range(3)]
    folders = [ZeroShot.identity_options({"weights": str(tmp_path / f"{n}"), "device": n}) for n in range(3)]
    for first, same, other in (tables, folders):
        assert first == same != other
    rules = {"quilt_cleaner": {"options": {"table": str(tmp_path / "none.csv")}}}
    with pytest.raises(UserError, match=r"quilt_cleaner: .*none\.csv: No such file"):
        recipe(tmp_path, rules).plan("my_pictures")


# ---------------------------------------------------------------- scoring and deciding


def test_the_selection_is_what_the_thresholds_say(data: Path, tmp_path: Path) -> None:
    found = recipe(tmp_path)
    result = run_build(folder_of(data), data, found)
    assert result is not None and result.scored == SAMPLES
    decision = decided(data, found)
    assert selection(decision) == expected(range(SAMPLES))
    waterfall = decision.waterfall
    counts = Counter(reason for kept, reason in expected(range(SAMPLES)).values() if not kept)
    assert waterfall["reasons"] == counts
    assert waterfall["kept"] + waterfall["dropped"] == waterfall["read"] == SAMPLES
    steps = {step["step"]: step for step in waterfall["steps"]}
    assert [steps[name]["dropped"] for name in ("words", "brightness", "twice")] == [
        counts["words"], counts["brightness"], counts["twice"],
    ]  # fmt: skip
    reached = [n for n in range(SAMPLES) if len(caption(n).split()) < 6]
    assert steps["brightness"]["reached"] == len(reached)
    assert steps["brightness"]["not_scored"] == sum(n % 7 == 3 for n in reached)
    lines = [left for _, left, _ in waterfall_lines(waterfall)]
    assert lines == sorted(lines, reverse=True) and lines[-1] == waterfall["kept"]
    written = json.loads((decision.folder / "waterfall.json").read_bytes())
    assert written == waterfall


def test_a_filter_sees_the_scores_of_those_it_comes_after_and_no_others(data: Path, tmp_path: Path) -> None:
    run_build(folder_of(data), data, recipe(tmp_path))
    [first, *_] = sorted((data / "scores" / "my_pictures").glob("*.parquet"))
    assert set(pq.read_table(first)["twice.others"].to_pylist()) == {"brightness.mean", None}


def test_any_number_of_workers_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    found = recipe(tmp_path)
    run_build(folder_of(data), data, found, workers=3)
    decide_build(folder_of(data), data, found)
    other = tmp_path / "other"
    shutil.copytree(data / "built", other / "built")
    run_build(folder_of(other), other, found, workers=1)
    decide_build(folder_of(other), other, found)
    for part in ("scores", "filtered"):
        assert tree_digest(data / part) == tree_digest(other / part)


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(data: Path, tmp_path: Path) -> None:
    slow = changed()
    slow["brightness"] = slow["brightness"] | {"options": {"nap": 0.004}}
    path = recipe_file(tmp_path, slow)
    command = ["filters.run", str(data), "--recipe", str(path), "--workers", "2", "--quiet"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    chance = random.Random(4)

    def chunks() -> set[str]:
        return {path.name for path in (data / "scores").rglob("*.parquet")}

    for _ in range(2):
        before = chunks()
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        # Killed soon after a chunk was finished, or before the first: both leave work to do.
        while chunks() == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.2))
        assert process.poll() is None, "the run was over before it could be killed: the test shows nothing"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert chunks() > before
        assert not (data / "scores" / "my_pictures" / "run.json").exists()
    subprocess.run([sys.executable, "-m", *command], env=environment, check=True, stdout=subprocess.DEVNULL)
    other = tmp_path / "other"
    shutil.copytree(data / "built", other / "built")
    run_build(folder_of(other), other, load_recipe(path))
    assert tree_digest(data / "scores") == tree_digest(other / "scores")


def test_what_was_scored_is_not_scored_again(data: Path, tmp_path: Path, decodes: list[str]) -> None:
    found = recipe(tmp_path)
    run_build(folder_of(data), data, found)
    assert len(decodes) == len(set(decodes)) > 0
    before = tree_digest(data / "scores")
    decodes.clear()
    result = run_build(folder_of(data), data, found)
    assert result is not None and result.scored == 0
    assert not decodes
    assert tree_digest(data / "scores") == before


def test_a_moved_threshold_decodes_only_what_is_newly_needed(data: Path, tmp_path: Path, decodes: list[str]) -> None:
    run_build(folder_of(data), data, recipe(tmp_path))
    seen = set(decodes)
    decodes.clear()
    # Stricter: everything needed is there, and no run is needed either.
    strict = recipe(tmp_path, changed(words="count >= 4", brightness="mean > 100"))
    stricter = selection(decided(data, strict))
    assert not decodes
    assert stricter != expected(range(SAMPLES))
    # Looser: exactly those that words threw out before, and the rest is left as it is.
    loose = recipe(tmp_path, changed(words="count >= 100"))
    with pytest.raises(FilterError, match=r"run filters\.run"):
        decided(data, loose)
    run_build(folder_of(data), data, loose)
    assert sorted(decodes) == sorted(
        f"my_pictures/train/{n}" for n in range(SAMPLES) if f"my_pictures/train/{n}" not in seen
    )
    assert len(decodes) == sum(len(caption(n).split()) >= 6 for n in range(SAMPLES))
    looser = selection(decided(data, loose))
    decodes.clear()
    run_build(folder_of(data), data, loose)
    assert not decodes
    # The same as if it had never been otherwise.
    other = tmp_path / "other"
    shutil.copytree(data / "built", other / "built")
    run_build(folder_of(other), other, loose)
    assert selection(decided(other, loose)) == looser
    run_build(folder_of(other), other, strict)
    assert selection(decided(other, strict)) == stricter


def test_an_added_filter_is_the_only_one_asked(
    data: Path, tmp_path: Path, decodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {"brightness": BASE["brightness"]}
    run_build(folder_of(data), data, recipe(tmp_path, few))
    decodes.clear()
    asked: list[str] = []
    real = filters.scores.ask

    def noted(made_filter: Any, step: Any, *rest: Any) -> None:
        asked.append(step.name)
        real(made_filter, step, *rest)

    monkeypatch.setattr(filters.scores, "ask", noted)
    more = recipe(tmp_path, {"words": BASE["words"], "brightness": BASE["brightness"]})
    run_build(folder_of(data), data, more)
    assert set(asked) == {"words"}
    assert not decodes
    # Both sets of scores stay: who goes back to the first recipe finds it done.
    run_build(folder_of(data), data, recipe(tmp_path, few))
    assert set(asked) == {"words"}
    # Another version of an option is another filter.
    other = {"brightness": BASE["brightness"] | {"options": {"nap": 0.0}}}
    run_build(folder_of(data), data, recipe(tmp_path, other))
    assert "brightness" in asked


def test_early_exit_changes_no_outcome(data: Path, tmp_path: Path, decodes: list[str]) -> None:
    found = recipe(tmp_path)
    run_build(folder_of(data), data, found)
    with_exit = selection(decided(data, found))
    assert len(decodes) < SAMPLES
    decodes.clear()
    run_build(folder_of(data), data, found, all_scores=True)
    # Again looked at are only those that a filter before the last had thrown out.
    assert sorted(decodes) == sorted(n for n, (_, reason) in with_exit.items() if reason in ("words", "brightness"))
    decision = decided(data, found)
    assert selection(decision) == with_exit
    rows = pq.read_table(decision.folder / "selection.parquet").to_pylist()
    assert any(len(row["reasons"]) > 1 for row in rows)
    assert all((row["reasons"][:1] or [None])[0] == row["reason"] for row in rows)
    skipped = [s for path in (data / "scores").rglob("*.parquet") for s in pq.read_table(path)["skipped"].to_pylist()]
    assert skipped == [[]] * SAMPLES


@pytest.mark.parametrize("outcome", ["keep", "drop"])
def test_a_missing_score_is_a_named_outcome(data: Path, tmp_path: Path, outcome: str) -> None:
    rules = {"brightness": BASE["brightness"] | {"not_scored": outcome}}
    found = recipe(tmp_path, rules)
    run_build(folder_of(data), data, found)
    decision = decided(data, found)
    without = sum(number % 7 == 3 for number in range(SAMPLES))
    [step] = [step for step in decision.waterfall["steps"] if step["step"] == "brightness"]
    assert (step["not_scored"], step["not_scored_outcome"]) == (without, outcome)
    assert decision.waterfall["reasons"].get("brightness/not_scored", 0) == (without if outcome == "drop" else 0)


# ---------------------------------------------------------------- bad input


@pytest.fixture(scope="module")
def odd_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples 0, 1, 2, 5: one pixel, a long thin slide, one damaged in the shard, one cut short; the rest is well."""
    folder = tmp_path_factory.mktemp("odd")
    noise = np.random.default_rng(0).integers(0, 255, (200, 200), np.uint8)
    cut = BytesIO()
    Pillow.fromarray(noise).save(cut, "PNG")
    odd = {0: picture((1, 1), 9), 1: picture((20_000, 20), 9), 2: picture((50, 50), 9), 5: cut.getvalue()}
    make_build(folder, 20, odd)
    [part] = (folder / "built" / "my_pictures" / "images").glob("*-00000.parquet")
    for row in (pq.read_table(part).to_pylist()[number] for number in (2, 5)):
        with (folder / "built" / "my_pictures" / "shards" / row["shard"]).open("r+b") as file:
            damaged = row["offset"] + (0 if row["sample_id"].endswith("/2") else row["length"] // 2)
            file.seek(damaged)
            file.write(b"\x00" * (row["offset"] + row["length"] - damaged))
    return folder


@pytest.mark.parametrize("outcome", ["drop", "keep"])
@pytest.mark.parametrize("early", [True, False])
def test_bad_pictures_have_named_reasons_and_the_recipe_settles_them(
    odd_build: Path, tmp_path: Path, outcome: str, early: bool
) -> None:
    shutil.copytree(odd_build / "built", tmp_path / "built")
    found = recipe(tmp_path, unreadable=outcome)
    run_build(folder_of(tmp_path), tmp_path, found, all_scores=not early)
    rows = [row for path in (tmp_path / "scores").rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    reasons = {int(row["sample_id"].rpartition("/")[2]): row["reason"] for row in rows if row["reason"]}
    assert reasons == {0: "image_too_small", 1: "image_too_large", 2: "corrupt_image", 5: reasons[5]}
    assert reasons[5] in ("truncated_image", "corrupt_image")
    decision = decided(tmp_path, found)
    chosen = selection(decision)
    for number, reason in reasons.items():
        assert chosen[f"my_pictures/train/{number}"] == ((False, reason) if outcome == "drop" else (True, None))
    for name, verdict in expected([number for number in range(20) if number not in reasons]).items():
        assert chosen[name] == verdict
    [step] = [step for step in decision.waterfall["steps"] if step["step"] == "readable picture"]
    assert step["reasons"] == Counter(reasons.values())
    assert decision.waterfall["kept"] + decision.waterfall["dropped"] == 20


def test_caption_filters_come_before_unreadable_pictures(odd_build: Path, tmp_path: Path) -> None:
    shutil.copytree(odd_build / "built", tmp_path / "built")
    found = recipe(tmp_path, changed(words="count >= 0"))
    for all_scores in (False, True):
        run_build(folder_of(tmp_path), tmp_path, found, all_scores=all_scores)
        assert set(selection(decided(tmp_path, found)).values()) == {(False, "words")}


def test_an_empty_caption_is_a_named_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "caption", lambda number: "  " if number == 3 else f"number {number}")
    data = make_build(tmp_path / "data", 6)
    found = recipe(tmp_path)
    run_build(folder_of(data), data, found)
    assert selection(decided(data, found))["my_pictures/train/3"] == (False, "empty_caption")


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("raise", "ZeroDivisionError"), ("few", "answers for"), ("undeclared", "not declared: more"),
        ("nan", "value is nan"), ("list", "is a list"), ("mixed", "now a text and now a number"),
    ],
)  # fmt: skip
def test_a_faulty_filter_stops_the_run_with_its_name_and_without_the_text(
    data: Path, tmp_path: Path, fault: str, says: str
) -> None:
    rules = {"faulty": {"class": f"{MODULE}:Faulty", "options": {"fault": fault}}}
    with pytest.raises(UserError) as caught:
        run_build(folder_of(data), data, recipe(tmp_path, rules))
    assert says in str(caught.value) and "faulty" in str(caught.value)
    assert "Square" not in str(caught.value) and "\n" not in str(caught.value)
    assert not (data / "scores" / "my_pictures" / "run.json").exists()


def test_a_filter_of_the_main_process_that_stops_loses_nothing(
    data: Path, tmp_path: Path, decodes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a language model whose endpoint goes down: the pictures are not looked at again."""
    monkeypatch.setattr(sample_filters.Faulty, "in_main_process", True)
    monkeypatch.setattr(sample_filters.Faulty, "runtime_options", ("fault",))
    faulty = {"class": f"{MODULE}:Faulty", "options": {"fault": "down"}, "drop": "value > 5", "not_scored": "drop"}
    rules = BASE | {"faulty": faulty}
    found = recipe(tmp_path, rules)
    plan = found.plan("my_pictures")
    assert plan is not None and plan.steps[-1].name == "faulty"
    with pytest.raises(FilterError, match="down"):
        run_build(folder_of(data), data, found)
    seen = len(decodes)
    assert seen
    result = run_build(folder_of(data), data, found, options={"faulty": {"fault": "none"}})
    assert len(set(decodes)) == len(decodes)  # the first unit's pictures were there already
    assert result is not None
    # Only what the others left over was shown to it.
    rows = [row for part in result.document["parts"] for row in pq.read_table(result.folder / part["file"]).to_pylist()]
    asked = {row["sample_id"] for row in rows if row["faulty.value"] is not None}
    assert asked == {name for name, (kept, _) in expected(range(SAMPLES)).items() if kept}


def test_scores_of_another_build_are_not_used(data: Path, tmp_path: Path) -> None:
    found = recipe(tmp_path)
    run_build(folder_of(data), data, found)
    old = set((data / "scores" / "my_pictures").glob("*.parquet"))
    shutil.rmtree(data / "built")
    make_build(tmp_path / "again", SAMPLES - 10)
    shutil.move(tmp_path / "again" / "built", data / "built")
    with pytest.raises(FilterError, match="built anew"):
        decided(data, found)
    run_build(folder_of(data), data, found)
    assert selection(decided(data, found)) == expected(range(SAMPLES - 10))
    assert not old & set((data / "scores" / "my_pictures").glob("*.parquet"))


def test_an_altered_or_missing_part_is_seen(data: Path, tmp_path: Path) -> None:
    found = recipe(tmp_path)
    with pytest.raises(FilterError, match=r"run filters\.run first"):
        decided(data, found)
    result = run_build(folder_of(data), data, found)
    assert result is not None
    path = result.folder / result.document["parts"][0]["file"]
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FilterError, match="changed since"):
        decided(data, found)
    path.unlink()
    with pytest.raises(FilterError, match=r"run filters\.run again"):
        decided(data, found)
    run_build(folder_of(data), data, found)
    assert path.read_bytes() == content


def test_another_filter_version_or_option_is_not_taken_for_this_one(data: Path, tmp_path: Path) -> None:
    run_build(folder_of(data), data, recipe(tmp_path))
    rules = changed()
    rules["brightness"] = rules["brightness"] | {"options": {"nap": 0.001}}
    with pytest.raises(FilterError, match="brightness was not scored as this recipe asks"):
        decided(data, recipe(tmp_path, rules))


def test_two_runs_of_one_build_do_not_meet(data: Path, tmp_path: Path) -> None:
    import fcntl

    lock = data / "scores" / "my_pictures" / ".work" / "lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process"):
            run_build(folder_of(data), data, recipe(tmp_path))


# ---------------------------------------------------------------- what is shown


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.text: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_shows_outcomes_and_escapes_what_captions_say(data: Path, tmp_path: Path, decodes: list[str]) -> None:
    found = recipe(tmp_path)
    run_build(folder_of(data), data, found)
    decodes.clear()
    decision = decide_build(folder_of(data), data, found)
    assert decision is not None and not decodes
    page = _Page((decision.folder / "gallery.html").read_text())
    text = "".join(page.text)
    assert page.tags["svg"] == 1 and page.tags["script"] == 0 and page.tags["b"] == 0
    assert "<b>Grey</b>" in text  # the caption's markup, as text
    assert page.sources and all(source.startswith("data:image/jpeg;base64,") for source in page.sources)
    for heading in ("Dropped: words", "Dropped: brightness", "Dropped: twice", "Borderline: brightness", "Kept"):
        assert heading in text
    for number in (f"{decision.waterfall[key]:,}" for key in ("read", "kept", "dropped")):
        assert number in text
    # Borderline cases are those nearest to the threshold.
    means = {n: _grey(n) for n in range(SAMPLES) if n % 7 != 3 and len(caption(n).split()) < 6}
    nearest = min((value, n) for n, value in means.items() if value >= 200)[1]
    borderline = text.partition("nearest at or above 200")[2].partition("Borderline")[0]
    assert f"my_pictures/train/{nearest}" in borderline
    first = (decision.folder / "gallery.html").read_bytes()
    decide_build(folder_of(data), data, found)
    assert (decision.folder / "gallery.html").read_bytes() == first


def test_where_a_classifier_of_ones_own_and_a_rule_disagree_is_counted_and_shown(data: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    # Bright from a mean of 190.5 on; the rule says 200.
    constants = {"w": np.tile(np.float32([0, 1000 / 192]), (192, 1)), "b": np.float32([0, -1000 * 190.5 / 255])}
    nodes = [("Flatten", ["x"], ["f"]), ("MatMul", ["f", "w"], ["m"]), ("Add", ["m", "b"], ["y"])]
    graph = helper.make_graph(
        [helper.make_node(*node) for node in nodes], "bright",
        [helper.make_tensor_value_info("x", kind, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", kind, ["n", 2])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "bright.onnx")
    options = {
        "weights": str(tmp_path / "bright.onnx"), "classes": ["dark", "bright"], "reasons": {"brightness": ["bright"]},
        "mean": [0, 0, 0], "std": [1, 1, 1],
    }  # fmt: skip
    classifier = {"options": options, "drop": "drop >= 0.5", "not_scored": "drop"}
    found = recipe(tmp_path, {"brightness": BASE["brightness"], "picture_classifier": classifier})
    run_build(folder_of(data), data, found, all_scores=True)
    decision = decide_build(folder_of(data), data, found)
    assert decision is not None
    [opinions] = decision.waterfall["second_opinions"]
    asked = [number for number in range(SAMPLES) if number % 7 != 3]
    only = {f"my_pictures/train/{number}" for number in asked if 190 < _grey(number) <= 200}
    both = sum(_grey(number) > 200 for number in asked)
    counted = [opinions[name] for name in ("both", "only_filter", "only_rule", "neither")]
    assert counted == [both, len(only), 0, len(asked) - both - len(only)] and only
    examples = opinions["examples"]["only_filter"]
    assert len(examples) == min(6, len(only)) and set(examples) <= only
    text = "".join(_Page((decision.folder / "gallery.html").read_text()).text)
    shown = text.partition("Disagreement: picture_classifier and brightness")[2]
    assert f"{len(only)} samples that picture_classifier would drop as brightness and brightness would not" in shown
    assert examples[0] in shown and "picture_classifier.label: bright" in shown
    # The content of the weights decides whether scores are up to date.
    (tmp_path / "bright.onnx").write_bytes((tmp_path / "bright.onnx").read_bytes() + b"\x0a\x00")
    again = run_build(folder_of(data), data, found, all_scores=True)
    assert again is not None and again.scored == SAMPLES


def test_credentialed_pictures_and_texts_are_shown_only_when_asked_for(tmp_path: Path) -> None:
    data = make_build(tmp_path / "data", 30, access="credentialed")
    found = recipe(tmp_path)
    run_build(folder_of(data), data, found)
    pages = []
    for show in (False, True):
        decision = decide_build(folder_of(data), data, found, show_credentialed=show)
        assert decision is not None
        pages.append((decision.folder / "gallery.html").read_text())
    hidden, shown = map(_Page, pages)
    assert hidden.tags["img"] == 0 and "Square" not in pages[0] and "Grey" not in pages[0]
    assert "my_pictures/train/" in "".join(hidden.text)
    assert shown.tags["img"] > 0 and "Square" in pages[1]


@pytest.mark.parametrize("all_scores", [False, True])
def test_explaining_agrees_with_deciding_for_every_sample(odd_build: Path, tmp_path: Path, all_scores: bool) -> None:
    shutil.copytree(odd_build / "built", tmp_path / "built")
    found = recipe(tmp_path)
    run_build(folder_of(tmp_path), tmp_path, found, all_scores=all_scores)
    for name, (kept, reason) in selection(decided(tmp_path, found)).items():
        said = explain(tmp_path, found, name)
        assert said.splitlines()[0].endswith(": kept" if kept else f": dropped: {reason}")
        assert "Square" not in said.replace("words.first = Square", "")
    assert "brightness.mean = 222" in explain(tmp_path, found, "my_pictures/train/6")
    assert "drops (drop if mean > 200; not scored: keep)" in explain(tmp_path, found, "my_pictures/train/6")
    with pytest.raises(FilterError, match="no scored sample"):
        explain(tmp_path, found, "my_pictures/train/999")


# ---------------------------------------------------------------- the commands


def test_the_commands_end_to_end(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(recipe_file(tmp_path))
    assert decide_main([str(data), "--recipe", path]) == 1
    assert "run python -m filters.run" in capsys.readouterr().err
    assert run_main([str(data), "--recipe", path, "--quiet", "--build", "my_pictures"]) == 0
    assert decide_main([str(data), "--recipe", path]) == 0
    assert "kept" in capsys.readouterr().out
    assert decide_main([str(data), "--recipe", path, "--json"]) == 0
    [waterfall] = json.loads(capsys.readouterr().out)
    assert waterfall["read"] == SAMPLES
    assert decide_main([str(data), "--recipe", path, "--explain", "my_pictures/train/0"]) == 0
    assert "words.count" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--build", "nothing"], 2, "no build is called 'nothing'; there are: my_pictures"),
        (["--recipe", "missing.yaml"], 2, "missing.yaml"),
        (["--set", "nonsense.x=1"], 2, "no such filter"),
        (["--set", "words=1"], 2, "write FILTER.OPTION=VALUE"),
        (["--set", "words.x=["], 2, "not YAML"),
        (["--role", "eval"], 2, "nothing was scored"),
    ],
)
def test_wrong_usage_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    base = [] if "--recipe" in arguments else ["--recipe", str(recipe_file(tmp_path))]
    assert run_main([str(data), *base, *arguments, "--quiet"]) == code
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["filters.run", "filters.decide"])
def test_help_loads_nothing_heavy(command: str) -> None:
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module({command!r}, run_name='__main__')\n"
        "except SystemExit: pass\n"
        "heavy = {'pyarrow', 'duckdb', 'PIL', 'numpy', 'tqdm', 'yaml', 'onnxruntime', 'torch'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "examples:" in done.stdout


def test_the_readmes_example_filter_works(data: Path, tmp_path: Path) -> None:
    """The worked example of "Add a filter" is run as it stands: its module, its recipe, the two commands."""
    readme = (ROOT / "docs/howto/filter.md").read_text()
    [code] = re.findall(r"<!-- example filter -->\n```python\n(.*?)```", readme, re.DOTALL)
    [rules] = re.findall(r"<!-- example recipe -->\n```yaml\n(.*?)```", readme, re.DOTALL)
    assert len(code.splitlines()) <= 25
    (tmp_path / "too_dark.py").write_text(code)
    (tmp_path / "mine.yaml").write_text(rules)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    for command in ("filters.run", "filters.decide"):
        done = subprocess.run(
            [sys.executable, "-m", command, str(data), "--recipe", "mine.yaml"], cwd=tmp_path, env=environment,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    waterfall = json.loads((data / "filtered" / "my_pictures" / "waterfall.json").read_bytes())
    assert waterfall["reasons"] == {"too_dark": sum(_grey(number) < 30 for number in range(SAMPLES))}


# ---------------------------------------------------------------- labels of publishers


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for name in ("quilt_1m", "biomedica"):
        arguments = ["--demo", "--raw", str(folder / "raw" / name), "--out", str(folder / "built"), "--workers", "1"]
        assert build_main(load(name), [*arguments, "--quiet"]) == 0
    return folder


def records(folder: Path) -> list[Record]:
    return [Record(stored.record) for stored in Build(folder, role="train")]


def test_biomedicas_panel_type_is_read_from_the_samples(labelled: Path) -> None:
    from filters.panel_type import PanelType

    found = records(labelled / "built" / "biomedica")
    answers = [row["panels"] for row in PanelType().score(found)]
    assert answers == [record.sample["subset"].partition("/")[2] for record in found]
    assert set(answers) == {"single", "multiple"}
    other = records(labelled / "built" / "quilt_1m")
    assert [row["panels"] for row in PanelType().score(other)] == [None] * len(other)


def test_quilt_cleaners_table_is_found_by_picture(labelled: Path) -> None:
    from filters.quilt_cleaner import LABELS, QuiltCleaner

    table = labelled / "raw" / "quilt_1m" / "predictions_quiltcleaner.csv"
    lines = [line.split(",") for line in table.read_text().splitlines()[1:]]
    persons = {name: float(value) for _, value, _, name in lines}
    made_filter = QuiltCleaner(str(table))
    found = records(labelled / "built" / "quilt_1m")
    answers = made_filter.score(found)
    assert [row["persons"] for row in answers] == [
        persons.get(record.sample["images"][0]["image_id"].rpartition("/")[2]) for record in found
    ]
    assert all(row["panels"] is None and set(row) == set(LABELS) for row in answers)  # the demo table has two columns
    other = records(labelled / "built" / "biomedica")
    assert all(set(row.values()) == {None} for row in made_filter.score(other))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("Filename,x\na.jpg,1\n", "no column Filename, or none of"),
        ("Filename,Persons/Photos\na.jpg,1.5\n", "no probability"),
        ("Filename,Persons/Photos\na.jpg,often\n", "no number"),
        ("", "mpty"),
        (None, "No such file"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path: Path, content: str | None, says: str) -> None:
    from filters.quilt_cleaner import QuiltCleaner

    if content is not None:
        (tmp_path / "t.csv").write_text(content)
    with pytest.raises(FilterError, match=says):
        QuiltCleaner(str(tmp_path / "t.csv"))
    with pytest.raises(FilterError, match="needs its table"):
        QuiltCleaner()
