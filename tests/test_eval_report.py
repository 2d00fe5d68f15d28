"""The page and its Markdown: every number counted a second way, nothing credentialed shown, nothing loaded."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from conftest import run_module
from eval_builds import build_demos

from eval.audit import Published, PublishedRow, load_published
from eval.log import main as log_main
from eval.mcq import grade
from eval.records import Score, read_items, read_predictions, write_scores
from eval.report import main
from eval.report_tables import all_tables, read_run
from eval.run import main as run_main
from eval.score import main as score_main
from eval.tasks import open_benchmarks, select_tasks
from medgpt.digest import sealed

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builds: Any = (("slake", ()), ("medqa", ()), ("mimic_cxr", ("--task", "impression", "--shots", "1")))
    return build_demos(tmp_path_factory.mktemp("report"), builds)


def taint(folder: Path) -> None:
    """Scores as a proof and weights would have them: a made-up metric, every third item contaminated."""
    rows = []
    pairs = zip(read_items(folder / "items.jsonl"), read_predictions(folder / "predictions.jsonl"), strict=True)
    for number, (item, said) in enumerate(pairs):
        found = grade(said.text, item.options, item.gold)
        choice = item.kind == "choice"
        rows.append(Score(
            item.task, item.variant, item.sample_id, item.benchmark, item.cluster, item.slice, item.access,
            said.outcome, said.finish_reason == "length", item.exemplar == item.gold,
            verdict=None if not choice else "correct" if found.correct else "wrong" if found.reading.option
            else "invalid",
            gold=item.gold if choice else None, option=found.reading.option if choice else None,
            rule=found.reading.rule if choice else None, detail=found.reading.detail if choice else None,
            literal=found.literal if choice else None, strict=found.correct if choice else None,
            lenient=found.lenient if choice else None, metrics={} if choice else {"ratescore": 0.5 + number % 2 / 4},
            contaminated=number % 3 == 0, evidence=("exact_image/bytes",) if number % 3 == 0 else (),
        ))  # fmt: skip
    write_scores(folder / "scores.parquet", rows)


@pytest.fixture(scope="module")
def runs(data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    out = tmp_path_factory.mktemp("runs")
    tasks = ["--tasks", "slake", "medqa", "impression_1shot", "--quiet"]
    for name in ("majority", "constant=nonsense <b>B</b>\x02"):
        folder = out / name.partition("=")[0]
        assert run_main([str(data), *tasks, "--baseline", name, "--out", str(folder)]) == 0
        assert score_main([str(folder), "--quiet"]) == 0
        for task in folder.glob("*/task.json"):
            taint(task.parent)
    return [out / "majority", out / "constant"]


def page(runs: list[Path], out: Path, *more: str) -> str:
    assert main([*map(str, runs), "--out", str(out), *more]) == 0
    return out.read_text()


def cells(html: str) -> list[list[str]]:
    return [
        [unescape(cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", html, re.DOTALL)
    ]


def test_every_choice_number_is_that_of_the_records(runs: list[Path], data: Path, tmp_path: Path) -> None:
    html = page(runs, tmp_path / "r.html")
    rows = {(row[0], row[1]): row for row in cells(html) if len(row) == 12}
    for folder in runs:
        name = f"baseline: {folder.name}"
        for task in ("slake", "medqa"):
            items = read_items(folder / task / "items.jsonl")
            said = read_predictions(folder / task / "predictions.jsonl")
            grades = [grade(p.text, i.options, i.gold) for p, i in zip(said, items, strict=True)]
            k, n = sum(one.correct for one in grades), len(grades)
            row = rows[name, task]
            assert row[2].startswith(f"{n} of ") and row[3] == str(k) and row[4] == f"{100 * k / n:.2f}"
            assert row[8] == f"{100 * sum(one.reading.option is None for one in grades) / n:.1f}"
            golds = [item.gold for item in items]
            texts = [dict(item.options)[item.gold] for item in items]
            best = max(max(given.count(one) for one in given) for given in (golds, texts))
            assert row[11] == f"{100 * best / n:.1f}"
            low, high = (float(part) for part in row[5].removesuffix(" !").split(" to "))
            assert low <= 100 * k / n <= high


def test_clean_and_contaminated_items_stand_apart(runs: list[Path], tmp_path: Path) -> None:
    html = page(runs, tmp_path / "r.html")
    [row] = [row for row in cells(html) if row[:2] == ["baseline: majority", "slake"] and len(row) == 7]
    assert (row[2], row[4]) == ("10", "6") and row[6] == "exact_image/bytes 6"


def test_reports_show_means_and_what_the_exemplar_gave_away(runs: list[Path], tmp_path: Path) -> None:
    html = page(runs, tmp_path / "r.html")
    items = read_items(runs[0] / "impression_1shot/items.jsonl")
    values = [0.5 + number % 2 / 4 for number in range(len(items))]
    assert f"{sum(values) / len(values):.4f}" in html
    given = sum(item.exemplar == item.gold for item in items)
    assert given
    assert ["baseline: majority", "impression_1shot", "worked example is not the answer", str(len(items) - given)] in [
        row[:4] for row in cells(html)
    ]


def test_credentialed_questions_are_shown_only_when_asked(runs: list[Path], data: Path, tmp_path: Path) -> None:
    html = page(runs, tmp_path / "r.html", "--data", str(data))
    reports = {item.gold for item in read_items(runs[0] / "impression_1shot/items.jsonl")}
    hidden = "".join(path.read_text() for path in (tmp_path / "r.items").iterdir())
    assert not any(json.dumps(report)[1:-1] in hidden or report in unescape(html) for report in reports)
    assert "Is there a pleural effusion?" in hidden and hidden.count("data:image/jpeg;base64,") == 16
    assert "must stay where that data may be" not in html
    shown = page(runs, tmp_path / "s.html", "--data", str(data), "--show-credentialed")
    assert "must stay where that data may be" in shown
    assert {one["gold"] for one in shelf(tmp_path / "s.items") if one["id"].startswith("mimic")} == reports
    assert not any(report in (tmp_path / "s.md").read_text() + unescape(shown) for report in reports)


def shelf(folder: Path) -> list[dict[str, Any]]:
    """The items of a page's files, in their order."""
    files = sorted(folder.glob("[0-9]*.js"), key=lambda path: int(path.stem))
    lists = [json.loads(path.read_text().partition(",")[2].rpartition(")")[0]) for path in files]
    return [item for some in lists for item in some]


