"""Builders that filter by default, what their selection means to a reader, and the semantic duplicates' command."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from conftest import ROOT, run_module, tree_digest
from PIL import Image as Pillow

from builders.all import main as build_all
from builders.engine.command import main as build_main
from builders.engine.registry import load, modules
from filters.decide import main as decide_main
from filters.run import main as run_main
from filters.semantic_duplicates import main as duplicates_main
from manifests.catalog import LoadedBuild, load_builds
from manifests.selections import SelectionFileError, dropped_samples
from medgpt.digest import file_sha256, sealed
from shards.reader import Build

FILTERED_SOURCES = ("rocov2", "quilt_1m", "pmc_oa", "biomedica")


def _built(folder: Path) -> dict[str, str]:
    """Digests of all files but those that say where the raw files lie: the trees here are copies."""
    return {name: digest for name, digest in tree_digest(folder).items() if not name.endswith("/raw")}


def build(name: str, folder: Path, *options: str) -> int:
    """One of the four, from its demo tree, which is written first."""
    arguments = ["--demo", "--raw", str(folder / "raw" / name), "--out", str(folder / "built"), "--workers", "1"]
    return build_main(load(name), [*arguments, "--quiet", *options])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA with quilt_1m as it is built by default: its publisher's labels take some of the samples out."""
    pytest.importorskip("onnxruntime", reason="the filters' extra is not installed")
    folder = tmp_path_factory.mktemp("filtered")
    assert build("quilt_1m", folder) == 0
    return folder


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    shutil.copytree(made, tmp_path / "data")
    return tmp_path / "data"


def loaded(data: Path, name: str = "quilt_1m") -> LoadedBuild:
    [found] = load_builds(data / "built" / name)
    return found


def out(data: Path, name: str = "quilt_1m") -> Path:
    return data / "filtered" / name


def naive_dropped(data: Path, aged: str = "54F") -> list[str]:
    """What the publisher's table says of the pictures, read here a second time; another filter drops an age."""
    lines = (data / "raw" / "quilt_1m" / "predictions_quiltcleaner.csv").read_text().splitlines()[1:]
    persons = {line.split(",")[3]: float(line.split(",")[1]) for line in lines}
    stored = Build(data / "built" / "quilt_1m", role="train")
    return sorted(
        sample.record["id"]
        for sample in stored
        if persons.get(sample.record["images"][0]["image_id"].rpartition("/")[2], 0) >= 0.5
        or aged in str(sample.record["messages"])
    )


WORDS = {"class": "sample_filters:Words", "drop": "count >= 9", "not_scored": "drop"}


