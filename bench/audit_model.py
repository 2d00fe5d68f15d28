"""`eval.audit_model` on models whose training is known: how often clean ones are flagged, and trained ones found.

Made exam items, tiny Llama models with random weights that are trained here, on the CPU; all read other items first.
Clean: items that no model saw, new ones for each trial. Structured: the same, sorted by subject, so that neighbours are
alike. Power: models that have read the audited items, in order and alone, so many times as their last training.

    python -m bench.audit_model --clean 200 --structured 40 --trained 5
"""

from __future__ import annotations

import argparse
import copy
import random
import resource
import tempfile
from pathlib import Path
from typing import Any

from tqdm import tqdm

from eval.audit_model import LEVEL, Item, Scorer, completion_test, make_plan, order_test, orders
from eval.cards import Card
from medgpt.intervals import wilson

ITEMS, SHARDS, PERMUTATIONS, CONTEXT = 120, 12, 8, 256
CLEAN_ITEMS = 48
"""Of a clean trial: how often it fires does not hang on the size, only the time does."""
READINGS = (1, 3, 10, 30)
BASES, SMALL = 2, 4
"""Models that read 1,000 other items, three times and more: those that are trained further, and smaller ones that are
only asked (what a clean model knows does not change how often a test is wrong, so their size is not needed)."""
_PARTS = (
    "ba be bo da de do fa fe fo ga ge go ka ke ko la le lo ma me mo na ne no pa pe po ra re ro sa se so ta te to va ve "
    "vo za ze zo"
).split()
_ASKED = (
    "Which drug is given for {} of the {}?", "What is the first sign of {} in a patient with {}?",
    "A child with {} and {} comes to the ward. What is next?", "Which nerve is hurt in {} after {}?",
    "What does a film of {} with {} show?",
)  # fmt: skip


