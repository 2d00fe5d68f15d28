"""Does it see? Small models from random weights on drawn radiographs, with what would explain the figure without sight.

`python -m bench.learning FOLDER --size tiny --seeds 3` draws chests, trains the three stages and the same with each one
left out, asks held-out questions and writes `FOLDER/learning-tiny.json` and the curves of each run. Beside each share
stand blind chance, the best grey threshold, a linear probe of the untrained encoder, and the same model with pictures
shuffled and black. Captions are many and questions few, as in the recipe; the held-out pictures are of another seed and
another look. With `--encoders` it compares encoders instead (`encoders.json`, `encoders.svg`), as `train.ablate` does;
`--lora` needs peft. A run that `--seconds` leaves no time for is named in the result.

Template, tiling, collation, losses and learning rates are those of `train`; the loop is a plain one, in one process, so
that ten runs take minutes. `tests/test_learning.py` goes through builders and `train.run` instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from bench.phantom_trees import FACTS, SEEN, UNSEEN, Look, drawing, phantom
from medgpt.intervals import wilson
from train.tiling import Pixels, Tiling

if TYPE_CHECKING:
    import torch

    from shards.reader import StoredSample
    from train.collate import Collator
    from train.config import Config
    from train.model import Model
    from train.probe import Answers, Probe

STAGES = ("pretrain", "midtrain", "instruct")
PLANS: dict[str, tuple[str, ...]] = {
    "all three stages": STAGES,
    "all three, positions of 0.02": STAGES,
    "without pretrain": ("midtrain", "instruct"),
    "without midtrain": ("pretrain", "instruct"),
    "without instruct": ("pretrain", "midtrain"),
    "instruct alone, as many steps": ("instruct",),
}
HELD_OUT = 328
"""Pictures, each with a question for every fact; a multiple of eight, so that answers are balanced."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A size of model and how it is trained from random weights."""

    captions: int
    """Pictures with a caption."""
    questions: int
    """The first of them, which have questions, too."""
    steps: dict[str, int]
    rates: tuple[tuple[float, float, float], ...]
    """Peak learning rates of encoder, projector, language model; of several, a pilot takes those of the lowest loss."""
    batch: int = 32
    documents: int = 8
    """Samples of a pass."""


RECIPES = {
    "tiny": Recipe(
        2048, 192, {"pretrain": 60, "midtrain": 300, "instruct": 100}, ((2e-3, 3e-3, 3e-3),), documents=16
    ),
    "small": Recipe(
        4096, 256, {"pretrain": 60, "midtrain": 400, "instruct": 100},
        ((3e-4, 1e-3, 3e-4), (6e-4, 1e-3, 6e-4), (1.2e-3, 2e-3, 1.2e-3)), documents=16,
    ),
}  # fmt: skip
PROBED = 512
"""Pictures from which the grey threshold and the linear probe are made."""

PILOT = 100
"""Steps of midtraining for each of several learning rates; the last twenty losses count."""


# --- Data


def draw_all(count: int, seed: int, look: Look, workers: int) -> list[bytes]:
    """Pictures 0 to `count` of a seed, as JPEG."""
    make = partial(_drawn, seed, look)
    if workers < 2:
        return [make(number) for number in range(count)]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(make, range(count), chunksize=16))


def _drawn(seed: int, look: Look, number: int) -> bytes:
    return drawing(phantom(number, seed=seed)[0], look)


def sample(number: int, prompt: str, reply: str, picture: bytes) -> StoredSample:
    """A picture, a prompt and a reply, as a build stores them."""
    from shards.reader import StoredSample

    content = [{"type": "image", "text": None, "index": 0}, {"type": "text", "text": prompt, "index": None}]
    answer = [{"type": "text", "text": reply, "index": None}]
    messages = [
        {"role": "user", "content": content, "reasoning": None},
        {"role": "assistant", "content": answer, "reasoning": None},
    ]
    record = {"id": f"{number}/{prompt}", "source": "phantoms", "images": [0], "messages": messages}
    return StoredSample(record, [picture])


def captions(pictures: Sequence[bytes]) -> list[StoredSample]:
    """One sample a picture; its caption says all facts."""
    made = []
    for number, picture in enumerate(pictures):
        says = ", ".join(FACTS[name].caption[bit] for name, bit in phantom(number)[1].items())
        made.append(sample(number, "Describe the picture.", f"Chest radiograph: {says}.", picture))
    return made


