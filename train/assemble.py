"""`python -m train.assemble`: put a vision encoder and a language model together into a model folder.

Both come from local files (or are random): GPT-oss as published (MXFP4 cannot be trained and is dequantised to bf16) or
in bf16, or any other causal language model of transformers; CLIP, SigLIP or ViT from a Hugging Face folder or from an
open_clip checkpoint. The projector between them is new. An encoder with another grid than 24 x 24 patches gets its
positions interpolated to that: a tile is 144 tokens whatever the encoder, so counts and packing plans hold.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from medgpt.arguments import command_parser
from medgpt.atomic import whole_folder
from medgpt.errors import DONE, NOT_FINISHED, UserError, one_line, run
from medgpt.libraries import libraries_apart
from medgpt.messages import complain

if TYPE_CHECKING:
    import torch

    from medgpt.configuration_medgpt import MedGptConfig
    from train.model import MedGptForTraining
    from train.tokenizer import Tokenizer

SIZES = ("tiny", "small", "20b")

EXAMPLE = """\
examples:
  python -m train.assemble --size tiny --out data/models/tiny
  python -m train.assemble --llm models/gpt-oss-20b --vision models/clip-vit-large-patch14-336 --out data/models/20b
  python -m train.assemble --llm models/gpt-oss-20b --open-clip ViT-L-14-336-quickgelu models/ViT-L-14-336px.pt \\
      --out data/models/20b
"""

PATCHES = 24
"""Patches along a tile's side."""


@dataclass(frozen=True)
class Encoder:
    """A vision encoder and the normalisation it was trained with."""

    module: Any
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Language:
    """A causal language model and its vocabulary."""

    module: Any
    tokenizer: Tokenizer
    base: Any
    """Its fast tokenizer with the new tokens; None for GPT-oss's, which is built."""
    new_rows: list[int]
    """Ids of tokens that it was not trained with."""


def make_parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = command_parser("train.assemble", (__doc__ or "").partition("\n\n")[2], EXAMPLE)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="model folder to write")
    parser.add_argument("--size", choices=SIZES, default="20b", help="shapes of what is random (default 20b)")
    parser.add_argument("--llm", type=Path, metavar="DIR", help="language model; without it, a random one")
    vision = parser.add_mutually_exclusive_group()
    vision.add_argument("--vision", type=Path, metavar="DIR", help="vision encoder; without it, a random one")
    vision.add_argument("--open-clip", nargs=2, metavar=("NAME", "FILE"), help="open_clip model and its checkpoint")
    parser.add_argument("--dtype", choices=("bf16", "fp32"), default="bf16", help="precision of the weights (bf16)")
    parser.add_argument("--seed", type=int, default=0, help="of what is random (0)")
    parser.add_argument("--dry-run", action="store_true", help="say what the model would be, write nothing")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it is a model folder")
    return parser


@run
@libraries_apart()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 done, 1 refused with one line."""
    options = make_parser().parse_args(arguments)
    try:
        assemble(**vars(options))
    except UserError as error:
        complain(f"train.assemble: {error}")
        return NOT_FINISHED
    return DONE


def assemble(
    out: Path,
    *,
    size: str = "20b",
    llm: Path | None = None,
    vision: Path | None = None,
    open_clip: Sequence[str] | None = None,
    dtype: str = "bf16",
    seed: int = 0,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Write a model folder, load it again and compare every weight; see the module.

    Raises: `UserError` (a source that cannot be used, or `out` is there already); `OSError` (it cannot be written).
    """
    import torch
    from transformers import set_seed

    from train.model import MedGptForTraining, composed_config, load_module, sized_config, write_weights
    from train.tokenizer import harmony

    if out.exists() and not (overwrite and (out / "config.json").is_file()):
        raise UserError(f"{out}: is there already; name another folder, or add --overwrite if it is a model folder")
    precision = torch.bfloat16 if dtype == "bf16" else torch.float32
    shapes = sized_config(size)
    if dry_run and llm is None and vision is None and open_clip is None:
        with torch.device("meta"):
            print(describe(MedGptForTraining(shapes)))
        return
    set_seed(seed)
    language = None if llm is None else load_language(llm, precision)
    tokenizer = harmony() if language is None else language.tokenizer
    encoder = None
    if vision is not None:
        encoder = load_vision(vision, precision)
    elif open_clip is not None:
        encoder = load_open_clip(open_clip[0], Path(open_clip[1]), precision)
    config = shapes
    if language is not None or encoder is not None:
        encoder_name = vision.name if vision is not None else Path(open_clip[0]).name if open_clip else "random"
        title = f"MedGPT-oss ({llm.name if llm else f'random {size}'}, {encoder_name})"
        config = composed_config(
            shapes.vision_config if encoder is None else encoder.module.config,
            shapes.text_config if language is None else language.module.config,
            tokenizer,
            title,
            *(() if encoder is None else (encoder.mean, encoder.std)),
        )
    module = compose(config, encoder, language, precision)
    if language is not None:
        set_new_rows(module, language.new_rows)
    print(describe(module))
    if dry_run:
        return
    state = module.state_dict()
    with whole_folder(out) as work:
        write_weights(work, state, config)
        write_side_files(work, config, None if language is None else language.base)
        again = load_module(work, precision).state_dict()
        for name, tensor in state.items():
            if not torch.equal(tensor, again[name]):
                raise UserError(f"{work}: {name} differs from what was written; the disk, or a library, is at fault")
    print(f"{out}: written, loaded again, {len(state)} tensors equal bit by bit")


