"""Settings of a training run, learning rates, the log and the memory plan: all without torch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from medgpt.errors import UserError
from medgpt.settings import checked
from train.config import PRESETS, STAGES, Config, Optimizer, Watch, learning_rate, load_config
from train.log import Log, curves, read_log
from train.memory import Shape, plan_memory
from train.run import make_parser


@pytest.mark.parametrize("stage", STAGES)
def test_presets_are_the_recipe(stage: str) -> None:
    config = load_config(stage)
    assert config.stage == stage
    assert (config.data.length, config.data.tiles, config.data.samples_per_step) == (0, 0, 128)
    assert config.optimizer.weight_decay == 0.05
    assert config.train.llm == ("freeze" if stage == "pretrain" else "train")
    assert config.engine.zero == (2 if stage == "pretrain" else 3)


@pytest.mark.parametrize("stage", STAGES)
def test_every_value_of_a_preset_that_is_a_number_of_the_recipe_names_its_source(stage: str) -> None:
    """Learning rates, decay, length, warm-up: each line, or the one above it, says where it comes from."""
    lines = (PRESETS / f"{stage}.yaml").read_text().splitlines()
    for key in (
        "length",
        "longest",
        "samples_per_step",
        "tiles",
        "packs_per_step",
        "llm_lr",
        "projector_lr",
        "warmup",
        "weight_decay",
        "weighting",
    ):
        found = [number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
        for number in found:
            above = "\n".join(lines[max(0, number - 3) : number + 1])
            assert any(word in above for word in ("paper", "ours", "InternVL")), f"{stage}: {key}"


@pytest.mark.parametrize(
    ("stage", "tokens", "most", "tiles", "fitted"),
    [
        # Pictures of 5 and of 10 tiles with some 150 tokens of text; the bench on GPUs saw these packs full.
        ("midtrain", 929.3, 959, 5, (29824, 156, 4)),
        ("lora", 929.3, 959, 5, (14976, 78, 8)),
        ("midtrain", 1650.2, 1700, 10, (26496, 156, 8)),
        ("pretrain", 1650.2, 1700, 10, (13312, 79, 16)),  # longer ones would be longer than `longest`
        ("instruct", 300.0, 20_000, 0, (20096, 1, 4)),  # the longest sample fits
        ("instruct", 300.0, 90_000, 0, (32768, 1, 4)),
    ],
)
def test_packs_are_as_long_as_the_papers_batch_asks(
    stage: str, tokens: float, most: int, tiles: int, fitted: tuple[int, ...]
) -> None:
    data = load_config(stage).data.fitted(tokens, most, tiles / most)
    assert (data.length, data.tiles, data.packs_per_step) == pytest.approx(fitted, abs=2)
    if most < 10_000:
        assert data.length % tokens / data.length < 0.05  # what is left in a pack of equal samples
    assert data.fitted(1.0, 1, 1.0) == data  # what is set stays


@pytest.mark.parametrize("stage", STAGES)
def test_a_saved_configuration_is_the_same_when_read_again(stage: str, tmp_path: Path) -> None:
    config = load_config(stage, ["optimizer.llm_lr=3e-5", "data.max_enlargement=1.5", "engine.zero=2"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.as_dict()))
    assert load_config(str(path)) == config
    assert config.optimizer.llm_lr == 3e-5


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("optimizer.lr=1", "optimizer: no key is called lr; there are betas"),
        ("nothing=1", "no key is called nothing"),
        ("engine.zero=4", "engine.zero: 4 is none of 1, 2, 3"),
        ("engine.zero=true", "engine.zero: Expected `int`"),
        ("engine.compile=1", "engine.compile: Expected `bool`"),
        ("optimizer.llm_lr=fast", "optimizer.llm_lr: Expected `float`"),
        ("optimizer.llm_lr=.nan", "nan is no number"),
        ("optimizer.llm_lr=-1", "optimizer.llm_lr: .* >= 0"),
        ("optimizer.betas=[0.9]", "of length 2"),
        ("optimizer.warmup=1", "optimizer.warmup: .* < 1"),
        ("data.length=1.5", "data.length: Expected `int`"),
        ("data.length=3", "length: 3 tokens; at least 64, or 0"),
        ("data=3", "data: Expected `object`"),
        ("data.max_enlargement=-1", "data.max_enlargement: .* > 0"),
        ("data.length", "write it as key=value"),
        ("data.length.more=1", "no group of settings"),
        ("data.mixture=[", "not YAML"),
        ("watch.evaluate_every=5", "go together"),
        ("watch.probe_every=5", "go together"),
        ("engine.zero=1", "sums gradients in bf16; set engine.accumulate=bf16, or engine.zero=2"),
        ("engine.accumulate=fp16", "'fp16' is none of bf16, fp32"),
        ("optimizer.clip=.inf", "inf is no number"),
        ("seed=-1", "seed: Expected `int` >= 0"),
        ("data.mixture=", "data.mixture: Expected `str`"),
        ("engine.zero=", "engine.zero: Expected `int`"),
        ("=3", "write it as key=value"),
    ],
)
def test_wrong_settings_are_named(setting: str, says: str) -> None:
    with pytest.raises(UserError, match=says):
        load_config("instruct", [setting])


@pytest.mark.parametrize(
    "command", ["echo {models}", "echo ${HOME}", "awk '{print}'", "echo {", "echo {}", "{model.x}"]
)
def test_braces_of_an_evaluation_that_mean_nothing_are_refused_before_the_first_step(command: str) -> None:
    with pytest.raises(UserError, match=r"\{model\}, \{step\} and \{out\} in braces; write other braces twice"):
        load_config("pretrain", ["watch.evaluate_every=1", f"watch.evaluate={json.dumps(command)}"])


def test_an_evaluation_gets_folders_with_spaces_whole() -> None:
    watch = Watch(evaluate_every=1, evaluate="echo {model} {step} ${{HOME}} {out}")
    line = watch.command(Path("my runs/model"), 7, Path("out"))
    assert line == "echo 'my runs/model' 7 ${HOME} out"


def test_zero_1_sums_as_it_can() -> None:
    assert load_config("pretrain", ["engine.zero=1", "engine.accumulate=bf16"]).engine.zero == 1
    assert load_config("pretrain", ["engine.zero=1", "engine.precision=fp32"]).engine.zero == 1


def test_everything_frozen_is_refused() -> None:
    frozen = ["train.vision=freeze", "train.projector=freeze"]
    with pytest.raises(UserError, match="freezes everything"):
        load_config("pretrain", frozen)


def test_missing_files_and_parts_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a YAML file nor a shipped stage"):
        load_config("finetune")
    (tmp_path / "x.yaml").write_text("stage: x\nseed: 1\n")
    with pytest.raises(UserError, match="data is missing"):
        load_config(str(tmp_path / "x.yaml"))
    (tmp_path / "y.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match=r"y\.yaml: Expected `object`"):
        load_config(str(tmp_path / "y.yaml"))
    with pytest.raises(UserError, match="nowhere: seed is missing"):
        checked(Config, {"stage": "x", "data": {"mixture": "x"}}, "nowhere")


@given(st.integers(1, 5000), st.floats(0, 0.5), st.floats(0, 1))
def test_learning_rate_rises_then_falls_to_its_end(steps: int, warmup: float, final: float) -> None:
    optimizer = Optimizer(warmup=warmup, final=final)
    rates = [learning_rate(step, steps, optimizer) for step in range(steps)]
    warm = max(1, round(steps * warmup)) if warmup else 0
    assert all(0 < rate <= 1 or final == 0 for rate in rates)
    assert rates[:warm] == sorted(rates[:warm])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert learning_rate(steps, steps, optimizer) == pytest.approx(final if warm < steps else 1, abs=1e-12)


def test_a_log_goes_on_after_the_step_of_a_checkpoint(tmp_path: Path) -> None:
    log = Log(tmp_path, 0)
    for step in range(5):
        log.write({"step": step, "loss": 5.0 - step, "sources": {"slake": 1.0 + step}})
    log.close()
    with log.path.open("ab") as file:
        file.write(b'{"step": 5, "lo')  # killed while it wrote
    again = Log(tmp_path, 3, {"slake": 0.139, "of another mixture": 0.2})
    again.write({"step": 3, "loss": 1.5, "sources": {"slake": 1.0}})
    again.write({"step": 4, "loss": 1.4, "sources": {"slake": 0.9}, "probe": {"right": 0.75, "blind_right": 0.5}})
    again.close()
    records = read_log(tmp_path / "log.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4]
    assert [record.get("blind") for record in records[2:]] == [None, {"slake": 0.139}, {"slake": 0.139}]
    picture = ElementTree.fromstring((tmp_path / "curves.svg").read_text())
    lines = picture.findall(".//{http://www.w3.org/2000/svg}polyline")
    # Loss and loss of slake, each with that of guessing blindly, dashed; share of questions right, and blindly so.
    shown = [(len(line.attrib["points"].split()), "dashed" in line.attrib["class"].split()) for line in lines]
    assert shown == [(5, False), (2, True), (5, False), (2, True), (1, False), (1, True)]


def test_curves_escape_names_and_take_one_step() -> None:
    ElementTree.fromstring(curves([{"step": 1, "loss": 2.0, "sources": {"<b>&": 1.0}}]))


SHAPE = Shape(
    {"vision": 303_507_456, "projector": 20_104_832, "llm": 20_914_757_184, "lora": 0},
    24, 2880, 4 * 2880, 4096, 201_088, 24, 1024, 576,
)  # fmt: skip


FIVE = ("data.length=14976", "data.tiles=81")


def needs(stage: str, ranks: int, *settings: str, memory: float = 78) -> dict[str, float]:
    plan = plan_memory(load_config(stage, [*FIVE, *settings]), SHAPE, ranks, memory)
    return {need.what: need.bytes / 2**30 for need in plan.device}


def test_memory_of_the_20b_model_is_what_was_measured_and_counted() -> None:
    assert needs("pretrain", 1)["weights"] == pytest.approx(39.6, abs=0.1)  # 21.24 G parameters in bf16
    full, two = needs("midtrain", 1), 3.0  # two layers' gradients beside the sum
    assert full["gradients"] == pytest.approx(79.1 + two, abs=0.1)  # eight packs of one device, summed in fp32
    assert needs("midtrain", 1, "engine.accumulate=bf16")["gradients"] == pytest.approx(39.6 + two, abs=0.1)
    assert needs("midtrain", 8)["gradients"] == pytest.approx(39.6 / 8 + two, abs=0.1)  # a pack each: nothing to sum
    assert needs("midtrain", 8, "data.packs_per_step=16")["gradients"] == pytest.approx(79.1 / 8 + two, abs=0.1)
    assert full["master weights and moments"] == pytest.approx(237.4, abs=0.5)  # 12 bytes a parameter
    assert sum(full.values()) > 2 * 131  # two H200s (131 GiB) do not hold it, so it does not fit one H200
    # What presets are for: one card of 80 GB, four of 141 GB.
    assert sum(needs("pretrain", 1).values()) < 73 and sum(needs("lora", 1).values()) < 73
    one_pack = needs("midtrain", 4, "data.length=29824", "data.tiles=164", memory=139)
    assert 110 < sum(one_pack.values()) < 122  # seen on four H200: 113 in use
    assert sum(needs("midtrain", 4).values()) > 100
    assert sum(needs("midtrain", 8).values()) < 73


def test_activations_are_kept_where_there_is_memory() -> None:
    config = load_config("pretrain", FIVE)
    small, large = (plan_memory(config, SHAPE, 1, memory).kept for memory in (78, 139.8))
    assert 0 < small < 0.3 and large == 1
    offload = plan_memory(load_config("midtrain", [*FIVE, "engine.offload=optimizer"]), SHAPE, 4)
    assert offload.host / 2**30 == pytest.approx(21.24e9 * 16 / 4 / 2**30, abs=0.5)


def test_settings_change_the_memory_they_are_said_to() -> None:
    base, full, sums = needs("midtrain", 8), "activations, language model", "buffer of reductions"
    plan = plan_memory(load_config("midtrain", [*FIVE, "engine.zero=2"]), SHAPE, 8, 78)
    [(knob, before)] = [(need.knob, need.bytes) for need in plan.device if need.what == sums]
    assert needs("midtrain", 8, knob)[sums] < before
    assert needs("midtrain", 8, "engine.offload=optimizer")["master weights and moments"] == 0
    assert needs("midtrain", 8, "engine.checkpointing=none")[full] > 3 * base[full]
    assert needs("midtrain", 8, "loss.chunk=1024")["logits"] < base["logits"]
    assert needs("midtrain", 8, "train.vision=freeze")["activations, vision"] < base["activations, vision"]


def test_configuration_and_plan_need_no_torch() -> None:
    code = (
        "import sys; import train.config, train.memory, train.log\nassert not {'torch', 'deepspeed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


# --- Slurm

SBATCH = ROOT / "train" / "slurm" / "train.sbatch"


def submit(work: Path, *arguments: str, code: int = 0) -> tuple[subprocess.CompletedProcess[str], list[str], str]:
    """The batch script with an srun and a scontrol that write down what they are told; the last is scontrol's.

    There are more nodes than a pipe holds: who takes the first and closes it would end scontrol with an error.
    """
    tools = work / "bin"
    tools.mkdir(exist_ok=True)
    (tools / "srun").write_text(
        f'#!/bin/bash\nprintf "%s\\0" "$MASTER_ADDR:$MASTER_PORT" "$@" > {work}/srun\nexit {code}\n'
    )
    (tools / "scontrol").write_text(f'#!/bin/bash\necho "$@" >> {work}/scontrol\nseq -f node%.0f 3 30000\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    bash = shutil.which("bash")
    assert bash is not None
    environment = {"PATH": f"{tools}:{os.environ['PATH']}", "SLURM_JOB_ID": "81234", "SLURM_JOB_NODELIST": "node[3-4]"}
    done = subprocess.run(
        [bash, str(SBATCH), *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    said = (work / "srun").read_text().split("\0")[:-1] if (work / "srun").exists() else []
    return done, said, (work / "scontrol").read_text() if (work / "scontrol").exists() else ""


def test_the_slurm_example_starts_the_command_and_queues_itself_again(tmp_path: Path) -> None:
    told = ["midtrain", "my data", "models/20b", "runs/midtrain", "--set", "optimizer.llm_lr=1e-5"]
    done, said, control = submit(tmp_path, *told)
    assert (done.returncode, done.stderr) == (0, "")
    assert said[0] == "node3:21234"
    start = said.index("train.run")
    assert said[start - 2 : start] == ["python", "-m"]
    options = make_parser().parse_args(said[start + 1 :])
    assert (options.stage, options.shards, options.model) == ("midtrain", Path("my data"), Path("models/20b"))
    assert options.out == Path("runs/midtrain")
    assert load_config(options.stage, options.set).optimizer.llm_lr == 1e-5
    assert "requeue" not in control
    done, _, control = submit(tmp_path, *told, code=143)
    assert done.returncode == 143
    assert control.splitlines()[-1] == "requeue 81234"
    failed = tmp_path / "failed"
    failed.mkdir()
    done, _, control = submit(failed, *told, code=1)
    assert (done.returncode, "requeue" in control) == (1, False)
    done, said, _ = submit(failed, "midtrain", "data")
    assert done.returncode == 2
    assert "usage: sbatch" in done.stderr


def test_the_slurm_examples_ranks_divide_the_presets_packs_and_it_is_told_in_time() -> None:
    settings = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SBATCH.read_text(), re.MULTILINE))
    ranks = int(settings["nodes"]) * int(settings["ntasks-per-node"])
    assert settings["ntasks-per-node"] == settings["gpus-per-node"]
    srun = re.search(r"^srun (?:.*\\\n)*.*", SBATCH.read_text(), re.MULTILINE)
    assert srun is not None
    given = re.findall(r"--set (\S+)", srun[0])
    assert all(load_config(stage, given).data.packs_per_step % ranks == 0 for stage in STAGES)
    assert settings["signal"].startswith("TERM@")
    assert "requeue" in settings
