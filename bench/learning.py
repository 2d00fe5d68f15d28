"""Does it see? Small models from random weights on drawn radiographs, with what would explain the figure without sight.

`python -m bench.learning FOLDER --size tiny --seeds 3 --workers 10` draws chests, trains the three stages and the same
with each one left out, each plan and seed in a process of its own, asks held-out questions of another seed and another
look after each stage, and writes `FOLDER/learning-tiny.json` and the curves of each run. Beside each share stand blind
chance, the best grey threshold, a linear probe of the untrained encoder, and the same model with pictures shuffled and
black. A run that `--seconds` leaves no time for is named in the result. Encoders are compared by `train.ablate`.

The encoder is random; the language model has learnt from text, as the recipe's has, and never seen a picture.
Template, tiling, collation, losses and learning rates are those of `train`; the loop is a plain one (step by step the
same as `train.run`, see RESULTS). `tests/test_learning.py` goes through builders and `train.run` instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import pickle
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import numpy.typing as npt

from bench.phantom_trees import FACTS, SEEN, UNSEEN, Look, drawing, phantom, turns
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
    "without pretrain": ("midtrain", "instruct"),
    "without midtrain": ("pretrain", "instruct"),
    "instruct alone, as many steps": ("instruct",),
    "all three, language model of no text": STAGES,
    "all three, positions of 0.02": STAGES,
}
"""What is trained one after the other. Runs are asked after each stage: the first says what is without the last."""
HELD_OUT = 328
"""Pictures, each with a question for every fact; a multiple of eight, so that answers are balanced."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """A size of model and how it is trained from random weights."""

    pictures: int
    """With a caption and a dialogue."""
    questions: int
    """The first of them, which have questions, too."""
    steps: dict[str, int]
    rates: tuple[float, float, float]
    """Peak learning rates of encoder, projector, language model."""
    batch: int = 16
    documents: int = 16
    """Samples of a pass."""
    reading: int = 0
    """Steps of texts before the stages, as those from which the tiny language model is made."""
    precision: str = "fp32"
    """Of the passes; sums of gradients are of a step, master weights and moments are fp32."""
    last: float = 1.0
    """Share of the rates with which the single questions of the last stage are learnt (the presets: a half)."""


LANGUAGE_STEPS = 300
"""Steps of sixteen texts from which a language model learns to read."""
RECIPES = {
    "tiny": Recipe(1024, 512, {"pretrain": 150, "midtrain": 700, "instruct": 150}, (1e-3, 1.5e-3, 1.5e-3)),
    "small": Recipe(
        4096,
        2048,
        {"pretrain": 50, "midtrain": 600, "instruct": 50},
        (4e-4, 8e-4, 4e-4),
        batch=64,
        documents=64,
        reading=150,
        precision="bf16",
        last=0.25,
    ),
}
PROBED = 512
"""Pictures from which the grey threshold and the linear probe are made."""


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


def sample(number: int, picture: bytes, *said: str) -> StoredSample:
    """A picture and a dialogue, user and assistant by turns, as a build stores them."""
    from shards.reader import StoredSample

    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": text, "index": None}], "reasoning": None}
        for role, text in zip(("user", "assistant") * (len(said) // 2), said, strict=True)
    ]
    messages[0]["content"].insert(0, {"type": "image", "text": None, "index": 0})
    record = {"id": f"{number}/{said[0]}", "source": "phantoms", "images": [0], "messages": messages}
    return StoredSample(record, [picture])


def caption(number: int, picture: bytes) -> StoredSample:
    """All facts of a picture in a sentence."""
    says = ", ".join(FACTS[name].caption[bit] for name, bit in phantom(number)[1].items())
    return sample(number, picture, "Describe the picture.", f"Chest radiograph: {says}.")


def dialogue(number: int, picture: bytes) -> StoredSample:
    """A question for each fact of a picture; which is the first differs."""
    return sample(number, picture, *(turn["value"] for turn in turns(phantom(number)[1], number)))


def questions(pictures: Sequence[bytes]) -> list[StoredSample]:
    """One sample for each fact of each picture."""
    return [
        sample(number, picture, FACTS[name].question, FACTS[name].answers[bit])
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


def write_language_model(folder: Path, steps: int = LANGUAGE_STEPS, seed: int = 0, heads: int = 4) -> float:
    """A Llama of 150,000 weights that reads, with a vocabulary of its own; its loss on what it was last told.

    As GPT-oss it has learnt from text alone: it is told findings in words, in any order, and repeats them or answers
    questions about them. It has never seen a picture.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

    from train.template import IGNORED, render
    from train.tokenizer import fast_tokenizer, folder_tokenizer

    numbers = random.Random(seed)
    letters = pre_tokenizers.ByteLevel.alphabet()
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=512, initial_alphabet=letters, show_progress=False)
    words.train_from_iterator(texts_of([told(numbers) for _ in range(512)]), trainer)
    fast_tokenizer(PreTrainedTokenizerFast(tokenizer_object=words)).save_pretrained(folder)
    tokenizer = folder_tokenizer(folder, "phantoms")
    set_seed(seed)
    config = LlamaConfig(
        vocab_size=-(-tokenizer.rows // 64) * 64, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=heads, initializer_range=0.125,  # about 1 / sqrt(hidden_size)
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},  # places of a picture are as near as words
    )  # fmt: skip
    module = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(module.parameters(), betas=(0.9, 0.99), weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 5e-3 * min(1.0, (step + 1) / 20) * (1 - 0.9 * step / steps)
        read = [render(told(numbers).record, [], tokenizer) for _ in range(16)]
        ids, labels = (
            torch.nn.utils.rnn.pad_sequence([torch.from_numpy(part) for part in parts], True, padding)
            for parts, padding in (([r.ids for r in read], 0), ([r.labels for r in read], IGNORED))
        )
        loss = module(input_ids=ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    module.save_pretrained(folder)
    return float(loss.detach()) if steps else float("nan")


def told(numbers: random.Random) -> StoredSample:
    """A dialogue or a caption as of a picture, which is told in words instead."""
    number = numbers.randrange(10**6)
    says = [FACTS[name].caption[bit] for name, bit in phantom(number)[1].items()]
    numbers.shuffle(says)
    one = (caption if numbers.random() < 0.25 else dialogue)(number, b"")
    one.record["messages"][0]["content"][0] = {"type": "text", "text": f"{', '.join(says)}. ", "index": None}
    return dataclasses.replace(one, record=one.record | {"images": []}, images=[])


def texts_of(samples: Iterable[StoredSample]) -> list[str]:
    """What a vocabulary of its own is made from: the template's words and all that samples say."""
    from train.template import SYSTEM

    texts = [SYSTEM.format(effort="low"), "user assistant analysis final"] * 5
    for one in samples:
        texts += [part["text"] for m in one.record["messages"] for part in m["content"] if part["text"]]
    return texts


def start_model(folder: Path, size: str, seed: int, reads: bool = True) -> Path:
    """A model with a random encoder: `tiny` around a Llama of its own, `small` with GPT-oss's architecture."""
    from train.assemble import assemble

    llm = None
    if size == "tiny":
        llm = folder / "llm"
        write_language_model(llm, LANGUAGE_STEPS if reads else 0, seed)
    assemble(folder / "start", size=size, llm=llm, dtype="fp32", seed=seed, overwrite=True)
    return folder / "start"


def stage_config(stage: str, recipe: Recipe, *settings: str) -> Config:
    """The preset of a stage with what random weights need, and other settings."""
    from train.config import load_config

    vision, projector, llm = (rate * (recipe.last if stage == "instruct" else 1) for rate in recipe.rates)
    return load_config(
        stage,
        [
            f"optimizer.vision_lr={vision}", f"optimizer.projector_lr={projector}", f"optimizer.llm_lr={llm}",
            "optimizer.warmup=0.05", "optimizer.betas=[0.9,0.98]",
            f"engine.precision={recipe.precision}", "engine.compile=false", "engine.checkpointing=none", *settings,
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
    """A model on a device, with the attention and experts that `train.run` takes there, and what lays out samples."""
    from train.collate import Collator
    from train.model import load_model

    model = load_model(folder, config, device)
    model.module.to(device)
    tiling = Kept(**dataclasses.asdict(model.tiling))
    return model, Collator(model.tokenizer, tiling, {"phantoms": 0}, multiple=128 if device.type == "cuda" else 1)


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
    learning = [parameter for group in groups for parameter in group["params"]]
    masters = {parameter: parameter.detach().float() for parameter in learning}  # the same memory where it is fp32
    for group in groups:
        group["params"] = [masters[parameter] for parameter in group["params"]]
    optimizer = torch.optim.AdamW(
        groups, betas=config.optimizer.betas, eps=config.optimizer.eps, fused=device.type == "cuda"
    )
    peaks = [group["lr"] for group in optimizer.param_groups]
    guess = blind(samples, model.tokenizer)
    stream = endless(samples, seed)
    model.module.train()
    records, began = [], time.monotonic()
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
        for parameter, master in masters.items():
            master.grad = None if parameter.grad is None else parameter.grad.float()
            parameter.grad = None
        norm = torch.nn.utils.clip_grad_norm_(masters.values(), config.optimizer.clip)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(list(masters), list(masters.values()))
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
            print(json.dumps(record | {"clock": round(time.monotonic() - began, 1)}), flush=True)
        records.append(record)
    return records


def with_small_positions(state: dict[str, Any]) -> dict[str, Any]:
    """Weights whose encoder has its positions as small as transformers draws them (standard deviation 0.02)."""
    return {
        name: tensor * (0.02 / tensor.std()) if name.endswith("position_embedding.weight") else tensor
        for name, tensor in state.items()
    }


# --- The whole


def shares(answers: Answers) -> dict[str, dict[str, float]]:
    """Share right with its 95 % interval, by question."""
    found = {}
    for question, (right, count) in answers.by_question().items():
        share, low, high = wilson(right, count)
        found[question] = {"right": round(share, 3), "low": round(low, 3), "high": round(high, 3), "asked": count}
    return found


@dataclasses.dataclass(frozen=True)
class Job:
    """One plan from one seed, for a process of its own."""

    plan: str
    seed: int
    folder: Path
    """Where a model is started and curves go."""
    size: str
    recipe: Recipe
    pictures: Path
    """Pickle of the drawings of training and of those held out."""
    until: float
    """Time after which it is not begun."""


def run_job(job: Job) -> dict[str, Any] | None:
    """Train a plan's stages one after the other and ask; None where there is no time left."""
    import torch

    from train.log import curves
    from train.probe import Probe

    if time.time() > job.until:
        return None
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    began, recipe = time.monotonic(), job.recipe
    device = best_device()
    pictures, unseen = pickle.loads(job.pictures.read_bytes())
    data = stage_data(pictures, recipe)
    probe, watch = Probe(questions(unseen), "drawings"), Probe(questions(unseen), "drawings", 96)
    start = start_model(job.folder, job.size, job.seed, "of no text" not in job.plan)
    model, collate = open_model(start, stage_config("midtrain", recipe), device)
    stages = PLANS[job.plan]
    lengths = [recipe.steps[stage] for stage in stages]
    if len(stages) == 1:
        lengths = [sum(recipe.steps.values())]
    if job.plan.endswith("positions of 0.02"):
        model.module.load_state_dict(with_small_positions(model.module.state_dict()))
    records: list[dict[str, Any]] = []
    ask = partial(probe.ask, model, model.module, collate, stage_config("instruct", recipe), documents=recipe.documents)
    run: dict[str, Any] = {"plan": job.plan, "seed": job.seed, "held_out": {}}
    if recipe.reading and "of no text" not in job.plan:
        numbers = random.Random(job.seed)
        texts = [told(numbers) for _ in range(recipe.batch * recipe.reading)]
        read = stage_config("midtrain", recipe, "train.vision=freeze", "train.projector=freeze")
        run["read_loss"] = round(fit(model, collate, texts, read, recipe.reading, recipe, job.seed)[-1]["loss"], 4)
    for stage, steps in zip(stages, lengths, strict=True):
        new = fit(model, collate, data[stage], stage_config(stage, recipe), steps, recipe, job.seed, watch)
        records += [record | {"step": record["step"] + len(records)} for record in new]
        run["held_out"][f"after {stage}"] = shares(ask())
        last = float(np.mean([record["loss"] for record in records[-10:]]))
        run |= {
            "steps": len(records),
            "last_loss": round(last, 4),
            "blind_loss": records[-1].get("blind"),
            "probed": [(record["step"], record["probe"]["right"]) for record in records if "probe" in record],
            "seconds": round(time.monotonic() - began, 1),
        }
        (job.folder / "curves.svg").write_text(curves(records))
        (job.folder / "run.json").write_text(json.dumps(run) + "\n")  # what is known if the next stage is cut off
    if job.plan == "all three stages":
        run |= {"shuffled": shares(ask(pictures="shuffled")), "black": shares(ask(pictures="black"))}
        (job.folder / "run.json").write_text(json.dumps(run) + "\n")
    return run


def best_device() -> torch.device:
    """The first GPU, or the CPU."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def learn(
    out: Path, size: str, seeds: range, seconds: float, recipe: Recipe, plans: Sequence[str], workers: int = 1
) -> dict[str, Any]:
    """All plans for all seeds while there is time, `workers` at once; what is found is written after each.

    Held-out drawings are of the seed behind the first.
    """
    until = time.time() + seconds
    out.mkdir(parents=True, exist_ok=True)
    cores = os.cpu_count() or 1
    pictures, unseen = draw_all(recipe.pictures, 0, SEEN, cores), draw_all(HELD_OUT, seeds[0] + 1, UNSEEN, cores)
    drawn = out / "drawings.pickle"
    drawn.write_bytes(pickle.dumps((pictures, unseen)))
    jobs = [
        Job(plan, seed, out / f"{size}-{plan.replace(' ', '-').replace(',', '')}-{seed}", size, recipe, drawn, until)
        for plan in plans
        for seed in seeds
    ]
    result: dict[str, Any] = {"size": size, "recipe": dataclasses.asdict(recipe), "runs": [], "not_run": []}
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = [pool.submit(run_job, job) for job in jobs]
        model, _ = open_model(start_model(out / "untrained", size, 0), stage_config("midtrain", recipe), best_device())
        held, some = questions(unseen), questions(pictures[:PROBED])
        result |= {
            "parameters": sum(parameter.numel() for parameter in model.module.parameters()),
            "grey_threshold": grey_threshold(some, held),
            "linear_probe_untrained": linear_probe(model, some, held),
        }
        for job, future in zip(jobs, waiting, strict=True):
            run = future.result()
            if run is None:
                result["not_run"].append(f"{job.plan}, seed {job.seed}")
                continue
            result["runs"].append(run)
            print(json.dumps(run), flush=True)
            (out / f"learning-{size}.json").write_text(json.dumps(result, indent=1, default=str) + "\n")
    drawn.unlink()
    return result


def stage_data(pictures: Sequence[bytes], recipe: Recipe) -> dict[str, list[StoredSample]]:
    """What each stage learns from: captions, dialogues about all of a picture, single questions about the first."""
    return {
        "pretrain": [caption(*one) for one in enumerate(pictures)],
        "midtrain": [dialogue(*one) for one in enumerate(pictures)],
        "instruct": questions(pictures[: recipe.questions]),
    }


def main() -> int:
    """Run the command; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("out", type=Path, metavar="FOLDER")
    parser.add_argument("--size", choices=sorted(RECIPES), default="tiny")
    parser.add_argument("--plans", nargs="+", choices=PLANS, default=list(PLANS), metavar="PLAN")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, metavar="N", help="others than those tuned on: blind")
    parser.add_argument("--seconds", type=float, default=200.0, help="no run is begun after that")
    parser.add_argument("--workers", type=int, default=8, help="runs at the same time")
    parser.add_argument("--steps", type=int, nargs=3, metavar="N", help="of the stages, instead of the recipe's")
    parser.add_argument("--pictures", type=int, nargs=2, metavar="N", help="with captions, with questions")
    parser.add_argument("--rates", type=float, nargs=3, metavar="R", help="of encoder, projector, language model")
    options = parser.parse_args()
    recipe = RECIPES[options.size]
    if options.steps:
        recipe = dataclasses.replace(recipe, steps=dict(zip(STAGES, options.steps, strict=True)))
    if options.pictures:
        recipe = dataclasses.replace(recipe, pictures=options.pictures[0], questions=options.pictures[1])
    if options.rates:
        recipe = dataclasses.replace(recipe, rates=tuple(options.rates))
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    result = learn(options.out, options.size, seeds, options.seconds, recipe, options.plans, options.workers)
    print(json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