def describe(module: MedGptForTraining) -> str:
    """Parts of a model and their parameters, one a line."""
    from train.model import PARTS, part_of

    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in module.named_parameters():
        counts[part_of(name)] += parameter.numel()
    kinds = {
        "vision": type(module.model.vision_tower).__name__,
        "projector": type(module.model.multi_modal_projector).__name__,
        "llm": type(module.model.language_model).__name__,
    }
    lines = [f"{part:10}{counts[part]:>16,}  {kinds[part]}" for part in PARTS]
    return "\n".join([*lines, f"{'all':10}{sum(counts.values()):>16,}  {module.config.title}"])


def compose(
    config: MedGptConfig, encoder: Encoder | None, language: Language | None, dtype: torch.dtype
) -> MedGptForTraining:
    """The model with the given parts, in `dtype`; parts that are None, and the projector, are random."""
    import torch

    from train.model import LossHead, MedGptForTraining

    if encoder is None and language is None:
        module = MedGptForTraining(config)
        spread_positions(module.model.vision_tower)
        draw_projector(module.model.multi_modal_projector)
        return module.to(dtype)
    with torch.device("meta"):
        module = MedGptForTraining(config)
    model = module.model
    model.multi_modal_projector.to_empty(device="cpu")
    model.multi_modal_projector.apply(module._init_weights)
    draw_projector(model.multi_modal_projector)
    if encoder is None:
        from transformers import AutoModel

        model.vision_tower = AutoModel.from_config(config.vision_config)
        spread_positions(model.vision_tower)
    else:
        model.vision_tower = encoder.module
    if language is None:
        from transformers import AutoModelForCausalLM

        causal = AutoModelForCausalLM.from_config(config.text_config)
    else:
        causal = language.module
    model.language_model = causal.base_model
    module.lm_head = causal.get_output_embeddings()
    module.lm_head.__class__ = LossHead
    return module.to(dtype)


def spread_positions(tower: Any) -> None:
    """Draw the positions of a random encoder as large as its patches of unit variance.

    transformers draws CLIP's and ViT's at 0.02, a twenty-fifth of the patches: a tile's tokens then say what is there
    and hardly where, and a language model from nothing must find a place before it can see anything.
    """
    import torch

    patch = next(weight for weight in tower.parameters() if weight.dim() == 4)
    size = float(patch.detach().float().std()) * patch[0].numel() ** 0.5
    for name, table in tower.named_parameters():
        if name.endswith(("position_embedding.weight", "position_embeddings")):
            torch.nn.init.normal_(table, std=size)


def draw_projector(projector: Any) -> None:
    """Draw a projector that keeps the size of what goes through it, whatever its width.

    transformers draws it at 0.02. That is right for GPT-oss-20B (1 / sqrt(4096) and 1 / sqrt(2880) are 0.016 and
    0.019); at a width of 32, pictures come out a fiftieth as large, and one step of Adam redraws half of them.
    """
    import torch

    for layer in projector.modules():
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


def _unreadable() -> tuple[type[Exception], ...]:
    """What libraries raise for a folder or file of weights that is no such thing, or damaged."""
    from safetensors import SafetensorError

    return EOFError, ImportError, KeyError, OSError, RuntimeError, SafetensorError, UnpicklingError, ValueError


# --- The language model


