"""`python -m train.quantize`: a trained model with its experts in MXFP4, GPT-oss's published format.

Experts whose weights are those of the published model (training left them alone) keep its blocks and scales byte for
byte; others go to the nearest code, with the scale of the OCP rule. All else stays as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, cast

from medgpt.arguments import command_parser
from medgpt.atomic import whole_folder
from medgpt.errors import DONE, UserError, one_line, run
from medgpt.libraries import libraries_apart

if TYPE_CHECKING:
    import torch

EXAMPLE = """\
example:
  python -m train.quantize data/runs/instruct/model --published models/gpt-oss-20b --out data/models/instruct-mxfp4
"""

EXPERTS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj")
"""Weights that are quantised, of shape (experts, in, out)."""
PREFIX = "model.language_model."
"""Ours before the published model's names (theirs have `model.`)."""
CODES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Magnitudes of E2M1, by code; the fourth bit is the sign. OCP Microscaling Formats 1.0, section 5.3.3."""
BLOCK = 32
"""Weights that share a scale, a power of two (E8M0, bias 127)."""


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser("train.quantize", (__doc__ or "").partition("\n\n")[2], EXAMPLE)
    parser.add_argument("model", type=Path, metavar="DIR", help="model folder of train.run or train.assemble")
    parser.add_argument("--published", type=Path, metavar="DIR", help="GPT-oss as published, whose blocks are kept")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    return parser


@run
@libraries_apart()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 where it cannot."""
    options = make_parser().parse_args(arguments)
    kept, coded = quantize(options.model, options.out, options.published)
    print(f"{options.out}: {kept} expert weights as published, byte for byte; {coded} to the nearest code")
    return DONE


def quantize(model: Path, out: Path, published: Path | None = None) -> tuple[int, int]:
    """Write `out`; (weights kept as published, weights coded anew).

    Raises: `UserError` (no model folder with GPT-oss's experts, of widths that can be parted into blocks; `out` is
    there already, or files cannot be read).
    """
    import torch

    from train.model import read_config

    if out.exists():
        raise UserError(f"{out}: is there already; name another folder")
    if read_config(model).text_config.model_type != "gpt_oss":
        raise UserError(f"{model}: its language model is no GPT-oss; MXFP4 is that one's format")
    names, read = stored(model)
    for name, shape in ((name, tuple(tensor.shape)) for name, tensor in names.items() if name.endswith(EXPERTS)):
        if shape[1] % BLOCK:
            raise UserError(
                f"{model}: {name} is {shape[1]:,} wide, no multiple of the {BLOCK} weights of a block of MXFP4; use "
                "the model as it is, or assemble one of other widths (python -m train.assemble)"
            )
    theirs, read_theirs = ({}, read) if published is None else stored(published)
    weights: dict[str, torch.Tensor] = {}
    kept = coded = 0
    for name in names:
        tensor = read(name)
        if not name.endswith(EXPERTS):
            weights[name] = tensor
            continue
        stem = "model." + name.removeprefix(PREFIX)
        packed = None
        if f"{stem}_blocks" in theirs:
            packed = read_theirs(f"{stem}_blocks"), read_theirs(f"{stem}_scales")
        if packed is not None and torch.equal(decode(*packed, tensor.dtype), tensor):
            kept += 1
        else:
            packed = encode(tensor)
            coded += 1
        weights[f"{name}_blocks"], weights[f"{name}_scales"] = packed
    if not coded + kept:
        raise UserError(f"{model}: has no experts to quantise; is it quantised already?")
    write(out, weights, model)
    return kept, coded


def write(out: Path, weights: Mapping[str, torch.Tensor], model: Path) -> None:
    """Write the model folder `out` with packed experts among its `weights`; all else is copied from `model`."""
    from huggingface_hub import save_torch_state_dict

    from train.model import copy_side_files

    ordered = {name: weights[name].contiguous() for name in sorted(weights)}
    left = ["model.vision_tower", "model.multi_modal_projector", "self_attn", "mlp.router", "embed_tokens", "lm_head"]
    with whole_folder(out) as work:
        save_torch_state_dict(ordered, work, max_shard_size="5GB")
        copy_side_files(model, work)
        document = json.loads((work / "config.json").read_text(encoding="utf-8"))
        document["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": left}
        (work / "config.json").write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def encode(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(blocks, scales) of weights (experts, in, out): uint8 (experts, out, in / 32, 16) and (experts, out, in / 32).

    The scale is the largest power of two in a block's largest magnitude, over 4 (the largest in a code's, 6): OCP
    Microscaling Formats 1.0, section 6.3; what is then beyond 6 becomes 6. The low half of a byte is the first weight.
    """
    import torch

    blocks, scales = [], []
    edges = torch.tensor([(low + high) / 2 for low, high in pairwise(CODES)], device=weight.device)
    for one in weight:  # an expert at a time: fp32 of a layer would be 3 GB
        rows = one.T.float().contiguous().reshape(one.shape[1], -1, BLOCK)
        # frexp's mantissa is in [0.5, 1): largest = m * 2^e, so its power of two is 2^(e - 1), and 4 is 2^2.
        exponent = torch.frexp(rows.abs().amax(-1))[1] - 3
        exponent = exponent.clamp(-127, 127)
        scaled = torch.ldexp(rows, -exponent.unsqueeze(-1))
        codes = torch.bucketize(scaled.abs(), edges).to(torch.uint8) | (scaled.signbit().to(torch.uint8) << 3)
        blocks.append(codes[..., 0::2] | (codes[..., 1::2] << 4))
        scales.append((exponent + 127).to(torch.uint8))
    return torch.stack(blocks), torch.stack(scales)


def decode(blocks: torch.Tensor, scales: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Weights (experts, in, out) of blocks and scales, by transformers' own function."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    return convert_moe_packed_tensors(blocks, scales, dtype=dtype)


def stored(folder: Path) -> tuple[dict[str, torch.Tensor], Callable[[str], torch.Tensor]]:
    """A folder's weights: shapes and types by name (tensors of the device `meta`), and what reads one.

    Raises: `UserError` (there are none, or one cannot be read; also when it is read).
    """
    from safetensors import SafetensorError, safe_open

    places: dict[str, Path] = {}

    def read(name: str, device: str = "cpu") -> torch.Tensor:
        try:
            with safe_open(places[name], framework="pt") as file:
                return cast("torch.Tensor", file.get_tensor(name)).to(device)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{places[name]}: cannot be read ({one_line(error)[:200]})") from None

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="pt") as file:
                places |= dict.fromkeys(file.keys(), path)
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be read ({one_line(error)[:200]})") from None
    if not places:
        raise UserError(f"{folder}: no safetensors files; is it a model folder?")
    return {name: read(name, "meta") for name in sorted(places)}, read


if __name__ == "__main__":
    raise SystemExit(main())
