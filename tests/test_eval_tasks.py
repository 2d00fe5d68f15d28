"""The rows as declarations: items come from builds, questions keep their gold to themselves, own tasks are short."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from io import BytesIO
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT, run_module
from eval_builds import build_demos
from PIL import Image

from builders.corpus import main as corpus_main
from eval.tasks import SHORT, TASKS, Task, load_task_file, make_question, open_benchmarks, select_tasks
from medgpt.errors import UserError
from shards.reader import Build, StoredSample

PAPER_ROWS = {  # evaluation.md, section 1.1: the paper's row and its n
    "MedXQA (multimodal)": 2000, "MedXQA (text-only)": 2450, "SLAKE": 836, "MedFrameQA": 2851, "MMMU-Med": 175,
    "MMMU-Med-Pro (4 options)": 286, "MMMU-Med-Pro (10 options)": 286, "MedQA": 1273, "MedMCQA": 4183,
    "PubMed QA": 500, "MMLU-Med": 1395, "Medbullets": 298, "MIMIC-CXR": 2231, "Patient-trial (0-shot)": 4936,
    "Patient-trial (1-shot)": 4936, "Impression (0-shot)": 1564, "Impression (1-shot)": 1564,
}  # fmt: skip


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_demos(tmp_path_factory.mktemp("eval-demo"))


def test_every_row_of_the_tables_is_a_task() -> None:
    assert {task.row: task.paper_n for task in TASKS if task.row} == PAPER_ROWS
    labels = [task.label for task in TASKS]
    assert len(labels) == len(set(labels))
    assert msgspec.convert(msgspec.to_builtins(TASKS), tuple[Task, ...]) == TASKS  # as a task file's are checked


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["slake"], ["slake"]),
        (["slake:paper", "slake", "slake"], ["slake", "slake:paper"]),
        (["table6"], ["patient_trial_0shot", "patient_trial_1shot", "impression_0shot", "impression_1shot"]),
        (["figure2"], ["mimic_findings"]),
        (["medqa:5_options"], ["medqa:5_options"]),
    ],
)
def test_tasks_are_chosen_by_name_or_table(names: list[str], expected: list[str]) -> None:
    assert [task.label for task in select_tasks(names)] == expected


def test_groups_take_one_variant_of_each_row() -> None:
    official, paper = select_tasks(["all"]), select_tasks(["all:paper"])
    assert [task.name for task in official] == [task.name for task in paper]
    assert {task.row for task in official} == set(PAPER_ROWS)
    assert {task.variant for task in official} == {"official"}
    assert {task.name for task in paper if task.variant == "paper"} >= {"slake", "mmmu_med", "patient_trial_0shot"}


@pytest.mark.parametrize(
    ("name", "says"),
    [("slak", "no such task; there are: medxpertqa_mm"), ("slake:mine", "slake comes as slake, slake:paper"),
     ("table4:mine", "has a variant 'mine'")],
)  # fmt: skip
def test_unknown_tasks_are_one_line(name: str, says: str) -> None:
    with pytest.raises(UserError, match=says) as error:
        select_tasks([name])
    assert "\n" not in str(error.value)


def test_items_are_those_of_the_build_and_no_others(data: Path) -> None:
    """Counted a second way: straight from the stored samples."""
    tasks = select_tasks(["all", "slake:paper", "slake_open"])
    for benchmark in open_benchmarks(data, tasks):
        task = benchmark.task
        ids = [question.sample_id for question in benchmark]
        stored = [
            sample.record["id"]
            for sample in Build(data / "built" / task.build)
            if sample.record["role"] == "eval"
            and sample.record["split"] in task.splits
            and task.subset in ("", sample.record["subset"])
        ]
        assert ids == stored and ids, task.label
        assert task.name != "slake_open" or not any(question.options for question in benchmark)


def test_the_gold_answer_is_never_in_the_question(data: Path) -> None:
    for benchmark in open_benchmarks(data, select_tasks(["all"])):
        stored = {sample.record["id"]: sample.record for sample in Build(benchmark.folder, role="eval")}
        for question in benchmark:
            record = stored[question.sample_id]
            assert question.messages[-1]["role"] == "user"
            told = [part["text"] for part in record["messages"][-1]["content"]]
            kept = [
                part["text"]
                for turn in question.messages
                for part in turn["content"]
                if part["type"] == "text" and turn["role"] != "assistant"
            ]
            assert not set(told) & set(kept), question.sample_id
            places = [part["index"] for turn in question.messages for part in turn["content"] if "index" in part]
            assert sorted(places) == list(range(len(question.images))), question.sample_id
            if question.options:
                assert question.gold in dict(question.options)


def test_one_shot_questions_show_one_worked_example_of_another_subject(data: Path) -> None:
    for benchmark in open_benchmarks(data, select_tasks(["patient_trial_1shot", "impression_1shot"])):
        for question in benchmark:
            roles = [turn["role"] for turn in question.messages]
            assert roles == ["user", "assistant", "user"] and question.exemplar
        stored = Build(benchmark.folder, role="eval")
        for sample in stored:
            shown = {image["subject_id"] for image in sample.record["images"] if image["relation"] == "exemplar"}
            assert sample.record["group"]["subject_id"] not in shown


def test_clusters_group_what_belongs_together(data: Path) -> None:
    tasks = select_tasks(["slake", "medframeqa", "patient_trial_0shot"])
    slake, frames, trial = open_benchmarks(data, tasks)
    assert max(Counter(question.cluster for question in slake).values()) > 1
    assert all(question.cluster.startswith("slake/xmlab") for question in slake)
    assert all(question.cluster.startswith("youtube/") for question in frames)
    assert {question.cluster for question in trial} == {
        sample.record["group"]["subject_id"] for sample in Build(trial.folder, role="eval")
    }


def test_a_question_without_context_is_the_question_and_its_options(data: Path) -> None:
    with_context, without = open_benchmarks(data, select_tasks(["pubmedqa", "pubmedqa:no_context"]))
    for one, other in zip(with_context, without, strict=True):
        [long], [short] = one.messages[-1]["content"], other.messages[-1]["content"]
        assert short["text"].split("\n\n")[0] in long["text"] and len(short["text"]) < len(long["text"])
        assert one.gold == other.gold and one.options == other.options
        assert "A. yes\nB. no\nC. maybe" in short["text"]


def test_a_task_of_your_own_is_a_few_lines(tmp_path: Path, data: Path) -> None:
    """The how-to's example as it stands; at most 15 lines."""
    found = re.findall(
        r"<!-- example task -->\n```yaml\n(.*?)```", (ROOT / "docs/howto/benchmark.md").read_text(), re.DOTALL
    )
    [example] = found
    assert len(example.splitlines()) <= 15
    (tmp_path / "tasks.yaml").write_text(example)
    [task] = load_task_file(tmp_path / "tasks.yaml")
    done = run_module(
        "eval.run", str(data), "--task-file", str(tmp_path / "tasks.yaml"), "--tasks", task.label,
        "--baseline", "majority", "--out", str(tmp_path / "out"), "--quiet",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert f"next: python -m eval.score {tmp_path / 'out'} --data {data}\n" in done.stdout
    lines = (tmp_path / "out" / task.label.replace(":", ".") / "predictions.jsonl").read_text().splitlines()
    assert lines and all(json.loads(line)["outcome"] == "answered" for line in lines)


def test_own_tasks_run_beside_the_others(tmp_path: Path, data: Path) -> None:
    file = tmp_path / "tasks.yaml"
    file.write_text("- name: sounds\n  build: medqa\n  splits: [dev]\n  max_new_tokens: 8\n")
    tasks = select_tasks(["sounds", "medqa"], load_task_file(file))
    medqa, own = open_benchmarks(data, tasks)
    assert own.task.name == "sounds" and {q.sample_id.split("/")[1] for q in own} == {"dev"}
    assert medqa.task.digest != own.task.digest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- name: x\n", "build is missing"),
        ("name: x", "Expected `array`"),
        ("- {name: x, build: medqa, colour: red}", "no key is called colour"),
        ("- {name: x, build: medqa, splits: test}", "splits: Expected `array`"),
        ("- {name: x, build: medqa, max_new_tokens: true}", "max_new_tokens: Expected `int`"),
        ("- {name: x, build: medqa, max_new_tokens: 0}", "max_new_tokens: Expected `int` >= 1"),
        ("- {name: x, build: medqa, cluster: nose}", "cluster: 'nose' is none of image"),
        ("- {name: x, build: medqa, kind: poem}", "kind: 'poem' is none of choice, report"),
        ("- {name: ../x, build: medqa}", "name: Expected `str` matching"),
        ("- {name: medqa, build: medqa}", "is the name of a task that is there already"),
        ("- [", "not YAML"),
        (f"- [{'a, ' * 100_000}]", "not YAML .*more than the limit of 262,144"),
        ("- &a {name: x}\n- {<<: [*a, *a], build: medqa}", "merge keys .* are not read"),
    ],
    ids=range(13),
)
def test_bad_task_files_are_one_line(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "t.yaml").write_text(text)
    with pytest.raises(UserError, match=says) as error:
        load_task_file(tmp_path / "t.yaml")
    assert "\n" not in str(error.value) and "t.yaml" in str(error.value)


