"""Was a benchmark in the training data of a model that nobody documents? Two tests of its memory, with controls.

**Order** (Oren et al. 2024, arXiv 2310.17623). Items of a set that is exchangeable are as likely in any order; a model
that was trained on the published file finds the published order likelier. The items, in the order of the build, are
cut into shards; of each shard the log-likelihood in the published order is held against the mean over random
permutations, and a one-sided t-test over shards gives p (their public code divides the variance by n; here by n - 1,
as Student does). Long shards are read in windows that move by half a window, as there. Beside it stands the exact
permutation test over the whole set, whose smallest value is 1 / (permutations + 1). The first rests on shards that are
long, since sums over many tokens are nearly normal; the second on nothing but chance order. With 12 short shards p
alone was below .05 in 29 of 400 clean trials (7.2 %), with the control below in 14 (`bench/RESULTS.md`).

**Completion** (after Deng et al. 2024, arXiv 2311.09783, who mask one option). Given the question and all options but
the last, does greedy decoding write the last one word for word? The control is the same item with the options before
it moved on by one place. Exact McNemar test, one-sided. Greedy decoding writes an option exactly if each of its tokens
is the likeliest after those before it, so one pass says it and nothing is generated.

Controls, since published order is often no chance order (items of one picture, of one subject, options by size):

- items of one cluster that stand together are moved together;
- the reversed order keeps neighbours and topics together, too: only what also beats it (t-test over shards) counts;
- options that stand in the order of their numbers or of the alphabet are left out of completion, and counted;
- `--controls`: benchmarks that the model cannot have seen; where a test fires on one, it says nothing about the others.

Holm's correction is over all tests of all audited benchmarks. What is not claimed stands in `LIMITS`.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
from msgspec.structs import replace

from eval.adapters.base import ANSWERED, Answer
from eval.adapters.log_likelihood import LogLikelihood
from eval.answers import AnswerLog
from eval.cards import Card, load_card
from eval.statistics import holm, mcnemar, t_test
from eval.tasks import SHORT, Benchmark, load_task_file, open_benchmarks, select_tasks
from medgpt.arguments import command_parser
from medgpt.atomic import write_atomic
from medgpt.digest import json_sha256
from medgpt.errors import DONE, NOT_COMPARED, NOT_FINISHED, UserError, run, worst
from medgpt.libraries import LIBRARIES, libraries_apart
from medgpt.messages import complain
from medgpt.private import make_folder
from medgpt.tables import markdown

if TYPE_CHECKING:
    import torch

Figures = dict[str, tuple[float, int]]
VERSION = 1
"""Of what is put to the model and of the tests: figures of one version compare."""
MIN_SHARDS, MIN_BLOCKS = 10, 3
"""Fewer shards give a t-test nothing to rest on; a shard of fewer blocks has hardly another order."""
LEVEL = 0.05
LIMITS = (
    "A test that is not significant proves nothing: items seen once or few times, in another order or another form, "
    "or forgotten by later training leave no trace that these tests find.",
    "A flagged benchmark says that the model prefers the published order or wording, not how its score came about. "
    "Ask a model that is older than the benchmark, too: what fires there as well is structure, not memory.",
    "Only text is put to the model; pictures, and what it may remember of them, are not tested.",
    "arXiv 2606.10066 audits medical vision-language models: of its text detectors the order test held under control "
    "(on SLAKE, for one model), while scores relative to a cohort of models (Min-K%++ tails, top-K overlap) fired on "
    "a model without medical training. Such scores are therefore not computed here.",
)
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_EXAMPLE = """
example:
  python -m eval.audit_model --model models/foreign --data data --benchmarks medqa slake --out runs/audit-foreign
      # then the same with a model older than the benchmarks, and another --out