def test_a_run_without_its_shards_shows_every_question(runs: list[Path], data: Path, tmp_path: Path) -> None:
    html = page(runs, tmp_path / "r.html")
    found = {one["id"]: one for one in shelf(tmp_path / "r.items")}
    for task in ("slake", "medqa"):
        [benchmark] = open_benchmarks(data, select_tasks([task]))
        for question in benchmark:
            one = found[question.sample_id]
            texts = [part["text"] for turn in question.messages for part in turn["content"] if "text" in part]
            assert [part for _, parts in one["turns"] for part in parts if isinstance(part, str)] == texts
            assert one["gold"].startswith(question.gold) and len(one["answers"]) == len(runs)
    assert len(html) < 100_000 and not re.search(r"""(src|href)=['"]?(https?:)?//""", html)
    # A page of fewer questions leaves none of the earlier ones behind; one of none has no browser.
    page(runs, tmp_path / "r.html", "--samples", "1")
    assert len(shelf(tmp_path / "r.items")) == 3
    assert 'id="questions"' not in page(runs, tmp_path / "r.html", "--samples", "0")


def test_answers_that_are_markup_stay_text(runs: list[Path], tmp_path: Path) -> None:
    """That a browser shows them as text: the next test."""
    html = page(runs, tmp_path / "r.html")
    said = {given["text"] for one in shelf(tmp_path / "r.items") for given in one["answers"]}
    assert "nonsense <b>B</b>\x02" in said and "<b>B" not in html and "\x02" not in html
    assert "innerHTML" not in html and "script-src 'sha256-" in html and "'unsafe" not in html