def made_items(number: int, seed: int, *, subjects: int = 0, shared: bool = False) -> list[Item]:
    """Exam items of invented words, new ones for each seed.

    `subjects`: so many, one after the other; items of a subject share a word. `shared`: the options are out of twelve
    words that all seeds share, so that a clean model completes some of them.
    """
    drawn = random.Random(seed)

    def word(source: random.Random = drawn) -> str:
        return "".join(source.choice(_PARTS) for _ in range(3))

    source = random.Random("options")
    known = [word(source) for _ in range(12)]
    about = [word() for _ in range(subjects)]
    items = []
    for place in range(number):
        first = about[place * subjects // number] if subjects else word()
        question = drawn.choice(_ASKED).format(first, word())
        options = tuple(zip("ABCD", drawn.sample(known, 4) if shared else [word() for _ in "ABCD"], strict=True))
        items.append(Item(f"made/{seed}/{place}", question, options, drawn.choice("ABCD"), f"{place}"))
    return items


class Tiny:
    """A tiny model and its tokenizer, trained in this process and written as a folder."""

    def __init__(self, seed: int, width: int = 128, layers: int = 2) -> None:
        """Random weights of `seed`."""
        import torch
        import transformers
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        plain = Tokenizer(models.BPE())
        plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        plain.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=400, show_progress=False, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())
        )
        plain.train_from_iterator([item.text for item in made_items(300, 999)], trainer)
        self.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=plain, eos_token="<|end|>")
        torch.manual_seed(seed)
        config = transformers.LlamaConfig(
            vocab_size=len(self.tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=4, max_position_embeddings=512, eos_token_id=self.tokenizer.eos_token_id,
        )  # fmt: skip
        self.model = transformers.LlamaForCausalLM(config)

    def read(self, items: list[Item], times: int) -> None:
        """Train on the items in this order, `times` times, in windows of CONTEXT tokens from a random start."""
        import torch

        tokens = [token for item in items for token in self.tokenizer.encode(item.text, add_special_tokens=False)]
        drawn = random.Random(0)
        self.model.train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=2e-3, weight_decay=0.0)
        for _ in range(times):
            first = drawn.randrange(CONTEXT // 2)
            windows = [tokens[start : start + CONTEXT] for start in range(first, len(tokens) - CONTEXT, CONTEXT)]
            for start in range(0, len(windows), 4):
                ids = torch.tensor(windows[start : start + 4])
                self.model(input_ids=ids, labels=ids).loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                optimizer.step()
                optimizer.zero_grad()

    def save(self, folder: Path) -> Scorer:
        """The trained model, as the audit loads it."""
        self.model.eval().save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
        return Scorer(folder, Card("tiny", model_class="AutoModelForCausalLM"), CONTEXT, device="cpu")


def trial(scorer: Scorer, items: list[Item], seed: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(order test, completion test) of items whose present order is called the published one."""
    plan = make_plan("made", "", items, SHARDS)
    likelihoods = [
        {name: scorer.likelihood(texts)[0] for name, texts in orders(blocks, PERMUTATIONS, f"{seed}/{number}")}
        for number, blocks in enumerate(plan.shards)
    ]
    sides = [
        (scorer.reproduced(*item.completion(moved=False)), scorer.reproduced(*item.completion(moved=True)))
        for item in plan.asked
    ]
    return order_test(likelihoods), completion_test(sides)


def _share(hits: int, total: int) -> str:
    share, low, high = wilson(hits, total)
    return f"{hits} of {total} = {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def measure(clean: int, structured: int, trained: int) -> dict[str, str]:
    """Shares of trials with p < .05, with Wilson's 95 % interval, for each kind of model."""
    found: dict[str, str] = {}

    def tell(kind: str, trials: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        if not trials:
            return
        hits = {
            "order": sum(order["p"] < LEVEL for order, _ in trials),
            "order and its control": sum(max(order["p"], order["p_control"]) < LEVEL for order, _ in trials),
            "completion": sum(completion["p"] < LEVEL for _, completion in trials),
        }
        for name, count in hits.items():
            found[f"{kind}: {name}"] = _share(count, len(trials))
            print(f"{kind}: {name}: {found[f'{kind}: {name}']}", flush=True)
        alone = [sum(one[side] for _, one in trials) for side in ("only_published", "only_moved")]
        print(f"{kind}: options completed in one arm alone: {alone[0]} published, {alone[1]} moved on", flush=True)

    with tempfile.TemporaryDirectory() as scratch:

        def read_others(seed: int, *size: int) -> Tiny:
            tiny = Tiny(seed, *size)
            tiny.read(made_items(1_000, 10_000 + seed, shared=True), seed + 3)
            return tiny

        small = [read_others(seed, 32, 1).save(Path(scratch) / f"small-{seed}") for seed in range(SMALL)]
        for kind, number, subjects in (("clean", clean, 0), ("clean, structured", structured, 12)):
            trials = []
            for one in tqdm(range(number), desc=kind):
                items = made_items(CLEAN_ITEMS, 20_000 + one, subjects=subjects, shared=True)
                trials.append(trial(small[one % SMALL], items, f"{one}"))
            tell(kind, trials)
        bases = [read_others(seed) for seed in range(BASES if trained else 0)]
        for times in READINGS:
            trials = []
            for one in tqdm(range(trained), desc=f"read {times} times"):
                tiny, items = copy.deepcopy(bases[one % BASES]), made_items(ITEMS, 30_000 + one)
                tiny.read(items, times)
                trials.append(trial(tiny.save(Path(scratch) / f"{times}-{one}"), items, f"{one}"))
            tell(f"read {times} times", trials)
    return found


def main() -> int:
    """Command line; exit code 0."""
    parser = argparse.ArgumentParser("python -m bench.audit_model", description=__doc__)
    parser.add_argument(
        "--clean", type=int, default=200, metavar="N", help="trials of clean models (default 200; 0: none)"
    )
    parser.add_argument("--structured", type=int, default=40, metavar="N", help="those with sorted items (default 40)")
    parser.add_argument("--trained", type=int, default=5, metavar="N", help="models for each count (default 5)")
    options = parser.parse_args()
    measure(options.clean, options.structured, options.trained)
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(f"{used.ru_utime + used.ru_stime:.0f} CPU seconds")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