def test_a_pipe_or_an_endless_device_for_a_task_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.yaml")
    for name in ("endless.yaml", "pipe.yaml"):
        with pytest.raises(UserError, match=f"{name}: cannot be read .not a file."):
            load_task_file(tmp_path / name)


def test_missing_builds_and_splits_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not built: medqa.5opt; build them \(python -m builders.medqa --help"):
        open_benchmarks(data, select_tasks(["medqa:5_options"]))
    file = tmp_path / "t.yaml"
    file.write_text("- {name: x, build: medqa, splits: [night]}\n- {name: y, build: medqa, shots: 1}\n")
    with pytest.raises(UserError, match=r"needs split night, but it holds dev, test"):
        open_benchmarks(data, select_tasks(["x"], load_task_file(file)))
    [benchmark] = open_benchmarks(data, select_tasks(["y"], load_task_file(file)))
    with pytest.raises(UserError, match=r"medqa/test/1 \(task y\): 0 worked examples, the task says 1"):
        list(benchmark)


def test_pathvqa_is_parted_into_open_and_closed_questions(tmp_path: Path, data: Path) -> None:
    """Rows as in the hub's Parquet (image, question, answer), read by the corpus builder."""
    rows = []
    for number in range(3):
        picture = BytesIO()
        Image.new("RGB", (32, 32), (40 * number, 90, 120)).save(picture, "JPEG")
        image = {"bytes": picture.getvalue(), "path": None}
        for question, answer in (("what is present?", "liver"), ("is it a cell?", "No" if number else "yes")):
            rows.append({"image": image, "question": question, "answer": answer})
    (tmp_path / "raw").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "raw/test-00000-of-00001.parquet")
    mapping = str(ROOT / "examples/pathvqa.yaml")
    given = ["--role", "eval", "--mapping", mapping, "--out", str(tmp_path / "built"), "--quiet"]
    assert corpus_main(["--raw", str(tmp_path / "raw"), *given]) == 0
    closed, opened = map(list, open_benchmarks(tmp_path, select_tasks(["pathvqa_closed", "pathvqa_open"])))
    assert [one.gold for one in closed] == ["A", "B", "B"] and [one.gold for one in opened] == ["liver"] * 3
    assert closed[0].options == (("A", "Yes"), ("B", "No")) and not opened[0].options
    assert closed[0].messages[-1]["content"][-1]["text"].startswith("is it a cell?\n\nA. Yes\nB. No\n\nAnswer with")
    assert [one.cluster for one in closed] == [one.cluster for one in opened] and len(opened[0].images) == 1
    # SLAKE's test side calls "kidney or spleen?" closed; it is answered "Liver", which is no No.
    [task] = select_tasks(["slake"])
    stored = next(iter(Build(tmp_path / "built/pathvqa.eval", role="eval")))
    odd = make_question(task, StoredSample(stored.record | {"answer": "Liver", "subset": "closed"}, stored.images))
    assert (odd.options, odd.gold) == ((), "Liver") and odd.messages[-1]["content"][-1]["text"].endswith(SHORT)
    assert len({one.cluster for one in closed}) == 3
    assert "pathvqa_open" not in {task.label for task in select_tasks(["all", "open"])}
    with pytest.raises(UserError, match=r"not built: pathvqa\.eval; build them \(python -m builders\.corpus"):
        open_benchmarks(data, select_tasks(["pathvqa_open"]))