"""


@dataclass(frozen=True)
class Item:
    """One question of a benchmark, without pictures and context."""

    sample_id: str
    question: str
    options: tuple[tuple[str, str], ...]
    """(label, text) in the published order; empty for an open question."""
    gold: str
    cluster: str

    @property
    def text(self) -> str:
        """Question, options and answer, as they stand in a file of questions."""
        listed = "".join(f"\n{label}. {text}" for label, text in self.options)
        return f"{self.question}{listed}\nAnswer: {self.gold}\n\n"

    def completion(self, *, moved: bool) -> tuple[str, str]:
        """(prompt, last option): the options before it as published, or `moved` on by one place."""
        *before, last = (text for _, text in self.options)
        if moved:
            before = [*before[1:], before[0]]
        labels = [label for label, _ in self.options]
        listed = "".join(f"\n{label}. {text}" for label, text in zip(labels, before, strict=False))
        return f"{self.question}{listed}\n{labels[-1]}.", f" {last}"


class Scorer(LogLikelihood):
    """Log-likelihoods and greedy completions of a local model."""

    def __init__(self, checkpoint: Path, card: Card, context: int, **options: Any) -> None:
        """`context`: tokens of a window, at most; `options` are those of `HFLocal`. Raises: `UserError`."""
        super().__init__(checkpoint, card, "texts", **options)
        self._context = context

    def identity(self) -> dict[str, Any]:
        """What shapes the figures, as JSON."""
        return {**super().identity(), "adapter": "audit_model", "version": VERSION, "context": self._context}

    def likelihood(self, texts: Sequence[str]) -> tuple[float, int]:
        """(log-likelihood, tokens) of texts one after the other; each is encoded alone, so any order has equal tokens.

        The first token is not scored. Raises: `UserError`.
        """
        tokenizer = self._loaded.tokenizer
        tokens = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        for text in texts:
            tokens += tokenizer.encode(text, add_special_tokens=False)
        total, scored, window = 0.0, 0, self._window()
        for first in itertools.count(0, max(1, window // 2)):
            end = min(first + window, len(tokens) - 1)
            logits = self._logits(tokens[first:end])[scored - first :]
            told = self._tensor(tokens[scored + 1 : end + 1])
            total += float((logits.gather(-1, told[:, None])[:, 0] - logits.logsumexp(-1)).double().sum())
            scored = end
            if end == len(tokens) - 1:
                break
        return total, len(tokens)

    def reproduced(self, prompt: str, continuation: str) -> tuple[float, int]:
        """(leading tokens of the continuation that greedy decoding writes, its tokens). Raises: `UserError`."""
        given, whole = self._encode(prompt), self._encode(prompt + continuation)
        told = whole[len(given) :]
        likeliest = self._logits(whole[:-1][-self._window() :])[-len(told) :].argmax(-1).tolist()
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(likeliest, told, strict=True))
        return sum(1 for _ in same), len(told)

    def _window(self) -> int:
        config = self._loaded.model.config.get_text_config()
        return min(self._context, getattr(config, "max_position_embeddings", self._context))

    def _tensor(self, tokens: Sequence[int]) -> torch.Tensor:
        import torch

        return torch.tensor(tokens, device=self._loaded.device)

    def _logits(self, tokens: Sequence[int]) -> torch.Tensor:
        import torch

        with torch.inference_mode():
            logits: torch.Tensor = self._loaded.model(input_ids=self._tensor(tokens)[None]).logits[0].float()
        return logits


def read_items(benchmark: Benchmark, limit: int | None = None) -> list[Item]:
    """The first `limit` items of a benchmark, in the order of the build, which is the publisher's.

    All questions of its splits, also those that the task leaves out (open ones): the order is that of the whole file.
    """
    whole = replace(benchmark.task, subset="", context=False, prompt="", system="")
    items = []
    for question in itertools.islice(Benchmark(whole, benchmark.folder), limit):
        listed = "".join(f"\n{label}. {text}" for label, text in question.options)
        asked = "".join(part["text"] for part in question.messages[-1]["content"])
        asked = asked.removesuffix(SHORT).rstrip("\n") if not listed else asked.removesuffix(f"\n{listed}")
        items.append(Item(question.sample_id, asked, question.options, question.gold, question.cluster))
    return items


def cut_shards(items: Sequence[Item], shards: int) -> list[list[list[Item]]]:
    """Shards of blocks of items: at most `shards`, none where there would be fewer than `MIN_SHARDS`.

    A block is what stands together and is of one cluster. Shards are as even as can be, the first ones larger.
    """
    blocks = [list(group) for _, group in itertools.groupby(items, key=lambda item: item.cluster)]
    number = min(shards, len(blocks) // MIN_BLOCKS)
    if number < MIN_SHARDS:
        return []
    size, more = divmod(len(blocks), number)
    ends = [0, *itertools.accumulate(size + (place < more) for place in range(number))]
    return [blocks[first:end] for first, end in itertools.pairwise(ends)]


def orders(blocks: Sequence[list[Item]], permutations: int, seed: str) -> Iterator[tuple[str, list[str]]]:
    """(name, texts) of a shard as published, reversed and in random orders; the n-th is the same for any number."""
    import numpy as np

    places = list(range(len(blocks)))
    named = [("published", places), ("reversed", places[::-1])]
    for number in range(permutations):
        drawn = hashlib.sha256(f"{seed}/{number}".encode()).digest()[:4]
        state = np.random.RandomState(int.from_bytes(drawn, "little"))
        named.append((f"permutation {number}", state.permutation(len(blocks)).tolist()))
    for name, order in named:
        yield name, [item.text for place in order for item in blocks[place]]


def askable(item: Item) -> str:
    """Why an item is left out of completion; empty where it is asked."""
    texts = [text.casefold().strip() for _, text in item.options]
    if len(texts) < 3:
        return "fewer than three options"
    if len(set(texts)) < len(texts):
        return "two equal options"
    numbers = [_NUMBER.search(text) for text in texts]
    keys: list[Any] = [float(found[0]) for found in numbers if found] if all(numbers) else texts
    return "options in order" if keys in (sorted(keys), sorted(keys, reverse=True)) else ""


def order_test(likelihoods: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The order test of shards; each maps the name of an order (`orders`) to its log-likelihood.

    `p`: t-test of published against the mean permutation; `p_exact`: rank of the whole set's published order;
    `p_reversed`: t-test of reversed against the mean permutation (structure alone); `p_control`: t-test of published
    against reversed.
    """
    import numpy as np

    values = np.array([list(shard.values()) for shard in likelihoods])
    published, backwards, drawn = values[:, 0], values[:, 1], values[:, 2:]
    gain, structure = published - drawn.mean(axis=1), backwards - drawn.mean(axis=1)
    at_least = int((drawn.sum(axis=0) >= published.sum()).sum())
    return {
        "shards": len(values),
        "permutations": drawn.shape[1],
        "nats_a_shard": _round(gain.mean()),
        "shards_above": int((gain > 0).sum()),
        "p": _round(t_test(gain.tolist())),
        "p_exact": _round((1 + at_least) / (1 + drawn.shape[1])),
        "p_reversed": _round(t_test(structure.tolist())),
        "p_control": _round(t_test((published - backwards).tolist())),
    }


