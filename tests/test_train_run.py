"""`train.run` as it is run: on one and two ranks, killed, resumed, exported, and refused.

Pictures are cut into one tile (`data.max_enlargement`), so that a step takes a fraction of a second; the vocabulary is
the real one. Learning rates are raised, so that losses move and a wrong gradient shows.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT

pytest.importorskip("deepspeed")

import torch
from safetensors.torch import load_file, save_file

from builders.cli import main as build
from builders.registry import load
from manifests.policy import load_policy
from manifests.prove import prove
from shards.certified import load_certified
from shards.mixture import Mixture
from shards.order import EpochOrder
from shards.pack import ensure_plan
from shards.stream import Stream
from train import assemble
from train import run as command
from train.checkpoint import Checkpoint, CheckpointError
from train.config import STAGES
from train.log import read_log
from train.model import SIZES, load_module

STEPS = 3
SETTINGS = (
    "data.mixture=mixture.yaml", "data.length=1980", "data.tiles=13", "data.packs_per_step=2", "data.workers=1",
    "data.max_enlargement=0.01", "engine.precision=fp32", "engine.zero=3", "engine.compile=false",
    "engine.checkpointing=none", "optimizer.vision_lr=1e-2", "optimizer.projector_lr=1e-2", "optimizer.llm_lr=1e-2",
    "loss.chunk=256",
)  # fmt: skip
LORA = (
    "train.llm=lora", "train.lora_rank=4", "train.lora_alpha=8", "train.vision=freeze", "watch.evaluate_every=1",
    "watch.evaluate=cp {model}/model.safetensors {out}/seen-{step}",
)  # fmt: skip
MIXTURE = """\
format: 1
name: test
sources:
  - {build: rocov2, samples: 4}
  - {build: medqa, samples: 4}
"""

# Several runs in one process, for a start takes ten seconds. What each says, and whether checkpoints and models that
# were there are touched, goes to a file.
DRIVER = """\
import contextlib, json, os, sys, tempfile
from pathlib import Path
import torch.distributed as dist
from train.run import main

dist.destroy_process_group = lambda: None  # DeepSpeed cannot begin again where the group has ended

def there(out):
    files = [p for part in ("checkpoints", "model") for p in (out / part).rglob("*") if p.is_file()]
    return {str(p.relative_to(out)): (p.stat().st_size, p.stat().st_mtime_ns) for p in sorted(files)}