def questions(pictures: Sequence[bytes]) -> list[StoredSample]:
    """One sample for each fact of each picture."""
    return [
        sample(number, FACTS[name].question, FACTS[name].answers[bit], picture)
        for number, picture in enumerate(pictures)
        for name, bit in phantom(number)[1].items()
    ]


# --- What explains a share without sight


def truth(samples: Iterable[StoredSample]) -> dict[str, tuple[list[int], npt.NDArray[np.bool_]]]:
    """By question: numbers of its samples, and whether the answer is the second of the two (sorted)."""
    from train.probe import asked, reply

    found: dict[str, tuple[list[int], list[str]]] = {}
    for number, one in enumerate(samples):
        places, replies = found.setdefault(asked(one.record), ([], []))
        places.append(number)
        replies.append(reply(one.record))
    return {q: (places, np.array(replies) == max(replies)) for q, (places, replies) in sorted(found.items())}


def grey_threshold(train: Sequence[StoredSample], held: Sequence[StoredSample]) -> dict[str, float]:
    """Share of the held-out questions that one threshold on the mean grey answers, the best of those in training."""
    means = [np.array([_grey(one.images[0]) for one in samples]) for samples in (train, held)]
    shares = {}
    for (question, (places, second)), (tested, truly) in zip(truth(train).items(), truth(held).values(), strict=True):
        grey = means[0][places]
        rights = {(cut, sign): ((grey > cut) == (second == sign)).mean() for cut in grey for sign in (True, False)}
        cut, sign = max(rights, key=rights.__getitem__)
        shares[question] = round(float(((means[1][tested] > cut) == (truly == sign)).mean()), 3)
    return shares


def _grey(picture: bytes) -> float:
    from medgpt.pictures import open_picture

    return float(np.asarray(open_picture(picture)).mean())


def linear_probe(model: Model, train: Sequence[StoredSample], held: Sequence[StoredSample]) -> dict[str, float]:
    """Share that ridge regression on the encoder's patches, averaged over 6 x 6 areas, answers. Nothing is trained."""
    features = [_features(model, samples) for samples in (train, held)]
    middle, spread = features[0].mean(0), features[0].std(0) + 1e-6
    known, asked_of = ((part - middle) / spread for part in features)
    kernel = known @ known.T
    shares = {}
    for (question, (places, second)), (tested, truly) in zip(truth(train).items(), truth(held).values(), strict=True):
        inner = kernel[np.ix_(places, places)]
        weights = np.linalg.solve(
            inner + 0.01 * np.diag(inner).mean() * np.eye(len(places)), np.where(second, 1.0, -1.0)
        )
        guess = asked_of[tested] @ (known[places].T @ weights) > 0
        shares[question] = round(float((guess == truly).mean()), 3)
    return shares


def _features(model: Model, samples: Sequence[StoredSample]) -> npt.NDArray[np.float64]:
    """[samples, features] of the encoder, whose tile has 24 x 24 patches; a picture is looked at once."""
    import torch

    tower = model.module.model.vision_tower
    device = next(tower.parameters()).device
    seen: dict[bytes, npt.NDArray[np.float64]] = {}
    with torch.no_grad():
        for one in samples:
            if one.images[0] not in seen:
                tile = torch.from_numpy(model.tiling.cut(one.images[0], "picture")[-1:]).to(device)
                patches = tower(model.tiling.normalise(tile, model.module.dtype)).last_hidden_state[0, -576:]
                areas = patches.float().reshape(6, 4, 6, 4, -1).mean((1, 3))
                seen[one.images[0]] = areas.flatten().cpu().numpy().astype(np.float64)
    return np.stack([seen[one.images[0]] for one in samples])


# --- Models and training


def write_language_model(folder: Path, texts: Iterable[str]) -> None:
    """A random Llama of 50,000 weights, and a vocabulary made from the texts that it will read."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    letters = pre_tokenizers.ByteLevel.alphabet()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=512, initial_alphabet=letters, show_progress=False)
    )
    set_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, tie_word_embeddings=False, initializer_range=0.15,  # about 1 / sqrt(hidden_size)
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)


def texts_of(samples: Iterable[StoredSample]) -> list[str]:
    """What a vocabulary of its own is made from: the template's words and all that samples say."""
    from train.template import SYSTEM

    texts = [SYSTEM.format(effort="low"), "user assistant analysis final"] * 5
    for one in samples:
        texts += [part["text"] for m in one.record["messages"] for part in m["content"] if part["text"]]
    return texts