def completion_test(found: Sequence[tuple[tuple[float, int], tuple[float, int]]]) -> dict[str, Any]:
    """The completion test of items, each with (leading tokens right, tokens) as published and with options moved on."""
    pairs = [(first[0] == first[1], second[0] == second[1]) for first, second in found]
    only = [sum(one for one, other in pairs if not other), sum(other for one, other in pairs if not one)]
    shares = [sum(right / tokens for right, tokens in side) / len(found) for side in zip(*found, strict=True)]
    return {
        "items": len(found),
        "verbatim": sum(one for one, _ in pairs),
        "verbatim_moved": sum(other for _, other in pairs),
        "share": _round(shares[0]),
        "share_moved": _round(shares[1]),
        "only_published": only[0],
        "only_moved": only[1],
        "p": _round(mcnemar(*only) / 2 if only[0] > only[1] else 1.0),
    }


def _round(value: float) -> float:
    return float(f"{float(value):.6g}")


@dataclass(frozen=True)
class Plan:
    """What of one benchmark is put to a model."""

    label: str
    root: str
    """Digest of the build."""
    control: bool
    items: list[Item]
    shards: list[list[list[Item]]]
    asked: list[Item]
    """Items of the completion test."""
    left_out: dict[str, int]
    """Items that are not asked, by reason."""

    def lacking(self) -> list[str]:
        """What cannot be tested."""
        said = [] if self.shards else [f"order: fewer than {MIN_SHARDS * MIN_BLOCKS} blocks of items"]
        return [f"{self.label}: {one}" for one in [*said, *([] if self.asked else ["completion: no item to ask"])]]


def make_plan(label: str, root: str, items: Sequence[Item], shards: int, control: bool = False) -> Plan:
    """Cut a benchmark's items into what the two tests need."""
    reasons = Counter(filter(None, map(askable, items)))
    asked = [item for item in items if not askable(item)]
    return Plan(label, root, control, list(items), cut_shards(items, shards), asked, dict(sorted(reasons.items())))