DRIVE = """
load("index").then(async () => {
  const seen = () => document.querySelectorAll("#items details").length;
  const pick = async (name, value) => { at(name).value = value; await search(); return [found.length, seen()]; };
  const out = {all: await pick("words", ""), task: await pick("task", "slake"), wrong: await pick("verdict", "w")};
  await pick("verdict", "");
  out.contaminated = await pick("contaminated", "y");
  await pick("contaminated", "");
  out.words = await pick("words", "pleural");
  out.text = document.querySelector("#items").textContent.includes("<b>B</b>\ufffd");
  out.bold = [...document.querySelectorAll("#items b")].some((one) => one.textContent === "B");
  document.body.textContent = JSON.stringify(out);
});
"""


def test_the_browser_of_questions_filters_from_a_disk(runs: list[Path], data: Path, tmp_path: Path) -> None:
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    html = page(runs, tmp_path / "r.html")
    # The policy stays; it lets scripts beside the page run, so the test's own is one.
    (tmp_path / "drive.js").write_text(DRIVE)
    (tmp_path / "r.html").write_text(html.replace("</body>", '<script src="drive.js"></script></body>'))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", (tmp_path / "r.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    body = re.search(r"<body>(.*)</body>", done.stdout, re.DOTALL)
    assert body, done.stderr[-2_000:]
    found = json.loads(unescape(body[1]))
    scores = {name: read_run(folder).tasks["slake"].scores for name, folder in zip("ab", runs, strict=True)}
    items = shelf(tmp_path / "r.items")
    pleural = [one for one in items if "slake" in one["id"] and "pleural" in json.dumps(one).lower()]
    wrong = {score.sample_id for some in scores.values() for score in some if score.verdict == "wrong"}
    tainted = sum(score.contaminated is True for score in scores["a"])
    expected = {"all": len(items), "task": 16, "wrong": len(wrong), "contaminated": tainted, "words": len(pleural)}
    assert {name: found[name] for name in expected} == {name: [n, min(n, 20)] for name, n in expected.items()}
    assert found["text"] and not found["bold"]


def test_questions_that_fewest_runs_got_right_come_first(runs: list[Path], data: Path, tmp_path: Path) -> None:
    page(runs, tmp_path / "r.html")
    slake = [one for one in shelf(tmp_path / "r.items") if one["id"].startswith("slake/")]
    states = [[given["state"] for given in one["answers"]] for one in slake]
    assert len({one["id"] for one in slake}) == len(slake) == 16 and all(len(some) == len(runs) for some in states)
    right = [some.count("correct") for some in states]
    assert right == sorted(right) and right[-1]


def test_the_first_run_is_compared_with_the_others(runs: list[Path], data: Path, tmp_path: Path) -> None:
    from eval.compare import compare_runs

    html = page(runs, tmp_path / "r.html")
    found, _ = compare_runs(*runs)
    expected = {row.task: row for row in found if row.holm is not None}
    rows = {row[1]: row for row in cells(html) if len(row) == 11 and row[0] == "baseline: constant" and ":" in row[7]}
    assert rows.keys() >= {"slake", "medqa"}
    for task, row in rows.items():
        assert row[5] == f"{100 * expected[task].difference:+.2f}"
        assert row[7] == f"{expected[task].only_first} : {expected[task].only_second}"
    assert main([str(runs[0]), "--out", str(tmp_path / "one.html")]) == 0
    assert "Differences" not in (tmp_path / "one.html").read_text()


