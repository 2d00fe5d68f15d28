"""`train.run` as it is run: on one and two ranks, killed, stopped, resumed, exported, and refused.

Pictures are cut into one tile (`data.max_enlargement`), so that a step takes a fraction of a second; the vocabulary is
the real one. Learning rates are raised, so that losses move and a wrong gradient shows.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import ROOT

from medgpt.digest import folder_sha256
from medgpt.errors import UserError

pytest.importorskip("deepspeed")

import torch
from safetensors.torch import load_file, save_file

from builders.engine.command import main as build
from builders.engine.registry import load
from manifests.proof.policy import load_policy
from manifests.proof.trust import Trust
from manifests.prove import prove
from shards.certified import load_certified
from shards.epoch import ensure_plan
from shards.mixture import Mixture
from shards.order import EpochOrder
from shards.stream import Stream
from train import assemble
from train import run as command
from train.checkpoint import MOMENTS, Checkpoint, Part
from train.config import STAGES, load_config
from train.export import model_card
from train.log import read_log
from train.model import SIZES, load_module

pytestmark = pytest.mark.xdist_group("train_run")  # the runs are made once, if pytest is told --dist loadgroup

STEPS = 3
SETTINGS = (
    "data.mixture=mixture.yaml", "data.length=1980", "data.tiles=13", "data.packs_per_step=2", "data.workers=1",
    "data.max_enlargement=0.01", "engine.precision=fp32", "engine.zero=3", "engine.compile=false",
    "engine.checkpointing=none", "optimizer.vision_lr=1e-2", "optimizer.projector_lr=1e-2", "optimizer.llm_lr=1e-2",
    "loss.chunk=256",
)  # fmt: skip
LORA = (
    "train.llm=lora", "train.lora_rank=4", "train.lora_alpha=8", "train.vision=freeze", "watch.evaluate_every=1",
    "watch.keep=1", "watch.evaluate=cp {model}/model.safetensors {out}/seen-{step}",
)  # fmt: skip
MIXTURE = """\
format: 1
name: test
sources:
  - {build: rocov2, samples: 3}
  - {build: medqa, samples: 20}
"""

# With two threads torch adds in any order.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

# Every run is a fresh process, forked from one that has imported everything: the imports take five seconds. A job is a
# line of JSON; the answers are the ranks' process ids and, when they have ended, their exit codes. Ranks find their
# places as under Slurm's srun.
SERVER = """\
import gc, json, os, socket, sys, threading, traceback
from train.run import main, quiet_libraries
quiet_libraries()
import deepspeed, deepspeed.runtime.zero.muon.original_muon, deepspeed.runtime.zero.stage3, peft, torch
import torch._dynamo, torch.utils.tensorboard
import shards.epoch, shards.stream
import train.assemble, train.collate, train.export, train.loop, train.model, train.tokenizer