def start_model(folder: Path, size: str, seed: int, texts: Iterable[str], encoder: str | None = None) -> Path:
    """An untrained model: `tiny` with a Llama and a vocabulary of its own, `small` with GPT-oss's architecture.

    `encoder` is an architecture of `train.ablate`, else CLIP's.
    """
    from train.ablate import random_encoder
    from train.assemble import assemble

    llm = None
    if size == "tiny":
        llm = folder / "llm"
        write_language_model(llm, texts)
    out = folder / f"start-{encoder or 'clip'}-{seed}"
    vision = None if encoder is None else random_encoder(folder / "encoder" / encoder, encoder, size, seed)
    assemble(out, size=size, llm=llm, vision=vision, dtype="fp32", seed=seed, overwrite=True)
    return out


def stage_config(stage: str, recipe: Recipe, *settings: str) -> Config:
    """The preset of a stage with what random weights need, and other settings."""
    from train.config import load_config

    vision, projector, llm = recipe.rates[0]
    return load_config(
        stage,
        [
            f"optimizer.vision_lr={vision}", f"optimizer.projector_lr={projector}", f"optimizer.llm_lr={llm}",
            "optimizer.warmup=0.1", "engine.precision=fp32", "engine.compile=false", "engine.checkpointing=none",
            *settings,
        ],
    )  # fmt: skip


class Kept(Tiling):
    """Cuts a picture once: in these runs each is shown many times."""

    tiles: ClassVar[dict[tuple[bytes, int], Pixels]] = {}

    def cut(self, data: bytes, name: str, n_images: int = 1) -> Pixels:
        """As `Tiling.cut`."""
        key = (data, self.size)
        if key not in self.tiles:
            self.tiles[key] = super().cut(data, name, n_images)
        return self.tiles[key]


def open_model(folder: Path, config: Config, device: torch.device) -> tuple[Model, Collator]:
    """A model on a device with stock attention and experts (no compilation), and what lays out its samples."""
    from train.collate import Collator
    from train.model import load_model

    model = load_model(folder, config)
    if model.module.config.text_config.model_type == "gpt_oss":
        model.module.set_experts_implementation({"text_config": "eager"})  # grouped products may want bf16
    model.module.to(device)
    return model, Collator(model.tokenizer, Kept(**dataclasses.asdict(model.tiling)), {"phantoms": 0})


def endless(samples: Sequence[StoredSample], seed: int) -> Iterator[StoredSample]:
    """Epoch after epoch, each in an order of its own."""
    order = random.Random(seed)
    while True:
        yield from order.sample(samples, len(samples))