def test_runs_over_other_items_are_not_compared(runs: list[Path], data: Path, tmp_path: Path) -> None:
    short = tmp_path / "short"
    ask = [str(data), "--tasks", "slake", "medqa", "--baseline", "constant", "--out", str(short), "--limit", "3"]
    assert run_main([*ask, "--quiet"]) == 0 and score_main([str(short), "--quiet"]) == 0
    html = page([runs[0], short], tmp_path / "r.html", "--data", str(data))
    rows = [row for row in cells(html) if len(row) == 11 and row[2] == "not compared: other items"]
    assert [row[:2] for row in rows] == [["baseline: constant", "slake"], ["baseline: constant", "medqa"]]
    assert "Not the whole benchmarks: " in html and "slake 3 of 416" in html


def test_the_same_runs_give_the_same_bytes(runs: list[Path], data: Path, tmp_path: Path) -> None:
    found = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        page(runs, folder / "r.html", "--data", str(data))
        found.append({path.relative_to(folder): path.read_bytes() for path in folder.rglob("*.*") if path.is_file()})
    assert found[0] == found[1] and len(found[0]) > 3


def test_the_papers_numbers_stand_beside_ours(runs: list[Path], tmp_path: Path) -> None:
    loaded = [read_run(folder) for folder in runs]
    published = Published("A paper", ("One", "Two"), (PublishedRow("MedQA", "5", 1273, {"One": "12.34"}, grim="yn"),))
    tables = {table.title.partition(":")[0]: table for table in all_tables(loaded, published)}
    assert [row[:2] for row in tables["Table 5"].rows[2:]] == [
        ["One, as published", "12.34 ✓"], ["Two, as published", "? ✗"],
    ]  # fmt: skip
    assert len(tables["Table 4"].rows) == 2
    # The paper's table is whole, its figures stand in the column of its own reading, ours beside it.
    [table] = [one for one in all_tables(loaded, load_published()) if one.title.startswith("Table 4")]
    assert sum("the paper's reading, n " in head for head in table.head) == 6 and len(table.head) == 8
    rows = {row[0]: dict(zip(table.head, row, strict=True)) for row in table.rows}
    assert rows["MedGPT-oss, as published"]["SLAKE (official)"] == "-"
    assert rows["MedGPT-oss, as published"]["SLAKE (the paper's reading, n 836)"].startswith("71.53")
    assert rows["baseline: majority"]["SLAKE (the paper's reading, n 836)"] == "-"
    html = page(runs, tmp_path / "r.html")
    assert "Fewer than 20 clusters" in html and "slake (" in html


def test_numbers_of_different_kinds_share_no_column(runs: list[Path]) -> None:
    for table in all_tables([read_run(folder) for folder in runs], load_published()):
        if table.title.partition(":")[0] in ("Clean and contaminated items", "Slices"):
            reports = ["impression" in row[1] for row in table.rows]
            assert all(reports) == ("ratescore" in table.title) and any(reports) == all(reports)


def test_every_row_of_ours_is_one_of_the_papers() -> None:
    from eval.tasks import TASKS

    ours = {(task.row, task.table, task.paper_n) for task in TASKS if task.row}
    assert ours == {(row.row, row.table, row.n) for row in load_published().rows}


def test_the_certificate_is_named_or_said_to_be_missing(runs: list[Path], tmp_path: Path) -> None:
    assert "certificate none" in page(runs, tmp_path / "r.html")
    shutil.copytree(runs[0], tmp_path / "run")
    summary = tmp_path / "run/slake/summary.json"
    more = {"certificate": "ab" * 32, "lacking": ["3 texts were not compared"]}
    summary.write_text(json.dumps(json.loads(summary.read_text()) | more))
    html = page([tmp_path / "run"], tmp_path / "r.html")
    assert "certificate incomplete: 3 texts were not compared" in html
    assert f"certificate {'ab' * 32}" in html and "no certificate covers impression_1shot, medqa" in html