def recipe_file(folder: Path, source: str = "quilt_1m", drop: str = "count >= 9", **more: Any) -> Path:
    """A recipe of one cheap filter."""
    rules = {"words": WORDS | {"drop": drop}, **more}
    path = folder / "words.yaml"
    content = {
        "format": 1,
        "name": "words",
        "version": 3,
        "sources": {source: {"unreadable": "drop", "filters": rules}},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


# ---------------------------------------------------------------- what a builder does by default


def test_four_sources_filter_by_default_and_no_other() -> None:
    assert {name for name in modules() if load(name).filters} == set(FILTERED_SOURCES)
    for name in FILTERED_SOURCES:
        assert "--filters" in run_module(f"builders.{name}", "--help").stdout
    assert "--filters" not in run_module("builders.slake", "--help").stdout


def test_a_build_is_scored_decided_and_shown(made: Path) -> None:
    dropped = dropped_samples(made, loaded(made))
    assert dropped is not None and dropped.sha256 == file_sha256(out(made) / "selection.parquet").hex()
    assert dropped.sample_ids.to_pylist() == naive_dropped(made) != []
    waterfall = json.loads((out(made) / "waterfall.json").read_bytes())
    stored = {sample.record["id"] for sample in Build(made / "built" / "quilt_1m", role="train")}
    assert waterfall["read"] == len(stored) and waterfall["dropped"] == len(dropped.sample_ids)
    assert set(dropped.sample_ids.to_pylist()) < stored
    page = (out(made) / "gallery.html").read_text()
    assert "Dropped: quilt_cleaner" in page and "<svg" in page
    # Validation samples of the same build are no matter of filters.
    assert dropped_samples(made, loaded(made), role="eval") is None


def test_the_papers_recipe_is_the_publishers_table_alone_beside_the_papers_count(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = [str(data), "--recipe", "paper"]
    assert run_main([*named, "--build", "quilt_1m", "--quiet"]) == 1
    assert "quilt_cleaner needs its table" in capsys.readouterr().err
    table = data / "raw" / "quilt_1m" / "predictions_quiltcleaner.csv"
    assert run_main([*named, "--set", f"quilt_cleaner.table={table}", "--quiet"]) == 0
    assert decide_main(named) == 0
    dropped = dropped_samples(data, loaded(data))
    assert dropped is not None and dropped.sample_ids.to_pylist() == naive_dropped(data, "no such text") != []
    said = capsys.readouterr().out
    read = len(Build(data / "built" / "quilt_1m", role="train"))
    kept = read - len(dropped.sample_ids)
    assert f"kept here {kept} of {read}, {100 * kept / read:.1f} %; in the paper 359,725 of 1,017,712 rows" in said
    assert "not known of it: thresholds" in said and "in the paper 359,725" in (out(data) / "gallery.html").read_text()


def test_the_recipe_stands_beside_the_waterfall_with_its_thresholds(made: Path) -> None:
    asked = json.loads((out(made) / "recipe.json").read_bytes())
    recipe = ROOT / "filters" / "recipes" / "medgpt_oss.yaml"
    rules = yaml.safe_load(recipe.read_text())
    rules = rules["default"]["filters"] | rules["sources"]["quilt_1m"]["filters"]
    assert asked["recipe"] == {"name": "medgpt_oss", "version": asked["recipe"]["version"],
                               "sha256": file_sha256(recipe).hex()}  # fmt: skip
    assert asked["filters"]
    for entry in asked["filters"]:
        assert entry["drop"] == rules[entry["name"]].get("drop")
    assert set(asked["left_out"]) | {entry["name"] for entry in asked["filters"]} == {
        name for name, rule in rules.items() if rule is not False
    }
    # The build itself says nothing of it: its root would move with a threshold.
    assert "recipe" not in json.loads((made / "built" / "quilt_1m" / "build.json").read_bytes())


def test_shards_do_not_depend_on_the_filters(made: Path, tmp_path: Path) -> None:
    assert build("quilt_1m", tmp_path, "--filters", "none") == 0
    one, other = (tree_digest(data / "built" / "quilt_1m") for data in (tmp_path, made))
    assert {name for name in other if one.get(name) != other[name]} == {"build.json"}
    # Beside the root stands what is to follow.
    without, wanting = loaded(tmp_path).record, loaded(made).record
    assert without == sealed(wanting | {"filter_wanted": False}) and wanting["filter_wanted"]
    assert dropped_samples(tmp_path, loaded(tmp_path)) is None
    assert not (tmp_path / "filtered").exists() and not (tmp_path / "scores").exists()


def test_a_build_that_waits_for_its_selection_is_refused(data: Path) -> None:
    """As where the builder was killed after the build and before its filters."""
    shutil.rmtree(data / "filtered")
    with pytest.raises(SelectionFileError, match="begun and not finished"):
        dropped_samples(data, loaded(data))
    assert build("quilt_1m", data) == 0
    assert dropped_samples(data, loaded(data)) is not None


def test_none_takes_away_what_a_builder_selected_and_nothing_made_by_hand(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build("quilt_1m", data, "--filters", "none") == 0
    assert dropped_samples(data, loaded(data)) is None
    assert "all training samples stay" in capsys.readouterr().out
    assert decide_main([str(data), "--no-gallery"]) == 0  # the scores are there still
    assert build("quilt_1m", data, "--filters", "none") == 0
    assert "made by filters.decide, stays" in capsys.readouterr().out
    assert dropped_samples(data, loaded(data)) is not None


def test_a_recipe_of_ones_own_and_a_moved_threshold(data: Path, tmp_path: Path) -> None:
    before = _built(data / "built")
    mine = recipe_file(tmp_path)
    assert build("quilt_1m", data, "--filters", str(mine)) == 0
    stored = Build(data / "built" / "quilt_1m", role="train")
    words = {sample.record["id"]: len(sample.record["answer"].split()) for sample in stored}
    for threshold in (9, 10):
        recipe_file(tmp_path, drop=f"count >= {threshold}")
        assert build("quilt_1m", data, "--filters", str(mine)) == 0
        dropped = dropped_samples(data, loaded(data))
        assert dropped is not None
        assert dropped.sample_ids.to_pylist() == sorted(name for name, n in words.items() if n >= threshold)
        asked = json.loads((out(data) / "recipe.json").read_bytes())
        assert asked["filters"][0]["drop"] == f"count >= {threshold}" and asked["recipe"]["version"] == 3
    assert len(dropped.sample_ids) not in (0, len(words))
    assert _built(data / "built") == before  # nothing was built again
    assert build("quilt_1m", data) == 0  # and back to the default
    dropped = dropped_samples(data, loaded(data))
    assert dropped is not None and dropped.sample_ids.to_pylist() == naive_dropped(data)


def test_the_same_command_again_changes_nothing_and_leaves_a_later_decision_alone(data: Path, tmp_path: Path) -> None:
    before = _built(data)
    assert build("quilt_1m", data) == 0
    assert _built(data) == before
    # A stricter threshold, by hand, over the same scores.
    recipe = yaml.safe_load((ROOT / "filters" / "recipes" / "medgpt_oss.yaml").read_text())
    recipe["sources"]["quilt_1m"]["filters"]["quilt_cleaner"]["drop"] = "persons >= 0"
    (tmp_path / "stricter.yaml").write_text(yaml.safe_dump(recipe))
    assert decide_main([str(data), "--recipe", str(tmp_path / "stricter.yaml")]) == 0
    by_hand = dropped_samples(data, loaded(data))
    assert by_hand is not None and len(by_hand.sample_ids) > len(naive_dropped(data))
    assert build("quilt_1m", data) == 0
    again = dropped_samples(data, loaded(data))
    assert again is not None and again.sha256 == by_hand.sha256


@pytest.mark.parametrize("reduced", [["--limit", "1"], ["--no-images"]])
def test_a_build_that_is_refused_keeps_its_selection(data: Path, tmp_path: Path, reduced: list[str]) -> None:
    before = _built(data)
    for chosen in ([], ["--filters", "none"], ["--filters", str(recipe_file(tmp_path))]):
        assert build("quilt_1m", data, *reduced, *chosen) == 1
        assert _built(data) == before


def test_every_source_names_the_filters_that_would_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    for name in FILTERED_SOURCES:
        assert build(name, tmp_path, "--dry-run") == 0
        said = capsys.readouterr().out
        assert "compound: drop if compound >=" in said and "language_model left out (not given" in said
    assert "panel_type: scores only" in said
    assert build("quilt_1m", tmp_path, "--dry-run", "--json") == 0
    chosen = json.loads(capsys.readouterr().out)["filters"]
    assert "quilt_cleaner" in {entry["name"] for entry in chosen["filters"]}
    assert build("quilt_1m", tmp_path, "--dry-run", "--filters", "none") == 0
    assert "no filter would run" in capsys.readouterr().out
    assert not (tmp_path / "built").exists() and not (tmp_path / "filtered").exists()
    # Without the publisher's table that filter takes no part, and says so.
    (tmp_path / "raw" / "quilt_1m" / "predictions_quiltcleaner.csv").unlink()
    arguments = ["--raw", str(tmp_path / "raw" / "quilt_1m"), "--out", str(tmp_path / "built"), "--dry-run"]
    assert build_main(load("quilt_1m"), arguments) == 0
    assert "quilt_cleaner left out (not given: table)" in capsys.readouterr().out


def test_a_missing_extra_stops_before_the_build_and_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # import raises ImportError
    assert build("pmc_oa", tmp_path) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "pip install 'medgpt-oss[filters]'" in line and "--filters none" in line
    assert not (tmp_path / "built").exists()
    arguments = [
        "--raw",
        str(tmp_path / "raw"),
        "--out",
        str(tmp_path / "built"),
        "--demo",
        "--only",
        "pmc_oa",
        "slake",
    ]
    assert build_all([*arguments, "--json"]) == 1
    rows = {row["source"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["pmc_oa"]["state"] == "not built" and "medgpt-oss[filters]" in rows["pmc_oa"]["note"]
    assert rows["slake"]["state"] == "built"
    assert build("pmc_oa", tmp_path, "--filters", "none") == 0
    assert build("pmc_oa", tmp_path / "other", "--no-images") == 0  # nothing to look at


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (
            "format: 1\nname: x\nversion: 1\nsources: {slake: {unreadable: drop, filters: {compound: {}}}}",
            "no rules for",
        ),
        ("format: 1\nname: x\nversion: 1\nsources: {'*': {unreadable: drop, filters: {dust: {}}}}", "'dust'"),
        (None, "neither a YAML file nor a shipped recipe"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line_and_builds_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None, says: str
) -> None:
    path = tmp_path / "r.yaml"
    if content is not None:
        path.write_text(content)
    assert build("pmc_oa", tmp_path, "--filters", str(path)) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert says in line and "--filters none" in line
    assert not (tmp_path / "built").exists()


def test_a_filter_that_fails_leaves_the_build_and_no_selection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    faulty = {
        "class": "sample_filters:Faulty",
        "options": {"fault": "raise"},
        "drop": "value > 1",
        "not_scored": "drop",
    }
    broken = recipe_file(tmp_path, "pmc_oa", faulty=faulty)
    assert build("pmc_oa", tmp_path, "--filters", str(broken)) == 1
    [line] = capsys.readouterr().err.strip().splitlines()
    assert "built, but not filtered" in line and "faulty" in line
    with pytest.raises(SelectionFileError, match="begun and not finished"):
        dropped_samples(tmp_path, loaded(tmp_path, "pmc_oa"))
    recipe_file(tmp_path, "pmc_oa")
    assert build("pmc_oa", tmp_path, "--filters", str(broken)) == 0
    assert dropped_samples(tmp_path, loaded(tmp_path, "pmc_oa")) is not None


def test_a_split_without_training_samples_has_nothing_to_filter(tmp_path: Path) -> None:
    assert build("pmc_oa", tmp_path, "--split", "test", "--filters", str(recipe_file(tmp_path, "pmc_oa"))) == 0
    assert dropped_samples(tmp_path, loaded(tmp_path, "pmc_oa.test")) is None


def test_all_sources_in_one_run_filter_as_each_alone(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "raw", tmp_path / "raw")
    arguments = ["--raw", str(tmp_path / "raw"), "--out", str(tmp_path / "built"), "--workers", "2", "--json"]
    assert build_all([*arguments, "--dry-run"]) == 0
    assert "filters of medgpt_oss" in json.loads(capsys.readouterr().out)[0]["note"]
    assert build_all(arguments) == 0
    [row] = json.loads(capsys.readouterr().out)
    assert row["filtered"] == len(naive_dropped(made))
    for name in ("recipe.json", "selection.parquet", "waterfall.json", "gallery.html"):
        assert (out(tmp_path) / name).read_bytes() == (out(made) / name).read_bytes(), name
    assert build_all([*arguments, "--filters", "none"]) == 0
    assert "filtered" not in json.loads(capsys.readouterr().out)[0]
    assert dropped_samples(tmp_path, loaded(tmp_path)) is None


# ---------------------------------------------------------------- killed at any moment


SLOW = {"class": "sample_filters:Brightness", "options": {"nap": 0.3}, "drop": "mean > 255", "not_scored": "keep"}


def test_killed_while_scoring_it_is_refused_and_then_goes_on(tmp_path: Path) -> None:
    recipe = recipe_file(tmp_path, brightness=SLOW)
    command = [
        sys.executable, "-m", "builders.quilt_1m", "--demo", "--raw", str(tmp_path / "raw" / "quilt_1m"),
        "--out", str(tmp_path / "built"), "--filters", str(recipe), "--quiet", "--workers", "1",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        lock, limit = tmp_path / "scores" / "quilt_1m" / ".work" / "lock", time.monotonic() + 60
        while not lock.exists() and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert lock.exists() and not (out(tmp_path) / "waterfall.json").exists()
    with pytest.raises(SelectionFileError, match="begun and not finished"):
        dropped_samples(tmp_path, loaded(tmp_path))
    assert subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL, timeout=120).returncode == 0
    assert build("quilt_1m", tmp_path / "whole", "--filters", str(recipe)) == 0
    for name in ("recipe.json", "selection.parquet", "waterfall.json", "gallery.html"):
        assert (out(tmp_path) / name).read_bytes() == (out(tmp_path / "whole") / name).read_bytes(), name


class _Killed(BaseException):
    pass


@pytest.mark.parametrize("by_hand", [False, True])
def test_killed_between_any_two_files_a_reader_is_never_told_that_all_stay(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by_hand: bool
) -> None:
    """Another recipe over a build that was filtered: before every change of a file in turn, the process dies."""
    if by_hand:
        (out(data) / "recipe.json").unlink()
    recipe = recipe_file(tmp_path)
    verdicts = []
    real = {name: getattr(Path, name) for name in ("unlink", "rename", "replace", "touch")}
    for survived in range(40):
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(data, tmp_path / "copy")
        left = survived

        def counted(name: str, path: Path, *arguments: Any, **options: Any) -> Any:
            nonlocal left
            if "filtered" in path.parts:
                left -= 1
                if left < 0:
                    raise _Killed
            return real[name](path, *arguments, **options)

        with monkeypatch.context() as patched:
            for name in real:
                patched.setattr(Path, name, lambda path, *a, _name=name, **o: counted(_name, path, *a, **o))
            try:
                code = build("quilt_1m", tmp_path / "copy", "--filters", str(recipe))
            except _Killed:
                code = None
        if code is not None:
            break
        try:
            found = dropped_samples(tmp_path / "copy", loaded(tmp_path / "copy"))
            assert found is not None
            verdicts.append(found.sha256)
        except SelectionFileError:
            verdicts.append("refused")
    assert code == 0
    final = dropped_samples(tmp_path / "copy", loaded(tmp_path / "copy"))
    before = dropped_samples(data, loaded(data))
    assert final is not None and before is not None
    # The old selection, then nothing to rely on, then the new one.
    assert verdicts[0] == before.sha256 and "refused" in verdicts and len(verdicts) >= 5
    stages = [before.sha256, "refused", final.sha256]
    assert [stages.index(verdict) for verdict in verdicts] == sorted(stages.index(verdict) for verdict in verdicts)


# ---------------------------------------------------------------- what a reader is told


def test_a_selection_is_found_whatever_folder_the_reader_names(made: Path) -> None:
    found = dropped_samples(made, loaded(made))
    assert found is not None
    for named in (made / "built", made / "built" / "quilt_1m", made.parent):
        again = dropped_samples(named, loaded(made))
        assert again is not None and again.sha256 == found.sha256


def test_a_folder_of_builds_by_another_name_holds_its_own_selections(made: Path, tmp_path: Path) -> None:
    arguments = [
        "--raw",
        str(made / "raw" / "quilt_1m"),
        "--out",
        str(tmp_path / "corpus"),
        "--workers",
        "1",
        "--quiet",
    ]
    assert build_main(load("quilt_1m"), arguments) == 0
    [folder] = load_builds(tmp_path / "corpus")
    found = dropped_samples(tmp_path / "corpus", folder)
    assert found is not None and found.sample_ids.to_pylist() == naive_dropped(made)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus"]


def _edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = json.loads(path.read_bytes())
    change(content)
    path.write_text(json.dumps(content))


def _reseal(data: Path, table: pa.Table, meta: dict[bytes, bytes] | None = None) -> None:
    """Put another table in the selection's place, and its digest into the waterfall."""
    path = out(data) / "selection.parquet"
    metadata = meta if meta is not None else pq.read_metadata(path).metadata
    pq.write_table(table.replace_schema_metadata(metadata), path)
    _edit(out(data) / "waterfall.json", lambda content: content.update(selection_sha256=file_sha256(path).hex()))


def _flip_a_byte(data: Path) -> None:
    path = out(data) / "selection.parquet"
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def _other_root(data: Path) -> None:
    _edit(out(data) / "waterfall.json", lambda content: content.update(root="0" * 64))


def _other_root_in_the_table(data: Path) -> None:
    path = out(data) / "selection.parquet"
    _reseal(data, pq.read_table(path), {**pq.read_metadata(path).metadata, b"root": b"0" * 64})


def _other_recipe(data: Path) -> None:
    _edit(out(data) / "waterfall.json", lambda content: content["recipe"].update(sha256="0" * 64))


def _one_row_less(data: Path) -> None:
    _reseal(data, pq.read_table(out(data) / "selection.parquet").slice(1))


def _one_row_twice(data: Path) -> None:
    table = pq.read_table(out(data) / "selection.parquet")
    _reseal(data, pa.concat_tables([table.slice(0, 1), table.slice(0, len(table) - 1)]))


def _all_kept(data: Path) -> None:
    table = pq.read_table(out(data) / "selection.parquet")
    _reseal(data, table.set_column(1, table.schema.field(1), pa.array([True] * len(table))))


def _no_selection(data: Path) -> None:
    (out(data) / "selection.parquet").unlink()


def _no_waterfall(data: Path) -> None:
    (out(data) / "waterfall.json").unlink()


def _broken_waterfall(data: Path) -> None:
    (out(data) / "waterfall.json").write_text("{")


def _waterfall_of_something_else(data: Path) -> None:
    (out(data) / "waterfall.json").write_text("[]")


def _for_the_test_side(data: Path) -> None:
    _edit(out(data) / "waterfall.json", lambda content: content.update(role="eval"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (_flip_a_byte, "not the file that waterfall.json names"), (_other_root, "made for another build"),
        (_other_root_in_the_table, "made for another build"), (_other_recipe, "does not say once of each"),
        (_one_row_less, "does not say once of each"), (_one_row_twice, "does not say once of each"),
        (_all_kept, "does not say once of each"), (_no_selection, "No such file"), (_no_waterfall, "not finished"),
        (_broken_waterfall, "cannot be read"), (_waterfall_of_something_else, "no selection"),
        (_for_the_test_side, "does not say once of each"),
    ],
)  # fmt: skip
def test_a_selection_that_is_not_this_builds_is_refused_and_made_again(
    data: Path, damage: Callable[[Path], None], says: str
) -> None:
    damage(data)
    with pytest.raises(SelectionFileError, match=says) as caught:
        dropped_samples(data, loaded(data))
    assert "\n" not in str(caught.value)
    assert build("quilt_1m", data) == 0
    found = dropped_samples(data, loaded(data))
    assert found is not None and found.sample_ids.to_pylist() == naive_dropped(data)


def test_two_selections_of_one_build_are_refused(data: Path) -> None:
    shutil.copytree(data / "filtered", data / "built" / "filtered")
    with pytest.raises(SelectionFileError, match="two selections"):
        dropped_samples(data / "built", loaded(data))


def test_a_build_made_anew_is_filtered_anew(data: Path) -> None:
    raw = data / "raw" / "quilt_1m"
    table = raw / "quilt_1M_lookup.csv"
    table.write_text("".join(line for line in table.read_text().splitlines(keepends=True) if not line.startswith("2,")))
    arguments = ["--raw", str(raw), "--out", str(data / "built"), "--workers", "1", "--quiet"]
    assert build_main(load("quilt_1m"), [*arguments, "--filters", "none"]) == 0
    assert build_main(load("quilt_1m"), arguments) == 0
    found = dropped_samples(data, loaded(data))
    assert found is not None and found.sample_ids.to_pylist() == naive_dropped(data)


# ---------------------------------------------------------------- what must not reach a shard


def test_texts_beside_the_picture_reach_no_shard(tmp_path: Path) -> None:
    """EXIF and comments in JPEG and PNG, as exporters of DICOM files write whole headers; read back from the tar."""
    import zipfile
    from io import BytesIO

    from PIL.PngImagePlugin import PngInfo

    from builders.demos.drawings import demo_panel

    secret = b"DOE^JANE 1957-03-04 MRN 0012345"
    raw = tmp_path / "raw" / "pmc_oa"
    load("pmc_oa").write_demo(raw)
    picture = Pillow.open(BytesIO(demo_panel("PMC9000001", "Fig3", 0)))
    exif = Pillow.Exif()
    exif[0x010E] = exif[0x8298] = secret.decode()  # ImageDescription, Copyright
    # What DICOM exporters put into a comment: (group,element) VR value of the patient module (DICOM PS3.3, C.7.1.1).
    header = b"(0010,0010) PN [" + secret + b"]\n(0010,0030) DA [19570304]\n"
    jpeg, png = BytesIO(), BytesIO()
    picture.save(jpeg, "JPEG", exif=exif, comment=header, icc_profile=b"\0" * 128 + secret)
    info = PngInfo()
    info.add_text("DICOM", header.decode())
    info.add_itxt("PatientName", secret.decode(), zip=True)
    picture.save(png, "PNG", pnginfo=info, exif=exif)
    pictures = [jpeg.getvalue(), png.getvalue() + header]
    rows = [{"image": f"PMC900000{n}_F1_0.{kind}", "caption": f"Axial CT {n}."} for n, kind in ((1, "jpg"), (2, "png"))]
    with zipfile.ZipFile(raw / "images.zip", "w") as archive:
        for row, content in zip(rows, pictures, strict=True):
            archive.writestr(f"images/{row['image']}", content)
    (raw / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for split in ("valid", "test"):
        (raw / f"{split}.jsonl").write_text(json.dumps(rows[0]) + "\n")
    arguments = ["--raw", str(raw), "--out", str(tmp_path / "built"), "--quiet", "--filters"]
    assert build_main(load("pmc_oa"), [*arguments, str(recipe_file(tmp_path, "pmc_oa"))]) == 0
    needles = (b"DOE^JANE", b"MRN", b"0010,0010", b"PatientName", b"19570304", b"zTXt", b"iTXt", b"tEXt", b"Exif")
    written = [path for place in ("built", "scores", "filtered") for path in (tmp_path / place).rglob("*")]
    files = [path for path in written if path.is_file()]
    assert any(path.suffix == ".tar" for path in files)
    for path in files:
        content = path.read_bytes()
        assert not [needle for needle in needles if needle in content], path
    for before, sample in zip(pictures, Build(tmp_path / "built" / "pmc_oa", role="train"), strict=True):
        [stored] = sample.images
        assert any(needle in before for needle in needles)
        one, other = (np.asarray(Pillow.open(BytesIO(data)).convert("RGB")) for data in (before, stored))
        assert np.array_equal(one, other)  # the picture itself is the same


# ---------------------------------------------------------------- labels of publishers, to the decision


def test_biomedicas_clusters_and_quilt_cleaners_columns_reach_the_scores(made: Path, tmp_path: Path) -> None:
    [part] = (made / "scores" / "quilt_1m").glob("*.parquet")
    scored = pq.read_table(part, columns=["sample_id", "quilt_cleaner.persons"]).to_pylist()
    high = sorted(row["sample_id"] for row in scored if (row["quilt_cleaner.persons"] or 0) >= 0.5)
    assert high == naive_dropped(made, aged="no caption")
    rules = {"panel_type": {"drop": "panels == 'multiple'", "not_scored": "keep"}}
    assert (
        build("biomedica", tmp_path, "--filters", str(recipe_file(tmp_path, "biomedica", "count > 99", **rules))) == 0
    )
    multiple = [
        sample.record["id"]
        for sample in Build(tmp_path / "built" / "biomedica", role="train")
        if sample.record["subset"].endswith("/multiple")
    ]
    found = dropped_samples(tmp_path, loaded(tmp_path, "biomedica"))
    assert found is not None and found.sample_ids.to_pylist() == sorted(multiple) != []


# ---------------------------------------------------------------- semantic duplicates


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP model of random weights, as small as it gets, as a folder of open_clip."""
    open_clip = pytest.importorskip("open_clip", reason="open_clip and torch are not installed")
    torch = pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("clip")
    model: dict[str, Any] = {
        "embed_dim": 16, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
    }  # fmt: skip
    torch.manual_seed(0)
    torch.save(open_clip.CLIP(**model).state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": {}}))
    return folder


def test_semantic_duplicates_from_shards_to_the_decision(
    clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("quilt_1m", "pmc_oa"):
        assert build(name, tmp_path, "--filters", "none") == 0
    arguments = [str(tmp_path), "--weights", str(clip), "--quiet", "--threshold"]
    assert duplicates_main([*arguments, "0.9999"]) == 0
    table = tmp_path / "embeddings" / "duplicates.parquet"
    assert str(table) in capsys.readouterr().out
    rows = pq.read_table(table).to_pylist()
    # A second way: samples that show the very same bytes must be in it, each but the first, whatever the model.
    seen: dict[bytes, str] = {}
    same = {}
    for name in ("pmc_oa", "quilt_1m"):
        for sample in Build(tmp_path / "built" / name, role="train"):
            first = seen.setdefault(sample.images[0], sample.record["id"])
            if first != sample.record["id"]:
                same[sample.record["id"]] = first
    assert same and same.keys() <= {row["sample_id"] for row in rows}
    for row in rows:
        assert row["cosine"] >= 0.9999 and row["stays"] not in {other["sample_id"] for other in rows}
    # Again: nothing is embedded twice, and the bytes are the same; another threshold needs no model at all.
    before = tree_digest(tmp_path / "embeddings")
    weights = clip / "open_clip_pytorch_model.bin"
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "embeddings").rglob("*-*.parquet")}
    assert duplicates_main([*arguments, "0.9999"]) == 0 and weights.exists()
    assert tree_digest(tmp_path / "embeddings") == before
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    # The filter drops by it.
    rules = {"semantic_duplicates": {"needs": ["table"], "options": {"table": str(table)},
                                     "drop": "duplicate >= 0.5", "not_scored": "drop"}}  # fmt: skip
    mine = recipe_file(tmp_path, "quilt_1m", "count > 99", **rules)
    assert build("quilt_1m", tmp_path, "--filters", str(mine)) == 0
    found = dropped_samples(tmp_path, loaded(tmp_path))
    expected = sorted(row["sample_id"] for row in rows if row["build"] == "quilt_1m")
    assert found is not None and found.sample_ids.to_pylist() == expected != []


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--build", "nothing"], 2, "no build is called 'nothing'"),
        (["--weights", "/nowhere"], 1, "not there"),
    ],
)
def test_semantic_duplicates_say_what_is_wrong(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, says: str
) -> None:
    shutil.copytree(made / "built", tmp_path / "built")
    base = [] if "--weights" in arguments else ["--weights", "/nowhere"]
    assert duplicates_main([str(tmp_path), *base, *arguments, "--threshold", "0.9", "--quiet"]) == code
    [line] = capsys.readouterr().err.strip().splitlines()
    assert says in line


def test_a_table_of_duplicates_that_is_none_is_refused(tmp_path: Path) -> None:
    from filters.base import FilterError
    from filters.semantic_duplicates import SemanticDuplicates

    (tmp_path / "t.parquet").write_bytes(b"x")
    with pytest.raises(FilterError, match="no table of duplicates"):
        SemanticDuplicates(str(tmp_path / "t.parquet"))
    with pytest.raises(FilterError, match="needs its table"):
        SemanticDuplicates()


def test_help_of_the_duplicates_command_loads_nothing_heavy() -> None:
    code = (
        "import runpy, sys; sys.argv = ['x', '--help']\n"
        "try: runpy.run_module('filters.semantic_duplicates', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'pyarrow', 'duckdb', 'PIL', 'numpy', 'tqdm', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert re.search(r"example:\s+python -m filters\.semantic_duplicates", done.stdout)
