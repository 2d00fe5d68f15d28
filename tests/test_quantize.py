"""`train.quantize`: published blocks stay as they are, others go to the nearest code, and hf_local answers the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")

import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, GptOssConfig, GptOssForCausalLM, Mxfp4Config

from eval.adapters.base import Request
from eval.adapters.hf_local import HFLocal
from eval.cards import load_card
from eval.tasks import Question
from train import assemble, quantize

WORDS = (*quantize.CODES, *(-code for code in quantize.CODES))


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-oss in small, in the published layout: random codes, also blocks whose scale another rule would choose."""
    folder = tmp_path_factory.mktemp("published")
    config = GptOssConfig(
        vocab_size=201_088, hidden_size=64, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, num_local_experts=4, num_experts_per_tok=2, pad_token_id=199_999,
        eos_token_id=200_002,
    )  # fmt: skip
    torch.manual_seed(0)
    state = dict(GptOssForCausalLM(config).to(torch.bfloat16).state_dict())
    for name in [name for name in state if name.endswith(quantize.EXPERTS)]:
        experts, width, out = state.pop(name).shape
        blocks = torch.randint(0, 256, (experts, out, width // 32, 16), dtype=torch.uint8)
        blocks[0] &= 0x99  # codes of 0 and 0.5 alone
        state[f"{name}_blocks"] = blocks
        state[f"{name}_scales"] = torch.randint(118, 122, (experts, out, width // 32), dtype=torch.uint8)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "model.safetensors")
    config.quantization_config = {"quant_method": "mxfp4"}
    config.architectures = ["GptOssForCausalLM"]
    config.save_pretrained(folder)
    return folder


def weights(folder: Path) -> dict[str, Any]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def test_published_blocks_are_kept_and_trained_experts_go_to_the_nearest_code(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, out = tmp_path / "model", tmp_path / "out"
    assert assemble.main(["--llm", str(published), "--size", "tiny", "--out", str(model)]) == 0
    held = weights(model)
    trained = "model.language_model.layers.1.mlp.experts.down_proj"
    held[trained] = (held[trained].float() * 1.1 + 0.01 * torch.randn(held[trained].shape)).to(torch.bfloat16)
    held[trained][0, :, 0] = 0
    [file] = model.glob("*.safetensors")
    save_file(held, file, {"format": "pt"})
    given = ["--published", str(published), "--out", str(out)]
    assert quantize.main([str(model), *given]) == 0
    assert "3 expert weights as published, byte for byte; 1 to the nearest code" in capsys.readouterr().out
    found, theirs = weights(out), weights(published)
    for name, tensor in theirs.items():
        if ".experts." in name and "layers.1.mlp.experts.down_proj_" not in name:
            assert torch.equal(found["model.language_model." + name.removeprefix("model.")], tensor), name
    packed = (found.pop(f"{trained}_blocks"), found.pop(f"{trained}_scales"))
    decoded = quantize.decode(*packed, torch.float32)
    scale = torch.exp2(packed[1].float() - 127).repeat_interleave(32, -1).transpose(1, 2)
    nearest = (held[trained].float().unsqueeze(-1) - scale.unsqueeze(-1) * torch.tensor(WORDS)).abs().amin(-1)
    assert torch.equal((held[trained].float() - decoded).abs(), nearest)
    largest = held[trained].float().abs().reshape(4, 1, 32, -1).amax(2, keepdim=True).repeat_interleave(32, 2)
    assert bool((largest.reshape(scale.shape) < 8 * scale).all())
    same = {name for name, tensor in held.items() if name in found and torch.equal(tensor, found[name])}
    assert same == {name for name in held if not name.endswith(quantize.EXPERTS)}

    # transformers reads it; hf_local gives the answers of the decoded weights, and the experts stay packed.
    plain = tmp_path / "plain"
    plain.mkdir()
    for path in model.iterdir():
        (plain / path.name).write_bytes(path.read_bytes())
    for name in [name for name in held if name.endswith(quantize.EXPERTS)]:
        held[name] = quantize.decode(*(weights(out)[f"{name}_{kind}"] for kind in ("blocks", "scales")), torch.bfloat16)
    save_file(held, plain / file.name, {"format": "pt"})
    stock = AutoModelForImageTextToText.from_pretrained(
        out, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
    ).state_dict()
    assert set(stock) == set(held) and all(torch.equal(stock[name], tensor) for name, tensor in held.items())
    adapters = [HFLocal(folder, load_card("medgpt_oss_ours"), device="cpu") for folder in (plain, out)]
    content = [{"type": "text", "text": "Which findings are there?"}]
    question = Question("s/1", [{"role": "user", "content": content}], [], (), "", "", "", "", "open")
    said = [adapter.generate([Request("t", "0", question, 6, "0")])[0] for adapter in adapters]
    answers = [replace(answer, seconds=None) for answer in said]
    assert answers[0] == answers[1] and answers[0].completion_tokens
    kinds = {tensor.dtype for name, tensor in adapters[1]._ready().model.named_parameters() if "proj_blocks" in name}
    assert kinds == {torch.uint8}


def test_what_cannot_be_quantised_is_named(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) != 0
    assert "no model folder" in capsys.readouterr().err
    assert quantize.main([str(published), "--out", str(tmp_path)]) != 0
    assert "is there already" in capsys.readouterr().err