def fit(
    model: Model,
    collate: Collator,
    samples: Sequence[StoredSample],
    config: Config,
    steps: int,
    recipe: Recipe,
    seed: int,
    watch: Probe | None = None,
) -> list[dict[str, Any]]:
    """Train one stage with AdamW; the log's records, with blind chance and, eight times, the probe."""
    import torch

    from train.config import learning_rate
    from train.model import forward_losses, set_learning
    from train.probe import blind

    set_learning(model.module, config.train)
    device = next(model.module.parameters()).device
    groups = model.parameter_groups(config)
    optimizer = torch.optim.AdamW(groups, betas=config.optimizer.betas, eps=config.optimizer.eps)
    peaks = [group["lr"] for group in optimizer.param_groups]
    learning = [parameter for group in groups for parameter in group["params"]]
    guess = blind(samples, model.tokenizer)
    stream = endless(samples, seed)
    model.module.train()
    records = []
    for step in range(steps):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate(step, steps, config.optimizer)
        drawn = [next(stream) for _ in range(recipe.batch)]
        micros = [collate(drawn[at : at + recipe.documents]) for at in range(0, len(drawn), recipe.documents)]
        weight = sum(micro.weight for micro in micros)
        total = 0.0
        for micro in micros:
            there = micro.to(device)
            losses = forward_losses(model, model.module, there, config)
            ((losses * there.weights).sum() / weight).backward()
            total += float(losses.detach().mean()) / len(micros)
        norm = torch.nn.utils.clip_grad_norm_(learning, config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()
        record: dict[str, Any] = {
            "step": step,
            "loss": total,
            "grad_norm": float(norm),
            "sources": {config.stage: total},
        }
        if guess is not None:
            record["blind"] = {config.stage: guess.loss}
        if watch is not None and (step + 1) % max(1, steps // 8) == 0:
            answers = watch.ask(model, model.module, collate, config, documents=recipe.documents)
            record["probe"] = watch.measure(answers, model.tokenizer)
        records.append(record)
    return records


def with_small_positions(state: dict[str, Any]) -> dict[str, Any]:
    """Weights whose encoder has its positions as small as transformers draws them (standard deviation 0.02)."""
    from train.assemble import POSITIONS_STD

    return {
        name: tensor * (0.02 / POSITIONS_STD) if name.endswith("position_embedding.weight") else tensor
        for name, tensor in state.items()
    }


def pilot(
    model: Model, collate: Collator, samples: Sequence[StoredSample], recipe: Recipe, first: dict[str, Any]
) -> list[dict[str, Any]]:
    """The loss that each of the learning rates reaches in a short midtraining from the untrained weights."""
    found = []
    for rates in recipe.rates:
        model.module.load_state_dict(first)
        config = stage_config("midtrain", dataclasses.replace(recipe, rates=(rates,)))
        records = fit(model, collate, samples, config, PILOT, recipe, 0)
        loss = float(np.mean([record["loss"] for record in records[-20:]]))
        found.append({"rates": rates, "loss": round(loss, 4)} | {"blind": records[-1].get("blind")})
    return found


# --- The whole


def shares(answers: Answers) -> dict[str, dict[str, float]]:
    """Share right with its 95 % interval, by question."""
    found = {}
    for question, (right, count) in answers.by_question().items():
        share, low, high = wilson(right, count)
        found[question] = {"right": round(share, 3), "low": round(low, 3), "high": round(high, 3), "asked": count}
    return found


def learn(
    out: Path, size: str, seeds: int, seconds: float, recipe: Recipe, held_out: int = HELD_OUT, workers: int = 1
) -> dict[str, Any]:
    """All plans for all seeds while there is time; what is found is written after each."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    pictures = draw_all(recipe.captions, 0, SEEN, workers)
    unseen = draw_all(held_out, 1, UNSEEN, workers)

    import torch

    from train.log import curves
    from train.probe import Probe

    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    taught = questions(pictures[: recipe.questions])
    data = {"pretrain": captions(pictures), "midtrain": captions(pictures), "instruct": taught}
    held = questions(unseen)
    probe, watch = Probe(held, "drawings"), Probe(held, "drawings", 96)
    result: dict[str, Any] = {"size": size, "recipe": dataclasses.asdict(recipe), "runs": [], "not_run": []}
    for seed in range(seeds):
        start = start_model(out, size, seed, texts_of(data["midtrain"] + taught))
        states: dict[tuple[tuple[str, int], ...], dict[str, Any]] = {}
        model, collate = open_model(start, stage_config("midtrain", recipe), device)
        first = {name: tensor.clone() for name, tensor in model.module.state_dict().items()}
        if seed == 0:
            result |= {
                "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
                "blind": dataclasses.asdict(probe.blind(model.tokenizer)),
                "grey_threshold": grey_threshold(questions(pictures[:PROBED]), held),
                "linear_probe_untrained": linear_probe(model, questions(pictures[:PROBED]), held),
                "prepared_seconds": round(time.monotonic() - started, 1),
            }
            if len(recipe.rates) > 1:
                result["pilot"] = pilot(model, collate, data["midtrain"], recipe, first)
                best = min(result["pilot"], key=lambda found: found["loss"])["rates"]
                recipe = dataclasses.replace(recipe, rates=(best,))
                result["recipe"] = dataclasses.asdict(recipe)
        for name, stages in PLANS.items():
            if time.monotonic() - started > seconds:
                result["not_run"].append(f"{name}, seed {seed}")
                continue
            began = time.monotonic()
            lengths = [recipe.steps[stage] for stage in stages]
            if name.startswith("instruct alone"):
                lengths = [sum(recipe.steps.values())]
            done: tuple[tuple[str, int], ...] = ()
            small = name.endswith("positions of 0.02")
            model.module.load_state_dict(with_small_positions(first) if small else first)
            records: list[dict[str, Any]] = []
            for stage, steps in zip(stages, lengths, strict=True):
                done += ((stage, steps),)
                config = stage_config(stage, recipe)
                if done in states and not small:
                    model.module.load_state_dict(states[done])
                    continue
                new = fit(model, collate, data[stage], config, steps, recipe, seed, watch)
                records += [record | {"step": record["step"] + len(records)} for record in new]
                if not small and len(done) < len(stages):
                    states[done] = {key: tensor.clone() for key, tensor in model.module.state_dict().items()}
            config = stage_config("instruct", recipe)
            ask = partial(probe.ask, model, model.module, collate, config, documents=recipe.documents)
            run = {"plan": name, "seed": seed, "held_out": shares(ask())}
            if name == "all three stages":
                run |= {"shuffled": shares(ask(pictures="shuffled")), "black": shares(ask(pictures="black"))}
            if records:
                file = out / f"{size}-{name.replace(' ', '-').replace(',', '')}-{seed}.svg"
                file.write_text(curves(records))
                run["last_loss"] = round(float(np.mean([record["loss"] for record in records[-10:]])), 4)
            run["seconds"] = round(time.monotonic() - began, 1)
            result["runs"].append(run)
            print(json.dumps(run), flush=True)
            (out / f"learning-{size}.json").write_text(json.dumps(result, indent=1) + "\n")
    return result


def encoders(
    out: Path,
    size: str,
    seeds: int,
    seconds: float,
    recipe: Recipe,
    held_out: int = HELD_OUT,
    workers: int = 1,
    lora: bool = False,
) -> dict[str, Any]:
    """Figure 1 with random encoders: `train.ablate`'s architectures, on captions and questions mixed."""
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    pictures, unseen = draw_all(recipe.captions, 0, SEEN, workers), draw_all(held_out, 1, UNSEEN, workers)

    import torch

    from train.ablate import ENCODERS, plot, table
    from train.probe import Probe

    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    mixed = captions(pictures) + questions(pictures)
    probe = Probe(questions(unseen), "drawings")
    config = stage_config("instruct", recipe, f"train.llm={'lora' if lora else 'train'}")
    found: dict[str, list[dict[str, Any]]] = {}
    not_run = []
    for seed in range(seeds):
        for name in ENCODERS:
            if time.monotonic() - started > seconds:
                not_run.append(f"{name}, seed {seed}")
                continue
            start = start_model(out, size, seed, texts_of(mixed), name)
            model, collate = open_model(start, config, device)
            fit(model, collate, mixed, config, recipe.steps["midtrain"], recipe, seed)
            answers = probe.ask(model, model.module, collate, config, documents=recipe.documents)
            found.setdefault(name, []).append({
                "right": int(answers.right.sum()), "asked": len(answers.right), "by_question": shares(answers),
                "blind": probe.blind(model.tokenizer).right, "told": {"weights": None},
                "encoder_parameters": sum(p.numel() for p in model.module.model.vision_tower.parameters()),
            })  # fmt: skip
            print(name, seed, json.dumps(found[name][-1]), flush=True)
            rows = table(found)
            (out / "encoders.svg").write_text(plot(rows))
            result = {
                "table": rows,
                "runs": found,
                "not_run": not_run,
                "recipe": dataclasses.asdict(recipe),
                "lora": lora,
            }
            (out / "encoders.json").write_text(json.dumps(result, indent=1) + "\n")
    return {"table": table(found), "not_run": not_run}


def main() -> int:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--size", choices=sorted(RECIPES), default="tiny")
    parser.add_argument("--encoders", action="store_true", help="compare encoders instead of leaving stages out")
    parser.add_argument("--lora", action="store_true", help="with --encoders: adapters on the language model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=200.0, help="no run is begun after that")
    parser.add_argument("--workers", type=int, default=8, help="processes that draw")
    parser.add_argument("--steps", type=int, nargs=3, metavar="N", help="of the stages, instead of the recipe's")
    parser.add_argument("--pictures", type=int, nargs=2, metavar="N", help="with captions, with questions")
    options = parser.parse_args()
    recipe = RECIPES[options.size]
    if options.steps:
        recipe = dataclasses.replace(recipe, steps=dict(zip(STAGES, options.steps, strict=True)))
    if options.pictures:
        recipe = dataclasses.replace(recipe, captions=options.pictures[0], questions=options.pictures[1])
    make = partial(encoders, lora=options.lora) if options.encoders else learn
    result = make(options.out, options.size, options.seeds, options.seconds, recipe, workers=options.workers)
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