@pytest.mark.parametrize(
    ("damage", "says"),
    [("run.json", "give a folder that eval.run wrote"), ("slake/predictions.jsonl", "cannot be read")],
)  # fmt: skip
def test_what_is_missing_is_one_line(
    runs: list[Path], data: Path, tmp_path: Path, damage: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run" / damage).unlink()
    assert main([str(tmp_path / "run"), "--out", str(tmp_path / "r.html"), "--data", str(data)]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1 and not (tmp_path / "r.html").exists()


def test_tasks_without_scores_are_named(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(runs[0], tmp_path / "run")
    (tmp_path / "run/slake/scores.parquet").unlink()
    arguments = [str(tmp_path / "run"), str(runs[1]), "--out", str(tmp_path / "r.html")]
    assert main(arguments) == 3
    assert capsys.readouterr().err == "baseline: majority: not scored: slake\n"
    html = (tmp_path / "r.html").read_text()
    assert "baseline: majority: NOT SCORED: slake" in html
    assert any(row[:1] == ["baseline: majority"] and "not scored" in row for row in cells(html))
    for path in (tmp_path / "run").glob("*/summary.json"):
        path.unlink()
    assert main(arguments) == 2
    assert f"holds no scored task; run python -m eval.score {tmp_path}/run first" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert main([str(runs[0]), "--out", str(tmp_path / "file/r.html")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(str(tmp_path / "file")) and error.count("\n") == 1


def test_builds_of_another_version_are_refused(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = build_demos(tmp_path / "other", (("slake", ()), ("medqa", ())))
    build = other / "built/medqa/build.json"
    build.write_text(json.dumps(sealed(json.loads(build.read_text()) | {"parameters": {"other": 1}})))
    assert main([str(runs[0]), "--out", str(tmp_path / "r.html"), "--data", str(other)]) == 2
    error = capsys.readouterr().err
    assert "another version of the benchmark" in error or "not built" in error


def test_a_log_shows_every_question_without_its_build(runs: list[Path], data: Path, tmp_path: Path) -> None:
    """Read by inspect_ai itself where MEDGPT_INSPECT_PYTHON names an interpreter that has it."""
    assert log_main([str(runs[0]), "--out", str(tmp_path / "logs")]) == 0
    log = json.loads((tmp_path / "logs" / "slake.json").read_bytes())
    scores = read_run(runs[0]).tasks["slake"].scores
    assert [sample["id"] for sample in log["samples"]] == [score.sample_id for score in scores]
    [benchmark] = open_benchmarks(data, select_tasks(["slake"]))
    for sample, question, score in zip(log["samples"], benchmark, scores, strict=True):
        for part in question.messages[-1]["content"]:
            assert part.get("text", "") in sample["input"][-1]["content"]
        assert [hashlib.sha256(image).hexdigest() for image in question.images] == sample["metadata"]["pictures"]
        assert (
            sample["scores"]["medgpt"]["value"] == {"correct": "C", "wrong": "I", "invalid": "N"}[score.verdict or ""]
        )
        assert sample["scores"]["medgpt"]["metadata"]["contaminated"] == score.contaminated
    hidden = (tmp_path / "logs" / "impression_1shot.json").read_text()
    assert "(credentialed; not shown)" in hidden
    golds = [item.gold for item in read_items(runs[0] / "impression_1shot" / "items.jsonl")]
    assert not any(json.dumps(gold)[1:-1] in hidden for gold in golds)
    if python := os.environ.get("MEDGPT_INSPECT_PYTHON"):
        code = (
            "import sys, inspect_ai.log as log; print(*(len(log.read_eval_log(path).samples) for path in sys.argv[1:]))"
        )
        paths = sorted(map(str, (tmp_path / "logs").iterdir()))
        done = subprocess.run([python, "-c", code, *paths], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.split() == [str(len(json.loads(Path(path).read_bytes())["samples"])) for path in paths]


def test_help_answers_with_an_example() -> None:
    for command in ("eval.report", "eval.chat", "eval.serve"):
        done = run_module(command, "--help")
        assert done.returncode == 0 and "example" in done.stdout, command
        assert command == "eval.report" or "NOT FOR CLINICAL USE" in " ".join(done.stdout.split())