work = Path(sys.argv[1])
for name, cwd, arguments in json.loads(Path(sys.argv[2]).read_text()):
    os.chdir(work / cwd)
    out = Path(arguments[arguments.index("--out") + 1])
    before = there(out)
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
            code = main(arguments)
        texts = []
        for file in (said, complained):
            file.seek(0)
            texts.append(file.read())
    result = {"code": code, "out": texts[0], "err": texts[1], "kept": before == there(out)}
    (work / f"{name}.{os.environ['RANK']}.json").write_text(json.dumps(result))
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with DATA (certified), a mixture and a tiny model; removed at the end, for checkpoints are large."""
    work = tmp_path_factory.mktemp("train")
    data = work / "data"
    for name in ("rocov2", "medqa"):
        arguments = ["--demo", "--raw", str(work / "raw" / name), "--out", str(data / "built")]
        assert build(load(name), [*arguments, "--workers", "1", "--quiet"]) in (0, 3)
    assert prove(data, data / "proof", load_policy())["clean"]
    (work / "mixture.yaml").write_text(MIXTURE)
    (work / "driver.py").write_text(DRIVER)
    tiny = SIZES["tiny"]
    narrow = tiny | {"text": tiny["text"] | {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}}
    with pytest.MonkeyPatch.context() as patch:  # 200,000 rows of 64 would be most of the tests' time
        patch.setitem(SIZES, "tiny", narrow)
        assert assemble.main(["--size", "tiny", "--dtype", "fp32", "--out", str(work / "model")]) == 0
    yield work
    shutil.rmtree(work)


def arguments(work: Path, out: str, stage: str, *settings: str, steps: int | None = STEPS, **paths: str) -> list[str]:
    """Arguments of a run; `paths` are other shards and another model."""
    length = [] if steps is None else ["--steps", str(steps), "--quiet"]
    return [
        "--shards", str(work / paths.get("shards", "data")), "--model", str(work / paths.get("model", "model")),
        "--stage", stage, "--out", str(work / out), *length,
        *(part for setting in (*SETTINGS, *settings) for part in ("--set", setting)),
    ]  # fmt: skip


def start(work: Path, ranks: int, module: list[str]) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)] if ranks > 1 else []
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}  # with two, torch adds in any order
    return subprocess.Popen(
        [sys.executable, *launcher, *module],
        cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def drive(work: Path, ranks: int, jobs: Sequence[tuple[str, str, list[str]]]) -> dict[str, list[dict[str, Any]]]:
    """Results by name and rank of (name, folder to run in, arguments)."""
    path = work / f"jobs-{ranks}-{jobs[0][0]}.json"
    path.write_text(json.dumps(jobs))
    process = start(work, ranks, [str(work / "driver.py"), str(work), str(path)])
    said, complained = process.communicate(timeout=280)
    assert process.returncode == 0, complained
    assert said == ""  # what is not Python's own print is silent, too
    if ranks == 1:
        assert complained == ""
    names = [name for name, _, _ in jobs]
    results: dict[str, list[dict[str, Any]]] = {
        n: [json.loads((work / f"{n}.{rank}.json").read_bytes()) for rank in range(ranks)] for n in names
    }
    return results


@pytest.fixture(scope="module")
def one(work: Path) -> dict[str, list[dict[str, Any]]]:
    """What is run on one rank and not killed; refusals last."""
    prepare_refusals(work)
    whole = [(stage, ".", arguments(work, stage, stage)) for stage in STAGES]
    others = {
        "threads": arguments(work, "threads", "pretrain", "data.workers=4", "watch.save_every=2", "watch.keep=1"),
        "lora": arguments(work, "lora", "instruct", *LORA, steps=2),
    }
    refusals = {
        "uncertified": arguments(work, "not", "pretrain", shards="bare"),
        "altered": arguments(work, "not", "pretrain", shards="altered"),
        "absent": arguments(work, "not", "pretrain", model="absent"),
        "gpt2": arguments(work, "not", "pretrain", model="gpt2"),
        "vocabulary": arguments(work, "not", "pretrain", model="vocabulary"),
        "missing": arguments(work, "not", "pretrain", model="missing"),
        "nan": arguments(work, "not", "pretrain", model="nan"),
        "long": arguments(work, "not", "pretrain", "data.length=1024"),
        "evaluation": arguments(work, "not", "pretrain", "watch.evaluate_every=1", "watch.evaluate=exit 7"),
        "other-seed": arguments(work, "pretrain", "pretrain", "seed=1"),
        "other-clip": arguments(work, "pretrain", "pretrain", "optimizer.clip=2"),
        "other-stage": arguments(work, "pretrain", "midtrain"),
        "other-steps": arguments(work, "pretrain", "pretrain", steps=9),
        "other-data": [*arguments(work, "pretrain", "pretrain"), "--uncertified"],
        "other-model": arguments(work, "pretrain", "pretrain", model="other-model"),
    }
    jobs = [*whole, *((name, ".", each) for name, each in (others | refusals).items())]
    jobs.append(("other-mixture", "half", arguments(work, "pretrain", "pretrain")))
    return drive(work, 1, jobs)


@pytest.fixture(scope="module")
def two(work: Path) -> dict[str, list[dict[str, Any]]]:
    """What is run on two ranks and not killed."""
    whole = [(f"{stage}-2", ".", arguments(work, f"{stage}-2", stage)) for stage in STAGES]
    return drive(work, 2, [*whole, ("three", ".", arguments(work, "not", "pretrain", "data.packs_per_step=3"))])


def measures(out: Path, *names: str) -> list[tuple[float, ...]]:
    return [tuple(record[name] for name in names) for record in read_log(out / "log.jsonl")]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "model" / "model.safetensors")


def packs(work: Path, seed: int) -> list[tuple[int, int]]:
    """(pictures, samples) of the packs of the first epoch, by the stream alone."""
    certified = load_certified(work / "data", quiet=True)
    order = EpochOrder(certified, Mixture.load(work / "mixture.yaml"), seed)
    plan = ensure_plan(certified, order, 1980, 13, "report")
    found = Stream(certified, order, plan=plan)
    return [(sum(len(sample.images) for sample in pack.items), len(pack.items)) for pack in found]


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_as_one_does(work: Path, one: Any, two: Any, stage: str) -> None:
    assert one[stage][0] == {
        "code": 0, "err": "", "kept": False,
        "out": f"train.run: {stage}: {STEPS} of {STEPS} steps; model in {work / stage / 'model'}\n",
    }  # fmt: skip
    assert [result["code"] for result in two[f"{stage}-2"]] == [0, 0]
    assert [len(result["out"].splitlines()) for result in two[f"{stage}-2"]] == [1, 0]
    ours, theirs = work / stage, work / f"{stage}-2"
    config = yaml.safe_load((theirs / "config.yaml").read_text())
    assert config["engine"]["zero"] == 3
    assert config["train"]["llm"] == ("freeze" if stage == "pretrain" else "train")
    counts = ("tokens", "tiles", "supervised", "samples", "packs")
    assert measures(ours, *counts) == measures(theirs, *counts)
    assert close(ours, theirs)
    losses = [loss for (loss,) in measures(ours, "loss")]
    assert max(losses) - min(losses) > 0.02  # they move: equality says something
    # What the steps held, told by the stream: one rank without a picture beside one with, and one without a pack.
    found = packs(work, config["seed"])
    steps = [found[start : start + 2] for start in range(0, len(found), 2)]
    assert any(len(step) == 2 and sorted(bool(pictures) for pictures, _ in step) == [False, True] for step in steps)
    assert len(steps[-1]) == 1
    assert measures(ours, "tiles", "samples", "packs")[: len(steps)] == [
        (sum(p for p, _ in step), sum(s for _, s in step), len(step)) for step in steps
    ]


def close(ours: Path, theirs: Path) -> bool:
    pairs = zip(measures(ours, "loss", "grad_norm"), measures(theirs, "loss", "grad_norm"), strict=True)
    return all(our == pytest.approx(their, abs=1e-4, rel=1e-4) for our, their in pairs)


def test_a_frozen_part_stays_and_a_learning_one_does_not(work: Path, one: Any) -> None:
    before, after = weights(work), weights(work / "pretrain")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed} == {"vision_tower", "multi_modal_projector"}
    after = weights(work / "midtrain")
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} < changed


def test_threads_that_read_ahead_change_nothing(work: Path, one: Any) -> None:
    assert one["threads"][0]["code"] == 0
    ours, theirs = weights(work / "threads"), weights(work / "pretrain")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert [path.parent.name for path in (work / "threads").glob("checkpoints/*/state.json")] == ["step-00000003"]


def kill_after(process: subprocess.Popen[str], out: Path, step: int) -> None:
    """Kill -9 a run and its ranks once a checkpoint of a step or a later one is there."""
    deadline = time.monotonic() + 200
    while not any(
        int(path.parent.name[5:13]) >= step for path in (out / "checkpoints").glob("step-????????/state.json")
    ):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_killed_and_resumed_is_never_killed(work: Path, one: Any) -> None:
    """One rank that goes on with what one saved, to the bit; and one that goes on with what two saved."""
    often = ("watch.save_every=1", "watch.keep=1")
    alone = arguments(work, "killed", "midtrain", *often)
    kill_after(start(work, 1, ["-m", "train.run", *alone]), work / "killed", 1)
    kill_after(
        start(work, 2, ["-m", "train.run", *arguments(work, "elastic", "instruct", *often)]), work / "elastic", 2
    )
    assert not (work / "killed" / "model").exists()
    assert 1 <= len(read_log(work / "killed" / "log.jsonl")) <= STEPS
    states = [json.loads(path.read_bytes()) for path in (work / "elastic").glob("checkpoints/step-*/state.json")]
    assert {file["rank"] for file in states[0]["files"]} == {0, 1}
    (work / "killed" / "checkpoints" / "step-00000009.tmp").mkdir()  # was being written: counts for nothing
    elastic = arguments(work, "elastic", "instruct", *often, "engine.zero=2")
    done = drive(work, 1, [("resumed", ".", alone), ("resumed-elastic", ".", elastic)])
    assert [result["code"] for results in done.values() for result in results] == [0, 0]
    steps = ("step", "loss", "grad_norm", "lr/llm")
    assert measures(work / "killed", *steps) == measures(work / "midtrain", *steps)
    ours, theirs = weights(work / "killed"), weights(work / "midtrain")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert len(list((work / "killed").glob("checkpoints/step-*/state.json"))) == 1
    assert close(work / "elastic", work / "instruct")


def stored(out: Path) -> dict[str, torch.Tensor]:
    """Tensors of the one checkpoint of a run."""
    (checkpoint,) = (out / "checkpoints").glob("step-*")
    return {name: tensor for path in checkpoint.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_the_exported_model_is_the_checkpoint_and_its_card_names_the_data(work: Path, one: Any) -> None:
    out = work / "midtrain"
    exported, checkpoint = weights(out), stored(out)
    for name in {name.partition("|")[2] for name in checkpoint}:
        assert torch.equal(exported[name], checkpoint[f"weight|{name}"]), name
        shapes = {checkpoint[f"{kind}|{name}"].shape for kind in ("exp_avg", "exp_avg_sq")}
        assert shapes == {exported[name].shape}
    again = load_module(out / "model", torch.float32).state_dict()
    assert again.keys() == exported.keys()
    assert all(torch.equal(again[name], exported[name]) for name in exported)
    card = (out / "model" / "README.md").read_text()
    certified = load_certified(work / "data", quiet=True)
    for words in ("| rocov2 | 4 | CC-BY, CC-BY-NC, CC-BY-NC-ND, unstated |", "| medqa | 4 | MIT |", certified.digest):
        assert words in card
    assert "no certificate" not in card
    assert (out / "model" / "train_config.yaml").read_text() == (out / "config.yaml").read_text()


def test_adapters_are_merged_and_an_evaluation_sees_the_model(work: Path, one: Any) -> None:
    out = work / "lora"
    assert one["lora"][0]["code"] == 0
    before, after = weights(work), weights(out)
    assert before.keys() == after.keys()
    for step in (1, 2):
        seen = load_file(out / "evaluations" / f"step-{step:08d}" / f"seen-{step}")
        assert all(torch.equal(seen[name], after[name]) for name in after) is (step == 2)
    checkpoint = stored(out)
    stems = {name[7:].partition(".lora_")[0] for name in checkpoint if name.startswith("weight|") and ".lora_" in name}
    assert {stem.rpartition(".")[2] for stem in stems} >= {"q_proj", "k_proj", "v_proj", "o_proj"}
    for name, tensor in after.items():
        stem = name.removesuffix(".weight")
        if stem in stems and name.endswith(".weight"):
            up, down = (checkpoint[f"weight|{stem}.lora_{which}.default.weight"] for which in "BA")
            assert up.any()
            assert torch.allclose(tensor, before[name] + 2.0 * (up @ down), atol=1e-7)
        elif "multi_modal_projector" not in name:
            assert torch.equal(tensor, before[name]), name


def test_a_dry_run_says_what_and_touches_no_device(work: Path) -> None:
    code = (
        "import sys, torch; from train.run import main; code = main(sys.argv[1:])\n"
        "assert 'deepspeed' not in sys.modules and not torch.cuda.is_initialized()\n"
        "assert not torch.distributed.is_initialized()\nraise SystemExit(code)"
    )
    process = start(
        work, 1, ["-c", code, *arguments(work, "dry", "midtrain", steps=None), "--dry-run", "--devices", "4"]
    )
    said, complained = process.communicate(timeout=100)
    assert (process.returncode, complained) == (0, "")
    assert not (work / "dry").exists()
    count = len(packs(work, 20260802))
    for words in (
        "rocov2", "CC-BY-NC-ND", "medqa", "MIT (open)", f"{count} packs of 1,980 tokens and at most 13 tiles",
        "52 tiles", f"{-(-count // 2)} steps of 1 epoch(s), each of 2 packs", "too long for a pack: none",
        "one of 4 device(s), fp32, ZeRO-3", "master weights and moments",
    ):  # fmt: skip
        assert words in said


# --- What is refused


def prepare_refusals(work: Path) -> None:
    """Shards and models that are not what they should be."""
    shutil.copytree(work / "data" / "built", work / "bare" / "built")
    shutil.copytree(work / "data", work / "altered", ignore=shutil.ignore_patterns(".streams"))
    shard = next((work / "altered/built/rocov2/shards").glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (work / "half").mkdir()
    (work / "half" / "mixture.yaml").write_text(MIXTURE.replace("medqa, samples: 4", "medqa, samples: 3"))
    (work / "gpt2").mkdir()
    (work / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    for name in ("vocabulary", "missing", "nan", "other-model"):
        (work / name).mkdir()
        for path in (work / "model").iterdir():
            os.link(path, work / name / path.name)
    config = json.loads((work / "model" / "config.json").read_bytes())
    config["image_token_id"] -= 1
    instead(work / "vocabulary" / "config.json").write_text(json.dumps(config))
    instead(work / "other-model" / "generation_config.json").write_text("{}")
    for name in ("missing", "nan"):
        tensors = weights(work)
        if name == "missing":
            del tensors["model.language_model.norm.weight"]
        else:
            tensors["model.language_model.norm.weight"][0] = float("nan")
        save_file(tensors, instead(work / name / "model.safetensors"), metadata={"format": "pt"})


def instead(path: Path) -> Path:
    """A path whose file, a link, is removed first."""
    path.unlink()
    return path


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("uncertified", "manifests.prove"),
        ("altered", "rocov2-train"),
        ("absent", "train.assemble"),
        ("gpt2", "gpt2 model"),
        ("vocabulary", "the vocabulary o200k_harmony has 200,0"),
        ("missing", "1 missing weights, the first is model.language_model.norm.weight"),
        ("nan", "step 0: the loss is nan in a pack that begins with "),
        ("long", "4 of 8 samples have more than 1024 tokens or 13 tiles"),
        ("evaluation", "step 1: watch.evaluate ended with 7"),
        ("other-seed", "made with seed=20260801, now seed=1;"),
        ("other-clip", "made with optimizer.clip=1.0, now optimizer.clip=2.0;"),
        ("other-stage", "made with stage=pretrain, now stage=midtrain;"),
        ("other-steps", "made with another number of steps of its schedule (3, now 9)"),
        ("other-data", "made with another data (certificate)"),
        ("other-model", "made with another model to start from"),
        ("other-mixture", "made with another mixture"),
    ],
)
def test_refused_with_one_line_and_nothing_overwritten(work: Path, one: Any, name: str, says: str) -> None:
    result = one[name][0]
    assert (result["code"], result["out"]) == (1, "")
    assert result["err"].startswith("train.run: ")
    assert result["err"].count("\n") == 1
    assert says in result["err"]
    assert result["kept"]
    assert not (work / "not" / "model").exists()


def test_ranks_that_do_not_divide_a_step_say_so_once(two: Any) -> None:
    said = "train.run: data.packs_per_step=3 is no multiple of 2 ranks; set one that is\n"
    assert [(result["code"], result["err"]) for result in two["three"]] == [(1, said), (1, "")]


def test_an_altered_checkpoint_is_not_resumed(work: Path, one: Any) -> None:
    shutil.copytree(work / "pretrain" / "checkpoints", work / "broken")
    path = next((work / "broken").glob("step-*/*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    checkpoint = Checkpoint(path.parent)
    with pytest.raises(CheckpointError, match="altered since it was written"):
        checkpoint.verify()
    checkpoint.close()
    path.write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match="use an older checkpoint"):
        Checkpoint(path.parent)


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, says in (
        (arguments(tmp_path, "x", "pretrain", "data.nothing=1"), "data.nothing is no setting"),
        (arguments(tmp_path, "x", "pretrain", steps=0), "--steps 0: at least 1"),
        (["--shards", str(tmp_path), "--stage", "pretrain"], "--model and --out are needed"),
    ):
        assert command.main(wrong) == 2
        assert says in capsys.readouterr().err