def load_language(folder: Path, dtype: torch.dtype) -> Language:
    """A causal language model from a local folder.

    GPT-oss keeps its rows: new tokens take reserved ones. Another model grows by those it needs, to a multiple of 64.

    Raises: `UserError` (not a folder of such a model, weights missing, or a structure that cannot be taken apart).
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Mxfp4Config

    from train.model import check_report
    from train.tokenizer import IMAGE_SPECIAL, TEMPLATE_SPECIAL, fast_tokenizer, harmony

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        quantised = getattr(config, "quantization_config", None)
        options: dict[str, Any] = {}
        if quantised is not None:
            method = quantised["quant_method"] if isinstance(quantised, dict) else quantised.quant_method
            if getattr(method, "value", method) != "mxfp4":
                raise UserError(
                    f"{folder}: quantised with {method}; only MXFP4 is dequantised here, give a bf16 folder"
                )
            options["quantization_config"] = Mxfp4Config(dequantize=True)
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, local_files_only=True, **options
        )
    except _unreadable() as error:
        raise UserError(f"{folder}: no causal language model ({one_line(error)[:300]})") from None
    check_report(folder, report)
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None:
        raise UserError(f"{folder}: its output layer is no plain linear layer; it cannot be used")
    if config.model_type == "gpt_oss":
        tokenizer = harmony()
        return Language(model, tokenizer, None, [tokenizer.special[name] for name in IMAGE_SPECIAL])
    try:
        theirs = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        known = set(theirs.get_vocab())
        base = fast_tokenizer(theirs)
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{folder}: no fast tokenizer ({one_line(error)[:300]})") from None
    tokenizer = _own_tokenizer(base, config.model_type)
    new = [tokenizer.special[name] for name in (*TEMPLATE_SPECIAL, *IMAGE_SPECIAL) if name not in known]
    if tokenizer.rows > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(tokenizer.rows, pad_to_multiple_of=64, mean_resizing=False)
    return Language(model, tokenizer, base, new)


def _own_tokenizer(base: Any, name: str) -> Tokenizer:
    """A fast tokenizer as `train.tokenizer` sees it in a model folder."""
    from train.tokenizer import folder_tokenizer

    with tempfile.TemporaryDirectory() as folder:
        base.backend_tokenizer.save(str(Path(folder) / "tokenizer.json"))
        return folder_tokenizer(Path(folder), name)


def set_new_rows(module: MedGptForTraining, new: list[int]) -> None:
    """Give rows that were never trained the mean of those that were, in the embedding and the output layer."""
    import torch

    if not new:
        return
    tables = [module.get_input_embeddings().weight, module.lm_head.weight]
    with torch.no_grad():
        for table in tables[: 1 if module.config.tie_word_embeddings else 2]:
            table[new] = table[: min(new)].mean(0, dtype=torch.float32).to(table.dtype)


# --- The vision encoder


def load_vision(folder: Path, dtype: torch.dtype) -> Encoder:
    """A vision encoder from a local Hugging Face folder: CLIP, SigLIP, MedSigLIP (their vision half) or ViT.

    Raises: `UserError` (no such encoder, or weights are missing).
    """
    from transformers import AutoConfig, CLIPVisionModel, SiglipVisionModel, ViTModel

    from train.model import check_report
    from train.tiling import CLIP_MEAN, CLIP_STD

    classes = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel, "vit": ViTModel}
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = config.model_type.removesuffix("_vision_model")
        if kind not in classes:
            raise UserError(f"{folder}: a {config.model_type} model; vision encoders are {', '.join(classes)}")
        module, report = classes[kind].from_pretrained(
            folder, config=getattr(config, "vision_config", config), dtype=dtype, output_loading_info=True,
            local_files_only=True,
        )  # fmt: skip
    except _unreadable() as error:
        raise UserError(f"{folder}: no vision encoder ({one_line(error)[:300]})") from None
    # The folder of a whole CLIP has its text half, too.
    unexpected = {
        key for key in report["unexpected_keys"] if not str(key).startswith(("text_", "logit_", "visual_proj"))
    }
    # Of a ViT's pooler, which nothing uses, there may be no weights.
    missing = {key for key in report["missing_keys"] if not str(key).startswith("pooler.")}
    check_report(folder, {**report, "unexpected_keys": unexpected, "missing_keys": missing})
    mean, std = CLIP_MEAN, CLIP_STD
    described = folder / "preprocessor_config.json"
    if described.is_file():
        try:
            found = json.loads(described.read_text(encoding="utf-8"))
            mean, std = ((float(r), float(g), float(b)) for r, g, b in (found["image_mean"], found["image_std"]))
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{described}: no JSON with image_mean and image_std of three numbers each") from None
    elif kind != "clip":
        raise UserError(f"{described}: missing; it says how pictures are normalised for this encoder")
    return Encoder(resized(module), mean, std)


def load_open_clip(name: str, file: Path, dtype: torch.dtype) -> Encoder:
    """The vision half of an open_clip checkpoint: OpenAI's ViT, or a timm ViT such as BiomedCLIP's.

    `name` is a model of open_clip (`ViT-L-14-336-quickgelu` for OpenAI's weights) or a JSON file of that form.

    Raises: `UserError` (an unknown name, an unreadable file, or an architecture that has no counterpart).
    """
    import open_clip
    from open_clip.factory import load_state_dict

    from train.tiling import CLIP_MEAN, CLIP_STD

    path = Path(name)
    try:
        settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else open_clip.get_model_config(name)
        settings = settings.get("model_cfg", settings)
        tower = settings["vision_cfg"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{name}: no model of open_clip and no JSON file of one; see open_clip.list_models()") from None
    try:
        state = load_state_dict(str(file))
    except _unreadable() as error:
        raise UserError(f"{file}: no open_clip checkpoint ({one_line(error)[:200]})") from None
    visual = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    if "timm_model_name" in tower:
        module = _timm_vit(visual, file)
    elif "conv1.weight" in visual:
        module = _openai_vit(visual, tower, bool(settings.get("quick_gelu", False)), file)
    else:
        raise UserError(f"{file}: {name} has no ViT; encoders are ViTs")
    return Encoder(resized(module).to(dtype), CLIP_MEAN, CLIP_STD)


def _openai_vit(state: Mapping[str, torch.Tensor], tower: Mapping[str, Any], quick: bool, file: Path) -> Any:
    """open_clip's ViT as `CLIPVisionModel`; the same outputs."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    width, *_, patch = state["conv1.weight"].shape
    layers = len({key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")})
    side = round((len(state["positional_embedding"]) - 1) ** 0.5)
    config = CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=state["transformer.resblocks.0.mlp.c_fc.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=width // tower.get("head_width", 64),
        image_size=side * patch,
        patch_size=patch,
        hidden_act="quick_gelu" if quick else "gelu",
    )
    found = {
        "embeddings.class_embedding": state["class_embedding"],
        "embeddings.patch_embedding.weight": state["conv1.weight"],
        "embeddings.position_embedding.weight": state["positional_embedding"],
    }
    for kind in ("weight", "bias"):
        found[f"pre_layrnorm.{kind}"], found[f"post_layernorm.{kind}"] = (
            state[f"ln_pre.{kind}"],
            state[f"ln_post.{kind}"],
        )
    names = {
        "attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        found |= _block(state, block, "attn.in_proj_", f"encoder.layers.{i}.", "self_attn", names)
    return _filled(CLIPVisionModel(config), found, file)


def _timm_vit(state: Mapping[str, torch.Tensor], file: Path) -> Any:
    """A timm ViT (`visual.trunk.*`) as `ViTModel`; the same patch outputs."""
    from transformers import ViTConfig, ViTModel

    trunk = {key.removeprefix("trunk."): value for key, value in state.items() if key.startswith("trunk.")}
    if "cls_token" not in trunk or "norm_pre.weight" in trunk:
        raise UserError(f"{file}: a timm encoder that is no plain ViT with a class token; give a Hugging Face folder")
    width, *_, patch = trunk["patch_embed.proj.weight"].shape
    layers = len({key.split(".")[1] for key in trunk if key.startswith("blocks.")})
    side = round((trunk["pos_embed"].shape[1] - 1) ** 0.5)
    config = ViTConfig(
        hidden_size=width,
        intermediate_size=trunk["blocks.0.mlp.fc1.weight"].shape[0],
        num_hidden_layers=layers,
        num_attention_heads=width // 64,  # of every ViT in timm from tiny to large
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
        hidden_act="gelu",
    )
    found = {"embeddings.cls_token": trunk["cls_token"], "embeddings.position_embeddings": trunk["pos_embed"]}
    for kind in ("weight", "bias"):
        found[f"embeddings.patch_embeddings.projection.{kind}"] = trunk[f"patch_embed.proj.{kind}"]
        found[f"layernorm.{kind}"] = trunk[f"norm.{kind}"]
    names = {
        "attn.proj": "attention.o_proj", "norm1": "layernorm_before", "norm2": "layernorm_after", "mlp.fc1": "mlp.fc1",
        "mlp.fc2": "mlp.fc2",
    }  # fmt: skip
    for i in range(layers):
        found |= _block(trunk, f"blocks.{i}.", "attn.qkv.", f"layers.{i}.", "attention", names)
    return _filled(ViTModel(config), found, file)


def _block(
    state: Mapping[str, torch.Tensor], theirs: str, joint: str, ours: str, attention: str, names: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Weights of a transformer block of `state` under our names; `joint` is query, key and value in one matrix."""
    found = {}
    for kind in ("weight", "bias"):
        for name, part in zip("qkv", state[f"{theirs}{joint}{kind}"].chunk(3), strict=True):
            found[f"{ours}{attention}.{name}_proj.{kind}"] = part
        for before, after in names.items():
            found[f"{ours}{after}.{kind}"] = state[f"{theirs}{before}.{kind}"]
    return found


def _filled(module: Any, state: Mapping[str, torch.Tensor], file: Path) -> Any:
    """`module` with exactly these weights; ViT's pooler, which nothing uses, stays random."""
    wanted = {name: tensor.shape for name, tensor in module.named_parameters() if not name.startswith("pooler.")}
    if {name: tensor.shape for name, tensor in state.items()} != wanted:
        odd = sorted(set(state) ^ set(wanted)) or sorted(n for n in wanted if wanted[n] != state[n].shape)
        raise UserError(f"{file}: its {odd[0]} does not fit; not the model that was named")
    module.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=False)
    return module


def resized(module: Any) -> Any:
    """The encoder for tiles of 24 x 24 patches; positions of another grid are interpolated (bicubic, antialiased)."""
    import torch

    config = copy.deepcopy(module.config)
    size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    patch = config.patch_size if isinstance(config.patch_size, int) else config.patch_size[0]
    if size == PATCHES * patch:
        return module
    config.image_size = PATCHES * patch
    other = type(module)(config)
    state = module.state_dict()
    [name] = [name for name in state if name.endswith(("position_embedding.weight", "position_embeddings"))]
    table = state[name]
    flat = table.reshape(-1, table.shape[-1]).float()
    old = size // patch
    head, grid = flat[: len(flat) - old * old], flat[len(flat) - old * old :]
    square = grid.T.reshape(1, -1, old, old)
    wide = torch.nn.functional.interpolate(square, (PATCHES, PATCHES), mode="bicubic", antialias=True)
    state[name] = (
        torch.cat([head, wide[0].flatten(1).T]).reshape(*table.shape[:-2], -1, table.shape[-1]).to(table.dtype)
    )
    other.load_state_dict(state)
    return other.to(module.dtype)


# --- Everything beside the weights


def write_side_files(folder: Path, config: MedGptConfig, base: Any) -> None:
    """Configuration with its class, tokenizer, chat template, processor and generation settings."""
    from transformers import GenerationConfig
    from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

    import medgpt.configuration_medgpt as module
    from train.model import config_tiling
    from train.template import chat_template
    from train.tokenizer import fast_tokenizer

    config.save_pretrained(folder)
    shutil.copyfile(str(module.__file__), folder / "configuration_medgpt.py")
    tokenizer = fast_tokenizer() if base is None else base
    module.MedGptProcessor(
        image_processor=config_tiling(config).processor(),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(),
        image_seq_length=config.image_seq_length,
        chat_template=chat_template(tokenizer),
    ).save_pretrained(folder)
    own = {
        "AutoConfig": "configuration_medgpt.MedGptConfig",
        "AutoModelForImageTextToText": "configuration_medgpt.MedGptForConditionalGeneration",
        "AutoProcessor": "configuration_medgpt.MedGptProcessor",
    }
    for name, more in (
        ("config.json", {"architectures": ["MedGptForConditionalGeneration"], "auto_map": own}),
        ("processor_config.json", {"auto_map": own}),
    ):
        path = folder / name
        document = json.loads(path.read_text(encoding="utf-8")) | more
        path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    stops = [config.eos_token_id, config.pad_token_id]
    GenerationConfig(eos_token_id=stops, pad_token_id=config.pad_token_id).save_pretrained(folder)


if __name__ == "__main__":
    raise SystemExit(main())
