"""`train.quantize`: published blocks stay as they are, others go to the nearest code, and hf_local answers the same."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers", minversion="5")

import torch
from msgspec.structs import replace
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoTokenizer, GptOssConfig, GptOssForCausalLM, Mxfp4Config

from eval.adapters.base import Request
from eval.adapters.hf_local import HFLocal
from eval.cards import load_card
from eval.tasks import Question
from medgpt.configuration_medgpt import MedGptConfig
from train import assemble, export, llama_cpp, quantize
from train.model import read_config

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
    decoded = quantize.decode(packed[0], packed[1], torch.float32)
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
    found = weights(out)
    for name in [name for name in held if name.endswith(quantize.EXPERTS)]:
        held[name] = quantize.decode(found[f"{name}_blocks"], found[f"{name}_scales"], torch.bfloat16)
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
    kinds = {tensor.dtype for name, tensor in adapters[1]._loaded.model.named_parameters() if "proj_blocks" in name}
    assert kinds == {torch.uint8}

    # As GGUF: the codes are those of the blocks, all else is what it was. With few merges: gguf takes 20 s to read all.
    capsys.readouterr()
    words = json.loads((out / "tokenizer.json").read_text())
    del words["model"]["merges"][2000:]
    (out / "tokenizer.json").write_text(json.dumps(words))
    assert export.main([str(out), "--for", "llama.cpp", "--out", str(tmp_path / "gguf")]) == 0
    assert capsys.readouterr().out.count(" bytes\n") == 2
    check_gguf(tmp_path / "gguf", held, packed=True)
    shapes, read = quantize.stored(plain)
    for entry in llama_cpp.language_entries(shapes):  # experts in bf16, without a second vocabulary on disk
        if "_exps.weight" in entry.name:
            assert entry.kind == "BF16" and torch.equal(entry.make(read), theirs_of(entry.name, held)), entry.name


def theirs_of(name: str, held: dict[str, Any]) -> Any:
    """A tensor of a GGUF as the published layout has it, by names and rules that are written down here once more."""
    for theirs, ours in {
        "blk.": "model.language_model.layers.", "attn_norm": "input_layernorm", "attn_sinks.weight": "self_attn.sinks",
        "post_attention_norm": "post_attention_layernorm", "attn_output": "self_attn.o_proj", "attn_": "self_attn.",
        "ffn_gate_inp": "mlp.router", "token_embd": "model.language_model.embed_tokens", "output_norm":
        "model.language_model.norm", "ffn_down_exps.weight": "mlp.experts.down_proj", "ffn_down_exps.bias":
        "mlp.experts.down_proj_bias",
    }.items():  # fmt: skip
        name = name.replace(theirs, ours)
    for letter in "qkv":
        name = name.replace(f"self_attn.{letter}.", f"self_attn.{letter}_proj.")
    half = re.fullmatch(r"(.*)ffn_(gate|up)_exps\.(weight|bias)", name)
    if half:
        tensor = held[f"{half[1]}mlp.experts.gate_up_proj{'_bias' if half[3] == 'bias' else ''}"]
        return (
            tensor[..., half[2] == "up" :: 2].transpose(1, 2)
            if tensor.dim() == 3
            else tensor[..., half[2] == "up" :: 2]
        )
    name = "lm_head.weight" if name == "output.weight" else name
    return held[name].transpose(1, 2) if name.endswith("down_proj") else held[name]


def check_gguf(folder: Path, held: dict[str, Any], *, packed: bool) -> None:
    """Every tensor of both files against the folder's weights, as gguf's own code reads it; the vocabulary, too."""
    gguf = pytest.importorskip("gguf")
    readers = [gguf.GGUFReader(folder / name) for name in (llama_cpp.MODEL, llama_cpp.MMPROJ)]
    seen = set()
    for tensor in readers[0].tensors:
        expected = theirs_of(tensor.name, held)
        values = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)).reshape(expected.shape)
        assert torch.equal(values, expected.float()), tensor.name
        assert (tensor.tensor_type.name == "MXFP4") == (packed and "_exps.weight" in tensor.name)
        seen.add(tensor.name)
    layers = sum(name.endswith("input_layernorm.weight") for name in held)
    assert len(seen) == len(readers[0].tensors) == 3 + 19 * layers
    vision = {
        tensor.name: torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type)) for tensor in readers[1].tensors
    }
    tower, projector = "model.vision_tower.", "model.multi_modal_projector."
    theirs = {name for name in held if name.startswith((tower, projector)) and "post_layernorm" not in name}
    assert len(vision) == len(theirs)
    positions = held[f"{tower}embeddings.position_embedding.weight"].float()
    assert torch.equal(vision["v.position_embd.weight"], torch.cat((positions[1:], positions[:1])))
    for name, ours in {
        "v.class_embd": f"{tower}embeddings.class_embedding", "v.pre_ln.bias": f"{tower}pre_layrnorm.bias",
        "v.patch_embd.weight": f"{tower}embeddings.patch_embedding.weight", "mm.model.mlp.0.weight":
        f"{projector}layer_norm.weight", "mm.model.mlp.1.bias": f"{projector}linear_1.bias", "mm.model.mlp.3.weight":
        f"{projector}linear_2.weight", "v.blk.1.attn_out.weight": f"{tower}encoder.layers.1.self_attn.out_proj.weight",
        "v.blk.0.ffn_up.weight": f"{tower}encoder.layers.0.mlp.fc1.weight",
        "v.blk.1.ffn_down.bias": f"{tower}encoder.layers.1.mlp.fc2.bias",
    }.items():  # fmt: skip
        assert torch.equal(vision[name].reshape(held[ours].shape), held[ours].float()), name

    def field(reader: Any, name: str) -> Any:
        return reader.fields[name].contents()

    config = read_config(folder)
    text, rope = config.text_config, config.text_config.rope_parameters
    found = {name: field(readers[0], f"gpt-oss.{name}") for name in (
        "block_count", "attention.head_count_kv", "attention.key_length", "expert_used_count", "rope.freq_base",
        "attention.sliding_window", "rope.scaling.factor", "rope.scaling.original_context_length")}  # fmt: skip
    assert list(found.values()) == [
        text.num_hidden_layers, text.num_key_value_heads, text.head_dim, text.num_experts_per_tok, rope["rope_theta"],
        text.sliding_window, rope["factor"], rope["original_max_position_embeddings"],
    ]  # fmt: skip
    assert field(readers[1], "clip.projector_type") == "internvl" and "clip.use_gelu" not in readers[1].fields
    fast = AutoTokenizer.from_pretrained(folder)
    words = field(readers[0], "tokenizer.ggml.tokens")
    assert len(words) == text.vocab_size and all(words[number] == word for word, number in fast.get_vocab().items())
    kinds = field(readers[0], "tokenizer.ggml.token_type")
    assert {number for number, kind in enumerate(kinds) if kind == gguf.TokenType.CONTROL} == set(
        fast.added_tokens_decoder
    )
    merges = json.loads(fast.backend_tokenizer.to_str())["model"]["merges"]
    assert field(readers[0], "tokenizer.ggml.merges") == [" ".join(pair) for pair in merges]
    template, written = (folder / "chat_template.jinja").read_text(), field(readers[0], "tokenizer.chat_template")
    for number in range(4):  # llama.cpp's Jinja knows no escapes by number
        template = template.replace(f"\\ufdd{number}", chr(0xFDD0 + number))
    assert written == template and "\\u" not in written
    assert field(readers[0], "tokenizer.ggml.eos_token_id") == fast.convert_tokens_to_ids("<|return|>")


def test_what_cannot_be_quantised_is_named(published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize.main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) != 0
    assert "no model folder" in capsys.readouterr().err
    assert quantize.main([str(published), "--out", str(tmp_path)]) != 0
    assert "is there already" in capsys.readouterr().err
    assert export.main([str(tmp_path / "nothing"), "--for", "llama.cpp", "--out", str(tmp_path / "out")]) != 0
    assert "no model folder" in capsys.readouterr().err
    uneven = tmp_path / "uneven"
    MedGptConfig(text_config={"model_type": "gpt_oss"}).save_pretrained(uneven)
    name = "model.language_model.layers.0.mlp.experts.down_proj"
    save_file({name: torch.zeros(2, 48, 16)}, uneven / "model.safetensors")
    assert quantize.main([str(uneven), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"{name} is 48 wide, no multiple of the 32 weights of a block" in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_without_its_libraries_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert quantize.main([str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "needs torch: pip install 'medgpt-oss[train]'\n"
