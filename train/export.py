"""`python -m train.export`: a trained model for llama.cpp; and what a run exports.

`train.run` writes a folder that transformers and vLLM load as it is. For llama.cpp its weights are written once more,
as GGUF: the language model, and encoder with projector (`mmproj`). Experts keep their form: MXFP4 is what
`train.quantize` made of them, or 42 GB of bf16.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medgpt.arguments import command_parser
from medgpt.atomic import whole_folder
from medgpt.errors import DONE, run
from medgpt.libraries import libraries_apart
from medgpt.tables import markdown

if TYPE_CHECKING:
    import torch

    from train.config import Config
    from train.model import Model

EXAMPLE = """\
example:
  python -m train.quantize data/runs/instruct/model --published models/gpt-oss-20b --out data/models/mxfp4
  python -m train.export data/models/mxfp4 --for llama.cpp --out data/models/gguf
"""


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser("train.export", (__doc__ or "").partition("\n\n")[2], EXAMPLE)
    parser.add_argument("model", type=Path, metavar="DIR", help="model folder of train.run or train.quantize")
    parser.add_argument("--for", choices=("llama.cpp",), required=True, dest="engine", help="what is to load it")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    return parser


@run
@libraries_apart()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 2 where it cannot."""
    from train.llama_cpp import convert

    options = make_parser().parse_args(arguments)
    for path in convert(options.model, options.out):
        print(f"{path}: {path.stat().st_size:,} bytes")
    return DONE


def export_model(engine: Any, model: Model, folder: Path, identity: Mapping[str, Any], config: Config) -> Path:
    """Write the engine's model to `folder`; a collective, rank 0 writes. LoRA weights are merged into the copy.

    Raises: `OSError` (the folder cannot be written; nothing is left under its name).
    """
    import torch.distributed as dist
    import yaml

    weights = _whole_weights(engine)
    if dist.get_rank() == 0:
        with whole_folder(folder) as work:
            model.save(work, weights)
            text = yaml.safe_dump(config.as_dict(), sort_keys=False)
            (work / "train_config.yaml").write_text(text, encoding="utf-8")
            (work / "README.md").write_text(model_card(model, identity, config), encoding="utf-8")
    dist.barrier()
    return folder


def model_card(model: Model, identity: Mapping[str, Any], config: Config) -> str:
    """Markdown: what the model is, what it was trained on and under which licences, and what it is not for."""
    data = identity["data"]
    rows = [(one["name"], one["samples"], ", ".join(one["licenses"]), one["access"]) for one in data["sources"]]
    certificate = identity["certificate"]
    accepted = "".join(f" **Accepted as it is**: {line}." for line in identity["accepted"])
    proof = (
        f"Certificate of train-test non-overlap: `{certificate}`.{accepted}\n\n"
        f"**Not covered**: what the weights that this stage began with (digest `{identity['model']}`) had been trained "
        "on, by their publishers or in earlier stages, and benchmarks that the certificate does not name."
        if identity["certified"]
        else "**Trained on data that no certificate covers**; overlap with test sets is unknown."
    )
    changes = "".join(
        f" From step {change['step']:,} on `{change['key']}` was {change['new']} instead of {change['old']}."
        for change in identity["changes"]
    )
    too_long = "".join(f" Too long for a pack, {what}: {n:,}." for what, n in data["over_long"].items() if n)
    licenses = sorted({name for source in data["sources"] for name in source["licenses"]})
    return f"""---
library_name: transformers
pipeline_tag: image-text-to-text
tags: [biomedical, vision-language]
---

# {model.title}, {config.stage}

**Not a medical device and not for clinical use.** It was made for research; its answers may be wrong.

{proof}

## Data of this stage

{markdown(("source", "samples", "licences", "access"), rows)}

Licences that bind whoever uses the weights: {", ".join(licenses)}. Samples under `credentialed` access may not be
shared; whether weights trained on them may be is for the data's owners to say.

Digest of the data: `{certificate}`; of the mixture: `{identity["mixture"]}`; of the packing plan: `{identity["plan"]}`.

## Training

Stage `{config.stage}`, seed {config.seed}: a schedule of {identity["steps"]:,} steps, each of
{config.data.packs_per_step} packs of {config.data.length:,} tokens; an epoch has {data["packs"]:,} packs,
{data["samples"]:,} samples.{too_long} Vision encoder: {config.train.vision}; projector: {config.train.projector};
language model: {config.train.llm}. The whole configuration is in `train_config.yaml`.{changes}

## Loading

`transformers` rebuilds the vision encoder as another class unless it is given this checkpoint's configuration class:
`configuration_medgpt.py` comes with it and is named in `config.json` (`trust_remote_code=True`).
"""


def _whole_weights(engine: Any) -> dict[str, torch.Tensor]:
    """All weights in the precision of training, copied to rank 0's host memory; an empty mapping elsewhere."""
    import deepspeed
    import torch.distributed as dist

    first = dist.get_rank() == 0
    weights: dict[str, torch.Tensor] = {}
    # A tied weight has two names, and a file has both.
    for name, parameter in engine.module.named_parameters(remove_duplicate=False):
        with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_tensor")):
            if first:  # a copy: DeepSpeed keeps parameters as views of one flat tensor
                weights[name] = parameter.detach().to("cpu", copy=True)
    if first:
        weights |= {name: buffer.cpu() for name, buffer in engine.module.state_dict().items() if name not in weights}
    return weights


if __name__ == "__main__":
    raise SystemExit(main())