def audit(plan: Plan, scorer: Scorer, folder: Path, *, permutations: int, seed: int, progress: bool) -> dict[str, Any]:
    """Both tests of one benchmark. Every figure is appended to a file of `folder` as it comes; those there are used.

    Raises: `UserError` for figures of another model, seed or benchmark; `AnswerError`.
    """
    from tqdm import tqdm

    make_folder(folder)
    model = json_sha256(scorer.identity())
    total = len(plan.shards) * (permutations + 2) + len(plan.asked)
    with (
        AnswerLog(folder / "order.jsonl") as order,
        AnswerLog(folder / "completion.jsonl") as completion,
        tqdm(
            total=total, desc=plan.label, unit=" texts", disable=None if progress else True, dynamic_ncols=True
        ) as bar,
    ):

        def figures(log: AnswerLog, name: str, texts: Sequence[Any], make: Callable[[], Figures]) -> Figures:
            digest = json_sha256([model, texts])
            known, answer = log.get(name) or (digest, None)
            if known != digest:
                raise UserError(f"{log.path}: {name} is of another model, seed or benchmark; choose another --out")
            if answer is None:
                answer = Answer(ANSWERED, None, likelihoods=make())
                log.add(name, digest, answer)
            bar.update()
            return answer.likelihoods or {}

        likelihoods = []
        for number, blocks in enumerate(plan.shards):
            shard = {}
            for name, texts in orders(blocks, permutations, f"{seed}/{plan.label}/{number}"):
                make = partial(lambda texts: {"text": scorer.likelihood(texts)}, texts)
                shard[name] = figures(order, f"shard {number}, {name}", texts, make)["text"][0]
            likelihoods.append(shard)
        found = []
        for item in plan.asked:
            sides = {"published": item.completion(moved=False), "moved": item.completion(moved=True)}
            make = partial(lambda sides: {name: scorer.reproduced(*said) for name, said in sides.items()}, sides)
            both = figures(completion, item.sample_id, list(sides.values()), make)
            found.append((both["published"], both["moved"]))
    return {
        "benchmark": plan.label,
        "build_root": plan.root,
        "control": plan.control,
        "items": len(plan.items),
        "blocks": sum(map(len, plan.shards)),
        "left_out_of_completion": plan.left_out,
        "order": order_test(likelihoods) if likelihoods else None,
        "completion": completion_test(found) if found else None,
    }


def judge(results: Sequence[Mapping[str, Any]]) -> None:
    """Add `p_holm` and `verdict` to the tests of audited benchmarks, in place.

    Verdicts: `flagged`, `not flagged`, `a control fires` (below .05 corrected, but a control test or the reversed
    order says that this is no evidence).
    """
    tests = {
        (one["benchmark"], kind): one[kind]
        for one in results
        for kind in ("order", "completion")
        if one[kind] and not one["control"]
    }
    controls = [(kind, one[kind]) for one in results if one["control"] for kind in ("order", "completion")]
    firing = {kind for kind, test in controls if test and test["p"] < LEVEL}
    corrected = holm({f"{kind}/{label}": test["p"] for (label, kind), test in tests.items()})
    for (label, kind), test in tests.items():
        test["p_holm"] = _round(corrected[f"{kind}/{label}"])
        low = test["p_holm"] < LEVEL
        spoilt = kind in firing or test.get("p_control", 0.0) >= LEVEL
        test["verdict"] = ("a control fires" if spoilt else "flagged") if low else "not flagged"


def table(results: Sequence[Mapping[str, Any]]) -> str:
    """The results for people, as a Markdown table."""
    rows = []
    for one in results:
        for kind in ("order", "completion"):
            test = one[kind]
            if test is None:
                rows.append((one["benchmark"], kind, "not tested", "", "", ""))
                continue
            if kind == "order":
                seen = (
                    f"published order above the mean of {test['permutations']:,} permutations in "
                    f"{test['shards_above']} of {test['shards']} shards; exact p {test['p_exact']:.3g}, reversed order "
                    f"p {test['p_reversed']:.3g}, published against reversed p {test['p_control']:.3g}"
                )
            else:
                seen = (
                    f"{test['verbatim']:,} of {test['items']:,} options word for word, {test['verbatim_moved']:,} with "
                    f"the options moved on ({test['only_published']:,} : {test['only_moved']:,} alone)"
                )
            held = "control" if one["control"] else test["verdict"]
            corrected = "" if one["control"] else f"{test['p_holm']:.3g}"
            rows.append((one["benchmark"], kind, seen, f"{test['p']:.3g}", corrected, held))
    return markdown(("benchmark", "test", "what was seen", "p", "Holm p", "verdict"), rows)