def child(job, rank, port):
    os.chdir(job["folder"])
    if job["ranks"] > 1:
        os.environ |= {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_STEP_NUM_TASKS": str(job["ranks"])}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for number, end in ((1, "out"), (2, "err")):
        file = os.open(f"{job['says']}.{rank}.{end}", os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o644)
        os.dup2(file, number)
    if "code" in job:
        exec(job["code"], globals())
        return 0
    return main(job["arguments"])

train.tokenizer.harmony()
gc.freeze()
assert threading.active_count() == 1
for line in sys.stdin:
    job = json.loads(line)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(job["ranks"]):
        process = os.fork()
        if not process:
            code = 70
            try:
                code = child(job, rank, port)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        ranks.append(process)
    print("ranks", *ranks, flush=True)
    print("codes", *[os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in ranks], flush=True)
"""


@dataclass(frozen=True)
class Result:
    """What a run left, a code and texts for each rank."""

    codes: list[int]
    out: list[str]
    err: list[str]
    kept: bool
    """Checkpoints and models that were there were not touched, and no other came."""


ACCEPTED = "train.run: accepted: "


class Runs:
    """Runs of the command in a folder; those that several tests look at are made once."""

    def __init__(self, work: Path) -> None:
        self.work = work
        (work / "server.py").write_text(SERVER)
        self._server = subprocess.Popen(
            [sys.executable, str(work / "server.py")],
            cwd=work, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._done: dict[str, Result] = {}

    def begin(self, name: str, ranks: int = 1, cwd: str = ".", **job: Any) -> list[int]:
        """Start `arguments` (or run `code`) and give the process ids of its ranks."""
        job |= {"folder": str(self.work / cwd), "ranks": ranks, "says": str(self.work / name)}
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(job) + "\n")
        self._server.stdin.flush()
        return self._answer("ranks")

    def end(self, name: str, ranks: int = 1) -> Result:
        codes = self._answer("codes")
        out, err = (
            [(self.work / f"{name}.{rank}.{end}").read_text() for rank in range(ranks)] for end in ("out", "err")
        )
        # What every run says; a dry run is asked whether it does.
        err = ["".join(line for line in text.splitlines(True) if ACCEPTED not in line) for text in err]
        return Result(codes, out, err, kept=False)

    def run(self, name: str, arguments: list[str], ranks: int = 1, cwd: str = ".") -> Result:
        """Run to the end, once for each name."""
        if name not in self._done:
            out = Path(arguments[arguments.index("--out") + 1])
            before = present(out)
            self.begin(name, ranks, cwd, arguments=arguments)
            found = self.end(name, ranks)
            self._done[name] = Result(found.codes, found.out, found.err, before == present(out))
        return self._done[name]

    def whole(self, stage: str, ranks: int = 1) -> Path:
        """The folder of a run of a stage that nothing has disturbed."""
        name = stage if ranks == 1 else f"{stage}-{ranks}"
        result = self.run(name, arguments(self.work, name, stage), ranks)
        said = f"train.run: {stage}: {STEPS} of {STEPS} steps; model in {self.work / name / 'model'}\n"
        assert (result.codes, result.err) == ([0] * ranks, [""] * ranks)
        assert result.out == [said, *[""] * (ranks - 1)]
        return self.work / name

    def close(self) -> None:
        self._server.communicate()

    def _answer(self, what: str) -> list[int]:
        assert self._server.stdout is not None
        kind, *numbers = self._server.stdout.readline().split()
        assert kind == what, (kind, numbers)  # a code is no process to be killed
        return [int(number) for number in numbers]


def present(out: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file of a run's checkpoints and model."""
    files = [path for part in ("checkpoints", "model") for path in (out / part).rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(files)}


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
    tiny = SIZES["tiny"]
    narrow = tiny | {"text": tiny["text"] | {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}}
    with pytest.MonkeyPatch.context() as patch:  # 200,000 rows of 64 would be most of the tests' time
        patch.setitem(SIZES, "tiny", narrow)
        assert assemble.main(["--size", "tiny", "--dtype", "fp32", "--out", str(work / "model")]) == 0
    yield work
    shutil.rmtree(work)


@pytest.fixture(scope="module")
def runs(work: Path) -> Iterator[Runs]:
    found = Runs(work)
    yield found
    found.close()


def arguments(work: Path, out: str, stage: str, *settings: str, steps: int | None = STEPS, **paths: str) -> list[str]:
    """Arguments of a run; `paths` are other shards and another model."""
    length = [] if steps is None else ["--steps", str(steps), "--quiet"]
    return [
        "--shards", str(work / paths.get("shards", "data")), "--model", str(work / paths.get("model", "model")),
        "--stage", stage, "--out", str(work / out), *length, "--accept-incomplete",
        *(part for setting in (*SETTINGS, *settings) for part in ("--set", setting)),
    ]  # fmt: skip


def measures(out: Path, *names: str) -> list[tuple[float, ...]]:
    return [tuple(record[name] for name in names) for record in read_log(out / "log.jsonl")]


def weights(out: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(out / "model" / "model.safetensors")
    return found


def same_weights(ours: Path, theirs: Path) -> bool:
    left, right = weights(ours), weights(theirs)
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def packs(work: Path, seed: int) -> list[tuple[int, int]]:
    """(pictures, samples) of the packs of the first epoch, by the stream alone."""
    certified = load_certified(work / "data", trust=Trust(incomplete=True), quiet=True)
    order = EpochOrder(certified, Mixture.load(work / "mixture.yaml"), seed)
    plan = ensure_plan(certified, order, 1980, 13, "report", 2)
    found = Stream(certified, order, plan=plan)
    return [(sum(len(sample.images) for sample in pack.items), len(pack.items)) for pack in found]


@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_train_as_one_does(work: Path, runs: Runs, stage: str) -> None:
    ours, theirs = runs.whole(stage), runs.whole(stage, 2)
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


@pytest.mark.parametrize("stage", ["pretrain", "midtrain", "lora"])
def test_compiled_under_zero_3_a_preset_learns_what_it_does_uncompiled(work: Path, runs: Runs, stage: str) -> None:
    """Its own engine settings but precision; all of the compiler but the C++ of a CPU, which takes minutes.

    The graph that layers share once lost every gradient that goes through a layer (see `train.loop.engine_config`), and
    the loss of a step did not show it.
    """
    preset = load_config(stage).engine
    assert preset.compile and preset.checkpointing == "auto"
    own = ("engine.compile=true", "engine.checkpointing=auto")
    code = (
        "import functools\ntorch.compile = functools.partial(torch.compile, backend='aot_eager')\n"
        f"assert main({arguments(work, f'compiled-{stage}', stage, *own, steps=1)!r}) == 0"
    )
    runs.begin(f"compiled-{stage}", 2, code=code)
    result = runs.end(f"compiled-{stage}", 2)
    assert result.codes == [0, 0], result.err
    plain = work / "plain-lora" if stage == "lora" else runs.whole(stage)
    if stage == "lora":
        assert runs.run("plain-lora", arguments(work, "plain-lora", "lora", steps=1)).codes == [0]
    (found,) = measures(work / f"compiled-{stage}", "loss", "grad_norm")
    assert found == pytest.approx(measures(plain, "loss", "grad_norm")[0], rel=1e-4)


def test_torchrun_starts_it_on_two_nodes_whose_ranks_refuse_with_one_voice(work: Path, runs: Runs) -> None:
    """By torchrun's own launcher, an agent for each node; its command line would import everything over and over."""
    wrong, right = (
        arguments(work, "launched", "pretrain", f"data.packs_per_step={count}", steps=1) for count in (3, 2)
    )
    code = f"""
from torch.distributed.launcher.api import LaunchConfig, elastic_launch
for number, command in enumerate(({wrong!r}, {right!r})):
    place = LaunchConfig(
        2, 2, 1, run_id=str(number), rdzv_backend="c10d", rdzv_endpoint=f"meet-{{number}}", local_addr="127.0.0.1",
        rdzv_configs={{"store_type": "file"}}, start_method="fork", max_restarts=0,
    )
    print(*elastic_launch(place, main)(command).items())
"""
    runs.begin("torchrun", 2, code=code)
    result = runs.end("torchrun", 2)
    assert result.codes == [0, 0], result.err
    ended = [line for text in result.out for line in text.splitlines() if re.fullmatch(r"\(\d, \d\)", line)]
    assert sorted(ended) == ["(0, 0)", "(0, 1)", "(1, 0)", "(1, 1)"]  # rank, exit code
    said = [line for text in result.err for line in text.splitlines() if line.startswith("train.run: ")]
    assert said == ["train.run: data.packs_per_step=3 is no multiple of 2 ranks; set data.packs_per_step=6, say"]
    assert saved(work / "launched", 1)
    one_node = measures(runs.whole("pretrain", 2), "loss", "grad_norm")
    assert measures(work / "launched", "loss", "grad_norm") == one_node[:1]


def test_a_frozen_part_stays_and_a_learning_one_does_not(work: Path, runs: Runs) -> None:
    before, after = weights(work), weights(runs.whole("pretrain"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {name.split(".")[1] for name in changed} == {"vision_tower", "multi_modal_projector"}
    after = weights(runs.whole("midtrain"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"lm_head.weight", "model.language_model.embed_tokens.weight"} < changed


def test_threads_that_read_ahead_change_nothing(work: Path, runs: Runs) -> None:
    more = ("data.workers=4", "watch.save_every=2", "watch.keep=1")
    assert runs.run("threads", arguments(work, "threads", "pretrain", *more)).codes == [0]
    assert same_weights(work / "threads", runs.whole("pretrain"))
    assert [path.parent.name for path in (work / "threads").glob("checkpoints/*/state.json")] == ["step-00000003"]


# --- Ended, and gone on with


def await_step(process: int, done: Callable[[], bool]) -> None:
    """Wait until a run has come so far."""
    deadline = time.monotonic() + 200
    while not done():
        os.kill(process, 0)  # it is there
        assert time.monotonic() < deadline
        time.sleep(0.01)


def saved(out: Path, step: int) -> bool:
    return any(int(path.parent.name[5:13]) >= step for path in out.glob("checkpoints/step-????????/state.json"))


def test_killed_and_resumed_is_never_killed(work: Path, runs: Runs) -> None:
    often = ("watch.save_every=1", "watch.keep=1")
    (process,) = runs.begin("killed", arguments=arguments(work, "killed", "midtrain", *often))
    await_step(process, lambda: saved(work / "killed", 1))
    os.kill(process, signal.SIGKILL)
    assert runs.end("killed").codes == [-signal.SIGKILL]
    assert not (work / "killed" / "model").exists()
    assert 1 <= len(read_log(work / "killed" / "log.jsonl")) <= STEPS
    (work / "killed" / "checkpoints" / "step-00000009.tmp").mkdir()  # was being written: counts for nothing
    assert runs.run("resumed", arguments(work, "killed", "midtrain", *often)).codes == [0]
    steps = ("step", "loss", "grad_norm", "lr/llm")
    whole = runs.whole("midtrain")
    assert measures(work / "killed", *steps) == measures(whole, *steps)
    assert same_weights(work / "killed", whole)
    assert len(list((work / "killed").glob("checkpoints/step-*/state.json"))) == 1


def test_two_ranks_are_killed_and_one_goes_on(work: Path, runs: Runs) -> None:
    often = ("watch.save_every=1", "watch.keep=1")
    processes = runs.begin("elastic", 2, arguments=arguments(work, "elastic", "instruct", *often))
    await_step(processes[0], lambda: saved(work / "elastic", 2))
    for process in processes:
        os.kill(process, signal.SIGKILL)
    assert runs.end("elastic", 2).codes == [-signal.SIGKILL] * 2
    states = [json.loads(path.read_bytes()) for path in (work / "elastic").glob("checkpoints/step-*/state.json")]
    assert [file["file"] for file in states[0]["files"]] == ["rank00000.bin", "rank00001.bin"]
    again = runs.run("elastic-1", arguments(work, "elastic", "instruct", *often, "engine.zero=2"))
    assert again.codes == [0]
    assert close(work / "elastic", runs.whole("instruct"))


def test_sigterm_to_one_rank_ends_all_after_a_checkpoint_and_costs_nothing(work: Path, runs: Runs) -> None:
    """As Slurm does before it takes a machine away; 143 tells the batch script to queue the job again. The checkpoint
    of the step before may still be being written."""
    command = arguments(work, "preempted", "midtrain", "watch.save_every=1", "watch.keep=1", steps=2000)
    processes = runs.begin("preempted", 2, arguments=command)
    await_step(processes[0], lambda: bool(read_log(work / "preempted" / "log.jsonl")))
    os.kill(processes[1], signal.SIGTERM)
    result = runs.end("preempted", 2)
    assert result.codes == [143, 143]
    (checkpoint,) = (work / "preempted").glob("checkpoints/step-*")
    step = int(checkpoint.name[5:])
    assert len(read_log(work / "preempted" / "log.jsonl")) == step
    assert result.err == [
        f"train.run: stopped by SIGTERM after {step} of 2000 steps; the same command goes on from the checkpoint in "
        f"{work / 'preempted' / 'checkpoints'}\n",
        "",
    ]
    assert not (work / "preempted" / "model").exists()
    again = runs.run("preempted-1", [*command, "--max-steps", str(step + 1)])
    assert (again.codes, again.err) == ([0], [""])
    assert [number for (number,) in measures(work / "preempted", "step")] == list(range(step + 1))


def test_a_finished_run_is_exported_again_and_trains_no_more(work: Path, runs: Runs) -> None:
    out = work / "finished"
    shutil.copytree(runs.whole("pretrain"), out)
    shutil.rmtree(out / "model")
    again = runs.run("finished", arguments(work, "finished", "pretrain"))
    assert (again.codes, again.err) == ([0], [""])
    assert same_weights(out, work / "pretrain")
    assert measures(out, "step", "loss") == measures(work / "pretrain", "step", "loss")


def test_other_learning_rates_go_on_if_told_and_the_card_says_so(work: Path, runs: Runs) -> None:
    out = work / "changed"
    shutil.copytree(runs.whole("pretrain"), out)
    shutil.rmtree(out / "model")
    checkpoint = out / "checkpoints" / "step-00000003"
    state = json.loads((checkpoint / "state.json").read_bytes())
    command = arguments(work, "changed", "pretrain", "optimizer.projector_lr=1e-3")
    assert runs.run("changed", [*command, "--change"]).codes == [0]
    card = (out / "model" / "README.md").read_text()
    assert "From step 3 on `optimizer.projector_lr` was 0.001 instead of 0.01." in card
    assert "From step" not in (work / "pretrain" / "model" / "README.md").read_text()
    assert state["changes"] == []
    other = ("data.epochs=2", "data.samples_per_step=64", "data.over_long=drop")
    plans = set(work.glob("data/.streams/plans/*"))
    refused = runs.run("changed-data", [*arguments(work, "changed", "pretrain", *other), "--change"])
    assert refused.codes == [1]
    assert set(work.glob("data/.streams/plans/*")) == plans  # refused before anything is packed, which takes hours
    made = "data.samples_per_step=128 data.epochs=1 data.over_long=report"
    now = "data.samples_per_step=64 data.epochs=2 data.over_long=drop"
    assert f"made with {made}, now {now}; use that, or another --out" in refused.err[0]


def test_held_out_questions_that_no_certificate_covers_are_named_and_altered_ones_refused(
    work: Path, runs: Runs
) -> None:
    """A benchmark that was added after the proof may show what is trained on."""
    built = work / "later" / "built" / "slake"
    demo = ["--demo", "--raw", str(work / "raw" / "slake"), "--out", str(built.parent)]
    assert build(load("slake"), [*demo, "--workers", "1", "--quiet"]) in (0, 3)
    settings = (f"watch.probe={built}", "watch.probe_every=1", "watch.probe_questions=2")
    [shard] = built.glob("shards/slake-test-*")
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b'"question":"Is there', b'"question":"is there'))
    refused = runs.run("probe-altered", arguments(work, "probe-altered", "pretrain", *settings, steps=1))
    assert refused.codes == [1] and "was altered since it was built" in refused.err[0]
    shard.write_bytes(content)
    asked = runs.run("probe", arguments(work, "probe", "pretrain", *settings, steps=1))
    said = f"train.run: watch.probe {built}: no certificate covers it, so its questions may be trained on\n"
    assert (asked.codes, asked.err) == ([0], [said])


def test_a_full_disk_is_one_line_and_the_checkpoint_before_it_is_whole(work: Path, runs: Runs) -> None:
    """Files may not grow beyond 100 kB, which is what `ulimit -f` and a full disk have in common."""
    out = work / "full"
    shutil.copytree(runs.whole("pretrain"), out)
    shutil.rmtree(out / "model")
    before = present(out)
    code = (
        "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        f"assert main({arguments(work, 'full', 'pretrain', 'watch.save_every=1', steps=9)!r}) == 1"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY
    for path in out.glob("checkpoints/*/state.json"):  # a longer schedule, so that there are steps to save
        state = json.loads(path.read_bytes()) | {"steps": 9}
        del state["sha256"]
        state["sha256"] = hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
        path.write_text(json.dumps(state))
    before = present(out)
    runs.begin("full", code=code)
    result = runs.end("full")
    assert result.codes == [0], result.err
    assert result.err[0].startswith("train.run: checkpoint not written: ")
    assert "step-00000004: [Errno 27] File too large; free space (watch.keep=1" in result.err[0]
    assert result.err[0].count("\n") == 1
    assert present(out) == before  # nothing of the new one fills the disk
    assert len(read_log(out / "log.jsonl")) in (4, 5)  # not at the end, and not at the step alone that begins to write


UNLOGGED = """\
import resource, signal
from pathlib import Path
from medgpt.errors import UserError
from medgpt.libraries import libraries_apart
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with libraries_apart() as libraries:
    libraries.keep_in(Path("libraries.log"))
    log = train.log.Log(Path("unlogged"), 0)
    assert log.events
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    for end in (lambda: [log.write({"step": step, "loss": 1.0}) for step in range(1000)], log.close):
        try:
            end()
        except UserError as error:
            print(error)
"""


def test_a_log_that_finds_no_room_is_one_line(runs: Runs) -> None:
    """TensorBoard writes in a thread, which dies of it before or after."""
    runs.begin("unlogged", code=UNLOGGED)
    result = runs.end("unlogged")
    said = "unlogged: the log cannot be written (File too large); free space; the same command goes on from the last "
    assert (result.codes, result.err) == ([0], [""])
    assert [line.startswith(said) for line in result.out[0].splitlines()] == [True, True], result.out


KILLED = """\
import resource, signal, sys, train.checkpoint as saving
from pathlib import Path
saving.BLOCK = 256
folder = Path("at-any-byte")
EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}

def parts(number, *ends):
    cuts = [0, *ends, 1000]
    return [saving.Part("weight|a", low, torch.arange(low, high) + float(number)) for low, high in zip(cuts, cuts[1:])]

def save(number, calls=None, size=None):
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    state = {"optimizer_step": 0, "parameters": {}, "config": {}, "stream": {}, "changes": [], "long": "x" * 6000}
    with saving.Saver(folder, 1, parts(number)) as saver:
        saver.wait()
        left = iter(range(calls or 0))
        if calls is not None:
            sys.addaudithook(lambda event, _: event in EVENTS and next(left, None) is None and os.kill(os.getpid(), 9))
        if size is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        saver.save(parts(number, 3, 500), number, state)
        assert not saver.note or (folder / f"step-{number:08d}").is_dir()

def attempt(number, **when):
    process = os.fork()
    if not process:
        save(number, **when)
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    path = saving.checkpoints(folder)[-1]
    found = parts(-1, 1, 255, 256, 700)
    saving.Checkpoint(path).read(found)
    step = int(path.name[5:])
    whole = torch.arange(1000.0) + step
    assert all(torch.equal(part.values, whole[part.start : part.start + len(part.values)]) for part in found)
    return ended, step

last, seen, calls = 1, set(), 0
assert attempt(1) == (0, 1)
ended = -9
while ended == -9:
    ended, step = attempt(last + 1, calls=calls)
    seen.add((ended, step - last))
    calls, last = calls + 1, step
assert seen == {(-9, 0), (-9, 1), (0, 1)}, seen
for size in (0, 1, 1023, 1024, 3999, 4000, 6000):
    assert attempt(last + 1, size=size) == (-signal.SIGXFSZ, last), size
saving.free_host_memory = lambda: 0
assert attempt(last + 1) == (0, last + 1)
assert [path.name for path in folder.iterdir()] == [f"step-{last + 1:08d}"]
print(calls)
"""


def test_killed_at_any_call_or_byte_of_writing_the_last_checkpoint_is_whole(work: Path, runs: Runs) -> None:
    """Before each call that opens, makes, renames or removes something; and within files. What is left is read in
    other parts than it was written in, and the next save removes what the dead one left."""
    runs.begin("at-any-byte", code=KILLED)
    result = runs.end("at-any-byte")
    assert (result.codes, result.err) == ([0], [""])
    assert int(result.out[0]) > 20


# --- What is left


def stored(out: Path) -> dict[str, torch.Tensor]:
    """Tensors of the one checkpoint of a run, by `kind|name`."""
    (folder,) = (out / "checkpoints").glob("step-*")
    checkpoint = Checkpoint(folder)
    shapes = checkpoint.state["parameters"].items()
    found = {f"{kind}|{name}": torch.empty(shape) for name, shape in shapes for kind in ("weight", *MOMENTS)}
    checkpoint.read(Part(key, 0, tensor.view(-1)) for key, tensor in found.items())
    return found


def test_the_exported_model_is_the_checkpoint_and_its_card_names_the_data(work: Path, runs: Runs) -> None:
    out = runs.whole("midtrain")
    exported, checkpoint = weights(out), stored(out)
    for name in {name.partition("|")[2] for name in checkpoint}:
        assert torch.equal(exported[name], checkpoint[f"weight|{name}"]), name
        shapes = {checkpoint[f"{kind}|{name}"].shape for kind in ("exp_avg", "exp_avg_sq")}
        assert shapes == {exported[name].shape}
    again = load_module(out / "model", torch.float32).state_dict()
    assert again.keys() == exported.keys()
    assert all(torch.equal(again[name], exported[name]) for name in exported)
    assert len({path.stat().st_mode for path in (out / "model").iterdir()}) == 1  # others may read the weights, too
    card = (out / "model" / "README.md").read_text()
    certified = load_certified(work / "data", trust=Trust(incomplete=True), quiet=True)
    started = folder_sha256(work / "model", besides=("README.md",))
    for words in ("| rocov2 | 3 | CC-BY, CC-BY-NC, CC-BY-NC-ND, unstated |", "| medqa | 20 | MIT |", certified.digest):
        assert words in card
    assert f"**Not covered**: what the weights that this stage began with (digest `{started}`)" in card
    assert "Medbullets" in certified.accepted[0]  # by their names where it is written down
    assert "no certificate" not in card and f"**Accepted as it is**: {certified.accepted[0]}" in card
    [at] = (out / "checkpoints").iterdir()
    state, config = json.loads((at / "state.json").read_bytes()), load_config("pretrain", list(SETTINGS))
    for what, count in (("dropped", 0), ("truncated", 1234)):
        told = state | {"data": state["data"] | {"over_long": {what: count}}}
        card = model_card(SimpleNamespace(title="-"), told, config)  # type: ignore[arg-type]
        assert (f"23 samples. Too long for a pack, {what}: {count:,}. Vision encoder" in card) == bool(count)
    accepted, _, settings = (out / "config.yaml").read_text().partition("\n")
    assert accepted == f"# accepted: {certified.accepted[0]}"
    assert (out / "model" / "train_config.yaml").read_text() == settings


def test_adapters_are_merged_resumed_and_an_evaluation_sees_the_model(work: Path, runs: Runs) -> None:
    out = work / "lora"
    command = arguments(work, "lora", "instruct", *LORA, steps=2)
    assert runs.run("lora-1", [*command, "--max-steps", "1"]).codes == [0]
    assert runs.run("lora", command).codes == [0]  # one process, then another
    whole = runs.run("lora-whole", arguments(work, "lora-whole", "instruct", *LORA, steps=2))
    assert whole.codes == [0]
    assert same_weights(out, work / "lora-whole")
    before, after = weights(work), weights(out)
    assert before.keys() == after.keys()
    for step in (1, 2):
        seen = load_file(out / "evaluations" / f"step-{step:08d}" / f"seen-{step}")
        assert all(torch.equal(seen[name], after[name]) for name in after) is (step == 2)
    checkpoint = stored(work / "lora-whole")
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


def test_a_failed_evaluation_stops_after_a_checkpoint(work: Path, runs: Runs) -> None:
    failing = ("watch.evaluate_every=1", 'watch.evaluate=test -z "$RANK" && exit 7')
    result = runs.run("evaluation", arguments(work, "evaluation", "pretrain", *failing))
    assert result.codes == [1]
    assert "step 1: watch.evaluate ended with 7" in result.err[0]
    assert result.err[0].count("\n") == 1
    assert saved(work / "evaluation", 1)


def test_a_signal_that_ends_the_evaluation_too_stops_the_run(work: Path, runs: Runs) -> None:
    """As Slurm sends it, to every process of a step: not the evaluation has failed, and 143 queues the job again."""
    slow = ("watch.evaluate_every=1", "watch.evaluate=kill $PPID; kill $$")
    result = runs.run("signalled", arguments(work, "signalled", "pretrain", *slow))
    assert result.codes == [143]
    assert result.err[0].startswith(f"train.run: stopped by SIGTERM after 1 of {STEPS} steps; the same command goes on")
    assert saved(work / "signalled", 1)


def test_a_dry_run_says_what_and_touches_no_device(work: Path) -> None:
    code = (
        "import sys, torch; from train.run import main; code = main(sys.argv[1:])\n"
        "assert main([*sys.argv[1:], '--quiet', '--memory', '0.5']) == 1\n"
        "assert 'deepspeed' not in sys.modules and not torch.cuda.is_initialized()\n"
        "assert not torch.distributed.is_initialized()\nraise SystemExit(code)"
    )
    command = arguments(work, "dry", "midtrain", "data.packs_per_step=4", steps=None)
    process = subprocess.run(
        [sys.executable, "-c", code, *command, "--dry-run", "--devices", "4"],
        cwd=work, env=ENVIRONMENT, capture_output=True, text=True, timeout=100, check=False,
    )  # fmt: skip
    assert process.returncode == 0
    assert process.stderr.startswith(ACCEPTED) and process.stderr.count("\n") == 3
    assert re.search(r"not held, or not whole: [1-9]\d \(certificate.json names them\)\n", process.stderr)
    assert re.search(r"train.run: [\d.]+ GiB are needed, 0.5 of a device's 0.5 can be .* or try engine", process.stderr)
    assert not (work / "dry").exists()
    count = len(packs(work, 20260802))
    for words in (
        "rocov2", "CC-BY-NC-ND", "medqa", "MIT (open)", f"{count} packs of 1,980 tokens and at most 13 tiles",
        "39 tiles", f"{-(-count // 4)} steps of 1 epoch(s), each of 4 packs", "too long for a pack: none",
        "by the manifest's counts: fewer with data.max_enlargement", "one of 4 device(s), fp32, ZeRO-3",
        "master weights and moments", "host memory for checkpoints",
    ):  # fmt: skip
        assert words in process.stdout


def test_paths_are_looked_at_before_torch_is_loaded(work: Path) -> None:
    code = (
        "import sys; from train.run import main; code = main(sys.argv[1:])\n"
        "assert 'torch' not in sys.modules\nraise SystemExit(code)"
    )
    for shards, model, said in (
        ("data", "nowhere", "nowhere: no model is there"), ("nowhere", "model", "nowhere: no such folder"),
    ):  # fmt: skip
        words = ["--shards", str(work / shards), "--stage", "pretrain", "--model", str(work / model), "--dry-run"]
        done = subprocess.run(
            [sys.executable, "-c", code, *words], cwd=work, env=ENVIRONMENT, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1


def test_one_folder_is_written_by_one_process(work: Path, runs: Runs) -> None:
    out = work / "claimed"
    out.mkdir()
    given = arguments(work, "claimed", "pretrain", steps=1)
    with (out / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        refused = runs.run("claimed", given)
        assert refused.codes == [1]
        assert refused.err == [f"train.run: {out}: another process trains there; wait for it, or use another --out\n"]
        assert [path.name for path in out.iterdir()] == [".lock"]
    assert runs.run("claimed-later", given).codes == [0]


SUMS = """\
from deepspeed.utils import safe_get_full_optimizer_state
from train.checkpoint import make_states
from train.config import load_config
train.loop.start_processes()
errors = {}
for zero in (2, 3):
    for accumulate in ("fp32", "bf16"):
        settings = [f"engine.zero={zero}", f"engine.accumulate={accumulate}", "optimizer.clip=1e9"]
        config = train.loop.engine_config(load_config("midtrain", settings), 8)
        torch.manual_seed(0)
        weight = torch.randn(64, 256).bfloat16()
        module = torch.nn.Linear(256, 64, bias=False)
        module.weight.data = weight.clone()
        optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=config)
        make_states(engine)
        total = torch.zeros(64, 256, dtype=torch.float64)
        for _ in range(8):
            pack = torch.randn(32, 256).bfloat16()
            engine.backward(engine(pack).float().square().mean() * 8)
            engine.step()
            alone = weight.clone().requires_grad_()
            (pack @ alone.T).float().square().mean().backward()
            total += alone.grad.double()
        # What AdamW got: a tenth of the first gradient is its first moment.
        got = safe_get_full_optimizer_state(module.weight, "exp_avg").double().view(64, 256) / 0.1
        errors[f"{zero} {accumulate}"] = float((got - total).abs().max() / total.abs().max())
print(json.dumps(errors))
"""


def test_eight_packs_are_summed_in_fp32(runs: Runs) -> None:
    """Against the sum in fp64 of the gradients of each pack alone, which are bf16 themselves."""
    runs.begin("sums", code=SUMS)
    result = runs.end("sums")
    assert result.codes == [0], result.err
    errors = json.loads(result.out[0].splitlines()[-1])  # DeepSpeed may print
    assert all(error < 1e-6 for name, error in errors.items() if "fp32" in name), errors
    assert all(error > 1e-3 for name, error in errors.items() if "bf16" in name), errors  # what DeepSpeed would do


def test_memory_that_does_not_suffice_is_one_line_with_what_to_set(work: Path, runs: Runs) -> None:
    """DeepSpeed's buffer of reductions, here twice as large, has 4 GB; the process may have 3.9 more than it has."""
    code = (
        "import pathlib, resource, train.memory\ntrain.memory.BUCKET[2] *= 2\n"
        "used = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * 4096\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 39 * 10**8, resource.RLIM_INFINITY))\n"
        f"assert main({arguments(work, 'not', 'midtrain', 'engine.zero=2')!r}) == 1"
    )
    runs.begin("memory", code=code)
    result = runs.end("memory")
    assert result.codes == [0], result.err
    said = "train.run: the host is out of memory for step 0 (tried to allocate 4000000000 bytes); try "
    assert result.err[0].startswith(said)
    assert "train.llm=lora; engine.offload=optimizer" in result.err[0]
    assert result.err[0].count("\n") == 1


def test_a_gradient_that_is_not_finite_updates_nothing(work: Path, runs: Runs) -> None:
    """The loss is finite: sqrt(0) has no slope."""
    code = f"""
torch.distributed.destroy_process_group = lambda: None  # DeepSpeed cannot begin again where the group has ended
forward = train.loop.forward_losses
def bad(model, engine, micro, config):
    losses = forward(model, engine, micro, config)
    return losses + (losses[:1] * 0).sqrt()
train.loop.forward_losses = bad
for zero in (2, 3):
    assert main([*{arguments(work, "not", "midtrain")!r}, "--set", f"engine.zero={{zero}}"]) == 1
"""
    runs.begin("gradient", code=code)
    result = runs.end("gradient")
    assert result.codes == [0], result.err
    lines = result.err[0].splitlines()
    assert len(lines) == 2
    assert all("step 0: the gradient's norm is inf; nothing was updated" in line for line in lines)


def test_weights_of_a_folder_are_mapped_not_copied(runs: Runs) -> None:
    """Eight ranks of a host load the 20B model's 42 GB each: as pages of one file they are there once."""
    code = """\
import pathlib
def private():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
before = private()
module = train.model.load_module(pathlib.Path("model"), torch.float32)
weights = sum(p.numel() * p.element_size() for p in module.parameters() if float(p.detach().sum()) < 1e30)
assert weights > 20e6
assert private() - before < weights / 2, (private() - before, weights)
"""
    runs.begin("mapped", code=code)
    assert runs.end("mapped").codes == [0]


# --- What is refused


@pytest.fixture(scope="module")
def wrong(work: Path) -> None:
    """Shards and models that are not what they should be."""
    shutil.copytree(work / "data" / "built", work / "bare" / "built")
    shutil.copytree(work / "data", work / "altered", ignore=shutil.ignore_patterns(".streams"))
    shard = next((work / "altered/built/rocov2/shards").glob("*train*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    (work / "half").mkdir()
    (work / "half" / "mixture.yaml").write_text(MIXTURE.replace("medqa, samples: 20", "medqa, samples: 19"))
    (work / "gpt2").mkdir()
    (work / "gpt2" / "config.json").write_text('{"model_type": "gpt2"}')
    (work / "occupied" / "model").mkdir(parents=True)
    (work / "occupied" / "model" / "mine").touch()
    for name in ("vocabulary", "missing", "nan", "blind", "other-model"):
        (work / name).mkdir()
        for path in (work / "model").iterdir():
            os.link(path, work / name / path.name)
    config = json.loads((work / "model" / "config.json").read_bytes())
    config["image_token_id"] -= 1
    instead(work / "vocabulary" / "config.json").write_text(json.dumps(config))
    instead(work / "other-model" / "generation_config.json").write_text("{}")
    for name in ("missing", "nan", "blind"):
        tensors = weights(work)
        if name == "missing":
            del tensors["model.language_model.norm.weight"]
        elif name == "nan":
            tensors["model.language_model.norm.weight"][0] = float("nan")
        else:
            tensors["model.multi_modal_projector.linear_2.bias"][0] = float("nan")
        save_file(tensors, instead(work / name / "model.safetensors"), metadata={"format": "pt"})


def instead(path: Path) -> Path:
    """A path whose file, a link, is removed first."""
    path.unlink()
    return path


REFUSED: dict[str, tuple[str, str, tuple[str, ...], dict[str, Any], str]] = {
    # name: folder of the run, stage, settings, other paths and steps, what is said
    "uncertified": ("not", "pretrain", (), {"shards": "bare"}, "manifests.prove"),
    "altered": ("not", "pretrain", (), {"shards": "altered"}, "rocov2-train"),
    "absent": ("not", "pretrain", (), {"model": "absent"}, "train.assemble"),
    "gpt2": ("not", "pretrain", (), {"model": "gpt2"}, "gpt2 model"),
    "vocabulary": ("not", "pretrain", (), {"model": "vocabulary"}, "the vocabulary o200k_harmony has 200,0"),
    "missing": ("not", "pretrain", (), {"model": "missing"}, "1 missing weights, the first is model.language_model"),
    "nan": ("not", "pretrain", (), {"model": "nan"}, "step 0: the loss is nan in a pack that begins with "),
    "long": ("not", "pretrain", ("data.length=1024",), {}, "3 of 23 samples have more than 1024 tokens or 13 tiles"),
    "uncut": (
        "not", "pretrain", ("data.length=1024", "data.over_long=truncate"), {}, "data.tiles, or data.over_long=drop (",
    ),
    "not-a-model": ("not", "pretrain", (), {"model": "pretrain"}, "the folder of a run, no model; its model is"),
    "file": ("mixture.yaml", "pretrain", (), {}, "is no folder that can be written to; use another --out"),
    "occupied": ("occupied", "pretrain", (), {}, "model: is there, but no checkpoint of a run that made it"),
    "other-seed": ("pretrain", "pretrain", ("seed=1",), {}, "made with seed=20260801, now seed=1;"),
    "other-clip": (
        "pretrain", "pretrain", ("optimizer.clip=2",), {},
        "made with optimizer.clip=1.0, now optimizer.clip=2.0; use that (or --change",
    ),
    "other-stage": ("pretrain", "midtrain", (), {}, "made with stage=pretrain, now stage=midtrain;"),
    "other-steps": ("pretrain", "pretrain", (), {"steps": 9}, "another number of steps of its schedule (3, now 9)"),
    "other-data": ("pretrain", "pretrain", (), {"more": "--uncertified"}, "made with another data (certificate)"),
    "other-model": ("pretrain", "pretrain", (), {"model": "other-model"}, "made with another model to start from"),
    "other-mixture": ("pretrain", "pretrain", (), {"cwd": "half"}, "made with another mixture"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_one_line_and_nothing_overwritten(work: Path, runs: Runs, wrong: None, name: str) -> None:
    runs.whole("pretrain")
    out, stage, settings, others, says = REFUSED[name]
    more, cwd = [others.pop("more")] if "more" in others else [], others.pop("cwd", ".")
    result = runs.run(name, [*arguments(work, out, stage, *settings, **others), *more], cwd=cwd)
    assert (result.codes, result.out) == ([2 if name in ("absent", "not-a-model") else 1], [""])
    assert result.err[0].startswith("train.run: ") or result.codes == [2]
    assert result.err[0].count("\n") == 1
    assert says in result.err[0]
    assert result.kept
    assert not (work / "not" / "model").exists()


def test_a_loss_that_is_not_finite_on_one_rank_ends_both_with_one_line(work: Path, runs: Runs, wrong: None) -> None:
    """The weight that is no number meets pictures only: the other rank's pack has none."""
    result = runs.run("half-nan", arguments(work, "not", "pretrain", model="blind"), ranks=2)
    assert result.codes == [1, 1]
    assert result.err[0].startswith("train.run: step ")
    assert "the loss is nan in a pack that begins with rocov2/" in result.err[0]
    assert result.err[1] == ""
    assert result.err[0].count("\n") == 1


def test_an_altered_checkpoint_is_not_resumed(work: Path, runs: Runs) -> None:
    """Of a rank that reads an altered byte all ranks hear; put right, what one rank wrote goes on on two."""
    out = work / "broken"
    shutil.copytree(runs.whole("midtrain"), out)
    shutil.rmtree(out / "model")
    (folder,) = (out / "checkpoints").iterdir()
    path, state = folder / "rank00000.bin", folder / "state.json"
    content, whole = path.read_bytes(), state.read_bytes()
    command = arguments(work, "broken", "midtrain")
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused = runs.run("broken", command, 2)
    what = f"altered since it was written (block 1); remove {folder.name} to go on from the checkpoint before"
    assert (refused.codes, refused.err) == ([1, 1], [f"train.run: {path}: {what}\n", ""])
    path.write_bytes(content)
    assert runs.run("mended", command, 2).codes == [0, 0]
    assert same_weights(out, runs.whole("midtrain"))
    path.unlink()
    with pytest.raises(UserError, match=r"rank00000.bin: missing or .* remove step-00000003 to go on"):
        Checkpoint(folder)
    state.write_bytes(state.read_bytes().replace(b'"step": 3', b'"step": 4'))
    with pytest.raises(UserError, match="json: altered since it was written"):
        Checkpoint(folder)
    state.write_text('{"format": 2, "step": 3}')
    with pytest.raises(UserError, match="missing required field `optimizer_step`; no checkpoint"):
        Checkpoint(folder)
    state.write_text(json.dumps(json.loads(whole) | {"files": [False]}))
    with pytest.raises(UserError, match=r"`\$.files\[0\]`; no checkpoint"):
        Checkpoint(folder)


def test_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for wrong, says in (
        (arguments(tmp_path, "x", "pretrain", "data.nothing=1"), "data: no key is called nothing"),
        (arguments(tmp_path, "x", "pretrain", steps=0), "--steps 0: at least 1"),
        (["--shards", str(tmp_path), "--stage", "pretrain"], "--model and --out are needed"),
    ):
        assert command.main(wrong) == 2
        assert says in capsys.readouterr().err
