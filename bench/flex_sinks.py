"""Flex attention with sinks against eager attention on a GPU: losses and gradients of a packed row, in fp32.

CPUs have no backward pass of flex attention, so the suite compares forward passes only; this compares all gradients,
those of the sinks included.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def measure(peer_python: Path | None = None) -> dict[str, Any]:
    """Largest differences, relative to the largest value of each tensor."""
    del peer_python
    import torch

    from train.backends import FLEX
    from train.model import MedGptForTraining, sized_config

    if not torch.cuda.is_available():
        return {"skipped": "no GPU"}
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = False
    module = MedGptForTraining(sized_config("tiny")).cuda().train()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.add_(torch.randn_like(parameter) * (0.5 if name.endswith("sinks") else 0.02))
    lengths = [300, 7, 129, 588]
    positions = torch.cat([torch.arange(length) for length in lengths])[None].cuda()
    ids = torch.randint(1000, 100_000, positions.shape, device="cuda")
    ids[0, 20:164] = module.config.image_token_id
    keep = torch.arange(170, 1000, 3, device="cuda")
    batch = {
        "input_ids": ids, "position_ids": positions, "keep": keep, "targets": ids[0, keep + 1],
        "pixel_values": torch.randn(1, 3, 336, 336, device="cuda"),
    }  # fmt: skip
    found = {}
    for attention in ("eager", FLEX):
        module.set_attn_implementation({"": "eager", "vision_config": "sdpa", "text_config": attention})
        module.set_experts_implementation({"text_config": "grouped_mm"})
        module.zero_grad(set_to_none=True)
        losses = module(**batch)
        losses.mean().backward()
        gradients = {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
        found[attention] = (losses.detach(), gradients)
    (eager, ours), (flex, theirs) = found["eager"], found[FLEX]

    def apart(a: Any, b: Any) -> float:
        return float((a - b).abs().max() / a.abs().max().clamp(min=1e-12))

    # Some gradients are zero but for rounding (key biases: a softmax does not see them); they say nothing.
    largest = max(float(gradient.abs().max()) for gradient in ours.values())
    real = [name for name in ours if float(ours[name].abs().max()) > 1e-5 * largest]
    worst = max((apart(ours[name], theirs[name]), name) for name in real)
    sinks = max(apart(ours[name], theirs[name]) for name in ours if name.endswith("sinks"))
    return {
        "losses": apart(eager, flex),
        "gradients, worst": worst[0],
        "worst parameter": worst[1],
        "gradients of sinks": sinks,
        "parameters": len(real),
    }


if __name__ == "__main__":
    print(json.dumps(measure(), indent=1))