@run
def main(arguments: Sequence[str] | None = None) -> int:
    """Command line. Returns the exit code: 0 nothing flagged, 1 flagged or stopped, 2 wrong usage, 4 not all tested."""
    parser = command_parser(
        "eval.audit_model", "Test whether a model remembers benchmarks; its training data need not be known.", _EXAMPLE
    )
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="local folder of the weights")
    parser.add_argument("--card", metavar="CARD", help="its model card (default: any causal language model)")
    parser.add_argument("--data", type=Path, required=True, metavar="DATA", help="folder of builds")
    parser.add_argument("--benchmarks", nargs="+", required=True, metavar="TASK", help="medqa, slake, table5, ...")
    parser.add_argument("--controls", nargs="+", default=[], metavar="TASK", help="benchmarks it cannot have seen")
    parser.add_argument("--task-file", type=Path, metavar="YAML", help="tasks of your own")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="figures and results; one model and seed a folder")
    parser.add_argument("--permutations", type=int, default=25, metavar="N", help="random orders (default 25)")
    parser.add_argument("--shards", type=int, default=50, metavar="N", help="of a benchmark, at most (default 50)")
    parser.add_argument("--context", type=int, default=2048, metavar="N", help="tokens of a window (default 2048)")
    parser.add_argument("--limit", type=int, metavar="N", help="the first N items of each benchmark")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of the permutations (default 0)")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cuda, cpu or auto (default)")
    parser.add_argument("--trust-remote-code", action="store_true", help="run the Python files of a foreign checkpoint")
    parser.add_argument("--dry-run", action="store_true", help="say what would be put to the model, load nothing")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(arguments)
    if not options.dry_run and not (options.model and options.out):
        parser.error("--model and --out are needed")
    for name, least in (("permutations", 1), ("shards", MIN_SHARDS), ("context", 16), ("limit", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be {least} or more")
    with libraries_apart() as libraries:
        if options.out and not options.dry_run:
            libraries.keep_in(options.out / LIBRARIES)
        return _carry_out(options)


def _carry_out(options: argparse.Namespace) -> int:
    own = load_task_file(options.task_file) if options.task_file else []
    audited, controls = (select_tasks(names, own) for names in (options.benchmarks, options.controls))
    if both := [task.label for task in audited if task in controls]:
        raise UserError(f"{', '.join(both)}: audited and a control at once; name it once")
    lacking = [f"{task.label}: reports are no questions" for task in (*audited, *controls) if task.kind == "report"]
    plans = []
    for benchmark in open_benchmarks(options.data, [task for task in (*audited, *controls) if task.kind != "report"]):
        items, control = read_items(benchmark, options.limit), benchmark.task in controls
        plans.append(make_plan(benchmark.task.label, benchmark.root, items, options.shards, control=control))
    lacking += [line for plan in plans for line in plan.lacking()]
    if options.dry_run:
        for plan in plans:
            print(
                f"{plan.label}{' (control)' if plan.control else ''}: {len(plan.items):,} items in {len(plan.shards)} "
                f"shards, each read {options.permutations + 2} times ({sum(len(item.text) for item in plan.items):,} "
                f"characters together); {len(plan.asked):,} options to complete, twice each"
            )
        return _close(lacking, flagged=False)
    card = load_card(options.card) if options.card else Card("any", model_class="AutoModelForCausalLM")
    scorer = Scorer(
        options.model, card, options.context, device=options.device, trust_remote_code=options.trust_remote_code
    )
    shown = not (options.quiet or options.json)
    results = [
        audit(
            plan,
            scorer,
            options.out / plan.label.replace(":", "."),
            permutations=options.permutations,
            seed=options.seed,
            progress=shown,
        )
        for plan in plans
    ]
    judge(results)
    document = {
        "model": scorer.identity(),
        "seed": options.seed,
        "limit": options.limit,
        "benchmarks": results,
        "not_tested": lacking,
        "not_claimed": LIMITS,
    }
    data = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
    lines = [table(results), "", *(f"- {line}" for line in LIMITS)]
    write_atomic(options.out / "audit.json", data)
    write_atomic(options.out / "audit.md", "\n".join(["# Does this model remember?", "", *lines, ""]).encode())
    print(data.decode() if options.json else "\n".join(lines))
    tests = [one[kind] for one in results for kind in ("order", "completion") if one[kind]]
    return _close(lacking, flagged=any(test.get("verdict") == "flagged" for test in tests))


def _close(lacking: Sequence[str], *, flagged: bool) -> int:
    for line in lacking:
        complain(f"not tested: {line}")
    return worst([NOT_FINISHED if flagged else DONE, NOT_COMPARED if lacking else DONE])


if __name__ == "__main__":
    raise SystemExit(main())
